"""Layers against their formulas in NumPy."""

import functools

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers import Conv, ConvNorm, DepthwiseConv, GatedConv, batch_norm, scaled


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_parameters_of_another_shape_are_refused():
    """Tests replace the check of flax by a faster one, which leaves every refusal to flax."""
    x = normal(0, 1, 4, 4, 3)
    given = Conv(2, (3, 3)).init(jax.random.key(0), x)
    assert Conv(2, (3, 3)).apply(given, x).shape == (1, 4, 4, 2)
    for other in (Conv(5, (3, 3)), Conv(2, (1, 1)), Conv(2, (3, 1))):
        with pytest.raises(flax.errors.ScopeParamShapeError, match='kernel'):
            other.apply(given, x)
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match='kernel'):
        Conv(2, (3, 3)).apply({'params': {'bias': given['params']['bias']}}, x)


def batch_norm_by_hand(x, mean, var, scale, bias, epsilon):
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias


NORM = {
    'params': {'scale': normal(1, 3), 'bias': normal(2, 3)},
    'batch_stats': {'mean': normal(3, 3), 'var': normal(4, 3) ** 2 + 0.5},
}


def test_batch_norm_in_training_is_that_of_the_batch_and_moves_the_running_statistics():
    x = 3 + 2 * normal(0, 4, 5, 6, 3)
    params = NORM['params']
    old = NORM['batch_stats']
    layer = batch_norm(True, decay=0.7, epsilon=0.1)()
    y, updates = layer.apply(NORM, x, mutable=['batch_stats'])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(
        y, batch_norm_by_hand(x, mean, var, **params, epsilon=0.1), atol=1e-5
    )
    new = updates['batch_stats']
    np.testing.assert_allclose(new['mean'], 0.7 * old['mean'] + 0.3 * mean, atol=1e-5)
    np.testing.assert_allclose(new['var'], 0.7 * old['var'] + 0.3 * var, atol=1e-5)


@pytest.mark.parametrize('mean, std', [(300, 0.1), (100, 0.1), (0, 1)])
def test_batch_norm_survives_a_mean_far_from_zero(mean, std):
    x = (mean + std * normal(0, 4, 16, 32, 3)).astype(np.float32)
    exact = x.astype(np.float64)
    means, variances = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    y, updates = batch_norm(True, decay=0.0)().apply(NORM, x, mutable=['batch_stats'])
    np.testing.assert_allclose(updates['batch_stats']['var'], variances, rtol=1e-3)
    expected = batch_norm_by_hand(exact, means, variances, **NORM['params'], epsilon=1e-5)
    np.testing.assert_allclose(y, expected, atol=2e-3)


@pytest.mark.parametrize('train, frozen', [(False, False), (True, True)])
def test_batch_norm_in_evaluation_or_frozen_uses_the_running_statistics(train, frozen):
    x = 3 + 2 * normal(0, 4, 5, 6, 3)
    old = NORM['batch_stats']
    y, updates = batch_norm(train, frozen=frozen)().apply(NORM, x, mutable=['batch_stats'])
    np.testing.assert_allclose(
        y, batch_norm_by_hand(x, **old, **NORM['params'], epsilon=1e-5), atol=1e-5
    )
    chex.assert_trees_all_equal(dict(updates['batch_stats']), old)


@pytest.mark.parametrize('size', [3, 5])
def test_depthwise_convolution_has_torchs_start(size):
    params = DepthwiseConv(size=size).init(jax.random.key(0), jnp.zeros((1, 4, 4, 200)))['params']
    chex.assert_shape(params['kernel'], (size, size, 1, 200))
    assert 0.9 / size < np.abs(params['kernel']).max() <= 1 / size
    np.testing.assert_allclose(params['kernel'].std(), 1 / size / np.sqrt(3), rtol=0.05)


def test_layers_hand_on_their_padding():
    x = jnp.ones((1, 4, 4, 1))
    variables = {'params': {'kernel': np.ones((3, 3, 1, 1))}}

    def sums(layer):
        # Sums of 3x3 pixels are smaller where zeros are padded.
        return layer.apply(variables, x)[0, :, :, 0]

    same = [[9, 6], [6, 4]]
    symmetric = [[4, 6], [6, 9]]
    for padding, expected in (('same', same), (None, symmetric)):
        conv = Conv(1, (3, 3), strides=2, use_bias=False, padding=padding)
        np.testing.assert_array_equal(sums(conv), expected)
        np.testing.assert_array_equal(sums(DepthwiseConv(strides=2, padding=padding)), expected)


