"""Constants of papers and releases that the code holds."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.published_number import Number, digits, listing, whole
from segjax.data import hha
from segjax.data.builders import apolloscape, nyu_frames
from segjax.losses import geometry
from segjax.losses.perceptual import VGG_WEIGHTS
from segjax.metrics import boundary, image, normals, shape
from segjax.models.backbones.efficientnet import VARIANTS
from segjax.models.depth.dispnet import DispNet
from segjax.models.depth.monodepth2 import Monodepth2
from segjax.models.generators import patchgan
from segjax.ops import images
from segjax.pipelines import learned_dilation, std2p


def held(
    quantity: str, published: Any, source: str, compute: Callable[[], Any], reason: str = ''
) -> Number:
    """Returns a constant: numbers, a whole number, or a real number in six digits."""
    if isinstance(published, tuple):
        form = listing
    else:
        form = whole if isinstance(published, int) else digits(6)
    return Number(quantity, published, source, compute, form, reason)


# --- images ---------------------------------------------------------------------------------------

SEMSEG = 'hszhao/semseg, config'
COIN = 'CoinCheung/BiSeNet, lib'
KAZUTO = 'kazuto1011/deeplab-pytorch, configs'
PSPNET = 'hszhao/PSPNet, evaluation'
FCN = 'shelhamer/fcn.berkeleyvision.org, nyud_layers.py'
STD2P = 'SSAW14/STD2P, predict.py'
SWAPPED = 'STD2P exchanges the means of disparity and angle, FCN does not'


def mean_of(scheme: str) -> tuple[float, ...]:
    """Returns the mean that a scheme of `preprocess` subtracts."""
    return images.SCHEMES[scheme][2]


def deviation_of(scheme: str) -> tuple[float, ...]:
    """Returns the standard deviation by which a scheme of `preprocess` divides."""
    return images.SCHEMES[scheme][3]


NORMALISATION = (
    held('preprocess=imagenet, mean', (0.485, 0.456, 0.406), SEMSEG, lambda: mean_of('imagenet')),
    held(
        'preprocess=imagenet, deviation',
        (0.229, 0.224, 0.225),
        SEMSEG,
        lambda: deviation_of('imagenet'),
    ),
    held('preprocess=caffe, mean', (103.939, 116.779, 123.68), PSPNET, lambda: mean_of('caffe')),
    held(
        'preprocess=deeplab, mean', (104.008, 116.669, 122.675), KAZUTO, lambda: mean_of('deeplab')
    ),
    held(
        'preprocess=cityscapes, mean', (0.3257, 0.369, 0.3223), COIN, lambda: mean_of('cityscapes')
    ),
    held(
        'preprocess=cityscapes, deviation',
        (0.2112, 0.2148, 0.2115),
        COIN,
        lambda: deviation_of('cityscapes'),
    ),
    held('mean of HHA', (132.431, 94.076, 118.477), FCN, lambda: std2p.HHA_MEAN),
    held('mean of HHA', (118.477, 94.076, 132.431), STD2P, lambda: std2p.HHA_MEAN, SWAPPED),
)


# --- scenes ---------------------------------------------------------------------------------------

APOLLO = 'ApolloScapeAuto/dataset-api, utils/data.py'
NYU = 'NYU Depth V2 toolbox, camera_params.m'
GUPTA = 's-gupta/rcnn-depth, saveHHA.m'
FROM_ONE = 'Matlab counts pixels from 1, segjax from 0'
CAMERA_5 = (2304.54786556982, 2305.875668062, 1686.23787612802, 1354.98486439791)
CAMERA_6 = (2300.39065314361, 2301.31478860597, 1713.21615190657, 1342.91100799715)
CAMERA_OF_NYU = (518.8579, 519.4696, 325.5824, 253.7362)

SCENES = (
    held('apolloscape, camera 5', CAMERA_5, APOLLO, lambda: apolloscape.CAMERAS[5]),
    held('apolloscape, camera 6', CAMERA_6, APOLLO, lambda: apolloscape.CAMERAS[6]),
    held(
        'apolloscape, depth of a step of 1, metres', 0.005, APOLLO, lambda: apolloscape.DEPTH_UNIT
    ),
    held('nyu_depth, colour camera', CAMERA_OF_NYU, NYU, lambda: nyu_frames.CAMERA, FROM_ONE),
    held('nyu_depth, first row and column of the crop', (45, 40), STD2P, lambda: nyu_frames.CROP),
    held('HHA, disparity at 1 cm', 31_000.0, GUPTA, lambda: hha.DISPARITY),
    held('HHA, smallest depth, cm', 100.0, GUPTA, lambda: hha.NEAREST),
    held('HHA, height of a camera without a floor, cm', 130.0, GUPTA, lambda: hha.CAMERA_HEIGHT),
    held('HHA, added to angles', 38.0, GUPTA, lambda: hha.ANGLE_OFFSET),
    held('HHA, radius of windows for angles', 3, GUPTA, lambda: hha.ANGLE_RADIUS),
    held('HHA, radius of windows for gravity', 10, GUPTA, lambda: hha.GRAVITY_RADIUS),
    held(
        'HHA, limits of gravity, degrees', (45, 15), GUPTA, lambda: tuple(a for a, _ in hha.ROUNDS)
    ),
    held('HHA, iterations of gravity', (5, 5), GUPTA, lambda: tuple(n for _, n in hha.ROUNDS)),
)


# --- scores and losses ----------------------------------------------------------------------------

SSIM = 'photosynthesis-team/piq, ssim.py'
FSIM = 'photosynthesis-team/piq, fsim.py'
BSDS = 's-gupta/rcnn-depth, structured-edges'
MONODEPTH2 = 'nianticlabs/monodepth2'
SFM = 'tinghuiz/SfMLearner'
PIX2PIXHD = 'NVIDIA/pix2pixHD, networks.py'
HEAD_ANGLES = 'He, thesis, Table 5.1'


def largest_depth() -> float:
    """Returns the depth of DispNet's smallest disparity, 10 sigmoid + 0.01."""
    return float(DispNet().depth_of(np.float32(0.01)))


