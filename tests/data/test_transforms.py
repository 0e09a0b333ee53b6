"""Geometry against formulas, cv2.resize and keypoints. Colour against a NumPy reference."""

import colorsys

import chex
import cv2
import ml_collections
import numpy as np
import pytest
from PIL import Image

from segjax.data import kinds, transforms
from segjax.data.worlds import render, streets
from segjax.errors import InputError
from segjax.schema import AUGMENT

SIZE = (60, 100)
POSE = render.camera_pose((3.0, -1.0, 1.5), heading=0.4, pitch=0.1, roll=-0.2).astype(np.float32)
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def augment(**options):
    config = ml_collections.ConfigDict({key: field.default for key, field in AUGMENT.items()})
    config.update({'crop': (40, 70), **options})
    return config


EVERYTHING = {'resize': (75, 120), 'scale': (0.5, 2.0), 'rotate': 20.0, 'translate': 5, 'flip': 0.5}


def coordinates(size=SIZE):
    """Returns an example in which the values of every map encode their pixel."""
    y, x = np.mgrid[: size[0], : size[1]]
    return {
        'image': np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8),
        'label': (y % 5).astype(np.uint8),
        'instance': (y * size[1] + x + 1).astype(np.int32),
        'depth': (1000 * y + x + 1).astype(np.float32),
        'intrinsics': np.array([[80, 0, 47.5], [0, 90, 31.25], [0, 0, 1]], np.float32),
        'pose': POSE,
        'pose_frames': np.stack([np.eye(4, dtype=np.float32), POSE]),
    }


def moved_at_random(example, seed, **changes):
    """Returns (config, matrix, moved example) of a sample of all geometric augmentations."""
    config = augment(**EVERYTHING | changes)
    matrix = transforms.sample_matrix(np.random.default_rng(seed), config, SIZE)
    return config, matrix, transforms.apply_geometry(example, matrix, config.crop)


def source_positions(matrix, out_size):
    y, x = np.mgrid[: out_size[0], : out_size[1]]
    return np.einsum(
        'ij,jhw->ihw', np.linalg.inv(matrix), np.stack([x, y, np.ones_like(x)]).astype(float)
    )[:2]


