"""pix2pixHD: published parameters, sizes, and the trunk that both generators share."""

import chex
import jax
import numpy as np
import pytest
from nets import shapes_at, size

from segjax.errors import InputError
from segjax.models.generators.pix2pixhd import GlobalGenerator, LocalEnhancer


def test_global_generator_of_36_channels():
    outputs, variables = shapes_at(GlobalGenerator(3), 1, 512, 1024, 36, train=True)
    assert size(variables) == 182_546_755
    assert set(variables) == {'params'}
    chex.assert_shape(outputs['image'], (1, 512, 1024, 3))


def test_local_enhancer_adds_its_layers_to_the_trunk():
    outputs, variables = shapes_at(LocalEnhancer(3), 1, 1024, 2048, 36, train=True)
    chex.assert_shape(outputs['image'], (1, 1024, 2048, 3))
    trunk = 182_546_755 - (49 * 64 * 3 + 3)  # without the last convolution
    enhancer = 49 * 36 * 32 + 32 + 9 * 32 * 64 + 64  # 7x7, then 3x3 of stride 2
    enhancer += 3 * 2 * (9 * 64 * 64 + 64) + 9 * 64 * 32 + 32 + 49 * 32 * 3 + 3
    assert size(variables) == trunk + enhancer


def test_the_trunk_of_the_enhancer_is_a_global_generator():
    fields = dict(halvings=2, blocks=2, width=1 / 8)
    _, ours = shapes_at(LocalEnhancer(3, **fields), 1, 32, 32, 6, train=True)
    _, theirs = shapes_at(GlobalGenerator(3, **fields), 1, 32, 32, 6, train=True)
    chex.assert_trees_all_equal_shapes(ours['params']['trunk'], theirs['params']['trunk'])


def test_initialisation_and_range():
    net = GlobalGenerator(3, halvings=2, blocks=2, width=1 / 4, init_std=0.05)
    condition = np.random.default_rng(0).normal(size=(2, 32, 48, 6)).astype(np.float32)
    outputs, variables = jax.jit(lambda x: net.init_with_output(jax.random.key(0), x, train=True))(
        condition
    )
    for path, kernel in jax.tree_util.tree_leaves_with_path(variables):
        if path[-1].key == 'kernel':
            assert abs(np.std(kernel) / 0.05 - 1) < 5 / np.sqrt(2 * kernel.size), path
    assert np.abs(outputs['image']).max() < 1
    scaled = jax.tree.map(lambda x: 100 * x, variables)
    image = jax.jit(lambda v: net.apply(v, condition, train=True))(scaled)['image']
    assert np.abs(image).max() == 1


@pytest.mark.parametrize('net, multiple', [(GlobalGenerator(3), 16), (LocalEnhancer(3), 32)])
def test_bad_sizes(net, multiple):
    with pytest.raises(InputError, match=f'multiples of {multiple}, at least {2 * multiple}'):
        shapes_at(net, 1, 2 * multiple, 2 * multiple + 8, 6, train=True)
