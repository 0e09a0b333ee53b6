"""The image pool against a plain Python list that is shown the same random numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from segjax.errors import InputError
from segjax.ops import image_pool


def numbered(first, count, dtype=np.float32):
    """Returns `count` images of 1x1x2, each filled with its own number."""
    return np.broadcast_to(
        np.arange(first, first + count, dtype=dtype)[:, None, None, None], (count, 1, 1, 2)
    )


def reference(stored, size, images, key):
    """Applies CycleGAN's rule image by image, and changes `stored` in place."""
    given = []
    for image, row_key in zip(images, jax.random.split(key, len(images))):
        coin, place = jax.random.split(row_key)
        if len(stored) < size:
            stored.append(image)
            given.append(image)
        elif jax.random.uniform(coin) > 0.5:
            slot = int(jax.random.randint(place, (), 0, size))
            given.append(stored[slot])
            stored[slot] = image
        else:
            given.append(image)
    return np.stack(given)


@pytest.mark.parametrize('size, batch', [(1, 3), (5, 4), (7, 2)])
def test_is_the_rule(size, batch):
    pool = image_pool.init(size, (1, 1, 2))
    stored = []
    query = jax.jit(image_pool.query)
    for step in range(8):
        images = numbered(step * batch, batch)
        key = jax.random.key(step)
        expected = reference(stored, size, images, key)
        given, pool = query(pool, images, key)
        np.testing.assert_array_equal(given, expected)
        assert pool['count'] == len(stored)
        chex.assert_type(pool['count'], jnp.int32)
        np.testing.assert_array_equal(pool['images'][: len(stored)], stored)
        assert not pool['images'][len(stored) :].any()


def test_without_jit_the_bits_are_the_same():
    images = np.random.default_rng(0).normal(size=(6, 2, 3, 3)).astype(np.float32)
    key = jax.random.key(3)
    pool = image_pool.init(3, (2, 3, 3))
    compiled = jax.jit(image_pool.query)(pool, images, key)
    with jax.disable_jit():
        plain = image_pool.query(pool, images, key)
    chex.assert_trees_all_equal(compiled, plain)


def test_statistics_of_a_full_pool():
    size, count = 10, 4000
    _, pool = jax.jit(image_pool.query)(
        image_pool.init(size, (1, 1, 2)), numbered(0, size), jax.random.key(0)
    )
    given, after = jax.jit(image_pool.query)(pool, numbered(size, count), jax.random.key(1))
    given = np.asarray(given[:, 0, 0, 0], int)
    old = given != np.arange(size, size + count)
    assert stats.binomtest(int(old.sum()), count, 0.5).pvalue > 1e-3
    # Which place an exchanged image came from, replayed by the images' numbers.
    holds = list(range(size))
    places = []
    for new, image in zip(range(size, size + count), given):
        if image != new:
            places.append(holds.index(image))
            holds[places[-1]] = new
    assert stats.chisquare(np.bincount(places, minlength=size)).pvalue > 1e-3
    np.testing.assert_array_equal(after['images'][:, 0, 0, 0], holds)
    # No image is lost or doubled: returned and stored images are all images that went in.
    np.testing.assert_array_equal(np.sort([*given, *holds]), np.arange(size + count))


def test_size_zero_is_off():
    pool = image_pool.init(0, (1, 1, 2))
    images = numbered(0, 3)
    given, after = jax.jit(image_pool.query)(pool, images, jax.random.key(0))
    np.testing.assert_array_equal(given, images)
    assert not jax.tree.leaves(pool) and not jax.tree.leaves(after)


def test_the_pool_keeps_its_dtype_and_gives_back_that_of_the_images():
    pool = image_pool.init(2, (1, 1, 2), jnp.bfloat16)
    images = 0.1 * numbered(1, 8)
    for _ in range(2):
        given, pool = jax.jit(image_pool.query)(pool, images, jax.random.key(0))
        chex.assert_type([given, pool['images']], [jnp.float32, jnp.bfloat16])
    rounded = images.astype(jnp.bfloat16).astype(np.float32)
    assert np.isin(given, [images, rounded]).all()


def test_bad_input():
    with pytest.raises(InputError, match='0 switches the pool off'):
        image_pool.init(-1, (1, 1, 2))
    with pytest.raises(InputError, match=r'\(1, 1, 2\)'):
        image_pool.query(
            image_pool.init(2, (1, 1, 2)), np.zeros((3, 1, 2, 2), np.float32), jax.random.key(0)
        )
