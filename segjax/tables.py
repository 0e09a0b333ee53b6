"""A paper's table: its rows trained and scored over several seeds, our numbers beside the published ones.

    python -m segjax.main --mode table --table configs/tables/FILE.py --scale quick --workdir runs/table

    <workdir>/<row>/seed_<n>/               a run folder as --mode train makes it; with failed.json if it diverged
    <workdir>/table.md, .csv, .json, .html  written anew after every run

A table file is Python with a function `get_table()` that returns a `Table`. All configs are checked before the first
run. What is finished is not trained again, so an interrupted table goes on by the same command. The order is all rows
of the first seed, then all of the second: an interrupted table has whole columns.
"""

import contextlib
import csv
import io
import math
import pathlib
import re
import shlex
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import ml_collections
from scipy import stats

from segjax import charts, config_file, driver, health, logs, parallel, web
from segjax import config as config_lib
from segjax.config_file import Assignment
from segjax.errors import InputError, unknown_name
from segjax.scores import flat_scalars
from segjax.web import escape

FAILED = 'failed.json'  # beside config.json, in the folder of a run that diverged
NUM_COMPARED = 5  # rows whose classes are compared where the table names none
EMPTY = MappingProxyType({})

# --- what a table file is written in ----------------------------------------------------------------------------------


class Column(NamedTuple):
    """One number of every row.

    name    heading, as in the paper: 'mIoU'
    score   its place in the scores of the row's stage: 'mIoU', 'watermark/none/PSNR'; missing or null: an empty cell
    unit    of the numbers shown and published: '%', 'dB'
    factor  times the score gives that unit: 100 for a share in per cent
    better  'max' or 'min': which of our means is set in bold; '' for none
    digits  after the point
    """

    name: str
    score: str
    unit: str = ''
    factor: float = 1.0
    better: str = ''
    digits: int = 1


class Row(NamedTuple):
    """One line of the table: an experiment.

    key        name of its folder, unique: 'gaussian_7.38dB'
    name       as shown
    config     as after --config, '{scale}' stands for the scale's variant: 'configs/x.py:{scale},noise=max'. The file
               is looked for in the current folder, in that of the table, and in the repository
    published  {column name: number}, in the column's unit; no entry: nothing was published
    overrides  'section.key=value', as after --config.; they come after those of the scale
    labels     further descriptive cells by heading: {'# of bits': '2'}
    stage      whose scores count; '' is the last one
    """

    key: str
    name: str
    config: str
    published: Mapping[str, float] = EMPTY
    overrides: tuple[str, ...] = ()
    labels: Mapping[str, str] = EMPTY
    stage: str = ''


class Scale(NamedTuple):
    """How large the experiments are.

    variant    fills '{scale}' in a row's config; '' leaves it out, with its comma
    seeds      that are run unless --seeds names others
    overrides  'section.key=value' for every row
    note       what a reader must know about it
    """

    variant: str
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    note: str = ''


class Claim(NamedTuple):
    """An ordering that the paper claims: row `higher` has the larger number than row `lower` in `column`."""

    text: str
    column: str
    higher: str
    lower: str


class Table(NamedTuple):
    """title, source (paper and table number), columns and rows in order, scales by name ('quick', 'paper'), notes
    (a paragraph below the title), compare (keys of the rows whose classes are compared; () is the first five) and
    claims."""

    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    scales: Mapping[str, Scale]
    notes: str = ''
    compare: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()


def load(path: pathlib.Path) -> Table:
    """The table of a file, checked.

    Raises:
      InputError: no such file, an error in it (with its line), or a table that contradicts itself.
    """
    if not path.is_file():
        if not path.parent.is_dir():
            raise InputError('--table', got=f'no file {path}', expected=f'a file; there is no folder {path.parent}')
        nearest = unknown_name('--table', path.name, (p.name for p in path.parent.glob('*.py')))
        expected = f'{nearest.expected} in {path.parent}'
        raise InputError('--table', got=f'no file {path}', expected=expected, fix=nearest.fix)
    module = config_file.call(path, lambda: config_file.execute(path))
    get_table = getattr(module, 'get_table', None)
    if not callable(get_table):
        raise InputError(str(path), got='no function get_table', expected='def get_table(): ...')
    table = config_file.call(path, get_table)
    if not isinstance(table, Table):
        got = f'a {type(table).__name__} from get_table'
        raise InputError(str(path), got=got, expected='a segjax.tables.Table')
    _check(table, str(path))
    return table


