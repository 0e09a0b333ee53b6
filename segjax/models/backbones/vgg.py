"""VGG16 as a backbone of fully convolutional nets.

Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015. Names are those of
the Caffe releases: conv1_1 .. conv5_3; torchvision's features.{0,2,5,7,10,12,14,17,19,21,24,26,28} in this order.

Tensors inside, for taps: conv1_1 .. conv5_3 before their ReLU, pool1 .. pool5.
"""

from collections.abc import Callable

import flax.linen as nn

from segjax.models.layers import pick_taps, scaled
from segjax.ops.pool import max_pool

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions, channels


class VGG16(nn.Module):
    """The 13 convolutions (3x3, bias, ReLU) and five max poolings, with sizes rounded up as Caffe rounds them.

    conv           makes plain convolutions: conv(features, kernel_size, padding=, name=)
    dilated_conv   makes those of the last stage if dilation > 1: dilated_conv(features, kernel_size, dilation=, name=)
    window         of the poolings, 2 without or 3 with one pixel of padding
    pool_strides   of the five poolings
    dilation       of the last stage's convolutions
    padding        of the first convolution
    width          factor on all channels
    taps           names of inner tensors to return, see above
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
        """[B, H, W, 3] -> ({'pool1': .., 'pool5': ..}, {tap: tensor})."""
        features = {}
        for i, (count, channels) in enumerate(STAGES, start=1):
            for j in range(1, count + 1):
                name, size = f'conv{i}_{j}', (scaled(channels, self.width), (3, 3))
                if i == len(STAGES) and self.dilation > 1:
                    x = self.dilated_conv(*size, dilation=self.dilation, name=name)(x)
                else:
                    x = self.conv(*size, padding=self.padding if i == j == 1 else 1, name=name)(x)
                features[name] = x
                x = nn.relu(x)
            x = max_pool(
                x, self.window, self.pool_strides[i - 1], padding=(self.window - 1) // 2, ceil=True
            )
            features[f'pool{i}'] = x
        pools = {name: y for name, y in features.items() if name.startswith('pool')}
        return pools, pick_taps(features, self.taps, 'vgg')
