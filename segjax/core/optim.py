"""Optimisers and learning rates from `config.optim`, applied to named nets of a TrainState.

One optimiser may own several nets. Its transformation works on {net: params}, so that paths read
net/module/.../param. The learning rate is a function of `TrainState.step`, the only clock. So an
optimiser that acts every second step still decays over the whole training.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.typing import ArrayLike

from segjax.core.trees import named_leaves, path_name
from segjax.errors import InputError, unknown_name
from segjax.protocol import Array, Mean, PyTree, TrainState
from segjax.schema import SCHEDULES, typed_text

Schedule = Callable[[ArrayLike], Array]
"""step -> learning rate, float32."""

Factors = Sequence[tuple[str, float]]
"""(pattern, factor) pairs of `config.optim.factors`."""


# --- Learning rate --------------------------------------------------------------------------------


def schedule(optim: ml_collections.ConfigDict, num_steps: int, where: str = 'optim') -> Schedule:
    """Returns the learning rate over time.

    rate(t) = learning_rate * warmup(t) * decay(t) for t = 0 .. T-1, where T = num_steps. From T on,
    the rate is that at T. The decays are

    constant     1
    poly         (1 - t / T) ** power
    linear_tail  1 for t <= cT, then (T - t) / (T - cT), c = constant_fraction (CycleGAN: c = 1/2)
    cosine       (1 + cos(pi t / T)) / 2
    step         step_factor ** (number of milestones <= t), as torch's MultiStepLR. A milestone
                 below 1 is a share of T, of at least one step

    warmup(t) = f + (1 - f) t / W for t < W = warmup_steps, f = warmup_factor, and 1 afterwards. The
    decay also applies during the warm-up.

    Args:
      optim: config.optim.
      num_steps: of the stage.
      where: key of the section, for errors.

    Raises:
      InputError: unknown schedule, or a warm-up that is longer than the training.
    """
    if optim.schedule not in SCHEDULES:
        raise unknown_name(f'{where}.schedule', optim.schedule, SCHEDULES)
    # Such a warm-up is most likely left over from a longer training.
    if 0 < num_steps < optim.warmup_steps:
        raise InputError(
            f'{where}.warmup_steps',
            got=f'{optim.warmup_steps} in a training of {num_steps} steps',
            expected=f'at most {num_steps}',
            fix=f'--config.{where}.warmup_steps={num_steps // 10}',
        )
    # Values are read once, so that `rate` depends on the step alone.
    total = max(num_steps, 1)
    decay = _decay(optim, total)
    learning_rate = optim.learning_rate
    warmup_steps = optim.warmup_steps
    warmup_factor = optim.warmup_factor

    def rate(step: ArrayLike) -> Array:
        step = jnp.asarray(step, jnp.int32)
        warmup = jnp.float32(1)
        if warmup_steps > 0:
            warmup = jnp.minimum(warmup_factor + (1 - warmup_factor) * step / warmup_steps, 1.0)
        return jnp.asarray(learning_rate * warmup * decay(step), jnp.float32)

    return rate


def _decay(optim: ml_collections.ConfigDict, total: int) -> Callable[[Array], Array]:
    """Returns decay(t) of `schedule`, for T = `total` steps."""
    name = optim.schedule
    power = optim.power
    step_factor = optim.step_factor
    tail = total - optim.constant_fraction * total
    steps = [max(1, round(m * total)) if m < 1 else m for m in optim.milestones]
    milestones = jnp.array(steps, jnp.int32)

    def decay(step: Array) -> Array:
        # The number of remaining steps is an exact integer. In float32, 1 - t / T loses digits
        # towards the end.
        left = jnp.maximum(total - step, 0)
        if name == 'poly':
            return (left / total) ** power
        if name == 'linear_tail':
            return jnp.minimum(left / tail, 1.0) if tail > 0 else jnp.float32(1)
        if name == 'cosine':
            # sin(pi (T - t) / 2T) ** 2 equals the formula of `schedule` and is exact near 0.
            return jnp.sin(0.5 * jnp.pi * left / total) ** 2
        if name == 'step':
            passed = (milestones <= jnp.minimum(step, total)).sum()
            return step_factor ** passed.astype(jnp.float32)
        return jnp.float32(1)

    return decay


def learning_rate(optim: ml_collections.ConfigDict, num_steps: int, step: Array) -> Mean:
    """Returns the base rate at `step` (without factors), as a metric."""
    return Mean(schedule(optim, num_steps)(step), jnp.float32(1))


# --- Optimisers -----------------------------------------------------------------------------------


def make(
    optim: ml_collections.ConfigDict,
    num_steps: int,
    params: Mapping[str, PyTree],
    where: str = 'optim',
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimiser of config.optim for the nets in `params`.

    The gradient g passes through, in this order:

    1. float32, whatever the dtype of the backward pass
    2. clip_norm: g *= min(1, clip_norm / |g|), norm over all nets of this optimiser. Gradients are
       already those of the global batch, so that every device clips alike
    3. sgd, adam: g += weight_decay * p
    4. sgd: v = momentum * v + g. Then g = v, or g + momentum * v with nesterov (torch.optim.SGD, no
       dampening).
       adam, adamw: g = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) (Kingma and Ba 2015)
    5. adamw: g += weight_decay * p (Loshchilov and Hutter 2019, as in torch: the rate scales the
       decay)
    6. factors: g *= the product of the factors whose pattern matches the whole path
       net/module/.../param (re.fullmatch, as '.*/decoder/.*'). A factor of 0 freezes a parameter
    7. p -= rate(step) * g. The rate stays outside the velocity v, as in torch and unlike Caffe

    Weight decay omits biases, scales of normalisation and every parameter with at most one axis
    (such as rates per channel), unless decay_norm_and_bias is set.

    Args:
      optim: config.optim.
      num_steps: of the stage, where the schedule ends.
      params: {net: params} of the nets that this optimiser owns. Only names and shapes are read.
      where: key of the section, for errors.

    Returns:
      A transformation whose `update` needs the additional argument `step`, which `apply` passes.

    Raises:
      InputError: unknown optimiser or schedule, or a pattern that matches no parameter.
    """
    # Steps 3 to 5. The place of the decay distinguishes adam from adamw.
    decay = []
    if optim.weight_decay > 0:
        is_decayed = jax.tree_util.tree_map_with_path(
            functools.partial(_is_decayed, optim.decay_norm_and_bias), params
        )
        decay = [optax.add_decayed_weights(optim.weight_decay, is_decayed)]
    adam = optax.scale_by_adam(optim.beta1, optim.beta2, optim.eps)
    momentum = optax.identity()
    if optim.momentum > 0:
        momentum = optax.trace(optim.momentum, optim.nesterov)
    cores = {'sgd': [*decay, momentum], 'adam': [*decay, adam], 'adamw': [adam, *decay]}
    if optim.name not in cores:
        raise unknown_name(f'{where}.name', optim.name, cores)
    steps = [optax.stateless(_to_float32)]  # in the order of the docstring
    if optim.clip_norm > 0:
        steps.append(optax.clip_by_global_norm(optim.clip_norm))
    steps += cores[optim.name]
    if optim.factors:
        steps.append(_scale_by_factors(optim.factors, params, f'{where}.factors'))
    steps.append(_scale_by_rate(schedule(optim, num_steps, where)))
    return optax.chain(*steps)


