"""ERFNet: a real-time segmentation net of factorised residual blocks.

Source: Romera, Alvarez, Bergasa, Arroyo, ERFNet: Efficient Residual Factorized ConvNet for
Real-time Semantic Segmentation, IEEE T-ITS 2018. Layers, names and initialisation follow the
authors' PyTorch release: `layers.3.conv1x3_2` there is `layers_3/conv1x3_2` here.

Inner tensors that `taps` can name are outputs of blocks, after their last ReLU. They have the paths
of their modules:

    encoder/initial_block  at stride 2
    encoder/layers_{i}     at stride 4 up to the block that halves it, then at stride 8. In the
                           published net blocks 0 to 5 have stride 4, and blocks 6 to 14 stride 8
    decoder/layers_{i}     at stride 4, then at stride 2. In the published net blocks 0 to 2 have
                           stride 4, and blocks 3 to 5 stride 2
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.layers import Conv, ConvTranspose, Taps, batch_norm, normal, scaled
from segjax.ops.pool import max_pool_2x2

OUTPUT_STRIDE = 8

THIN = 16
"""Channels of the published net's first and last features, which are its narrowest."""

DILATIONS = (2, 4, 8, 16)
"""Dilations of the encoder's blocks at stride 8, repeated."""


def thin_maps(channels: int, width: float, most: int = THIN) -> int:
    """Returns the scaled channels of a thin layer, which stay at 16 or `most` in narrow nets.

    All logits of a pixel are linear in the last features: four channels would tie twenty classes to
    four numbers.

    Args:
      channels: of the published net.
      width: the factor on the channels.
      most: the floor if it is below 16. A first block needs fewer channels than the second block.
    """
    return max(scaled(channels, width), min(THIN, most))


class DownBlock(nn.Module):
    """Halves height and width: BN and ReLU on a 3x3 convolution of stride 2 and a 2x2 max pooling.

    Both see the input. Their channels are concatenated.

    features  channels of the output, more than the input has
    conv      makes a convolution: conv(features, kernel_size, strides=, dilation=, name=)
    norm      makes a batch norm: norm(name=)
    """

    features: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        """Maps [B, H, W, C] to [B, H / 2, W / 2, features]."""
        channels = x.shape[-1]
        if self.features <= channels:
            raise InputError(
                f'erfnet: {self.name}',
                got=f'{channels} channels in, {self.features} out',
                expected='more channels out than in: the input itself is part of the output',
                fix='raise first_maps or width',
            )
        y = self.conv(self.features - channels, (3, 3), strides=2, name='conv')(x)
        pooled = max_pool_2x2(x)
        y = jnp.concatenate([y, pooled], -1)
        y = self.norm(name='bn')(y)
        return nn.relu(y)


class NonBottleneck1D(nn.Module):
    """Residual block of two 3x3 convolutions, each factorised into 3x1 and 1x3.

    dropout   rate of channel dropout in front of the sum
    dilation  of the second pair of convolutions
    conv, norm  make layers, as in DownBlock
    train     use dropout
    """

    dropout: float
    dilation: int
    conv: Callable
    norm: Callable
    train: bool

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        y = self.conv(channels, (3, 1), name='conv3x1_1')(x)
        y = nn.relu(y)
        y = self.conv(channels, (1, 3), name='conv1x3_1')(y)
        y = self.norm(name='bn1')(y)
        y = nn.relu(y)
        y = self.conv(channels, (3, 1), dilation=self.dilation, name='conv3x1_2')(y)
        y = nn.relu(y)
        y = self.conv(channels, (1, 3), dilation=self.dilation, name='conv1x3_2')(y)
        y = self.norm(name='bn2')(y)
        if self.dropout > 0:
            drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not self.train)
            y = drop(y)
        return nn.relu(y + x)


class UpBlock(nn.Module):
    """Doubles height and width: 3x3 transposed convolution, BN, ReLU.

    features        channels of the output
    conv_transpose  makes a transposed convolution: conv_transpose(features, kernel_size, name=)
    norm            makes a batch norm: norm(name=)
    """

    features: int
    conv_transpose: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        """Maps [B, h, w, C] to [B, 2 h, 2 w, features]."""
        y = self.conv_transpose(self.features, 3, name='conv')(x)
        y = self.norm(name='bn')(y)
        return nn.relu(y)


