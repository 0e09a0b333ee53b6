"""Distances between an image and the true image."""

import jax.numpy as jnp

from segjax.protocol import Array


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
