"""Aligned Xception: a backbone of depthwise separable convolutions.

Source: Chen, Zhu, Papandreou, Schroff, Adam, Encoder-Decoder with Atrous Separable Convolution,
ECCV 2018, after Chollet, CVPR 2017. The initialisation is that of the DeepLab release, N(0, 0.09^2)
cut off at two deviations. Names follow timm's ports (xception65.tf_in1k):
`blocks.1.stack.conv2.conv_dw` there is `blocks_1/stack/conv2/conv_dw` here.

Inner tensors that `taps` can name:

    blocks_{i}        output of block i
    blocks_{i}/conv2  input of the ReLU in front of the block's third convolution, at the input
                      resolution of the block
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax.linen as nn

from segjax.errors import InputError
from segjax.models.layers import ConvNorm, Taps, scaled

ENTRIES = {
    41: ((128, 2), (256, 2), (728, 2)),
    65: ((128, 2), (256, 2), (728, 2)),
    71: ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)),
}
"""Number of layers -> (channels of the convolutions, stride) of each block of the entry flow."""

MIDDLE_BLOCKS = {41: 8, 65: 16, 71: 16}
"""Number of layers -> number of blocks of the middle flow."""

LOW_LEVEL = {41: 'blocks_1/conv2', 65: 'blocks_1/conv2', 71: 'blocks_2/conv2'}
"""Number of layers -> low-level feature of DeepLab-v3+.

