"""Classes of the data sets, and the meaning of their label files: id in the file -> train id.

Train ids are 0 .. C-1, and 255 (`IGNORE`) is void. An id that a data set does not define is an
error, never void. A silently ignored class is the most common way to train on the wrong labels.
"""

import itertools
import pathlib
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.core import text_files
from segjax.data import class_tables
from segjax.errors import InputError, unknown_name
from segjax.spec import IGNORE, ClassMap, ClassSpec

Color = tuple[int, int, int]


class LabelCoding(NamedTuple):
    """The meaning of ids and colours in label files.

    classes    names, palette and file ids of the classes
    train_ids  [256] uint8: the train id of every id in a file, IGNORE for void
    known      [256] bool: the ids that may occur in a file
    colors     (r, g, b) -> train id or IGNORE, for masks in colour. {} refuses masks in colour
    """

    classes: ClassSpec
    train_ids: np.ndarray
    known: np.ndarray
    colors: Mapping[Color, int]


def make_coding(
    classes: ClassSpec,
    ignore: Iterable[int],
    colors: Mapping[Color, int] | None = None,
    aliases: Mapping[int, int] | None = None,
) -> LabelCoding:
    """Builds a coding in which the id `classes.ids[t]` means train id t.

    Apart from these ids, only the ids in `ignore` and `aliases` may occur.

    Args:
      classes: their ids are the ids in the files.
      ignore: ids in the files that mean void.
      colors: (r, g, b) -> train id or IGNORE.
      aliases: additional id in the files -> id of the class that it counts as.
    """
    # All train ids are IGNORE at first, so `ignore` only adds to the known ids.
    train_ids = np.full(256, IGNORE, np.uint8)
    known = np.zeros(256, bool)
    known[list(ignore)] = True
    train_ids[list(classes.ids)] = np.arange(classes.num_classes)
    known[list(classes.ids)] = True
    for alias, number in (aliases or {}).items():
        train_ids[alias] = train_ids[number]
        known[alias] = True
    train_ids.setflags(write=False)
    known.setflags(write=False)
    return LabelCoding(classes, train_ids, known, dict(colors or {}))


def _class_spec(*rows: tuple[str, int, Color]) -> ClassSpec:
    """Builds classes from rows (name, id, colour)."""
    names, ids, palette = zip(*rows)
    return ClassSpec(names=names, palette=palette, ids=ids)


def _chosen(classes: ClassSpec, *names: str) -> ClassSpec:
    """Returns some of the classes, in the order of their names."""
    places = [classes.names.index(name) for name in names]
    return _class_spec(*((classes.names[i], classes.ids[i], classes.palette[i]) for i in places))


CITYSCAPES_ALL = _class_spec(
    ('unlabeled', 0, (0, 0, 0)),
    ('ego vehicle', 1, (0, 0, 0)),
    ('rectification border', 2, (0, 0, 0)),
    ('out of roi', 3, (0, 0, 0)),
    ('static', 4, (0, 0, 0)),
    ('dynamic', 5, (111, 74, 0)),
    ('ground', 6, (81, 0, 81)),
    ('road', 7, (128, 64, 128)),
    ('sidewalk', 8, (244, 35, 232)),
    ('parking', 9, (250, 170, 160)),
    ('rail track', 10, (230, 150, 140)),
    ('building', 11, (70, 70, 70)),
    ('wall', 12, (102, 102, 156)),
    ('fence', 13, (190, 153, 153)),
    ('guard rail', 14, (180, 165, 180)),
    ('bridge', 15, (150, 100, 100)),
    ('tunnel', 16, (150, 120, 90)),
    ('pole', 17, (153, 153, 153)),
    ('polegroup', 18, (153, 153, 153)),
    ('traffic light', 19, (250, 170, 30)),
    ('traffic sign', 20, (220, 220, 0)),
    ('vegetation', 21, (107, 142, 35)),
    ('terrain', 22, (152, 251, 152)),
    ('sky', 23, (70, 130, 180)),
    ('person', 24, (220, 20, 60)),
    ('rider', 25, (255, 0, 0)),
    ('car', 26, (0, 0, 142)),
    ('truck', 27, (0, 0, 70)),
    ('bus', 28, (0, 60, 100)),
    ('caravan', 29, (0, 0, 90)),
    ('trailer', 30, (0, 0, 110)),
    ('train', 31, (0, 80, 100)),
    ('motorcycle', 32, (0, 0, 230)),
    ('bicycle', 33, (119, 11, 32)),
)
"""All 34 annotated classes of Cityscapes (cityscapesScripts, helpers/labels.py).

Licence plates are the 35th class. Their id is -1, which an 8-bit file can only hold as 255: void.
"""

CITYSCAPES = _chosen(
    CITYSCAPES_ALL,
    *('road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign'),
    *('vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train'),
    *('motorcycle', 'bicycle'),
)
"""The 19 evaluated classes of Cityscapes (cityscapesScripts, helpers/labels.py)."""


