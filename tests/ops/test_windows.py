"""Sliding windows in a compiled function, against loops and the tiling of `--mode predict`."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.modes.predict import tiles
from segjax.ops import windows

CANVAS = (30, 44)
TILE = (12, 16)
OVERLAP = 1 / 3
SIZES = ((30, 44), (30, 29), (25, 44), (13, 16), (12, 17), (7, 44), (5, 3))


def make_images():
    return np.random.default_rng(0).integers(0, 256, (len(SIZES), *CANVAS, 3)).astype(np.uint8)


def net_of_places(xp):
    """Returns a net whose values depend on the place in the window and on its further pixels.

    So every weight matters, and so does the continuation of an image that is smaller than a window.
    """
    rows = np.arange(TILE[0])[:, None, None]
    columns = np.arange(TILE[1])[:, None]
    ramp = (rows * 3 + columns * 5).astype(np.float32)

    def net(image):
        x = xp.asarray(image, np.float32) / 255
        seen_around = x[..., :1] + x[..., 1:2].mean((-3, -2), keepdims=True)
        return xp.concatenate([x * ramp, seen_around + ramp], -1)

    return net


def seen(net, overlap=OVERLAP):
    """Returns the average that the device computes, [B, H, W, C]."""
    images = make_images()
    size = jnp.asarray(SIZES)
    return np.asarray(jax.jit(lambda x, n: windows.average(net, x, n, TILE, overlap))(images, size))


def test_a_loop_over_windows_gives_the_same():
    """Compares with the formulas of starts, Hann weights, reflection and average."""
    images = make_images()
    found = seen(net_of_places(jnp))

    def starts(length, tile):
        if length <= tile:
            return [0]
        count = math.ceil((length - tile) / math.floor(tile * 2 / 3)) + 1
        return [math.floor(k * (length - tile) / (count - 1) + 0.5) for k in range(count)]

    def hann(i, tile):
        return math.sin(math.pi * (i + 0.5) / tile) ** 2

    def reflected(i, length):
        return ([*range(length), *reversed(range(length))] * 20)[i]

    for image, (height, width), average in zip(images, SIZES, found, strict=True):
        total = np.zeros((60, 60, 4))
        weight = np.zeros((60, 60, 1))
        for top in starts(height, TILE[0]):
            for left in starts(width, TILE[1]):
                rows = [reflected(top + i, height) for i in range(TILE[0])]
                columns = [reflected(left + j, width) for j in range(TILE[1])]
                values = net_of_places(np)(image[np.ix_(rows, columns)])
                for i, j in np.ndindex(*TILE):
                    w = hann(i, TILE[0]) * hann(j, TILE[1])
                    total[top + i, left + j] += w * values[i, j]
                    weight[top + i, left + j] += w
        expected = total[:height, :width] / weight[:height, :width]
        np.testing.assert_allclose(average[:height, :width], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('overlap', [0.0, 1 / 3, 0.5, 0.75])
def test_tiles_of_predict_give_the_same(overlap):
    images = make_images()
    found = seen(net_of_places(jnp), overlap)
    net = net_of_places(np)
    for image, size, average in zip(images, SIZES, found, strict=True):
        grid = tiles.cut(size, TILE, overlap)
        canvas = tiles.Canvas(4, grid)
        padded = tiles.pad(image[: size[0], : size[1]], grid)
        for place in tiles.schedule([grid], mirror=False):
            canvas.add(np.moveaxis(net(tiles.take(padded, grid, place)), -1, 0), place, 1.0)
        expected = np.moveaxis(canvas.rows, 0, -1)[: size[0], : size[1]]
        np.testing.assert_allclose(average[: size[0], : size[1]], expected, rtol=2e-5, atol=2e-5)


def test_a_net_that_looks_at_single_pixels_sees_what_it_sees_in_the_whole_image():
    def net(image):
        return jnp.sin(image.astype(jnp.float32))

    whole = np.asarray(net(make_images()))
    for average, expected, (height, width) in zip(seen(net), whole, SIZES, strict=True):
        np.testing.assert_allclose(average[:height, :width], expected[:height, :width], atol=2e-6)


def test_values_of_a_short_type_are_summed_in_float32():
    def net(image):
        return image.astype(jnp.bfloat16)  # holds all numbers of uint8

    found = seen(net)
    chex.assert_type(found, np.float32)
    for average, image, (height, width) in zip(found, make_images(), SIZES, strict=True):
        np.testing.assert_allclose(average[:height, :width], image[:height, :width], rtol=1e-5)


@pytest.mark.parametrize(
    'lengths, expected', [([1024, 713, 900], [0, 311]), ([2048], [0, 445, 890, 1335])]
)
def test_a_street_scene_in_published_crops_is_eight_windows(lengths, expected):
    """Checks PSPNet's crops of 713 pixels: ceil((n - 713) / 476) + 1 along each axis."""
    axis = windows.cut_axis(jnp.asarray(lengths), lengths[0], 713, 1 / 3)
    np.testing.assert_array_equal(axis.starts[0], expected)
    num_windows = math.ceil((lengths[0] - 713) / math.ceil(713 * 2 / 3)) + 1
    chex.assert_shape(axis.starts, (len(lengths), num_windows))
    chex.assert_shape([axis.sources, axis.weights], (len(lengths), num_windows, 713))
    if (
        len(lengths) > 1
    ):  # an image of a single window, and an image that needs as many as the largest
        np.testing.assert_array_equal(axis.starts[1:], [[0, 0], [0, 187]])
        np.testing.assert_allclose(axis.weights[1], [[1.0] * 713, [0.0] * 713], rtol=1e-6)


def test_every_image_is_covered_by_weights_that_sum_to_one():
    axis = windows.cut_axis(jnp.arange(1, 101), 100, 16, 0.4)
    for length in range(1, 101):
        starts = np.asarray(axis.starts[length - 1])
        weights = np.asarray(axis.weights[length - 1])
        total = np.zeros(100)
        for start, weight in zip(starts, weights, strict=True):
            total[start : start + 16] += weight
        np.testing.assert_allclose(total[:length], 1, rtol=1e-5)
        np.testing.assert_array_equal(np.unique(starts), windows.positions(length, 16, 0.4))
