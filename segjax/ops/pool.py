"""Pooling over [B, H, W, C]."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError, unknown_name
from segjax.ops.conv import FORMS


def max_pool_2x2(x, forms: str = 'fast'):
    """Maximum of every 2x2 window, stride 2: [B, H, W, C] -> [B, H / 2, W / 2, C]. NaN wins.

    Where several pixels of a window are equally large (after a ReLU, often all four are 0), the gradient goes to the
    first of them in row-major order, in both forms and as in torch. `jnp.max` would divide it among them.

    Args:
      x: [B, H, W, C] floating point, H and W even.
      forms: 'fast' compares pixels pairwise, so the gradient is three selections; 'naive' is `lax.reduce_window`, whose
        gradient (select-and-scatter) is many times slower on a CPU.
    """
    if forms not in FORMS:
        raise unknown_name('forms', forms, FORMS)
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise InputError(
            'max_pool_2x2', got=f'height {h}, width {w}', expected='even sizes', fix='pad or crop the input'
        )
    if forms == 'naive':
        # Only a concrete -inf makes this the max pooling that JAX can differentiate: NumPy's, not a traced one.
        return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')
    window = x.reshape(b, h // 2, 2, w // 2, 2, c)
    top = _first_larger(window[:, :, 0, :, 0], window[:, :, 0, :, 1])
    bottom = _first_larger(window[:, :, 1, :, 0], window[:, :, 1, :, 1])
    return _first_larger(top, bottom)


def _first_larger(a, b):
    # Not jnp.maximum, which gives each of two equal arguments half of the gradient.
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
