"""Benchmarks: clocks with a clock of our own, program costs against arithmetic, and a toy stage end to end."""

import json
import pathlib
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from segjax import bench, config, parallel
from segjax.data.spec import ClassSpec, DataSpec
from segjax.protocol import Input, Mean, Stage, TrainState


class Clock:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.log = []
        monkeypatch.setattr(time, 'perf_counter', lambda: self.now)

    def call(self, name, duration):
        def run():
            self.log.append(name)
            self.now += duration(len(self.log)) if callable(duration) else duration
            return jnp.zeros(())

        return run


def test_measure_excludes_the_warm_up(monkeypatch):
    clock = Clock(monkeypatch)
    first_is_slow = clock.call('f', lambda count: 100.0 if count <= 2 else float(count))
    measurement = bench.measure(first_is_slow, repetitions=5, warm_up=2)
    assert measurement.seconds == (3, 4, 5, 6, 7)
    assert measurement.median == 5 and measurement.quartiles == (4, 6)


def test_variants_take_turns_and_every_other_round_goes_backwards(monkeypatch):
    clock = Clock(monkeypatch)
    bench.measure_in_turn({name: clock.call(name, 1.0) for name in 'abc'}, repetitions=3, warm_up=1)
    assert ''.join(clock.log) == 'abccbaabccba'


def test_ratios_are_paired_by_round():
    times = {'naive': bench.Measurement((1.0, 2.0, 8.0)), 'fast': bench.Measurement((0.5, 0.8, 6.0))}
    ratio = bench.ratios(times, 'naive')
    assert ratio['naive'] == bench.Ratio(1.0, (1.0, 1.0))
    assert ratio['fast'].median == 0.5  # 0.5, 0.4, 0.75: not 0.8 / 2.0
    assert ratio['fast'].quartiles == pytest.approx((0.45, 0.625))


