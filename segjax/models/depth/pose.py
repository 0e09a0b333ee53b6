"""Nets that see the motion of the camera between images, for self-supervised training of depth.

    PoseExpNet   SfMLearner's (dispnet.py): the target and all sources at once, with explainability masks
    PoseResNet   monodepth2's (monodepth2.py): a ResNet on two images, and a small decoder
    PoseCNN      monodepth2's smaller choice: the layers of PoseExpNet on two images

A net is called as `net(target, sources, train)`, target [B, H, W, 3] and sources [B, n, H, W, 3] in [0, 1], which it
normalises itself, and returns {'motion': [B, n, 6] float32}, PoseExpNet on demand also 'masks'. How a vector becomes
the matrix that takes points of the target's camera to the source's, p_source = T p_target, the net says:

    convention  'euler': (tx, ty, tz, rx, ry, rz), R = Rx(rx) Ry(ry) Rz(rz), T = [R | t]
                'axis_angle': (rx, ry, rz, tx, ty, tz), R turns by |r| about r, T = [R | t] (turn, then shift)
    inverted    for each source, whether the matrix of its vector must be inverted to be T
    by_inverse_depth  whether the translation must be multiplied by the mean of 1 / depth of the image

Nets of two images get them in temporal order, the earlier one first, and so always predict the motion forward in time,
from the earlier to the later camera; that of a source before the target is the wrong way round. `earlier` tells which
sources those are. The order is the net's business, the inversion that of whoever builds matrices.

Names are those of the releases: `net.0` there is `net_0` here; for PoseExpNet see DispNet, `conv1.0` in PyTorch and
`cnv1` in TensorFlow are `conv1_0`, `pose_pred` and `pose/pred` are `pose_pred`, `predict_mask4` and `exp/mask4` are
`predict_mask4`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.backbones.resnet import make_resnet
from segjax.models.depth.dispnet import sfmlearner_layers
from segjax.models.depth.monodepth2 import normalize_monodepth2
from segjax.models.layers import Conv, batch_norm, scaled

# Channels and side of the kernel of the convolutions, each of stride 2 with a ReLU. The masks branch off after five.
TRUNK = ((16, 7), (32, 5), (64, 3), (128, 3), (256, 3), (256, 3), (256, 3))
SHARED_WITH_MASKS = 5
# From full resolution on, the transposed convolutions of the mask decoder: channels, and in each release the sides of
# their kernels, the sides of the heads' kernels, and the logits of a source. The coarsest has no head.
MASK_CHANNELS = (16, 32, 64, 128, 256)
MASK_KERNELS = {
    'tf': ((7, 5, 3, 3, 3), (7, 5, 3, 3), 2),
    'pytorch': ((4, 4, 4, 4, 4), (3, 3, 3, 3), 1),
}
DECODER_FEATURES = 256
# The factor with which all nets begin near standing still.
MOTION_SCALE = 0.01


def _mean_motion(y, count: int):
    """[B, h, w, 6 count] -> [B, count, 6] float32: 0.01 times the mean over pixels."""
    return MOTION_SCALE * y.astype(jnp.float32).mean((1, 2)).reshape(len(y), count, 6)


def _check_sources(net: str, earlier: tuple[bool, ...], target, sources):
    b, h, w, c = target.shape
    if not earlier or sources.shape != (b, len(earlier), h, w, c):
        raise InputError(
            f'{net}: sources',
            got=f'shape {sources.shape} for a target of {target.shape} and earlier={earlier}',
            expected='[B, n, H, W, 3] for a target of [B, H, W, 3], n >= 1 and as many entries in earlier',
        )


def _in_temporal_order(target, sources, earlier: tuple[bool, ...]):
    """[B n, H, W, 6]: target and source on channels, the earlier image first; sources of one target are neighbours."""
    pairs = [
        jnp.concatenate([sources[:, i], target] if before else [target, sources[:, i]], -1)
        for i, before in enumerate(earlier)
    ]
    return jnp.stack(pairs, 1).reshape(-1, *pairs[0].shape[1:])


class PoseExpNet(nn.Module):
    """SfMLearner's pose net, one look at all images; no batch norm, nothing random.

    Seven convolutions of stride 2 on target and sources, stacked on channels; a 1x1 convolution to 6 n channels, whose
    mean over pixels times 0.01 is the motion. With `masks`, transposed convolutions after the fifth predict for every
    pixel and source whether the motion can explain what is seen there. 1,590,668 parameters for two sources;
    with masks 3,340,388 ('pytorch') or 2,639,180 ('tf'), whose releases differ there in kernels and heads.

    earlier    one entry for each source; this net needs only their number
    release    'tf' or 'pytorch', see depth.sfmlearner_layers; two logits a source for masks, or one for a sigmoid
    masks      also predict masks
    width      factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype      of activations; parameters, motions and masks are float32
    axis_name  unused: without batch norm, examples do not meet
    """

    earlier: tuple[bool, ...]
    release: str = 'tf'
    masks: bool = False
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    convention = 'euler'
    by_inverse_depth = False

    @property
    def inverted(self) -> tuple[bool, ...]:
        """The net predicts target to source, whatever came first: none."""
        return (False,) * len(self.earlier)

    @nn.compact
    def __call__(self, target, sources, train: bool):
        """Motions between target and sources.

        Args:
          target: [B, H, W, 3] in [0, 1], of any size.
          sources: [B, n, H, W, 3], in the order of `earlier`.
          train: changes nothing.

        Returns:
          {'motion': [B, n, 6] float32}, with masks also {'masks': [m_0, .., m_3]}, m_s [B, n, ceil(H / 2^s), ceil(W /
          2^s), 2] float32, logits: the second channel of their softmax is the probability that the motion explains the
          pixel. Of the sigmoids of 'pytorch' the first is 0.
        """
        _check_sources('pose_exp_net', self.earlier, target, sources)
        layers = sfmlearner_layers('pose_exp_net', self.release, self.dtype)
        n = len(self.earlier)
        images = jnp.concatenate([target, *(sources[:, i] for i in range(n))], -1)
        y, maps = (2 * images - 1).astype(self.dtype), []
        for level, (features, kernel_size) in enumerate(TRUNK, start=1):
            y = nn.relu(
                layers.conv(
                    y, scaled(features, self.width), kernel_size, f'conv{level}_0', strides=2
                )
            )
            maps.append(y)
        outputs = {'motion': _mean_motion(layers.conv(y, 6 * n, 1, 'pose_pred'), n)}
        if self.masks:
            sizes = [y.shape[1:3] for y in (images, *maps)]
            outputs['masks'] = self._masks(maps[SHARED_WITH_MASKS - 1], sizes, layers)
        return outputs

    def _masks(self, y, sizes, layers):
        """From the shared map and the sizes of the images and of all maps below, finest first."""
        up_kernels, head_kernels, outcomes = MASK_KERNELS[self.release]
        n, masks = len(self.earlier), []
        for scale in reversed(range(SHARED_WITH_MASKS)):
            features = scaled(MASK_CHANNELS[scale], self.width)
            y = nn.relu(
                layers.up_conv(y, features, up_kernels[scale], f'upconv{scale + 1}_0', sizes[scale])
            )
            if scale < len(head_kernels):
                logits = layers.conv(
                    y, outcomes * n, head_kernels[scale], f'predict_mask{scale + 1}'
                )
                logits = logits.astype(jnp.float32).reshape(*y.shape[:3], n, outcomes)
                if outcomes == 1:
                    # A sigmoid is a softmax with a logit of 0 for the other outcome.
                    logits = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
                masks.append(jnp.moveaxis(logits, 3, 1))
        return masks[::-1]


class PoseDecoder(nn.Module):
    """monodepth2's: 1x1, 3x3, 3x3 and 1x1 convolutions with ReLUs between, the mean over pixels times 0.01.

    [B, h, w, C] -> [B, 6]. The release has room for the motions of two images and uses the first; so does this.
    1,314,572 parameters on 512 channels.
    """

    features: int = DECODER_FEATURES
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = nn.relu(Conv(self.features, (1, 1), dtype=self.dtype, name='net_0')(x))
        for i in (1, 2):
            x = nn.relu(Conv(self.features, (3, 3), dtype=self.dtype, name=f'net_{i}')(x))
        return _mean_motion(Conv(2 * 6, (1, 1), dtype=self.dtype, name='net_3')(x), 2)[:, 0]


class NetOfPairs(nn.Module):
    """What nets have in common that see the target and one source at a time, in temporal order.

    earlier  for each source, whether it was taken before the target
    """

    earlier: tuple[bool, ...]

    convention = 'axis_angle'
    by_inverse_depth = False

    @property
    def inverted(self) -> tuple[bool, ...]:
        """The net predicts earlier to later: the sources before the target."""
        return tuple(self.earlier)


class PoseResNet(NetOfPairs):
    """monodepth2's pose net: a ResNet (`resnet`) whose first convolution takes two images, and a PoseDecoder
    (`decoder`). In training with mutable=['batch_stats'].

    All pairs of a batch go through the net at once: batch statistics are over all sources. The release calls the net
    for one source after the other, each with statistics of its own.

    earlier    as in NetOfPairs
    num_layers layers of the ResNet: 18, 34, 50, 101 or 152
    width      factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype      of activations; parameters, batch statistics and motions are float32
    axis_name  mapped axis over which batch statistics are those of the global batch; None: of this device

    Running statistics decay by 0.9 a step and hold the biased variance (torch: the unbiased one), eps is 1e-5.
    """

    num_layers: int = 18
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, target, sources, train: bool):
        """Motions between target and sources.

        Args:
          target: [B, H, W, 3] in [0, 1], of any size.
          sources: [B, n, H, W, 3], in the order of `earlier`.
          train: use the batch's statistics.

        Returns:
          {'motion': [B, n, 6] float32}.
        """
        _check_sources('pose_resnet', self.earlier, target, sources)
        pairs = normalize_monodepth2(_in_temporal_order(target, sources, self.earlier)).astype(
            self.dtype
        )
        norm = batch_norm(train, dtype=self.dtype, axis_name=self.axis_name)
        stages, _ = make_resnet(self.num_layers, norm, self.dtype, None, width=self.width)(pairs)
        decoder = PoseDecoder(scaled(DECODER_FEATURES, self.width), self.dtype, name='decoder')
        return {'motion': decoder(stages['layer4']).reshape(len(target), -1, 6)}


class PoseCNN(NetOfPairs):
    """monodepth2's pose net without a ResNet: the layers of PoseExpNet on two images, torch's start, images as they
    are. 1,586,774 parameters.

    The release multiplies the translation of this net, and of no other, by the mean of 1 / depth
    over the image, at each scale (`by_inverse_depth`).

    earlier    as in NetOfPairs
    width      factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype      of activations; parameters and motions are float32
    axis_name  unused: without batch norm, examples do not meet
    """

    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    by_inverse_depth = True

    @nn.compact
    def __call__(self, target, sources, train: bool):
        """Motions between target and sources; arguments and result as of PoseResNet, `train` changes nothing."""
        _check_sources('pose_cnn', self.earlier, target, sources)
        y = _in_temporal_order(target, sources, self.earlier).astype(self.dtype)
        for i, (features, k) in enumerate(TRUNK):
            conv = Conv(
                scaled(features, self.width), (k, k), strides=2, dtype=self.dtype, name=f'net_{i}'
            )
            y = nn.relu(conv(y))
        y = Conv(6, (1, 1), dtype=self.dtype, name='pose_conv')(y)
        return {'motion': _mean_motion(y, 1).reshape(len(target), -1, 6)}
