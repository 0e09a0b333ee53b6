"""The frames of NYUDv2: their classes, crop, camera, and the lists that divide them."""

import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from segjax.data import transforms
from segjax.data.builders import base, rgbd
from segjax.data.builders.base import Item
from segjax.data.builders.rgbd import RgbdDataset
from segjax.data.image_files import COPY_AGAIN, by_name, find
from segjax.data.labels import NYU4, NYU13, NYU_FINE_TO_40, LabelCoding
from segjax.errors import InputError

FULL_SIZE = (480, 640)
"""(height, width) of the frames."""

CROP = (45, 40)
"""First row and column of the crop, 0-based.

Behind the crop, frames have no white border and no pixel outside of the projected depth. It is the
crop of Gupta et al. (CVPR 2013), on which the published scores are measured.
"""

SIZE = (425, 560)
"""(height, width) of the crop: rows 45 to 469 and columns 40 to 599."""

CAMERA = (518.8579, 519.4696, 324.5824, 252.7362)
"""fx, fy, cx, cy of the colour camera, for frames of `FULL_SIZE` with the first pixel at 0.

Source: camera_params.m of the toolbox, whose first pixel is at 1.
"""

IMAGE_FOLDERS = ('image', 'images', 'color', 'rgb')
DEPTH_FOLDERS = ('depth', 'depth_filled')

CLASS_MAPS = {'13': NYU13, '4': NYU4}
"""Merges of the 40 classes."""

LABELLED = 'nyu_depth_v2_labeled.mat'
TARGET_FILES = ('nyud2_folder.txt', 'nyud2_target.txt')
"""Lists of STD2P. Their lines name scene and frame of the labelled frames 1, 2, ..."""

SPLIT_FILE = 'splits.mat'
SPLIT_VARIABLES = {'train': 'trainNdxs', 'test': 'testNdxs'}


class NyuFrames(RgbdDataset):
    """Frames of NYUDv2 in any layout.

    is_fine  whether label files have ids of the 894 classes
    """

    is_fine: bool
    _coding: LabelCoding

    unit = 0.0
    derived = ('intrinsics',)

    def options(self):
        """Returns the coding of the labels, the crop, the camera, and the choice of frames."""
        coding = base.describe(self._coding)
        frames = [self.interval, self.steps]
        return [coding, FULL_SIZE, CROP, SIZE, CAMERA, self.depth_scale, frames]

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all label files."""
        return self._coding

    def class_ids(self, ids, where):
        """Returns ids of the 40 classes for ids of the 894 classes."""
        return to_40(ids, where) if self.is_fine else ids

    def depth_problems(self, items: Iterable[Item]) -> list[InputError]:
        """Returns the problems of depth files in common: no declared unit, or missing files."""
        depths = [item.files['depth'] for item in items if 'depth' in item.files]
        if depths and not self.depth_scale:
            return [rgbd.undeclared_unit(depths[0])]
        with_images = [item for item in items if 'image' in item.files]
        return base.incomplete_feature('depth', with_images)

    def fitted(self, maps, item):
        """Crops whole frames. Frames of the size of the crop stay as they are."""
        rgbd.check_same_size(maps, item)
        size = maps['label'].shape
        if size == SIZE:
            return maps
        if size != FULL_SIZE:
            raise InputError(
                str(item.files.get('image', item.files.get('depth'))),
                got='{1}x{0} pixels'.format(*size),
                expected='640x480 pixels, or 560x425 for cropped frames',
                fix='export the frames of NYUDv2 at their own size: crop and camera are known '
                'for whole frames. Frames of your own have any size: '
                '--config.data.name=rgbd_folder',
            )
        top, left = CROP
        rows = slice(top, top + SIZE[0])
        columns = slice(left, left + SIZE[1])
        return {name: value[rows, columns] for name, value in maps.items()}

    def _examine_camera(self, item, size, attempts):
        """Returns the matrix of the colour camera for cropped frames."""
        return camera_matrix()


def camera_matrix() -> np.ndarray:
    """Returns the [3, 3] float32 matrix of the colour camera, in pixels of cropped frames."""
    fx, fy, cx, cy = CAMERA
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return (transforms.translation_matrix(-CROP[1], -CROP[0]) @ matrix).astype(np.float32)


def to_40(ids: np.ndarray, where: str) -> np.ndarray:
    """Returns ids of the 40 classes for ids of the 894 classes, [H, W] uint8.

    Raises:
      InputError: three channels, or an id beyond 894.
    """
    if ids.ndim == 3:
        raise InputError(where, got='three channels', expected='one channel of ids 0..894')
    unknown = ids[ids >= len(NYU_FINE_TO_40)]
    if unknown.size:
        got = f'label ids up to {ids.max()}, and {unknown.size} such pixels'
        expected = f'ids 0..{len(NYU_FINE_TO_40) - 1}'
        raise InputError(where, got=got, expected=expected, fix=COPY_AGAIN)
    return NYU_FINE_TO_40[ids]


def frames_in(folder: pathlib.Path, names: Iterable[str]) -> dict[str, pathlib.Path]:
    """Returns the files in the first of several folders that exists, by name."""
    for name in names:
        if (folder / name).is_dir():
            return files_by_name(find(folder / name))
    return {}


def files_by_name(paths: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns files by name without extension."""
    return by_name(paths, lambda path: path.stem)


