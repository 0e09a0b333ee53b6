"""The supervised pipeline: a step is the same on one device and on eight, and it learns."""

import chex
import jax
import numpy as np
import pytest
from fakes import SPEC, eval_batches, train_batch

from segjax import config as config_lib
from segjax.core import parallel, rng
from segjax.pipelines import supervised


def make_config(**sections):
    config = config_lib.defaults('supervised')
    # No dropout: the devices of a topology draw different masks.
    config.model.update(width=0.25, blocks=(0, 1, 0, 0), dropout=(0.0, 0.0))
    config_lib.update(
        config,
        train=dict(batch_size=8, num_steps=30),
        augment=dict(crop=(32, 64)),
        data=dict(eval_size=(32, 64)),
        # Plain SGD: Adam would turn the rounding noise of a zero gradient into full steps.
        optim=dict(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant'),
        loss=dict(class_weights='enet', aux_weight=1.0),
    )
    config_lib.update(config, **sections)
    return config


def run_steps(config, num_steps=1, devices=1, mode='pmap', size=(32, 64)):
    """Returns (stage, topology, state on the host, losses) after some steps on one batch.

    Fails if the step is traced twice.
    """
    (stage,) = supervised.make_stages(config, SPEC)
    topology = parallel.topology(mode, devices)
    batch = train_batch(size=size)
    root = rng.root(0, 'test')

    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def step(state, batch):
        keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(dict(metrics)), parallel.replica_mismatch(state)

    step = topology.spmd(step, num_args=2)
    state = topology.put_replicated(parallel.to_host(stage.init(root, batch, {})))
    losses = []
    for _ in range(num_steps):
        state, metrics, mismatch = jax.block_until_ready(step(state, topology.put_batch(batch)))
        losses.append(float(parallel.to_host(metrics['loss']).value()))
        assert int(mismatch) == 0
    return stage, topology, parallel.to_host(state), losses


@pytest.fixture(scope='module')
def one_device():
    return run_steps(make_config())


def steps_in_float64(num_steps, devices=1, mode='pmap'):
    """Returns (state, losses) after some SGD steps on small images.

    In float32, an activation that rounds to the other side of a ReLU moves gradients by per cents.
    This happens on one device when the rows of its batch change places. In float64 that noise is
    gone, and any real difference shows. Convolutions in float64 are slow on CPUs, so the images are
    small.
    """
    with jax.enable_x64(True):
        config = make_config(train=dict(dtype='float64'))
        _, _, state, losses = run_steps(config, num_steps, devices, mode, size=(16, 32))
        return state, losses


@pytest.fixture(scope='module')
def exact_step():
    """Returns (state at the start, state after a step, losses)."""
    start, _ = steps_in_float64(0)
    return start, *steps_in_float64(1)


@pytest.mark.parametrize(
    'devices, mode',
    [(8, 'pmap'), (2, 'shard_map'), pytest.param(8, 'shard_map', marks=pytest.mark.slow)],
)
def test_a_step_is_the_same_on_any_number_of_devices(exact_step, devices, mode):
    start, expected, expected_losses = exact_step
    state, losses = steps_in_float64(1, devices, mode)
    # Logits and losses are float32, and a device adds up to 4,096 pixels one after another.
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-6)
    moved, expected_move = (
        jax.tree.map(np.subtract, s.params, start.params) for s in (state, expected)
    )
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(moved), jax.tree.leaves(expected_move)
    ):
        # A parameter moves by its gradient times the learning rate, up to its own rounding.
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b) + 1e-6, path
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        state.model_state,
        expected.model_state,
    )


@pytest.mark.parametrize(
    'batch_size, devices, mode', [(8, 8, 'pmap'), (3, 1, 'pmap'), (4, 4, 'shard_map')]
)
def test_scores_do_not_depend_on_batch_size_or_devices(one_device, batch_size, devices, mode):
    stage, _, state, _ = one_device

    def totals(batch_size, topology):
        step = topology.spmd(
            lambda state, batch: parallel.sum_over_devices(stage.eval_step(state, batch, {})),
            num_args=2,
        )
        device_state = topology.put_replicated(state)
        sums = [
            parallel.to_host(step(device_state, topology.put_batch(b)))
            for b in eval_batches(batch_size)
        ]
        return jax.tree.map(lambda *x: sum(x), *sums)

    whole = totals(10, parallel.topology('pmap', 1))
    parts = totals(batch_size, parallel.topology(mode, devices))
    np.testing.assert_array_equal(parts['confusion'].sum, whole['confusion'].sum)
    np.testing.assert_allclose(
        parts['image_score'].value(), whole['image_score'].value(), rtol=1e-6
    )
    labelled = sum((b['label'] != 255).sum() for b in eval_batches(10))
    assert whole['confusion'].sum.sum() == labelled, 'every labelled pixel counts once'
    assert stage.finalize(parts) == stage.finalize(whole)


def test_scores_come_with_those_of_blind_predictors(one_device):
    stage, topology, state, _ = one_device
    (batch,) = eval_batches(10)
    step = topology.spmd(
        lambda s, b: parallel.sum_over_devices(stage.eval_step(s, b, {})), num_args=2
    )
    scores = stage.finalize(
        parallel.to_host(step(topology.put_replicated(state), topology.put_batch(batch)))
    )
    # With five equally frequent classes, always predicting the same class has an IoU of 1/5 for it.
    assert scores['baseline_commonest']['mIoU'] == pytest.approx(1 / 25, abs=0.01)
    assert scores['baseline_prior']['mIoU'] == pytest.approx(1 / 9, abs=0.03)
    assert set(SPEC.classes.names) == set(scores['IoU'])


@pytest.mark.parametrize(
    'sections',
    [
        {},
        dict(loss=dict(name='ohem')),
        dict(loss=dict(label_smoothing=0.1), train=dict(ema=0.9)),
        dict(train=dict(accumulate=2)),
        dict(
            train=dict(dtype='bfloat16'),
            optim=dict(name='adamw', learning_rate=0.01, clip_norm=1.0),
        ),
    ],
    ids=['plain', 'ohem', 'smoothing and ema', 'micro-batches', 'bfloat16 and adamw'],
)
def test_it_learns_what_can_be_learned(sections):
    adam = dict(name='adam', learning_rate=0.01)
    sections = {'optim': adam, **sections}
    _, _, state, losses = run_steps(make_config(**sections), num_steps=12)
    assert losses[-1] < losses[0] - 0.1
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(state.params)), (
        'parameters stay float32'
    )
    assert state.step == 12


def test_init_does_not_read_the_batch():
    (stage,) = supervised.make_stages(make_config(), SPEC)
    init = jax.jit(stage.init)
    a = init(rng.root(0, 'x'), train_batch(seed=0), {})
    b = init(rng.root(0, 'x'), train_batch(seed=1), {})
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_pictures_and_probabilities_have_the_promised_shapes(one_device):
    stage, _, state, _ = one_device
    (batch,) = eval_batches(10)
    pictures = jax.jit(stage.render)(state, batch, {'dropout': jax.random.key(0)})
    for picture in pictures.values():
        chex.assert_shape(picture.pixels, (10, 40, 70, 3))
        chex.assert_type(picture.pixels, np.uint8)
    probabilities = jax.jit(stage.predict)(state, batch['image'])
    chex.assert_shape(probabilities, (10, 32, 64, 5))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
