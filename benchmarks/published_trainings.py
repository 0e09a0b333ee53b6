"""Settings of the published trainings, and of the configs."""

import functools
from collections.abc import Callable
from typing import Any

import ml_collections

from benchmarks.published_number import Number, decimals, digits, listing, size, whole, words
from benchmarks.workers import ROOT
from segjax.config import config_file
from segjax.data import labels

SIZES = ('augment.crop', 'augment.resize', 'attacker.patch')
"""Keys whose value is (rows, columns)."""


@functools.cache
def load(config: str) -> ml_collections.ConfigDict:
    """Returns the config of a file of configs/, as 'std2p' or 'std2p:nyu13'."""
    name, colon, argument = config.partition(':')
    return config_file.load(f'{ROOT}/configs/{name}.py{colon}{argument}')


def value_of(config: str, key: str) -> Any:
    """Returns the value of a key, as 'train.batch_size'."""
    return functools.reduce(lambda section, name: section[name], key.split('.'), load(config))


def form_of(key: str, value: Any) -> Callable[[Any], str]:
    """Returns the form of the values of a key."""
    if key in SIZES:
        return size
    if isinstance(value, tuple):
        return listing
    if isinstance(value, bool | str):
        return words
    return whole if isinstance(value, int) else digits(4)


def settings(config: str, source: str, *rows: tuple[Any, ...]) -> list[Number]:
    """Returns settings of a config.

    Args:
      config: as in `load`.
      source: of all rows.
      *rows: (key, published) or (key, published, reason of a difference).
    """
    numbers = []
    for key, published, *reason in rows:
        compute = functools.partial(value_of, config, key)
        quantity = f'`{config}`: {key}'
        numbers.append(
            Number(quantity, published, source, compute, form_of(key, published), *reason)
        )
    return numbers


def computed(
    config: str, name: str, published: int, source: str, compute: Callable[[], int]
) -> Number:
    """Returns a number that several settings of a config give together."""
    return Number(f'`{config}`: {name}', published, source, compute, whole)


def epochs(
    config: str,
    published: int,
    images: int,
    source: str,
    *reason: str,
    section: str = 'train',
    name: str = 'epochs',
) -> Number:
    """Returns the number of passes over the images of a training set.

    Args:
      config: as in `load`.
      published: number of epochs.
      images: of the training set.
      source: of the number.
      *reason: of a difference.
      section: of the steps and of the batch size.
      name: of the number.
    """

    def compute() -> float:
        steps = value_of(config, f'{section}.num_steps')
        return steps * value_of(config, f'{section}.batch_size') / images

    return Number(f'`{config}`: {name}', published, source, compute, decimals(0), *reason)


def num_boxes(config: str) -> int:
    """Returns the number of classes whose objects have boxes."""
    return len(value_of(config, 'boxes.classes'))


CITYSCAPES = 2975
"""Training images of Cityscapes."""
BEDROOMS = 1239
"""Training images of the bedrooms of ADE20K."""
FACES = 4038
"""Training images of LFW."""
SHAPES = 332_310
"""Objects of COCO above 1 % of their image."""


# --- sources --------------------------------------------------------------------------------------

CYCLEGAN = 'Löhdefink and Fingscheidt, section 4.2'
SISM = 'He et al., semantic inpainting, section 4.1'
SLIDES = 'Papadopoulos et al., slides'
TABLE_4_1 = 'He, thesis, Table 4.1'
SECTION_3 = 'He, thesis, section 3.3'
SECTION_4 = 'He, thesis, section 4.2.4'
SECTION_4_3 = 'He, thesis, section 4.3.2'
SECTION_5 = 'He, thesis, section 5.3'
SECTION_6 = 'He, thesis, section 6.3.1'
SECTION_7 = 'He, thesis, section 7.4'
TABLE_7_2 = 'He, thesis, Table 7.2'
ERFNET = 'Eromera/erfnet_pytorch, train/main.py'
TORCHSEG = 'ycszen/TorchSeg, BiSeNet'
SFMLEARNER = 'tinghuiz/SfMLearner'
HONG = 'xcyan/neurips18_hierchical_image_manipulation, scripts'
PIX2PIXHD = 'NVIDIA/pix2pixHD, options'
PIX2PIX = 'junyanz/pytorch-CycleGAN-and-pix2pix, options'
BICYCLE = 'junyanz/BicycleGAN, options'
SEMSEG = 'hszhao/semseg, config'
STD2P = 'SSAW14/STD2P'
DILATION = 'SSAW14/LearnableDilationNetwork'
KAZUTO = 'kazuto1011/deeplab-pytorch'
ATTACK = 'SSAW14/segmentation_membership_inference, attack.py'