def _check(table: Table, where: str) -> None:
    """Raises InputError where names repeat, or name nothing."""
    entries = {'columns': Column, 'rows': Row, 'claims': Claim, 'compare': str}
    for field, kind in entries.items():
        _check_tuple(f'{where}: {field}', getattr(table, field), kind, empty=field in ('claims', 'compare'))
    columns = _unique(f'{where}: columns', (column.name for column in table.columns))
    keys = _unique(f'{where}: rows', (row.key for row in table.rows))
    for column in table.columns:
        if column.better not in ('max', 'min', ''):
            raise unknown_name(f'{where}: better of column {column.name!r}', column.better, ('max', 'min', ''))
    for row in table.rows:
        here = f'{where}: row {row.key!r}'
        if not re.fullmatch(r'[\w+-][\w.+-]*', row.key):
            expected = 'the name of a folder: letters, digits and any of _ . + -'
            raise InputError(here, got=repr(row.key), expected=expected)
        for field in ('published', 'labels'):
            _check_mapping(f'{here}: {field}', getattr(row, field), (str, int, float), "{'name': ...}")
        for name, number in row.published.items():
            _known(f'{here}: published', name, columns)
            if not _is_number(number):
                raise InputError(f'{here}: published', got=f'{name}: {number!r}', expected='a number, or no entry')
        _check_overrides(here, row.overrides)
    _check_mapping(f'{where}: scales', table.scales, Scale, "{'quick': Scale('quick', (0, 1, 2))}")
    for name, scale in table.scales.items():
        _check_tuple(f'{where}: seeds of scale {name!r}', scale.seeds, int)
        _unique(f'{where}: seeds of scale {name!r}', scale.seeds)
        _check_overrides(f'{where}: scale {name!r}', scale.overrides)
    for claim in table.claims:
        here = f'{where}: claim {claim.text!r}'
        _known(f'{here}: column', claim.column, columns)
        for key in (claim.higher, claim.lower):
            _known(here, key, keys)
    for key in table.compare:
        _known(f'{where}: compare', key, keys)


def _check_tuple(where: str, value: Any, kind: type, empty: bool = False) -> None:
    """A tuple of `kind`: (Row(...)) and ('a=1') without a comma are the thing itself."""
    plain = isinstance(value, (tuple, list)) and not hasattr(value, '_fields')
    if not plain or not all(isinstance(v, kind) for v in value) or not (value or empty):
        example = {str: "('...',)", int: '(0, 1, 2)'}.get(kind, f'({kind.__name__}(...),)')
        raise InputError(where, got=repr(value)[:80], expected=f'a tuple, as {example}')


def _check_mapping(where: str, value: Any, kind: type | tuple[type, ...], example: str) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(v, kind) for v in value.values()):
        raise InputError(where, got=repr(value)[:80], expected=f'a dict, as {example}')


def _check_overrides(where: str, overrides: Sequence[str]) -> None:
    _check_tuple(f'{where}: overrides', overrides, str, empty=True)
    for item in overrides:
        if '=' not in item:
            raise InputError(f'{where}: overrides', got=repr(item), expected="'section.key=value'")


def _unique(where: str, names: Iterable[Any]) -> list[Any]:
    names = list(names)
    for name in names:
        if names.count(name) > 1:
            raise InputError(where, got=f'{name!r} {names.count(name)} times', expected='a name of its own for each')
    return names


