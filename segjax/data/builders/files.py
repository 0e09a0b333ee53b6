"""Reads image, label and instance files strictly: a file that is cut off, corrupt or of another kind is an error.

Pillow reads here, OpenCV in training: OpenCV turns palette indices into colours, and it fills what is missing of a
truncated file with grey.
"""

import io
import os
import pathlib
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from segjax.errors import InputError

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
EXIF_ORIENTATION = 0x0112
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg')
COPY_AGAIN = 'copy or download the file again'


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
    if data.startswith(PNG_SIGNATURE):
        _check_png_chunks(path, data)
    try:
        image = Image.open(io.BytesIO(data), formats=('PNG', 'JPEG'))
        image.load()
    except Image.UnidentifiedImageError as error:
        raise InputError(str(path), got='no PNG or JPEG image', expected='PNG or JPEG', fix='convert it') from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and struct.error for broken files
        fix = COPY_AGAIN
        raise InputError(str(path), got=f'a broken image: {error}', expected='a complete image', fix=fix) from error
    return data, image


def _check_png_chunks(path: pathlib.Path, data: bytes) -> None:
    """Walks the chunks (length, type, data, CRC) to IEND: decoders accept files whose end is missing."""
    at = len(PNG_SIGNATURE)
    kind = b''
    while kind != b'IEND':
        if at + 12 > len(data):
            raise _cut_off(path, len(data), 'before its IEND chunk')
        length, kind = struct.unpack('>I4s', data[at : at + 8])
        end = at + 12 + length
        if end > len(data):
            raise _cut_off(path, len(data), f'inside a chunk that ends at byte {end}')
        if zlib.crc32(data[at + 4 : end - 4]) != struct.unpack('>I', data[end - 4 : end])[0]:
            got = f'a corrupt PNG: wrong checksum in the chunk at byte {at}'
            raise InputError(str(path), got=got, expected='an intact PNG', fix=COPY_AGAIN)
        at = end


def _cut_off(path: pathlib.Path, size: int, how: str) -> InputError:
    return InputError(
        str(path), got=f'a truncated PNG: {size} bytes, ending {how}', expected='a complete PNG', fix=COPY_AGAIN
    )


def _png_bit_depth(data: bytes) -> int:
    return data[24] if data.startswith(PNG_SIGNATURE) else 8


def read_image(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
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
    if _png_bit_depth(data) == 16 or image.mode not in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA'):
        kind = '16-bit PNG' if _png_bit_depth(data) == 16 else f'colour mode {image.mode}'
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
        return ids // {2: 85, 4: 17, 8: 1}[_png_bit_depth(data)]
    return ids.astype(np.uint8 if image.mode in ('1', 'P') else np.uint16)


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of [H, W] uint8 or uint16, or of [H, W, 3] uint8 RGB; level 1 is the fast end of the scale."""
    if array.ndim == 3:
        array = array[..., ::-1]
    ok, data = cv2.imencode('.png', np.ascontiguousarray(array), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise RuntimeError(f'cannot encode an array of shape {array.shape} and type {array.dtype} as PNG')
    return data.tobytes()


def find(folder: pathlib.Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[pathlib.Path]:
    """Files below `folder` with one of the suffixes, sorted by path; hidden ones are left out.

    Raises:
      InputError: if there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(str(folder), got='no such folder', expected='a folder', fix='check config.data.root')
    found = []
    for parent, _, names in os.walk(folder, followlinks=True):  # large sets are often links to another disk
        paths = (pathlib.Path(parent, name) for name in names if not name.startswith('.'))
        found += [path for path in paths if path.suffix.lower() in suffixes]
    return sorted(found)
