"""Intervals of means over examples that come in groups, on the host."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and its bootstrap interval.

    mean    over the values
    low     lower end
    high    upper end
    values  number of values
    groups  number of groups
    """

    mean: float
    low: float
    high: float
    values: int
    groups: int


def grouped_bootstrap(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval | None:
    """Computes the percentile bootstrap interval of a mean, resampling whole groups.

    Values of a group depend on each other, as boxes of an image do. Each resample draws as many
    groups as there are, with replacement, and takes the mean of all their values.

    Args:
      values: [N]. NaN is left out.
      groups: [N] group of each value, whole numbers.
      resamples: number of resamples.
      level: share of the resampled means inside the interval.
      seed: of the resamples.

    Returns:
      The interval, None without a value. A single group gives an interval of length 0.

    Source: Field and Welsh, Bootstrapping clustered data, JRSS B 2007 (randomised cluster
    bootstrap).
    """
    values = np.asarray(values, np.float64)
    kept = ~np.isnan(values)
    if not kept.any():
        return None
    values = values[kept]
    _, places = np.unique(np.asarray(groups)[kept], return_inverse=True)
    sums = np.bincount(places, weights=values)
    counts = np.bincount(places)

    # A resample is the number of times that each group is drawn.
    num_groups = len(sums)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=resamples)
    means = (draws @ sums) / (draws @ counts)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(
        mean=float(values.mean()),
        low=float(low),
        high=float(high),
        values=len(values),
        groups=num_groups,
    )


def of_scores(values: Mapping[str, np.ndarray], groups: ArrayLike) -> dict[str, dict[str, float]]:
    """Returns mean, low and high of the 95 % interval of each vector that has a value.

    Args:
      values: {name: [N]}.
      groups: [N] group of each value. Groups are resampled.
    """
    rows = {}
    for name, vector in values.items():
        interval = grouped_bootstrap(vector, groups)
        if interval is not None:
            rows[name] = {'mean': interval.mean, 'low': interval.low, 'high': interval.high}
    return rows
