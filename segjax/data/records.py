"""Prepared records: a data set written once as TFDS array records, read at random afterwards.

Records lie in `{cache}/{name}-{fingerprint}`. The fingerprint is a hash of all that they depend on (format, options of
the data set, names, sizes and times of its files), so a changed folder is prepared again and never mixed up with
what it was. They are written next to that folder and renamed when they are complete: a killed preparation leaves
nothing that could be read.
"""

import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging

from segjax.data import index
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Item
from segjax.data.spec import IGNORE, ClassSpec, DataSpec, split_names
from segjax.errors import InputError, unknown_name

EXAMPLES_PER_SHARD = 64
"""TFDS holds the examples of one shard in memory while it writes them."""


class SegmentationBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """The TFDS builder of every data set.

    Shard by shard, because GeneratorBasedBuilder shuffles more than 1 GB through TensorFlow's files, and because the
    order of the listing is kept: video stays video.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, dataset: Dataset, listings: Mapping[str, Sequence[Item]], data_dir: pathlib.Path):
        self.name = dataset.name
        self._dataset = dataset
        self._listings = listings
        self._features = dataset.features([item for items in listings.values() for item in items])
        self.indices: dict[str, index.Index] = {}  # by split, once it is written
        super().__init__(data_dir=data_dir, file_format='array_record')

    def _info(self):
        features = tfds.features.FeaturesDict({name: tfds_feature(name) for name in self._features})
        metadata = tfds.core.MetadataDict(
            name=self._dataset.name,
            names=self._dataset.classes.names,
            palette=self._dataset.classes.palette,
            ids=self._dataset.classes.ids,
            features=self._features,
            max_size={},
            class_pixels={},
            void_pixels={},
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True, metadata=metadata)

    def _shard_iterators_per_split(self, dl_manager):
        return {split: self._shards(split, items) for split, items in self._listings.items()}

    def _shards(self, split: str, items: Sequence[Item]):
        # TFDS asks for the shards in turn: each takes the next examples of the one stream.
        stream = self._examples(split, items)
        full = [functools.partial(itertools.islice, stream, EXAMPLES_PER_SHARD)] * (
            (len(items) - 1) // EXAMPLES_PER_SHARD
        )
        return [*full, lambda: stream]

    def _examples(self, split: str, items: Sequence[Item]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Reads the examples of a split and, at its end, puts their statistics into the metadata."""
        counts = np.zeros(256, np.int64)
        max_size = np.zeros(2, np.int64)
        ids: frozenset[int] = frozenset()
        sizes, facts = [], []
        inspections = base.ordered_map(self._read, items)
        progress = tqdm.tqdm(
            inspections, total=len(items), desc=f'prepare {self.name} {split}', unit='image', mininterval=1
        )
        for key, (inspection, fact) in enumerate(progress):
            base.raise_first(inspection.problems)
            features, histogram, size = inspection.record
            counts += histogram
            max_size = np.maximum(max_size, size)
            ids |= inspection.ids
            sizes.append(size)
            facts.append(fact)
            yield key, {name: features[name] for name in self._features}
        base.raise_first(base.check_classes(self._dataset, items, counts, ids))
        base.raise_first(base.check_clips(zip(items, sizes, strict=True)))
        self._store(split, counts, max_size)
        self.indices[split] = index.of_facts(facts)

    def _read(self, item: Item) -> tuple[base.Inspection, index.Fact | None]:
        """Reads an example and the facts about it; runs in several threads."""
        inspection = self._dataset.inspect(item)
        if inspection.record is None:
            return inspection, None
        stored = {name: inspection.record.features[name] for name in self._features}
        return inspection, index.fact(inspection.record.histogram, stored)

    def _store(self, split: str, counts: np.ndarray, max_size: np.ndarray) -> None:
        metadata = self.info.metadata
        metadata['class_pixels'][split] = counts[: self._dataset.classes.num_classes].tolist()
        metadata['void_pixels'][split] = int(counts[IGNORE])
        metadata['max_size'][split] = max_size.tolist()

    def _log_download_bytes(self):
        """Says nothing: there is no download."""

    def _log_download_done(self):
        """Says nothing: the folder is still going to be renamed."""


