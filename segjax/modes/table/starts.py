"""Compares the starts of the rows of a table: the parameters from which their runs begin.

The start is part of a row. A resumed run may drop its `init_from.path`, a row of a table may not,
because rows with different starts do not compare.
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
from segjax.train import initialization, net_sources
from segjax.train import stored as stored_files

KEYS = ('nets', 'source', 'partial')
"""Keys of config.init_from in addition to the path that change the start of a run."""


def recorded(folder: pathlib.Path, stored: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Returns the start of a run: its section `init_from`, and the digest of the parameters.

    The digest is '' if it is unknown.

    Args:
      folder: the run folder.
      stored: the config in the run folder, which is used for runs older than start.json.
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
    """Returns the differences between the start of a finished run and the start of its row now.

    A file of weights, or a run folder, is known by the digest of its arrays, because it may have
    moved. If the digest cannot be computed any more, the path decides. A row with `after` is known
    by the row that it begins from and by the digest of that row's run, which may have been trained
    anew.

    Args:
      row: of the table.
      config: of the row.
      folder: the run folder.
      stored: the config in the run folder.
    """
    old, old_digest = recorded(folder, stored)
    new = config_lib.to_json(config)['init_from']
    if row.evaluates:
        return _evaluated_differences(row, folder, old_digest)
    changes = _net_changes(old, _nets(folder), config)
    if not old['path'] and not new['path']:
        return changes
    if not _same_parameters(row, old['path'], old_digest, new):
        before = _with_digest(old['path'], old_digest)
        now = _with_digest(new['path'], digest(new['path'], new['source']))
        changes.append(f'init_from.path: {before!r}, now {now!r}')
    for key in KEYS:
        if old[key] != new[key]:
            changes.append(f'init_from.{key}: {old[key]!r}, now {new[key]!r}')
    return changes


def _evaluated_differences(row: Row, folder: pathlib.Path, old_digest: str) -> list[str]:
    """Returns whether the run that a row has evaluated was trained anew since, in words.

    Args:
      row: evaluates the run of another row.
      folder: of the evaluation, `{table}/{row}/seed_{seed}`.
      old_digest: of the parameters that were evaluated; '' if unknown.
    """
    new_digest = digest(str(evaluated_folder(row, folder)), '')
    if not new_digest or not old_digest or new_digest == old_digest:
        return []
    return [f'run of row {row.evaluates}: {old_digest!r}, now {new_digest!r}']


def evaluated_folder(row: Row, folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the run that a row evaluates.

    Args:
      row: evaluates the run of another row.
      folder: of the evaluation, `{table}/{row}/seed_{seed}`.
    """
    return folder.parents[1] / row.evaluates / folder.name


def _nets(folder: pathlib.Path) -> dict[str, Mapping[str, str]]:
    """Returns the start of each net that has a row in init_from.sources, from start.json.

    {net: {'pattern', 'path', 'digest'}}. It is {} for a run without such rows.
    """
    path = folder / files.START
    starts = stored_files.read_start(path).get('weights', {}) if path.exists() else {}
    return {net: start for net, start in starts.items() if start['pattern']}


def _net_changes(
    old: Mapping[str, Any],
    nets: Mapping[str, Mapping[str, str]],
    config: ml_collections.ConfigDict,
) -> list[str]:
    """Returns the differences between the sources of single nets in a finished run and now.

    Args:
      old: the section init_from of the finished run.
      nets: from `_nets`.
      config: of the row.
    """
    new = config_lib.to_json(config)['init_from']
    before = [list(row) for row in old.get('sources', ())]
    changes = []
    if (before or new['sources']) and old['partial'] != new['partial']:
        changes.append(f'init_from.partial: {old["partial"]!r}, now {new["partial"]!r}')
    if before == new['sources'] == [] or (before == new['sources'] and not nets):
        return changes
    if not nets:
        return [*changes, f'init_from.sources: {before!r}, now {new["sources"]!r}']

    # Rows may be written in another way. The parameters of each net decide.
    rows = initialization.open_net_sources(config.init_from)
    for net, start in nets.items():
        row = net_sources.of_net(rows, net)
        path = row.path if row else ''
        new_digest = digest(path, row.release) if row else ''
        if not path:
            is_same = False
        elif new_digest and start['digest']:
            is_same = new_digest == start['digest']
        else:
            is_same = _absolute(path) == _absolute(start['path'])
        if not is_same:
            source = _with_digest(start['path'], start['digest'])
            now = _with_digest(path, new_digest)
            changes.append(f'init_from.sources of {net}: {source!r}, now {now!r}')
    added = [row for row in rows if not any(net_sources.of_net([row], net) for net in nets)]
    changes += [f'init_from.sources of {row.pattern}: none, now {row.path!r}' for row in added]
    return changes


def _with_digest(path: str, digits: str) -> str:
    return path + (f' ({digits})' if digits else '')


def _same_parameters(row: Row, old: str, old_digest: str, new: Mapping[str, Any]) -> bool:
    """Returns whether a run began from the parameters that its row begins from now.

    Args:
      row: of the table.
      old: the path that the run began from.
      old_digest: of the parameters that were read there; '' if unknown.
      new: the section init_from of the row's config.
    """
    if not old or not new['path']:
        return old == new['path']
    if row.after:
        # Compare row, seed and perhaps stage alone: the folder of the table may have moved.
        tail = -2 - row.after.count('/')
        same_place = pathlib.Path(old).parts[tail:] == pathlib.Path(new['path']).parts[tail:]
    else:
        same_place = _absolute(old) == _absolute(new['path'])
    new_digest = digest(new['path'], new['source'])
    if not new_digest or not old_digest:
        return same_place
    return new_digest == old_digest and (same_place or not row.after)


def _absolute(path: str) -> pathlib.Path:
    return pathlib.Path(path).expanduser().absolute()


def digest(path: str, source: str) -> str:
    """Returns the digest of the arrays at a path; '' if nothing can be read there.

    Args:
      path: of a file of weights or a run folder.
      source: as config.init_from.source.
    """
    if not path:
        return ''
    absolute = _absolute(path)
    modified = absolute.stat().st_mtime_ns if absolute.exists() else 0
    return _digest(path, source, modified)


@functools.cache
def _digest(path: str, source: str, modified: int) -> str:
    """Computes `digest`. The time of the last change is part of the cache's key."""
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
    """Describes the start of a row: 'random', 'row common', 'weights.pth (0123456789ab)'.

    Args:
      row, config, folder: as in `differences`.
      stored: the config in the run folder; None if there is none, or one of another experiment.
    """
    if row.evaluates:
        return f'run of row {row.evaluates}'
    init_from, known_digest = recorded(folder, stored) if stored else (config.init_from, '')
    if row.after:
        start = f'row {row.after}'
    elif init_from['path']:
        start = _with_digest(pathlib.Path(init_from['path']).name, known_digest)
    else:
        start = 'random'
    nets = _nets(folder) if stored else {}
    if not nets:
        sources = init_from.get('sources', ())
        nets = {pattern: {'path': path, 'digest': ''} for pattern, path, *_ in sources}
    for net, source in nets.items():
        name = _with_digest(pathlib.Path(source['path']).name, source['digest'])
        start += f', {net} from {name}'
    return start
