"""VGG16 and VGG19: published numbers of parameters, and the features of perceptual losses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import shapes_at

from segjax import models
from segjax.errors import InputError
from segjax.models.backbones.vgg import (
    PERCEPTUAL_LAYERS,
    REFINEMENT_LAYERS,
    STAGES,
    STAGES_19,
    VGG16,
)
from segjax.models.layers import Conv


def count(variables):
    return sum(x.size for x in jax.tree.leaves(variables))


@pytest.mark.parametrize('stages, parameters', [(STAGES, 14_714_688), (STAGES_19, 20_024_384)])
def test_convolutions_of_the_publication(stages, parameters):
    (pools, _), variables = shapes_at(VGG16(Conv, Conv, stages=stages), 1, 224, 224, 3)
    assert count(variables) == parameters
    chex.assert_shape(pools['pool5'], (1, 7, 7, 512))


def test_perceptual_features_are_the_convolutions_up_to_the_deepest():
    net = models.build('features', 'vgg19', dtype='float32')
    features, variables = shapes_at(net, 2, 64, 96, 3)
    assert list(features) == list(PERCEPTUAL_LAYERS)
    for k, (name, channels) in enumerate(zip(features, (64, 128, 256, 512, 512), strict=True)):
        chex.assert_shape(features[name], (2, 64 >> k, 96 >> k, channels))
    # conv5_2, conv5_3 and conv5_4 are not there.
    assert count(variables) == 20_024_384 - 3 * (9 * 512 * 512 + 512)
    names = [f'conv{i}_{j}' for i, n in enumerate((2, 2, 4, 4, 1), 1) for j in range(1, n + 1)]
    assert set(variables['params']['vgg']) == set(names)


def test_features_follow_the_relu_in_the_given_dtype():
    image = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    nets = [
        models.build('features', 'vgg19', dtype=dtype, width=1 / 16)
        for dtype in ('float32', 'bfloat16')
    ]
    variables = jax.jit(nets[0].init)(jax.random.key(0), image)
    full, half = (jax.jit(net.apply)(variables, image) for net in nets)
    for name in PERCEPTUAL_LAYERS:
        assert full[name].min() == 0 < full[name].max()
        assert half[name].dtype == jnp.bfloat16
        error = np.abs(full[name] - half[name].astype(np.float32)).max()
        assert 0 < error < 0.1 * full[name].max(), name


# --- layers and poolings --------------------------------------------------------------------------


def random_variables(net, image):
    """Returns random variables of a features net, whose activations keep their scale."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        return (rng.normal(size=leaf.shape) * (2 / fan_in) ** 0.5).astype(np.float32)

    return jax.tree.map(draw, shapes)


def reference(params, image, layers, pool):
    """Returns {layer: [B, h, w, C]} by a loop over the layers, for height and width 2^k."""
    features = {}
    x = image
    stage = 1
    for name in sorted(params):
        if int(name[4]) > stage:
            stage += 1
            b, height, width, channels = x.shape
            x = pool(x.reshape(b, height // 2, 2, width // 2, 2, channels), axis=(2, 4))
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = params[name]['bias'].astype(np.float64)
        for i in range(3):
            for j in range(3):
                shifted = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
                y = y + shifted @ params[name]['kernel'][i, j]
        x = np.maximum(y, 0)
        features[name] = x
    return {layer: features[layer] for layer in layers}


@pytest.mark.parametrize('name, pool', [('vgg16', 'average'), ('vgg19', 'max')])
def test_features_are_those_of_numpy(name, pool):
    image = np.random.default_rng(0).normal(size=(1, 32, 64, 3)).astype(np.float32)
    net = models.build(
        'features', name, dtype='float32', width=1 / 32, pool=pool, layers=REFINEMENT_LAYERS
    )
    variables = random_variables(net, image)
    features = jax.jit(net.apply)(variables, image)
    assert tuple(features) == REFINEMENT_LAYERS
    averages = {'average': np.mean, 'max': np.max}[pool]
    expected = reference(variables['params']['vgg'], image, REFINEMENT_LAYERS, averages)
    for layer in REFINEMENT_LAYERS:
        np.testing.assert_allclose(features[layer], expected[layer], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [(30, 44), (32, 48)])
def test_average_pooling_keeps_the_sizes_of_max_pooling(size):
    shapes = {}
    for pool in ('max', 'average'):
        net = models.build('features', 'vgg16', dtype='float32', pool=pool)
        features, _ = shapes_at(net, 1, *size, 3)
        shapes[pool] = [x.shape for x in features.values()]
    assert shapes['max'] == shapes['average']


def test_vgg16_has_the_13_convolutions_of_the_publication():
    net = models.build('features', 'vgg16', dtype='float32', layers=('conv5_3', 'conv1_1'))
    features, variables = shapes_at(net, 1, 32, 32, 3)
    assert set(features) == {'conv5_3', 'conv1_1'}
    assert count(variables) == 14_714_688
    names = [f'conv{i}_{j}' for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)]
    assert set(variables['params']['vgg']) == set(names)


@pytest.mark.parametrize('name', ['vgg16', 'vgg19'])
def test_the_deepest_layer_ends_the_net(name):
    net = models.build('features', name, dtype='float32', layers=('conv3_2', 'conv2_1'))
    _, variables = shapes_at(net, 1, 32, 32, 3)
    expected = {'conv1_1', 'conv1_2', 'conv2_1', 'conv2_2', 'conv3_1', 'conv3_2'}
    assert set(variables['params']['vgg']) == expected


def test_vgg19_is_the_same_program_as_the_bare_convolutions():
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    net = models.build('features', 'vgg19', dtype='float32', width=1 / 32)
    stages = (*STAGES_19[:4], (1, 512))
    bare = VGG16(Conv, Conv, width=1 / 32, taps=PERCEPTUAL_LAYERS, stages=stages)
    variables = random_variables(net, image)
    features = jax.jit(net.apply)(variables, image)
    _, taps = jax.jit(bare.apply)({'params': variables['params']['vgg']}, image)
    for layer in PERCEPTUAL_LAYERS:
        np.testing.assert_array_equal(features[layer], np.maximum(taps[layer], 0))


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(layers=('conv5_4',)), "did you mean 'conv5_"),
        (dict(layers=()), 'names of convolutions'),
        (dict(pool='averag'), "did you mean 'average'"),
    ],
)
def test_unknown_layers_and_poolings_are_explained(fields, message):
    net = models.build('features', 'vgg16', dtype='float32', **fields)
    with pytest.raises(InputError, match=message):
        shapes_at(net, 1, 32, 32, 3)
