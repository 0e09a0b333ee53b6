"""PSNR and SSIM against loops, filters of SciPy and literal values."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.errors import InputError
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


# --- SSIM -----------------------------------------------------------------------------------------


def pictures(shape=(2, 24, 31, 3), noise=0.1):
    rng = np.random.default_rng(1)
    truth = ndimage.gaussian_filter(rng.random(shape), (0, 2, 2, 0))
    return truth, np.clip(truth + rng.normal(0, noise, shape), 0, 1)


def by_scipy(x, y, peak):
    """Returns the map of the similarities of two gray images [H, W], as scikit-image filters it."""

    def mean(values):
        return ndimage.gaussian_filter(values, 1.5, truncate=3.5)[5:-5, 5:-5]

    variance_x = mean(x * x) - mean(x) ** 2
    variance_y = mean(y * y) - mean(y) ** 2
    covariance = mean(x * y) - mean(x) * mean(y)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * mean(x) * mean(y) + c1) / (mean(x) ** 2 + mean(y) ** 2 + c1)
    return luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)


@pytest.mark.parametrize('peak', [1.0, 255.0])
def test_ssim_is_the_mean_over_windows(peak):
    truth, other = (peak * picture for picture in pictures())
    gray = np.array([0.299, 0.587, 0.114])
    expected = [by_scipy(x @ gray, y @ gray, peak).mean() for x, y in zip(truth, other)]
    got = image.ssim(jnp.asarray(truth), jnp.asarray(other), peak)
    chex.assert_type(got, jnp.float32)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert 0.1 < float(got[0]) < 0.9


def test_ssim_counts_windows_by_their_pixels_and_by_their_centres():
    truth, other = pictures()
    gray = np.array([0.299, 0.587, 0.114])
    similarity = by_scipy(truth[0] @ gray, other[0] @ gray, 1.0)
    # Of 24 rows the last 4 are padding, so the windows of rows 0 .. 9 remain.
    valid = np.zeros((2, 24, 31), bool)
    valid[:, :20] = True
    region = np.zeros((2, 24, 31), bool)
    region[0, 7:12, 9:20] = True
    broken = other.copy()
    broken[:, 20:] = np.nan
    whole = image.ssim(truth, broken, valid=valid)
    np.testing.assert_allclose(whole[0], similarity[:10].mean(), atol=1e-4)
    inside = image.ssim(truth, broken, valid=valid, region=region)
    np.testing.assert_allclose(inside[0], similarity[2:7, 4:15].mean(), atol=1e-4)
    assert np.isnan(inside[1])


def test_ssim_of_equal_images_is_1_and_small_images_are_refused():
    truth, _ = pictures()
    np.testing.assert_allclose(image.ssim(truth, truth), 1, atol=1e-5)
    with pytest.raises(InputError, match='at least 11 pixels'):
        image.ssim(truth[:, :10], truth[:, :10])
