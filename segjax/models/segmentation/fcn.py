"""FCN: VGG16 read as a fully convolutional net, with scores of finer layers added on the way up.

Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015 (TPAMI 2017). Layers, crops
and names are those of the Caffe nets, fc6 and fc7 included.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.backbones.vgg import VGG16
from segjax.models.layers import Conv, he_fan_out, scaled
from segjax.ops import resize

# Where the map of an output stride begins on the map it is added to, and of the last one, on the image: what 100 pixels
# of padding, and fc6 and the upsamplings without any, shift.
_CROP_OF_POOL = {16: 5, 8: 9}
_CROP_OF_IMAGE = {32: 19, 16: 27, 8: 31}
_FINER = {32: (), 16: (('pool4', 16),), 8: (('pool4', 16), ('pool3', 8))}


class Stream(nn.Module):
    """Scores of one image: of fc7, and of the pools that the output stride asks for, under their names."""

    num_classes: int
    pools: tuple[str, ...]
    dropout: float
    width: float
    taps: tuple[str, ...]
    conv: Callable
    score: Callable
    train: bool

    @nn.compact
    def __call__(self, x):
        pools, features = VGG16(
            self.conv, self.conv, padding=100, width=self.width, taps=self.taps, name='vgg'
        )(x)
        n, drop = scaled(4096, self.width), nn.Dropout(self.dropout, deterministic=not self.train)
        y = drop(nn.relu(self.conv(n, (7, 7), padding=0, name='fc6')(pools['pool5'])))
        y = drop(nn.relu(self.conv(n, (1, 1), name='fc7')(y)))
        scores = {'fc7': self.score(self.num_classes, (1, 1), name='score_fr')(y)}
        for pool in self.pools:
            scores[pool] = self.score(self.num_classes, (1, 1), name=f'score_{pool}')(pools[pool])
        return scores, features


class FCN(nn.Module):
    """FCN-32s, 16s, 8s on VGG16. `net.apply(variables, x, train=...)`, in training with rngs={'dropout': key}.

    The scores' convolutions start at 0, as published, everything below at torchvision's start.

    num_classes    channels of the logits
    output_stride  32, 16 (adds scores of pool4) or 8 (adds those of pool3, too)
    streams        names of the images that the input's channels hold, three channels each, e.g. ('color', 'hha'). Each
                   has a whole net of its own; fc7's scores are averaged over streams, the pools' are added
    dropout        rate after fc6 and fc7, every element on its own
    taps           names of inner tensors (models/vgg.py) to return under outputs['features'], as 'color/conv4_3' where
                   there are several streams
    width          factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype          of activations; parameters and the returned logits are float32
    axis_name      unused: without batch norm, examples do not meet

    Upsampling is bilinear and fixed, ops.resize.bilinear_deconvolution.
    """

    num_classes: int
    output_stride: int = 8
    streams: tuple[str, ...] = ('color',)
    dropout: float = 0.5
    taps: tuple[str, ...] = ()
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """The logits of an image.

        Args:
          x: [B, H, W, 3 len(streams)] floating point, normalised, of any size.
          train: use dropout.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, with taps also {'features': {tap: [B, h, w, C]}}.
        """
        self._check(x)
        shared = dict(bias_init=nn.initializers.zeros, dtype=self.dtype)
        finer = _FINER[self.output_stride]
        stream = functools.partial(
            Stream,
            self.num_classes,
            pools=tuple(pool for pool, _ in finer),
            dropout=self.dropout,
            width=self.width,
            taps=self.taps,
            conv=functools.partial(Conv, kernel_init=he_fan_out, **shared),
            score=functools.partial(Conv, kernel_init=nn.initializers.zeros, **shared),
            train=train,
        )
        images = jnp.split(x.astype(self.dtype), len(self.streams), -1)
        results = {
            name: stream(name=name)(image) for name, image in zip(self.streams, images, strict=True)
        }

        def total(layer):
            return sum(scores[layer].astype(jnp.float32) for scores, _ in results.values())

        y = total('fc7') / len(self.streams)
        for pool, stride in finer:
            y = resize.bilinear_deconvolution(
                y, tuple(2 * (n + 1) for n in y.shape[1:3]), stride=2, offset=0
            )
            top = _CROP_OF_POOL[stride]
            y = y + total(pool)[:, top : top + y.shape[1], top : top + y.shape[2]]
        stride = self.output_stride
        outputs = {
            'logits': resize.bilinear_deconvolution(y, x.shape[1:3], stride, _CROP_OF_IMAGE[stride])
        }
        if self.taps:
            outputs['features'] = {
                tap if len(self.streams) == 1 else f'{name}/{tap}': feature
                for name, (_, features) in results.items()
                for tap, feature in features.items()
            }
        return outputs

    def _check(self, x):
        if self.output_stride not in _FINER:
            raise InputError(
                'fcn: output_stride', got=repr(self.output_stride), expected='32, 16 or 8'
            )
        if not self.streams or x.shape[-1] != 3 * len(self.streams):
            raise InputError(
                'fcn: input',
                got=f'{x.shape[-1]} channels, streams {self.streams}',
                expected='three channels for each stream',
                fix='name one stream for each image that the channels hold',
            )
