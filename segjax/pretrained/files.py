"""Files of named tensors: .safetensors, .npz, torch's .pth, and files of the hub."""

import importlib
import pathlib
import shlex
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from segjax.core.notes import Note, tell
from segjax.core.paths import CAFFE, HUB, WEIGHT_SUFFIXES
from segjax.errors import InputError
from segjax.pretrained import archives

# Where training scripts keep the tensors; the first that is there counts.
_WRAPPERS = (
    *('state_dict', 'model_state_dict', 'model_state', 'model', 'net', 'network', 'weights'),
    *('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema'),
)
# What wrappers around a net put in front of the names of its tensors.
_PREFIXES = ('module.', 'model.', '_orig_mod.', 'net.', 'network.')
_DEEPEST = 4  # wrappers around wrappers
_WHERE = 'config.init_from.path'


def refuse_other_file(path: str) -> None:
    """Raises InputError for a file of another kind, where only a folder of ours is left to expect."""
    file = pathlib.Path(path).expanduser()
    if file.is_dir():
        return
    got = f'{file}, ' + (
        'a file of another kind' if file.exists() else 'which is no file and no folder'
    )
    expected = f'a run folder of segjax, or a file of weights ({", ".join(WEIGHT_SUFFIXES)})'
    fix = _SAVE_ANEW if file.exists() else 'the path of a file or folder, or hf:owner/name/file'
    raise InputError(_WHERE, got=got, expected=expected, fix=fix)


def read(path: str) -> dict[str, np.ndarray]:
    """{name: array} of a file; InputError for one that is absent, damaged, or needs what is not installed."""
    if path.endswith(CAFFE):
        raise InputError(
            _WHERE,
            got=path,
            expected=f'a file of weights ({", ".join(WEIGHT_SUFFIXES)})',
            fix='where pycaffe is: python -c "import sys, caffe, numpy; net = caffe.Net(*sys.argv[1:3], caffe.TEST); '
            "numpy.savez('weights.npz', **{f'{layer}.{kind}': blob.data for layer, blobs in net.params.items() "
            "for kind, blob in zip(('weight', 'bias'), blobs)})\" deploy.prototxt " + path,
        )
    file = _download(path) if path.startswith(HUB) else pathlib.Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            _WHERE,
            got=f'{file}, which is {"a folder" if file.is_dir() else "no file"}',
            expected=f'a file of weights ({", ".join(WEIGHT_SUFFIXES)})',
            fix='a run whose stages all have a checkpoint needs it no more: --config.init_from.path=',
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


# NumPy names its argument allow_pickle= where a file holds more than plain arrays.
_SAVE_ANEW = "save plain arrays under their names: numpy.savez('weights.npz', **{name: array})"

_DAMAGED = (
    *(safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, archives.TorchFileError),
    *(OSError, ValueError, KeyError, EOFError, TypeError, AttributeError),
)


def _read_file(file: pathlib.Path) -> dict[str, np.ndarray]:
    if file.name.endswith('.safetensors'):
        return _read_safetensors(file)
    if file.name.endswith('.npz'):
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            got = f'a single array of shape {content.shape}, without a name'
            raise InputError(
                str(file), got=got, expected='arrays under their names', fix=_SAVE_ANEW
            )
        with content as tensors:
            return dict(tensors)
    return _read_torch(file)


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file; bfloat16, which NumPy lacks, as float32."""
    with safetensors.safe_open(file, 'numpy') as content:
        names = list(content.keys())
        halves = {name for name in names if content.get_slice(name).get_dtype() == 'BF16'}
        tensors = {name: content.get_tensor(name) for name in names if name not in halves}
    if halves:
        entries = dict(safetensors.deserialize(file.read_bytes()))
        for name in halves:
            wide = np.frombuffer(entries[name]['data'], np.uint16).astype(np.uint32) << 16
            tensors[name] = wide.view(np.float32).reshape(entries[name]['shape'])
    return tensors


def write(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes {name: array} as .safetensors or .npz."""
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    if path.endswith('.safetensors'):
        safetensors.numpy.save_file(arrays, path)
    elif path.endswith('.npz'):
        np.savez(path, **arrays)
    else:
        raise InputError(path, got='another ending', expected='.safetensors or .npz')


