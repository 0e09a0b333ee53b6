"""VGG16 as a backbone of fully convolutional nets, and both VGGs as features of perceptual losses.

Source: Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
ICLR 2015. Names follow the Caffe releases: conv1_1 .. conv5_3, and conv1_1 .. conv5_4 in VGG19. The
same convolutions in torchvision are features.{0,2,5,7,10,12,14,17,19,21,24,26,28}, and in VGG19
features.{0,2,5,7,10,12,14,16,19,21,23,25,28,30,32,34}.

Inner tensors that `taps` can name: all convolutions before their ReLU, pool1 .. pool5.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.models.layers import Conv, Taps, he_fan_out, scaled
from segjax.ops.pool import average_pool, max_pool

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""(number of convolutions, channels) of each stage of VGG16."""

STAGES_19 = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
"""(number of convolutions, channels) of each stage of VGG19."""

PERCEPTUAL_LAYERS = ('conv1_1', 'conv2_1', 'conv3_1', 'conv4_1', 'conv5_1')
"""Convolutions whose outputs after the ReLU the perceptual loss of pix2pixHD compares."""

REFINEMENT_LAYERS = ('conv1_2', 'conv2_2', 'conv3_2', 'conv4_2', 'conv5_2')
"""Convolutions whose outputs after the ReLU cascaded refinement networks compare."""

POOLS = {'max': max_pool, 'average': average_pool}
"""Poolings by name."""


