"""Decoders of monodepth2 on the feature maps of any encoder: one for depth and one for segmentation.

Names are those of the release. `decoder.0.conv.conv`, `decoder.1.conv.conv` .. `decoder.9.conv.conv`
are `upconv_4_0`, `upconv_4_1` .. `upconv_0_1`. `decoder.10.conv` .. `decoder.13.conv` are
`dispconv_0` .. `dispconv_3`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from segjax.errors import InputError, unknown_name
from segjax.models.backbones.resnet import make_resnet
from segjax.models.layers import Conv, batch_norm, scaled, uniform_fan


def sigmoid_to_disparity(sigmoid, min_depth: float, max_depth: float):
    """1 / max_depth + (1 / min_depth - 1 / max_depth) sigmoid: [0, 1] -> inverse depth."""
    return 1 / max_depth + (1 / min_depth - 1 / max_depth) * sigmoid


def sigmoid_to_depth(sigmoid, min_depth: float, max_depth: float):
    """1 / sigmoid_to_disparity: max_depth at 0, min_depth at 1."""
    return 1 / sigmoid_to_disparity(sigmoid, min_depth, max_depth)


def check_depths(net: str, min_depth: float, max_depth: float):
    if not 0 < min_depth < max_depth:
        raise InputError(
            f'{net}: min_depth, max_depth',
            got=f'{min_depth}, {max_depth}',
            expected='0 < min_depth < max_depth',
        )


DECODER_CHANNELS = (256, 128, 64, 32, 16)
# Feature maps of a ResNet that the decoder reads, at strides 2, 4, 8, 16 and 32. The first is the output of the stem's
# last batch norm, whose name depends on the stem.
PYRAMIDS = {
    stem: (tap, 'layer1', 'layer2', 'layer3', 'layer4')
    for stem, tap in (('7x7', 'conv1_1'), ('3x3', 'conv1_3'))
}


def pyramid(features: Mapping[str, Any], stem: str = '7x7') -> list:
    """The maps that a decoder takes, from the features of a net that has PYRAMIDS[stem] among its `taps`.

    E.g. the context path of a BiSeNet that shares it with a depth decoder. The stem's map is tapped before its ReLU,
    which is applied here.
    """
    if stem not in PYRAMIDS:
        raise unknown_name('pyramid: stem', stem, PYRAMIDS)
    first, *others = PYRAMIDS[stem]
    return [nn.relu(features[first]), *(features[name] for name in others)]


def reflect_pad(x):
    """One pixel around [B, H, W, C], mirrored at the outermost pixel; an axis of one pixel repeats it."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), 'reflect')


def upsample_nearest(x, size: tuple[int, int]):
    """[B, h, w, C] -> [B, H, W, C]: every pixel twice, cropped; an axis that has its size already is left alone.

    Raises:
      InputError: H is none of h, 2 h - 1 and 2 h, or W alike: the map is not of the level below.
    """
    for axis, n in zip((1, 2), size, strict=True):
        m = x.shape[axis]
        if n not in (m, 2 * m - 1, 2 * m):
            raise InputError(
                'decoder: features',
                got=f'a map of {x.shape[1]} x {x.shape[2]} below one of {size[0]} x {size[1]}',
                expected='maps from fine to coarse, each of the size of the one before, or of half its size rounded up',
            )
        if n != m:
            x = lax.slice_in_dim(jnp.repeat(x, 2, axis), 0, n, axis=axis)
    return x


def _reflect_conv(x, features: int, name: str, dtype: Any, bias_init: Callable | None = None):
    return Conv(features, (3, 3), padding=0, bias_init=bias_init, dtype=dtype, name=name)(
        reflect_pad(x)
    )


