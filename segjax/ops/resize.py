"""Resizing as products with small matrices: no gather, so the gradient has no scatter.

Pixel i of an axis of n pixels has its centre at i + 1/2. This is the 'half-pixel' rule of cv2, PIL
and torch with align_corners=False. With align_corners=True the centres of the first and of the last
pixel are fixed instead. Only `shrink` averages pixels. All further functions sample, without
anti-aliasing.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError

# Interpolated logits decide near-ties of the argmax, so products here keep full precision.
_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)

WHOLE_BYTES = 400 * 2**20
"""Largest logits that `argmax_valid` resizes at once."""
CHUNK_BYTES = 64 * 2**20
"""Larger logits are resized in parts of this size."""


def bilinear(x, size: tuple[int, int], align_corners: bool = False):
    """Resizes [B, h, w, C] to [B, H, W, C] bilinearly.

    Output pixel i samples the input at

        (i + 1/2) n_in / n_out - 1/2, clamped to the image
        i (n_in - 1) / (n_out - 1)                              with align_corners

    An axis that keeps its size is not changed. Interpolation is in float32 at least.

    Args:
      x: [B, h, w, C] floating point.
      size: (H, W), static.
      align_corners: selects the second formula.

    Returns:
      [B, H, W, C] in the dtype of x.
    """
    h, w = x.shape[1:3]
    rows = None if size[0] == h else _matrix(h, size[0], align_corners)
    columns = None if size[1] == w else _matrix(w, size[1], align_corners)
    return _apply('Hh,bhwc->bHwc', rows, 'Ww,bhwc->bhWc', columns, x, size)


def _apply(row_equation, rows, column_equation, columns, x, size):
    """Multiplies x by both matrices, in the cheaper order. None means the identity."""
    h, w = x.shape[1:3]
    H, W = size
    products = [(row_equation, rows), (column_equation, columns)]
    rows_first = H * h * w + W * w * H  # multiplications
    columns_first = h * W * w + H * h * W
    if columns_first < rows_first:
        products.reverse()
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for equation, matrix in products:
        if matrix is not None:
            y = _einsum(equation, matrix, y)
    return y.astype(x.dtype)


def _matrix(n_in: int, n_out: int, align_corners: bool) -> np.ndarray:
    """Returns interpolation weights [n_out, n_in] float32. Each row sums to 1."""
    i = np.arange(n_out)
    if not align_corners:
        source = np.clip((i + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    elif n_out > 1:
        source = i * ((n_in - 1) / (n_out - 1))
    else:
        source = np.zeros(1)
    return _triangle(source, n_in)


def _triangle(source: np.ndarray, n_in: int) -> np.ndarray:
    """Returns the bilinear weights [n_out, n_in] float32 of samples at positions [n_out]."""
    distance = np.abs(source[:, None] - np.arange(n_in))
    return np.maximum(0, 1 - distance).astype(np.float32)


def bilinear_on_grid(
    x,
    size: tuple[int, int],
    stride: int,
    then: tuple[int, int] | None = None,
    every: int = 1,
):
    """Enlarges features whose pixel j lies on image pixel `stride` j, bilinearly.

    Symmetrically padded convolutions of odd size put their features there. Image pixel i samples
    the features at i / stride, clamped to the last pixel.

    For images of stride k + 1 pixels this is `bilinear` with align_corners. The published nets use
    align_corners at such sizes. At different sizes align_corners would stretch the map.

    Args:
      x: [B, h, w, C] floating point.
      size: (H, W), static.
      stride: image pixels from a pixel of x to the next.
      then: size to which `bilinear` resizes the enlarged map. None: the map keeps `size`.
      every: keeps every n-th pixel along both axes, as [:, ::every, ::every] would.

    Returns:
      [B, H, W, C] in the dtype of x. All steps are a single product with a matrix for each axis, or
      no product where nothing changes. No map of the size (H, W) is built in between.
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
    """Returns the interpolation weights of `bilinear_on_grid`, [n_out, n_in] float32."""
    return _triangle(np.minimum(np.arange(n_out) / stride, n_in - 1), n_in)


