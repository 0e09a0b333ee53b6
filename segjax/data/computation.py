"""Computes derived features: in worker processes, stopped at any moment and continued.

A computed value is a file of its own until the shard of its example is whole. So an interruption
loses the examples at work, and no finished example. `shards.write` packs the values into records.

Worker processes are spawned, so the program must have an `if __name__ == '__main__'` guard.
"""

import collections
import concurrent.futures
import functools
import io
import pathlib
import pickle
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import tqdm

from segjax.core import files
from segjax.core.notes import Note, tell
from segjax.data import clips, index, kinds, records, workers
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Inspection, Item
from segjax.data.camera_checks import check_geometry
from segjax.data.derived import Store, recipes, stored_names
from segjax.data.index import Chosen, Source
from segjax.errors import InputError, first_line
from segjax.protocol import Derived, Example, Input
from segjax.spec import NO_CLASSES, Feature

AHEAD = 4
"""Examples for each worker process that are computed before their turn."""

_WAIT_SECONDS = 0.2
_LISTED = 5
_KEPT = 'correct the function and start again: finished examples are kept'


def make(
    store: Store, inputs: Iterable[Input], num_workers: int, check_stop: Callable[[], None]
) -> list[pathlib.Path]:
    """Computes the derived features that inputs read, unless they are stored.

    Several processes may call this at the same time. A single process computes, and the remaining
    processes wait.

    Args:
      store: of the data set.
      inputs: of the data set.
      num_workers: worker processes, at least 1.
      check_stop: called between examples. It raises an exception to stop, and a later call
        continues.

    Returns:
      The folders of the values.

    Raises:
      InputError: a wrong value, an error of `compute`, or a full disk. Finished values are kept.
    """
    folders = []
    # All features share the worker processes, whose start takes seconds.
    with workers.Pool(num_workers) as pool:
        for feature, split in store.needed(inputs):
            folder = store.folder(feature.name, split)
            earlier = store.features[: store.features.index(feature)]
            task = Task(feature, split, store._replace(features=earlier))
            dataset = DerivedDataset(task, pool)
            records.write(dataset, {split: dataset.listing(split)}, folder, check_stop)
            folders.append(folder)
    return folders


class Task(NamedTuple):
    """The computation of a feature on a plain split.

    feature  the feature
    split    the split
    store    the records, and the derived features that may be read
    """

    feature: Derived
    split: str
    store: Store

    @property
    def where(self) -> str:
        """Returns the name of the feature in errors."""
        return f'feature {self.feature.name!r} of split {self.split!r} of {self.store.where}'

    def where_of(self, position: int) -> str:
        """Returns the name of an example in errors."""
        try:
            name = self.store.open_split(self.split, ('name',))[position]['name']
        except InputError:
            name = position
        return f'{self.where}, example {name}'


class Examples(Sequence[Example]):
    """The examples of a plain split, with the features that a `Derived` reads.

    A neighbour that does not exist is replaced by the nearest frame of the clip.

    positions  of the examples that get a value, ascending
    """

    def __init__(self, task: Task):
        """Opens the records and the derived features that are read.

        Raises:
          InputError: neighbours of a data set without clips.
        """
        feature, split, store = task
        self.positions = store.chosen(feature, split)
        own = [name for name in feature.reads if not name.endswith(clips.SUFFIX)]
        borrowed = [name for name in feature.reads if name.endswith(clips.SUFFIX)]
        self._examples = store.open_split(split, own)
        self._is_lazy = feature.lazy
        names = stored_names(borrowed)
        # A feature that is read alone has a source of its own.
        groups = [(name,) for name in names] if feature.lazy else [names]
        self._neighbours = [store.open_split(split, group) for group in groups]
        self._frames = None
        if borrowed:
            facts = index.load(store.records, split)
            if (facts.sequence == '').all():
                raise clips.no_neighbours(task.where, feature.frames)
            self._frames = nearest(facts.sequence, facts.frame, feature.frames)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position):
        example = self._examples[position]
        if self._frames is not None:
            for source in self._neighbours:
                example |= self._of_neighbours(source, self._frames[position])
        return example

    def _of_neighbours(self, source: Source, positions: np.ndarray) -> dict[str, Any]:
        """Returns the features of a source for the neighbours of an example."""
        if self._is_lazy:
            (name,) = source.features
            return {name + clips.SUFFIX: Neighbours(source, name, positions)}
        neighbours = [source[place] for place in positions]
        stacked = {}
        for name in source.features:
            stacked[name + clips.SUFFIX] = np.stack([each[name] for each in neighbours])
        return stacked

    def size(self, example: Example) -> tuple[int, ...] | None:
        """Returns the (height, width) of the maps of an example, None if it has no map."""
        for key, value in example.items():
            is_map = kinds.kind_of(key, self._examples.declared).is_map
            if is_map and not key.endswith(clips.SUFFIX):
                return value.shape[:2]
        return None


