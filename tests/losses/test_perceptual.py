"""Losses between features against their formulas."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.losses import perceptual
from segjax.models.backbones.vgg import PERCEPTUAL_LAYERS

RNG = np.random.default_rng(0)
WEIGHT = np.array([1.0, 0.0, 0.5], np.float32)
SIZES = [(4, 5, 3), (2, 3, 6)]
PREDICTION, TARGET = ([RNG.normal(size=(3, *s)).astype(np.float32) for s in SIZES] for _ in 'ab')


def test_weighted_l1_is_the_formula():
    total = 0.0
    for factor, ours, theirs in zip((0.25, 3.0), PREDICTION, TARGET, strict=True):
        for b in range(3):
            total += WEIGHT[b] * factor * np.abs(ours[b] - theirs[b]).astype(np.float64).mean()
    got = perceptual.weighted_l1(PREDICTION, TARGET, (0.25, 3.0), WEIGHT)
    np.testing.assert_allclose(got, (total, 1.5), rtol=1e-6)


def test_batches_can_be_split():
    whole = perceptual.weighted_l1(PREDICTION, TARGET, (0.25, 3.0), WEIGHT)
    parts = []
    for i in (slice(1), slice(1, 3)):
        ours, theirs = ([x[i] for x in maps] for maps in (PREDICTION, TARGET))
        parts.append(perceptual.weighted_l1(ours, theirs, (0.25, 3.0), WEIGHT[i]))
    np.testing.assert_allclose(whole, np.sum(parts, 0), rtol=1e-6)


def test_the_target_has_no_gradient():
    def value(prediction, target):
        return perceptual.weighted_l1(prediction, target, (1.0, 1.0), WEIGHT).value()

    ours, theirs = jax.grad(value, (0, 1))(PREDICTION, TARGET)
    for got, prediction, target in zip(ours, PREDICTION, TARGET, strict=True):
        share = WEIGHT[:, None, None, None] / 1.5 / prediction[0].size
        np.testing.assert_allclose(got, share * np.sign(prediction - target), rtol=1e-5)
    chex.assert_trees_all_equal(theirs, jax.tree.map(np.zeros_like, theirs))


def test_half_features_are_compared_in_float32():
    half = [jnp.asarray(x, jnp.bfloat16) for x in PREDICTION]
    got = perceptual.weighted_l1(half, TARGET, (1.0, 1.0), WEIGHT)
    chex.assert_type(tuple(got), jnp.float32)
    full = [x.astype(jnp.float32) for x in half]
    chex.assert_trees_all_equal(got, perceptual.weighted_l1(full, TARGET, (1.0, 1.0), WEIGHT))


def discriminated(seed, scales=2, layers=3):
    """Returns features of `layers` convolutions of stride 2 and of a further one, and logits."""
    rng = np.random.default_rng(seed)
    outputs = []
    for scale in range(scales):
        maps = [rng.normal(size=(3, 8 - scale, 7, 2 + k)) for k in range(layers + 1)]
        outputs.append([*maps, rng.normal(size=(3, 5, 5, 1))])
    return jax.tree.map(np.float32, outputs)


@pytest.mark.parametrize('scales, layers', [(2, 3), (3, 2)])
def test_feature_matching_weighs_scales_and_layers_and_leaves_out_the_logits(scales, layers):
    generated, real = (discriminated(seed, scales, layers) for seed in (0, 1))
    total = 0.0
    for ours, theirs in zip(generated, real, strict=True):
        for x, y in zip(ours[:-1], theirs[:-1], strict=True):
            distance = np.abs(x - y).mean((1, 2, 3))
            total += 4 / (layers + 1) / scales * (distance * WEIGHT).sum() / WEIGHT.sum()
    got = perceptual.feature_matching(generated, real, WEIGHT).value()
    np.testing.assert_allclose(got, total, rtol=1e-5)
    for maps in generated:
        maps[-1] = maps[-1] + 7
    assert perceptual.feature_matching(generated, real, WEIGHT).value() == got


def test_features_of_vgg_count_by_their_depth():
    names = list(PERCEPTUAL_LAYERS)
    assert list(perceptual.VGG_WEIGHTS.items()) == [
        *zip(names, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), strict=True)
    ]
    target = {name: np.zeros((3, 2, 2, 4), np.float32) for name in names}
    for name, factor in perceptual.VGG_WEIGHTS.items():
        prediction = {**target, name: target[name] - 2}
        assert perceptual.vgg_l1(prediction, target, WEIGHT).value() == 2 * factor
    some = perceptual.vgg_l1(prediction, target, WEIGHT, {'conv5_1': 0.5})
    assert some.value() == 1


def test_bad_input():
    with pytest.raises(InputError, match='equal shapes'):
        perceptual.weighted_l1(PREDICTION, TARGET[::-1], (1.0, 1.0), WEIGHT)
    with pytest.raises(InputError, match='1 factors'):
        perceptual.weighted_l1(PREDICTION, TARGET, (1.0,), WEIGHT)
