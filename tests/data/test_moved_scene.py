"""Moved features against the features of the moved scene, in the world `streets`.

Each test moves the features of a frame by a matrix, and computes the same features anew: from the
known geometry of the world and the moved cameras K' = A K Q^T and T' = D T Q^T.
"""

import itertools

import cv2
import ml_collections
import numpy as np
import pytest

from segjax.data import kinds, transforms
from segjax.data.worlds import render, streets
from segjax.schema import AUGMENT
from segjax.spec import Feature

SIZE = (96, 128)
SEED = 2  # a clip in which nothing moves but the camera
NEAR_ENOUGH = 60.0  # metres: float32 cameras shift farther points by fractions of a pixel
DECLARED = {
    'hha': Feature('planes', (3,)),
    'heat': Feature('planes', (6,), dtype='float32'),
    'plane': Feature('planes', (1,)),
    'eyes': Feature('points', (2, 2), ((0, 1),)),
    'landmarks': Feature('points', (40, 2)),
    'boxes': Feature('boxes', (30, 4)),
    'number': Feature('number', (3, 3)),
}


def flip(size):
    return transforms.flip_matrix(size[1])


def quarter_turn(degrees):
    """Returns the rotation by 90 or 270 degrees of `SIZE` into the transposed size."""
    turn = np.round(transforms.rotation_matrix(degrees, SIZE)[:2, :2])
    corners = turn @ [[0, SIZE[1] - 1], [0, SIZE[0] - 1]]
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = -corners.min(axis=1)
    return matrix


TURNED = SIZE[::-1]
WHOLE_PIXELS = {
    'identity': (np.eye(3), SIZE),
    'shift': (transforms.translation_matrix(-7, 12), SIZE),
    'flip': (flip(SIZE), SIZE),
    'flip and shift': (transforms.translation_matrix(9, -4) @ flip(SIZE), (80, 100)),
    'quarter turn': (quarter_turn(90), TURNED),
    'half turn': (transforms.rotation_matrix(180, SIZE), SIZE),
    'flip after a quarter turn': (flip(TURNED) @ quarter_turn(270), TURNED),
}
"""Matrices that move every pixel centre onto a pixel centre, with the size of the result."""

ANY = {
    **WHOLE_PIXELS,
    'double': (transforms.scale_matrix(2, 2), (192, 256)),
    'triple, flipped': (flip((288, 384)) @ transforms.scale_matrix(3, 3), (288, 384)),
    'turn': (transforms.rotation_matrix(17, SIZE), SIZE),
    'turn, shrink, flip': (
        flip(SIZE) @ transforms.rotation_matrix(-38, SIZE) @ transforms.scale_matrix(0.8, 0.8),
        SIZE,
    ),
}


def parts(of):
    return pytest.mark.parametrize(('matrix', 'size'), of.values(), ids=of.keys())


def is_flip(matrix):
    return np.linalg.det(matrix[:2, :2]) < 0


# --- the scene, and the moved scene ---------------------------------------------------------------


def scene(index):
    """Returns (quads, ellipsoids, K, T) of a frame."""
    clip = streets._clip(0, 'train', SEED).scene
    return *streets._at(clip.shape, 3), *streets.camera(clip, index, SIZE)


def mirrored(quads, ellipsoids):
    """Returns the scene behind a mirror at x = 0."""
    quads = quads.copy()
    ellipsoids = ellipsoids.copy()
    quads['closed'] = False  # hidden sides of a solid are farther away than its visible sides
    for part, names in ((quads, ('origin', 'edge_s', 'edge_t')), (ellipsoids, ('centre',))):
        for name in names:
            part[name][:, 0] *= -1
    ellipsoids['heading'] *= -1
    return quads, ellipsoids


def moved_cameras(matrix):
    """Returns (K', T', T'_next) of the moved cameras, from the definition of Q in float64."""
    _, _, intrinsics, pose = scene(3)
    _, _, _, pose_next = scene(4)
    # The linear part of A is an upper triangle times an orthogonal matrix.
    order = np.eye(2)[::-1]
    orthogonal, upper = np.linalg.qr((order @ matrix[:2, :2]).T)
    triangle, turn = (order @ upper.T @ order), (order @ orthogonal.T)
    signs = np.diag(np.sign(np.diag(triangle)))
    q = np.eye(4)
    q[:2, :2] = signs @ turn
    d = np.diag([-1.0 if is_flip(matrix) else 1.0, 1, 1, 1])
    return matrix @ intrinsics @ q[:3, :3].T, d @ pose @ q.T, d @ pose_next @ q.T


