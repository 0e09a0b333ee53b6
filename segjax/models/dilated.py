"""A dilated convolution that learns its dilation, one factor per input channel, and its training.

`layers.Conv(features, (3, 3), dilation=12)` becomes

    LearnedDilationConv(features, (3, 3), dilation=12, dilation_range=(4, 20))

A training needs three more things (He et al., GCPR 2017, official code):

  * A rate for the factors. The authors' is optim.factors = (('.*/dilation', 200_000.0),), for a
    base rate of 1e-3, SGD and a loss that is a mean over valid pixels. Weight decay never touches
    factors or other parameters with one axis.
  * A gate that holds factors in their range. The authors' gate acts on the gradient of each image
    and is part of the layer (`gate='image'`). The gate on the gradient of the batch
    (`gate='batch'`) is ours: the training applies `gate_gradients` to the global gradient.
  * For deployment, `freeze`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.core.trees import named_leaves, path_name
from segjax.errors import InputError, unknown_name
from segjax.models.layers import add_bias, uniform_fan
from segjax.ops import dilated as ops
from segjax.protocol import PyTree

GATES = ('image', 'batch')
Ranges = Mapping[str, tuple[float, float]]
"""{'encoder/fc6/dilation': (4, 20)}: the range of each factor parameter, by its name in the net."""


class LearnedDilationConv(nn.Module):
    """Convolution of stride 1 that keeps the size, with a learned dilation per input channel.

    Parameters are 'kernel' [kh, kw, in, out], 'bias' [out] and 'dilation' [in], all float32. The
    optimiser changes 'dilation' freely. The layer clips it to the range where it is used. After
    `freeze`, 'dilation' is an integer NumPy array. The layer then computes a sum of fixed dilated
    convolutions without clipping.

    features        channels of the output
    kernel_size     (kh, kw), odd
    dilation        initial factor of all channels, or 'uniform': each channel starts at a random
                    factor of the range
    dilation_range  (smallest, largest) factor. Published: (1, 4) for a dilation of 2, (1, 8) for 4,
                    (1, 11) for 6, (7, 17) for 12, (13, 23) for 18, (19, 29) for 24. For fc6 of
                    DeepLab-LargeFOV (4, 20)
    use_bias, kernel_init, bias_init, dtype  as in layers.Conv
    forms           see ops/dilated.py
    gate            'image': ops.dilated.gate_per_image acts in the layer, once for each call.
                    'batch': the layer has no gate, and the training applies `gate_gradients`
    """

    features: int
    kernel_size: tuple[int, int]
    dilation: float | str
    dilation_range: tuple[float, float]
    use_bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: Any = jnp.float32
    forms: str = 'fast'
    gate: str = 'image'

    @nn.compact
    def __call__(self, x):
        if self.gate not in GATES:
            raise unknown_name('LearnedDilationConv: gate', self.gate, GATES)
        kh, kw = self.kernel_size
        shape = (kh, kw, x.shape[-1], self.features)
        default = uniform_fan(kh * kw * x.shape[-1])
        kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param('bias', self.bias_init or default, (self.features,), jnp.float32)
        # The factors come last. Kernel and bias then get the random numbers that layers.Conv would.
        factors = self.param('dilation', self._initial_factors, x.shape[-1:], jnp.float32)

        x = x.astype(self.dtype)
        is_frozen = isinstance(factors, np.ndarray) and np.issubdtype(factors.dtype, np.integer)
        if is_frozen:
            y = ops.conv_at_whole_factors(x, kernel, factors)
        else:
            factors = factors.astype(jnp.promote_types(factors.dtype, jnp.float32))
            if self.gate == 'image':
                factors = ops.gate_per_image(factors, x.shape[0], self.dilation_range)
            y = ops.conv_dilated(x, kernel, factors, self.dilation_range, self.forms)
        return y if bias is None else add_bias(y, bias)

    def _initial_factors(self, key, shape, dtype):
        ops.check_range('LearnedDilationConv', self.dilation_range)
        lo, hi = self.dilation_range
        if self.dilation == 'uniform':
            return jax.random.uniform(key, shape, dtype, lo, hi)
        if isinstance(self.dilation, str) or not lo <= self.dilation <= hi:
            raise InputError(
                'LearnedDilationConv: dilation',
                got=repr(self.dilation),
                expected=f"'uniform' or a number in the range ({lo}, {hi})",
            )
        return jnp.full(shape, self.dilation, dtype)


def factor_ranges(net: nn.Module, x, *args, **kwargs) -> dict[str, tuple[float, float]]:
    """Returns the ranges of all learned dilations of a net, by the names of their parameters.

    The net is traced, so nothing is computed.

    Args:
      net: any module.
      x: its input, or a `jax.ShapeDtypeStruct` of it.
      *args: further positional arguments of the net.
      **kwargs: keyword arguments of the net.
    """
    ranges = {}

    def note_range(call, args, kwargs, context):
        module = context.module
        if isinstance(module, LearnedDilationConv) and context.method_name == '__call__':
            name = '/'.join((*module.path, 'dilation'))
            ranges[name] = module.dilation_range
        return call(*args, **kwargs)

    with nn.intercept_methods(note_range):
        jax.eval_shape(lambda x: net.init(jax.random.key(0), x, *args, **kwargs), x)
    return ranges


def gate_gradients(grads: PyTree, params: PyTree, ranges: Ranges) -> PyTree:
    """Applies `ops.dilated.gate_gradient` to all learned dilations of a net.

    Other gradients are unchanged.

    For layers with gate='batch'. The gate is not linear, so gradients of devices must be summed
    before it: apply it to the result of `parallel.global_value_and_grad`.

    Args:
      grads: gradients of the net's parameters.
      params: its parameters.
      ranges: from `factor_ranges`.

    Raises:
      InputError: names in `ranges` that the parameters do not have.
    """
    _check_names('gate_gradients', params, ranges)

    def gate(path, gradient, param):
        name = path_name(path)
        if name not in ranges:
            return gradient
        return ops.gate_gradient(gradient, param, ranges[name])

    return jax.tree_util.tree_map_with_path(gate, grads, params)


class RoundingError(NamedTuple):
    """|whole factor - learned factor| over the channels of a layer, in pixels.

    The learned factor is clipped to its range first.
    """

    mean: float
    max: float


def freeze(params: PyTree, ranges: Ranges) -> tuple[PyTree, dict[str, RoundingError]]:
    """Rounds all learned dilations to whole numbers, for deployment.

    Make the result a constant of a compiled function, as in
    `jax.jit(lambda x: net.apply({'params': frozen}, x))`. Each layer is then a sum of fixed dilated
    convolutions, one per distinct factor, without interpolation. The result may also be an argument
    of a compiled function. The layers then interpolate at whole numbers, with equal results up to
    rounding.

    Args:
      params: parameters of a net, on the host or fetchable.
      ranges: from `factor_ranges`.

    Returns:
      (params with an int32 NumPy array for each learned dilation, {name: RoundingError}). Other
      parameters are unchanged.

    Raises:
      InputError: a range without a whole number, or names in `ranges` that the params do not have.
    """
    _check_names('freeze', params, ranges)
    errors = {}

    def freeze_leaf(path, param):
        name = path_name(path)
        if name not in ranges:
            return param
        rounded = ops.round_factors(param, ranges[name])
        learned = np.clip(np.asarray(param, np.float64), *ranges[name])
        error = np.abs(rounded - learned)
        errors[name] = RoundingError(float(error.mean()), float(error.max()))
        return rounded

    return jax.tree_util.tree_map_with_path(freeze_leaf, params), errors


def _check_names(where: str, params: PyTree, ranges: Ranges) -> None:
    """Raises InputError for names in `ranges` that the params do not have."""
    absent = sorted(set(ranges) - set(named_leaves(params)))
    if absent:
        raise InputError(
            where,
            got=f'ranges for {", ".join(absent)}, which the params do not have',
            expected='the params of the net that the ranges are from',
            fix="params['segmenter'] rather than params, if they are of several nets",
        )
