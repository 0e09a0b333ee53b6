"""EfficientNet B0 to B7 and lite0 to lite4: classifiers of mobile inverted bottlenecks.

Source: Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML
2019. Layers and initialisation follow the authors' TensorFlow release. Modules are named as
in its port lukemelas/EfficientNet-PyTorch, except that blocks are counted by stage. The first block
of the third stage is `blocks_2_0`.

The lite family of the authors' release is for small devices. Variant liteN has the factors of BN
and differs from it in four ways:

    no squeeze and excitation
    ReLU6 instead of swish
    stem and head keep the channels of B0
    the first and the last stage keep their single block

Releases differ in two ways that their weights do not show (pretrained/sources.py lists them):

    padding      The authors' is TensorFlow's 'same'. At stride 2 it has fewer zeros in front of an
                 even axis than behind it. torchvision's is 'symmetric'. timm's is 'symmetric' too,
                 except for the weights that come from the authors
    batch norm   epsilon 1e-3 and decay 0.99, or torch's 1e-5 and 0.9

Inner tensors that `taps` can name:

    stem            output of the first convolution after batch norm and activation, at stride 2
    blocks_{s}_{j}  output of block j of stage s, both from 0
    blocks_{s}      output of stage s: strides 2, 4, 8, 16, 16, 32, 32
    head            output of the last convolution after batch norm and activation, at stride 32
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
    Taps,
    batch_norm,
    he_fan_out,
    normal,
    uniform_fan,
)


class Scaling(NamedTuple):
    """Factors that turn B0 into another variant, and the settings of its published training."""

    width: float  # factor on channels
    depth: float  # factor on the blocks of a stage
    dropout: float
    resolution: int = 224  # side of the square training images, in pixels
    lite: bool = False  # whether it belongs to the lite family


class Stage(NamedTuple):
    """Blocks of B0 with equal output channels. Only the first of them has strides."""

    expand: int  # channels inside a block per channel of its input
    kernel: int  # side of the depthwise convolution
    strides: int
    features: int
    count: int


VARIANTS = {
    'b0': Scaling(1.0, 1.0, 0.2, 224),
    'b1': Scaling(1.0, 1.1, 0.2, 240),
    'b2': Scaling(1.1, 1.2, 0.3, 260),
    'b3': Scaling(1.2, 1.4, 0.3, 300),
    'b4': Scaling(1.4, 1.8, 0.4, 380),
    'b5': Scaling(1.6, 2.2, 0.4, 456),
    'b6': Scaling(1.8, 2.6, 0.5, 528),
    'b7': Scaling(2.0, 3.1, 0.5, 600),
    'lite0': Scaling(1.0, 1.0, 0.2, 224, lite=True),
    'lite1': Scaling(1.0, 1.1, 0.2, 240, lite=True),
    'lite2': Scaling(1.1, 1.2, 0.3, 260, lite=True),
    'lite3': Scaling(1.2, 1.4, 0.3, 280, lite=True),
    'lite4': Scaling(1.4, 1.8, 0.3, 300, lite=True),
}

STEM, HEAD = 32, 1280
"""Channels of B0's first and last convolution."""

STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)

PADDINGS = {'same': 'same', 'symmetric': None}
"""Name -> `padding` of models.layers."""


