"""Cityscapes: still images in the official layout, video as sequences or folders of clips."""

import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from segjax.core.notes import Note
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Item
from segjax.data.image_files import by_name, check_links, find, subfolders
from segjax.data.labels import (
    CITYSCAPES,
    CITYSCAPES_ALL,
    CITYSCAPES_ALL_IDS,
    CITYSCAPES_CATEGORIES,
    CITYSCAPES_LABEL_IDS,
    CITYSCAPES_TRAIN_IDS,
    LabelCoding,
)
from segjax.errors import InputError

FRAME_NAME = re.compile(r'(?P<city>.+)_(?P<sequence>\d{6})_(?P<frame>\d{6})')
FIRST_INSTANCE = 1000
"""Smallest id of an instance in `instanceIds`: class id * 1000 + number.

Smaller numbers are ids of regions that are no instance.
"""

WRONG_SHARE = 0.02
"""Largest share of the pixels of instances on labels of another class. Resized copies have some."""


def root_folder(root: str) -> str:
    """Returns config.data.root, or $CITYSCAPES_DATASET, which the official scripts use.

    Raises:
      InputError: both are empty.
    """
    root = root or os.environ.get('CITYSCAPES_DATASET', '')
    if not root:
        raise InputError(
            'config.data.root',
            got="'', and $CITYSCAPES_DATASET is not set",
            expected='the folder that holds leftImg8bit and gtFine',
            fix='--config.data.root=/data/cityscapes, '
            'or export CITYSCAPES_DATASET=/data/cityscapes',
        )
    return root


def frame_name(path: pathlib.Path, ending: str) -> str:
    """Returns the name of a frame, which is the name of its file without ending.

    For example aachen_000000_000019 for aachen_000000_000019_leftImg8bit.png.

    Raises:
      InputError: another form of file name.
    """
    name = path.stem.removesuffix(ending)
    if not path.stem.endswith(ending) or not FRAME_NAME.fullmatch(name):
        expected = '{city}_{sequence, 6 digits}_{frame, 6 digits}' + ending + path.suffix
        raise InputError(
            str(path), got='another file name', expected=expected, fix='rename it or move it away'
        )
    return name


def parts(name: str) -> tuple[str, int, int]:
    """Splits the name of a frame: ('aachen', 0, 19) for aachen_000000_000019."""
    match = FRAME_NAME.fullmatch(name)
    return match['city'], int(match['sequence']), int(match['frame'])