KERNELS_ALONE = 'segjax decays kernels alone, unless optim.decay_norm_and_bias is set'
PAPER_DECIDES = 'The setting is that of He et al., whose nets are those of the release'


# --- segmentation ---------------------------------------------------------------------------------


TWO_STAGES = 'The release trains the encoder for 150 epochs first. Here both are trained at once'
SUPERVISED = (
    *settings(
        'supervised',
        ERFNET,
        ('augment.crop', (512, 1024)),
        ('augment.flip', 0.5),
        ('augment.translate', 2),
        ('train.batch_size', 6),
        ('optim.name', 'adam'),
        ('optim.learning_rate', 5e-4),
        ('optim.beta1', 0.9),
        ('optim.beta2', 0.999),
        ('optim.weight_decay', 1e-4),
        ('optim.power', 0.9),
        ('optim.decay_norm_and_bias', True, KERNELS_ALONE),
        ('loss.weight_k', 1.1),
        ('model.dropout', (0.03, 0.3)),
    ),
    epochs('supervised', 150, CITYSCAPES, ERFNET, name='epochs of the whole net'),
    epochs('supervised', 300, CITYSCAPES, ERFNET, TWO_STAGES, name='epochs of both stages'),
)
"""The training of ERFNet."""


MEAN_OF_COLOURS = "The weights are CycleGAN's 10, 10 and 1, which belong to a mean over colours"
BOUNDED = 'Raw logits measure 1.9 dB at any number of bits, tanh(logits / 8) nearly as published'
NOISE_CYCLEGAN = (
    *settings(
        'noise_cyclegan',
        CYCLEGAN,
        ('augment.resize', (256, 512)),
        ('train.batch_size', 4),
        ('optim.name', 'adam'),
        ('optim.learning_rate', 2e-4),
        ('optim.beta1', 0.5),
        ('optim.beta2', 0.999),
        ('optim_discriminator.learning_rate', 2e-4),
        ('model.init_std', 0.02),
        ('painter.init_std', 0.02),
        ('painter.first_maps', 32),
        ('discriminator.init_std', 0.02),
        ('discriminator.num_layers', 3),
        ('cycle.alpha', 0.5),
        ('cycle.beta', 1 / 11),
        ('cycle.gamma', 20 / 31),
        ('cycle.pool_size', 50),
    ),
    *settings(
        'noise_cyclegan',
        'Löhdefink and Fingscheidt, Eq. 3',
        ('cycle.l1_reduction', 'sum_channels', MEAN_OF_COLOURS),
    ),
    *settings(
        'noise_cyclegan',
        'Löhdefink and Fingscheidt, section 3.1',
        ('cycle.latent_range', 'raw', BOUNDED),
        ('cycle.latent_gain', 1.0, BOUNDED),
    ),
    epochs('noise_cyclegan', 200, CITYSCAPES, CYCLEGAN),
    computed(
        'noise_cyclegan',
        'classes of the latent, void included',
        20,
        CYCLEGAN,
        lambda: labels.CITYSCAPES.num_classes + value_of('noise_cyclegan', 'data.void_class'),
    ),
)
"""The training of the CycleGAN."""


