"""Max pooling against a loop; its gradient goes to exactly one pixel of each window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.ops.conv import FORMS
from segjax.ops.pool import max_pool_2x2


def pooled_and_gradient(x, dy, forms):
    y, vjp = jax.vjp(lambda x: max_pool_2x2(x, forms), x)
    return np.asarray(y), np.asarray(vjp(dy)[0])


def loop(x, dy):
    """Row-major scan with a strict comparison: the first of equal pixels wins, as in torch."""
    y, dx = np.zeros(dy.shape, x.dtype), np.zeros_like(x)
    for b, i, j, c in np.ndindex(*dy.shape):
        window = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        r, s = np.unravel_index(np.argmax(window), (2, 2))
        y[b, i, j, c] = window[r, s]
        dx[b, 2 * i + r, 2 * j + s, c] += dy[b, i, j, c]
    return y, dx


@pytest.mark.parametrize('forms', FORMS)
def test_ties_send_the_gradient_to_the_first_pixel(forms):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, 8, 6, 5)).astype(np.float32)  # most windows hold a tie
    dy = rng.standard_normal((2, 4, 3, 5)).astype(np.float32)
    for got, expected in zip(pooled_and_gradient(x, dy, forms), loop(x, dy), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('position', [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize('forms', FORMS)
def test_nan_is_not_lost(forms, position):
    x = np.ones((1, 2, 2, 1), np.float32)
    x[0, *position, 0] = np.nan
    assert np.isnan(max_pool_2x2(x, forms)[0, 0, 0, 0])


@pytest.mark.parametrize('forms', FORMS)
def test_negative_bfloat16(forms):
    x = -jnp.ones((1, 2, 2, 1), jnp.bfloat16)
    y = max_pool_2x2(x, forms)
    assert y.dtype == jnp.bfloat16 and y[0, 0, 0, 0] == -1


def test_bad_input():
    with pytest.raises(InputError, match='height 5, width 4'):
        max_pool_2x2(np.zeros((1, 5, 4, 1), np.float32))
    with pytest.raises(InputError, match="did you mean 'naive'"):
        max_pool_2x2(np.zeros((1, 4, 4, 1), np.float32), 'naiv')
