"""Reads the tensors of torch's files without torch, and without running anything that a file names.

A file is a zip archive (torch 1.6 and later) or a sequence of pickles. Its pickle names functions
and classes. The few that make tensors are replaced by the functions below. Every other name becomes
an `Unknown`.
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
"""Bytes of a number, also of storages in files before torch 1.6 that are skipped here."""

MAX_GROWTH = 100
"""Largest size of the contents of an archive, relative to its file. Torch does not compress."""

MAX_REPEATED = 2**24
"""Largest number of elements of a tensor that repeats the numbers of a smaller storage."""


class TorchFileError(ValueError):
    """A file that torch did not write, or that is damaged."""


class Unknown:
    """Replaces an object of a class without tensors: options, losses, schedulers."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        """Drops an item of an unknown list."""

    def extend(self, items):
        """Drops the items of an unknown list."""


class Storage(NamedTuple):
    """Name of the numbers of a tensor. They are read together with the tensor."""

    key: str
    kind: str


class Tensor(NamedTuple):
    """A view of a storage. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_) -> Tensor:
    """Replaces torch._utils._rebuild_tensor."""
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_) -> Tensor:
    """Replaces torch._utils._rebuild_parameter."""
    return tensor


_REPLACEMENTS = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch._utils', '_rebuild_tensor'): _rebuild_tensor,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    ('torch._utils', '_rebuild_parameter_with_state'): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    """Makes tensors, dicts, lists and numbers, and looks up no name outside this file.

    storages  {key: kind} of all storages, also of objects that become `Unknown`
    """

    def __init__(self, stream):
        super().__init__(stream)
        self.storages: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of a function or class."""
        if (module, name) in _REPLACEMENTS:
            return _REPLACEMENTS[module, name]
        if module in ('torch', 'torch.storage') and name.endswith('Storage'):
            return name
        return Unknown

    def persistent_load(self, reference: Any) -> Any:
        """Returns the storage that a file refers to."""
        if not isinstance(reference, tuple) or len(reference) < 3 or reference[0] != 'storage':
            return Unknown()
        _, kind, key = reference[:3]
        if len(reference) > 5 and reference[5] is not None:
            raise TorchFileError('a part of a storage, as torch before 0.4 writes it')
        storage = Storage(str(key), kind if isinstance(kind, str) else 'UntypedStorage')
        self.storages[storage.key] = storage.kind
        return storage


def read(file: pathlib.Path) -> Any:
    """Returns the content of a file: dicts and lists with arrays.

    Objects of unknown classes become `Unknown`.

    Raises:
      TorchFileError: a file that torch did not write, or that is damaged.
    """
    try:
        if zipfile.is_zipfile(file):
            return _read_zip(file)
        return _read_sequence(file)
    except TorchFileError:
        raise
    except Exception as error:  # The bytes may make pickle raise any error.
        raise TorchFileError(f'damaged: {type(error).__name__}: {error}') from error


def _read_zip(file: pathlib.Path) -> Any:
    """Returns the content of a file of torch 1.6 and later."""
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith('/data.pkl')]
        if not pickles:
            raise TorchFileError('an archive without data.pkl')
        folder = pickles[0].removesuffix('data.pkl')
        order = f'{folder}byteorder'
        if order in archive.namelist() and archive.read(order) != b'little':
            raise TorchFileError('numbers in big-endian order')
        # Some archives expand to more than the memory holds.
        size = sum(info.file_size for info in archive.infolist())
        packed = file.stat().st_size
        if size > MAX_GROWTH * packed:
            raise TorchFileError(f'{size:,} bytes in a file of {packed:,}: no weights')

        content = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        # Several tensors may be parts of one storage. The cache reads it once.
        read_once = functools.cache(lambda key: archive.read(f'{folder}data/{key}'))
        return _with_arrays(content, lambda storage: read_once(storage.key))


def _read_sequence(file: pathlib.Path) -> Any:
    """Returns the content of a file before torch 1.6.

    It consists of five pickles: a magic number, the version of the format, the sizes of C's types,
    the content, and the keys of the storages. The numbers of the storages follow.
    """
    with file.open('rb') as stream:
        if stream.read(2)[:1] != b'\x80':  # opcode of the pickle protocol
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
    """Returns the content with an array for every tensor."""
    return _with_tensors(content, lambda tensor: _array(tensor, read_storage(tensor.storage)))


def _with_tensors(content: Any, change: Callable[[Tensor], Any]) -> Any:
    """Changes every tensor of the content. Tensors of skipped storages become `Unknown`."""
    if isinstance(content, Tensor):
        return change(content) if content.storage.kind in STORAGES else Unknown()
    if isinstance(content, Mapping):
        return {key: _with_tensors(value, change) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_tensors(value, change) for value in content]
    return content


def _array(tensor: Tensor, raw: bytes) -> np.ndarray:
    """Returns a tensor as a contiguous array.

    Raises:
      TorchFileError: the tensor lies outside its storage, or repeats it too often.
    """
    flat = np.frombuffer(raw, STORAGES[tensor.storage.kind])

    # as_strided checks nothing, so the view must lie inside the storage.
    size = math.prod(tensor.shape)
    spans = [(n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)]
    last = tensor.offset + sum(spans)
    is_backwards = tensor.offset < 0 or min((0, *tensor.shape, *tensor.strides)) < 0
    if is_backwards or (size and last >= len(flat)):
        raise TorchFileError(f'damaged: {len(flat)} numbers for a tensor of {tensor.shape}')
    if size > max(len(flat), MAX_REPEATED):
        raise TorchFileError(f'{len(flat)} numbers, repeated for a tensor of {tensor.shape}')

    # NumPy has no bfloat16, the upper half of a float32.
    if tensor.storage.kind == BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    strides = [stride * flat.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return np.ascontiguousarray(view).reshape(tensor.shape)
