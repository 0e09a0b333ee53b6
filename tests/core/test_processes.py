"""Runs of two processes equal those of one process, and both processes end together."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import compiler
import cv2
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util
from run_folders import free_port

from segjax.config import config_file
from segjax.core import parallel
from segjax.train import driver

HELPERS = pathlib.Path(__file__).resolve().parents[1] / 'helpers'
NUM_STEPS = 4
# Switch off what depends on the distribution of examples over devices. Noise has a key per device,
# and Adam turns the rounding error of a zero gradient into full steps.
SETTINGS = ('noise=0', 'optimiser=sgd')


def start(workdir, devices, *settings, num_steps=NUM_STEPS):
    env = {
        **os.environ,
        'XLA_FLAGS': compiler.devices(devices),
        'PYTHONPATH': os.pathsep.join([str(HELPERS.parent.parent), str(HELPERS)]),
    }
    command = [
        sys.executable,
        str(HELPERS / 'toy_run.py'),
        str(workdir),
        str(num_steps),
        *SETTINGS,
        *settings,
    ]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*processes):
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-3000:]


def result(workdir, num_steps=NUM_STEPS):
    """Returns (arrays by name, training losses, scores) of the last stage."""
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(workdir / f'adversarial/checkpoints/{num_steps}/state')
    lines = map(json.loads, (workdir / 'adversarial/metrics.jsonl').read_text().splitlines())
    losses = [line['loss'] for line in lines if line['kind'] == 'train']
    return (
        traverse_util.flatten_dict(state, sep='/'),
        losses,
        json.loads((workdir / 'scores.json').read_text()),
    )


@pytest.fixture(scope='module')
def one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('one')
    finish(start(workdir, 1))
    return result(workdir)


@pytest.mark.parametrize('mode', ['pmap', pytest.param('shard_map', marks=pytest.mark.slow)])
def test_two_processes_of_two_devices_equal_one_device(one_device, tmp_path, mode):
    port = free_port()
    settings = (f'mode={mode}', f'port={port}', 'num_processes=2')
    finish(*(start(tmp_path, 2, *settings, f'process_id={i}') for i in range(2)))
    arrays, losses, scores = result(tmp_path)
    expected, expected_losses, expected_scores = one_device
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert arrays.keys() == expected.keys()
    for name in arrays:
        np.testing.assert_allclose(arrays[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    for stage in ('pretrain', 'adversarial'):
        for score in ('mIoU', 'pixel_accuracy'):
            assert scores[stage][score] == pytest.approx(expected_scores[stage][score], abs=1e-4)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_step_and_both_go_on(tmp_path):
    num_steps = 40

    def start_pair(workdir):
        settings = (f'port={free_port()}', 'num_processes=2')
        return [
            start(workdir, 1, *settings, f'process_id={i}', num_steps=num_steps) for i in range(2)
        ]

    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    finish(*start_pair(whole))
    pair = start_pair(stopped)
    log = stopped / 'adversarial/metrics.jsonl'
    while all(p.poll() is None for p in pair) and not (
        log.exists() and log.read_bytes().count(b'\n') >= 3
    ):
        time.sleep(0.01)
    pair[1].send_signal(signal.SIGTERM)
    outputs = [p.communicate(timeout=300)[0] for p in pair]
    steps = {
        re.search(r"Preempted: stage 'adversarial' saved at step (\d+)", output).group(1)
        for output in outputs
    }
    assert len(steps) == 1 and 4 <= int(steps.pop()) < num_steps
    finish(*start_pair(stopped))
    for name in ('adversarial/metrics.jsonl', 'scores.json'):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    arrays, expected = result(stopped, num_steps)[0], result(whole, num_steps)[0]
    for name in expected:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)


@pytest.mark.slow
def test_a_signal_to_a_process_that_prepares_data_ends_both(tmp_path):
    port = free_port()
    arguments = (
        '--config',
        SMOKE,
        '--workdir',
        tmp_path / 'run',
        '--config.data.world.num_train=20000',
    )
    pair = [start_main(port, i, *arguments, SEGJAX_CACHE=str(tmp_path / str(i))) for i in range(2)]
    end = time.monotonic() + SECONDS
    while not list((tmp_path / '1').glob('*.partial/train*')) and time.monotonic() < end:
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGTERM)
    errors = ends(*pair, code=75)
    assert 'preempted: the data set is not prepared completely' in errors[1]
    assert 'process 1 has ended' in errors[0]


# --- processes that cannot run together -----------------------------------------------------------

REPOSITORY = HELPERS.parent.parent
SMOKE = f'{REPOSITORY}/configs/supervised.py:smoke'
SECONDS = 60  # in which all processes end


def start_main(port, process_id, *arguments, package=REPOSITORY, **env):
    env = {**os.environ, 'XLA_FLAGS': compiler.devices(1), 'PYTHONPATH': str(package), **env}
    command = [
        sys.executable,
        '-m',
        'segjax.main',
        f'--coordinator=127.0.0.1:{port}',
        '--num_processes=2',
    ]
    command += [f'--process_id={process_id}', *map(str, arguments)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=package
    )


def ends(*processes, code=1):
    """Waits for the processes, and returns what each wrote to stderr."""
    began = time.monotonic()
    try:
        errors = [
            process.communicate(timeout=SECONDS - (time.monotonic() - began))[1]
            for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [code] * len(processes), errors
    assert not any('Traceback' in error for error in errors), errors
    return errors


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('finished') / 'run'
    device = parallel.topology('pmap', 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, 'topology', lambda *_, **__: device)
        driver.train(config_file.load(SMOKE), str(workdir))
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    'mode',
    ['train', *(pytest.param(mode, marks=pytest.mark.slow) for mode in ('evaluate', 'bench'))],
)
def test_two_run_folders_end_both_processes(finished, tmp_path, mode):
    """The folder of process 0 holds a saved run, the folder of process 1 does not."""
    port = free_port()
    folders = (finished, tmp_path / 'other')
    arguments = ('--config', SMOKE, f'--mode={mode}')
    for error in ends(
        *(start_main(port, i, *arguments, '--workdir', folders[i]) for i in range(2))
    ):
        assert 'error: process 1 does not see what process 0 sees' in error
        assert f'newest checkpoints: none; run folder: {folders[1]}' in error
        assert 'expected: newest checkpoints: segmentation 4' in error
        assert 'a file system that all hosts share' in error
    assert not folders[1].exists()
    assert not list(finished.glob('.processes-*'))


@pytest.mark.slow
def test_two_new_run_folders_end_both_processes_and_leave_nothing(tmp_path):
    port = free_port()
    folders = (tmp_path / 'a/run', tmp_path / 'b/run')
    for error in ends(
        *(start_main(port, i, '--config', SMOKE, '--workdir', folders[i]) for i in range(2))
    ):
        assert f'run folder: {folders[1]}, another folder' in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_command_ends_both_processes_and_each_difference_is_named(tmp_path):
    port = free_port()
    base = ('--config', SMOKE, '--workdir', tmp_path / 'run')
    keys = ('--config.optim.learning_rate=0.25', '--config.logging.checkpoint_every=3')
    pair = (start_main(port, 0, *base), start_main(port, 1, *base, *keys, '--mode=evaluate'))
    differences = {'use: evaluate', *(key.removeprefix('--').replace('=', ': ') for key in keys)}
    for error in ends(*pair):
        got = re.search(r'got: +(.*) \(host', error)[1]
        assert set(got.split('; ')) == differences and 'the same command on every host' in error
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_other_code_ends_both_processes(tmp_path):
    shutil.copytree(
        REPOSITORY / 'segjax',
        tmp_path / 'copy/segjax',
        ignore=shutil.ignore_patterns('__pycache__'),
    )
    with (tmp_path / 'copy/segjax/core/optim.py').open('a') as file:
        file.write('# a change\n')
    port = free_port()
    base = ('--config', SMOKE, '--workdir', tmp_path / 'run')
    for error in ends(
        start_main(port, 0, *base), start_main(port, 1, *base, package=tmp_path / 'copy')
    ):
        assert 'got:      code: ' in error and 'the same checkout of segjax' in error


def _folder_of_images(root, value):
    for split in ('train', 'val'):
        for kind, pixels in (
            ('images', np.full((32, 64, 3), value, np.uint8)),
            ('masks', np.eye(32, 64, 0, np.uint8)),
        ):
            (root / kind / split).mkdir(parents=True)
            for number in range(8):
                cv2.imwrite(str(root / kind / split / f'{number}.png'), pixels)
    (root / 'classes.yaml').write_text('[background, foreground]')
    return (f'--config.data.root={root}', f'--config.data.classes={root}/classes.yaml')


@pytest.mark.slow
def test_copies_of_the_data_may_lie_anywhere_but_must_be_equal(tmp_path):
    roots = [_folder_of_images(tmp_path / name, value) for name, value in (('a', 3), ('b', 4))]
    base = ('--config', SMOKE, '--config.data.name=folder', '--workdir', tmp_path / 'run')
    port = free_port()
    for error in ends(*(start_main(port, i, *base, *roots[i]) for i in range(2))):
        assert 'got:      data: ' in error and 'copy the data set again' in error
    assert not (tmp_path / 'run').exists()


def test_what_is_wrong_on_one_host_ends_both_processes(tmp_path):
    roots = (
        _folder_of_images(tmp_path / 'a', 3),
        ('--config.data.root=/no/such', '--config.data.classes=/no/such'),
    )
    base = ('--config', SMOKE, '--config.data.name=folder', '--workdir', tmp_path / 'run')
    port = free_port()
    first, second = ends(*(start_main(port, i, *base, *roots[i]) for i in range(2)))
    assert 'error: class file /no/such' in second
    assert 'error: process 1 has ended, so this process ends\n  error: class file /no/such' in first


def _training_pair(tmp_path, **env):
    """Returns two processes in the middle of a long training."""
    port = free_port()
    base = ('--config', SMOKE, '--workdir', tmp_path / 'run', '--config.train.num_steps=100000')
    pair = [
        start_main(
            port,
            i,
            *base,
            '--config.logging.eval_every=0',
            '--config.logging.checkpoint_every=0',
            **env,
        )
        for i in range(2)
    ]
    log = tmp_path / 'run/segmentation/metrics.jsonl'
    while not (log.exists() and log.read_bytes().count(b'\n') >= 2):
        assert all(process.poll() is None for process in pair), [
            process.communicate() for process in pair
        ]
        time.sleep(0.05)
    return pair


@pytest.mark.slow
@pytest.mark.parametrize('killed', [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_is_killed_ends_the_other(tmp_path, killed):
    pair = _training_pair(tmp_path)
    pair[killed].kill()
    survivor = pair[1 - killed]
    try:
        error = survivor.communicate(timeout=SECONDS)[1]
    finally:
        survivor.kill()
    assert survivor.returncode == (1 if killed else -signal.SIGABRT) or 'error: processes' in error
    assert 'Traceback' not in error


@pytest.mark.slow
def test_sigterm_ends_a_process_that_waits_for_another(tmp_path):
    pair = _training_pair(tmp_path, SEGJAX_STOP_SECONDS='2')
    pair[1].send_signal(signal.SIGSTOP)
    time.sleep(1)  # process 0 is in a collective by now
    pair[0].send_signal(signal.SIGTERM)
    try:
        error = pair[0].communicate(timeout=SECONDS)[1]
    finally:
        pair[1].kill()
    assert pair[0].returncode == 75, error
    assert (
        'preempted: told to stop, and 2 s later still at work' in error and 'Traceback' not in error
    )
