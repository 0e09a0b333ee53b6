"""The arrays that a finished stage hands on to later stages (`protocol.HandOn`).

They are measured once, after the last step of the stage, and written to its folder. A later start
reads them. They are measured again if the stage has trained longer since, or if another array now
chooses the measured examples. Later stages begin after that.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.core import files, parallel
from segjax.errors import InputError, unknown_name
from segjax.protocol import Input, Mean, Product, Stage, TrainState
from segjax.train import evaluation, initialization, product_files
from segjax.train.product_files import PRODUCTS, Stored
from segjax.train.run import Run
from segjax.train.stage_functions import map_functions, root_key
from segjax.train.stop import StopSignal

# --- arrays of a finished stage -------------------------------------------------------------------


def of_finished(
    run: Run, stage: Stage, state: TrainState, stop: StopSignal
) -> dict[str, np.ndarray]:
    """Returns the arrays of a finished stage: from its file, else measured now and written.

    Every process gets the arrays of the main process.

    Args:
      run: the run, with the arrays of the stages before.
      stage: the stage. A stage without `hand_on` has no arrays.
      state: its final state, on the devices.
      stop: asked between batches.

    Raises:
      InputError: `finalize` returns other arrays than `shapes` says, or the file is damaged.
      Preempted: the process was told to stop. Nothing was written.
    """
    if stage.hand_on is None:
        return {}
    step = int(parallel.to_host(state.step))
    examples = _digest_of_choice(run, stage)
    stored = _stored(run, stage)
    if stored is not None and (stored.step, stored.examples) == (step, examples):
        return stored.arrays

    # The main process writes before it broadcasts, so no process goes on without the file.
    arrays = _measured(run, stage, state, stop)
    data = b''
    if parallel.is_main():
        data = product_files.encode(Stored(arrays, step, examples))
        files.write_bytes(_path(run, stage), data, durable=True)
    return product_files.decode(_path(run, stage), parallel.bytes_of_main(data)).arrays


def of_evaluated(
    run: Run, stage: Stage, state: TrainState, stop: StopSignal
) -> dict[str, np.ndarray]:
    """Returns the arrays that later stages began from, else measures them. Writes nothing.

    Args:
      run, stage, stop: as in `of_finished`.
      state: the evaluated state, on the devices. It may be older than the arrays in the file.
    """
    if stage.hand_on is None:
        return {}
    stored = _stored(run, stage)
    return _measured(run, stage, state, stop) if stored is None else stored.arrays


def of_file(run: Run, stage: Stage) -> dict[str, np.ndarray]:
    """Returns the arrays of a stage that has finished, from its file.

    Raises:
      InputError: there is no file.
    """
    if stage.hand_on is None:
        return {}
    stored = _stored(run, stage)
    if stored is None:
        raise InputError(
            f'--workdir {run.workdir}',
            got=f'no {PRODUCTS} of stage {stage.name!r}',
            expected='the folder of a run whose earlier stages have finished',
            fix=f'train first: --mode train --workdir {run.workdir}',
        )
    return stored.arrays


def _path(run: Run, stage: Stage) -> pathlib.Path:
    """Returns the file of a stage's arrays."""
    return run.workdir / stage.name / PRODUCTS


def _stored(run: Run, stage: Stage) -> Stored | None:
    """Returns the content of a stage's file as the main process reads it, None without a file."""
    path = _path(run, stage)
    exists = parallel.is_main() and path.exists()
    data = parallel.bytes_of_main(path.read_bytes() if exists else b'')
    if not data:
        return None
    stored = product_files.decode(path, data)
    _check(stage, stored.arrays, str(path))
    return stored


def zeros(stage: Stage) -> dict[str, np.ndarray]:
    """Returns zeros with the names, shapes and types of the arrays that a stage hands on."""
    shapes = stage.hand_on.shapes if stage.hand_on is not None else {}
    return {name: np.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}


def _sums(run: Run, stage: Stage, state: TrainState, stop: StopSignal) -> dict[str, Mean]:
    """Returns the sums of the measured examples, {} if the stage measures none."""
    hand_on = stage.hand_on
    assert hand_on is not None
    if hand_on.inputs is None:
        return {}
    measure = map_functions(run, stage).measure
    root = root_key(run, stage, 'hand_on')
    return evaluation.totals(run, stage, measure, root, state, stop, hand_on.inputs)


def _measured(run: Run, stage: Stage, state: TrainState, stop: StopSignal) -> dict[str, np.ndarray]:
    """Measures and checks the arrays of a state, in the order of their names."""
    hand_on = stage.hand_on
    assert hand_on is not None
    sums = _sums(run, stage, state, stop)
    arrays = {name: np.asarray(array) for name, array in hand_on.finalize(sums).items()}
    _check(stage, arrays, f'stage {stage.name!r}: HandOn.finalize')
    return dict(sorted(arrays.items()))


