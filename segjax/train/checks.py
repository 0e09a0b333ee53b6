"""Lists the refusals of a run: every later error that can be foreseen before anything compiles.

The doctor, the start of a run and the start of a table read the same list. Initial states, training
steps and evaluation steps are traced on shapes alone.
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
from segjax.data import kinds, loader, table_rows
from segjax.errors import InputError
from segjax.protocol import Input, Stage, TrainState
from segjax.spec import DataSpec
from segjax.train import initialization, observation, products
from segjax.train.batches import declared_in_batch, training_input
from segjax.train.run import Run

Shapes = dict[str, jax.ShapeDtypeStruct]
Check = tuple[Any, ...]
"""A function that raises InputError, and its arguments."""

SIZES = ('augment.crop', 'data.eval_size', 'evaluate.crop')
"""Config keys with the (height, width) of the input of a net."""


def check_precision(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for float64 without JAX's 64-bit mode: JAX would compute in float32."""
    if config.train.dtype == 'float64' and not jax.config.values['jax_enable_x64']:
        raise InputError(
            'config.train.dtype',
            got="'float64' without 64-bit mode",
            expected='64-bit mode',
            fix='start with JAX_ENABLE_X64=1 in the environment, or --config.train.dtype=float32',
        )


def problems(
    run: Run, stages: Sequence[Stage], use: str, begun: bool, trace_steps: bool = True
) -> Iterator[InputError]:
    """Yields the refusals of a run, cheap checks first, with fixes that were tried.

    Args:
      run: the run.
      stages: of the run.
      use: 'train', 'evaluate' or 'predict'.
      begun: whether the run folder holds a checkpoint. The source of the run may then be gone.
      trace_steps: whether to trace the steps of all stages, which takes seconds for large nets.
    """
    refusal = _refusal(products.check_declared, stages)
    if refusal:
        yield refusal
        return
    for stage in stages:
        wrong = list(_input_problems(run, stage, use, begun))
        yield from wrong
        if wrong:
            return
    if use == 'train':
        for problem in _step_problems(run, stages, begun, trace_steps):
            yield _with_size(run, problem)


def _step_problems(
    run: Run, stages: Sequence[Stage], begun: bool, trace_steps: bool = True
) -> Iterator[InputError]:
    """Yields the refusals of the nets, the losses and the source of a run, stage by stage."""
    earlier: dict[str, Any] = {}

    def add_state(stage: Stage) -> None:
        earlier.update(initialization.abstract_entries(run, stage, earlier))

    for stage in stages:
        refusal = _refusal(add_state, stage)
        if refusal:
            yield refusal
            return
    states: dict[str, TrainState] = {stage.name: earlier[stage.name] for stage in stages}
    # A run that has begun reads no source.
    checks: list[Check] = []
    if not begun:
        # A missing net is a clearer error than another net of the same name.
        checks.append((initialization.check_frozen, run, stages, states))
        checks.append((initialization.check_weights, run, states))
    if trace_steps:
        for stage in stages:
            checks.append((_trace_training, run, stage, states[stage.name]))
            checks.append((_trace_evaluation, run, stage, states[stage.name]))
            checks.append((_trace_hand_on, run, stage, states[stage.name]))
    yield from _refusals(checks)


def _refusal(check: Callable[..., Any], *arguments: Any) -> InputError | None:
    """Returns the InputError of a check, None if it passes."""
    try:
        check(*arguments)
    except InputError as error:
        return error
    return None


def _refusals(checks: Iterable[Check]) -> Iterator[InputError]:
    """Yields the InputErrors of checks."""
    for check in checks:
        refusal = _refusal(*check)
        if refusal:
            yield refusal


# --- inputs ---------------------------------------------------------------------------------------


def _input_problems(run: Run, stage: Stage, use: str, begun: bool = False) -> Iterator[InputError]:
    """Yields the refusals of a stage's inputs: splits, features, fractions and batch sizes.

    Opening an input fails if the data set lacks a feature, for example neighbouring frames.
    """
    checks: list[Check] = []
    if use == 'train' and stage.train_input is not None:
        for inputs in stage.train_input.with_unpaired():
            checks.append((_check_part, run, inputs))
            checks.append((loader.check_transform, inputs, run.config.data))
            checks.append((_check_training_batch, run, inputs, begun))
    if use != 'predict':
        check_batch_size = run.topology.check_batch_size
        checks.append((run.open_input, stage.eval_input))
        checks.append((loader.check_transform, stage.eval_input, run.config.data))
        checks.append((check_batch_size, 'evaluate.batch_size', stage.eval_input.batch_size))
    if use == 'train' and stage.hand_on is not None and stage.hand_on.inputs is not None:
        measured = stage.hand_on.inputs
        checks.append((run.open_input, measured))
        checks.append((loader.check_transform, measured, run.config.data))
        checks.append((check_batch_size, 'evaluate.batch_size', measured.batch_size))
    yield from _refusals(checks)


