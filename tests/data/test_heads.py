"""The world `heads`: exact normals of analytic surfaces, and an appearance they leave open."""

import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import transforms
from segjax.data.labels import HEAD_PARTS
from segjax.data.worlds import heads
from segjax.data.worlds.heads import looks as looks_lib
from segjax.data.worlds.heads import paint, surface
from segjax.errors import InputError

FRONT = dict(yaw=0.0, pitch=0.0, roll=0.0, shift=(0.0, 0.1))


def head_pair(index):
    return heads.shape_of(0, 'train', index), heads.looks_of(0, 'train', index)


def index_of(hanging):
    return next(i for i in range(20) if heads.shape_of(0, 'train', i).hanging == hanging)


def same(a, b):
    return all(np.array_equal(a[key], b[key]) for key in a)


# --- heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(64, 64), (33, 50), (8, 8)])
def test_shapes_types_and_ranges(size):
    head = heads.head(0, 'val', 0, size)
    expected = {
        'image': (np.uint8, (*size, 3)),
        'label': (np.uint8, size),
        'normals': (np.float32, (*size, 3)),
    }
    assert {key: (value.dtype.type, value.shape) for key, value in head.items()} == expected
    covered = head['label'] > 0
    length = np.linalg.norm(head['normals'], axis=-1)
    np.testing.assert_allclose(length, covered, atol=1e-6)
    assert (head['normals'][covered][:, 2] < 0).all()


def test_a_head_is_a_pure_function_whatever_was_rendered_before():
    first = heads.head(3, 'train', 1, (32, 32))
    for index in (2, 0, 5):
        heads.head(3, 'train', index, (24, 40))
    assert same(first, heads.head(3, 'train', 1, (32, 32)))


def test_seed_split_and_index_all_matter():
    addresses = ((0, 'train', 0), (1, 'train', 0), (0, 'val', 0), (0, 'train', 1))
    rendered = [heads.head(*address, (32, 32)) for address in addresses]
    for i, a in enumerate(rendered):
        for b in rendered[:i]:
            assert np.abs(a['image'].astype(int) - b['image']).mean() > 4
            assert np.abs(a['normals'] - b['normals']).mean() > 0.02


def test_bad_addresses_are_errors():
    for address in (
        (-1, 'train', 0, (32, 32)),
        (0, 'train', -1, (32, 32)),
        (0, 'train', 0, (4, 32)),
    ):
        with pytest.raises(InputError, match='heads: '):
            heads.head(*address)


def test_every_part_occurs_and_every_head_fills_the_image():
    shares = np.zeros(HEAD_PARTS.num_classes)
    for index in range(30):
        label = heads.head(0, 'train', index, (48, 48))['label']
        shares += np.bincount(label.ravel(), minlength=len(shares)) / label.size / 30
        assert 0.25 < (label > 0).mean() < 0.8
        assert (label == surface.NOSE).any() and (label == surface.EYE).any()
    assert (shares > 5e-3).all(), dict(zip(HEAD_PARTS.names, shares))


# --- surfaces -------------------------------------------------------------------------------------


@pytest.mark.parametrize('hanging', [False, True])
def test_normals_are_finite_differences_of_the_height(hanging):
    head = heads.shape_of(0, 'train', index_of(hanging))
    columns, rows = paint.places(head, (96, 96))
    scene = surface.surface(head, columns, rows)
    step = 1e-6
    slopes = []
    certain = scene.part > 0
    for dx, dy in ((step, 0), (0, step)):
        after = surface.surface(head, columns + dx, rows + dy)
        before = surface.surface(head, columns - dx, rows - dy)
        slopes.append((after.height - before.height) / (2 * step))
        certain &= (after.part > 0) & (before.part > 0)
    x, y = slopes
    vectors = np.stack([-x, -y, -np.ones_like(x)], axis=-1)
    expected = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    normals = surface.normals_of(scene)
    assert certain.sum() > 2000
    error = np.abs(normals - expected).max(-1)[certain]
    # Heights jump inside of a step at few places, where a part hides a part.
    assert np.quantile(error, 0.998) < 1e-4
    rendered = heads.render(head, heads.looks_of(0, 'train', 0), (96, 96))
    np.testing.assert_allclose(rendered['normals'], normals, atol=1e-6)


def test_every_ellipsoid_meets_its_equation_and_is_seen_from_the_front():
    head = heads.shape_of(0, 'train', index_of(True))
    columns = np.linspace(-1.6, 1.6, 90)
    rows = np.linspace(-1.5, 2.2, 100)
    for piece in surface.fur(head) + surface.details(head):
        window, height, _, _ = surface._evaluate(piece, columns, rows)
        hit = np.isfinite(height)
        assert hit.any()
        x, y = np.meshgrid(columns[window[1]], rows[window[0]])
        offset = np.stack([x, y, height], -1)[hit] - piece.centre
        gradient = offset @ piece.form
        np.testing.assert_allclose((offset * gradient).sum(-1), 1, atol=1e-6)
        assert (gradient[:, 2] > 0).all()
        # The window cuts nothing off: everything outside misses the ellipsoid.
        outside = np.ones((len(rows), len(columns)), bool)
        outside[window] = False
        all_x, all_y = np.meshgrid(columns, rows)
        heights, _, _ = surface._quadric(piece, all_x, all_y)
        assert not np.isfinite(heights[outside]).any()


