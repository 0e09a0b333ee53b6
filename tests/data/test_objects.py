"""Tables of objects against loops over pixels, and crops around drawn objects."""

import functools

import chex
import jax.numpy as jnp
import layouts
import ml_collections
import numpy as np
import pytest
from scipy import stats

from segjax import data
from segjax.data import computation, crops, derived, kinds, labels, loader, objects, transforms
from segjax.data.builders import ade20k
from segjax.data.records import never_stop
from segjax.data.worlds import streets
from segjax.errors import InputError
from segjax.ops import squares
from segjax.protocol import Input
from segjax.spec import IGNORE, Feature

SIZE = (96, 192)
CLASSES = labels.CITYSCAPES
MOVABLE = objects.train_ids_of(labels.CITYSCAPES_MOVABLE, CLASSES)


def crop_settings(**options):
    """Returns settings for the small frames of these tests."""
    small = dict(size=64, min_side=6, max_side=40)
    return objects.object_crop(labels.CITYSCAPES_MOVABLE, CLASSES, **{**small, **options})


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    config = layouts.data_config('streets', '', tmp_path_factory.mktemp('cache'))
    config.world.update(num_train=16, num_val=8, size=SIZE)
    return data.prepare(config)


@pytest.fixture(scope='module')
def frames():
    """Returns the maps of frames of several clips."""
    rendered = [streets.frame(0, 'train', clip, 3, SIZE) for clip in range(12)]
    return [{key: each[key] for key in ('image', 'label', 'instance')} for each in rendered]


@pytest.fixture(scope='module')
def frame(frames):
    """Returns the frame with most movable objects."""
    return max(frames, key=lambda each: len(movable_objects(each)))


