"""Nets that predict the motion of the camera between images, for self-supervised training of depth.

    PoseExpNet   SfMLearner's (dispnet.py): target and all sources at once, explainability masks
    PoseResNet   monodepth2's (monodepth2.py): a ResNet on two images, and a small decoder
    PoseCNN      monodepth2's smaller net: the layers of PoseExpNet on two images

A net is called as `net(target, sources, train)`. target [B, H, W, 3] and sources [B, n, H, W, 3]
are in [0, 1], and the net normalises them. It returns {'motion': [B, n, 6] float32}, and PoseExpNet
on demand also 'masks'. A matrix T takes points of the target's camera to the source's camera,
p_source = T p_target. The net says how a vector becomes T:

    convention  'euler': (tx, ty, tz, rx, ry, rz), R = Rx(rx) Ry(ry) Rz(rz), T = [R | t]
                'axis_angle': (rx, ry, rz, tx, ty, tz), R turns by |r| about r, T = [R | t]
                (turn, then shift)
    inverted    for each source, whether the matrix of its vector is the inverse of T
    by_inverse_depth  whether the translation must be multiplied by the mean of 1 / depth of the
                image

Nets of two images get the earlier image first. So they always predict the motion from the earlier
to the later camera. If the source precedes the target, this is the inverse of T. The field
`earlier` says which sources precede. The net defines the order of images, and the caller inverts
the matrices.

Names follow the releases: `net.0` there is `net_0` here. The names of PoseExpNet are as in DispNet:

    here             PyTorch          TensorFlow
    conv1_0          conv1.0          cnv1
    pose_pred        pose_pred        pose/pred
    predict_mask4    predict_mask4    exp/mask4
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.backbones.resnet import make_resnet
from segjax.models.depth.dispnet import SfMLearnerLayers, sfmlearner_layers
from segjax.models.depth.monodepth2 import normalize_monodepth2
from segjax.models.layers import Conv, batch_norm, scaled

TRUNK = ((16, 7), (32, 5), (64, 3), (128, 3), (256, 3), (256, 3), (256, 3))
"""(channels, side of the kernel) of the convolutions, each of stride 2 with a ReLU."""
SHARED_WITH_MASKS = 5
"""Number of convolutions after which the masks branch off."""
MASK_CHANNELS = (16, 32, 64, 128, 256)
"""Channels of the transposed convolutions of the mask decoder, from full resolution on."""
MASK_KERNELS = {
    'tf': ((7, 5, 3, 3, 3), (7, 5, 3, 3), 2),
    'pytorch': ((4, 4, 4, 4, 4), (3, 3, 3, 3), 1),
}
"""Release -> (sides of the decoder's kernels, sides of the heads' kernels, logits of a source).