def rounded(channels: float) -> int:
    """Returns the multiple of 8 nearest to `channels`, at least 8.

    If it is less than 9/10 of `channels`, the next multiple is returned.
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def block_counts(scaling: Scaling) -> tuple[int, ...]:
    """Returns the number of blocks of each stage of a variant."""
    counts = [math.ceil(scaling.depth * stage.count) for stage in STAGES]
    if scaling.lite:
        counts[0] = STAGES[0].count
        counts[-1] = STAGES[-1].count
    return tuple(counts)


def drop_connect(train: bool) -> Callable:
    """Returns a factory of layers that drop whole examples, called with a rate.

    In training, such a layer returns 0 for an example with that probability, otherwise
    x / (1 - rate). In evaluation it returns x.

    Source: Huang et al., Deep Networks with Stochastic Depth, ECCV 2016.
    """
    return functools.partial(nn.Dropout, broadcast_dims=(1, 2, 3), deterministic=not train)


class MBConv(nn.Module):
    """Mobile inverted bottleneck, usually with squeeze and excitation.

        y = act(norm(depthwise(act(norm(expand(x))))))                  without expand if it is 1
        y = y sigmoid(W_2 act(W_1 mean(y) + b_1) + b_2)                 if squeeze, mean over pixels
        y = norm(project(y))
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
    drop_connect  makes layers that drop the branch of an example: drop_connect(rate)
    act           activation
    squeeze       whether there is squeeze and excitation
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
    act: Callable = nn.silu
    squeeze: bool = True

    @nn.compact
    def __call__(self, x):
        """Maps [B, H, W, C] to [B, H / strides, W / strides, features]."""
        channels = x.shape[-1]
        y = x
        if self.expand != 1:
            expand = self.conv(self.expand * channels, (1, 1), use_bias=False, name='expand_conv')
            y = expand(y)
            y = self.norm(name='bn0')(y)
            y = self.act(y)
        y = self.depthwise(size=self.kernel, strides=self.strides, name='depthwise_conv')(y)
        y = self.norm(name='bn1')(y)
        y = self.act(y)

        # Squeeze and excitation: a factor in (0, 1) for each channel of an example.
        if self.squeeze:
            gate = y.mean((1, 2), keepdims=True)  # [B, 1, 1, expand C]
            gate = self.conv(max(1, channels // 4), (1, 1), name='se_reduce')(gate)
            gate = self.act(gate)
            gate = self.conv(y.shape[-1], (1, 1), name='se_expand')(gate)
            y = nn.sigmoid(gate) * y

        y = self.conv(self.features, (1, 1), use_bias=False, name='project_conv')(y)
        y = self.norm(name='bn2')(y)
        if self.strides == 1 and channels == self.features:
            y = x + self.drop_connect(self.rate)(y)
        return y


class Backbone(nn.Module):
    """Stem, stages and last convolution, without the classifier.

    variant       a key of VARIANTS
    conv          makes convolutions: conv(features, kernel_size, use_bias=, name=)
    stem          makes the first convolution: stem(features, kernel_size, strides=, name=), without
                  bias as published
    depthwise     makes convolutions of each channel: depthwise(size=, strides=, name=)
    norm          makes batch norms: norm(name=)
    drop_connect  makes layers that drop the branch of an example: drop_connect(rate)
    rate          of drop_connect. Block i of n, from 0, has i / n times this rate
    width         factor on all channels, before they are rounded to multiples of 8
    taps          names of inner tensors to return, listed at the top of this file
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
    def __call__(self, x, given=None):
        """Returns the features of an image.

        Args:
          x: [B, H, W, C].
          given: {tap: array} that replaces inner tensors. None: all are computed.

        Returns:
          (features at stride 32, [B, ceil(H / 32), ceil(W / 32), 1280 width], {tap: tensor}).
        """
        # Stem and head of the lite family keep the channels of B0.
        scaling = VARIANTS[self.variant]
        width = scaling.width * self.width
        outer_width = self.width if scaling.lite else width
        act = nn.relu6 if scaling.lite else nn.silu
        tap = Taps('efficientnet', given)

        # The stem, at stride 2.
        x = self.stem(rounded(STEM * outer_width), (3, 3), strides=2, name='conv_stem')(x)
        x = self.norm(name='bn0')(x)
        x = act(x)
        x = tap('stem', x)

        # The stages. Only the first block of a stage has its strides.
        counts = block_counts(scaling)
        for s, (stage, count) in enumerate(zip(STAGES, counts, strict=True)):
            for j in range(count):
                block = MBConv(
                    features=rounded(stage.features * width),
                    expand=stage.expand,
                    kernel=stage.kernel,
                    strides=stage.strides if j == 0 else 1,
                    rate=self.rate * (sum(counts[:s]) + j) / sum(counts),
                    conv=self.conv,
                    depthwise=self.depthwise,
                    norm=self.norm,
                    drop_connect=self.drop_connect,
                    act=act,
                    squeeze=not scaling.lite,
                    name=f'blocks_{s}_{j}',
                )
                x = block(x)
                x = tap(f'blocks_{s}_{j}', x)
            x = tap(f'blocks_{s}', x)

        # The last convolution, whose channels the classifier sees.
        x = self.conv(rounded(HEAD * outer_width), (1, 1), use_bias=False, name='conv_head')(x)
        x = self.norm(name='bn1')(x)
        x = act(x)
        x = tap('head', x)
        return x, tap.pick(self.taps)


class EfficientNet(nn.Module):
    """EfficientNet.

    Call `net.apply(variables, x, train=...)`, in training with rngs={'dropout': key} and
    mutable=['batch_stats'].

    num_classes   channels of the logits
    variant       'b0' to 'b7', or 'lite0' to 'lite4'
    padding       'same' (the authors', TensorFlow's) or 'symmetric' (torch's), see the top of this
                  file
    dropout       rate in front of the classifier. None: the variant's, 0.2 (b0) to 0.5 (b7)
    drop_connect  rate. In training block i of n, from 0, drops its branch for an example with
                  probability rate i / n, and otherwise scales it by 1 / (1 - rate i / n)
    taps          names of inner tensors to return under outputs['features'], listed at the top of
                  this file
    stem          makes another first convolution, e.g. a gated convolution:
                  stem(features, kernel_size, strides=, name=). Its name is conv_stem. An import
                  leaves it out with init_from.nets=('(?!.*conv_stem)',)
    norm_decay    of all running statistics, a step
    norm_epsilon  of all batch norms
    frozen_norm   use the running statistics in training
    width         factor on all inner channels. 1 is the published net, smaller factors are for
                  tests and small machines
    forms         'fast' or 'naive' forms of the depthwise convolutions, see ops/depthwise.py
    dtype         of activations. Parameters, batch statistics and logits are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
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
    def __call__(self, x, train: bool, given=None):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, C] floating point, normalised, of any size. C is 3 in published weights. Any
            C works for a net without them, or with a stem or a layer in front of its own.
          train: use the statistics of the batch, dropout and drop-connect.
          given: {tap: array} that replaces inner tensors. None: all are computed.

        Returns:
          {'logits': [B, num_classes] float32}, with taps also {'features': {tap: [B, h, w, C]}}.
        """
        self._check()
        backbone = self._backbone(train)
        classifier = nn.Dense(
            self.num_classes,
            kernel_init=uniform_fan(self.num_classes),
            dtype=self.dtype,
            name='classifier',
        )
        x, features = backbone(x.astype(self.dtype), given)  # [B, h, w, 1280 width]
        x = x.mean((1, 2))
        dropout = VARIANTS[self.variant].dropout if self.dropout is None else self.dropout
        x = nn.Dropout(dropout, deterministic=not train)(x)
        x = classifier(x)
        outputs = {'logits': x.astype(jnp.float32)}
        if self.taps:
            outputs['features'] = features
        return outputs

    def _backbone(self, train: bool) -> Backbone:
        """Builds the backbone."""
        # Makers of layers, so that the blocks need not know the options of the net.
        padding = PADDINGS[self.padding]
        zeros = nn.initializers.zeros
        conv = functools.partial(Conv, kernel_init=he_fan_out, bias_init=zeros, dtype=self.dtype)
        depthwise = functools.partial(
            _depthwise, padding=padding, forms=self.forms, dtype=self.dtype
        )
        norm = batch_norm(
            train,
            decay=self.norm_decay,
            epsilon=self.norm_epsilon,
            frozen=self.frozen_norm,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        # A given stem replaces the usual convolution.
        return Backbone(
            self.variant,
            conv=conv,
            stem=self.stem or functools.partial(conv, use_bias=False, padding=padding),
            depthwise=depthwise,
            norm=norm,
            drop_connect=drop_connect(train),
            rate=self.drop_connect,
            width=self.width,
            taps=self.taps,
            name='efficientnet',
        )

    def _check(self) -> None:
        """Raises InputError for an unknown variant or padding, or a rate outside [0, 1)."""
        if self.variant not in VARIANTS:
            raise unknown_name('efficientnet: variant', self.variant, VARIANTS)
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
    """Builds a depthwise convolution with the authors' initialisation, N(0, 2 / size^2).

    Its fan-out counts the single output of each channel.
    """
    return DepthwiseConv(size=size, kernel_init=normal(2**0.5 / size), **fields)