def tfds_feature(name: str) -> tfds.features.FeatureConnector:
    """How a feature is stored. Images are given to TFDS encoded (arrays would need TensorFlow)."""
    F = tfds.features
    kind = name.split('_')[0]
    if kind in ('image', 'label', 'instance'):
        channels, dtype = {'image': (3, np.uint8), 'label': (1, np.uint8), 'instance': (1, np.uint16)}[kind]
        return F.Image(shape=(None, None, channels), dtype=dtype)
    if kind == 'depth':
        return F.Tensor(shape=(None, None), dtype=np.float32, encoding='bytes')
    if kind in ('intrinsics', 'pose'):
        side = {'intrinsics': 3, 'pose': 4}[kind]
        return F.Tensor(shape=(side, side), dtype=np.float32)
    return {'sequence': F.Text(), 'name': F.Text(), 'frame': F.Scalar(np.int32)}[name]


def fingerprint(dataset: Dataset, listings: Mapping[str, Sequence[Item]]) -> str:
    """16 hexadecimal digits that change with anything the records depend on."""
    content = [str(SegmentationBuilder.VERSION), dataset.name, dataset.options()]
    for split, items in listings.items():
        for item in items:
            state = [(feature, *_file_state(path)) for feature, path in sorted(item.files.items())]
            content.append((split, item.name, item.sequence, item.frame, state))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _file_state(path: pathlib.Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(str(path), got=str(error), expected='a readable file') from error
    return path.name, stat.st_size, stat.st_mtime_ns


def cache_folder(cache: str) -> pathlib.Path:
    """config.data.cache, else $SEGJAX_CACHE, else ~/.cache/segjax."""
    return pathlib.Path(cache or os.environ.get('SEGJAX_CACHE', '') or '~/.cache/segjax').expanduser()


def prepared(dataset: Dataset, cache: str) -> pathlib.Path:
    """The folder with the records of a data set, written now if they are not there.

    Several processes may ask at once: one writes, the others wait for it.

    Raises:
      InputError: the first thing that is wrong with the data set, or a cache folder that cannot be written.
    """
    listings = {split: dataset.listing(split) for split in dataset.splits()}
    root = cache_folder(cache)
    folder = root / f'{dataset.name}-{fingerprint(dataset, listings)}'
    if (folder / index.FILE).exists():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / f'{folder.name}.lock').open('w')
    except OSError as error:
        fix = 'set config.data.cache or $SEGJAX_CACHE to a folder with enough space'
        raise InputError('config.data.cache', got=str(error), expected='a folder to write to', fix=fix) from error
    with lock, _locked(lock, folder):
        if not folder.is_dir():
            _write(dataset, listings, folder)
        if not (folder / index.FILE).exists():
            _complete(folder)
    return folder


