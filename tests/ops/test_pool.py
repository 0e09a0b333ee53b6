"""Pooling against loops. The gradient of a maximum goes to a single pixel of each window."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.ops.conv import FORMS
from segjax.ops.pool import adaptive_average_pool, average_pool, max_pool, max_pool_2x2


def pooled_and_gradient(x, dy, forms):
    y, vjp = jax.vjp(lambda x: max_pool_2x2(x, forms), x)
    return np.asarray(y), np.asarray(vjp(dy)[0])


def loop(x, dy):
    """Scans in row-major order. The first of equal pixels wins, as in torch."""
    y = np.zeros(dy.shape, x.dtype)
    dx = np.zeros_like(x)
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
    chex.assert_type(y, jnp.bfloat16)
    assert y[0, 0, 0, 0] == -1


def test_bad_input():
    with pytest.raises(InputError, match='height 5, width 4'):
        max_pool_2x2(np.zeros((1, 5, 4, 1), np.float32))
    with pytest.raises(InputError, match="did you mean 'naive'"):
        max_pool_2x2(np.zeros((1, 4, 4, 1), np.float32), 'naiv')


def max_pool_loop(x, dy, window, strides, padding):
    """Scans each window inside the image in row-major order. The output has the size of dy."""
    y = np.zeros(dy.shape, x.dtype)
    dx = np.zeros_like(x)
    for b, i, j, c in np.ndindex(*dy.shape):
        best, place = -np.inf, None
        for r in range(i * strides - padding, i * strides - padding + window):
            for s in range(j * strides - padding, j * strides - padding + window):
                if 0 <= r < x.shape[1] and 0 <= s < x.shape[2] and x[b, r, s, c] > best:
                    best = x[b, r, s, c]
                    place = (r, s)
        y[b, i, j, c] = best
        dx[b, *place, c] += dy[b, i, j, c]
    return y, dx


POOLS = [  # window, strides, padding, ceil, image, output
    (3, 2, 1, False, (8, 9), (4, 5)),  # a ResNet's stem
    (3, 2, 1, True, (8, 9), (5, 5)),  # the same in Caffe
    (3, 1, 1, False, (5, 4), (5, 4)),  # DeepLab's last pools
    (2, 2, 0, False, (7, 6), (3, 3)),
    (2, 2, 0, True, (7, 6), (4, 3)),  # FCN
    (2, 3, 1, True, (6, 7), (3, 3)),  # a third window over 7 + 2 pixels would see padding alone
]


@pytest.mark.parametrize('window, strides, padding, ceil, image, output', POOLS)
@pytest.mark.parametrize('forms', FORMS)
def test_max_pool_and_its_gradient_are_the_loop(
    window, strides, padding, ceil, image, output, forms
):
    rng = np.random.default_rng(0)
    x = rng.integers(-4, -1, (2, *image, 3)).astype(
        np.float32
    )  # ties, and all below a padding of 0
    y, vjp = jax.vjp(lambda x: max_pool(x, window, strides, padding, ceil, forms), x)
    chex.assert_shape(y, (2, *output, 3))
    dy = rng.integers(1, 9, y.shape).astype(np.float32)
    expected = max_pool_loop(x, dy, window, strides, padding)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(vjp(dy)[0], expected[1])


@pytest.mark.parametrize('forms', FORMS)
def test_max_pool_keeps_nan_and_bfloat16(forms):
    x = -jnp.ones((1, 5, 5, 1), jnp.bfloat16).at[0, 2, 2, 0].set(jnp.nan)
    y = max_pool(x, 3, 2, 1, forms=forms)[0, :, :, 0]
    chex.assert_type(y, jnp.bfloat16)
    np.testing.assert_array_equal(np.isnan(y.astype(np.float32)), [[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert float(y[0, 0]) == -1


@pytest.mark.parametrize(
    'size, bins',
    [((6, 9), 3), ((7, 5), 3), ((71, 10), 6), ((4, 4), 1), ((2, 3), 6), ((7, 9), (2, 4))],
)
def test_adaptive_average_pool_is_the_loop(size, bins):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    cells = (bins, bins) if isinstance(bins, int) else bins
    expected = np.zeros((2, *cells, 3))
    for i, j in np.ndindex(*cells):
        (top, bottom), (left, right) = (
            (int(np.floor(k * n / count)), int(np.ceil((k + 1) * n / count)))
            for k, n, count in zip((i, j), size, cells)
        )
        expected[:, i, j] = x[:, top:bottom, left:right].mean((1, 2))
    np.testing.assert_allclose(adaptive_average_pool(x, bins), expected, atol=1e-5)


def test_adaptive_average_pool_takes_means_of_bfloat16_in_float32():
    x = jnp.ones((1, 40, 40, 1), jnp.bfloat16)  # a sum kept in bfloat16 stops at 256
    y = adaptive_average_pool(x, 1)
    chex.assert_type(y, jnp.bfloat16)
    assert float(y[0, 0, 0, 0]) == 1


@pytest.mark.parametrize('size, window, padding', [(8, 3, 2), (2, 3, 0)])
def test_impossible_pools_are_explained(size, window, padding):
    with pytest.raises(InputError, match='at most half a window'):
        max_pool(np.zeros((1, size, 8, 1), np.float32), window, 2, padding)
    with pytest.raises(InputError, match="did you mean 'naive'"):
        max_pool(np.zeros((1, 8, 8, 1), np.float32), 3, 2, forms='naiv')


# --- averages -------------------------------------------------------------------------------------


@pytest.mark.parametrize('height, width', [(8, 6), (7, 9), (2, 3)])
@pytest.mark.parametrize('window, strides, padding', [(3, 2, 1), (3, 1, 1), (2, 2, 0)])
def test_average_pool_divides_by_the_pixels_inside(height, width, window, strides, padding):
    x = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)
    y = average_pool(x, window, strides, padding)
    rows = range(-padding, height + padding - window + 1, strides)
    columns = range(-padding, width + padding - window + 1, strides)
    chex.assert_shape(y, (2, len(rows), len(columns), 3))
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            pixels = x[:, max(top, 0) : top + window, max(left, 0) : left + window]
            np.testing.assert_allclose(y[:, i, j], pixels.mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('window, strides, padding', [(2, 2, 0), (3, 2, 1), (3, 2, 0)])
@pytest.mark.parametrize('size', [4, 5, 6, 7])
def test_average_pool_rounds_up_as_max_pool(size, window, strides, padding):
    x = np.random.default_rng(0).standard_normal((2, size, 6, 3)).astype(np.float32)
    y = average_pool(x, window, strides, padding, ceil=True)
    assert y.shape == max_pool(x, window, strides, padding, ceil=True).shape
    for i in range(y.shape[1]):
        top = i * strides - padding
        for j in range(y.shape[2]):
            left = j * strides - padding
            pixels = x[:, max(top, 0) : top + window, max(left, 0) : left + window]
            np.testing.assert_allclose(y[:, i, j], pixels.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_average_pool_is_linear_and_sums_in_float32():
    x = np.random.default_rng(0).standard_normal((1, 7, 6, 2)).astype(np.float32)
    dy = np.random.default_rng(1).standard_normal((1, 4, 3, 2)).astype(np.float32)
    y, vjp = jax.vjp(lambda x: average_pool(x, 3, 2, 1), x)
    np.testing.assert_allclose((vjp(dy)[0] * x).sum(), (y * dy).sum(), rtol=1e-5)
    # Nine numbers in bfloat16, whose sum has more digits than bfloat16.
    x = jnp.full((1, 3, 3, 1), 257, jnp.bfloat16)
    y = average_pool(x, 3, 1, 0)
    chex.assert_type(y, jnp.bfloat16)
    assert y[0, 0, 0, 0] == x[0, 0, 0, 0]


def test_average_pool_refuses_windows_outside_the_image():
    with pytest.raises(InputError, match='at most half a window'):
        average_pool(np.zeros((1, 8, 8, 1), np.float32), 3, 2, 2)
