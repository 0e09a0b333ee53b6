"""Prints docs/config.md, the list of all config keys, from the schemas of the pipelines.

`python -m segjax.config.reference > docs/config.md` renews the file.
"""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

from segjax import pipelines
from segjax.schema import SHARED, Choice, DataSection, Field, OneOf

COMMAND = 'python -m segjax.config.reference > docs/config.md'

INTRODUCTION = f"""# Config keys

This page is generated from the schemas by `{COMMAND}`.

A key is set in a config file (`config.optim.eps = 1e-7`) or on the command line
(`--config.optim.eps=1e-7`). A tuple needs quotes there: `--config.data.eval_size="(256, 512)"`.
`--mode config` prints these keys with the values of one config.

A section with a key `name` chooses one of several options, each with keys of its own.
`--config.model.name=fcn` sets all keys of the option `fcn` to their defaults.
"""

Schema = Mapping[str, Any]
Row = tuple[str, str, str]
"""Key, default and meaning."""


def text() -> str:
    """Returns the content of docs/config.md."""
    added = {}
    for name in sorted(pipelines.REGISTRY):
        added[name] = without_inner_sections(pipelines.load(name).SCHEMA)
    common = common_sections(added.values())
    parts = [INTRODUCTION, '## Keys of all pipelines\n', _table(_rows(_fields(SHARED)))]
    for name, entry in SHARED.items():
        if not isinstance(entry, Field):
            parts += [f'### {name}\n', _body(name, entry)]
    parts.append('## Sections of several pipelines\n')
    for name, entry in common.items():
        parts += [f'### {name}\n', _body(name, entry)]
    for pipeline, schema in added.items():
        parts += [f'## Pipeline {pipeline}\n', _pipeline(schema, common)]
    return '\n'.join(parts)


def without_inner_sections(schema: Schema) -> dict[str, Any]:
    """Returns a schema in which sections of sections are sections, as 'painter.model'."""
    flat: dict[str, Any] = {}
    for name, entry in schema.items():
        if isinstance(entry, Field | Choice | DataSection):
            flat[name] = entry
            continue
        flat[name] = _fields(entry)
        inner = {f'{name}.{key}': entry[key] for key in entry if key not in flat[name]}
        flat |= without_inner_sections(inner)
    return flat


def common_sections(schemas: Iterable[Schema]) -> dict[str, Schema | Choice]:
    """Returns the sections that occur more than once, by the name of their first occurrence.

    Occurrences outside of sections come first.
    """
    firsts: dict[str, tuple[str, Schema | Choice]] = {}
    counts: collections.Counter[str] = collections.Counter()
    entries = [item for schema in schemas for item in schema.items()]
    for name, entry in sorted(entries, key=lambda item: item[0].count('.')):
        if not isinstance(entry, Field):
            body = _body('', entry)
            firsts.setdefault(body, (name, entry))
            counts[body] += 1
    return dict(firsts[body] for body, count in counts.items() if count > 1)


def _pipeline(schema: Schema, common: Mapping[str, Schema | Choice]) -> str:
    """Returns the keys that a pipeline adds. A section of several pipelines is only named."""
    same = {_body('', entry): name for name, entry in common.items()}
    rows = []
    sections = []
    for name, entry in schema.items():
        if isinstance(entry, Field):
            rows += _rows({name: entry})
            continue
        original = same.get(_body('', entry))
        if isinstance(entry, Choice):
            kin = original or _kin(entry, common)
            meaning = f'{entry.doc} See the options of `{kin or name}`.'
            rows.append((f'{name}.name', _code(repr(entry.default)), meaning))
            if original is None:
                sections += [f'### {name}\n', _options(entry, kin, common)]
        elif original is None:
            sections += [f'### {name}\n', *_meaning(entry), _body(name, entry)]
        else:
            meaning = ' '.join([*_meaning(entry), f'A section with the keys of `{original}`.'])
            rows.append((name, '', meaning.replace('\n', '')))
    return '\n'.join([_table(rows), *sections] if rows else sections)


def _meaning(entry: Schema) -> list[str]:
    """Returns the meaning of a data section as a paragraph, nothing for any other section."""
    doc = entry.doc if isinstance(entry, DataSection) else ''
    return [f'{doc}\n'] if doc else []


def _kin(entry: Choice, common: Mapping[str, Schema | Choice]) -> str | None:
    """Returns the common section with the same options, of which only defaults differ, or None."""
    for name, other in common.items():
        if isinstance(other, Choice) and set(other.options) == set(entry.options):
            return name
    return None


def _options(entry: Choice, kin: str | None, common: Mapping[str, Schema | Choice]) -> str:
    """Returns the options of a choice, or only those that differ from a common section."""
    if kin is None:
        return _body('', entry)
    known = _body('', common[kin]).splitlines()
    header, rule, *lines = _body('', entry).splitlines()
    differing = [line for line in lines if line not in known]
    return '\n'.join(
        [f'Options with other defaults than in `{kin}`:\n', header, rule, *differing, '']
    )


def _body(name: str, entry: Schema | Choice) -> str:
    """Returns the table of a section: its keys, or the options of a choice with their keys."""
    if not isinstance(entry, Choice):
        return _table(_rows(entry, f'{name}.'))
    lines = ['| option | key | default | meaning |', '|---|---|---|---|']
    for option, keys in entry.options.items():
        if not keys:
            lines.append(f'| {_code(option)} | | | |')
        for key, default, meaning in _rows(keys):
            lines.append(f'| {_code(option)} | {_code(key)} | {default} | {_escaped(meaning)} |')
    return '\n'.join(lines) + '\n'


def _fields(schema: Schema) -> dict[str, Field]:
    """Returns the keys of a schema that are in no section."""
    return {key: entry for key, entry in schema.items() if isinstance(entry, Field)}


def _rows(schema: Schema, path: str = '') -> list[Row]:
    """Returns a row for each key of a schema, the keys of inner sections included."""
    rows = []
    for key, entry in schema.items():
        if isinstance(entry, Field):
            meaning = entry.doc
            if isinstance(entry.check, OneOf):
                meaning += ' One of ' + ', '.join(map(_code, entry.check.names)) + '.'
            rows.append((f'{path}{key}', _code(repr(entry.default)), meaning))
        elif isinstance(entry, Choice):
            rows.append((f'{path}{key}.name', _code(repr(entry.default)), entry.doc))
            for option, keys in entry.options.items():
                for name, default, meaning in _rows(keys, f'{path}{key}.'):
                    rows.append((name, default, f'Option {_code(option)}: {meaning}'))
        else:
            rows += _rows(entry, f'{path}{key}.')
    return rows


def _table(rows: Iterable[Row]) -> str:
    """Returns a Markdown table of keys."""
    lines = ['| key | default | meaning |', '|---|---|---|']
    for key, default, meaning in rows:
        lines.append(f'| {_code(key)} | {default} | {_escaped(meaning)} |')
    return '\n'.join(lines) + '\n'


def _code(value: str) -> str:
    return f'`{_escaped(value)}`'


def _escaped(value: str) -> str:
    """Returns a text whose bars do not end a cell of a Markdown table."""
    return value.replace('|', r'\|')


if __name__ == '__main__':
    print(text(), end='')
