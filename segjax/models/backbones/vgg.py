"""VGG16 as a backbone of fully convolutional nets.

Source: Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
ICLR 2015. Names follow the Caffe releases: conv1_1 .. conv5_3. The same convolutions in torchvision
are features.{0,2,5,7,10,12,14,17,19,21,24,26,28}.

Inner tensors that `taps` can name: conv1_1 .. conv5_3 before their ReLU, pool1 .. pool5.
"""

from collections.abc import Callable

import flax.linen as nn

from segjax.models.layers import pick_taps, scaled
from segjax.ops.pool import max_pool

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""(number of convolutions, channels) of each stage."""


class VGG16(nn.Module):
    """The 13 convolutions (3x3, bias, ReLU) and five max poolings.

    Sizes are rounded up as in Caffe.

    conv           makes plain convolutions: conv(features, kernel_size, padding=, name=)
    dilated_conv   makes the convolutions of the last stage if dilation > 1:
                   dilated_conv(features, kernel_size, dilation=, name=)
    window         of the poolings: 2 without padding, or 3 with one pixel of padding
    pool_strides   of the five poolings
    dilation       of the convolutions of the last stage
    padding        of the first convolution
    width          factor on all channels
    taps           names of inner tensors to return, listed at the top of this file
    """

    conv: Callable
    dilated_conv: Callable
    window: int = 2
    pool_strides: tuple[int, int, int, int, int] = (2, 2, 2, 2, 2)
    dilation: int = 1
    padding: int = 1
    width: float = 1.0
    taps: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x):
        """Returns the features of an image.

        Args:
          x: [B, H, W, 3].

        Returns:
          ({'pool1': [B, h, w, C], .., 'pool5': ..}, {tap: tensor}).
        """
        features = {}
        pools = {}
        for i, (count, channels) in enumerate(STAGES, start=1):
            for j in range(1, count + 1):
                conv = self._conv(i, j, scaled(channels, self.width))
                x = conv(x)
                features[f'conv{i}_{j}'] = x
                x = nn.relu(x)
            strides = self.pool_strides[i - 1]
            x = max_pool(x, self.window, strides, padding=(self.window - 1) // 2, ceil=True)
            pools[f'pool{i}'] = x
        return pools, pick_taps({**features, **pools}, self.taps, 'vgg')

    def _conv(self, stage: int, index: int, features: int) -> nn.Module:
        """Builds a convolution by its stage and its place in the stage, both from 1."""
        name = f'conv{stage}_{index}'
        if stage == len(STAGES) and self.dilation > 1:
            return self.dilated_conv(features, (3, 3), dilation=self.dilation, name=name)
        is_first = stage == index == 1
        return self.conv(features, (3, 3), padding=self.padding if is_first else 1, name=name)
