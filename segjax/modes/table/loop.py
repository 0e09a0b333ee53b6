"""Trains the jobs of a plan one after the other, writes the outputs after each, and times the rows at the end."""

from segjax.core import files, parallel
from segjax.modes.table.numbers import Measured, measure
from segjax.modes.table.page import page
from segjax.modes.table.plan import TablePlan, check_folder, check_runs
from segjax.modes.table.runs import has_finished, to_be_run, train
from segjax.modes.table.speed import time_rows
from segjax.modes.table.text import as_json, claims_csv_text, csv_text, markdown, terminal_text
from segjax.train.stop import Preempted, StopSignal


def run_table(plan: TablePlan) -> None:
    """Trains what is not finished, one run after the other, and writes the outputs after each and at the end.

    Where columns show times, the rows are timed before the end (`speed.time_rows`), also if nothing was left to train.

    A run that diverges is noted in its folder (failed.json) and the others go on; a later start does not try it again
    unless that file is deleted. Rows that begin from a run that diverged are left out.

    Raises:
      Preempted: told to stop; the same command goes on.
      InputError: a row that its run would refuse, or whose data are others than those of finished
        rows, before the first row is trained. Or a run began from a start that has been trained anew since.
    """
    if plan.added and parallel.is_main():
        print(
            f'also trained, because chosen rows begin from them: {", ".join(plan.added)}',
            flush=True,
        )
    with StopSignal() as stop:
        is_open = [to_be_run(job) for job in plan.jobs]
        finished = [job for job, is_one in zip(plan.jobs, is_open, strict=True) if not is_one]
        check_runs((job for job in plan.todo if job not in finished), finished, stop)
        for number, job in enumerate(plan.todo, start=1):
            if not to_be_run(job):
                continue
            if stop.reached():
                raise Preempted(f'{job.name} had not begun')
            start = plan.start(job)
            if start and not has_finished(start):
                if parallel.is_main():
                    print(
                        f'[{number}/{len(plan.todo)}] {job.name} cannot begin: {start.name} diverged',
                        flush=True,
                    )
                continue
            check_folder(job)  # its start may have been trained anew by now
            if parallel.is_main():
                print(f'[{number}/{len(plan.todo)}] {job.name}', flush=True)
            train(job, stop)
            if parallel.is_main():
                write(measure(plan))
        time_rows(plan, stop)
    if parallel.is_main():
        measured = measure(plan)
        write(measured)
        print(terminal_text(measured))
        print(f'table: {plan.workdir / "table.html"}', flush=True)


def write(measured: Measured) -> None:
    """Writes table.md, table.csv, table.json, table.html and, for a table with claims, claims.csv, each whole."""
    workdir = measured.plan.workdir
    files.write_json(workdir / 'table.json', as_json(measured))
    files.write_text(workdir / 'table.csv', csv_text(measured))
    if measured.comparisons or measured.headlines:
        files.write_text(workdir / 'claims.csv', claims_csv_text(measured))
    files.write_text(workdir / 'table.md', markdown(measured))
    files.write_text(workdir / 'table.html', page(measured))
