"""L1 between images against its formula, in both of its scales."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.losses import image

RNG = np.random.default_rng(0)
PREDICTION, TARGET = (RNG.normal(size=(3, 4, 5, 3)).astype(np.float32) for _ in range(2))
WEIGHT = np.array([1.0, 0.0, 0.5], np.float32)


@pytest.mark.parametrize('reduction, share', [('mean', 3), ('sum_channels', 1)])
def test_is_the_formula(reduction, share):
    total = count = 0.0
    for b, i, j in np.ndindex(3, 4, 5):
        total += WEIGHT[b] * sum(
            abs(float(PREDICTION[b, i, j, c]) - float(TARGET[b, i, j, c])) for c in range(3)
        )
        count += WEIGHT[b] * share
    np.testing.assert_allclose(
        image.l1(PREDICTION, TARGET, WEIGHT, reduction), (total, count), rtol=1e-6
    )


def test_the_literal_equation_is_three_times_the_mean_for_rgb():
    mean, literal = (image.l1(PREDICTION, TARGET, WEIGHT, r).value() for r in image.REDUCTIONS)
    np.testing.assert_allclose(literal, 3 * mean, rtol=1e-6)


def test_gradient_is_the_sign_and_zero_where_equal():
    prediction = PREDICTION.copy()
    prediction[0, 0, 0] = TARGET[0, 0, 0]
    gradient = jax.grad(lambda x: image.l1(x, TARGET, WEIGHT).value())(prediction)
    expected = WEIGHT[:, None, None, None] * np.sign(prediction - TARGET) / (60 * WEIGHT.sum())
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    np.testing.assert_array_equal(gradient[0, 0, 0], 0)


def test_padding_leaves_no_trace_and_bfloat16_is_summed_in_float32():
    poisoned = PREDICTION.copy()
    poisoned[1] = np.nan
    np.testing.assert_array_equal(
        image.l1(poisoned, TARGET, WEIGHT), image.l1(PREDICTION, TARGET, WEIGHT)
    )
    half = jnp.asarray(PREDICTION, jnp.bfloat16)
    got = image.l1(half, TARGET, WEIGHT)
    chex.assert_type(tuple(got), jnp.float32)
    np.testing.assert_array_equal(got, image.l1(half.astype(jnp.float32), TARGET, WEIGHT))


def test_bad_input():
    with pytest.raises(InputError, match='sum_channels'):
        image.l1(PREDICTION, TARGET, WEIGHT, 'sum')
    with pytest.raises(InputError, match='equal shapes'):  # and not a broadcast
        image.l1(PREDICTION, TARGET[..., :1], WEIGHT)
