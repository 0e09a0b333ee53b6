"""DeepLab, first and second version: dilated VGG16 and ResNet, and parallel dilated convolutions on top.

LargeFOV: Chen, Papandreou, Kokkinos, Murphy, Yuille, ICLR 2015; layers and names of its Caffe nets. Version 2: the same
authors, TPAMI 2018; `aspp.c0` of the PyTorch port is `aspp/c0` here. For the backbones see models/vgg.py and resnet.py.
Both were published with starts from ImageNet; their own layers start at N(0, 0.01^2) with biases 0.
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
    """DeepLab-LargeFOV. `net.apply(variables, x, train=...)`, in training with rngs={'dropout': key}.

    The VGG16 of models/vgg.py with poolings of window 3, the last two of stride 1; conv5 of dilation 2; fc6 3x3 of
    dilation 12, fc7 and fc8 1x1. No batch norm.

    num_classes   channels of the logits
    fov           dilation of fc6
    dropout       rate after fc6 and fc7, every element on its own
    taps          names of inner tensors (models/vgg.py) to return under outputs['features']
    width         factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype         of activations; parameters and the returned logits are float32
    axis_name     unused: without batch norm, examples do not meet
    dilated_conv  what makes conv5_1, conv5_2, conv5_3 and fc6: called as models.layers.Conv is, with features,
                  kernel_size, dilation, kernel_init, bias_init, dtype and name; None: that Conv
    logit_stride  in training, logits of every n-th pixel along both axes, as [:, ::n, ::n] of all;
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
    def __call__(self, x, train: bool):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size; 8 k + 1 pixels as published.
          train: use dropout, and `logit_stride`.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, enlarged from 1/8 with feature j on pixel 8 j, so that
          logits[:, ::8, ::8] are those that were trained on; with taps {'features': {tap: [B, h, w, C]}}.
        """
        shared = dict(kernel_init=he_fan_out, bias_init=nn.initializers.zeros, dtype=self.dtype)
        conv, dilated = (
            functools.partial(Conv, **shared),
            functools.partial(self.dilated_conv or Conv, **shared),
        )
        drop = nn.Dropout(self.dropout, deterministic=not train)
        pools, features = VGG16(
            conv,
            dilated,
            window=3,
            pool_strides=(2, 2, 2, 1, 1),
            dilation=2,
            width=self.width,
            taps=self.taps,
            name='vgg',
        )(x.astype(self.dtype))
        n = scaled(1024, self.width)
        y = drop(nn.relu(dilated(n, (3, 3), dilation=self.fov, name='fc6')(pools['pool5'])))
        y = drop(nn.relu(conv(n, (1, 1), name='fc7')(y)))
        y = Conv(self.num_classes, (1, 1), dtype=self.dtype, **_SMALL, name='fc8')(y)
        y = y.astype(jnp.float32)
        every = self.logit_stride or 1 if train else 1
        outputs = {'logits': resize.bilinear_on_grid(y, x.shape[1:3], OUTPUT_STRIDE, every=every)}
        return outputs | ({'features': features} if self.taps else {})


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the sum of 3x3 convolutions to the classes, one for each rate."""

    num_classes: int
    rates: tuple[int, ...]
    dilated_conv: Callable

    @nn.compact
    def __call__(self, x):
        return sum(
            self.dilated_conv(self.num_classes, (3, 3), dilation=rate, name=f'c{i}')(x)
            for i, rate in enumerate(self.rates)
        )


def scaled_size(pixels: int, scale: float) -> int:
    """Returns the length of a scaled axis of 8 k + 1 pixels in the same form: 321 at 0.5 are 161."""
    return math.floor(scale * (pixels - 1) + 0.5) + 1


class DeepLabV2(nn.Module):
    """DeepLab-v2. `net.apply(variables, x, train=...)`; in training with mutable=['batch_stats'].

    num_classes   channels of the logits
    num_layers    of the ResNet; 101 is the published net
    rates         dilations of the pyramid
    scales        sizes at which the net looks at the image, besides 1, for instance (0.75, 0.5) as
                  published; an axis then has `scaled_size` pixels. The logits are the largest over
                  all scales. Those of each scale are outputs['aux']['scale_...'], published with
                  loss weights of 1
    taps          names of inner tensors (models/resnet.py) to return, at scale 1, under outputs['features']
    norm_decay    of the running statistics, each time the net looks at a batch: with `scales`,
                  several times a step, and the statistics then serve all scales. Published: 0.999,
                  and frozen
    frozen_norm   use the running statistics in training as well, as published. Scales and biases of
                  the norms still learn, unless optim.factors freezes them
    width         factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype         of activations; parameters, batch statistics and the returned logits are float32
    axis_name     mapped axis over which batch statistics are those of the global batch; None: of this device
    dilated_conv  what makes the dilated 3x3 convolutions of layer3, layer4 and the pyramid: called as
                  models.layers.Conv is, with features, kernel_size, dilation, use_bias (False in the backbone),
                  kernel_init, bias_init (pyramid), dtype and name; None: that Conv
    logit_stride  in training, logits of every n-th pixel along both axes, as [:, ::n, ::n] of all;
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
    def __call__(self, x, train: bool):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size; 8 k + 1 pixels as published.
          train: use the batch's statistics, and `logit_stride`.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, enlarged from 1/8 with feature j on pixel 8 j; with scales also
          {'aux': {'scale_1': like the logits, 'scale_0.75': ...}}, with taps {'features': {tap: [B, h, w, C]}}.
        """
        if not all(scale > 0 for scale in self.scales):
            raise InputError(
                'deeplab_v2: scales', got=repr(self.scales), expected='factors above 0'
            )
        norm = batch_norm(
            train,
            decay=self.norm_decay,
            frozen=self.frozen_norm,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        resnet = make_resnet(
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
        dilated = functools.partial(self.dilated_conv or Conv, dtype=self.dtype, **_SMALL)
        aspp = ASPP(self.num_classes, self.rates, dilated, name='aspp')

        size = x.shape[1:3]
        every = self.logit_stride or 1 if train else 1

        def look(image):
            """Returns logits at the size of x, and features."""
            stages, features = resnet(image.astype(self.dtype))
            logits = aspp(stages['layer4']).astype(jnp.float32)
            here = image.shape[1:3]
            logits = resize.bilinear_on_grid(logits, here, OUTPUT_STRIDE, then=size, every=every)
            return logits, features

        logits, features = look(x)
        outputs = {'logits': logits}
        if self.scales:
            seen = {'scale_1': logits}
            for scale in self.scales:
                small = tuple(scaled_size(n, scale) for n in size)
                seen[f'scale_{scale:g}'], _ = look(resize.bilinear(x, small))
            outputs = {'logits': functools.reduce(jnp.maximum, seen.values()), 'aux': seen}
        return outputs | ({'features': features} if self.taps else {})
