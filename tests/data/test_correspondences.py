"""Correspondences of regions and pixels: exact scenes, a second derivation, and records."""

import concurrent.futures
import functools
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import moving_scene
import numpy as np
import pytest
from moving_scene import NUM_REGIONS, SIZE

from segjax.data import computation, correspondences, derived, loader
from segjax.data.correspondences import ABSENT, NONE, Matching, Step
from segjax.data.flow import dense_flow
from segjax.data.records import never_stop
from segjax.errors import InputError
from segjax.protocol import DrawnFrames, Input
from segjax.spec import Feature

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
READINGS = tuple(correspondences.READINGS)


def match(reading, target, steps, threshold=0.4):
    """Returns the matches of each frame as lists."""
    matches = correspondences.READINGS[reading](np.asarray(target), steps, threshold)
    return [each.ids.tolist() for each in matches]


def still(*maps):
    """Returns frames without motion."""
    steps = []
    for ids in maps:
        ids = np.asarray(ids, np.int32)
        none = np.zeros((*ids.shape, 2), np.float32)
        steps.append(Step(ids, none, none))
    return steps


# --- exact scenes ---------------------------------------------------------------------------------


@pytest.mark.parametrize('reading', READINGS)
def test_every_region_of_a_moving_scene_has_its_object(reading):
    offsets = (-3, -2, -1, 0, 1, 2, 3)
    example = moving_scene.example(4, range(12), correspondences.way(offsets, 1, 'test'))
    matches = correspondences.scored_matches(example, Matching(offsets, 20, reading=reading))
    assert matches.ids.shape == matches.scores.shape == (7, 20)
    assert matches.ids.dtype == np.int32 and matches.scores.dtype == np.float32
    for row, offset in enumerate(offsets):
        if offset == 0:
            np.testing.assert_array_equal(matches.ids[row], np.arange(20))
            np.testing.assert_array_equal(matches.scores[row], 1)
            continue
        expected = np.full(20, NONE)
        expected[moving_scene.order(4 + offset)] = moving_scene.order(4)
        np.testing.assert_array_equal(matches.ids[row], expected)
        assert (matches.scores[row][:NUM_REGIONS] >= 0.4).all()
        assert not matches.scores[row][NUM_REGIONS:].any()


@pytest.mark.parametrize('reading', READINGS)
def test_a_scene_that_moves_as_a_whole_has_perfect_scores(reading):
    """The regions that stay in the image keep all their pixels."""
    rng = np.random.default_rng(0)
    world = rng.integers(0, 9, (5, 9)).repeat(8, 0).repeat(8, 1)
    world = np.where(np.pad(np.ones((24, 40)), ((8, 8), (16, 16))) > 0, world, 9)
    motion = np.float32((3, -2))
    frames = [np.roll(world, (-2 * k, 3 * k), (0, 1)) for k in range(4)]
    away = np.broadcast_to(motion, (*world.shape, 2))
    steps = [Step(ids, away, -away) for ids in frames[1:]]
    for each in correspondences.READINGS[reading](frames[0], steps, 0.4):
        np.testing.assert_array_equal(each.ids, np.arange(10))
        np.testing.assert_array_equal(each.scores[:9], 1)


def test_a_covered_region_is_matched_again_after_two_frames_and_not_after_three():
    shown = np.zeros((4, 6), np.int32)
    shown[:, :3] = 1
    covered = np.zeros((4, 6), np.int32)
    # The covered frames are one large region, the right half of the image of the target.
    assert match('propagated', shown, still(covered, covered, shown)) == [[0], [0], [0, 1]]
    again = match('propagated', shown, still(covered, covered, covered, shown))
    assert again[-1] == [0, NONE] or again[-1][1] != 1
    # The direct reading compares with the target alone.
    assert match('direct', shown, still(covered, covered, covered, shown))[-1] == [0, 1]


@pytest.mark.parametrize('reading', READINGS)
def test_a_new_region_has_no_match(reading):
    target = np.zeros((4, 10), np.int32)
    frame = np.zeros((4, 10), np.int32)
    frame[:, 7:] = 1
    assert match(reading, target, still(frame)) == [[0, NONE]]