def merge(classes: ClassSpec, merged: ClassSpec, groups: Sequence[Sequence[str]]) -> ClassMap:
    """Builds a class map from the names of the classes.

    Args:
      classes: of the data set.
      merged: the merged classes.
      groups: for each merged class, the names of the classes that it consists of. A class of no
        group becomes void.
    """
    train_id_of = {}
    for train_id, names in enumerate(groups):
        train_id_of |= dict.fromkeys(names, train_id)
    return ClassMap(merged, tuple(train_id_of.get(name, IGNORE) for name in classes.names))


CITYSCAPES_CATEGORIES = merge(
    CITYSCAPES,
    _class_spec(
        ('flat', 1, (128, 64, 128)),
        ('construction', 2, (70, 70, 70)),
        ('object', 3, (153, 153, 153)),
        ('nature', 4, (107, 142, 35)),
        ('sky', 5, (70, 130, 180)),
        ('human', 6, (220, 20, 60)),
        ('vehicle', 7, (0, 0, 142)),
    ),
    (
        ('road', 'sidewalk'),
        ('building', 'wall', 'fence'),
        ('pole', 'traffic light', 'traffic sign'),
        ('vegetation', 'terrain'),
        ('sky',),
        ('person', 'rider'),
        ('car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'),
    ),
)
"""The 7 categories of Cityscapes, with their category ids (cityscapesScripts, helpers/labels.py).

A category has the colour of its first class.
"""

CITYSCAPES_MOVABLE = (
    'person',
    'rider',
    'car',
    'truck',
    'bus',
    'train',
    'motorcycle',
    'bicycle',
)
"""The 8 classes of Cityscapes whose objects move. Their annotations tell objects apart."""

# Ids 0..33 are defined. A licence plate is -1, which an 8-bit file can only hold as 255.
CITYSCAPES_LABEL_IDS = make_coding(CITYSCAPES, ignore=[*range(34), 255])
"""Files `*_gtFine_labelIds.png`: 34 ids, of which 19 are evaluated."""

CITYSCAPES_ALL_IDS = make_coding(CITYSCAPES_ALL, ignore=[255])
"""The same files, with all their ids as classes."""

CITYSCAPES_TRAIN_IDS = make_coding(
    ClassSpec(CITYSCAPES.names, CITYSCAPES.palette, tuple(range(19))), ignore=[255]
)
"""Files `*_gtFine_labelTrainIds.png`."""

FACE_PARTS = _class_spec(
    ('background', 0, (0, 0, 0)),
    ('skin', 1, (204, 140, 110)),
    ('hair', 2, (110, 70, 40)),
    ('brow', 3, (200, 200, 0)),
    ('eye', 4, (40, 120, 220)),
    ('nose', 5, (240, 190, 80)),
    ('lip', 6, (220, 40, 90)),
    ('mouth', 7, (110, 0, 60)),
    ('cloth', 8, (70, 150, 80)),
    ('glasses', 9, (150, 90, 200)),
)
"""The parts of the world `faces`."""

HEAD_PARTS = _class_spec(
    ('background', 0, (0, 0, 0)),
    ('head', 1, (200, 150, 90)),
    ('ear', 2, (90, 170, 90)),
    ('muzzle', 3, (240, 210, 160)),
    ('nose', 4, (220, 60, 90)),
    ('eye', 5, (40, 120, 220)),
    ('neck', 6, (130, 100, 160)),
)
"""The parts of the world `heads`."""

CAMVID = _class_spec(
    ('Sky', 0, (128, 128, 128)),
    ('Building', 1, (128, 0, 0)),
    ('Pole', 2, (192, 192, 128)),
    ('Road', 3, (128, 64, 128)),
    ('Pavement', 4, (60, 40, 222)),
    ('Tree', 5, (128, 128, 0)),
    ('Sign', 6, (192, 128, 128)),
    ('Fence', 7, (64, 64, 128)),
    ('Car', 8, (64, 0, 128)),
    ('Pedestrian', 9, (64, 64, 0)),
    ('Bicyclist', 10, (0, 128, 192)),
)
"""CamVid's 11 classes in the order of SegNet's copy of the data set."""

CAMVID_IDS = make_coding(CAMVID, ignore=[11])
"""SegNet's CamVid label files: 0..10, void 11."""

APOLLOSCAPE = _class_spec(
    ('sky', 17, (70, 130, 180)),
    ('car', 33, (0, 0, 142)),
    ('motorbicycle', 34, (0, 0, 230)),
    ('bicycle', 35, (119, 11, 32)),
    ('person', 36, (0, 128, 192)),
    ('rider', 37, (128, 64, 128)),
    ('truck', 38, (128, 0, 192)),
    ('bus', 39, (192, 0, 64)),
    ('tricycle', 40, (128, 128, 192)),
    ('road', 49, (192, 128, 192)),
    ('siderwalk', 50, (192, 128, 64)),
    ('traffic_cone', 65, (0, 0, 64)),
    ('road_pile', 66, (0, 0, 192)),
    ('fence', 67, (64, 64, 128)),
    ('traffic_light', 81, (192, 64, 128)),
    ('pole', 82, (192, 128, 128)),
    ('traffic_sign', 83, (0, 64, 64)),
    ('wall', 84, (192, 192, 128)),
    ('dustbin', 85, (64, 0, 192)),
    ('billboard', 86, (192, 0, 192)),
    ('building', 97, (192, 0, 128)),
    ('vegatation', 113, (128, 128, 64)),
)
"""The 22 evaluated classes of Apolloscape's scene parsing, with the spelling of its authors.

Sources: dataset-api, scene_parsing/README.md, and label_apollo.py for the colours.
"""

