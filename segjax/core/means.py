"""Means over pixels and examples as (sum, count), where padded examples count nothing."""

import jax.numpy as jnp

from segjax.protocol import Array, Mean


def masked_mean(value: Array, pixel_weight: Array, weight: Array) -> Mean:
    """Reduces per-pixel values of a batch, with one more weight per example.

    Args:
      value: [B, ...] per-pixel losses, already multiplied by `pixel_weight`.
      pixel_weight: [B, ...] what each pixel counts for.
      weight: [B] weight of each example. Values of examples of weight 0 (padding) are not read.
        Losses call `without_padding` on their inputs for the sake of the gradient.

    Returns:
      Mean(sum_b weight_b sum(value_b), sum_b weight_b sum(pixel_weight_b)).
    """

    # Per example first: a float32 counts exactly up to 2**24, which one image respects and a batch may not.
    def reduce(x):
        x = without_padding(weight, x.astype(jnp.float32))
        return (weight * x.sum(tuple(range(1, x.ndim)))).sum()

    return Mean(reduce(value), reduce(pixel_weight))


def without_padding(weight: Array, x: Array) -> Array:
    """Replaces the examples of weight 0 in x [B, ...] by zeros.

    Losses do so before they compute. A `where` after the computation hides a NaN from the value, but
    not from the gradient, which is 0 * NaN.
    """
    return jnp.where((weight > 0).reshape(-1, *[1] * (x.ndim - 1)), x, 0)
