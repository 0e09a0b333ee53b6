"""Facts about every example of prepared records, and the choice of examples from these facts.

The file `index.npz` of a records folder holds the facts. It has a few bytes for each example, so
that a choice among a hundred thousand frames reads no frame.
"""

import collections
import dataclasses
import functools
import hashlib
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import tensorflow_datasets as tfds

from segjax.data import kinds
from segjax.errors import InputError, first_line, unknown_name
from segjax.spec import IGNORE, ClassMap, Feature

FILE = 'index.npz'
FIRST = ('labelled_pixels', 'void_pixels', 'sequence', 'frame')
"""Columns of every index."""
LATER = ('class_pixels', 'name', 'size')
"""Columns that an older index lacks. They are added once."""


class Index(NamedTuple):
    """Facts about the examples of a split, in their order.

    labelled_pixels  [N] int64, pixels of the label that belong to a class
    void_pixels      [N] int64, ignored pixels of the label
    sequence         [N] str, clip of the example, '' for stills
    frame            [N] int64, number of the example in its clip
    digest           [N, 16] uint8, hash of the content, or [N, 0] in records without digests
    class_pixels     [N, C] uint32, pixels of each class, or [N, 0] in an older index
    name             [N] str, name of the example, '' in an older index
    size             [N, 2] int32, (height, width) of the label, or [N, 0] in an older index
    """

    labelled_pixels: np.ndarray
    void_pixels: np.ndarray
    sequence: np.ndarray
    frame: np.ndarray
    digest: np.ndarray
    class_pixels: np.ndarray
    name: np.ndarray
    size: np.ndarray


class Fact(NamedTuple):
    """A row of an `Index`."""

    labelled_pixels: int
    void_pixels: int
    sequence: str
    frame: int
    digest: bytes
    class_pixels: np.ndarray
    name: str
    size: tuple[int, int]


def fact(
    histogram: np.ndarray,
    size: tuple[int, int],
    num_classes: int,
    example: Mapping[str, Any],
    declared: Mapping[str, Feature] = {},
) -> Fact:
    """Returns the facts about an example.

    Args:
      histogram: [256] pixels of each train id in its label.
      size: (height, width) of its label.
      num_classes: of the data set.
      example: the features that the records keep of it. Images are encoded.
      declared: `Dataset.declared`.
    """
    void = int(histogram[IGNORE])
    labelled = int(histogram.sum()) - void
    return Fact(
        labelled,
        void,
        example.get('sequence', ''),
        int(example.get('frame', 0)),
        content_digest(example, declared),
        histogram[:num_classes].astype(np.uint32),
        example.get('name', ''),
        size,
    )


def content_digest(example: Mapping[str, Any], declared: Mapping[str, Feature] = {}) -> bytes:
    """Returns 16 bytes that depend on the content of an example, and not on its name.

    Images count by their encoded bytes. Labels and additional maps of ids count by their values,
    because an encoder may compress equal values differently.

    Args:
      example: the features that the records keep of it. Images are encoded, maps of ids may be.
      declared: `Dataset.declared`.
    """
    content = hashlib.blake2b(digest_size=16)
    for feature in sorted(set(example) - {'name'}):
        value = example[feature]

        # Maps of ids count by their values.
        if isinstance(value, bytes) and kinds.feature_of(feature, declared).kind != 'image':
            value = np.asarray(cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED))

        # A header with type and shape keeps neighbouring features apart.
        if isinstance(value, np.ndarray):
            value = np.asarray(value, np.float32 if value.dtype.kind == 'f' else value.dtype)
            content.update(f'{feature} {value.dtype} {value.shape} '.encode())
            content.update(np.ascontiguousarray(value))
        else:
            value = value if isinstance(value, bytes) else str(value).encode()
            content.update(f'{feature} {len(value)} '.encode())
            content.update(value)
    return content.digest()


def split_digest(index: Index) -> str:
    """Returns 32 hexadecimal digits for the content of a split in order, '' without digests."""
    if index.digest.size == 0:
        return ''
    return hashlib.blake2b(index.digest.tobytes(), digest_size=16).hexdigest()


def spec_fields(splits: Mapping[str, Index]) -> dict[str, Any]:
    """Returns the fields of a DataSpec that follow from the indices of its splits.

    The fields are num_unlabelled, unlabelled_pixels and digest. Splits with the value 0 or '' are
    absent.
    """
    num_unlabelled = {}
    unlabelled_pixels = {}
    digests = {}
    for split, index in splits.items():
        pixels = index.void_pixels[~is_labelled(index)]
        if len(pixels):
            num_unlabelled[split] = len(pixels)
            unlabelled_pixels[split] = int(pixels.sum())
        digest = split_digest(index)
        if digest:
            digests[split] = digest
    return {
        'num_unlabelled': num_unlabelled,
        'unlabelled_pixels': unlabelled_pixels,
        'digest': digests,
    }


