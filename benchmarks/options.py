"""Arguments that the benchmarks share, with errors that say how to mend them."""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from benchmarks.workers import ROOT
from segjax.core import paths
from segjax.errors import EXIT_WRONG, InputError

ENVIRONMENT = (
    'python3.11 -m venv .venv-torch && .venv-torch/bin/pip install torch torchvision timm numpy'
)
"""The command that makes a Python for `--torch`."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(
            self.prog, got=message, expected='arguments of its --help', fix=f'{self.prog} --help'
        )


def size_2d(text: str, name: str = '--size') -> tuple[int, int]:
    """Returns (height, width) of a text such as '256x512'.

    Args:
      text: of the argument.
      name: of the argument.

    Raises:
      InputError: the text is no size.
    """
    found = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
    if not found:
        raise InputError(name, got=repr(text), expected='HEIGHTxWIDTH', fix=f'{name} 256x512')
    return int(found[1]), int(found[2])


def at_least(name: str, value: int, smallest: int) -> None:
    """Raises InputError for a value below `smallest`."""
    if value < smallest:
        raise InputError(
            name,
            got=str(value),
            expected=f'a whole number, {smallest} or more',
            fix=f'{name} {smallest}',
        )


def above_0(name: str, value: float, usual: float) -> None:
    """Raises InputError for a value of 0 or less. The fix is the usual value."""
    if not value > 0:
        raise InputError(name, got=f'{value:g}', expected='above 0', fix=f'{name} {usual:g}')


def whole_numbers(name: str, text: str) -> list[int]:
    """Returns the numbers of a text such as '1,2,4'.

    Raises:
      InputError: the text holds anything but whole numbers above 0.
    """
    if not re.fullmatch(r'[1-9]\d*(,[1-9]\d*)*', text):
        raise InputError(
            name, got=repr(text), expected='whole numbers, as 1,2,4', fix=f'{name} 1,2'
        )
    return [int(number) for number in text.split(',')]


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: int) -> None:
    """Raises InputError for more threads than usable cores."""
    at_least('--threads', threads, 1)
    if threads > usable_cores():
        raise InputError(
            '--threads',
            got=f'{threads} on {usable_cores()} usable cores',
            expected='a thread a core at most',
            fix=f'--threads {usable_cores()}',
        )


def check_torch(python: str) -> None:
    """Raises InputError unless a Python can run the twins.

    Args:
      python: path, or name on $PATH, of the interpreter.
    """
    problem = _problem(python) if python else 'nothing'
    if problem:
        raise InputError(
            '--torch',
            got=problem,
            expected='a Python that imports torch, torchvision and timm',
            fix=f'{ENVIRONMENT}; then --torch .venv-torch/bin/python',
        )


def _problem(python: str) -> str:
    """Returns why a Python cannot run the twins, '' if it can."""
    try:
        ended = subprocess.run(
            [python, '-c', 'import benchmarks.torch_nets'],
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            capture_output=True,
            text=True,
        )
    except OSError as error:
        return f'{python}: {error.strerror}'
    if ended.returncode == 0:
        return ''
    lines = ended.stderr.strip().splitlines()
    return f'{python}: {lines[-1] if lines else f"exit code {ended.returncode}"}'


class Report(NamedTuple):
    """The files of a report.

    record  JSON
    page    Markdown
    """

    record: pathlib.Path
    page: pathlib.Path

    def write(self, record: Mapping[str, Any], page: str) -> None:
        """Writes a record and its page."""
        self.record.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
        self.page.write_text(page, encoding='utf-8')


def report(path: str) -> Report:
    """Returns the report PATH.json and PATH.md, in a folder that it makes.

    Raises:
      InputError: the path has no name, or its folder cannot be made.
    """
    base = pathlib.Path(path).absolute()
    if not pathlib.Path(path).name:
        raise InputError(
            '--output', got=repr(path), expected='PATH of PATH.json', fix='--output runs/report'
        )
    paths.make_folder('--output', base.parent)
    return Report(base.with_name(f'{base.name}.json'), base.with_name(f'{base.name}.md'))


def run_main(main: Callable[[Sequence[str]], Any]) -> NoReturn:
    """Calls a main function with the command line, and ends the process.

    An InputError becomes text. The exit code says whether any part failed.
    """
    try:
        record = main(sys.argv[1:])
    except InputError as error:
        print(f'error: {error}', file=sys.stderr, flush=True)
        sys.exit(EXIT_WRONG)
    sys.exit(EXIT_WRONG if has_errors(record) else 0)


def has_errors(record: Any) -> bool:
    """Returns whether a record has an 'error', or 'errors' with entries, at any depth."""
    if not isinstance(record, Mapping):
        return False
    if 'error' in record or record.get('errors'):
        return True
    return any(has_errors(value) for value in record.values())
