"""Folders of photographs: which files are images, whether they are whole, and their pixels.

Checks come before pixels: `find_images` looks at the head and the end of every file (a PNG or JPEG is not decoded), so
that a folder of thousands is checked in seconds and one bad file does not end a run in its middle.
"""

import mmap
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
from absl import logging

from segjax.errors import InputError

EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')


class Source(NamedTuple):
    """One image of the input folder; `name` is its path below that folder without extension, with '/'."""

    path: pathlib.Path
    name: str


def find_images(folder: pathlib.Path) -> list[Source]:
    """All images below a folder, sorted; hidden files are left out.

    Raises InputError for a missing or empty folder, two images that want the same output name, and files that are
    no whole 8-bit images (all of them are named).
    """
    if not folder.is_dir():
        raise InputError('--input', got=str(folder), expected='an existing folder of images')
    paths = sorted(p for p in folder.rglob('*') if p.suffix.lower() in EXTENSIONS and is_visible(p, folder))
    if not paths:
        raise InputError('--input', got=f'no image in {folder}', expected='files ' + ' '.join(EXTENSIONS))
    sources = [Source(p, p.relative_to(folder).with_suffix('').as_posix()) for p in paths]
    check_names(sources)
    check_files(sources)
    return sources


def is_visible(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """A file that is not hidden and lies in no hidden folder."""
    return path.is_file() and not any(part.startswith('.') for part in path.relative_to(folder).parts)


def check_names(sources: list[Source]) -> None:
    """Raises InputError where two images differ in their extension only."""
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(source.name, source)
        if other is not source:
            raise InputError(
                str(source.path),
                got=f'the same name as {other.path.name}',
                expected=f'one image per output file {source.name}.png',
                fix='rename or move one of them',
            )


def check_files(sources: list[Source]) -> None:
    """Looks at the head and the end of every file; raises InputError that names all bad ones."""
    found = [(source, *inspect(source.path)) for source in sources]
    bad = [f'{source.path}: {problem}' for source, problem, _ in found if problem]
    if bad:
        raise InputError(
            f'{len(bad)} of {len(sources)} images',
            got='\n            '.join(bad),
            expected='whole PNG, JPEG, BMP, TIFF, WebP or PPM files with 8 bits per channel',
            fix='replace, convert or move them',
        )
    with_alpha = [source for source, _, alpha in found if alpha]
    if with_alpha:
        logging.warning(
            '%d images have an alpha channel, which is dropped; the first is %s',
            len(with_alpha),
            with_alpha[0].path,
        )


def inspect(path: pathlib.Path) -> tuple[str, bool]:
    """(what is wrong with an image file or '', whether it has an alpha channel); PNG and JPEG are not
    decoded."""
    if path.stat().st_size < 32:
        return f'{path.stat().st_size} bytes are no image', False
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:8] == b'\x89PNG\r\n\x1a\n':
            depth, colour = data[24], data[25]
            if depth == 16:
                return deep('16'), False
            return '' if data.rfind(b'IEND') > 0 else 'truncated PNG (no IEND chunk)', colour in (4, 6)
        if data[:3] == b'\xff\xd8\xff':
            whole = data.rfind(b'\xff\xd9') > start_of_scan(data)
            return '' if whole else 'truncated JPEG (no end-of-image marker)', False
        image = cv2.imdecode(np.frombuffer(data[:], np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        return 'cannot be decoded', False
    if image.dtype != np.uint8:
        return deep(str(8 * image.itemsize)), False
    return '', image.ndim == 3 and image.shape[2] == 4


def deep(bits: str) -> str:
    """16-bit images are refused: how to expose them (linear? which white?) is not ours to guess."""
    return f'{bits} bits per channel; convert it to 8 with the exposure the net was trained on'


def start_of_scan(data: mmap.mmap) -> int:
    """Where a JPEG's pixels begin: behind its headers, whose thumbnail may hold an end-of-image marker of
    its own."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return at


def read_image(path: pathlib.Path) -> np.ndarray | None:
    """[H, W, 3] uint8 RGB, upright by its EXIF orientation, gray repeated, alpha dropped; None if damaged."""
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
