"""One's own data: a folder of images, a folder of masks and a class file."""

import hashlib
import pathlib
from typing import Any

from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Item
from segjax.data.image_files import IMAGE_SUFFIXES, by_relative_name
from segjax.data.labels import LabelCoding, load_class_file
from segjax.errors import InputError

SPLITS = ('train', 'val', 'test')
TRAIN_SHARE = 0.8


class Folder(FileDataset):
    """`images/` and `masks/` with files of the same relative name, and `config.data.classes`, a class file.

    With folders `images/train`, `masks/train`, `images/val`, ... these are the splits. Without, 80 % of the images
    are `train` and the rest `val`, each by the MD5 hash of its own name: adding images moves none from one split to
    the other.

    Masks are PNG with ids (grey, or palette, of which the indices are read), or in colour if the class file says
    which colour each class has.
    """

    def __init__(self, config: Any):
        if not config.classes:
            raise InputError(
                'config.data.classes',
                got="''",
                expected="a YAML or JSON file with the class list of data set 'folder'",
                fix='for two classes write `[background, foreground]` into classes.yaml',
            )
        self._coding = load_class_file(pathlib.Path(config.classes).expanduser())
        super().__init__(config.name, config.root, self._coding.classes)

    def options(self):
        return base.describe(self._coding)

    def coding(self, item: Item) -> LabelCoding:
        return self._coding

    def splits(self):
        for kind in ('images', 'masks'):
            if not (self.root / kind).is_dir():
                raise InputError(str(self.root), got=f'no folder {kind}', expected='the folders images and masks')
        drawn = {split_of(name) for name in by_relative_name(self.root / 'images')}
        return self._split_folders() or tuple(split for split in SPLITS if split in drawn) or ('train',)

    def _split_folders(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if (self.root / 'images' / split).is_dir())

    def scan(self, split):
        inner = split if self._split_folders() else ''
        problems = []
        if inner:
            problems = [
                InputError(
                    str(path),
                    got=f'a file beside the folders {", ".join(self._split_folders())}',
                    expected='all images in these folders, or no such folders',
                )
                for path in sorted((self.root / 'images').iterdir())
                if path.suffix.lower() in IMAGE_SUFFIXES
            ]
        try:
            images = by_relative_name(self.root / 'images' / inner)
            labels = by_relative_name(self.root / 'masks' / inner)
        except InputError as error:
            return [], [*problems, error]
        if not inner:
            images = {name: path for name, path in images.items() if split_of(name) == split}
            labels = {name: path for name, path in labels.items() if split_of(name) == split}
        names, unpaired = base.pair(split, images, labels, str(self.root / 'masks' / inner / '{name}.png'))
        items = [Item(split, name, {'image': images[name], 'label': labels[name]}) for name in names]
        return items, problems + unpaired


def split_of(name: str) -> str:
    """'train' or 'val' for an image of a folder without splits: a function of the name alone."""
    value = int(hashlib.md5(name.encode()).hexdigest()[:8], 16)
    return 'train' if value < TRAIN_SHARE * 2**32 else 'val'
