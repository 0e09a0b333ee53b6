"""NYUDv2 as stills and videos in folders."""

import contextlib
import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from segjax.core.notes import Note
from segjax.data.builders import rgbd
from segjax.data.builders.base import Item
from segjax.data.builders.nyu_frames import (
    CLASS_MAPS,
    DEPTH_FOLDERS,
    IMAGE_FOLDERS,
    LABELLED,
    SPLIT_FILE,
    NyuFrames,
    files_by_name,
    frames_in,
    numbered,
    read_list,
    read_split_file,
    read_targets,
)
from segjax.data.builders.rgbd import Clip
from segjax.data.image_files import check_links, find, subfolders
from segjax.data.labels import NYU4_IDS, NYU13_IDS, NYU40, NYU40_IDS
from segjax.errors import InputError

SPLITS = ('train', 'val', 'test')
LABEL_FOLDER = re.compile(r'labels?_?(894|40|13|4)')

CODINGS = {'40': NYU40_IDS, '894': NYU40_IDS, '13': NYU13_IDS, '4': NYU4_IDS}
"""Coding of label files by the number of their classes, the preferred number first."""

LAYOUT = '{train|val|test}/{image,depth,label40}/{number}.png, or {scene}/{image,depth,label40}/...'


class Place(NamedTuple):
    """A folder with frames.

    folder  that has the folders of images, depth and labels
    split   of its frames, '' if lists decide
    scene   name of the video, '' for stills
    """

    folder: pathlib.Path
    split: str
    scene: str


class NyuFolders(NyuFrames):
    """Stills and videos in folders."""

    def __init__(self, config: Any):
        super().__init__(config, NYU40)
        self._places = find_places(self.root)
        self._kind = common_kind(self.root, self._places)
        self._coding = CODINGS[self._kind]
        self.is_fine = self._kind == '894'
        self.classes = self._coding.classes
        self.class_maps = CLASS_MAPS if self.classes == NYU40 else {}

    def splits(self):
        """Returns the splits that have a folder or a list."""
        named = {place.split for place in self._places} - {''}
        named = named or set(self._lists()) or {'train'}
        return tuple(split for split in SPLITS if split in named)

    def _lists(self) -> dict[str, '_Listed']:
        """Returns the lists of the splits, {} without lists and with folders of splits.

        Raises:
          InputError: a list that cannot be read, or a name in two lists.
        """
        if any(place.split for place in self._places):
            return {}
        lists = {}
        for split in SPLITS:
            path = self.root / f'{split}.txt'
            if path.is_file():
                lists[split] = _Listed(path, read_list(path))
        path = self.root / SPLIT_FILE
        if not lists and path.is_file():
            targets = read_targets(self.root) if self._places[0].scene else {}
            for split, numbers in read_split_file(path).items():
                names = [targets.get(number, str(number)) for number in numbers]
                lists[split] = _Listed(path, names)

        # A frame in two splits would be evaluated after training on it.
        names: dict[str, str] = {}
        for split, of_split in lists.items():
            for name in of_split.names:
                if names.setdefault(name, split) != split:
                    raise InputError(
                        str(of_split.path),
                        got=f'{name}, which is also in the list of split {names[name]!r}',
                        expected='each name in a single list',
                    )
        return lists

    def scan(self, split):
        """Lists the stills and the clips of a split."""
        items: list[Item] = []
        problems: list[InputError] = []
        try:
            listed = self._lists().get(split)
        except InputError as error:
            return [], [error]

        # A place that cannot be read is a problem, and the remaining places are read.
        for place in self._places:
            if place.split not in ('', split):
                continue
            try:
                read = self._clip_items if place.scene else self._still_items
                of_place, place_problems = read(split, place, listed)
            except InputError as error:
                problems.append(error)
                continue
            items += of_place
            problems += place_problems
        if listed is not None:
            problems += listed.absent()
        return items, problems + self.depth_problems(items)

    def _files(self, place: Place) -> tuple[dict, dict, dict]:
        """Returns images, depths and labels of a place by name."""
        images = frames_in(place.folder, IMAGE_FOLDERS)
        depths = frames_in(place.folder, DEPTH_FOLDERS)
        labels = files_by_name(find(label_folders(place.folder)[self._kind], ('.png',)))
        return images, depths, labels

    def _still_items(
        self, split: str, place: Place, listed: '_Listed | None'
    ) -> tuple[list[Item], list[InputError]]:
        """Returns the stills of a place, and a problem for each label without an image or depth."""
        # Stills may have no images.
        images, depths, labels = self._files(place)
        names = sorted(images or depths)
        if listed is not None:
            names = [name for name in names if listed.has(name)]
        items = []
        for name in names:
            files = {}
            for feature, paths in (('image', images), ('depth', depths), ('label', labels)):
                if name in paths:
                    files[feature] = paths[name]
            items.append(Item(split, name, files))

        # A label needs an image or depth.
        problems = []
        for name in sorted(labels.keys() - (images or depths).keys()):
            problems.append(
                InputError(
                    str(labels[name]),
                    got='a label without an image',
                    expected=f'an image named {name} in {place.folder}',
                    fix='add the image or move the label away',
                )
            )
        return items, problems

    def _clip_items(
        self, split: str, place: Place, listed: '_Listed | None'
    ) -> tuple[list[Item], list[InputError]]:
        """Returns the clips around the labelled frames of a video."""
        images, depths, labels = map(numbered, self._files(place))
        clip = Clip(place.scene, place.folder, images, depths, labels)
        targets = list(labels)
        if listed is not None and not listed.has(place.scene):
            targets = [number for number in labels if listed.has(place.scene, labels[number].stem)]
        return rgbd.around_targets(split, clip, self.interval, self.steps, targets)

    def notes_of_folders(self):
        """Returns notes about labels that are not read, stills without labels, and splits."""
        notes = []
        for place in self._places:
            unread = [kind for kind in label_folders(place.folder) if kind != self._kind]
            if unread:
                message = f'labels of {self._kind} classes are read, not of {", ".join(unread)}'
                notes.append(Note(str(place.folder), message))
            with contextlib.suppress(InputError):  # `scan` returns the same error
                notes += self._unlabelled(place)
        with contextlib.suppress(InputError):
            if self.splits() == ('train',) and not self._lists() and not self._places[0].split:
                message = 'no folders or lists of splits: every frame is in split train'
                fix = f'put {SPLIT_FILE}, or train.txt and test.txt, into {self.root}'
                notes.append(Note(str(self.root), message, fix))
        return notes

    def _unlabelled(self, place: Place) -> list[Note]:
        """Returns a note if stills have no label."""
        images, depths, labels = self._files(place)
        number = len((images or depths).keys() - labels.keys())
        if place.scene or not number:
            return []
        message = f'{number} of {len(images or depths)} frames have no label: they are void'
        fix = 'for video, config.data.root is the folder that holds the folders of scenes'
        return [Note(str(place.folder), message, fix)]


