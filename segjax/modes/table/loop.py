"""Trains the runs of a plan in order, writes the outputs, and times the rows at the end."""

from segjax.core import files, parallel
from segjax.modes.table.numbers import Measured, measure
from segjax.modes.table.page import page
from segjax.modes.table.plan import TablePlan, check_folder, check_runs
from segjax.modes.table.runs import has_finished, to_be_run, train
from segjax.modes.table.speed import time_rows
from segjax.modes.table.text import as_json, claims_csv_text, csv_text, markdown, terminal_text
from segjax.train.stop import Preempted, StopSignal


def run_table(plan: TablePlan) -> None:
    """Trains the unfinished runs of a plan, and writes the outputs after each run and at the end.

    If columns show times, the rows are timed before the end (`speed.time_rows`), even if no run was
    left to train. A run that diverges is noted in its folder (failed.json), and the next run
    follows. A later start does not repeat it unless that file is deleted. Rows that begin from a
    run that diverged are skipped.

    Raises:
      Preempted: a signal told the process to stop. The same command resumes the table. InputError:
      before the first run is trained, for a row that its run would refuse, or whose data
        differ from the data of finished rows. Later, for a run whose start has been trained anew.
    """
    if plan.added:
        rows = ', '.join(plan.added)
        _print(f'also trained, because chosen rows begin from them: {rows}')
    with StopSignal() as stop:
        # All runs are checked before the first is trained: the last run may be hours away.
        finished = [run for run in plan.runs if not to_be_run(run)]
        check_runs((run for run in plan.todo if run not in finished), finished, stop)
        for number in range(1, len(plan.todo) + 1):
            _train_next(plan, number, stop)
        time_rows(plan, stop)
    if parallel.is_main():
        measured = measure(plan)
        write(measured)
        print(terminal_text(measured))
        print(f'table: {plan.workdir / "table.html"}', flush=True)


def _train_next(plan: TablePlan, number: int, stop: StopSignal) -> None:
    """Trains run `number` of `plan.todo`, counted from 1, unless it has a result or no start."""
    run = plan.todo[number - 1]
    place = f'[{number}/{len(plan.todo)}] {run.name}'
    if not to_be_run(run):
        return
    if stop.reached():
        raise Preempted(f'{run.name} had not begun')
    start = plan.start(run)
    if start and not has_finished(start):
        _print(f'{place} cannot begin: {start.name} diverged')
        return
    check_folder(run)  # its start may have been trained anew by now
    _print(place)
    train(run, stop)
    if parallel.is_main():
        write(measure(plan))


def _print(text: str) -> None:
    """Prints in the main process."""
    if parallel.is_main():
        print(text, flush=True)


def write(measured: Measured) -> None:
    """Writes table.md, table.csv, table.json, table.html, each atomically.

    A table with claims or headlines also gets claims.csv.
    """
    workdir = measured.plan.workdir
    files.write_json(workdir / 'table.json', as_json(measured))
    files.write_text(workdir / 'table.csv', csv_text(measured))
    if measured.comparisons or measured.headlines:
        files.write_text(workdir / 'claims.csv', claims_csv_text(measured))
    files.write_text(workdir / 'table.md', markdown(measured))
    files.write_text(workdir / 'table.html', page(measured))
