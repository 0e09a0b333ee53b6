"""Convolution of every channel on its own, over [B, H, W, C].

XLA has a convolution with as many groups as channels, which is slow on a CPU. A sum of shifted
products takes this share of its time:

  kernel  forward        gradients     inputs
  3x3     1/18 to 1/42   1/8 to 1/21   2 x 17 x 33 x 256 to 2 x 65 x 129 x 16
  5x5     1/15 to 1/23   1/7 to 1/30   2 x 14 x 14 x 480 to 2 x 33 x 65 x 64
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from segjax.errors import InputError, unknown_name
from segjax.ops.conv import FORMS, sides


def depthwise_conv(
    x,
    kernel,
    strides: int = 1,
    dilation: tuple[int, int] = (1, 1),
    forms: str = 'fast',
    padding: int | str | None = None,
):
    """Cross-correlates every channel with its own kernel, as torch with groups = C.

        y[i, j, c] = sum_{r < kh, s < kw} kernel[r, s, 0, c]
                     x[strides i + d_h r - top, strides j + d_w s - left, c]

    Args:
      x: [B, H, W, C], zero outside the image.
      kernel: [kh, kw, 1, C], kh and kw odd, cast to the dtype of x.
      strides: of both axes.
      dilation: (d_h, d_w), of rows and of columns.
      forms: 'fast' sums shifted products on a CPU (in float32 at least) and is 'naive' elsewhere.
        Its gradient can be differentiated again in reverse mode, with six times the memory of
        'naive'. Forward mode (`jax.jvp`) raises. 'naive' is XLA's grouped convolution.
      padding: zeros around the image, `top` and `left` of them in front, see `ops.conv.sides`.

    Returns:
      [B, h, w, C] in the dtype of x, with h and w as in `ops.conv.conv2d`.

    Raises:
      InputError: the kernel has other channels, or `forms` is unknown.
    """
    if forms not in FORMS:
        raise unknown_name('forms', forms, FORMS)
    # A kernel of one channel would be broadcast in silence.
    if kernel.shape[2:] != (1, x.shape[-1]):
        raise InputError(
            'kernel', got=f'shape {kernel.shape}', expected=f'[kh, kw, 1, {x.shape[-1]}]'
        )
    zeros = sides(x.shape[1:3], kernel.shape[:2], strides, dilation, padding)
    form = _fast if forms == 'fast' else _grouped
    return form(x, kernel, strides, tuple(dilation), zeros)


def _grouped(x, kernel, strides, dilation, zeros):
    """Calls XLA's grouped convolution."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (strides, strides),
        zeros,
        rhs_dilation=dilation,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=x.shape[-1],
    )


def _shifted(x, kernel, strides, dilation, zeros):
    """Sums shifted images, each multiplied by a tap of the kernel."""
    h, w = _reaches(x.shape[1:3], kernel.shape[:2], strides, dilation, zeros)
    rows, columns = dilation
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *zeros, (0, 0))).astype(dtype)
    kernel = kernel.astype(x.dtype).astype(dtype)
    y = 0
    for r, s in itertools.product(*map(range, kernel.shape[:2])):
        top = r * rows
        left = s * columns
        shifted = padded[:, top : top + h : strides, left : left + w : strides]
        y = y + shifted * kernel[r, s, 0]
    return y.astype(x.dtype)


def _reaches(size, taps, strides, dilation, zeros):
    """Returns, along either axis, the pixels from the first to the last that a tap reads."""
    reaches = []
    for n, z, d, k in zip(size, zeros, dilation, taps, strict=True):
        room = n + sum(z) - d * (k - 1)
        reaches.append((room - 1) // strides * strides + 1)
    return reaches


# A custom gradient keeps the same residuals on every platform: the two inputs.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _fast(x, kernel, strides, dilation, zeros):
    fixed = dict(strides=strides, dilation=dilation, zeros=zeros)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted, **fixed),
        default=functools.partial(_grouped, **fixed),
    )


def _forward(x, kernel, strides, dilation, zeros):
    return _fast(x, kernel, strides, dilation, zeros), (x, kernel)


def _gradients_of_shifted(x, kernel, dy, **fixed):
    """Returns the gradients of `_shifted` to the image and to the kernel."""
    return _image_gradient(x, kernel, dy, **fixed), _kernel_gradient(x, kernel, dy, **fixed)


