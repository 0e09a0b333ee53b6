"""Data of the user: folders of images, masks and maybe instances, and a class file."""

import hashlib
import itertools
import pathlib
import re
from typing import Any

from segjax.core.notes import Note
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Item
from segjax.data.image_files import (
    IMAGE_SUFFIXES,
    by_relative_name,
    find,
    find_unread,
    subfolders,
    unread_note,
)
from segjax.data.labels import LabelCoding, load_class_file
from segjax.errors import InputError

SPLITS = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}
"""Names of the folders of each split, in upper or lower case."""

INSTANCES = 'instances'
"""Name of the optional folder of instance files."""
ALMOST_A_SPLIT = re.compile('train|val|test|dev|eval', re.IGNORECASE)
TRAIN_SHARE = 0.8


class Folder(FileDataset):
    """Images and masks in folders, and `config.data.classes`, a class file.

    The folders `images/` and `masks/` have files of the same relative name. The folders
    `images/train`, `masks/train`, `images/val`, ... are the splits (`SPLITS` has more names).
    Without these folders, 80 % of the images are `train` and the remaining images `val`. The MD5
    hash of its own name decides the split of an image, so adding images moves no image to another
    split. All remaining folders of images are refused.

    Masks are PNG, TIFF or BMP with ids (grey or palette), or in colour if the class file has a
    colour for each class. A palette whose colours contradict its indices is read by colours
    (`labels.indexed_by_color`).

    An optional folder `instances/` has a file of each image, laid out as `masks/`: a number for
    each object, and 0 where there is none.
    """

    def __init__(self, config: Any):
        self._coding = load_coding(config)
        super().__init__(config.name, config.root, self._coding.classes)

    def options(self):
        """Returns the coding of the masks."""
        return describe_coding(self._coding)

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all masks."""
        return self._coding

    def splits(self):
        """Returns the splits that have folders, or images by the hash of their names."""
        folders = self._split_folders('images')
        self._folder('masks')
        if folders:
            return tuple(split for split in SPLITS if split in folders)
        used = {split_of(name) for name in by_relative_name(self._flat_folder())}
        return tuple(split for split in SPLITS if split in used) or ('train',)

    def _folder(self, kind: str) -> pathlib.Path:
        """Returns the folder `images`, `masks` or `instances`, in upper or lower case.

        Raises:
          InputError: no such folder, or several.
        """
        folders = subfolders(self.root)
        matches = [path for path in folders if path.name.lower() == kind]
        if len(matches) == 1:
            return matches[0]
        expected = 'the folders images and masks, with train and val in each of them'
        if matches:
            names = ', '.join(path.name for path in matches)
            got = f'{len(matches)} folders {kind}: {names}'
            raise InputError(str(self.root), got=got, expected=expected)

        # Perhaps the folders are nested in reverse: train/images.
        names = ', '.join(path.name for path in folders) or 'no folder at all'
        split = next((path.name for path in folders if split_name(path)), '')
        fix = f'move {split}/images to images/{split}, and the masks of each split to masks'
        raise InputError(
            str(self.root),
            got=f'no folder {kind}, but {names}',
            expected=expected,
            fix=fix if split else '',
        )

    def _split_folders(self, kind: str) -> dict[str, pathlib.Path]:
        """Returns the folders of the splits in a folder of files, {} if there are none.

        Args:
          kind: 'images', 'masks' or 'instances'.

        Raises:
          InputError: two folders of the same split, or a folder with almost the name of a split.
        """
        folders = {}
        for path in subfolders(self._folder(kind)):
            split = split_name(path)
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
            check_no_other_split(self._folder(kind))
        return folders

    def _flat_folder(self) -> pathlib.Path:
        """Returns the folder of images without splits.

        Raises:
          InputError: it contains folders of images.
        """
        folder = self._folder('images')
        nested = [path.name for path in subfolders(folder) if find(path)]
        if nested:
            raise InputError(
                str(folder),
                got=f'folders of images that are no splits: {", ".join(nested)}',
                expected='folders train and val, perhaps test, or images without folders',
                fix='rename the folders, '
                'or move all images and masks up to be divided by their names',
            )
        return folder

    def scan(self, split):
        """Pairs the images of a split with its masks."""
        try:
            folders = self._split_folders('images')
            image_folder, label_folder = self._folders_of(split, folders)
            images = by_relative_name(image_folder)
            labels = by_relative_name(label_folder)
            instances = self._instances_of(split, bool(folders))
            # Large folders are slow to list, so unread files are listed only without partners.
            complete = images.keys() == labels.keys()
            unread = [] if complete else [*find_unread(image_folder), *find_unread(label_folder)]
        except InputError as error:
            return [], [error]

        # Folders decide the split of an image, or else its name.
        problems = []
        if folders:
            problems = self._loose_images(folders)
        else:
            images = {name: path for name, path in images.items() if split_of(name) == split}
            labels = {name: path for name, path in labels.items() if split_of(name) == split}

        names, unpaired = base.pair(split, images, labels, str(label_folder / '{name}.png'), unread)
        items = []
        for name in names:
            files = {'image': images[name], 'label': labels[name]}
            if name in instances:
                files['instance'] = instances[name]
            items.append(Item(split, name, files))
        problems += base.incomplete_feature('instance', items)
        return items, problems + unpaired

    def _instances_of(self, split: str, has_splits: bool) -> dict[str, pathlib.Path]:
        """Returns the instance files of a split by name, {} without a folder of them.

        Args:
          split: its name.
          has_splits: whether the images lie in folders of splits.
        """
        if not any(path.name.lower() == INSTANCES for path in subfolders(self.root)):
            return {}
        if not has_splits:
            return by_relative_name(self._folder(INSTANCES))
        folders = self._split_folders(INSTANCES)
        return by_relative_name(folders[split]) if split in folders else {}

    def _folders_of(
        self, split: str, folders: dict[str, pathlib.Path]
    ) -> tuple[pathlib.Path, pathlib.Path]:
        """Returns the folders of the images and masks of a split.

        Args:
          split: its name.
          folders: of the images of all splits, {} if images are divided by their names.
        """
        if not folders:
            return self._flat_folder(), self._folder('masks')
        images = folders[split]
        default = self._folder('masks') / images.name
        return images, self._split_folders('masks').get(split, default)

    def _loose_images(self, folders: dict[str, pathlib.Path]) -> list[InputError]:
        """Returns a problem for each image next to the folders of the splits."""
        names = ', '.join(path.name for path in folders.values())
        problems = []
        for path in sorted(self._folder('images').iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.'):
                problems.append(
                    InputError(
                        str(path),
                        got=f'a file next to the folders {names}',
                        expected='all images in these folders, or no such folders',
                        fix='move it into one of them',
                    )
                )
        return problems

    def notes_of_folders(self):
        """Returns notes about the choice of splits, and about skipped folders and files."""
        try:
            return self._find_notes()
        except InputError:  # `scan` returns the same error
            return []

    def _find_notes(self) -> list[Note]:
        """Returns the notes of valid folders."""
        images = self._split_folders('images')
        masks = self._split_folders('masks')
        notes = [] if images else self._divided()
        notes += self._unread_lists()
        notes += self._unread_cameras()
        # Without folders of splits, all files lie in the same folders.
        for split in self.splits() if images else self.splits()[:1]:
            notes += self._unmatched_instances(split, images)

        # Folders of no split, and files that are not read.
        for kind in ('images', 'masks'):
            folder = self._folder(kind)
            if images:
                notes += [_passed_over(path) for path in subfolders(folder) if not split_name(path)]
            notes += unread_note(folder)

        # Masks of a split without images.
        if images:
            notes += [_passed_over(path) for split, path in masks.items() if split not in images]
        return notes

    def _unmatched_instances(self, split: str, folders: dict[str, pathlib.Path]) -> list[Note]:
        """Returns the note that no instance file of a split has the name of an image.

        Args:
          split: its name.
          folders: of the images of all splits, {} if images are divided by their names.
        """
        instances = self._instances_of(split, bool(folders))
        images, _ = self._folders_of(split, folders)
        if not instances or instances.keys() & by_relative_name(images).keys():
            return []
        first = next(iter(instances.values()))
        message = f'not read: {len(instances)} instance files without an image of their name'
        return [Note(str(first), message, f'name them like the images in {images}')]

    def _unread_lists(self) -> list[Note]:
        """Returns the note that text files with the names of splits are not read."""
        places = ('*.txt', 'splits/*.txt', 'lists/*.txt', 'ImageSets/*.txt', 'ImageSets/*/*.txt')
        files = itertools.chain.from_iterable(self.root.glob(place) for place in places)
        lists = sorted(path for path in files if ALMOST_A_SPLIT.match(path.name))
        if not lists:
            return []
        names = ', '.join(path.relative_to(self.root).as_posix() for path in lists)
        fix = 'move the images and masks of each list into folders train and val'
        return [Note(str(self.root), f'lists of splits are not read: {names}', fix)]

    def _unread_cameras(self) -> list[Note]:
        """Returns the note that camera files are not read."""
        unread = base.camera_files(self.root)
        if not unread:
            return []
        first = unread[0].relative_to(self.root)
        message = (
            f'passed over: {len(unread)} camera files, the first is {first}. '
            "The data set 'folder' has no cameras"
        )
        fix = 'write a data set of your own that reads them: see "A data set" in CONTRIBUTING.md'
        return [Note(str(self.root), message, fix)]

    def _divided(self) -> list[Note]:
        """Returns the note that images are divided by their names."""
        folder = self._flat_folder()
        splits = [split_of(name) for name in by_relative_name(folder)]
        numbers = f'{splits.count("train")} for train, {splits.count("val")} for val'
        message = (
            f'no folders train and val: images are divided by a hash of their names, {numbers}'
        )
        fix = f'make folders train and val in {folder} and in masks to choose them'
        return [Note(str(folder), message, fix)]


def load_coding(config: Any) -> LabelCoding:
    """Returns the meaning of the ids and colours in label files, from the class file of the user.

    Args:
      config: `config.data`. Its `classes` names the file.

    Raises:
      InputError: no class file, or a wrong class file.
    """
    if not config.classes:
        # The file may lie where the README shows it.
        present = pathlib.Path(config.root or '.').expanduser() / 'classes.yaml'
        is_there = bool(config.root) and present.exists()
        argument = f'--config.data.classes={present if is_there else "classes.yaml"}'
        make = "echo '[background, foreground]' > classes.yaml, and "
        raise InputError(
            'config.data.classes',
            got="''",
            expected=f'a YAML or JSON file with the class list of data set {config.name!r}',
            fix=argument if is_there else make + argument,
        )
    return load_class_file(pathlib.Path(config.classes).expanduser())


def describe_coding(coding: LabelCoding) -> list:
    """Returns the coding of a class file as JSON, for `Dataset.options`."""
    described = base.describe(coding)
    return [*described, 'indexed colours'] if coding.colors else described


def split_name(folder: pathlib.Path) -> str:
    """Returns the split of a folder: 'val' for `val`, `Valid` and `validation`, '' for no split."""
    return next((split for split, names in SPLITS.items() if folder.name.lower() in names), '')


def check_no_other_split(folder: pathlib.Path) -> None:
    """Raises InputError for a folder whose name is almost the name of a split."""
    for path in subfolders(folder):
        if not split_name(path) and ALMOST_A_SPLIT.match(path.name):
            names = ', '.join(itertools.chain.from_iterable(SPLITS.values()))
            fix = 'rename it, or move it away'
            raise InputError(
                str(path), got='a folder that may be a split', expected=f'one of {names}', fix=fix
            )


def _passed_over(folder: pathlib.Path) -> Note:
    """Returns the note about a folder that belongs to no split."""
    try:
        content = f'with {len(find(folder))} images'
    except InputError as error:
        content = f'in which {error.where} is {error.got}'
    return Note(str(folder), f'passed over: a folder of no split, {content}')


def split_of(name: str) -> str:
    """Returns 'train' or 'val' for an image of a folder without splits.

    The split is a function of the name alone.
    """
    value = int(hashlib.md5(name.encode()).hexdigest()[:8], 16)
    return 'train' if value < TRAIN_SHARE * 2**32 else 'val'
