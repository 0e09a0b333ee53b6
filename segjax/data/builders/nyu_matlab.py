"""NYUDv2 as its official file of labelled frames, perhaps with the video around them."""

import pathlib
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from segjax.data.builders import base, rgbd
from segjax.data.builders.base import Inspection, Item
from segjax.data.builders.nyu_frames import (
    CLASS_MAPS,
    DEPTH_FOLDERS,
    IMAGE_FOLDERS,
    LABELLED,
    SPLIT_FILE,
    SPLIT_VARIABLES,
    TARGET_FILES,
    NyuFrames,
    frames_in,
    numbered,
    read_split_file,
    read_targets,
    to_40,
)
from segjax.data.builders.rgbd import Clip
from segjax.data.image_files import COPY_AGAIN
from segjax.data.labels import NYU40, NYU40_IDS, to_train_ids
from segjax.errors import InputError


class NyuLabelled(NyuFrames):
    """The official file of labelled frames. Depth is filled, in metres."""

    is_fine = True
    _coding = NYU40_IDS

    def __init__(self, config: Any):
        super().__init__(config, NYU40)
        self.class_maps = CLASS_MAPS
        self._path = self.root / LABELLED
        self._content = _open_matlab(self._path)
        self._reading = threading.Lock()
        self._targets = read_targets(self.root)
        self._numbers = {name: number for number, name in self._targets.items()}

    def options(self):
        """Returns the options of all layouts, and the places of labelled frames in the video."""
        return [*super().options(), list(self._targets.values())]

    def splits(self):
        """Returns ('train', 'test'). Raises InputError without `splits.mat`."""
        path = self.root / SPLIT_FILE
        if not path.is_file():
            raise InputError(
                str(path),
                got='no such file',
                expected='the official split: 795 numbers trainNdxs and 654 numbers testNdxs',
                fix=f'put {SPLIT_FILE} of indoor_seg_sup, from the page of NYUDv2, '
                f'into {self.root}',
            )
        return tuple(SPLIT_VARIABLES)

    def scan(self, split):
        """Lists the frames of a split by number."""
        try:
            numbers = sorted(read_split_file(self.root / SPLIT_FILE)[split])
        except InputError as error:
            return [], [error]
        total = len(self._content['images'])
        outside = [number for number in numbers if not 1 <= number <= total]
        if outside:
            got = f'frame {outside[0]} in split {split!r}'
            expected = f'numbers 1 to {total}, the frames of {self._path.name}'
            return [], [InputError(str(self.root / SPLIT_FILE), got=got, expected=expected)]
        if self._targets:
            return self._clips(split, numbers)
        files = dict.fromkeys(('image', 'label', 'depth'), self._path)
        return [Item(split, f'{number:04}', files) for number in numbers], []

    def _clips(self, split: str, numbers: Iterable[int]) -> tuple[list[Item], list[InputError]]:
        """Returns the clips around labelled frames, whose video lies in folders of scenes."""
        items: list[Item] = []
        problems: list[InputError] = []
        videos: dict[str, Clip] = {}
        for number in numbers:
            if number not in self._targets:
                got = f'{len(self._targets)} labelled frames, and not frame {number}'
                expected = f'a line for each frame of {SPLIT_FILE}'
                path = self.root / TARGET_FILES[0]
                return [], [InputError(str(path), got=got, expected=expected, fix=COPY_AGAIN)]

            # A scene may have several labelled frames. Its folder is listed once.
            scene, _, frame = self._targets[number].rpartition('/')
            try:
                if scene not in videos:
                    videos[scene] = _video(self.root / scene)
                clip = videos[scene]._replace(labels={int(frame): self._path})
            except InputError as error:
                problems.append(error)
                continue
            around = rgbd.around_targets(split, clip, self.interval, self.steps)
            items += around[0]
            problems += around[1]
        problems = list({str(problem): problem for problem in problems}.values())
        return items, problems + self.depth_problems(items)

    def features(self, items):
        """Returns image, label, depth, intrinsics and name, and sequence and frame of video."""
        items = list(items)
        if items and items[0].sequence:
            return super().features(items)
        return ('image', 'label', 'depth', 'intrinsics', 'name')

    def examine(self, item: Item) -> Inspection:
        """Reads and checks a frame of the file, or of a video."""
        if item.sequence:
            return super().examine(item)
        number = int(item.name)
        where = self._where(number)
        attempts = base.Attempts()
        image = attempts.call(self._read, 'images', number)
        depth = attempts.call(self._read, 'depths', number)
        ids, label = self._label(number, attempts)
        if attempts.problems:
            return Inspection(None, attempts.problems, ids)

        # MATLAB stores columns first.
        maps = {
            'image': image.transpose(2, 1, 0),
            'label': label,
            'depth': depth.T.astype(np.float32),
        }
        attempts.call(rgbd.check_depth, maps['depth'], where, 0.0)
        return self.stored_frame(item, maps, b'', ids, attempts)

    def _read_label(self, item, size, attempts, notes):
        """Reads the label of a frame of a video from the file. Most frames have none."""
        if 'label' not in item.files:
            return super()._read_label(item, size, attempts, notes)
        scene, _, frame = item.sequence.rpartition('/')
        return self._label(self._numbers[f'{scene}/{int(frame)}'], attempts)

    def _label(
        self, number: int, attempts: base.Attempts
    ) -> tuple[frozenset[int], np.ndarray | None]:
        """Reads the label of a frame of the file.

        Returns:
          The ids among the 40 classes, and the train ids [H, W], None if the label is wrong.
        """
        stored = attempts.call(self._read, 'labels', number)
        if stored is None:
            return frozenset(), None
        where = self._where(number)
        ids = attempts.call(to_40, stored.T, where)
        if ids is None:
            return frozenset(), None
        return frozenset(np.unique(ids).tolist()), to_train_ids(ids, self._coding, where)

    def _where(self, number: int) -> str:
        """Returns the name of a frame in errors."""
        return f'{self._path}, frame {number:04}'

    def _read(self, variable: str, number: int) -> np.ndarray:
        """Reads a variable of a frame, as MATLAB stores it.

        Raises:
          InputError: the file is damaged.
        """
        try:
            with self._reading:  # HDF5 reads in a single thread
                return self._content[variable][number - 1]
        except (OSError, ValueError) as error:
            where = self._where(number)
            raise InputError(
                where, got=str(error), expected='a whole file', fix=COPY_AGAIN
            ) from error


