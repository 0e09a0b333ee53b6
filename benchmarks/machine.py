"""Facts about the machine that times depend on."""

import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

from benchmarks.workers import ROOT


def describe() -> dict[str, Any]:
    """Returns name and cores of the processor, the system, the commit and the load."""
    return {
        'processor': processor(),
        'platform': platform.platform(),
        'python': platform.python_version(),
        'commit': commit(),
        'load at start': load(),
    }


def lines(facts: Mapping[str, Any]) -> list[str]:
    """Returns the commit, the machine and its load as lines of a page.

    Args:
      facts: of `describe`, with 'load at end'.
    """
    return [
        f'- Commit {facts["commit"]}, Python {facts["python"]}, {facts["processor"]}',
        f'- Load average {facts["load at start"][0]} at the start, '
        f'{facts["load at end"][0]} at the end',
    ]


def processor() -> str:
    """Returns the name of the processor, else its architecture."""
    info = pathlib.Path('/proc/cpuinfo')
    if info.exists():
        for line in info.read_text(encoding='utf-8', errors='replace').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def load() -> list[float]:
    """Returns the load averages of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def commit() -> str:
    """Returns the commit of the repository, with a mark for changes; '' without git."""
    try:
        described = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--abbrev=10'],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except OSError:
        return ''
    return described.stdout.strip()
