"""VGG16 and VGG19: published numbers of parameters, and the features of the perceptual loss."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import shapes_at

from segjax import models
from segjax.models.backbones.vgg import PERCEPTUAL_LAYERS, STAGES, STAGES_19, VGG16
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