def _is_decayed(decay_norm_and_bias: bool, path: tuple[Any, ...], param: Array) -> bool:
    """Returns whether weight decay acts on a parameter."""
    return decay_norm_and_bias or (param.ndim > 1 and path[-1].key not in ('bias', 'scale'))


def _to_float32(grads: PyTree, params: PyTree | None) -> PyTree:
    """Returns the gradients in float32."""
    return jax.tree.map(lambda g: g.astype(jnp.float32), grads)


def _scale_by_factors(
    factors: Factors, params: Mapping[str, PyTree], where: str
) -> optax.GradientTransformation:
    """Returns a transformation that multiplies updates by the factors of their parameters.

    Raises:
      InputError: a pattern that matches no parameter.
    """
    names = list(named_leaves(params))
    for pattern, _ in factors:
        if not any(re.fullmatch(pattern, name) for name in names):
            some = ', '.join(names[:: max(1, len(names) // 5)][:6])
            raise InputError(
                where,
                got=f'the pattern {pattern!r}, which matches no parameter',
                expected=f'a regular expression for whole paths, such as {some}',
                fix=_fitting_pattern(where, pattern, factors, names),
            )
    tree = jax.tree_util.tree_map_with_path(functools.partial(_factor_of, factors), params)
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, tree))


def _factor_of(factors: Factors, path: tuple[Any, ...], param: Any) -> float:
    """Returns the product of all factors whose pattern matches the path of a parameter."""
    product = 1.0
    for pattern, factor in factors:
        if re.fullmatch(pattern, path_name(path)):
            product *= float(factor)
    return product


def _fitting_pattern(where: str, pattern: str, factors: Factors, names: Sequence[str]) -> str:
    """Returns an argument that mends the factors.

    A pattern that is the name of a module becomes the pattern of this module in any net. Any other
    pattern is removed.
    """
    inner = f'.*/{pattern}/.*'
    if re.fullmatch(r'\w+', pattern) and any(re.fullmatch(inner, name) for name in names):
        mended = tuple((inner if p == pattern else p, factor) for p, factor in factors)
    else:
        mended = tuple(pair for pair in map(tuple, factors) if pair[0] != pattern)
    return f'--config.{where}={typed_text(mended)}'


def _scale_by_rate(rate: Schedule) -> optax.GradientTransformationExtraArgs:
    """Returns a transformation that multiplies updates by -rate(step).

    The step comes from the TrainState. The optimiser has no counter of its own for the rate.
    """

    def update(updates, state, params=None, *, step, **_):
        return jax.tree.map(lambda u: -rate(step) * u, updates), state

    # Optax lets `update` require arguments by name, but the type of its field has none.
    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        update,  # pyright: ignore[reportArgumentType]
    )


