"""HHA of depth: exact planes, rooms under a turned camera, an independent fit, and real files."""

import cv2
import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import computation, derived, hha, transforms
from segjax.data.records import never_stop
from segjax.errors import InputError
from segjax.protocol import Input

SIZE = (60, 80)
CAMERA = np.array([[60.0, 0, 38.5], [0, 62.0, 31.0], [0, 0, 1]])
FLOOR, WALL, CEILING = 38, 128, 218
ROOM = (
    ((0, 1, 0), 1.4, FLOOR),
    ((0, -1, 0), 1.2, CEILING),
    ((1, 0, 0), 2.0, WALL),
    ((-1, 0, 0), 1.7, WALL),
    ((0, 0, 1), 3.1, WALL),
    ((0, 0, -1), 2.5, WALL),
)
"""Planes n . X = distance around a level camera: outward normal, metres, angle channel."""
TURNS = [(0, 0), (25, 0), (-20, 0), (0, 30), (15, -12), (35, 20)]
"""Pitch down and roll of the camera, in degrees."""


def turn(pitch, roll):
    """Returns the rotation from a level camera to a camera that is pitched, then rolled."""
    pitch, roll = np.deg2rad([pitch, roll])
    c, s = np.cos(pitch), np.sin(pitch)
    down = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(roll), np.sin(roll)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ down


