"""`--mode config` prints the keys of a config without data, device and compilation."""

import os
import pathlib
import subprocess
import sys

import pytest

from segjax import config as config_lib
from segjax import pipelines
from segjax.config import config_file, validation
from segjax.core import files
from segjax.errors import InputError
from segjax.modes import config as config_mode

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SMOKE = f'{REPOSITORY}/configs/supervised.py:smoke'


def run(*arguments):
    """Returns the finished process of main, on a machine where JAX can open no device."""
    return subprocess.run(
        [sys.executable, '-m', 'segjax.main', '--mode', 'config', *map(str, arguments)],
        env={**os.environ, 'JAX_PLATFORMS': 'absent', 'PYTHONPATH': str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def place_of(lines, section, key):
    """Returns the position of the line of a key below the heading of its section."""
    start = lines.index(section) + 1 if section else 0
    return next(i for i in range(start, len(lines)) if lines[i][2:].split()[:1] == [key])


def line_of(text, section, key):
    """Returns the line of a key below the heading of its section."""
    lines = text.splitlines()
    return lines[place_of(lines, section, key)]


def test_a_config_with_single_keys_and_without_a_device():
    done = run('--config', SMOKE, '--config.seed=3', '--config.model.name=fcn')
    assert done.returncode == 0, done.stderr
    assert line_of(done.stdout, '', 'seed').split()[:3] == ['*', 'seed', '3']
    assert "'fcn'" in line_of(done.stdout, 'model', 'name')
    assert line_of(done.stdout, 'model', 'output_stride').startswith('  output_stride')
    assert line_of(done.stdout, 'data.world', 'size').startswith('* size')


def test_a_run_folder_alone(tmp_path):
    config = config_file.load(SMOKE)
    config.train.ema = 0.5
    files.write_json(tmp_path / 'config.json', config_lib.to_json(config))
    done = run('--workdir', tmp_path)
    assert done.returncode == 0, done.stderr
    assert line_of(done.stdout, 'train', 'ema').split()[:3] == ['*', 'ema', '0.5']
    assert done.stdout.strip() == config_mode.describe(config)
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']


@pytest.mark.parametrize('pipeline', pipelines.REGISTRY)
def test_all_keys_values_and_meanings_are_aligned(pipeline):
    config = config_lib.defaults(pipeline)
    lines = config_mode.describe(config).splitlines()
    columns = set()
    schema = config_lib.schema_of(pipeline)
    for where, field, value in validation.walk(schema, config, ''):
        section, _, key = where.removeprefix('config.').rpartition('.')
        place = place_of(lines, section, key)
        line = lines[place]
        assert repr(value) in line and not line.startswith('*'), where
        if field.doc not in line:
            line = lines[place + 1]
        columns.add(line.index(field.doc))
    assert len(columns) == 1


def test_a_wrong_value_is_an_error():
    config = config_lib.defaults('supervised')
    config.optim.eps = 0.0
    with pytest.raises(InputError, match=r'config\.optim\.eps'):
        config_mode.main(config)
