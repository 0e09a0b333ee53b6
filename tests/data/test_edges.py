"""Boundary strengths: zero on planes and even colours, high on steps, blind to a camera's noise."""

import cv2
import numpy as np
import pytest

from segjax.data import edges
from segjax.data.worlds import streets
from segjax.errors import InputError

RNG = np.random.default_rng(0)
FOCAL = 500.0


def plane(distance, slope_x=0.0, slope_y=0.0, size=(40, 60)):
    """Depth in metres of a plane: 1 / z is linear in the coordinates of a pixel."""
    y, x = np.mgrid[: size[0], : size[1]]
    along = slope_x * (x - size[1] / 2) / FOCAL + slope_y * (y - size[0] / 2) / FOCAL
    return (distance / (1 + along)).astype(np.float32)


def stripes(left, right, size=(30, 40)):
    """An image whose left and right half have a colour each."""
    image = np.empty((*size, 3), np.uint8)
    image[:, : size[1] // 2] = left
    image[:, size[1] // 2 :] = right
    return image


# --- colour ---------------------------------------------------------------------------------------


def test_an_even_colour_has_no_boundary():
    image = np.full((20, 30, 3), (10, 200, 90), np.uint8)
    np.testing.assert_allclose(edges.color_strength(image), 0, atol=1e-5)


def test_the_strength_is_highest_on_both_sides_of_a_step_of_colour():
    strength = edges.color_strength(stripes((200, 30, 30), (30, 60, 200)))
    assert strength.dtype == np.float32 and strength.min() >= 0 and strength.max() < 1
    assert set(strength.argmax(axis=1)) <= {19, 20}
    np.testing.assert_allclose(strength[:, 19], strength[:, 20], rtol=1e-4)
    np.testing.assert_allclose(strength[:, [0, -1]], 0, atol=1e-5)


def test_a_larger_contrast_is_a_stronger_boundary():
    highest = [edges.color_strength(stripes(90, 90 + d)).max() for d in (5, 20, 60, 150)]
    assert highest == sorted(highest) and highest[0] < 0.1 < 0.3 < highest[-1]


def test_a_change_of_hue_without_a_change_of_brightness_is_a_boundary():
    image = stripes((180, 90, 90), (60, 132, 90))
    brightness = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0].astype(int)
    assert np.ptp(brightness) < 6
    assert edges.color_strength(image).max() > 0.4


def test_the_contrast_is_the_largest_singular_value_of_the_derivatives():
    image = RNG.integers(0, 256, (12, 17, 3)).astype(np.uint8)
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), edges.COLOR_SIGMA, borderType=cv2.BORDER_REPLICATE)
    strength = edges.color_strength(image)
    for y in range(1, 11):
        for x in range(1, 16):
            along_x = (lab[y, x + 1] - lab[y, x - 1]) / 2
            along_y = (lab[y + 1, x] - lab[y - 1, x]) / 2
            contrast = np.linalg.svd(np.stack([along_x, along_y]))[1][0]
            expected = contrast / (contrast + edges.COLOR_HALF)
            assert strength[y, x] == pytest.approx(expected, rel=1e-4)


def test_the_strength_moves_with_the_image():
    image = cv2.GaussianBlur(RNG.integers(0, 256, (60, 70, 3)).astype(np.uint8), (0, 0), 2)
    depth = cv2.GaussianBlur(RNG.uniform(1, 4, (60, 70)).astype(np.float32), (0, 0), 1)
    moved = edges.gradient_strength(image[7:], depth[7:])
    whole = edges.gradient_strength(image, depth)
    np.testing.assert_allclose(moved[12:, 12:], whole[19:, 12:], atol=2e-6)


# --- depth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('slope', [(0, 0), (8, 0), (0, -12), (-5, 9)])
def test_a_plane_has_no_step_however_slanted(slope):
    np.testing.assert_allclose(edges.depth_strength(plane(2.0, *slope)), 0, atol=1e-6)


@pytest.mark.parametrize('distance', [0.7, 1.5, 3.0])
def test_a_step_between_slanted_planes_is_at_its_place(distance):
    depth = plane(distance, 3, 5)
    depth[:, 25:] = plane(1.2 * distance, 3, 5)[:, 25:]
    strength = edges.depth_strength(depth)
    assert set(strength.argmax(axis=1)) <= {24, 25}
    # A step of 20 % is a boundary at all distances, though less behind the noise of the camera.
    assert strength[:, 24:26].min() > 0.3
    np.testing.assert_array_equal(strength[:, :15], 0)


@pytest.mark.parametrize('distance', [1.0, 2.0, 4.0, 7.0])
def test_noise_that_grows_with_the_square_of_depth_is_no_boundary(distance):
    depth = plane(distance, 2, 4, (100, 100))
    noisy = depth + 0.0028 * depth**2 * RNG.standard_normal(depth.shape)
    strength = edges.depth_strength(noisy.astype(np.float32))
    assert np.quantile(strength, 0.99) < 0.08 and strength.max() < 0.2


