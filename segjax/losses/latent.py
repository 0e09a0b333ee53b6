"""Losses of latent codes, whose encoder returns the mean and the log-variance of each dimension.

Each loss returns a `protocol.Mean(sum, count)` that is not divided yet.
"""

import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.protocol import Array, Mean


def kl_to_standard_normal(mean: Array, log_variance: Array, weight: Array) -> Mean:
    """Computes the divergence of normal distributions from the standard normal distribution.

        KL(N(mean, v) || N(0, 1)) = 1/2 sum_d (mean_d^2 + v_d - 1 - log v_d)

    It is summed over the dimensions of a code. Kingma and Welling 2014, App. B.

    A map of codes has the mean over its cells. So a map of equal codes has the divergence of its
    code, whatever the number of cells.

    Args:
      mean: [B, n], or [B, h, w, n] of a map of codes.
      log_variance: log v, of the same shape.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the weight of all codes.
    """
    mean = without_padding(weight, mean.astype(jnp.float32))
    log_variance = without_padding(weight, log_variance.astype(jnp.float32))
    # expm1 is exact for variances near 1.
    excess = jnp.expm1(log_variance) - log_variance
    divergence = 0.5 * (mean**2 + excess).sum(-1)  # [B] or [B, h, w]
    return masked_mean(divergence, jnp.ones_like(divergence), weight)
