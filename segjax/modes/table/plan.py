"""What is to be run: the rows of a table at a scale, with each seed, as checked configs."""

import contextlib
import json
import pathlib
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from segjax import config as config_lib
from segjax import pipelines
from segjax.config import config_file
from segjax.config.config_file import Assignment
from segjax.errors import InputError, unknown_name
from segjax.modes.table import starts
from segjax.modes.table.spec import Row, Scale, Table, load
from segjax.spec import DataSpec
from segjax.train import driver, initialization, same_run
from segjax.train import stored as stored_files
from segjax.train.stop import StopSignal


class TableRun(NamedTuple):
    """A row with one seed: one run folder."""

    row: Row
    seed: int
    config: ml_collections.ConfigDict
    folder: pathlib.Path

    @property
    def name(self) -> str:
        return f'{self.row.key}, seed {self.seed}'


class TablePlan(NamedTuple):
    """A table at a scale.

    jobs   all rows with all seeds, in the order of training: the start of a row comes before the row
    todo   jobs that this start may train (--rows)
    added  keys of rows that --rows did not name, from which named rows begin
    """

    table: Table
    scale_name: str
    scale: Scale
    seeds: tuple[int, ...]
    workdir: pathlib.Path
    command: str
    jobs: tuple[TableRun, ...]
    todo: tuple[TableRun, ...]
    added: tuple[str, ...] = ()

    def start(self, job: TableRun) -> TableRun | None:
        """Returns the job whose run this one begins from; None if there is none."""
        return next(
            (j for j in self.jobs if (j.row.key, j.seed) == (job.row.start, job.seed)), None
        )


def make_table_plan(
    table: str,
    scale: str,
    workdir: str,
    rows: str = '',
    seeds: str = '',
    assignments: Sequence[Assignment] = (),
    overrides: Sequence[str] = (),
) -> TablePlan:
    """Loads a table and all its configs, and checks everything that can be checked before a run.

    Args:
      table: path of the table file.
      scale: a name of its `scales`.
      workdir: folder of the run folders and of the outputs.
      rows: regular expression, found in the keys of the rows to train; '' is all. The outputs show all rows.
      seeds: '0,1,2' instead of those of the scale.
      assignments: single keys for every row, on top of the scale's and the row's own.
      overrides: 'ROWS:section.key=value' of --override, on top of these, for the rows in whose key ROWS is found.

    Raises:
      InputError: what is wrong with any of it, or a run folder that holds results of another config.
    """
    path = pathlib.Path(table).expanduser().absolute()
    content = load(path)
    if scale not in content.scales:
        raise unknown_name('--scale', scale, content.scales)
    size = content.scales[scale]
    folder = pathlib.Path(workdir).expanduser().absolute()
    chosen = _chosen_rows(content, rows)
    needed = _with_starts(content, chosen)
    numbers = _parse_seeds(seeds) if seeds else tuple(size.seeds)
    single = [_parse_override(text, [row.key for row in content.rows]) for text in overrides]
    configs = {}
    for row in content.rows:
        with _located(f'{path}, row {row.key!r}'):
            own = [assignment for pattern, assignment in single if re.search(pattern, row.key)]
            configs[row.key] = _config(path, row, size, (*assignments, *own))
            _check_start(content, row, configs[row.key])
    if any(column.speed for column in content.columns):
        _check_bench(path, configs)
    jobs = []
    for seed in numbers:
        for row in _in_order(content):
            config = configs[row.key].copy_and_resolve_references().lock()
            config.seed = seed
            if row.after:
                config.init_from.path = str(_start_folder(folder, row, seed))
            config_lib.validate(config)
            jobs.append(TableRun(row, seed, config, folder / row.key / f'seed_{seed}'))
    todo = tuple(job for job in jobs if job.row.key in needed)
    for job in jobs:
        check_folder(job)
    command = _command(path, scale, folder, rows, seeds, assignments, overrides)
    added = tuple(row.key for row in content.rows if row.key in needed - chosen)
    return TablePlan(content, scale, size, numbers, folder, command, tuple(jobs), todo, added)


def _chosen_rows(table: Table, pattern: str) -> set[str]:
    keys = [row.key for row in table.rows]
    try:
        chosen = {key for key in keys if re.search(pattern, key)}
    except re.error as error:
        got, fix = f'{pattern!r}: {error}', f'--rows {shlex.quote(re.escape(keys[0]))}'
        raise InputError('--rows', got=got, expected='a regular expression', fix=fix) from None
    if not chosen:
        got, expected = f'{pattern!r}, found in no key', 'a part of one of ' + ', '.join(keys)
        raise InputError(
            '--rows', got=got, expected=expected, fix=f'--rows {shlex.quote(re.escape(keys[0]))}'
        )
    return chosen


