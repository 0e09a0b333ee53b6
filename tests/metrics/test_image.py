"""PSNR, RMSE, SSIM and FSIM against loops, filters of SciPy, scikit-image and literal values."""

import chex
import jax
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


# --- RMSE -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('masked', [False, True])
def test_rmse_is_the_loop(masked):
    valid = RNG.random(TRUTH.shape[:3]) < 0.6
    expected = []
    for b in range(3):
        squares = []
        for i, j, c in np.ndindex(5, 6, 3):
            if valid[b, i, j] or not masked:
                squares.append((float(TRUTH[b, i, j, c]) - float(OTHER[b, i, j, c])) ** 2)
        expected.append(np.sqrt(sum(squares) / len(squares)))
    got = image.rmse(TRUTH, OTHER, valid if masked else None)
    chex.assert_type(got, jnp.float32)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_rmse_has_the_unit_of_the_images_and_uint8_does_not_wrap():
    truth = np.full((1, 2, 2, 3), 10, np.uint8)
    other = truth + np.uint8(20)
    assert float(image.rmse(truth, other)[0]) == float(image.rmse(other, truth)[0]) == 20
    np.testing.assert_allclose(image.rmse(truth / 255, other / 255), 20 / 255, rtol=1e-5)
    assert float(image.rmse(truth, truth)[0]) == 0
    assert np.isnan(image.rmse(truth, other, np.zeros((1, 2, 2), bool))[0])


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


def faces(real_data, count=3, size=96):
    """Returns uint8 [count, size, size, 3] of real photographs."""
    cv2 = pytest.importorskip('cv2')
    folder = real_data / 'faces_68/image'
    if not folder.is_dir():
        pytest.skip(f'no {folder}')
    paths = sorted(folder.glob('*.jpg'))[:count]
    photographs = [cv2.imread(str(path))[..., ::-1] for path in paths]
    shrunk = [cv2.resize(photograph, (size, size)) for photograph in photographs]
    return np.stack(shrunk)


def test_ssim_of_photographs_equals_scikit_image(real_data):
    reference = pytest.importorskip('skimage.metrics').structural_similarity
    truth = faces(real_data)[:, :90]
    rng = np.random.default_rng(2)
    other = np.clip(truth + rng.normal(0, 20, truth.shape), 0, 255).astype(np.uint8)
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    gray = np.array([0.299, 0.587, 0.114])
    expected = [
        reference(x @ gray, y @ gray, data_range=255.0, **settings) for x, y in zip(truth, other)
    ]
    np.testing.assert_allclose(image.ssim(truth, other, 255.0), expected, atol=1e-5)


# --- FSIM -----------------------------------------------------------------------------------------