The coarsest level has no head.
"""
DECODER_FEATURES = 256
MOTION_SCALE = 0.01
"""Factor on all motions, with which all nets predict almost no motion at first."""


def _mean_motion(y, count: int):
    """Returns 0.01 times the mean over pixels: [B, h, w, 6 count] -> [B, count, 6] float32."""
    y = y.astype(jnp.float32)
    y = y.mean((1, 2))
    return MOTION_SCALE * y.reshape(len(y), count, 6)


def _check_sources(net: str, earlier: tuple[bool, ...], target, sources) -> None:
    """Raises InputError for shapes that do not fit each other, in the name of the net."""
    b, h, w, c = target.shape
    if not earlier or sources.shape != (b, len(earlier), h, w, c):
        raise InputError(
            f'{net}: sources',
            got=f'shape {sources.shape} for a target of {target.shape} and earlier={earlier}',
            expected='[B, n, H, W, 3] for a target of [B, H, W, 3], n >= 1 and as many entries in '
            'earlier',
        )


def _in_temporal_order(target, sources, earlier: tuple[bool, ...]):
    """Returns pairs of target and source [B n, H, W, 6], the earlier image on the first channels.

    The sources of one target are neighbours.
    """
    pairs = []
    for i, precedes in enumerate(earlier):
        source = sources[:, i]
        pair = [source, target] if precedes else [target, source]
        pairs.append(jnp.concatenate(pair, -1))
    stacked = jnp.stack(pairs, 1)  # [B, n, H, W, 6]
    return stacked.reshape(-1, *pairs[0].shape[1:])


class PoseExpNet(nn.Module):
    """SfMLearner's pose net on all images at once, without batch norm and randomness.

    Seven convolutions of stride 2 see target and sources, concatenated on channels. A 1x1
    convolution has 6 n channels. Their mean over pixels times 0.01 is the motion. With `masks`,
    transposed convolutions branch off after the fifth. They predict for every pixel and source
    whether the motion can explain the pixel.

    For two sources there are 1,590,668 parameters, with masks 3,340,388 ('pytorch') or 2,639,180
    ('tf'). The releases differ in the kernels and heads of the masks.

    earlier    an entry for each source. This net uses only their number
    release    release: 'tf' or 'pytorch' (dispnet.sfmlearner_layers). Masks have two logits a
               source in 'tf', and one logit of a sigmoid in 'pytorch'
    masks      predict explainability masks
    width      factor on all inner channels. 1 is the published net, smaller factors are for tests
               and small machines
    dtype      of activations. Parameters, motions and masks are float32
    axis_name  unused, because without batch norm examples do not depend on each other
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
        """Returns False for all sources: the net predicts target to source in any order."""
        return (False,) * len(self.earlier)

    @nn.compact
    def __call__(self, target, sources, train: bool):
        """Returns the motions between target and sources.

        Args:
          target: [B, H, W, 3] in [0, 1], of any size.
          sources: [B, n, H, W, 3], in the order of `earlier`.
          train: changes nothing.

        Returns:
          {'motion': [B, n, 6] float32}, with masks also {'masks': [m_0, .., m_3]}. m_s
          [B, n, ceil(H / 2^s), ceil(W / 2^s), 2] float32 are logits. The second channel of their
          softmax is the probability that the motion explains the pixel. With the sigmoids of
          'pytorch' the first channel is 0.
        """
        _check_sources('pose_exp_net', self.earlier, target, sources)
        layers = sfmlearner_layers('pose_exp_net', self.release, self.dtype)
        count = len(self.earlier)
        images = jnp.concatenate([target, *(sources[:, i] for i in range(count))], -1)
        y = (2 * images - 1).astype(self.dtype)  # [B, H, W, 3 + 3 n]

        # maps[level] has stride 2^level. The images are level 0.
        maps = [images]
        for level, (features, kernel_size) in enumerate(TRUNK, start=1):
            features = scaled(features, self.width)
            y = layers.conv(y, features, kernel_size, f'conv{level}_0', strides=2)
            y = nn.relu(y)
            maps.append(y)

        y = layers.conv(y, 6 * count, 1, 'pose_pred')
        outputs = {'motion': _mean_motion(y, count)}
        if self.masks:
            sizes = [y.shape[1:3] for y in maps]
            outputs['masks'] = self._masks(maps[SHARED_WITH_MASKS], sizes, layers)
        return outputs

    def _masks(self, y, sizes: list[tuple[int, int]], layers: SfMLearnerLayers) -> list:
        """Computes the logits of the masks, finest first.

        Args:
          y: [B, h, w, C], the map at which the masks branch off.
          sizes: of the images and of all maps, finest first.
          layers: of the release.
        """
        up_kernels, head_kernels, outcomes = MASK_KERNELS[self.release]
        count = len(self.earlier)
        masks = []
        for scale in reversed(range(SHARED_WITH_MASKS)):
            features = scaled(MASK_CHANNELS[scale], self.width)
            y = layers.up_conv(y, features, up_kernels[scale], f'upconv{scale + 1}_0', sizes[scale])
            y = nn.relu(y)
            if scale < len(head_kernels):
                kernel_size = head_kernels[scale]
                z = layers.conv(y, outcomes * count, kernel_size, f'predict_mask{scale + 1}')
                z = z.astype(jnp.float32)
                z = z.reshape(*y.shape[:3], count, outcomes)
                if outcomes == 1:
                    # A sigmoid is a softmax with a logit of 0 for the other outcome.
                    z = jnp.concatenate([jnp.zeros_like(z), z], -1)
                masks.append(jnp.moveaxis(z, 3, 1))  # [B, n, h, w, 2]
        return masks[::-1]