# Void: others, rover (the recording car), bridge, tunnel, overpass, unlabeled. The classes 33..40
# are things that move. The ids 161..168 mark groups of them that were not told apart.
APOLLOSCAPE_IDS = make_coding(
    APOLLOSCAPE,
    ignore=[0, 1, 98, 99, 100, 255],
    aliases={number + 128: number for number in range(33, 41)},
)
"""Apolloscape's label files: class ids, of which several may have the same train id."""

ADE20K = _class_spec(*class_tables.rows(class_tables.ADE20K))
"""The 150 classes of SceneParse150."""

ADE20K_IDS = make_coding(ADE20K, ignore=[0])
"""Annotations of SceneParse150: 1..150. Void: 0, all objects of further classes."""

_BEDROOM_ROWS = tuple(class_tables.rows(class_tables.ADE20K_BEDROOM))

ADE20K_BEDROOM = _class_spec(
    ('other', 0, (0, 0, 0)),
    *((name, number + 1, color) for number, (name, _, color) in enumerate(_BEDROOM_ROWS)),
)
"""The 49 classes of bedrooms. 0 is every object of a further class, and every unlabelled pixel."""

ADE20K_BEDROOM_IDS = make_coding(ADE20K_BEDROOM, ignore=[IGNORE])
"""Ids 0..48, which `--mode predict` writes for bedrooms."""

ADE20K_BEDROOM_INDICES = tuple(index for _, index, _ in _BEDROOM_ROWS)
"""For the classes 1..48 of bedrooms: the number of the class in the index file of the release."""

ADE20K_BEDROOM_OBJECTS = merge(
    ADE20K_BEDROOM,
    _class_spec(
        *((name, number + 1, color) for number, (name, _, color) in enumerate(_BEDROOM_ROWS))
    ),
    tuple((name,) for name, _, _ in _BEDROOM_ROWS),
)
"""The 48 named classes of bedrooms. The class 'other' is void."""

ADE20K_BEDROOM_INTEREST = tuple(
    ADE20K_BEDROOM.names[number]
    for number in (2, 4, 5, *range(7, 27), *range(28, 34), *range(35, 39))
)
"""The 33 classes of bedrooms whose objects Hong et al. draw (arXiv:1808.07535, ade20k_dataset.py).

`segjax.data.objects.rank_classes` ranks classes by the number of their objects.
"""

COCO_PANOPTIC = _class_spec(
    *class_tables.rows(class_tables.COCO_THINGS), *class_tables.rows(class_tables.COCO_STUFF)
)
"""The 133 categories of COCO's panoptic segmentations: things 0..79, then stuff 80..132."""

NUM_COCO_THINGS = 80
"""Train ids below this number are things."""

COCO_PANOPTIC_IDS = make_coding(COCO_PANOPTIC, ignore=[0])
"""Category ids of COCO. 0 is unlabelled."""

COCO_THINGS = merge(
    COCO_PANOPTIC,
    _class_spec(*class_tables.rows(class_tables.COCO_THINGS)),
    tuple((name,) for name in COCO_PANOPTIC.names[:NUM_COCO_THINGS]),
)
"""The 80 things of COCO. Stuff is void."""

NYU40 = _class_spec(*class_tables.rows(class_tables.NYU40))
"""The 40 classes of NYUDv2, with their ids 1..40."""

NYU40_IDS = make_coding(NYU40, ignore=[0])
"""Label files with the 40 classes of NYUDv2. 0 is unlabelled."""


def _fine_to_40() -> np.ndarray:
    """Returns the id among the 40 classes of each of the 894 classes, [895] uint8, 0 for 0."""
    ids = np.full(895, NYU40.ids[NYU40.names.index('otherprop')], np.uint8)
    ids[0] = 0
    named = class_tables.NYU_FINE.split()
    ids[np.array(named, int)] = np.arange(1, len(named) + 1)
    for name, fine in (
        ('otherstructure', class_tables.NYU_FINE_STRUCTURE),
        ('otherfurniture', class_tables.NYU_FINE_FURNITURE),
    ):
        ids[np.array(fine.split(), int)] = NYU40.ids[NYU40.names.index(name)]
    ids.setflags(write=False)
    return ids


NYU_FINE_TO_40 = _fine_to_40()
"""For the 894 classes of the labelled frames of NYUDv2: the id among the 40 classes.

Classes without a table are otherprop. Source: Gupta et al., Perceptual Organization and Recognition
of Indoor Scenes from RGB-D Images, CVPR 2013 (classMapping40.mat).
"""

