"""Cityscapes: still images in the official layout, video as official sequences or as a folder of clips."""

import collections
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from segjax.core.notes import Note
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Item
from segjax.data.image_files import by_name, check_links, find
from segjax.data.labels import CITYSCAPES, CITYSCAPES_LABEL_IDS, CITYSCAPES_TRAIN_IDS, LabelCoding
from segjax.errors import InputError

FRAME_NAME = re.compile(r'(?P<city>.+)_(?P<sequence>\d{6})_(?P<frame>\d{6})')
FIRST_INSTANCE = 1000  # instanceIds: class id * 1000 + number; below that, the id of a region that is no instance


def root_folder(root: str) -> str:
    """config.data.root, or $CITYSCAPES_DATASET as the official scripts have it."""
    root = root or os.environ.get('CITYSCAPES_DATASET', '')
    if not root:
        raise InputError(
            'config.data.root',
            got="'', and $CITYSCAPES_DATASET is not set",
            expected='the folder that holds leftImg8bit and gtFine',
            fix='--config.data.root=/data/cityscapes, or export CITYSCAPES_DATASET=/data/cityscapes',
        )
    return root


def frame_name(path: pathlib.Path, ending: str) -> str:
    """aachen_000000_000019 for aachen_000000_000019_leftImg8bit.png."""
    name = path.stem.removesuffix(ending)
    if not path.stem.endswith(ending) or not FRAME_NAME.fullmatch(name):
        expected = '{city}_{sequence, 6 digits}_{frame, 6 digits}' + ending + path.suffix
        raise InputError(
            str(path), got='another file name', expected=expected, fix='rename it or move it away'
        )
    return name


def parts(name: str) -> tuple[str, int, int]:
    """('aachen', 0, 19) for aachen_000000_000019."""
    match = FRAME_NAME.fullmatch(name)
    return match['city'], int(match['sequence']), int(match['frame'])


class Cityscapes(FileDataset):
    """{leftImg8bit,gtFine,camera}/{split}/{city}/{city}_{sequence}_{frame}_{type}: 19 classes, 2048x1024.

    Labels are `*_gtFine_labelIds.png`, or `*_gtFine_labelTrainIds.png` where the former is absent. Instances and
    intrinsics are features if `*_gtFine_instanceIds.png` and `camera/` are there. Instance ids are class id * 1000 +
    number; 0 where there is no single instance. A split is there if it has a folder in leftImg8bit and one in gtFine:
    a `test` without labels is left out. Source: cityscapesScripts, README.md and helpers/labels.py.
    """

    images_folder = 'leftImg8bit'
    possible_splits = ('train', 'val', 'test')

    def __init__(self, config: Any):
        super().__init__(config.name, root_folder(config.root), CITYSCAPES)

    def options(self):
        return [base.describe(CITYSCAPES_LABEL_IDS), base.describe(CITYSCAPES_TRAIN_IDS)]

    def splits(self):
        images = self.root / self.images_folder
        if not images.is_dir():
            raise InputError(
                str(self.root),
                got=f'no folder {self.images_folder}',
                expected=f'{self.images_folder}/{{train,val}}',
            )
        found = tuple(
            s
            for s in self.possible_splits
            if (images / s).is_dir() and (s != 'test' or self._annotated(s))
        )
        if not found:
            raise InputError(
                str(images), got='no folder train or val', expected='at least one of them'
            )
        return found

    def annotations_folder(self, split: str) -> str:
        """Folder of the annotations of a split; the names of its files have it too."""
        return 'gtFine'

    def _annotated(self, split: str) -> bool:
        return (self.root / self.annotations_folder(split) / split).is_dir()

    def coding(self, item: Item) -> LabelCoding:
        if item.files['label'].stem.endswith('_labelTrainIds'):
            return CITYSCAPES_TRAIN_IDS
        return CITYSCAPES_LABEL_IDS

    def instances(self, ids):
        return np.where(ids >= FIRST_INSTANCE, ids, 0)

    def annotations(self, split: str, kind: str) -> dict[str, pathlib.Path]:
        """Annotations of one kind by frame name."""
        folder = self.annotations_folder(split)
        ending = f'_{folder}_{kind}'
        paths = (
            path
            for path in find(self.root / folder / split, ('.png',))
            if path.stem.endswith(ending)
        )
        return by_name(paths, lambda path: frame_name(path, ending))

    def images(self, split: str) -> dict[str, pathlib.Path]:
        found = find(self.root / self.images_folder / split)
        return by_name(found, lambda path: frame_name(path, '_leftImg8bit'))

    def cameras(self, split: str) -> dict[str, pathlib.Path]:
        folder = self.root / 'camera' / split
        found = find(folder, ('.json',)) if folder.is_dir() else []
        return by_name(found, lambda path: frame_name(path, '_camera'))

    def labels(self, split: str) -> dict[str, pathlib.Path]:
        return {**self.annotations(split, 'labelTrainIds'), **self.annotations(split, 'labelIds')}

    def scan(self, split):
        try:
            images, labels = self.images(split), self.labels(split)
            optional = {
                'instance': self.annotations(split, 'instanceIds'),
                'intrinsics': self.cameras(split),
            }
        except InputError as error:
            return [], [error]
        folder = self.annotations_folder(split)
        place = f'{self.root}/{folder}/{split}/<city>/{{name}}_{folder}_labelIds.png'
        names, problems = base.pair(split, images, labels, place)
        items = []
        for name in names:
            city, sequence, frame = parts(name)
            found = {feature: paths[name] for feature, paths in optional.items() if name in paths}
            item_files = {'image': images[name], 'label': labels[name], **found}
            items.append(Item(split, name, item_files, f'{city}_{sequence:06}', frame))
        for feature in optional:
            problems += base.incomplete_feature(feature, items)
        return items, problems

    def read_intrinsics(self, path, size):
        """The pinhole matrix of a camera file; its pixels must be those of the images."""
        content = base.read_json(path)
        try:
            c = {key: float(content['intrinsic'][key]) for key in ('fx', 'fy', 'u0', 'v0')}
        except (KeyError, TypeError, ValueError) as error:
            expected = '{"intrinsic": {"fx": .., "fy": .., "u0": .., "v0": ..}}'
            raise InputError(str(path), got=f'no number {error}', expected=expected) from error
        return np.array([[c['fx'], 0, c['u0']], [0, c['fy'], c['v0']], [0, 0, 1]], np.float32)


