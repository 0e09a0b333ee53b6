"""Objects, boxes and windows: which pixels they hold, and cuts that are exact in every feature.

The examples are frames of the procedural world `streets`.
"""

import functools

import chex
import layouts
import ml_collections
import numpy as np
import pytest
from scipy import stats

from segjax import data
from segjax.data import crops, kinds, loader, transforms
from segjax.errors import InputError
from segjax.protocol import Input
from segjax.schema import AUGMENT
from segjax.spec import IGNORE, Feature

SIZE = (64, 128)
MAPS = ('image', 'label', 'instance', 'depth')
FEATURES = (*MAPS, 'intrinsics', 'pose')


@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    config = layouts.data_config('streets', '', tmp_path_factory.mktemp('cache'))
    config.world.update(num_train=16, num_val=8, size=SIZE)
    return data.prepare(config)


@pytest.fixture(scope='module')
def example(streets):
    """Returns a frame with many instances."""
    source = streets.open_split('train', FEATURES)
    return max((source[i] for i in range(16)), key=lambda e: len(np.unique(e['instance'])))


def instances_of(example):
    """Returns {id: (box, class, share)} of all instances that have a class, pixel by pixel."""
    pixels = {}
    for y, x in np.argwhere(example['instance']):
        pixels.setdefault(int(example['instance'][y, x]), []).append((x, y))
    found = {}
    for instance, places in pixels.items():
        xs, ys = zip(*places)
        labels = [int(example['label'][y, x]) for x, y in places]
        labels = [label for label in labels if label != IGNORE]
        if labels:
            box = (min(xs) - 0.5, min(ys) - 0.5, max(xs) + 0.5, max(ys) + 0.5)
            share = len(places) / example['instance'].size
            found[instance] = (box, max(sorted(set(labels)), key=labels.count), share)
    return found


def draw_all(example, count=600, **limits):
    draws = [
        crops.object_box(example, np.random.default_rng(seed), **limits) for seed in range(count)
    ]
    return [drawn for drawn in draws if drawn is not None]


# --- objects --------------------------------------------------------------------------------------


def test_a_drawn_object_has_the_extent_and_the_class_of_its_instance(example):
    expected = instances_of(example)
    drawn = draw_all(example)
    assert {each.instance for each in drawn} == expected.keys() and len(expected) > 5
    for each in drawn:
        box, train_id, _ = expected[each.instance]
        assert tuple(each.box) == box and each.train_id == train_id
        assert each.box.dtype == np.float32


def test_all_instances_are_equally_likely(example):
    drawn = [each.instance for each in draw_all(example, 3000)]
    counts = np.unique(drawn, return_counts=True)[1]
    assert stats.chisquare(counts).pvalue > 0.01


def test_only_instances_within_the_limits_are_drawn(example):
    expected = instances_of(example)
    shares = sorted(share for _, _, share in expected.values())
    limits = (shares[1], shares[-2])
    drawn = {each.instance for each in draw_all(example, share=limits)}
    allowed = {i for i, (_, _, share) in expected.items() if limits[0] <= share <= limits[1]}
    assert drawn == allowed and len(allowed) < len(expected)

    classes = {train_id for _, train_id, _ in expected.values()}
    for train_id in classes:
        drawn = {each.instance for each in draw_all(example, classes=(train_id,))}
        assert drawn == {i for i, (_, its, _) in expected.items() if its == train_id}
    assert not draw_all(example, 3, classes=()) and not draw_all(example, 3, share=(1.1, 2.0))


def test_instances_without_a_class_and_large_ids_are_handled():
    label = np.full((4, 6), IGNORE, np.uint8)
    instance = np.zeros((4, 6), np.int32)
    instance[0, 0] = 2_000_000_000
    instance[1:3, 2:5] = 70_000
    label[1, 2:5] = (3, 3, 4)
    drawn = draw_all({'label': label, 'instance': instance}, 20)
    assert {(each.instance, each.train_id) for each in drawn} == {(70_000, 3)}
    assert tuple(drawn[0].box) == (1.5, 0.5, 4.5, 2.5)


def test_maps_of_two_sizes_are_an_error():
    maps = {'label': np.zeros((4, 6), np.uint8), 'instance': np.ones((4, 8), np.uint16)}
    with pytest.raises(InputError, match='4 x 6, instance 4 x 8'):
        crops.object_box(maps, np.random.default_rng(0))


# --- boxes ----------------------------------------------------------------------------------------


