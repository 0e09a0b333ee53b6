"""Depth and motion errors against the formulas, written out image by image in NumPy."""

import functools

import chex
import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from segjax.errors import InputError
from segjax.metrics import depth

RNG = np.random.default_rng(0)
B, H, W = 4, 5, 6
TRUTH = RNG.uniform(0.5, 120, (B, H, W)).astype(
    np.float32
)  # some of it beyond the 80 m that are judged
TRUTH[RNG.random(TRUTH.shape) < 0.3] = 0  # not measured
PREDICTION = (TRUTH.clip(1) * RNG.uniform(0.4, 1.3, (B, H, W))).astype(np.float32)
CROP = RNG.random((B, H, W)) < 0.8
WEIGHT = np.array([1.0, 0.0, 0.5, 1.0], np.float32)


@functools.cache
def compiled(fn, **options):
    return jax.jit(functools.partial(fn, **options))


def by_hand(prediction, truth, median_scaling, valid=None):
    """Computes the seven errors of an image [H, W]."""
    mask = (truth > 1e-3) & (truth < 80) & (True if valid is None else valid)
    d = prediction[mask].astype(np.float64)
    t = truth[mask].astype(np.float64)
    d = np.clip(d * np.median(t) / np.median(d) if median_scaling else d, 1e-3, 80)
    ratio = np.maximum(d / t, t / d)
    return {
        'abs_rel': np.mean(np.abs(d - t) / t),
        'sq_rel': np.mean((d - t) ** 2 / t),
        'rmse': np.mean((d - t) ** 2) ** 0.5,
        'rmse_log': np.mean((np.log(d) - np.log(t)) ** 2) ** 0.5,
        'a1': np.mean(ratio < 1.25),
        'a2': np.mean(ratio < 1.5625),
        'a3': np.mean(ratio < 1.953125),
    }


@pytest.mark.parametrize('median_scaling', [False, True])
def test_errors_are_made_per_image_and_averaged_over_images(median_scaling):
    valid = CROP if median_scaling else None
    options = {'median_scaling': median_scaling, 'valid': valid}
    of_images = jax.jit(lambda p, t: depth.image_errors(p, t, **options))(PREDICTION, TRUTH)
    means = jax.jit(lambda p, t: depth.errors(p, t, WEIGHT, **options))(PREDICTION, TRUTH)
    expected = [
        by_hand(PREDICTION[b], TRUTH[b], median_scaling, CROP[b] if median_scaling else None)
        for b in range(B)
    ]
    assert set(of_images) == set(means) == set(depth.DEPTH_ERRORS)
    for name in depth.DEPTH_ERRORS:
        values = [image[name] for image in expected]
        assert len(set(values)) > 1  # no number that holds by accident
        np.testing.assert_allclose(of_images[name], values, rtol=1e-5)
        np.testing.assert_allclose(means[name], (WEIGHT @ values, WEIGHT.sum()), rtol=1e-5)


errors = compiled(depth.errors, median_scaling=True)
errors_as_they_are = compiled(depth.errors, median_scaling=False)


def test_literal_values():
    # Depths 1, 2, 4 predicted as 1, 1, 8: ratios 1, 2, 2. With the median scale of 2 / 1 they
    # become 2, 1, 4.
    truth = np.float32([[[1, 2, 4]]])
    prediction = np.float32([[[1, 1, 8]]])
    one = np.ones(1, np.float32)
    plain = {
        name: float(mean.value())
        for name, mean in errors_as_they_are(prediction, truth, one).items()
    }
    assert plain == pytest.approx(
        {
            'abs_rel': (0 + 1 / 2 + 1) / 3,
            'sq_rel': (0 + 1 / 2 + 4) / 3,
            'rmse': (17 / 3) ** 0.5,
            'rmse_log': np.log(2) * (2 / 3) ** 0.5,
            'a1': 1 / 3,
            'a2': 1 / 3,
            'a3': 1 / 3,
        }
    )
    scaled = errors(prediction, truth, one)
    assert float(scaled['abs_rel'].value()) == pytest.approx((1 + 0 + 3) / 3)


