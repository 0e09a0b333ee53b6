"""Parts that several image-to-image nets share: norms, residual blocks, encoder and decoder.

Source: Wang et al., High-Resolution Image Synthesis and Semantic Manipulation with Conditional
GANs, CVPR 2018 (pix2pixHD), whose parts Hong et al. (NeurIPS 2018) use again.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.models.generators import patchgan
from segjax.models.generators.patchgan import instance_norm
from segjax.models.layers import Conv, ConvTranspose, batch_norm, normal, xavier

INITS = {'normal': normal, 'xavier': xavier}
"""Initialisers of kernels by name: N(0, std^2), or torch's xavier_normal of a gain."""

NORMS = ('batch', 'instance')
"""Names of the norms: over the batch with scale and shift, or over each image without them."""


def make_init(kind: str, size: float) -> Callable:
    """Returns the initialiser of kernels.

    Args:
      kind: a name of INITS.
      size: standard deviation of 'normal', gain of 'xavier'.

    Raises:
      InputError: the kind is unknown.
    """
    if kind not in INITS:
        raise unknown_name('init_kind', kind, INITS)
    return INITS[kind](size)


def make_norm(kind: str, train: bool, **arguments: Any) -> Callable[..., Callable]:
    """Returns a factory of norms, which nets hand to their blocks and call with `name=...`.

    Args:
      kind: a name of NORMS.
      train: a batch norm uses the statistics of the batch. An instance norm always uses the
        statistics of the image.
      **arguments: of layers.batch_norm. An instance norm has none.

    Raises:
      InputError: the kind is unknown.
    """
    if kind not in NORMS:
        raise unknown_name('norm', kind, NORMS)
    if kind == 'batch':
        return batch_norm(train, **arguments)
    return _instance_norm


def _instance_norm(name: str) -> Callable:
    """Returns the instance norm, which has no parameters to name."""
    del name
    return instance_norm


class Layers(NamedTuple):
    """Factories of layers, which a net hands to its blocks.

    conv            makes convolutions: conv(features, kernel_size, strides=, padding=, name=)
    conv_transpose  makes transposed convolutions: conv_transpose(features, kernel_size, name=)
    norm            makes norms: norm(name=)
    """

    conv: Callable
    conv_transpose: Callable
    norm: Callable


def make_layers(net: nn.Module, train: bool) -> Layers:
    """Returns the layers of a net with kernels of N(0, init_std^2), and biases of torch's defaults.

    Args:
      net: has the fields norm, init_std, dtype and axis_name.
      train: as in `make_norm`.
    """
    init = normal(net.init_std)
    return Layers(
        conv=functools.partial(Conv, kernel_init=init, dtype=net.dtype),
        conv_transpose=functools.partial(ConvTranspose, kernel_init=init, dtype=net.dtype),
        norm=make_norm(net.norm, train, dtype=net.dtype, axis_name=net.axis_name),
    )


class ZeroBiasLayers(NamedTuple):
    """Factories of layers with biases of 0, as pix2pix and BicycleGAN initialise them.

    conv            makes convolutions: conv(features, kernel_size, padding=, use_bias=, name=)
    halve           makes 4x4 convolutions of stride 2: halve(features, use_bias=, name=)
    double          makes transposed 4x4 convolutions of stride 2: double(features, use_bias=,
                    name=)
    norm            makes norms: norm(name=). Scales of batch norms are N(1, init_std^2)
    """

    conv: Callable
    halve: Callable
    double: Callable
    norm: Callable


def make_zero_bias_layers(net: nn.Module, train: bool) -> ZeroBiasLayers:
    """Returns the layers of a net, with its initialisation of kernels.

    Args:
      net: has the fields norm, init_kind, init_std, forms, dtype and axis_name.
      train: as in `make_norm`.
    """
    shared = {'kernel_init': make_init(net.init_kind, net.init_std), 'dtype': net.dtype}
    zeros = nn.initializers.zeros
    return ZeroBiasLayers(
        conv=functools.partial(Conv, bias_init=zeros, **shared),
        halve=functools.partial(
            patchgan.Conv, strides=2, init_std=net.init_std, forms=net.forms, **shared
        ),
        double=functools.partial(ConvTranspose, kernel_size=4, bias_init=zeros, **shared),
        norm=make_norm(
            net.norm,
            train,
            scale_init=normal(net.init_std, mean=1.0),
            dtype=net.dtype,
            axis_name=net.axis_name,
        ),
    )


