"""What a data set is: which examples it has (`scan`) and how one of them is read and checked (`inspect`).

A new data set is a subclass of `FileDataset` that says how its files lie on disk, and a line in the table of
`segjax/data/builders/__init__.py`; `segjax/data/records.py` turns every `Dataset` into TFDS records.

Problems of the input are collected, not raised, by `scan` and `inspect`, because `--mode doctor` wants all of them;
`listing` and `read` raise the first.
"""

import abc
import collections
import concurrent.futures
import dataclasses
import itertools
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from segjax.core import host, text_files
from segjax.core.notes import Note
from segjax.data import image_files
from segjax.data.camera_checks import check_camera, check_geometry
from segjax.data.labels import MASK_0_255, LabelCoding, indexed_by_color, to_train_ids
from segjax.errors import InputError
from segjax.spec import IGNORE, ClassSpec

S = TypeVar('S')
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Item:
    """One example before it is read.

    split, name  name is unique in its split
    files        by feature: image, label, instance, intrinsics; empty for worlds
    sequence     the video it belongs to, '' for stills
    frame        position in the video
    """

    split: str
    name: str
    files: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    sequence: str = ''
    frame: int = 0


class Record(NamedTuple):
    """One example as it is stored.

    features   what `segjax/data/records.py` writes: encoded images, arrays, text
    histogram  [256] int64: pixels of each train id, void at 255
    size       (height, width) of the label
    """

    features: dict[str, Any]
    histogram: np.ndarray
    size: tuple[int, int]


class Inspection(NamedTuple):
    """`record` is None if there are problems; `ids` are the values in the label file (none for colour masks)."""

    record: Record | None
    problems: list[InputError]
    ids: frozenset[int] = frozenset()


