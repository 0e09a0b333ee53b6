"""Nets that see depth in one image, for self-supervised training; and decoders for encoders that tasks share.

    DispNet               Zhou, Brown, Snavely, Lowe: Unsupervised Learning of Depth and Ego-Motion from Video, CVPR
                          2017 (SfMLearner), as the authors' TensorFlow release has it and as Pinard's PyTorch port
    Monodepth2            Godard, Mac Aodha, Firman, Brostow: Digging into Self-Supervised Monocular Depth Estimation,
                          ICCV 2019: a ResNet and `DepthDecoder`
    DepthAndSegmentation  Klingner, Bär, Fingscheidt: Improved Noise and Attack Robustness for Semantic Segmentation by
                          Using Multi-Task Training with Self-Supervised Depth Estimation, CVPR workshops 2020, with the
                          layers of their later SGDepth: one ResNet under a depth and a segmentation decoder

A net of DEPTH_NETS has the fields dtype and axis_name, which the pipeline gives, and fields with defaults. It is called
as `net(x, train)` with x [B, H, W, 3] in [0, 1], which it normalises itself, and returns {'disparity': [d_0, .., d_3]}:
d_s [B, h, w] float32 is positive, grows as things come nearer, and has ceil(H / 2^s) rows and ceil(W / 2^s) columns, so
d_0 is of full resolution. `net.depth_of(d)` is the depth of any array of such disparities, needs no parameters, and is
positive; where training is self-supervised from one camera, its unit is arbitrary.

Names are those of the releases. DispNet, `upconv7.0` in PyTorch and `upcnv7` in TensorFlow: `upconv7_0`; `conv1.0`,
`conv1.2` and `cnv1`, `cnv1b`: `conv1_0`, `conv1_2`; `iconv7.0` and `icnv7`: `iconv7_0`; `predict_disp4.0` and `disp4`:
`predict_disp4_0`. In monodepth2's decoder `decoder.0.conv.conv`, `decoder.1.conv.conv` .. `decoder.9.conv.conv` are
`upconv_4_0`, `upconv_4_1` .. `upconv_0_1`, and `decoder.10.conv` .. `decoder.13.conv` are `dispconv_0` .. `dispconv_3`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError, unknown_name
from segjax.models import registry
from segjax.models.backbones.resnet import make_resnet
from segjax.models.layers import Conv, ConvTranspose, batch_norm, scaled, uniform_fan
from segjax.ops import images, resize
from segjax.ops.gradients import scale_gradient

# --- disparity and depth ----------------------------------------------------------------------------------------------


def sigmoid_to_disparity(sigmoid, min_depth: float, max_depth: float):
    """1 / max_depth + (1 / min_depth - 1 / max_depth) sigmoid: [0, 1] -> inverse depth."""
    return 1 / max_depth + (1 / min_depth - 1 / max_depth) * sigmoid


def sigmoid_to_depth(sigmoid, min_depth: float, max_depth: float):
    """1 / sigmoid_to_disparity: max_depth at 0, min_depth at 1."""
    return 1 / sigmoid_to_disparity(sigmoid, min_depth, max_depth)


def _check_depths(net: str, min_depth: float, max_depth: float):
    if not 0 < min_depth < max_depth:
        raise InputError(
            f'{net}: min_depth, max_depth', got=f'{min_depth}, {max_depth}', expected='0 < min_depth < max_depth'
        )


# --- SfMLearner -------------------------------------------------------------------------------------------------------

RELEASES = ('tf', 'pytorch')
DISPARITY_SCALE, DISPARITY_MIN = 10.0, 0.01
# Channels and side of the kernel of the pair of convolutions of each level, the first of stride 2.
DISPNET_ENCODER = ((32, 7), (64, 5), (128, 3), (256, 3), (512, 3), (512, 3), (512, 3))
DISPNET_DECODER = (16, 32, 64, 128, 256, 512, 512)


class SfMLearnerLayers(NamedTuple):
    """The layers of both nets of SfMLearner, depth and pose, in one of its releases; they start Glorot-uniform.

    conv(x, features, kernel_size, name, strides=1)   stride 2 puts out ceil(n / 2) pixels
    up_conv(x, features, kernel_size, name, size)     doubles the size, and crops to `size`
    enlarge(disparity, size)                          [B, h, w, 1] -> [B, H, W, 1], bilinear, h = ceil(H / 2)
    """

    conv: Callable
    up_conv: Callable
    enlarge: Callable


def sfmlearner_layers(net: str, release: str, dtype: Any) -> SfMLearnerLayers:
    """The layers of `release`; `net` is who asks, for errors.

    tf       zeros are padded as TensorFlow's 'SAME': for an even size and stride 2, one more behind than in front.
             Disparities are enlarged without half-pixel centres, as tf.image.resize_bilinear did
    pytorch  zeros are padded alike on both sides; disparities are enlarged with half-pixel centres

    Odd sizes are rounded up on the way down and cropped on the way up. From 2 n to 2 n - 1 pixels that is what the
    nearest neighbours of the TensorFlow release come to as well; it has them on its coarsest levels alone, and so wants
    images of multiples of 16.
    """
    if release not in RELEASES:
        raise unknown_name(f'{net}: release', release, RELEASES)
    tf, init = release == 'tf', nn.initializers.xavier_uniform()

    def conv(x, features, kernel_size, name, strides=1):
        layer = Conv(
            features,
            (kernel_size, kernel_size),
            strides=strides,
            kernel_init=init,
            bias_init=nn.initializers.zeros,
            dtype=dtype,
            padding='same' if tf else None,
            name=name,
        )
        return layer(x)

    def up_conv(x, features, kernel_size, name, size):
        padding, zeros = (kernel_size - 2) // 2 if tf else 1, nn.initializers.zeros
        layer = ConvTranspose(features, kernel_size, padding, kernel_init=init, bias_init=zeros, dtype=dtype, name=name)
        return crop(layer(x), size)

    def enlarge(disparity, size):
        if tf:
            return resize.bilinear_on_grid(disparity, size, 2)
        h, w = disparity.shape[1:3]
        return crop(resize.bilinear(disparity, (2 * h, 2 * w)), size)

    return SfMLearnerLayers(conv, up_conv, enlarge)


def crop(x, size: tuple[int, int]):
    """The first rows and columns of [B, h, w, C]."""
    return x[:, : size[0], : size[1]]


class DispNet(nn.Module):
    """SfMLearner's depth net. `net.apply(variables, x, train=...)`; no batch norm, nothing random.

    Seven levels of two convolutions with ReLU, of stride 2 and 1; up again by transposed convolutions, joined by the
    encoder's map and, on the three finest levels, by the disparity of the level below. The four finest levels predict
    d = 10 sigmoid(y) + 0.01, so depths are 1 / d from 0.1 to 100. 31,596,900 parameters in both releases.

    release    'tf' or 'pytorch', see sfmlearner_layers
    width      factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype      of activations; parameters and disparities are float32
    axis_name  unused: without batch norm, examples do not meet
    """

    release: str = 'tf'
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Disparities of an image.

        Args:
          x: [B, H, W, 3] in [0, 1], of any size.
          train: changes nothing.

        Returns:
          {'disparity': [d_0, .., d_3]}, d_s [B, ceil(H / 2^s), ceil(W / 2^s)] float32 in [0.01, 10.01].
        """
        layers = sfmlearner_layers('dispnet', self.release, self.dtype)
        y, skips = (2 * x - 1).astype(self.dtype), []
        for level, (features, kernel_size) in enumerate(DISPNET_ENCODER, start=1):
            features = scaled(features, self.width)
            y = nn.relu(layers.conv(y, features, kernel_size, f'conv{level}_0', strides=2))
            y = nn.relu(layers.conv(y, features, kernel_size, f'conv{level}_2'))
            skips.append(y)

        disparities = []
        for level in range(len(DISPNET_DECODER), 0, -1):
            features = scaled(DISPNET_DECODER[level - 1], self.width)
            size = skips[level - 2].shape[1:3] if level > 1 else x.shape[1:3]
            joined = [nn.relu(layers.up_conv(y, features, 3, f'upconv{level}_0', size))]
            if level > 1:
                joined.append(skips[level - 2])
            if disparities:
                joined.append(layers.enlarge(disparities[-1], size).astype(self.dtype))
            y = nn.relu(layers.conv(jnp.concatenate(joined, -1), features, 3, f'iconv{level}_0'))
            if level <= 4:
                z = layers.conv(y, 1, 3, f'predict_disp{level}_0').astype(jnp.float32)
                disparities.append(DISPARITY_SCALE * nn.sigmoid(z) + DISPARITY_MIN)
        return {'disparity': [d[..., 0] for d in reversed(disparities)]}

    def depth_of(self, disparity):
        """1 / disparity."""
        return 1 / disparity


