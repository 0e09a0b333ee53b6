"""Losses between surface normals."""

import jax.numpy as jnp

from segjax.core import means
from segjax.ops.normals import is_measured
from segjax.protocol import Array, Mean


def cosine(prediction: Array, truth: Array, weight: Array) -> Mean:
    """Computes 1 - p . t over the pixels with a true normal.

    Args:
      prediction: p [B, H, W, 3] unit vectors.
      truth: t [B, H, W, 3] unit vectors, 0 = not measured.
      weight: [B] weight of each example.

    Returns:
      Mean(sum, number of pixels).
    """
    # Without the replacement, the gradient of padding would be 0 * NaN.
    prediction = means.without_padding(weight, prediction)
    truth = means.without_padding(weight, truth)
    measured = is_measured(truth)
    loss = jnp.where(measured, 1 - (prediction * truth).sum(-1), 0.0)
    return means.masked_mean(loss, measured, weight)
