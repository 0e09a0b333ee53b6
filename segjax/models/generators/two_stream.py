"""Two-stream net from a box to a label map: a context stream and an object stream share an encoder.

Source: Hong, Yan, Huang, Lee, Learning Hierarchical Semantic Image Manipulation through Structured
Representations, NeurIPS 2018, with the layers of the released code (both published trainings). He
et al. use it as structure generator of semantic inpainting on label maps (Sec. 3.1).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.generators.blocks import ResidualBlock, check_size, make_norm
from segjax.models.layers import Conv, ConvTranspose, scaled
from segjax.ops.resize import bilinear

CHANNELS = (64, 96, 128, 256)
"""Channels of the encoder at 1/2, 1/4, 1/8 and 1/16 of the image."""
LAST_CHANNELS = 32
"""Channels of the decoders at the size of the image."""
DILATIONS = (2, 4)
"""Dilations of the blocks that `dilated` adds."""


class Down(nn.Module):
    """Residual block that halves the image.

        y = ReLU(x),    norm(conv1x1 y) + norm(conv4x4 y)

    The shortcut also gets ReLU(x), because the released code overwrites x with it. No ReLU follows
    the sum.

    features  channels of the output
    conv      makes the convolutions: conv(features, kernel_size, strides=, padding=, name=)
    norm      makes the norms: norm(name=)
    """

    features: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        x = nn.relu(x)
        shortcut = self.conv(self.features, (1, 1), strides=2, name='shortcut_conv')(x)
        shortcut = self.norm(name='shortcut_norm')(shortcut)
        deep = self.conv(self.features, (4, 4), strides=2, padding=1, name='deep_conv')(x)
        deep = self.norm(name='deep_norm')(deep)
        return deep + shortcut


class Up(nn.Module):
    """Residual block that doubles the image.

        y = ReLU(x),    bilinear(norm(conv1x1 y)) + norm(transposed conv4x4 y)

    The corners of both bilinear images coincide. The shortcut also gets ReLU(x), because the
    released code overwrites x with it. No ReLU follows the sum.

    features        channels of the output
    conv            makes the convolution: conv(features, kernel_size, name=)
    conv_transpose  makes the transposed convolution: conv_transpose(features, kernel_size, name=)
    norm            makes the norms: norm(name=)
    """

    features: int
    conv: Callable
    conv_transpose: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        x = nn.relu(x)
        height, width = x.shape[1:3]
        shortcut = self.conv(self.features, (1, 1), name='shortcut_conv')(x)
        shortcut = self.norm(name='shortcut_norm')(shortcut)
        shortcut = bilinear(shortcut, (2 * height, 2 * width), align_corners=True)
        deep = self.conv_transpose(self.features, 4, name='deep_conv')(x)
        deep = self.norm(name='deep_norm')(deep)
        return deep + shortcut


class DilatedBlock(nn.Module):
    """Residual block ReLU(x + f(x)) of two dilated 3x3 convolutions without biases.

    A norm follows each convolution, and a ReLU the first norm. Borders are zero.

    dilation  of both convolutions
    conv      makes the convolutions: conv(features, kernel_size, dilation=, use_bias=, name=)
    norm      makes the norms: norm(name=)
    """

    dilation: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(
            self.conv, x.shape[-1], (3, 3), dilation=self.dilation, use_bias=False
        )
        y = conv(name='conv_0')(x)
        y = self.norm(name='norm_0')(y)
        y = nn.relu(y)
        y = conv(name='conv_1')(y)
        y = self.norm(name='norm_1')(y)
        return nn.relu(x + y)


class TwoStream(nn.Module):
    """Context stream and object stream on a shared encoder, for images of multiples of 16 pixels.

        encoder         conv 7x7 of stride 2, norm, ReLU; three `Down`     1/2, 1/4, 1/8, 1/16
        latent encoder  residual blocks, with `dilated` after two dilated blocks
        each stream     residual blocks, four `Up`, conv 3x3               1/16 .. 1

    The context stream also reads the encoder at 1/8, 1/4 and 1/2, in front of the features of its
    blocks. The last convolution of a stream gets the sum of a block without a ReLU. Kernels and
    biases are initialised as torch's defaults, scales of batch norms as 1.

    out_channels  number of classes of the context stream
    norm          norms: 'batch' (published for Cityscapes), or 'instance' without scale and shift
                  (ADE20K)
    dilated       whether two residual blocks of dilations 2 and 4 begin the latent encoder (ADE20K)
    blocks        residual blocks of the latent encoder, and of each stream
    width         factor on all channels
    dtype         of activations. Parameters, batch statistics and logits are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
    """

    out_channels: int
    norm: str = 'batch'
    dilated: bool = False
    blocks: int = 3
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, condition, train: bool):
        """Returns the logits of both streams.

        Args:
          condition: [B, H, W, 2 K] floating point. The first K channels are 0 outside the box.
            Inside the box the channel of the object's class is 1. The last K channels are the
            one-hot label map, whose box is filled by the object's class.
          train: use the statistics of the batch, see `norm`.

        Returns:
          {'context': [B, H, W, out_channels], 'object': [B, H, W, 1]} float32 logits. Their
          log-softmax and sigmoid are the published outputs.
        """
        check_size('two_stream', condition, 16)
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = make_norm(self.norm, train, dtype=self.dtype, axis_name=self.axis_name)
        channels = [scaled(count, self.width) for count in CHANNELS]

        # Encoder. The context stream reads all maps but the last.
        x = conv(channels[0], (7, 7), strides=2, name='stem_conv')(condition)
        x = norm(name='stem_norm')(x)
        x = nn.relu(x)
        skips = []
        for i, features in enumerate(channels[1:]):
            skips.append(x)
            x = Down(features, conv, norm, name=f'down_{i}')(x)

        # Latent encoder.
        for i, dilation in enumerate(DILATIONS if self.dilated else ()):
            x = DilatedBlock(dilation, conv, norm, name=f'dilated_{i}')(x)
        for i in range(self.blocks):
            x = ResidualBlock(conv, norm, name=f'latent_{i}')(x)

        # Streams.
        streams = {
            'context': (self.out_channels, skips),
            'object': (1, []),
        }
        logits = {}
        for name, (out_channels, maps) in streams.items():
            logits[name] = self._stream(name, x, maps, out_channels, conv, norm)
        return logits

    def _stream(self, name: str, x, skips: list, out_channels: int, conv, norm):
        """Decodes the shared features x to [B, H, W, out_channels] float32 logits."""
        for i in range(self.blocks):
            x = ResidualBlock(conv, norm, name=f'{name}_latent_{i}')(x)
        conv_transpose = functools.partial(ConvTranspose, dtype=self.dtype)
        sizes = (*CHANNELS[-2::-1], LAST_CHANNELS)
        for i, count in enumerate(sizes):
            if skips and i > 0:
                x = jnp.concatenate([skips[-i], x], -1)
            features = scaled(count, self.width)
            x = Up(features, conv, conv_transpose, norm, name=f'{name}_up_{i}')(x)
        x = conv(out_channels, (3, 3), name=f'{name}_head')(x)
        return x.astype(jnp.float32)