class Neighbours(Sequence[Any]):
    """A feature of the neighbours of an example. Each access reads it.

    Args:
      source: the feature of the whole split.
      name: of the feature.
      positions: [n] of the neighbours in the source.
    """

    def __init__(self, source: Source, name: str, positions: np.ndarray):
        self._source = source
        self._name = name
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, place):
        return self._source[int(self._positions[place])][self._name]


def nearest(sequences: np.ndarray, frames: np.ndarray, offsets: Sequence[int]) -> np.ndarray:
    """Returns the positions of the existing frames that are nearest to the frames at some offsets.

    Of two frames at the same distance, the earlier counts. A still is its own neighbour.

    Args:
      sequences: [N] clip of each example, '' for stills.
      frames: [N] number of each example in its clip.
      offsets: of the n neighbours, for example (-1, 1).

    Returns:
      [N, n] int64 positions.
    """
    positions = np.arange(len(frames))[:, None].repeat(len(offsets), axis=1)
    # The members of each clip are consecutive in `order`, by their numbers.
    order = np.lexsort((frames, sequences))
    names, firsts = np.unique(sequences[order], return_index=True)
    for name, members in zip(names, np.split(order, firsts[1:]), strict=True):
        if not name:
            continue
        numbers = frames[members]
        wanted = numbers[:, None] + np.asarray(offsets)
        behind = np.searchsorted(numbers, wanted).clip(max=len(numbers) - 1)
        before = (behind - 1).clip(min=0)
        is_before = wanted - numbers[before] <= numbers[behind] - wanted
        positions[members] = members[np.where(is_before, before, behind)]
    return positions


def clips_with_gaps(
    facts: index.Index, positions: Sequence[int], offsets: Sequence[int]
) -> list[str]:
    """Returns the clips that lack a neighbour between their first and their last frame, by name.

    Args:
      facts: about the examples of a split.
      positions: of the examples whose neighbours are read.
      offsets: of the neighbours.
    """
    is_read = np.zeros(len(facts.frame), bool)
    is_read[np.asarray(positions, np.int64)] = True
    places = clips.Places(facts.sequence, facts.frame)
    names = []
    for members in places.clips():
        read = members[is_read[members]]
        name = str(facts.sequence[members[0]])
        if not name or not len(read):
            continue
        missing = places.neighbours(read, offsets) == clips.ABSENT
        numbers = facts.frame[read][:, None] + np.asarray(offsets, np.int64)
        first = facts.frame[members[0]]
        last = facts.frame[members[-1]]
        if (missing & (numbers > first) & (numbers < last)).any():
            names.append(name)
    return names


# --- values ---------------------------------------------------------------------------------------


