"""ResNet backbones, plain and dilated.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016. Layers, names and initialisation are
torchvision's (7x7 stem) and timm's `resnet50s` (three 3x3 convolutions): `layer1.0.downsample.0` there is
`layer1_0/downsample_0` here. Other releases are renamings of these:

    semseg (PSPNet)        layer0.{0,1,3,4,6} -> conv1.{0,1,3,4,6}, layer0.7 -> bn1
    Caffe and its ports    block{i}.{reduce,conv3x3,increase} -> {i - 1}.conv{1,2,3} and bn{1,2,3},
    (DeepLab-v2)           block1.{shortcut,proj} -> 0.downsample; the stride is on the first 1x1 convolution

Tensors inside, for taps (thesis and Caffe names; the sums are the Caffe tops, before the ReLU):

    conv1_1 .. conv1_3     convolutions of the stem after batch norm, before ReLU; a 7x7 stem has conv1_1 only
    conv2_1 .. conv5_n     sum of shortcut and branch of block n of stage 1 (conv2) to 4 (conv5), before ReLU
    layer1 .. layer4       outputs of the stages, after ReLU
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from segjax.errors import InputError, unknown_name
from segjax.models.layers import Conv, he_fan_out, pick_taps, scaled
from segjax.ops.pool import max_pool

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STEMS = ('7x7', '3x3')
# Output stride: strides and dilations of the stages. Every 3x3 convolution of a dilated stage is dilated, the first
# block's too (torchvision's replace_stride_with_dilation leaves that one at the rate of the stage before).
STRIDES = {
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or with `bottleneck` 1x1, 3x3, 1x1, and the shortcut; returns the sum, before the ReLU.

    features       channels inside; a bottleneck puts out four times as many
    strides        on the 3x3 convolution of a bottleneck, on its first 1x1 with stride_on_1x1
    project        the shortcut is a 1x1 convolution with batch norm, not the identity
    dilated_conv   makes the 3x3 convolutions where dilation > 1
    """

    features: int
    strides: int
    dilation: int
    bottleneck: bool
    project: bool
    stride_on_1x1: bool
    conv: Callable
    dilated_conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        n = self.features
        if self.bottleneck:
            first, second = (self.strides, 1) if self.stride_on_1x1 else (1, self.strides)
            y = self.conv(n, (1, 1), strides=first, name='conv1')(x)
            y = nn.relu(self.norm(name='bn1')(y))
            y = nn.relu(self.norm(name='bn2')(self._conv_3x3(second, 'conv2')(y)))
            y = self.norm(name='bn3')(self.conv(4 * n, (1, 1), name='conv3')(y))
        else:
            y = nn.relu(self.norm(name='bn1')(self._conv_3x3(self.strides, 'conv1')(x)))
            y = self.norm(name='bn2')(self._conv_3x3(1, 'conv2')(y))
        if self.project:
            x = self.conv(y.shape[-1], (1, 1), strides=self.strides, name='downsample_0')(x)
            x = self.norm(name='downsample_1')(x)
        return x + y

    def _conv_3x3(self, strides: int, name: str) -> nn.Module:
        if self.dilation == 1:
            return self.conv(self.features, (3, 3), strides=strides, name=name)
        # Dilated stages have stride 1, so that a dilated_conv need not know strides.
        return self.dilated_conv(self.features, (3, 3), dilation=self.dilation, name=name)


