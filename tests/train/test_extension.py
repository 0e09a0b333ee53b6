"""Training longer than planned in the same run folder: changes, refusals, and stops on the way."""

import json
import shutil

import numpy as np
import pytest
import toy_run
from run_folders import assert_same_run, final_state, stop_at

from segjax import config as config_lib
from segjax.config import config_file
from segjax.errors import InputError
from segjax.train import driver, extension, initialization
from segjax.train.stop import Preempted

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')


def longer(num_steps=9, **sections):
    return toy_run.make_config(train=dict(num_steps=num_steps), **sections)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Returns the folder of a run of 3 and 5 steps."""
    workdir = tmp_path_factory.mktemp('short') / 'run'
    driver.train(toy_run.make_config(), str(workdir))
    return workdir


@pytest.fixture(scope='module')
def extended(finished, tmp_path_factory):
    """Returns the folder of the run, trained for 4 more steps, and its scores."""
    workdir = shutil.copytree(finished, tmp_path_factory.mktemp('long') / 'run')
    return workdir, driver.train(longer(), str(workdir), extend=True)


def test_more_steps_need_the_flag_and_the_error_names_it(finished):
    with pytest.raises(InputError, match=r'train\.num_steps: 5, now 9') as caught:
        driver.train(longer(), str(finished))
    assert '--extend' in caught.value.fix


def test_the_state_goes_on_from_the_last_step(finished, extended):
    workdir, scores = extended
    before, after = final_state(finished), final_state(workdir)
    assert (before['step'], after['step']) == (5, 9)
    counts = [name for name in after if name.endswith('count')]
    assert counts and all(after[name] == 9 for name in counts), 'the optimiser did not start anew'
    np.testing.assert_array_equal(
        before['params/backbone/Conv_0/kernel'], after['params/backbone/Conv_0/kernel']
    )
    lines = [
        json.loads(line)
        for line in (workdir / 'adversarial/metrics.jsonl').read_text().splitlines()
    ]
    assert [(r['step'], r['kind']) for r in lines] == [
        (2, 'train'), (3, 'eval'), (4, 'train'), (5, 'train'), (5, 'eval'),
        (6, 'train'), (6, 'eval'), (8, 'train'), (9, 'train'), (9, 'eval'),
    ]  # fmt: skip
    assert scores['adversarial']['made_by']['step'] == 9
    assert scores['adversarial']['made_by']['config']['train']['num_steps'] == 9


def test_the_plans_before_are_kept(extended, tmp_path):
    start = json.loads((extended[0] / 'start.json').read_text())
    assert start['steps'] == [3, 9] and start['plans_before'] == [{'steps': [3, 5], 'done': [3, 5]}]
    copy = shutil.copytree(extended[0], tmp_path / 'copy')
    driver.train(longer(10), str(copy), extend=True)
    start = json.loads((copy / 'start.json').read_text())
    assert start['steps'] == [3, 10]
    assert start['plans_before'][1:] == [{'steps': [3, 9], 'done': [3, 9]}]


@pytest.mark.slow
@pytest.mark.parametrize(
    'stop, again',
    [
        (6, False),
        (7, True),
        pytest.param(6, True, marks=pytest.mark.slow),
        pytest.param(7, False, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_it_is_bit_identical(
    finished, extended, tmp_path, monkeypatch, stop, again
):
    copy = shutil.copytree(finished, tmp_path / 'copy')
    stop_at(monkeypatch, 'adversarial', stop)
    with pytest.raises(Preempted, match=f'step {stop}'):
        driver.train(longer(), str(copy), extend=True)
    monkeypatch.undo()
    assert driver.train(longer(), str(copy), extend=again) == extended[1]
    assert_same_run(extended[0], copy)
    assert (copy / 'start.json').read_bytes() == (extended[0] / 'start.json').read_bytes()


def test_a_start_that_was_killed_between_its_files_comes_again(finished, extended, tmp_path):
    copy = shutil.copytree(finished, tmp_path / 'copy')
    shutil.copy(extended[0] / 'start.json', copy)  # config.json is still that of the plan before
    assert driver.train(longer(), str(copy), extend=True) == extended[1]
    assert (copy / 'start.json').read_bytes() == (extended[0] / 'start.json').read_bytes()


@pytest.mark.slow
def test_a_run_that_is_not_finished_is_extended_too(finished, tmp_path, monkeypatch):
    for name in ('stopped', 'whole'):
        stop_at(monkeypatch, 'adversarial', 3)
        with pytest.raises(Preempted):
            driver.train(toy_run.make_config(), str(tmp_path / name))
        monkeypatch.undo()
    driver.train(longer(), str(tmp_path / 'whole'), extend=True)
    stop_at(monkeypatch, 'adversarial', 4)
    with pytest.raises(Preempted):
        driver.train(longer(), str(tmp_path / 'stopped'), extend=True)
    monkeypatch.undo()
    driver.train(longer(), str(tmp_path / 'stopped'))
    assert_same_run(tmp_path / 'whole', tmp_path / 'stopped')
    start = json.loads((tmp_path / 'whole/start.json').read_text())
    assert start['plans_before'] == [{'steps': [3, 5], 'done': [3, 3]}]


def test_a_later_stage_that_began_from_the_shorter_training_is_refused(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / 'copy')
    config = toy_run.make_config(pretrain=dict(num_steps=4))
    with pytest.raises(
        InputError, match="'pretrain', from whose shorter training stage 'adversarial'"
    ) as caught:
        driver.train(config, str(copy), extend=True)
    command = caught.value.fix.partition(' trains')[0]
    assert command == f'rm -r {copy}/adversarial'
    shutil.rmtree(command.split()[-1])
    driver.train(config, str(copy), extend=True)
    whole = [final_state(copy, stage)['step'] for stage in ('pretrain', 'adversarial')]
    assert whole == [4, 5]


def test_the_stages_that_a_stage_reads_are_known(tmp_path):
    run, (first, second) = driver.open_run(toy_run.make_config(), str(tmp_path), 'train')
    states = initialization.abstract_states(run, (first, second))
    assert initialization.read_by_init(run, first, {}) == set()
    earlier = {'pretrain': states['pretrain'], 'unrelated': states['pretrain']}
    assert initialization.read_by_init(run, second, earlier) == {'pretrain'}


def test_stages_that_are_compared_may_all_train_longer(tmp_path):
    """CycleGANs with different injectors begin from the first stage, not from each other."""
    config = config_file.load('configs/noise_cyclegan.py:smoke')
    config_file.assign(config, [config_file.Assignment('compare', "('none',)")])
    config.start.num_steps = 2
    run, stages = driver.checked_run(config, str(tmp_path), 'train', trace_steps=False)
    assert len(stages) >= 3
    states = initialization.abstract_states(run, stages)
    for stage in stages[1:]:
        earlier = {before.name: states[before.name] for before in stages[: stages.index(stage)]}
        assert initialization.read_by_init(run, stage, earlier) == {'start'}, stage.name


@pytest.mark.parametrize(
    'config, message, fix',
    [
        (lambda: longer(4), 'train.num_steps: 5, now 4', '--config.train.num_steps=5'),
        (lambda: longer(9, seed=1), 'seed: 0, now 1; train.num_steps: 5, now 9', 'undo the change'),
        (
            lambda: toy_run.make_config(optim=dict(warmup_steps=1)),
            'optim.warmup_steps: 0, now 1',
            'undo the change',
        ),
    ],
)
def test_nothing_but_more_steps_is_allowed(finished, config, message, fix):
    with pytest.raises(InputError, match=message) as caught:
        driver.train(config(), str(finished), extend=True)
    assert caught.value.fix.startswith(fix)


def test_the_plan_before_the_extension_is_refused_with_the_steps_to_type(extended):
    with pytest.raises(InputError, match=r'train\.num_steps: 9, now 5') as caught:
        driver.train(longer(5), str(extended[0]))
    assert caught.value.fix == '--config.train.num_steps=9, as planned'


def test_there_must_be_something_to_extend(tmp_path):
    with pytest.raises(InputError, match='no checkpoint in'):
        driver.train(longer(), str(tmp_path / 'run'), extend=True)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'settings, text',
    [
        (
            dict(schedule='constant'),
            'optim (constant): the learning rate at step 100 was 0.5 and stays',
        ),
        (dict(schedule='poly', power=1.0), 'at step 100 was 0 and is 0.25 now: it jumps up'),
        (dict(schedule='cosine'), 'at step 100 was 0 and is 0.25 now: it jumps up'),
        (
            dict(schedule='step', milestones=(0.4, 0.75), step_factor=0.1),
            'at step 100 was 0.005 and is 0.05 now: it jumps up; '
            'the milestones (0.4, 0.75) move from steps 40, 75 to 80, 150',
        ),
        (
            dict(schedule='step', milestones=(40, 75), step_factor=0.1),
            'at step 100 was 0.005 and stays',
        ),
    ],
)
def test_what_a_longer_plan_does_to_the_learning_rate_is_said(settings, text):
    config = config_lib.defaults('supervised')
    config_lib.update(config, optim=dict(learning_rate=0.5, **settings))
    lines = extension.describe(config, 'segmentation', (100, 200), 100).splitlines()
    assert (
        lines[0]
        == "stage 'segmentation' trains longer: 200 steps instead of 100, of which 100 are done"
    )
    assert len(lines) == 2 and lines[1].endswith(text)
