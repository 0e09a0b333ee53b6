"""PSNR against loops and literal values."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.metrics import image

RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(-1, 1, (3, 5, 6, 3)).astype(np.float32)
OTHER = np.clip(
    TRUTH + RNG.normal(0, [[[[0.1]]], [[[0.01]]], [[[0.5]]]], TRUTH.shape), -1, 1
).astype(np.float32)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('peak', [1.0, 2.0])
def test_is_the_loop(peak, masked):
    valid = RNG.random(TRUTH.shape[:3]) < 0.6
    expected = []
    for b in range(3):
        squares = []
        for i, j, c in np.ndindex(5, 6, 3):
            if valid[b, i, j] or not masked:
                squares.append((float(TRUTH[b, i, j, c]) - float(OTHER[b, i, j, c])) ** 2)
        expected.append(10 * np.log10(peak**2 / (sum(squares) / len(squares))))
    got = image.psnr(TRUTH, OTHER, peak, valid if masked else None)
    chex.assert_type(got, jnp.float32)
    chex.assert_shape(got, (3,))
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_range_and_peak_belong_together():
    # scikit-image: 10 log10(data_range^2 / mse). An image has the same PSNR in [-1, 1], in [0, 1]
    # and in 0 .. 255.
    unit = (TRUTH + 1) / 2
    other = (OTHER + 1) / 2
    expected = [
        10 * np.log10(1.0**2 / np.mean((unit[b] - other[b]) ** 2, dtype=np.float64))
        for b in range(3)
    ]
    np.testing.assert_allclose(image.psnr(TRUTH, OTHER), expected, atol=1e-3)
    np.testing.assert_allclose(image.psnr(unit, other, 1.0), expected, atol=1e-3)
    np.testing.assert_allclose(image.psnr(255 * unit, 255 * other, 255.0), expected, atol=1e-3)


def test_uint8_does_not_wrap():
    truth = np.full((1, 2, 2, 3), 10, np.uint8)
    other = truth + np.uint8(20)
    for pair in ((truth, other), (other, truth)):
        np.testing.assert_allclose(
            image.psnr(*pair, peak=255.0), 10 * np.log10(255**2 / 400), rtol=1e-6
        )


def test_ends():
    valid = np.ones((3, 5, 6), bool)
    valid[1, 0, 0], valid[2] = False, False
    other = TRUTH.copy()
    other[1, 0, 0] = np.nan  # in a pixel that does not count
    got = image.psnr(TRUTH, other, valid=valid)
    assert got[0] == np.inf and got[1] == np.inf and np.isnan(got[2])
    assert np.isnan(image.psnr(TRUTH, other)[1])  # a NaN that counts is not hidden