def rays(size=SIZE, camera=CAMERA):
    """Returns the points [H, W, 3] of the pixels at depth 1."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([x, y, np.ones(size)], axis=-1) @ np.linalg.inv(camera).T


def room(rotation, planes=ROOM, size=SIZE, camera=CAMERA):
    """Returns the depth [H, W] of the first plane that each ray meets, and the number of it."""
    normals = np.array([normal for normal, _, _ in planes]) @ rotation.T
    distances = np.array([distance for _, distance, _ in planes])
    approach = rays(size, camera) @ normals.T
    depth = np.where(approach > 1e-9, distances / np.maximum(approach, 1e-9), np.inf)
    return depth.min(axis=-1), depth.argmin(axis=-1)


def inner(plane, radius):
    """Returns the pixels whose window shows a single plane."""
    window = np.ones((2 * radius + 1,) * 2, np.uint8)
    plane = plane.astype(np.uint8)
    return cv2.erode(plane, window) == cv2.dilate(plane, window)


def noisy_depth(size=(24, 31), holes=0.0, seed=0):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 4, size).astype(np.float32)
    depth[rng.random(size) < holes] = 0
    return depth


# --- normals --------------------------------------------------------------------------------------


@pytest.mark.parametrize('radius', [1, 3, 10])
@pytest.mark.parametrize('normal', [(0, 1, 0), (0.2, 0.1, 0.9), (-0.7, 0.6, 0.4), (0, 0, 1)])
def test_the_normal_of_a_plane_is_exact_up_to_the_border(normal, radius):
    """The image shows a plane that passes the camera up to its horizon."""
    normal = np.array(normal) / np.linalg.norm(normal)
    approach = rays() @ normal
    depth = np.where(approach > 0.05, 1.3 / np.maximum(approach, 0.05), 0)
    surface = hha.normals(depth, CAMERA, radius)
    assert surface.shape == (*SIZE, 3) and surface.dtype == np.float64
    known = surface.any(axis=-1)
    assert known[depth > 0].all()
    ahead = known & (approach > 0)
    np.testing.assert_allclose(
        surface[ahead], np.broadcast_to(-normal, surface[ahead].shape), atol=1e-8
    )


@pytest.mark.parametrize('radius', [1, 2, 4])
@pytest.mark.parametrize('holes', [0.0, 0.5, 0.9])
def test_normals_are_those_of_a_weighted_fit_to_each_window(radius, holes):
    """Solves each window with numpy.linalg.lstsq: the rows are X / Z, the right side is 1 / Z."""
    depth = noisy_depth(holes=holes)
    surface = hha.normals(depth, CAMERA, radius)
    directions = rays(depth.shape)
    for row, column in np.ndindex(*depth.shape):
        window = (
            slice(max(row - radius, 0), row + radius + 1),
            slice(max(column - radius, 0), column + radius + 1),
        )
        measured = depth[window] > 0
        equations = directions[window][measured]
        inverse = 1 / depth[window][measured].astype(np.float64)
        if np.linalg.matrix_rank(equations) < 3:
            assert not surface[row, column].any()
            continue
        plane = np.linalg.lstsq(equations, inverse, rcond=None)[0]
        plane *= -np.sign(plane @ directions[row, column]) / np.linalg.norm(plane)
        np.testing.assert_allclose(surface[row, column], plane, atol=1e-6)
    assert surface.any(axis=-1).mean() > (0.02 if holes == 0.9 else 0.8)


def test_points_on_a_line_have_no_normal():
    depth = np.zeros((9, 9), np.float32)
    np.fill_diagonal(depth, 2)
    assert not hha.normals(depth, CAMERA, 2).any()
    depth[4, 5] = 2
    surface = hha.normals(depth, CAMERA, 2)
    assert surface[4, 4].any() and not surface[0, 0].any()


# --- gravity --------------------------------------------------------------------------------------


@pytest.mark.parametrize('pitch, roll', TURNS)
def test_gravity_of_a_room_is_that_of_the_turned_camera(pitch, roll):
    rotation = turn(pitch, roll)
    depth, _ = room(rotation)
    gravity = hha.gravity_direction(hha.normals(depth, CAMERA, 3))
    angle = np.rad2deg(np.arccos(np.clip(gravity @ rotation[:, 1], -1, 1)))
    assert angle < 0.5 and np.linalg.norm(gravity) == pytest.approx(1)


@pytest.mark.parametrize('pitch, roll', TURNS)
def test_gravity_of_exact_normals_is_exact(pitch, roll):
    """The floor alone gives gravity, and so do three walls whose normals span a plane."""
    rotation = turn(pitch, roll)
    floor = np.broadcast_to(-rotation[:, 1], (5, 4, 3))
    walls = np.array([(1, 0, 0), (0, 0, 1), (-0.6, 0, 0.8)]) @ rotation.T
    for surface in (floor, walls, np.concatenate([floor.reshape(-1, 3), walls])):
        np.testing.assert_allclose(hha.gravity_direction(surface), rotation[:, 1], atol=1e-7)
        # Neither the signs of normals nor unknown normals matter.
        changed = np.concatenate([-surface.reshape(-1, 3), np.zeros((7, 3))])
        np.testing.assert_allclose(hha.gravity_direction(changed), rotation[:, 1], atol=1e-7)


@pytest.mark.parametrize('degrees', [-30, 0, 20])
def test_a_single_upright_wall_leaves_the_camera_level(degrees):
    angle = np.deg2rad(degrees)
    wall = np.tile([np.sin(angle), 0, np.cos(angle)], (50, 1))
    np.testing.assert_allclose(hha.gravity_direction(wall), hha.DOWN, atol=1e-12)


def test_without_floors_and_walls_the_camera_is_level():
    tilted = np.tile([0, np.sqrt(0.5), np.sqrt(0.5)], (50, 1))
    for surface in (tilted, np.zeros((6, 3)), np.zeros((0, 3))):
        np.testing.assert_array_equal(hha.gravity_direction(surface), hha.DOWN)


# --- HHA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('pitch, roll', TURNS)
def test_a_room_has_the_exact_channels_of_its_planes(pitch, roll):
    """Heights differ by the rounding to 1 cm, and by the small tilt of the estimate."""
    size = (120, 160)
    camera = np.diag([2, 2, 1]) @ CAMERA
    rotation = turn(pitch, roll)
    depth, plane = room(rotation, size=size, camera=camera)
    value = hha.hha(depth.astype(np.float32), camera.astype(np.float32))
    assert value.shape == (*size, 3) and value.dtype == np.uint8

    disparity = np.minimum(np.rint(31000 / np.maximum(100 * depth, 100)), 255)
    assert np.abs(value[..., 0] - disparity).max() <= 1

    points = rays(size, camera) * depth[..., None]
    below = 100 * points @ rotation[:, 1]
    lowest = below.max() if below.max() > 90 else 130
    height = np.clip(lowest - below, 0, 255)
    assert np.abs(value[..., 1] - height).max() < 2

    angles = np.array([angle for _, _, angle in ROOM])[plane]
    kept = inner(plane, hha.ANGLE_RADIUS)
    assert kept.mean() > 0.5
    assert np.abs(value[..., 2].astype(int) - angles)[kept].max() <= 1


def test_the_floor_before_a_pitched_camera_has_height_0_and_angle_38():
    rotation = turn(30, 0)
    depth, _ = room(rotation, (((0, 1, 0), 1.5, FLOOR), ((0, 0, 1), 50.0, WALL)))
    depth[depth > 8] = 0
    value = hha.hha(depth, CAMERA)[depth > 0]
    assert len(value) > 1000
    np.testing.assert_array_equal(value[:, 1], 0)
    np.testing.assert_array_equal(value[:, 2], FLOOR)


@pytest.mark.parametrize('degrees', [0, 25])
def test_a_wall_without_floor_is_placed_before_a_camera_at_130_cm(degrees):
    angle = np.deg2rad(degrees)
    depth = 2.0 / (rays() @ [np.sin(angle), 0, np.cos(angle)])
    value = hha.hha(depth[15:45], transforms.translation_matrix(0, -15) @ CAMERA)
    y = (rays() * depth[..., None])[15:45, :, 1]
    np.testing.assert_allclose(value[..., 1], 130 - 100 * y, atol=0.51)
    np.testing.assert_array_equal(value[..., 2], WALL)


@pytest.mark.parametrize(
    'metres, disparity', [(0.3, 255), (1.0, 255), (1.24, 250), (2.0, 155), (8.0, 39), (15.5, 20)]
)
def test_the_disparity_channel(metres, disparity):
    value = hha.hha(np.full(SIZE, metres, np.float32), CAMERA)
    np.testing.assert_array_equal(value[..., 0], disparity)


def test_unmeasured_pixels():
    """They have the angle of their window, 218 without one, and no disparity and height."""
    depth, _ = room(turn(15, 0))
    whole = hha.hha(depth, CAMERA)
    holed = depth.copy()
    holed[20:45, 30:60] = 0
    value = hha.hha(holed, CAMERA)
    hole = holed == 0
    assert not value[hole][:, :2].any()
    far = inner(hole, hha.ANGLE_RADIUS) & hole
    np.testing.assert_array_equal(value[far][:, 2], CEILING)
    # Two lines of measured pixels in a window give a normal.
    near = ~inner(hole, hha.ANGLE_RADIUS - 1) & hole
    known = (whole[..., 2] < CEILING) & (value[..., 2] < CEILING)
    assert near.sum() > 200 and known[near].mean() > 0.95
    # Pixels whose window has no hole keep their value, but for the estimate of gravity.
    far_from_hole = inner(hole, hha.ANGLE_RADIUS) & ~hole
    assert np.abs(value.astype(int) - whole)[far_from_hole].max() <= 3
    np.testing.assert_array_equal(value[~hole][:, 0], whole[~hole][:, 0])


@pytest.mark.parametrize('pitch, roll', [(20, 0), (15, -12)])
def test_a_flip_of_the_scene_flips_the_feature(pitch, roll):
    depth, _ = room(turn(pitch, roll))
    example = {
        'depth': depth.astype(np.float32),
        'intrinsics': CAMERA.astype(np.float32),
    }
    example['planes_hha'] = hha.example_hha(example)
    declared = {'planes_hha': hha.hha_feature().feature}
    matrix = transforms.flip_matrix(SIZE[1])
    moved = transforms.apply_geometry(example, matrix, SIZE, declared)
    assert (moved['planes_hha'] != example['planes_hha']).mean() > 0.1
    difference = np.abs(hha.example_hha(moved).astype(int) - moved['planes_hha'])
    assert difference.max() <= 1 and difference.mean() < 0.01


def test_the_result_depends_on_no_number_of_threads_and_changes_no_input():
    depth = noisy_depth((120, 160), holes=0.1)
    before = depth.copy()
    threads = cv2.getNumThreads()
    try:
        values = []
        for count in (1, 4, 1):
            cv2.setNumThreads(count)
            values.append(hha.hha(depth, CAMERA))
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])
    np.testing.assert_array_equal(depth, before)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (5, 4)])
def test_maps_smaller_than_a_window(size):
    value = hha.hha(np.full(size, 2.0, np.float32), CAMERA)
    assert value.shape == (*size, 3) and (value[..., 0] == 155).all()


# --- the derived feature --------------------------------------------------------------------------


@pytest.mark.parametrize(
    'depth, got',
    [
        (np.zeros(SIZE), 'no measured pixel'),
        (np.full(SIZE, 2500.0), 'a median of 2500'),
        (np.full(SIZE, 0.0025), 'a median of 0.0025'),
    ],
)
def test_depth_without_a_measurement_or_in_a_wrong_unit_is_refused(depth, got):
    with pytest.raises(InputError, match=got) as error:
        hha.hha(depth, CAMERA)
    assert 'metres' in error.value.expected and error.value.fix


def hha_of_millimetres(example):
    """Returns HHA of depth in a wrong unit."""
    return hha.hha(1000 * example['depth'], example['intrinsics'])


def prepared_streets(folder, feature):
    config = layouts.data_config('streets', '', folder)
    config.world.update(num_train=2, num_val=1, size=(32, 64))
    prepared = data.prepare(config)
    spec = derived.promised(prepared.spec, (feature,))
    return prepared._replace(spec=spec, derived=(feature,))


def test_the_derived_feature_is_that_of_the_example(tmp_path):
    prepared = prepared_streets(tmp_path, hha.hha_feature())
    inputs = Input('train', 1, ('planes_hha',), (32, 64))
    computation.make(prepared.store, [inputs], 1, never_stop)
    source = prepared.open_split('train', ('depth', 'intrinsics', 'planes_hha'))
    for i in range(2):
        example = source[i]
        expected = hha.hha(example['depth'], example['intrinsics'])
        np.testing.assert_array_equal(example['planes_hha'], expected)
        assert example['planes_hha'].dtype == np.uint8


def test_an_error_names_the_example(tmp_path):
    feature = hha.hha_feature()._replace(compute=hha_of_millimetres)
    prepared = prepared_streets(tmp_path, feature)
    inputs = Input('train', 1, ('planes_hha',), (32, 64))
    with pytest.raises(InputError, match='a median of') as error:
        computation.make(prepared.store, [inputs], 1, never_stop)
    name = prepared.open_split('train', ('name',))[0]['name']
    assert 'planes_hha' in error.value.where and f'example {name}: depth' in error.value.where


# --- real depth -----------------------------------------------------------------------------------


def test_hha_of_nyudv2_equals_the_published_files(real_data):
    """The published encoder used the depth camera, moved by a crop of (40, 45), from pixel 1."""
    folder = real_data / 'nyu_clip' / 'dining_room_0036'
    if not folder.exists():
        pytest.skip('no NYUDv2')
    camera = np.array([[582.62448, 0, 272.04476], [0, 582.69103, 192.4439], [0, 0, 1]])
    depth = cv2.imread(str(folder / 'depth' / '02077.png'), cv2.IMREAD_UNCHANGED) / 6553.5
    published = cv2.imread(str(folder / 'hha' / '02077.png'))[..., ::-1]
    difference = np.abs(hha.hha(depth, camera).astype(int) - published)
    assert difference.max() <= 1 and difference.mean() < 1e-3
