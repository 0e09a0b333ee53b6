"""Multi-scale discriminator: published parameters and sizes, pyramid, gate, initialisation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import shapes_at, size

from segjax.errors import InputError
from segjax.models.generators.multiscale import (
    BICYCLE_FIELDS,
    PIX2PIX_FIELDS,
    MultiscaleDiscriminator,
    output_size,
)
from segjax.ops.pool import average_pool


def test_39_channels_and_two_scales():
    outputs, variables = shapes_at(MultiscaleDiscriminator(), 1, 256, 256, 39, train=True)
    assert size(variables) == 5_603_202
    sides = [[129, 65, 33, 34, 35], [65, 33, 17, 18, 19]]
    for maps, of_scale in zip(outputs, sides, strict=True):
        for x, side, channels in zip(maps, of_scale, (64, 128, 256, 512, 1), strict=True):
            chex.assert_shape(x, (1, side, side, channels))


def test_batch_norm_has_a_scale_and_a_shift_in_three_layers():
    _, variables = shapes_at(MultiscaleDiscriminator(norm='batch'), 1, 64, 64, 71, train=True)
    kernels = 16 * (71 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    biases = 64 + 128 + 256 + 512 + 1
    assert size(variables['params']) == 2 * (kernels + biases + 2 * (128 + 256 + 512))


def test_pix2pix_has_a_single_patchgan_of_a_condition_and_an_image():
    outputs, variables = shapes_at(
        MultiscaleDiscriminator(**PIX2PIX_FIELDS), 1, 256, 256, 6, train=True
    )
    kernels = 16 * (6 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    # The first and the last convolution have a bias, the others a norm with scale and shift.
    assert size(variables['params']) == kernels + 64 + 1 + 2 * (128 + 256 + 512) == 2_768_705
    (maps,) = outputs
    assert [x.shape[1:] for x in maps] == [
        (128, 128, 64),
        (64, 64, 128),
        (32, 32, 256),
        (31, 31, 512),
        (30, 30, 1),
    ]


def test_bicycle_has_half_the_channels_at_half_the_size():
    outputs, variables = shapes_at(
        MultiscaleDiscriminator(**BICYCLE_FIELDS), 1, 256, 256, 3, train=True
    )
    parts = [size(variables['params'][f'scale_{i}']) for i in range(2)]
    assert parts == [2_764_737, 694_241]
    assert sum(parts) == 3_458_978
    assert [maps[0].shape for maps in outputs] == [(1, 128, 128, 64), (1, 64, 64, 32)]
    assert [maps[-1].shape for maps in outputs] == [(1, 30, 30, 1), (1, 14, 14, 1)]


def test_bicycle_begins_with_xavier_kernels_and_without_biases():
    net = MultiscaleDiscriminator(**BICYCLE_FIELDS, num_layers=2, width=1 / 2)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    init = jax.jit(lambda key: net.lazy_init(key, x, train=True))
    params = init(jax.random.key(0))['params']
    for scale, channels in (('scale_0', 32), ('scale_1', 16)):
        kernel = np.asarray(params[scale]['conv_1']['kernel'])
        assert kernel.shape == (4, 4, channels, 2 * channels)
        expected = 0.02 * (2 / (16 * 3 * channels)) ** 0.5
        assert abs(kernel.std() / expected - 1) < 5 / np.sqrt(2 * kernel.size)
        assert not any(layer['bias'].any() for layer in params[scale].values())


@pytest.mark.parametrize('size', [(256, 256), (31, 46), (96, 128)])
@pytest.mark.parametrize('num_layers, num_scales', [(3, 2), (2, 3), (1, 1)])
@pytest.mark.parametrize('padding', [1, 2])
def test_output_size_is_that_of_the_net(size, num_layers, num_scales, padding):
    net = MultiscaleDiscriminator(num_scales, num_layers, width=1 / 32, padding=padding)
    if min(output_size(*size, num_layers, num_scales - 1, padding)) < 1:
        with pytest.raises(InputError, match='fewer layers or fewer scales'):
            shapes_at(net, 1, *size, 3, train=True)
        return
    outputs, _ = shapes_at(net, 1, *size, 3, train=True)
    assert len(outputs) == num_scales
    for scale, maps in enumerate(outputs):
        assert len(maps) == num_layers + 2
        chex.assert_shape(maps[-1], (1, *output_size(*size, num_layers, scale, padding), 1))


def random_net(**fields):
    net = MultiscaleDiscriminator(width=1 / 16, num_layers=2, **fields)
    x = np.random.default_rng(0).normal(size=(2, 24, 32, 4)).astype(np.float32)
    variables = jax.jit(lambda x: net.init(jax.random.key(0), x, train=True))(x)
    return net, jax.tree.map(lambda x: 5 * x, variables), x


def test_the_second_scale_judges_the_average_of_3x3_pixels():
    net, variables, x = random_net()
    outputs = jax.jit(lambda x: net.apply(variables, x, train=True))(x)
    single = MultiscaleDiscriminator(1, 2, width=1 / 16)
    for scale, image in enumerate((x, average_pool(x, 3, 2, 1))):
        params = {'scale_0': variables['params'][f'scale_{scale}']}
        (maps,) = jax.jit(lambda p, x: single.apply({'params': p}, x, train=True))(params, image)
        chex.assert_trees_all_close(maps, outputs[scale], rtol=1e-4, atol=1e-4)


def test_the_gate_hides_everything_outside():
    net, variables, x = random_net()
    gate = np.zeros((2, 24, 32, 1), np.float32)
    gate[:, 4:15, 6:20] = 1
    apply = jax.jit(lambda x, gate: net.apply(variables, x, True, gate))
    gated = apply(x, gate)
    chex.assert_trees_all_equal(gated, apply(np.where(gate == 1, x, 7), gate))
    plain = jax.jit(lambda x: net.apply(variables, x, True))
    chex.assert_trees_all_close(gated, plain(x * gate), rtol=1e-5, atol=1e-5)
    assert np.any(gated[0][-1] != plain(x)[0][-1])
    gradient = jax.grad(lambda x: sum(maps[-1].sum() for maps in apply(x, gate)))(x)
    np.testing.assert_array_equal(np.where(gate == 1, 0, gradient), 0)
    assert np.any(gradient != 0)


def test_both_forms_agree_at_widths_with_fast_gradients():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 16, 16, 3)).astype(np.float32)
    nets = [MultiscaleDiscriminator(1, 2, forms=forms) for forms in ('fast', 'naive')]
    params = jax.jit(lambda x: nets[0].init(jax.random.key(0), x, train=True))(x)['params']

    def gradient(net):
        def loss(params):
            (maps,) = net.apply({'params': params}, x, train=True)
            return (maps[-1] ** 2).mean() + maps[1].mean()

        return jax.jit(jax.grad(loss))(params)

    fast, naive = (gradient(net) for net in nets)
    chex.assert_trees_all_close(fast, naive, rtol=1e-3, atol=1e-5)


def test_initialisation():
    net = MultiscaleDiscriminator(1, 3, norm='batch', width=1 / 4, init_std=0.05)
    params = jax.jit(lambda x: net.init(jax.random.key(0), x, train=True))(
        jnp.zeros((1, 32, 32, 3))
    )['params']['scale_0']
    for i in range(4):
        kernel = np.asarray(params[f'conv_{i}']['kernel'])
        assert abs(kernel.std() / 0.05 - 1) < 5 / np.sqrt(2 * kernel.size)
        bias = np.abs(params[f'conv_{i}']['bias'])
        limit = np.prod(kernel.shape[:3]) ** -0.5
        assert limit / 2 < bias.max() < limit
    scale = np.asarray(params['norm_3']['scale'])
    assert abs(scale.mean() - 1) < 0.03
    assert 0.03 < scale.std() < 0.07
    np.testing.assert_array_equal(params['norm_3']['bias'], 0)


@pytest.mark.parametrize('name', ['num_scales', 'num_layers', 'padding'])
def test_bad_input(name):
    with pytest.raises(InputError, match=name):
        shapes_at(MultiscaleDiscriminator(**{name: 0}), 1, 32, 32, 3, train=True)
