"""Resizing against OpenCV, SciPy and exact geometry."""

import functools

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage

from segjax.errors import InputError
from segjax.ops import resize

SIZES = [
    ((5, 7), (10, 14)),
    ((8, 8), (3, 5)),
    ((6, 9), (13, 4)),
    ((1, 4), (3, 1)),
    ((4, 6), (4, 12)),
    ((4, 6), (4, 6)),
]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cv2_linear(image, size):
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).reshape(*size, -1)


@pytest.mark.parametrize('before, after', SIZES)
def test_bilinear_is_opencv(before, after):
    x = normal(0, 2, *before, 3)
    y = resize.bilinear(x, after)
    np.testing.assert_allclose(y, np.stack([cv2_linear(image, after) for image in x]), atol=1e-5)


@pytest.mark.parametrize('before, after', SIZES)
def test_align_corners_is_scipy_on_the_corner_grid(before, after):
    x = normal(0, 1, *before, 2)
    y = resize.bilinear(x, after, align_corners=True)
    positions = np.meshgrid(
        *(np.linspace(0, a - 1, b) for a, b in zip(before, after)), indexing='ij'
    )
    for c in range(2):
        expected = ndimage.map_coordinates(x[0, ..., c].astype(np.float64), positions, order=1)
        np.testing.assert_allclose(y[0, ..., c], expected, atol=1e-5)


def test_half_pixel_centres_reproduce_a_ramp_inside_and_clamp_outside():
    ramp = (np.arange(4) + 0.5)[None, :, None, None] * np.ones(
        (1, 1, 3, 1)
    )  # value = position of the centre
    y = resize.bilinear(jnp.float32(ramp), (8, 3))[0, :, 0, 0]
    np.testing.assert_allclose(y, np.clip((np.arange(8) + 0.5) / 2, 0.5, 3.5), atol=1e-6)


def test_bilinear_gradient():
    x = normal(0, 1, 3, 4, 2)
    for size, align_corners in (((7, 5), False), ((2, 9), True)):
        fn = jax.jit(functools.partial(resize.bilinear, size=size, align_corners=align_corners))
        check_grads(fn, (x,), order=1, atol=1e-2, rtol=1e-2)