def test_a_threshold_itself_is_a_match_of_the_code_and_not_of_the_text():
    target = [[0, 0, NONE, NONE, NONE]]
    frame = np.zeros((1, 5), np.int32)
    assert match('propagated', target, still(frame), 0.4) == [[0]]
    assert match('direct', target, still(frame), 0.4) == [[NONE]]
    for reading in READINGS:
        assert match(reading, target, still(frame), 0.39) == [[0]]
        assert match(reading, target, still(frame), 0.41) == [[NONE]]


def test_several_regions_may_have_an_id_in_the_code_and_not_in_the_text():
    target = np.zeros((2, 9), np.int32)
    frame = np.int32([[0] * 4 + [1] * 5] * 2)
    assert match('propagated', target, still(frame)) == [[0, 0]]
    assert match('direct', target, still(frame)) == [[NONE, 0]]


def test_a_region_that_two_regions_of_the_target_keep_goes_to_the_better():
    target = np.int32([[0] * 4 + [1] * 5] * 2)
    frame = np.zeros((2, 9), np.int32)
    for reading in READINGS:
        assert match(reading, target, still(frame)) == [[1]]


def test_unmatched_pixels_are_no_region():
    """The ids of unmatched regions do not travel, and count neither for nor against a pair."""
    target = np.int32([[0, 0, NONE, NONE, 1, 1]])
    first = np.int32([[0, 0, 1, 1, 2, 2]])
    assert match('propagated', target, still(first, first)) == [[0, NONE, 1]] * 2


def test_a_region_is_matched_until_too_much_of_it_has_left_the_image():
    """A stripe of ten columns leaves by a column a frame. 0.4 of it is no match of the text."""
    frames = []
    for k in range(11):
        ids = np.zeros((4, 40), np.int32)
        ids[:, : max(0, 10 - k)] = 1
        frames.append(ids)
    steps = []
    for before, ids in itertools.pairwise(frames):
        away = (before == 1)[..., None] * np.float32((-1, 0))
        back = (ids == 1)[..., None] * np.float32((1, 0))
        steps.append(Step(ids, away, back))
    matches = match('direct', frames[0], steps)
    assert matches == [[0, 1]] * 5 + [[0, NONE]] * 4 + [[0]]
    # In the code the ids of the last frames travel on, so a region is not lost so early.
    assert match('propagated', frames[0], steps)[:6] == [[0, 1]] * 6


# --- a second derivation --------------------------------------------------------------------------


