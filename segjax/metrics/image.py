"""Distances and similarities between an image and the true image."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.errors import InputError
from segjax.ops.pool import average_pool
from segjax.protocol import Array

WINDOW = 11
"""Width and height of the window of `ssim` in pixels."""
SIGMA = 1.5
"""Standard deviation of the Gaussian weights of this window in pixels."""
GRAY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the brightness of a pixel."""

YIQ = (GRAY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""Rows that turn red, green and blue into brightness Y and the colour components I and Q."""
FSIM_SIZE = 256
"""`fsim` shrinks images whose shorter side is at least 1.5 times as long, in pixels."""
NUM_ORIENTATIONS = 4
"""Number of directions of the filters of phase congruency, evenly spaced in half a turn."""
WAVELENGTHS = (6, 12, 24, 48)
"""Wavelengths of these filters in pixels."""
BAND_RATIO = 0.55
"""Standard deviation of a filter over the logarithm of the frequency: -ln(BAND_RATIO)."""
ANGLE_DEVIATION = np.pi / NUM_ORIENTATIONS / 1.2
"""Standard deviation of a filter over the direction, in radians."""
CUTOFF = 0.45
"""Frequency in cycles per pixel above which a Butterworth filter suppresses all responses."""
BUTTERWORTH_ORDER = 15
NOISE_DEVIATIONS = 2.0
"""Noise threshold above the mean energy of noise, in standard deviations of this energy."""
NOISE_RESCALING = 1.7
"""The published threshold is divided by this number, as noise is overestimated."""
SMALLEST_ENERGY = 1e-4
"""Added to the energy before divisions, for brightness in 0 .. 255."""
SIMILARITY_OF_CONGRUENCY = 0.85
"""T1 of `fsim`."""
SIMILARITY_OF_GRADIENTS = 160.0
"""T2 of `fsim`, for brightness in 0 .. 255."""
SIMILARITY_OF_COLOURS = 200.0
"""T3 and T4 of `fsimc`, for colour components of RGB in 0 .. 255."""
COLOUR_EXPONENT = 0.03
"""Weight of the colours in `fsimc`, lambda."""
SCHARR = ((3, 0, -3), (10, 0, -10), (3, 0, -3))
"""16 times the horizontal derivative filter of `fsim`. The vertical filter is its transpose."""


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
    return 10 * jnp.log10(peak**2 / _mean_square(truth, other, valid))


def rmse(truth: Array, other: Array, valid: Array | None = None) -> Array:
    """Computes the root mean square error of every image.

        sqrt( mean (truth - other)^2 )     over channels and pixels

    It has the unit of the images. Publications report it for the range 0 .. 255. The RMSE of a data
    set is the mean over its images.

    Args:
      truth: [B, H, W, C].
      other: [B, H, W, C], the image that is compared with the truth.
      valid: [B, H, W] bool, the pixels that count. None: all pixels. Invalid pixels may hold
        anything.

    Returns:
      [B] float32. 0 for equal images, NaN where no pixel counts.
    """
    return jnp.sqrt(_mean_square(truth, other, valid))


def _mean_square(truth: Array, other: Array, valid: Array | None) -> Array:
    """Returns the mean squared difference of the valid pixels of every image, [B] float32."""
    truth = truth.astype(jnp.float32)
    other = other.astype(jnp.float32)
    if valid is None:
        valid = jnp.ones(truth.shape[:3], bool)
    square = jnp.where(valid[..., None], truth - other, 0) ** 2
    total = square.sum((1, 2, 3))
    num_values = valid.sum((1, 2)) * truth.shape[-1]
    return total / num_values


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


# --- feature similarity ---------------------------------------------------------------------------


def fsim(truth: Array, other: Array, peak: float = 1.0) -> Array:
    """Computes the feature similarity (FSIM) of the brightness of every image.

        sum_p S_pc S_g max(pc_x, pc_y) / sum_p max(pc_x, pc_y)
        S_pc = (2 pc_x pc_y + T1) / (pc_x^2 + pc_y^2 + T1)
        S_g  = (2 g_x g_y + T2) / (g_x^2 + g_y^2 + T2)

    pc is the phase congruency of a pixel, see `phase_congruency`. g is the length of the gradient
    by Scharr's filters, with zeros around the image. T1 = 0.85, and T2 = 160 for values in
    0 .. 255. Images whose shorter side has m pixels are first averaged over squares of
    max(1, round(m / 256)) pixels.

    Source: Zhang, Zhang, Mou, Zhang, FSIM: A Feature Similarity Index for Image Quality Assessment,
    IEEE TIP 2011. The FSIM of a data set is the mean over its images.

    Args:
      truth: [B, H, W, 3] RGB in 0 .. peak.
      other: [B, H, W, 3], the image that is compared with the truth.
      peak: largest value: 1 for [0, 1], 255 for uint8.

    Returns:
      [B] float32 in 0 .. 1, 1 for equal images. NaN where neither image has any structure.

    Raises:
      InputError: a side of a single pixel.
    """
    similarity, weight = _structure_similarity(_yiq(truth, peak), _yiq(other, peak))
    return (similarity * weight).sum((1, 2)) / weight.sum((1, 2))


def fsimc(truth: Array, other: Array, peak: float = 1.0) -> Array:
    """Computes the feature similarity of every image, with its colours (FSIMc).

    The similarity of each pixel in `fsim` is multiplied by Re (S_i S_q)^0.03, where

        S_i = (2 i_x i_y + T3) / (i_x^2 + i_y^2 + T3),   T3 = 200 for values in 0 .. 255

    compares the colour components I of YIQ. S_q compares the components Q in the same way.

    Args:
      truth, other, peak: as in `fsim`.

    Returns:
      [B] float32, as `fsim`.
    """
    x = _yiq(truth, peak)
    y = _yiq(other, peak)
    similarity, weight = _structure_similarity(x, y)
    of_colours = _similarity(x[..., 1:], y[..., 1:], SIMILARITY_OF_COLOURS).prod(-1)

    # The product is negative where a colour is opposite. Its power is complex there.
    real_part = jnp.where(of_colours < 0, np.cos(np.pi * COLOUR_EXPONENT), 1.0)
    of_colours = real_part * jnp.abs(of_colours) ** COLOUR_EXPONENT
    return (similarity * of_colours * weight).sum((1, 2)) / weight.sum((1, 2))


def phase_congruency(brightness: Array) -> Array:
    """Computes how far the frequencies around each pixel are in phase, which marks its structure.

        sum_o max(E_o - T_o, 0) / sum_o sum_s |r_os|
        E_o = sum_s Re(r_os u_o) - |Im(r_os u_o)|

    r_os is the complex response of the log-Gabor filter of scale s and orientation o. u_o is the
    conjugate of sum_s r_os, with length 1. The threshold T_o is the energy that noise would reach.
    The noise follows from the median of |r_o0|^2 at the smallest scale.

    Source: Kovesi, Image Features from Phase Congruency, Videre 1999, with the constants of FSIM.

    Args:
      brightness: [B, H, W] floating point in 0 .. 255. H and W are at least 2.

    Returns:
      [B, H, W] float32 in 0 .. 1, 0 where all responses are 0.
    """
    filters = _filters(*brightness.shape[1:])
    spectrum = jnp.fft.fft2(brightness.astype(jnp.float32))
    energy = jnp.zeros(brightness.shape, jnp.float32)
    amplitude = jnp.zeros(brightness.shape, jnp.float32)
    # Orientations follow each other, so that the responses of a single orientation take memory.
    for angular, noise_factor in zip(filters.angular, filters.noise_factors):
        responses = jnp.fft.ifft2(spectrum[:, None] * (filters.radial * angular))  # [B, S, H, W]
        lengths = jnp.abs(responses)
        total = responses.sum(1)
        direction = total / (jnp.abs(total) + SMALLEST_ENERGY)
        turned = responses * direction.conj()[:, None]
        in_phase = (turned.real - jnp.abs(turned.imag)).sum(1)
        threshold = noise_factor * jnp.sqrt(_median(lengths[:, 0] ** 2))
        energy += jnp.maximum(in_phase - threshold[:, None, None], 0)
        amplitude += lengths.sum(1)
    return jnp.where(amplitude > 0, energy / jnp.where(amplitude > 0, amplitude, 1), 0)


def _median(values: Array) -> Array:
    """Returns the median of every map.

    `jnp.median` sorts, which would take most of the time of FSIM on a CPU.

    Args:
      values: [B, H, W] float32, at least 0.

    Returns:
      [B] float32, the mean of both middle values of an even number.
    """
    # The bits of floats of at least 0, read as integers, have the order of the floats.
    bits = jax.lax.bitcast_convert_type(values, jnp.int32).reshape(len(values), -1)
    num_values = bits.shape[1]
    ranks = jnp.array([(num_values - 1) // 2, num_values // 2])[:, None]

    # Build the values of both ranks bit by bit, from the highest bit after the sign.
    def add_bit(i, known):
        candidate = known | (1 << (30 - i))
        num_below = (bits < candidate[..., None]).sum(-1)
        return jnp.where(num_below <= ranks, candidate, known)

    middle = jax.lax.fori_loop(0, 31, add_bit, jnp.zeros((2, len(values)), jnp.int32))
    return jax.lax.bitcast_convert_type(middle, jnp.float32).mean(0)


class _Filters(NamedTuple):
    """Log-Gabor filters for images of H x W pixels, zero frequency first as in `fft2`.

    The filter of scale s and orientation o is radial[s] * angular[o].

    radial         [S, H, W] float32
    angular        [O, H, W] float32
    noise_factors  [O] float32, noise thresholds in units of the square root of the median of the
                   squared response at the smallest scale
    """

    radial: np.ndarray
    angular: np.ndarray
    noise_factors: np.ndarray


@functools.lru_cache(maxsize=8)
def _filters(height: int, width: int) -> _Filters:
    """Computes the filters of `phase_congruency` for an image size."""
    x = _frequencies(width)
    y = _frequencies(height)[:, None]
    radius = np.hypot(x, y)
    low_pass = 1 / (1 + (radius / CUTOFF) ** (2 * BUTTERWORTH_ORDER))
    # The logarithm of the zero frequency is infinite. Its response is set to 0 below.
    radius[0, 0] = 1
    ratios = radius * np.array(WAVELENGTHS)[:, None, None]
    radial = low_pass * np.exp(-(np.log(ratios) ** 2) / (2 * np.log(BAND_RATIO) ** 2))
    radial[:, 0, 0] = 0

    # A filter responds to the directions near its own, not to the opposite directions.
    centres = np.arange(NUM_ORIENTATIONS)[:, None, None] * np.pi / NUM_ORIENTATIONS
    turn = np.angle(np.exp(1j * (np.arctan2(-y, x) - centres)))
    angular = np.exp(-(turn**2) / (2 * ANGLE_DEVIATION**2))

    # In the energy, white noise of power P has the Rayleigh parameter sqrt(P sum_p k_p^2). k is the
    # sum of the filters of all scales, in pixels. P is the mean squared response at the smallest
    # scale, divided by the energy of its filter. This mean is the median / ln 2.
    kernels = np.fft.ifft2(radial.sum(0) * angular).real * np.sqrt(height * width)
    energies = ((radial[0] * angular) ** 2).sum((1, 2))
    rayleigh = np.sqrt((kernels**2).sum((1, 2)) / (np.log(2) * energies))
    level = np.sqrt(np.pi / 2) + NOISE_DEVIATIONS * np.sqrt(2 - np.pi / 2)
    factors = rayleigh * level / NOISE_RESCALING
    return _Filters(np.float32(radial), np.float32(angular), np.float32(factors))


def _frequencies(size: int) -> np.ndarray:
    """Returns the frequencies of a side, [size], 0 first, then rising, then the negative half.

    They reach from -1/2 to 1/2. Odd sizes stretch the frequencies of `fft` by size / (size - 1), as
    the authors of FSIM do.
    """
    frequencies = np.fft.fftfreq(size)
    return frequencies * size / (size - 1) if size % 2 else frequencies


def _yiq(image: Array, peak: float) -> Array:
    """Returns brightness and colours of images in the range and the size of `fsim`.

    Args:
      image: [B, H, W, 3] RGB in 0 .. peak.
      peak: largest value.

    Returns:
      [B, h, w, 3] float32, Y in 0 .. 255, I and Q in the same scale.
    """
    side = min(image.shape[1:3])
    if side < 2:
        height, width = image.shape[1:3]
        raise InputError('FSIM', got=f'{height} x {width}', expected='at least 2 pixels a side')
    factor = max(1, round(side / FSIM_SIZE))
    image = image.astype(jnp.float32) * (255 / peak)
    if factor > 1:
        image = average_pool(image, factor, factor)
    rows = jnp.asarray(YIQ, jnp.float32)
    return jnp.einsum('bhwc,kc->bhwk', image, rows, precision=jax.lax.Precision.HIGHEST)


def _structure_similarity(x: Array, y: Array) -> tuple[Array, Array]:
    """Compares phase congruency and gradients of images in YIQ.

    Args:
      x, y: [B, H, W, 3] from `_yiq`.

    Returns:
      (similarity [B, H, W] in 0 .. 1, weight [B, H, W] in 0 .. 1).
    """
    congruency_x = phase_congruency(x[..., 0])
    congruency_y = phase_congruency(y[..., 0])
    of_congruency = _similarity(congruency_x, congruency_y, SIMILARITY_OF_CONGRUENCY)
    gradient_x = _gradient_length(x[..., 0])
    gradient_y = _gradient_length(y[..., 0])
    of_gradients = _similarity(gradient_x, gradient_y, SIMILARITY_OF_GRADIENTS)
    return of_congruency * of_gradients, jnp.maximum(congruency_x, congruency_y)


def _similarity(x: Array, y: Array, constant: float) -> Array:
    """Returns (2 x y + constant) / (x^2 + y^2 + constant)."""
    return (2 * x * y + constant) / (x**2 + y**2 + constant)


def _gradient_length(brightness: Array) -> Array:
    """Returns the length of the gradient of images [B, H, W], with zeros around the image."""
    kernel = np.float32(SCHARR) / 16
    kernels = jnp.asarray(np.stack([kernel, kernel.T])[:, None])
    gradient = jax.lax.conv(
        brightness[:, None], kernels, (1, 1), 'SAME', precision=jax.lax.Precision.HIGHEST
    )
    return jnp.sqrt((gradient**2).sum(1))
