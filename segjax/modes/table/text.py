"""The table as text: on the terminal, and as Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections

from segjax.core import files
from segjax.modes import bench
from segjax.modes.table.cells import Cell, score_at
from segjax.modes.table.claims import by_chance
from segjax.modes.table.numbers import Measured, best_rows, problems, stage_scores
from segjax.modes.table.plan import TableRun, config_argument
from segjax.modes.table.spec import Claim, Column, Difference, Table
from segjax.modes.table.speed import Speeds, figure, parts_asked_for
from segjax.report.scores import scored_at
from segjax.train import stored


def heading(column: Column) -> str:
    """'mIoU [%]'."""
    return column.name + (f' [{column.unit}]' if column.unit else '')


def cell_text(cell: Cell, column: Column, sign: str = '', bold: Callable[[str], str] = str) -> str:
    """'43.3 ± 0.8 (3 seeds)', '43.3 (1 seed)', 'diverged', ''; '12.5' of a speed, which is measured once."""
    if cell.mean is None:
        return 'diverged' if cell.diverged else ''
    if column.speed:
        return bold(_number(cell.mean, column.digits, sign))
    spread = '' if cell.std is None else f' ± {_number(cell.std, column.digits)}'
    seeds = f'{len(cell.values)} seed' + 's' * (len(cell.values) > 1)
    failed = f', {cell.diverged} diverged' if cell.diverged else ''
    return bold(_number(cell.mean, column.digits, sign) + spread) + f' ({seeds}{failed})'


def _number(value: float | None, digits: int, sign: str = '') -> str:
    return '' if value is None else f'{value:{sign}z.{digits}f}'


Cells = tuple[list[str], list[list[str]]]  # heads, lines


def label_names(table: Table) -> list[str]:
    return list(dict.fromkeys(name for row in table.shown for name in row.labels))


def table_cells(
    measured: Measured, bold: Callable[[str], str], text: Callable[[str], str]
) -> Cells:
    """Name, labels, and for each column ours and published; words of the table file pass through `text`."""
    table = measured.plan.table
    labels = label_names(table)
    heads = ['row', *labels]
    for column in table.columns:
        heads += [heading(column), 'published']
    best = {column.name: best_rows(measured, column) for column in table.columns}
    lines = []
    for row in table.shown:
        line = [text(row.name), *(text(str(row.labels.get(name, ''))) for name in labels)]
        for column in table.columns:
            mark = bold if row.key in best[column.name] else str
            line.append(cell_text(measured.cells[row.key, column.name], column, bold=mark))
            line.append(_number(row.published.get(column.name), column.digits))
        lines.append(line)
    return heads, lines


def claim_cells(measured: Measured, text: Callable[[str], str]) -> Cells:
    """A line for each claim, as `table_cells`."""
    heads = [
        'claim',
        'difference in',
        'published',
        'ours',
        'smallest effect',
        'seeds that agree',
        'verdict',
    ]
    lines = []
    for c in measured.comparisons:
        seeds = 0 if c.column.speed else len(c.ours.values)
        agree = f'{c.agreeing} of {seeds}' if seeds else ''
        numbers = [_number(c.published, c.column.digits, '+'), cell_text(c.ours, c.column, '+')]
        numbers.append(_number(c.smallest_effect, c.column.digits))
        lines.append(
            [text(c.claim.text), text(heading(c.column)), *numbers, agree, text(c.verdict)]
        )
    return heads, lines


def headline_lines(measured: Measured) -> list[str]:
    """Returns a line for each headline: 'gap [dB]: +3.10 (1 seed), PSNR of none over max_only; wanted: ..'."""
    lines = []
    for headline, cell in measured.headlines:
        column = measured.plan.table.column(headline.column)
        unit = headline.unit or column.unit
        name = headline.name + (f' [{unit}]' if unit else '')
        value = cell_text(cell, column, '+') or 'not measured'
        wanted = f'; wanted: {headline.wanted}' if headline.wanted else ''
        lines.append(
            f'{name}: {value}, {headline.column} of {headline.higher} over {headline.lower}{wanted}'
        )
    return lines


def facts(measured: Measured) -> dict[str, str]:
    """The conditions of the numbers, by name; where rows differ, each value once."""
    plan = measured.plan
    configs = [job.config for job in plan.jobs]

    def each(value: Callable[[ml_collections.ConfigDict], Any]) -> str:
        return ' / '.join(dict.fromkeys(str(value(config)) for config in configs))

    environments = [
        stored.read_object(path)
        for job in plan.jobs
        if (path := job.folder / 'environment.json').exists()
    ]
    return {
        'scale': plan.scale_name + (f' ({plan.scale.note})' if plan.scale.note else ''),
        'seeds': ', '.join(map(str, plan.seeds)),
        'data': each(lambda c: c.data.name),
        'steps': ' / '.join(dict.fromkeys(map(run_steps, plan.jobs))),
        'image size': each(lambda c: f'{c.augment.crop[0]}x{c.augment.crop[1]} (height x width)'),
        'batch': each(lambda c: c.train.batch_size),
        'dtype': each(lambda c: c.train.dtype),
        'mIoU policy': each(lambda c: c.evaluate.policy),
        'scored at': each(scored_at),
        **_start_fact(measured),
        'device': ' / '.join(dict.fromkeys(map(_machine, environments))) or 'nothing was run yet',
    }


def run_steps(job: TableRun) -> str:
    """Returns the optimiser steps of a run: '300', or 'depth 600, segmentation 300' of several trained stages."""
    path = job.folder / files.START
    content = stored.read_start(path) if path.exists() else {}
    if 'steps' not in content:
        return f'{job.config.train.num_steps:,d}'
    trained = [
        (name, steps)
        for name, steps in zip(content['stages'], content['steps'], strict=True)
        if steps
    ]
    if len(trained) == 1:
        return f'{trained[0][1]:,d}'
    return ', '.join(f'{name} {steps:,d}' for name, steps in trained) or '0'


def _start_fact(measured: Measured) -> dict[str, str]:
    """Returns what the rows begin from; {} where all begin at random."""
    rows = {}
    for key, start in measured.starts.items():
        rows.setdefault(start, []).append(key)
    if set(rows) <= {'random'}:
        return {}
    return {'start': '; '.join(f'{start}: {", ".join(keys)}' for start, keys in rows.items())}


def _machine(environment: Mapping[str, Any]) -> str:
    text = '{devices} x {device}, {processes} process(es), {host cores} host cores, Python {python}, jax {jax}'
    return text.format_map(environment)


def speed_note(measured: Measured) -> str:
    """What was timed, on what and how often; '' for a table without columns of times."""
    speeds, parts = measured.speeds, parts_asked_for(measured.plan.table)
    if not parts:
        return ''
    if not speeds.rows:
        return 'Times: not measured yet.'
    calls = f'median of {speeds.repetitions} calls after {speeds.warmup} to warm up, all rows in turn, at one go'
    note = f'Times: {calls}, at fresh parameters, on {_machine(speeds.environment)}.'
    return ' '.join([note, *(_part_note(speeds, part) for part in parts)])


def _part_note(speeds: Speeds, part: str) -> str:
    """What one call goes through; where rows differ, each value once."""
    timed = [
        (row['dtype'], row['parts'][part]) for row in speeds.rows.values() if part in row['parts']
    ]
    if not timed:
        return f'{part}: not measured.'

    def each(values: Iterable[Any]) -> str:
        return ' / '.join(dict.fromkeys(map(str, values)))

    dtypes = each(dtype for dtype, _ in timed)
    sizes = each('{}x{}'.format(*entry['size']) for _, entry in timed)
    batches = each(entry['batch_size'] for _, entry in timed)
    shapes = f'{dtypes}, {sizes} (height x width), images per batch: {batches}'
    times = [entry['ms_per_image'] for _, entry in timed]
    spread = max(
        abs(quartile / time['median'] - 1) for time in times for quartile in time['quartiles']
    )
    return f'{part}: {bench.INCLUDED[part]}; {shapes}; quartiles within {spread:.0%} of the median.'


LEGEND = (
    'Ours: mean ± sample standard deviation over the seeds, the best in bold. Published: as in the paper. '
    'What was not measured, or not published, is empty.'
)
CLAIMS_LEGEND = (
    'Ours: difference of the two rows, paired by seed, ± sample standard deviation. "holds" is the sign of the mean, '
    '"within spread" a mean that a t-test at 5 % cannot tell from 0, "undecided" a mean of exactly 0, "withheld" a '
    'claim whose conditions do not hold. Smallest effect: the size that a mean needs to be told from 0.'
)


def claims_legend(measured: Measured) -> str:
    """Returns what the verdicts mean, and how many of them chance alone would give."""
    return ' '.join(filter(None, (CLAIMS_LEGEND, by_chance(measured.comparisons))))


def _markdown_text(text: str) -> str:
    return text.replace('|', '\\|').replace('\n', ' ')


def _pipes(cells: Cells) -> str:
    """A Markdown table that can be read as it stands: the first column flush left, the others flush right."""
    heads, lines = list(map(_markdown_text, cells[0])), cells[1]
    widths = [max(3, *map(len, column)) for column in zip(heads, *lines, strict=True)]
    rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
    padded = [
        [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:])),
        ]
        for line in (heads, rule, *lines)
    ]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in padded)


def _tables_text(measured: Measured) -> list[str]:
    lines = [f'- {_markdown_text(line)}' for line in headline_lines(measured)]
    blocks = ['\n'.join(lines)] if lines else []
    blocks += [_pipes(table_cells(measured, lambda text: f'**{text}**', _markdown_text)), LEGEND]
    blocks += [note] if (note := speed_note(measured)) else []
    if measured.comparisons:
        blocks += [_pipes(claim_cells(measured, _markdown_text)), claims_legend(measured)]
    return blocks


def terminal_text(measured: Measured) -> str:
    table = measured.plan.table
    blocks = [
        '',
        f'{table.title} ({table.source})',
        *_tables_text(measured),
        '\n'.join(problems(measured)),
    ]
    return '\n\n'.join(blocks)


def markdown(measured: Measured) -> str:
    """table.md: what was run, the table, the claims."""
    plan = measured.plan
    blocks = [
        f'# {plan.table.title}',
        plan.table.source,
        plan.table.notes,
        f'```bash\n{plan.command}\n```',
    ]
    blocks.append('\n'.join(f'- {name}: {value}' for name, value in facts(measured).items()))
    blocks += _tables_text(measured)
    blocks.append('\n'.join(f'- {problem}' for problem in problems(measured)))
    return '\n\n'.join(block for block in blocks if block) + '\n'


def csv_text(measured: Measured) -> str:
    """table.csv: key, name, labels, and for each column, in its unit, published, mean, std, n and every seed; for a
    speed published, median and quartiles."""
    plan = measured.plan
    labels = label_names(plan.table)
    heads = ['key', 'name', *labels]
    of_score = ('published', 'mean', 'std', 'n', *(f'seed {seed}' for seed in plan.seeds))
    of_speed = ('published', 'median', 'lower quartile', 'upper quartile')
    for column in plan.table.columns:
        heads += [f'{heading(column)} {kind}' for kind in (of_speed if column.speed else of_score)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(heads)

    for row in plan.table.shown:
        line = [row.key, row.name, *(row.labels.get(name, '') for name in labels)]
        diverged = {seed for seed in plan.seeds if measured.outcomes[row.key, seed].diverged}
        for column in plan.table.columns:
            cell = measured.cells[row.key, column.name]
            line += [*map(_full, (row.published.get(column.name), cell.mean))]
            if column.speed:
                line += map(_full, cell.range)
                continue
            line += [_full(cell.std), len(cell.values)]
            for seed in plan.seeds:
                line.append('diverged' if seed in diverged else _full(cell.values.get(seed)))
        writer.writerow(line)
    return out.getvalue()


def claims_csv_text(measured: Measured) -> str:
    """Returns claims.csv: a line for each headline and each claim, with every seed and the verdict."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    seeds = measured.plan.seeds
    of_test = (
        'published',
        'mean',
        'std',
        'n',
        'smallest effect',
        *(f'seed {seed}' for seed in seeds),
    )
    writer.writerow(['claim', 'column', 'higher', 'lower', *of_test, 'verdict'])
    for headline, cell in measured.headlines:
        writer.writerow(
            _difference_line(headline.name, headline, cell, seeds, None, None, headline.wanted)
        )
    for c in measured.comparisons:
        writer.writerow(
            _difference_line(
                c.claim.text, c.claim, c.ours, seeds, c.published, c.smallest_effect, c.verdict
            )
        )
    return out.getvalue()


