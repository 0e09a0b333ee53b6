"""DeepLab-v3+: dilated backbone, separable pyramid pooling or a searched cell, decoder at stride 4.

Sources:
  Chen, Zhu, Papandreou, Schroff, Adam, Encoder-Decoder with Atrous Separable Convolution for
    Semantic Image Segmentation, ECCV 2018.
  The cell: Chen et al., Searching for Efficient Multi-Scale Architectures for Dense Image
    Prediction, NeurIPS 2018.

Layers, initialisation and names follow the authors' TensorFlow release:
`aspp1_depthwise/depthwise_weights` there is `aspp/aspp1/conv_dw/kernel` here. For the backbones see
models/backbones/xception.py and models/backbones/resnet.py.
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
"""Name -> (module, number of layers)."""

HEADS = ('aspp', 'dpc')
ASPP_RATES = (6, 12, 18)

CELL = (((1, 6), -1), ((18, 15), 0), ((6, 3), 1), ((1, 1), 0), ((6, 21), 0))
"""Branches of the published cell: (rate (rows, columns) at output stride 16, input).

The input is the output of the branch with this index, or of the backbone for -1.
"""


class ASPP(nn.Module):
    """Image mean, 1x1 convolution and three dilated separable convolutions, joined by a 1x1.

    features   channels of each branch and of the output
    scale      factor on the rates 6, 12, 18: 1 at output stride 16, 2 at 8
    dropout    rate of dropout on the output
    conv_norm  makes a convolution with batch norm and ReLU: conv_norm(features, kernel_size, name=)
    separable  makes a separable convolution: separable(features, dilation=, name=)
    train      use dropout
    """

    features: int
    scale: int
    dropout: float
    conv_norm: Callable
    separable: Callable
    train: bool

    @nn.compact
    def __call__(self, x):
        """Maps [B, h, w, C] to [B, h, w, features]."""
        mean = adaptive_average_pool(x, 1)
        mean = self.conv_norm(self.features, (1, 1), name='image_pooling')(mean)
        maps = [jnp.broadcast_to(mean, (*x.shape[:-1], self.features))]
        maps.append(self.conv_norm(self.features, (1, 1), name='aspp0')(x))
        for i, rate in enumerate(ASPP_RATES, start=1):
            rate *= self.scale
            branch = self.separable(self.features, dilation=(rate, rate), name=f'aspp{i}')
            maps.append(branch(x))
        x = jnp.concatenate(maps, -1)  # [B, h, w, 5 features]
        x = self.conv_norm(self.features, (1, 1), name='concat_projection')(x)
        return nn.Dropout(self.dropout, deterministic=not self.train)(x)


class DensePredictionCell(nn.Module):
    """The published cell: five separable convolutions, dropout and a 1x1 convolution.

    Some of the separable convolutions see the output of an earlier convolution, see CELL. The
    fields are as in ASPP.
    """

    features: int
    scale: int
    dropout: float
    conv_norm: Callable
    separable: Callable
    train: bool

    @nn.compact
    def __call__(self, x):
        """Maps [B, h, w, C] to [B, h, w, features]."""
        maps = []
        for i, (rate, source) in enumerate(CELL):
            rate = tuple(self.scale * r for r in rate)
            branch = self.separable(self.features, dilation=rate, name=f'branch{i}')
            maps.append(branch(x if source < 0 else maps[source]))
        x = jnp.concatenate(maps, -1)  # [B, h, w, 5 features]
        x = nn.Dropout(self.dropout, deterministic=not self.train)(x)
        return self.conv_norm(self.features, (1, 1), name='concat_projection')(x)


class Decoder(nn.Module):
    """Joins the enlarged features with low-level features of stride 4.

    features            channels of the output
    low_level_features  channels of the low-level features after a 1x1 convolution
    stride              output stride of the backbone over 4
    conv_norm, separable  make layers, as in ASPP
    """

    features: int
    low_level_features: int
    stride: int
    conv_norm: Callable
    separable: Callable

    @nn.compact
    def __call__(self, x, low_level):
        """Maps [B, h, w, C] and [B, H / 4, W / 4, D] to [B, H / 4, W / 4, features]."""
        project = self.conv_norm(self.low_level_features, (1, 1), name='feature_projection0')
        low_level = project(low_level)
        x = resize.bilinear_on_grid(x, low_level.shape[1:3], self.stride)
        x = jnp.concatenate([x, low_level], -1)
        for i in range(2):
            x = self.separable(self.features, name=f'decoder_conv{i}')(x)
        return x


class DeepLabV3Plus(nn.Module):
    """DeepLab-v3+.

    Call `net.apply(variables, x, train=...)`, in training with rngs={'dropout': key} and
    mutable=['batch_stats'].

    num_classes    channels of the logits
    backbone       backbone: 'xception41', 'xception65', 'xception71', 'resnet50', 'resnet101'. The
                   low-level feature is the second separable convolution of the last block that
                   begins at stride 4, or layer1 of a ResNet
    head           head of the net: 'aspp', or 'dpc', the searched cell
    output_stride  stride of the backbone, 16 or 8. The rates of the head double at 8
    stem           stem of a ResNet backbone: '3x3' (the authors' resnet_v1_101_beta) or '7x7'
    dropout        rate of dropout in the head
    taps           names of inner tensors to return under outputs['features']
                   (models/backbones/xception.py, models/backbones/resnet.py)
    norm_decay     decay of all running statistics in a step. Published: 0.9997, for long training
                   from pretrained weights
    frozen_norm    use the running statistics in training
    width          factor on all inner channels. 1 is the published net, smaller factors are for
                   tests and small machines
    dtype          of activations. Parameters, batch statistics and logits are float32
    axis_name      mapped axis of the devices that share batch statistics. None: not shared

    Running statistics hold the biased variance. Batch norms have epsilon 1e-3 in Xception and 1e-5
    elsewhere.
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
    def __call__(self, x, train: bool, given=None):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size. The release has sizes of
            16 k + 1. For these its enlargement with aligned corners puts every feature on its
            pixel. Here every feature is on its pixel at every size.
          train: use the statistics of the batch, and dropout.
          given: {tap: array} that replaces inner tensors (models/split.py). None: all are computed.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, enlarged from 1/4. With taps also {'features':
          {tap: [B, h, w, C]}}.
        """
        self._check()
        norm = batch_norm(
            train,
            decay=self.norm_decay,
            frozen=self.frozen_norm,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        n = scaled(256, self.width)
        layers = self._layers(norm)
        head = (ASPP if self.head == 'aspp' else DensePredictionCell)(
            n, 16 // self.output_stride, self.dropout, **layers, train=train, name=self.head
        )
        decoder = Decoder(
            n, scaled(48, self.width), self.output_stride // 4, **layers, name='decoder'
        )
        classify = Conv(
            self.num_classes,
            (1, 1),
            kernel_init=_truncated(0.01),
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
            name='logits',
        )

        deep, low_level, features = self._backbone(x.astype(self.dtype), given, norm)
        y = head(deep)
        y = decoder(y, low_level)
        y = classify(y)  # [B, H / 4, W / 4, num_classes]
        y = y.astype(jnp.float32)
        outputs = {'logits': resize.bilinear_on_grid(y, x.shape[1:3], 4)}
        if self.taps:
            outputs['features'] = features
        return outputs

    def _layers(self, norm: Callable) -> dict[str, Callable]:
        """Returns the makers of the layers of head and decoder: 'conv_norm' and 'separable'."""
        xavier = nn.initializers.xavier_uniform()
        conv = functools.partial(Conv, kernel_init=xavier, dtype=self.dtype)
        conv_dw = functools.partial(DepthwiseConv, kernel_init=_truncated(0.33), dtype=self.dtype)
        conv_pw = functools.partial(Conv, kernel_init=_truncated(0.06), dtype=self.dtype)
        return {
            'conv_norm': functools.partial(ConvNorm, conv=conv, norm=norm),
            'separable': functools.partial(
                SeparableConv, depthwise=conv_dw, conv=conv_pw, norm=norm
            ),
        }

    def _backbone(self, x, given, norm: Callable):
        """Returns (features at output_stride, features at stride 4, taps)."""
        kind, num_layers = BACKBONES[self.backbone]
        fields = dict(output_stride=self.output_stride, width=self.width, taps=self.taps)
        if kind is Xception:
            shared = dict(kernel_init=_truncated(0.09), dtype=self.dtype)
            xception = Xception(
                num_layers,
                conv=functools.partial(Conv, **shared),
                depthwise=functools.partial(DepthwiseConv, **shared),
                norm=functools.partial(norm, epsilon=1e-3),
                **fields,
                name='xception',
            )
            return xception(x, given)
        resnet = make_resnet(num_layers, norm, self.dtype, None, stem=self.stem, **fields)
        stages, taps = resnet(x, given)
        return stages['layer4'], stages['layer1'], taps

    def _check(self) -> None:
        """Raises InputError for unknown names and output strides."""
        if self.backbone not in BACKBONES:
            raise unknown_name('deeplab_v3plus: backbone', self.backbone, BACKBONES)
        if self.head not in HEADS:
            raise unknown_name('deeplab_v3plus: head', self.head, HEADS)
        if self.output_stride not in (16, 8):
            raise InputError(
                'deeplab_v3plus: output_stride', got=repr(self.output_stride), expected='16 or 8'
            )


def _truncated(std: float) -> Callable:
    """Returns the initialiser N(0, std^2) that repeats numbers beyond two deviations.

    This makes the deviation 0.88 std, as in TensorFlow.
    """
    return nn.initializers.truncated_normal(std)
