"""The numbers of a table: means and spreads over the seeds, claims, classes, and what is missing."""

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from segjax.modes.table import starts
from segjax.modes.table.cells import Cell, score_at
from segjax.modes.table.claims import Comparison, compare, difference
from segjax.modes.table.plan import TablePlan, TableRun
from segjax.modes.table.runs import OPEN, Outcome, outcome
from segjax.modes.table.spec import Column, Difference, Row
from segjax.modes.table.speed import Figure, Speeds, figure, first_runs, stored
from segjax.report.scores import flat_scalars
from segjax.schema import is_number
from segjax.train import driver
from segjax.train import stored as stored_files


class Measured(NamedTuple):
    """Holds all that the outputs show.

    outcomes     by (row key, seed)
    cells        by (row key, column name)
    comparisons  the claims, in the order of the table
    headlines    the differences above the table, with their values by seed
    speeds       those of finished runs
    starts       by row key: what the row begins from, in words
    """

    plan: TablePlan
    outcomes: dict[tuple[str, int], Outcome]
    cells: dict[tuple[str, str], Cell]
    comparisons: list[Comparison]
    headlines: list[tuple[Difference, Cell]]
    speeds: Speeds
    starts: dict[str, str]


def row_starts(plan: TablePlan, outcomes: Mapping[tuple[str, int], Outcome]) -> dict[str, str]:
    """Returns, by row key, what the row's run of the first seed began from, or will begin from."""
    found = {}
    for job in first_jobs(plan):
        done = outcomes[job.row.key, job.seed] != OPEN
        stored = stored_files.read_config(job.folder / driver.CONFIG) if done else None
        found[job.row.key] = starts.text(job.row, job.config, job.folder, stored)
    return found


def first_jobs(plan: TablePlan) -> list[TableRun]:
    """Returns the job of each row, hidden rows included, with the first seed."""
    return [job for job in plan.jobs if job.seed == plan.seeds[0]]


def measure(plan: TablePlan) -> Measured:
    """Reads the run folders of all jobs, and the speeds."""
    outcomes = {(job.row.key, job.seed): outcome(job) for job in plan.jobs}
    speeds = stored(
        plan, [job for job in first_runs(plan) if outcomes[job.row.key, job.seed].scores]
    )
    cells = {}
    for row in plan.table.rows:
        found = {seed: outcomes[row.key, seed] for seed in plan.seeds}
        for column in plan.table.columns:
            if column.speed:
                cell = speed_cell(figure(speeds, column.speed, row.key), column, plan.seeds[0])
            else:
                cell = score_cell(row, column, found)
            cells[row.key, column.name] = cell
    begun = row_starts(plan, outcomes)
    comparisons = []
    for claim in plan.table.claims:
        rows = [plan.table.row(key) for key in (claim.higher, claim.lower)]
        differ = begun[claim.higher] != begun[claim.lower] and not any(row.after for row in rows)
        comparisons.append(
            compare(plan.table, claim, cells, ['different starts'] if differ else [])
        )
    headlines = [(headline, difference(headline, cells)) for headline in plan.table.headlines]
    return Measured(plan, outcomes, cells, comparisons, headlines, speeds, begun)


def score_cell(row: Row, column: Column, found: Mapping[int, Outcome]) -> Cell:
    """A score of a row, from its outcomes by seed."""
    values = {
        seed: score_at(stage_scores(row, o.scores), column.score) for seed, o in found.items()
    }
    known = {seed: column.factor * value for seed, value in values.items() if value is not None}
    return Cell(known, sum(bool(o.diverged) for o in found.values()))


def speed_cell(found: Figure | None, column: Column, seed: int) -> Cell:
    """A speed of a row; empty where it was not measured."""
    if found is None:
        return Cell({})
    low, high = found.quartiles
    return Cell(
        {seed: column.factor * found.median}, quartiles=(column.factor * low, column.factor * high)
    )


def stage_scores(row: Row, scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores of the row's stage; {} if there is none of that name."""
    return scores.get(row.stage or next(reversed(scores), ''), {})


def best_rows(measured: Measured, column: Column) -> set[str]:
    """Keys of the rows whose mean is best, as it is printed; of none where fewer than two were measured."""
    rounded = {}
    for row in measured.plan.table.shown:
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
    """Returns what a reader of the table should know: runs that diverged, stages and scores that no run has."""
    found = []
    for job in measured.plan.jobs:
        o, start = measured.outcomes[job.row.key, job.seed], measured.plan.start(job)
        if o.diverged:
            found.append(f'{job.name} diverged: {o.diverged.splitlines()[0]}')
        elif start and not o.scores and measured.outcomes[start.row.key, start.seed].diverged:
            found.append(f'{job.name} cannot begin: {start.name} diverged')
    scores = {}
    for row in measured.plan.table.rows:
        runs = [
            o.scores
            for seed in measured.plan.seeds
            if (o := measured.outcomes[row.key, seed]).scores
        ]
        if runs and row.stage and row.stage not in runs[0]:
            found.append(f'{row.key} has no stage {row.stage!r}; there are: {", ".join(runs[0])}')
        elif runs:
            scores |= flat_scalars(stage_scores(row, runs[0]))
    for column in measured.plan.table.columns:
        if any(measured.cells[row.key, column.name].values for row in measured.plan.table.rows):
            continue
        if column.speed and measured.speeds.rows:
            whom = f'row {column.speed.over}' if column.speed.over else 'any row'
            found.append(
                f'no time of {column.speed.part} for {whom}, which column {column.name} needs'
            )
        elif column.score in scores:
            found.append(
                f'score {column.score!r} of column {column.name} is empty in every run: nothing to measure'
            )
        elif scores and not column.speed:
            some = ', '.join(list(scores)[:12]) + (', ...' if len(scores) > 12 else '')
            found.append(
                f'no run has a score {column.score!r} for column {column.name}; there are: {some}'
            )
    return found