def random_way(seed, num_frames=5, size=(15, 17)):
    """Returns a target and frames of blocks that move, with noisy flow. Some flow is absent."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    maps = []
    for k in range(num_frames + 1):
        cell = (y + k) // 6 * 4 + (x + 2 * k) // 6
        names = rng.permutation(cell.max() + 1)
        noise = rng.random(size) < 0.05
        maps.append(np.where(noise, rng.integers(0, cell.max() + 1, size), names[cell]))
    steps = []
    for ids in maps[1:]:
        away = rng.normal((-2, -1), 0.3, (*size, 2))
        away[rng.random(size) < 0.02] = np.nan
        back = rng.normal((2, 1), 0.3, (*size, 2))
        steps.append(Step(ids.astype(np.int32), away, back))
    return maps[0].astype(np.int32), steps


def iou(first, second):
    return len(first & second) / max(1, len(first | second))


def pixels_of(ids):
    """Returns the set of pixels of each id."""
    pixels = {}
    for place, each in np.ndenumerate(ids):
        if each >= 0:
            pixels.setdefault(int(each), set()).add(place)
    return pixels


def moved_map(ids, flow):
    moved = np.full(ids.shape, NONE)
    for y, x in np.ndindex(ids.shape):
        u, v = flow[y, x]
        if np.isnan(u) or np.isnan(v):
            continue
        row = y - round(float(v))
        column = x - round(float(u))
        if 0 <= row < ids.shape[0] and 0 <= column < ids.shape[1]:
            moved[y, x] = ids[row, column]
    return moved


def propagated_by_loops(target, steps, threshold):
    """Returns {region: (id, score)} of each frame, from the description of the released code."""
    maps = [target]
    results = []
    for number, step in enumerate(steps):
        best = {}
        for first in range(max(0, number - 2), number + 1):
            here = maps[first]
            for k in range(first, number + 1):
                here = moved_map(here, steps[k].away)
            there = step.ids
            for k in range(number, first - 1, -1):
                there = moved_map(there, steps[k].back)
            regions = pixels_of(step.ids)
            for each, pixels in pixels_of(here).items():
                for region in regions:
                    own = pixels_of(maps[first]).get(each, set())
                    back = pixels_of(there).get(region, set())
                    score = min(iou(pixels, regions[region]), iou(own, back))
                    best[each, region] = max(best.get((each, region), 0), score)
        chosen = {}
        for (each, region), score in sorted(best.items()):
            if score >= threshold and score > chosen.get(region, (0, 0))[1]:
                chosen[region] = (each, score)
        named = np.full(target.shape, NONE)
        for region, (each, _) in chosen.items():
            named[step.ids == region] = each
        maps.append(named)
        results.append(chosen)
    return results


def flow_at(flow, x, y):
    """Returns the flow at a place between pixels, None outside of the image."""
    height, width = flow.shape[:2]
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
        return None
    x = min(max(x, 0), width - 1)
    y = min(max(y, 0), height - 1)
    value = np.zeros(2)
    for row in {int(np.floor(y)), int(np.ceil(y))}:
        for column in {int(np.floor(x)), int(np.ceil(x))}:
            value += (1 - abs(y - row)) * (1 - abs(x - column)) * flow[row, column]
    return None if np.isnan(value).any() else value


def end_of_path(x, y, flows):
    """Returns the place at which a pixel ends, None if it is lost on the way."""
    for flow in flows:
        step = flow_at(flow, x, y)
        if step is None:
            return None
        x += step[0]
        y += step[1]
    height, width = flows[0].shape[:2]
    return (x, y) if -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5 else None


def joined_flow(first, second):
    """Returns the flow of a path of two flows, NaN for pixels that are lost."""
    total = np.full(first.shape, np.nan)
    for y, x in np.ndindex(first.shape[:2]):
        u, v = first[y, x]
        step = None if np.isnan(u) else flow_at(second, x + u, y + v)
        if step is not None:
            total[y, x] = first[y, x] + step
    return total


def warped_pixels(ids, flow):
    """Returns the set of pixels of each id after it moved."""
    warped = {int(each): set() for each in np.unique(ids)}
    for y, x in np.ndindex(ids.shape):
        end = end_of_path(x, y, [flow])
        if end is not None:
            warped[int(ids[y, x])].add((round(end[1]), round(end[0])))
    return warped


def direct_by_loops(target, steps, threshold):
    """Returns {region: (id, score)} of each frame, from the text of the paper."""
    results = []
    targets = pixels_of(target)
    away = back = np.zeros((*target.shape, 2))
    for step in steps:
        away = joined_flow(away, step.away)
        back = joined_flow(step.back, back)
        regions = pixels_of(step.ids)
        in_frame = warped_pixels(target, away)
        in_target = warped_pixels(step.ids, back)
        kept = {}
        for each in sorted(targets):
            scores = {}
            for region in sorted(regions):
                here = iou(in_target[region], targets[each])
                there = iou(in_frame[each], regions[region])
                scores[region] = min(here, there)
            region = max(scores, key=scores.get)
            if scores[region] > threshold and scores[region] > kept.get(region, (0, 0))[1]:
                kept[region] = (each, scores[region])
        results.append(kept)
    return results


BY_LOOPS = {'propagated': propagated_by_loops, 'direct': direct_by_loops}


@pytest.mark.parametrize('reading', READINGS)
@pytest.mark.parametrize('seed, threshold', [(0, 0.4), (1, 0.3), (2, 0.5)])
def test_matches_and_scores_are_equal_to_loops_over_pixels(reading, seed, threshold):
    target, steps = random_way(seed)
    expected = BY_LOOPS[reading](target, steps, threshold)
    assert sum(map(len, expected)) >= 5, 'the example has matches'
    actual = correspondences.READINGS[reading](target, steps, threshold)
    for number, (matches, pairs) in enumerate(zip(actual, expected, strict=True)):
        for region, (each, score) in enumerate(zip(*matches, strict=True)):
            assert (each, score) == pytest.approx(pairs.get(region, (NONE, 0))), (number, region)


@pytest.mark.parametrize('reading', READINGS)
def test_a_mirrored_scene_has_the_same_matches(reading):
    target, steps = random_way(3)
    mirror = np.array((-1, 1))
    mirrored = []
    for step in steps:
        away = step.away[:, ::-1] * mirror
        mirrored.append(Step(step.ids[:, ::-1], away, step.back[:, ::-1] * mirror))
    assert match(reading, target[:, ::-1], mirrored) == match(reading, target, steps)


@pytest.mark.parametrize('reading', READINGS)
def test_other_ids_have_the_same_partners(reading):
    target, steps = random_way(4)
    names = np.random.default_rng(0).permutation(40)
    renamed = [step._replace(ids=names[step.ids]) for step in steps]
    before = match(reading, target, steps)
    num_pairs = 0
    for ids, expected in zip(match(reading, target, renamed), before, strict=True):
        pairs = {region: each for region, each in enumerate(ids) if each != NONE}
        same = {names[region]: each for region, each in enumerate(expected) if each != NONE}
        assert pairs == same
        num_pairs += len(pairs)
    assert num_pairs >= 4


# --- composed flow --------------------------------------------------------------------------------


def test_composed_flow_is_equal_to_following_each_pixel():
    rng = np.random.default_rng(0)
    flows = [rng.normal((1, -0.5), 0.7, (9, 12, 2)) for _ in range(3)]
    flows[1][4, 5] = np.nan
    value = correspondences.composed_flow(flows)
    assert value.dtype == np.float32 and value.shape == (9, 12, 2)
    lost = 0
    for y, x in np.ndindex(9, 12):
        end = end_of_path(x, y, flows)
        if end is None:
            lost += 1
            assert np.isnan(value[y, x]).all()
        else:
            np.testing.assert_allclose(value[y, x], np.subtract(end, (x, y)), atol=1e-5)
    assert 10 < lost < 80


def test_a_way_and_its_return_end_where_they_began():
    """Follows a turn about the middle of the image, whose flow is linear."""
    y, x = np.mgrid[:20, :20].astype(float)
    turn = 0.1
    places = np.stack([x - 9.5, y - 9.5], -1)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    forward = places @ matrix.T - places
    backward = places @ matrix - places
    total = correspondences.composed_flow([forward, forward, backward, backward])
    np.testing.assert_allclose(total[5:15, 5:15], 0, atol=1e-5)
    twice = correspondences.composed_flow([forward, forward])[5:15, 5:15]
    np.testing.assert_allclose(
        twice, (places @ (matrix @ matrix).T - places)[5:15, 5:15], atol=1e-5
    )


# --- frames of a clip -----------------------------------------------------------------------------


def clip_matches(numbers, offsets, target=4, interval=1, **fields):
    way = correspondences.way(offsets, interval, 'test')
    example = moving_scene.example(target, numbers, way, interval)
    matching = Matching(offsets, NUM_REGIONS, interval, **fields)
    return correspondences.example_matches(example, matching)


def test_sparse_offsets_are_rows_of_all_offsets():
    every = clip_matches(range(12), tuple(range(-4, 5)))
    rows = [row + 4 for row in (3, -4, 0)]
    np.testing.assert_array_equal(clip_matches(range(12), (3, -4, 0)), every[rows])
    future = clip_matches(range(12), (2,))
    np.testing.assert_array_equal(future, every[[6]])


def test_an_interval_counts_in_the_numbers_of_the_clip():
    """The scene moves in every frame, so the flow to the second next frame is twice as long."""
    frames = clip_matches(range(0, 12, 2), (-4, -2, 0, 2), interval=2)
    expected = clip_matches(range(12), (-4, -2, 0, 2))
    np.testing.assert_array_equal(frames, expected)


def test_frames_that_do_not_exist_and_frames_behind_a_gap_have_no_matches():
    offsets = (-3, -2, -1, 0, 1, 2, 3)
    whole = clip_matches(range(12), offsets)
    ends = clip_matches((3, 4, 5), offsets)
    gap = clip_matches((0, 1, 3, 4, 5, 7, 8), offsets)
    for row in (0, 1, 5, 6):
        assert (ends[row] == NONE).all() and (gap[row] == NONE).all()
    np.testing.assert_array_equal(ends[2:5], whole[2:5])
    np.testing.assert_array_equal(gap[2:5], whole[2:5])


def test_a_map_of_a_frame_shows_the_regions_of_the_target():
    ids = np.int32([[0, 1], [2, NONE]])
    matches = np.int32([5, NONE, 7])
    shown = correspondences.matched_ids(matches, ids)
    np.testing.assert_array_equal(shown, [[5, NONE], [7, NONE]])
    assert shown.dtype == np.int32


def test_too_many_regions_are_an_error():
    with pytest.raises(InputError, match='below the 6 regions') as caught:
        example = moving_scene.example(4, range(12), (1,))
        correspondences.example_matches(example, Matching((1,), 6))
    assert 'offset +0' in caught.value.where


WRONG = {
    'an unknown reading': (dict(reading='propagate'), "did you mean 'propagated'"),
    'a threshold of 0': (dict(threshold=0), 'above 0'),
    'the target alone': (dict(offsets=(0,)), 'multiples of the interval'),
    'an offset twice': (dict(offsets=(3, 3)), 'different multiples'),
    'an offset between': (dict(offsets=(-3, 4), interval=3), 'multiples of the interval'),
}


@pytest.mark.parametrize('fields, message', WRONG.values(), ids=WRONG)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        correspondences.match_feature(**dict(offsets=(-1, 1), num_regions=9) | fields)


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('stride', [1, 4])
def test_pixel_flows_are_composed_flows_on_a_grid(stride):
    """Compares at the pixels of the grid, where values are rounded to 1/16 pixel."""
    rng = np.random.default_rng(0)
    flows = {}
    for number in range(6):
        flows[number] = [rng.normal(0.4, 0.8, (*SIZE, 2)).astype(np.float32) for _ in range(2)]
    example = {'frame': 2, 'frame_frames': np.array([0, 1, 3, 4, 5, 5])}
    for key, place in (('flow_next', 0), ('flow_previous', 1)):
        example[key] = flows[2][place]
        example[f'{key}_frames'] = [flows[each][place] for each in (0, 1, 3, 4, 5, 5)]
    offsets = (-2, -1, 0, 1, 2, 3, 4)
    stored = correspondences.example_pixel_flows(example, offsets, stride=stride)
    feature = correspondences.pixel_flow_feature(offsets, SIZE, stride=stride)
    assert stored.shape == feature.feature.shape and stored.dtype == np.int32
    assert not stored[2].any() and (stored[6] == ABSENT).all()

    # A pipeline sees the flow of the drawn frames, for each pixel.
    drawn = {
        'image': np.zeros((*SIZE, 3), np.uint8),
        'pixel_flows': stored,
        'frame': 2,
        'frame_frames': np.array([0, 2, 5]),
    }
    seen = correspondences.with_pixel_flows(drawn, np.random.default_rng(0), offsets, stride)
    value = seen['flow_pixels_frames']
    assert value.shape == (3, *SIZE, 2) and value.dtype == np.float32 and not value[1].any()
    paths = ((0, [flows[2][1], flows[1][1]]), (2, [flows[number][0] for number in (2, 3, 4)]))
    for row, path in paths:
        expected = correspondences.composed_flow(path)[::stride, ::stride]
        actual = value[row][::stride, ::stride]
        np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
        assert np.nanmax(np.abs(actual - expected)) <= 0.5 / 16 + 1e-5


def test_linear_flow_is_exact_between_the_places_of_the_grid():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    flow = np.stack([x / 16, -y / 8], -1)
    example = {
        'frame': 0,
        'frame_frames': np.array([1]),
        'flow_next': flow,
        'flow_previous': flow,
        'flow_next_frames': flow[None],
        'flow_previous_frames': flow[None],
    }
    stored = correspondences.example_pixel_flows(example, (1,), stride=5)
    example = {'image': np.zeros((*SIZE, 3), np.uint8), 'pixel_flows': stored, 'frame': 0}
    example['frame_frames'] = np.array([1])
    result = correspondences.with_pixel_flows(example, np.random.default_rng(0), (1,), 5)
    inside = x + flow[..., 0] < SIZE[1] - 6
    error = np.abs(result['flow_pixels_frames'][0] - flow)[inside]
    assert error.max() < 1e-5
    with pytest.raises(InputError, match=r'a frame at \+2'):
        correspondences.rows_of((0, 1), 0, np.array([0, 2]))


# --- the maps of the authors ----------------------------------------------------------------------


def test_the_maps_of_the_authors_are_reproduced_from_their_regions(real_data):
    """Their regions of eleven frames keep their ids, although the flow is another method's.

    Regions that the authors left without a match are not known.
    """
    folder = real_data / 'nyu_clip/dining_room_0036'
    if not folder.is_dir():
        pytest.skip('needs nyu_clip')
    numbers = range(2080 - 15, 2080 + 16, 3)
    images = []
    for number in numbers:
        image = cv2.imread(str(folder / f'color/{number:05}.jpg'))[45:470, 40:600, ::-1]
        images.append(np.ascontiguousarray(image))
    with np.load(folder / 'region_correspondences_to_02080.npz') as stored:
        maps = [stored[f'{number:05}'].astype(np.int32) for number in numbers]
    for way in (range(5, 11), range(5, -1, -1)):
        steps = []
        for before, k in itertools.pairwise(way):
            away = dense_flow(images[before], images[k])
            steps.append(Step(maps[k], away, dense_flow(images[k], images[before])))
        matches = correspondences.propagated(maps[5], steps)
        for matched, step in zip(matches, steps, strict=True):
            own = correspondences.matched_ids(matched.ids, step.ids)
            known = step.ids != NONE
            both = known & (own != NONE)
            assert (own == step.ids)[known].mean() > 0.92
            assert (own == step.ids)[both].mean() > 0.99


# --- records --------------------------------------------------------------------------------------

OFFSETS = (-3, -2, -1, 0, 1, 2, 3)


def matches_of_scene(target, numbers, sequence=0, reading='propagated'):
    way = correspondences.way(OFFSETS, 1, 'test')
    example = moving_scene.example(target, numbers, way, sequence=sequence)
    return correspondences.example_matches(example, Matching(OFFSETS, 16, reading=reading))


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def count(journal):
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def make(prepared, *features, workers=1):
    inputs = Input('train', 1, features, SIZE, examples='labelled')
    return computation.make(prepared.store, [inputs], workers, never_stop)


def pool_of_threads(num_workers, **_):
    """Returns threads in place of worker processes, which start slowly."""
    return concurrent.futures.ThreadPoolExecutor(num_workers)


@pytest.fixture
def in_threads(monkeypatch):
    monkeypatch.setattr(concurrent.futures, 'ProcessPoolExecutor', pool_of_threads)


def test_the_derived_features_of_records_are_those_of_the_scene(tmp_path, in_threads):
    features = (
        correspondences.match_feature(OFFSETS, 16),
        correspondences.match_feature(OFFSETS, 16, reading='direct', name='direct_matches'),
        correspondences.pixel_flow_feature(OFFSETS, SIZE),
    )
    prepared = moving_scene.prepare(tmp_path, *features, num_frames=6)
    names = [feature.name for feature in features]
    make(prepared, *names, workers=2)
    source = prepared.open_split('train', ('frame', 'sequence', *names))
    assert len(source) == 12
    for i in range(12):
        example = source[i]
        if example['frame'] != 3:
            assert not any(example[name].any() for name in names)
            continue
        for name, reading in (('region_matches', 'propagated'), ('direct_matches', 'direct')):
            expected = matches_of_scene(3, range(6), int(example['sequence'][-1]), reading)
            np.testing.assert_array_equal(example[name], expected)
        assert (example['pixel_flows'][-1] == ABSENT).all() and (expected[-1] == NONE).all()

    # An input of the labelled frames gets them, and an input of all frames is refused.
    inputs = Input('train', 1, ('region_matches',), SIZE, examples='labelled')
    assert len(prepared.open_input(inputs)) == 2
    with pytest.raises(InputError, match='only the labelled examples have'):
        prepared.open_input(inputs._replace(examples='all'))


def test_a_pipeline_pools_drawn_frames_by_region_and_by_pixel(tmp_path, in_threads):
    """Looks up the regions and the pixels of drawn frames, and gets the objects of the target."""
    features = (
        correspondences.match_feature(OFFSETS, 16),
        correspondences.pixel_flow_feature(OFFSETS, SIZE, stride=1),
    )
    prepared = moving_scene.prepare(tmp_path, *features)
    transform = functools.partial(correspondences.with_pixel_flows, offsets=OFFSETS, stride=1)
    kept = ('image', 'image_frames', 'ids_region', 'ids_region_frames', 'frame', 'frame_frames')
    inputs = Input(
        'train',
        1,
        (*kept, 'region_matches', 'flow_pixels_frames'),
        SIZE,
        frames=DrawnFrames(4, OFFSETS),
        examples='labelled',
        transform=transform,
        reads=(*kept, 'region_matches', 'pixel_flows'),
        made=(('flow_pixels_frames', Feature('flow')),),
    )
    computation.make(prepared.store, [inputs], 1, never_stop)
    source = prepared.open_input(inputs)
    batch = loader.examples(source, range(len(source)), inputs, SIZE)
    for row in range(2):
        example = {key: value[row] for key, value in batch.items()}
        rows = correspondences.rows_of(OFFSETS, example['frame'], example['frame_frames'])
        assert len(set(rows)) == 4 and 3 in rows
        for k, place in enumerate(rows):
            ids = example['ids_region_frames'][k]
            shown = correspondences.matched_ids(example['region_matches'][place], ids)
            target = example['ids_region']
            objects = moving_scene.objects(int(example['frame_frames'][k]))
            expected = moving_scene.order(3, row)[objects]
            np.testing.assert_array_equal(shown, expected)

            # Pixels of the rectangle keep their colour along the flow.
            y, x = np.nonzero(target == moving_scene.order(3, row)[NUM_REGIONS - 1])
            u, v = np.rint(example['flow_pixels_frames'][k][y, x]).astype(int).T
            moved = example['image_frames'][k][y + v, x + u]
            np.testing.assert_array_equal(moved, example['image'][y, x])


def test_every_field_of_the_settings_changes_the_place_of_the_values(tmp_path):
    prepared = moving_scene.prepare(tmp_path, num_frames=3)
    usual = dict(offsets=(-1, 1), num_regions=16)
    different = [
        dict(offsets=(1, -1)),
        dict(num_regions=17),
        dict(threshold=0.5),
        dict(reading='direct'),
        dict(offsets=(-2, 2), interval=2),
    ]
    places = set()
    for fields in ({}, *different):
        feature = correspondences.match_feature(**usual | fields)
        derived.check([feature], prepared.spec)
        store = prepared._replace(derived=(feature,)).store
        places.add(store.folder('region_matches', 'train'))
    assert len(places) == len(different) + 1


CHILD = """
import concurrent.futures, sys
sys.path[:0] = sys.argv[1:3]
import moving_scene, test_correspondences
from segjax.data import correspondences, shards