The feature is in the last block that begins at stride 4.
"""

OUTPUT_STRIDES = (32, 16, 8)


class SeparableConv(nn.Module):
    """3x3 convolution of each channel, batch norm, 1x1 convolution, batch norm.

    features   channels of the output
    depthwise  makes the 3x3 convolution: depthwise(strides=, dilation=, name=)
    conv       makes the 1x1 convolution, as in Xception
    norm       makes the batch norms, as in Xception
    strides    of the 3x3 convolution
    dilation   (rows, columns) of the 3x3 convolution
    relu       whether a ReLU follows each of the two norms
    """

    features: int
    depthwise: Callable
    conv: Callable
    norm: Callable
    strides: int = 1
    dilation: tuple[int, int] = (1, 1)
    relu: bool = True

    @nn.compact
    def __call__(self, x):
        x = self.depthwise(strides=self.strides, dilation=self.dilation, name='conv_dw')(x)
        x = self.norm(name='bn_dw')(x)
        if self.relu:
            x = nn.relu(x)
        x = self.conv(self.features, (1, 1), use_bias=False, name='conv_pw')(x)
        x = self.norm(name='bn_pw')(x)
        return nn.relu(x) if self.relu else x


class Stack(nn.Module):
    """Three separable convolutions. The stride is on the third.

    features    output channels of each convolution
    strides     of the third convolution
    relu_first  whether the ReLUs are in front of the convolutions. Otherwise they are inside, after
                every batch norm
    separable   makes the convolutions: separable(features, strides=, relu=, name=)
    """

    features: tuple[int, int, int]
    strides: int
    relu_first: bool
    separable: Callable

    @nn.compact
    def __call__(self, x, tap: Callable):
        """Maps [B, H, W, C] to [B, H / strides, W / strides, features[2]].

        Args:
          x: the input.
          tap: gets the output of the second convolution, and returns it or its replacement.
        """
        for i, features in enumerate(self.features):
            if self.relu_first:
                x = nn.relu(x)
            conv = self.separable(
                features,
                strides=self.strides if i == 2 else 1,
                relu=not self.relu_first,
                name=f'conv{i + 1}',
            )
            x = conv(x)
            if i == 1:
                x = tap(x)
        return x


class XceptionBlock(nn.Module):
    """Three separable convolutions (`stack`), and a shortcut from the block's input.

    features   output channels of each convolution
    strides    of the third convolution and of the shortcut
    dilation   of all convolutions
    shortcut   'conv' (1x1 convolution and batch norm), 'sum' (the identity) or 'none'
    depthwise, conv, norm  make layers, as in Xception
    """

    features: tuple[int, int, int]
    strides: int
    dilation: int
    shortcut: str
    depthwise: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x, tap: Callable):
        """Maps [B, H, W, C] to [B, H / strides, W / strides, features[2]]. `tap` as in Stack."""

        def separable(features, **fields):
            return SeparableConv(
                features,
                self.depthwise,
                self.conv,
                self.norm,
                dilation=(self.dilation, self.dilation),
                **fields,
            )

        # The first ReLU is inside the branch, so the shortcut passes the input unchanged.
        relu_first = self.shortcut != 'none'
        stack = Stack(self.features, self.strides, relu_first, separable, name='stack')
        y = stack(x, tap)
        if self.shortcut == 'none':
            return y
        if self.shortcut == 'conv':
            project = ConvNorm(
                self.features[-1],
                (1, 1),
                conv=self.conv,
                norm=self.norm,
                strides=self.strides,
                relu=False,
                name='shortcut',
            )
            x = project(x)
        return x + y


class Block(NamedTuple):
    """Settings of one block.

    channels  of the output of each convolution, at width 1
    strides   published, which a smaller output stride turns into dilation
    shortcut  as in XceptionBlock
    """

    channels: tuple[int, int, int]
    strides: int
    shortcut: str


class Xception(nn.Module):
    """Backbone of 41, 65 or 71 layers, without the classifier.

    num_layers     a key of ENTRIES
    conv           makes convolutions: conv(features, kernel_size, strides=, use_bias=False, name=)
    depthwise      makes convolutions of each channel: depthwise(strides=, dilation=, name=)
    norm           makes batch norms: norm(name=). Their epsilon is 1e-3 as published
    output_stride  32, 16 or 8. Blocks behind it have stride 1, and each stride that is dropped
                   doubles the dilation of all later blocks
    width          factor on all channels
    taps           names of inner tensors to return, listed at the top of this file
    """

    num_layers: int
    conv: Callable
    depthwise: Callable
    norm: Callable
    output_stride: int = 32
    width: float = 1.0
    taps: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x, given=None):
        """Returns the features of an image.

        Args:
          x: [B, H, W, 3].
          given: {tap: array} that replaces inner tensors. None: all are computed.

        Returns:
          (features at output_stride, features at stride 4 for a decoder, {tap: tensor}).
        """
        self._check()
        layers = dict(conv=self.conv, norm=self.norm)
        x = ConvNorm(scaled(32, self.width), (3, 3), **layers, strides=2, name='stem_0')(x)
        x = ConvNorm(scaled(64, self.width), (3, 3), **layers, name='stem_1')(x)

        tap = Taps('xception', given)
        stride = 2
        dilation = 1
        for i, (channels, strides, shortcut) in enumerate(self._blocks()):
            is_strided = stride * strides <= self.output_stride
            block = XceptionBlock(
                tuple(scaled(n, self.width) for n in channels),
                strides if is_strided else 1,
                dilation,
                shortcut,
                self.depthwise,
                **layers,
                name=f'blocks_{i}',
            )
            x = block(x, functools.partial(tap, f'blocks_{i}/conv2'))
            x = tap(f'blocks_{i}', x)
            # A dropped stride becomes dilation after its block.
            if is_strided:
                stride *= strides
            else:
                dilation *= strides
        low_level = tap.tensors[LOW_LEVEL[self.num_layers]]
        return x, low_level, tap.pick(self.taps)

    def _blocks(self) -> Iterator[Block]:
        """Yields the blocks of the entry, middle and exit flow."""
        for channels, strides in ENTRIES[self.num_layers]:
            yield Block((channels,) * 3, strides, 'conv')
        for _ in range(MIDDLE_BLOCKS[self.num_layers]):
            yield Block((728,) * 3, 1, 'sum')
        yield Block((728, 1024, 1024), 2, 'conv')
        yield Block((1536, 1536, 2048), 1, 'none')

    def _check(self) -> None:
        """Raises InputError for fields that describe no Xception."""
        if self.num_layers not in ENTRIES:
            raise InputError(
                'xception: num_layers', got=repr(self.num_layers), expected='41, 65 or 71'
            )
        if self.output_stride not in OUTPUT_STRIDES:
            raise InputError(
                'xception: output_stride', got=repr(self.output_stride), expected='32, 16 or 8'
            )
