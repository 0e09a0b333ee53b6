"""Accounts for the privacy of training with noisy gradients (DP-SGD), by Google's dp-accounting.

A training is (epsilon, delta)-private if, for all sets of results S and all training sets that
differ in one example, P(S) <= exp(epsilon) P'(S) + delta. segjax/core/private.py computes the
gradients.

Sources: Abadi et al., Deep Learning with Differential Privacy, CCS 2016. Mironov et al., Rényi
Differential Privacy of the Sampled Gaussian Mechanism, 2019 (rdp). Doroshenko et al., Connect the
Dots: Tighter Discrete Approximations of Privacy Loss Distributions, PETS 2022 (pld).
"""

import importlib
import math
import types

from segjax.errors import InputError, unknown_name

ACCOUNTANTS = {
    'pld': 'numerical composition of privacy loss distributions, the smaller bound',
    'rdp': 'Rényi differential privacy, the bound in most papers',
}
"""Names the accountants. Both return an upper bound of epsilon."""


def epsilon(
    num_examples: int,
    batch_size: int,
    num_steps: int,
    noise_multiplier: float,
    delta: float,
    accountant: str = 'pld',
) -> float:
    """Computes epsilon of a training with clipped and noised gradients.

    Training sets differ by an example that is added or removed. The bound is proven for batches
    that hold each example with the probability batch_size / num_examples, independently in each
    step. Batches of a shuffled epoch are drawn differently. As in most publications, the number is
    then an approximation.

    Args:
      num_examples: size of the training set.
      batch_size: examples of the global batch, at most num_examples.
      num_steps: optimiser steps. 0 gives epsilon 0.
      noise_multiplier: standard deviation of the noise in units of the clipping norm. Without noise
        epsilon is infinite.
      delta: in (0, 1), usually below 1 / num_examples.
      accountant: a name of ACCOUNTANTS.

    Raises:
      InputError: wrong numbers, or dp-accounting is not installed.
    """
    if accountant not in ACCOUNTANTS:
        raise unknown_name('accountant', accountant, ACCOUNTANTS)
    library = check(num_examples, batch_size, num_steps, noise_multiplier, delta)
    if not num_steps:
        return 0.0
    if not noise_multiplier:
        return math.inf

    noise = library.GaussianDpEvent(noise_multiplier)
    step = library.PoissonSampledDpEvent(batch_size / num_examples, noise)
    kinds = {'pld': library.pld.PLDAccountant, 'rdp': library.rdp.RdpAccountant}
    total = kinds[accountant]().compose(step, num_steps)
    return float(total.get_epsilon(delta))


def check(
    num_examples: int, batch_size: int, num_steps: int, noise_multiplier: float, delta: float
) -> types.ModuleType:
    """Returns the library that computes epsilon. Arguments and errors are those of `epsilon`."""
    _check_numbers(num_examples, batch_size, num_steps, noise_multiplier, delta)
    return load_library()


def load_library() -> types.ModuleType:
    """Returns the package dp_accounting. Raises InputError if it is not installed."""
    try:
        return importlib.import_module('dp_accounting')
    except ImportError as error:
        raise InputError(
            'privacy accountant',
            got='no package dp-accounting',
            expected='dp-accounting installed',
            fix='pip install dp-accounting',
        ) from error


def _check_numbers(
    num_examples: int, batch_size: int, num_steps: int, noise_multiplier: float, delta: float
) -> None:
    """Raises InputError for numbers that describe no training."""
    if not 1 <= batch_size <= num_examples:
        raise InputError(
            'batch_size', got=f'{batch_size}', expected=f'1 to {num_examples}, the examples'
        )
    if num_steps < 0:
        raise InputError('num_steps', got=f'{num_steps}', expected='0 or more')
    if not noise_multiplier >= 0:
        raise InputError('noise_multiplier', got=f'{noise_multiplier}', expected='a number >= 0')
    if not 0 < delta < 1:
        raise InputError(
            'delta',
            got=f'{delta}',
            expected='a number between 0 and 1, usually below 1 / num_examples',
        )
