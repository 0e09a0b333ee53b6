"""The list of refusals: all that a run would refuse later, found before it computes or compiles anything.

The doctor, the start of a run and the start of a table read the same list. Initial states,
training steps and evaluation steps are traced on shapes alone. A `run` is driver.Run.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections

from segjax import pipelines
from segjax.config import config_file
from segjax.core import rng
from segjax.data import loader, transforms
from segjax.errors import InputError
from segjax.protocol import Input, Stage, TrainState
from segjax.train import initialization

Shapes = dict[str, jax.ShapeDtypeStruct]


def check_precision(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for float64 without the 64-bit mode of JAX, which would compute in float32."""
    if config.train.dtype == 'float64' and not jax.config.jax_enable_x64:
        raise InputError(
            'config.train.dtype',
            got="'float64' without 64-bit mode",
            expected='64-bit mode',
            fix='start with JAX_ENABLE_X64=1 in the environment, or --config.train.dtype=float32',
        )


def problems(
    run, stages: Sequence[Stage], use: str, begun: bool, trace_steps: bool = True
) -> Iterator[InputError]:
    """Yields the refusals of a run, cheap checks first, with fixes that were tried.

    Args:
      run: driver.Run. Its `data` must have `spec` and `open_input`, whose result must have a length.
      stages: of the run.
      use: 'train', 'evaluate' or 'predict'.
      begun: whether the run folder holds a checkpoint. What the run began from may be gone.
      trace_steps: whether training and evaluation steps are traced, which takes seconds for large nets.
    """
    for stage in stages:
        wrong = list(_input_problems(run, stage, use, begun))
        yield from wrong
        if wrong:
            return
    if use == 'train':
        for problem in _step_problems(run, stages, begun, trace_steps):
            yield _with_size(run, problem)


def _step_problems(
    run, stages: Sequence[Stage], begun: bool, trace_steps: bool = True
) -> Iterator[InputError]:
    """Yields what the nets, the losses and the start of a run refuse, stage by stage."""
    states: dict[str, TrainState] = {}

    def add_state(stage: Stage) -> None:
        states[stage.name] = initialization.abstract_state(run, stage, states)

    for stage in stages:
        refusal = _refusal(add_state, stage)
        if refusal:
            yield refusal
            return
    checks = [] if begun else [(initialization.check_weights, run, states)]
    for stage in stages:
        if trace_steps:
            checks.append((_trace_training, run, stage, states[stage.name]))
            checks.append((_trace_evaluation, run, stage, states[stage.name]))
    yield from _refusals(checks)


def _refusal(check: Callable[..., Any], *arguments: Any) -> InputError | None:
    """Returns the InputError of a check, None if it passes."""
    try:
        check(*arguments)
    except InputError as error:
        return error
    return None


def _refusals(checks: Iterable[tuple[Any, ...]]) -> Iterator[InputError]:
    """Yields the InputErrors of checks, each a function and its arguments."""
    for check in checks:
        refusal = _refusal(*check)
        if refusal:
            yield refusal


# --- inputs -----------------------------------------------------------------------------------------------------------


def _input_problems(run, stage: Stage, use: str, begun: bool = False) -> Iterator[InputError]:
    """Yields what is wrong with the inputs of a stage: splits, features, shares and batch sizes."""
    check_batch_size = run.topology.check_batch_size
    checks: list[tuple[Any, ...]] = []
    if use == 'train' and stage.train_input is not None:
        for inputs in stage.train_input.with_unpaired():
            checks.append((_check_part, run, inputs))
            checks.append((_check_training_batch, run, inputs, begun))
    if use != 'predict':
        checks.append((run.data.open_input, stage.eval_input))
        checks.append((check_batch_size, 'evaluate.batch_size', stage.eval_input.batch_size))
    yield from _refusals(checks)


def _check_training_batch(run, inputs: Input, begun: bool) -> None:
    """Raises InputError for a batch that the devices cannot share. A run that has begun keeps its batch size."""
    accumulate = run.config.train.accumulate
    try:
        run.topology.check_batch_size(inputs.batch_key, inputs.batch_size, accumulate)
    except InputError as error:
        able = [
            n for n in range(1, run.topology.count) if inputs.batch_size % (n * accumulate) == 0
        ]
        if not begun or not able:
            raise
        fix = 'CUDA_VISIBLE_DEVICES=' + ','.join(map(str, range(able[-1])))
        if jax.default_backend() == 'cpu':
            fix = f'XLA_FLAGS=--xla_force_host_platform_device_count={able[-1]}'
        expected = (
            f'{error.expected}, or fewer devices: the run keeps the batch size that it began with'
        )
        raise InputError(error.where, got=error.got, expected=expected, fix=fix) from error


def _check_part(run, inputs: Input) -> None:
    """Raises InputError for an input that cannot be opened, and for a share that holds no example."""
    whole = len(run.data.open_input(inputs))
    first, last = inputs.bounds(whole)
    if first < last:
        return
    fraction = run.config.data.labelled_fraction
    places = min(max(round(fraction * whole), 1), whole - 1)
    fix = (
        f'--config.data.labelled_fraction={places / whole:.6g}'
        if places
        else 'add examples to this split'
    )
    raise InputError(
        'config.data.labelled_fraction',
        got=f'{inputs.part[0]:g} to {inputs.part[1]:g} of the {whole} examples of split {inputs.split!r}: none',
        expected='at least one example in each part',
        fix=fix,
    )


# --- steps ------------------------------------------------------------------------------------------------------------


def _keys(run, stage: Stage) -> dict[str, jax.Array]:
    """Returns a key for each random stream of a stage; only their types matter to a trace."""
    root = rng.root(run.config.seed, stage.name, 'check')
    return rng.streams(root, (*stage.streams, *stage.shared_streams), 0, 0)


