"""Facts about every example of prepared records, and the choice of examples from these facts.

The file `index.npz` of a records folder holds the facts. It has a few bytes for each example, so
that a choice among a hundred thousand frames reads no frame.
"""

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
from segjax.spec import IGNORE, Feature

FILE = 'index.npz'


class Index(NamedTuple):
    """Facts about the examples of a split, in their order.

    labelled_pixels  [N] int64, pixels of the label that belong to a class
    void_pixels      [N] int64, ignored pixels of the label
    sequence         [N] str, clip of the example, '' for stills
    frame            [N] int64, number of the example in its clip
    digest           [N, 16] uint8, hash of the content, or [N, 0] in records without digests
    """

    labelled_pixels: np.ndarray
    void_pixels: np.ndarray
    sequence: np.ndarray
    frame: np.ndarray
    digest: np.ndarray


class Fact(NamedTuple):
    """A row of an `Index`."""

    labelled_pixels: int
    void_pixels: int
    sequence: str
    frame: int
    digest: bytes


def fact(
    histogram: np.ndarray, example: Mapping[str, Any], declared: Mapping[str, Feature] = {}
) -> Fact:
    """Returns the facts about an example.

    Args:
      histogram: [256] pixels of each train id in its label.
      example: the features that the records keep of it. Images are encoded.
      declared: `Dataset.declared`.
    """
    void = int(histogram[IGNORE])
    labelled = int(histogram.sum()) - void
    sequence = example.get('sequence', '')
    digest = content_digest(example, declared)
    return Fact(labelled, void, sequence, int(example.get('frame', 0)), digest)


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
    labelled, void, sequence, frame, digest = zip(*facts, strict=True)
    return Index(
        np.array(labelled, np.int64),
        np.array(void, np.int64),
        np.array(sequence),
        np.array(frame, np.int64),
        np.frombuffer(b''.join(digest), np.uint8).reshape(len(digest), -1),
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
    return select(split, counts, functools.partial(_of_split, folder))


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
    parts = []
    for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(infos):
        # TFDS has None for the ends of a whole split.
        end = counts[part.splitname] if part.to is None else part.to
        parts.append(Slice(part.splitname, part.from_ or 0, end))
    return parts


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
def _of_split(folder: pathlib.Path, split: str) -> Index:
    """Reads the whole index of a plain split, once, because records do not change."""
    columns = {}
    with np.load(folder / FILE) as arrays:
        for name in Index._fields:
            if f'{split}/{name}' in arrays:
                columns[name] = arrays[f'{split}/{name}']
    columns.setdefault('digest', np.zeros((len(columns['frame']), 0), np.uint8))
    return Index(**columns)


def forget() -> None:
    """Forgets the indices that were read, because records were replaced."""
    _of_split.cache_clear()


def check_index(folder: pathlib.Path, num_examples: Mapping[str, int]) -> None:
    """Reads the index and raises an error of NumPy or ValueError if it is damaged."""
    with np.load(folder / FILE) as arrays:
        for split, count in num_examples.items():
            for name in ('labelled_pixels', 'void_pixels', 'sequence', 'frame'):
                if len(arrays[f'{split}/{name}']) != count:
                    raise ValueError(f'{FILE}: not {count} rows of {split}/{name}')


# --- the choice of examples -----------------------------------------------------------------------


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
    """

    def __len__(self) -> int:
        """Returns the number of examples."""

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Reads an example: {feature: value}."""


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
        return self.source[self.indices[index]]
