"""GAN losses against their formulas."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.losses import adversarial

LOGITS = np.random.default_rng(0).normal(size=(3, 4, 5, 1)).astype(np.float32)
WEIGHT = np.array([1.0, 0.0, 0.5], np.float32)


@pytest.mark.parametrize('target', [0.0, 1.0])
def test_is_the_mean_square_distance(target):
    total = count = 0.0
    for b, i, j in np.ndindex(3, 4, 5):
        total += WEIGHT[b] * (float(LOGITS[b, i, j, 0]) - target) ** 2
        count += WEIGHT[b]
    np.testing.assert_allclose(
        adversarial.least_squares(LOGITS, target, WEIGHT), (total, count), rtol=1e-6
    )


def test_literal_values():
    # Squares 1, 0, 4 and 9 around target 1.
    logits = np.float32([[[[0], [1]], [[3], [-2]]]])
    assert adversarial.least_squares(logits, 1.0, np.ones(1)).value() == 14 / 4


def test_gradient():
    gradient = jax.grad(lambda x: adversarial.least_squares(x, 1.0, WEIGHT).value())(LOGITS)
    expected = WEIGHT[:, None, None, None] * 2 * (LOGITS - 1) / (20 * WEIGHT.sum())
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_padding_leaves_no_trace_and_bfloat16_is_summed_in_float32():
    poisoned = LOGITS.copy()
    poisoned[1] = np.nan
    clean = adversarial.least_squares(LOGITS, 1.0, WEIGHT)
    np.testing.assert_array_equal(adversarial.least_squares(poisoned, 1.0, WEIGHT), clean)
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    got = adversarial.least_squares(half, 1.0, WEIGHT)
    chex.assert_type(tuple(got), jnp.float32)
    np.testing.assert_array_equal(
        got, adversarial.least_squares(half.astype(jnp.float32), 1.0, WEIGHT)
    )


# --- several scales -------------------------------------------------------------------------------

FINE = np.random.default_rng(1).normal(size=(3, 7, 9, 1)).astype(np.float32)


@pytest.mark.parametrize('target', [0.0, 1.0])
def test_scales_are_averaged_apart_and_added(target):
    got = adversarial.least_squares_of_scales((FINE, LOGITS), target, WEIGHT)
    expected = sum(adversarial.least_squares(x, target, WEIGHT).value() for x in (FINE, LOGITS))
    np.testing.assert_allclose(got.value(), expected, rtol=1e-6)
    assert got.count == WEIGHT.sum()


def test_the_sum_over_scales_can_be_split_into_batches():
    whole = adversarial.least_squares_of_scales((FINE, LOGITS), 1.0, WEIGHT)
    parts = [
        adversarial.least_squares_of_scales((FINE[i], LOGITS[i]), 1.0, WEIGHT[i])
        for i in (slice(1), slice(1, 3))
    ]
    np.testing.assert_allclose(whole, np.sum(parts, 0), rtol=1e-6)


# --- logistic -------------------------------------------------------------------------------------


@pytest.mark.parametrize('target', [0.0, 1.0, 0.9])
def test_the_logistic_loss_is_the_cross_entropy_of_the_sigmoid(target):
    total = count = 0.0
    for b in range(3):
        count += WEIGHT[b]
        for logits in (FINE, LOGITS):
            losses = []
            for logit in logits[b].reshape(-1).astype(np.float64):
                real = 1 / (1 + np.exp(-logit))
                losses.append(-target * np.log(real) - (1 - target) * np.log(1 - real))
            total += WEIGHT[b] * np.mean(losses)
    got = adversarial.logistic_of_scales((FINE, LOGITS), target, WEIGHT)
    np.testing.assert_allclose(got, (total, count), rtol=1e-6)


def test_the_logistic_loss_does_not_overflow():
    logits = np.float32([-1000, 0, 1000]).reshape(1, 1, 3, 1)
    for target, expected in ((1.0, 1000 + np.log(2)), (0.0, np.log(2) + 1000)):
        mean, gradient = jax.value_and_grad(
            lambda x, target=target: adversarial.logistic_of_scales([x], target, np.ones(1)).value()
        )(logits)
        np.testing.assert_allclose(mean, expected / 3, rtol=1e-6)
        np.testing.assert_allclose(gradient.ravel(), (np.array([0, 0.5, 1]) - target) / 3)


def test_losses_are_chosen_by_name():
    for kind, loss in adversarial.LOSSES.items():
        chex.assert_trees_all_equal(
            adversarial.of_scales(kind, [LOGITS], 1.0, WEIGHT), loss([LOGITS], 1.0, WEIGHT)
        )
    with pytest.raises(InputError, match="did you mean 'logistic'"):
        adversarial.of_scales('logistics', [LOGITS], 1.0, WEIGHT)
