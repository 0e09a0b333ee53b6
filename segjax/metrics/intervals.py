"""Intervals of means, and of further statistics, over examples in groups, on the host."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
LEVEL = 0.95

BLOCK = 2_000_000
"""Largest number of examples of all resamples that `of_statistics` computes at once."""


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
    draws = _draw(generator, num_groups, resamples)
    low, high = _ends((draws @ sums) / (draws @ counts), level)
    return Interval(
        mean=float(values.mean()),
        low=low,
        high=high,
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


def of_statistics(
    statistics: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    kinds: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Returns statistics of examples of several kinds, with percentile bootstrap intervals.

    A resample draws as many groups of each kind as there are, with replacement. So the number of
    groups of each kind is the same in all resamples.

    Args:
      statistics: times [R, N] -> {name: [R]}. times[r, i] says how often resample r holds example
        i.
      kinds: [N] kind of each example, for example member or not.
      groups: [N] group of each example, numbers or texts. None: each example is a group.
      resamples, level, seed: as in `grouped_bootstrap`.

    Returns:
      {name: {'value', 'low', 'high'}}. 'value' is the statistic of all examples. Statistics whose
      value is NaN are left out.
    """
    kinds = np.asarray(kinds)
    groups = np.arange(len(kinds)) if groups is None else np.asarray(groups)
    values = statistics(np.ones((1, len(kinds)), np.int64))

    # Resamples of many examples are computed in blocks.
    generator = np.random.default_rng(seed)
    per_block = max(1, BLOCK // len(kinds))
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for start in range(0, resamples, per_block):
        number = min(per_block, resamples - start)
        times = _times(generator, kinds, groups, number)
        for name, vector in statistics(times).items():
            resampled[name].append(vector)

    rows = {}
    for name, (value,) in values.items():
        if not np.isnan(value):
            low, high = _ends(np.concatenate(resampled[name]), level)
            rows[name] = {'value': float(value), 'low': low, 'high': high}
    return rows


def _times(
    generator: np.random.Generator, kinds: np.ndarray, groups: np.ndarray, resamples: int
) -> np.ndarray:
    """Draws how often each resample holds each example, [resamples, N] integers."""
    times = np.zeros((resamples, len(kinds)), np.int64)
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        names, places = np.unique(groups[rows], return_inverse=True)
        times[:, rows] = _draw(generator, len(names), resamples)[:, places]
    return times


def _draw(generator: np.random.Generator, num_groups: int, resamples: int) -> np.ndarray:
    """Draws how often each resample holds each group, [resamples, num_groups] integers."""
    return generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=resamples)


def _ends(resampled: np.ndarray, level: float) -> tuple[float, float]:
    """Returns the ends of the percentile interval of resampled values [R]."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)