NYU13 = merge(
    NYU40,
    _class_spec(
        ('bed', 1, (255, 187, 120)),
        ('books', 2, (172, 114, 82)),
        ('ceiling', 3, (78, 71, 183)),
        ('chair', 4, (188, 189, 34)),
        ('floor', 5, (152, 223, 138)),
        ('furniture', 6, (82, 84, 163)),
        ('objects', 7, (100, 85, 144)),
        ('picture', 8, (196, 156, 148)),
        ('sofa', 9, (140, 86, 75)),
        ('table', 10, (255, 152, 150)),
        ('tv', 11, (91, 163, 138)),
        ('wall', 12, (174, 199, 232)),
        ('window', 13, (197, 176, 213)),
    ),
    (
        ('bed',),
        ('books',),
        ('ceiling',),
        ('chair',),
        ('floor', 'floor mat'),
        (
            *('cabinet', 'bookshelf', 'counter', 'shelves', 'dresser', 'refridgerator'),
            *('night stand', 'otherfurniture'),
        ),
        (
            *('pillow', 'mirror', 'clothes', 'paper', 'towel', 'shower curtain', 'box'),
            *(
                'whiteboard',
                'person',
                'toilet',
                'sink',
                'lamp',
                'bathtub',
                'bag',
                'otherstructure',
                'otherprop',
            ),
        ),
        ('picture',),
        ('sofa',),
        ('table', 'desk'),
        ('television',),
        ('wall', 'door'),
        ('window', 'blinds', 'curtain'),
    ),
)
"""The 13 classes of Couprie et al. (arXiv:1301.3572) from the 40 (class13Mapping.mat)."""

NYU4 = merge(
    NYU40,
    _class_spec(
        ('floor', 1, (152, 223, 138)),
        ('structure', 2, (174, 199, 232)),
        ('furniture', 3, (82, 84, 163)),
        ('props', 4, (100, 85, 144)),
    ),
    (
        ('floor',),
        (
            *('wall', 'door', 'window', 'counter', 'blinds', 'curtain', 'ceiling'),
            *('shower curtain', 'whiteboard', 'otherstructure'),
        ),
        (
            *('cabinet', 'bed', 'chair', 'sofa', 'table', 'bookshelf', 'desk', 'shelves'),
            *('dresser', 'refridgerator', 'night stand', 'toilet', 'bathtub', 'otherfurniture'),
        ),
        (
            *('picture', 'pillow', 'mirror', 'floor mat', 'clothes', 'books', 'television'),
            *('paper', 'towel', 'box', 'person', 'sink', 'lamp', 'bag', 'otherprop'),
        ),
    ),
)
"""The 4 super-classes of the 40 (mapToNYUSuperClass in classMapping40.mat).

Silberman's own 4 classes come from the 894 classes, so that few objects differ.
"""

NYU13_IDS = make_coding(NYU13.classes, ignore=[0])
"""Label files with the 13 classes of NYUDv2. 0 is unlabelled."""

NYU4_IDS = make_coding(NYU4.classes, ignore=[0])
"""Label files with the 4 classes of NYUDv2. 0 is unlabelled."""


def vistas_coding(rows: Iterable[tuple[str, int, Color]], void: Container[str]) -> LabelCoding:
    """Builds the coding of label files of Mapillary Vistas.

    Args:
      rows: (name, id, colour) of every label.
      void: names of the labels that are no classes.
    """
    rows = tuple(rows)
    classes = _class_spec(*(row for row in rows if row[0] not in void))
    return make_coding(classes, ignore=[number for name, number, _ in rows if name in void])


VISTAS_VOID = ('Unlabeled',)
"""The label of Mapillary Vistas 1.x that its config file does not evaluate."""

VISTAS_IDS = vistas_coding(class_tables.rows(class_tables.VISTAS), VISTAS_VOID)
"""Label files of Mapillary Vistas 1.x: 65 classes, and 65 is void."""

VISTAS = VISTAS_IDS.classes
"""The 65 classes of Mapillary Vistas 1.x."""

VISTAS_V2_VOID = (
    *('Person Group', 'Vehicle Group', 'Car Mount', 'Dynamic', 'Ego Vehicle', 'Ground', 'Static'),
    'Unlabeled',
)
"""The 8 labels of Mapillary Vistas 2.0 that are void or a crowd.

The release tells their number. The names are a deduction: 6 internal names begin with `void--`, and
2 are groups of objects. A config file in the folder of the data set decides instead.
"""

VISTAS_V2_IDS = vistas_coding(class_tables.rows(class_tables.VISTAS_V2), VISTAS_V2_VOID)
"""Label files of Mapillary Vistas 2.0: 116 classes, and 8 void labels."""

VISTAS_V2 = VISTAS_V2_IDS.classes
"""The 116 classes of Mapillary Vistas 2.0."""

VISTAS_AS_CITYSCAPES = {
    'road': ('Road', 'Manhole', 'Lane Marking - General'),
    'sidewalk': ('Sidewalk', 'Curb'),
    'building': ('Building',),
    'wall': ('Wall',),
    'fence': ('Fence',),
    'pole': ('Pole', 'Utility Pole'),
    'traffic light': ('Traffic Light',),
    'traffic sign': ('Traffic Sign (Front)',),
    'vegetation': ('Vegetation',),
    'terrain': ('Terrain',),
    'sky': ('Sky',),
    'person': ('Person',),
    'rider': ('Bicyclist', 'Motorcyclist', 'Other Rider'),
    'car': ('Car',),
    'truck': ('Truck',),
    'bus': ('Bus',),
    'train': ('On Rails',),
    'motorcycle': ('Motorcycle',),
    'bicycle': ('Bicycle',),
}
"""For each class of Cityscapes: the classes of Mapillary Vistas 1.x that it consists of.

25 classes have a counterpart, and the remaining classes are void. This is the merge of He et al.,
Segmentations-Leak, ECCV 2020 (SSAW14/segmentation_membership_inference,
convert_cityscapes_labels.m). Work on domain generalisation merges in the same way
(tue-mps/benchmark-vfm-ss, datasets/mappings.py). docs/data.md tells of merges that differ.
"""


