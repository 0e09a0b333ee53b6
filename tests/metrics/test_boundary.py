"""The boundary benchmark against its published output, brute force, and lines drawn by hand."""

import itertools
import json

import jax
import numpy as np
import pytest
from berkeley_matching import published_match
from scipy import io, optimize

from segjax.errors import InputError
from segjax.metrics import boundary
from segjax.protocol import Mean
from segjax.spec import IGNORE

RNG = np.random.default_rng(0)
SIZE = (30, 40)
"""An image whose diagonal is 50 pixels."""
DIST = 0.06
"""Largest distance of a match: 3 pixels of SIZE."""


def vertical_line(column, size=SIZE):
    """Returns a map with a line from top to bottom."""
    lines = np.zeros(size, bool)
    lines[:, column] = True
    return lines


def one_map(boundaries):
    """Returns the truth of a single annotator."""
    return boundary.annotated_truth((boundaries,))


def counts_of(predicted, *annotators, max_dist=DIST):
    """Returns the counts [4] of a map of lines against annotators, as integers."""
    truth = boundary.annotated_truth(annotators)
    reach = max_dist * np.hypot(*predicted.shape)
    return boundary.map_counts(predicted, truth, reach).astype(int).tolist()


# --- the published output -------------------------------------------------------------------------


PUBLISHED_IMAGES = {
    '2018': (1 / 6, 0.646110, 0.886752, 0.747542),
    '3063': (4 / 6, 0.596016, 1.0, 0.746880),
    '5096': (1 / 6, 0.471914, 0.994419, 0.640073),
    '6046': (1 / 6, 0.477546, 0.939639, 0.633257),
    '8068': (1 / 6, 0.870216, 0.809992, 0.839025),
}
"""Threshold, recall, precision and F of the best threshold of each image."""


@pytest.fixture(scope='module')
def berkeley(real_data):
    """Returns the folder of the example that comes with the benchmark."""
    folder = real_data / 'bsds_bench'
    if not folder.is_dir():
        pytest.skip('no images of the Berkeley benchmark')
    return folder


@pytest.fixture(scope='module')
def berkeley_counts(berkeley):
    """Returns the counts [6, 4] of each of the five images at five thresholds."""
    counts = {}
    for name in PUBLISHED_IMAGES:
        truth = boundary.annotated_truth(tuple(maps for _, maps in annotations(berkeley, name)))
        strengths = boundary.ucm_strength(contours(berkeley, name), truth.counted.shape)
        counts[name] = boundary.image_counts(strengths, truth, num_thresholds=5).sum
    return counts


def annotations(folder, name):
    """Yields the regions and the boundaries of each annotator of an image."""
    for annotation in io.loadmat(folder / f'groundTruth/{name}.mat')['groundTruth'][0]:
        yield annotation['Segmentation'][0, 0], annotation['Boundaries'][0, 0] > 0


def contours(folder, name):
    return io.loadmat(folder / f'ucm2/{name}.mat')['ucm2']


def test_scores_of_the_benchmark_are_reproduced(berkeley, berkeley_counts):
    threshold, *ods_and_more = np.loadtxt(berkeley / 'test_1/eval_bdry.txt')
    total = Mean(sum(berkeley_counts.values()), np.asarray(5))
    scores = boundary.scores(total)
    assert scores['best_threshold'] == pytest.approx(threshold, abs=1e-6)
    names = ('ODS_recall', 'ODS_precision', 'ODS_F', 'OIS_recall', 'OIS_precision', 'OIS_F', 'AP')
    assert [scores[name] for name in names] == pytest.approx(ods_and_more, abs=5e-4)
    assert scores['ODS_F'] == pytest.approx(0.704632, abs=2e-4)


