"""DispNet of SfMLearner, and the layers that it shares with the pose net.

Source: Zhou, Brown, Snavely, Lowe, Unsupervised Learning of Depth and Ego-Motion from Video, CVPR
2017. The layers follow the authors' TensorFlow release and Pinard's PyTorch port.

Names follow the releases:

    here                  PyTorch               TensorFlow
    upconv7_0             upconv7.0             upcnv7
    conv1_0, conv1_2      conv1.0, conv1.2      cnv1, cnv1b
    iconv7_0              iconv7.0              icnv7
    predict_disp4_0       predict_disp4.0       disp4
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import unknown_name
from segjax.models.layers import Conv, ConvTranspose, scaled
from segjax.ops import resize

RELEASES = ('tf', 'pytorch')
DISPNET_ENCODER = ((32, 7), (64, 5), (128, 3), (256, 3), (512, 3), (512, 3), (512, 3))
"""(channels, side of the kernels) of the two convolutions of each level. The first has stride 2."""
DISPNET_DECODER = (16, 32, 64, 128, 256, 512, 512)
"""Channels of each level, from fine to coarse."""
NUM_SCALES = 4
"""Number of levels with a disparity, from the finest on."""
DISPARITY_SCALE = 10.0
DISPARITY_MIN = 0.01


class SfMLearnerLayers(NamedTuple):
    """Layers of both nets of SfMLearner, depth and pose, with Glorot-uniform initialisation.

    The layers become submodules of the calling module.

    conv(x, features, kernel_size, name, strides=1)   stride 2 puts out ceil(n / 2) pixels
    up_conv(x, features, kernel_size, name, size)     doubles the size, and crops to `size`
    enlarge(disparity, size)                          [B, h, w, 1] -> [B, H, W, 1], bilinear,
                                                      h = ceil(H / 2)
    """

    conv: Callable
    up_conv: Callable
    enlarge: Callable


def sfmlearner_layers(net: str, release: str, dtype: Any) -> SfMLearnerLayers:
    """Returns the layers of a release.

    tf       Zeros are padded as by TensorFlow's 'SAME'. For an even size and stride 2 there is one
             more behind than in front. Disparities are enlarged without half-pixel centres, as by
             tf.image.resize_bilinear.
    pytorch  Equal numbers of zeros are padded on both sides. Disparities are enlarged with
             half-pixel centres.

    Odd sizes are rounded up in the encoder and cropped in the decoder. From 2 n to 2 n - 1 pixels
    the nearest neighbours of the TensorFlow release do the same. The release has them on its
    coarsest levels only, so it needs images of multiples of 16.

    Args:
      net: name of the net, for errors.
      release: 'tf' or 'pytorch'.
      dtype: of activations.
    """
    if release not in RELEASES:
        raise unknown_name(f'{net}: release', release, RELEASES)
    is_tf = release == 'tf'
    shared = dict(
        kernel_init=nn.initializers.xavier_uniform(),
        bias_init=nn.initializers.zeros,
        dtype=dtype,
    )

    def conv(x, features, kernel_size, name, strides=1):
        layer = Conv(
            features,
            (kernel_size, kernel_size),
            strides=strides,
            padding='same' if is_tf else None,
            name=name,
            **shared,
        )
        return layer(x)

    def up_conv(x, features, kernel_size, name, size):
        padding = (kernel_size - 2) // 2 if is_tf else 1
        layer = ConvTranspose(features, kernel_size, padding, name=name, **shared)
        # The output has an even size, which may exceed an odd size by one pixel.
        return crop(layer(x), size)

    def enlarge(disparity, size):
        if is_tf:
            return resize.bilinear_on_grid(disparity, size, 2)
        h, w = disparity.shape[1:3]
        doubled = resize.bilinear(disparity, (2 * h, 2 * w))
        return crop(doubled, size)

    return SfMLearnerLayers(conv, up_conv, enlarge)


def crop(x, size: tuple[int, int]):
    """Returns the first rows and columns of [B, h, w, C]."""
    return x[:, : size[0], : size[1]]


class DispNet(nn.Module):
    """SfMLearner's depth net, without batch norm and randomness.

    Call `net.apply(variables, x, train=...)`.

    The encoder has seven levels of two convolutions with ReLU, of stride 2 and 1. The decoder has
    transposed convolutions, joined by the encoder's map and, on the three finest levels, by the
    disparity of the level below. The four finest levels predict d = 10 sigmoid(y) + 0.01, so depths
    1 / d are about 0.1 to 100. Both releases have 31,596,900 parameters.

    release    release: 'tf' or 'pytorch', see sfmlearner_layers
    width      factor on all inner channels. 1 is the published net, smaller factors are for tests
               and small machines
    dtype      of activations. Parameters and disparities are float32
    axis_name  unused, because without batch norm examples do not depend on each other
    """

    release: str = 'tf'
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Returns the disparities of an image.

        Args:
          x: [B, H, W, 3] in [0, 1], of any size.
          train: changes nothing.

        Returns:
          {'disparity': [d_0, .., d_3]}, d_s [B, ceil(H / 2^s), ceil(W / 2^s)] float32 in
          [0.01, 10.01].
        """
        layers = sfmlearner_layers('dispnet', self.release, self.dtype)
        y = (2 * x - 1).astype(self.dtype)

        # maps[level] has stride 2^level. The image is level 0.
        maps = [x]
        for level, (features, kernel_size) in enumerate(DISPNET_ENCODER, start=1):
            features = scaled(features, self.width)
            y = layers.conv(y, features, kernel_size, f'conv{level}_0', strides=2)
            y = nn.relu(y)
            y = layers.conv(y, features, kernel_size, f'conv{level}_2')
            y = nn.relu(y)
            maps.append(y)

        # Level by level, the decoder reaches the size of the next finer map.
        disparities = []
        for level in range(len(DISPNET_DECODER), 0, -1):
            features = scaled(DISPNET_DECODER[level - 1], self.width)
            skip = maps[level - 1]
            size = skip.shape[1:3]
            y = layers.up_conv(y, features, 3, f'upconv{level}_0', size)
            y = nn.relu(y)
            joined = [y]
            if level > 1:
                joined.append(skip)
            if disparities:
                enlarged = layers.enlarge(disparities[-1], size)
                joined.append(enlarged.astype(self.dtype))
            y = jnp.concatenate(joined, -1)
            y = layers.conv(y, features, 3, f'iconv{level}_0')
            y = nn.relu(y)
            if level <= NUM_SCALES:
                z = layers.conv(y, 1, 3, f'predict_disp{level}_0')  # [B, h, w, 1]
                z = nn.sigmoid(z.astype(jnp.float32))
                disparities.append(DISPARITY_SCALE * z + DISPARITY_MIN)
        return {'disparity': [disparity[..., 0] for disparity in reversed(disparities)]}

    def depth_of(self, disparity):
        """Returns 1 / disparity."""
        return 1 / disparity
