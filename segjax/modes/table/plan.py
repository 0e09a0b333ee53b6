"""Plans the runs of a table: the checked config and the folder of each row with each seed."""

import contextlib
import difflib
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
from segjax.train import data_sets, driver, initialization, same_run
from segjax.train import stored as stored_files
from segjax.train.stop import StopSignal

FREE = tuple(
    key for key in config_lib.FREE if key not in ('data.classes', 'data.class_map', 'data.lists')
)
"""Keys that may change when a row resumes.

A finished row does not read its data again, so class files and lists are compared by their paths.
"""
SHAPING = ('pipeline', 'model', 'data', 'augment', 'train', 'evaluate')
"""Sections that determine the shapes in a step, and thus the sizes of the images of a net."""


class TableRun(NamedTuple):
    """A run of a table: a row with one seed, in one run folder."""

    row: Row
    seed: int
    config: ml_collections.ConfigDict
    folder: pathlib.Path

    @property
    def name(self) -> str:
        """Returns the name of the run in messages."""
        return f'{self.row.key}, seed {self.seed}'


class TablePlan(NamedTuple):
    """A table at a scale.

    table       as its file describes it
    scale_name  name of the scale
    scale       size of the experiments
    seeds       of each row
    workdir     folder of the run folders and of the outputs
    command     that was typed
    runs        all rows with all seeds, in the order of training: the start of a row comes before
                the row
    todo        runs that may be trained (--rows)
    added       keys of rows that --rows did not name, and from which named rows begin
    """

    table: Table
    scale_name: str
    scale: Scale
    seeds: tuple[int, ...]
    workdir: pathlib.Path
    command: str
    runs: tuple[TableRun, ...]
    todo: tuple[TableRun, ...]
    added: tuple[str, ...] = ()

    def start(self, run: TableRun) -> TableRun | None:
        """Returns the run that a run begins from; None if there is none."""
        for other in self.runs:
            if other.row.key == run.row.start and other.seed == run.seed:
                return other
        return None


def make_table_plan(
    table: str,
    scale: str,
    workdir: str,
    rows: str = '',
    seeds: str = '',
    assignments: Sequence[Assignment] = (),
    overrides: Sequence[str] = (),
) -> TablePlan:
    """Loads a table and all its configs, and checks everything that needs no run.

    Args:
      table: path of the table file.
      scale: a name of its `scales`.
      workdir: folder of the run folders and of the outputs.
      rows: regular expression that the keys of the rows to train contain; '' is all rows. The
        outputs show all rows.
      seeds: '0,1,2' in place of the seeds of the scale.
      assignments: single keys for every row, after the keys of the scale and of the row.
      overrides: 'ROWS:section.key=value' of --override. They come last and hold for rows whose key
        contains the regular expression ROWS.

    Raises:
      InputError: any of this is wrong, or a run folder holds results of another config.
    """
    path = pathlib.Path(table).expanduser().absolute()
    content = load(path)
    if scale not in content.scales:
        raise unknown_name('--scale', scale, content.scales)
    size = content.scales[scale]
    folder = pathlib.Path(workdir).expanduser().absolute()

    # Rows to train: the chosen rows and the rows that they begin from.
    chosen = _chosen_rows(content, rows)
    needed = _with_starts(content, chosen)

    # One config for each row, one run for each row and seed.
    numbers = _parse_seeds(seeds) if seeds else tuple(size.seeds)
    configs = _row_configs(path, content, size, assignments, overrides)
    runs = _make_runs(content, configs, numbers, folder)
    for run in runs:
        check_folder(run)
    return TablePlan(
        content,
        scale,
        size,
        numbers,
        folder,
        _command(path, scale, folder, rows, seeds, assignments, overrides),
        runs,
        todo=tuple(run for run in runs if run.row.key in needed),
        added=tuple(row.key for row in content.rows if row.key in needed - chosen),
    )


# --- choosing rows --------------------------------------------------------------------------------


