"""ERFNet: published parameter counts, names, forms, batch statistics, dropout, dtypes.

Tests of the whole net check shapes or the forward pass. Tests of gradients use `Stack`, a block of
each kind. Compiling the backward pass of the whole net takes longer than all tests together.
"""

import functools
import math
import operator
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from segjax.errors import InputError
from segjax.models.layers import Conv, ConvTranspose
from segjax.models.segmentation.erfnet import DownBlock, ERFNet, NonBottleneck1D, UpBlock

IMAGE = np.random.default_rng(0).uniform(size=(8, 16, 24, 3)).astype(np.float32)


@pytest.fixture(autouse=True, scope='module')
def quick_compilation():
    before = jax.config.read('jax_disable_most_optimizations')
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


class Stack(nn.Module):
    """A block of every kind, with enough channels for the fast convolutions."""

    forms: str = 'fast'
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        conv = functools.partial(Conv, dtype=self.dtype, forms=self.forms)
        conv_transpose = functools.partial(ConvTranspose, dtype=self.dtype)
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, dtype=self.dtype, axis_name=self.axis_name
        )
        x = DownBlock(40, conv, norm, name='down')(x.astype(self.dtype))
        x = NonBottleneck1D(0.0, 2, conv, norm, train, name='block')(x)
        x = UpBlock(6, conv_transpose, norm, name='up')(x)
        return {'logits': conv_transpose(5, 2, name='head')(x).astype(jnp.float32)}


def random_variables(net):
    """Returns random variables of a net, all away from 0 and 1, without compiling `init`."""
    shapes = flatten_dict(
        jax.eval_shape(lambda: net.init(jax.random.key(0), IMAGE[:1], train=False))
    )
    rng = np.random.default_rng(1)
    draw = {
        'kernel': lambda s: rng.uniform(-1, 1, s) * math.sqrt(3 / math.prod(s[:3])),
        'bias': lambda s: rng.uniform(-0.2, 0.2, s),
        'scale': lambda s: rng.uniform(0.8, 1.2, s),
        'mean': lambda s: rng.uniform(-0.1, 0.1, s),
        'var': lambda s: rng.uniform(0.5, 1.5, s),
    }
    return unflatten_dict({path: np.float32(draw[path[-1]](x.shape)) for path, x in shapes.items()})


def loss_and_gradients(net, variables, x):
    """Returns ((loss, new statistics), gradients) of a training step without dropout.

    The loss is the mean square of the logits.
    """

    def loss(params):
        outputs, updates = net.apply(
            {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
        )
        return jnp.mean(outputs['logits'] ** 2), updates['batch_stats']

    return jax.value_and_grad(loss, has_aux=True)(variables['params'])


def relative_error(a, b):
    """Returns the largest difference between two trees, divided by the largest value."""
    scale = max(np.abs(x).max() for x in jax.tree.leaves(b))
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in pairs) / scale


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
        lambda x: net.init_with_output(jax.random.key(0), x, train=False),
        jnp.zeros((1, 256, 512, channels)),
    )
    assert sum(x.size for x in jax.tree.leaves(variables['params'])) == expected
    chex.assert_shape(outputs['logits'], (1, 256, 512, args['num_classes']))
    if net.encoder_head:
        chex.assert_shape(outputs['aux']['encoder'], (1, 32, 64, args['num_classes']))
    else:
        assert set(outputs) == {'logits'}


@pytest.mark.parametrize(
    'width, first, last', [(1, 16, 16), (0.5, 16, 16), (0.25, 8, 16), (2, 32, 32)]
)
def test_narrow_nets_keep_their_thin_layers(width, first, last):
    net = ERFNet(20, width=width)
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), IMAGE[:1], train=False))
    encoder, decoder = (variables['params'][part] for part in ('encoder', 'decoder'))
    chex.assert_shape(encoder['initial_block']['bn']['scale'], (first,))
    chex.assert_shape(encoder['layers_0']['bn']['scale'], (int(64 * width),))
    chex.assert_shape(decoder['output_conv']['kernel'], (..., last, 20))


