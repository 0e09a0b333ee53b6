"""The loop, through a toy pipeline with two stages, two optimisers and a frozen net."""

import gc
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time
import types
import weakref

import jax
import numpy as np
import pytest
import toy_run
from run_folders import assert_same_run, final_state, kill_on_the_way, run_to_the_end, stop_at

from segjax import data
from segjax.config import config_file
from segjax.core import parallel
from segjax.data import loader
from segjax.errors import InputError
from segjax.modes import bench
from segjax.protocol import Input
from segjax.train import checkpoints, divergence, driver, evaluation, initialization, opening
from segjax.train.stop import Preempted, StopSignal

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

HELPERS = pathlib.Path(__file__).resolve().parents[1] / 'helpers'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Returns the folder and the scores of an undisturbed run."""
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
    for name in (
        'config.json',
        'environment.json',
        'scores.json',
        'report.html',
        'adversarial/timing.jsonl',
    ):
        assert (workdir / name).stat().st_size > 0, name
    lines = [
        json.loads(line)
        for line in (workdir / 'adversarial/metrics.jsonl').read_text().splitlines()
    ]
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
    stop_at(monkeypatch, *stops)
    with pytest.raises(Preempted, match='{}.*step {}'.format(*stops)):
        driver.train(toy_run.make_config(), str(tmp_path))
    assert (tmp_path / 'report.html').exists(), 'the curves so far can be looked at'
    monkeypatch.undo()
    assert driver.train(toy_run.make_config(), str(tmp_path)) == scores
    assert_same_run(workdir, tmp_path)


@pytest.mark.parametrize('batch, step', [(1, 3), (4, 5)])  # an evaluation has two batches
def test_stopped_in_an_evaluation_the_next_start_makes_it(
    finished, tmp_path, monkeypatch, batch, step
):
    """The stop comes before the n-th evaluation batch of the second stage."""
    workdir, _ = finished
    asked = []
    inside = []

    def totals(run, stage, *args, original=evaluation.totals):
        inside.append(stage.name)
        try:
            return original(run, stage, *args)
        finally:
            inside.clear()

    def reached(_):
        asked.extend(inside)
        return bool(inside) and asked.count('adversarial') == batch

    monkeypatch.setattr(evaluation, 'totals', totals)
    monkeypatch.setattr(StopSignal, 'reached', reached)
    with pytest.raises(Preempted, match=f"'adversarial' saved at step {step}"):
        driver.train(toy_run.make_config(), str(tmp_path))
    monkeypatch.undo()
    driver.train(toy_run.make_config(), str(tmp_path))
    assert_same_run(workdir, tmp_path)


def kept_checkpoints(workdir, stage='adversarial'):
    """Returns the saved steps of a stage and the best step."""
    with checkpoints.Checkpoints(
        workdir / stage / 'checkpoints', ('mIoU', 'max'), read_only=True
    ) as saved:
        return saved.steps(), saved.best_step()


@pytest.mark.slow
@pytest.mark.parametrize('best', [1, 3])
@pytest.mark.parametrize('stopped', [1, 3])
def test_stopped_in_an_evaluation_the_same_checkpoints_are_kept(
    tmp_path, monkeypatch, best, stopped
):
    """The evaluation of the best or another step is cut short: its checkpoint gets the score."""
    config = toy_run.make_config(
        pretrain=dict(num_steps=0),
        train=dict(num_steps=3),
        logging=dict(eval_every=1, keep_last=1, num_pictures=0),
    )
    begun = []

    def totals(run, stage, functions, state, stop=None, original=driver._evaluate):
        step = int(np.asarray(state.step))
        begun.append((stage.name, step))
        if told and step == stopped and begun.count(('adversarial', stopped)) == 1:
            raise Preempted('in the evaluation')
        sums = original(run, stage, functions, state, stop)
        counts = np.zeros_like(sums['confusion'].sum)
        counts[:2, :2] = np.eye(2) if step == best else 1 + step
        return {**sums, 'confusion': sums['confusion']._replace(sum=counts)}

    monkeypatch.setattr(driver, '_evaluate', totals)
    told = False
    driver.train(config, str(tmp_path / 'whole'))
    told = True
    begun.clear()
    with pytest.raises(Preempted, match=f'step {stopped}'):
        driver.train(config, str(tmp_path / 'stopped'))
    driver.train(config, str(tmp_path / 'stopped'))
    assert kept_checkpoints(tmp_path / 'stopped') == kept_checkpoints(tmp_path / 'whole')
    assert kept_checkpoints(tmp_path / 'whole') == (sorted({best, 3}), best)
    assert_same_run(tmp_path / 'whole', tmp_path / 'stopped', ('adversarial',))


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_run_goes_on(
    finished, tmp_path, monkeypatch
):
    workdir, _ = finished
    stop_at(monkeypatch, 'adversarial', 3)
    with pytest.raises(Preempted):
        driver.train(toy_run.make_config(), str(tmp_path))
    monkeypatch.undo()
    for part in (tmp_path / 'adversarial/checkpoints/3/state').rglob('*'):
        if part.is_file():
            part.write_bytes(b'')
    driver.train(toy_run.make_config(), str(tmp_path))
    assert_same_run(workdir, tmp_path)
    assert list((tmp_path / 'adversarial/checkpoints').glob('damaged_3_*'))


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with opening.locked(tmp_path), pytest.raises(InputError, match='another process is training'):
        driver.train(toy_run.make_config(), str(tmp_path))


def test_a_start_that_failed_before_its_first_checkpoint_binds_nobody(tmp_path):
    (tmp_path / 'config.json').write_text('{"pipeline": "toy", "train": {"batch_size": 3}}')
    driver.train(
        toy_run.make_config(pretrain=dict(num_steps=1), train=dict(num_steps=1)), str(tmp_path)
    )


@pytest.mark.parametrize('name', ['3.orbax-checkpoint-tmp', 'damaged_3_1700000000'])
def test_a_run_that_was_killed_in_its_first_save_takes_a_corrected_config(finished, tmp_path, name):
    """The folder also holds spec.json, start.json and a log of the start before."""
    workdir, scores = finished
    copy = with_spec(finished, tmp_path, lambda spec: spec['num_examples'].update(train=17))
    for saved in (copy / 'pretrain/checkpoints', copy / 'adversarial/checkpoints'):
        max(saved.glob('[0-9]')).rename(tmp_path / 'whole')
        shutil.rmtree(saved)
        saved.mkdir()
        (tmp_path / 'whole').rename(saved / name)
    stored = json.loads((copy / 'config.json').read_text())
    stored['optim']['learning_rate'] = 7.0
    (copy / 'config.json').write_text(json.dumps(stored))
    (copy / 'start.json').write_text(
        json.dumps({'stages': ['other'], 'steps': [1], 'init_from': {}, 'digest': 'x'})
    )
    assert driver.train(toy_run.make_config(), str(copy)) == scores
    assert_same_run(workdir, copy)
    assert (copy / 'start.json').read_bytes() == (workdir / 'start.json').read_bytes()
    assert (copy / 'spec.json').read_bytes() == (workdir / 'spec.json').read_bytes()


def test_a_spec_of_another_version_is_an_error_with_its_name(finished, tmp_path):
    copy = with_spec(finished, tmp_path, lambda spec: spec.update(colour_space='sRGB'))
    for call in (driver.train, driver.evaluate):
        with pytest.raises(InputError, match=r"spec\.json[\s\S]*'colour_space'"):
            call(toy_run.make_config(), str(copy))
    with pytest.raises(InputError, match='colour_space'):
        driver.open_run(toy_run.make_config(), str(copy), 'predict')


@pytest.mark.parametrize(
    'name, text, message',
    [
        ('config.json', '{}', "no 'pipeline'"),
        ('config.json', '[]', r'list \[\]'),
        ('config.json', '{"pipe', 'Unterminated string'),
        ('config.json', '{"pipeline": 3}', r'config\.pipeline'),
        ('config.json', '{"pipeline": "toy", "train": 5}', r'config\.train'),
        ('config.json', '{"pipeline": "toy", "train": {"nosuch": 1}}', r'config\.train\.nosuch'),
        ('config.json', '{"pipeline": "supervised", "model": 3}', r'config\.model\.name'),
        (
            'config.json',
            '{"pipeline": "supervised", "model": {"width": 1.0}}',
            r'config\.model\.name',
        ),
        ('spec.json', '5', 'int 5'),
        ('spec.json', '{"classes": 1, "num_examples": 2}', 'fields of DataSpec'),
        ('start.json', '[]', r'list \[\]'),
        ('start.json', '{}', "no 'stages'"),
        ('start.json', '{"stages": 4}', 'stages: 4'),
        ('pretrain/scores.json', '[]', r'list \[\]'),
    ],
)
def test_a_file_of_a_run_folder_with_other_content_is_named_with_a_fix(
    finished, tmp_path, name, text, message
):
    copy = shutil.copytree(finished[0], tmp_path / 'copy')
    (copy / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        driver.train(toy_run.make_config(), str(copy))
    assert caught.value.where.startswith(str(copy / name))
    again, _, _ = caught.value.fix.partition(';')
    assert again in (f'rm {copy / name}',) or f'--config.init_from.path={copy}' in again
    if again.startswith('rm '):
        (copy / name).unlink()
        assert driver.train(toy_run.make_config(), str(copy)) == finished[1], 'the fix works'


def with_spec(finished, folder, change):
    """Returns a copy of the finished run whose spec.json was changed."""
    copy = shutil.copytree(finished[0], folder / 'copy')
    spec = json.loads((copy / 'spec.json').read_text())
    change(spec)
    (copy / 'spec.json').write_text(json.dumps(spec))
    return copy


def swap(names):
    names[:2] = names[1::-1]


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda spec: spec['num_examples'].update(train=17),
            "split 'train' has 16 examples, which were 17",
        ),
        (
            lambda spec: spec['max_size'].update(val=[32, 65]),
            r"'val' has \(32, 64\) pixels .*, which were \(32, 65\)",
        ),
        (
            lambda spec: spec['class_pixels']['val'].__setitem__(0, 9),
            "pixels of class 'road', which were 9",
        ),
        (
            lambda spec: spec['digest'].update(train='abc'),
            r"'train' has other content \(digest \w+, which was abc\)",
        ),
        (
            lambda spec: swap(spec['classes']['names']),
            'classes in another order: road, sidewalk.* was sidewalk, road',
        ),
        (
            lambda spec: spec['classes']['ids'].__setitem__(1, 99),
            r"another id of class 1 \('sidewalk'\): 8.* was 99",
        ),
    ],
    ids=['number', 'size', 'pixels', 'content', 'order', 'ids'],
)
def test_data_that_changed_since_is_refused(finished, tmp_path, change, message):
    copy = with_spec(finished, tmp_path, change)
    with pytest.raises(InputError, match=f'data that changed since: .*{message}') as caught:
        driver.train(toy_run.make_config(), str(copy))
    assert (
        caught.value.got != caught.value.expected
        and f'--config.init_from.path={copy}' in caught.value.fix
    )


@pytest.mark.parametrize(
    'change',
    [
        lambda spec: spec.pop('digest'),
        lambda spec: spec['classes']['palette'].__setitem__(0, [1, 2, 3]),
        lambda spec: [
            spec[key].update(test=spec[key]['val'])
            for key in ('num_examples', 'max_size', 'digest')
        ],
    ],
    ids=['older than the digest', 'other colours', 'a split that the run does not use'],
)
def test_a_run_resumes_if_its_data_are_what_they_were(finished, tmp_path, change):
    copy = with_spec(finished, tmp_path, change)
    assert driver.train(toy_run.make_config(), str(copy)) == finished[1]


def without_permission(monkeypatch, folder):
    monkeypatch.setattr(os, 'access', lambda path, mode: path != folder)


def test_scores_of_a_folder_that_cannot_be_written_to_are_printed(
    finished, tmp_path, monkeypatch, capsys
):
    copy = shutil.copytree(finished[0], tmp_path / 'copy')
    before = sorted(copy.rglob('*'))
    without_permission(monkeypatch, copy)
    scores = driver.evaluate(toy_run.make_config(), str(copy))
    assert scores == finished[1] and sorted(copy.rglob('*')) == before
    printed = capsys.readouterr().out
    assert f'no permission to write to {copy}: scores are printed, and not kept' in printed
    assert 'mIoU' in printed and 'scores_last.json' not in printed
    with pytest.raises(InputError, match='no permission'):
        driver.train(toy_run.make_config(), str(copy))


@pytest.mark.parametrize('mode', ['train', 'evaluate', 'predict'])
def test_an_edited_config_is_not_that_of_the_checkpoints(finished, tmp_path, mode):
    """Without --config, a command reads the config that somebody edited."""
    copy = shutil.copytree(finished[0], tmp_path / 'copy')
    stored = json.loads((copy / 'config.json').read_text())
    stored['noise'] = 0.5
    stored['train']['num_steps'] = 4
    (copy / 'config.json').write_text(json.dumps(stored))
    config = toy_run.make_config(noise=0.5, train=dict(num_steps=4))
    with pytest.raises(
        InputError, match=r'noise: 0\.1, now 0\.5; train\.num_steps: 5, now 4'
    ) as caught:
        driver.open_run(config, str(copy), mode) if mode == 'predict' else getattr(driver, mode)(
            config, str(copy)
        )
    assert caught.value.where == str(copy / 'config.json')
    assert caught.value.fix == 'undo the edit: noise = 0.1, train.num_steps = 5'


# --- the config of results ------------------------------------------------------------------------


@pytest.mark.parametrize('mode', ['evaluate', 'predict'])
@pytest.mark.parametrize(
    'changed, message',
    [
        (dict(noise=0.5), 'noise: 0.1, now 0.5'),
        (dict(data=dict(void_class=True)), 'data.void_class: False, now True'),
        (dict(optim=dict(learning_rate=1.0)), 'optim.learning_rate: 0.0005, now 1.0'),
    ],
)
def test_a_key_that_changes_what_the_net_means_is_refused(
    finished, monkeypatch, mode, changed, message
):
    monkeypatch.setattr(
        data,
        'prepare',
        lambda *_: pytest.fail('prepared before the config was checked'),
    )
    with pytest.raises(InputError, match=message) as caught:
        driver.open_run(toy_run.make_config(**changed), str(finished[0]), mode)
    assert caught.value.fix.startswith(f'--workdir {finished[0]} --mode {mode}')


def test_scores_say_what_they_were_made_with(finished, tmp_path, capsys):
    workdir, scores = finished
    made_by = json.loads((workdir / 'scores.json').read_text())['adversarial']['made_by']
    assert (
        made_by['step'] == 5
        and set(made_by['data']) == {'val'}
        and len(made_by['data']['val']) == 32
    )
    assert (
        made_by['config']['evaluate']['policy'] == 'cityscapes'
        and made_by['config']['noise'] == 0.1
    )
    assert scores['adversarial']['made_by'] == made_by
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    config = toy_run.make_config(
        evaluate=dict(policy='absent_zero', stride=0.5), data=dict(threads=2)
    )
    driver.evaluate(config, str(copy), 'best')
    stored = json.loads((copy / 'scores_best.json').read_text())['adversarial']['made_by']
    assert (
        stored['config']['evaluate']['stride'] == 0.5 and 'threads' not in stored['config']['data']
    )
    assert stored['config']['evaluate']['policy'] == 'absent_zero'
    assert f'scores: {copy}/scores_best.json' in capsys.readouterr().out


def test_data_with_other_classes_are_not_evaluated(finished, tmp_path):
    copy = with_spec(finished, tmp_path, lambda spec: swap(spec['classes']['names']))
    with pytest.raises(InputError, match='classes in another order: road, sidewalk'):
        driver.evaluate(toy_run.make_config(), str(copy))


@pytest.mark.parametrize('moved', [False, True])
def test_other_ids_are_those_of_another_data_set(finished, tmp_path, moved):
    copy = with_spec(finished, tmp_path, lambda spec: swap(spec['classes']['ids']))
    config = toy_run.make_config(data=dict(root=str(tmp_path) if moved else ''))
    if moved:
        assert (
            driver.evaluate(config, str(copy))['adversarial']['mIoU']
            == finished[1]['adversarial']['mIoU']
        )
    else:
        with pytest.raises(InputError, match=r"another id of class 0 \('road'\): 7, which was 8"):
            driver.evaluate(config, str(copy))


def test_scores_of_an_earlier_stage_are_made_anew_under_another_protocol(finished, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / 'copy')
    again = driver.train(
        toy_run.make_config(data=dict(eval_size=(32, 64)), evaluate=dict(batch_size=8)), str(copy)
    )
    assert again == finished[1]
    again = driver.train(toy_run.make_config(evaluate=dict(batch_size=16)), str(copy))
    assert again['pretrain']['made_by']['config']['evaluate']['batch_size'] == 16


def test_init_from_does_not_undo_an_earlier_stage(finished, tmp_path, monkeypatch):
    workdir, _ = finished
    load, loaded = checkpoints.load_params, []
    monkeypatch.setattr(checkpoints, 'load_params', lambda path: loaded.append(path) or load(path))
    config = toy_run.make_config(init_from=dict(path=str(workdir)), seed=1)
    driver.train(config, str(tmp_path))
    first, second = final_state(tmp_path, 'pretrain'), final_state(tmp_path)
    np.testing.assert_array_equal(
        second['params/backbone/Conv_0/kernel'], first['params/backbone/Conv_0/kernel']
    )
    assert not np.array_equal(
        first['params/backbone/Conv_0/kernel'],
        final_state(workdir)['params/backbone/Conv_0/kernel'],
    )
    assert loaded == [str(workdir)], 'once for both stages'


def test_a_later_stage_begins_from_the_start_of_its_run(finished, tmp_path):
    """A run that stopped between its stages begins the second stage from no other source."""
    copy = shutil.copytree(finished[0], tmp_path / 'copy')
    shutil.rmtree(copy / 'adversarial')
    (copy / 'scores.json').unlink()
    donor = toy_run.make_config(init_from=dict(path=str(finished[0] / 'pretrain')))
    with pytest.raises(InputError, match="'adversarial', which has not begun") as caught:
        driver.train(donor, str(copy))
    assert '--config.init_from.path=,' in caught.value.fix
    driver.train(toy_run.make_config(), str(copy))
    assert_same_run(finished[0], copy)


def test_a_later_stage_takes_the_same_nets_from_the_start_of_its_run(finished, tmp_path):
    source = str(finished[0] / 'pretrain')
    first = toy_run.make_config(seed=1, init_from=dict(path=source))
    driver.train(first, str(tmp_path / 'run'))
    shutil.rmtree(tmp_path / 'run/adversarial')
    fewer = toy_run.make_config(seed=1, init_from=dict(path=source, nets=('head/.*',)))
    with pytest.raises(InputError, match='nets'):
        driver.train(fewer, str(tmp_path / 'run'))
    with pytest.raises(InputError, match='digest of none'):
        driver.train(toy_run.make_config(seed=1), str(tmp_path / 'run'))
    driver.train(first, str(tmp_path / 'run'))


@pytest.fixture(scope='module')
def reused(finished, tmp_path_factory):
    """Returns folder, scores and config of a run whose first stage has 0 steps.

    That stage began from another run, which is then deleted.
    """
    source = shutil.copytree(finished[0], tmp_path_factory.mktemp('source') / 'run')
    workdir = tmp_path_factory.mktemp('reused') / 'run'
    config = toy_run.make_config(
        pretrain=dict(num_steps=0), seed=1, init_from=dict(path=str(source / 'pretrain'))
    )
    scores = driver.train(config, str(workdir))
    taken, trained = final_state(workdir, 'pretrain'), final_state(source, 'pretrain')
    for name in ('params/backbone/Conv_0/kernel', 'params/head/kernel'):
        np.testing.assert_array_equal(taken[name], trained[name])
    shutil.rmtree(source)
    return workdir, scores, config


def test_a_stage_of_no_steps_needs_the_run_that_it_began_from_no_more(reused, tmp_path):
    workdir, scores, config = reused
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    assert driver.train(config, str(copy)) == scores, 'a start of the finished run'
    assert_same_run(workdir, copy, stages=('adversarial',))
    for which in ('last', 'best'):
        assert driver.evaluate(config, str(copy), which)['pretrain'] == scores['pretrain'], which


def test_a_stage_of_no_steps_keeps_its_state_when_its_start_is_trained_on(
    finished, reused, tmp_path, monkeypatch
):
    workdir, scores, config = reused
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    monkeypatch.setattr(
        checkpoints, 'load_params', lambda path: pytest.fail(f'{path} was read again')
    )
    moved = config.copy_and_resolve_references()
    moved.init_from.path = str(finished[0])  # another state in the place of the old one
    assert driver.train(moved, str(copy)) == scores


def test_a_run_folder_says_once_what_it_began_from(finished, reused, tmp_path):
    workdir, _, config = reused
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    before = json.loads((copy / 'start.json').read_text())
    assert before['stages'] == ['pretrain', 'adversarial']
    assert before['init_from']['path'] == config.init_from.path
    taken = checkpoints.load_params(str(finished[0] / 'pretrain'))
    assert before['digest'] == initialization.digest(taken) and len(before['digest']) == 12
    assert initialization.digest(checkpoints.load_params(str(finished[0]))) != before['digest']
    driver.train(toy_run.make_config(pretrain=dict(num_steps=0), seed=1), str(copy))
    assert json.loads((copy / 'start.json').read_text()) == before, (
        'a resumed run may drop the path'
    )
    assert json.loads((finished[0] / 'start.json').read_text())['digest'] == ''


def test_predicting_loads_the_stage_that_predicts_alone(reused, tmp_path):
    workdir, _, config = reused
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    shutil.rmtree(copy / 'pretrain/checkpoints')
    run, stages = driver.open_run(config, str(copy), 'predict')
    stage, state = driver.load_last_stage(run, stages, 'last')
    assert stage.name == 'adversarial'
    np.testing.assert_array_equal(
        state.params['head']['kernel'], final_state(workdir)['params/head/kernel']
    )


@pytest.mark.slow
def test_the_state_of_a_stage_leaves_the_devices_before_the_next_stage_trains(
    tmp_path, monkeypatch
):
    watched, alive = [], []

    def train_stage(*arguments, original=driver.train_stage):
        gc.collect()
        alive.append(sum(leaf() is not None for leaf in watched))
        state, totals = original(*arguments)
        watched.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(state))
        return state, totals

    monkeypatch.setattr(driver, 'train_stage', train_stage)
    driver.train(toy_run.make_config(), str(tmp_path))
    driver.train(
        toy_run.make_config(), str(tmp_path)
    )  # both stages are finished: another way through the loop
    assert watched and alive == [0, 0, 0, 0]


def test_sigterm_asks_for_a_stop_and_the_old_handler_returns():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop.reached()
    assert signal.getsignal(signal.SIGTERM) == before


def test_of_several_processes_one_that_was_told_to_stop_is_enough_and_all_leave_at_one_question(
    monkeypatch,
):
    agreements = []

    def in_any_process(flag):
        agreements.append(flag)
        return len(agreements) == 2  # another process was told to, after the first time they agreed

    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(parallel, 'in_any_process', in_any_process)
    with StopSignal() as stop:
        answers = [stop.reached() for _ in range(3 * stop.AGREE_EVERY)]
    assert answers.index(True) == 2 * stop.AGREE_EVERY - 1 and all(answers[2 * stop.AGREE_EVERY :])
    assert agreements == [False, False], (
        'what was agreed stays: no process waits for one that has left'
    )


def start_toy(workdir):
    return [sys.executable, str(HELPERS / 'toy_run.py'), str(workdir), '30']


def start_supervised(workdir):
    config = str(HELPERS.parent.parent / 'configs/supervised.py')
    settings = (
        '--config.train.num_steps=80',
        '--config.logging.eval_every=40',
        '--config.logging.checkpoint_every=7',
    )
    return [
        sys.executable,
        '-m',
        'segjax.main',
        '--config',
        f'{config}:smoke',
        '--workdir',
        str(workdir),
        *settings,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    'command, stages, kills',
    [
        (start_toy, ('pretrain', 'adversarial'), 2),
        pytest.param(start_supervised, ('segmentation',), 10, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments_and_restarted_is_bit_identical(tmp_path, command, stages, kills):
    """Uses one device. Every second SIGKILL falls into the write of a checkpoint."""
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    run_to_the_end(command(whole))
    draw = random.Random(0)
    for number in range(kills):
        kill_on_the_way(
            command(killed), killed / stages[-1], draw.randint(1, 5), while_saving=number % 2 == 1
        )
    run_to_the_end(command(killed))
    assert_same_run(whole, killed, stages)


def test_divergence_names_step_and_group_and_keeps_the_good_checkpoint(tmp_path):
    config = toy_run.make_config(
        # The warm-up starts at rate 0, so the first step is harmless. The second step makes
        # parameters with which the third step overflows.
        optim=dict(name='sgd', learning_rate=1e38, warmup_steps=3),
        logging=dict(checkpoint_every=1),
    )
    with pytest.raises(divergence.Diverged) as error:
        driver.train(config, str(tmp_path))
    assert "'pretrain', step 3: the loss is nan" in str(error.value)
    assert 'backbone/Conv_0' in str(error.value)
    assert 'last good checkpoint: step 2' in str(error.value)
    assert 'learning_rate' in str(error.value)
    assert all(np.isfinite(x).all() for x in final_state(tmp_path, 'pretrain').values())


def test_a_workdir_of_another_config_is_refused_with_the_key(finished):
    workdir, _ = finished
    with pytest.raises(InputError, match=r'train.batch_size: 8, now 16'):
        driver.train(toy_run.make_config(train=dict(batch_size=16)), str(workdir))
    # What does not change the result may change.
    driver.train(
        toy_run.make_config(data=dict(threads=0), parallel=dict(mode='shard_map')), str(workdir)
    )


def test_checks_come_before_compilation(tmp_path, monkeypatch):
    monkeypatch.setattr(
        jax, 'jit', lambda *a, **k: pytest.fail('compiled before the input was checked')
    )
    with pytest.raises(InputError, match='multiple of 8'):
        driver.train(toy_run.make_config(train=dict(batch_size=12)), str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    'key, size', [('data.eval_size', '(33, 65)'), ('evaluate.crop', '(30, 60)')]
)
def test_images_that_the_net_does_not_take_in_evaluation_are_refused_before_training(
    tmp_path, monkeypatch, key, size
):
    monkeypatch.setattr(
        driver,
        'train_stage',
        lambda *args: pytest.fail('trained before the evaluation was checked'),
    )
    config = config_file.load('configs/supervised.py:smoke')
    config_file.assign(config, [config_file.Assignment(key, size)])
    with pytest.raises(InputError, match='erfnet: input'):
        driver.train(config, str(tmp_path))


@pytest.mark.parametrize('broken', ['photo', 'sketch', None])
def test_an_input_that_cannot_be_opened_closes_those_before_it(monkeypatch, broken):
    still_open = []

    def open_input(source, inputs, **_):
        if inputs.split == broken:
            raise InputError(f'split {broken!r}', got='no examples', expected='at least one')
        still_open.append(inputs.split)
        return types.SimpleNamespace(close=lambda: still_open.remove(inputs.split))

    monkeypatch.setattr(loader, 'train_iterator', open_input)
    data = types.SimpleNamespace(open_input=lambda inputs: None)
    run = driver.Run(toy_run.make_config(), {'data': data}, pathlib.Path(), topology=None)
    main, photo, sketch = (
        Input(split, 8, ('image',), (4, 4)) for split in ('main', 'photo', 'sketch')
    )
    main = main._replace(unpaired=(('photo', photo), ('sketch', sketch)))
    if broken:
        with pytest.raises(InputError, match=broken):
            driver.train_batches(run, main, 0)
    else:
        batches = driver.train_batches(run, main, 0)
        assert still_open == ['main', 'photo', 'sketch']
        batches.close()
    assert not still_open


@pytest.mark.parametrize(
    'step, num_steps, keep_best, due',
    [
        (1, 9, 1, (False, False, False)),
        (2, 9, 1, (True, False, False)),
        (3, 9, 1, (False, True, True)),  # the best checkpoint is kept: save every evaluated step
        (3, 9, 0, (False, True, False)),
        (5, 9, 0, (False, False, True)),
        (7, 7, 0, (True, True, True)),  # the last step
    ],
)
def test_actions_that_are_due_after_a_step(step, num_steps, keep_best, due):
    intervals = dict(log_every=2, eval_every=3, checkpoint_every=5, keep_best=keep_best)
    run = driver.Run(toy_run.make_config(logging=intervals), {}, pathlib.Path(), None)
    assert driver._due(run, step, num_steps) == due


def test_evaluating_what_was_never_trained_says_so(tmp_path):
    with pytest.raises(InputError, match='train first'):
        driver.evaluate(toy_run.make_config(), str(tmp_path))


@pytest.fixture
def told_to_stop(monkeypatch):
    """Sends SIGTERM while data are prepared. It must not end the tests."""
    ignored = signal.signal(signal.SIGTERM, lambda *_: None)

    def prepare(config, check_stop=lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
        check_stop()
        pytest.fail('nothing asked')

    monkeypatch.setattr(data, 'prepare', prepare)
    yield
    signal.signal(signal.SIGTERM, ignored)


@pytest.mark.parametrize('mode', [driver.train, driver.evaluate, bench.main])
def test_a_signal_while_data_are_prepared_ends_the_command_in_order(
    finished, tmp_path, told_to_stop, mode
):
    with pytest.raises(Preempted, match='not prepared completely'):
        mode(toy_run.make_config(), str(finished[0] if mode is driver.evaluate else tmp_path))


def test_a_signal_in_an_evaluation_ends_it_in_order(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(StopSignal, 'reached', lambda _: True)
    copy = shutil.copytree(finished[0], tmp_path / 'run')
    with pytest.raises(Preempted, match="'pretrain' was being evaluated"):
        driver.evaluate(toy_run.make_config(), str(copy))
    assert not (copy / 'scores_last.json').exists()
