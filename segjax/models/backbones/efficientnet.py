"""EfficientNet B0 to B7: a classifier of mobile inverted bottlenecks, and its backbone.

Tan and Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, with the layers and the
start of the authors' TensorFlow release. Modules are named as in its port lukemelas/EfficientNet-PyTorch, but that
blocks are counted by stage: the first block of the third stage is `blocks_2_0`.

Releases differ in two ways that their weights do not show (pretrained/sources.py says which has what):

    padding      the authors' is TensorFlow's 'same', which at stride 2 has less in front of an even axis than behind
                 it; torchvision's is 'symmetric', as is timm's but for the weights that it has from the authors
    batch norm   epsilon 1e-3 and decay 0.99, or torch's 1e-5 and 0.9

Tensors inside, for taps:

    stem            output of the first convolution after batch norm and swish, at stride 2
    blocks_{s}_{j}  output of block j of stage s, both from 0
    blocks_{s}      output of stage s: strides 2, 4, 8, 16, 16, 32, 32
    head            output of the last convolution after batch norm and swish, at stride 32
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.models.layers import (
    Conv,
    DepthwiseConv,
    batch_norm,
    he_fan_out,
    normal,
    pick_taps,
    uniform_fan,
)


class Scaling(NamedTuple):
    """What makes a variant of B0."""

    width: float  # factor on channels
    depth: float  # factor on the blocks of a stage
    dropout: float


class Stage(NamedTuple):
    """Blocks of B0 with equal output channels; only the first strides."""

    expand: int  # channels inside a block per channel that enters
    kernel: int  # side of the depthwise convolution
    strides: int
    features: int
    count: int


VARIANTS = {
    'b0': Scaling(1.0, 1.0, 0.2),
    'b1': Scaling(1.0, 1.1, 0.2),
    'b2': Scaling(1.1, 1.2, 0.3),
    'b3': Scaling(1.2, 1.4, 0.3),
    'b4': Scaling(1.4, 1.8, 0.4),
    'b5': Scaling(1.6, 2.2, 0.4),
    'b6': Scaling(1.8, 2.6, 0.5),
    'b7': Scaling(2.0, 3.1, 0.5),
}
STEM, HEAD = 32, 1280  # channels of B0's first and last convolution
STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
PADDINGS = {'same': 'same', 'symmetric': None}  # by the name that layers know them by


def rounded(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, at least 8, and the next one where that is less than 9/10 of it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def drop_connect(train: bool) -> Callable:
    """Factory of layers, called with a rate: 0 for an example with that probability, x / (1 - rate) for the others.

    In evaluation they return x. Huang et al.: Deep Networks with Stochastic Depth, ECCV 2016.
    """
    return functools.partial(nn.Dropout, broadcast_dims=(1, 2, 3), deterministic=not train)


class MBConv(nn.Module):
    """Mobile inverted bottleneck with squeeze and excitation.

        y = swish(norm(depthwise(swish(norm(expand(x))))))                  expand only where it is not 1
        y = norm(project(y sigmoid(W_2 swish(W_1 mean(y) + b_1) + b_2)))    mean over pixels
        x + drop_connect(y) where y has the shape of x, elsewhere y

    W_1 reduces to a quarter of the channels of x, at least one.

    features      channels of the output
    expand        channels inside per channel of x
    kernel        side of the depthwise convolution
    strides       of the depthwise convolution
    rate          of drop_connect
    conv          makes the 1x1 convolutions: conv(features, kernel_size, use_bias=, name=)
    depthwise     makes convolutions of each channel: depthwise(size=, strides=, name=)
    norm          makes batch norms: norm(name=)
    drop_connect  makes layers that leave out an example's branch: drop_connect(rate)
    """

    features: int
    expand: int
    kernel: int
    strides: int
    rate: float
    conv: Callable
    depthwise: Callable
    norm: Callable
    drop_connect: Callable

    @nn.compact
    def __call__(self, x):
        y, channels = x, x.shape[-1]
        if self.expand != 1:
            y = self.conv(self.expand * channels, (1, 1), use_bias=False, name='expand_conv')(y)
            y = nn.silu(self.norm(name='bn0')(y))
        y = self.depthwise(size=self.kernel, strides=self.strides, name='depthwise_conv')(y)
        y = nn.silu(self.norm(name='bn1')(y))

        gate = self.conv(max(1, channels // 4), (1, 1), name='se_reduce')(
            y.mean((1, 2), keepdims=True)
        )
        gate = self.conv(y.shape[-1], (1, 1), name='se_expand')(nn.silu(gate))
        y = self.conv(self.features, (1, 1), use_bias=False, name='project_conv')(
            nn.sigmoid(gate) * y
        )
        y = self.norm(name='bn2')(y)
        if self.strides == 1 and channels == self.features:
            y = x + self.drop_connect(self.rate)(y)
        return y


class Backbone(nn.Module):
    """Stem, stages and last convolution, without the classifier.

    variant       a key of VARIANTS
    conv          makes convolutions: conv(features, kernel_size, use_bias=, name=)
    stem          makes the first one: stem(features, kernel_size, strides=, name=), without bias as published
    depthwise     makes convolutions of each channel: depthwise(size=, strides=, name=)
    norm          makes batch norms: norm(name=)
    drop_connect  makes layers that leave out an example's branch: drop_connect(rate)
    rate          block i of n, from 0, has rate i / n of it
    width         factor on all channels, before they are rounded to multiples of 8
    taps          names of inner tensors to return, see above
    """

    variant: str
    conv: Callable
    stem: Callable
    depthwise: Callable
    norm: Callable
    drop_connect: Callable
    rate: float = 0.2
    width: float = 1.0
    taps: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> (features at stride 32, [B, ceil(H / 32), ceil(W / 32), 1280 width], {tap: tensor})."""
        if self.variant not in VARIANTS:
            raise unknown_name('efficientnet: variant', self.variant, VARIANTS)
        scaling = VARIANTS[self.variant]
        width = scaling.width * self.width
        layers = dict(
            conv=self.conv, depthwise=self.depthwise, norm=self.norm, drop_connect=self.drop_connect
        )
        features = {}
        x = self.stem(rounded(STEM * width), (3, 3), strides=2, name='conv_stem')(x)
        x = features['stem'] = nn.silu(self.norm(name='bn0')(x))

        counts = [math.ceil(scaling.depth * stage.count) for stage in STAGES]
        for s, (stage, count) in enumerate(zip(STAGES, counts, strict=True)):
            for j in range(count):
                x = MBConv(
                    rounded(stage.features * width),
                    stage.expand,
                    stage.kernel,
                    stage.strides if j == 0 else 1,
                    self.rate * (sum(counts[:s]) + j) / sum(counts),
                    **layers,
                    name=f'blocks_{s}_{j}',
                )(x)
                features[f'blocks_{s}_{j}'] = x
            features[f'blocks_{s}'] = x

        x = self.conv(rounded(HEAD * width), (1, 1), use_bias=False, name='conv_head')(x)
        x = features['head'] = nn.silu(self.norm(name='bn1')(x))
        return x, pick_taps(features, self.taps, 'efficientnet')


