"""Compares what the rows of a table begin from: the start is part of a row.

A resumed run may drop its `init_from.path`. A comparison of rows may not.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax import config as config_lib
from segjax.core import files
from segjax.errors import InputError
from segjax.modes.table.spec import Row
from segjax.train import initialization
from segjax.train import stored as stored_files

KEYS = ('nets', 'source', 'partial')
"""Keys of config.init_from, besides the path, that change what a run begins from."""


def recorded(folder: pathlib.Path, stored: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Returns what a run began from: the section `init_from`, and the digest of the parameters ('' if unknown).

    Args:
      folder: the run folder.
      stored: the config that it keeps, for runs that are older than start.json.
    """
    path = folder / files.START
    if path.exists():
        content = stored_files.read_start(path, ('init_from', 'digest'))
        return content['init_from'], content['digest']
    return config_lib.to_json(config_lib.from_json(stored))['init_from'], ''


def differences(
    row: Row,
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    stored: Mapping[str, Any],
) -> list[str]:
    """Returns what differs between the start of a finished run and the start that its row wants now.

    A file of weights, or a run folder, is known by the digest of its arrays: it may have moved. If the digest cannot
    be computed any more, the path decides. A row with `after` is known by the row that it begins from, and by the
    digest of that row's run, which may have been trained anew.

    Args:
      row: of the table.
      config: that the row wants.
      folder: the run folder.
      stored: the config that the run folder keeps.
    """
    old, known = recorded(folder, stored)
    new = config_lib.to_json(config)['init_from']
    if not old['path'] and not new['path']:
        return []
    found = [
        f'init_from.{key}: {old[key]!r}, now {new[key]!r}' for key in KEYS if old[key] != new[key]
    ]
    if not _same_parameters(row, old['path'], known, new):
        now = digest(new['path'], new['source'])
        shown = [
            path + (f' ({digits})' if digits else '')
            for path, digits in ((old['path'], known), (new['path'], now))
        ]
        found.insert(0, f'init_from.path: {shown[0]!r}, now {shown[1]!r}')
    return found


def _same_parameters(row: Row, old: str, known: str, new: Mapping[str, Any]) -> bool:
    if not old or not new['path']:
        return old == new['path']
    if row.after:
        tail = -2 - row.after.count(
            '/'
        )  # row, seed and perhaps stage: the folder of the table may have moved
        same_place = pathlib.Path(old).parts[tail:] == pathlib.Path(new['path']).parts[tail:]
    else:
        same_place = _absolute(old) == _absolute(new['path'])
    now = digest(new['path'], new['source'])
    if not now or not known:
        return same_place
    return now == known and (same_place or not row.after)


def _absolute(path: str) -> pathlib.Path:
    return pathlib.Path(path).expanduser().absolute()


def digest(path: str, source: str) -> str:
    """Returns the digest of what is at a path now; '' if nothing can be read there."""
    here = _absolute(path)
    return _digest(path, source, here.stat().st_mtime_ns if here.exists() else 0) if path else ''


@functools.cache
def _digest(path: str, source: str, _: int) -> str:
    init_from = ml_collections.ConfigDict({'path': path, 'source': source})
    try:
        return initialization.digest(initialization.reader(init_from)())
    except InputError:
        return ''


def text(
    row: Row,
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    stored: Mapping[str, Any] | None,
) -> str:
    """Returns what a row begins from, in words: 'random', 'row common', 'weights.pth (0123456789ab)'.

    Args:
      row, config, folder: as in `differences`.
      stored: the config that the run folder keeps; None if there is none, or of another experiment.
    """
    if row.after:
        return f'row {row.after}'
    init_from, known = recorded(folder, stored) if stored else (config.init_from, '')
    if not init_from['path']:
        return 'random'
    return pathlib.Path(init_from['path']).name + (f' ({known})' if known else '')