class PoseDecoder(nn.Module):
    """monodepth2's pose decoder: 1x1, 3x3, 3x3 and 1x1 convolutions, and the mean over pixels.

    ReLUs are between the convolutions. The mean is multiplied by 0.01. The release predicts the
    motions of two images and uses the first, as this module does. It has 1,314,572 parameters on
    512 channels.

    features  channels of the first three convolutions
    dtype     of activations. Parameters and motions are float32
    """

    features: int = DECODER_FEATURES
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Maps [B, h, w, C] to motions [B, 6]."""
        x = Conv(self.features, (1, 1), dtype=self.dtype, name='net_0')(x)
        x = nn.relu(x)
        for i in (1, 2):
            x = Conv(self.features, (3, 3), dtype=self.dtype, name=f'net_{i}')(x)
            x = nn.relu(x)
        x = Conv(2 * 6, (1, 1), dtype=self.dtype, name='net_3')(x)
        motions = _mean_motion(x, 2)  # [B, 2, 6]
        return motions[:, 0]


class NetOfPairs(nn.Module):
    """Base of nets that see the target and a single source at a time, in temporal order.

    earlier  for each source, whether it precedes the target
    """

    earlier: tuple[bool, ...]

    convention = 'axis_angle'
    by_inverse_depth = False

    @property
    def inverted(self) -> tuple[bool, ...]:
        """Returns True for sources that precede the target: the net predicts earlier to later."""
        return tuple(self.earlier)


class PoseResNet(NetOfPairs):
    """monodepth2's pose net: a ResNet (`resnet`) on two images, and a PoseDecoder (`decoder`).

    Call `net.apply(variables, target, sources, train=...)`, in training with
    mutable=['batch_stats'].

    All pairs of a batch go through the net at once, so batch statistics are over all sources. The
    release calls the net once for each source, each time with separate statistics.

    earlier     as in NetOfPairs
    num_layers  layers of the ResNet: 18, 34, 50, 101 or 152
    width       factor on all inner channels. 1 is the published net, smaller factors are for tests
                and small machines
    dtype       of activations. Parameters, batch statistics and motions are float32
    axis_name   mapped axis of the devices that share batch statistics. None: not shared

    Batch norms have epsilon 1e-5. Running statistics decay by 0.9 a step and hold the biased
    variance (torch: the unbiased variance).
    """

    num_layers: int = 18
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, target, sources, train: bool):
        """Returns the motions between target and sources.

        Args:
          target: [B, H, W, 3] in [0, 1], of any size.
          sources: [B, n, H, W, 3], in the order of `earlier`.
          train: use the statistics of the batch.

        Returns:
          {'motion': [B, n, 6] float32}.
        """
        _check_sources('pose_resnet', self.earlier, target, sources)
        norm = batch_norm(train, dtype=self.dtype, axis_name=self.axis_name)
        resnet = make_resnet(self.num_layers, norm, self.dtype, None, width=self.width)
        decoder = PoseDecoder(scaled(DECODER_FEATURES, self.width), self.dtype, name='decoder')
        pairs = _in_temporal_order(target, sources, self.earlier)  # [B n, H, W, 6]
        pairs = normalize_monodepth2(pairs)
        stages, _ = resnet(pairs.astype(self.dtype))
        motions = decoder(stages['layer4'])  # [B n, 6]
        return {'motion': motions.reshape(len(target), -1, 6)}


class PoseCNN(NetOfPairs):
    """monodepth2's pose net without a ResNet: the layers of PoseExpNet on two images.

    Call `net.apply(variables, target, sources, train=...)`.

    The initialisation is torch's, and images are not normalised. There are 1,586,774 parameters.
    The release multiplies the translation of this net, and of no other, by the mean of 1 / depth
    over the image, at each scale (`by_inverse_depth`).

    earlier    as in NetOfPairs
    width      factor on all inner channels. 1 is the published net, smaller factors are for tests
               and small machines
    dtype      of activations. Parameters and motions are float32
    axis_name  unused, because without batch norm examples do not depend on each other
    """

    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    by_inverse_depth = True

    @nn.compact
    def __call__(self, target, sources, train: bool):
        """Returns the motions, as in PoseResNet. `train` changes nothing."""
        _check_sources('pose_cnn', self.earlier, target, sources)
        y = _in_temporal_order(target, sources, self.earlier)  # [B n, H, W, 6]
        y = y.astype(self.dtype)
        for i, (features, k) in enumerate(TRUNK):
            features = scaled(features, self.width)
            y = Conv(features, (k, k), strides=2, dtype=self.dtype, name=f'net_{i}')(y)
            y = nn.relu(y)
        y = Conv(6, (1, 1), dtype=self.dtype, name='pose_conv')(y)
        motions = _mean_motion(y, 1)  # [B n, 1, 6]
        return {'motion': motions.reshape(len(target), -1, 6)}
