"""Finished runs that are compared. Tests copy a run before they change it."""

import dataclasses
import pathlib

import pytest

from segjax import config as config_lib
from segjax import pipelines
from segjax.config import config_file
from segjax.core import parallel
from segjax.train import driver

CONFIGS = pathlib.Path(__file__).resolve().parents[3] / 'configs'


@pytest.fixture(scope='module', autouse=True)
def one_device_for_all():
    """Gives the runs of a module one of the eight devices of the tests: it compiles faster."""
    one = parallel.topology('pmap', 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            parallel,
            'topology',
            lambda mode, options=(): dataclasses.replace(one, mode=mode, options=options),
        )
        yield


@pytest.fixture(scope='module')
def train(tmp_path_factory):
    """Returns a function that trains the variant :smoke of a config file, and its run folder."""
    root = tmp_path_factory.mktemp('runs')

    def train(name, file, *overrides):
        config = config_file.overridden(
            config_file.load(f'{CONFIGS / file}.py:smoke'), ';'.join(overrides)
        )
        driver.train(config, str(root / name))
        return root / name

    return train


@pytest.fixture(scope='module')
def narrow(train):
    """Returns the folder of a run of ERFNet."""
    return train('narrow', 'supervised', 'logging.num_pictures=2')


@pytest.fixture(scope='module')
def wide(train):
    """Returns the folder of a run with a wider net, larger images, another seed and more steps."""
    return train(
        'wide',
        'supervised',
        'seed=1',
        'model.width=0.5',
        'data.eval_size=(64, 128)',
        'evaluate.batch_size=4',
        'train.num_steps=6',
    )


@pytest.fixture(scope='module')
def learned(train):
    """Returns the folder of a run of another pipeline, with histograms among its scores."""
    return train('learned', 'learned_dilation')


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """Returns the folder of a run without class maps."""
    pipelines.REGISTRY['plain'] = 'plain_pipeline'
    config = config_lib.defaults('plain')
    config_lib.smoke(config)
    folder = tmp_path_factory.mktemp('plain') / 'run'
    driver.train(config, str(folder))
    return folder
