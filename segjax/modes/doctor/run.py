"""Examines a config, its data set and its run folder."""

from collections.abc import Callable, Mapping
from typing import Any

from segjax import config as config_lib
from segjax.data import records
from segjax.modes.doctor import reading
from segjax.modes.doctor.examined import Examined, examine_section
from segjax.modes.doctor.findings import (
    Diagnosis,
    Finding,
    has_error,
    of_refusal,
    without_repetitions,
)
from segjax.modes.doctor.refusals import refusals
from segjax.modes.doctor.sizes import fits_anything, sizes_of_config
from segjax.modes.doctor.splits import splits_of_config
from segjax.modes.doctor.text import report
from segjax.spec import split_names
from segjax.train import checks, data_sets
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
    """Reads the whole data sets of a config, and checks a run that would start now.

    Args:
      config: unchecked.
      workdir: the run folder, '' for none.
      check_stop: called between examples, raises to stop.
    """
    findings = of_refusal(config_lib.validate, config)
    sections = {'data': config.data} if findings else data_sets.sections(config)
    if not findings:
        findings = of_refusal(checks.check_precision, config)

    # The data sets alone. Sections of the same data set are read once.
    examined = _examine_sections(sections, check_stop)
    distinct: dict[str, Examined] = {}
    for name, data in examined.items():
        if not any(data is other for other in distinct.values()):
            distinct[name] = data
            findings += data.findings
            findings += _unseen_classes(config, name, data)
    main = distinct.pop('data')
    further = tuple((name, *data[:3]) for name, data in distinct.items())
    if main.classes is None:
        return Diagnosis(main.where, None, {}, without_repetitions(findings), further)

    # The config against the data sets.
    findings += splits_of_config(config, main.splits)
    fits = fits_anything
    num_rows = None
    sees_images = True
    # A run can be built only without errors. It tells which fixes of sizes its nets accept.
    if not has_error(findings):
        refused = refusals(config, examined, workdir)
        findings += refused.findings
        fits = refused.fits
        num_rows = refused.num_rows
        sees_images = refused.sees_images
    findings += sizes_of_config(config, main.splits, fits, num_rows, sees_images)
    for data in (main, *distinct.values()):
        notes = data.dataset.notes() if data.dataset else ()
        findings += [Finding('note', *note) for note in notes]
    # Several inputs or data sets may meet the same problem.
    findings = without_repetitions(findings)
    return Diagnosis(main.where, main.classes, main.splits, findings, further)


def _examine_sections(
    sections: Mapping[str, Any], check_stop: Callable[[], None]
) -> dict[str, Examined]:
    """Examines each data set once, and returns the results by section."""
    by_description: dict[str, Examined] = {}
    examined = {}
    for name, section in sections.items():
        description = data_sets.description(section)
        if description not in by_description:
            by_description[description] = examine_section(name, section, check_stop)
        examined[name] = by_description[description]
    return examined


def _unseen_classes(config: Any, section: str, examined: Examined) -> list[Finding]:
    """Warns of classes that a data set does not show."""
    if examined.classes is None:
        return []
    trained = split_names(config.data.train_split) if section == 'data' else ()
    return reading.unseen_classes(examined.classes, examined.splits, trained, section)
