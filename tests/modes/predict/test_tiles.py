"""Tests tiling against NumPy loops: coverage, weights that sum to 1, order, resized rows."""

import itertools

import jax
import numpy as np
import pytest

from segjax.modes.predict import tiles
from segjax.ops import windows

CASES = [
    (100, 32, 1 / 3),
    (33, 32, 1 / 3),  # one pixel hangs over
    (32, 32, 1 / 3),
    (7, 32, 1 / 3),
    (1, 4, 0.5),
    (97, 10, 0.9),
    (64, 16, 0.0),
    (65, 16, 0.0),
    (5, 1, 0.5),
]


@pytest.mark.parametrize(('length', 'tile', 'overlap'), CASES)
def test_positions_cover_every_pixel_and_keep_the_overlap(length, tile, overlap):
    starts = windows.positions(length, tile, overlap)
    covered = np.zeros(max(length, tile), bool)
    for start in starts:
        assert 0 <= start <= max(0, length - tile)
        covered[start : start + tile] = True
    assert covered.all()
    assert np.all(np.diff(starts) > 0)
    assert np.all(np.diff(starts) <= max(1, tile * (1 - overlap)))


@pytest.mark.parametrize(('length', 'tile', 'overlap'), CASES)
def test_positions_are_the_fewest(length, tile, overlap):
    stride = max(1, int(tile * (1 - overlap)))
    count = 1
    while tile + (count - 1) * stride < length:
        count += 1
    assert len(windows.positions(length, tile, overlap)) == count


def test_positions_literal():
    np.testing.assert_array_equal(windows.positions(10, 4, 0.5), [0, 2, 4, 6])
    np.testing.assert_array_equal(windows.positions(33, 32, 0.5), [0, 1])
    np.testing.assert_array_equal(windows.positions(20, 10, 0.0), [0, 10])


