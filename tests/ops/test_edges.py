"""Edges between instances against a loop over neighbours."""

import chex
import jax
import numpy as np
import pytest

from segjax.ops.edges import instance_edges


def by_loop(ids):
    height, width = ids.shape
    edge = np.zeros(ids.shape, bool)
    for i, j in np.ndindex(height, width):
        for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= k < height and 0 <= m < width and ids[k, m] != ids[i, j]:
                edge[i, j] = True
    return edge


@pytest.mark.parametrize('size', [(6, 9), (1, 5), (5, 1), (1, 1)])
def test_a_pixel_is_marked_if_a_neighbour_differs(size):
    ids = np.random.default_rng(0).integers(0, 2, (3, *size))
    edge = jax.jit(instance_edges)(ids)
    chex.assert_type(edge, bool)
    for ours, example in zip(edge, ids, strict=True):
        np.testing.assert_array_equal(ours, by_loop(example))


def test_both_pixels_of_a_pair_are_marked_and_the_border_is_none():
    ids = np.zeros((1, 4, 6), np.int32)
    ids[:, :, 3:] = 26001
    expected = np.zeros((1, 4, 6), bool)
    expected[:, :, 2:4] = True
    np.testing.assert_array_equal(instance_edges(ids), expected)


def test_an_edge_moves_with_the_map():
    ids = np.random.default_rng(0).integers(0, 3, (1, 7, 8))
    np.testing.assert_array_equal(
        instance_edges(ids[:, :, ::-1]), np.asarray(instance_edges(ids))[:, :, ::-1]
    )
    np.testing.assert_array_equal(
        instance_edges(ids.swapaxes(1, 2)), np.asarray(instance_edges(ids)).swapaxes(1, 2)
    )


def test_large_ids_and_unsigned_ids():
    ids = np.array([[[2**24, 2**24 + 1]]], np.int32)
    assert np.asarray(instance_edges(ids)).all()
    ids = np.array([[[0, 255, 255]]], np.uint8)
    np.testing.assert_array_equal(instance_edges(ids), [[[True, True, False]]])


def test_pairs_with_an_invalid_pixel_do_not_count():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2, (2, 6, 9))
    valid = rng.random(ids.shape) < 0.7
    for ours, example, known in zip(instance_edges(ids, valid), ids, valid, strict=True):
        expected = np.zeros(example.shape, bool)
        for i, j in np.ndindex(*example.shape):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                inside = 0 <= k < 6 and 0 <= m < 9
                if inside and known[i, j] and known[k, m] and example[i, j] != example[k, m]:
                    expected[i, j] = True
        np.testing.assert_array_equal(ours, expected)