def depth_of(quads, ellipsoids, intrinsics, pose, size):
    """Returns the depth [H, W] of a rendered scene, 0 for the sky."""
    inverse = render.visibility(quads, ellipsoids, intrinsics, pose, size).inverse_depth
    return np.where(inverse > 1e-3, 1 / np.maximum(inverse, 1e-3), 0.0)


def back_projected(depth, intrinsics):
    """Returns the points of the camera [H, W, 3]."""
    y, x = np.mgrid[: depth.shape[0], : depth.shape[1]]
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(intrinsics).T
    return rays * depth[..., None]


def projected(points, intrinsics, pose):
    """Returns the pixels [..., 2] and the depth [...] of world points [..., 3]."""
    seen = (points - pose[:3, 3]) @ pose[:3, :3]
    pixels = seen @ intrinsics.T
    with np.errstate(divide='ignore', invalid='ignore'):
        return pixels[..., :2] / pixels[..., 2:], seen[..., 2]


def world_points(depth, intrinsics, pose):
    return back_projected(depth, intrinsics) @ pose[:3, :3].T + pose[:3, 3]


def flow_of(depth, intrinsics, pose, pose_next):
    """Returns the motion of static pixels [H, W, 2] to the next frame, NaN without depth."""
    ahead, distance = projected(world_points(depth, intrinsics, pose), intrinsics, pose_next)
    y, x = np.mgrid[: depth.shape[0], : depth.shape[1]]
    valid = (depth > 0) & (distance > 1)
    return np.where(valid[..., None], ahead - np.stack([x, y], axis=-1), np.nan)


def normals_of(depth, intrinsics):
    """Returns unit normals [H, W, 3] towards the camera, from central differences of the points."""
    points = back_projected(depth, intrinsics)
    across = np.zeros_like(points)
    down = np.zeros_like(points)
    across[:, 1:-1] = points[:, 2:] - points[:, :-2]
    down[1:-1] = points[2:] - points[:-2]
    normals = np.cross(across, down)
    normals *= -np.sign((normals * points).sum(-1, keepdims=True))
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    measured = (length > 0) & (depth > 0)[..., None]
    return np.where(measured, normals / np.where(length > 0, length, 1), 0)


def example():
    """Returns the maps of a frame, and for every pixel its number from 1."""
    quads, ellipsoids, intrinsics, pose = scene(3)
    pose_next = scene(4)[3]
    depth = depth_of(quads, ellipsoids, intrinsics, pose, SIZE)
    return {
        'ids': np.arange(1, 1 + SIZE[0] * SIZE[1], dtype=np.int32).reshape(SIZE),
        'depth': depth.astype(np.float32),
        'flow': flow_of(depth, intrinsics, pose, pose_next).astype(np.float32),
        'normals': normals_of(depth, intrinsics).astype(np.float32),
        'intrinsics': intrinsics.astype(np.float32),
        'pose': pose.astype(np.float32),
        'pose_frames': pose_next.astype(np.float32)[None],
    }


def moved_scene(matrix):
    """Returns (quads, ellipsoids) of the world that the moved camera sees."""
    quads, ellipsoids, _, _ = scene(3)
    return mirrored(quads, ellipsoids) if is_flip(matrix) else (quads, ellipsoids)


def far_from(ids):
    """Returns the mask of pixels whose number lies inside of the input."""
    row, column = np.divmod(ids - 1, SIZE[1])
    border = (row < 2) | (column < 2) | (row >= SIZE[0] - 2) | (column >= SIZE[1] - 2)
    return (ids > 0) & ~border


# --- maps -----------------------------------------------------------------------------------------