def test_a_box_of_whole_pixels_is_copied(example):
    box = (19.5, 9.5, 59.5, 41.5)
    cut = crops.crop_and_resize(example, box, (32, 40))
    for key in MAPS:
        np.testing.assert_array_equal(cut[key], example[key][10:42, 20:60], strict=True)
    camera = example['intrinsics'].copy()
    camera[:2, 2] -= (20, 10)
    np.testing.assert_allclose(cut['intrinsics'], camera, rtol=1e-6)
    np.testing.assert_allclose(cut['pose'], example['pose'], rtol=1e-6)


def test_the_whole_image_is_a_box(example):
    whole = (-0.5, -0.5, SIZE[1] - 0.5, SIZE[0] - 0.5)
    chex.assert_trees_all_equal(crops.crop_and_resize(example, whole, SIZE), dict(example))
    halved = crops.crop_and_resize(example, whole, (32, 64))
    expected = transforms.apply_geometry(
        example, transforms.resize_matrix(SIZE, (32, 64)), (32, 64)
    )
    chex.assert_trees_all_equal(halved, expected)


def test_enlarged_pixels_are_repeated(example):
    """Enlarges by 3, so that the centre of a pixel lies on the centre of its block."""
    cut = crops.crop_and_resize(example, (19.5, 9.5, 59.5, 41.5), (96, 120))
    for key in ('label', 'instance', 'depth'):
        by_hand = example[key][10:42, 20:60].repeat(3, axis=0).repeat(3, axis=1)
        np.testing.assert_array_equal(cut[key], by_hand)
    np.testing.assert_array_equal(cut['image'][1::3, 1::3], example['image'][10:42, 20:60])


def test_cameras_see_the_same_points_in_the_cut(example):
    """Projects points of the scene with both cameras. The matrix of the cut relates the pixels."""
    box, size = (12.3, 5.25, 71.9, 44.0), (48, 80)
    cut = crops.crop_and_resize(example, box, size)
    points = np.random.default_rng(0).uniform((-3, -2, 4), (3, 2, 30), (50, 3))

    def pixels(intrinsics):
        projected = points @ intrinsics.T.astype(np.float64)
        return projected[:, :2] / projected[:, 2:]

    before, after = pixels(example['intrinsics']), pixels(cut['intrinsics'])
    scale = np.array([80 / (71.9 - 12.3), 48 / (44.0 - 5.25)])
    np.testing.assert_allclose(after, (before - (12.3, 5.25)) * scale - 0.5, atol=1e-3)
    assert set(np.unique(cut['depth'])) <= set(np.unique(example['depth'])), 'distances stay'


def test_points_and_boxes_follow_the_pixels(example):
    """Marks 30 pixels in a map of ids. In the cut, each id lies where its point says."""
    rng = np.random.default_rng(1)
    x, y = rng.permutation(SIZE[1])[:30], rng.integers(0, SIZE[0], 30)
    marks = np.zeros(SIZE, np.uint16)
    marks[y, x] = np.arange(1, 31)
    points = np.stack([x, y], axis=1).astype(np.float32)
    declared = {'corner': Feature('points', (30, 2)), 'hull': Feature('boxes', (30, 4))}
    marked = {
        'instance': marks,
        'corner': points,
        'hull': np.concatenate([points - 0.5, points + 0.5], axis=1),
    }
    box, factor = np.array([19.5, 9.5, 99.5, 57.5]), 3
    cut = crops.crop_and_resize(marked, box, (48 * factor, 80 * factor), declared)
    seen = 0
    for number, (x, y) in enumerate(cut['corner'], start=1):
        rows, columns = np.nonzero(cut['instance'] == number)
        inside = 0 <= x < 80 * factor and 0 <= y < 48 * factor
        assert inside == (rows.size > 0)
        if inside:
            assert (columns.mean(), rows.mean()) == pytest.approx((x, y), abs=1e-4)
            pixels = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert cut['hull'][number - 1] == pytest.approx(np.array(pixels) - 0.5, abs=1e-4)
        seen += inside
    assert 5 < seen < 30


def test_a_box_beyond_the_image_is_filled(example):
    cut = crops.crop_and_resize(example, (-10.5, -0.5, 9.5, 15.5), (16, 20))
    assert (cut['label'][:, :10] == IGNORE).all() and not cut['image'][:, :10].any()
    np.testing.assert_array_equal(cut['label'][:, 10:], example['label'][:16, :10])


