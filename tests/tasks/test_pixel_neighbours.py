"""Pixel-wise nearest neighbours against loops over all pixels, and in cases with a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.tasks import pixel_neighbours as neighbours

H, W, C, K = 7, 9, 5, 4


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def by_loop(query, candidates, radius):
    """Returns (similarity, place) of `match_pixels`, in plain loops."""
    count, height, width, _ = candidates.shape
    similarity = np.full((count, height, width), -np.inf)
    place = np.zeros((count, height, width), int)
    for k, i, j, u, v in np.ndindex(count, height, width, height, width):
        if 0 <= radius < max(abs(i - u), abs(j - v)):
            continue
        value = cosine(query[i, j].astype(float), candidates[k, u, v].astype(float))
        if value > similarity[k, i, j]:
            similarity[k, i, j] = value
            place[k, i, j] = u * width + v
    return similarity, place


@pytest.mark.parametrize('radius', [0, 2, -1])
@pytest.mark.parametrize('chunk', [1024, 10])
def test_matching_is_the_loop_over_the_window(radius, chunk):
    query = normal(H, W, C)
    candidates = normal(2, H, W, C, seed=1)
    got = neighbours.match_pixels(query, candidates, radius, chunk)
    similarity, place = by_loop(query, candidates, radius)
    np.testing.assert_allclose(got.similarity, similarity, atol=1e-6)
    np.testing.assert_array_equal(got.place, place)


def test_a_moved_image_is_copied_from_where_it_came():
    scene = normal(H + 4, W + 4, C)
    colors = np.random.default_rng(2).integers(0, 256, (H + 4, W + 4, 3)).astype(np.uint8)
    query = scene[2 : 2 + H, 3 : 3 + W]
    moved = scene[1 : 1 + H, 1 : 1 + W]  # by one row and two columns
    images = colors[1 : 1 + H, 1 : 1 + W]
    members = np.ones((1, 1), bool)
    image = neighbours.generate(query, moved[None], images[None], members, radius=2)[0]
    assert image.dtype == np.uint8
    inside = np.s_[: H - 1, : W - 2]
    np.testing.assert_array_equal(image[inside], colors[2 : 2 + H, 3 : 3 + W][inside])
    # With a smaller window most pixels cannot be reached.
    near = neighbours.generate(query, moved[None], images[None], members, radius=1)[0]
    assert np.any(near[inside] != colors[2 : 2 + H, 3 : 3 + W][inside])


def test_each_output_chooses_among_its_own_images():
    query = normal(H, W, C)
    candidates = normal(K, H, W, C, seed=1)
    images = np.random.default_rng(3).integers(0, 256, (K, H, W, 3)).astype(np.uint8)
    members = np.array([[1, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]], bool)
    outputs = np.asarray(neighbours.generate(query, candidates, images, members, radius=1))
    similarity, place = by_loop(query, candidates, 1)
    for n, i, j in np.ndindex(3, H, W):
        allowed = [k for k in range(K) if members[n, k]]
        k = max(allowed, key=lambda k: similarity[k, i, j])
        expected = images[k].reshape(-1, 3)[place[k, i, j]]
        np.testing.assert_array_equal(outputs[n, i, j], expected)


def test_the_query_itself_is_copied_exactly():
    query = normal(H, W, C)
    candidates = np.stack([normal(H, W, C, seed=1), query])
    images = normal(2, H, W, 3, seed=4)
    both = np.ones((1, 2), bool)
    image = neighbours.generate(query, candidates, images, both, radius=-1)[0]
    np.testing.assert_array_equal(image, images[1])


def test_the_length_of_features_does_not_matter():
    query = normal(H, W, C)
    candidates = normal(2, H, W, C, seed=1)
    scale = np.random.default_rng(5).uniform(0.1, 9, (2, H, W, 1)).astype(np.float32)
    plain = neighbours.match_pixels(query, candidates, 3)
    scaled = neighbours.match_pixels(7 * query, scale * candidates, 3)
    np.testing.assert_array_equal(plain.place, scaled.place)


def test_memory_is_that_of_a_chunk():
    query = jax.ShapeDtypeStruct((64, 64, 8), jnp.float32)
    candidates = jax.ShapeDtypeStruct((10, 64, 64, 8), jnp.float32)

    def temporary(chunk):
        match = jax.jit(lambda q, c: neighbours.match_pixels(q, c, 5, chunk))
        return match.lower(query, candidates).compile().memory_analysis().temp_size_in_bytes

    small = temporary(64)
    # The table of all pairs of pixels of an image would hold 4096^2 numbers.
    assert small < 8 * 64 * 4096 * 4 < 4096**2 * 4
    assert temporary(1024) > 4 * small


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('chunk', [3, 100])
def test_nearest_images_are_sorted_by_cosine(chunk):
    query = normal(2, 6)
    bank = normal(11, 6, seed=1)
    got = neighbours.nearest_images(query, bank, 5, chunk)
    for b in range(2):
        similarity = np.array([cosine(query[b], row) for row in bank])
        np.testing.assert_array_equal(got[b], np.argsort(-similarity)[:5])


def test_equal_images_keep_their_order():
    bank = np.repeat(normal(1, 4), 7, 0)
    for chunk in (2, 100):
        got = neighbours.nearest_images(bank[:1], bank, 4, chunk)
        np.testing.assert_array_equal(got, [[0, 1, 2, 3]])


def test_too_few_images():
    with pytest.raises(InputError, match='1 to 3'):
        neighbours.nearest_images(normal(1, 4), normal(3, 4), 4)
    with pytest.raises(InputError, match='1 to 3'):
        neighbours.member_sets(np.random.default_rng(0), 2, 3, 4)


def test_sets_of_images():
    members = neighbours.member_sets(np.random.default_rng(0), 72, 20, 5)
    assert members.shape == (72, 20)
    np.testing.assert_array_equal(members.sum(1), 5)
    np.testing.assert_array_equal(members[0], np.arange(20) < 5)
    assert len({row.tobytes() for row in members}) > 60
    again = neighbours.member_sets(np.random.default_rng(0), 72, 20, 5)
    np.testing.assert_array_equal(members, again)


# --- features -------------------------------------------------------------------------------------


def test_every_layer_counts_equally_in_a_pixel():
    layers = {'a': normal(2, 8, 8, 3), 'b': 100 * normal(2, 4, 4, 6, seed=1)}
    features = np.asarray(neighbours.pixel_features(layers, (8, 8)))
    assert features.shape == (2, 8, 8, 9)
    for part in (features[..., :3], features[..., 3:]):
        np.testing.assert_allclose((part**2).sum(-1), 0.5, rtol=1e-5)
    a = layers['a'] / np.linalg.norm(layers['a'], axis=-1, keepdims=True)
    np.testing.assert_allclose(features[..., :3], a / 2**0.5, rtol=1e-5)


def test_global_features_forget_the_place():
    layer = normal(2, 4, 6, 5)
    features = np.asarray(neighbours.global_features(layer))
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        features, neighbours.global_features(layer[:, ::-1, ::-1]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(neighbours.unit(np.zeros((1, 3))), 0)
