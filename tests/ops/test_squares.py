"""Squares on the device against the crops of the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.data import crops, labels, objects, transforms
from segjax.ops import squares as squares_lib
from segjax.spec import IGNORE

CANVAS = (120, 200)
SIZES = [(120, 200), (96, 160), (101, 77), (64, 200)]


def random_boxes(sizes, seed, whole=True):
    """Returns a box [4] float32 for each map, with sides of at least 3 pixels."""
    rng = np.random.default_rng(seed)
    boxes = []
    for height, width in sizes:
        longest = min(height, width) - 1
        sides = rng.uniform(3, longest, 2)
        first = rng.uniform(0, 1, 2) * (np.array([width, height]) - sides) - 0.5
        box = np.concatenate([first, first + sides])
        boxes.append(np.floor(box) + 0.5 if whole else box)
    return np.array(boxes, np.float32)


def on_canvas(maps, fill=IGNORE):
    """Returns maps [B, H, W, ...] in the top left corner of a canvas."""
    batch = np.full((len(maps), *CANVAS, *maps[0].shape[2:]), fill, maps[0].dtype)
    for row, values in zip(batch, maps, strict=True):
        row[: values.shape[0], : values.shape[1]] = values
    return batch


def random_labels(seed=0):
    """Returns a label map of each size."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 19, size).astype(np.uint8) for size in SIZES]


def smooth_images(seed=0):
    """Returns an image of each size, in which neighbouring pixels differ by a few values."""
    rng = np.random.default_rng(seed)
    images = []
    for height, width in SIZES:
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
        images.append(transforms.resize_image(coarse, (height, width)))
    return images


# --- boxes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('share', [0.0, 0.001, 0.01, 0.1, 0.7])
def test_enlarged_boxes_are_those_of_the_host(share):
    for seed in range(20):
        boxes = random_boxes(SIZES, seed)
        ours = squares_lib.enlarged(jnp.array(boxes), share, jnp.array(SIZES))
        for box, size, our in zip(boxes, SIZES, ours, strict=True):
            (expected,) = objects.enlarged(box[None], share, size)
            np.testing.assert_array_equal(our, expected)


@pytest.mark.parametrize('margin', [1.0, 1.3, 2.0, 3.0])
def test_squares_are_those_of_the_host_without_a_shift(margin):
    for seed in range(20):
        for whole in (True, False):
            boxes = random_boxes(SIZES, seed, whole)
            ours = squares_lib.squares_of(jnp.array(boxes), margin, jnp.array(SIZES))
            host = [
                objects.context_square(box, margin, size)
                for box, size in zip(np.clip(boxes, -0.5, None), SIZES, strict=True)
            ]
            is_exact = whole and margin in (1.0, 2.0, 3.0)
            np.testing.assert_allclose(ours, host, rtol=0, atol=0 if is_exact else 5e-5)


def test_masks_of_boxes_are_those_of_the_host():
    for seed in range(20):
        boxes = random_boxes([CANVAS] * 4, seed, whole=False)
        masks = squares_lib.box_masks(jnp.array(boxes), CANVAS)
        host = np.stack([objects.box_mask(box, CANVAS) for box in boxes])
        np.testing.assert_array_equal(masks, host.astype(bool))


# --- cut ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [32, 64, 256])
@pytest.mark.parametrize('margin', [2.0, 3.0])
def test_a_cut_label_map_is_the_crop_of_the_host(size, margin):
    """Ids, labels and their padded canvases, at scales from 1/6 to 20."""
    maps = random_labels()
    cut = jax.jit(functools.partial(squares_lib.cut, size=size))
    for seed in range(10):
        boxes = random_boxes(SIZES, seed)
        squares = squares_lib.squares_of(jnp.array(boxes), margin, jnp.array(SIZES))
        ours = cut(jnp.array(on_canvas(maps)), squares)
        assert ours.dtype == jnp.uint8
        for label, square, result in zip(maps, np.array(squares), ours, strict=True):
            host = crops.crop_and_resize({'label': label}, square, (size, size))['label']
            np.testing.assert_array_equal(result, host)


