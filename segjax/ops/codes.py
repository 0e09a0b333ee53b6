"""Latent codes that select the features of a net: channel-wise drop-out with fixed patterns.

A code holds a number between 0 and 1 for each channel. Features whose number exceeds the ratio are
kept. Equal codes keep equal features, so a code stands for a sample of a generator.

Sources: He, thesis chapter 5, which numbers the equations; He, Schiele, Fritz: Diverse Conditional
Image Generation by Stochastic Regression with Latent Drop-Out Codes, ECCV 2018.
"""

import jax
import jax.numpy as jnp

from segjax.errors import InputError


def draw(key, num: int, shape: tuple[int, ...]):
    """Draws codes from U(0, 1), without 0 and 1 (Eq. 5.2).

    Args:
      key: a single key.
      num: number of codes.
      shape: of a code, e.g. (C,).

    Returns:
      [num, *shape] float32.
    """
    # The smallest number of `uniform` is 0, which a ratio of 0 would drop.
    smallest = jnp.finfo(jnp.float32).tiny
    return jax.random.uniform(key, (num, *shape), jnp.float32, minval=smallest)


def keep(code, ratio: float):
    """Returns d(z) = (z > r), whether each feature is kept (Eq. 5.2).

    Args:
      code: z, [...] in [0, 1].
      ratio: r in [0, 1), the expected share of dropped features.

    Returns:
      [...] bool.

    Raises:
      InputError: the ratio is outside of [0, 1).
    """
    if not 0 <= ratio < 1:
        raise InputError(
            'drop-out codes: ratio',
            got=str(ratio),
            expected='a number from 0 up to, but not including, 1',
        )
    return code > ratio


def drop(features, code, ratio: float):
    """Drops the features that a code does not keep, and enlarges all kept features (Eq. 5.2).

        O(c, h, w) = I(c, h, w) d(z_c) / (1 - r)

    The mean over random codes is the input. Dropped features are 0 even where the input is not
    finite, and they get no gradient.

    Args:
      features: I, [..., H, W, C] floating point.
      code: z, [..., C], a number for each channel. Whole channels are dropped. Or [..., H, W, C],
        a number for each feature, as in classic drop-out. Its leading axes broadcast with the
        leading axes of the features.
      ratio: r in [0, 1).

    Returns:
      [..., H, W, C] in the dtype of the features.

    Raises:
      InputError: the code fits neither form, or the ratio is outside of [0, 1).
    """
    kept = keep(code, ratio)
    if code.ndim == features.ndim - 2:
        kept = kept[..., None, None, :]
    last = features.shape[-3:]
    channel_wise = (1, 1, last[-1])
    if kept.ndim != features.ndim or kept.shape[-3:] not in (last, channel_wise):
        raise InputError(
            'drop-out codes',
            got=f'codes of shape {code.shape} for features of shape {features.shape}',
            expected='codes [..., C] or [..., H, W, C] for features [..., H, W, C]',
        )
    return jnp.where(kept, jnp.divide(features, 1 - ratio), 0)


def interpolate(first, second, share):
    """Mixes two codes, a z_i + (1 - a) z_j (Eq. 5.3).

    The mixed code is not uniform. A share of 1/2 makes numbers near 1/2 more frequent.

    Args:
      first: z_i, [...].
      second: z_j, in the shape of `first`.
      share: a in [0, 1], a number or an array that broadcasts.

    Returns:
      [...]. Exactly `first` for share 1, and `second` for share 0.
    """
    return share * first + (1 - share) * second
