"""Scores of a ranking, on the host: how well a number tells positive from negative examples.

Equal scores share a threshold, so no order among them is assumed. All functions equal those of
scikit-learn (sklearn.metrics) without its options.

`roc` and `precision_recall` compute the curves of many resamples at once. Functions of a curve keep
the leading axes of its arrays: a curve [R, K] has R values.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Roc(NamedTuple):
    """The receiver operating characteristic, from the highest threshold to the lowest.

    false_positive_rate  [..., K + 1], from 0 to 1. NaN without a negative example
    true_positive_rate   [..., K + 1], from 0 to 1. NaN without a positive example
    threshold            [K + 1], examples with at least this score are called positive
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    threshold: np.ndarray


class PrecisionRecall(NamedTuple):
    """Precision over recall, from the lowest threshold to the highest.

    precision  [..., K + 1], the last value is 1
    recall     [..., K + 1], from 1 to 0. NaN without a positive example, but for the last value
    threshold  [K], of the first K points
    """

    precision: np.ndarray
    recall: np.ndarray
    threshold: np.ndarray


class _Counts(NamedTuple):
    """Numbers of examples called positive at each of the K distinct thresholds, falling.

    true_positives, false_positives  [..., K] int
    threshold                        [K]
    """

    true_positives: np.ndarray
    false_positives: np.ndarray
    threshold: np.ndarray


def roc(scores: ArrayLike, truth: ArrayLike, times: ArrayLike | None = None) -> Roc:
    """Computes the rates of true and of false positives at every threshold.

        TPR(t) = #{positive, score >= t} / #positive,   FPR(t) = #{negative, score >= t} / #negative

    On a logarithmic axis the points with rate 0 are left out.

    Args:
      scores: [N] finite, high for positive examples.
      truth: [N] bool, or 0 and 1.
      times: [..., N] whole numbers, how often each example counts. None: once.

    Raises:
      ValueError: different lengths, no example, a score that is not finite, another truth.
    """
    counts = _counts(scores, truth, times)
    true_positives = np.insert(counts.true_positives, 0, 0, axis=-1)
    false_positives = np.insert(counts.false_positives, 0, 0, axis=-1)
    return Roc(
        _rate(false_positives, false_positives[..., -1:]),
        _rate(true_positives, true_positives[..., -1:]),
        np.r_[np.inf, counts.threshold],
    )


def precision_recall(
    scores: ArrayLike, truth: ArrayLike, times: ArrayLike | None = None
) -> PrecisionRecall:
    """Computes precision and recall at every threshold.

        precision(t) = #{positive, score >= t} / #{score >= t}
        recall(t)    = #{positive, score >= t} / #positive

    Args:
      scores, truth, times: as in `roc`. Where no example is called positive, the precision is 1.
    """
    counts = _counts(scores, truth, times)
    called = counts.true_positives + counts.false_positives
    precision = np.where(called > 0, _rate(counts.true_positives, called), 1.0)
    recall = _rate(counts.true_positives, counts.true_positives[..., -1:])
    return PrecisionRecall(
        np.insert(precision, 0, 1.0, axis=-1)[..., ::-1],
        np.insert(recall, 0, 0.0, axis=-1)[..., ::-1],
        counts.threshold[::-1],
    )


def auc(x: ArrayLike, y: ArrayLike) -> float:
    """Computes the area under a curve by the trapezoidal rule.

    Args:
      x: [N] in ascending or descending order.
      y: [N].

    Raises:
      ValueError: fewer than two points, or x is in no order.
    """
    xs = np.asarray(x, np.float64)
    ys = np.asarray(y, np.float64)
    steps = np.diff(xs)
    if len(xs) < 2 or len(xs) != len(ys):
        raise ValueError(f'an area needs pairs of two points or more; got {len(xs)} and {len(ys)}')
    if (steps < 0).any() and (steps > 0).any():
        raise ValueError('x must be in ascending or descending order')
    return float(abs(np.sum(steps * (ys[1:] + ys[:-1]) / 2)))


