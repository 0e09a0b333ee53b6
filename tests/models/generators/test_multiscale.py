"""Multi-scale discriminator: published parameters and sizes, pyramid, gate, initialisation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import shapes_at, size

from segjax.errors import InputError
from segjax.models.generators.multiscale import MultiscaleDiscriminator, output_size
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


@pytest.mark.parametrize('size', [(256, 256), (31, 46), (9, 20)])
@pytest.mark.parametrize('num_layers, num_scales', [(3, 2), (2, 3), (1, 1)])
def test_output_size_is_that_of_the_net(size, num_layers, num_scales):
    net = MultiscaleDiscriminator(num_scales, num_layers, width=1 / 32)
    outputs, _ = shapes_at(net, 1, *size, 3, train=True)
    assert len(outputs) == num_scales
    for scale, maps in enumerate(outputs):
        assert len(maps) == num_layers + 2
        chex.assert_shape(maps[-1], (1, *output_size(*size, num_layers, scale), 1))


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


@pytest.mark.parametrize('name', ['num_scales', 'num_layers'])
def test_bad_input(name):
    with pytest.raises(InputError, match=name):
        shapes_at(MultiscaleDiscriminator(**{name: 0}), 1, 32, 32, 3, train=True)
