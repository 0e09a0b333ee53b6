"""BiSeNet: a shallow path for detail and a ResNet for context, fused at stride 8.

Source: Yu, Wang, Peng, Gao, Yu, Sang, BiSeNet: Bilateral Segmentation Network for Real-time
Semantic Segmentation, ECCV 2018. There are two releases, which differ in details: `torchseg`, the
authors' own, and `coin` (CoinCheung's). Both have the names of coin here: `cp.arm16.conv.bn` there
is `cp/arm16/conv/bn` here. For the names of the backbone see models/backbones/resnet.py.

    here                                    torchseg
    sp                                      spatial_path
    cp/resnet                               context_path
    cp/conv_avg                             global_context.1
    cp/arm32, cp/arm16                      arms.{0,1}
    cp/conv_head32, cp/conv_head16          refines.{0,1}
    conv_out32, conv_out16, conv_out        heads.{0,1,2}
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.models.backbones.resnet import make_resnet
from segjax.models.layers import Conv, ConvNorm, batch_norm, scaled
from segjax.ops import resize
from segjax.ops.pool import adaptive_average_pool

RELEASES = {'torchseg': ((64, 256), 2.0), 'coin': ((256, 64), 1.0)}
"""Release -> ((channels inside the main head, inside the auxiliary heads), initial gain).

