"""The folder of prepared data: its place, its locks, its content, and deletion.

Records are in `{cache}/{name}-{fingerprint}`. Values that are derived from records are in folders
with the name of the records, '+' and more. The folder of an interrupted preparation has the same
name with `.partial`. A process that uses records holds a shared lock of their folder. The time of
the lock file `{name}-{fingerprint}.lock` is the time of the last use.
"""

import contextlib
import datetime
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, NamedTuple

import tensorflow_datasets as tfds

from segjax.core import files, paths
from segjax.errors import InputError, unknown_name

PARTIAL = '.partial'
DERIVED = '+'
"""Stands between the name of records and the name of a feature that is derived from them."""

_NAME = re.compile(r'.+-[0-9a-f]{16}(\.partial)?')
_WAIT_SECONDS = 0.2
_ANOTHER_CACHE = '--config.data.cache=/some/folder, or export SEGJAX_CACHE=/some/folder'
_in_use: dict[pathlib.Path, int] = {}  # descriptors of folders whose shared lock this process holds


def folder(cache: str) -> pathlib.Path:
    """Returns config.data.cache, else $SEGJAX_CACHE, else ~/.cache/segjax."""
    if cache:
        return paths.local('config.data.cache', cache)
    return paths.local('$SEGJAX_CACHE', os.environ.get('SEGJAX_CACHE', '') or '~/.cache/segjax')


def check_place(cache: str) -> None:
    """Raises InputError if no cache can be at this place.

    A cache cannot be at a file or below a file. A new cache needs a folder that can be written.

    Args:
      cache: config.data.cache.
    """
    root = folder(cache)
    if not root.is_dir():
        paths.check_writable('config.data.cache' if cache else '$SEGJAX_CACHE', root.absolute())


def command_to_delete(records: pathlib.Path) -> str:
    """Returns the command line that deletes the records of a folder."""
    return (
        f'SEGJAX_CACHE={records.parent} python -m segjax.main --mode cache --delete {records.name}'
    )


class Entry(NamedTuple):
    """A folder with records.

    name          of the folder
    bytes         of its files
    num_examples  of all splits, -1 for a partial or damaged folder
    last_use      seconds since the epoch
    """

    name: str
    bytes: int
    num_examples: int
    last_use: float


def entries(root: pathlib.Path) -> list[Entry]:
    """Returns the folders of the cache, by name. Interrupted preparations are included."""
    if not root.is_dir():
        return []
    return [
        _entry(path)
        for path in sorted(root.iterdir())
        if path.is_dir() and _NAME.fullmatch(path.name)
    ]


def _entry(path: pathlib.Path) -> Entry:
    """Returns the size, the number of examples and the last use of a folder."""
    files = [file.stat() for file in path.rglob('*') if file.is_file()]
    try:
        splits = tfds.builder_from_directory(path).info.splits
        num_examples = sum(splits[split].num_examples for split in splits)
    except Exception:  # TFDS raises errors of many types for missing and damaged files
        num_examples = -1
    lock = _lock_path(path)
    last_use = lock.stat().st_mtime if lock.exists() else path.stat().st_mtime
    return Entry(path.name, sum(file.st_size for file in files), num_examples, last_use)


def describe(root: pathlib.Path) -> str:
    """Returns the content of the cache as text, a line for each folder."""
    lines = []
    for entry in entries(root):
        examples = f'{entry.num_examples:,} examples'
        if entry.num_examples < 0:
            examples = 'not complete' if entry.name.endswith(PARTIAL) else 'damaged'
        day = datetime.datetime.fromtimestamp(entry.last_use).strftime('%Y-%m-%d %H:%M')
        lines.append(
            f'  {entry.name:44} {entry.bytes / 1e9:9.3f} GB  {examples:>18}  last use {day}'
        )
    derived = sum(DERIVED in line for line in lines)
    title = f'{root}: {len(lines) - derived} prepared data sets'
    if derived:
        title += f', {derived} derived features'
    return '\n'.join([title, *lines])