def test_unmeasured_pixels_are_no_boundary():
    depth = plane(2.0, 4, 6)
    depth[10:20, 15:40] = 0
    depth[RNG.random(depth.shape) < 0.1] = 0
    np.testing.assert_allclose(edges.depth_strength(depth), 0, atol=1e-5)


def test_a_step_across_a_few_unmeasured_pixels_is_a_boundary():
    depth = plane(1.5)
    depth[:, 30:] = 2.5
    depth[:, 29:31] = 0
    assert edges.depth_strength(depth)[:, 28:32].max(axis=1).min() > 0.5


def test_the_step_is_that_of_lines_fitted_on_both_sides():
    size = (9, 14)
    depth = RNG.uniform(1, 3, size).astype(np.float32)
    depth[RNG.random(size) < 0.25] = 0
    expected = np.zeros(size)
    for turned, values in ((False, depth), (True, depth.T)):
        step = np.zeros(values.shape)
        for y in range(values.shape[0]):
            for x in range(values.shape[1] - 1):
                step[y, x : x + 2] = np.maximum(step[y, x : x + 2], step_by_fit(values, y, x))
        expected = np.maximum(expected, step.T if turned else step)
    expected = cv2.GaussianBlur(expected.astype(np.float32), (0, 0), 1.0, borderType=1)
    expected = expected / (expected + edges.DEPTH_HALF)
    np.testing.assert_allclose(edges.depth_strength(depth), expected, atol=1e-5)


def step_by_fit(depth, y, x):
    """The step between the pixels x and x + 1 of row y, by a least squares fit on either side."""
    ends = []
    for first, last in (
        (x - edges.DEPTH_WINDOW + 1, x),
        (x + 1, x + edges.DEPTH_WINDOW),
    ):
        places = []
        for row in range(max(y - 1, 0), min(y + 2, depth.shape[0])):
            for column in range(max(first, 0), min(last + 1, depth.shape[1])):
                if depth[row, column] > 0:
                    places.append((column, 1 / float(depth[row, column])))
        if len(places) < edges.MIN_VALID * 3 * edges.DEPTH_WINDOW:
            return 0.0
        columns, inverse = np.array(places).T
        degree = 1 if len(set(columns)) > 1 else 0
        ends.append(np.polyval(np.polyfit(columns - x - 0.5, inverse, degree), 0))
    excess = max(abs(ends[0] - ends[1]) - edges.DEPTH_NOISE, 0)
    return excess / max(*ends, edges.DEPTH_NOISE)


def test_colour_and_depth_complete_each_other():
    image = stripes(100, 100, (40, 60))
    depth = plane(1.5)
    depth[20:] *= 2
    assert edges.gradient_strength(image).max() < 1e-4
    assert edges.gradient_strength(image, depth)[19:21].min() > 0.5
    color = edges.color_strength(image)
    step = edges.depth_strength(depth)
    both = edges.gradient_strength(image, depth)
    np.testing.assert_allclose(both, color + step - color * step, atol=1e-6)


def test_a_depth_map_that_cannot_be_right_is_refused():
    image = stripes(1, 2)
    with pytest.raises(InputError, match=r'shape \(30, 39\) for an image of height and width'):
        edges.gradient_strength(image, np.ones((30, 39), np.float32))
    with pytest.raises(InputError, match='without a measured pixel') as error:
        edges.gradient_strength(image, np.zeros((30, 40), np.float32))
    assert 'depth=False' in error.value.fix


# --- methods --------------------------------------------------------------------------------------


def test_a_model_that_is_no_file_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(InputError, match='which is no file') as error:
        edges.structured(str(tmp_path / 'model.yml.gz'))
    assert 'gradients' in error.value.fix


def test_a_file_that_is_no_model_is_refused(tmp_path):
    file = tmp_path / 'model.yml'
    file.write_text('%YAML:1.0\n---\noptions: 3\n')
    method = edges.structured(str(file))
    with pytest.raises(InputError, match='OpenCV cannot read'):
        method.compute({'image': stripes(1, 2)})


def test_the_recipe_of_structured_edges_depends_on_the_content_of_the_model(tmp_path):
    digests = []
    for name, text in (('a.yml', 'one'), ('b.yml', 'one'), ('c.yml', 'other')):
        (tmp_path / name).write_text(text)
        digests.append(edges.structured(str(tmp_path / name)).settings['model'])
    assert digests[0] == digests[1] != digests[2]


def test_a_stored_strength_is_the_strength_of_the_image():
    frame = streets.frame(0, 'train', 0, 0, (32, 64))
    feature = edges.strength_feature(edges.gradients(depth=True), name='planes_mine')
    assert feature.reads == ('image', 'depth')
    stored = feature.compute(frame)
    assert stored.shape == (32, 64, 1) and stored.dtype == np.float32
    read = edges.stored('planes_mine').compute({'planes_mine': stored})
    np.testing.assert_array_equal(read, edges.gradient_strength(frame['image'], frame['depth']))


def test_depth_is_not_read_where_it_is_not_asked_for():
    frame = streets.frame(0, 'train', 0, 0, (32, 64))
    strength = edges.gradients().compute(frame)
    np.testing.assert_array_equal(strength, edges.color_strength(frame['image']))
