"""Trains a run of a table in its folder, and reads the outcome."""

import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from segjax import config as config_lib
from segjax.core import files, parallel
from segjax.modes.table import starts
from segjax.modes.table.plan import FREE, TableRun, differences
from segjax.train import divergence, driver, stored
from segjax.train.stop import StopSignal

FAILED = 'failed.json'
"""A file next to config.json in the folder of a run that diverged."""


class Outcome(NamedTuple):
    """The result in a run folder: scores, or a reason why the run diverged, or neither (OPEN).

    scores    by stage
    diverged  message of the divergence
    """

    scores: Mapping[str, Any]
    diverged: str = ''


OPEN = Outcome({})


def outcome(run: TableRun) -> Outcome:
    """Returns the result in the folder of a run; OPEN if there is none of exactly this config."""
    config = run.folder / driver.CONFIG
    scores = run.folder / driver.SCORES
    failed = run.folder / FAILED
    if not config.exists() or not (scores.exists() or failed.exists()):
        return OPEN
    # `evaluate` may change when a run resumes, but scores under another protocol do not count.
    free = tuple(key for key in FREE if key != 'evaluate')
    if differences(run, stored.read_config(config), free):
        return OPEN
    if failed.exists():
        return Outcome({}, stored.read_object(failed, ('message',), f'rm {failed}')['message'])
    return Outcome(stored.read_scores(scores))


def decided_by_main(question: Callable[[], bool]) -> bool:
    """Returns the main process's answer in all processes.

    All processes must do the same, and files may become visible to some processes later.
    """
    return bool(parallel.of_main(int(parallel.is_main() and question())))


def to_be_run(run: TableRun) -> bool:
    """Returns whether the folder of a run holds no result yet."""
    return decided_by_main(lambda: outcome(run) == OPEN)


def has_finished(run: TableRun) -> bool:
    """Returns whether the folder of a run holds scores."""
    return decided_by_main(lambda: bool(outcome(run).scores))


def train(run: TableRun, stop: StopSignal) -> None:
    """Trains or evaluates a run in its folder. If it diverges, writes the reason to FAILED.

    Args:
      run: without a result (`to_be_run`). An interrupted run resumes.
      stop: the signal of the whole table.

    Raises:
      Preempted: a signal told the process to stop.
    """
    if parallel.is_main():
        # Old results must not pass for results of this training, should it be interrupted.
        for name in (driver.SCORES, FAILED):
            (run.folder / name).unlink(missing_ok=True)
    if run.row.evaluates:
        _evaluate(run, stop)
        jax.clear_caches()
        return
    try:
        driver.train(run.config, str(run.folder), stop)
    except divergence.Diverged as error:
        if parallel.is_main():
            files.write_json(run.folder / FAILED, {'message': str(error)})
            print(f'diverged: {run.name}: {error}', flush=True)
    # The next run is another program. Without this the programs of all runs stay in memory.
    jax.clear_caches()


def _evaluate(run: TableRun, stop: StopSignal) -> None:
    """Evaluates the finished run of another row, and writes the scores into the folder of `run`.

    start.json holds the place of the evaluated run, relative to the folder of `run`. It also holds
    the digest of the evaluated parameters, by which a later start of the table and a comparison see
    whether they were trained anew.
    """
    trained = starts.evaluated_folder(run.row, run.folder)
    scores = driver.evaluate(run.config, str(trained), stop=stop, keep=False)
    if not parallel.is_main():
        return
    start = {
        **stored.read_start(trained / files.START),
        'digest': starts.digest(str(trained), ''),
        'evaluates': pathlib.Path(os.path.relpath(trained, run.folder)).as_posix(),
    }
    files.write_json(run.folder / driver.CONFIG, config_lib.to_json(run.config))
    files.write_json(run.folder / files.START, start)
    shutil.copyfile(trained / stored.ENVIRONMENT, run.folder / stored.ENVIRONMENT)
    # The scores come last: a run that has scores is finished.
    files.write_json(run.folder / driver.SCORES, scores)
