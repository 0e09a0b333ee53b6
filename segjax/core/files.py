"""Reads and writes files of a run folder: JSON and lines of JSON, written atomically, and PNG.

`core/text_files.py` parses the text. `train/stored.py` knows what each JSON file must hold.
"""

import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from segjax.core import text_files
from segjax.errors import InputError


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON; a reader, or the run after a kill, finds the old file or the new one whole."""
    write_text(
        path, json.dumps(to_json(value), indent=2, allow_nan=False, ensure_ascii=False) + '\n'
    )


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file.

    Raises:
      InputError: no file, or no JSON in it.
    """
    try:
        return text_files.parse_json(text_files.read(pathlib.Path(path)))
    except FileNotFoundError:
        raise InputError(str(path), got='no such file', expected='a JSON file') from None
    except ValueError as error:
        raise InputError(str(path), got=str(error), expected='valid JSON') from error


def write_text(path: pathlib.Path, text: str) -> None:
    """Replaces the file atomically: temporary file in the same folder, fsync, rename, fsync of the folder."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        # A path may hold bytes that are no text, which Python keeps as surrogates.
        with os.fdopen(
            handle, 'w', encoding='utf-8', errors='backslashreplace', newline=''
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(
            temporary, 0o644
        )  # mkstemp's 0o600 would hide the file from a group or a web server
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file, [] if there is none. What a kill tore off the last line is left out.

    Raises:
      InputError: a line before the last is not a JSON object with a whole number 'step'.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b'\n')[:-1]  # after the last newline comes '' or a torn line
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


def encode_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB, [H, W, 1] or [H, W] as the bytes of a PNG file."""
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or (image.ndim == 3 and image.shape[2] not in (1, 3))
    ):
        raise TypeError(
            f'a picture is uint8 [H, W, 3], [H, W, 1] or [H, W]; got {image.dtype} {list(image.shape)}'
        )
    ok, data = cv2.imencode('.png', image[..., ::-1] if image.ndim == 3 else image)
    if not ok:
        raise ValueError(f'OpenCV could not encode a picture of shape {list(image.shape)}')
    return data.tobytes()


def to_json(value: Any) -> Any:
    """`value` in types that strict JSON knows: arrays become lists, NaN and infinities null."""
    if hasattr(value, 'to_dict'):  # ml_collections.ConfigDict, which is no Mapping
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
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
        return to_json(array.astype(np.float64).tolist())  # bfloat16 among them
    raise TypeError(f'{type(value).__name__} has no place in JSON: {value!r}')


START = 'start.json'  # of a run folder: its stages in order, and what they began from
