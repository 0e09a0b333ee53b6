"""Properties of all losses.

Examples of weight 0 change neither a loss nor a gradient. The value does not depend on jit or pmap.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from segjax.losses import (
    adversarial,
    geometry,
    image,
    inpainting,
    landmarks,
    latent,
    normals,
    perceptual,
    samples,
)
from segjax.losses import segmentation as losses

RNG = np.random.default_rng(0)
B, N, H, W, C = 3, 2, 4, 5, 4
TARGET = RNG.random((B, H, W, 3), np.float32)
WARPED = RNG.random((B, N, H, W, 3), np.float32)
VALID = RNG.random((B, N, H, W)) < 0.7
LOGITS = RNG.normal(size=(B, H, W, C)).astype(np.float32)
PROBABILITIES = np.asarray(jax.nn.softmax(LOGITS))
LABEL = RNG.integers(0, C, (B, H, W))
DEPTH = RNG.uniform(0.5, 2, (B, H, W)).astype(np.float32)
POINTS = RNG.uniform(0, 4, (2, B, C, 2)).astype(np.float32)
WEIGHT = np.array([1.0, 0.0, 0.5], np.float32)


def auto_masked(target, warped, weight):
    keys = jax.random.split(jax.random.key(0), len(weight))
    return geometry.minimum_reprojection(target, warped, weight, sources=warped[:, ::-1], keys=keys)


def best_of_features(outputs, targets, weight):
    costs = samples.feature_distances({'image': outputs}, {'image': targets}, {'image': 2.0})
    return samples.best_neighbour(costs, weight)


def smoothed(logits, label, weight):
    return losses.cross_entropy(
        logits, label, weight, label_smoothing=0.1, class_weights=np.arange(C) + 1.0
    )


ALL = {
    'cross_entropy': (losses.cross_entropy, (LOGITS, LABEL)),
    'smoothed_cross_entropy': (smoothed, (LOGITS, LABEL)),
    'ohem_cross_entropy': (losses.ohem_cross_entropy, (LOGITS, LABEL)),
    'reconstruction': (inpainting.reconstruction, (PROBABILITIES, LABEL)),
    'l1': (image.l1, (WARPED[:, 0], TARGET)),
    'least_squares': (
        lambda x, weight: adversarial.least_squares(x, 1.0, weight),
        (LOGITS[..., :1],),
    ),
    'least_squares_of_scales': (
        lambda x, y, weight: adversarial.least_squares_of_scales((x, y), 1.0, weight),
        (LOGITS[..., :1], TARGET[:, 1:, 1:, :1]),
    ),
    'logistic_of_scales': (
        lambda x, y, weight: adversarial.logistic_of_scales((x, y), 1.0, weight),
        (LOGITS[..., :1], TARGET[:, 1:, 1:, :1]),
    ),
    'kl_to_standard_normal': (latent.kl_to_standard_normal, (LOGITS[:, 0, 0], LOGITS[:, 0, 1])),
    'weighted_l1': (
        lambda x, y, weight: perceptual.weighted_l1((x, y), (y, y), (0.5, 2.0), weight),
        (WARPED[:, 0], TARGET),
    ),
    'best_neighbour': (best_of_features, (WARPED, TARGET[:, None])),
    'neighbours_enhanced': (
        lambda x, weight: samples.neighbours_enhanced(x, np.array([[1, -1, 0]] * B), weight),
        (WARPED[:, :, 0, 0],),
    ),
    'coordinates': (
        functools.partial(landmarks.coordinates, size=(H, W)),
        (POINTS[0], POINTS[1]),
    ),
    'heat_map_divergence': (
        functools.partial(landmarks.heat_map_divergence, size=(H, W), sigma=20.0),
        (LOGITS, POINTS[0]),
    ),
    'cosine': (normals.cosine, (WARPED[:, 0], TARGET)),
    'photometric_l1': (geometry.photometric_l1, (TARGET, WARPED, VALID)),
    'photometric_all_pixels': (geometry.photometric_all_pixels, (TARGET, WARPED)),
    'explainability_cross_entropy': (geometry.explainability_cross_entropy, (WARPED[..., :2],)),
    'photometric_mixture': (geometry.photometric_mixture, (TARGET, WARPED, VALID)),
    'minimum_reprojection': (geometry.minimum_reprojection, (TARGET, WARPED)),
    'auto_masking': (auto_masked, (TARGET, WARPED)),
    'edge_aware_smoothness': (geometry.edge_aware_smoothness, (DEPTH, TARGET)),
    'second_order_smoothness': (geometry.second_order_smoothness, (DEPTH,)),
    'per_class_consistency': (geometry.per_class_consistency, (PROBABILITIES, DEPTH)),
    'holistic_consistency': (geometry.holistic_consistency, (PROBABILITIES, DEPTH)),
    'depth_edges_without_semantic_edges': (
        geometry.depth_edges_without_semantic_edges,
        (PROBABILITIES, DEPTH),
    ),
    'semantic_guided_smoothness': (geometry.semantic_guided_smoothness, (DEPTH, LABEL)),
}


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('loss, args', ALL.values(), ids=ALL)
def test_an_example_of_weight_zero_leaves_no_trace_in_value_or_gradient(loss, args, bad):
    differentiable = tuple(i for i, x in enumerate(args) if x.dtype == np.float32)

    def value(*arguments):
        return loss(*arguments, WEIGHT).value()

    poisoned = [np.array(x) for x in args]
    for i in differentiable:
        poisoned[i][1] = bad
    evaluate = jax.jit(jax.value_and_grad(value, argnums=differentiable))
    clean, clean_grads = evaluate(*args)
    result, grads = evaluate(*poisoned)
    assert result == clean
    chex.assert_trees_all_equal(grads, clean_grads)
    for grad in grads:
        np.testing.assert_array_equal(grad[1], 0)
    assert any(jnp.any(grad != 0) for grad in grads)


# --- jit and pmap ---------------------------------------------------------------------------------

# Without optimisation XLA may round a minimum and its operands differently. The gradient of the
# minimum compares them for equality, so it vanishes at single pixels.
WITH_MINIMUM = ('minimum_reprojection', 'auto_masking')


def value_and_gradients(name):
    """Returns a function from arguments to (Mean, gradients of its sum)."""
    loss, args = ALL[name]
    differentiable = tuple(i for i, x in enumerate(args) if x.dtype == np.float32)

    def evaluate(*arguments):
        gradients = jax.grad(lambda *x: loss(*x).sum, argnums=differentiable)(*arguments)
        return loss(*arguments), gradients

    return evaluate


@functools.cache
def without_jit(name):
    return value_and_gradients(name)(*arguments_of(name))


def arguments_of(name):
    return jax.tree.map(jnp.asarray, (*ALL[name][1], WEIGHT))


class VariantsTest(chex.TestCase):
    """Compares every loss with its value without jit."""

    @chex.variants(with_jit=True, with_pmap=True)
    @parameterized.named_parameters((name, name) for name in ALL)
    def test_value_and_gradients_are_equal(self, name):
        arguments = arguments_of(name)
        devices = min(2, len(jax.devices()))
        evaluate = self.variant(value_and_gradients(name), n_devices=devices)
        mean, gradients = evaluate(*arguments)
        chex.assert_shape(tuple(mean), ())
        chex.assert_type(tuple(mean), jnp.float32)
        chex.assert_tree_all_finite((mean, gradients))
        expected_mean, expected_gradients = without_jit(name)
        chex.assert_trees_all_close(mean, expected_mean, rtol=1e-5, atol=1e-5, strict=True)
        if name not in WITH_MINIMUM:
            chex.assert_trees_all_close(
                gradients, expected_gradients, rtol=1e-5, atol=1e-5, strict=True
            )
