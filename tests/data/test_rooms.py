"""The world `rooms`: pure frames, exact geometry and flow, a Kinect's depth, balanced classes."""

import concurrent.futures
import hashlib
import os
import subprocess
import sys

import layouts
import numpy as np
import pytest
from world_geometry import cast, corners, project, world_points

from segjax import data
from segjax.data.builders import rooms as builder
from segjax.data.labels import NYU4, NYU13, NYU40
from segjax.data.worlds import render, rooms
from segjax.data.worlds.rooms import looks, sensor
from segjax.errors import InputError
from segjax.spec import IGNORE

SIZE = (60, 80)
TARGET = rooms.TARGET
LAST = rooms.FRAMES_PER_CLIP - 1
NUM_ROOMS = 20


@pytest.fixture(scope='module')
def twenty_rooms():
    """The first, the middle and the last frame of the clips of 20 rooms."""
    frames = []
    for clip in range(NUM_ROOMS):
        frames.append([rooms.frame(0, 'train', clip, i, SIZE) for i in (0, TARGET, LAST)])
    return frames


def shares(frames):
    labels = np.concatenate([frame['label_all'].ravel() for frame in frames])
    return np.bincount(labels, minlength=40) / len(labels)


# --- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(60, 80), (33, 50), (8, 8)])
def test_shapes_types_and_ranges(size):
    frame = rooms.frame(0, 'val', 0, TARGET, size)
    expected = {
        'image': (np.uint8, (*size, 3)),
        'depth': (np.float32, size),
        'depth_true': (np.float32, size),
        'label': (np.uint8, size),
        'label_all': (np.uint8, size),
        'instance': (np.uint16, size),
        'flow_true': (np.float32, (*size, 2)),
        'intrinsics': (np.float32, (3, 3)),
        'pose': (np.float32, (4, 4)),
    }
    assert {key: (value.dtype.type, value.shape) for key, value in frame.items()} == expected
    assert frame['label_all'].max() < 40
    assert np.isfinite(frame['depth_true']).all() and (frame['depth_true'] > 0.05).all()
    rotation = frame['pose'][:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)


def test_the_target_alone_has_a_label(twenty_rooms):
    for first, target, last in twenty_rooms:
        np.testing.assert_array_equal(target['label'], target['label_all'])
        assert (first['label'] == IGNORE).all() and (last['label'] == IGNORE).all()
    assert TARGET == LAST // 2 == 15


PROGRAM = """
import hashlib
from segjax.data.worlds import rooms
frame = rooms.frame(3, 'val', 1, 15, (24, 32))
print(hashlib.sha256(b''.join(value.tobytes() for value in frame.values())).hexdigest())
"""


def digest(clip, index):
    frame = rooms.frame(3, 'val', clip, index, (24, 32))
    return hashlib.sha256(b''.join(value.tobytes() for value in frame.values())).hexdigest()


def test_a_frame_is_a_pure_function_in_any_order_thread_and_process():
    addresses = [(clip, index) for clip in (0, 1) for index in (14, 15, 30)]
    expected = {address: digest(*address) for address in addresses}
    rooms._clip.cache_clear()
    rooms._moment.cache_clear()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        backwards = addresses[::-1]
        digests = list(pool.map(lambda address: digest(*address), backwards))
    assert digests == [expected[address] for address in backwards]

    # Another process, with another seed of Python's hashes.
    command = [sys.executable, '-c', PROGRAM]
    environment = os.environ | {'PYTHONHASHSEED': '7'}
    output = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    assert output.stdout.strip() == expected[1, 15]


def test_seed_split_clip_and_index_all_matter():
    addresses = ((0, 'a', 0, 0), (1, 'a', 0, 0), (0, 'b', 0, 0), (0, 'a', 1, 0), (0, 'a', 0, 9))
    images = [rooms.frame(*address, (24, 32))['image'].astype(int) for address in addresses]
    for i, a in enumerate(images):
        for b in images[:i]:
            assert np.abs(a - b).mean() > 4


