"""BicycleGAN on features and with maps of codes: its terms in loops, its nets, its settings."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_gans

from segjax.config import tree
from segjax.core import rng
from segjax.errors import InputError
from segjax.tasks import bicycle

B, K, C, N = 4, 3, 5, 2
LAYOUT = (32, 48)
SIZE = (8, 12)
CELLS = (4, 6)
"""Cells of maps of codes, each of 2 x 2 features."""
NETS = (bicycle.GENERATOR, bicycle.ENCODER)
JUDGES = (bicycle.DISCRIMINATOR, bicycle.RANDOM_DISCRIMINATOR)
KEYS = rng.streams(rng.root(0, 'test'), bicycle.STREAMS, 0, 0)


def make_batch(rows=B, layout=LAYOUT, size=SIZE):
    """Returns a batch of one-hot layouts in pieces of 8 x 8 pixels, and features."""
    rng = np.random.default_rng(0)
    batch = tiny_gans.make_batch(rows, size, K, C)
    label = rng.integers(0, K, (rows, layout[0] // 8, layout[1] // 8)).repeat(8, 1).repeat(8, 2)
    return {**batch, 'condition': np.eye(K, dtype=np.float32)[label]}


def make_system(model=None, discriminator=None, **section):
    """Returns a system of narrow nets for features at stride 4."""
    config, keys = tiny_gans.settings(bicycle.FEATURES, B, code_size=N, **section)
    keys.model.update({'width': 1 / 16, 'stride': 4, 'num_downs': 2, 'init_std': 1.0})
    keys.discriminator.update({'width': 1 / 16, 'stride': 4, 'num_scales': 1, 'num_layers': 1})
    keys.discriminator.update({'init_std': 1.0, **(discriminator or {})})
    keys.model.update(model or {})
    keys.encoder.update({'width': 1 / 16, 'blocks': 0, 'init_std': 1.0})
    return bicycle.make_system(config, keys, tiny_gans.pair_of, C)


def start(system, batch=None):
    return bicycle.make_init(system, 5)(rng.root(0, 'init'), batch or make_batch(), {})


def shapes(system, batch=None):
    """Returns the shapes of the first state."""
    batch = batch or make_batch()
    return jax.eval_shape(lambda key: bicycle.make_init(system, 5)(key, batch, {}), rng.root(0, ''))


def chosen(values, nets):
    return {net: values[net] for net in nets}


def any_nonzero(tree):
    return any(np.any(x != 0) for x in jax.tree.leaves(tree))


def randomised(state):
    """Returns a state with random parameters that keep the scale of activations."""
    rng = np.random.default_rng(0)

    def draw(x):
        fan = np.prod(x.shape[:-1]) if x.ndim > 1 else 25
        return rng.uniform(-1, 1, x.shape).astype(np.float32) * np.float32((6 / fan) ** 0.5)

    return state.replace(params=jax.tree.map(draw, state.params))


# --- the section ----------------------------------------------------------------------------------


def test_a_section_of_features_begins_with_its_own_nets():
    keys = tree.defaults_of(bicycle.FEATURES)
    assert keys.keys() == tree.defaults_of(bicycle.BICYCLE).keys()
    assert keys['model']['name'] == 'feature_unet'
    assert keys['model']['output'] == 'linear'
    assert keys['discriminator']['name'] == 'layout_discriminator'
    assert (keys['discriminator']['num_layers'], keys['discriminator']['padding']) == (2, 1)
    assert keys['encoder']['blocks'] == 2
    assert keys['code_map'] == ()
    for schema in (bicycle.BICYCLE, bicycle.FEATURES):
        assert set(schema['model'].options) == {'latent_unet', 'feature_unet'}
        assert set(schema['discriminator'].options) == {'multiscale', 'layout_discriminator'}


def test_published_features_have_a_state():
    config, keys = tiny_gans.settings(bicycle.FEATURES, B)
    system = bicycle.make_system(config, keys, tiny_gans.pair_of, 1024)
    batch = {**make_batch(), 'condition': np.zeros((B, 713, 713, 20), np.float32)}
    batch['target'] = np.zeros((B, 90, 90, 1024), np.float32)
    state = shapes(system, batch)
    assert set(state.params) == {*NETS, *JUDGES}
    # D and D2 have encoders of layouts of their own.
    for net in JUDGES:
        assert set(state.params[net]) == {'layout', 'scale_0', 'scale_1'}
    assert state.params[bicycle.ENCODER]['stem']['kernel'].shape == (4, 4, 1024, 64)


def test_features_of_16_by_32_cells_fit():
    config, keys = tiny_gans.settings(bicycle.FEATURES, B)
    keys.discriminator.num_scales = 1
    system = bicycle.make_system(config, keys, tiny_gans.pair_of, 1024)
    batch = {**make_batch(), 'condition': np.zeros((B, 128, 256, 20), np.float32)}
    batch['target'] = np.zeros((B, 16, 32, 1024), np.float32)
    shapes(system, batch)


def test_another_stride_is_refused_with_a_remedy():
    for net in ('model', 'discriminator'):
        with pytest.raises(InputError, match=rf'bicycle\.{net}') as error:
            shapes(make_system(**{net: {'stride': 8}}))
        assert error.value.fix == f'--config.bicycle.{net}.stride=4'
        assert 'targets of 8x12 and conditions of 32x48' in str(error.value)
        assert 'targets of 4x6, at stride 8' in str(error.value)
    batch = {**make_batch(), 'target': np.zeros((B, 7, 12, C), np.float32)}
    with pytest.raises(InputError, match='targets of 7x12') as error:
        shapes(make_system(), batch)
    assert not error.value.fix


def test_a_generator_of_images_is_refused_for_features():
    config, keys = tiny_gans.settings(bicycle.BICYCLE, B)
    system = bicycle.make_system(config, keys, tiny_gans.pair_of, C)
    with pytest.raises(InputError, match='at stride 1') as error:
        shapes(system)
    expected = '--config.bicycle.model.name=feature_unet --config.bicycle.model.stride=4'
    assert error.value.fix == expected


def test_maps_of_codes_that_do_not_divide_are_refused_with_a_remedy():
    with pytest.raises(InputError, match=r'bicycle\.code_map') as error:
        shapes(make_system(code_map=(3, 5)))
    assert error.value.fix == "--config.bicycle.code_map='(2, 4)'"
    with pytest.raises(InputError, match='fewer blocks'):
        shapes(make_system(code_map=(8, 12)))


def test_a_discriminator_of_layouts_sees_pairs():
    assert make_system().judged is bicycle.judged_as_pair
    _, keys = tiny_gans.settings(bicycle.BICYCLE, B)
    assert bicycle.judged_by(keys) is bicycle.judged_alone
    keys.conditional = True
    assert bicycle.judged_by(keys) is bicycle.judged_together


def test_a_plain_discriminator_sees_the_average_of_a_larger_condition():
    batch = make_batch()
    condition, target = batch['condition'], batch['target']
    (joined,) = bicycle.judged_together(condition, target)
    chex.assert_shape(joined, (B, *SIZE, K + C))
    np.testing.assert_array_equal(joined[..., K:], target)
    for i, j in np.ndindex(*SIZE):
        top, left = max(0, 4 * i - 2), max(0, 4 * j - 2)
        window = condition[:, top : 4 * i + 3, left : 4 * j + 3]
        np.testing.assert_allclose(joined[:, i, j, :K], window.mean((1, 2)), rtol=1e-5)
    with pytest.raises(InputError, match='times as large'):
        bicycle.judged_together(condition, target[:, :7])


# --- maps of codes in loops -----------------------------------------------------------------------


class MapGenerator(nn.Module):
    """tanh of a linear map of every fourth pixel of the layout and the code of its cell."""

    @nn.compact
    def __call__(self, condition, code, train: bool, keys=None):
        planes = code.repeat(2, 1).repeat(2, 2)
        x = jnp.concatenate([condition[:, ::4, ::4], planes], -1)
        return {'image': jnp.tanh(nn.Dense(C, name='dense')(x))}


class MapEncoder(nn.Module):
    """Two linear maps of the mean of each cell of 2 x 2 features."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = x.reshape(len(x), CELLS[0], 2, CELLS[1], 2, C).mean((2, 4))
        return {name: nn.Dense(N, name=name)(x) for name in ('mean', 'log_variance')}