def test_logits_of_a_narrow_net_span_sixteen_directions():
    net = ERFNet(20, width=0.25, dropout=(0.0, 0.0))
    x = np.random.default_rng(3).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    logits = np.asarray(
        jax.jit(lambda v: net.apply(v, x, train=False)['logits'])(random_variables(net))
    )
    # Each pixel of a 2x2 block has its own kernel in the last layer.
    for row, column in np.ndindex(2, 2):
        pixels = logits[:, row::2, column::2].reshape(-1, 20).astype(np.float64)
        values = np.linalg.svd(pixels - pixels.mean(0), compute_uv=False)
        assert np.sum(values > 1e-4 * values[0]) >= 15, (row, column, values)


def test_names_follow_the_release():
    variables = random_variables(ERFNet(5, width=0.25, encoder_head=True))
    names = {'/'.join(path[:-1]) for path in flatten_dict(variables['params'])}
    blocks = ('conv3x1_1', 'conv1x3_1', 'bn1', 'conv3x1_2', 'conv1x3_2', 'bn2')
    encoder, decoder = (*range(1, 6), *range(7, 15)), (1, 2, 4, 5)
    residual = [f'encoder/layers_{i}' for i in encoder] + [f'decoder/layers_{i}' for i in decoder]
    scaling = [f'encoder/{name}' for name in ('initial_block', 'layers_0', 'layers_6')]
    scaling += ['decoder/layers_0', 'decoder/layers_3']
    expected = {f'{block}/{part}' for block in residual for part in blocks}
    expected |= {f'{block}/{part}' for block in scaling for part in ('conv', 'bn')}
    assert names == expected | {'encoder/output_conv', 'decoder/output_conv'}


def test_default_initialisation_is_torchs():
    x = jnp.zeros((1, 4, 4, 48))
    conv = Conv(64, (3, 1)).init(jax.random.key(0), x)['params']
    transposed = ConvTranspose(64, 3).init(jax.random.key(1), x)['params']
    for params, fan in ((conv, 3 * 48), (transposed, 9 * 64)):
        limit = fan**-0.5
        for value in (params['kernel'], params['bias']):
            assert 0.9 * limit < np.abs(value).max() <= limit
        np.testing.assert_allclose(params['kernel'].std(), limit / math.sqrt(3), rtol=0.05)


@pytest.mark.slow
def test_the_start_of_a_gan_reaches_every_layer_and_biases_can_go():
    net = ERFNet(5, encoder_head=True, init_std=0.02, blocks=(1, 1, 1, 1))
    params = flatten_dict(
        net.lazy_init(jax.random.key(0), jax.eval_shape(lambda: IMAGE[:1]), train=False)['params']
    )
    kernels = [np.ravel(v) for path, v in params.items() if path[-1] == 'kernel']
    scales = np.concatenate([v for path, v in params.items() if path[-1] == 'scale'])
    assert len(kernels) == 4 * 4 + 5 + 2
    # Of n samples, the deviation has a standard error of 0.02 / sqrt(2n), and the mean of
    # 0.02 / sqrt(n). Five standard errors are allowed.
    for kernel in kernels:
        assert abs(kernel.std() - 0.02) < 5 * 0.02 / np.sqrt(2 * kernel.size)
    assert abs(scales.mean() - 1) < 5 * 0.02 / np.sqrt(scales.size)
    assert abs(scales.std() - 0.02) < 5 * 0.02 / np.sqrt(2 * scales.size)
    assert all((v == 0).all() for path, v in params.items() if path[-1] == 'bias')
    without = jax.eval_shape(
        lambda: ERFNet(5, use_bias=False).init(jax.random.key(0), IMAGE[:1], train=False)
    )
    assert {p[-1] for p in flatten_dict(without['params']) if not p[-2].startswith('bn')} == {
        'kernel'
    }


