"""Writes the folder of an export: it appears at once, with all of its files."""

import contextlib
import pathlib
import shutil
import uuid
from collections.abc import Iterator

from segjax.core import paths
from segjax.errors import InputError


def check_absent(folder: pathlib.Path) -> None:
    """Raises InputError for a folder that exists, or whose place cannot be written to."""
    if folder.exists():
        raise InputError(
            '--output',
            got=f'{folder}, which exists',
            expected='a new folder, which gets its name when it is complete',
            fix=f'--output {folder}_2',
        )
    paths.check_writable('--output', folder.absolute())


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder, which is renamed to `folder` at the end.

    After an error nothing is left of it.

    Args:
      folder: does not exist.

    Raises:
      InputError: the folder cannot be made.
    """
    partial = folder.with_name(f'.{uuid.uuid4().hex}.partial')
    paths.make_folder('--output', partial)
    try:
        yield partial
        check_absent(folder)  # another process may have made it
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
