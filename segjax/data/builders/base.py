"""The contract of a data set: `scan` lists its examples, `inspect` reads and checks an example.

A new data set is a subclass of `FileDataset` that describes its files on disk, and a line in the
table of `segjax/data/builders/__init__.py`. `segjax/data/records.py` turns every `Dataset` into
TFDS records.

`scan` and `inspect` collect problems of the input and do not raise them, because `--mode doctor`
lists all of them. `listing` and `read` raise the first problem.
"""

import abc
import collections
import concurrent.futures
import dataclasses
import itertools
import pathlib
import threading
import types
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from segjax.core import files as files_lib
from segjax.core import host
from segjax.core.notes import Note
from segjax.data import image_files
from segjax.data.camera_checks import check_camera, check_geometry
from segjax.data.labels import MASK_0_255, LabelCoding, indexed_by_color, to_train_ids
from segjax.errors import InputError
from segjax.spec import IGNORE, ClassMap, ClassSpec, Feature

S = TypeVar('S')
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Item:
    """An example before it is read.

    split     name of its split
    name      unique in the split
    files     by feature: image, label, instance, intrinsics. {} for worlds
    sequence  its video, '' for stills
    frame     position in the video
    """

    split: str
    name: str
    files: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    sequence: str = ''
    frame: int = 0


class Record(NamedTuple):
    """An example in its stored form.

    features   values that `segjax/data/records.py` writes: encoded images, arrays, text
    histogram  [256] int64: pixels of each train id, void at 255. Without a label all are 0
    size       (height, width) of the label. Without a label: of the image
    """

    features: dict[str, Any]
    histogram: np.ndarray
    size: tuple[int, int]


def without_label(features: dict[str, Any], size: tuple[int, int]) -> Record:
    """Returns an example of a data set without classes.

    Args:
      features: as in `Record`, without 'label'.
      size: (height, width) of the image.
    """
    return Record(features, np.zeros(256, np.int64), size)


class Inspection(NamedTuple):
    """The result of reading and checking an example.

    record    the example, None if it has problems
    problems  errors of its files
    ids       values in the label file, empty for colour masks
    """

    record: Record | None
    problems: list[InputError]
    ids: frozenset[int] = frozenset()


