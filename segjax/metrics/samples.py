"""Accuracy and diversity of several samples for the same input.

A generator draws n samples for each input. Accuracy is the value of the best sample, of the best
among the first k, or the mean of the k best samples. Diversity is the spread of features, and the
distance of samples to their mean image.

    values = of_samples(image.ssim, truth, samples)   # [B, n]
    best(values, larger=True)                         # [B]

Source: He, thesis Sec. 5.3, which numbers the figures and tables below.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.protocol import Array


class Distances(NamedTuple):
    """Distances of samples to their mean image.

    largest  [B] float32
    mean     [B] float32
    """

    largest: Array
    mean: Array


def of_samples(metric: Callable[[Array, Array], Array], truth: Array, samples: Array) -> Array:
    """Compares every sample with the true image of its input.

    Samples follow each other, so memory does not grow with their number.

    Args:
      metric: (truth [B, ...], other [B, ...]) -> [B], such as `image.fsim`.
      truth: [B, ...].
      samples: [B, n, ...].

    Returns:
      [B, n] in the dtype of the metric.
    """
    values = jax.lax.map(lambda sample: metric(truth, sample), jnp.moveaxis(samples, 1, 0))
    return jnp.moveaxis(values, 0, 1)


def best(values: Array, larger: bool) -> Array:
    """Returns the best value of each row.

    Args:
      values: [..., n] floating point. NaN marks an absent value, which never wins.
      larger: whether larger values are better.

    Returns:
      [...], NaN where all values are absent.
    """
    return best_of_first(values, larger)[..., -1]


def best_of_first(values: Array, larger: bool) -> Array:
    """Returns the best of the first k values of each row, for every k.

    Args:
      values: [..., n] floating point. NaN marks an absent value, which never wins.
      larger: whether larger values are better.

    Returns:
      [..., n], place k - 1 for the first k values. NaN where these are all absent.
    """
    ranks, present = _rising(values, larger)
    axis = ranks.ndim - 1
    leading = jax.lax.cummax(ranks, axis)
    any_present = jax.lax.cummax(present.astype(jnp.int32), axis) > 0
    return jnp.where(any_present, leading if larger else -leading, jnp.nan)


def top_mean(values: Array, k: int, larger: bool) -> Array:
    """Returns the mean of the k best values of each row.

    Args:
      values: [..., n] floating point. NaN marks an absent value, which never wins.
      k: 1 .. n. Rows with fewer present values have the mean of all of these.
      larger: whether larger values are better.

    Returns:
      [...], NaN where all values are absent.

    Raises:
      InputError: k is not in 1 .. n.
    """
    num_values = values.shape[-1]
    if not 1 <= k <= num_values:
        raise InputError('top_mean', got=f'k = {k}', expected=f'1 .. {num_values}, the values')
    ranks, present = _rising(values, larger)
    ordered, _ = jax.lax.top_k(ranks, k)
    count = jnp.minimum(present.sum(-1), k)
    # Absent values are behind all present values.
    counted = jnp.arange(k) < count[..., None]
    mean = jnp.where(counted, ordered, 0).sum(-1) / count
    return mean if larger else -mean


def _rising(values: Array, larger: bool) -> tuple[Array, Array]:
    """Returns (values that rise with quality, -inf where absent; which values are present)."""
    values = jnp.asarray(values)
    present = ~jnp.isnan(values)
    ranks = values if larger else -values
    return jnp.where(present, ranks, -jnp.inf), present


def spread(features: Array) -> Array:
    """Computes the standard deviation of features over the samples, averaged over the units.

        mean_u sqrt( 1/n sum_i (f_iu - 1/n sum_j f_ju)^2 )

    A single sample has spread 0. Table 5.3 adds up the spreads of several layers.

    Args:
      features: [B, n, ...] any float type. All axes after the first two are units.

    Returns:
      [B] float32.
    """
    deviation = features.astype(jnp.float32).std(1)
    return deviation.mean(tuple(range(1, deviation.ndim)))


def distances_to_centre(images: Array) -> Distances:
    """Computes the largest and the mean distance of samples to their mean image (Fig. 5.7).

        d_i = sqrt( mean (y_i - 1/n sum_j y_j)^2 )     over pixels and channels

    The root mean square has the unit of the images and does not grow with their size.

    Args:
      images: [B, n, H, W, C].

    Returns:
      Distances.
    """
    images = images.astype(jnp.float32)
    deviation = images - images.mean(1, keepdims=True)
    distance = jnp.sqrt((deviation**2).mean((2, 3, 4)))
    return Distances(distance.max(1), distance.mean(1))