def _chosen_rows(table: Table, pattern: str) -> set[str]:
    """Returns the keys of the rows that --rows names."""
    keys = [row.key for row in table.rows]
    near = [*difflib.get_close_matches(pattern, keys, n=1), keys[0]]
    fix = f'--rows {shlex.quote(re.escape(near[0]))}'
    try:
        chosen = {key for key in keys if re.search(pattern, key)}
    except re.error as error:
        got = f'{pattern!r}: {error}'
        raise InputError('--rows', got=got, expected='a regular expression', fix=fix) from None
    if not chosen:
        got = f'{pattern!r}, which is in no key'
        expected = 'a part of one of ' + ', '.join(keys)
        raise InputError('--rows', got=got, expected=expected, fix=fix)
    return chosen


def _with_starts(table: Table, chosen: set[str]) -> set[str]:
    """Returns the keys of the chosen rows and of all rows that they begin from."""
    needed = set()
    waiting = list(chosen)
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


def _parse_seeds(text: str) -> tuple[int, ...]:
    """Returns the seeds of '0,1,2'."""
    items = [item.strip() for item in text.split(',')]
    seeds = tuple(int(item) for item in items if re.fullmatch(r'\d+', item))
    if len(set(seeds)) < len(items):
        raise InputError(
            '--seeds', got=repr(text), expected='different whole numbers >= 0', fix='--seeds 0,1,2'
        )
    return seeds


# --- configs --------------------------------------------------------------------------------------


def _row_configs(
    path: pathlib.Path,
    table: Table,
    scale: Scale,
    assignments: Sequence[Assignment],
    overrides: Sequence[str],
) -> dict[str, ml_collections.ConfigDict]:
    """Returns the checked config of each row by key, still without seed and start."""
    keys = [row.key for row in table.rows]
    by_pattern = [_parse_override(text, keys) for text in overrides]
    configs = {}
    for row in table.rows:
        with _located(f'{path}, row {row.key!r}'):
            own = [assignment for pattern, assignment in by_pattern if re.search(pattern, row.key)]
            configs[row.key] = _config(path, row, scale, (*assignments, *own))
            _check_start(table, row, configs[row.key])
    for row in table.rows:
        if row.evaluates:
            with _located(f'{path}, row {row.key!r}'):
                _check_evaluated(row, configs[row.key], configs[row.evaluates])
    if any(column.speed for column in table.columns):
        _check_bench(path, configs)
    return configs


def _make_runs(
    table: Table,
    configs: Mapping[str, ml_collections.ConfigDict],
    seeds: Sequence[int],
    workdir: pathlib.Path,
) -> tuple[TableRun, ...]:
    """Returns all rows with the first seed, then all rows with the second seed, and so on."""
    runs = []
    rows = _in_order(table)
    for seed in seeds:
        for row in rows:
            config = configs[row.key].copy_and_resolve_references().lock()
            config.seed = seed
            if row.after:
                config.init_from.path = str(_start_folder(workdir, row, seed))
            elif row.evaluates and table.row(row.evaluates).after:
                trained = table.row(row.evaluates)
                config.init_from.path = str(_start_folder(workdir, trained, seed))
            config_lib.validate(config)
            runs.append(TableRun(row, seed, config, workdir / row.key / f'seed_{seed}'))
    return tuple(runs)


def _start_folder(workdir: pathlib.Path, row: Row, seed: int) -> pathlib.Path:
    """Returns the run folder, or the stage folder in it, that a row with `after` begins from."""
    key, _, stage = row.after.partition('/')
    return workdir / key / f'seed_{seed}' / stage


def _parse_override(text: str, keys: Sequence[str]) -> tuple[str, Assignment]:
    """Returns the pattern and the assignment of 'ROWS:section.key=value'."""
    expected = 'ROWS:section.key=value, with a regular expression for ROWS'
    example = f"--override '{keys[0]}:train.batch_size=4'"
    match = re.fullmatch(r'(.+?):([\w.]+)=(.*)', text, re.DOTALL)
    if not match:
        raise InputError('--override', got=repr(text), expected=expected, fix=example)
    pattern, key, value = match.groups()
    try:
        matching = [name for name in keys if re.search(pattern, name)]
    except re.error as error:
        got = f'{text!r}: {error}'
        raise InputError('--override', got=got, expected=expected, fix=example) from None
    if not matching:
        got = f'{text!r}: {pattern!r} is in no key'
        expected = 'a part of one of ' + ', '.join(keys)
        raise InputError('--override', got=got, expected=expected, fix=example)
    return pattern, Assignment(key.removeprefix('config.'), value)