def test_each_threshold_of_the_benchmark_is_reproduced(berkeley, berkeley_counts):
    published = np.loadtxt(berkeley / 'test_1/eval_bdry_thr.txt')
    np.testing.assert_allclose(published[:, 0], boundary.even_thresholds(5), atol=1e-6)
    rows = boundary.threshold_scores(sum(berkeley_counts.values())[:-1])
    got = [(row.recall, row.precision, row.f) for row in rows]
    np.testing.assert_allclose(got, published[:, 1:], atol=8e-4)


@pytest.mark.parametrize('name', PUBLISHED_IMAGES)
def test_each_image_of_the_benchmark_is_reproduced(berkeley_counts, name):
    threshold, recall, precision, f = PUBLISHED_IMAGES[name]
    *rows, best = boundary.threshold_scores(berkeley_counts[name])
    assert rows.index(best) == round(6 * threshold) - 1
    assert (best.recall, best.precision, best.f) == pytest.approx(
        (recall, precision, f), abs=1.3e-3
    )
    # The exact assignment never has fewer pairs.
    assert best.recall > recall - 1e-6


def test_boundaries_of_all_annotators_are_reproduced_to_the_pixel(berkeley):
    """The benchmark made them from the regions, with the thinning of MATLAB."""
    for name in PUBLISHED_IMAGES:
        for regions, boundaries in annotations(berkeley, name):
            got = boundary.thin(boundary.label_boundaries(regions))
            np.testing.assert_array_equal(got, boundaries)


def test_contour_maps_with_and_without_a_frame_have_the_same_strengths(berkeley):
    contour_map = contours(berkeley, '8068')
    strengths = boundary.ucm_strength(contour_map, (321, 481))
    np.testing.assert_array_equal(
        boundary.ucm_strength(contour_map[1:-1, 1:-1], (321, 481)), strengths
    )
    np.testing.assert_array_equal(boundary.ucm_strength(strengths, (321, 481)), strengths)


def test_random_outliers_of_the_published_graph_cost_a_few_pairs(berkeley):
    """They explain the recall of image 3063, which is 0.0012 below the exact recall."""
    truth = boundary.annotated_truth(tuple(maps for _, maps in annotations(berkeley, '3063')))
    strengths = boundary.ucm_strength(contours(berkeley, '3063'), truth.counted.shape)
    predicted = boundary.thin(strengths >= 4 / 6)
    reach = boundary.MAX_DIST * np.hypot(*predicted.shape)
    rng = np.random.default_rng(0)
    pairs = 0
    for annotator in truth.boundaries:
        pairs += np.count_nonzero(published_match(predicted, annotator, reach, rng)[1])
    total = sum(map(np.count_nonzero, truth.boundaries))
    exact = boundary.map_counts(predicted, truth, reach)[2]
    assert pairs < exact
    assert pairs / total == pytest.approx(PUBLISHED_IMAGES['3063'][1], abs=6e-4)


# --- maps -----------------------------------------------------------------------------------------


def test_thresholds_are_even():
    assert boundary.even_thresholds(1).tolist() == [0.5]
    np.testing.assert_allclose(boundary.even_thresholds(), np.arange(1, 100) / 100)


def boundaries_by_loops(labels, ignore=None):
    """Returns the pixels whose block of 2 x 2 pixels has two different neighbours."""
    height, width = labels.shape
    result = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(height, width):
        block = [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)]
        block = [(r, c) for r, c in block if r < height and c < width]
        for (a, b), (c, d) in itertools.combinations(block, 2):
            known = ignore not in (labels[a, b], labels[c, d])
            if abs(a - c) + abs(b - d) == 1 and labels[a, b] != labels[c, d] and known:
                result[y, x] = True
    return result


@pytest.mark.parametrize('size', [(7, 9), (1, 6), (6, 1), (1, 1)])
def test_boundaries_lie_at_corners_between_labels(size):
    labels = RNG.integers(0, 3, size)
    np.testing.assert_array_equal(boundary.label_boundaries(labels), boundaries_by_loops(labels))
    got = boundary.label_boundaries(labels, ignore=1)
    np.testing.assert_array_equal(got, boundaries_by_loops(labels, 1))


