"""Errors of landmarks: distances by image width or by the distance of the eyes.

Points are (x, y) in pixels. A true point with a coordinate NaN is absent, and counts nowhere. All
functions take any leading axes, for instance the n samples of an image, and broadcast them.

The numbers of the eyes are those of the 68 points of Multi-PIE, as in 300-W (Sagonas et al., 300
Faces in-the-Wild Challenge, ICCV Workshops 2013).
"""

from collections.abc import Sequence

import jax.numpy as jnp

from segjax.errors import unknown_name
from segjax.ops.heat_maps import is_present
from segjax.protocol import Array, Mean

EYES = (36, 45)
"""Outer corners of the two eyes among the 68 points."""

REDUCTIONS = ('sum', 'mean')
"""Names how the errors of the points of an image are reduced."""


def distances(prediction: Array, truth: Array) -> Array:
    """Computes the distance of each predicted point to the true point.

    Args:
      prediction: [..., n, 2].
      truth: [..., n, 2].

    Returns:
      [..., n] in pixels, NaN for an absent point.
    """
    return jnp.sqrt(((prediction - truth) ** 2).sum(-1))


def image_error(
    prediction: Array, truth: Array, width: Array | float, reduction: str = 'sum'
) -> Array:
    """Computes the error of the points of an image, divided by the width of the image.

        e = 1 / W sum_i |p_i - t_i|             'sum'
        e = 1 / (n W) sum_i |p_i - t_i|         'mean', over the n points that are present

    Args:
      prediction: p [..., n, 2].
      truth: t [..., n, 2].
      width: W [...] in pixels, or a number.
      reduction: a name of REDUCTIONS.

    Returns:
      [...], NaN for an image without a point.

    Raises:
      InputError: the reduction is unknown.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name('reduction of the landmark error', reduction, REDUCTIONS)
    distance = distances(prediction, truth)
    total, count = _sum_of_present(distance, is_present(truth))
    divisor = count if reduction == 'mean' else 1
    return jnp.where(count > 0, total / (divisor * width), jnp.nan)


def eye_distance(truth: Array, eyes: Sequence[int] = EYES) -> Array:
    """Returns the distance [...] of the outer corners of the eyes of points [..., n, 2]."""
    left, right = eyes
    return jnp.sqrt(((truth[..., left, :] - truth[..., right, :]) ** 2).sum(-1))


def normalised_error(prediction: Array, truth: Array, eyes: Sequence[int] = EYES) -> Array:
    """Computes the NME: the mean distance of the points, divided by the distance of the eyes.

        NME = 1 / (n |t_l - t_r|) sum_i |p_i - t_i|

    Args:
      prediction: p [..., n, 2].
      truth: t [..., n, 2].
      eyes: places l and r of the outer corners of the eyes.

    Returns:
      [...], NaN for an image in which a corner is absent.
    """
    return image_error(prediction, truth, eye_distance(truth, eyes), 'mean')


def shares_below(errors: Array, limits: Array, weight: Array) -> Mean:
    """Counts the images with an error below each limit: the cumulative distribution of errors.

    Args:
      errors: [B], NaN for an image that does not count.
      limits: [L].
      weight: [B] weight of each image.

    Returns:
      Mean(sum [L], count), float32.
    """
    counted = (weight > 0) & ~jnp.isnan(errors)
    share = jnp.where(counted, weight, 0).astype(jnp.float32)
    below = errors[:, None] < limits
    return Mean((share[:, None] * below).sum(0), share.sum())


def _sum_of_present(values: Array, present: Array) -> tuple[Array, Array]:
    """Returns sum and number of the values [..., n] of the points that are present."""
    present = jnp.broadcast_to(present, values.shape)
    return jnp.where(present, values, 0).sum(-1), present.sum(-1)
