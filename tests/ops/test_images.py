"""Pictures: normalisation against its formulas in NumPy, colours against a loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.ops import images

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
PALETTE = ((128, 64, 128), (244, 35, 232), (70, 70, 70))


def expected(scheme):
    x = IMAGE.astype(np.float64)
    match scheme:
        case 'unit':
            return x / 255
        case 'symmetric':
            return 2 * x / 255 - 1
        case 'imagenet':
            return (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        case 'caffe':
            return x[..., ::-1] - [103.939, 116.779, 123.68]
        case 'deeplab':
            return x[..., ::-1] - [104.008, 116.669, 122.675]
        case 'cityscapes':
            return (x / 255 - [0.3257, 0.3690, 0.3223]) / [0.2112, 0.2148, 0.2115]


@pytest.mark.parametrize('scheme', images.SCHEMES)
def test_normalize(scheme):
    y = jax.jit(images.normalize, static_argnums=1)(IMAGE, scheme)
    chex.assert_type(y, jnp.float32)
    np.testing.assert_allclose(y, expected(scheme), atol=2e-5)


@pytest.mark.parametrize('fn', [images.normalize, images.to_uint8])
def test_unknown_scheme_names_the_nearest(fn):
    with pytest.raises(InputError, match="did you mean 'imagenet'"):
        fn(IMAGE, 'imagnet')


@pytest.mark.parametrize('scheme', images.SCHEMES)
def test_to_uint8_takes_back_what_normalize_does(scheme):
    every = np.stack([np.arange(256), np.arange(256)[::-1], np.roll(np.arange(256), 7)], -1).astype(
        np.uint8
    )
    back = jax.jit(images.to_uint8, static_argnums=1)(images.normalize(every, scheme), scheme)
    chex.assert_type(back, jnp.uint8)
    np.testing.assert_array_equal(back, every)


def test_to_uint8_rounds_and_clips():
    # 127.5 (x + 1): x = -0.1 is 114.75, x = 0.5 is 191.25.
    x = jnp.array([[-1.0, 1.0, -0.1], [0.5, 1.7, -1e9]])
    np.testing.assert_array_equal(images.to_uint8(x, 'symmetric'), [[0, 255, 115], [191, 255, 0]])
    np.testing.assert_array_equal(
        images.to_uint8(x.astype(jnp.bfloat16), 'symmetric')[1], [191, 255, 0]
    )


@pytest.mark.parametrize('dtype', [np.int32, np.uint8])
def test_colorize(dtype):
    label = np.array([[0, 1, 2], [255, 2, 7]], dtype)
    colors = jax.jit(lambda label: images.colorize(label, PALETTE))(label)
    chex.assert_type(colors, jnp.uint8)
    np.testing.assert_array_equal(
        colors,
        [[PALETTE[0], PALETTE[1], PALETTE[2]], [(0, 0, 0), PALETTE[2], images.OUT_OF_RANGE_COLOR]],
    )


def test_colorize_does_not_wrap_negative_ids():
    np.testing.assert_array_equal(
        images.colorize(np.array([-1]), PALETTE), [images.OUT_OF_RANGE_COLOR]
    )


def test_overlay():
    colors = images.colorize(np.zeros((2, 3, 4), np.int32), PALETTE)
    np.testing.assert_array_equal(images.overlay(IMAGE, colors, 0.0), IMAGE)
    np.testing.assert_array_equal(images.overlay(IMAGE, colors, 1.0), colors)
    half = images.overlay(np.uint8([[255, 255, 0]]), jnp.uint8([[255, 0, 101]]), 0.25)
    chex.assert_type(half, jnp.uint8)
    np.testing.assert_array_equal(half, [[255, 191, 25]])


def test_heat_grows_ever_brighter():
    colors = np.asarray(images.heat(jnp.linspace(0, 1, 50)), float)
    assert (np.diff(colors @ [0.299, 0.587, 0.114]) > 0).all()
    assert tuple(colors[0]) == images.HEAT[0] and tuple(colors[-1]) == images.HEAT[-1]


def test_edges_are_the_strongest_steps():
    values = np.zeros((1, 3, 4, 2), np.float32)
    values[0, :, 2:, 1] = 0.5
    painted = np.asarray(images.paint_edges(jnp.asarray(values)))
    expected = np.zeros((1, 3, 4), np.float32)
    expected[0, :, 1] = 0.5
    np.testing.assert_array_equal(painted, images.heat(jnp.asarray(expected)))


def test_disparity_is_painted_up_to_the_95th_percentile_of_each_image():
    disparity = np.stack([np.arange(101.0), 7 * np.arange(101.0)]).reshape(2, 1, 101)
    painted = images.paint_disparity(jnp.float32(disparity))
    chex.assert_shape(painted, (2, 1, 101, 3))
    chex.assert_type(painted, jnp.uint8)
    np.testing.assert_array_equal(painted[0], painted[1])
    np.testing.assert_array_equal(painted[0, 0], images.heat(np.arange(101) / 95).clip(0, 255))
    assert (painted[0, 0, 95:] == np.uint8(images.HEAT[-1])).all()
    chex.assert_tree_all_finite(images.paint_disparity(jnp.zeros((1, 2, 2))))
