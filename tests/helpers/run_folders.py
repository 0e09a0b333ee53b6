"""Run folders in tests: what is in them, whether two are equal, and stopping a run at a step."""

import pathlib

import numpy as np
import orbax.checkpoint as ocp

from segjax.core import trees
from segjax.train import driver
from segjax.train.stop import StopSignal


def final_state(workdir, stage='adversarial'):
    """Arrays of the newest checkpoint by path, read without any of our classes."""
    steps = [p for p in (workdir / stage / 'checkpoints').iterdir() if p.name.isdigit()]
    newest = max(steps, key=lambda p: int(p.name))
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(newest / 'state')
    return {name: np.asarray(leaf) for name, leaf in trees.named_leaves(tree).items()}


def assert_same_run(a: pathlib.Path, b: pathlib.Path, stages=('pretrain', 'adversarial')):
    """Bit for bit: every array of every stage's last checkpoint, every logged metric, every score."""
    for stage in stages:
        state_a, state_b = final_state(a, stage), final_state(b, stage)
        assert state_a.keys() == state_b.keys()
        for name in state_a:
            np.testing.assert_array_equal(state_a[name], state_b[name], err_msg=name)
        for name in ('metrics.jsonl', 'scores.json'):
            assert (a / stage / name).read_bytes() == (b / stage / name).read_bytes(), (
                f'{stage}/{name}'
            )


def stop_at(monkeypatch, stage, step):
    """Lets the run believe in a SIGTERM during that step."""
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
