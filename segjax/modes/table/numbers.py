"""The numbers of a table: cells, claims, scores by class, and problems."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from segjax.errors import first_line
from segjax.modes.table import starts
from segjax.modes.table.cells import Cell, score_at
from segjax.modes.table.claims import Comparison, compare, difference
from segjax.modes.table.plan import TablePlan, TableRun
from segjax.modes.table.runs import OPEN, Outcome, outcome
from segjax.modes.table.spec import Claim, Column, Difference, Row, Table
from segjax.modes.table.speed import Figure, Speeds, figure, stored, timed_runs
from segjax.report.scores import Curve, CurveLine, all_curves, flat_scalars
from segjax.schema import is_number
from segjax.train import driver
from segjax.train import stored as stored_files

MOST_LINES = 12
"""Largest number of lines of a chart in which rows have several lines each."""


class Measured(NamedTuple):
    """Holds everything that the outputs show.

    plan         the plan of the table
    outcomes     by (row key, seed)
    cells        by (row key, column name)
    comparisons  the claims, in the order of the table
    headlines    the differences above the table, with their values by seed
    speeds       of finished runs
    starts       the start of each row in words, by row key
    """

    plan: TablePlan
    outcomes: dict[tuple[str, int], Outcome]
    cells: dict[tuple[str, str], Cell]
    comparisons: list[Comparison]
    headlines: list[tuple[Difference, Cell]]
    speeds: Speeds
    starts: dict[str, str]


def measure(plan: TablePlan) -> Measured:
    """Reads the run folders of all runs, and the speeds."""
    table = plan.table
    outcomes = {(run.row.key, run.seed): outcome(run) for run in plan.runs}
    finished = [run for run in timed_runs(plan) if outcomes[run.row.key, run.seed].scores]
    speeds = stored(plan, finished)
    cells = {}
    for row in table.rows:
        by_seed = {seed: outcomes[row.key, seed] for seed in plan.seeds}
        for column in table.columns:
            if column.speed:
                cell = speed_cell(figure(speeds, column.speed, row.key), column, plan.seeds[0])
            else:
                cell = score_cell(row, column, by_seed)
            cells[row.key, column.name] = cell
    begun = row_starts(plan, outcomes)
    comparisons = []
    for claim in table.claims:
        remarks = ['different starts'] if starts_differ(plan.table, claim, begun) else []
        comparisons.append(compare(table, claim, cells, remarks))
    headlines = [(headline, difference(headline, cells)) for headline in table.headlines]
    return Measured(plan, outcomes, cells, comparisons, headlines, speeds, begun)


def row_starts(plan: TablePlan, outcomes: Mapping[tuple[str, int], Outcome]) -> dict[str, str]:
    """Returns by row key the start of the row's run with the first seed, in words.

    A run without a result has the start from which it will begin.
    """
    by_key = {}
    for run in plan.runs:
        if run.seed != plan.seeds[0]:
            continue
        done = outcomes[run.row.key, run.seed] != OPEN
        stored_config = stored_files.read_config(run.folder / driver.CONFIG) if done else None
        by_key[run.row.key] = starts.text(run.row, run.config, run.folder, stored_config)
    return by_key


def starts_differ(table: Table, claim: Claim, begun: Mapping[str, str]) -> bool:
    """Returns whether a reader must know that the two rows of a claim have different starts.

    If one of the rows begins from another row, the difference is intended. A row that evaluates
    the run of another row has its net, and so its start.
    """
    rows = [table.row(key) for key in (claim.higher, claim.lower)]
    if any(row.after for row in rows):
        return False
    above, below = (begun[row.evaluates or row.key] for row in rows)
    return above != below


def score_cell(row: Row, column: Column, outcomes: Mapping[int, Outcome]) -> Cell:
    """Returns a score of a row, from its outcomes by seed."""
    values = {}
    for seed, result in outcomes.items():
        value = score_at(stage_scores(row, result.scores), column.score)
        if value is not None:
            values[seed] = column.factor * value
    return Cell(values, diverged=sum(bool(result.diverged) for result in outcomes.values()))


def speed_cell(measured: Figure | None, column: Column, seed: int) -> Cell:
    """Returns a speed of a row under a seed. The cell is empty if it was not measured."""
    if measured is None:
        return Cell({})
    low, high = measured.quartiles
    values = {seed: column.factor * measured.median}
    return Cell(values, quartiles=(column.factor * low, column.factor * high))


def stage_scores(row: Row, scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the scores of the row's stage; {} if there is no stage of that name."""
    return scores.get(row.stage or next(reversed(scores), ''), {})


def best_rows(measured: Measured, column: Column) -> set[str]:
    """Returns the keys of the rows with the best mean, compared as it is printed.

    With fewer than two measured rows, no row is best.
    """
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
    """Returns the IoU by class in per cent, averaged over the seeds; {} if the row has none."""
    by_name: dict[str, list[float]] = {}
    for seed in measured.plan.seeds:
        ious = stage_scores(row, measured.outcomes[row.key, seed].scores).get('IoU')
        if not isinstance(ious, Mapping):
            continue
        for name, value in ious.items():
            values = by_name.setdefault(name, [])
            if is_number(value):
                values.append(100 * value)
    return {name: statistics.fmean(values) if values else None for name, values in by_name.items()}


# --- curves ---------------------------------------------------------------------------------------