def _parts_of_v2(name: str) -> tuple[str, ...]:
    """Returns the labels of Mapillary Vistas 2.0 into which a label of 1.x was divided."""
    if name == 'Lane Marking - General':
        markings = [other for other in VISTAS_V2.names if other.startswith('Lane Marking')]
        return tuple(other for other in markings if 'Crosswalk' not in other)
    if name == 'Traffic Light':
        return tuple(other for other in VISTAS_V2.names if other.startswith('Traffic Light'))
    if name == 'Traffic Sign (Front)':
        kinds = ('Direction (Front)', 'Temporary (Front)', 'Parking')
        return (name, *(f'Traffic Sign - {kind}' for kind in kinds))
    return (name,)


VISTAS_V2_AS_CITYSCAPES = {
    merged: tuple(itertools.chain.from_iterable(map(_parts_of_v2, names)))
    for merged, names in VISTAS_AS_CITYSCAPES.items()
}
"""For each class of Cityscapes: the classes of Mapillary Vistas 2.0 that it consists of.

No merge of release 2.0 is published. Here a class of 2.0 follows the class of 1.x of the same name,
or of which it is a kind. New classes (Garage, Driveway, Road Shoulder, Pole Group, ...) are void,
as are crosswalks and ambiguous traffic signs.
"""

VISTAS_CITYSCAPES = merge(VISTAS, CITYSCAPES, tuple(VISTAS_AS_CITYSCAPES.values()))
"""Mapillary Vistas 1.x with the 19 classes of Cityscapes."""

VISTAS_V2_CITYSCAPES = merge(VISTAS_V2, CITYSCAPES, tuple(VISTAS_V2_AS_CITYSCAPES.values()))
"""Mapillary Vistas 2.0 with the 19 classes of Cityscapes."""

KNOWN_IDS = (
    CITYSCAPES_LABEL_IDS,
    CITYSCAPES_TRAIN_IDS,
    CAMVID_IDS,
    APOLLOSCAPE_IDS,
    ADE20K_IDS,
    COCO_PANOPTIC_IDS,
    NYU40_IDS,
    NYU13_IDS,
    NYU4_IDS,
    VISTAS_IDS,
    VISTAS_V2_IDS,
)
"""Codings of label files of public data sets."""


def coding_of(classes: ClassSpec) -> LabelCoding:
    """Returns the coding of label files of a data set of which only the classes are known.

    The ids of public data sets that mean void are known by their classes. In all files 255 is void
    unless it is a class: --mode predict writes it. The palette gives the colours. Black is void
    unless it is a class.
    """
    colors = {(0, 0, 0): IGNORE}
    colors |= {tuple(color): train_id for train_id, color in enumerate(classes.palette)}
    for coding in KNOWN_IDS:
        if coding.classes == classes:
            known = coding.known.copy()
            known[IGNORE] = True
            return coding._replace(known=known, colors=colors)
    return make_coding(classes, ignore=[IGNORE], colors=colors)


def to_train_ids(mask: np.ndarray, coding: LabelCoding, where: str) -> np.ndarray:
    """Returns the train ids of a label file.

    Args:
      mask: [H, W] whole numbers, the ids in the file, or [H, W, 3] uint8, its colours.
      coding: the meaning of the ids (colours).
      where: the file, named in errors.

    Returns:
      [H, W] uint8 train ids, 255 = void.

    Raises:
      InputError: an id or a colour that the coding does not know.
    """
    if mask.ndim == 3:
        return _from_colors(mask, coding, where)

    # Unknown ids are an error, never void.
    counts = np.bincount(mask.ravel(), minlength=256)
    ids = np.flatnonzero(counts)
    unknown = [int(i) for i in ids if i > 255 or not coding.known[i]]
    if unknown:
        shown = ', '.join(f'{i} ({counts[i]} pixels)' for i in unknown[:5])
        if len(unknown) > 5:
            shown += ', ...'
        raise InputError(
            where,
            got=f'label ids {shown}; the file holds {_ranges(ids)}',
            expected=f'ids {_ranges(np.flatnonzero(coding.known))}',
            fix=_advice(ids, coding),
        )
    return coding.train_ids[mask]


