"""BDD100K: the 10,000 images of semantic segmentation, in the layouts of two releases."""

import pathlib
from typing import Any, NamedTuple

from segjax.core.notes import Note
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Item
from segjax.data.image_files import by_name, find, unread_note
from segjax.data.labels import CITYSCAPES_CATEGORIES, CITYSCAPES_TRAIN_IDS, LabelCoding
from segjax.errors import InputError

SPLITS = ('train', 'val', 'test')


class Layout(NamedTuple):
    """The places of the files of a release.

    images  folder of the images, with a folder for each split
    labels  folder of the labels, with a folder for each split
    ending  end of the name of a label file, behind the name of its image
    """

    images: str
    labels: str
    ending: str


LAYOUTS = (
    Layout('images/10k', 'labels/sem_seg/masks', ''),
    Layout('seg/images', 'seg/labels', '_train_id'),
)
"""The newer release, and the release of 2018. The first layout that a folder has is read."""


def label_name(path: pathlib.Path, ending: str) -> str:
    """Returns the name of the image of a label file.

    Raises:
      InputError: the name has another ending.
    """
    if not path.stem.endswith(ending):
        raise InputError(
            str(path),
            got='another file name',
            expected=f'a name that ends with {ending}{path.suffix}: train ids',
            fix='move it away, or rename it if it holds train ids',
        )
    return path.stem.removesuffix(ending)


class Bdd100k(FileDataset):
    """BDD100K's semantic segmentation: the 19 classes of Cityscapes, 1280x720.

    Images are images/10k/{split}/{name}.jpg, labels are labels/sem_seg/masks/{split}/{name}.png.
    In the older release they are seg/images/{split}/{name}.jpg and
    seg/labels/{split}/{name}_train_id.png. Label files have the train ids 0..18 of Cityscapes, and
    255 is void. `train` has 7,000 images, and `val` 1,000. The 2,000 images of `test` have no
    published labels. A split `test` without a folder of labels is skipped. Colour maps, polygons,
    instances and the 100,000 images of the remaining tasks are not read.

    Sources: bdd100k/bdd100k, doc/source/download.rst (folders of the newer release) and format.rst
    (classes, 255). Several public loaders agree on folders and endings of the older release. The
    lists of mseg-dataset/mseg-api have the numbers of `train` and `val`. The number of `test` is
    from memory.
    """

    def __init__(self, config: Any):
        super().__init__(config.name, config.root, CITYSCAPES_TRAIN_IDS.classes)
        self.class_maps = {'categories': CITYSCAPES_CATEGORIES}

    def options(self):
        """Returns the coding of the labels."""
        return base.describe(CITYSCAPES_TRAIN_IDS)

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all label files."""
        return CITYSCAPES_TRAIN_IDS

    def _layouts(self) -> list[Layout]:
        """Returns the layouts whose folder of images exists.

        Raises:
          InputError: there is none.
        """
        layouts = [layout for layout in LAYOUTS if (self.root / layout.images).is_dir()]
        if layouts:
            return layouts
        below = self.root / 'bdd100k'
        fix = f'--config.data.root={below}' if below.is_dir() else 'unpack the 10K images there'
        raise InputError(
            str(self.root),
            got='no folder images/10k or seg/images',
            expected='images/10k and labels/sem_seg/masks, or seg/images and seg/labels',
            fix=fix,
        )

    def splits(self):
        """Returns the splits whose folder of images exists. `test` also needs labels."""
        layout = self._layouts()[0]
        splits = []
        for split in SPLITS:
            labelled = (self.root / layout.labels / split).is_dir()
            if (self.root / layout.images / split).is_dir() and (split != 'test' or labelled):
                splits.append(split)
        if not splits:
            raise InputError(
                str(self.root / layout.images),
                got='no folder train or val',
                expected='at least one of them',
                fix='unpack the images again, with their folders',
            )
        return tuple(splits)

    def notes_of_folders(self):
        """Returns notes about a second layout, and about files that are not read."""
        read, *further = self._layouts()
        notes = []
        for layout in further:
            message = f'passed over: {layout.images}, because {read.images} exists'
            fix = f'move {self.root / read.images} away to read {layout.images}'
            notes.append(Note(str(self.root), message, fix))
        for split in self.splits():
            for folder in (self.root / read.images / split, self.root / read.labels / split):
                if folder.is_dir():
                    notes += unread_note(folder)
        return notes

    def scan(self, split):
        """Pairs the images of a split with its labels."""
        layout = self._layouts()[0]
        folder = self.root / layout.labels / split
        try:
            images = by_name(find(self.root / layout.images / split), lambda path: path.stem)
            labels = by_name(find(folder), lambda path: label_name(path, layout.ending))
        except InputError as error:
            return [], [error]
        place = str(folder / ('{name}' + layout.ending + '.png'))
        names, problems = base.pair(split, images, labels, place)
        items = []
        for name in names:
            items.append(Item(split, name, {'image': images[name], 'label': labels[name]}))
        return items, problems
