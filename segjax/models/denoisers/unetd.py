"""UNetD, the denoiser of DANet.

Source: Yue, Zhao, Zhang, Meng, Dual Adversarial Network: Toward Real-World Noise Removal and Noise
Generation, ECCV 2020, and the authors' release. DANet trains the net against a second generator. He
et al. use the denoiser alone. Names follow the release:

    here                          release
    down_path_0/block_0           down_path.0.block.0
    down_path_0/downsample        down_path.0.downsample
    up_path_0/up                  up_path.0.up
    up_path_0/conv_block/block_2  up_path.0.conv_block.block.2
    last                          last
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.layers import Conv, ConvTranspose, scaled

FEATURES = 32
SLOPE = 0.2


class Block(nn.Module):
    """Two 3x3 convolutions, each followed by a leaky ReLU (0.2).

    features    channels of the output
    downsample  whether a 4x4 convolution without bias follows, which halves the size
    dtype       of activations
    """

    features: int
    downsample: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Returns (the output at half the size, the output), or the output if nothing follows."""
        for i in (0, 2):
            x = Conv(self.features, (3, 3), dtype=self.dtype, name=f'block_{i}')(x)
            x = nn.leaky_relu(x, SLOPE)
        if not self.downsample:
            return x
        down = Conv(
            self.features,
            (4, 4),
            strides=2,
            padding=1,
            use_bias=False,
            dtype=self.dtype,
            name='downsample',
        )
        return down(x), x


class UpBlock(nn.Module):
    """Doubles the size by a 2x2 transposed convolution, and joins the features of the encoder.

    features  channels of the output
    dtype     of activations
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x, skip):
        x = ConvTranspose(self.features, 2, dtype=self.dtype, name='up')(x)
        joined = jnp.concatenate([x, skip], -1)
        return Block(self.features, False, self.dtype, name='conv_block')(joined)


class UNetD(nn.Module):
    """DANet's denoiser: a U-Net without norm that predicts the noise.

    Call `net.apply(variables, maps, train=...)`.

        result = maps - unet(maps)

    Channels double from 32 at full size to 512 at 1 / 16. The initialisation is torch's: the
    release defines an orthogonal initialisation, which the constructor does not call. For 3, 35 and
    49 channels there are 9,153,571, 9,172,035 and 9,180,113 parameters.

    depth      number of sizes. Height and width must be multiples of 2^(depth - 1)
    width      factor on all inner channels. 1 is the published net, smaller factors are for tests
               and small machines
    dtype      of activations. Parameters and the result are float32
    axis_name  unused, because without batch norm examples do not depend on each other
    """

    depth: int = 5
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, maps, train: bool):
        """Returns the maps without noise.

        Args:
          maps: [B, H, W, k] floating point. H and W are multiples of 2^(depth - 1).
          train: changes nothing.

        Returns:
          {'logits': [B, H, W, k] float32 at least}.

        Raises:
          InputError: depth below 1, or a size that cannot be halved depth - 1 times.
        """
        self._check(maps)
        features = [scaled(FEATURES * 2**i, self.width) for i in range(self.depth)]

        # The encoder keeps the features of every size except the smallest.
        x = maps.astype(self.dtype)
        skips = []
        for i in range(self.depth - 1):
            x, skip = Block(features[i], True, self.dtype, name=f'down_path_{i}')(x)
            skips.append(skip)
        x = Block(features[-1], False, self.dtype, name=f'down_path_{self.depth - 1}')(x)

        # The decoder joins them from small to large.
        for i, skip in enumerate(reversed(skips)):
            x = UpBlock(features[-2 - i], self.dtype, name=f'up_path_{i}')(x, skip)
        noise = Conv(maps.shape[-1], (3, 3), dtype=self.dtype, name='last')(x)
        maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
        return {'logits': maps - noise}

    def _check(self, maps) -> None:
        """Raises InputError for no size at all, or a size that cannot be halved."""
        if self.depth < 1:
            raise InputError('unetd: depth', got=str(self.depth), expected='at least 1')
        factor = 2 ** (self.depth - 1)
        height, width = maps.shape[1:3]
        if height % factor or width % factor:
            raise InputError(
                'unetd: input',
                got=f'height {height}, width {width}',
                expected=f'multiples of {factor} for depth={self.depth}',
                fix='crop the maps to such a size, or use a smaller depth',
            )