def numbered(files: Mapping[str, pathlib.Path]) -> dict[int, pathlib.Path]:
    """Returns the files of a video by number. Raises InputError for another form of file name."""
    numbered = {}
    for name, path in files.items():
        if not name.isdecimal():
            raise InputError(
                str(path),
                got='another file name',
                expected=f'the number of the frame, as 01930{path.suffix}',
                fix='rename it or move it away',
            )
        numbered[int(name)] = path
    return numbered


def read_list(path: pathlib.Path) -> list[str]:
    """Returns the lines of a list that are not empty. Raises InputError if it cannot be read."""
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            str(path), got=str(error), expected='a name on each line', fix=COPY_AGAIN
        ) from error
    return [line.strip() for line in lines if line.strip()]


def read_split_file(path: pathlib.Path) -> dict[str, list[int]]:
    """Returns the numbers of the frames of `train` and `test` in `splits.mat`, from 1.

    Raises:
      InputError: the file cannot be read, or lacks a variable.
    """
    import scipy.io  # takes a third of a second, and few data sets need it

    try:
        content = scipy.io.loadmat(path)
        return {
            split: np.ravel(content[name]).astype(int).tolist()
            for split, name in SPLIT_VARIABLES.items()
        }
    # SciPy raises errors of many types for damaged files.
    except Exception as error:
        raise InputError(
            str(path),
            got=f'{type(error).__name__}: {error}',
            expected=f'a MATLAB file with {" and ".join(SPLIT_VARIABLES.values())}',
            fix=COPY_AGAIN,
        ) from error


def read_targets(root: pathlib.Path) -> dict[int, str]:
    """Returns `{scene}/{frame}` of the labelled frames by number, from 1. {} without the two lists.

    Raises:
      InputError: the lists differ in length, or a frame is no number.
    """
    paths = [root / name for name in TARGET_FILES]
    if not all(path.is_file() for path in paths):
        return {}
    scenes, frames = map(read_list, paths)
    if len(scenes) != len(frames) or not all(frame.isdecimal() for frame in frames):
        raise InputError(
            str(paths[1]),
            got=f'{len(frames)} lines',
            expected=f'a number for each of the {len(scenes)} lines of {paths[0].name}',
            fix=COPY_AGAIN,
        )
    pairs = zip(scenes, frames, strict=True)
    return {number: f'{scene}/{int(frame)}' for number, (scene, frame) in enumerate(pairs, 1)}
