"""Superpixels: a partition into connected regions that keeps to the edges of an image."""

import cv2
import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import computation, derived, regions
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