def test_strengths_of_sure_classes_are_the_boundaries_of_their_labels():
    labels = RNG.integers(0, 4, (2, 9, 8))
    strengths = np.asarray(jax.jit(boundary.boundary_strength)(np.eye(4)[labels]))
    expected = [boundary.label_boundaries(image) for image in labels]
    np.testing.assert_array_equal(strengths, np.float32(expected))


def test_the_strength_is_the_largest_total_variation_around_a_corner():
    probabilities = RNG.dirichlet(np.ones(3), (5, 6)).astype(np.float32)
    strengths = np.asarray(jax.jit(boundary.boundary_strength)(probabilities))
    for y, x in np.ndindex(4, 5):
        pairs = [((y, x), (y + 1, x)), ((y, x), (y, x + 1))]
        pairs += [((y, x + 1), (y + 1, x + 1)), ((y + 1, x), (y + 1, x + 1))]
        largest = max(abs(probabilities[p] - probabilities[q]).sum() / 2 for p, q in pairs)
        assert strengths[y, x] == pytest.approx(largest, abs=1e-6)


def test_padding_makes_no_boundary():
    probabilities = RNG.dirichlet(np.ones(3), (2, 7, 9)).astype(np.float32)
    sizes = np.array([[7, 9], [4, 5]])
    strengths = np.asarray(jax.jit(boundary.boundary_strength)(probabilities, sizes))
    whole = jax.jit(boundary.boundary_strength)(probabilities[0])
    np.testing.assert_array_equal(strengths[0], whole)
    part = jax.jit(boundary.boundary_strength)(probabilities[1, :4, :5])
    np.testing.assert_array_equal(strengths[1, :4, :5], part)
    assert not strengths[1, 4:].any() and not strengths[1, :, 5:].any()


def thin_by_loops(pixels):
    """Thins by the conditions of Guo and Hall, in the order of MATLAB."""
    pixels = np.pad(pixels, 1).astype(int)
    while True:
        before = pixels.copy()
        for subiteration in (0, 1):
            removed = []
            for y, x in zip(*np.nonzero(pixels), strict=True):
                # The neighbours from the east, against the clock.
                steps = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]
                n = [pixels[y + dy, x + dx] for dy, dx in steps]
                crossings = sum(not n[i] and (n[i + 1] or n[(i + 2) % 8]) for i in (0, 2, 4, 6))
                first = sum(n[i] or n[i + 1] for i in (0, 2, 4, 6))
                second = sum(n[i + 1] or n[(i + 2) % 8] for i in (0, 2, 4, 6))
                o = 4 * subiteration
                blocked = (n[1 + o] or n[2 + o] or not n[(7 + o) % 8]) and n[o]
                if crossings == 1 and 2 <= min(first, second) <= 3 and not blocked:
                    removed.append((y, x))
            for place in removed:
                pixels[place] = 0
        if (pixels == before).all():
            return pixels[1:-1, 1:-1] > 0


@pytest.mark.parametrize('share', [0.4, 0.6, 0.9])
def test_thinning_obeys_guo_and_hall(share):
    """Also at the border of the image."""
    pixels = RNG.random((14, 17)) < share
    np.testing.assert_array_equal(boundary.thin(pixels), thin_by_loops(pixels))


def test_thinning_makes_lines_of_one_pixel():
    bar = np.zeros(SIZE, bool)
    bar[10:15] = True
    lines = boundary.thin(bar)
    assert (lines.sum(0)[2:-2] == 1).all() and lines[10:15].sum() == lines.sum()
    np.testing.assert_array_equal(boundary.thin(lines), lines)


# --- matching -------------------------------------------------------------------------------------


