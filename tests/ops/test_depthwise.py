"""Depthwise convolution: the loop of its formula, both forms, their gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.ops.conv import FORMS
from segjax.ops.depthwise import depthwise_conv

# Side of the kernel, strides, dilation, padding.
CASES = [
    (3, 1, (1, 1), None),
    (3, 2, (1, 1), None),
    (3, 1, (2, 2), None),
    (3, 1, (1, 6), None),
    (3, 2, (3, 2), None),
]
CASES += [(3, 1, (9, 12), None), (5, 1, (1, 1), None), (5, 2, (1, 1), None), (3, 2, (1, 1), 'same')]
CASES += [(5, 2, (1, 1), 'same'), (5, 2, (2, 1), 'same'), (3, 2, (1, 1), 0)]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def loop(x, kernel, strides, dilation, padding):
    b, *size, c = x.shape
    k = len(kernel)
    spans = [d * (k - 1) for d in dilation]
    outputs = [-(-n // strides) for n in size]
    if padding is None:
        top, left = (span // 2 for span in spans)
    elif padding == 'same':  # the smaller half of what the last window lacks
        top, left = (
            (strides * (o - 1) + span + 1 - n) // 2 for o, span, n in zip(outputs, spans, size)
        )
    else:
        outputs = [(n - 1 - span) // strides + 1 for n, span in zip(size, spans)]
        top = 0
        left = 0
    y = np.zeros((b, *outputs, c))
    h, w = size
    for i, j, r, s in np.ndindex(*outputs, k, k):
        row = strides * i + dilation[0] * r - top
        column = strides * j + dilation[1] * s - left
        if 0 <= row < h and 0 <= column < w:
            y[:, i, j] += x[:, row, column] * kernel[r, s, 0]
    return y


@pytest.mark.parametrize('size, strides, dilation, padding', CASES)
@pytest.mark.parametrize('forms', FORMS)
def test_it_is_the_loop(size, strides, dilation, padding, forms):
    x = normal(0, 2, 8, 9, 3)
    kernel = normal(1, size, size, 1, 3)
    y = depthwise_conv(x, kernel, strides, dilation, forms, padding)
    expected = loop(x, kernel, strides, dilation, padding)
    chex.assert_equal_shape([y, expected])
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize('shape', [(3, 3, 1, 1), (3, 3, 3, 1), (3, 3, 1, 6)])
@pytest.mark.parametrize('forms', FORMS)
def test_a_kernel_of_other_channels_is_refused(shape, forms):
    with pytest.raises(InputError, match=r'\[kh, kw, 1, 3\]'):
        depthwise_conv(jnp.zeros((2, 8, 9, 3)), jnp.zeros(shape), forms=forms)


@pytest.mark.parametrize('size, strides, dilation, padding', CASES)
@pytest.mark.parametrize('forms', FORMS)
def test_gradients_are_the_adjoint_of_the_loop(size, strides, dilation, padding, forms):
    # The map is linear in either input. For any direction <dy, f(x, dk)> = <dk, gradient of k>, and
    # the same holds for x.
    x = normal(0, 2, 8, 9, 3)
    kernel = normal(1, size, size, 1, 3)
    y, vjp = jax.vjp(
        lambda x, k: depthwise_conv(x, k, strides, dilation, forms, padding), x, kernel
    )
    dy = normal(2, *y.shape)
    dx, dk = vjp(dy)
    for seed in range(3, 6):
        x_direction = normal(seed, *x.shape)
        k_direction = normal(seed, *kernel.shape)
        by_x, by_k = (
            loop(*pair, strides, dilation, padding)
            for pair in ((x_direction, kernel), (x, k_direction))
        )
        np.testing.assert_allclose((dx * x_direction).sum(), (by_x * dy).sum(), atol=1e-3)
        np.testing.assert_allclose((dk * k_direction).sum(), (by_k * dy).sum(), atol=1e-3)


def test_second_order_gradients_of_the_forms_agree():
    x = normal(0, 1, 5, 6, 2)
    kernel = normal(1, 3, 3, 1, 2)

    def penalty(kernel, forms):  # the norm of an input gradient, differentiated by weights
        gradient = jax.grad(lambda x: jnp.tanh(depthwise_conv(x, kernel, 1, (2, 1), forms)).sum())(
            x
        )
        return (gradient**2).sum()

    fast, naive = (jax.jit(jax.grad(penalty), static_argnums=1)(kernel, forms) for forms in FORMS)
    assert np.abs(naive).max() > 0.1
    np.testing.assert_allclose(fast, naive, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_summed_in_float32_and_the_kernels_gradient_is_float32():
    x = normal(0, 1, 6, 6, 4).astype(jnp.bfloat16)
    kernel = normal(1, 3, 3, 1, 4)
    y, vjp = jax.vjp(lambda x, k: depthwise_conv(x, k), x, kernel)
    dx, dk = vjp(jnp.ones_like(y))
    chex.assert_type([y, dx, dk], [jnp.bfloat16, jnp.bfloat16, jnp.float32])
    expected = loop(
        x.astype(np.float32), kernel.astype(jnp.bfloat16).astype(np.float32), 1, (1, 1), None
    )
    np.testing.assert_array_equal(
        y.astype(np.float32), expected.astype(jnp.bfloat16).astype(np.float32)
    )


def test_a_gpu_gets_the_grouped_convolution():
    x = jax.ShapeDtypeStruct((1, 8, 8, 16), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 1, 16), jnp.float32)
    run = jax.jit(jax.grad(lambda x, k: depthwise_conv(x, k).sum(), (0, 1)))
    grouped = {
        platform: run.trace(x, kernel)
        .lower(lowering_platforms=(platform,))
        .as_text()
        .count('stablehlo.convolution')
        for platform in ('cpu', 'cuda')
    }
    assert grouped['cpu'] == 0 and grouped['cuda'] >= 2


@pytest.mark.parametrize('forms', FORMS)
def test_an_image_smaller_than_the_kernel_has_gradients_of_zero(forms):
    x = normal(0, 1, 2, 4, 3)
    kernel = normal(1, 3, 3, 1, 3)

    def total(x, kernel):
        return depthwise_conv(x, kernel, forms=forms, padding=0).sum()

    dx, dk = jax.grad(total, (0, 1))(x, kernel)
    np.testing.assert_array_equal(dx, np.zeros_like(x))
    np.testing.assert_array_equal(dk, np.zeros_like(kernel))


def test_unknown_forms_are_answered():
    with pytest.raises(InputError, match="did you mean 'naive'"):
        depthwise_conv(normal(0, 1, 4, 4, 1), normal(1, 3, 3, 1, 1), forms='naiv')