MISPRINT = 'Table 4.1 prints 1 x 10^4, a misprint of 1 x 10^-4'
ROWS_OF_TABLE_4_1 = {
    'learned_dilation': ((321, 321), 10, 1e-3, 20_000),
    'learned_dilation:net=deeplab_v2': ((321, 321), 10, 2.5e-4, 20_000),
    'learned_dilation:net=pspnet': ((561, 561), 16, 1e4, 20_000, MISPRINT),
    'learned_dilation:camvid,net=deeplab_v2': ((321, 321), 10, 2.5e-4, 15_000),
    'learned_dilation:camvid,net=pspnet': ((473, 473), 10, 1e-4, 10_000),
}
"""Config -> crop, batch size, rate and steps, and the reason for another rate."""


def table_4_1() -> list[Number]:
    """Returns the five rows of Table 4.1."""
    numbers = []
    for config, (crop, batch_size, rate, steps, *reason) in ROWS_OF_TABLE_4_1.items():
        numbers += settings(
            config,
            TABLE_4_1,
            ('augment.crop', crop),
            ('train.batch_size', batch_size),
            ('optim.learning_rate', rate, *reason),
            ('train.num_steps', steps),
        )
    return numbers


LEARNED_DILATION = (
    *table_4_1(),
    *settings(
        'learned_dilation',
        SECTION_4,
        ('optim.name', 'sgd'),
        ('optim.momentum', 0.9),
        ('optim.weight_decay', 5e-4),
        ('optim.power', 0.9),
    ),
    *settings(
        'learned_dilation',
        DILATION,
        ('dilation.rate', 200_000.0),
        ('optim.decay_norm_and_bias', False),
        ('loss.label_stride', 8),
    ),
    *settings(
        'learned_dilation:net=deeplab_v2',
        KAZUTO,
        ('model.scales', (0.75, 0.5)),
        ('augment.scale', (0.5, 1.5)),
    ),
    *settings(
        'learned_dilation:net=pspnet',
        SEMSEG,
        ('augment.scale', (0.5, 2.0)),
        ('augment.rotate', 10.0),
        ('augment.blur', 0.5),
    ),
    Number(
        '`learned_dilation`: range of the factors of fc6',
        (4, 20),
        'He, thesis, Table 4.2',
        lambda: value_of('learned_dilation', 'dilation.ranges')[0][1:],
        listing,
    ),
    *settings('learned_dilation:camvid', SECTION_4_3, ('augment.resize', (480, 640))),
)
"""The training of learned dilation factors."""


WHOLE_IMAGES = 'The slides scale images to 832x256'
SCENE_GEOMETRY = (
    *settings('scene_geometry', SLIDES, ('augment.crop', (256, 832)), ('model.num_layers', 50)),
    *settings(
        'scene_geometry',
        TORCHSEG,
        ('augment.crop', (1024, 1024), WHOLE_IMAGES),
        ('augment.scale', (0.75, 2.0), 'The slides name no augmentation'),
        ('train.batch_size', 16),
        ('train.num_steps', 80_000),
        ('optim.name', 'sgd'),
        ('optim.learning_rate', 1e-2),
        ('optim.momentum', 0.9),
        ('optim.weight_decay', 5e-4),
        ('optim.power', 0.9),
        ('optim.decay_norm_and_bias', False),
        ('loss.ohem_threshold', 0.7),
        ('loss.ohem_min_kept', 1 / 16),
        ('loss.aux_weight', 1.0),
    ),
    *settings(
        'scene_geometry',
        SFMLEARNER,
        ('augment.crop', (128, 416), WHOLE_IMAGES),
        ('optim_depth.name', 'adam'),
        ('optim_depth.learning_rate', 2e-4),
        ('optim_depth.beta1', 0.9),
        ('depth.batch_size', 4),
        ('depth.num_steps', 200_000),
        ('depth.num_scales', 4),
        ('depth.frames', (-1, 1)),
        ('depth.smooth_weight', 0.5),
        ('depth.mask_weight', 0.0),
    ),
)
"""The training of BiSeNet and of the depth net."""


