"""CamVid in the copy of SegNet's authors: 11 classes, 480x360."""

import re
from typing import Any

from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Item
from segjax.data.image_files import by_name, find, unread_note
from segjax.data.labels import CAMVID, CAMVID_IDS, LabelCoding
from segjax.errors import InputError

SPLITS = ('train', 'val', 'test')
FRAME_NAME = re.compile(r'(?P<sequence>\w+?)_f?(?P<frame>\d+)')


class CamVid(FileDataset):
    """CamVid in folders `train`, `val`, `test` and `trainannot`, `valannot`, `testannot`.

    Images are {train,val,test}/{name}.png (or .jpg). Labels are {train,val,test}annot/{name}.png
    with the ids 0..10, and 11 is void.

    `sequence` and `frame` come from names like 0016E5_08011. Frames of a sequence are in order.
    """

    def __init__(self, config: Any):
        super().__init__(config.name, config.root, CAMVID)

    def options(self):
        """Returns the coding of the labels."""
        return base.describe(CAMVID_IDS)

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all label files."""
        return CAMVID_IDS

    def splits(self):
        """Returns the splits whose folder of images exists."""
        splits = tuple(split for split in SPLITS if (self.root / split).is_dir())
        if not splits:
            raise InputError(
                str(self.root),
                got='no folder train, val or test',
                expected='train and trainannot, ...',
            )
        return splits

    def notes_of_folders(self):
        """Returns notes about files that are not read."""
        notes = []
        for split in self.splits():
            for folder in (self.root / split, self.root / f'{split}annot'):
                if folder.is_dir():
                    notes += unread_note(folder)
        return notes

    def scan(self, split):
        """Pairs the images of a split with its labels."""
        annotations = self.root / f'{split}annot'
        try:
            images = by_name(find(self.root / split), lambda path: path.stem)
            labels = by_name(find(annotations), lambda path: path.stem)
        except InputError as error:
            return [], [error]
        names, problems = base.pair(split, images, labels, str(annotations / '{name}.png'))
        items = []
        for name in names:
            match = FRAME_NAME.fullmatch(name)
            video = (match['sequence'], int(match['frame'])) if match else ('', 0)
            items.append(Item(split, name, {'image': images[name], 'label': labels[name]}, *video))
        return items, problems
