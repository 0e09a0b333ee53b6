"""Reads and checks the JSON files of a run folder: config, data, start and scores.

A file may have been cut, edited or exchanged since a run wrote it. Every error names the file and a
fix. `core/files.py` reads and writes any JSON file. `core/text_files.py` parses text strictly.
"""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from segjax import config as config_lib
from segjax.core import files
from segjax.errors import InputError
from segjax.spec import DataSpec

# Names of files in a run folder. The start is files.START.
CONFIG = 'config.json'
SPEC = 'spec.json'
SPECS = 'specs.json'  # of additional data sets
ENVIRONMENT = 'environment.json'
SCORES = 'scores.json'  # of the run, and of each stage


def read_object(path: pathlib.Path, keys: Collection[str] = (), fix: str = '') -> dict[str, Any]:
    """Returns the object in a JSON file.

    Args:
      path: of the file.
      keys: required keys of the object.
      fix: for the errors.

    Raises:
      InputError: no file, no JSON, no object, or a required key is absent.
    """
    try:
        content = files.read_json(path)
    except InputError as error:
        raise error.replaced(fix=fix) from error
    expected = 'a JSON object' + (f' with {", ".join(map(repr, keys))}' if keys else '')
    if not isinstance(content, dict):
        got = f'{type(content).__name__} {content!r:.60}'
        raise InputError(str(path), got=got, expected=expected, fix=fix)
    missing = [key for key in keys if key not in content]
    if missing:
        raise InputError(str(path), got=f'no {missing[0]!r}', expected=expected, fix=fix)
    return content


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Returns the config in a run folder, as it was written.

    Args:
      path: of `config.json`.

    Raises:
      InputError: no config, or an unknown key.
    """
    fix = _restore(path)
    content = read_object(path, ('pipeline',), fix)
    try:
        config_lib.from_json(content)
    except InputError as error:
        raise error.replaced(where=f'{path}: {error.where}', fix=fix) from error
    return content


def read_spec(path: pathlib.Path) -> DataSpec:
    """Returns the specification of the data on which a run was trained.

    Args:
      path: of `spec.json`.

    Raises:
      InputError: no specification of data, or another version of it.
    """
    return _spec(path, read_object(path, ('classes', 'num_examples'), _restore(path)))


def read_specs(path: pathlib.Path) -> dict[str, DataSpec]:
    """Returns the specifications of the additional data sets of a run, by config section.

    Args:
      path: of `specs.json`.

    Raises:
      InputError: no specifications of data, or another version of them.
    """
    content = read_object(path, fix=_restore(path))
    return {section: _spec(path, fields) for section, fields in content.items()}


def _spec(path: pathlib.Path, content: Mapping[str, Any]) -> DataSpec:
    """Returns a specification that a file holds, or raises InputError for another version of it."""
    try:
        return DataSpec.from_json(content)
    except (TypeError, KeyError) as error:
        fix = f'use the version of segjax that wrote it, or {_restore(path)}'
        raise InputError(
            str(path), got=f'{error}', expected='the fields of DataSpec', fix=fix
        ) from error


def read_start(path: pathlib.Path, keys: Collection[str] = ('stages',)) -> dict[str, Any]:
    """Returns the start of a run (initialization.write_start). A run rewrites a missing file.

    Args:
      path: of `start.json`.
      keys: required keys.

    Raises:
      InputError: no start, or a key with a value of another type.
    """
    fix = _write_again(path)
    content = read_object(path, keys, fix)
    kinds = {'stages': list, 'init_from': dict, 'digest': str, 'steps': list, 'plans_before': list}
    kinds |= {'weights': dict, 'evaluates': str}
    for key, kind in kinds.items():
        if not isinstance(content.get(key, kind()), kind):
            got = f'{key}: {content[key]!r:.60}'
            raise InputError(str(path), got=got, expected=f'a {kind.__name__}', fix=fix)
    return content


def read_scores(path: pathlib.Path) -> dict[str, Mapping[str, Any]]:
    """Returns the scores of a run, or of a stage. A finished run rewrites a missing file.

    Args:
      path: of `scores.json`.

    Raises:
      InputError: no file, or no JSON object in it.
    """
    return read_object(path, fix=_write_again(path))


def _restore(path: pathlib.Path) -> str:
    """Returns the fix for a file that only a copy can replace."""
    start = f'--workdir NEW --config.init_from.path={path.parent}'
    return f'take the file from a copy of the folder, or {start}'


def _write_again(path: pathlib.Path) -> str:
    """Returns the fix for a file that training replaces."""
    return f'rm {path}; training writes it again'
