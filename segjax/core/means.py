"""Means over pixels and examples as (sum, count). Padded examples do not count."""

import jax.numpy as jnp

from segjax.protocol import Array, Mean


def masked_mean(value: Array, pixel_weight: Array, weight: Array) -> Mean:
    """Reduces per-pixel values of a batch, with an additional weight per example.

    Args:
      value: [B, ...] per-pixel losses, already multiplied by `pixel_weight`.
      pixel_weight: [B, ...] weight of each pixel.
      weight: [B] weight of each example. Values of examples of weight 0 (padding) have no effect on
        the result. For the gradient, losses call `without_padding` on their inputs.

    Returns:
      Mean(sum_b weight_b sum(value_b), sum_b weight_b sum(pixel_weight_b)).
    """

    # Sum each example first. A float32 counts exactly up to 2**24. The pixels of an image stay below
    # this limit, those of a batch may not.
    def reduce(x: Array) -> Array:
        x = without_padding(weight, x.astype(jnp.float32))
        return (weight * x.sum(tuple(range(1, x.ndim)))).sum()

    return Mean(reduce(value), reduce(pixel_weight))


def without_padding(weight: Array, x: Array) -> Array:
    """Replaces the examples of weight 0 in x [B, ...] by zeros.

    Losses call this function on their inputs. A `where` after the computation hides a NaN from the
    value, but not from the gradient, which is 0 * NaN.
    """
    return jnp.where((weight > 0).reshape(-1, *[1] * (x.ndim - 1)), x, 0)
