"""`--mode config`: prints the config of a run with the meaning of every key.

It needs no data and no device. Nothing is compiled.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections

from segjax import config as config_lib
from segjax.config import validation
from segjax.schema import Field

LONGEST = 24
"""Characters of the longest value that shares a line with the meaning of its key."""


class Line(NamedTuple):
    """A key of a section: its name, its value as text, its meaning, and whether it was changed."""

    key: str
    value: str
    meaning: str
    changed: bool


def main(config: ml_collections.ConfigDict) -> None:
    """Checks a config and prints it.

    Raises:
      InputError: a wrong key or value.
    """
    config_lib.validate(config)
    print(describe(config), flush=True)


def describe(config: ml_collections.ConfigDict) -> str:
    """Returns a table of all keys by section: key, value and meaning.

    A `*` marks changed values.
    """
    sections = _sections(config)
    lines = [line for section in sections.values() for line in section]
    key_width = max(len(line.key) for line in lines)
    value_width = max(len(line.value) for line in lines if len(line.value) <= LONGEST)
    texts = ['Values that differ from the default are marked with *.']
    for name, section in sections.items():
        texts.append('')
        if name:
            texts.append(name)
        for line in section:
            mark = '*' if line.changed else ' '
            start = f'{mark} {line.key:{key_width}}  '
            if len(line.value) <= value_width:
                texts.append(f'{start}{line.value:{value_width}}  {line.meaning}')
            else:
                texts.append(f'{start}{line.value}')
                texts.append(' ' * (len(start) + value_width + 2) + line.meaning)
    return '\n'.join(texts)


def _sections(config: ml_collections.ConfigDict) -> dict[str, list[Line]]:
    """Returns {section: lines of its keys}. Keys without a section are in the section ''."""
    sections: dict[str, list[Line]] = {}
    for where, field, value in _keys(config):
        section, _, key = where.rpartition('.')
        line = Line(key, repr(value), field.doc, _is_changed(where, field, value))
        sections.setdefault(section, []).append(line)
    return sections


def _keys(config: ml_collections.ConfigDict) -> Iterator[tuple[str, Field, Any]]:
    """Yields (section.key, Field, value) for every key of a config."""
    schema: Mapping[str, Any] = config_lib.schema_of(config.pipeline)
    for where, field, value in validation.walk(schema, config, ''):
        yield where.removeprefix('config.'), field, value


def _is_changed(where: str, field: Field, value: Any) -> bool:
    """Returns whether a value differs from the default. The pipeline itself has no default."""
    return where != 'pipeline' and value != field.default
