"""ResNet: published counts, names, strides, taps, and the hook for dilated convolutions."""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import count, random_variables, shapes_of

from segjax.errors import InputError
from segjax.models.backbones import resnet
from segjax.models.layers import Conv, batch_norm

IMAGE = np.random.default_rng(0).uniform(-1, 1, (1, 33, 40, 3)).astype(np.float32)


class Backbone(nn.Module):
    """A ResNet with the call of a net."""

    depth: int
    fields: Any = ()
    dilated_conv: Any = None

    @nn.compact
    def __call__(self, x, train=False):
        return resnet.make_resnet(
            self.depth, batch_norm(train), jnp.float32, self.dilated_conv, **dict(self.fields)
        )(x)


def make(depth, dilated_conv=None, **fields):
    return Backbone(depth, tuple(fields.items()), dilated_conv)


@pytest.mark.parametrize(
    'depth, stem, expected',
    [
        (18, '7x7', 11_176_512),
        (50, '7x7', 23_508_032),
        (101, '7x7', 42_500_160),
        (50, '3x3', 23_631_808),
        (101, '3x3', 42_623_936),
    ],
)
def test_published_parameter_counts(depth, stem, expected):
    _, variables = shapes_of(make(depth, stem=stem))
    assert count(variables) == expected


def test_names_are_those_of_torchvision_and_timm():
    def names(**fields):
        _, variables = shapes_of(make(50, **fields))
        return {'.'.join(path[1:-1]) for path in flatten_dict(variables['params'])}

    blocks = {
        f'layer{i}_{j}.{part}'
        for i, count in enumerate((3, 4, 6, 3), start=1)
        for j in range(count)
        for part in ('conv1', 'bn1', 'conv2', 'bn2', 'conv3', 'bn3')
    }
    blocks |= {f'layer{i}_0.downsample_{k}' for i in range(1, 5) for k in range(2)}
    assert names() == blocks | {'conv1', 'bn1'}
    assert names(stem='3x3') == blocks | {
        'conv1_0',
        'conv1_1',
        'conv1_3',
        'conv1_4',
        'conv1_6',
        'bn1',
    }