def congruency_by_loops(gray):
    """Returns the phase congruency of a brightness [H, W], filter by filter, in float64."""
    sides = []
    for size in gray.shape:
        if size % 2:
            side = np.arange(-(size - 1) / 2, (size + 1) / 2) / (size - 1)
        else:
            side = np.arange(-size // 2, size // 2) / size
        sides.append(side)
    y, x = np.meshgrid(*sides, indexing='ij')
    radius = np.fft.ifftshift(np.sqrt(x**2 + y**2))
    theta = np.fft.ifftshift(np.arctan2(-y, x))
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1
    energy = np.zeros(gray.shape)
    amplitude = np.zeros(gray.shape)
    for orientation in range(4):
        angle = orientation * np.pi / 4
        sine = np.sin(theta) * np.cos(angle) - np.cos(theta) * np.sin(angle)
        cosine = np.cos(theta) * np.cos(angle) + np.sin(theta) * np.sin(angle)
        distance = np.abs(np.arctan2(sine, cosine))
        angular = np.exp(-(distance**2) / (2 * (np.pi / 4 / 1.2) ** 2))
        responses, kernels = [], []
        for scale in range(4):
            wavelength = 6 * 2**scale
            transfer = np.exp(-(np.log(radius * wavelength) ** 2) / (2 * np.log(0.55) ** 2))
            transfer = transfer * low_pass
            transfer[0, 0] = 0
            transfer = transfer * angular
            responses.append(np.fft.ifft2(np.fft.fft2(gray) * transfer))
            kernels.append(np.fft.ifft2(transfer).real * np.sqrt(gray.size))
            if scale == 0:
                filter_energy = (transfer**2).sum()

        even = sum(response.real for response in responses)
        odd = sum(response.imag for response in responses)
        length = np.sqrt(even**2 + odd**2) + 1e-4
        even, odd = even / length, odd / length
        in_phase = np.zeros(gray.shape)
        for response in responses:
            in_phase += response.real * even + response.imag * odd
            in_phase -= np.abs(response.real * odd - response.imag * even)
            amplitude += np.abs(response)

        power = np.median(np.abs(responses[0]) ** 2) / np.log(2) / filter_energy
        squares = sum((kernel**2).sum() for kernel in kernels)
        products = sum((kernels[i] * kernels[j]).sum() for i in range(4) for j in range(i + 1, 4))
        tau = np.sqrt((2 * power * squares + 4 * power * products) / 2)
        threshold = tau * np.sqrt(np.pi / 2) + 2 * np.sqrt((2 - np.pi / 2) * tau**2)
        energy += np.maximum(in_phase - threshold / 1.7, 0)
    return energy / amplitude


def fsim_by_loops(truth, other, colours):
    """Returns the FSIM or FSIMc of two images [H, W, 3] in 0 .. 255, in float64."""
    matrix = np.array(
        [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
    )
    factor = max(1, round(min(truth.shape[:2]) / 256))
    maps = []
    for rgb in (truth, other):
        height, width = (side // factor for side in rgb.shape[:2])
        blocks = rgb[: height * factor, : width * factor].astype(np.float64)
        blocks = blocks.reshape(height, factor, width, factor, 3).mean((1, 3))
        yiq = blocks @ matrix.T
        kernel = np.array([[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]]) / 16
        sides = [
            ndimage.convolve(yiq[..., 0], kernel, mode='constant'),
            ndimage.convolve(yiq[..., 0], kernel.T, mode='constant'),
        ]
        maps.append((congruency_by_loops(yiq[..., 0]), np.hypot(*sides), yiq[..., 1], yiq[..., 2]))
    constants = (0.85, 160, 200, 200)
    similarities = [
        (2 * x * y + constant) / (x**2 + y**2 + constant)
        for x, y, constant in zip(*maps, constants)
    ]
    score = similarities[0] * similarities[1]
    if colours:
        score = score * np.real((similarities[2] * similarities[3]).astype(complex) ** 0.03)
    weight = np.maximum(maps[0][0], maps[1][0])
    return (score * weight).sum() / weight.sum()


def waves(height, width):
    """Returns two images [1, height, width, 3] in 0 .. 255 with rings, stripes and squares."""
    y, x = np.mgrid[:height, :width]
    rings = 127.5 + 100 * np.cos(np.hypot(x - 20, y - 9) / 2)
    stripes = 127.5 + 60 * np.sign(np.sin(x / 3 + y / 7))
    patch = 80.0 + 40 * ((x // 9 + y // 8) % 2)
    truth = np.stack([rings, stripes, patch], -1)[None]
    other = np.stack([stripes, 0.8 * stripes + 0.2 * rings, patch + 5 * np.sin(x)], -1)[None]
    return truth, other


@jax.jit
def similarities(truth, other, peak):
    """Returns FSIM and FSIMc, [2, B]."""
    return jnp.stack([image.fsim(truth, other, peak), image.fsimc(truth, other, peak)])


def test_fsim_is_the_loop():
    truth, other = pictures()
    pairs = [(255 * x, 255 * y) for x, y in zip(truth, other)]
    expected = [[fsim_by_loops(*pair, colours) for pair in pairs] for colours in (False, True)]
    got = similarities(truth, other, 1.0)
    chex.assert_type(got, jnp.float32)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_colours_of_opposite_sign_have_the_real_part_of_a_complex_power():
    rng = np.random.default_rng(4)
    truth, other = rng.choice([0.0, 255.0], (2, 2, 24, 31, 3))
    expected = [fsim_by_loops(x, y, True) for x, y in zip(truth, other)]
    np.testing.assert_allclose(similarities(truth, other, 255.0)[1], expected, atol=2e-5)


@pytest.mark.parametrize(
    'shape, expected, with_colours',
    [
        ((47, 61), 0.856137851, 0.825412418),
        ((390, 401), 0.917845064, 0.885510757),  # shrunk to 195 x 200
    ],
)
def test_fsim_equals_piq(shape, expected, with_colours):
    """The expected values come from piq.fsim 0.8.0 in float64.

    For opposite colours piq has the absolute value in place of the real part: up to 0.45 % more.
    """
    gray, colours = similarities(*waves(*shape), 255.0)
    np.testing.assert_allclose(gray, expected, atol=2e-5)
    np.testing.assert_allclose(colours, with_colours, rtol=0.0045)
    assert float(colours[0]) <= with_colours + 2e-5


def test_range_and_peak_of_fsim_belong_together():
    truth, other = (np.round(255 * picture) for picture in pictures())
    expected = similarities(truth, other, 255.0)
    unit = similarities(truth / 255, other / 255, 1.0)
    pixels = similarities(truth.astype(np.uint8), other.astype(np.uint8), 255.0)
    np.testing.assert_allclose(unit, expected, atol=1e-5)
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_ends_of_fsim():
    truth, other = pictures()
    flat = np.full_like(truth, 0.5)
    np.testing.assert_allclose(similarities(truth, truth, 1.0), 1, atol=1e-6)
    np.testing.assert_allclose(
        similarities(truth, other, 1.0), similarities(other, truth, 1.0), atol=1e-6
    )
    assert np.isnan(similarities(flat, flat, 1.0)).all()
    assert (np.asarray(similarities(truth, flat, 1.0)) < 0.9).all()
    with pytest.raises(InputError, match='at least 2 pixels'):
        image.fsim(truth[:, :1], truth[:, :1])


def test_phase_congruency_marks_an_edge_whatever_its_contrast():
    step = np.where(np.arange(128) < 64, 100.0, 120.0) * np.ones((1, 4, 1))
    images = np.concatenate([step, 100 + 6 * (step - 100)])
    faint, strong = np.asarray(jax.jit(image.phase_congruency)(images))
    assert faint.min() >= 0 and faint.max() <= 1
    np.testing.assert_allclose(faint, strong, atol=1e-3)
    # The image continues on its other side, so that its borders are an edge as well.
    row = faint[2]
    assert {int(place) for place in np.argsort(row)[-4:]} == {0, 63, 64, 127}


@pytest.mark.parametrize('shape', [(3, 4, 6), (3, 5, 7), (2, 1, 1)])
def test_median_equals_numpy_for_odd_and_even_numbers(shape):
    values = np.random.default_rng(5).exponential(1e3, shape).astype(np.float32)
    values[0, 0] = 0
    np.testing.assert_allclose(image._median(values), np.median(values, (1, 2)), rtol=1e-6)


def test_fsim_falls_with_blur_and_with_noise_in_photographs(real_data):
    truth = faces(real_data).astype(np.float32)
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1, truth.shape)
    worse = {
        'blur': [ndimage.gaussian_filter(truth, (0, s, s, 0)) for s in (0.7, 1, 2, 4)],
        'noise': [np.clip(truth + s * noise, 0, 255) for s in (3, 10, 30, 90)],
    }
    for images in worse.values():
        scores = np.stack([similarities(truth, np.float32(other), 255.0) for other in images])
        assert (scores[0] < 1).all() and (scores[0] > 0.9).all()
        assert (np.diff(scores, axis=0) < 0).all()


def test_fsim_of_photographs_is_the_loop(real_data):
    truth = faces(real_data).astype(np.float32)
    other = truth[::-1]
    expected = [fsim_by_loops(x, y, True) for x, y in zip(truth[:2], other)]
    np.testing.assert_allclose(similarities(truth, other, 255.0)[1, :2], expected, atol=2e-5)
