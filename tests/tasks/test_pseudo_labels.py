"""Pseudo labels of a small map, by hand."""

import jax
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.tasks import pseudo_labels

# Largest probability and class of each pixel. A pixel of 0.7 is not above the threshold.
SURE = np.float32([[0.9, 0.5, 0.4, 0.4, 0.8], [0.6, 0.7, 0.4, 0.5, 0.71]])
CLASS = np.array([[2, 0, 1, 0, 1], [0, 0, 1, 1, 0]])


def probabilities():
    rest = (1 - SURE[..., None]) / 2
    return np.where(np.arange(3) == CLASS[..., None], SURE[..., None], rest)[None]


def test_unsure_pixels_get_the_nearest_sure_class():
    label = jax.jit(pseudo_labels.pseudo_label)(probabilities())
    assert label.dtype == np.int32
    # The middle of the upper row is as far from both ends: the left wins.
    np.testing.assert_array_equal(label, [[[2, 2, 2, 1, 1], [2, 2, 0, 0, 0]]])


def test_a_threshold_of_zero_keeps_the_prediction():
    label = pseudo_labels.pseudo_label(probabilities(), 0.0)
    np.testing.assert_array_equal(label[0], CLASS)


def test_a_map_without_a_sure_pixel_is_ignored():
    label = pseudo_labels.pseudo_label(probabilities(), 0.95)
    np.testing.assert_array_equal(label, np.full((1, 2, 5), 255))


@pytest.mark.parametrize('threshold', [-0.1, 1.0])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(InputError, match='from 0 up to'):
        pseudo_labels.pseudo_label(probabilities(), threshold)
