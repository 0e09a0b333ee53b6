"""Pooling over [B, H, W, C]."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError, unknown_name
from segjax.ops.conv import FORMS


def max_pool_2x2(x, forms: str = 'fast'):
    """Returns the maximum of every 2x2 window, with stride 2. NaN wins.

    If several pixels of a window are equally large, the gradient goes to the first of them in
    row-major order. Both forms and torch agree in this. After a ReLU all four pixels are often 0.
    `jnp.max` would divide the gradient among them.

    Args:
      x: [B, H, W, C] floating point, H and W even.
      forms: 'fast' compares pixels in pairs, so the gradient is three selections. 'naive' is
        `lax.reduce_window`, whose gradient (select-and-scatter) is many times slower on a CPU.

    Returns:
      [B, H / 2, W / 2, C].
    """
    if forms not in FORMS:
        raise unknown_name('forms', forms, FORMS)
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise InputError(
            'max_pool_2x2',
            got=f'height {h}, width {w}',
            expected='even sizes',
            fix='pad or crop the input',
        )
    if forms == 'naive':
        # Only with a concrete -inf, NumPy's, can JAX differentiate this as max pooling.
        lowest = np.array(-np.inf, x.dtype)
        return lax.reduce_window(x, lowest, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')
    window = x.reshape(b, h // 2, 2, w // 2, 2, c)
    top = _first_larger(window[:, :, 0, :, 0], window[:, :, 0, :, 1])
    bottom = _first_larger(window[:, :, 1, :, 0], window[:, :, 1, :, 1])
    return _first_larger(top, bottom)


def _first_larger(a, b):
    """Returns the larger of a and b, and a where they are equal."""
    # `jnp.maximum` would give each of two equal arguments half of the gradient.
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def max_pool(
    x, window: int, strides: int, padding: int = 0, ceil: bool = False, forms: str = 'fast'
):
    """Returns the maximum of window x window pixels every `strides` pixels. NaN wins.

    Follows torch.nn.MaxPool2d. Padding never wins. Of equal pixels the first in row-major order
    gets the whole gradient, in both forms.

    Args:
      x: [B, H, W, C] floating point.
      window: side of the window.
      strides: of both axes.
      padding: pixels of -inf on every side, at most window / 2. Then every window holds a pixel of
        the image.
      ceil: also returns the windows that begin inside the image and end outside, as Caffe does. The
        padding before the first pixel counts as inside. For window 3, stride 2, padding 1 an even n
        gives n / 2 + 1, not n / 2.
      forms: 'fast' compares shifted images, columns first, so the gradient is a few selections.
        'naive' is `lax.reduce_window`, whose gradient (select-and-scatter) is many times slower on
        a CPU.

    Returns:
      [B, h, w, C] with h = (H + 2 padding - window) / strides + 1, rounded down, or up with `ceil`.
      w follows from W in the same way.
    """
    if forms not in FORMS:
        raise unknown_name('forms', forms, FORMS)
    sizes = [_pooled_size(n, window, strides, padding, ceil) for n in x.shape[1:3]]

    # Only with a concrete -inf, NumPy's, can JAX differentiate `reduce_window` as max pooling.
    lowest = np.array(-np.inf, x.dtype)
    # Pixels missing behind the last pixel. Negative where the last pixels are in no window.
    after = [
        (n - 1) * strides + window - padding - size
        for n, size in zip(sizes, x.shape[1:3], strict=True)
    ]
    sides = [(0, 0, 0), *((padding, side, 0) for side in after), (0, 0, 0)]
    x = lax.pad(x, lowest, sides)
    if forms == 'naive':
        return lax.reduce_window(
            x, lowest, lax.max, (1, window, window, 1), (1, strides, strides, 1), 'VALID'
        )

    # The first of equal pixels of a row, then the first of equal rows: the first of the window in
    # row-major order.
    for axis in (2, 1):
        shifted = (
            lax.slice_in_dim(x, k, x.shape[axis] - window + k + 1, strides, axis)
            for k in range(window)
        )
        x = functools.reduce(_first_larger, shifted)
    return x


def _pooled_size(size: int, window: int, strides: int, padding: int, ceil: bool) -> int:
    """Returns the number of windows along an axis of `size` pixels."""
    if not 0 <= padding <= window // 2 or size + 2 * padding < window:
        raise InputError(
            'pool',
            got=f'{size} pixels, window {window}, padding {padding}',
            expected='padding of at most half a window, and at least one window in the padded '
            'image',
        )
    room = size + 2 * padding - window
    if not ceil:
        return room // strides + 1
    n = -(-room // strides) + 1
    # Drop a last window that begins in the padding behind the image.
    return n - 1 if (n - 1) * strides >= size + padding else n


def average_pool(x, window: int, strides: int, padding: int = 0, ceil: bool = False):
    """Returns the mean of the pixels of the image in every window.

    Follows torch.nn.AvgPool2d with count_include_pad=False: a window at the border divides by the
    number of its pixels inside the image.

    Args:
      x: [B, H, W, C] floating point.
      window: side of the window.
      strides: of both axes.
      padding: pixels on every side that windows may cover, at most window / 2. They count nothing.
      ceil: also returns the windows that begin inside the image and end outside, as `max_pool`.

    Returns:
      [B, h, w, C] in the dtype of x, with h = (H + 2 padding - window) / strides + 1, rounded down,
      or up with `ceil`. w follows from W in the same way. Sums are in float32 at least.
    """
    sides = [(0, 0)]
    for size in x.shape[1:3]:
        n = _pooled_size(size, window, strides, padding, ceil)
        covered = (n - 1) * strides + window
        sides.append((padding, max(padding, covered - size - padding)))
    sides.append((0, 0))
    extent = (1, window, window, 1)
    steps = (1, strides, strides, 1)

    # A concrete zero, NumPy's, makes this a sum that JAX can differentiate.
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    zero = np.array(0, y.dtype)
    inside = jnp.ones((1, *x.shape[1:3], 1), y.dtype)
    pixels = lax.reduce_window(inside, zero, lax.add, extent, steps, sides)
    sums = lax.reduce_window(y, zero, lax.add, extent, steps, sides)
    return (sums / pixels).astype(x.dtype)


def adaptive_average_pool(x, bins: int | tuple[int, int]):
    """Averages over a grid of bins x bins cells, as torch.nn.AdaptiveAvgPool2d.

    Along an axis of n pixels, cell i covers the pixels

        floor(i n / bins) .. ceil((i + 1) n / bins) - 1

    The cells cover all pixels. Neighbouring cells overlap by a pixel where n is not a multiple of
    bins. With bins = 1 the result is the global mean. Means are in float32 at least.

    Args:
      x: [B, H, W, C] floating point.
      bins: cells along each axis, or (cells of a column, cells of a row). More cells than pixels
        repeat pixels.

    Returns:
      [B, bins, bins, C] in the dtype of x.
    """
    height, width = x.shape[1:3]
    cells = (bins, bins) if isinstance(bins, int) else bins
    rows = _mean_matrix(height, cells[0])
    columns = _mean_matrix(width, cells[1])
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for equation, matrix in (('Hh,bhwc->bHwc', rows), ('Ww,bhwc->bhWc', columns)):
        y = jnp.einsum(equation, matrix, y, precision=lax.Precision.HIGHEST)
    return y.astype(x.dtype)


def _mean_matrix(size: int, bins: int) -> np.ndarray:
    """Returns [bins, size] float32 weights. Row i averages the pixels of cell i."""
    i = np.arange(bins)[:, None]
    pixel = np.arange(size)
    inside = (pixel >= i * size // bins) & (pixel < -(-(i + 1) * size // bins))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
