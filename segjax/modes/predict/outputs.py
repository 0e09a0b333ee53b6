"""The output folder of a prediction: its pictures, its list of finished results, its record."""

import hashlib
import json
import pathlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from segjax import config as config_lib
from segjax.core import files
from segjax.data.image_files import ImageSource
from segjax.errors import InputError
from segjax.modes.predict.assembly import Assembly
from segjax.spec import IGNORE, ClassSpec
from segjax.train import log_files, stored

OUTPUTS = ('ids', 'color', 'overlay', 'confidence')
RECORD = 'predict.json'
FINISHED = 'predict.jsonl'
WRITERS = 4  # threads that encode and write pictures


# --- checks ---------------------------------------------------------------------------------------


def check_folders(
    input_path: pathlib.Path, output_folder: pathlib.Path, kinds: Iterable[str] = OUTPUTS
) -> None:
    """Raises InputError if outputs would become inputs.

    The output folder must not be inside the input folder, because a next run would predict its
    pictures. None of the folders with results may contain the input.

    Args:
      input_path: folder or file.
      output_folder: for all results.
      kinds: names of the folders with results.
    """
    source = input_path.resolve()
    target = output_folder.resolve()
    surrounded = any(source.is_relative_to(target / kind) for kind in kinds)
    if target.is_relative_to(source) or surrounded:
        name = source.stem if source.is_file() else source.name
        raise InputError(
            '--output',
            got=f'{output_folder} for --input {input_path}',
            expected='folders that do not contain each other: outputs would become inputs',
            fix=f'--output {source.parent / (name + "_predicted")}',
        )


def check_files(paths: Iterable[pathlib.Path], folder: pathlib.Path, kinds: Iterable[str]) -> None:
    """Raises InputError if an input lies in a folder with results, where it could be overwritten.

    Args:
      paths: of the input files.
      folder: for all results.
      kinds: names of the folders with results.
    """
    results = [(folder / kind).resolve() for kind in kinds]
    for path in paths:
        if any(path.resolve().is_relative_to(result) for result in results):
            raise InputError(
                '--output',
                got=f'{folder}, which holds the input {path}',
                expected='another folder: a result could overwrite the input',
                fix=f'--output {folder}_2',
            )


def check_classes(classes: ClassSpec) -> None:
    """Raises InputError unless the classes fit into an 8-bit PNG."""
    if classes.num_classes > 256 or not all(0 <= i <= 255 for i in classes.ids):
        raise InputError(
            'classes',
            got=f'{classes.num_classes} with ids {min(classes.ids)} .. {max(classes.ids)}',
            expected='at most 256 classes with ids 0 .. 255 (8-bit PNG)',
        )


