"""Image and label files: which there are, whether they are whole, and what is in them.

Two readers. `read_encoded`, `read_ids` serve data sets, once, when records are prepared: strictly, with Pillow, because
OpenCV turns palette indices into colours and fills what is missing of a truncated file with grey. `find_images`,
`read_image` serve folders of photographs of any origin: every file's structure is looked at first (PNG and JPEG are not
decoded), so that a folder of thousands is checked in seconds and one bad file does not end a run in its middle.
"""

import io
import mmap
import os
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np
from absl import logging
from PIL import Image

from segjax.errors import InputError

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
EXIF_ORIENTATION = 0x0112
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg')
PHOTO_SUFFIXES = (*IMAGE_SUFFIXES, '.bmp', '.tif', '.tiff', '.webp', '.ppm')
COPY_AGAIN = 'copy or download the file again'
MAX_PIXELS = int(os.environ.get('OPENCV_IO_MAX_IMAGE_PIXELS', 1 << 30))  # OpenCV reads no larger image


# --- folders ----------------------------------------------------------------------------------------------------------


def find(folder: pathlib.Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[pathlib.Path]:
    """Files below `folder` with one of the suffixes, sorted by path; hidden files and folders are left out.

    Raises:
      InputError: if there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(str(folder), got='no such folder', expected='a folder', fix='check config.data.root')
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):  # large sets are often links to another disk
        folders[:] = [name for name in folders if not name.startswith('.')]
        paths = (pathlib.Path(parent, name) for name in names if not name.startswith('.'))
        found += [path for path in paths if path.suffix.lower() in suffixes]
    return sorted(found)


def by_name(paths: Iterable[pathlib.Path], name_of: Callable[[pathlib.Path], str]) -> dict[str, pathlib.Path]:
    """Files by name; raises InputError where two have the same one."""
    found: dict[str, pathlib.Path] = {}
    for path in paths:
        name = name_of(path)
        if name in found:
            got, fix = f'the same name as {found[name]}', 'rename or move one of them'
            raise InputError(str(path), got=got, expected='one file per name', fix=fix)
        found[name] = path
    return found


def by_relative_name(folder: pathlib.Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, pathlib.Path]:
    """Files below `folder` by their path there without extension, with '/'."""
    return by_name(find(folder, suffixes), lambda path: path.relative_to(folder).with_suffix('').as_posix())


# --- files of data sets -----------------------------------------------------------------------------------------------


def open_image(path: pathlib.Path) -> tuple[bytes, Image.Image]:
    """The bytes of a PNG or JPEG file and the completely decoded image.

    Raises:
      InputError: naming the file, if it is missing, cut off, corrupt or no PNG or JPEG.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), got=str(error), expected='a readable file') from error
    if not data:
        raise InputError(str(path), got='an empty file', expected='a PNG or JPEG image', fix=COPY_AGAIN)
    problem = png_problem(data, checksums=True) if data.startswith(PNG_SIGNATURE) else ''
    if problem:
        raise InputError(str(path), got=problem, expected='a complete PNG', fix=COPY_AGAIN)
    try:
        image = Image.open(io.BytesIO(data), formats=('PNG', 'JPEG'))
        image.load()
    except Image.UnidentifiedImageError as error:
        raise InputError(str(path), got='no PNG or JPEG image', expected='PNG or JPEG', fix='convert it') from error
    except Image.DecompressionBombError as error:
        expected = f'at most {2 * Image.MAX_IMAGE_PIXELS} pixels'
        raise InputError(str(path), got=str(error), expected=expected, fix='cut the image into several') from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and struct.error for broken files
        fix = COPY_AGAIN
        raise InputError(str(path), got=f'a broken image: {error}', expected='a complete image', fix=fix) from error
    return data, image


def png_problem(data: bytes | mmap.mmap, checksums: bool) -> str:
    """What is wrong with a PNG file, '' if nothing: walks the chunks (length, type, data, CRC) to IEND.

    Decoders accept files whose end is missing. What stands behind IEND does no harm. Without `checksums` only the
    heads of the chunks are read.
    """
    at = len(PNG_SIGNATURE)
    kind = b''
    while kind != b'IEND':
        if at + 12 > len(data):
            return f'a truncated PNG: {len(data)} bytes, ending before its IEND chunk'
        length, kind = struct.unpack('>I4s', data[at : at + 8])
        end = at + 12 + length
        if end > len(data):
            return f'a truncated PNG: {len(data)} bytes, ending inside a chunk that ends at byte {end}'
        if checksums and zlib.crc32(data[at + 4 : end - 4]) != struct.unpack('>I', data[end - 4 : end])[0]:
            return f'a corrupt PNG: wrong checksum in the chunk at byte {at}'
        at = end
    return ''


def _bit_depth(data: bytes | mmap.mmap) -> int:
    return data[24] if data[:8] == PNG_SIGNATURE else 8


