"""Times calls in turn, and compares the times of each round."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from segjax.protocol import PyTree


class Measurement(NamedTuple):
    """Seconds of repeated calls, without the warm-up calls."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Returns the median of the seconds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Returns the lower and the upper quartile of the seconds."""
        return _quartiles(self.seconds)

    def record(self) -> dict[str, Any]:
        """Returns the figures that bench.json keeps."""
        return {
            'repetitions': len(self.seconds),
            'median_seconds': self.median,
            'quartiles_seconds': self.quartiles,
        }


class Ratio(NamedTuple):
    """Time of a variant over the time of the reference in the same round.

    Median and quartiles are over the rounds.
    """

    median: float
    quartiles: tuple[float, float]


def measure_in_turn(
    calls: Mapping[str, Callable[[], PyTree]], repetitions: int, warm_up: int
) -> dict[str, Measurement]:
    """Times calls until their arrays are ready, in rounds of one call each.

    Every second round runs in reverse order, so that no call always follows the same other call.

    Args:
      calls: by name.
      repetitions: timed rounds.
      warm_up: rounds before the timed rounds, which do not count.

    Returns:
      The seconds of each call, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repetitions):
        names = list(calls) if turn % 2 == 0 else list(reversed(calls))
        for name in names:
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: Measurement(tuple(values)) for name, values in seconds.items()}


def ratios(measurements: Mapping[str, Measurement], reference: str) -> dict[str, Ratio]:
    """Divides the time of each variant by the time of the reference in the same round.

    Args:
      measurements: from `measure_in_turn`, by name.
      reference: one of these names. Its own ratio is 1.
    """
    base = np.array(measurements[reference].seconds)
    by_name = {}
    for name, measurement in measurements.items():
        paired = np.array(measurement.seconds) / base
        by_name[name] = Ratio(float(np.median(paired)), _quartiles(paired))
    return by_name


def _quartiles(values) -> tuple[float, float]:
    low, high = np.quantile(values, (0.25, 0.75))
    return float(low), float(high)