def _video(folder: pathlib.Path) -> Clip:
    """Returns the frames of a scene, without labels. Raises InputError if there are none."""
    images = numbered(frames_in(folder, IMAGE_FOLDERS))
    if not images:
        raise InputError(
            str(folder),
            got='no frames of this scene',
            expected='its video in {image,depth}/{number}.png',
            fix=f'extract it, or move {TARGET_FILES[0]} away to read labelled frames alone',
        )
    depths = numbered(frames_in(folder, DEPTH_FOLDERS))
    return Clip(folder.name, folder, images, depths, {})


def _open_matlab(path: pathlib.Path) -> Any:
    """Opens the official file.

    Raises:
      InputError: h5py is not installed, the file is damaged, or it has no frames.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            str(path),
            got='a file of MATLAB 7.3, and no package h5py',
            expected='the package h5py, which reads it',
            fix='pip install h5py',
        ) from error

    # A damaged file has no variables, or cannot be opened.
    try:
        content = h5py.File(path, 'r')
        shapes = {key: content[key].shape for key in ('images', 'depths', 'labels')}
    except (OSError, KeyError) as error:
        raise InputError(
            str(path),
            got=str(error).splitlines()[0],
            expected='the variables images, depths and labels of the labelled data set',
            fix=COPY_AGAIN,
        ) from error
    count, _, width, height = shapes['images'] if len(shapes['images']) == 4 else (0,) * 4
    if shapes['depths'] != (count, width, height) or shapes['labels'] != shapes['depths']:
        raise InputError(
            str(path),
            got=', '.join(f'{key} {shape}' for key, shape in shapes.items()),
            expected='images [N, 3, 640, 480], depths and labels [N, 640, 480]',
        )
    return content