@pytest.mark.parametrize('box', [(3, 3, 3, 5), (3, 5, 4, 2), (np.nan, 0, 1, 1)])
def test_a_box_without_area_is_an_error(box, example):
    with pytest.raises(InputError, match='x0 < x1 and y0 < y1'):
        crops.crop_and_resize(example, box, (4, 4))


@pytest.mark.parametrize('size', [(32, 32), (20, 50), (50, 20)])
def test_context_keeps_the_centre_and_has_the_aspect_ratio(size):
    box = np.array([2.5, 3.5, 12.5, 8.5])
    x0, y0, x1, y1 = crops.with_context(box, 1.5, size)
    assert (x0 + x1, y0 + y1) == (15, 12)
    assert (x1 - x0) / (y1 - y0) == pytest.approx(size[1] / size[0])
    assert x1 - x0 >= 15 - 1e-5 and y1 - y0 >= 7.5 - 1e-5
    assert x1 - x0 == pytest.approx(15) or y1 - y0 == pytest.approx(7.5)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize('size, places', [((62, 126), 9), ((64, 125), 4), ((66, 130), 9)])
def test_windows_are_at_all_places_equally_often(size, places):
    """Reads the place of a window off a map of positions. Larger windows contain the map."""
    column, row = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    positions = {'instance': (1000 * row + column + 1).astype(np.int32)}
    counts = {}
    for seed in range(2000):
        cut = crops.random_window(positions, np.random.default_rng(seed), size)['instance']
        y, x = np.argwhere(cut)[0]
        first = int(cut[y, x]) - 1
        top, left = first // 1000 - y, first % 1000 - x
        counts[top, left] = counts.get((top, left), 0) + 1
        visible = cut[cut > 0].reshape(min(size[0], SIZE[0]), -1)
        corner = positions['instance'][max(top, 0) :, max(left, 0) :]
        np.testing.assert_array_equal(visible, corner[: visible.shape[0], : visible.shape[1]])
    assert len(counts) == places
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_sliding_boxes_cover_every_pixel_with_the_smallest_number():
    boxes = crops.sliding_boxes((64, 128), (32, 32), 0.5)
    assert len(boxes) == 3 * 7
    np.testing.assert_array_equal(boxes[:2], [[-0.5, -0.5, 31.5, 31.5], [15.5, -0.5, 47.5, 31.5]])
    covered = np.zeros((64, 128), int)
    for x0, y0, x1, y1 in (boxes + 0.5).astype(int):
        covered[y0:y1, x0:x1] += 1
    assert covered.min() == 1 and boxes[-1].tolist() == [95.5, 31.5, 127.5, 63.5]
    assert crops.sliding_boxes((20, 40), (32, 32), 0.0).tolist() == [
        [-0.5, -0.5, 31.5, 31.5],
        [7.5, -0.5, 39.5, 31.5],
    ]


# --- transforms of inputs -------------------------------------------------------------------------


OBJECT = {'box': Feature('boxes', (1, 4)), 'train_id': Feature('number', dtype='int32')}


def crop_object(example, rng, size):
    """Cuts around a drawn object. Adds its class, and its box in the cut."""
    drawn = crops.object_box(example, rng, share=(0.001, 1.0))
    if drawn is None:
        drawn = crops.Object(np.array([-0.5, -0.5, 31.5, 31.5], np.float32), 0, 0)
    context = crops.with_context(drawn.box, 2.0, size)
    with_box = {**example, 'box': drawn.box[None]}
    cut = crops.crop_and_resize(with_box, context, size, OBJECT)
    return {**cut, 'train_id': drawn.train_id}


def random_patch(example, rng, size):
    return crops.random_window(example, rng, size)


def window_of_index(example, rng, size):
    """Cuts the window whose number is the index of the example."""
    boxes = crops.sliding_boxes(SIZE, size, 0.5)
    maps = {key: value for key, value in example.items() if key != 'index'}
    return crops.crop_and_resize(maps, boxes[example['index'] % len(boxes)], size)


def settings(**options):
    return ml_collections.ConfigDict({'threads': 2, 'workers': 0, 'prefetch': 2, **options})


def batches_of(source, inputs, steps, start_step=0, process=(0, 1), **options):
    batches = loader.train_iterator(
        source,
        inputs,
        seed=5,
        start_step=start_step,
        process_index=process[0],
        process_count=process[1],
        data_config=settings(**options),
    )
    try:
        return [next(batches) for _ in range(steps)]
    finally:
        batches.close()


