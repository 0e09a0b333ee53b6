"""The command `python -m benchmarks.rehearsal`: wrong arguments, its configs, figures and page."""

import json
import pathlib
import types

import pytest
from house import REPOSITORY

from benchmarks import rehearsal
from segjax.config import config_file
from segjax.errors import InputError

CAMVID = 'camvid=/'


@pytest.mark.parametrize(
    'argv, where, fix',
    [
        ([], '--data', '--data cityscapes=/data/cityscapes'),
        (['--data', 'camvid'], '--data', '--data camvid=/data/camvid'),
        (['--data', 'camvit=/'], '--data', "did you mean 'camvid'?"),
        (['--data', CAMVID, '--runs', 'std2'], '--runs', "did you mean 'std2p'?"),
        (['--data', CAMVID, '--runs', 'std2p'], '--data', '--data nyu_depth=/data/nyu_depth'),
        (['--data', CAMVID, '--images', '0'], '--images', '--images 1'),
        (['--data', CAMVID, '--rate', '0'], '--rate', '--rate 100'),
        (['--data', CAMVID, '--bandwidth', '-1'], '--bandwidth', '--bandwidth 3'),
    ],
)
def test_wrong_arguments(argv, where, fix):
    with pytest.raises(InputError) as caught:
        rehearsal.parse(argv)
    assert (caught.value.where, caught.value.fix) == (where, fix)


def test_a_missing_folder_is_named():
    with pytest.raises(InputError, match='/no/folder'):
        rehearsal.parse(['--data', 'camvid=/no/folder'])


def test_trainings_without_their_data_are_left_out():
    args = rehearsal.parse(['--data', CAMVID])
    assert args.runs == ['learned_dilation_pspnet']


@pytest.mark.parametrize('name', rehearsal.RUNS)
def test_configs_read_their_data_set(name):
    rehearsed = rehearsal.RUNS[name]
    config = config_file.load(f'{REPOSITORY}/configs/{rehearsed.config}')
    assert config.data.name == rehearsed.data


def test_every_pipeline_of_a_paper_is_rehearsed():
    rehearsed = {run.config.partition('.')[0] for run in rehearsal.RUNS.values()}
    configs = {path.stem for path in (REPOSITORY / 'configs').glob('*.py')}
    # Its subject is a derived feature, and no paper.
    assert configs - rehearsed == {'monocular_normals'}


def test_batches_are_cut_in_all_sections():
    config = config_file.load(f'{REPOSITORY}/configs/noise_cyclegan.py')
    assert list(rehearsal.larger_batches(config, 4)) == []
    config.unpaired.batch_size = 5
    assert list(rehearsal.larger_batches(config, 4)) == ['unpaired.batch_size']
    assert 'train.batch_size' in list(rehearsal.larger_batches(config, 2))


STEP = {
    'batch_size': 2,
    'size': (8, 16),
    'median_seconds': 0.5,
    'memory': {'peak': 4_000_000_000},
}
WHOLE = {'flops': 3e15, 'bytes_accessed': 2e12}
"""1,000 steps of two images."""


def stage_of(name, batch_size, steps):
    inputs = types.SimpleNamespace(batch_size=batch_size)
    return types.SimpleNamespace(name=name, train_input=inputs, num_steps=steps)


def test_work_grows_with_the_batch_and_the_steps():
    entry = rehearsal.entry_of('std2p', stage_of('frames', 10, 1000), STEP, WHOLE)
    # 1.5e12 operations for an image, 10 images, 1,000 steps.
    assert entry['flops'] == 1.5e16 and entry['bytes'] == 1e13
    assert (entry['images'], entry['batch_size'], entry['steps']) == (2, 10, 1000)


def test_hours_are_those_of_the_slower_of_work_and_traffic():
    entry = rehearsal.entry_of('std2p', stage_of('frames', 10, 1000), STEP, WHOLE)
    _, row = rehearsal.rows([entry], rate=0.5, bandwidth=1.0)
    # 1.5e16 / 0.5e12 = 30,000 seconds on one device.
    assert row[-2:] == ('8.3', '1.0')
    assert row[2:5] == ('8x16', '10', '1,000') and row[7] == '4.0'
    # 1e13 / 1e8 = 100,000 seconds.
    _, row = rehearsal.rows([entry], rate=0.5, bandwidth=1e-4)
    assert row[-2:] == ('27.8', '3.5')


def test_without_an_estimate_of_the_work_the_traffic_decides():
    whole = WHOLE | {'flops': None}
    entry = rehearsal.entry_of('std2p', stage_of('frames', 10, 1000), STEP, whole)
    _, row = rehearsal.rows([entry], rate=0.5, bandwidth=1e-4)
    assert row[-4:] == ('-', '0.01', '27.8', '3.5')


def test_a_failure_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    def rehearse(name, workdir, args):
        if name == 'std2p':
            raise RuntimeError('exit code 1: no depth')
        return [rehearsal.entry_of(name, stage_of('train', 2, 7), STEP, WHOLE)]

    monkeypatch.setattr(rehearsal, 'rehearse', rehearse)
    argv = ['--data', CAMVID, '--data', 'nyu_depth=/', '--output', f'{tmp_path}/page']
    record = rehearsal.main(argv)
    assert [entry['run'] for entry in record['stages']] == ['learned_dilation_pspnet']
    assert json.loads((tmp_path / 'page.json').read_text()) == record
    text = (tmp_path / 'page.md').read_text()
    assert '- std2p: exit code 1: no depth' in text
    assert '| learned_dilation_pspnet | train | 8x16 | 2 | 7 | 2 | 0.50 | 4.0 |' in text


def test_a_bench_that_fails_says_how(tmp_path):
    flags = [f'--config={REPOSITORY}/configs/supervised.py:quick', '--config.train.batch_size=0']
    with pytest.raises(RuntimeError, match=r'exit code 1: .*batch_size'):
        rehearsal.bench(flags, pathlib.Path(tmp_path), limit=100)
