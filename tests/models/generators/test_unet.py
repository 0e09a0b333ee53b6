"""U-Nets of pix2pix and BicycleGAN: published parameters, sizes, dropout, codes, initialisation.

tests/parity/test_generators.py compares them with torch.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import shapes_at, size

from segjax.errors import InputError
from segjax.models.generators.latent_unet import LatentUNet
from segjax.models.generators.unet import UNet, dropout, whole_levels
from segjax.models.layers import xavier

SMALL = dict(out_channels=3, num_downs=6, width=1 / 16)


def latent_shapes(net, *shape, code=8):
    """Returns (outputs, variables) of a net with a code, as shapes."""
    return jax.eval_shape(
        lambda x, z: net.init_with_output(jax.random.key(0), x, z, train=True),
        jax.ShapeDtypeStruct(shape, jnp.float32),
        jax.ShapeDtypeStruct((shape[0], code), jnp.float32),
    )


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def initial(net, *shapes):
    """Returns the initial parameters for inputs of these shapes, without compiling the net."""
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(lambda key: net.lazy_init(key, *inputs, train=True))(jax.random.key(0))


def random_variables(net, *inputs, size=1.0, seed=0):
    """Returns random parameters that keep the scale of activations, times `size`."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, train=True))

    def draw(x):
        fan = np.prod(x.shape[:-1]) if len(x.shape) > 1 else 25
        return np.float32(size * (6 / fan) ** 0.5 * rng.uniform(-1, 1, x.shape))

    return jax.tree.map(draw, dict(shapes))


# --- published sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize('num_downs, published', [(8, 54_413_955), (7, 41_828_995)])
def test_parameters_of_pix2pix(num_downs, published):
    outputs, variables = shapes_at(UNet(3, num_downs), 1, 256, 256, 3, train=True)
    chex.assert_shape(outputs['image'], (1, 256, 256, 3))
    channels = [64, 128, 256, *[512] * (num_downs - 3)]
    down = 3 * 64 + sum(a * b for a, b in itertools.pairwise(channels))
    # The input of all levels but the last is doubled by its skip.
    up = 512 * 512 + sum(2 * b * a for a, b in itertools.pairwise(channels[:-1])) + 2 * 64 * 3
    norms = 2 * (sum(channels[1:-1]) + sum(channels[:-1]))
    assert size(variables['params']) == 16 * (down + up) + norms + 3 == published


def test_with_instance_norms_convolutions_of_pix2pix_have_a_bias():
    _, variables = shapes_at(UNet(3, 8, norm='instance'), 1, 256, 256, 3, train=True)
    _, batch = shapes_at(UNet(3, 8), 1, 256, 256, 3, train=True)
    channels = [64, 128, 256, *[512] * 5]
    biases = sum(channels) + sum(channels[:-1]) + 3
    norms = 2 * (sum(channels[1:-1]) + sum(channels[:-1]))
    assert size(variables) - biases == size(batch['params']) - norms - 3


@pytest.mark.parametrize('num_downs, published', [(8, 54_794_627), (7, 42_145_155)])
def test_parameters_of_bicycle(num_downs, published):
    outputs, variables = latent_shapes(LatentUNet(3, num_downs), 1, 256, 256, 3)
    chex.assert_shape(outputs['image'], (1, 256, 256, 3))
    assert size(variables) == published
    # 8 planes of the code more at the input of every level.
    _, without = latent_shapes(LatentUNet(3, num_downs), 1, 256, 256, 3, code=0)
    channels = [64, 128, 256, *[512] * (num_downs - 3)]
    assert size(variables) - size(without) == 16 * 8 * sum(channels)


def test_bilinear_upsampling_has_3x3_kernels():
    _, variables = latent_shapes(LatentUNet(3, 8, upsample='bilinear'), 1, 256, 256, 3)
    up = 512 * 512 + 2 * (3 * 512 * 512 + 512 * 256 + 256 * 128 + 128 * 64) + 2 * 64 * 3
    assert size(variables) == 54_794_627 - (16 - 9) * up


def test_96_pixels_allow_5_levels():
    assert whole_levels(96, 96) == 5
    assert whole_levels(128, 96) == 5
    assert whole_levels(256, 128) == 7
    outputs, _ = shapes_at(UNet(3, 5), 1, 96, 96, 68, train=True)
    chex.assert_shape(outputs['image'], (1, 96, 96, 3))
    outputs, _ = latent_shapes(LatentUNet(3, 5), 1, 96, 160, 68)
    chex.assert_shape(outputs['image'], (1, 96, 160, 3))


def test_other_sizes_are_refused_with_a_remedy():
    with pytest.raises(InputError, match='set num_downs=5') as error:
        shapes_at(UNet(3, 7), 1, 96, 96, 3, train=True)
    assert 'multiples of 128' in str(error.value)
    with pytest.raises(InputError, match='latent_unet: input'):
        latent_shapes(LatentUNet(3, 5), 1, 100, 96, 3)
    for fields in (dict(num_downs=4), dict(output='relu'), dict(dropout=1.0), dict(init_kind='he')):
        (name,) = fields
        with pytest.raises(InputError, match=name):
            shapes_at(UNet(3, **{'num_downs': 5, **fields}), 1, 32, 32, 3, train=True)
    with pytest.raises(InputError, match='upsample'):
        latent_shapes(LatentUNet(3, 5, upsample='nearest'), 1, 32, 32, 3)
    with pytest.raises(InputError, match='a code for each example'):
        jax.eval_shape(
            lambda: LatentUNet(3, 5).init(
                jax.random.key(0), jnp.zeros((2, 32, 32, 3)), jnp.zeros((1, 8)), train=True
            )
        )


