"""The world `faces`: exact landmarks and parts, and an appearance that landmarks leave open."""

import cv2
import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import face_points, transforms
from segjax.data.labels import FACE_PARTS
from segjax.data.worlds import faces, studio
from segjax.data.worlds.faces import looks as looks_lib
from segjax.data.worlds.faces import paint, shape
from segjax.errors import InputError

SIZE = (160, 160)
BARE = dict(style='bald', beard='none', glasses='none')
"""Looks that cover no landmark."""


def bare_face(index, size=SIZE, **keys):
    looks = faces.looks_of(0, 'train', index)._replace(**BARE | keys)
    return faces.render(faces.shape_of(0, 'train', index), looks, size)


def depth_inside(polygon, size=SIZE):
    """Returns the distance of each pixel from a polygon [n, 2], positive inside, [H, W]."""
    polygon = polygon.astype(np.float32)
    return np.array(
        [
            [cv2.pointPolygonTest(polygon, (float(x), float(y)), True) for x in range(size[1])]
            for y in range(size[0])
        ]
    )


def same(a, b):
    return all(np.array_equal(a[key], b[key]) for key in a)


# --- faces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(64, 64), (33, 50), (8, 8)])
def test_shapes_types_and_ranges(size):
    face = faces.face(0, 'val', 0, size)
    expected = {
        'image': (np.uint8, (*size, 3)),
        'label': (np.uint8, size),
        'points': (np.float32, (68, 2)),
    }
    assert {key: (value.dtype.type, value.shape) for key, value in face.items()} == expected
    assert np.isfinite(face['points']).all()
    assert face['label'].max() < FACE_PARTS.num_classes


def test_a_face_is_a_pure_function_whatever_was_rendered_before():
    first = faces.face(3, 'train', 1, (32, 32))
    for index in (2, 0, 5):
        faces.face(3, 'train', index, (24, 40))
    assert same(first, faces.face(3, 'train', 1, (32, 32)))


def test_seed_split_and_index_all_matter():
    addresses = ((0, 'train', 0), (1, 'train', 0), (0, 'val', 0), (0, 'train', 1))
    rendered = [faces.face(*address, (32, 32)) for address in addresses]
    for i, a in enumerate(rendered):
        for b in rendered[:i]:
            assert np.abs(a['image'].astype(int) - b['image']).mean() > 4
            assert np.abs(a['points'] - b['points']).mean() > 0.1


def test_bad_addresses_are_errors():
    for address in (
        (-1, 'train', 0, (32, 32)),
        (0, 'train', -1, (32, 32)),
        (0, 'train', 0, (4, 32)),
    ):
        with pytest.raises(InputError, match='faces: '):
            faces.face(*address)