def map_system():
    """Returns a system of tiny nets with maps of codes."""
    settings = tiny_gans.settings(bicycle.FEATURES, B, code_size=N, code_map=CELLS)
    settings[1].model.stride = 4
    settings[1].discriminator.stride = 4
    nets = MapGenerator(), MapEncoder(), tiny_gans.Discriminator()
    return bicycle.System(*settings, 'bicycle', tiny_gans.pair_of, *nets, bicycle.judged_alone)


def linear(params, x):
    return x @ np.asarray(params['kernel'], np.float64) + np.asarray(params['bias'], np.float64)


def encode_by_hand(params, features):
    """Returns (means, logarithms of variances) of the cells of [h, w, C]."""
    codes = np.zeros((2, *CELLS, N))
    for u, v in np.ndindex(*CELLS):
        mean = features[2 * u : 2 * u + 2, 2 * v : 2 * v + 2].mean((0, 1))
        codes[:, u, v] = [linear(params[name], mean) for name in ('mean', 'log_variance')]
    return codes


def generate_by_hand(params, condition, codes):
    """The features of a layout [H, W, K] and a map of codes."""
    features = np.zeros((*SIZE, C))
    for i, j in np.ndindex(*SIZE):
        pixel = np.concatenate([condition[4 * i, 4 * j], codes[i // 2, j // 2]])
        features[i, j] = np.tanh(linear(params['dense'], pixel))
    return features


def draw(name, index):
    """The codes or the noise of an example, from its index and the keys of the step."""
    key = jax.random.fold_in(rng.named(KEYS['latent'], name), index)
    return np.asarray(jax.random.normal(key, (*CELLS, N)), np.float64)


def test_the_terms_of_a_map_of_codes_are_loops_over_its_cells():
    system = map_system()
    batch = make_batch()
    state = start(system, batch)
    state = state.replace(params=jax.tree.map(lambda x: x + 0.1, state.params))
    generator, encoder = (state.params[net] for net in NETS)
    kl = code = l1 = 0.0
    for row in range(0, B, 2):
        condition, target = batch['condition'][row], batch['target'][row].astype(np.float64)
        mean, log_variance = encode_by_hand(encoder, target)
        for u, v in np.ndindex(*CELLS):
            m, s = mean[u, v], log_variance[u, v]
            kl += 0.5 * sum(m**2 + np.exp(s) - 1 - s) / np.prod(CELLS)
        encoded = mean + draw(bicycle.ENCODED, 5 + row) * np.exp(log_variance / 2)
        l1 += np.abs(generate_by_hand(generator, condition, encoded) - target).mean()
        drawn = draw(bicycle.RANDOM, 5 + row)
        again, _ = encode_by_hand(encoder, generate_by_hand(generator, condition, drawn))
        code += np.abs(again - drawn).mean()

    loss = bicycle.generator_loss(system, state)
    terms, _, _ = loss(chosen(state.params, NETS), chosen(state.model_state, NETS), batch, KEYS)
    for name, value in {'kl': kl, 'code': code, 'l1': l1}.items():
        np.testing.assert_allclose(terms[name].value(), value / (B / 2), rtol=1e-5, err_msg=name)


def test_samples_have_a_map_of_codes_for_all_examples_or_for_each():
    system = map_system()
    batch = make_batch(2)
    state = start(system, batch)
    codes = np.random.default_rng(0).normal(size=(3, *CELLS, N)).astype(np.float32)
    sample = functools.partial(
        bicycle.sample, system, state.params, state.model_state, batch['condition']
    )
    images = sample(codes)
    chex.assert_shape(images, (2, 3, *SIZE, C))
    expected = generate_by_hand(state.params[bicycle.GENERATOR], batch['condition'][1], codes[2])
    np.testing.assert_allclose(images[1, 2], expected, rtol=1e-4, atol=1e-5)
    own = sample(np.stack([codes, -codes]))
    np.testing.assert_array_equal(own[0], images[0])
    expected = generate_by_hand(state.params[bicycle.GENERATOR], batch['condition'][1], -codes[2])
    np.testing.assert_allclose(own[1, 2], expected, rtol=1e-4, atol=1e-5)


def test_codes_of_a_map_are_independent_and_belong_to_their_example():
    index = np.arange(3000, dtype=np.int32)
    codes = jax.jit(lambda i: bicycle.normal_codes(KEYS['latent'], i, 1, 2, 2))(index)
    chex.assert_shape(codes, (3000, 1, 2, 2))
    np.testing.assert_allclose(np.cov(codes.reshape(3000, 4).T), np.eye(4), atol=0.1)
    some = np.int32([7, 2999])
    drawn = bicycle.normal_codes(KEYS['latent'], some, 1, 2, 2)
    np.testing.assert_array_equal(drawn, codes[some])


# --- the nets of features -------------------------------------------------------------------------


@pytest.mark.parametrize('code_map', [(), (2, 3)])
def test_the_distance_of_codes_trains_the_generator_alone(code_map):
    system = make_system(code_map=code_map)
    state = randomised(start(system))
    loss = bicycle.generator_loss(system, state)

    def value(params):
        terms, _, _ = loss(params, chosen(state.model_state, NETS), make_batch(), KEYS)
        return terms['code'].value()

    gradients = jax.jit(jax.grad(value))(chosen(state.params, NETS))
    chex.assert_tree_all_finite(gradients)
    for leaf in jax.tree.leaves(gradients[bicycle.ENCODER]):
        np.testing.assert_array_equal(leaf, 0)
    # Both parts of G: the encoder of the layout, and the U-Net with its codes.
    for part in ('layout', 'levels'):
        assert any_nonzero(gradients[bicycle.GENERATOR][part])
    planes = gradients[bicycle.GENERATOR]['levels']['down_1']['kernel'][:, :, -N:]
    assert np.any(planes != 0)


@pytest.fixture(scope='module')
def trained():
    """Returns the states before and after a step on features, and its metrics."""
    system = make_system(code_map=(2, 3))
    before = randomised(start(system))
    train_step = bicycle.make_train_step(system, 5)
    return before, *tiny_gans.step(train_step, bicycle.STREAMS, before, make_batch())


def test_a_step_trains_all_nets(trained):
    before, after, metrics = trained
    assert all(np.isfinite(value).all() for value in metrics.values())
    for net in (*NETS, *JUDGES):
        assert any_nonzero(jax.tree.map(np.subtract, after.params[net], before.params[net])), net
    for net in JUDGES:
        layout = jax.tree.map(
            np.subtract, after.params[net]['layout'], before.params[net]['layout']
        )
        assert any_nonzero(layout), net


@pytest.mark.slow
@pytest.mark.parametrize('encoder', ['atrous', 'resize'])
def test_the_nets_compile_once_and_come_nearer_to_their_targets(encoder):
    nets = dict(
        model=dict(stride=4, num_downs=2, width=1 / 4, encoder=encoder),
        encoder=dict(blocks=1, width=1 / 8),
        discriminator=dict(stride=4, num_scales=1, num_layers=1, width=1 / 8),
    )
    adam = dict(optim=tiny_gans.ADAM, optim_discriminator=tiny_gans.ADAM)
    settings = tiny_gans.settings(bicycle.FEATURES, 4, **nets, **adam)
    tiny_gans.check_that_a_net_learns(bicycle, *settings, stride=4)
