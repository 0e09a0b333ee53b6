"""Finds, checks and reads image and label files.

There are two readers. `read_encoded` and `read_ids` serve data sets, once, when records are
prepared. They are strict and use Pillow, because OpenCV turns palette indices into colours and
fills the missing part of a truncated file with grey.

`find_images` and `read_image` serve folders of photographs of any origin. The structure of every
file is checked first, and PNG and JPEG are not decoded. So a folder of thousands is checked in
seconds, and a bad file does not end a run in its middle.
"""

import collections
import io
import mmap
import os
import pathlib
import shlex
import stat
import struct
import sys
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from segjax.core.notes import Note, tell
from segjax.errors import InputError

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
EXIF_ORIENTATION = 0x0112
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
PHOTO_SUFFIXES = (*IMAGE_SUFFIXES, '.ppm')
FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP')
MASK_FORMATS = ('PNG', 'BMP', 'TIFF')
SYSTEM_FILES = ('thumbs.db', 'desktop.ini')
LOSSY_TIFF = ('jpeg', 'tiff_jpeg', 'webp')
BITS_PER_SAMPLE = 258  # tag of TIFF
COPY_AGAIN = 'copy or download the file again'
MAX_PIXELS = int(os.environ.get('OPENCV_IO_MAX_IMAGE_PIXELS', 1 << 30))
"""OpenCV reads no larger image."""


# --- folders --------------------------------------------------------------------------------------


