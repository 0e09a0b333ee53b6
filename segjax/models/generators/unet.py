"""U-Net of pix2pix: an encoder that halves the image to a point, and skips between equal sizes.

Source: Isola, Zhu, Zhou, Efros, Image-to-Image Translation with Conditional Adversarial Networks,
CVPR 2017, with the settings of the released code. `Levels` also carries the generators of
BicycleGAN (latent_unet.py) and of features (feature_unet.py).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.models.generators.blocks import check_size, make_zero_bias_layers, reflect
from segjax.models.generators.patchgan import SLOPE
from segjax.models.layers import scaled
from segjax.ops import resize

FEATURES = 64
"""Channels after the first convolution. They double up to 8 times as many."""
SMALLEST_DEPTH = 5
"""Levels of a U-Net without middle levels, which alone have dropout."""
OUTPUTS = ('tanh', 'linear')
"""Names of the last operation."""
UPSAMPLES = ('transposed', 'bilinear')
"""Names of the operations that double an image."""


def whole_levels(height: int, width: int) -> int:
    """Returns the number of times that an image can be halved to whole pixels: 5 for 96 x 96."""
    sides = height | width
    return (sides & -sides).bit_length() - 1


def dropout(x, keys, rate: float):
    """Drops values of each example with its own key.

    A value becomes 0 with probability `rate`, and else x / (1 - rate).

    Args:
      x: [B, ...].
      keys: [B] keys.
      rate: in [0, 1).
    """
    shape = x.shape[1:]
    is_kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
    return jnp.where(is_kept, x / (1 - rate), 0).astype(x.dtype)


class Levels(nn.Module):
    """Convolutions of a U-Net: `down_i` halves the image at level i, `up_i` doubles the result.

        d_i = norm(conv4x4 of stride 2 (leaky ReLU d_{i-1}))         i = 0 .. L-1
        u_i = norm(transposed conv4x4 (ReLU [d_i, u_{i+1}]))         i = L-1 .. 0

    Level 0 has no leaky ReLU and no norm. The last level has no norm on its way down. Dropout
    follows the norm of u_i at the levels 4 .. L-2.

    out_channels  channels of the result
    depth         L, at least 1
    features      channels after the first convolution
    halve         makes the 4x4 convolutions of stride 2: halve(features, use_bias=, name=)
    double        makes the layers that double an image: double(features, use_bias=, name=)
    norm          makes the norms: norm(name=)
    norm_bias     whether convolutions of both ways have a bias. The last layer always has a bias
    rate          of the dropout
    skip_first    whether a skip has the first channels of its concatenation, as in pix2pix
    """

    out_channels: int
    depth: int
    features: int
    halve: Callable
    double: Callable
    norm: Callable
    norm_bias: bool
    rate: float
    skip_first: bool

    @nn.compact
    def __call__(self, x, code=None, keys=None):
        """Returns the map of the last layer, [B, H, W, out_channels].

        Args:
          x: [B, H, W, C]. Height and width are multiples of 2^depth.
          code: [B, n], added as n constant channels to the input of every `down_i`. A code
            [B, h, w, n] is added as n channels, resized to each level by nearest neighbours. None:
            no code.
          keys: [B] keys of the dropout. None: no dropout.
        """
        # Down. Each skip is the input of a level, without its code and its leaky ReLU.
        skips = []
        for i in range(self.depth):
            skips.append(x)
            y = x if code is None else _with_code(x, code)
            y = y if i == 0 else nn.leaky_relu(y, SLOPE)
            x = self.halve(self._channels(i), use_bias=self.norm_bias, name=f'down_{i}')(y)
            if 0 < i < self.depth - 1:
                x = self.norm(name=f'down_norm_{i}')(x)

        # Up, from the smallest features.
        for i in reversed(range(1, self.depth)):
            y = nn.relu(x)
            y = self.double(self._channels(i - 1), use_bias=self.norm_bias, name=f'up_{i}')(y)
            y = self.norm(name=f'up_norm_{i}')(y)
            is_middle = SMALLEST_DEPTH - 1 <= i < self.depth - 1
            if keys is not None and self.rate and is_middle:
                level_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
                y = dropout(y, level_keys, self.rate)
            x = jnp.concatenate([skips[i], y] if self.skip_first else [y, skips[i]], -1)
        x = nn.relu(x)
        return self.double(self.out_channels, use_bias=True, name='up_0')(x)

    def _channels(self, level: int) -> int:
        """Returns the channels after `down_<level>`."""
        return self.features * min(2**level, 8)


def _with_code(x, code):
    """Returns [x, code], where each pixel of x [B, H, W, C] has the code of its place.

    Args:
      x: [B, H, W, C].
      code: [B, n], the same at all pixels, or [B, h, w, n].
    """
    if code.ndim == 2:
        planes = jnp.broadcast_to(code[:, None, None], (*x.shape[:3], code.shape[-1]))
    else:
        planes = resize.nearest(code, x.shape[1:3])
    return jnp.concatenate([x, planes.astype(x.dtype)], -1)


class DoubleBilinear(nn.Module):
    """Bilinear doubling of an image, a mirrored border, and a 3x3 convolution (`conv`).

    conv      makes the convolution: conv(features, kernel_size, padding=, use_bias=, name=)
    features  channels of the output
    use_bias  whether the convolution has a bias
    """

    conv: Callable
    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        height, width = x.shape[1:3]
        x = resize.bilinear(x, (2 * height, 2 * width))
        x = reflect(x, 1)
        conv = self.conv(self.features, (3, 3), padding=0, use_bias=self.use_bias, name='conv')
        return conv(x)


def make_levels(
    net: nn.Module, train: bool, *, norm_bias: bool, skip_first: bool, upsample: str = 'transposed'
) -> Levels:
    """Returns the levels of a U-Net.

    Args:
      net: has the fields of UNet.
      train: a batch norm uses the statistics of the batch.
      norm_bias: as in Levels.
      skip_first: as in Levels.
      upsample: a name of UPSAMPLES.
    """
    layers = make_zero_bias_layers(net, train)
    is_bilinear = upsample == 'bilinear'
    return Levels(
        out_channels=net.out_channels,
        depth=net.num_downs,
        features=scaled(FEATURES, net.width),
        halve=layers.halve,
        double=functools.partial(DoubleBilinear, layers.conv) if is_bilinear else layers.double,
        norm=layers.norm,
        norm_bias=norm_bias,
        rate=net.dropout,
        skip_first=skip_first,
        name='levels',
    )


def finish(x, output: str):
    """Returns a map in float32, in [-1, 1] with output='tanh'."""
    x = x.astype(jnp.float32)
    return jnp.tanh(x) if output == 'tanh' else x


def check(where: str, net: nn.Module, x) -> None:
    """Raises InputError for fields and images that a U-Net cannot use.

    Args:
      where: name of the net.
      net: has the fields num_downs, output and dropout.
      x: [B, H, W, C].
    """
    check_fields(where, net, SMALLEST_DEPTH)
    levels = whole_levels(*x.shape[1:3])
    fix = f'set num_downs={levels}' if SMALLEST_DEPTH <= levels < net.num_downs else ''
    check_size(where, x, 2**net.num_downs, smallest=1, fix=fix)


def check_fields(where: str, net: nn.Module, smallest_depth: int) -> None:
    """Raises InputError for fields that a U-Net cannot use.

    Args:
      where: name of the net.
      net: has the fields num_downs, output and dropout.
      smallest_depth: levels that it has at least.
    """
    if net.num_downs < smallest_depth:
        raise InputError(
            f'{where}: num_downs', got=str(net.num_downs), expected=f'at least {smallest_depth}'
        )
    if net.output not in OUTPUTS:
        raise unknown_name(f'{where}: output', net.output, OUTPUTS)
    if not 0 <= net.dropout < 1:
        raise InputError(f'{where}: dropout', got=str(net.dropout), expected='a rate in [0, 1)')


def check_code(where: str, code, rows: int, size: tuple[int, int]) -> None:
    """Raises InputError for codes that do not belong to the examples or do not divide their maps.

    Args:
      where: name of the net.
      code: [B, n], or [B, h, w, n] where h and w divide the size of the maps.
      rows: B of the maps.
      size: (H, W) of the maps that the net makes.
    """
    if code.ndim not in (2, 4) or code.shape[0] != rows:
        raise InputError(
            f'{where}: code',
            got=f'shape {code.shape}',
            expected=f'({rows}, n) or ({rows}, h, w, n), a code for each example',
        )
    if code.ndim == 2:
        return
    cells = code.shape[1:3]
    if not divides(cells, size):
        raise InputError(
            f'{where}: code',
            got=f'{cells[0]}x{cells[1]} cells of a map of {size[0]}x{size[1]}',
            expected='numbers of cells that divide the size of the map',
            fix=f'use {dividing_cells(cells, size)} cells',
        )


def divides(cells: tuple[int, int], size: tuple[int, int]) -> bool:
    """Returns whether a map of a size consists of whole cells of equal size."""
    return all(n % count == 0 for n, count in zip(size, cells, strict=True))


def dividing_cells(cells: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Returns the largest numbers of cells up to `cells` that divide a size."""
    fitting = []
    for count, n in zip(cells, size, strict=True):
        divisors = [k for k in range(1, min(count, n) + 1) if n % k == 0]
        fitting.append(divisors[-1])
    return tuple(fitting)


