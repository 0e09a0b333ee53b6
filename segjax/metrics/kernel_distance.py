"""Kernel distance of two sets of features (KID), on the host.

Unlike the Fréchet distance it is unbiased, so small sets can be compared.

Source: Bińkowski, Sutherland, Arbel, Gretton, Demystifying MMD GANs, ICLR 2018.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

NUM_SUBSETS = 100
SUBSET_SIZE = 1000


class KernelDistance(NamedTuple):
    """The kernel distance over random subsets.

    mean         over the subsets. It may be below 0
    deviation    standard deviation over the subsets, 0 for a single subset
    num_subsets  number of subsets
    subset_size  number of examples of each set in a subset
    """

    mean: float
    deviation: float
    num_subsets: int
    subset_size: int


def kernel_distance(
    first: ArrayLike,
    second: ArrayLike,
    *,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> KernelDistance:
    """Averages the squared discrepancy of random subsets of two sets of features.

    A subset has examples of both sets, each drawn without replacement. Sets with fewer examples
    than `subset_size` shrink the subsets. If a subset has all examples, it is the only subset.

    Args:
      first: [N, D] features of a set of images, for example of real images.
      second: [M, D] features of another set. N and M are at least 2.
      num_subsets: number of subsets.
      subset_size: number of examples of each set in a subset, at least 2.
      seed: of the subsets.

    Returns:
      KernelDistance.

    Raises:
      ValueError: as in `squared_discrepancy`, no subset, or subsets of fewer than 2 examples.
    """
    x, y = _checked(first, second)
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(
            f'a kernel distance needs a subset of 2 examples or more; got {num_subsets} subsets of '
            f'{subset_size}'
        )

    # Subsets with all examples have equal distances.
    size = min(subset_size, len(x), len(y))
    if size == len(x) == len(y):
        num_subsets = 1

    generator = np.random.default_rng(seed)
    distances = []
    for _ in range(num_subsets):
        rows_x = generator.choice(len(x), size, replace=False)
        rows_y = generator.choice(len(y), size, replace=False)
        distances.append(squared_discrepancy(x[rows_x], y[rows_y]))
    return KernelDistance(
        mean=float(np.mean(distances)),
        deviation=float(np.std(distances)),
        num_subsets=num_subsets,
        subset_size=size,
    )


def squared_discrepancy(first: ArrayLike, second: ArrayLike) -> float:
    """Computes the unbiased squared maximum mean discrepancy of two sets with a cubic kernel.

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
        k(a, b) = (a . b / D + 1)^3

    Its expectation is 0 for sets of the same distribution. Single values may be below 0.

    Args:
      first: [N, D].
      second: [M, D]. N and M are at least 2.

    Raises:
      ValueError: other shapes, or features that are not finite.
    """
    x, y = _checked(first, second)
    within = _mean_of_pairs(_kernel(x, x)) + _mean_of_pairs(_kernel(y, y))
    return float(within - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the cubic kernel of all pairs of rows of x [N, D] and y [M, D], [N, M]."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_of_pairs(kernel: np.ndarray) -> float:
    """Returns the mean of a square matrix without its diagonal."""
    count = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (count * (count - 1))


def _checked(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets in float64. Raises ValueError as `squared_discrepancy`."""
    x = np.asarray(first, np.float64)
    y = np.asarray(second, np.float64)
    has_shape = x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1] > 0
    if not has_shape or min(len(x), len(y)) < 2:
        raise ValueError(
            'a kernel distance needs features [N, D] and [M, D] with N and M of 2 or more; got '
            f'{list(x.shape)} and {list(y.shape)}'
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError('features must be finite')
    return x, y
