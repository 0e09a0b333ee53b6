"""Batches from a random-access source: shuffled, augmented, distributed over processes, read ahead.

The stream of training examples is a function of (seed, position) alone. Position p is example p % N
of the shuffled epoch p // N, and its augmentation is sampled for p. A global batch is the next
`batch_size` positions. Process i of n gets the i-th of n equal runs of these positions.

So the numbers are the same for any number of threads, workers and processes. A run resumes at step
s by starting at position s * batch_size. No iterator state is ever saved.

A source is an `index.Source`. With `data.workers` > 0 the program must have an
`if __name__ == '__main__'` guard, because workers are spawned.
"""

import dataclasses
import functools
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from segjax.core import host
from segjax.data import kinds, table_rows, transforms, workers
from segjax.data.index import (
    Chosen,
    Source,
    evaluation_generator,
    part_positions,
    read_example,
)
from segjax.data.table_rows import Rows
from segjax.errors import InputError, first_line, unknown_name
from segjax.protocol import DrawnFrames, Input, TableFrames
from segjax.spec import Feature

CLOSE_SECONDS = 2.0
"""How long a worker process may take to finish after `close`."""

MAX_THREADS = 16
"""Upper limit of the threads that `data.threads=0` chooses."""


class Batches(Protocol):
    """An iterator over batches {key: array} that must be closed."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Returns the iterator itself."""

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns the next batch."""

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""


def train_iterator(
    source: Source,
    inputs: Input,
    *,
    seed: int,
    start_step: int,
    process_index: int,
    process_count: int,
    data_config,
) -> 'BatchIterator':
    """Returns endless shuffled and augmented batches of this process, starting at `start_step`.

    Args:
      source: random-access examples.
      inputs: batch size (global), features, size. Without `inputs.augment` examples are only
        resized to `size`.
      seed: order and augmentation are a function of it.
      start_step: number of global batches to skip, at no cost.
      process_index: of this process.
      process_count: of all processes.
      data_config: `config.data`. Threads, workers and prefetch change only the speed.

    Returns:
      Iterator over {feature, 'weight', 'index'} -> array with `batch_size // process_count` rows.
      Close it.

    Raises:
      InputError: an error of `check_examples` or `check_transform`, a batch that does not split
        over the processes, or another `inputs.size` than `inputs.augment.crop`. While iterating:
        a missing feature, or an invalid example.
    """
    source = _part(source, inputs)
    _check_not_empty(source, inputs)
    _check_batch_size(inputs, process_count)
    _check_draws(source, inputs)
    check_transform(inputs, data_config)
    if inputs.augment is not None and tuple(inputs.augment.crop) != tuple(inputs.size):
        raise InputError(
            'augment.crop',
            got=f'{tuple(inputs.augment.crop)}',
            expected=f'{tuple(inputs.size)}, the size that the net is trained at',
        )

    # The stream of all processes.
    load = _TrainExample(source, inputs)
    stream = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().random_map(load)

    # Split over processes last. `random_map` seeds by index, so it must see global positions.
    rows = inputs.batch_size // process_count
    to_position = _GlobalPosition(rows, process_index, process_count)
    own = grain.MapDataset.range(sys.maxsize).map(lambda row: stream[to_position(row)])
    return BatchIterator(own[start_step * rows :], rows, data_config)


def check_examples(source: Source, inputs: Input, part: bool = True) -> None:
    """Refuses a source without examples.

    Args:
      source: of the input. A table must be computed.
      inputs: an input of a stage.
      part: whether the input trains, so that `inputs.part` counts.

    Raises:
      InputError: no example, or no row of the table of `inputs.each` is an example.
    """
    _check_not_empty(_part(source, inputs) if part else source, inputs)


def _check_draws(source: Source, inputs: Input) -> None:
    """Raises TypeError for a source that would draw the same neighbours in every epoch."""
    is_table = isinstance(inputs.frames, TableFrames)
    draws = inputs.frames.drawn if is_table else isinstance(inputs.frames, DrawnFrames)
    if draws and not hasattr(source, 'draw'):
        raise TypeError(f'{type(source).__name__} has no method draw for Input.frames')


def check_transform(inputs: Input, data_config) -> None:
    """Refuses an input whose transform or size cannot be used.

    Args:
      inputs: of a stage.
      data_config: `config.data`.

    Raises:
      InputError: `resize=False` with an augmentation, or a transform that cannot be sent to worker
        processes.
    """
    if not inputs.resize and inputs.augment is not None:
        raise InputError(
            'augment of an input with resize=False',
            got='an augmentation',
            expected='None: maps keep the size that the transform gives',
        )
    if inputs.transform is None or not data_config.workers:
        return
    try:
        pickle.dumps(inputs.transform)
    except Exception as error:  # the objects inside a transform raise errors of any type
        raise InputError(
            f'transform {_transform_name(inputs)!r} with data.workers={data_config.workers}',
            got=f'a function that cannot be pickled: {first_line(error)}',
            expected='a function of a module, or a functools.partial of one',
            fix='--config.data.workers=0',
        ) from error


def _check_batch_size(inputs: Input, process_count: int) -> None:
    """Raises InputError if the global batch does not split over the processes."""
    if inputs.batch_size % process_count == 0:
        return
    next_multiple = -(-inputs.batch_size // process_count) * process_count
    raise InputError(
        inputs.batch_key,
        got=f'{inputs.batch_size} on {process_count} processes',
        expected=f'a multiple of {process_count}',
        fix=f'--config.{inputs.batch_key}={next_multiple}',
    )


def eval_batches(
    source: Source,
    inputs: Input,
    *,
    process_index: int,
    process_count: int,
    data_config,
    max_size: tuple[int, int],
) -> 'BatchIterator':
    """Returns this process's batches of a single pass over the source.

    Over all processes, the pass contains every example exactly once. All processes get the same
    number of batches of the same size. A batch size that does not split over the processes is
    rounded up. Rows after the last example repeat example 0 with weight 0. Their targets are absent
    (`kinds.Kind.absent`): labels are 255. Their index is N, which a scatter in JAX drops. With
    `inputs.each`, N is n * (number of images).

    Args:
      source: random-access examples.
      inputs: batch size (global), features, size.
      process_index: of this process.
      process_count: of all processes.
      data_config: `config.data`.
      max_size: (height, width) that labels are padded to, `DataSpec.max_size` of the split.

    Returns:
      Finite iterator over {feature, 'weight', 'index', 'size', 'label_size'} -> array. Close it.
    """
    _check_not_empty(source, inputs)
    check_transform(inputs, data_config)
    # Both divisions round up.
    rows = -(-inputs.batch_size // process_count)
    num_batches = -(-len(source) // (rows * process_count))
    to_position = _GlobalPosition(rows, process_index, process_count)
    load = _EvalExample(source, inputs, tuple(max_size))
    own = grain.MapDataset.range(num_batches * rows).map(lambda row: load.at(to_position(row)))
    return BatchIterator(own, rows, data_config)


def examples(
    source: Source, indices: Sequence[int], inputs: Input, max_size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Returns the examples with the given batch['index'] as a batch of `eval_batches`."""
    _check_not_empty(source, inputs)
    load = _EvalExample(source, inputs, tuple(max_size))
    return _stack([load(table_rows.position_of(source, int(index))) for index in indices])