@parts(ANY)
def test_the_moved_cameras_are_those_of_the_definition(matrix, size):
    moved = transforms.apply_geometry(example(), matrix, size)
    intrinsics, pose, pose_next = moved_cameras(matrix)
    np.testing.assert_allclose(moved['intrinsics'], intrinsics, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(moved['pose'], pose, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moved['pose_frames'][0], pose_next, rtol=1e-5, atol=1e-5)


@parts(ANY)
def test_flow_is_the_motion_of_known_points_in_the_moved_cameras(matrix, size):
    """Follows the world point of every moved pixel from the moved camera to the next."""
    before = example()
    moved = transforms.apply_geometry(before, matrix, size)
    intrinsics, pose, pose_next = moved_cameras(matrix)
    _, _, old_intrinsics, old_pose = scene(3)
    quads, ellipsoids, _, _ = scene(3)
    depth = depth_of(quads, ellipsoids, old_intrinsics, old_pose, SIZE)
    points = world_points(depth, old_intrinsics, old_pose)
    if is_flip(matrix):
        points = points * [-1, 1, 1]
    here, _ = projected(points, intrinsics, pose)
    there, _ = projected(points, intrinsics, pose_next)
    expected = (there - here).reshape(-1, 2)

    inside = moved['ids'] > 0
    flow = moved['flow'][inside]
    source = moved['ids'][inside] - 1
    known = ~np.isnan(flow[:, 0])
    assert known.mean() > 0.5 and np.abs(flow[known]).max() > 2
    np.testing.assert_allclose(flow[known], expected[source][known], rtol=1e-4, atol=1e-3)
    assert np.isnan(moved['flow'][~inside]).all()
    np.testing.assert_array_equal(known, ~np.isnan(before['flow'].reshape(-1, 2)[source, 0]))


@parts(WHOLE_PIXELS)
def test_flow_is_that_of_the_rendered_moved_scene(matrix, size):
    """Computes flow from the depth that the moved camera sees, and the moved motion."""
    moved = transforms.apply_geometry(example(), matrix, size)
    intrinsics, pose, pose_next = moved_cameras(matrix)
    depth = depth_of(*moved_scene(matrix), intrinsics, pose, size)
    expected = flow_of(depth, intrinsics, pose, pose_next)
    both = ~np.isnan(moved['flow'][..., 0]) & ~np.isnan(expected[..., 0])
    assert both.sum() > 0.5 * (moved['ids'] > 0).sum()
    close = np.abs(moved['flow'][both] - expected[both]).max(-1) < 0.01
    assert close.mean() > 0.99


@parts(ANY)
def test_normals_are_those_of_the_rendered_moved_scene(matrix, size):
    """Computes normals from the depth that the moved camera sees. Edges of surfaces may differ."""
    moved = transforms.apply_geometry(example(), matrix, size)
    intrinsics, pose, _ = moved_cameras(matrix)
    depth = depth_of(*moved_scene(matrix), intrinsics, pose, size)
    expected = normals_of(depth, intrinsics)
    inner = far_from(moved['ids']) & (expected != 0).any(-1) & (moved['normals'] != 0).any(-1)
    inner &= (depth < NEAR_ENOUGH) & (moved['depth'] < NEAR_ENOUGH)
    inner[[0, -1]] = False
    inner[:, [0, -1]] = False
    assert inner.sum() > 0.4 * (moved['ids'] > 0).sum()
    cosine = (moved['normals'] * expected).sum(-1)[inner]
    whole = any(matrix is exact for exact, _ in WHOLE_PIXELS.values())
    assert (cosine > 0.999).mean() > (0.99 if whole else 0.8)
    # Facades to the left and to the right of the street face each other, so that a wrong sign
    # of a component would be noticed.
    assert np.abs(expected[inner]).mean(0).min() > 0.02
    lengths = np.linalg.norm(moved['normals'], axis=-1)
    np.testing.assert_allclose(lengths[lengths > 0], 1, atol=1e-5)
    assert not moved['normals'][moved['ids'] == 0].any()


@parts(ANY)
def test_every_map_reads_the_same_pixel(matrix, size):
    """Compares with a look-up by the number of the pixel, for all types and channels."""
    rng = np.random.default_rng(0)
    before = {
        'ids': example()['ids'],
        'label': rng.integers(0, 19, SIZE, dtype=np.uint8),
        'instance': rng.integers(1, 2**16, SIZE, dtype=np.uint16),
        'depth': rng.random(SIZE, dtype=np.float32),
        'flow': rng.normal(size=(*SIZE, 2)).astype(np.float32),
        'normals': rng.normal(size=(*SIZE, 3)).astype(np.float32),
    }
    moved = transforms.apply_geometry(before, matrix, size)
    inside = moved['ids'] > 0
    source = moved['ids'][inside] - 1
    turn, _ = transforms.camera_turn(matrix)
    vectors = {'flow': matrix[:2, :2], 'normals': turn[:3, :3]}
    for key in ('label', 'instance', 'depth', 'flow', 'normals'):
        kind = kinds.kind_of(key)
        values = before[key].reshape(-1, *before[key].shape[2:])[source]
        if key in vectors:
            values = values @ vectors[key].T
        np.testing.assert_allclose(moved[key][inside], values, rtol=1e-5, atol=1e-6, err_msg=key)
        outside = moved[key][~inside]
        np.testing.assert_array_equal(outside, np.full_like(outside, kind.fill), err_msg=key)
        assert moved[key].dtype == before[key].dtype


@parts({**ANY, 'small': (transforms.scale_matrix(0.3, 0.3), (30, 40))})
def test_planes_are_interpolated_like_images(matrix, size):
    image = streets.frame(0, 'train', SEED, 3, SIZE)['image']
    heat = np.concatenate([image, 255 - image], axis=-1).astype(np.float32)
    before = {'image': image, 'hha': image, 'plane': image[..., :1], 'heat': heat}
    moved = transforms.apply_geometry(before, matrix, size, DECLARED)
    np.testing.assert_array_equal(moved['hha'], moved['image'])
    np.testing.assert_array_equal(moved['plane'], moved['image'][..., :1])
    # Floats are not rounded, and the fourth to the sixth channel are those of the negative.
    assert np.abs(moved['heat'][..., :3] - moved['image']).max() < 1
    assert moved['heat'].dtype == np.float32
    inside = moved['heat'].any(-1, keepdims=True)
    np.testing.assert_allclose(
        moved['heat'][..., 3:], np.where(inside, 255 - moved['heat'][..., :3], 0), atol=1e-2
    )


@parts(ANY)
def test_heat_maps_keep_their_peaks_at_the_points(matrix, size):
    points = np.array([[40.0, 30.0], [90.0, 61.0], [64.0, 48.0], [20, 70], [100, 20], [70, 80]])
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = (x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2
    before = {
        'heat': np.exp(-distance / 50).astype(np.float32),
        'landmarks': points.astype(np.float32),
    }
    declared = {**DECLARED, 'landmarks': Feature('points', (6, 2))}
    moved = transforms.apply_geometry(before, matrix, size, declared)
    peaks = moved['heat'].reshape(-1, 6).argmax(0)
    rows, columns = np.divmod(peaks, size[1])
    places = moved['landmarks']
    inside = ((places > 2) & (places < np.array(size[::-1]) - 3)).all(-1)
    assert inside.sum() > 2
    difference = np.abs(np.stack([columns, rows], axis=-1) - places)[inside]
    assert difference.max() < 1.01 * max(1, abs(np.linalg.det(matrix[:2, :2])) ** 0.5)


# --- places ---------------------------------------------------------------------------------------


@parts(ANY)
def test_points_are_projections_by_the_moved_camera(matrix, size):
    _, _, intrinsics, pose = scene(3)
    rng = np.random.default_rng(0)
    distance = rng.uniform(3, NEAR_ENOUGH, (40, 1))
    seen = np.concatenate([rng.uniform(-0.4, 0.4, (40, 2)), np.ones((40, 1))], axis=1) * distance
    points = seen @ pose[:3, :3].T + pose[:3, 3]
    before, _ = projected(points, intrinsics, pose)
    before[7] = np.nan
    moved = transforms.apply_geometry(
        {'landmarks': before.astype(np.float32)}, matrix, size, DECLARED
    )['landmarks']
    mirror = [-1, 1, 1] if is_flip(matrix) else [1, 1, 1]
    new_intrinsics, new_pose, _ = moved_cameras(matrix)
    expected, _ = projected(points * mirror, new_intrinsics, new_pose)
    expected[7] = np.nan
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-3)
    assert moved.dtype == np.float32


@parts(WHOLE_PIXELS)
def test_left_and_right_swap_where_the_image_is_mirrored(matrix, size):
    """Names the ends of the ellipsoids of the moved scene by the side of their own camera.

    The left end of a thing is the end to the left of its middle, for a camera that stands upright.
    """
    _, _, intrinsics, pose = scene(3)
    centre = pose[:3, 3] + pose[:3, :3] @ [0.5, 0.2, 9.0]
    side = pose[:3, 0]
    ends = np.stack([centre - side, centre + side])
    before, _ = projected(ends, intrinsics, pose)
    moved = transforms.apply_geometry({'eyes': before.astype(np.float32)}, matrix, size, DECLARED)

    # In the mirrored world, the end that was on the right is the left end of the thing.
    new_intrinsics, new_pose, _ = moved_cameras(matrix)
    if is_flip(matrix):
        ends = (ends * [-1, 1, 1])[::-1]
    expected, _ = projected(ends, new_intrinsics, new_pose)
    np.testing.assert_allclose(moved['eyes'], expected, rtol=1e-5, atol=1e-3)
    if np.allclose(matrix[1, :2], [0, 1]):
        assert moved['eyes'][0, 0] < moved['eyes'][1, 0]


def boxes_of(instance, numbers):
    """Returns the boxes around the pixels of instances, NaN for absent instances."""
    boxes = np.full((len(numbers), 4), np.nan, np.float32)
    for row, number in enumerate(numbers):
        y, x = np.nonzero(instance == number)
        if len(y):
            boxes[row] = [x.min() - 0.5, y.min() - 0.5, x.max() + 0.5, y.max() + 0.5]
    return boxes


SCALED = {key: ANY[key] for key in (*WHOLE_PIXELS, 'double', 'triple, flipped')}


@parts(SCALED)
def test_boxes_are_those_of_the_moved_instances(matrix, size):
    """Measures the boxes of the moved instance map, which a shift may cut at the border."""
    instance = streets.frame(0, 'train', SEED, 3, SIZE)['instance']
    numbers = [*np.unique(instance[instance > 0]), 9999]
    before = {'instance': instance, 'boxes': boxes_of(instance, numbers)}
    declared = {'boxes': Feature('boxes', (len(numbers), 4))}
    moved = transforms.apply_geometry(before, matrix, size, declared)
    seen = boxes_of(moved['instance'], numbers)
    limits = np.array([*size[::-1], *size[::-1]]) - 0.5
    whole = ((moved['boxes'] >= -0.5) & (moved['boxes'] <= limits)).all(-1)
    assert whole.sum() > 3 and np.isnan(moved['boxes'][-1]).all()
    np.testing.assert_array_equal(moved['boxes'][whole], seen[whole])


@parts(ANY)
def test_boxes_hold_everything_that_they_held(matrix, size):
    """Moves points on the border of a box: the moved box is the smallest that holds them."""
    box = np.float32([10.5, 20.5, 71.5, 63.5])
    share = np.linspace(0, 1, 50)[:, None]
    corners = np.array([[10.5, 20.5], [71.5, 20.5], [71.5, 63.5], [10.5, 63.5], [10.5, 20.5]])
    border = np.concatenate([a + share * (b - a) for a, b in itertools.pairwise(corners)])
    declared = {'boxes': Feature('boxes', (1, 4)), 'border': Feature('points', (200, 2))}
    moved = transforms.apply_geometry(
        {'boxes': box[None], 'border': border}, matrix, size, declared
    )
    low, high = moved['border'].min(0), moved['border'].max(0)
    np.testing.assert_allclose(moved['boxes'][0], [*low, *high], rtol=1e-5, atol=1e-4)


# --- numbers and frames ---------------------------------------------------------------------------


def test_numbers_and_text_stay():
    before = {'number': np.arange(9.0).reshape(3, 3), 'name': 'a', 'frame': 7}
    moved = transforms.apply_geometry(before, flip(SIZE), SIZE, DECLARED)
    assert moved['name'] == 'a' and moved['frame'] == 7
    np.testing.assert_array_equal(moved['number'], before['number'])


@pytest.mark.parametrize('seed', range(4))
def test_frames_move_like_their_example(seed):
    before = example()
    config = ml_collections.ConfigDict({key: field.default for key, field in AUGMENT.items()})
    config.update({'crop': (60, 80), 'scale': (0.5, 2.0), 'rotate': 30.0, 'flip': 0.5})
    before['boxes'] = np.float32([[3, 4, 50, 60]])
    before['eyes'] = np.float32([[3, 4], [50, 60]])
    declared = {**DECLARED, 'boxes': Feature('boxes', (1, 4))}
    keys = ('flow', 'normals', 'boxes', 'eyes', 'ids')
    before |= {f'{key}_frames': np.stack([before[key]] * 3) for key in keys}
    moved = transforms.training(before, np.random.default_rng(seed), config, declared)
    for key in keys:
        for frame in moved[f'{key}_frames']:
            np.testing.assert_array_equal(frame, moved[key])


def test_opencv_fills_with_nan():
    """Documents that the border value of float maps may be NaN, on which absent flow relies."""
    moved = cv2.warpAffine(
        np.zeros((4, 4, 2), np.float32),
        np.float64([[1, 0, 2.5], [0, 1, 0]]),
        (4, 4),
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(np.nan,) * 4,
    )
    assert np.isnan(moved[:, :2]).all() and (moved[:, 3:] == 0).all()
