"""Patches for an attack net on membership, against numpy loops."""

import jax
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.ops import windows
from segjax.tasks import membership_attack

C = 3
PATCH = (4, 6)
RNG = np.random.default_rng(0)
POSTERIORS = RNG.dirichlet(np.ones(C), (2, 9, 14)).astype(np.float32)
LABEL = RNG.choice([0, 1, 2, 255], (2, 9, 14)).astype(np.int32)
SIZE = np.array([[9, 14], [5, 8]], np.int32)
KEYS = jax.random.split(jax.random.key(0), 2)
random_places = jax.jit(membership_attack.random_places, static_argnums=(2, 3))


def test_posteriors_and_labels_are_planes_of_their_own():
    planes = np.asarray(membership_attack.attack_planes(POSTERIORS, LABEL, 'posteriors'))
    assert planes.shape == (2, 9, 14, 2 * C)
    np.testing.assert_array_equal(planes[..., :C], POSTERIORS)
    for place, label in np.ndenumerate(LABEL):
        expected = np.zeros(C)
        if label < C:
            expected[label] = 1
        np.testing.assert_array_equal(planes[place][C:], expected)


def test_loss_maps_have_no_value_where_nothing_is_labelled():
    planes = np.asarray(membership_attack.attack_planes(POSTERIORS, LABEL, 'loss'))
    assert planes.shape == (2, 9, 14, 1)
    for place, label in np.ndenumerate(LABEL):
        expected = 0 if label == 255 else -np.log(POSTERIORS[place][label])
        assert planes[place][0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('pixels, rows', [(713, 90), (8, 1), (9, 2)])
def test_thinned_maps_keep_every_eighth_pixel(pixels, rows):
    label = np.arange(pixels)[None, :, None].repeat(4, 2)
    _, kept = membership_attack.thinned(label[..., None], label, 8)
    assert kept.shape == (1, rows, 1)
    np.testing.assert_array_equal(kept[0, :, 0], np.arange(0, pixels, 8))
    assert membership_attack.grid_size(np.array([[pixels, 4]]), 8).tolist() == [[rows, 1]]


def test_padding_becomes_zero():
    planes = np.asarray(membership_attack.inside(POSTERIORS, SIZE))
    np.testing.assert_array_equal(planes[0], POSTERIORS[0])
    np.testing.assert_array_equal(planes[1, :5, :8], POSTERIORS[1, :5, :8])
    assert not planes[1, 5:].any() and not planes[1, :, 8:].any()


def test_patches_are_cut_at_their_corners():
    corners = np.array([[[0, 0], [5, 8]], [[1, 2], [0, 2]]])
    patches = np.asarray(membership_attack.cut(POSTERIORS, corners, PATCH))
    for image, number in np.ndindex(2, 2):
        row, column = corners[image, number]
        expected = POSTERIORS[image, row : row + 4, column : column + 6]
        np.testing.assert_array_equal(patches[image, number], expected)


def test_small_planes_are_filled_up():
    patches = np.asarray(membership_attack.cut(POSTERIORS, np.zeros((2, 1, 2), int), (12, 14)))
    np.testing.assert_array_equal(patches[:, 0, :9], POSTERIORS)
    assert not patches[:, 0, 9:].any()


def test_random_patches_lie_inside_and_are_uniform():
    places = random_places(KEYS, SIZE, PATCH, 4000)
    corners = np.asarray(places.corners)
    assert places.weight.shape == (2, 4000) and (places.weight == 1).all()
    for image, (height, width) in enumerate(SIZE):
        for axis, last in enumerate((height - PATCH[0], width - PATCH[1])):
            counts = np.bincount(corners[image, :, axis], minlength=last + 1)
            assert len(counts) == last + 1
            # Six standard deviations of a binomial number.
            mean = 4000 / (last + 1)
            assert abs(counts - mean).max() < 6 * mean**0.5


def test_random_patches_of_an_image_do_not_depend_on_the_batch():
    whole = random_places(KEYS, SIZE, PATCH, 5).corners
    alone = random_places(KEYS[1:], SIZE[1:], PATCH, 5).corners
    np.testing.assert_array_equal(whole[1:], alone)


def test_a_patch_larger_than_its_image_begins_at_the_corner():
    corners = random_places(KEYS, SIZE, (20, 20), 3).corners
    assert not np.asarray(corners).any()


def test_sliding_patches_cover_each_image_once():
    places = jax.jit(lambda size: membership_attack.sliding_places(size, (9, 14), PATCH, 0.25))(
        SIZE
    )
    for image, (height, width) in enumerate(SIZE):
        used = np.asarray(places.weight[image]) > 0
        expected = [
            (row, column)
            for row in windows.positions(int(height), PATCH[0], 0.25)
            for column in windows.positions(int(width), PATCH[1], 0.25)
        ]
        assert sorted(map(tuple, np.asarray(places.corners)[image, used].tolist())) == expected


def test_half_of_the_patches_are_mirrored():
    patches = RNG.random((2, 500, 1, 3, 1)).astype(np.float32)
    moved = np.asarray(membership_attack.flipped(KEYS, patches))
    kept = (moved == patches).all((2, 3, 4))
    mirrored = (moved == patches[..., ::-1, :]).all((2, 3, 4))
    assert (kept ^ mirrored).all()
    assert (abs(kept.sum(1) - 250) < 50).all()
    assert (kept[0] != kept[1]).any()


def test_scores_of_an_image_by_numpy():
    logits = RNG.normal(size=(2, 5, 2)).astype(np.float32)
    weight = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0]], np.float32)
    probability = 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))
    mean = [np.mean(p[w > 0]) for p, w in zip(probability, weight, strict=True)]
    total = [np.sum(x[w > 0]) for x, w in zip(logits[..., 1], weight, strict=True)]
    fused = membership_attack.fused
    np.testing.assert_allclose(fused(logits, weight, 'mean_probability'), mean, rtol=1e-5)
    np.testing.assert_allclose(fused(logits, weight, 'sum_logits'), total, rtol=1e-5)
    odds = np.log(probability / (1 - probability))
    np.testing.assert_allclose(membership_attack.patch_scores(logits), odds, atol=1e-5)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="did you mean 'posteriors'"):
        membership_attack.attack_planes(POSTERIORS, LABEL, 'posterior')
    with pytest.raises(InputError, match="did you mean 'sum_logits'"):
        membership_attack.fused(np.zeros((1, 1, 2)), np.ones((1, 1)), 'sum_logit')
