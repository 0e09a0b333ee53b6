"""Class maps of two predictions: where they differ, which is right, which examples are shown."""

import numpy as np
import pytest

from segjax.modes.compare import labels
from segjax.modes.compare.labels import LabelFiles

TRUTH = np.array([[0, 1, 2], [0, 255, 255]], np.uint8)
FIRST = np.array([[0, 1, 0], [1, 0, 1]], np.uint8)
SECOND = np.array([[0, 2, 2], [2, 0, 2]], np.uint8)
"""Both right, only the first, only the second; both wrong, and twice void."""


def test_the_colours_are_those_of_the_figures():
    """White: both right. Red: only the first. Cyan: only the second. Black: none. Grey: void."""
    painted = labels.paint_right(labels.who_is_right(TRUTH, FIRST, SECOND))
    white, red, cyan = [255, 255, 255], [255, 0, 0], [0, 255, 255]
    black, grey = [0, 0, 0], [128, 128, 128]
    np.testing.assert_array_equal(painted, [[white, red, cyan], [black, grey, grey]])
    assert painted.dtype == np.uint8


def test_exchanged_predictions_exchange_red_and_cyan():
    forth = labels.who_is_right(TRUTH, FIRST, SECOND)
    back = labels.who_is_right(TRUTH, SECOND, FIRST)
    exchanged = np.array([labels.BOTH, labels.SECOND, labels.FIRST, labels.NEITHER, labels.VOID])
    np.testing.assert_array_equal(back, exchanged[forth])


def test_a_class_that_is_predicted_as_void_is_wrong():
    """With data.void_class the id C is void."""
    truth = np.zeros((1, 1), np.uint8)
    right = labels.who_is_right(truth, np.full((1, 1), 19, np.uint8), truth)
    assert right == labels.SECOND


def test_disagreement_is_a_share_of_the_labelled_pixels():
    assert labels.disagreement(TRUTH, [FIRST, SECOND]) == 3 / 4
    assert labels.disagreement(TRUTH, [FIRST, FIRST]) == 0
    # A third run that differs in another pixel.
    third = FIRST.copy()
    third[0, 0] = 2
    assert labels.disagreement(TRUTH, [FIRST, SECOND, third]) == 1
    assert labels.disagreement(np.full((2, 3), 255, np.uint8), [FIRST, SECOND]) == 0


def test_files_return_the_class_maps_and_their_comparison(tmp_path):
    store = LabelFiles(tmp_path / 'labels')
    for index, second in enumerate((FIRST, SECOND)):
        store.write('truth', index, TRUTH)
        store.write('0', index, FIRST)
        store.write('1', index, second)
    truth, predictions = store.example(1, 2)
    np.testing.assert_array_equal(truth, TRUTH)
    np.testing.assert_array_equal(predictions, [FIRST, SECOND])

    comparison = labels.compare(store, num_examples=2, num_runs=2, num_classes=3)
    np.testing.assert_array_equal(comparison.shares, [0, 3 / 4])
    # Example 0: two right and two wrong together. Example 1: one of each kind.
    np.testing.assert_array_equal(comparison.pixels, [[3, 1, 1, 3, 4]])


SHARES = np.array([0.1, 0.5, 0.3, 0.5, 0.0, 0.2, 0.4, 0.6])


@pytest.mark.parametrize(
    'count, groups',
    [
        (4, {'disagreement': [7, 1], 'spread': [0, 4]}),
        (5, {'disagreement': [7, 1, 3], 'spread': [0, 4]}),
        (1, {'disagreement': [7]}),
        (8, {'disagreement': [7, 1, 3, 6, 2, 5, 0, 4]}),
        (99, {'disagreement': [7, 1, 3, 6, 2, 5, 0, 4]}),
    ],
)
def test_half_of_the_pictures_disagree_most_and_half_are_spread(count, groups):
    assert labels.choose(SHARES, count) == groups
