"""Builds the config of a pipeline from its schema, with every key at its default."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax import pipelines
from segjax.errors import unknown_name
from segjax.schema import SHARED, Choice, Field


def defaults_of(schema: Mapping[str, Any] | Choice) -> dict[str, Any]:
    if isinstance(schema, Choice):
        return {'name': schema.default, **defaults_of(schema.options[schema.default])}
    return {k: v.default if isinstance(v, Field) else defaults_of(v) for k, v in schema.items()}


def schema_of(pipeline: str) -> dict[str, Any]:
    """The shared schema and what the pipeline adds to it."""
    return {**SHARED, **pipelines.load(pipeline).SCHEMA}


def defaults(pipeline: str) -> ml_collections.ConfigDict:
    """A locked config with every key at its default, for a config file to assign to."""
    config = ml_collections.ConfigDict(defaults_of({**schema_of(pipeline)}), convert_dict=True)
    config.pipeline = pipeline
    return config.lock()


def choose(config: ml_collections.ConfigDict, section: str, name: str) -> None:
    """Sets a `Choice` section to another name, with that one's keys at their defaults."""
    choice = schema_of(config.pipeline)[section]
    if name not in choice.options:
        raise unknown_name(f'config.{section}.name', name, choice.options)
    with config.unlocked():
        config[section] = ml_collections.ConfigDict(
            {'name': name, **defaults_of(choice.options[name])}
        )


def update(config: ml_collections.ConfigDict, **sections: Mapping[str, Any]) -> None:
    """`update(config, data=dict(name='camvid', threads=2), seed=1)`: assigns, refusing unknown keys."""
    for key, value in sections.items():
        if not isinstance(value, Mapping):
            config[key] = value
            continue
        for inner, v in value.items():
            if isinstance(v, Mapping):
                config[key][inner].update(v)
            else:
                setattr(config[key], inner, v)
