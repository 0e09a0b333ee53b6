"""Run folders in tests: their arrays, the comparison of two folders, stops and kills."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import chex
import compiler
import numpy as np
import orbax.checkpoint as ocp

from segjax.core import trees
from segjax.train import driver
from segjax.train.stop import StopSignal

HELPERS = pathlib.Path(__file__).resolve().parent
REPOSITORY = HELPERS.parents[1]
ENVIRONMENT = {
    **os.environ,
    'XLA_FLAGS': compiler.QUICKLY,
    'PYTHONPATH': os.pathsep.join([str(REPOSITORY), str(HELPERS)]),
}


def final_state(workdir, stage='adversarial'):
    """Returns the arrays of the newest checkpoint by path, read without any class of ours."""
    steps = [p for p in (workdir / stage / 'checkpoints').iterdir() if p.name.isdigit()]
    newest = max(steps, key=lambda p: int(p.name))
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(newest / 'state')
    return {name: np.asarray(leaf) for name, leaf in trees.named_leaves(tree).items()}


def assert_same_run(a: pathlib.Path, b: pathlib.Path, stages=('pretrain', 'adversarial')):
    """Checks that checkpoints, metrics and scores of all stages are equal bit for bit."""
    for stage in stages:
        chex.assert_trees_all_equal(final_state(a, stage), final_state(b, stage), strict=True)
        for name in ('metrics.jsonl', 'scores.json'):
            assert (a / stage / name).read_bytes() == (b / stage / name).read_bytes(), (
                f'{stage}/{name}'
            )


def stop_at(monkeypatch, stage, step):
    """Makes the run act as if SIGTERM arrived during a step of a stage."""
    here = []

    def map_functions(run, entered, original=driver.map_functions):
        here[:] = [entered.name, 0]
        return original(run, entered)

    def due(run, step, num_steps, original=driver._due):
        here[1] = step
        return original(run, step, num_steps)

    monkeypatch.setattr(driver, 'map_functions', map_functions)
    monkeypatch.setattr(driver, '_due', due)
    monkeypatch.setattr(StopSignal, 'reached', lambda self: here == [stage, step])


def free_port() -> int:
    """Returns a port of this machine that no program listens to."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def run_to_the_end(command):
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


def start_program(script: str, *arguments, devices: int = 1) -> subprocess.Popen:
    """Starts a file of this folder as a program on simulated devices. Its output can be read."""
    command = [sys.executable, str(HELPERS / script), *map(str, arguments)]
    env = {**ENVIRONMENT, 'XLA_FLAGS': compiler.devices(devices)}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*programs):
    """Waits for programs, which must succeed."""
    outputs = [program.communicate(timeout=300)[0] for program in programs]
    for program, output in zip(programs, outputs, strict=True):
        assert program.returncode == 0, output[-3000:]


def kill_on_the_way(command, stage_folder, more_lines: int, while_saving: bool):
    """Kills the command when the log has `more_lines`, or in the next write of a checkpoint."""
    log = stage_folder / 'metrics.jsonl'
    lines = (log.read_bytes().count(b'\n') if log.exists() else 0) + more_lines
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        # A restarted run first drops the lines after its checkpoint, then writes them again.
        far_enough = log.exists() and log.read_bytes().count(b'\n') >= lines
        if far_enough and (not while_saving or list((stage_folder / 'checkpoints').glob('*tmp*'))):
            break
        time.sleep(0.001)
    assert process.poll() is None, 'it was over before it could be killed'
    process.kill()
    process.wait()
