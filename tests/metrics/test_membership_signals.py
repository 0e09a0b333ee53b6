"""Signals of membership against loops in float64, masks, extreme posteriors and distances."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.errors import InputError
from segjax.losses import segmentation
from segjax.metrics import membership_signals

RNG = np.random.default_rng(0)
B, H, W, C = 2, 6, 7, 4
LOGITS = RNG.normal(0, 3, (B, H, W, C)).astype(np.float32)
POSTERIORS = np.asarray(jax.nn.softmax(LOGITS))
LABEL = RNG.integers(0, C, (B, H, W)).astype(np.int32)
LABEL[0, :2] = 255
LABEL[1, 0, 0] = C  # a void class, for which the net has no posterior


def by_a_loop(posteriors, label):
    """Returns {name: value} of a pixel, None for a pixel without a class."""
    if not 0 <= label < C:
        return None
    p = posteriors.astype(np.float64)
    rest = sum(p[c] for c in range(C) if c != label)
    return {
        'loss': -np.log(p[label]),
        'confidence': max(p),
        'logit': np.log(p[label]) - np.log(rest),
    }


def loop_mean(image, chosen):
    """Averages the signals of an image over the chosen pixels [H, W]."""
    rows = []
    for place in zip(*np.nonzero(chosen), strict=True):
        row = by_a_loop(POSTERIORS[image][place], LABEL[image][place])
        if row:
            rows.append(row)
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]} if rows else None


def test_pixels_have_the_signals_of_the_formulas():
    got = jax.jit(membership_signals.pixel_signals)(POSTERIORS, LABEL)
    for place in np.ndindex(B, H, W):
        expected = by_a_loop(POSTERIORS[place], LABEL[place])
        for name, values in got.items():
            value = expected[name] if expected else 0
            assert values[place] == pytest.approx(value, rel=1e-4, abs=1e-5), (name, place)
    assert all(values.dtype == jnp.float32 for values in got.values())


def test_the_loss_is_the_cross_entropy():
    label = np.where(LABEL == C, 255, LABEL)
    expected, _ = segmentation.pixel_cross_entropy(LOGITS, label)
    got = membership_signals.pixel_signals(POSTERIORS, label)['loss']
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_logit_of_a_sure_pixel_has_all_digits():
    """1 - p_y is 0 in float32, but the sum of the further posteriors is not."""
    logits = np.float32([[30.0, 0.0, 0.0, -5.0]])
    posteriors = jax.nn.softmax(logits)
    assert 1 - posteriors[0, 0] == 0
    exact = 30.0 - np.log(2 + np.exp(-5.0))
    got = membership_signals.pixel_signals(posteriors, np.array([0]))['logit']
    np.testing.assert_allclose(got, [exact], rtol=1e-6)


def test_one_hot_posteriors_have_finite_signals():
    posteriors = np.eye(C, dtype=np.float32)[[0, 1]]
    got = membership_signals.pixel_signals(posteriors, np.array([0, 0]))
    largest = -np.log(1e-30)
    np.testing.assert_allclose(got['loss'], [0, largest], rtol=1e-6)
    np.testing.assert_allclose(got['logit'], [largest, -largest], rtol=1e-6)


def test_images_have_the_mean_over_their_labelled_pixels():
    got = jax.jit(membership_signals.image_signals)(POSTERIORS, LABEL)
    for image in range(B):
        expected = loop_mean(image, np.ones((H, W), bool))
        for name, values in got.items():
            assert values[image] == pytest.approx(expected[name], rel=1e-4)


def test_padding_does_not_change_an_image():
    padded = np.pad(POSTERIORS, ((0, 0), (0, 3), (0, 2), (0, 0)))
    label = np.pad(LABEL, ((0, 0), (0, 3), (0, 2)), constant_values=255)
    got = membership_signals.image_signals(padded, label, 1)
    chex.assert_trees_all_close(
        got, membership_signals.image_signals(POSTERIORS, LABEL, 1), rtol=1e-5
    )


def test_an_image_without_a_label_has_no_signal():
    label = LABEL.copy()
    label[1] = 255
    got = membership_signals.image_signals(POSTERIORS, label)
    assert all(np.isnan(values[1]) and np.isfinite(values[0]) for values in got.values())


def test_classes_have_the_mean_over_their_pixels():
    label = np.where(LABEL == 3, 2, LABEL)
    label[0] = np.where(label[0] == 1, 0, label[0])
    got = jax.jit(membership_signals.class_signals)(POSTERIORS, label)
    for image, number in np.ndindex(B, C):
        chosen = label[image] == number
        if not chosen.any():
            assert np.isnan(got['loss'][image, number])
            continue
        losses = -np.log(POSTERIORS[image, ..., number][chosen].astype(np.float64))
        assert got['loss'][image, number] == pytest.approx(losses.mean(), rel=1e-4)
    assert np.isnan(got['loss'][0, 1]) and np.isnan(got['loss'][:, 3]).all()


@pytest.mark.parametrize('reach', [1, 2, 3])
def test_boundary_pixels_are_near_a_neighbour_of_another_class(reach):
    label = np.zeros((1, 9, 10), np.int32)
    label[0, 4:, 6:] = 1
    label[0, 8, :4] = 2
    label[0, 0, :] = 255
    got = np.asarray(membership_signals.boundary_pixels(label, C, reach))[0]
    at_boundary = np.zeros((9, 10), bool)
    for y, x in np.ndindex(9, 10):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            if 0 <= y + dy < 9 and 0 <= x + dx < 10:
                pair = {int(label[0, y, x]), int(label[0, y + dy, x + dx])}
                at_boundary[y, x] |= len(pair) == 2 and 255 not in pair
    distance = ndimage.distance_transform_cdt(~at_boundary, 'chessboard')
    np.testing.assert_array_equal(got, (distance < reach) & (label[0] != 255))


def test_boundary_and_interior_share_the_labelled_pixels():
    label = np.zeros((B, H, W), np.int32)
    label[:, :, 4:] = 1
    label[:, 5] = 255
    got = membership_signals.image_signals(POSTERIORS, label, 1)
    assert set(got) >= {'loss', 'boundary_logit', 'interior_confidence'} and len(got) == 9
    pixels = membership_signals.pixel_signals(POSTERIORS, label)
    for name, values in pixels.items():
        boundary = values[:, :5, 3:5].mean((1, 2))
        interior = (values[:, :5, :3].sum((1, 2)) + values[:, :5, 5:].sum((1, 2))) / 25
        np.testing.assert_allclose(got[f'boundary_{name}'], boundary, rtol=1e-5)
        np.testing.assert_allclose(got[f'interior_{name}'], interior, rtol=1e-5)


def test_wrong_input_is_named():
    with pytest.raises(InputError, match=r'label \[2, 6, 7\]'):
        membership_signals.pixel_signals(POSTERIORS[:, :3], LABEL)
    with pytest.raises(InputError, match='1 or more'):
        membership_signals.boundary_pixels(LABEL, C, 0)