Kernels are initialised as N(0, gain / fan_in).
"""


class SpatialPath(nn.Module):
    """Three convolutions of stride 2, and a 1x1 convolution.

    features   channels of the convolutions of stride 2. The output has twice as many
    conv_norm  makes a convolution with batch norm and ReLU: conv_norm(features, kernel_size,
               strides=, name=)
    """

    features: int
    conv_norm: Callable

    @nn.compact
    def __call__(self, x):
        """Maps [B, H, W, 3] to [B, H / 8, W / 8, 2 features]."""
        x = self.conv_norm(self.features, (7, 7), strides=2, name='conv1')(x)
        x = self.conv_norm(self.features, (3, 3), strides=2, name='conv2')(x)
        x = self.conv_norm(self.features, (3, 3), strides=2, name='conv3')(x)
        return self.conv_norm(2 * self.features, (1, 1), name='conv_out')(x)


class AttentionRefinement(nn.Module):
    """Convolution with a gate for each channel.

        f = relu(bn(conv3x3(x)))
        y = f sigmoid(bn(conv1x1(mean of f over the pixels)))

    features   channels of the output
    conv_norm  as in SpatialPath
    conv       makes a convolution: conv(features, kernel_size, use_bias=, name=)
    norm       makes a batch norm: norm(name=)
    """

    features: int
    conv_norm: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        x = self.conv_norm(self.features, (3, 3), name='conv')(x)
        gate = adaptive_average_pool(x, 1)  # [B, 1, 1, features]
        gate = self.conv(self.features, (1, 1), use_bias=False, name='conv_atten')(gate)
        gate = self.norm(name='bn_atten')(gate)
        gate = nn.sigmoid(gate)
        return x * gate


class ContextPath(nn.Module):
    """Merges the last two stages of a ResNet and their global mean, from coarse to fine.

    features   channels of the outputs
    resnet     makes the backbone: resnet()
    enlarge    (x, size) -> x at that size
    conv_norm, conv, norm  make layers, as in AttentionRefinement
    """

    features: int
    resnet: Callable
    enlarge: Callable
    conv_norm: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x, given=None):
        """Returns (features at stride 8, features at stride 16, taps of the backbone)."""
        refine = functools.partial(
            AttentionRefinement,
            self.features,
            conv_norm=self.conv_norm,
            conv=self.conv,
            norm=self.norm,
        )
        stages, taps = self.resnet()(x, given)
        at_8 = stages['layer2']
        at_16 = stages['layer3']
        at_32 = stages['layer4']

        mean = adaptive_average_pool(at_32, 1)  # [B, 1, 1, C]
        context = self.conv_norm(self.features, (1, 1), name='conv_avg')(mean)

        y = refine(name='arm32')(at_32)
        y = y + context
        y = self.enlarge(y, at_16.shape[1:3])
        context_16 = self.conv_norm(self.features, (3, 3), name='conv_head32')(y)

        y = refine(name='arm16')(at_16)
        y = y + context_16
        y = self.enlarge(y, at_8.shape[1:3])
        context_8 = self.conv_norm(self.features, (3, 3), name='conv_head16')(y)
        return context_8, context_16, taps


class FeatureFusion(nn.Module):
    """Joins detail and context, and adds the channels once more, multiplied by gates.

        f = relu(bn(conv1x1([detail, context])))
        y = f + f gate

    The gate is sigmoid(conv1x1(relu(conv1x1(mean of f)))) in torchseg and
    sigmoid(bn(conv1x1(mean of f))) in coin.

    release    'torchseg' or 'coin'
    conv_norm, conv, norm  make layers, as in AttentionRefinement
    """

    release: str
    conv_norm: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, detail, context):
        x = jnp.concatenate([detail, context], -1)
        channels = x.shape[-1]
        x = self.conv_norm(channels, (1, 1), name='convblk')(x)
        conv = functools.partial(self.conv, channels, (1, 1), use_bias=False)
        gate = adaptive_average_pool(x, 1)  # [B, 1, 1, channels]
        if self.release == 'torchseg':
            gate = conv(name='conv1')(gate)
            gate = nn.relu(gate)
            gate = conv(name='conv2')(gate)
        else:
            gate = conv(name='conv')(gate)
            gate = self.norm(name='bn')(gate)
        gate = nn.sigmoid(gate)
        return x + x * gate


class Head(nn.Module):
    """3x3 convolution with batch norm and ReLU, and a 1x1 convolution to the classes.

    features     channels of the 3x3 convolution
    num_classes  channels of the logits
    conv_norm, conv  make layers, as in AttentionRefinement
    """

    features: int
    num_classes: int
    conv_norm: Callable
    conv: Callable

    @nn.compact
    def __call__(self, x):
        x = self.conv_norm(self.features, (3, 3), name='conv')(x)
        return self.conv(self.num_classes, (1, 1), name='conv_out')(x)


class BiSeNet(nn.Module):
    """BiSeNet, first version.

    Call `net.apply(variables, x, train=...)`, in training with mutable=['batch_stats'].

    num_classes    channels of the logits
    num_layers     layers of the context path's ResNet: 18, 34, 50, 101 or 152. Published: 18, 50
                   and 101
    stem           stem of the ResNet: '7x7', or '3x3' as torchseg has for 101 layers
                   (models/backbones/resnet.py)
    release        release: 'torchseg' or 'coin'. They differ in the gate of the fusion, in both
                   enlargements, in the channels of the heads and in the initialisation. torchseg
                   enlarges bilinearly with aligned corners. coin takes nearest neighbours inside
                   the context path, and enlarges logits bilinearly without aligned corners
    head_channels  channels of (main head, auxiliary heads). (): of the release, torchseg (64, 256),
                   coin (256, 64)
    taps           names of inner tensors to return under outputs['features']
                   (models/backbones/resnet.py)
    frozen_norm    use the running statistics in training
    width          factor on all inner channels. 1 is the published net, smaller factors are for
                   tests and small machines
    dtype          of activations. Parameters, batch statistics and logits are float32
    axis_name      mapped axis of the devices that share batch statistics. None: not shared

    Batch norms have epsilon 1e-5. Running statistics decay by 0.9 a step and hold the biased
    variance (torch: the unbiased variance).
    """

    num_classes: int
    num_layers: int = 18
    stem: str = '7x7'
    release: str = 'torchseg'
    head_channels: tuple[int, ...] = ()
    taps: tuple[str, ...] = ()
    frozen_norm: bool = False
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool, given=None):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size. Published: multiples of 32.
          train: use the statistics of the batch.
          given: {tap: array} that replaces inner tensors (models/split.py). None: all are computed.

        Returns:
          {'logits': [B, H, W, num_classes] float32, 'aux': {'context8': like the logits,
          'context16': like the logits}}. The auxiliary heads see the features of the context path
          and were published with loss weights of 1. With taps also {'features': {tap:
          [B, h, w, C]}}.
        """
        (main, auxiliary), gain = self._release()
        conv_norm, conv, norm = self._layers(gain, train)
        align_corners = self.release == 'torchseg'
        features = scaled(64, self.width)
        resnet = functools.partial(
            make_resnet,
            self.num_layers,
            norm,
            self.dtype,
            None,
            stem=self.stem,
            width=self.width,
            taps=self.taps,
        )
        if align_corners:
            enlarge = functools.partial(resize.bilinear, align_corners=True)
        else:
            enlarge = resize.nearest

        def predict(y, channels, name):
            """Maps [B, h, w, C] to logits [B, H, W, num_classes] float32."""
            n = scaled(channels, self.width)
            y = Head(n, self.num_classes, conv_norm, conv, name=name)(y)
            y = y.astype(jnp.float32)
            return resize.bilinear(y, x.shape[1:3], align_corners=align_corners)

        # Both paths see the image. Their features are fused at stride 8.
        image = x.astype(self.dtype)
        detail = SpatialPath(features, conv_norm, name='sp')(image)
        context_path = ContextPath(2 * features, resnet, enlarge, conv_norm, conv, norm, name='cp')
        context_8, context_16, taps = context_path(image, given)
        fused = FeatureFusion(self.release, conv_norm, conv, norm, name='ffm')(detail, context_8)

        # The auxiliary heads see the context path only. They serve the training.
        outputs = {
            'logits': predict(fused, main, 'conv_out'),
            'aux': {
                'context8': predict(context_8, auxiliary, 'conv_out16'),
                'context16': predict(context_16, auxiliary, 'conv_out32'),
            },
        }
        if self.taps:
            outputs['features'] = taps
        return outputs

    def _release(self) -> tuple[tuple[int, ...], float]:
        """Returns ((channels of the main head, of the auxiliary heads), initial gain)."""
        if self.release not in RELEASES:
            raise unknown_name('bisenet: release', self.release, RELEASES)
        head_channels, gain = RELEASES[self.release]
        head_channels = self.head_channels or head_channels
        if len(head_channels) != 2:
            raise InputError(
                'bisenet: head_channels',
                got=repr(head_channels),
                expected='() or (main, auxiliary)',
            )
        return head_channels, gain

    def _layers(self, gain: float, train: bool) -> tuple[Callable, Callable, Callable]:
        """Returns the makers of layers: conv_norm, conv and norm."""
        norm = batch_norm(
            train, frozen=self.frozen_norm, dtype=self.dtype, axis_name=self.axis_name
        )
        conv = functools.partial(
            Conv,
            kernel_init=nn.initializers.variance_scaling(gain, 'fan_in', 'normal'),
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
        )
        conv_norm = functools.partial(ConvNorm, conv=conv, norm=norm)
        return conv_norm, conv, norm
