"""Defences of a net that can only be queried: functions from its posteriors to posteriors.

A defence hides how sure the net is, because a net is surer of its training images. Posteriors are
[B, H, W, C], sum to 1 over C, and are returned in float32. A temperature and the k largest
posteriors are additions to the defences of the thesis. Drop-out in the test is no function of
posteriors: the net itself applies its drop-out layer.

Sources: He, thesis Sec. 7.3 and 7.4.2; He, Rahimian, Schiele, Fritz: Segmentations-Leak, ECCV 2020.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from segjax.errors import InputError, unknown_name

READINGS = {
    # name: smallest posterior before the normalisation
    'predicted_label': 1e-4,
    'all_classes': 1e-6,
}
"""Names the readings of the Gaussian defence, see `gaussian`."""

_SMALLEST = np.finfo(np.float32).tiny

# Odd numbers of a well-known integer hash (the finaliser of MurmurHash3).
_FIRST_FACTOR = np.uint32(0x85EBCA6B)
_SECOND_FACTOR = np.uint32(0xC2B2AE35)


def argmax(posteriors):
    """Returns 1 for the predicted label of each pixel, and 0 for all further classes.

    Of equal posteriors the first is the label.
    """
    label = jnp.argmax(posteriors, -1)
    return jax.nn.one_hot(label, posteriors.shape[-1], dtype=jnp.float32)


def gaussian(posteriors, keys, strength, reading: str = 'predicted_label'):
    """Adds Gaussian noise, bounds the posteriors from below, and divides by their sum.

        predicted_label: n ~ N(0, strength) on the posterior of the predicted label, floor 1e-4
        all_classes:     n ~ N(0, strength^2) on all posteriors, floor 1e-6

    `strength` is a variance in the first reading, that of the thesis, which prints 0.5 and 1.0. It
    is a standard deviation in the second reading, that of the authors' code. The floor bounds all
    posteriors in both.

    Args:
      posteriors: [B, H, W, C].
      keys: [B] keys, from `image_keys`. With new keys for every query, an attacker could average
        the noise out.
      strength: not negative, may be traced.
      reading: a name of READINGS.

    Raises:
      InputError: an unknown reading, or a negative strength.
    """
    if reading not in READINGS:
        raise unknown_name('gaussian: reading', reading, READINGS)
    _check_number('gaussian: strength', strength, lambda s: s >= 0, 'a number >= 0')
    posteriors = posteriors.astype(jnp.float32)
    height, width, num_classes = posteriors.shape[1:]
    if reading == 'predicted_label':
        noise = jax.vmap(lambda key: jax.random.normal(key, (height, width, 1)))(keys)
        noise = jnp.sqrt(strength) * noise * argmax(posteriors)
    else:
        noise = jax.vmap(lambda key: jax.random.normal(key, (height, width, num_classes)))(keys)
        noise = strength * noise
    return _normalised(jnp.maximum(posteriors + noise, READINGS[reading]))


def temperature(posteriors, degree):
    """Flattens the posteriors of a softmax by a temperature.

        q_c = p_c^(1 / degree) / sum_k p_k^(1 / degree)

    This is softmax(logits / degree). 1 changes nothing, and larger degrees are flatter. A posterior
    of 0 counts as 1.2e-38.

    Args:
      posteriors: [..., C].
      degree: positive, may be traced.

    Raises:
      InputError: a degree that is not positive.
    """
    _check_number('temperature: degree', degree, lambda d: d > 0, 'a number > 0')
    logits = jnp.log(jnp.maximum(posteriors.astype(jnp.float32), _SMALLEST))
    return jax.nn.softmax(logits / degree, axis=-1)


def top_k(posteriors, k: int):
    """Keeps the k largest posteriors of each pixel, and divides them by their sum.

    Of equal posteriors the first classes are kept.

    Args:
      posteriors: [..., C].
      k: 1 .. C.

    Raises:
      InputError: k is not in 1 .. C.
    """
    num_classes = posteriors.shape[-1]
    if not 1 <= k <= num_classes:
        raise InputError('top_k', got=f'k = {k}', expected=f'1 .. {num_classes}, the classes')
    posteriors = posteriors.astype(jnp.float32)
    values, classes = jax.lax.top_k(posteriors, k)
    kept = jax.nn.one_hot(classes, num_classes, dtype=jnp.float32).sum(-2)  # from [..., k, C]
    return kept * posteriors / values.sum(-1, keepdims=True)


def obfuscate(real, synthetic, factor):
    """Mixes the posteriors of real and of synthetic features (Eq. 7.1).

        M ((1 - factor) real + factor synthetic) + (1 - M) synthetic

    M is 1 where the two label a pixel differently. Elsewhere the synthetic posteriors are taken
    whole. So a factor of 0 keeps all labels of the real features, but not their posteriors.

    Args:
      real: [..., C] posteriors D(E(x)) of the features of the image.
      synthetic: [..., C] posteriors D(G(D(E(x)))) of features drawn for the predicted labels. The
        code of the generator must be drawn from a key of `image_keys`.
      factor: d in [0, 1], may be traced. The thesis uses 0.75 and 0.95.

    Raises:
      InputError: a factor outside [0, 1], or different shapes.
    """
    _check_number('obfuscate: factor', factor, lambda d: 0 <= d <= 1, 'a number from 0 to 1')
    if real.shape != synthetic.shape:
        raise InputError(
            'obfuscate',
            got=f'real {list(real.shape)} and synthetic {list(synthetic.shape)}',
            expected='posteriors of equal shape',
        )
    real = real.astype(jnp.float32)
    synthetic = synthetic.astype(jnp.float32)
    differs = jnp.argmax(real, -1) != jnp.argmax(synthetic, -1)
    mixed = (1 - factor) * real + factor * synthetic
    return jnp.where(differs[..., None], mixed, synthetic)


# --- keys of images -------------------------------------------------------------------------------


def image_keys(key, image, size=None):
    """Returns a key for each image that depends on its pixels alone.

    A repeated query has the same key, in any batch and on any device. An image that differs in a
    pixel has another key. So an attacker who changes a pixel slightly sees new noise.

    Args:
      key: secret of the defence.
      image: [B, H, W, 3] uint8.
      size: [B, 2] height and width of the part without padding. None: everything. Padding does not
        change the key.

    Returns:
      [B] keys.

    Raises:
      InputError: no key, or no such images.
    """
    _check_key(key)
    first = image_hash(image, size, salt=1)
    second = image_hash(image, size, salt=2)

    def fold(low, high):
        return jax.random.fold_in(jax.random.fold_in(key, low), high)

    return jax.vmap(fold)(first, second)


def image_hash(image, size, salt: int):
    """Computes 32 bits of the pixels of each image.

        hash = mix( height 2^16 + width + sum_p mix( mix( place_p + mix(salt) ) ^ colour_p ) )

    place_p = row 2^16 + column, colour_p = red 2^16 + green 2^8 + blue, and mix is a bijection of
    32-bit numbers. Sums are modulo 2^32, so their order does not matter.

    Args:
      image: [B, H, W, 3] uint8, at most 65536 pixels high and wide.
      size: [B, 2], as in `image_keys`, or None.
      salt: different salts give independent hashes.

    Returns:
      [B] uint32.

    Raises:
      InputError: another shape or type.
    """
    if image.ndim != 4 or image.shape[-1] != 3 or image.dtype != jnp.uint8:
        raise InputError(
            'hash of an image',
            got=f'{image.dtype} {list(image.shape)}',
            expected='uint8 [B, H, W, 3]',
        )
    batch, height, width, _ = image.shape
    if size is None:
        size = jnp.broadcast_to(jnp.array([height, width]), (batch, 2))
    sides = size.astype(jnp.uint32)

    # Each pixel has a number of its place, and a number of its colour.
    rows = jnp.arange(height, dtype=jnp.uint32)[:, None]
    columns = jnp.arange(width, dtype=jnp.uint32)
    place = _mix((rows << 16) + columns + _mix(jnp.uint32(salt)))  # [H, W]
    red, green, blue = jnp.moveaxis(image.astype(jnp.uint32), -1, 0)
    colour = (red << 16) + (green << 8) + blue  # [B, H, W]

    inside = (rows < sides[:, :1, None]) & (columns < sides[:, 1:, None])  # [B, H, W]
    mixed = jnp.where(inside, _mix(place ^ colour), 0)
    total = mixed.sum((1, 2), dtype=jnp.uint32)
    return _mix((sides[:, 0] << 16) + sides[:, 1] + total)


def _mix(x):
    """Mixes the bits of uint32 numbers, by a bijection (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * _FIRST_FACTOR
    x = (x ^ (x >> 13)) * _SECOND_FACTOR
    return x ^ (x >> 16)


# --- parts ----------------------------------------------------------------------------------------


def _normalised(values):
    """Divides values [..., C] by their sum."""
    return values / values.sum(-1, keepdims=True)


def _check_key(key) -> None:
    """Raises InputError for a value that is no single key, such as a seed."""
    try:
        jax.eval_shape(jax.random.fold_in, key, 0)
    except (TypeError, ValueError) as error:
        raise InputError(
            'image_keys: key',
            got=f'{key!r:.80}',
            expected='a single key',
            fix=f'jax.random.key({key if isinstance(key, int) else 0})',
        ) from error


def _check_number(where: str, value, is_valid: Callable, expected: str) -> None:
    """Raises InputError for a wrong number. Traced numbers cannot be checked."""
    if isinstance(value, int | float) and not is_valid(value):
        raise InputError(where, got=f'{value}', expected=expected)
