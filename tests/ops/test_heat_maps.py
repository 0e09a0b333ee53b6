"""Heat maps: bumps against loops, the soft-argmax on moved and coarser maps, drawn points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import heat_maps as ops

SIZE = (12, 20)
NAN = (np.nan, np.nan)


def random_points(*shape, seed=0):
    """Returns points [*shape, 2] inside of an image of SIZE, float32."""
    share = np.random.default_rng(seed).random((*shape, 2))
    return (share * (SIZE[1] - 1, SIZE[0] - 1)).astype(np.float32)


# --- bumps ----------------------------------------------------------------------------------------


def test_a_bump_is_the_gaussian_of_a_plain_loop():
    points = random_points(2, 3)
    bumps = ops.gaussian(points, SIZE, sigma=1.7)
    expected = np.zeros((2, *SIZE, 3))
    for row, y, x, number in np.ndindex(expected.shape):
        squared = (x - points[row, number, 0]) ** 2 + (y - points[row, number, 1]) ** 2
        expected[row, y, x, number] = np.exp(-squared / (2 * 1.7**2))
    np.testing.assert_allclose(bumps, expected, rtol=1e-4, atol=1e-7)


def test_the_peak_is_one_at_the_pixel_of_a_whole_coordinate():
    bumps = np.asarray(ops.gaussian(np.float32([[7, 3], [0, 11]]), SIZE, sigma=2.0))
    assert bumps[3, 7, 0] == 1 and bumps[11, 0, 1] == 1 and bumps.max() == 1


def test_an_absent_point_has_no_bump_and_no_gradient():
    points = jnp.array([[7.0, 3.0], NAN, [np.nan, 2.0]])
    assert not np.asarray(ops.gaussian(points, SIZE, 2.0))[..., 1:].any()
    gradient = jax.grad(lambda p: ops.gaussian(p, SIZE, 2.0)[2, 6].sum())(points)
    assert np.isfinite(gradient).all() and not gradient[1:].any() and gradient[0].any()


def test_the_image_ends_half_a_pixel_behind_the_last_centre():
    points = np.float32([[-0.5, -0.5], [19.5, 11.5], [19.6, 5], [5, 11.6], [-0.6, 5], NAN])
    np.testing.assert_array_equal(ops.is_inside(points, SIZE), [True, True, *[False] * 4])
    np.testing.assert_array_equal(ops.is_present(points), [*[True] * 5, False])


# --- the expected position ------------------------------------------------------------------------


def test_the_expected_position_is_the_mean_of_the_softmax():
    logits = np.random.default_rng(0).normal(size=(2, *SIZE, 3)).astype(np.float32)
    points = ops.expected_points(logits, SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for row, number in np.ndindex(2, 3):
        share = np.exp(logits[row, ..., number].astype(np.float64))
        share /= share.sum()
        expected = (share * x).sum(), (share * y).sum()
        np.testing.assert_allclose(points[row, number], expected, rtol=1e-5)


def test_the_expected_position_of_a_bump_is_its_point():
    points = np.float32([[7.25, 4.5], [10.0, 6.0]])
    maps = ops.log_gaussian(points, SIZE, sigma=0.8)
    np.testing.assert_allclose(ops.expected_points(maps, SIZE), points, atol=1e-4)


@pytest.mark.parametrize('stride', [2, 4])
def test_a_coarser_map_points_to_the_same_place(stride):
    """The centre of a pixel of the coarse map is the centre of its square of the image."""
    grid = (SIZE[0] // stride, SIZE[1] // stride)
    logits = np.full((*grid, 1), -100, np.float32)
    logits[1, 2] = 100
    centre = np.array([2, 1]) * stride + (stride - 1) / 2
    np.testing.assert_allclose(ops.expected_points(logits, SIZE)[0], centre, atol=1e-5)
    np.testing.assert_allclose(ops.on_grid(centre, SIZE, grid), [2, 1], atol=1e-6)


def test_a_moved_map_has_a_moved_point():
    logits = np.full((*SIZE, 1), -50, np.float32)
    logits[2:5, 3:6, 0] = np.random.default_rng(0).normal(size=(3, 3))
    moved = np.roll(logits, (4, 9), (0, 1))
    before = np.asarray(ops.expected_points(logits, SIZE))
    expected = before + np.array([9, 4])
    np.testing.assert_allclose(ops.expected_points(moved, SIZE), expected, rtol=1e-5)
    mirrored = ops.expected_points(logits[:, ::-1], SIZE)
    expected = before * [-1, 1] + [SIZE[1] - 1, 0]
    np.testing.assert_allclose(mirrored, expected, rtol=1e-5)


# --- drawn points ---------------------------------------------------------------------------------


def test_a_point_is_drawn_as_a_disc_and_nothing_else_changes():
    image = np.random.default_rng(0).integers(0, 255, (1, *SIZE, 3)).astype(np.uint8)
    points = np.float32([[[6, 5], NAN, [17, 9]]])
    drawn = np.asarray(ops.draw_points(image, points, (250, 10, 20), radius=1.5))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    first = np.hypot(x - 6, y - 5)
    distance = np.minimum(first, np.hypot(x - 17, y - 9))
    assert (drawn[0][distance <= 1] == (250, 10, 20)).all() and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[0][distance >= 2], image[0][distance >= 2])