def of_facts(facts: Iterable[Fact]) -> Index:
    """Builds the index of a split from the facts of its examples, in order."""
    columns = Fact(*zip(*facts, strict=True))
    return Index(
        np.array(columns.labelled_pixels, np.int64),
        np.array(columns.void_pixels, np.int64),
        np.array(columns.sequence),
        np.array(columns.frame, np.int64),
        np.frombuffer(b''.join(columns.digest), np.uint8).reshape(len(columns.digest), -1),
        np.stack(columns.class_pixels),
        np.array(columns.name),
        np.array(columns.size, np.int32),
    )


def rows(index: Index) -> tuple[Fact, ...]:
    """Returns the facts about each example of an index."""
    columns = {name: column.tolist() for name, column in index._asdict().items()}
    columns['digest'] = [bytes(digest) for digest in columns['digest']]
    columns['class_pixels'] = list(index.class_pixels)
    return tuple(Fact(*values) for values in zip(*columns.values(), strict=True))


def sizes(index: Index) -> collections.Counter:
    """Returns the number of labels of each (height, width)."""
    return collections.Counter(map(tuple, index.size.tolist()))


def taken(index: Index, positions: Sequence[int]) -> Index:
    """Returns the index of the examples at these positions, in this order."""
    rows = np.asarray(positions, np.int64)
    return Index(*(column[rows] for column in index))


def merged(index: Index, class_map: ClassMap) -> Index:
    """Returns the index of the same examples with merged classes.

    Pixels of classes that the map leaves out are ignored pixels.
    """
    num_classes = class_map.classes.num_classes
    pixels = np.zeros((len(index.frame), num_classes), np.uint32)
    for before, after in enumerate(class_map.train_ids):
        if after != IGNORE:
            pixels[:, after] += index.class_pixels[:, before]
    labelled = pixels.sum(axis=1, dtype=np.int64)
    return index._replace(
        labelled_pixels=labelled,
        void_pixels=index.void_pixels + index.labelled_pixels - labelled,
        class_pixels=pixels,
    )


def save(folder: pathlib.Path, splits: Mapping[str, Index]) -> None:
    """Writes the index of every split. The file appears when it is complete."""
    arrays = {}
    for split, index in splits.items():
        for name, values in index._asdict().items():
            arrays[f'{split}/{name}'] = values
    partial = folder / f'partial_{FILE}'
    np.savez_compressed(partial, **arrays)
    partial.rename(folder / FILE)


PREPARE_AGAIN = 'start again: the data set is prepared again'


