"""Runs an exported folder in a process without segjax, and compares it with the run."""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping

import numpy as np

CALL = """
import importlib.util
assert importlib.util.find_spec('segjax') is None
outputs = run(weights, dict(np.load('{inputs}')))
np.savez('{outputs}', **outputs)
"""
"""Python behind that of README.md, which calls the program on the inputs of a file."""


def run_readme(
    folder: pathlib.Path, inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], str]:
    """Runs the Python of README.md on inputs, in a process that cannot import segjax.

    Returns:
      The outputs, and the text that the Python of README.md prints.
    """
    (code,) = re.findall(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.DOTALL)
    places = {name: folder.absolute().parent / f'{name}.npz' for name in ('inputs', 'outputs')}
    np.savez(places['inputs'], **inputs)
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    environment['JAX_PLATFORMS'] = 'cpu'
    done = subprocess.run(
        [sys.executable, '-c', code + CALL.format(**places)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(places['outputs']) as outputs:
        return dict(outputs), done.stdout
