"""Convolution of every channel on its own, over [B, H, W, C].

XLA has a convolution with as many groups as channels, which is slow on a CPU. A sum of shifted
products takes this share of its time:

  kernel  forward       with gradients  inputs
  3x3     1/7 to 1/38   1/7 to 1/30     2 x 17 x 33 x 256 to 2 x 65 x 129 x 16
  5x5     1/16 to 1/68  1/5 to 1/17     2 x 14 x 14 x 480 to 2 x 33 x 65 x 64
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from segjax.errors import unknown_name
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
        Its gradient can be differentiated again in reverse mode. Forward mode (`jax.jvp`) raises.
        'naive' is XLA's grouped convolution.
      padding: zeros around the image, `top` and `left` of them in front, see `ops.conv.sides`.

    Returns:
      [B, h, w, C] in the dtype of x, with h and w as in `ops.conv.conv2d`.
    """
    if forms not in FORMS:
        raise unknown_name('forms', forms, FORMS)
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


def _backward(strides, dilation, zeros, residuals, dy):
    def by(form):
        form = functools.partial(form, strides=strides, dilation=dilation, zeros=zeros)
        return lambda x, kernel, dy: jax.vjp(form, x, kernel)[1](dy)

    return lax.platform_dependent(*residuals, dy, cpu=by(_shifted), default=by(_grouped))


_fast.defvjp(_forward, _backward)
