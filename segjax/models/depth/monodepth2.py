"""Monodepth2: a ResNet and a depth decoder.

Source: Godard, Mac Aodha, Firman, Brostow, Digging into Self-Supervised Monocular Depth Estimation,
ICCV 2019. For the names of layers see models/backbones/resnet.py and decoder.py.
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
    """Returns (x - 0.45) / 0.225 in float32, for images in [0, 1]."""
    return (x.astype(jnp.float32) - 0.45) / 0.225


class Monodepth2(nn.Module):
    """A ResNet (`resnet`) and a DepthDecoder (`decoder`).

    Call `net.apply(variables, x, train=...)`, in training with mutable=['batch_stats'].

    The decoder has 3,152,724 parameters on 18 layers and 9,014,100 on 50. The disparities are the
    sigmoids themselves, as released. `depth_of` maps them to the range of depths.

    num_layers  layers of the ResNet: 18, 34, 50, 101 or 152
    min_depth   depth at a sigmoid of 1
    max_depth   depth at a sigmoid of 0
    width       factor on all inner channels. 1 is the published net, smaller factors are for tests
                and small machines
    dtype       of activations. Parameters, batch statistics and disparities are float32
    axis_name   mapped axis of the devices that share batch statistics. None: not shared

    Batch norms have epsilon 1e-5. Running statistics decay by 0.9 a step and hold the biased
    variance (torch: the unbiased variance).
    """

    num_layers: int = 18
    min_depth: float = 0.1
    max_depth: float = 100.0
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Returns the disparities of an image.

        Args:
          x: [B, H, W, 3] in [0, 1], of any size. Published: multiples of 32.
          train: use the statistics of the batch.

        Returns:
          {'disparity': [d_0, .., d_3]}, d_s [B, ceil(H / 2^s), ceil(W / 2^s)] float32, sigmoids.
        """
        check_depths('monodepth2', self.min_depth, self.max_depth)
        image = normalize_monodepth2(x)
        image = image.astype(self.dtype)
        features = encode(image, self.num_layers, self.width, train, self.dtype, self.axis_name)
        decoder = DepthDecoder(decoder_channels(self.width), dtype=self.dtype, name='decoder')
        return {'disparity': decoder(features, x.shape[1:3])}

    def depth_of(self, disparity):
        """Returns the depth in [min_depth, max_depth], see `sigmoid_to_depth`."""
        return sigmoid_to_depth(disparity, self.min_depth, self.max_depth)
