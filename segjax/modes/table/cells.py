"""Holds a cell of a table: a score of each seed, or one speed."""

import math
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from segjax.schema import is_number


class Cell(NamedTuple):
    """A column of a row, in the column's unit: its value by seed, and how many of the row's runs diverged.

    A speed has one value, under the first seed, and `quartiles` over the rounds of its measurement.
    """

    values: dict[int, float]
    diverged: int = 0
    quartiles: tuple[float, float] | None = None

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Returns the standard deviation of the sample (divided by n - 1); None for fewer than two seeds."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def range(self) -> tuple[float, float] | tuple[None, None]:
        """Returns the quartiles of a speed; the least and the largest value of a score."""
        if self.quartiles:
            return self.quartiles
        return (
            (min(self.values.values()), max(self.values.values())) if self.values else (None, None)
        )


def score_at(scores: Mapping[str, Any], path: str) -> float | None:
    """Returns the number at 'watermark/none/PSNR'; None where there is no finite number."""
    value: Any = scores
    for name in path.split('/'):
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if is_number(value) and math.isfinite(value) else None
