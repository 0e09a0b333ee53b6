"""Neighbours of examples: their distances, their clusters of colours, and their tables."""

import time

import chex
import cv2
import numpy as np
import pytest

from segjax.data import neighbours
from segjax.data.neighbours import Neighbourhood, cluster
from segjax.errors import InputError

CHOICE = Neighbourhood(num_clusters=3, num_positions=4, percentile=30.0)


def faces(count=24, seed=0, points=5, scale=1):
    """Returns examples whose landmarks vary, with images of a few colours."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(4, 28, (points, 2))
    examples = []
    for number in range(count):
        landmarks = base + rng.normal(0, 2, (points, 2))
        colour = rng.integers(0, 256, 3)
        image = np.full((40 * scale, 32 * scale, 3), colour, np.uint8)
        image[: 10 * scale] = rng.integers(0, 256, 3)
        examples.append(
            {
                'image': image,
                # The centre of a pixel stays at its place in the image.
                'points_face': (scale * (landmarks + 0.5) - 0.5).astype(np.float64),
                'name': f'face_{number:03}',
            }
        )
    return examples


def tables_of(examples, choice=CHOICE):
    return np.stack(neighbours.neighbour_tables(examples, choice))


# --- distances ------------------------------------------------------------------------------------


def reference_distance(one, two):
    """Returns the L1 distance over common landmarks in widths of the images, in plain loops."""
    total = 0.0
    common = 0
    places = [example['points_face'] for example in (one, two)]
    widths = [example['image'].shape[1] for example in (one, two)]
    for (x, y), (u, v) in zip(*places, strict=True):
        if np.isnan(x) or np.isnan(u):
            continue
        common += 1
        total += abs((x + 0.5) / widths[0] - (u + 0.5) / widths[1])
        total += abs((y + 0.5) / widths[0] - (v + 0.5) / widths[1])
    return total * len(places[0]) / common if common else np.inf


@pytest.mark.parametrize('absent', [False, True])
def test_distances_equal_a_plain_loop(absent):
    examples = faces(9) + faces(3, seed=1, scale=2)
    if absent:
        examples[2]['points_face'][1:3] = np.nan
        examples[5]['points_face'][:4] = np.nan
        examples[7]['points_face'][4] = np.nan
    places = np.stack([neighbours.relative(each, 'points_face') for each in examples])
    distances = neighbours.pair_distances(places)
    expected = [[reference_distance(one, two) for two in examples] for one in examples]
    np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-7)
    assert (distances[5, 7] == np.inf) == absent
    np.testing.assert_array_equal(distances, distances.T)


def test_blocks_of_rows_change_nothing(monkeypatch):
    places = np.random.default_rng(0).uniform(size=(11, 5, 2))
    whole = neighbours.pair_distances(places)
    monkeypatch.setattr(neighbours, 'ROWS', 4)
    np.testing.assert_array_equal(neighbours.pair_distances(places), whole)


def test_theta_is_a_percentile_of_the_distances_of_all_pairs():
    distances = neighbours.pair_distances(np.random.default_rng(0).uniform(size=(30, 5, 2)))
    pairs = [distances[i, j] for i in range(30) for j in range(i)]
    assert neighbours.pair_percentile(distances, 20) == pytest.approx(np.percentile(pairs, 20))
    assert len(pairs) * 0.2 - 1 <= (np.array(pairs) < np.percentile(pairs, 20)).sum() <= 87


def test_images_of_another_size_have_the_same_neighbours():
    np.testing.assert_array_equal(tables_of(faces(scale=2)), tables_of(faces()))


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('threshold', [0.0, 0.6])
def test_rows_hold_all_near_examples_once_the_nearest_first(threshold):
    examples = faces(40)
    choice = CHOICE._replace(num_positions=40, threshold=threshold)
    distances = np.array([[reference_distance(one, two) for two in examples] for one in examples])
    theta = threshold or np.percentile(distances[np.triu_indices(40, 1)], choice.percentile)
    sizes = []
    for own, rows in enumerate(tables_of(examples, choice)):
        members = rows[rows >= 0].tolist()
        near = set(np.flatnonzero(distances[own] < theta).tolist()) - {own}
        assert set(members) == near and len(members) == len(near)
        sizes.append(len(near))
        if near:
            assert rows[0, 0] == min(near, key=lambda place: distances[own, place])
        for row in rows:
            in_row = distances[own, row[row >= 0]]
            assert (np.diff(in_row) >= 0).all()
            assert (row[len(in_row) :] == -1).all(), 'absent positions are at the end'
        firsts = [distances[own, row[0]] for row in rows if row[0] >= 0]
        assert firsts == sorted(firsts)
        assert (rows[:, 0] >= 0).sum() == min(3, len(near))
    assert min(sizes) < 3 < max(sizes)


def test_a_row_has_at_most_the_nearest_positions():
    few = tables_of(faces(40))
    many = tables_of(faces(40), CHOICE._replace(num_positions=40))
    assert few.shape == (40, 3, 4) and few.dtype == np.int32
    np.testing.assert_array_equal(few, many[:, :, :4])
    assert (many[:, :, 4] >= 0).any()


def test_rows_are_groups_of_colours():
    """Gives 20 equal faces three colours. Each row then holds faces of a single colour."""
    examples = faces(20)
    paints = np.array([[230, 180, 160], [120, 70, 50], [60, 200, 90]], np.uint8)
    colour_of = np.random.default_rng(0).integers(0, 3, 20)
    for example, number in zip(examples, colour_of, strict=True):
        example['points_face'] = examples[0]['points_face'] + np.random.default_rng(number).normal()
        example['image'] = np.full((8, 8, 3), paints[number]) + np.uint8(number)
    for colours in neighbours.COLOURS:
        choice = CHOICE._replace(num_positions=20, threshold=100.0, colours=colours)
        for own, rows in enumerate(tables_of(examples, choice)):
            groups = [set(colour_of[row[row >= 0]].tolist()) for row in rows]
            assert sorted(map(len, groups)) == [1, 1, 1]
            assert set.union(*groups) == {0, 1, 2}
            assert own not in rows


def test_an_example_without_near_examples_has_no_neighbours():
    examples = faces(12)
    examples[4]['points_face'] = examples[4]['points_face'] + 500
    rows = tables_of(examples)
    assert (rows[4] == -1).all() and 4 not in rows


# --- colours and clusters -------------------------------------------------------------------------


def test_a_histogram_has_the_shares_of_hue_saturation_and_value():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = (255, 0, 0)  # hue 0
    image[0, 1] = (0, 255, 0)  # hue 120 degrees: bin 2 of 8
    shares = neighbours.histogram_of_colours(image)
    chex.assert_shape(shares, (24,))
    assert shares[:8].tolist() == [0.75, 0, 0.25, 0, 0, 0, 0, 0]
    assert shares[8:16].tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0.5]
    assert shares[16:].tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0.5]


def test_the_mean_of_reds_is_red():
    """Averages the hues 350 and 10 degrees, whose numbers have the mean 180."""
    hsv = np.array([[[175, 255, 255], [5, 255, 255]]], np.uint8)
    x, y, value = neighbours.mean_colour(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    assert np.hypot(x, y) > 0.97 and abs(np.arctan2(y, x)) < 0.02 and value == 1


def inertia(values, clusters):
    total = 0.0
    for number in np.unique(clusters):
        members = values[clusters == number]
        total += np.square(members - members.mean(axis=0)).sum()
    return total


@pytest.mark.parametrize('size', [3, 24])
def test_clusters_are_as_tight_as_those_of_opencv(size):
    rng = np.random.default_rng(0)
    values = (
        rng.normal(size=(200, size)) + 4 * rng.normal(size=(12, size))[rng.integers(0, 12, 200)]
    )
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, 50, 0)
    best, _, _ = cv2.kmeans(values.astype(np.float32), 9, None, criteria, 20, cv2.KMEANS_PP_CENTERS)
    ours = cluster(values, 9)
    assert len(np.unique(ours)) == 9
    assert inertia(values, ours) < 1.25 * best


def test_equal_vectors_leave_clusters_empty():
    clusters = cluster(np.repeat([[0.0], [1.0]], 5, axis=0), 4)
    assert len(set(clusters[:5])) == len(set(clusters[5:])) == 1
    assert clusters[0] != clusters[5]


# --- errors ---------------------------------------------------------------------------------------


def test_an_example_without_landmarks_is_named():
    examples = faces(8)
    examples[5]['points_face'][:] = np.nan
    with pytest.raises(InputError, match='no landmark') as error:
        tables_of(examples)
    assert error.value.where == "feature 'points_face' of example face_005"


def test_more_neighbours_than_examples_are_refused_and_the_fix_works():
    with pytest.raises(InputError, match='3 neighbours in a split of 3 examples') as error:
        tables_of(faces(3))
    assert error.value.fix == '--config.neighbours.num_clusters=2'
    assert tables_of(faces(3), CHOICE._replace(num_clusters=2)).shape == (3, 2, 4)


@pytest.mark.parametrize(
    'wrong',
    [
        {'num_clusters': 0},
        {'num_positions': 0},
        {'percentile': 0.0},
        {'percentile': 101.0},
        {'threshold': -1.0},
        {'colours': 'median'},
    ],
)
def test_a_choice_out_of_range_names_its_key(wrong):
    (field,) = wrong
    with pytest.raises(InputError, match=f'config.near.{field}') as error:
        neighbours.neighbours_feature(CHOICE._replace(**wrong), section='near')
    assert error.value.fix


@pytest.mark.slow
def test_4038_faces_take_less_than_a_minute():
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(4038, 6)) @ rng.normal(0, 3, (6, 2 * 68))
    landmarks = rng.uniform(10, 118, 2 * 68) + shapes
    images = rng.integers(0, 256, (4038, 8, 8, 3), dtype=np.uint8)

    class Faces:
        def __len__(self):
            return 4038

        def __getitem__(self, number):
            return {
                'image': cv2.resize(images[number], (128, 128)),
                'points_face': landmarks[number].reshape(68, 2),
                'name': str(number),
            }

    start = time.monotonic()
    rows = tables_of(Faces(), Neighbourhood())
    assert time.monotonic() - start < 60
    assert rows.shape == (4038, 9, 16) and (rows >= 0).mean() > 0.3