def described_classes(classes: ClassSpec) -> dict[str, Any]:
    """Returns the facts about classes that predict.json holds."""
    return {'classes': classes.names, 'ids': classes.ids, 'palette': classes.palette}


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
    """The list of finished results in an output folder: images, frames of a video, or examples.

    A result is added when its files exist.

    Args:
      folder: for the outputs.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._path = folder / FINISHED
        self._lock = threading.Lock()  # writers are threads
        self._entries: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            for line in self._path.read_text(encoding='utf-8').splitlines():
                self._entries |= _entry(line)

    def holds(self, name: str, paths: Iterable[pathlib.Path], digest_of: Callable[[], str]) -> bool:
        """Returns whether a result is whole and was made from these very inputs.

        Args:
          name: of the result.
          paths: of its files.
          digest_of: computes the digest of the inputs. It is called only if the files exist.
        """
        if name not in self._entries or not all(path.is_file() for path in paths):
            return False
        return self._entries[name]['digest'] == digest_of()

    def names(self) -> list[str]:
        """Returns the names of all listed results."""
        return list(self._entries)

    def values(self, name: str) -> dict[str, Any]:
        """Returns the numbers that are listed with a result, {} if there are none."""
        return self._entries[name].get('values', {})

    def begin(self, todo: Iterable[str]) -> None:
        """Removes damaged lines from the list, and results whose files will be overwritten."""
        for name in todo:
            self._entries.pop(name, None)
        self.sort()

    def sort(self) -> None:
        """Writes the list in the order of the names, because results finish in any order."""
        lines = [_line(name, entry) for name, entry in sorted(self._entries.items())]
        files.write_text(self._path, ''.join(lines))

    def add(self, name: str, digest: str, values: Mapping[str, Any] | None = None) -> None:
        """Lists a result whose files have been written.

        Args:
          name: of the result.
          digest: of its inputs.
          values: numbers that no file of the result holds.
        """
        entry = {'digest': digest, **({'values': values} if values else {})}
        with self._lock, self._path.open('a', encoding='utf-8') as file:
            self._entries[name] = entry
            file.write(_line(name, entry))

    def others(self, names: Iterable[str]) -> list[str]:
        """Returns the names of listed results that are not among `names`."""
        return sorted(set(self._entries) - set(names))


def _line(name: str, entry: Mapping[str, Any]) -> str:
    """Returns the line of a result. It is ASCII, so that even a torn line can be decoded."""
    return json.dumps({'name': name, **entry}) + '\n'


def _entry(line: str) -> dict[str, dict[str, Any]]:
    """Returns {name: entry} of a line, {} for a damaged line: its result is made again."""
    try:
        content = json.loads(line)
        name = content.pop('name')
        content['digest'], content.get('values', {}).keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: content}


def content_digest(path: pathlib.Path) -> str:
    """Returns 32 hexadecimal digits for the content of a file.

    Two different images may have the same name, size and time.
    """
    with path.open('rb') as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def source_digest(source: ImageSource) -> str:
    """Returns 32 hexadecimal digits for the image, the depth and the camera of a source."""
    further = [path for path in (source.depth, source.camera) if path is not None]
    digest = content_digest(source.path)
    if not further:
        return digest
    return text_digest('\n'.join([digest, *map(content_digest, further)]))


def text_digest(text: str) -> str:
    """Returns 32 hexadecimal digits for a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class WriterThreads:
    """A few threads that encode and write files, as a context. Leaving it waits for all of them."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(WRITERS)
        self._writing: deque[Future] = deque()

    def __enter__(self) -> 'WriterThreads':
        return self

    def submit(self, write: Callable, *arguments: Any) -> None:
        """Calls a function in a thread.

        Waiting for the oldest call bounds the memory, and raises its error.
        """
        self._writing.append(self._pool.submit(write, *arguments))
        if len(self._writing) > WRITERS:
            self._writing.popleft().result()

    def __exit__(self, error_type: type | None, *_: Any) -> None:
        self._pool.shutdown()
        if error_type is None:
            for future in self._writing:
                future.result()


def damaged_error(damaged: Sequence[str], num_todo: int, noun: str) -> InputError:
    """Returns the error for inputs that could not be read. All remaining results are written.

    Args:
      damaged: the files with the damage, where it is known.
      num_todo: number of results that had to be made.
      noun: 'images' or 'examples'.
    """
    return InputError(
        f'{len(damaged)} of {num_todo} {noun}',
        got='damaged or gone: ' + ', '.join(damaged),
        expected=f'{noun} that can be decoded. All other {noun} are written',
        fix='replace or remove them',
    )


# --- pictures -------------------------------------------------------------------------------------


def output_path(folder: pathlib.Path, kind: str, name: str) -> pathlib.Path:
    """Returns the path of one of the OUTPUTS of an image."""
    return folder / kind / f'{name}.png'


def output_paths(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Returns the paths of all OUTPUTS of an image."""
    return [output_path(folder, kind, name) for kind in OUTPUTS]


def write_outputs(
    folder: pathlib.Path, assembly: Assembly, classes: ClassSpec, finished: Finished
) -> None:
    """Writes the four pictures of a complete image, then lists the image as finished."""
    name = assembly.source.name
    write_pictures(folder, name, assembly.image, assembly.classes, assembly.confidence, classes)
    finished.add(name, assembly.digest)


def write_pictures(
    folder: pathlib.Path,
    name: str,
    image: np.ndarray,
    labels: np.ndarray,
    confidence: np.ndarray,
    classes: ClassSpec,
) -> None:
    """Writes the four pictures of an image.

    Args:
      folder: for the outputs.
      name: of the image.
      image: [H, W, 3] uint8.
      labels: [H, W] uint8 train ids. IGNORE is black, with the id IGNORE.
      confidence: [H, W] uint8.
      classes: of the labels.
    """
    palette = np.zeros((IGNORE + 1, 3), np.uint8)
    palette[: classes.num_classes] = classes.palette
    ids = np.full(IGNORE + 1, IGNORE, np.uint8)
    ids[: classes.num_classes] = classes.ids
    color = palette[labels]
    pictures = {
        'confidence': confidence,
        'overlay': cv2.addWeighted(color, 0.5, image, 0.5, 0),
        'color': color,
        'ids': ids[labels],
    }
    for kind, picture in pictures.items():
        files.write_bytes(output_path(folder, kind, name), files.encode_png(picture))