class UNet(nn.Module):
    """Generator of pix2pix.

    The released 'unet_256' has num_downs=8, and 'unet_128' has num_downs=7. An image of 96 x 96
    pixels allows 5 levels.

    out_channels  channels of the image
    num_downs     halvings of the image. Height and width are multiples of 2^num_downs
    norm          norms: 'batch' (published) or 'instance' (without scale and shift)
    dropout       rate in the middle levels, which have 8 times the first channels
    output        last operation: 'tanh', or 'linear' for maps of any range
    init_kind     initialisation of kernels: 'normal' N(0, init_std^2), or 'xavier' with a gain
    init_std      standard deviation of the initial kernels, or their gain with init_kind='xavier'
    width         factor on all channels
    forms         implementation: 'fast' or 'naive' forms of the same maps, see ops/conv.py
    dtype         of activations. Parameters, batch statistics and images are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
    """

    out_channels: int
    num_downs: int = 8
    norm: str = 'batch'
    dropout: float = 0.5
    output: str = 'tanh'
    init_kind: str = 'normal'
    init_std: float = 0.02
    width: float = 1.0
    forms: str = 'fast'
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, condition, train: bool, keys=None):
        """Returns the image of a condition.

        The released test draws dropout, from which pix2pix gets different images of a condition.

        Args:
          condition: [B, H, W, C] floating point.
          train: a batch norm uses the statistics of the batch.
          keys: [B] keys of the dropout, in training and in evaluation. None: no dropout.

        Returns:
          {'image': [B, H, W, out_channels] float32}, in [-1, 1] with output='tanh'.

        Raises:
          InputError: a size that cannot be halved num_downs times.
        """
        check('unet', self, condition)
        # As released, convolutions have a bias with instance norms alone. This also holds for the
        # first convolution, which no norm follows.
        has_bias = self.norm == 'instance'
        levels = make_levels(self, train, norm_bias=has_bias, skip_first=True)
        x = levels(condition.astype(self.dtype), keys=keys)
        return {'image': finish(x, self.output)}