def object_input(split='train', resize=False):
    return Input(
        split,
        4,
        ('label', 'depth', 'intrinsics', 'box', 'train_id'),
        (32, 32),
        transform=functools.partial(crop_object, size=(32, 32)),
        reads=('label', 'instance', 'depth', 'intrinsics'),
        made=tuple(OBJECT.items()),
        resize=resize,
    )


def test_nets_are_built_for_the_features_of_objects(streets):
    inputs = object_input()
    batch = batches_of(streets.open_input(inputs), inputs, 1)[0]
    shapes = {
        key: (value.shape, value.dtype) for key, value in kinds.in_step(batch, OBJECT).items()
    }
    zeros = loader.zeros(inputs, 4).items()
    assert shapes == {key: (value.shape, value.dtype) for key, value in zeros}
    assert shapes['box'] == ((4, 1, 4), np.float32) and shapes['train_id'] == ((4,), np.int32)


def test_made_boxes_are_augmented_like_made_maps(streets):
    """Flips all examples: the drawn box is mirrored with its label."""
    augment = ml_collections.ConfigDict({key: field.default for key, field in AUGMENT.items()})
    augment.update({'crop': (32, 32), 'scale': (1.0, 1.0), 'flip': 1.0})
    plain = object_input(resize=True)
    source = streets.open_input(plain)
    batch = batches_of(source, plain, 1)[0]
    flipped = batches_of(source, plain._replace(augment=augment), 1)[0]
    np.testing.assert_array_equal(flipped['label'], batch['label'][:, :, ::-1])
    mirrored = 31 - batch['box'][..., [2, 1, 0, 3]]
    mirrored[..., [1, 3]] = batch['box'][..., [1, 3]]
    np.testing.assert_allclose(flipped['box'], mirrored, atol=1e-5)


def test_an_input_of_objects_equals_crops_by_hand(streets):
    inputs = object_input('val')
    source = streets.open_input(inputs)
    plain = streets.open_split('val', inputs.reads)
    (batch,) = [loader.examples(source, range(8), inputs, max_size=(1, 1))]
    assert batch.keys() == {*inputs.features, 'weight', 'index', 'label_size'}
    assert (batch['label_size'] == 32).all()
    for i in range(8):
        expected = crop_object(plain[i], np.random.default_rng(i), (32, 32))
        for key in inputs.features:
            np.testing.assert_array_equal(batch[key][i], expected[key])
        centre = (batch['box'][i, 0, :2] + batch['box'][i, 0, 2:]) / 2
        np.testing.assert_allclose(centre, 15.5, atol=1e-3)


def test_objects_are_the_same_in_processes_and_after_a_restart(streets):
    inputs = object_input()
    source = streets.open_input(inputs)
    whole = batches_of(source, inputs, 6)
    chex.assert_trees_all_equal(batches_of(source, inputs, 4, start_step=2), whole[2:])
    shares = [batches_of(source, inputs, 6, process=(i, 2)) for i in range(2)]
    for batch, *halves in zip(whole, *shares):
        for key, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([half[key] for half in halves]))
    boxes = np.concatenate([batch['box'] for batch in whole])
    assert len(np.unique(boxes, axis=0)) > 12, 'another object in another epoch'


@pytest.mark.slow
def test_objects_are_the_same_in_workers(streets):
    """tests/data/test_loader.py shows it for other transforms."""
    inputs = object_input()
    source = streets.open_input(inputs)
    in_workers = batches_of(source, inputs, 4, start_step=2, workers=2, threads=1)
    chex.assert_trees_all_equal(in_workers, batches_of(source, inputs, 4, start_step=2))


def test_patches_and_windows_are_inputs_too(streets):
    patches = Input('train', 4, ('image', 'label'), (24, 40), resize=False)
    patches = patches._replace(transform=functools.partial(random_patch, size=(24, 40)))
    batch = batches_of(streets.open_input(patches), patches, 1)[0]
    chex.assert_shape(batch['image'], (4, 24, 40, 3))

    tiles = patches._replace(
        split='val',
        size=(32, 32),
        transform=functools.partial(window_of_index, size=(32, 32)),
        reads=('image', 'label', 'index'),
    )
    source = streets.open_input(tiles)
    cut = loader.examples(source, range(8), tiles, max_size=SIZE)
    plain = streets.open_split('val', ('image',))
    for i, (x0, y0, x1, y1) in enumerate((crops.sliding_boxes(SIZE, (32, 32), 0.5) + 0.5)[:8]):
        by_hand = plain[i]['image'][int(y0) : int(y1), int(x0) : int(x1)]
        np.testing.assert_array_equal(cut['image'][i], by_hand)
