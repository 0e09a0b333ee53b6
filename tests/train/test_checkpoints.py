"""Saving, resuming and refusing: a checkpoint on the disk is used whole or not at all."""

import ast
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax import schema as schema_lib
from segjax.errors import InputError
from segjax.protocol import TrainState
from segjax.train import checkpoints

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')


def make_state(step=0, width=3, value=0.0):
    params = {
        'segmenter': {
            'encoder': {'kernel': jnp.full((2, width), value)},
            'head': {'bias': jnp.ones(4)},
        }
    }
    return TrainState(
        step=jnp.int32(step),
        params=params,
        model_state={'segmenter': {'batch_stats': {'encoder': {'mean': jnp.full(3, value)}}}},
        opt_state={'segmenter': optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params)},
        extra={},
    )


def open_folder(folder, keep_last=2, keep_best=1):
    return checkpoints.Checkpoints(folder, ('mIoU', 'max'), keep_last, keep_best)


def test_round_trip_of_every_array_and_the_record(tmp_path):
    state = make_state(7, value=0.1)
    record = {'window': {'loss': [0.1 + 0.2, 3.0]}, 'config': {'seed': 1}}
    with open_folder(tmp_path) as saved:
        saved.save(state, record, {})
    with open_folder(tmp_path) as saved:
        restored, restored_record = saved.restore(jax.eval_shape(lambda: make_state()))
    chex.assert_trees_all_equal(restored, state, strict=True)
    assert restored_record == record


def test_newest_and_best_are_kept_and_the_best_is_whole(tmp_path):
    scores = [0.1, 0.5, 0.2, 0.3, 0.4]
    with open_folder(tmp_path) as saved:
        for step, score in enumerate(scores):
            saved.save(make_state(step, value=score), {'window': {}}, {'mIoU': score})
    with open_folder(tmp_path) as saved:
        assert saved.steps() == [1, 3, 4]
        assert saved.best_step() == 1
        restored, _ = saved.restore(jax.eval_shape(lambda: make_state()), 1)
    chex.assert_trees_all_equal(restored, make_state(1, value=0.5), strict=True)


def test_lower_is_better_where_the_stage_says_so(tmp_path):
    with checkpoints.Checkpoints(tmp_path, ('AbsRel', 'min'), 1, 1) as saved:
        for step, score in enumerate([0.3, 0.1, 0.2]):
            saved.save(make_state(step), {'window': {}}, {'AbsRel': score})
        saved.wait()
        assert saved.steps() == [1, 2]
        assert saved.best_step() == 1


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    with open_folder(tmp_path) as saved:
        for step in (1, 2):
            saved.save(make_state(step), {'window': {}}, {})
    for part in (tmp_path / '2' / 'state').rglob('*'):
        if part.is_file():
            part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with open_folder(tmp_path) as saved:
        restored, _ = saved.restore(jax.eval_shape(lambda: make_state()))
    assert restored.step == 1


def test_only_damaged_checkpoints_is_an_error_not_a_fresh_start(tmp_path):
    with open_folder(tmp_path) as saved:
        saved.save(make_state(1), {'window': {}}, {})
    shutil.rmtree(tmp_path / '1' / 'state')
    with open_folder(tmp_path) as saved, pytest.raises(InputError, match='none of them readable'):
        saved.restore(jax.eval_shape(lambda: make_state()))


def save_two(folder):
    """Saves checkpoints 1 and 2. Checkpoint 2 is the newest and the best."""
    with open_folder(folder) as saved:
        for step in (1, 2):
            record = {'window': {}, 'config': {'rate': step}}
            saved.save(make_state(step, value=float(step)), record, {'mIoU': step / 10})


def read_only(folder):
    return checkpoints.Checkpoints(folder, ('mIoU', 'max'), read_only=True)


