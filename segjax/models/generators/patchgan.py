"""PatchGAN: a discriminator that judges overlapping patches of an image.

Isola et al. 2017 (pix2pix), with the settings of the CycleGAN release (Zhu et al. 2017): instance normalisation,
least-squares loss, so no sigmoid.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.layers import add_bias, normal
from segjax.ops.conv import conv_4x4

KERNEL = 4
SLOPE = 0.2
EPSILON = 1e-5


def instance_norm(x):
    """(x - mean) / sqrt(var + 1e-5), mean and biased variance over the pixels of one channel of one image.

    No scale, no shift, no running statistics: the same in training and evaluation. Computed in float32.

    Args:
      x: [B, H, W, C].

    Returns:
      The shape and dtype of x.
    """
    y = x.astype(jnp.float32)
    y = y - y.mean((1, 2), keepdims=True)
    return (y / jnp.sqrt((y**2).mean((1, 2), keepdims=True) + EPSILON)).astype(x.dtype)


def output_size(height: int, width: int, num_layers: int) -> tuple[int, int]:
    """(h, w) of the logits: floor(H / 2^num_layers) - 2 and W alike.

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
    """Side in pixels of the patch that one logit sees: 70 for 3 layers, 34 for 2.

    That of the convolutions alone. Through the statistics of the instance norm every logit depends on the whole image.
    """
    field = 1
    for stride in reversed(_strides(num_layers)):
        field = (field - 1) * stride + KERNEL
    return field


def _strides(num_layers: int) -> list[int]:
    return [2] * num_layers + [1, 1]


class Conv(nn.Module):
    """4x4 convolution, one pixel of zeros around the image: halves the size at stride 2, takes one off at stride 1."""

    features: int
    strides: int
    init_std: float
    dtype: Any
    forms: str

    @nn.compact
    def __call__(self, x):
        shape = (KERNEL, KERNEL, x.shape[-1], self.features)
        kernel = self.param('kernel', normal(self.init_std), shape, jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
        y = conv_4x4(x.astype(self.dtype), kernel, self.strides, self.forms)
        return add_bias(y, bias)


class PatchGAN(nn.Module):
    """Discriminator of num_layers + 2 convolutions `conv_0`, `conv_1`, ...; `net.apply({'params': params}, x)`.

    Kernel 4, one pixel of padding. The first num_layers have stride 2, the last two stride 1; channels double from
    `features` to at most 8 times that. Leaky ReLU (0.2) after all but the last, instance norm before it except in the
    first. Every convolution has a bias, as released, though those in front of a norm have zero gradient.

    features    channels after the first convolution
    num_layers  convolutions of stride 2
    init_std    kernels start as N(0, init_std^2), biases as 0
    dtype       of activations; parameters, statistics and the returned logits are float32
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
        """Realism of each patch.

        Args:
          x: [B, H, W, C] floating point, e.g. an image in [-1, 1].

        Returns:
          [B, h, w, 1] float32 logits, see `output_size`; not squashed by a sigmoid.
        """
        if self.num_layers < 1:
            raise InputError(
                'patchgan: num_layers', got=str(self.num_layers), expected='at least 1'
            )
        output_size(*x.shape[1:3], self.num_layers)
        strides = _strides(self.num_layers)
        x = x.astype(self.dtype)
        for i, stride in enumerate(strides):
            last = i == len(strides) - 1
            features = 1 if last else self.features * min(2**i, 8)
            x = Conv(features, stride, self.init_std, self.dtype, self.forms, name=f'conv_{i}')(x)
            if i > 0 and not last:
                x = self.norm(x)
            if not last:
                x = nn.leaky_relu(x, SLOPE)
        return x.astype(jnp.float32)
