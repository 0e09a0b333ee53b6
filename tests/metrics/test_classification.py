"""Ranks of true classes against sorting, ties, NaN, and accuracies."""

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.metrics import classification


def test_the_rank_is_the_place_of_the_truth_in_a_stable_sort():
    rng = np.random.default_rng(0)
    # Few values, so that many logits are equal.
    logits = rng.integers(0, 4, (200, 7)).astype(np.float32)
    label = rng.integers(0, 7, 200)
    rank = classification.rank_of_truth(logits, label)
    order = np.argsort(-logits, axis=-1, kind='stable')
    expected = [list(row).index(y) for row, y in zip(order, label, strict=True)]
    np.testing.assert_array_equal(rank, expected)
    np.testing.assert_array_equal(rank == 0, logits.argmax(-1) == label)


def test_a_nan_is_never_right_and_an_id_out_of_range_neither():
    logits = jnp.array([[jnp.nan, 1.0], [jnp.nan, 1.0], [jnp.nan, jnp.nan], [2.0, 1.0], [2.0, 1.0]])
    rank = classification.rank_of_truth(logits, jnp.array([0, 1, 1, 2, -1]))
    np.testing.assert_array_equal(rank, [2, 1, 2, 2, 2])


@pytest.mark.parametrize('guesses, right', [(1, 1), (2, 2), (5, 3)])
def test_the_accuracy_counts_examples_with_a_class_and_a_weight(guesses, right):
    rank = jnp.array([0, 1, 4, 5, 0, 0])
    label = jnp.array([3, 3, 3, 3, 255, 3])
    weight = jnp.array([1, 1, 1, 1, 1, 0.0])
    mean = classification.top_accuracy(rank, label, weight, guesses)
    assert (float(mean.sum), float(mean.count)) == (right, 4)
