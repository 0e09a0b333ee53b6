"""Xception and DeepLab-v3+: counts, strides and rates, names, connections of head and decoder."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import count, random_variables, shapes_of

from segjax.errors import InputError
from segjax.models.backbones import xception
from segjax.models.backbones.xception import SeparableConv, Xception
from segjax.models.layers import Conv, ConvNorm, DepthwiseConv, batch_norm
from segjax.models.segmentation.deeplab_v3plus import DeepLabV3Plus, DensePredictionCell


class Backbone(nn.Module):
    """An Xception with the call of a net."""

    depth: int
    output_stride: int = 32
    width: float = 1.0
    taps: tuple = ()

    @nn.compact
    def __call__(self, x, train):
        fields = dict(output_stride=self.output_stride, width=self.width, taps=self.taps)
        return Xception(
            self.depth, Conv, DepthwiseConv, batch_norm(train), **fields, name='xception'
        )(x)


@pytest.mark.parametrize('depth, expected', [(65, 37_867_312), (71, 40_289_736)])
def test_published_parameter_counts_of_the_backbone(depth, expected):
    assert count(shapes_of(Backbone(depth))[1]) == expected


@pytest.mark.parametrize('depth, blocks', [(41, 13), (65, 21), (71, 23)])
def test_names_are_those_of_timm(depth, blocks):
    _, variables = shapes_of(Backbone(depth))
    names = {'.'.join(path[1:-1]) for path in flatten_dict(variables['params'])}
    parts = ('conv_dw', 'bn_dw', 'conv_pw', 'bn_pw')
    entry = {41: 3, 65: 3, 71: 5}[depth]
    expected = {
        f'blocks_{i}.stack.conv{j}.{part}'
        for i in range(blocks)
        for j in (1, 2, 3)
        for part in parts
    }
    expected |= {
        f'blocks_{i}.shortcut.{part}'
        for i in (*range(entry), blocks - 2)
        for part in ('conv', 'bn')
    }
    assert names == expected | {f'stem_{i}.{part}' for i in (0, 1) for part in ('conv', 'bn')}


def rates_and_strides(net):
    """Returns [(rate, stride)] of the depthwise convolutions in the order of their calls."""
    layers = []

    def note(next_fun, args, kwargs, context):
        if isinstance(context.module, DepthwiseConv):
            layers.append((context.module.dilation, context.module.strides))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes_of(net)
    return layers


@pytest.mark.slow
@pytest.mark.parametrize(
    'output_stride, middle, exit_1, exit_2, strided',
    [(32, 1, 1, 1, 4), (16, 1, 1, 2, 3), (8, 2, 2, 4, 2)],
)
@pytest.mark.parametrize('depth', [65, 71])
def test_rates_double_where_a_stride_was_left_out(
    depth, output_stride, middle, exit_1, exit_2, strided
):
    layers = rates_and_strides(Backbone(depth, output_stride))
    rates = [rate for rate, _ in layers]
    assert all(rows == columns for rows, columns in rates)
    entry = 3 * len(xception.ENTRIES[depth])
    expected = [1] * entry + [middle] * 48 + [exit_1] * 3 + [exit_2] * 3
    assert [rows for rows, _ in rates] == expected
    assert sum(stride == 2 for _, stride in layers) == strided


def test_features_are_those_the_decoder_wants():
    for depth, low in ((65, 'blocks_1/conv2'), (71, 'blocks_2/conv2')):
        (deep, low_level, features), _ = shapes_of(
            Backbone(depth, 16, taps=(low, 'blocks_0')), (1, 65, 97, 3)
        )
        chex.assert_shape(deep, (1, 5, 7, 2048))
        chex.assert_shape([low_level, features[low]], (1, 17, 25, 256))
        chex.assert_shape(features['blocks_0'], (1, 17, 25, 128))


def separable_by_hand(x, variables, rate, relu=True):
    """Computes depthwise, norm, ReLU, pointwise, norm, ReLU."""
    params, statistics = variables['params'], variables['batch_stats']

    def norm(y, name):
        y = (y - statistics[name]['mean']) / np.sqrt(statistics[name]['var'] + 1e-5)
        y = y * params[name]['scale'] + params[name]['bias']
        return np.maximum(y, 0) if relu else y

    rows, columns = rate
    h, w = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    y = 0
    for r, s in np.ndindex(3, 3):
        y = (
            y
            + padded[:, r * rows : r * rows + h, s * columns : s * columns + w]
            * params['conv_dw']['kernel'][r, s, 0]
        )
    return norm(norm(y, 'bn_dw') @ params['conv_pw']['kernel'][0, 0], 'bn_pw')


class Cell(nn.Module):
    """The searched cell with the call of a net."""

    @nn.compact
    def __call__(self, x, train):
        layers = dict(conv=Conv, norm=batch_norm(train))
        separable = functools.partial(SeparableConv, depthwise=DepthwiseConv, **layers)
        return DensePredictionCell(
            4, 1, 0.1, functools.partial(ConvNorm, **layers), separable, train, name='dpc'
        )(x)


def test_the_cell_is_the_published_graph():
    x = np.random.default_rng(0).standard_normal((1, 20, 24, 3)).astype(np.float32)
    variables = random_variables(Cell(), x.shape)
    part = lambda name: {key: variables[key]['dpc'][name] for key in variables}  # noqa: E731
    branch = lambda i, y, rate: separable_by_hand(y, part(f'branch{i}'), rate)  # noqa: E731
    first = branch(0, x, (1, 6))
    second = branch(1, first, (18, 15))
    branches = [
        first,
        second,
        branch(2, second, (6, 3)),
        branch(3, first, (1, 1)),
        branch(4, first, (6, 21)),
    ]
    last = part('concat_projection')
    y = np.concatenate(branches, -1) @ last['params']['conv']['kernel'][0, 0]
    y = (y - last['batch_stats']['bn']['mean']) / np.sqrt(last['batch_stats']['bn']['var'] + 1e-5)
    expected = np.maximum(y * last['params']['bn']['scale'] + last['params']['bn']['bias'], 0)
    np.testing.assert_allclose(Cell().apply(variables, x, train=False), expected, atol=1e-4)


@pytest.mark.parametrize('relu', [True, False])
def test_separable_convolution_is_its_formula(relu):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return SeparableConv(
                4, DepthwiseConv, Conv, batch_norm(train), dilation=(2, 1), relu=relu, name='layer'
            )(x)

    x = np.random.default_rng(0).standard_normal((1, 6, 7, 3)).astype(np.float32)
    variables = random_variables(Layer(), x.shape)
    inner = {key: value['layer'] for key, value in variables.items()}
    expected = separable_by_hand(x, inner, (2, 1), relu)
    np.testing.assert_allclose(Layer().apply(variables, x, train=False), expected, atol=1e-5)


@pytest.mark.parametrize('output_stride, factor', [(16, 1), (8, 2)])
def test_rates_of_the_heads_follow_the_output_stride(output_stride, factor):
    def head(name):
        layers = rates_and_strides(DeepLabV3Plus(5, 'resnet50', name, output_stride, width=0.125))
        return [tuple(r // factor for r in rate) for rate, _ in layers[:-2]], layers[-2:]

    decoder = [((1, 1), 1)] * 2
    assert head('aspp') == ([(6, 6), (12, 12), (18, 18)], decoder)
    assert head('dpc') == ([(1, 6), (18, 15), (6, 3), (1, 1), (6, 21)], decoder)


@pytest.mark.slow
@pytest.mark.parametrize('backbone', ['xception65', 'xception71', 'resnet101'])
def test_names_and_sizes_of_the_parts_on_top(backbone):
    _, variables = shapes_of(DeepLabV3Plus(5, backbone), (1, 65, 65, 3))
    params = dict(variables['params'])
    assert set(params) == {backbone.rstrip('0156789'), 'aspp', 'decoder', 'logits'}
    assert set(params['aspp']) == {
        'image_pooling',
        'aspp0',
        'aspp1',
        'aspp2',
        'aspp3',
        'concat_projection',
    }
    assert set(params['decoder']) == {'feature_projection0', 'decoder_conv0', 'decoder_conv1'}
    decoder = params['decoder']
    chex.assert_shape(decoder['feature_projection0']['conv']['kernel'], (1, 1, 256, 48))
    chex.assert_shape(decoder['decoder_conv0']['conv_pw']['kernel'], (1, 1, 304, 256))


def test_epsilon_is_larger_in_xception():
    norms = {}

    def note(next_fun, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            norms.setdefault(context.module.path[0], set()).add(
                (context.module.epsilon, context.module.momentum)
            )
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda x: DeepLabV3Plus(5, norm_decay=0.9997).init(jax.random.key(0), x, train=False),
            jnp.zeros((1, 32, 32, 3)),
        )
    assert norms == {
        'xception': {(1e-3, 0.9997)},
        'aspp': {(1e-5, 0.9997)},
        'decoder': {(1e-5, 0.9997)},
    }


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'backbone': 'xception61'}, "did you mean 'xception"),
        ({'head': 'ppm'}, 'one of aspp, dpc'),
        ({'output_stride': 32}, '16 or 8'),
    ],
)
def test_impossible_fields_are_explained(fields, message):
    with pytest.raises(InputError, match=message):
        shapes_of(DeepLabV3Plus(5, **fields))
    with pytest.raises(InputError, match='41, 65 or 71'):
        shapes_of(Backbone(66))
