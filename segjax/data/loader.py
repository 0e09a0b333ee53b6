"""Batches from a random-access source: shuffled, augmented, dealt to processes, read ahead.

The stream of training examples is a function of (seed, position) alone: position p is example p % N of the
shuffled epoch p // N, and its augmentation is drawn for p. A global batch is the next `batch_size` positions;
process i of n gets the i-th of n equal runs of them. So the same numbers come out for any number of threads,
workers and processes, and a run resumes at step s by starting at position s * batch_size: no iterator state
is ever saved.

A source is any object with `__len__` and `__getitem__(i) -> {key: numpy array}` whose reads may come from
several threads. With `data.workers` > 0 it must also survive cloudpickle, and the program must have an `if
__name__ == '__main__'` guard, because workers are spawned.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from segjax.core import host
from segjax.data import clips, transforms
from segjax.data.index import Chosen
from segjax.errors import InputError, unknown_name
from segjax.protocol import Input
from segjax.spec import IGNORE

CLOSE_SECONDS = 2.0
"""How long a worker process may take to finish after `close`."""

MAX_THREADS = 16
"""Most threads that `data.threads=0` stands for."""


def train_iterator(
    source: Sequence,
    inputs: Input,
    *,
    seed: int,
    start_step: int,
    process_index: int,
    process_count: int,
    data_config,
) -> 'BatchIterator':
    """Endless shuffled and augmented batches of this process, from step `start_step` on.

    Args:
      source: random-access examples (see the top of this file).
      inputs: batch size (global), features, size; without `inputs.augment` examples are only resized to
        `size`.
      seed: order and augmentation are a function of it.
      start_step: number of global batches to skip, at no cost.
      process_index: of this process.
      process_count: of all processes.
      data_config: `config.data`; threads, workers and prefetch change the speed alone.

    Returns:
      Iterator over {feature, 'weight', 'index'} -> array with `batch_size // process_count` rows. Close it.

    Raises:
      InputError: the source is empty, the batch does not split over the processes, `inputs.size` is not
        `inputs.augment.crop`; while iterating: a missing feature, or whatever is wrong with an example.
    """
    source = _part(source, inputs)
    _check_not_empty(source, inputs)
    if inputs.batch_size % process_count:
        raise InputError(
            inputs.batch_key,
            got=f'{inputs.batch_size} on {process_count} processes',
            expected=f'a multiple of {process_count}',
            fix=f'--config.{inputs.batch_key}={-(-inputs.batch_size // process_count) * process_count}',
        )
    if inputs.augment is not None and tuple(inputs.augment.crop) != tuple(inputs.size):
        raise InputError(
            'augment.crop',
            got=f'{tuple(inputs.augment.crop)}',
            expected=f'{tuple(inputs.size)}, the size that the net is trained at',
        )
    load = _TrainExample(source, inputs)
    stream = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().random_map(load)
    rows = inputs.batch_size // process_count
    deal = _Deal(rows, process_index, process_count)
    # Dealt out last: random_map draws by the index it sees, which must be the global position.
    mine = grain.MapDataset.range(sys.maxsize).map(lambda row: stream[deal(row)])
    return BatchIterator(mine[start_step * rows :], rows, data_config)


def eval_batches(
    source: Sequence,
    inputs: Input,
    *,
    process_index: int,
    process_count: int,
    data_config,
    max_size: tuple[int, int],
) -> 'BatchIterator':
    """This process's batches of one pass over the source, every example exactly once over all processes.

    All processes get the same number of batches of the same size (a batch size that does not split over the
    processes is rounded up). Rows after the last example repeat example 0 with weight 0, no labels (255),
    instances or depth, and index N, which a scatter in JAX drops.

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
    rows = -(-inputs.batch_size // process_count)
    num_batches = -(-len(source) // (rows * process_count))
    deal = _Deal(rows, process_index, process_count)
    load = _EvalExample(source, inputs, tuple(max_size))
    mine = grain.MapDataset.range(num_batches * rows).map(lambda row: load.at(deal(row)))
    return BatchIterator(mine, rows, data_config)


def examples(
    source: Sequence, indices: Sequence[int], inputs: Input, max_size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Returns the chosen examples as one batch in the form of `eval_batches`."""
    _check_not_empty(source, inputs)
    load = _EvalExample(source, inputs, tuple(max_size))
    return _stack([load(int(index)) for index in indices])


def num_threads(data_config) -> int:
    """Returns the threads of a process that read examples: `data.threads`, or what 0 stands for."""
    if data_config.threads:
        return data_config.threads
    return 1 if data_config.workers else min(host.cores(), MAX_THREADS)


def read_ahead(data_config, size: int) -> int:
    """Returns the examples that a process (the main process or a worker) reads ahead, at most.

    Threads of the main process read max(prefetch, batch, threads) examples ahead. Each thread of a worker makes a whole
    batch, so a worker reads max(its share of prefetch in whole batches, threads) batches ahead.

    Args:
      data_config: `config.data`.
      size: of the batches of this process.
    """
    threads = num_threads(data_config)
    if not data_config.workers:
        return max(data_config.prefetch, size, threads)
    return max(-(-data_config.prefetch // (size * data_config.workers)), threads) * size


class BatchIterator(Iterator):
    """Iterator over batches that reads ahead. `close`, the end or an error ends its threads and processes."""

    def __init__(self, rows: grain.MapDataset, size: int, data_config):
        """Starts to read `rows`, in batches of `size`; `data_config` is `config.data`."""
        ahead = read_ahead(data_config, size)
        self._release_workers = None
        if data_config.workers:
            # Workers take turns, so each element that they make is a whole batch.
            options = grain.ReadOptions(
                num_threads=num_threads(data_config), prefetch_buffer_size=ahead // size
            )
            dataset = rows.batch(size, drop_remainder=True, batch_fn=_stack).to_iter_dataset(
                options
            )
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads flags of its own; only app.run parses them
            handle, lease = tempfile.mkstemp(prefix='segjax_loader_')
            os.close(handle)
            self._release_workers = weakref.finalize(
                self, pathlib.Path(lease).unlink, missing_ok=True
            )
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=data_config.workers),
                worker_init_fn=functools.partial(_prepare_worker, lease),
            )
        else:
            # Threads work on examples of the same batch, so the memory does not grow with threads x batch.
            options = grain.ReadOptions(
                num_threads=num_threads(data_config), prefetch_buffer_size=ahead
            )
            dataset = rows.to_iter_dataset(options).batch(
                size, drop_remainder=True, batch_fn=_stack
            )
        self._ended = False
        self._batches = iter(dataset)

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
        """Ends threads and processes: there are no more batches.

        A read that hangs in a process is cut off after CLOSE_SECONDS, one in a thread ends when it ends.
        """
        self._ended = True
        if self._release_workers is not None:
            self._release_workers()
        self._batches.close()


def _no_shared_memory(error: OSError) -> InputError:
    """Returns the error for a machine on which worker processes cannot be reached."""
    fix = '--config.data.workers=0, or more shared memory, in docker by --shm-size=8g'
    return InputError(
        '/dev/shm', got=error.strerror, expected='room for the batches of data.workers', fix=fix
    )


class SideBySide(Iterator):
    """Batches of several inputs in one: those of an input called `photo` come under keys such as 'photo/image'."""

    def __init__(self, batches: BatchIterator, beside: Mapping[str, BatchIterator]):
        self._batches, self._beside = batches, dict(beside)

    def __next__(self) -> dict[str, np.ndarray]:
        batch = dict(next(self._batches))
        for name, more in self._beside.items():
            batch |= {f'{name}/{key}': value for key, value in next(more).items()}
        return batch

    def close(self) -> None:
        """Ends the threads and processes of all."""
        for batches in (self._batches, *self._beside.values()):
            batches.close()


# --- one example --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Deal:
    """Row of this process's stream -> position in the global stream."""

    rows: int  # of a batch
    process_index: int
    process_count: int

    def __call__(self, row: int) -> int:
        step, within = divmod(row, self.rows)
        return (step * self.process_count + self.process_index) * self.rows + within


@dataclasses.dataclass(frozen=True)
class _TrainExample:
    source: Sequence
    inputs: Input

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        def transform(example):
            if self.inputs.augment is None:
                return transforms.resized(example, self.inputs.size)
            return transforms.training(example, rng, self.inputs.augment)

        return _finish(_transformed(self.source, index, self.inputs, transform), index)


@dataclasses.dataclass(frozen=True)
class _EvalExample:
    source: Sequence
    inputs: Input
    max_size: tuple[int, int]

    def __call__(self, index: int) -> dict[str, np.ndarray]:
        def transform(example):
            return transforms.evaluation(example, self.inputs.size, self.max_size)

        return _finish(_transformed(self.source, index, self.inputs, transform), index)

    def at(self, position: int) -> dict[str, np.ndarray]:
        """The example at a position of the padded split. Padding has a real image and camera, so that what a
        net computes from it is finite and weight 0 removes it."""
        if position < len(self.source):
            return self(position)
        padding = self(0)
        for key, value in padding.items():
            if key.startswith(('instance', 'depth')):
                padding[key] = np.zeros_like(value)
            elif key.startswith('label') and key != 'label_size':
                padding[key] = np.full_like(value, IGNORE)
        return padding | {'weight': np.float32(0), 'index': np.int32(len(self.source))}


def _transformed(source: Sequence, index: int, inputs: Input, transform) -> Mapping[str, Any]:
    """Reads the features that are wanted, and transforms them; errors name the example."""
    example = source[index]
    wanted = [key for key in inputs.features if key not in ('weight', 'index')]
    for key in wanted:
        if key not in example:
            raise unknown_name(f'feature of split {inputs.split!r}', key, example)
    try:
        return transform({key: np.asarray(example[key]) for key in wanted})
    except InputError as error:
        name = example.get('name', '')
        name = name.decode() if isinstance(name, bytes) else str(name)
        where = f'{error.where} of example {index} of split {inputs.split!r}' + (
            f' ({name})' if name else ''
        )
        raise error.at(where) from None


def _finish(example: Mapping[str, Any], index: int) -> dict[str, np.ndarray]:
    """Adds weight and index, and makes images uint8, other whole numbers int32, the rest float32."""
    finished = {key: _for_device(key, value) for key, value in example.items()}
    return finished | {'weight': np.float32(1), 'index': np.int32(index)}


def _for_device(key: str, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind == 'f':
        return value.astype(np.float32, copy=False)
    if value.dtype.kind not in 'biu':
        raise InputError(
            f'feature {key!r}', got=f'{value.dtype}', expected='numbers, as devices take'
        )
    if value.dtype.kind == 'b' or key.startswith('image'):
        return value
    whole = value.astype(np.int32, copy=False)
    if value.dtype.itemsize >= 4 and value.dtype != np.int32 and np.any(whole != value):
        raise InputError(
            f'feature {key!r}', got=f'{value.max()}', expected='whole numbers that fit int32'
        )
    return whole


def zeros(inputs: Input, rows: int) -> dict[str, np.ndarray]:
    """A training batch of zeros: what a net looks like must not depend on the data, nor on whether it is at hand.

    `rows` are those of `inputs` itself; what comes beside it has rows in proportion.

    Raises:
      InputError: a feature whose shape is known only from the data.
    """
    shapes = {'intrinsics': (3, 3), 'pose': (4, 4), 'frame': (), 'weight': (), 'index': ()}
    batch = {}
    for key in (*inputs.features, 'weight', 'index'):
        kind = key.split('_')[0]
        if kind not in shapes and transforms.map_kind(key) is None:
            raise unknown_name('features of a stage', key, (*shapes, *transforms.MAPS))
        shape = (
            shapes[kind]
            if kind in shapes
            else (*inputs.size, 3)
            if kind == 'image'
            else tuple(inputs.size)
        )
        shape = (len(inputs.frames), *shape) if key.endswith(clips.SUFFIX) else shape
        whole = kind in ('label', 'instance', 'frame', 'index')
        batch[key] = np.zeros(
            (rows, *shape), np.uint8 if kind == 'image' else np.int32 if whole else np.float32
        )
    for name, more in inputs.unpaired:
        share = max(1, rows * more.batch_size // inputs.batch_size)
        batch |= {f'{name}/{key}': value for key, value in zeros(more, share).items()}
    return batch


# --- batches ------------------------------------------------------------------------------------------------


def _part(source: Sequence, inputs: Input) -> Sequence:
    """`inputs.part` of a source, in an order that depends on its length alone: all runs have the same part."""
    if inputs.part == (0.0, 1.0):
        return source
    order = np.random.default_rng(0).permutation(len(source))
    first, last = inputs.bounds(len(source))
    return Chosen(source, tuple(int(i) for i in order[first:last]))


def _check_not_empty(source: Sequence, inputs: Input) -> None:
    if not len(source):
        raise InputError(f'split {inputs.split!r}', got='no examples', expected='at least one')


def _stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
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
    """Runs first in every worker process."""
    # Ctrl-C and preemption signals reach the whole process group; the main process decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)  # data.threads are all the threads there are
    threading.Thread(target=_exit_with_lease, args=(lease,), daemon=True).start()


def _exit_with_lease(lease: str) -> None:
    """Ends this worker when the main process is gone or has removed the lease file.

    Left alone, a worker waits for ever to hand over its batch to a main process that was killed, and one that
    started while the iterator was being closed has nobody to stop it.
    """
    main = multiprocessing.parent_process()
    with contextlib.suppress(FileNotFoundError):
        while main.is_alive():
            os.utime(lease)  # also keeps cleaners of temporary folders away from it
            main.join(timeout=0.2)
    main.join(timeout=CLOSE_SECONDS)  # a worker that does not hang ends by itself, and tidies up
    os._exit(1)  # anything but 0: grain's close waits until the worker is seen to have failed
