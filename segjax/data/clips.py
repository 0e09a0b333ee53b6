"""Video: examples together with their neighbours in the same clip."""

import bisect
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.data import index, transforms
from segjax.data.kinds import FRAMES as SUFFIX
from segjax.data.kinds import PRESENT
from segjax.errors import InputError
from segjax.protocol import DrawnFrames, TableFrames
from segjax.spec import Feature

ABSENT = -1
"""Position of a frame that does not exist."""

OpenSplit = Callable[[str, Sequence[str]], Any]
"""(split, features) -> source with the attributes `features` and `declared`."""

Frames = tuple[int, ...] | DrawnFrames | TableFrames
"""The type of `Input.frames`."""


class Places:
    """Positions in a split of the frames of its clips.

    The memory is linear in the number of frames, for any number of offsets.

    Args:
      sequences: [N] clip of each example.
      frames: [N] number of each example in its clip. Of equal numbers, the last example counts.
    """

    def __init__(self, sequences: Sequence[str] | np.ndarray, frames: Sequence[int] | np.ndarray):
        names, clip = np.unique(np.asarray(sequences), return_inverse=True)
        self._frames = np.asarray(frames, np.int64)

        # All positions, by clip and then by number. Clip c has the places ends[c] .. ends[c + 1].
        self._order = np.lexsort((self._frames, clip))
        self._numbers = self._frames[self._order]
        self._clip = clip
        self._ends = np.searchsorted(clip[self._order], np.arange(len(names) + 1))

    def __len__(self) -> int:
        return len(self._frames)

    def clips(self) -> Iterator[np.ndarray]:
        """Yields the positions of each clip, in the order of their numbers."""
        for first, end in itertools.pairwise(self._ends):
            yield self._order[first:end]

    def neighbours(self, positions: int | np.ndarray, offsets: Sequence[int]) -> np.ndarray:
        """Returns the positions of the frames at K offsets, ABSENT where there is no frame.

        Args:
          positions: [...] of examples of a single clip.
          offsets: [K] in the numbering of the clip.

        Returns:
          [..., K] int64.
        """
        positions = np.asarray(positions)
        clip = self._clip[positions.flat[0]]
        first = self._ends[clip]
        end = self._ends[clip + 1]
        numbers = self._numbers[first:end]
        wanted = self._frames[positions][..., None] + np.asarray(offsets, np.int64)
        place = np.searchsorted(numbers, wanted, side='right') - 1
        exists = (place >= 0) & (numbers[place] == wanted)
        return np.where(exists, self._order[first + place], ABSENT)


def with_neighbours(
    facts: index.Index, frames: Frames, among: Iterable[int] | None = None
) -> np.ndarray:
    """Returns the positions [M] of the examples that have all their neighbours.

    For `DrawnFrames` these are the examples with enough frames to draw from. All examples have a
    row of a table.

    Args:
      facts: about the examples of a split.
      frames: `Input.frames`, not ().
      among: positions of the chosen examples, whose order the result keeps. None: all, ascending.
    """
    chosen = np.arange(len(facts.frame)) if among is None else np.fromiter(among, np.int64)
    if isinstance(frames, TableFrames):
        return chosen
    drawn = isinstance(frames, DrawnFrames)
    offsets = _other_offsets(frames) if drawn else frames
    needed = _num_needed(frames)
    places = Places(facts.sequence, facts.frame)
    complete = np.zeros(len(places), bool)
    for members in places.clips():
        exist = places.neighbours(members, offsets) != ABSENT
        complete[members] = exist.sum(axis=1) >= needed
    return chosen[complete[chosen]]


def keeps_all(frames: Frames) -> bool:
    """Returns whether every example is read, whatever neighbours it has."""
    return isinstance(frames, TableFrames) or _num_needed(frames) == 0


def _num_needed(frames: Frames) -> int:
    """Returns the number of neighbours that must exist for an example to be read."""
    if isinstance(frames, DrawnFrames):
        return 0 if frames.fill else frames.count - 1
    return len(frames)


def no_neighbours(where: str, frames: Frames, among: str = '') -> InputError:
    """Returns the error for a split in which no frame has all its neighbours.

    Args:
      where: names the split.
      frames: `Input.frames`.
      among: the chosen frames in words, for example ', of the 3 that are chosen'.
    """
    if isinstance(frames, DrawnFrames):
        offsets = sorted({0, *frames.offsets})
        got = (
            f'no frame with {frames.count} frames from {offsets[0]:+d} to {offsets[-1]:+d} '
            f'in its clip{among}'
        )
        return InputError(where, got=got, expected=f'a clip with {frames.count} such frames')
    places = ', '.join(f'{offset:+d}' for offset in frames)
    got = f'no frame with neighbours at {places} in its clip{among}'
    return InputError(where, got=got, expected='clips of consecutive frames')