def test_comparison_survives_a_machine_that_slows_down(monkeypatch):
    clock = Clock(monkeypatch)
    work = {'naive': 2.0, 'fast': 1.0}

    def runner(name):
        return clock.call(name, lambda count: work[name] * 1.3 ** ((count - 1) // 2))

    times, ratio = bench.compare({name: (runner(name), ()) for name in work}, repetitions=9, warm_up=1)
    assert times['naive'].seconds[-1] > 5 * times['naive'].seconds[0]
    assert ratio['fast'].median == pytest.approx(0.5) and ratio['fast'].quartiles == pytest.approx((0.5, 0.5))


def test_comparison_of_real_programs_finds_the_slower_one():
    x = jnp.ones((200, 200))

    def chain(length):
        return jax.jit(lambda x: jax.lax.fori_loop(0, length, lambda i, y: jnp.tanh(y @ x) / 200, x))

    times, ratio = bench.compare({'short': (chain(5), (x,)), 'long': (chain(50), (x,))}, repetitions=5)
    assert len(times['long'].seconds) == 5
    assert ratio['short'].median == 1
    assert ratio['long'].median > 2


def test_program_costs_are_those_of_the_arithmetic():
    program = bench.compile_program(jax.jit(lambda a, b: a @ b), np.ones((64, 32), 'f'), np.ones((32, 48), 'f'))
    assert program.flops == 2 * 64 * 32 * 48
    assert program.memory['arguments'] == 4 * (64 * 32 + 32 * 48)
    assert program.memory['outputs'] == 4 * 64 * 48
    assert program.memory['peak'] == sum(program.memory[k] for k in ('temporaries', 'arguments', 'outputs'))
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


def test_input_rate_counts_all_batches(monkeypatch):
    """Every fifth batch is waited for, the others are ready: the median would promise 30 images/s."""
    clock = Clock(monkeypatch)
    step = clock.call('next', lambda count: 1.0 if count % 5 == 0 else 0.1)

    def batches():
        while True:
            step()
            yield {'image': np.zeros((3, 4, 4, 3), np.uint8)}

    inputs = Input('train', 3, ('image',), (4, 4))
    result = bench.bench_input(batches(), inputs, repetitions=10)
    assert result['images_per_second'] == pytest.approx(30 / (8 * 0.1 + 2 * 1.0))


# --- a toy stage ---


class Source:
    """Eight random images with labels."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (8, 12, 3), np.uint8)
        return {'image': image, 'label': (image[..., 0] > 127).astype(np.uint8), 'name': f'image{index}'}


SPEC = DataSpec(
    name='toy',
    classes=ClassSpec(('dark', 'bright'), ((0, 0, 0), (255, 255, 255)), (0, 1)),
    features=('image', 'label', 'name'),
    num_examples={'train': 8, 'val': 8},
    max_size={'train': (8, 12), 'val': (8, 12)},
    class_pixels={'train': (1, 1), 'val': (1, 1)},
    void_pixels={'train': 0, 'val': 0},
)


def toy_config():
    values = {
        'pipeline': 'toy',
        'seed': 0,
        'train': {'dtype': 'float32'},
        'parallel': {'check_replicas': False},
        'data': {'eval_size': (8, 12), 'threads': 0, 'workers': 0, 'prefetch': 4},
        'predict': {'tile': (), 'batch_size': 2},
        'augment': {key: field.default for key, field in config.AUGMENT.items()} | {'crop': (8, 8)},
    }
    return ml_collections.ConfigDict(values)


def toy_stage(settings):
    def logits(params, image):
        return image.astype(jnp.float32) / 255 @ params['segmenter']['kernel']

    def init(key, batch, earlier):
        params = {'segmenter': {'kernel': jax.random.normal(key, (3, 2))}}
        return TrainState(jnp.int32(0), params, {'segmenter': {}}, {}, {})

    def loss_fn(params, model_state, batch, keys):
        hot = jax.nn.one_hot(batch['label'], 2)
        loss = -(jax.nn.log_softmax(logits(params, batch['image'])) * hot).sum()
        return {'main': Mean(loss, hot.sum())}, model_state, {}

    def train_step(state, batch, keys):
        value_and_grad = parallel.global_value_and_grad(loss_fn, lambda name: 1.0)
        (loss, _, _, _), grads = value_and_grad(state.params, state.model_state, batch, keys)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
        return state.replace(step=state.step + 1, params=params), {'loss': Mean(loss, jnp.float32(1))}

    def eval_step(state, batch, keys):
        right = logits(state.params, batch['image']).argmax(-1) == batch['label']
        return {'accuracy': Mean(right.sum().astype(jnp.float32), jnp.float32(right.size))}

    return Stage(
        name='segmentation',
        num_steps=3,
        train_input=Input('train', 8, ('image', 'label'), (8, 8), settings.augment),
        eval_input=Input('val', 8, ('image', 'label'), (8, 12)),
        streams=(),
        init=init,
        train_step=train_step,
        eval_step=eval_step,
        finalize=lambda sums: {},
        monitor=('accuracy', 'max'),
        predict=lambda state, image: jax.nn.softmax(logits(state.params, image)),
    )


@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
def test_bench_of_a_stage(mode, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench.data, 'open_split', lambda *args: Source(), raising=False)
    settings = toy_config()
    topology = parallel.topology(mode)
    report = bench.run(settings, (toy_stage(settings),), SPEC, topology, pathlib.Path(tmp_path), repetitions=3)
    entries = report['stages']['segmentation']
    for part, batch, size in (
        ('train', 8, (8, 8)),
        ('evaluate', 8, (8, 12)),
        ('predict', 2, (8, 12)),
        ('input', 8, (8, 8)),
    ):
        entry = entries[part]
        assert (entry['batch_size'], entry['size'], entry['repetitions']) == (batch, size, 3)
        low, high = entry['quartiles_seconds']
        assert 0 < low <= entry['median_seconds'] <= high
        if part != 'input':
            assert entry['images_per_second'] == pytest.approx(batch / entry['median_seconds'])
            assert entry['compile_seconds'] > 0 and entry['memory']['peak'] > 0
    # one device predicts 2 images of 96 pixels; the 3 -> 2 product alone is 12 operations a pixel
    assert entries['predict']['flops'] >= 2 * 96 * 12
    assert entries['input_over_train'] == pytest.approx(
        entries['input']['images_per_second'] / entries['train']['images_per_second']
    )
    stored = json.loads((tmp_path / 'bench.json').read_text())
    assert stored['stages']['segmentation']['train']['flops'] == entries['train']['flops']
    assert stored['config'] == {'pipeline': 'toy', 'dtype': 'float32', 'parallel': mode, 'devices': 8}
    assert stored['environment']['jax'] == jax.__version__
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith('toy on 8 x cpu') and f'({mode}), float32, jax {jax.__version__}' in printed[0]
    assert [line.split()[1] for line in printed[2:6]] == ['train', 'evaluate', 'predict', 'input']
    assert 'input / train' in printed[6]


def test_stage_without_training_has_no_train_and_input_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.data, 'open_split', lambda *args: Source(), raising=False)
    settings = toy_config()
    stage = toy_stage(settings)._replace(num_steps=0, train_input=None, predict=None)
    report = bench.run(settings, (stage,), SPEC, parallel.topology('pmap', 2), tmp_path, repetitions=2)
    assert set(report['stages']['segmentation']) == {'evaluate'}
    assert report['config']['devices'] == 2
