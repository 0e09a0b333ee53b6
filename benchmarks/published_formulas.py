"""Numbers that follow from formulas of the papers: noise and smoothed labels."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.published_number import Number, decimals, digits, whole
from segjax.losses import segmentation as losses
from segjax.metrics import image as image_metrics
from segjax.ops import noise

CLASSES = 20
"""Classes of the latent segmentation, void included."""
LATENT = (1, 32, 64, CLASSES)
"""Shape of the latent that gets Gaussian noise."""


# --- noise in the latent segmentation -------------------------------------------------------------


def num_levels(bits: int) -> int:
    """Counts the reconstruction levels of the quantiser."""
    return len(np.unique(noise.quantize(jnp.linspace(-1, 1, 4097), bits)))


def uniform_snr(bits: int) -> float:
    """Measures the noise of the quantiser on numbers that are uniform in [-1, 1], in dB."""
    number = 2**16
    latent = (2 * (jnp.arange(number) + 0.5) / number - 1).reshape(1, -1, 1, 1)
    return float(noise.measured_snr(latent, noise.quantize(latent, bits))[0])


def saturated_snr() -> float:
    """Measures the noise of maximum-only in dB, with a class at 1 and all further classes at -1."""
    latent = 2 * jax.nn.one_hot(jnp.zeros((1, 4, 4), int), CLASSES) - 1
    return float(noise.measured_snr(latent, noise.max_only(latent))[0])


@functools.cache
def gaussian_snr(snr: float, norm: str = 'eq11_consistent') -> float:
    """Measures Gaussian noise by Eq. 11, in dB.

    Args:
      snr: the nominal ratio.
      norm: a name of noise.SNR_NORMS.
    """
    keys = jax.random.split(jax.random.key(0), 1)
    latent = jax.random.normal(jax.random.key(1), LATENT)
    noisy = noise.gaussian(latent, keys, snr, norm)
    return float(noise.measured_snr(latent, noisy)[0])


def relative_snr(snr: float, norm: str = 'eq11_consistent') -> float:
    """Returns the measured ratio of Gaussian noise, less that of the same white noise at 0 dB.

    The energy of the drawn numbers cancels, so that few pixels give exact decibels.
    """
    return gaussian_snr(snr, norm) - gaussian_snr(0.0)


def constant_psnr(error: float) -> float:
    """Measures the PSNR of an image that is wrong by the same number everywhere, in dB."""
    truth = jnp.zeros((1, 4, 4, 3))
    return float(image_metrics.psnr(truth, truth + error)[0])


SECTION_3_2 = 'Löhdefink and Fingscheidt, section 3.2'
TABLE_2 = 'Löhdefink and Fingscheidt, Table 2'
GERSHO = 'Gersho and Gray: step^2 / 12, so 20 log10(2^n - 1) here'
UNIFORM_SNRS = {1: 0.0, 2: 9.54, 3: 16.90, 4: 23.52}
"""Bits -> dB of a uniform signal: 20 log10 of 1, 3, 7 and 15."""
GAUSSIAN_SNRS = (40.0, 30.0, 21.02, 14.5, 7.38, -0.55, -10.0, -15.0, -20.0)
"""Ratios of the Gaussian rows of Table 2."""
EQUATION_13 = (
    'Eq. 13 leaves out the number of classes: 10 log10(20) = 13.01 dB. The default counts them'
)


def noise_numbers() -> tuple[Number, ...]:
    """Returns levels and signal-to-noise ratios that need no trained net."""
    in_db = decimals(2, 'dB')
    numbers = []

    # The quantiser.
    for bits in UNIFORM_SNRS:
        compute = functools.partial(num_levels, bits)
        name = f'levels of the quantiser, bits: {bits}'
        numbers.append(Number(name, 2**bits, SECTION_3_2, compute, whole))
    for bits, published in UNIFORM_SNRS.items():
        compute = functools.partial(uniform_snr, bits)
        name = f'SNR of the quantiser on uniform numbers, bits: {bits}'
        numbers.append(Number(name, published, GERSHO, compute, in_db))

    # Gaussian noise.
    for snr in GAUSSIAN_SNRS:
        compute = functools.partial(relative_snr, snr)
        name = f'SNR of Gaussian noise set to {snr:g} dB, less that at 0 dB'
        numbers.append(Number(name, snr, TABLE_2, compute, in_db))
    name = f'SNR of Gaussian noise set to 30 dB, on {math.prod(LATENT):,} numbers'
    absolute = functools.partial(gaussian_snr, 30.0)
    numbers.append(Number(name, 30.0, TABLE_2, absolute, decimals(1, 'dB')))
    name = 'SNR of Gaussian noise set to 7.38 dB by Eq. 13, less that at 0 dB by Eq. 11'
    literal = functools.partial(relative_snr, 7.38, 'eq13_literal')
    numbers.append(Number(name, 7.38, TABLE_2, literal, in_db, EQUATION_13))

    # The largest component alone, and the measure of images.
    name = 'SNR of maximum-only with a class at 1 and all further classes at -1'
    numbers.append(Number(name, 0.22, TABLE_2, saturated_snr, in_db))
    name = 'PSNR of an error of 0.2, with the maximum 2 of Eq. 14'
    compute = functools.partial(constant_psnr, 0.2)
    numbers.append(Number(name, 20.0, 'Löhdefink and Fingscheidt, Eq. 14', compute, in_db))
    return tuple(numbers)


# --- labels ---------------------------------------------------------------------------------------


def smoothed_truth(num_classes: int, smoothing: float) -> float:
    """Returns q(y) of Eq. 6.3, from the gradient p - q of the loss at equal logits."""
    label = jnp.zeros((1,), jnp.uint8)

    def loss(logits):
        return losses.pixel_cross_entropy(logits, label, label_smoothing=smoothing)[0].sum()

    gradient = jax.grad(loss)(jnp.zeros((1, num_classes)))
    return float(1 / num_classes - gradient[0, 0])


def label_numbers() -> tuple[Number, ...]:
    """Returns smoothed labels."""
    numbers = []
    for data, num_classes, smoothing, published in (
        ('Cityscapes', 19, 1e-4, 0.99990526),
        ('ADE20K', 150, 0.1, 0.90066667),
    ):
        compute = functools.partial(smoothed_truth, num_classes, smoothing)
        quantity = f'smoothed probability of the true class, {data}'
        source = 'He, thesis, Eq. 6.3: 1 - (K - 1) / K epsilon'
        numbers.append(Number(quantity, published, source, compute, digits(5)))
    return tuple(numbers)


FORMULAS = (*noise_numbers(), *label_numbers())