def indexed_by_color(ids: np.ndarray, palette: np.ndarray, coding: LabelCoding, where: str) -> bool:
    """Returns whether a mask in indexed colours names the classes by its colours.

    Otherwise the indices are the ids. Colours name the classes under two conditions. The class file
    has all colours of the mask. For some colour, the class of the colour differs from the class of
    its index. Programs that write indexed colours choose the order of the palette.

    Args:
      ids: [H, W] indices.
      palette: [N, 3], their colours.
      coding: the meaning of indices and colours.
      where: the file, named in errors.

    Raises:
      InputError: some colours belong to another class than their index, and some to no class.
    """
    # Train ids of the used indices, by colour and by index.
    used = [int(i) for i in np.flatnonzero(np.bincount(ids.ravel(), minlength=256))]
    colors = {i: tuple(int(v) for v in palette[i]) for i in used if i < len(palette)}
    by_color = {i: coding.colors[color] for i, color in colors.items() if color in coding.colors}
    by_index = {i: int(coding.train_ids[i]) for i in used if coding.known[i]}

    differing = [i for i in by_color if by_color[i] != by_index.get(i)]
    if not differing:
        return False
    unknown = [i for i in used if i not in by_color]
    if unknown:
        index = differing[0]
        unknown_index = unknown[0]
        raise InputError(
            where,
            got=f'indexed colours: index {index} has the colour {colors[index]} of another class, '
            f'index {unknown_index} the colour {colors.get(unknown_index, "none")} of no class',
            expected='indices and colours of the same classes, or only colours of the class file',
            fix='save masks as grey PNG of ids, '
            'or add the colour to the class file as a class or under `ignore`',
        )
    return True


def _advice(ids: np.ndarray, coding: LabelCoding) -> str:
    """Returns the probable fix for a file that holds the unknown ids among `ids`."""
    class_ids = coding.classes.ids
    if set(ids.tolist()) == {0, 255}:
        return MASK_0_255
    if 0 in class_ids and 0 not in ids and set(ids.tolist()) - {255} <= {i + 1 for i in class_ids}:
        return OFF_BY_ONE
    return 'correct the labels, or name the id in the class list or among the ignored ids'


MASK_0_255 = (
    'this looks like a 0/255 mask, and 255 means void here: save 1 in place of 255, '
    'or give the class `id: 255` in the class file'
)
OFF_BY_ONE = (
    'this looks like labels that start at 1: subtract 1, '
    'or give the classes the ids 1, 2, ... in the class file'
)


def _ranges(ids: Iterable[int]) -> str:
    """Returns whole numbers in ascending order as text, for example '0..10, 255'."""
    runs: list[list[int]] = []
    for i in map(int, ids):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    shown = []
    for first, last in runs[:8]:
        shown.append(str(first) if first == last else f'{first}..{last}')
    return ', '.join(shown) + (', ...' if len(runs) > 8 else '')


def _from_colors(mask: np.ndarray, coding: LabelCoding, where: str) -> np.ndarray:
    """Returns the train ids [H, W] of a mask in colour, [H, W, 3].

    Raises:
      InputError: the coding has no colours, or not all colours of the mask.
    """
    if not coding.colors:
        raise _three_channels(mask, where)

    # Unique colours of the mask, as whole numbers.
    packed = mask.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    values, inverse = np.unique(packed, return_inverse=True)
    colors = [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in values]
    unknown = [color for color in colors if color not in coding.colors]
    if unknown:
        raise InputError(
            where,
            got=f'{len(unknown)} unknown colours, the first {unknown[0]}',
            expected=f'the {len(coding.colors)} colours of the class file',
            fix='list the colour as a class or under `ignore`. '
            'JPEG and smooth resizing add colours to masks',
        )
    table = np.array([coding.colors[color] for color in colors], np.uint8)
    return table[inverse].reshape(mask.shape[:2])


def _three_channels(mask: np.ndarray, where: str) -> InputError:
    """Returns the error for a mask [H, W, 3] of a data set whose classes have no colours."""
    got = 'a label with three channels'
    fix = (
        'convert the colours to ids, '
        'or give every class its `color` in a class file (data set `folder`)'
    )
    if (mask == mask[..., :1]).all():
        got = f'{got}, all equal'
        fix = 'save one of the channels'
    return InputError(where, got=got, expected='one channel that holds class ids', fix=fix)


class ClassEntries(NamedTuple):
    """The content of a class file. Classes are in order.

    names          of the classes
    ids            ids of the classes in label files
    colors         colours of the classes in colour masks, None where the file has no colour
    ignore_ids     ids that are void
    ignore_colors  colours that are void
    """

    names: list[str]
    ids: list[int]
    colors: list[Color | None]
    ignore_ids: list[int]
    ignore_colors: list[Color]


def load_class_file(path: str | pathlib.Path) -> LabelCoding:
    """Reads the class list of a user's data set.

    The file is YAML or JSON: a list of classes, or a mapping with `classes` and `ignore`:

        classes:
          - background                               # a name: its id is its position in the list
          - {name: car, id: 26, color: [0, 0, 142]}  # id in label files, colour in colour masks
        ignore: [0, [0, 0, 0]]                       # ids and colours that are void

    255 is void unless a class has `id: 255`. Either all classes have colours, or none. Without
    colours the palette is the palette of PASCAL VOC, and colour masks are refused.

    Raises:
      InputError: the content has another form. The error names the file and the entry.
    """
    path = pathlib.Path(path)
    entries = _class_entries(path)
    _check_entries(path, entries)
    _check_colors(path, entries)
    palette = tuple(color or voc_color(i) for i, color in enumerate(entries.colors))
    colors = {}
    if all(entries.colors):
        colors = {color: i for i, color in enumerate(entries.colors)}
        colors |= dict.fromkeys(entries.ignore_colors, IGNORE)
    classes = ClassSpec(names=tuple(entries.names), palette=palette, ids=tuple(entries.ids))
    return make_coding(classes, ignore=[*entries.ignore_ids, IGNORE], colors=colors)


