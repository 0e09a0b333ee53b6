"""Layers with the parameters and defaults of torch.

Published weights and settings carry over to them.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.ops import conv as ops
from segjax.ops.depthwise import depthwise_conv

# Initialisers generate numbers along one axis and reshape them. A call with the whole shape gives
# the same numbers. XLA:CPU compiles this program up to ten times as fast as with four axes.


def uniform_fan(fan: int) -> Callable:
    """Returns the initialiser U(-1 / sqrt(fan), 1 / sqrt(fan)).

    It is torch's default for kernels (kaiming_uniform with a = sqrt(5)) and for biases.
    """
    limit = fan**-0.5

    def init(key, shape, dtype=jnp.float32):
        flat = jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit)
        return flat.reshape(shape)

    return init


def normal(std: float, mean: float = 0.0) -> Callable:
    """Returns the initialiser N(mean, std^2)."""

    def init(key, shape, dtype=jnp.float32):
        flat = jax.random.normal(key, (math.prod(shape),), dtype)
        return mean + std * flat.reshape(shape)

    return init


def xavier(gain: float) -> Callable:
    """Returns the initialiser N(0, 2 gain^2 / (fan_in + fan_out)).

    It is torch's xavier_normal, for kernels [kh, kw, in, out] of either direction and [in, out].
    """

    def init(key, shape, dtype=jnp.float32):
        fans = math.prod(shape[:-2]) * (shape[-2] + shape[-1])
        std = gain * (2 / fans) ** 0.5
        return normal(std)(key, shape, dtype)

    return init


def he_fan_out(key, shape, dtype=jnp.float32):
    """Initialises a kernel as N(0, 2 / (kh kw out)).

    It is kaiming_normal with fan_out, torchvision's initialisation of ResNet and VGG.
    """
    fan_out = math.prod(shape[:-2]) * shape[-1]
    std = (2 / fan_out) ** 0.5
    return normal(std)(key, shape, dtype)


def he_fan_in(key, shape, dtype=jnp.float32):
    """Initialises a kernel as N(0, 2 / (kh kw in)).

    It is kaiming_normal of torch. A ReLU behind it keeps the mean square of its input.
    """
    std = (2 / math.prod(shape[:-1])) ** 0.5
    return normal(std)(key, shape, dtype)


def xavier_uniform(key, shape, dtype=jnp.float32):
    """Initialises a kernel as U(-a, a) with a = sqrt(6 / (kh kw (in + out)))."""
    positions = math.prod(shape[:-2])
    limit = (6 / (positions * (shape[-2] + shape[-1]))) ** 0.5
    flat = jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit)
    return flat.reshape(shape)


def scaled(channels: int, width: float) -> int:
    """Returns the channels of a layer whose width is multiplied by `width`, at least 1."""
    return max(1, round(channels * width))


ALL_TAPS = 'all'
"""Name that stands for all inner tensors of a net in its field `taps`."""


class Taps:
    """The inner tensors of a net by name, in the order in which they are computed.

    A net passes each of them through its `tap = Taps('resnet', given)`:

        x = tap('layer1', x)

    This records the tensor. If `given` has an array of that name, the array takes the place of the
    tensor, for all layers behind it.

    where    name of the net, for errors
    given    {name: array} of replaced tensors. None: no tensor is replaced
    tensors  {name: tensor} of all tensors so far, replaced or not
    """

    def __init__(self, where: str, given: Mapping[str, Any] | None = None):
        self.where = where
        self.given = given or {}
        self.tensors: dict[str, Any] = {}

    def __call__(self, name: str, tensor: Any) -> Any:
        """Records a tensor and returns it, or returns the given array in the tensor's dtype.

        Raises:
          InputError: the given array has another shape.
        """
        if name in self.given:
            array = self.given[name]
            if array.shape != tensor.shape:
                raise InputError(
                    f'{self.where}: given {name!r}',
                    got=f'an array of shape {array.shape}',
                    expected=f'the shape of the inner tensor, {tensor.shape}',
                )
            tensor = array.astype(tensor.dtype)
        self.tensors[name] = tensor
        return tensor

    def pick(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Returns {name: tensor} of some names, or of all tensors if ALL_TAPS is among them.

        A net calls this behind its last tensor.

        Raises:
          InputError: a name here or in `given` that the net does not have.
        """
        for name in self.given:
            if name not in self.tensors:
                raise unknown_name(f'{self.where}: given', name, self.tensors)
        if ALL_TAPS in names:
            return dict(self.tensors)
        for name in names:
            if name not in self.tensors:
                raise unknown_name(f'{self.where}: taps', name, self.tensors)
        return {name: self.tensors[name] for name in names}