def _check(stage: Stage, arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Raises InputError for arrays that differ from `HandOn.shapes`."""
    assert stage.hand_on is not None
    shapes = stage.hand_on.shapes
    if set(arrays) != set(shapes):
        raise InputError(
            where, got=f'the arrays {_list(arrays)}', expected=f'{_list(shapes)} (HandOn.shapes)'
        )
    for name, shape in shapes.items():
        got = _described(arrays[name])
        expected = _described(shape)
        if got != expected:
            raise InputError(
                where, got=f'{name!r}: {got}', expected=f'{expected}, as in HandOn.shapes'
            )


def _described(array: Any) -> str:
    """Returns type and shape of an array as text."""
    return f'{np.dtype(array.dtype)} {list(array.shape)}'


def _list(names: Mapping[str, Any]) -> str:
    """Returns names as text."""
    return ', '.join(map(repr, sorted(names))) or 'none'


# --- arrays that a stage reads --------------------------------------------------------------------


def choice_of(stage: Stage) -> Product | None:
    """Returns the array that chooses the examples which a stage measures, None without a choice."""
    inputs = stage.hand_on.inputs if stage.hand_on is not None else None
    return inputs.chosen if inputs is not None else None


def read_by_training(run: Run, stage: Stage, earlier: Mapping[str, Any]) -> set[str]:
    """Returns the keys of `earlier` on whose values the training of a stage depends.

    Args:
      run: the run.
      stage: any of its stages.
      earlier: states and arrays of the stages before, maybe abstract.
    """
    chosen = {key_of(inputs.chosen) for inputs in stage.training_inputs if inputs.chosen}
    return chosen | initialization.read_by_init(run, stage, earlier)


def digests_for_training(run: Run, stage: Stage, earlier: Mapping[str, Any]) -> dict[str, str]:
    """Returns {'stage/name': digest} of the arrays on which the training of a stage depends."""
    if not run.products:
        return {}
    return _digests(run, read_by_training(run, stage, earlier))


def digests_for_scores(run: Run, stage: Stage, earlier: Mapping[str, Any]) -> dict[str, str]:
    """Returns {'stage/name': digest} of the arrays on which the scores of a stage depend."""
    if not run.products:
        return {}
    chosen = stage.eval_input.chosen
    evaluated = {key_of(chosen)} if chosen else set()
    return _digests(run, evaluated | read_by_training(run, stage, earlier))


def check_begun_from(
    run: Run, stage: Stage, before: Mapping[str, str], now: Mapping[str, str]
) -> None:
    """Raises InputError if a stage has begun from other arrays than the run folder holds now.

    Args:
      run: the run.
      stage: a stage with a checkpoint.
      before: {'stage/name': digest} when the checkpoint was saved.
      now: {'stage/name': digest} now.
    """
    changed = [key for key in now if key in before and before[key] != now[key]]
    if not changed:
        return
    key = changed[0]
    raise InputError(
        f'--workdir {run.workdir}',
        got=f'{key} has the digest {now[key]}, which was {before[key]} when stage '
        f'{stage.name!r} began',
        expected='the array that the stage began from',
        fix=f'rm -r {run.workdir / stage.name} trains that stage anew; or another --workdir',
    )


def key_of(product: Product) -> str:
    """Returns the key of an array in `earlier`."""
    return f'{product.stage}/{product.name}'


def _digests(run: Run, keys: set[str]) -> dict[str, str]:
    """Returns the digests of those keys of `earlier` that are arrays."""
    digests = {}
    for key in sorted(keys):
        stage, _, name = key.partition('/')
        if name:
            digests[key] = product_files.digest(run.products[stage][name])
    return digests


def _digest_of_choice(run: Run, stage: Stage) -> str:
    """Returns the digest of the array that chooses the measured examples, '' without a choice."""
    chosen = choice_of(stage)
    array = None if chosen is None else run.product(chosen)
    return '' if array is None else product_files.digest(array)


# --- checks before anything compiles --------------------------------------------------------------


def check_declared(stages: Sequence[Stage]) -> None:
    """Raises InputError for declarations of arrays that no run could fulfil."""
    earlier: dict[str, Stage] = {}
    for stage in stages:
        for inputs in stage.all_inputs:
            if inputs.chosen is not None:
                _check_chosen(stage, inputs, earlier)
        _check_hand_on(stage)
        earlier[stage.name] = stage


def _check_chosen(stage: Stage, inputs: Input, earlier: Mapping[str, Stage]) -> None:
    """Raises InputError for a choice that no earlier stage hands on as a list of positions."""
    assert inputs.chosen is not None
    where = f'stage {stage.name!r}: Input.chosen'
    known: dict[str, Any] = {}
    for before in earlier.values():
        if before.hand_on is not None:
            shapes = before.hand_on.shapes
            known |= {key_of(Product(before.name, array)): shapes[array] for array in shapes}
    key = key_of(inputs.chosen)
    if key not in known:
        raise unknown_name(where, key, known)
    shape = known[key]
    if len(shape.shape) != 1 or np.dtype(shape.dtype).kind not in 'iu':
        raise InputError(
            where, got=f'{key}: {_described(shape)}', expected='positions: whole numbers [N]'
        )


def _check_hand_on(stage: Stage) -> None:
    """Raises InputError for a `HandOn` whose parts do not fit together."""
    hand_on = stage.hand_on
    if hand_on is None:
        return
    where = f'stage {stage.name!r}: HandOn'
    if (hand_on.inputs is None) != (hand_on.eval_step is None):
        raise InputError(
            where,
            got=f'inputs={hand_on.inputs!r}, eval_step={hand_on.eval_step!r}',
            expected='both, or neither',
        )
    for name, shape in hand_on.shapes.items():
        if name in product_files.RESERVED or '/' in name:
            raise InputError(where, got=f'the name {name!r}', expected='another name')
        if np.dtype(shape.dtype).kind not in 'biufc':
            raise InputError(
                where, got=f'{name!r}: {_described(shape)}', expected='a type of numpy'
            )
