"""Fixtures: a table file, runs that finish at once, and the outputs of both."""

import pathlib

import pytest
from paper_table import ENVIRONMENT, FILE, RESULTS, start

from segjax import config as config_lib
from segjax.config.config_file import Assignment
from segjax.core import files
from segjax.modes.table import loop, runs
from segjax.train import driver


@pytest.fixture
def table_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the configs of the rows are found from anywhere
    path = tmp_path / 'table.py'
    path.write_text(FILE)
    return path


@pytest.fixture
def trained(monkeypatch):
    """Replaces driver.train by a function that only writes its files. Returns its calls in order.

    A call is (row, seed).

    Rows are not checked before the first, because the stand-in trains rows of any kind.
    """
    calls = []

    def train(config, workdir, stop):
        folder = pathlib.Path(workdir)
        calls.append((folder.parent.name, config.seed))
        files.write_json(folder / 'config.json', config_lib.to_json(config))
        files.write_json(folder / 'environment.json', ENVIRONMENT)
        result = RESULTS[calls[-1]]
        if isinstance(result, Exception):
            raise result
        files.write_json(folder / 'scores.json', result)

    monkeypatch.setattr(driver, 'train', train)
    monkeypatch.setattr(loop, 'check_runs', lambda runs, finished, stop: None)
    monkeypatch.setattr(runs.jax, 'clear_caches', lambda: calls.append('cleared'))
    return calls


@pytest.fixture
def outputs(table_file, trained):
    """Returns the folder with the outputs of a table with RESULTS."""
    start(table_file, assignments=[Assignment('data.threads', '1')])
    return pathlib.Path('runs')
