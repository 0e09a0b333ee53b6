"""The numbers of a table: means and spreads over the seeds, claims, classes, and what is missing."""

import math
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from scipy import stats

from segjax.scores import flat_scalars
from segjax.tables.plan import Plan
from segjax.tables.runs import Outcome, outcome
from segjax.tables.spec import Claim, Column, Row, Table, is_number
from segjax.tables.speed import Figure, Speeds, figure, first_runs, stored


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
        """Of the sample (divided by n - 1); None for fewer than two seeds."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def range(self) -> tuple[float, float] | tuple[None, None]:
        """The quartiles of a speed; the least and the largest value of a score."""
        if self.quartiles:
            return self.quartiles
        return (min(self.values.values()), max(self.values.values())) if self.values else (None, None)


class Comparison(NamedTuple):
    """A claim and, by seed, the number of row `higher` minus that of row `lower`."""

    claim: Claim
    column: Column
    published: float | None
    ours: Cell

    @property
    def verdict(self) -> str:
        """By the sign of the mean difference; 'within spread' where Student's t at 5 % cannot tell it from 0."""
        mean, std = self.ours.mean, self.ours.std
        if mean is None:
            return 'not measured'
        seeds = len(self.ours.values)
        near = std is not None and abs(mean) < stats.t.ppf(0.975, seeds - 1) * std / math.sqrt(seeds)
        single = ', one measurement' if self.column.speed else ', one seed'
        remark = single if std is None else ', within spread' if near else ''
        return ('holds' if mean > 0 else 'does not hold') + remark

    @property
    def agreeing(self) -> int:
        return sum(value > 0 for value in self.ours.values.values())


class Measured(NamedTuple):
    """All that the outputs show: outcomes by (row key, seed), cells by (row key, column name), and the speeds that are
    those of finished runs."""

    plan: Plan
    outcomes: dict[tuple[str, int], Outcome]
    cells: dict[tuple[str, str], Cell]
    comparisons: list[Comparison]
    speeds: Speeds


def measure(plan: Plan) -> Measured:
    """Reads the run folders of all jobs, and the speeds."""
    outcomes = {(job.row.key, job.seed): outcome(job) for job in plan.jobs}
    speeds = stored(plan, [job for job in first_runs(plan) if outcomes[job.row.key, job.seed].scores])
    cells = {}
    for row in plan.table.rows:
        found = {seed: outcomes[row.key, seed] for seed in plan.seeds}
        for column in plan.table.columns:
            if column.speed:
                cell = speed_cell(figure(speeds, column.speed, row.key), column, plan.seeds[0])
            else:
                cell = score_cell(row, column, found)
            cells[row.key, column.name] = cell
    comparisons = [compare(plan.table, claim, cells) for claim in plan.table.claims]
    return Measured(plan, outcomes, cells, comparisons, speeds)


def score_cell(row: Row, column: Column, found: Mapping[int, Outcome]) -> Cell:
    """A score of a row, from its outcomes by seed."""
    values = {seed: score_at(stage_scores(row, o.scores), column.score) for seed, o in found.items()}
    known = {seed: column.factor * value for seed, value in values.items() if value is not None}
    return Cell(known, sum(bool(o.diverged) for o in found.values()))


def speed_cell(found: Figure | None, column: Column, seed: int) -> Cell:
    """A speed of a row; empty where it was not measured."""
    if found is None:
        return Cell({})
    low, high = found.quartiles
    return Cell({seed: column.factor * found.median}, quartiles=(column.factor * low, column.factor * high))


def stage_scores(row: Row, scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores of the row's stage; {} if there is none of that name."""
    return scores.get(row.stage or next(reversed(scores), ''), {})


def score_at(scores: Mapping[str, Any], path: str) -> float | None:
    """The number at 'watermark/none/PSNR'; None where there is none."""
    value: Any = scores
    for name in path.split('/'):
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if is_number(value) else None


def compare(table: Table, claim: Claim, cells: Mapping[tuple[str, str], Cell]) -> Comparison:
    """A claim against the published numbers and ours, paired by seed over the seeds that both rows have."""
    (column,) = [column for column in table.columns if column.name == claim.column]
    published = {row.key: row.published.get(column.name) for row in table.rows}
    above, below = published[claim.higher], published[claim.lower]
    theirs = None if above is None or below is None else above - below
    high, low = (cells[key, column.name].values for key in (claim.higher, claim.lower))
    return Comparison(claim, column, theirs, Cell({seed: high[seed] - low[seed] for seed in high if seed in low}))


def best_rows(measured: Measured, column: Column) -> set[str]:
    """Keys of the rows whose mean is best, as it is printed; of none where fewer than two were measured."""
    rounded = {}
    for row in measured.plan.table.rows:
        mean = measured.cells[row.key, column.name].mean
        if mean is not None:
            rounded[row.key] = round(mean, column.digits)
    if not column.better or len(rounded) < 2:
        return set()
    best = {'max': max, 'min': min}[column.better](rounded.values())
    return {key for key, value in rounded.items() if value == best}


def class_scores(measured: Measured, row: Row) -> dict[str, float | None]:
    """IoU by class in per cent, the mean over the seeds; {} where the row has none."""
    found: dict[str, list[float]] = {}
    for seed in measured.plan.seeds:
        by_class = stage_scores(row, measured.outcomes[row.key, seed].scores).get('IoU')
        for name, value in by_class.items() if isinstance(by_class, Mapping) else ():
            found.setdefault(name, []).extend([100 * value] if is_number(value) else [])
    return {name: statistics.fmean(values) if values else None for name, values in found.items()}


def problems(measured: Measured) -> list[str]:
    """What a reader of the table should know: runs that diverged, stages and scores that no run has."""
    found = []
    for (key, seed), o in measured.outcomes.items():
        if o.diverged:
            found.append(f'{key}, seed {seed} diverged: {o.diverged.splitlines()[0]}')
    scores = {}
    for row in measured.plan.table.rows:
        runs = [o.scores for seed in measured.plan.seeds if (o := measured.outcomes[row.key, seed]).scores]
        if runs and row.stage and row.stage not in runs[0]:
            found.append(f'{row.key} has no stage {row.stage!r}; there are: {", ".join(runs[0])}')
        elif runs:
            scores |= flat_scalars(stage_scores(row, runs[0]))
    for column in measured.plan.table.columns:
        if any(measured.cells[row.key, column.name].values for row in measured.plan.table.rows):
            continue
        if column.speed and measured.speeds.rows:
            whom = f'row {column.speed.over}' if column.speed.over else 'any row'
            found.append(f'no time of {column.speed.part} for {whom}, which column {column.name} needs')
        elif scores and not column.speed:
            some = ', '.join(list(scores)[:12]) + (', ...' if len(scores) > 12 else '')
            found.append(f'no run has a score {column.score!r} for column {column.name}; there are: {some}')
    return found