def test_a_damaged_best_checkpoint_does_not_condemn_the_whole_one(tmp_path):
    folder = tmp_path / 'a run' / 'checkpoints'
    save_two(folder)
    shutil.rmtree(folder / '2' / 'state')
    abstract = jax.eval_shape(lambda: make_state())
    with read_only(folder) as saved, pytest.raises(InputError) as error:
        saved.restore(abstract, saved.best_step())
    assert error.value.where == str(folder / '2')
    assert 'cannot be read' in error.value.got and 'none of them' not in error.value.got
    last, _, move = error.value.fix.partition('; or ')
    assert last == '--checkpoint last'
    with read_only(folder) as saved:
        assert saved.restore(abstract)[0].step == 1

    # The second fix leaves the best of the whole checkpoints.
    subprocess.run(shlex.split(move), check=True)
    with read_only(folder) as saved:
        assert saved.restore(abstract, saved.best_step())[0].step == 1


def test_a_damaged_best_checkpoint_that_is_the_only_one_begins_anew(tmp_path):
    with open_folder(tmp_path / 'checkpoints') as saved:
        saved.save(make_state(1), {'window': {}}, {'mIoU': 0.1})
    shutil.rmtree(tmp_path / 'checkpoints' / '1' / 'state')
    abstract = jax.eval_shape(lambda: make_state())
    with read_only(tmp_path / 'checkpoints') as saved, pytest.raises(InputError) as error:
        saved.restore(abstract, saved.best_step())
    assert 'none of them readable' in error.value.got


def test_the_log_promises_an_older_checkpoint_only_where_it_tries_one(tmp_path, monkeypatch):
    save_two(tmp_path)
    for step in ('1', '2'):
        shutil.rmtree(tmp_path / step / 'state')
    lines = []
    monkeypatch.setattr(
        checkpoints.logging, 'error', lambda text, *parts: lines.append(text % parts)
    )
    with open_folder(tmp_path) as saved, pytest.raises(InputError):
        saved.restore(jax.eval_shape(lambda: make_state()))
    promises = ['trying the checkpoint before' in line for line in lines]
    assert promises == [True, False], lines


@pytest.mark.parametrize('damage', ['no record', 'cut short', 'no step'])
def test_the_config_of_a_damaged_checkpoint_is_replaced_by_the_config_before(tmp_path, damage):
    folder = tmp_path / 'segmentation' / 'checkpoints'
    save_two(folder)
    assert checkpoints.recorded_configs(tmp_path) == [{'rate': 2}]
    match damage:
        case 'no record':
            shutil.rmtree(folder / '2' / 'record')
        case 'cut short':
            os.truncate(folder / '2' / 'record' / 'metadata', 10)
        case 'no step':
            shutil.rmtree(folder / '2')
            (folder / '2').mkdir()
    assert checkpoints.recorded_configs(tmp_path) == [{'rate': 1}]
    shutil.rmtree(folder / '1' / 'record')
    assert checkpoints.recorded_configs(tmp_path) == []


@pytest.mark.parametrize('part', ['state', 'record'])
def test_a_stage_without_a_whole_checkpoint_is_refused_before_its_arrays_are_read(tmp_path, part):
    folder = tmp_path / 'segmentation' / 'checkpoints'
    checkpoints.check_parts(tmp_path)
    save_two(folder)
    shutil.rmtree(folder / '2' / part)
    checkpoints.check_parts(tmp_path)
    shutil.rmtree(folder / '1' / part)
    with pytest.raises(InputError, match=r'steps \[2, 1\], none of them readable') as error:
        checkpoints.check_parts(tmp_path)
    subprocess.run(shlex.split(error.value.fix.removeprefix('to start over: ')), check=True)
    checkpoints.check_parts(tmp_path)


@pytest.mark.parametrize('other, complaint', [(lambda: make_state(width=5), r'\(2, 3\).*\(2, 5\)')])
def test_a_checkpoint_of_another_net_names_the_array(tmp_path, other, complaint):
    with open_folder(tmp_path) as saved:
        saved.save(make_state(1), {'window': {}}, {})
    with open_folder(tmp_path) as saved, pytest.raises(InputError, match=complaint) as error:
        saved.restore(jax.eval_shape(other))
    assert 'params/segmenter/encoder/kernel' in str(error.value)


