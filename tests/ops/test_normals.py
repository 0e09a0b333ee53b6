"""Maps of normals: measured pixels, lengths, colours."""

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops import normals as ops


def test_a_pixel_is_measured_if_any_coordinate_is_not_zero():
    vectors = np.float32([[0, 0, 0], [0, 0, -1], [-0.1, 0, 0]])
    np.testing.assert_array_equal(ops.is_measured(vectors), [False, True, True])


def test_vectors_get_the_length_one():
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    np.testing.assert_allclose(ops.normalised(vectors), expected, rtol=1e-6)
    gradient = jax.grad(lambda x: ops.normalised(x).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


def test_colours_are_those_of_the_axes_and_unknown_pixels_are_black():
    vectors = np.float32([[1, -1, 0], [0, 0, -1], [0, 0, 0]])
    expected = [[255, 0, 128], [128, 128, 0], [0, 0, 0]]
    np.testing.assert_array_equal(ops.paint(vectors), expected)
