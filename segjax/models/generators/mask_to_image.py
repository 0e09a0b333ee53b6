"""Generator that paints a box of an image by its label map, and keeps the image outside the box.

Source: Hong, Yan, Huang, Lee, Learning Hierarchical Semantic Image Manipulation through Structured
Representations, NeurIPS 2018: the image generator, with the settings of the released code.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.generators.blocks import (
    Decoder,
    Encoder,
    ImageHead,
    ResidualBlock,
    check_size,
    make_layers,
)
from segjax.models.layers import scaled
from segjax.ops.pool import max_pool

FEATURES = 64
"""Channels at the size of the image. They double at each halving."""


class MaskToImage(nn.Module):
    """Image encoder and layout encoder, which are joined by the box, and a decoder.

        features = (1 - m) encoder(image outside the box) + m encoder(layout)
        result = (1 - mask) image + mask tanh(decoder(residual blocks(features)))

    m is the mask at the smallest size, 1 where a window of the mask holds a 1. The decoder also
    reads the image encoder at all sizes between. The image inside the box is never read. Kernels
    are initialised as N(0, init_std^2), biases as torch's defaults.

    out_channels  channels of the image
    halvings      convolutions of stride 2. Height and width are multiples of 2^halvings
    blocks        residual blocks at the smallest size
    norm          norms: 'instance' (published, without scale and shift) or 'batch'
    init_std      standard deviation of the initial kernels
    width         factor on all channels
    dtype         of activations. Parameters, batch statistics and images are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
    """

    out_channels: int
    halvings: int = 4
    blocks: int = 9
    norm: str = 'instance'
    init_std: float = 0.02
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image, layout, mask, train: bool):
        """Returns the image with a painted box.

        Args:
          image: [B, H, W, out_channels] floating point in [-1, 1].
          layout: [B, H, W, K] one-hot label map.
          mask: [B, H, W, 1], 1 inside the box and 0 outside.
          train: a batch norm uses the statistics of the batch.

        Returns:
          {'image': [B, H, W, out_channels] float32 in [-1, 1]}. Outside the box it is the image.

        Raises:
          InputError: the size does not suit the halvings, or the channels of the image differ from
            out_channels.
        """
        check_size('mask_to_image', image, 2**self.halvings)
        if image.shape[-1] != self.out_channels:
            raise InputError(
                'mask_to_image: image',
                got=f'{image.shape[-1]} channels',
                expected=f'{self.out_channels} channels (out_channels)',
            )
        conv, conv_transpose, norm = make_layers(self, train)
        features = scaled(FEATURES, self.width)
        image = image.astype(jnp.float32)
        mask = mask.astype(jnp.float32)

        # Both encoders, joined at the smallest size.
        outside = (1 - mask) * image
        maps = Encoder(features, self.halvings, conv, norm, name='image_encoder')(outside)
        layout_encoder = Encoder(features, self.halvings, conv, norm, name='layout_encoder')
        of_layout = layout_encoder(layout)[-1]
        inside = max_pool(mask, 2**self.halvings, 2**self.halvings).astype(self.dtype)
        x = (1 - inside) * maps[-1] + inside * of_layout

        # The decoder gets the maps between the smallest size and the full size.
        for i in range(self.blocks):
            x = ResidualBlock(conv, norm, name=f'block_{i}')(x)
        decoder = Decoder(features, self.halvings, conv_transpose, norm, name='decoder')
        x = decoder(x, skips=maps[-2:0:-1])
        painted = ImageHead(self.out_channels, conv, name='head')(x)
        return {'image': outside + mask * painted}