def batch_norm(
    train: bool,
    *,
    decay: float = 0.9,
    epsilon: float = 1e-5,
    frozen: bool = False,
    scale_init: Callable = nn.initializers.ones,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
) -> Callable:
    """Returns a factory of batch norms, which nets hand to their blocks and call with `name=...`.

        y = (x - mean) / sqrt(var + epsilon) scale + bias

    In training, mean and biased variance are computed over the batch.
    Running statistics become decay running + (1 - decay) batch. torch calls 1 - decay the momentum,
    and its running variance is unbiased.

    Args:
      train: use the statistics of the batch, unless frozen.
      decay: of the running statistics, a step.
      epsilon: added to the variance.
      frozen: use the running statistics in training, as in fine-tuning with small batches.
      scale_init: initialiser of the scale.
      dtype: of the output. Statistics are computed in float32.
      axis_name: mapped axis of the devices that share batch statistics. None: not shared.
    """
    return functools.partial(
        nn.BatchNorm,
        use_running_average=frozen or not train,
        momentum=decay,
        epsilon=epsilon,
        scale_init=scale_init,
        dtype=dtype,
        axis_name=axis_name,
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels where the mean is large.
    )


def add_bias(y, bias):
    """Returns y + bias, computed in float32, in the dtype of y.

    The gradient of the bias is a sum over all pixels. In bfloat16 such a sum stops growing.
    """
    return (y + bias).astype(y.dtype)


class Conv(nn.Module):
    """Convolution with the symmetric zero padding of torch, or with the padding of TensorFlow.

    features     channels of the output
    kernel_size  (kh, kw), odd unless `padding` is a number
    strides      of both axes
    dilation     of both axes
    use_bias     whether the layer has a bias. A bias in front of a batch norm has zero gradient,
                 but published weights have it
    kernel_init  initialiser of the kernel [kh, kw, in, out]. None: torch's default,
                 U(+-1 / sqrt(kh kw in))
    bias_init    initialiser of the bias. None: the distribution of torch's default kernel
    dtype        of the computation. Parameters are float32
    forms        'fast' or 'naive' gradient of 3x1 and 1x3 kernels, see ops/conv.py
    padding      pixels on every side. None: dilation (k - 1) / 2, which keeps the size at stride 1.
                 'same': TensorFlow's, which differs from None at stride 2, see ops/conv.py
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    dilation: int = 1
    use_bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: Any = jnp.float32
    forms: str = 'fast'
    padding: int | str | None = None

    @nn.compact
    def __call__(self, x):
        kh, kw = self.kernel_size
        shape = (kh, kw, x.shape[-1], self.features)
        default = uniform_fan(kh * kw * x.shape[-1])
        kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
        x = x.astype(self.dtype)

        has_one_axis = (kh == 1) != (kw == 1)
        if has_one_axis and self.strides == 1 and self.padding is None:
            y = ops.conv_factorised(x, kernel, self.dilation, self.forms)
        else:
            y = ops.conv2d(x, kernel, self.strides, self.dilation, self.padding)

        if self.use_bias:
            bias = self.param('bias', self.bias_init or default, (self.features,), jnp.float32)
            y = add_bias(y, bias)
        return y


class GatedConv(nn.Module):
    """Convolution whose outputs are scaled by gates that it computes from the same input.

        (f, g) = conv(x), two halves of its 2 `features` channels
        y      = elu(f) sigmoid(g)

    There is no norm. Source: Yu et al., Free-Form Image Inpainting with Gated Convolution, ICCV
    2019, and its TensorFlow release.

    features     channels of the output
    kernel_size  (kh, kw)
    strides      of both axes
    kernel_init  as in Conv, for both halves
    bias_init    as in Conv
    dtype        as in Conv
    padding      as in Conv. The release has 'same'
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: Any = jnp.float32
    padding: int | str | None = 'same'

    @nn.compact
    def __call__(self, x):
        kh, kw = self.kernel_size
        channels = 2 * self.features
        default = uniform_fan(kh * kw * x.shape[-1])
        shape = (kh, kw, x.shape[-1], channels)
        kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
        bias = self.param('bias', self.bias_init or default, (channels,), jnp.float32)
        y = ops.conv2d(x.astype(self.dtype), kernel, self.strides, padding=self.padding)
        y = add_bias(y, bias)
        feature, gate = jnp.split(y, 2, -1)
        return nn.elu(feature) * nn.sigmoid(gate)


