"""Encoders of layouts: sizes, the block in loops, its receptive field, parameters, and scale."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import shapes_at, size

from segjax.errors import InputError
from segjax.models.generators import layout
from segjax.models.layers import Conv

K = 4


class Fields:
    """The fields of a net with an encoder of its layout."""

    width = 1.0
    layout_features = 8
    layout_norm = 'none'
    dtype = jnp.float32
    axis_name = None

    def __init__(self, **fields):
        self.__dict__.update(fields)


def encoder(stride, **fields):
    return layout.make_layout_encoder(Fields(stride=stride, **fields), train=True)


def block(features):
    """Returns a block of atrous pooling without a norm."""
    return layout.AtrousPooling(features, functools.partial(Conv), lambda name: lambda x: x)


def uniform(*shape, low=-1.0, seed=0):
    return np.random.default_rng(seed).uniform(low, 1, shape).astype(np.float32)


def kernels_like(net, x, low):
    """Returns random variables, with kernels and biases from [low, 1]."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x))
    return jax.tree.map(lambda leaf: uniform(*leaf.shape, low=low, seed=leaf.size), dict(shapes))


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('stride', layout.STRIDES)
@pytest.mark.parametrize('side', [(64, 128), (65, 97), (713, 713), (90, 17)])
def test_every_halving_rounds_up(stride, side):
    outputs, _ = shapes_at(encoder(stride), 1, *side, K)
    expected = tuple(int(np.ceil(n / stride)) for n in side)
    assert outputs.shape[1:3] == layout.encoded_size(*side, stride) == expected
    for how in layout.SHRINKS:
        shrunk = jax.eval_shape(
            lambda x, how=how: layout.shrink_layout(x, stride, how), jnp.zeros((1, *side, K))
        )
        chex.assert_shape(shrunk, (1, *expected, K))


def test_713_pixels_have_90_features_at_stride_8():
    assert layout.encoded_size(713, 1025, 8) == (90, 129)
    assert layout.fitting_stride((713, 713), (90, 90)) == 8
    assert layout.fitting_stride((128, 256), (16, 32)) == 8
    assert layout.fitting_stride((128, 256), (16, 16)) is None
    assert layout.fitting_stride((713, 713), (89, 89)) is None


def test_features_of_another_size_are_refused_with_a_remedy():
    features = jnp.zeros((1, 16, 32, 5))
    layout.check_pair('net', jnp.zeros((1, 128, 256, K)), features, 8)
    with pytest.raises(InputError, match='net: features') as error:
        layout.check_pair('net', jnp.zeros((1, 128, 256, K)), features, 4)
    assert error.value.fix == 'set stride=8'
    assert '32x64 features at stride 4' in str(error.value)
    with pytest.raises(InputError, match='100x256 pixels') as error:
        layout.check_pair('net', jnp.zeros((1, 100, 256, K)), features, 8)
    assert 'stride' not in error.value.fix


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match='1, 2, 4, 8, 16'):
        shapes_at(encoder(3), 1, 32, 32, K)
    with pytest.raises(InputError, match='1, 2, 4, 8, 16'):
        layout.encoded_size(64, 64, 0)
    with pytest.raises(InputError, match="did you mean 'nearest'"):
        layout.shrink_layout(jnp.zeros((1, 8, 8, K)), 2, 'neares')


# --- the block ------------------------------------------------------------------------------------


