"""Encoders of BicycleGAN: from an image to the normal distribution of its latent code.

Source: Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman, Toward Multimodal Image-to-Image
Translation, NeurIPS 2017, with the settings of the released code.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.generators.blocks import make_init, make_zero_bias_layers
from segjax.models.generators.patchgan import SLOPE
from segjax.models.layers import scaled
from segjax.ops.pool import adaptive_average_pool, average_pool

FEATURES = 64
"""Channels after the first convolution. They grow to 4 times as many."""


class Block(nn.Module):
    """Residual block that halves the image: half(conv3x3 conv3x3 x) + conv1x1 half(x).

    A norm and a leaky ReLU precede each 3x3 convolution. `half` averages 2x2 pixels.

    features  channels of the output
    conv      makes the convolutions: conv(features, kernel_size, name=)
    norm      makes the norms: norm(name=)
    """

    features: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        y = self.norm(name='norm_0')(x)
        y = nn.leaky_relu(y, SLOPE)
        y = self.conv(x.shape[-1], (3, 3), name='conv_0')(y)
        y = self.norm(name='norm_1')(y)
        y = nn.leaky_relu(y, SLOPE)
        y = self.conv(self.features, (3, 3), name='conv_1')(y)
        half = average_pool(x, 2, strides=2)
        return average_pool(y, 2, strides=2) + self.conv(self.features, (1, 1), name='shortcut')(
            half
        )


class Heads(nn.Module):
    """Average over all pixels, and two linear layers `mean` and `log_variance` in float32.

    With a map of codes, the average is over the pixels of each cell. The linear layers are the same
    in all cells.

    code_size    n, the length of a code
    kernel_init  initialiser of both kernels. Biases are 0
    code_map     (u, v), cells of the map of codes. (): a single code
    """

    code_size: int
    kernel_init: Callable
    code_map: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x):
        """Returns the distribution of the code of features [B, h, w, C].

        Returns:
          {'mean': [B, n], 'log_variance': [B, n]}, or [B, u, v, n] each.
        """
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = adaptive_average_pool(x, self.code_map) if self.code_map else x.mean((1, 2))
        distribution = {}
        for name in ('mean', 'log_variance'):
            head = nn.Dense(self.code_size, kernel_init=self.kernel_init, name=name)
            distribution[name] = head(x).astype(jnp.float32)
        return distribution


def check(where: str, x, halvings: int, code_map: tuple[int, ...] = ()) -> None:
    """Raises InputError for an image without a pixel for each code after all halvings.

    Args:
      where: name of the net.
      x: [B, H, W, C].
      halvings: of the net.
      code_map: cells of the map of codes. (): a single code.
    """
    height, width = x.shape[1:3]
    if min(height, width) < 2**halvings:
        raise InputError(
            f'{where}: input',
            got=f'height {height}, width {width}',
            expected=f'at least {2**halvings} pixels each for {halvings} halvings',
            fix='use larger images, or fewer blocks or layers',
        )
    last = (height // 2**halvings, width // 2**halvings)
    if code_map and (last[0] < code_map[0] or last[1] < code_map[1]):
        raise InputError(
            f'{where}: code_map',
            got=f'{code_map[0]}x{code_map[1]} codes of {height}x{width} pixels',
            expected=f'at most {last[0]}x{last[1]}, the pixels after {halvings} halvings',
            fix='use fewer blocks or layers, or a smaller map of codes',
        )


class ResNetEncoder(nn.Module):
    """Residual encoder (E_ResNet): a 4x4 convolution of stride 2, blocks, and two linear heads.

    The released 'resnet_256' has blocks=4, and 'resnet_128' has blocks=3. The release averages 8x8
    pixels, which are all pixels of an image of these sizes. Here the average is over all pixels of
    any image. Odd sizes lose their last row or column in a halving.

    code_size  length of the code
    blocks     residual blocks of 2, 3, 4, 4, .. times the first channels
    norm       norms: 'instance' (published, without scale and shift) or 'batch'
    init_kind  initialisation of kernels: 'xavier' with a gain, or 'normal' N(0, init_std^2)
    init_std   gain of the initial kernels, or their standard deviation with init_kind='normal'
    width      factor on all channels
    forms      implementation: 'fast' or 'naive' forms of the same maps, see ops/conv.py
    dtype      of activations. Parameters, batch statistics and codes are float32
    axis_name  mapped axis of the devices that share batch statistics. None: not shared
    code_map   (u, v), cells of a map of codes. (): a single code
    """

    code_size: int
    blocks: int = 4
    norm: str = 'instance'
    init_kind: str = 'xavier'
    init_std: float = 0.02
    width: float = 1.0
    forms: str = 'fast'
    dtype: Any = jnp.float32
    axis_name: str | None = None
    code_map: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x, train: bool):
        """Returns the normal distribution of the code of an image.

        Args:
          x: [B, H, W, C] floating point, any number of channels.
          train: a batch norm uses the statistics of the batch.

        Returns:
          {'mean': [B, code_size], 'log_variance': [B, code_size]}, both float32. With a code_map
          both are [B, u, v, code_size].
        """
        check('resnet_encoder', x, self.blocks + 1, self.code_map)
        layers = make_zero_bias_layers(self, train)
        features = scaled(FEATURES, self.width)
        x = layers.halve(features, name='stem')(x.astype(self.dtype))
        for i in range(self.blocks):
            x = Block(features * min(i + 2, 4), layers.conv, layers.norm, name=f'block_{i}')(x)
        x = nn.leaky_relu(x, SLOPE)
        init = make_init(self.init_kind, self.init_std)
        return Heads(self.code_size, init, self.code_map, name='heads')(x)


class ConvEncoder(nn.Module):
    """Plain encoder (E_NLayers): 4x4 convolutions of stride 2, and two linear heads.

    The released 'conv_256' has num_layers=5, and 'conv_128' has num_layers=4. A norm and a leaky
    ReLU (0.2) follow each convolution. The first convolution has no norm. The average is over all
    pixels, as in ResNetEncoder.

    code_size   length of the code
    num_layers  convolutions of 1, 2, 4, 4, .. times the first channels
    norm        norms: 'instance' (published, without scale and shift) or 'batch'
    init_kind   initialisation of kernels: 'xavier' with a gain, or 'normal' N(0, init_std^2)
    init_std    gain of the initial kernels, or their standard deviation with init_kind='normal'
    width       factor on all channels
    forms       implementation: 'fast' or 'naive' forms of the same maps, see ops/conv.py
    dtype       of activations. Parameters, batch statistics and codes are float32
    axis_name   mapped axis of the devices that share batch statistics. None: not shared
    code_map    (u, v), cells of a map of codes. (): a single code
    """

    code_size: int
    num_layers: int = 5
    norm: str = 'instance'
    init_kind: str = 'xavier'
    init_std: float = 0.02
    width: float = 1.0
    forms: str = 'fast'
    dtype: Any = jnp.float32
    axis_name: str | None = None
    code_map: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x, train: bool):
        """Returns the normal distribution of the code of an image.

        Args:
          x: [B, H, W, C] floating point, any number of channels.
          train: a batch norm uses the statistics of the batch.

        Returns:
          {'mean': [B, code_size], 'log_variance': [B, code_size]}, both float32. With a code_map
          both are [B, u, v, code_size].
        """
        check('conv_encoder', x, self.num_layers, self.code_map)
        layers = make_zero_bias_layers(self, train)
        features = scaled(FEATURES, self.width)
        x = x.astype(self.dtype)
        for i in range(self.num_layers):
            x = layers.halve(features * min(2**i, 4), name=f'conv_{i}')(x)
            if i > 0:
                x = layers.norm(name=f'norm_{i}')(x)
            x = nn.leaky_relu(x, SLOPE)
        init = make_init(self.init_kind, self.init_std)
        return Heads(self.code_size, init, self.code_map, name='heads')(x)
