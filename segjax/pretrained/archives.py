"""Reads the tensors of torch's files without torch, and without running anything that a file names.

A file is a zip archive (torch 1.6 and later) or a sequence of pickles. Its pickle names functions and classes.
The few that make tensors are replaced by the functions below. Every other name becomes an `Unknown`.
"""

import functools
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file before torch 1.6."""
BFLOAT16 = 'BFloat16Storage'
STORAGES = {
    'DoubleStorage': np.float64,
    'FloatStorage': np.float32,
    'HalfStorage': np.float16,
    BFLOAT16: np.uint16,
    'LongStorage': np.int64,
    'IntStorage': np.int32,
    'ShortStorage': np.int16,
    'CharStorage': np.int8,
    'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}

ELEMENT_BYTES = {kind: np.dtype(dtype).itemsize for kind, dtype in STORAGES.items()} | {
    'ComplexFloatStorage': 8,
    'ComplexDoubleStorage': 16,
    'QInt8Storage': 1,
    'QUInt8Storage': 1,
    'QInt32Storage': 4,
}
"""Bytes of a number. Files before torch 1.6 also keep storages of which no tensor is made here."""
MAX_GROWTH = 100
"""Largest size of what an archive holds, relative to its file. Torch does not compress."""
MAX_REPEATED = 2**24
"""Largest number of elements of a tensor that repeats the numbers of a smaller storage."""


class TorchFileError(ValueError):
    """A file that is none of torch's, or is damaged."""


class Unknown:
    """Stands for an object of a class that has no tensors to offer: options, losses, schedulers."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        """Takes the items of an unknown list."""

    def extend(self, items):
        """Takes the items of an unknown list."""


class Storage(NamedTuple):
    """Names the numbers of a tensor, which are read when the tensor is."""

    key: str
    kind: str


class Tensor(NamedTuple):
    """A view of a storage; shape and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_) -> Tensor:
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_) -> Tensor:
    return tensor


_KNOWN = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch._utils', '_rebuild_tensor'): _rebuild_tensor,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    ('torch._utils', '_rebuild_parameter_with_state'): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    """Makes tensors, dicts, lists and numbers; looks up no name outside this file."""

    def __init__(self, stream):
        super().__init__(stream)
        self.storages: dict[str, str] = {}
        """{key: kind} of all storages, of objects that become `Unknown`, too."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ('torch', 'torch.storage') and name.endswith('Storage'):
            return name
        return Unknown

    def persistent_load(self, reference: Any) -> Any:
        if not isinstance(reference, tuple) or len(reference) < 3 or reference[0] != 'storage':
            return Unknown()
        _, kind, key = reference[:3]
        if len(reference) > 5 and reference[5] is not None:
            raise TorchFileError('a part of a storage, as torch before 0.4 wrote it')
        storage = Storage(str(key), kind if isinstance(kind, str) else 'UntypedStorage')
        self.storages[storage.key] = storage.kind
        return storage


def read(file: pathlib.Path) -> Any:
    """Returns the content of a file: dicts and lists with arrays, and `Unknown` for objects of other classes.

    Raises:
      TorchFileError: a file that torch did not write, or that is damaged.
    """
    try:
        if zipfile.is_zipfile(file):
            return _read_zip(file)
        return _read_sequence(file)
    except TorchFileError:
        raise
    except Exception as error:  # pickle raises whatever the bytes lead to
        raise TorchFileError(f'damaged: {type(error).__name__}: {error}') from error


def _read_zip(file: pathlib.Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith('/data.pkl')]
        if not names:
            raise TorchFileError('an archive without data.pkl')
        folder = names[0].removesuffix('data.pkl')
        if (
            f'{folder}byteorder' in archive.namelist()
            and archive.read(f'{folder}byteorder') != b'little'
        ):
            raise TorchFileError('numbers in big-endian order')
        size = sum(info.file_size for info in archive.infolist())
        if size > MAX_GROWTH * file.stat().st_size:
            raise TorchFileError(f'{size:,} bytes in a file of {file.stat().st_size:,}: no weights')
        content = _Unpickler(io.BytesIO(archive.read(names[0]))).load()
        # Tensors may be parts of a storage, which is read and kept in memory once.
        read_once = functools.cache(lambda key: archive.read(f'{folder}data/{key}'))
        return _with_arrays(content, lambda storage: read_once(storage.key))


def _read_sequence(file: pathlib.Path) -> Any:
    with file.open('rb') as stream:
        if stream.read(2)[:1] != b'\x80':
            raise TorchFileError('no file of torch')
        stream.seek(0)
        if _Unpickler(stream).load() != MAGIC:
            raise TorchFileError('a pickle that torch did not write')
        _Unpickler(stream).load()  # version of the format
        _Unpickler(stream).load()  # sizes of C's types
        unpickler = _Unpickler(stream)
        content = unpickler.load()
        raw = {}
        for key in map(str, _Unpickler(stream).load()):
            kind = unpickler.storages.get(key)
            if kind not in ELEMENT_BYTES:
                raise TorchFileError(f'numbers of an unknown size: {kind}')
            (count,) = struct.unpack('<q', stream.read(8))
            raw[key] = stream.read(count * ELEMENT_BYTES[kind])
    return _with_arrays(content, lambda storage: raw[storage.key])


def _with_arrays(content: Any, read_storage: Callable[[Storage], bytes]) -> Any:
    return _with_tensors(content, lambda tensor: _array(tensor, read_storage(tensor.storage)))


def _with_tensors(content: Any, change: Callable[[Tensor], Any]) -> Any:
    """Returns the content with every tensor changed."""
    if isinstance(content, Tensor):
        return change(content) if content.storage.kind in STORAGES else Unknown()
    if isinstance(content, Mapping):
        return {key: _with_tensors(value, change) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_tensors(value, change) for value in content]
    return content


def _array(tensor: Tensor, raw: bytes) -> np.ndarray:
    flat = np.frombuffer(raw, STORAGES[tensor.storage.kind])
    last = tensor.offset + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    backwards = tensor.offset < 0 or min((0, *tensor.shape, *tensor.strides)) < 0
    if backwards or (math.prod(tensor.shape) and last >= len(flat)):
        raise TorchFileError(f'damaged: {len(flat)} numbers for a tensor of {tensor.shape}')
    if math.prod(tensor.shape) > max(len(flat), MAX_REPEATED):
        raise TorchFileError(f'{len(flat)} numbers, repeated for a tensor of {tensor.shape}')
    if tensor.storage.kind == BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    strides = [stride * flat.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return np.ascontiguousarray(view).reshape(tensor.shape)
