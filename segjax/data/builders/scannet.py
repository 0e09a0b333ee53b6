"""ScanNet: the exported frames of its 2D benchmark, with the 40 classes of NYUDv2."""

import pathlib
from typing import Any

import cv2
import numpy as np

from segjax.data import transforms
from segjax.data.builders import base
from segjax.data.builders.base import Item
from segjax.data.builders.rgbd import RgbdDataset
from segjax.data.builders.sun3d import read_matrix
from segjax.data.image_files import COPY_AGAIN, by_name, find, subfolders
from segjax.data.labels import NYU4, NYU13, NYU40, NYU40_IDS, LabelCoding, merge
from segjax.errors import InputError
from segjax.spec import ClassSpec

SPLITS = ('train', 'val')
LIST = 'scannetv2_{split}.txt'
FIRST_INSTANCE = 1000
"""Smallest id of an instance: class id * 1000 + number."""

SHAPE_TOLERANCE = 0.02
"""Largest relative difference between the aspect ratios of the maps of a frame.

Images of 1296x968 and depth of 640x480 differ by 0.4 %.
"""

BENCHMARK_IDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
"""Ids of the 20 classes that the benchmark evaluates."""

_BENCHMARK = tuple(number - 1 for number in BENCHMARK_IDS)

SCANNET20 = merge(
    NYU40,
    ClassSpec(
        tuple(NYU40.names[number] for number in _BENCHMARK),
        tuple(NYU40.palette[number] for number in _BENCHMARK),
        BENCHMARK_IDS,
    ),
    tuple((NYU40.names[number],) for number in _BENCHMARK),
)
"""The 20 classes of the benchmark (ScanNet, BenchmarkScripts). All further classes are void."""