def by_hand(example):
    """Returns [(-area, id, box, class)] of all objects, pixel by pixel, in order."""
    pixels = {}
    for y, x in np.argwhere(example['instance']):
        pixels.setdefault(int(example['instance'][y, x]), []).append((int(x), int(y)))
    rows = []
    for instance, places in pixels.items():
        xs, ys = zip(*places, strict=True)
        ordered = sorted(int(example['label'][y, x]) for x, y in places)
        train_id = ordered[(len(ordered) - 1) // 2]
        if train_id != IGNORE:
            box = (min(xs) - 0.5, min(ys) - 0.5, max(xs) + 0.5, max(ys) + 0.5)
            rows.append((-len(places), instance, box, train_id))
    return sorted(rows)


def movable_objects(example, min_side=0):
    """Returns {id: (box, class)} of the movable objects whose longer side is large enough."""
    return {
        instance: (box, train_id)
        for _, instance, box, train_id in by_hand(example)
        if train_id in MOVABLE and max(box[2] - box[0], box[3] - box[1]) >= min_side
    }


def check_objects(found, rows):
    np.testing.assert_array_equal(found.areas, [-area for area, *_ in rows])
    np.testing.assert_array_equal(found.instances, [instance for _, instance, *_ in rows])
    np.testing.assert_array_equal(found.boxes, [box for *_, box, _ in rows])
    np.testing.assert_array_equal(found.train_ids, [train_id for *_, train_id in rows])


# --- tables ---------------------------------------------------------------------------------------


def test_objects_are_those_of_a_loop_over_pixels(frames):
    for each in frames[:4]:
        rows = by_hand(each)
        assert len(rows) > 3
        check_objects(objects.find_objects(each), rows)
        limit = -rows[2][0]
        large = objects.find_objects(each, min_share=limit / np.prod(SIZE))
        check_objects(large, [row for row in rows if -row[0] >= limit])


def test_the_class_is_the_median_and_void_objects_are_dropped():
    """Object 7 is half road, half car: the smaller counts. Object 70000 is mostly void."""
    label = np.full((4, 6), 13, np.uint8)
    instance = np.zeros((4, 6), np.int32)
    instance[0] = 7
    label[0] = (0, 13, 0, 13, 0, 13)
    instance[1:3, 1:4] = 70_000
    label[1:3, 1:4] = IGNORE
    label[1, 1] = 2
    instance[3, 5] = 2_000_000_000
    found = objects.find_objects({'label': label, 'instance': instance})
    assert found.instances.tolist() == [7, 2_000_000_000]
    assert found.train_ids.tolist() == [0, 13] and found.areas.tolist() == [6, 1]
    assert found.boxes.tolist() == [[-0.5, -0.5, 5.5, 0.5], [4.5, 2.5, 5.5, 3.5]]


def test_a_map_without_objects_has_an_empty_table():
    maps = {'label': np.zeros((4, 6), np.uint8), 'instance': np.zeros((4, 6), np.uint16)}
    found = objects.find_objects(maps)
    chex.assert_shape(found.boxes, (0, 4))
    boxes = objects.object_table(maps, 'boxes', 3)
    assert boxes.shape == (3, 4) and np.isnan(boxes).all() and boxes.dtype == np.float32
    for field, empty in (('train_ids', 255), ('areas', 0), ('instances', 0)):
        table = objects.object_table(maps, field, 3)
        assert table.tolist() == [empty] * 3 and table.dtype == np.int32


def test_tables_are_derived_features(world):
    """Computes the tables of a split. They have the largest objects, and then empty rows."""
    features = objects.object_features(6, min_share=0.002)
    names = [feature.name for feature in features]
    assert names == ['object_boxes', 'object_train_ids', 'object_areas', 'object_instances']
    derived_world = with_features(world, features)
    source = derived_world.open_split('val', ('label', 'instance', *names))
    lengths = set()
    for i in range(len(source)):
        example = source[i]
        found = objects.find_objects(example, 0.002).chosen(slice(6))
        number = len(found.areas)
        lengths.add(number)
        for name, values in zip(names, found, strict=True):
            assert len(example[name]) == 6
            np.testing.assert_array_equal(example[name][:number], values)
        assert np.isnan(example['object_boxes'][number:]).all()
        assert (example['object_train_ids'][number:] == IGNORE).all()
    assert max(lengths) > 1


def with_features(prepared, features):
    """Returns a data set with computed features of `val`."""
    spec = derived.promised(prepared.spec, features)
    made = prepared._replace(spec=spec, derived=features)
    inputs = Input('val', 1, tuple(each.name for each in features), SIZE)
    computation.make(made.store, [inputs], 1, never_stop)
    return made


@pytest.mark.parametrize('options', [dict(num_objects=0), dict(num_objects=3, min_share=1.5)])
def test_tables_without_rows_are_refused(options):
    with pytest.raises(InputError, match='num_objects of at least 1'):
        objects.object_features(**options)


def test_an_instance_map_of_another_size_is_named():
    maps = {
        'label': np.zeros((4, 6), np.uint8),
        'instance': np.zeros((4, 8), np.uint16),
        'name': 'bonn_000003',
    }
    with pytest.raises(InputError, match='label and instance of bonn_000003') as error:
        objects.find_objects(maps)
    assert '4 x 6, instance 4 x 8' in error.value.got


# --- classes --------------------------------------------------------------------------------------


def test_the_8_movable_classes_of_cityscapes():
    ids = [CLASSES.ids[train_id] for train_id in MOVABLE]
    assert ids == [24, 25, 26, 27, 28, 31, 32, 33]


def test_classes_are_ranked_by_their_boxes(frames):
    tables = [objects.find_objects(each) for each in frames]
    counts = dict.fromkeys(labels.CITYSCAPES_MOVABLE, 0)
    for each in frames:
        for _, train_id in movable_objects(each, 9).values():
            counts[CLASSES.names[train_id]] += 1
    ranked = objects.rank_classes(tables, CLASSES, labels.CITYSCAPES_MOVABLE, min_side=9)
    assert dict(ranked) == counts and ranked[0][1] > 3
    # `sorted` keeps the order of the train ids where numbers are equal.
    assert ranked == sorted(counts.items(), key=lambda entry: -entry[1])
    assert len(objects.rank_classes(tables, CLASSES)) == 19


def test_a_class_that_the_data_set_lacks_is_named():
    with pytest.raises(InputError, match="did you mean 'motorcycle'"):
        objects.train_ids_of(('car', 'motorcylce'), CLASSES)
    with pytest.raises(InputError, match='class of objects'):
        objects.rank_classes([], CLASSES, ('sofa',))


# --- boxes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('box', 'says'),
    [
        ((3.5, 2.5, 3.5, 6.5), 'without an area'),
        ((3.5, 6.5, 9.5, 2.5), 'without an area'),
        ((np.nan, 0, 1, 1), 'without an area'),
        ((-1.5, 2.5, 3.5, 6.5), 'outside of the map'),
        ((3.5, 2.5, 20.5, 6.5), 'outside of the map'),
        ((30.5, 2.5, 33.5, 6.5), 'outside of the map'),
    ],
)
def test_a_wrong_box_is_named(box, says):
    for function in (objects.box_mask, functools.partial(objects.context_square, margin=2.0)):
        with pytest.raises(InputError, match=says) as error:
            function(np.array(box), size=(10, 20))
        assert error.value.where == 'box of an object'


