"""The compared runs: their names, their stages, and whether they can be compared."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import files, parallel, paths
from segjax.data import clips
from segjax.errors import InputError, unknown_name
from segjax.protocol import Input, Scores, Stage, TrainState
from segjax.spec import ClassSpec, DataSpec, split_names
from segjax.train import driver, initialization, product_files, same_run, stored
from segjax.train.stop import StopSignal

EXAMPLE = '--runs runs/first,runs/second'


class Asked(NamedTuple):
    """A run as the command line names it.

    name    in tables and legends
    folder  the run folder
    stage   name of the stage, '' for the last stage that predicts class maps
    """

    name: str
    folder: pathlib.Path
    stage: str


class Compared(NamedTuple):
    """A finished run whose data are open.

    name    in tables and legends
    place   the folder that the command line names. A row of a table that only evaluates has scores
            there, and the trained run lies elsewhere
    run     the run
    stages  of the run
    stage   the stage that is compared
    scores  of the stage, from scores.json
    """

    name: str
    place: pathlib.Path
    run: driver.Run
    stages: tuple[Stage, ...]
    stage: Stage
    scores: Scores

    @property
    def inputs(self) -> Input:
        """Returns the input of the evaluation."""
        return self.stage.eval_input

    @property
    def spec(self) -> DataSpec:
        """Returns the specification of the evaluated data set."""
        return self.run.spec_of(self.inputs)

    @property
    def classes(self) -> ClassSpec:
        """Returns the classes that are scored."""
        return self.spec.classes

    @property
    def folder(self) -> pathlib.Path:
        """Returns the folder of the trained stage."""
        return self.run.workdir / self.stage.name


# --- the command line -----------------------------------------------------------------------------


def parse(runs: str, names: str = '', stage: str = '') -> list[Asked]:
    """Returns the runs that the flags name.

    Args:
      runs: folders, or FOLDER:STAGE, separated by commas.
      names: of the runs, separated by commas. '' means the names of the folders.
      stage: of the runs that name no stage. '' means the last stage that predicts class maps.

    Raises:
      InputError: fewer than two runs, a run twice, or names that do not fit.
    """
    texts = _items(runs)
    if len(texts) < 2:
        got = f'{len(texts)} run{"s" * (len(texts) != 1)}'
        expected = 'at least two run folders, separated by commas'
        raise InputError('--runs', got=got, expected=expected, fix=EXAMPLE)
    places = [_place(text, stage) for text in texts]
    twice = [text for text, place in zip(texts, places) if places.count(place) > 1]
    if twice:
        fix = f'remove one {twice[0]}, or name its stage: {twice[0]}:STAGE'
        raise InputError('--runs', got=f'{twice[0]} twice', expected='different runs', fix=fix)
    given = _names(names, texts, [folder for folder, _ in places])
    return [Asked(name, *place) for name, place in zip(given, places, strict=True)]


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(',') if item.strip()]


def _place(text: str, stage: str) -> tuple[pathlib.Path, str]:
    """Returns the folder and the stage of 'FOLDER' or 'FOLDER:STAGE'. Folders may have colons."""
    folder, colon, own_stage = text.rpartition(':')
    if colon and folder and not pathlib.Path(text).is_dir():
        return paths.local('--runs', folder).absolute(), own_stage
    return paths.local('--runs', text).absolute(), stage


def _names(names: str, texts: Sequence[str], folders: Sequence[pathlib.Path]) -> list[str]:
    """Returns the names of the runs: given, or of their folders, or the texts of --runs.

    Equal folders of different folders have the name of both: 'twosm/seed_0', 'da_train/seed_0'.

    Raises:
      InputError: another number of names than of runs, or a name twice.
    """
    given = _items(names)
    if not given:
        for of_folders in (
            [folder.name for folder in folders],
            [f'{folder.parent.name}/{folder.name}' for folder in folders],
        ):
            if len(set(of_folders)) == len(folders):
                return of_folders
        return list(texts)
    fix = '--names ' + ','.join(f'run{i}' for i in range(1, len(texts) + 1))
    if len(given) != len(texts):
        got = f'{len(given)} names of {len(texts)} runs'
        raise InputError('--names', got=got, expected='a name for each run', fix=fix)
    if len(set(given)) != len(given):
        raise InputError('--names', got=names, expected='different names', fix=fix)
    return given


# --- opening --------------------------------------------------------------------------------------


def open_compared(
    asked: Asked, assignments: Sequence[config_file.Assignment], stop: StopSignal
) -> Compared:
    """Opens a finished run for evaluation. Nothing compiles.

    Args:
      asked: the run.
      assignments: of keys that may differ from the run, such as data.root.
      stop: asked while data are prepared.

    Raises:
      InputError: no run, a run that is not finished, a stage without class maps, or an error of
        `trained_folder`.
    """
    path = asked.folder / stored.CONFIG
    if not path.exists():
        raise InputError(
            f'--runs {asked.folder}',
            got='no run' if asked.folder.is_dir() else 'no such folder',
            expected='the folder of a finished run',
            fix=EXAMPLE,
        )
    config = config_lib.from_json(stored.read_config(path))
    config_file.assign(config, assignments)
    trained = trained_folder(asked.folder)
    run, stages = driver.open_run(config, str(trained), 'evaluate', stop)
    same_run.check_classes(run.workdir, run.config, run.specs)
    stage = _choose_stage(asked, stages)
    scores = _final_scores(asked.folder, run, stage)
    return Compared(asked.name, asked.folder, run, stages, stage, scores)


def trained_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the trained run whose scores a folder holds: mostly this folder.

    A row of a table that only evaluates names the run in its start.json.

    Raises:
      InputError: the evaluation names no run, or its run is gone or was trained anew since.
    """
    start = folder / files.START
    if initialization.has_begun(folder) or not start.exists():
        return folder
    content = stored.read_start(start)
    again = f'rm {folder / stored.SCORES}, and start the table again'
    if 'evaluates' not in content:
        # A training that was stopped before its first checkpoint has no scores.
        if not (folder / stored.SCORES).exists():
            return folder
        raise InputError(
            f'--runs {folder}',
            got='the scores of an evaluation, which do not name the trained run',
            expected='a run with checkpoints, or an evaluation whose start.json names its run',
            fix=again,
        )
    trained = pathlib.Path(os.path.normpath(folder / content['evaluates']))
    if not initialization.has_begun(trained):
        raise InputError(
            f'--runs {folder}',
            got=f'an evaluation of {trained}, where no run is',
            expected='the run that was evaluated, at its place next to this folder',
            fix=f'move the run to {trained}',
        )
    init_from = ml_collections.ConfigDict({'path': str(trained), 'source': ''})
    if initialization.digest(initialization.reader(init_from)()) != content['digest']:
        raise InputError(
            f'--runs {folder}',
            got=f'scores of other parameters than those in {trained}, which was trained anew',
            expected='scores of the parameters that are compared',
            fix=again,
        )
    return trained


