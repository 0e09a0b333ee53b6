"""Gradients of single examples: clipped, summed and noised, for training with private data.

Source: Abadi et al., Deep Learning with Differential Privacy, CCS 2016, Algorithm 1.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from segjax.core import parallel
from segjax.core.means import without_padding
from segjax.errors import InputError
from segjax.protocol import Mean, PyTree

CLIPPED = 'clipped'
"""Name of the term that counts the examples whose gradient was shortened."""


class _Privacy(NamedTuple):
    """The arguments of `private_value_and_grad` that its parts share."""

    loss_fn: Callable
    weight_of: Callable[[str], float]
    clip_norm: float
    shared: Collection[str]


def private_value_and_grad(
    loss_fn: Callable,
    weight_of: Callable[[str], float],
    clip_norm: float,
    noise_multiplier: float,
    batch_size: int,
    accumulate: int = 1,
    shared: Collection[str] = (),
    stream: str = 'privacy',
) -> Callable:
    """Returns a function that computes the noised mean of clipped gradients of single examples.

        L_i = sum_t w_t sum_ti / count_ti                          loss of example i
        g_i = dL_i / dparams,     c_i = min(1, clip_norm / |g_i|)
        g = (sum_i c_i g_i + N(0, (noise_multiplier clip_norm)^2)) / batch_size

    |g_i| is the L2 norm over all parameters. The sum runs over the examples of all devices whose
    weight is not 0. The noise is drawn once, after the sum. Without noise, and with an infinite
    clip_norm, g is the gradient of the mean of L_i.

    Args:
      loss_fn: as in `parallel.global_value_and_grad`. It is called with a single example, of shape
        [1, ...]. A net that is not trained belongs into its closure, because the norm would contain
        its gradient. Batch norm must use its running statistics.
      weight_of: name of a term -> w_t.
      clip_norm: largest norm of the gradient of an example, > 0.
      noise_multiplier: standard deviation of the noise in units of clip_norm. 0 adds no noise.
      batch_size: examples of the global batch. It is a constant, so padding does not change it.
      accumulate: micro-batches into which the device's batch is cut. Memory holds the gradients of
        the examples of one micro-batch.
      shared: names of the keys that are equal for all examples (`Stage.shared_streams`). All
        further keys are folded with the position of the example on its device.
      stream: the key of the noise. It must be one of `Stage.shared_streams`.

    Returns:
      (params, model_state, batch, keys) -> ((loss, terms, model_state, aux), grads). Loss and grads
      are equal on all devices. The loss is the mean of L_i over the examples whose weight is not 0.
      Terms are sums over the examples of this device, with the term 'clipped' for the share of
      shortened gradients. `model_state` is returned as it was. `aux` keeps the order of the rows.

    Raises:
      InputError: wrong numbers, or a statistic of the batch in the loss.
    """
    _check_numbers(clip_norm, noise_multiplier)
    privacy = _Privacy(loss_fn, weight_of, clip_norm, shared)

    # An infinite clip_norm has no noise, and 0 times infinity is no number.
    deviation = noise_multiplier * clip_norm if noise_multiplier else 0.0

    def value_and_grad(params: PyTree, model_state: PyTree, batch: Mapping, keys: Mapping):
        values, aux, grads = _device_sums(privacy, accumulate, params, model_state, batch, keys)
        loss, grads = parallel.sum_over_devices((values.pop('loss'), grads))
        grads = _finish(grads, keys.get(stream), deviation, batch_size)
        return (loss.sum / jnp.maximum(loss.count, 1), values, model_state, aux), grads

    return value_and_grad


def _check_numbers(clip_norm: float, noise_multiplier: float) -> None:
    """Raises InputError for a norm or a noise that has no meaning."""
    if not clip_norm > 0:
        raise InputError('clip_norm', got=str(clip_norm), expected='a number > 0')
    if not noise_multiplier >= 0:
        raise InputError('noise_multiplier', got=str(noise_multiplier), expected='a number >= 0')
    if noise_multiplier and math.isinf(clip_norm):
        raise InputError(
            'clip_norm',
            got=f'{clip_norm} with noise_multiplier {noise_multiplier}',
            expected='a finite norm: the noise is proportional to it',
        )


def _finish(total: PyTree, key: jax.Array | None, deviation: float, batch_size: int) -> PyTree:
    """Adds the noise to the sum of all gradients, and divides by the batch size.

    Every device adds the same noise to the same sum.
    """
    if deviation:
        assert key is not None, 'keys lack the stream of the noise'
        total = add_noise(total, key, deviation)
    return jax.tree.map(lambda leaf: leaf / batch_size, total)


def add_noise(tree: PyTree, key: jax.Array, deviation: float) -> PyTree:
    """Adds Gaussian noise of a standard deviation to every number of a tree.

    Keys are split over the leaves as in `optax.contrib.differentially_private_aggregate`.
    """
    leaves, treedef = jax.tree.flatten(tree)
    _, *keys = jax.random.split(key, len(leaves) + 1)
    noised = []
    for leaf, leaf_key in zip(leaves, keys, strict=True):
        noised.append(leaf + deviation * jax.random.normal(leaf_key, leaf.shape, leaf.dtype))
    return jax.tree.unflatten(treedef, noised)


def _device_sums(
    privacy: _Privacy,
    accumulate: int,
    params: PyTree,
    model_state: PyTree,
    batch: Mapping[str, jax.Array],
    keys: Mapping[str, jax.Array],
) -> tuple[dict[str, Mean], PyTree, PyTree]:
    """Sums the losses and the clipped gradients of the examples of a device.

    Returns:
      ({name: sum over the examples}, aux, sum of the gradients).
    """
    parts = parallel.split_rows(batch, accumulate)
    rows = batch['weight'].shape[0] // accumulate

    def add_part(carry, part):
        number, total = carry
        positions = number * rows + jnp.arange(rows)
        values, aux, grads = _part(privacy, params, model_state, part, keys, positions)
        return (number + 1, jax.tree.map(jnp.add, total, grads)), (values, aux)

    zeros = jax.tree.map(jnp.zeros_like, params)
    (_, total), (values, aux) = parallel.scan_parts(add_part, (0, zeros), parts)
    values = jax.tree.map(lambda x: x.sum(0), values)
    aux = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), aux)  # from [A, B / A, 1, ...]
    return values, aux, total


# --- single examples ------------------------------------------------------------------------------


def _part(
    privacy: _Privacy,
    params: PyTree,
    model_state: PyTree,
    part: Mapping[str, jax.Array],
    keys: Mapping[str, jax.Array],
    positions: jax.Array,
) -> tuple[dict[str, Mean], PyTree, PyTree]:
    """Sums the losses and the clipped gradients of the examples of a micro-batch.

    Args:
      privacy: the arguments of `private_value_and_grad`.
      params, model_state, keys: arguments of its result.
      part: the examples [R, ...].
      positions: [R] of the examples on their device.

    Returns:
      ({name: sum over the examples, 'loss' and 'clipped' included}, aux, sum of the gradients).
    """
    example = functools.partial(_example, privacy, params, model_state, keys)
    with nn.intercept_methods(_refuse_batch_statistics):
        (loss, (means, aux)), grads = jax.vmap(example)(part, positions)

    # Padding may have any gradient, even NaN.
    active = part['weight'] > 0  # [R]
    grads = jax.tree.map(functools.partial(without_padding, part['weight']), grads)

    # The sum is a product with the factors c_i, which needs all digits.
    with jax.default_matmul_precision('highest'):
        total, num_clipped = optax.per_example_global_norm_clip(grads, privacy.clip_norm)
    means |= {'loss': Mean(loss, jnp.ones_like(loss))}
    sums = {}
    for name, mean in means.items():
        counted = active & (mean.count > 0)
        sums[name] = Mean(jnp.where(counted, mean.sum, 0).sum(), counted.astype(loss.dtype).sum())
    sums[CLIPPED] = Mean(num_clipped.astype(loss.dtype), active.astype(loss.dtype).sum())
    return sums, aux, total


def _example(
    privacy: _Privacy,
    params: PyTree,
    model_state: PyTree,
    keys: Mapping[str, jax.Array],
    row: Mapping[str, jax.Array],
    position: jax.Array,
):
    """Computes ((loss, (means of its terms, aux)), gradient) of one example."""
    own = {name: key for name, key in keys.items() if name not in privacy.shared}
    folded = {name: jax.random.fold_in(key, position) for name, key in own.items()}
    example = {key: x[None] for key, x in row.items()}

    def objective(params: PyTree):
        terms, state, aux = privacy.loss_fn(params, model_state, example, {**keys, **folded})
        _check_unchanged(model_state, state)
        means = {}
        loss = jnp.float32(0)
        for name, term in terms.items():
            count = lax.stop_gradient(term.count)
            mean = term.sum / jnp.where(count > 0, count, 1)
            means[name] = Mean(mean, count)
            loss += privacy.weight_of(name) * mean
        return loss, (means, aux)

    return jax.value_and_grad(objective, has_aux=True)(params)


def _refuse_batch_statistics(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    """Raises InputError for a batch norm that normalises by the statistics of its batch."""
    module = context.module
    if isinstance(module, nn.BatchNorm) and context.method_name == '__call__':
        running = nn.merge_param(
            'use_running_average',
            module.use_running_average,
            kwargs.get('use_running_average', args[1] if len(args) > 1 else None),
        )
        if not running:
            raise _statistics_mix(f'batch norm {"/".join(module.path)}')
    return call(*args, **kwargs)


def _check_unchanged(before: PyTree, after: PyTree) -> None:
    """Raises InputError if a loss changes the statistics of its nets."""
    old = jax.tree.leaves(before)
    new = jax.tree.leaves(after)
    if len(old) != len(new) or any(a is not b for a, b in zip(old, new, strict=True)):
        raise _statistics_mix('a model_state that the loss changes')


def _statistics_mix(got: str) -> InputError:
    """Returns the error about statistics to which several examples contribute."""
    return InputError(
        'loss of a private step',
        got=f'{got}: its statistics mix examples',
        expected='gradients that depend on a single example',
        fix='evaluate the net with its running statistics (train=False), or use a net without '
        'batch norm',
    )