def config_argument(template: str, variant: str) -> str:
    """Fills the variant into a template such as 'configs/x.py:{scale},noise=max'.

    An empty variant leaves no comma behind.
    """
    name, _, argument = template.partition(':')
    items = [item for item in argument.replace('{scale}', variant).split(',') if item]
    return f'{name}:{",".join(items)}' if items else name


def _config(
    table: pathlib.Path, row: Row, scale: Scale, assignments: Sequence[Assignment]
) -> ml_collections.ConfigDict:
    """Returns the checked config of a row.

    Args:
      table: path of the table file.
      row: of the table.
      scale: size of the experiment.
      assignments: for this row, after the keys of the scale and of the row.

    Raises:
      InputError: the config is wrong, or an assignment sets the seed.
    """
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


# --- checks ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """Puts a location in front of the location that an InputError names."""
    try:
        yield
    except InputError as error:
        raise error.at(f'{where}: {error.where}') from error


def _check_start(table: Table, row: Row, config: ml_collections.ConfigDict) -> None:
    """Raises InputError if the start of a row is named twice."""
    if not row.after or not config.init_from.path:
        return
    # The first row of the chain is the row that can begin from the path.
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


def _check_evaluated(
    row: Row, config: ml_collections.ConfigDict, trained: ml_collections.ConfigDict
) -> None:
    """Raises InputError if a row evaluates the run of a row with another net.

    Args:
      row: the row that evaluates.
      config: of the row.
      trained: config of the row that trains the run.
    """
    stored = config_lib.to_json(trained)
    free = config_lib.FREE_IN['evaluate']
    differences = config_lib.differences(stored, config_lib.to_json(config), free=free)
    if differences:
        # Rows differ by an override, or by the file of the table.
        pattern = f'^({re.escape(row.evaluates)}|{re.escape(row.key)})$'
        key, _, _ = differences[0].partition(':')
        raise InputError(
            f'evaluates={row.evaluates!r}',
            got=config_lib.another_config(differences),
            expected='the config of that row: these keys change what the net means',
            fix=f"--override '{pattern}:{key}=VALUE' gives both rows one value, for each key",
        )


def _check_bench(path: pathlib.Path, configs: Mapping[str, ml_collections.ConfigDict]) -> None:
    """Raises InputError unless all rows are timed equally often, because they are timed in turn."""
    first, *others = configs
    expected = _bench_calls(configs[first])
    for key in others:
        got = _bench_calls(configs[key])
        if got != expected:
            raise InputError(
                f'{path}, row {key!r}: config.bench',
                got=got,
                expected=f'{expected}, as row {first!r}: all rows are timed in turn',
                fix='repetitions and warmup for all rows: overrides of the scale, '
                'or --config.bench.repetitions=10',
            )


def _bench_calls(config: ml_collections.ConfigDict) -> str:
    return f'{config.bench.repetitions} calls after {config.bench.warmup} to warm up'


def differences(
    run: TableRun, stored: Mapping[str, Any], free: Collection[str] = FREE
) -> list[str]:
    """Returns the differences between the experiment in the folder of a run and the run.

    Args:
      run: a row with one seed.
      stored: the config in the folder.
      free: keys that may differ. The start of the run is never among them, because rows with
        different starts do not compare.
    """
    config = initialization.with_stored_preprocess(run.config, stored)
    of_config = config_lib.differences(stored, config_lib.to_json(config), free=free)
    return of_config or starts.differences(run.row, run.config, run.folder, stored)


def check_folder(run: TableRun) -> None:
    """Raises InputError if the folder of a run holds another config or another start.

    Nothing is overwritten. The driver also refuses another config, but the last row is hours away.
    A row that only evaluates is evaluated again.
    """
    if run.row.evaluates:
        return
    stored = run.folder / driver.CONFIG
    kept = (run.folder / driver.SCORES).exists() or initialization.has_begun(run.folder)
    if not kept or not stored.exists():
        return
    with _located(str(stored)):
        changes = differences(run, stored_files.read_config(stored))
    if changes:
        raise InputError(
            str(run.folder),
            got=config_lib.another_config(changes),
            expected=f'the config of {run.name}',
            fix='undo the change, take another --workdir, or remove that folder',
        )


