"""Checks every key and value of a config before anything compiles."""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from segjax.config.arguments import KINDS
from segjax.config.tree import Schema, data_sections, fields_of, schema_of
from segjax.core import paths
from segjax.errors import InputError, unknown_name
from segjax.schema import SHARED, Choice, ExampleLists, Field, OneOf, plain, typed_text

Values = ml_collections.ConfigDict | Mapping[str, Any]


def walk(schema: Schema | Choice, values: Values, path: str) -> Iterator[tuple[str, Field, Any]]:
    """Yields (path, Field, value) for every key of a config, or of a section of it.

    Args:
      schema: of the section.
      values: of the section.
      path: of the section, with a point behind it; '' for a whole config.

    Raises:
      InputError: a key is in only one of schema and values.
    """
    if isinstance(schema, Choice):
        if values['name'] not in schema.options:
            raise unknown_name(f'config.{path}name', values['name'], schema.options)
        schema = fields_of(schema, values['name'])
    for key in values:
        if key not in schema:
            raise unknown_name(f'config.{path}{key}', key, schema)
    for key, entry in schema.items():
        if key not in values:
            raise InputError(
                f'config.{path}{key}',
                got='no such key',
                expected='a value' if isinstance(entry, Field) else 'a section',
                meaning=getattr(entry, 'doc', ''),
                fix='start from segjax.config.defaults(pipeline)',
            )
        if isinstance(entry, Field):
            yield f'config.{path}{key}', entry, values[key]
        else:
            yield from walk(entry, values[key], f'{path}{key}.')


def right_argument(where: str, field: Field, value: Any) -> str:
    """Returns an argument that sets a key to a right value.

    Args:
      where: the key, as 'config.optim.name'.
      field: of the key.
      value: the wrong value. A similar value is preferred to the default.
    """
    right = field.default
    if isinstance(field.check, OneOf | ExampleLists):
        right = field.check.nearest(value) or right
    return f'--{where}={typed_text(right)}'


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every key and value of a config against the schema of its pipeline.

    Raises:
      InputError: the first wrong key or value.
    """
    if not isinstance(config.pipeline, str):
        got = f'{config.pipeline!r} ({type(config.pipeline).__name__})'
        raise InputError(
            'config.pipeline',
            got=got,
            expected='a name',
            meaning=SHARED['pipeline'].doc,
            fix='--config.pipeline=supervised',
        )
    for where, field, value in walk(schema_of(config.pipeline), config, ''):
        _check_value(where, field, value)
    paths.check_config(config, data_sections(config.pipeline))
    schema = schema_of(config.pipeline)
    for section in data_sections(config.pipeline)[1:]:
        if not config[section].name:
            _check_same_data(section, schema[section], config[section])
    _check_milestones(config)
    _check_init_from(config.init_from)


def _check_value(where: str, field: Field, value: Any) -> None:
    """Raises InputError for a value of another type than the default, or with a complaint."""
    kind = type(field.default)
    # bool is a subclass of int, but true and false are no numbers. A float may be written as int.
    accepted = (int, float) if kind is float else kind
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, accepted):
        got = f'{value!r} ({type(value).__name__})'
        complaint = KINDS[kind]
    else:
        got = repr(value)
        complaint = plain(value) or field.check(value)
    if complaint:
        raise InputError(
            where,
            got=got,
            expected=complaint,
            meaning=field.doc,
            fix=right_argument(where, field, value),
        )


def _check_same_data(section: str, schema: Schema, values: Values) -> None:
    """Raises InputError for a changed key of a data section without a name.

    Such a section means `data` with all its keys, so the key would have no effect.

    Args:
      section: its name.
      schema: of the section.
      values: of the section.
    """
    for where, field, value in walk(schema, values, f'{section}.'):
        key = where.rpartition('.')[2]
        if key != 'name' and value != field.default:
            raise InputError(
                where,
                got=f'{value!r}, and config.{section}.name is empty',
                expected='the default: without a name the section means the data set of `data`',
                meaning=field.doc,
                fix=f'--config.{section}.name=NAME, the data set that has this {key}',
            )


def _check_milestones(config: ml_collections.ConfigDict) -> None:
    """Raises InputError unless exactly the schedule 'step' has milestones."""
    for name, section in config.items():
        if not isinstance(section, ml_collections.ConfigDict) or 'milestones' not in section:
            continue
        is_step = section.schedule == 'step'
        if bool(section.milestones) != is_step:
            value = (0.75,) if is_step else ()
            raise InputError(
                f'config.{name}.milestones',
                got=f'{tuple(section.milestones)} with schedule {section.schedule!r}',
                expected="at least one with schedule 'step', () with any other",
                fix=f'--config.{name}.milestones="{value}"',
            )


def _check_init_from(init_from: ml_collections.ConfigDict) -> None:
    """Raises InputError for a key about published weights next to a run folder.

    Such a key would have no effect. Without a path it is allowed, because a run that has begun
    needs no path.
    """
    if not init_from.path or paths.is_weights(init_from.path):
        return
    kinds = f'{", ".join(paths.WEIGHT_SUFFIXES)}, or {paths.HUB}...'
    # `partial` also holds for init_from.sources.
    keys = ('source', 'preprocess') if init_from.sources else ('source', 'partial', 'preprocess')
    for key in keys:
        field = SHARED['init_from'][key]
        if init_from[key] != field.default:
            raise InputError(
                f'config.init_from.{key}',
                got=f'{init_from[key]!r} with {init_from.path}, '
                'which is no file of weights but a run folder',
                expected=f'{field.default!r}: the key is about published weights ({kinds})',
                meaning=field.doc,
                fix=f'--config.init_from.{key}={field.default}, '
                'or a file of weights as init_from.path',
            )
