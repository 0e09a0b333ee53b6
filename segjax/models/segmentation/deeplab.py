"""DeepLab, versions 1 and 2: dilated VGG16 and ResNet, with parallel dilated convolutions on top.

Sources:
  LargeFOV: Chen, Papandreou, Kokkinos, Murphy, Yuille, ICLR 2015. Layers and names follow its
    Caffe nets.
  Version 2: the same authors, TPAMI 2018. `aspp.c0` of the PyTorch port is `aspp/c0` here.

For the backbones see models/backbones/vgg.py and models/backbones/resnet.py. Both nets were
published with backbones trained on ImageNet. Their own layers are initialised as N(0, 0.01^2) with
biases 0.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.backbones.resnet import make_resnet
from segjax.models.backbones.vgg import VGG16
from segjax.models.layers import Conv, batch_norm, he_fan_out, normal, scaled
from segjax.ops import resize

OUTPUT_STRIDE = 8
_SMALL = dict(kernel_init=normal(0.01), bias_init=nn.initializers.zeros)


class DeepLabLargeFOV(nn.Module):
    """DeepLab-LargeFOV, without batch norm.

    Call `net.apply(variables, x, train=...)`, in training with rngs={'dropout': key}.

    The backbone is VGG16. Its poolings have a window of 3, and the last two have stride 1. conv5
    has a dilation of 2. On top are fc6, a 3x3 convolution with a dilation of 12, and the 1x1
    convolutions fc7 and fc8.

    num_classes   channels of the logits
    fov           dilation of fc6
    dropout       rate after fc6 and fc7, of every element on its own
    taps          names of inner tensors to return under outputs['features']
                  (models/backbones/vgg.py)
    width         factor on all inner channels. 1 is the published net, smaller factors are for
                  tests and small machines
    dtype         of activations. Parameters and logits are float32
    axis_name     unused, because without batch norm examples do not depend on each other
    dilated_conv  makes conv5_1, conv5_2, conv5_3 and fc6, called as models.layers.Conv is, with
                  features, kernel_size, dilation, kernel_init, bias_init, dtype and name.
                  None: models.layers.Conv
    logit_stride  in training, logits of every n-th pixel along both axes, as [:, ::n, ::n] of all.
                  None: of all pixels
    """

    num_classes: int
    fov: int = 12
    dropout: float = 0.5
    taps: tuple[str, ...] = ()
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None
    dilated_conv: Callable | None = None
    logit_stride: int | None = None

    @nn.compact
    def __call__(self, x, train: bool, given=None):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size. Published: 8 k + 1 pixels.
          train: use dropout, and `logit_stride`.
          given: {tap: array} that replaces inner tensors (models/split.py). None: all are computed.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, enlarged from 1/8 with feature j on pixel 8 j.
          The published training used logits[:, ::8, ::8]. With taps also {'features':
          {tap: [B, h, w, C]}}.
        """
        shared = dict(kernel_init=he_fan_out, bias_init=nn.initializers.zeros, dtype=self.dtype)
        conv = functools.partial(Conv, **shared)
        dilated = functools.partial(self.dilated_conv or Conv, **shared)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        vgg = VGG16(
            conv,
            dilated,
            window=3,
            pool_strides=(2, 2, 2, 1, 1),
            dilation=2,
            width=self.width,
            taps=self.taps,
            name='vgg',
        )
        pools, features = vgg(x.astype(self.dtype), given)

        n = scaled(1024, self.width)
        y = pools['pool5']  # [B, h, w, 512 width], h = H / 8 rounded up
        y = dilated(n, (3, 3), dilation=self.fov, name='fc6')(y)
        y = nn.relu(y)
        y = drop(y)
        y = conv(n, (1, 1), name='fc7')(y)
        y = nn.relu(y)
        y = drop(y)
        y = Conv(self.num_classes, (1, 1), dtype=self.dtype, **_SMALL, name='fc8')(y)
        y = y.astype(jnp.float32)

        every = _stride_of_logits(self.logit_stride, train)
        logits = resize.bilinear_on_grid(y, x.shape[1:3], OUTPUT_STRIDE, every=every)
        outputs = {'logits': logits}
        if self.taps:
            outputs['features'] = features
        return outputs


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the sum of 3x3 convolutions to the classes, one per rate.

    num_classes   channels of the logits
    rates         dilations of the convolutions
    dilated_conv  makes a convolution: dilated_conv(features, kernel_size, dilation=, name=)
    """

    num_classes: int
    rates: tuple[int, ...]
    dilated_conv: Callable

    @nn.compact
    def __call__(self, x):
        """Maps [B, h, w, C] to logits [B, h, w, num_classes]."""
        logits = 0
        for i, rate in enumerate(self.rates):
            conv = self.dilated_conv(self.num_classes, (3, 3), dilation=rate, name=f'c{i}')
            logits = logits + conv(x)
        return logits


def scaled_size(pixels: int, scale: float) -> int:
    """Returns the length of a scaled axis, of the form 8 k + 1 as the axis: 321 at 0.5 are 161."""
    return math.floor(scale * (pixels - 1) + 0.5) + 1


class DeepLabV2(nn.Module):
    """DeepLab-v2.

    Call `net.apply(variables, x, train=...)`, in training with mutable=['batch_stats'].

    num_classes   channels of the logits
    num_layers    layers of the ResNet. Published: 101
    rates         dilations of the pyramid
    scales        further sizes of the image that the net sees, in addition to 1, for instance
                  (0.75, 0.5) as published. An axis then has `scaled_size` pixels. The logits are
                  the largest over all scales. The logits of each scale are
                  outputs['aux']['scale_...'], published with loss weights of 1
    taps          names of inner tensors (models/backbones/resnet.py) to return, at scale 1, under
                  outputs['features']
    norm_decay    decay of the running statistics in each pass of the net. With `scales` a step has
                  several passes, and the statistics then serve all scales. Published: 0.999, and
                  frozen
    frozen_norm   use the running statistics in training, as published. Scales and biases of the
                  norms still learn, unless optim.factors freezes them
    width         factor on all inner channels. 1 is the published net, smaller factors are for
                  tests and small machines
    dtype         of activations. Parameters, batch statistics and logits are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
    dilated_conv  makes the dilated 3x3 convolutions of layer3, layer4 and the pyramid, called as
                  models.layers.Conv is, with features, kernel_size, dilation, use_bias (False in
                  the backbone), kernel_init, bias_init (pyramid), dtype and name.
                  None: models.layers.Conv
    logit_stride  in training, logits of every n-th pixel along both axes, as [:, ::n, ::n] of all.
                  None: of all pixels
    """

    num_classes: int
    num_layers: int = 101
    rates: tuple[int, ...] = (6, 12, 18, 24)
    scales: tuple[float, ...] = ()
    taps: tuple[str, ...] = ()
    norm_decay: float = 0.9
    frozen_norm: bool = False
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None
    dilated_conv: Callable | None = None
    logit_stride: int | None = None

    @nn.compact
    def __call__(self, x, train: bool, given=None):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size. Published: 8 k + 1 pixels.
          train: use the statistics of the batch, and `logit_stride`.
          given: {tap: array} that replaces inner tensors (models/split.py), without `scales`.
            None: all are computed.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, enlarged from 1/8 with feature j on pixel 8 j.
          With scales also {'aux': {'scale_1': like the logits, 'scale_0.75': ..}}, with taps also
          {'features': {tap: [B, h, w, C]}}.
        """
        self._check(given)
        resnet = self._resnet(train)
        dilated = functools.partial(self.dilated_conv or Conv, dtype=self.dtype, **_SMALL)
        aspp = ASPP(self.num_classes, self.rates, dilated, name='aspp')
        size = x.shape[1:3]
        every = _stride_of_logits(self.logit_stride, train)

        def segment(image):
            """Returns (logits at the size of x, taps) of the image at any size."""
            stages, features = resnet(image.astype(self.dtype), given)
            logits = aspp(stages['layer4'])  # [B, h, w, num_classes], stride 8
            logits = logits.astype(jnp.float32)
            logits = resize.bilinear_on_grid(
                logits, image.shape[1:3], OUTPUT_STRIDE, then=size, every=every
            )
            return logits, features

        logits, features = segment(x)
        outputs = {'logits': logits}
        if self.scales:
            by_scale = {'scale_1': logits}
            for scale in self.scales:
                small = resize.bilinear(x, tuple(scaled_size(n, scale) for n in size))
                by_scale[f'scale_{scale:g}'], _ = segment(small)
            outputs['logits'] = functools.reduce(jnp.maximum, by_scale.values())
            outputs['aux'] = by_scale
        if self.taps:
            outputs['features'] = features
        return outputs

    def _resnet(self, train: bool) -> nn.Module:
        """Builds the backbone."""
        norm = batch_norm(
            train,
            decay=self.norm_decay,
            frozen=self.frozen_norm,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        return make_resnet(
            self.num_layers,
            norm,
            self.dtype,
            self.dilated_conv,
            output_stride=OUTPUT_STRIDE,
            stride_on_1x1=True,
            ceil_pool=True,
            width=self.width,
            taps=self.taps,
        )

    def _check(self, given) -> None:
        """Raises InputError for scales that no image can have, or for `given` with scales."""
        if not all(scale > 0 for scale in self.scales):
            raise InputError(
                'deeplab_v2: scales', got=repr(self.scales), expected='factors above 0'
            )
        if given and self.scales:
            raise InputError(
                'deeplab_v2: given',
                got=f'inner tensors of one scale, scales {self.scales}',
                expected='a net of one scale: each further scale has inner tensors of its own',
                fix='scales=()',
            )


def _stride_of_logits(logit_stride: int | None, train: bool) -> int:
    """Returns the distance of pixels with logits: `logit_stride` in training, otherwise 1."""
    return logit_stride or 1 if train else 1