def test_window_is_symmetric_positive_and_peaks_in_the_middle():
    for size in (1, 2, 5, 512):
        window = windows.window(size)
        assert (window > 0).all()
        np.testing.assert_allclose(window, window[::-1], rtol=1e-9)
        assert window.argmax() in ((size - 1) // 2, size // 2)
    np.testing.assert_allclose(windows.window(2), [0.5, 0.5])


@pytest.mark.parametrize(('length', 'tile', 'overlap'), CASES)
def test_weights_sum_to_one(length, tile, overlap):
    axis = tiles.cut_axis(length, tile, overlap)
    total = np.zeros(max(length, tile))
    for start, weights in zip(axis.starts, axis.weights):
        assert (weights > 0).all()
        total[start : start + tile] += weights
    np.testing.assert_allclose(total, 1, atol=2e-7)


def test_a_tiles_border_weighs_less_than_its_neighbours_middle():
    axis = tiles.cut_axis(48, 32, 0.5)
    left, right = axis.weights
    assert (
        left[31] < 0.01 < 0.99 < right[15]
    )  # pixel 31: last of the left tile, middle of the right one
    assert left[0] == right[31] == 1  # nobody else covers the image's ends


def test_schedule_holds_every_tile_once_and_closes_rows_from_top_to_bottom():
    grids = [tiles.cut((50, 70), (16, 16), 0.25), tiles.cut((25, 35), (16, 16), 0.25)]
    places = tiles.schedule(grids, mirror=True)
    expected = {
        (s, r, c, m)
        for s, grid in enumerate(grids)
        for r, c, m in itertools.product(
            range(len(grid.rows.starts)), range(len(grid.columns.starts)), (False, True)
        )
    }
    assert len(places) == len(expected) and {p[:4] for p in places} == expected
    for scale, grid in enumerate(grids):
        mine = [p for p in places if p.scale == scale]
        assert [p.row for p in mine] == sorted(p.row for p in mine)
        closing = [i for i, p in enumerate(mine) if p.closes_row]
        assert [mine[i].row for i in closing] == list(range(len(grid.rows.starts)))
        assert all(i + 1 == len(mine) or mine[i + 1].row == mine[i].row + 1 for i in closing)


@pytest.mark.parametrize('size', [(16, 16), (17, 16), (5, 40), (3, 2), (40, 33)])
def test_canvas_of_identity_gives_the_image(size):
    """Tiles that predict their own pixels give the image, also mirrored and with dropped rows."""
    image = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    grid = tiles.cut(size, (16, 16), 1 / 3)
    canvas = tiles.Canvas(3, grid)
    padded = tiles.pad(image, grid)
    assert padded.shape[:2] == grid.padded
    out = np.full_like(image, np.nan)
    read = 0
    for place in tiles.schedule([grid], mirror=True):
        canvas.add(np.moveaxis(tiles.take(padded, grid, place), -1, 0), place, 0.5)
        for row in range(read, canvas.finished):
            out[row] = canvas.rows[:, row - canvas.first, : size[1]].T
        read = canvas.finished
        canvas.drop(read)
    assert read == size[0]
    np.testing.assert_allclose(out, image, atol=3e-7)


def test_canvas_keeps_two_tile_rows_of_a_tall_image():
    grid = tiles.cut((1000, 20), (16, 16), 1 / 3)
    canvas = tiles.Canvas(2, grid)
    tallest = 0
    for place in tiles.schedule([grid], mirror=False):
        canvas.add(np.ones((2, 16, 16), np.float32), place, 1.0)
        tallest = max(tallest, canvas.rows.shape[1])
        canvas.drop(canvas.finished)
    assert tallest <= 32


def test_pad_reflects_images_much_smaller_than_a_tile():
    grid = tiles.cut((1, 3), (4, 8), 0.5)
    padded = tiles.pad(np.array([[1, 2, 3]], np.uint8), grid)
    np.testing.assert_array_equal(padded, np.tile([1, 2, 3, 3, 2, 1, 1, 2], (4, 1)))


def bilinear_loop(plane, height, width):
    """Computes the formula pixel by pixel."""
    h, w = plane.shape
    out = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
        top = (1 - (x - x0)) * plane[y0, x0] + (x - x0) * plane[y0, x1]
        bottom = (1 - (x - x0)) * plane[y1, x0] + (x - x0) * plane[y1, x1]
        out[i, j] = (1 - (y - y0)) * top + (y - y0) * bottom
    return out


@pytest.mark.parametrize('target', [(12, 20), (13, 17), (6, 10), (4, 7), (29, 10)])
def test_resized_rows_equal_whole_image_resize_in_any_strips(target):
    rng = np.random.default_rng(1)
    grid = tiles.cut((6, 10), (6, 10), 0.0)
    canvas = tiles.Canvas(2, grid)
    values = rng.random((2, 6, 10)).astype(np.float32)
    canvas.add(values, tiles.schedule([grid], mirror=False)[0], 1.0)
    vertical = tiles.interpolation(6, target[0])
    cuts = [0, 1, 3, target[0]]
    strips = [
        tiles.resized_rows(canvas, 1, vertical, a, b, target[1])
        for a, b in itertools.pairwise(cuts)
    ]
    out = np.concatenate(strips)
    np.testing.assert_allclose(out, bilinear_loop(values[1], *target), atol=1e-6)
    reference = jax.image.resize(values[1], target, 'bilinear', antialias=False)
    np.testing.assert_allclose(out, reference, atol=1e-5)


def test_an_overlap_that_is_no_exact_float_leaves_whole_strides():
    assert windows.stride(10, 0.9) == 1  # 10 * (1 - 0.9) is 0.9999999999999998
    assert windows.stride(40, 0.3) == 28 == 40 * 7 // 10
    assert windows.stride(50, 0.94) == 3  # 50 * (1 - 0.94) is 3.0000000000000027
    assert windows.stride(100, 0.1 + 0.2) == 70  # 69.99999999999999 without rounding
    assert windows.stride(4, 0.99) == 1
