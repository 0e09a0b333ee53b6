"""Builds the config of a pipeline from its schema, with every key at its default."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from segjax import pipelines
from segjax.errors import unknown_name
from segjax.schema import DATA_SET_KEYS, SHARED, Choice, DataSection, Field

Schema = Mapping[str, Any]
"""{key: Field, Choice, or Schema of a section}."""


def defaults_of(schema: Schema | Choice) -> dict[str, Any]:
    """Returns {key: default} of a section, with a dict for each section inside it."""
    if isinstance(schema, Choice):
        return {'name': schema.default, **defaults_of(schema.options[schema.default])}
    values = {}
    for key, entry in schema.items():
        values[key] = entry.default if isinstance(entry, Field) else defaults_of(entry)
    return values


def schema_of(pipeline: str) -> dict[str, Any]:
    """Returns the shared schema and the keys that the pipeline adds."""
    return {**SHARED, **pipelines.load(pipeline).SCHEMA}


def data_sections(pipeline: str) -> tuple[str, ...]:
    """Returns the config sections that describe data sets. 'data' comes first."""
    schema = schema_of(pipeline)
    return tuple(name for name, entry in schema.items() if isinstance(entry, DataSection))


def of_all_data_sets(keys: Iterable[str], pipeline: str) -> tuple[str, ...]:
    """Returns paths of keys, and for each key of the data set `data` the keys of all data sets.

    Args:
      keys: paths of keys and sections, as 'data.root'.
      pipeline: that has the data sections.
    """
    further = data_sections(pipeline)[1:]
    all_keys = []
    for path in keys:
        section, _, key = path.partition('.')
        all_keys.append(path)
        if section == 'data' and key in DATA_SET_KEYS:
            all_keys += [f'{name}.{key}' for name in further]
    return tuple(all_keys)


def fields_of(choice: Choice, name: str) -> dict[str, Field]:
    """Returns {key: Field} of a section that chooses an option by name, `name` included."""
    return {'name': Field(choice.default, choice.doc), **choice.options[name]}


def field_at(config: ml_collections.ConfigDict, path: Sequence[str]) -> Field | None:
    """Returns the Field of a key of a config, or None for a section and for an unknown key.

    Args:
      config: names the pipeline and the options of choices.
      path: sections and key, as ('optim', 'eps').
    """
    entry: Any = schema_of(config.pipeline)
    values: Any = config
    for name in path:
        if isinstance(entry, Choice):
            entry = fields_of(entry, values.name)
        if isinstance(entry, Field) or name not in entry:
            return None
        entry = entry[name]
        values = values[name]
    return entry if isinstance(entry, Field) else None


def defaults(pipeline: str) -> ml_collections.ConfigDict:
    """Returns a locked config with every key at its default, for a config file to assign to."""
    config = ml_collections.ConfigDict(defaults_of(schema_of(pipeline)), convert_dict=True)
    config.pipeline = pipeline
    return config.lock()


def choose(config: ml_collections.ConfigDict, section: str, name: str) -> None:
    """Sets a `Choice` section to another name, with all keys of that name at their defaults.

    Args:
      config: is changed.
      section: path of the section, as 'model' or 'painter.model'.
      name: of an option.

    Raises:
      InputError: the choice has no such name.
    """
    choice = entry_at(schema_of(config.pipeline), section.split('.'))
    if name not in choice.options:
        raise unknown_name(f'config.{section}.name', name, choice.options)
    outer, _, last = section.rpartition('.')
    values = config
    for key in filter(None, outer.split('.')):
        values = values[key]
    with config.unlocked():
        values[last] = ml_collections.ConfigDict(
            {'name': name, **defaults_of(choice.options[name])}
        )


def entry_at(schema: Schema, path: Sequence[str]) -> Any:
    """Returns the entry of a schema at a path that leads through sections without a choice."""
    entry: Any = schema
    for key in path:
        entry = entry[key]
    return entry


def update(config: ml_collections.ConfigDict, **sections: Any) -> None:
    """Assigns keys of a config: `update(config, data=dict(threads=2), seed=1)`.

    Raises:
      AttributeError: an unknown key.
    """
    for section, value in sections.items():
        if not isinstance(value, Mapping):
            config[section] = value
            continue
        for key, inner in value.items():
            if isinstance(inner, Mapping):
                config[section][key].update(inner)
            else:
                setattr(config[section], key, inner)
