"""CamVid as SegNet's authors prepared it: 11 classes, 480x360."""

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
    """{train,val,test}/{name}.png (or .jpg) and {train,val,test}annot/{name}.png with ids 0..10, void 11.

    `sequence` and `frame` come from names as 0016E5_08011; frames of one sequence are in order.
    """

    def __init__(self, config: Any):
        super().__init__(config.name, config.root, CAMVID)

    def options(self):
        return base.describe(CAMVID_IDS)

    def coding(self, item: Item) -> LabelCoding:
        return CAMVID_IDS

    def splits(self):
        found = tuple(split for split in SPLITS if (self.root / split).is_dir())
        if not found:
            raise InputError(
                str(self.root),
                got='no folder train, val or test',
                expected='train and trainannot, ...',
            )
        return found

    def notes_of_folders(self):
        folders = [
            self.root / f'{split}{ending}' for split in self.splits() for ending in ('', 'annot')
        ]
        return [note for folder in folders if folder.is_dir() for note in unread_note(folder)]

    def scan(self, split):
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
