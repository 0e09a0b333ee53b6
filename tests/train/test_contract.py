"""The pipeline that uses the whole contract: kills, devices, processes, modes and refusals."""

import dataclasses
import json
import pathlib
import random
import time
import types

import contract_pipeline
import contract_run
import cv2
import numpy as np
import pytest
from run_folders import assert_same_run, finish, free_port, start_program

from segjax.data.records import never_stop
from segjax.errors import InputError
from segjax.modes import doctor, predict
from segjax.protocol import Input, Mean, TableFrames
from segjax.spec import ClassSpec, DataSpec
from segjax.train import agreement, data_sets, driver, features, same_run
from segjax.train.product_files import PRODUCTS

STAGES = ('locate', 'segment')

ON_EIGHT_DEVICES = dict(train=dict(batch_size=8), evaluate=dict(batch_size=8))

MOMENTS = (
    'cache/figures*.partial',
    'cache/streets*/index.npz',
    'cache/*+edges.train*.partial',
    'cache/*+edges.val*',
    'run/locate/metrics.jsonl',
    'run/locate/checkpoints/2',
    'run/locate/checkpoints/4',
    'run/locate/products.npz',
    'run/segment/metrics.jsonl',
    'run/segment/checkpoints/3',
)
"""Files and folders in the order in which a run makes them, in a folder of its own."""


def start(folder, *pairs, devices=1):
    """Starts the pipeline as a program, with a cache of its own."""
    places = (folder / 'run', folder / 'cache')
    return start_program('contract_run.py', *places, *pairs, devices=devices)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Returns the folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp('whole')
    finish(start(folder))
    return folder


def kill_at(folder, pattern, seconds):
    """Kills the pipeline some time after a file appears. Returns whether it was still running."""
    program = start(folder)
    while program.poll() is None and not list(folder.glob(pattern)):
        time.sleep(0.002)
    time.sleep(seconds)
    running = program.poll() is None
    if running:
        # The main process alone: its workers must end by themselves.
        program.kill()
    program.communicate(timeout=60)
    return running


def assert_same(a, b):
    """Checks that the runs in two folders are equal bit for bit."""
    assert_same_run(a / 'run', b / 'run', STAGES)
    files = [folder / 'run' / 'locate' / PRODUCTS for folder in (a, b)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_killed_while_features_are_computed_and_after_a_stage_it_is_bit_identical(whole, tmp_path):
    assert kill_at(tmp_path, 'cache/*+edges.train*.partial', 0.0)
    assert kill_at(tmp_path, 'run/locate/checkpoints/4', 0.0)
    finish(start(tmp_path))
    assert_same(whole, tmp_path)


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_is_bit_identical(whole, tmp_path):
    draw = random.Random(0)
    killed = [kill_at(tmp_path, pattern, draw.uniform(0, 0.3)) for pattern in MOMENTS]
    assert sum(killed) > 7
    finish(start(tmp_path))
    assert_same(whole, tmp_path)


# --- devices and processes ------------------------------------------------------------------------


def assert_close(a, b):
    """Checks that arrays and scores of the runs in two folders agree up to rounding."""
    arrays = [np.load(folder / 'run' / 'locate' / PRODUCTS) for folder in (a, b)]
    np.testing.assert_array_equal(arrays[0]['chosen'], arrays[1]['chosen'])
    np.testing.assert_allclose(arrays[0]['mean'], arrays[1]['mean'], rtol=1e-4)
    scores = [driver.stored.read_scores(folder / 'run' / 'scores.json') for folder in (a, b)]
    assert scores[0]['locate']['error'] == pytest.approx(scores[1]['locate']['error'], rel=1e-3)
    lines = [each['segment']['road by rank']['series'] for each in scores]
    for one, other in zip(*lines, strict=True):
        assert one['name'] == other['name']
        np.testing.assert_allclose(one['y'], other['y'], rtol=1e-3)
    totals = [each['segment']['pixel_accuracy'] for each in scores]
    assert totals[0] == pytest.approx(totals[1], abs=2e-3)


@pytest.fixture(scope='module')
def eight(tmp_path_factory):
    """Returns the folder of a run on all devices of this process, with batches of eight."""
    folder = tmp_path_factory.mktemp('eight')
    config = contract_run.make_config(folder / 'cache', **ON_EIGHT_DEVICES)
    driver.train(config, str(folder / 'run'))
    return folder


@pytest.mark.slow
@pytest.mark.devices(8)
def test_a_single_device_equals_eight_devices(eight, tmp_path):
    finish(start(tmp_path, 'batch_size=8'))
    assert_close(eight, tmp_path)


@pytest.mark.slow
@pytest.mark.devices(8)
def test_two_processes_equal_a_single_process(eight, tmp_path):
    settings = ('batch_size=8', f'port={free_port()}', 'num_processes=2')
    finish(*(start(tmp_path, *settings, f'process_id={i}', devices=2) for i in range(2)))
    assert_close(eight, tmp_path)


# --- modes ----------------------------------------------------------------------------------------


def test_the_doctor_accepts_the_pipeline_without_prepared_data(tmp_path, capsys):
    config = contract_run.make_config(tmp_path / 'cache', **ON_EIGHT_DEVICES)
    assert doctor.main(config, '') == 0
    assert "derived feature 'edges' of split 'train'" in capsys.readouterr().out
    assert not (tmp_path / 'cache').exists()


def test_the_last_stage_predicts_a_list_of_examples(whole, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'street.png'), image)
    entry = {'name': 'a', 'image': 'street.png', 'box': [[4, 4, 40, 20]], 'class': 'car'}
    source = tmp_path / 'list.json'
    source.write_text(json.dumps([entry, {**entry, 'name': 'b', 'class': 3}]))
    config = contract_run.make_config(whole / 'cache')
    arguments = (str(whole / 'run'), str(source), str(tmp_path / 'out'), 'last')
    predict.main(config, *arguments)
    shown = [cv2.imread(str(tmp_path / f'out/classes/ids/{name}.png'), -1) for name in 'ab']
    assert shown[0].shape == (48, 80)
    # Ids of the label files: car is 26, and train id 3 is wall, 12.
    assert [ids[10, 20] for ids in shown] == [26, 12]
    with pytest.raises(InputError, match="'locate', which cannot predict"):
        predict.main(config, *arguments, 'locate')


