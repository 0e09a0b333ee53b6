"""Times the programs of the rows of a table that columns ask for, and keeps them in speed.json.

Scores contain nothing that depends on a clock. Times compare only if one process measures them in
turn, so no run is timed while it trains. When no run is left to train, the programs of all finished
rows are timed together. The file is <workdir>/speed.json.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from segjax import config as config_lib
from segjax.core import environment, files, parallel
from segjax.modes import bench
from segjax.modes.table import plan as plan_lib
from segjax.modes.table.plan import TablePlan, TableRun
from segjax.modes.table.runs import decided_by_main, has_finished
from segjax.modes.table.spec import Speed, Table
from segjax.train import stored as stored_files
from segjax.train.stop import Preempted, StopSignal

FILE = 'speed.json'
COSTLY = ('parallel', 'predict', 'evaluate', 'bench')
"""Keys that do not change what is learned, but change the cost of a call."""
FREE = ('seed', *(key for key in plan_lib.FREE if key not in COSTLY))
"""Keys that change no cost, so that times of another value still count."""


class Speeds(NamedTuple):
    """The content of speed.json.

    environment  facts of core/environment.py about the measurement
    repetitions  timed calls
    warmup       calls before the timed calls
    parts        timed parts, of bench.PARTS
    rows         {key: {'config': .., 'stage': `Row.stage`, 'dtype': .., 'parts': {part: ENTRY}}}.
                 A part is missing if the stage has none. ENTRY is {'batch_size': images per call,
                 'size': [height, width], 'ms_per_image': {'median': .., 'quartiles': [.., ..]},
                 'seconds_per_image': of each round}
    """

    environment: Mapping[str, Any]
    repetitions: int
    warmup: int
    parts: Sequence[str]
    rows: Mapping[str, Mapping[str, Any]]


NOTHING = Speeds({}, 0, 0, (), {})


class Figure(NamedTuple):
    """Median and quartiles over the rounds of a measurement."""

    median: float
    quartiles: tuple[float, float]


def time_rows(plan: TablePlan, stop: StopSignal) -> None:
    """Times the rows that have finished with the first seed, unless speed.json has their times.

    It has them if no row is missing, and if config, stage, columns and environment are unchanged.
    Otherwise all rows are timed again. Parameters are fresh. A program is called as `--mode bench`
    calls it. For each part the programs and states of all rows are on the devices at once: together
    they need more memory than each alone. All processes must call this function. The main process
    decides and writes.

    Args:
      plan: without runs that are left to train.
      stop: the signal of the whole table, asked before each program is compiled.

    Raises:
      Preempted: a signal told the process to stop. No time is kept, and the next start times all
      rows.
    """
    parts = parts_asked_for(plan.table)
    if not parts:
        return
    runs = list(filter(has_finished, timed_runs(plan)))
    conditions = environment.describe_topology(parallel.topology())

    def is_due():
        speeds = stored(plan, runs)
        if speeds.environment != conditions:
            return True
        missing_rows = {run.row.key for run in runs} - set(speeds.rows)
        missing_parts = set(parts) - set(speeds.parts)
        return bool(missing_rows or missing_parts)

    if not runs or not decided_by_main(is_due):
        return
    settings = runs[0].config.bench  # equal for all rows (plan.py)
    opened = _open(runs)
    rows = {run.row.key: _row(run) for run in runs}
    for part in parts:
        if parallel.is_main():
            print(f'speed: {part}, {len(opened)} rows in turn', flush=True)
        for key, entry in _time(part, opened, settings, stop).items():
            rows[key]['parts'][part] = entry
    speeds = Speeds(conditions, settings.repetitions, settings.warmup, parts, rows)
    if parallel.is_main():
        files.write_json(plan.workdir / FILE, speeds._asdict())


def parts_asked_for(table: Table) -> list[str]:
    """Returns the parts of bench.PARTS that columns show."""
    asked = {column.speed.part for column in table.columns if column.speed}
    return [part for part in bench.PARTS if part in asked]


def timed_runs(plan: TablePlan) -> list[TableRun]:
    """Returns the timed run of each printed row: the run with the first seed."""
    return [run for run in plan.runs if run.seed == plan.seeds[0] and not run.row.hidden]


# --- reading --------------------------------------------------------------------------------------


def stored(plan: TablePlan, runs: Sequence[TableRun]) -> Speeds:
    """Reads speed.json, without rows that are not among the runs as they are now."""
    path = plan.workdir / FILE
    if not path.exists():
        return NOTHING
    speeds = Speeds(**stored_files.read_object(path, Speeds._fields, f'rm {path}'))
    rows = {}
    for run in runs:
        row = speeds.rows.get(run.row.key)
        if row is not None and _costs_the_same(row, run):
            rows[run.row.key] = row
    return speeds._replace(rows=rows)


def _costs_the_same(row: Mapping[str, Any], run: TableRun) -> bool:
    """Returns whether a stored row was timed with the stage and the config of a run."""
    changes = config_lib.differences(row['config'], config_lib.to_json(run.config), free=FREE)
    return row['stage'] == run.row.stage and not changes


def figure(speeds: Speeds, speed: Speed, key: str) -> Figure | None:
    """Returns the number in a column of times of row `key`; None if it was not measured.

    It is a time in milliseconds per image, or a ratio.
    """
    measured = {}
    for row, content in speeds.rows.items():
        if speed.part in content['parts']:
            seconds = content['parts'][speed.part]['seconds_per_image']
            measured[row] = bench.Measurement(tuple(seconds))
    if key not in measured:
        return None
    if not speed.over:
        return _milliseconds(measured[key])
    if speed.over not in measured:
        return None
    return Figure(*bench.ratios(measured, speed.over)[key])


def _milliseconds(measurement: bench.Measurement) -> Figure:
    low, high = measurement.quartiles
    return Figure(1e3 * measurement.median, (1e3 * low, 1e3 * high))


# --- measuring ------------------------------------------------------------------------------------


def _row(run: TableRun) -> dict[str, Any]:
    """Returns an entry of `Speeds.rows` without times."""
    config = run.config
    return {
        'config': config_lib.to_json(config),
        'stage': run.row.stage,
        'dtype': config.train.dtype,
        'parts': {},
    }


def _open(runs: Sequence[TableRun]) -> dict[str, bench.TimedRun]:
    """Opens the timed stage of each row at fresh parameters, by row key.

    A row whose stage does not exist is left out.
    """
    opened = {}
    for run in runs:
        opened_run, stages = bench.open_untrained(run.config, str(run.folder))
        names = [stage.name for stage in stages]
        name = run.row.stage or names[-1]
        if name in names:
            until = names.index(name) + 1
            opened[run.row.key] = bench.fresh_runs(opened_run, stages[:until])[-1]
    return opened


def _time(
    part: str,
    opened: Mapping[str, bench.TimedRun],
    settings: ml_collections.ConfigDict,
    stop: StopSignal,
) -> dict[str, dict[str, Any]]:
    """Times one part of all rows in turn. Its programs are released when this returns.

    Args:
      part: of bench.PARTS.
      opened: the stages by row key.
      settings: `config.bench`.
      stop: asked before each program is compiled.

    Returns:
      ENTRY of `Speeds.rows` by row key.
    """
    timed = {}
    for key, run in opened.items():
        if stop.reached():
            raise Preempted('the rows had not been timed')
        timed |= bench.prepare(part, {key: run})
    measurements = bench.per_image(timed, bench.measure_calls(timed, settings))
    entries = {}
    for key, measurement in measurements.items():
        entries[key] = {
            'batch_size': timed[key].batch_size,
            'size': timed[key].size,
            'ms_per_image': _milliseconds(measurement)._asdict(),
            'seconds_per_image': measurement.seconds,
        }
    return entries
