"""What the rows of a table cost: times of the programs that columns ask for, in <workdir>/speed.json.

Scores hold nothing that depends on a clock, and times compare only where they were taken in turn by one process. So no
run is timed while it trains. When nothing is left to train, the programs of all rows that have finished are timed in
one go.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import environment, files, parallel
from segjax.modes import bench
from segjax.modes.table import plan as plan_lib
from segjax.modes.table.plan import TablePlan, TableRun
from segjax.modes.table.runs import decided_by_main, has_finished
from segjax.modes.table.spec import Speed, Table
from segjax.train import driver
from segjax.train import stored as stored_files
from segjax.train.stop import Preempted, StopSignal

FILE = 'speed.json'
# Of the keys that do not change what is learned, these change what a call costs. The seed changes no cost.
COSTLY = ('parallel', 'predict', 'evaluate', 'bench')
FREE = ('seed', *(key for key in plan_lib.FREE if key not in COSTLY))


class Speeds(NamedTuple):
    """What speed.json holds.

    environment  facts of core/environment.py about the measurement
    repetitions  timed calls, after `warmup` others
    parts        that were timed, of bench.PARTS
    rows         {key: {'config': .., 'stage': `Row.stage`, 'dtype': .., 'parts': {part: ENTRY}}}; a part is missing
                 where the stage has none. ENTRY is {'batch_size': images per call, 'size': [height, width],
                 'ms_per_image': {'median': .., 'quartiles': [.., ..]}, 'seconds_per_image': that of each round}
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
    """Times the rows that have finished with the first seed, unless speed.json holds them as they are now.

    It holds them if none is missing, and config, stage, columns and environment are those of the measurement.
    Otherwise all of them are timed again. Parameters are fresh; a program is called as `--mode bench` calls it.
    For each part the programs and states of all rows are on the devices at once: together they need more memory than
    each alone. All processes must call this; the main one decides, and writes.

    Args:
      plan: of which nothing is left to train.
      stop: that of the whole table, asked before each program is compiled.

    Raises:
      Preempted: told to stop; nothing is kept, the next start begins anew.
    """
    parts = parts_asked_for(plan.table)
    if not parts:
        return
    jobs = list(filter(has_finished, first_runs(plan)))
    conditions = environment.describe_topology(parallel.topology())

    def is_due():
        found = stored(plan, jobs)
        missing = {job.row.key for job in jobs} - set(found.rows)
        return bool(missing or set(parts) - set(found.parts)) or found.environment != conditions

    if not jobs or not decided_by_main(is_due):
        return
    settings = jobs[0].config.bench  # as often for all rows (plan.py)
    opened = _open(jobs)
    rows = {job.row.key: _row(job) for job in jobs}
    for part in parts:
        if parallel.is_main():
            print(f'speed: {part}, {len(opened)} rows in turn', flush=True)
        for key, entry in _time(part, opened, settings, stop).items():
            rows[key]['parts'][part] = entry
    speeds = Speeds(conditions, settings.repetitions, settings.warmup, parts, rows)
    if parallel.is_main():
        files.write_json(plan.workdir / FILE, speeds._asdict())


def parts_asked_for(table: Table) -> list[str]:
    """Those of bench.PARTS that columns show."""
    asked = {column.speed.part for column in table.columns if column.speed}
    return [part for part in bench.PARTS if part in asked]


def first_runs(plan: TablePlan) -> list[TableRun]:
    """Returns the job of each printed row with the first seed: the job that is timed."""
    return [job for job in plan.jobs if job.seed == plan.seeds[0] and not job.row.hidden]


def stored(plan: TablePlan, jobs: Sequence[TableRun]) -> Speeds:
    """What speed.json holds of these jobs as they are now; other rows are left out."""
    path = plan.workdir / FILE
    if not path.exists():
        return NOTHING
    speeds = Speeds(**stored_files.read_object(path, Speeds._fields, f'rm {path}'))
    known = ((job, speeds.rows[job.row.key]) for job in jobs if job.row.key in speeds.rows)
    return speeds._replace(rows={job.row.key: row for job, row in known if _is_of(row, job)})


def _is_of(row: Mapping[str, Any], job: TableRun) -> bool:
    same_cost = not config_lib.differences(row['config'], config_lib.to_json(job.config), free=FREE)
    return row['stage'] == job.row.stage and same_cost


def figure(speeds: Speeds, speed: Speed, key: str) -> Figure | None:
    """What a column of times shows of row `key`: milliseconds per image or a ratio; None if it was not measured."""
    measured = {
        row: bench.Measurement(tuple(content['parts'][speed.part]['seconds_per_image']))
        for row, content in speeds.rows.items()
        if speed.part in content['parts']
    }
    if key not in measured:
        return None
    if not speed.over:
        return _milliseconds(measured[key])
    return Figure(*bench.ratios(measured, speed.over)[key]) if speed.over in measured else None


def _milliseconds(measurement: bench.Measurement) -> Figure:
    low, high = measurement.quartiles
    return Figure(1e3 * measurement.median, (1e3 * low, 1e3 * high))


# --- measuring --------------------------------------------------------------------------------------------------------


def _row(job: TableRun) -> dict[str, Any]:
    """An entry of `Speeds.rows`, nothing timed yet."""
    config = job.config
    return {
        'config': config_lib.to_json(config),
        'stage': job.row.stage,
        'dtype': config.train.dtype,
        'parts': {},
    }


def _open(jobs: Sequence[TableRun]) -> dict[str, bench.TimedRun]:
    """The stages of rows at fresh parameters, by key; a row whose stage does not exist is left out."""
    opened = {}
    for job in jobs:
        run, stages = driver.open_run(
            config_file.overridden(job.config, bench.FRESH), str(job.folder), 'train'
        )
        names = [stage.name for stage in stages]
        wanted = job.row.stage or names[-1]
        if wanted in names:
            opened[job.row.key] = bench.fresh_runs(run, stages[: names.index(wanted) + 1])[-1]
    return opened


def _time(
    part: str,
    opened: Mapping[str, bench.TimedRun],
    settings: ml_collections.ConfigDict,
    stop: StopSignal,
) -> dict[str, dict[str, Any]]:
    """The entries of one part; its programs are gone when it returns."""
    timed = {}
    for key, job in opened.items():
        if stop.reached():
            raise Preempted('the rows had not been timed')
        timed |= bench.prepare(part, {key: job})
    measurements = bench.per_image(timed, bench.measure_calls(timed, settings))
    return {
        key: {
            'batch_size': timed[key].batch_size,
            'size': timed[key].size,
            'ms_per_image': _milliseconds(measurement)._asdict(),
            'seconds_per_image': measurement.seconds,
        }
        for key, measurement in measurements.items()
    }