@pytest.mark.parametrize('padding, size', [(None, (6, 7)), (0, (4, 5)), (3, (10, 11))])
def test_padding_of_a_convolution(padding, size):
    x, kernel = normal(0, 1, 6, 7, 2), normal(1, 3, 3, 2, 4)
    y = Conv(4, (3, 3), use_bias=False, padding=padding).apply({'params': {'kernel': kernel}}, x)
    p = 1 if padding is None else padding
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    expected = np.zeros((1, *size, 4))
    for i, j, r, s in np.ndindex(*size, 3, 3):
        expected[:, i, j] += padded[:, i + r, j + s] @ kernel[r, s]
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize('relu', [True, False])
def test_conv_norm_is_one_after_the_other(relu):
    x, kernel = normal(0, 2, 6, 5, 2), normal(1, 1, 1, 2, 3)
    layer = ConvNorm(3, (1, 1), Conv, batch_norm(False), strides=2, relu=relu)
    params = {'conv': {'kernel': kernel}, 'bn': NORM['params']}
    y = layer.apply({'params': params, 'batch_stats': {'bn': NORM['batch_stats']}}, x)
    expected = batch_norm_by_hand(
        x[:, ::2, ::2] @ kernel[0, 0], **NORM['batch_stats'], **NORM['params'], epsilon=1e-5
    )
    np.testing.assert_allclose(y, np.maximum(expected, 0) if relu else expected, atol=1e-5)


def test_bfloat16_activations_of_float32_parameters():
    x = jnp.zeros((1, 4, 4, 3))
    for layer in (DepthwiseConv(dtype=jnp.bfloat16), batch_norm(False, dtype=jnp.bfloat16)()):
        y, variables = layer.init_with_output(jax.random.key(0), x)
        assert y.dtype == jnp.bfloat16
        assert {v.dtype for v in jax.tree.leaves(variables)} == {np.dtype('float32')}


def test_channels_never_vanish():
    assert [scaled(n, w) for n, w in ((64, 1.0), (64, 0.125), (3, 0.1))] == [64, 8, 1]


def test_factories_take_what_nets_fix_beforehand():
    # A backbone may set another epsilon.
    norm = functools.partial(batch_norm(False), epsilon=1e-3)
    assert norm(name='bn').epsilon == 1e-3


# --- gated convolution ----------------------------------------------------------------------------


def gated_by_hand(x, kernel, bias, strides, before):
    """Computes a gated convolution in NumPy; `before` zeros are in front of rows and columns."""
    rows, columns = (-(-n // strides) for n in x.shape[1:3])
    kh, kw = kernel.shape[:2]
    padded = np.pad(x, ((0, 0), (before, 9), (before, 9), (0, 0)))
    y = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i, j in np.ndindex(rows, columns):
        patch = padded[:, strides * i : strides * i + kh, strides * j : strides * j + kw]
        y[:, i, j] = np.tensordot(patch, kernel, 3) + bias
    half = kernel.shape[-1] // 2
    feature = y[..., :half]
    gate = 1 / (1 + np.exp(-y[..., half:]))
    return np.where(feature > 0, feature, np.expm1(np.minimum(feature, 0))) * gate


@pytest.mark.parametrize('strides, padding, before', [(1, 'same', 1), (2, 'same', 0), (2, None, 1)])
def test_a_gated_convolution_is_elu_of_one_half_times_sigmoid_of_the_other(
    strides, padding, before
):
    x = 2 * normal(0, 2, 6, 8, 2)
    params = {'kernel': normal(1, 3, 3, 2, 10), 'bias': normal(2, 10)}
    layer = GatedConv(5, (3, 3), strides, padding=padding)
    y = layer.apply({'params': params}, x)
    expected = gated_by_hand(x, params['kernel'], params['bias'], strides, before)
    assert (expected < 0).any() and (expected > 0).any()
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_a_gated_convolution_has_both_halves_in_one_kernel_and_finite_gradients():
    layer = GatedConv(5, (3, 3))
    x = np.zeros((1, 4, 4, 2), np.float32)
    variables = layer.init(jax.random.key(0), x)
    chex.assert_shape(variables['params']['kernel'], (3, 3, 2, 10))
    chex.assert_shape(variables['params']['bias'], (10,))

    def total(variables, value):
        return layer.apply(variables, x + value).sum()

    # Large inputs saturate both functions, and are where exp overflows.
    for value in (0, 1, 1e4):
        chex.assert_tree_all_finite(jax.grad(total)(variables, value))


def test_a_gated_convolution_in_bfloat16_keeps_its_parameters_in_float32():
    layer = GatedConv(5, (3, 3), dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), np.ones((1, 4, 4, 2), np.float32))
    assert y.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype('float32')}
