"""Statistics of features against loops over pixels, and histograms whose values are known."""

import functools
import json
import math

import jax
import numpy as np
import pytest

from segjax.core import parallel
from segjax.errors import InputError
from segjax.metrics import features
from segjax.protocol import Mean

RNG = np.random.default_rng(0)
B, H, W, C, K = 8, 4, 6, 3, 4
VALUES = RNG.normal(size=(B, H, W, C)).astype(np.float32)
LABEL = RNG.integers(0, K, (B, 2 * H, 2 * W)).astype(np.int32)
LABEL[0, :4] = 255
LABEL[1, 0] = K
WEIGHT = np.array([1, 1, 0, 0.5, 1, 1, 1, 1], np.float32)
BINS = features.Bins(5, -1.5, 1.0)
EXAMPLES = {'values': VALUES, 'label': LABEL, 'weight': WEIGHT}


@functools.partial(jax.jit, static_argnums=(3, 4))
def histograms(values, label, weight, num_classes=K, bins=BINS):
    return features.histograms(values, label, weight, num_classes, bins)


# --- counting -------------------------------------------------------------------------------------


def counts_by_hand(values, label, weight):
    """Counts pixel by pixel. Labels have twice the size of the features."""
    edges = np.linspace(BINS.low, BINS.high, BINS.number + 1)
    counts = np.zeros((K, C, BINS.number), int)
    for example in range(len(values)):
        for i in range(H):
            for j in range(W):
                # The centre of the cell is between two pixels. The lower right pixel is taken.
                k = label[example, 2 * i + 1, 2 * j + 1]
                for c in range(C):
                    if weight[example] > 0 and k < K:
                        below = (edges[1:-1] <= values[example, i, j, c]).sum()
                        counts[k, c, below] += 1
    return counts


def test_counts_are_those_of_a_loop_over_pixels():
    mean = histograms(VALUES, LABEL, WEIGHT)
    assert mean.sum.dtype == np.int32 and mean.count == 1
    expected = counts_by_hand(VALUES, LABEL, WEIGHT)
    np.testing.assert_array_equal(mean.sum, expected)
    assert expected[..., [0, -1]].all(), 'values beyond the limits count in the first and last bin'


def test_labels_in_the_size_of_the_features_are_taken_as_they_are():
    small = LABEL[:, 1::2, 1::2]
    whole = histograms(VALUES, LABEL, WEIGHT).sum
    np.testing.assert_array_equal(histograms(VALUES, small, WEIGHT).sum, whole)


def test_values_that_are_not_finite():
    values = np.full((1, 1, 4, 1), 0.0, np.float32)
    values[0, 0, :3, 0] = np.nan, np.inf, -np.inf
    label = np.zeros((1, 1, 4), np.int32)
    counts = histograms(values, label, np.ones(1, np.float32)).sum
    np.testing.assert_array_equal(counts[0, 0], [1, 0, 0, 1, 1])


def test_two_halves_add_up_to_the_whole():
    whole = histograms(VALUES, LABEL, WEIGHT).sum
    first = histograms(VALUES[:3], LABEL[:3], WEIGHT[:3]).sum
    second = histograms(VALUES[3:], LABEL[3:], WEIGHT[3:]).sum
    np.testing.assert_array_equal(first + second, whole)


def test_eight_devices_count_what_a_device_counts():
    def step(batch):
        return parallel.sum_over_devices(features.histograms(**batch, num_classes=K, bins=BINS))

    topology = parallel.topology('pmap', 8)
    mapped = topology.spmd(step, num_args=1, batch_args=(0,))
    counts = parallel.to_host(mapped(topology.put_batch(EXAMPLES)))
    np.testing.assert_array_equal(counts.sum, histograms(VALUES, LABEL, WEIGHT).sum)


# --- patches on a ball ----------------------------------------------------------------------------


def test_patches_get_the_same_norm():
    patches = np.float16([1, 7, 0, 0.5])[:, None, None, None] * VALUES[:4].astype(np.float16)
    scaled = features.on_ball(patches)
    assert scaled.dtype == np.float32
    lengths = np.linalg.norm(np.asarray(scaled).reshape(4, -1), axis=1)
    np.testing.assert_allclose(lengths, [100, 100, 0, 100], rtol=1e-6)
    directions = np.float32(patches[[0, 1, 3]]) / np.asarray(scaled)[[0, 1, 3]]
    np.testing.assert_allclose(directions, directions[:, :1, :1, :1] * np.ones((H, W, C)), 1e-4)


@pytest.mark.parametrize('shape', [(4, 6, 3), (30, 40, 2)])
def test_bins_of_the_ball_end_at_the_same_multiple_of_the_root_mean_square(shape):
    bins = features.ball_bins(shape, 32, spread=3.0)
    values = np.asarray(features.on_ball(np.random.default_rng(1).normal(size=(1, *shape))))
    deviation = np.sqrt((values**2).mean())
    np.testing.assert_allclose([bins.low, bins.high], [-3 * deviation, 3 * deviation], rtol=1e-5)
    assert bins.number == 32
    np.testing.assert_allclose(bins.centres()[:2], bins.low + deviation / 32 * np.array([3, 9]))


