"""Tests the bench with a fake clock, costs by arithmetic, and the toy pipeline as a whole."""

import contextlib
import io
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import toy_run
from clock import Clock
from run_folders import REPOSITORY

from segjax import schema
from segjax.config import config_file
from segjax.core import parallel
from segjax.errors import InputError
from segjax.modes import bench
from segjax.modes.bench import run as bench_run
from segjax.protocol import Input
from segjax.train import driver, initialization


def test_warm_up_does_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    first_is_slow = clock.call('f', lambda count: 100.0 if count <= 2 else float(count))
    measurement = bench.measure_in_turn({'f': first_is_slow}, repetitions=5, warm_up=2)['f']
    assert measurement.seconds == (3, 4, 5, 6, 7)
    assert measurement.median == 5 and measurement.quartiles == (4, 6)


def test_variants_take_turns_and_every_other_round_goes_backwards(monkeypatch):
    clock = Clock(monkeypatch)
    bench.measure_in_turn({name: clock.call(name, 1.0) for name in 'abc'}, repetitions=3, warm_up=1)
    assert ''.join(clock.log) == 'abccbaabccba'


def test_ratios_are_paired_by_round():
    times = {
        'naive': bench.Measurement((1.0, 2.0, 8.0)),
        'fast': bench.Measurement((0.5, 0.8, 6.0)),
    }
    ratio = bench.ratios(times, 'naive')
    assert ratio['naive'] == bench.Ratio(1.0, (1.0, 1.0))
    assert ratio['fast'].median == 0.5  # 0.5, 0.4, 0.75: not 0.8 / 2.0
    assert ratio['fast'].quartiles == pytest.approx((0.45, 0.625))