class Cityscapes(FileDataset):
    """Cityscapes: 19 classes, 2048x1024.

    Files are {leftImg8bit,gtFine,camera}/{split}/{city}/{city}_{sequence}_{frame}_{type}.

    Labels are `*_gtFine_labelIds.png`, or `*_gtFine_labelTrainIds.png` where the former is absent.
    Instances and intrinsics are features if `*_gtFine_instanceIds.png` and `camera/` exist.
    Instance ids are class id * 1000 + number, and 0 where there is no single instance. A split
    `test` without a folder in gtFine is skipped.

    Source: cityscapesScripts, README.md and helpers/labels.py.
    """

    instance_coding = CITYSCAPES_LABEL_IDS
    """Meaning of the class ids in instance files."""
    images_folder = 'leftImg8bit'
    possible_splits = ('train', 'val', 'test')

    def __init__(self, config: Any):
        super().__init__(config.name, root_folder(config.root), CITYSCAPES)
        self.class_maps = {'categories': CITYSCAPES_CATEGORIES}

    def options(self):
        """Returns the codings of both kinds of label files."""
        return [base.describe(CITYSCAPES_LABEL_IDS), base.describe(CITYSCAPES_TRAIN_IDS)]

    def splits(self):
        """Returns the splits whose folder of images exists. `test` also needs annotations."""
        images = self.root / self.images_folder
        if not images.is_dir():
            raise InputError(
                str(self.root),
                got=f'no folder {self.images_folder}',
                expected=f'{self.images_folder}/{{train,val}}',
            )
        splits = []
        for split in self.possible_splits:
            if (images / split).is_dir() and (split != 'test' or self._annotated(split)):
                splits.append(split)
        if not splits:
            raise InputError(
                str(images), got='no folder train or val', expected='at least one of them'
            )
        return tuple(splits)

    def annotations_folder(self, split: str) -> str:
        """Returns the folder of the annotations of a split. Names of its files contain it."""
        return 'gtFine'

    def _annotated(self, split: str) -> bool:
        """Returns whether a split has a folder of annotations."""
        return (self.root / self.annotations_folder(split) / split).is_dir()

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of a label file, which depends on its name."""
        if item.files['label'].stem.endswith('_labelTrainIds'):
            return CITYSCAPES_TRAIN_IDS
        return CITYSCAPES_LABEL_IDS

    def check_instances(self, item, label, ids):
        """Checks that instances lie on labels of their class, which is id // 1000.

        Raises:
          InputError: more than WRONG_SHARE of the pixels of instances have another class.
        """
        inside = ids >= FIRST_INSTANCE
        classes = self.instance_coding.train_ids[np.minimum(ids[inside] // FIRST_INSTANCE, 255)]
        wrong = classes != label[inside]
        if not len(wrong) or wrong.mean() <= WRONG_SHARE:
            return
        names = (*self.classes.names, *['void'] * 256)
        first = int(wrong.argmax())
        here = names[label[inside][first]]
        raise InputError(
            str(item.files['instance']),
            got=f'{wrong.mean():.0%} of the pixels of instances on labels of another class, as '
            f'instance {ids[inside][first]} ({names[classes[first]]}) on {here}',
            expected=f'instances that fit {item.files["label"].name}: class id * 1000 + number',
            fix='give the instance file of the same image; '
            'without instance files, the data set has no feature instance',
        )

    def instances(self, ids):
        """Returns the ids of single instances, 0 elsewhere."""
        return np.where(ids >= FIRST_INSTANCE, ids, 0)

    def annotations(self, split: str, kind: str) -> dict[str, pathlib.Path]:
        """Returns the annotations of a kind ('labelIds', ...) by frame name."""
        folder = self.annotations_folder(split)
        ending = f'_{folder}_{kind}'
        paths = find(self.root / folder / split, ('.png',))
        of_kind = [path for path in paths if path.stem.endswith(ending)]
        return by_name(of_kind, lambda path: frame_name(path, ending))

    def images(self, split: str) -> dict[str, pathlib.Path]:
        """Returns the images of a split by frame name."""
        paths = find(self.root / self.images_folder / split)
        return by_name(paths, lambda path: frame_name(path, '_leftImg8bit'))

    def cameras(self, split: str) -> dict[str, pathlib.Path]:
        """Returns the camera files of a split by frame name."""
        folder = self.root / 'camera' / split
        paths = find(folder, ('.json',)) if folder.is_dir() else []
        return by_name(paths, lambda path: frame_name(path, '_camera'))

    def labels(self, split: str) -> dict[str, pathlib.Path]:
        """Returns the labels of a split by frame name. `labelIds` win over `labelTrainIds`."""
        return {**self.annotations(split, 'labelTrainIds'), **self.annotations(split, 'labelIds')}

    def scan(self, split):
        """Pairs the images of a split with their labels, and adds instances and cameras."""
        try:
            images = self.images(split)
            labels = self.labels(split)
            optional = {
                'instance': self.annotations(split, 'instanceIds'),
                'intrinsics': self.cameras(split),
            }
        except InputError as error:
            return [], [error]

        # An image needs a label, and instances and cameras are optional.
        folder = self.annotations_folder(split)
        place = f'{self.root}/{folder}/{split}/<city>/{{name}}_{folder}_labelIds.png'
        names, problems = base.pair(split, images, labels, place)
        items = []
        for name in names:
            city, sequence, frame = parts(name)
            files = {'image': images[name], 'label': labels[name]}
            for feature, paths in optional.items():
                if name in paths:
                    files[feature] = paths[name]
            items.append(Item(split, name, files, f'{city}_{sequence:06}', frame))

        for feature in optional:
            problems += base.incomplete_feature(feature, items)
        return items, problems

    def read_intrinsics(self, path, size):
        """Returns the pinhole matrix of a camera file, in pixels of the full images."""
        content = base.read_json(path)
        try:
            camera = {key: float(content['intrinsic'][key]) for key in ('fx', 'fy', 'u0', 'v0')}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            expected = '{"intrinsic": {"fx": .., "fy": .., "u0": .., "v0": ..}}'
            raise InputError(str(path), got=f'no number {error}', expected=expected) from error
        return np.array(
            [[camera['fx'], 0, camera['u0']], [0, camera['fy'], camera['v0']], [0, 0, 1]],
            np.float32,
        )


class CityscapesCoarse(Cityscapes):
    """Cityscapes with a split `train_extra` of 19,998 additional images.

    Their labels in `gtCoarse` are coarse polygons that leave much void.
    """

    possible_splits = (*Cityscapes.possible_splits, 'train_extra')

    def annotations_folder(self, split):
        """Returns 'gtCoarse' for `train_extra`, 'gtFine' for the remaining splits."""
        return 'gtCoarse' if split == 'train_extra' else 'gtFine'

    def splits(self):
        """Returns the splits. Raises InputError without `train_extra`."""
        splits = super().splits()
        if 'train_extra' not in splits:
            expected = f'{self.images_folder}/train_extra and gtCoarse/train_extra'
            raise InputError(
                str(self.root), got=f'{self.images_folder} without train_extra', expected=expected
            )
        return splits


class CityscapesAll(Cityscapes):
    """Cityscapes with all 34 annotated classes, as semantic inpainting and image synthesis use it.

    Only `*_gtFine_labelIds.png` hold them. Licence plates are void, and with `data.void_class` the
    35th class.
    """

    instance_coding = CITYSCAPES_ALL_IDS

    def __init__(self, config: Any):
        super().__init__(config)
        self.classes = CITYSCAPES_ALL
        self.class_maps = {}

    def options(self):
        """Returns the coding of all ids."""
        return [base.describe(CITYSCAPES_ALL_IDS)]

    def coding(self, item):
        """Returns the coding of all ids."""
        return CITYSCAPES_ALL_IDS

    def labels(self, split):
        """Returns the files of ids by frame name."""
        return self.annotations(split, 'labelIds')


class CityscapesVideo(FileDataset):
    """Clips of consecutive frames, in order. The content of the folder decides its layout.

    Clips: `{clip}/image/{name}.jpg`, `{clip}/label_predicted/{name}.png` (or `label/`), and
    optionally `instance_predicted/` (or `instance/`). `{name}` is
    `{city}_{6 digits}_{6 digits}_leftImg8bit`: the last digits number the frame. Optionally,
    `{root}/camera.json` has `intrinsics_{width}x{height}`, a 3x3 matrix for all clips. In instance
    files 255 is no instance, stored as 0, and instance n is stored as n + 1. The last clip by name
    is split `val`, and the remaining clips are `train`. A single clip is `train`.

    Official: `leftImg8bit_sequence/{split}/{city}` with the labels and cameras of the annotated
    frames in `gtFine` and `camera`. Frames without annotation have void labels (255 everywhere) and
    the camera of the annotated frame. There are no instances.
    """

    def __new__(cls, config: Any):
        root = pathlib.Path(root_folder(config.root)).expanduser()
        official = (root / _Sequences.images_folder).is_dir()
        return _Sequences(config) if official else _Clips(config)


class _Sequences(Cityscapes):
    """The official sequences: Cityscapes with every frame."""

    images_folder = 'leftImg8bit_sequence'

    def scan(self, split):
        """Lists the frames of all snippets, with the label and camera of their annotated frame."""
        try:
            images = self.images(split)
            labels = self.labels(split) if self._annotated(split) else {}
            cameras = self.cameras(split)
        except InputError as error:
            return [], [error]

        # Only labels need a partner. Most images have no label.
        annotated = {name: images[name] for name in images if name in labels}
        _, problems = base.pair(split, annotated, labels, '')

        items = []
        for names in _snippets(images):
            camera = next((cameras[name] for name in names if name in cameras), None)
            for name in names:
                files = {'image': images[name]}
                if name in labels:
                    files['label'] = labels[name]
                if camera is not None:
                    files['intrinsics'] = camera
                items.append(Item(split, name, files, names[0], parts(name)[2]))
        return items, problems + base.incomplete_feature('intrinsics', items)


def _snippets(names: Iterable[str]) -> Iterator[list[str]]:
    """Yields runs of consecutive frames.

    Some cities number all their snippets as a single long sequence with gaps.
    """
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
        """Returns the coding of the labels, and a version of the checks."""
        return [base.describe(CITYSCAPES_LABEL_IDS), 'checked cameras']

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all label files."""
        return CITYSCAPES_LABEL_IDS

    def instances(self, ids):
        """Returns n + 1 for instance n, and 0 for 255."""
        return np.where(ids == 255, 0, ids.astype(np.uint16) + 1)

    def _clips(self) -> dict[str, list[pathlib.Path]]:
        """Returns the folders of the clips of each split.

        Raises:
          InputError: no clips, or a broken link.
        """
        for folder in (self.root, *subfolders(self.root)):
            check_links(folder)
        clips = sorted(path.parent for path in self.root.glob('*/image') if path.is_dir())
        if not clips:
            raise InputError(
                str(self.root),
                got='no clips',
                expected='{clip}/image and {clip}/label_predicted, '
                'or leftImg8bit_sequence/{split}/{city}',
            )
        return {'train': clips} if len(clips) == 1 else {'train': clips[:-1], 'val': clips[-1:]}

    def splits(self):
        """Returns 'train', and 'val' if there are several clips."""
        return tuple(self._clips())

    def notes_of_folders(self):
        """Returns notes about the choice of splits, and about skipped folders and files."""
        clips = self._clips()
        notes = []
        if 'val' in clips:
            val = clips['val'][0].name
            number = len(clips['train'])
            message = f'split by name: clip {val} is val, the remaining {number} are train'
            notes.append(Note(str(self.root), message))
        folders = list(itertools.chain.from_iterable(clips.values()))
        notes += _second_folders(folders)

        # Folders that are no clips.
        used = {path.name for path in folders}
        skipped = [path.name for path in subfolders(self.root) if path.name not in used]
        if skipped:
            names = ', '.join(skipped[:5])
            message = f'passed over, without a folder image: {len(skipped)} folders, as {names}'
            notes.append(Note(str(self.root), message))
        return notes + self._unread_cameras()

    def _unread_cameras(self) -> list[Note]:
        """Returns a note if camera files are at places where they are not read."""
        read = self.root / 'camera.json'
        unread = base.camera_files(self.root)
        if read.exists() or not unread:
            return []
        first = unread[0].relative_to(self.root)
        message = f'passed over: {len(unread)} camera files, the first is {first}'
        return [Note(str(self.root), message, f'one matrix for all clips in {read}')]

    def scan(self, split):
        """Lists the frames of all clips of a split."""
        items: list[Item] = []
        problems: list[InputError] = []
        for clip in self._clips()[split]:
            try:
                clip_items, clip_problems = self._scan_clip(split, clip)
            except InputError as error:
                problems.append(error)
                continue
            items += clip_items
            problems += clip_problems
        return items, problems + base.incomplete_feature('instance', items)

    def _scan_clip(self, split: str, clip: pathlib.Path) -> tuple[list[Item], list[InputError]]:
        """Pairs the images of a clip with its labels, and adds instances and the camera."""
        label_folder = _annotations_folder(clip, 'label') or clip / 'label_predicted'
        instance_folder = _annotations_folder(clip, 'instance')
        camera = self.root / 'camera.json'

        images = _frames(clip / 'image')
        labels = _frames(label_folder)
        instances = _frames(instance_folder) if instance_folder else {}
        label_place = str(label_folder / '{name}_leftImg8bit.png')
        names, problems = base.pair(split, images, labels, label_place)

        items = []
        for name in names:
            files = {'image': images[name], 'label': labels[name]}
            if name in instances:
                files['instance'] = instances[name]
            if camera.exists():
                files['intrinsics'] = camera
            items.append(Item(split, f'{clip.name}/{name}', files, clip.name, parts(name)[2]))
        return items, problems

    def read_intrinsics(self, path, size):
        """Returns the matrix of the camera file for the size of the images."""
        content = base.read_json(path)
        key = f'intrinsics_{size[1]}x{size[0]}'
        if not isinstance(content, dict) or key not in content:
            raise InputError(
                str(path), got=f'no {key!r}', expected='a 3x3 matrix for the size of the images'
            )
        try:
            return np.asarray(content[key], np.float32).reshape(3, 3)
        except (ValueError, TypeError, OverflowError) as error:
            got = f'{key!r}: {content[key]!r:.80}'
            raise InputError(str(path), got=got, expected='three rows of three numbers') from error


def _frames(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the files of a folder by frame name."""
    return by_name(find(folder), lambda path: frame_name(path, '_leftImg8bit'))


def _annotations_folder(clip: pathlib.Path, kind: str) -> pathlib.Path | None:
    """Returns the folder `{kind}_predicted` of a clip, else `{kind}`, None if there is neither."""
    for name in (f'{kind}_predicted', kind):
        if (clip / name).is_dir():
            return clip / name
    return None


def _second_folders(clips: list[pathlib.Path]) -> list[Note]:
    """Returns a note for each kind of annotation with two folders in a clip."""
    notes = []
    for kind in ('label', 'instance'):
        read = f'{kind}_predicted'
        both = [clip for clip in clips if (clip / kind).is_dir() and (clip / read).is_dir()]
        if both:
            message = f'{kind} and {read}: {read} is read, in {len(both)} of {len(clips)} clips'
            notes.append(Note(str(min(both)), message, f'move {read} away to read {kind}'))
    return notes