# --- refusals -------------------------------------------------------------------------------------


def changed(monkeypatch, name, change):
    """Changes a stage of the pipeline."""

    original = getattr(contract_pipeline, name)

    def make(*arguments):
        return change(original(*arguments))

    monkeypatch.setattr(contract_pipeline, name, make)


def refusal(folder, **sections):
    """Returns the error with which a training is refused before it begins."""
    config = contract_run.make_config(folder / 'cache', **ON_EIGHT_DEVICES, **sections)
    with pytest.raises(InputError) as caught:
        driver.train(config, str(folder / 'run'))
    assert not (folder / 'run').exists()
    return str(caught.value)


def test_a_wrong_observation_is_named_although_the_net_fits_a_single_size(tmp_path, monkeypatch):
    """The dense layer of `locate` refuses other sizes by an error that is no InputError."""

    def observe(batch, outputs):
        return {f'rows {len(batch["index"])}': Mean(np.zeros(()), np.ones(()))}

    changed(
        monkeypatch,
        'segment_stage',
        lambda stage: stage._replace(observation=stage.observation._replace(observe=observe)),
    )
    assert "stage 'segment': Observation.observe" in refusal(tmp_path)


def test_a_transform_of_measured_examples_is_refused_before_the_training(tmp_path, monkeypatch):
    def with_transform(stage):
        inputs = stage.hand_on.inputs._replace(transform=lambda example, rng: example)
        return stage._replace(hand_on=stage.hand_on._replace(inputs=inputs))

    changed(monkeypatch, 'locate_stage', with_transform)
    assert 'cannot be pickled' in refusal(tmp_path, data=dict(workers=1))


def test_a_refused_training_input_concerns_no_evaluation(whole, tmp_path, monkeypatch, capsys):
    """The same files are evaluated, but they are neither prepared nor checked for a training."""
    error = InputError('config.noise', got='noise', expected='no noise', fix='--config.noise=0')

    def refused(stage):
        return stage._replace(train_input=stage.train_input._replace(refusal=error))

    changed(monkeypatch, 'segment_stage', refused)
    assert '--config.noise=0' in refusal(tmp_path)
    config = contract_run.make_config(whole / 'cache', **ON_EIGHT_DEVICES)
    run, stages = driver.checked_run(config, str(tmp_path / 'run'), 'evaluate')
    with pytest.raises(InputError, match='no noise'):
        run.open_input(stages[1].train_input)
    with pytest.raises(InputError, match='no noise'):
        features.prepare(config, data_sets.prepare(config), never_stop)
    assert doctor.main(config) == 1
    assert '--config.noise=0' in capsys.readouterr().out


def test_mode_prepare_refuses_an_unknown_data_set_of_an_input(tmp_path, monkeypatch):
    def elsewhere(stage):
        return stage._replace(train_input=stage.train_input._replace(data='figurs'))

    changed(monkeypatch, 'segment_stage', elsewhere)
    config = contract_run.make_config(tmp_path)
    with pytest.raises(InputError, match="did you mean 'figures'"):
        features.prepare(config, data_sets.prepare(config), never_stop)


def test_another_recipe_of_a_table_is_another_input():
    spec = DataSpec('a', ClassSpec((), (), ()), (), {}, {}, {}, {})
    old, new = (dataclasses.replace(spec, derived={'table': recipe}) for recipe in '12')
    inputs = Input('train', 1, ('image',), (1, 1))
    assert not same_run._derived_difference(old, new, [inputs])
    inputs = inputs._replace(frames=TableFrames(2, 'table'))
    assert "feature 'table'" in same_run._derived_difference(old, new, [inputs])


def test_processes_compare_features_of_the_same_name_of_all_data_sets(monkeypatch):
    compared = {}
    info = types.SimpleNamespace(info=types.SimpleNamespace(splits=('val',)))
    monkeypatch.setattr(agreement.processes, 'joined', lambda: True)
    monkeypatch.setattr(agreement.processes, 'compare', compared.update)
    monkeypatch.setattr(agreement.index, 'open_records', lambda folder: info)
    monkeypatch.setattr(agreement.index, 'load', lambda folder, split: folder.name[0])
    monkeypatch.setattr(agreement.index, 'split_digest', lambda facts: facts)
    agreement.check_features([pathlib.Path(f'{name}-0+edges.val-1') for name in 'ab'])
    assert {key: fact.value for key, fact in compared.items()} == {'values of edges.val': 'a b'}
