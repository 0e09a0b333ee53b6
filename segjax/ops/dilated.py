"""Convolutions with a learned, fractional dilation factor for every input channel.

He, thesis chapter 4. He, Keuper, Schiele, Fritz: Learning Dilation Factors for Semantic
Segmentation of Street Scenes (GCPR 2017). With taps i, j counted from the centre of the kernel

    y[m, n] = sum over c, i, j of kernel[i, j, c] x_c(m + i d_c, n + j d_c)     (Eq. 4.2)

x_c is bilinear between four pixels, and zero outside the image. Each of the four neighbours counts
where it lies inside (Eq. 4.3). A tap of a 3x3 kernel reads the pixels that are floor(d) and
floor(d) + 1 *away from the centre*, with the weights 1 - a and a, a = d - floor(d). In this reading
Eq. 4.3 is bilinear for every tap. Eq. 4.4 holds as printed, except that a product sign must be a
plus. Flooring the coordinates instead would swap the two weights on the left of the centre.

Forms. Sampling is a linear map per axis, S(o): out[h] = sum over h' of max(0, 1 - |h' - h - o|)
x[h'], with an offset o for each channel. Its transpose is S(-o), borders included. So the gradient
samples like the forward pass, and no form has a scatter. A 3x3 conv is S along rows (two maps), S
along columns (six maps), and nine matrix products.

  shifts   S is a sum over the integer offsets of the range: static slices times a weight per
           channel. There is no index anywhere
  gathers  S is two gathers with an index per row and channel
  naive    S is a matrix per channel, with JAX's own gradient. The reference of the tests
  fast     gathers on a GPU, where reads are cheap and `shifts` reads the whole range. shifts
           elsewhere, because a TPU gathers slowly

The table shows CPU seconds as ratios to `conv2d` at a fixed dilation. Measured on a single core
of an Intel Xeon at 2.5 GHz: float32, batch 1, 3x3, factors uniform over the range, jax 0.10.2. 'by
taps' is the fixed dilation as slices and products. It replaces XLA's conv, whose own gradient is
slow on a CPU. The cost of learning is the distance to that column. fc6 and conv5 are layers of
DeepLab-LargeFOV, psp of PSPNet. aspp is the head of DeepLab-v2 at half its inputs, whose few
outputs share the sampling.

                                 forward                          with gradients
  layer  map    channels   range  by taps shifts gathers naive    by taps shifts gathers naive
  fc6    41x41  512 > 1024 4-20     0.93   1.01    1.41  1.18        0.50   0.51    0.75  0.63
  conv5  41x41  512 >  512 1-4      1.15   1.25    2.38  1.88        0.55   0.60    1.13  1.04
  psp    60x60  512 >  512 1-8      1.22   1.35    2.47  1.81        0.57   0.63    1.16  1.07
  psp    60x60  256 >  256 1-4      1.61   1.78    4.20  2.83        0.63   0.75    1.81  1.62
  aspp   41x41 1024 >   19 7-17     2.13   3.71   12.23  8.08        0.88   1.80    5.27  4.21

Four gathers per tap, differentiated by JAX (scatters), take 1.8 to 17 times as long as the fixed
conv with gradients. Whole factors known while tracing (`conv_at_whole_factors`) take 0.93 to 1.13
times as long forward. Where a factor has 15 channels they take 1.6 times as long. GPU and TPU are
not measured: there the choice rests on counts of reads. For whole nets on a GPU, the paper reports
3 to 8 % more time for inference. For training it reports 10 to 15 %.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError, unknown_name
from segjax.ops.conv import conv2d
from segjax.ops.gradients import straight_through

FORMS = ('fast', 'shifts', 'gathers', 'naive')
"""Names the implementations of a dilated convolution, see above."""


def conv_dilated(x, kernel, factors, dilation_range: tuple[float, float], forms: str = 'fast'):
    """Convolves with a dilation factor per input channel, at stride 1 and with equal size.

    Eq. 4.2 to 4.7. Factors are clipped to the range. The gradient passes through the clipping
    unchanged: a factor outside gets the gradient of the end that it was clipped to.
      `gate_per_image`
    and `gate_gradient` remove gradients that lead further out.

    As a function of a factor the output is continuous and piecewise quadratic. It has a kink
    wherever a tap crosses a pixel (for 3x3: at integers). There the right derivative counts, which
    is Eq. 4.4 with a = d - floor(d) = 0. At the upper end of the range the left derivative counts,
    because no factor beyond the end is possible. The gradient can be differentiated again in
    reverse mode. Forward mode raises, except for 'naive'.

    Args:
      x: [B, H, W, I].
      kernel: [kh, kw, I, O], kh and kw odd, cast to the dtype of x.
      factors: [I], or [B, I] with factors for each image. Floating point, pixels. They keep their
        dtype, float32, whatever the dtype of x: interpolation weights are in float32 at least.
      dilation_range: smallest and largest factor. The time of 'shifts' grows with the whole numbers
        in the range.
      forms: a name of FORMS.

    Returns:
      [B, H, W, O] in the dtype of x.

    Raises:
      InputError: the range is empty or reaches below 0, the kernel is even, or the factors do
        not fit the input channels.
    """
    _check_conv(x, kernel, factors, dilation_range, forms)
    factors = straight_through(factors, jnp.clip(factors, *dilation_range))
    factors = jnp.atleast_2d(factors)  # [1, I] or [B, I]
    if forms == 'naive':
        return _conv_naive(x, kernel, factors, dilation_range)
    # The sampled maps are as large as nine inputs. The backward pass samples again instead of
    # keeping them.
    shifts = jax.checkpoint(functools.partial(_conv, dilation_range=dilation_range, form=_SHIFTS))
    gathers = jax.checkpoint(functools.partial(_conv, dilation_range=dilation_range, form=_GATHERS))
    if forms == 'fast':
        return lax.platform_dependent(
            x, kernel, factors, cuda=gathers, rocm=gathers, default=shifts
        )
    conv = shifts if forms == 'shifts' else gathers
    return conv(x, kernel, factors)


def _check_conv(x, kernel, factors, dilation_range, forms) -> None:
    """Raises InputError unless `conv_dilated` can use its arguments."""
    if forms not in FORMS:
        raise unknown_name('forms', forms, FORMS)
    check_range('conv_dilated', dilation_range)
    if any(k % 2 == 0 for k in kernel.shape[:2]):
        raise InputError(
            'conv_dilated',
            got=f'a kernel of {kernel.shape[0]}x{kernel.shape[1]}',
            expected='odd extents: taps are placed around a centre',
        )
    batch = x.shape[0]
    channels = x.shape[-1]
    fits = kernel.shape[2:3] == (channels,) and factors.shape in ((channels,), (batch, channels))
    if not fits:
        raise InputError(
            'conv_dilated',
            got=f'factors {list(factors.shape)}, x {list(x.shape)}, kernel {list(kernel.shape)}',
            expected='one factor for each input channel of x and kernel, either the same in all '
            'images or for each image',
        )


def check_range(where: str, dilation_range: tuple[float, float]) -> None:
    """Raises InputError unless 0 <= smallest <= largest and largest > 0.

    Args:
      where: owner of the range, which the error names.
      dilation_range: (smallest, largest).
    """
    lo, hi = dilation_range
    if not (0 <= lo <= hi < math.inf and hi > 0):
        raise InputError(
            f'{where}: dilation_range',
            got=f'({lo}, {hi})',
            expected='(smallest, largest), 0 <= smallest <= largest, largest > 0',
        )


# --- gates ----------------------------------------------------------------------------------------


def gate_gradient(gradient, factors, dilation_range: tuple[float, float]):
    """Sets gradients to 0 that would move a factor outside its range further out.

    Above the largest factor only positive gradients pass. Below the smallest factor only negative
    gradients pass. The gate is not linear: gated gradients of images, devices or micro-batches do
    not add up to the gated gradient of a batch.

    Args:
      gradient: dL/dfactors, [..., I].
      factors: [I], not clipped.
      dilation_range: as in `conv_dilated`.

    Returns:
      The shape and dtype of gradient.
    """
    lo, hi = dilation_range
    outwards = ((factors > hi) & (gradient < 0)) | ((factors < lo) & (gradient > 0))
    return jnp.where(outwards, 0, gradient)


def gate_per_image(factors, count: int, dilation_range: tuple[float, float]):
    """Copies factors for each image, so that `gate_gradient` acts on the gradient of each image.

    This is the gate of the official implementation on a GPU (its CPU version has the signs
    exchanged). The layer has the factors of each image, the gate acts per image and channel, and
    then images are summed. Above the range a factor therefore gets the positive gradients of single
    images, whatever the sign of their sum. It returns as soon as a single image asks for it.
    Gradients of devices and of micro-batches add up to the gradient of the batch.

    Args:
      factors: [I], not clipped.
      count: number of images.
      dilation_range: as in `conv_dilated`.

    Returns:
      [count, I], for `conv_dilated`.
    """
    return _gated_copies(factors, count, tuple(dilation_range))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gated_copies(factors, count, dilation_range):
    return jnp.broadcast_to(factors, (count, *factors.shape))


def _gated_copies_forward(factors, count, dilation_range):
    return _gated_copies(factors, count, dilation_range), factors


def _gated_copies_backward(count, dilation_range, factors, gradient):
    return (gate_gradient(gradient, factors, dilation_range).sum(0),)


_gated_copies.defvjp(_gated_copies_forward, _gated_copies_backward)


# --- whole factors --------------------------------------------------------------------------------


def nearest_whole(factors, dilation_range: tuple[float, float]):
    """Rounds factors to the nearest whole numbers inside their range, halves up.

    Args:
      factors: floating point, an array of NumPy or of JAX (also inside jit).
      dilation_range: as in `conv_dilated`. It contains a whole number.

    Returns:
      The array type, shape and dtype of factors.
    """
    lo, hi = dilation_range
    xp = factors.__array_namespace__()
    return xp.clip(xp.floor(factors + 0.5), math.ceil(lo), math.floor(hi))


def round_factors(factors, dilation_range: tuple[float, float]) -> np.ndarray:
    """Rounds factors like `nearest_whole`, on the host.

    Args:
      factors: [I] floating point.
      dilation_range: as in `conv_dilated`.

    Returns:
      [I] int32.

    Raises:
      InputError: the range contains no whole number.
    """
    lo, hi = dilation_range
    if math.ceil(lo) > math.floor(hi):
        raise InputError(
            'round_factors',
            got=f'the range {dilation_range}',
            expected='a range that contains a whole number',
        )
    return nearest_whole(np.asarray(factors, np.float64), dilation_range).astype(np.int32)


def conv_at_whole_factors(x, kernel, factors: np.ndarray):
    """Computes `conv_dilated` for whole factors that are known while tracing.

    Each distinct factor becomes a fixed dilated conv over its channels. Together they multiply as
    often as a single fixed conv over all channels.

    Args:
      x: [B, H, W, I].
      kernel: [kh, kw, I, O], kh and kw odd.
      factors: [I] integers >= 0, NumPy.

    Returns:
      [B, H, W, O] in the dtype of x.
    """
    total = 0
    for factor in np.unique(factors):
        channels = np.flatnonzero(factors == factor)
        part = kernel[:, :, channels]
        if factor == 0:
            # All taps read the same pixel.
            part = part.sum((0, 1), keepdims=True)
        y = conv2d(x[..., channels], part, dilation=max(int(factor), 1))
        total += y.astype(jnp.promote_types(x.dtype, jnp.float32))
    return total.astype(x.dtype)


# --- sampling, then matrix products ---------------------------------------------------------------


class _Form(NamedTuple):
    """An implementation of the parts of `_conv`.

    read      (x [B, H, W, I], offsets, sign, axis, offset_range) -> (S x, slope), at least float32.
              S x is x sampled at sign * offsets along the axis. slope is its derivative by the
              offsets, which are [1, I] or [B, I]
    contract  ([B H W, I] for each tap, kernel [taps, I, O]) -> [B H W, O]
    reduce    [B, H, W, I] -> [B, I], the sum over the pixels of each image
    """

    read: Callable
    contract: Callable
    reduce: Callable


def _conv(x, kernel, factors, dilation_range, form):
    """Computes `conv_dilated` with factors [1, I] or [B, I] inside their range."""
    kh, kw, channels, features = kernel.shape
    sample = functools.partial(
        _sample_taps, factors=factors, dilation_range=dilation_range, form=form
    )
    taps = []
    for row in sample(x, axis=1, taps=kh):
        for tap in sample(row, axis=2, taps=kw):
            taps.append(tap.reshape(-1, channels))
    kernel = kernel.astype(x.dtype).reshape(kh * kw, channels, features)
    y = form.contract(taps, kernel)
    return y.astype(x.dtype).reshape(*x.shape[:3], features)


def _sample_taps(x, factors, dilation_range, axis, taps, form):
    """Returns x as each of the `taps` of a kernel reads it along an axis."""
    maps = []
    for i in range(-(taps // 2), taps // 2 + 1):
        if i == 0:
            maps.append(x)
            continue
        sign = 1 if i > 0 else -1
        offset_range = tuple(abs(i) * end for end in dilation_range)
        maps.append(_sample(x, abs(i) * factors, sign, axis, offset_range, form))
    return maps


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _sample(x, offsets, sign, axis, offset_range, form):
    """Returns S(sign * offsets) x along an axis, in the dtype of x."""
    value, _ = form.read(x, offsets, sign, axis, offset_range)
    return value.astype(x.dtype)


def _sample_forward(x, offsets, sign, axis, offset_range, form):
    return _sample(x, offsets, sign, axis, offset_range, form), (x, offsets)


def _sample_backward(sign, axis, offset_range, form, residuals, dy):
    x, offsets = residuals
    # <dy, S' x> = <S'^T dy, x>. Like S^T, S'^T is the same map with the opposite sign. So a single
    # read serves both gradients.
    dx, slope = form.read(dy, offsets, -sign, axis, offset_range)
    per_image = form.reduce(x * slope)  # [B, I]
    if len(offsets) == 1:
        per_image = per_image.sum(0, keepdims=True)
    return dx.astype(x.dtype), per_image.astype(offsets.dtype)


_sample.defvjp(_sample_forward, _sample_backward)


def _split(offsets, offset_range):
    """Splits offsets into a whole part and a fraction in [0, 1).

    At the upper end of the range the fraction is 1, for the left derivative.
    """
    whole = jnp.minimum(jnp.floor(offsets), math.ceil(offset_range[1]) - 1)
    return whole, offsets - whole


# Both readers are compiled functions of their own. A net with many such layers then traces them
# once.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _read_by_shifts(x, offsets, sign, axis, offset_range):
    """Implements `_Form.read` by static slices."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    size = x.shape[axis]
    whole, part = _split(offsets, offset_range)

    # The whole offsets that any channel may need. Beyond the size of the image all pixels are 0.
    last = math.ceil(offset_range[1])
    steps = range(min(math.floor(offset_range[0]), last - 1), min(last, size - 1) + 1)
    if not steps:
        return jnp.zeros(x.shape, dtype), jnp.zeros(x.shape, dtype)

    # The weight of each step, and its derivative by the offsets: [steps, 1 or B, 1, 1, I].
    near, far = (whole + ahead == jnp.array(steps)[:, None, None] for ahead in (0, 1))
    weights = ((1 - part) * near + part * far).astype(dtype)[:, :, None, None]
    slopes = (far.astype(dtype) - near)[:, :, None, None]

    reach = steps[-1]
    margins = [(0, 0)] * 4
    margins[axis] = (reach, reach)
    # Without the barrier XLA computes the weights anew for each pixel, and samples a map again for
    # each of its readers.
    padded, weights, slopes = lax.optimization_barrier((jnp.pad(x, margins), weights, slopes))
    value = slope = 0
    for step, weight, slope_weight in zip(steps, weights, slopes, strict=True):
        start = reach + sign * step
        shifted = lax.slice_in_dim(padded, start, start + size, axis=axis).astype(dtype)
        value += weight * shifted
        slope += slope_weight * shifted
    return value, slope


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _read_by_gathers(x, offsets, sign, axis, offset_range):
    """Implements `_Form.read` by two gathers."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    size = x.shape[axis]
    whole, part = _split(offsets, offset_range)
    whole = whole.astype(jnp.int32)[:, None, None]  # [1 or B, 1, 1, I]
    part = part.astype(dtype)[:, None, None]

    def shifted(steps):
        pixel = jnp.expand_dims(jnp.arange(size), (0, 3 - axis, 3))  # [1, H, 1, 1] or [1, 1, W, 1]
        index = pixel + sign * steps
        clipped = jnp.clip(index, 0, size - 1)
        values = jnp.take_along_axis(x, clipped, axis, mode='promise_in_bounds')
        return jnp.where((index >= 0) & (index < size), values, 0).astype(dtype)

    near = shifted(whole)
    far = shifted(whole + 1)
    return (1 - part) * near + part * far, far - near


def _contract_by_taps(taps, kernel):
    """Implements `_Form.contract` by a matrix product for each tap."""
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    return sum(
        jnp.matmul(tap, k, preferred_element_type=dtype)
        for tap, k in zip(taps, kernel, strict=True)
    )


def _contract_at_once(taps, kernel):
    """Implements `_Form.contract` by a single matrix product."""
    return jnp.concatenate(taps, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _reduce_by_product(x):
    """Implements `_Form.reduce` by a matrix product."""
    # For a sum XLA:CPU walks through memory channel by channel. The gradients then take 1.3 to 1.8
    # times as long.
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    ones = jnp.ones((1, x.shape[1]), x.dtype)
    return jnp.matmul(ones, x, precision=lax.Precision.HIGHEST)[:, 0]


def _reduce_by_sum(x):
    """Implements `_Form.reduce` by a sum."""
    return x.sum((1, 2))


_SHIFTS = _Form(_read_by_shifts, _contract_by_taps, _reduce_by_product)
_GATHERS = _Form(_read_by_gathers, _contract_at_once, _reduce_by_sum)


# --- the definition -------------------------------------------------------------------------------


def _conv_naive(x, kernel, factors, dilation_range):
    """Computes `conv_dilated` tap by tap, with factors [1, I] or [B, I] inside their range."""
    kh, kw = kernel.shape[:2]
    y = 0
    for i, j in itertools.product(range(kh), range(kw)):
        row_tap = i - kh // 2
        column_tap = j - kw // 2
        sampled = x
        if row_tap:
            sampled = _sample_by_matrix(sampled, factors, row_tap, 1, dilation_range)
        if column_tap:
            sampled = _sample_by_matrix(sampled, factors, column_tap, 2, dilation_range)
        y += sampled @ kernel[i, j].astype(x.dtype)
    return y


def _sample_by_matrix(x, factors, tap, axis, dilation_range):
    """Samples x for a tap along an axis, with S as a matrix per channel."""
    size = x.shape[axis]
    offset_range = [abs(tap) * end for end in dilation_range]
    whole, part = (o[..., None, None] for o in _split(abs(tap) * factors, offset_range))
    pixel = jnp.arange(size)
    # How far each pixel lies ahead of the written pixel, in the direction of the tap.
    ahead = (1 if tap > 0 else -1) * (pixel - pixel[:, None])
    matrix = jnp.where(ahead == whole, 1 - part, 0) + jnp.where(ahead == whole + 1, part, 0)
    matrix = jnp.broadcast_to(matrix, (len(x), *matrix.shape[1:]))  # [B, I, size, size]
    path = 'bchp,bpwc->bhwc' if axis == 1 else 'bcwp,bhpc->bhwc'
    return jnp.einsum(path, matrix.astype(x.dtype), x, precision=lax.Precision.HIGHEST)