# --- the neighbours of an example -----------------------------------------------------------------


Neighbours = Callable[[int, Mapping[str, Any], np.random.Generator], Sequence[int] | np.ndarray]
"""(position, features of the example, generator) -> positions of its neighbours."""


class AtOffsets(NamedTuple):
    """Finds the neighbours at fixed offsets.

    places   frames of the split
    offsets  in the numbering of the clip
    """

    places: Places
    offsets: tuple[int, ...]

    def __call__(
        self, position: int, example: Mapping[str, Any], rng: np.random.Generator
    ) -> np.ndarray:
        return self.places.neighbours(position, self.offsets)


class Drawn(NamedTuple):
    """Draws neighbours without replacement. The example itself is always among them.

    All sets of `count` frames that contain the example have the same probability. The frames are
    in the order of their numbers.

    places   frames of the split
    frames   number and offsets of the neighbours. With `fill`, the example is repeated in the place
             of missing frames
    """

    places: Places
    frames: DrawnFrames

    def __call__(
        self, position: int, example: Mapping[str, Any], rng: np.random.Generator
    ) -> np.ndarray:
        # The frames before and behind the example that exist, in order.
        offsets = _other_offsets(self.frames)
        candidates = self.places.neighbours(position, offsets)
        exist = np.flatnonzero(candidates != ABSENT)

        # The example goes between them, and takes the places of missing frames.
        number = min(self.frames.count - 1, len(exist))
        drawn = np.sort(rng.choice(exist, number, replace=False))
        before = np.count_nonzero(np.take(offsets, drawn) < 0)
        own = np.full(self.frames.count - number, position)
        return np.insert(candidates[drawn], before, own)


def _other_offsets(frames: DrawnFrames) -> list[int]:
    """Returns the offsets of the frames that are drawn in addition to the example, ascending."""
    return sorted(set(frames.offsets) - {0})


class FromTable(NamedTuple):
    """Reads the positions of the neighbours from a feature of the example.

    A table counts positions in the plain split in which the example lies. So the table of 'train'
    is right for 'train[:10%]' and for 'val+train' without a change. Neighbours of an example of
    'train[:10%]' may be any examples of 'train'.

    slices  parts of plain splits that make up the split, in order
    firsts  by plain split: first position in the source of the neighbours
    counts  by plain split: number of examples
    frames  number of the neighbours, and name of the feature. With `drawn`, a position of each row
            is drawn. A row without a position gives the example itself
    where   the name of the data set in errors
    """

    slices: tuple[index.Slice, ...]
    firsts: Mapping[str, int]
    counts: Mapping[str, int]
    frames: TableFrames
    where: str

    def __call__(
        self, position: int, example: Mapping[str, Any], rng: np.random.Generator
    ) -> np.ndarray:
        # The plain split of the example.
        ends = list(itertools.accumulate(part.end - part.first for part in self.slices))
        number = bisect.bisect_right(ends, position)
        split = self.slices[number].split

        # The table of the example.
        table = np.asarray(example[self.frames.table])
        self._check(table, split, position)
        if not self.frames.drawn:
            return self.firsts[split] + table.astype(np.int64)

        # Every row draws a number, so later draws do not depend on the table.
        shares = rng.random(self.frames.count)
        own = self.slices[number].end + position - ends[number]
        places = []
        for row, share in zip(table, shares, strict=True):
            candidates = row[row >= 0]
            chosen = int(share * len(candidates))
            places.append(int(candidates[chosen]) if len(candidates) else own)
        return self.firsts[split] + np.array(places, np.int64)

    def _check(self, table: np.ndarray, split: str, position: int) -> None:
        """Raises InputError for a table of another shape or type, or a position that is wrong.

        Args:
          table: of an example.
          split: plain split of the example.
          position: of the example, for the error.
        """
        where = f'feature {self.frames.table!r} of example {position} of {self.where}'
        drawn = self.frames.drawn
        num_axes = 2 if drawn else 1
        fits = table.ndim == num_axes and len(table) == self.frames.count
        if not fits or table.dtype.kind not in 'iu':
            shape = f'({self.frames.count}, M)' if drawn else f'({self.frames.count},)'
            raise InputError(
                where,
                got=f'{table.dtype} of shape {table.shape}',
                expected=f'{self.frames.count} positions: whole numbers of shape {shape}',
            )
        count = self.counts[split]
        outside = table[(table < (ABSENT if drawn else 0)) | (table >= count)]
        if outside.size:
            none = f', or {ABSENT} for none' if drawn else ''
            expected = f'positions 0 .. {count - 1} in split {split!r}{none}'
            raise InputError(where, got=f'position {outside[0]}', expected=expected)