POOLING = (
    *settings(
        'std2p',
        SECTION_3,
        ('pooling.num_frames', 11),
        ('pooling.interval', 3),
        ('matching.threshold', 0.4),
        ('train.batch_size', 10),
        ('train.num_steps', 1000),
        ('optim.name', 'sgd'),
        ('optim.momentum', 0.9),
        ('optim.weight_decay', 5e-4),
    ),
    computed(
        'std2p',
        'frames around a target, 2 pooling.reach / pooling.interval',
        100,
        SECTION_3,
        lambda: 2 * value_of('std2p', 'pooling.reach') // value_of('std2p', 'pooling.interval'),
    ),
    *settings('std2p', STD2P, ('augment.crop', (425, 560)), ('regions.num_regions', 550)),
    *settings(
        'std2p',
        's-gupta/rcnn-depth, structured-edges',
        ('testing.boundary_distance', 0.0075),
    ),
)
"""The fine-tuning behind data-driven pooling."""


# --- semantic inpainting --------------------------------------------------------------------------


SISM_SETTINGS = (
    ('optim.name', 'adam'),
    ('optim.learning_rate', 2e-5),
    ('loss.adversarial', 1.0),
    ('loss.object', 1.0),
    ('loss.context', 1.0),
)
SEMANTIC_INPAINTING = (
    *settings('semantic_inpainting', SISM, *SISM_SETTINGS),
    epochs('semantic_inpainting', 200, CITYSCAPES, SISM),
    epochs(
        'semantic_inpainting',
        300,
        CITYSCAPES,
        SISM,
        section='picture',
        name='epochs of the painter',
    ),
    computed(
        'semantic_inpainting',
        'classes with boxes',
        8,
        SISM,
        functools.partial(num_boxes, 'semantic_inpainting'),
    ),
    *settings(
        'semantic_inpainting',
        HONG,
        ('augment.crop', (256, 256)),
        ('train.batch_size', 16),
        ('optim.beta1', 0.5),
        ('boxes.margin', 2.0),
        ('boxes.min_side', 128.0),
        ('boxes.max_side', 256.0),
        ('boxes.background', 0.3),
        ('boxes.outside', (1.2, 1.5)),
        ('optim.learning_rate', 2e-4, PAPER_DECIDES),
        ('loss.adversarial', 0.1, PAPER_DECIDES),
    ),
    epochs('semantic_inpainting', 400, CITYSCAPES, HONG, PAPER_DECIDES),
    *settings('semantic_inpainting:bedroom', SISM, *SISM_SETTINGS),
    epochs('semantic_inpainting:bedroom', 200, BEDROOMS, SISM),
    computed(
        'semantic_inpainting:bedroom',
        'classes with boxes',
        7,
        SISM,
        functools.partial(num_boxes, 'semantic_inpainting:bedroom'),
    ),
    *settings(
        'semantic_inpainting:bedroom',
        HONG,
        ('train.batch_size', 8),
        ('boxes.margin', 3.0),
        ('boxes.min_side', 32.0),
        ('boxes.background', 0.05),
        ('boxes.enlarge', 0.01),
    ),
    *settings(
        'shape_classifier',
        SISM,
        ('shapes.model.backbone', 'b7'),
        ('shapes.optim.name', 'adam'),
        ('shapes.optim.learning_rate', 1e-5),
        ('shapes.optim.step_factor', 0.7),
        ('shapes.min_share', 0.01),
    ),
    epochs('shape_classifier', 50, SHAPES, SISM),
)
"""The trainings on Cityscapes and on bedrooms, and of the shape classifier."""


# --- generation of images -------------------------------------------------------------------------


