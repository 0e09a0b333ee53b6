"""The step of BicycleGAN: its terms in plain loops, its gradients term by term, its devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_gans

from segjax.core import rng
from segjax.errors import InputError
from segjax.tasks import bicycle

B, H, W, K, C, N = 16, 4, 6, 3, 2, 3
NETS = (
    bicycle.GENERATOR,
    bicycle.ENCODER,
    bicycle.DISCRIMINATOR,
    bicycle.RANDOM_DISCRIMINATOR,
)
KEYS = rng.streams(rng.root(0, 'test'), bicycle.STREAMS, 0, 0)


def make_batch(rows=B, seed=0):
    return tiny_gans.make_batch(rows, (H, W), K, C, seed)


def make_system(accumulate=1, **section):
    """Returns a system of tiny nets."""
    settings = tiny_gans.settings(bicycle.BICYCLE, B, accumulate, code_size=N, **section)
    nets = tiny_gans.Generator(C), tiny_gans.Encoder(N), tiny_gans.Discriminator()
    judged = bicycle.judged_together if settings[1].conditional else bicycle.judged_alone
    return bicycle.System(*settings, 'bicycle', tiny_gans.pair_of, *nets, judged)


def start(system, seed=0):
    state = bicycle.make_init(system, 5)(rng.root(seed, 'init'), make_batch(), {})
    # Biases that are not 0 reveal a wrong sign.
    return state.replace(params=jax.tree.map(lambda x: x + 0.1, state.params))


def step(system, state, batch, devices=1):
    train_step = bicycle.make_train_step(system, 5)
    return tiny_gans.step(train_step, bicycle.STREAMS, state, batch, devices)


@pytest.fixture(scope='module')
def plain():
    """Returns (state before, state after, metrics) of a step on a device."""
    state = start(make_system())
    return state, *step(make_system(), state, make_batch())


def losses_of(system, state, batch, keys=KEYS):
    """Returns the terms of both players, as floats, without devices."""
    owned = functools.partial(chosen, state.params)
    generators, discriminators = (player.loss(state) for player in bicycle.players(system))
    terms, _, fakes = generators(owned(NETS[:2]), chosen(state.model_state, NETS[:2]), batch, keys)
    d_terms, _, _ = discriminators(
        owned(NETS[2:]), chosen(state.model_state, NETS[2:]), {**batch, **fakes}, keys
    )
    return {name: float(mean.value()) for name, mean in {**terms, **d_terms}.items()}


def chosen(values, nets):
    return {net: values[net] for net in nets}


# --- values ---------------------------------------------------------------------------------------


def linear(params, x):
    return x @ np.asarray(params['kernel'], np.float64) + np.asarray(params['bias'], np.float64)


def generate_by_hand(params, condition, code):
    """The tiny generator on [H, W, K], pixel by pixel."""
    image = np.zeros((H, W, C))
    for i, j in np.ndindex(H, W):
        image[i, j] = np.tanh(linear(params['dense'], np.concatenate([condition[i, j], code])))
    return image


def judge_by_hand(params, image, target):
    """The sum over both scales of the mean squared distance of the logits from the target."""
    fine = [(linear(params['fine'], image[i, j])[0] - target) ** 2 for i, j in np.ndindex(H, W)]
    coarse = [
        (linear(params['coarse'], image[i, j])[0] - target) ** 2
        for i, j in np.ndindex(H, W)
        if i % 2 == j % 2 == 0
    ]
    return np.mean(fine) + np.mean(coarse)


def draw(name, index):
    """The code or the noise of an example, from its index and the keys of the step."""
    key = jax.random.fold_in(rng.named(KEYS['latent'], name), index)
    return np.asarray(jax.random.normal(key, (N,)), np.float64)


def test_every_term_is_its_loop_over_examples_and_pixels():
    system = make_system()
    state = start(system)
    batch = make_batch()
    params = state.params
    sums = dict.fromkeys(
        ('adversarial', 'adversarial_random', 'l1', 'kl', 'code'), 0.0
    ) | dict.fromkeys(('real', 'generated', 'real_random', 'generated_random'), 0.0)

    for row in range(0, B, 2):
        condition, target = batch['condition'][row], batch['target'][row].astype(np.float64)
        mean = linear(params[NETS[1]]['mean'], target.mean((0, 1)))
        log_variance = linear(params[NETS[1]]['log_variance'], target.mean((0, 1)))
        code = mean + draw(bicycle.ENCODED, 5 + row) * np.exp(log_variance / 2)
        random_code = draw(bicycle.RANDOM, 5 + row)
        fake = generate_by_hand(params[NETS[0]], condition, code)
        random_fake = generate_by_hand(params[NETS[0]], condition, random_code)
        again = linear(params[NETS[1]]['mean'], random_fake.mean((0, 1)))

        sums['adversarial'] += judge_by_hand(params[NETS[2]], fake, 1)
        sums['adversarial_random'] += judge_by_hand(params[NETS[3]], random_fake, 1)
        sums['l1'] += np.abs(fake - target).mean()
        sums['kl'] += 0.5 * sum(mean**2 + np.exp(log_variance) - 1 - log_variance)
        sums['code'] += np.abs(again - random_code).mean()
        sums['real'] += judge_by_hand(params[NETS[2]], target, 1)
        sums['generated'] += judge_by_hand(params[NETS[2]], fake, 0)
        other = batch['target'][row + 1].astype(np.float64)
        sums['real_random'] += judge_by_hand(params[NETS[3]], other, 1)
        sums['generated_random'] += judge_by_hand(params[NETS[3]], random_fake, 0)

    got = losses_of(system, state, batch)
    assert got.keys() == sums.keys()
    for name, value in sums.items():
        np.testing.assert_allclose(got[name], value / (B / 2), rtol=1e-5, err_msg=name)


def test_the_loss_is_the_published_sum(plain):
    state, _, metrics = plain
    terms = losses_of(make_system(), state, make_batch())
    expected = (
        terms['adversarial']
        + terms['adversarial_random']
        + 10 * terms['l1']
        + 0.01 * B / 2 * terms['kl']
        + 0.5 * terms['code']
    )
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)
    judged = sum(terms[f'{name}{end}'] for name in ('real', 'generated') for end in ('', '_random'))
    np.testing.assert_allclose(metrics['loss_discriminator'], judged, rtol=1e-5)
    np.testing.assert_allclose(metrics['loss_kl'], terms['kl'], rtol=1e-5)


def test_the_divergence_is_a_sum_or_a_mean_over_the_first_half():
    assert bicycle.loss_weights(make_system())['kl'] == 0.01 * B / 2
    assert bicycle.loss_weights(make_system(kl_reduction='mean'))['kl'] == 0.01


# --- gradients ------------------------------------------------------------------------------------


def gradients_of(system, state, name):
    """Returns the gradients of one term of the generators for G and E."""
    loss = bicycle.generator_loss(system, state)

    def value(params):
        terms, _, _ = loss(params, chosen(state.model_state, NETS[:2]), make_batch(), KEYS)
        return terms[name].value()

    return jax.jit(jax.grad(value))(chosen(state.params, NETS[:2]))


def any_nonzero(tree):
    return any(np.any(x != 0) for x in jax.tree.leaves(tree))


TRAINED = {
    'adversarial': (True, True),
    'adversarial_random': (True, False),
    'l1': (True, True),
    'kl': (False, True),
    'code': (True, False),
}
"""Whether a term trains (G, E)."""


@pytest.mark.parametrize('name', TRAINED)
def test_each_term_trains_its_own_nets(name):
    system = make_system()
    gradients = gradients_of(system, start(system), name)
    chex.assert_tree_all_finite(gradients)
    assert tuple(any_nonzero(gradients[net]) for net in NETS[:2]) == TRAINED[name]


def test_a_step_is_the_released_order_of_separate_backward_passes(plain):
    system = make_system()
    state, after, _ = plain
    batch = make_batch()
    even = {key: value[0::2] for key, value in batch.items()}
    other = batch['target'][1::2]
    noise = np.stack([draw(bicycle.ENCODED, i) for i in even['index']])
    random_code = np.stack([draw(bicycle.RANDOM, i) for i in even['index']])

    def generate(g, code):
        return system.generator.apply({'params': g}, even['condition'], code, train=False)['image']

    def encode(e, x):
        return system.encoder.apply({'params': e}, x, train=False)

    def squares(d, x, target):
        (fine,), (coarse,) = system.discriminator.apply({'params': d}, x, train=False)
        return ((fine - target) ** 2).mean() + ((coarse - target) ** 2).mean()

    def fakes_of(g, e):
        posterior = encode(e, even['target'])
        std = jnp.exp(0.5 * posterior['log_variance'])
        return generate(g, posterior['mean'] + noise * std), generate(g, random_code), posterior

    def first(g, e, d, d2):
        fake, random_fake, posterior = fakes_of(g, e)
        mean, log_variance = posterior['mean'], posterior['log_variance']
        kl = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum()
        l1 = jnp.abs(fake - even['target']).mean()
        return squares(d, fake, 1) + squares(d2, random_fake, 1) + 10 * l1 + 0.01 * kl

    def second(g, e):
        return 0.5 * jnp.abs(encode(e, generate(g, random_code))['mean'] - random_code).mean()

    def judged(d, real, fake):
        return squares(d, real, 1) + squares(d, fake, 0)

    @jax.jit
    def expected(g, e, d, d2):
        grad_g, grad_e = jax.grad(first, (0, 1))(g, e, d, d2)
        grad_g = jax.tree.map(jnp.add, grad_g, jax.grad(second)(g, e))
        fake, random_fake, _ = fakes_of(g, e)
        grad_d = jax.grad(judged)(d, even['target'], fake)
        grad_d2 = jax.grad(judged)(d2, other, random_fake)
        grads = (grad_g, grad_e, grad_d, grad_d2)
        return jax.tree.map(lambda p, g: p - tiny_gans.RATE * g, (g, e, d, d2), grads)

    updated = expected(*(state.params[net] for net in NETS))
    for net, params in zip(NETS, updated, strict=True):
        chex.assert_trees_all_close(after.params[net], params, rtol=1e-5, atol=1e-6)
        assert any_nonzero(jax.tree.map(np.subtract, after.params[net], state.params[net])), net


def test_the_loss_of_the_generators_does_not_move_the_discriminators(plain):
    state, after, _ = plain
    weights = dict(adversarial=9.0, adversarial_random=7.0, l1=1.0, kl=1.0, code=3.0)
    heavy, _ = step(make_system(weights=weights), state, make_batch())
    chex.assert_trees_all_equal(chosen(after.params, NETS[2:]), chosen(heavy.params, NETS[2:]))
    for net in NETS[:2]:
        assert any_nonzero(jax.tree.map(np.subtract, after.params[net], heavy.params[net]))


@pytest.mark.slow
@pytest.mark.devices(8)
@pytest.mark.parametrize('devices, accumulate', [(8, 1), (2, 4)])
def test_one_device_is_several_devices_and_micro_batches(plain, devices, accumulate):
    state, whole, metrics = plain
    parts, other = step(make_system(accumulate), state, make_batch(), devices)
    chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-5, atol=1e-6)
    assert metrics.keys() == other.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-5, err_msg=name)


# --- halves and codes -----------------------------------------------------------------------------


def test_the_second_half_only_shows_targets_to_the_second_discriminator():
    system = make_system()
    state = start(system)
    batch = make_batch()
    changed = {key: value.copy() for key, value in batch.items()}
    changed['target'][1::2] *= -1
    changed['condition'][1::2] *= -1
    before, after = (losses_of(system, state, batch) for batch in (batch, changed))
    different = {name for name in before if before[name] != after[name]}
    assert different == {'real_random'}


def test_a_conditional_discriminator_sees_conditions():
    system = make_system(conditional=True)
    state = start(system)
    for net in NETS[2:]:
        assert state.params[net]['fine']['kernel'].shape == (K + C, 1)
    batch = make_batch()
    changed = {key: value.copy() for key, value in batch.items()}
    changed['condition'][1::2] *= -1
    before, after = (losses_of(system, state, batch) for batch in (batch, changed))
    different = {name for name in before if before[name] != after[name]}
    assert different == {'real_random'}


def test_an_odd_number_of_examples_is_refused():
    system = make_system()
    with pytest.raises(InputError, match=r'--config\.train\.batch_size=32') as error:
        losses_of(system, start(system), make_batch(3))
    assert '3 examples for each device' in str(error.value)


def test_terms_without_a_weight_are_left_out():
    system = make_system(weights=dict(adversarial_random=0.0, kl=0.0, code=0.0))
    terms = losses_of(system, start(system), make_batch())
    assert set(terms) >= {'adversarial', 'l1', 'real_random'}
    assert not {'adversarial_random', 'kl', 'code'} & set(terms)


def test_codes_are_standard_normal_and_belong_to_their_example():
    index = np.arange(4000, dtype=np.int32)
    codes = np.asarray(jax.jit(lambda i: bicycle.normal_codes(KEYS['latent'], i, 4))(index))
    assert abs(codes.mean()) < 5 / codes.size**0.5
    np.testing.assert_allclose(np.cov(codes.T), np.eye(4), atol=0.1)
    some = np.int32([7, 3999])
    np.testing.assert_array_equal(bicycle.normal_codes(KEYS['latent'], some, 4), codes[some])


def test_samples_are_images_of_codes():
    system = make_system()
    state = start(system)
    batch = make_batch(2)
    condition = batch['condition']
    codes = np.random.default_rng(0).normal(size=(4, N)).astype(np.float32)
    images = bicycle.sample(system, state.params, state.model_state, condition, codes)
    chex.assert_shape(images, (2, 4, H, W, C))
    for b, n in np.ndindex(2, 4):
        expected = generate_by_hand(state.params[NETS[0]], condition[b], codes[n])
        np.testing.assert_allclose(images[b, n], expected, rtol=1e-4, atol=1e-5)
    own = np.stack([codes, -codes])
    images = bicycle.sample(system, state.params, state.model_state, condition, own)
    expected = generate_by_hand(state.params[NETS[0]], condition[1], -codes[2])
    np.testing.assert_allclose(images[1, 2], expected, rtol=1e-4, atol=1e-5)
    distribution = bicycle.encode(system, state.params, state.model_state, batch['target'])
    expected = linear(state.params[NETS[1]]['mean'], batch['target'].mean((1, 2)))
    np.testing.assert_allclose(distribution['mean'], expected, rtol=1e-4, atol=1e-5)


# --- the published nets ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_published_nets_compile_once_and_come_nearer_to_their_targets():
    nets = dict(
        model=dict(num_downs=5, width=1 / 16),
        encoder=dict(blocks=2, width=1 / 16),
        discriminator=dict(num_layers=1, width=1 / 16),
    )
    adam = dict(optim=tiny_gans.ADAM, optim_discriminator=tiny_gans.ADAM)
    settings = tiny_gans.settings(bicycle.BICYCLE, 4, **nets, **adam)
    tiny_gans.check_that_a_net_learns(bicycle, *settings)