def test_median_scaling_forgives_the_scale_and_nothing_else():
    perfect = errors(0.013 * TRUTH.clip(1e-3), TRUTH, WEIGHT)
    for name, mean in perfect.items():
        np.testing.assert_allclose(
            mean.value(), name.startswith('a') and name != 'abs_rel', atol=1e-5
        )
    once, again = (errors(scale * PREDICTION, TRUTH, WEIGHT) for scale in (1, 40))
    for name in depth.DEPTH_ERRORS:
        np.testing.assert_allclose(once[name], again[name], rtol=1e-5)
    assert errors_as_they_are(0.013 * TRUTH, TRUTH, WEIGHT)['abs_rel'].value() > 0.9


def test_predictions_are_capped_where_the_truth_is():
    # 1000 m counts as 80 m, 0 as 1 mm: neither is infinitely wrong.
    truth = np.full((B, H, W), 40, np.float32)
    prediction = np.full((B, H, W), 1000, np.float32)
    prediction[1:] = 0
    got = compiled(depth.image_errors, median_scaling=False)(prediction, truth)
    np.testing.assert_allclose(got['abs_rel'], [1] + [1 - 1e-3 / 40] * 3, rtol=1e-5)
    np.testing.assert_allclose(got['rmse_log'], [np.log(2)] + [np.log(40_000)] * 3, rtol=1e-5)


def test_images_without_truth_and_padding_do_not_count_but_a_nan_does():
    truth = TRUTH.copy()
    prediction = PREDICTION.copy()
    truth[0] = 0
    prediction[1] = np.nan  # an example of weight 0
    got = errors(prediction, truth, WEIGHT)
    expected = [by_hand(PREDICTION[b], TRUTH[b], True)['rmse'] for b in (2, 3)]
    np.testing.assert_allclose(got['rmse'], (0.5 * expected[0] + expected[1], 1.5), rtol=1e-5)
    of_images = compiled(depth.image_errors, median_scaling=True)(prediction, truth)
    np.testing.assert_array_equal(np.isnan(of_images['a1'])[[0, 2, 3]], [True, False, False])
    prediction[3, 2, 2] = np.nan
    truth[3, 2, 2] = 10
    assert np.isnan(errors(prediction, truth, WEIGHT)['abs_rel'].sum)


def test_medians_are_exact():
    values = RNG.normal(size=(40, 9)).astype(np.float32)
    mask = np.arange(9) < RNG.integers(1, 10, (40, 1))  # 1 to 9 of them, odd and even
    mask = RNG.permuted(mask, axis=1)
    got = jax.jit(depth.masked_median)(values, mask)
    np.testing.assert_array_equal(got, [np.median(v[m]) for v, m in zip(values, mask)])
    assert np.isnan(jax.jit(depth.masked_median)(values, np.zeros_like(mask))).all()


# --- baselines ------------------------------------------------------------------------------------


def test_level_ground_is_the_depth_of_a_plane_below_the_camera():
    intrinsics = np.float32([[[5, 0, 3], [0, 4, 1.5], [0, 0, 1]]])
    size = np.array([[5, 6]])
    # At twice the size, row j shows row (j + 1/2) / 2 - 1/2 of the image.
    got = depth.level_ground(intrinsics, size, (10, 12), 2 * size)
    chex.assert_shape(got, (1, 10, 12))
    rows = (np.arange(10) + 0.5) / 2 - 0.5
    expected = np.where(rows > 1.5, 4 / np.where(rows > 1.5, rows - 1.5, 1), 0)
    np.testing.assert_allclose(got[0], np.repeat(expected[:, None], 12, 1), rtol=1e-6)