def read_encoded(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
    """An encoded 8-bit RGB image and its (height, width).

    RGB files are returned byte for byte; grey, palette and RGBA images are stored as RGB PNG (alpha is dropped).

    Raises:
      InputError: as `open_image`; for 16-bit or CMYK images; for an EXIF rotation, which some tools apply and some do
        not, so that image and label may disagree.
    """
    data, image = open_image(path)
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation != 1:
        raise InputError(
            str(path),
            got=f'an image to be rotated when shown (EXIF orientation {orientation})',
            expected='pixels in their final order',
            fix='apply the rotation to the pixels (mogrify -auto-orient) and see that the labels agree',
        )
    if _bit_depth(data) == 16 or image.mode not in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA'):
        kind = '16-bit PNG' if _bit_depth(data) == 16 else f'colour mode {image.mode}'
        raise InputError(str(path), got=f'an image in {kind}', expected='8-bit RGB, grey or palette', fix='convert it')
    if image.mode == 'RGB' and 'transparency' not in image.info:
        return data, (image.height, image.width)
    return encode_png(np.asarray(image.convert('RGB'))), (image.height, image.width)


def read_ids(path: pathlib.Path) -> np.ndarray:
    """The ids of a label or instance file: [H, W] uint8 or uint16; [H, W, 3] uint8 where the file is in colour.

    The values are those in the file: palette images give indices and grey levels of less than 8 bits are not spread.

    Raises:
      InputError: as `open_image`; for JPEG, whose compression changes ids.
    """
    data, image = open_image(path)
    if image.format != 'PNG':
        raise InputError(
            str(path), got=f'a label in {image.format}', expected='PNG', fix='export the labels again: JPEG changes ids'
        )
    if image.mode in ('RGB', 'RGBA'):
        return np.asarray(image.convert('RGB'))
    if image.mode not in ('1', 'L', 'P', 'I;16', 'I'):
        raise InputError(str(path), got=f'a label in colour mode {image.mode}', expected='one channel of ids')
    ids = np.asarray(image)
    if image.mode == 'L':
        # Pillow spreads 2 and 4 bit grey over 0..255.
        return ids // {2: 85, 4: 17, 8: 1}[_bit_depth(data)]
    return ids.astype(np.uint8 if image.mode in ('1', 'P') else np.uint16)


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of [H, W] uint8 or uint16, or of [H, W, 3] uint8 RGB; level 1 is the fast end of the scale."""
    if array.ndim == 3:
        array = array[..., ::-1]
    ok, data = cv2.imencode('.png', np.ascontiguousarray(array), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise RuntimeError(f'cannot encode an array of shape {array.shape} and type {array.dtype} as PNG')
    return data.tobytes()


# --- folders of photographs -------------------------------------------------------------------------------------------


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
    sources = [Source(path, name) for name, path in by_relative_name(folder, PHOTO_SUFFIXES).items()]
    if not sources:
        raise InputError('--input', got=f'no image in {folder}', expected='files ' + ' '.join(PHOTO_SUFFIXES))
    check_files(sources)
    return sources


def check_files(sources: list[Source]) -> None:
    """Looks at every file without decoding more than it must; raises InputError that names all bad ones."""
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
    """(what is wrong with an image file or '', whether it has an alpha channel); PNG and JPEG are not decoded."""
    if path.stat().st_size < 32:
        return f'{path.stat().st_size} bytes are no image', False
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:8] == PNG_SIGNATURE:
            width, height = struct.unpack('>II', data[16:24])
            if width * height > MAX_PIXELS:
                return f'{width}x{height} pixels, more than {MAX_PIXELS}; cut it into several', False
            problem = deep('16') if _bit_depth(data) == 16 else png_problem(data, checksums=False)
            return problem, data[25] in (4, 6)  # colour types with alpha
        if data[:3] == b'\xff\xd8\xff':
            whole = data.rfind(b'\xff\xd9') > start_of_scan(data)
            return '' if whole else 'truncated JPEG (no end-of-image marker)', False
        image = _decoded(data[:], cv2.IMREAD_UNCHANGED)
    if image is None:
        return 'cannot be decoded', False
    if image.dtype != np.uint8:
        return deep(str(8 * image.itemsize)), False
    return '', image.ndim == 3 and image.shape[2] == 4


def deep(bits: str) -> str:
    """16-bit images are refused: how to expose them (linear? which white?) is not ours to guess."""
    return f'{bits} bits per channel; convert it to 8 with the exposure the net was trained on'


def start_of_scan(data: mmap.mmap) -> int:
    """Where a JPEG's pixels begin: behind its headers, whose thumbnail may hold an end-of-image marker of its own."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return at


def _decoded(data: bytes, flags: int) -> np.ndarray | None:
    """Returns the pixels of an encoded image, None if OpenCV cannot read it or finds it too large."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.STS_NO_MEM:
            raise
        return None


def read_image(path: pathlib.Path) -> np.ndarray | None:
    """[H, W, 3] uint8 RGB, upright by its EXIF orientation, gray repeated, alpha dropped; None if damaged."""
    image = _decoded(path.read_bytes(), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
