"""Generator of BicycleGAN: a U-Net that gets a latent code at every level of its encoder.

Source: Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman, Toward Multimodal Image-to-Image
Translation, NeurIPS 2017, with the settings of the released code (G_Unet_add_all).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import unknown_name
from segjax.models.generators.unet import UPSAMPLES, check, check_code, finish, make_levels


class LatentUNet(nn.Module):
    """Generator of BicycleGAN.

    The released 'unet_256' has num_downs=8, and 'unet_128' has num_downs=7. An image of 96 x 96
    pixels allows 5 levels. All convolutions have a bias.

    out_channels  channels of the image
    num_downs     halvings of the image. Height and width are multiples of 2^num_downs
    norm          norms: 'instance' (published, without scale and shift) or 'batch'
    dropout       rate in the middle levels, which have 8 times the first channels
    upsample      doubling of images: 'transposed' convolutions, or 'bilinear' with 3x3 convolutions
    output        last operation: 'tanh', or 'linear' for maps of any range
    init_kind     initialisation of kernels: 'xavier' with a gain, or 'normal' N(0, init_std^2)
    init_std      gain of the initial kernels, or their standard deviation with init_kind='normal'
    width         factor on all channels
    forms         implementation: 'fast' or 'naive' forms of the same maps, see ops/conv.py
    dtype         of activations. Parameters, batch statistics and images are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
    """

    out_channels: int
    num_downs: int = 8
    norm: str = 'instance'
    dropout: float = 0.0
    upsample: str = 'transposed'
    output: str = 'tanh'
    init_kind: str = 'xavier'
    init_std: float = 0.02
    width: float = 1.0
    forms: str = 'fast'
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, condition, code, train: bool, keys=None):
        """Returns the image of a condition and a code.

        Args:
          condition: [B, H, W, C] floating point.
          code: [B, n] latent codes of any length n, or [B, h, w, n] where h divides H and w
            divides W.
          train: a batch norm uses the statistics of the batch.
          keys: [B] keys of the dropout, in training and in evaluation. None: no dropout.

        Returns:
          {'image': [B, H, W, out_channels] float32}, in [-1, 1] with output='tanh'.

        Raises:
          InputError: a size that cannot be halved num_downs times, or a wrong shape of the code.
        """
        check('latent_unet', self, condition)
        if self.upsample not in UPSAMPLES:
            raise unknown_name('latent_unet: upsample', self.upsample, UPSAMPLES)
        check_code('latent_unet', code, condition.shape[0], condition.shape[1:3])
        levels = make_levels(self, train, norm_bias=True, skip_first=False, upsample=self.upsample)
        x = levels(condition.astype(self.dtype), code.astype(self.dtype), keys)
        return {'image': finish(x, self.output)}