def test_a_ball_has_the_normals_of_a_ball():
    ball = surface.Ellipsoid(surface.SKULL, np.array([0.1, -0.2, 0.3]), np.eye(3) / 0.5**2)
    columns = np.linspace(-0.3, 0.5, 41)
    rows = np.linspace(-0.6, 0.2, 31)
    window, height, slope, _ = surface._evaluate(ball, columns, rows)
    x, y = np.meshgrid(columns[window[1]], rows[window[0]])
    hit = np.isfinite(height)
    radial = (np.stack([x, y, height], -1) - ball.centre) / 0.5
    scene = surface.Surface(height, slope, hit.astype(np.uint8), np.zeros_like(height))
    # The height points to the camera, and z away from it.
    np.testing.assert_allclose(
        surface.normals_of(scene)[hit], (radial * (1, 1, -1))[hit], atol=1e-9
    )


def test_an_upright_ear_is_its_triangle_with_a_rim_around_a_dip():
    head = heads.shape_of(0, 'train', index_of(False))._replace(**FRONT)
    ear = next(piece for piece in surface.fur(head) if isinstance(piece, surface.Flap))
    columns = np.linspace(-2, 2, 301)
    rows = np.linspace(-2.2, 0, 301)
    window, height, _, u = surface._evaluate(ear, columns, rows)
    hit = np.isfinite(height)
    step = (columns[1] - columns[0]) * (rows[1] - rows[0])
    a, b, c = ear.corners[:, :2]
    area = abs((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]) / 2
    assert hit.sum() * step == pytest.approx(area, rel=0.02)
    assert u.max() == pytest.approx(1, abs=0.01)
    plane = np.linalg.solve(np.c_[ear.corners[:, :2], np.ones(3)], ear.corners[:, 2])
    x, y = np.meshgrid(columns[window[1]], rows[window[0]])
    over = height - (plane[0] * x + plane[1] * y + plane[2])
    assert over[hit].min() >= -1e-9
    middle = over[hit][u[hit] > 0.95].mean()
    assert middle < 0.5 * over[hit].max()


def test_the_smooth_joint_is_above_both_parts_and_close_to_them():
    head = heads.shape_of(0, 'train', 0)
    columns, rows = paint.places(head, (64, 64))
    scene = surface.surface(head, columns, rows)
    highest = np.full(scene.height.shape, -np.inf)
    for piece in surface.fur(head) + surface.details(head):
        window, height, _, _ = surface._evaluate(piece, columns, rows)
        np.maximum(highest[window], height, out=highest[window])
    covered = scene.part > 0
    assert np.array_equal(covered, np.isfinite(highest))
    excess = (scene.height - highest)[covered]
    assert excess.min() > -1e-9 and excess.max() < surface.BLEND * np.log(len(surface.fur(head)))


def test_a_frontal_head_shows_its_parts_in_their_places():
    head = heads.shape_of(0, 'train', index_of(False))._replace(**FRONT)
    label = heads.render(head, heads.looks_of(0, 'train', 0), (101, 101))['label']
    columns, rows = paint.places(head, (101, 101))

    def part_at(x, y):
        return label[np.abs(rows - y).argmin(), np.abs(columns - x).argmin()]

    for side in (-1, 1):
        x, y, _ = surface.eye_centre(head) * (side, 1, 1)
        assert part_at(x, y + 0.2 * head.eye) == surface.EYE
    assert part_at(*surface.nose_centre(head)[:2]) == surface.NOSE
    assert part_at(0, head.muzzle_y + 0.5 * head.muzzle[1]) == surface.MUZZLE
    assert part_at(0, -0.6) == surface.SKULL
    np.testing.assert_array_equal(label, label[:, ::-1])


# --- moved heads ----------------------------------------------------------------------------------


@pytest.mark.parametrize('index', range(5))
def test_a_mirrored_head_is_the_flipped_example(index):
    size = (72, 64)
    head, looks = head_pair(index)
    # Patches and the texture are not symmetric.
    looks = looks._replace(pattern='eye_patch', grain=0.0)
    plain = heads.render(head, looks, size)
    mirrored = heads.render(surface.mirrored(head), looks_lib.mirrored(looks), size)
    flipped = transforms.apply_geometry(plain, transforms.flip_matrix(size[1]), size)
    assert (flipped['label'] != mirrored['label']).mean() < 1e-3
    equal = flipped['label'] == mirrored['label']
    np.testing.assert_allclose(flipped['normals'][equal], mirrored['normals'][equal], atol=1e-4)
    assert np.abs(flipped['image'].astype(int) - mirrored['image']).max() <= 2


