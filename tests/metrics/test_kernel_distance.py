"""The kernel distance against a loop, scikit-learn and its properties."""

import numpy as np
import pytest

from segjax.metrics import kernel_distance as kid

RNG = np.random.default_rng(0)
FIRST = RNG.normal(size=(7, 4))
SECOND = RNG.normal(0.5, size=(5, 4))


def by_loops(first, second):
    def kernel(a, b):
        return (sum(x * y for x, y in zip(a, b)) / len(a) + 1) ** 3

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return sum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    between = sum(kernel(a, b) for a in first for b in second) / (len(first) * len(second))
    return within(first) + within(second) - 2 * between


def test_squared_discrepancy_is_the_loop():
    expected = by_loops(FIRST, SECOND)
    np.testing.assert_allclose(kid.squared_discrepancy(FIRST, SECOND), expected, rtol=1e-12)
    np.testing.assert_allclose(kid.squared_discrepancy(SECOND, FIRST), expected, rtol=1e-12)


def test_squared_discrepancy_equals_scikit_learn():
    polynomial_kernel = pytest.importorskip('sklearn.metrics.pairwise').polynomial_kernel
    within = []
    for rows in (FIRST, SECOND):
        kernel = polynomial_kernel(rows, rows, degree=3, gamma=None, coef0=1)
        np.fill_diagonal(kernel, 0)
        within.append(kernel.sum() / (len(rows) * (len(rows) - 1)))
    between = polynomial_kernel(FIRST, SECOND, degree=3, gamma=None, coef0=1).mean()
    expected = sum(within) - 2 * between
    np.testing.assert_allclose(kid.squared_discrepancy(FIRST, SECOND), expected, rtol=1e-12)


def test_sets_of_the_same_distribution_have_distance_0_on_average():
    """The biased estimate would be far above 0 for sets of ten examples."""
    distances = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        distances.append(kid.squared_discrepancy(rng.random((10, 8)), rng.random((10, 8))))
    error = np.std(distances) / np.sqrt(400)
    assert abs(np.mean(distances)) < 3 * error
    assert min(distances) < 0


def test_subsets_average_draws_without_replacement():
    got = kid.kernel_distance(FIRST, SECOND, num_subsets=6, subset_size=3, seed=5)
    rng = np.random.default_rng(5)
    expected = []
    for _ in range(6):
        rows = rng.choice(7, 3, replace=False)
        other_rows = rng.choice(5, 3, replace=False)
        expected.append(by_loops(FIRST[rows], SECOND[other_rows]))
    np.testing.assert_allclose(got.mean, np.mean(expected), rtol=1e-10)
    np.testing.assert_allclose(got.deviation, np.std(expected), rtol=1e-10)
    assert got[2:] == (6, 3)
    assert got == kid.kernel_distance(FIRST, SECOND, num_subsets=6, subset_size=3, seed=5)


def test_small_sets_shrink_the_subsets_and_whole_sets_are_compared_once():
    got = kid.kernel_distance(FIRST, SECOND)
    assert (got.num_subsets, got.subset_size) == (100, 5)
    whole = kid.kernel_distance(FIRST[:5], SECOND)
    assert (whole.num_subsets, whole.subset_size, whole.deviation) == (1, 5, 0)
    np.testing.assert_allclose(whole.mean, by_loops(FIRST[:5], SECOND), rtol=1e-10)


def test_float32_features_are_compared_in_float64():
    features = np.float32(RNG.normal(30, 1, (20, 16)))
    other = np.float32(RNG.normal(30, 1, (20, 16)))
    expected = by_loops(features.astype(np.float64), other.astype(np.float64))
    np.testing.assert_allclose(kid.squared_discrepancy(features, other), expected, rtol=1e-6)


@pytest.mark.parametrize(
    'first, second, message',
    [
        (FIRST[:1], SECOND, '2 or more'),
        (FIRST, SECOND[:, :3], 'got .7, 4. and .5, 3.'),
        (FIRST[0], SECOND, '2 or more'),
        (np.where(FIRST > 1, np.nan, FIRST), SECOND, 'finite'),
    ],
)
def test_wrong_features_are_named(first, second, message):
    for function in (kid.squared_discrepancy, kid.kernel_distance):
        with pytest.raises(ValueError, match=message):
            function(first, second)


@pytest.mark.parametrize('wrong', [dict(num_subsets=0), dict(subset_size=1)])
def test_wrong_subsets_are_named(wrong):
    with pytest.raises(ValueError, match='subset of 2 examples or more'):
        kid.kernel_distance(FIRST, SECOND, **wrong)
