"""The table as text: for the terminal, as Markdown, as CSV and as JSON."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from segjax.core import files
from segjax.modes import bench
from segjax.modes.table.cells import Cell, score_at
from segjax.modes.table.claims import Comparison, by_chance
from segjax.modes.table.numbers import Measured, best_rows, problems, stage_scores
from segjax.modes.table.plan import TableRun, config_argument
from segjax.modes.table.runs import OPEN
from segjax.modes.table.spec import Claim, Column, Difference, Row, Table
from segjax.modes.table.speed import Speeds, figure, parts_asked_for
from segjax.report.scores import scored_at
from segjax.train import stored

LEGEND = (
    'Ours: mean ± sample standard deviation over the seeds, the best in bold. '
    'Published: as in the paper. An empty cell was not measured, or not published.'
)
CLAIMS_LEGEND = (
    'Ours: difference of the two rows, paired by seed, ± sample standard deviation. '
    '"holds" is the sign of the mean, "within spread" a mean that a t-test at 5 % cannot tell '
    'from 0, "undecided" a mean of exactly 0, "withheld" a claim whose conditions do not hold. '
    'Smallest effect: the size that a mean needs to be told from 0.'
)

Cells = tuple[list[str], list[list[str]]]
"""(heads, lines) of a printed table."""


# --- cells ----------------------------------------------------------------------------------------


def heading(column: Column) -> str:
    """Returns the heading of a column: 'mIoU [%]'."""
    return _with_unit(column.name, column.unit)


def _with_unit(name: str, unit: str) -> str:
    return name + (f' [{unit}]' if unit else '')


def cell_text(cell: Cell, column: Column, sign: str = '', bold: Callable[[str], str] = str) -> str:
    """Formats a cell: '43.3 ± 0.8 (3 seeds)', '43.3 (1 seed)', 'diverged', ''.

    A speed, which is measured once, is a single number: '12.5'.

    Args:
      cell: the numbers.
      column: gives the digits.
      sign: '+' prints the sign of positive numbers.
      bold: marks the numbers, not the seeds.
    """
    if cell.mean is None:
        return 'diverged' if cell.diverged else ''
    mean = _number(cell.mean, column.digits, sign)
    if column.speed:
        return bold(mean)
    spread = '' if cell.std is None else f' ± {_number(cell.std, column.digits)}'
    seeds = f'{len(cell.values)} seed' + 's' * (len(cell.values) > 1)
    failed = f', {cell.diverged} diverged' if cell.diverged else ''
    return bold(mean + spread) + f' ({seeds}{failed})'


def _number(value: float | None, digits: int, sign: str = '') -> str:
    """Formats a number with `digits` after the point; '' for None."""
    return '' if value is None else f'{value:{sign}z.{digits}f}'


def label_names(table: Table) -> list[str]:
    """Returns the headings of all labels, in the order of the literature and the rows."""
    entries = (*table.literature, *table.shown)
    return list(dict.fromkeys(name for entry in entries for name in entry.labels))


def table_cells(
    measured: Measured, bold: Callable[[str], str], text: Callable[[str], str]
) -> Cells:
    """Returns the cells of the table: name, labels, and for each column ours and published.

    Args:
      measured: the numbers.
      bold: marks the best numbers.
      text: escapes words of the table file.
    """
    table = measured.plan.table
    labels = label_names(table)
    heads = ['row', *labels]
    for column in table.columns:
        heads += [heading(column), 'published']
    best = {column.name: best_rows(measured, column) for column in table.columns}
    lines = []
    for entry in table.literature:
        line = [text(entry.name), *(text(str(entry.labels.get(name, ''))) for name in labels)]
        for column in table.columns:
            line += ['', _number(entry.published.get(column.name), column.digits)]
        lines.append(line)
    for row in table.shown:
        line = [text(row.name), *(text(str(row.labels.get(name, ''))) for name in labels)]
        for column in table.columns:
            mark = bold if row.key in best[column.name] else str
            line.append(cell_text(measured.cells[row.key, column.name], column, bold=mark))
            line.append(_number(row.published.get(column.name), column.digits))
        lines.append(line)
    return heads, lines


def claim_cells(measured: Measured, text: Callable[[str], str]) -> Cells:
    """Returns a line of cells for each claim. Words of the table file pass through `text`."""
    heads = [
        *('claim', 'difference in', 'published', 'ours', 'smallest effect', 'seeds that agree'),
        'verdict',
    ]
    lines = []
    for comparison in measured.comparisons:
        column = comparison.column
        seeds = 0 if column.speed else len(comparison.ours.values)
        line = [
            text(comparison.claim.text),
            text(heading(column)),
            _number(comparison.published, column.digits, '+'),
            cell_text(comparison.ours, column, '+'),
            _number(comparison.smallest_effect, column.digits),
            f'{comparison.agreeing} of {seeds}' if seeds else '',
            text(comparison.verdict),
        ]
        lines.append(line)
    return heads, lines


def headline_lines(measured: Measured) -> list[str]:
    """Returns a line for each headline.

    Example: 'gap [dB]: +3.10 (1 seed), PSNR of none over max_only; wanted: at least 3'.
    """
    lines = []
    for headline, cell in measured.headlines:
        column = measured.plan.table.column(headline.column)
        name = _with_unit(headline.name, headline.unit or column.unit)
        value = cell_text(cell, column, '+') or 'not measured'
        rows = f'{headline.column} of {headline.higher} over {headline.lower}'
        wanted = f'; wanted: {headline.wanted}' if headline.wanted else ''
        lines.append(f'{name}: {value}, {rows}{wanted}')
    return lines


# --- conditions -----------------------------------------------------------------------------------


def facts(measured: Measured) -> dict[str, str]:
    """Returns the measurement conditions by name. If rows differ, all their values are listed."""
    plan = measured.plan
    configs = [run.config for run in plan.runs]

    def each(value: Callable[[ml_collections.ConfigDict], Any]) -> str:
        return _listed(value(config) for config in configs)

    # Runs that have not begun have no environment.
    environments = []
    for run in plan.runs:
        path = run.folder / 'environment.json'
        if path.exists():
            environments.append(stored.read_object(path))
    return {
        'scale': plan.scale_name + (f' ({plan.scale.note})' if plan.scale.note else ''),
        'seeds': ', '.join(map(str, plan.seeds)),
        **_open_fact(measured),
        'data': each(lambda c: c.data.name),
        'steps': _listed(map(run_steps, plan.runs)),
        'image size': each(lambda c: f'{c.augment.crop[0]}x{c.augment.crop[1]} (height x width)'),
        'batch': each(lambda c: c.train.batch_size),
        'dtype': each(lambda c: c.train.dtype),
        'mIoU policy': each(lambda c: c.evaluate.policy),
        'scored at': each(scored_at),
        **_start_fact(measured),
        'device': _listed(map(_machine, environments)) or 'nothing was run yet',
    }


def _open_fact(measured: Measured) -> dict[str, str]:
    """Returns the rows of each seed that are left to run, if some runs are done."""
    open_runs = [run for run, result in measured.outcomes.items() if result == OPEN]
    num_runs = len(measured.outcomes)
    if len(open_runs) in (0, num_runs):
        return {}
    by_seed: dict[int, list[str]] = {}
    for row, seed in open_runs:
        by_seed.setdefault(seed, []).append(row)
    rows = [f'seed {seed}: {", ".join(by_seed[seed])}' for seed in sorted(by_seed)]
    return {'not run yet': f'{len(open_runs)} of {num_runs} runs ({"; ".join(rows)})'}


def _listed(values: Iterable[Any]) -> str:
    """Returns each different value once."""
    return ' / '.join(dict.fromkeys(map(str, values)))


def run_steps(run: TableRun) -> str:
    """Returns the optimiser steps of a run: '300'.

    With several trained stages it names them: 'depth 600, segmentation 300'.
    """
    path = run.folder / files.START
    content = stored.read_start(path) if path.exists() else {}
    if 'steps' not in content:
        return f'{run.config.train.num_steps:,d}'
    stages = zip(content['stages'], content['steps'], strict=True)
    trained = [(name, steps) for name, steps in stages if steps]
    if len(trained) == 1:
        return f'{trained[0][1]:,d}'
    return ', '.join(f'{name} {steps:,d}' for name, steps in trained) or '0'


def _start_fact(measured: Measured) -> dict[str, str]:
    """Returns the starts of the rows as a fact; {} if all rows begin with random parameters."""
    rows = {}
    for key, start in measured.starts.items():
        rows.setdefault(start, []).append(key)
    if set(rows) <= {'random'}:
        return {}
    return {'start': '; '.join(f'{start}: {", ".join(keys)}' for start, keys in rows.items())}


def _machine(environment: Mapping[str, Any]) -> str:
    """Returns an environment in words."""
    return (
        '{devices} x {device}, {processes} process(es), {host cores} host cores, '
        'Python {python}, jax {jax}'
    ).format_map(environment)


def speed_note(measured: Measured) -> str:
    """Returns how the times were measured; '' for a table without columns of times."""
    speeds = measured.speeds
    parts = parts_asked_for(measured.plan.table)
    if not parts:
        return ''
    if not speeds.rows:
        return 'Times: not measured yet.'
    calls = f'median of {speeds.repetitions} calls after {speeds.warmup} to warm up'
    note = (
        f'Times: {calls}, all rows in turn in one process, at fresh parameters, '
        f'on {_machine(speeds.environment)}.'
    )
    return ' '.join([note, *(_part_note(speeds, part) for part in parts)])


def _part_note(speeds: Speeds, part: str) -> str:
    """Returns what the time of a part includes. If rows differ, all their values are listed."""
    rows = [row for row in speeds.rows.values() if part in row['parts']]
    if not rows:
        return f'{part}: not measured.'
    entries = [row['parts'][part] for row in rows]
    dtypes = _listed(row['dtype'] for row in rows)
    sizes = _listed('{}x{}'.format(*entry['size']) for entry in entries)
    batches = _listed(entry['batch_size'] for entry in entries)
    shapes = f'{dtypes}, {sizes} (height x width), images per batch: {batches}'
    spread = 0.0
    for entry in entries:
        time = entry['ms_per_image']
        for quartile in time['quartiles']:
            spread = max(spread, abs(quartile / time['median'] - 1))
    return f'{part}: {bench.INCLUDED[part]}; {shapes}; quartiles within {spread:.0%} of the median.'


def claims_legend(measured: Measured) -> str:
    """Explains the verdicts, and how many of them chance alone would give."""
    return ' '.join(filter(None, (CLAIMS_LEGEND, by_chance(measured.comparisons))))


# --- terminal and Markdown ------------------------------------------------------------------------


def terminal_text(measured: Measured) -> str:
    """Returns the text that the end of `--mode table` prints."""
    table = measured.plan.table
    blocks = ['', f'{table.title} ({table.source})', *_tables_text(measured)]
    blocks.append('\n'.join(problems(measured)))
    return '\n\n'.join(blocks)


def markdown(measured: Measured) -> str:
    """Returns table.md: the conditions, the table, the claims, and problems."""
    plan = measured.plan
    blocks = [
        f'# {plan.table.title}',
        plan.table.source,
        plan.table.notes,
        f'```bash\n{plan.command}\n```',
        '\n'.join(f'- {name}: {value}' for name, value in facts(measured).items()),
        *_tables_text(measured),
        '\n'.join(f'- {problem}' for problem in problems(measured)),
    ]
    return '\n\n'.join(block for block in blocks if block) + '\n'


def _tables_text(measured: Measured) -> list[str]:
    """Returns paragraphs: the headlines, the table and the claims, with their legends."""
    lines = [f'- {_markdown_text(line)}' for line in headline_lines(measured)]
    blocks = ['\n'.join(lines)] if lines else []
    blocks += [_pipes(table_cells(measured, lambda text: f'**{text}**', _markdown_text)), LEGEND]
    if note := speed_note(measured):
        blocks.append(note)
    if measured.comparisons:
        blocks += [_pipes(claim_cells(measured, _markdown_text)), claims_legend(measured)]
    return blocks


def _markdown_text(text: str) -> str:
    return text.replace('|', '\\|').replace('\n', ' ')


def _pipes(cells: Cells) -> str:
    """Returns a Markdown table that is readable as text: its columns are aligned.

    The first column is flush left, the further columns are flush right.
    """
    heads = [_markdown_text(head) for head in cells[0]]
    lines = cells[1]
    widths = [max(3, *map(len, column)) for column in zip(heads, *lines, strict=True)]
    rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
    padded = []
    for first, *further in (heads, rule, *lines):
        numbers = [cell.rjust(width) for cell, width in zip(further, widths[1:])]
        padded.append(' | '.join([first.ljust(widths[0]), *numbers]))
    return '\n'.join(f'| {line} |' for line in padded)


# --- CSV ------------------------------------------------------------------------------------------


def csv_text(measured: Measured) -> str:
    """Returns table.csv: a line for each row, with its numbers in the units of the columns.

    Columns: key, name, labels, and for each score published, mean, std, n and every seed. For each
    speed published, median and quartiles.
    """
    plan = measured.plan
    labels = label_names(plan.table)
    heads = ['key', 'name', *labels]
    of_score = ('published', 'mean', 'std', 'n', *(f'seed {seed}' for seed in plan.seeds))
    of_speed = ('published', 'median', 'lower quartile', 'upper quartile')
    for column in plan.table.columns:
        heads += [f'{heading(column)} {kind}' for kind in (of_speed if column.speed else of_score)]
    lines = [heads]
    for entry in plan.table.literature:
        line = ['', entry.name, *(entry.labels.get(name, '') for name in labels)]
        for column in plan.table.columns:
            rest = of_speed if column.speed else of_score
            line += [_full(entry.published.get(column.name)), *[''] * (len(rest) - 1)]
        lines.append(line)
    for row in plan.table.shown:
        line = [row.key, row.name, *(row.labels.get(name, '') for name in labels)]
        for column in plan.table.columns:
            line += _csv_cells(measured, row, column)
        lines.append(line)
    return _csv(lines)


def _csv_cells(measured: Measured, row: Row, column: Column) -> list[Any]:
    """Returns the cells of table.csv for one column of a row."""
    cell = measured.cells[row.key, column.name]
    cells = [_full(row.published.get(column.name)), _full(cell.mean)]
    if column.speed:
        return [*cells, *map(_full, cell.range)]
    cells += [_full(cell.std), len(cell.values)]
    for seed in measured.plan.seeds:
        diverged = measured.outcomes[row.key, seed].diverged
        cells.append('diverged' if diverged else _full(cell.values.get(seed)))
    return cells


def claims_csv_text(measured: Measured) -> str:
    """Returns claims.csv: a line for each headline and claim, with every seed and the verdict."""
    seeds = measured.plan.seeds
    numbers = ('published', 'mean', 'std', 'n', 'smallest effect', *(f'seed {s}' for s in seeds))
    lines = [['claim', 'column', 'higher', 'lower', *numbers, 'verdict']]
    for headline, cell in measured.headlines:
        line = _difference_line(headline, cell, seeds)
        lines.append([headline.name, *line, headline.wanted])
    for comparison in measured.comparisons:
        line = _difference_line(
            comparison.claim,
            comparison.ours,
            seeds,
            comparison.published,
            comparison.smallest_effect,
        )
        lines.append([comparison.claim.text, *line, comparison.verdict])
    return _csv(lines)


def _difference_line(
    rows: Claim | Difference,
    cell: Cell,
    seeds: Sequence[int],
    published: float | None = None,
    smallest_effect: float | None = None,
) -> list[Any]:
    """Returns the cells of claims.csv between the name and the verdict."""
    numbers = [_full(published), _full(cell.mean), _full(cell.std), len(cell.values)]
    by_seed = [_full(cell.values.get(seed)) for seed in seeds]
    return [rows.column, rows.higher, rows.lower, *numbers, _full(smallest_effect), *by_seed]


def _csv(lines: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator='\n').writerows(lines)
    return out.getvalue()


def _full(value: float | None) -> str:
    """Formats a number for other programs; '' for None."""
    return '' if value is None else f'{value:.8g}'


# --- JSON -----------------------------------------------------------------------------------------


def as_json(measured: Measured) -> dict[str, Any]:
    """Returns table.json: the numbers of the table without the factors of its columns.

    It has scores by row and seed, and speeds by row.
    """
    plan = measured.plan
    headlines = []
    for headline, cell in measured.headlines:
        headlines.append({**headline._asdict(), 'ours': cell.values})
    return {
        'title': plan.table.title,
        'source': plan.table.source,
        'command': plan.command,
        'facts': facts(measured),
        'speed': speed_note(measured),
        'columns': [column._asdict() for column in plan.table.columns],
        'rows': {row.key: _row_json(measured, row) for row in plan.table.rows},
        'literature': [entry._asdict() for entry in plan.table.literature],
        'claims': [_claim_json(comparison) for comparison in measured.comparisons],
        'by_chance': by_chance(measured.comparisons),
        'headlines': headlines,
    }


def _row_json(measured: Measured, row: Row) -> dict[str, Any]:
    """Returns a row with its start, its scores by seed, and its speeds by column."""
    plan = measured.plan
    # A seed without scores has not run, and is left out.
    seeds = {}
    for seed in plan.seeds:
        outcome = measured.outcomes[row.key, seed]
        scores = stage_scores(row, outcome.scores)
        if outcome.diverged:
            seeds[seed] = {'diverged': outcome.diverged}
        elif outcome.scores:
            columns = [column for column in plan.table.columns if not column.speed]
            seeds[seed] = {column.name: score_at(scores, column.score) for column in columns}
            if 'IoU' in scores:
                seeds[seed]['IoU'] = scores['IoU']
    # Speed is measured once for all seeds.
    speed = {}
    for column in plan.table.columns:
        if column.speed:
            time = figure(measured.speeds, column.speed, row.key)
            speed[column.name] = time and time._asdict()
    return {
        **row._asdict(),
        'config': config_argument(row.config, plan.scale.variant),
        'start': measured.starts[row.key],
        'seeds': seeds,
        'speed': speed,
    }


def _claim_json(comparison: Comparison) -> dict[str, Any]:
    """Returns a claim with its differences and its verdict."""
    return {
        **comparison.claim._asdict(),
        'only_if': [condition._asdict() for condition in comparison.claim.only_if],
        'published': comparison.published,
        'ours': comparison.ours.values,
        'smallest_effect': comparison.smallest_effect,
        'verdict': comparison.verdict,
    }
