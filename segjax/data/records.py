"""Prepared records: a data set written once as TFDS array records, with random access afterwards.

Records are in `{cache}/{name}-{fingerprint}`. The fingerprint is a hash of the format, the
options of the data set, and the names, sizes and times of its files. So a changed folder is
prepared again. The code of a builder is not part of the fingerprint (`Dataset.options`).
"""

import bisect
import collections
import errno
import functools
import hashlib
import itertools
import json
import os
import pathlib
import resource
import shutil
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from array_record.python import array_record_module

from segjax.data import cache, index, kinds, shards
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Item
from segjax.errors import InputError, first_line, unknown_name
from segjax.spec import ClassSpec, DataSpec, Feature, features_from_json, split_names


def fingerprint(dataset: Dataset, listings: Mapping[str, Sequence[Item]]) -> str:
    """Returns 16 hexadecimal digits that identify the records of a data set.

    They change with the version of the format, the name of the data set, `Dataset.options`, the
    splits, the declared features, and the names, sizes and times of the files. The code of the
    builder changes them only through `options`.

    Args:
      dataset: of the user.
      listings: the examples of each split.
    """
    content = [str(shards.VERSION), dataset.name, dataset.options()]
    for split, items in listings.items():
        for item in items:
            state = [(feature, *_file_state(path)) for feature, path in sorted(item.files.items())]
            content.append((split, item.name, item.sequence, item.frame, state))
    if dataset.declared:
        content.append(dict(dataset.declared))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _file_state(path: pathlib.Path) -> tuple[str, int, int]:
    """Returns (name, size in bytes, time of the last change in nanoseconds) of a file."""
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(str(path), got=str(error), expected='a readable file') from error
    return path.name, stat.st_size, stat.st_mtime_ns


METADATA = (
    'name',
    'names',
    'palette',
    'ids',
    'features',
    'max_size',
    'class_pixels',
    'void_pixels',
)
"""Keys of metadata.json that every version of the records has."""

DESCRIPTIONS = ('dataset_info.json', 'features.json', 'metadata.json')
"""Files in which TFDS describes records."""

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Errors of the system for absent files. All other errors say nothing about a file's content."""

MAX_READERS = 1024
"""Shards that a process keeps open, if its limit of open files allows four times this number."""


def never_stop() -> None:
    """Returns at once, so that nothing stops a preparation."""


def prepared(
    dataset: Dataset, cache_folder: str, check_stop: Callable[[], None] = never_stop
) -> pathlib.Path:
    """Returns the folder with the records of a data set. Writes missing or damaged records.

    Several processes may call this at the same time. A single process writes, and the remaining
    processes wait.

    Args:
      dataset: of the user.
      cache_folder: config.data.cache.
      check_stop: called between examples. It raises an exception to stop the preparation, and a
        later call of `prepared` continues it.

    Raises:
      InputError: the first problem of the data set, a cache folder that cannot be written, or a
        full disk.
    """
    listings = {split: dataset.listing(split) for split in dataset.splits()}
    folder = place(dataset, listings, cache_folder)
    write(dataset, listings, folder, check_stop)
    return folder


def place(
    dataset: Dataset, listings: Mapping[str, Sequence[Item]], cache_folder: str
) -> pathlib.Path:
    """Returns the folder of the records of a data set. Arguments: `prepared`, `fingerprint`."""
    return cache.folder(cache_folder) / f'{dataset.name}-{fingerprint(dataset, listings)}'


def write(
    dataset: Dataset,
    listings: Mapping[str, Sequence[Item]],
    folder: pathlib.Path,
    check_stop: Callable[[], None],
) -> None:
    """Writes missing or damaged records to their folder in the cache, and marks them as used.

    Args:
      dataset: the data set to read.
      listings: its items by split.
      folder: of the records.
      check_stop: as in `prepared`.

    Raises:
      InputError: as in `prepared`.
    """
    if not is_ready(folder):
        with cache.locked(folder, check_stop):
            # Another process may have written the records while this process waited.
            if folder.is_dir():
                _remove_damaged(folder)
            if not folder.is_dir():
                shards.write(dataset, listings, folder, check_stop)
            if not index.is_complete(folder):
                _complete(folder)
    cache.use(folder)


def is_ready(folder: pathlib.Path) -> bool:
    """Returns whether the records and their index can be used.

    An older index is completed, unless this process may not write into the folder.
    """
    if not (folder / index.FILE).exists() or damage(folder):
        return False
    return index.is_complete(folder) or not os.access(folder, os.W_OK)


def _remove_damaged(folder: pathlib.Path) -> None:
    """Removes damaged records, and everything that this process remembers of them."""
    problem = damage(folder)
    if not problem:
        return
    print(f'{folder}: damaged ({problem}); the data set is prepared again', flush=True)
    cache.release(folder)
    with cache.alone(folder):
        shutil.rmtree(folder)
    index.forget()
    column.cache_clear()
    READERS.forget(folder)


