"""Rankings against scikit-learn, and against counts over all pairs of examples."""

import numpy as np
import pytest

from segjax.metrics import ranking

RNG = np.random.default_rng(0)


def examples(kind):
    """Returns scores and truth: distinct scores, many ties, or a single score."""
    truth = RNG.random(200) < 0.3
    scores = truth + RNG.normal(0, 1.5, 200)
    if kind == 'ties':
        scores = np.round(scores)
    if kind == 'constant':
        scores = np.zeros(200)
    return scores, truth


KINDS = ('distinct', 'ties', 'constant')


@pytest.mark.parametrize('kind', KINDS)
def test_rates_are_the_counts_at_every_threshold(kind):
    scores, truth = examples(kind)
    curve = ranking.roc(scores, truth)
    assert list(curve.threshold[1:]) == sorted(set(scores), reverse=True)
    assert curve.threshold[0] == np.inf
    for k, threshold in enumerate(curve.threshold):
        called = [bool(score >= threshold) for score in scores]
        hits = sum(c and t for c, t in zip(called, truth, strict=True))
        alarms = sum(c and not t for c, t in zip(called, truth, strict=True))
        assert curve.true_positive_rate[k] == hits / truth.sum()
        assert curve.false_positive_rate[k] == alarms / (~truth).sum()


@pytest.mark.parametrize('kind', KINDS)
def test_the_area_is_the_share_of_pairs_in_the_right_order(kind):
    """The Mann-Whitney statistic, in which a tie counts one half."""
    scores, truth = examples(kind)
    wins = 0.0
    for positive in scores[truth]:
        for negative in scores[~truth]:
            wins += (positive > negative) + 0.5 * (positive == negative)
    curve = ranking.roc(scores, truth)
    area = ranking.auc(curve.false_positive_rate, curve.true_positive_rate)
    assert area == pytest.approx(wins / (truth.sum() * (~truth).sum()), abs=1e-12)


@pytest.mark.parametrize('kind', KINDS)
def test_precision_and_recall_are_the_counts_at_every_threshold(kind):
    scores, truth = examples(kind)
    curve = ranking.precision_recall(scores, truth)
    for k, threshold in enumerate(curve.threshold):
        called = scores >= threshold
        assert curve.precision[k] == (called & truth).sum() / called.sum()
        assert curve.recall[k] == (called & truth).sum() / truth.sum()
    assert (curve.precision[-1], curve.recall[-1]) == (1, 0)


@pytest.mark.parametrize('kind', KINDS)
def test_all_equal_scikit_learn(kind):
    reference = pytest.importorskip('sklearn.metrics')
    scores, truth = examples(kind)
    for got, expected in zip(
        ranking.roc(scores, truth),
        reference.roc_curve(truth, scores, drop_intermediate=False),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    for got, expected in zip(
        ranking.precision_recall(scores, truth),
        reference.precision_recall_curve(truth, scores),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    average = reference.average_precision_score(truth, scores)
    assert ranking.average_precision(scores, truth) == pytest.approx(average, abs=1e-12)
    curve = ranking.roc(scores, truth)
    area = ranking.auc(curve.false_positive_rate, curve.true_positive_rate)
    assert area == pytest.approx(reference.roc_auc_score(truth, scores), abs=1e-12)


def test_the_rate_at_few_false_positives_is_reached_by_a_threshold():
    truth = np.array([1, 1, 0, 1, 0, 0, 0])
    scores = np.array([9, 8, 7, 6, 5, 4, 3])
    assert ranking.tpr_at_fpr(scores, truth, 0.0) == pytest.approx(2 / 3)
    assert ranking.tpr_at_fpr(scores, truth, 0.2499) == pytest.approx(2 / 3)
    assert ranking.tpr_at_fpr(scores, truth, 0.25) == 1.0
    assert ranking.tpr_at_fpr(np.zeros(7), truth, 0.5) == 0.0, 'all scores are equal'


def curve_scores(scores, truth, times=None):
    """Returns all functions of curves, by name."""
    curve = ranking.roc(scores, truth, times)
    precision = ranking.precision_recall(scores, truth, times)
    return {
        'area': ranking.area(curve),
        'largest_tpr': ranking.largest_tpr(curve, 0.05),
        'balanced_accuracy': ranking.balanced_accuracy(curve),
        'mean_precision': ranking.mean_precision(precision),
        'precision_at_recall': ranking.precision_at_recall(precision, 0.8),
    }


@pytest.mark.parametrize('kind', KINDS)
def test_the_best_threshold_is_found_among_all_thresholds(kind):
    scores, truth = examples(kind)
    accuracies, precisions = [0.5], []
    for threshold in sorted(set(scores)):
        called = scores >= threshold
        recall = (called & truth).sum() / truth.sum()
        specificity = (~called & ~truth).sum() / (~truth).sum()
        accuracies.append((recall + specificity) / 2)
        if recall >= 0.8:
            precisions.append((called & truth).sum() / called.sum())
    got = curve_scores(scores, truth)
    assert got['balanced_accuracy'] == pytest.approx(max(accuracies), abs=1e-12)
    assert got['precision_at_recall'] == pytest.approx(max(precisions), abs=1e-12)


@pytest.mark.parametrize('kind', KINDS)
def test_an_example_that_counts_n_times_equals_n_copies(kind):
    scores, truth = examples(kind)
    times = RNG.integers(0, 4, (3, 200))
    times[0, np.argmax(scores)] = 0  # a threshold above which no example is left
    got = curve_scores(scores, truth, times)
    for row in range(3):
        copies = np.repeat(np.arange(200), times[row])
        expected = curve_scores(scores[copies], truth[copies])
        for name, value in expected.items():
            assert got[name][row] == pytest.approx(value, abs=1e-12), name


def test_the_area_equals_the_trapezoidal_rule():
    scores, truth = examples('ties')
    curve = ranking.roc(scores, truth)
    trapezoids = ranking.auc(curve.false_positive_rate, curve.true_positive_rate)
    assert ranking.area(curve) == pytest.approx(trapezoids, abs=1e-12)


def test_examples_of_a_single_kind_have_no_rate_of_the_other_kind():
    curve = ranking.roc([1.0, 2.0], [1, 1])
    assert np.isnan(curve.false_positive_rate).all()
    assert list(curve.true_positive_rate) == [0, 0.5, 1]
    assert np.isnan(ranking.auc(curve.false_positive_rate, curve.true_positive_rate))
    assert np.isnan(ranking.tpr_at_fpr([1.0, 2.0], [1, 1], 0.1))
    of_negatives = curve_scores([1.0, 2.0], [0, 0])
    assert all(np.isnan(value) for value in of_negatives.values()), of_negatives


@pytest.mark.parametrize(
    'scores, truth, message',
    [
        ([], [], 'one length'),
        ([1.0], [1, 0], 'one length'),
        ([np.nan], [1], 'finite'),
        ([1.0], [2], '0 and 1'),
    ],
)
def test_other_arguments_are_refused(scores, truth, message):
    with pytest.raises(ValueError, match=message):
        ranking.roc(scores, truth)


def test_an_area_needs_an_order():
    with pytest.raises(ValueError, match='order'):
        ranking.auc([0, 2, 1], [0, 1, 2])
    with pytest.raises(ValueError, match='two points'):
        ranking.auc([0], [1])
    assert ranking.auc([2, 1, 0], [0, 1, 2]) == 2.0, 'descending'