@pytest.mark.parametrize(
    ('box', 'size', 'says'),
    [
        ((3.5, 2.5, 3.5, 6.5), (10, 20), 'without an area'),
        ((3.5, 2.5, 20.5, 6.5), (10, 20), 'outside of the map'),
        ((-0.5, -0.5, 9.5, 9.5), (10, 10), 'the whole map'),
        ((-0.5, -0.5, 19.5, 9.5), (10, 20), 'all that the net sees'),
        ((4.5, -0.5, 14.5, 9.5), (10, 20), 'all that the net sees'),
        ((-0.2, -0.1, 9.2, 9.1), (10, 10), 'the whole map'),
        ((-0.5, 2.5, 19.5, 6.5), (10, 20), '20 pixels long'),
        ((10, 10, 90, 10.5), (200, 200), '80 x 0.5 pixels'),
        ((10, 10, 95, 15), (200, 200), '85 x 5 pixels'),
        ((3.2, 3.2, 3.8, 9.5), (10, 20), '0.6 x 6.3 pixels'),
        # The row 11 lies between the samples of the cut, whose steps are 1.4 pixels.
        ((10, 10.2, 32.4, 11.7), (200, 200), '22.4 x 1 pixels'),
        # The column 0 lies between the samples: the context has no pixel in the cut.
        ((0.5, -0.5, 64.5, 63.5), (64, 65), 'all that the net sees'),
        ((0.5, 6.5, 64.5, 70.5), (80, 65), 'all that the net sees'),
        ((3, 3, 3.4, 3.4), (10, 20), '0.4 x 0.4 pixels'),
        ((19.6, 3, 20, 9), (10, 20), 'outside of the map'),
        ((0, 0, 10, 10), (10, 10), '[0, 0, 10, 10], the whole map'),
        ((0, 3, 20.1, 9), (10, 20), 'outside of the map'),
    ],
)
def test_a_box_that_cannot_be_edited_is_named(box, size, says):
    with pytest.raises(InputError) as error:
        objects.check_edit_box(np.array(box), size, 'box of a.png', pixels=32, margin=2.0)
    assert error.value.where == 'box of a.png'
    assert says in error.value.got
    assert error.value.expected and error.value.fix


def test_the_part_of_a_box_inside_of_the_map_is_offered():
    with pytest.raises(InputError) as error:
        objects.check_edit_box(np.array((2, -3, 9, 4)), (10, 20), pixels=32, margin=2.0)
    assert error.value.fix == 'its part inside: [2, -0.5, 9, 4]'


def test_a_box_may_end_at_the_number_of_pixels():
    """x1 = W and y1 = H hold the last pixels, as W - 0.5 and H - 0.5."""
    for box in ((12, 4, 20, 10), (12, 4, 19.5, 9.5)):
        objects.check_edit_box(np.array(box), (10, 20), pixels=32, margin=2.0)
        assert objects.box_mask(np.array(box), (10, 20)).sum() == 8 * 6


def test_boxes_with_context_can_be_edited():
    """A pixel of the cut is enough: 85 pixels and their margin are cut to 32."""
    size = (200, 300)
    for box in ((10, 10, 95, 15.4), (-0.5, -0.5, 199.5, 150), (99.5, 99.5, 100.5, 100.5)):
        objects.check_edit_box(np.array(box), size, pixels=32, margin=2.0)


