"""Errors of landmarks against loops, with absent points, samples and padding."""

import numpy as np
import pytest

from segjax.errors import InputError
from segjax.metrics import landmarks as metrics

RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(0, 60, (3, 68, 2)).astype(np.float32)
PREDICTION = (TRUTH + RNG.normal(0, 2, TRUTH.shape)).astype(np.float32)
TRUTH[1, [3, 50]] = np.nan
TRUTH[1, 7, 0] = np.nan
TRUTH[2] = np.nan
WIDTH = np.float32([64, 48, 64])


def by_hand(row, reduction):
    """Returns the error of an image over the points that are present."""
    total = []
    for point, true in zip(PREDICTION[row], TRUTH[row]):
        if not np.isnan(true).any():
            total.append(np.hypot(*(point.astype(np.float64) - true)) / WIDTH[row])
    return np.sum(total) if reduction == 'sum' else np.mean(total)


@pytest.mark.parametrize('reduction', metrics.REDUCTIONS)
def test_the_error_is_that_of_a_plain_loop(reduction):
    errors = metrics.image_error(PREDICTION, TRUTH, WIDTH, reduction)
    expected = [by_hand(row, reduction) for row in (0, 1)]
    np.testing.assert_allclose(errors[:2], expected, rtol=1e-5)
    assert np.isnan(errors[2]), 'an image without a point has no error'


def test_literal_values():
    truth = np.zeros((68, 2), np.float32)
    truth[45] = (40, 0)
    prediction = truth + np.float32([3, 4])
    assert metrics.image_error(prediction, truth, 100.0) == pytest.approx(68 * 5 / 100)
    assert metrics.image_error(prediction, truth, 100.0, 'mean') == pytest.approx(0.05)
    assert metrics.normalised_error(prediction, truth) == pytest.approx(5 / 40)


def test_an_error_does_not_depend_on_the_size_of_the_image():
    small = metrics.image_error(PREDICTION, TRUTH, WIDTH)
    large = metrics.image_error(4 * PREDICTION, 4 * TRUTH, 4 * WIDTH)
    np.testing.assert_allclose(small, large, rtol=1e-5)
    nme = metrics.normalised_error(PREDICTION, TRUTH)
    np.testing.assert_allclose(nme, metrics.normalised_error(3 * PREDICTION, 3 * TRUTH), rtol=1e-5)


def test_an_image_without_an_eye_has_no_nme():
    truth = TRUTH.copy()
    truth[0, metrics.EYES[1], 1] = np.nan
    errors = metrics.normalised_error(PREDICTION, truth)
    np.testing.assert_array_equal(np.isnan(errors), [True, False, True])


def test_samples_are_compared_with_one_truth():
    samples = np.stack([PREDICTION, PREDICTION + 1, TRUTH], 1)  # [B, n, 68, 2]
    errors = metrics.image_error(samples, TRUTH[:, None], WIDTH[:, None])
    assert errors.shape == (3, 3)
    for number in range(3):
        alone = metrics.image_error(samples[:, number], TRUTH, WIDTH)
        np.testing.assert_allclose(errors[:, number], alone, rtol=1e-6)
    assert errors[0, 2] == 0


def test_the_cumulative_distribution_counts_images():
    errors = np.float32([1, 4, np.nan, 2, 9])
    weight = np.float32([1, 1, 1, 1, 0])
    mean = metrics.shares_below(errors, np.float32([1, 2, 3, 5]), weight)
    np.testing.assert_array_equal(mean.sum, [0, 1, 2, 3])
    assert mean.count == 3


def test_an_unknown_reduction_is_refused():
    with pytest.raises(InputError, match='sum'):
        metrics.image_error(PREDICTION, TRUTH, WIDTH, 'sums')
