"""A run without training whose last stage predicts, for --mode predict."""

import pathlib
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from segjax import config as config_lib
from segjax import data
from segjax.core import parallel
from segjax.modes import predict
from segjax.protocol import Input, Stage, TrainState
from segjax.spec import ClassSpec, DataSpec
from segjax.train import driver

CLASSES = ClassSpec(('road', 'car', 'sky'), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), (7, 26, 23))


def make_stage(**uses) -> Stage:
    """Returns a stage that can do nothing but predict."""
    never = None
    return Stage(
        name=uses.pop('name', 'toy'),
        num_steps=0,
        train_input=None,
        eval_input=Input('val', 1, ('image',), (16, 24)),
        streams=(),
        init=never,
        train_step=never,
        eval_step=never,
        finalize=never,
        monitor=('score', 'max'),
        **uses,
    )


class ToyRun(NamedTuple):
    """A run folder whose stages are given by a test.

    config   of the run
    workdir  the run folder
    """

    config: object
    workdir: pathlib.Path

    def predict(self, source, target, stage='', **settings):
        """Calls --mode predict with some values of config.predict."""
        config = self.config.copy_and_resolve_references()
        config_lib.update(config, predict=settings)
        return predict.main(config, str(self.workdir), str(source), str(target), 'last', stage)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Returns a function (stages, devices) -> ToyRun. The state has params {'order': [3]}."""

    def make(*stages, devices=1, seed=0, classes=CLASSES, merge=None):
        spec = DataSpec(
            name='toy',
            classes=classes,
            features=('image', 'label'),
            num_examples={'val': 1},
            max_size={'val': (16, 24)},
            class_pixels={'val': (1, 1, 1)},
            void_pixels={'val': 0},
            merge=merge,
        )
        topology = parallel.topology('pmap', devices)
        state = TrainState(np.int32(3), {'order': np.array([2, 0, 1])}, {}, {}, {})
        datasets = {'data': data.Prepared(spec, tmp_path, 'toy')}

        def open_run(config, workdir, use):
            return driver.Run(config, datasets, pathlib.Path(workdir), topology), stages

        def load(run, stages, which, name):
            return driver.predicting_stage(run, stages, name), topology.put_replicated(state)

        monkeypatch.setattr(driver, 'open_run', open_run)
        monkeypatch.setattr(driver, 'load_last_stage', load)
        config = config_lib.defaults('supervised')
        config_lib.update(config, data=dict(eval_size=(16, 24)), seed=seed)
        return ToyRun(config, tmp_path / 'run')

    return make


def noise(height, width, seed=0):
    """Returns random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, values):
    """Writes [H, W, 3] RGB or [H, W] as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)


def read(path):
    """Reads an image file as [H, W, 3] RGB or [H, W]."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return values[..., ::-1] if values.ndim == 3 else values


def contents(folder):
    """Returns the bytes of all files below a folder, without the records of the run."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and path.name != 'predict.json'
    }