LABEL_TO_IMAGE = (
    *settings(
        'label_to_image',
        PIX2PIXHD,
        ('augment.resize', (512, 1024)),
        ('train.batch_size', 1),
        ('painter.optim.learning_rate', 2e-4),
        ('painter.optim.beta1', 0.5),
        ('painter.model.blocks', 9),
        ('painter.model.halvings', 4),
        ('painter.model.init_std', 0.02),
        ('painter.discriminator.num_scales', 2),
        ('painter.discriminator.num_layers', 3),
        ('painter.weights.feature_matching', 10.0),
        ('painter.weights.vgg', 10.0),
    ),
    epochs('label_to_image', 200, CITYSCAPES, PIX2PIXHD),
    *settings(
        'label_to_image:local',
        PIX2PIXHD,
        ('augment.resize', (1024, 2048)),
        ('painter.discriminator.num_scales', 3),
    ),
    epochs('label_to_image:local', 100, CITYSCAPES, PIX2PIXHD),
    computed(
        'label_to_image:local',
        'epochs with a fixed global generator',
        10,
        PIX2PIXHD,
        lambda: value_of('label_to_image:local', 'painter.fix_global') // CITYSCAPES,
    ),
    *settings('label_to_image:box', HONG, ('train.batch_size', 8), ('boxes.margin', 3.0)),
    epochs('label_to_image:box', 200, CITYSCAPES, HONG),
)
"""The trainings of pix2pixHD, and of the image generator of Hong et al."""


SMALL_FACES = 'Faces have 128x128 pixels in the thesis, where 7 halvings leave one pixel'
DROPOUT_CODES = (
    *settings(
        'dropout_codes',
        SECTION_5,
        ('augment.crop', (128, 128)),
        ('train.num_steps', 90_000),
        ('optim.name', 'adam'),
        ('optim.learning_rate', 1e-4),
        ('optim.power', 0.9),
        ('model.drop_ratio', 0.5),
        ('model.num_branches', 10),
    ),
    *settings(
        'dropout_codes:pets',
        SECTION_5,
        ('augment.crop', (96, 96)),
        ('train.num_steps', 110_000),
        ('model.num_branches', 72),
    ),
    *settings(
        'dropout_codes',
        'CQFIO/PhotographicImageSynthesis',
        ('model.channels', 1024),
        ('model.last_channels', 512),
        ('model.norm_epsilon', 1e-12),
    ),
    *settings('pixel_neighbours:pets', SECTION_5, ('testing.num_samples', 72)),
    epochs('conditional_gan', 300, FACES, SECTION_5),
    epochs('conditional_gan:gan=pix2pix', 300, FACES, SECTION_5),
    *settings(
        'conditional_gan',
        BICYCLE,
        ('train.batch_size', 2),
        ('bicycle.code_size', 8),
        ('bicycle.optim.learning_rate', 2e-4),
        ('bicycle.optim.beta1', 0.5),
        ('bicycle.weights.l1', 10.0),
        ('bicycle.weights.adversarial', 1.0),
        ('bicycle.weights.adversarial_random', 1.0),
        ('bicycle.weights.code', 0.5),
        ('bicycle.weights.kl', 0.01),
        ('bicycle.discriminator.num_scales', 2),
        ('bicycle.model.num_downs', 8, SMALL_FACES),
    ),
    *settings(
        'conditional_gan:gan=pix2pix',
        PIX2PIX,
        ('train.batch_size', 1),
        ('pix2pix.optim.learning_rate', 2e-4),
        ('pix2pix.optim.beta1', 0.5),
        ('pix2pix.weights.l1', 100.0),
        ('pix2pix.model.dropout', 0.5),
        ('pix2pix.model.init_std', 0.02),
        ('pix2pix.model.num_downs', 8, SMALL_FACES),
    ),
)
"""The trainings of faces and heads, and of their rivals."""


