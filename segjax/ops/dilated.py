"""Convolutions with a learned, fractional dilation factor for every input channel.

He, thesis chapter 4; He, Keuper, Schiele, Fritz: Learning Dilation Factors for Semantic Segmentation of Street Scenes
(GCPR 2017). With taps i, j counted from the centre of the kernel

    y[m, n] = sum over c, i, j of kernel[i, j, c] x_c(m + i d_c, n + j d_c)                                   (Eq. 4.2)

where x_c between four pixels is bilinear, and zero outside the image: each of the four neighbours counts where it lies
inside (Eq. 4.3). A tap of a 3x3 kernel reads the pixels that are floor(d) and floor(d) + 1 *away from the centre*, with
the weights 1 - a and a, a = d - floor(d). So read, Eq. 4.3 is bilinear for every tap, and Eq. 4.4 holds as printed (but
for a product sign that must be a plus); floors of the coordinates would exchange the weights left of the centre.

Forms. Sampling is a linear map per axis, S(o): out[h] = sum over h' of max(0, 1 - |h' - h - o|) x[h'], with an offset o
for each channel. Its transpose is S(-o), borders included: the gradient samples as the forward pass does, and no form
has a scatter. A 3x3 conv is S along rows (two maps), S along columns (six), and nine matrix products.

  shifts   S is a sum over the integer offsets of the range: static slices times a weight per channel; no index anywhere
  gathers  S is two gathers with an index per row and channel
  naive    S is a matrix per channel, the gradient JAX's own; the reference of the tests
  fast     gathers on a GPU, where reads are cheap and `shifts` reads the whole range; shifts elsewhere (a TPU gathers
           slowly)

Measured against `conv2d` at one fixed dilation, as ratios of CPU seconds on one core of an Intel Xeon at 2.5 GHz:
float32, batch 1, 3x3, factors uniform over the range, jax 0.10.2. 'by taps' is the fixed dilation as slices and
products in place of XLA's conv, whose own gradient is slow on a CPU: learning costs the distance to that column.
(fc6 and conv5 are DeepLab-LargeFOV's, psp PSPNet's; aspp, DeepLab-v2's head at half its inputs, has few outputs to
share the sampling.)

                                    forward                             with gradients
  layer  map     channels    range  by taps  shifts  gathers  naive     by taps  shifts  gathers  naive
  fc6    41x41   512 > 1024  4-20      0.93    1.01     1.41   1.18        0.50    0.51     0.75   0.63
  conv5  41x41   512 >  512  1-4       1.15    1.25     2.38   1.88        0.55    0.60     1.13   1.04
  psp    60x60   512 >  512  1-8       1.22    1.35     2.47   1.81        0.57    0.63     1.16   1.07
  psp    60x60   256 >  256  1-4       1.61    1.78     4.20   2.83        0.63    0.75     1.81   1.62
  aspp   41x41  1024 >   19  7-17      2.13    3.71    12.23   8.08        0.88    1.80     5.27   4.21

Four gathers per tap, differentiated by JAX (scatters), take 1.8 to 17 times the fixed conv with gradients. Whole
factors known while tracing (`conv_at_whole_factors`) take 0.93 to 1.13 forward, 1.6 where a factor has 15 channels.
GPU and TPU are not measured: there the choice rests on counts of reads. The paper reports 3 to 8 % for inference and 10
to 15 % for training, of whole nets on a GPU.
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

FORMS = ('fast', 'shifts', 'gathers', 'naive')


def conv_dilated(x, kernel, factors, dilation_range: tuple[float, float], forms: str = 'fast'):
    """Convolution of stride 1 that keeps the size, with a dilation factor per input channel (Eq. 4.2 to 4.7).

    Factors are clipped to the range. The gradient passes through the clipping unchanged: a factor outside gets the
    gradient of the end that it was clipped to. `gate_per_image` and `gate_gradient` remove what
    leads further out.

    As a function of a factor the output is continuous and piecewise quadratic, with a kink wherever a tap crosses a
    pixel (for 3x3: at integers). There the right derivative is taken, which is Eq. 4.4 with a = d - floor(d) = 0; at
    the upper end of the range the left one, since no factor beyond it can be reached. The gradient can be
    differentiated again in reverse mode; forward mode raises, except for 'naive'.

    Args:
      x: [B, H, W, I].
      kernel: [kh, kw, I, O], kh and kw odd; cast to the dtype of x.
      factors: [I], or [B, I] with factors for each image; floating point, pixels. They stay in
        their dtype, float32, whatever x has: interpolation weights are computed in float32 at
        least.
      dilation_range: smallest and largest factor. The time of 'shifts' grows with the whole numbers in it.
      forms: see above.

    Returns:
      [B, H, W, O] in the dtype of x.

    Raises:
      InputError: a range that is empty or reaches below 0, an even kernel, not one factor per input channel.
    """
    if forms not in FORMS:
        raise unknown_name('forms', forms, FORMS)
    check_range('conv_dilated', dilation_range)
    if any(k % 2 == 0 for k in kernel.shape[:2]):
        got = f'a kernel of {kernel.shape[0]}x{kernel.shape[1]}'
        raise InputError(
            'conv_dilated', got=got, expected='odd extents: taps are placed around a centre'
        )
    if kernel.shape[2:3] != x.shape[-1:] or factors.shape not in (
        x.shape[-1:],
        (x.shape[0], x.shape[-1]),
    ):
        raise InputError(
            'conv_dilated',
            got=f'factors {list(factors.shape)}, x {list(x.shape)}, kernel {list(kernel.shape)}',
            expected='one factor for each input channel of x and kernel, the same in all images or for each image',
        )
    factors = _straight_through(factors, jnp.clip(factors, *dilation_range))
    factors = jnp.atleast_2d(factors)  # [1, I] or [B, I]
    if forms == 'naive':
        return _conv_naive(x, kernel, factors, dilation_range)
    shifts, gathers = (
        # The sampled maps are as large as nine inputs: sampled again in the backward pass instead of kept until then.
        jax.checkpoint(functools.partial(_conv, dilation_range=dilation_range, form=form))
        for form in (_SHIFTS, _GATHERS)
    )
    if forms == 'fast':
        return lax.platform_dependent(
            x, kernel, factors, cuda=gathers, rocm=gathers, default=shifts
        )
    return {'shifts': shifts, 'gathers': gathers}[forms](x, kernel, factors)


def check_range(where: str, dilation_range: tuple[float, float]) -> None:
    """Raises InputError unless 0 <= smallest <= largest, 0 < largest; `where` names its owner for the message."""
    lo, hi = dilation_range
    if not (0 <= lo <= hi < math.inf and hi > 0):
        raise InputError(
            f'{where}: dilation_range',
            got=f'({lo}, {hi})',
            expected='(smallest, largest), 0 <= smallest <= largest, largest > 0',
        )


# Not factors + stop_gradient(clipped - factors), which may round to a number outside the range.
@jax.custom_jvp
def _straight_through(factors, clipped):
    """clipped, with the gradient of factors."""
    return clipped


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[1], tangents[0]


def gate_gradient(gradient, factors, dilation_range: tuple[float, float]):
    """Sets to zero what would move a factor that is outside its range further out.

    Above the largest factor only positive gradients pass. Below the smallest factor only negative
    ones pass. The gate is not linear: gated gradients of images, devices or micro-batches do not
    add up to the gated gradient of a batch.

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
    exchanged): the layer has the factors of each image, the gate acts per image and channel, and
    then images are summed. Above the range a factor therefore gets the positive gradients of single
    images, whatever the sign of their sum. It comes back as soon as one image asks for it.
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


