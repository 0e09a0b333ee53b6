"""Optical flow: against images that were moved, and against the exact flow of `streets`."""

import cv2
import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import computation, derived, flow
from segjax.data.records import never_stop
from segjax.data.worlds import streets
from segjax.errors import InputError
from segjax.protocol import Input


def texture(size, seed=0):
    """Returns smooth random colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 4 + 1, size[1] // 4 + 1, 3)).astype(np.float64)
    fine = coarse.repeat(4, 0).repeat(4, 1)
    for axis in (0, 1, 0, 1):
        fine = (np.roll(fine, 1, axis) + fine + np.roll(fine, -1, axis)) / 3
    return fine[: size[0], : size[1]].astype(np.uint8)


@pytest.mark.parametrize('dy, dx', [(0, 3), (2, 0), (-3, 1), (4, -2)])
def test_a_moved_image_has_the_flow_of_the_motion(dy, dx):
    image = texture((64, 96))
    moved = np.roll(image, (dy, dx), axis=(0, 1))
    inner = flow.dense_flow(image, moved)[16:-16, 16:-16]
    np.testing.assert_allclose(inner.mean((0, 1)), (dx, dy), atol=0.05)
    assert np.abs(inner - (dx, dy)).max() < 0.5


def test_a_mirrored_scene_has_the_mirrored_flow():
    image = texture((64, 96))
    moved = np.roll(image, (1, 3), axis=(0, 1))
    value = flow.dense_flow(image, moved)
    mirrored = flow.dense_flow(image[:, ::-1], moved[:, ::-1])
    error = np.abs(mirrored[:, ::-1] * (-1, 1) - value)[16:-16, 16:-16]
    assert error.mean() < 0.05


@pytest.mark.parametrize('preset', flow.PRESETS)
def test_an_image_does_not_move_against_itself(preset):
    image = texture((40, 60))
    value = flow.dense_flow(image, image.copy(), preset)
    assert value.shape == (40, 60, 2) and value.dtype == np.float32 and not value.any()


def exact_flow(frame, neighbour):
    """Returns the flow [H, W, 2] of a still world, and the depth [H, W] in the neighbour."""
    height, width = frame['depth'].shape
    y, x = np.mgrid[:height, :width]
    rays = np.linalg.inv(frame['intrinsics']) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    points = rays * frame['depth'].reshape(1, -1)
    motion = np.linalg.inv(neighbour['pose']) @ frame['pose']
    seen = motion[:3, :3] @ points + motion[:3, 3:]
    projected = neighbour['intrinsics'] @ seen
    places = projected[:2] / projected[2]
    value = (places - np.stack([x, y]).reshape(2, -1)).T.reshape(height, width, 2)
    return value, seen[2].reshape(height, width)


def end_point_errors(frame, neighbour, value):
    """Returns (errors, lengths of the exact flow) of still pixels that the neighbour shows too."""
    exact, depth = exact_flow(frame, neighbour)
    height, width = depth.shape
    y, x = np.mgrid[:height, :width]
    column = np.rint(x + exact[..., 0]).astype(int)
    row = np.rint(y + exact[..., 1]).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    shown = neighbour['depth'][row.clip(0, height - 1), column.clip(0, width - 1)]
    is_still = (frame['depth'] > 0) & (depth > 0) & ~frame['moving'].astype(bool)
    kept = is_still & inside & (np.abs(shown - depth) < 0.05 * depth)
    assert kept.mean() > 0.5
    return np.linalg.norm(value - exact, axis=-1)[kept], np.linalg.norm(exact, axis=-1)[kept]


@pytest.mark.parametrize('seed, mean, median', [(0, 0.72, 0.37), (1, 1.6, 0.6)])
def test_the_error_against_the_exact_flow_of_streets(seed, mean, median):
    """End-point errors at 128 x 256: mean 0.7 px (seed 0) and 1.6 px (seed 1), median 0.4 and 0.6.

    The pixels move by 4 to 6 px on average, and by up to 24 px.
    """
    frames = [streets.frame(seed, 'train', 0, i, (128, 256)) for i in range(3)]
    for first, second in ((0, 1), (1, 0), (1, 2)):
        frame, neighbour = frames[first], frames[second]
        value = flow.dense_flow(frame['image'], neighbour['image'])
        errors, lengths = end_point_errors(frame, neighbour, value)
        assert errors.mean() < mean and np.median(errors) < median
        assert errors.mean() < 0.3 * lengths.mean() or seed == 1
        # The opposite direction and no flow at all are far worse.
        none, _ = end_point_errors(frame, neighbour, np.zeros_like(value))
        opposite, _ = end_point_errors(frame, neighbour, -value)
        assert errors.mean() < 0.45 * none.mean() and none.mean() < opposite.mean()


def test_the_derived_feature_is_the_flow_to_the_neighbour(tmp_path):
    config = layouts.data_config('streets', '', tmp_path)
    config.world.update(num_train=3, num_val=1, size=(32, 64))
    prepared = data.prepare(config)
    features = (flow.flow_to(1, name='flow_next', preset='fast'),)
    spec = derived.promised(prepared.spec, features)
    prepared = prepared._replace(spec=spec, derived=features)
    inputs = Input('train', 1, ('flow_next',), (32, 64))
    computation.make(prepared.store, [inputs], 1, never_stop)
    source = prepared.open_split('train', ('image', 'flow_next'))
    images = [source[i]['image'] for i in range(3)]
    for i, j in ((0, 1), (1, 2), (2, 2)):
        expected = flow.dense_flow(images[i], images[j], 'fast')
        np.testing.assert_array_equal(source[i]['flow_next'], expected)
    assert not source[2]['flow_next'].any() and source[1]['flow_next'].any()


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="did you mean 'medium'"):
        flow.flow_to(1, preset='mediun')


# --- both methods ---------------------------------------------------------------------------------

METHODS = flow.METHODS.items()
each_method = pytest.mark.parametrize('compute', flow.METHODS.values(), ids=flow.METHODS)


@each_method
@pytest.mark.parametrize('dy, dx', [(0, 3), (-3, 1), (4, -2)])
def test_both_methods_give_the_translation_of_a_texture(compute, dy, dx):
    image = texture((64, 96))
    moved = np.roll(image, (dy, dx), axis=(0, 1))
    inner = compute(image, moved)[16:-16, 16:-16]
    assert inner.dtype == np.float32
    np.testing.assert_allclose(inner.mean((0, 1)), (dx, dy), atol=0.05)
    assert np.abs(inner - (dx, dy)).max() < 0.5


@each_method
def test_identical_images_have_exactly_no_flow(compute):
    image = texture((40, 60))
    value = compute(image, image.copy())
    assert value.shape == (40, 60, 2) and value.dtype == np.float32 and not value.any()


@each_method
def test_images_without_any_texture_have_no_flow(compute):
    grey = np.full((48, 64, 3), 90, np.uint8)
    value = compute(grey, grey + np.uint8(1))
    assert value.shape == (48, 64, 2) and np.abs(value).max() < 0.1


def occluding_rectangle(seed, size=(144, 192)):
    """Renders a textured rectangle that moves over a textured background that moves too.

    Returns:
      Two images, the exact flow [H, W, 2], and the pixels of the rectangle [H, W].
    """
    rng = np.random.default_rng(seed)
    height, width = size
    ground = (0.6 * texture((height + 40, width + 40), seed) + 20).astype(np.uint8)
    top = (0.5 * texture((height // 3, width // 3), seed + 100) + 110).astype(np.uint8)
    motion = rng.integers(-3, 4, 2)  # (dy, dx)
    motion_of_top = motion + rng.choice([-1, 1], 2) * rng.integers(4, 9, 2)
    images = []
    for time in (0, 1):
        row, column = 20 - motion * time
        image = ground[row : row + height, column : column + width].copy()
        row, column = np.array(size) // 3 + motion_of_top * time
        image[row : row + height // 3, column : column + width // 3] = top
        images.append(image)
    is_top = np.zeros(size, bool)
    is_top[height // 3 : 2 * (height // 3), width // 3 : 2 * (width // 3)] = True
    exact = np.where(is_top[..., None], motion_of_top[::-1], motion[::-1])
    return *images, exact, is_top


def test_edge_aware_flow_is_sharper_at_the_border_of_an_occluding_rectangle():
    """Averages end-point errors within 8 pixels of the border: 1.9 and 1.1 pixels in 4 scenes."""
    window = np.ones((17, 17), np.uint8)
    errors = {name: [] for name in flow.METHODS}
    wrong = {name: [] for name in flow.METHODS}
    for seed in range(4):
        image, neighbour, exact, is_top = occluding_rectangle(seed)
        grown = cv2.dilate(is_top.astype(np.uint8), window)
        border = (grown > 0) & (cv2.erode(is_top.astype(np.uint8), window) == 0)
        for name, compute in METHODS:
            error = np.linalg.norm(compute(image, neighbour) - exact, axis=-1)
            errors[name].append(error[border].mean())
            wrong[name].append((error[border] > 3).mean())
            # Far from the border and from the sides, both are exact.
            far = ~border[16:-16, 16:-16]
            assert np.median(error[16:-16, 16:-16][far]) < 0.1
    assert np.mean(errors['edge_aware']) < 0.65 * np.mean(errors['dis'])
    assert np.mean(wrong['edge_aware']) < 0.55 * np.mean(wrong['dis'])


def test_edge_aware_flow_has_the_smaller_error_on_streets():
    """Compares end-point errors of the two methods on two pairs of frames of two worlds."""
    means = {name: [] for name in flow.METHODS}
    for seed in (0, 1):
        frame, neighbour = (streets.frame(seed, 'train', 0, i, (128, 256)) for i in range(2))
        for name, compute in METHODS:
            value = compute(frame['image'], neighbour['image'])
            errors, _ = end_point_errors(frame, neighbour, value)
            means[name].append(np.median(errors))
    assert np.mean(means['edge_aware']) < np.mean(means['dis'])


@each_method
def test_the_result_does_not_depend_on_repetitions_or_threads(compute):
    image, neighbour, *_ = occluding_rectangle(0)
    threads = cv2.getNumThreads()
    values = []
    try:
        for count in (1, 1, 2, 4):
            cv2.setNumThreads(count)
            values.append(compute(image, neighbour))
    finally:
        cv2.setNumThreads(threads)
    for value in values[1:]:
        np.testing.assert_array_equal(value, values[0])


@pytest.mark.parametrize('size', [(16, 16), (17, 40), (20, 24), (33, 65)])
def test_few_matches_do_no_harm(size):
    """OpenCV crashes if it has fewer matches than neighbours. Unrelated images have few matches."""
    image = texture(size)
    for neighbour in (np.roll(image, 1, axis=1), texture(size, seed=1), image[::-1, ::-1]):
        value = flow.edge_aware_flow(image, np.ascontiguousarray(neighbour))
        assert value.shape == (*size, 2) and np.isfinite(value).all()


def test_large_images_have_no_more_matches_than_opencv_can_number():
    shape = (1024, 2048)
    still = np.zeros((*shape, 2), np.float32)
    starts, ends = flow._matches(still, still)
    assert 0.8 * flow.MAX_MATCHES < len(starts) <= flow.MAX_MATCHES
    np.testing.assert_array_equal(starts, ends)
    assert starts.min() >= 0 and starts[:, 0].max() < 2048 and starts[:, 1].max() < 1024
    # They cover the image evenly.
    counts, _, _ = np.histogram2d(starts[:, 1], starts[:, 0], bins=4)
    assert counts.min() > 0.95 * counts.max()


def test_equal_motions_of_all_matches_are_kept():
    """OpenCV alone would interpolate exactly equal motions to no motion."""
    image = texture((48, 64))
    y, x = np.mgrid[2:48:4, 2:64:4]
    starts = np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)
    value = flow._interpolated(image, image, starts, starts + np.float32([5, -2]))
    np.testing.assert_allclose(value, np.broadcast_to([5, -2], value.shape), atol=0.05)


def test_the_round_trip():
    forward = np.zeros((20, 30, 2), np.float32)
    forward[...] = (3, 1)
    distance = flow.round_trip(forward, -forward)
    assert not distance[:19, :27].any()
    assert np.isinf(distance[19]).all() and np.isinf(distance[:, 27:]).all()
    backward = -forward
    backward[5, 13] += (0.6, 0.8)
    distance = flow.round_trip(forward, backward)
    assert distance[4, 10] == pytest.approx(1) and np.count_nonzero(distance[:19, :27]) == 1


# --- the derived feature --------------------------------------------------------------------------


def test_the_recipe_of_dense_inverse_search_is_unchanged():
    """Stored values of runs from before the second method stay valid."""
    feature = flow.flow_to(1)
    assert derived.recipes([feature]) == {'flow': '8952c374611658ff'}


def test_recipes_differ_between_methods_presets_and_offsets():
    features = [
        flow.flow_to(offset, method=method, preset=preset)
        for offset in (1, -1)
        for method in flow.METHODS
        for preset in flow.PRESETS
    ]
    recipes = {derived.recipes([feature])['flow'] for feature in features}
    assert len(recipes) == len(features)
    settings = flow.flow_to(1, method='edge_aware').settings
    assert set(flow.EDGE_AWARE._asdict()) < set(settings)


def test_edge_aware_flow_in_worker_processes_is_that_of_this_process(tmp_path):
    config = layouts.data_config('streets', '', tmp_path)
    config.world.update(num_train=3, num_val=1, size=(32, 64))
    prepared = data.prepare(config)
    features = (flow.flow_to(-1, 'flow_previous', 'edge_aware'),)
    spec = derived.promised(prepared.spec, features)
    prepared = prepared._replace(spec=spec, derived=features)
    inputs = Input('train', 1, ('flow_previous',), (32, 64))
    computation.make(prepared.store, [inputs], 1, never_stop)
    source = prepared.open_split('train', ('image', 'flow_previous'))
    examples = [source[i] for i in range(3)]
    for i, j in ((0, 0), (1, 0), (2, 1)):
        expected = flow.edge_aware_flow(examples[i]['image'], examples[j]['image'])
        np.testing.assert_array_equal(examples[i]['flow_previous'], expected)
    assert examples[1]['flow_previous'].any() and not examples[0]['flow_previous'].any()


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="did you mean 'edge_aware'"):
        flow.flow_to(1, method='edge_awre')
