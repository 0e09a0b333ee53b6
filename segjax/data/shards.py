"""Writes a data set as TFDS array records, shard by shard.

A stopped preparation can continue with the next shard. The shards are collected in
`{folder}.partial`, which becomes `folder` when it is complete. A file of facts follows every shard.
A shard without this file was interrupted and is written again.
"""

import contextlib
import errno
import itertools
import os
import pathlib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer

from segjax.data import cache, image_files, index, kinds
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Item
from segjax.errors import InputError
from segjax.spec import IGNORE, Feature

SHARD_BYTES = 200 * 2**20
"""A shard ends with the example that reaches this size."""

SAMPLE = 5
"""Examples of a split, spread over the split, that are read before a disk is called too small."""

VERSION = tfds.core.Version('1.0.0')
"""Version of the format, a part of the fingerprint."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = tuple(os.strerror(number) for number in _FULL)  # array_record raises RuntimeError
_SHARD = re.compile(r'(?P<split>.+)\.array_record-(?P<number>\d{5})(?P<of>-of-\d{5})?')


WORK = 'work'
"""Folder in a partial folder for files that a data set makes of examples before they are stored."""


class Shard(NamedTuple):
    """Statistics of a written shard.

    counts  [256] int64, pixels of each train id in its labels
    ids     [K] int64, ids that occur in its label files
    sizes   [N, 2] int64, (height, width) of each label
    index   facts about its examples
    bytes   size of the file
    """

    counts: np.ndarray
    ids: np.ndarray
    sizes: np.ndarray
    index: index.Index
    bytes: int


class SegmentationBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """The TFDS builder of every data set. It describes the records, and `write` fills them."""

    VERSION = VERSION

    def __init__(self, dataset: Dataset, features: Sequence[str], data_dir: pathlib.Path):
        self.name = dataset.name
        self._dataset = dataset
        self._features = features
        super().__init__(data_dir=data_dir, file_format='array_record')

    def _info(self):
        declared = self._dataset.declared
        features = tfds.features.FeaturesDict(
            {name: tfds_feature(kinds.feature_of(name, declared)) for name in self._features}
        )
        metadata = tfds.core.MetadataDict(
            name=self._dataset.name,
            names=self._dataset.classes.names,
            palette=self._dataset.classes.palette,
            ids=self._dataset.classes.ids,
            features=self._features,
            max_size={},
            class_pixels={},
            void_pixels={},
            shard_bytes={},
        )
        # Data sets without declared features keep the metadata that they always had.
        if declared:
            metadata['declared'] = dict(declared)
        return tfds.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True, metadata=metadata
        )

    def serialize(self, example: Mapping[str, Any]) -> bytes:
        """Returns the stored bytes of an example, equal in every process."""
        features = self.info.features
        declared = self._dataset.declared
        stored = {
            name: stored_form(value, kinds.feature_of(name, declared))
            for name, value in example.items()
        }
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        message = serializer.get_tf_example(features.encode_example(stored))
        return message.SerializeToString(deterministic=True)

    def _shard_iterators_per_split(self, dl_manager):
        raise NotImplementedError('segjax.data.shards.write writes the shards')


def write(
    dataset: Dataset,
    listings: Mapping[str, Sequence[Item]],
    folder: pathlib.Path,
    check_stop: Callable[[], None],
) -> None:
    """Writes the records of a data set, or continues where an earlier call was interrupted.

    The caller holds the lock of the folder. The files do not depend on interruptions.

    Args:
      dataset: the data set to read.
      listings: its items by split.
      folder: the folder of the records. It appears when it is complete.
      check_stop: called between examples. It raises an exception to stop. Whole shards are kept.

    Raises:
      InputError: wrong data, or a disk without space.
    """
    partial = folder.with_name(f'{folder.name}{cache.PARTIAL}')
    try:
        partial.mkdir(exist_ok=True)
        _tidy(partial, dataset.name)
        _check_space(dataset, listings, partial)
        items = list(itertools.chain.from_iterable(listings.values()))
        builder = SegmentationBuilder(dataset, dataset.features(items), partial / 'unused')
        shards = {
            split: _write_split(dataset, builder, split, items, partial, check_stop)
            for split, items in listings.items()
        }
        _finish(dataset, builder, shards, partial)
        shutil.rmtree(partial / WORK, ignore_errors=True)
        partial.rename(folder)

        # The facts of each shard are in the index now.
        for path in folder.glob('*.npz'):
            if path.name != index.FILE:
                path.unlink()
    except (OSError, RuntimeError) as error:
        if _is_full_disk(error):
            raise _no_space(partial, str(error), 'enough space') from error
        raise


def _is_full_disk(error: Exception) -> bool:
    """Returns whether an error of the system or of array_record says that a disk is full."""
    if getattr(error, 'errno', None) in _FULL:
        return True
    return any(text in str(error) for text in _FULL_TEXTS)


def _no_space(partial: pathlib.Path, got: str, expected: str) -> InputError:
    """Returns the error for a disk without space for the records."""
    return InputError(
        f'disk of {partial.parent}',
        got=got,
        expected=expected,
        fix='free disk space, '
        'or set $SEGJAX_CACHE (config.data.cache) to a folder on a larger disk',
    )


def _tidy(partial: pathlib.Path, name: str) -> None:
    """Gives final shards their preliminary names, and removes everything except shards and facts.

    Files of the data set itself stay. Shards have final names if an earlier call was interrupted in
    `_finish`.
    """
    for path in sorted(partial.iterdir()):
        if path.name == WORK:
            continue
        match = _SHARD.fullmatch(path.name)
        if match and path.is_file():
            split = match['split'].removeprefix(f'{name}-') if match['of'] else match['split']
            path.rename(_shard_path(partial, split, int(match['number'])))
        elif path.suffix != '.npz' or path.name.startswith('partial_') or path.name == index.FILE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _shard_path(partial: pathlib.Path, split: str, number: int) -> pathlib.Path:
    """Returns the preliminary path of a shard."""
    return partial / f'{split}.array_record-{number:05}'


def _facts_path(partial: pathlib.Path, split: str, number: int) -> pathlib.Path:
    """Returns the path of the statistics of a shard."""
    return partial / f'{split}-{number:05}.npz'


def _check_space(
    dataset: Dataset, listings: Mapping[str, Sequence[Item]], partial: pathlib.Path
) -> None:
    """Raises InputError if the disk is too small for the records.

    The size of the records is estimated from a few examples: the ratio of their stored size to the
    size of their files.
    """
    written = sum(path.stat().st_size for path in partial.iterdir())
    free = shutil.disk_usage(partial).free
    # The first example may be unusual, so more examples are read before the error.
    for number in (1, SAMPLE):
        needed = _needed_bytes(dataset, listings, number)
        if free >= needed - written:
            return
    expected = f'about {needed - written:,.0f} bytes for the records of {dataset.where}'
    raise _no_space(partial, f'{free:,} bytes free', expected)


def _needed_bytes(dataset: Dataset, listings: Mapping[str, Sequence[Item]], number: int) -> float:
    """Returns the estimated size of all records, 0 if an example of the sample has problems.

    Args:
      dataset: the data set to read.
      listings: its items by split.
      number: examples of each split in the sample.
    """
    needed = 0.0
    for items in listings.values():
        sample = [items[len(items) * i // number] for i in range(number)]
        inspections = [dataset.inspect(item) for item in sample]
        if any(inspection.record is None for inspection in inspections):
            return 0.0
        stored = sum(_record_bytes(inspection.record) for inspection in inspections)
        read = sum(map(_file_bytes, sample))
        if read:
            needed += stored / read * sum(map(_file_bytes, items))
        else:
            # Examples of a world have no files.
            needed += stored / number * len(items)
    return needed


def _record_bytes(record: base.Record) -> int:
    """Returns the stored size of an example: of its arrays and encoded images."""
    total = 0
    for value in record.features.values():
        if isinstance(value, np.ndarray):
            total += value.nbytes
        elif isinstance(value, bytes):
            total += len(value)
    return total


def _file_bytes(item: Item) -> int:
    """Returns the size of the files of an example."""
    return sum(path.stat().st_size for path in item.files.values())


def _write_split(
    dataset: Dataset,
    builder: SegmentationBuilder,
    split: str,
    items: Sequence[Item],
    partial: pathlib.Path,
    check_stop: Callable[[], None],
) -> list[Shard]:
    """Writes the missing shards of a split, and returns the statistics of all its shards."""
    # Whole shards of an earlier call are kept.
    shards = _whole_shards(partial, split)
    done = sum(len(shard.sizes) for shard in shards)
    if done:
        print(f'{partial}: {done} of {len(items)} examples of {split!r} are prepared', flush=True)

    # Threads read the remaining examples ahead, and this thread writes them.
    reader = Reader(dataset, tuple(builder.info.features))
    work = partial / WORK
    with contextlib.ExitStack() as stack:
        ready = dataset.ready(items[done:], work, check_stop)
        stack.enter_context(contextlib.closing(ready))
        examples = base.ordered_map(reader.read, ready)
        stack.enter_context(contextlib.closing(examples))
        progress = tqdm.tqdm(
            examples,
            total=len(items),
            initial=done,
            desc=f'prepare {dataset.name} {split}',
            unit='image',
            mininterval=1,
        )
        stream = iter(stack.enter_context(progress))
        while done < len(items):
            shard = _write_shard(builder, split, len(shards), stream, partial, check_stop)
            shards.append(shard)
            first = done
            done += len(shard.sizes)
            dataset.stored(items[first:done], work)
        # The stream is empty now. Reading its end closes the progress bar.
        for _ in stream:
            pass

    # Some problems show only in all labels of a split.
    counts = sum(shard.counts for shard in shards)
    ids = frozenset(np.concatenate([shard.ids for shard in shards]).tolist())
    sizes = np.concatenate([shard.sizes for shard in shards]).tolist()
    _raise_first(base.check_classes(dataset, items, counts, ids), partial)
    _raise_first(base.check_clips(zip(items, map(tuple, sizes), strict=True)), partial)
    return shards


def _raise_first(problems: list[InputError], partial: pathlib.Path) -> None:
    """Raises the first problem of the data.

    Corrected data have another fingerprint, so the written shards are removed. A file that the
    system did not let this process read keeps its fingerprint, so whole shards are kept.
    """
    unread = any(getattr(problem.__cause__, 'errno', None) for problem in problems)
    if problems and not unread:
        shutil.rmtree(partial, ignore_errors=True)
    base.raise_first(problems)


class Reader(NamedTuple):
    """Reads the examples of a data set. Several threads use it."""

    dataset: Dataset
    features: tuple[str, ...]

    def read(self, item: Item) -> tuple[base.Inspection, index.Fact | None]:
        """Returns an example and its facts, or its problems and None."""
        inspection = self.dataset.inspect(item)
        if inspection.record is None:
            return inspection, None
        stored = {name: inspection.record.features[name] for name in self.features}
        _, histogram, size = inspection.record
        num_classes = self.dataset.classes.num_classes
        fact = index.fact(histogram, size, num_classes, stored, self.dataset.declared)
        return inspection, fact


def _write_shard(
    builder: SegmentationBuilder,
    split: str,
    number: int,
    stream: Iterator[tuple[base.Inspection, index.Fact | None]],
    partial: pathlib.Path,
    check_stop: Callable[[], None],
) -> Shard:
    """Writes the next examples of the stream as a shard, and then its facts."""
    path = _shard_path(partial, split, number)
    counts = np.zeros(256, np.int64)
    ids: set[int] = set()
    sizes = []
    facts = []
    size = 0
    writer = array_record_module.ArrayRecordWriter(os.fspath(path), 'group_size:1')
    try:
        for inspection, fact in stream:
            check_stop()
            _raise_first(inspection.problems, partial)
            features, histogram, label_size = inspection.record
            stored = {name: features[name] for name in builder.info.features}
            serialized = builder.serialize(stored)
            writer.write(serialized)
            # The records do not contain these statistics of the split.
            counts += histogram
            ids |= inspection.ids
            sizes.append(label_size)
            facts.append(fact)
            size += len(serialized)
            if size >= SHARD_BYTES:
                break
    finally:
        writer.close()
    file_bytes = path.stat().st_size
    shard = Shard(
        counts, np.array(sorted(ids), np.int64), np.array(sizes), index.of_facts(facts), file_bytes
    )
    _save_facts(_facts_path(partial, split, number), shard)
    return shard


def _save_facts(path: pathlib.Path, shard: Shard) -> None:
    """Writes the statistics of a shard. The file appears when it is complete."""
    incomplete = path.with_name(f'partial_{path.name}')
    statistics = {name: value for name, value in shard._asdict().items() if name != 'index'}
    np.savez(incomplete, **statistics, **shard.index._asdict())
    incomplete.rename(path)


def _whole_shards(partial: pathlib.Path, split: str) -> list[Shard]:
    """Returns the statistics of the shards that an earlier call completed, in order."""
    shards: list[Shard] = []
    while True:
        path = _shard_path(partial, split, len(shards))
        try:
            with np.load(_facts_path(partial, split, len(shards))) as arrays:
                facts = index.Index(*(arrays[name] for name in index.Index._fields))
                shard = Shard(
                    arrays['counts'], arrays['ids'], arrays['sizes'], facts, int(arrays['bytes'])
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return shards
        if not path.is_file() or path.stat().st_size != shard.bytes:
            return shards
        shards.append(shard)


def _finish(
    dataset: Dataset,
    builder: SegmentationBuilder,
    shards: Mapping[str, list[Shard]],
    partial: pathlib.Path,
) -> None:
    """Gives the shards the names of TFDS, and writes the files that describe them."""
    # Collect the statistics of each split.
    metadata = builder.info.metadata
    splits = []
    indices = {}
    for split, of_split in shards.items():
        counts = sum(shard.counts for shard in of_split)
        sizes = np.concatenate([shard.sizes for shard in of_split])
        metadata['class_pixels'][split] = counts[: dataset.classes.num_classes].tolist()
        metadata['void_pixels'][split] = int(counts[IGNORE])
        metadata['max_size'][split] = sizes.max(axis=0).tolist()
        metadata['shard_bytes'][split] = [shard.bytes for shard in of_split]
        lengths = [len(shard.sizes) for shard in of_split]
        num_bytes = sum(shard.bytes for shard in of_split)
        splits.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=num_bytes))
        indices[split] = index.concatenate([shard.index for shard in of_split])

    # Write the descriptions and the index, then give the shards their final names.
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.write_to_directory(partial)
    index.save(partial, indices)
    for split, of_split in shards.items():
        for number in range(len(of_split)):
            final = f'{dataset.name}-{split}.array_record-{number:05}-of-{len(of_split):05}'
            _shard_path(partial, split, number).rename(partial / final)


def tfds_feature(feature: Feature) -> tfds.features.FeatureConnector:
    """Returns the TFDS type of a feature, which works without TensorFlow.

    Images are passed to TFDS encoded, because arrays would need TensorFlow. TFDS stores an array
    without `encoding` as a list of numbers, which takes twenty times as long for a dense map.

    Args:
      feature: from `kinds.feature_of`.
    """
    F = tfds.features
    dtype = np.dtype(feature.dtype)
    shape = (None, None, *feature.shape) if kinds.KINDS[feature.kind].is_map else feature.shape
    storage = kinds.KINDS[feature.kind].storage
    if storage == 'text':
        return F.Text()
    if storage == 'image':
        return F.Image(shape=(None, None, *(feature.shape or (1,))), dtype=dtype.type)
    if shape == ():
        return F.Scalar(dtype.type)
    if storage == 'numbers':
        return F.Tensor(shape=shape, dtype=dtype.type)
    encoding = 'bytes' if dtype.kind == 'f' else 'zlib'
    return F.Tensor(shape=shape, dtype=dtype.type, encoding=encoding)


def stored_form(value: Any, feature: Feature) -> Any:
    """Returns a value in the form that `tfds_feature` takes.

    Arrays of images and maps of ids are encoded as PNG. Encoded files and text stay as they are.
    """
    if not isinstance(value, np.ndarray):
        return value
    value = value.astype(feature.dtype, copy=False)
    if kinds.KINDS[feature.kind].storage == 'image':
        return image_files.encode_png(value)
    return value