def apply(
    state: TrainState,
    name: str,
    transform: optax.GradientTransformationExtraArgs,
    grads: Mapping[str, PyTree],
) -> TrainState:
    """Updates the nets in `grads` once by the optimiser `name`.

    Args:
      state: params[net] for the nets of grads and opt_state[name] change. The step does not change:
        the pipeline counts it once, however many optimisers act in a step.
      name: key of the optimiser in state.opt_state, which began as transform.init({net: params}).
      transform: from `make`, with the same nets.
      grads: {net: gradients} of the global batch.
    """
    owned = {net: state.params[net] for net in grads}
    updates, opt_state = transform.update(
        dict(grads), state.opt_state[name], owned, step=state.step
    )
    # `apply_updates` keeps the structure of its first argument.
    updated = cast(dict[str, PyTree], optax.apply_updates(owned, updates))
    return state.replace(
        params={**state.params, **updated},
        opt_state={**state.opt_state, name: opt_state},
    )


# --- Averaged parameters --------------------------------------------------------------------------


def start_average(
    params: Mapping[str, PyTree], model_state: Mapping[str, PyTree], decay: float
) -> dict[str, PyTree]:
    """Returns the entry of `TrainState.extra` for averaged nets; {} if the decay is 0."""
    return {'ema': {'params': params, 'model_state': model_state}} if decay else {}


def update_average(state: TrainState, decay: float) -> TrainState:
    """Moves the averages towards the present nets. To be called before the step is counted."""
    if not decay:
        return state
    average = state.extra['ema']
    present = {}
    for field, nets in average.items():
        present[field] = {net: getattr(state, field)[net] for net in nets}
    average = ema_update(average, present, decay, state.step, debias=True)
    return state.replace(extra={**state.extra, 'ema': average})


def averaged(state: TrainState, decay: float) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Returns (params, model_state) for evaluation: averages, and nets that have no average."""
    if not decay:
        return state.params, state.model_state
    return _averaged_field(state, 'params'), _averaged_field(state, 'model_state')


def _averaged_field(state: TrainState, field: str) -> dict[str, PyTree]:
    """Returns {net: tree} of one field of the state. Averages replace the nets that have one."""

    # Before the first update there is no average.
    def choose(average: Array, present: Array) -> Array:
        return jnp.where(state.step > 0, average, present)

    nets = dict(getattr(state, field))
    for net, average in state.extra['ema'][field].items():
        nets[net] = jax.tree.map(choose, average, nets[net])
    return nets


def ema_update(
    average: PyTree, params: PyTree, decay: float, step: Array, *, debias: bool = False
) -> PyTree:
    """Updates an exponential moving average: decay * average + (1 - decay) * params.

    Args:
      average: result of the last `ema_update`, at first a copy of params.
      params: current parameters (or batch statistics).
      decay: in [0, 1).
      step: number of earlier updates (state.step if each step has one update).
      debias: weigh by (1 - decay) / (1 - decay^(step+1)) instead of 1 - decay. The result is then
        the average of all params so far, with weights proportional to decay^age. The initial
        average has no effect. This is Adam's bias correction, applied at every update.
    """
    new = 1.0 - decay
    if debias:
        # Python's double precision, because the logarithm of a float32 near 1 has only three
        # correct digits.
        log_decay = math.log(decay) if decay > 0 else -math.inf
        new = new / -jnp.expm1((jnp.asarray(step, jnp.float32) + 1) * log_decay)
    return jax.tree.map(
        lambda a, p: (a + new * (p.astype(jnp.float32) - a.astype(jnp.float32))).astype(a.dtype),
        average,
        params,
    )