# --- initialisation -------------------------------------------------------------------------------


def test_initialisation_of_pix2pix():
    params = initial(UNet(3, 5, width=1 / 4), (1, 32, 32, 3))['params']['levels']
    for name in ('down_1', 'up_2'):
        kernel = np.asarray(params[name]['kernel'])
        assert abs(kernel.std() / 0.02 - 1) < 5 / np.sqrt(2 * kernel.size)
    assert not params['up_0']['bias'].any()
    scale = np.asarray(params['down_norm_3']['scale'])
    assert abs(scale.mean() - 1) < 0.01
    assert 0.015 < scale.std() < 0.025
    assert not params['down_norm_3']['bias'].any()


def test_xavier_of_the_release_is_small():
    # 4x4 from 64 to 128 channels: 0.02 sqrt(2 / (16 (64 + 128))) = 5.1e-4.
    assert LatentUNet(3).init_kind == 'xavier'
    kernel = xavier(LatentUNet(3).init_std)(jax.random.key(0), (4, 4, 64, 128))
    np.testing.assert_allclose(kernel.std(), 5.1e-4, rtol=0.02)


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_depends_on_the_key_of_the_example_alone():
    x = np.ones((3, 20, 30, 7), np.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    y = np.asarray(dropout(x, keys, 0.25))
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    assert abs((y == 0).mean() - 0.25) < 5 * (0.25 * 0.75 / y.size) ** 0.5
    np.testing.assert_array_equal(dropout(x[2:], keys[2:], 0.25), y[2:])
    assert np.any(y[0] != y[1])


@pytest.fixture(scope='module')
def trained():
    """Returns a net with dropout, its variables, and a jitted function of condition and keys."""
    net = UNet(norm='instance', **SMALL)
    x = uniform(2, 64, 64, 4)
    variables = random_variables(net, x)
    apply = jax.jit(lambda x, keys: net.apply(variables, x, False, keys)['image'])
    return x, apply, jax.jit(lambda x: net.apply(variables, x, False)['image'])


def test_dropout_stays_on_in_evaluation_with_keys(trained):
    x, apply, plain = trained
    keys = jax.random.split(jax.random.key(1), 2)
    first = apply(x, keys)
    np.testing.assert_array_equal(first, apply(x, keys))
    assert np.abs(first - apply(x, jax.random.split(jax.random.key(2), 2))).max() > 0
    assert np.abs(first - plain(x)).max() > 0
    np.testing.assert_array_equal(plain(x), plain(x))


def test_an_image_depends_on_its_own_key_alone(trained):
    x, apply, _ = trained
    keys = jax.random.split(jax.random.key(1), 2)
    other = jnp.stack([jax.random.key(5), keys[1]])
    before = apply(x, keys)
    after = apply(x, other)
    assert np.abs(before[0] - after[0]).max() > 0
    np.testing.assert_allclose(before[1], after[1], rtol=1e-5, atol=1e-6)


def test_only_the_middle_levels_have_dropout():
    keys = jax.random.split(jax.random.key(0), 1)

    def draws(num_downs, side):
        net = UNet(out_channels=3, num_downs=num_downs, width=1 / 16)
        x = jnp.zeros((1, side, side, 3))
        variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=True))
        jaxpr = jax.make_jaxpr(lambda v: net.apply(v, x, False, keys))(variables)
        return str(jaxpr).count('random_bits')

    assert [draws(5, 32), draws(6, 64), draws(8, 256)] == [0, 1, 3]


# --- codes ----------------------------------------------------------------------------------------


def test_the_code_reaches_every_level_and_its_own_example_alone():
    net = LatentUNet(**{**SMALL, 'num_downs': 5})
    x = uniform(2, 32, 32, 4)
    code = uniform(2, 8, seed=1)
    variables = random_variables(net, x, code)
    apply = jax.jit(lambda v, code: net.apply(v, x, code, False)['image'])
    before = apply(variables, code)
    changed = code.copy()
    changed[1] += 1
    after = apply(variables, changed)
    np.testing.assert_allclose(before[0], after[0], rtol=1e-4, atol=1e-5)
    assert np.abs(before[1] - after[1]).max() > 1e-3

    gradient = jax.jit(jax.grad(lambda v: (apply(v, code) ** 2).sum()))(variables)['params']
    for i in range(5):
        planes = gradient['levels'][f'down_{i}']['kernel'][:, :, -8:]
        assert np.all(np.abs(planes).max((0, 1, 3)) > 0), i


def test_a_linear_output_leaves_the_range_of_tanh():
    x = uniform(1, 32, 32, 4)
    fields = {**SMALL, 'num_downs': 5, 'norm': 'instance'}
    tanh = UNet(**fields)
    variables = random_variables(tanh, x, size=2.0)
    linear = UNet(**fields, output='linear')
    bounded, free = (
        jax.jit(lambda x, net=net: net.apply(variables, x, False)['image'])(x)
        for net in (tanh, linear)
    )
    assert np.abs(free).max() > 1
    np.testing.assert_allclose(np.tanh(free), bounded, rtol=1e-4, atol=1e-5)
