"""Images with depth: finds and checks them, and computes the planes that a net sees behind colour.

The input is a folder of RGB-D clips (segjax/data/builders/clip_folders.py). Frames that are
predicted alone may have any names: a depth file then has the name of its image.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.data.builders import clip_folders
from segjax.data.builders import rgbd as depth_files
from segjax.data.builders.clip_folders import CAMERA, DEPTHS, IMAGES, PNG
from segjax.data.camera_checks import check_camera
from segjax.data.image_files import PHOTO_SUFFIXES, ImageSource, by_name, check_files, find
from segjax.errors import InputError
from segjax.modes.predict.reading import file_size
from segjax.protocol import Derived

UNIT_KEY = 'config.predict.depth_unit'
LAYOUT = f'folders {IMAGES[0]} and {DEPTHS[0]}, and {CAMERA}'


class Planes(NamedTuple):
    """The planes that a net sees behind colour, and the unit of depth files.

    feature  derived from image, depth and intrinsics, [H, W, 3] uint8. None: colour alone
    unit     metres of a unit in 16-bit depth files
    """

    feature: Derived | None = None
    unit: float = 0.001

    @property
    def channels(self) -> int:
        """Returns the number of channels that the net sees."""
        return 3 if self.feature is None else 6

    def example(self, source: ImageSource, image: np.ndarray) -> dict[str, Any]:
        """Returns an image with its depth and its camera, as far as it has them.

        Raises:
          InputError: a damaged file.
        """
        example: dict[str, Any] = {'image': image}
        if source.depth is not None:
            example['depth'] = read_depth(source.depth, self.unit)
        if source.camera is not None:
            example['intrinsics'] = clip_folders.read_camera(source.camera)
        return example

    def compute(self, source: ImageSource, image: np.ndarray) -> np.ndarray | None:
        """Returns the planes of an image, None if the net sees colour alone.

        Raises:
          InputError: a damaged file, or depth from which no planes follow.
        """
        if self.feature is None:
            return None
        return self.feature.compute(self.example(source, image))


COLOUR = Planes()
"""No planes: the net sees colour alone."""


# --- files ----------------------------------------------------------------------------------------


def find_rgbd(root: pathlib.Path, planes: Planes) -> list[ImageSource]:
    """Returns the checked images of RGB-D clips in a folder, [] if there is no depth.

    The name of an image is the path of its clip and the name of its file.

    Raises:
      InputError: images without depth in some clips, depth of another size than its image, or an
        error of `clip_folders`, `check_files` or `check_planes`.
    """
    folders = clip_folders.find_clips(root)
    with_depth = [folder for folder in folders if clip_folders.inner_folder(folder, DEPTHS)]
    if not with_depth:
        return []

    # Superpixels of a call see depth in all clips or in none.
    sources: list[ImageSource] = []
    for folder in folders:
        if folder not in with_depth:
            raise InputError(
                str(folder),
                got=f'no folder {DEPTHS[0]}, which {with_depth[0]} has',
                expected='depth for all clips, or for none',
                fix='add it, or predict this clip by a call of its own',
            )
        sources += _clip_sources(folder, root)
    check_files(sources)
    check_planes(sources, planes)
    return sources


def _clip_sources(folder: pathlib.Path, root: pathlib.Path) -> list[ImageSource]:
    """Returns the images of a clip with their depth and their camera."""
    images = find(clip_folders.inner_folder(folder, IMAGES), PHOTO_SUFFIXES)
    depths = find(clip_folders.inner_folder(folder, DEPTHS), PNG)
    by_stem = by_name(depths, lambda path: path.stem)
    partners = {path: by_stem.get(path.stem) for path in images}

    # Names that differ in more than the suffix are compared by the number of the frame.
    if None in partners.values() and images:
        numbered = clip_folders.by_number(depths)
        by_frame = clip_folders.by_number(images)
        partners = {path: numbered.get(number) for number, path in by_frame.items()}
    camera = clip_folders.camera_file(folder.absolute())
    place = folder.relative_to(root)
    sources = []
    for path, depth in partners.items():
        if depth is None:
            raise InputError(
                str(path),
                got='no depth for this image',
                expected=f'{folder / DEPTHS[0] / path.stem}.png',
                fix='add it, or move the image away',
            )
        sources.append(ImageSource(path, (place / path.stem).as_posix(), depth, camera))
    return sorted(sources, key=lambda source: source.name)


def check_planes(sources: Sequence[ImageSource], planes: Planes) -> None:
    """Checks that a net gets what it sees behind colour, and the sizes of depth files.

    The headers of all files are read, and the first depth file as a whole.

    Raises:
      InputError: no depth or no camera for a net that sees planes, a camera that does not fit, or
        depth of another size or unit.
    """
    for source in sources:
        _check_source(source, planes)
    if sources and sources[0].depth is not None:
        read_depth(sources[0].depth, planes.unit)


def _check_source(source: ImageSource, planes: Planes) -> None:
    """Raises InputError for an image whose depth or camera is missing or does not fit."""
    name = '' if planes.feature is None else planes.feature.name.rpartition('_')[2].upper()
    # Everything that the net sees behind colour.
    if name and source.depth is None:
        raise InputError(
            f'--input {source.path}',
            got='an image without depth',
            expected=f'{LAYOUT}: the net sees {name}, which is computed from depth',
            fix=f'--input FOLDER, with FOLDER/{IMAGES[0]}/{source.path.stem}.png, '
            f'FOLDER/{DEPTHS[0]}/{source.path.stem}.png and FOLDER/{CAMERA}',
        )
    if name and source.camera is None:
        clip = source.path.parent.parent
        raise InputError(
            str(clip),
            got=f'no {CAMERA}',
            expected=f'the camera matrix, three rows of three numbers, from which {name} follows',
            fix=f"echo 'fx 0 cx 0 fy cy 0 0 1' > {clip / CAMERA}, with the numbers of the camera "
            'in pixels',
        )

    # Depth that only superpixels see has no camera.
    if source.depth is None:
        return
    size = file_size(source.path)
    own = file_size(source.depth)
    if own != size:
        raise InputError(
            str(source.depth),
            got='{1}x{0} pixels'.format(*own),
            expected='{1}x{0} pixels, the size of {2}'.format(*size, source.path),
            fix='project the depth into the image. Depth that shows the view of the image already: '
            'resize the images to {1}x{0}'.format(*own),
        )
    if name:
        check_camera(clip_folders.read_camera(source.camera), size, str(source.camera))


def read_depth(path: pathlib.Path, unit: float) -> np.ndarray:
    """Reads and checks a depth file, [H, W] float32 metres = value * unit, 0 = not measured.

    Raises:
      InputError: a file of another kind, or depth that no room has. The error names the probable
        unit.
    """
    units = depth_files.read_units(path)
    depth = (units * np.float32(unit)).astype(np.float32)
    try:
        depth_files.check_depth(depth, str(path), 1 / unit)
    except InputError as error:
        likely = depth_files.likely_scale(units)
        fix = error.fix if likely is None else f'--{UNIT_KEY}={1 / likely:.6g}'
        raise error.replaced(fix=fix) from error
    return depth