SAVE_UNTIL_FULL = """
import pathlib, resource, sys
import jax.numpy as jnp, numpy as np
from segjax.train import checkpoints
from segjax.protocol import TrainState
def state(step, n):
    values = jnp.asarray(np.random.default_rng(step).random(n, dtype=np.float32))
    return TrainState(jnp.int32(step), {'net': {'w': values}}, {}, {}, {})
n = 200_000
with checkpoints.Checkpoints(pathlib.Path(sys.argv[1]), ('mIoU', 'max'), 2, 0) as saved:
    saved.save(state(1, n), {'window': {}}, {})
    saved.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # larger files now fail
    try:
        saved.save(state(2, n), {'window': {}}, {})
        saved.wait()
    except checkpoints.CheckpointError as error:
        print('CheckpointError', error)
        sys.stdout.flush()
        import os; os._exit(1)
"""


def test_a_failing_write_is_reported_and_the_older_checkpoint_stays_good(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, '-c', SAVE_UNTIL_FULL, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert 'free disk space' in done.stdout
    with open_folder(tmp_path) as saved:
        abstract = TrainState(
            jax.ShapeDtypeStruct((), jnp.int32),
            {'net': {'w': jax.ShapeDtypeStruct((200_000,), jnp.float32)}},
            {},
            {},
            {},
        )
        restored, _ = saved.restore(abstract)
    assert restored.step == 1
    np.testing.assert_array_equal(
        restored.params['net']['w'], np.random.default_rng(1).random(200_000, dtype=np.float32)
    )


def test_parameters_of_another_run_are_taken_by_pattern(tmp_path):
    with open_folder(tmp_path / 'segmentation' / 'checkpoints') as saved:
        saved.save(make_state(1, value=1.0), {'window': {}}, {})
        saved.save(make_state(2, value=2.0), {'window': {}}, {})
    source = checkpoints.load_params(str(tmp_path))
    state, summary = checkpoints.merge_params(make_state(), source, ('segmenter/encoder.*',))
    assert np.all(state.params['segmenter']['encoder']['kernel'] == 2.0), 'the newest checkpoint'
    assert np.all(state.model_state['segmenter']['batch_stats']['encoder']['mean'] == 2.0), (
        'of the same module'
    )
    np.testing.assert_array_equal(state.params['segmenter']['head']['bias'], np.ones(4))
    assert '+ segmenter/encoder' in summary and '- segmenter/head' in summary
    with pytest.raises(InputError, match='match nothing'):
        checkpoints.merge_params(make_state(), source, ('generator.*',))
    # A stage of a run may have none of the nets, as the shadow of a loaded victim.
    kept, _ = checkpoints.merge_params(make_state(), source, ('generator.*',), must_match=False)
    np.testing.assert_array_equal(kept.params['segmenter']['encoder']['kernel'], 0.0)
    with pytest.raises(InputError, match=r'\(2, 3\), not \(2, 5\)'):
        checkpoints.merge_params(make_state(width=5), source, ('.*',))
    with pytest.raises(InputError, match='a run folder'):
        checkpoints.load_params(str(tmp_path / 'nowhere'))


def test_nets_of_an_earlier_stage_are_not_listed_as_random():
    state = make_state()
    source = {'params': state.params, 'model_state': state.model_state}
    _, summary = checkpoints.merge_params(state, source, ('.*',), {'segmenter'})
    assert summary.splitlines() == [
        'initialised 0 arrays from the checkpoint, 3 from an earlier stage, '
        '0 keep their random initialisation:',
        '  = segmenter/encoder',
        '  = segmenter/head',
    ]


@pytest.mark.parametrize('mode, value', [('max', 1.0), ('min', 2.0)])
def test_the_best_checkpoint_of_another_run_is_loaded_by_name(tmp_path, mode, value):
    folder = tmp_path / 'segmentation' / 'checkpoints'
    with checkpoints.Checkpoints(folder, ('score', mode), keep_last=3) as saved:
        for step, score in ((1, 0.9), (2, 0.1), (3, 0.5)):
            saved.save(make_state(step, value=step), {'window': {}}, {'score': score})
    for path in (tmp_path, tmp_path / 'segmentation'):
        kernel = checkpoints.load_params(f'{path}:best')['params']['segmenter']['encoder']['kernel']
        assert np.all(kernel == value)


def test_the_best_checkpoint_of_a_run_without_scores_is_refused(tmp_path):
    with open_folder(tmp_path / 'segmentation' / 'checkpoints') as saved:
        saved.save(make_state(1, value=1.0), {'window': {}}, {})
    with pytest.raises(InputError, match='after an evaluation') as caught:
        checkpoints.load_params(f'{tmp_path}:best')
    path = caught.value.fix.partition('=')[2].partition(',')[0]
    assert checkpoints.load_params(path)['params']


def test_averages_of_another_run_are_those_of_its_evaluation(tmp_path):
    state = make_state(2, value=2.0)
    averages = {
        'params': jax.tree.map(lambda x: x + 1, state.params),
        'model_state': jax.tree.map(lambda x: x + 1, state.model_state),
    }
    with open_folder(tmp_path / 'segmentation' / 'checkpoints') as saved:
        saved.save(state.replace(extra={'ema': averages}), {'window': {}}, {})
    source = checkpoints.load_params(str(tmp_path))
    for nets, value in (((), 2.0), (('painter',), 2.0), (('segmenter',), 3.0)):
        chosen = checkpoints.as_evaluated(source, nets)
        assert np.all(chosen['params']['segmenter']['encoder']['kernel'] == value)
        statistics = chosen['model_state']['segmenter']['batch_stats']
        assert np.all(statistics['encoder']['mean'] == value)


def test_the_modules_of_another_shape_are_left_out_by_what_the_error_says(tmp_path):
    with open_folder(tmp_path / 'segmentation' / 'checkpoints') as saved:
        saved.save(make_state(1, value=1.0), {'window': {}}, {})
    source = checkpoints.load_params(str(tmp_path))
    for patterns in (('.*',), ('segmenter/head.*', 'segmenter/enc.*')):
        with pytest.raises(InputError) as caught:
            checkpoints.merge_params(make_state(width=5), source, patterns)
        (argument,) = shlex.split(caught.value.fix)
        key, _, text = argument.partition('=')
        assert key == '--config.init_from.nets'
        narrower = ast.literal_eval(text)
        assert schema_lib.patterns(narrower) is None
        state, summary = checkpoints.merge_params(make_state(width=5), source, narrower)
        assert np.all(state.params['segmenter']['encoder']['kernel'] == 0.0)
        assert '+ segmenter/head' in summary and '- segmenter/encoder' in summary


@pytest.mark.parametrize('newest', ['first', 'second'])
@pytest.mark.parametrize('known_by', ['start.json', 'scores.json'])
def test_of_a_run_folder_the_last_stage_is_taken_whatever_the_times(tmp_path, newest, known_by):
    for stage, value in (('second', 2.0), ('first', 1.0)):  # names and times say the contrary
        with open_folder(tmp_path / stage / 'checkpoints') as saved:
            saved.save(make_state(1, value=value), {'window': {}}, {})
    content = (
        {'stages': ['first', 'second', 'never_begun']}
        if known_by == 'start.json'
        else {'first': {}, 'second': {}}
    )
    (tmp_path / known_by).write_text(json.dumps(content))
    for stage in ('first', 'second'):
        times = (2e9, 2e9) if stage == newest else (1e9, 1e9)
        for path in [*(tmp_path / stage).rglob('*'), tmp_path / stage]:
            os.utime(path, times)
    kernel = checkpoints.load_params(str(tmp_path))['params']['segmenter']['encoder']['kernel']
    assert np.all(kernel == 2.0)


@pytest.mark.parametrize('damage', [lambda path: os.truncate(path, 10), os.unlink])
def test_parameters_of_a_damaged_checkpoint_are_refused_with_the_one_before(tmp_path, damage):
    folder = tmp_path / 'segmentation' / 'checkpoints'
    with open_folder(folder) as saved:
        saved.save(make_state(1, value=1.0), {'window': {}}, {})
        saved.save(make_state(2, value=2.0), {'window': {}}, {})
    for path in (folder / '2' / 'state').rglob('d/*'):
        damage(path)
    with pytest.raises(InputError, match='cannot be read') as error:
        checkpoints.load_params(str(tmp_path))
    assert error.value.where == str(folder / '2')
    before = error.value.fix.partition('=')[2].partition(',')[0]
    assert np.all(
        checkpoints.load_params(before)['params']['segmenter']['encoder']['kernel'] == 1.0
    )
    for path in (folder / '1' / 'state').rglob('d/*'):
        damage(path)
    with pytest.raises(InputError, match='copy the run folder again'):
        checkpoints.load_params(before)


def test_parameters_of_nets_without_batch_statistics_are_taken(tmp_path):
    def bare(value):
        state = make_state(1, value=value)
        return state.replace(model_state={net: {} for net in state.params})

    with open_folder(tmp_path) as saved:
        saved.save(bare(2.0), {'window': {}}, {})
    state, _ = checkpoints.merge_params(bare(1.0), checkpoints.load_params(str(tmp_path)), ('.*',))
    chex.assert_trees_all_equal(state.params, bare(2.0).params, strict=True)


def test_looking_at_a_run_changes_nothing(tmp_path):
    """Another process may train in the folder: its unfinished save stays, no folder appears."""
    with open_folder(tmp_path / 'run') as saved:
        saved.save(make_state(1), {'window': {}}, {'mIoU': 0.5})
    unfinished = tmp_path / 'run' / '2.orbax-checkpoint-tmp'
    unfinished.mkdir()
    with checkpoints.Checkpoints(tmp_path / 'run', ('mIoU', 'max'), read_only=True) as saved:
        assert saved.steps() == [1] and saved.best_step() == 1
        assert saved.restore(jax.eval_shape(lambda: make_state()))[0].step == 1
    assert unfinished.is_dir()


def test_a_score_that_is_no_number_pushes_nothing_out(tmp_path):
    with open_folder(tmp_path, keep_last=1) as saved:
        for step, score in enumerate([0.3, float('nan'), 0.1]):
            saved.save(make_state(step), {'window': {}}, {'mIoU': score})
        saved.wait()
        assert saved.steps() == [0, 2] and saved.best_step() == 0


@pytest.mark.parametrize('mode, kept', [('max', [3, 4]), ('min', [1, 2, 4])])
def test_a_score_that_came_later_decides_as_if_it_had_come_with_the_save(tmp_path, mode, kept):
    def opened():
        return checkpoints.Checkpoints(tmp_path, ('mIoU', mode), keep_last=1, keep_best=2)

    with opened() as saved:
        for step, score in ((1, 0.1), (2, 0.2), (3, 0.3)):
            saved.save(make_state(step, value=score), {'window': {}}, {'mIoU': score})
        saved.save(make_state(4, value=0.4), {'window': {}}, {})
    with opened() as saved:
        saved.add_scores(4, {'mIoU': 0.4})
        assert saved.steps() == kept and saved.best_step() == (4 if mode == 'max' else 1)
        saved.add_scores(4, {'mIoU': float('nan')})  # is no score: the one before stays
    with opened() as saved:
        assert saved.steps() == kept
        restored, _ = saved.restore(jax.eval_shape(lambda: make_state()))
    chex.assert_trees_all_equal(restored, make_state(4, value=0.4), strict=True)
