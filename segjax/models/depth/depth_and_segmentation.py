"""A ResNet under a depth and a segmentation decoder, for joint training.

Source: Klingner, Bär, Fingscheidt, Improved Noise and Attack Robustness for Semantic Segmentation by
Using Multi-Task Training with Self-Supervised Depth Estimation, CVPR workshops 2020. The layers are
those of the authors' later SGDepth.
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

    The gradients that the two decoders send into the ResNet are multiplied by `gradient_factors`; their own gradients
    are not. So the balance of the tasks is one of the shared layers alone, and the loss is the plain sum.

    num_classes       channels of the logits
    num_layers        layers of the ResNet
    gradient_factors  (of the depth decoder, of the segmentation decoder); SGDepth trained with (0.9, 0.1)
    head_bias         start of the depth heads' biases beside torch's, as DepthDecoder
    others            as in Monodepth2
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
        """Disparities and logits of images.

        Args:
          x: [B, H, W, 3] in [0, 1], of any size; multiples of 32 as published. Normalised inside with ImageNet's mean
            and standard deviation.
          train: use the batch's statistics.

        Returns:
          {'disparity': as of Monodepth2, 'logits': [B, H, W, num_classes] float32}.
        """
        check_depths('depth_and_segmentation', self.min_depth, self.max_depth)
        if len(self.gradient_factors) != 2:
            raise InputError(
                'depth_and_segmentation: gradient_factors',
                got=repr(self.gradient_factors),
                expected='two factors: of depth, of segmentation',
            )
        _, _, mean, std = images.SCHEMES['imagenet']
        image = ((x.astype(jnp.float32) - np.float32(mean)) / np.float32(std)).astype(self.dtype)
        features = encode(image, self.num_layers, self.width, train, self.dtype, self.axis_name)

        def shared(factor):
            return [scale_gradient(y, factor) for y in features]

        channels, size = decoder_channels(self.width), x.shape[1:3]
        depth = DepthDecoder(
            channels, head_bias=self.head_bias, dtype=self.dtype, name='depth_decoder'
        )
        segmentation = SegmentationDecoder(
            self.num_classes, channels, self.dtype, name='segmentation_decoder'
        )
        for_depth, for_segmentation = self.gradient_factors
        return {
            'disparity': depth(shared(for_depth), size),
            'logits': segmentation(shared(for_segmentation), size),
        }

    def depth_of(self, disparity):
        """sigmoid_to_depth: in [min_depth, max_depth]."""
        return sigmoid_to_depth(disparity, self.min_depth, self.max_depth)
