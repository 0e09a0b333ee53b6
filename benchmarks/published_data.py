"""Images and classes of data sets, as papers state them and as the code holds them."""

import functools
from collections.abc import Callable
from typing import Any

from benchmarks.published_number import Number, size, whole
from segjax.data import draws, face_points, labels
from segjax.data.builders import ade20k, apolloscape, nyu_frames, oxford_pet, sun3d
from segjax.modes.predict import packs
from segjax.spec import ClassSpec


def images_of(data_set: str, split: str) -> int:
    """Returns the official number of images of a split of a benchmark."""
    return packs.BENCHMARKS[data_set].numbers[split]


def list_size(data_set: str, name: str) -> int:
    """Returns the size of a published list of members or of non-members."""
    return {row[0]: row[2] for row in draws.PUBLISHED[data_set]}[name]


def official_pets(images: int) -> tuple[int, int]:
    """Returns how many of the images of Oxford-IIIT Pet are for training and for testing."""
    training = round(oxford_pet.TRAIN_SHARE * images)
    return training, images - training


def num_merged() -> int:
    """Counts the classes of Mapillary Vistas that have a counterpart in Cityscapes."""
    return sum(len(names) for names in labels.VISTAS_AS_CITYSCAPES.values())


def images(data_set: str, split: str, published: int, source: str, reason: str = '') -> Number:
    """Returns the number of images of a split."""
    compute = functools.partial(images_of, data_set, split)
    return Number(f'{data_set}, images of {split}', published, source, compute, whole, reason)


def listed(data_set: str, name: str, published: int, source: str, reason: str = '') -> Number:
    """Returns the number of images of a list of members or of non-members."""
    compute = functools.partial(list_size, data_set, name)
    quantity = f'{data_set}, {name.replace("_", " ")}'
    return Number(quantity, published, source, compute, whole, reason)


def classes(name: str, published: int, source: str, spec: ClassSpec, reason: str = '') -> Number:
    """Returns the number of classes of a specification."""
    return Number(f'{name}, classes', published, source, lambda: spec.num_classes, whole, reason)


def held(
    quantity: str, published: Any, source: str, compute: Callable[[], Any], reason: str = ''
) -> Number:
    """Returns a number, or a size in rows and columns, that the code holds."""
    form = size if isinstance(published, tuple) else whole
    return Number(quantity, published, source, compute, form, reason)


CYCLEGAN = 'Löhdefink and Fingscheidt, section 4.2'
INPAINTING = 'He et al., semantic inpainting, section 4.1'
GEOMETRY = 'Papadopoulos et al., slides on the data set'
CHAPTER_2 = 'He, thesis, chapter 2'
SECTION_3 = 'He, thesis, section 3.3'
SECTION_5 = 'He, thesis, section 5.3.1'
SECTION_7 = 'He, thesis, section 7.4.1'
TABLE_7_1 = 'He, thesis, Table 7.1'
NYU_RELEASE = 'ankurhanda/nyuv2-meta-data'
LEAKS = 'SSAW14/segmentation_membership_inference, splits'

VICTIM = 'The published lists have 1,488 and 912 lines. The thesis prints 1448 and 952'
LISTS = (
    listed('cityscapes', 'victim_members', 1488, LEAKS),
    listed('cityscapes', 'victim_non_members', 912, LEAKS),
    listed('cityscapes', 'victim_members', 1448, SECTION_7, VICTIM),
    listed('cityscapes', 'victim_non_members', 952, SECTION_7, VICTIM),
    listed('cityscapes', 'shadow_members', 555, SECTION_7),
    listed('cityscapes', 'shadow_non_members', 520, SECTION_7),
    held(
        'cityscapes, members and non-members of victim and shadow',
        3475,
        SECTION_7,
        lambda: sum(row[2] for row in draws.PUBLISHED['cityscapes']),
    ),
    listed('bdd100k', 'shadow_members', 4000, TABLE_7_1),
    listed('bdd100k', 'shadow_non_members', 4000, TABLE_7_1),
    listed('vistas', 'shadow_members', 10_000, TABLE_7_1),
    listed('vistas', 'shadow_non_members', 10_000, TABLE_7_1),
)

