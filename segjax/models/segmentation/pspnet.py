"""PSPNet: a dilated ResNet whose last features are joined by their averages over grids of cells.

Source: Zhao, Shi, Qi, Wang, Jia, Pyramid Scene Parsing Network, CVPR 2017. Layers and names follow
the PyTorch release (semseg): `ppm.features.0.1` there is `ppm/features_0_1` here. For the backbone
see models/backbones/resnet.py.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError
from segjax.models.backbones.resnet import make_resnet
from segjax.models.layers import Conv, batch_norm, scaled
from segjax.ops import resize
from segjax.ops.pool import adaptive_average_pool

OUTPUT_STRIDE = 8


class PyramidPooling(nn.Module):
    """The input, and its means over b x b cells for each b of `bins`.

    Every mean map passes a 1x1 convolution to C / len(bins) channels, batch norm and ReLU. It is
    enlarged bilinearly with aligned corners. (The Caffe release concatenates the maps in the
    opposite order.)

    bins  numbers of cells along an axis
    conv  makes a convolution: conv(features, kernel_size, use_bias=, name=)
    norm  makes a batch norm: norm(name=)
    """

    bins: tuple[int, ...]
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        """Maps [B, h, w, C] to [B, h, w, 2 C]."""
        channels = x.shape[-1] // len(self.bins)
        maps = [x]
        for i, bins in enumerate(self.bins):
            y = adaptive_average_pool(x, bins)  # [B, bins, bins, C]
            y = self.conv(channels, (1, 1), use_bias=False, name=f'features_{i}_1')(y)
            y = self.norm(name=f'features_{i}_2')(y)
            y = nn.relu(y)
            y = resize.bilinear(y, x.shape[1:3], align_corners=True)
            maps.append(y)
        return jnp.concatenate(maps, -1)


class PSPNet(nn.Module):
    """PSPNet.

    Call `net.apply(variables, x, train=...)`, in training with rngs={'dropout': key} and
    mutable=['batch_stats'].

    num_classes   channels of the logits
    num_layers    layers of the ResNet: 18, 34, 50, 101 or 152. Published: 50 and 101
    bins          cells of the pyramid's grids
    dropout       rate of channel dropout in front of both classifiers
    aux_head      a second classifier on layer3, outputs['aux']['layer3'], published with a loss
                  weight of 0.4
    taps          names of inner tensors to return under outputs['features']
                  (models/backbones/resnet.py)
    frozen_norm   use the running statistics in training
    width         factor on all inner channels. 1 is the published net, smaller factors are for
                  tests and small machines
    dtype         of activations. Parameters, batch statistics and logits are float32
    axis_name     mapped axis of the devices that share batch statistics. None: not shared
    dilated_conv  makes the dilated 3x3 convolutions of layer3 and layer4, called as
                  models.layers.Conv is, with features, kernel_size, dilation, use_bias,
                  kernel_init, dtype and name. None: models.layers.Conv

    Batch norms have epsilon 1e-5. Running statistics decay by 0.9 a step and hold the biased
    variance (torch: the unbiased variance).
    """

    num_classes: int
    num_layers: int = 50
    bins: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.1
    aux_head: bool = True
    taps: tuple[str, ...] = ()
    frozen_norm: bool = False
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None
    dilated_conv: Callable | None = None

    @nn.compact
    def __call__(self, x, train: bool, given=None):
        """Returns the logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size. The release demands 8 k + 1
            pixels. For these its enlargement with aligned corners puts every feature on its pixel.
            Here every feature is on its pixel at every size.
          train: use the statistics of the batch, and dropout.
          given: {tap: array} that replaces inner tensors (models/split.py). None: all are computed.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, with aux_head also {'aux': {'layer3': like the
          logits}}, with taps also {'features': {tap: [B, h, w, C]}}.
        """
        self._check()
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(
            train, frozen=self.frozen_norm, dtype=self.dtype, axis_name=self.axis_name
        )
        resnet = make_resnet(
            self.num_layers,
            norm,
            self.dtype,
            self.dilated_conv,
            stem='3x3',
            output_stride=OUTPUT_STRIDE,
            width=self.width,
            taps=self.taps,
        )

        def classify(y, name, channels):
            """Applies nn.Sequential(conv 3x3, bn, relu, dropout, conv 1x1), with its numbers."""
            y = conv(scaled(channels, self.width), (3, 3), use_bias=False, name=f'{name}_0')(y)
            y = norm(name=f'{name}_1')(y)
            y = nn.relu(y)
            y = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(y)
            y = conv(self.num_classes, (1, 1), name=f'{name}_4')(y)
            y = y.astype(jnp.float32)
            return resize.bilinear_on_grid(y, x.shape[1:3], OUTPUT_STRIDE)

        # The second classifier sees layer3, one stage before the pyramid.
        stages, features = resnet(x.astype(self.dtype), given)
        pyramid = PyramidPooling(self.bins, conv, norm, name='ppm')(stages['layer4'])
        outputs = {'logits': classify(pyramid, 'cls', 512)}
        if self.aux_head:
            outputs['aux'] = {'layer3': classify(stages['layer3'], 'aux', 256)}
        if self.taps:
            outputs['features'] = features
        return outputs

    def _check(self) -> None:
        """Raises InputError for a pyramid without cells."""
        if not self.bins or min(self.bins) < 1:
            raise InputError(
                'pspnet: bins', got=repr(self.bins), expected='numbers of cells, 1 or more'
            )