def test_comparison_survives_a_machine_that_slows_down(monkeypatch):
    clock = Clock(monkeypatch)
    work = {'naive': 2.0, 'fast': 1.0}

    def runner(name):
        return clock.call(name, lambda count: work[name] * 1.3 ** ((count - 1) // 2))

    times = bench.measure_in_turn({name: runner(name) for name in work}, repetitions=9, warm_up=1)
    ratio = bench.ratios(times, 'naive')
    assert times['naive'].seconds[-1] > 5 * times['naive'].seconds[0]
    assert ratio['fast'].median == pytest.approx(0.5) and ratio['fast'].quartiles == pytest.approx(
        (0.5, 0.5)
    )


def test_comparison_of_real_programs_finds_the_slower_one():
    x = jnp.ones((200, 200))

    def chain(length):
        return jax.jit(
            lambda x: jax.lax.fori_loop(0, length, lambda i, y: jnp.tanh(y @ x) / 200, x)
        )

    programs = {'short': chain(5), 'long': chain(50)}
    times = bench.measure_in_turn(
        {k: lambda fn=fn: fn(x) for k, fn in programs.items()}, repetitions=5, warm_up=1
    )
    ratio = bench.ratios(times, 'short')
    assert len(times['long'].seconds) == 5
    assert ratio['short'].median == 1
    assert ratio['long'].median > 2


def test_program_costs_are_those_of_the_arithmetic():
    program = bench.compile_program(
        jax.jit(lambda a, b: a @ b), np.ones((64, 32), 'f'), np.ones((32, 48), 'f')
    )
    assert program.flops == 2 * 64 * 32 * 48
    assert program.memory['arguments'] == 4 * (64 * 32 + 32 * 48)
    assert program.memory['outputs'] == 4 * 64 * 48
    assert program.memory['peak'] == sum(
        program.memory[k] for k in ('temporaries', 'arguments', 'outputs')
    )
    assert program.compile_seconds > 0 and program.lower_seconds > 0
    out = program.call(np.full((64, 32), 2, 'f'), np.ones((32, 48), 'f'))
    np.testing.assert_array_equal(out, np.full((64, 48), 64))


def test_donated_memory_counts_once():
    donating = jax.jit(lambda a: a + 1, donate_argnums=0)
    memory = bench.compile_program(donating, np.ones((256, 256), 'f')).memory
    assert memory['shared'] == 4 * 256 * 256
    assert memory['peak'] == memory['arguments'] + memory['temporaries']


def test_compilation_is_measured_past_the_cache(tmp_path):
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', str(tmp_path))
    compilation_cache.reset_cache()
    try:
        bench.compile_program(jax.jit(lambda x: jnp.sin(x) * 3), np.ones(7, 'f'))
        assert not any(tmp_path.iterdir())
        jax.jit(lambda x: jnp.cos(x) * 5)(np.ones(7, 'f')).block_until_ready()
        assert any('cache' in path.name for path in tmp_path.iterdir())  # on again
    finally:
        jax.config.update('jax_compilation_cache_dir', before)
        compilation_cache.reset_cache()


def test_ratio_of_variants_is_per_image(monkeypatch):
    """Times twice the batch in three times the time, which is 1.5 times the time per image."""
    clock = Clock(monkeypatch)
    program = bench.compile_program(jax.jit(lambda x: x), np.ones(3, 'f'))
    small = bench.Timed(clock.call('small', 1.0), program, batch_size=4, size=(8, 8))
    large = bench.Timed(clock.call('large', 3.0), program, batch_size=8, size=(8, 8))
    settings = ml_collections.ConfigDict({'repetitions': 3, 'warmup': 1})
    entries = bench.bench_calls({'base': small, 'large': large}, settings)
    assert ''.join(name[0] for name in clock.log) == 'sllsslls'
    assert (
        entries['base']['images_per_second'] == 4 and entries['large']['images_per_second'] == 8 / 3
    )
    assert entries['base']['over_base'] == {'median': 1, 'quartiles': (1, 1)}
    assert entries['large']['over_base'] == {'median': 1.5, 'quartiles': (1.5, 1.5)}
    assert entries['large']['median_seconds'] == 3 and entries['large']['repetitions'] == 3


def test_without_the_base_nothing_is_compared_with_it(monkeypatch):
    clock = Clock(monkeypatch)
    program = bench.compile_program(jax.jit(lambda x: x), np.ones(3, 'f'))
    timed = {
        name: bench.Timed(clock.call(name, 1.0), program, batch_size=4, size=(8, 8))
        for name in 'ab'
    }
    entries = bench.bench_calls(timed, ml_collections.ConfigDict({'repetitions': 3, 'warmup': 0}))
    assert list(entries) == ['a', 'b'] and all(
        'over_base' not in entry for entry in entries.values()
    )


# --- a whole bench --------------------------------------------------------------------------------


def run_of(config, spec=None):
    """Returns a timed run that can only read its input."""
    inputs = Input('train', config.train.batch_size, ('image',), (4, 4), config.augment)
    run = driver.Run(
        config,
        {'data': types.SimpleNamespace(spec=spec)},
        pathlib.Path(),
        parallel.topology('pmap'),
    )
    return bench.TimedRun(run, types.SimpleNamespace(train_input=inputs), None)


def test_input_rate_counts_all_batches_but_those_read_ahead(monkeypatch):
    """Has two batches ready, then waits for every fifth: the median would give 80 images/s."""
    clock = Clock(monkeypatch)
    step = clock.call('next', lambda count: 0.0 if count <= 2 else 1.0 if count % 5 == 0 else 0.1)

    def batches():
        while True:
            step()
            yield {'image': np.zeros((8, 4, 4, 3), np.uint8)}

    monkeypatch.setattr(driver, 'train_batches', lambda *args: batches())
    config = toy_run.make_config(
        bench=dict(repetitions=10, warmup=0), data=dict(threads=1, prefetch=16)
    )
    entry = bench.bench_input(run_of(config), config.bench)
    assert entry['images_per_second'] == pytest.approx(80 / (8 * 0.1 + 2 * 1.0))
    assert (entry['batch_size'], entry['size'], entry['threads'], entry['workers']) == (
        8,
        (4, 4),
        1,
        0,
    )
    # Four threads of workers deliver bursts of four batches. With few repetitions the rate would
    # depend on where a burst is cut.
    config.data.update(threads=2, workers=2)
    assert bench.bench_input(run_of(config), config.bench)['repetitions'] == 32


def test_stages_are_paired_by_their_place(monkeypatch, tmp_path):
    def variant(name, *stages):
        run = run_of(toy_run.make_config()).run._replace(workdir=tmp_path)
        return bench.Variant(
            name,
            '',
            run,
            tuple(types.SimpleNamespace(name=stage, hand_on=None) for stage in stages),
        )

    monkeypatch.setattr(initialization, 'initial_state', lambda run, stage, states: None)
    monkeypatch.setattr(
        bench_run,
        'bench_stage',
        lambda runs, _: {name: run.stage.name for name, run in runs.items()},
    )
    monkeypatch.setattr(bench_run, 'table', str)
    report = bench.time_variants(
        [variant('base', 'pretrain', 'noise'), variant('more', 'pretrain', 'none', 'noise')]
    )
    assert report['stages'] == {
        'pretrain': {'base': 'pretrain', 'more': 'pretrain'},
        'noise': {'base': 'noise', 'more': 'none'},
        'noise (stage 3)': {'more': 'noise'},
    }


VARIANTS = (('mapped', 'parallel.mode=shard_map'), 'train.batch_size=16;data.threads=2')
NAMES = ['base', 'mapped', VARIANTS[1]]


@pytest.fixture(scope='module')
def benched(tmp_path_factory):
    """Benches two stages of the toy pipeline. Returns the report, the folder and the print."""
    workdir = tmp_path_factory.mktemp('bench')
    config = toy_run.make_config(bench=dict(repetitions=3, warmup=1, variants=VARIANTS), seed=3)
    config.init_from.path = '/nowhere'  # parameters are fresh: nothing has to be trained first
    base, *others = bench.open_variants(config, str(workdir))
    # To save time, the second stage only evaluates, and only for the base. It starts from the state
    # of the first stage.
    evaluating = base.stages[1]._replace(num_steps=0, train_input=None, predict=None)
    base = base._replace(stages=(base.stages[0], evaluating))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        report = bench.time_variants([base, *(v._replace(stages=v.stages[:1]) for v in others)])
    return report, workdir, printed.getvalue()


def test_a_bench_needs_none_of_the_nets_that_a_run_loads(tmp_path):
    path = f'{REPOSITORY}/configs/dense_features.py:smoke,stages=refit,source=none'
    (base,) = bench.open_variants(config_file.load(path), str(tmp_path))
    assert [stage.name for stage in base.stages] == ['segmentation', 'refit']
    assert base.run.source() is None


def test_parameters_are_random_whatever_a_config_starts_from(tmp_path):
    config = toy_run.make_config(
        init_from=dict(path='nowhere', source='torch', partial=True, preprocess='keep')
    )
    run, _ = bench.open_untrained(config, str(tmp_path))
    assert run.source() is None and run.sources == ()


def test_random_nets_are_not_checked_against_each_other(tmp_path, monkeypatch):
    stage = types.SimpleNamespace(check_start=pytest.fail)
    stage._replace = lambda **fields: types.SimpleNamespace(**fields)
    monkeypatch.setattr(driver, 'checked_run', lambda *_, **__: ('run', (stage,)))
    (base,) = bench.open_variants(toy_run.make_config(), str(tmp_path))
    assert base.stages[0].check_start is None


def test_report_has_every_part_of_every_variant(benched):
    report, _, _ = benched
    assert report['variants'] == dict(zip(NAMES, ('', VARIANTS[0][1], VARIANTS[1])))
    assert list(report['stages']) == ['pretrain', 'adversarial']
    parts = report['stages']['pretrain']
    for part, batch in (('train', 8), ('evaluate', 8), ('predict', 4)):
        assert list(parts[part]) == NAMES
        for name, entry in parts[part].items():
            batch_size = 16 if (part, name) == ('train', NAMES[2]) else batch
            assert (entry['batch_size'], entry['size'], entry['repetitions']) == (
                batch_size,
                (32, 64),
                3,
            )
            low, high = entry['quartiles_seconds']
            assert 0 < low <= entry['median_seconds'] <= high
            assert entry['images_per_second'] == pytest.approx(batch_size / entry['median_seconds'])
            assert entry['compile_seconds'] > 0 and entry['memory']['peak'] > 0
        assert parts[part]['base']['over_base']['median'] == 1
        assert parts[part]['mapped']['over_base']['median'] > 0
    # One device predicts four images of 2048 pixels. The 3x3 convolution of 3 -> 6 alone is 324
    # operations a pixel. Padding saves some of them.
    assert parts['predict']['base']['flops'] > 4 * 2048 * 300


def test_the_whole_training_is_all_steps_on_all_devices(benched):
    parts = benched[0]['stages']['pretrain']
    step = parts['train']['mapped']
    whole = parts['whole']['mapped']
    steps = toy_run.make_config().pretrain.num_steps
    assert whole['steps'] == steps
    assert whole['hours'] * 3600 == pytest.approx(steps * step['median_seconds'])
    assert whole['flops'] == pytest.approx(steps * 8 * step['flops'])
    assert whole['bytes_accessed'] == pytest.approx(steps * 8 * step['bytes_accessed'])
    line = f'pretrain mapped: all {steps} steps = {whole["hours"]:.2g} hours, '
    assert f'{line}{whole["flops"]:.2g} FLOP' in benched[2].splitlines()


def test_stage_without_training_only_evaluates(benched):
    parts = benched[0]['stages']['adversarial']
    assert list(parts) == ['evaluate'] and list(parts['evaluate']) == ['base']


def test_only_what_changes_the_reading_is_read_again(benched):
    parts = benched[0]['stages']['pretrain']
    assert list(parts['input']) == ['base', NAMES[2]]
    assert parts['input'][NAMES[2]]['batch_size'] == 16 and parts['input'][NAMES[2]]['threads'] == 2
    for name, source in zip(NAMES, ('base', 'base', NAMES[2])):
        rates = (
            parts['input'][source]['images_per_second'],
            parts['train'][name]['images_per_second'],
        )
        assert parts['input_over_train'][name] == pytest.approx(rates[0] / rates[1])


def test_file_and_table_say_what_was_measured_on_what(benched):
    report, workdir, printed = benched
    assert [path.name for path in workdir.iterdir()] == ['bench.json']
    stored = json.loads((workdir / 'bench.json').read_text())
    assert stored['config']['bench']['repetitions'] == 3 and stored['config']['seed'] == 3
    assert stored['environment']['jax'] == jax.__version__ and stored['environment']['devices'] == 8
    entry = report['stages']['pretrain']['train']['mapped']
    assert stored['stages']['pretrain']['train']['mapped']['flops'] == entry['flops']

    lines = printed.splitlines()
    assert (
        lines[0].startswith('toy on 8 x cpu (pmap), ')
        and f'float32, jax {jax.__version__}' in lines[0]
    )
    assert lines[1] == 'median of 3 calls after 1 to warm up, variants in turn'
    assert 'mapped: parallel.mode=shard_map' in lines
    assert any(line.startswith('input: reading') for line in lines)
    row = next(
        line.split() for line in lines if line.split()[:3] == ['pretrain', 'train', 'mapped']
    )
    assert row[3:6] == ['8', '32x64', f'{entry["images_per_second"]:.2f}']
    assert row[8] == f'{entry["over_base"]["median"]:.2f}'
    ratio = f'pretrain train: time per image of mapped / base = {entry["over_base"]["median"]:.2f}'
    assert any(line.startswith(ratio) for line in lines)
    assert sum('images/s of input / train' in line for line in lines) == len(NAMES)


@pytest.mark.parametrize(
    'variants, complaint',
    [
        (('fast', 'optim.name=sgd'), 'strings or \\(name, such a string\\) pairs'),
        ((('base', 'seed=1'),), "not 'base'"),
        (('seed=1', 'seed=1'), 'a name of its own'),
        (
            ('optim.nam=sgd',),
            r"variants, optim.nam=sgd: --config.optim.nam[^?]*did you mean 'name'",
        ),
        (
            ('seed=1', 'optim.name=sdg'),
            r"variants, optim.name=sdg: config.optim.name[^?]*did you mean 'sgd'",
        ),
        (
            ('train.batch_size=4',),
            r'variants, train.batch_size=4: train.batch_size[\s\S]*a multiple of 8',
        ),
        (('bench.repetitions=4',), 'the same settings'),
    ],
)
def test_wrong_variants_are_refused_before_anything_compiles(
    variants, complaint, tmp_path, monkeypatch
):
    monkeypatch.delattr(initialization, 'initial_state')
    with pytest.raises(InputError, match=complaint):
        bench.main(toy_run.make_config(bench=dict(variants=variants)), str(tmp_path))


@pytest.mark.parametrize(
    'parts, timed',
    [
        (('input',), {'input'}),
        (('train',), {'train', 'whole'}),
        (('train', 'input'), {'train', 'input', 'input_over_train', 'whole'}),
    ],
)
def test_only_the_parts_of_the_config_are_timed(parts, timed, monkeypatch, tmp_path):
    entry = {'images_per_second': 2.0}
    monkeypatch.setattr(bench_run, 'bench_input', lambda *_: entry)
    monkeypatch.setattr(bench_run, 'prepare', lambda part, runs: dict.fromkeys(runs))
    monkeypatch.setattr(bench_run, 'bench_calls', lambda calls, _: dict.fromkeys(calls, entry))
    monkeypatch.setattr(bench_run, 'whole_training', lambda *_: {})
    config = toy_run.make_config(bench=dict(parts=parts))
    run, stages = bench.open_untrained(config, str(tmp_path))
    runs = {'base': bench.TimedRun(run, stages[0], None)}
    assert set(bench.bench_stage(runs, config.bench)) == timed


@pytest.mark.parametrize('parts', [(), ('trains',), ('train', 'train')])
def test_unknown_parts_are_refused(parts, tmp_path):
    with pytest.raises(InputError, match='different names of train, evaluate, predict, input'):
        bench.open_variants(toy_run.make_config(bench=dict(parts=parts)), str(tmp_path))


def test_the_parts_of_the_config_are_those_of_the_bench():
    assert set(schema.BENCH_PARTS) == set(bench.INCLUDED)
