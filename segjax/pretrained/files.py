"""Files of named tensors: .safetensors, .npz, torch's .pth where torch is installed, and files of the hub."""

import importlib
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy

from segjax.errors import InputError

HUB = 'hf:'
TORCH = ('.pth', '.pth.tar', '.pt')
SUFFIXES = ('.safetensors', '.npz', *TORCH)
CAFFE = '.caffemodel'  # refused with the way to convert it
_WRAPPERS = ('state_dict', 'model', 'model_state')  # where training scripts keep the tensors
_WHERE = 'config.init_from.path'


def is_weights(path: str) -> bool:
    """Returns whether `path` names a file of weights, here or on the hub, not a run folder of ours."""
    return path.startswith(HUB) or path.endswith((*SUFFIXES, CAFFE))


def read(path: str) -> dict[str, np.ndarray]:
    """{name: array} of a file; InputError for one that is absent, damaged, or needs what is not installed."""
    if path.endswith(CAFFE):
        raise InputError(
            _WHERE,
            got=path,
            expected=f'a file of weights ({", ".join(SUFFIXES)})',
            fix='where pycaffe is: python -c "import sys, caffe, numpy; net = caffe.Net(*sys.argv[1:3], caffe.TEST); '
            "numpy.savez('weights.npz', **{f'{layer}.{kind}': blob.data for layer, blobs in net.params.items() "
            "for kind, blob in zip(('weight', 'bias'), blobs)})\" deploy.prototxt " + path,
        )
    file = _download(path) if path.startswith(HUB) else pathlib.Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            _WHERE,
            got=f'{file}, which is no file',
            expected=f'a file of weights ({", ".join(SUFFIXES)})',
            fix='a run whose stages all have a checkpoint needs it no more: --config.init_from.path=',
        )
    try:
        if file.name.endswith('.safetensors'):
            return safetensors.numpy.load_file(file)
        if file.name.endswith('.npz'):
            with np.load(file, allow_pickle=False) as tensors:
                return dict(tensors)
        return _read_torch(file)
    except InputError:
        raise
    except (safetensors.SafetensorError, zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(
            str(file),
            got=f'a file that cannot be read ({error})',
            expected='a whole file of weights',
            fix='fetch it again',
        ) from error


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
        raise InputError(_WHERE, got=f'{path}, without {module}', expected=f'{module} installed', fix=fix) from error


def _read_torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    command = (
        'or convert it where torch is: python -c "from torch import load; from safetensors.torch import save_file; '
        f"d = load('{file.name}', map_location='cpu'); d = d.get('state_dict', d); "
        "save_file({k: v.contiguous() for k, v in d.items()}, 'weights.safetensors')\""
    )
    torch = _installed('torch', str(file), f'pip install torch, {command}')
    try:
        content = torch.load(file, map_location='cpu', weights_only=True)
    except Exception as error:  # pickle raises whatever the bytes lead to
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            str(file), got=f'{first[:200]}', expected='a dict of tensors saved by torch', fix=command
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise InputError(str(file), got=f'a {type(content).__name__}', expected='a dict of tensors saved by torch')
    tensors = {name: x.detach() for name, x in content.items() if isinstance(x, torch.Tensor)}
    return {name: (x.float() if x.dtype == torch.bfloat16 else x).numpy() for name, x in tensors.items()}


def _download(path: str) -> pathlib.Path:
    owner, name, file = (*path.removeprefix(HUB).split('/', 2), '', '')[:3]
    if not file or not file.endswith(SUFFIXES):
        raise InputError(_WHERE, got=path, expected=f'{HUB}owner/name/file with an ending of {", ".join(SUFFIXES)}')
    hub = _installed('huggingface_hub', path, 'pip install huggingface_hub, or give a file')
    try:
        return pathlib.Path(hub.hf_hub_download(f'{owner}/{name}', file))
    except Exception as error:  # of many kinds: no network, no such repository, no such file
        first = (str(error).splitlines() or [type(error).__name__])[0]
        fix = 'check the name and the network, or fetch the file elsewhere and give its path'
        raise InputError(_WHERE, got=f'{path}: {first[:200]}', expected='a file of the hub', fix=fix) from error
