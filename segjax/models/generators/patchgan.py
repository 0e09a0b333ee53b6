"""PatchGAN: a discriminator that judges overlapping patches of an image.

Source: Isola, Zhu, Zhou, Efros, Image-to-Image Translation with Conditional Adversarial Networks,
CVPR 2017 (pix2pix), with the settings of the CycleGAN release (Zhu et al. 2017). These are instance
normalisation and the least-squares loss, so there is no sigmoid.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.layers import add_bias, normal, uniform_fan
from segjax.ops.conv import conv_4x4

KERNEL = 4
SLOPE = 0.2
EPSILON = 1e-5


def instance_norm(x):
    """Returns (x - mean) / sqrt(var + 1e-5), over the pixels of one channel of one image.

    The variance is biased. There are no scale, shift and running statistics, so training and
    evaluation are the same. Computed in float32.

    Args:
      x: [B, H, W, C].

    Returns:
      The shape and dtype of x.
    """
    y = x.astype(jnp.float32)
    y = y - y.mean((1, 2), keepdims=True)
    variance = (y**2).mean((1, 2), keepdims=True)
    y = y / jnp.sqrt(variance + EPSILON)
    return y.astype(x.dtype)


def output_size(height: int, width: int, num_layers: int) -> tuple[int, int]:
    """Returns (h, w) of the logits: floor(H / 2^num_layers) - 2, and the same for W.

    Raises:
      InputError: the image is too small for a single logit.
    """
    size = tuple(n // 2**num_layers - 2 for n in (height, width))
    if min(size) < 1:
        raise InputError(
            'patchgan: input',
            got=f'height {height}, width {width}',
            expected=f'at least {3 * 2**num_layers} pixels each for num_layers={num_layers}',
            fix='use larger images or fewer layers',
        )
    return size


def receptive_field(num_layers: int) -> int:
    """Returns the side in pixels of the patch that one logit sees: 70 for 3 layers, 34 for 2.

    Only convolutions are counted. Through the statistics of the instance norm every logit depends
    on the whole image.
    """
    field = 1
    for stride in reversed(_strides(num_layers)):
        field = (field - 1) * stride + KERNEL
    return field


def _strides(num_layers: int) -> list[int]:
    """Returns the strides of all convolutions."""
    return [2] * num_layers + [1, 1]


class Conv(nn.Module):
    """4x4 convolution with pixels of zeros around the image.

    With one pixel stride 2 halves the size, and stride 1 makes it smaller by one pixel.

    features     channels of the output
    strides      of both axes
    init_std     the kernel is initialised as N(0, init_std^2)
    dtype        of the computation. Parameters are float32
    forms        'fast' or 'naive', see ops/conv.py
    padding      pixels of zeros on every side, at least 1
    bias_init    initialiser of the bias. None: torch's default, U(+-1 / sqrt(16 in))
    use_bias     whether the layer has a bias
    kernel_init  initialiser of the kernel, which replaces init_std. None: init_std holds
    """

    features: int
    strides: int
    init_std: float
    dtype: Any
    forms: str
    padding: int = 1
    bias_init: Callable | None = nn.initializers.zeros
    use_bias: bool = True
    kernel_init: Callable | None = None

    @nn.compact
    def __call__(self, x):
        shape = (KERNEL, KERNEL, x.shape[-1], self.features)
        kernel_init = self.kernel_init or normal(self.init_std)
        kernel = self.param('kernel', kernel_init, shape, jnp.float32)
        x = x.astype(self.dtype)
        if self.padding > 1:
            # `conv_4x4` adds the last pixel of zeros itself.
            more = (self.padding - 1, self.padding - 1)
            x = jnp.pad(x, ((0, 0), more, more, (0, 0)))
        y = conv_4x4(x, kernel, self.strides, self.forms)
        if not self.use_bias:
            return y
        bias_init = self.bias_init or uniform_fan(math.prod(shape[:3]))
        bias = self.param('bias', bias_init, (self.features,), jnp.float32)
        return add_bias(y, bias)


class PatchGAN(nn.Module):
    """Discriminator of num_layers + 2 convolutions `conv_0`, `conv_1`, ...

    Call `net.apply({'params': params}, x)`.

    All kernels are 4x4, with one pixel of padding. The first num_layers convolutions have stride 2,
    the last two stride 1. Channels double from `features` to at most 8 times `features`. A leaky
    ReLU (0.2) follows all convolutions except the last. An instance norm is in front of each leaky
    ReLU except the first. Every convolution has a bias, as released. In front of a norm its
    gradient is zero.

    features    channels after the first convolution
    num_layers  convolutions of stride 2
    init_std    kernels are initialised as N(0, init_std^2), biases as 0
    dtype       of activations. Parameters, statistics and logits are float32
    norm        [B, H, W, C] -> [B, H, W, C]
    forms       'fast' or 'naive' forms of the same maps, see ops/conv.py
    """

    features: int = 64
    num_layers: int = 3
    init_std: float = 0.02
    dtype: Any = jnp.float32
    norm: Callable = instance_norm
    forms: str = 'fast'

    @nn.compact
    def __call__(self, x):
        """Returns the realism of each patch.

        Args:
          x: [B, H, W, C] floating point, e.g. an image in [-1, 1].

        Returns:
          [B, h, w, 1] float32 logits without a sigmoid, see `output_size`.
        """
        self._check(x)
        strides = _strides(self.num_layers)
        x = x.astype(self.dtype)
        for i, stride in enumerate(strides):
            is_last = i == len(strides) - 1
            features = 1 if is_last else self.features * min(2**i, 8)
            x = Conv(features, stride, self.init_std, self.dtype, self.forms, name=f'conv_{i}')(x)
            if is_last:
                break
            if i > 0:
                x = self.norm(x)
            x = nn.leaky_relu(x, SLOPE)
        return x.astype(jnp.float32)

    def _check(self, x) -> None:
        """Raises InputError for no layers of stride 2, or too small an image."""
        if self.num_layers < 1:
            raise InputError(
                'patchgan: num_layers', got=str(self.num_layers), expected='at least 1'
            )
        output_size(*x.shape[1:3], self.num_layers)