def _known(where: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise unknown_name(where, name, names)


# --- what is to be run ------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """A row with one seed: one run folder."""

    row: Row
    seed: int
    config: ml_collections.ConfigDict
    folder: pathlib.Path

    @property
    def name(self) -> str:
        return f'{self.row.key}, seed {self.seed}'


class Plan(NamedTuple):
    """A table at a scale. `jobs` are all of it, in order; `todo` those that this start may train (--rows)."""

    table: Table
    scale_name: str
    scale: Scale
    seeds: tuple[int, ...]
    workdir: pathlib.Path
    command: str
    jobs: tuple[Job, ...]
    todo: tuple[Job, ...]


def make_plan(
    table: str,
    scale: str,
    workdir: str,
    rows: str = '',
    seeds: str = '',
    assignments: Sequence[Assignment] = (),
) -> Plan:
    """Loads a table and all its configs, and checks everything that can be checked before a run.

    Args:
      table: path of the table file.
      scale: a name of its `scales`.
      workdir: folder of the run folders and of the outputs.
      rows: regular expression, found in the keys of the rows to train; '' is all. The outputs show all rows.
      seeds: '0,1,2' instead of those of the scale.
      assignments: single keys for every row, on top of the scale's and the row's own.

    Raises:
      InputError: what is wrong with any of it, or a run folder that holds results of another config.
    """
    path = pathlib.Path(table).expanduser().absolute()
    content = load(path)
    if scale not in content.scales:
        raise unknown_name('--scale', scale, content.scales)
    size = content.scales[scale]
    chosen, folder = _chosen_rows(content, rows), pathlib.Path(workdir).expanduser().absolute()
    numbers = _parse_seeds(seeds) if seeds else tuple(size.seeds)
    configs = {}
    for row in content.rows:
        with _located(f'{path}, row {row.key!r}'):
            configs[row.key] = _config(path, row, size, assignments)
    jobs = []
    for seed in numbers:
        for row in content.rows:
            config = configs[row.key].copy_and_resolve_references().lock()
            config.seed = seed
            config_lib.validate(config)
            jobs.append(Job(row, seed, config, folder / row.key / f'seed_{seed}'))
    todo = tuple(job for job in jobs if job.row.key in chosen)
    for job in jobs:
        _check_folder(job)
    command = _command(path, scale, folder, seeds, assignments)
    return Plan(content, scale, size, numbers, folder, command, tuple(jobs), todo)


def _chosen_rows(table: Table, pattern: str) -> set[str]:
    keys = [row.key for row in table.rows]
    try:
        chosen = {key for key in keys if re.search(pattern, key)}
    except re.error as error:
        raise InputError('--rows', got=f'{pattern!r}: {error}', expected='a regular expression') from None
    if not chosen:
        raise InputError('--rows', got=f'{pattern!r}, found in no key', expected='a part of one of ' + ', '.join(keys))
    return chosen


def _parse_seeds(text: str) -> tuple[int, ...]:
    items = [item.strip() for item in text.split(',')]
    if not all(re.fullmatch(r'\d+', item) for item in items) or len({int(item) for item in items}) < len(items):
        raise InputError('--seeds', got=repr(text), expected='different whole numbers >= 0', fix='--seeds 0,1,2')
    return tuple(map(int, items))


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """Puts the place in front of what an InputError says."""
    try:
        yield
    except InputError as error:
        place = f'{where}: {error.where}'
        raise InputError(place, got=error.got, expected=error.expected, fix=error.fix) from error


def config_argument(template: str, variant: str) -> str:
    """'configs/x.py:{scale},noise=max' with the variant in its place; an empty one leaves no comma behind."""
    name, _, argument = template.partition(':')
    items = [item for item in argument.replace('{scale}', variant).split(',') if item]
    return f'{name}:{",".join(items)}' if items else name


def _config(
    table: pathlib.Path, row: Row, scale: Scale, assignments: Sequence[Assignment]
) -> ml_collections.ConfigDict:
    """The checked config of a row, but for its seed."""
    name, colon, argument = config_argument(row.config, scale.variant).partition(':')
    for folder in (pathlib.Path(), table.parent, config_file.PACKAGE.parent):
        if (folder / pathlib.Path(name).expanduser()).is_file():
            name = str(folder / pathlib.Path(name).expanduser())
            break
    config = config_file.load(name + colon + argument)
    own = [Assignment(*item.split('=', 1)) for item in (*scale.overrides, *row.overrides)]
    for assignment in (*own, *assignments):
        if assignment.key == 'seed':
            got = f'config.seed={assignment.text}'
            raise InputError('seed', got=got, expected='seeds from the scale or --seeds', fix='--seeds 0,1,2')
    config_file.assign(config, (*own, *assignments))
    config_lib.validate(config)
    return config


def _check_folder(job: Job) -> None:
    """Results of another config are not written over. The driver says so too, but the last row is hours away."""
    stored = job.folder / driver.CONFIG
    kept = (job.folder / driver.SCORES).exists() or any(job.folder.glob('*/checkpoints/*/record'))
    if not kept or not stored.exists():
        return
    with _located(str(stored)):
        found = config_lib.differences(logs.read_json(stored), config_lib.to_json(job.config))
    if found:
        more = f' and {len(found) - 5} more' if found[5:] else ''
        got = 'a run of another config: ' + '; '.join(found[:5]) + more
        fix = 'undo the change, take another --workdir, or remove that folder'
        raise InputError(str(job.folder), got=got, expected=f'the config of {job.name}', fix=fix)


def _command(path: pathlib.Path, scale: str, workdir: pathlib.Path, seeds: str, assignments) -> str:
    """The command that makes the whole table, with paths as one types them in the repository."""
    words = [*('--mode', 'table', '--table', _shown(path)), *('--scale', scale, '--workdir', _shown(workdir))]
    words += ['--seeds', seeds] if seeds else []
    words += [f'--config.{key}' + ('' if text is None else f'={text}') for key, text in assignments]
    return 'python -m segjax.main ' + shlex.join(words)


def _shown(path: pathlib.Path) -> str:
    for folder in (config_file.PACKAGE.parent, pathlib.Path.cwd()):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return str(path)


# --- running it -------------------------------------------------------------------------------------------------------


def run(plan: Plan) -> None:
    """Trains what is not finished, one run after the other, and writes the outputs after each and at the end.

    A run that diverges is noted in its folder (failed.json) and the others go on; a later start does not try it again
    unless that file is deleted.

    Raises:
      health.Preempted: told to stop; the same command goes on.
    """
    for number, job in enumerate(plan.todo, start=1):
        if not _to_be_run(job):
            continue
        if parallel.is_main():
            print(f'[{number}/{len(plan.todo)}] {job.name}', flush=True)
        _train(job)
        if parallel.is_main():
            write(measure(plan))
    if parallel.is_main():
        measured = measure(plan)
        write(measured)
        print(terminal_text(measured))
        print(f'table: {plan.workdir / "table.html"}', flush=True)


def _to_be_run(job: Job) -> bool:
    """What the main process finds in the folder: all must do the same, and the others may see it later."""
    return bool(parallel.of_main(int(parallel.is_main() and outcome(job) == OPEN)))


def _train(job: Job) -> None:
    if parallel.is_main():
        # What an earlier start left must not be taken for the result of this one, should it be interrupted.
        for name in (driver.SCORES, FAILED):
            (job.folder / name).unlink(missing_ok=True)
    try:
        driver.train(job.config, str(job.folder))
    except health.Diverged as error:
        if parallel.is_main():
            logs.write_json(job.folder / FAILED, {'message': str(error)})
            print(f'diverged: {job.name}: {error}', flush=True)
    jax.clear_caches()  # the next run is another program; without this they add up


class Outcome(NamedTuple):
    """What a run folder holds: the scores by stage, or why it diverged, or neither (OPEN)."""

    scores: Mapping[str, Any]
    diverged: str = ''


OPEN = Outcome({})


def outcome(job: Job) -> Outcome:
    """The result in the folder of a job; OPEN if there is none of exactly this config."""
    config, scores, failed = (job.folder / name for name in (driver.CONFIG, driver.SCORES, FAILED))
    if not config.exists() or not (scores.exists() or failed.exists()):
        return OPEN
    stored, wanted = logs.read_json(config), config_lib.to_json(job.config)
    # 'evaluate' may change when a run goes on, but its old scores are not those of another policy.
    if config_lib.differences(stored, wanted) or stored['evaluate'] != wanted['evaluate']:
        return OPEN
    if failed.exists():
        return Outcome({}, logs.read_json(failed)['message'])
    return Outcome(logs.read_json(scores))


# --- numbers ----------------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A column of a row, in the column's unit: its value by seed, and how many of the row's runs diverged."""

    values: dict[int, float]
    diverged: int = 0

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Of the sample (divided by n - 1); None for fewer than two seeds."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


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
        remark = ', one seed' if std is None else ', within spread' if near else ''
        return ('holds' if mean > 0 else 'does not hold') + remark

    @property
    def agreeing(self) -> int:
        return sum(value > 0 for value in self.ours.values.values())


class Measured(NamedTuple):
    """All that the outputs show: outcomes by (row key, seed), cells by (row key, column name)."""

    plan: Plan
    outcomes: dict[tuple[str, int], Outcome]
    cells: dict[tuple[str, str], Cell]
    comparisons: list[Comparison]


def measure(plan: Plan) -> Measured:
    """Reads the run folders of all jobs."""
    outcomes = {(job.row.key, job.seed): outcome(job) for job in plan.jobs}
    cells = {}
    for row in plan.table.rows:
        found = {seed: outcomes[row.key, seed] for seed in plan.seeds}
        diverged = sum(bool(o.diverged) for o in found.values())
        for column in plan.table.columns:
            values = {seed: score_at(stage_scores(row, o.scores), column.score) for seed, o in found.items()}
            known = {seed: column.factor * value for seed, value in values.items() if value is not None}
            cells[row.key, column.name] = Cell(known, diverged)
    comparisons = [compare(plan.table, claim, cells) for claim in plan.table.claims]
    return Measured(plan, outcomes, cells, comparisons)


def stage_scores(row: Row, scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores of the row's stage; {} if there is none of that name."""
    return scores.get(row.stage or next(reversed(scores), ''), {})


def score_at(scores: Mapping[str, Any], path: str) -> float | None:
    """The number at 'watermark/none/PSNR'; None where there is none."""
    value: Any = scores
    for name in path.split('/'):
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
            found.setdefault(name, []).extend([100 * value] if _is_number(value) else [])
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
        if scores and not any(measured.cells[row.key, column.name].values for row in measured.plan.table.rows):
            some = ', '.join(list(scores)[:12]) + (', ...' if len(scores) > 12 else '')
            found.append(f'no run has a score {column.score!r} for column {column.name}; there are: {some}')
    return found


# --- text -------------------------------------------------------------------------------------------------------------


def heading(column: Column) -> str:
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


# --- page and files ---------------------------------------------------------------------------------------------------


def page(measured: Measured) -> str:
    """table.html: the table, the claims, a dot plot for each column, the classes of the compared rows, the runs."""
    plan = measured.plan
    table = plan.table
    badges = ''.join(f'<li>{escape(name)}: {escape(value)}</li>' for name, value in facts(measured).items())
    body = [f'<h1>{escape(table.title)}</h1><p class="soft">{escape(table.source)}</p><ul class="badges">{badges}</ul>']
    body += [f'<p>{escape(table.notes)}</p>'] if table.notes else []
    body.append(f'<pre>{escape(plan.command)}</pre>')
    notes = '<br>'.join(map(escape, problems(measured)))
    body.append(f'<p class="note">{notes}</p>' if notes else '')
    body.append(web.card('Table', web.table(*table_cells(measured, lambda text: f'<b>{text}</b>', escape))))
    body.append(f'<p class="soft">{escape(LEGEND)}</p>')
    if measured.comparisons:
        body.append(web.card('Orderings', web.table(*claim_cells(measured, escape))))
        body.append(f'<p class="soft">{escape(CLAIMS_LEGEND)}</p>')
    plots = ''.join(_dot_plot(measured, column) for column in table.columns)
    body.append(f'<h3>Rows</h3><div class="halves">{plots}</div>' if plots else '')
    body += [_classes(measured), _runs(measured)]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(table.title)}</title>\n<style>{web.STYLE}{charts.STYLE}</style></head>\n<body><main>\n'
        + '\n'.join(part for part in body if part)
        + '\n</main></body></html>\n'
    )


