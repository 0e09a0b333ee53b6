"""Errors from outside the program come without a traceback. Bugs keep their traceback."""

import errno
import os

import jax
import pytest

from segjax.errors import InputError, first_line
from segjax.train import failures


@pytest.mark.parametrize(
    'name, fragment',
    [
        *(
            ('ENOSPC', 'free disk space'),
            ('EDQUOT', 'free disk space'),
            ('EFBIG', 'free disk space'),
        ),
        *(
            ('EACCES', 'check permissions'),
            ('EROFS', 'check permissions'),
            ('EPERM', 'check permissions'),
        ),
        *(
            ('EIO', 'same command again'),
            ('ESTALE', 'same command again'),
            ('ETIMEDOUT', 'same command again'),
        ),
        *(
            ('ENOTCONN', 'same command again'),
            ('EHOSTDOWN', 'same command again'),
            ('ENOLCK', 'same command again'),
        ),
        *(('EMFILE', 'ulimit -n'), ('ENAMETOOLONG', 'another path'), ('EISDIR', 'another path')),
    ],
)
def test_errors_of_the_disk_name_the_file_and_a_way_out(name, fragment):
    number = getattr(errno, name)
    message = failures.explained(OSError(number, os.strerror(number), '/runs/x'), '--workdir /runs')
    assert message.startswith(f'/runs/x\n  got:      {os.strerror(number)}') and fragment in message
    assert failures.explained(OSError(number, os.strerror(number)), '--workdir /runs').startswith(
        '--workdir /runs\n'
    )


@pytest.mark.parametrize(
    'error, fragments',
    [
        (
            MemoryError('Unable to allocate 8 GiB'),
            ['memory of this machine', '8 GiB', 'data.prefetch'],
        ),
        (
            OSError(errno.ENOMEM, 'Cannot allocate memory'),
            ['memory of this machine', 'data.threads'],
        ),
        (
            jax.errors.JaxRuntimeError(
                'RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore'
            ),
            [
                'memory of the devices',
                'train.batch_size',
                'train.accumulate',
                'predict.tile',
                'data.eval_size',
            ],
        ),
        (
            jax.errors.JaxRuntimeError('INTERNAL: CUDA_ERROR_ECC_UNCORRECTABLE: x'),
            ['devices', 'nvidia-smi'],
        ),
        (jax.errors.JaxRuntimeError('INTERNAL: NCCL operation failed'), ['devices', 'NCCL']),
        (
            ValueError('UNKNOWN: Gloo AllGather failed: Connection closed by peer'),
            ['processes', 'logs'],
        ),
        (RuntimeError("Unable to initialize backend 'cuda': no device"), ['JAX_PLATFORMS', 'cuda']),
        (
            RuntimeError('Worker process was terminated unexpectedly with exit code -7. See'),
            ['/dev/shm', 'workers=0'],
        ),
        (
            RuntimeError('Worker process was terminated unexpectedly with exit code -9. See'),
            ['killed', 'workers=0'],
        ),
        (BrokenPipeError(errno.EPIPE, 'Broken pipe'), ['standard output']),
        (InputError('x', got='y', expected='z'), ['x\n  got:      y']),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_errors_from_outside(error, fragments):
    message = failures.explained(error, '/runs')
    for fragment in fragments:
        assert fragment in message
    assert '\nmore' not in message


@pytest.mark.parametrize(
    'error',
    [
        *(
            TypeError('a bug'),
            ValueError('shapes do not match'),
            RuntimeError('a bug'),
            KeyError('key'),
        ),
        *(
            jax.errors.JaxRuntimeError('INVALID_ARGUMENT: a bug'),
            OSError(errno.EBADF, 'Bad file descriptor'),
        ),
        RuntimeError('Worker process was terminated unexpectedly with exit code 1. See'),
        *(
            ValueError('a peer of the net'),
            FileNotFoundError(errno.ENOENT, 'no such file', 'x'),
            AssertionError(),
        ),
    ],
    ids=repr,
)
def test_a_bug_is_not_explained_away(error):
    assert failures.explained(error, '/runs') is None


@pytest.mark.parametrize(
    'error, line',
    [
        (ValueError('first\nsecond'), 'first'),
        (ValueError('\n\n  second line\n'), 'second line'),
        (ValueError(), 'ValueError'),
        ('text\nmore', 'text'),
        ('', ''),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line
