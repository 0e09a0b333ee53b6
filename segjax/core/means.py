"""Means over pixels and examples as (sum, count), in which padded examples count for nothing."""

import jax.numpy as jnp
import numpy as np

from segjax.protocol import Array, Mean


def masked_mean(value: Array, pixel_weight: Array, weight: Array) -> Mean:
    """Adds up the values and the weights of all pixels of a batch.

        sum = sum_b weight_b sum_p value_bp,     count = sum_b weight_b sum_p pixel_weight_bp

    Args:
      value: [B, ...] value of each pixel, already multiplied by `pixel_weight`.
      pixel_weight: [B, ...] weight of each pixel. A pixel that is ignored has value 0 and weight 0.
      weight: [B] weight of each example. The values of an example of weight 0 (padding) are not
        read. Losses also call `without_padding` on their inputs, for the sake of the gradient.

    Returns:
      Mean(sum, count), both float32 scalars.
    """
    return Mean(_weighted_sum(value, weight), _weighted_sum(pixel_weight, weight))


def _weighted_sum(x: Array, weight: Array) -> Array:
    """Sums each example of x [B, ...], then the examples with their weights [B]."""
    # Sum each example first. Float32 counts exactly up to 2**24: an image stays below, a batch
    # may not.
    x = without_padding(weight, x.astype(jnp.float32))
    per_example = x.sum(tuple(range(1, x.ndim)))
    return (weight * per_example).sum()


def without_padding(weight: Array, x: Array) -> Array:
    """Replaces the examples of weight 0 in x [B, ...] by zeros.

    Losses do so before they compute. A `where` after the computation hides a NaN from the value.
    The gradient would be 0 * NaN.

    Args:
      weight: [B] weight of each example.
      x: [B, ...].
    """
    kept = (weight > 0).reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(kept, x, 0)


def mean_of_examples(value: Array, weight: Array) -> Mean:
    """Returns the weighted mean of a value per example, without the examples whose value is NaN.

    Args:
      value: [B].
      weight: [B] weight of each example.

    Returns:
      Mean of float32 scalars.
    """
    counted = (weight > 0) & ~jnp.isnan(value)
    share = jnp.where(counted, weight, 0).astype(jnp.float32)
    total = jnp.where(counted, value, 0).astype(jnp.float32)
    return Mean((share * total).sum(), share.sum())


def rows(values: np.ndarray, index: np.ndarray, num_examples: int) -> Mean[np.ndarray]:
    """Places a value for each example of a split, on the host, for `Observation.observe`.

    The sum of the results of all batches holds every value once, in the order of the split.

    Args:
      values: [B, ...] values of the examples of a batch.
      index: [B] positions of these examples in the split.
      num_examples: N of the split.

    Returns:
      Mean(sum [N, ...], count [N, 1, ...]), 0 for the examples of other batches.
    """
    total = np.zeros((num_examples, *values.shape[1:]))
    count = np.zeros((num_examples, *[1] * (values.ndim - 1)))
    total[index] = values
    count[index] = 1
    return Mean(total, count)
