"""Checks every key and value of a config before anything compiles."""

import ml_collections

from segjax.config.tree import schema_of
from segjax.core import paths
from segjax.errors import InputError, unknown_name
from segjax.pretrained.files import HUB, SUFFIXES, is_weights
from segjax.schema import SHARED, Choice, Field, plain, typed_text


def walk(schema, values, path):
    """Yields (path, Field, value); raises for keys that are in only one of the two."""
    if isinstance(schema, Choice):
        if values['name'] not in schema.options:
            raise unknown_name(f'config.{path}name', values['name'], schema.options)
        schema = {'name': Field('', schema.doc), **schema.options[values['name']]}
    for key in values:
        if key not in schema:
            raise unknown_name(f'config.{path}{key}', key, schema)
    for key, entry in schema.items():
        if key not in values:
            raise InputError(
                f'config.{path}{key}',
                got='no such key',
                expected=getattr(entry, 'doc', 'a section'),
                fix='start from segjax.config.defaults(pipeline)',
            )
        if isinstance(entry, Field):
            yield f'config.{path}{key}', entry, values[key]
        else:
            yield from walk(entry, values[key], f'{path}{key}.')


def typed_default(where: str, field: Field) -> str:
    """Returns the argument that sets a key to its default."""
    return f'the default, --{where}={typed_text(field.default)}'


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every key and value against the schema; raises InputError at the first that is wrong."""
    if not isinstance(config.pipeline, str):
        got = f'{config.pipeline!r} ({type(config.pipeline).__name__})'
        raise InputError(
            'config.pipeline', got=got, expected='a name', fix='--config.pipeline=supervised'
        )
    for where, field, value in walk(schema_of(config.pipeline), config, ''):
        kind = float if isinstance(field.default, float) else type(field.default)
        if isinstance(value, bool) != (kind is bool) or not isinstance(
            value, (int, float) if kind is float else kind
        ):
            got = f'{value!r} ({type(value).__name__})'
            raise InputError(
                where,
                got=got,
                expected=f'a {kind.__name__}: {field.doc}',
                fix=typed_default(where, field),
            )
        complaint = plain(value) or field.check(value)
        if complaint:
            expected = f'{complaint}: {field.doc}'
            raise InputError(
                where, got=repr(value), expected=expected, fix=typed_default(where, field)
            )
    paths.check_config(config)
    _check_milestones(config)
    _check_init_from(config.init_from)


def _check_milestones(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a step schedule without milestones, and for milestones of another schedule."""
    for name, section in config.items():
        if not isinstance(section, ml_collections.ConfigDict) or 'milestones' not in section:
            continue
        is_step = section.schedule == 'step'
        if bool(section.milestones) != is_step:
            value = '(0.75,)' if is_step else '()'
            raise InputError(
                f'config.{name}.milestones',
                got=f'{tuple(section.milestones)} with schedule {section.schedule!r}',
                expected="at least one with schedule 'step', () with any other",
                fix=f'--config.{name}.milestones="{value}"',
            )


def _check_init_from(init_from: ml_collections.ConfigDict) -> None:
    """Raises InputError for a key about published weights beside a run folder, where it would change nothing.

    Without a path it may stay: a run that has begun needs no path any more.
    """
    if not init_from.path or is_weights(init_from.path):
        return
    for key in ('source', 'partial', 'preprocess'):
        default = SHARED['init_from'][key].default
        if init_from[key] != default:
            raise InputError(
                f'config.init_from.{key}',
                got=f'{init_from[key]!r} with {init_from.path}, which is no file of weights but a run folder',
                expected=f'{default!r}: the key is about published weights ({", ".join(SUFFIXES)}, or {HUB}...)',
                fix=f'--config.init_from.{key}={default}, or a file of weights as init_from.path',
            )