def load_merge_file(path: pathlib.Path, classes: ClassSpec) -> ClassMap:
    """Reads a class map.

    The file is a class file with the merged classes. `from` has the names of the classes of the
    data set that become the class, by default the class of the same name. `ignore` has the names of
    the classes that become void:

        classes:
          - sky                                      # the class `sky` of the data set
          - {name: flat, id: 1, color: [128, 64, 128], from: [road, sidewalk]}
        ignore: [bridge]

    A class without a colour has the colour of the first class of its `from`.

    Args:
      path: of the YAML or JSON file.
      classes: of the data set.

    Raises:
      InputError: the content has another form. A class of the data set is named twice or not at
        all, or a name is no class of the data set.
    """
    entries, ignored = _content(path, 'class_map')
    groups = [_group(path, position, entry) for position, entry in enumerate(entries)]
    plain = []
    for entry in entries:
        is_mapping = isinstance(entry, dict)
        plain.append({k: v for k, v in entry.items() if k != 'from'} if is_mapping else entry)
    rows = [_class_entry(path, position, entry) for position, entry in enumerate(plain)]
    names, ids, colors = map(list, zip(*rows, strict=True))
    _check_entries(path, ClassEntries(names, ids, colors, [], []))
    _check_names(path, 'ignore', ignored)
    _check_mentions(path, [name for group in (*groups, ignored) for name in group], classes)

    # Classes without a colour keep the colour of their first class.
    palette = []
    for color, group in zip(colors, groups, strict=True):
        palette.append(color or classes.palette[classes.names.index(group[0])])
    return merge(classes, ClassSpec(tuple(names), tuple(palette), tuple(ids)), groups)


def _group(path: pathlib.Path, position: int, entry: Any) -> list[str]:
    """Returns the names of the classes that become the class of an entry of a class map."""
    if not isinstance(entry, dict) or 'from' not in entry:
        name, _, _ = _class_entry(path, position, entry)
        return [name]
    if not entry['from']:
        raise _bad(path, f'entry {position}: from: {entry["from"]!r}', 'at least one class name')
    _check_names(path, f'entry {position}: from', entry['from'])
    return entry['from']


