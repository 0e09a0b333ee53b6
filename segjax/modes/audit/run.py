"""Runs `--mode audit`: reads the lists, measures the net, attacks it, and writes the page."""

import gc
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from segjax.config import config_file
from segjax.core import files, parallel, paths
from segjax.core.notes import Note, tell
from segjax.modes.audit import facts, folders, images, members, nets, page, results, shadows
from segjax.modes.audit.attacks import Shadows
from segjax.modes.audit.measure import Measured
from segjax.modes.audit.order import Order
from segjax.train.stop import StopSignal

SCORES = 'audit.json'
IMAGES = 'images.csv'


def main(
    config: ml_collections.ConfigDict | None,
    order: Order,
    assignments: Sequence[config_file.Assignment] = (),
) -> results.Audit:
    """Runs `--mode audit`.

    Args:
      config: of the run. None: `order.posteriors` is audited.
      order: of the command line.
      assignments: of config keys, for the shadow runs.

    Returns:
      The audit, whose files are written.

    Raises:
      InputError: wrong lists, files or runs, before anything compiles.
      Preempted: the process was told to stop.
    """
    parallel.check_single_process('--mode audit')
    with StopSignal() as stop:
        if config is None:
            return _audit_folder(order, stop)
        return _audit_run(config, order, assignments, stop)


def _audit_folder(order: Order, stop: StopSignal) -> results.Audit:
    """Audits a folder of saved posteriors, and writes the results."""
    path = paths.local('--posteriors', order.posteriors)
    known = folders.names_in(path)
    rest = paths.local('--nonmembers', order.nonmembers) if order.nonmembers else None
    lists = members.read(paths.local('--members', order.members), rest)
    asked = members.choose(lists, known, str(path))
    folder = folders.open_folder(path, asked.names)
    of_shadows = shadows.open_folders(order, folder)

    # All is checked. The shadows follow the victim, because they answer the same questions.
    measured = folders.measure(folder, asked, stop)
    answers = shadows.of_folders(of_shadows, folder, asked, measured, stop)
    made_by = {
        'model': path.resolve().name,
        'posteriors': str(path),
        'lists': lists.where,
        'images': f'{len(measured.names)} of {len(known)} files',
    }
    return _write(order, measured, answers, facts.of_names(measured.names), made_by)


def _audit_run(
    config: ml_collections.ConfigDict,
    order: Order,
    assignments: Sequence[config_file.Assignment],
    stop: StopSignal,
) -> results.Audit:
    """Audits a run, and writes the results."""
    net = nets.open_net(config, order.workdir, order.stage, stop)
    questions = images.find(net.run, net.stages, net.stage, order)
    of_shadows = shadows.open_runs(order, net, assignments, stop)

    # One net at a time is on the device.
    state = nets.load_state(net, order.checkpoint)
    made_by = {**nets.described(net, state), 'images': questions.where}
    asked = nets.ask(net, state, questions, net, stop)
    del state
    gc.collect()
    answers = shadows.of_runs(of_shadows, net, questions, asked.measured, stop)
    if questions.trained:
        made_by['non-members among the training images'] = questions.trained
        tell(
            Note(
                questions.where,
                f'the run was trained on {questions.trained} of the non-members',
                'leave --nonmembers out: images of the evaluation are then non-members',
            )
        )
    return _write(order, asked.measured, answers, _of_images(asked), made_by)


def _of_images(asked: nets.Asked) -> facts.Facts:
    """Returns the facts of images, with what their names say if they have no sequences."""
    of_images = dict(asked.facts)
    if not of_images['sequence'].astype(bool).any():
        of_images.pop('sequence')
    return {**facts.of_names(asked.measured.names), **of_images}


def _write(
    order: Order,
    measured: Measured,
    answers: Shadows | None,
    of_images: facts.Facts,
    made_by: Mapping[str, Any],
) -> results.Audit:
    """Attacks the measured images, writes all files and prints the verdict."""
    if answers is not None:
        made_by = {**made_by, 'shadows': ', '.join(answers.names)}
    audited = results.audit(measured, answers, of_images, made_by)
    folder = pathlib.Path(order.output)
    files.write_json(folder / SCORES, audited.scores)
    files.write_text(folder / IMAGES, results.image_table(audited))
    files.write_text(folder / page.PAGE, page.page(audited))
    print(audited.verdict.text, flush=True)
    if audited.confound.note is not None:
        print(audited.confound.note, flush=True)
    print(f'audit: {folder / page.PAGE}', flush=True)
    return audited
