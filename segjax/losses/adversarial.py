"""Losses of generators and discriminators; each returns a `protocol.Mean(sum, count)` that is not divided yet."""

import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.protocol import Array, Mean


def least_squares(logits: Array, target: float, weight: Array) -> Mean:
    """Least-squares GAN loss: mean over patches and examples of (logits - target)^2.

    Mao et al. 2017; Eq. 2 and 8 of Löhdefink and Fingscheidt's noise injection. The generator wants its pictures at
    target 1; the discriminator wants real ones at 1 and generated ones at 0 (and CycleGAN halves the sum of the two).

    Args:
      logits: [B, h, w, 1], or [B, ...] of any shape; not squashed by a sigmoid.
      target: what the discriminator shall say.
      weight: [B] weight of each example.
    """
    logits = without_padding(weight, logits.astype(jnp.float32))
    square = (logits - target) ** 2
    return masked_mean(square, jnp.ones_like(square), weight)
