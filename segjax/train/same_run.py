"""Compares a run folder with the config and the data that a command brings: one rule for train, evaluate and predict.

Paths may move, contents may not. A key that changes what a net means is refused in every mode (config.FREE_IN). What a
score or a prediction was made with is stored beside it (`made_by`).
"""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ml_collections

from segjax import config as config_lib
from segjax.data.labels import load_class_file
from segjax.errors import InputError
from segjax.protocol import Scores, Stage
from segjax.report.scores import MADE_BY, scored_as_asked
from segjax.spec import ClassSpec, DataSpec, split_names
from segjax.train import checkpoints, initialization
from segjax.train import stored as stored_files

CONFIG, SPEC = 'config.json', 'spec.json'  # files of a run folder


# --- the config -------------------------------------------------------------------------------------------------------


def as_trained(
    config: ml_collections.ConfigDict, folder: pathlib.Path, mode: str
) -> ml_collections.ConfigDict:
    """Returns the config with the preparation of images that the run adopted.

    Args:
      config: that the command brings, not changed.
      folder: the run folder.
      mode: 'evaluate' or 'predict'.

    Raises:
      InputError: another config than that of the run, in a key that `mode` does not leave free.
    """
    if not initialization.has_begun(folder) or not (folder / CONFIG).exists():
        return config
    stored = stored_files.read_config(folder / CONFIG)
    config = initialization.with_stored_preprocess(config, stored)
    found = config_lib.differences(
        stored, config_lib.to_json(config), free=config_lib.FREE_IN[mode]
    )
    if found:
        raise InputError(
            f'--workdir {folder}',
            got=config_lib.another_config(found),
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
    """Raises InputError for another class file than that of the run: predictions have the classes of the run."""
    path = config.data.classes
    if path in ('', config_lib.from_json(stored).data.classes) or not (folder / SPEC).exists():
        return
    known = stored_spec(folder).classes
    found = load_class_file(pathlib.Path(path).expanduser()).classes
    different = class_differences(known, found)
    if different:
        raise InputError(
            f'config.data.classes {path}',
            got=different,
            expected='the classes, ids and colours that the run was trained with',
            fix='leave config.data.classes out',
        )


def check_begun(folder: pathlib.Path) -> None:
    """Raises InputError for a folder without a run that could be extended."""
    if not initialization.has_begun(folder):
        got, fix = f'no checkpoint in {folder}', 'leave --extend out to start a run'
        raise InputError(
            '--extend', got=got, expected='the --workdir of a run that has begun', fix=fix
        )


def check_resumed(
    folder: pathlib.Path, config: ml_collections.ConfigDict, extend: bool = False
) -> bool:
    """Returns whether a run that has begun is to train longer than its folder says.

    Args:
      folder: the run folder.
      config: that the command brings.
      extend: whether the command allows more steps.

    Raises:
      InputError: a run folder with checkpoints that was started with another config.
    """
    if not initialization.has_begun(folder):
        return False
    stored, now = stored_files.read_config(folder / CONFIG), config_lib.to_json(config)
    found = config_lib.changes(stored, now)
    longer = [key for key, (old, new) in found.items() if _is_longer(key, old, new)]
    if found and not (extend and len(longer) == len(found)):
        raise InputError(
            f'--workdir {folder}',
            got=config_lib.another_config(config_lib.differences(stored, now)),
            expected='the config it was started with' + (', but for more steps' if extend else ''),
            fix=_fix(found, longer, extend),
        )
    check_recorded(folder, config, 'train')
    return bool(found)


def check_recorded(folder: pathlib.Path, config: ml_collections.ConfigDict, mode: str) -> None:
    """Raises InputError for checkpoints that were saved with another config, as after an edit of config.json.

    Args:
      folder: the run folder.
      config: of the run now. It may have more steps than those of the checkpoints.
      mode: 'train', 'evaluate' or 'predict'.
    """
    for saved in checkpoints.recorded_configs(folder):
        found = config_lib.changes(saved, config_lib.to_json(config), free=config_lib.FREE_IN[mode])
        wrong = {key: pair for key, pair in found.items() if not _is_longer(key, *pair)}
        if wrong:
            raise InputError(
                str(folder / CONFIG),
                got=config_lib.another_config(
                    [f'{key}: {old!r}, now {new!r}' for key, (old, new) in wrong.items()]
                ),
                expected='the config that its checkpoints were saved with',
                fix='undo the edit: '
                + ', '.join(f'{key} = {old!r}' for key, (old, _) in wrong.items()),
            )


def _is_longer(key: str, old: Any, new: Any) -> bool:
    return key.split('.')[-1] == 'num_steps' and old is not None and new is not None and new > old


def _fix(found: Mapping[str, tuple[Any, Any]], longer: Sequence[str], extend: bool) -> str:
    """Returns how to mend the changes of a resumed run."""
    if len(longer) == len(found):
        return 'add --extend to train longer in this folder, with the optimiser and the step as they are'
    shorter = [key for key in found if key.split('.')[-1] == 'num_steps' and key not in longer]
    if shorter and (extend or len(shorter) == len(found)):
        planned = ' '.join(f'--config.{key}={found[key][0]}' for key in shorter)
        return planned + ', as planned' + ', or more' * extend
    return (
        'undo the change, or another --workdir (--config.init_from.path begins with the parameters of this '
        'run; its optimiser and step start anew)'
    )


# --- the data ---------------------------------------------------------------------------------------------------------


def stored_spec(folder: pathlib.Path) -> DataSpec:
    """Returns what a run folder says of its data; raises InputError for a file that says something else."""
    return stored_files.read_spec(folder / SPEC)


def check_data(folder: pathlib.Path, spec: DataSpec, stages: Sequence[Stage]) -> None:
    """Raises InputError if the data of a run that has begun changed, in the splits that it trains or evaluates on.

    The colours of classes may change: they are painted, and not learned.

    Args:
      folder: the run folder.
      spec: of the data as they are now.
      stages: of the run.
    """
    if not initialization.has_begun(folder):
        return
    got = data_difference(folder, spec, stages)
    if got:
        fix = f'put the data back, or begin another run: --workdir NEW --config.init_from.path={folder}'
        expected = 'the data that it was started with'
        raise InputError(
            f'--workdir {folder}', got=f'data that changed since: {got}', expected=expected, fix=fix
        )


def data_difference(folder: pathlib.Path, spec: DataSpec, stages: Sequence[Stage]) -> str:
    """Returns the first difference between the data of a run and the data now in words, '' if there is none.

    Args:
      folder: the run folder, which has a spec.json.
      spec: of the data as they are now.
      stages: of the run; splits that they do not use may differ.
    """
    stored = stored_spec(folder)
    of_splits = (split_differences(stored, spec, split) for split in _splits(stages))
    return class_differences(stored.classes, spec.classes, colors=False) or next(
        filter(None, of_splits), ''
    )


def check_classes(folder: pathlib.Path, config: ml_collections.ConfigDict, spec: DataSpec) -> None:
    """Raises InputError for evaluated data whose classes are not those of the run.

    Names and order must be those of the run. The ids of the label files may differ in another data set alone: in the
    files of the run they would exchange classes.

    Args:
      folder: the run folder.
      config: that the command brings.
      spec: of its data.
    """
    if not initialization.has_begun(folder) or not all(
        (folder / name).exists() for name in (CONFIG, SPEC)
    ):
        return
    known = stored_spec(folder).classes
    different = class_differences(known, spec.classes, ids=False, colors=False)
    if different:
        raise InputError(
            f'classes of data set {spec.name!r}',
            got=different,
            expected='the classes that the net was trained on, in the same order',
            fix=f'list them as {folder / SPEC} does, under "names"',
        )
    different = class_differences(known, spec.classes, colors=False)
    trained_on = config_lib.from_json(stored_files.read_config(folder / CONFIG)).data
    if different and _place(trained_on) == _place(config.data):
        raise InputError(
            f'classes of data set {spec.name!r}',
            got=different,
            expected='the ids that the net was trained with: the label files are the same',
            fix='leave config.data.classes out, or set config.data.root to the data that have these ids',
        )


def _place(data: ml_collections.ConfigDict) -> tuple[str, pathlib.Path]:
    return data.name, pathlib.Path(data.root).expanduser().resolve()


def _splits(stages: Sequence[Stage]) -> list[str]:
    """Returns the plain splits that the stages train or evaluate on."""
    inputs = [stage.eval_input for stage in stages]
    for stage in stages:
        if stage.train_input is not None:
            inputs += stage.train_input.with_unpaired()
    return sorted({name for one in inputs for name in split_names(one.split)})


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
    compared = {'name': (old.names, new.names)}
    if ids:
        compared['id'] = (old.ids, new.ids)
    if colors:
        compared['colour'] = (old.palette, new.palette)
    for kind, pair in compared.items():
        for number, (a, b) in enumerate(zip(*pair, strict=True)):
            if a != b:
                return f'another {kind} of class {number} ({old.names[number]!r}): {b!r}, which was {a!r}'
    return ''


def _short(names: Collection[str]) -> str:
    shown = list(names)[:6]
    return ', '.join(shown) + (', ...' if len(names) > len(shown) else '')


def split_differences(old: DataSpec, new: DataSpec, split: str) -> str:
    """Returns the first difference of a split in words, '' if there is none or the split is new.

    Records that are older than the digest compare by their numbers.
    """
    if split not in old.num_examples or split not in new.num_examples:
        return '' if split not in old.num_examples else f'no split {split!r}'
    facts = {
        'examples': (old.num_examples[split], new.num_examples[split]),
        'examples without a label': (
            old.num_unlabelled.get(split, 0),
            new.num_unlabelled.get(split, 0),
        ),
        'pixels (height, width) of the largest label': (old.max_size[split], new.max_size[split]),
        'unlabelled pixels': (old.void_pixels[split], new.void_pixels[split]),
    }
    pixels = zip(old.classes.names, old.class_pixels[split], new.class_pixels[split], strict=True)
    facts |= {f'pixels of class {name!r}': (a, b) for name, a, b in pixels}
    for fact, (a, b) in facts.items():
        if a != b:
            return f'split {split!r} has {b} {fact}, which were {a}'
    digests = old.digest.get(split, ''), new.digest.get(split, '')
    if all(digests) and digests[0] != digests[1]:
        return (
            f'split {split!r} has other content (digest {digests[1]}, which was {digests[0]}): '
            'as many examples, and as many pixels of each class, but images, labels or their order differ'
        )
    return ''


# --- results ----------------------------------------------------------------------------------------------------------


def made_by(
    config: ml_collections.ConfigDict, spec: DataSpec, stage: Stage, step: int
) -> dict[str, Any]:
    """Returns what the scores of a checkpoint depend on: its step, the digests of the data, and the config."""
    splits = split_names(stage.eval_input.split)
    return {
        'step': step,
        'data': {split: spec.digest.get(split, '') for split in splits},
        'config': config_lib.recorded(config),
    }


def still_hold(scores: Scores, now: Mapping[str, Any], config: ml_collections.ConfigDict) -> bool:
    """Returns whether stored scores are those that an evaluation would compute now.

    Args:
      scores: of a stage. Older ones do not say what they were made by, only the protocol.
      now: from `made_by`.
      config: of the run.
    """
    return scores[MADE_BY] == now if MADE_BY in scores else scored_as_asked(scores, config)