class Dataset(abc.ABC):
    """A data set of the user: a folder or a procedural world.

    name        name in the registry
    where       the name of the data set in errors
    classes     its classes. NO_CLASSES: no example has a label
    class_maps  by name: merges of the classes into fewer classes
    declared    Feature by key, for features whose kind does not follow from their key
                (segjax/data/kinds.py)
    """

    name: str
    where: str
    classes: ClassSpec
    class_maps: Mapping[str, ClassMap] = types.MappingProxyType({})
    declared: Mapping[str, Feature] = types.MappingProxyType({})

    @abc.abstractmethod
    def options(self) -> Any:
        """Returns the settings, as JSON, that records depend on in addition to the listed files.

        The fingerprint of the records contains this result, and not the code of the builder.
        Change the result when the builder reads files differently: for example, raise a version
        number in it. Otherwise records that were prepared before are still used.
        """

    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Returns the splits of the data set. Raises InputError if it has none."""

    @abc.abstractmethod
    def scan(self, split: str) -> tuple[list[Item], list[InputError]]:
        """Returns the examples of a split in their order, and the problems of its folder."""

    @abc.abstractmethod
    def features(self, items: Iterable[Item]) -> tuple[str, ...]:
        """Returns the features that all of these examples have."""

    @abc.abstractmethod
    def examine(self, item: Item) -> Inspection:
        """Reads and checks an example. `inspect` adds the checks of all data sets."""

    def notes(self) -> list[Note]:
        """Returns all notes: of the folders, and of the files that were read so far."""
        return self.notes_of_folders() + self.notes_of_files()

    def notes_of_folders(self) -> list[Note]:
        """Returns notes about skipped folders and the choice of splits.

        Lists folders and reads no file.
        """
        return []

    def notes_of_files(self) -> list[Note]:
        """Returns notes about files that are read differently than a viewer shows them.

        Only files that were read so far have notes.
        """
        return []

    def inspect(self, item: Item) -> Inspection:
        """Reads and checks an example. Bad input raises nothing."""
        inspection = self.examine(item)
        if inspection.record is None:
            return inspection
        problems = []
        for feature, value in inspection.record.features.items():
            where = f'{item.name} in {item.files.get(feature, self.where)}'
            try:
                check_geometry({feature: value}, where, self.declared, inspection.record.size)
            except InputError as error:
                problems.append(error)
        return Inspection(None, problems, inspection.ids) if problems else inspection

    def listing(self, split: str) -> list[Item]:
        """Returns the examples of a split.

        Raises:
          InputError: the first problem of the split, or an empty split.
        """
        items, problems = self.scan(split)
        raise_first(problems)
        if not items:
            suffixes = ', '.join(image_files.IMAGE_SUFFIXES)
            label = ' with its label' if self.classes.num_classes else ''
            raise InputError(
                f'split {split!r} of {self.where}',
                got='no examples',
                expected=f'at least one image ({suffixes}){label}',
            )
        return items

    def ready(
        self, items: Iterable[Item], work: pathlib.Path, check_stop: Callable[[], None]
    ) -> Generator[Item, None, None]:
        """Yields examples in their order, each as soon as `examine` can read it.

        Args:
          items: examples that are not stored yet.
          work: folder for files that are made for examples. It need not exist.
          check_stop: called while an example is waited for. It raises an exception to stop.
        """
        yield from items

    def stored(self, items: Iterable[Item], work: pathlib.Path) -> None:
        """Removes files in `work` that were made for these examples, which are stored now."""
        del items, work  # most data sets make none

    def read(self, item: Item) -> Record:
        """Returns an example, or raises its first problem."""
        inspection = self.inspect(item)
        raise_first(inspection.problems)
        return inspection.record


def raise_first(problems: list[InputError]) -> None:
    """Raises the first of several problems, with the number of the remaining problems."""
    if len(problems) > 1:
        first = problems[0]
        fix = f'{first.fix} (and {len(problems) - 1} more: --mode doctor lists them all)'.strip()
        raise InputError(first.where, got=first.got, expected=first.expected, fix=fix)
    if problems:
        raise problems[0]


class Attempts:
    """Calls functions and collects the errors of bad input that they raise."""

    def __init__(self):
        self.problems: list[InputError] = []

    def call(self, function: Callable[..., T], *args) -> T | None:
        """Returns the result of a call, or None if it raised an InputError."""
        try:
            return function(*args)
        except InputError as error:
            self.problems.append(error)
            return None


class FileDataset(Dataset):
    """A data set in a folder. Subclasses define which files belong together (`scan`)."""

    def __init__(self, name: str, root: str, classes: ClassSpec):
        """Checks that the folder exists.

        Args:
          name: of the data set in the registry.
          root: config.data.root, the folder of the data set.
          classes: of the data set.

        Raises:
          InputError: no folder is named, or it does not exist.
        """
        self.root = pathlib.Path(root).expanduser()
        if not root or not self.root.is_dir():
            raise InputError(
                'config.data.root',
                got=f'no folder {self.root}' if root else "''",
                expected=f'the folder of data set {name!r}',
                fix=f'--config.data.root=/data/{name}, with the folder that holds it',
            )
        self.name = name
        self.classes = classes
        self.where = f'data set {name!r} in {self.root}'
        self._noted: dict[tuple[str, str], set[str]] = {}
        self._lock = threading.Lock()  # several threads read files

    @abc.abstractmethod
    def coding(self, item: Item) -> LabelCoding:
        """Returns the meaning of the ids in the label file of this example."""

    def class_ids(self, ids: np.ndarray, where: str) -> np.ndarray:
        """Returns the ids that the coding knows, for the numbers in a label file.

        Args:
          ids: [H, W] whole numbers in the file, or its colours [H, W, 3].
          where: the file.

        Raises:
          InputError: a number that means nothing.
        """
        del where  # most data sets have files of these ids
        return ids

    def check_instances(self, item: Item, label: np.ndarray, ids: np.ndarray) -> None:
        """Checks the instance file of an example against its label. By default nothing is checked.

        Args:
          item: the example.
          label: [H, W] train ids.
          ids: [H, W] whole numbers in the instance file.

        Raises:
          InputError: the files contradict each other.
        """

    def instances(self, ids: np.ndarray) -> np.ndarray:
        """Returns the instances of an instance file.

        Args:
          ids: [H, W] whole numbers in the file.

        Returns:
          [H, W] a number for each instance, 0 where there is no instance.
        """
        return ids

    def read_intrinsics(self, path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
        """Returns the [3, 3] pinhole matrix of a camera file, in pixels of an image of `size`.

        A builder whose `scan` lists `intrinsics` files must define this method.

        Raises:
          InputError: the file is damaged.
          NotImplementedError: the builder lists such files without defining this method.
        """
        builder = type(self).__name__
        raise NotImplementedError(f'{builder} lists {path}, but has no method read_intrinsics')

    def notes_of_files(self):
        """Returns a note for each kind of file, with the number of files and the first file."""
        notes = []
        for (message, fix), files in sorted(self._noted.items()):
            number = f'{len(files)} such file{"s" * (len(files) > 1)}'
            notes.append(Note(min(files), f'{message} ({number})', fix))
        return notes

    def _note(self, notes: Iterable[Note]) -> None:
        """Keeps notes about files for `notes_of_files`."""
        with self._lock:
            for where, message, fix in notes:
                self._noted.setdefault((message, fix), set()).add(where)

    def features(self, items: Iterable[Item]) -> tuple[str, ...]:
        """Returns image and label, features whose files all examples have, and text."""
        items = list(items)
        common = set.intersection(*(set(item.files) for item in items)) | {'image', 'label'}
        maps = tuple(f for f in ('image', 'label', 'instance', 'intrinsics') if f in common)
        video = ('sequence', 'frame') if all(item.sequence for item in items) else ()
        return (*maps, *video, 'name')

    def examine(self, item: Item) -> Inspection:
        """Reads and checks the files of an example: image, label, instances and camera."""
        # Read all files before the result, because every problem is wanted.
        attempts = Attempts()
        image = attempts.call(image_files.read_encoded, item.files['image'])
        size = image[1] if image else None
        notes = list(image[2]) if image else []
        ids, label = self._examine_label(item, size, attempts, notes)
        instance = self._examine_instance(item, size, attempts)
        intrinsics = self._examine_camera(item, size, attempts)
        if not attempts.problems and instance is not None:
            attempts.call(self.check_instances, item, label, instance)
        if attempts.problems:
            return Inspection(None, attempts.problems, ids)
        self._note(notes)

        # Encode the example.
        features = {
            'image': image[0],
            'label': image_files.encode_png(label),
            **text_features(item),
        }
        if instance is not None:
            instances = self.instances(instance).astype(np.uint16)
            features['instance'] = image_files.encode_png(instances)
        if intrinsics is not None:
            features['intrinsics'] = intrinsics
        return Inspection(Record(features, histogram(label), label.shape), [], ids)

    def _examine_label(
        self, item: Item, size: tuple[int, int] | None, attempts: Attempts, notes: list[Note]
    ) -> tuple[frozenset[int], np.ndarray | None]:
        """Reads and checks the label of an example.

        A video frame between two annotated frames has no label file. Its label is void.

        Args:
          item: the example.
          size: (height, width) of the image, None if it cannot be read.
          attempts: collects problems.
          notes: gets notes about the file.

        Returns:
          The ids in the file (none for colour masks), and the train ids [H, W], None if the label
          cannot be read.
        """
        if 'label' not in item.files:
            label = None if size is None else np.full(size, IGNORE, np.uint8)
            return frozenset(), label

        # The later checks need the result of the earlier checks.
        where = str(item.files['label'])
        mask = attempts.call(image_files.read_mask, item.files['label'])
        if mask is None:
            return frozenset(), None
        coding = self.coding(item)
        ids = attempts.call(ids_or_colors, mask, coding, where, notes)
        if ids is not None:
            ids = attempts.call(self.class_ids, ids, where)
        if ids is None:
            return frozenset(), None
        label = attempts.call(to_train_ids, ids, coding, where)
        attempts.call(check_size, where, ids, item, size)
        if ids.ndim != 2:
            return frozenset(), label
        return frozenset(np.flatnonzero(np.bincount(ids.ravel())).tolist()), label

    def _examine_instance(
        self, item: Item, size: tuple[int, int] | None, attempts: Attempts
    ) -> np.ndarray | None:
        """Reads and checks the instance file of an example. Returns [H, W] ids, or None."""
        if 'instance' not in item.files:
            return None
        ids = attempts.call(image_files.read_ids, item.files['instance'])
        if ids is not None:
            attempts.call(check_size, str(item.files['instance']), ids, item, size)
        return ids

    def _examine_camera(
        self, item: Item, size: tuple[int, int] | None, attempts: Attempts
    ) -> np.ndarray | None:
        """Reads and checks the camera file of an example. Returns [3, 3], None without file."""
        if 'intrinsics' not in item.files or size is None:
            return None
        path = item.files['intrinsics']
        intrinsics = attempts.call(self.read_intrinsics, path, size)
        if intrinsics is not None:
            attempts.call(check_camera, intrinsics, size, str(path))
        return intrinsics


def ids_or_colors(
    mask: image_files.Mask, coding: LabelCoding, where: str, notes: list[Note]
) -> np.ndarray:
    """Returns the ids of a mask [H, W], or its colours [H, W, 3] if they name the classes.

    Args:
      mask: content of the label file.
      coding: the meaning of ids and colours.
      where: the file.
      notes: gets the notes of the mask, and a note if colours are read.
    """
    notes += mask.notes
    if mask.palette is None or not indexed_by_color(mask.ids, mask.palette, coding, where):
        return mask.ids
    message = (
        'indexed colours whose palette has another order than the class file: '
        'colours are read, not indices'
    )
    notes.append(
        Note(where, message, 'save masks as grey PNG of ids if the indices are the classes')
    )
    return mask.palette[mask.ids]


def check_size(where: str, array: np.ndarray, item: Item, size: tuple[int, int] | None) -> None:
    """Raises InputError for a map that does not fit its image, or an instance map in colour.

    Args:
      where: the file of the map.
      array: the map.
      item: its example.
      size: (height, width) of the image, None if it cannot be read.
    """
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
    """Returns the features of an example that are no arrays: name, sequence and frame."""
    return {'name': item.name, 'sequence': item.sequence, 'frame': item.frame}


def histogram(label: np.ndarray) -> np.ndarray:
    """Returns the [256] int64 counts of an uint8 label map."""
    return np.bincount(label.ravel(), minlength=256)


def pair(
    split: str,
    images: Mapping[str, pathlib.Path],
    labels: Mapping[str, pathlib.Path],
    label_place: str,
    unread: Iterable[pathlib.Path] = (),
) -> tuple[list[str], list[InputError]]:
    """Pairs images with labels by name.

    Args:
      split: for the messages.
      images: files by name.
      labels: files by name.
      label_place: expected path of the label of `{name}`.
      unread: files of kinds that are not read. They may be the missing images and labels.

    Returns:
      The names that have an image and a label, in order, and a problem for every remaining name.
    """
    # A missing partner may have another case, or a kind that is not read.
    unread_names = {path.stem: path for path in unread}
    problems = []
    for name in sorted(set(images) - set(labels)):
        problems.append(
            InputError(
                str(images[name]),
                got=f'an image without a label in split {split!r}',
                expected=label_place.replace('{name}', name),
                fix=_partner(name, labels, unread_names) or 'add the label or move the image away',
            )
        )
    for name in sorted(set(labels) - set(images)):
        problems.append(
            InputError(
                str(labels[name]),
                got=f'a label without an image in split {split!r}',
                expected=f'an image named {name}',
                fix=_partner(name, images, unread_names) or 'add the image or move the label away',
            )
        )
    return sorted(set(images) & set(labels)), problems


def _partner(
    name: str, candidates: Mapping[str, pathlib.Path], unread: Mapping[str, pathlib.Path]
) -> str:
    """Returns the fix for the probable partner of a file, '' if there is none.

    Args:
      name: of the image or label without a partner.
      candidates: the labels or images, by name.
      unread: files of kinds that are not read, by stem.
    """
    stem = name.split('/')[-1]
    if stem in unread:
        return f'convert {unread[stem]} to PNG: files {unread[stem].suffix} are not read'
    for candidate, path in candidates.items():
        if candidate.casefold() == name.casefold():
            return f'rename {path}: the names differ in upper and lower case'
    return ''


def incomplete_feature(feature: str, items: list[Item]) -> list[InputError]:
    """Returns a problem if only some of the examples have a file of this feature.

    The usual cause is a download that was interrupted.
    """
    missing = [item for item in items if feature not in item.files]
    if not missing or len(missing) == len(items):
        return []
    examples = f'{len(missing)} of {len(items)} examples of split {missing[0].split!r}'
    return [
        InputError(
            str(missing[0].files['image']),
            got=f'no {feature} file for {examples}',
            expected=f'{feature} files for all examples, or for none',
            fix='complete the download, or move the folder of these files away',
        )
    ]


def camera_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files `camera.json` in a folder and its subfolders, sorted.

    In the folder itself, the name may be in upper or lower case.
    """
    candidates = [*root.iterdir(), *root.glob('*/*.json')]
    return sorted(path for path in candidates if path.name.lower() == 'camera.json')