def check_runs(
    runs: Iterable[TableRun], finished: Iterable[TableRun] = (), stop: StopSignal | None = None
) -> None:
    """Raises InputError for the first run that the driver would refuse, before any is trained.

    Prepares the data of all runs, and checks each distinct config once. Tracing the steps takes
    most of the time, so they are traced once for all configs with equal SHAPING sections. A run
    whose start is not trained yet is checked as if it began with random parameters. Must come
    after `parallel.initialize`.

    Args:
      runs: to be trained.
      finished: runs with results. Their data must be the data of the runs to be trained.
      stop: asked while data are prepared.
    """
    checked = set()
    traced = set()
    specs = {}
    for run in runs:
        config = run.config.copy_and_resolve_references().lock()
        config.seed = 0  # no check depends on the seed
        has_start = not run.row.start or pathlib.Path(config.init_from.path).exists()
        stored = config_lib.to_json(config)
        if not has_start:
            stored['init_from']['path'] = ''  # no check depends on it
        whole = json.dumps(stored, sort_keys=True)
        if whole in checked:
            continue
        checked.add(whole)
        sections = (*SHAPING, *config_lib.data_sections(config.pipeline))
        shaping = json.dumps({k: stored[k] for k in sections if k in stored}, sort_keys=True)
        with _located(f'row {run.row.key!r}'):
            trace = shaping not in traced
            use = 'evaluate' if run.row.evaluates else 'train'
            opened, _ = driver.checked_run(config, str(run.folder), use, trace, stop, has_start)
        traced.add(shaping)
        specs[_data_sets(config)] = opened.specs

    # Finished runs whose data sets are prepared now anyway.
    with_specs = []
    for run in finished:
        of_run = _data_sets(run.config)
        if of_run in specs:
            with_specs.append((run, specs[of_run]))
    _check_data(with_specs)


def _data_sets(config: ml_collections.ConfigDict) -> str:
    """Returns a text that is equal for configs of the same data sets in the same places."""
    sections = data_sets.sections(config)
    return json.dumps({name: data_sets.description(each) for name, each in sections.items()})


def _check_data(finished: Sequence[tuple[TableRun, Mapping[str, DataSpec]]]) -> None:
    """Raises InputError if data of finished runs have changed: their numbers do not compare.

    Args:
      finished: runs, each with its data as they are now. Folders without a spec.json are older than
        that file and are not compared.
    """
    changed = {}
    for run, own_specs in finished:
        # Another row of the data set may have other derived features.
        specs = pipelines.promised(run.config, own_specs)
        if (run.folder / same_run.SPEC).exists():
            stages = pipelines.make_stages(run.config, specs)
            if difference := same_run.data_difference(run.folder, specs, stages):
                changed[run.folder] = difference
    if changed:
        first, *others = changed
        raise InputError(
            str(first) + (f' and {len(others)} more' if others else ''),
            got=f'a finished row whose data have changed since: {changed[first]}',
            expected='the data of the rows that are still to be trained',
            fix=f'rm -r {shlex.join(map(str, changed))}, to train them again; or put the data back',
        )


# --- the command ----------------------------------------------------------------------------------


def _command(
    path: pathlib.Path,
    scale: str,
    workdir: pathlib.Path,
    rows: str,
    seeds: str,
    assignments: Sequence[Assignment],
    overrides: Sequence[str],
) -> str:
    """Returns the command of a plan, with paths as they are typed in the repository."""
    words = ['--mode', 'table', '--table', _shown(path), '--scale', scale]
    words += ['--workdir', _shown(workdir)]
    if rows:
        words += ['--rows', rows]
    if seeds:
        words += ['--seeds', seeds]
    for key, value in assignments:
        words.append(f'--config.{key}' + ('' if value is None else f'={value}'))
    for text in overrides:
        words.append(f'--override={text}')
    return 'python -m segjax.main ' + shlex.join(words)


def _shown(path: pathlib.Path) -> str:
    """Returns a path relative to the repository or the current folder, if it is inside."""
    for folder in (config_file.PACKAGE.parent, pathlib.Path.cwd()):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return str(path)
