"""The reconstruction loss of denoised maps: a plain loop, the region, gradients, limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.losses import inpainting
from segjax.losses.inpainting import reconstruction
from segjax.losses.segmentation import cross_entropy

B, H, W, K = 3, 4, 5, 6
RNG = np.random.default_rng(0)
SCORES = (2 * RNG.dirichlet(np.ones(K), (B, H, W))).astype(np.float32)
LABEL = RNG.choice([0, 1, 2, 3, 4, 5, 255], (B, H, W))
REGION = RNG.random((B, H, W)) < 0.5
WEIGHT = np.float32([1, 0, 0.5])


def by_loop(form, region):
    total = 0.0
    count = 0.0
    for b, y, x in np.ndindex(B, H, W):
        label = LABEL[b, y, x]
        if label == 255 or (region is not None and not region[b, y, x]):
            continue
        score = float(SCORES[b, y, x, label])
        total += WEIGHT[b] * (-math.log(score) if form == 'neg_log' else -score)
        count += WEIGHT[b]
    return total, count


@pytest.mark.parametrize('region', [None, REGION], ids=['map', 'region'])
@pytest.mark.parametrize('form', inpainting.RECONSTRUCTIONS)
def test_the_loss_is_equal_to_a_loop(form, region):
    loss = jax.jit(lambda x: reconstruction(x, LABEL, WEIGHT, region=region, form=form))(SCORES)
    np.testing.assert_allclose(loss, by_loop(form, region), rtol=1e-5)


def test_on_probabilities_the_loss_is_the_cross_entropy():
    logits = RNG.standard_normal((B, H, W, K)).astype(np.float32)
    loss = reconstruction(jax.nn.softmax(logits), LABEL, WEIGHT)
    expected = cross_entropy(logits, LABEL, WEIGHT)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_half_the_scores_add_log_2_and_change_no_gradient():
    def mean(scores):
        return reconstruction(scores, LABEL, WEIGHT).value()

    def half(scores):
        return mean(scores / 2)

    np.testing.assert_allclose(half(SCORES), mean(SCORES) + math.log(2), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(half)(SCORES), jax.grad(mean)(SCORES), rtol=1e-5)


@pytest.mark.parametrize('form', inpainting.RECONSTRUCTIONS)
def test_gradients_are_the_derivatives(form):
    gradient = jax.grad(lambda x: reconstruction(x, LABEL, WEIGHT, region=REGION, form=form).sum)(
        SCORES
    )
    expected = np.zeros_like(SCORES)
    for b, y, x in np.ndindex(B, H, W):
        label = LABEL[b, y, x]
        if label != 255 and REGION[b, y, x]:
            derivative = -1 / SCORES[b, y, x, label] if form == 'neg_log' else -1
            expected[b, y, x, label] = WEIGHT[b] * derivative
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_a_score_of_zero_has_a_finite_loss_and_gradient():
    scores = jnp.zeros((1, 1, 1, 2))
    label = np.zeros((1, 1, 1), int)
    value, gradient = jax.value_and_grad(lambda x: reconstruction(x, label, np.ones(1)).sum)(scores)
    np.testing.assert_allclose(value, -math.log(inpainting.SMALLEST), rtol=1e-5)
    np.testing.assert_array_equal(gradient, 0)


def test_bad_numbers_outside_the_region_leave_no_trace():
    region = REGION & (LABEL != 255)
    poisoned = np.where(region[..., None], SCORES, np.nan)
    gradient = jax.grad(lambda x: reconstruction(x, LABEL, WEIGHT, region=region).sum)
    np.testing.assert_array_equal(gradient(poisoned), gradient(SCORES))


def test_a_label_out_of_range_is_reported_by_nan():
    label = np.full((B, H, W), K)
    assert np.isnan(reconstruction(SCORES, label, WEIGHT).sum)


def test_an_unknown_form_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'neg_log'"):
        reconstruction(SCORES, LABEL, WEIGHT, form='neglog')
