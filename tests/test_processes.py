"""A whole run, two stages and all, in one process on one device and in two processes of two devices: one result."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import compiler
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

HELPERS = pathlib.Path(__file__).parent / 'helpers'
NUM_STEPS = 4
# What depends on how the batch is dealt out is off: noise is drawn per device, and Adam turns the rounding noise of a
# zero gradient into full steps.
SETTINGS = ('noise=0', 'optimiser=sgd')


def start(workdir, devices, *settings, num_steps=NUM_STEPS):
    env = {
        **os.environ,
        'XLA_FLAGS': compiler.devices(devices),
        'PYTHONPATH': os.pathsep.join([str(HELPERS.parent.parent), str(HELPERS)]),
    }
    command = [sys.executable, str(HELPERS / 'toy_run.py'), str(workdir), str(num_steps), *SETTINGS, *settings]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-3000:]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def result(workdir, num_steps=NUM_STEPS):
    """(arrays by name, training losses, scores) of the last stage."""
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(workdir / f'adversarial/checkpoints/{num_steps}/state')
    lines = map(json.loads, (workdir / 'adversarial/metrics.jsonl').read_text().splitlines())
    losses = [line['loss'] for line in lines if line['kind'] == 'train']
    return traverse_util.flatten_dict(state, sep='/'), losses, json.loads((workdir / 'scores.json').read_text())


@pytest.fixture(scope='module')
def one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('one')
    finish(start(workdir, 1))
    return result(workdir)


@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
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
        return [start(workdir, 1, *settings, f'process_id={i}', num_steps=num_steps) for i in range(2)]

    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    finish(*start_pair(whole))
    pair = start_pair(stopped)
    log = stopped / 'adversarial/metrics.jsonl'
    while all(p.poll() is None for p in pair) and not (log.exists() and log.read_bytes().count(b'\n') >= 3):
        time.sleep(0.01)
    pair[1].send_signal(signal.SIGTERM)
    outputs = [p.communicate(timeout=300)[0] for p in pair]
    steps = {re.search(r"Preempted: stage 'adversarial' saved at step (\d+)", output).group(1) for output in outputs}
    assert len(steps) == 1 and 4 <= int(steps.pop()) < num_steps
    finish(*start_pair(stopped))
    for name in ('adversarial/metrics.jsonl', 'scores.json'):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    arrays, expected = result(stopped, num_steps)[0], result(whole, num_steps)[0]
    for name in expected:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)