IMAGES = (
    images('cityscapes', 'train', 2975, CYCLEGAN),
    images('cityscapes', 'val', 500, CYCLEGAN),
    images('cityscapes', 'test', 1525, CYCLEGAN),
    images('ade20k', 'train', 20_210, CHAPTER_2),
    images('ade20k', 'val', 2000, CHAPTER_2),
    images('bdd100k', 'train', 7000, CHAPTER_2),
    images(
        'bdd100k',
        'val',
        2000,
        CHAPTER_2,
        'The thesis exchanges validation and test: the release has 1,000 and 2,000',
    ),
    held('bedrooms of ADE20K, images of val', 150, INPAINTING, lambda: ade20k.NUM_VAL),
    held('heads of pets, images of train', 3000, SECTION_5, lambda: official_pets(3686)[0]),
    held('heads of pets, images of val', 686, SECTION_5, lambda: official_pets(3686)[1]),
    held(
        'heads of pets, all images',
        3868,
        SECTION_5,
        lambda: round(3000 / oxford_pet.TRAIN_SHARE),
        'The thesis exchanges two digits: 3,000 + 686 = 3,686',
    ),
)

CLASSES = (
    classes('cityscapes', 19, CHAPTER_2, labels.CITYSCAPES),
    classes(
        'all labels of cityscapes',
        35,
        INPAINTING,
        labels.CITYSCAPES_ALL,
        'The 35th is the licence plate, whose id -1 is void in 8 bits. data.void_class adds void',
    ),
    classes(
        'categories of cityscapes',
        8,
        CHAPTER_2,
        labels.CITYSCAPES_CATEGORIES.classes,
        'The eighth category is void, which no score counts',
    ),
    held('movable classes of cityscapes', 8, INPAINTING, lambda: len(labels.CITYSCAPES_MOVABLE)),
    classes('camvid', 11, CHAPTER_2, labels.CAMVID),
    classes('vistas', 65, CHAPTER_2, labels.VISTAS),
    held('vistas, classes with a counterpart in cityscapes', 25, SECTION_7, num_merged),
    classes('vistas after the merge', 19, SECTION_7, labels.VISTAS_CITYSCAPES.classes),
    classes('ade20k', 150, CHAPTER_2, labels.ADE20K),
    classes('bedrooms of ADE20K', 49, INPAINTING, labels.ADE20K_BEDROOM),
    classes('nyu_depth', 40, SECTION_3, labels.NYU40),
    classes('nyu_depth, coarse', 13, SECTION_3, labels.NYU13.classes),
    classes('nyu_depth, super-classes', 4, SECTION_3, labels.NYU4.classes),
    held(
        'nyu_depth, classes before the merge',
        894,
        NYU_RELEASE,
        lambda: len(labels.NYU_FINE_TO_40) - 1,
    ),
    classes('sun3d', 33, SECTION_3, sun3d.SUN3D33.classes),
    held('sun3d, classes merged into other props', 5, SECTION_3, lambda: len(sun3d.INTO_PROPS)),
    classes('apolloscape', 22, 'ApolloScapeAuto/dataset-api', labels.APOLLOSCAPE),
    held('coco_panoptic, things', 80, INPAINTING, lambda: labels.NUM_COCO_THINGS),
    classes('coco_panoptic', 133, 'cocodataset/panopticapi', labels.COCO_PANOPTIC),
)

SIZES = (
    held('nyu_depth, pixels of a frame', (480, 640), NYU_RELEASE, lambda: nyu_frames.FULL_SIZE),
    held(
        'nyu_depth, evaluated pixels',
        (425, 560),
        'SSAW14/STD2P, examples/predict.py',
        lambda: nyu_frames.SIZE,
    ),
    held(
        'apolloscape, pixels of an image',
        (2710, 3384),
        GEOMETRY,
        lambda: apolloscape.FULL_SIZE,
    ),
    held('apolloscape, pixels of a net input', (256, 832), GEOMETRY, lambda: apolloscape.SIZE),
    held('landmarks of a face', 68, SECTION_5, lambda: face_points.FEATURE.shape[0]),
)

DATA = (*IMAGES, *LISTS, *CLASSES, *SIZES)
