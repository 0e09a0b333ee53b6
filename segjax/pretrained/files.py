"""Files of named tensors: .safetensors, .npz, torch's .pth, and files of the hub."""

import importlib
import pathlib
import shlex
import zipfile
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from segjax.core.notes import Note, tell
from segjax.core.paths import BEST, CAFFE, HUB, WEIGHT_SUFFIXES
from segjax.errors import InputError, first_line
from segjax.pretrained import archives

_WRAPPERS = (
    *('state_dict', 'model_state_dict', 'model_state', 'model', 'net', 'network', 'weights'),
    *('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema'),
)
"""Keys under which training scripts keep the tensors. The first existing key counts."""
_PREFIXES = ('module.', 'model.', '_orig_mod.', 'net.', 'network.')
"""Starts of tensor names that wrappers around a net add."""
_DEEPEST = 4
"""Largest number of wrappers around each other."""
_WHERE = 'config.init_from.path'


def refuse_other_file(path: str) -> None:
    """Raises InputError for a path that is neither a file of weights nor a folder."""
    file = pathlib.Path(path.removesuffix(BEST)).expanduser()
    if file.is_dir():
        return
    if file.exists():
        kind = 'a file of another kind'
        fix = _SAVE_ANEW
    else:
        kind = 'which is no file and no folder'
        fix = (
            f'--{_WHERE}=/data/weights.safetensors, with the path of the file or folder, '
            f'or --{_WHERE}={HUB}owner/name/file'
        )
    expected = f'a run folder of segjax, or a file of weights ({", ".join(WEIGHT_SUFFIXES)})'
    raise InputError(_WHERE, got=f'{file}, {kind}', expected=expected, fix=fix)


def read(path: str, where: str = _WHERE) -> dict[str, np.ndarray]:
    """Returns {name: array} of a file.

    Args:
      path: of the file, or its address in the hub.
      where: config key of the path, for messages.

    Raises:
      InputError: the file is absent, damaged or a caffemodel, or needs a package that is not
        installed.
    """
    if path.endswith(CAFFE):
        raise InputError(
            where,
            got=path,
            expected=f'a file of weights ({", ".join(WEIGHT_SUFFIXES)})',
            fix=_CONVERT_CAFFE + path,
        )
    file = _download(path, where) if path.startswith(HUB) else pathlib.Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            where,
            got=f'{file}, which is {"a folder" if file.is_dir() else "no file"}',
            expected=f'a file of weights ({", ".join(WEIGHT_SUFFIXES)})',
            fix=f'a run whose stages all have a checkpoint works without the file: --{where}=',
        )
    _check_start(file)
    try:
        tensors = without_prefixes(_read_file(file))
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(
            str(file),
            got=f'a file that cannot be read ({error})',
            expected='a whole file of weights',
            # NumPy's error names its argument allow_pickle= if a file has more than plain arrays.
            fix=_SAVE_ANEW if 'pickle=' in str(error) else 'fetch it again',
        ) from error
    if not tensors:
        raise InputError(
            str(file),
            got='no tensors',
            expected='a whole file of weights',
            fix='save or fetch it again',
        )
    return tensors


_CONVERT_CAFFE = (
    'where pycaffe is: python -c "import sys, caffe, numpy; '
    'net = caffe.Net(*sys.argv[1:3], caffe.TEST); '
    "numpy.savez('weights.npz', **{f'{layer}.{kind}': blob.data "
    'for layer, blobs in net.params.items() '
    "for kind, blob in zip(('weight', 'bias'), blobs)})\" deploy.prototxt "
)
"""Command that converts a caffemodel, whose path follows."""

_SAVE_ANEW = "save plain arrays under their names: numpy.savez('weights.npz', **{name: array})"

_DAMAGED = (
    *(safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, archives.TorchFileError),
    *(OSError, ValueError, KeyError, EOFError, TypeError, AttributeError),
)
"""Errors that a damaged file may cause."""


