"""Optical flow: against images that were moved, and against the exact flow of `streets`."""

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