class Dataset(abc.ABC):
    """A data set as the user has it, in a folder or as a procedural world.

    name      name in the registry
    where     what error messages call it
    classes   ClassSpec
    """

    name: str
    where: str
    classes: ClassSpec

    @abc.abstractmethod
    def options(self) -> Any:
        """Everything, as JSON, that records depend on beside the files of the listing."""

    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that are there; raises InputError if there is none."""

    @abc.abstractmethod
    def scan(self, split: str) -> tuple[list[Item], list[InputError]]:
        """The examples of a split in their order, and what is wrong with its folder."""

    @abc.abstractmethod
    def features(self, items: Iterable[Item]) -> tuple[str, ...]:
        """The features that all of these examples have."""

    @abc.abstractmethod
    def examine(self, item: Item) -> Inspection:
        """`inspect`, but for what is checked of every data set."""

    def notes(self) -> list[Note]:
        """Returns all notes: of the folders, and of the files that were read so far."""
        return self.notes_of_folders() + self.notes_of_files()

    def notes_of_folders(self) -> list[Note]:
        """Returns what is passed over, and how splits are chosen. Lists folders and reads no file."""
        return []

    def notes_of_files(self) -> list[Note]:
        """Returns which of the files that were read so far are read otherwise than a viewer shows them."""
        return []

    def inspect(self, item: Item) -> Inspection:
        """Reads and checks one example; raises nothing for bad input."""
        inspection = self.examine(item)
        if inspection.record is None:
            return inspection
        problems = []
        for feature, value in inspection.record.features.items():
            try:
                check_geometry(
                    {feature: value}, f'{item.name} in {item.files.get(feature, self.where)}'
                )
            except InputError as error:
                problems.append(error)
        return Inspection(None, problems, inspection.ids) if problems else inspection

    def listing(self, split: str) -> list[Item]:
        """The examples of a split; raises the first problem, or InputError if the split is empty."""
        items, problems = self.scan(split)
        raise_first(problems)
        if not items:
            raise InputError(
                f'split {split!r} of {self.where}',
                got='no examples',
                expected=f'at least one image ({", ".join(image_files.IMAGE_SUFFIXES)}) with its label',
            )
        return items

    def read(self, item: Item) -> Record:
        """One example; raises the first problem."""
        inspection = self.inspect(item)
        raise_first(inspection.problems)
        return inspection.record


def raise_first(problems: list[InputError]) -> None:
    if len(problems) > 1:
        first = problems[0]
        fix = f'{first.fix} (and {len(problems) - 1} more: --mode doctor lists them all)'.strip()
        raise InputError(first.where, got=first.got, expected=first.expected, fix=fix)
    if problems:
        raise problems[0]


class FileDataset(Dataset):
    """A data set that lies in a folder; subclasses say which files belong together (`scan`)."""

    def __init__(self, name: str, root: str, classes: ClassSpec):
        if not root:
            fix = f'--config.data.root=/data/{name}, with the folder that holds it'
            raise InputError(
                'config.data.root', got="''", expected=f'the folder of data set {name!r}', fix=fix
            )
        self.root = pathlib.Path(root).expanduser()
        if not self.root.is_dir():
            got, fix = (
                f'no folder {self.root}',
                f'--config.data.root=/data/{name}, with the folder that holds it',
            )
            raise InputError(
                'config.data.root', got=got, expected=f'the folder of data set {name!r}', fix=fix
            )
        self.name = name
        self.classes = classes
        self.where = f'data set {name!r} in {self.root}'
        self._noted: dict[tuple[str, str], set[str]] = {}
        self._lock = threading.Lock()  # files are read by threads

    @abc.abstractmethod
    def coding(self, item: Item) -> LabelCoding:
        """How the label file of this example is read."""

    def instances(self, ids: np.ndarray) -> np.ndarray:
        """[H, W] whole numbers of an instance file -> 0 where there is no instance, another number for each one."""
        return ids

    def read_intrinsics(self, path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
        """[3, 3] pinhole matrix in pixels of an image of `size`; for data sets with camera files."""
        raise NotImplementedError(f'{self.name} has no camera files')

    def notes_of_files(self):
        """Returns a note of each kind about the files that were read, with their number and the first."""
        return [
            Note(min(files), f'{message} ({len(files)} such file{"s" * (len(files) > 1)})', fix)
            for (message, fix), files in sorted(self._noted.items())
        ]

    def _note(self, notes: Iterable[Note]) -> None:
        with self._lock:
            for where, message, fix in notes:
                self._noted.setdefault((message, fix), set()).add(where)

    def features(self, items: Iterable[Item]) -> tuple[str, ...]:
        items = list(items)
        common = set.intersection(*(set(item.files) for item in items)) | {'image', 'label'}
        video = ('sequence', 'frame') if all(item.sequence for item in items) else ()
        return (
            tuple(f for f in ('image', 'label', 'instance', 'intrinsics') if f in common)
            + video
            + ('name',)
        )

    def examine(self, item: Item) -> Inspection:
        problems: list[InputError] = []

        def attempt(read: Callable[[], T]) -> T | None:
            try:
                return read()
            except InputError as error:
                problems.append(error)
                return None

        image = attempt(lambda: image_files.read_encoded(item.files['image']))
        size = image[1] if image else None
        notes = [*image[2]] if image else []
        ids = label = instance = intrinsics = None
        if 'label' in item.files:
            where = str(item.files['label'])
            mask = attempt(lambda: image_files.read_mask(item.files['label']))
            if mask is not None:
                ids = attempt(lambda: _meant(mask, self.coding(item), where, notes))
            if ids is not None:
                label = attempt(lambda: to_train_ids(ids, self.coding(item), where))
                attempt(lambda: _check_size(where, ids, item, size))
        elif size is not None:
            label = np.full(size, IGNORE, np.uint8)  # a video frame between two annotated ones
        if 'instance' in item.files:
            where = str(item.files['instance'])
            instance = attempt(lambda: image_files.read_ids(item.files['instance']))
            if instance is not None:
                attempt(lambda: _check_size(where, instance, item, size))
        if 'intrinsics' in item.files and size is not None:
            intrinsics = attempt(lambda: self.read_intrinsics(item.files['intrinsics'], size))
            if intrinsics is not None:
                attempt(lambda: check_camera(intrinsics, size, str(item.files['intrinsics'])))
        seen = (
            frozenset(np.flatnonzero(np.bincount(ids.ravel())).tolist())
            if ids is not None and ids.ndim == 2
            else frozenset()
        )
        if problems:
            return Inspection(None, problems, seen)
        self._note(notes)
        features = {
            'image': image[0],
            'label': image_files.encode_png(label),
            **text_features(item),
        }
        if instance is not None:
            features['instance'] = image_files.encode_png(
                self.instances(instance).astype(np.uint16)
            )
        if intrinsics is not None:
            features['intrinsics'] = intrinsics
        return Inspection(Record(features, histogram(label), label.shape), problems, seen)


def _meant(
    mask: image_files.Mask, coding: LabelCoding, where: str, notes: list[Note]
) -> np.ndarray:
    """Returns the ids of a mask, or its colours if they name the classes. Adds to `notes` what is read otherwise."""
    notes += mask.notes
    if mask.palette is None or not indexed_by_color(mask.ids, mask.palette, coding, where):
        return mask.ids
    message = 'indexed colours whose palette has another order than the class file: colours are read, not indices'
    notes.append(
        Note(where, message, 'save masks as grey PNG of ids if the indices are the classes')
    )
    return mask.palette[mask.ids]


def _check_size(where: str, array: np.ndarray, item: Item, size: tuple[int, int] | None) -> None:
    if size is not None and array.shape[:2] != size:
        raise InputError(
            where,
            got='{}x{} pixels'.format(*array.shape[1::-1]),
            expected='{1}x{0} pixels, the size of {2}'.format(*size, item.files['image']),
            fix='resize labels with nearest neighbour only, or export them again',
        )
    if array.ndim == 3 and where != str(item.files.get('label')):
        raise InputError(where, got='three channels', expected='one channel of ids')


def text_features(item: Item) -> dict[str, Any]:
    return {'name': item.name, 'sequence': item.sequence, 'frame': item.frame}


def histogram(label: np.ndarray) -> np.ndarray:
    """[256] int64 counts of an uint8 label map."""
    return np.bincount(label.ravel(), minlength=256)


def pair(
    split: str,
    images: Mapping[str, pathlib.Path],
    labels: Mapping[str, pathlib.Path],
    label_place: str,
    unread: Iterable[pathlib.Path] = (),
) -> tuple[list[str], list[InputError]]:
    """Returns names that have an image and a label, in order, and a problem for every name that has only one.

    Args:
      split: for the messages.
      images, labels: files by name.
      label_place: where the label of `{name}` is looked for.
      unread: files of kinds that are not read, which may be the missing ones.
    """
    unread_names = {path.stem: path for path in unread}
    problems = []
    for name in sorted(set(images) - set(labels)):
        got = f'an image without a label in split {split!r}'
        fix = _partner(name, labels, unread_names) or 'add the label or move the image away'
        problems.append(
            InputError(
                str(images[name]), got=got, expected=label_place.replace('{name}', name), fix=fix
            )
        )
    for name in sorted(set(labels) - set(images)):
        got = f'a label without an image in split {split!r}'
        fix = _partner(name, images, unread_names) or 'add the image or move the label away'
        problems.append(
            InputError(str(labels[name]), got=got, expected=f'an image named {name}', fix=fix)
        )
    return sorted(set(images) & set(labels)), problems


def _partner(
    name: str, others: Mapping[str, pathlib.Path], unread: Mapping[str, pathlib.Path]
) -> str:
    """Returns what to do with the file that was probably meant as the partner of `name`, '' if there is none."""
    stem = name.split('/')[-1]
    if stem in unread:
        return f'convert {unread[stem]} to PNG: files {unread[stem].suffix} are not read'
    same = [other for other in others if other.casefold() == name.casefold()]
    return f'rename {others[same[0]]}: the names differ in upper and lower case' if same else ''


def incomplete_feature(feature: str, items: list[Item]) -> list[InputError]:
    """A problem if only some of the examples have a file of this feature: half a download, most likely."""
    missing = [item for item in items if feature not in item.files]
    if not missing or len(missing) == len(items):
        return []
    return [
        InputError(
            str(missing[0].files['image']),
            got=f'no {feature} file for {len(missing)} of {len(items)} examples of split {missing[0].split!r}',
            expected=f'{feature} files for all examples, or for none',
            fix='complete the download, or move the folder of these files away',
        )
    ]


def read_json(path: pathlib.Path) -> Any:
    try:
        return text_files.parse_json(text_files.read(path))
    except (OSError, ValueError) as error:
        fix = f'correct it, or {image_files.COPY_AGAIN}'
        raise InputError(
            str(path), got=str(error), expected='a JSON file, every key once', fix=fix
        ) from error


def describe(coding: LabelCoding) -> Any:
    """A coding as JSON, for `Dataset.options`."""
    spec = dataclasses.asdict(coding.classes)
    return [spec, coding.train_ids.tolist(), coding.known.tolist(), sorted(coding.colors.items())]


def check_classes(
    dataset: Dataset, items: Iterable[Item], counts: np.ndarray, ids: frozenset[int]
) -> list[InputError]:
    """What only the labels of a whole split can show: 0/255 masks, in which every file is legal.

    Args:
      dataset, items: whose labels were read.
      counts: [256] pixels of each train id in all of them.
      ids: the ids in all label files.
    """
    if dataset.classes.num_classes > 1 and ids == {0, 255} and counts[IGNORE] > 0:
        first = next(iter(items))
        return [
            InputError(
                str(first.files['label']),
                got=f'only the ids 0 and 255 in all labels of split {first.split!r}',
                expected=f'ids of the {dataset.classes.num_classes} classes',
                fix=MASK_0_255,
            )
        ]
    return []


def check_clips(frames: Iterable[tuple[Item, tuple[int, int]]]) -> list[InputError]:
    """Frames that differ from the first one of their clip in (height, width): none can be warped onto the other."""
    problems = []
    firsts: dict[str, tuple[Item, tuple[int, int]]] = {}
    for item, size in frames:
        first, expected = firsts.setdefault(item.sequence, (item, size))
        if item.sequence and size != expected:
            problems.append(
                InputError(
                    str(item.files.get('image', item.name)),
                    got='{1}x{0} pixels'.format(*size),
                    expected='{1}x{0} pixels, as {2} of the same clip'.format(
                        *expected, first.name
                    ),
                )
            )
    return problems


def ordered_map(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """`map` over threads that reads a little ahead; Pillow, OpenCV and file reading leave Python's lock alone."""
    threads = host.cores()
    items = iter(items)
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        pending = collections.deque(
            pool.submit(function, item) for item in itertools.islice(items, 2 * threads)
        )
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
            yield result
    finally:
        # Without waiting: who stops half way leaves this to the garbage collector. It may be at work in a thread that
        # is just being started, with the locks held that joining another thread needs.
        pool.shutdown(wait=False, cancel_futures=True)
