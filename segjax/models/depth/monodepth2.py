"""Monodepth2: a ResNet and a depth decoder.

Source: Godard, Mac Aodha, Firman, Brostow, Digging into Self-Supervised Monocular Depth Estimation,
ICCV 2019.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.depth.decoder import (
    DepthDecoder,
    check_depths,
    decoder_channels,
    encode,
    sigmoid_to_depth,
)


def normalize_monodepth2(x):
    """(x - 0.45) / 0.225 in float32, for images in [0, 1]."""
    return (x.astype(jnp.float32) - 0.45) / 0.225


class Monodepth2(nn.Module):
    """A ResNet (`resnet`) and the `DepthDecoder` (`decoder`). In training with mutable=['batch_stats'].

    The decoder has 3,152,724 parameters on 18 layers and 9,014,100 on 50. Its disparities are the sigmoids themselves,
    as released; depth_of knows the range of depths.

    num_layers layers of the ResNet: 18, 34, 50, 101 or 152
    min_depth  depth at a sigmoid of 1
    max_depth  depth at a sigmoid of 0
    width      factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype      of activations; parameters, batch statistics and disparities are float32
    axis_name  mapped axis over which batch statistics are those of the global batch; None: of this device

    Running statistics decay by 0.9 a step and hold the biased variance (torch: the unbiased one), eps is 1e-5.
    """

    num_layers: int = 18
    min_depth: float = 0.1
    max_depth: float = 100.0
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Disparities of an image.

        Args:
          x: [B, H, W, 3] in [0, 1], of any size; multiples of 32 as published.
          train: use the batch's statistics.

        Returns:
          {'disparity': [d_0, .., d_3]}, d_s [B, ceil(H / 2^s), ceil(W / 2^s)] float32, sigmoids.
        """
        check_depths('monodepth2', self.min_depth, self.max_depth)
        image = normalize_monodepth2(x).astype(self.dtype)
        features = encode(image, self.num_layers, self.width, train, self.dtype, self.axis_name)
        decoder = DepthDecoder(decoder_channels(self.width), dtype=self.dtype, name='decoder')
        return {'disparity': decoder(features, x.shape[1:3])}

    def depth_of(self, disparity):
        """sigmoid_to_depth: in [min_depth, max_depth]."""
        return sigmoid_to_depth(disparity, self.min_depth, self.max_depth)
