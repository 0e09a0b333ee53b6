"""A ResNet under a depth and a segmentation decoder, for joint training.

Source: Klingner, Bär, Fingscheidt, Improved Noise and Attack Robustness for Semantic Segmentation
by Using Multi-Task Training with Self-Supervised Depth Estimation, CVPR workshops 2020. The layers
are those of the authors' later SGDepth. For their names see models/backbones/resnet.py and
decoder.py.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from segjax.errors import InputError
from segjax.models.depth.decoder import (
    DepthDecoder,
    SegmentationDecoder,
    check_depths,
    decoder_channels,
    encode,
    sigmoid_to_depth,
)
from segjax.ops import images
from segjax.ops.gradients import scale_gradient


class DepthAndSegmentation(nn.Module):
    """Klingner's net: `resnet` under `depth_decoder` and `segmentation_decoder`.

    Call `net.apply(variables, x, train=...)`, in training with mutable=['batch_stats'].

    The gradients that the two decoders send into the ResNet are multiplied by `gradient_factors`.
    The gradients of the decoders' own parameters are not. So the factors balance the tasks in the
    shared layers only, and the loss is the plain sum.

    num_classes       channels of the logits
    num_layers        layers of the ResNet
    gradient_factors  factors on the gradients of (depth, segmentation). SGDepth was trained with
                      (0.9, 0.1)
    head_bias         initial bias of the depth heads, as in DepthDecoder
    min_depth         depth at a sigmoid of 1
    max_depth         depth at a sigmoid of 0
    width             factor on all inner channels. 1 is the published net
    dtype, axis_name  as in Monodepth2
    """

    num_classes: int
    num_layers: int = 18
    gradient_factors: tuple[float, float] = (0.9, 0.1)
    head_bias: float = 5.0
    min_depth: float = 0.1
    max_depth: float = 100.0
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Returns the disparities and logits of an image.

        Args:
          x: [B, H, W, 3] in [0, 1], of any size. Published: multiples of 32. The net normalises
            it with ImageNet's mean and standard deviation.
          train: use the statistics of the batch.

        Returns:
          {'disparity': as in Monodepth2, 'logits': [B, H, W, num_classes] float32}.
        """
        self._check()
        size = x.shape[1:3]
        channels = decoder_channels(self.width)
        depth = DepthDecoder(
            channels, head_bias=self.head_bias, dtype=self.dtype, name='depth_decoder'
        )
        segmentation = SegmentationDecoder(
            self.num_classes, channels, self.dtype, name='segmentation_decoder'
        )
        for_depth, for_segmentation = self.gradient_factors

        _, _, mean, std = images.SCHEMES['imagenet']
        image = (x.astype(jnp.float32) - np.float32(mean)) / np.float32(std)
        image = image.astype(self.dtype)
        features = encode(image, self.num_layers, self.width, train, self.dtype, self.axis_name)
        disparity = depth([scale_gradient(y, for_depth) for y in features], size)
        logits = segmentation([scale_gradient(y, for_segmentation) for y in features], size)
        return {'disparity': disparity, 'logits': logits}

    def depth_of(self, disparity):
        """Returns the depth in [min_depth, max_depth], see `sigmoid_to_depth`."""
        return sigmoid_to_depth(disparity, self.min_depth, self.max_depth)

    def _check(self) -> None:
        """Raises InputError for an empty range of depths, or another number of factors than two."""
        check_depths('depth_and_segmentation', self.min_depth, self.max_depth)
        if len(self.gradient_factors) != 2:
            raise InputError(
                'depth_and_segmentation: gradient_factors',
                got=repr(self.gradient_factors),
                expected='two factors: of depth, of segmentation',
            )