class ScanNet(RgbdDataset):
    """ScanNet's `scannet_frames_25k`: every hundredth frame of 1513 videos, 40 classes of NYUDv2.

    Files are `{scene}/color/{frame}.jpg`, `{scene}/depth/{frame}.png` in millimetres,
    `{scene}/label/{frame}.png` with the ids 0..40, `{scene}/instance/{frame}.png` with class id *
    1000 + number, and `{scene}/intrinsics_depth.txt`. Depth, instances and intrinsics are optional.
    `scannetv2_train.txt` and `scannetv2_val.txt`, in the root folder or the folder above it, list
    the scenes of the splits. Poses are not read. Streams `.sens` must be exported first.

    Images have 1296x968 pixels and depth has 640x480. All maps get the size of the depth: images
    are averaged over areas, and labels and instances use nearest neighbours. Labels are evaluated
    at this size. Without depth, the size is that of the images, and the camera is
    `intrinsics_color.txt`.

    A scene is a clip. Its frames are numbered as in the video. The class map `20` has the
    classes of the benchmark. The maps `13` and `4` belong to NYUDv2.

    Source: Dai et al., ScanNet, CVPR 2017, and its BenchmarkScripts.
    """

    def __init__(self, config: Any):
        super().__init__(config, NYU40)
        self.class_maps = {'20': SCANNET20, '13': NYU13, '4': NYU4}

    def options(self):
        """Returns the coding of the labels, and the unit of the depth."""
        return [base.describe(NYU40_IDS), self.depth_scale, 'size of the depth']

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all label files."""
        return NYU40_IDS

    def instances(self, ids):
        """Returns the ids of single instances, 0 elsewhere."""
        return np.where(ids >= FIRST_INSTANCE, ids, 0)

    def splits(self):
        """Returns the splits that have a list. Raises InputError without lists."""
        splits = tuple(split for split in SPLITS if self._list(split) is not None)
        if not splits:
            names = ' and '.join(LIST.format(split=split) for split in SPLITS)
            raise InputError(
                str(self.root),
                got='no lists of scenes',
                expected=f'{names}, here or in {self.root.parent}',
                fix='copy them from Tasks/Benchmark of the repository ScanNet/ScanNet',
            )
        return splits

    def _list(self, split: str) -> pathlib.Path | None:
        """Returns the list of the scenes of a split, None if there is none."""
        name = LIST.format(split=split)
        paths = (self.root / name, self.root.parent / name)
        return next((path for path in paths if path.is_file()), None)

    def scan(self, split):
        """Pairs the frames of the scenes of a split with their labels."""
        path = self._list(split)
        try:
            scenes = path.read_text(encoding='utf-8').split()
        except (OSError, ValueError) as error:
            expected = 'a scene on each line, as scene0000_00'
            return [], [InputError(str(path), got=str(error), expected=expected, fix=COPY_AGAIN)]
        present = {folder.name for folder in subfolders(self.root)}
        absent = [scene for scene in scenes if scene not in present]
        problems = [_absent(path, absent, len(scenes))] if absent else []

        # A scene that cannot be read is a problem, and the remaining scenes are read.
        items: list[Item] = []
        for scene in scenes:
            if scene not in present:
                continue
            try:
                of_scene, scene_problems = self._scene_items(split, self.root / scene)
            except InputError as error:
                problems.append(error)
                continue
            items += of_scene
            problems += scene_problems
        for feature in ('depth', 'instance', 'intrinsics'):
            problems += base.incomplete_feature(feature, items)
        return items, problems

    def _scene_items(self, split: str, folder: pathlib.Path) -> tuple[list[Item], list[InputError]]:
        """Returns the frames of a scene, and the problems of its files."""
        images = _numbered(find(folder / 'color'))
        labels = _numbered(find(folder / 'label', ('.png',)))
        optional = {}
        for feature in ('depth', 'instance'):
            inner = folder / feature
            optional[feature] = _numbered(find(inner, ('.png',))) if inner.is_dir() else {}
        place = str(folder / 'label' / '{name}.png')
        names, problems = base.pair(split, images, labels, place)

        # The camera belongs to the size of the records.
        sensor = 'depth' if optional['depth'] else 'color'
        camera = folder / f'intrinsics_{sensor}.txt'
        items = []
        for name in sorted(names, key=int):
            if optional['depth'] and name not in optional['depth']:
                problems.append(_without_depth(images[name], folder))
                continue
            files = {'image': images[name], 'label': labels[name]}
            for feature, paths in optional.items():
                if name in paths:
                    files[feature] = paths[name]
            if camera.exists():
                files['intrinsics'] = camera
            items.append(Item(split, f'{folder.name}/{name}', files, folder.name, int(name)))
        return items, problems

    def fitted(self, maps, item):
        """Brings all maps of a frame to the size of its depth, or of its image without depth."""
        whole = maps['image'].shape[:2]
        size = maps['depth'].shape if 'depth' in maps else whole
        fitted = {}
        for name, value in maps.items():
            check_shape(value, whole, str(item.files[name]), str(item.files['image']))
            fitted[name] = _resized(name, value, size)
        return fitted

    def read_intrinsics(self, path, size):
        """Returns the matrix of a camera file: 4x4, by rows."""
        return read_matrix(path, 4)


def _absent(path: pathlib.Path, scenes: list[str], total: int) -> InputError:
    """Returns the error for scenes of a list that have no folder."""
    return InputError(
        str(path),
        got=f'{len(scenes)} of {total} scenes are not there, the first is {scenes[0]}',
        expected='a folder for each scene of the list',
        fix='complete the download, or take the lines out of the list',
    )


def _without_depth(image: pathlib.Path, folder: pathlib.Path) -> InputError:
    """Returns the error for a frame without depth in a scene with depth."""
    return InputError(
        str(image),
        got='no depth for this frame',
        expected=str(folder / 'depth' / f'{image.stem}.png'),
        fix='complete the download',
    )


def _numbered(paths: list[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns the files of a scene by name. Raises InputError unless the name is a number."""
    for path in paths:
        if not path.stem.isdecimal():
            raise InputError(
                str(path),
                got='another file name',
                expected=f'the number of the frame, as 000100{path.suffix}',
                fix='rename it or move it away',
            )
    return by_name(paths, lambda path: path.stem)


def check_shape(value: np.ndarray, size: tuple[int, int], where: str, whole: str) -> None:
    """Raises InputError for a map whose aspect ratio differs from the ratio of a size.

    Args:
      value: [H, W, ...].
      size: (height, width).
      where: the file of the map.
      whole: the file of the map with this size.
    """
    ratio = value.shape[1] / value.shape[0]
    expected = size[1] / size[0]
    if abs(ratio / expected - 1) > SHAPE_TOLERANCE:
        raise InputError(
            where,
            got='{1}x{0} pixels'.format(*value.shape),
            expected='the aspect ratio of {1}x{0} pixels, of {2}'.format(*size, whole),
            fix='export the frames again, without a crop',
        )


def _resized(name: str, value: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a map at a size. A map of this size is returned itself."""
    if value.shape[:2] == size:
        return value
    if name == 'image':
        is_smaller = value.shape[1] >= size[1]
        smooth = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
        return cv2.resize(value, size[::-1], interpolation=smooth)
    matrix = transforms.resize_matrix(value.shape[:2], size)
    return transforms.apply_geometry({name: value}, matrix, size)[name]
