"""BiSeNet: names, and the parts in which its two releases differ, against their formulas."""

import functools

import chex
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import random_variables, shapes_of

from segjax.errors import InputError
from segjax.models.layers import Conv, ConvNorm, batch_norm
from segjax.models.segmentation.bisenet import AttentionRefinement, BiSeNet, FeatureFusion

LAYERS = dict(conv=Conv, norm=batch_norm(False))
CONV_NORM = functools.partial(ConvNorm, **LAYERS)


def names(release):
    _, variables = shapes_of(BiSeNet(5, release=release, width=0.125))
    return {
        '/'.join(path[:-1])
        for path in flatten_dict(variables['params'])
        if path[:2] != ('cp', 'resnet')
    }


def test_names_follow_the_coin_release():
    blocks = [f'sp/{name}' for name in ('conv1', 'conv2', 'conv3', 'conv_out')] + ['ffm/convblk']
    blocks += [
        f'cp/{name}'
        for name in ('arm16/conv', 'arm32/conv', 'conv_head16', 'conv_head32', 'conv_avg')
    ]
    heads = ('conv_out', 'conv_out16', 'conv_out32')
    expected = {
        f'{block}/{part}'
        for block in [*blocks, *(f'{h}/conv' for h in heads)]
        for part in ('conv', 'bn')
    }
    expected |= {f'cp/arm{n}/{part}' for n in (16, 32) for part in ('conv_atten', 'bn_atten')}
    expected |= {f'{head}/conv_out' for head in heads}
    assert names('coin') == expected | {'ffm/conv', 'ffm/bn'}
    assert names('torchseg') == expected | {'ffm/conv1', 'ffm/conv2'}


def norm(y, variables, *path):
    params, statistics = variables['params'], variables['batch_stats']
    for part in path:
        params, statistics = params[part], statistics[part]
    y = (y - statistics['mean']) / np.sqrt(statistics['var'] + 1e-5)
    return y * params['scale'] + params['bias']


def sigmoid(y):
    return 1 / (1 + np.exp(-y))


class Called:
    """A block with the call of a net, for random_variables."""

    def __init__(self, module, *inputs):
        self.module, self.inputs = module, inputs

    def init_with_output(self, key, x, train):
        return self.module.init_with_output(key, *self.inputs)


@pytest.mark.parametrize('release', ['torchseg', 'coin'])
def test_fusion_is_its_formula(release):
    rng = np.random.default_rng(0)
    detail, context = (rng.standard_normal((2, 4, 5, 3)).astype(np.float32) for _ in range(2))
    module = FeatureFusion(release, CONV_NORM, **LAYERS)
    variables = random_variables(Called(module, detail, context))
    kernels = {
        name: layer['kernel'][0, 0]
        for name, layer in variables['params'].items()
        if 'kernel' in layer
    }
    block = variables['params']['convblk']['conv']['kernel'][0, 0]
    f = np.maximum(
        norm(np.concatenate([detail, context], -1) @ block, variables, 'convblk', 'bn'), 0
    )
    mean = f.mean((1, 2), keepdims=True)
    if release == 'torchseg':
        gate = np.maximum(mean @ kernels['conv1'], 0) @ kernels['conv2']
    else:
        gate = norm(mean @ kernels['conv'], variables, 'bn')
    np.testing.assert_allclose(
        module.apply(variables, detail, context), f + f * sigmoid(gate), atol=1e-5
    )


def test_attention_is_its_formula():
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    module = AttentionRefinement(4, CONV_NORM, **LAYERS)
    variables = random_variables(Called(module, x))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    f = 0
    for r, s in np.ndindex(3, 3):
        f = (
            f
            + padded[:, r : r + 4, s : s + 5] @ variables['params']['conv']['conv']['kernel'][r, s]
        )
    f = np.maximum(norm(f, variables, 'conv', 'bn'), 0)
    gate = f.mean((1, 2), keepdims=True) @ variables['params']['conv_atten']['kernel'][0, 0]
    expected = f * sigmoid(norm(gate, variables, 'bn_atten'))
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    'fields, main, auxiliary',
    [
        ({'release': 'torchseg'}, 64, 256),
        ({'release': 'coin'}, 256, 64),
        ({'release': 'torchseg', 'head_channels': (256, 128)}, 256, 128),
    ],
)
def test_heads_have_the_releases_channels_unless_told(fields, main, auxiliary):
    _, variables = shapes_of(BiSeNet(5, **fields))
    params = variables['params']
    chex.assert_shape(params['conv_out']['conv']['conv']['kernel'], (3, 3, 256, main))
    for head in ('conv_out16', 'conv_out32'):
        chex.assert_shape(params[head]['conv']['conv']['kernel'], (3, 3, 128, auxiliary))


@pytest.mark.parametrize(
    'fields, message',
    [({'release': 'coim'}, "did you mean 'coin'"), ({'head_channels': (64,)}, 'main, auxiliary')],
)
def test_impossible_fields_are_explained(fields, message):
    with pytest.raises(InputError, match=message):
        shapes_of(BiSeNet(5, **fields))