def test_the_net_sees_each_accepted_box_and_pixels_around_it():
    """The cut on the device has pixels of the box and of its context, and all of them fill it."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(4, (31, 41), (400, 2))
    lengths = np.flip(sizes, 1)
    edges = np.sort(generator.uniform(-0.5, lengths[:, None], (400, 2, 2)), axis=1)
    boxes = np.float32(np.where(np.arange(400)[:, None, None] % 2, edges, np.round(edges)))
    accepted = []
    for i, size in enumerate(sizes):
        try:
            objects.check_edit_box(boxes[i].ravel(), tuple(size), pixels=16, margin=1.2)
        except InputError:
            continue
        accepted.append(i)
    assert 100 < len(accepted) < 300

    # The device works on a canvas for all maps.
    boxes = jnp.asarray(boxes[accepted].reshape(-1, 4))
    inside = squares.box_masks(boxes, (30, 40))
    around = squares.squares_of(boxes, 1.2, jnp.asarray(sizes[accepted]))
    seen = np.asarray(squares.cut(inside.astype(jnp.uint8), around, 16))
    assert seen.any((1, 2)).all() and not seen.all((1, 2)).any()
    of_maps = np.indices((30, 40))[None] < sizes[accepted][:, :, None, None]
    filled = np.asarray(squares.box_masks(around, (30, 40)))
    assert not (np.asarray(inside) & of_maps.all(1) & ~filled).any()


def test_the_mask_of_a_tight_box_has_its_extent(frame):
    for box in objects.find_objects(frame).boxes:
        mask = objects.box_mask(box, SIZE)
        np.testing.assert_array_equal(crops.extent(mask > 0), box)
        assert mask.sum() == np.prod(box[2:] - box[:2])


def test_boxes_grow_by_a_share_and_at_least_by_a_pixel():
    boxes = np.array([[9.5, 9.5, 309.5, 19.5], [-0.5, 0.5, 3.5, 399.5]], np.float32)
    grown = objects.enlarged(boxes, 0.01, (400, 400))
    assert grown.tolist() == [[6.5, 8.5, 312.5, 20.5], [-0.5, -0.5, 4.5, 399.5]]
    assert objects.enlarged(boxes, 0, (400, 400)) is boxes


def test_a_scaled_box_keeps_its_centre_up_to_whole_pixels():
    box = np.array([19.5, 29.5, 39.5, 39.5], np.float32)
    assert objects.scaled(box, 1.5, (100, 100)).tolist() == [14.5, 26.5, 44.5, 42.5]
    assert objects.scaled(box, 1.0, (100, 100)).tolist() == box.tolist()
    assert objects.scaled(box, 9.0, (50, 100)).tolist() == [-0.5, -0.5, 99.5, 49.5]


@pytest.mark.parametrize('margin', [1.0, 2.0, 3.0])
@pytest.mark.parametrize('box', [(19.5, 29.5, 39.5, 39.5), (-0.5, 79.5, 7.5, 99.5)])
def test_the_square_has_the_side_and_the_shift_of_the_formula(margin, box):
    """The map is large, so nothing is cut off but the place."""
    box = np.array(box)
    longer = 20.0
    centre = (box[:2] + box[2:]) / 2
    for jitter in ((0.5, 0.5), (0.0, 1.0), (0.9, 0.2)):
        square = objects.context_square(box, margin, (300, 400), jitter)
        assert np.allclose(square[2:] - square[:2], margin * longer)
        assert (square[:2] <= box[:2] + 1e-4).all() and (square[2:] >= box[2:] - 1e-4).all()
        shift = (margin - 1) * longer / 4 * (2 * np.array(jitter) - 1)
        first = np.maximum(centre + shift - margin * longer / 2, -0.5)
        np.testing.assert_allclose(square[:2], first, atol=1e-4)


def test_the_square_lies_in_a_small_map():
    square = objects.context_square(np.array([4.5, 2.5, 24.5, 12.5]), 3.0, (30, 50), (1.0, 1.0))
    np.testing.assert_allclose(square[2:] - square[:2], 30)
    assert square[1] == -0.5 and square[3] == 29.5 and square[0] >= -0.5 and square[2] <= 49.5
    # A box that is wider than the map is high does not fit into a square.
    square = objects.context_square(np.array([-0.5, 2.5, 49.5, 12.5]), 2.0, (30, 50), (0.5, 0.5))
    np.testing.assert_allclose(square, [9.5, -0.5, 39.5, 29.5])


def test_background_boxes_have_all_sides_and_places():
    rng = np.random.default_rng(0)
    boxes = [objects.background_box((20, 30), 4, 7, rng.random(4)) for _ in range(4000)]
    x0, y0, x1, y1 = np.array(boxes).T + 0.5
    for length, map_length, first in ((x1 - x0, 30, x0), (y1 - y0, 20, y0)):
        assert set(length) == {4, 5, 6, 7}
        assert stats.chisquare(np.unique(length, return_counts=True)[1]).pvalue > 0.01
        places = first[length == 4]
        assert set(places) == set(range(map_length - 3))
        assert stats.chisquare(np.unique(places, return_counts=True)[1]).pvalue > 0.01
    whole = objects.background_box((20, 30), 64, 256, (0.9, 0.9, 0.9, 0.9))
    assert whole.tolist() == [-0.5, -0.5, 29.5, 19.5]


# --- crops ----------------------------------------------------------------------------------------


def draws(example, count=400, **options):
    crop = crop_settings(**options)
    return [objects.crop_object(example, np.random.default_rng(i), crop) for i in range(count)]


def test_every_allowed_object_is_equally_likely(frame):
    candidates = movable_objects(frame, 6)
    assert len(candidates) > 4
    crop = crop_settings()
    counts = dict.fromkeys(candidates, 0)
    for seed in range(1500):
        shares = np.random.default_rng(seed).random(10)
        drawn = objects._drawn_object(frame, crop, shares[:2])
        counts[drawn.instance] += 1
        assert (tuple(drawn.box), drawn.train_id) == candidates[drawn.instance]
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_only_large_objects_of_allowed_classes_are_drawn(frames):
    (car,) = objects.train_ids_of(('car',), CLASSES)
    for each in frames:
        crop = crop_settings(min_side=12)._replace(classes=(car,))
        allowed = {i for i, (_, its) in movable_objects(each, 12).items() if its == car}
        drawn = [objects._drawn_object(each, crop, (0.5, u)) for u in np.linspace(0, 0.999, 50)]
        assert {each.instance for each in drawn if each} == allowed
        assert allowed or not any(drawn)


def test_a_crop_is_the_moved_scene(frame):
    """Moves label, object and box apart by the matrix of the crop. All results agree."""
    crop = crop_settings(flip=0.5, margin=3.0)
    flips = set()
    for seed in range(40):
        made = objects.crop_object(frame, np.random.default_rng(seed), crop)
        shares = np.random.default_rng(seed).random(10)
        drawn = objects._drawn_object(frame, crop, shares[:2])
        square = objects.context_square(drawn.box, 3.0, SIZE, shares[7:9])
        cut = crops.crop_and_resize(
            {key: frame[key] for key in ('label', 'instance', 'image')}, square, (64, 64)
        )
        flips.add(bool(shares[9] < 0.5))
        if shares[9] < 0.5:
            cut = {key: value[:, ::-1] for key, value in cut.items()}
        assert made['class_id'] == drawn.train_id
        np.testing.assert_array_equal(made['label'], cut['label'])
        np.testing.assert_array_equal(made['mask_object'], cut['instance'] == drawn.instance)
        assert not (made['mask_object'] > made['mask_box']).any(), 'the object is in its box'
        assert not (made['mask_box'] > made['mask_out']).any()

        # The box in the cut is the edge of its mask, up to half a pixel of the cut.
        clipped = np.clip(made['box'][0], -0.5, 63.5)
        edges = crops.extent(made['mask_box'] > 0)
        np.testing.assert_allclose(edges, clipped, atol=0.51)
    assert flips == {True, False}


def test_a_cut_of_the_size_of_its_square_copies_pixels():
    """A box of 16 pixels with margin 2 fills 32 pixels, and nothing is interpolated."""
    label = np.random.default_rng(0).integers(0, 19, (64, 64)).astype(np.uint8)
    instance = np.zeros((64, 64), np.uint16)
    instance[20:36, 24:40] = 26001
    label[20:36, 24:40] = 13
    crop = crop_settings(size=32, flip=0.0)

    class Middle:
        def random(self, count):
            return np.full(count, 0.5)

    made = objects.crop_object({'label': label, 'instance': instance}, Middle(), crop)
    np.testing.assert_array_equal(made['label'], label[12:44, 16:48])
    np.testing.assert_array_equal(made['mask_object'], instance[12:44, 16:48] > 0)
    np.testing.assert_array_equal(made['mask_box'], made['mask_object'])
    np.testing.assert_allclose(made['box'], [[7.5, 7.5, 23.5, 23.5]])
    # 16 * 1.35 / 2 = 10.8, and 11 pixels on each side of the centre.
    assert crops.extent(made['mask_out'] > 0).tolist() == [4.5, 4.5, 26.5, 26.5]


def test_the_instance_map_can_be_kept(frame):
    crop = crop_settings(flip=0.5)
    for seed in range(10):
        made = objects.crop_object(
            frame, np.random.default_rng(seed), crop._replace(keep_instance=True)
        )
        instance = made.pop('instance')
        assert instance.dtype == frame['instance'].dtype
        drawn = objects._drawn_object(frame, crop, np.random.default_rng(seed).random(10)[:2])
        np.testing.assert_array_equal(made['mask_object'], instance == drawn.instance)
        plain = objects.crop_object(frame, np.random.default_rng(seed), crop)
        assert set(plain) == set(made)
        for key, value in plain.items():
            np.testing.assert_array_equal(made[key], value)


def test_the_whole_map_can_be_stretched_to_the_result(frame):
    crop = crop_settings(size=96, whole_map=True)
    made = objects.crop_object(frame, np.random.default_rng(3), crop)
    drawn = objects._drawn_object(frame, crop, np.random.default_rng(3).random(10)[:2])
    stretched = transforms.apply_geometry(
        {'label': frame['label'], 'instance': frame['instance']},
        transforms.resize_matrix(SIZE, (96, 96)),
        (96, 96),
    )
    np.testing.assert_array_equal(made['label'], stretched['label'])
    np.testing.assert_array_equal(made['mask_object'], stretched['instance'] == drawn.instance)
    np.testing.assert_allclose(made['box'][0, ::2], (drawn.box[::2] + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(made['box'][0, 1::2], drawn.box[1::2])


def test_objects_below_a_share_of_the_map_are_not_drawn(frame):
    crop = crop_settings(min_side=1, min_share=0.01)
    rows = [row for row in by_hand(frame) if row[3] in MOVABLE]
    allowed = {row[1] for row in rows if -row[0] >= 0.01 * frame['label'].size}
    drawn = [objects._drawn_object(frame, crop, (0.5, u)) for u in np.linspace(0, 0.999, 50)]
    assert {each.instance for each in drawn} == allowed and len(allowed) < len(rows)


def test_background_boxes_have_their_probability_and_their_class(frame):
    made = draws(frame, 600, background=0.3)
    background = [each for each in made if each['class_id'] == 19]
    assert stats.binomtest(len(background), 600, 0.3).pvalue > 0.01
    assert not any(each['mask_object'].any() for each in background)
    assert all(each['mask_box'].any() for each in background)
    others = {int(each['class_id']) for each in made} - {19}
    assert others <= set(MOVABLE)


def test_a_map_without_objects_gives_background():
    maps = {'label': np.zeros(SIZE, np.uint8), 'instance': np.zeros(SIZE, np.uint16)}
    made = draws(maps, 3, background_class=34)
    assert {int(each['class_id']) for each in made} == {34}


def test_the_background_class_of_bedrooms_is_no_class():
    names = labels.ADE20K_BEDROOM_INTEREST[:7]
    crop = objects.object_crop(names, labels.ADE20K_BEDROOM, enlarge=0.01, margin=3.0)
    assert crop.background_class == 49 and labels.ADE20K_BEDROOM.names[48] == 'chandelier'
    with pytest.raises(InputError, match='background_class') as error:
        objects.object_crop(names, labels.ADE20K_BEDROOM, background_class=48)
    assert 'no class has' in error.value.expected


@pytest.mark.parametrize(
    'options',
    [
        dict(background_class=255),
        dict(size=0),
        dict(margin=0.5),
        dict(min_side=0),
        dict(min_side=9, max_side=8),
        dict(min_share=2.0),
        dict(background=1.5),
        dict(outside=(1.5, 1.2)),
        dict(outside=(0.5, 1.2)),
        dict(enlarge=-1.0),
        dict(flip=2.0),
    ],
)
def test_wrong_settings_are_named(options):
    name = list(options)[-1]
    with pytest.raises(InputError) as error:
        objects.object_crop(('car',), CLASSES, **options)
    assert error.value.where == f'{name} of object crops'


# --- each object an example -----------------------------------------------------------------------


def table_of(example, num_objects, crop):
    """Returns the table of an example as `targets_feature` computes it."""
    return objects.targets_feature(crop, num_objects).compute(example)


def test_targets_are_the_drawable_objects_the_largest_first(frames):
    """Compares the table with a loop over pixels. Its objects are those that can be drawn."""
    crop = crop_settings(min_side=8, min_share=0.002)
    numbers = set()
    for each in frames:
        large = movable_objects(each, 8)
        rows = [i for area, i, *_ in by_hand(each) if i in large and -area >= 0.002 * 96 * 192]
        table = table_of(each, 5, crop)
        assert table.dtype == np.int32
        assert table.tolist() == [*rows, 0, 0, 0, 0, 0][:5]
        drawn = [objects._drawn_object(each, crop, (0.5, u)) for u in np.linspace(0, 0.999, 60)]
        assert {each.instance for each in drawn if each} == set(rows)
        numbers.add(len(rows))
    assert len(numbers) > 3 and max(numbers) > 5, 'some images have more objects than rows'


def test_a_side_counts_after_the_box_has_grown():
    maps = {'label': np.full((20, 20), 13, np.uint8), 'instance': np.zeros((20, 20), np.uint16)}
    maps['instance'][5:12, 5:12] = 9
    crop = crop_settings(min_side=8)
    assert table_of(maps, 2, crop).tolist() == [0, 0]
    assert table_of(maps, 2, crop._replace(enlarge=0.01)).tolist() == [9, 0]


@pytest.mark.parametrize('options', [dict(flip=0.5, enlarge=0.05), dict(whole_map=True)])
def test_the_crop_of_a_row_is_the_crop_of_the_same_drawn_object(frame, options):
    """Draws with many generators. Cut around its row, a drawn object gives the same example."""
    crop = crop_settings(background=0.3, **options)
    table = table_of(frame, 40, crop)
    rows = set()
    for seed in range(80):
        drawn = objects._drawn_object(frame, crop, np.random.default_rng(seed).random(10)[:2])
        if drawn is None:
            continue
        row = table.tolist().index(drawn.instance)
        example = {**frame, 'targets': table, 'row': np.int32(row)}
        cut = objects.crop_target(example, np.random.default_rng(seed), crop)
        expected = objects.crop_object(frame, np.random.default_rng(seed), crop)
        assert cut.pop('row') == row
        chex.assert_trees_all_equal(cut, expected)
        rows.add(row)
    assert rows == set(range(np.count_nonzero(table))), 'every row was compared'


def test_the_background_probability_leaves_rows_as_they_are(frame):
    crop = crop_settings(background=1.0)
    table = table_of(frame, 3, crop)
    example = {**frame, 'others': table, 'row': np.int32(1)}
    made = objects.crop_target(example, np.random.default_rng(0), crop, targets='others')
    assert made['mask_object'].any() and made['class_id'] in MOVABLE
    assert 'others' not in made


@pytest.mark.parametrize('instance', [0, 54321])
def test_a_row_without_an_object_is_named(frame, instance):
    example = {**frame, 'targets': np.array([7, instance], np.int32), 'row': np.int32(1)}
    with pytest.raises(InputError, match="row 1 of 'targets'") as error:
        objects.crop_target(example, np.random.default_rng(0), crop_settings())
    assert str(instance) in error.value.got and 'targets_feature' in error.value.fix


def test_targets_are_a_derived_feature(world):
    """Computes the table of a split. Other limits are another table, other crops are not."""
    crop = crop_settings(min_side=8)
    made = with_features(world, (objects.targets_feature(crop, 4),))
    assert made.spec.declared['targets'] == Feature('number', (4,), dtype='int32')
    source = made.open_split('val', ('label', 'instance', 'targets'))
    for i in range(len(source)):
        np.testing.assert_array_equal(source[i]['targets'], table_of(source[i], 4, crop))

    def recipe(**options):
        feature = objects.targets_feature(crop._replace(**options), 4)
        return derived.recipes((feature,))['targets']

    assert recipe() == recipe(size=32, margin=3.0, flip=0.5, background=0.1)
    assert len({recipe(), recipe(min_side=9), recipe(classes=(13,)), recipe(enlarge=0.1)}) == 4


def test_a_table_of_targets_has_a_row():
    with pytest.raises(InputError, match="num_objects of feature 'targets'"):
        objects.targets_feature(crop_settings(), 0)


# --- inputs ---------------------------------------------------------------------------------------


def object_input(split='train', **options):
    transform = functools.partial(objects.crop_object, crop=crop_settings(**options))
    return Input(
        split,
        4,
        ('label', *objects.MADE),
        (64, 64),
        transform=transform,
        reads=('label', 'instance'),
        made=tuple(objects.MADE.items()),
        resize=False,
    )


def batches_of(source, inputs, steps, start_step=0, **options):
    settings = {'threads': 2, 'workers': 0, 'prefetch': 2, **options}
    batches = loader.train_iterator(
        source,
        inputs,
        seed=5,
        start_step=start_step,
        process_index=0,
        process_count=1,
        data_config=ml_collections.ConfigDict(settings),
    )
    try:
        return [next(batches) for _ in range(steps)]
    finally:
        batches.close()


def test_drawn_objects_are_an_input(world):
    inputs = object_input(background=0.2, flip=0.5)
    source = world.open_input(inputs)
    whole = batches_of(source, inputs, 6)
    shapes = {
        key: (value.shape, value.dtype)
        for key, value in kinds.in_step(whole[0], objects.MADE).items()
    }
    zeros = loader.zeros(inputs, 4).items()
    assert shapes == {key: (value.shape, value.dtype) for key, value in zeros}
    assert shapes['box'] == ((4, 1, 4), np.float32)

    # A later start and loader processes give the same objects.
    chex.assert_trees_all_equal(batches_of(source, inputs, 4, start_step=2), whole[2:])
    in_workers = batches_of(source, inputs, 2, workers=1, threads=1)
    chex.assert_trees_all_equal(in_workers, whole[:2])
    boxes = np.concatenate([batch['box'] for batch in whole])
    assert len(np.unique(boxes, axis=0)) > 12, 'another object in another epoch'


def test_evaluation_draws_by_the_index_alone(world):
    inputs = object_input('val')
    source = world.open_input(inputs)
    plain = world.open_split('val', inputs.reads)
    batch = loader.examples(source, range(8), inputs, max_size=(1, 1))
    for i in range(8):
        expected = objects.crop_object(plain[i], np.random.default_rng(i), crop_settings())
        for key in inputs.features:
            np.testing.assert_array_equal(batch[key][i], expected[key])


# --- data sets ------------------------------------------------------------------------------------


def test_objects_of_streets_serve_the_crop():
    """Draws each movable class that occurs in the world. No object is void."""
    classes = set()
    for clip in range(12):
        each = streets.frame(0, 'train', clip, 0, SIZE)
        found = objects.find_objects(each)
        movable = np.isin(found.train_ids, MOVABLE)
        classes |= set(found.train_ids[movable].tolist())
        # All movable pixels belong to an object of their class.
        moving = np.isin(each['label'], MOVABLE)
        assert (each['instance'][moving] > 0).all()
    assert {CLASSES.names[train_id] for train_id in classes} == set(labels.CITYSCAPES_MOVABLE)


def test_bedrooms_serve_the_crop_and_the_ranking(tmp_path, monkeypatch):
    """Numbers of objects from the files: each bed, wall, ... has the number of its class."""
    monkeypatch.setattr(ade20k.Bedrooms, 'num_val', 2)
    layouts.write_bedrooms(tmp_path)
    config = layouts.data_config('ade20k_bedroom', tmp_path, tmp_path / 'cache')
    prepared = data.prepare(config)
    classes = prepared.spec.classes
    source = prepared.open_split('train', ('label', 'instance'))
    tables = [objects.find_objects(source[i]) for i in range(3)]

    # Each example has objects 6 and 200 of wall, bed and chandelier.
    ranked = objects.rank_classes(tables, classes, ('chandelier', 'bed', 'lamp'))
    assert ranked == [('bed', 6), ('chandelier', 6), ('lamp', 0)]
    crop = objects.object_crop(
        ('bed', 'chandelier'), classes, size=32, min_side=1, max_side=8, enlarge=0.01, margin=3.0
    )
    made = [objects.crop_object(source[0], np.random.default_rng(i), crop) for i in range(20)]
    assert {int(each['class_id']) for each in made} == {2, 48}
    for each in made:
        inside = each['label'][each['mask_object'] > 0]
        assert inside.size and (inside == each['class_id']).all()


def test_objects_of_coco_are_things_that_are_no_crowd(tmp_path):
    layouts.write_coco_panoptic(tmp_path, images=False)
    config = layouts.data_config('coco_panoptic', tmp_path, tmp_path / 'cache')
    prepared = data.prepare(config)
    source = prepared.open_split('val', ('label', 'instance'))
    found = objects.find_objects(source[0])
    things = [(segment, 0 if category == 1 else 79) for segment, category, _ in SEGMENTS[:2]]
    assert sorted(zip(found.instances.tolist(), found.train_ids.tolist())) == sorted(things)
    whole = objects.object_crop(
        ('person',), prepared.spec.classes, size=24, min_side=1, whole_map=True
    )
    made = objects.crop_object(source[0], np.random.default_rng(0), whole)
    assert made['class_id'] == 0 and made['mask_object'].any()


SEGMENTS = layouts.COCO_SEGMENTS


def test_real_cityscapes(real_data, tmp_path):
    """The instance ids of Cityscapes are class id * 1000 + number: the classes are known."""
    config = layouts.data_config('cityscapes', real_data / 'cityscapes_mini', tmp_path)
    source = data.prepare(config).open_split('train', ('label', 'instance', 'name'))
    crop = objects.object_crop(labels.CITYSCAPES_MOVABLE, CLASSES, min_side=64, flip=0.5)
    number = 0
    for i in range(4):
        example = source[i]
        found = objects.find_objects(example)
        ids = [CLASSES.ids[train_id] for train_id in found.train_ids]
        np.testing.assert_array_equal(ids, found.instances // 1000)
        number += len(ids)
        made = objects.crop_object(example, np.random.default_rng(i), crop)
        if made['class_id'] in MOVABLE:
            inside = made['label'][made['mask_object'] > 0]
            assert (inside == made['class_id']).mean() > 0.99
    assert number > 40