class CityscapesCoarse(Cityscapes):
    """Cityscapes with a split `train_extra`: 19,998 more images, whose polygons in `gtCoarse` leave much void."""

    possible_splits = (*Cityscapes.possible_splits, 'train_extra')

    def annotations_folder(self, split):
        return 'gtCoarse' if split == 'train_extra' else 'gtFine'

    def splits(self):
        found = super().splits()
        if 'train_extra' not in found:
            expected = f'{self.images_folder}/train_extra and gtCoarse/train_extra'
            raise InputError(
                str(self.root), got=f'{self.images_folder} without train_extra', expected=expected
            )
        return found


class CityscapesVideo(FileDataset):
    """Clips of consecutive frames, in order. Two layouts, told apart by what the folder holds.

    Clips: `{clip}/image/{name}.jpg`, `{clip}/label_predicted/{name}.png` (or `label/`), optionally
    `instance_predicted/` (or `instance/`; 255 is no instance, stored as 0, and instance n as n + 1) and
    `camera.json` with `intrinsics_{width}x{height}`, a 3x3 matrix. The last clip by name is split `val`, the others
    `train`; a single clip is `train`.

    Official: `leftImg8bit_sequence/{split}/{city}` with the labels, instances and cameras of the annotated frames in
    `gtFine` and `camera`. Frames without annotation have void labels (255 everywhere), the camera is that of the
    annotated frame; there are no instances.
    """

    def __new__(cls, config: Any):
        root = pathlib.Path(root_folder(config.root)).expanduser()
        official = (root / _Sequences.images_folder).is_dir()
        return _Sequences(config) if official else _Clips(config)


class _Sequences(Cityscapes):
    """The official sequences: as Cityscapes, but every frame of them."""

    images_folder = 'leftImg8bit_sequence'

    def scan(self, split):
        try:
            images = self.images(split)
            labels = self.labels(split) if self._annotated(split) else {}
            cameras = self.cameras(split)
        except InputError as error:
            return [], [error]
        _, problems = base.pair(
            split, {name: images[name] for name in images if name in labels}, labels, ''
        )
        items = []
        for names in _snippets(images):
            camera = next((cameras[name] for name in names if name in cameras), None)
            for name in names:
                item_files = {'image': images[name]}
                if name in labels:
                    item_files['label'] = labels[name]
                if camera is not None:
                    item_files['intrinsics'] = camera
                items.append(Item(split, name, item_files, names[0], parts(name)[2]))
        return items, problems + base.incomplete_feature('intrinsics', items)


def _snippets(names) -> Iterator[list[str]]:
    """Runs of consecutive frames: some cities number all their snippets as one long sequence with gaps."""
    run: list[str] = []
    for name in sorted(names):
        city, sequence, frame = parts(name)
        if run and parts(run[-1]) != (city, sequence, frame - 1):
            yield run
            run = []
        run.append(name)
    if run:
        yield run


