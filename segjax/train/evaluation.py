"""Sums of an evaluation, for training and --mode evaluate."""

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from segjax.core import parallel
from segjax.data import kinds, loader
from segjax.protocol import Array, Batch, Input, Mean, Metrics, Stage, TrainState
from segjax.train import observation
from segjax.train.batches import declared_in_batch
from segjax.train.run import Run
from segjax.train.stop import Preempted, StopSignal


def totals(
    run: Run,
    stage: Stage,
    evaluate: Callable,
    root: jax.Array,
    state: TrainState,
    stop: StopSignal | None = None,
    inputs: Input | None = None,
) -> dict[str, Mean]:
    """Sums all evaluation metrics over the split, in float64. Every example counts once.

    The Means of `Stage.observation` are among them, if the stage's own input is evaluated.

    Args:
      run: the run.
      stage: any of its stages.
      evaluate: (state, batch, root key, batch number) -> (metrics summed over devices, outputs).
      root: key of the evaluation's random streams.
      state: on the devices.
      stop: asked between batches.
      inputs: the examples; None: `Stage.eval_input`.

    Raises:
      Preempted: the process was told to stop.
      InputError: `Stage.observation` returns other names or shapes than before.
    """
    sums: dict[str, Mean] = {}
    observed: dict[str, Mean] = {}
    own = stage.eval_input if inputs is None else inputs
    for batch, metrics, outputs in _results(run, stage, own, evaluate, root, state, stop):
        _add(sums, metrics)
        if inputs is None and stage.observation is not None:
            rows = run.topology.rows_of_process(outputs)
            seen = kinds.in_step(batch, declared_in_batch(run, own))
            observation.add(observed, stage, seen, rows)
    return sums | observation.over_processes(observed)


def _results(
    run: Run,
    stage: Stage,
    inputs: Input,
    evaluate: Callable,
    root: jax.Array,
    state: TrainState,
    stop: StopSignal | None,
) -> Iterator[tuple[Batch, Metrics, Mapping[str, Array]]]:
    """Yields (batch on the host, metrics, outputs) of every batch, while the next is computed.

    Arguments are as in `totals`.
    """
    batches = loader.eval_batches(
        run.open_input(inputs),
        inputs,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        data_config=run.config.data,
        max_size=run.spec_of(inputs).split(inputs.split).max_size,
    )
    waiting: collections.deque[tuple[Batch, Metrics, Mapping[str, Array]]] = collections.deque()
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            if stop is not None and stop.reached():
                raise Preempted(f'stage {stage.name!r} was being evaluated')
            device_batch = run.topology.put_batch(batch)
            metrics, outputs = evaluate(state, device_batch, root, np.int32(number))
            waiting.append((batch, metrics, outputs))
            # The caller fetches the batch before, while the device works on this batch.
            if len(waiting) > 1 or jax.default_backend() == 'cpu':
                yield waiting.popleft()
    yield from waiting


def _add(sums: dict[str, Mean], metrics: Metrics) -> None:
    """Fetches metrics from the devices and adds them to sums in float64."""
    for name, mean in parallel.to_host(dict(metrics)).items():
        old = sums.get(name, Mean(0.0, 0.0))
        total = old.sum + mean.sum.astype(np.float64)
        count = old.count + mean.count.astype(np.float64)
        sums[name] = Mean(total, count)