def num_threads(data_config) -> int:
    """Returns how many threads of a process read examples: `data.threads`.

    0 means a single thread in a worker, and a thread for each core in the main process.
    """
    if data_config.threads:
        return data_config.threads
    return 1 if data_config.workers else min(host.cores(), MAX_THREADS)


def read_ahead(data_config, size: int) -> int:
    """Returns how many examples a process (the main process or a worker) reads ahead, at most.

    Threads of the main process read max(prefetch, batch, threads) examples ahead. Each thread of a
    worker makes a whole batch. So a worker reads max(its share of prefetch in whole batches,
    threads) batches ahead.

    Args:
      data_config: `config.data`.
      size: of the batches of this process.
    """
    threads = num_threads(data_config)
    if not data_config.workers:
        return max(data_config.prefetch, size, threads)
    return max(-(-data_config.prefetch // (size * data_config.workers)), threads) * size


class BatchIterator(Iterator):
    """An iterator over batches that reads ahead.

    `close`, the end of the data or an error ends its threads and processes.
    """

    def __init__(self, rows: grain.MapDataset, size: int, data_config):
        """Starts to read examples.

        Args:
          rows: examples of this process, in order.
          size: examples in a batch.
          data_config: `config.data`.
        """
        self._release_workers = None
        if data_config.workers:
            dataset = self._read_in_workers(rows, size, data_config)
        else:
            dataset = _read_in_threads(rows, size, data_config)
        self._ended = False
        self._batches = iter(dataset)

    def _read_in_workers(self, rows: grain.MapDataset, size: int, data_config) -> grain.IterDataset:
        """Returns batches that worker processes make. The workers live as long as a lease file."""
        # grain reads flags of its own, and only app.run parses flags.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()

        # Workers end when the lease file is gone, also if this object is only garbage collected.
        lease = workers.make_lease()
        self._release_workers = weakref.finalize(self, lease.unlink, missing_ok=True)

        # Workers take turns, so each of their elements is a whole batch.
        options = grain.ReadOptions(
            num_threads=num_threads(data_config),
            prefetch_buffer_size=read_ahead(data_config, size) // size,
        )
        batches = rows.batch(size, drop_remainder=True, batch_fn=_stack)
        return batches.to_iter_dataset(options).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=data_config.workers),
            worker_init_fn=functools.partial(_prepare_worker, str(lease)),
        )

    def __next__(self) -> dict[str, np.ndarray]:
        if self._ended:
            raise StopIteration
        try:
            return next(self._batches)
        except OSError as error:
            self.close()
            if self._release_workers is not None and error.filename is None:
                raise _no_shared_memory(error) from error
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends threads and processes. No more batches follow.

        A read that hangs in a process is interrupted after CLOSE_SECONDS. A thread ends only when
        its read ends.
        """
        self._ended = True
        if self._release_workers is not None:
            self._release_workers()
        self._batches.close()


def _read_in_threads(rows: grain.MapDataset, size: int, data_config) -> grain.IterDataset:
    """Returns batches of examples that threads of this process read."""
    # Threads work on examples of the same batch, so memory does not grow with threads x batch.
    options = grain.ReadOptions(
        num_threads=num_threads(data_config), prefetch_buffer_size=read_ahead(data_config, size)
    )
    return rows.to_iter_dataset(options).batch(size, drop_remainder=True, batch_fn=_stack)


def _no_shared_memory(error: OSError) -> InputError:
    """Returns the error for a machine on which worker processes cannot be reached."""
    fix = '--config.data.workers=0, or more shared memory, in docker by --shm-size=8g'
    return InputError(
        '/dev/shm', got=error.strerror, expected='room for the batches of data.workers', fix=fix
    )


class SideBySide(Iterator):
    """Joins the batches of several inputs into a single dictionary.

    The keys of an unpaired input called `photo` have its name in front: 'photo/image'.
    """

    def __init__(self, batches: Batches, unpaired: Mapping[str, Batches]):
        """Joins batches of the main input with batches of unpaired inputs, by name."""
        self._batches = batches
        self._unpaired = dict(unpaired)

    def __next__(self) -> dict[str, np.ndarray]:
        batch = dict(next(self._batches))
        for name, batches in self._unpaired.items():
            batch |= {f'{name}/{key}': value for key, value in next(batches).items()}
        return batch

    def close(self) -> None:
        """Ends the threads and processes of all inputs."""
        for batches in (self._batches, *self._unpaired.values()):
            batches.close()


# --- a single example -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _GlobalPosition:
    """Maps a row of this process's stream to its position in the global stream."""

    rows: int  # of a batch
    process_index: int
    process_count: int

    def __call__(self, row: int) -> int:
        step, row_of_batch = divmod(row, self.rows)
        return (step * self.process_count + self.process_index) * self.rows + row_of_batch