def test_forms_agree_in_outputs_and_gradients():
    variables = random_variables(Stack())
    step = jax.jit(loss_and_gradients, static_argnums=0)
    ((fast, fast_stats), fast_gradients), ((naive, naive_stats), naive_gradients) = (
        step(Stack(forms), variables, IMAGE) for forms in ('fast', 'naive')
    )
    np.testing.assert_allclose(fast, naive, rtol=1e-5)
    assert relative_error(fast_stats, naive_stats) < 1e-5
    assert relative_error(fast_gradients, naive_gradients) < 1e-5


def test_forms_choose_the_gradients_of_factorised_convolutions_alone():
    def operations(forms):
        net = ERFNet(5, forms=forms)
        variables = jax.eval_shape(lambda: net.init(jax.random.key(0), IMAGE[:1], train=False))
        jaxpr = str(jax.make_jaxpr(lambda v: net.apply(v, IMAGE[:1], train=False))(variables))
        return {
            'custom gradients': jaxpr.count('custom_vjp_call['),
            'dilated inputs': jaxpr.count('lhs_dilation=(2, 2)'),
            'window maxima': jaxpr.count('reduce_window_max['),
        }

    # There are 15 blocks of 64 or 128 channels. Two blocks of 16 channels are too narrow for the
    # fast form. ReLUs have custom_jvp, which is not counted.
    assert operations('fast') == {
        'custom gradients': 15 * 4,
        'dilated inputs': 0,
        'window maxima': 0,
    }
    assert operations('naive') == {'custom gradients': 0, 'dilated inputs': 0, 'window maxima': 0}


def test_bias_in_front_of_a_batch_norm_has_no_gradient():
    _, gradients = jax.jit(loss_and_gradients, static_argnums=0)(
        Stack(), random_variables(Stack()), IMAGE
    )
    block = gradients['block']
    assert (
        np.abs(block['conv1x3_1']['bias']).max() < 1e-5 * np.abs(block['conv1x3_1']['kernel']).max()
    )
    assert (
        np.abs(block['conv3x1_1']['bias']).max() > 1e-3 * np.abs(block['conv3x1_1']['kernel']).max()
    )


def test_statistics_move_in_training_only_and_decide_in_evaluation():
    net = ERFNet(5, width=0.25)
    variables = random_variables(net)
    x = IMAGE[:2]

    @functools.partial(jax.jit, static_argnums=1)
    def forward(variables, train):
        return net.apply(
            variables, x, train=train, rngs={'dropout': jax.random.key(1)}, mutable=['batch_stats']
        )

    before = variables['batch_stats']
    outputs, unchanged = forward(variables, False)
    assert relative_error(unchanged['batch_stats'], before) == 0
    _, updates = forward(variables, True)
    moved = updates['batch_stats']
    assert all(
        np.abs(a - b).min() > 0
        for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(before), strict=True)
    )
    old, new = before['encoder']['initial_block']['bn'], moved['encoder']['initial_block']['bn']
    # The maxima are the last three channels.
    pooled = x.reshape(2, 8, 2, 12, 2, 3).max((2, 4)).reshape(-1, 3)
    np.testing.assert_allclose(
        new['mean'][-3:], 0.9 * old['mean'][-3:] + 0.1 * pooled.mean(0), rtol=1e-4
    )
    np.testing.assert_allclose(
        new['var'][-3:], 0.9 * old['var'][-3:] + 0.1 * pooled.var(0), rtol=1e-4
    )
    other, _ = forward({**variables, 'batch_stats': moved}, False)
    assert np.abs(other['logits'] - outputs['logits']).max() > 1e-3


def test_dropout_drops_whole_channels():
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    block = NonBottleneck1D(0.5, 1, conv=Conv, norm=norm, train=True)
    x = jnp.full((4, 6, 6, 32), 10.0)  # so large that the last ReLU changes nothing
    variables = jax.jit(block.clone(train=False).init)(jax.random.key(0), x)
    residual = jax.jit(block.apply)(variables, x, rngs={'dropout': jax.random.key(2)}) - x
    dropped = np.asarray(residual == 0)
    whole = dropped.all((1, 2))
    np.testing.assert_array_equal(dropped.any((1, 2)), whole)
    assert 0.3 < whole.mean() < 0.7
    assert len({tuple(row) for row in whole}) == 4, 'examples have independent masks'
    kept = jax.jit(block.clone(train=False).apply)(variables, x) - x
    np.testing.assert_allclose(residual, np.where(dropped, 0, 2 * kept), atol=1e-4)