def checked(task: Task, position: int, value: Any, size: tuple[int, ...] | None) -> np.ndarray:
    """Returns a value with the declared type.

    Args:
      task: the computation.
      position: of the example in the split.
      value: result of `compute`.
      size: (height, width) of the maps of the example, None if it has no map.

    Raises:
      InputError: a value of another kind or shape, or with numbers that are not finite.
    """
    key = task.feature.name
    feature = kinds.feature_of(key, {key: task.feature.feature})
    try:
        array = _converted(np.asarray(value), feature)
        _check_shape(array, feature, size)
        _check_finite(array, feature)
    except ValueError as error:
        expected = f'a value of kind {feature.kind!r}, {feature.dtype} of shape {feature.shape}'
        if kinds.KINDS[feature.kind].is_map:
            expected += ' behind (height, width)'
        raise InputError(
            task.where_of(position), got=first_line(error), expected=expected, fix=_KEPT
        ) from error
    check_geometry({key: array}, task.where_of(position), {key: feature})
    return array


def _converted(array: np.ndarray, feature: Feature) -> np.ndarray:
    """Returns an array with the type of a feature. Raises ValueError if numbers would change."""
    if feature.kind == 'text':
        if array.dtype.kind != 'U':
            raise ValueError(f'{array.dtype}')
        return array
    if array.dtype.kind not in 'biuf':
        raise ValueError(f'{array.dtype}')
    dtype = np.dtype(feature.dtype)
    with np.errstate(invalid='ignore', over='ignore'):
        converted = array.astype(dtype)
    if dtype.kind != 'f' and (converted != array).any():
        wrong = array[converted != array].flat[0]
        raise ValueError(f'{wrong}, which does not fit {dtype}')
    return converted


def _check_shape(array: np.ndarray, feature: Feature, size: tuple[int, ...] | None) -> None:
    """Raises ValueError for a shape that is not declared, or a map of another size."""
    is_map = kinds.KINDS[feature.kind].is_map
    expected = kinds.value_shape(feature, tuple(size or array.shape[:2]))
    if array.shape != expected or (is_map and 0 in array.shape):
        text = f'shape {array.shape}'
        if is_map and size is not None:
            text += f' for images of height and width {tuple(size)}'
        raise ValueError(text)


def _check_finite(array: np.ndarray, feature: Feature) -> None:
    """Raises ValueError for infinity, and for NaN unless it means that a value is absent."""
    if array.dtype.kind != 'f':
        return
    kind = kinds.KINDS[feature.kind]
    may_be_absent = np.isnan(kind.fill) or (kind.absent is not None and np.isnan(kind.absent))
    wrong = np.isinf(array) if may_be_absent else ~np.isfinite(array)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f'{array[wrong].flat[0]} at {place}, {wrong.sum()} such numbers')


def failure(task: Task, where: str, error: Exception) -> InputError:
    """Returns the error for an example whose feature cannot be computed.

    Args:
      task: the computation.
      where: the name of the example or the split in errors.
      error: that `compute` raised. An InputError keeps its advice.
    """
    if isinstance(error, InputError):
        return error.at(f'{where}: {error.where}')
    function = getattr(task.feature.compute, 'func', task.feature.compute)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f'{pathlib.Path(frame.filename).name}, line {frame.lineno}'
    return InputError(
        where,
        got=f'{type(error).__name__}: {first_line(error)} ({place})',
        expected=f'a value from {getattr(function, "__name__", repr(function))}',
        fix=_KEPT,
    )


def _save(path: pathlib.Path, value: np.ndarray) -> None:
    """Writes a value. The file appears when it is complete."""
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def _read(path: pathlib.Path) -> np.ndarray | None:
    """Returns a computed value, None if there is no whole file."""
    try:
        return files.read_array(path)
    except (OSError, ValueError, EOFError):
        return None


# --- a worker process -----------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _opened(task: bytes) -> tuple[Task, Examples]:
    """Returns a task and its examples. A worker process opens them once."""
    loaded = pickle.loads(task)
    return loaded, Examples(loaded)