@pytest.mark.parametrize('ceil_pool', [False, True])
@pytest.mark.parametrize('output_stride', [32, 16, 8])
def test_stages_have_their_strides_rounded_up(output_stride, ceil_pool):
    (stages, _), _ = shapes_of(
        make(18, output_stride=output_stride, ceil_pool=ceil_pool, width=0.125), (1, 65, 84, 3)
    )
    for i, channels in enumerate((8, 16, 32, 64)):
        stride = min(4 * 2**i, output_stride)
        # The stem has 42 columns. With Caffe's rounding the last window exceeds them: 22 columns.
        columns = -(-22 // (stride // 4)) if ceil_pool else -(-84 // stride)
        chex.assert_shape(stages[f'layer{i + 1}'], (1, -(-65 // stride), columns, channels))


def record(calls):
    """Returns a factory like Conv that notes its calls."""

    def dilated_conv(features, kernel_size, **args):
        calls.append((features, kernel_size, args['dilation'], args['name']))
        assert args['use_bias'] is False and args['dtype'] == jnp.float32
        return Conv(features, kernel_size, **args)

    return dilated_conv


@pytest.mark.parametrize(
    'depth, output_stride, expected',
    [
        (50, 32, []),
        (50, 16, [(512, (3, 3), 4 // 2, 'conv2')] * 3),
        (50, 8, [(256, (3, 3), 2, 'conv2')] * 6 + [(512, (3, 3), 4, 'conv2')] * 3),
        (18, 16, [(512, (3, 3), 2, name) for name in ('conv1', 'conv2')] * 2),
    ],
)
def test_every_3x3_of_a_dilated_stage_passes_through_the_hook(depth, output_stride, expected):
    calls = []
    shapes_of(make(depth, record(calls), output_stride=output_stride))
    assert calls == expected


def test_dilated_stages_keep_the_first_blocks_rate_and_no_stride():
    net = make(50, output_stride=8)
    jaxpr = str(jax.make_jaxpr(lambda v, x: net.apply(v, x))(shapes_of(net)[1], IMAGE))
    assert jaxpr.count('rhs_dilation=(2, 2)') == 6 and jaxpr.count('rhs_dilation=(4, 4)') == 3
    assert jaxpr.count('window_strides=(2, 2)') == 3  # the stem, and 3x3 and projection of layer2


def test_stride_on_the_first_1x1_moves_it_away_from_the_3x3():
    def strided_kernels(**fields):
        net = make(50, **fields)
        _, variables = shapes_of(net)
        kernels = []

        def note(next_fun, args, kwargs, context):
            if isinstance(context.module, Conv) and context.module.strides == 2:
                kernels.append((context.module.name, context.module.kernel_size))
            return next_fun(*args, **kwargs)

        with nn.intercept_methods(note):
            jax.eval_shape(net.apply, variables, IMAGE)
        return set(kernels[1:])  # without the stem

    assert strided_kernels() == {('conv2', (3, 3)), ('downsample_0', (1, 1))}
    assert strided_kernels(stride_on_1x1=True) == {('conv1', (1, 1)), ('downsample_0', (1, 1))}


@functools.cache
def tapped():
    """Returns (stages, taps, variables) of a narrow ResNet-50 with random variables."""
    taps = ('conv1_3', 'conv2_3', 'conv4_6', 'conv4_5', 'layer3')
    net = make(50, stem='3x3', output_stride=8, width=0.125, taps=taps)
    variables = random_variables(net, IMAGE.shape)
    return *jax.jit(net.apply)(variables, IMAGE), variables


def test_taps_are_sums_before_their_relu():
    stages, taps, _ = tapped()
    assert set(taps) == {'conv1_3', 'conv2_3', 'conv4_6', 'conv4_5', 'layer3'}
    for tap in ('conv1_3', 'conv2_3', 'conv4_6', 'conv4_5'):
        assert np.min(taps[tap]) < -0.1 < 0.1 < np.max(taps[tap]), 'signed'
    np.testing.assert_array_equal(np.maximum(taps['conv2_3'], 0), stages['layer1'])
    np.testing.assert_array_equal(np.maximum(taps['conv4_6'], 0), stages['layer3'])
    np.testing.assert_array_equal(taps['layer3'], stages['layer3'])
    chex.assert_shape(taps['conv1_3'], (1, 17, 20, 16))


def test_a_block_adds_its_branch_to_what_enters():
    _, taps, variables = tapped()
    params, statistics = (variables[key]['resnet']['layer3_5'] for key in ('params', 'batch_stats'))
    x = np.maximum(taps['conv4_5'], 0)

    def norm(y, name):
        y = (y - statistics[name]['mean']) / np.sqrt(statistics[name]['var'] + 1e-5)
        return y * params[name]['scale'] + params[name]['bias']

    y = np.maximum(norm(x @ params['conv1']['kernel'][0, 0], 'bn1'), 0)
    padded, dilated = np.pad(y, ((0, 0), (2, 2), (2, 2), (0, 0))), 0
    for r, s in np.ndindex(3, 3):
        dilated = (
            dilated
            + padded[:, 2 * r : 2 * r + y.shape[1], 2 * s : 2 * s + y.shape[2]]
            @ (params['conv2']['kernel'][r, s])
        )
    y = norm(np.maximum(norm(dilated, 'bn2'), 0) @ params['conv3']['kernel'][0, 0], 'bn3')
    np.testing.assert_allclose(taps['conv4_6'], x + y, atol=1e-5 * np.abs(y).max())


def test_the_start_is_torchvisions():
    net = resnet.make_resnet(18, batch_norm(False), jnp.float32, None)
    block = resnet.ResidualBlock(
        64, 1, 1, False, False, False, net.conv, net.dilated_conv, net.norm
    )
    kernel = block.init(jax.random.key(0), jnp.zeros((1, 2, 2, 64)))['params']['conv2']['kernel']
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.03)


@pytest.mark.parametrize(
    'depth, fields, message',
    [
        (20, {}, 'one of .18, 34, 50'),
        (50, {'stem': '5x5'}, 'one of 3x3, 7x7'),
        (50, {'output_stride': 4}, '32, 16 or 8'),
        (50, {'taps': ('conv4_7',)}, 'did you mean'),
    ],
)
def test_impossible_fields_are_explained(depth, fields, message):
    with pytest.raises(InputError, match=message):
        shapes_of(make(depth, **fields))
