"""The step of generators and discriminators, in a game whose gradients are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from segjax import config as config_lib
from segjax.core import parallel, rng
from segjax.protocol import Mean
from segjax.tasks import adversarial, supervised

RATE = 0.1
"""Learning rate of both players, who use gradient descent."""


def make_config():
    config = config_lib.defaults('supervised')
    sgd = dict(name='sgd', learning_rate=RATE, momentum=0.0, weight_decay=0.0, schedule='constant')
    config_lib.update(config, optim=sgd)
    return config


def generator_loss(state):
    """Returns the loss d g x of a generator g, whose output is g x."""

    def loss_fn(params, model_state, batch, keys):
        generated = params['g']['w'] * batch['x']
        verdict = state.params['d']['w'] * generated
        statistics = {'g': {'batch_stats': {'seen': model_state['g']['batch_stats']['seen'] + 1}}}
        terms = {'adversarial': Mean(verdict.sum(), jnp.float32(len(verdict)))}
        return terms, statistics, {'generated': generated}

    return loss_fn


def discriminator_loss(state):
    """Returns the terms 'real' (d x) and 'generated' (-d times the generated numbers)."""

    def loss_fn(params, model_state, batch, keys):
        real = params['d']['w'] * batch['x']
        generated = -params['d']['w'] * batch['generated']
        terms = {
            'real': Mean(real.sum(), jnp.float32(len(real))),
            'generated': Mean(generated.sum(), jnp.float32(len(generated))),
        }
        return terms, model_state, {}

    return loss_fn


def players():
    section = make_config().optim
    generators = adversarial.Player(
        {'generator': supervised.Optimiser(section, ('g',))},
        generator_loss,
        {'adversarial': 2.0}.__getitem__,
    )
    discriminators = adversarial.Player(
        {'discriminator': supervised.Optimiser(section, ('d',))},
        discriminator_loss,
        {'real': 1.0, 'generated': 0.5}.__getitem__,
    )
    return generators, discriminators


def start(g=3.0, d=2.0, ema=0.0):
    params = {'g': {'w': jnp.float32(g)}, 'd': {'w': jnp.float32(d)}, 'frozen': {}}
    model_state = {'g': {'batch_stats': {'seen': jnp.float32(0)}}, 'd': {}, 'frozen': {}}
    return adversarial.fresh_state(params, model_state, *players(), num_steps=5, ema=ema)


def step(state, x, devices=1, **options):
    """Returns (state on the host, metrics as floats) after a step."""
    settings = {'num_steps': 5, 'accumulate': 1, 'ema': 0.0, **options}
    train_step = adversarial.make_train_step(*players(), **settings)
    topology = parallel.topology('pmap', devices)
    root = rng.root(0, 'test')

    def run(state, batch):
        keys = rng.streams(root, (), state.step, parallel.device_index())
        state, metrics = train_step(state, batch, keys)
        return state, parallel.sum_over_devices(metrics)

    run = topology.spmd(run, num_args=2)
    state, metrics = run(topology.put_replicated(state), topology.put_batch({'x': x}))
    values = {name: mean.value() for name, mean in parallel.to_host(metrics).items()}
    return parallel.to_host(state), values


X = np.array([1.0, 2.0, 3.0, 6.0], np.float32)  # mean 3


def test_both_players_take_the_gradient_of_the_nets_before_the_step():
    state, metrics = step(start(), X)
    # dL/dg = 2 d mean(x); dL/dd = mean(x) - 0.5 mean(g x)
    np.testing.assert_allclose(state.params['g']['w'], 3 - RATE * 2 * 2 * 3, rtol=1e-6)
    np.testing.assert_allclose(state.params['d']['w'], 2 - RATE * (3 - 0.5 * 9), rtol=1e-6)
    np.testing.assert_allclose(metrics['loss'], 2 * 2 * 9)
    np.testing.assert_allclose(metrics['loss_discriminator'], 6 - 0.5 * 18)
    np.testing.assert_allclose(metrics['loss_real'], 6)
    assert state.step == 1
    assert state.model_state['g']['batch_stats']['seen'] == 1
    assert state.params['frozen'] == {}
    assert set(state.opt_state) == {'generator', 'discriminator'}


def test_micro_batches_and_devices_change_nothing():
    whole, metrics = step(start(), X)
    for options in ({'devices': 2}, {'accumulate': 2}, {'devices': 2, 'accumulate': 2}):
        state, other = step(start(), X, **options)
        np.testing.assert_allclose(state.params['g']['w'], whole.params['g']['w'], rtol=1e-6)
        np.testing.assert_allclose(state.params['d']['w'], whole.params['d']['w'], rtol=1e-6)
        np.testing.assert_allclose(other['loss_discriminator'], metrics['loss_discriminator'])


def test_only_generators_are_averaged():
    state, _ = step(start(ema=0.5), X, ema=0.5)
    assert set(state.extra['ema']['params']) == {'g'}
    # The first average is the net after its first step.
    np.testing.assert_allclose(state.extra['ema']['params']['g']['w'], state.params['g']['w'])


@pytest.mark.parametrize(
    ('low', 'high', 'g_moves', 'd_moves'),
    [
        (-20.0, 7.0, True, True),  # real 6, generated -18
        (-20.0, 5.0, False, True),
        (0.3, 7.0, True, False),
        (0.3, 5.0, True, True),  # both would pause, so both move
    ],
)
def test_a_player_that_is_ahead_pauses(low, high, g_moves, d_moves):
    moved, _ = step(start(), X)
    control = adversarial.Control(low=low, high=high)
    state, metrics = step(start(), X, control=control)
    for net, moves, before in (('g', g_moves, 3.0), ('d', d_moves, 2.0)):
        expected = moved.params[net]['w'] if moves else before
        np.testing.assert_allclose(state.params[net]['w'], expected, rtol=1e-6)
    assert state.model_state['g']['batch_stats']['seen'] == g_moves
    assert (metrics['generators_move'], metrics['discriminators_move']) == (g_moves, d_moves)
    assert state.step == 1


def test_the_pause_depends_on_the_losses_of_all_devices():
    # Alone, the first device would have the real loss 3 and the second 9.
    control = adversarial.Control(low=-20.0, high=7.0)
    state, metrics = step(start(), X, devices=2, control=control)
    assert (metrics['generators_move'], metrics['discriminators_move']) == (1, 1)
    np.testing.assert_allclose(state.params['g']['w'], 3 - RATE * 2 * 2 * 3, rtol=1e-6)


def test_the_loss_of_patches_reads_the_logits_of_every_scale():
    features = jnp.full((2, 4, 4, 3), 7.0)
    verdicts = [
        (features, jnp.full((2, 4, 4, 1), 0.5)),
        (features, jnp.full((2, 2, 2, 1), -1.0)),
    ]
    loss = adversarial.judge_loss(verdicts, 1.0, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(loss.value(), 0.25 + 4)
