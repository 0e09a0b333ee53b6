"""Encoders of semantic layouts, which bring a layout at full resolution to the size of features.

Source: the dense feature generative adversarial network (DFGAN) of the thesis, Sec. 6.2.1 and
Fig. 6.2. Its text fixes the dilations 1, 2 and 4, and a "stride operation" after them. Kernels,
widths, and the form of the stride operation are choices of this file.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.models.generators.blocks import make_norm
from segjax.models.generators.patchgan import SLOPE
from segjax.models.layers import Conv, he_fan_in, normal, scaled
from segjax.ops.pool import average_pool

DILATIONS = (1, 2, 4)
"""Dilations of the parallel convolutions of a block."""
STRIDES = (1, 2, 4, 8, 16)
"""Factors between the size of a layout and the size of features."""
SHRINKS = ('average', 'nearest')
"""Names of the operations that shrink a layout without parameters."""
NO_NORM = 'none'
"""Name of a LayoutEncoder without norms. Further names are those of `blocks.NORMS`."""
SCALE_STD = 0.02
"""Standard deviation of the initial scales of batch norms around 1."""


def encoded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Returns the size of features of a layout: (ceil(H / stride), ceil(W / stride)).

    Every convolution of stride 2 with an odd kernel and the padding of torch rounds up. So 713
    pixels, which are 8 * 89 + 1, have 90 features at stride 8. Feature i lies on pixel `stride` i.

    Raises:
      InputError: the stride is not in STRIDES.
    """
    check_stride(stride)
    return -(-height // stride), -(-width // stride)


def fitting_stride(layout_size: tuple[int, int], feature_size: tuple[int, int]) -> int | None:
    """Returns the smallest stride of STRIDES that leads to a size, None if there is none.

    Args:
      layout_size: (H, W).
      feature_size: (h, w).
    """
    for stride in STRIDES:
        if encoded_size(*layout_size, stride) == tuple(feature_size):
            return stride
    return None


def check_stride(stride: int) -> None:
    """Raises InputError for a stride that is not in STRIDES."""
    if stride not in STRIDES:
        expected = 'one of ' + ', '.join(map(str, STRIDES))
        raise InputError('stride of a layout', got=str(stride), expected=expected)


def check_pair(where: str, layout, features, stride: int) -> None:
    """Raises InputError for features that do not belong to a layout.

    Args:
      where: name of the net.
      layout: [B, H, W, K].
      features: [B, h, w, C].
      stride: of the net.
    """
    layout_size = layout.shape[1:3]
    feature_size = features.shape[1:3]
    expected_size = encoded_size(*layout_size, stride)
    if feature_size == expected_size:
        return
    fitting = fitting_stride(layout_size, feature_size)
    raise InputError(
        f'{where}: features',
        got=f'{feature_size[0]}x{feature_size[1]} features of a layout of '
        f'{layout_size[0]}x{layout_size[1]} pixels',
        expected=f'{expected_size[0]}x{expected_size[1]} features at stride {stride}, because '
        'every halving rounds up',
        fix=f'set stride={fitting}' if fitting else 'use layouts of the size of the images',
    )


def shrink_layout(layout, stride: int, how: str = 'average'):
    """Shrinks a layout to the size of features, without parameters.

        'average'    result[i, j] = mean of layout over the (stride + 1)^2 pixels around
                     (stride i, stride j), of which only pixels inside the layout count
        'nearest'    result[i, j] = layout[stride i, stride j]

    A one-hot layout becomes the shares of the classes by 'average', and stays one-hot by 'nearest'.

    Args:
      layout: [B, H, W, K] floating point.
      stride: a number of STRIDES.
      how: a name of SHRINKS.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), K].

    Raises:
      InputError: the stride or the name is unknown.
    """
    check_stride(stride)
    if how not in SHRINKS:
        raise unknown_name('shrink of a layout', how, SHRINKS)
    if stride == 1:
        return layout
    if how == 'nearest':
        return layout[:, ::stride, ::stride]
    return average_pool(layout, stride + 1, strides=stride, padding=stride // 2)


class AtrousPooling(nn.Module):
    """Block of atrous pooling, which halves a layout.

        y_d = conv3x3 of dilation d (x)                              d = 1, 2, 4
        z   = leaky ReLU(norm(conv3x3 of stride 2 ([y_1, y_2, y_4])))

    The "stride operation" is read as a convolution of stride 2, as all halvings of BicycleGAN. It
    also joins the scales, as the last convolution of an atrous spatial pyramid pooling does. Before
    the norm, feature i sees pixels 2 i - 5 .. 2 i + 5.

    The norm may be the identity. An instance norm would make the code of a class depend on the rest
    of the layout: it subtracts the mean of the image, which is the class of a large region.

    features  channels of each dilation, and of the output
    conv      makes the convolutions: conv(features, kernel_size, strides=, dilation=, name=)
    norm      makes the norm: norm(name=)
    """

    features: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        """Maps [B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), features]."""
        branches = []
        for dilation in DILATIONS:
            conv = self.conv(self.features, (3, 3), dilation=dilation, name=f'dilated_{dilation}')
            branches.append(conv(x))
        x = jnp.concatenate(branches, -1)  # [B, H, W, 3 features]
        x = self.conv(self.features, (3, 3), strides=2, name='stride')(x)
        x = self.norm(name='norm')(x)
        return nn.leaky_relu(x, SLOPE)


class LayoutEncoder(nn.Module):
    """Blocks of atrous pooling, as many as the stride of the features needs: 3 for stride 8.

    With stride 1 the layout is not changed.

    stride    factor between the size of the layout and the size of the features: 1, 2, 4, 8 or 16
    features  channels of the first block. They double up to 8 times as many
    conv      makes the convolutions: conv(features, kernel_size, strides=, dilation=, name=)
    norm      makes the norms: norm(name=)
    """

    stride: int
    features: int
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, layout):
        """Maps [B, H, W, K] to [B, ceil(H / stride), ceil(W / stride), C]."""
        check_stride(self.stride)
        x = layout
        for i in range(self.stride.bit_length() - 1):
            features = self.features * min(2**i, 8)
            x = AtrousPooling(features, self.conv, self.norm, name=f'block_{i}')(x)
        return x


def make_layout_encoder(net: nn.Module, train: bool) -> LayoutEncoder:
    """Returns the encoder `layout` of a net.

    Kernels begin as N(0, 2 / fan_in), and biases as 0, so a layout keeps its scale without norms.
    With the kernels of BicycleGAN (see `layers.xavier`), each block would shrink the layout tenfold
    at the start of a training.

    Args:
      net: has the fields stride, layout_features, layout_norm, width, dtype and axis_name.
      train: a batch norm uses the statistics of the batch.

    Raises:
      InputError: the norm is unknown.
    """
    # Every convolution of the encoder begins in the same way.
    zeros = nn.initializers.zeros

    def conv(features: int, kernel_size: tuple[int, int], **arguments) -> Conv:
        return Conv(
            features,
            kernel_size,
            kernel_init=he_fan_in,
            bias_init=zeros,
            dtype=net.dtype,
            **arguments,
        )

    norm = _no_norm
    if net.layout_norm != NO_NORM:
        norm = make_norm(
            net.layout_norm,
            train,
            scale_init=normal(SCALE_STD, mean=1.0),
            dtype=net.dtype,
            axis_name=net.axis_name,
        )
    features = scaled(net.layout_features, net.width)
    return LayoutEncoder(net.stride, features, conv, norm, name='layout')


def _no_norm(name: str) -> Callable:
    """Returns the identity, which has no parameters to name."""
    del name
    return lambda x: x
