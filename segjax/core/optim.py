"""Optimisers and learning rates from `config.optim`, applied to named nets of a TrainState.

One optimiser may own several nets; its transformation works on {net: params}, so that paths read
net/module/.../param. The learning rate is a function of `TrainState.step`, the only clock: an optimiser that
acts every other step still decays over the whole training.
"""

import math
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections
import optax

from segjax.core.trees import named_leaves, path_name
from segjax.errors import InputError, unknown_name
from segjax.protocol import Array, Mean, PyTree, TrainState
from segjax.schema import SCHEDULES, typed_text

Schedule = Callable[[Array], Array]
"""step -> learning rate, float32."""


def schedule(optim: ml_collections.ConfigDict, num_steps: int, where: str = 'optim') -> Schedule:
    """The learning rate over time.

    rate(t) = learning_rate * warmup(t) * decay(t) for t = 0 .. T-1, T = num_steps; from T on as at T.

    constant     1
    poly         (1 - t / T) ** power
    linear_tail  1 for t <= cT, then (T - t) / (T - cT), c = constant_fraction (CycleGAN: c = 1/2)
    cosine       (1 + cos(pi t / T)) / 2
    step         step_factor ** (number of milestones <= t), as torch's MultiStepLR. A milestone
                 below 1 is a share of T, of at least one step
    warmup(t)    f + (1 - f) t / W for t < W = warmup_steps, f = warmup_factor; then 1. Meanwhile the decay
                 runs already

    Raises:
      InputError: unknown schedule, or a warm-up that is longer than the training.
    """
    if optim.schedule not in SCHEDULES:
        raise unknown_name(f'{where}.schedule', optim.schedule, SCHEDULES)
    if 0 < num_steps < optim.warmup_steps:
        raise InputError(
            f'{where}.warmup_steps',
            got=f'{optim.warmup_steps} in a training of {num_steps} steps',
            expected=f'at most {num_steps}',
            fix=f'--config.{where}.warmup_steps={num_steps // 10}',
        )
    base, name, power = optim.learning_rate, optim.schedule, optim.power
    warmup_steps, warmup_factor = optim.warmup_steps, optim.warmup_factor
    total = max(num_steps, 1)
    tail = total - optim.constant_fraction * total
    milestones = jnp.array(
        [max(1, round(m * total)) if m < 1 else m for m in optim.milestones], jnp.int32
    )

    def decay(step):
        # The steps that are left are an exact integer; in float32 1 - t / T loses digits towards the end.
        left = jnp.maximum(total - step, 0)
        if name == 'poly':
            return (left / total) ** power
        if name == 'linear_tail':
            return jnp.minimum(left / tail, 1.0) if tail > 0 else jnp.float32(1)
        if name == 'cosine':
            return (
                jnp.sin(0.5 * jnp.pi * left / total) ** 2
            )  # the same as the formula above, exact near 0
        if name == 'step':
            passed = (milestones <= jnp.minimum(step, total)).sum()
            return optim.step_factor ** passed.astype(jnp.float32)
        return jnp.float32(1)

    def rate(step):
        step = jnp.asarray(step, jnp.int32)
        warmup = jnp.float32(1)
        if warmup_steps > 0:
            warmup = jnp.minimum(warmup_factor + (1 - warmup_factor) * step / warmup_steps, 1.0)
        return jnp.asarray(base * warmup * decay(step), jnp.float32)

    return rate


def learning_rate(optim: ml_collections.ConfigDict, num_steps: int, step: Array) -> Mean:
    """The base rate at `step` (without factors), as a metric."""
    return Mean(schedule(optim, num_steps)(step), jnp.float32(1))


def make(
    optim: ml_collections.ConfigDict,
    num_steps: int,
    params: Mapping[str, PyTree],
    where: str = 'optim',
) -> optax.GradientTransformationExtraArgs:
    """The optimiser of config.optim for the nets in `params`.

    The gradient g passes through, in this order:

    1. float32, whatever the dtype of the backward pass
    2. clip_norm: g *= min(1, clip_norm / |g|), norm over all nets of this optimiser. Gradients are global
       already when they get here, so that every device clips alike
    3. sgd, adam: g += weight_decay * p
    4. sgd: v = momentum * v + g; g = v, or g + momentum * v with nesterov (torch.optim.SGD, no dampening).
       adam, adamw: g = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) (Kingma and Ba 2015)
    5. adamw: g += weight_decay * p (Loshchilov and Hutter 2019, as in torch: the rate scales the decay)
    6. factors: g *= the product of the factors whose pattern matches the whole path net/module/.../param
       (re.fullmatch, as '.*/decoder/.*'); 0 freezes
    7. p -= rate(step) * g. The rate stays outside the velocity v, as in torch and unlike Caffe

    Weight decay leaves out biases, scales of normalisation and every other parameter with at most one axis
    (rates per channel and the like), unless decay_norm_and_bias is set.

    Args:
      optim: config.optim.
      num_steps: of the stage; where the schedule ends.
      params: {net: params} of the nets that this optimiser owns; only names and shapes are read.
      where: key of the section, for errors.

    Returns:
      A transformation whose `update` wants the extra argument `step`; `apply` gives it.

    Raises:
      InputError: unknown optimiser or schedule; a pattern that matches no parameter.
    """
    decayed = jax.tree_util.tree_map_with_path(
        lambda path, p: (
            optim.decay_norm_and_bias or (p.ndim > 1 and path[-1].key not in ('bias', 'scale'))
        ),
        params,
    )
    decay = (
        [optax.add_decayed_weights(optim.weight_decay, decayed)] if optim.weight_decay > 0 else []
    )
    adam = optax.scale_by_adam(optim.beta1, optim.beta2, optim.eps)
    momentum = (
        optax.trace(optim.momentum, optim.nesterov) if optim.momentum > 0 else optax.identity()
    )
    cores = {'sgd': [*decay, momentum], 'adam': [*decay, adam], 'adamw': [adam, *decay]}
    if optim.name not in cores:
        raise unknown_name(f'{where}.name', optim.name, cores)
    return optax.chain(
        optax.stateless(lambda grads, _: jax.tree.map(lambda g: g.astype(jnp.float32), grads)),
        *([optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm > 0 else []),
        *cores[optim.name],
        *([_scale_by_factors(optim.factors, params, f'{where}.factors')] if optim.factors else []),
        _scale_by_rate(schedule(optim, num_steps, where)),
    )


def _scale_by_factors(factors, params, where: str) -> optax.GradientTransformation:
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

    def factor_of(path, _):
        product = 1.0
        for pattern, factor in factors:
            product *= float(factor) if re.fullmatch(pattern, path_name(path)) else 1.0
        return product

    tree = jax.tree_util.tree_map_with_path(factor_of, params)
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, tree))