# --- monodepth2's decoder, on any encoder -----------------------------------------------------------------------------

DECODER_CHANNELS = (256, 128, 64, 32, 16)
# The maps of a ResNet (models/resnet.py) that the decoder takes, at strides 2, 4, 8, 16, 32: the stem's after its last
# batch norm, whose name depends on the stem, and the stages'.
PYRAMIDS = {
    stem: (tap, 'layer1', 'layer2', 'layer3', 'layer4') for stem, tap in (('7x7', 'conv1_1'), ('3x3', 'conv1_3'))
}


def pyramid(features: Mapping[str, Any], stem: str = '7x7') -> list:
    """The maps that a decoder takes, from the features of a net that has PYRAMIDS[stem] among its `taps`.

    E.g. the context path of a BiSeNet that shares it with a depth decoder. The stem's map is tapped before its ReLU,
    which is applied here.
    """
    if stem not in PYRAMIDS:
        raise unknown_name('pyramid: stem', stem, PYRAMIDS)
    first, *others = PYRAMIDS[stem]
    return [nn.relu(features[first]), *(features[name] for name in others)]


def reflect_pad(x):
    """One pixel around [B, H, W, C], mirrored at the outermost pixel; an axis of one pixel repeats it."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), 'reflect')


def upsample_nearest(x, size: tuple[int, int]):
    """[B, h, w, C] -> [B, H, W, C]: every pixel twice, cropped; an axis that has its size already is left alone.

    Raises:
      InputError: H is none of h, 2 h - 1 and 2 h, or W alike: the map is not of the level below.
    """
    for axis, n in zip((1, 2), size, strict=True):
        m = x.shape[axis]
        if n not in (m, 2 * m - 1, 2 * m):
            raise InputError(
                'decoder: features',
                got=f'a map of {x.shape[1]} x {x.shape[2]} below one of {size[0]} x {size[1]}',
                expected='maps from fine to coarse, each of the size of the one before, or of half its size rounded up',
            )
        if n != m:
            x = lax.slice_in_dim(jnp.repeat(x, 2, axis), 0, n, axis=axis)
    return x


def _reflect_conv(x, features: int, name: str, dtype: Any, bias_init: Callable | None = None):
    return Conv(features, (3, 3), padding=0, bias_init=bias_init, dtype=dtype, name=name)(reflect_pad(x))


def _decode(features: Sequence, size: tuple[int, int], channels: Sequence[int], dtype: Any) -> list:
    """The decoder's maps, from full resolution (scale 0) on, of channels[-1], channels[-2], .. channels.

    Coarse to fine, at scale s: convolution, ELU, twice the size, the encoder's map of that size beside it (none at full
    resolution), convolution, ELU. Called inside a module's __call__, whose submodules the convolutions become.
    """
    if len(features) != len(channels):
        raise InputError(
            'decoder: features',
            got=f'{len(features)} maps',
            expected=f'{len(channels)}, one for each of the channels {tuple(channels)}',
        )
    x, maps = features[-1].astype(dtype), []
    for scale, width in zip(reversed(range(len(channels))), channels, strict=True):
        skips = [features[scale - 1].astype(dtype)] if scale else []
        x = nn.elu(_reflect_conv(x, width, f'upconv_{scale}_0', dtype))
        x = upsample_nearest(x, skips[0].shape[1:3] if skips else size)
        x = nn.elu(_reflect_conv(jnp.concatenate([x, *skips], -1), width, f'upconv_{scale}_1', dtype))
        maps.append(x)
    return maps[::-1]


class DepthDecoder(nn.Module):
    """monodepth2's decoder: sigmoids at several scales from the maps of an encoder.

    channels    from coarse to fine, one for each map of the encoder
    num_scales  scales 0 .. num_scales - 1 have a head, a convolution to one channel and a sigmoid
    head_bias   added to torch's start of the heads' biases; 5 starts with everything near (SGDepth)
    dtype       of activations; parameters and sigmoids are float32
    """

    channels: tuple[int, ...] = DECODER_CHANNELS
    num_scales: int = 4
    head_bias: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence, size: tuple[int, int]) -> list:
        """Sigmoids, which `sigmoid_to_depth` turns into depth.

        Args:
          features: [B, h, w, C] each, from fine to coarse. Each map has half the size of the one before, rounded up, or
            its size (a dilated encoder); the first has half the size of the image, or its size.
          size: (H, W) of the image.

        Returns:
          [y_0, y_1, ..], y_0 [B, H, W] and y_s [B, h, w] of the size of features[s - 1], float32 in [0, 1].
        """
        if not 1 <= self.num_scales <= len(self.channels):
            raise InputError(
                'decoder: num_scales', got=str(self.num_scales), expected=f'1 .. {len(self.channels)}, one head a scale'
            )
        maps = _decode(features, size, self.channels, self.dtype)[: self.num_scales]

        def bias_init(channels):
            draw = uniform_fan(9 * channels)
            return lambda key, shape, dtype: draw(key, shape, dtype) + self.head_bias

        def head(scale, x):
            return _reflect_conv(x, 1, f'dispconv_{scale}', self.dtype, bias_init(x.shape[-1]))

        return [nn.sigmoid(head(s, x).astype(jnp.float32))[..., 0] for s, x in enumerate(maps)]


class SegmentationDecoder(nn.Module):
    """The same decoder with one head, to the classes at full resolution.

    num_classes  channels of the logits
    channels     from coarse to fine, one for each map of the encoder
    dtype        of activations; parameters and logits are float32
    """

    num_classes: int
    channels: tuple[int, ...] = DECODER_CHANNELS
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence, size: tuple[int, int]):
        """Logits [B, H, W, num_classes] float32; arguments as of DepthDecoder."""
        x = _decode(features, size, self.channels, self.dtype)[0]
        return _reflect_conv(x, self.num_classes, 'segconv_0', self.dtype).astype(jnp.float32)


# --- nets on a ResNet -------------------------------------------------------------------------------------------------


def normalize_monodepth2(x):
    """(x - 0.45) / 0.225 in float32, for images in [0, 1]."""
    return (x.astype(jnp.float32) - 0.45) / 0.225


def _encode(image, depth: int, width: float, train: bool, dtype: Any, axis_name: str | None) -> list:
    """The pyramid of the submodule `resnet` of the calling module."""
    norm = batch_norm(train, dtype=dtype, axis_name=axis_name)
    resnet = make_resnet(depth, norm, dtype, None, width=width, taps=PYRAMIDS['7x7'])
    return pyramid(resnet(image)[1])


def decoder_channels(width: float) -> tuple[int, ...]:
    """DECODER_CHANNELS of a net of that width."""
    return tuple(scaled(channels, width) for channels in DECODER_CHANNELS)


class Monodepth2(nn.Module):
    """A ResNet (`resnet`) and the `DepthDecoder` (`decoder`). In training with mutable=['batch_stats'].

    The decoder has 3,152,724 parameters on 18 layers and 9,014,100 on 50. Its disparities are the sigmoids themselves,
    as released; depth_of knows the range of depths.

    depth      layers of the ResNet: 18, 34, 50, 101 or 152
    min_depth  depth at a sigmoid of 1
    max_depth  depth at a sigmoid of 0
    width      factor on all inner channels; 1 is the published net, less is for tests and small machines
    dtype      of activations; parameters, batch statistics and disparities are float32
    axis_name  mapped axis over which batch statistics are those of the global batch; None: of this device

    Running statistics decay by 0.9 a step and hold the biased variance (torch: the unbiased one), eps is 1e-5.
    """

    depth: int = 18
    min_depth: float = 0.1
    max_depth: float = 100.0
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Disparities of an image.

        Args:
          x: [B, H, W, 3] in [0, 1], of any size; multiples of 32 as published.
          train: use the batch's statistics.

        Returns:
          {'disparity': [d_0, .., d_3]}, d_s [B, ceil(H / 2^s), ceil(W / 2^s)] float32, sigmoids.
        """
        _check_depths('monodepth2', self.min_depth, self.max_depth)
        image = normalize_monodepth2(x).astype(self.dtype)
        features = _encode(image, self.depth, self.width, train, self.dtype, self.axis_name)
        decoder = DepthDecoder(decoder_channels(self.width), dtype=self.dtype, name='decoder')
        return {'disparity': decoder(features, x.shape[1:3])}

    def depth_of(self, disparity):
        """sigmoid_to_depth: in [min_depth, max_depth]."""
        return sigmoid_to_depth(disparity, self.min_depth, self.max_depth)


