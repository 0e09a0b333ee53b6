"""FCN: VGG16 as a fully convolutional net, with scores of finer layers added from coarse to fine.

Source: Long, Shelhamer, Darrell, Fully Convolutional Networks for Semantic Segmentation, CVPR 2015
(TPAMI 2017). Layers, crops and names follow the Caffe nets, including fc6 and fc7.
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

# Crop offsets that undo the 100 pixels of padding of the image, and fc6 and the upsamplings, which
# have no padding.
_CROP_OF_POOL = {16: 5, 8: 9}
"""Output stride -> first row and column of the pool that coarser scores are added to."""
_CROP_OF_IMAGE = {32: 19, 16: 27, 8: 31}
"""Output stride -> first row and column of the enlarged scores that belongs to the image."""
_FINER = {32: (), 16: (('pool4', 16),), 8: (('pool4', 16), ('pool3', 8))}
"""Output stride -> (pool, its stride) of all added scores."""


class Stream(nn.Module):
    """Scores of one image.

    num_classes  channels of the scores
    pools        poolings to score in addition to fc7
    dropout      rate after fc6 and fc7
    width        factor on all inner channels
    taps         names of inner tensors to return (models/backbones/vgg.py)
    conv         makes a convolution: conv(features, kernel_size, padding=, name=)
    score        makes a convolution to the classes: score(features, kernel_size, name=)
    train        use dropout
    """

    num_classes: int
    pools: tuple[str, ...]
    dropout: float
    width: float
    taps: tuple[str, ...]
    conv: Callable
    score: Callable
    train: bool

    @nn.compact
    def __call__(self, x, given=None):
        """Returns ({'fc7': [B, h, w, num_classes], pool: ..}, {tap: tensor})."""
        vgg = VGG16(self.conv, self.conv, padding=100, width=self.width, taps=self.taps, name='vgg')
        pools, features = vgg(x, given)
        n = scaled(4096, self.width)
        drop = nn.Dropout(self.dropout, deterministic=not self.train)
        y = self.conv(n, (7, 7), padding=0, name='fc6')(pools['pool5'])
        y = nn.relu(y)
        y = drop(y)
        y = self.conv(n, (1, 1), name='fc7')(y)
        y = nn.relu(y)
        y = drop(y)
        scores = {'fc7': self.score(self.num_classes, (1, 1), name='score_fr')(y)}
        for pool in self.pools:
            score = self.score(self.num_classes, (1, 1), name=f'score_{pool}')
            scores[pool] = score(pools[pool])
        return scores, features


class FCN(nn.Module):
    """FCN-32s, 16s and 8s on VGG16.

    Call `net.apply(variables, x, train=...)`, in training with rngs={'dropout': key}.

    Convolutions to scores are initialised as 0, as published, and all below as in torchvision.
    Upsampling is bilinear and fixed, ops.resize.bilinear_deconvolution.

    num_classes    channels of the logits
    output_stride  stride of the finest scores: 32, 16 (adds pool4) or 8 (adds pool4 and pool3)
    streams        names of the images that the channels of the input hold, three channels each,
                   e.g. ('color', 'hha'). Each has a whole net of its own. Scores of fc7 are
                   averaged over streams, scores of the pools are added
    dropout        rate after fc6 and fc7, of every element on its own
    taps           names of inner tensors to return under outputs['features']
                   (models/backbones/vgg.py). With several streams, the results are named
                   'color/conv4_3'
    width          factor on all inner channels. 1 is the published net, smaller factors are for
                   tests and small machines
    dtype          of activations. Parameters and logits are float32
    axis_name      unused, because without batch norm examples do not depend on each other
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
    def __call__(self, x, train: bool, given=None):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, 3 len(streams)] floating point, normalised, of any size.
          train: use dropout.
          given: {tap: array} that replaces inner tensors, named as the results of `taps`
            (models/split.py). None: all are computed.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, with taps also {'features': {tap:
          [B, h, w, C]}}.
        """
        self._check(x)
        stream = self._stream(train)
        images = jnp.split(x.astype(self.dtype), len(self.streams), -1)  # [B, H, W, 3] each
        scores = {}
        features = {}
        replaced = self._given_by_stream(given)
        for name, image in zip(self.streams, images, strict=True):
            scores[name], features[name] = stream(name=name)(image, replaced[name])

        def total(layer):
            """Returns the sum of a layer's scores over the streams, in float32."""
            return sum(scores[name][layer].astype(jnp.float32) for name in self.streams)

        y = total('fc7') / len(self.streams)
        for pool, stride in _FINER[self.output_stride]:
            doubled = tuple(2 * (n + 1) for n in y.shape[1:3])
            y = resize.bilinear_deconvolution(y, doubled, stride=2, offset=0)
            top = _CROP_OF_POOL[stride]
            y = y + total(pool)[:, top : top + y.shape[1], top : top + y.shape[2]]

        offset = _CROP_OF_IMAGE[self.output_stride]
        logits = resize.bilinear_deconvolution(y, x.shape[1:3], self.output_stride, offset)
        outputs = {'logits': logits}
        if self.taps:
            outputs['features'] = self._named_by_stream(features)
        return outputs

    def _stream(self, train: bool) -> Callable:
        """Returns the maker of the net of one stream, called with `name=`."""
        shared = dict(bias_init=nn.initializers.zeros, dtype=self.dtype)
        return functools.partial(
            Stream,
            self.num_classes,
            pools=tuple(pool for pool, _ in _FINER[self.output_stride]),
            dropout=self.dropout,
            width=self.width,
            taps=self.taps,
            conv=functools.partial(Conv, kernel_init=he_fan_out, **shared),
            score=functools.partial(Conv, kernel_init=nn.initializers.zeros, **shared),
            train=train,
        )

    def _named_by_stream(self, features: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Returns {tap: tensor} of a single stream, {'stream/tap': tensor} of several."""
        if len(self.streams) == 1:
            return features[self.streams[0]]
        named = {}
        for name, taps in features.items():
            for tap, tensor in taps.items():
                named[f'{name}/{tap}'] = tensor
        return named

    def _given_by_stream(self, given) -> dict[str, Any]:
        """Returns {stream: {tap: array}}, the inverse of `_named_by_stream`.

        Raises:
          InputError: a name that does not begin with a stream, where there are several.
        """
        if len(self.streams) == 1:
            return {self.streams[0]: given}
        by_stream: dict[str, Any] = {name: {} for name in self.streams}
        for name, array in (given or {}).items():
            stream, _, tap = name.partition('/')
            if stream not in by_stream:
                raise InputError(
                    'fcn: given', got=repr(name), expected=f"a name as '{self.streams[0]}/conv4_3'"
                )
            by_stream[stream][tap] = array
        return by_stream

    def _check(self, x) -> None:
        """Raises InputError for unknown output strides or channels that do not fit the streams."""
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
