"""docs/add_a_pipeline.md is run, not read: its pipeline trains, and the names it mentions exist."""

import importlib.util
import re
import sys

import pytest
from readme import REPOSITORY

from segjax import pipelines
from segjax.core import files
from segjax.data import kinds
from segjax.protocol import Input, Stage
from segjax.train import driver

PAGE = (REPOSITORY / 'docs/add_a_pipeline.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)


def module_of(text, name, folder):
    """Imports a code block of the page as a module."""
    path = folder / f'{name}.py'
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path, monkeypatch):
    pipeline, configs = BLOCKS
    module_of(pipeline, 'depth_regression', tmp_path)
    monkeypatch.setitem(pipelines.REGISTRY, 'depth_regression', 'depth_regression')
    return module_of(configs, 'depth_regression_config', tmp_path).get_config('smoke')


def test_the_pipeline_of_the_page_trains_and_writes_a_report(config, one_device, tmp_path):
    scores = driver.train(config, str(tmp_path / 'run'))
    assert scores['depth']['abs_rel'] > 0
    assert (tmp_path / 'run/report.html').exists()
    info = files.read_json(next((tmp_path / 'run/depth/pictures').glob('*/info.json')))
    assert info['panels'] == ['image', 'prediction', 'truth']


def test_the_page_has_all_kinds_of_features():
    table = PAGE[PAGE.index('| kind |') : PAGE.index('`segjax/data/kinds.py` has')].strip()
    named = {name for row in table.splitlines()[2:] for name in row.split('|')[1].split('`')[1::2]}
    assert named == set(kinds.KINDS)


def test_the_page_names_fields_that_exist():
    for owner in (Input, Stage):
        fields = re.findall(rf'`{owner.__name__}\.(\w+)`', PAGE)
        assert fields and set(fields) <= set(owner._fields)
