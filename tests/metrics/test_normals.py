"""Angles between normals against numpy, over a split and for each image."""

import numpy as np
import pytest
from toy_heads import random_normals

from segjax.metrics import normals as metrics
from segjax.ops.normals import normalised

TRUTH = random_normals((4, 30, 30))
GUESS = np.asarray(normalised(TRUTH + 0.6 * random_normals((4, 30, 30), seed=2) + 1e-3))
MEASURED = TRUTH.any(-1)


def angles_of(truth, guess):
    """Returns the angles in degrees by the inverse cosine, in float64."""
    cosine = (guess.astype(np.float64) * truth).sum(-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def scores_of(angles):
    """Returns the scores of angles [n] by name."""
    scores = {
        'mean_angle': angles.mean(),
        'median_angle': np.median(angles),
        'rms_angle': np.sqrt((angles**2).mean()),
    }
    for limit in (11.25, 22.5, 30):
        scores[f'accuracy_{limit:g}'] = (angles < limit).mean()
    return scores


def test_the_angle_of_a_known_turn_is_exact_also_where_it_is_small():
    degrees = np.array([0, 1e-3, 5, 90, 179.999])
    turned = np.stack([np.sin(np.radians(degrees)), 0 * degrees, -np.cos(np.radians(degrees))], -1)
    truth = np.float32([0, 0, -1])
    np.testing.assert_allclose(
        metrics.angles(turned.astype(np.float32), truth), degrees, rtol=2e-6, atol=1e-6
    )


def test_a_prediction_of_length_zero_is_not_right():
    assert metrics.angles(np.zeros(3, np.float32), np.float32([0, 0, -1])) == 90


def test_scores_over_a_split_are_those_of_numpy():
    weight = np.array([1, 1, 0, 1], np.float32)
    angle = metrics.angles(GUESS, TRUTH)
    scores = metrics.angle_scores(metrics.angle_sums(angle, MEASURED, weight, with_rms=True))
    counted = MEASURED & (weight[:, None, None] > 0)
    expected = scores_of(angles_of(TRUTH, GUESS)[counted])
    assert scores['mean_angle'] == pytest.approx(expected['mean_angle'], rel=1e-4)
    assert scores['rms_angle'] == pytest.approx(expected['rms_angle'], rel=1e-4)
    assert scores['median_angle'] == pytest.approx(expected['median_angle'], abs=0.15)
    for limit in (11.25, 22.5, 30):
        name = f'accuracy_{limit:g}'
        assert scores[name] == pytest.approx(expected[name], abs=2e-3)
    without = metrics.angle_sums(angle, MEASURED, weight)
    assert 'rms_angle' not in without


def test_scores_of_each_image_are_those_of_numpy():
    scores = metrics.image_scores(GUESS, TRUTH)
    angles = angles_of(TRUTH, GUESS)
    for row in range(len(TRUTH)):
        expected = scores_of(angles[row][MEASURED[row]])
        assert set(expected) == set(scores)
        for name, value in expected.items():
            assert scores[name][row] == pytest.approx(value, rel=1e-4, abs=2e-3), name


def test_samples_are_compared_with_one_truth():
    samples = np.stack([GUESS, TRUTH, -GUESS], 1)  # [B, n, H, W, 3]
    scores = metrics.image_scores(samples, TRUTH[:, None])
    alone = metrics.image_scores(-GUESS, TRUTH)
    for name, values in scores.items():
        assert values.shape == (4, 3)
        np.testing.assert_allclose(values[:, 2], alone[name], rtol=1e-5)
        perfect = float(name.startswith('accuracy'))
        np.testing.assert_allclose(values[:, 1], perfect, atol=1e-3)


def test_an_image_without_normals_has_no_score():
    truth = TRUTH.copy()
    truth[1] = 0
    for values in metrics.image_scores(GUESS, truth).values():
        np.testing.assert_array_equal(np.isnan(values), [False, True, False, False])
