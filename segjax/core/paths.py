"""Checks paths of the user. They must be in a mounted file system, and may begin with `~`."""

import os
import pathlib
import re
import shlex
import sys
from collections.abc import Iterable
from typing import Any

from segjax.errors import InputError

HUB = 'hf:'
"""Start of the name of a file of the hub: hf:owner/name/file."""
WEIGHT_SUFFIXES = ('.safetensors', '.npz', '.pth', '.pth.tar', '.pt', '.bin', '.ckpt')
"""Endings of files of published weights."""
CAFFE = '.caffemodel'
"""Ending of weights that must be converted first."""

_MOUNTS = {'gs': 'gcsfuse {bucket} {mount}', 's3': 'mount-s3 {bucket} {mount}'}


def local(where: str, text: str) -> pathlib.Path:
    """Returns a path with its `~` replaced.

    Args:
      where: flag, config key or variable that holds the path, for errors.
      text: the path.

    Raises:
      InputError: an address such as gs://bucket/folder, `~` without a home folder, or bytes that
        are no text.
    """
    scheme, separator, rest = text.partition('://')
    if separator and re.fullmatch(r'[A-Za-z][A-Za-z0-9+.-]*', scheme):
        raise _address(where, text, scheme.lower(), rest)
    _check_text(where, text)
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        user = text.partition('/')[0]
        fix = f'{_flag(where)}=/some/folder' + ('' if user[1:] else ', or export HOME=/some/folder')
        raise InputError(
            where, got=f'{text}: no home folder is known', expected='a path', fix=fix
        ) from None


BEST = ':best'
"""End of the path of a run whose best checkpoint is meant, and not its newest."""


def is_weights(path: str) -> bool:
    """Returns whether a path names a file of weights, local or on the hub, not a run folder."""
    return path.startswith(HUB) or path.endswith((*WEIGHT_SUFFIXES, CAFFE))


def check_writable(where: str, folder: pathlib.Path) -> None:
    """Raises InputError unless a folder, or its nearest existing parent, can be written to."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        got = f'{nearest}, which is a file'
        raise InputError(
            where,
            got=got,
            expected='a folder, or a place for one',
            fix=f'another {where}, as {_flag(where)}=some/folder',
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        got = f'no permission to write to {nearest}'
        fix = (
            f'another {where}, as {_flag(where)}=some/folder; '
            f'in a container, mount {nearest} writable'
        )
        raise InputError(where, got=got, expected='a folder to write to', fix=fix)


def make_folder(where: str, folder: pathlib.Path) -> None:
    """Makes a folder with its parents. Raises InputError if the file system refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            where,
            got=f'{folder}: {error.strerror}',
            expected='a folder to write to',
            fix=f'another {where}, as {_flag(where)}=some/folder',
        ) from None


def check_config(config: Any, data_sections: Iterable[str] = ('data',)) -> None:
    """Raises InputError if a key of a config is an address instead of a path.

    Args:
      config: of a run.
      data_sections: names of the sections that describe data sets.
    """
    keys = [('data', 'cache'), ('init_from', 'path')]
    for section in data_sections:
        keys += [(section, key) for key in ('root', 'classes', 'class_map')]
    for section, key in keys:
        if config[section][key]:
            local(f'config.{section}.{key}', config[section][key])
    for pattern, path, *_ in config['init_from']['sources']:
        where = 'config.init_from.sources'
        try:
            local(where, path)
        except InputError as error:
            # The value of the key is a tuple, of which the path is a part.
            fix = error.fix.replace(f'{_flag(where)}=', f'{_flag(where)} with {pattern!r} from ')
            raise error.replaced(fix=fix) from error


def _check_text(where: str, text: str) -> None:
    """Raises InputError for a path that the libraries for checkpoints would change."""
    encoding = sys.getfilesystemencoding()
    if text.isascii() or (encoding == 'utf-8' and not re.search('[\ud800-\udfff]', text)):
        return
    fix = 'a path of ASCII characters' + ('' if encoding == 'utf-8' else ', or export PYTHONUTF8=1')
    raise InputError(
        where, got=f'{text!r} in the encoding {encoding}', expected='a path in UTF-8', fix=fix
    )


def _flag(where: str) -> str:
    """Returns the word before `=` on a command line: a flag, or the name of a variable."""
    return where.removeprefix('$') if where.startswith(('--', '$')) else f'--{where}'


def _address(where: str, text: str, scheme: str, rest: str) -> InputError:
    """Returns the error for an address.

    Args:
      where: flag, config key or variable that holds the address.
      text: the address.
      scheme: its part before ://, in small letters.
      rest: its part behind ://.
    """
    flag = _flag(where)
    bucket, _, folder = rest.partition('/')
    mount = f'/mnt/{bucket}'
    if scheme == 'file':
        fix = f'{flag}={shlex.quote("/" + rest.lstrip("/"))}'
    elif scheme == 'hf':
        fix = f'{flag}={shlex.quote("hf:" + rest)}'
    elif scheme in ('http', 'https'):
        fix = f'download it, then {flag}={shlex.quote(rest.rsplit("/", 1)[-1] or "FILE")}'
    else:
        command = _MOUNTS.get(scheme, 'mount the storage at {mount}').format(
            bucket=bucket, mount=mount
        )
        fix = f'{command}, then {flag}={shlex.quote(f"{mount}/{folder}".rstrip("/"))}'
    return InputError(
        where, got=text, expected='a path of a mounted file system, not an address', fix=fix
    )
