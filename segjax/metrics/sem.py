"""Sem: the difference of two shapes in the eyes of a trained classifier.

Source: Sec. 3.3 and Eq. 10 of the paper on Denoise Activation for semantic inpainting of
segmentation maps. Two different outlines of a car are equally right. Overlap punishes both, Sem
compares the classes that a net sees in them.

    distance = sem(classify, inpainted, truth, box)       # [B], alone
    metrics['Sem'] = mean_sem(distance, batch['weight'])  # in an evaluation
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from segjax.core.means import masked_mean
from segjax.protocol import Array, Mean


def object_map(label: Array, target: Array, box: Array) -> Array:
    """Marks the pixels of the target class inside the box.

    Args:
      label: [B, H, W] integer train ids, predicted or true.
      target: [B] train id of the inpainted object, l^t in the paper.
      box: [B, H, W] bool, or 0 and 1: the inpainted area M.

    Returns:
      bool [B, H, W], O in the paper.
    """
    return (label == target[:, None, None]) & (box > 0)


def shape_planes(shape: Array, box: Array) -> Array:
    """Stacks object and box, the input of a shape classifier.

    Args:
      shape: [B, H, W] bool, or 0 and 1. Object pixels outside the box are left out.
      box: [B, H, W] bool, or 0 and 1.

    Returns:
      [B, H, W, 2] float32, 0 and 1.
    """
    inside = box > 0
    planes = jnp.stack([(shape > 0) & inside, inside], -1)
    return planes.astype(jnp.float32)


def total_variation(first: Array, second: Array) -> Array:
    """Computes the total variation distance of distributions over K classes.

        d = 1/2 sum_k |softmax(first)_k - softmax(second)_k|     in [0, 1]

    It is 0 for equal logits and symmetric. It is 1 for logits with a NaN, because means leave out
    examples that are NaN.

    Args:
      first: [..., K] logits, any float type.
      second: [..., K] logits.

    Returns:
      [...] float32.
    """
    p = jax.nn.softmax(first.astype(jnp.float32))
    q = jax.nn.softmax(second.astype(jnp.float32))
    distance = 0.5 * jnp.abs(p - q).sum(-1)
    # Rounding may lead above the largest distance, and a NaN is not below it.
    return jnp.where(distance < 1, distance, 1.0)


def sem(classify: Callable[[Array], Array], shape: Array, truth: Array, box: Array) -> Array:
    """Computes the semantic difference of each pair of shapes, Eq. 10. Less is better.

    Args:
      classify: [B, H, W, 2] float32, as `shape_planes` builds them -> [B, K] logits of a trained
        classifier in evaluation.
      shape: [B, H, W] bool, or 0 and 1: the pixels of the inpainted object.
      truth: [B, H, W] the pixels of the true object.
      box: [B, H, W] the inpainted area.

    Returns:
      [B] float32 in [0, 1], 0 for equal shapes.
    """
    logits = classify(shape_planes(shape, box))
    true_logits = classify(shape_planes(truth, box))
    return total_variation(logits, true_logits)


def mean_sem(distance: Array, weight: Array) -> Mean:
    """Adds up the Sem of a batch.

    Args:
      distance: [B] from `sem`.
      weight: [B]. Examples of weight 0 (padding) count for nothing.

    Returns:
      Mean(sum, count), float32 scalars.
    """
    return masked_mean(distance, jnp.ones_like(distance), weight)
