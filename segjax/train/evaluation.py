"""Sums of an evaluation, for training and --mode evaluate."""

import contextlib
from collections.abc import Callable

import jax
import numpy as np

from segjax.core import parallel
from segjax.data import loader
from segjax.protocol import Mean, Metrics, Stage, TrainState
from segjax.train.run import Run
from segjax.train.stop import Preempted, StopSignal


def totals(
    run: Run,
    stage: Stage,
    evaluate: Callable,
    root: jax.Array,
    state: TrainState,
    stop: StopSignal | None = None,
) -> dict[str, Mean]:
    """Sums all evaluation metrics over the split, in float64. Every example counts once.

    Args:
      run: the run.
      stage: any of its stages.
      evaluate: (state, batch, root key, batch number) -> metrics summed over devices.
      root: key of the evaluation's random streams.
      state: on the devices.
      stop: asked between batches.

    Raises:
      Preempted: the process was told to stop.
    """
    inputs = stage.eval_input
    batches = loader.eval_batches(
        run.open_input(inputs),
        inputs,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        data_config=run.config.data,
        max_size=run.spec_of(inputs).split(inputs.split).max_size,
    )
    sums: dict[str, Mean] = {}
    waiting: list[Metrics] = []
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            if stop is not None and stop.reached():
                raise Preempted(f'stage {stage.name!r} was being evaluated')
            batch = run.topology.put_batch(batch)
            waiting.append(evaluate(state, batch, root, np.int32(number)))
            # Fetch the batch before, while the device works on this batch.
            if len(waiting) > 1 or jax.default_backend() == 'cpu':
                _add(sums, waiting.pop(0))
    for metrics in waiting:
        _add(sums, metrics)
    return sums


def _add(sums: dict[str, Mean], metrics: Metrics) -> None:
    """Fetches metrics from the devices and adds them to sums in float64."""
    for name, mean in parallel.to_host(dict(metrics)).items():
        old = sums.get(name, Mean(0.0, 0.0))
        total = old.sum + mean.sum.astype(np.float64)
        count = old.count + mean.count.astype(np.float64)
        sums[name] = Mean(total, count)