def _choose_stage(asked: Asked, stages: Sequence[Stage]) -> Stage:
    """Returns the named stage, or the last stage that predicts class maps."""
    able = [stage for stage in stages if stage.label_maps is not None]
    if not able:
        raise InputError(
            f'--runs {asked.folder}',
            got='a run whose stages predict no class maps',
            expected='runs that segment',
            fix=f'leave {asked.folder} out',
        )
    if not asked.stage:
        return able[-1]
    # The stage is named.
    named = {stage.name: stage for stage in stages}
    if asked.stage not in named:
        raise unknown_name(f'stage of --runs {asked.folder}', asked.stage, named)
    if named[asked.stage] not in able:
        names = ' or '.join(repr(stage.name) for stage in able)
        raise InputError(
            f'stage of --runs {asked.folder}',
            got=f'{asked.stage!r}, which predicts no class maps',
            expected=names,
            fix=f'{asked.folder}:{able[-1].name} in --runs',
        )
    return named[asked.stage]


def _final_scores(place: pathlib.Path, run: driver.Run, stage: Stage) -> Scores:
    """Returns the scores of a finished stage.

    Args:
      place: folder of the run, or of a row that evaluates it.
      run: the run.
      stage: of the run.

    Raises:
      InputError: the stage is not finished, or an evaluation would compute other scores now.
    """
    where = f'--runs {place}'
    only_evaluates = place != run.workdir
    folder = run.workdir / stage.name
    path = place / stored.SCORES if only_evaluates else folder / stored.SCORES
    finish = f'python -m segjax.main --workdir {run.workdir}'
    if only_evaluates:
        finish = 'start the table again'
    if not path.exists() or not initialization.has_checkpoint(folder):
        got = f'stage {stage.name!r}, which is not finished'
        raise InputError(where, got=got, expected='a finished run', fix=finish)
    scores = stored.read_scores(path)
    if only_evaluates:
        # A row has the scores of all stages in a file.
        scores = scores.get(stage.name, {})
    before = scores.get(same_run.MADE_BY, {})
    read = (before.get('weights', {}), before.get('products', {}))
    now = same_run.made_by(run.config, run.specs, stage, stage.num_steps, *read)
    if same_run.still_hold(scores, now, run.config):
        return scores
    # A run that was extended has the scores of an earlier step.
    step = before.get('step', stage.num_steps)
    if step != stage.num_steps:
        got = f'scores of step {step} of {stage.num_steps}'
        raise InputError(where, got=got, expected='a finished run', fix=finish)
    raise InputError(
        where,
        got=f'{path}, whose scores were computed with another config or other data',
        expected='the scores of the images that are compared',
        fix=f'leave --config.section.key=value out, or rm {path} and {finish}',
    )