def test_dropout_rates_reach_the_blocks():
    net = ERFNet(5, width=0.25, dropout=(0.25, 0.5))
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), IMAGE[:1], train=False))

    def masks(rates):
        run = lambda v, x: net.clone(dropout=rates).apply(  # noqa: E731
            v, x, train=True, rngs={'dropout': jax.random.key(1)}, mutable=['batch_stats']
        )
        jaxpr = str(jax.make_jaxpr(run)(variables, IMAGE[:1]))
        return jaxpr.count('bool[1,1,1,16]') > 0, jaxpr.count('bool[1,1,1,32]') > 0

    assert masks((0.25, 0.5)) == (True, True)
    assert masks((0.0, 0.5)) == (False, True)
    assert masks((0.25, 0.0)) == (True, False)


def test_gradients_on_eight_devices_are_those_of_one_batch():
    variables = random_variables(Stack())

    def per_device(x):
        (loss, stats), gradients = loss_and_gradients(Stack(axis_name='data'), variables, x)
        return jax.lax.pmean((loss, gradients), 'data'), stats

    mapped = jax.pmap(per_device, 'data', devices=jax.devices()[:8], out_axes=(None, 0))
    (loss, gradients), stats = mapped(IMAGE[:, None])
    (expected, expected_stats), expected_gradients = jax.jit(loss_and_gradients, static_argnums=0)(
        Stack(), variables, IMAGE
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for device in range(8):
        own_stats = jax.tree.map(operator.itemgetter(device), stats)
        assert relative_error(own_stats, expected_stats) < 1e-5
    assert relative_error(gradients, expected_gradients) < 1e-5


def test_every_batch_norm_of_the_net_sums_over_devices():
    net = ERFNet(5, width=0.25, axis_name='data')
    variables = random_variables(net)

    def reductions(train):
        run = lambda x: net.apply(  # noqa: E731
            variables, x, train=train, rngs={'dropout': jax.random.key(1)}, mutable=['batch_stats']
        )
        return str(jax.make_jaxpr(run, axis_env=[('data', 8)])(IMAGE[:1])).count('= psum')

    assert reductions(train=False) == 0
    norms = 17 * 2 + 5  # blocks, changes of resolution
    assert reductions(train=True) == 2 * norms  # the mean, then the deviations from it


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32():
    net = ERFNet(5, encoder_head=True, dtype=jnp.bfloat16)
    variables, outputs = jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, train=False), jnp.zeros((1, 16, 24, 3))
    )[::-1]
    assert {x.dtype for x in jax.tree.leaves((variables, outputs))} == {np.dtype('float32')}
    _, inner = jax.eval_shape(
        lambda v: net.apply(v, jnp.zeros((1, 16, 24, 3)), train=False, capture_intermediates=True),
        variables,
    )
    inner = {
        path: value[0]
        for path, value in flatten_dict(inner['intermediates']).items()
        if len(path) == 4
    }
    layers = {path: y.dtype for path, y in inner.items() if path[2].startswith(('conv', 'bn'))}
    assert len(layers) > 100 and set(layers.values()) == {np.dtype(jnp.bfloat16)}


def test_bfloat16_is_close_to_float32():
    variables = random_variables(Stack())
    step = jax.jit(loss_and_gradients, static_argnums=0)
    (_, stats), gradients = step(Stack(dtype=jnp.bfloat16), variables, IMAGE)
    (_, expected_stats), expected_gradients = step(Stack(), variables, IMAGE)
    assert {x.dtype for x in jax.tree.leaves((stats, gradients))} == {np.dtype('float32')}
    assert 0 < relative_error(stats, expected_stats) < 0.02
    assert 0 < relative_error(gradients, expected_gradients) < 0.05


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
        jax.eval_shape(
            lambda x: ERFNet(5, **args).init(jax.random.key(0), x, train=False), jnp.zeros(shape)
        )
