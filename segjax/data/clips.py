"""Video: examples together with their neighbours in the same clip."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.data import index
from segjax.data.kinds import FRAMES as SUFFIX
from segjax.errors import InputError

OpenSplit = Callable[[str, Sequence[str]], Any]
"""(split, features) -> source with the attributes `features` and `declared`."""


class Row(NamedTuple):
    """Positions in a split of an example and of its neighbours."""

    example: int
    neighbours: tuple[int, ...]


def rows(sequences: Sequence[str], frames: Sequence[int], offsets: Sequence[int]) -> list[Row]:
    """Returns the examples that have a neighbour at every offset, in order.

    Args:
      sequences: clip of each example.
      frames: number of each example in its clip.
      offsets: of the neighbours, for example (-1, 1).
    """
    places = list(zip(sequences, frames, strict=True))
    position_of = {place: position for position, place in enumerate(places)}
    complete = []
    for position, (sequence, frame) in enumerate(places):
        neighbours = tuple(position_of.get((sequence, frame + offset), -1) for offset in offsets)
        if -1 not in neighbours:
            complete.append(Row(position, neighbours))
    return complete


def no_neighbours(where: str, offsets: Sequence[int], among: str = '') -> InputError:
    """Returns the error for a split in which no frame has all its neighbours.

    Args:
      where: names the split.
      offsets: of the neighbours.
      among: the chosen frames in words, for example ', of the 3 that are chosen'.
    """
    places = ', '.join(f'{offset:+d}' for offset in offsets)
    got = f'no frame with neighbours at {places} in its clip{among}'
    return InputError(where, got=got, expected='clips of consecutive frames')


class Clips:
    """Random access to the examples of a split that have all their neighbours.

    Each example contains the requested features of its neighbours.

    Args:
      folder, split, where: see `SplitSource`.
      features: keys of the examples. 'image_frames' is [n, H, W, 3], 'image' of the neighbours.
      offsets: of the neighbours in the numbering of the clip, not 0.
      among: positions of the chosen examples, None for all. Neighbours may be any frame.
      open_split: opens features of a split: (split, features) -> source.

    Raises:
      InputError: no example has all its neighbours, or an error of `open_split`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        split: str,
        features: Sequence[str],
        offsets: Sequence[int],
        where: str,
        among: Iterable[int] | None,
        open_split: OpenSplit,
    ):
        # Examples and neighbours have different features, so each has a source.
        own = [name for name in features if not name.endswith(SUFFIX)]
        borrowed = [name.removesuffix(SUFFIX) for name in features if name.endswith(SUFFIX)]
        self._examples = open_split(split, own)
        self._neighbours = open_split(split, borrowed)
        self.declared = self._examples.declared

        # Choose the examples that have all their neighbours.
        facts = index.load(folder, split)
        self._rows = rows(facts.sequence.tolist(), facts.frame.tolist(), offsets)
        chosen = ''
        if among is not None:
            among = frozenset(among)
            self._rows = [row for row in self._rows if row.example in among]
            chosen = f', of the {len(among)} that are chosen'
        if not self._rows:
            raise no_neighbours(f'split {split!r} of {where}', offsets, chosen)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = self._rows[index]
        neighbours = [self._neighbours[position] for position in row.neighbours]
        example = self._examples[row.example]
        for feature in self._neighbours.features:
            example[feature + SUFFIX] = np.stack([neighbour[feature] for neighbour in neighbours])
        return example
