"""Differences of pixel accuracy and mIoU between runs, with intervals that are paired by image."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from segjax.metrics import intervals
from segjax.spec import IGNORE

SCORES = ('pixel accuracy', 'mIoU')
FEWEST_IMAGES = 10
"""Smallest number of images with an interval. Resamples of fewer images hardly differ."""


class Difference(NamedTuple):
    """A score of a run minus the score of the first run.

    value  of all images
    low    lower end of the 95 % interval over images, NaN for fewer than `FEWEST_IMAGES`
    high   upper end, or NaN
    """

    value: float
    low: float
    high: float


def class_counts(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts right, predicted and true pixels of each class, int64 [3, C].

    Args:
      truth: [H, W] train ids. Ignored pixels do not count.
      prediction: [H, W]. A train id that is no class is wrong.
      num_classes: C.
    """
    labelled = truth != IGNORE
    right = labelled & (prediction == truth)
    predicted = labelled & (prediction < num_classes)
    parts = (truth[right], prediction[predicted], truth[labelled])
    return np.stack([np.bincount(part, minlength=num_classes) for part in parts])


def scores_of(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns pixel accuracy and mIoU, the mean over the classes of the truth, each [...].

    Args:
      counts: [..., 3, C] sums of `class_counts`.
    """
    right, predicted, true = np.moveaxis(counts, -2, 0)
    occurs = true > 0
    union = np.where(occurs, predicted + true - right, 1)
    iou_sum = np.where(occurs, right / union, 0).sum(-1)
    return {
        'pixel accuracy': right.sum(-1) / np.maximum(true.sum(-1), 1),
        'mIoU': iou_sum / np.maximum(occurs.sum(-1), 1),
    }


def of_runs(counts: np.ndarray, groups: Sequence[int]) -> list[dict[str, Difference]]:
    """Returns the differences of every further run from run 0, by score.

    A resample holds the same images for all runs. So an interval has the spread of the difference,
    which is smaller than the spreads of both scores if the runs fail on the same images.

    Args:
      counts: [R, N, 3, C] `class_counts` of each run and example.
      groups: [N] image of each example. Whole images are resampled.
    """
    num_runs, num_examples, *shape = counts.shape
    # Floating-point sums of pixels are exact, and matrices of floats multiply faster.
    flat = counts.reshape(num_runs, num_examples, -1).astype(np.float64)

    def differences(times: np.ndarray) -> dict[str, np.ndarray]:
        of_all = [scores_of((times.astype(np.float64) @ each).reshape(-1, *shape)) for each in flat]
        found = {}
        for number, of_run in enumerate(of_all[1:], start=1):
            for name in SCORES:
                found[f'{name}/{number}'] = of_run[name] - of_all[0][name]
        return found

    rows = intervals.of_statistics(differences, np.zeros(num_examples), groups)
    result = []
    for number in range(1, num_runs):
        found = {name: Difference(**rows[f'{name}/{number}']) for name in SCORES}
        result.append(found)
    if len(set(groups)) >= FEWEST_IMAGES:
        return result
    return [_without_intervals(found) for found in result]


def _without_intervals(found: Mapping[str, Difference]) -> dict[str, Difference]:
    """Returns differences whose ends are NaN."""
    return {name: each._replace(low=math.nan, high=math.nan) for name, each in found.items()}