class DepthwiseConv(nn.Module):
    """k x k convolution of every channel on its own, without bias, see ops/depthwise.py.

    strides      of both axes
    dilation     (rows, columns)
    kernel_init  initialiser of the kernel [k, k, 1, C]. None: torch's default, U(+-1 / k)
    dtype        of the computation. Parameters are float32
    forms        'fast' or 'naive'
    size         k, odd
    padding      as in Conv
    """

    strides: int = 1
    dilation: tuple[int, int] = (1, 1)
    kernel_init: Callable | None = None
    dtype: Any = jnp.float32
    forms: str = 'fast'
    size: int = 3
    padding: int | str | None = None

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, 1, x.shape[-1])
        init = self.kernel_init or uniform_fan(self.size**2)
        kernel = self.param('kernel', init, shape, jnp.float32)
        x = x.astype(self.dtype)
        return depthwise_conv(x, kernel, self.strides, self.dilation, self.forms, self.padding)


class ConvNorm(nn.Module):
    """Convolution without bias (`conv`), batch norm (`bn`), and a ReLU.

    features     channels of the output
    kernel_size  (kh, kw)
    conv         makes the convolution: conv(features, kernel_size, strides=, use_bias=False, name=)
    norm         makes the batch norm: norm(name=)
    strides      of both axes
    relu         whether there is a ReLU
    """

    features: int
    kernel_size: tuple[int, int]
    conv: Callable
    norm: Callable
    strides: int = 1
    relu: bool = True

    @nn.compact
    def __call__(self, x):
        conv = self.conv(
            self.features, self.kernel_size, strides=self.strides, use_bias=False, name='conv'
        )
        x = conv(x)
        x = self.norm(name='bn')(x)
        return nn.relu(x) if self.relu else x


class ConvTranspose(nn.Module):
    """Transposed convolution that exactly doubles height and width, see ops.conv.conv_transpose_s2.

    features     channels of the output
    kernel_size  k, the side of the kernel
    padding      pixels that are cut off in front. None: (k - 1) // 2, as in torch's layers with
                 kernels of 2, 3 and 4
    use_bias     as in Conv
    kernel_init  initialiser of the kernel [k, k, in, out]. None: torch's default,
                 U(+-1 / sqrt(k k out))
    bias_init    initialiser of the bias. None: the distribution of torch's default kernel
    dtype        as in Conv
    """

    features: int
    kernel_size: int
    padding: int | None = None
    use_bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        k = self.kernel_size
        padding = (k - 1) // 2 if self.padding is None else self.padding
        shape = (k, k, x.shape[-1], self.features)
        # torch computes the fan-in from its weight [in, out, k, k], so it counts output channels.
        default = uniform_fan(k * k * self.features)
        kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
        x = x.astype(self.dtype)
        y = ops.conv_transpose_s2(x, kernel, padding)
        if self.use_bias:
            bias = self.param('bias', self.bias_init or default, (self.features,), jnp.float32)
            y = add_bias(y, bias)
        return y