def reflect(x, pixels: int):
    """Pads [B, H, W, C] on all sides by the mirrored image, which does not repeat the border."""
    sides = (pixels, pixels)
    return jnp.pad(x, ((0, 0), sides, sides, (0, 0)), mode='reflect')


def check_size(where: str, x, multiple: int, smallest: int = 2, fix: str = '') -> None:
    """Raises InputError unless the encoder halves the image to whole pixels.

    Args:
      where: name of the net.
      x: [B, H, W, C].
      multiple: factor between the image and its smallest features.
      smallest: height and width that the smallest features have at least.
      fix: another remedy than a different size. '': there is none.
    """
    height, width = x.shape[1:3]
    if height % multiple or width % multiple or min(height, width) < smallest * multiple:
        raise InputError(
            f'{where}: input',
            got=f'height {height}, width {width}',
            expected=f'multiples of {multiple}, at least {smallest * multiple}',
            fix='crop or resize the images to such a size' + (f', or {fix}' if fix else ''),
        )


class ConvNormRelu(nn.Module):
    """Convolution (`conv`), norm (`norm`), and a ReLU.

    conv  makes the convolution: conv(name=)
    norm  makes the norm: norm(name=)
    """

    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        x = self.conv(name='conv')(x)
        x = self.norm(name='norm')(x)
        return nn.relu(x)


class ResidualBlock(nn.Module):
    """Residual block x + f(x) of two 3x3 convolutions with a mirrored border.

    A norm follows each convolution, and a ReLU the first norm. No ReLU follows the sum.

    conv  makes the convolutions: conv(features, kernel_size, padding=, name=)
    norm  makes the norms: norm(name=)
    """

    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        y = reflect(x, 1)
        y = self.conv(channels, (3, 3), padding=0, name='conv_0')(y)
        y = self.norm(name='norm_0')(y)
        y = nn.relu(y)
        y = reflect(y, 1)
        y = self.conv(channels, (3, 3), padding=0, name='conv_1')(y)
        y = self.norm(name='norm_1')(y)
        return x + y


class Encoder(nn.Module):
    """7x7 convolution, and convolutions that halve the image and double the channels.

    features  channels after the 7x7 convolution
    halvings  number of 3x3 convolutions of stride 2
    conv      makes the convolutions: conv(features, kernel_size, strides=, padding=, name=)
    norm      makes the norms: norm(name=)
    """

    features: int
    halvings: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        """Returns the features of all sizes, the largest first.

        Args:
          x: [B, H, W, C].

        Returns:
          [[B, H, W, features], [B, H / 2, W / 2, 2 features], ...] of halvings + 1 maps.
        """
        x = reflect(x, 3)
        stem = functools.partial(self.conv, self.features, (7, 7), padding=0)
        x = ConvNormRelu(stem, self.norm, name='stem')(x)
        maps = [x]
        for i in range(1, self.halvings + 1):
            half = functools.partial(self.conv, self.features * 2**i, (3, 3), strides=2)
            x = ConvNormRelu(half, self.norm, name=f'half_{i}')(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """Transposed convolutions that double the image and halve the channels.

    features        channels of the result
    doublings       number of 3x3 transposed convolutions
    conv_transpose  makes the convolutions: conv_transpose(features, kernel_size, name=)
    norm            makes the norms: norm(name=)
    """

    features: int
    doublings: int
    conv_transpose: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x, skips=()):
        """Returns the features at the size of the image.

        Args:
          x: [B, h, w, C].
          skips: maps that are put in front of the channels of x, before all convolutions except the
            first. The smallest is the first. Empty: nothing is put there.

        Returns:
          [B, 2^doublings h, 2^doublings w, features].
        """
        for i in range(self.doublings):
            if skips and i > 0:
                x = jnp.concatenate([skips[i - 1], x], -1)
            channels = self.features * 2 ** (self.doublings - 1 - i)
            double = functools.partial(self.conv_transpose, channels, 3)
            x = ConvNormRelu(double, self.norm, name=f'double_{i}')(x)
        return x


class ImageHead(nn.Module):
    """7x7 convolution with a mirrored border (`conv`) and tanh: an image in [-1, 1].

    features  channels of the image
    conv      makes the convolution: conv(features, kernel_size, padding=, name=)
    """

    features: int
    conv: Callable

    @nn.compact
    def __call__(self, x):
        """Returns the image as [B, H, W, features] float32."""
        x = reflect(x, 3)
        x = self.conv(self.features, (7, 7), padding=0, name='conv')(x)
        return jnp.tanh(x.astype(jnp.float32))
