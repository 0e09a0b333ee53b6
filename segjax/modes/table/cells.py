"""The cells of a table: a score of each seed, or a speed."""

import math
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from segjax.schema import is_number


class Cell(NamedTuple):
    """The numbers in one column of a row, in the unit of the column.

    values     by seed. A speed has one value, under the first seed
    diverged   number of the row's runs that diverged
    quartiles  of a speed, over the rounds of its measurement; None for a score
    """

    values: dict[int, float]
    diverged: int = 0
    quartiles: tuple[float, float] | None = None

    @property
    def mean(self) -> float | None:
        """Returns the mean over the seeds; None without a value."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Returns the standard deviation of the sample, divided by n - 1.

        It is None for fewer than two seeds.
        """
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def range(self) -> tuple[float, float] | tuple[None, None]:
        """Returns the quartiles of a speed, or the smallest and the largest value of a score."""
        if self.quartiles:
            return self.quartiles
        if not self.values:
            return None, None
        return min(self.values.values()), max(self.values.values())


def score_at(scores: Mapping[str, Any], path: str) -> float | None:
    """Returns the number at a path such as 'watermark/none/PSNR'.

    It is None if there is no finite number.
    """
    value: Any = scores
    for name in path.split('/'):
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if is_number(value) and math.isfinite(value) else None