class _Clips(FileDataset):
    """A folder of clips."""

    def __init__(self, config: Any):
        super().__init__(config.name, root_folder(config.root), CITYSCAPES)

    def options(self):
        return [base.describe(CITYSCAPES_LABEL_IDS), 'checked cameras']

    def coding(self, item: Item) -> LabelCoding:
        return CITYSCAPES_LABEL_IDS

    def instances(self, ids):
        return np.where(ids == 255, 0, ids.astype(np.uint16) + 1)

    def _clips(self) -> dict[str, list[pathlib.Path]]:
        for folder in (self.root, *_folders(self.root)):
            check_links(folder)
        clips = sorted(path.parent for path in self.root.glob('*/image') if path.is_dir())
        if not clips:
            raise InputError(
                str(self.root),
                got='no clips',
                expected='{clip}/image and {clip}/label_predicted, or leftImg8bit_sequence/{split}/{city}',
            )
        return {'train': clips} if len(clips) == 1 else {'train': clips[:-1], 'val': clips[-1:]}

    def splits(self):
        return tuple(self._clips())

    def notes_of_folders(self):
        """Returns which clips are evaluated, which folders are no clips, and what of clips is not read."""
        clips = self._clips()
        found = []
        if 'val' in clips:
            message = f'split by name: clip {clips["val"][0].name} is val, the other {len(clips["train"])} are train'
            found.append(Note(str(self.root), message))
        found += _second_folders([path for of_split in clips.values() for path in of_split])
        used = {path.name for of_split in clips.values() for path in of_split}
        passed_over = [path.name for path in _folders(self.root) if path.name not in used]
        if passed_over:
            names = ', '.join(passed_over[:5])
            message = f'passed over, without a folder image: {len(passed_over)} folders, as {names}'
            found.append(Note(str(self.root), message))
        return found + self._unread_cameras()

    def _unread_cameras(self) -> list[Note]:
        """Returns the note that camera files at other places are not read."""
        read = self.root / 'camera.json'
        places = [*self.root.iterdir(), *self.root.glob('*/*.json')]
        others = sorted(path for path in places if path.name.lower() == read.name)
        if read.exists() or not others:
            return []
        message = f'passed over: {len(others)} camera files, the first is {others[0].relative_to(self.root)}'
        return [Note(str(self.root), message, f'one matrix for all clips in {read}')]

    def scan(self, split):
        items: list[Item] = []
        problems: list[InputError] = []
        for clip in self._clips()[split]:
            try:
                found, wrong = self._scan_clip(split, clip)
            except InputError as error:
                found, wrong = [], [error]
            items += found
            problems += wrong
        return items, problems + base.incomplete_feature('instance', items)

    def _scan_clip(self, split: str, clip: pathlib.Path) -> tuple[list[Item], list[InputError]]:
        def frames(folder: pathlib.Path) -> dict[str, pathlib.Path]:
            return by_name(find(folder), lambda path: frame_name(path, '_leftImg8bit'))

        folders = collections.defaultdict(
            lambda: clip / 'label_predicted',
            {
                f: clip / name
                for f in ('label', 'instance')
                for name in (f, f'{f}_predicted')
                if (clip / name).is_dir()
            },
        )
        images, labels = frames(clip / 'image'), frames(folders['label'])
        instances = frames(folders['instance']) if 'instance' in folders else {}
        camera = (
            {'intrinsics': self.root / 'camera.json'}
            if (self.root / 'camera.json').exists()
            else {}
        )
        names, problems = base.pair(
            split, images, labels, str(folders['label'] / '{name}_leftImg8bit.png')
        )
        items = []
        for name in names:
            instance = {'instance': instances[name]} if name in instances else {}
            item_files = {'image': images[name], 'label': labels[name], **instance, **camera}
            items.append(Item(split, f'{clip.name}/{name}', item_files, clip.name, parts(name)[2]))
        return items, problems

    def read_intrinsics(self, path, size):
        content = base.read_json(path)
        key = f'intrinsics_{size[1]}x{size[0]}'
        if not isinstance(content, dict) or key not in content:
            raise InputError(
                str(path), got=f'no {key!r}', expected='a 3x3 matrix for the size of the images'
            )
        try:
            return np.asarray(content[key], np.float32).reshape(3, 3)
        except (ValueError, TypeError) as error:
            got = f'{key!r}: {content[key]!r}'
            raise InputError(str(path), got=got, expected='three rows of three numbers') from error


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders in a folder, sorted, without hidden ones."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.')
    )


def _second_folders(clips: list[pathlib.Path]) -> list[Note]:
    """Returns a note for each kind of file of which clips have two folders."""
    notes = []
    for given in ('label', 'instance'):
        read = f'{given}_predicted'
        both = [clip for clip in clips if (clip / given).is_dir() and (clip / read).is_dir()]
        if both:
            message = f'{given} and {read}: {read} is read, in {len(both)} of {len(clips)} clips'
            notes.append(Note(str(min(both)), message, f'move {read} away to read {given}'))
    return notes
