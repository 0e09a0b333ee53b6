"""Folders of RGB-D clips: numbered images, and their depth, labels and camera.

    {clip}/image/000101.jpg, 000102.jpg, ...    the frames
    {clip}/depth/000101.png, 000102.png, ...    distances along z, 16 bits, at the size of the image
    {clip}/label/000117.png                     of some frames, or of none
    {clip}/intrinsics.txt                       the camera, here or in a folder above

`IMAGES`, `DEPTHS` and `LABELS` have further names of these folders. The last number in a file name
is the number of the frame. The text around it is the same for all files of a folder.
"""

import pathlib
import re
from collections.abc import Iterable

import numpy as np

from segjax.data.builders import rgbd, sun3d
from segjax.data.builders.rgbd import Clip
from segjax.data.image_files import find, subfolders
from segjax.errors import InputError

IMAGES = ('image', 'images', 'color', 'colour', 'rgb')
DEPTHS = ('depth', 'depths')
LABELS = ('label', 'labels', 'masks')
"""Names of the folders of a clip, in lower case."""

CAMERA = 'intrinsics.txt'
"""Name of the camera file."""

PNG = ('.png',)


def find_clips(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of clips in a folder, which may be a clip itself, sorted."""
    return rgbd.find_sequences(root, IMAGES)


def read_clip(folder: pathlib.Path, name: str, top: pathlib.Path) -> Clip:
    """Lists the files of a clip.

    Args:
      folder: of the clip.
      name: of the clip.
      top: the highest folder that may hold the camera.

    Raises:
      InputError: two folders of the same kind, no image, names without a number, or two files of
        the same frame.
    """
    images = inner_folder(folder, IMAGES)
    depths = inner_folder(folder, DEPTHS)
    labels = inner_folder(folder, LABELS)
    frames = by_number(find(images)) if images else {}
    if not frames:
        raise InputError(
            str(images or folder),
            got='no image',
            expected='the frames of a clip, as 000101.jpg',
            fix=f'put them into {images or folder / IMAGES[0]}, or move the folder away',
        )
    camera = camera_file(folder, top)
    return Clip(
        name,
        folder,
        frames,
        by_number(find(depths, PNG)) if depths else {},
        by_number(find(labels)) if labels else {},
        {'intrinsics': camera} if camera else {},
    )


def inner_folder(folder: pathlib.Path, names: Iterable[str]) -> pathlib.Path | None:
    """Returns the folder of images, depth or labels of a clip, None if there is none.

    Args:
      folder: of the clip.
      names: the names that it may have, in lower case.

    Raises:
      InputError: several such folders.
    """
    matches = [path for path in subfolders(folder) if path.name.lower() in names]
    if len(matches) > 1:
        shown = ' and '.join(path.name for path in matches)
        raise InputError(
            str(folder),
            got=f'the folders {shown}',
            expected='a single folder of this kind',
            fix=f'move {matches[1]} away',
        )
    return matches[0] if matches else None


def by_number(paths: Iterable[pathlib.Path]) -> dict[int, pathlib.Path]:
    """Returns the files of a folder by the number of their frame.

    Raises:
      InputError: a name without a number, names that differ in more than the last number, or two
        files with the same number.
    """
    files: dict[int, pathlib.Path] = {}
    first: tuple[str, pathlib.Path] | None = None
    for path in paths:
        match = re.fullmatch(r'(.*?)(\d+)(\D*)', path.stem)
        if match is None:
            raise _wrong_name(path, 'a name without a number')
        around = f'{match[1]}#{match[3]}'
        first = first or (around, path)
        if around != first[0]:
            got = f'a name that differs from {first[1].name} in more than its last number'
            raise _wrong_name(path, got)
        number = int(match[2])
        if number in files:
            raise _wrong_name(path, f'the number of {files[number].name}')
        files[number] = path
    return files


def _wrong_name(path: pathlib.Path, got: str) -> InputError:
    """Returns the error for a file name from which no frame follows."""
    return InputError(
        str(path),
        got=got,
        expected=f'names that differ in the number of the frame alone, as 000101{path.suffix} and '
        f'000102{path.suffix}',
        fix='rename it, or move it away',
    )


def camera_file(folder: pathlib.Path, top: pathlib.Path | None = None) -> pathlib.Path | None:
    """Returns the camera file of a clip, None without: in its folder, or the nearest above it.

    Args:
      folder: of the clip.
      top: the highest folder that is searched. None: all folders above.
    """
    for place in (folder, *folder.parents):
        path = place / CAMERA
        if path.is_file():
            return path
        if place == top:
            return None
    return None


def read_camera(path: pathlib.Path) -> np.ndarray:
    """Returns the [3, 3] matrix of a camera file, float32.

    The file has the matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in rows, in pixels of the image
    with the first pixel centre at 0. It may be the upper left part of a matrix with 4 rows.

    Raises:
      InputError: no such matrix.
    """
    try:
        count = len(path.read_text(encoding='utf-8').split())
    except (OSError, ValueError):
        count = 0
    try:
        return sun3d.read_matrix(path, 4 if count == 16 else 3)
    except InputError as error:
        raise error.replaced(fix='write fx, fy, cx and cy of the camera, in pixels') from error
