"""RGB-D video of the user: folders of clips, and a class file."""

import contextlib
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from segjax.core.notes import Note
from segjax.data.builders import clip_folders, rgbd
from segjax.data.builders.base import Item
from segjax.data.builders.clip_folders import CAMERA, DEPTHS, IMAGES, LABELS
from segjax.data.builders.folder import (
    SPLITS,
    check_no_other_split,
    describe_coding,
    load_coding,
    split_name,
)
from segjax.data.builders.rgbd import Clip, RgbdDataset
from segjax.data.image_files import subfolders
from segjax.data.labels import LabelCoding
from segjax.errors import InputError

LAYOUT = (
    f'{{train|val|test}}/{{clip}}/{{{IMAGES[0]},{DEPTHS[0]},{LABELS[0]}}}/{{number}}, and {CAMERA}'
)


class Place(NamedTuple):
    """The folder of a clip.

    folder  of the clip
    split   of its frames
    name    of the clip, unique in its split
    """

    folder: pathlib.Path
    split: str
    name: str


class RgbdFolder(RgbdDataset):
    """Clips of numbered frames with depth, and `config.data.classes`, a class file.

    `segjax/data/builders/clip_folders.py` has the files of a clip. Clips lie at any depth in the
    folders `train`, `val` and `test` (`folder.SPLITS` has more names). Without these folders, all
    clips are `train`. The folder may be a clip itself.

    Each frame is stored once, in the sequence of its clip. The frames of a clip with labels are
    those around its labelled frames, the targets: t + k `rgbd.interval`, at most `rgbd.steps`
    intervals away. A clip without labels has every `rgbd.interval`-th frame, and none with 0 steps.
    Frames without a label are void.

    Label files are read as those of the data set `folder`. Depth files have 16 bits. They hold
    millimetres, or `rgbd.depth_scale` units per metre. Depth, labels and cameras are optional: all
    frames have depth or a camera, or none. Frames may have any size. All files of a frame have the
    size of its image, to which the camera belongs.
    """

    def __init__(self, config: Any):
        self._coding = load_coding(config)
        super().__init__(config, self._coding.classes)
        self._places = find_places(self.root)

    def options(self):
        """Returns the coding of the labels, the unit of the depth, and the choice of frames."""
        return [describe_coding(self._coding), self.depth_scale, [self.interval, self.steps]]

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all labels."""
        return self._coding

    def read_intrinsics(self, path, size):
        """Returns the matrix of a camera file."""
        return clip_folders.read_camera(path)

    def splits(self):
        """Returns the splits that have clips."""
        used = {place.split for place in self._places}
        return tuple(split for split in SPLITS if split in used)

    def scan(self, split):
        """Lists the frames of the clips of a split."""
        items: list[Item] = []
        problems: list[InputError] = []
        for place in self._places:
            if place.split != split:
                continue
            # A clip that cannot be read is a problem, and the remaining clips are read.
            try:
                clip = self._read(place)
            except InputError as error:
                problems.append(error)
                continue
            of_clip, clip_problems = self._frames(split, clip)
            items += of_clip
            problems += clip_problems
        return items, problems + self._incomplete(items)

    def _read(self, place: Place) -> Clip:
        """Lists the files of a clip."""
        return clip_folders.read_clip(place.folder, place.name, self.root)

    def _frames(self, split: str, clip: Clip) -> tuple[list[Item], list[InputError]]:
        """Returns the frames of a clip, and the problems of its labels."""
        # A frame may be near several targets.
        problems: list[InputError] = []
        numbers: set[int] = set()
        for target in sorted(clip.labels):
            if target not in clip.images:
                problems.append(rgbd.outside(clip, target))
                continue
            around, missing = rgbd.window(clip, target, self.interval, self.steps)
            numbers.update(around)
            if missing:
                problems.append(rgbd.missing_frames(clip, target, missing, self.interval))

        # Without targets, nothing says which frames are near enough.
        if not clip.labels and self.steps:
            first = min(clip.images)
            numbers.update(n for n in clip.images if (n - first) % self.interval == 0)

        items = []
        for number in sorted(numbers):
            files = rgbd.files_of(clip, number)
            if number in clip.labels:
                files['label'] = clip.labels[number]
            items.append(Item(split, f'{clip.name}/{number:05}', files, clip.name, number))
        return items, problems

    def _incomplete(self, items: list[Item]) -> list[InputError]:
        """Returns a problem if only some frames have depth, or only some clips a camera."""
        problems = []
        for feature, kind in (('depth', 'depth'), ('intrinsics', CAMERA)):
            without = [item for item in items if feature not in item.files]
            if not without or len(without) == len(items):
                continue
            image = without[0].files['image']
            clip = image.parent.parent
            if feature == 'depth':
                fix = f'add {clip / DEPTHS[0] / image.stem}.png, or move such images away'
            else:
                fix = f'put {CAMERA} into {clip}, or into {self.root} for all clips'
            problems.append(
                InputError(
                    str(image),
                    got=f'no {kind} for {len(without)} of {len(items)} frames',
                    expected=f'{kind} for all frames, or for none',
                    fix=fix,
                )
            )
        return problems

    def fitted(self, maps, item):
        """Returns the maps of a frame, which must have the size of its image."""
        depth = maps.get('depth')
        image = maps.get('image')
        if depth is not None and image is not None and depth.shape != image.shape[:2]:
            own = '{1}x{0}'.format(*depth.shape)
            size = '{1}x{0}'.format(*image.shape[:2])
            raise InputError(
                str(item.files['depth']),
                got=f'{own} pixels',
                expected=f'{size} pixels, the size of {item.files["image"]}',
                fix=f'project the depth into the image, at {size}. Depth that shows the view of '
                f'the image already: resize images and labels to {own}',
            )
        return super().fitted(maps, item)

    def notes_of_folders(self):
        """Returns notes about the choice of splits, and about clips without labels."""
        notes = []
        if not any(split_name(path) for path in subfolders(self.root)):
            message = f'no folders train and val: all {len(self._places)} clips are in split train'
            fix = f'move clips into {self.root / "train"} and {self.root / "val"}'
            notes.append(Note(str(self.root), message, fix))
        unlabelled = []
        for place in self._places:
            with contextlib.suppress(InputError):  # `scan` returns the same error
                if not self._read(place).labels:
                    unlabelled.append(place.folder)
        if unlabelled:
            kept = 'their frames are void' if self.steps else 'they are passed over'
            message = f'{len(unlabelled)} of {len(self._places)} clips have no labels: {kept}'
            notes.append(Note(str(unlabelled[0]), message))
        return notes


def find_places(root: pathlib.Path) -> list[Place]:
    """Returns all clips of a data set with their splits.

    Raises:
      InputError: no clip, a folder with almost the name of a split, or clips outside of the folders
        of splits.
    """
    folders = clip_folders.find_clips(root)
    if not folders:
        names = ', '.join(path.name for path in subfolders(root)[: rgbd.SHOWN])
        raise InputError(
            str(root),
            got=f'no folder {IMAGES[0]} at any depth, but {names or "no folder at all"}',
            expected=LAYOUT,
            fix=f'put the frames of a clip into {root / "train" / "first" / IMAGES[0]}',
        )

    # A clip that is the root folder itself has its name.
    places = []
    for folder in folders:
        parts = folder.relative_to(root).parts
        split = split_name(pathlib.Path(parts[0])) if parts else ''
        places.append(Place(folder, split, '/'.join(parts[1:] if split else parts) or root.name))
    if not any(place.split for place in places):
        return [place._replace(split='train') for place in places]
    check_no_other_split(root)
    _check_all_in_splits(places)
    return places


def _check_all_in_splits(places: Iterable[Place]) -> None:
    """Raises InputError for a clip outside of the folders of splits."""
    outside = next((place for place in places if not place.split), None)
    if outside is not None:
        raise InputError(
            str(outside.folder),
            got='a clip next to folders of splits',
            expected='all clips in folders train, val and test, or no such folders',
            fix='move it into the folder of its split, or away',
        )
