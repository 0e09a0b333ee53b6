"""Loads the states of stages: from a checkpoint, else the initial state."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax import config as config_lib
from segjax.core import parallel
from segjax.errors import InputError, unknown_name
from segjax.protocol import Stage, TrainState
from segjax.train import initialization, products
from segjax.train.checkpoints import Checkpoints
from segjax.train.run import Run

Record = Mapping[str, Any]
"""JSON that a checkpoint holds in addition to the state.

window    the open logging window (journal.Window)
evaluate  whether the evaluation of this step is pending, because a stop signal cut it short
config    the config of the run, as JSON
products  {'stage/name': digest} of the arrays of earlier stages from which the stage began. Absent
          in the checkpoints of a stage that began from none
"""

NO_RECORD: Record = {'window': {}, 'evaluate': False}
"""Record of a stage that begins."""


def checkpoint_folder(run: Run, stage: Stage) -> pathlib.Path:
    """Returns the folder of the checkpoints of a stage."""
    return run.workdir / stage.name / 'checkpoints'


def open_checkpoints(run: Run, stage: Stage) -> Checkpoints:
    """Opens the checkpoints of a stage that trains."""
    numbers = run.config.logging
    folder = checkpoint_folder(run, stage)
    return Checkpoints(folder, stage.monitor, numbers.keep_last, numbers.keep_best)


def first_state(
    run: Run, stage: Stage, earlier: Mapping[str, Any], checkpoints: Checkpoints
) -> tuple[TrainState, Record]:
    """Returns the state from which this process trains a stage, on the host, and its record.

    It is the state of the newest whole checkpoint. Without a checkpoint it is the initial state.
    A stage of 0 steps saves its initial state at once, because its source may change or go.

    Args:
      run: the run.
      stage: the stage.
      earlier: final states and arrays of the stages before, on the host.
      checkpoints: of the stage.

    Raises:
      InputError: the stage has begun from other arrays of earlier stages than they hand on now.
    """
    read = products.digests_for_training(run, stage, earlier)
    restored = _restored(run, stage, earlier, checkpoints)
    if restored is not None:
        state, record = restored
        products.check_begun_from(run, stage, record.get('products', {}), read)
        return state, {**record, 'products': read}
    state = initialization.initial_state(run, stage, earlier)
    record = {**NO_RECORD, 'products': read}
    if not stage.num_steps:
        checkpoints.save(state, stored_record(run, record), {})
        checkpoints.wait()
    return state, record


def stored_record(run: Run, record: Record) -> Record:
    """Returns a record as checkpoints hold it: with the config, without an empty 'products'."""
    stored = {**record, 'config': config_lib.to_json(run.config)}
    if not stored['products']:
        del stored['products']
    return stored


def without_values(state: TrainState) -> TrainState:
    """Returns a stand-in of a state that no later stage reads. It needs no memory.

    All its numbers are NaN, which is equal to nothing: no net passes for a copy of it.
    """

    def stand_in(leaf: Any) -> np.ndarray:
        dtype = np.dtype(leaf.dtype)
        is_float = jax.numpy.issubdtype(dtype, jax.numpy.inexact)
        return np.broadcast_to(np.array(np.nan if is_float else 0).astype(dtype), leaf.shape)

    return jax.tree.map(stand_in, state)


def last_readers(run: Run, stages: Sequence[Stage]) -> dict[str, int]:
    """Returns the position of the last stage whose initial state depends on a state or an array.

    Args:
      run: the run.
      stages: all of its stages.

    Returns:
      By key of the argument `earlier` of `Stage.init`. Keys that no stage reads are absent.
    """
    readers: dict[str, int] = {}
    for number, (stage, earlier) in enumerate(initialization.with_earlier(run, stages)):
        # Without an earlier stage there is nothing to read, and no need to trace.
        for key in initialization.read_by_init(run, stage, earlier) if earlier else ():
            readers[key] = number
    return readers


def keep_read(earlier: Mapping[str, Any], readers: Mapping[str, int], done: int) -> dict[str, Any]:
    """Replaces the states that no further stage reads by stand-ins, which frees their memory.

    Args:
      earlier: states and arrays of the finished stages.
      readers: from `last_readers`.
      done: number of finished stages.
    """
    kept = dict(earlier)
    for key, value in earlier.items():
        if isinstance(value, TrainState) and readers.get(key, -1) < done:
            kept[key] = without_values(value)
    return kept


def load_stage(run: Run, stage: Stage, earlier: Mapping[str, Any], which: str) -> TrainState:
    """Returns the state of a checkpoint of a stage, on the devices.

    A stage of 0 steps without a checkpoint has its initial state.

    Args:
      run: the run.
      stage: the stage.
      earlier: states and arrays of the stages before. Shapes are enough if the stage has a
        checkpoint.
      which: 'last' for the newest checkpoint, 'best' for the best.

    Raises:
      InputError: a stage with steps has no checkpoint, or no checkpoint with a score for 'best'.
    """
    restored = None
    folder = checkpoint_folder(run, stage)
    if folder.is_dir():
        with Checkpoints(folder, stage.monitor, read_only=True) as checkpoints:
            step = _best_step(stage, checkpoints) if which == 'best' else None
            restored = _restored(run, stage, earlier, checkpoints, step)
    if restored is not None:
        return run.topology.put_replicated(restored[0])
    if stage.num_steps:
        raise InputError(
            f'--workdir {run.workdir}',
            got=f'no checkpoint of stage {stage.name!r}',
            expected='the folder of a run that has saved one',
            fix=f'train first: --mode train --workdir {run.workdir}',
        )
    return run.topology.put_replicated(initialization.initial_state(run, stage, earlier))


def abilities(stage: Stage) -> str:
    """Returns what a stage can predict, as text. '' for a stage that cannot predict."""
    able = []
    if stage.predict is not None:
        able.append('class maps of images')
    if stage.prediction is not None:
        inputs = ', '.join(stage.prediction.inputs)
        able.append(f'{", ".join(stage.prediction.outputs)} from {inputs}')
    return ' and '.join(able)


def predicting_stage(run: Run, stages: tuple[Stage, ...], name: str = '') -> Stage:
    """Returns the stage that predicts.

    Args:
      run: the run.
      stages: all of its stages.
      name: of the stage. '' for the last stage that can predict.

    Raises:
      InputError: no stage of the pipeline can predict, no such stage, or a stage that cannot.
    """
    able = {stage.name: abilities(stage) for stage in stages if abilities(stage)}
    if not able:
        raise InputError(
            '--mode predict',
            got=f'pipeline {run.config.pipeline!r}',
            expected='the run of a pipeline that predicts',
            fix=f'--mode evaluate --workdir {run.workdir}, which scores this run',
        )
    expected = '; '.join(f'{known}: {ability}' for known, ability in able.items())
    return able_stage(stages, tuple(able), name, 'cannot predict', expected)


def able_stage(
    stages: Sequence[Stage], able: Sequence[str], name: str, lack: str, expected: str
) -> Stage:
    """Returns the stage of a name, or the last able stage without a name.

    Args:
      stages: of a run.
      able: names of the stages that may be chosen, at least one.
      name: of the stage, as --stage gives it, or ''.
      lack: of all further stages, for errors, such as 'cannot predict'.
      expected: of --stage, for errors.

    Raises:
      InputError: no such stage, or a stage that may not be chosen.
    """
    by_name = {stage.name: stage for stage in stages}
    if name and name not in by_name:
        raise unknown_name('--stage', name, by_name)
    if name and name not in able:
        raise InputError(
            '--stage',
            got=f'{name!r}, which {lack}',
            expected=expected,
            fix=f'--stage {able[-1]}',
        )
    return by_name[name or able[-1]]


def load_last_stage(
    run: Run, stages: tuple[Stage, ...], which: str, name: str = ''
) -> tuple[Stage, TrainState]:
    """Returns the stage that predicts, by default the last, and its state on the devices.

    Args:
      run: the run.
      stages: all of its stages.
      which: 'last' for the newest checkpoint, 'best' for the best.
      name: as in `predicting_stage`.

    Raises:
      InputError: an error of `predicting_stage` or `load_stage`.
    """
    last = predicting_stage(run, stages, name)
    before = stages[: stages.index(last)]
    # With a checkpoint, only the shapes of the stages before are needed.
    if initialization.has_checkpoint(run.workdir / last.name):
        return last, load_stage(run, last, initialization.abstract_earlier(run, before), which)
    earlier: dict[str, Any] = {}
    for stage in before:
        state = parallel.to_host(load_stage(run, stage, earlier, which))
        earlier |= initialization.handed_on(stage, state, products.of_file(run, stage))
    return last, load_stage(run, last, earlier, which)


def _best_step(stage: Stage, checkpoints: Checkpoints) -> int | None:
    """Returns the step of the best checkpoint, None for a stage of 0 steps or without checkpoints.

    The checkpoint of a stage of 0 steps has no score.
    """
    if not stage.num_steps:
        return None
    step = checkpoints.best_step()
    if step is None and checkpoints.steps():
        raise InputError(
            '--checkpoint best',
            got=f'no checkpoint of stage {stage.name!r} with a score {stage.monitor[0]!r}',
            expected='one saved after an evaluation',
        )
    return step


def _restored(
    run: Run,
    stage: Stage,
    earlier: Mapping[str, Any],
    checkpoints: Checkpoints,
    step: int | None = None,
) -> tuple[TrainState, Record] | None:
    """Returns state and record of a checkpoint, by default of the newest whole checkpoint."""
    if not checkpoints.steps():
        return None
    return checkpoints.restore(initialization.abstract_state(run, stage, earlier), step)