def open_records(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of records.

    Raises:
      InputError: the records disappeared or were damaged after they were checked.
    """
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS raises errors of many types for missing and damaged files
        raise InputError(
            str(folder),
            got=f'records that cannot be read: {first_line(error)}',
            expected='whole prepared records',
            fix=PREPARE_AGAIN,
        ) from error


def load(folder: pathlib.Path, split: str) -> Index:
    """Reads the index of a split: 'train', 'val[:10%]' or 'train+val'.

    Raises:
      ValueError: a malformed split.
    """
    splits = open_records(folder).info.splits
    counts = {name: splits[name].num_examples for name in splits}
    return select(split, counts, functools.partial(of_split, folder))


class Slice(NamedTuple):
    """Consecutive examples of a plain split, from `first` to before `end`."""

    split: str
    first: int
    end: int


def slices(split: str, counts: Mapping[str, int]) -> list[Slice]:
    """Returns the slices of plain splits that a TFDS split consists of.

    Args:
      split: 'train', 'val[:10%]' or 'train+val'.
      counts: number of examples of each plain split.

    Raises:
      ValueError: a malformed split.
    """
    infos = {name: types.SimpleNamespace(num_examples=count) for name, count in counts.items()}
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    places = []
    for part in parts:
        first, end, _ = slice(part.from_, part.to).indices(counts[part.splitname])
        places.append(Slice(part.splitname, first, end))
    return places


def select(split: str, counts: Mapping[str, int], of_split: Callable[[str], Index]) -> Index:
    """Returns the index of slices and sums of splits.

    Args:
      split: 'train', 'val[:10%]' or 'train+val'.
      counts: number of examples of each plain split.
      of_split: returns the index of a plain split.

    Raises:
      ValueError: a malformed split.
    """
    parts = []
    for name, first, end in slices(split, counts):
        parts.append(Index(*(column[first:end] for column in of_split(name))))
    return concatenate(parts)


def concatenate(indices: Sequence[Index]) -> Index:
    """Joins the indices of consecutive examples."""
    return Index(*map(np.concatenate, zip(*indices, strict=True)))


@functools.lru_cache(maxsize=16)
def of_split(folder: pathlib.Path, split: str) -> Index:
    """Reads the whole index of a plain split, once, because records do not change."""
    columns = {}
    with np.load(folder / FILE) as arrays:
        for name in Index._fields:
            if f'{split}/{name}' in arrays:
                columns[name] = arrays[f'{split}/{name}']
    # Older records have fewer columns.
    num_examples = len(columns['frame'])
    columns.setdefault('digest', np.zeros((num_examples, 0), np.uint8))
    columns.setdefault('class_pixels', np.zeros((num_examples, 0), np.uint32))
    columns.setdefault('name', np.zeros(num_examples, 'U1'))
    columns.setdefault('size', np.zeros((num_examples, 0), np.int32))
    return Index(**columns)


def forget() -> None:
    """Forgets the indices that were read, because records were replaced."""
    of_split.cache_clear()


def is_complete(folder: pathlib.Path) -> bool:
    """Returns whether the index of a records folder exists and has all columns except the digest.

    Raises:
      Exception: an error of NumPy or of the system, because the file is damaged.
    """
    if not (folder / FILE).exists():
        return False
    with np.load(folder / FILE) as arrays:
        present = set(arrays.files)
    splits = {name.partition('/')[0] for name in present}
    return all(f'{split}/{name}' in present for split in splits for name in LATER)


def check_index(folder: pathlib.Path, num_examples: Mapping[str, int]) -> None:
    """Reads the index and raises an error of NumPy or ValueError if it is damaged."""
    with np.load(folder / FILE) as arrays:
        for split, count in num_examples.items():
            present = [name for name in LATER if f'{split}/{name}' in arrays]
            for name in (*FIRST, *present):
                if len(arrays[f'{split}/{name}']) != count:
                    raise ValueError(f'{FILE}: not {count} rows of {split}/{name}')


# --- the choice of examples -----------------------------------------------------------------------


def part_positions(num_examples: int, first: int, end: int) -> np.ndarray:
    """Returns the positions of a part of the examples, in the order of all parts.

    The order is shuffled and depends on the number of examples alone. So all runs have the same
    parts.

    Args:
      num_examples: of all parts.
      first, end: `Input.bounds` of the part.
    """
    return np.random.default_rng(0).permutation(num_examples)[first:end]


def is_labelled(index: Index) -> np.ndarray:
    """Returns which examples have a labelled pixel, bool [N]."""
    return index.labelled_pixels > 0


CHOICES = {'all': lambda index: np.ones(len(index.frame), bool), 'labelled': is_labelled}
"""For each value of `Input.examples` a function from an index to a mask of examples, bool [N]."""


def positions(index: Index, examples: str) -> np.ndarray:
    """Returns the positions in the split of the chosen examples, ascending.

    Args:
      index: of the split.
      examples: `Input.examples`.

    Raises:
      InputError: an unknown choice.
    """
    if examples not in CHOICES:
        raise unknown_name('examples of an input', examples, CHOICES)
    return np.flatnonzero(CHOICES[examples](index))


class Source(Protocol):
    """Random access to examples, from several threads at once.

    With `data.workers` > 0 a source must also survive cloudpickle.

    A source whose examples contain random choices has a method `draw(index, rng) -> example`. Its
    `source[index]` draws with `evaluation_generator(index)`. A source that wraps another source
    passes the generator on, through `read_example`.
    """

    def __len__(self) -> int:
        """Returns the number of examples."""

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Reads an example: {feature: value}."""


def evaluation_generator(index: int) -> np.random.Generator:
    """Returns the random numbers of an example outside of training.

    They depend on the index alone. So scores and pictures show the same choices in every run, on
    any number of processes and workers.

    Args:
      index: position among the examples of an input, batch['index'].
    """
    return np.random.default_rng(index)


def read_example(source: Source, index: int, rng: np.random.Generator) -> Mapping[str, Any]:
    """Reads an example. Its random choices, if it has any, use the random numbers of `rng`."""
    draw = getattr(source, 'draw', None)
    return source[index] if draw is None else draw(index, rng)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Some examples of a source, in the order of `indices`. It can be pickled if the source can."""

    source: Source
    indices: tuple[int, ...]

    @property
    def declared(self) -> Mapping[str, Feature]:
        """Returns the declared features of the source."""
        return getattr(self.source, 'declared', {})

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.draw(index, evaluation_generator(index))

    def draw(self, index: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """Reads an example with the random choices of a generator."""
        return read_example(self.source, self.indices[index], rng)
