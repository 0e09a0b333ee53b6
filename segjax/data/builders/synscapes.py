"""Synscapes: 25,000 rendered street scenes with the label ids of Cityscapes, 1440x720."""

import pathlib
from collections.abc import Iterable
from typing import Any

from segjax.core.notes import Note
from segjax.data import image_files
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Inspection, Item, Record
from segjax.data.image_files import by_name, find
from segjax.data.labels import CITYSCAPES, CITYSCAPES_CATEGORIES, CITYSCAPES_LABEL_IDS, LabelCoding
from segjax.errors import InputError

FIRST_VAL = 24_001
"""Number of the first scene of split `val`."""


class Synscapes(FileDataset):
    """Synscapes: 19 classes of Cityscapes, in single scenes that belong to no video.

    Images are img/rgb/{number}.png, and labels are img/class/{number}.png with the ids of
    Cityscapes. Numbers are 1 .. 25000. Images are optional: without the folder img/rgb, examples
    have no feature 'image' and serve as layouts.

    Scenes with numbers above 24000 are split `val`, and the remaining scenes are `train`. The
    release has no splits. The training set of its paper has 24,000 scenes, which are not named.

    img/rgb-2k (2048x1024), img/instance, img/depth and meta are not read. Labels have the size of
    img/rgb.

    Source: Wrenninge and Unger, Synscapes: A Photorealistic Synthetic Dataset for Street Scene
    Parsing, 2018 (arXiv:1810.08705). Layout: https://synscapes.on.liu.se/features.html.
    """

    def __init__(self, config: Any):
        super().__init__(config.name, config.root, CITYSCAPES)
        self.class_maps = {'categories': CITYSCAPES_CATEGORIES}
        self.label_folder = self.root / 'img' / 'class'
        self.image_folder = self.root / 'img' / 'rgb'

    def options(self):
        """Returns the coding of the labels, and the first scene of `val`."""
        return [base.describe(CITYSCAPES_LABEL_IDS), FIRST_VAL]

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all label files."""
        return CITYSCAPES_LABEL_IDS

    def splits(self):
        """Returns the splits that have a label.

        Raises:
          InputError: there is no folder of labels, or a file whose name is no number.
        """
        if not self.label_folder.is_dir():
            raise InputError(
                str(self.root),
                got='no folder img/class',
                expected='img/class/{1..25000}.png, and img/rgb/{1..25000}.png for images',
                fix='--config.data.root=/data/Synscapes, with the folder that holds img and meta',
            )
        splits = {_split(name) for name in _scenes(self.label_folder)}
        return tuple(split for split in ('train', 'val') if split in splits)

    def notes_of_folders(self):
        """Returns a note if there are no images."""
        if self.image_folder.is_dir():
            return []
        return [Note(str(self.root), 'no folder img/rgb: the examples have no images')]

    def scan(self, split):
        """Pairs the images of a split with its labels, in the order of their numbers."""
        try:
            labels = _of_split(split, _scenes(self.label_folder))
            images = {}
            if self.image_folder.is_dir():
                images = _of_split(split, _scenes(self.image_folder))
        except InputError as error:
            return [], [error]

        # Without the folder of images, labels need no partner.
        names = list(labels)
        problems = []
        if self.image_folder.is_dir():
            place = str(self.label_folder / '{name}.png')
            names, problems = base.pair(split, images, labels, place)
        items = []
        for name in sorted(names, key=int):
            files = {'label': labels[name]}
            if name in images:
                files['image'] = images[name]
            items.append(Item(split, name, files))
        return items, problems

    def features(self, items: Iterable[Item]) -> tuple[str, ...]:
        """Returns label and name, and image if all examples have an image."""
        with_images = all('image' in item.files for item in items)
        return (*(('image',) if with_images else ()), 'label', 'name')

    def examine(self, item: Item) -> Inspection:
        """Reads and checks the label of an example, and its image if there are images."""
        if 'image' in item.files:
            return super().examine(item)
        attempts = base.Attempts()
        notes: list[Note] = []
        ids, label = self._examine_label(item, None, attempts, notes)
        if attempts.problems or label is None:
            return Inspection(None, attempts.problems, ids)
        self._note(notes)
        features = {'label': image_files.encode_png(label), **base.text_features(item)}
        return Inspection(Record(features, base.histogram(label), label.shape), [], ids)


def _scenes(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the PNG files of a folder by their number, as '17'.

    Raises:
      InputError: no such folder, or a name that is no number.
    """
    return by_name(find(folder, ('.png',)), _number)


def _number(path: pathlib.Path) -> str:
    """Returns the number of a scene, as it stands in the name of its file.

    Raises:
      InputError: another form of file name.
    """
    if not (path.stem.isascii() and path.stem.isdecimal()):
        raise InputError(
            str(path),
            got='another file name',
            expected='{number of the scene}.png',
            fix='rename it or move it away',
        )
    return path.stem


def _split(name: str) -> str:
    """Returns the split of a scene."""
    return 'val' if int(name) >= FIRST_VAL else 'train'


def _of_split(split: str, scenes: dict[str, pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns the scenes of a split."""
    return {name: path for name, path in scenes.items() if _split(name) == split}
