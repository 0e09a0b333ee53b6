"""Scores of regions: counted by hand and by loops, and Fig. 3.3 as curves."""

import json

import numpy as np
import pytest

from segjax.metrics import regions
from segjax.protocol import Mean

RNG = np.random.default_rng(0)


def value(mean):
    return float(mean.sum), float(mean.count)


def test_purity_counts_the_most_frequent_class_of_each_region():
    ids = np.array([[0, 0, 0, 1, 1, 2, -1]])
    label = np.array([[3, 3, 5, 1, 255, 255, 4]])
    assert value(regions.purity(ids, label)) == (3, 4)


@pytest.mark.parametrize('shape', [(9, 11), (4, 9, 11)])
def test_purity_is_equal_to_a_loop_over_regions(shape):
    ids = RNG.integers(-1, 6, shape).astype(np.int32)
    label = RNG.choice([0, 1, 2, 255], shape).astype(np.uint8)
    right = 0
    for each in range(6):
        inside = label[(ids == each) & (label != 255)]
        right += max((np.sum(inside == c) for c in range(3)), default=0)
    count = ((ids >= 0) & (label != 255)).sum()
    assert value(regions.purity(ids, label)) == (right, count)


def test_matched_regions_of_wrong_classes_cost_purity_along_the_time():
    """A region that is pure in each frame is impure along a video if its class changes."""
    ids = np.zeros((2, 3, 3), np.int32)
    label = np.stack([np.zeros((3, 3), int), np.ones((3, 3), int)])
    assert value(regions.purity(ids, label)) == (9, 18)
    assert all(value(regions.purity(ids[i], label[i])) == (9, 9) for i in range(2))


def test_pixels_without_label_or_region_have_no_purity():
    nothing = np.full((2, 2), -1)
    assert value(regions.purity(nothing, np.zeros((2, 2), int))) == (0, 0)
    assert value(regions.purity(nothing + 1, np.full((2, 2), 255))) == (0, 0)


@pytest.mark.parametrize('tolerance, share', [(0, 0.0), (2, 0.0), (3, 1.0)])
def test_a_boundary_is_recalled_within_the_tolerance(tolerance, share):
    x = np.arange(20)[None].repeat(8, 0)
    recall = regions.boundary_recall(x // 7, x // 10, tolerance)
    # The boundary of the classes is at column 9. Boundaries of the regions are at 6 and 13.
    assert value(recall) == (8 * share, 8)


def test_boundary_recall_is_equal_to_a_loop():
    ids = RNG.integers(0, 3, (3, 4)).repeat(5, 0).repeat(5, 1)
    label = RNG.choice([0, 1, 255], (5, 7)).repeat(3, 0).repeat(3, 1)[:15, :20]

    def edges(values, void):
        found = []
        for row, column in np.ndindex(values.shape):
            for near in ((row + 1, column), (row, column + 1)):
                if near[0] == values.shape[0] or near[1] == values.shape[1]:
                    continue
                pair = (values[row, column], values[near])
                if pair[0] != pair[1] and void not in pair:
                    found.append((row, column))
        return sorted(set(found))

    own = np.array(edges(ids, None))
    truth = edges(label, 255)
    for tolerance in (0, 1, 1.5, 2):
        near = [np.hypot(*(own - place).T).min() <= tolerance for place in truth]
        assert value(regions.boundary_recall(ids, label, tolerance)) == (sum(near), len(truth))
    nothing = np.zeros_like(ids)
    assert value(regions.boundary_recall(nothing, label)) == (0, len(truth))


def test_matches_count_the_frames_of_a_region_once():
    matches = np.array([[0, 0, 2, -1], [0, 1, 2, 3], [3, -1, -1, 3]])
    np.testing.assert_array_equal(regions.num_matches(matches, (-1, 0, 1)), [1, 0, 1, 1])


def test_statistics_by_size_add_up_over_targets():
    sizes = np.array([0, 5, 10, 99, 2500, 3])
    matched = np.array([7, 0, 4, 6, 40, 2])
    edges = (0, 10, 100)
    first = regions.by_size(sizes, matched, edges)
    np.testing.assert_array_equal(first['num_matches'].count, [2, 2, 1])
    np.testing.assert_array_equal(first['num_matches'].sum, [2, 10, 40])
    np.testing.assert_allclose(first['region_share'].value(), [0.4, 0.4, 0.2])
    np.testing.assert_allclose(first['pixel_share'].value(), np.array([8, 109, 2500]) / 2617)

    second = regions.by_size(sizes[:3], matched[:3], edges)
    both = {key: Mean(*map(np.add, first[key], second[key])) for key in first}
    joined = regions.by_size(np.append(sizes, sizes[:3]), np.append(matched, matched[:3]), edges)
    for key in both:
        np.testing.assert_array_equal(both[key].sum, joined[key].sum)
        np.testing.assert_array_equal(both[key].count, joined[key].count)


def test_the_curves_are_those_of_the_figure():
    sizes = np.array([100, 1999, 2000, 40000])
    scores = regions.size_scores(regions.by_size(sizes, np.array([1, 3, 50, 90])))
    assert json.loads(json.dumps(scores)) == scores
    assert scores['small_regions'] == 0.5
    (matches,) = scores['matches_by_size']['series']
    assert matches['x'] == [0, 1000, 2000, 32000] and matches['y'] == [1, 3, 50, 90]
    regions_line, pixels_line = scores['region_sizes']['series']
    assert sum(regions_line['y']) == 1 and sum(pixels_line['y']) == pytest.approx(1)


def test_the_target_regions_of_the_authors_have_their_purity(real_data):
    """Majority labels of the regions of STD2P's authors reproduce 0.963 of the 13-class truth."""
    cv2 = pytest.importorskip('cv2')
    folder = real_data / 'nyu_clip/dining_room_0036'
    if not folder.is_dir():
        pytest.skip('needs nyu_clip')
    label = cv2.imread(str(folder / 'label13/02080.png'), cv2.IMREAD_UNCHANGED)[45:470, 40:600]
    with np.load(folder / 'region_correspondences_to_02080.npz') as maps:
        ids = maps['02080']
    train_ids = np.where(label == 0, 255, label.astype(int) - 1)
    assert regions.purity(ids, train_ids).value() == pytest.approx(0.963, abs=5e-4)
    assert regions.boundary_recall(ids, train_ids).value() > 0.6
