"""The file products.npz in the folder of a stage: the arrays that the stage hands on.

It is a file of `numpy.load` with an array for each name. The additional entry `made_by` is JSON:

    step      of the state that was measured
    examples  digest of the array that chose the measured examples, '' without a choice
    digests   {name: digest} of the arrays
"""

import io
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from segjax.core import trees
from segjax.errors import InputError

PRODUCTS = 'products.npz'
MADE_BY = 'made_by'
RESERVED = ('file', 'allow_pickle', MADE_BY)
"""Names that no array may have: arguments of `numpy.savez`, and the additional entry."""


class Stored(NamedTuple):
    """The content of a file.

    arrays    {name: array}
    step      of the state that was measured
    examples  digest of the array that chose the measured examples, '' without a choice
    """

    arrays: dict[str, np.ndarray]
    step: int
    examples: str


def encode(stored: Stored) -> bytes:
    """Returns the bytes of the file, which depend on the content alone."""
    made_by = {
        'step': stored.step,
        'examples': stored.examples,
        'digests': digests(stored.arrays),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **stored.arrays, **{MADE_BY: np.array(json.dumps(made_by))})
    return buffer.getvalue()


def decode(path: pathlib.Path, data: bytes) -> Stored:
    """Returns the content of a file.

    Args:
      path: of the file, for the error.
      data: its bytes.

    Raises:
      InputError: the file was cut or changed.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        made_by = json.loads(str(arrays.pop(MADE_BY)))
        stored = Stored(arrays, int(made_by['step']), str(made_by['examples']))
        whole = made_by['digests'] == digests(arrays)
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, repr(error)) from error
    if not whole:
        raise _damaged(path, 'arrays that differ from their digests')
    return stored


def digests(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns {name: digest} of arrays."""
    return {name: digest(array) for name, array in arrays.items()}


def digest(array: np.ndarray) -> str:
    """Returns twelve hexadecimal digits of type, shape and values of an array."""
    return trees.digest({'': array})


def _damaged(path: pathlib.Path, got: str) -> InputError:
    """Returns the error for a file that was cut or changed."""
    return InputError(
        str(path),
        got=got,
        expected='the arrays that the stage wrote',
        fix=f'rm {path}; training writes it again',
    )
