"""Angles between surface normals, and their scores over a split and for each image.

The scores are mean, median and root mean square of the angles in degrees, and the shares of the
pixels with an angle below 11.25, 22.5 and 30 degrees (Fouhey, Gupta, Hebert, Data-Driven 3D
Primitives for Single Image Understanding, ICCV 2013).
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from segjax.core import means
from segjax.metrics import depth
from segjax.protocol import Array, Mean

LIMITS = (11.25, 22.5, 30.0)
"""Angles in degrees below which the shares of pixels are scored."""

BINS = 1800
"""Bins of the histogram of angles in [0, 180] from which the median is read: 0.1 degrees."""

RMS = 'rms_angle'
"""Name of the root mean square of the angles."""


def angles(prediction: Array, truth: Array) -> Array:
    """Returns the angles [...] between vectors [..., 3], in degrees.

    atan2(|p x t|, p . t) is exact for small angles, where arccos is not. A prediction of length 0
    points nowhere. Its angle is 90 degrees.
    """
    across = jnp.linalg.norm(jnp.cross(prediction, truth), axis=-1)
    angle = jnp.degrees(jnp.arctan2(across, (prediction * truth).sum(-1)))
    return jnp.where((prediction != 0).any(-1), angle, 90.0)


# --- over a split ---------------------------------------------------------------------------------


def angle_sums(
    angle: Array, measured: Array, weight: Array, with_rms: bool = False
) -> dict[str, Mean]:
    """Returns the sums from which `angle_scores` computes scores.

    'accuracy_30' is the share of pixels with an angle below 30 degrees.

    Args:
      angle: [B, H, W] degrees.
      measured: [B, H, W] bool.
      weight: [B].
      with_rms: whether the root mean square is a score, 'rms_angle'.
    """
    pixel_weight = measured * weight[:, None, None]
    places = jnp.clip(angle * (BINS / 180), 0, BINS - 1).astype(jnp.int32)
    histogram = jnp.zeros(BINS).at[places].add(pixel_weight)
    sums = {'mean_angle': means.masked_mean(jnp.where(measured, angle, 0.0), measured, weight)}
    for limit in LIMITS:
        below = measured & (angle < limit)
        sums[f'accuracy_{limit:g}'] = means.masked_mean(below.astype(jnp.float32), measured, weight)
    if with_rms:
        sums[RMS] = means.masked_mean(jnp.where(measured, angle**2, 0.0), measured, weight)
    return {**sums, 'median_angle': Mean(histogram, jnp.float32(1))}


def angle_scores(sums: Mapping[str, Mean]) -> dict[str, float]:
    """Returns the scores of `angle_sums` over the whole split, on the host.

    The median is the middle of its bin.
    """
    scores = {name: float(mean.value()) for name, mean in sums.items() if name != 'median_angle'}
    if RMS in scores:
        scores[RMS] **= 0.5
    histogram = np.asarray(sums['median_angle'].sum, np.float64)
    half = np.searchsorted(np.cumsum(histogram), histogram.sum() / 2)
    scores['median_angle'] = float((half + 0.5) * 180 / BINS)
    return scores


# --- for each image -------------------------------------------------------------------------------


def image_scores(prediction: Array, truth: Array) -> dict[str, Array]:
    """Computes the scores of each image, whose median is exact.

    All leading axes broadcast: n samples [B, n, H, W, 3] are compared with a truth [B, 1, H, W, 3].

    Args:
      prediction: [..., H, W, 3] unit vectors.
      truth: [..., H, W, 3] unit vectors, 0 = not measured.

    Returns:
      {name: [...]} with the names mean_angle, median_angle, rms_angle, accuracy_11.25,
      accuracy_22.5 and accuracy_30. NaN for an image without a true normal.
    """
    angle = angles(prediction, truth)
    measured = jnp.broadcast_to((truth != 0).any(-1), angle.shape)
    count = measured.sum((-2, -1))

    def mean(values: Array) -> Array:
        return jnp.where(measured, values, 0.0).sum((-2, -1)) / count

    pixels = (-1, *angle.shape[-2:])
    median = depth.masked_median(angle.reshape(pixels), measured.reshape(pixels))
    scores = {
        'mean_angle': mean(angle),
        'median_angle': median.reshape(count.shape),
        RMS: jnp.sqrt(mean(angle**2)),
    }
    for limit in LIMITS:
        scores[f'accuracy_{limit:g}'] = mean((angle < limit).astype(jnp.float32))
    return scores