def best_assignment(predicted, true, reach):
    """Returns the number of pairs and the cost of the dense assignment with outliers."""
    distances = np.hypot(
        *(np.argwhere(predicted)[:, None] - np.argwhere(true)[None]).transpose(2, 0, 1)
    )
    n1, n2 = distances.shape
    outlier = np.ceil(100 * 100 * reach)
    costs = np.full((n1 + n2, n1 + n2), outlier)
    costs[:n1, :n2] = np.where(distances <= reach, np.rint(100 * distances), 1e9)
    rows, columns = optimize.linear_sum_assignment(costs)
    paired = (rows < n1) & (columns < n2)
    return paired.sum(), costs[rows[paired], columns[paired]].sum()


@pytest.mark.parametrize('reach', [1.0, 2.3, 4.0])
@pytest.mark.parametrize('density', [0.1, 0.4])
def test_the_assignment_has_most_pairs_and_then_the_smallest_distances(reach, density):
    for _ in range(5):
        predicted = RNG.random((9, 11)) < density
        true = RNG.random((9, 11)) < 0.2
        matched, matched_true = boundary.match(predicted, true, reach)
        pairs, cost = best_assignment(predicted, true, reach)
        assert matched.sum() == matched_true.sum() == pairs
        assert not (matched & ~predicted).any() and not (matched_true & ~true).any()
        # The chosen pixels can be paired at the smallest cost of all.
        assert best_assignment(matched, matched_true, reach) == (pairs, cost)


@pytest.mark.parametrize('shift, matched', [(0, 30), (2, 30), (3, 30), (4, 0)])
def test_lines_match_up_to_the_largest_distance(shift, matched):
    predicted = vertical_line(20 + shift)
    assert counts_of(predicted, vertical_line(20)) == [matched, 30, matched, 30]


def test_a_true_pixel_matches_a_single_predicted_pixel():
    double = vertical_line(18) | vertical_line(22)
    assert counts_of(double, vertical_line(20)) == [30, 60, 30, 30]
    assert counts_of(vertical_line(20), double) == [30, 30, 30, 60]


def test_the_nearer_line_is_matched():
    near = vertical_line(19)
    matched, _ = boundary.match(near | vertical_line(22), vertical_line(20), 3.0)
    np.testing.assert_array_equal(matched, near)


def test_a_prediction_needs_a_single_annotator_and_recall_counts_all():
    left, right = vertical_line(10), vertical_line(30)
    assert counts_of(left, left, right) == [30, 30, 30, 60]
    assert counts_of(left | right, left, right) == [60, 60, 60, 60]
    assert counts_of(left, left, left) == [30, 30, 60, 60]


def test_maps_without_boundaries_match_nothing():
    empty = np.zeros(SIZE, bool)
    line = vertical_line(20)
    assert counts_of(empty, line) == [0, 0, 0, 30]
    assert counts_of(line, empty) == [0, 30, 0, 0]
    assert counts_of(empty, empty) == [0, 0, 0, 0]


def test_the_distance_grows_with_the_image():
    """0.0075 diagonals are 4.3 pixels of the images of Berkeley, and 5.3 of a cut of NYUDv2."""
    for size, shift, matched in [((321, 481), 4, 321), ((321, 481), 5, 0), ((425, 560), 5, 425)]:
        predicted, true = vertical_line(50 + shift, size), vertical_line(50, size)
        assert counts_of(predicted, true, max_dist=boundary.MAX_DIST)[0] == matched


# --- unlabelled pixels ----------------------------------------------------------------------------