class EfficientNet(nn.Module):
    """EfficientNet. `net.apply(variables, x, train=...)`, in training rngs={'dropout': key}, mutable=['batch_stats'].

    num_classes   channels of the logits
    variant       'b0' to 'b7'
    padding       'same' (the authors', TensorFlow's) or 'symmetric' (torch's), see above
    dropout       rate in front of the classifier; None: the variant's, 0.2 (b0) to 0.5 (b7)
    drop_connect  rate; block i of n, from 0, leaves out its branch for an example with probability rate i / n, and
                  scales it by 1 / (1 - rate i / n) for the others
    taps          names of inner tensors to return under outputs['features'], see above
    stem          makes another first convolution, e.g. a gated one: stem(features, kernel_size, strides=, name=). Its
                  name is conv_stem, to be left out of an import by init_from.nets=('(?!.*conv_stem)',)
    norm_decay    of all running statistics, a step
    norm_epsilon  of all batch norms
    frozen_norm   use the running statistics in training as well
    width         factor on all inner channels; 1 is the published net, less is for tests and small machines
    forms         'fast' or 'naive' forms of the depthwise convolutions, see ops/depthwise.py
    dtype         of activations; parameters, batch statistics and the returned logits are float32
    axis_name     mapped axis over which batch statistics are those of the global batch; None: of this device
    """

    num_classes: int
    variant: str = 'b0'
    padding: str = 'same'
    dropout: float | None = None
    drop_connect: float = 0.2
    taps: tuple[str, ...] = ()
    stem: Callable | None = None
    norm_decay: float = 0.99
    norm_epsilon: float = 1e-3
    frozen_norm: bool = False
    width: float = 1.0
    forms: str = 'fast'
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """The logits of an image.

        Args:
          x: [B, H, W, C] floating point, normalised, of any size. C is 3 in published weights; a net that starts from
            scratch, or has a stem or a layer in front of its own, takes any.
          train: use the batch's statistics, dropout and drop-connect.

        Returns:
          {'logits': [B, num_classes] float32}, with taps also {'features': {tap: [B, h, w, C]}}.
        """
        self._check()
        padding, shared = PADDINGS[self.padding], dict(dtype=self.dtype)
        conv = functools.partial(
            Conv, kernel_init=he_fan_out, bias_init=nn.initializers.zeros, **shared
        )
        x, features = Backbone(
            self.variant,
            conv=conv,
            stem=self.stem or functools.partial(conv, use_bias=False, padding=padding),
            depthwise=functools.partial(_depthwise, padding=padding, forms=self.forms, **shared),
            norm=batch_norm(
                train,
                decay=self.norm_decay,
                epsilon=self.norm_epsilon,
                frozen=self.frozen_norm,
                axis_name=self.axis_name,
                **shared,
            ),
            drop_connect=drop_connect(train),
            rate=self.drop_connect,
            width=self.width,
            taps=self.taps,
            name='efficientnet',
        )(x.astype(self.dtype))
        dropout = VARIANTS[self.variant].dropout if self.dropout is None else self.dropout
        x = nn.Dropout(dropout, deterministic=not train)(x.mean((1, 2)))
        y = nn.Dense(
            self.num_classes, kernel_init=uniform_fan(self.num_classes), name='classifier', **shared
        )(x)
        return {'logits': y.astype(jnp.float32)} | ({'features': features} if self.taps else {})

    def _check(self):
        if self.padding not in PADDINGS:
            raise unknown_name('efficientnet: padding', self.padding, PADDINGS)
        for name, rate in (('dropout', self.dropout or 0), ('drop_connect', self.drop_connect)):
            if not 0 <= rate < 1:
                raise InputError(
                    f'efficientnet: {name}',
                    got=repr(rate),
                    expected='a rate of at least 0, below 1',
                )


def _depthwise(size: int, **fields) -> DepthwiseConv:
    """With the authors' start, N(0, 2 / size^2): they count the one output that each channel has."""
    return DepthwiseConv(size=size, kernel_init=normal(2**0.5 / size), **fields)
