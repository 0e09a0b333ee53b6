"""ADNet, an attention-guided denoiser.

Source: Tian, Xu, Li, Zuo, Fei, Liu, Attention-Guided CNN for Image Denoising, Neural Networks 2020,
and the authors' release. He et al. call the net ADCNN. Names follow the release:

    here            release
    conv1_1_0       conv1_1.0       convolution
    conv1_1_1       conv1_1.1       batch norm
    conv1_16        conv1_16
    conv3           conv3
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.layers import Conv, batch_norm, normal, scaled

FEATURES = 64
NUM_LAYERS = 16
DILATED = (2, 5, 9, 12)
"""Numbers of the layers with dilation 2, counted from 1."""
SMALLEST_SCALE = 0.025
INITIAL_VARIANCE = 0.01


def scale_init(std: float):
    """Returns the initialiser of the batch norms' scales: N(0, std^2) away from 0.

    Values below 0.025 in magnitude become 0.025 or -0.025, with their sign.
    """

    def init(key, shape, dtype=jnp.float32):
        value = normal(std)(key, shape, dtype)
        above = jnp.maximum(value, SMALLEST_SCALE)
        below = jnp.minimum(value, -SMALLEST_SCALE)
        return jnp.where(value >= 0, above, below)

    return init


class BatchNorm(nn.BatchNorm):
    """Batch norm whose running variance starts at 0.01, see flax.linen.BatchNorm."""

    @nn.nowrap
    def variable(self, col, name, init_fn=None, *init_args, **init_kwargs):
        """Returns a variable of flax, of which 'var' starts at 0.01."""
        if name == 'var':
            init_fn = functools.partial(jnp.full, fill_value=INITIAL_VARIANCE, dtype=jnp.float32)
        return super().variable(col, name, init_fn, *init_args, **init_kwargs)


class ADNet(nn.Module):
    """ADNet: 16 convolutions, some of them dilated, and an attention to their output.

    Call `net.apply(variables, maps, train=...)`.

        f = conv_16(relu(bn(conv_15(... maps))))
        a = conv_1x1(tanh(concat(maps, f)))
        result = maps - a f

    The 3x3 convolutions have no bias. Kernels and scales of batch norms are initialised as
    N(0, 2 / (9 n)) with n channels inside. Scales keep a distance of 0.025 from 0. For 3, 35 and 49
    channels there are 521,493, 560,821 and 579,315 parameters.

    Batch norms have epsilon 1e-5. Running statistics decay by 0.9 a step and hold the biased
    variance (torch: the unbiased variance).

    width      factor on the 64 inner channels. 1 is the published net, smaller factors are for
               tests and small machines
    dtype      of activations. Parameters, batch statistics and the result are float32
    axis_name  mapped axis of the devices that share batch statistics. None: not shared
    """

    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, maps, train: bool):
        """Returns the maps without noise.

        Args:
          maps: [B, H, W, k] floating point.
          train: use the statistics of the batch.

        Returns:
          {'logits': [B, H, W, k] float32 at least}.
        """
        channels = maps.shape[-1]
        features = scaled(FEATURES, self.width)
        std = (2 / (9 * features)) ** 0.5
        conv = functools.partial(Conv, kernel_init=normal(std), dtype=self.dtype)
        settings = batch_norm(
            train, scale_init=scale_init(std), dtype=self.dtype, axis_name=self.axis_name
        ).keywords

        # The noise.
        x = maps.astype(self.dtype)
        y = x
        for layer in range(1, NUM_LAYERS):
            dilation = 2 if layer in DILATED else 1
            name = f'conv1_{layer}'
            y = conv(features, (3, 3), dilation=dilation, use_bias=False, name=f'{name}_0')(y)
            y = BatchNorm(**settings, name=f'{name}_1')(y)
            y = nn.relu(y)
        noise = conv(channels, (3, 3), use_bias=False, name=f'conv1_{NUM_LAYERS}')(y)

        # The attention chooses how much of the noise leaves each channel.
        both = jnp.concatenate([x, noise], -1)
        attention = conv(channels, (1, 1), name='conv3')(nn.tanh(both))
        removed = attention * noise
        maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
        return {'logits': maps - removed}
