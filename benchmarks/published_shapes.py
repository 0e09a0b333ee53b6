"""Shapes of features and of outputs, as papers and releases have them."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.published_nets import (
    BICYCLE,
    CRN_RELEASE,
    DILATION,
    HONG,
    PAIR,
    PIX2PIXHD,
    STD2P,
    Shape,
    shapes,
)
from benchmarks.published_number import Number, listing, size
from segjax.models.classification.resnet_classifier import ResNetClassifier
from segjax.models.classification.shape_classifier import ShapeClassifier
from segjax.models.depth.dispnet import DispNet
from segjax.models.generators.crn import CRN
from segjax.models.generators.feature_unet import FeatureUNet
from segjax.models.generators.multiscale import BICYCLE_FIELDS, MultiscaleDiscriminator
from segjax.models.generators.patchgan import PatchGAN
from segjax.models.generators.two_stream import TwoStream
from segjax.models.segmentation.deeplab import DeepLabLargeFOV
from segjax.models.segmentation.deeplab_v3plus import DeepLabV3Plus
from segjax.models.segmentation.fcn import FCN
from segjax.models.segmentation.pspnet import PSPNet
from segjax.ops import heat_maps


@functools.cache
def outputs_of(net: nn.Module, *inputs: Shape) -> Any:
    """Returns the outputs of a net in evaluation, as shapes with a batch axis."""
    return shapes(net, *inputs)[0]


def shape_of(net: nn.Module, *inputs: Shape, pick: Callable[[Any], Any]) -> Shape:
    """Returns the shape of an output without the batch axis.

    Args:
      net: the net.
      *inputs: shapes of its inputs.
      pick: outputs -> the array.
    """
    return pick(outputs_of(net, *inputs)).shape[1:]


def shaped(
    quantity: str,
    published: Shape,
    source: str,
    pick: Callable[[Any], Any],
    net: nn.Module,
    *inputs: Shape,
) -> Number:
    """Returns the shape of an output of a net."""
    compute = functools.partial(shape_of, net, *inputs, pick=pick)
    return Number(quantity, published, source, compute, size)


def tap(name: str) -> Callable[[Any], Any]:
    """Returns outputs -> the inner tensor of a name."""
    return lambda outputs: outputs['features'][name]


def output(name: str) -> Callable[[Any], Any]:
    """Returns outputs -> the output of a name."""
    return lambda outputs: outputs[name]


def heat_map_shape(num_points: int, height: int, width: int) -> Shape:
    """Returns the shape of the heat maps of the points of an image."""
    points = jax.ShapeDtypeStruct((1, num_points, 2), jnp.float32)
    maps = jax.eval_shape(lambda p: heat_maps.gaussian(p, (height, width), 1.5), points)
    return maps.shape[1:]


# --- PSPNet ---------------------------------------------------------------------------------------

TABLE_6_3 = 'He, thesis, Table 6.3, at (713 - 1) / 8 + 1 = 90 cells'
FEATURES = {
    'conv1_3': (357, 357, 128),
    'conv2_3': (179, 179, 256),
    'conv3_4': (90, 90, 512),
    'conv4_6': (90, 90, 1024),
    'conv4_12': (90, 90, 1024),
    'conv4_18': (90, 90, 1024),
    'conv4_23': (90, 90, 1024),
}
"""Tap of PSPNet-101 -> its shape for a crop of 713, by the channels and scales of Table 6.3."""
CROP_713 = (1, 713, 713, 3)
PSPNET = PSPNet(19, num_layers=101, taps=tuple(FEATURES))
PSPNET_50 = PSPNet(150, num_layers=50, taps=('conv4_3',))
PSPNET_561 = PSPNet(19, num_layers=101, taps=('conv5_3',))


def features_of_pspnet() -> tuple[Number, ...]:
    """Returns the shapes of the rows of Table 6.3."""
    return tuple(
        shaped(f'{name} of PSPNet-101', published, TABLE_6_3, tap(name), PSPNET, CROP_713)
        for name, published in FEATURES.items()
    )


# --- all shapes -----------------------------------------------------------------------------------

SECTION_6 = 'He, thesis, section 6.3.1'

ATTACK_RELEASE = 'SSAW14/segmentation_membership_inference, attack.py'
LARGE_FOV = DeepLabLargeFOV(19, taps=('pool1', 'pool2', 'pool3', 'conv5_3'))
FCN_16 = FCN(40, 16, streams=('color', 'hha'), taps=('pool4', 'pool5'))
FRAME = (1, 425, 560, 6)
CROP_321 = (1, 321, 321, 3)
RELEASED_CRN = CRN(branches='late', num_branches=9, last_modules=2)
PATCH = (1, 90, 90, 38)
BOXES = (1, 256, 256, 70)
XCEPTION_65 = DeepLabV3Plus(19, 'xception65', taps=('blocks_1/conv2',))
BICYCLE_JUDGE = MultiscaleDiscriminator(**BICYCLE_FIELDS)

SHAPES = (
    shaped(
        'realism map of the discriminator for 256x512 pixels',
        (30, 62, 1),
        'Löhdefink and Fingscheidt, section 4.2: H / 8 - 2, W / 8 - 2',
        lambda outputs: outputs,
        PatchGAN(),
        (1, 256, 512, 3),
    ),
    *features_of_pspnet(),
    shaped(
        'conv4_3 of PSPNet-50 for a crop of 473',
        (60, 60, 1024),
        SECTION_6,
        tap('conv4_3'),
        PSPNET_50,
        (1, 473, 473, 3),
    ),
    shaped(
        'last features of PSPNet-101 for a crop of 561',
        (71, 71, 2048),
        'He, thesis, Table 4.1',
        tap('conv5_3'),
        PSPNET_561,
        (1, 561, 561, 3),
    ),
    shaped(
        'synthetic features of a layout of 713',
        (90, 90, 1024),
        SECTION_6,
        output('image'),
        FeatureUNet(1024),
        (1, 713, 713, 19),
        (1, 8),
    ),
    shaped('pool1 of LargeFOV', (161, 161, 64), DILATION, tap('pool1'), LARGE_FOV, CROP_321),
    shaped('pool2 of LargeFOV', (81, 81, 128), DILATION, tap('pool2'), LARGE_FOV, CROP_321),
    shaped('pool3 of LargeFOV', (41, 41, 256), DILATION, tap('pool3'), LARGE_FOV, CROP_321),
    shaped('conv5_3 of LargeFOV', (41, 41, 512), DILATION, tap('conv5_3'), LARGE_FOV, CROP_321),
    shaped('pool4 of FCN-16s', (39, 48, 512), STD2P, tap('color/pool4'), FCN_16, FRAME),
    shaped('pool5 of FCN-16s', (20, 24, 512), STD2P, tap('hha/pool5'), FCN_16, FRAME),
    shaped('scores of FCN-16s', (425, 560, 40), STD2P, output('logits'), FCN_16, FRAME),
    shaped(
        'low-level features of DeepLab-v3+ Xception-65 for a crop of 769',
        (193, 193, 256),
        'tensorflow/models, research/deeplab, feature_extractor.py',
        tap('blocks_1/conv2'),
        XCEPTION_65,
        (1, 769, 769, 3),
    ),
    Number(
        'heat maps of 68 landmarks',
        (128, 128, 68),
        'He, thesis, section 5.3.1',
        lambda: heat_map_shape(68, 128, 128),
        size,
    ),
    Number(
        'channels of the modules of CRN at 256 rows',
        (1024, 1024, 1024, 1024, 1024, 512, 512),
        CRN_RELEASE,
        lambda: RELEASED_CRN.plan(256, 512).channels,
        listing,
    ),
    Number(
        'rows of the modules of CRN',
        (4, 8, 16, 32, 64, 128, 256),
        CRN_RELEASE,
        lambda: tuple(rows for rows, _ in RELEASED_CRN.plan(256, 512).sizes),
        listing,
    ),
    shaped(
        'images of CRN',
        (9, 256, 512, 3),
        CRN_RELEASE,
        output('image'),
        RELEASED_CRN,
        (1, 256, 512, 20),
    ),
    shaped(
        'last features of the attack net for a patch of 90',
        (12, 12, 2),
        ATTACK_RELEASE,
        output('activation'),
        ResNetClassifier(2),
        PATCH,
    ),
    shaped(
        "realism map of pix2pixHD's discriminator for 256 pixels",
        (35, 35, 1),
        PIX2PIXHD,
        lambda outputs: outputs[0][-1],
        MultiscaleDiscriminator(),
        (1, 256, 256, 39),
    ),
    shaped(
        "realism map of BicycleGAN's discriminator for 256 pixels",
        (30, 30, 1),
        BICYCLE,
        lambda outputs: outputs[0][-1],
        BICYCLE_JUDGE,
        PAIR,
    ),
    shaped(
        "BicycleGAN's second realism map, of half the image",
        (14, 14, 1),
        BICYCLE,
        lambda outputs: outputs[1][-1],
        BICYCLE_JUDGE,
        PAIR,
    ),
    shaped(
        'context stream of the two-stream net',
        (256, 256, 35),
        HONG,
        output('context'),
        TwoStream(35),
        BOXES,
    ),
    shaped(
        'object stream of the two-stream net',
        (256, 256, 1),
        HONG,
        output('object'),
        TwoStream(35),
        BOXES,
    ),
    shaped(
        'logits of the shape classifier for two planes',
        (80,),
        'He et al., semantic inpainting, section 3.3',
        output('logits'),
        ShapeClassifier(80, 'b0', forms='naive'),
        (1, 256, 256, 2),
    ),
    shaped(
        'coarsest disparity of DispNet for 128x416 pixels',
        (16, 52),
        'tinghuiz/SfMLearner, nets.py: 1/8',
        lambda outputs: outputs['disparity'][3],
        DispNet(),
        (1, 128, 416, 3),
    ),
)
"""Shapes without the batch axis: rows, columns, channels."""
