"""One's own data: a folder of images, a folder of masks and a class file."""

import hashlib
import pathlib
import re
from typing import Any

from segjax.core.notes import Note
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Item
from segjax.data.image_files import IMAGE_SUFFIXES, by_relative_name, find, find_unread, unread_note
from segjax.data.labels import LabelCoding, load_class_file
from segjax.errors import InputError

SPLITS = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}
"""Names of the folders of each split, in upper or lower case."""

ALMOST_A_SPLIT = re.compile('train|val|test|dev|eval', re.IGNORECASE)
TRAIN_SHARE = 0.8


class Folder(FileDataset):
    """`images/` and `masks/` with files of the same relative name, and `config.data.classes`, a class file.

    With folders `images/train`, `masks/train`, `images/val`, ... these are the splits (`SPLITS` has
    further names). Without folders, 80 % of the images are `train` and the rest `val`, each by the MD5
    hash of its own name: adding images moves none from one split to the other. Other folders are refused.

    Masks are PNG, TIFF or BMP with ids (grey or palette), or in colour if the class file says which colour each class
    has. A palette whose colours contradict its indices is read by colours (`labels.indexed_by_color`).
    """

    def __init__(self, config: Any):
        if not config.classes:
            raise InputError(
                'config.data.classes',
                got="''",
                expected="a YAML or JSON file with the class list of data set 'folder'",
                fix="echo '[background, foreground]' > classes.yaml, and --config.data.classes=classes.yaml",
            )
        self._coding = load_class_file(pathlib.Path(config.classes).expanduser())
        super().__init__(config.name, config.root, self._coding.classes)

    def options(self):
        described = base.describe(self._coding)
        return [*described, 'indexed colours'] if self._coding.colors else described

    def coding(self, item: Item) -> LabelCoding:
        return self._coding

    def splits(self):
        folders = self._split_folders('images')
        self._folder('masks')
        if folders:
            return tuple(split for split in SPLITS if split in folders)
        used = {split_of(name) for name in by_relative_name(self._flat_folder())}
        return tuple(split for split in SPLITS if split in used) or ('train',)

    def _folder(self, kind: str) -> pathlib.Path:
        """Returns the folder `images` or `masks`, in upper or lower case."""
        there = _folders(self.root)
        found = [path for path in there if path.name.lower() == kind]
        if len(found) != 1:
            names = ', '.join(path.name for path in found or there) or 'no folder at all'
            got = (
                f'{len(found)} folders {kind}: {names}'
                if found
                else f'no folder {kind}, but {names}'
            )
            expected = 'the folders images and masks, with train and val in each of them'
            swapped = next((path.name for path in there if _split_name(path)), '')
            fix = (
                f'move {swapped}/images to images/{swapped}, and the masks of each split to masks'
                if swapped and not found
                else ''
            )
            raise InputError(str(self.root), got=got, expected=expected, fix=fix)
        return found[0]

    def _split_folders(self, kind: str) -> dict[str, pathlib.Path]:
        """Returns the folders of the splits in `images` or `masks`, {} if there are none."""
        folders = {}
        for path in _folders(self._folder(kind)):
            split = _split_name(path)
            if split in folders:
                got = f'{folders[split].name} and {path.name}, two folders of split {split!r}'
                raise InputError(
                    str(path.parent),
                    got=got,
                    expected='one folder for a split',
                    fix=f'merge them: move the files of {path} to {folders[split]}',
                )
            if split:
                folders[split] = path
        if folders:
            _check_no_other_split(self._folder(kind))
        return folders

    def _flat_folder(self) -> pathlib.Path:
        """Returns the folder of images without splits; raises InputError if it holds folders of images."""
        folder = self._folder('images')
        nested = [path.name for path in _folders(folder) if find(path)]
        if nested:
            raise InputError(
                str(folder),
                got=f'folders of images that are no splits: {", ".join(nested)}',
                expected='folders train and val, perhaps test, or images without folders',
                fix='rename the folders, or move all images up to be divided by their names; masks, too',
            )
        return folder

    def scan(self, split):
        try:
            folders = self._split_folders('images')
            if folders:
                image_folder = folders[split]
                label_folder = self._split_folders('masks').get(
                    split, self._folder('masks') / image_folder.name
                )
            else:
                image_folder = self._flat_folder()
                label_folder = self._folder('masks')
            images = by_relative_name(image_folder)
            labels = by_relative_name(label_folder)
            # Files without a partner alone ask for it: large folders are slow to list.
            complete = images.keys() == labels.keys()
            unread = [] if complete else [*find_unread(image_folder), *find_unread(label_folder)]
        except InputError as error:
            return [], [error]
        problems = self._loose_images(folders) if folders else []
        if not folders:
            images = {name: path for name, path in images.items() if split_of(name) == split}
            labels = {name: path for name, path in labels.items() if split_of(name) == split}
        names, unpaired = base.pair(split, images, labels, str(label_folder / '{name}.png'), unread)
        items = [
            Item(split, name, {'image': images[name], 'label': labels[name]}) for name in names
        ]
        return items, problems + unpaired

    def _loose_images(self, folders: dict[str, pathlib.Path]) -> list[InputError]:
        names = ', '.join(path.name for path in folders.values())
        return [
            InputError(
                str(path),
                got=f'a file beside the folders {names}',
                expected='all images in these folders, or no such folders',
                fix='move it into one of them',
            )
            for path in sorted(self._folder('images').iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.')
        ]

    def notes_of_folders(self):
        try:
            return self._find_notes()
        except InputError:  # `scan` finds it, too
            return []

    def _find_notes(self) -> list[Note]:
        images = self._split_folders('images')
        masks = self._split_folders('masks')
        found = [] if images else self._divided()
        found += self._unread_lists()
        for kind in ('images', 'masks'):
            folder = self._folder(kind)
            if images:
                found += [_passed_over(path) for path in _folders(folder) if not _split_name(path)]
            found += unread_note(folder)
        found += [
            _passed_over(path) for split, path in masks.items() if images and split not in images
        ]
        return found

    def _unread_lists(self) -> list[Note]:
        """Returns the note that text files with the names of splits are not read."""
        places = ('*.txt', 'splits/*.txt', 'lists/*.txt', 'ImageSets/*.txt', 'ImageSets/*/*.txt')
        lists = sorted(
            path
            for place in places
            for path in self.root.glob(place)
            if ALMOST_A_SPLIT.match(path.name)
        )
        if not lists:
            return []
        names = ', '.join(path.relative_to(self.root).as_posix() for path in lists)
        fix = 'move the images and masks of each list into folders train and val'
        return [Note(str(self.root), f'lists of splits are not read: {names}', fix)]

    def _divided(self) -> list[Note]:
        """Returns the note that images are divided by their names."""
        folder = self._flat_folder()
        splits = [split_of(name) for name in by_relative_name(folder)]
        numbers = f'{splits.count("train")} for train, {splits.count("val")} for val'
        message = (
            f'no folders train and val: images are divided by a hash of their names, {numbers}'
        )
        return [
            Note(
                str(folder),
                message,
                f'make folders train and val in {folder} and in masks to choose them',
            )
        ]


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders in a folder, sorted, without hidden ones."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.')
    )


def _split_name(folder: pathlib.Path) -> str:
    """Returns 'val' for folders `val`, `Valid`, `validation`, ..., '' for a folder that is no split."""
    return next((split for split, names in SPLITS.items() if folder.name.lower() in names), '')


def _check_no_other_split(folder: pathlib.Path) -> None:
    """Raises InputError for a folder whose name is almost one of a split."""
    for path in _folders(folder):
        if not _split_name(path) and ALMOST_A_SPLIT.match(path.name):
            names = ', '.join(name for names in SPLITS.values() for name in names)
            fix = 'rename it, or move it away'
            raise InputError(
                str(path), got='a folder that may be a split', expected=f'one of {names}', fix=fix
            )


def _passed_over(folder: pathlib.Path) -> Note:
    try:
        content = f'with {len(find(folder))} images'
    except InputError as error:
        content = f'in which {error.where} is {error.got}'
    return Note(str(folder), f'passed over: a folder of no split, {content}')


def split_of(name: str) -> str:
    """'train' or 'val' for an image of a folder without splits: a function of the name alone."""
    value = int(hashlib.md5(name.encode()).hexdigest()[:8], 16)
    return 'train' if value < TRAIN_SHARE * 2**32 else 'val'
