"""Convolutions against loops from their definitions, and gradients against finite differences."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import ndimage

from segjax.errors import InputError
from segjax.ops import conv

FACTORISED = [((3, 1), 1), ((1, 3), 1), ((3, 1), 2), ((1, 3), 4), ((3, 1), 9), ((1, 5), 2)]
WIDE = 32  # channels from which the fast form has its own weight gradient


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def conv2d_loop(x, kernel, strides, dilation, padding=None):
    kh, kw, _, features = kernel.shape
    b, h, w, _ = x.shape
    ph, pw = (dilation * (kh // 2), dilation * (kw // 2)) if padding is None else (padding, padding)
    padded = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    rows = range(
        0, h + 2 * ph - dilation * (kh - 1), strides
    )  # where the kernel's first tap may stand
    columns = range(0, w + 2 * pw - dilation * (kw - 1), strides)
    out = np.zeros((b, len(rows), len(columns), features))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            for r in range(kh):
                for s in range(kw):
                    pixel = padded[:, row + r * dilation, column + s * dilation]
                    out[:, i, j] += pixel @ kernel[r, s]
    return out


def conv_transpose_loop(x, kernel, padding, output_padding):
    """Computes torch.nn.ConvTranspose2d of stride 2: out[2 i - padding + k] += x[i] kernel[k]."""
    b, h, w, _ = x.shape
    k, _, _, features = kernel.shape
    size_h, size_w = ((n - 1) * 2 - 2 * padding + k + output_padding for n in (h, w))
    out = np.zeros((b, size_h, size_w, features))
    for i in range(h):
        for j in range(w):
            for r in range(k):
                for s in range(k):
                    y = 2 * i - padding + r
                    z = 2 * j - padding + s
                    if 0 <= y < size_h and 0 <= z < size_w:
                        out[:, y, z] += x[:, i, j] @ kernel[r, s]
    return out


@pytest.mark.parametrize('kernel_size', [(3, 3), (1, 1), (3, 1), (1, 5)])
@pytest.mark.parametrize('strides, dilation', [(1, 1), (2, 1), (1, 2)])
def test_conv2d_is_the_loop(kernel_size, strides, dilation):
    x = normal(0, 2, 6, 9, 3)
    kernel = normal(1, *kernel_size, 3, 4)
    np.testing.assert_allclose(
        conv.conv2d(x, kernel, strides, dilation),
        conv2d_loop(x, kernel, strides, dilation),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    'kernel_size, strides, dilation, padding', [(4, 2, 1, 1), (4, 1, 1, 1), (3, 1, 2, 0)]
)
def test_conv2d_with_padding_of_its_own_is_the_loop(kernel_size, strides, dilation, padding):
    x = normal(0, 2, 6, 9, 3)
    kernel = normal(1, kernel_size, kernel_size, 3, 4)
    y = conv.conv2d(x, kernel, strides, dilation, padding)
    rows, columns = (
        (n + 2 * padding - dilation * (kernel_size - 1) - 1) // strides + 1 for n in (6, 9)
    )
    chex.assert_shape(y, (2, rows, columns, 4))
    np.testing.assert_allclose(y, conv2d_loop(x, kernel, strides, dilation, padding), atol=1e-5)


@pytest.mark.parametrize('taps', [(3, 3), (5, 1), (4, 2)])
@pytest.mark.parametrize('strides, dilation', [(1, 1), (2, 1), (3, 1), (2, 2)])
def test_same_padding_is_tensorflows(taps, strides, dilation):
    x = normal(0, 1, 6, 9, 2)
    kernel = normal(1, *taps, 2, 3)
    y = conv.conv2d(x, kernel, strides, dilation, 'same')
    expected = jax.lax.conv_general_dilated(  # XLA took TensorFlow's
        x,
        kernel,
        (strides,) * 2,
        'SAME',
        rhs_dilation=(dilation,) * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    chex.assert_shape(y, (1, -(-6 // strides), -(-9 // strides), 3))
    np.testing.assert_array_equal(y, expected)


def test_same_padding_has_less_in_front_of_an_even_axis():
    assert conv.sides((6, 9), (3, 3), 2, (1, 1), 'same') == ((0, 1), (1, 1))
    assert conv.sides((6, 9), (5, 5), 2, (1, 1), 'same') == ((1, 2), (2, 2))
    assert conv.sides((6, 9), (3, 3), 2, (1, 1), None) == ((1, 1), (1, 1))
    with pytest.raises(InputError, match="None or 'same'"):
        conv.sides((6, 9), (3, 3), 2, (1, 1), 'SAME')


def test_negative_padding_is_refused():
    with pytest.raises(InputError, match='got:      -1'):
        conv.sides((6, 9), (3, 3), 1, (1, 1), -1)


def test_conv2d_pads_as_scipy_does():
    x = normal(0, 1, 8, 7, 1)
    kernel = normal(1, 3, 3, 1, 1)
    expected = ndimage.correlate(x[0, :, :, 0], kernel[:, :, 0, 0], mode='constant')
    np.testing.assert_allclose(conv.conv2d(x, kernel)[0, :, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize('kernel_size, dilation', FACTORISED)
@pytest.mark.parametrize('channels', [5, WIDE])
def test_factorised_forms_agree_in_outputs_and_gradients(kernel_size, dilation, channels):
    x = normal(0, 2, 7, 9, channels)
    kernel = normal(1, *kernel_size, channels, 6)
    dy = normal(2, 2, 7, 9, 6)

    def run(forms):
        y, vjp = jax.vjp(
            lambda x, kernel: conv.conv_factorised(x, kernel, dilation, forms), x, kernel
        )
        return y, *vjp(dy)

    fast = jax.jit(run, static_argnums=0)('fast')
    naive = jax.jit(run, static_argnums=0)('naive')
    np.testing.assert_allclose(fast[0], conv2d_loop(x, kernel, 1, dilation), atol=1e-4)
    chex.assert_trees_all_close(fast, naive, rtol=1e-7, atol=1e-4)


@pytest.mark.parametrize('kernel_size, dilation', [((3, 1), 1), ((1, 3), 2), ((3, 1), 7)])
def test_factorised_gradient_against_finite_differences(kernel_size, dilation):
    x = 0.3 * normal(0, 1, 5, 6, WIDE)
    kernel = 0.3 * normal(1, *kernel_size, WIDE, 2)

    def square(x, kernel):  # not linear, so that a second derivative exists to be wrong
        return (conv.conv_factorised(x, kernel, dilation) ** 2).mean()

    check_grads(
        jax.jit(square), (x, kernel), order=2, modes=['rev'], atol=2e-2, rtol=2e-2, eps=1e-2
    )


def test_second_order_gradients_of_the_forms_agree():
    x = normal(0, 1, 5, 6, WIDE)
    kernel = normal(1, 3, 1, WIDE, 2)

    def penalty(
        kernel, forms
    ):  # as in a gradient penalty: the norm of an input gradient, differentiated by weights
        gradient = jax.grad(lambda x: jnp.tanh(conv.conv_factorised(x, kernel, 2, forms)).sum())(x)
        return (gradient**2).sum()

    fast, naive = (
        jax.jit(jax.grad(penalty), static_argnums=1)(kernel, forms) for forms in conv.FORMS
    )
    assert np.abs(naive).max() > 0.1
    np.testing.assert_allclose(fast, naive, rtol=1e-4, atol=1e-4)


def test_forward_mode_of_the_fast_form_raises_instead_of_being_wrong():
    x = normal(0, 1, 5, 6, WIDE)
    kernel = normal(1, 3, 1, WIDE, 2)
    with pytest.raises(TypeError, match='forward-mode'):
        jax.jvp(lambda k: conv.conv_factorised(x, k), (kernel,), (kernel,))


def test_factorised_gradient_under_vmap_is_that_of_each_example():
    x = normal(0, 3, 5, 6, WIDE)
    kernel = normal(1, 3, 3, 1, WIDE, 2)

    @jax.jit
    def gradient(x, kernel):
        return jax.grad(lambda x, k: jnp.sin(conv.conv_factorised(x[None], k, 2)).sum(), (0, 1))(
            x, kernel
        )

    together = jax.vmap(gradient)(x, kernel)
    for i in range(3):
        alone = gradient(x[i], kernel[i])
        of_example = jax.tree.map(lambda a: a[i], together)  # noqa: B023
        chex.assert_trees_all_close(of_example, alone, rtol=1e-7, atol=1e-4)


@pytest.mark.devices(8)
def test_factorised_gradient_on_eight_devices_sums_to_the_full_batch():
    x = normal(0, 8, 5, 6, WIDE)
    kernel = normal(1, 1, 3, WIDE, 2)

    def gradient(x, kernel):
        return jax.grad(lambda k: jnp.sin(conv.conv_factorised(x, k, 2)).sum())(kernel)

    parts = jax.pmap(gradient, in_axes=(0, None), devices=jax.devices()[:8])(x[:, None], kernel)
    np.testing.assert_allclose(parts.sum(0), gradient(x, kernel), atol=1e-3)


def test_a_gpu_gets_xlas_own_gradient_of_a_factorised_convolution():
    x = jax.ShapeDtypeStruct((1, 8, 8, 64), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 1, 64, 64), jnp.float32)
    run = jax.jit(jax.grad(lambda x, k: conv.conv_factorised(x, k).sum(), (0, 1)))
    programs = {
        p: run.trace(x, kernel).lower(lowering_platforms=(p,)).as_text()
        for p in ('cpu', 'cuda', 'tpu')
    }
    assert {p: text.count('stablehlo.dot_general') for p, text in programs.items()} == {
        'cpu': 3,
        'cuda': 0,
        'tpu': 0,
    }
    assert {p: text.count('stablehlo.convolution') for p, text in programs.items()} == {
        'cpu': 1,
        'cuda': 2,
        'tpu': 2,
    }


def test_bfloat16_sums_the_weight_gradient_in_float32():
    pixels = 64 * 64
    x = jnp.ones((1, 64, 64, WIDE), jnp.bfloat16)
    kernel = jnp.zeros((3, 1, WIDE, 1), jnp.float32)
    y, vjp = jax.vjp(conv.conv_factorised, x, kernel)
    dx, dkernel = vjp(jnp.ones_like(y))
    chex.assert_type([y, dx, dkernel], [jnp.bfloat16, jnp.bfloat16, jnp.float32])
    # The sums 4032, 4096, 4032 are exact in float32. Between 4032 and 4096 bfloat16 has only the
    # numbers 4064 and 4080.
    np.testing.assert_array_equal(dkernel[:, 0, 0, 0], [pixels - 64, pixels, pixels - 64])


WIDE_4X4 = 64  # channels in and out from which the fast form of 4x4 has its own weight gradient


@pytest.mark.parametrize('strides', [1, 2])
@pytest.mark.parametrize('size', [(6, 8), (7, 9)])
def test_4x4_forms_agree_in_outputs_and_gradients(strides, size):
    x = normal(0, 2, *size, WIDE_4X4)
    kernel = normal(1, 4, 4, WIDE_4X4, WIDE_4X4)
    expected = conv2d_loop(x, kernel, strides, 1, 1)
    dy = normal(2, *expected.shape)

    def run(forms):
        y, vjp = jax.vjp(lambda x, kernel: conv.conv_4x4(x, kernel, strides, forms), x, kernel)
        return y, *vjp(dy)

    fast = jax.jit(run, static_argnums=0)('fast')
    naive = jax.jit(run, static_argnums=0)('naive')
    np.testing.assert_allclose(fast[0], expected, atol=1e-3)
    chex.assert_trees_all_close(fast, naive, rtol=1e-7, atol=1e-3)
    assert np.abs(naive[2]).mean() > 1


def test_4x4_of_few_channels_is_the_loop():
    x = normal(0, 2, 6, 9, 3)
    kernel = normal(1, 4, 4, 3, 5)
    for strides in (1, 2):
        expected = conv2d_loop(x, kernel, strides, 1, 1)
        np.testing.assert_allclose(conv.conv_4x4(x, kernel, strides), expected, atol=1e-5)


def test_4x4_second_order_gradients_of_the_forms_agree():
    x = normal(0, 1, 6, 6, WIDE_4X4)
    kernel = normal(1, 4, 4, WIDE_4X4, WIDE_4X4) / 32

    def penalty(
        kernel, forms
    ):  # of the weight gradient, so that the products per tap are differentiated
        gradient = jax.grad(lambda k: jnp.tanh(conv.conv_4x4(x, k, 2, forms)).sum())(kernel)
        return (gradient**2).mean()

    fast, naive = (
        jax.jit(jax.grad(penalty), static_argnums=1)(kernel, forms) for forms in conv.FORMS
    )
    assert np.abs(naive).max() > 1e-4
    np.testing.assert_allclose(fast, naive, rtol=1e-3, atol=1e-6)


@pytest.mark.devices(2)
@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
def test_4x4_gradient_on_devices_sums_to_the_full_batch(mode):
    x = normal(0, 2, 6, 6, WIDE_4X4)
    kernel = normal(1, 4, 4, WIDE_4X4, WIDE_4X4)

    def gradient(x, kernel):
        return jax.grad(lambda k: jnp.sin(conv.conv_4x4(x, k, 2)).sum())(kernel)

    if mode == 'pmap':
        parts = jax.pmap(gradient, in_axes=(0, None), devices=jax.devices()[:2])(x[:, None], kernel)
    else:
        mesh = jax.make_mesh(
            (2,), ('device',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
        )
        spec = jax.sharding.PartitionSpec('device')

        def varying(x, kernel):
            return gradient(x, jax.lax.pcast(kernel, 'device', to='varying'))[None]

        mapped = jax.shard_map(
            varying, mesh=mesh, in_specs=(spec, jax.sharding.PartitionSpec()), out_specs=spec
        )
        parts = jax.jit(mapped)(x, kernel)
    np.testing.assert_allclose(parts.sum(0), gradient(x, kernel), atol=1e-3)


def test_4x4_bfloat16_sums_the_weight_gradient_in_float32():
    x = jnp.ones((1, 65, 65, WIDE_4X4), jnp.bfloat16)
    kernel = jnp.zeros((4, 4, WIDE_4X4, WIDE_4X4), jnp.float32)
    y, vjp = jax.vjp(conv.conv_4x4, x, kernel)
    dx, dkernel = vjp(jnp.ones_like(y))
    chex.assert_type([y, dx, dkernel], [jnp.bfloat16, jnp.bfloat16, jnp.float32])
    # The outer taps read 63 of the 64 rows or columns of the output. bfloat16 has no 3969 = 63 63.
    rows = np.array([63, 64, 64, 63])
    np.testing.assert_array_equal(dkernel[:, :, 0, 0], np.outer(rows, rows))


TRANSPOSED = [(2, 0), (3, 0), (3, 1), (4, 1), (5, 1), (7, 0), (7, 2)]  # side of the kernel, padding


@pytest.mark.parametrize('forms', conv.FORMS)
@pytest.mark.parametrize('k, padding', TRANSPOSED)
def test_conv_transpose_is_the_loop(k, padding, forms):
    x = normal(0, 2, 4, 5, 3)
    kernel = normal(1, k, k, 3, 6)
    y = conv.conv_transpose_s2(x, kernel, padding, forms)
    chex.assert_shape(y, (2, 8, 10, 6))
    np.testing.assert_allclose(
        y, conv_transpose_loop(x, kernel, padding, 2 + 2 * padding - k), atol=1e-5
    )


@pytest.mark.parametrize('k, padding', TRANSPOSED)
def test_conv_transpose_forms_have_equal_gradients(k, padding):
    x = normal(0, 2, 4, 5, 3)
    kernel = normal(1, k, k, 3, 6)
    dy = normal(2, 2, 8, 10, 6)

    def gradients(forms):
        return jax.vjp(lambda x, w: conv.conv_transpose_s2(x, w, padding, forms), x, kernel)[1](dy)

    chex.assert_trees_all_close(gradients('fast'), gradients('naive'), rtol=1e-7, atol=1e-4)
    check_grads(
        lambda x, w: conv.conv_transpose_s2(x, w, padding),
        (x, kernel),
        order=1,
        atol=2e-2,
        rtol=2e-2,
    )


def test_fast_conv_transpose_has_no_dilated_convolution_in_its_gradient():
    x = normal(0, 1, 4, 5, 3)
    kernel = normal(1, 3, 3, 3, 2)
    jaxpr = str(
        jax.make_jaxpr(jax.grad(lambda x, w: conv.conv_transpose_s2(x, w, 1).sum(), (0, 1)))(
            x, kernel
        )
    )
    assert 'lhs_dilation=(2, 2)' not in jaxpr and 'rhs_dilation=(2, 2)' not in jaxpr


@pytest.mark.parametrize('forms', conv.FORMS)
@pytest.mark.parametrize('k, padding', [(2, 0), (3, 1)])
def test_conv_transpose_computes_in_the_dtype_of_its_input(k, padding, forms):
    x = jnp.ones((1, 2, 2, 3), jnp.bfloat16)
    kernel = jnp.ones((k, k, 3, 2), jnp.float32)
    chex.assert_type(conv.conv_transpose_s2(x, kernel, padding, forms), jnp.bfloat16)


def test_depth_to_space():
    x = np.arange(2 * 3 * 2 * 12).reshape(2, 3, 2, 12)
    y = conv.depth_to_space(x, 2)
    for i in range(6):
        for j in range(4):
            start = ((i % 2) * 2 + j % 2) * 3
            np.testing.assert_array_equal(y[:, i, j], x[:, i // 2, j // 2, start : start + 3])


def test_space_to_depth_inverts_depth_to_space():
    x = normal(0, 2, 4, 6, 3)
    channels = conv.space_to_depth(x, 2)
    assert channels.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(channels[:, :, :, 6:9], x[:, 1::2, ::2])
    np.testing.assert_array_equal(conv.depth_to_space(channels, 2), x)


KERNELS = {
    conv.conv_factorised: (3, 1),
    conv.conv_4x4: (4, 4),
    functools.partial(conv.conv_transpose_s2, padding=1): (3, 3),
}


@pytest.mark.parametrize('fn, k', KERNELS.items())
def test_unknown_form_is_an_error(fn, k):
    with pytest.raises(InputError, match="did you mean 'fast'"):
        fn(np.ones((1, 4, 4, 3), np.float32), np.ones((*k, 3, 2), np.float32), forms='fats')


# --- convolutions in loops ------------------------------------------------------------------------


@pytest.mark.parametrize('extent', [(3, 3), (1, 1), (5, 3)])
def test_the_gradient_in_a_loop_is_that_of_the_plain_convolution(extent):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 6, 7, 4)).astype(np.float32)
    kernel = rng.normal(size=(*extent, 4, 5)).astype(np.float32)
    weight = rng.normal(size=(3, 2, 6, 7, 5)).astype(np.float32)

    def of_loop(x, kernel):
        def add(total, row):
            return total + (conv.conv_in_loop(row[0], kernel) * row[1]).sum(), None

        return jax.lax.scan(add, 0.0, (x, weight))[0]

    def of_batch(x, kernel):
        flat = x.reshape(6, *x.shape[2:])
        y = conv.conv_in_loop(flat, kernel, forms='naive')
        return (y * weight.reshape(y.shape)).sum()

    ours = jax.jit(jax.value_and_grad(of_loop, (0, 1)))(x, kernel)
    expected = jax.jit(jax.value_and_grad(of_batch, (0, 1)))(x, kernel)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_gradient_in_a_loop_keeps_the_dtypes():
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 2, 2))

    def loss(x, kernel):
        return conv.conv_in_loop(x, kernel).astype(jnp.float32).sum()

    dx, dkernel = jax.grad(loss, (0, 1))(x, kernel)
    assert dx.dtype == jnp.bfloat16 and dkernel.dtype == jnp.float32
    assert dkernel[1, 1, 0, 0] == 16
    with pytest.raises(InputError, match="did you mean 'naive'"):
        conv.conv_in_loop(x, kernel, forms='naiv')