def _check_training_batch(run: Run, inputs: Input, begun: bool) -> None:
    """Raises InputError for a batch that cannot be split evenly over the devices.

    A run that has begun keeps its batch size, so the fix is a number of devices.
    """
    accumulate = run.config.train.accumulate
    try:
        run.topology.check_batch_size(inputs.batch_key, inputs.batch_size, accumulate)
    except InputError as error:
        counts = range(1, run.topology.count)
        able = [n for n in counts if inputs.batch_size % (n * accumulate) == 0]
        if not begun or not able:
            raise
        fix = 'CUDA_VISIBLE_DEVICES=' + ','.join(map(str, range(able[-1])))
        if jax.default_backend() == 'cpu':
            fix = f'XLA_FLAGS=--xla_force_host_platform_device_count={able[-1]}'
        expected = (
            f'{error.expected}, or fewer devices: the run keeps the batch size that it began with'
        )
        raise error.replaced(expected=expected, fix=fix) from error


def _check_part(run: Run, inputs: Input) -> None:
    """Raises InputError if an input cannot be opened, or its part of the split has no example."""
    whole = len(table_rows.images_of(run.open_input(inputs)))
    first, last = inputs.bounds(whole)
    if first < last:
        return
    fraction = run.config.data.labelled_fraction
    places = min(max(round(fraction * whole), 1), whole - 1)
    fix = 'add examples to this split'
    if places:
        fix = f'--config.data.labelled_fraction={places / whole:.6g}'
    part = f'{inputs.part[0]:g} to {inputs.part[1]:g}'
    raise InputError(
        'config.data.labelled_fraction',
        got=f'{part} of the {whole} examples of split {inputs.split!r}: none',
        expected='at least one example in each part',
        fix=fix,
    )


def check_rows(run: Run, stages: Sequence[Stage], use: str) -> None:
    """Refuses inputs whose tables have no row that is an example. The tables must be computed.

    Args:
      run: the run.
      stages: of the run.
      use: 'train' or 'evaluate'.

    Raises:
      InputError: the first such input.
    """
    for stage in stages:
        num_trained = len(stage.training_inputs)
        for number, inputs in enumerate(stage.all_inputs):
            trains = number < num_trained
            if inputs.each and (use == 'train' or not trains):
                loader.check_examples(run.open_input(inputs), inputs, part=trains)


# --- steps ----------------------------------------------------------------------------------------


def _keys(run: Run, stage: Stage) -> dict[str, jax.Array]:
    """Returns a key for each random stream of a stage. Only their types matter to a trace."""
    root = rng.root(run.config.seed, stage.name, 'check')
    return rng.streams(root, (*stage.streams, *stage.shared_streams), 0, 0)


def _trace_training(run: Run, stage: Stage, state: TrainState) -> None:
    """Raises InputError for a training step that a net or a loss refuses.

    Also raises it if a batch norm would train on a single value per channel.
    """
    if not stage.num_steps:
        return
    single = _single_values(run, stage, state)
    if not single:
        return
    inputs = training_input(stage)
    rows = inputs.batch_size // run.config.train.accumulate
    count = run.topology.count
    images = f'{rows} image{"s" * (rows > 1)} in a micro-batch'
    devices = f'{count} device{"s" * (count > 1)}'
    raise InputError(
        f'config.{inputs.batch_key}',
        got=f'batch norm {single[0]} of stage {stage.name!r} trains on a single value per channel '
        f'({images}, on {devices})',
        expected='at least two values: one value less its own mean is 0, '
        'and the running variance decays to 0',
        fix=_more_values(run, stage),
    )


