"""Shape classifier: an EfficientNet behind a gated convolution, on two binary planes.

Source: Sec. 3.3 of the paper on Denoise Activation for semantic inpainting of segmentation maps.
Its metric Sem (metrics/sem.py) compares the classes that this net assigns to two shapes. The paper
has an EfficientNet-B7 with published weights and adds a gated convolution "at the first layer",
which has two readings:

    front  A gated convolution maps the two planes to three channels at full size. EfficientNet
           follows unchanged, so all its published weights can be loaded
    stem   A gated convolution replaces the first convolution, at stride 2. An import of published
           weights leaves it out with init_from.nets=('(?!.*conv_stem)',)
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import unknown_name
from segjax.models.backbones.efficientnet import EfficientNet
from segjax.models.layers import GatedConv

GATED = ('front', 'stem')
"""Places of the gated convolution."""

IMAGE_CHANNELS = 3
"""Channels that published weights of EfficientNet expect."""


class ShapeClassifier(nn.Module):
    """Classifier of shapes.

    Call `net.apply(variables, x, train=...)`, in training with rngs={'dropout': key} and
    mutable=['batch_stats']. The stream 'dropout' serves dropout and drop-connect.

    num_classes   channels of the logits
    backbone      EfficientNet: 'b0' to 'b7', or 'lite0' to 'lite4'
    gated         place of the gated convolution: 'front' of the net, or in place of its 'stem'
    padding       borders: 'same' or 'symmetric', as the published weights have them
    dropout       rate in front of the last layer. A negative rate stands for that of the backbone
    drop_connect  rate at which the last block drops its branch for an example in training
    norm_decay    decay of the running statistics of all batch norms, a step
    norm_epsilon  constant that all batch norms add to the variance
    frozen_norm   use the running statistics in training
    width         factor on all inner channels. 1 is the published net
    forms         implementation: 'fast' or 'naive' forms of the depthwise convolutions
    dtype         of activations. Parameters, batch statistics and logits are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
    """

    num_classes: int
    backbone: str = 'lite0'
    gated: str = 'front'
    padding: str = 'same'
    dropout: float = -1.0
    drop_connect: float = 0.2
    norm_decay: float = 0.99
    norm_epsilon: float = 1e-3
    frozen_norm: bool = False
    width: float = 1.0
    forms: str = 'fast'
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Returns the logits of a shape.

        Args:
          x: [B, H, W, 2] floating point: the object as 0 and 1, and the box around it as 0 and 1.
            Any size and any number of planes works.
          train: use the statistics of the batch, dropout and drop-connect.

        Returns:
          {'logits': [B, num_classes] float32}.

        Raises:
          InputError: an unknown `gated`, `backbone` or `padding`, or a rate of 1 or more.
        """
        if self.gated not in GATED:
            raise unknown_name('shape_classifier: gated', self.gated, GATED)
        gated_conv = functools.partial(GatedConv, dtype=self.dtype)
        if self.gated == 'front':
            x = gated_conv(IMAGE_CHANNELS, (3, 3), name='gate')(x)  # [B, H, W, 3]

        classify = EfficientNet(
            self.num_classes,
            variant=self.backbone,
            padding=self.padding,
            dropout=self.dropout if self.dropout >= 0 else None,
            drop_connect=self.drop_connect,
            stem=gated_conv if self.gated == 'stem' else None,
            norm_decay=self.norm_decay,
            norm_epsilon=self.norm_epsilon,
            frozen_norm=self.frozen_norm,
            width=self.width,
            forms=self.forms,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name='net',
        )
        return classify(x, train=train)
