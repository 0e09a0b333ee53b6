"""Examples of weight 0: whatever they hold, no loss and no gradient sees it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.losses import adversarial, geometry, image
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
WEIGHT = np.array([1.0, 0.0, 0.5], np.float32)


def auto_masked(target, warped, weight):
    keys = jax.random.split(jax.random.key(0), len(weight))
    return geometry.minimum_reprojection(target, warped, weight, sources=warped[:, ::-1], keys=keys)


def smoothed(logits, label, weight):
    return losses.cross_entropy(
        logits, label, weight, label_smoothing=0.1, class_weights=np.arange(C) + 1.0
    )


ALL = {
    'cross_entropy': (losses.cross_entropy, (LOGITS, LABEL)),
    'smoothed_cross_entropy': (smoothed, (LOGITS, LABEL)),
    'ohem_cross_entropy': (losses.ohem_cross_entropy, (LOGITS, LABEL)),
    'l1': (image.l1, (WARPED[:, 0], TARGET)),
    'least_squares': (
        lambda x, weight: adversarial.least_squares(x, 1.0, weight),
        (LOGITS[..., :1],),
    ),
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
    found, grads = evaluate(*poisoned)
    assert found == clean
    for grad, clean_grad in zip(grads, clean_grads, strict=True):
        np.testing.assert_array_equal(grad, clean_grad)
        np.testing.assert_array_equal(grad[1], 0)
    assert any(jnp.any(grad != 0) for grad in grads)