def _parse_override(text: str, keys: Sequence[str]) -> tuple[str, Assignment]:
    """Returns the pattern and the assignment of 'ROWS:section.key=value'."""
    expected = 'ROWS:section.key=value, with a regular expression for ROWS'
    example = f"--override '{keys[0]}:train.batch_size=4'"
    found = re.fullmatch(r'(.+?):([\w.]+)=(.*)', text, re.DOTALL)
    if not found:
        raise InputError('--override', got=repr(text), expected=expected, fix=example)
    pattern, key, value = found.groups()
    try:
        matching = [name for name in keys if re.search(pattern, name)]
    except re.error as error:
        raise InputError(
            '--override', got=f'{text!r}: {error}', expected=expected, fix=example
        ) from None
    if not matching:
        got = f'{text!r}: {pattern!r} is found in no key'
        raise InputError(
            '--override', got=got, expected='a part of one of ' + ', '.join(keys), fix=example
        )
    return pattern, Assignment(key.removeprefix('config.'), value)


def _with_starts(table: Table, chosen: set[str]) -> set[str]:
    """Returns the keys of the chosen rows, and of all rows that these begin from."""
    needed, waiting = set(), list(chosen)
    while waiting:
        key = waiting.pop()
        needed.add(key)
        start = table.row(key).start
        if start:
            waiting.append(start)
    return needed


def _in_order(table: Table) -> list[Row]:
    """Returns the rows in the order of the table, but each after the row that it begins from."""
    ordered = []
    for row in table.rows:
        chain = []
        while row not in ordered and row not in chain:
            chain.append(row)
            row = table.row(row.start) if row.start else row
        ordered += reversed(chain)
    return ordered


def _start_folder(workdir: pathlib.Path, row: Row, seed: int) -> pathlib.Path:
    """Returns the run folder, or the folder of a stage in it, that a row with `after` begins from."""
    key, _, stage = row.after.partition('/')
    return workdir / key / f'seed_{seed}' / stage