def _tapped(tap: Taps, block: nn.Module, x):
    """Applies a block, and passes its output through `tap` under the path of the block."""
    name = '/'.join(block.path[-2:])  # 'encoder/layers_3', also inside a larger net
    return tap(name, block(x))


class Encoder(nn.Module):
    """Down blocks to stride 8, with residual blocks at strides 4 and 8, and a 1x1 head on demand.

    first_maps    channels after the first block
    channels      of the features at strides 4 and 8
    blocks        numbers of residual blocks at strides 4 and 8
    dropout       their rates of channel dropout
    head_classes  channels of the head. 0: no head
    conv, norm    make layers, as in DownBlock
    train         use dropout
    """

    first_maps: int
    channels: tuple[int, int]
    blocks: tuple[int, int]
    dropout: tuple[float, float]
    head_classes: int
    conv: Callable
    norm: Callable
    train: bool

    @nn.compact
    def __call__(self, x, tap: Taps):
        """Returns (features [B, H / 8, W / 8, 128 width], logits of the head or None)."""
        apply = functools.partial(_tapped, tap)
        down = functools.partial(DownBlock, conv=self.conv, norm=self.norm)
        block = functools.partial(NonBottleneck1D, conv=self.conv, norm=self.norm, train=self.train)
        number = itertools.count()
        x = apply(down(self.first_maps, name='initial_block'), x)  # stride 2
        x = apply(down(self.channels[0], name=f'layers_{next(number)}'), x)  # stride 4
        for _ in range(self.blocks[0]):
            x = apply(block(self.dropout[0], 1, name=f'layers_{next(number)}'), x)
        x = apply(down(self.channels[1], name=f'layers_{next(number)}'), x)  # stride 8
        for dilation in itertools.islice(itertools.cycle(DILATIONS), self.blocks[1]):
            x = apply(block(self.dropout[1], dilation, name=f'layers_{next(number)}'), x)
        if not self.head_classes:
            return x, None
        return x, self.conv(self.head_classes, (1, 1), name='output_conv')(x)


class Decoder(nn.Module):
    """Up blocks, each followed by residual blocks, and a transposed convolution to the classes.

    channels     of the features at strides 4 and 2
    blocks       numbers of residual blocks at strides 4 and 2
    num_classes  channels of the logits
    conv, conv_transpose, norm  make layers, as in DownBlock and UpBlock
    train        the residual blocks have no dropout, so it changes nothing
    """

    channels: tuple[int, int]
    blocks: tuple[int, int]
    num_classes: int
    conv: Callable
    conv_transpose: Callable
    norm: Callable
    train: bool

    @nn.compact
    def __call__(self, x, tap: Taps):
        """Maps [B, h, w, 128 width] to logits [B, 8 h, 8 w, num_classes]."""
        apply = functools.partial(_tapped, tap)
        up = functools.partial(UpBlock, conv_transpose=self.conv_transpose, norm=self.norm)
        block = functools.partial(
            NonBottleneck1D, 0.0, 1, conv=self.conv, norm=self.norm, train=self.train
        )
        number = itertools.count()
        for channels, blocks in zip(self.channels, self.blocks, strict=True):
            x = apply(up(channels, name=f'layers_{next(number)}'), x)
            for _ in range(blocks):
                x = apply(block(name=f'layers_{next(number)}'), x)
        return self.conv_transpose(self.num_classes, 2, name='output_conv')(x)


