"""Files of facial landmarks and boxes.

A file has landmarks in pixels of the image, with pixel centres at whole coordinates from 0. The
forms are

    landmarks.npz  'names' [N] and 'points' [N, 68, 2], or an array [68, 2] for each name
    landmarks.csv  a header, then a line NAME,X,Y,X,Y,... for each image. Empty cells are absent
    NAME.pts       next to the image NAME: the format of 300-W, whose coordinates start at 1

Names may have the suffix of their image. Boxes x0, y0, x1, y1 have the same two forms of tables:
boxes.npz with 'names' and 'boxes' [N, 4], and boxes.csv.
"""

import csv
import functools
import pathlib
import re
import zipfile

import numpy as np

from segjax.core import text_files
from segjax.data import face_points
from segjax.data.image_files import COPY_AGAIN, IMAGE_SUFFIXES
from segjax.errors import InputError

TOLERANCE = 0.5
"""Landmarks may lie outside of the image by this share of its sides: parts of faces are cut off."""

_PTS = re.compile(r'\s*version:\s*\S+\s+n_points:\s*(\d+)\s*\{([^}]*)\}\s*')


def find_table(folder: pathlib.Path, stem: str) -> pathlib.Path | None:
    """Returns the file {stem}.npz or {stem}.csv of a folder, None without such a file.

    Raises:
      InputError: both files.
    """
    paths = [folder / f'{stem}{suffix}' for suffix in ('.npz', '.csv')]
    present = [path for path in paths if path.is_file()]
    if len(present) > 1:
        raise InputError(
            str(folder),
            got=' and '.join(path.name for path in present),
            expected='a single file with these values',
            fix=f'move {present[1]} away',
        )
    return present[0] if present else None


def read_table(path: pathlib.Path, key: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Reads a table of numbers by name, once for each state of the file.

    Args:
      path: of an .npz or .csv file.
      key: array of an .npz file with 'names'.
      shape: of each value, (68, 2) or (4,).

    Returns:
      {name without the suffix of an image: float32 of this shape}. Values are read-only.

    Raises:
      InputError: a damaged file, a name twice, or a value of another shape, with its name.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(str(path), got=str(error), expected='a readable file') from error
    return _read_table(path, key, shape, changed)


@functools.lru_cache(maxsize=8)
def _read_table(
    path: pathlib.Path, key: str, shape: tuple[int, ...], changed: int
) -> dict[str, np.ndarray]:
    """Reads a table that was changed at a time in nanoseconds. Arguments: `read_table`."""
    read = _npz_values if path.suffix == '.npz' else _csv_values
    try:
        values = read(path, key)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, csv.Error) as error:
        expected = f'a table of names with {int(np.prod(shape))} numbers each'
        raise InputError(str(path), got=str(error), expected=expected, fix=COPY_AGAIN) from error

    # Names of images may have a suffix.
    result: dict[str, np.ndarray] = {}
    for name, value in values:
        plain = pathlib.PurePosixPath(name)
        short = str(plain.with_suffix('')) if plain.suffix.lower() in IMAGE_SUFFIXES else name
        where = f'{name} in {path}'
        if short in result:
            raise InputError(where, got='a name twice', expected='every name once')
        result[short] = shaped(value, shape, where)
    return result


def shaped(value: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Returns a value as float32 of a shape, read-only.

    Raises:
      InputError: another number of landmarks, or of corners.
    """
    if value.size != int(np.prod(shape)) or (value.ndim == 2 and value.shape != shape):
        unit = 'landmarks' if len(shape) == 2 else 'numbers'
        number = value.size / (2 if len(shape) == 2 else 1)
        raise InputError(where, got=f'{number:g} {unit}', expected=f'{shape[0]} {unit}')
    result = value.astype(np.float32).reshape(shape)
    result.flags.writeable = False
    return result


def _npz_values(path: pathlib.Path, key: str) -> list[tuple[str, np.ndarray]]:
    """Returns (name, numbers) of an .npz file."""
    with np.load(path, allow_pickle=False) as arrays:
        if 'names' in arrays.files:
            names = arrays['names'].tolist()
            rows = arrays[key]
            if len(names) != len(rows):
                raise ValueError(f'{len(names)} names and {len(rows)} {key}')
            return list(zip(map(str, names), rows, strict=True))
        return [(name, arrays[name]) for name in arrays.files]


def _csv_values(path: pathlib.Path, key: str) -> list[tuple[str, np.ndarray]]:
    """Returns (name, numbers) of a .csv file. The first line is a header."""
    values = []
    lines = csv.reader(text_files.read(path).splitlines())
    next(lines, None)
    for line in lines:
        if line:
            numbers = [float(cell) if cell.strip() else np.nan for cell in line[1:]]
            values.append((line[0].strip(), np.array(numbers)))
    return values


def read_pts(path: pathlib.Path) -> np.ndarray:
    """Reads a file of 300-W, whose first pixel has the centre (1, 1).

    Returns:
      [68, 2] float32, in coordinates that start at 0.

    Raises:
      InputError: a file of another format, or with another number of landmarks.
    """
    expected = 'version: 1, n_points: 68, and a line "x y" for each landmark in braces'
    try:
        match = _PTS.fullmatch(text_files.read(path))
        if match is None:
            raise ValueError('no file of landmarks')
        numbers = np.array([float(word) for word in match[2].split()])
    except (OSError, ValueError) as error:
        raise InputError(str(path), got=str(error), expected=expected, fix=COPY_AGAIN) from error
    if numbers.size != 2 * int(match[1]):
        got = f'{numbers.size / 2:g} landmarks, but n_points: {match[1]}'
        raise InputError(str(path), got=got, expected=expected, fix=COPY_AGAIN)
    return shaped(numbers - 1, face_points.FEATURE.shape, str(path))


def check_places(points: np.ndarray, size: tuple[int, int], where: str) -> None:
    """Raises InputError for landmarks that are no pixels of the image.

    Args:
      points: [n, 2] landmarks, NaN for absent landmarks.
      size: (height, width) of the image.
      where: the name of the example and the file.
    """
    present = points[np.isfinite(points).all(axis=1)]
    if len(present) and (present >= 0).all() and (present <= 1).all():
        raise InputError(
            where,
            got='landmarks from 0 to 1',
            expected='pixels of the image',
            fix='multiply x by the width and y by the height of the image',
        )
    sides = np.array([size[1], size[0]])
    outside = (present < -TOLERANCE * sides) | (present > (1 + TOLERANCE) * sides)
    if outside.any():
        place = present[outside.any(axis=1)][0].tolist()
        raise InputError(
            where,
            got=f'a landmark at {place}, and {int(outside.any(axis=1).sum())} such landmarks',
            expected=f'places in or near the image of {size[1]}x{size[0]} pixels',
            fix='check that the landmarks belong to this image, at this size',
        )
