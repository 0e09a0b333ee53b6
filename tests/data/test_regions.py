"""Superpixels: a partition into connected regions that keeps to the edges of an image."""

import itertools
import pickle

import cv2
import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import computation, derived, edges, regions
from segjax.data.records import never_stop
from segjax.data.worlds import streets
from segjax.errors import InputError
from segjax.protocol import Input


def check_partition(ids, number):
    assert ids.dtype == np.int32 and set(np.unique(ids)) == set(range(number))
    for each in range(number):
        count, _ = cv2.connectedComponents((ids == each).astype(np.uint8), connectivity=4)
        assert count == 2, f'region {each} has {count - 1} parts'


def noise(size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)


IMAGES = {
    'noise': noise((37, 53)),
    'constant': np.full((37, 53, 3), 90, np.uint8),
    'streets': streets.frame(0, 'train', 0, 0, (64, 128))['image'],
}


@pytest.mark.parametrize('image', IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize('rows, columns', [(1, 1), (5, 7), (12, 20)])
def test_every_region_is_connected_and_every_pixel_has_a_region(image, rows, columns):
    ids = regions.regions(image, rows, columns)
    assert ids.shape == image.shape[:2]
    check_partition(ids, rows * columns)
    np.testing.assert_array_equal(ids, regions.regions(image, rows, columns))


def test_as_many_regions_as_pixels_are_the_pixels():
    ids = regions.regions(noise((4, 5)), 4, 5)
    np.testing.assert_array_equal(ids, np.arange(20).reshape(4, 5))


def test_regions_keep_to_the_edges_between_constant_colours():
    """Splits the image at places that no cell of the grid has. A grid has 183 wrong pixels."""
    image = np.zeros((48, 60, 3), np.uint8)
    image[:19, :] = (200, 30, 30)
    image[19:, :33] = (30, 200, 30)
    image[19:, 33:] = (30, 30, 200)
    image[5:12, 40:52] = (255, 255, 255)
    _, colors = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    colors = colors.reshape(48, 60)
    ids = regions.regions(image, 8, 10)
    y, x = np.mgrid[:48, :60]
    wrong = 2880 * (1 - achievable_accuracy(ids, colors))
    wrong_grid = 2880 * (1 - achievable_accuracy((y // 6) * 10 + x // 6, colors))
    # Lines of the watershed enclose single pixels.
    assert wrong <= 3 and wrong_grid > 100


def test_regions_of_a_constant_image_are_even():
    sizes = np.bincount(regions.regions(IMAGES['constant'], 4, 6).ravel())
    even = 37 * 53 / 24
    assert 0.5 * even < sizes.min() and sizes.max() < 1.7 * even


def achievable_accuracy(ids, label):
    """Returns the share of pixels that are right if each region gets its most frequent class."""
    right = sum(np.bincount(label[ids == each]).max() for each in np.unique(ids))
    return right / label.size


@pytest.mark.parametrize('seed', [0, 1])
def test_regions_follow_the_classes_of_streets_better_than_a_grid(seed):
    frame = streets.frame(seed, 'train', 0, 0, (128, 256))
    label = frame['label'].astype(int)
    y, x = np.mgrid[:128, :256]
    grid = (y // 16) * 16 + x // 16
    ids = regions.regions(frame['image'], 8, 16)
    wrong = 1 - achievable_accuracy(ids, label)
    wrong_grid = 1 - achievable_accuracy(grid, label)
    assert wrong < 0.7 * wrong_grid and wrong < 0.14


def test_the_derived_feature_is_that_of_the_image(tmp_path):
    config = layouts.data_config('streets', '', tmp_path)
    config.world.update(num_train=2, num_val=1, size=(32, 64))
    prepared = data.prepare(config)
    features = (regions.superpixels(6, 8),)
    spec = derived.promised(prepared.spec, features)
    prepared = prepared._replace(spec=spec, derived=features)
    inputs = Input('train', 1, ('ids_region',), (32, 64))
    computation.make(prepared.store, [inputs], 1, never_stop)
    source = prepared.open_split('train', ('image', 'ids_region'))
    for i in range(2):
        expected = regions.regions(source[i]['image'], 6, 8)
        np.testing.assert_array_equal(source[i]['ids_region'], expected)
        assert source[i]['ids_region'].dtype == np.int32


def test_more_cells_than_pixels_are_refused():
    with pytest.raises(InputError, match='at least one pixel'):
        regions.regions(noise((4, 5)), 5, 5)


# --- methods --------------------------------------------------------------------------------------


def same_partition(first, second):
    """Whether two label maps split the pixels in the same way."""
    pairs = set(zip(first.ravel().tolist(), second.ravel().tolist()))
    return len(pairs) == len(np.unique(first)) == len(np.unique(second))


def rectangles(seed, size=(96, 128), least=16):
    """Splits an image into rectangles. Returns (ids, image of constant colours, depth of steps)."""
    rng = np.random.default_rng(seed)
    boxes = [(0, 0, *size)]
    for _ in range(6):
        largest = max(boxes, key=lambda box: max(box[2] - box[0], box[3] - box[1]))
        boxes.remove(largest)
        top, left, bottom, right = largest
        if bottom - top > right - left:
            middle = int(rng.integers(top + least, bottom - least + 1))
            boxes += [(top, left, middle, right), (middle, left, bottom, right)]
        else:
            middle = int(rng.integers(left + least, right - least + 1))
            boxes += [(top, left, bottom, middle), (top, middle, bottom, right)]
    ids = np.zeros(size, int)
    image = np.zeros((*size, 3), np.uint8)
    depth = np.zeros(size, np.float32)
    palette = rng.permutation([(c & 1, c >> 1 & 1, c >> 2) for c in range(8)])
    for number, (top, left, bottom, right) in enumerate(boxes):
        place = np.s_[top:bottom, left:right]
        ids[place] = number
        image[place] = 40 + 150 * palette[number]
        depth[place] = 1 + 0.5 * number
    return ids, image, depth


def example_of(seed, colored=True):
    """(ids, example) of a scene of rectangles, without differences of colour if not `colored`."""
    ids, image, depth = rectangles(seed)
    return ids, {'image': image if colored else np.full_like(image, 120), 'depth': depth}


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('depth', [False, True])
@pytest.mark.parametrize('method', ['hierarchy', 'felzenszwalb'])
def test_rectangles_of_constant_colour_are_the_regions(method, depth, seed):
    truth, example = example_of(seed)
    options = {} if method == 'hierarchy' else {'sigma': 0.1}
    ids = regions.region_feature(method, depth=depth, **options).compute(example)
    assert same_partition(ids, truth)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('method', ['hierarchy', 'felzenszwalb'])
def test_a_step_of_depth_separates_surfaces_of_the_same_colour(method, seed):
    truth, example = example_of(seed, colored=False)
    options = {} if method == 'hierarchy' else {'sigma': 0.1}
    assert regions.region_feature(method, **options).compute(example).max() == 0
    ids = regions.region_feature(method, depth=True, **options).compute(example)
    assert same_partition(ids, truth)


def test_compact_regions_keep_to_steps_of_depth():
    truth, example = example_of(0, colored=False)
    by_depth = regions.region_feature('slic', depth=True, side=12, min_pixels=20).compute(example)
    by_color = regions.region_feature('slic', side=12, min_pixels=20).compute(example)
    assert achievable_accuracy(by_depth, truth) > 0.99 > 0.97 > achievable_accuracy(by_color, truth)


FRAME = streets.frame(0, 'train', 0, 0, (64, 128))


@pytest.mark.parametrize('depth', [False, True])
@pytest.mark.parametrize('method', regions.METHODS)
def test_regions_of_every_method_are_connected_and_numbered_without_gaps(method, depth):
    options = {} if method == 'hierarchy' else {'min_pixels': 30}
    compute = regions.region_feature(method, depth=depth, **options).compute
    ids = compute(FRAME)
    assert ids.shape == (64, 128) and ids.max() > 3
    check_partition(ids, ids.max() + 1)
    np.testing.assert_array_equal(ids, compute(FRAME))


def test_unmeasured_depth_takes_the_value_of_the_nearest_pixel():
    depth = np.full((6, 9), 2.0, np.float32)
    depth[:, 6:] = 4.0
    depth[2:4, 3:5] = 0
    values = regions.pixel_values(np.zeros((6, 9, 3), np.uint8), depth)
    expected = np.where(np.arange(9) < 6, 150.0, 75.0) * np.ones((6, 1))
    np.testing.assert_allclose(values[..., 3], expected)


# --- features -------------------------------------------------------------------------------------


def test_more_regions_than_allowed_raise_the_threshold_of_a_hierarchy():
    feature = regions.region_feature('hierarchy', num_regions=9, threshold=0.0)
    ids = feature.compute(FRAME)
    tree = regions.image_hierarchy(FRAME['image'], edges.color_strength(FRAME['image']))
    assert tree.superpixels.max() >= 9
    np.testing.assert_array_equal(ids, tree.cut_to(9))


@pytest.mark.parametrize('method', ['slic', 'felzenszwalb'])
def test_more_regions_than_allowed_are_an_error_with_a_fix_that_works(method):
    options = {'min_pixels': 30}
    feature = regions.region_feature(method, num_regions=3, **options)
    with pytest.raises(InputError, match='at most 3') as error:
        feature.compute(FRAME)
    number = int(error.value.fix.removeprefix('--config.regions.num_regions='))
    ids = regions.region_feature(method, num_regions=number, **options).compute(FRAME)
    assert ids.max() + 1 == number


def test_nested_features_are_cuts_of_the_same_tree():
    features = regions.nested_features((0.02, 0.1, 0.3), depth=True, num_regions=60)
    assert [feature.name for feature in features] == [f'ids_region_{i}' for i in range(3)]
    maps = [feature.compute(FRAME) for feature in features]
    numbers = [ids.max() + 1 for ids in maps]
    assert 60 >= numbers[0] > numbers[1] > numbers[2] > 1
    for fine, coarse in itertools.pairwise(maps):
        pairs = set(zip(fine.ravel().tolist(), coarse.ravel().tolist()))
        assert len(pairs) == fine.max() + 1


def test_the_recipe_holds_everything_that_regions_depend_on():
    made = [
        regions.region_feature(),
        regions.region_feature(depth=True),
        regions.region_feature(edges=edges.gradients(depth=True)),
        regions.region_feature(edges=edges.stored()),
        regions.region_feature(threshold=0.3),
        regions.region_feature(num_regions=500),
        regions.region_feature(min_pixels=40),
        regions.region_feature('slic'),
        regions.region_feature('slic', side=30),
    ]
    recipes = {derived.recipes([feature])['ids_region'] for feature in made}
    assert len(recipes) == len(made)
    assert made[1].reads == ('image', 'depth') and made[0].reads == ('image',)
    assert made[3].reads == ('image', 'planes_edges')
    for feature in made:
        pickle.loads(pickle.dumps(feature.compute))


def test_regions_of_a_stored_strength_are_computed_with_the_records(tmp_path):
    config = layouts.data_config('streets', '', tmp_path)
    config.world.update(num_train=2, num_val=1, size=(32, 64))
    prepared = data.prepare(config)
    features = (
        edges.strength_feature(edges.gradients(depth=True)),
        regions.region_feature(edges=edges.stored(), depth=True, threshold=0.1),
    )
    spec = derived.promised(prepared.spec, features)
    prepared = prepared._replace(spec=spec, derived=features)
    computation.make(prepared.store, [Input('train', 1, ('ids_region',), (32, 64))], 1, never_stop)
    source = prepared.open_split('train', ('image', 'depth', 'planes_edges', 'ids_region'))
    for i in range(2):
        example = source[i]
        strength = edges.gradient_strength(example['image'], example['depth'])
        tree = regions.image_hierarchy(example['image'], strength, example['depth'])
        np.testing.assert_array_equal(example['planes_edges'][..., 0], strength)
        np.testing.assert_array_equal(example['ids_region'], tree.cut(0.1))


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(method='slick'), "did you mean 'slic'"),
        (dict(method='slic', sides=20), "did you mean 'side'"),
        (dict(method='hierarchy', side=20), 'one of min_pixels, threshold'),
        (dict(num_regions=0), 'at least 1'),
        (dict(method='slic', edges=edges.gradients()), "edges 'gradients' for the method 'slic'"),
    ],
    ids=['method', 'option', 'option of another method', 'number', 'edges'],
)
def test_wrong_arguments_are_refused_before_anything_is_computed(arguments, message):
    with pytest.raises(InputError, match=message):
        regions.region_feature(**arguments)


@pytest.mark.parametrize('thresholds', [(), (0.2, 0.1), (0.1, 0.1)])
def test_thresholds_that_do_not_ascend_are_refused(thresholds):
    with pytest.raises(InputError, match='from low to high'):
        regions.nested_features(thresholds)


@pytest.mark.parametrize('method', regions.METHODS)
def test_a_depth_map_that_cannot_be_right_is_refused(method):
    compute = regions.region_feature(method, depth=True).compute
    with pytest.raises(InputError, match='without a measured pixel'):
        compute({'image': noise((20, 30)), 'depth': np.zeros((20, 30), np.float32)})
    with pytest.raises(InputError, match='for an image of height and width'):
        compute({'image': noise((20, 30)), 'depth': np.ones((10, 15), np.float32)})


def test_depth_of_a_data_set_that_has_none_is_refused(tmp_path):
    layouts.write_camvid(tmp_path / 'camvid')
    prepared = data.prepare(layouts.data_config('camvid', tmp_path / 'camvid', tmp_path))
    with pytest.raises(InputError, match='depth'):
        derived.promised(prepared.spec, (regions.region_feature(depth=True),))


# --- real frames ----------------------------------------------------------------------------------


def nyu_frame(folder, number):
    """(image, depth) of a frame at half resolution."""
    clip = folder / 'nyu_clip/dining_room_0036'
    if not clip.is_dir():
        pytest.skip('no folder nyu_clip')
    image = cv2.imread(str(clip / f'color/{number:05}.jpg'))[44:470:2, 40:600:2, ::-1]
    stored = cv2.imread(str(clip / f'depth/{number:05}.png'), cv2.IMREAD_UNCHANGED)
    return image, (stored[44:470:2, 40:600:2] / 6553.5).astype(np.float32)


@pytest.mark.parametrize('depth', [False, True])
@pytest.mark.parametrize('method', regions.METHODS)
def test_a_real_room_has_a_sensible_number_of_regions(real_data, method, depth):
    image, depth_map = nyu_frame(real_data, 2080)
    example = {'image': image, 'depth': depth_map}
    ids = regions.region_feature(method, depth=depth).compute(example)
    check_partition(ids, ids.max() + 1)
    assert 50 < ids.max() + 1 < 400
    assert np.bincount(ids.ravel()).max() < 0.5 * ids.size