def block_by_hand(params, x):
    """The block on [H, W, C], pixel by pixel, with zeros around the image."""

    def at(image, i, j):
        inside = 0 <= i < image.shape[0] and 0 <= j < image.shape[1]
        return image[i, j] if inside else np.zeros(image.shape[-1])

    def conv(image, layer, i, j, dilation):
        total = np.float64(layer['bias'])
        for a, b in itertools.product(range(3), repeat=2):
            pixel = at(image, i + (a - 1) * dilation, j + (b - 1) * dilation)
            total = total + pixel @ np.float64(layer['kernel'][a, b])
        return total

    height, width = x.shape[:2]
    joined = np.zeros((height, width, 0))
    for dilation in (1, 2, 4):
        layer = params[f'dilated_{dilation}']
        branch = np.zeros((height, width, len(layer['bias'])))
        for i, j in np.ndindex(height, width):
            branch[i, j] = conv(x, layer, i, j, dilation)
        joined = np.concatenate([joined, branch], -1)

    result = np.zeros((-(-height // 2), -(-width // 2), len(params['stride']['bias'])))
    for i, j in np.ndindex(*result.shape[:2]):
        result[i, j] = conv(joined, params['stride'], 2 * i, 2 * j, 1)
    return np.where(result > 0, result, 0.2 * result)


def test_a_block_is_its_loop_over_pixels():
    net = block(2)
    x = uniform(1, 9, 12, 3)
    variables = kernels_like(net, x, low=-1.0)
    got = jax.jit(net.apply)(variables, x)
    chex.assert_shape(got, (1, 5, 6, 2))
    np.testing.assert_allclose(
        got[0], block_by_hand(variables['params'], x[0]), rtol=1e-4, atol=1e-4
    )


def test_a_feature_sees_the_taps_of_the_dilations_and_11_pixels_of_an_axis():
    net = block(1)
    x = uniform(1, 32, 32, 1, low=0.1)
    # Without negative numbers, no two paths cancel.
    variables = kernels_like(net, x, low=0.1)
    gradient = jax.jit(jax.grad(lambda x: net.apply(variables, x)[0, 7, 9, 0]))(x)

    expected = np.zeros((32, 32), bool)
    for dilation in (1, 2, 4):
        for step in itertools.product((-1, 0, 1), repeat=4):
            row = 2 * 7 + step[0] + dilation * step[1]
            column = 2 * 9 + step[2] + dilation * step[3]
            expected[row, column] = True
    seen = np.asarray(gradient[0, :, :, 0] != 0)
    np.testing.assert_array_equal(seen, expected)
    rows, columns = np.nonzero(seen)
    assert (rows.min(), rows.max()) == (14 - 5, 14 + 5)
    assert (columns.min(), columns.max()) == (18 - 5, 18 + 5)
    # A dilation has the same distance along both axes: no tap is 5 rows and 2 columns away.
    assert not seen[14 + 5, 18 + 2]


@pytest.mark.parametrize('stride, blocks', [(1, []), (2, [64]), (8, [64, 128, 256])])
def test_parameters_by_hand(stride, blocks):
    _, variables = shapes_at(encoder(stride, layout_features=64), 1, 32, 32, 20)
    count = 0
    channels = 20
    for features in blocks:
        count += 3 * (9 * channels * features + features)
        count += 9 * 3 * features * features + features
        channels = features
    assert size(variables) == count


def test_channels_double_up_to_eight_times_as_many():
    net = encoder(16, layout_features=4)
    outputs, variables = shapes_at(net, 1, 64, 64, K)
    chex.assert_shape(outputs, (1, 4, 4, 32))
    features = [x['stride']['bias'].size for x in variables['params'].values()]
    assert features == [4, 8, 16, 32]


def test_the_code_of_a_class_does_not_depend_on_distant_regions():
    # The left half is one class. The right half, out of sight of the first columns, is another.
    label = np.zeros((2, 32, 160), int)
    label[0, :, 80:] = 1
    label[1, :, 80:] = 2
    x = np.eye(K, dtype=np.float32)[label]
    differences = {}
    for norm in ('none', 'instance'):
        net = encoder(8, layout_norm=norm)
        variables = jax.jit(net.init)(jax.random.key(0), x)
        encoded = np.asarray(jax.jit(net.apply)(variables, x))
        differences[norm] = np.abs(encoded[0, :, :4] - encoded[1, :, :4]).max()
    assert differences['none'] == 0
    assert differences['instance'] > 0.1


def test_unknown_norms_are_refused():
    with pytest.raises(InputError, match='instance'):
        shapes_at(encoder(2, layout_norm='instanc'), 1, 32, 32, K)


# --- shrinking ------------------------------------------------------------------------------------


@pytest.mark.parametrize('stride, side', [(2, (8, 6)), (4, (9, 14)), (8, (17, 8))])
def test_the_average_is_over_the_pixels_around_a_feature(stride, side):
    x = uniform(2, *side, 3)
    got = layout.shrink_layout(x, stride, 'average')
    reach = stride // 2
    for i, j in np.ndindex(*layout.encoded_size(*side, stride)):
        top, left = (max(0, stride * k - reach) for k in (i, j))
        window = x[:, top : stride * i + reach + 1, left : stride * j + reach + 1]
        np.testing.assert_allclose(got[:, i, j], window.mean((1, 2)), rtol=1e-4, atol=1e-6)


def test_a_one_hot_layout_becomes_shares_or_stays_one_hot():
    label = np.random.default_rng(0).integers(0, K, (2, 13, 10))
    one_hot = np.eye(K, dtype=np.float32)[label]
    shares = layout.shrink_layout(one_hot, 4, 'average')
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
    nearest = layout.shrink_layout(one_hot, 4, 'nearest')
    np.testing.assert_array_equal(nearest.argmax(-1), label[:, ::4, ::4])
    assert set(np.unique(nearest)) == {0, 1}
    np.testing.assert_array_equal(layout.shrink_layout(one_hot, 1), one_hot)


# --- initialisation -------------------------------------------------------------------------------


def test_a_layout_keeps_its_scale_at_the_start_of_a_training():
    net = encoder(8, layout_features=32)
    label = np.random.default_rng(0).integers(0, K, (1, 4, 4)).repeat(8, 1).repeat(8, 2)
    x = np.eye(K, dtype=np.float32)[label]
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    variables = jax.jit(lambda key: net.lazy_init(key, shape))(jax.random.key(0))
    for layer in jax.tree.leaves(
        variables['params'], is_leaf=lambda x: isinstance(x, dict) and 'kernel' in x
    ):
        kernel = np.asarray(layer['kernel'])
        std = np.sqrt(2 / np.prod(kernel.shape[:-1]))
        assert abs(kernel.std() / std - 1) < 5 / np.sqrt(2 * kernel.size)
        assert not layer['bias'].any()
    encoded = jax.jit(net.apply)(variables, x)
    assert 0.3 < float(encoded.std()) < 3