def _image_gradient(x, kernel, dy, strides, dilation, zeros):
    """Returns dx[i] = sum of kernel[r] dy[q] over all taps r with strides q + d r = i + top.

    Each remainder a of (i + top) / strides has its own taps, so dx is put together from
    strides * strides correlations of dy.
    """
    axes = []
    for n, z, d, k in zip(x.shape[1:3], zeros, dilation, kernel.shape[:2], strict=True):
        axes.append(_remainders(n + sum(z), k, d, strides))
    rows, columns = axes

    # The front of dy is padded for the furthest tap, and its end for the last pixel.
    fronts = [axis.front for axis in axes]
    ends = [axis.size - n for axis, n in zip(axes, dy.shape[1:3], strict=True)]
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(dy, ((0, 0), *zip(fronts, ends, strict=True), (0, 0))).astype(dtype)
    kernel = kernel.astype(x.dtype).astype(dtype)

    # dx at all pixels of a remainder along rows, and of a remainder along columns.
    lines = []
    for row_taps in rows.taps:
        line = []
        for column_taps in columns.taps:
            dx = jnp.zeros((x.shape[0], rows.size, columns.size, x.shape[-1]), dtype)
            for (top, r), (left, s) in itertools.product(row_taps, column_taps):
                shifted = padded[:, top : top + rows.size, left : left + columns.size]
                dx = dx + shifted * kernel[r, s, 0]
            line.append(dx)
        lines.append(jnp.stack(line, axis=3))
    whole = jnp.stack(lines, axis=2)

    # [B, h, strides, w, strides, C] to the image without its zeros.
    whole = whole.reshape(len(x), rows.size * strides, columns.size * strides, x.shape[-1])
    top, left = (low for low, _ in zeros)
    return whole[:, top : top + x.shape[1], left : left + x.shape[2]].astype(x.dtype)


class _Remainders(NamedTuple):
    """Pixels of a padded axis by their remainder when divided by the strides.

    size   pixels of each remainder
    front  zeros in front of dy
    taps   for each remainder, its pairs (first index into the padded dy, tap of the kernel)
    """

    size: int
    front: int
    taps: list[list[tuple[int, int]]]


def _remainders(padded_size: int, taps: int, dilation: int, strides: int) -> _Remainders:
    """Returns the remainders of an axis, which with its zeros has `padded_size` pixels."""
    front = dilation * (taps - 1) // strides
    by_remainder = []
    for remainder in range(strides):
        pairs = []
        for tap in range(taps):
            pixel, rest = divmod(remainder - dilation * tap, strides)
            if rest == 0:
                pairs.append((front + pixel, tap))
        by_remainder.append(pairs)
    return _Remainders(-(-padded_size // strides), front, by_remainder)


def _kernel_gradient(x, kernel, dy, strides, dilation, zeros):
    """Returns dkernel[r, s, 0, c] = sum over b, i, j of shifted(x)[b, i, j, c] dy[b, i, j, c].

    The products of all rows are added up elementwise before they are summed. XLA:CPU reduces whole
    images at a tenth of this speed.
    """
    # An image smaller than the kernel has no outputs.
    if not dy.size:
        return jnp.zeros_like(kernel)

    _, w = _reaches(x.shape[1:3], kernel.shape[:2], strides, dilation, zeros)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *zeros, (0, 0))).astype(dtype)
    dy = dy.astype(dtype)
    taps = list(itertools.product(*map(range, kernel.shape[:2])))

    # The sums of all taps, [B, w, C] each, and the products of a row.
    def add_row(i, sums):
        row = lax.dynamic_index_in_dim(dy, i, axis=1, keepdims=False)
        added = []
        for total, (r, s) in zip(sums, taps, strict=True):
            top = i * strides + r * dilation[0]
            left = s * dilation[1]
            shifted = lax.dynamic_index_in_dim(padded, top, axis=1, keepdims=False)
            added.append(total + shifted[:, left : left + w : strides] * row)
        return tuple(added)

    # All rows one after another, then the sums over images and columns.
    zero = jnp.zeros_like(dy[:, 0])
    sums = lax.fori_loop(0, dy.shape[1], add_row, (zero,) * len(taps))
    gradient = jnp.stack([total.sum((0, 1)) for total in sums])
    return gradient.reshape(kernel.shape).astype(kernel.dtype)


def _backward(strides, dilation, zeros, residuals, dy):
    fixed = dict(strides=strides, dilation=dilation, zeros=zeros)

    def grouped(x, kernel, dy):
        return jax.vjp(functools.partial(_grouped, **fixed), x, kernel)[1](dy)

    shifted = functools.partial(_gradients_of_shifted, **fixed)
    return lax.platform_dependent(*residuals, dy, cpu=shifted, default=grouped)


_fast.defvjp(_forward, _backward)