class _Listed:
    """The names in the list of a split. It remembers which names have files.

    Args:
      path: of the list.
      names: numbers of stills, scenes, or {scene}/{number}. Leading zeros do not count.
    """

    def __init__(self, path: pathlib.Path, names: Iterable[str]):
        self.path = path
        self._missing = dict.fromkeys(map(_without_zeros, names))
        self.names = frozenset(self._missing)

    def has(self, *words: str) -> bool:
        """Returns whether the list has a name, for example a scene or a scene and a number."""
        name = _without_zeros('/'.join(words))
        self._missing.pop(name, None)
        return name in self.names

    def absent(self) -> list[InputError]:
        """Returns a problem if names of the list have no files."""
        if not self._missing:
            return []
        got = f'{len(self._missing)} of {len(self.names)} names without files, as '
        got += ', '.join(list(self._missing)[: rgbd.SHOWN])
        return [
            InputError(
                str(self.path),
                got=got,
                expected='numbers of stills, scenes, or {scene}/{number} of labelled frames',
                fix='complete the download, or take the names out of the list',
            )
        ]


def _without_zeros(name: str) -> str:
    """Returns a name whose last part has no leading zeros if it is a number."""
    scene, slash, last = name.rpartition('/')
    return f'{scene}{slash}{int(last)}' if last.isdigit() else name


def find_places(root: pathlib.Path) -> list[Place]:
    """Returns all folders with labelled frames.

    Raises:
      InputError: no such folder.
    """
    # Scenes lie in the root folder or in folders of splits, and stills in folders of splits.
    check_links(root)
    places = [Place(root, '', '')] if label_folders(root) else []
    for path in subfolders(root):
        split = path.name if path.name in SPLITS else ''
        if label_folders(path):
            places.append(Place(path, split, '' if split else path.name))
        if split:
            scenes = [inner for inner in subfolders(path) if label_folders(inner)]
            places += [Place(inner, split, inner.name) for inner in scenes]
    if not places:
        names = ', '.join(path.name for path in subfolders(root)[: rgbd.SHOWN])
        raise InputError(
            str(root),
            got=f'no {LABELLED} and no folder of labels, but {names or "no folder at all"}',
            expected=f'{LABELLED} and {SPLIT_FILE}, or {LAYOUT}',
        )

    # Frames outside of the folders of splits would belong to no split.
    splits = {place.split for place in places}
    if '' in splits and len(splits) > 1:
        outside = next(place for place in places if not place.split)
        raise InputError(
            str(outside.folder),
            got='labelled frames next to folders of splits',
            expected='all frames in folders train, val and test, or no such folders',
            fix='move it into the folder of its split, or away',
        )
    return places


def label_folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folders of labels in a folder, by the number of their classes as text."""
    folders = {}
    for path in subfolders(folder):
        match = LABEL_FOLDER.fullmatch(path.name)
        if match:
            folders[match[1]] = path
    return folders


def common_kind(root: pathlib.Path, places: Iterable[Place]) -> str:
    """Returns the preferred number of classes that all places have labels of.

    Raises:
      InputError: the places have labels of different numbers of classes.
    """
    kinds = [frozenset(label_folders(place.folder)) for place in places]
    common = frozenset.intersection(*kinds)
    if not common:
        got = ' and '.join(sorted({', '.join(sorted(each)) for each in kinds}))
        raise InputError(
            str(root),
            got=f'folders with labels of {got} classes',
            expected='the same number of classes in all folders',
        )
    return next(kind for kind in CODINGS if kind in common)
