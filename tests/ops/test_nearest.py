"""Holes filled with the nearest label, against scipy's exact distances."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.errors import InputError
from segjax.ops import nearest

H, W = 13, 17
RNG = np.random.default_rng(0)
PLACES = np.arange(H * W, dtype=np.int32).reshape(1, H, W)
fill = jax.jit(nearest.fill_nearest)


def distances_to(places):
    """Returns the distance of every pixel to the pixel that its place names."""
    row, column = np.divmod(np.asarray(places), W)
    return np.hypot(row - np.arange(H)[:, None], column - np.arange(W))


def masks():
    """Returns known pixels: a few, many, a column, a row, a corner, a frame, all."""
    few = RNG.random((H, W)) < 0.02
    many = RNG.random((H, W)) < 0.6
    column, row, corner, frame = np.zeros((4, H, W), bool)
    few[5, 5] = True
    column[:, 3] = True
    row[-1] = True
    corner[0, -1] = True
    frame[[0, -1]] = True
    frame[:, [0, -1]] = True
    return np.stack([few, many, column, row, corner, frame, np.ones((H, W), bool)])


def test_distances_are_those_of_scipy():
    known = masks()
    # Labels that name places show which pixel was nearest.
    filled = np.asarray(fill(np.repeat(PLACES, len(known), 0), known))
    for places, mask in zip(filled, known, strict=True):
        expected = ndimage.distance_transform_edt(~mask)
        np.testing.assert_allclose(distances_to(places), expected, atol=1e-12)
        assert mask.ravel()[places].all(), 'the label of an unknown pixel'
        np.testing.assert_array_equal(places[mask], PLACES[0][mask])


def ordered(i, j, known):
    """Returns the place of the nearest known pixel, with the documented order of ties."""
    rows, columns = np.nonzero(known)
    squares = (rows - i) ** 2 + (columns - j) ** 2
    keys = zip(squares, abs(columns - j), columns, rows, strict=True)
    _, _, column, row = min(keys)
    return row * W + column


def test_ties_are_broken_by_column_then_left_then_upper():
    known = np.zeros((1, H, W), bool)
    known[0, ::4, ::6] = True
    known[0, 3, 2] = True
    filled = np.asarray(fill(PLACES, known))[0]
    expected = [[ordered(i, j, known[0]) for j in range(W)] for i in range(H)]
    np.testing.assert_array_equal(filled, expected)


def test_a_map_without_a_known_pixel_is_void_and_changes_no_other_map():
    labels = RNG.integers(0, 19, (3, H, W)).astype(np.uint8)
    known = np.stack([masks()[0], np.zeros((H, W), bool), masks()[1]])
    filled = fill(labels, known)
    assert filled.dtype == np.uint8
    assert (filled[1] == 255).all()
    for k in (0, 2):
        np.testing.assert_array_equal(filled[k], fill(labels[k : k + 1], known[k : k + 1])[0])


def test_labels_of_unknown_pixels_are_not_read():
    known = masks()[:2]
    labels = RNG.integers(0, 19, known.shape)
    other = np.where(known, labels, 77)
    np.testing.assert_array_equal(fill(labels, known), fill(other, known))


def test_without_jit_and_in_pmap_the_labels_are_the_same():
    known = masks()[:4]
    labels = RNG.integers(0, 19, known.shape).astype(np.int32)
    compiled = fill(labels, known)
    with jax.disable_jit():
        plain = nearest.fill_nearest(jnp.asarray(labels), jnp.asarray(known))
    chex.assert_trees_all_equal(compiled, plain)
    if len(jax.devices()) > 1:
        halves = jax.pmap(nearest.fill_nearest)(
            labels.reshape(2, 2, H, W), known.reshape(2, 2, H, W)
        )
        np.testing.assert_array_equal(halves.reshape(compiled.shape), compiled)


@pytest.mark.parametrize('shape', [(1, 5), (5, 1), (1, 1)])
def test_maps_of_a_single_row_or_column(shape):
    label = np.arange(np.prod(shape)).reshape(1, *shape)
    known = np.zeros((1, *shape), bool)
    known[0, -1, -1] = True
    np.testing.assert_array_equal(fill(label, known), np.full((1, *shape), label.max()))


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match='the shape of the labels'):
        nearest.fill_nearest(np.zeros((1, 4, 5), int), np.ones((1, 5, 4), bool))
    long = jax.ShapeDtypeStruct((1, 1, 2**15), jnp.int32)
    with pytest.raises(InputError, match='1x32768 pixels'):
        jax.eval_shape(nearest.fill_nearest, long, jax.ShapeDtypeStruct(long.shape, bool))
