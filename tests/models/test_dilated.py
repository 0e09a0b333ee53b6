"""Learned dilations: comparison with layers.Conv, ranges, rates, the gate, freezing."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from segjax.core import optim
from segjax.errors import InputError
from segjax.models import dilated
from segjax.models.dilated import LearnedDilationConv, RoundingError
from segjax.models.layers import Conv
from segjax.models.segmentation.erfnet import ERFNet
from segjax.protocol import TrainState
from segjax.schema import OPTIM


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(**changes):
    return LearnedDilationConv(
        **{'features': 3, 'kernel_size': (3, 3), 'dilation': 2, 'dilation_range': (1, 4), **changes}
    )


class Net(nn.Module):
    """Two learned dilations at different depths, and a fixed conv."""

    @nn.compact
    def __call__(self, x):
        x = layer(name='conv5', features=4)(x)
        x = nn.Sequential(
            [nn.relu, layer(name='fc6', dilation='uniform', dilation_range=(2, 6))], name='head'
        )(x)
        return Conv(2, (1, 1), name='fc8')(x)


X = normal(0, 1, 9, 10, 5)
RANGES = {'conv5/dilation': (1, 4), 'fc6/dilation': (2, 6)}


def params_of(net, x=X, seed=0):
    return jax.jit(net.init)(jax.random.key(seed), x)['params']


def test_starts_as_the_fixed_conv_that_it_replaces():
    learned = layer()
    fixed = Conv(3, (3, 3), dilation=2)
    params = params_of(learned)
    assert set(params) == {'kernel', 'bias', 'dilation'}
    chex.assert_shape(params['kernel'], (3, 3, 5, 3))
    chex.assert_shape(params['bias'], (3,))
    chex.assert_shape(params['dilation'], (5,))
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    np.testing.assert_array_equal(params['dilation'], 2)
    fixed_params = params_of(fixed)
    for name in ('kernel', 'bias'):
        np.testing.assert_array_equal(params[name], fixed_params[name])
    y, expected = (
        jax.jit(net.apply)({'params': p}, X)
        for net, p in ((learned, params), (fixed, fixed_params))
    )
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_uniform_start_fills_the_range():
    factors = np.asarray(
        params_of(layer(dilation='uniform', dilation_range=(4, 20)), normal(0, 1, 2, 2, 512))[
            'dilation'
        ]
    )
    assert factors.min() >= 4 and factors.max() < 20
    # Mean 12, deviation 16 / sqrt(12); five standard errors.
    assert abs(factors.mean() - 12) < 5 * 4.62 / np.sqrt(512) and abs(factors.std() - 4.62) < 0.5


def test_initialisers_and_bias():
    net = layer(use_bias=False, kernel_init=nn.initializers.constant(2.0))
    params = params_of(net)
    assert set(params) == {'kernel', 'dilation'}
    np.testing.assert_array_equal(params['kernel'], 2)
    assert params_of(layer(bias_init=nn.initializers.ones))['bias'].tolist() == [1, 1, 1]


def test_compute_in_bfloat16_with_float32_parameters():
    nets = [layer(dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32)]
    params = params_of(nets[0])
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    half, full = (jax.jit(net.apply)({'params': params}, X) for net in nets)
    assert half.dtype == jnp.bfloat16
    assert 0 < np.abs(np.float32(half) - full).max() < 0.02 * np.abs(full).max()


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'dilation_range': (4, 1)}, 'dilation_range'),
        ({'dilation': -1}, r'-1\b.*\n.*range \(1, 4\)'),
        ({'dilation': 4.5}, r'4\.5'),
        ({'dilation': 'unifrom'}, "'unifrom'"),
        ({'kernel_size': (4, 4)}, '4x4'),
        ({'forms': 'fats'}, "did you mean 'fast'"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(layer(**changes).init, jax.random.key(0), X)


def test_ranges_are_found_by_parameter_name():
    net = Net()
    ranges = dilated.factor_ranges(net, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert ranges == RANGES
    assert dilated.factor_ranges(layer(), X) == {'dilation': (1, 4)}
    assert dilated.factor_ranges(ERFNet(num_classes=2), np.zeros((1, 16, 16, 3)), train=False) == {}


def test_optimiser_scales_the_factors_rate_and_does_not_decay_them():
    params = {'segmenter': {'fc6': params_of(layer())}}
    config = ml_collections.ConfigDict({k: field.default for k, field in OPTIM.items()})
    settings = {
        'name': 'sgd',
        'momentum': 0.0,
        'schedule': 'constant',
        'learning_rate': 1e-3,
        'weight_decay': 0.1,
    }
    config.update({**settings, 'factors': (('.*/dilation', 200.0),)})
    transform = optim.make(config, 10, params)
    grads = jax.tree.map(jnp.ones_like, params)
    state = TrainState(jnp.int32(0), params, {}, {'main': transform.init(params)}, {})
    new = optim.apply(state, 'main', transform, grads).params['segmenter']['fc6']
    old = params['segmenter']['fc6']
    np.testing.assert_allclose(new['dilation'], old['dilation'] - 200 * 1e-3, rtol=1e-6)
    np.testing.assert_allclose(
        new['kernel'], old['kernel'] - 1e-3 * (1 + 0.1 * old['kernel']), rtol=1e-6, atol=1e-7
    )


def test_gate_touches_the_factors_outside_their_range_only():
    params = params_of(Net())
    params['conv5']['dilation'] = jnp.array([0.5, 0.5, 2, 4.5, 4.5])
    params['fc6']['dilation'] = jnp.array([4.5, 7, 7, 1])  # 4.5 is inside the range of fc6
    grads = jax.tree.map(jnp.ones_like, params)
    grads['conv5']['dilation'] = jnp.array([1.0, -1, 1, 1, -1])
    grads['fc6']['dilation'] = jnp.array([-1.0, -1, 1, 1])
    gated = dilated.gate_gradients(grads, params, RANGES)
    expected = jax.tree.map(jnp.ones_like, params)
    expected['conv5']['dilation'] = jnp.array([0.0, -1, 1, 1, 0])
    expected['fc6']['dilation'] = jnp.array([-1.0, 0, 1, 0])
    chex.assert_trees_all_equal(gated, expected)


def test_joint_training_moves_the_factors_to_the_scale_of_the_data():
    """Trains filter and factors from scratch. The target is the difference of pixels 3 away."""
    x = normal(0, 2, 20, 20, 1)
    for axis in (1, 2):  # binomial blur
        for _ in range(6):
            x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    x /= x.std()
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    target = padded[:, 6:, 3:-3] - padded[:, :-6, 3:-3]
    net = layer(features=1, dilation=1.5, dilation_range=(1, 5), use_bias=False)

    @jax.jit
    def train(params):
        def step(_, params):
            grads = jax.grad(lambda p: ((net.apply({'params': p}, x) - target) ** 2).mean())(params)
            grads = dilated.gate_gradients(grads, params, {'dilation': (1, 5)})
            return jax.tree.map(lambda p, g: p - 0.03 * g, params, grads)

        return jax.lax.fori_loop(0, 2000, step, params)

    params = train(params_of(net, x))
    np.testing.assert_allclose(params['dilation'], 3, atol=0.05)
    expected = np.zeros((3, 3))
    expected[:, 1] = -1, 0, 1
    np.testing.assert_allclose(params['kernel'][:, :, 0, 0], expected, atol=0.1)


def test_freeze_rounds_the_factors_alone_and_says_by_how_much():
    params = params_of(Net())
    params['conv5']['dilation'] = jnp.array([1.25, 2, 2.5, 3.75, 9])
    params['fc6']['dilation'] = jnp.array([2.0, 3, 4, 6])
    frozen, errors = dilated.freeze(params, RANGES)
    assert frozen['conv5']['dilation'].tolist() == [1, 2, 3, 4, 4]
    assert frozen['fc6']['dilation'].tolist() == [2, 3, 4, 6]
    assert errors == {
        'conv5/dilation': RoundingError(0.2, 0.5),
        'fc6/dilation': RoundingError(0.0, 0.0),
    }
    for name in ('kernel', 'bias'):
        assert all(
            frozen[module][name] is params[module][name]
            for module in params
            if name in params[module]
        )
    assert params['conv5']['dilation'].dtype == jnp.float32, 'the argument is unchanged'


def test_frozen_net_is_the_net_at_whole_factors_without_interpolation():
    net = Net()
    params = params_of(net)
    frozen, _ = dilated.freeze(params, RANGES)
    whole = jax.tree.map(jnp.float32, frozen)
    expected = jax.jit(net.apply)({'params': whole}, X)
    as_constants = jax.jit(lambda x: net.apply({'params': frozen}, x))
    np.testing.assert_allclose(as_constants(X), expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(net.apply)({'params': frozen}, X), expected, atol=1e-5)
    convs = str(jax.make_jaxpr(as_constants)(X)).count('conv_general_dilated')
    distinct = sum(len(np.unique(frozen[module]['dilation'])) for module in ('conv5', 'fc6'))
    assert convs == distinct + 1 and 'checkpoint' not in str(jax.make_jaxpr(as_constants)(X))


def test_names_that_do_not_fit_are_an_error():
    params = {'segmenter': params_of(Net())}
    with pytest.raises(InputError, match='fc6/dilation'):
        dilated.freeze(params, RANGES)
    with pytest.raises(InputError, match='segmenter'):
        dilated.gate_gradients(params, params, RANGES)
