"""Arrays that a stage hands on: chosen examples, starts, kills, extensions, refusals."""

import pathlib
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import toy_chain
from run_folders import assert_same_run, final_state, finish, free_port, start_program

from segjax.errors import InputError
from segjax.protocol import HandOn, Input, Product
from segjax.train import driver, initialization, product_files, products
from segjax.train.product_files import PRODUCTS, Stored
from segjax.train.stop import StopSignal

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

HELPERS = pathlib.Path(__file__).resolve().parents[1] / 'helpers'
WITH_ARRAYS = ('rank', 'refine')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Returns the folder and the scores of an undisturbed run."""
    workdir = tmp_path_factory.mktemp('chain') / 'run'
    return workdir, driver.train(toy_chain.make_config(), str(workdir))


def arrays_of(workdir, stage):
    """Returns the arrays of a stage with numpy alone."""
    with np.load(workdir / stage / PRODUCTS) as archive:
        return {name: archive[name] for name in archive.files}


def assert_same_chain(a, b):
    """Checks that states, logs, scores and arrays of all stages are equal byte by byte."""
    assert_same_run(a, b, toy_chain.STAGES)
    for stage in WITH_ARRAYS:
        assert (a / stage / PRODUCTS).read_bytes() == (b / stage / PRODUCTS).read_bytes(), stage


def opened(workdir, **sections):
    """Returns the run and its stages by name."""
    run, stages = driver.open_run(toy_chain.make_config(**sections), str(workdir), 'train')
    return run, {stage.name: stage for stage in stages}


def example_losses(run, inputs, kernel, bias):
    """Computes the cross-entropy of every example of an input, in numpy."""
    source = run.datasets['data'].open_input(inputs)
    losses = []
    for number in range(len(source)):
        example = source[number]
        logits = example['image'] / 255
        logits = logits @ kernel.astype(np.float64) + bias
        label = np.asarray(example['label']).reshape(logits.shape[:2])
        norm = np.log(np.exp(logits).sum(-1))
        kept = label < 255
        rows, columns = np.nonzero(kept)
        losses.append((norm[kept] - logits[rows, columns, label[kept]]).mean())
    return np.array(losses)


# --- what is handed on ----------------------------------------------------------------------------


def test_the_array_ranks_the_examples_by_the_final_state_of_its_stage(finished):
    run, stages = opened(finished[0])
    state = final_state(finished[0], 'rank')
    losses = example_losses(
        run,
        stages['rank'].hand_on.inputs,
        state['params/head/kernel'],
        state['params/head/bias'],
    )
    spread = arrays_of(finished[0], 'rank')['spread']
    assert spread.dtype == np.int32
    np.testing.assert_array_equal(spread, np.argsort(losses)[::2])
    assert len(set(np.diff(np.sort(spread)))) > 1, 'a choice that a slice could not make'


def test_a_later_stage_trains_on_the_chosen_examples_alone(finished):
    run, stages = opened(finished[0])
    spread = arrays_of(finished[0], 'rank')['spread']
    inputs = stages['refine'].train_input
    source = run.open_input(inputs, 'name')
    whole = run.open_input(inputs._replace(chosen=None), 'name')
    names = [source[i]['name'] for i in range(len(source))]
    assert names == [whole[i]['name'] for i in spread]


def test_init_of_a_later_stage_reads_an_array(finished):
    colour = arrays_of(finished[0], 'refine')['colour']
    run, stages = opened(finished[0])
    earlier = initialization.abstract_earlier(run, [stages['rank'], stages['refine']])
    assert initialization.read_by_init(run, stages['judge'], earlier) == {'refine/colour'}
    state = initialization.initial_state(run, stages['judge'], {**earlier, 'refine/colour': colour})
    np.testing.assert_array_equal(state.params['head']['bias'][:3], colour)


def test_the_scores_say_from_which_arrays_they_come(finished):
    made_by = finished[1]['judge']['made_by']
    digest = product_files.digest(arrays_of(finished[0], 'refine')['colour'])
    assert made_by['products'] == {'refine/colour': digest}
    assert list(finished[1]['refine']['made_by']['products']) == ['rank/spread']
    assert 'products' not in finished[1]['rank']['made_by']


def test_evaluating_and_starting_again_read_the_arrays(finished, tmp_path, monkeypatch):
    workdir, scores = finished
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    monkeypatch.setattr(products, '_measured', lambda *_: pytest.fail('measured again'))
    config = toy_chain.make_config()
    assert driver.train(config, str(copy)) == scores
    assert driver.evaluate(config, str(copy)) == scores
    assert_same_chain(workdir, copy)


def test_a_stage_of_no_steps_hands_arrays_on(tmp_path):
    config = toy_chain.make_config(rank=dict(num_steps=0), refine=dict(num_steps=0))
    scores = driver.train(config, str(tmp_path))
    assert arrays_of(tmp_path, 'refine')['colour'].shape == (3,)
    for stage in WITH_ARRAYS:
        (tmp_path / stage / PRODUCTS).unlink()
    assert driver.evaluate(config, str(tmp_path)) == scores, 'without the files'
    assert not (tmp_path / 'rank' / PRODUCTS).exists(), 'an evaluation writes no arrays'


# --- kills ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a run without any of its own handling."""


