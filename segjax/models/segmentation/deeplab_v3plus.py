"""DeepLab-v3+: dilated backbone, separable pyramid pooling or a searched cell, and a decoder at stride 4.

Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation, ECCV 2018; the cell is that of Chen et al.: Searching for Efficient Multi-Scale Architectures for Dense
Image Prediction, NeurIPS 2018. Layers, starts and names follow the authors' TensorFlow release:
`aspp1_depthwise/depthwise_weights` there is `aspp/aspp1/conv_dw/kernel` here; for the backbones see models/xception.py
and models/resnet.py.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.models.backbones.resnet import ResNet, make_resnet
from segjax.models.backbones.xception import SeparableConv, Xception
from segjax.models.layers import Conv, ConvNorm, DepthwiseConv, batch_norm, scaled
from segjax.ops import resize
from segjax.ops.pool import adaptive_average_pool

BACKBONES = {
    'xception41': (Xception, 41),
    'xception65': (Xception, 65),
    'xception71': (Xception, 71),
    'resnet50': (ResNet, 50),
    'resnet101': (ResNet, 101),
}
HEADS = ('aspp', 'dpc')
ASPP_RATES = (6, 12, 18)
# The published cell with five branches: rate (rows, columns) at output stride 16, and whose output is the input (-1:
# the backbone's).
CELL = (((1, 6), -1), ((18, 15), 0), ((6, 3), 1), ((1, 1), 0), ((6, 21), 0))


class ASPP(nn.Module):
    """Image mean, 1x1 convolution and three dilated separable convolutions side by side, then a 1x1 and dropout.

    scale  factor on the rates 6, 12, 18: 1 at output stride 16, 2 at 8
    """

    features: int
    scale: int
    dropout: float
    conv_norm: Callable
    separable: Callable
    train: bool

    @nn.compact
    def __call__(self, x):
        mean = self.conv_norm(self.features, (1, 1), name='image_pooling')(
            adaptive_average_pool(x, 1)
        )
        maps = [jnp.broadcast_to(mean, (*x.shape[:-1], self.features))]
        maps.append(self.conv_norm(self.features, (1, 1), name='aspp0')(x))
        for i, rate in enumerate(ASPP_RATES, start=1):
            rate *= self.scale
            maps.append(self.separable(self.features, dilation=(rate, rate), name=f'aspp{i}')(x))
        x = self.conv_norm(self.features, (1, 1), name='concat_projection')(
            jnp.concatenate(maps, -1)
        )
        return nn.Dropout(self.dropout, deterministic=not self.train)(x)


class DensePredictionCell(nn.Module):
    """The published cell: five separable convolutions, in part of each other, then dropout and a 1x1.

    scale  factor on the rates: 1 at output stride 16, 2 at 8
    """

    features: int
    scale: int
    dropout: float
    conv_norm: Callable
    separable: Callable
    train: bool

    @nn.compact
    def __call__(self, x):
        maps = []
        for i, (rate, source) in enumerate(CELL):
            rate = tuple(self.scale * r for r in rate)
            branch = self.separable(self.features, dilation=rate, name=f'branch{i}')
            maps.append(branch(x if source < 0 else maps[source]))
        x = nn.Dropout(self.dropout, deterministic=not self.train)(jnp.concatenate(maps, -1))
        return self.conv_norm(self.features, (1, 1), name='concat_projection')(x)


class Decoder(nn.Module):
    """Joins the enlarged features with low-level ones of stride 4: [B, h, w, features]."""

    features: int
    low_level_features: int
    stride: int
    conv_norm: Callable
    separable: Callable

    @nn.compact
    def __call__(self, x, low_level):
        low_level = self.conv_norm(self.low_level_features, (1, 1), name='feature_projection0')(
            low_level
        )
        x = resize.bilinear_on_grid(x, low_level.shape[1:3], self.stride)
        x = jnp.concatenate([x, low_level], -1)
        for i in range(2):
            x = self.separable(self.features, name=f'decoder_conv{i}')(x)
        return x


class DeepLabV3Plus(nn.Module):
    """DeepLab-v3+. `net.apply(variables, x, train=...)`, in training rngs={'dropout': key}, mutable=['batch_stats'].

    num_classes    channels of the logits
    backbone       'xception41', 'xception65', 'xception71', 'resnet50', 'resnet101'. The low-level feature is the
                   second separable convolution of the last block that begins at stride 4, or a ResNet's layer1
    head           'aspp', or 'dpc': the searched cell
    output_stride  of the backbone, 16 or 8; the rates of the head double at 8
    stem           of a ResNet backbone: '3x3' (the authors' resnet_v1_101_beta) or '7x7'
    dropout        rate of dropout in the head
    taps           names of inner tensors (models/xception.py, models/resnet.py) to return under outputs['features']
    norm_decay     of all running statistics, a step; published: 0.9997, for long training from pretrained weights
    frozen_norm    use the running statistics in training as well
    width          factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype          of activations; parameters, batch statistics and the returned logits are float32
    axis_name      mapped axis over which batch statistics are those of the global batch; None: of this device

    Running statistics hold the biased variance; eps is 1e-3 in Xception, 1e-5 elsewhere.
    """

    num_classes: int
    backbone: str = 'xception71'
    head: str = 'aspp'
    output_stride: int = 16
    stem: str = '3x3'
    dropout: float = 0.1
    taps: tuple[str, ...] = ()
    norm_decay: float = 0.9
    frozen_norm: bool = False
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """The logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size. The release has sizes of 16 k + 1, for which its
            enlargement with aligned corners puts every feature on its pixel; here it does so at every size.
          train: use the batch's statistics and dropout.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, enlarged from 1/4; with taps {'features': {tap: [B, h, w, C]}}.
        """
        self._check()
        norm = batch_norm(
            train,
            decay=self.norm_decay,
            frozen=self.frozen_norm,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        deep, low_level, features = self._backbone(x.astype(self.dtype), norm)
        xavier = nn.initializers.xavier_uniform()
        separable = functools.partial(
            SeparableConv,
            depthwise=functools.partial(
                DepthwiseConv, kernel_init=_truncated(0.33), dtype=self.dtype
            ),
            conv=functools.partial(Conv, kernel_init=_truncated(0.06), dtype=self.dtype),
            norm=norm,
        )
        conv = functools.partial(Conv, kernel_init=xavier, dtype=self.dtype)
        layers = dict(
            conv_norm=functools.partial(ConvNorm, conv=conv, norm=norm), separable=separable
        )
        n = scaled(256, self.width)
        head = ASPP if self.head == 'aspp' else DensePredictionCell
        y = head(n, 16 // self.output_stride, self.dropout, **layers, train=train, name=self.head)(
            deep
        )
        y = Decoder(n, scaled(48, self.width), self.output_stride // 4, **layers, name='decoder')(
            y, low_level
        )
        start = dict(kernel_init=_truncated(0.01), bias_init=nn.initializers.zeros)
        y = Conv(self.num_classes, (1, 1), **start, dtype=self.dtype, name='logits')(y)
        outputs = {'logits': resize.bilinear_on_grid(y.astype(jnp.float32), x.shape[1:3], 4)}
        return outputs | ({'features': features} if self.taps else {})

    def _backbone(self, x, norm):
        """(features at output_stride, features at stride 4, taps)."""
        kind, depth = BACKBONES[self.backbone]
        fields = dict(output_stride=self.output_stride, width=self.width, taps=self.taps)
        if kind is Xception:
            start = dict(kernel_init=_truncated(0.09), dtype=self.dtype)
            return Xception(
                depth,
                conv=functools.partial(Conv, **start),
                depthwise=functools.partial(DepthwiseConv, **start),
                norm=functools.partial(norm, epsilon=1e-3),
                **fields,
                name='xception',
            )(x)
        stages, taps = make_resnet(depth, norm, self.dtype, None, stem=self.stem, **fields)(x)
        return stages['layer4'], stages['layer1'], taps

    def _check(self):
        if self.backbone not in BACKBONES:
            raise unknown_name('deeplab_v3plus: backbone', self.backbone, BACKBONES)
        if self.head not in HEADS:
            raise unknown_name('deeplab_v3plus: head', self.head, HEADS)
        if self.output_stride not in (16, 8):
            raise InputError(
                'deeplab_v3plus: output_stride', got=repr(self.output_stride), expected='16 or 8'
            )


def _truncated(std: float) -> Callable:
    """N(0, std^2), drawn again beyond two deviations (which makes the deviation 0.88 std, as in TensorFlow)."""
    return nn.initializers.truncated_normal(std)
