"""Losses between images; each returns a `protocol.Mean(sum, count)` that is not divided yet."""

import jax
import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.errors import InputError, unknown_name
from segjax.protocol import Array, Mean

REDUCTIONS = ('mean', 'sum_channels')


def l1(prediction: Array, target: Array, weight: Array, reduction: str = 'mean') -> Mean:
    """Mean absolute difference |prediction - target|; the gradient is zero where they are equal.

    Args:
      prediction: [B, H, W, C].
      target: [B, H, W, C].
      weight: [B] weight of each example.
      reduction: 'mean' divides by C H W, as torch and CycleGAN do. 'sum_channels' divides by H W alone, which is Eq. 3
        of Löhdefink and Fingscheidt's noise injection to the letter: C times as much.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name('reduction of the L1 loss', reduction, REDUCTIONS)
    if prediction.shape != target.shape:
        raise InputError(
            'L1 loss', got=f'shapes {prediction.shape} and {target.shape}', expected='equal shapes'
        )
    difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    difference = without_padding(weight, difference)
    # Not jnp.abs, whose derivative at 0 is 1 in JAX: what is right already would be pushed.
    distance = (difference * jax.lax.stop_gradient(jnp.sign(difference))).sum(-1)
    share = prediction.shape[-1] if reduction == 'mean' else 1
    return masked_mean(distance, jnp.full_like(distance, share), weight)
