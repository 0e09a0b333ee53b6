"""Packs predicted class maps for an evaluation server: names, ids, sizes and completeness.

    cityscapes  the ids of labelIds files, as <city>_<sequence>_<frame>_leftImg8bit.png
    ade20k      1 .. 150, as ADE_val_00000001.png
    bdd100k     train ids 0 .. 18, as <name>.png

The list of images is the folder of the split in the data set. A pack is written when each of them
has a prediction of its size. It is a ZIP file in the output folder, with all files at its top.

Sources: cityscapesScripts, evalPixelLevelSemanticLabeling.py (names and ids).
CSAILVision/sceneparsing, README.md (names and ids). bdd100k/bdd100k, doc/source/format.rst (ids).
"""

import io
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from segjax.core import files
from segjax.core.notes import Note, tell
from segjax.data import image_files, labels
from segjax.data.builders.cityscapes import frame_name, root_folder
from segjax.errors import InputError, unknown_name
from segjax.modes.predict import outputs
from segjax.spec import ClassSpec

TEST = 'test'
"""Split of a pack that names none."""
SHOWN = 3
"""Number of images that an error names."""
OLDEST = (1980, 1, 1, 0, 0, 0)
"""Time of all files in a pack, the earliest that ZIP has: equal predictions give equal bytes."""
AGAIN = 'delete the file, and call --mode predict again, which makes it anew'
"""Fix of a prediction that cannot be packed."""


def _checked_stem(path: pathlib.Path) -> str:
    """Returns the name of an image of Cityscapes. Raises InputError for another form of name."""
    frame_name(path, '_leftImg8bit')
    return path.stem


class Benchmark(NamedTuple):
    """The files that a server evaluates.

    classes  classes with their ids in these files
    folders  {split: folders of its images below the data set}. The first that exists counts
    numbers  {split: official number of images}, where it is known
    name_of  path of an image -> name of its file in the pack, without ending
    """

    classes: ClassSpec
    folders: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, int]
    name_of: Callable[[pathlib.Path], str]


def _folders(splits: Mapping[str, str], *templates: str) -> dict[str, tuple[str, ...]]:
    """Returns {split: folders} of templates with the place {split} for the name of its folder."""
    folders = {}
    for split, name in splits.items():
        folders[split] = tuple(template.format(split=name) for template in templates)
    return folders


SPLITS = {'train': 'train', 'val': 'val', 'test': 'test'}
TRAIN_IDS = ClassSpec(
    labels.CITYSCAPES.names, labels.CITYSCAPES.palette, tuple(range(labels.CITYSCAPES.num_classes))
)
"""The classes of BDD100K with the ids of its files."""

BENCHMARKS = {
    'cityscapes': Benchmark(
        labels.CITYSCAPES_ALL,
        _folders(SPLITS, 'leftImg8bit/{split}'),
        {'train': 2975, 'val': 500, 'test': 1525},
        _checked_stem,
    ),
    'ade20k': Benchmark(
        labels.ADE20K,
        _folders({'train': 'training', 'val': 'validation', 'test': 'testing'}, 'images/{split}'),
        {'train': 20210, 'val': 2000},
        lambda path: path.stem,
    ),
    'bdd100k': Benchmark(
        TRAIN_IDS,
        _folders(SPLITS, 'images/10k/{split}', 'seg/images/{split}'),
        {'train': 7000, 'val': 1000},
        lambda path: path.stem,
    ),
}
"""Names that --pack may have."""


class Pack(NamedTuple):
    """A pack that will be written.

    name     of the benchmark
    split    of the benchmark
    images   {name in the pack: image of the data set}
    sources  {name in the pack: name of the prediction, below its folder}
    """

    name: str
    split: str
    images: Mapping[str, pathlib.Path]
    sources: Mapping[str, str]


def open_pack(pack: str, root: str, source: pathlib.Path) -> Pack:
    """Compares the input of a prediction with the images of a benchmark.

    Args:
      pack: name of a benchmark, or name:split.
      root: config.data.root, the folder of the data set.
      source: --input.

    Raises:
      InputError: an unknown name or split, no images of the split, or an input that has other
        images than the split.
    """
    name, _, split = pack.partition(':')
    split = split or TEST
    if name not in BENCHMARKS:
        raise unknown_name('--pack', name, BENCHMARKS)
    benchmark = BENCHMARKS[name]
    if split not in benchmark.folders:
        raise unknown_name(f'--pack {name}:SPLIT', split, benchmark.folders)
    if not source.is_dir():
        raise InputError(
            f'--input {source}', got='a file', expected=f'a folder with the images of {split}'
        )

    # The names of both are those of the files in the pack.
    folder = _folder(benchmark, name, split, root)
    images = image_files.by_name(
        image_files.find(folder, image_files.PHOTO_SUFFIXES), benchmark.name_of
    )
    found = image_files.by_name(
        image_files.find(source, image_files.PHOTO_SUFFIXES), benchmark.name_of
    )
    missing = sorted(images.keys() - found.keys())
    surplus = sorted(found.keys() - images.keys())
    for names, problem in ((missing, 'without'), (surplus, 'with surplus images:')):
        if names:
            raise InputError(
                f'--input {source}',
                got=f'{len(found)} images, {problem} {_shortened(names)}',
                expected=f'the {len(images)} images of {folder}',
                fix=f'--input {folder}',
            )
    _tell_number(benchmark, split, folder, len(images))
    sources = {key: image_files.relative_name(path, source) for key, path in found.items()}
    return Pack(name, split, images, sources)


