"""Distances and similarities between an image and the true image."""

import jax
import jax.numpy as jnp
import numpy as np

from segjax.errors import InputError
from segjax.protocol import Array

WINDOW = 11
"""Width and height of the window of `ssim` in pixels."""
SIGMA = 1.5
"""Standard deviation of the Gaussian weights of this window in pixels."""
GRAY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the brightness of a pixel."""


def psnr(truth: Array, other: Array, peak: float = 2.0, valid: Array | None = None) -> Array:
    """Computes the peak signal-to-noise ratio (PSNR) of every image.

        10 log10( peak^2 / mean (truth - other)^2 )     over channels and pixels

    Eq. 14 of Löhdefink and Fingscheidt's noise injection. The PSNR of a data set is the mean over
    its images.

    Args:
      truth: [B, H, W, C].
      other: [B, H, W, C], the image that is compared with the truth.
      peak: width of the range of values: 2 for [-1, 1], 1 for [0, 1], 255 for uint8.
      valid: [B, H, W] bool, the pixels that count. None: all pixels. Invalid pixels may hold
        anything.

    Returns:
      [B] float32 in dB. +inf for equal images, NaN where no pixel counts.
    """
    truth = truth.astype(jnp.float32)
    other = other.astype(jnp.float32)
    if valid is None:
        valid = jnp.ones(truth.shape[:3], bool)
    square = jnp.where(valid[..., None], truth - other, 0) ** 2
    total = square.sum((1, 2, 3))
    num_values = valid.sum((1, 2)) * truth.shape[-1]
    mean_square = total / num_values  # [B]
    return 10 * jnp.log10(peak**2 / mean_square)


def ssim(
    truth: Array,
    other: Array,
    peak: float = 1.0,
    valid: Array | None = None,
    region: Array | None = None,
) -> Array:
    """Computes the structural similarity (SSIM) of the brightness of every image.

        (2 m_x m_y + c1) (2 s_xy + c2) / ((m_x^2 + m_y^2 + c1) (s_x^2 + s_y^2 + c2))

    averaged over the windows of 11 x 11 pixels. m and s are means and covariances under Gaussian
    weights of standard deviation 1.5, with c1 = (0.01 peak)^2 and c2 = (0.03 peak)^2. Images are
    not shrunk. Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to
    Structural Similarity, IEEE TIP 2004. The SSIM of a data set is the mean over its images.

    Args:
      truth: [B, H, W, 3] RGB in 0 .. peak.
      other: [B, H, W, 3], the image that is compared with the truth.
      peak: largest value: 1 for [0, 1], 255 for uint8.
      valid: [B, H, W] bool. Windows count if all their pixels are valid. None: all pixels. Invalid
        pixels may hold anything.
      region: [B, H, W] bool. Windows count if their centre lies in the region. None: all windows.

    Returns:
      [B] float32, at most 1. NaN where no window counts.

    Raises:
      InputError: images smaller than a window.
    """
    height, width = truth.shape[1:3]
    if min(height, width) < WINDOW:
        raise InputError('SSIM', got=f'{height} x {width}', expected=f'at least {WINDOW} pixels')
    if valid is None:
        valid = jnp.ones(truth.shape[:3], bool)
    shares = jnp.asarray(GRAY, jnp.float32)

    def brightness(image: Array) -> Array:
        return jnp.where(valid, (image.astype(jnp.float32) * shares).sum(-1), 0)

    x = brightness(truth)
    y = brightness(other)
    mean_x, mean_y, square_x, square_y, product = window_means([x, y, x * x, y * y, x * y])
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    c1 = (0.01 * peak) ** 2
    c2 = (0.03 * peak) ** 2
    of_means = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    similarity = of_means * (2 * covariance + c2) / (variances + c2)

    # Windows with an invalid pixel do not count.
    border = WINDOW // 2
    (invalid,) = window_means([jnp.where(valid, 0.0, 1.0)])
    counted = invalid == 0
    if region is not None:
        counted &= region[:, border : height - border, border : width - border]
    return jnp.where(counted, similarity, 0).sum((1, 2)) / counted.sum((1, 2))


def window_means(maps: list[Array]) -> Array:
    """Returns the Gaussian means of n maps [B, H, W] in all windows, [n, B, H - 10, W - 10]."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    stacked = jnp.stack(maps)
    rows = stacked.reshape(-1, 1, *stacked.shape[2:])
    # The weights of a window are the product of a column and a row.
    for kernel in (weights[:, None], weights[None, :]):
        rows = jax.lax.conv(
            rows, kernel[None, None], (1, 1), 'VALID', precision=jax.lax.Precision.HIGHEST
        )
    return rows.reshape(*stacked.shape[:2], *rows.shape[2:])