def _compute(task: bytes, position: int, path: pathlib.Path, lease: pathlib.Path) -> None:
    """Computes a value in a worker process, and writes it to a file.

    Args:
      task: a pickled Task.
      position: of the example in the split.
      path: of the file.
      lease: file that exists while the main process waits for results.
    """
    # This process is about to end.
    if not lease.exists():
        return
    loaded, examples = _opened(task)
    example = examples[position]
    # The function may change the example.
    size = examples.size(example)
    try:
        value = loaded.feature.compute(example)
    except Exception as error:
        raise failure(loaded, loaded.where_of(position), error) from error
    _save(path, checked(loaded, position, value, size))


# --- a feature as a data set ----------------------------------------------------------------------


class DerivedDataset(Dataset):
    """A derived feature of a split as a data set, whose examples have this feature alone.

    Args:
      task: the computation.
      pool: computes the values.
    """

    def __init__(self, task: Task, pool: workers.Pool):
        self.name = task.feature.name
        self.where = task.where
        self.classes = NO_CLASSES
        self.declared = {self.name: task.feature.feature}
        self._task = task
        self._pool = pool
        self._work: pathlib.Path | None = None
        self._positions = set(task.store.chosen(task.feature, task.split).tolist())

    def options(self):
        """Returns the recipe of the feature."""
        return recipes((*self._task.store.features, self._task.feature))[self.name]

    def splits(self):
        """Returns the split of the task."""
        return (self._task.split,)

    def scan(self, split):
        """Returns an item for each example. Its frame is the position in the split."""
        count = index.open_records(self._task.store.records).info.splits[split].num_examples
        return [Item(split, f'{position:08}', frame=position) for position in range(count)], []

    def features(self, items):
        """Returns the name of the derived feature."""
        return (self.name,)

    def examine(self, item):
        """Reads a computed value. There is no record before it is computed."""
        value = None if self._work is None else self._value(item)
        if value is None:
            return Inspection(None, [])
        stored = value.item() if value.dtype.kind == 'U' else value
        return Inspection(base.without_label({self.name: stored}, (0, 0)), [])

    def inspect(self, item):
        """Reads a computed value, which was checked when it was computed."""
        return self.examine(item)

    def ready(self, items, work, check_stop):
        """Yields items as soon as their values are computed."""
        self._work = work
        work.mkdir(exist_ok=True)
        self._tell_of_gaps()
        # Files that a killed process was writing.
        for path in work.glob('.*'):
            path.unlink(missing_ok=True)
        compute = self._at_once if self._task.feature.whole else self._one_by_one
        yield from compute(items, check_stop)

    def stored(self, items, work):
        """Removes the files of stored values."""
        for item in items:
            self._path(item).unlink(missing_ok=True)

    def _path(self, item: Item) -> pathlib.Path:
        """Returns the file of a computed value."""
        assert self._work is not None, '`ready` sets the folder'
        return self._work / f'{item.name}.npy'

    def _tell_of_gaps(self) -> None:
        """Prints a note that names clips whose missing frames the feature would read."""
        feature = self._task.feature
        if not feature.frames:
            return
        facts = index.of_split(self._task.store.records, self._task.split)
        names = clips_with_gaps(facts, sorted(self._positions), feature.frames)
        if names:
            listed = ', '.join(names[:_LISTED])
            more = ', ...' if len(names) > _LISTED else ''
            message = f'frames are missing inside of {len(names)} clips: {listed}{more}'
            tell(Note(self._task.where, f'{message}. The nearest frames are read in their place'))

    def _value(self, item: Item) -> np.ndarray | None:
        """Returns the value of an example, None if it is not computed."""
        return _read(self._path(item)) if self._has_value(item) else self._empty(item)

    def _has_value(self, item: Item) -> bool:
        """Returns whether an example is chosen, so that its value is computed."""
        return item.frame in self._positions

    def _empty(self, item: Item) -> np.ndarray:
        """Returns the value of an example that is not chosen."""
        feature = kinds.feature_of(self.name, self.declared)
        sizes = index.of_split(self._task.store.records, self._task.split).size
        return np.zeros(kinds.value_shape(feature, tuple(sizes[item.frame])), feature.dtype)

    def _one_by_one(
        self, items: Iterable[Item], check_stop: Callable[[], None]
    ) -> Generator[Item, None, None]:
        """Computes missing values in worker processes, and yields all items in order."""
        task = pickle.dumps(self._task)
        waiting: collections.deque[tuple[Item, Future | None]] = collections.deque()
        num_submitted = 0
        num_workers = self._pool.num_workers
        try:
            for item in items:
                check_stop()
                path = self._path(item)
                future = None
                if self._value(item) is None:
                    future = self._pool.submit(_compute, task, item.frame, path)
                    num_submitted += 1
                waiting.append((item, future))
                # Examples without work do not count, because chosen examples may be rare.
                limit = AHEAD * num_workers
                while waiting and (waiting[0][1] is None or num_submitted > limit):
                    num_submitted -= waiting[0][1] is not None
                    yield _awaited(*waiting.popleft(), check_stop)
            while waiting:
                yield _awaited(*waiting.popleft(), check_stop)
        except concurrent.futures.BrokenExecutor as error:
            advice = 'a machine with more memory, or a function that needs less'
            if num_workers > 1:
                advice = f'--config.data.workers={num_workers // 2}'
            raise InputError(
                self.where,
                got='a worker process that crashed, or that the system ended',
                expected=f'enough memory for {num_workers} worker processes',
                fix=f'{advice}; finished examples are kept',
            ) from error

    def _at_once(
        self, items: Iterable[Item], check_stop: Callable[[], None]
    ) -> Generator[Item, None, None]:
        """Computes the values of the whole split in this process, and yields the items.

        Nothing is computed if an earlier call has computed all values.
        """
        items = list(items)
        if any(self._value(item) is None for item in items):
            every, _ = self.scan(self._task.split)
            chosen = [item for item in every if self._has_value(item)]
            values = self._values(check_stop)
            if len(values) != len(chosen):
                got = f'{len(values)} values for {len(chosen)} examples'
                expected = 'a value for each example'
                raise InputError(self.where, got=got, expected=expected, fix=_KEPT)
            for item, value in zip(chosen, values, strict=True):
                check_stop()
                _save(self._path(item), checked(self._task, item.frame, value, None))
        yield from items

    def _values(self, check_stop: Callable[[], None]) -> list[Any]:
        """Returns the values of the whole split. A progress bar counts the examples that are read.

        Raises:
          InputError: an error of `compute`.
        """
        with tqdm.tqdm(desc=f'read for {self.name}', unit='image', mininterval=1) as progress:
            every = Examples(self._task)
            chosen = Chosen(every, tuple(every.positions.tolist()))
            examples = _Watched(chosen, progress, check_stop)
            try:
                return list(self._task.feature.compute(examples))
            except Exception as error:
                if error is examples.interruption:
                    raise
                raise failure(self._task, self.where, error) from error


def _awaited(item: Item, future: Future | None, check_stop: Callable[[], None]) -> Item:
    """Returns an item when its value is computed. None: it is computed already."""
    if future is not None:
        while concurrent.futures.wait([future], timeout=_WAIT_SECONDS).not_done:
            check_stop()
        future.result()
    return item


class _Watched(Sequence[Example]):
    """Examples whose reading moves a progress bar, and stops when the run was told to stop.

    interruption  the exception with which `check_stop` stopped the reading
    """

    def __init__(self, examples: Source, progress: tqdm.tqdm, check_stop: Callable[[], None]):
        self._examples = examples
        self._progress = progress
        self._check_stop = check_stop
        self.interruption: Exception | None = None

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position):
        try:
            self._check_stop()
        except Exception as error:
            self.interruption = error
            raise
        self._progress.update()
        return self._examples[position]