def _folder(benchmark: Benchmark, name: str, split: str, root: str) -> pathlib.Path:
    """Returns the folder of the images of a split. Raises InputError if there is none."""
    if name == 'cityscapes':
        root = root_folder(root)
    places = [pathlib.Path(root).expanduser() / folder for folder in benchmark.folders[split]]
    for place in places if root else ():
        if place.is_dir() and image_files.find(place):
            return place
    raise InputError(
        'config.data.root',
        got=f'{root!r}, without images of {split}',
        expected=f'the folder of {name}, with {" or ".join(benchmark.folders[split])}',
        fix=f'--config.data.root=/data/{name}, with the path of the data set',
    )


def _tell_number(benchmark: Benchmark, split: str, folder: pathlib.Path, number: int) -> None:
    """Prints a note if a split has another number of images than the official split."""
    official = benchmark.numbers.get(split, number)
    if number != official:
        message = f'{number} images, while the published split {split} has {official}'
        tell(Note(str(folder), message, 'a server needs all of them'))


def _shortened(names: list[str]) -> str:
    """Returns the first names and the number of further names, for an error."""
    further = f' and {len(names) - SHOWN} more' if names[SHOWN:] else ''
    return ', '.join(names[:SHOWN]) + further


def check_classes(pack: Pack, classes: ClassSpec) -> None:
    """Raises InputError if a class of the predictions is no class of the benchmark."""
    known = BENCHMARKS[pack.name].classes.names
    unknown = [name for name in classes.names if name not in known]
    if unknown:
        raise InputError(
            f'--pack {pack.name}',
            got=f'a net with the classes {_shortened(unknown)}',
            expected=f'classes of {pack.name}: {_shortened(list(known))}',
            fix='leave --pack out, or predict with a net that was trained on these classes',
        )


# --- writing --------------------------------------------------------------------------------------


def write(pack: Pack, folder: pathlib.Path, classes: ClassSpec) -> pathlib.Path:
    """Writes the pack of finished predictions. It appears when it is complete.

    Args:
      pack: from `open_pack`.
      folder: with the predictions, receives the pack.
      classes: of the predictions.

    Returns:
      The path of the pack.

    Raises:
      InputError: a prediction that is missing, has another size than its image, or has an id of no
        class.
    """
    table = _new_ids(classes, BENCHMARKS[pack.name].classes)
    content = io.BytesIO()
    # PNG is compressed already.
    with zipfile.ZipFile(content, 'w', zipfile.ZIP_STORED) as archive:
        for name, image in sorted(pack.images.items()):
            ids = _read(outputs.output_path(folder, 'ids', pack.sources[name]), image)
            packed = files.encode_png(_mapped(ids, table, image))
            archive.writestr(zipfile.ZipInfo(f'{name}.png', OLDEST), packed)
    path = folder / f'{pack.name}_{pack.split}.zip'
    files.write_bytes(path, content.getvalue(), durable=True)
    return path


def _new_ids(classes: ClassSpec, packed: ClassSpec) -> np.ndarray:
    """Returns [256] int: the id in a pack by id of a prediction, and -1 for ids of no class."""
    table = np.full(256, -1)
    ids = dict(zip(packed.names, packed.ids, strict=True))
    for name, own in zip(classes.names, classes.ids, strict=True):
        table[own] = ids[name]
    return table


def _read(path: pathlib.Path, image: pathlib.Path) -> np.ndarray:
    """Returns the ids [H, W] of a prediction. Raises InputError if its size is not its image's."""
    if not path.is_file():
        raise InputError(
            str(path), got='no such file', expected=f'the prediction of {image}', fix=AGAIN
        )
    ids = image_files.read_ids(path)
    with Image.open(image) as opened:
        width, height = opened.size
    if ids.shape != (height, width) or ids.dtype != np.uint8:
        raise InputError(
            str(path),
            got=f'{ids.dtype} {list(ids.shape)}',
            expected=f'uint8 [{height}, {width}], the size of {image}',
            fix=AGAIN,
        )
    return ids


def _mapped(ids: np.ndarray, table: np.ndarray, image: pathlib.Path) -> np.ndarray:
    """Returns the ids of the pack [H, W] uint8. Raises InputError for an id of no class."""
    mapped = table[ids]
    wrong = mapped < 0
    if wrong.any():
        raise InputError(
            f'prediction of {image}',
            got=f'id {ids[wrong][0]}, in {np.count_nonzero(wrong)} pixels',
            expected='ids of the classes of the net',
            fix=AGAIN,
        )
    return mapped.astype(np.uint8)


def check_method(tiled: bool, stage: str) -> None:
    """Raises InputError for a stage whose class maps are no predictions of images."""
    if not tiled:
        raise InputError(
            '--pack',
            got=f'the declared prediction of stage {stage!r}',
            expected='class maps of images',
            fix='leave --pack out',
        )