def find(folder: pathlib.Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[pathlib.Path]:
    """Returns the files below `folder` that have one of the suffixes, sorted by path.

    Hidden files and folders are skipped.

    Raises:
      InputError: a missing folder, links and folders that cannot be followed, or names that are no
        UTF-8.
    """
    return [path for path in _walk(folder) if path.suffix.lower() in suffixes]


def find_unread(
    folder: pathlib.Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> list[pathlib.Path]:
    """Returns the files below `folder` that `find` skips because of their suffix.

    Hidden files and files of operating systems are skipped.
    """
    unread = [path for path in _walk(folder) if path.suffix.lower() not in suffixes]
    return [path for path in unread if path.name.lower() not in SYSTEM_FILES]


def unread_note(folder: pathlib.Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Note]:
    """Returns a note if a folder holds files that are not read, with the number of each kind."""
    try:
        unread = find_unread(folder, suffixes)
    except InputError:  # `find` raises the same error
        return []
    if not unread:
        return []
    kinds = collections.Counter(path.suffix.lower() or 'without suffix' for path in unread)
    shown = ', '.join(f'{number} {kind}' for kind, number in kinds.most_common())
    message = f'passed over, not {", ".join(suffixes)}: {shown}; the first is {unread[0].name}'
    return [Note(str(folder), message, 'convert images among them to PNG')]


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders in a folder, sorted, without hidden folders."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.')
    )


def _walk(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns all files below a folder that are not hidden, sorted by path.

    Raises:
      InputError: a missing folder, links and folders that cannot be followed, or names that are no
        UTF-8.
    """
    if not folder.is_dir():
        raise InputError(
            str(folder),
            got='no such folder',
            expected='a folder',
            fix=f'put the files into {folder}, or set --config.data.root to another folder',
        )
    files = []
    # Follow links, because large data sets are often links to another disk.
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        # Changing `folders` in place keeps `os.walk` away from hidden folders.
        folders[:] = [name for name in folders if not name.startswith('.')]
        below = [pathlib.Path(parent, name) for name in folders]
        paths = [pathlib.Path(parent, name) for name in names if not name.startswith('.')]
        for path in [*paths, *below]:
            _check_name(path)
        for path in below:
            _check_loop(path)
        for path in paths:
            _check_target(path)
        files += paths
    return sorted(files)


def check_links(folder: pathlib.Path) -> None:
    """Raises InputError for a broken link in a folder that may have been meant as a folder."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith('.'):
            _check_target(path)


def _check_target(path: pathlib.Path) -> None:
    """Raises InputError for a broken link without a suffix."""
    if not path.suffix and path.is_symlink() and not path.exists():
        got = f'a link to {os.readlink(path)}, which does not exist'
        raise InputError(
            str(path), got=got, expected='a folder or a file', fix=f'rm {shlex.quote(str(path))}'
        )


def _refuse_folder(error: OSError) -> None:
    """Raises InputError for a folder that cannot be listed."""
    where = printable(error.filename)
    fix = 'change its permissions, or move it away'
    raise InputError(
        where, got=str(error.strerror), expected='a folder that can be read', fix=fix
    ) from error


def _check_loop(folder: pathlib.Path) -> None:
    """Raises InputError for a link to a folder that contains the link.

    Following it would list every file many times.
    """
    if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
        got = f'a link to {folder.resolve()}, which contains the link'
        raise InputError(
            str(folder),
            got=got,
            expected='links to other folders',
            fix=f'remove the link: rm {shlex.quote(str(folder))}',
        )


def printable(path: str | os.PathLike) -> str:
    """Returns a path as text. Bytes that are no UTF-8 are shown as \\xdf."""
    return os.fsencode(path).decode('utf-8', 'backslashreplace')


def _check_name(path: pathlib.Path) -> None:
    """Raises InputError for a name that is no UTF-8, or that Python does not read as UTF-8."""
    encoding = sys.getfilesystemencoding()
    if encoding != 'utf-8' and not path.name.isascii():
        got = f'a name that Python reads in the encoding {encoding}'
        raise InputError(
            printable(path), got=got, expected='names in UTF-8', fix='export PYTHONUTF8=1'
        )
    try:
        path.name.encode('utf-8')
    except UnicodeEncodeError as error:
        got = 'a name that is no UTF-8'
        fix = 'rename it; convmv -f latin1 -t utf8 --notest -r FOLDER renames all files of a folder'
        raise InputError(printable(path), got=got, expected='names in UTF-8', fix=fix) from error


def by_name(
    paths: Iterable[pathlib.Path], name_of: Callable[[pathlib.Path], str]
) -> dict[str, pathlib.Path]:
    """Returns files by name in Unicode form NFC.

    Some systems store decomposed letters, and some do not.

    Raises:
      InputError: two files have the same name.
    """
    files: dict[str, pathlib.Path] = {}
    for path in paths:
        name = unicodedata.normalize('NFC', name_of(path))
        if name in files:
            got = f'the same name as {files[name]}'
            if name_of(path) != name_of(files[name]):
                got += ' except for the Unicode form of its letters'
            raise InputError(
                str(path), got=got, expected='one file per name', fix='rename or move one of them'
            )
        files[name] = path
    return files


def relative_name(path: pathlib.Path, folder: pathlib.Path) -> str:
    """Returns the path below `folder` without extension. Its separator is '/'."""
    return path.relative_to(folder).with_suffix('').as_posix()


def by_relative_name(
    folder: pathlib.Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> dict[str, pathlib.Path]:
    """Returns the files below `folder` by `relative_name`."""
    return by_name(find(folder, suffixes), lambda path: relative_name(path, folder))


# --- files of data sets ---------------------------------------------------------------------------


def open_image(path: pathlib.Path) -> tuple[bytes, Image.Image]:
    """Returns the bytes of an image file and the completely decoded image.

    Raises:
      InputError: the file is missing, truncated, corrupt or of another format, has several
        pictures, or must be rotated when shown.
    """
    # Decoders accept truncated PNG files, so their structure is checked here.
    data = _read_bytes(path)
    problem = png_problem(data, checksums=True) if data.startswith(PNG_SIGNATURE) else ''
    if problem:
        raise InputError(str(path), got=problem, expected='a complete PNG', fix=COPY_AGAIN)

    image, number = _decode_all(path, data)
    if number > 1:
        raise InputError(
            str(path),
            got=f'{number} pictures in a file',
            expected='a single picture',
            fix='save each of them as a file of its own',
        )
    _check_upright(path, image)
    return data, image


def _decode_all(path: pathlib.Path, data: bytes) -> tuple[Image.Image, int]:
    """Returns the decoded image of a file, and its number of pictures.

    Raises:
      InputError: no image, a broken image, or too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        number = num_pictures(image)
        image.load()
    except Image.UnidentifiedImageError as error:
        raise InputError(
            str(path),
            got='no PNG or JPEG image, nor BMP, TIFF or WebP',
            expected=', '.join(FORMATS),
            fix='convert it to PNG',
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            str(path),
            got=str(error),
            expected=f'at most {2 * Image.MAX_IMAGE_PIXELS} pixels',
            fix='cut the image into several',
        ) from error
    # Pillow raises OSError, SyntaxError, ValueError and struct.error for broken files.
    except Exception as error:
        raise InputError(
            str(path),
            got=f'a broken image: {error}',
            expected='a complete image',
            fix=COPY_AGAIN,
        ) from error
    return image, number


def _read_bytes(path: pathlib.Path) -> bytes:
    """Reads a regular file.

    Raises:
      InputError: the file cannot be read, is empty, or is no regular file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for its writer
            raise InputError(
                str(path), got='no regular file', expected='an image file', fix='move it away'
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), got=str(error), expected='a readable file') from error
    if not data:
        raise InputError(
            str(path), got='an empty file', expected='a PNG or JPEG image', fix=COPY_AGAIN
        )
    return data


def num_pictures(image: Image.Image) -> int:
    """Returns the number of pages or frames. Previews that cameras add to JPEG do not count."""
    return 1 if image.format in ('JPEG', 'MPO') else getattr(image, 'n_frames', 1)


def _check_upright(path: pathlib.Path, image: Image.Image) -> None:
    """Raises InputError for an EXIF rotation.

    Not all tools apply it, so image and label may disagree.
    """
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation != 1:
        raise InputError(
            str(path),
            got=f'an image to be rotated when shown (EXIF orientation {orientation})',
            expected='pixels in their final order',
            fix='apply the rotation to the pixels (mogrify -auto-orient), and compare the labels',
        )


def png_problem(data: bytes | mmap.mmap, checksums: bool) -> str:
    """Returns a description of the damage to a PNG file, '' if it is whole.

    Reads the chunks (length, type, data, CRC) up to IEND. Decoders accept files whose end is
    missing. Bytes behind IEND do no harm.

    Args:
      data: content of the file.
      checksums: whether to compare checksums. Otherwise only the heads of the chunks are read.
    """
    start = len(PNG_SIGNATURE)
    kind = b''
    while kind != b'IEND':
        # Length and type of the chunk at byte `start`.
        if start + 12 > len(data):
            return f'a truncated PNG: {len(data)} bytes, ending before its IEND chunk'
        length, kind = struct.unpack('>I4s', data[start : start + 8])
        end = start + 12 + length
        if end > len(data):
            return (
                f'a truncated PNG: {len(data)} bytes, ending inside a chunk that ends at byte {end}'
            )

        # The checksum covers type and data.
        if checksums:
            (stored,) = struct.unpack('>I', data[end - 4 : end])
            if zlib.crc32(data[start + 4 : end - 4]) != stored:
                return f'a corrupt PNG: wrong checksum in the chunk at byte {start}'
        start = end
    return ''


def _bit_depth(data: bytes | mmap.mmap) -> int:
    """Returns the bits of a sample in a PNG file, and 8 for all remaining formats."""
    return data[24] if data[:8] == PNG_SIGNATURE else 8


def _bits(data: bytes, image: Image.Image) -> int:
    """Returns the bits of a sample in a file. Pillow reduces some files of 16 bits to 8."""
    if image.format == 'TIFF':
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    return _bit_depth(data)


def read_encoded(path: pathlib.Path) -> tuple[bytes, tuple[int, int], tuple[Note, ...]]:
    """Returns an encoded 8-bit RGB image, its (height, width), and notes.

    PNG and JPEG in RGB are returned byte for byte. All remaining images are stored as RGB PNG, and
    alpha is dropped. Notes name differences from the image in a viewer.

    Raises:
      InputError: an error of `open_image`, or an image of 16 bits or CMYK.
    """
    # Refuse images without an obvious conversion to 8-bit RGB.
    data, image = open_image(path)
    deep = _bits(data, image) > 8
    if deep or image.mode not in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA'):
        kind = f'{_bits(data, image)}-bit {image.format}' if deep else f'colour mode {image.mode}'
        raise InputError(
            str(path),
            got=f'an image in {kind}',
            expected='8-bit RGB, grey or palette',
            fix='convert it',
        )
    size = (image.height, image.width)
    notes = (Note(str(path), IMAGE_ALPHA, ALPHA_FIX),) if _is_transparent(image) else ()

    # Keep the bytes of files that are RGB already.
    is_rgb = image.mode == 'RGB' and 'transparency' not in image.info
    if is_rgb and image.format in ('PNG', 'JPEG', 'MPO'):
        return data, size, notes
    return encode_png(np.asarray(image.convert('RGB'))), size, notes


IMAGE_ALPHA = 'transparent pixels: the colour below is read'
ALPHA_FIX = 'save the image without an alpha channel'


def _is_transparent(image: Image.Image) -> bool:
    """Returns whether a viewer would show the background at some pixel."""
    if not image.has_transparency_data:
        return False
    return bool((np.asarray(image.convert('RGBA'))[..., 3] < 255).any())


class Mask(NamedTuple):
    """The content of a label file.

    ids      [H, W] uint8 or uint16 whole numbers, or [H, W, 3] uint8 if the file is in colour
    palette  [N, 3] uint8: the colour of each id in a file of indexed colours, else None
    notes    differences from the image in a viewer
    """

    ids: np.ndarray
    palette: np.ndarray | None = None
    notes: tuple[Note, ...] = ()


def read_ids(path: pathlib.Path) -> np.ndarray:
    """Returns the ids of a label or instance file, see `read_mask`."""
    return read_mask(path).ids


def read_mask(path: pathlib.Path) -> Mask:
    """Returns the content of a label or instance file.

    The ids are the numbers in the file. Palette images give indices. Grey levels of less than
    8 bits are not spread over 0..255.

    Raises:
      InputError: an error of `open_image`, or JPEG and WebP, whose compression changes ids.
    """
    data, image = open_image(path)
    _check_lossless(path, image)
    bits = _bits(data, image)
    if image.format == 'TIFF' and bits not in (8, 16):
        got = f'a TIFF label of {bits} bits'
        raise InputError(
            str(path), got=got, expected='8 or 16 bits', fix='save it as PNG of 8 or 16 bits'
        )

    # A mask in colour.
    if image.mode in ('RGB', 'RGBA') and bits == 8:
        alpha = image.mode == 'RGBA' and _is_transparent(image)
        notes = (Note(str(path), IMAGE_ALPHA, ALPHA_FIX),) if alpha else ()
        return Mask(np.asarray(image.convert('RGB')), notes=notes)
    if image.mode not in ('1', 'L', 'P', 'I;16', 'I;16B', 'I'):
        got = f'a label in colour mode {image.mode} of {bits} bits'
        fix = 'save it as grey PNG of ids, without an alpha channel'
        raise InputError(
            str(path), got=got, expected='one channel of ids, or RGB of 8 bits', fix=fix
        )

    # A mask of ids.
    ids = np.asarray(image)
    if image.mode == 'L':
        # Pillow spreads 2 and 4 bit grey over 0..255.
        return Mask(ids // {2: 85, 4: 17, 8: 1}[_bit_depth(data)])
    if image.mode == 'P':
        palette = np.array(image.getpalette('RGB'), np.uint8).reshape(-1, 3)
        return Mask(ids.astype(np.uint8), palette)
    return Mask(ids.astype(np.uint8 if image.mode == '1' else np.uint16))


def _check_lossless(path: pathlib.Path, image: Image.Image) -> None:
    """Raises InputError for a label file in a format or compression that changes ids."""
    if image.format not in MASK_FORMATS:
        got = f'a label in {image.format}'
        fix = f'export the labels again: {image.format} changes ids'
        raise InputError(str(path), got=got, expected=', '.join(MASK_FORMATS), fix=fix)
    compression = image.info.get('compression')
    if compression in LOSSY_TIFF:
        got = f'a label in TIFF with {compression} compression'
        raise InputError(
            str(path), got=got, expected='TIFF without loss', fix='export the labels again, as PNG'
        )


def encode_png(array: np.ndarray) -> bytes:
    """Returns the PNG bytes of [H, W] uint8 or uint16, or of [H, W, 3] uint8 RGB."""
    if array.ndim == 3:
        array = array[..., ::-1]  # OpenCV writes BGR
    # Level 1 is the fastest compression.
    ok, data = cv2.imencode('.png', np.ascontiguousarray(array), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise RuntimeError(
            f'cannot encode an array of shape {array.shape} and type {array.dtype} as PNG'
        )
    return data.tobytes()


def decode(data: bytes) -> np.ndarray:
    """Decodes a map of `read_encoded` or `encode_png`: [H, W, 3] RGB or [H, W]."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB) if array.ndim == 3 else array


# --- folders of photographs -----------------------------------------------------------------------


class ImageSource(NamedTuple):
    """An image of the input folder.

    path    of the file
    name    path below the input folder without extension, with the separator '/'
    depth   the file of its depth, None without depth
    camera  the file of its camera, None without camera
    """

    path: pathlib.Path
    name: str
    depth: pathlib.Path | None = None
    camera: pathlib.Path | None = None


def find_images(folder: pathlib.Path) -> list[ImageSource]:
    """Returns all images below a folder, sorted. Hidden files are skipped.

    Raises:
      InputError: a missing or empty folder, two images with the same output name, or files that are
        no whole 8-bit images. The error names all such files.
    """
    if not folder.is_dir():
        fix = f'--input={shlex.quote(str(folder.parent))}' if folder.is_file() else ''
        raise InputError(
            '--input', got=str(folder), expected='an existing folder of images', fix=fix
        )
    paths = by_relative_name(folder, PHOTO_SUFFIXES).values()
    sources = [ImageSource(path, relative_name(path, folder)) for path in paths]
    for note in unread_note(folder, PHOTO_SUFFIXES):
        tell(note)
    if not sources:
        raise InputError(
            '--input', got=f'no image in {folder}', expected='files ' + ' '.join(PHOTO_SUFFIXES)
        )
    check_files(sources)
    return sources


def check_files(sources: list[ImageSource]) -> None:
    """Checks every file, and decodes only files that cannot be checked otherwise.

    Raises:
      InputError: some files are no whole 8-bit images. The error names all such files.
    """
    # Inspect all files before the error, so that it is complete.
    bad = []
    with_alpha = []
    for source in sources:
        problem, alpha = inspect(source.path)
        if problem:
            bad.append(f'{source.path}: {problem}')
        if alpha:
            with_alpha.append(source)
    if bad:
        raise InputError(
            f'{len(bad)} of {len(sources)} images',
            got='\n            '.join(bad),
            expected='whole PNG, JPEG, BMP, TIFF, WebP or PPM files with 8 bits per channel',
            fix='replace, convert or move them',
        )
    if with_alpha:
        number = 'an image has' if len(with_alpha) == 1 else f'{len(with_alpha)} images have'
        message = f'{number} an alpha channel, which is dropped'
        tell(Note(str(with_alpha[0].path), message, ALPHA_FIX))


def inspect(path: pathlib.Path) -> tuple[str, bool]:
    """Returns (problem of an image file or '', whether it has an alpha channel).

    PNG and JPEG are not decoded.
    """
    try:
        size = path.stat().st_size
        problem = _header_problem(path) if size >= 32 else f'{size} bytes are no image'
    except OSError as error:
        return str(error.strerror), False
    if problem:
        return problem, False
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:8] == PNG_SIGNATURE:
            return _inspect_png(data)
        if data[:3] == b'\xff\xd8\xff':
            whole = data.rfind(b'\xff\xd9') > start_of_scan(data)
            return '' if whole else 'truncated JPEG (no end-of-image marker)', False
        image = _decoded(data[:], cv2.IMREAD_UNCHANGED)
    if image is None:
        return 'cannot be decoded', False
    if image.dtype != np.uint8:
        return deep(str(8 * image.itemsize)), False
    return '', image.ndim == 3 and image.shape[2] == 4


def _inspect_png(data: mmap.mmap) -> tuple[str, bool]:
    """Returns (problem of a PNG file or '', whether it has an alpha channel)."""
    width, height = struct.unpack('>II', data[16:24])
    if width * height > MAX_PIXELS:
        return f'{width}x{height} pixels, more than {MAX_PIXELS}; cut it into several', False
    problem = deep('16') if _bit_depth(data) == 16 else png_problem(data, checksums=False)
    return problem, data[25] in (4, 6)  # colour types with alpha


def _header_problem(path: pathlib.Path) -> str:
    """Returns why a viewer shows an image differently than OpenCV reads it.

    Returns '' if both agree, or if Pillow cannot tell.
    """
    try:
        # Pillow warns of large images.
        with warnings.catch_warnings(action='ignore'), Image.open(path) as image:
            number = num_pictures(image)
            mode = image.mode
    except OSError as error:
        if error.errno:
            raise
        return ''
    # Pillow raises SyntaxError, ValueError and struct.error for broken files. The remaining checks
    # of `inspect` name them.
    except Exception:
        return ''
    if number > 1:
        return f'{number} pictures in a file; save each of them as a file of its own'
    return f'colour mode {mode}; convert it to RGB' if mode in ('CMYK', 'YCbCr', 'LAB') else ''


def deep(bits: str) -> str:
    """Returns the problem of an image with more than 8 bits.

    Such images are refused, because their exposure is unknown (linear? which white?).
    """
    return f'{bits} bits per channel; convert it to 8 with the exposure the net was trained on'


def start_of_scan(data: mmap.mmap) -> int:
    """Returns the position of a JPEG's pixels, behind its headers.

    The headers may contain a thumbnail, which has an end-of-image marker of its own.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        if data[position + 1] == 0xFF:
            position += 1  # a fill byte
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
    return position


def _decoded(data: bytes, flags: int) -> np.ndarray | None:
    """Returns the pixels of an encoded image, None if OpenCV cannot read it or it is too large."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.STS_NO_MEM:
            raise
        return None


def read_image(path: pathlib.Path) -> np.ndarray | None:
    """Returns an image as [H, W, 3] uint8 RGB, None if it is damaged.

    The image is turned upright by its EXIF orientation. Gray is repeated, and alpha is dropped.
    """
    image = _decoded(path.read_bytes(), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
