"""Painting of a box: the image outside is kept to the bit, and the image inside is never read."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.models.generators.mask_to_image import MaskToImage

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(-1, 1, (2, 32, 48, 3)).astype(np.float32)
LAYOUT = np.eye(5, dtype=np.float32)[RNG.integers(0, 5, (2, 32, 48))]
MASK = np.zeros((2, 32, 48, 1), np.float32)
MASK[0, 4:21, 10:33] = 1
MASK[1, 9:30, 3:17] = 1
INSIDE = MASK[..., 0] == 1


@pytest.fixture(scope='module', params=['float32', 'bfloat16'])
def paint(request):
    """Returns a narrow net as a function of image, layout and mask."""
    net = MaskToImage(3, halvings=2, blocks=2, width=1 / 16, dtype=jnp.dtype(request.param))
    variables = jax.jit(lambda *x: net.init(jax.random.key(0), *x, train=True))(IMAGE, LAYOUT, MASK)
    variables = jax.tree.map(lambda x: 20 * x, variables)
    return jax.jit(lambda *x: net.apply(variables, *x, train=True)['image'])


def test_outside_the_box_is_the_image(paint):
    result = np.asarray(paint(IMAGE, LAYOUT, MASK))
    np.testing.assert_array_equal(result[~INSIDE], IMAGE[~INSIDE])
    assert np.all(result[INSIDE] != IMAGE[INSIDE])
    assert np.abs(result).max() <= 1


def test_the_image_inside_the_box_leaves_no_trace(paint):
    other = np.where(MASK == 1, -IMAGE, IMAGE)
    np.testing.assert_array_equal(paint(other, LAYOUT, MASK), paint(IMAGE, LAYOUT, MASK))


def test_inside_the_box_depends_on_image_and_layout(paint):
    result = np.asarray(paint(IMAGE, LAYOUT, MASK))
    for changed in ((-IMAGE, LAYOUT, MASK), (IMAGE, LAYOUT[:, :, ::-1], MASK)):
        difference = np.asarray(paint(*changed)) != result
        assert difference[INSIDE].mean() > 0.5


def test_an_empty_box_returns_the_image(paint):
    np.testing.assert_array_equal(paint(IMAGE, LAYOUT, 0 * MASK), IMAGE)


def test_parameters_and_sizes():
    net = MaskToImage(3)
    outputs, variables = jax.eval_shape(
        lambda *x: net.init_with_output(jax.random.key(0), *x, train=True),
        *(jax.ShapeDtypeStruct((1, 256, 256, channels), jnp.float32) for channels in (3, 35, 1)),
    )
    chex.assert_shape(outputs['image'], (1, 256, 256, 3))
    sizes = [64, 128, 256, 512, 1024]
    expected = sum(49 * c * 64 + 64 for c in (3, 35))
    for i, o in itertools.pairwise(sizes):
        expected += 2 * (9 * i * o + o)  # both encoders
        expected += 9 * (o if o == 1024 else 2 * o) * i + i  # decoder, with skips
    expected += 9 * 2 * (9 * 1024**2 + 1024) + 49 * 64 * 3 + 3
    assert sum(x.size for x in jax.tree.leaves(variables)) == expected == 190_370_179


def test_bad_input():
    net = MaskToImage(3, halvings=2)
    with pytest.raises(InputError, match='multiples of 4'):
        jax.eval_shape(lambda: net.init(jax.random.key(0), IMAGE[:, :30], LAYOUT, MASK, train=True))
    with pytest.raises(InputError, match='out_channels'):
        jax.eval_shape(lambda: net.init(jax.random.key(0), LAYOUT, LAYOUT, MASK, train=True))