@dataclasses.dataclass(frozen=True)
class _TrainExample:
    """Reads an example of a source and augments it.

    Random numbers are consumed in this order: drawn neighbours, transform, augmentation.
    """

    source: Source
    inputs: Input

    def __call__(self, position: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        declared = declared_of(self.inputs, self.source)

        def move(example):
            if not self.inputs.resize:
                return _unmoved(example, self.inputs.size, declared)
            if self.inputs.augment is None:
                return transforms.resized(example, self.inputs.size, declared)
            return transforms.training(example, rng, self.inputs.augment, declared)

        example = _moved(self.source, position, self.inputs, rng, move)
        return _finish(example, table_rows.index_at(self.source, position), declared)


@dataclasses.dataclass(frozen=True)
class _EvalExample:
    """Reads an example of a source and resizes its images for evaluation.

    The random numbers of neighbours and transform depend on the index of the example alone.
    """

    source: Source
    inputs: Input
    max_size: tuple[int, int]

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        declared = declared_of(self.inputs, self.source)
        size = self.inputs.size

        def move(example):
            if self.inputs.resize:
                return transforms.evaluation(example, size, self.max_size, declared)
            return _unmoved(example, size, declared) | _whole_sizes(example, size, declared)

        index = table_rows.index_at(self.source, position)
        rng = evaluation_generator(index)
        example = _moved(self.source, position, self.inputs, rng, move)
        return _finish(example, index, declared)

    def at(self, position: int) -> dict[str, np.ndarray]:
        """Returns the example at a position of the padded split.

        Padding has a real image and camera. So the outputs of a net are finite, and weight 0
        removes them. Its targets are absent.
        """
        if position < len(self.source):
            return self(position)
        padding = self(0)
        declared = declared_of(self.inputs, self.source)
        for key, value in padding.items():
            absent = kinds.kind_of(key, declared).absent
            if absent is not None:
                padding[key] = np.full_like(value, absent)
        end = np.int32(table_rows.end_of(self.source))
        return padding | {'weight': np.float32(0), 'index': end}


def _moved(
    source: Source,
    position: int,
    inputs: Input,
    rng: np.random.Generator,
    move: Callable[[transforms.Example], dict[str, Any]],
) -> dict[str, Any]:
    """Reads an example, transforms it and moves its maps. Errors name the example."""
    stored = read_example(source, position, rng)
    index = table_rows.index_at(source, position)
    expected = _keys(inputs) if inputs.transform is None else inputs.stored
    for key in expected:
        if key not in stored:
            raise unknown_name(f'feature of split {inputs.split!r}', key, stored)
    try:
        if inputs.transform is None:
            return move({key: np.asarray(stored[key]) for key in expected})
        return _moved_result(_transformed(stored, index, inputs, rng), inputs, move)
    except InputError as error:
        where = f'{error.where} of {table_rows.name_of(source, index)} of split {inputs.split!r}'
        name = stored.get('name', '')
        name = name.decode() if isinstance(name, bytes) else str(name)
        raise error.at(f'{where} ({name})' if name else where) from None


def _keys(inputs: Input) -> list[str]:
    """Returns the features of a batch that the loader does not add itself."""
    return [key for key in inputs.features if key not in ('weight', 'index')]


def _transformed(
    stored: transforms.Example, index: int, inputs: Input, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns the result of `inputs.transform` for an example: exactly the keys of `features`.

    The transform gets the features that it reads, as arrays. Text stays text.

    Raises:
      InputError: the result lacks a feature.
    """
    example = {}
    for key in inputs.stored:
        value = stored[key]
        example[key] = value if isinstance(value, str | bytes) else np.asarray(value)
    if 'index' in inputs.reads:
        example['index'] = np.int32(index)
    if inputs.each and 'row' in (inputs.reads or inputs.features):
        example['row'] = stored['row']
    result = inputs.transform(example, rng)
    missing = [key for key in _keys(inputs) if key not in result]
    if missing:
        raise InputError(
            f'transform {_transform_name(inputs)!r}',
            got=f'an example without {", ".join(missing)}',
            expected='the features of the input: ' + ', '.join(_keys(inputs)),
        )
    return {key: np.asarray(result[key]) for key in _keys(inputs)}


def _moved_result(
    example: transforms.Example,
    inputs: Input,
    move: Callable[[transforms.Example], dict[str, Any]],
) -> dict[str, Any]:
    """Moves the maps that a transform made. The fix of an error is to correct the transform."""
    try:
        return move(example)
    except InputError as error:
        fix = f'correct the transform {_transform_name(inputs)!r}'
        raise error.replaced(fix=fix) from None


def _transform_name(inputs: Input) -> str:
    """Returns the name of the function `inputs.transform`, also behind `functools.partial`."""
    function = inputs.transform
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, '__qualname__', repr(function))


def _unmoved(
    example: transforms.Example, size: transforms.Size, declared: Mapping[str, Feature]
) -> dict[str, Any]:
    """Returns an example whose maps have the size of the input already.

    Raises:
      InputError: a map of another size.
    """
    for key in example:
        actual = transforms.map_size(example, [key], declared)
        if actual not in (None, tuple(size)):
            raise InputError(
                f'feature {key!r}',
                got='{} x {}'.format(*actual),
                expected='{} x {}, the size of an input with resize=False'.format(*size),
            )
    return dict(example)


def _whole_sizes(
    example: transforms.Example, size: transforms.Size, declared: Mapping[str, Feature]
) -> dict[str, np.ndarray]:
    """Returns 'size' and 'label_size' of an evaluation example without padding."""
    of_example = [kinds.kind_of(key, declared) for key in example]
    sizes = {}
    if any(kind.resized for kind in of_example):
        sizes['size'] = np.array(size, np.int32)
    if any(kind.is_map for kind in of_example):
        sizes['label_size'] = np.array(size, np.int32)
    return sizes


def declared_of(inputs: Input, source: Any) -> dict[str, Feature]:
    """Returns the declared features of the examples of an input.

    Args:
      inputs: an input of a stage. The features that its transform makes are declared there.
      source: the examples, or their `DataSpec`. Its attribute `declared` has the features that the
        data set declares. A source without this attribute declares nothing.
    """
    return {**getattr(source, 'declared', {}), **dict(inputs.made)}


def _finish(
    example: Mapping[str, Any], index: int, declared: Mapping[str, Feature]
) -> dict[str, np.ndarray]:
    """Adds weight and index, and converts all features to types for devices."""
    finished = {
        key: _for_device(key, value, kinds.feature_of(key, declared))
        for key, value in example.items()
    }
    return finished | {'weight': np.float32(1), 'index': np.int32(index)}


def _for_device(key: str, value: np.ndarray, feature: Feature) -> np.ndarray:
    """Converts a value to the type of its kind on the way to a device.

    Raises:
      InputError: text, fractions where whole numbers belong, whole numbers that do not fit the
        type, or a shape that differs from the feature.
    """
    # Text has no type on a device.
    if value.dtype.kind not in 'biuf':
        raise InputError(f'feature {key!r}', got=f'{value.dtype}', expected='numbers')
    dtype = kinds.device_dtype(key, feature)
    last = value.shape[max(0, value.ndim - len(feature.shape)) :]
    if last != feature.shape:
        raise InputError(
            f'shape of feature {key!r}', got=f'{value.shape}', expected=f'{feature.shape}'
        )
    if value.dtype == dtype:
        return value

    # Whole numbers must survive.
    converted = value.astype(dtype)
    if dtype.kind != 'f' and not np.can_cast(value.dtype, dtype) and np.any(converted != value):
        wrong = value[converted != value].flat[0]
        raise InputError(
            f'feature {key!r}', got=f'{wrong}', expected=f'whole numbers that fit {dtype}'
        )
    return converted


def zeros(inputs: Input, rows: int, declared: Mapping[str, Feature] = {}) -> dict[str, np.ndarray]:
    """Returns a training batch of zeros, with the types that a step sees.

    Nets are built from this batch, so that their shapes do not depend on the data or its presence.
    Labels are int32, although they travel to the device as uint8 (`kinds.in_step`).

    Args:
      inputs: the training input of a stage.
      rows: examples of `inputs` itself. Unpaired inputs have rows in proportion.
      declared: features by key of the batch: 'heat', and 'photo/heat' of an unpaired input.

    Raises:
      InputError: an unknown feature, or a feature whose shape is known only from the data.
    """
    batch = {}
    features = {**declared, **dict(inputs.made)}
    for key in (*inputs.features, 'weight', 'index'):
        feature = kinds.feature_of(key, features)
        shape = kinds.value_shape(feature, tuple(inputs.size))
        frames = (inputs.num_frames,) if key.endswith(kinds.FRAMES) else ()
        batch[key] = np.zeros((rows, *frames, *shape), kinds.step_dtype(key, feature))
    for name, unpaired in inputs.unpaired:
        unpaired_rows = max(1, rows * unpaired.batch_size // inputs.batch_size)
        prefix = f'{name}/'
        own = {
            key.removeprefix(prefix): declared[key] for key in declared if key.startswith(prefix)
        }
        for key, value in zeros(unpaired, unpaired_rows, own).items():
            batch[f'{prefix}{key}'] = value
    return batch


# --- batches --------------------------------------------------------------------------------------


def _part(source: Source, inputs: Input) -> Source:
    """Returns `inputs.part` of the images of a source, in a shuffled order.

    The order depends only on the number of images, so all runs have the same part.
    """
    if inputs.part == (0.0, 1.0):
        return source
    num_images = len(table_rows.images_of(source))
    positions = tuple(part_positions(num_images, *inputs.bounds(num_images)).tolist())
    return source.of_images(positions) if isinstance(source, Rows) else Chosen(source, positions)


def _check_not_empty(source: Source, inputs: Input) -> None:
    """Raises InputError for a source without examples."""
    if len(source):
        return
    if isinstance(source, Rows) and len(source.images):
        raise table_rows.no_row(source, inputs)
    raise InputError(f'split {inputs.split!r}', got='no examples', expected='at least one')


def _stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stacks examples to a batch.

    Raises:
      InputError: a feature has different shapes in these examples.
    """
    batch = {}
    for key in rows[0]:
        shapes = {np.shape(row[key]) for row in rows}
        if len(shapes) > 1:
            raise InputError(
                f'feature {key!r}',
                got=' and '.join(map(str, sorted(shapes))) + ' in one batch',
                expected='one shape for all examples',
            )
        batch[key] = np.stack([row[key] for row in rows])
    return batch


def _prepare_worker(lease: str, worker_index: int, worker_count: int) -> None:
    """Prepares a worker process, before its first example."""
    workers.prepare(lease, CLOSE_SECONDS)
