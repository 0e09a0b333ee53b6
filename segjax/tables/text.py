"""The table as text: on the terminal, and as Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from segjax import logs
from segjax.tables.numbers import Cell, Measured, best_rows, problems, score_at, stage_scores
from segjax.tables.plan import config_argument
from segjax.tables.spec import Column, Table


def heading(column: Column) -> str:
    """'mIoU [%]'."""
    return column.name + (f' [{column.unit}]' if column.unit else '')


def cell_text(cell: Cell, digits: int, sign: str = '', bold: Callable[[str], str] = str) -> str:
    """'43.3 ± 0.8 (3 seeds)', '43.3 (1 seed)', 'diverged', ''."""
    if cell.mean is None:
        return 'diverged' if cell.diverged else ''
    spread = '' if cell.std is None else f' ± {cell.std:.{digits}f}'
    seeds = f'{len(cell.values)} seed' + 's' * (len(cell.values) > 1)
    failed = f', {cell.diverged} diverged' if cell.diverged else ''
    return bold(f'{cell.mean:{sign}z.{digits}f}{spread}') + f' ({seeds}{failed})'


def _number(value: float | None, digits: int, sign: str = '') -> str:
    return '' if value is None else f'{value:{sign}z.{digits}f}'


Cells = tuple[list[str], list[list[str]]]  # heads, lines


def label_names(table: Table) -> list[str]:
    return list(dict.fromkeys(name for row in table.rows for name in row.labels))


def table_cells(measured: Measured, bold: Callable[[str], str], text: Callable[[str], str]) -> Cells:
    """Name, labels, and for each column ours and published; words of the table file pass through `text`."""
    table = measured.plan.table
    labels = label_names(table)
    heads = ['row', *labels]
    for column in table.columns:
        heads += [heading(column), 'published']
    best = {column.name: best_rows(measured, column) for column in table.columns}
    lines = []
    for row in table.rows:
        line = [text(row.name), *(text(str(row.labels.get(name, ''))) for name in labels)]
        for column in table.columns:
            mark = bold if row.key in best[column.name] else str
            line.append(cell_text(measured.cells[row.key, column.name], column.digits, bold=mark))
            line.append(_number(row.published.get(column.name), column.digits))
        lines.append(line)
    return heads, lines


def claim_cells(measured: Measured, text: Callable[[str], str]) -> Cells:
    """A line for each claim, as `table_cells`."""
    heads = ['claim', 'difference in', 'published', 'ours', 'seeds that agree', 'verdict']
    lines = []
    for c in measured.comparisons:
        digits, seeds = c.column.digits, len(c.ours.values)
        agree = f'{c.agreeing} of {seeds}' if seeds else ''
        numbers = [_number(c.published, digits, '+'), cell_text(c.ours, digits, '+')]
        lines.append([text(c.claim.text), text(heading(c.column)), *numbers, agree, c.verdict])
    return heads, lines


def facts(measured: Measured) -> dict[str, str]:
    """The conditions of the numbers, by name; where rows differ, each value once."""
    plan = measured.plan
    configs = [job.config for job in plan.jobs]

    def each(value: Callable[[ml_collections.ConfigDict], Any]) -> str:
        return ' / '.join(dict.fromkeys(str(value(config)) for config in configs))

    environments = [logs.read_json(path) for job in plan.jobs if (path := job.folder / 'environment.json').exists()]
    return {
        'scale': plan.scale_name + (f' ({plan.scale.note})' if plan.scale.note else ''),
        'seeds': ', '.join(map(str, plan.seeds)),
        'data': each(lambda c: c.data.name),
        'steps': each(lambda c: f'{c.train.num_steps:,d}'),
        'image size': each(lambda c: f'{c.augment.crop[0]}x{c.augment.crop[1]} (height x width)'),
        'batch': each(lambda c: c.train.batch_size),
        'dtype': each(lambda c: c.train.dtype),
        'mIoU policy': each(lambda c: c.evaluate.policy),
        'device': ' / '.join(dict.fromkeys(map(_machine, environments))) or 'nothing was run yet',
    }


def _machine(environment: Mapping[str, Any]) -> str:
    text = '{devices} x {device}, {processes} process(es), {host cores} host cores, Python {python}, jax {jax}'
    return text.format_map(environment)


LEGEND = (
    'Ours: mean ± sample standard deviation over the seeds, the best in bold. Published: as in the paper. '
    'What was not measured, or not published, is empty.'
)
CLAIMS_LEGEND = (
    'Ours: difference of the two rows, paired by seed, ± sample standard deviation. "holds" is the sign of the mean, '
    '"within spread" a mean that a t-test at 5 % cannot tell from 0.'
)


def _markdown_text(text: str) -> str:
    return text.replace('|', '\\|').replace('\n', ' ')


def _pipes(cells: Cells) -> str:
    """A Markdown table that can be read as it stands: the first column flush left, the others flush right."""
    heads, lines = list(map(_markdown_text, cells[0])), cells[1]
    widths = [max(3, *map(len, column)) for column in zip(heads, *lines, strict=True)]
    rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
        for line in (heads, rule, *lines)
    ]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in padded)


def _tables_text(measured: Measured) -> list[str]:
    blocks = [_pipes(table_cells(measured, lambda text: f'**{text}**', _markdown_text)), LEGEND]
    if measured.comparisons:
        blocks += [_pipes(claim_cells(measured, _markdown_text)), CLAIMS_LEGEND]
    return blocks


def terminal_text(measured: Measured) -> str:
    table = measured.plan.table
    blocks = ['', f'{table.title} ({table.source})', *_tables_text(measured), '\n'.join(problems(measured))]
    return '\n\n'.join(blocks)


def markdown(measured: Measured) -> str:
    """table.md: what was run, the table, the claims."""
    plan = measured.plan
    blocks = [f'# {plan.table.title}', plan.table.source, plan.table.notes, f'```bash\n{plan.command}\n```']
    blocks.append('\n'.join(f'- {name}: {value}' for name, value in facts(measured).items()))
    blocks += _tables_text(measured)
    blocks.append('\n'.join(f'- {problem}' for problem in problems(measured)))
    return '\n\n'.join(block for block in blocks if block) + '\n'


def csv_text(measured: Measured) -> str:
    """table.csv: key, name, labels, and for each column published, mean, std, n and every seed, in its unit."""
    plan = measured.plan
    labels = label_names(plan.table)
    heads = ['key', 'name', *labels]
    for column in plan.table.columns:
        kinds = ('published', 'mean', 'std', 'n', *(f'seed {seed}' for seed in plan.seeds))
        heads += [f'{heading(column)} {kind}' for kind in kinds]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(heads)

    def number(value):
        return '' if value is None else f'{value:.8g}'

    for row in plan.table.rows:
        line = [row.key, row.name, *(row.labels.get(name, '') for name in labels)]
        diverged = {seed for seed in plan.seeds if measured.outcomes[row.key, seed].diverged}
        for column in plan.table.columns:
            cell = measured.cells[row.key, column.name]
            line += [*map(number, (row.published.get(column.name), cell.mean, cell.std)), len(cell.values)]
            for seed in plan.seeds:
                line.append('diverged' if seed in diverged else number(cell.values.get(seed)))
        writer.writerow(line)
    return out.getvalue()


def as_json(measured: Measured) -> dict[str, Any]:
    """table.json: the scores that the table is made of, raw (without the factor of the column), by row and seed."""
    plan = measured.plan
    rows = {}
    for row in plan.table.rows:
        seeds = {}
        for seed in plan.seeds:
            found = measured.outcomes[row.key, seed]
            scores = stage_scores(row, found.scores)
            chosen = {column.name: score_at(scores, column.score) for column in plan.table.columns}
            if found.diverged:
                seeds[seed] = {'diverged': found.diverged}
            elif found.scores:
                seeds[seed] = chosen | ({'IoU': scores['IoU']} if 'IoU' in scores else {})
        config = config_argument(row.config, plan.scale.variant)
        rows[row.key] = {**row._asdict(), 'config': config, 'seeds': seeds}
    claims = [
        {**c.claim._asdict(), 'published': c.published, 'ours': c.ours.values, 'verdict': c.verdict}
        for c in measured.comparisons
    ]
    return {
        'title': plan.table.title,
        'source': plan.table.source,
        'command': plan.command,
        'facts': facts(measured),
        'columns': [column._asdict() for column in plan.table.columns],
        'rows': rows,
        'claims': claims,
    }
