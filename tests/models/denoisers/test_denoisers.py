"""Denoisers of maps: published counts, initialisation, blocks by numpy, sizes, training."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import shapes_at
from scipy import ndimage

from segjax import models
from segjax.core import parallel
from segjax.errors import InputError
from segjax.models.denoisers import adnet
from segjax.models.denoisers.ffdnet import FFDNet
from segjax.models.denoisers.ridnet import ChannelAttention, MergeRun, ResidualBlock

# name -> (parameters for 3, 35 and 49 channels)
PUBLISHED = {
    'adnet': (521_493, 560_821, 579_315),
    'unetd': (9_153_571, 9_172_035, 9_180_113),
    'ridnet': (1_499_347, 1_536_243, 1_552_385),
    'ffdnet': (852_108, 1_073_420, 1_170_244),
}
NETS = pytest.mark.parametrize('name', PUBLISHED)
K = 5
SIZE = (16, 32)


def build(name, **fields):
    given = dict(dtype='float32', axis_name=None)
    return models.build('denoiser', name, **{**given, **fields})


def small(name, **fields):
    return build(name, width=0.125, **fields)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def initialised(net, *shape):
    return jax.jit(lambda key: net.init(key, jnp.zeros(shape), train=False))(jax.random.key(0))


def correlated(x, kernel, dilation=1):
    """Correlates [H, W, I] with [k, k, I, O], with zeros around the map."""
    k = kernel.shape[0]
    side = dilation * (k - 1) + 1
    result = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for i, o in np.ndindex(kernel.shape[2:]):
        spread = np.zeros((side, side))
        spread[::dilation, ::dilation] = kernel[:, :, i, o]
        result[..., o] += ndimage.correlate(x[..., i], spread, mode='constant')
    return result


# --- the contract ---------------------------------------------------------------------------------


def test_every_denoiser_is_here():
    assert set(PUBLISHED) == set(models.NETS['denoiser'])


@NETS
def test_published_parameter_counts(name):
    for channels, count in zip((3, 35, 49), PUBLISHED[name], strict=True):
        outputs, variables = shapes_at(build(name), 2, *SIZE, channels, train=False)
        assert sum(x.size for x in jax.tree.leaves(variables['params'])) == count
        assert set(outputs) == {'logits'}
        chex.assert_shape(outputs['logits'], (2, *SIZE, channels))


def test_the_published_grey_ffdnet():
    _, variables = shapes_at(build('ffdnet', features=64, num_layers=15), 1, 8, 8, 1, train=False)
    assert sum(x.size for x in jax.tree.leaves(variables)) == 485_316


@NETS
def test_every_field_of_a_config_has_a_doc(name):
    choice = models.net_choice('denoiser', 'adnet', 'Denoiser.')
    assert set(choice.options[name]) == set(models.schema('denoiser', name))
    assert all(len(field.doc.split()) >= 3 for field in choice.options[name].values())


@NETS
def test_activations_follow_the_dtype_and_the_rest_is_float32(name):
    outputs, variables = shapes_at(small(name, dtype='bfloat16'), 1, *SIZE, K, train=False)
    assert outputs['logits'].dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@pytest.mark.slow
@NETS
def test_an_example_does_not_depend_on_its_neighbours(name):
    net = small(name)
    variables = initialised(net, 1, *SIZE, K)
    maps = normal(4, *SIZE, K)
    apply = jax.jit(lambda x: net.apply(variables, x, train=False)['logits'])
    together = apply(maps)
    chex.assert_tree_all_finite(together)
    alone = jax.jit(jax.vmap(lambda x: apply(x[None])[0]))(maps)
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.devices(8)
@NETS
def test_eight_devices_give_the_maps_of_a_single_device(name):
    net = small(name, axis_name=parallel.AXIS)
    variables = initialised(small(name), 1, *SIZE, K)
    maps = normal(8, *SIZE, K)

    def apply(x, axis_name):
        outputs, _ = net.clone(axis_name=axis_name).apply(
            variables, x, train=True, mutable=['batch_stats']
        )
        return outputs['logits']

    mapped = jax.pmap(
        lambda x: apply(x, parallel.AXIS), axis_name=parallel.AXIS, devices=jax.devices()[:8]
    )
    together = jax.jit(lambda x: apply(x, None))(maps)
    np.testing.assert_allclose(mapped(maps[:, None])[:, 0], together, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@NETS
def test_a_net_learns_to_remove_noise(name):
    net = small(name)
    rng = np.random.default_rng(0)
    clean = np.float32(np.eye(K)[np.kron(rng.integers(0, K, (4, 4, 8)), np.ones((4, 4), int))])
    noisy = clean + 0.5 * normal(*clean.shape)
    variables = initialised(net, *clean.shape)
    statistics = {key: value for key, value in variables.items() if key != 'params'}

    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        def loss(params):
            outputs, _ = net.apply(
                {'params': params, **statistics}, noisy, train=True, mutable=['batch_stats']
            )
            return ((outputs['logits'] - clean) ** 2).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return value, optax.apply_updates(params, updates), state

    params = variables['params']
    state = optimizer.init(params)
    values = []
    for _ in range(40):
        value, params, state = step(params, state)
        values.append(float(value))
    assert np.isfinite(values).all()
    assert values[-1] < 0.9 * values[0], values


# --- ADNet ----------------------------------------------------------------------------------------


def test_adnet_is_initialised_as_released():
    variables = initialised(build('adnet'), 1, 8, 8, 35)
    std = (2 / (9 * 64)) ** 0.5
    for name, layer in variables['params'].items():
        if 'kernel' in layer:
            kernel = np.asarray(layer['kernel'])
            assert abs(kernel.std() / std - 1) < 5 / np.sqrt(2 * kernel.size), name
        else:
            scale = np.abs(layer['scale'])
            assert scale.min() >= np.float32(adnet.SMALLEST_SCALE), name
            assert (scale == np.float32(adnet.SMALLEST_SCALE)).any(), name
            assert np.unique(np.sign(layer['scale'])).tolist() == [-1, 1]
    for layer in variables['batch_stats'].values():
        np.testing.assert_array_equal(layer['var'], np.float32(0.01))
        np.testing.assert_array_equal(layer['mean'], 0)


def test_adnet_forward_pass_by_numpy():
    net = small('adnet')
    maps = normal(1, 9, 11, K)
    variables = initialised(net, *maps.shape)
    params = jax.tree.map(np.asarray, variables['params'])
    x = np.float64(maps[0])
    y = x
    for i in range(1, 16):
        y = correlated(y, params[f'conv1_{i}_0']['kernel'], 2 if i in (2, 5, 9, 12) else 1)
        norm = params[f'conv1_{i}_1']
        y = np.maximum(y / np.sqrt(0.01 + 1e-5) * norm['scale'] + norm['bias'], 0)
    noise = correlated(y, params['conv1_16']['kernel'])
    attention = np.tanh(np.concatenate([x, noise], -1)) @ params['conv3']['kernel'][0, 0]
    attention += params['conv3']['bias']
    result = jax.jit(lambda x: net.apply(variables, x, train=False)['logits'])(maps)
    np.testing.assert_allclose(result[0], x - attention * noise, rtol=1e-4, atol=1e-4)
    assert np.abs(attention * noise).max() > 0.1


# --- UNetD ----------------------------------------------------------------------------------------


def test_unetd_refuses_sizes_that_cannot_be_halved():
    with pytest.raises(InputError, match='multiples of 16'):
        shapes_at(build('unetd'), 1, 24, 32, K, train=False)
    outputs, _ = shapes_at(build('unetd', depth=3), 1, 12, 20, K, train=False)
    chex.assert_shape(outputs['logits'], (1, 12, 20, K))
    with pytest.raises(InputError, match='at least 1'):
        shapes_at(build('unetd', depth=0), 1, 16, 16, K, train=False)


def test_unetd_predicts_the_noise():
    net = small('unetd', depth=2)
    maps = normal(1, 8, 8, K)
    variables = initialised(net, *maps.shape)
    last = variables['params']['last']
    silent = jax.tree.map(jnp.zeros_like, last)
    params = {**variables['params'], 'last': silent}
    np.testing.assert_array_equal(net.apply({'params': params}, maps, train=True)['logits'], maps)
    ones = {**silent, 'bias': jnp.ones(K)}
    result = net.apply({'params': {**params, 'last': ones}}, maps, train=True)['logits']
    np.testing.assert_allclose(result, maps - 1, atol=1e-6)


# --- RIDNet ---------------------------------------------------------------------------------------


def bound(block, x, seed=0):
    """Returns (parameters, the result of a block on one example) for random parameters."""
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x))['params']
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda p: (0.3 * rng.standard_normal(p.shape)).astype(np.float32), shapes)
    return params, jax.jit(block.apply)({'params': params}, x)[0]


def layer(x, params, dilation=1):
    return correlated(x, params['kernel'], dilation) + params['bias']


def relu(x):
    return np.maximum(x, 0)


def test_merge_run_by_numpy():
    x = normal(1, 10, 12, 4)
    params, result = bound(MergeRun(jnp.float32), x)
    first = relu(layer(relu(layer(x[0], params['body1_0'], 1)), params['body1_2'], 2))
    second = relu(layer(relu(layer(x[0], params['body2_0'], 3)), params['body2_2'], 4))
    expected = relu(layer(np.concatenate([first, second], -1), params['body3_0'])) + x[0]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('sides', [(3, 3), (3, 3, 1)])
def test_residual_block_by_numpy(sides):
    x = normal(1, 6, 7, 4)
    params, result = bound(ResidualBlock(sides, jnp.float32), x)
    y = layer(x[0], params['body_0'])
    for i in range(1, len(sides)):
        y = layer(relu(y), params[f'body_{2 * i}'])
    np.testing.assert_allclose(result, relu(y + x[0]), rtol=1e-4, atol=1e-4)


def test_channel_attention_by_numpy():
    x = normal(1, 6, 7, 32)
    params, result = bound(ChannelAttention(jnp.float32), x)
    assert params['c1']['body_0']['kernel'].shape == (1, 1, 32, 2)
    y = x[0].mean((0, 1), keepdims=True)
    y = relu(layer(y, params['c1']['body_0']))
    factor = 1 / (1 + np.exp(-layer(y, params['c2']['body_0'])))
    np.testing.assert_allclose(result, x[0] * factor, rtol=1e-4, atol=1e-5)


# --- FFDNet ---------------------------------------------------------------------------------------


def test_ffdnet_is_initialised_as_released():
    params = initialised(build('ffdnet', num_layers=3), 1, 8, 8, 35)['params']
    assert list(params) == ['model_0', 'model_2', 'model_4']
    for values in params.values():
        assert not values['bias'].any()
        matrix = np.asarray(values['kernel'], np.float64).reshape(-1, values['kernel'].shape[-1])
        np.testing.assert_allclose(matrix.T @ matrix, 0.2**2 * np.eye(matrix.shape[1]), atol=1e-6)


@pytest.mark.parametrize('height, width', [(6, 8), (7, 8), (6, 9), (5, 7)])
def test_ffdnet_by_numpy(height, width):
    net = FFDNet(features=6, num_layers=3)
    maps = normal(1, height, width, 2)
    params, result = bound(Called(net), maps)
    padded = np.pad(maps[0], ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
    phases = [padded[i::2, j::2] for i in (0, 1) for j in (0, 1)]
    y = np.concatenate([*phases, np.full((*phases[0].shape[:2], 1), 0.1)], -1)
    y = relu(layer(y, params['model_0']))
    y = relu(layer(y, params['model_2']))
    y = layer(y, params['model_4'])
    expected = np.zeros(padded.shape)
    for n, (i, j) in enumerate(np.ndindex(2, 2)):
        expected[i::2, j::2] = y[..., 2 * n : 2 * n + 2]
    np.testing.assert_allclose(result, expected[:height, :width], rtol=1e-4, atol=1e-4)


class Called:
    """A net with the interface of a block."""

    def __init__(self, net):
        self.net = net

    def init(self, key, x):
        return self.net.init(key, x, train=True)

    def apply(self, variables, x):
        return self.net.apply(variables, x, train=True)['logits']


def test_the_noise_level_is_an_argument():
    net = small('ffdnet', init_gain=2.0)
    maps = normal(2, 8, 8, K)
    variables = initialised(net, *maps.shape)

    def at(level, fields=net):
        return np.asarray(fields.apply(variables, maps, train=False, noise_level=level)['logits'])

    np.testing.assert_array_equal(at(None), at(0.1))
    np.testing.assert_array_equal(at(None, small('ffdnet', noise_level=0.3)), at(0.3))
    assert np.abs(at(0.3) - at(0.1)).max() > 1e-3
    levels = at(jnp.array([0.1, 0.3]))
    np.testing.assert_allclose(levels[0], at(0.1)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(levels[1], at(0.3)[1], rtol=1e-4, atol=1e-4)


def test_the_noise_level_can_be_learned():
    net = small('ffdnet', learn_level=True, noise_level=0.2, init_gain=2.0)
    maps = normal(2, 8, 8, K)
    variables = initialised(net, *maps.shape)
    np.testing.assert_array_equal(variables['params']['level'], np.float32(0.2))
    gradient = jax.grad(
        lambda params: net.apply({'params': params}, maps, train=True)['logits'].sum()
    )(variables['params'])
    assert gradient['level'] != 0


def test_ffdnet_refuses_a_single_layer():
    with pytest.raises(InputError, match='at least 2'):
        shapes_at(build('ffdnet', num_layers=1), 1, 8, 8, K, train=False)
