"""Convolutions over [B, H, W, C] whose gradients are fast on a CPU as well.

Kernels are [kh, kw, in, out] and are cast to the dtype of the input; the weight gradient comes back in the kernel's own
dtype. Every map exists in two forms that agree to rounding: 'fast', and 'naive', which is what one writes first and the
reference of the tests. A form is chosen where the map is used (an attribute of the module), never globally.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError, unknown_name

FORMS = ('fast', 'naive')
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')

# Below this many input channels the per-tap matrix products are too thin. Measured on a CPU with jaxlib 0.10 against
# XLA's own weight gradient: 3x1 is 2 times faster with 64 channels and 3.6 times with 128. 1x3 is 1.5 times faster with
# 128 channels and 0.9 times as fast with 64. 16 channels are slower.
_MIN_CHANNELS_FOR_TAPS = 32
# The same for 4x4, of both inputs and outputs: 1.4 to 3.4 times faster from 64 to 128 up to 256 to 512 channels, slower
# with 32.
_MIN_CHANNELS_FOR_TAPS_4X4 = 64


def conv2d(x, kernel, strides: int = 1, dilation: int = 1, padding: int | str | None = None):
    """Cross-correlation with the same zero padding on both sides of each axis, as torch pads, or with TensorFlow's.

    Args:
      x: [B, H, W, I].
      kernel: [kh, kw, I, O]; kh and kw odd unless `padding` is given.
      strides: of both axes.
      dilation: of both axes; along an axis of extent 1 it has no effect.
      padding: pixels on every side, None or 'same', see `sides`.

    Returns:
      [B, h, w, O] in the dtype of x, with h = floor((H + 2 padding - d (kh - 1) - 1) / strides) + 1 and w alike;
      ceil(H / strides) where `padding` is no number.
    """
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (strides, strides),
        sides(x.shape[1:3], kernel.shape[:2], strides, (dilation, dilation), padding),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_DIMENSIONS,
    )


def sides(
    size: tuple[int, int],
    taps: tuple[int, int],
    strides: int,
    dilation: tuple[int, int],
    padding: int | str | None,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels of zeros (before the first, after the last) of either axis of an image.

    Args:
      size: (H, W) of the image.
      taps: (kh, kw) of the kernel.
      strides: of both axes.
      dilation: (rows, columns).
      padding: that number on every side; None: d (k - 1) / 2, torch's usual choice, k odd; 'same': TensorFlow's, as few
        as ceil(H / strides) outputs need, an odd one after the last pixel. At stride 1 both keep the size and agree; at
        stride 2 an even axis has one zero less in front with 'same'.

    Raises:
      InputError: another padding.
    """
    spans = [d * (k - 1) for k, d in zip(taps, dilation, strict=True)]
    if padding is None:
        before = after = [span // 2 for span in spans]
    elif padding == 'same':
        total = [
            max((-(-n // strides) - 1) * strides + 1 + span - n, 0)
            for n, span in zip(size, spans, strict=True)
        ]
        before, after = [n // 2 for n in total], [n - n // 2 for n in total]
    elif isinstance(padding, int):
        before = after = [padding, padding]
    else:
        raise InputError(
            'padding', got=repr(padding), expected="a number of pixels, None or 'same'"
        )
    return (before[0], after[0]), (before[1], after[1])


def conv_factorised(x, kernel, dilation: int = 1, forms: str = 'fast'):
    """3x1 or 1x3 convolution (any odd extent along one axis) of stride 1 that keeps the size.

    The fast form has its own weight gradient on a CPU: one matrix product per tap over the pixels that the tap sees. On
    other devices the gradient is XLA's own. It can be differentiated again in reverse mode; forward mode (`jax.jvp`)
    raises.

    Args:
      x: [B, H, W, I].
      kernel: [k, 1, I, O] or [1, k, I, O], k odd.
      dilation: distance of the taps in pixels.
      forms: 'fast' or 'naive'.

    Returns:
      [B, H, W, O] in the dtype of x.
    """
    _check(forms)
    if forms == 'fast' and x.shape[-1] >= _MIN_CHANNELS_FOR_TAPS:
        return _conv_with_tap_gradient(x, kernel, dilation)
    return conv2d(x, kernel, dilation=dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_with_tap_gradient(x, kernel, dilation):
    return conv2d(x, kernel, dilation=dilation)


def _conv_forward(x, kernel, dilation):
    return conv2d(x, kernel, dilation=dilation), (x, kernel)


def _conv_backward(dilation, residuals, dy):
    x, kernel = residuals

    def by_taps(x, dy):
        return _tap_gradient(x, dy, kernel.shape, dilation).astype(kernel.dtype)

    def by_xla(x, dy):
        return jax.vjp(lambda k: conv2d(x, k, dilation=dilation), kernel)[1](dy)[0]

    # The adjoint of a correlation at stride 1: correlate with the mirrored kernel, inputs and outputs exchanged.
    dx = conv2d(dy, kernel[::-1, ::-1].swapaxes(2, 3), dilation=dilation)
    return dx, lax.platform_dependent(x, dy, cpu=by_taps, default=by_xla)


_conv_with_tap_gradient.defvjp(_conv_forward, _conv_backward)


def _tap_gradient(x, dy, kernel_shape, dilation):
    """dL/dkernel[t] = sum over pixels p of x[p + offset_t] dy[p]^T, pixels outside the image left out."""
    kh, kw, channels, features = kernel_shape
    axis, taps = (1, kh) if kh > 1 else (2, kw)
    size = x.shape[axis]
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    gradients = []
    for tap in range(taps):
        offset = (tap - taps // 2) * dilation
        if abs(offset) >= size:
            gradients.append(jnp.zeros((channels, features), dtype))
            continue
        seen = lax.slice_in_dim(x, max(offset, 0), size + min(offset, 0), axis=axis)
        target = lax.slice_in_dim(dy, max(-offset, 0), size - max(offset, 0), axis=axis)
        # Flat matrices with the transposition spelt out: XLA:CPU takes up to twice as long for the same contraction
        # over three axes.
        product = jnp.matmul(
            seen.reshape(-1, channels).T, target.reshape(-1, features), preferred_element_type=dtype
        )
        gradients.append(product)
    return jnp.stack(gradients).reshape(kernel_shape)


def conv_4x4(x, kernel, strides: int = 1, forms: str = 'fast'):
    """4x4 convolution with one pixel of padding (PatchGAN's): halves the size at stride 2, takes one off at stride 1.

    The fast form has its own weight gradient, one matrix product per tap, on a CPU where the channels are many; on
    other devices it is XLA's own. It can be differentiated again in reverse mode; forward mode (`jax.jvp`) raises.

    Args:
      x: [B, H, W, I].
      kernel: [4, 4, I, O].
      strides: of both axes, 1 or 2.
      forms: 'fast' or 'naive'.

    Returns:
      [B, floor((H - 2) / strides) + 1, floor((W - 2) / strides) + 1, O] in the dtype of x.
    """
    _check(forms)
    if forms == 'fast' and min(kernel.shape[2:]) >= _MIN_CHANNELS_FOR_TAPS_4X4:
        return _conv_4x4_with_tap_gradient(x, kernel, strides)
    return conv2d(x, kernel, strides, padding=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_4x4_with_tap_gradient(x, kernel, strides):
    return conv2d(x, kernel, strides, padding=1)


def _conv_4x4_forward(x, kernel, strides):
    return conv2d(x, kernel, strides, padding=1), (x, kernel)


def _conv_4x4_backward(strides, residuals, dy):
    x, kernel = residuals

    def by_taps(x, dy):
        h, w = dy.shape[1:3]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        target, products = dy.reshape(-1, dy.shape[-1]), []
        for row, column in itertools.product(range(4), range(4)):
            seen = x[:, row::strides, column::strides][:, :h, :w].reshape(-1, x.shape[-1])
            products.append(jnp.matmul(seen.T, target, preferred_element_type=dtype))
        return jnp.stack(products).reshape(kernel.shape).astype(kernel.dtype)

    def by_xla(x, dy):
        return jax.vjp(lambda k: conv2d(x, k, strides, padding=1), kernel)[1](dy)[0]

    (dx,) = jax.vjp(lambda x: conv2d(x, kernel, strides, padding=1), x)[1](dy)
    return dx, lax.platform_dependent(x, dy, cpu=by_taps, default=by_xla)


_conv_4x4_with_tap_gradient.defvjp(_conv_4x4_forward, _conv_4x4_backward)


def conv_transpose_s2(x, kernel, padding: int, forms: str = 'fast'):
    """Transposed convolution of stride 2 that exactly doubles the size, for any square kernel.

        out[2 i + t - padding] += x[i] kernel[t]     per axis; contributions outside [0, 2 n) are dropped

    torch: kernel 2 and padding 0; kernel 3, padding 1 and output_padding 1; or kernel 4 and padding 1. TensorFlow's
    'SAME': padding (k - 2) // 2.

    Args:
      x: [B, H, W, I].
      kernel: [k, k, I, O], not mirrored: a torch ConvTranspose2d weight [I, O, k, k] transposed by (2, 3, 0, 1).
      padding: see above, at least 0 and below k.
      forms: 'fast' computes the four phases of the output with one convolution; 'naive' convolves the dilated input.

    Returns:
      [B, 2 H, 2 W, O] in the dtype of x.
    """
    _check(forms)
    kernel, k = kernel.astype(x.dtype), kernel.shape[0]
    if forms == 'naive':
        zeros, kernel = [(k - 1 - padding, padding + 1)] * 2, kernel[::-1, ::-1]
        return lax.conv_general_dilated(
            x, kernel, (1, 1), zeros, lhs_dilation=(2, 2), dimension_numbers=_DIMENSIONS
        )
    # Output pixel 2 m + r takes tap t = r + padding - 2 d from input pixel m + d; all d that any tap of either r needs.
    lowest, highest = -((k - 1 - padding) // 2), (1 + padding) // 2
    taps = np.arange(2) + padding - 2 * np.arange(lowest, highest + 1)[:, None]
    taps[(taps < 0) | (taps >= k)] = k  # a tap of zeros
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    phases = kernel[
        taps[:, None, :, None], taps[None, :, None, :]
    ]  # [d, d, r, r, I, O], rows before columns
    phases = phases.transpose(0, 1, 4, 2, 3, 5).reshape(len(taps), len(taps), kernel.shape[2], -1)
    if len(taps) == 1:
        return depth_to_space(x @ phases[0, 0], 2)
    zeros = [(-lowest, highest)] * 2
    return depth_to_space(
        lax.conv_general_dilated(x, phases, (1, 1), zeros, dimension_numbers=_DIMENSIONS), 2
    )


def depth_to_space(x, block: int):
    """[B, H, W, block^2 C] -> [B, block H, block W, C]; channel (i block + j) C + c goes to pixel (i, j)."""
    b, h, w, channels = x.shape
    c = channels // block**2
    x = x.reshape(b, h, w, block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * block, w * block, c)


def _check(forms):
    if forms not in FORMS:
        raise unknown_name('forms', forms, FORMS)