def test_a_head_that_rolls_by_a_quarter_is_the_turned_example():
    head, looks = head_pair(0)
    head = head._replace(roll=0.0, shift=(0.0, 0.0))
    upright = heads.render(head, looks, (64, 64))
    turned = heads.render(head._replace(roll=np.pi / 2), looks, (64, 64))
    # Clockwise: the component to the right becomes the component downwards.
    expected = np.rot90(upright['normals'], -1) @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    assert (np.rot90(upright['label'], -1) != turned['label']).mean() < 1e-3
    assert np.quantile(np.abs(expected - turned['normals']), 0.999) < 1e-4


def test_a_head_that_turns_to_the_right_shows_its_nose_on_the_right():
    head, looks = head_pair(0)
    places = []
    for yaw in (-0.4, 0.0, 0.4):
        label = heads.render(head._replace(**FRONT | dict(yaw=yaw)), looks, (64, 64))['label']
        places.append(np.nonzero(label == surface.NOSE)[1].mean())
    assert places[0] < places[1] - 4 < places[2] - 8


# --- appearance -----------------------------------------------------------------------------------


def test_looks_change_the_image_and_no_normal():
    head = heads.shape_of(0, 'train', 3)
    rendered = [
        heads.render(head, heads.looks_of(0, 'train', index), (48, 48)) for index in range(16)
    ]
    for other in rendered[1:]:
        np.testing.assert_array_equal(rendered[0]['normals'], other['normals'])
        np.testing.assert_array_equal(rendered[0]['label'], other['label'])
    images = np.stack([one['image'] for one in rendered]).astype(float)
    inside = rendered[0]['label'] > 0
    assert images.std(0)[inside].mean() > 30 and images.std(0)[~inside].mean() > 30


def factors(looks):
    """Returns all factors of looks as numbers, patterns as 0 or 1 for each pattern."""
    numbers = [looks.pattern == pattern for pattern in looks_lib.PATTERNS]
    for name, value in looks._asdict().items():
        if name in ('lamp', 'backdrop'):
            numbers += [number for part in value for number in np.ravel(part)]
        elif name != 'pattern':
            numbers += list(np.ravel(value))
    return np.array(numbers, float)


def test_no_factor_of_the_looks_correlates_with_the_shape():
    count = 800
    looks = np.stack([factors(heads.looks_of(0, 'train', i)) for i in range(count)])
    shapes = np.stack(
        [np.concatenate([np.ravel(v) for v in heads.shape_of(0, 'train', i)]) for i in range(count)]
    ).astype(float)
    shapes = shapes[:, shapes.std(0) > 0]
    correlation = np.corrcoef(looks.T, shapes.T)[: looks.shape[1], looks.shape[1] :]
    assert np.isfinite(correlation).all()
    # Independent pairs stay below 5 / sqrt(count).
    assert np.abs(correlation).max() < 5 / np.sqrt(count)


def test_factors_have_the_documented_distributions():
    for name in looks_lib.Looks._fields:
        assert f'    {name} ' in looks_lib.__doc__, name
    looks = [heads.looks_of(0, 'train', index) for index in range(1200)]
    error = 4 * np.sqrt(0.25 / len(looks))
    for pattern in looks_lib.PATTERNS:
        share = np.mean([look.pattern == pattern for look in looks])
        assert share == pytest.approx(1 / len(looks_lib.PATTERNS), abs=error)
    assert np.mean([look.side for look in looks]) == pytest.approx(0, abs=2 * error)
    for name, low, high in (('size', 0.7, 1.3), ('grain', 0.08, 0.25), ('inner', 0.2, 0.8)):
        values = (np.array([getattr(look, name) for look in looks]) - low) / (high - low)
        assert values.min() >= 0 and values.max() <= 1
        assert values.mean() == pytest.approx(0.5, abs=error)


@pytest.mark.parametrize('pattern', looks_lib.PATTERNS)
def test_every_pattern_shows_both_colours_but_a_plain_coat(pattern):
    head = heads.shape_of(0, 'train', 0)
    looks = heads.looks_of(0, 'train', 0)._replace(
        pattern=pattern, coat=np.array([0.6, 0.1, 0.1]), second=np.array([0.1, 0.1, 0.6])
    )
    rendered = heads.render(head, looks, (64, 64))
    fur = rendered['image'][np.isin(rendered['label'], (1, 2, 3, 6))].astype(int)
    second = (fur[:, 2] > fur[:, 0] + 30).mean()
    first = (fur[:, 0] > fur[:, 2] + 30).mean()
    assert first > 0.05
    assert (second > 0.02) == (pattern != 'solid')


# --- data set -------------------------------------------------------------------------------------


def test_the_data_set_is_what_the_world_renders(tmp_path):
    world = dict(num_train=3, num_val=2, size=(16, 24), seed=5)
    config = layouts.data_config('heads', '', tmp_path / 'cache', world=world)
    prepared = data.prepare(config)
    spec = prepared.spec
    assert spec.num_examples == {'train': 3, 'val': 2} and spec.classes == HEAD_PARTS
    source = prepared.open_split('train', spec.features)
    for index in range(3):
        example = source[index]
        head = heads.head(5, 'train', index, (16, 24))
        for key in ('image', 'label', 'normals'):
            np.testing.assert_array_equal(example[key], head[key])
        assert example['name'] == f'train_{index:05}'
