"""Hierarchies of regions: nested partitions that keep to the boundaries of a scene."""

import sys

import numpy as np
import pytest
import scipy.ndimage

from segjax.data import edges, hierarchy
from segjax.data.worlds import streets
from segjax.errors import InputError

THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.1)


def street_strength(size=(64, 128)):
    return edges.color_strength(streets.frame(0, 'train', 0, 0, size)['image'])


def noise_strength(size=(37, 53)):
    return np.random.default_rng(0).random(size, np.float32)


STRENGTHS = {
    'streets': street_strength(),
    'noise': noise_strength(),
    'constant': np.full((20, 31), 0.4, np.float32),
    'one row': noise_strength((1, 40)),
    'one pixel': np.zeros((1, 1), np.float32),
}


def same_partition(first, second):
    """Whether two label maps split the pixels in the same way."""
    pairs = set(zip(first.ravel().tolist(), second.ravel().tolist()))
    return len(pairs) == len(np.unique(first)) == len(np.unique(second))


def is_inside(fine, coarse):
    """Whether each fine region lies inside a coarse region."""
    return all(len(np.unique(coarse[fine == each])) == 1 for each in np.unique(fine))


def check_partition(ids):
    assert ids.dtype == np.int32
    assert set(np.unique(ids)) == set(range(ids.max() + 1))
    for each in range(ids.max() + 1):
        assert scipy.ndimage.label(ids == each)[1] == 1, f'region {each} is not connected'


# --- cuts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('strength', STRENGTHS.values(), ids=STRENGTHS)
def test_every_cut_is_a_partition_and_lies_inside_the_next(strength):
    tree = hierarchy.build(strength)
    finer = tree.superpixels
    for threshold in THRESHOLDS:
        ids = tree.cut(threshold)
        assert ids.shape == strength.shape
        check_partition(ids)
        assert is_inside(finer, ids)
        finer = ids
    assert same_partition(tree.cut(0.0), tree.superpixels) and finer.max() == 0


@pytest.mark.parametrize('strength', STRENGTHS.values(), ids=STRENGTHS)
def test_the_tree_is_binary_and_its_altitudes_do_not_fall(strength):
    tree = hierarchy.build(strength)
    count = tree.superpixels.max() + 1
    assert tree.parents.shape == tree.altitudes.shape == (2 * count - 1,)
    nodes = np.arange(2 * count - 2)
    assert (tree.parents[:-1] > nodes).all() and tree.parents[-1] == 2 * count - 2
    children = np.bincount(tree.parents[:-1], minlength=2 * count - 1)
    assert set(children[count:]) <= {2} and not children[:count].any()
    assert (tree.altitudes[tree.parents[:-1]] >= tree.altitudes[:-1]).all()


def test_two_calls_give_the_same_bits():
    first = hierarchy.build(STRENGTHS['streets'])
    second = hierarchy.build(STRENGTHS['streets'].copy())
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('number', [1, 2, 7, 50, 10_000])
def test_a_cut_to_a_number_is_the_finest_cut_that_has_few_enough(number):
    tree = hierarchy.build(STRENGTHS['streets'])
    ids = tree.cut_to(number)
    assert ids.max() + 1 <= number
    threshold = tree.threshold_of(number)
    if threshold > 0:
        finer = tree.cut(np.nextafter(np.float32(threshold), np.float32(0)))
        assert finer.max() + 1 > number


def test_equal_merges_are_done_together():
    image = np.zeros((12, 48), np.float32)
    image[:, [15, 16, 31, 32]] = 0.5
    tree = hierarchy.build(image)
    assert tree.superpixels.max() == 2
    tree = tree._replace(altitudes=np.float32([-1, -1, -1, 0.5, 0.5]))
    assert tree.cut_to(2).max() == 0 and tree.cut_to(3).max() == 2


def test_the_threshold_rises_until_there_are_few_enough_regions():
    tree = hierarchy.build(STRENGTHS['streets'])
    usual = tree.cut(0.05)
    assert usual.max() + 1 > 20
    np.testing.assert_array_equal(tree.limited_cut(0.05, 1000), usual)
    np.testing.assert_array_equal(tree.limited_cut(0.05, 20), tree.cut_to(20))


def test_regions_are_numbered_by_their_first_pixel():
    ids = hierarchy.build(STRENGTHS['streets']).cut(0.1)
    firsts = np.unique(ids, return_index=True)[1]
    assert (np.diff(firsts) > 0).all()


# --- contour maps ---------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['streets', 'noise'])
@pytest.mark.parametrize('threshold', [0.05, 0.2, 0.5])
def test_areas_of_the_contour_map_below_a_threshold_are_the_regions_of_the_cut(name, threshold):
    tree = hierarchy.build(STRENGTHS[name])
    contours = tree.ucm()
    height, width = STRENGTHS[name].shape
    assert contours.shape == (2 * height - 1, 2 * width - 1) and contours.dtype == np.float32
    areas, _ = scipy.ndimage.label(contours < threshold)
    assert same_partition(areas[::2, ::2], tree.cut(threshold))


def test_boundaries_of_the_size_of_the_image_mark_where_regions_differ():
    tree = hierarchy.build(STRENGTHS['streets'])
    boundaries = tree.boundaries()
    ids = np.pad(tree.cut(0.1), (0, 1), mode='edge')
    right = ids[:-1, 1:] != ids[:-1, :-1]
    below = ids[1:, :-1] != ids[:-1, :-1]
    right_below = (ids[1:, 1:] != ids[1:, :-1]) | (ids[1:, 1:] != ids[:-1, 1:])
    inner = boundaries[:-1, :-1] >= np.float32(0.1)
    np.testing.assert_array_equal(inner, (right | below | right_below)[:-1, :-1])
    assert boundaries.shape == STRENGTHS['streets'].shape