@pytest.mark.parametrize('size', [24, 64, 256])
def test_a_cut_image_is_the_crop_of_the_host(size):
    """The padding of the canvas is white. No pixel of the result shows it."""
    images = smooth_images()
    cut = jax.jit(functools.partial(squares_lib.cut, size=size, nearest=False))
    shrinks = []
    for seed in range(10):
        boxes = random_boxes(SIZES, seed)
        squares = squares_lib.squares_of(jnp.array(boxes), 3.0, jnp.array(SIZES))
        shrinks += list(np.array(squares[:, 2] - squares[:, 0]) / size)
        ours = cut(jnp.array(on_canvas(images)), squares, sizes=jnp.array(SIZES))
        assert ours.dtype == jnp.uint8
        for image, square, result in zip(images, np.array(squares), ours, strict=True):
            host = crops.crop_and_resize({'image': image}, square, (size, size))['image']
            # The host rounds the means of blocks to whole numbers before it interpolates.
            assert np.abs(np.int32(result) - host).max() <= 1
    assert size != 24 or max(shrinks) > 3, 'blocks are averaged'


def test_a_cut_is_the_crop_of_training():
    """`crop_object` draws the square. The cut of the device has the same label, mask and class."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 19, (96, 192)).astype(np.uint8)
    instance = np.zeros((96, 192), np.uint16)
    for number, (x, y) in enumerate([(3, 5), (60, 40), (120, 66), (150, 10)], start=1):
        instance[y : y + 9 + number, x : x + 20] = number
        label[y : y + 9 + number, x : x + 20] = 13
    example = {'label': label, 'instance': instance}
    crop = objects.object_crop(('car',), labels.CITYSCAPES, size=64, min_side=6, max_side=40)
    for seed in range(30):
        made = objects.crop_object(example, np.random.default_rng(seed), crop)
        shares = np.random.default_rng(seed).random(10)
        drawn = objects._drawn_object(example, crop, shares[:2])
        square = objects.context_square(drawn.box, crop.margin, (96, 192), shares[7:9])
        maps = np.stack([label, (instance == drawn.instance).astype(np.uint8)], axis=-1)
        ours = squares_lib.cut(jnp.array(maps[None]), jnp.array(square[None]), 64)[0]
        np.testing.assert_array_equal(ours[..., 0], made['label'])
        np.testing.assert_array_equal(ours[..., 1], made['mask_object'])


def test_a_cut_of_the_size_of_its_square_copies_pixels():
    maps = np.random.default_rng(0).integers(0, 99, (2, 40, 60, 5), np.int32)
    squares = jnp.array([[9.5, 3.5, 41.5, 35.5], [-0.5, -0.5, 31.5, 31.5]])
    for nearest in (True, False):
        ours = squares_lib.cut(jnp.array(maps), squares, 32, nearest)
        np.testing.assert_array_equal(ours[0], maps[0, 4:36, 10:42])
        np.testing.assert_array_equal(ours[1], maps[1, :32, :32])


def test_halves_go_to_the_larger_coordinate():
    """A square of twice the size samples between two pixels, as `cv2` and the host do."""
    maps = jnp.arange(8.0)[None, None, :] + 10 * jnp.arange(8.0)[None, :, None]
    ours = squares_lib.cut(maps, jnp.array([[-0.5, -0.5, 7.5, 7.5]]), 4)
    np.testing.assert_array_equal(ours[0, 0], [11, 13, 15, 17])


# --- paste ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [32, 100, 256])
def test_pasted_labels_are_those_of_the_host(size):
    rng = np.random.default_rng(0)
    canvas = on_canvas(random_labels())
    paste = jax.jit(squares_lib.paste)
    for seed in range(10):
        boxes = random_boxes(SIZES, seed)
        squares = squares_lib.squares_of(jnp.array(boxes), 2.0, jnp.array(SIZES))
        filled = rng.integers(20, 40, (4, size, size)).astype(np.uint8)
        inside = squares_lib.box_masks(jnp.array(boxes), CANVAS)
        ours = paste(jnp.array(filled), squares, jnp.array(canvas), inside)
        for i, square in enumerate(np.array(squares)):
            matrix = np.linalg.inv(crops.crop_matrix(square, (size, size)))
            back = transforms.apply_geometry({'label': filled[i]}, matrix, CANVAS)['label']
            mask = objects.box_mask(boxes[i], CANVAS) > 0
            np.testing.assert_array_equal(ours[i], np.where(mask, back, canvas[i]))


@pytest.mark.parametrize('size', [16, 64, 256])
def test_pasted_images_are_those_of_the_host(size):
    canvas = on_canvas(smooth_images())
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (size // 8 + 1, size // 8 + 1, 3)).astype(np.uint8)
    filled = np.stack([transforms.resize_image(coarse, (size, size))] * 4)
    boxes = random_boxes(SIZES, 3)
    squares = squares_lib.squares_of(jnp.array(boxes), 2.0, jnp.array(SIZES))
    inside = squares_lib.box_masks(jnp.array(boxes), CANVAS)
    ours = squares_lib.paste(jnp.array(filled), squares, jnp.array(canvas), inside, nearest=False)
    for i, square in enumerate(np.array(squares)):
        matrix = np.linalg.inv(crops.crop_matrix(square, (size, size)))
        back = transforms.apply_geometry({'image': filled[i]}, matrix, CANVAS)['image']
        mask = objects.box_mask(boxes[i], CANVAS)[..., None] > 0
        assert np.abs(np.int32(ours[i]) - np.where(mask, back, canvas[i])).max() <= 1


def test_a_cut_that_is_not_smaller_comes_back_exactly():
    """Nearest neighbours up and down again. Real-valued boxes, sides of 6 to 100 pixels."""
    canvas = jnp.array(on_canvas(random_labels()))
    for seed in range(20):
        boxes = jnp.array(np.clip(random_boxes(SIZES, seed, whole=False), -0.5, None))
        squares = squares_lib.squares_of(boxes, 2.0, jnp.array(SIZES))
        filled = squares_lib.cut(canvas, squares, 256)
        everywhere = jnp.ones_like(canvas, bool)
        np.testing.assert_array_equal(
            squares_lib.paste(filled, squares, canvas * 0 + 7, everywhere)[
                squares_lib.box_masks(squares, CANVAS)
            ],
            canvas[squares_lib.box_masks(squares, CANVAS)],
        )


def test_nothing_changes_outside_of_the_mask_and_of_the_square():
    canvas = jnp.zeros((1, 20, 90), jnp.int32)
    long_box = jnp.array([[-0.5, 4.5, 89.5, 9.5]])
    squares = squares_lib.squares_of(long_box, 2.0, jnp.array([[20, 90]]))
    inside = squares_lib.box_masks(long_box, (20, 90))
    ours = squares_lib.paste(jnp.ones((1, 8, 8), jnp.int32), squares, canvas, inside)
    expected = np.zeros((20, 90))
    expected[5:10, 35:55] = 1
    np.testing.assert_array_equal(ours[0], expected)


def test_an_interpolated_cut_has_a_gradient():
    maps = jnp.array(np.random.default_rng(0).normal(size=(1, 12, 12, 2)), jnp.float32)
    square = jnp.array([[0.7, 1.2, 9.9, 10.4]])

    def total(values):
        return squares_lib.cut(values, square, 5, nearest=False).sum()

    # Each of the 25 samples is a mean of pixels, for both channels.
    np.testing.assert_allclose(jax.grad(total)(maps).sum(), 50, rtol=1e-5)
