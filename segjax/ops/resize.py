"""Resizing as products with small matrices: no gather, so no scatter in the gradient.

Pixel i of an axis of n pixels has its centre at i + 1/2 (the 'half-pixel' rule of cv2, PIL and torch with
align_corners=False); with align_corners=True the centres of the first and of the last pixel are fixed instead.
Nothing here anti-aliases: shrinking samples.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError

# Interpolated logits decide near-ties of the argmax: no reduced-precision products here.
_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def bilinear(x, size: tuple[int, int], align_corners: bool = False):
    """Bilinear resize of [B, h, w, C] to [B, H, W, C]; an axis that keeps its size is left alone.

    Sample positions are (i + 1/2) n_in / n_out - 1/2, clamped to the image, or i (n_in - 1) / (n_out - 1) with
    align_corners. Computed in float32 at least, returned in the dtype of x.

    Args:
      x: [B, h, w, C] floating point.
      size: (H, W), static.
      align_corners: which of the two conventions.
    """
    h, w = x.shape[1:3]
    rows = None if size[0] == h else _matrix(h, size[0], align_corners)
    columns = None if size[1] == w else _matrix(w, size[1], align_corners)
    return _apply('Hh,bhwc->bHwc', rows, 'Ww,bhwc->bhWc', columns, x, size)


def _apply(row_equation, rows, column_equation, columns, x, size):
    """Both products, the cheaper order first; a matrix that is None stands for the identity."""
    (h, w), (H, W) = x.shape[1:3], size
    products = [(row_equation, rows), (column_equation, columns)]
    if (
        h * W * w + H * h * W < H * h * w + W * w * H
    ):  # multiplications of columns first < rows first
        products.reverse()
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for equation, matrix in products:
        if matrix is not None:
            y = _einsum(equation, matrix, y)
    return y.astype(x.dtype)


def _matrix(n_in: int, n_out: int, align_corners: bool) -> np.ndarray:
    """[n_out, n_in] float32; every row holds the weights of one output pixel and sums to 1."""
    i = np.arange(n_out)
    if align_corners:
        source = i * ((n_in - 1) / (n_out - 1)) if n_out > 1 else np.zeros(1)
    else:
        source = np.clip((i + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    return np.maximum(0, 1 - np.abs(source[:, None] - np.arange(n_in))).astype(np.float32)


def bilinear_on_grid(
    x,
    size: tuple[int, int],
    stride: int,
    then: tuple[int, int] | None = None,
    every: int = 1,
):
    """Bilinear enlargement of features whose pixel j lies on image pixel `stride` j.

    That is where symmetrically padded convolutions of odd size put them. Samples at i / stride, clamped to the last
    pixel. For images of stride k + 1 pixels this is `bilinear` with align_corners, which the published nets use at such
    sizes; at any other size align_corners would stretch the map.

    Args:
      x: [B, h, w, C] floating point.
      size: (H, W), static.
      stride: image pixels from one pixel of x to the next.
      then: size to which the enlarged map is resized with `bilinear`; None: it keeps `size`.
      every: return only every n-th pixel along both axes, as [:, ::every, ::every] would.

    Returns:
      [B, H, W, C] in the dtype of x. All steps are one product with a matrix for each axis, or none
      where nothing changes. No map of the size (H, W) is made on the way.
    """
    matrices = []
    for n_in, n_grid, n_out in zip(x.shape[1:3], size, then or size, strict=True):
        matrix = _grid_matrix(n_in, n_grid, stride)
        if n_out != n_grid:
            matrix = _matrix(n_grid, n_out, align_corners=False) @ matrix
        matrix = matrix[::every]
        matrices.append(None if np.array_equal(matrix, np.eye(n_in)) else matrix)
    rows, columns = matrices
    out_size = tuple(-(-n // every) for n in then or size)
    return _apply('Hh,bhwc->bHwc', rows, 'Ww,bhwc->bhWc', columns, x, out_size)


def _grid_matrix(n_in: int, n_out: int, stride: int) -> np.ndarray:
    """[n_out, n_in] float32 interpolation weights."""
    source = np.minimum(np.arange(n_out) / stride, n_in - 1)
    return np.maximum(0, 1 - np.abs(source[:, None] - np.arange(n_in))).astype(np.float32)


def bilinear_deconvolution(x, size: tuple[int, int], stride: int, offset: int):
    """FCN's upsampling: transposed convolution with a fixed bilinear kernel, then a crop.

        y[m] = sum_j x[j] w[m - stride j]     per axis, w[k] = 1 - |k - (stride - 1/2)| / stride, k = 0 .. 2 stride - 1

    and pixel i of the result is y[i + offset]. Near the border fewer than two terms meet, and weights sum to less
    than 1 (Long, Shelhamer, Darrell 2015; Caffe's filler `bilinear`).

    Args:
      x: [B, h, w, C] floating point.
      size: (H, W) after the crop, static.
      stride: factor of enlargement, even; the kernel has 2 stride taps.
      offset: where the crop begins.

    Returns:
      [B, H, W, C] in the dtype of x.

    Raises:
      InputError: the crop reaches beyond the enlarged map.
    """
    for n_in, n_out in zip(x.shape[1:3], size, strict=True):
        if offset + n_out > stride * (n_in + 1):
            raise InputError(
                'bilinear_deconvolution',
                got=f'{n_out} pixels from {offset} on',
                expected=f'at most the {stride * (n_in + 1)} that {n_in} pixels become',
            )
    rows, columns = (
        _deconvolution_matrix(*sizes, stride, offset)
        for sizes in zip(x.shape[1:3], size, strict=True)
    )
    return _apply('Hh,bhwc->bHwc', rows, 'Ww,bhwc->bhWc', columns, x, size)


def _deconvolution_matrix(n_in: int, n_out: int, stride: int, offset: int) -> np.ndarray:
    """[n_out, n_in] float32: the tap of the kernel that joins two pixels."""
    tap = np.arange(n_out)[:, None] + offset - stride * np.arange(n_in)
    return np.maximum(0, 1 - np.abs(tap - (stride - 0.5)) / stride).astype(np.float32)


def nearest(x, size: tuple[int, int]):
    """Nearest-neighbour resize of [B, h, w, ...] to [B, H, W, ...], any dtype.

    Takes source pixel floor((i + 1/2) n_in / n_out), as PIL, cv2.INTER_NEAREST_EXACT and torch's 'nearest-exact' do
    (cv2.INTER_NEAREST and torch's 'nearest' use floor(i n_in / n_out), which shifts the image).
    """
    for axis, n_out in zip((1, 2), size, strict=True):
        n_in = x.shape[axis]
        x = jnp.take(x, (2 * np.arange(n_out) + 1) * n_in // (2 * n_out), axis=axis)
    return x


def shrink(image, factor: int):
    """Shrinks [..., H, W, C] to [..., H / factor, W / factor, C] by means over factor x factor pixels.

    Args:
      image: [..., H, W, C] floating point; H and W are multiples of `factor`.
      factor: static.
    """
    *lead, height, width, channels = image.shape
    shape = (*lead, height // factor, factor, width // factor, factor, channels)
    return image.reshape(shape).mean((-4, -2))


def resize_valid(logits, valid, out_size: tuple[int, int], out_valid):
    """Bilinear resize of the valid part of each example to a size of its own, on a canvas of static size.

    The top-left (h_v, w_v) part of example b becomes the top-left (H_v, W_v) part of its output, half-pixel centres,
    clamped at the edge of the valid part, so padding never leaks in; the rest of the canvas is 0. With it, logits are
    scored at each label's own size in one compilation.

    Args:
      logits: [B, h, w, C].
      valid: [B, 2] int, (h_v, w_v) with 1 <= h_v <= h, 1 <= w_v <= w.
      out_size: (H, W), static.
      out_valid: [B, 2] int, (H_v, W_v) with 1 <= H_v <= H, 1 <= W_v <= W.

    Returns:
      [B, H, W, C] in the dtype of logits.
    """
    b, h, w, _ = logits.shape
    for name, value in (('valid', valid), ('out_valid', out_valid)):
        if value.shape != (b, 2):
            raise InputError(
                f'resize_valid: {name}',
                got=f'shape {value.shape}',
                expected=f'{(b, 2)}: (height, width) per example',
            )
    rows = _valid_matrix(valid[:, 0], out_valid[:, 0], h, out_size[0])
    columns = _valid_matrix(valid[:, 1], out_valid[:, 1], w, out_size[1])
    return _apply('bHh,bhwc->bHwc', rows, 'bWw,bhwc->bhWc', columns, logits, out_size)


def _valid_matrix(n_in, n_out, size_in: int, size_out: int):
    """[B, size_out, size_in] interpolation weights; n_in, n_out are [B] int. Rows from n_out on are 0."""
    n_in, n_out = n_in[:, None], n_out[:, None]
    i = jnp.arange(size_out)
    # The position ((2 i + 1) n_in - n_out) / (2 n_out) in whole numbers: float32 would lose the fraction far out.
    numerator = jnp.clip((2 * i + 1) * n_in - n_out, 0, 2 * n_out * (n_in - 1))
    low, fraction = numerator // (2 * n_out), (numerator % (2 * n_out)) / (2 * n_out)
    distance = (jnp.arange(size_in) - low[..., None]) - fraction[..., None]
    return jnp.maximum(0, 1 - jnp.abs(distance)) * (i < n_out)[..., None]