def _trace_training(run, stage: Stage, state: TrainState) -> None:
    """Raises InputError for a training step that a net or a loss refuses, or whose batch norm sees single values."""
    if not stage.num_steps:
        return
    single = _single_values(run, stage, state)
    if not single:
        return
    inputs = stage.train_input
    accumulate = run.config.train.accumulate
    rows = inputs.batch_size // accumulate
    images = f'{rows} image{"s" * (rows > 1)} in a micro-batch'
    devices = f'{run.topology.count} device{"s" * (run.topology.count > 1)}'
    raise InputError(
        f'config.{inputs.batch_key}',
        got=f'batch norm {single[0]} of stage {stage.name!r} trains on a single value per channel '
        f'({images}, on {devices})',
        expected='at least two values: one value less its own mean is 0, and the running variance decays to 0',
        fix=_more_values(run, stage),
    )


def _single_values(run, stage: Stage, state: TrainState) -> list[str]:
    """Traces a training step. Returns the batch norms that train on a single value per channel, in order."""
    inputs, count = stage.train_input, run.topology.count
    found: dict[str, None] = {}

    def note(call, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.BatchNorm) and context.method_name == '__call__':
            values = math.prod(args[0].shape[:-1]) * (count if module.axis_name else 1)
            if values == 1 and not module.use_running_average:
                found['/'.join(module.path)] = None
        return call(*args, **kwargs)

    batch = _global_batch(loader.zeros(inputs, inputs.batch_size // count), count)
    with nn.intercept_methods(note):
        run.topology.eval_shape(stage.train_step, state, batch, _keys(run, stage))
    return list(found)


def _more_values(run, stage: Stage) -> str:
    """Returns an assignment with which every batch norm of a stage trains on several values; '' if none is known."""
    accumulate = run.config.train.accumulate
    inputs = stage.train_input
    fewer = [number for number in range(accumulate - 1, 0, -1) if accumulate % number == 0]
    candidates = [f'train.accumulate={number}' for number in fewer]
    candidates += [f'{each.batch_key}={2 * each.batch_size}' for each in inputs.with_unpaired()]
    for candidate in candidates:
        changed, stages = _changed(run, [candidate])
        states = initialization.abstract_states(changed, stages)
        (same,) = (each for each in stages if each.name == stage.name)
        if not _single_values(changed, same, states[stage.name]):
            return f'--config.{candidate}'
    return ''


def _trace_evaluation(run, stage: Stage, state: TrainState) -> None:
    """Raises InputError for images or crops of a size that a net does not take in evaluation."""
    inputs = stage.eval_input
    batch = evaluation_batch(
        inputs, inputs.batch_size // run.topology.count, run.spec.split(inputs.split).max_size
    )
    jax.eval_shape(stage.eval_step, state, batch, _keys(run, stage))


def evaluation_batch(inputs: Input, rows: int, max_size: tuple[int, int]) -> Shapes:
    """Returns the shapes of a batch of `loader.eval_batches`.

    Args:
      inputs: `Stage.eval_input`.
      rows: examples of the batch.
      max_size: (height, width) that labels are padded to.
    """
    shapes = _global_batch(loader.zeros(inputs, rows), 1)
    maps = [key for key in shapes if transforms.map_kind(key)]
    images = [key for key in maps if key.startswith('image')]
    pair = jax.ShapeDtypeStruct((rows, 2), 'int32')
    for key in set(maps) - set(images):
        shapes[key] = jax.ShapeDtypeStruct((*shapes[key].shape[:-2], *max_size), shapes[key].dtype)
    if images:
        shapes['size'] = pair
    if maps:
        shapes['label_size'] = pair
    return shapes


def _global_batch(batch: Mapping[str, Any], count: int) -> Shapes:
    """Returns the shapes of the batches of `count` devices together."""
    return {
        key: jax.ShapeDtypeStruct((count * value.shape[0], *value.shape[1:]), value.dtype)
        for key, value in batch.items()
    }


# --- other configs ----------------------------------------------------------------------------------------------------


def passes(run, overrides: Iterable[str]) -> bool:
    """Returns whether a run with other values of some keys passes the checks of inputs and steps.

    Args:
      run: as in `problems`.
      overrides: assignments, as 'train.batch_size=4'.
    """
    try:
        changed, stages = _changed(run, overrides)
    except InputError:
        return False
    wrong = [problem for stage in stages for problem in _input_problems(changed, stage, 'train')]
    return not wrong and next(_step_problems(changed, stages, begun=True), None) is None


def _changed(run, overrides: Iterable[str]):
    """Returns a run with other values of some keys, and its stages."""
    config = config_file.overridden(run.config, ';'.join(overrides))
    return run._replace(config=config), pipelines.load(config.pipeline).make_stages(
        config, run.spec
    )


SIZES = ('augment.crop', 'data.eval_size', 'evaluate.crop')
"""Keys with the (height, width) of what a net sees."""


def _with_size(run, error: InputError) -> InputError:
    """Returns the error with a size near the present ones that all nets take, if a size is the cause."""
    if error.fix.startswith('--') or passes(run, []):
        return error
    for step in (8, 32, 128):
        near = []
        for key in SIZES:
            section, name = key.split('.')
            size = tuple(run.config[section][name])
            rounded = tuple(max(1, round(side / step)) * step for side in size)
            if rounded != size:
                near.append((f'{key}={rounded}', f'--config.{key}="{rounded}"'))
        for chosen in (*([each] for each in near), near):
            if passes(run, [override for override, _ in chosen]):
                fix = ' '.join(typed for _, typed in chosen)
                return InputError(error.where, got=error.got, expected=error.expected, fix=fix)
    return error