def damage(folder: pathlib.Path) -> str:
    """Returns a description of the damage to a records folder, '' if its files are whole.

    Compares the sizes of shards, and does not read their content. Older records do not have the
    sizes. A missing index is no damage if it can be made from labels.

    Raises:
      InputError: the system does not let this process read the files. They may be whole.
    """
    try:
        for name in DESCRIPTIONS:
            (folder / name).open('rb').close()  # TFDS takes every error for a missing file
        info = tfds.builder_from_directory(folder).info
        problem = _wrong_description(info)
        if problem:
            return problem
        if (folder / index.FILE).exists():
            index.check_index(
                folder, {split: info.splits[split].num_examples for split in info.splits}
            )
        elif 'label' not in info.features:
            return f'no {index.FILE}'
    except OSError as error:
        if error.errno is not None and error.errno not in ABSENT:
            raise InputError(
                error.filename or str(folder),
                got=str(error),
                expected='prepared records that this process can read',
                fix='mend what the system says; the records stay as they are',
            ) from error
        return f'{pathlib.Path(error.filename or folder).name}: {error.strerror}'
    except zipfile.BadZipFile as error:
        return f'{index.FILE}: {error}'
    except Exception as error:  # TFDS raises errors of many types for damaged files
        lines = str(error).strip().splitlines() or ['']
        return f'{type(error).__name__}: {lines[0]}'
    return ''


def _wrong_description(info: tfds.core.DatasetInfo) -> str:
    """Returns a missing key of the metadata, or a shard of another size than described, else ''."""
    for key in METADATA:
        if key not in info.metadata:
            return f'no {key!r} in its metadata'
    stored = info.metadata.get('shard_bytes', {})
    for split, of_split in info.splits.items():
        sizes = stored.get(split, [None] * of_split.num_shards)
        for path, size in zip(of_split.filepaths, sizes, strict=True):
            actual = os.stat(path).st_size
            if actual == 0 or (size is not None and actual != size):
                return f'{path.name} has {actual} bytes' + f' of {size}' * (size is not None)
    return ''


def _complete(folder: pathlib.Path) -> None:
    """Adds the index to records that were written without it, or with fewer columns."""
    missing = 'an older index' if (folder / index.FILE).exists() else 'no index'
    print(
        f'{folder}: these records have {missing}; every label is read once to make it', flush=True
    )
    info = tfds.builder_from_directory(folder).info
    fact = functools.partial(_fact, len(info.metadata['names']))
    indices = {}
    for split in info.splits:
        source = SplitSource(folder, split, tuple(info.features), str(folder), encoded=True)
        facts = base.ordered_map(lambda i, source=source: fact(source, i), range(len(source)))
        progress = tqdm.tqdm(
            facts, total=len(source), desc=f'index {split}', unit='image', mininterval=1
        )
        indices[split] = index.of_facts(progress)
    index.save(folder, indices)
    index.forget()


def _fact(num_classes: int, source: 'SplitSource', position: int) -> index.Fact:
    """Returns the facts about an example of a source whose images are encoded."""
    example = source[position]
    label = example['label']
    histogram = base.histogram(label)
    return index.fact(histogram, label.shape, num_classes, example, source.declared)


def load_spec(folder: pathlib.Path) -> DataSpec:
    """Returns the specification of the records in `folder`, without reading an image."""
    info = index.open_records(folder).info
    metadata = info.metadata
    return DataSpec(
        name=metadata['name'],
        classes=ClassSpec(
            names=tuple(metadata['names']),
            palette=tuple(map(tuple, metadata['palette'])),
            ids=tuple(metadata['ids']),
        ),
        features=tuple(metadata['features']),
        num_examples={split: info.splits[split].num_examples for split in info.splits},
        max_size={split: tuple(size) for split, size in metadata['max_size'].items()},
        class_pixels={split: tuple(pixels) for split, pixels in metadata['class_pixels'].items()},
        void_pixels=dict(metadata['void_pixels']),
        declared=features_from_json(metadata.get('declared', {})),
        **index.spec_fields({split: index.load(folder, split) for split in info.splits}),
    )


