"""Sem: Eq. 10 in NumPy, its bounds, and its use with a shape classifier."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import random_variables

from segjax.metrics import sem
from segjax.models.backbones import efficientnet
from segjax.models.backbones.efficientnet import Scaling
from segjax.models.classification.shape_classifier import ShapeClassifier


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def random_logits(seed, scale=3.0):
    return (scale * np.random.default_rng(seed).standard_normal((6, 80))).astype(np.float32)


def test_total_variation_is_half_the_1_norm_of_the_difference_of_probabilities():
    first, second = random_logits(0), random_logits(1)
    expected = [
        0.5 * sum(abs(p - q) for p, q in zip(a, b, strict=True))
        for a, b in zip(softmax(first), softmax(second), strict=True)
    ]
    np.testing.assert_allclose(sem.total_variation(first, second), expected, rtol=1e-5)


def test_total_variation_is_the_largest_difference_of_any_set_of_classes():
    """max over sets A of |P(A) - Q(A)|, counted over all sets of six classes."""
    first, second = random_logits(2)[:, :6], random_logits(3)[:, :6]
    difference = softmax(first) - softmax(second)
    sets = [[bool(bits >> i & 1) for i in range(6)] for bits in range(64)]
    largest = np.max([np.abs(difference[:, chosen].sum(-1)) for chosen in sets], 0)
    np.testing.assert_allclose(sem.total_variation(first, second), largest, atol=1e-6)


def test_the_distance_is_a_bounded_symmetric_distance():
    first, second, third = random_logits(4), random_logits(5), random_logits(6)
    distance = sem.total_variation(first, second)
    np.testing.assert_array_equal(distance, sem.total_variation(second, first))
    np.testing.assert_array_equal(sem.total_variation(first, first), 0)
    # A constant on all logits changes no probability.
    np.testing.assert_allclose(sem.total_variation(first, first + 7), 0, atol=1e-6)
    detour = distance + sem.total_variation(second, third)
    assert (sem.total_variation(first, third) <= detour + 1e-6).all()


def test_certain_and_different_classes_have_the_distance_1():
    first = 1000 * np.eye(3, dtype=np.float32)
    distance = sem.total_variation(first, np.roll(first, 1, 0))
    np.testing.assert_array_equal(distance, 1)
    many = sem.total_variation(random_logits(7, 100), random_logits(8, 100))
    assert (many <= 1).all() and (many >= 0).all()


def test_broken_logits_have_the_largest_distance():
    logits = jnp.array([[0.0, 1.0, 2.0], [0.0, jnp.nan, 2.0], [jnp.inf, jnp.inf, 0.0]])
    for other in (logits[:1], logits):
        distance = sem.total_variation(logits, other)
        np.testing.assert_array_equal(distance, [0, 1, 1])


def test_the_object_map_has_the_target_class_inside_the_box():
    label = jnp.array([[[3, 3, 1], [3, 255, 3]], [[1, 3, 1], [1, 1, 0]]])
    box = jnp.array([[[1, 0, 1], [1, 1, 0]], [[1, 1, 1], [0, 1, 1]]])
    marked = sem.object_map(label, jnp.array([3, 1]), box)
    np.testing.assert_array_equal(marked, [[[1, 0, 0], [1, 0, 0]], [[1, 0, 1], [0, 1, 0]]])


def test_planes_are_object_and_box_and_the_object_ends_at_the_box():
    shape = jnp.array([[[True, True, False]]])
    box = jnp.array([[[1, 0, 1]]], jnp.uint8)
    planes = sem.shape_planes(shape, box)
    assert planes.dtype == jnp.float32
    np.testing.assert_array_equal(planes, [[[[1, 1], [0, 0], [0, 1]]]])


def test_padding_counts_nothing_and_weights_multiply():
    distance = jnp.array([0.25, 0.5, jnp.nan])
    mean = sem.mean_sem(distance, jnp.array([1.0, 0.5, 0.0]))
    assert float(mean.sum) == 0.5 and float(mean.count) == 1.5


@pytest.fixture
def classifier(monkeypatch):
    """Returns (planes -> logits) of a small classifier with random parameters."""
    monkeypatch.setattr(efficientnet, 'STAGES', efficientnet.STAGES[:2])
    monkeypatch.setitem(efficientnet.VARIANTS, 'lite0', Scaling(1 / 8, 1.0, 0.2, lite=True))
    net = ShapeClassifier(80, forms='naive')
    variables = random_variables(net, (1, 32, 32, 2))

    def classify(planes):
        return net.apply(variables, planes, train=False)['logits']

    return classify


def test_masks_and_a_classifier_are_enough(classifier):
    rng = np.random.default_rng(0)
    box = np.zeros((3, 32, 32), np.uint8)
    box[:, 4:28, 6:30] = 1
    truth = (rng.random((3, 32, 32)) < 0.5) * box
    shape = truth.copy()
    shape[1] = np.roll(truth[1], 5, 0) * box[1]
    shape[2, 0, 0] = 1  # outside the box

    distance = sem.sem(classifier, shape, truth, box)
    assert distance.shape == (3,)
    assert distance[0] == 0 and distance[2] == 0 and 0 < distance[1] <= 1
    np.testing.assert_array_equal(distance, sem.sem(classifier, truth, shape, box))
    jitted = jax.jit(functools.partial(sem.sem, classifier))(shape, truth, box)
    np.testing.assert_allclose(jitted, distance, atol=1e-5)

    # By hand: two passes, two softmaxes, half a sum.
    passes = [
        softmax(np.asarray(classifier(np.stack([x * box, box], -1).astype(np.float32))))
        for x in (shape, truth)
    ]
    expected = 0.5 * np.abs(passes[0] - passes[1]).sum(-1)
    np.testing.assert_allclose(distance, expected, atol=1e-5)