def delete(root: pathlib.Path, names: Sequence[str]) -> None:
    """Deletes folders of the cache, and everything that is derived from deleted records.

    Either all names are known and unused, or nothing is deleted.

    Raises:
      InputError: an unknown name, or a folder that a running process uses or prepares.
    """
    known = [entry.name for entry in entries(root)]
    if names and not known:
        raise InputError(
            f'--delete {names[0]}',
            got=f'no prepared data in {root}',
            expected='a name of the list',
        )
    for name in names:
        if name not in known:
            raise unknown_name('--delete', name, known)

    # Derived values are of no use without their records.
    every = {name for name in known if name in names or name.split(DERIVED)[0] in names}

    # Lock all folders before the first is deleted.
    with contextlib.ExitStack() as locks:
        for name in sorted(every):
            locks.enter_context(_exclusive(root / name))
        for name in sorted(every):
            shutil.rmtree(root / name)
            print(f'deleted: {root / name}', flush=True)
    # The lock file stays, because another process may wait for it.


@contextlib.contextmanager
def _exclusive(path: pathlib.Path) -> Iterator[None]:
    """Holds all locks of a folder, or raises InputError at once."""
    with contextlib.ExitStack() as opened:
        try:
            lock = opened.enter_context(_lock_path(path).open('a'))
            directory = os.open(path, os.O_RDONLY)
            opened.callback(os.close, directory)
            _lock_alone(lock, f'--delete {path.name}')
            _lock_alone(directory, f'--delete {path.name}')
        except OSError as error:
            raise InputError(str(path), got=str(error), expected='a folder with locks') from error
        yield


@contextlib.contextmanager
def alone(records: pathlib.Path) -> Iterator[None]:
    """Holds a lock that keeps new users out of records. A file system without locks is fine.

    Raises:
      InputError: a running process uses the records.
    """
    directory = os.open(records, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            _lock_alone(directory, str(records))
        yield
    finally:
        os.close(directory)


def _lock_alone(file: IO | int, where: str) -> None:
    """Locks an open file or folder, or raises InputError at once if a running process uses it."""
    try:
        files.lock(file)
    except BlockingIOError as error:
        raise InputError(
            where,
            got='records that a running process uses',
            expected='records that no process uses',
            fix='wait until the runs on this data set have ended',
        ) from error


def _lock_path(path: pathlib.Path) -> pathlib.Path:
    """Returns the lock file of a folder, shared by the folder and its `.partial`."""
    return path.with_name(f'{path.name.removesuffix(PARTIAL)}.lock')


def use(records: pathlib.Path) -> None:
    """Marks records as used until this process ends, and records the time.

    A read-only cache is fine.
    """
    with contextlib.suppress(OSError):
        os.utime(_lock_path(records))
    if records in _in_use:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(records, os.O_RDONLY)
        _in_use[records] = descriptor
        files.lock(descriptor, shared=True)


def release(records: pathlib.Path) -> None:
    """Ends this process's use of records."""
    descriptor = _in_use.pop(records, None)
    if descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def locked(records: pathlib.Path, check_stop: Callable[[], None]) -> Iterator[None]:
    """Holds the lock for writing. The system drops the lock when the process ends, even if killed.

    Args:
      records: the folder, which need not exist.
      check_stop: called while another process holds the lock.

    Raises:
      InputError: the cache cannot be written, or its file system has no locks.
    """
    root = records.parent
    paths.check_writable('config.data.cache or $SEGJAX_CACHE', root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = _lock_path(records).open('a')
    except OSError as error:
        raise InputError(
            f'config.data.cache {root}',
            got=str(error),
            expected='a folder to write to',
            fix=f'{_ANOTHER_CACHE}, with enough space',
        ) from error
    # Closing the file drops the lock.
    with lock:
        _wait_for(lock, records, check_stop)
        yield


def _wait_for(lock: IO, records: pathlib.Path, check_stop: Callable[[], None]) -> None:
    """Locks an open file as soon as no process holds its lock.

    Raises:
      InputError: the file system has no locks.
    """
    waited = False
    while True:
        try:
            files.lock(lock)
            return
        except BlockingIOError:
            if not waited:
                print(f'waiting for another process that prepares {records}', flush=True)
            waited = True
            check_stop()
            time.sleep(_WAIT_SECONDS)
        except OSError as error:
            raise InputError(
                f'config.data.cache {records.parent}',
                got=f'no file locks ({error})',
                expected='a file system with file locks',
                fix=f'{_ANOTHER_CACHE}, on a local disk',
            ) from error
