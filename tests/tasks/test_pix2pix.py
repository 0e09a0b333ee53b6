"""The step of pix2pix: terms in plain loops, gradients of the nets before the step, its dropout."""

import chex
import jax
import numpy as np
import pytest
import tiny_gans

from segjax.core import rng
from segjax.models.generators.unet import UNet
from segjax.tasks import pix2pix

B, H, W, K, C = 8, 4, 6, 3, 2
G, D = pix2pix.GENERATOR, pix2pix.DISCRIMINATOR
KEYS = rng.streams(rng.root(0, 'test'), pix2pix.STREAMS, 0, 0)


def make_batch(rows=B, seed=0):
    return tiny_gans.make_batch(rows, (H, W), K, C, seed)


def make_system(accumulate=1, **section):
    """Returns a system of tiny nets."""
    settings = tiny_gans.settings(pix2pix.PIX2PIX, B, accumulate, **section)
    nets = tiny_gans.Generator(C), tiny_gans.Discriminator()
    return pix2pix.System(*settings, 'pix2pix', tiny_gans.pair_of, *nets)


def start(system):
    state = pix2pix.make_init(system, 5)(rng.root(0, 'init'), make_batch(), {})
    # Biases that are not 0 reveal a wrong sign.
    return state.replace(params=jax.tree.map(lambda x: x + 0.1, state.params))


def step(system, state, batch, devices=1):
    train_step = pix2pix.make_train_step(system, 5)
    return tiny_gans.step(train_step, pix2pix.STREAMS, state, batch, devices)


@pytest.fixture(scope='module')
def plain():
    """Returns (state before, state after, metrics) of a step on a device."""
    state = start(make_system())
    return state, *step(make_system(), state, make_batch())


def linear(params, x):
    return x @ np.asarray(params['kernel'], np.float64) + np.asarray(params['bias'], np.float64)


def losses_by_hand(params, batch, point):
    """Returns the four terms in loops over examples and pixels, for the loss of a logit."""
    sums = dict.fromkeys(('adversarial', 'l1', 'real', 'generated'), 0.0)
    for b in range(B):
        condition = batch['condition'][b].astype(np.float64)
        target = batch['target'][b].astype(np.float64)
        fake = np.tanh(linear(params[G]['dense'], condition))
        sums['l1'] += np.abs(fake - target).mean() / B
        for name, image, real in (
            ('adversarial', fake, 1),
            ('real', target, 1),
            ('generated', fake, 0),
        ):
            pair = np.concatenate([condition, image], -1)
            for scale, seen in (('fine', pair), ('coarse', pair[::2, ::2])):
                logits = linear(params[D][scale], seen).ravel()
                sums[name] += np.mean([point(logit, real) for logit in logits]) / B
    return sums


def logistic(logit, real):
    return -np.log(1 / (1 + np.exp(-logit if real else logit)))


def square(logit, real):
    return (logit - real) ** 2


def test_the_terms_are_loops_and_their_sum_is_published(plain):
    state, _, metrics = plain
    expected = losses_by_hand(state.params, make_batch(), logistic)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[f'loss_{name}'], value, rtol=1e-5, err_msg=name)
    total = expected['adversarial'] + 100 * expected['l1']
    np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)
    judged = (expected['real'] + expected['generated']) / 2
    np.testing.assert_allclose(metrics['loss_discriminator'], judged, rtol=1e-5)


def test_the_least_squares_loss_is_a_choice():
    system = make_system(adversarial='least_squares')
    state = start(system)
    loss = pix2pix.discriminator_loss(system, state)
    fake = pix2pix.sample(
        system, state.params, state.model_state, make_batch()['condition'], no_keys(B, 1)
    )[:, 0]
    batch = {**make_batch(), pix2pix.GENERATED: fake}
    terms, _, _ = loss({D: state.params[D]}, {D: state.model_state[D]}, batch, KEYS)
    expected = losses_by_hand(state.params, make_batch(), square)
    for name in ('real', 'generated'):
        np.testing.assert_allclose(terms[name].value(), expected[name], rtol=1e-5)


def no_keys(rows, n):
    """Returns [rows, n] keys for a generator without dropout."""
    return jax.random.split(jax.random.key(0), (rows, n))


def test_both_nets_take_the_gradient_of_the_nets_before_the_step(plain):
    """Differences of the loss in each parameter are the gradients, in float64."""
    state, after, _ = plain
    before = jax.tree.map(lambda x: np.asarray(x, np.float64), dict(state.params))
    batch = make_batch()

    def total(net, params):
        terms = losses_by_hand(params, batch, logistic)
        if net == G:
            return terms['adversarial'] + 100 * terms['l1']
        return (terms['real'] + terms['generated']) / 2

    rng = np.random.default_rng(0)
    for net in (G, D):
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), before[net])
        ends = []
        for sign in (1, -1):
            moved = jax.tree.map(lambda x, d, s=sign: x + s * 1e-5 * d, before[net], direction)
            ends.append(total(net, {**before, net: moved}))
        slope = (ends[0] - ends[1]) / 2e-5
        change = jax.tree.map(
            lambda new, old, d: ((new - old) * d).sum(), after.params[net], before[net], direction
        )
        got = -sum(jax.tree.leaves(change)) / tiny_gans.RATE
        np.testing.assert_allclose(got, slope, rtol=1e-3)


@pytest.mark.devices(8)
@pytest.mark.parametrize('devices, accumulate', [(8, 1), (2, 2)])
def test_one_device_is_several_devices_and_micro_batches(plain, devices, accumulate):
    state, whole, metrics = plain
    parts, other = step(make_system(accumulate), state, make_batch(), devices)
    chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-5, atol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-5, err_msg=name)


def test_terms_without_a_weight_are_left_out():
    system = make_system(weights=dict(adversarial=0.0))
    state = start(system)
    loss = pix2pix.generator_loss(system, state)
    terms, _, _ = loss({G: state.params[G]}, {G: state.model_state[G]}, make_batch(), KEYS)
    assert set(terms) == {'l1'}


def test_samples_differ_by_their_dropout_and_not_by_their_batch():
    settings = tiny_gans.settings(pix2pix.PIX2PIX, B)
    net = UNet(out_channels=C, num_downs=6, norm='instance', width=1 / 32)
    system = pix2pix.System(*settings, 'pix2pix', tiny_gans.pair_of, net, tiny_gans.Discriminator())
    condition = tiny_gans.make_batch(2, (64, 64), K, C)['condition']
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), condition, train=False))['params']
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) / 4, shapes)
    keys = no_keys(2, 3)
    sample = jax.jit(lambda x, keys: pix2pix.sample(system, {G: params}, {G: {}}, x, keys))
    images = sample(condition, keys)
    chex.assert_shape(images, (2, 3, 64, 64, C))
    for n in (1, 2):
        assert np.abs(images[:, 0] - images[:, n]).max() > 1e-3
    swapped = sample(condition[::-1], keys[::-1])[::-1]
    np.testing.assert_allclose(images, swapped, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_published_nets_compile_once_and_come_nearer_to_their_targets():
    nets = dict(
        model=dict(num_downs=5, width=1 / 32), discriminator=dict(num_layers=1, width=1 / 16)
    )
    adam = dict(optim=tiny_gans.ADAM, optim_discriminator=tiny_gans.ADAM)
    settings = tiny_gans.settings(pix2pix.PIX2PIX, 4, **nets, **adam)
    tiny_gans.check_that_a_net_learns(pix2pix, *settings)