def _installed(module: str, path: str, fix: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            _WHERE, got=f'{path}, without {module}', expected=f'{module} installed', fix=fix
        ) from error


def _read_torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a torch file, out of what training scripts put around them."""
    content = archives.read(file)
    if not isinstance(content, Mapping):
        raise InputError(
            str(file),
            got=f'a whole {"module" if isinstance(content, archives.Unknown) else type(content).__name__}',
            expected='a dict of tensors saved by torch',
            fix="save it anew where its code is: torch.save(model.state_dict(), 'weights.pth')",
        )
    keys, place = [str(key) for key in content], ''
    while copies := _wrappers(content):
        for other in copies[1:]:
            tell(_second_copy(file, place, copies[0], other))
        content = content[copies[0]]
        place += f'[{copies[0]!r}]'
    tensors = {
        name: x
        for name, x in content.items()
        if isinstance(name, str) and isinstance(x, np.ndarray)
    }
    if not tensors:
        raise InputError(
            str(file),
            got='no tensors under names, but ' + (', '.join(keys[:8]) or 'nothing'),
            expected=f'a dict of tensors, or one of {", ".join(_WRAPPERS)} with it',
            fix="save it anew where its code is: torch.save(model.state_dict(), 'weights.pth')",
        )
    return tensors


def _wrappers(content: Mapping) -> list[str]:
    """Returns the keys under which a training script's dict holds tensors; the first of them counts."""
    return [key for key in _WRAPPERS if _holds_tensors(content.get(key))]


def _holds_tensors(value: Any) -> bool:
    """Returns whether a value is a dict with a tensor under some name, or a dict of such dicts."""
    if not isinstance(value, Mapping):
        return False
    return any(
        isinstance(name, str) and (isinstance(inner, np.ndarray) or _holds_tensors(inner))
        for name, inner in value.items()
    )


def _second_copy(file: pathlib.Path, place: str, taken: str, other: str) -> Note:
    """Returns the note about tensors that a file holds beside those that are taken."""
    copy = str(file.with_name(f'{file.name.partition(".")[0]}_{other}.pth'))
    load = f"load({str(file)!r}, 'cpu', weights_only=False){place}[{other!r}]"
    fix = 'python -c ' + shlex.quote(f'from torch import load, save; save({load}, {copy!r})')
    return Note(str(file), f'{taken!r} is taken, {other!r} is not; this saves it to {copy}', fix)


def without_prefixes(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors without 'module.', 'model.' and the like, in front of more than half of the names."""
    found = dict(tensors)
    for _ in range(_DEEPEST):
        shared = [
            p for p in _PREFIXES if 2 * sum(name.startswith(p) for name in found) > len(found)
        ]
        if not shared:
            break
        stripped = {name.removeprefix(shared[0]): tensor for name, tensor in found.items()}
        if len(stripped) < len(found):
            break
        found = stripped
    return found


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
"""(first bytes of a file, what it is, what helps) of files that are no weights; '' stands for no bytes at all."""


def _check_start(file: pathlib.Path) -> None:
    """Raises InputError for a file whose first bytes say that it holds no weights."""
    with file.open('rb') as stream:
        start = stream.read(64).lstrip()
    for first, got, fix in _STARTS:
        if start.startswith(first) if first else not start:
            raise InputError(str(file), got=got, expected='a whole file of weights', fix=fix)


def _download(path: str) -> pathlib.Path:
    owner, name, file = (*path.removeprefix(HUB).split('/', 2), '', '')[:3]
    if not file or not file.endswith(WEIGHT_SUFFIXES):
        raise InputError(
            _WHERE,
            got=path,
            expected=f'{HUB}owner/name/file with an ending of {", ".join(WEIGHT_SUFFIXES)}',
        )
    hub = _installed('huggingface_hub', path, 'pip install huggingface_hub, or give a file')
    try:
        return pathlib.Path(hub.hf_hub_download(f'{owner}/{name}', file))
    except Exception as error:  # of many kinds: no network, no such repository, no such file
        first = (str(error).splitlines() or [type(error).__name__])[0]
        fix = 'check the name and the network, or fetch the file elsewhere and give its path'
        raise InputError(
            _WHERE, got=f'{path}: {first[:200]}', expected='a file of the hub', fix=fix
        ) from error
