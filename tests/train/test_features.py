"""Derived features in all modes: computed once before a run, and part of what a run is."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import compiler
import numpy as np
import pytest
from featured_run import make_config

from segjax import data, main, pipelines
from segjax.core import files
from segjax.data import cache
from segjax.errors import InputError
from segjax.modes import doctor
from segjax.train import driver, features, opening, same_run

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

HELPERS = pathlib.Path(__file__).resolve().parents[1] / 'helpers'


def calls(folder):
    journal = folder / 'journal'
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def names(folder):
    """Returns (feature, split) of the stored values."""
    folders = (path for path in (folder / 'cache').glob('*+*') if path.is_dir())
    return sorted(path.name.split('+')[1].split('-')[0] for path in folders)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Returns a folder with cache, journal and a finished run, and the scores of the run."""
    folder = tmp_path_factory.mktemp('featured')
    scores = driver.train(make_config(folder, data=dict(workers=0)), str(folder / 'run'))
    return folder, scores


def test_a_run_computes_what_its_stages_read_and_trains_on_it(finished):
    folder, scores = finished
    assert names(folder) == ['color.train', 'color.val'] and calls(folder) == 16 + 10
    source = data.prepare(make_config(folder).data).open_split('val', ('image',))
    expected = np.mean([source[i]['image'].mean((0, 1)) for i in range(10)], 0)
    for stage in ('pretrain', 'adversarial'):
        np.testing.assert_allclose(scores[stage]['color'], expected, rtol=1e-5)


def test_the_run_folder_describes_the_features(finished):
    folder, _ = finished
    spec = same_run.stored_spec(folder / 'run')
    assert {'color', 'unread'} <= set(spec.features)
    assert spec.declared['color'].kind == 'number' and set(spec.derived) == {'color', 'unread'}
    run, stages = opening.open_run(make_config(folder), str(folder / 'run'), 'predict')
    assert run.spec == spec and len(stages) == 2


def test_a_finished_run_computes_nothing_again(finished):
    folder, scores = finished
    before = calls(folder)
    assert driver.train(make_config(folder, data=dict(workers=0)), str(folder / 'run')) == scores
    assert driver.evaluate(make_config(folder, data=dict(workers=0)), str(folder / 'run')) == scores
    assert calls(folder) == before


def test_a_run_keeps_the_version_of_its_features(finished, monkeypatch):
    folder, _ = finished
    config = make_config(folder, data=dict(workers=0))
    featured = pipelines.load('featured')
    older = featured.make_features

    def newer(config, spec):
        return tuple(feature._replace(version=7) for feature in older(config, spec))

    monkeypatch.setattr(featured, 'make_features', newer)
    with pytest.raises(InputError, match="feature 'color' is computed in another way"):
        driver.train(config, str(folder / 'run'))
    made = same_run.made_by(config, {'data': newer_spec(config)}, stage_of(config), 3)
    monkeypatch.undo()
    assert made != same_run.made_by(config, {'data': newer_spec(config)}, stage_of(config), 3)


def newer_spec(config):
    return pipelines.promised(config, {'data': data.prepare(config.data).spec})['data']


def stage_of(config):
    return pipelines.make_stages(config, {'data': newer_spec(config)})[0]


def test_evaluation_computes_the_evaluated_splits_alone(tmp_path, finished):
    config = make_config(tmp_path)
    stages = pipelines.make_stages(config, {'data': newer_spec(config)})
    assert {each.split for each in features.inputs_of(stages, 'evaluate')} == {'val'}
    assert {each.split for each in features.inputs_of(stages, 'train')} == {'train', 'val'}


def test_a_refused_run_computes_nothing(tmp_path):
    config = make_config(tmp_path, train=dict(batch_size=7))
    with pytest.raises(InputError, match=r'train\.batch_size'):
        driver.train(config, str(tmp_path / 'run'))
    assert names(tmp_path) == [] and calls(tmp_path) == 0


