"""Residual of a latent against a loop over classes, numpy's eigh and a hidden image."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import residual as ops

S = 6


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


residual_of = jax.jit(ops.latent_residual)
picture_of = jax.jit(ops.residual_picture, static_argnums=1)


@pytest.fixture(scope='module')
def hidden():
    """Returns (latent, picture): logits of +-10 per class, in which a picture in [-1, 1] is hidden.

    The picture has amplitude 1e-3. A vector per colour mixes it into the classes.
    """
    rng = np.random.default_rng(0)
    h, w = 64, 96
    y, x = np.mgrid[:h, :w]
    label = (y // 16 + x // 24) % S
    waves = [
        np.sin(0.3 * x + 0.2 * y),
        0.4 * np.sign(np.sin(0.5 * y)),
        0.2 * np.cos(0.9 * x - 0.4 * y),
    ]
    picture = np.stack(waves, -1)
    # Orthonormal, so that each colour is a principal component.
    mixing = np.linalg.qr(rng.standard_normal((S, 3)))[0].T
    latent = 20 * np.eye(S)[label] - 10 + 1e-3 * picture @ mixing
    return latent.astype(np.float32)[None], picture


def test_residual_is_the_loop_over_classes():
    latent = normal(2, 5, 7, S)
    expected = latent.astype(np.float64)
    for b in range(2):
        label = latent[b].argmax(-1)
        for c in np.unique(label):
            expected[b, label == c] -= expected[b, label == c].mean(0)
    got = residual_of(latent)
    chex.assert_type(got, jnp.float32)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_label_map_has_no_residual():
    label = np.random.default_rng(0).integers(0, S, (1, 40, 50))
    label[label == 2] = 0  # class 2 never occurs
    vectors = normal(S, S) + 30 * np.eye(S, dtype=np.float32)
    residual = residual_of(vectors[label])
    assert np.abs(residual).max() < 1e-5
    assert ops.residual_share(residual, vectors[label]) < 1e-12


def test_share_of_the_energy():
    latent = normal(2, 8, 9, S, seed=1)
    residual = np.asarray(residual_of(latent))
    means = latent - residual
    share = ops.residual_share(residual, latent)
    expected = [(residual[b] ** 2).sum() / (latent[b] ** 2).sum() for b in range(2)]
    np.testing.assert_allclose(share, expected, rtol=1e-5)
    # Pythagoras: class means and residual are orthogonal, so the shares add up to 1.
    np.testing.assert_allclose(share + ops.residual_share(means, latent), 1, rtol=1e-5)


def test_picture_is_the_principal_components_of_numpy():
    residual = normal(2, 9, 11, S) * np.float32([3, 1, 0.1, 2, 0.5, 0.2]) + 5
    strength = 0.8
    expected = np.zeros((2, 9, 11, 3))
    for b in range(2):
        rows = residual[b].reshape(-1, S).astype(np.float64)
        rows -= rows.mean(0)
        values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
        for k in range(3):
            vector = vectors[:, -1 - k]
            vector = vector * np.sign(vector[np.abs(vector).argmax()])
            score = rows @ vector
            # Black at -3 standard deviations over the strength, white at +3.
            shade = (strength * score / score.std() + 3) / 6 * 255
            expected[b, ..., k] = np.clip(np.round(shade), 0, 255).reshape(9, 11)
            np.testing.assert_allclose(score.std() ** 2, values[-1 - k])
    picture = picture_of(residual, strength)
    chex.assert_type(picture, jnp.uint8)
    chex.assert_shape(picture, (2, 9, 11, 3))
    assert np.abs(np.asarray(picture, int) - expected).max() <= 1  # a shade on the edge of rounding


def test_a_hidden_image_is_seen(hidden):
    latent, picture = hidden
    residual = residual_of(latent)
    share = float(ops.residual_share(residual, latent)[0])
    assert share < 1e-8  # invisible in the latent itself
    painted = np.asarray(picture_of(residual)[0], float)
    for k in range(3):  # strongest colour first
        correlation = np.corrcoef(painted[..., k].ravel(), picture[..., k].ravel())[0, 1]
        assert abs(correlation) > 0.9, k
    # The picture is not in the label map: a one-hot latent shows nothing.
    blank = picture_of(residual_of(np.eye(S, dtype=np.float32)[latent.argmax(-1)]))
    assert len(np.unique(blank)) == 1


def test_components_that_are_absent_or_rounding_stay_grey():
    wave = np.sin(np.arange(60, dtype=np.float32)).reshape(1, 6, 10, 1)
    one = np.asarray(picture_of(wave * np.float32([1, 2, -0.5, 3])))  # rank 1
    assert len(np.unique(one[..., 0])) > 10 and set(np.unique(one[..., 1:])) == {128}
    two = np.asarray(picture_of(normal(1, 6, 10, 2)))
    assert len(np.unique(two[..., 1])) > 10 and set(np.unique(two[..., 2])) == {128}
    assert set(np.unique(picture_of(np.zeros((1, 6, 10, S), np.float32)))) == {128}


def test_bfloat16_is_computed_in_float32():
    latent = jnp.asarray(normal(1, 16, 16, S), jnp.bfloat16)
    residual = residual_of(latent)
    exact = residual_of(latent.astype(jnp.float32))
    chex.assert_type(residual, jnp.float32)
    np.testing.assert_array_equal(residual, exact)