def decode(features: Sequence, size: tuple[int, int], channels: Sequence[int], dtype: Any) -> list:
    """The decoder's maps, from full resolution (scale 0) on, of channels[-1], channels[-2], .. channels.

    Coarse to fine, at scale s: convolution, ELU, twice the size, the encoder's map of that size beside it (none at full
    resolution), convolution, ELU. Called inside a module's __call__, whose submodules the convolutions become.
    """
    if len(features) != len(channels):
        raise InputError(
            'decoder: features',
            got=f'{len(features)} maps',
            expected=f'{len(channels)}, one for each of the channels {tuple(channels)}',
        )
    x, maps = features[-1].astype(dtype), []
    for scale, width in zip(reversed(range(len(channels))), channels, strict=True):
        skips = [features[scale - 1].astype(dtype)] if scale else []
        x = nn.elu(_reflect_conv(x, width, f'upconv_{scale}_0', dtype))
        x = upsample_nearest(x, skips[0].shape[1:3] if skips else size)
        x = nn.elu(
            _reflect_conv(jnp.concatenate([x, *skips], -1), width, f'upconv_{scale}_1', dtype)
        )
        maps.append(x)
    return maps[::-1]


class DepthDecoder(nn.Module):
    """monodepth2's decoder: sigmoids at several scales from the maps of an encoder.

    channels    from coarse to fine, one for each map of the encoder
    num_scales  scales 0 .. num_scales - 1 have a head, a convolution to one channel and a sigmoid
    head_bias   added to torch's start of the heads' biases; 5 starts with everything near (SGDepth)
    dtype       of activations; parameters and sigmoids are float32
    """

    channels: tuple[int, ...] = DECODER_CHANNELS
    num_scales: int = 4
    head_bias: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence, size: tuple[int, int]) -> list:
        """Sigmoids, which `sigmoid_to_depth` turns into depth.

        Args:
          features: [B, h, w, C] each, from fine to coarse. Each map has half the size of the one before, rounded up, or
            its size (a dilated encoder); the first has half the size of the image, or its size.
          size: (H, W) of the image.

        Returns:
          [y_0, y_1, ..], y_0 [B, H, W] and y_s [B, h, w] of the size of features[s - 1], float32 in [0, 1].
        """
        if not 1 <= self.num_scales <= len(self.channels):
            raise InputError(
                'decoder: num_scales',
                got=str(self.num_scales),
                expected=f'1 .. {len(self.channels)}, one head a scale',
            )
        maps = decode(features, size, self.channels, self.dtype)[: self.num_scales]

        def bias_init(channels):
            draw = uniform_fan(9 * channels)
            return lambda key, shape, dtype: draw(key, shape, dtype) + self.head_bias

        def head(scale, x):
            return _reflect_conv(x, 1, f'dispconv_{scale}', self.dtype, bias_init(x.shape[-1]))

        return [nn.sigmoid(head(s, x).astype(jnp.float32))[..., 0] for s, x in enumerate(maps)]


class SegmentationDecoder(nn.Module):
    """The same decoder with one head, to the classes at full resolution.

    num_classes  channels of the logits
    channels     from coarse to fine, one for each map of the encoder
    dtype        of activations; parameters and logits are float32
    """

    num_classes: int
    channels: tuple[int, ...] = DECODER_CHANNELS
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence, size: tuple[int, int]):
        """Logits [B, H, W, num_classes] float32; arguments as of DepthDecoder."""
        x = decode(features, size, self.channels, self.dtype)[0]
        return _reflect_conv(x, self.num_classes, 'segconv_0', self.dtype).astype(jnp.float32)


def encode(
    image, num_layers: int, width: float, train: bool, dtype: Any, axis_name: str | None
) -> list:
    """The pyramid of the submodule `resnet` of the calling module."""
    norm = batch_norm(train, dtype=dtype, axis_name=axis_name)
    resnet = make_resnet(num_layers, norm, dtype, None, width=width, taps=PYRAMIDS['7x7'])
    return pyramid(resnet(image)[1])


def decoder_channels(width: float) -> tuple[int, ...]:
    """DECODER_CHANNELS of a net of that width."""
    return tuple(scaled(channels, width) for channels in DECODER_CHANNELS)
