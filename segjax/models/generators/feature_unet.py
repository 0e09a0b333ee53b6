"""Generator of features: an encoder of the layout, and a U-Net with a latent code at every level.

Source: the dense feature generative adversarial network (DFGAN) of the thesis, Sec. 6.2.1 and
Fig. 6.2. The U-Net is the generator of BicycleGAN (latent_unet.py). Features are the values of a
net before a ReLU, so the output is linear. The caller standardises them.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import unknown_name
from segjax.models.generators.layout import encoded_size, make_layout_encoder, shrink_layout
from segjax.models.generators.unet import UPSAMPLES, check_code, check_fields, finish, make_levels
from segjax.ops import resize

ENCODERS = ('atrous', 'resize')
"""Names of the ways from a layout to the input of the U-Net."""


def pad_to_multiple(x, multiple: int):
    """Repeats the last row and the last column of [B, H, W, C] up to multiples of a number."""
    below = -x.shape[1] % multiple
    right = -x.shape[2] % multiple
    return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), mode='edge')


class FeatureUNet(nn.Module):
    """Generator of the dense features of a layout.

    Features of [H, W] pixels have ceil(H / stride) rows and ceil(W / stride) columns. The U-Net
    repeats the last row and column up to multiples of 2^num_downs, and its result is cropped: with
    num_downs=5, 90 become 96 and again 90. All convolutions have a bias.

    out_channels     channels of the features
    stride           factor between the size of the layout and the size of the features: 1, 2, 4, 8
                     or 16
    encoder          way from the layout to the U-Net: 'atrous' pooling in halvings, or 'resize'
                     without parameters, as the rival of Table 6.2 of the thesis
    shrink           operation of encoder='resize': 'average' of the one-hot layout around each
                     feature, or 'nearest'
    layout_features  channels after the first block of the layout encoder. They double in each
                     further block
    layout_norm      norms of the layout encoder: 'none', 'instance' (without scale and shift) or
                     'batch'
    num_downs        halvings of the features in the U-Net
    norm             norms of the U-Net: 'instance' (without scale and shift) or 'batch'
    dropout          rate in the levels 4 and higher of the U-Net
    upsample         doubling of maps: 'transposed' convolutions, or 'bilinear' with 3x3
                     convolutions
    output           last operation: 'linear', or 'tanh' for images in [-1, 1]
    init_kind        initialisation of kernels of the U-Net: 'xavier' with a gain, or 'normal'
                     N(0, init_std^2)
    init_std         gain of the initial kernels, or their standard deviation with
                     init_kind='normal'
    width            factor on all channels
    forms            implementation: 'fast' or 'naive' forms of the same maps, see ops/conv.py
    dtype            of activations. Parameters, batch statistics and features are float32
    axis_name        mapped axis of the devices that share batch statistics. None: not shared
    """

    out_channels: int
    stride: int = 8
    encoder: str = 'atrous'
    shrink: str = 'average'
    layout_features: int = 64
    layout_norm: str = 'none'
    num_downs: int = 5
    norm: str = 'instance'
    dropout: float = 0.0
    upsample: str = 'transposed'
    output: str = 'linear'
    init_kind: str = 'xavier'
    init_std: float = 0.02
    width: float = 1.0
    forms: str = 'fast'
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, condition, code, train: bool, keys=None):
        """Returns the features of a layout and a code.

        Args:
          condition: [B, H, W, K] floating point, the one-hot layout.
          code: [B, n] latent codes of any length n, or [B, u, v, n] where u divides the rows and v
            divides the columns of the features.
          train: a batch norm uses the statistics of the batch.
          keys: [B] keys of the dropout, in training and in evaluation. None: no dropout.

        Returns:
          {'image': [B, ceil(H / stride), ceil(W / stride), out_channels] float32}.

        Raises:
          InputError: wrong fields, or a wrong shape of the code.
        """
        rows = condition.shape[0]
        size = encoded_size(*condition.shape[1:3], self.stride)
        self._check(rows, size, code)

        # The layout at the size of the features.
        x = condition.astype(self.dtype)
        if self.encoder == 'atrous':
            x = make_layout_encoder(self, train)(x)
        else:
            x = shrink_layout(x, self.stride, self.shrink)

        # Whole pixels at all levels. A map of codes keeps its place on the features.
        multiple = 2**self.num_downs
        x = pad_to_multiple(x, multiple)
        code = code.astype(self.dtype)
        if code.ndim == 4:
            code = pad_to_multiple(resize.nearest(code, size), multiple)

        levels = make_levels(self, train, norm_bias=True, skip_first=False, upsample=self.upsample)
        x = levels(x, code, keys)
        x = x[:, : size[0], : size[1]]
        return {'image': finish(x, self.output)}

    def _check(self, rows: int, size: tuple[int, int], code) -> None:
        """Raises InputError for fields and codes that the net cannot use."""
        where = 'feature_unet'
        check_fields(where, self, smallest_depth=1)
        for name, value, names in (
            ('encoder', self.encoder, ENCODERS),
            ('upsample', self.upsample, UPSAMPLES),
        ):
            if value not in names:
                raise unknown_name(f'{where}: {name}', value, names)
        check_code(where, code, rows, size)