def test_a_larger_image_is_the_same_face_in_finer_pixels():
    small = faces.face(0, 'train', 6, (64, 64))
    large = faces.face(0, 'train', 6, (256, 256))
    np.testing.assert_allclose(large['points'], 4 * small['points'] + 1.5, atol=1e-3)
    averaged = cv2.resize(large['image'], (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(averaged.astype(int) - small['image']).mean() < 4


def test_every_part_occurs_and_all_landmarks_are_in_the_image():
    shares = np.zeros(FACE_PARTS.num_classes)
    for index in range(40):
        label = faces.face(0, 'train', index, (48, 48))['label']
        shares += np.bincount(label.ravel(), minlength=len(shares)) / label.size / 40
    assert (shares > 2e-3).all(), dict(zip(FACE_PARTS.names, shares))
    for index in range(300):
        points = shape.landmarks(faces.shape_of(0, 'train', index), (64, 64))
        assert points.min() > 0 and points.max() < 63


# --- landmarks lie on the drawn parts -------------------------------------------------------------


def test_pixels_map_to_the_front_view_and_back():
    u, v = np.meshgrid(np.arange(96.0), np.arange(96.0))
    for index in range(20):
        face = faces.shape_of(0, 'train', index)
        back = shape.to_image(face, *shape.to_front(face, u, v, (96, 96)), (96, 96))
        assert max(np.abs(back[0] - u).max(), np.abs(back[1] - v).max()) < 0.01


@pytest.mark.parametrize('index', range(4))
def test_eyes_and_lips_fill_the_polygons_of_their_landmarks(index):
    face = bare_face(index)
    points, label = face['points'], face['label']
    eyes = np.maximum(
        depth_inside(points[face_points.LEFT_EYE]), depth_inside(points[face_points.RIGHT_EYE])
    )
    # Polygons cut the corners of curves by up to a pixel.
    assert (label[eyes > 0.5] == paint.EYE).all()
    assert (label[eyes < -1.5] != paint.EYE).all()
    outer = depth_inside(points[face_points.OUTER_LIPS])
    inner = depth_inside(points[face_points.INNER_LIPS])
    assert (label[inner > 0.5] == paint.MOUTH).all()
    assert (label[inner < -1.5] != paint.MOUTH).all()
    assert (label[(outer > 0.5) & (inner < -1.5)] == paint.LIP).all()
    assert (label[outer < -2] != paint.LIP).all()


def test_some_mouths_are_open_and_some_are_closed():
    opened = [(bare_face(i, (64, 64))['label'] == paint.MOUTH).any() for i in range(12)]
    assert any(opened) and not all(opened)
    for index in np.flatnonzero(np.logical_not(opened)):
        y = shape.landmarks(faces.shape_of(0, 'train', index), (64, 64))[60:, 1]
        np.testing.assert_allclose(y[1:4], y[:4:-1], atol=1e-6)


@pytest.mark.parametrize('index', range(6))
def test_brows_and_nose_are_drawn_at_their_landmarks(index):
    face = bare_face(index)
    columns, rows = np.rint(face['points']).astype(int).T
    label = face['label'][rows, columns]
    assert (label[face_points.BROWS] == paint.BROW).all()
    assert (label[28:31] == paint.NOSE).all()
    # The base of the nose lies on the edge of the nose.
    nose = (face['label'] == paint.NOSE).astype(np.uint8)
    edge = cv2.dilate(nose, np.ones((3, 3))) - cv2.erode(nose, np.ones((3, 3)))
    assert edge[rows[31:36], columns[31:36]].all()


@pytest.mark.parametrize('index', range(6))
def test_the_jaw_lies_on_the_edge_of_the_head(index):
    face = faces.shape_of(0, 'train', index)
    x, y = shape.front_landmarks(face)[face_points.JAW].T
    np.testing.assert_allclose(shape.contour(face, x, y), 0, atol=1e-9)
    u, v = shape.to_image(face, x, y, SIZE)
    points = bare_face(index)['points']
    np.testing.assert_allclose(points[face_points.JAW], np.stack([u, v], 1), atol=1e-4)
    inside = shape.to_image(face, 0.96 * x, 0.96 * y, SIZE)
    columns, rows = np.rint(inside).astype(int)
    assert (bare_face(index)['label'][rows, columns] == paint.SKIN).all()


@pytest.mark.parametrize('index', range(6))
@pytest.mark.parametrize('gaze', [-0.3, 0.3])
def test_the_pupils_are_inside_of_the_eyes(index, gaze):
    face = faces.shape_of(0, 'train', index)
    image = bare_face(index, gaze=gaze)['image']
    points = shape.landmarks(face, SIZE)
    y = (face.eye_lower - face.eye_upper) / 2
    for side, eye in ((-1, face_points.LEFT_EYE), (1, face_points.RIGHT_EYE)):
        x = side * face.eye_x + gaze * face.eye_width
        u, v = shape.to_image(face, x, y, SIZE)
        polygon = points[eye].astype(np.float32)
        assert cv2.pointPolygonTest(polygon, (float(u), float(v)), True) > 1
        # The glint may cover the middle, and dark pixels remain around it.
        row, column = round(float(v)), round(float(u))
        assert image[row - 2 : row + 3, column - 2 : column + 3].max(-1).min() < 40


def test_lips_have_the_colour_of_the_looks_inside_of_their_landmarks():
    green = np.array([0.02, 0.6, 0.02])
    face = bare_face(0, lip=green, blush=0.0)
    red = bare_face(0, lip=green[[1, 0, 2]], blush=0.0)
    changed = (face['image'] != red['image']).any(-1)
    outer = depth_inside(face['points'][face_points.OUTER_LIPS])
    # Without blush, the colour of lips is nowhere else.
    assert not changed[outer < -2].any()
    lips = face['label'] == paint.LIP
    assert changed[lips & (outer > 1)].mean() > 0.95


# --- mirrored faces -------------------------------------------------------------------------------


@pytest.mark.parametrize('index', range(6))
def test_a_mirrored_face_is_the_flipped_example(index):
    size = (72, 64)
    declared = {'points_face': face_points.FEATURE}
    face = faces.shape_of(0, 'train', index)
    looks = faces.looks_of(0, 'train', index)
    plain = faces.render(face, looks, size)
    mirrored = faces.render(shape.mirrored(face), looks_lib.mirrored(looks), size)
    example = {
        'image': plain['image'],
        'label': plain['label'],
        'points_face': plain['points'],
    }
    flipped = transforms.apply_geometry(
        example, transforms.flip_matrix(size[1]), size, declared=declared
    )
    np.testing.assert_allclose(flipped['points_face'], mirrored['points'], atol=1e-4)
    assert (flipped['label'] != mirrored['label']).mean() < 2e-3
    assert np.abs(flipped['image'].astype(int) - mirrored['image']).max() <= 2


def test_pairs_swap_every_landmark_off_the_middle_line_once():
    places = [place for pair in face_points.PAIRS for place in pair]
    middle = {8, 27, 28, 29, 30, 33, 51, 57, 62, 66}
    assert sorted(places) == sorted(set(range(68)) - middle)
    front = shape.front_landmarks(faces.shape_of(0, 'train', 0))
    for left, right in face_points.PAIRS:
        np.testing.assert_allclose(front[left], front[right] * (-1, 1), atol=1e-9)
        assert front[left][0] < 0 < front[right][0]


# --- appearance -----------------------------------------------------------------------------------


def test_looks_change_the_image_and_no_landmark():
    face = faces.shape_of(0, 'train', 3)
    rendered = [
        faces.render(face, faces.looks_of(0, 'train', index), (48, 48)) for index in range(24)
    ]
    for other in rendered[1:]:
        np.testing.assert_array_equal(rendered[0]['points'], other['points'])
    images = np.stack([one['image'] for one in rendered]).astype(float)
    # Pixels inside of the face and on the backdrop vary much.
    assert images.std(0)[20:40, 15:33].mean() > 35
    assert images.std(0)[:6].mean() > 35


def factors(looks):
    """Returns all factors of looks as numbers, choices as 0 or 1 for each choice."""
    numbers = []
    for name, value in looks._asdict().items():
        if isinstance(value, str):
            choices = {'style': looks_lib.STYLES, 'beard': looks_lib.BEARDS}
            numbers += [value == choice for choice in choices.get(name, looks_lib.GLASSES)]
        elif isinstance(value, tuple):
            numbers += [number for part in value for number in np.ravel(part)]
        else:
            numbers += list(np.ravel(value))
    return np.array(numbers, float)


def test_no_factor_of_the_looks_correlates_with_a_landmark():
    count = 800
    looks = np.stack([factors(faces.looks_of(0, 'train', i)) for i in range(count)])
    shapes = [faces.shape_of(0, 'train', i) for i in range(count)]
    points = np.stack([shape.front_landmarks(face).ravel() for face in shapes])
    poses = np.array([[face.yaw, face.pitch, face.roll, face.scale] for face in shapes])
    conditions = np.concatenate([points, poses], axis=1)
    conditions = conditions[:, conditions.std(0) > 1e-9]
    correlation = np.corrcoef(looks.T, conditions.T)[: looks.shape[1], looks.shape[1] :]
    assert np.isfinite(correlation).all()
    # Independent pairs stay below 5 / sqrt(count).
    assert np.abs(correlation).max() < 5 / np.sqrt(count)


def test_factors_have_the_documented_distributions():
    table = looks_lib.__doc__
    for name in looks_lib.Looks._fields:
        assert f'    {name} ' in table, name
    looks = [faces.looks_of(0, 'train', index) for index in range(1200)]
    error = 4 * np.sqrt(0.25 / len(looks))
    for style in looks_lib.STYLES:
        share = np.mean([look.style == style for look in looks])
        assert share == pytest.approx(1 / len(looks_lib.STYLES), abs=error)
    for share, expected in (
        (np.mean([look.beard == 'none' for look in looks]), 0.5),
        (np.mean([look.glasses == 'none' for look in looks]), 0.65),
        (np.mean([look.blush == 0 for look in looks]), 0.5),
        (np.mean([look.tint > 0.2 for look in looks]), 1 / 6),
    ):
        assert share == pytest.approx(expected, abs=error)
    for name, low, high in (
        ('hairline', 0.62, 0.8),
        ('part', -0.35, 0.35),
        ('length', 0.9, 1.9),
        ('gaze', -0.3, 0.3),
        ('teeth', 0, 1),
        ('beard_strength', 0.35, 0.95),
    ):
        values = (np.array([getattr(look, name) for look in looks]) - low) / (high - low)
        assert values.min() >= 0 and values.max() <= 1
        assert values.mean() == pytest.approx(0.5, abs=error)
        assert values.std() == pytest.approx(12**-0.5, abs=0.03)


# --- painting -------------------------------------------------------------------------------------


@pytest.mark.parametrize('angle', [0.0, 0.4, np.pi / 2])
def test_coverage_of_a_half_plane_is_its_area_in_each_pixel(angle):
    x, y = np.meshgrid(np.arange(12.0), np.arange(12.0))
    field = 3 * (np.cos(angle) * (x - 5.3) + np.sin(angle) * (y - 5.3))
    cover = studio.coverage(field)
    assert ((cover > 0.5) == (field < 0)).all()
    # Areas by 32 x 32 samples of each pixel.
    offsets = (np.arange(32) + 0.5) / 32 - 0.5
    fine_x = (np.arange(12.0)[:, None] + offsets).ravel()
    fine = np.cos(angle) * (fine_x - 5.3) + np.sin(angle) * (fine_x[:, None] - 5.3) < 0
    area = fine.reshape(12, 32, 12, 32).mean((1, 3))
    np.testing.assert_allclose(cover, area, atol=0.07)


def test_coverage_of_several_fields_is_their_common_region():
    x, y = np.meshgrid(np.arange(9.0), np.arange(9.0))
    cover = studio.coverage(x - 4.2, y - 3.4)
    assert ((cover > 0.5) == ((x < 4.2) & (y < 3.4))).all()


# --- data set -------------------------------------------------------------------------------------


def test_the_data_set_is_what_the_world_renders(tmp_path):
    world = dict(num_train=3, num_val=2, size=(16, 24), seed=5)
    config = layouts.data_config('faces', '', tmp_path / 'cache', world=world)
    prepared = data.prepare(config)
    spec = prepared.spec
    assert spec.num_examples == {'train': 3, 'val': 2} and spec.max_size['val'] == (16, 24)
    assert spec.declared == {'points_face': face_points.FEATURE}
    assert spec.classes == FACE_PARTS
    source = prepared.open_split('train', spec.features)
    for index in range(3):
        example = source[index]
        face = faces.face(5, 'train', index, (16, 24))
        np.testing.assert_array_equal(example['image'], face['image'])
        np.testing.assert_array_equal(example['label'], face['label'])
        np.testing.assert_array_equal(example['points_face'], face['points'])
        assert example['name'] == f'train_{index:05}'