def test_padding_changes_no_value_of_a_patch():
    patch = np.random.default_rng(2).normal(size=(1, 4, 6, 3)).astype(np.float32)
    padded = np.full((1, 8, 9, 3), 5, np.float32)
    padded[:, :4, :6] = patch
    valid = np.zeros((1, 8, 9), bool)
    valid[:, :4, :6] = True
    values = np.asarray(features.on_ball(padded, valid))
    assert not values[~valid].any()
    # Both fit the bins of their sizes equally.
    whole = np.asarray(features.on_ball(patch)) / features.ball_bins((4, 6, 3)).high
    inside = values[:, :4, :6] / features.ball_bins((8, 9, 3)).high
    np.testing.assert_allclose(inside, whole, rtol=1e-5)


@pytest.mark.parametrize('wrong', [dict(number=1), dict(spread=0.0)])
def test_bins_without_a_width_are_refused(wrong):
    with pytest.raises(InputError, match='2 bins or more'):
        features.ball_bins((4, 6, 3), **wrong)


# --- scores ---------------------------------------------------------------------------------------


def scores_by_hand(counts):
    """Entropy and overlap of histograms, bin by bin."""
    entropies = []
    overlaps = []
    shares = [[[n / sum(row) for n in row] for row in rows] for rows in counts.tolist()]
    for rows in shares:
        for row in rows:
            entropies.append(-sum(p * math.log(p) for p in row if p > 0))
    for k in range(len(shares)):
        for other in range(k):
            for p, q in zip(shares[k], shares[other], strict=True):
                smaller = sum(min(a, b) for a, b in zip(p, q, strict=True))
                larger = sum(max(a, b) for a, b in zip(p, q, strict=True))
                overlaps.append(smaller / larger)
    return np.mean(entropies), np.mean(overlaps)


def test_scores_are_those_of_a_loop_over_bins():
    counts = np.asarray(histograms(VALUES, LABEL, WEIGHT).sum, np.float64)
    scores = features.scores(counts, 'abcd')
    entropy, overlap = scores_by_hand(counts)
    assert scores['entropy'] == pytest.approx(entropy, abs=1e-12)
    assert scores['histogram_iou'] == pytest.approx(overlap, abs=1e-12)
    by_class = features.entropy(counts).mean(1)
    assert list(scores['class_entropy'].items()) == list(zip('abcd', by_class, strict=True))
    assert json.loads(json.dumps(scores)) == scores


def test_a_uniform_histogram_has_the_logarithm_of_its_bins():
    counts = np.full((2, 3, 16), 7)
    np.testing.assert_allclose(features.entropy(counts), np.log(16), rtol=1e-12)
    assert features.scores(counts, 'ab')['histogram_iou'] == pytest.approx(1)


def test_equal_classes_overlap_wholly_and_disjoint_classes_not_at_all():
    counts = np.array([[[3, 5, 0, 0]], [[30, 50, 0, 0]], [[0, 0, 4, 0]]])
    expected = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(features.overlap(counts), expected, atol=1e-12)
    np.testing.assert_allclose(features.entropy(counts)[2], 0, atol=1e-12)


def test_classes_without_pixels_are_left_out():
    counts = np.array([[[3, 5]], [[0, 0]], [[5, 3]]])
    scores = features.scores(counts, 'abc')
    both = features.scores(counts[[0, 2]], 'ac')
    assert scores['entropy'] == both['entropy']
    assert scores['histogram_iou'] == both['histogram_iou'] == pytest.approx(3 / 5)
    assert scores['class_entropy']['b'] is None
    nothing = features.scores(0 * counts, 'abc')
    assert nothing['entropy'] is None and nothing['histogram_iou'] is None


def test_sums_of_the_driver_are_scored_like_counts():
    mean = histograms(VALUES, LABEL, WEIGHT)
    halves = [np.asarray(mean.sum, np.float64), np.asarray(mean.sum, np.float64)]
    doubled = Mean(sum(halves), 2.0)
    assert features.scores(doubled.sum, 'abcd') == features.scores(np.asarray(mean.sum), 'abcd')


def test_another_number_of_names_is_refused():
    with pytest.raises(InputError, match='3 names'):
        features.scores(np.ones((4, 1, 2)), 'abc')


def test_a_curve_of_a_channel_shows_the_occupied_bins():
    counts = np.zeros((3, 2, 5), int)
    counts[0, 1] = [0, 1, 3, 0, 0]
    counts[2, 1] = [0, 0, 0, 5, 0]
    counts[:, 0] = 1
    curve = features.distribution(counts, BINS, 1, {'road': 0, 'sky': 1, 'pole': 2})
    assert curve['x_name'] == 'activation (patches of norm 100)'
    lines = {line['name']: line for line in curve['series']}
    assert list(lines) == ['road', 'pole'], 'no pixel is sky'
    np.testing.assert_allclose(lines['road']['x'], [-0.75, -0.25, 0.25])
    np.testing.assert_allclose(lines['road']['y'], [0.25, 0.75, 0])
    np.testing.assert_allclose(lines['pole']['y'], [0, 0, 1])
    with pytest.raises(ValueError, match='no class of sky has pixels'):
        features.distribution(counts, BINS, 1, {'sky': 1})
