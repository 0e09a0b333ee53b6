"""Aligned Xception: a backbone of depthwise separable convolutions.

Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution, ECCV 2018, after Chollet, CVPR
2017, and the DeepLab release, whose start, N(0, 0.09^2) cut off at two deviations, it has. Names are those of timm's
ports (xception65.tf_in1k): `blocks.1.stack.conv2.conv_dw` there is `blocks_1/stack/conv2/conv_dw` here.

Tensors inside, for taps: blocks_{i} is the output of block i; blocks_{i}/conv2 what enters the ReLU in front of its
third convolution, still at the block's input resolution.
"""

from collections.abc import Callable

import flax.linen as nn

from segjax.errors import InputError
from segjax.models.layers import ConvNorm, pick_taps, scaled

# Entry flows: channels of each of a block's three convolutions, and its stride.
ENTRIES = {
    41: ((128, 2), (256, 2), (728, 2)),
    65: ((128, 2), (256, 2), (728, 2)),
    71: ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)),
}
MIDDLE_BLOCKS = {41: 8, 65: 16, 71: 16}
# The block whose 'conv2' is DeepLab-v3+'s low-level feature: the last one that begins at stride 4.
LOW_LEVEL = {41: 'blocks_1/conv2', 65: 'blocks_1/conv2', 71: 'blocks_2/conv2'}
OUTPUT_STRIDES = (32, 16, 8)


class SeparableConv(nn.Module):
    """3x3 convolution of each channel, batch norm, 1x1 convolution, batch norm; with `relu` a ReLU after either norm.

    depthwise  makes the first: depthwise(strides=, dilation=, name=)
    dilation   (rows, columns)
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
        x = self.conv(self.features, (1, 1), use_bias=False, name='conv_pw')(
            nn.relu(x) if self.relu else x
        )
        x = self.norm(name='bn_pw')(x)
        return nn.relu(x) if self.relu else x


class Stack(nn.Module):
    """Three separable convolutions, the stride on the third: (its output, what the second puts out).

    relu_first  ReLUs in front of the convolutions; otherwise inside them, after every batch norm
    """

    features: tuple[int, int, int]
    strides: int
    relu_first: bool
    separable: Callable

    @nn.compact
    def __call__(self, x):
        outputs = []
        for i, features in enumerate(self.features):
            x = nn.relu(x) if self.relu_first else x
            strides = self.strides if i == 2 else 1
            x = self.separable(
                features, strides=strides, relu=not self.relu_first, name=f'conv{i + 1}'
            )(x)
            outputs.append(x)
        return outputs[2], outputs[1]


class XceptionBlock(nn.Module):
    """Three separable convolutions, and a shortcut from the block's input: 'conv' (1x1 and batch norm), 'sum', 'none'.

    Returns:
      (output, output of the second convolution).
    """

    features: tuple[int, int, int]
    strides: int
    dilation: int
    shortcut: str
    depthwise: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        def separable(features, **args):
            rate = (self.dilation, self.dilation)
            return SeparableConv(
                features, self.depthwise, self.conv, self.norm, dilation=rate, **args
            )

        y, second = Stack(
            self.features, self.strides, self.shortcut != 'none', separable, name='stack'
        )(x)
        if self.shortcut == 'conv':
            fields = dict(
                conv=self.conv, norm=self.norm, strides=self.strides, relu=False, name='shortcut'
            )
            x = ConvNorm(self.features[-1], (1, 1), **fields)(x)
        return (y if self.shortcut == 'none' else x + y), second


class Xception(nn.Module):
    """Backbone of 41, 65 or 71 layers, without the classifier.

    num_layers     a key of ENTRIES
    conv           makes convolutions: conv(features, kernel_size, strides=, use_bias=False, name=)
    depthwise      makes convolutions of each channel: depthwise(strides=, dilation=, name=)
    norm           makes batch norms: norm(name=); eps 1e-3 as published
    output_stride  32, 16 or 8: once it is reached, blocks have stride 1 and all later ones twice the dilation
    width          factor on all channels
    taps           names of inner tensors to return, see above
    """

    num_layers: int
    conv: Callable
    depthwise: Callable
    norm: Callable
    output_stride: int = 32
    width: float = 1.0
    taps: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x):
        """[B, H, W, 3] -> (features at output_stride, features at stride 4 for a decoder, {tap: tensor})."""
        if self.num_layers not in ENTRIES:
            raise InputError(
                'xception: num_layers', got=repr(self.num_layers), expected='41, 65 or 71'
            )
        if self.output_stride not in OUTPUT_STRIDES:
            raise InputError(
                'xception: output_stride', got=repr(self.output_stride), expected='32, 16 or 8'
            )
        layers = dict(conv=self.conv, norm=self.norm)
        x = ConvNorm(scaled(32, self.width), (3, 3), **layers, strides=2, name='stem_0')(x)
        x = ConvNorm(scaled(64, self.width), (3, 3), **layers, name='stem_1')(x)

        blocks = [
            ((channels,) * 3, strides, 'conv') for channels, strides in ENTRIES[self.num_layers]
        ]
        blocks += [((728,) * 3, 1, 'sum')] * MIDDLE_BLOCKS[self.num_layers]
        blocks += [((728, 1024, 1024), 2, 'conv'), ((1536, 1536, 2048), 1, 'none')]
        stride, dilation, features = 2, 1, {}
        for i, (channels, strides, shortcut) in enumerate(blocks):
            reached = stride * strides > self.output_stride
            channels = tuple(scaled(n, self.width) for n in channels)
            block = XceptionBlock(
                channels,
                1 if reached else strides,
                dilation,
                shortcut,
                self.depthwise,
                **layers,
                name=f'blocks_{i}',
            )
            x, features[f'blocks_{i}/conv2'] = block(x)
            features[f'blocks_{i}'] = x
            stride, dilation = (
                (stride, dilation * strides) if reached else (stride * strides, dilation)
            )
        return x, features[LOW_LEVEL[self.num_layers]], pick_taps(features, self.taps, 'xception')
