"""A whole run in one process on one device, in one on four, and in two processes of two devices each: one result."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

HELPERS = pathlib.Path(__file__).parent / 'helpers'


def start(workdir, mode, devices, *arguments):
    env = {
        **os.environ,
        'JAX_ENABLE_X64': '1',
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
        'PYTHONPATH': os.pathsep.join([str(HELPERS.parent.parent), str(HELPERS)]),
    }
    command = [sys.executable, str(HELPERS / 'supervised_process.py'), str(workdir), mode, *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-3000:]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def result(workdir):
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(workdir / 'segmentation/checkpoints/3/state')
    losses = [
        json.loads(line)['loss'] for line in (workdir / 'segmentation/metrics.jsonl').read_text().splitlines()[:3]
    ]
    return (
        traverse_util.flatten_dict(state['params'], sep='/'),
        losses,
        json.loads((workdir / 'scores.json').read_text()),
    )


@pytest.fixture(scope='module')
def one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('one')
    finish(start(workdir, 'pmap', 1))
    return result(workdir)


@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
def test_two_processes_of_two_devices_equal_one_device(one_device, tmp_path, mode):
    port = free_port()
    finish(*(start(tmp_path, mode, 2, port, i, 2) for i in range(2)))
    params, losses, scores = result(tmp_path)
    expected, expected_losses, expected_scores = one_device
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert params.keys() == expected.keys()
    for name in params:
        np.testing.assert_allclose(params[name], expected[name], atol=1e-5, err_msg=name)
    matrices = [np.array(s['segmentation']['confusion']) for s in (scores, expected_scores)]
    # Every labelled pixel counts once; where two classes tie, the last bit may decide.
    np.testing.assert_array_equal(matrices[0].sum(1), matrices[1].sum(1))
    assert np.abs(matrices[0] - matrices[1]).sum() <= 1e-3 * matrices[1].sum()