@pytest.mark.slow
@pytest.mark.parametrize('stage', WITH_ARRAYS)
@pytest.mark.parametrize('moment', ['before', 'after'])
def test_killed_around_the_write_of_the_arrays_it_is_bit_identical(
    finished, tmp_path, monkeypatch, stage, moment
):
    def write_bytes(path, data, original=products.files.write_bytes, **options):
        if path.parent.name != stage or path.name != PRODUCTS:
            return original(path, data, **options)
        if moment == 'after':
            original(path, data, **options)
        raise Killed

    monkeypatch.setattr(products.files, 'write_bytes', write_bytes)
    with pytest.raises(Killed):
        driver.train(toy_chain.make_config(), str(tmp_path))
    monkeypatch.undo()
    assert (tmp_path / stage / PRODUCTS).exists() == (moment == 'after')
    assert driver.train(toy_chain.make_config(), str(tmp_path)) == finished[1]
    assert_same_chain(finished[0], tmp_path)


def start(workdir, devices, *settings):
    """Starts the chain as a program."""
    return start_program('toy_chain.py', workdir, *settings, devices=devices)


MOMENTS = (
    'rank/metrics.jsonl',
    'rank/products.npz',
    'refine/metrics.jsonl',
    'refine/products.npz',
    'judge/metrics.jsonl',
)


@pytest.mark.slow
def test_killed_at_random_moments_and_restarted_it_is_bit_identical(tmp_path):
    """A SIGKILL comes a random time after each of the files of MOMENTS appears."""
    whole = tmp_path / 'whole'
    killed = tmp_path / 'killed'
    finish(start(whole, 1))
    draw = random.Random(0)
    for name in MOMENTS:
        program = start(killed, 1)
        while program.poll() is None and not (killed / name).exists():
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.2))
        program.send_signal(signal.SIGKILL)
        program.communicate()
    finish(start(killed, 1))
    assert_same_chain(whole, killed)


# --- processes and devices ------------------------------------------------------------------------