def read_json(path: pathlib.Path) -> Any:
    """Returns the content of a JSON file of a data set.

    Raises:
      InputError: the file cannot be read or parsed, or repeats a key.
    """
    fix = f'correct it, or {image_files.COPY_AGAIN}'
    try:
        return files_lib.read_json(path)
    except InputError as error:
        raise error.replaced(fix=fix) from error
    except OSError as error:
        raise InputError(str(path), got=str(error), expected='a JSON file', fix=fix) from error


def describe(coding: LabelCoding) -> Any:
    """Returns a coding as JSON, for `Dataset.options`."""
    spec = dataclasses.asdict(coding.classes)
    return [spec, coding.train_ids.tolist(), coding.known.tolist(), sorted(coding.colors.items())]


def check_classes(
    dataset: Dataset, items: Iterable[Item], counts: np.ndarray, ids: frozenset[int]
) -> list[InputError]:
    """Returns problems that show only in all labels of a split: masks of 0 and 255.

    Every file of such a split is legal.

    Args:
      dataset: the data set.
      items: its examples whose labels were read.
      counts: [256] pixels of each train id in all labels.
      ids: the ids in all label files.
    """
    if dataset.classes.num_classes == 1 or ids != {0, 255} or counts[IGNORE] == 0:
        return []
    first = next(iter(items))
    return [
        InputError(
            str(first.files['label']),
            got=f'only the ids 0 and 255 in all labels of split {first.split!r}',
            expected=f'ids of the {dataset.classes.num_classes} classes',
            fix=MASK_0_255,
        )
    ]