def _fitting_pattern(where: str, pattern: str, factors, names) -> str:
    """Returns the argument that mends the factors: the module of that name in any net, or without the pattern."""
    inner = f'.*/{pattern}/.*'
    if re.fullmatch(r'\w+', pattern) and any(re.fullmatch(inner, name) for name in names):
        mended = tuple((inner if p == pattern else p, factor) for p, factor in factors)
    else:
        mended = tuple(pair for pair in map(tuple, factors) if pair[0] != pattern)
    return f'--config.{where}={typed_text(mended)}'


def _scale_by_rate(rate: Schedule) -> optax.GradientTransformationExtraArgs:
    """updates * -rate(step); the step is the train state's, not a second count inside the optimiser."""

    def update(updates, state, params=None, *, step, **_):
        return jax.tree.map(lambda u: -rate(step) * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def apply(
    state: TrainState,
    name: str,
    transform: optax.GradientTransformationExtraArgs,
    grads: Mapping[str, PyTree],
) -> TrainState:
    """One update of the nets in `grads` by the optimiser `name`.

    Args:
      state: its params[net] for the nets of grads and its opt_state[name] change; step does not (the pipeline
        counts it once, however many optimisers act in a step).
      name: key of the optimiser in state.opt_state, which began as transform.init({net: params}).
      transform: from `make`, with the same nets.
      grads: {net: gradients}, those of the global batch.
    """
    owned = {net: state.params[net] for net in grads}
    updates, opt_state = transform.update(
        dict(grads), state.opt_state[name], owned, step=state.step
    )
    return state.replace(
        params={**state.params, **optax.apply_updates(owned, updates)},
        opt_state={**state.opt_state, name: opt_state},
    )


def start_average(
    params: Mapping[str, PyTree], model_state: Mapping[str, PyTree], decay: float
) -> dict[str, PyTree]:
    """The entry of `TrainState.extra` for averaged parameters and statistics; none where decay is 0."""
    return {'ema': {'params': params, 'model_state': model_state}} if decay else {}


def update_average(state: TrainState, decay: float) -> TrainState:
    """Moves the average towards the nets it began with; before the step is counted."""
    if not decay:
        return state
    average = state.extra['ema']
    now = {
        field: {net: getattr(state, field)[net] for net in nets} for field, nets in average.items()
    }
    average = ema_update(average, now, decay, state.step, debias=True)
    return state.replace(extra={**state.extra, 'ema': average})


def averaged(state: TrainState, decay: float) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """(params, model_state) to evaluate with: averages of the nets that have one."""
    if not decay:
        return state.params, state.model_state

    def chosen(field):  # before the first update there is no average yet
        now = getattr(state, field)
        average = state.extra['ema'][field]
        pairs = {net: (average[net], now[net]) for net in average}
        return now | {
            net: jax.tree.map(lambda a, b: jnp.where(state.step > 0, a, b), *pair)
            for net, pair in pairs.items()
        }

    return chosen('params'), chosen('model_state')


def ema_update(
    average: PyTree, params: PyTree, decay: float, step: Array, *, debias: bool = False
) -> PyTree:
    """Exponential moving average of parameters: decay * average + (1 - decay) * params.

    Args:
      average: what `ema_update` returned last, at first a copy of params.
      params: current parameters (or batch statistics).
      decay: in [0, 1).
      step: how many updates came before this one (state.step where there is one a step).
      debias: weigh by (1 - decay) / (1 - decay^(step+1)) instead of 1 - decay. The result is then the average
        of the params so far with weights proportional to decay^age, without a trace of the initial average:
        Adam's bias correction, applied as it goes.
    """
    new = 1.0 - decay
    if debias:
        # In Python's double precision: the logarithm of a float32 close to 1 is good for three digits only.
        log_decay = math.log(decay) if decay > 0 else -math.inf
        new = new / -jnp.expm1((jnp.asarray(step, jnp.float32) + 1) * log_decay)
    return jax.tree.map(
        lambda a, p: (a + new * (p.astype(jnp.float32) - a.astype(jnp.float32))).astype(a.dtype),
        average,
        params,
    )
