"""Epsilon of DP-SGD against published values, the exact Gaussian curve, and an integral."""

import importlib
import math

import pytest
from scipy import integrate, optimize, special, stats

from segjax.errors import InputError
from segjax.tasks import accountant


@pytest.fixture
def library():
    return pytest.importorskip('dp_accounting')


def gaussian_delta(epsilon, mu):
    """Returns delta of a Gaussian mechanism with sensitivity mu times its deviation.

    Balle and Wang, ICML 2018, Theorem 8.
    """
    above = stats.norm.cdf(mu / 2 - epsilon / mu)
    below = stats.norm.cdf(-mu / 2 - epsilon / mu)
    return above - math.exp(epsilon) * below


@pytest.mark.parametrize('steps, noise', [(1, 2.0), (100, 10.0), (20, 3.0)])
def test_without_sampling_epsilon_is_that_of_one_gaussian(library, steps, noise):
    """T steps with the deviation s are one step with the deviation s / sqrt(T)."""
    mu = math.sqrt(steps) / noise
    exact = optimize.brentq(lambda e: gaussian_delta(e, mu) - 1e-5, 0, 50)
    got = accountant.epsilon(50, 50, steps, noise, 1e-5)
    assert exact <= got + 1e-6 and got == pytest.approx(exact, rel=1e-3)
    assert exact < accountant.epsilon(50, 50, steps, noise, 1e-5, 'rdp') < 1.2 * exact


def test_a_sampled_step_is_the_integral_of_its_definition(library):
    """delta = integral of max(0, mixture - e^epsilon noise), for an example that is removed."""
    share, noise = 0.1, 1.0
    epsilon = accountant.epsilon(1000, 100, 1, noise, 1e-5)

    def excess(x):
        without = stats.norm.pdf(x, 0, noise)
        mixture = (1 - share) * without + share * stats.norm.pdf(x, 1, noise)
        return max(0.0, mixture - math.exp(epsilon) * without)

    delta, _ = integrate.quad(excess, -10, 12, points=[3, 4, 5], limit=400)
    assert delta == pytest.approx(1e-5, rel=2e-3)


def test_the_example_of_abadi_et_al(library):
    """q = 0.01, sigma = 4, delta = 1e-5, T = 10000: epsilon 1.26 (CCS 2016, Sec. 3.2).

    The conversion of Rényi divergences to epsilon has become tighter since, and 'pld' is tighter
    again. The central limit of many steps is near it (Bu et al., HDSR 2020).
    """
    old = accountant.epsilon(100_000, 1000, 10_000, 4.0, 1e-5, 'rdp')
    tight = accountant.epsilon(100_000, 1000, 10_000, 4.0, 1e-5, 'pld')
    mu = 0.01 * math.sqrt(10_000 * (math.exp(1 / 16) - 1))
    limit = optimize.brentq(lambda e: gaussian_delta(e, mu) - 1e-5, 0, 5)
    assert tight < old < 1.26
    assert tight == pytest.approx(limit, rel=0.02)


def renyi_divergences(share, noise, steps):
    """Returns {order: divergence} of sampled Gaussian steps, at whole orders.

    Mironov, Talwar, Zhang: Rényi Differential Privacy of the Sampled Gaussian Mechanism, 2019,
    Sec. 3.3.
    """
    divergences = {}
    for order in range(2, 64):
        terms = []
        for k in range(order + 1):
            chosen = math.log(math.comb(order, k)) + (order - k) * math.log(1 - share)
            terms.append(chosen + k * math.log(share) + (k * k - k) / (2 * noise**2))
        divergences[order] = steps * special.logsumexp(terms) / (order - 1)
    return divergences


@pytest.mark.parametrize('noise, epochs, published', [(1.3, 15, 1.19), (1.1, 60, 3.01)])
def test_the_tutorial_of_mnist(library, noise, epochs, published):
    """The table of the MNIST tutorial of TensorFlow Privacy: 60,000 images in batches of 256.

    The tutorial converts divergences as Mironov, CSF 2017, Proposition 3. Our number has the
    tighter conversion of Canonne, Kamath and Steinke, NeurIPS 2020, Proposition 12.
    """
    steps = epochs * 60_000 // 256
    old, new = [], []
    for order, divergence in renyi_divergences(256 / 60_000, noise, steps).items():
        old.append(divergence + math.log(1e5) / (order - 1))
        gain = math.log(1 - 1 / order) - math.log(order) / (order - 1)
        new.append(old[-1] + gain)
    assert min(old) == pytest.approx(published, abs=0.01)
    got = accountant.epsilon(60_000, 256, steps, noise, 1e-5, 'rdp')
    assert got == pytest.approx(min(new), rel=0.01)


def test_more_noise_fewer_steps_and_smaller_batches_are_more_private(library):
    start = accountant.epsilon(2000, 20, 100, 1.0, 1e-4)
    assert accountant.epsilon(2000, 20, 100, 1.5, 1e-4) < start
    assert accountant.epsilon(2000, 20, 50, 1.0, 1e-4) < start
    assert accountant.epsilon(2000, 10, 100, 1.0, 1e-4) < start
    assert accountant.epsilon(2000, 20, 100, 1.0, 1e-3) < start
    assert accountant.epsilon(2000, 20, 100, 0.0, 1e-4) == math.inf
    assert accountant.epsilon(2000, 20, 0, 1.0, 1e-4) == 0


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((10, 11, 1, 1.0, 1e-5), 'batch_size'),
        ((10, 0, 1, 1.0, 1e-5), 'batch_size'),
        ((10, 5, -1, 1.0, 1e-5), 'num_steps'),
        ((10, 5, 1, -1.0, 1e-5), 'noise_multiplier'),
        ((10, 5, 1, 1.0, 0.0), 'delta'),
        ((10, 5, 1, 1.0, 1e-5, 'prv'), 'accountant'),
    ],
)
def test_wrong_numbers_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        accountant.epsilon(*arguments)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, 'import_module', missing)
    with pytest.raises(InputError, match='pip install dp-accounting'):
        accountant.epsilon(100, 10, 10, 1.0, 1e-5)
