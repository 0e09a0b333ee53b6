"""Decoders of monodepth2 on the feature maps of any encoder: one for depth, one for segmentation.

Names follow the release. `decoder.0.conv.conv`, `decoder.1.conv.conv` ..
`decoder.9.conv.conv` are `upconv_4_0`, `upconv_4_1` .. `upconv_0_1`. `decoder.10.conv` ..
`decoder.13.conv` are `dispconv_0` .. `dispconv_3`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from segjax.errors import InputError, unknown_name
from segjax.models.backbones.resnet import make_resnet
from segjax.models.layers import Conv, batch_norm, scaled, uniform_fan

DECODER_CHANNELS = (256, 128, 64, 32, 16)
"""Channels of the decoder from coarse to fine, at width 1."""

PYRAMIDS = {
    '7x7': ('conv1_1', 'layer1', 'layer2', 'layer3', 'layer4'),
    '3x3': ('conv1_3', 'layer1', 'layer2', 'layer3', 'layer4'),
}
"""Stem of a ResNet -> taps that the decoder reads, at strides 2, 4, 8, 16 and 32.

The first is the output of the stem's last batch norm, whose name depends on the stem.
"""


def sigmoid_to_disparity(sigmoid, min_depth: float, max_depth: float):
    """Returns the inverse depth of a sigmoid.

    It is 1 / max_depth + (1 / min_depth - 1 / max_depth) sigmoid.
    """
    return 1 / max_depth + (1 / min_depth - 1 / max_depth) * sigmoid


def sigmoid_to_depth(sigmoid, min_depth: float, max_depth: float):
    """Returns 1 / sigmoid_to_disparity, which is max_depth at 0 and min_depth at 1."""
    return 1 / sigmoid_to_disparity(sigmoid, min_depth, max_depth)


def check_depths(net: str, min_depth: float, max_depth: float) -> None:
    """Raises InputError for an empty range of depths, in the name of the net."""
    if not 0 < min_depth < max_depth:
        raise InputError(
            f'{net}: min_depth, max_depth',
            got=f'{min_depth}, {max_depth}',
            expected='0 < min_depth < max_depth',
        )


def pyramid(features: Mapping[str, Any], stem: str = '7x7') -> list:
    """Returns the input of a decoder from the taps of a net.

    The net may be, for instance, the context path of a BiSeNet that shares it with a depth decoder.
    The tap of the stem lies before its ReLU, which is applied here.

    Args:
      features: {tap: [B, h, w, C]}, with all of PYRAMIDS[stem].
      stem: of the net's ResNet.

    Raises:
      InputError: an unknown stem.
    """
    if stem not in PYRAMIDS:
        raise unknown_name('pyramid: stem', stem, PYRAMIDS)
    first, *stages = PYRAMIDS[stem]
    maps = [nn.relu(features[first])]
    maps += [features[name] for name in stages]
    return maps


def encode(
    image, num_layers: int, width: float, train: bool, dtype: Any, axis_name: str | None
) -> list:
    """Applies a ResNet, which becomes the submodule `resnet` of the calling module.

    Args:
      image: [B, H, W, 3], normalised.
      num_layers: layers of the ResNet.
      width: factor on all channels.
      train: use the statistics of the batch.
      dtype: of activations.
      axis_name: as in models.layers.batch_norm.

    Returns:
      Its `pyramid`.
    """
    norm = batch_norm(train, dtype=dtype, axis_name=axis_name)
    resnet = make_resnet(num_layers, norm, dtype, None, width=width, taps=PYRAMIDS['7x7'])
    _, features = resnet(image)
    return pyramid(features)


def decoder_channels(width: float) -> tuple[int, ...]:
    """Returns DECODER_CHANNELS of a net of that width."""
    return tuple(scaled(channels, width) for channels in DECODER_CHANNELS)


def reflect_pad(x):
    """Pads [B, H, W, C] by one pixel on every side, mirrored at the outermost pixel.

    An axis of one pixel repeats it.
    """
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), 'reflect')


def upsample_nearest(x, size: tuple[int, int]):
    """Repeats every pixel twice and crops. An axis that already has its size is left alone.

    Args:
      x: [B, h, w, C].
      size: (H, W) of the result.

    Raises:
      InputError: H is none of h, 2 h - 1 and 2 h, or W none of w, 2 w - 1 and 2 w. Then the map is
        not of the level below.
    """
    for axis, n in zip((1, 2), size, strict=True):
        m = x.shape[axis]
        if n not in (m, 2 * m - 1, 2 * m):
            raise InputError(
                'decoder: features',
                got=f'a map of {x.shape[1]} x {x.shape[2]} below one of {size[0]} x {size[1]}',
                expected='maps from fine to coarse, each of the size of the map before, '
                'or of half its size rounded up',
            )
        if n != m:
            x = jnp.repeat(x, 2, axis)
            x = lax.slice_in_dim(x, 0, n, axis=axis)
    return x


def _reflect_conv(x, features: int, name: str, dtype: Any, bias_init: Callable | None = None):
    """Applies a 3x3 convolution behind `reflect_pad`, as a submodule of the calling module."""
    conv = Conv(features, (3, 3), padding=0, bias_init=bias_init, dtype=dtype, name=name)
    return conv(reflect_pad(x))


def decode(features: Sequence, size: tuple[int, int], channels: Sequence[int], dtype: Any) -> list:
    """Computes the maps of the decoder.

    At each scale, from coarse to fine: convolution, ELU, twice the size, concatenation with the
    encoder's map of that size (none at full resolution), convolution, ELU. The convolutions become
    submodules of the calling module.

    Args:
      features: [B, h, w, C] each, from fine to coarse, see DepthDecoder.
      size: (H, W) of the image.
      channels: of the maps, from coarse to fine, one for each map of the encoder.
      dtype: of activations.

    Returns:
      Maps from full resolution (scale 0) on, with channels[-1], channels[-2], .. channels.

    Raises:
      InputError: another number of maps than of channels, or sizes that do not follow each other.
    """
    if len(features) != len(channels):
        raise InputError(
            'decoder: features',
            got=f'{len(features)} maps',
            expected=f'{len(channels)}, one for each of the channels {tuple(channels)}',
        )
    x = features[-1].astype(dtype)
    maps = []
    for scale, width in zip(reversed(range(len(channels))), channels, strict=True):
        x = _reflect_conv(x, width, f'upconv_{scale}_0', dtype)
        x = nn.elu(x)
        # features[scale - 1] is the next finer map. Scale 0 is the image, which has no map.
        if scale:
            skip = features[scale - 1].astype(dtype)
            x = upsample_nearest(x, skip.shape[1:3])
            x = jnp.concatenate([x, skip], -1)
        else:
            x = upsample_nearest(x, size)
        x = _reflect_conv(x, width, f'upconv_{scale}_1', dtype)
        x = nn.elu(x)
        maps.append(x)
    return maps[::-1]


class DepthDecoder(nn.Module):
    """monodepth2's decoder: sigmoids at several scales from the maps of an encoder.

    channels    from coarse to fine, one for each map of the encoder
    num_scales  scales 0 .. num_scales - 1 have a head, a convolution to one channel and a sigmoid
    head_bias   added to torch's initial biases of the heads. With 5, as in SGDepth, all depths are
                small at first
    dtype       of activations. Parameters and sigmoids are float32
    """

    channels: tuple[int, ...] = DECODER_CHANNELS
    num_scales: int = 4
    head_bias: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence, size: tuple[int, int]) -> list:
        """Returns sigmoids, which `sigmoid_to_depth` turns into depth.

        Args:
          features: [B, h, w, C] each, from fine to coarse. Each map has half the size of the map
            before, rounded up, or its size (a dilated encoder). The first has half the size of the
            image, or its size.
          size: (H, W) of the image.

        Returns:
          [y_0, y_1, ..], y_0 [B, H, W] and y_s [B, h, w] of the size of features[s - 1], float32 in
          [0, 1].
        """
        if not 1 <= self.num_scales <= len(self.channels):
            raise InputError(
                'decoder: num_scales',
                got=str(self.num_scales),
                expected=f'1 .. {len(self.channels)}, one head a scale',
            )
        maps = decode(features, size, self.channels, self.dtype)
        sigmoids = []
        for scale, x in enumerate(maps[: self.num_scales]):
            bias_init = _shifted_uniform(9 * x.shape[-1], self.head_bias)
            y = _reflect_conv(x, 1, f'dispconv_{scale}', self.dtype, bias_init)  # [B, h, w, 1]
            y = nn.sigmoid(y.astype(jnp.float32))
            sigmoids.append(y[..., 0])
        return sigmoids


def _shifted_uniform(fan: int, shift: float) -> Callable:
    """Returns the initialiser of torch's biases, plus `shift`."""
    uniform = uniform_fan(fan)
    return lambda key, shape, dtype: uniform(key, shape, dtype) + shift


class SegmentationDecoder(nn.Module):
    """The decoder of DepthDecoder with a single head, to the classes at full resolution.

    num_classes  channels of the logits
    channels     from coarse to fine, one for each map of the encoder
    dtype        of activations. Parameters and logits are float32
    """

    num_classes: int
    channels: tuple[int, ...] = DECODER_CHANNELS
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence, size: tuple[int, int]):
        """Returns logits [B, H, W, num_classes] float32. Arguments are as in DepthDecoder."""
        maps = decode(features, size, self.channels, self.dtype)
        logits = _reflect_conv(maps[0], self.num_classes, 'segconv_0', self.dtype)
        return logits.astype(jnp.float32)
