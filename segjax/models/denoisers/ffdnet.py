"""FFDNet, a denoiser at half the size that is told the level of the noise.

Source: Zhang, Zuo, Zhang, FFDNet: Toward a Fast and Flexible Solution for CNN based Image
Denoising, IEEE Transactions on Image Processing 2018, and the authors' release KAIR. Names follow
the release: `model.0` is `model_0`, `model.2` is `model_2`, ...

The release orders the 4 k channels of a block as (channel, row, column). Here the order is (row,
column, channel), as in `ops.conv.depth_to_space`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.layers import Conv, scaled
from segjax.ops.conv import depth_to_space, space_to_depth


class FFDNet(nn.Module):
    """FFDNet: convolutions with ReLUs at half the size, without norm and residual.

    Call `net.apply(variables, maps, train=..., noise_level=...)`.

    Blocks of 2x2 pixels become channels. A channel with the noise level joins them. An odd size is
    first made even by repeating the last row or column. Kernels are initialised as orthogonal
    matrices times `init_gain`, biases as 0. For 3, 35 and 49 channels there are 852,108, 1,073,420
    and 1,170,244 parameters. The published net for grey images has 64 features and 15 layers.

    features     number of inner channels
    num_layers   number of convolutions, at least 2
    noise_level  level of the noise in the units of the maps, which is undefined for label maps
    learn_level  whether the level is a trained parameter that starts at `noise_level`
    init_gain    factor on the orthogonal kernels of the initialisation. The released 0.2 makes the
                 first outputs of a deep net tiny, about 1e-11
    width        factor on the inner channels. 1 is the published net, smaller factors are for tests
                 and small machines
    dtype        of activations. Parameters and the result are float32
    axis_name    unused, because without batch norm examples do not depend on each other
    """

    features: int = 96
    num_layers: int = 12
    noise_level: float = 0.1
    learn_level: bool = False
    init_gain: float = 0.2
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, maps, train: bool, noise_level=None):
        """Returns the maps without noise.

        Args:
          maps: [B, H, W, k] floating point, of any size.
          train: changes nothing.
          noise_level: a number, or [B] a number for each example. None: the level of the fields.

        Returns:
          {'logits': [B, H, W, k] float32 at least}.

        Raises:
          InputError: fewer than two layers.
        """
        if self.num_layers < 2:
            raise InputError('ffdnet: num_layers', got=str(self.num_layers), expected='at least 2')
        batch, height, width, channels = maps.shape

        # The pixels of each block, and the level, at half the size.
        x = maps.astype(self.dtype)
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')
        x = space_to_depth(x, 2)
        level = jnp.asarray(self._level(noise_level), self.dtype)
        level = jnp.broadcast_to(level.reshape(-1, 1, 1, 1), (batch, *x.shape[1:3], 1))
        x = jnp.concatenate([x, level], -1)

        # A ReLU follows every convolution except the last.
        features = scaled(self.features, self.width)
        for i in range(self.num_layers - 1):
            x = self._conv(features, i)(x)
            x = nn.relu(x)
        x = self._conv(4 * channels, self.num_layers - 1)(x)

        x = depth_to_space(x, 2)[:, :height, :width]
        return {'logits': x.astype(jnp.promote_types(x.dtype, jnp.float32))}

    def _level(self, noise_level):
        """Returns the argument, or else the level that the fields define."""
        learned = None
        if self.learn_level:
            init = nn.initializers.constant(self.noise_level)
            learned = self.param('level', init, (), jnp.float32)
        if noise_level is not None:
            return noise_level
        return self.noise_level if learned is None else learned

    def _conv(self, features: int, i: int) -> Conv:
        """Returns the 3x3 convolution at a position, counted from 0."""
        return Conv(
            features,
            (3, 3),
            kernel_init=nn.initializers.orthogonal(self.init_gain),
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
            name=f'model_{2 * i}',
        )
