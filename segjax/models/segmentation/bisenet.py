"""BiSeNet: a shallow path for detail and a ResNet for context, fused at stride 8.

Yu, Wang, Peng, Gao, Yu, Sang: BiSeNet, Bilateral Segmentation Network for Real-time Semantic Segmentation, ECCV 2018.
Two releases differ in details, and both are here: `torchseg`, the authors' own, and `coin` (CoinCheung's), whose names
both have here: `cp.arm16.conv.bn` there is `cp/arm16/conv/bn` here, for the backbone see models/resnet.py. In torchseg
these are called spatial_path (sp), context_path (cp/resnet), global_context.1 (cp/conv_avg), arms.{0,1} (cp/arm32,
cp/arm16), refines.{0,1} (cp/conv_head32, cp/conv_head16), heads.{0,1,2} (conv_out32, conv_out16, conv_out).
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

# Release: channels inside the main head and the auxiliary heads, gain of the start N(0, gain / fan_in).
RELEASES = {'torchseg': ((64, 256), 2.0), 'coin': ((256, 64), 1.0)}


class SpatialPath(nn.Module):
    """[B, H, W, 3] -> [B, H/8, W/8, 2 features]: three convolutions of stride 2, and a 1x1."""

    features: int
    conv_norm: Callable

    @nn.compact
    def __call__(self, x):
        x = self.conv_norm(self.features, (7, 7), strides=2, name='conv1')(x)
        x = self.conv_norm(self.features, (3, 3), strides=2, name='conv2')(x)
        x = self.conv_norm(self.features, (3, 3), strides=2, name='conv3')(x)
        return self.conv_norm(2 * self.features, (1, 1), name='conv_out')(x)


class AttentionRefinement(nn.Module):
    """f = relu(bn(conv3x3(x))); f times a gate for each channel, sigmoid(bn(conv1x1(mean of f)))."""

    features: int
    conv_norm: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        x = self.conv_norm(self.features, (3, 3), name='conv')(x)
        gate = self.conv(self.features, (1, 1), use_bias=False, name='conv_atten')(
            adaptive_average_pool(x, 1)
        )
        return x * nn.sigmoid(self.norm(name='bn_atten')(gate))


class ContextPath(nn.Module):
    """The backbone's last two stages and their global mean, merged upwards: features at strides 8 and 16."""

    features: int
    resnet: Callable
    enlarge: Callable
    conv_norm: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        stages, taps = self.resnet()(x)
        refine = functools.partial(
            AttentionRefinement,
            self.features,
            conv_norm=self.conv_norm,
            conv=self.conv,
            norm=self.norm,
        )
        at_16, at_32 = stages['layer3'], stages['layer4']
        context = self.conv_norm(self.features, (1, 1), name='conv_avg')(
            adaptive_average_pool(at_32, 1)
        )
        y = self.enlarge(refine(name='arm32')(at_32) + context, at_16.shape[1:3])
        up_16 = self.conv_norm(self.features, (3, 3), name='conv_head32')(y)
        y = self.enlarge(refine(name='arm16')(at_16) + up_16, stages['layer2'].shape[1:3])
        return self.conv_norm(self.features, (3, 3), name='conv_head16')(y), up_16, taps


class FeatureFusion(nn.Module):
    """f = relu(bn(conv1x1([detail, context]))); f + f gate, the gate from the mean of f.

    The gate is sigmoid(conv1x1(relu(conv1x1(mean)))) in torchseg and sigmoid(bn(conv1x1(mean))) in coin.
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
        gate = adaptive_average_pool(x, 1)
        if self.release == 'torchseg':
            gate = conv(name='conv2')(nn.relu(conv(name='conv1')(gate)))
        else:
            gate = self.norm(name='bn')(conv(name='conv')(gate))
        return x + x * nn.sigmoid(gate)


class Head(nn.Module):
    """3x3 convolution with batch norm and ReLU, and a 1x1 convolution to the classes."""

    features: int
    num_classes: int
    conv_norm: Callable
    conv: Callable

    @nn.compact
    def __call__(self, x):
        x = self.conv_norm(self.features, (3, 3), name='conv')(x)
        return self.conv(self.num_classes, (1, 1), name='conv_out')(x)


class BiSeNet(nn.Module):
    """BiSeNet, first version. `net.apply(variables, x, train=...)`; in training with mutable=['batch_stats'].

    num_classes    channels of the logits
    num_layers     of the context path's ResNet: 18, 50, 101 (34 and 152 work as well)
    stem           of the ResNet: '7x7', or '3x3', which torchseg has at depth 101 (models/resnet.py)
    release        'torchseg' or 'coin'; they differ in the fusion's gate, the enlargement inside the context path
                   (bilinear with aligned corners; nearest), that of the logits (with aligned corners; without), the
                   heads' channels, and the start
    head_channels  (main head, auxiliary heads); () for the release's: torchseg (64, 256), coin (256, 64)
    taps           names of inner tensors (models/resnet.py) to return under outputs['features']
    frozen_norm    use the running statistics in training as well
    width          factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype          of activations; parameters, batch statistics and the returned logits are float32
    axis_name      mapped axis over which batch statistics are those of the global batch; None: of this device

    Running statistics decay by 0.9 a step and hold the biased variance (torch: the unbiased one), eps is 1e-5.
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
    def __call__(self, x, train: bool):
        """The logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size; multiples of 32 as published.
          train: use the batch's statistics.

        Returns:
          {'logits': [B, H, W, num_classes] float32, 'aux': {'context8': like the logits, 'context16': the same}}, the
          heads on the context path's features, published with loss weights of 1; with taps also {'features': {tap:
          [B, h, w, C]}}.
        """
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
        init = nn.initializers.variance_scaling(gain, 'fan_in', 'normal')
        norm = batch_norm(
            train, frozen=self.frozen_norm, dtype=self.dtype, axis_name=self.axis_name
        )
        conv = functools.partial(
            Conv, kernel_init=init, bias_init=nn.initializers.zeros, dtype=self.dtype
        )
        conv_norm = functools.partial(ConvNorm, conv=conv, norm=norm)
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
        corners = self.release == 'torchseg'
        enlarge = (
            functools.partial(resize.bilinear, align_corners=True) if corners else resize.nearest
        )

        layers = dict(conv_norm=conv_norm, conv=conv)
        image, features = x.astype(self.dtype), scaled(64, self.width)
        detail = SpatialPath(features, conv_norm, name='sp')(image)
        context_8, context_16, taps = ContextPath(
            2 * features, resnet, enlarge, norm=norm, **layers, name='cp'
        )(image)
        fused = FeatureFusion(self.release, norm=norm, **layers, name='ffm')(detail, context_8)

        def predict(y, channels, name):
            y = Head(scaled(channels, self.width), self.num_classes, **layers, name=name)(y)
            return resize.bilinear(y.astype(jnp.float32), x.shape[1:3], align_corners=corners)

        main, auxiliary = head_channels
        outputs = {
            'logits': predict(fused, main, 'conv_out'),
            'aux': {
                'context8': predict(context_8, auxiliary, 'conv_out16'),
                'context16': predict(context_16, auxiliary, 'conv_out32'),
            },
        }
        return outputs | ({'features': taps} if self.taps else {})