def halves(gap, height=60, width=80, middle=40):
    """Returns two classes with an unlabelled strip of `gap` pixels between them."""
    labels = np.zeros((height, width), np.uint8)
    labels[:, middle:] = 1
    labels[:, middle - gap // 2 : middle - gap // 2 + gap] = IGNORE
    return labels


@pytest.mark.parametrize('gap', [0, 1, 2, 4, 6])
def test_a_strip_without_labels_is_a_line_between_its_sides(gap):
    """The largest distance is 0.03 * 100 = 3 pixels, so strips of up to 6 pixels are lines."""
    truth = boundary.class_truth(halves(gap), max_dist=0.03)
    assert truth.counted.all()
    (line,) = truth.boundaries
    rows, columns = np.nonzero(line)
    assert len(rows) == 60 and (abs(columns - 39) <= 1).all()
    assert boundary.f_measure(halves(0), halves(gap), max_dist=0.03) == (1, 1, 1)


def test_a_strip_inside_a_class_is_no_boundary():
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 30:34] = IGNORE
    (line,) = boundary.class_truth(labels, max_dist=0.03).boundaries
    assert not line.any()


def test_wide_areas_without_labels_count_nowhere():
    labels = halves(20)  # columns 30 .. 49
    truth = boundary.class_truth(labels, max_dist=0.03)
    expected = np.ones(labels.shape, bool)
    expected[:, 27:53] = False  # also the pixels within 3 pixels
    np.testing.assert_array_equal(truth.counted, expected)
    assert not (truth.boundaries[0] & truth.counted).any()

    # Predictions in and near the area are not wrong, and farther predictions are.
    total = boundary.image_counts(vertical_line(28, labels.shape), truth, 1, 0.03).sum[0]
    assert total.tolist() == [0, 0, 0, 0]
    total = boundary.image_counts(vertical_line(26, labels.shape), truth, 1, 0.03).sum[0]
    assert total.tolist() == [0, 60, 0, 0]


def test_a_prediction_may_match_an_uncounted_true_pixel():
    """A shift over the end of the counted pixels makes no error."""
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 40:] = 1
    labels[:, :37] = IGNORE  # wide, so columns up to 39 are not counted
    truth = boundary.class_truth(labels, max_dist=0.03)
    assert np.unique(np.nonzero(truth.boundaries[0])[1]).tolist() == [39]
    counts = boundary.image_counts(vertical_line(41, labels.shape), truth, 1, 0.03).sum[0]
    assert counts.tolist() == [60, 60, 0, 0]


def test_an_image_without_labels_counts_nothing():
    labels = np.full(SIZE, IGNORE, np.uint8)
    truth = boundary.class_truth(labels)
    counts = boundary.image_counts(np.ones(SIZE), truth, 3).sum
    assert not counts.any()


# --- counts over thresholds -----------------------------------------------------------------------


def test_counts_at_each_threshold_are_counts_of_its_map():
    strengths = RNG.choice([0, 0.1, 0.25, 0.2500001, 0.5, 0.7, 1], (12, 16))
    truth = one_map(boundary.thin(RNG.random((12, 16)) < 0.2))
    counts = boundary.image_counts(strengths, truth, num_thresholds=7, max_dist=0.1).sum
    for k, threshold in enumerate(np.arange(1, 8) / 8):
        predicted = boundary.thin(strengths >= threshold)
        pairs, _ = best_assignment(predicted, truth.boundaries[0], 2.0)
        expected = [pairs, predicted.sum(), pairs, truth.boundaries[0].sum()]
        assert counts[k].tolist() == expected


def test_equal_maps_are_matched_once(monkeypatch):
    calls = []
    original = boundary.match
    monkeypatch.setattr(boundary, 'match', lambda *a: calls.append(1) or original(*a))
    strengths = 0.305 * vertical_line(20) + 0.5 * vertical_line(10)
    counts = boundary.image_counts(strengths, one_map(vertical_line(20)), 99, DIST).sum
    assert len(calls) == 3  # thresholds up to 0.30, up to 0.50, and above
    assert counts[29].tolist() == [30, 60, 30, 30] and counts[30].tolist() == [0, 30, 0, 30]
    assert counts[49].tolist() == [0, 30, 0, 30] and counts[50].tolist() == [0, 0, 0, 30]