def _single_values(run: Run, stage: Stage, state: TrainState) -> list[str]:
    """Returns the batch norms that train on one value per channel. Traces a training step."""
    inputs = training_input(stage)
    count = run.topology.count
    single: dict[str, None] = {}

    def note(call, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.BatchNorm) and context.method_name == '__call__':
            values = math.prod(args[0].shape[:-1]) * (count if module.axis_name else 1)
            if values == 1 and not module.use_running_average:
                single['/'.join(module.path)] = None
        return call(*args, **kwargs)

    declared = declared_in_batch(run, inputs)
    own_batch = loader.zeros(inputs, inputs.batch_size // count, declared)
    batch = _global_batch(own_batch, count)
    with nn.intercept_methods(note):
        run.topology.eval_shape(stage.train_step, state, batch, _keys(run, stage))
    return list(single)


def _more_values(run: Run, stage: Stage) -> str:
    """Returns an assignment with which every batch norm of a stage trains on several values.

    Tries fewer micro-batches, then larger batches. Returns '' if no try helps.
    """
    accumulate = run.config.train.accumulate
    candidates = []
    for number in range(accumulate - 1, 0, -1):
        if accumulate % number == 0:
            candidates.append(f'train.accumulate={number}')
    for each in training_input(stage).with_unpaired():
        candidates.append(f'{each.batch_key}={2 * each.batch_size}')
    for candidate in candidates:
        changed, stages = _changed(run, [candidate])
        states = initialization.abstract_states(changed, stages)
        (same,) = (each for each in stages if each.name == stage.name)
        if not _single_values(changed, same, states[stage.name]):
            return f'--config.{candidate}'
    return ''


def _trace_evaluation(run: Run, stage: Stage, state: TrainState) -> None:
    """Raises InputError for images or crops of a size that a net refuses in evaluation.

    Also raises it for an observation whose Means depend on the number of examples.
    """
    batch = _batch_of_device(run, stage.eval_input)

    def trace(function: Callable) -> Any:
        return jax.eval_shape(function, state, batch, _keys(run, stage))

    metrics = trace(stage.eval_step)
    if stage.observation is not None:
        observation.check(stage, trace, batch, metrics)


def _trace_hand_on(run: Run, stage: Stage, state: TrainState) -> None:
    """Raises InputError for examples that a net refuses when it measures arrays to hand on."""
    hand_on = stage.hand_on
    if hand_on is None or hand_on.inputs is None or hand_on.eval_step is None:
        return
    batch = _batch_of_device(run, hand_on.inputs)
    jax.eval_shape(hand_on.eval_step, state, batch, _keys(run, stage))


def _batch_of_device(run: Run, inputs: Input) -> Shapes:
    """Returns the shapes of a device's share of an evaluation batch."""
    rows = inputs.batch_size // run.topology.count
    return evaluation_batch(inputs, rows, run.spec_of(inputs))


def evaluation_batch(inputs: Input, rows: int, spec: DataSpec) -> Shapes:
    """Returns the shapes of a batch of `loader.eval_batches`, with the types that a step sees.

    Args:
      inputs: `Stage.eval_input`.
      rows: examples of the batch.
      spec: of the data set.
    """
    max_size = spec.split(inputs.split).max_size if inputs.resize else tuple(inputs.size)
    shapes = _global_batch(loader.zeros(inputs, rows, spec.declared), 1)
    features = {
        key: kinds.feature_of(key, loader.declared_of(inputs, spec)) for key in inputs.features
    }
    maps = [key for key, feature in features.items() if kinds.KINDS[feature.kind].is_map]
    images = [key for key in maps if kinds.KINDS[features[key].kind].resized]
    pair = jax.ShapeDtypeStruct((rows, 2), 'int32')
    for key in set(maps) - set(images):
        # Targets keep their pixels, and are padded to the largest label. Frames are axes in front.
        shape = kinds.value_shape(features[key], max_size)
        frames = shapes[key].shape[: -len(shape)]
        shapes[key] = jax.ShapeDtypeStruct((*frames, *shape), shapes[key].dtype)
    if images:
        shapes['size'] = pair
    if maps:
        shapes['label_size'] = pair
    return shapes


def _global_batch(batch: Mapping[str, Any], count: int) -> Shapes:
    """Returns the shapes of the batches of `count` devices together."""
    shapes = {}
    for key, value in batch.items():
        rows = count * value.shape[0]
        shapes[key] = jax.ShapeDtypeStruct((rows, *value.shape[1:]), value.dtype)
    return shapes


# --- changed configs ------------------------------------------------------------------------------


def passes(run: Run, overrides: Iterable[str]) -> bool:
    """Returns whether a run with changed values of some keys passes the checks of inputs and steps.

    Args:
      run: as in `problems`.
      overrides: assignments, as 'train.batch_size=4'.
    """
    # A pipeline may raise errors of any type at values for which it was not made.
    try:
        changed, stages = _changed(run, overrides)
        for stage in stages:
            if list(_input_problems(changed, stage, 'train')):
                return False
        return next(_step_problems(changed, stages, begun=True), None) is None
    except Exception:
        return False


def _changed(run: Run, overrides: Iterable[str]) -> tuple[Run, tuple[Stage, ...]]:
    """Returns a run with changed values of some keys, and its stages."""
    config = config_file.overridden(run.config, ';'.join(overrides))
    stages = pipelines.make_stages(config, run.specs)
    return run._replace(config=config), stages


def _with_size(run: Run, error: InputError) -> InputError:
    """Adds a fix to an error that a size causes: the nearest size that all nets accept."""
    if error.fix.startswith('--') or passes(run, []):
        return error
    for step in (8, 32, 128):
        near = _rounded_sizes(run.config, step)
        single = [{key: size} for key, size in near.items()]
        for sizes in (*single, near):
            if passes(run, [f'{key}={size}' for key, size in sizes.items()]):
                fix = ' '.join(f'--config.{key}="{size}"' for key, size in sizes.items())
                return error.replaced(fix=fix)
    return error


def _rounded_sizes(config: ml_collections.ConfigDict, step: int) -> dict[str, tuple[int, ...]]:
    """Returns the sizes of a config that change when they are rounded to multiples of `step`."""
    near = {}
    for key in SIZES:
        section, name = key.split('.')
        size = tuple(config[section][name])
        rounded = tuple(max(1, round(side / step)) * step for side in size)
        if rounded != size:
            near[key] = rounded
    return near