def bilinear_deconvolution(x, size: tuple[int, int], stride: int, offset: int):
    """Enlarges a map as FCN does: transposed convolution with a fixed bilinear kernel, then a crop.

        y[m] = sum_j x[j] w[m - stride j]     per axis
        w[k] = 1 - |k - (stride - 1/2)| / stride,     k = 0 .. 2 stride - 1

    Pixel i of the result is y[i + offset]. Near the border fewer than two terms meet, and weights
    sum to less than 1. Long, Shelhamer, Darrell 2015, with Caffe's filler `bilinear`.

    Args:
      x: [B, h, w, C] floating point.
      size: (H, W) after the crop, static.
      stride: factor of enlargement, even. The kernel has 2 stride taps.
      offset: first row and column of the crop.

    Returns:
      [B, H, W, C] in the dtype of x.

    Raises:
      InputError: the crop reaches beyond the enlarged map.
    """
    matrices = []
    for n_in, n_out in zip(x.shape[1:3], size, strict=True):
        if offset + n_out > stride * (n_in + 1):
            raise InputError(
                'bilinear_deconvolution',
                got=f'a crop that ends at pixel {offset + n_out}',
                expected=f'at most {stride * (n_in + 1)} pixels, the size of the enlarged map',
            )
        matrices.append(_deconvolution_matrix(n_in, n_out, stride, offset))
    rows, columns = matrices
    return _apply('Hh,bhwc->bHwc', rows, 'Ww,bhwc->bhWc', columns, x, size)


def _deconvolution_matrix(n_in: int, n_out: int, stride: int, offset: int) -> np.ndarray:
    """Returns the weights of `bilinear_deconvolution`, [n_out, n_in] float32."""
    # The tap of the kernel that joins an output pixel and an input pixel.
    tap = np.arange(n_out)[:, None] + offset - stride * np.arange(n_in)
    return np.maximum(0, 1 - np.abs(tap - (stride - 0.5)) / stride).astype(np.float32)


def nearest(x, size: tuple[int, int]):
    """Resizes [B, h, w, ...] to [B, H, W, ...] by nearest neighbours.

    Output pixel i copies input pixel floor((i + 1/2) n_in / n_out). PIL, cv2.INTER_NEAREST_EXACT
    and torch's 'nearest-exact' do the same. cv2.INTER_NEAREST and torch's 'nearest' copy pixel
    floor(i n_in / n_out), which shifts the image.

    Args:
      x: [B, h, w, ...], any dtype.
      size: (H, W), static.

    Returns:
      [B, H, W, ...] in the dtype of x.
    """
    for axis, n_out in zip((1, 2), size, strict=True):
        n_in = x.shape[axis]
        source = (2 * np.arange(n_out) + 1) * n_in // (2 * n_out)
        x = jnp.take(x, source, axis=axis)
    return x


