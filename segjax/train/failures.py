"""Errors that come from outside the program, in words: the disk, the memory, the devices, the network.

An error that is none of these is a bug of the program and keeps its traceback.
"""

import errno
import re
import signal
import traceback

import cv2
import jax

from segjax.errors import InputError
from segjax.train import checkpoints, divergence

_SPACE, _FAILING = (
    'free disk space',
    'start the same command again; if it fails again, look at the file system',
)
_PERMISSION, _PATH = 'check permissions, or another folder', 'another path'
_KINDS = (
    ('ENOSPC EDQUOT EFBIG', 'a place to write to', _SPACE),
    ('EACCES EPERM EROFS', 'a place to write to', _PERMISSION),
    ('ENOTDIR EISDIR EEXIST', 'a place to write to', _PATH),
    ('ENAMETOOLONG ELOOP EILSEQ', 'a path that the file system takes', _PATH),
    ('EIO ESTALE ETIMEDOUT ENODEV ENXIO EREMOTEIO ENOLCK', 'a file system that answers', _FAILING),
    (
        'ENOTCONN EHOSTDOWN EHOSTUNREACH ENETUNREACH ESHUTDOWN',
        'a file system that answers',
        _FAILING,
    ),
    ('EMFILE ENFILE', 'fewer open files', 'ulimit -n 65536, or --config.data.workers=0'),
)
# Not every system has every number.
_ON_DISK = {
    getattr(errno, name): (expected, fix)
    for names, expected, fix in _KINDS
    for name in names.split()
    if hasattr(errno, name)
}
_MEMORY = (
    'smaller config.train.batch_size or augment.crop, more config.train.accumulate, config.train.dtype=bfloat16; '
    'in evaluation config.evaluate.batch_size or data.eval_size; in --mode predict predict.tile or predict.batch_size'
)
_HOST_MEMORY = (
    'smaller config.data.threads, data.workers or data.prefetch; smaller batches (train.batch_size, '
    'evaluate.batch_size); in --mode predict smaller images'
)
_DEVICE = r'CUDA_ERROR|CUDNN|cuDNN|CUBLAS|NCCL|RCCL|hipError|\bECC\b|Xid|TPU.*(halt|unavailable|dead)|PJRT.*lost'
_NETWORK = r'[Gg]loo|heartbeat|[Cc]oordination|Connection (closed|reset|refused)|Socket closed|peer'


def explained(error: BaseException, place: str) -> str | None:
    """Returns what to print for an error from outside, None for any other error.

    Args:
      error: which ended the run.
      place: flag and folder that the mode writes to, for errors of the disk that name no file.
    """
    if isinstance(error, (InputError, divergence.Diverged, checkpoints.CheckpointError)):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error, place)
    if isinstance(error, MemoryError) or (
        isinstance(error, cv2.error) and error.code == cv2.Error.STS_NO_MEM
    ):
        got = str(error).strip().splitlines() or ['no memory left']
        return str(
            InputError(
                'memory of this machine', got=got[-1], expected='enough of it', fix=_HOST_MEMORY
            )
        )
    if isinstance(error, (jax.errors.JaxRuntimeError, RuntimeError, ValueError)):
        return _of_devices(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    if (
        isinstance(error, AssertionError)
        and frames
        and frames[-1].filename.endswith('xla_bridge.py')
    ):
        return _of_devices('Unable to initialize backend: none of $JAX_PLATFORMS is there')
    return None


def _of_system(error: OSError, place: str) -> str | None:
    if error.errno == errno.EPIPE and error.filename is None:
        return 'the reader of the standard output has gone; the same command goes on'
    if error.errno == errno.ENOMEM:
        return str(
            InputError(
                'memory of this machine', got=error.strerror, expected='more', fix=_HOST_MEMORY
            )
        )
    if error.errno not in _ON_DISK:
        return None
    expected, fix = _ON_DISK[error.errno]
    where = str(error.filename or place)
    return str(InputError(where, got=error.strerror, expected=expected, fix=fix))


def _of_devices(text: str) -> str | None:
    """Returns what to print for an error of jax, by its text: the types say nothing."""
    first = (text.strip().splitlines() or [''])[0][:400]
    if 'RESOURCE_EXHAUSTED' in text or re.search(r'[Oo]ut of memory', text):
        return str(
            InputError(
                'memory of the devices', got=first, expected='programs that fit', fix=_MEMORY
            )
        )
    ended = re.search(r'Worker process was terminated unexpectedly with exit code (-?\d+)', text)
    if ended:
        return _of_worker(int(ended.group(1)))
    if re.search(r'[Uu]nable to initialize backend|[Uu]nknown backend|No visible .* devices', text):
        fix = 'look at $JAX_PLATFORMS, at the driver (nvidia-smi), and at the build of jax (bash launch/env.sh)'
        return str(
            InputError(
                'devices', got=first, expected='the accelerator that jax was told to use', fix=fix
            )
        )
    if re.match(r'[A-Z_]+: ', text) and re.search(_DEVICE, text):
        fix = 'look at the device (nvidia-smi, dmesg), then start the same command again'
        return str(InputError('devices', got=first, expected='a device that works', fix=fix))
    if re.match(r'[A-Z_]+: ', text) and re.search(_NETWORK, text):
        fix = 'look at the logs of the other processes, then start the same command again'
        return str(
            InputError(
                'processes',
                got=first,
                expected='all processes, and a network between them',
                fix=fix,
            )
        )
    return None


def _of_worker(code: int) -> str | None:
    """Returns what to print for a loader process that the system has ended, None for one that ended by itself."""
    if code == -signal.SIGBUS:
        got, fix = 'no room left in /dev/shm', 'more shared memory, in docker by --shm-size=8g'
    elif code == -signal.SIGKILL:
        got, fix = 'killed, most likely for want of memory', _HOST_MEMORY
    else:
        return None
    fix = f'--config.data.workers=0, or {fix}'
    return str(
        InputError('a loader process (data.workers)', got=got, expected='enough memory', fix=fix)
    )
