"""Evaluation on the host (`protocol.Observation`): its sums, and its checks before training."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from segjax.core import parallel
from segjax.errors import InputError
from segjax.protocol import Array, Batch, Mean, Observation, Stage

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Shapes of the sum and of the count of each Mean, by name."""


def add(
    sums: dict[str, Mean], stage: Stage, batch: Batch, outputs: Mapping[str, np.ndarray]
) -> None:
    """Observes a batch on the host, and adds the Means to sums in float64.

    Args:
      sums: of the batches before, {} at the first. Changed in place.
      stage: with an `observation`.
      batch: rows of this process on the host. Rows of weight 0 are padding.
      outputs: of the same rows.

    Raises:
      InputError: the names or the shapes differ from the batches before.
    """
    assert stage.observation is not None
    kept = np.asarray(batch['weight']) > 0
    means = stage.observation.observe(_rows(batch, kept), _rows(outputs, kept))
    means = _in_float64(means)
    if sums and shapes_of(means) != shapes_of(sums):
        raise _differing(stage, shapes_of(means), shapes_of(sums))
    for name, mean in means.items():
        old = sums.get(name, Mean(np.float64(0), np.float64(0)))
        sums[name] = Mean(old.sum + mean.sum, old.count + mean.count)


def over_processes(sums: Mapping[str, Mean]) -> dict[str, Mean]:
    """Adds the sums of all processes. Names and shapes are equal in every process.

    All processes must call this function at the same place.
    """
    # A single vector needs a single exchange.
    leaves = []
    for name in sorted(sums):
        leaves += [np.asarray(sums[name].sum), np.asarray(sums[name].count)]
    if not leaves:
        return {}
    vector = np.concatenate([leaf.ravel() for leaf in leaves])
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(parallel.sum_over_processes(vector), ends[:-1])
    totals = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return {name: Mean(*totals[2 * i : 2 * i + 2]) for i, name in enumerate(sorted(sums))}


def shapes_of(means: Mapping[str, Mean]) -> Shapes:
    """Returns the shapes of the sum and of the count of each Mean."""
    return {name: (np.shape(mean.sum), np.shape(mean.count)) for name, mean in means.items()}


def _rows(batch: Mapping[str, Any], kept: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the rows of a batch that are kept, without a copy if all are."""
    if kept.all():
        return {key: np.asarray(value) for key, value in batch.items()}
    return {key: np.asarray(value)[kept] for key, value in batch.items()}


def _in_float64(means: Mapping[str, Mean]) -> dict[str, Mean]:
    """Returns Means of float64 arrays."""
    converted = {}
    for name, mean in means.items():
        total = np.asarray(mean.sum, np.float64)
        converted[name] = Mean(total, np.asarray(mean.count, np.float64))
    return converted


def _differing(stage: Stage, got: Shapes, expected: Shapes) -> InputError:
    """Returns the error for names or shapes that depend on the batch."""
    return InputError(
        _where(stage),
        got=f'{_text(got)} for this batch',
        expected=f'{_text(expected)}, as for the batches before',
        fix='place the values of the examples with means.rows: every batch has its shape',
    )


def _where(stage: Stage) -> str:
    """Returns the place of an error."""
    return f'stage {stage.name!r}: Observation.observe'


def _text(shapes: Shapes) -> str:
    """Returns names and shapes as text."""
    parts = [f'{name!r} {list(total)} / {list(count)}' for name, (total, count) in shapes.items()]
    return ', '.join(parts) or 'no Mean'


# --- checks before anything compiles --------------------------------------------------------------


def check(
    stage: Stage,
    trace: Callable[[Callable], Mapping[str, Any]],
    batch: Mapping[str, Any],
    metrics: Collection[str],
) -> None:
    """Raises InputError for an observation that an evaluation would refuse.

    `observe` is called with zeros, in batches of 0 rows and of 1 row.

    Args:
      stage: with an `observation`.
      trace: returns the shapes of a function of (state, batch, keys).
      batch: shapes of a batch.
      metrics: names of the Means of `Stage.eval_step`.
    """
    assert stage.observation is not None
    # Outputs stay split over the devices, so they need rows.
    outputs = trace(stage.observation.outputs)
    num_rows = batch['weight'].shape[0]
    for name, output in outputs.items():
        if output.shape[:1] != (num_rows,):
            raise InputError(
                f'stage {stage.name!r}: Observation.outputs',
                got=f'{name!r} of shape {list(output.shape)}',
                expected=f'a row for each of the {num_rows} examples',
            )

    # The Means of all batches and processes are added, so they need the same names and shapes.
    none = _observed_zeros(stage, stage.observation, batch, outputs, 0)
    single = _observed_zeros(stage, stage.observation, batch, outputs, 1)
    if none != single:
        raise InputError(
            _where(stage),
            got=f'{_text(none)} for 0 rows, {_text(single)} for 1 row',
            expected='the same names and shapes for any number of rows',
            fix='place the values of the examples with means.rows: every batch has its shape',
        )

    # `finalize` gets metrics and Means in one mapping.
    both = sorted(set(metrics) & set(single))
    if both:
        raise InputError(
            _where(stage),
            got=f'the name {both[0]!r}, which eval_step also returns',
            expected='names that eval_step does not use',
        )


def _observed_zeros(
    stage: Stage,
    observation: Observation,
    batch: Mapping[str, Any],
    outputs: Mapping[str, Array],
    num_rows: int,
) -> Shapes:
    """Returns the shapes of the Means of a batch of zeros with `num_rows` rows."""
    arguments = []
    for shapes in (batch, outputs):
        zeros = {}
        for name, leaf in shapes.items():
            zeros[name] = np.zeros((num_rows, *leaf.shape[1:]), leaf.dtype)
        arguments.append(zeros)
    arguments[0]['weight'] += 1
    try:
        with np.errstate(all='ignore'):
            return shapes_of(observation.observe(*arguments))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            _where(stage),
            got=f'{error!r} for {num_rows} rows of zeros',
            expected='Means for any number of rows',
        ) from error
