"""Noise injected into a latent segmentation, so that no picture can hide in it.

Löhdefink, Fingscheidt: Improving Performance of Semantic Segmentation CycleGANs by Noise Injection
into the Latent Segmentation Space. A CycleGAN hides the image in the low bits of the predicted
label map (Chu et al. 2017). The noise destroys these bits on the way to the second generator.

A latent is [B, H, W, S], a number per pixel and class. The quantiser and the published ratios of
its noise are meant for latents inside [-1, 1].
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.ops.gradients import straight_through

NAMES = ('none', 'max_only', 'quantize', 'gaussian')
"""Names the kinds of noise."""

SNR_NORMS = ('eq11_consistent', 'eq13_literal')
"""Names the normalisations of the signal-to-noise ratio, see `gaussian`."""

MAX_BITS = 16
"""Largest number of bits of the quantiser."""

# The number after the colon in a text: its field, its type, and the text of an error.
_NUMBERS = {
    'quantize': ('bits', int, "a whole number of bits, as in 'quantize:2'"),
    'gaussian': ('snr', float, "a number of dB, as in 'gaussian:7.38'"),
}


def max_only(latent):
    """Keeps only the largest component of every pixel (section 3.2).

    All further components become 0. The rule is literal: the kept number may be negative, and then
    the zeros exceed it. Of equal components the first is kept. The gradient passes through the kept
    component alone.

    Args:
      latent: [..., S].

    Returns:
      [..., S] in the dtype of latent.
    """
    kept = jnp.arange(latent.shape[-1]) == jnp.argmax(latent, -1, keepdims=True)
    return jnp.where(kept, latent, 0)


def quantize(latent, bits, ste_clip: bool = False):
    """Quantises uniformly to the 2^bits levels -1 ... 1, with a straight-through gradient (Eq. 9).

        y = argmin over c in linspace(-1, 1, 2^bits) of (latent - c)^2

    Numbers beyond -1 and 1 get the outermost level. Half-way between two levels the result is the
    lower level. 0 is always half-way, because there is no level at 0.

    Args:
      latent: any shape, floating point.
      bits: n, a whole number, may be traced. The levels are 2 / (2^n - 1) apart.
      ste_clip: False: the gradient is the identity everywhere, as in the paper. True: the gradient
        is 0 where |latent| > 1.

    Returns:
      The shape and dtype of latent.
    """
    top = jnp.round(2.0**bits) - 1
    position = (jnp.clip(latent.astype(jnp.float32), -1, 1) + 1) * (top / 2)
    # ceil(p - 1/2) instead of round(p), which sends ties to even numbers, now up, now down.
    index = jnp.ceil(position - 0.5)
    level = ((2 * index - top) / top).astype(latent.dtype)
    if ste_clip:
        latent = jnp.where(jnp.abs(latent) <= 1, latent, jax.lax.stop_gradient(latent))
    return straight_through(latent, level)


def gaussian(latent, keys, snr: float, norm: str = 'eq11_consistent'):
    """Adds white Gaussian noise at a given signal-to-noise ratio (Eq. 10, 13).

        y = latent + sigma n,   n ~ N(0, 1),   sigma^2 = 10^(-snr / 10) sum latent^2 / N     per
        image

    Eq. 10 adds noise to all H W S numbers of an image, but Eq. 13 computes sigma with N = H W. By
    Eq. 11 the measured ratio is then 10 log10(S) dB too small (13.01 dB at 20 classes).

    Args:
      latent: [B, H, W, S].
      keys: [B] keys, a key per example. The noise of an image depends neither on its place
        in the batch nor on the batch size.
      snr: dB, may be traced.
      norm: 'eq11_consistent': N = H W S, so that Eq. 11 measures `snr`. 'eq13_literal': N = H W.

    Returns:
      The shape and dtype of latent. The gradient is the identity: sigma is a constant.
    """
    if norm not in SNR_NORMS:
        raise unknown_name('norm of the signal-to-noise ratio', norm, SNR_NORMS)
    _, h, w, s = latent.shape
    signal = latent.astype(jnp.float32)
    energy = jnp.sum(jax.lax.stop_gradient(signal) ** 2, (1, 2, 3), keepdims=True)
    count = h * w * (s if norm == 'eq11_consistent' else 1)
    sigma = jnp.sqrt(energy / count) * 10 ** (-snr / 20)  # [B, 1, 1, 1]
    white = jax.vmap(lambda key: jax.random.normal(key, (h, w, s), jnp.float32))(keys)
    return (signal + sigma * white).astype(latent.dtype)


def measured_snr(clean, noisy, valid=None):
    """Measures the signal-to-noise ratio of every image (Eq. 11).

        10 log10( sum clean^2 / sum (noisy - clean)^2 )     over pixels and classes

    Args:
      clean: [B, H, W, S].
      noisy: [B, H, W, S].
      valid: [B, H, W] bool, the pixels that count. None: all pixels. Invalid pixels may hold
        anything.

    Returns:
      [B] float32 in dB. +inf for equal images, NaN where no pixel counts.
    """
    clean = clean.astype(jnp.float32)
    noisy = noisy.astype(jnp.float32)
    if valid is None:
        valid = jnp.ones(clean.shape[:3], bool)

    def energy(x):
        return jnp.sum(jnp.where(valid[..., None], x, 0) ** 2, (1, 2, 3))

    signal = energy(clean)
    noise = energy(noisy - clean)
    ratio = jnp.where(noise == 0, jnp.inf, 10 * (jnp.log10(signal) - jnp.log10(noise)))
    return jnp.where(valid.any((1, 2)), ratio, jnp.nan)


class Injector(NamedTuple):
    """A kind of noise and its settings. Settings of further kinds are ignored, but checked.

    name      a name of NAMES
    bits      number of bits of the quantiser
    snr       signal-to-noise ratio of the Gaussian noise, dB
    snr_norm  normalisation of the Gaussian noise, see `gaussian`
    ste_clip  whether the quantiser's gradient is clipped, see `quantize`
    """

    name: str
    bits: int = 2
    snr: float = 7.38
    snr_norm: str = 'eq11_consistent'
    ste_clip: bool = False


def check_injector(injector: Injector, where: str) -> None:
    """Raises InputError unless `inject` can use the injector.

    Args:
      injector: any values.
      where: config key that the error names.
    """
    if injector.name not in NAMES:
        raise unknown_name(where, injector.name, NAMES)
    if not isinstance(injector.bits, int) or not 1 <= injector.bits <= MAX_BITS:
        raise InputError(
            f'{where}: bits',
            got=repr(injector.bits),
            expected=f'a whole number from 1 to {MAX_BITS}: the quantiser has 2^bits levels',
        )
    if not math.isfinite(injector.snr):
        raise InputError(
            f'{where}: snr',
            got=repr(injector.snr),
            expected='a finite number of dB',
            fix="'none' injects no noise",
        )
    if injector.snr_norm not in SNR_NORMS:
        raise unknown_name(f'{where}: snr_norm', injector.snr_norm, SNR_NORMS)


def inject(injector: Injector, latent, keys):
    """Returns the noisy latent.

    Args:
      injector: its bits and snr may be traced, so that a single compiled program serves all values.
      latent: [B, H, W, S].
      keys: [B] keys, a key per example. Only 'gaussian' uses them.

    Returns:
      The shape and dtype of latent.
    """
    match injector.name:
        case 'none':
            return latent
        case 'max_only':
            return max_only(latent)
        case 'quantize':
            return quantize(latent, injector.bits, injector.ste_clip)
        case 'gaussian':
            return gaussian(latent, keys, injector.snr, injector.snr_norm)
    raise unknown_name('noise', injector.name, NAMES)


def label(injector: Injector) -> str:
    """Returns a short name for stages, folders and legends.

    Examples: 'none', 'max_only', 'quantize_2bit', 'gaussian_7.38dB'.
    """
    match injector.name:
        case 'quantize':
            return f'quantize_{injector.bits}bit'
        case 'gaussian':
            return f'gaussian_{injector.snr:g}dB'
    return injector.name


def parse(text: str, where: str, **defaults) -> Injector:
    """Reads 'none', 'max_only', 'quantize:2' (bits) or 'gaussian:7.38' (dB).

    Args:
      text: a name, and after a colon its number. Without a number the default counts.
      where: config key that errors name.
      **defaults: fields of Injector that differ from its defaults.

    Raises:
      InputError: the name is unknown, the number cannot be read, or `check_injector` refuses it.
    """
    name, colon, number = text.partition(':')
    if name in NAMES and colon:
        if name not in _NUMBERS:
            raise InputError(where, got=repr(text), expected=f'{name!r} alone: it takes no number')
        field, read, expected = _NUMBERS[name]
        try:
            defaults[field] = read(number)
        except ValueError:
            raise InputError(where, got=repr(text), expected=expected) from None
    injector = Injector(name, **defaults)
    check_injector(injector, where)
    return injector
