"""Generator of features: sizes, parameters, padding, codes at every level and in every cell.

tests/parity/test_generators.py compares it with torch.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import size

from segjax.errors import InputError
from segjax.models.generators.feature_unet import FeatureUNet, pad_to_multiple
from segjax.models.generators.latent_unet import LatentUNet
from segjax.models.generators.layout import STRIDES, shrink_layout

K, C, N = 4, 6, 3
SMALL = dict(out_channels=C, width=1 / 16)


def shapes(net, side, classes=K, code=(N,)):
    """Returns (features, variables) as shapes."""
    outputs, variables = jax.eval_shape(
        lambda x, z: net.init_with_output(jax.random.key(0), x, z, train=True),
        jax.ShapeDtypeStruct((1, *side, classes), jnp.float32),
        jax.ShapeDtypeStruct((1, *code), jnp.float32),
    )
    return outputs['image'], variables


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def random_variables(net, x, code):
    """Returns random variables that keep the scale of activations."""
    rng = np.random.default_rng(0)
    tree = jax.eval_shape(lambda: net.init(jax.random.key(0), x, code, train=True))

    def draw(leaf):
        fan = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 25
        return np.float32((6 / fan) ** 0.5 * rng.uniform(-1, 1, leaf.shape))

    return jax.tree.map(draw, dict(tree))


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('encoder', ['atrous', 'resize'])
@pytest.mark.parametrize('stride', STRIDES)
def test_features_have_the_size_of_the_layout_over_the_stride(stride, encoder):
    net = FeatureUNet(**SMALL, stride=stride, encoder=encoder, num_downs=3)
    for side in ((64, 128), (113, 97)):
        features, _ = shapes(net, side)
        chex.assert_shape(features, (1, *(-(-n // stride) for n in side), C))
        assert features.dtype == jnp.float32


def test_conv4_of_pspnet():
    features, variables = shapes(FeatureUNet(1024, num_downs=6), (713, 713), 20, (8,))
    chex.assert_shape(features, (1, 90, 90, 1024))
    # The layout.
    count = 0
    for i, o in itertools.pairwise((20, 64, 128, 256)):
        count += 3 * (9 * i * o + o) + 9 * 3 * o * o + o
    assert size(variables['params']['layout']) == count
    # The U-Net: 8 planes of the code in front of all halvings, and skips in front of all doublings
    # but the first. All layers have a bias.
    channels = [64, 128, 256, 512, 512, 512]
    for i, o in itertools.pairwise((256, *channels)):
        count += 16 * (i + 8) * o + o
    inputs = [512, *(2 * o for o in reversed(channels[:-1]))]
    outputs = [*reversed(channels[:-1]), 1024]
    for i, o in zip(inputs, outputs, strict=True):
        count += 16 * i * o + o
    assert size(variables) == count


def test_the_rival_has_the_parameters_of_bicycle():
    _, variables = shapes(FeatureUNet(1024, encoder='resize'), (256, 256), 20)
    latent = LatentUNet(1024, 5)
    x = jnp.zeros((1, 32, 32, 20))
    expected = jax.eval_shape(
        lambda: latent.init(jax.random.key(0), x, jnp.zeros((1, N)), train=True)
    )
    chex.assert_trees_all_equal_shapes(dict(variables), dict(expected))


def test_wrong_settings_are_refused():
    for fields in (dict(encoder='atrou'), dict(upsample='nearest'), dict(output='relu')):
        (name,) = fields
        with pytest.raises(InputError, match=name):
            shapes(FeatureUNet(**SMALL, **fields), (32, 32))
    with pytest.raises(InputError, match='num_downs'):
        shapes(FeatureUNet(**SMALL, num_downs=0), (32, 32))
    with pytest.raises(InputError, match='stride'):
        shapes(FeatureUNet(**SMALL, stride=3), (32, 32))
    with pytest.raises(InputError, match='shrink'):
        shapes(FeatureUNet(**SMALL, encoder='resize', shrink='max'), (32, 32))


def test_wrong_codes_are_refused():
    net = FeatureUNet(**SMALL, stride=4, num_downs=2)
    with pytest.raises(InputError, match='a code for each example'):
        shapes(net, (32, 32), code=(4, N))
    with pytest.raises(InputError, match='divide the size') as error:
        shapes(net, (32, 48), code=(3, 5, N))
    assert error.value.fix == 'use (2, 4) cells'
    assert '3x5 cells of a map of 8x12' in str(error.value)


# --- the parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize('shrink', ['average', 'nearest'])
def test_the_rival_is_bicycle_on_a_small_layout(shrink):
    net = FeatureUNet(**SMALL, stride=2, encoder='resize', shrink=shrink, num_downs=5)
    x = uniform(1, 63, 64, K)
    code = uniform(1, N, seed=1)
    variables = random_variables(net, x, code)
    got = jax.jit(lambda v: net.apply(v, x, code, train=False)['image'])(variables)
    rival = LatentUNet(**SMALL, num_downs=5, output='linear')
    small = shrink_layout(x, 2, shrink)
    expected = jax.jit(lambda v: rival.apply(v, small, code, train=False)['image'])(variables)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(got).max() > 1


def test_maps_are_padded_by_their_last_row_and_column_and_cropped():
    assert pad_to_multiple(jnp.zeros((1, 90, 90, 1)), 32).shape == (1, 96, 96, 1)
    net = FeatureUNet(**SMALL, stride=1, num_downs=5)
    x = uniform(1, 20, 35, K)
    code = uniform(1, N, seed=1)
    variables = random_variables(net, x, code)
    got = jax.jit(lambda v: net.apply(v, x, code, train=False)['image'])(variables)
    rows = [*range(20), *[19] * 12]
    columns = [*range(35), *[34] * 29]
    padded = x[:, rows][:, :, columns]
    whole = LatentUNet(**SMALL, num_downs=5, output='linear')
    expected = jax.jit(lambda v: whole.apply(v, padded, code, train=False)['image'])(variables)
    np.testing.assert_allclose(got, expected[:, :20, :35], rtol=1e-5, atol=1e-5)


# --- codes ----------------------------------------------------------------------------------------


LEVELS = 4


@pytest.fixture(scope='module')
def deep():
    """Returns (jitted function of variables and codes, variables) of a net with four levels."""
    net = FeatureUNet(**SMALL, stride=2, num_downs=LEVELS)
    x = uniform(2, 32, 32, K)
    variables = random_variables(net, x, uniform(2, N))
    return jax.jit(lambda v, code: net.apply(v, x, code, train=False)['image']), variables


@pytest.mark.parametrize('level', range(LEVELS))
def test_a_code_changes_features_at_every_level(deep, level):
    apply, variables = deep
    # All further levels see no code.
    levels = dict(variables['params']['levels'])
    for i in range(LEVELS):
        if i != level:
            layer = dict(levels[f'down_{i}'])
            layer['kernel'] = layer['kernel'].copy()
            layer['kernel'][:, :, -N:] = 0
            levels[f'down_{i}'] = layer
    blind = {'params': {**variables['params'], 'levels': levels}}
    code = uniform(2, N, seed=1)
    changed = code + np.float32([[0], [1]])
    before = apply(blind, code)
    after = apply(blind, changed)
    np.testing.assert_allclose(before[0], after[0], rtol=1e-4, atol=1e-5)
    assert np.abs(before[1] - after[1]).max() > 1e-3


def test_a_map_of_equal_codes_is_a_single_code(deep):
    apply, variables = deep
    code = uniform(2, N, seed=1)
    expected = apply(variables, code)
    cells = np.broadcast_to(code[:, None, None], (2, 4, 2, N))
    np.testing.assert_allclose(apply(variables, cells), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('side, cells', [(32, 4), (30, 5)])
def test_a_code_of_a_map_changes_features_of_its_cell(side, cells):
    # A net with a single level has no norm. Its features see 3 pixels around.
    net = FeatureUNet(**SMALL, stride=2, num_downs=1)
    x = uniform(1, side, side, K)
    code = uniform(1, cells, cells, N, seed=1)
    variables = random_variables(net, x, code)
    apply = jax.jit(lambda code: net.apply(variables, x, code, train=False)['image'])
    changed = code.copy()
    changed[0, 1, 2] += 1
    differs = np.any(apply(code) != apply(changed), -1)[0]
    extent = side // 2 // cells
    first = np.array([1, 2]) * extent
    expected = np.zeros_like(differs)
    window = tuple(slice(max(0, n - 3), n + extent + 3) for n in first)
    expected[window] = True
    assert not np.any(differs & ~expected)
    assert np.all(differs[first[0] : first[0] + extent, first[1] : first[1] + extent])


def test_each_level_has_the_nearest_code():
    # With two levels, the second has 4 x 4 pixels for 8 x 8 codes: the later code of each pair.
    net = FeatureUNet(**SMALL, stride=2, num_downs=2)
    x = uniform(1, 16, 16, K)
    code = uniform(1, 8, 8, N, seed=1)
    variables = random_variables(net, x, code)
    kernel = variables['params']['levels']['down_0']['kernel']
    kernel[:, :, -N:] = 0
    apply = jax.jit(lambda code: net.apply(variables, x, code, train=False)['image'])
    before = apply(code)
    skipped = code.copy()
    skipped[:, ::2] += 1
    np.testing.assert_array_equal(apply(skipped), before)
    seen = code.copy()
    seen[:, 1::2, 1::2] += 1
    assert np.any(apply(seen) != before)


def test_latent_unet_has_maps_of_codes():
    net = LatentUNet(C, num_downs=5, width=1 / 16)
    x = jnp.zeros((1, 32, 64, K))
    for code in ((N,), (4, 8, N)):
        outputs, variables = jax.eval_shape(
            lambda z: net.init_with_output(jax.random.key(0), x, z, train=True),
            jax.ShapeDtypeStruct((1, *code), jnp.float32),
        )
        chex.assert_shape(outputs['image'], (1, 32, 64, C))
        assert variables['params']['levels']['down_0']['kernel'].shape == (4, 4, K + N, 4)
    with pytest.raises(InputError, match=r'use \(4, 4\) cells'):
        jax.eval_shape(lambda: net.init(jax.random.key(0), x, jnp.zeros((1, 5, 5, N)), train=True))