class DepthAndSegmentation(nn.Module):
    """Klingner's net: `resnet` under `depth_decoder` and `segmentation_decoder`.

    The gradients that the two decoders send into the ResNet are multiplied by `gradient_factors`; their own gradients
    are not. So the balance of the tasks is one of the shared layers alone, and the loss is the plain sum.

    num_classes       channels of the logits
    depth             layers of the ResNet
    gradient_factors  (of the depth decoder, of the segmentation decoder); SGDepth trained with (0.9, 0.1)
    head_bias         start of the depth heads' biases beside torch's, as DepthDecoder
    others            as in Monodepth2
    """

    num_classes: int
    depth: int = 18
    gradient_factors: tuple[float, float] = (0.9, 0.1)
    head_bias: float = 5.0
    min_depth: float = 0.1
    max_depth: float = 100.0
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Disparities and logits of images.

        Args:
          x: [B, H, W, 3] in [0, 1], of any size; multiples of 32 as published. Normalised inside with ImageNet's mean
            and standard deviation.
          train: use the batch's statistics.

        Returns:
          {'disparity': as of Monodepth2, 'logits': [B, H, W, num_classes] float32}.
        """
        _check_depths('depth_and_segmentation', self.min_depth, self.max_depth)
        if len(self.gradient_factors) != 2:
            raise InputError(
                'depth_and_segmentation: gradient_factors',
                got=repr(self.gradient_factors),
                expected='two factors: of depth, of segmentation',
            )
        _, _, mean, std = images.SCHEMES['imagenet']
        image = ((x.astype(jnp.float32) - np.float32(mean)) / np.float32(std)).astype(self.dtype)
        features = _encode(image, self.depth, self.width, train, self.dtype, self.axis_name)

        def shared(factor):
            return [scale_gradient(y, factor) for y in features]

        channels, size = decoder_channels(self.width), x.shape[1:3]
        depth = DepthDecoder(channels, head_bias=self.head_bias, dtype=self.dtype, name='depth_decoder')
        segmentation = SegmentationDecoder(self.num_classes, channels, self.dtype, name='segmentation_decoder')
        for_depth, for_segmentation = self.gradient_factors
        return {
            'disparity': depth(shared(for_depth), size),
            'logits': segmentation(shared(for_segmentation), size),
        }

    def depth_of(self, disparity):
        """sigmoid_to_depth: in [min_depth, max_depth]."""
        return sigmoid_to_depth(disparity, self.min_depth, self.max_depth)


# --- the table --------------------------------------------------------------------------------------------------------

DEPTH_NETS = {'dispnet': DispNet, 'monodepth2': Monodepth2}

_GIVEN_BY_PIPELINE = frozenset({'dtype', 'axis_name'})


def depth_schema(name: str) -> dict[str, Any]:
    """{argument: default} of what a config may set of the depth net called `name`, as models.schema."""
    return registry.schema(DEPTH_NETS, 'depth net', name, _GIVEN_BY_PIPELINE)


def build_depth(name: str, *, dtype: Any, axis_name: str | None, **args) -> nn.Module:
    """The depth net called `name`.

    Args:
      name: a key of DEPTH_NETS.
      dtype: of activations, e.g. 'bfloat16' or jnp.float32; parameters stay float32.
      axis_name: mapped axis over which batch statistics are summed; None: this device's own.
      **args: fields of the net that shall differ from their defaults.

    Raises:
      InputError: unknown name or argument, with the nearest one that exists.
    """
    given = dict(dtype=jnp.dtype(dtype), axis_name=axis_name)
    return registry.build(DEPTH_NETS, 'depth net', name, given, args)