def _read_file(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by the reader of its ending."""
    if file.name.endswith('.safetensors'):
        return _read_safetensors(file)
    if file.name.endswith('.npz'):
        return _read_npz(file)
    return _read_torch(file)


def _read_npz(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file of NumPy."""
    content = np.load(file, allow_pickle=False)
    if isinstance(content, np.ndarray):
        raise InputError(
            str(file),
            got=f'a single array of shape {content.shape}, without a name',
            expected='arrays under their names',
            fix=_SAVE_ANEW,
        )
    with content as tensors:
        return dict(tensors)


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file, bfloat16 as float32."""
    with safetensors.safe_open(file, 'numpy') as content:
        names = list(content.keys())
        halves = {name for name in names if content.get_slice(name).get_dtype() == 'BF16'}
        tensors = {name: content.get_tensor(name) for name in names if name not in halves}
    if halves:
        # NumPy has no bfloat16, the upper half of a float32.
        entries = dict(safetensors.deserialize(file.read_bytes()))
        for name in halves:
            wide = np.frombuffer(entries[name]['data'], np.uint16).astype(np.uint32) << 16
            tensors[name] = wide.view(np.float32).reshape(entries[name]['shape'])
    return tensors


def write(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes {name: array} to a file.

    Raises:
      InputError: the path ends neither with .safetensors nor with .npz.
    """
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    if path.endswith('.safetensors'):
        safetensors.numpy.save_file(arrays, path)
    elif path.endswith('.npz'):
        np.savez(path, **arrays)
    else:
        raise InputError(path, got='another ending', expected='.safetensors or .npz')


def _installed(module: str, path: str, where: str, fix: str):
    """Returns an optional module. Raises InputError with `fix` if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            where, got=f'{path}, without {module}', expected=f'{module} installed', fix=fix
        ) from error


def _read_torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a torch file, without the dicts of training scripts around them."""
    content = archives.read(file)
    if not isinstance(content, Mapping):
        is_module = isinstance(content, archives.Unknown)
        raise InputError(
            str(file),
            got=f'a whole {"module" if is_module else type(content).__name__}',
            expected='a dict of tensors saved by torch',
            fix=_SAVE_STATE,
        )
    keys = [str(key) for key in content]

    # The first copy counts. A note says how to save each further copy to a file.
    place = ''
    while copies := _wrappers(content):
        for other in copies[1:]:
            tell(_second_copy(file, place, copies[0], other))
        content = content[copies[0]]
        place += f'[{copies[0]!r}]'

    tensors = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, np.ndarray):
            tensors[name] = value
    if not tensors:
        raise InputError(
            str(file),
            got='no tensors under names, but ' + (', '.join(keys[:8]) or 'nothing'),
            expected=f'a dict of tensors, or one of {", ".join(_WRAPPERS)} with it',
            fix=_SAVE_STATE,
        )
    return tensors


_SAVE_STATE = "save it anew where its code is: torch.save(model.state_dict(), 'weights.pth')"


def _wrappers(content: Mapping) -> list[str]:
    """Returns the keys under which the dict of a training script holds tensors."""
    return [key for key in _WRAPPERS if _holds_tensors(content.get(key))]


def _holds_tensors(value: Any) -> bool:
    """Returns whether a value is a dict with a tensor under some name, or a dict of such dicts."""
    if not isinstance(value, Mapping):
        return False
    for name, inner in value.items():
        if isinstance(name, str) and (isinstance(inner, np.ndarray) or _holds_tensors(inner)):
            return True
    return False


def _second_copy(file: pathlib.Path, place: str, loaded: str, other: str) -> Note:
    """Returns the note about a second copy of the tensors in a file.

    Args:
      file: with both copies.
      place: keys around both, as in Python: "['model']".
      loaded: key of the copy that is loaded.
      other: key of the second copy.
    """
    copy = str(file.with_name(f'{file.name.partition(".")[0]}_{other}.pth'))
    load = f"load({str(file)!r}, 'cpu', weights_only=False){place}[{other!r}]"
    fix = 'python -c ' + shlex.quote(f'from torch import load, save; save({load}, {copy!r})')
    return Note(str(file), f'{loaded!r} is loaded, {other!r} is not; this saves it to {copy}', fix)


def without_prefixes(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes 'module.', 'model.' and similar prefixes of more than half of the names.

    Names are kept if two of them would become equal.
    """
    tensors = dict(tensors)
    for _ in range(_DEEPEST):
        prefix = _shared_prefix(tensors)
        stripped = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        if not prefix or len(stripped) < len(tensors):
            break
        tensors = stripped
    return tensors


def _shared_prefix(names: Collection[str]) -> str:
    """Returns the first of `_PREFIXES` that more than half of the names have, or ''."""
    for prefix in _PREFIXES:
        if 2 * sum(name.startswith(prefix) for name in names) > len(names):
            return prefix
    return ''


_STARTS = (
    (b'version https://git-lfs', 'a pointer of git-lfs, not the file itself', 'git lfs pull'),
    (
        b'<',
        'a web page, not weights: the download failed',
        'fetch the file again, by the link of the file itself',
    ),
    (b'{"', 'a JSON text, not weights', 'fetch the file again, by the link of the file itself'),
    (b'', 'an empty file', 'fetch the file again'),
)
"""(first bytes, kind, fix) of files that are no weights. Empty files have the first bytes b''."""


def _check_start(file: pathlib.Path) -> None:
    """Raises InputError for a file whose first bytes show that it holds no weights."""
    with file.open('rb') as stream:
        start = stream.read(64).lstrip()
    for first, got, fix in _STARTS:
        is_match = start.startswith(first) if first else not start
        if is_match:
            raise InputError(str(file), got=got, expected='a whole file of weights', fix=fix)


def _download(path: str, where: str) -> pathlib.Path:
    """Returns the local copy of a file of the hub.

    Raises:
      InputError: not the form hf:owner/name/file, no package for the hub, or no such file.
    """
    owner, name, file = (*path.removeprefix(HUB).split('/', 2), '', '')[:3]
    if not file or not file.endswith(WEIGHT_SUFFIXES):
        raise InputError(
            where,
            got=path,
            expected=f'{HUB}owner/name/file with an ending of {", ".join(WEIGHT_SUFFIXES)}',
        )
    hub = _installed('huggingface_hub', path, where, 'pip install huggingface_hub, or give a file')
    try:
        return pathlib.Path(hub.hf_hub_download(f'{owner}/{name}', file))
    except Exception as error:  # Many types: no network, no such repository, no such file.
        raise InputError(
            where,
            got=f'{path}: {first_line(error)[:200]}',
            expected='a file of the hub',
            fix='check the name and the network, or fetch the file elsewhere and give its path',
        ) from error
