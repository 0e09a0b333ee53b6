"""Mixed and noisy features: formulas in loops, distributions, and examples alone or in a batch."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scipy import stats

from segjax.config import tree
from segjax.core import rng
from segjax.errors import InputError
from segjax.losses import segmentation as losses
from segjax.tasks import feature_mixing

B, H, W, C, K = 6, 2, 3, 4, 5
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(B, H, W, C)).astype(np.float32)
LABEL = RNG.integers(0, K, (B, 2 * H, 2 * W)).astype(np.int32)
LABEL[0, 0] = 255
WEIGHT = np.array([1, 1, 0.5, 2, 1, 1], np.float32)
INDEX = np.array([3, 50, 7, 8, 0, 12], np.int32)
KEY = rng.root(0, 'test')
PARTNER = [1, 0, 3, 2, 5, 4]


def settings_of(**keys):
    settings = ml_collections.ConfigDict(tree.defaults_of(feature_mixing.FEATURE_MIXING))
    settings.update(keys)
    return settings


@functools.partial(jax.jit, static_argnames='alpha')
def mixup(features=FEATURES, label=LABEL, weight=WEIGHT, key=KEY, index=INDEX, alpha=1.0):
    settings = settings_of(alpha=alpha)
    return feature_mixing.mixup(features, label, weight, key, index, settings)


@functools.partial(jax.jit, static_argnames='noise')
def add_noise(features=FEATURES, key=KEY, index=INDEX, noise=0.3):
    return feature_mixing.add_noise(features, key, index, settings_of(noise=noise))


def shares_of(features):
    """Returns the share of each example in its mixed features, from the numbers themselves."""
    own, other = FEATURES, FEATURES[PARTNER]
    shares = (features - other) / (own - other)
    np.testing.assert_allclose(shares, shares[:, :1, :1, :1] * np.ones((H, W, C)), atol=1e-3)
    return np.median(shares, (1, 2, 3))


# --- mixup ----------------------------------------------------------------------------------------


def test_features_and_weights_have_the_same_shares():
    mixed = mixup()
    shares = shares_of(np.asarray(mixed.features))
    assert ((shares > 0) & (shares < 1)).all() and len(set(shares)) == B
    np.testing.assert_allclose(mixed.weights[0], shares * WEIGHT, atol=1e-4)
    np.testing.assert_allclose(np.add(*mixed.weights), WEIGHT, rtol=1e-6)
    np.testing.assert_array_equal(mixed.labels[0], LABEL)
    np.testing.assert_array_equal(mixed.labels[1], LABEL[PARTNER])


@pytest.mark.parametrize('alpha', [0.2, 2.0])
def test_shares_have_a_beta_distribution(alpha):
    count = 2000
    ones = np.ones(count, np.float32)
    label = np.zeros((count, 1, 1), np.int32)
    index = np.arange(count)
    mixed = mixup(ones[:, None, None, None], label, ones, KEY, index, alpha)
    assert stats.kstest(mixed.weights[0], stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_an_example_depends_on_its_pair_and_its_index_alone():
    whole = mixup()
    for pair in ([0, 1], [2, 3], [4, 5]):
        alone = mixup(FEATURES[pair], LABEL[pair], WEIGHT[pair], KEY, INDEX[pair])
        np.testing.assert_allclose(alone.features, whole.features[np.array(pair)], atol=1e-6)
        np.testing.assert_allclose(alone.weights[1], whole.weights[1][np.array(pair)], atol=1e-6)
    other = mixup(key=rng.root(1, 'test'))
    assert (np.asarray(other.weights[0]) != whole.weights[0]).all()


def test_padding_is_mixed_with_nothing():
    features = FEATURES.copy()
    features[3] = np.nan
    weight = np.array([1, 1, 1, 0, 1, 1], np.float32)
    mixed = mixup(features, weight=weight)
    np.testing.assert_array_equal(mixed.features[2], FEATURES[2])
    assert (mixed.weights[0][2], mixed.weights[1][2]) == (1, 0)
    assert (mixed.weights[0][3], mixed.weights[1][3]) == (0, 0)

    def total(features):
        return mixup(features, weight=weight).features[np.array([0, 1, 2, 4, 5])].sum()

    assert np.isfinite(jax.grad(total)(features)).all()


def test_half_precision_is_kept():
    mixed = mixup(FEATURES.astype(jnp.bfloat16))
    assert mixed.features.dtype == jnp.bfloat16
    expected = np.asarray(mixup().features)
    np.testing.assert_allclose(np.float32(mixed.features), expected, atol=0.03)


def test_an_odd_batch_is_refused():
    settings = settings_of()
    with pytest.raises(InputError, match='3 examples for each device'):
        feature_mixing.mixup(FEATURES[:3], LABEL[:3], WEIGHT[:3], KEY, INDEX[:3], settings)


def test_the_loss_is_that_of_both_labels():
    mixed = mixup()
    logits = RNG.normal(size=(*LABEL.shape, K)).astype(np.float32)
    loss = feature_mixing.mixed_mean(functools.partial(losses.cross_entropy, logits), mixed)
    logs = np.asarray(jax.nn.log_softmax(logits))
    total = 0.0
    count = 0.0
    for b in range(B):
        for label, weight in zip(mixed.labels, mixed.weights, strict=True):
            for i, j in np.argwhere(np.asarray(label[b]) != 255):
                total -= float(weight[b]) * logs[b, i, j, int(label[b, i, j])]
                count += float(weight[b])
    np.testing.assert_allclose([loss.sum, loss.count], [total, count], rtol=1e-5)


# --- noise ----------------------------------------------------------------------------------------


def test_noise_is_a_share_of_the_deviation_of_each_channel():
    scales = np.float32([0.5, 3, 0, 20])
    pixels = np.random.default_rng(1).normal(size=(2, 60, 70, 4)).astype(np.float32)
    features = pixels * scales + np.float32([0, 5, 7, 0])
    noise = np.asarray(add_noise(features, index=INDEX[:2])) - features
    deviations = noise.std((1, 2)) / features.std((1, 2)).clip(1e-9)
    np.testing.assert_allclose(deviations[:, [0, 1, 3]], 0.3, rtol=0.05)
    assert not noise[..., 2].any(), 'a constant channel gets no noise'
    standard = (noise / noise.std((1, 2), keepdims=True).clip(1e-9))[..., 0].ravel()
    assert stats.kstest(standard, 'norm').pvalue > 1e-3


def test_noise_depends_on_the_example_and_its_index_alone():
    whole = np.asarray(add_noise())
    alone = add_noise(FEATURES[3:4], index=INDEX[3:4])
    np.testing.assert_allclose(alone[0], whole[3], atol=1e-6)
    same = add_noise(FEATURES[[0, 0]], index=np.array([5, 6], np.int32))
    assert (same[0] != same[1]).all()
    assert (np.asarray(add_noise(key=rng.root(1, 'test'))) != whole).all()


def test_without_noise_features_are_unchanged():
    np.testing.assert_array_equal(add_noise(noise=0.0), FEATURES)
    half = FEATURES.astype(jnp.bfloat16)
    assert add_noise(half).dtype == jnp.bfloat16


def test_the_level_of_the_noise_passes_no_gradient():
    gradient = jax.grad(lambda features: add_noise(features).sum())(FEATURES)
    np.testing.assert_array_equal(gradient, np.ones_like(FEATURES))