def _check_start(table: Table, row: Row, config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a row whose start is named twice."""
    if row.after and config.init_from.path:
        first = row
        while first.start:
            first = table.row(first.start)
        override = shlex.quote(f'^{re.escape(first.key)}$:init_from.path={config.init_from.path}')
        raise InputError(
            'config.init_from.path',
            got=f'{config.init_from.path!r}, and after={row.after!r}',
            expected=f'one start: this row begins from the run of row {row.start!r}',
            fix=f'--override {override} gives it to that row alone',
        )


def _parse_seeds(text: str) -> tuple[int, ...]:
    items = [item.strip() for item in text.split(',')]
    if not all(re.fullmatch(r'\d+', item) for item in items) or len(
        {int(item) for item in items}
    ) < len(items):
        raise InputError(
            '--seeds', got=repr(text), expected='different whole numbers >= 0', fix='--seeds 0,1,2'
        )
    return tuple(map(int, items))


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """Puts the place in front of what an InputError says."""
    try:
        yield
    except InputError as error:
        raise error.at(f'{where}: {error.where}') from error


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
            raise InputError(
                'seed', got=got, expected='seeds from the scale or --seeds', fix='--seeds 0,1,2'
            )
    config_file.assign(config, (*own, *assignments))
    config_lib.validate(config)
    return config


def _check_bench(path: pathlib.Path, configs: Mapping[str, ml_collections.ConfigDict]) -> None:
    """Rows that are timed in turn are timed equally often."""

    def calls(config):
        return f'{config.bench.repetitions} calls after {config.bench.warmup} to warm up'

    first, *others = configs
    for key in others:
        if calls(configs[key]) != calls(configs[first]):
            raise InputError(
                f'{path}, row {key!r}: config.bench',
                got=calls(configs[key]),
                expected=f'{calls(configs[first])}, as row {first!r}: all rows are timed in turn',
                fix='repetitions and warmup for all rows: overrides of the scale, or --config.bench.repetitions=10',
            )


FREE = tuple(key for key in config_lib.FREE if key != 'data.classes')
"""Keys that may change when a row resumes. A finished row does not look at its data again, so the class file counts by
its path."""


def differences(
    job: TableRun, stored: Mapping[str, Any], free: Collection[str] = FREE
) -> list[str]:
    """Returns what differs between the experiment in the folder of a job and the job.

    Args:
      job: a row with one seed.
      stored: the config that the folder keeps.
      free: keys that may differ. The start of the run is never among them: rows of other starts do not compare.
    """
    wanted = initialization.with_stored_preprocess(job.config, stored)
    found = config_lib.differences(stored, config_lib.to_json(wanted), free=free)
    return found or starts.differences(job.row, job.config, job.folder, stored)


def check_folder(job: TableRun) -> None:
    """Raises InputError for a run folder of another config or of another start: nothing is written over.

    The driver refuses another config too, but the last row is hours away.
    """
    stored = job.folder / driver.CONFIG
    kept = (job.folder / driver.SCORES).exists() or initialization.has_begun(job.folder)
    if not kept or not stored.exists():
        return
    with _located(str(stored)):
        found = differences(job, stored_files.read_config(stored))
    if found:
        got = config_lib.another_config(found)
        fix = 'undo the change, take another --workdir, or remove that folder'
        raise InputError(str(job.folder), got=got, expected=f'the config of {job.name}', fix=fix)


SHAPING = ('pipeline', 'model', 'data', 'augment', 'train', 'evaluate')
"""Sections that decide on the shapes in a step, so on the sizes that a net sees."""


def check_runs(
    jobs: Iterable[TableRun], finished: Iterable[TableRun] = (), stop: StopSignal | None = None
) -> None:
    """Raises InputError for the first job that its run would refuse, before any job is trained.

    Prepares the data of all jobs, and checks each distinct config once. Steps take longest to trace:
    they are traced once for all configs with equal SHAPING sections. A job whose start is not
    trained yet is checked as if it began at random. Must come after `parallel.initialize`.

    Args:
      jobs: that are to be trained.
      finished: jobs with results, whose data must be those of the jobs to be trained.
      stop: asked while data are prepared.
    """
    checked, traced, specs = set(), set(), {}
    for job in jobs:
        config = job.config.copy_and_resolve_references().lock()
        config.seed = 0
        if job.row.after and not pathlib.Path(config.init_from.path).exists():
            config.init_from.path = ''
        stored = config_lib.to_json(config)
        known = json.dumps(stored, sort_keys=True)
        if known in checked:
            continue
        checked.add(known)
        shaping = json.dumps({key: stored[key] for key in SHAPING if key in stored}, sort_keys=True)
        with _located(f'row {job.row.key!r}'):
            run, _ = driver.checked_run(
                config, str(job.folder), 'train', shaping not in traced, stop
            )
        traced.add(shaping)
        specs[_data_set(config)] = run.spec
    _check_data(
        [(job, specs[_data_set(job.config)]) for job in finished if _data_set(job.config) in specs]
    )


def _data_set(config: ml_collections.ConfigDict) -> str:
    """Returns a text that is equal for configs of the same data set in the same place."""
    stored = config_lib.to_json(config)['data']
    return json.dumps([stored[key] for key in ('name', 'root', 'classes', 'world')], sort_keys=True)


def _check_data(finished: Sequence[tuple[TableRun, DataSpec]]) -> None:
    """Raises InputError for finished jobs whose data changed since: their numbers do not compare with new ones.

    Args:
      finished: jobs, each with its data as they are now. Folders without a spec.json are older than that file.
    """
    changed = {}
    for job, spec in finished:
        if (job.folder / same_run.SPEC).exists():
            stages = pipelines.load(job.config.pipeline).make_stages(job.config, spec)
            if difference := same_run.data_difference(job.folder, spec, stages):
                changed[job.folder] = difference
    if changed:
        first, *others = changed
        where = str(first) + (f' and {len(others)} more' if others else '')
        fix = f'rm -r {shlex.join(map(str, changed))}, to train them again; or put the data back'
        got = f'a finished row whose data changed since: {changed[first]}'
        raise InputError(
            where, got=got, expected='the data of the rows that are still to be trained', fix=fix
        )


def _command(
    path: pathlib.Path,
    scale: str,
    workdir: pathlib.Path,
    rows: str,
    seeds: str,
    assignments,
    overrides: Sequence[str],
) -> str:
    """Returns the command that was given, with paths as one types them in the repository."""
    words = [
        *('--mode', 'table', '--table', _shown(path)),
        *('--scale', scale, '--workdir', _shown(workdir)),
    ]
    words += ['--rows', rows] if rows else []
    words += ['--seeds', seeds] if seeds else []
    words += [f'--config.{key}' + ('' if text is None else f'={text}') for key, text in assignments]
    words += [f'--override={text}' for text in overrides]
    return 'python -m segjax.main ' + shlex.join(words)


def _shown(path: pathlib.Path) -> str:
    for folder in (config_file.PACKAGE.parent, pathlib.Path.cwd()):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return str(path)
