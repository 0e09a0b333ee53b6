"""Explains errors from outside the program: disk, memory, devices, network.

Every other error is a bug of the program and keeps its traceback.
"""

import errno
import re
import signal
import traceback
from typing import NamedTuple

import cv2
import jax

from segjax.errors import InputError, first_line
from segjax.train import checkpoints, divergence


class _Kind(NamedTuple):
    """System errors with the same explanation.

    names     of numbers in `errno`. Not every system has every number
    expected  what the program needs
    fix       what to do
    """

    names: str
    expected: str
    fix: str


_PLACE = 'a place to write to'
_ANSWERS = 'a file system that answers'
_FAILING = 'start the same command again; if it fails again, check the file system'
_KINDS = (
    _Kind('ENOSPC EDQUOT EFBIG', _PLACE, 'free disk space'),
    _Kind('EACCES EPERM EROFS', _PLACE, 'check permissions, or another folder'),
    _Kind('ENOTDIR EISDIR EEXIST', _PLACE, 'another path'),
    _Kind('ENAMETOOLONG ELOOP EILSEQ', 'a path that the file system accepts', 'another path'),
    _Kind('EIO ESTALE ETIMEDOUT ENODEV ENXIO EREMOTEIO ENOLCK', _ANSWERS, _FAILING),
    _Kind('ENOTCONN EHOSTDOWN EHOSTUNREACH ENETUNREACH ESHUTDOWN', _ANSWERS, _FAILING),
    _Kind('EMFILE ENFILE', 'fewer open files', 'ulimit -n 65536, or --config.data.workers=0'),
)


def _by_number() -> dict[int, _Kind]:
    """Returns the kinds of system errors by their numbers on this system."""
    kinds = {}
    for kind in _KINDS:
        for name in kind.names.split():
            if hasattr(errno, name):
                kinds[getattr(errno, name)] = kind
    return kinds


_ON_DISK = _by_number()
_MEMORY = (
    'smaller config.train.batch_size or augment.crop, more config.train.accumulate, '
    'config.train.dtype=bfloat16; in evaluation config.evaluate.batch_size or data.eval_size; '
    'in --mode predict predict.tile or predict.batch_size'
)
_HOST_MEMORY = (
    'smaller config.data.threads, data.workers or data.prefetch; smaller batches '
    '(train.batch_size, evaluate.batch_size); in --mode predict smaller images'
)
_CODE = r'[A-Z_]+: '
"""Errors of XLA begin with a code."""
_DEVICE = (
    r'CUDA_ERROR|CUDNN|cuDNN|CUBLAS|NCCL|RCCL|hipError|\bECC\b|Xid'
    r'|TPU.*(halt|unavailable|dead)|PJRT.*lost'
)
_NETWORK = r'[Gg]loo|heartbeat|[Cc]oordination|Connection (closed|reset|refused)|Socket closed|peer'
_NO_BACKEND = r'[Uu]nable to initialize backend|[Uu]nknown backend|No visible .* devices'
_WORKER = r'Worker process was terminated unexpectedly with exit code (-?\d+)'


def explained(error: BaseException, place: str) -> str | None:
    """Returns the text to print for an error from outside, None for any other error.

    Args:
      error: ended the run.
      place: flag and folder that the mode writes to, for errors of the disk that name no file.
    """
    if isinstance(error, (InputError, divergence.Diverged, checkpoints.CheckpointError)):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error, place)
    if _is_memory(error):
        got = str(error).strip().splitlines() or ['no memory left']
        return _message('memory of this machine', got[-1], 'enough of it', _HOST_MEMORY)
    if isinstance(error, (jax.errors.JaxRuntimeError, RuntimeError, ValueError)):
        return _of_devices(str(error))
    if _lacks_platform(error):
        return _of_devices('Unable to initialize backend: none of $JAX_PLATFORMS is there')
    return None


def _message(where: str, got: str, expected: str, fix: str) -> str:
    """Returns an explanation in the form of bad input."""
    return str(InputError(where, got=got, expected=expected, fix=fix))


def _is_memory(error: BaseException) -> bool:
    """Returns whether the host has no memory left."""
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.STS_NO_MEM
    return isinstance(error, MemoryError)


def _lacks_platform(error: BaseException) -> bool:
    """Returns whether an error is the assertion of jax that it has at least one platform."""
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, AssertionError) or not frames:
        return False
    return frames[-1].filename.endswith('xla_bridge.py')


def _of_system(error: OSError, place: str) -> str | None:
    """Returns the text for an error of the operating system."""
    if error.errno == errno.EPIPE and error.filename is None:
        return 'the reader of the standard output has gone; the same command resumes'
    got = error.strerror or str(error)
    if error.errno == errno.ENOMEM:
        return _message('memory of this machine', got, 'more', _HOST_MEMORY)
    if error.errno not in _ON_DISK:
        return None
    kind = _ON_DISK[error.errno]
    return _message(str(error.filename or place), got, kind.expected, kind.fix)


def _of_devices(text: str) -> str | None:
    """Returns the text for an error of jax. Only its message tells its kind, not its type."""
    got = first_line(text)[:400]
    # Specific causes first: their texts also match the general patterns below.
    if 'RESOURCE_EXHAUSTED' in text or re.search(r'[Oo]ut of memory', text):
        return _message('memory of the devices', got, 'programs that fit', _MEMORY)
    ended = re.search(_WORKER, text)
    if ended:
        return _of_worker(int(ended.group(1)))
    if re.search(_NO_BACKEND, text):
        fix = (
            'check $JAX_PLATFORMS, the driver (nvidia-smi), and the build of jax '
            '(bash launch/env.sh)'
        )
        return _message('devices', got, 'the accelerator that jax was told to use', fix)
    # Errors without a code of XLA are not about devices or networks.
    if not re.match(_CODE, text):
        return None
    if re.search(_DEVICE, text):
        fix = 'check the device (nvidia-smi, dmesg), then start the same command again'
        return _message('devices', got, 'a device that works', fix)
    if re.search(_NETWORK, text):
        fix = 'read the logs of the remaining processes, then start the same command again'
        return _message('processes', got, 'all processes, and a network between them', fix)
    return None


def _of_worker(code: int) -> str | None:
    """Returns the text for a loader process that the system ended, None if it ended by itself."""
    if code == -signal.SIGBUS:
        got = 'no room left in /dev/shm'
        fix = 'more shared memory, in docker by --shm-size=8g'
    elif code == -signal.SIGKILL:
        got = 'killed, most likely for want of memory'
        fix = _HOST_MEMORY
    else:
        return None
    where = 'a loader process (data.workers)'
    return _message(where, got, 'enough memory', f'--config.data.workers=0, or {fix}')
