"""How far an image is from the true one."""

import jax.numpy as jnp

from segjax.protocol import Array


def psnr(truth: Array, other: Array, peak: float = 2.0, valid: Array | None = None) -> Array:
    """Peak signal-to-noise ratio of every image.

        10 log10( peak^2 / mean (truth - other)^2 )     over channels and pixels

    Eq. 14 of Löhdefink and Fingscheidt's noise injection. A data set's PSNR is the mean of the images'.

    Args:
      truth: [B, H, W, C].
      other: [B, H, W, C].
      peak: width of the range of values: 2 for [-1, 1], 1 for [0, 1], 255 for uint8.
      valid: [B, H, W] bool, the pixels that count; None: all. Others leave no trace, whatever they hold.

    Returns:
      [B] float32, dB. +inf where nothing differs, NaN where no pixel counts.
    """
    truth, other = truth.astype(jnp.float32), other.astype(jnp.float32)
    valid = jnp.ones(truth.shape[:3], bool) if valid is None else valid
    square = jnp.where(valid[..., None], truth - other, 0) ** 2
    mean_square = square.sum((1, 2, 3)) / (valid.sum((1, 2)) * truth.shape[-1])
    return 10 * jnp.log10(peak**2 / mean_square)
