"""Batch sizes on eight devices: an error names the key of its input, and its fix can be typed."""

import pytest

from segjax.config import config_file
from segjax.errors import InputError
from segjax.train import driver


@pytest.mark.slow
@pytest.mark.parametrize(
    'experiment, key, value, fix',
    [
        ('configs/scene_geometry.py:smoke', 'depth.batch_size', 4, 8),
        ('configs/scene_geometry.py:smoke', 'train.batch_size', 12, 16),
        ('configs/noise_cyclegan.py:smoke', 'unpaired.batch_size', 3, 8),
        ('configs/supervised.py:smoke', 'evaluate.batch_size', 6, 8),
    ],
)
def test_the_printed_fix_leads_out(experiment, key, value, fix, tmp_path):
    config = config_file.load(experiment)
    config.data.labelled_fraction = 0.5
    config = config_file.overridden(config, f'{key}={value}')
    with pytest.raises(InputError) as error:
        driver.open_run(config, str(tmp_path / 'run'), 'train')
    assert (error.value.where, error.value.fix) == (key, f'--config.{key}={fix}')
    assert error.value.got == f'{value} on 8 devices'
    config = config_file.overridden(config, error.value.fix.removeprefix('--config.'))
    driver.checked_run(config, str(tmp_path / 'run'), 'train', trace_steps=False)
