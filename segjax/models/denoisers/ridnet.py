"""RIDNet, a residual denoiser with attention to channels.

Source: Anwar, Barnes, Real Image Denoising with Feature Attention, ICCV 2019, and the authors'
release. The release subtracts the mean colour of a data set, which k-channel maps do not have.
Names follow the release:

    here                release
    head/body_0         head.body.0
    b1/r1/body1_0       b1.r1.body1.0
    b1/ca/c1/body_0     b1.ca.c1.body.0
    tail                tail
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.layers import Conv, scaled

FEATURES = 64
NUM_BLOCKS = 4
REDUCTION = 16
"""Divisor of the channels inside the attention."""


class BasicBlock(nn.Module):
    """A convolution and an activation.

    features     channels of the output
    kernel_size  (kh, kw)
    dtype        of activations
    activation   ReLU or sigmoid
    """

    features: int
    kernel_size: tuple[int, int]
    dtype: Any
    activation: Any = nn.relu

    @nn.compact
    def __call__(self, x):
        x = Conv(self.features, self.kernel_size, dtype=self.dtype, name='body_0')(x)
        return self.activation(x)


class MergeRun(nn.Module):
    """Joins two branches of dilated convolutions, and adds the input.

    The dilations are 1 and 2 in the first branch, 3 and 4 in the second.

    dtype  of activations
    """

    dtype: Any

    @nn.compact
    def __call__(self, x):
        features = x.shape[-1]
        branches = []
        for branch, dilations in (('body1', (1, 2)), ('body2', (3, 4))):
            y = x
            for i, dilation in enumerate(dilations):
                name = f'{branch}_{2 * i}'
                y = Conv(features, (3, 3), dilation=dilation, dtype=self.dtype, name=name)(y)
                y = nn.relu(y)
            branches.append(y)
        joined = jnp.concatenate(branches, -1)
        merged = Conv(features, (3, 3), dtype=self.dtype, name='body3_0')(joined)
        return nn.relu(merged) + x


class ResidualBlock(nn.Module):
    """Adds convolutions, with ReLUs between them, to the input. A ReLU follows the sum.

    sides  sides of the kernels
    dtype  of activations
    """

    sides: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x):
        y = x
        for i, side in enumerate(self.sides):
            if i > 0:
                y = nn.relu(y)
            y = Conv(x.shape[-1], (side, side), dtype=self.dtype, name=f'body_{2 * i}')(y)
        return nn.relu(y + x)


class ChannelAttention(nn.Module):
    """Multiplies each channel by a factor in (0, 1) that depends on the means of all channels.

    dtype  of activations. Means are float32
    """

    dtype: Any

    @nn.compact
    def __call__(self, x):
        features = x.shape[-1]
        inner = max(1, features // REDUCTION)
        precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = precise.mean((1, 2), keepdims=True)  # [B, 1, 1, features]
        y = BasicBlock(inner, (1, 1), self.dtype, name='c1')(y)
        factor = BasicBlock(features, (1, 1), self.dtype, nn.sigmoid, name='c2')(y)
        return x * factor


class EAM(nn.Module):
    """Enhancement attention module: branches, two residual blocks, and the attention.

    dtype  of activations
    """

    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = MergeRun(self.dtype, name='r1')(x)
        x = ResidualBlock((3, 3), self.dtype, name='r2')(x)
        x = ResidualBlock((3, 3, 1), self.dtype, name='r3')(x)
        return ChannelAttention(self.dtype, name='ca')(x)


class RIDNet(nn.Module):
    """RIDNet: a convolution, four attention modules, and a convolution to the residual.

    Call `net.apply(variables, maps, train=...)`.

        result = maps + tail(b4(b3(b2(b1(head(maps))))))

    The initialisation is torch's. For 3, 35 and 49 channels there are 1,499,347, 1,536,243 and
    1,552,385 parameters.

    width      factor on the 64 inner channels. 1 is the published net, smaller factors are for
               tests and small machines
    dtype      of activations. Parameters and the result are float32
    axis_name  unused, because without batch norm examples do not depend on each other
    """

    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, maps, train: bool):
        """Returns the maps without noise.

        Args:
          maps: [B, H, W, k] floating point, of any size.
          train: changes nothing.

        Returns:
          {'logits': [B, H, W, k] float32 at least}.
        """
        features = scaled(FEATURES, self.width)
        x = maps.astype(self.dtype)
        x = BasicBlock(features, (3, 3), self.dtype, name='head')(x)
        for i in range(1, NUM_BLOCKS + 1):
            x = EAM(self.dtype, name=f'b{i}')(x)
        residual = Conv(maps.shape[-1], (3, 3), dtype=self.dtype, name='tail')(x)
        maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
        return {'logits': maps + residual}