def test_bfloat16_is_interpolated_in_float32():
    x = normal(0, 1, 5, 7, 3).astype(jnp.bfloat16)
    y = resize.bilinear(x, (11, 3))
    chex.assert_type(y, jnp.bfloat16)
    expected = resize.bilinear(x.astype(np.float32), (11, 3)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(y.astype(np.float32), expected.astype(np.float32))


def test_grid_is_align_corners_where_the_images_fit_the_stride():
    x = normal(0, 2, 4, 3, 5)
    y = resize.bilinear_on_grid(x, (25, 17), 8)
    np.testing.assert_allclose(y, resize.bilinear(x, (25, 17), align_corners=True), atol=1e-5)


@pytest.mark.parametrize('size', [(24, 9), (29, 16)])
def test_grid_keeps_features_on_their_pixels(size):
    x = normal(0, 1, 4, 2, 3)
    y = np.asarray(resize.bilinear_on_grid(x, size, 8))
    rows, columns = np.meshgrid(*(np.arange(n) / 8 for n in size), indexing='ij')
    for c in range(3):  # mode 'nearest' holds the last pixel
        expected = ndimage.map_coordinates(
            x[0, ..., c].astype(np.float64), (rows, columns), order=1, mode='nearest'
        )
        np.testing.assert_allclose(y[0, ..., c], expected, atol=1e-5)


@pytest.mark.parametrize(
    'stride, offset, size', [(2, 0, (10, 8)), (2, 1, (7, 7)), (8, 5, (35, 27))]
)
def test_bilinear_deconvolution_is_the_loop(stride, offset, size):
    x = normal(0, 1, 4, 3, 2)
    taps = 2 * stride
    f = (taps + 1) // 2
    centre = (taps + 1) // 2 - 0.5
    kernel = 1 - np.abs(np.arange(taps) - centre) / f
    whole = np.zeros((1, stride * 5, stride * 4, 2))
    for i, j, r, s in np.ndindex(4, 3, taps, taps):
        whole[0, i * stride + r, j * stride + s] += x[0, i, j] * kernel[r] * kernel[s]
    expected = whole[:, offset : offset + size[0], offset : offset + size[1]]
    np.testing.assert_allclose(
        resize.bilinear_deconvolution(x, size, stride, offset), expected, atol=1e-5
    )
    with pytest.raises(InputError, match='at most'):
        resize.bilinear_deconvolution(x, size, stride, stride * 5)


@pytest.mark.parametrize('before, after', SIZES)
def test_nearest_is_opencv_exact(before, after):
    x = np.random.default_rng(0).integers(0, 256, (2, *before), dtype=np.uint8)
    expected = [
        cv2.resize(label, after[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for label in x
    ]
    y = resize.nearest(x.astype(np.int32), after)
    chex.assert_type(y, jnp.int32)
    np.testing.assert_array_equal(y, np.stack(expected))


def test_nearest_of_channels_is_nearest_of_each():
    x = np.random.default_rng(0).integers(0, 9, (2, 5, 4, 3))
    y = resize.nearest(x, (7, 9))
    for c in range(3):
        np.testing.assert_array_equal(y[..., c], resize.nearest(x[..., c], (7, 9)))


@pytest.mark.parametrize('factor', [1, 2, 4])
def test_shrink_is_the_mean_of_blocks(factor):
    x = normal(0, 2, 3, 8, 12, 2)
    y = resize.shrink(jnp.asarray(x), factor)
    chex.assert_shape(y, (2, 3, 8 // factor, 12 // factor, 2))
    for i, j in np.ndindex(8 // factor, 12 // factor):
        rows = slice(i * factor, (i + 1) * factor)
        columns = slice(j * factor, (j + 1) * factor)
        expected = x[:, :, rows, columns].mean((2, 3))
        np.testing.assert_allclose(y[:, :, i, j], expected, atol=1e-6)


resize_valid = jax.jit(resize.resize_valid, static_argnums=2)

VALID = np.array([[6, 8], [3, 5], [1, 8], [6, 1]], np.int32)
OUT_VALID = np.array([[12, 16], [11, 4], [5, 13], [1, 1]], np.int32)


def test_resize_valid_is_opencv_on_each_part_and_ignores_padding():
    x = normal(0, 4, 6, 8, 3)
    for b, (h, w) in enumerate(VALID):
        x[b, h:] = x[b, :, w:] = 1e6  # padding that leaks would show
    y = np.asarray(resize_valid(x, VALID, (12, 16), OUT_VALID))
    for b, ((h, w), (height, width)) in enumerate(zip(VALID, OUT_VALID)):
        expected = cv2_linear(x[b, :h, :w], (height, width))
        np.testing.assert_allclose(y[b, :height, :width], expected, atol=1e-5)
        assert not y[b, height:].any() and not y[b, :, width:].any()


def test_resize_valid_of_everything_is_bilinear():
    x = normal(0, 2, 5, 7, 3)
    y = resize_valid(x, jnp.array([[5, 7]] * 2), (9, 4), jnp.array([[9, 4]] * 2))
    np.testing.assert_allclose(y, resize.bilinear(x, (9, 4)), atol=1e-6)


def test_resize_valid_compiles_once_for_all_sizes():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(x, valid, out_valid):
        return resize.resize_valid(x, valid, (12, 16), out_valid)

    x = normal(0, 4, 6, 8, 3)
    run(x, VALID, OUT_VALID)
    run(x, VALID[::-1].copy(), OUT_VALID[::-1].copy())


def test_resize_valid_keeps_the_fraction_far_from_the_origin():
    n_in, n_out = 1024, 2047
    ramp = jnp.arange(n_in, dtype=jnp.float32)[None, None, :, None]
    y = resize_valid(ramp, jnp.array([[1, n_in]]), (1, n_out), jnp.array([[1, n_out]]))[0, 0, :, 0]
    exact = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)
    np.testing.assert_allclose(y, exact, atol=2e-4, rtol=0)


def test_resize_valid_gradient_stays_inside():
    x = jnp.asarray(normal(0, 2, 4, 5, 1))
    valid = jnp.array([[3, 4], [4, 2]])
    out_valid = jnp.array([[6, 5], [2, 7]])

    @jax.jit
    def fn(x):
        return resize.resize_valid(x, valid, (6, 7), out_valid)

    check_grads(fn, (x,), order=1, atol=1e-2, rtol=1e-2)
    gradient = jax.grad(lambda x: fn(x).sum())(x)
    assert (
        not gradient[0, 3:].any() and not gradient[0, :, 4:].any() and not gradient[1, :, 2:].any()
    )
    np.testing.assert_allclose(
        gradient.sum((1, 2, 3)), [30, 14], rtol=1e-6
    )  # weights of a pixel sum to 1


def test_resize_valid_names_the_wrong_shape():
    with pytest.raises(InputError, match='out_valid'):
        resize.resize_valid(
            np.zeros((2, 4, 4, 1)), np.ones((2, 2), int), (4, 4), np.ones((2,), int)
        )


# --- the largest class ----------------------------------------------------------------------------


def whole_argmax(x, valid, out_size, out_valid):
    return jnp.argmax(resize.resize_valid(x, valid, out_size, out_valid), -1)


@pytest.mark.parametrize('num_classes', [1, 2, 7, 19])
@pytest.mark.parametrize('at_once', [1, 2, 3, 5])
@pytest.mark.parametrize('out_size', [(12, 16), (23, 13)], ids=['columns first', 'rows first'])
def test_argmax_of_parts_of_the_classes_is_the_argmax_of_all(num_classes, at_once, out_size):
    """Odd sizes, several sizes in a batch, and close values."""
    x = normal(1, 4, 6, 8, num_classes).round(1)
    sizes = VALID, out_size, np.minimum(OUT_VALID, out_size)
    chunk = at_once * 4 * 4 * out_size[0] * out_size[1]
    some = jax.jit(resize.argmax_valid, static_argnums=(2, 4, 5))(x, *sizes, 0, chunk)
    expected = jax.jit(whole_argmax, static_argnums=2)(x, *sizes)
    assert some.dtype == expected.dtype
    np.testing.assert_array_equal(some, expected)


def test_argmax_of_equal_and_of_strange_values_is_that_of_numpy():
    x = normal(2, 1, 3, 3, 5)
    x[0, 0, 0] = 1.0  # all equal: the first class
    x[0, 1, 1, 3] = np.nan
    x[0, 2, 2] = -np.inf
    size = np.array([[3, 3]])
    # Only the nearest pixel has a weight here, but 0 times NaN is NaN.
    with np.errstate(invalid='ignore'):
        expected = whole_argmax(x, size, (3, 3), size)
    np.testing.assert_array_equal(resize.argmax_valid(x, size, (3, 3), size, 0, 1), expected)


def test_the_memory_of_the_argmax_does_not_grow_with_the_classes():
    out_size = (96, 128)
    size = np.array([[24, 32]]), np.array([out_size])

    def memory(num_classes, whole_bytes):
        def fn(x):
            return resize.argmax_valid(x, size[0], out_size, size[1], whole_bytes, 2**18)

        shape = jax.ShapeDtypeStruct((1, 24, 32, num_classes), jnp.float32)
        analysis = jax.jit(fn).lower(shape).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    resized = 96 * 128 * 160 * 4
    assert memory(160, resized) >= resized
    assert memory(160, resized - 1) < 0.5 * resized
    # What grows is a copy of the logits before they are resized, a sixteenth of the size.
    assert memory(320, 0) - memory(160, 0) < resized / 4
