"""Losses of generators and discriminators.

Each loss returns a `protocol.Mean(sum, count)` that is not divided yet.
"""

import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.protocol import Array, Mean


def least_squares(logits: Array, target: float, weight: Array) -> Mean:
    """Computes the least-squares GAN loss.

        L = mean over patches and examples of (logits - target)^2

    The generator wants its pictures at target 1. The discriminator wants real pictures at 1 and
    generated pictures at 0. CycleGAN halves the discriminator's sum of the two terms.
    Mao et al. 2017. Eq. 2 and 8 of Löhdefink and Fingscheidt's noise injection.

    Args:
      logits: [B, h, w, 1], or [B, ...] of any shape, before any sigmoid.
      target: value that the logits should have.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the number of patches.
    """
    logits = without_padding(weight, logits.astype(jnp.float32))
    square = (logits - target) ** 2
    return masked_mean(square, jnp.ones_like(square), weight)