def _difference_line(
    text, of: Claim | Difference, cell: Cell, seeds, published, smallest_effect, verdict
) -> list:
    numbers = [
        _full(published),
        _full(cell.mean),
        _full(cell.std),
        len(cell.values),
        _full(smallest_effect),
    ]
    by_seed = [_full(cell.values.get(seed)) for seed in seeds]
    return [text, of.column, of.higher, of.lower, *numbers, *by_seed, verdict]


def _full(value: float | None) -> str:
    """Returns a number for other programs to read; '' for None."""
    return '' if value is None else f'{value:.8g}'


def as_json(measured: Measured) -> dict[str, Any]:
    """table.json: the numbers that the table is made of, raw (without the factor of the column): scores by row and
    seed, speeds by row."""
    plan = measured.plan
    rows = {}
    for row in plan.table.rows:
        seeds = {}
        for seed in plan.seeds:
            found = measured.outcomes[row.key, seed]
            scores = stage_scores(row, found.scores)
            chosen = {c.name: score_at(scores, c.score) for c in plan.table.columns if not c.speed}
            if found.diverged:
                seeds[seed] = {'diverged': found.diverged}
            elif found.scores:
                seeds[seed] = chosen | ({'IoU': scores['IoU']} if 'IoU' in scores else {})
        config = config_argument(row.config, plan.scale.variant)
        times = {
            c.name: figure(measured.speeds, c.speed, row.key) for c in plan.table.columns if c.speed
        }
        speed = {name: found and found._asdict() for name, found in times.items()}
        start = measured.starts[row.key]
        rows[row.key] = {
            **row._asdict(),
            'config': config,
            'start': start,
            'seeds': seeds,
            'speed': speed,
        }
    claims = [
        {
            **c.claim._asdict(),
            'only_if': [condition._asdict() for condition in c.claim.only_if],
            'published': c.published,
            'ours': c.ours.values,
            'smallest_effect': c.smallest_effect,
            'verdict': c.verdict,
        }
        for c in measured.comparisons
    ]
    headlines = [
        {**headline._asdict(), 'ours': cell.values} for headline, cell in measured.headlines
    ]
    return {
        'title': plan.table.title,
        'source': plan.table.source,
        'command': plan.command,
        'facts': facts(measured),
        'speed': speed_note(measured),
        'columns': [column._asdict() for column in plan.table.columns],
        'rows': rows,
        'claims': claims,
        'by_chance': by_chance(measured.comparisons),
        'headlines': headlines,
    }