def _check_names(path: pathlib.Path, place: str, names: Any) -> None:
    """Raises InputError unless a value of a class map is a list of names."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _bad(path, f'{place}: {_short(names)}', 'a list of names of classes')


def _check_mentions(path: pathlib.Path, names: Sequence[str], classes: ClassSpec) -> None:
    """Raises InputError unless a class map names every class of the data set once."""
    for name in names:
        if name not in classes.names:
            raise unknown_name(f'class file {path}: class', name, classes.names)
        if names.count(name) > 1:
            got = f'class {name!r} twice'
            raise _bad(path, got, 'every class of the data set once, under `from` or `ignore`')
    missing = [name for name in classes.names if name not in names]
    if missing:
        got = f'no class {missing[0]!r}'
        if len(missing) > 1:
            got += f', and {len(missing) - 1} more are absent'
        fix = f'ignore: {missing!r}, if they are void'.replace("'", '"')
        raise _bad(path, got, 'every class of the data set, under `from` or `ignore`', fix)


def _content(path: pathlib.Path, key: str) -> tuple[list, Any]:
    """Returns what a class file has under `classes` and `ignore`.

    Args:
      path: of the file.
      key: config key that names the file, for errors.

    Raises:
      InputError: the file cannot be read, has no classes, or has another key.
    """
    content = _parse(path, key)
    if isinstance(content, list):
        content = {'classes': content}
    classes = content.get('classes') if isinstance(content, dict) else None
    if not isinstance(classes, list) or not classes:
        raise _bad(path, _short(content), 'a list of classes, or {classes: [...], ignore: [...]}')
    for name in content:
        if name not in ('classes', 'ignore'):
            raise unknown_name(f'{path}: key', name, ('classes', 'ignore'))
    return classes, content.get('ignore') or []


def _class_entries(path: pathlib.Path) -> ClassEntries:
    """Reads a class file.

    Raises:
      InputError: the file cannot be read, or an entry is malformed.
    """
    classes, ignored = _content(path, 'classes')
    rows = [_class_entry(path, position, entry) for position, entry in enumerate(classes)]
    names, ids, colors = map(list, zip(*rows, strict=True))
    ignore_ids, ignore_colors = _ignored(path, ignored)
    return ClassEntries(names, ids, colors, ignore_ids, ignore_colors)


def _check_entries(path: pathlib.Path, entries: ClassEntries) -> None:
    """Raises InputError for an empty name, a repeated name, id or colour, and too many classes."""
    if not all(name.strip() for name in entries.names):
        raise _bad(path, 'an empty name', 'a name for every class')
    _check_once(path, 'name', entries.names)
    _check_once(path, 'id', entries.ids)
    colors = [color for color in entries.colors if color]
    _check_once(path, 'color', colors + entries.ignore_colors)
    both = sorted(set(entries.ids) & set(entries.ignore_ids))
    if both:
        got = f'id {both[0]} both a class and ignored'
        raise _bad(path, got, 'one of the two', 'give every class its `id`')
    if len(entries.names) > IGNORE:
        got = f'{len(entries.names)} classes'
        raise _bad(path, got, f'at most {IGNORE}, because train id {IGNORE} is void')


def _check_once(path: pathlib.Path, kind: str, values: list) -> None:
    """Raises InputError for a value that occurs more than once."""
    for value in values:
        if values.count(value) > 1:
            raise _bad(path, f'{kind} {value!r} twice', f'every {kind} once')


def _check_colors(path: pathlib.Path, entries: ClassEntries) -> None:
    """Raises InputError for ignored colours if not all classes have colours."""
    without = []
    for name, color in zip(entries.names, entries.colors, strict=True):
        if color is None:
            without.append(name)
    if not without or not entries.ignore_colors:
        return
    got = f'no color of class {without[0]!r}'
    if len(without) > 1:
        got += f' and {len(without) - 1} more'
    names = ', '.join(without[:5]) + (', ...' if len(without) > 5 else '')
    expected = 'a color for all classes, because ids are read without them'
    raise _bad(path, got, expected, f'add `color: [r, g, b]` to {names}')


def voc_color(index: int) -> Color:
    """Returns colour `index` of PASCAL VOC's palette.

    Bit 3k + c of the index is bit 7 - k of channel c.
    """
    channels = []
    for c in range(3):
        channels.append(sum((index >> (3 * k + c) & 1) << (7 - k) for k in range(8)))
    return tuple(channels)


def _bad(path: pathlib.Path, got: str, expected: str, fix: str = '') -> InputError:
    """Returns an error about a class file."""
    return InputError(f'class file {path}', got=got, expected=expected, fix=fix)


def _short(value: Any) -> str:
    """Returns a value as text of less than 81 characters."""
    text = repr(value)
    return text if len(text) < 80 else text[:77] + '...'


def _parse(path: pathlib.Path, key: str) -> Any:
    """Returns the content of a YAML or JSON file.

    Args:
      path: of the file.
      key: config key that names the file, for errors.

    Raises:
      InputError: the file cannot be read or parsed.
    """
    try:
        text = text_files.read(path)
        return (
            text_files.parse_json(text) if path.suffix == '.json' else text_files.parse_yaml(text)
        )
    # Most likely the path is mistyped, so the fix shows the key.
    except OSError as error:
        reason = 'no such file' if isinstance(error, FileNotFoundError) else str(error)
        raise _bad(
            path,
            reason,
            'a YAML or JSON file',
            f'--config.data.{key}=classes.yaml, with the path of the class file',
        ) from error
    except UnicodeDecodeError as error:
        raise _bad(
            path, f'cannot be parsed: {error}', 'text in UTF-8', 'save it as UTF-8'
        ) from error
    # YAML forbids tabs, and its message does not say so.
    except ValueError as error:
        fix = 'indent with spaces' if r"'\t'" in str(error) else ''
        raise _bad(
            path, f'cannot be parsed: {error}', 'YAML or JSON, every key once', fix
        ) from error


def _class_entry(path: pathlib.Path, position: int, entry: Any) -> tuple[str, int, Color | None]:
    """Returns (name, id, colour) of an entry of `classes`. Raises InputError if it is malformed."""
    if isinstance(entry, str):
        return entry, _id(path, position), None
    if not isinstance(entry, dict) or not isinstance(entry.get('name'), str):
        raise _bad(
            path,
            f'entry {position}: {_short(entry)}',
            'a name, or {name: ..., id: ..., color: [r, g, b]}',
            'put names in quotes: YAML reads bare yes, no, on, off, null and numbers not as text',
        )
    for key in entry:
        if key not in ('name', 'id', 'color'):
            raise unknown_name(f'class file {path}: entry {position}', key, ('name', 'id', 'color'))
    color = _color(path, entry['color']) if 'color' in entry else None
    return entry['name'], _id(path, entry.get('id', position)), color


def _id(path: pathlib.Path, value: Any) -> int:
    """Returns an id, or raises InputError if it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 255:
        raise _bad(path, f'id {_short(value)}', 'a whole number in 0..255')
    return value


def _color(path: pathlib.Path, value: Any) -> Color:
    """Returns a colour, or raises InputError if it is none."""
    ok = isinstance(value, list) and len(value) == 3
    if not ok or not all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in value
    ):
        raise _bad(path, f'color {_short(value)}', '[r, g, b], whole numbers in 0..255')
    return tuple(value)


def _ignored(path: pathlib.Path, values: Any) -> tuple[list[int], list[Color]]:
    """Returns the ids and the colours under `ignore`. Raises InputError if some are malformed."""
    if not isinstance(values, list):
        raise _bad(path, f'ignore: {_short(values)}', 'a list of ids and [r, g, b] colours')
    colors = [_color(path, v) for v in values if isinstance(v, list)]
    return [_id(path, v) for v in values if not isinstance(v, list)], colors