def depths() -> tuple[float, ...]:
    """Returns the largest and the smallest depth of monodepth2."""
    limits = Monodepth2(18).depth_of(np.float32([0, 1]))
    return tuple(round(float(depth), 4) for depth in limits)


SCORES = (
    held('SSIM, side of the window', 11, SSIM, lambda: image.WINDOW),
    held('SSIM, sigma', 1.5, SSIM, lambda: image.SIGMA),
    held('FSIM, wavelengths', (6, 12, 24, 48), FSIM, lambda: image.WAVELENGTHS),
    held('FSIM, orientations', 4, FSIM, lambda: image.NUM_ORIENTATIONS),
    held('FSIM, sigma_f', 0.55, FSIM, lambda: image.BAND_RATIO),
    held('FSIM, cut-off', 0.45, FSIM, lambda: image.CUTOFF),
    held('FSIM, order of the low-pass', 15, FSIM, lambda: image.BUTTERWORTH_ORDER),
    held('FSIM, k', 2.0, FSIM, lambda: image.NOISE_DEVIATIONS),
    held('FSIM, T1', 0.85, FSIM, lambda: image.SIMILARITY_OF_CONGRUENCY),
    held('FSIM, T2', 160.0, FSIM, lambda: image.SIMILARITY_OF_GRADIENTS),
    held('FSIM, T3', 200.0, FSIM, lambda: image.SIMILARITY_OF_COLOURS),
    held('FSIM, exponent of colours', 0.03, FSIM, lambda: image.COLOUR_EXPONENT),
    held('limits of normals, degrees', (11.25, 22.5, 30.0), HEAD_ANGLES, lambda: normals.LIMITS),
    held('thresholds of boundaries', 99, BSDS, lambda: boundary.NUM_THRESHOLDS),
    held('distance of boundaries over the diagonal', 0.0075, BSDS, lambda: boundary.MAX_DIST),
    held('monodepth2, C1 of SSIM', 1e-4, MONODEPTH2, lambda: geometry.SSIM_C1),
    held('monodepth2, C2 of SSIM', 9e-4, MONODEPTH2, lambda: geometry.SSIM_C2),
    held('monodepth2, share of SSIM', 0.85, MONODEPTH2, lambda: geometry.SSIM_SHARE),
    held('monodepth2, tie-breaker', 1e-5, MONODEPTH2, lambda: geometry.TIE_BREAKER),
    held('monodepth2, depths', (100.0, 0.1), MONODEPTH2, depths),
    held('SfMLearner, largest depth', 100.0, SFM, largest_depth),
    held(
        'pix2pixHD, weights of the layers of VGG19',
        (0.03125, 0.0625, 0.125, 0.25, 1.0),
        PIX2PIXHD,
        lambda: tuple(VGG_WEIGHTS.values()),
    ),
)


# --- nets -----------------------------------------------------------------------------------------

DILATION_RANGES = {
    2: (1, 4),
    4: (1, 8),
    6: (1, 11),
    12: (7, 17),
    18: (13, 23),
    24: (19, 29),
}
"""Dilation -> range of the learned factors."""

EFFICIENTNET_SCALES = {
    'b0': (1.0, 1.0, 0.2, 224),
    'b1': (1.0, 1.1, 0.2, 240),
    'b2': (1.1, 1.2, 0.3, 260),
    'b3': (1.2, 1.4, 0.3, 300),
    'b4': (1.4, 1.8, 0.4, 380),
    'b5': (1.6, 2.2, 0.4, 456),
    'b6': (1.8, 2.6, 0.5, 528),
    'b7': (2.0, 3.1, 0.5, 600),
}
"""Variant -> (width, depth, drop-out, resolution)."""

FIGURE_6 = {
    'erosion': (3, 5, 7),
    'dilation': (3, 5, 7),
    'flip': (0.25, 0.5, 0.75),
    'rotation': (45, 90, 135),
}
"""Transformation of objects -> its levels 1 to 3."""


def scales_of(variant: str) -> tuple[float, ...]:
    """Returns (width, depth, drop-out, resolution) of an EfficientNet."""
    return tuple(VARIANTS[variant][:4])


def tables() -> list[Number]:
    """Returns the rows of the three tables above, and the side of a PatchGAN."""
    numbers = []
    for dilation, published in DILATION_RANGES.items():
        compute = functools.partial(learned_dilation.RANGES.__getitem__, dilation)
        name = f'range of learned factors, dilation {dilation}'
        numbers.append(held(name, published, 'He, thesis, section 4.2.3', compute))
    for variant, published in EFFICIENTNET_SCALES.items():
        compute = functools.partial(scales_of, variant)
        name = f'width, depth, drop-out and resolution of EfficientNet-{variant.upper()}'
        numbers.append(held(name, published, 'lukemelas/EfficientNet-PyTorch, utils.py', compute))
    for name, published in FIGURE_6.items():
        compute = functools.partial(getattr, shape.TRANSFORMATIONS[name], 'levels')
        source = 'He et al., semantic inpainting, Fig. 6'
        numbers.append(held(f'levels of {name}', published, source, compute))
    field = functools.partial(patchgan.receptive_field, 3)
    numbers.append(held('side of the PatchGAN, pixels', 70, 'Isola et al. 2017', field))
    return numbers


CONSTANTS = (*NORMALISATION, *SCENES, *SCORES, *tables())
