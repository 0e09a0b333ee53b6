"""Noise textures in surface coordinates, filtered by distance, and helpers of painters."""

from typing import NamedTuple

import cv2
import numpy as np

PERIOD = 8.0
"""Metres after which the noise repeats."""

_LEVELS = (256, 128, 64, 32, 16, 8, 4)


class Noise(NamedTuple):
    """Tileable noise of standard deviation 1, and its averages over 2 x 2, 4 x 4, ... texels.

    The atlas contains the levels from top to bottom.
    """

    atlas: np.ndarray  # [sum of (n + 1), 257] float32
    rows: np.ndarray  # first row of each level


def make_noise(rng, slope=0.9) -> Noise:
    """Samples noise with amplitude spectrum 1 / f^slope."""
    # Filter white noise. Without frequency 0 its mean is 0.
    n = _LEVELS[0]
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((n, n))) / frequency**slope
    image = np.fft.irfft2(spectrum, s=(n, n))
    image = (image / image.std()).astype(np.float32)

    # Average it down, level by level. A repeated row and column make interpolation wrap around.
    levels = []
    for size in _LEVELS:
        levels.append(np.pad(np.pad(image, (0, 1), mode='wrap'), ((0, 0), (0, n - size))))
        image = image.reshape(size // 2, 2, size // 2, 2).mean((1, 3))
        # Texel k is the mean of texels 2k and 2k + 1 of the finer level, half a texel to the right.
        # Averaging with the neighbours on the left moves it back.
        image = (
            image + np.roll(image, 1, 0) + np.roll(image, 1, 1) + np.roll(image, (1, 1), (0, 1))
        ) / 4
    rows = np.cumsum([0] + [len(level) for level in levels[:-1]])
    return Noise(np.concatenate(levels), rows.astype(np.float32))


def lookup(noise: Noise, s, t, footprint) -> np.ndarray:
    """Returns noise at surface coordinates, [H, W] float32.

    Args:
      noise: textures of all levels.
      s, t: [H, W] metres.
      footprint: [H, W] width of a sample in metres, which decides the level.
    """
    level = np.log2(np.maximum(footprint, 1e-6) * np.float32(_LEVELS[0] / PERIOD))
    level = np.clip(np.rint(level), 0, len(_LEVELS) - 1).astype(np.intp)
    size = np.array(_LEVELS, np.float32)[level]
    s = s * np.float32(1 / PERIOD)
    t = t * np.float32(1 / PERIOD)
    x = (s - np.floor(s)) * size
    y = (t - np.floor(t)) * size + noise.rows[level]
    return cv2.remap(noise.atlas, x, y, cv2.INTER_LINEAR)


def band(distance, half_width, footprint) -> np.ndarray:
    """Returns the coverage of samples by a stripe |distance| < half_width, in [0, 1].

    Args:
      distance: from the middle of the stripe, metres.
      half_width: of the stripe, metres.
      footprint: width of a sample, metres.
    """
    inside = np.clip((half_width - np.abs(distance)) / footprint + 0.5, 0, 1)
    return inside * np.minimum(1, 2 * half_width / footprint)


def periodic(x, period):
    """Returns the signed distance from the nearest multiple of `period`."""
    return x - period * np.rint(x / period)


def cell_hash(i, j) -> np.ndarray:
    """Returns a pseudo-random number in [0, 1) for each whole-number cell (i, j)."""
    value = np.sin(i * 12.9898 + j * 78.233) * 43.758547
    return value - np.floor(value)


def mix(colour, added, share) -> np.ndarray:
    """Mixes colours [n, 3]: a share [n] of `added`, and the remaining share of `colour`."""
    return colour + (added - colour) * share[:, None]