def noise(size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    return {
        'image': rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        'label': rng.integers(0, 20, size, dtype=np.uint8),
        'depth': rng.random(size, dtype=np.float32),
    }


# --- geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(12))
def test_random_geometry_is_exact_on_ramps(seed):
    example = coordinates()
    config, matrix, moved = moved_at_random(example, seed)
    x, y = source_positions(matrix, config.crop)
    inner = (x > 0) & (x < SIZE[1] - 1) & (y > 0) & (y < SIZE[0] - 1)
    assert inner.mean() > 0.2
    for channel, ramp in enumerate((2 * x, 3 * y, x + y)):
        assert np.abs(moved['image'][..., channel] - ramp)[inner].max() < 0.5 + 0.03
    row, column = np.divmod(moved['instance'][inner] - 1, SIZE[1])
    assert np.abs(row - y[inner]).max() < 0.502 and np.abs(column - x[inner]).max() < 0.502
    np.testing.assert_array_equal(moved['label'][inner], row % 5)
    np.testing.assert_array_equal(moved['depth'][inner], 1000 * row + column + 1)


@pytest.mark.parametrize('seed', range(6))
def test_outside_is_filled_where_the_centre_falls_out(seed):
    example = {
        k: np.maximum(v, 1) if kinds.kind_of(k).is_map else v for k, v in coordinates().items()
    }
    config, matrix, moved = moved_at_random(example, seed, rotate=45.0, scale=(0.4, 0.8))
    x, y = source_positions(matrix, config.crop)
    outside = (x < -0.5) | (x > SIZE[1] - 0.5) | (y < -0.5) | (y > SIZE[0] - 0.5)
    edge = (
        np.minimum.reduce(
            [abs(x + 0.5), abs(x - SIZE[1] + 0.5), abs(y + 0.5), abs(y - SIZE[0] + 0.5)]
        )
        < 0.003
    )
    assert outside.any() and not outside.all() and edge.mean() < 0.01
    for key, fill in (('label', 255), ('instance', 0), ('depth', 0)):
        np.testing.assert_array_equal((moved[key] == fill)[~edge], outside[~edge])
    np.testing.assert_array_equal((moved['image'] == 0).all(-1), moved['label'] == 255)


@pytest.mark.parametrize('scale', [2, 4, 0.5, 0.25])
def test_resize_equals_cv2(scale):
    example = noise()
    out_size = tuple(round(n * scale) for n in SIZE)
    moved = transforms.apply_geometry(example, transforms.resize_matrix(SIZE, out_size), out_size)
    method = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    linear = cv2.resize(example['image'], out_size[::-1], interpolation=method)
    nearest = cv2.resize(example['label'], out_size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    assert np.abs(moved['image'].astype(int) - linear).max() <= 1
    np.testing.assert_array_equal(moved['label'], nearest)


def test_one_matrix_equals_the_steps_one_after_another():
    """Compares with single steps on pixels: resize by 2, crop with padding on the right, flip."""
    example = noise()
    doubled = (120, 200)
    matrix = transforms.translation_matrix(-150, -11) @ transforms.resize_matrix(SIZE, doubled)
    moved = transforms.apply_geometry(example, transforms.flip_matrix(80) @ matrix, (90, 80))
    for key, method, fill in (
        ('image', cv2.INTER_LINEAR, 0),
        ('label', cv2.INTER_NEAREST_EXACT, 255),
    ):
        large = cv2.resize(example[key], doubled[::-1], interpolation=method)
        steps = np.full((90, 80, *large.shape[2:]), fill, np.uint8)
        steps[:, :50] = large[11 : 11 + 90, 150:]
        assert np.abs(moved[key].astype(int) - steps[:, ::-1]).max() <= (key == 'image')


@pytest.mark.parametrize('seed', range(8))
def test_sampled_matrix_moves_keypoints_step_by_step(seed):
    config = augment(**EVERYTHING)
    x, y = np.random.default_rng(99).uniform(0, 60, (2, 20))
    matrix = transforms.sample_matrix(np.random.default_rng(seed), config, SIZE)
    moved_x, moved_y, _ = matrix @ [x, y, np.ones(20)]

    rng = np.random.default_rng(seed)
    scale, degrees = rng.uniform(0.5, 2.0), rng.uniform(-20, 20)
    shift_y, shift_x = rng.integers(-5, 6, 2)
    where_y, where_x = rng.random(2)
    flip = rng.random() < 0.5
    x, y = (x + 0.5) * 1.2 - 0.5, (y + 0.5) * 1.25 - 0.5  # resize 60 x 100 -> 75 x 120
    x, y = (x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5
    height, width = round(75 * scale), round(120 * scale)
    point = (x - (width - 1) / 2 - 1j * (y - (height - 1) / 2)) * np.exp(1j * np.deg2rad(degrees))
    x, y = point.real + (width - 1) / 2, -point.imag + (height - 1) / 2
    x, y = x + shift_x, y + shift_y
    x = x - (min(0, width - 70) + int(where_x * (abs(width - 70) + 1)))
    y = y - (min(0, height - 40) + int(where_y * (abs(height - 40) + 1)))
    x = 69 - x if flip else x
    np.testing.assert_allclose([moved_x, moved_y], [x, y], atol=1e-9)


def test_crops_reach_every_offset_and_stay_inside():
    example = coordinates((42, 73))
    corners = set()
    for seed in range(200):
        matrix = transforms.sample_matrix(np.random.default_rng(seed), augment(flip=0.0), (42, 73))
        moved = transforms.apply_geometry(example, matrix, (40, 70))
        assert moved['instance'].min() > 0
        corners.add(divmod(int(moved['instance'][0, 0]) - 1, 73))
    assert corners == {(top, left) for top in range(3) for left in range(4)}


def test_small_maps_are_padded_anywhere():
    example = coordinates((39, 68))
    corners = set()
    for seed in range(100):
        matrix = transforms.sample_matrix(np.random.default_rng(seed), augment(flip=0.0), (39, 68))
        moved = transforms.apply_geometry(example, matrix, (40, 70))
        assert (moved['label'] != 255).sum() == 39 * 68
        top, left = np.argwhere(moved['instance'] == 1)[0]
        corners.add((int(top), int(left)))
    assert corners == {(top, left) for top in range(2) for left in range(3)}


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('shift', [(0, 0), (-13, 7), (25, -31), (-400, 0)])
def test_copying_equals_interpolating(flip, shift):
    """Turns the fast path off by a shift of 1e-6 pixels, at which bilinear weights round away."""
    example = noise()
    matrix = transforms.translation_matrix(*shift)
    matrix = transforms.flip_matrix(SIZE[1]) @ matrix if flip else matrix
    copied = transforms.apply_geometry(example, matrix, (50, 90))
    nudge = transforms.translation_matrix(1e-6, 1e-6)
    warped = transforms.apply_geometry(example, nudge @ matrix, (50, 90))
    for key in example:
        np.testing.assert_array_equal(copied[key], warped[key])
        assert copied[key].dtype == example[key].dtype


def test_flip_twice_is_the_identity():
    example = coordinates()
    once = transforms.apply_geometry(example, transforms.flip_matrix(SIZE[1]), SIZE)
    twice = transforms.apply_geometry(once, transforms.flip_matrix(SIZE[1]), SIZE)
    np.testing.assert_array_equal(once['image'], example['image'][:, ::-1])
    for key, value in example.items():
        np.testing.assert_array_equal(twice[key], value)


def is_mirrored(matrix):
    return np.linalg.det(matrix[:2, :2]) < 0


@pytest.mark.parametrize('seed', range(6))
def test_intrinsics_follow_the_pixels(seed):
    """Projects a plane in space with K'. The moved image must contain its coordinates there."""
    example = coordinates()
    _, matrix, moved = moved_at_random(example, seed)
    y, x = np.nonzero(moved['instance'])
    rays = np.linalg.solve(moved['intrinsics'].astype(float), np.stack([x, y, np.ones_like(x)]))
    points = np.vstack([3.0 * rays / rays[2], np.ones_like(x)])
    mirror = MIRROR if is_mirrored(matrix) else np.eye(4)
    seen = np.linalg.inv(POSE.astype(float)) @ mirror @ moved['pose'].astype(float) @ points
    u, v, w = example['intrinsics'].astype(float) @ seen[:3]
    row, column = np.divmod(moved['instance'][y, x] - 1, SIZE[1])
    assert np.abs(u / w - column).max() < 0.503 and np.abs(v / w - row).max() < 0.503


@pytest.mark.parametrize('seed', range(6))
def test_a_flip_mirrors_the_world_and_keeps_the_camera(seed):
    """Checks that the moved camera is ordinary, and projects world points to the moved pixels."""
    example = coordinates()
    _, matrix, moved = moved_at_random(example, seed)
    mirror = MIRROR if is_mirrored(matrix) else np.eye(4)
    assert moved['intrinsics'][0, 0] > 0 and np.linalg.det(moved['intrinsics'].astype(float)) > 0
    points = np.random.default_rng(seed).uniform(-3, 3, (3, 30)) + (POSE @ [0, 0, 9, 1])[:3, None]
    for key in ('pose', 'pose_frames'):
        before, after = (frames[key].reshape(-1, 4, 4) for frames in (example, moved))
        for pose, pose_moved in zip(before, after, strict=True):
            assert np.linalg.det(pose_moved[:3, :3].astype(float)) == pytest.approx(1, abs=1e-5)
            pixels = []
            for camera, place, world in ((example, pose, np.eye(4)), (moved, pose_moved, mirror)):
                seen = np.linalg.inv(place.astype(float)) @ world @ np.vstack([points, np.ones(30)])
                u, v, w = camera['intrinsics'].astype(float) @ seen[:3]
                pixels.append(np.stack([u / w, v / w, np.ones(30)]))
            np.testing.assert_allclose(matrix @ pixels[0], pixels[1], rtol=1e-4, atol=1e-3)


def test_a_flip_moves_the_principal_point_and_nothing_else():
    example = coordinates()
    moved = transforms.apply_geometry(example, transforms.flip_matrix(SIZE[1]), SIZE)
    np.testing.assert_array_equal(
        moved['intrinsics'], [[80, 0, 99 - 47.5], [0, 90, 31.25], [0, 0, 1]]
    )
    np.testing.assert_array_equal(moved['pose'], MIRROR @ POSE @ MIRROR)
    assert all(moved[key].dtype == np.float32 for key in ('intrinsics', 'pose', 'pose_frames'))


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('degrees', [10.0, -35.0, 120.0, 180.0])
def test_a_turned_image_is_that_of_a_rolled_camera(flip, degrees):
    """Rolls a camera with square pixels. Its matrix stays, and motions follow the roll."""
    camera = np.array([[80, 0, 49.5], [0, 80, 29.5], [0, 0, 1]], np.float32)
    example = {**coordinates(), 'intrinsics': camera}
    matrix = transforms.rotation_matrix(degrees, SIZE)
    matrix = transforms.flip_matrix(SIZE[1]) @ matrix if flip else matrix
    moved = transforms.apply_geometry(example, matrix, SIZE)
    np.testing.assert_allclose(moved['intrinsics'], camera, atol=1e-4)
    # Counter-clockwise on the screen: what was on the right is above, towards negative y.
    angle = np.deg2rad(degrees) * (-1 if flip else 1)
    roll = np.eye(4)
    roll[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    roll = roll @ MIRROR if flip else roll
    both = example['pose_frames'], moved['pose_frames']
    motions = [np.linalg.inv(poses[1].astype(float)) @ poses[0] for poses in both]
    np.testing.assert_allclose(motions[1], roll @ motions[0] @ roll.T, atol=1e-5)
    assert np.linalg.det(moved['pose'][:3, :3].astype(float)) == pytest.approx(1, abs=1e-5)


def mirrored_primitives(quads, ellipsoids):
    """Returns the scene behind a mirror at x = 0.

    The edges swap, so that sides still face outwards.
    """
    quads, ellipsoids = quads.copy(), ellipsoids.copy()
    quads['closed'] = False  # hidden sides of a solid are farther away than its visible sides
    for part, names in ((quads, ('origin', 'edge_s', 'edge_t')), (ellipsoids, ('centre',))):
        for name in names:
            part[name][:, 0] *= -1
    ellipsoids['heading'] *= -1
    return quads, ellipsoids


@pytest.mark.parametrize('shrink', [1.0, 0.5])
def test_a_flipped_frame_is_a_frame_of_the_mirrored_scene(shrink):
    """Compares moved depth with a rendering of the mirrored scene by the moved camera."""
    size = (64, 128)
    small = tuple(round(length * shrink) for length in size)
    intrinsics, pose = streets.camera(streets._clip(0, 'train', 2).scene, 3, size)
    quads, ellipsoids = streets._at(streets._clip(0, 'train', 2).scene.shape, 3)
    depth = 1 / np.maximum(
        render.visibility(quads, ellipsoids, intrinsics, pose, size).inverse_depth, 1e-3
    )
    frame = {
        'depth': depth,
        'intrinsics': intrinsics.astype(np.float32),
        'pose': pose.astype(np.float32),
    }
    # A shift of half a pixel puts the small pixels' centres onto pixels of the large map.
    matrix = np.array([[shrink, 0, 0], [0, shrink, 0], [0, 0, 1.0]])
    moved = transforms.apply_geometry(frame, transforms.flip_matrix(small[1]) @ matrix, small)
    camera = moved['intrinsics'].astype(float), moved['pose'].astype(float)
    seen = render.visibility(*mirrored_primitives(quads, ellipsoids), *camera, small)
    expected = 1 / np.maximum(seen.inverse_depth, 1e-3)
    close = np.abs(moved['depth'] / expected - 1) < 1e-3
    assert close.mean() > 0.99 and (expected < 100).mean() > 0.5


def test_video_frames_and_suffixes_move_alike():
    example = noise()
    video = {
        'image_prev': np.stack([example['image'], 255 - example['image']]),
        'label_prev': example['label'],
    }
    matrix = transforms.sample_matrix(np.random.default_rng(3), augment(**EVERYTHING), SIZE)
    moved = transforms.apply_geometry(example, matrix, (40, 70))
    stack = transforms.apply_geometry(video, matrix, (40, 70))
    chex.assert_shape(stack['image_prev'], (2, 40, 70, 3))
    np.testing.assert_array_equal(stack['image_prev'][0], moved['image'])
    np.testing.assert_array_equal(stack['label_prev'], moved['label'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'label': np.zeros((60, 99), np.uint8)}, '60 x 99'),
        ({'image': np.zeros((60, 100, 3), np.float32)}, 'float32'),
        ({'label': np.zeros((60, 100), np.int64)}, 'int64'),
        ({'landmarks': np.zeros((68, 2), np.float32)}, 'landmarks'),
    ],
)
def test_wrong_arrays_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        transforms.apply_geometry({**noise(), **change}, np.eye(3), SIZE)


# --- shrinking ------------------------------------------------------------------------------------


def block_means(image, rows, columns):
    height, width, channels = image.shape
    return (
        image.reshape(height // rows, rows, width // columns, columns, channels)
        .astype(float)
        .mean((1, 3))
    )


def gradient_energy(image):
    image = image.astype(float)
    return (np.diff(image, axis=0) ** 2).mean() + (np.diff(image, axis=1) ** 2).mean()


def photo(size):
    """Returns patches of every size, down to single pixels.

    Like in photos, small patches have less contrast.
    """
    rng = np.random.default_rng(5)
    image = np.full((*size, 3), 128.0)
    for side in (1, 2, 3, 5, 8, 13, 21):
        patches = rng.normal(size=(-(-size[0] // side), -(-size[1] // side), 3))
        image += 3 * side**0.7 * patches.repeat(side, 0).repeat(side, 1)[: size[0], : size[1]]
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('flip', [False, True])
def test_a_quarter_of_an_image_is_the_mean_over_blocks(flip):
    image = photo((1024, 2048))
    matrix = transforms.resize_matrix((1024, 2048), (256, 512))
    matrix = transforms.flip_matrix(512) @ matrix if flip else matrix
    moved = transforms.apply_geometry({'image': image}, matrix, (256, 512))['image']
    expected = block_means(image[:, ::-1] if flip else image, 4, 4)
    assert np.abs(moved - expected).max() <= 1.01
    assert gradient_energy(moved) == pytest.approx(gradient_energy(expected), rel=0.03)


@pytest.mark.parametrize('out_size', [(128, 290), (97, 211), (300, 205), (40, 512), (60, 120)])
def test_shrinking_by_any_factor_adds_no_gradients(out_size):
    """Compares with means over the exact areas of small pixels, and with Pillow's bilinear."""
    image = photo((300, 600))
    matrix = transforms.resize_matrix((300, 600), out_size)
    moved = transforms.apply_geometry({'image': image}, matrix, out_size)['image']
    area = cv2.resize(image.astype(np.float32), out_size[::-1], interpolation=cv2.INTER_AREA)
    smooth = np.asarray(Image.fromarray(image).resize(out_size[::-1], Image.BILINEAR))
    energy = gradient_energy(moved)
    assert 0.9 * gradient_energy(smooth) < energy < 1.1 * gradient_energy(area)


@pytest.mark.parametrize(('rows', 'columns'), [(4, 1), (1, 4), (3, 1), (5, 3), (1, 7)])
def test_each_axis_has_blocks_of_its_own(rows, columns):
    image = noise((60, 84) if columns == 7 else (60, 96))['image']
    size = image.shape[:2]
    out_size = (size[0] // rows, size[1] // columns)
    moved = transforms.apply_geometry(
        {'image': image}, transforms.resize_matrix(size, out_size), out_size
    )['image']
    assert np.abs(moved - block_means(image, rows, columns)).max() <= 0.51


@pytest.mark.parametrize('out_size', [(16, 24), (9, 11), (13, 40)])
def test_the_border_of_a_shrunk_image_is_not_darkened(out_size):
    """Shrinks an image whose sides are no multiples of a block."""
    image = np.full((47, 97, 3), 200, np.uint8)
    moved = transforms.apply_geometry(
        {'image': image}, transforms.resize_matrix((47, 97), out_size), out_size
    )
    np.testing.assert_array_equal(moved['image'], 200)


@pytest.mark.parametrize('shrink', [1.0, 1.99, 2.0, 2.001, 2.6, 2.999, 3.0, 3.7, 4.0, 9.5])
def test_what_remains_after_the_blocks_is_shrunk_by_less_than_three_halves(shrink):
    """Blocks above the factor would enlarge their means again, and blur."""
    rows, columns = transforms._block_size(transforms.scale_matrix(1 / shrink, 1))
    assert columns == 1
    assert rows == 1 if shrink <= 2 else 1 <= shrink / rows < 1.5


@pytest.mark.parametrize(('factor', 'slope'), [(3, 1), (4, 2), (5, 1), (7, 1)])
@pytest.mark.parametrize('axis', [0, 1])
def test_pixels_keep_their_places_when_an_image_shrinks(factor, slope, axis):
    """Shrinks a ramp whose block means are whole numbers, of a length that is no multiple."""
    length = 8 * factor + 2
    line = slope * np.arange(length)
    image = (
        np.repeat(np.expand_dims(line, 1 - axis), 30, 1 - axis)[..., None]
        .repeat(3, 2)
        .astype(np.uint8)
    )
    size = image.shape[:2]
    out_size = (8, 30) if axis == 0 else (30, 8)
    matrix = transforms.scale_matrix(*((1 / factor, 1) if axis == 0 else (1, 1 / factor)))
    moved = transforms.apply_geometry(
        {'image': image, 'label': np.zeros(size, np.uint8)}, matrix, out_size
    )
    x, y = source_positions(matrix, out_size)
    expected = slope * (y if axis == 0 else x)
    np.testing.assert_allclose(
        moved['image'] / 255, expected[..., None].repeat(3, 2) / 255, atol=1e-3
    )


@pytest.mark.parametrize('seed', range(8))
def test_random_geometry_that_shrinks_keeps_positions_and_labels(seed):
    example = coordinates()
    options = dict(rotate=30.0, scale=(0.15, 0.35), crop=(12, 16))
    config, matrix, moved = moved_at_random(example, seed, **options)
    x, y = source_positions(matrix, config.crop)
    inner = (x > 6) & (x < SIZE[1] - 7) & (y > 6) & (y < SIZE[0] - 7)
    assert inner.mean() > 0.1
    for channel, ramp in enumerate((2 * x, 3 * y, x + y)):
        assert np.abs(moved['image'][..., channel] - ramp)[inner].max() < 1.2  # rounded twice
    row, column = np.divmod(moved['instance'][inner] - 1, SIZE[1])
    np.testing.assert_array_equal(row, np.floor(y[inner] + 0.5 + transforms.TIE))
    np.testing.assert_array_equal(column, np.floor(x[inner] + 0.5 + transforms.TIE))
    np.testing.assert_array_equal(moved['label'][inner], row % 5)
    np.testing.assert_array_equal(moved['depth'][inner], 1000 * row + column + 1)


def test_frames_shrink_alike():
    example = noise((120, 200))
    video = {
        'image': example['image'],
        'image_frames': np.stack([255 - example['image'], example['image']]),
    }
    moved = transforms.apply_geometry(
        video, transforms.resize_matrix((120, 200), (30, 48)), (30, 48)
    )
    np.testing.assert_array_equal(moved['image_frames'][1], moved['image'])


def test_half_the_size_is_interpolated_as_ever():
    image = noise()['image']
    half = transforms.apply_geometry(
        {'image': image}, transforms.resize_matrix(SIZE, (30, 50)), (30, 50)
    )['image']
    assert np.abs(half - block_means(image, 2, 2)).max() <= 0.5


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluation_of_the_same_aspect_fills_the_image():
    example = {**noise(), 'intrinsics': np.eye(3, dtype=np.float32)}
    result = transforms.evaluation(example, (30, 50), (64, 128))
    expected = cv2.resize(example['image'], (50, 30), interpolation=cv2.INTER_LINEAR)
    assert np.abs(result['image'].astype(int) - expected).max() <= 1
    assert result['size'].tolist() == [30, 50] and result['label_size'].tolist() == [60, 100]
    chex.assert_shape([result['label'], result['depth']], (64, 128))
    np.testing.assert_array_equal(result['label'][:60, :100], example['label'])
    assert (result['label'] == 255).sum() == 64 * 128 - 60 * 100
    assert not result['depth'][60:].any() and not result['depth'][:, 100:].any()
    np.testing.assert_allclose(result['intrinsics'], [[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])


@pytest.mark.parametrize(
    ('eval_size', 'filled'), [((40, 50), (30, 50)), ((30, 80), (30, 50)), ((120, 201), (120, 200))]
)
def test_evaluation_letterboxes_other_aspects(eval_size, filled):
    example = {**noise(), 'image': np.maximum(noise()['image'], 1)}
    result = transforms.evaluation(example, eval_size, SIZE)
    expected = cv2.resize(example['image'], filled[::-1], interpolation=cv2.INTER_LINEAR)
    chex.assert_shape(result['image'], (*eval_size, 3))
    assert result['size'].tolist() == list(filled)
    assert np.abs(result['image'][: filled[0], : filled[1]].astype(int) - expected).max() <= 1
    assert np.count_nonzero(result['image']) == filled[0] * filled[1] * 3
    np.testing.assert_array_equal(result['label'], example['label'])


def test_evaluation_refuses_a_label_larger_than_the_split_allows():
    with pytest.raises(InputError, match='60 x 100'):
        transforms.evaluation(noise(), (30, 50), (60, 99))


def test_resized_pads_image_and_label_alike():
    result = transforms.resized(noise(), (40, 50))
    assert (result['label'][:30] != 255).all() and (result['label'][30:] == 255).all()
    assert not result['image'][30:].any()


# --- colour ---------------------------------------------------------------------------------------

NEUTRAL = transforms.Colour(1, 1, 1, 0.0, False)


def test_neutral_colour_is_the_same_array():
    image = noise()['image']
    assert transforms.apply_colour(image, NEUTRAL) is image
    off = augment()
    assert transforms.photometric({'image': image}, np.random.default_rng(0), off)['image'] is image


@pytest.mark.parametrize('factors', [(1.3, 1, 1), (1, 0.6, 1), (1, 1, 0.2), (0.8, 1.4, 1.5)])
def test_brightness_contrast_saturation(factors):
    image = noise()['image']
    brightness, contrast, saturation = factors
    weights = np.array([0.299, 0.587, 0.114])
    x = brightness * image.astype(float)
    x = contrast * x + (1 - contrast) * (x @ weights).mean()
    x = saturation * x + (1 - saturation) * (x @ weights)[..., None]
    painted = transforms.apply_colour(image, transforms.Colour(*factors, 0.0, False))
    assert np.abs(painted - np.clip(x, 0, 255)).max() < 1.01


@pytest.mark.parametrize('hue', [0.25, -0.125])
def test_hue_turns_the_colour_circle(hue):
    image = noise((8, 8))['image']
    painted = transforms.apply_colour(image, NEUTRAL._replace(hue=hue))
    for old, new in zip(image.reshape(-1, 3), painted.reshape(-1, 3)):
        h, s, v = colorsys.rgb_to_hsv(*(old / 255))
        expected = 255 * np.array(colorsys.hsv_to_rgb((h + hue) % 1, s, v))
        assert np.abs(new - expected).max() < 6  # OpenCV keeps hue in 256 steps


def test_blur_is_a_gaussian_of_five_pixels():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 255
    tap = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.1**2))
    expected = 255 * np.outer(tap, tap) / tap.sum() ** 2
    painted = transforms.apply_colour(image, NEUTRAL._replace(blur=True))
    assert np.abs(painted[2:7, 2:7, 0] - expected).max() < 2
    assert np.count_nonzero(painted[..., 0]) == 25


def test_frames_get_the_same_colours():
    image = noise()['image']
    config = augment(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3, blur=0.5)
    example = {'image': image, 'image_prev': np.stack([image, image]), 'label': noise()['label']}
    painted = transforms.photometric(example, np.random.default_rng(1), config)
    assert (painted['image'] != image).mean() > 0.5
    np.testing.assert_array_equal(painted['image_prev'], np.stack([painted['image']] * 2))
    assert painted['label'] is example['label']


def test_draws_stay_within_their_ranges():
    config = augment(brightness=0.2, contrast=0.4, saturation=0.6, hue=0.1, blur=0.3)
    draws = np.array(
        [transforms.sample_colour(np.random.default_rng(s), config) for s in range(500)], float
    )
    for column, (low, high) in enumerate([(0.8, 1.2), (0.6, 1.4), (0.4, 1.6), (-0.1, 0.1)]):
        assert low <= draws[:, column].min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < draws[:, column].max() <= high
    assert abs(draws[:, 4].mean() - 0.3) < 0.07


def test_training_has_the_crop_size_and_depends_on_the_generator():
    config = augment(**EVERYTHING, brightness=0.3)
    one, same, other = (
        transforms.training(noise(), np.random.default_rng(s), config) for s in (0, 0, 1)
    )
    chex.assert_shape(one['image'], (40, 70, 3))
    chex.assert_shape(one['label'], (40, 70))
    np.testing.assert_array_equal(one['image'], same['image'])
    assert (one['image'] != other['image']).mean() > 0.5