def average_precision(scores: ArrayLike, truth: ArrayLike) -> float:
    """Returns `mean_precision` of the curve of scores.

    Args:
      scores, truth: as in `roc`.
    """
    return float(mean_precision(precision_recall(scores, truth)))


def tpr_at_fpr(scores: ArrayLike, truth: ArrayLike, rate: float) -> float:
    """Returns `largest_tpr` of the curve of scores.

    Args:
      scores, truth: as in `roc`.
      rate: in [0, 1].
    """
    return float(largest_tpr(roc(scores, truth), rate))


# --- scores of curves -----------------------------------------------------------------------------


def area(curve: Roc) -> np.ndarray:
    """Computes the area under each curve (AUC) by the trapezoidal rule, [...].

    It is the probability that a positive example has a larger score than a negative example, where
    equal scores count one half.
    """
    return np.trapezoid(curve.true_positive_rate, curve.false_positive_rate, axis=-1)


def largest_tpr(curve: Roc, rate: float) -> np.ndarray:
    """Returns the largest true-positive rate at a false-positive rate of at most `rate`, [...].

    No rate between two thresholds is interpolated, because no threshold reaches it.
    """
    reached = np.where(curve.false_positive_rate <= rate, curve.true_positive_rate, np.nan)
    return np.fmax.reduce(reached, axis=-1)


def balanced_accuracy(curve: Roc) -> np.ndarray:
    """Computes the balanced accuracy at the best threshold of each curve, [...].

    max_t (TPR(t) + 1 - FPR(t)) / 2
    """
    return ((curve.true_positive_rate + 1 - curve.false_positive_rate) / 2).max(-1)


def mean_precision(curve: PrecisionRecall) -> np.ndarray:
    """Computes the mean of the precision over the recall, without interpolation (AP), [...].

    AP = sum_k (recall_k - recall_{k+1}) precision_k
    """
    return -np.sum(np.diff(curve.recall) * curve.precision[..., :-1], axis=-1)


def precision_at_recall(curve: PrecisionRecall, recall: float) -> np.ndarray:
    """Returns the largest precision at a recall of at least `recall`, [...].

    Args:
      curve: of `precision_recall`.
      recall: in (0, 1].
    """
    reached = np.where(curve.recall >= recall, curve.precision, np.nan)
    return np.fmax.reduce(reached, axis=-1)


def _counts(scores: ArrayLike, truth: ArrayLike, times: ArrayLike | None) -> _Counts:
    """Counts the examples above every distinct score. Arguments are as in `roc`."""
    values = np.asarray(scores, np.float64)
    labels = np.asarray(truth)
    if values.ndim != 1 or values.shape != labels.shape or not values.size:
        shapes = f'{list(values.shape)} and {list(labels.shape)}'
        raise ValueError(f'scores and truth are lists of one length; got the shapes {shapes}')
    if not np.isfinite(values).all():
        raise ValueError('scores must be finite')
    if not np.isin(labels, (0, 1)).all():
        raise ValueError('truth must be bool, or 0 and 1')

    # The last example of each group of equal scores closes the group.
    order = np.argsort(-values, kind='stable')
    ranked = values[order]
    last = np.r_[np.flatnonzero(np.diff(ranked)), len(ranked) - 1]
    copies = np.ones(len(values), np.int64) if times is None else np.asarray(times)
    copies = copies[..., order]
    called = np.cumsum(copies, axis=-1)[..., last]
    true_positives = np.cumsum(copies * (labels[order] == 1), axis=-1)[..., last]
    return _Counts(true_positives, called - true_positives, ranked[last])


def _rate(counts: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Returns counts / total, NaN where the total is 0."""
    with np.errstate(invalid='ignore'):
        return counts / np.float64(total)
