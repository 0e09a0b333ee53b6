"""Folders of saved posteriors, from a net that segjax never sees.

An image is a file <folder>/<name>.npz with

    posteriors  [H, W, C] float, which sum to 1 over C
    label       [H, W] integer train ids 0 .. C-1, 255 where no class counts
    classes     [C] names of the classes (optional)
"""

import contextlib
import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from segjax.data.builders import base
from segjax.errors import InputError
from segjax.modes.audit import defences, members
from segjax.modes.audit.measure import Measured, Record, sums
from segjax.spec import IGNORE
from segjax.train.stop import Preempted, StopSignal

KEYS = ('posteriors', 'label')
CLASSES = 'classes'
TOLERANCE = 0.01
"""Largest difference between a sum of posteriors and 1. Float16 has three digits."""

SIDE = 64
"""Images are padded to multiples of SIDE rows and columns, so that few programs are compiled."""

EXPECTED = 'posteriors [H, W, C] float and label [H, W] integer'

Header = tuple[tuple[int, ...], np.dtype]
"""Shape and type of an array in a file."""


class Folder(NamedTuple):
    """A folder whose files have been checked without their values.

    path     of the folder
    names    of the images, sorted
    classes  names of the classes
    """

    path: pathlib.Path
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def file(self, name: str) -> pathlib.Path:
        """Returns the file of an image."""
        return self.path / f'{name}{members.SUFFIX}'


class _Answer(NamedTuple):
    """A file that has been read: posteriors [H, W, C] float32, label [H, W] int32, a digest."""

    posteriors: np.ndarray
    label: np.ndarray
    digest: bytes


# --- opening --------------------------------------------------------------------------------------


def names_in(path: pathlib.Path, flag: str = '--posteriors') -> tuple[str, ...]:
    """Returns the names of the images of a folder, sorted. Sub-folders are part of a name.

    Raises:
      InputError: no such folder, or no file of posteriors.
    """
    files = sorted(path.rglob(f'*{members.SUFFIX}')) if path.is_dir() else []
    if not files:
        raise InputError(
            f'{flag} {path}',
            got='no .npz file' if path.is_dir() else 'no such folder',
            expected=f'a folder of .npz files with {EXPECTED}',
        )
    return tuple(str(file.relative_to(path).with_suffix('').as_posix()) for file in files)


def open_folder(path: pathlib.Path, names: Sequence[str]) -> Folder:
    """Checks shapes and types of the files of images, and the values of the first and the last.

    Args:
      path: of the folder.
      names: of the images that are asked about, members first. All files exist.

    Raises:
      InputError: a file that is damaged, lacks an array, or has another shape, type or number of
        classes. Or an error of `read` in the first or the last file.
    """
    folder = Folder(path, tuple(names), ())
    headers = {name: _headers(folder.file(name)) for name in names}
    for name, header in headers.items():
        _check_shapes(folder.file(name), header)
    num_classes = headers[names[0]]['posteriors'][0][-1]
    for name, header in headers.items():
        own = header['posteriors'][0][-1]
        if own != num_classes:
            raise InputError(
                str(folder.file(name)),
                got=f'posteriors of {own} classes',
                expected=f'{num_classes} classes, as in {folder.file(names[0])}',
            )

    # The usual mistakes, such as logits in place of posteriors, are in all files.
    for name in (names[0], names[-1]):
        read(folder.file(name))
    return folder._replace(classes=_class_names(folder.file(names[0]), num_classes))


def _headers(path: pathlib.Path) -> dict[str, Header]:
    """Returns shape and type of each array of a file, without reading the values."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                with archive.open(entry) as file:
                    headers[entry.removesuffix('.npy')] = _header(file)
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
        raise _damaged(path, error) from error
    for key in KEYS:
        if key not in headers:
            raise InputError(
                str(path),
                got=f'no array {key!r}, but ' + (', '.join(map(repr, headers)) or 'nothing'),
                expected=EXPECTED,
                fix='np.savez_compressed(path, posteriors=posteriors, label=label)',
            )
    return headers


def _header(file) -> Header:
    """Returns shape and type of an open .npy file."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read_header = np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    return shape, dtype


def _damaged(path: pathlib.Path, error: Exception) -> InputError:
    """Returns the error for a file that cannot be read."""
    got = 'no such file' if isinstance(error, FileNotFoundError) else f'damaged: {error}'
    return InputError(str(path), got=got, expected=f'an .npz file with {EXPECTED}')


def _check_shapes(path: pathlib.Path, headers: Mapping[str, Header]) -> None:
    """Raises InputError for arrays of a wrong shape or type, or of different sizes."""
    shape, dtype = headers['posteriors']
    label_shape, label_dtype = headers['label']
    # Each array by itself, then both together.
    if len(shape) != 3 or dtype.kind != 'f' or shape[-1] < 2 or 0 in shape:
        raise InputError(
            str(path),
            got=f'posteriors {list(shape)} {dtype}',
            expected='[H, W, C] float, with two classes or more',
        )
    if len(label_shape) != 2 or label_dtype.kind not in 'iu':
        raise InputError(
            str(path),
            got=f'label {list(label_shape)} {label_dtype}',
            expected='[H, W] integer train ids',
        )
    if shape[:2] != label_shape:
        fix = 'save the label at the size of the posteriors, by nearest neighbours'
        if shape[1:] == label_shape:
            fix = 'save posteriors.transpose(1, 2, 0), because classes come last'
        raise InputError(
            str(path),
            got=f'posteriors {list(shape)}, label {list(label_shape)}',
            expected='posteriors [H, W, C] and label [H, W] of one size',
            fix=fix,
        )


