"""Discriminator of pairs of a layout and features.

Source: the dense feature generative adversarial network (DFGAN) of the thesis, Sec. 6.2.1 and
Fig. 6.2. Its text fixes atrous pooling of the layout and the concatenation with the features. The
PatchGANs are those of BicycleGAN, whose released form for 128 x 128 pixels has 2 layers of stride
2.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.generators.layout import check_pair, make_layout_encoder
from segjax.models.generators.multiscale import check_scales, judge_scales


class LayoutDiscriminator(nn.Module):
    """Atrous pooling of the layout, and a PatchGAN for each scale of layout and features together.

    stride           factor between the size of the layout and the size of the features: 1, 2, 4, 8
                     or 16
    layout_features  channels after the first block of the layout encoder. They double in each
                     further block
    layout_norm      norms of the layout encoder: 'none', 'instance' (without scale and shift) or
                     'batch'
    num_scales       PatchGANs, each with its own parameters
    num_layers       convolutions of stride 2 of each PatchGAN
    norm             norms of PatchGANs: 'instance' (without scale and shift) or 'batch'
    init_std         standard deviation of the initial kernels of PatchGANs, or their gain with
                     init_kind='xavier'
    width            factor on all channels
    dtype            of activations. Parameters, batch statistics and logits are float32
    axis_name        mapped axis of the devices that share batch statistics. None: not shared
    forms            implementation: 'fast' or 'naive' forms of the same maps, see ops/conv.py
    padding          pixels of zeros around the features, of all convolutions of PatchGANs: 1 or 2
    narrowing        factor on the channels of each scale, compared with the scale before
    norm_bias        whether convolutions in front of a norm of PatchGANs have a bias
    init_kind        initialisation of kernels of PatchGANs: 'xavier' with a gain, or 'normal'
                     N(0, init_std^2)
    zero_bias        initialise biases of PatchGANs as 0 instead of torch's default
    """

    stride: int = 8
    layout_features: int = 64
    layout_norm: str = 'none'
    num_scales: int = 2
    num_layers: int = 2
    norm: str = 'instance'
    init_std: float = 0.02
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None
    forms: str = 'fast'
    padding: int = 1
    narrowing: float = 0.5
    norm_bias: bool = True
    init_kind: str = 'xavier'
    zero_bias: bool = True

    @nn.compact
    def __call__(self, layout, features, train: bool):
        """Returns the features and the realism of the patches of every scale.

        Args:
          layout: [B, H, W, K] floating point, one-hot.
          features: [B, ceil(H / stride), ceil(W / stride), C] floating point.
          train: a batch norm uses the statistics of the batch.

        Returns:
          A tuple for each scale, see MultiscaleDiscriminator.

        Raises:
          InputError: features of another size, or wrong fields.
        """
        where = 'layout_discriminator'
        check_pair(where, layout, features, self.stride)
        check_scales(where, self, features)
        encoded = make_layout_encoder(self, train)(layout.astype(self.dtype))
        pair = jnp.concatenate([encoded, features.astype(self.dtype)], -1)
        return judge_scales(self, pair, train)