class ResNet(nn.Module):
    """Backbone of 18 or 34 layers (basic blocks), 50, 101 or 152 (bottlenecks), without the classifier.

    num_layers     layers, a key of BLOCKS
    conv           makes plain convolutions: conv(features, kernel_size, strides=, name=), without bias
    dilated_conv   makes the dilated ones: dilated_conv(features, kernel_size, dilation=, name=)
    norm           makes batch norms: norm(name=)
    stem           '7x7', or '3x3': three 3x3 convolutions with 64, 64, 128 channels (PSPNet)
    output_stride  32, 16 or 8; below 32 the last stages are dilated instead of strided
    stride_on_1x1  strides on the first 1x1 convolution of a bottleneck, as in the authors' Caffe nets
    ceil_pool      the stem's max pooling rounds sizes up, as Caffe's
    width          factor on all channels
    taps           names of inner tensors to return, see above
    """

    num_layers: int
    conv: Callable
    dilated_conv: Callable
    norm: Callable
    stem: str = '7x7'
    output_stride: int = 32
    stride_on_1x1: bool = False
    ceil_pool: bool = False
    width: float = 1.0
    taps: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x):
        """Features of an image.

        Args:
          x: [B, H, W, 3].

        Returns:
          (stages, features): stages are layer1 .. layer4 by name, at strides 4, 8, 16, 32 at most and never above
          output_stride, of sizes rounded up; features are the taps by name.
        """
        self._check()
        bottleneck = self.num_layers >= 50
        features, stages = {}, {}
        x = self._stem(x, features)
        strides, dilations = STRIDES[self.output_stride]
        for i, count in enumerate(BLOCKS[self.num_layers]):
            n = scaled(64 * 2**i, self.width)
            for j in range(count):
                x = ResidualBlock(
                    features=n,
                    strides=strides[i] if j == 0 else 1,
                    dilation=dilations[i],
                    bottleneck=bottleneck,
                    # With the stem of 128 channels, the first basic block changes their number, too.
                    project=j == 0 and (bottleneck or i > 0 or x.shape[-1] != n),
                    stride_on_1x1=self.stride_on_1x1,
                    conv=self.conv,
                    dilated_conv=self.dilated_conv,
                    norm=self.norm,
                    name=f'layer{i + 1}_{j}',
                )(x)
                features[f'conv{i + 2}_{j + 1}'] = x
                x = nn.relu(x)
            features[f'layer{i + 1}'] = stages[f'layer{i + 1}'] = x
        return stages, pick_taps(features, self.taps, 'resnet')

    def _stem(self, x, features):
        n = scaled(64, self.width)
        if self.stem == '7x7':
            x = features['conv1_1'] = self.norm(name='bn1')(
                self.conv(n, (7, 7), strides=2, name='conv1')(x)
            )
        else:
            x = self.conv(n, (3, 3), strides=2, name='conv1_0')(x)
            x = features['conv1_1'] = self.norm(name='conv1_1')(x)
            x = self.conv(n, (3, 3), name='conv1_3')(nn.relu(x))
            x = features['conv1_2'] = self.norm(name='conv1_4')(x)
            x = self.conv(scaled(128, self.width), (3, 3), name='conv1_6')(nn.relu(x))
            x = features['conv1_3'] = self.norm(name='bn1')(x)
        return max_pool(nn.relu(x), window=3, strides=2, padding=1, ceil=self.ceil_pool)

    def _check(self):
        if self.num_layers not in BLOCKS:
            raise InputError(
                'resnet: num_layers', got=repr(self.num_layers), expected=f'one of {sorted(BLOCKS)}'
            )
        if self.stem not in STEMS:
            raise unknown_name('resnet: stem', self.stem, STEMS)
        if self.output_stride not in STRIDES:
            raise InputError(
                'resnet: output_stride', got=repr(self.output_stride), expected='32, 16 or 8'
            )


def make_resnet(
    num_layers: int, norm: Callable, dtype: Any, dilated_conv: Callable | None, **fields
) -> ResNet:
    """The submodule `resnet` of a segmentation net, with torchvision's start; dilated_conv None: plain convolutions."""
    shared = dict(use_bias=False, kernel_init=he_fan_out, dtype=dtype)
    return ResNet(
        num_layers,
        conv=functools.partial(Conv, **shared),
        dilated_conv=functools.partial(dilated_conv or Conv, **shared),
        norm=norm,
        name='resnet',
        **fields,
    )
