"""Accuracy of the best samples and diversity of all samples, against loops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.metrics import image, samples

RNG = np.random.default_rng(0)
NAN, INF = np.nan, np.inf
VALUES = RNG.normal(size=(6, 5)).astype(np.float32)
VALUES[1, 0] = NAN
VALUES[2, 1:] = NAN
VALUES[3] = NAN
VALUES[4, [0, 1]] = -INF, INF
VALUES[5, :3] = NAN


def best_by_loop(row, larger):
    winner = NAN
    for value in row:
        if np.isnan(value):
            continue
        if np.isnan(winner) or (value > winner if larger else value < winner):
            winner = value
    return winner


@pytest.mark.parametrize('larger', [True, False])
def test_best_is_the_loop_and_absent_values_never_win(larger):
    expected = [best_by_loop(row, larger) for row in VALUES]
    got = samples.best(VALUES, larger)
    chex.assert_type(got, jnp.float32)
    np.testing.assert_array_equal(got, expected)
    in_two_axes = samples.best(VALUES.reshape(2, 3, 5), larger)
    np.testing.assert_array_equal(in_two_axes, np.reshape(expected, (2, 3)))


@pytest.mark.parametrize('larger', [True, False])
def test_best_of_first_has_the_best_of_every_number_of_samples(larger):
    expected = [[best_by_loop(row[: k + 1], larger) for k in range(5)] for row in VALUES]
    np.testing.assert_array_equal(samples.best_of_first(VALUES, larger), expected)


@pytest.mark.parametrize('larger', [True, False])
@pytest.mark.parametrize('k', [1, 2, 5])
def test_top_mean_is_the_loop(k, larger):
    finite = VALUES[[0, 1, 2, 3, 5]]
    expected = []
    for row in finite:
        present = sorted((float(v) for v in row if not np.isnan(v)), reverse=larger)
        expected.append(np.mean(present[:k]) if present else NAN)
    np.testing.assert_allclose(samples.top_mean(finite, k, larger), expected, rtol=1e-6)


def test_top_mean_of_the_best_is_the_best_with_infinite_values():
    for larger in (True, False):
        best = samples.best(VALUES, larger)
        np.testing.assert_array_equal(samples.top_mean(VALUES, 1, larger), best)
    only_infinite = np.array([[-INF, NAN]], np.float32)
    assert samples.top_mean(only_infinite, 2, True)[0] == -INF


@pytest.mark.parametrize('k', [0, 6])
def test_top_mean_names_a_wrong_number(k):
    with pytest.raises(InputError, match=r'expected: 1 \.\. 5'):
        samples.top_mean(VALUES, k, True)


def test_spread_is_the_standard_deviation_averaged_over_the_units():
    features = RNG.normal(3, 2, (2, 4, 3, 5, 6)).astype(np.float32)
    expected = []
    for example in features.astype(np.float64):
        deviations = []
        for unit in np.ndindex(3, 5, 6):
            values = [example[(i, *unit)] for i in range(4)]
            mean = sum(values) / 4
            deviations.append(np.sqrt(sum((value - mean) ** 2 for value in values) / 4))
        expected.append(np.mean(deviations))
    got = samples.spread(features)
    chex.assert_type(got, jnp.float32)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    vectors = samples.spread(features.reshape(2, 4, -1).astype(jnp.bfloat16))
    np.testing.assert_allclose(vectors, expected, rtol=1e-2)


def test_spread_sees_no_common_offset_and_scales_with_the_features():
    features = RNG.normal(size=(1, 7, 10)).astype(np.float32)
    expected = samples.spread(features)
    np.testing.assert_allclose(samples.spread(features + 1000), expected, rtol=1e-3)
    np.testing.assert_allclose(samples.spread(-3 * features), 3 * expected, rtol=1e-5)
    assert float(samples.spread(features[:, :1])[0]) == 0


def test_distances_to_the_centre_are_the_loop():
    images = RNG.integers(0, 256, (3, 4, 5, 7, 3)).astype(np.uint8)
    largest, mean = [], []
    for example in images.astype(np.float64):
        centre = sum(example) / 4
        distances = [np.sqrt(np.mean((sample - centre) ** 2)) for sample in example]
        largest.append(max(distances))
        mean.append(sum(distances) / 4)
    got = samples.distances_to_centre(images)
    chex.assert_type(got.mean, jnp.float32)
    np.testing.assert_allclose(got.largest, largest, rtol=1e-5)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-5)


def test_equal_samples_have_no_distance():
    images = np.broadcast_to(RNG.random((2, 1, 5, 7, 3)), (2, 3, 5, 7, 3)).astype(np.float32)
    got = samples.distances_to_centre(images)
    np.testing.assert_allclose(got.largest, 0, atol=1e-6)
    two = samples.distances_to_centre(np.float32([0, 10]).reshape(1, 2, 1, 1, 1))
    assert (float(two.largest[0]), float(two.mean[0])) == (5, 5)


@pytest.mark.parametrize('metric', [image.rmse, image.ssim])
def test_every_sample_is_compared_with_the_truth_of_its_input(metric):
    truth = RNG.random((2, 12, 13, 3)).astype(np.float32)
    others = RNG.random((2, 3, 12, 13, 3)).astype(np.float32)
    values = jax.jit(lambda x, y: samples.of_samples(metric, x, y))(truth, others)
    expected = np.stack([metric(truth, others[:, i]) for i in range(3)], 1)
    np.testing.assert_allclose(values, expected, atol=1e-5)
