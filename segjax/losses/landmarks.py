"""Losses of landmarks: distances of coordinates, and divergence of heat maps.

Points outside of the image and absent points (NaN) count nowhere. A softmax over the pixels of an
image cannot point outside.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.errors import unknown_name
from segjax.ops import heat_maps
from segjax.ops.gradients import absolute
from segjax.protocol import Array, Mean

FORMS = ('l1', 'wing')
"""Names of the losses of a coordinate."""


def wing(error: Array, width: float, curvature: float) -> Array:
    """Computes the wing loss, which is logarithmic for small errors and linear for large errors.

        L(x) = w ln(1 + |x| / c)              |x| < w
        L(x) = |x| - w + w ln(1 + w / c)      otherwise

    Small errors have larger gradients than in L1. Feng, Kittler, Awais, Huber, Wu, Wing Loss for
    Robust Facial Landmark Localisation with Convolutional Neural Networks, CVPR 2018.

    Args:
      error: x, any shape.
      width: w, where the loss becomes linear.
      curvature: c of the logarithm.
    """
    size = absolute(error)
    logarithmic = width * jnp.log1p(size / curvature)
    linear = size - width + width * jnp.log1p(width / curvature)
    return jnp.where(size < width, logarithmic, linear)


def coordinates(
    prediction: Array,
    truth: Array,
    weight: Array,
    size: tuple[int, int],
    form: str = 'wing',
    width: float = 4.0,
    curvature: float = 0.8,
) -> Mean:
    """Computes the mean loss of the coordinates, in per cent of the image width.

        L = 1 / 2n sum_i f(100 (p_i - t_i) / W)       over both axes

    with f(x) = |x| ('l1') or `wing`. The defaults are 10 and 2 pixels of a face of 256 pixels, as
    published.

    Args:
      prediction: p [B, n, 2] in pixels.
      truth: t [B, n, 2] in pixels.
      weight: [B] weight of each example.
      size: (H, W) of the image.
      form: a name of FORMS.
      width, curvature: of `wing`, in per cent of the image width.

    Returns:
      Mean whose count is the number of coordinates.

    Raises:
      InputError: the form is unknown.
    """
    forms: dict[str, Callable] = {
        'l1': absolute,
        'wing': functools.partial(wing, width=width, curvature=curvature),
    }
    if form not in forms:
        raise unknown_name('loss of the coordinates', form, forms)
    inside = heat_maps.is_inside(truth, size)[..., None]
    # NaN is replaced before the difference, so that its gradient is 0.
    truth = jnp.where(inside, truth, 0)
    prediction = jnp.where(inside, without_padding(weight, prediction), 0)
    error = (100 / size[1]) * (prediction.astype(jnp.float32) - truth)
    counted = jnp.broadcast_to(inside, error.shape)
    return masked_mean(forms[form](error), counted, weight)


def heat_map_divergence(
    logits: Array, truth: Array, weight: Array, size: tuple[int, int], sigma: float
) -> Mean:
    """Computes the Kullback-Leibler divergence of the softmax of maps from Gaussians.

        L = 1 / n sum_i sum_q g_i(q) (ln g_i(q) - ln softmax(l_i)(q))

    g_i is a Gaussian around the true point, which sums to 1 over the pixels q of the map.

    Args:
      logits: l [B, h, w, n]. The maps may be coarser than the image.
      truth: [B, n, 2] in pixels of the image.
      weight: [B] weight of each example.
      size: (H, W) of the image.
      sigma: standard deviation in per cent of the image width.

    Returns:
      Mean whose count is the number of points.
    """
    grid = logits.shape[1:3]
    inside = heat_maps.is_inside(truth, size)
    points = heat_maps.on_grid(jnp.where(inside[..., None], truth, 0), size, grid)
    bumps = heat_maps.log_gaussian(points, grid, sigma / 100 * grid[1])

    # Both distributions in logarithms, so that no pixel has the logarithm of 0.
    log_target = jax.nn.log_softmax(bumps, axis=(1, 2))
    clean = without_padding(weight, logits.astype(jnp.float32))
    log_probability = jax.nn.log_softmax(clean, axis=(1, 2))
    divergence = jnp.exp(log_target) * (log_target - log_probability)
    of_points = divergence.sum((1, 2))  # [B, n]
    return masked_mean(jnp.where(inside, of_points, 0.0), inside, weight)