def check_clips(frames: Iterable[tuple[Item, tuple[int, int]]]) -> list[InputError]:
    """Returns a problem for each frame whose size differs from the first frame of its clip.

    Frames of different sizes cannot be warped onto their neighbours.

    Args:
      frames: examples with the (height, width) of their labels.
    """
    problems = []
    firsts: dict[str, tuple[Item, tuple[int, int]]] = {}
    for item, size in frames:
        first, first_size = firsts.setdefault(item.sequence, (item, size))
        if item.sequence and size != first_size:
            expected = '{1}x{0} pixels, as {2} of the same clip'.format(*first_size, first.name)
            problems.append(
                InputError(
                    str(item.files.get('image', item.name)),
                    got='{1}x{0} pixels'.format(*size),
                    expected=expected,
                )
            )
    return problems


def ordered_map(function: Callable[[S], T], items: Iterable[S]) -> Generator[T, None, None]:
    """Yields the results of a function in order, from threads that read a little ahead.

    Threads help, because Pillow, OpenCV and file reading release Python's lock. Close the generator
    to end the threads.
    """
    threads = host.cores()
    items = iter(items)
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        first_items = itertools.islice(items, 2 * threads)
        pending = collections.deque(pool.submit(function, item) for item in first_items)
        while pending:
            result = pending.popleft().result()
            # Keep the threads busy while the caller works on the result.
            pending.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
            yield result
    finally:
        # Do not wait for the threads. A generator that nobody closes is ended by the garbage
        # collector. The collector may run in a thread that is just being started, while it holds
        # locks that joining another thread needs.
        pool.shutdown(wait=False, cancel_futures=True)