def plot_name(table: Table, row: Row) -> str:
    """The name of a row, or its key where others, told apart by labels and numbers in the table, have the same name."""
    return row.name if [other.name for other in table.rows].count(row.name) == 1 else row.key


def _dot_plot(measured: Measured, column: Column) -> str:
    table, dots = measured.plan.table, []
    for row in table.rows:
        cell = measured.cells[row.key, column.name]
        low, high = (min(cell.values.values()), max(cell.values.values())) if cell.values else (None, None)
        note = 'diverged' if cell.diverged and not cell.values else ''
        dots.append(charts.Dot(plot_name(table, row), cell.mean, low, high, row.published.get(column.name), note))
    return charts.dot_plot(heading(column), dots, ('ours: mean, min to max', 'published'))


def _classes(measured: Measured) -> str:
    table = measured.plan.table
    keys = table.compare or tuple(row.key for row in table.rows[:NUM_COMPARED])
    found = [
        (plot_name(table, row), class_scores(measured, row)) for key in keys for row in table.rows if row.key == key
    ]
    classes = list(dict.fromkeys(name for _, scores in found for name in scores))
    if not classes:
        return ''
    bars = [charts.Bars(name, [scores.get(c) for c in classes]) for name, scores in found if scores]
    return '<h3>Classes</h3>' + charts.grouped_bars('IoU [%], mean over the seeds', classes, bars)


def _runs(measured: Measured) -> str:
    plan = measured.plan
    lines = []
    for row in plan.table.rows:
        line = [escape(row.key)]
        for seed in plan.seeds:
            found = measured.outcomes[row.key, seed]
            state = 'not run' if found == OPEN else 'diverged' if found.diverged else 'report'
            link = f'<a href="{escape(row.key)}/seed_{seed}/report.html">{state}</a>'
            line.append(link if found != OPEN else state)
        lines.append(line)
    content = web.table(['row', *(f'seed {seed}' for seed in plan.seeds)], lines)
    return f'<details><summary>Runs</summary><div class="scroll">{content}</div></details>'


def write(measured: Measured) -> None:
    """Writes table.md, table.csv, table.json and table.html, each whole."""
    workdir = measured.plan.workdir
    logs.write_json(workdir / 'table.json', as_json(measured))
    logs.write_text(workdir / 'table.csv', csv_text(measured))
    logs.write_text(workdir / 'table.md', markdown(measured))
    logs.write_text(workdir / 'table.html', page(measured))
