"""Differences of runs with intervals that are paired by image."""

import numpy as np
import pytest

from segjax.modes.compare import differences

NUM_CLASSES = 4


def class_maps(num_images, seed=0):
    """Returns random class maps [N, 6, 8] with void."""
    generator = np.random.default_rng(seed)
    maps = generator.integers(0, NUM_CLASSES, (num_images, 6, 8)).astype(np.uint8)
    maps[generator.random(maps.shape) < 0.1] = 255
    return maps


def predicted(truth, share, seed):
    """Returns the truth with a share of other classes, one of which does not exist."""
    generator = np.random.default_rng(seed)
    wrong = generator.integers(0, NUM_CLASSES + 1, truth.shape).astype(np.uint8)
    return np.where(generator.random(truth.shape) < share, wrong, truth)


def counts_of(truth, *predictions):
    """Returns the counts [R, N, 3, C] of all runs and images."""
    runs = []
    for maps in predictions:
        pairs = zip(truth, maps, strict=True)
        runs.append([differences.class_counts(*pair, NUM_CLASSES) for pair in pairs])
    return np.array(runs)


def by_hand(truth, prediction):
    """Returns pixel accuracy and mIoU of class maps, by sets of pixels."""
    labelled = {tuple(place) for place in np.argwhere(truth != 255)}
    overlaps = []
    for number in range(NUM_CLASSES):
        true = {place for place in labelled if truth[place] == number}
        found = {place for place in labelled if prediction[place] == number}
        if true:
            overlaps.append(len(true & found) / len(true | found))
    right = sum(truth[place] == prediction[place] for place in labelled)
    return right / len(labelled), np.mean(overlaps)


@pytest.mark.parametrize('absent', [None, 2])
def test_scores_are_those_of_sets_of_pixels(absent):
    truth = class_maps(3)
    truth[truth == absent] = 0
    prediction = predicted(truth, 0.4, seed=1)
    counts = counts_of(truth, prediction)[0].sum(axis=0)
    accuracy, iou = by_hand(truth, prediction)
    scores = differences.scores_of(counts)
    assert scores['pixel accuracy'] == pytest.approx(accuracy)
    assert scores['mIoU'] == pytest.approx(iou)


def test_a_difference_is_that_of_the_scores_of_all_images():
    truth = class_maps(12)
    maps = [predicted(truth, share, seed) for seed, share in enumerate((0.5, 0.3, 0.6), start=1)]
    found = differences.of_runs(counts_of(truth, *maps), range(12))
    first, *further = (by_hand(truth, prediction) for prediction in maps)
    for row, scores in zip(found, further, strict=True):
        for name, before, now in zip(differences.SCORES, first, scores, strict=True):
            assert row[name].value == pytest.approx(now - before)
            assert row[name].low < row[name].value < row[name].high


def test_equal_predictions_have_no_difference():
    truth = class_maps(12)
    prediction = predicted(truth, 0.5, seed=1)
    (found,) = differences.of_runs(counts_of(truth, prediction, prediction), range(12))
    assert all(row == (0, 0, 0) for row in found.values())


def test_the_interval_is_that_of_the_differences_of_the_images():
    """Images of very different difficulty: only the difference by image is known well."""
    num_images = 400
    generator = np.random.default_rng(0)
    right = generator.integers(100, 900, num_images)
    gain = generator.normal(20, 30, num_images).round().astype(int)
    counts = np.zeros((2, num_images, 3, 1), np.int64)
    counts[:, :, 1:] = 1000
    counts[0, :, 0, 0] = right
    counts[1, :, 0, 0] = right + gain
    (found,) = differences.of_runs(counts, range(num_images))
    row = found['pixel accuracy']
    half = 1.96 * gain.std() / 1000 / np.sqrt(num_images)
    assert row.value == pytest.approx(gain.mean() / 1000)
    assert row.high - row.value == pytest.approx(half, rel=0.1)
    assert row.value - row.low == pytest.approx(half, rel=0.1)


def test_examples_of_an_image_are_resampled_together():
    truth = class_maps(12)
    counts = counts_of(truth, predicted(truth, 0.5, seed=1), predicted(truth, 0.3, seed=2))
    once = differences.of_runs(counts, range(12))
    twice = differences.of_runs(np.repeat(counts, 2, axis=1), np.repeat(range(12), 2))
    for name in differences.SCORES:
        assert twice[0][name] == pytest.approx(once[0][name])


def test_few_images_have_no_interval():
    truth = class_maps(differences.FEWEST_IMAGES - 1)
    counts = counts_of(truth, predicted(truth, 0.5, seed=1), truth)
    (found,) = differences.of_runs(counts, range(len(truth)))
    assert found['mIoU'].value > 0
    assert np.isnan(found['mIoU'].low) and np.isnan(found['mIoU'].high)


def test_images_without_labels_count_nothing():
    truth = np.full((12, 6, 8), 255, np.uint8)
    (found,) = differences.of_runs(counts_of(truth, truth, truth), range(12))
    assert all(row == (0, 0, 0) for row in found.values())