def assert_close_chain(a, b):
    """Checks that arrays and scores of two runs agree up to rounding."""
    np.testing.assert_array_equal(arrays_of(a, 'rank')['spread'], arrays_of(b, 'rank')['spread'])
    colours = [arrays_of(folder, 'refine')['colour'] for folder in (a, b)]
    np.testing.assert_allclose(*colours, rtol=1e-5)
    scores = [driver.stored.read_scores(folder / 'judge/scores.json') for folder in (a, b)]
    for name in ('loss', 'by_example', 'pixels', 'seen'):
        assert scores[0][name] == pytest.approx(scores[1][name], rel=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize(
    'mode, num_val', [pytest.param('pmap', 10, marks=pytest.mark.slow), ('shard_map', 3)]
)
def test_two_processes_equal_eight_devices(tmp_path, mode, num_val):
    """Of three examples in a batch of eight, the second process has none."""
    settings = (f'mode={mode}', f'num_val={num_val}', f'port={free_port()}', 'num_processes=2')
    both = tmp_path / 'both'
    finish(*(start(both, 2, *settings, f'process_id={i}') for i in range(2)))
    config = toy_chain.make_config(data=dict(world=dict(num_val=num_val)))
    driver.train(config, str(tmp_path / 'single'))
    assert_close_chain(both, tmp_path / 'single')


# --- extensions -----------------------------------------------------------------------------------


def test_a_longer_stage_measures_its_arrays_again_before_later_stages_begin(finished, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / 'copy')
    config = toy_chain.make_config(refine=dict(num_steps=6))
    shutil.rmtree(copy / 'judge')
    driver.train(config, str(copy), extend=True)
    stored = product_files.decode(copy, (copy / 'refine' / PRODUCTS).read_bytes())
    assert stored.step == 6
    before = arrays_of(finished[0], 'refine')['colour']
    assert not np.array_equal(stored.arrays['colour'], before)
    started = driver.stored.read_scores(copy / 'judge/scores.json')['made_by']['products']
    assert started == {'refine/colour': product_files.digest(stored.arrays['colour'])}


def test_stages_that_began_from_an_older_array_are_refused_one_after_the_other(finished, tmp_path):
    """`refine` trains on a choice of `rank`, and `judge` starts from an array of `refine`."""
    copy = shutil.copytree(finished[0], tmp_path / 'copy')
    config = toy_chain.make_config(rank=dict(num_steps=5))
    for key, stage in (('rank/spread', 'refine'), ('refine/colour', 'judge')):
        with pytest.raises(InputError, match=f"which changes {key}.*'{stage}' has begun") as caught:
            driver.train(config, str(copy), extend=True)
        command = caught.value.fix.partition(' trains')[0]
        assert command == f'rm -r {copy}/{stage}'
        shutil.rmtree(command.split()[-1])
    driver.train(config, str(copy), extend=True)
    assert product_files.decode(copy, (copy / 'rank' / PRODUCTS).read_bytes()).step == 5


def test_a_stage_that_began_from_another_array_than_the_folder_holds_is_refused(finished, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / 'copy')
    path = copy / 'rank' / PRODUCTS
    stored = product_files.decode(path, path.read_bytes())
    other = {'spread': np.arange(8, dtype=np.int32)}
    path.write_bytes(product_files.encode(Stored(other, stored.step, stored.examples)))
    with pytest.raises(InputError, match=r"rank/spread has the digest .* 'refine' began") as caught:
        driver.train(toy_chain.make_config(), str(copy))
    assert caught.value.fix.startswith(f'rm -r {copy}/refine trains')


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize('damage', ['cut', 'changed', 'empty archive'])
def test_a_damaged_file_is_named_and_its_fix_works(finished, tmp_path, damage):
    copy = shutil.copytree(finished[0], tmp_path / 'copy')
    path = copy / 'refine' / PRODUCTS
    data = path.read_bytes()
    if damage == 'cut':
        path.write_bytes(data[:100])
    elif damage == 'changed':
        arrays = arrays_of(copy, 'refine')
        np.savez(path, **{**arrays, 'colour': arrays['colour'] + 1})
    else:
        np.savez(path)
    with pytest.raises(InputError) as caught:
        driver.train(toy_chain.make_config(), str(copy))
    assert caught.value.where == str(path)
    assert caught.value.fix.startswith(f'rm {path};')
    path.unlink()
    driver.train(toy_chain.make_config(), str(copy))
    assert_same_chain(finished[0], copy)


@pytest.mark.parametrize(
    'arrays, message',
    [
        ({}, "the arrays none\n.*'a' "),
        ({'a': np.zeros(3, np.float32), 'b': 1}, "'a', 'b'"),
        ({'a': np.zeros(4, np.float32)}, r'float32 \[4\]\n.*float32 \[3\]'),
        ({'a': np.zeros(3)}, r'float64 \[3\]\n.*float32 \[3\]'),
    ],
    ids=['absent', 'additional', 'shape', 'type'],
)
def test_arrays_that_differ_from_their_declaration_are_refused(finished, tmp_path, arrays, message):
    run, stages = opened(finished[0])
    shapes = {'a': jax.ShapeDtypeStruct((3,), 'float32')}
    stage = stages['judge']._replace(hand_on=HandOn(shapes, lambda sums: arrays))
    with pytest.raises(InputError, match=message) as caught:
        products.of_finished(run._replace(workdir=tmp_path), stage, empty_state(), StopSignal())
    assert caught.value.where == "stage 'judge': HandOn.finalize"
    assert not list(tmp_path.iterdir())


def empty_state():
    """Returns a state without nets."""
    return toy_chain.TrainState(np.int32(0), {}, {}, {}, {})


def chosen_by(stage, product):
    """Returns a stage that is evaluated on chosen examples."""
    return stage._replace(eval_input=stage.eval_input._replace(chosen=product))


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda stages: {'judge': chosen_by(stages['judge'], Product('rank', 'spraed'))},
            'rank/spread',
        ),
        (
            lambda stages: {'rank': chosen_by(stages['rank'], Product('rank', 'spread'))},
            'rank/spread',
        ),
        (
            lambda stages: {'judge': chosen_by(stages['judge'], Product('refine', 'colour'))},
            r'float32 \[3\]\n.*whole numbers',
        ),
        (
            lambda stages: {
                'rank': stages['rank']._replace(
                    hand_on=stages['rank'].hand_on._replace(eval_step=None)
                )
            },
            'both, or neither',
        ),
        (
            lambda stages: {
                'judge': stages['judge']._replace(
                    hand_on=HandOn({'file': jax.ShapeDtypeStruct((), 'float32')}, dict)
                )
            },
            "the name 'file'",
        ),
        (
            lambda stages: {
                'judge': stages['judge']._replace(
                    hand_on=HandOn({'a': jax.ShapeDtypeStruct((), 'bfloat16')}, dict)
                )
            },
            'bfloat16',
        ),
    ],
    ids=['unknown', 'own', 'no positions', 'no step', 'reserved', 'type'],
)
def test_declarations_that_no_run_could_fulfil_are_refused(finished, change, message):
    _, stages = opened(finished[0])
    changed = {**stages, **change(stages)}
    with pytest.raises(InputError, match=message):
        products.check_declared(tuple(changed.values()))


