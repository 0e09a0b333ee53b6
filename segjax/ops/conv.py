"""Convolutions over [B, H, W, C] whose gradients are also fast on a CPU.

Kernels are [kh, kw, in, out] and are cast to the dtype of the input. The weight gradient has the
kernel's own dtype. Every map exists in two forms that agree to rounding: 'fast', and 'naive'. The
naive form is the simplest code and the reference of the tests. A form is chosen where the map is
used (an attribute of the module), never globally. Gradients of fast forms need maps over devices
with `check_vma=False`, as in `core/parallel.py`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError, unknown_name

FORMS = ('fast', 'naive')
"""Names the implementations of a convolution or a pooling."""

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')

# Below this many input channels the per-tap matrix products are too thin. Measured on a CPU with
# jaxlib 0.10 against XLA's own weight gradient: 3x1 is 2 times faster with 64 channels and 3.6
# times with 128. 1x3 is 1.5 times faster with 128 channels and 0.9 times as fast with 64. 16
# channels are slower.
_MIN_CHANNELS_FOR_TAPS = 32
# The limit for 4x4, of both inputs and outputs: 1.4 to 3.4 times faster from 64 to 128 up to 256 to
# 512 channels, slower with 32.
_MIN_CHANNELS_FOR_TAPS_4X4 = 64


def conv2d(x, kernel, strides: int = 1, dilation: int = 1, padding: int | str | None = None):
    """Cross-correlates x with a kernel, with the zero padding of torch or of TensorFlow.

    Args:
      x: [B, H, W, I].
      kernel: [kh, kw, I, O], kh and kw odd unless `padding` is given.
      strides: of both axes.
      dilation: of both axes. It has no effect along an axis of extent 1.
      padding: pixels on every side, None or 'same', see `sides`.

    Returns:
      [B, h, w, O] in the dtype of x. h = floor((H + 2 padding - d (kh - 1) - 1) / strides) + 1, or
      ceil(H / strides) where `padding` is no number. w follows from W in the same way.
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
    """Returns the zeros (before the first pixel, after the last pixel) of either axis.

    None is torch's usual padding, d (k - 1) / 2 on every side, k odd. 'same' is TensorFlow's
    padding: as few zeros as ceil(H / strides) outputs need. An odd zero goes after the last pixel.
    At stride 1 both keep the size and agree. At stride 2 'same' puts a zero less in front of an
    even axis.

    Args:
      size: (H, W) of the image.
      taps: (kh, kw) of the kernel.
      strides: of both axes.
      dilation: (rows, columns).
      padding: number of zeros on every side, None or 'same'.

    Raises:
      InputError: `padding` is neither a number of at least 0, None nor 'same'.
    """
    spans = [d * (k - 1) for k, d in zip(taps, dilation, strict=True)]
    if padding is None:
        before = after = [span // 2 for span in spans]
    elif padding == 'same':
        total = [
            max((-(-n // strides) - 1) * strides + 1 + span - n, 0)
            for n, span in zip(size, spans, strict=True)
        ]
        before = [n // 2 for n in total]
        after = [n - n // 2 for n in total]
    elif isinstance(padding, int) and padding >= 0:
        before = after = [padding, padding]
    else:
        raise InputError(
            'padding', got=repr(padding), expected="a number of pixels, None or 'same'"
        )
    return (before[0], after[0]), (before[1], after[1])


# --- 3x1 and 1x3 ----------------------------------------------------------------------------------


def conv_factorised(x, kernel, dilation: int = 1, forms: str = 'fast'):
    """Convolves along a single axis with stride 1, which keeps the size.

    The kernel is 3x1, 1x3, or of any odd extent. On a CPU the fast form has its own
    weight gradient: a matrix product per tap, over the pixels that the tap reads. Elsewhere the
    gradient is XLA's own. The fast form can be differentiated again in reverse mode. Forward mode
    (`jax.jvp`) raises.

    Args:
      x: [B, H, W, I].
      kernel: [k, 1, I, O] or [1, k, I, O], k odd.
      dilation: distance of the taps in pixels.
      forms: 'fast' or 'naive'.

    Returns:
      [B, H, W, O] in the dtype of x.
    """
    _check_forms(forms)
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

    # The adjoint of a correlation at stride 1 correlates with the mirrored kernel, whose inputs and
    # outputs are exchanged.
    mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
    dx = conv2d(dy, mirrored, dilation=dilation)
    return dx, lax.platform_dependent(x, dy, cpu=by_taps, default=by_xla)


_conv_with_tap_gradient.defvjp(_conv_forward, _conv_backward)


def _tap_gradient(x, dy, kernel_shape, dilation):
    """Computes the weight gradient of `conv_factorised`, with a matrix product per tap.

    dL/dkernel[t] = sum over pixels p of x[p + offset_t] dy[p]^T,     p + offset_t in the image
    """
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
        source = lax.slice_in_dim(x, max(offset, 0), size + min(offset, 0), axis=axis)
        target = lax.slice_in_dim(dy, max(-offset, 0), size - max(offset, 0), axis=axis)
        # Flat matrices with an explicit transposition. XLA:CPU takes up to twice as long for the
        # same contraction over three axes.
        product = jnp.matmul(
            source.reshape(-1, channels).T,
            target.reshape(-1, features),
            preferred_element_type=dtype,
        )
        gradients.append(product)
    return jnp.stack(gradients).reshape(kernel_shape)


# --- 4x4 ------------------------------------------------------------------------------------------


def conv_4x4(x, kernel, strides: int = 1, forms: str = 'fast'):
    """Convolves with a 4x4 kernel and padding 1, as PatchGAN.

    Stride 2 halves the size. Stride 1 removes a row and a column.

    On a CPU the fast form has its own weight gradient if there are many channels: a matrix product
    per tap. Elsewhere the gradient is XLA's own. The fast form can be differentiated again
    in reverse mode. Forward mode (`jax.jvp`) raises.

    Args:
      x: [B, H, W, I].
      kernel: [4, 4, I, O].
      strides: of both axes, 1 or 2.
      forms: 'fast' or 'naive'.

    Returns:
      [B, floor((H - 2) / strides) + 1, floor((W - 2) / strides) + 1, O] in the dtype of x.
    """
    _check_forms(forms)
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
        return _tap_gradient_4x4(x, dy, kernel.shape, strides).astype(kernel.dtype)

    def by_xla(x, dy):
        return jax.vjp(lambda k: conv2d(x, k, strides, padding=1), kernel)[1](dy)[0]

    (dx,) = jax.vjp(lambda x: conv2d(x, kernel, strides, padding=1), x)[1](dy)
    return dx, lax.platform_dependent(x, dy, cpu=by_taps, default=by_xla)


_conv_4x4_with_tap_gradient.defvjp(_conv_4x4_forward, _conv_4x4_backward)


def _tap_gradient_4x4(x, dy, kernel_shape, strides):
    """Computes the weight gradient of `conv_4x4`, with a matrix product per tap."""
    h, w = dy.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    target = dy.reshape(-1, dy.shape[-1])  # [B h w, O]
    products = []
    for row, column in itertools.product(range(4), range(4)):
        source = x[:, row::strides, column::strides][:, :h, :w]
        source = source.reshape(-1, x.shape[-1])  # [B h w, I]
        products.append(jnp.matmul(source.T, target, preferred_element_type=dtype))
    return jnp.stack(products).reshape(kernel_shape)


# --- transposed -----------------------------------------------------------------------------------


def conv_transpose_s2(x, kernel, padding: int, forms: str = 'fast'):
    """Convolves transposed with stride 2, which exactly doubles the size.

        out[2 i + t - padding] += x[i] kernel[t]     per axis

    Contributions outside [0, 2 n) are dropped. In torch three settings double the size:

        kernel 2, padding 0
        kernel 3, padding 1, output_padding 1
        kernel 4, padding 1

    TensorFlow's 'SAME' has padding (k - 2) // 2.

    Args:
      x: [B, H, W, I].
      kernel: [k, k, I, O], not mirrored. It is a torch ConvTranspose2d weight [I, O, k, k]
        transposed by (2, 3, 0, 1).
      padding: as in the formula, at least 0 and below k.
      forms: 'fast' computes the four phases of the output with a single convolution. 'naive'
        convolves the dilated input.

    Returns:
      [B, 2 H, 2 W, O] in the dtype of x.
    """
    _check_forms(forms)
    kernel = kernel.astype(x.dtype)
    if forms == 'naive':
        return _conv_transpose_naive(x, kernel, padding)
    phases, lowest, highest = _phases(kernel, padding)
    if len(phases) == 1:
        return depth_to_space(x @ phases[0, 0], 2)
    zeros = [(-lowest, highest)] * 2
    y = lax.conv_general_dilated(x, phases, (1, 1), zeros, dimension_numbers=_DIMENSIONS)
    return depth_to_space(y, 2)


def _conv_transpose_naive(x, kernel, padding: int):
    """Convolves x, with zeros between its pixels, with the mirrored kernel."""
    k = kernel.shape[0]
    zeros = [(k - 1 - padding, padding + 1)] * 2
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        zeros,
        lhs_dilation=(2, 2),
        dimension_numbers=_DIMENSIONS,
    )


def _phases(kernel, padding: int):
    """Returns the kernel of the four phases of the output, and the offsets that its taps read.

    Along each axis output pixel 2 m + r gets tap t = r + padding - 2 d from input pixel m + d.

    Returns:
      (kernel [d, d, I, 4 O], smallest d, largest d), with all d that any tap of either r needs.
    """
    k = kernel.shape[0]
    lowest = -((k - 1 - padding) // 2)
    highest = (1 + padding) // 2
    taps = np.arange(2) + padding - 2 * np.arange(lowest, highest + 1)[:, None]  # [d, r]
    # Where no tap exists, use the additional tap k, which is 0.
    taps[(taps < 0) | (taps >= k)] = k
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    phases = kernel[taps[:, None, :, None], taps[None, :, None, :]]  # [d, d, r, r, I, O]
    phases = phases.transpose(0, 1, 4, 2, 3, 5)
    phases = phases.reshape(len(taps), len(taps), kernel.shape[2], -1)
    return phases, lowest, highest


def depth_to_space(x, block: int):
    """Moves channels to pixels: [B, H, W, block^2 C] -> [B, block H, block W, C].

    Channel (i block + j) C + c becomes channel c of pixel (i, j) in each block.
    """
    b, h, w, channels = x.shape
    c = channels // block**2
    x = x.reshape(b, h, w, block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * block, w * block, c)


def space_to_depth(x, block: int):
    """Moves pixels to channels: [B, block H, block W, C] -> [B, H, W, block^2 C].

    Inverts `depth_to_space`.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // block, w // block, block**2 * c)


# --- convolutions in loops ------------------------------------------------------------------------


def conv_in_loop(x, kernel, forms: str = 'fast'):
    """Computes `conv2d` at stride 1, with a gradient that is fast inside of `lax.scan`.

    XLA:CPU is slow at convolutions that it derives itself, if they stand in a loop. 3x3 gradients
    of 64 and 128 channels took 25 to 50 times as long as outside. The fast form writes both
    gradients as plain convolutions of copies with the axes in their usual order. It has no effect
    on a GPU or a TPU.

    Args:
      x: [B, H, W, I].
      kernel: [kh, kw, I, O], kh and kw odd.
      forms: 'fast' or 'naive'.

    Returns:
      [B, H, W, O] in the dtype of x.
    """
    _check_forms(forms)
    if forms == 'naive':
        return conv2d(x, kernel)
    return _conv_with_plain_gradients(x, kernel)


@jax.custom_vjp
def _conv_with_plain_gradients(x, kernel):
    return conv2d(x, kernel)


def _conv_in_loop_forward(x, kernel):
    return conv2d(x, kernel), (x, kernel)


def _conv_in_loop_backward(residuals, dy):
    # Convolutions with kernels as large as the image would be slow on a GPU.
    return lax.platform_dependent(*residuals, dy, cpu=_plain_gradients, default=_derived_gradients)


def _derived_gradients(x, kernel, dy):
    """Returns the gradients (dx, dkernel) that XLA derives from `conv2d`."""
    _, backward = jax.vjp(conv2d, x, kernel)
    return backward(dy)


def _plain_gradients(x, kernel, dy):
    """Returns (dx, dkernel) by two convolutions of copies."""
    mirrored = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)  # [kh, kw, O, I]
    dx = conv2d(dy, mirrored)

    # Channels stand in for examples, examples for channels, and dy for the kernel.
    dkernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),  # [I, H, W, B]
        dy.transpose(1, 2, 0, 3),  # [H, W, B, O]
        (1, 1),
        sides(x.shape[1:3], kernel.shape[:2], 1, (1, 1), None),
        dimension_numbers=_DIMENSIONS,
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    return dx, dkernel.transpose(1, 2, 0, 3).astype(kernel.dtype)


_conv_with_plain_gradients.defvjp(_conv_in_loop_forward, _conv_in_loop_backward)


def _check_forms(forms):
    """Raises InputError unless `forms` is a name of FORMS."""
    if forms not in FORMS:
        raise unknown_name('forms', forms, FORMS)
