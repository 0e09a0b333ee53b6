"""The pipeline that uses the whole contract: kills, devices and processes."""

import random
import subprocess
import sys
import time

import compiler
import contract_run
import numpy as np
import pytest
from run_folders import ENVIRONMENT, HELPERS, assert_same_run, free_port

from segjax.train import driver
from segjax.train.product_files import PRODUCTS

STAGES = ('locate', 'segment')

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
    script = str(HELPERS / 'contract_run.py')
    command = [sys.executable, script, str(folder / 'run'), str(folder / 'cache'), *pairs]
    env = {**ENVIRONMENT, 'XLA_FLAGS': compiler.devices(devices)}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*programs):
    """Waits for programs, which must succeed."""
    outputs = [program.communicate(timeout=300)[0] for program in programs]
    for program, output in zip(programs, outputs, strict=True):
        assert program.returncode == 0, output[-3000:]


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
    batch = dict(batch_size=8)
    config = contract_run.make_config(folder / 'cache', train=batch, evaluate=batch)
    driver.train(config, str(folder / 'run'))
    return folder


@pytest.mark.devices(8)
def test_a_single_device_equals_eight_devices(eight, tmp_path):
    finish(start(tmp_path, 'batch_size=8'))
    assert_close(eight, tmp_path)


@pytest.mark.devices(8)
def test_two_processes_equal_a_single_process(eight, tmp_path):
    settings = ('batch_size=8', f'port={free_port()}', 'num_processes=2')
    finish(*(start(tmp_path, *settings, f'process_id={i}', devices=2) for i in range(2)))
    assert_close(eight, tmp_path)