def test_the_last_row_is_the_best_threshold_of_the_image():
    strengths = 0.8 * vertical_line(20) + 0.3 * vertical_line(5)
    counts = boundary.image_counts(strengths, one_map(vertical_line(20)), 9, DIST).sum
    assert counts[-1].tolist() == [30, 30, 30, 30]


def batch_of(number):
    labels = RNG.integers(0, 3, (number, 4, 5)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    return RNG.random(labels.shape), labels


def test_counts_of_a_split_are_the_sum_of_its_batches():
    strengths, labels = batch_of(4)
    whole = boundary.class_counts(strengths, labels, num_thresholds=5)
    parts = [
        boundary.class_counts(strengths[rows], labels[rows], num_thresholds=5)
        for rows in (slice(0, 3), slice(3, 4), slice(4, 4))
    ]
    np.testing.assert_array_equal(sum(part.sum for part in parts), whole.sum)
    assert sum(part.count for part in parts) == whole.count == 4


def test_padding_of_a_batch_does_not_count():
    strengths, labels = batch_of(2)
    sizes = np.array([[16, 11], [9, 20]])
    padded = boundary.class_counts(strengths, labels, sizes, num_thresholds=5).sum
    alone = sum(
        boundary.class_counts(
            strengths[i : i + 1, :height, :width], labels[i : i + 1, :height, :width], None, 5
        ).sum
        for i, (height, width) in enumerate(sizes)
    )
    np.testing.assert_array_equal(padded, alone)


def test_images_of_no_size_count_nothing():
    """The check before training observes a batch of zeros."""
    zeros = np.zeros((1, 6, 7))
    means = boundary.class_counts(zeros, zeros.astype(np.uint8), np.zeros((1, 2), int))
    assert means.sum.shape == (100, 4) and not means.sum.any()


# --- scores ---------------------------------------------------------------------------------------


def test_scores_of_two_images_by_hand():
    # Rows: thresholds 1/4, 1/2, 3/4, and the best threshold.
    first = np.array([[6, 10, 6, 8], [5, 5, 5, 8], [1, 1, 1, 8], [5, 5, 5, 8]], float)
    second = np.array([[4, 4, 4, 4], [1, 2, 1, 4], [0, 0, 0, 4], [4, 4, 4, 4]], float)
    scores = boundary.scores(Mean(first + second, np.asarray(2)))
    assert scores['OIS_precision'] == 1 and scores['OIS_recall'] == 9 / 12
    assert scores['OIS_F'] == pytest.approx(2 * 0.75 / 1.75)

    # Precisions 10/14, 6/7, 1 and recalls 10/12, 6/12, 1/12.
    def at(recall):
        return np.interp(recall, [1 / 12, 6 / 12, 10 / 12], [1, 6 / 7, 10 / 14])

    places = [k / 100 for k in range(101) if 1 / 12 <= k / 100 <= 10 / 12]
    assert scores['AP'] == pytest.approx(sum(map(at, places)) / 100)
    assert scores['best_threshold'] == 0.25
    assert scores['ODS_precision'] == pytest.approx(10 / 14)
    assert scores['ODS_recall'] == pytest.approx(10 / 12)
    assert scores['ODS_F'] == pytest.approx(20 / 26)
    (line,) = scores['precision_recall']['series']
    assert line['x'] == pytest.approx([10 / 12, 6 / 12, 1 / 12])
    assert json.loads(json.dumps(scores)) == scores


def test_the_best_threshold_may_lie_between_two_thresholds():
    """Precision and recall are interpolated in a hundred points, as the benchmark does."""
    rows = np.array([[10, 40, 10, 10], [3, 3, 3, 10], [3, 3, 3, 10]], float)
    scores = boundary.scores(Mean(rows, np.asarray(1)))
    best = 0
    for share in np.linspace(0, 1, 100):
        precision = 0.25 + 0.75 * share
        recall = 1 - 0.7 * share
        best = max(best, 2 * precision * recall / (precision + recall))
    assert scores['ODS_F'] == pytest.approx(best) and best > 0.47
    assert 1 / 3 < scores['best_threshold'] < 2 / 3


def test_scores_without_boundaries_are_zero():
    scores = boundary.scores(Mean(np.zeros((4, 4)), np.asarray(0)))
    assert (scores['ODS_F'], scores['OIS_F'], scores['AP']) == (0, 0, 0)
    assert scores['precision_recall']['series'][0]['x'] == [0]


def test_thresholds_above_all_strengths_have_no_point_of_the_curve():
    strengths = 0.5 * vertical_line(20)
    total = boundary.image_counts(strengths, one_map(vertical_line(20)), 9, DIST)
    (line,) = boundary.scores(total)['precision_recall']['series']
    assert line['x'] == line['y'] == [1] * 5


def test_boundaries_of_label_maps_are_compared():
    labels = halves(0)
    assert boundary.f_measure(labels, labels) == (1, 1, 1)
    moved = np.roll(labels, 2, axis=1)
    moved[:, :2] = 0
    assert boundary.f_measure(moved, labels, max_dist=0.02) == (1, 1, 1)
    assert boundary.f_measure(moved, labels, max_dist=0.01) == (0, 0, 0)
    # A second boundary, which is wrong.
    moved[:, 60:] = 2
    got = boundary.f_measure(moved, labels, max_dist=0.02)
    assert got == pytest.approx((1 / 2, 1, 2 / 3))
    assert boundary.f_measure(np.zeros_like(labels), labels) == (0, 0, 0)


def test_classes_are_compared_by_place_and_not_by_name():
    labels = halves(0)
    assert boundary.f_measure(5 - labels, labels).f == 1


# --- errors ---------------------------------------------------------------------------------------


LINE = vertical_line(20)


@pytest.mark.parametrize(
    'call, where, got',
    [
        (lambda: boundary.annotated_truth(()), 'true boundaries', 'no annotator'),
        (
            lambda: boundary.annotated_truth((LINE, LINE[1:])),
            'further annotator',
            '29 x 40',
        ),
        (
            lambda: boundary.image_counts(np.zeros(SIZE), boundary.Truth((), LINE)),
            'true boundaries',
            'no annotator',
        ),
        (
            lambda: boundary.image_counts(np.zeros((40, 30)), one_map(LINE)),
            'boundary strengths',
            '40 x 30',
        ),
        (
            lambda: boundary.image_counts(LINE * 255, one_map(LINE)),
            'boundary strengths',
            '255 at [0, 20]',
        ),
        (
            lambda: boundary.image_counts(np.full(SIZE, np.nan), one_map(LINE)),
            'boundary strengths',
            'nan at [0, 0]',
        ),
        (lambda: boundary.match(LINE, LINE[:, 1:], 3), 'predicted boundaries', '30 x 40'),
        (lambda: boundary.ucm_strength(np.zeros((30, 61)), SIZE), 'contour map', '30 x 61'),
        (lambda: boundary.ucm_strength(-np.ones(SIZE), SIZE), 'strengths', '-1 at [0, 0]'),
        (lambda: boundary.label_boundaries(np.zeros((2, 3, 4))), 'label map', '[2, 3, 4]'),
        (lambda: boundary.f_measure(np.zeros((4, 5)), np.zeros((5, 4))), 'strengths', '4 x 5'),
        (
            lambda: boundary.class_counts(np.zeros((1, 4, 5)), np.zeros((1, 5, 4))),
            'of a batch',
            '[1, 4, 5]',
        ),
        (lambda: boundary.class_truth(LINE * 1, max_dist=0), 'max_dist', '0'),
        (lambda: boundary.even_thresholds(0), 'thresholds', '0'),
    ],
)
def test_wrong_maps_are_refused(call, where, got):
    with pytest.raises(InputError) as error:
        call()
    assert where in error.value.where and got in error.value.got
