"""Parameters of nets, as papers and releases have them.

Nets are traced and not computed, so they need no memory.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.published_number import Number, millions, whole
from benchmarks.segjax_worker import count
from segjax.models.backbones.efficientnet import EfficientNet
from segjax.models.backbones.vgg import STAGES_19, VGG16
from segjax.models.classification.resnet_classifier import ResNetClassifier
from segjax.models.denoisers.adnet import ADNet
from segjax.models.denoisers.ffdnet import FFDNet
from segjax.models.denoisers.ridnet import RIDNet
from segjax.models.denoisers.unetd import UNetD
from segjax.models.depth.dispnet import DispNet
from segjax.models.depth.monodepth2 import Monodepth2
from segjax.models.depth.pose import PoseCNN, PoseExpNet, PoseResNet
from segjax.models.generators.crn import CRN
from segjax.models.generators.encoder import ResNetEncoder
from segjax.models.generators.latent_unet import LatentUNet
from segjax.models.generators.multiscale import (
    BICYCLE_FIELDS,
    PIX2PIX_FIELDS,
    MultiscaleDiscriminator,
)
from segjax.models.generators.patchgan import PatchGAN
from segjax.models.generators.pix2pixhd import GlobalGenerator
from segjax.models.generators.two_stream import TwoStream
from segjax.models.generators.unet import UNet
from segjax.models.layers import Conv
from segjax.models.segmentation.bisenet import BiSeNet
from segjax.models.segmentation.deeplab import DeepLabLargeFOV, DeepLabV2
from segjax.models.segmentation.deeplab_v3plus import DeepLabV3Plus
from segjax.models.segmentation.erfnet import ERFNet
from segjax.models.segmentation.fcn import FCN
from segjax.models.segmentation.pspnet import PSPNet

Shape = tuple[int, ...]

PHOTO: Shape = (1, 64, 64, 3)
"""An image that all nets of segmentation and depth accept. Parameters do not depend on its size."""
LINEAR_1000 = 2048 * 1000 + 1000
"""Parameters of a linear layer from 2,048 features to the classes of ImageNet."""
VGG_CLASSIFIER = 123_642_856
"""Parameters of the three linear layers of VGG16 and VGG19: 25088 to 4096 to 4096 to 1000."""


def shapes(net: nn.Module, *inputs: Shape) -> tuple[Any, Any]:
    """Returns (outputs, variables) of a net in evaluation, as shapes. Computes nothing.

    Args:
      net: the net.
      *inputs: shapes of its float32 inputs.
    """
    key = jax.random.key(0)
    has_modes = 'train' in inspect.signature(net.__call__).parameters
    mode = {'train': False} if has_modes else {}
    arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs)
    return jax.eval_shape(lambda *x: net.init_with_output(key, *x, **mode), *arrays)


def parameters(net: nn.Module, *inputs: Shape, part: str = '', further: int = 0) -> int:
    """Counts the parameters of a net, or of a part of it.

    Args:
      net: the net.
      *inputs: shapes of its inputs. Without inputs, the net gets PHOTO.
      part: name of a module of the net. '': the whole net.
      further: parameters of layers that only the published net has.
    """
    _, variables = shapes(net, *(inputs or (PHOTO,)))
    params = variables['params']
    return count(params[part] if part else params) + further


def counted(
    quantity: str,
    published: float,
    source: str,
    net: nn.Module,
    *inputs: Shape,
    form: Callable[[Any], str] = whole,
    **options: Any,
) -> Number:
    """Returns the number of parameters of a net. `options` are those of `parameters`."""
    compute = functools.partial(parameters, net, *inputs, **options)
    return Number(quantity, published, source, compute, form)


# --- parameters that the source prints ------------------------------------------------------------

TORCHVISION = 'torchvision, `num_params` of the weights'
TIMM = 'timm, results-imagenet.csv'
LITE = 'tensorflow/tpu, efficientnet/lite/README.md'
PIX2PIX_LOG = 'pytorch-CycleGAN-and-pix2pix, printed when a training begins'

EFFICIENTNETS = {
    'b0': 5_288_548,
    'b1': 7_794_184,
    'b2': 9_109_994,
    'b3': 12_233_232,
    'b4': 19_341_616,
    'b5': 30_389_784,
    'b6': 43_040_704,
    'b7': 66_347_960,
}
"""Variant -> parameters with 1000 classes, of torchvision."""

EFFICIENTNETS_LITE = {
    'lite0': 4.7e6,
    'lite1': 5.4e6,
    'lite2': 6.1e6,
    'lite3': 8.2e6,
    'lite4': 13.0e6,
}
"""Variant -> parameters with 1000 classes, of its authors."""


def efficientnets() -> tuple[Number, ...]:
    """Returns the parameters of all EfficientNets. Naive forms have the same, and trace faster."""
    numbers = []
    for variant, published in EFFICIENTNETS.items():
        net = EfficientNet(1000, variant, forms='naive')
        name = f'EfficientNet-{variant.upper()}'
        numbers.append(counted(name, published, TORCHVISION, net))
    for variant, published in EFFICIENTNETS_LITE.items():
        net = EfficientNet(1000, variant, forms='naive')
        name = f'EfficientNet-{variant}'
        numbers.append(counted(name, published, LITE, net, form=millions(1)))
    return tuple(numbers)


PRINTED = (
    counted('ResNet-18', 11_689_512, TORCHVISION, ResNetClassifier(1000, 18, '7x7')),
    counted('ResNet-50', 25_557_032, TORCHVISION, ResNetClassifier(1000, 50, '7x7')),
    counted('ResNet-101', 44_549_160, TORCHVISION, ResNetClassifier(1000, 101, '7x7')),
    counted(
        'ResNet-101 with three 3x3 convolutions as stem (resnet101s)',
        44.67e6,
        TIMM,
        ResNetClassifier(1000, 101, '3x3'),
        form=millions(2),
    ),
    counted('VGG16 (as FCN-32s with 1,000 classes)', 138_357_544, TORCHVISION, FCN(1000, 32)),
    counted(
        'VGG19 (its convolutions, and the classifier of VGG16)',
        143_667_240,
        TORCHVISION,
        VGG16(Conv, Conv, stages=STAGES_19),
        further=VGG_CLASSIFIER,
    ),
    counted(
        'Xception-65 (backbone of DeepLab-v3+, and a classifier)',
        39.92e6,
        TIMM,
        DeepLabV3Plus(19, backbone='xception65'),
        part='xception',
        further=LINEAR_1000,
        form=millions(2),
    ),
    counted(
        'Xception-71 (backbone of DeepLab-v3+, and a classifier)',
        42.34e6,
        TIMM,
        DeepLabV3Plus(19, backbone='xception71'),
        part='xception',
        further=LINEAR_1000,
        form=millions(2),
    ),
    *efficientnets(),
    counted(
        "pix2pix's U-Net (unet_256)",
        54.414e6,
        PIX2PIX_LOG,
        UNet(3, 8),
        (1, 256, 256, 3),
        form=millions(3),
    ),
    counted(
        "pix2pix's discriminator (basic)",
        2.769e6,
        PIX2PIX_LOG,
        MultiscaleDiscriminator(**PIX2PIX_FIELDS),
        (1, 256, 256, 6),
        form=millions(3),
    ),
)
"""Parameters that a paper or a release prints."""


# --- parameters counted from the layers of the source ---------------------------------------------

ERFNET = 'Eromera/erfnet_pytorch, train/erfnet.py'
TORCHSEG = 'ycszen/TorchSeg, network.py'
COIN = 'CoinCheung/BiSeNet, bisenetv1.py'
SEMSEG = 'hszhao/semseg, model/pspnet.py'
DILATION = 'SSAW14/LearnableDilationNetwork, train.prototxt'
KAZUTO = 'kazuto1011/deeplab-pytorch, libs/models'
LONG = 'shelhamer/fcn.berkeleyvision.org, net.py'
STD2P = 'SSAW14/STD2P, fcn_16s_rgbd.prototxt'
DEEPLAB = 'tensorflow/models, research/deeplab'
SFM = 'ClementPinard/SfmLearner-Pytorch, models'
MONODEPTH2 = 'nianticlabs/monodepth2, networks'
CYCLEGAN = 'junyanz/pytorch-CycleGAN-and-pix2pix, networks.py'
BICYCLE = 'junyanz/BicycleGAN, networks.py'
PIX2PIXHD = 'NVIDIA/pix2pixHD, networks.py'
HONG = 'xcyan/neurips18_hierchical_image_manipulation, models'
CRN_RELEASE = 'CQFIO/PhotographicImageSynthesis, GTA_Diversity_256p.py'
ATTACK = 'SSAW14/segmentation_membership_inference, models/resnet.py'
KERAS = 'lukemelas/EfficientNet-PyTorch, model.py'

FACE = (1, 128, 128, 68)
HEAD = (1, 96, 96, 3)
PAIR = (1, 256, 256, 3)
FRAMES = (PHOTO, (1, 2, *PHOTO[1:]))
"""Shapes of a target image and of its two neighbours."""
NEIGHBOURS = (True, False)
"""The first neighbour is earlier than the target."""
BICYCLE_INPUTS = (PAIR, (1, 8))
"""Shapes of a condition and of its latent code."""

DENOISERS = {
    'ADNet (ADCNN)': (
        ADNet(),
        'hellloxiaotian/ADNet, models.py',
        (521_493, 560_821, 579_315),
    ),
    'the denoiser of DANet': (
        UNetD(),
        'zsyOAOA/DANet, networks/UNetD.py',
        (9_153_571, 9_172_035, 9_180_113),
    ),
    'RIDNet': (RIDNet(), 'saeed-anwar/RIDNet, model', (1_499_347, 1_536_243, 1_552_385)),
    'FFDNet': (
        FFDNet(),
        'cszn/KAIR, models/network_ffdnet.py',
        (852_108, 1_073_420, 1_170_244),
    ),
}
"""Denoiser -> (net, source, parameters for images, and for maps of 35 and of 49 classes)."""


def denoisers() -> tuple[Number, ...]:
    """Returns the parameters of the denoisers, for images and for the maps of both data sets."""
    numbers = []
    for name, (net, source, published) in DENOISERS.items():
        for channels, parameters_of_net in zip((3, 35, 49), published, strict=True):
            quantity = f'{name}, {channels} channels'
            numbers.append(counted(quantity, parameters_of_net, source, net, (1, 16, 16, channels)))
    grey = FFDNet(features=64, num_layers=15)
    source = DENOISERS['FFDNet'][1]
    numbers.append(counted('FFDNet for grey images', 485_316, source, grey, (1, 16, 16, 1)))
    return tuple(numbers)


SEGMENTATION = (
    counted('ERFNet, 20 classes', 2_066_836, ERFNET, ERFNet(20, encoder_head=True)),
    counted("ERFNet, 20 classes, without the encoder's head", 2_064_256, ERFNET, ERFNet(20)),
    counted('ERFNet, 19 classes', 2_066_642, ERFNET, ERFNet(19, encoder_head=True)),
    counted(
        'ERFNet from 20 classes to an image, 32 maps after the first layer',
        2_067_279,
        ERFNET,
        ERFNet(3, first_maps=32),
        (1, 64, 64, 20),
    ),
    counted('BiSeNet-18, 19 classes', 13_494_777, TORCHSEG, BiSeNet(19)),
    counted('BiSeNet-50, 22 classes', 28_678_850, TORCHSEG, BiSeNet(22, num_layers=50)),
    counted('BiSeNet-18, 19 classes', 13_425_721, COIN, BiSeNet(19, release='coin')),
    counted('BiSeNet-18, 22 classes', 13_426_882, COIN, BiSeNet(22, release='coin')),
    counted('BiSeNet-50, 22 classes', 28_609_218, COIN, BiSeNet(22, num_layers=50, release='coin')),
    counted('PSPNet-50, 19 classes', 46_715_347, SEMSEG, PSPNet(19, aux_head=False)),
    counted('PSPNet-50 with its auxiliary head', 49_080_038, SEMSEG, PSPNet(19)),
    counted('PSPNet-50, 150 classes', 46_782_550, SEMSEG, PSPNet(150, aux_head=False)),
    counted(
        'PSPNet-101, 19 classes', 65_707_475, SEMSEG, PSPNet(19, num_layers=101, aux_head=False)
    ),
    counted('the pyramid of PSPNet', 4_198_400, SEMSEG, PSPNet(19), part='ppm'),
    counted('the ResNet-50 of PSPNet', 23_631_808, SEMSEG, PSPNet(19), part='resnet'),
    counted('DeepLab-LargeFOV, 19 classes', 20_503_379, DILATION, DeepLabLargeFOV(19)),
    counted('DeepLab-LargeFOV, 21 classes', 20_505_429, DILATION, DeepLabLargeFOV(21)),
    counted('DeepLab-LargeFOV, 11 classes', 20_495_179, DILATION, DeepLabLargeFOV(11)),
    counted('DeepLab-v2 ResNet-101, 21 classes', 44_048_532, KAZUTO, DeepLabV2(21)),
    counted('DeepLab-v2 ResNet-101, 19 classes', 43_901_068, KAZUTO, DeepLabV2(19)),
    counted('DeepLab-v2 ResNet-101, 11 classes', 43_311_212, KAZUTO, DeepLabV2(11)),
    counted('FCN-32s, 40 classes', 134_424_424, LONG, FCN(40, 32)),
    counted('FCN-16s, 40 classes', 134_444_944, LONG, FCN(40, 16)),
    counted('FCN-32s, 21 classes', 134_346_581, LONG, FCN(21, 32)),
    counted('FCN-8s, 21 classes', 134_362_751, LONG, FCN(21, 8)),
    counted(
        'FCN-16s on RGB and HHA, 40 classes',
        268_889_888,
        STD2P,
        FCN(40, 16, streams=('color', 'hha')),
        (1, 64, 64, 6),
    ),
    counted('DeepLab-v3+ Xception-65', 41_054_899, DEEPLAB, DeepLabV3Plus(19, 'xception65')),
    counted('DeepLab-v3+ Xception-71', 43_477_323, DEEPLAB, DeepLabV3Plus(19, 'xception71')),
    counted('DPC on Xception-71', 41_608_523, DEEPLAB, DeepLabV3Plus(19, 'xception71', 'dpc')),
)

DEPTH = (
    counted('DispNet', 31_596_900, SFM, DispNet()),
    counted('the pose net of SfMLearner', 1_590_668, SFM, PoseExpNet(NEIGHBOURS), *FRAMES),
    counted(
        'the pose net of SfMLearner with masks',
        3_340_388,
        SFM,
        PoseExpNet(NEIGHBOURS, 'pytorch', masks=True),
        *FRAMES,
    ),
    counted(
        'the depth decoder of monodepth2 on ResNet-18',
        3_152_724,
        MONODEPTH2,
        Monodepth2(18),
        part='decoder',
    ),
    counted(
        'the depth decoder of monodepth2 on ResNet-50',
        9_014_100,
        MONODEPTH2,
        Monodepth2(50),
        part='decoder',
    ),
    counted(
        'the pose decoder of monodepth2',
        1_314_572,
        MONODEPTH2,
        PoseResNet(NEIGHBOURS),
        *FRAMES,
        part='decoder',
    ),
    counted('the PoseCNN of monodepth2', 1_586_774, MONODEPTH2, PoseCNN(NEIGHBOURS), *FRAMES),
)

GENERATION = (
    counted('the PatchGAN with instance norm', 2_764_737, CYCLEGAN, PatchGAN(), PAIR),
    counted(
        "BicycleGAN's generator (unet_256)",
        54_794_627,
        BICYCLE,
        LatentUNet(3, 8),
        *BICYCLE_INPUTS,
    ),
    counted(
        "BicycleGAN's generator (unet_128)",
        42_145_155,
        BICYCLE,
        LatentUNet(3, 7),
        *BICYCLE_INPUTS,
    ),
    counted("BicycleGAN's encoder (resnet_256)", 2_590_032, BICYCLE, ResNetEncoder(8), PAIR),
    counted(
        "BicycleGAN's two discriminators in one (basic_256_multi)",
        3_458_978,
        BICYCLE,
        MultiscaleDiscriminator(**BICYCLE_FIELDS),
        PAIR,
    ),
    counted(
        "pix2pixHD's global generator, 36 channels",
        182_546_755,
        PIX2PIXHD,
        GlobalGenerator(3),
        (1, 64, 64, 36),
    ),
    counted(
        "pix2pixHD's discriminator, 39 channels, two scales",
        5_603_202,
        PIX2PIXHD,
        MultiscaleDiscriminator(),
        (1, 64, 64, 39),
    ),
    counted(
        'the two-stream net for Cityscapes',
        13.90e6,
        HONG,
        TwoStream(35, norm='batch'),
        (1, 256, 256, 70),
        form=millions(2),
    ),
    counted(
        'the two-stream net for ADE20K',
        16.33e6,
        HONG,
        TwoStream(49, norm='instance', dilated=True),
        (1, 256, 256, 98),
        form=millions(2),
    ),
    counted(
        'CRN with nine images, 20 classes, 256 rows',
        97_875_483,
        CRN_RELEASE,
        CRN(branches='late', num_branches=9, last_modules=2),
        (1, 256, 512, 20),
    ),
    counted(
        'CRN with a single image of a face, 128 rows, 68 heat maps',
        95.5e6,
        CRN_RELEASE,
        CRN(branches='single'),
        FACE,
        form=millions(1),
    ),
    counted(
        'CRN with a single image of a head, 96 rows, normals',
        73.3e6,
        CRN_RELEASE,
        CRN(branches='single', first_height=6),
        HEAD,
        form=millions(1),
    ),
)

CLASSIFICATION = (
    counted(
        'EfficientNet-B7, 80 classes',
        63_991_840,
        KERAS,
        EfficientNet(80, 'b7', forms='naive'),
    ),
    counted(
        'the ResNet-50 of the attack net, on 3 channels',
        23_631_808,
        ATTACK,
        ResNetClassifier(2),
        part='resnet',
    ),
)

COUNTED = (*SEGMENTATION, *DEPTH, *GENERATION, *denoisers(), *CLASSIFICATION)
"""Parameters that no source prints. They were counted from the layers of the release."""
