"""ResNet backbones, plain and dilated.

Source: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016. Layers, names
and initialisation are those of torchvision (7x7 stem) and of timm's `resnet50s` (three 3x3
convolutions). `layer1.0.downsample.0` there is `layer1_0/downsample_0` here. The names of further
releases become the names of torchvision and timm as follows:

    semseg (PSPNet)        layer0.{0,1,3,4,6} -> conv1.{0,1,3,4,6}, layer0.7 -> bn1
    Caffe and its ports    block{i}.{reduce,conv3x3,increase} -> {i - 1}.conv{1,2,3} and bn{1,2,3},
    (DeepLab-v2)           block1.{shortcut,proj} -> 0.downsample

In Caffe and its ports the stride is on the first 1x1 convolution.

Inner tensors that `taps` can name (names of the thesis and of Caffe, whose tops are the sums):

    conv1_1 .. conv1_3     convolutions of the stem after batch norm, before ReLU. A 7x7 stem has
                           conv1_1 only
    conv2_1 .. conv5_n     sum of shortcut and branch of block n of stage 1 (conv2) to 4 (conv5),
                           before ReLU
    layer1 .. layer4       outputs of the stages, after ReLU
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from segjax.errors import InputError, unknown_name
from segjax.models.layers import Conv, Taps, he_fan_out, scaled
from segjax.ops.pool import max_pool

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Number of layers -> number of blocks of each stage."""

STEMS = ('7x7', '3x3')

STRIDES = {
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}
"""Output stride -> (strides of the stages, dilations of the stages).

Every 3x3 convolution of a dilated stage is dilated, including the first block. torchvision's
replace_stride_with_dilation gives the first block the dilation of the stage before.
"""


