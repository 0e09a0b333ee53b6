"""PatchGAN: published sizes, a whole forward pass by scipy, and the receptive field."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import shapes_at
from scipy import signal

from segjax.errors import InputError
from segjax.models.generators.patchgan import PatchGAN, instance_norm, output_size, receptive_field


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_params(net, x, seed=1):
    """Returns random parameters of a net, with biases, without compiling `init`."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x))['params']
    return jax.tree.map(lambda p: (0.3 * rng.standard_normal(p.shape)).astype(np.float32), shapes)


@pytest.mark.parametrize(
    'channels, num_layers, parameters, size',
    [(3, 3, 2_764_737, (30, 62)), (6, 3, 2_767_809, (30, 62))],
)
def test_published_parameter_counts_and_shapes(channels, num_layers, parameters, size):
    logits, variables = shapes_at(PatchGAN(num_layers=num_layers), 2, 256, 512, channels)
    assert sum(x.size for x in jax.tree.leaves(variables)) == parameters
    chex.assert_shape(logits, (2, *size, 1))
    assert logits.dtype == jnp.float32
    assert set(variables) == {'params'}  # no running statistics


def test_channels_double_up_to_eight_times():
    def features(**args):
        params = shapes_at(PatchGAN(**args), 1, 256, 256, 3)[1]['params']
        assert list(params) == [f'conv_{i}' for i in range(len(params))]
        return [p['bias'].shape[0] for p in params.values()]

    assert features() == [64, 128, 256, 512, 1]
    assert features(num_layers=5) == [64, 128, 256, 512, 512, 512, 1]
    assert features(num_layers=2, features=5) == [5, 10, 20, 1]


def test_initialisation():
    net = PatchGAN(num_layers=1, init_std=0.05)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
    for name, layer in params.items():
        assert not layer['bias'].any(), name
        kernel = np.asarray(layer['kernel'])
        assert abs(kernel.std() / 0.05 - 1) < 5 / np.sqrt(2 * kernel.size), name
        assert abs(kernel.mean()) < 5 * 0.05 / np.sqrt(kernel.size), name


@pytest.mark.parametrize('height, width', [(24, 40), (25, 47), (64, 31)])
@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_output_size_is_that_of_the_net(height, width, num_layers):
    logits, _ = shapes_at(PatchGAN(features=2, num_layers=num_layers), 1, height, width, 3)
    chex.assert_shape(logits, (1, *output_size(height, width, num_layers), 1))


def test_instance_norm_is_the_formula():
    x = 3 * normal(2, 5, 6, 4) + 7
    expected = np.zeros_like(x)
    for b, c in np.ndindex(2, 4):
        channel = x[b, :, :, c].astype(np.float64)
        expected[b, :, :, c] = (channel - channel.mean()) / np.sqrt(channel.var() + 1e-5)
    np.testing.assert_allclose(instance_norm(x), expected, atol=1e-5)
    constant = np.full((1, 4, 4, 2), 5, np.float32)
    np.testing.assert_array_equal(instance_norm(constant), 0 * constant)


def test_instance_norm_sums_in_float32():
    # With mean 1000 and deviation 4, bfloat16 has no digit for the variance, or for its sum over
    # 4096 pixels.
    x = jnp.asarray(1000 + 4 * np.sign(normal(1, 64, 64, 1)), jnp.bfloat16)
    y = instance_norm(x)
    assert y.dtype == jnp.bfloat16
    z = np.asarray(x, np.float64)
    np.testing.assert_allclose(np.asarray(y, np.float64), (z - z.mean()) / z.std(), rtol=2**-8)


def conv_by_scipy(x, kernel, bias, stride):
    """Correlates [H, W, I] with a kernel, with one pixel of zeros around the image: [h, w, O]."""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    return np.stack(
        [
            sum(
                signal.correlate2d(padded[..., i], kernel[..., i, o], 'valid')
                for i in range(x.shape[-1])
            )[::stride, ::stride]
            + bias[o]
            for o in range(kernel.shape[-1])
        ],
        -1,
    )


def test_forward_pass_is_that_of_scipy():
    net = PatchGAN(features=3, num_layers=2)
    image = normal(2, 20, 26, 3)
    params = random_params(net, image)
    logits = jax.jit(net.apply)({'params': params}, image)
    for b in range(2):
        x = image[b].astype(np.float64)
        for i, stride in enumerate((2, 2, 1, 1)):
            x = conv_by_scipy(x, params[f'conv_{i}']['kernel'], params[f'conv_{i}']['bias'], stride)
            if i in (1, 2):
                x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
            if i < 3:
                x = np.where(x > 0, x, 0.2 * x)
        chex.assert_shape(x, (3, 4, 1))
        np.testing.assert_allclose(logits[b], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('num_layers, field, size', [(1, 16, 40), (2, 34, 80), (3, 70, 160)])
def test_receptive_field_is_where_the_gradient_is(num_layers, field, size):
    assert receptive_field(num_layers) == field
    # There is no norm, whose statistics reach everywhere. With positive kernels no paths cancel.
    net = PatchGAN(features=1, num_layers=num_layers, norm=lambda x: x)
    image = normal(1, size, size, 1)
    params = jax.tree.map(np.abs, random_params(net, image))

    def middle(image):
        logits = net.apply({'params': params}, image)
        return logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]

    gradient = np.asarray(jax.jit(jax.grad(middle))(image))[0, :, :, 0]
    pixels = np.argwhere(gradient)
    np.testing.assert_array_equal(np.ptp(pixels, 0) + 1, (field, field))
    assert len(pixels) == field**2 and pixels.min() > 0 and pixels.max() < size - 1


def test_with_the_norm_every_logit_sees_the_whole_image():
    net = PatchGAN(features=2, num_layers=1)
    image = normal(1, 48, 48, 1)
    params = random_params(net, image)
    gradient = jax.jit(jax.grad(lambda x: net.apply({'params': params}, x)[0, 0, 0, 0]))(image)
    assert np.abs(gradient[0, -8:, -8:]).max() > 0


def test_compute_in_bfloat16_with_float32_parameters():
    image = normal(1, 32, 32, 3)
    nets = [
        PatchGAN(features=8, num_layers=2, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32)
    ]
    params = random_params(nets[0], image)
    assert {p.dtype for p in jax.tree.leaves(params)} == {np.dtype('float32')}
    half, full = (np.asarray(jax.jit(net.apply)({'params': params}, image)) for net in nets)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


def test_bad_input():
    with pytest.raises(InputError, match='at least 24 pixels'):
        output_size(23, 100, 3)
    assert output_size(24, 24, 3) == (1, 1)
    with pytest.raises(InputError, match='height 16, width 8'):
        shapes_at(PatchGAN(num_layers=2), 1, 16, 8, 3)
    with pytest.raises(InputError, match='num_layers'):
        shapes_at(PatchGAN(num_layers=0), 1, 64, 64, 3)