@contextlib.contextmanager
def _locked(lock, folder: pathlib.Path):
    """Holds the file lock; the system drops it when the process ends, however it ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logging.info('waiting for another process that prepares %s', folder)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        fix = 'set config.data.cache or $SEGJAX_CACHE to a folder on a local disk'
        where = f'config.data.cache {folder.parent}'
        raise InputError(where, got=f'no file locks ({error})', expected='a file system with them', fix=fix) from error
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


def _write(dataset: Dataset, listings: Mapping[str, Sequence[Item]], folder: pathlib.Path) -> None:
    partial = folder.with_name(f'{folder.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: the lock says that nobody uses it
    try:
        builder = SegmentationBuilder(dataset, listings, data_dir=partial)
        builder.download_and_prepare(download_dir=partial / 'downloads')
        index.save(pathlib.Path(builder.data_dir), builder.indices)
        pathlib.Path(builder.data_dir).rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _complete(folder: pathlib.Path) -> None:
    """Adds the index to records that were written without it."""
    print(f'{folder}: these records have no index; every label is read once to make it', flush=True)
    info = tfds.builder_from_directory(folder).info
    indices = {}
    for split in info.splits:
        source = SplitSource(folder, split, tuple(info.features), str(folder), encoded=True)
        facts = base.ordered_map(lambda i, source=source: _fact(source[i]), range(len(source)))
        progress = tqdm.tqdm(facts, total=len(source), desc=f'index {split}', unit='image', mininterval=1)
        indices[split] = index.of_facts(progress)
    index.save(folder, indices)


def _fact(example: Mapping[str, Any]) -> index.Fact:
    return index.fact(base.histogram(example['label']), example)


def load_spec(folder: pathlib.Path) -> DataSpec:
    """What the records in `folder` are, without reading an image."""
    info = tfds.builder_from_directory(folder).info
    metadata = info.metadata
    unlabelled, digest = {}, {}
    for split in info.splits:
        of_split = index.load(folder, split)
        unlabelled[split] = of_split.void_pixels[~index.is_labelled(of_split)]
        digest[split] = index.split_digest(of_split)
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
        num_unlabelled={split: len(pixels) for split, pixels in unlabelled.items() if len(pixels)},
        unlabelled_pixels={split: int(pixels.sum()) for split, pixels in unlabelled.items() if len(pixels)},
        digest={split: value for split, value in digest.items() if value},
    )


class SplitSource:
    """Random access to the examples of a split: `len(source)`, `source[i] -> {feature: value}`.

    image [H, W, 3] uint8, label [H, W] uint8 train ids, instance [H, W] uint16 (0: none), depth [H, W] float32
    (metres), intrinsics [3, 3] and pose [4, 4] float32, sequence and name str, frame int. Only the features asked for
    are decoded. May be read from several threads and be pickled.

    Args:
      folder: of the records.
      split: a TFDS split, slices and sums included: 'train', 'val[:10%]', 'train+val'.
      features: wanted.
      where: what errors call the data set.
      encoded: whether images come as the bytes of their files.

    Raises:
      InputError: for an unknown, malformed or empty split, or a feature that the records do not have.
    """

    def __init__(self, folder: pathlib.Path, split: str, features: Sequence[str], where: str, encoded: bool = False):
        self._arguments = (folder, split, tuple(features), where, encoded)
        builder = tfds.builder_from_directory(folder)
        for feature in features:
            if feature not in builder.info.features:
                error = unknown_name(f'feature {feature!r}', feature, builder.info.features)
                raise InputError(error.where, got=f'not in {where}', expected=error.expected, fix=error.fix)
        self.features = tuple(features)
        skipped = [name for name in builder.info.features if name not in features]
        if encoded:
            skipped += [name for name in features if name.startswith('image')]
        decoders = {name: tfds.decode.SkipDecoding() for name in skipped}
        self._source = _open(builder, split, decoders, where)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._source[index]
        return {feature: _plain(feature, example[feature]) for feature in self.features}

    def __reduce__(self):
        return SplitSource, self._arguments


def _open(builder, split: str, decoders, where: str):
    known = ', '.join(builder.info.splits)
    expected = f'one of {known}; also slices and sums, as train[:10%] or train+val'
    try:
        for name in split_names(split):
            if name not in builder.info.splits:
                raise InputError(f'split {split!r} of {where}', got=f'no split {name!r}', expected=expected)
        if builder.info.splits[split].num_examples == 0:
            raise InputError(f'split {split!r} of {where}', got='no examples', expected='at least one')
        return builder.as_data_source(split, decoders=decoders)
    except InputError:
        raise
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[-1]
        raise InputError(f'split {split!r} of {where}', got=reason, expected=expected) from error


def _plain(feature: str, value: Any) -> Any:
    if feature in ('sequence', 'name'):
        return value.decode()
    if isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[-1] == 1:
        return value[..., 0]
    return value
