"""pix2pixHD: a generator of images from label maps, and an enhancer that doubles its resolution.

Source: Wang, Liu, Zhu, Tao, Kautz, Catanzaro, High-Resolution Image Synthesis and Semantic
Manipulation with Conditional GANs, CVPR 2018, with the settings of the released code. The condition
is a one-hot label map and an instance edge map (ops/edges.py).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.generators.blocks import (
    ConvNormRelu,
    Decoder,
    Encoder,
    ImageHead,
    ResidualBlock,
    check_size,
    make_layers,
)
from segjax.models.layers import scaled
from segjax.ops.pool import average_pool

FEATURES = 64
"""Channels of the global generator at the size of its input. They double at each halving."""


class Trunk(nn.Module):
    """Global generator without its last convolution.

    features        channels at the size of the input
    halvings        convolutions of stride 2, and transposed convolutions
    blocks          residual blocks at the smallest size
    conv            makes convolutions: conv(features, kernel_size, strides=, padding=, name=)
    conv_transpose  makes transposed convolutions: conv_transpose(features, kernel_size, name=)
    norm            makes norms: norm(name=)
    """

    features: int
    halvings: int
    blocks: int
    conv: Callable
    conv_transpose: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        x = Encoder(self.features, self.halvings, self.conv, self.norm, name='encoder')(x)[-1]
        for i in range(self.blocks):
            x = ResidualBlock(self.conv, self.norm, name=f'block_{i}')(x)
        decoder = Decoder(
            self.features, self.halvings, self.conv_transpose, self.norm, name='decoder'
        )
        return decoder(x)


class GlobalGenerator(nn.Module):
    """Global generator: encoder, residual blocks, decoder, and an image in [-1, 1].

    Kernels are initialised as N(0, init_std^2), biases as torch's defaults.

    out_channels  channels of the image
    halvings      convolutions of stride 2. Height and width are multiples of 2^halvings
    blocks        residual blocks at the smallest size
    norm          norms: 'instance' (published, without scale and shift) or 'batch'
    init_std      standard deviation of the initial kernels
    width         factor on all channels
    dtype         of activations. Parameters, batch statistics and images are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
    """

    out_channels: int
    halvings: int = 4
    blocks: int = 9
    norm: str = 'instance'
    init_std: float = 0.02
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, condition, train: bool):
        """Returns the image of a condition.

        Args:
          condition: [B, H, W, C] floating point.
          train: a batch norm uses the statistics of the batch.

        Returns:
          {'image': [B, H, W, out_channels] float32 in [-1, 1]}.
        """
        check_size('pix2pixhd_global', condition, 2**self.halvings)
        conv, conv_transpose, norm = make_layers(self, train)
        features = scaled(FEATURES, self.width)
        trunk = Trunk(
            features, self.halvings, self.blocks, conv, conv_transpose, norm, name='trunk'
        )
        x = trunk(condition)
        return {'image': ImageHead(self.out_channels, conv, name='head')(x)}


class LocalEnhancer(nn.Module):
    """Global generator on the halved condition, and an enhancer at full size.

        x = conv3x3 of stride 2 (conv7x7 condition) + trunk(average of 3x3 pixels of the condition)
        image = tanh conv7x7 (transposed conv3x3 (residual blocks x))

    A GlobalGenerator of the same width, which is trained first, has an equal `trunk`. Kernels are
    initialised as N(0, init_std^2), biases as torch's defaults.

    out_channels   channels of the image
    halvings       convolutions of stride 2 of the trunk. Height and width are multiples of
                   2^(halvings + 1)
    blocks         residual blocks of the trunk
    local_blocks   residual blocks of the enhancer
    norm           norms: 'instance' (published, without scale and shift) or 'batch'
    init_std       standard deviation of the initial kernels
    width          factor on all channels
    dtype          of activations. Parameters, batch statistics and images are float32
    axis_name      mapped axis of the devices that share batch statistics. None: not shared
    """

    out_channels: int
    halvings: int = 4
    blocks: int = 9
    local_blocks: int = 3
    norm: str = 'instance'
    init_std: float = 0.02
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, condition, train: bool):
        """Returns the image of a condition.

        Args:
          condition: [B, H, W, C] floating point.
          train: a batch norm uses the statistics of the batch.

        Returns:
          {'image': [B, H, W, out_channels] float32 in [-1, 1]}.
        """
        check_size('pix2pixhd_local', condition, 2 ** (self.halvings + 1))
        conv, conv_transpose, norm = make_layers(self, train)
        features = scaled(FEATURES, self.width)
        local_features = scaled(FEATURES // 2, self.width)

        # Half the size. The summands have equal channels, also where the width rounds.
        trunk = Trunk(
            features, self.halvings, self.blocks, conv, conv_transpose, norm, name='trunk'
        )
        x = trunk(average_pool(condition, 3, strides=2, padding=1))
        half = functools.partial(conv, features, (3, 3), strides=2)
        encoder = Encoder(local_features, 0, conv, norm, name='local_encoder')
        x = x + ConvNormRelu(half, norm, name='local_half')(encoder(condition)[0])
        for i in range(self.local_blocks):
            x = ResidualBlock(conv, norm, name=f'local_block_{i}')(x)

        # The full size.
        decoder = Decoder(local_features, 1, conv_transpose, norm, name='local_decoder')
        x = decoder(x)
        return {'image': ImageHead(self.out_channels, conv, name='head')(x)}
