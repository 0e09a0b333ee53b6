"""Encoders of BicycleGAN: published parameters, sizes, and the average over all pixels."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import shapes_at, size

from segjax.errors import InputError
from segjax.models.generators.encoder import ConvEncoder, Heads, ResNetEncoder


@pytest.mark.parametrize(
    'net, side, published',
    [
        (ResNetEncoder(8), 256, 2_590_032),
        (ResNetEncoder(8, blocks=3), 128, 1_344_080),
        (ConvEncoder(8), 256, 2_760_656),
        (ConvEncoder(8, num_layers=4), 128, 1_711_824),
    ],
)
def test_published_parameters(net, side, published):
    outputs, variables = shapes_at(net, 2, side, side, 3, train=True)
    assert set(outputs) == {'mean', 'log_variance'}
    for value in outputs.values():
        chex.assert_shape(value, (2, 8))
    assert set(variables) == {'params'}
    assert size(variables) == published


def test_parameters_by_hand():
    def conv(k, i, o):
        return k * k * i * o + o

    def block(i, o):
        return conv(3, i, i) + conv(3, i, o) + conv(1, i, o)

    blocks = block(64, 128) + block(128, 192) + block(192, 256) + block(256, 256)
    assert conv(4, 3, 64) + blocks + 2 * (256 * 8 + 8) == 2_590_032
    convs = conv(4, 3, 64) + conv(4, 64, 128) + conv(4, 128, 256) + 2 * conv(4, 256, 256)
    assert convs + 2 * (256 * 8 + 8) == 2_760_656


@pytest.mark.parametrize('net', [ResNetEncoder(5, width=1 / 16), ConvEncoder(5, width=1 / 16)])
def test_sizes_that_are_no_powers_of_two(net):
    outputs, _ = shapes_at(net, 1, 96, 100, 1024, train=True)
    chex.assert_shape(outputs['mean'], (1, 5))
    with pytest.raises(InputError, match='at least 32 pixels each'):
        shapes_at(net, 1, 31, 64, 3, train=True)


@pytest.mark.parametrize('net', [ResNetEncoder, ConvEncoder])
def test_a_map_of_codes_has_the_parameters_of_a_code(net):
    halvings = {'blocks': 1} if net is ResNetEncoder else {'num_layers': 2}
    fields = dict(code_size=5, width=1 / 16, **halvings)
    outputs, variables = shapes_at(net(code_map=(4, 8), **fields), 2, 16, 32, 1024, train=True)
    for value in outputs.values():
        chex.assert_shape(value, (2, 4, 8, 5))
    _, single = shapes_at(net(**fields), 2, 16, 32, 1024, train=True)
    chex.assert_trees_all_equal_shapes(dict(variables), dict(single))
    with pytest.raises(InputError, match='at most 4x8'):
        shapes_at(net(code_map=(5, 8), **fields), 2, 16, 32, 3, train=True)


def test_16_by_32_cells_of_1024_channels_have_up_to_3_blocks():
    outputs, variables = shapes_at(ResNetEncoder(8, blocks=3), 2, 16, 32, 1024, train=True)
    chex.assert_shape(outputs['mean'], (2, 8))
    # The convolution of the stem has 1024 channels instead of 3.
    assert size(variables) == 1_344_080 + 16 * (1024 - 3) * 64
    with pytest.raises(InputError, match='fewer blocks'):
        shapes_at(ResNetEncoder(8, blocks=4), 2, 16, 32, 1024, train=True)


def test_the_heads_average_the_features_of_each_cell():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 8, 3)).astype(np.float32)
    heads = Heads(2, nn.initializers.normal(1.0), (3, 2))
    got, variables = heads.init_with_output(jax.random.key(0), x)
    for name, codes in got.items():
        layer = variables['params'][name]
        for u, v in np.ndindex(3, 2):
            mean = x[:, 2 * u : 2 * u + 2, 4 * v : 4 * v + 4].mean((1, 2))
            expected = mean @ layer['kernel'] + layer['bias']
            np.testing.assert_allclose(codes[:, u, v], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('net', [ResNetEncoder(3, 1, width=1 / 8), ConvEncoder(3, 2, width=1 / 8)])
def test_initialisation(net):
    x = jax.ShapeDtypeStruct((1, 16, 16, 64), jnp.float32)
    init = jax.jit(lambda key: net.lazy_init(key, x, train=True))
    params = init(jax.random.key(0))['params']
    flat = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in flat:
        if path[-1].key == 'bias':
            assert not leaf.any()
        elif leaf.size > 500:
            fans = np.prod(leaf.shape[:-2]) * (leaf.shape[-2] + leaf.shape[-1])
            expected = 0.02 * (2 / fans) ** 0.5
            assert abs(leaf.std() / expected - 1) < 5 / np.sqrt(2 * leaf.size), path
