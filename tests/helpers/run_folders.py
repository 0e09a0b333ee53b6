"""Run folders in tests: their arrays, the comparison of two folders, a stop at a given step."""

import pathlib
import socket

import chex
import numpy as np
import orbax.checkpoint as ocp

from segjax.core import trees
from segjax.train import driver
from segjax.train.stop import StopSignal


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
