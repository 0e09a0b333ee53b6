"""The world `streets`: pure frames, exact geometry, and the parts of its renderer."""

import numpy as np
import pytest
from world_geometry import cast, corners, project, world_points

from segjax.data.labels import CITYSCAPES
from segjax.data.worlds import light, render, shapes, streets, textures
from segjax.data.worlds.streets.scene import build_scene
from segjax.errors import InputError

SIZE = (96, 192)
THINGS = range(11, 19)


def moves(clip):
    quads, ellipsoids = build_scene(0, 'train', clip).shape
    return any((part['surface']['velocity'] != 0).any() for part in (quads, ellipsoids))


def static_clip():
    return next(clip for clip in range(8) if not moves(clip))


def moving_clip():
    return next(clip for clip in range(8) if moves(clip))


def same(a, b):
    return all(np.array_equal(a[key], b[key]) for key in a)


def warp_pair(clip, index=2, size=(128, 256)):
    """Returns the static pixels of frame t that land inside of frame t + 1.

    Places and depths refer to frame t + 1.
    """
    a, b = (
        streets.frame(0, 'train', clip, index, size),
        streets.frame(0, 'train', clip, index + 1, size),
    )
    u, v, z = project(world_points(a), b)
    inside = (
        (a['depth'] > 0)
        & ~a['moving']
        & (u > 0)
        & (u < size[1] - 1.01)
        & (v > 0)
        & (v < size[0] - 1.01)
    )
    return a, b, inside, u[inside], v[inside], z[inside]


def test_frame_is_a_pure_function_whatever_was_rendered_before():
    first = streets.frame(3, 'train', 1, 2, SIZE)
    streets._clip.cache_clear()
    for clip, index in ((2, 0), (1, 7), (4, 1)):
        streets.frame(3, 'train', clip, index, SIZE)
    streets._clip.cache_clear()
    assert same(first, streets.frame(3, 'train', 1, 2, SIZE))
    assert same(first, streets.frame(3, 'train', 1, 2, SIZE))


def test_seed_split_clip_and_index_all_matter():
    addresses = (
        (0, 'train', 0, 0),
        (1, 'train', 0, 0),
        (0, 'val', 0, 0),
        (0, 'train', 1, 0),
        (0, 'train', 0, 1),
    )
    frames = [streets.frame(*address, SIZE)['image'] for address in addresses]
    for i, a in enumerate(frames):
        for b in frames[:i]:
            assert np.abs(a.astype(int) - b.astype(int)).mean() > 4