def test_baselines_are_scored_next_to_the_prediction():
    truth = np.full((1, 4, 6), 8, np.float32)
    truth[0, 3] = 4  # the plane alone knows that the lowest row is near
    batch = {
        'depth': truth,
        'intrinsics': np.float32([[[5, 0, 3], [0, 4, 1], [0, 0, 1]]]),
        'size': np.array([[4, 6]]),
        'label_size': np.array([[4, 6]]),
        'weight': np.ones(1, np.float32),
    }
    inside = np.ones((1, 4, 6), bool)
    scores = depth.errors_with_baselines(5 / truth, lambda d: 1 / d, batch, inside)
    names = {prefix + name for prefix in ('', 'constant/', 'plane/') for name in depth.DEPTH_ERRORS}
    assert set(scores) == names
    np.testing.assert_allclose(scores['abs_rel'].value(), 0, atol=1e-6)
    np.testing.assert_allclose(scores['constant/abs_rel'].value(), 1 / 4, rtol=1e-6)
    # Ground: depths 4 and 2 in rows 2 and 3, at the median of 4 and 8 twice as far. Above: exact.
    np.testing.assert_allclose(scores['plane/abs_rel'].value(), 0, atol=1e-6)


# --- camera motion --------------------------------------------------------------------------------


def motions(seed, *shape, turn=0.3):
    rng = np.random.default_rng(seed)
    result = np.zeros((*shape, 4, 4))
    result[..., :3, :3] = (
        Rotation.from_rotvec(turn * rng.normal(size=(np.prod(shape), 3)))
        .as_matrix()
        .reshape(*shape, 3, 3)
    )
    result[..., :3, 3] = rng.normal(size=(*shape, 3))
    result[..., 3, 3] = 1
    return result


trajectory_error = jax.jit(depth.trajectory_error)
rotation_error = jax.jit(depth.rotation_error)


def ate_by_hand(predicted, truth):
    x, y = (
        [(np.linalg.inv(snippet[0]) @ pose)[:3, 3] for pose in snippet]
        for snippet in (predicted, truth)
    )
    scale = sum(a @ b for a, b in zip(x, y)) / sum(a @ a for a in x)
    return np.sqrt(sum(((scale * a - b) ** 2).sum() for a, b in zip(x, y))) / len(x)


def test_trajectory_error_is_the_formula():
    predicted = motions(0, B, 5)
    truth = motions(1, B, 5)
    expected = WEIGHT @ [ate_by_hand(*pair) for pair in zip(predicted, truth)]
    got = trajectory_error(np.float32(predicted), np.float32(truth), WEIGHT)
    np.testing.assert_allclose(got, (expected, WEIGHT.sum()), rtol=1e-5)


def test_trajectory_error_forgives_scale_and_place_but_no_direction():
    truth = motions(1, B, 5)
    elsewhere = motions(2, B, 1) @ truth
    smaller = truth.copy()
    smaller[..., :3, 3] *= 0.1
    for same in (elsewhere, smaller):
        assert trajectory_error(np.float32(same), np.float32(truth), WEIGHT).value() < 1e-5
    # Straight ahead by 1, predicted as 1 to the side: every position except the first is wrong.
    ahead, aside = np.tile(np.eye(4), (2, B, 5, 1, 1))
    ahead[:, 1:, 2, 3], aside[:, 1:, 0, 3] = 1, 1
    np.testing.assert_allclose(
        trajectory_error(np.float32(aside), np.float32(ahead), WEIGHT).value(), 2 / 5, rtol=1e-6
    )
    # A camera that is said to stand still is wrong by all of the way, and not NaN.
    still = np.tile(np.eye(4), (B, 5, 1, 1))
    np.testing.assert_allclose(
        trajectory_error(np.float32(still), np.float32(ahead), WEIGHT).value(), 2 / 5, rtol=1e-6
    )


