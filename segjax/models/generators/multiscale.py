"""Conditional discriminator of pix2pixHD: PatchGANs on an image pyramid, with all their features.

Source: Wang et al., High-Resolution Image Synthesis and Semantic Manipulation with Conditional
GANs, CVPR 2018, Sec. 3.2. Hong et al. (NeurIPS 2018) judge the object map of their net by it.

PIX2PIX_FIELDS make it the discriminator of pix2pix (Isola et al. 2017), as released. BICYCLE_FIELDS
make it the discriminator of BicycleGAN (Zhu et al. 2017).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.generators.blocks import make_init, make_norm
from segjax.models.generators.patchgan import SLOPE, Conv
from segjax.models.layers import normal, scaled
from segjax.ops.pool import average_pool

FEATURES = 64
"""Channels after the first convolution. They double up to 8 times as many."""

PIX2PIX_FIELDS = {
    'num_scales': 1,
    'padding': 1,
    'norm': 'batch',
    'norm_bias': False,
    'zero_bias': True,
}
"""Fields of the discriminator of pix2pix: a single PatchGAN with batch norms."""
BICYCLE_FIELDS = {'padding': 1, 'narrowing': 0.5, 'init_kind': 'xavier', 'zero_bias': True}
"""Fields of the discriminator of BicycleGAN, whose second PatchGAN has half of the channels."""


def output_size(
    height: int, width: int, num_layers: int, scale: int = 0, padding: int = 2
) -> tuple[int, int]:
    """Returns (h, w) of the logits of a scale, e.g. (35, 35) for 256 x 256 pixels and 3 layers.

    With a padding of 1 they are (30, 30).

    Args:
      height: H of the input.
      width: W of the input.
      num_layers: convolutions of stride 2.
      scale: number of halvings of the input in front of the convolutions.
      padding: of the convolutions, 1 or 2.
    """
    sizes = []
    for pixels in (height, width):
        for _ in range(scale):
            pixels = (pixels + 1) // 2
        for _ in range(num_layers):
            pixels = pixels // 2 + padding - 1
        sizes.append(pixels + 2 * (2 * padding - 3))
    return tuple(sizes)


class Patches(nn.Module):
    """PatchGAN that returns the features of all its layers.

    features    channels after the first convolution
    num_layers  convolutions of stride 2
    conv        makes the 4x4 convolutions: conv(features, strides, use_bias=, name=)
    norm        makes the norms: norm(name=)
    norm_bias   whether the convolutions in front of a norm have a bias
    """

    features: int
    num_layers: int
    conv: Callable
    norm: Callable
    norm_bias: bool = True

    @nn.compact
    def __call__(self, x):
        """Returns the features after each leaky ReLU, and last the logits.

        Args:
          x: [B, H, W, C].

        Returns:
          num_layers + 2 maps. The logits are [B, h, w, 1] float32, see `output_size`.
        """
        maps = []
        for i in range(self.num_layers + 1):
            strides = 2 if i < self.num_layers else 1
            features = self.features * min(2**i, 8)
            use_bias = i == 0 or self.norm_bias
            x = self.conv(features, strides, use_bias=use_bias, name=f'conv_{i}')(x)
            if i > 0:
                x = self.norm(name=f'norm_{i}')(x)
            x = nn.leaky_relu(x, SLOPE)
            maps.append(x)
        logits = self.conv(1, 1, name=f'conv_{self.num_layers + 1}')(x)
        return (*maps, logits.astype(jnp.float32))


def judge_scales(net: nn.Module, x, train: bool) -> tuple:
    """Returns the features and the realism of the patches of every scale.

    The PatchGANs `scale_0`, `scale_1`, .. become parts of the net. It is called inside of the
    `__call__` of the net.

    Args:
      net: has the fields of MultiscaleDiscriminator.
      x: [B, H, W, C], in the dtype of activations.
      train: a batch norm uses the statistics of the batch.

    Returns:
      A tuple for each scale, see MultiscaleDiscriminator.
    """
    conv = functools.partial(
        Conv,
        init_std=net.init_std,
        kernel_init=make_init(net.init_kind, net.init_std),
        dtype=net.dtype,
        forms=net.forms,
        padding=net.padding,
        bias_init=nn.initializers.zeros if net.zero_bias else None,
    )
    norm = make_norm(
        net.norm,
        train,
        scale_init=normal(net.init_std, mean=1.0),
        dtype=net.dtype,
        axis_name=net.axis_name,
    )

    # Every scale halves the input of the scale before.
    outputs = []
    for i in range(net.num_scales):
        if i > 0:
            x = average_pool(x, 3, strides=2, padding=1)
        features = scaled(FEATURES, net.width * net.narrowing**i)
        patches = Patches(features, net.num_layers, conv, norm, net.norm_bias, name=f'scale_{i}')
        outputs.append(patches(x))
    return tuple(outputs)


def check_scales(where: str, net: nn.Module, x) -> None:
    """Raises InputError for no scale, no layer, a wrong padding, or too small an image.

    Args:
      where: name of the net.
      net: has the fields num_scales, num_layers and padding.
      x: [B, H, W, C] that the first scale judges.
    """
    for name in ('num_scales', 'num_layers'):
        if getattr(net, name) < 1:
            raise InputError(f'{where}: {name}', got=str(getattr(net, name)), expected='at least 1')
    if net.padding not in (1, 2):
        raise InputError(f'{where}: padding', got=str(net.padding), expected='1 or 2')
    height, width = x.shape[1:3]
    last = net.num_scales - 1
    if min(output_size(height, width, net.num_layers, last, net.padding)) < 1:
        raise InputError(
            f'{where}: input',
            got=f'height {height}, width {width}',
            expected=f'at least a logit at scale {last} of {net.num_layers} layers',
            fix='use larger images, fewer layers or fewer scales',
        )


class MultiscaleDiscriminator(nn.Module):
    """A PatchGAN for each scale of the input: `scale_0` judges the full size, `scale_1` half of it.

    The input is halved by averages over 3x3 pixels. Scales of batch norms are initialised as
    N(1, init_std^2).

    num_scales  PatchGANs, each with its own parameters
    num_layers  convolutions of stride 2 of each PatchGAN
    norm        norms in front of all leaky ReLUs but the first: 'instance' (without scale and
                shift) or 'batch'
    init_std    standard deviation of the initial kernels, or their gain with init_kind='xavier'
    width       factor on all channels
    dtype       of activations. Parameters, batch statistics and logits are float32
    axis_name   mapped axis of the devices that share batch statistics. None: not shared
    forms       implementation: 'fast' or 'naive' forms of the same maps, see ops/conv.py
    padding     pixels of zeros around the image, of all convolutions: 2, or 1 as in pix2pix
    narrowing   factor on the channels of each scale, compared with the scale before. BicycleGAN
                has 0.5
    norm_bias   whether convolutions in front of a norm have a bias
    init_kind   initialisation of kernels: 'normal' N(0, init_std^2), or 'xavier' with a gain
    zero_bias   initialise biases as 0 instead of torch's default
    """

    num_scales: int = 2
    num_layers: int = 3
    norm: str = 'instance'
    init_std: float = 0.02
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None
    forms: str = 'fast'
    padding: int = 2
    narrowing: float = 1.0
    norm_bias: bool = True
    init_kind: str = 'normal'
    zero_bias: bool = False

    @nn.compact
    def __call__(self, x, train: bool, gate=None):
        """Returns the features and the realism of the patches of every scale.

        Args:
          x: [B, H, W, C] floating point: the condition and the judged map.
          train: a batch norm uses the statistics of the batch.
          gate: [B, H, W, 1] factor on all channels of x, 0 where nothing is judged. None: 1.

        Returns:
          A tuple for each scale, the full size first: the features of each layer, and last the
          logits [B, h, w, 1] float32 without a sigmoid.
        """
        check_scales('multiscale discriminator', self, x)
        x = x.astype(self.dtype)
        if gate is not None:
            x = x * gate.astype(self.dtype)
        return judge_scales(self, x, train)