class Clips:
    """Random access to the examples of a split that have all their neighbours.

    Each example contains the requested features of its neighbours. Only frames that are requested
    are read and decoded.

    Args:
      folder: of the records.
      split: a TFDS split.
      features: keys of the examples. 'image_frames' is [n, H, W, 3], 'image' of the neighbours.
      frames: `Input.frames`, not (). Offsets of a tuple are not 0.
      where: the name of the data set in errors.
      among: positions of the chosen examples, in order, None for all. Neighbours may be any frame.
      open_split: opens features of a split: (split, features) -> source.

    Raises:
      InputError: no example has all its neighbours, or an error of `open_split`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        split: str,
        features: Sequence[str],
        frames: Frames,
        where: str,
        among: Iterable[int] | None,
        open_split: OpenSplit,
    ):
        # Examples and neighbours have different features, so each has a source.
        self._features = tuple(name for name in features if not name.endswith(SUFFIX))
        borrowed = [name.removesuffix(SUFFIX) for name in features if name.endswith(SUFFIX)]
        needed = list(self._features)
        self._is_drawn_table = isinstance(frames, TableFrames) and frames.drawn
        self._table_of_presence = ''
        if isinstance(frames, TableFrames):
            needed.append(frames.table)
            if frames.drawn and PRESENT in features:
                self._table_of_presence = frames.table
                borrowed.remove(PRESENT.removesuffix(SUFFIX))
        self._is_own_neighbour = isinstance(frames, DrawnFrames)
        if self._is_own_neighbour:
            # The record of the example is read only once.
            needed.extend(borrowed)
        self._examples = open_split(split, tuple(dict.fromkeys(needed)))
        self.declared = self._examples.declared

        # Choose the examples that have all their neighbours.
        facts = index.load(folder, split)
        among = None if among is None else tuple(among)
        self._positions = with_neighbours(facts, frames, among)
        if not len(self._positions):
            chosen = '' if among is None else f', of the {len(among)} that are chosen'
            raise no_neighbours(f'split {split!r} of {where}', frames, chosen)

        # The neighbours of a table may lie outside of the split.
        self._neighbours_of: Neighbours
        if isinstance(frames, TableFrames):
            self._neighbours_of = _from_table(folder, split, frames, where)
            split = '+'.join(self._neighbours_of.firsts)
        elif isinstance(frames, DrawnFrames):
            self._neighbours_of = Drawn(Places(facts.sequence, facts.frame), frames)
        else:
            self._neighbours_of = AtOffsets(Places(facts.sequence, facts.frame), frames)
        self._neighbours = open_split(split, borrowed)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return self.draw(number, index.evaluation_generator(number))

    def draw(self, number: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """Reads an example and its neighbours. Drawn neighbours use the numbers of `rng`."""
        position = int(self._positions[number])
        example = self._examples[position]
        features = {feature: example[feature] for feature in self._features}

        # Read each neighbour once, because an example may be several neighbours.
        frames = {position: example} if self._is_own_neighbour else {}
        places = list(map(int, self._neighbours_of(position, example, rng)))
        for place in places:
            if place not in frames:
                frames[place] = self._neighbours[place]
        neighbours = [frames[place] for place in places]
        if self._is_drawn_table:
            neighbours = fitted(neighbours, example, self.declared)
        for feature in self._neighbours.features:
            features[feature + SUFFIX] = np.stack([frame[feature] for frame in neighbours])
        if self._table_of_presence:
            is_present = (example[self._table_of_presence] >= 0).any(axis=1)
            features[PRESENT] = is_present.astype(np.float32)
        return features


def fitted(
    neighbours: Sequence[Mapping[str, Any]],
    example: Mapping[str, Any],
    declared: Mapping[str, Feature],
) -> list[Mapping[str, Any]]:
    """Stretches neighbours to the size of the maps of their example.

    Landmarks, boxes and cameras follow the maps. Neighbours of this size stay as they are. An
    example without maps has the size of the first neighbour.

    Args:
      neighbours: features of each neighbour.
      example: features of the example.
      declared: features by key.
    """
    size = transforms.map_size(example, None, declared)
    size = size or transforms.map_size(neighbours[0], None, declared)
    result = []
    for neighbour in neighbours:
        own = transforms.map_size(neighbour, None, declared)
        if own not in (None, size):
            matrix = transforms.resize_matrix(own, size)
            neighbour = transforms.apply_geometry(neighbour, matrix, size, declared)
        result.append(neighbour)
    return result


def _from_table(folder: pathlib.Path, split: str, frames: TableFrames, where: str) -> FromTable:
    """Returns a reader of a table. The source of its neighbours is the sum of the plain splits."""
    splits = index.open_records(folder).info.splits
    counts = {name: splits[name].num_examples for name in splits}
    slices = index.slices(split, counts)
    firsts = {}
    first = 0
    for name in dict.fromkeys(part.split for part in slices):
        firsts[name] = first
        first += counts[name]
    return FromTable(tuple(slices), firsts, counts, frames, where)
