"""DispNet of SfMLearner, and the layers that it shares with the pose net.

Source: Zhou, Brown, Snavely, Lowe, Unsupervised Learning of Depth and Ego-Motion from Video, CVPR
2017. The layers are those of the authors' TensorFlow release and of Pinard's PyTorch port.

Names are those of the releases:

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
# Channels and side of the kernel of the pair of convolutions of each level, the first of stride 2.
DISPNET_ENCODER = ((32, 7), (64, 5), (128, 3), (256, 3), (512, 3), (512, 3), (512, 3))
DISPNET_DECODER = (16, 32, 64, 128, 256, 512, 512)
DISPARITY_SCALE = 10.0
DISPARITY_MIN = 0.01


class SfMLearnerLayers(NamedTuple):
    """The layers of both nets of SfMLearner, depth and pose, in one of its releases; they start Glorot-uniform.

    conv(x, features, kernel_size, name, strides=1)   stride 2 puts out ceil(n / 2) pixels
    up_conv(x, features, kernel_size, name, size)     doubles the size, and crops to `size`
    enlarge(disparity, size)                          [B, h, w, 1] -> [B, H, W, 1], bilinear, h = ceil(H / 2)
    """

    conv: Callable
    up_conv: Callable
    enlarge: Callable


def sfmlearner_layers(net: str, release: str, dtype: Any) -> SfMLearnerLayers:
    """The layers of `release`; `net` is who asks, for errors.

    tf       zeros are padded as TensorFlow's 'SAME': for an even size and stride 2, one more behind than in front.
             Disparities are enlarged without half-pixel centres, as tf.image.resize_bilinear did
    pytorch  zeros are padded alike on both sides; disparities are enlarged with half-pixel centres

    Odd sizes are rounded up on the way down and cropped on the way up. From 2 n to 2 n - 1 pixels that is what the
    nearest neighbours of the TensorFlow release come to as well; it has them on its coarsest levels alone, and so wants
    images of multiples of 16.
    """
    if release not in RELEASES:
        raise unknown_name(f'{net}: release', release, RELEASES)
    tf, init = release == 'tf', nn.initializers.xavier_uniform()

    def conv(x, features, kernel_size, name, strides=1):
        layer = Conv(
            features,
            (kernel_size, kernel_size),
            strides=strides,
            kernel_init=init,
            bias_init=nn.initializers.zeros,
            dtype=dtype,
            padding='same' if tf else None,
            name=name,
        )
        return layer(x)

    def up_conv(x, features, kernel_size, name, size):
        padding, zeros = (kernel_size - 2) // 2 if tf else 1, nn.initializers.zeros
        layer = ConvTranspose(
            features,
            kernel_size,
            padding,
            kernel_init=init,
            bias_init=zeros,
            dtype=dtype,
            name=name,
        )
        return crop(layer(x), size)

    def enlarge(disparity, size):
        if tf:
            return resize.bilinear_on_grid(disparity, size, 2)
        h, w = disparity.shape[1:3]
        return crop(resize.bilinear(disparity, (2 * h, 2 * w)), size)

    return SfMLearnerLayers(conv, up_conv, enlarge)


def crop(x, size: tuple[int, int]):
    """The first rows and columns of [B, h, w, C]."""
    return x[:, : size[0], : size[1]]


class DispNet(nn.Module):
    """SfMLearner's depth net. `net.apply(variables, x, train=...)`; no batch norm, nothing random.

    Seven levels of two convolutions with ReLU, of stride 2 and 1; up again by transposed convolutions, joined by the
    encoder's map and, on the three finest levels, by the disparity of the level below. The four finest levels predict
    d = 10 sigmoid(y) + 0.01, so depths are 1 / d from 0.1 to 100. 31,596,900 parameters in both releases.

    release    'tf' or 'pytorch', see sfmlearner_layers
    width      factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype      of activations; parameters and disparities are float32
    axis_name  unused: without batch norm, examples do not meet
    """

    release: str = 'tf'
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Disparities of an image.

        Args:
          x: [B, H, W, 3] in [0, 1], of any size.
          train: changes nothing.

        Returns:
          {'disparity': [d_0, .., d_3]}, d_s [B, ceil(H / 2^s), ceil(W / 2^s)] float32 in [0.01, 10.01].
        """
        layers = sfmlearner_layers('dispnet', self.release, self.dtype)
        y, skips = (2 * x - 1).astype(self.dtype), []
        for level, (features, kernel_size) in enumerate(DISPNET_ENCODER, start=1):
            features = scaled(features, self.width)
            y = nn.relu(layers.conv(y, features, kernel_size, f'conv{level}_0', strides=2))
            y = nn.relu(layers.conv(y, features, kernel_size, f'conv{level}_2'))
            skips.append(y)

        disparities = []
        for level in range(len(DISPNET_DECODER), 0, -1):
            features = scaled(DISPNET_DECODER[level - 1], self.width)
            size = skips[level - 2].shape[1:3] if level > 1 else x.shape[1:3]
            joined = [nn.relu(layers.up_conv(y, features, 3, f'upconv{level}_0', size))]
            if level > 1:
                joined.append(skips[level - 2])
            if disparities:
                joined.append(layers.enlarge(disparities[-1], size).astype(self.dtype))
            y = nn.relu(layers.conv(jnp.concatenate(joined, -1), features, 3, f'iconv{level}_0'))
            if level <= 4:
                z = layers.conv(y, 1, 3, f'predict_disp{level}_0').astype(jnp.float32)
                disparities.append(DISPARITY_SCALE * nn.sigmoid(z) + DISPARITY_MIN)
        return {'disparity': [d[..., 0] for d in reversed(disparities)]}

    def depth_of(self, disparity):
        """1 / disparity."""
        return 1 / disparity
