"""The registry of nets: the contract of every net, and errors for unknown names."""

import inspect

import chex
import jax
import jax.numpy as jnp
import ml_collections
import pytest

from segjax import models
from segjax.errors import InputError


@pytest.mark.parametrize('name', models.NETS['segmentation'])
def test_schema_is_a_config_and_builds_the_default_net(name):
    args = models.schema('segmentation', name)
    assert not set(args) & {'num_classes', 'dtype', 'axis_name', 'name', 'parent'}
    config = ml_collections.ConfigDict(args)
    net = models.build(
        'segmentation', name, num_classes=7, dtype='bfloat16', axis_name=None, **config
    )
    assert net == models.NETS['segmentation'][name](
        num_classes=7, dtype=jnp.dtype('bfloat16'), axis_name=None
    )
    outputs, variables = jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, train=False),
        jnp.zeros((2, 64, 128, 3)),
    )
    chex.assert_shape(outputs['logits'], (2, 64, 128, 7))
    assert outputs['logits'].dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    arguments = list(inspect.signature(net.__call__).parameters)
    assert arguments == ['x', 'train', *(['given'] if 'taps' in args else [])]


def test_erfnet_schema():
    assert models.schema('segmentation', 'erfnet') == {
        'first_maps': 16,
        'dropout': (0.03, 0.3),
        'encoder_head': False,
        'width': 1.0,
        'blocks': (5, 8, 2, 2),
        'use_bias': True,
        'init_std': 0.0,
        'forms': 'fast',
        'taps': (),
    }


def test_arguments_reach_the_net():
    net = models.build(
        'segmentation', 'erfnet', num_classes=3, dtype=jnp.float32, axis_name='data', first_maps=32
    )
    assert (net.num_classes, net.first_maps, net.axis_name, net.width) == (3, 32, 'data', 1.0)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'erfnet'"):
        models.build('segmentation', 'erfnett', num_classes=3, dtype='float32', axis_name=None)
    with pytest.raises(InputError, match="did you mean 'erfnet'"):
        models.schema('segmentation', 'Erfnet')
    with pytest.raises(InputError, match="did you mean 'first_maps'"):
        models.build(
            'segmentation', 'erfnet', num_classes=3, dtype='float32', axis_name=None, first_map=32
        )


def test_a_section_of_net_choice_builds_its_net():
    choice = models.net_choice('segmentation', 'fcn', 'the net', width=0.5)
    assert set(choice.options) == set(models.NETS['segmentation'])
    section = {key: field.default for key, field in choice.options[choice.default].items()}
    assert section == {**models.schema('segmentation', 'fcn'), 'width': 0.5}
    given = dict(num_classes=3, dtype='float32', axis_name=None)
    built = models.build_from('segmentation', {'name': 'fcn', **section}, **given, dropout=0.25)
    assert built == models.build('segmentation', 'fcn', **given, width=0.5, dropout=0.25)