def round_factors(factors, dilation_range: tuple[float, float]) -> np.ndarray:
    """The nearest whole factors inside the range, on the host; halves go up.

    Args:
      factors: [I] floating point; clipped to the range first.
      dilation_range: as in `conv_dilated`; must contain a whole number.

    Returns:
      [I] int32.
    """
    lo, hi = math.ceil(dilation_range[0]), math.floor(dilation_range[1])
    if lo > hi:
        raise InputError(
            'round_factors',
            got=f'the range {dilation_range}',
            expected='one with a whole number in it',
        )
    return np.clip(np.floor(np.asarray(factors, np.float64) + 0.5), lo, hi).astype(np.int32)


def conv_at_whole_factors(x, kernel, factors: np.ndarray):
    """The same map for whole factors that are known while tracing: one fixed dilated conv per distinct factor.

    All of them together multiply as often as one fixed conv over all channels.

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
        if factor == 0:  # all taps read the same pixel
            part = part.sum((0, 1), keepdims=True)
        y = conv2d(x[..., channels], part, dilation=max(int(factor), 1))
        total += y.astype(jnp.promote_types(x.dtype, jnp.float32))
    return total.astype(x.dtype)


# --- sampling, then matrix products ---------------------------------------------------------------


class _Form(NamedTuple):
    """How the parts are computed.

    read      (x [B, H, W, I], offsets, sign, axis, offset_range) -> (S x, slope), at least float32:
              x sampled at sign * offsets along the axis, and the derivative by the offsets, which
              are [1, I] or [B, I]
    contract  ([B H W, I] for each tap, kernel [taps, I, O]) -> [B H W, O]
    reduce    [B, H, W, I] -> [B, I], the sum over the pixels of each image
    """

    read: Callable
    contract: Callable
    reduce: Callable


def _conv(x, kernel, factors, dilation_range, form):
    kh, kw, channels, features = kernel.shape
    sample = functools.partial(
        _sample_taps, factors=factors, dilation_range=dilation_range, form=form
    )
    taps = [
        tap.reshape(-1, channels)
        for row in sample(x, axis=1, taps=kh)
        for tap in sample(row, axis=2, taps=kw)
    ]
    y = form.contract(taps, kernel.astype(x.dtype).reshape(kh * kw, channels, features))
    return y.astype(x.dtype).reshape(*x.shape[:3], features)


def _sample_taps(x, factors, dilation_range, axis, taps, form):
    """x as each of the `taps` of a kernel sees it along an axis."""
    maps = []
    for i in range(-(taps // 2), taps // 2 + 1):
        offset_range = tuple(abs(i) * end for end in dilation_range)
        maps.append(
            _sample(x, abs(i) * factors, 1 if i > 0 else -1, axis, offset_range, form) if i else x
        )
    return maps


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _sample(x, offsets, sign, axis, offset_range, form):
    """S(sign * offsets) x along an axis, in the dtype of x."""
    return form.read(x, offsets, sign, axis, offset_range)[0].astype(x.dtype)


def _sample_forward(x, offsets, sign, axis, offset_range, form):
    return _sample(x, offsets, sign, axis, offset_range, form), (x, offsets)


def _sample_backward(sign, axis, offset_range, form, residuals, dy):
    x, offsets = residuals
    # <dy, S' x> = <S'^T dy, x>, and S'^T is, as S^T, the same map with the other sign: one read for both gradients.
    dx, slope = form.read(dy, offsets, -sign, axis, offset_range)
    per_image = form.reduce(x * slope)
    if len(offsets) == 1:
        per_image = per_image.sum(0, keepdims=True)
    return dx.astype(x.dtype), per_image.astype(offsets.dtype)


_sample.defvjp(_sample_forward, _sample_backward)


def _split(offsets, offset_range):
    """offsets = whole + part, part in [0, 1); but part = 1 at the upper end of the range, for the left derivative."""
    whole = jnp.minimum(jnp.floor(offsets), math.ceil(offset_range[1]) - 1)
    return whole, offsets - whole


# Compiled functions of their own only so that a net with many such layers traces them once.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _read_by_shifts(x, offsets, sign, axis, offset_range):
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    size = x.shape[axis]
    whole, part = _split(offsets, offset_range)
    last = math.ceil(offset_range[1])
    steps = range(min(math.floor(offset_range[0]), last - 1), min(last, size - 1) + 1)
    if not steps:
        return jnp.zeros(x.shape, dtype), jnp.zeros(x.shape, dtype)
    near, far = (whole + ahead == jnp.array(steps)[:, None, None] for ahead in (0, 1))
    weights = ((1 - part) * near + part * far).astype(dtype)[
        :, :, None, None
    ]  # [steps, 1 or B, 1, 1, I]
    slopes = (far.astype(dtype) - near)[:, :, None, None]
    reach = steps[-1]
    margins = [(reach, reach) if a == axis else (0, 0) for a in range(4)]
    # Else XLA computes the weights anew for each pixel, and a map that is sampled again for each of its readers.
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
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    size = x.shape[axis]
    whole, part = _split(offsets, offset_range)
    whole, part = whole.astype(jnp.int32)[:, None, None], part.astype(dtype)[:, None, None]

    def shifted(steps):
        pixel = jnp.expand_dims(jnp.arange(size), (0, 3 - axis, 3))  # [1, H, 1, 1] or [1, 1, W, 1]
        index = pixel + sign * steps
        read = jnp.take_along_axis(x, jnp.clip(index, 0, size - 1), axis, mode='promise_in_bounds')
        return jnp.where((index >= 0) & (index < size), read, 0).astype(dtype)

    near, far = shifted(whole), shifted(whole + 1)
    return (1 - part) * near + part * far, far - near


def _contract_by_taps(taps, kernel):
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    return sum(
        jnp.matmul(tap, k, preferred_element_type=dtype)
        for tap, k in zip(taps, kernel, strict=True)
    )


def _contract_at_once(taps, kernel):
    return jnp.concatenate(taps, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _reduce_by_product(x):
    # XLA:CPU walks through memory channel by channel for the same sum: the gradients take 1.3 to 1.8 times as long.
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return jnp.matmul(jnp.ones((1, x.shape[1]), x.dtype), x, precision=lax.Precision.HIGHEST)[:, 0]


def _reduce_by_sum(x):
    return x.sum((1, 2))


_SHIFTS = _Form(_read_by_shifts, _contract_by_taps, _reduce_by_product)
_GATHERS = _Form(_read_by_gathers, _contract_at_once, _reduce_by_sum)


# --- the definition -------------------------------------------------------------------------------


def _conv_naive(x, kernel, factors, dilation_range):
    """S as a matrix per channel and axis; one convolution tap after the other."""
    kh, kw = kernel.shape[:2]

    def sample(x, tap, axis):
        size = x.shape[axis]
        offset_range = [abs(tap) * end for end in dilation_range]
        whole, part = (o[..., None, None] for o in _split(abs(tap) * factors, offset_range))
        pixel = jnp.arange(size)
        ahead = (1 if tap > 0 else -1) * (
            pixel - pixel[:, None]
        )  # of the pixel written, in the direction of the tap
        matrix = jnp.where(ahead == whole, 1 - part, 0) + jnp.where(ahead == whole + 1, part, 0)
        matrix = jnp.broadcast_to(matrix, (len(x), *matrix.shape[1:]))
        path = 'bchp,bpwc->bhwc' if axis == 1 else 'bcwp,bhpc->bhwc'
        return jnp.einsum(path, matrix.astype(x.dtype), x, precision=lax.Precision.HIGHEST)

    y = 0
    for i, j in itertools.product(range(kh), range(kw)):
        row = sample(x, i - kh // 2, 1) if i != kh // 2 else x
        tap = sample(row, j - kw // 2, 2) if j != kw // 2 else row
        y += tap @ kernel[i, j].astype(x.dtype)
    return y