def shrink(image, factor: int):
    """Shrinks an image by means over factor x factor pixels.

    Args:
      image: [..., H, W, C] floating point. H and W are multiples of `factor`.
      factor: static.

    Returns:
      [..., H / factor, W / factor, C].
    """
    *lead, height, width, channels = image.shape
    shape = (*lead, height // factor, factor, width // factor, factor, channels)
    return image.reshape(shape).mean((-4, -2))


def resize_valid(logits, valid, out_size: tuple[int, int], out_valid):
    """Resizes the valid part of each example to its own size, on a canvas of static size.

    The top-left (h_v, w_v) part of an example becomes the top-left (H_v, W_v) part of its output.
    Pixel centres are half-pixel. Samples are clamped at the edge of the valid part, so padding
    never leaks in. The canvas is 0 elsewhere. With this function a single compiled program scores
    logits at the size of each label.

    Args:
      logits: [B, h, w, C].
      valid: [B, 2] int, (h_v, w_v) with 1 <= h_v <= h, 1 <= w_v <= w.
      out_size: (H, W), static.
      out_valid: [B, 2] int, (H_v, W_v) with 1 <= H_v <= H, 1 <= W_v <= W.

    Returns:
      [B, H, W, C] in the dtype of logits.
    """
    matrices = _valid_matrices(logits, valid, out_size, out_valid)
    return _resize_valid(matrices, logits, out_size)


def argmax_valid(
    logits,
    valid,
    out_size: tuple[int, int],
    out_valid,
    whole_bytes: int = WHOLE_BYTES,
    chunk_bytes: int = CHUNK_BYTES,
):
    """Computes argmax(resize_valid(..), -1) in memory that does not grow with the classes.

    Large logits are resized a few classes at a time, and only the largest value of each pixel is
    kept. Every value is computed as in `resize_valid`.

    Args:
      logits: [B, h, w, C].
      valid, out_size, out_valid: as in `resize_valid`.
      whole_bytes: resized logits of at most this size are computed at once.
      chunk_bytes: size of the resized logits of a few classes. A single class may be larger.

    Returns:
      [B, H, W] whole numbers, the first of equal classes. 0 outside of out_valid.
    """
    matrices = _valid_matrices(logits, valid, out_size, out_valid)
    num_classes = logits.shape[-1]
    of_class = logits.shape[0] * out_size[0] * out_size[1] * max(4, logits.dtype.itemsize)
    at_once = max(1, chunk_bytes // of_class)
    if of_class * num_classes <= whole_bytes or at_once >= num_classes:
        return jnp.argmax(_resize_valid(matrices, logits, out_size), -1)

    def add_classes(best, first):
        largest, index = best
        some = lax.dynamic_slice_in_dim(logits, first, at_once, axis=-1)
        resized = _resize_valid(matrices, some, out_size)
        value = resized.max(-1)
        # As in `jnp.argmax`, NaN is larger than every number.
        better = (value > largest) | (jnp.isnan(value) & ~jnp.isnan(largest))
        place = jnp.argmax(resized, -1) + first
        return (jnp.where(better, value, largest), jnp.where(better, place, index)), None

    # The last classes may overlap the classes before. Equal values change nothing.
    firsts = np.minimum(np.arange(0, num_classes, at_once), num_classes - at_once)
    shape = (logits.shape[0], *out_size)
    start = jnp.full(shape, -jnp.inf, logits.dtype), jnp.zeros(shape, jnp.argmax(firsts).dtype)
    (_, index), _ = lax.scan(add_classes, start, jnp.asarray(firsts, start[1].dtype))
    return index


def _resize_valid(matrices, logits, out_size: tuple[int, int]):
    """Multiplies logits by the two matrices of `_valid_matrices`."""
    rows, columns = matrices
    return _apply('bHh,bhwc->bHwc', rows, 'bWw,bhwc->bhWc', columns, logits, out_size)


def _valid_matrices(logits, valid, out_size: tuple[int, int], out_valid):
    """Returns the interpolation weights of the rows [B, H, h] and of the columns [B, W, w].

    Raises:
      InputError: a size without a row for every example.
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
    return rows, columns


def _valid_matrix(n_in, n_out, size_in: int, size_out: int):
    """Returns interpolation weights [B, size_out, size_in] for valid sizes n_in, n_out [B] int.

    Rows from n_out on are 0.
    """
    n_in = n_in[:, None]
    n_out = n_out[:, None]
    i = jnp.arange(size_out)
    # The position ((2 i + 1) n_in - n_out) / (2 n_out) in whole numbers. Float32 would lose the
    # fraction at large positions.
    numerator = jnp.clip((2 * i + 1) * n_in - n_out, 0, 2 * n_out * (n_in - 1))
    low = numerator // (2 * n_out)
    fraction = (numerator % (2 * n_out)) / (2 * n_out)
    distance = (jnp.arange(size_in) - low[..., None]) - fraction[..., None]
    return jnp.maximum(0, 1 - jnp.abs(distance)) * (i < n_out)[..., None]