def row_curves(measured: Measured, names: Mapping[str, str]) -> dict[str, Curve]:
    """Returns the scores that are curves, each with the lines of all rows that have it.

    Curves of one name whose axes differ are not drawn over each other: the first row decides.

    Args:
      measured: the numbers of the table.
      names: names of the rows in the legend, by row key. Only these rows are drawn.
    """
    by_row: dict[str, dict[str, Curve]] = {}
    for key, legend in names.items():
        row = measured.plan.table.row(key)
        by_seed = []
        for seed in measured.plan.seeds:
            by_seed.append(all_curves(stage_scores(row, measured.outcomes[key, seed].scores)))
        for name in dict.fromkeys(name for curves in by_seed for name in curves):
            mean = mean_curve([curves[name] for curves in by_seed if name in curves])
            rows = by_row.setdefault(name, {})
            first = next(iter(rows.values()), mean)
            if first._replace(lines=()) == mean._replace(lines=()):
                rows[legend] = mean

    drawn = {}
    for name, rows in by_row.items():
        drawn |= together(name, rows)
    return drawn


def together(name: str, rows: Mapping[str, Curve]) -> dict[str, Curve]:
    """Returns a curve with all lines of all rows, or a curve for each line if they are many.

    Args:
      name: of the curve.
      rows: {name of the row: its curve}.
    """
    lines = []
    most = 0
    for legend, curve in rows.items():
        lines += [_with_row(line, legend, len(curve.lines)) for line in curve.lines]
        most = max(most, len(curve.lines))
    if most > 1 and len(lines) > MOST_LINES:
        return _by_line(name, rows)
    return {name: next(iter(rows.values()))._replace(lines=tuple(lines))}


def _by_line(name: str, rows: Mapping[str, Curve]) -> dict[str, Curve]:
    """Returns a curve for each line of the rows, with a line for each row.

    Lines that are equal in all rows, such as the line of chance, are drawn in every curve.

    Args:
      name: of the curve.
      rows: {name of the row: its curve}.
    """
    by_line: dict[str, list[CurveLine]] = {}
    for legend, curve in rows.items():
        for line in curve.lines:
            by_line.setdefault(line.name, []).append(line._replace(name=legend))
    common = []
    for line_name, lines in list(by_line.items()):
        points = {(tuple(line.x), tuple(line.y)) for line in lines}
        if len(points) == 1 and len(lines) == len(rows) > 1 and len(by_line) > 1:
            common.append(lines[0]._replace(name=line_name))
            del by_line[line_name]
    first = next(iter(rows.values()))
    drawn = {}
    for line_name, lines in by_line.items():
        drawn[f'{name} of {line_name}'] = first._replace(lines=(*lines, *common))
    return drawn


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Returns the mean of a curve over the seeds, if their x agree. Else it is the first curve."""
    first = curves[0]
    axes = [[(line.name, line.x) for line in curve.lines] for curve in curves]
    if any(each != axes[0] for each in axes):
        return first
    lines = []
    for number, line in enumerate(first.lines):
        columns = zip(*(curve.lines[number].y for curve in curves), strict=True)
        means = [None if None in column else statistics.fmean(column) for column in columns]
        lines.append(line._replace(y=means))
    return first._replace(lines=tuple(lines))


def _with_row(line: CurveLine, legend: str, num_lines: int) -> CurveLine:
    """Returns a line with the name of its row, and with its own name if the row has several."""
    return line._replace(name=f'{legend}: {line.name}' if num_lines > 1 else legend)


# --- problems -------------------------------------------------------------------------------------


def problems(measured: Measured) -> list[str]:
    """Returns sentences on runs that diverged, and on stages and scores that no run has."""
    return [*_run_problems(measured), *_score_problems(measured)]


def _run_problems(measured: Measured) -> list[str]:
    """Returns sentences on runs that diverged, and on runs whose start diverged."""
    sentences = []
    for run in measured.plan.runs:
        result = _outcome(measured, run)
        start = measured.plan.start(run)
        if result.diverged:
            sentences.append(f'{run.name} diverged: {first_line(result.diverged)}')
        elif start and not result.scores and _outcome(measured, start).diverged:
            sentences.append(f'{run.name} cannot begin: {start.name} diverged')
    return sentences


def _outcome(measured: Measured, run: TableRun) -> Outcome:
    return measured.outcomes[run.row.key, run.seed]


def _score_problems(measured: Measured) -> list[str]:
    """Returns sentences on rows without their stage, and on columns without a number."""
    plan = measured.plan
    sentences = []

    # Names of all scores of the first finished run of each row.
    scores: dict[str, float | None] = {}
    for row in plan.table.rows:
        results = [measured.outcomes[row.key, seed].scores for seed in plan.seeds]
        first = next((result for result in results if result), None)
        if first is None:
            continue
        if row.stage and row.stage not in first:
            stages = ', '.join(first)
            sentences.append(f'{row.key} has no stage {row.stage!r}; there are: {stages}')
        else:
            scores |= flat_scalars(stage_scores(row, first))

    for column in plan.table.columns:
        if not any(measured.cells[row.key, column.name].values for row in plan.table.rows):
            sentences += _column_problem(measured, column, scores)
    return sentences


def _column_problem(
    measured: Measured, column: Column, scores: Mapping[str, float | None]
) -> list[str]:
    """Returns why a column is empty; nothing if its numbers may still come.

    Args:
      measured: the numbers of the table.
      column: without a number.
      scores: all scores of the finished runs, by path.
    """
    if column.speed and measured.speeds.rows:
        row = f'row {column.speed.over}' if column.speed.over else 'any row'
        return [f'no time of {column.speed.part} for {row}, which column {column.name} needs']
    if column.score in scores:
        return [
            f'score {column.score!r} of column {column.name} is empty in every run: '
            'nothing to measure'
        ]
    if scores and not column.speed:
        known = ', '.join(list(scores)[:12]) + (', ...' if len(scores) > 12 else '')
        return [f'no run has a score {column.score!r} for column {column.name}; there are: {known}']
    return []
