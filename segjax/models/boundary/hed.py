"""HED: boundaries from five depths of VGG16.

Source: Xie, Tu, Holistically-Nested Edge Detection, ICCV 2015. `side1` .. `side5` are the side
outputs of conv1_2, conv2_2, conv3_3, conv4_3 and conv5_3, and `fuse` is their weighted sum.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.backbones.vgg import VGG16
from segjax.models.layers import Conv, he_fan_out
from segjax.ops import resize

SIDES = ('conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3')
"""Convolutions after whose ReLU the net has an output."""

STRIDE = 16
"""Pixels of the image for a pixel of the deepest output, in either direction."""

SMALLEST = 32
"""Height and width up to which smaller images are completed, for the poolings of VGG16."""


class HED(nn.Module):
    """The convolutions of VGG16, a 1x1 convolution on each depth, and their weighted sum.

    The image is repeated at the lower and right border up to a multiple of STRIDE. So each pixel of
    a side output covers a square of pixels of the image.

    width  factor on all channels of VGG16
    dtype  of activations. Parameters and logits are float32
    """

    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image):
        """Returns the scores of boundaries.

        Args:
          image: [B, H, W, 3] floating point, normalised as 'imagenet' (ops/images.py).

        Returns:
          {'logits': [B, H, W, 1] float32, of the weighted sum,
           'sides': [B, H, W, 5] float32, of the side outputs from fine to coarse}.
        """
        size = image.shape[1:3]
        missing = [max(-length % STRIDE, SMALLEST - length) for length in size]
        image = jnp.pad(image, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode='edge')
        padded_size = image.shape[1:3]

        conv = functools.partial(Conv, kernel_init=he_fan_out, dtype=self.dtype)
        vgg = VGG16(conv, conv, width=self.width, taps=SIDES, name='vgg')
        _, features = vgg(image.astype(self.dtype))

        # As published, the side outputs start at 0 and the weighted sum as their mean.
        zeros = nn.initializers.zeros
        sides = []
        for number, layer in enumerate(SIDES, start=1):
            score = Conv(1, (1, 1), kernel_init=zeros, bias_init=zeros, name=f'side{number}')
            y = score(nn.relu(features[layer]))
            sides.append(resize.bilinear(y, padded_size))
        sides = jnp.concatenate(sides, -1)
        mean = nn.initializers.constant(1 / len(SIDES))
        fused = Conv(1, (1, 1), kernel_init=mean, bias_init=zeros, name='fuse')(sides)
        return {
            'logits': fused[:, : size[0], : size[1]],
            'sides': sides[:, : size[0], : size[1]],
        }
