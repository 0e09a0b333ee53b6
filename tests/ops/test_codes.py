"""Latent drop-out codes: Eqs. 5.2 and 5.3 against loops, whole channels, mean and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.ops import codes


def features_of(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def dropped_by_a_loop(image, code, ratio):
    """Eq. 5.2 for features [H, W, C] and a code [C]."""
    result = np.zeros_like(image)
    height, width, channels = image.shape
    for h in range(height):
        for w in range(width):
            for c in range(channels):
                kept = 1 if code[c] > ratio else 0
                result[h, w, c] = image[h, w, c] * kept / (1 - ratio)
    return result


@pytest.mark.parametrize('ratio', [0.0, 0.3, 0.5])
def test_a_code_drops_whole_channels_as_eq_5_2(ratio):
    features = features_of(2, 3, 4, 5, 6)  # examples, branches
    code = np.asarray(codes.draw(jax.random.key(0), 2, (3, 6)))
    result = jax.jit(lambda x, z: codes.drop(x, z, ratio))(features, code)
    for b in range(2):
        for n in range(3):
            expected = dropped_by_a_loop(features[b, n], code[b, n], ratio)
            np.testing.assert_allclose(result[b, n], expected, rtol=1e-6)
    is_dropped = (np.asarray(result) == 0).all((2, 3))
    np.testing.assert_array_equal(is_dropped, code <= ratio)


def test_a_number_equal_to_the_ratio_is_dropped():
    np.testing.assert_array_equal(
        codes.keep(jnp.array([0.49, 0.5, 0.51]), 0.5), [False, False, True]
    )


def test_a_classic_code_drops_each_feature_on_its_own():
    features = features_of(2, 3, 4, 5)
    code = np.random.default_rng(1).uniform(size=(2, 3, 4, 5)).astype(np.float32)
    expected = np.where(code > 0.25, features / 0.75, 0)
    np.testing.assert_allclose(codes.drop(features, code, 0.25), expected, rtol=1e-6)


def test_shared_codes_broadcast_over_examples():
    features = features_of(2, 1, 3, 4, 5)
    code = codes.draw(jax.random.key(0), 6, (5,))
    result = codes.drop(features, code[None], 0.5)
    assert result.shape == (2, 6, 3, 4, 5)
    each = jnp.broadcast_to(code, (2, 6, 5))
    np.testing.assert_array_equal(result, codes.drop(features, each, 0.5))


def test_equal_codes_give_equal_features_whatever_the_place():
    features = np.broadcast_to(features_of(3, 4, 8), (3, 3, 4, 8))
    code = codes.draw(jax.random.key(0), 2, (8,))
    result = codes.drop(features, code[jnp.array([0, 1, 0])], 0.5)
    np.testing.assert_array_equal(result[0], result[2])
    assert (result[0] != result[1]).any()


@pytest.mark.parametrize('shape', [(64,), (2, 2, 64)])
def test_the_mean_over_codes_is_the_input(shape):
    features = np.ones((2, 2, 64), np.float32)
    code = codes.draw(jax.random.key(3), 4000, shape)
    result = codes.drop(features[None], code, 0.3)
    # Each feature is 0 or 1 / 0.7, with a variance of 0.3 / 0.7.
    deviation = np.abs(np.asarray(result).mean(0) - 1).max()
    assert deviation < 5 * (0.3 / 0.7 / 4000) ** 0.5


def test_draws_are_uniform_reproducible_and_never_0():
    first = codes.draw(jax.random.key(0), 500, (40,))
    np.testing.assert_array_equal(first, codes.draw(jax.random.key(0), 500, (40,)))
    assert first.shape == (500, 40) and first.dtype == jnp.float32
    assert first.min() > 0 and first.max() < 1
    share, _ = np.histogram(first, bins=10, range=(0, 1))
    np.testing.assert_allclose(share / first.size, 0.1, atol=0.01)
    assert codes.keep(first, 0.0).all()


def test_dropped_features_get_no_gradient_and_stop_infinities():
    features = np.full((1, 1, 3), np.inf, np.float32)
    features[..., 0] = 2
    code = jnp.array([0.9, 0.1, 0.2])
    np.testing.assert_array_equal(codes.drop(features, code, 0.5)[0, 0], [4, 0, 0])
    gradient = jax.grad(lambda x: codes.drop(x, code, 0.5).sum())(features)
    np.testing.assert_array_equal(gradient[0, 0], [2, 0, 0])


def test_bfloat16_stays_bfloat16():
    features = features_of(2, 2, 8).astype(jnp.bfloat16)
    code = codes.draw(jax.random.key(0), 1, (8,))[0]
    result = codes.drop(features, code, 0.5)
    assert result.dtype == jnp.bfloat16
    expected = dropped_by_a_loop(features.astype(np.float32), np.asarray(code), 0.5)
    np.testing.assert_array_equal(result.astype(np.float32), expected)


def test_interpolation_is_eq_5_3():
    first, second = codes.draw(jax.random.key(0), 2, (9,))
    np.testing.assert_array_equal(codes.interpolate(first, second, 1.0), first)
    np.testing.assert_array_equal(codes.interpolate(first, second, 0.0), second)
    for share in (0.25, 0.5, 0.75):
        expected = [share * z + (1 - share) * y for z, y in zip(first, second, strict=True)]
        np.testing.assert_allclose(codes.interpolate(first, second, share), expected, rtol=1e-6)


def test_every_channel_changes_at_most_once_on_the_way():
    first, second = codes.draw(jax.random.key(1), 2, (200,))
    shares = np.linspace(0, 1, 21)[:, None]
    kept = np.asarray(codes.keep(codes.interpolate(first, second, shares), 0.5))
    changes = (kept[1:] != kept[:-1]).sum(0)
    np.testing.assert_array_equal(changes, kept[0] != kept[-1])


@pytest.mark.parametrize('ratio', [1.0, -0.1, float('nan')])
def test_a_ratio_that_keeps_nothing_is_an_error(ratio):
    with pytest.raises(InputError, match='not including, 1'):
        codes.keep(jnp.zeros(3), ratio)


@pytest.mark.parametrize('shape', [(5,), (2, 4, 4), (2, 3, 4), (2, 3, 4, 4), (2, 3, 1, 5)])
def test_codes_of_another_shape_are_an_error(shape):
    with pytest.raises(InputError, match=r'codes \[\.\.\., C\]'):
        codes.drop(np.zeros((2, 3, 4, 5), np.float32), jnp.zeros(shape), 0.5)