def _class_names(path: pathlib.Path, num_classes: int) -> tuple[str, ...]:
    """Returns the names of the classes of a file, or numbers."""
    with np.load(path) as arrays:
        names = arrays[CLASSES].tolist() if CLASSES in arrays.files else None
    if names is None:
        return tuple(f'class {number}' for number in range(num_classes))
    if len(names) != num_classes or len({str(name) for name in names}) != num_classes:
        raise InputError(
            str(path),
            got=f'{len(names)} names in classes',
            expected=f'{num_classes} different names, one for each posterior',
        )
    return tuple(str(name) for name in names)


# --- values ---------------------------------------------------------------------------------------


def read(path: pathlib.Path) -> _Answer:
    """Reads a file.

    Raises:
      InputError: damage, NaN, logits or logarithms, posteriors that do not sum to 1, or a label
        that is no class.
    """
    try:
        with np.load(path) as arrays:
            posteriors = np.ascontiguousarray(arrays['posteriors'], np.float32)
            label = arrays['label'].astype(np.int32)
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError) as error:
        raise _damaged(path, error) from error
    _check_posteriors(path, posteriors)
    _check_label(path, label, posteriors.shape[-1])
    content = hashlib.blake2b(str(posteriors.shape).encode(), digest_size=8)
    content.update(posteriors)
    return _Answer(posteriors, label, content.digest())


def _check_posteriors(path: pathlib.Path, posteriors: np.ndarray) -> None:
    """Raises InputError for values that are no probabilities."""
    where = f'{path}: posteriors'
    if not np.isfinite(posteriors).all():
        kind = 'NaN' if np.isnan(posteriors).any() else 'an infinite value'
        raise InputError(where, got=kind, expected='numbers in [0, 1] that sum to 1')
    low = float(posteriors.min())
    high = float(posteriors.max())
    total = posteriors.sum(-1)
    if low >= -TOLERANCE and np.abs(total - 1).max() <= TOLERANCE:
        return
    # Name the usual mistakes. Values above 1 without a sign may be logits or scaled posteriors.
    got = f'sums over the classes from {total.min():.3g} to {total.max():.3g}'
    fix = 'posteriors / posteriors.sum(-1, keepdims=True)'
    if high > 1 + TOLERANCE:
        got = f'values from {low:.3g} to {high:.3g}, and {got}'
        fix = f'save softmax(logits, axis=-1) if they are logits, else {fix}'
    if low < -TOLERANCE:
        got = f'values from {low:.3g} to {high:.3g}, which are logits'
        fix = 'save softmax(logits, axis=-1)'
    if high <= 0 and np.abs(np.exp(posteriors).sum(-1) - 1).max() <= TOLERANCE:
        got = f'values from {low:.3g} to {high:.3g}, which are logarithms of posteriors'
        fix = 'save np.exp(log_posteriors)'
    raise InputError(where, got=got, expected='numbers in [0, 1] that sum to 1', fix=fix)


def _check_label(path: pathlib.Path, label: np.ndarray, num_classes: int) -> None:
    """Raises InputError for labels that are neither classes nor 255."""
    wrong = label[((label < 0) | (label >= num_classes)) & (label != IGNORE)]
    if wrong.size:
        raise InputError(
            f'{path}: label',
            got=f'{int(wrong[0])}, for posteriors of {num_classes} classes',
            expected=f'train ids 0 .. {num_classes - 1}, or {IGNORE} where no class counts',
            fix='save train ids in the order of the posteriors',
        )


# --- measuring ------------------------------------------------------------------------------------


def measure(folder: Folder, asked: members.Asked, stop: StopSignal) -> Measured:
    """Measures the posteriors of all images that are asked about.

    Args:
      folder: holds the files.
      asked: images and members.
      stop: asked between images.

    Raises:
      InputError: an error of `read`.
      Preempted: the process was told to stop.
    """
    record = Record(folder.classes)
    of_file = jax.jit(sums)
    paths = [folder.file(name) for name in asked.names]
    with contextlib.closing(base.ordered_map(read, paths)) as files:
        for name, member, answer in zip(asked.names, asked.member, files, strict=True):
            if stop.reached():
                raise Preempted(f'{folder.path} was being measured')
            posteriors, label = _padded(answer)
            keys = defences.key_of_digest(answer.digest)[None]
            numbers = jax.device_get(of_file(posteriors[None], label[None], keys))
            record.add(name, bool(member), jax.tree.map(lambda values: values[0], numbers))
    return record.measured()


def _padded(answer: _Answer) -> tuple[np.ndarray, np.ndarray]:
    """Pads posteriors and label to multiples of SIDE. The padding has no label."""
    height, width, num_classes = answer.posteriors.shape
    margins = [(0, -height % SIDE), (0, -width % SIDE)]
    posteriors = np.pad(answer.posteriors, [*margins, (0, 0)], constant_values=1 / num_classes)
    return posteriors, np.pad(answer.label, margins, constant_values=IGNORE)