def load_state(compared: Compared) -> TrainState:
    """Returns the final state of the compared stage, on one device."""
    run = compared.run
    stage = compared.stage
    before = compared.stages[: compared.stages.index(stage)]
    earlier = initialization.abstract_earlier(run, before)
    state = parallel.to_host(driver.load_stage(run, stage, earlier, 'last'))
    return jax.device_put(state, jax.local_devices()[0])


# --- comparison of the data -----------------------------------------------------------------------


def check_comparable(runs: Sequence[Compared]) -> None:
    """Raises InputError unless all runs score the same images with the same classes."""
    first, *others = runs
    for other in others:
        _check_protocol(first, other)
        difference = _difference(first, other)
        if difference:
            raise InputError(
                f'--runs {other.place}',
                got=difference,
                expected=f'the data that {first.place} is scored on',
                fix='compare runs that are scored on the same images and classes',
            )


def _check_protocol(first: Compared, other: Compared) -> None:
    """Raises InputError for runs that are scored at other resolutions or by other policies.

    Training again with another key of `evaluate` only scores the run again.
    """
    for key, value in _protocol(first).items():
        theirs = _protocol(other)[key]
        if theirs != value:
            fix = (
                f'python -m segjax.main --workdir {other.place} --config.{key}={value} '
                'scores the run again'
            )
            if other.place != other.run.workdir:
                fix = f'start the table with --override {other.place.parent.name}:{key}={value}'
            raise InputError(
                f'--runs {other.place}',
                got=f'{key}={theirs}',
                expected=f'{key}={value}, as in {first.place}',
                fix=fix,
            )


def _protocol(compared: Compared) -> dict[str, Any]:
    """Returns the config keys of an evaluation that compared runs must share."""
    settings = compared.run.config.evaluate
    return {
        'evaluate.resolution': settings.resolution,
        'evaluate.policy': settings.policy,
    }


def _difference(first: Compared, other: Compared) -> str:
    """Returns the first difference between the data that two runs score, in words, '' if none."""
    difference = same_run.class_differences(first.classes, other.classes, ids=False, colors=False)
    if difference:
        return difference
    for name, value in _examples(first).items():
        theirs = _examples(other)[name]
        if theirs != value:
            return f'{name}: {theirs}, not {value}'
    for split in split_names(first.inputs.split):
        difference = same_run.split_differences(first.spec, other.spec, split)
        if difference:
            return difference
    return ''


def _examples(compared: Compared) -> dict[str, Any]:
    """Returns the choice of the scored examples, and their size, by name."""
    config = compared.run.config
    at_image = config.evaluate.resolution == 'image'
    inputs = compared.inputs
    chosen = None if inputs.chosen is None else compared.run.product(inputs.chosen)
    # Examples without all neighbours are skipped, but not if something takes their places.
    frames = () if clips.keeps_all(inputs.frames) else inputs.frames
    return {
        'split': inputs.split,
        'scored examples': f'rows of the table {inputs.each!r}' if inputs.each else 'images',
        'images': inputs.examples,
        'choice': 'all' if chosen is None else product_files.digest(chosen),
        'neighbours': frames or 'none',
        'size': tuple(config.data.eval_size) if at_image else 'that of the labels',
    }
