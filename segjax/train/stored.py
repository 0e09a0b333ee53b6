"""Reads the JSON files of a run folder, which may be cut, edited or exchanged since a run wrote them."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from segjax import config as config_lib
from segjax.core import files
from segjax.errors import InputError
from segjax.spec import DataSpec


def read_object(path: pathlib.Path, keys: Collection[str] = (), fix: str = '') -> dict[str, Any]:
    """Returns the object in a JSON file.

    Args:
      path: of the file.
      keys: which the object must have.
      fix: for the errors.

    Raises:
      InputError: no file, no JSON, no object, or no such key.
    """
    try:
        content = files.read_json(path)
    except InputError as error:
        raise error.replaced(fix=fix) from error
    expected = 'a JSON object' + (f' with {", ".join(map(repr, keys))}' if keys else '')
    if not isinstance(content, dict):
        raise InputError(
            str(path), got=f'{type(content).__name__} {content!r:.60}', expected=expected, fix=fix
        )
    missing = [key for key in keys if key not in content]
    if missing:
        raise InputError(str(path), got=f'no {missing[0]!r}', expected=expected, fix=fix)
    return content


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Returns the config that a run folder keeps, as it was written.

    Args:
      path: of `config.json`.

    Raises:
      InputError: no config, or a key that no config of its pipeline has.
    """
    fix = _restore(path)
    content = read_object(path, ('pipeline',), fix)
    try:
        config_lib.from_json(content)
    except InputError as error:
        raise error.replaced(where=f'{path}: {error.where}', fix=fix) from error
    return content


def read_spec(path: pathlib.Path) -> DataSpec:
    """Returns the data that a run folder was trained on.

    Args:
      path: of `spec.json`.

    Raises:
      InputError: no specification of data, or that of another version.
    """
    fix = _restore(path)
    content = read_object(path, ('classes', 'num_examples'), fix)
    try:
        return DataSpec.from_json(content)
    except (TypeError, KeyError) as error:
        fix = f'use the version of segjax that wrote it, or {fix}'
        raise InputError(
            str(path), got=f'{error}', expected='the fields of DataSpec', fix=fix
        ) from error


def read_start(path: pathlib.Path, keys: Collection[str] = ('stages',)) -> dict[str, Any]:
    """Returns what a run began from. A run writes the file again where it is missing.

    Args:
      path: of `start.json`.
      keys: which it must have.
    """
    fix = _write_again(path)
    content = read_object(path, keys, fix)
    kinds = {'stages': list, 'init_from': dict, 'digest': str, 'steps': list, 'plans_before': list}
    for key, kind in kinds.items():
        if not isinstance(content.get(key, kind()), kind):
            got = f'{key}: {content[key]!r:.60}'
            raise InputError(str(path), got=got, expected=f'a {kind.__name__}', fix=fix)
    return content


def read_scores(path: pathlib.Path) -> dict[str, Mapping[str, Any]]:
    """Returns the scores of a run, or of a stage. A finished run writes the file again where it is missing.

    Args:
      path: of `scores.json`.
    """
    return read_object(path, fix=_write_again(path))


def _restore(path: pathlib.Path) -> str:
    folder = path.parent
    return f'take the file from a copy of the folder, or --workdir NEW --config.init_from.path={folder}'


def _write_again(path: pathlib.Path) -> str:
    return f'rm {path}; training writes it again'