def test_all_inputs_of_a_stage_are_known(finished):
    _, stages = opened(finished[0])
    splits = [inputs.split for inputs in stages['refine'].all_inputs]
    assert splits == ['train', 'val', 'train']
    unpaired = Input('extra', 1, (), (1, 1))
    inputs = stages['refine'].train_input._replace(unpaired=(('more', unpaired),))
    assert stages['refine']._replace(train_input=inputs).training_inputs == (inputs, unpaired)


# --- memory ---------------------------------------------------------------------------------------


def test_no_state_stays_on_the_devices_and_no_unread_state_on_the_host(tmp_path, monkeypatch):
    """`refine` and `judge` read no state, so both stages before are dropped."""
    alive = []
    hosts = []

    def new_bytes():
        return sum(array.nbytes for array in jax.live_arrays() if id(array) not in known)

    def train_stage(run, stage, earlier, stop, original=driver.train_stage):
        states = [state for key, state in earlier.items() if '/' not in key]
        hosts.append([leaf.strides for leaf in jax.tree.leaves(states)])
        alive.append(new_bytes())
        return original(run, stage, earlier, stop)

    monkeypatch.setattr(driver, 'train_stage', train_stage)
    config = toy_chain.make_config(optim=dict(name='adam'))
    # References keep the arrays of earlier tests alive, so that no garbage is freed during the run.
    arrays_before = jax.live_arrays()
    known = {id(array) for array in arrays_before}
    driver.train(config, str(tmp_path))
    assert alive == [0, 0, 0]
    assert all(not any(strides) for leaves in hosts for strides in leaves)
    assert len(hosts[2]) == 2 * len(hosts[1]) > 0
