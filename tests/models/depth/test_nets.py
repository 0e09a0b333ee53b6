"""Depth nets by the registry: published counts, sizes, dtypes, depths and bad input."""

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from depth_nets import TINY, tiny_shapes
from nets import count, shapes_of

from segjax import models
from segjax.errors import InputError
from segjax.models.depth.decoder import pyramid
from segjax.models.depth.depth_and_segmentation import DepthAndSegmentation
from segjax.models.depth.dispnet import DispNet
from segjax.models.depth.monodepth2 import Monodepth2


@pytest.mark.parametrize(
    'net, expected',
    [
        (Monodepth2(18), {'resnet': 11_176_512, 'decoder': 3_152_724}),
        (Monodepth2(50), {'resnet': 23_508_032, 'decoder': 9_014_100}),
        (
            DepthAndSegmentation(20),
            {
                'resnet': 11_176_512,
                'depth_decoder': 3_152_724,
                # The heads, of 16, 32, 64 and 128 channels, give way to one of 20 classes.
                'segmentation_decoder': 3_152_724
                - (9 * (16 + 32 + 64 + 128) + 4)
                + (9 * 16 * 20 + 20),
            },
        ),
    ],
)
def test_nets_on_a_resnet_have_the_published_counts(net, expected):
    params = shapes_of(net)[1]['params']
    assert {name: count({'params': part}) for name, part in params.items()} == expected


@pytest.mark.parametrize('name, size', [(name, (37, 50)) for name in TINY] + [('dispnet', (3, 2))])
def test_scale_s_is_the_image_halved_s_times_rounded_up(name, size):
    outputs, _ = tiny_shapes(name, size)
    expected = [(2, *(-(-n // 2**s) for n in size)) for s in range(4)]
    chex.assert_shape(outputs['disparity'], expected)
    if name == 'klingner':
        chex.assert_shape(outputs['logits'], (2, *size, 5))


@pytest.mark.parametrize('name', TINY)
def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32(name):
    assert {x.dtype for x in jax.tree.leaves(tiny_shapes(name))} == {np.dtype('float32')}


def test_every_net_says_what_its_disparities_mean():
    d = np.float32([[0.01, 0.25, 1.0]])
    np.testing.assert_allclose(DispNet().depth_of(d), [[100, 4, 1]])
    for net in (
        Monodepth2(min_depth=0.5, max_depth=80.0),
        DepthAndSegmentation(5, min_depth=0.5, max_depth=80.0),
    ):
        np.testing.assert_allclose(net.depth_of(d), 1 / (1 / 80 + (2 - 1 / 80) * d), rtol=1e-6)
    nearer = TINY['monodepth2'].depth_of(np.float32([0, 0.001, 0.5, 1]))
    np.testing.assert_allclose([nearer[0], nearer[-1]], [100, 0.1], rtol=1e-6)
    assert (np.diff(nearer) < 0).all()


@pytest.mark.parametrize('name', models.NETS['depth'])
def test_schema_is_a_config_and_builds_the_default_net(name):
    args = models.schema('depth', name)
    assert not set(args) & {'dtype', 'axis_name', 'name', 'parent'}
    net = models.build(
        'depth', name, dtype='bfloat16', axis_name=None, **ml_collections.ConfigDict(args)
    )
    assert net == models.NETS['depth'][name](dtype=jnp.dtype('bfloat16'), axis_name=None)


def test_schemas_list_what_a_config_may_say():
    assert models.schema('depth', 'dispnet') == {'release': 'tf', 'width': 1.0}
    assert models.schema('depth', 'monodepth2') == {
        'num_layers': 18,
        'min_depth': 0.1,
        'max_depth': 100.0,
        'width': 1.0,
    }


@pytest.mark.parametrize(
    'build, message',
    [
        (
            lambda: models.build('depth', 'dispnets', dtype='float32', axis_name=None),
            "did you mean 'dispnet'",
        ),
        (lambda: models.schema('depth', 'monodepth'), "did you mean 'monodepth2'"),
        (
            lambda: models.build('depth', 'dispnet', dtype='float32', axis_name=None, with_=1),
            "did you mean 'width'",
        ),
        (lambda: shapes_of(DispNet('torch')), 'one of pytorch, tf'),
        (lambda: shapes_of(Monodepth2(min_depth=2.0, max_depth=1.0)), '0 < min_depth < max_depth'),
        (lambda: shapes_of(Monodepth2(num_layers=20)), 'one of .18, 34, 50'),
        (lambda: shapes_of(DepthAndSegmentation(5, gradient_factors=(1.0,))), 'two factors'),
        (lambda: pyramid({}, '5x5'), 'one of 3x3, 7x7'),
    ],
)
def test_impossible_input_is_explained(build, message):
    with pytest.raises(InputError, match=message):
        build()
