"""PSPNet: a dilated ResNet whose last features are joined by their averages over grids of four sizes.

Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017. Layers and names are those of the PyTorch release
(semseg): `ppm.features.0.1` there is `ppm/features_0_1` here; for the backbone see models/resnet.py.
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
    """[B, h, w, C] -> [B, h, w, 2 C]: the input, and its means over b x b cells for each b of `bins`.

    Every mean map passes a 1x1 convolution to C / len(bins) channels, batch norm and ReLU, and is enlarged bilinearly
    with aligned corners. (The Caffe release concatenates the maps in the opposite order.)
    """

    bins: tuple[int, ...]
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        channels, maps = x.shape[-1] // len(self.bins), [x]
        for i, bins in enumerate(self.bins):
            y = adaptive_average_pool(x, bins)
            y = self.conv(channels, (1, 1), use_bias=False, name=f'features_{i}_1')(y)
            y = nn.relu(self.norm(name=f'features_{i}_2')(y))
            maps.append(resize.bilinear(y, x.shape[1:3], align_corners=True))
        return jnp.concatenate(maps, -1)


class PSPNet(nn.Module):
    """PSPNet. `net.apply(variables, x, train=...)`; in training with rngs={'dropout': key}, mutable=['batch_stats'].

    num_classes   channels of the logits
    num_layers    of the ResNet: 50 or 101 as published; 18, 34, 152 work as well
    bins          cells of the pyramid's grids
    dropout       rate of channel dropout in front of both classifiers
    aux_head      a second classifier on layer3, outputs['aux']['layer3']; published with weight 0.4 of its loss
    taps          names of inner tensors (models/resnet.py) to return under outputs['features']
    frozen_norm   use the running statistics in training as well
    width         factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype         of activations; parameters, batch statistics and the returned logits are float32
    axis_name     mapped axis over which batch statistics are those of the global batch; None: of this device
    dilated_conv  what makes the dilated 3x3 convolutions of layer3 and layer4: called as models.layers.Conv is, with
                  features, kernel_size, dilation, use_bias, kernel_init, dtype and name; None: that Conv

    Running statistics decay by 0.9 a step and hold the biased variance (torch: the unbiased one), eps is 1e-5.
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
    def __call__(self, x, train: bool):
        """The logits of an image.

        Args:
          x: [B, H, W, 3] floating point, normalised, of any size. The release demands 8 k + 1 pixels, for which its
            enlargement with aligned corners puts every feature on its pixel; here it does so at every size.
          train: use the batch's statistics and dropout.

        Returns:
          {'logits': [B, H, W, num_classes] float32}, with aux_head also {'aux': {'layer3': like the logits}}, with taps
          {'features': {tap: [B, h, w, C]}}.
        """
        if not self.bins or min(self.bins) < 1:
            raise InputError(
                'pspnet: bins', got=repr(self.bins), expected='numbers of cells, 1 or more'
            )
        norm = batch_norm(
            train, frozen=self.frozen_norm, dtype=self.dtype, axis_name=self.axis_name
        )
        conv = functools.partial(Conv, dtype=self.dtype)
        stages, features = make_resnet(
            self.num_layers,
            norm,
            self.dtype,
            self.dilated_conv,
            stem='3x3',
            output_stride=OUTPUT_STRIDE,
            width=self.width,
            taps=self.taps,
        )(x.astype(self.dtype))

        def classify(y, name, channels):
            """The layers of nn.Sequential(conv 3x3, bn, relu, dropout, conv 1x1), under their numbers in it."""
            y = conv(scaled(channels, self.width), (3, 3), use_bias=False, name=f'{name}_0')(y)
            y = nn.relu(norm(name=f'{name}_1')(y))
            y = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(y)
            y = conv(self.num_classes, (1, 1), name=f'{name}_4')(y)
            return resize.bilinear_on_grid(y.astype(jnp.float32), x.shape[1:3], OUTPUT_STRIDE)

        pyramid = PyramidPooling(self.bins, conv, norm, name='ppm')(stages['layer4'])
        outputs = {'logits': classify(pyramid, 'cls', 512)}
        if self.aux_head:
            outputs['aux'] = {'layer3': classify(stages['layer3'], 'aux', 256)}
        return outputs | ({'features': features} if self.taps else {})