def test_the_doctor_tells_what_is_stored_and_computes_nothing(tmp_path):
    config = make_config(tmp_path)

    def notes():
        found = doctor.diagnose(config)
        assert not [finding for finding in found if finding.severity == 'error'], found
        return [finding for finding in found if 'derived feature' in finding.where]

    before = notes()
    assert [note.where for note in before] == [
        f"derived feature 'color' of split {split!r}" for split in ('train', 'val')
    ]
    assert '16 examples' in before[0].message and '10 examples' in before[1].message
    assert calls(tmp_path) == 0 and not (tmp_path / 'cache').exists()
    features.prepare(config, {'data': data.prepare(config.data)}, data.never_stop)
    after = notes()
    assert all('stored in' in note.message and '+color' in note.message for note in after)


def test_mode_prepare_computes_the_features(tmp_path, monkeypatch, capsys):
    config = make_config(tmp_path)
    monkeypatch.setattr(main, '_load_config', lambda assignments: config)
    main.run_prepare([])
    printed = capsys.readouterr().out
    assert names(tmp_path) == ['color.train', 'color.val'] and calls(tmp_path) == 26
    for folder in (tmp_path / 'cache').glob('*+*[0-9a-f]'):
        assert f'prepared: {folder}' in printed
    cache_text = cache.describe(tmp_path / 'cache')
    assert '1 prepared data sets, 2 derived features' in cache_text


def test_mode_prepare_refuses_an_unknown_split_before_it_computes(tmp_path, monkeypatch):
    config = make_config(tmp_path, data=dict(eval_split='vall'))
    monkeypatch.setattr(main, '_load_config', lambda assignments: config)
    with pytest.raises(InputError, match="no split 'vall'"):
        main.run_prepare([])
    assert names(tmp_path) == [] and calls(tmp_path) == 0


CONFIG = """
import pathlib
import featured_run

def get_config(arguments=''):
    return featured_run.make_config(pathlib.Path({folder!r}), seconds=0.3)
"""


@pytest.mark.slow
def test_a_signal_ends_mode_prepare_and_the_same_command_continues(tmp_path):
    (tmp_path / 'config.py').write_text(CONFIG.format(folder=str(tmp_path)))
    paths = (HELPERS.parents[1], HELPERS, HELPERS.parent / 'train')
    command = [sys.executable, '-m', 'segjax.main', '--config', str(tmp_path / 'config.py')]
    options = dict(
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths))},
        cwd=HELPERS.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process = subprocess.Popen([*command, '--mode', 'prepare'], **options)
    while calls(tmp_path) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    _, err = process.communicate()
    assert process.returncode == 75, err
    assert time.monotonic() - start < 5
    assert err.splitlines()[-1].endswith('the same command resumes')
    assert names(tmp_path)[0].startswith('color.train')

    again = subprocess.run([*command, '--mode', 'prepare'], **options)
    assert again.returncode == 0, again.stderr
    assert names(tmp_path) == ['color.train', 'color.val']
    assert calls(tmp_path) <= 26 + 1


def start(folder, port, process_id):
    paths = (HELPERS.parents[1], HELPERS)
    command = [sys.executable, str(HELPERS / 'featured_run.py'), str(folder), str(port)]
    return subprocess.Popen(
        [*command, str(process_id), '2'],
        env={
            **os.environ,
            'XLA_FLAGS': compiler.devices(1),
            'PYTHONPATH': os.pathsep.join(map(str, paths)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_one_of_two_processes_computes_and_both_train(tmp_path, finished):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    pair = [start(tmp_path, port, number) for number in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert calls(tmp_path) == 26 and names(tmp_path) == ['color.train', 'color.val']
    scores = files.read_json(tmp_path / 'run' / 'pretrain' / 'scores.json')
    np.testing.assert_allclose(scores['color'], finished[1]['pretrain']['color'], rtol=1e-6)
