"""A run that draws neighbours from a table which is computed from landmarks and colours."""

import json

import numpy as np
import portraits
import pytest
from run_folders import assert_same_run, finish, free_port, start_program, stop_at

from segjax import data
from segjax.data import neighbours
from segjax.modes import doctor
from segjax.train import driver, opening
from segjax.train.stop import Preempted

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

NEAR = dict(num_clusters=3)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, cache):
    """Returns the folder and the scores of an undisturbed run."""
    workdir = tmp_path_factory.mktemp('near') / 'run'
    config = portraits.make_config(cache, neighbours=NEAR)
    return workdir, driver.train(config, str(workdir))


def test_the_stored_table_is_that_of_the_examples(finished, cache):
    config = portraits.make_config(cache, neighbours=NEAR)
    prepared = data.prepare(config.data)
    source = prepared.open_split('train', ('image', 'points_face', 'name'))
    examples = [source[i] for i in range(len(source))]
    choice = neighbours.Neighbourhood(num_clusters=3, num_positions=3, percentile=40.0)
    expected = np.stack(neighbours.neighbour_tables(examples, choice))
    run, _ = opening.open_run(config, str(finished[0]), use='evaluate')
    stored = run.datasets['data'].store.column('train', 'number_neighbours')
    np.testing.assert_array_equal(stored, expected)
    assert (stored >= 0).any() and (stored < 0).any()


def test_the_doctor_finds_nothing(finished, cache):
    config = portraits.make_config(cache, neighbours=NEAR)
    assert {each.severity for each in doctor.diagnose(config)} == {'note'}


def test_an_evaluation_draws_the_same_neighbours_as_the_run(finished, cache):
    workdir, scores = finished
    assert scores['painting']['near'] > 0
    assert driver.evaluate(portraits.make_config(cache, neighbours=NEAR), str(workdir)) == scores


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_run_draws_the_neighbours_that_it_would_have_drawn(
    finished, cache, tmp_path, monkeypatch, workers
):
    workdir, scores = finished
    stop_at(monkeypatch, 'painting', 2)
    with pytest.raises(Preempted):
        driver.train(portraits.make_config(cache, neighbours=NEAR), str(tmp_path))
    monkeypatch.undo()
    resumed = portraits.make_config(cache, neighbours=NEAR, data=dict(workers=workers))
    assert driver.train(resumed, str(tmp_path)) == scores
    assert_same_run(workdir, tmp_path, stages=('painting',))


@pytest.mark.slow
@pytest.mark.devices(8)
def test_one_device_and_two_processes_equal_eight_devices(finished, cache, tmp_path):
    _, scores = finished
    finish(start_program('portraits.py', tmp_path / 'one', cache, devices=1))
    settings = (f'port={free_port()}', 'num_processes=2', 'workers=1')
    pair = [(tmp_path / 'two', cache, *settings, f'process_id={i}') for i in range(2)]
    finish(*(start_program('portraits.py', *each, devices=2) for each in pair))
    for name in ('one', 'two'):
        found = json.loads((tmp_path / name / 'scores.json').read_text())
        for score in ('error', 'near'):
            assert found['painting'][score] == pytest.approx(scores['painting'][score], rel=1e-5)
