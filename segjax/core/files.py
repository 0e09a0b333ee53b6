"""Reads and writes files of a run folder: JSON, lines of JSON and PNG. Writes and locks files.

`core/text_files.py` parses the text. `train/stored.py` knows what each JSON file must hold.
"""

import fcntl
import hashlib
import json
import math
import os
import pathlib
import threading
import uuid
from collections.abc import Mapping
from typing import IO, Any

import cv2
import numpy as np

from segjax.core import text_files
from segjax.errors import InputError

START = 'start.json'
"""File of a run folder: the stages in order, and the source of their initial parameters."""


# --- Atomic writes and locks ----------------------------------------------------------------------


def write_bytes(path: pathlib.Path, data: bytes, *, durable: bool = False) -> None:
    """Replaces a file atomically, so that a file of this name is always whole.

    The data are written to a temporary file in the same folder, which is then renamed.

    Args:
      path: of the file. Missing folders above it are made.
      data: the whole content.
      durable: also write through to the disk, and let everybody read the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A short name, because file systems limit the bytes of a name.
    digest = hashlib.md5(os.fsencode(path.name)).hexdigest()
    partial = path.with_name(f'.{digest}.{uuid.uuid4().hex}.partial')
    try:
        partial.write_bytes(data)
        if durable:
            partial.chmod(0o644)  # a web server or a group may show reports
            _sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)  # else the machine may crash before the new name is on the disk


def _sync(path: pathlib.Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file: int | IO, *, shared: bool = False) -> None:
    """Locks an open file or folder until it is closed or the process ends.

    Args:
      file: descriptor or file object.
      shared: allow further shared locks, but no exclusive lock.

    Raises:
      BlockingIOError: another process has locked the file.
      OSError: the file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(file, kind | fcntl.LOCK_NB)


def write_text(path: pathlib.Path, text: str) -> None:
    """Replaces a text file atomically and writes it through to the disk."""
    # A path may hold bytes that are no text, which Python keeps as surrogates.
    data = text.encode('utf-8', errors='backslashreplace')
    write_bytes(pathlib.Path(path), data, durable=True)


# --- JSON -----------------------------------------------------------------------------------------


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON atomically.

    A reader, and a run that starts after a kill, finds the whole old file or the whole new file.
    """
    text = json.dumps(to_json(value), indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + '\n')


def read_json(path: pathlib.Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
      InputError: the file does not exist, is no JSON, or has a key twice.
    """
    try:
        return text_files.parse_json(text_files.read(pathlib.Path(path)))
    except FileNotFoundError:
        raise InputError(str(path), got='no such file', expected='a JSON file') from None
    except ValueError as error:
        raise InputError(
            str(path), got=str(error), expected='valid JSON, every key once'
        ) from error


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of a JSON-lines file, [] if there is no file.

    A kill may have cut the last line short. Such a line is skipped.

    Raises:
      InputError: a line before the last is not a JSON object with a whole number 'step'.
    """
    if not path.exists():
        return []
    # Behind the last newline is nothing, or a line that was cut short.
    lines = path.read_bytes().split(b'\n')[:-1]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record['step'], int):
                raise ValueError('no step')
        except (ValueError, KeyError) as error:
            if number == len(lines):  # a crash of the machine can leave a block of zeros in it
                break
            raise InputError(
                f'{path}, line {number}',
                got=repr(line[:80].decode('utf-8', 'replace')),
                expected="a JSON object with 'step'",
                fix='delete the line, or start in a new --workdir',
            ) from error
        records.append(record)
    return records


def to_json(value: Any) -> Any:
    """Returns a value in types of strict JSON. Arrays become lists, NaN and infinities null."""
    if hasattr(value, 'to_dict'):  # ml_collections.ConfigDict, which is no Mapping
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, '__array__'):
        array = np.asarray(value)
        if array.dtype.kind in 'biu':
            return array.tolist()
        return to_json(array.astype(np.float64).tolist())  # bfloat16, for example
    raise TypeError(f'{type(value).__name__} has no place in JSON: {value!r}')


# --- Images ---------------------------------------------------------------------------------------


def encode_png(image: np.ndarray) -> bytes:
    """Returns the PNG file of an image.

    Args:
      image: uint8 [H, W, 3] RGB, [H, W, 1] or [H, W].

    Raises:
      TypeError: another type or shape.
      ValueError: OpenCV cannot encode the image.
    """
    is_color = image.ndim == 3
    has_shape = image.ndim == 2 or (is_color and image.shape[2] in (1, 3))
    if image.dtype != np.uint8 or not has_shape:
        raise TypeError(
            'a picture is uint8 [H, W, 3], [H, W, 1] or [H, W]; '
            f'got {image.dtype} {list(image.shape)}'
        )
    # OpenCV wants BGR.
    ok, data = cv2.imencode('.png', image[..., ::-1] if is_color else image)
    if not ok:
        raise ValueError(f'OpenCV could not encode a picture of shape {list(image.shape)}')
    return data.tobytes()


_HEADERS = threading.Lock()


def read_array(path: pathlib.Path, mapped: bool = False) -> np.ndarray:
    """Reads an array of a .npy file, from any thread.

    NumPy parses the header with `ast`. In Python 3.11 two threads that parse at the same time may
    raise SystemError, so they take turns.

    Args:
      path: of the file.
      mapped: whether the values stay in the file until they are read.

    Raises:
      OSError, ValueError, EOFError: no whole file, or an array of objects.
    """
    with _HEADERS:
        return np.load(path, mmap_mode='r' if mapped else None, allow_pickle=False)
