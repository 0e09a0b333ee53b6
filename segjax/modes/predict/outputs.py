"""The output folder of a prediction: its pictures, its list of finished images, its record."""

import hashlib
import json
import pathlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np

from segjax import config as config_lib
from segjax.core import files
from segjax.data.image_files import ImageSource
from segjax.errors import InputError
from segjax.modes.predict.assembly import Assembly
from segjax.spec import ClassSpec
from segjax.train import log_files, stored

OUTPUTS = ('ids', 'color', 'overlay', 'confidence')
RECORD = 'predict.json'
FINISHED = 'predict.jsonl'


# --- checks ---------------------------------------------------------------------------------------


def check_folders(input_folder: pathlib.Path, output_folder: pathlib.Path) -> None:
    """Raises InputError if outputs would become inputs.

    The output folder must not be inside the input folder, because a next run would predict its
    pictures. None of the folders with results may contain the input folder.
    """
    input_path = input_folder.resolve()
    output_path = output_folder.resolve()
    results = [output_path / name for name in OUTPUTS]
    surrounded = any(input_path.is_relative_to(folder) for folder in results)
    if output_path.is_relative_to(input_path) or surrounded:
        raise InputError(
            '--output',
            got=f'{output_folder} for --input {input_folder}',
            expected='folders that do not contain each other: outputs would become inputs',
            fix=f'--output {input_path.parent / (input_path.name + "_predicted")}',
        )


def check_classes(classes: ClassSpec) -> None:
    """Raises InputError unless the classes fit into an 8-bit PNG."""
    if classes.num_classes > 256 or not all(0 <= i <= 255 for i in classes.ids):
        raise InputError(
            'classes',
            got=f'{classes.num_classes} with ids {min(classes.ids)} .. {max(classes.ids)}',
            expected='at most 256 classes with ids 0 .. 255 (8-bit PNG)',
        )


def check_record(folder: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Raises InputError if the folder holds predictions made with another net or setting.

    A run folder may have moved, so its path is not compared. The net is known by the digest of its
    arrays and by its config.

    Args:
      folder: for the outputs.
      record: describes how the predictions of this run are made.
    """
    path = folder / RECORD
    if not path.is_file():
        return
    before = stored.read_object(path, fix=f'another folder, as --output {folder}_2')
    now = log_files.to_json(record)

    # Configs are compared key by key: some keys may differ.
    compared = sorted({*before, *now} - {'run', 'config'})
    changed = {
        key: (before.get(key), now.get(key)) for key in compared if before.get(key) != now.get(key)
    }
    if 'config' in before and 'config' in now:
        free = (*config_lib.FREE_IN['predict'], *config_lib.UNRECORDED)
        differences = config_lib.changes(before['config'], now['config'], free=free)
        changed |= {f'config.{key}': values for key, values in differences.items()}
    if changed:
        expected = ', '.join(f'{key} = {old!r}' for key, (old, _) in changed.items())
        raise InputError(
            str(path),
            got=', '.join(f'{key} = {new!r}' for key, (_, new) in changed.items()),
            expected=f'{expected}, as for the results in this folder',
            fix=f'another folder, as --output {folder}_2, or delete the results in {folder}',
        )


# --- finished images ------------------------------------------------------------------------------


class Finished:
    """The list of finished images in an output folder.

    An image is added when its four outputs exist.

    Args:
      folder: for the outputs.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._path = folder / FINISHED
        self._lock = threading.Lock()  # writers are threads
        self._digests = {}
        if self._path.exists():
            for line in self._path.read_text(encoding='utf-8').splitlines():
                self._digests |= _entry(line)

    def holds(self, source: ImageSource) -> bool:
        """Returns whether the outputs exist and were made from this very file."""
        exist = all(output_path(self._folder, kind, source).is_file() for kind in OUTPUTS)
        return exist and self._digests.get(source.name) == content_digest(source.path)

    def begin(self, todo: Iterable[ImageSource]) -> None:
        """Removes damaged lines from the list, and images whose outputs will be overwritten."""
        for source in todo:
            self._digests.pop(source.name, None)
        self.sort()

    def sort(self) -> None:
        """Writes the list in the order of the names, because images finish in any order."""
        lines = map(_line, sorted(self._digests.items()))
        files.write_text(self._path, ''.join(lines))

    def add(self, source: ImageSource, digest: str) -> None:
        """Lists an image whose outputs have been written."""
        with self._lock, self._path.open('a', encoding='utf-8') as file:
            self._digests[source.name] = digest
            file.write(_line((source.name, digest)))

    def others(self, sources: Iterable[ImageSource]) -> list[str]:
        """Returns the names of listed images that are not among the sources."""
        return sorted(set(self._digests) - {source.name for source in sources})


def _line(entry: tuple[str, str]) -> str:
    """Returns the line of an image. It is ASCII, so that even a torn line can be decoded."""
    name, digest = entry
    return json.dumps({'name': name, 'digest': digest}) + '\n'


def _entry(line: str) -> dict[str, str]:
    """Returns {name: digest} of a line, {} for a damaged line: its image is predicted again."""
    try:
        content = json.loads(line)
        return {content['name']: content['digest']}
    except (ValueError, KeyError, TypeError):
        return {}


def content_digest(path: pathlib.Path) -> str:
    """Returns 32 hexadecimal digits for the content of a file.

    Two different images may have the same name, size and time.
    """
    with path.open('rb') as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


# --- pictures -------------------------------------------------------------------------------------


def output_path(folder: pathlib.Path, kind: str, source: ImageSource) -> pathlib.Path:
    """Returns the path of one of the OUTPUTS of an image."""
    return folder / kind / f'{source.name}.png'


def write_outputs(
    folder: pathlib.Path, assembly: Assembly, classes: ClassSpec, finished: Finished
) -> None:
    """Writes the four pictures of a complete image, then lists the image as finished."""
    color = np.array(classes.palette, np.uint8)[assembly.classes]
    pictures = {
        'confidence': assembly.confidence,
        'overlay': cv2.addWeighted(color, 0.5, assembly.image, 0.5, 0),
        'color': color,
        'ids': np.array(classes.ids, np.uint8)[assembly.classes],
    }
    for kind, picture in pictures.items():
        path = output_path(folder, kind, assembly.source)
        files.write_bytes(path, files.encode_png(picture))
    finished.add(assembly.source, assembly.digest)
