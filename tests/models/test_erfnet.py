"""ERFNet: published parameter counts, forms, batch statistics, dropout, dtypes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from segjax.errors import InputError
from segjax.models.erfnet import ERFNet, NonBottleneck1D
from segjax.models.layers import Conv, ConvTranspose

IMAGE = np.random.default_rng(0).uniform(size=(8, 16, 24, 3)).astype(np.float32)


@functools.cache
def narrow(**args):
    """A net of a quarter of the width and its variables; cached because compiling is what takes time."""
    net = ERFNet(num_classes=5, width=0.25, **args)
    return net, jax.jit(lambda key: net.init(key, IMAGE[:1], train=False))(jax.random.key(0))


def count(tree):
    return sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    'args, channels, expected',
    [
        (dict(num_classes=20, encoder_head=True), 3, 2_066_836),
        (dict(num_classes=20), 3, 2_064_256),
        (dict(num_classes=19, encoder_head=True), 3, 2_066_642),
        (dict(num_classes=3, first_maps=32), 20, 2_067_279),
    ],
)
def test_published_parameter_counts_and_shapes(args, channels, expected):
    net = ERFNet(**args)
    outputs, variables = jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, train=False), jnp.zeros((1, 256, 512, channels))
    )
    assert count(variables['params']) == expected
    assert outputs['logits'].shape == (1, 256, 512, args['num_classes'])
    if net.encoder_head:
        assert outputs['aux']['encoder'].shape == (1, 32, 64, args['num_classes'])
    else:
        assert set(outputs) == {'logits'}


def test_names_follow_the_release():
    _, variables = narrow(encoder_head=True)
    names = {'/'.join(path[:-1]) for path in flatten_dict(variables['params'])}
    blocks = ('conv3x1_1', 'conv1x3_1', 'bn1', 'conv3x1_2', 'conv1x3_2', 'bn2')
    residual = [f'encoder/layers_{i}' for i in (*range(1, 6), *range(7, 15))] + [
        f'decoder/layers_{i}' for i in (1, 2, 4, 5)
    ]
    scaling = ['encoder/initial_block', 'encoder/layers_0', 'encoder/layers_6', 'decoder/layers_0', 'decoder/layers_3']
    expected = {f'{b}/{part}' for b in residual for part in blocks}
    expected |= {f'{b}/{part}' for b in scaling for part in ('conv', 'bn')}
    assert names == expected | {'encoder/output_conv', 'decoder/output_conv'}
    leaves = {path[-1] for path in flatten_dict(variables['batch_stats'])}
    assert leaves == {'mean', 'var'}


def test_default_initialisation_is_torchs():
    conv = Conv(64, (3, 1)).init(jax.random.key(0), jnp.zeros((1, 4, 4, 48)))['params']
    transposed = ConvTranspose(64, 3).init(jax.random.key(1), jnp.zeros((1, 4, 4, 48)))['params']
    for params, fan in ((conv, 3 * 48), (transposed, 9 * 64)):
        limit = fan**-0.5
        for name in ('kernel', 'bias'):
            value = np.asarray(params[name])
            assert 0.9 * limit < np.abs(value).max() <= limit
        np.testing.assert_allclose(params['kernel'].std(), limit / np.sqrt(3), rtol=0.05)


def test_initialisers_are_injected_and_biases_can_go():
    net = ERFNet(5, width=0.25, kernel_init=nn.initializers.normal(0.02), bias_init=nn.initializers.constant(0.5))
    params = flatten_dict(
        jax.jit(net.init, static_argnames='train')(jax.random.key(0), IMAGE[:1], train=False)['params']
    )
    kernels = np.concatenate([v.ravel() for path, v in params.items() if path[-1] == 'kernel'])
    np.testing.assert_allclose(kernels.std(), 0.02, rtol=0.05)
    biases = {path: v for path, v in params.items() if path[-1] == 'bias' and 'bn' not in path[-2]}
    assert len(biases) == 74 and all((v == 0.5).all() for v in biases.values())
    bare = ERFNet(5, width=0.25, use_bias=False)
    params = flatten_dict(jax.eval_shape(lambda: bare.init(jax.random.key(0), IMAGE[:1], train=False))['params'])
    assert not [path for path in params if path[-1] == 'bias' and 'bn' not in path[-2]]


def loss_and_gradients(net, variables, x):
    """Mean square of all heads, its gradients, and the new statistics; dropout included."""

    def loss(params):
        outputs, updates = net.apply(
            {**variables, 'params': params}, x, train=True, rngs={'dropout': jax.random.key(1)}, mutable=['batch_stats']
        )
        return sum(jnp.mean(y**2) for y in jax.tree.leaves(outputs)), updates['batch_stats']

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])


def relative_error(a, b):
    """Largest difference of each leaf in units of the largest gradient."""
    scale = max(np.abs(x).max() for x in jax.tree.leaves(b))
    return max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)) / scale


def test_forms_agree_in_outputs_and_gradients():
    # 0.5: 32 and 64 channels, so that the fast convolutions are in use.
    nets = [ERFNet(num_classes=5, width=0.5, encoder_head=True, forms=forms) for forms in ('fast', 'naive')]
    variables = jax.jit(lambda key: nets[0].init(key, IMAGE[:1], train=False))(jax.random.key(0))
    ((fast, fast_stats), fast_gradients), ((naive, naive_stats), naive_gradients) = (
        loss_and_gradients(net, variables, IMAGE[:2]) for net in nets
    )
    np.testing.assert_allclose(fast, naive, rtol=1e-5)
    assert relative_error(fast_stats, naive_stats) < 1e-5
    assert relative_error(fast_gradients, naive_gradients) < 1e-4


def test_statistics_move_in_training_only_and_decide_in_evaluation():
    net, variables = narrow()
    x = IMAGE[:2]
    evaluate = jax.jit(lambda variables: net.apply(variables, x, train=False, mutable=['batch_stats']))
    outputs, unchanged = evaluate(variables)
    assert relative_error(unchanged['batch_stats'], variables['batch_stats']) == 0
    (_, moved), _ = loss_and_gradients(net, variables, x)
    first = moved['encoder']['initial_block']['bn']
    assert all(np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (moved, variables['batch_stats']))))
    params = variables['params']['encoder']['initial_block']['conv']
    pooled = x.reshape(2, 8, 2, 12, 2, 3).max((2, 4)).reshape(-1, 3)  # the last three of the four channels
    np.testing.assert_allclose(first['mean'][-3:], 0.1 * pooled.mean(0), rtol=1e-4)
    np.testing.assert_allclose(first['var'][-3:], 0.9 + 0.1 * pooled.var(0), rtol=1e-4)
    assert params['kernel'].shape == (3, 3, 3, 1)
    other, _ = evaluate({**variables, 'batch_stats': moved})
    assert np.abs(other['logits'] - outputs['logits']).max() > 1e-3


def test_bias_in_front_of_a_batch_norm_has_no_gradient():
    net, variables = narrow()
    _, gradients = loss_and_gradients(net, variables, IMAGE[:2])
    block = gradients['encoder']['layers_2']
    assert np.abs(block['conv1x3_1']['bias']).max() < 1e-5 * np.abs(block['conv1x3_1']['kernel']).max()
    assert np.abs(block['conv3x1_1']['bias']).max() > 0


def test_dropout_drops_whole_channels():
    block = NonBottleneck1D(
        0.5, 1, conv=Conv, norm=functools.partial(nn.BatchNorm, use_running_average=True), train=True
    )
    x = jnp.full((4, 6, 6, 32), 10.0)  # large: the last ReLU hides nothing
    variables = block.init({'params': jax.random.key(0), 'dropout': jax.random.key(1)}, x)
    residual = block.apply(variables, x, rngs={'dropout': jax.random.key(2)}) - x
    dropped = np.asarray(residual == 0)
    whole = dropped.all((1, 2))
    np.testing.assert_array_equal(dropped.any((1, 2)), whole)
    assert 0.3 < whole.mean() < 0.7 and len({tuple(row) for row in whole}) == 4  # per example
    kept = block.clone(train=False).apply(variables, x) - x
    np.testing.assert_allclose(residual, np.where(dropped, 0, 2 * kept), atol=1e-4)


def test_eight_devices_are_one_batch():
    net, variables = narrow(dropout=(0.0, 0.0), axis_name='data')
    single = net.clone(axis_name=None)

    def loss(net, params, x):
        outputs, updates = net.apply({**variables, 'params': params}, x, train=True, mutable=['batch_stats'])
        return jnp.mean(outputs['logits'] ** 2), updates['batch_stats']

    def per_device(x):
        (value, stats), gradients = jax.value_and_grad(functools.partial(loss, net), has_aux=True)(
            variables['params'], x
        )
        return jax.lax.pmean((value, stats, gradients), 'data'), stats

    (value, stats, gradients), own_stats = jax.pmap(per_device, 'data', devices=jax.devices()[:8], out_axes=(None, 0))(
        IMAGE[:, None]
    )
    (expected, expected_stats), expected_gradients = jax.jit(
        jax.value_and_grad(functools.partial(loss, single), has_aux=True)
    )(variables['params'], IMAGE)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert relative_error(stats, expected_stats) < 1e-5
    assert all((np.ptp(x, axis=0) < 1e-6).all() for x in jax.tree.leaves(own_stats))
    assert relative_error(gradients, expected_gradients) < 1e-4


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32():
    net, variables = narrow(encoder_head=True)
    half = net.clone(dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(half.init(jax.random.key(0), IMAGE[:1], train=False))} == {
        np.dtype('float32')
    }
    exact = net.apply(variables, IMAGE[:2], train=False)
    outputs, intermediates = half.apply(variables, IMAGE[:2], train=False, capture_intermediates=True)
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {np.dtype('float32')}
    inner = intermediates['intermediates']['encoder']['layers_7']['__call__'][0]
    assert inner.dtype == jnp.bfloat16
    assert 0 < relative_error(outputs, exact) < 0.05


@pytest.mark.parametrize(
    'args, shape, message',
    [
        ({}, (1, 20, 16, 3), 'height 20, width 16'),
        ({}, (1, 16, 16, 20), 'raise first_maps'),
        ({'dropout': (0.1, 1.0)}, (1, 16, 16, 3), 'two rates'),
        ({'forms': 'slow'}, (1, 16, 16, 3), 'one of fast, naive'),
    ],
)
def test_impossible_input_is_explained(args, shape, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda x: ERFNet(5, **args).init(jax.random.key(0), x, train=False), jnp.zeros(shape))