# --- strengths of merges --------------------------------------------------------------------------


def test_a_merge_has_the_mean_strength_of_the_boundary():
    strength = np.zeros((60, 90), np.float32)
    strength[:, 28:32] = (0.2, 0.3, 0.3, 0.2)
    strength[:, 58:62] = (0.4, 0.7, 0.7, 0.4)
    tree = hierarchy.build(strength)
    assert tree.superpixels.max() == 2
    np.testing.assert_allclose(tree.altitudes[3:], [0.3, 0.7], atol=1e-4)


def test_merged_boundaries_count_by_their_length():
    """The left half has an upper and a lower region, whose boundaries to the right differ."""
    strength = np.zeros((80, 80), np.float32)
    strength[19:21, :40] = 0.1
    strength[:20, 39:41] = 0.4
    strength[20:, 39:41] = 0.8
    tree = hierarchy.build(strength)
    assert tree.superpixels.max() == 2
    assert tree.altitudes[3] == pytest.approx(0.1, abs=0.01)
    assert tree.altitudes[4] == pytest.approx((20 * 0.4 + 60 * 0.8) / 80, abs=0.02)


@pytest.mark.parametrize('slope', [0.0, 0.5, 1.0, -1.0])
def test_the_direction_across_a_boundary_is_that_of_the_ridge(slope):
    y, x = np.mgrid[:60, :60]
    distance = (x - 30 - slope * (y - 30)) / np.hypot(1, slope)
    angles = hierarchy.normal_angles(np.exp(-(distance**2) / 8).astype(np.float32))
    on_ridge = angles[15:45, 15:45][np.abs(distance[15:45, 15:45]) < 1]
    expected = np.arctan2(-slope, 1)
    # Opposite directions are the same.
    np.testing.assert_allclose(np.abs(np.cos(on_ridge - expected)), 1, atol=0.01)


def test_a_boundary_that_runs_across_a_ridge_is_weak():
    """The flanks of a wide ridge fall into pieces, which belong together along the ridge."""
    rng = np.random.default_rng(0)
    x = np.arange(80)
    ridge = 0.9 * np.exp(-((x - 39.5) ** 2) / 18)
    strength = (ridge + 0.05 * rng.random((60, 80))).astype(np.float32).clip(0, 1)
    ids = hierarchy.build(strength, min_pixels=4).cut(0.4)
    assert ids.max() == 1 and len(np.unique(ids[:, :34])) == 1 == len(np.unique(ids[:, 46:]))


# --- guide and small regions ----------------------------------------------------------------------


def test_a_guide_moves_boundaries_to_its_corners():
    truth = np.zeros((50, 50), int)
    truth[15:35, 12:38] = 1
    image = np.where(truth[..., None] == 1, np.uint8([200, 60, 40]), np.uint8([20, 60, 140]))
    strength = edges.color_strength(image)
    guide = truth[..., None].astype(np.float32)
    assert same_partition(hierarchy.build(strength, guide).cut(0.2), truth)


def test_refined_superpixels_stay_connected():
    rng = np.random.default_rng(1)
    tree = hierarchy.build(noise_strength(), rng.random((37, 53, 3), np.float32), min_pixels=2)
    check_partition(tree.superpixels)


def test_connected_parts_are_those_of_each_region():
    regions = np.random.default_rng(0).integers(0, 3, (20, 30))
    parts = hierarchy.connected_parts(regions)
    check_partition(parts)
    expected = sum(scipy.ndimage.label(regions == each)[1] for each in range(3))
    assert parts.max() + 1 == expected and is_inside(parts, regions)


@pytest.mark.parametrize('min_pixels', [1, 5, 40, 10_000])
def test_no_small_region_remains(min_pixels):
    regions = hierarchy.connected_parts(np.random.default_rng(0).integers(0, 3, (30, 40)))
    merged = hierarchy.without_small(regions, min_pixels, noise_strength((30, 40)))
    check_partition(merged)
    assert is_inside(regions, merged)
    assert np.bincount(merged.ravel()).min() >= min(min_pixels, 1200)


def test_a_small_region_joins_the_neighbour_behind_its_weakest_boundary():
    regions = np.zeros((9, 30), int)
    regions[:, 14:16] = 1
    regions[:, 16:] = 2
    strength = np.zeros((9, 30), np.float32)
    strength[:, 16] = 0.1
    strength[:, 13] = 0.6
    merged = hierarchy.without_small(regions, 20, strength)
    np.testing.assert_array_equal(merged, (np.arange(30) >= 14) * np.ones((9, 1), int))


# --- errors ---------------------------------------------------------------------------------------


def test_a_wrong_strength_is_refused():
    for wrong in (np.full((4, 5), 1.5), np.full((4, 5), np.nan), np.zeros((4, 5, 1))):
        with pytest.raises(InputError, match='boundary strength'):
            hierarchy.build(wrong.astype(np.float32))
    with pytest.raises(InputError, match='guide of a hierarchy'):
        hierarchy.build(noise_strength(), np.zeros((37, 52, 1), np.float32))


def test_less_than_one_region_is_refused():
    with pytest.raises(InputError, match='at least 1'):
        hierarchy.build(noise_strength()).cut_to(0)


def test_a_machine_without_higra_gets_an_error_that_names_other_methods(monkeypatch):
    monkeypatch.setitem(sys.modules, 'higra', None)
    with pytest.raises(InputError, match='no package higra') as error:
        hierarchy.build(noise_strength())
    assert 'slic' in error.value.fix
