"""Reads the maps of an example from files, by the readers that data sets use."""

import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from segjax.core import files
from segjax.core.notes import Note, tell
from segjax.data import image_files, kinds, labels
from segjax.data.builders.base import ids_or_colors
from segjax.errors import InputError
from segjax.spec import Feature

ARRAY = '.npy'
"""Suffix of files that may hold any map: NumPy arrays of its final values."""

UPRIGHT = (1, 2, 3, 4)
"""EXIF orientations that keep height and width."""


class Reading(NamedTuple):
    """Facts that files do not hold.

    coding      the meaning of ids and colours in label files
    depth_unit  metres of a unit in 16-bit depth files
    """

    coding: labels.LabelCoding
    depth_unit: float


def _image(path: pathlib.Path, reading: Reading) -> np.ndarray:
    """Reads [H, W, 3] uint8 RGB."""
    image = image_files.read_image(path)
    if image is None:
        got = 'an image that cannot be decoded'
        raise InputError(str(path), got=got, expected='a whole image', fix=image_files.COPY_AGAIN)
    return image


def _label(path: pathlib.Path, reading: Reading) -> np.ndarray:
    """Reads [H, W] uint8 train ids from a file of ids or colours of the data set."""
    if path.suffix.lower() == ARRAY:
        ids = _array(path)
        if ids.ndim != 2 or ids.dtype.kind not in 'ui' or ids.min(initial=0) < 0:
            got = f'{ids.dtype} of shape {ids.shape}'
            raise InputError(str(path), got=got, expected='whole numbers >= 0 [height, width]')
        return labels.to_train_ids(ids.astype(np.int64), reading.coding, str(path))
    notes: list[Note] = []
    mask = image_files.read_mask(path)
    ids = ids_or_colors(mask, reading.coding, str(path), notes)
    for note in notes:
        tell(note)
    return labels.to_train_ids(ids, reading.coding, str(path))


def _ids(path: pathlib.Path, reading: Reading) -> np.ndarray:
    """Reads [H, W] int32 ids of instances or regions."""
    ids = _array(path) if path.suffix.lower() == ARRAY else image_files.read_ids(path)
    if ids.ndim != 2:
        raise _three_channels(path, 'ids')
    return ids.astype(np.int32)


def _depth(path: pathlib.Path, reading: Reading) -> np.ndarray:
    """Reads [H, W] float32 metres, 0 = not measured."""
    if path.suffix.lower() == ARRAY:
        return _array(path).astype(np.float32)
    units = image_files.read_ids(path)
    if units.ndim != 2:
        raise _three_channels(path, 'depth')
    return (units * np.float32(reading.depth_unit)).astype(np.float32)


def _vectors(path: pathlib.Path, reading: Reading) -> np.ndarray:
    """Reads [H, W, ...] float32."""
    return _array(path).astype(np.float32)


def _array(path: pathlib.Path) -> np.ndarray:
    """Reads a NumPy file. Raises InputError if it is none."""
    try:
        return files.read_array(path)
    except (ValueError, EOFError) as error:
        raise InputError(
            str(path), got=str(error), expected='a NumPy array', fix="numpy.save('map.npy', array)"
        ) from error


def _three_channels(path: pathlib.Path, content: str) -> InputError:
    """Returns the error for a file in colour that should hold numbers."""
    return InputError(
        str(path), got=f'{content} in three channels', expected='one channel', fix='convert it'
    )


class MapReader(NamedTuple):
    """The files of a kind of map.

    suffixes  of files that it reads
    read      (path, reading) -> [H, W, ...]
    """

    suffixes: tuple[str, ...]
    read: Callable[[pathlib.Path, Reading], np.ndarray]


MASKS = ('.png', '.bmp', '.tif', '.tiff', ARRAY)
READERS: Mapping[str, MapReader] = {
    'image': MapReader(image_files.PHOTO_SUFFIXES, _image),
    'label': MapReader(MASKS, _label),
    'instance': MapReader(MASKS, _ids),
    'ids': MapReader(MASKS, _ids),
    'depth': MapReader(MASKS, _depth),
    'flow': MapReader((ARRAY,), _vectors),
    'normals': MapReader((ARRAY,), _vectors),
    'planes': MapReader((ARRAY,), _vectors),
}
"""Kinds of features that are maps, and the files that hold them."""


def is_map(feature: Feature) -> bool:
    """Returns whether a feature is a map, which comes from a file."""
    return kinds.KINDS[feature.kind].is_map


def read_map(path: pathlib.Path, key: str, feature: Feature, reading: Reading) -> np.ndarray:
    """Returns the map in a file, [H, W, ...], in the type that travels to a device.

    Args:
      path: of the file.
      key: of the feature.
      feature: of the map, with its shape and type (`kinds.feature_of`).
      reading: facts that files do not hold.

    Raises:
      InputError: a damaged file, unknown ids, or another shape than the feature has.
    """
    value = READERS[feature.kind].read(path, reading)
    channels = feature.shape
    if value.ndim != 2 + len(channels) or value.shape[2:] != channels:
        raise InputError(
            str(path),
            got=f'an array of shape {value.shape}',
            expected='[' + ', '.join(['height', 'width', *map(str, channels)]) + ']',
        )
    return value.astype(kinds.device_dtype(key, feature), copy=False)


def file_size(path: pathlib.Path) -> tuple[int, int]:
    """Returns (height, width) of the map in a file, from its header.

    Raises:
      InputError: the header cannot be read.
    """
    if path.suffix.lower() == ARRAY:
        shape = _array_shape(path)
        if len(shape) >= 2:
            return shape[:2]
        got = f'an array of shape {shape}'
        raise InputError(str(path), got=got, expected='an array [height, width, ...]')
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(image_files.EXIF_ORIENTATION, 1) not in UPRIGHT
            return (image.width, image.height) if turned else (image.height, image.width)
    # Pillow raises OSError, SyntaxError, ValueError and struct.error for broken files.
    except Exception as error:
        raise InputError(
            str(path),
            got=f'no whole image: {error}',
            expected='an image file',
            fix=image_files.COPY_AGAIN,
        ) from error


def _array_shape(path: pathlib.Path) -> tuple[int, ...]:
    """Returns the shape of a NumPy file. Raises InputError if it is none."""
    try:
        return files.read_array(path, mapped=True).shape
    except (ValueError, EOFError) as error:
        raise InputError(str(path), got=str(error), expected='a NumPy array') from error