if __name__ == '__main__':
    cache, journal = sys.argv[3:]
    shards.SHARD_BYTES = 3000
    concurrent.futures.ProcessPoolExecutor = test_correspondences.pool_of_threads
    feature = correspondences.match_feature(test_correspondences.OFFSETS, 16)
    feature = moving_scene.slow_feature(feature, journal, 0.02)
    prepared = moving_scene.prepare(cache, feature, num_clips=9)
    test_correspondences.make(prepared, 'region_matches')
"""


@pytest.mark.slow
def test_a_killed_process_loses_the_frame_at_work_alone(tmp_path, monkeypatch, in_threads):
    feature = correspondences.match_feature(OFFSETS, 16)
    feature = feature._replace(reads=(*feature.reads, 'name'))
    monkeypatch.setattr('segjax.data.shards.SHARD_BYTES', 3000)
    (folder,) = make(moving_scene.prepare(tmp_path / 'a', feature, num_clips=9), 'region_matches')
    expected = content(folder)
    program = tmp_path / 'child.py'
    program.write_text(CHILD)
    journal = tmp_path / 'journal'
    folders = [REPOSITORY / 'tests/data', REPOSITORY / 'tests/helpers']
    command = [sys.executable, program, *folders, tmp_path / 'b', journal]
    for stop in (4, None):
        process = subprocess.Popen(
            list(map(str, command)), env={**os.environ, 'PYTHONPATH': str(REPOSITORY)}
        )
        while stop and count(journal) < stop and process.poll() is None:
            time.sleep(0.002)
        if stop:
            process.kill()
        assert process.wait() == (-signal.SIGKILL if stop else 0)
    (final,) = (path for path in (tmp_path / 'b').glob('*+*') if path.is_dir())
    assert final.name == folder.name and content(final) == expected
    # Each of nine labelled frames is computed, and at most one of them again.
    names = journal.read_text().split()
    assert set(names) == {f'{clip}_3' for clip in range(9)} and len(names) <= 9 + 1
