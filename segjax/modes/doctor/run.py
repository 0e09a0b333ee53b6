"""Examines a config, its data set and its run folder."""

from collections.abc import Callable
from typing import Any

from segjax import config as config_lib
from segjax.data import builders, records
from segjax.errors import InputError
from segjax.modes.doctor import reading
from segjax.modes.doctor.findings import Diagnosis, Finding, from_error, has_error, of_refusal
from segjax.modes.doctor.refusals import refusals
from segjax.modes.doctor.sizes import fits_anything, sizes_of_config
from segjax.modes.doctor.splits import splits_of_config
from segjax.modes.doctor.text import report
from segjax.train import checks
from segjax.train.stop import Preempted, StopSignal


def main(config: Any, workdir: str = '') -> int:
    """Runs `--mode doctor`: prints the report. Returns 1 if there is an error, otherwise 0.

    Raises:
      Preempted: a signal told the process to stop.
    """
    with StopSignal() as stop:

        def check_stop():
            if stop.reached():
                raise Preempted('the data set is not examined completely')

        diagnosis = examine(config, workdir, check_stop)
    print(report(diagnosis), flush=True)
    return int(has_error(diagnosis.findings))


def diagnose(config: Any, workdir: str = '') -> list[Finding]:
    """Returns all findings about a config, its data set and its run folder."""
    return examine(config, workdir).findings


def examine(
    config: Any, workdir: str = '', check_stop: Callable[[], None] = records.never_stop
) -> Diagnosis:
    """Reads the whole data set of a config, and checks a run that would start now.

    Args:
      config: unchecked.
      workdir: the run folder, '' for none.
      check_stop: called between examples, raises to stop.
    """
    findings = of_refusal(config_lib.validate, config)
    if not findings:
        findings = of_refusal(checks.check_precision, config)
    try:
        dataset = builders.load(config.data)
        names = dataset.splits()
    except InputError as error:
        where = f'data set {config.data.name!r}'
        return Diagnosis(where, None, {}, [*findings, from_error(error)])

    # The data set alone, then the config against it.
    splits, problems = reading.read_splits(dataset, names, check_stop)
    findings += problems
    findings += reading.start_at_one(dataset, splits)
    findings += reading.duplicates(splits)
    findings += reading.unseen_classes(dataset.classes, splits, config)
    findings += splits_of_config(config, splits)

    # A run can be built only without errors. It tells which fixes of sizes its nets accept.
    fits = fits_anything
    if not has_error(findings):
        refused, fits = refusals(config, dataset, splits, workdir)
        findings += refused
    findings += sizes_of_config(config, splits, fits)
    findings += [Finding('note', *note) for note in dataset.notes()]
    return Diagnosis(dataset.where, dataset.classes, splits, findings)
