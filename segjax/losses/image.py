"""Losses between images.

Each loss returns a `protocol.Mean(sum, count)` that is not divided yet.
"""

import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.errors import InputError, unknown_name
from segjax.ops.gradients import absolute
from segjax.protocol import Array, Mean

REDUCTIONS = ('mean', 'sum_channels')
"""Names how a loss reduces the C channels of a pixel: by their mean or by their sum."""


def l1(prediction: Array, target: Array, weight: Array, reduction: str = 'mean') -> Mean:
    """Computes the mean absolute difference of two images.

        L = 1 / (H W C) sum_{p, c} |prediction - target|        'mean', as torch and CycleGAN
        L = 1 / (H W)   sum_{p, c} |prediction - target|        'sum_channels'

    'sum_channels' is Eq. 3 of Löhdefink and Fingscheidt's noise injection to the letter, C times as
    much as 'mean'. The gradient is 0 where the images are equal.

    Args:
      prediction: [B, H, W, C], or [B, ..., C] of any shape, e.g. codes [B, C].
      target: of the same shape.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      reduction: a name of REDUCTIONS.

    Returns:
      Mean whose count is the number of values ('mean') or of pixels ('sum_channels').

    Raises:
      InputError: the reduction is unknown, or the shapes differ.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name('reduction of the L1 loss', reduction, REDUCTIONS)
    if prediction.shape != target.shape:
        raise InputError(
            'L1 loss',
            got=f'shapes {prediction.shape} and {target.shape}',
            expected='equal shapes',
        )
    difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    difference = without_padding(weight, difference)
    distance = absolute(difference).sum(-1)  # [B, H, W]
    share = prediction.shape[-1] if reduction == 'mean' else 1
    return masked_mean(distance, jnp.full_like(distance, share), weight)