def test_trajectory_puts_the_target_among_its_sources_in_time():
    poses = motions(3, B, 4)  # camera to world, at times t - 2, t - 1, t, t + 1
    target = poses[:, 2:3]
    relative = np.linalg.inv(poses[:, [0, 1, 3]]) @ target
    got = jax.jit(depth.trajectory, static_argnums=1)(np.float32(relative), (-2, -1, 1))
    np.testing.assert_allclose(got, np.linalg.inv(target) @ poses, atol=1e-5)
    assert (
        trajectory_error(got, np.float32(poses), WEIGHT).value() < 1e-5
    )  # wherever the world's origin is


@pytest.mark.parametrize('offsets', [(-1, 1), (1, -1, 2), (-1, 0, 1), (1, 1, 2)])
def test_offsets_that_are_no_order_in_time_are_refused(offsets):
    with pytest.raises(InputError, match='ascending'):
        depth.trajectory(np.zeros((B, 3, 4, 4)), offsets)


@pytest.mark.parametrize('turn', [1e-4, 0.5, 2.0])
def test_rotation_error_is_the_angle_between_rotations(turn):
    truth = motions(4, B, 2)
    error = Rotation.from_rotvec(turn * RNG.normal(size=(B * 2, 3)))
    predicted = truth.copy()
    predicted[..., :3, :3] = truth[..., :3, :3] @ error.as_matrix().reshape(B, 2, 3, 3)
    expected = WEIGHT @ np.rad2deg(error.magnitude()).reshape(B, 2).sum(1)
    got = rotation_error(np.float32(predicted), np.float32(truth), WEIGHT)
    np.testing.assert_allclose(got, (expected, 2 * WEIGHT.sum()), rtol=1e-5, atol=2e-5)


# --- standing still, and yaw ----------------------------------------------------------------------


OFFSETS = (-2, -1, 1)
motion_errors = compiled(depth.motion_errors, offsets=OFFSETS)
motion_errors_of_two = compiled(depth.motion_errors, offsets=(-1, 1))


def angle_by_hand(motion):
    return np.rad2deg(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1)))


def test_saying_no_motion_is_wrong_by_all_of_it():
    predicted = motions(5, B, 3)
    truth = motions(6, B, 3)
    got = motion_errors(np.float32(predicted), np.float32(truth), WEIGHT)
    turns = [sum(angle_by_hand(motion) for motion in example) for example in truth]
    np.testing.assert_allclose(
        got['still/rotation_error'], (WEIGHT @ turns, 3 * WEIGHT.sum()), rtol=1e-4
    )
    ways = []
    for example in truth:
        poses = [
            np.linalg.inv(example[0]),
            np.linalg.inv(example[1]),
            np.eye(4),
            np.linalg.inv(example[2]),
        ]
        ways.append(
            np.sqrt(sum(np.sum((poses[0][:3, :3].T @ (p - poses[0])[:3, 3]) ** 2) for p in poses))
            / 4
        )
    np.testing.assert_allclose(
        got['still/trajectory_error'], (WEIGHT @ ways, WEIGHT.sum()), rtol=1e-5
    )
    errors_of_rotation = [
        sum(angle_by_hand(np.linalg.inv(a) @ b) for a, b in zip(*pair))
        for pair in zip(predicted, truth)
    ]
    np.testing.assert_allclose(
        got['rotation_error'], (WEIGHT @ errors_of_rotation, 3 * WEIGHT.sum()), rtol=1e-4
    )
    expected = WEIGHT @ [
        ate_by_hand(*(np.insert(np.linalg.inv(example), 2, np.eye(4), axis=0) for example in pair))
        for pair in zip(predicted, truth)
    ]
    np.testing.assert_allclose(got['trajectory_error'], (expected, WEIGHT.sum()), rtol=1e-5)


