"""Mapillary Vistas: street scenes of the whole world, with the labels of releases 1.x and 2.0."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from segjax.core.notes import Note
from segjax.data import class_tables, labels
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Item
from segjax.data.image_files import by_name, find, unread_note
from segjax.errors import InputError

FOLDERS = {'train': 'training', 'val': 'validation', 'test': 'testing'}


class Release(NamedTuple):
    """A version of the annotations.

    name     data set in the registry
    table    lines with id, colour and name of every label
    void     names of the labels that are no classes, unless a config file decides
    folders  of the labels of a split. The first that exists is read
    configs  names of the config file. The first that exists is read
    merged   for each class of Cityscapes, the classes that it consists of
    """

    name: str
    table: str
    void: tuple[str, ...]
    folders: tuple[str, ...]
    configs: tuple[str, ...]
    merged: Mapping[str, tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]:
        """Returns the names of all labels, in the order of their ids."""
        return tuple(name for name, _, _ in class_tables.rows(self.table))


V1 = Release(
    name='vistas',
    table=class_tables.VISTAS,
    void=labels.VISTAS_VOID,
    folders=('v1.2/labels', 'labels'),
    configs=('config_v1.2.json', 'config.json'),
    merged=labels.VISTAS_AS_CITYSCAPES,
)
V2 = Release(
    name='vistas_v2',
    table=class_tables.VISTAS_V2,
    void=labels.VISTAS_V2_VOID,
    folders=('v2.0/labels',),
    configs=('config_v2.0.json', 'config.json'),
    merged=labels.VISTAS_V2_AS_CITYSCAPES,
)


class Vistas(FileDataset):
    """Mapillary Vistas with the labels of release 1.x: 65 classes, images of many sizes.

    Images are {training,validation,testing}/images/{key}.jpg. Labels are
    {training,validation}/v1.2/labels/{key}.png, or {training,validation}/labels/{key}.png in
    releases before 2.0. They are indexed PNG, whose indices are the ids. `train` has 18,000 images,
    `val` has 2,000. The 5,000 images of `testing` have no published labels, and are skipped
    without a folder of labels. Instances, panoptic files and polygons are not read.

    `config_v1.2.json` or `config.json` in the root folder has `labels`: a list in the order of
    the ids, with the name (`readable`) of each label, and whether it is evaluated (`evaluate`).
    Labels that are not evaluated are void. Names that differ from the release are an error.
    Without this file, only Unlabeled is void.

    The class map `cityscapes` has the 19 classes of Cityscapes (`labels.VISTAS_AS_CITYSCAPES`).

    Sources: the README of releases 1.1 and 2.0 (folders, kinds of files, numbers), config.json of
    release 1.1 (names, colours and evaluation of all labels), and Datumaro (names of the config
    files of release 2.0).
    """

    release = V1

    def __init__(self, config: Any):
        release = self.release
        rows = tuple(class_tables.rows(release.table))
        super().__init__(config.name, config.root, labels.vistas_coding(rows, release.void).classes)
        self._coding = labels.vistas_coding(rows, self._void())
        self.classes = self._coding.classes
        merged = labels.merge(self.classes, labels.CITYSCAPES, tuple(release.merged.values()))
        self.class_maps = {'cityscapes': merged}

    def options(self):
        """Returns the coding of the labels."""
        return base.describe(self._coding)

    def coding(self, item: Item) -> labels.LabelCoding:
        """Returns the coding of all label files."""
        return self._coding

    def _config_file(self) -> pathlib.Path | None:
        """Returns the config file of the release, None if there is none."""
        paths = [self.root / name for name in self.release.configs]
        return next((path for path in paths if path.is_file()), None)

    def _void(self) -> tuple[str, ...]:
        """Returns the names of the labels that are no classes.

        Raises:
          InputError: the config file has another form, or other names than the release.
        """
        path = self._config_file()
        if path is None:
            return self.release.void
        evaluated = read_evaluated(path)
        names = tuple(name for name, _ in evaluated)
        if names != self.release.labels:
            raise self._other_names(path, names)
        return tuple(name for name, is_evaluated in evaluated if not is_evaluated)

    def _other_names(self, path: pathlib.Path, names: tuple[str, ...]) -> InputError:
        """Returns the error for a config file with other labels than the release."""
        known = self.release.labels
        got = f'{len(names)} labels'
        expected = f'the {len(known)} labels of data set {self.release.name!r}'
        if len(names) == len(known):
            pairs = zip(names, known, strict=True)
            position = next(i for i, (name, own) in enumerate(pairs) if name != own)
            got = f'the name {names[position]!r} of label {position}'
            expected = f'{known[position]!r}, as in the release'
        other = next((each for each in (V1, V2) if each.labels == names), None)
        fix = 'put the config file of the release there, or move it away to use the known names'
        if other is not None:
            fix = f'--config.data.name={other.name}'
        return InputError(str(path), got=got, expected=expected, fix=fix)

    def _labels_folder(self, split: str) -> pathlib.Path:
        """Returns the folder of the labels of a split, which need not exist."""
        folders = [self.root / FOLDERS[split] / place for place in self.release.folders]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def splits(self):
        """Returns the splits whose folder of images exists. `test` also needs labels."""
        splits = []
        for split, name in FOLDERS.items():
            labelled = self._labels_folder(split).is_dir()
            if (self.root / name / 'images').is_dir() and (split != 'test' or labelled):
                splits.append(split)
        if not splits:
            places = ' or '.join(self.release.folders)
            raise InputError(
                str(self.root),
                got='no folder training/images or validation/images',
                expected=f'{{training,validation}}/images, and {places} next to images',
                fix='config.data.root is the folder that has training and validation',
            )
        return tuple(splits)

    def notes_of_folders(self):
        """Returns notes about an absent config file, and about files that are not read."""
        notes = []
        if self._config_file() is None:
            names = ' or '.join(self.release.configs)
            message = f'no {names}: void are {", ".join(self.release.void)}'
            notes.append(Note(str(self.root), message, f'copy {self.release.configs[0]} there'))
        for split in self.splits():
            for folder in (self.root / FOLDERS[split] / 'images', self._labels_folder(split)):
                if folder.is_dir():
                    notes += unread_note(folder)
        return notes

    def scan(self, split):
        """Pairs the images of a split with its labels."""
        folder = self._labels_folder(split)
        try:
            images = by_name(find(self.root / FOLDERS[split] / 'images'), lambda path: path.stem)
            label_files = by_name(find(folder), lambda path: path.stem)
        except InputError as error:
            return [], [error]
        names, problems = base.pair(split, images, label_files, str(folder / '{name}.png'))
        items = []
        for name in names:
            items.append(Item(split, name, {'image': images[name], 'label': label_files[name]}))
        return items, problems


class VistasV2(Vistas):
    """Mapillary Vistas with the labels of release 2.0: 124 labels, of which 116 are classes.

    The folder has the layout of `Vistas`, with labels in {training,validation}/v2.0/labels and the
    config file `config_v2.0.json`. Without this file, the 8 labels of `labels.VISTAS_V2_VOID` are
    void. The class map `cityscapes` is `labels.VISTAS_V2_AS_CITYSCAPES`.

    Sources: the README of release 2.0 (folders, numbers), and those of `class_tables.VISTAS_V2`.
    """

    release = V2


def read_evaluated(path: pathlib.Path) -> list[tuple[str, bool]]:
    """Returns (name, whether it is evaluated) of each label of a config file, in order.

    Raises:
      InputError: the file cannot be read, or has another form.
    """
    content = base.read_json(path)
    try:
        entries = [(entry['readable'], entry['evaluate']) for entry in content['labels']]
    except (KeyError, TypeError) as error:
        raise InputError(
            str(path),
            got=f'another form: {error}',
            expected='{"labels": [{"readable": "Bird", "evaluate": true, ...}, ...]}',
            fix='put the config file of the release there',
        ) from error
    return entries