class ERFNet(nn.Module):
    """ERFNet.

    Call `net.apply(variables, x, train=...)`, in training with rngs={'dropout': key} and
    mutable=['batch_stats'].

    num_classes   channels of the output (3 for a net that paints pictures)
    first_maps    channels after the first block, times width. They must exceed the channels of the
                  input. At a width below 1 there are at least 16, but no more than half of the
                  second block's (see `thin_maps`)
    dropout       rates of channel dropout in the encoder: blocks at stride 4, blocks at stride 8
    encoder_head  predict also at 1/8 with a 1x1 convolution (the authors' first training stage)
    width         factor on the inner channels. 1 is the published net, smaller factors are for
                  tests and small machines. The last features keep at least 16 channels (see
                  `thin_maps`)
    blocks        residual blocks at strides 4 and 8 of the encoder, 4 and 2 of the decoder. Fewer
                  are for tests
    use_bias      biases of convolutions, as published. In front of a batch norm a bias has zero
                  gradient
    init_std      initialisation. 0: torch's default, U(+-1 / sqrt(fan_in)). Above: CycleGAN's,
                  kernels N(0, init_std^2), scales of batch norms N(1, init_std^2), biases 0
    taps          names of inner tensors to return under outputs['features']
                  (models/segmentation/erfnet.py)
    dtype         of activations. Parameters, batch statistics and logits are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
    forms         form of the gradient of 3x1 and 1x3 convolutions: 'fast' or 'naive' (ops/conv.py)

    Batch norms have epsilon 1e-3. Running statistics decay by 0.9 a step and hold the biased
    variance (torch: the unbiased variance).
    """

    num_classes: int
    first_maps: int = 16
    dropout: tuple[float, float] = (0.03, 0.3)
    encoder_head: bool = False
    width: float = 1.0
    blocks: tuple[int, int, int, int] = (5, 8, 2, 2)
    use_bias: bool = True
    init_std: float = 0.0
    taps: tuple[str, ...] = ()
    dtype: Any = jnp.float32
    axis_name: str | None = None
    forms: str = 'fast'

    @nn.compact
    def __call__(self, x, train: bool, given=None):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, in] floating point, normalised. H and W are multiples of 8.
          train: use the statistics of the batch, and dropout.
          given: {tap: array} that replaces inner tensors (models/split.py). None: all are computed.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, with encoder_head also {'aux': {'encoder':
          [B, H/8, W/8, num_classes] float32}}, with taps also {'features': {tap: [B, h, w, C]}}.
        """
        self._check(x)
        layers = self._layers(train)
        conv_transpose = layers.pop('conv_transpose')
        # Narrow nets keep enough channels in their first and last features, see `thin_maps`.
        middle = scaled(64, self.width)
        wide = scaled(128, self.width)
        encoder = Encoder(
            first_maps=thin_maps(self.first_maps, self.width, most=middle // 2),
            channels=(middle, wide),
            blocks=self.blocks[:2],
            dropout=self.dropout,
            head_classes=self.num_classes if self.encoder_head else 0,
            **layers,
            train=train,
            name='encoder',
        )
        decoder = Decoder(
            channels=(middle, thin_maps(THIN, self.width)),
            blocks=self.blocks[2:],
            num_classes=self.num_classes,
            conv_transpose=conv_transpose,
            **layers,
            train=train,
            name='decoder',
        )
        tap = Taps('erfnet', given)
        x = x.astype(self.dtype)
        features, encoder_logits = encoder(x, tap)
        logits = decoder(features, tap)
        tapped = tap.pick(self.taps)
        outputs = {'logits': logits.astype(jnp.float32)}
        if self.encoder_head:
            outputs['aux'] = {'encoder': encoder_logits.astype(jnp.float32)}
        if self.taps:
            outputs['features'] = tapped
        return outputs

    def _layers(self, train: bool) -> dict[str, Callable]:
        """Returns the makers of layers: 'conv', 'conv_transpose' and 'norm'."""
        # Without `init_std`, each layer has its default initialisation.
        kernel_init = None
        bias_init = None
        scale_init = nn.initializers.ones
        if self.init_std:
            kernel_init = normal(self.init_std)
            bias_init = nn.initializers.zeros
            scale_init = normal(self.init_std, mean=1.0)
        # Only convolutions have `forms`.
        shared = dict(
            use_bias=self.use_bias, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype
        )
        norm = batch_norm(
            train,
            epsilon=1e-3,
            scale_init=scale_init,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        return {
            'conv': functools.partial(Conv, forms=self.forms, **shared),
            'conv_transpose': functools.partial(ConvTranspose, **shared),
            'norm': norm,
        }

    def _check(self, x) -> None:
        """Raises InputError for sizes of the image or fields that the net cannot have."""
        h, w = x.shape[1:3]
        if h % OUTPUT_STRIDE or w % OUTPUT_STRIDE:
            raise InputError(
                'erfnet: input',
                got=f'height {h}, width {w}',
                expected=f'multiples of {OUTPUT_STRIDE}',
                fix='choose augment.crop, data.eval_size and evaluate.crop accordingly',
            )
        if len(self.dropout) != 2 or not all(0 <= rate < 1 for rate in self.dropout):
            raise InputError(
                'erfnet: dropout', got=repr(self.dropout), expected='two rates in [0, 1)'
            )
        if len(self.blocks) != 4 or min(self.blocks) < 0:
            raise InputError(
                'erfnet: blocks', got=repr(self.blocks), expected='four whole numbers >= 0'
            )
