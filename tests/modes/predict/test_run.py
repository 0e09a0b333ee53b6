"""Tests --mode predict with a trained run: without its data set, on one and on eight devices."""

import json

import jax
import numpy as np
import pytest
import toy_run
from predicting import contents, noise, read, save

from segjax import config as config_lib
from segjax import data, pipelines
from segjax.core import parallel
from segjax.data import labels
from segjax.modes import predict
from segjax.train import driver, stored


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Returns the folder of a run of the toy pipeline, a step in each of its two stages."""
    workdir = tmp_path_factory.mktemp('predict') / 'run'
    pipelines.REGISTRY['toy_prediction'] = 'toy_prediction'
    steps = dict(pretrain=dict(num_steps=1), train=dict(num_steps=1))
    config = toy_run.make_config('toy_prediction', **steps)
    driver.train(config, str(workdir))
    return workdir


@pytest.fixture(scope='module')
def edited(tmp_path_factory):
    """Returns the folder of a run that sees the categories of its classes, and completes maps."""
    workdir = tmp_path_factory.mktemp('edits') / 'run'
    pipelines.REGISTRY['toy_edits'] = 'toy_edits'
    steps = dict(pretrain=dict(num_steps=1), train=dict(num_steps=1))
    config = toy_run.make_config('toy_edits', data=dict(class_map='categories'), **steps)
    driver.train(config, str(workdir))
    return workdir


@pytest.fixture
def run(monkeypatch):
    """Returns a function (workdir, source, target, devices) that predicts without a data set."""

    def refuse(*arguments):
        raise AssertionError('predicting needs no data set')

    monkeypatch.setattr(data, 'prepare', refuse)
    original = parallel.topology

    def call(workdir, source, target, devices, **settings):
        monkeypatch.setattr(
            parallel, 'topology', lambda mode, **options: original(mode, devices, **options)
        )
        config = config_lib.from_json(stored.read_config(workdir / stored.CONFIG))
        config_lib.update(config, predict=settings)
        return predict.main(config, str(workdir), str(source), str(target), 'last')

    return call


def examples(folder):
    """Writes three images of several sizes, and a list with a box and a class for each."""
    entries = []
    for number, size in enumerate([(32, 64), (61, 101), (20, 33)]):
        save(folder / f'images/{number}.png', noise(*size, number))
        entry = {'name': f'{number}', 'image': f'images/{number}.png', 'class': 'car'}
        entries.append({**entry, 'box': [3.5, 2.5, 17.5, 11.5]})
    listed = folder / 'list.json'
    listed.write_text(json.dumps(entries))
    return listed


def test_a_declared_prediction_of_a_run(tmp_path, trained, run):
    listed = examples(tmp_path)
    assert run(trained, listed, tmp_path / 'one', 1)['images'] == 3
    assert run(trained, listed, tmp_path / 'one', 1)['skipped'] == 3
    car = labels.CITYSCAPES.ids[labels.CITYSCAPES.names.index('car')]
    for number in range(3):
        ids = read(tmp_path / f'one/filled/ids/{number}.png')
        assert ids.shape == noise(*[(32, 64), (61, 101), (20, 33)][number]).shape[:2]
        assert (ids[4:11, 5:17] == car).all() and not (ids == car).all()
    count = len(jax.devices())
    run(trained, listed, tmp_path / 'many', count)
    for name, content in contents(tmp_path / 'one').items():
        same = content == contents(tmp_path / 'many')[name]
        # Programs for other batches may round the last bit of a score differently.
        if name.endswith('.png') and not same:
            one, many = (read(tmp_path / folder / name) for folder in ('one', 'many'))
            same = (one == many).mean() > 0.999
        assert same, name


def test_class_maps_of_a_run_are_those_of_one_device(tmp_path, trained, run):
    examples(tmp_path)
    run(trained, tmp_path / 'images', tmp_path / 'one', 1)
    run(trained, tmp_path / 'images', tmp_path / 'many', len(jax.devices()))
    for path in (tmp_path / 'one').rglob('*.png'):
        one = read(path).astype(int)
        many = read(tmp_path / 'many' / path.relative_to(tmp_path / 'one'))
        if 'confidence' in path.parts:
            assert np.abs(one - many).max() <= 1
        else:
            assert (one == many).mean() > 0.999


@pytest.mark.slow
def test_edits_of_a_run_with_a_class_map(tmp_path, edited, run):
    """Files have the ids of Cityscapes: 7 is road, 26 car. The run knows `flat` and `vehicle`."""
    rng = np.random.default_rng(0)
    known = labels.CITYSCAPES
    train_ids = rng.integers(0, 19, (30, 60))
    ids = np.array(known.ids, np.uint8)[train_ids]
    ids[:3] = 0
    save(tmp_path / 'a.png', ids)
    entries = [
        {'name': 'flat', 'label': 'a.png', 'box': [3.5, 2.5, 17.5, 11.5], 'class_id': 'flat'},
        {'name': 'human', 'label': 'a.png', 'box': [20.5, 12.5, 25.5, 24.5], 'class_id': 'human'},
    ]
    listed = tmp_path / 'edits.json'
    listed.write_text(json.dumps(entries))
    categories = labels.CITYSCAPES_CATEGORIES
    merged = np.array([*categories.classes.ids])[np.array(categories.train_ids)[train_ids]]
    merged[:3] = 255
    for devices in sorted({1, len(jax.devices())}):
        run(edited, listed, tmp_path / f'out_{devices}', devices)
        for name, number, (rows, columns) in (
            ('flat', 1, (slice(3, 12), slice(4, 18))),
            ('human', 6, (slice(13, 25), slice(21, 26))),
        ):
            expected = merged.copy()
            expected[rows, columns] = number
            result = read(tmp_path / f'out_{devices}/inpainted/ids/{name}.png')
            np.testing.assert_array_equal(result, expected)