class VGG16(nn.Module):
    """The convolutions (3x3, bias, ReLU), 13 of them in VGG16, and five poolings.

    Sizes are rounded up as in Caffe.

    conv           makes plain convolutions: conv(features, kernel_size, padding=, name=)
    dilated_conv   makes the convolutions of the last stage if dilation > 1:
                   dilated_conv(features, kernel_size, dilation=, name=)
    window         of the poolings: 2 without padding, or 3 with one pixel of padding
    pool_strides   of the five poolings
    dilation       of the convolutions of the last stage
    padding        of the first convolution
    width          factor on all channels
    taps           names of inner tensors to return, listed at the top of this file
    stages         (number of convolutions, channels) of each stage
    pool           poolings: a name of POOLS
    """

    conv: Callable
    dilated_conv: Callable
    window: int = 2
    pool_strides: tuple[int, int, int, int, int] = (2, 2, 2, 2, 2)
    dilation: int = 1
    padding: int = 1
    width: float = 1.0
    taps: tuple[str, ...] = ()
    stages: tuple[tuple[int, int], ...] = STAGES
    pool: str = 'max'

    @nn.compact
    def __call__(self, x, given=None):
        """Returns the features of an image.

        Args:
          x: [B, H, W, 3].
          given: {tap: array} that replaces inner tensors. None: all are computed.

        Returns:
          ({'pool1': [B, h, w, C], .., 'pool5': ..}, {tap: tensor}).
        """
        if self.pool not in POOLS:
            raise unknown_name('vgg: pool', self.pool, POOLS)
        pool = POOLS[self.pool]
        tap = Taps('vgg', given)
        pools = {}
        for i, (count, channels) in enumerate(self.stages, start=1):
            for j in range(1, count + 1):
                conv = self._conv(i, j, scaled(channels, self.width))
                x = conv(x)
                x = tap(f'conv{i}_{j}', x)
                x = nn.relu(x)
            strides = self.pool_strides[i - 1]
            x = pool(x, self.window, strides, padding=(self.window - 1) // 2, ceil=True)
            x = tap(f'pool{i}', x)
            pools[f'pool{i}'] = x
        return pools, tap.pick(self.taps)

    def _conv(self, stage: int, index: int, features: int) -> nn.Module:
        """Builds a convolution by its stage and its place in the stage, both from 1."""
        name = f'conv{stage}_{index}'
        if stage == len(self.stages) and self.dilation > 1:
            return self.dilated_conv(features, (3, 3), dilation=self.dilation, name=name)
        is_first = stage == index == 1
        return self.conv(features, (3, 3), padding=self.padding if is_first else 1, name=name)


def stages_up_to(layers: tuple[str, ...], stages: tuple[tuple[int, int], ...], where: str):
    """Returns the stages without the convolutions behind the deepest of some layers.

    These convolutions would be parameters without an effect.

    Args:
      layers: names of convolutions, e.g. ('conv1_2', 'conv2_2').
      stages: (number of convolutions, channels) of each stage.
      where: name of the net, for errors.

    Returns:
      (number of convolutions, channels) of each remaining stage.

    Raises:
      InputError: there is no layer, or a layer that the net does not have.
    """
    places = {}  # in the order of the net
    for stage, (count, _) in enumerate(stages, start=1):
        for index in range(1, count + 1):
            places[f'conv{stage}_{index}'] = (stage, index)
    if not layers:
        raise InputError(
            f'{where}: layers',
            got='()',
            expected=f'names of convolutions, as {tuple(places)[:2]}',
        )
    for layer in layers:
        if layer not in places:
            raise unknown_name(f'{where}: layers', layer, places)
    stage, index = max(places[layer] for layer in layers)
    channels = stages[stage - 1][1]
    return (*stages[: stage - 1], (index, channels))


def _features(net: nn.Module, image, stages: tuple[tuple[int, int], ...], where: str):
    """Returns {layer: [B, h, w, C]} after the ReLU, of a net with the fields of VGG19Features."""
    conv = functools.partial(Conv, kernel_init=he_fan_out, dtype=net.dtype)
    vgg = VGG16(
        conv,
        conv,
        width=net.width,
        taps=net.layers,
        stages=stages_up_to(net.layers, stages, where),
        pool=net.pool,
        name='vgg',
    )
    _, features = vgg(image.astype(net.dtype))
    return {name: nn.relu(feature) for name, feature in features.items()}


class VGG19Features(nn.Module):
    """VGG19 up to the deepest layer of a perceptual loss.

    pix2pixHD feeds images in [-1, 1] to the ImageNet weights of torchvision. It does not normalise
    by ImageNet's mean and standard deviation. The convolutions are under `vgg`. Poolings round
    sizes up, and torchvision rounds down. Both agree where height and width are multiples of 16.

    layers  convolutions whose outputs are returned. The deepest layer ends the net
    pool    poolings: 'max', as in its training, or 'average', as in cascaded refinement networks
    width   factor on all channels
    dtype   of activations. Parameters are float32
    """

    layers: tuple[str, ...] = PERCEPTUAL_LAYERS
    pool: str = 'max'
    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image):
        """Returns the features of an image.

        Args:
          image: [B, H, W, 3] floating point.

        Returns:
          {name: [B, H / 2^k, W / 2^k, C]} in `dtype`, after the ReLU, by the names of `layers`. The
          layer conv<s>_<i> has k = s - 1.

        Raises:
          InputError: no layer, or an unknown layer or pooling.
        """
        return _features(self, image, STAGES_19, 'vgg19')


class VGG16Features(nn.Module):
    """VGG16 up to the deepest layer of a perceptual loss.

    The convolutions are under `vgg`. Poolings round sizes up, as in `VGG19Features`.

    layers  convolutions whose outputs are returned. The deepest layer ends the net
    pool    poolings: 'max', as in its training, or 'average', as in cascaded refinement networks
    width   factor on all channels
    dtype   of activations. Parameters are float32
    """

    layers: tuple[str, ...] = REFINEMENT_LAYERS
    pool: str = 'max'
    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image):
        """Returns the features of an image.

        Args:
          image: [B, H, W, 3] floating point.

        Returns:
          {name: [B, H / 2^k, W / 2^k, C]} in `dtype`, after the ReLU, by the names of `layers`. The
          layer conv<s>_<i> has k = s - 1.

        Raises:
          InputError: no layer, or an unknown layer or pooling.
        """
        return _features(self, image, STAGES, 'vgg16')
