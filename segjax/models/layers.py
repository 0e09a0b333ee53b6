"""Layers with the parameters and defaults of torch, so that published weights and settings carry over."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.ops import conv as ops


def uniform_fan(fan: int) -> Callable:
    """U(-1 / sqrt(fan), 1 / sqrt(fan)): torch's default for kernels (kaiming_uniform with a = sqrt(5)) and biases."""
    limit = fan**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def _add_bias(y, bias):
    # In float32: the bias's gradient is a sum over all pixels, which stops growing when it is kept in bfloat16.
    return (y + bias).astype(y.dtype)


class Conv(nn.Module):
    """Convolution with torch's symmetric zero padding: dilation (k - 1) / 2 on both sides, k odd.

    features     channels of the output
    kernel_size  (kh, kw), odd
    strides      of both axes
    dilation     of both axes
    use_bias     a bias in front of a batch norm has zero gradient; published weights have it nevertheless
    kernel_init  initialiser of the kernel [kh, kw, in, out]; None: torch's default, U(+-1 / sqrt(kh kw in))
    bias_init    initialiser of the bias; None: the same distribution as torch's default kernel
    dtype        of the computation; parameters are float32
    forms        'fast' or 'naive', see ops/conv.py; they differ for 3x1 and 1x3 kernels only
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

    @nn.compact
    def __call__(self, x):
        kh, kw = self.kernel_size
        default = uniform_fan(kh * kw * x.shape[-1])
        shape = (kh, kw, x.shape[-1], self.features)
        kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
        x = x.astype(self.dtype)
        if (kh == 1) != (kw == 1) and self.strides == 1:
            y = ops.conv_factorised(x, kernel, self.dilation, self.forms)
        else:
            y = ops.conv2d(x, kernel, self.strides, self.dilation)
        if self.use_bias:
            y = _add_bias(y, self.param('bias', self.bias_init or default, (self.features,), jnp.float32))
        return y


class ConvTranspose(nn.Module):
    """Transposed convolution that exactly doubles height and width.

    features     channels of the output
    kernel_size  3 (torch: stride 2, padding 1, output_padding 1) or 2 (stride 2, padding 0)
    kernel_init  initialiser of the kernel [k, k, in, out]; None: torch's default, U(+-1 / sqrt(k k out))
    bias_init    initialiser of the bias; None: the same distribution as torch's default kernel
    others       as in Conv
    """

    features: int
    kernel_size: int
    use_bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: Any = jnp.float32
    forms: str = 'fast'

    @nn.compact
    def __call__(self, x):
        operations = {2: ops.conv_transpose_2x2_s2, 3: ops.conv_transpose_3x3_s2}
        k = self.kernel_size
        if k not in operations:
            raise InputError('ConvTranspose', got=f'kernel_size {k}', expected='2 or 3')
        # torch takes the fan-in of a transposed convolution from its weight [in, out, k, k]: the output channels.
        default = uniform_fan(k * k * self.features)
        shape = (k, k, x.shape[-1], self.features)
        kernel = self.param('kernel', self.kernel_init or default, shape, jnp.float32)
        y = operations[k](x.astype(self.dtype), kernel, self.forms)
        if self.use_bias:
            y = _add_bias(y, self.param('bias', self.bias_init or default, (self.features,), jnp.float32))
        return y
