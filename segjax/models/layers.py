"""Layers with the parameters and defaults of torch, so that published weights and settings carry over."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.errors import unknown_name
from segjax.ops import conv as ops
from segjax.ops.depthwise import depthwise_conv

# Initialisers draw along one axis and reshape: the same numbers, in a program that XLA:CPU compiles up to ten times as
# fast as that of a draw with four axes.


def uniform_fan(fan: int) -> Callable:
    """U(-1 / sqrt(fan), 1 / sqrt(fan)): torch's default for kernels (kaiming_uniform with a = sqrt(5)) and biases."""
    limit = fan**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)

    return init


def normal(std: float, mean: float = 0.0) -> Callable:
    """N(mean, std^2)."""

    def init(key, shape, dtype=jnp.float32):
        return mean + std * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return init


def he_fan_out(key, shape, dtype=jnp.float32):
    """N(0, 2 / (kh kw out)): kaiming_normal with fan_out, torchvision's start for ResNet and VGG."""
    return normal((2 / (math.prod(shape[:-2]) * shape[-1])) ** 0.5)(key, shape, dtype)


def scaled(channels: int, width: float) -> int:
    """Channels of a net whose every inner width is multiplied by `width`; at least 1."""
    return max(1, round(channels * width))


def pick_taps(features: dict[str, Any], taps: tuple[str, ...], where: str) -> dict[str, Any]:
    """The features that `taps` names; InputError for a name that the backbone does not have."""
    for tap in taps:
        if tap not in features:
            raise unknown_name(f'{where}: taps', tap, features)
    return {tap: features[tap] for tap in taps}


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
    """Factory of batch norms, for nets to hand to their blocks; called with `name=...`.

    y = (x - mean) / sqrt(var + epsilon) scale + bias. In training the mean and the biased variance are the batch's, and
    the running ones move to decay running + (1 - decay) batch; torch calls 1 - decay the momentum, and lets its running
    variance be the unbiased one.

    Args:
      train: use the batch's statistics, unless frozen.
      decay: of the running statistics, a step.
      epsilon: added to the variance.
      frozen: use the running statistics in training as well, as in fine-tuning with small batches.
      scale_init: initialiser of the scale.
      dtype: of the output; statistics are computed in float32.
      axis_name: mapped axis over which the batch's statistics are those of the global batch.
    """
    return functools.partial(
        nn.BatchNorm,
        use_running_average=frozen or not train,
        momentum=decay,
        epsilon=epsilon,
        scale_init=scale_init,
        dtype=dtype,
        axis_name=axis_name,
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels where the mean is large
    )


def add_bias(y, bias):
    """y + bias in float32, then in the dtype of y.

    The bias's gradient is a sum over all pixels, which stops growing when it is kept in bfloat16.
    """
    return (y + bias).astype(y.dtype)


class Conv(nn.Module):
    """Convolution with torch's symmetric zero padding, or with TensorFlow's; k odd unless `padding` is a number.

    features     channels of the output
    kernel_size  (kh, kw), odd
    strides      of both axes
    dilation     of both axes
    use_bias     a bias in front of a batch norm has zero gradient; published weights have it nevertheless
    kernel_init  initialiser of the kernel [kh, kw, in, out]; None: torch's default, U(+-1 / sqrt(kh kw in))
    bias_init    initialiser of the bias; None: the same distribution as torch's default kernel
    dtype        of the computation; parameters are float32
    forms        'fast' or 'naive' gradient of 3x1 and 1x3 kernels, see ops/conv.py
    padding      pixels on every side; None: dilation (k - 1) / 2, which keeps the size at stride 1; 'same':
                 TensorFlow's, which differs from that at stride 2, see ops/conv.py
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
        default = uniform_fan(kh * kw * x.shape[-1])
        shape = (kh, kw, x.shape[-1], self.features)
        kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
        x = x.astype(self.dtype)
        if (kh == 1) != (kw == 1) and self.strides == 1 and self.padding is None:
            y = ops.conv_factorised(x, kernel, self.dilation, self.forms)
        else:
            y = ops.conv2d(x, kernel, self.strides, self.dilation, self.padding)
        if self.use_bias:
            y = add_bias(
                y, self.param('bias', self.bias_init or default, (self.features,), jnp.float32)
            )
        return y


class DepthwiseConv(nn.Module):
    """k x k convolution of every channel on its own, without bias, see ops/depthwise.py.

    strides      of both axes
    dilation     (rows, columns)
    kernel_init  initialiser of the kernel [k, k, 1, C]; None: torch's default, U(+-1 / k)
    dtype        of the computation; parameters are float32
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
        kernel = self.param(
            'kernel', self.kernel_init or uniform_fan(self.size**2), shape, jnp.float32
        )
        return depthwise_conv(
            x.astype(self.dtype), kernel, self.strides, self.dilation, self.forms, self.padding
        )


class ConvNorm(nn.Module):
    """Convolution without bias (`conv`), batch norm (`bn`), and a ReLU if `relu`; `conv` and `norm` make the layers."""

    features: int
    kernel_size: tuple[int, int]
    conv: Callable
    norm: Callable
    strides: int = 1
    relu: bool = True

    @nn.compact
    def __call__(self, x):
        x = self.conv(
            self.features, self.kernel_size, strides=self.strides, use_bias=False, name='conv'
        )(x)
        x = self.norm(name='bn')(x)
        return nn.relu(x) if self.relu else x


class ConvTranspose(nn.Module):
    """Transposed convolution that exactly doubles height and width, see ops.conv.conv_transpose_s2.

    features     channels of the output
    kernel_size  side of the kernel
    padding      what is cut off in front; None: (k - 1) // 2, that of torch's layers of kernel 2, 3 and 4
    kernel_init  initialiser of the kernel [k, k, in, out]; None: torch's default, U(+-1 / sqrt(k k out))
    bias_init    initialiser of the bias; None: the same distribution as torch's default kernel
    others       as in Conv
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
        # torch takes the fan-in of a transposed convolution from its weight [in, out, k, k]: the output channels.
        default = uniform_fan(k * k * self.features)
        shape = (k, k, x.shape[-1], self.features)
        kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
        y = ops.conv_transpose_s2(x.astype(self.dtype), kernel, padding)
        if self.use_bias:
            y = add_bias(
                y, self.param('bias', self.bias_init or default, (self.features,), jnp.float32)
            )
        return y
