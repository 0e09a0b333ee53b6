"""Ranks of true classes, for the accuracy of classifiers.

The counts by true and predicted class are those of metrics/confusion.py.
"""

import jax.numpy as jnp

from segjax.core.means import masked_mean
from segjax.protocol import Array, Mean
from segjax.spec import IGNORE


def rank_of_truth(logits: Array, label: Array) -> Array:
    """Counts the classes that a classifier prefers to the true class of each example.

    Of equal logits, the class with the smaller id comes first, as in `argmax`. A NaN is preferred
    to everything.

    Args:
      logits: [B, K].
      label: [B] integer train ids. Ids outside 0 .. K-1 have the rank K.

    Returns:
      [B] int32. Rank 0 is the first guess.
    """
    num_classes = logits.shape[-1]
    classes = jnp.arange(num_classes)
    is_truth = classes == label[:, None]  # [B, K]
    of_truth = jnp.where(is_truth, logits, 0).sum(-1, keepdims=True)

    # Not `logits > of_truth`, by which no class would be preferred to a NaN.
    above = ~(logits <= of_truth)
    earlier = (logits == of_truth) & (classes < label[:, None])
    rank = ((above | earlier) & ~is_truth).sum(-1)
    broken = jnp.isnan(of_truth[:, 0]) | ~is_truth.any(-1)
    return jnp.where(broken, num_classes, rank).astype(jnp.int32)


def top_accuracy(rank: Array, label: Array, weight: Array, guesses: int) -> Mean:
    """Counts the examples whose true class is among the first guesses.

    Args:
      rank: [B] from `rank_of_truth`.
      label: [B] integer train ids. 255 is not counted.
      weight: [B]. Examples of weight 0 (padding) are not counted.
      guesses: number of guesses, 5 for the top-5 accuracy.

    Returns:
      Mean(sum, count), float32 scalars.
    """
    counted = label != IGNORE
    right = (rank < guesses) & counted
    return masked_mean(right, counted, weight)