BAD = {
    'seed': (-1, 'train', 0, 0, SIZE),
    'clip': (0, 'train', -1, 0, SIZE),
    'index': (0, 'train', 0, 31, SIZE),
    'size': (0, 'train', 0, 0, (4, 9)),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_named(name):
    with pytest.raises(InputError, match=name):
        rooms.frame(*BAD[name])


# --- classes --------------------------------------------------------------------------------------


def test_the_names_of_the_world_are_the_classes_of_nyu():
    for number, name in enumerate(NYU40.names):
        constant = name.upper().replace(' ', '_').replace('OTHER', 'OTHER_')
        assert getattr(looks, constant.replace('REFRIDGERATOR', 'REFRIGERATOR')) == number


def test_all_classes_occur_in_twenty_rooms(twenty_rooms):
    share = shares([frame for clip in twenty_rooms for frame in clip])
    assert (share > 1e-4).all(), dict(zip(NYU40.names, share))
    assert share.argmax() == looks.WALL and share[looks.WALL] < 0.45
    assert 0.07 < share[looks.FLOOR] < 0.25
    merged = np.bincount(NYU13.train_ids, weights=share)
    assert merged.min() > 0.004, dict(zip(NYU13.classes.names, merged))
    classes = [len(np.unique(clip[1]['label'])) for clip in twenty_rooms]
    assert np.mean(classes) > 8


def test_things_keep_their_id_and_their_class_over_a_clip(twenty_rooms):
    shell = {looks.WALL, looks.FLOOR, looks.CEILING}
    in_view = []
    for clip in twenty_rooms:
        classes = {}
        for frame in clip:
            for number in np.unique(frame['instance']):
                labels = set(np.unique(frame['label_all'][frame['instance'] == number]))
                if number == 0:
                    assert labels <= shell
                else:
                    assert len(labels) == 1 and not labels & shell
                    assert classes.setdefault(number, labels) == labels
        target = set(np.unique(clip[1]['instance']))
        for frame in (clip[0], clip[2]):
            in_view.append(len(target & set(np.unique(frame['instance']))) / len(target))

    # 15 frames away, most things of the target are still in view, and some are not.
    assert 0.5 < np.mean(in_view) < 0.95 and min(in_view) < 0.6


def test_colour_alone_does_not_tell_the_class(twenty_rooms):
    """A histogram of colours per class, from half of the rooms, fails in the remaining rooms."""
    counts = np.zeros((8**3, 40))
    codes = []
    labels = []
    for _, target, _ in twenty_rooms:
        code = (target['image'] >> 5).astype(int) @ (64, 8, 1)
        codes.append(code.ravel())
        labels.append(target['label'].ravel())
    for code, label in zip(codes[::2], labels[::2]):
        np.add.at(counts, (code, label), 1)
    predicted = (counts / np.maximum(counts.sum(0), 1)).argmax(axis=1)
    code = np.concatenate(codes[1::2])
    label = np.concatenate(labels[1::2])
    recalls = [(predicted[code[label == k]] == k).mean() for k in np.unique(label)]
    assert np.mean(recalls) < 0.15


# --- geometry -------------------------------------------------------------------------------------


def primitives(clip):
    """Returns the quads and the ellipsoids of a clip of the split `train`."""
    return rooms._clip(0, 'train', clip).still.shape


@pytest.mark.parametrize('clip', [1, 2, 4])
def test_depth_and_labels_agree_with_a_ray_caster_in_float64(clip):
    size = (90, 120)
    frame = rooms.frame(0, 'train', clip, 7, size)
    pose = rooms._clip(0, 'train', clip).walk.pose(7)
    to_ray = np.linalg.inv(rooms.camera_matrix(size))
    rng = np.random.default_rng(0)
    wrong = 0
    for u, v in zip(rng.integers(0, 120, 150), rng.integers(0, 90, 150)):
        ray = pose[:3, :3] @ to_ray @ (u, v, 1)
        nearest, record = cast(pose[:3, 3], ray, *primitives(clip))
        same = frame['label_all'][v, u] == record['label']
        same &= frame['instance'][v, u] == record['instance']
        wrong += not (same and np.isclose(frame['depth_true'][v, u], nearest, rtol=1e-4))
    assert wrong <= 1  # a ray within rounding of a silhouette


def test_every_ray_hits_a_surface():
    for clip in range(5, 12):
        moment = rooms._moment(0, 'train', clip, 3 * clip % 31, (120, 160))
        assert (moment.hits.surface >= 0).all() and (moment.hits.inverse_depth > 0.05).all()


@pytest.mark.parametrize('clip', [1, 2, 3, 4])
def test_no_two_visible_surfaces_lie_in_each_other(clip):
    """Without a visible quad, the next surface is further away. Equal depths would flicker."""
    quads, ellipsoids = primitives(clip)
    pose = rooms._clip(0, 'train', clip).walk.pose(TARGET)
    camera = rooms.camera_matrix((24, 32))
    hits = render.visibility(quads, ellipsoids, camera, pose, (24, 32))
    for number in np.unique(hits.surface[hits.surface < len(quads)]):
        behind = render.visibility(np.delete(quads, number), ellipsoids, camera, pose, (24, 32))
        nearest = hits.inverse_depth * (1 - 3e-5)
        touching = (hits.surface == number) & (behind.inverse_depth > nearest)
        assert touching.sum() <= 2, quads['surface'][number]


def test_the_camera_is_never_in_a_wall_or_in_a_thing():
    directions = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    for clip in range(8):
        quads, ellipsoids = primitives(clip)
        walk = rooms._clip(0, 'train', clip).walk
        places = walk.places(np.arange(rooms.FRAMES_PER_CLIP))

        # Boxes around all things.
        ends = quads['origin'] + quads['edge_s'] + quads['edge_t']
        reach = ellipsoids['radii'].max(axis=1, keepdims=True)
        low = np.concatenate([np.minimum(quads['origin'], ends), ellipsoids['centre'] - reach])
        high = np.concatenate([np.maximum(quads['origin'], ends), ellipsoids['centre'] + reach])
        number = np.concatenate([quads['surface']['instance'], ellipsoids['surface']['instance']])
        for thing in range(1, number.max() + 1):
            inside = places > low[number == thing].min(axis=0) - 0.03
            inside &= places < high[number == thing].max(axis=0) + 0.03
            label = quads['surface']['label'][quads['surface']['instance'] == thing]
            # The box around a desk or a curtain rod contains much air, but not the camera.
            assert not inside.all(axis=1).any(), (clip, thing, label)

        # The room is closed around the camera, and nothing is close.
        for place in places[::15]:
            distances = [cast(place, ray + 1e-6, quads, ellipsoids)[0] for ray in directions]
            assert np.isfinite(distances).all() and min(distances) > 0.1


def hidden(point, moment, shape):
    """Returns whether something is between the camera of a moment and a point."""
    origin = moment.pose[:3, 3]
    nearest, _ = cast(origin, point - origin, *shape)
    return nearest < 1 - 1e-4


@pytest.mark.parametrize('clip', [0, 3, 9])
def test_flow_depth_and_pose_agree(clip):
    """The flow is derived a second time, and each NaN is a point out of view or hidden."""
    size = (90, 120)
    frame = rooms.frame(0, 'train', clip, 10, size)
    after = rooms.frame(0, 'train', clip, 11, size)
    true = frame | {'depth': frame['depth_true']}
    u, v, _ = project(world_points(true), after)
    pixels = np.stack(np.meshgrid(np.arange(120), np.arange(90)), axis=-1)
    moved = pixels + frame['flow_true']
    visible = np.isfinite(moved).all(axis=-1)
    assert visible.mean() > 0.85
    np.testing.assert_allclose(moved[visible], np.stack([u, v], axis=-1)[visible], atol=2e-3)

    # Points out of view have no flow, and neither have points behind another surface.
    inside = (u > -0.5) & (u < 119.5) & (v > -0.5) & (v < 89.5)
    assert not visible[~inside].any()
    moment = rooms._moment(0, 'train', clip, 11, size)
    points = world_points(true)
    rng = np.random.default_rng(0)

    def share_hidden(mask):
        places = rng.permutation(points[mask])[:120]
        return np.mean([hidden(place, moment, primitives(clip)) for place in places])

    assert share_hidden(visible) < 0.01

    # Hardly any of the remaining points lack it: at borders, by less than half a pixel.
    lost = inside & ~visible
    assert lost.mean() * (1 - share_hidden(lost)) < 0.004
    assert share_hidden(lost) > 0.1


@pytest.mark.parametrize('clip', [0, 3, 9])
def test_flow_warps_the_next_frame_onto_a_frame(clip):
    size = (90, 120)
    frame = rooms.frame(0, 'train', clip, 10, size)
    after = rooms.frame(0, 'train', clip, 11, size)
    flow = frame['flow_true']
    u = np.arange(120) + flow[..., 0]
    v = np.arange(90)[:, None] + flow[..., 1]
    inside = (u > 0) & (u < 118.9) & (v > 0) & (v < 88.9)
    u, v = u[inside], v[inside]

    # Labels and things, wherever the four pixels around the point agree.
    for key in ('label_all', 'instance'):
        values, _ = corners(after[key], u, v)
        inner = (values == values[0]).all(0)
        assert inner.mean() > 0.75
        assert (values[0] == frame[key][inside])[inner].mean() > 0.998

    # Depth: 1 / z of a plane is affine in the image, so that interpolation is exact.
    _, _, z = project(world_points(frame | {'depth': frame['depth_true']}), after)
    after_record = rooms._moment(0, 'train', clip, 11, size).hits.surface[::2, ::2]
    record = rooms._moment(0, 'train', clip, 10, size).hits.surface[::2, ::2][inside]
    records, weight = corners(after_record, u, v)
    same = (records == record).all(0) & (record < len(primitives(clip).quads))
    depth, _ = corners(after['depth_true'].astype(float), u, v)
    error = np.abs((weight / depth).sum(0) * z[inside] - 1)
    assert same.mean() > 0.6 and error[same].max() < 1e-3


def test_the_last_frame_has_no_flow(twenty_rooms):
    assert all(np.isnan(last['flow_true']).all() for _, _, last in twenty_rooms)


def test_the_camera_moves_like_a_hand(twenty_rooms):
    """The medians of NYUDv2, every third frame at 160 columns: 0.95, 1.7 and 2.9 pixels."""
    medians = []
    for first, target, _ in twenty_rooms:
        for frame in (first, target):
            medians.append(np.nanmedian(np.hypot(*np.moveaxis(frame['flow_true'], -1, 0))))
    low, middle, high = np.quantile(np.array(medians) / SIZE[1] * 160, (0.25, 0.5, 0.75))
    assert 0.5 < low < middle < high < 5 and 1.0 < middle < 3.0


def test_colours_are_anchored_in_the_world():
    size = (90, 120)
    frames = [rooms.frame(0, 'train', 3, index, size) for index in (10, 12)]
    middle = rooms.frame(0, 'train', 3, 11, size)
    u = np.arange(120) + frames[0]['flow_true'][..., 0]
    v = np.arange(90)[:, None] + frames[0]['flow_true'][..., 1]
    inside = (u > 0) & (u < 118.9) & (v > 0) & (v < 88.9)
    image, weight = corners(middle['image'].astype(float), u[inside], v[inside])
    source = frames[0]['image'].astype(float)[inside]
    warped = np.abs((image * weight[..., None]).sum(0) - source).mean()
    unmoved = np.abs(middle['image'].astype(float)[inside] - source).mean()
    assert warped < 0.8 * unmoved


# --- the depth sensor -----------------------------------------------------------------------------


def test_noise_of_depth_grows_with_its_square(twenty_rooms):
    error = []
    depth = []
    for clip in twenty_rooms:
        for frame in clip:
            measured = frame['depth'] > 0
            error.append((frame['depth'] - frame['depth_true'])[measured])
            depth.append(frame['depth_true'][measured])
    error = np.concatenate(error)
    depth = np.concatenate(depth)
    expected = np.hypot(sensor.NOISE, sensor.STEP / np.sqrt(12))
    for low, high in ((1, 1.5), (2, 2.5), (3, 3.5), (4, 5)):
        near = (depth > low) & (depth < high)
        squared = (depth[near] ** 2).mean()
        assert error[near].std() == pytest.approx(expected * squared, rel=0.08)
        assert abs(error[near].mean()) < 0.1 * expected * squared


def test_depth_has_steps_holes_and_a_range(twenty_rooms):
    frames = [frame for clip in twenty_rooms for frame in clip]
    depth = np.stack([frame['depth'] for frame in frames])
    steps = 1 / depth[depth > 0] / sensor.STEP
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert depth[depth > 0].min() >= sensor.RANGE[0] and depth.max() <= sensor.RANGE[1]
    assert 0.01 < (depth == 0).mean() < 0.12

    # Panes, mirrors and screens are holes for the most part.
    labels = np.stack([frame['label_all'] for frame in frames])
    for label in (looks.MIRROR, looks.WINDOW, looks.TELEVISION):
        assert (depth[labels == label] == 0).mean() > 0.25
    assert (depth[labels == looks.FLOOR] == 0).mean() < 0.06


@pytest.mark.parametrize('left, right', [(20, 45), (0, 30), (31, 32)])
def test_the_projector_leaves_a_shadow_on_the_left_of_things(left, right):
    """A thing at 1 m before a wall at 3 m hides f b (1/1 - 1/3) columns on its left."""
    focal = 200.0
    inverse = np.full((1, 64), 1 / 3)
    inverse[0, left:right] = 1.0
    shadow = np.flatnonzero(sensor.in_shadow(inverse, focal)[0])
    width = focal * sensor.BASELINE * (1 - 1 / 3)
    expected = [u for u in range(left) if left <= u + width < right]
    np.testing.assert_array_equal(shadow, expected)


# --- the data set ---------------------------------------------------------------------------------


def open_rooms(tmp_path, **keys):
    world = dict(num_train=33, num_val=1, size=(16, 24), seed=5)
    config = layouts.data_config('rooms', '', tmp_path / 'cache', world=world, **keys)
    return data.prepare(config)


def test_records_are_what_the_world_renders(tmp_path):
    prepared = open_rooms(tmp_path)
    spec = prepared.spec
    assert spec.num_examples == {'train': 33, 'val': 1} and spec.classes == NYU40
    assert set(builder.FEATURES) <= set(spec.features)
    assert spec.num_unlabelled == {'train': 31}
    source = prepared.open_split('train', spec.features)
    for index, clip, number in ((0, 0, 0), (15, 0, 15), (30, 0, 30), (31, 1, 14), (32, 1, 15)):
        example = source[index]
        frame = rooms.frame(5, 'train', clip, number, (16, 24))
        for key in set(builder.FEATURES) & set(frame):
            np.testing.assert_array_equal(example[key], frame[key])
            assert example[key].dtype == frame[key].dtype
        assert (example['sequence'], example['frame']) == (f'train_{clip:05}', number)
    only = prepared.open_split('val', ('label', 'frame'))[0]
    assert only['frame'] == TARGET and (only['label'] != IGNORE).all()


def test_a_last_clip_keeps_the_frames_around_its_target():
    config = layouts.data_config('rooms', '', '', world=dict(num_train=1, num_val=1, size=SIZE,
                                                            seed=0))  # fmt: skip
    dataset = builder.Rooms(config)
    for number in range(1, 32):
        frames = dataset.clip_frames(number)
        assert len(frames) == number and TARGET in frames
        assert frames[0] >= 0 and frames[-1] <= LAST


@pytest.mark.parametrize('name, class_map', [('13', NYU13), ('4', NYU4)])
def test_class_maps(tmp_path, name, class_map):
    prepared = open_rooms(tmp_path, class_map=name)
    assert prepared.spec.classes == class_map.classes
    assert prepared.spec.classes.num_classes == int(name)
    label = rooms.frame(5, 'train', 0, TARGET, (16, 24))['label']
    source = prepared.open_split('train', ('label', 'label_all'))
    np.testing.assert_array_equal(source[TARGET]['label'], np.array(class_map.train_ids)[label])
    assert (source[0]['label'] == IGNORE).all()
    # The exact labels keep their 40 classes.
    np.testing.assert_array_equal(source[TARGET]['label_all'], label)


def test_an_ellipsoid_has_the_normal_of_its_surface():
    """Normals against differences of neighbouring points, on a turned ellipsoid."""
    still, walk = rooms._clip(0, 'train', 8)
    size = (120, 160)
    pose = walk.pose(TARGET)
    hits = render.visibility(*still.shape, rooms.sample_matrix(size), pose, (240, 320))
    samples = rooms.shading.locate(still, hits, rooms.sample_matrix(size), pose)
    points = samples.points.astype(float)
    normal = np.cross(points[:, 1:-1, 2:] - points[:, 1:-1, :-2],
                      points[:, 2:, 1:-1] - points[:, :-2, 1:-1], axis=0)  # fmt: skip
    normal /= -np.linalg.norm(normal, axis=0)
    record = hits.surface
    same = (record[1:-1, 2:] == record[1:-1, :-2]) & (record[2:, 1:-1] == record[:-2, 1:-1])
    curved = same & (record[1:-1, 1:-1] >= len(still.shape.quads))
    cosine = (normal * samples.normals[:, 1:-1, 1:-1]).sum(axis=0)
    assert curved.sum() > 100
    assert np.median(cosine[curved]) > 0.999
    assert np.quantile(cosine[same & ~curved], 0.01) > 0.99