DENSE_FEATURES = (
    *settings(
        'dense_features',
        SECTION_6,
        ('features.tap', 'conv4_12'),
        ('refit.share', 0.3),
        ('refit.label_smoothing', 1e-4),
        ('optim.name', 'sgd'),
        ('optim.learning_rate', 1e-6),
        ('optim.momentum', 0.9),
        ('optim.weight_decay', 5e-4),
        ('optim.power', 0.9),
    ),
    epochs(
        'dense_features', 60, 3000, SECTION_6, section='features', name='epochs of 3,000 patches'
    ),
    Number(
        '`dense_features`: real images of a batch, 70 % of 16',
        11.2,
        SECTION_6,
        functools.partial(value_of, 'dense_features', 'train.batch_size'),
        decimals(0),
    ),
    *settings(
        'dense_features:ade20k',
        SECTION_6,
        ('features.tap', 'conv4_3'),
        ('model.num_layers', 50),
        ('refit.label_smoothing', 0.1),
        ('optim.learning_rate', 1e-7),
    ),
    epochs(
        'dense_features:ade20k',
        20,
        40_000,
        SECTION_6,
        section='features',
        name='epochs of 40,000 patches',
    ),
    *settings(
        'dense_features',
        SEMSEG,
        ('augment.crop', (713, 713)),
        ('augment.scale', (0.5, 2.0)),
        ('segmentation.batch_size', 16),
        ('segmentation.optim.learning_rate', 1e-2),
        ('segmentation.optim.weight_decay', 1e-4),
        ('segmentation.optim.decay_norm_and_bias', True),
        ('loss.aux_weight', 0.4),
        ('model.bins', (1, 2, 3, 6)),
        ('model.dropout', 0.1),
    ),
    *settings('dense_features:ade20k', SEMSEG, ('augment.crop', (473, 473))),
    *settings(
        'dense_features',
        BICYCLE,
        ('features.batch_size', 2),
        ('bicycle.code_size', 8),
        ('bicycle.optim.learning_rate', 2e-4),
        ('bicycle.weights.l1', 10.0),
        ('bicycle.weights.kl', 0.01),
        ('bicycle.weights.code', 0.5),
    ),
)
"""The trainings of the generator of features, and with its features."""


TEN_PATCHES = 'The thesis attacks 10 patches of an image'
MEMBERSHIP = (
    *settings(
        'membership',
        SECTION_7,
        ('augment.crop', (713, 713)),
        ('model.num_layers', 101),
        ('shadow.model.num_layers', 101),
        ('attacker.model.num_layers', 50),
        ('shadow.num_steps', 30_000),
        ('testing.num_patches', 10),
    ),
    *settings(
        'membership:bdd100k',
        SECTION_7,
        ('augment.crop', (705, 705)),
        ('shadow.batch_size', 7),
        ('shadow.optim.learning_rate', 1e-2),
        ('shadow.optim.momentum', 0.9),
        ('shadow.optim.weight_decay', 4e-5),
        ('shadow.optim.power', 0.9),
    ),
    *settings(
        'membership:vistas',
        SECTION_7,
        ('augment.crop', (721, 721)),
        ('shadow.batch_size', 9),
        ('shadow.optim.learning_rate', 2e-2),
    ),
    *settings('membership:defence=dropout', TABLE_7_2, ('testing.strength', 0.1)),
    *settings('membership:defence=gaussian', TABLE_7_2, ('testing.strength', 0.5)),
    *settings(
        'membership:defence=obfuscate,victim=features',
        TABLE_7_2,
        ('testing.strength', 0.75),
    ),
    *settings(
        'membership',
        ATTACK,
        ('attacker.patch', (90, 90)),
        ('attacker.stride', 8),
        ('attacker.model.output_stride', 8),
        ('attacker.model.dilated', False),
        ('testing.num_patches', 6, TEN_PATCHES),
    ),
    *settings(
        'membership',
        SEMSEG,
        ('train.batch_size', 16),
        ('optim.learning_rate', 1e-2),
        ('optim.weight_decay', 1e-4),
        ('optim.decay_norm_and_bias', True),
        ('augment.scale', (0.5, 2.0)),
        ('augment.rotate', 10.0),
        ('augment.blur', 0.5),
        ('loss.aux_weight', 0.4),
    ),
)
"""The trainings of victims, shadows and attack nets, and the published defences."""


TRAININGS = (
    *SUPERVISED,
    *NOISE_CYCLEGAN,
    *LEARNED_DILATION,
    *SCENE_GEOMETRY,
    *SEMANTIC_INPAINTING,
    *LABEL_TO_IMAGE,
    *POOLING,
    *DROPOUT_CODES,
    *DENSE_FEATURES,
    *MEMBERSHIP,
)