class ResidualBlock(nn.Module):
    """Residual block that returns the sum of shortcut and branch, before the ReLU.

    The branch has two 3x3 convolutions, or with `bottleneck` a 1x1, a 3x3 and a 1x1 convolution.

    features       channels inside. A bottleneck has four times as many output channels
    strides        of the 3x3 convolution of a bottleneck, or of its first 1x1 with stride_on_1x1
    dilation       of the 3x3 convolutions
    bottleneck     whether the branch is a bottleneck
    project        the shortcut is a 1x1 convolution with batch norm instead of the identity
    stride_on_1x1  see `strides`
    conv           makes the plain convolutions, as in ResNet
    dilated_conv   makes the 3x3 convolutions where dilation > 1, as in ResNet
    norm           makes the batch norms, as in ResNet
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
        branch = self._bottleneck(x) if self.bottleneck else self._basic(x)
        shortcut = x
        if self.project:
            channels = branch.shape[-1]
            conv = self.conv(channels, (1, 1), strides=self.strides, name='downsample_0')
            shortcut = conv(x)
            shortcut = self.norm(name='downsample_1')(shortcut)
        return shortcut + branch

    def _basic(self, x):
        """Returns the branch of two 3x3 convolutions: [B, H / strides, W / strides, features]."""
        y = self._conv_3x3(self.strides, 'conv1')(x)
        y = self.norm(name='bn1')(y)
        y = nn.relu(y)
        y = self._conv_3x3(1, 'conv2')(y)
        return self.norm(name='bn2')(y)

    def _bottleneck(self, x):
        """Returns the branch of a bottleneck: [B, H / strides, W / strides, 4 features]."""
        n = self.features
        first, second = (self.strides, 1) if self.stride_on_1x1 else (1, self.strides)
        y = self.conv(n, (1, 1), strides=first, name='conv1')(x)
        y = self.norm(name='bn1')(y)
        y = nn.relu(y)
        y = self._conv_3x3(second, 'conv2')(y)
        y = self.norm(name='bn2')(y)
        y = nn.relu(y)
        y = self.conv(4 * n, (1, 1), name='conv3')(y)
        return self.norm(name='bn3')(y)

    def _conv_3x3(self, strides: int, name: str) -> nn.Module:
        """Builds a 3x3 convolution, which is dilated if the block is."""
        if self.dilation == 1:
            return self.conv(self.features, (3, 3), strides=strides, name=name)
        # Dilated stages have stride 1, so a dilated_conv needs no argument for strides.
        return self.dilated_conv(self.features, (3, 3), dilation=self.dilation, name=name)


class ResNet(nn.Module):
    """Backbone of 18 or 34 layers (basic blocks), 50, 101 or 152 (bottlenecks), without classifier.

    num_layers     layers, a key of BLOCKS
    conv           makes plain convolutions without bias:
                   conv(features, kernel_size, strides=, name=)
    dilated_conv   makes dilated convolutions without bias:
                   dilated_conv(features, kernel_size, dilation=, name=)
    norm           makes batch norms: norm(name=)
    stem           '7x7', or '3x3': three 3x3 convolutions with 64, 64, 128 channels (PSPNet)
    output_stride  32, 16 or 8. Below 32 the last stages are dilated instead of strided
    stride_on_1x1  strides are on the first 1x1 convolution of a bottleneck, as in Caffe
    ceil_pool      the max pooling of the stem rounds sizes up, as in Caffe
    width          factor on all channels
    taps           names of inner tensors to return, listed at the top of this file
    dilated        whether stages that lose their stride are dilated. False: plain convolutions
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
    dilated: bool = True

    @nn.compact
    def __call__(self, x, given=None):
        """Returns the features of an image.

        Args:
          x: [B, H, W, 3].
          given: {tap: array} that replaces inner tensors. None: all are computed.

        Returns:
          (stages, features). stages are layer1 .. layer4 by name. Their strides are 4, 8, 16 and
          32, but at most output_stride. Their sizes are rounded up. features are the taps by name.
        """
        self._check()
        tap = Taps('resnet', given)
        x = self._stem(x, tap)
        bottleneck = self.num_layers >= 50
        stages = {}
        strides, dilations = STRIDES[self.output_stride]
        for i, count in enumerate(BLOCKS[self.num_layers]):
            n = scaled(64 * 2**i, self.width)
            for j in range(count):
                # The 3x3 stem has 128 channels, which even the first basic block changes.
                project = j == 0 and (bottleneck or i > 0 or x.shape[-1] != n)
                block = ResidualBlock(
                    features=n,
                    strides=strides[i] if j == 0 else 1,
                    dilation=dilations[i] if self.dilated else 1,
                    bottleneck=bottleneck,
                    project=project,
                    stride_on_1x1=self.stride_on_1x1,
                    conv=self.conv,
                    dilated_conv=self.dilated_conv,
                    norm=self.norm,
                    name=f'layer{i + 1}_{j}',
                )
                x = block(x)
                x = tap(f'conv{i + 2}_{j + 1}', x)
                x = nn.relu(x)
            x = tap(f'layer{i + 1}', x)
            stages[f'layer{i + 1}'] = x
        return stages, tap.pick(self.taps)

    def _stem(self, x, tap: Taps):
        """Computes the stem, which has 64 channels, or 128 for '3x3'.

        Args:
          x: [B, H, W, 3].
          tap: gets the tensors before the ReLUs, [B, H / 2, W / 2, C].

        Returns:
          [B, H / 4, W / 4, C].
        """
        n = scaled(64, self.width)
        # One convolution, as published.
        if self.stem == '7x7':
            x = self.conv(n, (7, 7), strides=2, name='conv1')(x)
            x = self.norm(name='bn1')(x)
            x = tap('conv1_1', x)
        else:
            # Three convolutions. Layers are numbered as in torch, where ReLUs count.
            x = self.conv(n, (3, 3), strides=2, name='conv1_0')(x)
            x = self.norm(name='conv1_1')(x)
            x = tap('conv1_1', x)
            x = nn.relu(x)
            x = self.conv(n, (3, 3), name='conv1_3')(x)
            x = self.norm(name='conv1_4')(x)
            x = tap('conv1_2', x)
            x = nn.relu(x)
            x = self.conv(scaled(128, self.width), (3, 3), name='conv1_6')(x)
            x = self.norm(name='bn1')(x)
            x = tap('conv1_3', x)
        x = nn.relu(x)
        # The taps have stride 2, the result has stride 4.
        return max_pool(x, window=3, strides=2, padding=1, ceil=self.ceil_pool)

    def _check(self) -> None:
        """Raises InputError for fields that describe no ResNet."""
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
    """Builds the submodule `resnet` of a segmentation net, with torchvision's initialisation.

    Args:
      num_layers: a key of BLOCKS.
      norm: makes batch norms, as in ResNet.
      dtype: of activations.
      dilated_conv: makes dilated convolutions, called as layers.Conv is. None: layers.Conv.
      **fields: further fields of ResNet.
    """
    shared = dict(use_bias=False, kernel_init=he_fan_out, dtype=dtype)
    return ResNet(
        num_layers,
        conv=functools.partial(Conv, **shared),
        dilated_conv=functools.partial(dilated_conv or Conv, **shared),
        norm=norm,
        name='resnet',
        **fields,
    )
