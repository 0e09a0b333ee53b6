"""The scores that all compared runs share."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from segjax.modes.compare.runs import Compared
from segjax.report.scores import (
    PER_CLASS,
    flat_scalars,
    is_share,
    split_scores,
    without_column,
)

Values = dict[str, list[float]]
"""A number of each run, by name."""


def shared_scores(runs: Sequence[Compared]) -> Values:
    """Returns the finite numbers that all runs have among their scores, scores by class included.

    Names are paths such as 'watermark/none/PSNR' and 'IoU/road'.
    """
    flat = [flat_scalars(compared.scores) for compared in runs]
    shared: Values = {}
    for name in flat[0]:
        values = [scores.get(name) for scores in flat]
        if all(_is_finite(value) for value in values):
            shared[name] = [float(value) for value in values]
    return shared


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def overall(runs: Sequence[Compared], shared: Values) -> Values:
    """Returns the scores that belong to no class."""
    names = set(runs[0].classes.names)
    by_class = set()
    for name, value in runs[0].scores.items():
        if isinstance(value, Mapping) and value and set(value) <= names:
            by_class.add(name)
    return {name: values for name, values in shared.items() if name.split('/')[0] not in by_class}


def class_scores(runs: Sequence[Compared], score: str = 'IoU') -> dict[str, list[float | None]]:
    """Returns a score of each run by class, the largest gain of the last run first.

    The gain is the difference from the first run. Classes without a difference come last.
    """
    tables = [split_scores(compared.scores).tables.get(PER_CLASS, {}) for compared in runs]
    rows = {}
    for name in runs[0].classes.names:
        values = [table.get(name, {}).get(score) for table in tables]
        if any(value is not None for value in values):
            rows[name] = values

    def gain(name: str) -> float:
        first, *_, last = rows[name]
        return -math.inf if first is None or last is None else last - first

    return {name: rows[name] for name in sorted(rows, key=gain, reverse=True)}


SMALLER = re.compile('Sem|NN|noisy_boxes|.*_(error|fall)')
"""Scores that are better if they are smaller, by the last part of their name."""


def best(name: str, values: Sequence[float], monitor: tuple[str, str]) -> list[bool]:
    """Marks the best of several values of a score.

    Shares and PSNR are better if they are larger, the scores in `SMALLER` if they are smaller. The
    score that ranks checkpoints has its own direction. For any other score nothing is marked.

    Args:
      name: of the score.
      values: of the runs.
      monitor: `Stage.monitor`.
    """
    score = without_column(name).rsplit('/', 1)[-1]
    larger = is_share(name) or score == 'PSNR'
    direction = 'max' if larger else ''
    if SMALLER.fullmatch(score):
        direction = 'min'
    if name == monitor[0]:
        direction = monitor[1]
    if not direction or len(set(values)) == 1:
        return [False] * len(values)
    top = max(values) if direction == 'max' else min(values)
    return [value == top for value in values]


def table(runs: Sequence[Compared], shared: Values) -> str:
    """Returns scores.csv: a score a line, a run a column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['score', *(compared.name for compared in runs)])
    for name, values in shared.items():
        writer.writerow([name, *values])
    return text.getvalue()