@pytest.mark.parametrize('size', [(96, 192), (64, 64), (33, 50), (8, 8)])
def test_shapes_types_and_ranges(size):
    frame = streets.frame(0, 'val', 0, 1, size)
    expected = {
        'image': (np.uint8, (*size, 3)),
        'label': (np.uint8, size),
        'instance': (np.uint16, size),
        'depth': (np.float32, size),
        'moving': (np.bool_, size),
        'intrinsics': (np.float32, (3, 3)),
        'pose': (np.float32, (4, 4)),
    }
    assert {key: (value.dtype.type, value.shape) for key, value in frame.items()} == expected
    assert set(np.unique(frame['label'])) <= {*range(19), 255}
    assert np.isfinite(frame['depth']).all() and (frame['depth'] >= 0).all()
    rotation = frame['pose'][:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_all_classes_occur_in_twelve_clips_with_plausible_shares(split):
    labels = np.stack(
        [
            streets.frame(0, split, clip, index, SIZE)['label']
            for clip in range(12)
            for index in (0, 5)
        ]
    )
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert (share[:19] > 1e-4).all(), dict(zip(CITYSCAPES.names, share))
    assert share[:19].argmax() == 0 and 0.2 < share[0] < 0.5
    assert 0.1 < share[2] < 0.35 and 0.02 < share[13] < 0.2
    per_image = (labels == 255).mean((1, 2))
    assert per_image.min() < 0.01 and per_image.max() > 0.03  # ignored pixels are uneven


def test_instances_are_things_and_keep_their_class_over_a_clip():
    classes = {}
    for index in (0, 3, 20):
        frame = streets.frame(0, 'train', moving_clip(), index, SIZE)
        label, instance = frame['label'], frame['instance']
        assert np.array_equal(instance > 0, np.isin(label, THINGS))
        for i in np.unique(instance[instance > 0]):
            found = set(np.unique(label[instance == i]))
            assert len(found) == 1 and classes.setdefault(i, found) == found
    assert len(classes) > 10


def test_depth_is_zero_exactly_for_sky_and_hood():
    clip = next(c for c in range(12) if build_scene(0, 'train', c).rig.hood)
    frame = streets.frame(0, 'train', clip, 0, SIZE)
    assert (frame['depth'][frame['label'] == 10] == 0).all()
    nothing = frame['depth'] == 0
    assert set(np.unique(frame['label'][nothing])) == {10, 255}
    assert (frame['label'][-1, SIZE[1] // 2 - 20 : SIZE[1] // 2 + 20] == 255).all()
    assert frame['moving'][nothing & (frame['label'] == 255)].all()


def test_road_lies_on_the_ground_plane_and_objects_stand_on_it():
    for clip in range(3):
        frame = streets.frame(0, 'train', clip, 4, SIZE)
        points = world_points(frame)
        near = frame['depth'] < 60
        ground = np.isin(frame['label'], (0, 1, 9)) & near
        assert np.abs(points[ground, 2]).max() < 2e-4
        solid = (frame['depth'] > 0) & ~np.isin(frame['label'], (0, 1, 9))
        assert points[solid & near, 2].min() > -1e-3


def test_depth_and_labels_agree_with_a_ray_caster_in_float64():
    size, clip, index = (128, 256), 1, 3
    frame = streets.frame(0, 'train', clip, index, size)
    scene = build_scene(0, 'train', clip)
    intrinsics, pose = streets.camera(scene, index, size)
    quads, ellipsoids = streets._at(scene.shape, index)
    rng = np.random.default_rng(0)
    wrong = 0
    for u, v in zip(rng.integers(0, 256, 300), rng.integers(0, 128, 300)):
        if frame['label'][v, u] == 255:
            continue
        ray = pose[:3, :3] @ np.linalg.inv(intrinsics) @ (u, v, 1)
        nearest, record = cast(pose[:3, 3], ray, quads, ellipsoids)
        label = 10 if record is None else record['label']
        if record is not None and record['material'] == shapes.GROUND:
            assert frame['label'][v, u] in (0, 1, 9)
        elif label != frame['label'][v, u]:
            wrong += 1
            continue
        if record is None:
            assert frame['depth'][v, u] == 0
        elif not np.isclose(frame['depth'][v, u], nearest, rtol=1e-4):
            wrong += 1
    assert wrong <= 1  # a ray within rounding of a silhouette


def surface_ids(clip, index, size):
    scene = build_scene(0, 'train', clip)
    hits = render.visibility(
        *streets._at(scene.shape, index), *streets.camera(scene, index, size), size
    )
    return hits.surface, len(scene.shape.quads) + 1


def test_depth_and_pose_warp_a_frame_onto_the_next():
    clip, size = static_clip(), (128, 256)
    a, b, inside, u, v, z = warp_pair(clip, 2, size)
    label, _ = corners(b['label'], u, v)
    inner = (label == label[0]).all(0) & (label[0] != 255)
    depth, weight = corners(b['depth'].astype(float), u, v)
    occluded = depth.max(0) < 0.97 * z
    assert (label[0] == a['label'][inside])[inner & ~occluded].mean() > 0.99

    # The same surface at the pixel and at all four neighbours of its image: no occlusion, no edge.
    ids, num_quads = surface_ids(clip, 3, size)
    found, _ = corners(ids, u, v)
    seen = (found == surface_ids(clip, 2, size)[0][inside]).all(0) & (depth.min(0) > 0)
    assert seen.mean() > 0.7
    # Inverse depth of a plane is affine in (u, v), so that bilinear interpolation is exact.
    with np.errstate(divide='ignore'):
        error = np.abs((weight / depth).sum(0) * z - 1)
    assert error[seen & (found[0] < num_quads)].max() < 1e-3
    assert np.median(error[seen & (found[0] < num_quads)]) < 1e-5
    assert np.quantile(error[seen], 0.99) < 1e-3


def test_colours_are_anchored_in_the_world():
    a, b, inside, u, v, z = warp_pair(static_clip())
    depth, _ = corners(b['depth'], u, v)
    visible = (np.abs(depth / z - 1) < 0.1).all(0)
    image, weight = corners(b['image'].astype(float), u, v)
    source = a['image'].astype(float)[inside]
    warped = np.abs((image * weight[..., None]).sum(0) - source)[visible].mean()
    unmoved = np.abs(b['image'].astype(float)[inside] - source)[visible].mean()
    assert warped < 0.6 * unmoved


def test_moving_marks_all_that_does_not_follow_the_camera():
    a, b, _, u, v, z = warp_pair(moving_clip())
    assert a['moving'].mean() > 0.01
    assert {13} <= set(np.unique(a['label'][a['moving']])) & set(THINGS)
    depth, weight = corners(b['depth'].astype(float), u, v)
    spread = np.ptp(depth, axis=0) < 0.05 * depth.min(0)
    error = np.abs((depth * weight).sum(0) / z - 1)[spread]
    assert (error < 0.02).mean() > 0.95
    still = streets.frame(0, 'train', static_clip(), 0, SIZE)
    assert not (still['moving'] & (still['depth'] > 0)).any()


def test_size_scales_the_same_scene():
    small, large = (
        streets.frame(0, 'val', 2, 0, (64, 128)),
        streets.frame(0, 'val', 2, 0, (128, 256)),
    )
    np.testing.assert_array_equal(small['pose'], large['pose'])
    assert large['intrinsics'][0, 0] == 2 * small['intrinsics'][0, 0]
    # Centres of small pixels lie between four large ones: all four agree almost everywhere.
    blocks = large['label'].reshape(64, 2, 128, 2).transpose(0, 2, 1, 3).reshape(64, 128, 4)
    uniform = (blocks == blocks[..., :1]).all(-1)
    assert (blocks[..., 0] == small['label'])[uniform].mean() > 0.995


BAD = {
    'seed': (-1, 'train', 0, 0, SIZE),
    'clip': (0, 'train', -1, 0, SIZE),
    'index': (0, 'train', 0, 60, SIZE),
    'size': (0, 'train', 0, 0, (4, 9)),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_named(name):
    with pytest.raises(InputError, match=name):
        streets.frame(*BAD[name])


def look(label=1):
    return shapes.surface(label, shapes.PLAIN, (0.5, 0.5, 0.5), np.random.default_rng(0))


CAMERA = np.array([[50.0, 0, 20], [0, 50.0, 15], [0, 0, 1]])
FORWARD = render.camera_pose((0, 0, 1.0), 0.0, 0.0, 0.0)


def test_camera_pose_axes():
    np.testing.assert_allclose(FORWARD[:3, :3], [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-12)
    east = render.camera_pose((0, 0, 0), np.pi / 2, 0.0, 0.0)
    np.testing.assert_allclose(east[:3, 2], [1, 0, 0], atol=1e-12)
    assert render.camera_pose((0, 0, 0), 0.0, 0.1, 0.0)[2, 2] == pytest.approx(-np.sin(0.1))


def test_a_sphere_and_a_wall_have_their_textbook_depths():
    ball = shapes.ellipsoid((0, 5, 1), (1, 1, 1), look(7))
    wall = shapes.panel((-10, 8, -10), (20, 0, 0), (0, 0, 20), look(8))
    both = shapes.join([ball, wall])
    hits = render.visibility(both.quads, both.ellipsoids, CAMERA, FORWARD, (31, 41))
    assert hits.surface[15, 20] == 1 and hits.inverse_depth[15, 20] == pytest.approx(1 / 4)
    assert hits.surface[0, 0] == 0 and hits.inverse_depth[0, 0] == pytest.approx(1 / 8)
    # Half angle of the outline: tan = r / sqrt(d^2 - r^2) = 0.2041, 10.2 pixels.
    assert list(np.flatnonzero(hits.surface[15] == 1)[[0, -1]]) == [10, 30]


def test_a_floor_that_starts_behind_the_camera_is_cut_not_lost():
    floor = shapes.panel((-50, -50, 0), (100, 0, 0), (0, 99, 0), look())
    hits = render.visibility(floor.quads, floor.ellipsoids, CAMERA, FORWARD, (31, 41))
    rows = np.arange(31)
    expected = np.where(rows > 16, (rows - 15) / 50.0, 0)  # z = height * f / (v - cy), up to 49 m
    np.testing.assert_allclose(hits.inverse_depth[:, 3], expected, rtol=1e-5, atol=1e-7)


def test_many_small_things_are_drawn_as_if_one_by_one():
    rng = np.random.default_rng(1)
    balls = [
        shapes.ellipsoid(rng.uniform((-2, 5, 0), (2, 9, 2)), rng.uniform(0.05, 0.4, 3), look())
        for _ in range(60)
    ]
    boxes = [
        shapes.place(shapes.box((0.3, 0.3, 0.3), look()), *rng.uniform((-2, 5, 0, 0), (2, 9, 3, 2)))
        for _ in range(60)
    ]
    shape = shapes.join(balls + boxes)
    hits = render.visibility(shape.quads, shape.ellipsoids, CAMERA, FORWARD, (31, 41))
    nearest = np.zeros((31, 41), np.float32)
    for part in balls + boxes:
        one = render.visibility(part.quads, part.ellipsoids, CAMERA, FORWARD, (31, 41))
        nearest = np.maximum(nearest, one.inverse_depth)
    np.testing.assert_allclose(hits.inverse_depth, nearest, rtol=1e-6)


def test_shadow_of_a_post_points_away_from_the_sun():
    post = shapes.box((0.4, 0.4, 2.0), look())
    sun = np.array([0.0, 1.0, 1.0]) / np.sqrt(
        2
    )  # north, 45 degrees: two metres of shadow to the south
    maps = light.shadow_maps(post, sun, np.array([-5.0, -5.0]), 0.1, (100, 100))
    rows, columns = np.nonzero(maps[..., 0] > 127)
    assert -5 + 0.1 * rows.min() == pytest.approx(-2.2, abs=0.11)
    assert -5 + 0.1 * columns.max() == pytest.approx(0.2, abs=0.11)
    rows, _ = np.nonzero(maps[..., 1] > 60)
    assert abs(-5 + 0.1 * rows.mean()) < 0.1


def test_noise_repeats_and_fades_with_the_footprint():
    noise = textures.make_noise(np.random.default_rng(0))
    s, t = np.meshgrid(
        np.linspace(0, 3, 50, dtype=np.float32), np.linspace(0, 3, 50, dtype=np.float32)
    )
    fine = textures.lookup(noise, s, t, np.full(s.shape, 0.01, np.float32))
    again = textures.lookup(
        noise, s + textures.PERIOD, t - textures.PERIOD, np.full(s.shape, 0.01, np.float32)
    )
    np.testing.assert_allclose(fine, again, atol=2e-2)
    far = textures.lookup(noise, s, t, np.full(s.shape, 1.0, np.float32))
    assert far.std() < 0.6 * fine.std()
