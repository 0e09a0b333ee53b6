"""Compares a run folder with the config and the data of a command, by the same rule for all modes.

The paths of data may change, their contents may not. A key that changes what a net means is refused
in every mode (config.FREE_IN). Scores and predictions say what they were computed with (`made_by`).
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ml_collections

from segjax import config as config_lib
from segjax.core import files
from segjax.data import derived
from segjax.data.labels import load_class_file
from segjax.errors import InputError
from segjax.protocol import Input, Scores, Stage
from segjax.report.scores import MADE_BY, scored_as_asked
from segjax.spec import ClassSpec, DataSpec, split_names
from segjax.train import checkpoints, data_sets, features, initialization
from segjax.train import stored as stored_files
from segjax.train.stored import CONFIG, SPEC, SPECS

Changes = Mapping[str, tuple[Any, Any]]
"""(old value, new value) by config key."""

SHOWN = 6
"""Number of class names that an error shows."""


# --- the config -----------------------------------------------------------------------------------


def as_trained(
    config: ml_collections.ConfigDict, folder: pathlib.Path, mode: str
) -> ml_collections.ConfigDict:
    """Returns the config with the preparation of images that the run adopted.

    Args:
      config: of the command, not changed.
      folder: the run folder.
      mode: 'evaluate' or 'predict'.

    Raises:
      InputError: a key that `mode` does not leave free differs from the config of the run.
    """
    if not initialization.has_begun(folder) or not (folder / CONFIG).exists():
        return config
    stored = stored_files.read_config(folder / CONFIG)
    config = initialization.with_stored_preprocess(config, stored)
    differences = config_lib.differences(
        stored, config_lib.to_json(config), free=config_lib.FREE_IN[mode]
    )
    if differences:
        raise InputError(
            f'--workdir {folder}',
            got=config_lib.another_config(differences),
            expected='the config that it was trained with: these keys change what the net means',
            fix=f'--workdir {folder} --mode {mode}, without --config and without these keys',
        )
    check_recorded(folder, config, mode)
    if mode == 'predict':
        _check_class_file(config, stored, folder)
    return config


def _check_class_file(
    config: ml_collections.ConfigDict, stored: Mapping[str, Any], folder: pathlib.Path
) -> None:
    """Raises InputError if the class file differs from the classes of the run."""
    path = config.data.classes
    if config.data.class_map:  # the run knows the merged classes alone
        return
    if path in ('', config_lib.from_json(stored).data.classes) or not (folder / SPEC).exists():
        return
    known = stored_spec(folder).classes
    classes = load_class_file(pathlib.Path(path).expanduser()).classes
    difference = class_differences(known, classes)
    if difference:
        raise InputError(
            f'config.data.classes {path}',
            got=difference,
            expected='the classes, ids and colours that the run was trained with',
            fix='leave config.data.classes out',
        )


def check_begun(folder: pathlib.Path) -> None:
    """Raises InputError for a folder without a run that could be extended."""
    if initialization.has_begun(folder):
        return
    raise InputError(
        '--extend',
        got=f'no checkpoint in {folder}',
        expected='the --workdir of a run that has begun',
        fix='leave --extend out to start a run',
    )


def check_resumed(
    folder: pathlib.Path, config: ml_collections.ConfigDict, extend: bool = False
) -> bool:
    """Returns whether a run that has begun is to train longer than its folder says.

    Args:
      folder: the run folder.
      config: of the command.
      extend: whether the command allows more steps.

    Raises:
      InputError: the run folder has checkpoints and was started with another config, or a stage
        whose checkpoints all lack a part.
    """
    if not initialization.has_begun(folder):
        return False
    checkpoints.check_parts(folder)
    stored = stored_files.read_config(folder / CONFIG)
    now = config_lib.to_json(config)
    changes = config_lib.changes(stored, now)
    longer = [key for key, (old, new) in changes.items() if _is_longer(key, old, new)]
    if changes and not (extend and len(longer) == len(changes)):
        raise InputError(
            f'--workdir {folder}',
            got=config_lib.another_config(config_lib.differences(stored, now)),
            expected='the config it was started with' + (', but for more steps' if extend else ''),
            fix=_fix(changes, longer, extend),
        )
    check_recorded(folder, config, 'train')
    return bool(changes)


def check_recorded(folder: pathlib.Path, config: ml_collections.ConfigDict, mode: str) -> None:
    """Raises InputError if checkpoints were saved with another config.

    config.json may have been edited since.

    Args:
      folder: the run folder.
      config: of the run now. It may have more steps than the configs of the checkpoints.
      mode: 'train', 'evaluate' or 'predict'.
    """
    now = config_lib.to_json(config)
    for saved in checkpoints.recorded_configs(folder):
        changes = config_lib.changes(saved, now, free=config_lib.FREE_IN[mode])
        wrong = {key: pair for key, pair in changes.items() if not _is_longer(key, *pair)}
        if not wrong:
            continue
        differences = [f'{key}: {old!r}, now {new!r}' for key, (old, new) in wrong.items()]
        before = ', '.join(f'{key} = {old!r}' for key, (old, _) in wrong.items())
        raise InputError(
            str(folder / CONFIG),
            got=config_lib.another_config(differences),
            expected='the config that its checkpoints were saved with',
            fix=f'undo the edit: {before}',
        )


def _is_num_steps(key: str) -> bool:
    return key.split('.')[-1] == 'num_steps'


def _is_longer(key: str, old: Any, new: Any) -> bool:
    """Returns whether a change of a key makes a stage train longer."""
    return _is_num_steps(key) and old is not None and new is not None and new > old


def _fix(changes: Changes, longer: Sequence[str], extend: bool) -> str:
    """Returns the fix for the changes of a resumed run.

    Args:
      changes: all of them.
      longer: keys whose change makes a stage train longer.
      extend: whether the command allows more steps.
    """
    if len(longer) == len(changes):
        return (
            'add --extend to train longer in this folder, '
            'with the optimiser and the step as they are'
        )
    shorter = [key for key in changes if _is_num_steps(key) and key not in longer]
    if shorter and (extend or len(shorter) == len(changes)):
        planned = ' '.join(f'--config.{key}={changes[key][0]}' for key in shorter)
        return planned + ', as planned' + (', or more' if extend else '')
    return (
        'undo the change, or another --workdir (--config.init_from.path begins with the parameters '
        'of this run; its optimiser and step start anew)'
    )


# --- the data -------------------------------------------------------------------------------------


def stored_spec(folder: pathlib.Path) -> DataSpec:
    """Returns the specification of the main data set in a run folder."""
    return stored_files.read_spec(folder / SPEC)


def stored_specs(folder: pathlib.Path) -> dict[str, DataSpec]:
    """Returns the specifications of the data sets in a run folder, by config section."""
    further = {}
    if (folder / SPECS).exists():
        further = stored_files.read_specs(folder / SPECS)
    return {'data': stored_spec(folder), **further}


def with_stored_parts(folder: pathlib.Path, specs: Mapping[str, DataSpec]) -> dict[str, DataSpec]:
    """Returns the specifications without exact numbers of slices that an older run did not have.

    Its class weights come from whole splits. A resumed run keeps its class weights.

    Args:
      folder: the run folder, which need not exist.
      specs: of the data now, by config section.
    """
    if not initialization.has_begun(folder) or not (folder / SPEC).exists():
        return dict(specs)
    stored = stored_specs(folder)
    kept = {}
    for name, spec in specs.items():
        is_older = name in stored and not stored[name].parts
        kept[name] = dataclasses.replace(spec, parts=()) if is_older else spec
    return kept


def write_specs(folder: pathlib.Path, specs: Mapping[str, DataSpec]) -> None:
    """Writes the specifications of the data sets into a run folder.

    Args:
      folder: the run folder.
      specs: by config section. Only additional data sets are in a file of their own.
    """
    further = {name: spec.to_json() for name, spec in specs.items() if name != 'data'}
    files.write_json(folder / SPEC, specs['data'].to_json())
    if further:
        files.write_json(folder / SPECS, further)


def check_data(
    folder: pathlib.Path, specs: Mapping[str, DataSpec], stages: Sequence[Stage]
) -> None:
    """Raises InputError if the data of a run that has begun changed.

    Only the splits of the stages count. The colours of classes may change: they are only painted.

    Args:
      folder: the run folder.
      specs: of the data now, by config section.
      stages: of the run.
    """
    if not initialization.has_begun(folder):
        return
    difference = data_difference(folder, specs, stages)
    if difference:
        raise InputError(
            f'--workdir {folder}',
            got=f'data that changed since: {difference}',
            expected='the data that it was started with',
            fix='put the data back, or begin another run: '
            f'--workdir NEW --config.init_from.path={folder}',
        )


def data_difference(
    folder: pathlib.Path, specs: Mapping[str, DataSpec], stages: Sequence[Stage]
) -> str:
    """Returns the first difference between the data of a run and the data now in words, '' if none.

    Args:
      folder: the run folder, which has a spec.json.
      specs: of the data now, by config section.
      stages: of the run. Splits that they do not use may differ.
    """
    for section, stored in stored_specs(folder).items():
        if section not in specs:
            continue
        inputs = _inputs_of(stages, section)
        difference = _difference(stored, specs[section], _plain_splits(inputs))
        difference = difference or _derived_difference(stored, specs[section], inputs)
        if difference:
            return difference if section == 'data' else f'{section}: {difference}'
    return ''


def _difference(old: DataSpec, new: DataSpec, splits: Sequence[str]) -> str:
    """Returns the first difference of the classes, or of these splits, in words, '' if none."""
    difference = class_differences(old.classes, new.classes, colors=False)
    if difference:
        return difference
    of_splits = (split_differences(old, new, split) for split in splits)
    return next(filter(None, of_splits), '')


def _derived_difference(old: DataSpec, new: DataSpec, inputs: Sequence[Input]) -> str:
    """Returns the first derived feature of inputs whose recipe changed in words, '' if none.

    Args:
      old, new: the data set of the inputs.
      inputs: of this data set.
    """
    for each in inputs:
        for name in derived.names_read(each):
            if old.derived.get(name) != new.derived.get(name):
                return f'feature {name!r} is computed in another way: by its settings or version'
    return ''


def check_classes(
    folder: pathlib.Path, config: ml_collections.ConfigDict, specs: Mapping[str, DataSpec]
) -> None:
    """Raises InputError if evaluated data have other classes than the run.

    Names and order must be equal. The ids of the label files may differ only in another data set:
    in the files of the run they would exchange classes.

    Args:
      folder: the run folder.
      config: of the command.
      specs: of its data, by config section.
    """
    # A folder without a finished start has nothing to compare with.
    complete = (folder / CONFIG).exists() and (folder / SPEC).exists()
    if not complete or not initialization.has_begun(folder):
        return
    trained_on = config_lib.from_json(stored_files.read_config(folder / CONFIG))
    places_before = data_sets.sections(trained_on)
    places = data_sets.sections(config)
    for section, known in stored_specs(folder).items():
        if section in specs and section in places_before:
            same_place = _place(places_before[section]) == _place(places[section])
            with data_sets.named(section):
                _check_same_classes(folder, known.classes, specs[section], same_place)


def _check_same_classes(
    folder: pathlib.Path, known: ClassSpec, spec: DataSpec, same_place: bool
) -> None:
    """Raises InputError if the classes of a data set differ from the classes of a run.

    Args:
      folder: the run folder.
      known: classes of the run.
      spec: of the evaluated data set.
      same_place: whether the run was trained on the same data set.
    """
    # Names and order are the meaning of the outputs of the net.
    difference = class_differences(known, spec.classes, ids=False, colors=False)
    if difference:
        raise InputError(
            f'classes of data set {spec.name!r}',
            got=difference,
            expected='the classes that the net was trained on, in the same order',
            fix=f'list them as {folder / SPEC} does, under "names"',
        )
    # Ids are the meaning of the label files, which are the same at the same place.
    difference = class_differences(known, spec.classes, colors=False)
    if difference and same_place:
        raise InputError(
            f'classes of data set {spec.name!r}',
            got=difference,
            expected='the ids that the net was trained with: the label files are the same',
            fix='leave config.data.classes out, '
            'or set config.data.root to the data that have these ids',
        )


def _place(data: ml_collections.ConfigDict) -> tuple[str, pathlib.Path]:
    """Returns the name and the folder of a data set."""
    return data.name, pathlib.Path(data.root).expanduser().resolve()


def _inputs_of(stages: Sequence[Stage], section: str) -> list[Input]:
    """Returns the inputs of a data set on which the stages train, evaluate or measure."""
    inputs = features.inputs_of(stages, 'train')
    return [each for each in inputs if each.data == section]


def _plain_splits(inputs: Sequence[Input]) -> list[str]:
    """Returns the plain splits that inputs read, in alphabetical order."""
    names: set[str] = set()
    for each in inputs:
        names.update(split_names(each.split))
    return sorted(names)


def class_differences(old: ClassSpec, new: ClassSpec, ids: bool = True, colors: bool = True) -> str:
    """Returns the first difference of two class lists in words, '' if there is none.

    Args:
      old, new: the class lists.
      ids: whether the ids of the label files count.
      colors: whether the palette counts.
    """
    if old.num_classes != new.num_classes:
        return f'{new.num_classes} classes, which were {old.num_classes}'
    if set(old.names) == set(new.names) and old.names != new.names:
        return f'classes in another order: {_short(new.names)}, which was {_short(old.names)}'
    compared: dict[str, tuple[Any, Any]] = {'name': (old.names, new.names)}
    if ids:
        compared['id'] = (old.ids, new.ids)
    if colors:
        compared['colour'] = (old.palette, new.palette)
    for kind, pair in compared.items():
        for number, (a, b) in enumerate(zip(*pair, strict=True)):
            if a != b:
                name = old.names[number]
                return f'another {kind} of class {number} ({name!r}): {b!r}, which was {a!r}'
    return ''


def _short(names: Collection[str]) -> str:
    """Returns a list of names as text, cut after a few names."""
    shown = list(names)[:SHOWN]
    return ', '.join(shown) + (', ...' if len(names) > len(shown) else '')


def split_differences(old: DataSpec, new: DataSpec, split: str) -> str:
    """Returns the first difference of a split in words, '' if there is none or the split is new.

    Records that are older than the digest are compared by their numbers.
    """
    if split not in old.num_examples:
        return ''
    if split not in new.num_examples:
        return f'no split {split!r}'
    for fact, (a, b) in _split_facts(old, new, split).items():
        if a != b:
            return f'split {split!r} has {b} {fact}, which were {a}'
    old_digest = old.digest.get(split, '')
    new_digest = new.digest.get(split, '')
    if old_digest and new_digest and old_digest != new_digest:
        return (
            f'split {split!r} has other content (digest {new_digest}, which was {old_digest}): '
            'as many examples, and as many pixels of each class, but images, labels or their '
            'order differ'
        )
    return ''


def _split_facts(old: DataSpec, new: DataSpec, split: str) -> dict[str, tuple[Any, Any]]:
    """Returns (old value, new value) of the numbers of a split, by name."""
    unlabelled = (old.num_unlabelled.get(split, 0), new.num_unlabelled.get(split, 0))
    largest = (old.max_size[split], new.max_size[split])
    facts = {
        'examples': (old.num_examples[split], new.num_examples[split]),
        'examples without a label': unlabelled,
        'pixels (height, width) of the largest label': largest,
        'unlabelled pixels': (old.void_pixels[split], new.void_pixels[split]),
    }
    pixels = zip(old.classes.names, old.class_pixels[split], new.class_pixels[split], strict=True)
    for name, before, now in pixels:
        facts[f'pixels of class {name!r}'] = (before, now)
    return facts


# --- results --------------------------------------------------------------------------------------


def made_by(
    config: ml_collections.ConfigDict,
    specs: Mapping[str, DataSpec],
    stage: Stage,
    step: int,
    weights: Mapping[str, str] = {},
    products: Mapping[str, str] = {},
) -> dict[str, Any]:
    """Returns everything that the scores of a checkpoint depend on.

    Args:
      config: of the run.
      specs: of its data, by config section.
      stage: the stage.
      step: of the checkpoint.
      weights: from `initialization.net_digests`, because a net of a metric gives scores their
        meaning.
      products: {'stage/name': digest} of the arrays that the stage read from earlier stages.

    Returns:
      {'step': of the checkpoint, 'data': {split: digest}, 'config': without keys that change no
      score, 'weights' and 'products': if there are any, 'features': {name: recipe} of the derived
      features that are read}.
    """
    spec = specs[stage.eval_input.data]
    splits = split_names(stage.eval_input.split)
    facts: dict[str, Any] = {
        'step': step,
        'data': {split: spec.digest.get(split, '') for split in splits},
        'config': config_lib.recorded(config),
    }
    if weights:
        facts['weights'] = dict(weights)
    if products:
        facts['products'] = dict(products)
    read = derived.names_read(stage.eval_input)
    recipes = {name: spec.derived[name] for name in read if name in spec.derived}
    if recipes:
        facts['features'] = recipes
    return facts


def still_hold(scores: Scores, now: Mapping[str, Any], config: ml_collections.ConfigDict) -> bool:
    """Returns whether an evaluation would compute the same scores now.

    Args:
      scores: stored scores of a stage. Older scores have no `made_by`, only the protocol.
      now: from `made_by`.
      config: of the run.
    """
    if MADE_BY not in scores:
        return scored_as_asked(scores, config)
    before = scores[MADE_BY]
    if not isinstance(before, Mapping) or not isinstance(before.get('config'), Mapping):
        return False
    if {**before, 'config': None} != {**now, 'config': None}:
        return False
    # Configs of older runs may lack younger keys, or have old names of keys.
    return not config_lib.changes(before['config'], now['config'], free=config_lib.UNRECORDED)
