"""Shadow nets of the attacker: runs, or folders of posteriors, with their own members."""

import gc
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import paths
from segjax.errors import InputError
from segjax.modes.audit import folders, images, members, nets
from segjax.modes.audit.attacks import Shadows
from segjax.modes.audit.folders import Folder
from segjax.modes.audit.images import Questions
from segjax.modes.audit.measure import Measured
from segjax.modes.audit.nets import Net
from segjax.modes.audit.order import Order
from segjax.train import same_run, stored
from segjax.train.stop import StopSignal

LIST = 'members.txt'
"""File in a folder of a shadow: the names of its training images. It may be empty."""


class ShadowFolder(NamedTuple):
    """A folder of the posteriors of a shadow, and the names of its training images."""

    folder: Folder
    members: tuple[str, ...]


class ShadowRun(NamedTuple):
    """A run of a shadow, and the contents of its training images."""

    net: Net
    members: frozenset[str]


def _paths(order: Order) -> list[pathlib.Path]:
    """Returns the runs or folders of --shadow. Raises InputError for a path twice."""
    texts = [text.strip() for text in order.shadow.split(',') if text.strip()]
    found = [paths.local('--shadow', text).absolute() for text in texts]
    own = paths.local('--workdir', order.posteriors or order.workdir).absolute()
    for path in found:
        if path == own or found.count(path) > 1:
            got = f'{path}, the audited net' if path == own else f'{path} twice'
            raise InputError('--shadow', got=got, expected='different nets', fix='remove it')
    return found


# --- folders --------------------------------------------------------------------------------------


def open_folders(order: Order, victim: Folder) -> list[ShadowFolder]:
    """Opens the folders of --shadow.

    Args:
      order: of the command line.
      victim: whose images the shadows are asked about.

    Raises:
      InputError: a folder without a file for an image, with another number of classes, or without
        its list of members. Or an error of `folders.open_folder`.
    """
    opened = []
    for path in _paths(order):
        # The shadow answers the same questions as the victim.
        known = folders.names_in(path, '--shadow')
        members.check_known(f'--shadow {path}', victim.names, known, str(path))
        folder = folders.open_folder(path, victim.names)
        if len(folder.classes) != len(victim.classes):
            raise InputError(
                f'--shadow {path}',
                got=f'posteriors of {len(folder.classes)} classes',
                expected=f'{len(victim.classes)} classes, as in {victim.path}',
            )
        # The attacker knows the training images of his nets.
        list_path = path / LIST
        if not list_path.exists():
            raise InputError(
                f'--shadow {path}',
                got=f'no {LIST}',
                expected=f'{LIST} in the folder, with the names of the training images',
                fix=f'touch {list_path}, for a shadow that was trained on none of the images',
            )
        names = members.read_names('--shadow', list_path, empty=True)
        opened.append(ShadowFolder(folder, names))
    return opened


def of_folders(
    opened: Sequence[ShadowFolder],
    victim: Folder,
    asked: members.Asked,
    measured: Measured,
    stop: StopSignal,
) -> Shadows | None:
    """Measures the posteriors of the shadows. None without shadows.

    Args:
      opened: the folders.
      victim: the audited folder.
      asked: the images.
      measured: of the victim.
      stop: asked between images.

    Raises:
      InputError: labels that differ from the labels of the victim.
    """
    answers = []
    rows = []
    for shadow in opened:
        answer = folders.measure(shadow.folder, asked, stop)
        _check_labels(f'--shadow {shadow.folder.path}', answer, measured)
        answers.append(answer)
        rows.append(np.isin(measured.names, shadow.members))
    names = [str(shadow.folder.path) for shadow in opened]
    return _shadows(names, rows, answers)


# --- runs -----------------------------------------------------------------------------------------


def open_runs(
    order: Order,
    victim: Net,
    assignments: Sequence[config_file.Assignment],
    stop: StopSignal,
) -> list[ShadowRun]:
    """Opens the runs of --shadow. Nothing compiles.

    Args:
      order: of the command line.
      victim: the audited net.
      assignments: of config keys, for all runs.
      stop: asked while data are prepared.

    Raises:
      InputError: no run, another evaluation size, or other classes.
    """
    opened = []
    for path in _paths(order):
        where = f'--shadow {path}'
        if not (path / stored.CONFIG).exists():
            got = 'no run' if path.is_dir() else 'no such folder'
            raise InputError(where, got=got, expected='the folder of a finished run')
        config = config_lib.from_json(stored.read_config(path / stored.CONFIG))
        config_file.assign(config, assignments)
        net = nets.open_net(config, str(path), '', stop)
        _check_run(where, net, victim)
        trained = images.of_training(net.run, net.stages, net.stage)
        contents = () if trained is None else trained.contents
        opened.append(ShadowRun(net, frozenset(contents)))
    return opened


def _check_run(where: str, net: Net, victim: Net) -> None:
    """Raises InputError for a shadow that cannot answer the questions to the victim."""
    classes = net.run.spec_of(net.stage.eval_input).classes
    own = victim.run.spec_of(victim.stage.eval_input).classes
    difference = same_run.class_differences(own, classes, ids=False, colors=False)
    if difference:
        raise InputError(where, got=difference, expected='the classes of the audited run')
    sizes = (net.stage.eval_input.size, victim.stage.eval_input.size)
    if sizes[0] != sizes[1]:
        raise InputError(
            where,
            got=f'images of {sizes[0]}',
            expected=f'{sizes[1]}, as in {victim.run.workdir}',
            fix=f'--config.data.eval_size="{sizes[1]}"',
        )
    if net.stage.predict_planes != victim.stage.predict_planes:
        raise InputError(
            where,
            got=f'a net that sees {net.stage.predict_planes or "colour alone"}',
            expected=victim.stage.predict_planes or 'colour alone, as in the audited run',
        )


def of_runs(
    opened: Sequence[ShadowRun],
    victim: Net,
    questions: Questions,
    measured: Measured,
    stop: StopSignal,
) -> Shadows | None:
    """Asks the shadows about the images of the victim, one net after the other.

    Args:
      opened: the runs.
      victim: the audited net, whose data hold the images.
      questions: the images.
      measured: of the victim.
      stop: asked between batches.
    """
    contents = np.array(questions.contents)[measured.kept]
    answers = []
    rows = []
    for number, shadow in enumerate(opened):
        state = nets.load_state(shadow.net, 'last')
        secret = f'shadow {number}'
        answers.append(nets.ask(shadow.net, state, questions, victim, stop, secret).measured)
        rows.append(np.isin(contents, list(shadow.members)))
        # The state leaves the device before the next net is loaded.
        del state
        gc.collect()
    return _shadows([shadow.net.run.workdir.name for shadow in opened], rows, answers)


# --- both -----------------------------------------------------------------------------------------


def _shadows(
    names: Sequence[str], rows: Sequence[np.ndarray], answers: Sequence[Measured]
) -> Shadows | None:
    """Returns the shadows, None if there are none."""
    if not names:
        return None
    return Shadows(tuple(names), np.stack(rows), tuple(answers))


def _check_labels(where: str, answer: Measured, measured: Measured) -> None:
    """Raises InputError for a shadow whose files have other labels than the files of the victim."""
    same = answer.names == measured.names
    if not same or not np.array_equal(answer.label_pixels, measured.label_pixels):
        raise InputError(
            where,
            got='other labels than the audited folder',
            expected='the same images with the same labels, at the same size',
        )