class SplitSource:
    """Random access to the examples of a split: `len(source)`, `source[i] -> {feature: value}`.

    Only the requested features are decoded. Several threads may read a source, and it can be
    pickled.

    Shapes and types are those of `kinds.KINDS`. `declared` has the features that the data set
    declares.

    Args:
      folder: of the records.
      split: a TFDS split. It may have slices and sums: 'train', 'val[:10%]', 'train+val'.
      features: keys of the examples.
      where: the name of the data set in errors.
      encoded: whether images are returned as the bytes of their files.

    Raises:
      InputError: an unknown, malformed or empty split, or a feature that the records do not have.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        split: str,
        features: Sequence[str],
        where: str,
        encoded: bool = False,
    ):
        self._arguments = (folder, split, tuple(features), where, encoded)
        builder = index.open_records(folder)
        for feature in features:
            if feature not in builder.info.features:
                raise unknown_name(
                    f'feature {feature!r} of {where}', feature, builder.info.features
                )
        self.features = tuple(features)
        self.declared = features_from_json(builder.info.metadata.get('declared', {}))

        # Features that TFDS does not decode: features that were not requested, and encoded images.
        skipped = [name for name in builder.info.features if name not in features]
        if encoded:
            skipped += [name for name in features if self._feature_of(name).kind == 'image']
        self._decoders = {name: tfds.decode.SkipDecoding() for name in skipped}
        self._tfds_features = builder.info.features

        # A split consists of parts of shards. `_ends` are the first positions behind each part.
        self._parts = _parts(builder.info, split, where)
        self._ends = list(itertools.accumulate(part.take for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f'example {index} of {len(self)}')
        number = bisect.bisect_right(self._ends, index)
        part = self._parts[number]
        position = part.skip + index - (self._ends[number] - part.take)
        record = READERS.read(os.fspath(part.filename), position)
        example = self._tfds_features.deserialize_example_np(record, decoders=self._decoders)
        return {name: _plain(self._feature_of(name), example[name]) for name in self.features}

    def _feature_of(self, name: str) -> Feature:
        """Returns the declaration of a feature of the records."""
        return kinds.feature_of(name, self.declared)

    def __reduce__(self):
        return SplitSource, self._arguments


class Readers:
    """The open shards of a process. Safe for threads.

    Their number stays below a share of the limit of open files, see `max_readers`.
    """

    def __init__(self):
        self._open: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, position: int) -> bytes:
        """Reads the record at a position of a shard.

        Raises:
          InputError: the shard is gone or damaged.
        """
        try:
            record = self._reader(path).read([position])[0]
            # array_record returns nothing for parts that it cannot read.
            if not record:
                raise ValueError('no bytes')
            return record
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            folder = pathlib.Path(path).parent
            delete = f'{cache.command_to_delete(folder)}, and ' if folder.is_dir() else ''
            raise InputError(
                path,
                got=f'record {position} cannot be read: {first_line(error)}',
                expected='a whole file of prepared records',
                fix=delete + index.PREPARE_AGAIN,
            ) from error

    def forget(self, folder: pathlib.Path) -> None:
        """Closes the shards of a folder, because its records were replaced."""
        with self._lock:
            for path in [path for path in self._open if pathlib.Path(path).parent == folder]:
                del self._open[path]

    def _reader(self, path: str) -> array_record_module.ArrayRecordReader:
        """Returns the reader of a shard. Closes shards that were not used for long."""
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
                return self._open[path]
        reader = array_record_module.ArrayRecordReader(
            path, options='readahead_buffer_size:0', file_reader_buffer_size=32768
        )
        with self._lock:
            reader = self._open.setdefault(path, reader)
            while len(self._open) > max_readers():
                # A thread may still read this shard. Its file closes with the last reference.
                self._open.popitem(last=False)
        return reader


READERS = Readers()


@functools.lru_cache(maxsize=16)
def column(folder: pathlib.Path, split: str, feature: str, where: str) -> np.ndarray:
    """Returns a feature of all examples of a plain split, which is read once.

    Arguments and errors are those of `SplitSource`.

    Returns:
      [N, ...], read-only. All values have the same shape.
    """
    source = SplitSource(folder, split, (feature,), where)
    values = np.stack([source[i][feature] for i in range(len(source))])
    values.flags.writeable = False
    return values


def max_readers() -> int:
    """Returns how many shards this process keeps open: a quarter of its limit of open files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_READERS
    return max(1, min(MAX_READERS, limit // 4))


def _parts(info: tfds.core.DatasetInfo, split: str, where: str) -> list:
    """Returns the parts of shards (filename, skip, take) that make up a split.

    Raises:
      InputError: an unknown, malformed or empty split.
    """
    known = ', '.join(info.splits)
    expected = f'one of {known}; also slices and sums, as train[:10%] or train+val'
    try:
        for name in split_names(split):
            if name not in info.splits:
                raise InputError(
                    f'split {split!r} of {where}', got=f'no split {name!r}', expected=expected
                )
        if info.splits[split].num_examples == 0:
            raise InputError(
                f'split {split!r} of {where}', got='no examples', expected='at least one'
            )
        return list(info.splits[split].file_instructions)
    except InputError:
        raise
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[-1]
        raise InputError(f'split {split!r} of {where}', got=reason, expected=expected) from error


def _plain(feature: Feature, value: Any) -> Any:
    """Returns a value of TFDS as text, a number or an array. Removes a channel axis of length 1."""
    if feature.kind == 'text':
        return value.decode()
    if isinstance(value, np.ndarray) and value.ndim == kinds.num_axes(feature) + 1:
        return value[..., 0]
    return value
