"""The loop, through a toy pipeline with two stages, two optimisers, a frozen net and an array in `extra`."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import toy_run

from segjax import checkpoints, driver, health
from segjax.errors import InputError

HELPERS = pathlib.Path(__file__).parent / 'helpers'


def final_state(workdir, stage='adversarial'):
    """Arrays of the newest checkpoint by path, read without any of our classes."""
    steps = [p for p in (workdir / stage / 'checkpoints').iterdir() if p.name.isdigit()]
    newest = max(steps, key=lambda p: int(p.name))
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(newest / 'state')
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {checkpoints.path_name(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_run(a: pathlib.Path, b: pathlib.Path):
    """Bit for bit: every array of every stage's last checkpoint, every logged metric, every score."""
    for stage in ('pretrain', 'adversarial'):
        state_a, state_b = final_state(a, stage), final_state(b, stage)
        assert state_a.keys() == state_b.keys()
        for name in state_a:
            np.testing.assert_array_equal(state_a[name], state_b[name], err_msg=name)
        for name in ('metrics.jsonl', 'scores.json'):
            assert (a / stage / name).read_bytes() == (b / stage / name).read_bytes(), f'{stage}/{name}'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run that nothing ever disturbed."""
    workdir = tmp_path_factory.mktemp('toy') / 'run'
    scores = driver.train(toy_run.make_config(), str(workdir))
    return workdir, scores


def test_stages_run_in_order_and_hand_on_their_state(finished):
    workdir, scores = finished
    assert list(scores) == ['pretrain', 'adversarial']
    first, second = final_state(workdir, 'pretrain'), final_state(workdir)
    assert second['step'] == 5 and first['step'] == 3

    def changed(name):
        return not np.array_equal(first[name], second[name])

    assert not changed('params/backbone/Conv_0/kernel'), 'a net that no optimiser owns is frozen'
    assert changed('params/head/kernel') and second['params/critic/kernel'].any()
    assert not changed('model_state/backbone/batch_stats/BatchNorm_0/mean')
    optimisers = {name.split('/')[1] for name in second if name.startswith('opt_state')}
    assert optimisers == {'head', 'critic'}
    assert second['extra/mean_prediction'].sum() == pytest.approx(1 - 0.9**5, rel=1e-4)


def test_the_run_folder_holds_what_the_readme_promises(finished):
    workdir, _ = finished
    for name in ('config.json', 'environment.json', 'scores.json', 'report.html', 'adversarial/timing.jsonl'):
        assert (workdir / name).stat().st_size > 0, name
    lines = [json.loads(line) for line in (workdir / 'adversarial/metrics.jsonl').read_text().splitlines()]
    assert [(r['step'], r['kind']) for r in lines] == [
        (2, 'train'), (3, 'eval'), (4, 'train'), (5, 'train'), (5, 'eval'),
    ]  # fmt: skip
    assert list((workdir / 'adversarial/tensorboard').glob('events*'))


def test_a_finished_run_that_is_started_again_only_evaluates(finished, tmp_path):
    workdir, scores = finished
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    assert driver.train(toy_run.make_config(), str(copy)) == scores
    assert_same_run(workdir, copy)
    assert driver.evaluate(toy_run.make_config(), str(copy)) == scores


@pytest.mark.parametrize('stops', [('pretrain', 1), ('adversarial', 1), ('adversarial', 3)])
def test_preempted_and_resumed_is_bit_identical(finished, tmp_path, monkeypatch, stops):
    workdir, scores = finished
    stage, step = stops
    current = []
    monkeypatch.setattr(
        driver, 'map_functions', lambda run, s, f=driver.map_functions: current.append(s.name) or f(run, s)
    )
    monkeypatch.setattr(health.StopSignal, 'reached', lambda self, s: (current[-1], s) == (stage, step))
    with pytest.raises(health.Preempted, match=f'{stage}.*step {step}'):
        driver.train(toy_run.make_config(), str(tmp_path))
    assert (tmp_path / 'report.html').exists(), 'the curves so far can be looked at'
    monkeypatch.undo()
    assert driver.train(toy_run.make_config(), str(tmp_path)) == scores
    assert_same_run(workdir, tmp_path)


def test_sigterm_asks_for_a_stop_and_the_old_handler_returns():
    before = signal.getsignal(signal.SIGTERM)
    with health.StopSignal() as stop:
        assert not stop.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop.reached(2)
    assert signal.getsignal(signal.SIGTERM) == before


def start(workdir, num_steps):
    env = {
        **os.environ,
        'XLA_FLAGS': '',
        'PYTHONPATH': os.pathsep.join([str(HELPERS.parent.parent), str(HELPERS)]),
    }
    command = [sys.executable, str(HELPERS / 'toy_run.py'), str(workdir), str(num_steps)]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_killed_at_random_moments_and_restarted_is_bit_identical(tmp_path):
    """SIGKILL after some log lines, and in the middle of a checkpoint write. One device, in processes of its own."""
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    num_steps = 30
    process = start(whole, num_steps)
    assert process.wait(300) == 0, process.stderr.read()[-2000:]
    draw = random.Random(0)
    for kill in ('log', 'save'):
        process = start(killed, num_steps)
        log = killed / 'adversarial' / 'metrics.jsonl'
        lines = draw.randint(2, 8) + (8 if kill == 'save' else 0)
        while process.poll() is None:
            if log.exists() and log.read_bytes().count(b'\n') >= lines:
                unfinished = list((killed / 'adversarial/checkpoints').glob('*tmp*'))
                if kill == 'log' or unfinished:
                    break
            time.sleep(0.001)
        assert process.poll() is None, 'it was over before it could be killed: ' + process.stderr.read()[-2000:]
        process.kill()
        process.wait()
    process = start(killed, num_steps)
    assert process.wait(300) == 0, process.stderr.read()[-2000:]
    assert_same_run(whole, killed)


def test_divergence_names_step_and_group_and_keeps_the_good_checkpoint(tmp_path):
    config = toy_run.make_config(
        # The warm-up starts at rate 0, so the first step is harmless and the second is not.
        optim=dict(name='sgd', learning_rate=1e38, warmup_steps=3),
        run=dict(checkpoint_every=1),
    )
    with pytest.raises(health.Diverged) as error:
        driver.train(config, str(tmp_path))
    assert "'pretrain', step 2" in str(error.value)
    assert 'backbone/Conv_0' in str(error.value)
    assert 'last good checkpoint: step 1' in str(error.value)
    assert 'learning_rate' in str(error.value)
    assert all(np.isfinite(x).all() for x in final_state(tmp_path, 'pretrain').values())


def test_a_workdir_of_another_config_is_refused_with_the_key(finished):
    workdir, _ = finished
    with pytest.raises(InputError, match=r'train.batch_size: 8, now 16'):
        driver.train(toy_run.make_config(train=dict(batch_size=16)), str(workdir))
    # What does not change the result may change.
    driver.train(toy_run.make_config(data=dict(threads=0), parallel=dict(mode='shard_map')), str(workdir))


def test_checks_come_before_compilation(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, 'jit', lambda *a, **k: pytest.fail('compiled before the input was checked'))
    with pytest.raises(InputError, match='multiple of 8'):
        driver.train(toy_run.make_config(train=dict(batch_size=12)), str(tmp_path))


def test_evaluating_what_was_never_trained_says_so(tmp_path):
    with pytest.raises(InputError, match='train first'):
        driver.evaluate(toy_run.make_config(), str(tmp_path))
