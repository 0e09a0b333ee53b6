"""Divergence of latent codes from the standard normal distribution."""

import jax
import numpy as np
import pytest

from segjax.losses import latent

RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=(3, 4)).astype(np.float32)
LOG_VARIANCE = RNG.normal(size=(3, 4)).astype(np.float32)
WEIGHT = np.array([1.0, 0.0, 0.5], np.float32)


def test_the_standard_normal_distribution_has_no_divergence_and_no_gradient():
    zeros = np.zeros((2, 8), np.float32)

    def loss(mean, log_variance):
        return latent.kl_to_standard_normal(mean, log_variance, np.ones(2)).sum

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(zeros, zeros)
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('mean, variance', [(0.0, 0.25), (1.5, 1.0), (-0.7, 3.0)])
def test_is_the_integral_of_the_definition(mean, variance):
    x = np.linspace(-30, 30, 200_001)
    log_p = -((x - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
    log_q = -(x**2) / 2 - np.log(2 * np.pi) / 2
    expected = np.trapezoid(np.exp(log_p) * (log_p - log_q), x)
    got = latent.kl_to_standard_normal(
        np.float32([[mean]]), np.float32([[np.log(variance)]]), np.ones(1)
    )
    np.testing.assert_allclose(got.value(), expected, rtol=1e-5)


def test_dimensions_are_added_and_examples_averaged():
    total = 0.0
    for b, d in np.ndindex(3, 4):
        variance = np.exp(float(LOG_VARIANCE[b, d]))
        divergence = (MEAN[b, d] ** 2 + variance - 1 - LOG_VARIANCE[b, d]) / 2
        total += WEIGHT[b] * divergence
    got = latent.kl_to_standard_normal(MEAN, LOG_VARIANCE, WEIGHT)
    np.testing.assert_allclose(got, (total, 1.5), rtol=1e-6)


def test_the_divergence_of_a_map_is_the_mean_over_its_cells():
    mean = RNG.normal(size=(3, 2, 5, 4)).astype(np.float32)
    log_variance = RNG.normal(size=(3, 2, 5, 4)).astype(np.float32)
    total = 0.0
    for b, u, v, d in np.ndindex(3, 2, 5, 4):
        s = float(log_variance[b, u, v, d])
        total += WEIGHT[b] * (mean[b, u, v, d] ** 2 + np.exp(s) - 1 - s) / 2
    got = latent.kl_to_standard_normal(mean, log_variance, WEIGHT)
    np.testing.assert_allclose(got, (total, 1.5 * 10), rtol=1e-5)

    # A map of equal codes has the divergence of its code.
    equal = [np.broadcast_to(x[:, None, None], (3, 2, 5, 4)) for x in (MEAN, LOG_VARIANCE)]
    single = latent.kl_to_standard_normal(MEAN, LOG_VARIANCE, WEIGHT)
    got = latent.kl_to_standard_normal(*equal, WEIGHT)
    np.testing.assert_allclose(got.value(), single.value(), rtol=1e-5)

    standard = np.zeros((2, 3, 4, 8), np.float32)
    assert latent.kl_to_standard_normal(standard, standard, np.ones(2)).value() == 0


def test_a_small_divergence_keeps_its_digits():
    # To second order the divergence of N(0, 1 + e) is e^2 / 4.
    tiny = np.full((1, 1), 1e-3, np.float32)
    got = latent.kl_to_standard_normal(np.zeros((1, 1)), tiny, np.ones(1))
    np.testing.assert_allclose(got.value(), 1e-6 / 4, rtol=2e-3)
