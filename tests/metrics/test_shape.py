"""Scores of an inpainted box, and the transformations: hand-made maps, loops, keys."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.errors import InputError
from segjax.metrics import shape

K = 5
INSIDE = (slice(2, 9), slice(3, 12))
MASK = np.zeros((1, 12, 14), bool)
MASK[(0, *INSIDE)] = True


def case(seed=0, batch=4):
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, K, (batch, 6, 8))
    truth = np.where(rng.random((batch, 6, 8)) < 0.6, prediction, rng.integers(0, 2, (batch, 6, 8)))
    truth[rng.random(truth.shape) < 0.1] = 255
    mask = np.zeros((batch, 6, 8), bool)
    for b in range(batch):
        mask[b, b % 3 : 5, 1 : 4 + b] = True
    return prediction, truth, rng.integers(0, 2, batch), mask


def keys_of(*seeds):
    return jax.vmap(jax.random.key)(jnp.array(seeds))


# --- scores ---------------------------------------------------------------------------------------


def hand_made():
    """Returns maps whose scores are known. The box holds 2 x 4 pixels of a 4 x 6 map."""
    truth = np.full((1, 4, 6), 3, np.int32)
    prediction = np.full((1, 4, 6), 1, np.int32)  # wrong outside of the box, which nobody reads
    truth[0, 1:3, 1:5] = [[2, 2, 0, 0], [2, 2, 0, 0]]
    prediction[0, 1:3, 1:5] = [[2, 2, 2, 4], [2, 0, 0, 3]]
    mask = np.zeros((1, 4, 6), bool)
    mask[0, 1:3, 1:5] = True
    return prediction, truth, np.array([2]), mask


def test_scores_of_a_hand_made_map():
    prediction, truth, target, mask = hand_made()
    np.testing.assert_allclose(shape.target_iou(prediction, truth, target, mask), [3 / 5])
    np.testing.assert_allclose(shape.hamming(prediction, truth, mask), [4 / 8])
    count = {
        name: shape.noise_number(
            prediction, truth, target, mask, num_classes=K, reference=name
        ).tolist()
        for name in shape.NOISE_REFERENCES
    }
    # Class 3 is outside of the box alone, class 0 inside alone, class 4 nowhere.
    assert count == {'gt_in_mask': [2], 'crop': [1], 'filter': [3]}


def test_the_truth_has_perfect_scores():
    _, truth, target, mask = hand_made()
    scores = shape.box_scores(truth, truth, target, mask, np.ones(1), num_classes=K)
    assert {name: float(mean.value()) for name, mean in scores.items()} == {
        'tIOU': 1,
        'hamm': 1,
        'NN': 0,
    }


def test_pixels_outside_the_box_change_no_score_except_the_reference():
    prediction, truth, target, mask = case()
    moved = np.where(mask, prediction, 4)
    for name in ('gt_in_mask', 'crop', 'filter'):
        arguments = dict(num_classes=K, reference=name)
        chex.assert_trees_all_equal(
            shape.box_scores(moved, truth, target, mask, np.ones(4), **arguments),
            shape.box_scores(prediction, truth, target, mask, np.ones(4), **arguments),
        )


def test_a_class_out_of_range_is_noise():
    prediction, truth, target, mask = hand_made()
    prediction[0, 1, 1] = 200
    count = shape.noise_number(prediction, truth, target, mask, num_classes=K)
    np.testing.assert_array_equal(count, [3])


def scores_by_loop(prediction, truth, target, mask, reference):
    rows = []
    for b in range(len(truth)):
        both = either = equal = counted = 0
        known = set(truth[b].ravel() if reference == 'crop' else truth[b][mask[b]])
        if reference == 'filter':
            ring = ndimage.binary_dilation(mask[b], np.ones((3, 3))) & ~mask[b]
            known = {*truth[b][ring], target[b]}
        noise = sum(c not in known - {255} for c in prediction[b][mask[b]])
        for p, t in zip(prediction[b][mask[b]], truth[b][mask[b]], strict=True):
            if t == 255:
                continue
            counted += 1
            equal += p == t
            both += p == target[b] and t == target[b]
            either += p == target[b] or t == target[b]
        rows.append((both / either, equal / counted, noise))
    return np.transpose(rows)


@pytest.mark.parametrize('reference', shape.NOISE_REFERENCES)
def test_scores_are_equal_to_a_loop(reference):
    arguments = case(3)
    weight = np.float32([1, 0, 0.5, 1])
    scores = jax.jit(lambda *x: shape.box_scores(*x, num_classes=K, reference=reference))(
        *arguments, weight
    )
    expected = scores_by_loop(*arguments, reference)
    for name, values in zip(('tIOU', 'hamm', 'NN'), expected, strict=True):
        mean = scores[name]
        np.testing.assert_allclose(mean.sum, (weight * values).sum(), rtol=1e-6)
        np.testing.assert_allclose(mean.count, weight.sum())


def test_examples_without_the_target_do_not_count_for_its_iou():
    prediction, truth, target, mask = (np.repeat(x, 2, 0) for x in hand_made())
    target[1] = 4
    prediction[1] = 0
    weight = np.ones(2)
    scores = shape.box_scores(prediction, truth, target, mask, weight, num_classes=K)
    assert scores['tIOU'].count == 1 and scores['tIOU'].value() == np.float32(0.6)
    assert scores['hamm'].count == 2 and scores['NN'].count == 2


def test_padded_examples_leave_no_trace():
    prediction, truth, target, mask = (np.repeat(x, 2, 0) for x in hand_made())
    truth[1] = 255
    mask[1] = False
    scores = shape.box_scores(prediction, truth, target, mask, np.float32([1, 0]), num_classes=K)
    chex.assert_tree_all_finite(scores)
    assert [float(mean.count) for mean in scores.values()] == [1, 1, 1]


def test_an_unknown_reference_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'filter'"):
        shape.noise_number(*hand_made(), num_classes=K, reference='filters')


# --- transformations ------------------------------------------------------------------------------


def objects(seed=0, batch=1):
    blobs = ndimage.gaussian_filter(np.random.default_rng(seed).random((batch, *MASK.shape[1:])), 1)
    return (blobs > np.median(blobs)).astype(np.float32)


def apply(name, level, maps, seeds=None, **options):
    mask = np.repeat(MASK, len(maps), 0)
    keys = keys_of(*(seeds or range(len(maps))))
    return np.asarray(shape.transformed(name, level, maps, mask, keys, **options))


def inside(maps):
    return maps[(slice(None), *INSIDE)]


@pytest.mark.parametrize('name', shape.TRANSFORMATIONS)
@pytest.mark.parametrize('level', range(4))
def test_outside_the_box_everything_is_zero_and_level_zero_changes_nothing(name, level):
    maps = objects(batch=3)
    result = apply(name, level, maps)
    assert result.dtype == np.float32 and np.isfinite(result).all()
    np.testing.assert_array_equal(result[:, ~MASK[0]], 0)
    is_same = np.array_equal(inside(result), inside(maps))
    assert is_same == (level == 0) or name == 'flip'


@pytest.mark.slow
@pytest.mark.parametrize('name', shape.TRANSFORMATIONS)
def test_a_result_depends_on_the_key_of_its_example_alone(name):
    maps = objects(batch=6)
    seeds = [5, 6, 7, 8, 9, 10]
    together = apply(name, 2, maps, seeds)
    np.testing.assert_array_equal(apply(name, 2, maps[3:5], seeds[3:5]), together[3:5])
    np.testing.assert_array_equal(apply(name, 2, maps, seeds), together)
    if name.startswith('noise'):
        assert (apply(name, 2, maps, [99, *seeds[1:]])[0] != together[0]).any()


@pytest.mark.parametrize('name', shape.TRANSFORMATIONS)
def test_jit_and_vmap_change_nothing(name):
    maps = objects(batch=3)
    mask = np.repeat(MASK, 3, 0)
    keys = keys_of(0, 1, 2)
    expected = apply(name, 3, maps)

    def of_example(x, mask, key):
        return shape.transformed(name, 3, x[None], mask[None], key[None])[0]

    jitted = jax.jit(lambda *x: shape.transformed(name, 3, *x))(maps, mask, keys)
    np.testing.assert_allclose(jitted, expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(of_example)(maps, mask, keys), expected, atol=1e-6)


@pytest.mark.devices(8)
@pytest.mark.parametrize('name', ['noise_mean', 'flip', 'rotation'])
def test_eight_devices_change_nothing(name):
    maps = objects(batch=8)
    mask = np.repeat(MASK, 8, 0)
    mapped = jax.pmap(lambda *x: shape.transformed(name, 3, *x), devices=jax.devices()[:8])
    result = mapped(maps[:, None], mask[:, None], keys_of(*range(8))[:, None])
    np.testing.assert_allclose(result[:, 0], apply(name, 3, maps), atol=1e-6)


@pytest.mark.parametrize('level, side', [(1, 3), (2, 5), (3, 7)])
def test_erosion_and_dilation_are_those_of_the_box_alone(level, side):
    maps = objects()
    crop = inside(maps)[0]
    square = np.ones((side, side))
    # Outside the box there is nothing that erodes, and nothing that grows into the box.
    eroded = ndimage.binary_erosion(crop, square, border_value=1)
    dilated = ndimage.binary_dilation(crop, square)
    np.testing.assert_array_equal(inside(apply('erosion', level, maps))[0], eroded)
    np.testing.assert_array_equal(inside(apply('dilation', level, maps))[0], dilated)
    full = np.ones_like(maps)
    np.testing.assert_array_equal(inside(apply('erosion', level, full)), 1)


def test_flip_mirrors_the_box_for_the_share_of_its_level():
    maps = np.repeat(objects(), 400, 0)
    for level, share in ((1, 0.25), (2, 0.5), (3, 0.75)):
        result = inside(apply('flip', level, maps))
        mirrored = (result == inside(maps)[:, :, ::-1]).all((1, 2))
        unchanged = (result == inside(maps)).all((1, 2))
        assert (mirrored ^ unchanged).all()
        assert abs(mirrored.mean() - share) < 5 * np.sqrt(share * (1 - share) / 400)


def square_case():
    """Returns (objects, mask) of a box of 5 x 5 pixels at the corner (3, 4)."""
    mask = np.zeros((1, 12, 14), bool)
    mask[0, 3:8, 4:9] = True
    return (np.random.default_rng(0).random(mask.shape) < 0.5).astype(np.float32), mask


def rotated(level, maps, mask):
    return np.asarray(shape.transformed('rotation', level, maps, mask, keys_of(0)))


def test_a_turn_by_90_degrees_is_counter_clockwise():
    maps, mask = square_case()
    result = rotated(2, maps, mask)[0, 3:8, 4:9]
    np.testing.assert_array_equal(result, np.rot90(maps[0, 3:8, 4:9]))


def test_a_turn_by_90_degrees_of_an_even_square():
    maps, mask = square_case()
    mask[0, 7] = False
    mask[0, :, 8] = False
    result = rotated(2, maps, mask)[0, 3:7, 4:8]
    np.testing.assert_array_equal(result, np.rot90(maps[0, 3:7, 4:8]))


def test_a_turn_by_45_degrees_moves_a_bar_to_the_diagonal():
    maps, mask = square_case()
    maps[:] = 0
    maps[0, 5, 4:9] = 1  # the middle row
    result = rotated(1, maps, mask)[0, 3:8, 4:9]
    assert result[1, 3] == result[2, 2] == result[3, 1] == 1
    # The corners are 2.8 pixels from the centre, and the bar ends after 2.5.
    assert result[0, 4] == result[4, 0] == 0
    assert result[0, 0] == result[1, 1] == result[3, 3] == result[4, 4] == 0
    # Three times 45 degrees: the other diagonal.
    np.testing.assert_array_equal(rotated(3, maps, mask)[0, 3:8, 4:9], result[:, ::-1])


def test_noise_has_the_moments_and_the_frequency_of_its_level():
    full = np.ones((1, 200, 200), np.float32)
    mask = np.ones((1, 200, 200), bool)
    for name, transformation in shape.TRANSFORMATIONS.items():
        if not name.startswith('noise'):
            continue
        for level, (mean, std, frequency) in enumerate(transformation.levels, 1):
            result = np.asarray(shape.transformed(name, level, full, mask, keys_of(level)))[0]
            touched = result != 1
            count = touched.sum()
            assert abs(touched.mean() - frequency) < 5 * np.sqrt(frequency / 40_000)
            noise = result[touched] - 1
            assert abs(noise.mean() - mean) < 5 * std / np.sqrt(count)
            assert abs(noise.std() / std - 1) < 5 / np.sqrt(2 * count)


def test_noise_can_replace_the_object_and_be_clipped():
    maps = objects()
    added = apply('noise_frequency', 3, maps)
    replaced = apply('noise_frequency', 3, maps, noise_form='replace')
    touched = added != np.where(MASK, maps, 0)
    np.testing.assert_allclose(added[touched] - maps[touched], replaced[touched], atol=1e-6)
    assert added.max() > 1 and added.min() < 0
    clipped = apply('noise_frequency', 3, maps, clip=True)
    np.testing.assert_array_equal(clipped, np.clip(added, 0, 1))


def test_scores_fall_with_the_level():
    maps = objects(batch=200)
    mask = np.repeat(MASK, 200, 0)
    for name in ('erosion', 'flip'):
        means = []
        for level in range(4):
            result = apply(name, level, maps).astype(np.int32)
            truth = np.where(mask, maps, 0).astype(np.int32)
            target = np.ones(200, np.int32)
            means.append(float(shape.target_iou(result, truth, target, mask).mean()))
        assert means[0] == 1 and means == sorted(means, reverse=True), (name, means)


def test_unknown_names_and_levels_are_refused():
    maps = objects()
    with pytest.raises(InputError, match="did you mean 'erosion'"):
        apply('erode', 1, maps)
    with pytest.raises(InputError, match='from 0 to 3'):
        apply('erosion', 4, maps)
    with pytest.raises(InputError, match="did you mean 'add'"):
        apply('noise_mean', 1, maps, noise_form='adds')
