"""Configs as run folders and scores store them: JSON, completion of old configs, and comparison."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ml_collections

from segjax.config.tree import Schema, defaults_of, of_all_data_sets, schema_of
from segjax.config.validation import validate
from segjax.errors import InputError
from segjax.schema import RENAMED, Choice, Field
from segjax.spec import with_tuples


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as dicts, lists and scalars, as `config.json` and checkpoints store it."""
    return json.loads(json.dumps(config.to_dict()))


def from_json(stored: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that a run folder stores. It is checked and locked.

    Lists become tuples again. Old names of keys are replaced. Keys that are younger than the run
    get the value of the older behaviour.

    Raises:
      InputError: the stored config has a wrong key or value.
    """
    config = ml_collections.ConfigDict(_completed(with_tuples(stored))).lock()
    validate(config)
    return config


def _before(entry: Field | Choice | Schema) -> Any:
    """Returns the value of a key, or of a section, in runs that are older than the key."""
    if isinstance(entry, Choice):
        return defaults_of(entry)
    if isinstance(entry, Field):
        return entry.default if entry.before is None else entry.before
    return {key: _before(inner) for key, inner in entry.items()}


def _completed(
    stored: Mapping[str, Any], schema: Schema | Choice | None = None, path: str = ''
) -> dict[str, Any]:
    """Returns a stored config with the present names and all present keys.

    A key that is younger than the config gets the value of the older behaviour.

    Args:
      stored: a config, or a section of it.
      schema: of the section; None for a whole config.
      path: of the section, with a point behind it; '' for a whole config.
    """
    if schema is None:
        schema = schema_of(_text_in(stored, 'pipeline', path))
    if isinstance(schema, Choice):
        schema = schema.options.get(_text_in(stored, 'name', path), {})
    if not isinstance(stored, Mapping):
        raise InputError(f'config.{path[:-1]}', got=repr(stored), expected='a section with keys')
    completed = {}
    for key, value in stored.items():
        new_key = RENAMED.get(f'{path}{key}', key).rpartition('.')[2]
        completed[new_key if key not in schema and new_key in schema else key] = value
    for key, entry in schema.items():
        if key not in completed:
            completed[key] = _before(entry)
        elif not isinstance(entry, Field):
            completed[key] = _completed(completed[key], entry, f'{path}{key}.')
    return completed


def _text_in(section: Any, key: str, path: str) -> str:
    """Returns the name under a key of a stored section, which determines the schema."""
    value = section.get(key) if isinstance(section, Mapping) else section
    if not isinstance(value, str) or not isinstance(section, Mapping):
        raise InputError(
            f'config.{path}{key}', got=repr(value), expected='a section with this key, a name'
        )
    return value


FREE = (
    'logging',
    'parallel',
    'predict',
    'evaluate',
    'bench',
    'init_from',
    'data.root',
    'data.classes',
    'data.class_map',
    'data.lists',
    'data.cache',
    'data.threads',
    'data.workers',
    'data.prefetch',
)
"""Keys that may change when a run is resumed, because they do not change the training.

For data.root, data.classes, data.class_map and data.lists, the contents of the files count
(segjax/train/same_run.py). Keys of the data set `data` stand for those keys of all data sections.
"""

FREE_IN = {
    'train': FREE,
    'evaluate': (
        *FREE,
        'data.name',
        'data.world',
        'data.rgbd',
        'data.train_split',
        'data.eval_split',
        'data.eval_size',
        'probes',
        'testing',
        'regions',
        'flow',
        'features.num_codes',
        'features.bins',
    ),
    'predict': tuple(
        key
        for key in (*FREE, 'data.eval_split', 'data.eval_size', 'testing')
        if key not in ('data.class_map', 'data.lists')
    ),
}
"""Keys that may differ from the config of a run folder, by mode.

Evaluation may measure a checkpoint on other images, at another size, with other injectors, with
other settings of the test (`testing`), with other regions and another flow of the images, or with
other settings of the statistics of features. Any other key would change
the meaning of the net.
"""

UNRECORDED = (
    'logging',
    'bench',
    'predict',
    'init_from',
    'data.cache',
    'data.threads',
    'data.workers',
    'data.prefetch',
)
"""Keys that change no score of a checkpoint. start.json tells the source of initial parameters."""


def recorded(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as scores keep it, without the keys that change no score."""
    content = to_json(config)
    for path in UNRECORDED:
        *sections, key = path.split('.')
        inner = content
        for section in sections:
            inner = inner[section]
        del inner[key]
    return content


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str = '', free: Collection[str] = FREE
) -> dict[str, tuple[Any, Any]]:
    """Returns {key: (old value, new value)} for every key that differs and is not free.

    Args:
      old, new: two configs as `to_json` returns them, or the same section of both.
      path: of the section, with a point behind it; '' for whole configs.
      free: keys and sections that are not compared. The default belongs to a resumed run.
    """
    if not path and _text_in(old, 'pipeline', '') == new['pipeline']:
        old = to_json(from_json(old))
    if not path:
        free = of_all_data_sets(free, new['pipeline'])
    differing = {}
    for key in sorted(set(old) | set(new)):
        full_key = f'{path}{key}'
        if full_key in free:
            continue
        before = old.get(key)
        after = new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            differing |= changes(before, after, full_key + '.', free)
        elif before != after:
            differing[full_key] = (before, after)
    return differing


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str] = FREE
) -> list[str]:
    """Returns 'train.batch_size: 8, now 16' for every key of `changes`."""
    pairs = changes(old, new, free=free)
    return [f'{key}: {before!r}, now {after!r}' for key, (before, after) in pairs.items()]


def another_config(differences: Sequence[str]) -> str:
    """Returns what a folder holds whose config has these `differences`, for an error."""
    remaining = f' and {len(differences) - 5} more' if differences[5:] else ''
    return 'a run of another config: ' + '; '.join(differences[:5]) + remaining
