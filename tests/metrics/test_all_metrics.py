"""Properties of all metrics: the values do not depend on jit or pmap."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from segjax.metrics import (
    boundary,
    classification,
    confusion,
    depth,
    features,
    image,
    landmarks,
    lpips,
    membership_signals,
    normals,
    samples,
    sem,
    shape,
)
from segjax.ops import warp

RNG = np.random.default_rng(0)
B, H, W, C, N = 3, 6, 7, 4, 5
LABEL = RNG.integers(0, C, (B, H, W)).astype(np.int32)
LABEL[0, 0, :3] = 255
PREDICTION = RNG.integers(0, C, (B, H, W)).astype(np.int32)
WEIGHT = np.array([1.0, 0.0, 0.5], np.float32)
SCORES = RNG.random(B).astype(np.float32)
INDEX = np.array([4, 99, 0], np.int32)
PICTURES = RNG.uniform(-1, 1, (2, B, H, W, 3)).astype(np.float32)
DEPTHS = RNG.uniform(0.5, 90, (2, B, H, W)).astype(np.float32)
VECTORS = RNG.normal(scale=0.2, size=(2, B, 2, 6)).astype(np.float32)
MOTIONS = np.asarray(warp.rigid_motion(VECTORS, 'axis_angle'))
INTRINSICS = np.float32([[[5, 0, 3], [0, 5, 2], [0, 0, 1]]] * B)
LOGITS = RNG.normal(size=(2, B, C)).astype(np.float32)
CLASSES = np.array([1, 3, 255], np.int32)
FEATURES = RNG.random((2, B, N, 3, 2, C)).astype(np.float32)
POINTS = RNG.uniform(0, 6, (2, B, 68, 2)).astype(np.float32)
CORNERS = np.tile(np.arange(C, dtype=np.int32).reshape(2, 2), (B, 1, 1))
SIZE = np.array([[H, W], [4, 5], [H, 3]], np.int32)


def errors_with_baselines(disparity, truth, intrinsics, size, weight):
    batch = {
        'depth': truth,
        'intrinsics': intrinsics,
        'size': size,
        'label_size': size,
        'weight': weight,
    }
    rows = jnp.arange(H)[:, None] < size[:, :1, None]
    columns = jnp.arange(W) < size[:, 1:, None]
    return depth.errors_with_baselines(disparity, jnp.reciprocal, batch, rows & columns)


ALL = {
    'confusion': (
        functools.partial(confusion.confusion, num_classes=C),
        dict(prediction=PREDICTION, label=LABEL, weight=WEIGHT),
    ),
    'image_iou': (
        functools.partial(confusion.image_iou, num_classes=C),
        dict(prediction=PREDICTION, label=LABEL, weight=np.ones(B, np.float32)),
    ),
    'per_example': (
        functools.partial(confusion.per_example, num_examples=N),
        dict(values=SCORES, index=INDEX, weight=WEIGHT),
    ),
    'rank_of_truth': (
        classification.rank_of_truth,
        dict(logits=LOGITS[0], label=CLASSES),
    ),
    'top_accuracy': (
        functools.partial(classification.top_accuracy, guesses=2),
        dict(rank=np.array([1, 0, 2], np.int32), label=CLASSES, weight=WEIGHT),
    ),
    'total_variation': (sem.total_variation, dict(first=LOGITS[0], second=LOGITS[1])),
    'mean_sem': (sem.mean_sem, dict(distance=SCORES, weight=WEIGHT)),
    'psnr': (image.psnr, dict(truth=PICTURES[0], other=PICTURES[1])),
    'rmse': (image.rmse, dict(truth=PICTURES[0], other=PICTURES[1])),
    'fsimc': (
        functools.partial(image.fsimc, peak=2.0),
        dict(truth=PICTURES[0] + 1, other=PICTURES[1] + 1),
    ),
    'best_of_first': (
        functools.partial(samples.best_of_first, larger=False),
        dict(values=LOGITS[0]),
    ),
    'top_mean': (
        functools.partial(samples.top_mean, k=2, larger=True),
        dict(values=LOGITS[0]),
    ),
    'spread': (samples.spread, dict(features=FEATURES[0])),
    'distances_to_centre': (samples.distances_to_centre, dict(images=FEATURES[0])),
    'lpips_distance': (
        lpips.distance,
        dict(first={'deep': FEATURES[0]}, second={'deep': FEATURES[1]}),
    ),
    'lpips_mean_of_pairs': (
        lpips.mean_of_pairs,
        dict(features={'deep': FEATURES[0]}),
    ),
    'box_scores': (
        functools.partial(shape.box_scores, num_classes=C),
        dict(
            prediction=PREDICTION,
            truth=LABEL,
            target=np.array([0, 1, 2], np.int32),
            mask=RNG.random((B, H, W)) < 0.7,
            weight=WEIGHT,
        ),
    ),
    'depth_errors': (
        functools.partial(depth.errors, median_scaling=True),
        dict(prediction=DEPTHS[0], truth=DEPTHS[1], weight=WEIGHT),
    ),
    'errors_with_baselines': (
        errors_with_baselines,
        dict(
            disparity=1 / DEPTHS[0],
            truth=DEPTHS[1],
            intrinsics=INTRINSICS,
            size=SIZE,
            weight=WEIGHT,
        ),
    ),
    'image_error': (
        landmarks.image_error,
        dict(prediction=POINTS[0], truth=POINTS[1], width=SIZE[:, 1]),
    ),
    'normalised_error': (
        landmarks.normalised_error,
        dict(prediction=POINTS[0], truth=POINTS[1]),
    ),
    'shares_below': (
        landmarks.shares_below,
        dict(errors=SCORES, limits=np.float32([0.2, 0.6]), weight=WEIGHT),
    ),
    'image_scores': (
        normals.image_scores,
        dict(prediction=PICTURES[0], truth=PICTURES[1]),
    ),
    'feature_histograms': (
        functools.partial(features.histograms, num_classes=C, bins=features.Bins(6, 0.0, 1.0)),
        dict(values=FEATURES[0, :, 0], label=LABEL, weight=WEIGHT),
    ),
    'boundary_strength': (
        boundary.boundary_strength,
        dict(probabilities=np.eye(C, dtype=np.float32)[PREDICTION], size=SIZE),
    ),
    'image_signals': (
        functools.partial(membership_signals.image_signals, reach=1),
        dict(posteriors=FEATURES[0, ..., 0, :], label=PREDICTION[:, :N, :3]),
    ),
    'class_signals': (
        membership_signals.class_signals,
        dict(posteriors=np.eye(C, dtype=np.float32)[CORNERS], label=CORNERS),
    ),
    'motion_errors': (
        functools.partial(depth.motion_errors, offsets=(-1, 1)),
        dict(predicted=MOTIONS[0], truth=MOTIONS[1], weight=WEIGHT),
    ),
}


def arguments_of(name):
    return jax.tree.map(jnp.asarray, ALL[name][1])


@functools.cache
def without_jit(name):
    return ALL[name][0](**arguments_of(name))


class VariantsTest(chex.TestCase):
    """Compares every metric with its value without jit."""

    @chex.variants(with_jit=True, with_pmap=True)
    @parameterized.named_parameters((name, name) for name in ALL)
    def test_values_are_equal(self, name):
        metric = self.variant(ALL[name][0], n_devices=min(2, len(jax.devices())))
        result = metric(**arguments_of(name))
        chex.assert_tree_all_finite(result)
        chex.assert_trees_all_close(result, without_jit(name), rtol=1e-5, atol=1e-6, strict=True)


def test_counts_do_not_depend_on_jit():
    """Counts are integers, so they are equal to the last bit."""
    metric, arguments = ALL['confusion']
    chex.assert_trees_all_equal(jax.jit(metric)(**arguments), without_jit('confusion'), strict=True)
