"""The attack net on membership: published size, the map of a patch, and its class activation."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import count, random_variables, shapes_of

from segjax import models
from segjax.models.classification.resnet_classifier import ResNetClassifier

BACKBONE = 23_631_808
"""Parameters of ResNet-50 with three 3x3 convolutions as stem, on three channels."""
small = functools.partial(ResNetClassifier, 2, num_layers=18, width=0.0625)


def test_the_published_net_reads_a_patch_of_90_pixels():
    outputs, variables = shapes_of(ResNetClassifier(2), (1, 90, 90, 38))
    stem = 3 * 3 * (38 - 3) * 64
    assert count(variables) == BACKBONE + stem + 2048 * 2 + 2
    assert outputs['logits'].shape == (1, 2)
    assert outputs['activation'].shape == (1, 12, 12, 2)


@pytest.mark.parametrize(('stride', 'side'), [(32, 2), (16, 4), (8, 8)])
def test_the_output_stride_sets_the_size_of_the_last_features(stride, side):
    outputs, _ = shapes_of(small(output_stride=stride), (1, 64, 64, 5))
    assert outputs['activation'].shape == (1, side, side, 2)


@pytest.mark.parametrize(('dilated', 'expected'), [(False, {1}), (True, {1, 2, 4})])
def test_stages_without_stride_are_plain_unless_they_are_to_be_dilated(dilated, expected):
    net = small(dilated=dilated)
    x = jnp.zeros((1, 16, 16, 3))
    variables = shapes_of(net, x.shape)[1]
    program = jax.make_jaxpr(lambda v: net.apply(v, x, train=False))(variables)
    dilations = {int(text) for text in re.findall(r'rhs_dilation=\((\d+)', str(program))}
    assert dilations == expected


def test_logits_are_means_of_the_class_activation():
    net = small()
    x = np.random.default_rng(0).random((2, 24, 40, 4)).astype(np.float32)
    variables = random_variables(net, x.shape)
    outputs = jax.jit(lambda x: net.apply(variables, x, train=False))(x)
    expected = np.asarray(outputs['activation'], np.float64).mean((1, 2))
    np.testing.assert_allclose(
        outputs['logits'], expected + variables['params']['bias'], rtol=1e-4, atol=1e-4
    )


def test_the_registry_builds_it():
    net = models.build(
        'classifier', 'resnet_classifier', num_classes=2, dtype='float32', axis_name=None
    )
    assert net == ResNetClassifier(2, dtype=jnp.dtype('float32'))
    names = {path[0] for path in flatten_dict(shapes_of(small())[1]['params'])}
    assert names == {'resnet', 'fc', 'bias'}
