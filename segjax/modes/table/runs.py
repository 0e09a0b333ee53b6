"""The run folder of a job: training it, and what was found."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from segjax.core import files, parallel
from segjax.modes.table.plan import FREE, TableRun, differences
from segjax.train import divergence, driver, stored
from segjax.train.stop import StopSignal

FAILED = 'failed.json'  # beside config.json, in the folder of a run that diverged


class Outcome(NamedTuple):
    """What a run folder holds: the scores by stage, or why it diverged, or neither (OPEN)."""

    scores: Mapping[str, Any]
    diverged: str = ''


OPEN = Outcome({})


def outcome(job: TableRun) -> Outcome:
    """The result in the folder of a job; OPEN if there is none of exactly this config."""
    config, scores, failed = (job.folder / name for name in (driver.CONFIG, driver.SCORES, FAILED))
    if not config.exists() or not (scores.exists() or failed.exists()):
        return OPEN
    # `evaluate` may change when a run resumes, but scores under another protocol do not count.
    free = tuple(key for key in FREE if key != 'evaluate')
    if differences(job, stored.read_config(config), free):
        return OPEN
    if failed.exists():
        return Outcome({}, stored.read_object(failed, ('message',), f'rm {failed}')['message'])
    return Outcome(stored.read_scores(scores))


def decided_by_main(question: Callable[[], bool]) -> bool:
    """The main process's answer: all must do the same, and the others may see a folder's files later."""
    return bool(parallel.of_main(int(parallel.is_main() and question())))


def to_be_run(job: TableRun) -> bool:
    """Whether there is no result yet."""
    return decided_by_main(lambda: outcome(job) == OPEN)


def has_finished(job: TableRun) -> bool:
    """Whether there are scores."""
    return decided_by_main(lambda: bool(outcome(job).scores))


def train(job: TableRun, stop: StopSignal) -> None:
    """Trains a job in its folder, from where an earlier start left it; if it diverges, the folder says so (FAILED).

    Args:
      job: whose folder holds no result (`to_be_run`).
      stop: that of the whole table.

    Raises:
      Preempted: told to stop.
    """
    if parallel.is_main():
        # What an earlier start left must not be taken for the result of this one, should it be interrupted.
        for name in (driver.SCORES, FAILED):
            (job.folder / name).unlink(missing_ok=True)
    try:
        driver.train(job.config, str(job.folder), stop)
    except divergence.Diverged as error:
        if parallel.is_main():
            files.write_json(job.folder / FAILED, {'message': str(error)})
            print(f'diverged: {job.name}: {error}', flush=True)
    jax.clear_caches()  # the next run is another program; without this they add up