def test_yaw_is_the_turn_about_the_axis_that_points_down():
    angles = np.array([-170.0, -3.0, 0.0, 0.01, 12.0, 95.0])
    turned = np.tile(np.eye(4), (6, 1, 1))
    turned[:, :3, :3] = Rotation.from_euler('y', angles[:, None], degrees=True).as_matrix()
    np.testing.assert_allclose(jax.jit(depth.yaw)(np.float32(turned)), angles, atol=1e-4)


def test_correlation_of_yaw_is_pooled_over_batches_and_frames():
    predicted = motions(7, 40, 2, turn=0.02)
    truth = motions(8, 40, 2, turn=0.02)
    predicted[..., :3, :3] = truth[..., :3, :3] @ predicted[..., :3, :3]  # related, but not equal
    weight = np.ones(40, np.float32)
    weight[[3, 20, 39]] = 0
    sums = 0
    for some in (slice(0, 7), slice(7, 30), slice(30, 40)):
        found = motion_errors_of_two(
            np.float32(predicted[some]), np.float32(truth[some]), weight[some]
        )
        sums = sums + np.asarray(found['yaw'].sum, np.float64)
    x, y = (
        Rotation.from_matrix(m[weight > 0, :, :3, :3].reshape(-1, 3, 3))
        .as_euler('yxz')[:, 0]
        .reshape(-1, 2)
        for m in (predicted, truth)
    )
    expected = np.corrcoef((x - x.mean(0)).ravel(), (y - y.mean(0)).ravel())[0, 1]
    assert 0.3 < expected < 0.95
    assert depth.correlation(sums) == pytest.approx(expected, abs=1e-3)
    np.testing.assert_array_equal(sums[:, 0], 37)


def turns(angles):
    """Returns motions [B, 2, 4, 4] to the frames before and after, of cameras that turn steadily.

    `angles` are the degrees per frame.
    """
    result = np.tile(np.eye(4, dtype=np.float32), (len(angles), 2, 1, 1))
    for source, sign in enumerate((1, -1)):
        result[:, source, :3, :3] = Rotation.from_euler(
            'y', sign * angles[:, None], degrees=True
        ).as_matrix()
    return result


def test_always_the_same_turn_has_no_correlation():
    """Checks that a constant prediction has no correlation, even if most frames turn to a side."""
    angles = np.random.default_rng(0).normal(1, 0.3, 30)
    weight = np.ones(30, np.float32)
    always = motion_errors_of_two(turns(np.full(30, 1.0)), turns(angles), weight)
    assert np.isnan(depth.correlation(np.asarray(always['yaw'].sum)))
    noisy = motion_errors_of_two(
        turns(1 + 0.1 * np.random.default_rng(1).normal(size=30)), turns(angles), weight
    )
    assert abs(depth.correlation(np.asarray(noisy['yaw'].sum))) < 0.4
    right = motion_errors_of_two(turns(0.3 * angles), turns(angles), weight)
    assert depth.correlation(np.asarray(right['yaw'].sum)) == pytest.approx(1, abs=1e-3)


def test_a_yaw_that_never_changes_has_no_correlation():
    still = np.tile(np.eye(4, dtype=np.float32), (B, 2, 1, 1))
    still[..., :3, :3] = Rotation.from_euler('y', 1.3, degrees=True).as_matrix()
    found = motion_errors_of_two(still, np.float32(motions(8, B, 2)), WEIGHT)
    assert np.isnan(depth.correlation(np.asarray(found['yaw'].sum)))


@pytest.mark.parametrize('metric', [depth.trajectory_error, depth.rotation_error])
def test_bad_shapes_of_motions(metric):
    with pytest.raises(InputError, match='4, 4'):
        metric(motions(0, B, 5), motions(0, B, 4), WEIGHT)
    with pytest.raises(InputError, match='4, 4'):
        metric(motions(0, B), motions(0, B), WEIGHT)


def test_depth_of_another_size_is_refused():
    with pytest.raises(InputError, match='resize'):
        depth.errors(PREDICTION[:, ::2], TRUTH, WEIGHT, median_scaling=True)
