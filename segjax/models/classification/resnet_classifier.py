"""Classifier of maps: a ResNet, the mean over its last features, and a linear layer.

It is the attack net of membership inference: ResNet-50 from scratch with three 3x3 convolutions as
stem. The last two stages keep the output stride at 8, without dilation. So a patch of 90x90 has
12x12 features. Their weighted sum is the class activation map of the net.

Sources: He, Rahimian, Schiele, Fritz: Segmentations-Leak, ECCV 2020, and its released code. He,
thesis, Sec. 7.4. Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.backbones.resnet import make_resnet
from segjax.models.layers import batch_norm, uniform_fan


class ResNetClassifier(nn.Module):
    """Classifier with a ResNet, for inputs with any number of channels.

    Call `net.apply(variables, x, train=...)`, in training with mutable=['batch_stats'].

    num_classes    channels of the logits
    num_layers     layers of the ResNet: 18, 34, 50, 101 or 152
    stem           first convolutions of the ResNet: '7x7', or '3x3' for three smaller convolutions
    output_stride  stride of the last features: 32, 16 or 8
    dilated        dilate the stages that lose their stride. The published attack net does not
    frozen_norm    use the running statistics in training
    width          factor on all inner channels. 1 is the published net
    dtype          of activations. Parameters, batch statistics and logits are float32
    axis_name      mapped axis of the devices that share batch statistics. None: not shared
    """

    num_classes: int
    num_layers: int = 50
    stem: str = '3x3'
    output_stride: int = 8
    dilated: bool = False
    frozen_norm: bool = False
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Returns the logits of maps.

        Args:
          x: [B, H, W, C] floating point.
          train: use the statistics of the batch.

        Returns:
          {'logits': [B, num_classes] float32, 'activation': [B, h, w, num_classes] float32}. The
          logits are the means of the class activation maps, plus a bias.
        """
        norm = batch_norm(
            train, frozen=self.frozen_norm, dtype=self.dtype, axis_name=self.axis_name
        )
        backbone = make_resnet(
            self.num_layers,
            norm,
            self.dtype,
            None,
            stem=self.stem,
            output_stride=self.output_stride,
            dilated=self.dilated,
            width=self.width,
        )
        stages, _ = backbone(x.astype(self.dtype))
        features = stages['layer4']  # [B, h, w, D]

        # A linear layer and a mean may change places.
        init = uniform_fan(features.shape[-1])
        classifier = nn.Dense(
            self.num_classes, use_bias=False, kernel_init=init, dtype=self.dtype, name='fc'
        )
        bias = self.param('bias', init, (self.num_classes,), jnp.float32)
        activation = classifier(features).astype(jnp.float32)
        return {'logits': activation.mean((1, 2)) + bias, 'activation': activation}
