"""ADE20K: the benchmark SceneParse150, and the bedrooms of the full release."""

from typing import Any

import numpy as np

from segjax.core.notes import Note
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Item
from segjax.data.builders.segments import SegmentDataset, Segments
from segjax.data.image_files import COPY_AGAIN, by_name, find, unread_note
from segjax.data.labels import (
    ADE20K,
    ADE20K_BEDROOM,
    ADE20K_BEDROOM_IDS,
    ADE20K_BEDROOM_INDICES,
    ADE20K_BEDROOM_OBJECTS,
    ADE20K_IDS,
    LabelCoding,
)
from segjax.errors import InputError

FOLDERS = {'train': 'training', 'val': 'validation'}

BEDROOMS = 'images/training/b/bedroom'
NUM_VAL = 150
"""The first bedrooms by name are `val`, as in Hong et al. (arXiv:1808.07535, preprocess_ade.py)."""
NUM_NAMES = 3148
"""Number of classes in the index file of the release of July 2016, parts of objects included."""


class SceneParsing(FileDataset):
    """SceneParse150: 150 classes, images of many sizes.

    Images are images/{training,validation}/ADE_*.jpg. Labels are annotations/{training,validation}
    with PNG files of the same name, with the ids 1..150. 0 is void.

    Source: sceneparsing (CSAIL Vision), ADEChallengeData2016.
    """

    def __init__(self, config: Any):
        super().__init__(config.name, config.root, ADE20K)

    def options(self):
        """Returns the coding of the labels."""
        return base.describe(ADE20K_IDS)

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all label files."""
        return ADE20K_IDS

    def splits(self):
        """Returns the splits whose folder of images exists."""
        images = self.root / 'images'
        splits = tuple(split for split, name in FOLDERS.items() if (images / name).is_dir())
        if not splits:
            raise InputError(
                str(self.root),
                got='no folder images/training or images/validation',
                expected='images/{training,validation} and annotations/{training,validation}',
                fix='config.data.root is the folder ADEChallengeData2016 of SceneParse150',
            )
        return splits

    def notes_of_folders(self):
        """Returns notes about files that are not read."""
        notes = []
        for split in self.splits():
            for kind in ('images', 'annotations'):
                folder = self.root / kind / FOLDERS[split]
                if folder.is_dir():
                    notes += unread_note(folder)
        return notes

    def scan(self, split):
        """Pairs the images of a split with its labels."""
        annotations = self.root / 'annotations' / FOLDERS[split]
        try:
            images = by_name(find(self.root / 'images' / FOLDERS[split]), lambda path: path.stem)
            labels = by_name(find(annotations), lambda path: path.stem)
        except InputError as error:
            return [], [error]
        names, problems = base.pair(split, images, labels, str(annotations / '{name}.png'))
        items = []
        for name in names:
            items.append(Item(split, name, {'image': images[name], 'label': labels[name]}))
        return items, problems


class Bedrooms(SegmentDataset):
    """The bedrooms of the full ADE20K release of July 2016: 49 classes with instances.

    Files are images/training/b/bedroom/{name}.jpg and {name}_seg.png. A pixel (R, G, B) of the
    latter has the class number R / 10 * 256 + G of the index file. B tells the objects of an
    image apart, and 0 is no object. The 48 classes of `ADE20K_BEDROOM` have the train ids 1..48. 0
    is everything else, unlabelled pixels included. The first `NUM_VAL` images by name are `val`,
    and the remaining images are `train`: 150 and 1,239 in the release.

    Instances are numbered from 1 in each image, also those of walls and floors. Files of object
    parts and the texts `_atr.txt` are not read. Thus the class of an object comes from its pixels.
    """

    num_val = NUM_VAL

    def __init__(self, config: Any):
        super().__init__(config.name, config.root, ADE20K_BEDROOM)
        self.class_maps = {'objects': ADE20K_BEDROOM_OBJECTS}
        self._train_ids = np.zeros(NUM_NAMES + 1, np.uint8)
        self._train_ids[list(ADE20K_BEDROOM_INDICES)] = np.arange(1, ADE20K_BEDROOM.num_classes)

    def options(self):
        """Returns the classes, their numbers in the index file, and the size of `val`."""
        return [base.describe(ADE20K_BEDROOM_IDS), ADE20K_BEDROOM_INDICES, self.num_val]

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of the train ids, which label files hold as colours."""
        return ADE20K_BEDROOM_IDS

    def splits(self):
        """Returns ('train', 'val'). Raises InputError without the folder of bedrooms."""
        if not (self.root / BEDROOMS).is_dir():
            raise InputError(
                str(self.root),
                got=f'no folder {BEDROOMS}',
                expected=f'{BEDROOMS}/ADE_train_*.jpg and *_seg.png',
                fix='config.data.root is the folder ADE20K_2016_07_26. '
                'Later releases have other folders and other class numbers',
            )
        return ('train', 'val')

    def notes_of_folders(self):
        """Returns the choice of the splits."""
        message = f'split by name: the first {self.num_val} images are val, the remaining are train'
        return [Note(str(self.root / BEDROOMS), message)]

    def scan(self, split):
        """Pairs images with their masks, and divides them by their order."""
        folder = self.root / BEDROOMS
        try:
            masks = by_name(find(folder, ('.png',)), lambda path: path.stem)
            images = by_name(find(folder, ('.jpg', '.jpeg')), lambda path: path.stem)
        except InputError as error:
            return [], [error]
        labels = {}
        for name, path in masks.items():
            if name.endswith('_seg'):
                labels[name.removesuffix('_seg')] = path

        # An image without its mask keeps its place, so that no image changes its split.
        order = sorted(images.keys() | labels.keys())
        names = set(order[: self.num_val] if split == 'val' else order[self.num_val :])
        common, problems = base.pair(
            split,
            {name: path for name, path in images.items() if name in names},
            {name: path for name, path in labels.items() if name in names},
            str(folder / '{name}_seg.png'),
        )
        items = []
        for name in common:
            items.append(Item(split, name, {'image': images[name], 'label': labels[name]}))
        return items, problems

    def decode(self, colors, item):
        """Returns train ids and instances. Numbers that no class has are problems."""
        where = str(item.files['label'])
        red = colors[..., 0].astype(np.int32)
        wrong = np.count_nonzero(red % 10)
        if wrong:
            got = f'red values that are no multiple of 10, in {wrong} pixels'
            expected = 'R / 10 * 256 + G as class number, like in the files *_seg.png'
            return None, [InputError(where, got=got, expected=expected, fix=COPY_AGAIN)]
        numbers = red // 10 * 256 + colors[..., 1]
        if numbers.max() > NUM_NAMES:
            got = f'class number {numbers.max()}'
            expected = f'at most {NUM_NAMES}, the classes of the release of July 2016'
            return None, [InputError(where, got=got, expected=expected, fix=COPY_AGAIN)]
        return Segments(self._train_ids[numbers], _numbered(numbers, colors[..., 2])), []


def _numbered(classes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Returns [H, W] int32: 1, 2, ... for each pair of class and object, 0 without an object.

    Args:
      classes: [H, W] numbers of classes, 0 where there is no class.
      objects: [H, W] numbers of objects, 0 where there is no object.
    """
    pairs = classes * 256 + objects
    pairs[(classes == 0) | (objects == 0)] = 0
    used = np.zeros(pairs.max() + 1, bool)
    used[pairs] = True
    used[0] = False
    # Pairs that are not used have the number of a smaller pair, but no pixel.
    return np.cumsum(used, dtype=np.int32)[pairs]
