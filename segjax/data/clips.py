"""Video: examples together with their neighbours in the same clip."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.data import index
from segjax.data.records import SplitSource
from segjax.errors import InputError

SUFFIX = '_frames'
"""'image_frames' is the feature 'image' of the neighbours, [n, ...] in the order of the offsets."""


class Row(NamedTuple):
    """An example of a split, by position, and its neighbours."""

    example: int
    neighbours: tuple[int, ...]


def rows(sequences: Sequence[str], frames: Sequence[int], offsets: Sequence[int]) -> list[Row]:
    """The examples that have a neighbour at every offset, in order.

    Args:
      sequences: clip of each example.
      frames: number of each example in its clip.
      offsets: of the neighbours, as (-1, 1).
    """
    at = {place: i for i, place in enumerate(zip(sequences, frames, strict=True))}
    found = (
        Row(i, tuple(at.get((sequence, frame + offset), -1) for offset in offsets))
        for i, (sequence, frame) in enumerate(zip(sequences, frames, strict=True))
    )
    return [row for row in found if -1 not in row.neighbours]


def no_neighbours(where: str, offsets: Sequence[int], of: str = '') -> InputError:
    """Returns the error for a split without any frame that has all its neighbours.

    Args:
      where: names the split.
      offsets: of the neighbours.
      of: the frames that count, ', of the 3 that are chosen'.
    """
    places = ', '.join(f'{offset:+d}' for offset in offsets)
    got = f'no frame with neighbours at {places} in its clip{of}'
    return InputError(where, got=got, expected='clips of consecutive frames')


class Clips:
    """Random access to the examples of a split that have their neighbours, each with them.

    Args:
      folder, split, where: as SplitSource has them.
      features: wanted; 'image_frames' is [n, H, W, 3], 'image' of the neighbours.
      offsets: of the neighbours in the numbering of the clip, not 0.
      among: positions of the examples to choose from; None: all. Neighbours may be any frame.

    Raises:
      InputError: no example has all its neighbours, or what SplitSource raises.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        split: str,
        features: Sequence[str],
        offsets: Sequence[int],
        where: str,
        among: Iterable[int] | None = None,
    ):
        self._examples = SplitSource(
            folder, split, [f for f in features if not f.endswith(SUFFIX)], where
        )
        borrowed = [
            feature.removesuffix(SUFFIX) for feature in features if feature.endswith(SUFFIX)
        ]
        self._neighbours = SplitSource(folder, split, borrowed, where)
        facts = index.load(folder, split)
        self._rows = rows(facts.sequence.tolist(), facts.frame.tolist(), offsets)
        if among is not None:
            among = frozenset(among)
            self._rows = [row for row in self._rows if row.example in among]
        if not self._rows:
            of = '' if among is None else f', of the {len(among)} that are chosen'
            raise no_neighbours(f'split {split!r} of {where}', offsets, of)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = self._rows[index]
        neighbours = [self._neighbours[i] for i in row.neighbours]
        example = self._examples[row.example]
        for feature in self._neighbours.features:
            example[feature + SUFFIX] = np.stack([neighbour[feature] for neighbour in neighbours])
        return example
