"""Means: values of examples, placed by their position in the split."""

import numpy as np

from segjax.core import means


def test_rows_of_all_batches_give_every_value_once_in_order():
    values = np.arange(10.0).reshape(5, 2)
    batches = [np.array([3, 0]), np.array([], int), np.array([4, 1, 2])]
    total = count = 0
    for index in batches:
        rows = means.rows(values[index], index, 5)
        total = total + rows.sum
        count = count + rows.count
    np.testing.assert_array_equal(total, values)
    np.testing.assert_array_equal(count, np.ones((5, 1)))
