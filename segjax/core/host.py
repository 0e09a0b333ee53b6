"""Settings of the host: the heap between steps, convolutions of XLA:CPU, and the number of cores.

Heap and convolutions have no effect on programs for a GPU or a TPU. docs/performance.md has the
measurements.
"""

import contextlib
import ctypes
import functools
import math
import os
import pathlib
import platform
import resource

import jax
import jaxlib.version
import ml_collections

from segjax.errors import InputError

KEEP_HEAP = 'SEGJAX_KEEP_HEAP'
"""Environment variable. 0 leaves the heap to the C library."""

# Numbers of glibc's malloc.h, and the values that stop it from returning memory to the system.
_MALLOC_OPTIONS = {'M_MMAP_MAX': (-4, 0), 'M_TRIM_THRESHOLD': (-1, -1), 'M_ARENA_MAX': (-8, 1)}
_MALLOC_VARIABLES = (
    'GLIBC_TUNABLES',
    'MALLOC_ARENA_MAX',
    'MALLOC_MMAP_MAX_',
    'MALLOC_TRIM_THRESHOLD_',
)

_OPTION = 'xla_cpu_experimental_ynn_fusion_type'
# By default, jaxlib gives single products, reductions and single convolutions to YNNPACK. 'xla'
# keeps the convolutions in XLA.
_FUSIONS = {
    'ynn': ('INDIVIDUAL_DOT', 'REDUCE', 'INDIVIDUAL_CONVOLUTION'),
    'xla': ('INDIVIDUAL_DOT', 'REDUCE'),
}
# The jaxlib whose YNNPACK convolutions hardly use more than one core.
_SLOW_YNNPACK = ['0', '10']
# From this `model.width` on, a net is wide.
_WIDE = 0.75


def cores(cgroup: pathlib.Path = pathlib.Path('/sys/fs/cgroup')) -> int:
    """Returns the number of cores that this process may use, at least 1.

    A container may see all cores of its machine but get only a share of their time.

    Args:
      cgroup: folder with the limits of the container, of either version of Linux' control groups.
    """
    if hasattr(os, 'sched_getaffinity'):
        visible = len(os.sched_getaffinity(0))
    else:
        visible = os.cpu_count() or 1
    try:
        if (cgroup / 'cpu.max').exists():
            quota, period = (cgroup / 'cpu.max').read_text(encoding='ascii').split()
        else:
            quota, period = (
                (cgroup / 'cpu' / f'cpu.cfs_{name}_us').read_text(encoding='ascii')
                for name in ('quota', 'period')
            )
        share = math.ceil(float(quota) / float(period))
    except (OSError, ValueError):  # no control groups, or 'max'
        return visible
    return visible if share < 1 else min(visible, share)


def raise_open_files() -> None:
    """Raises this process's limit of open files to the largest allowed number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS refuses an infinite limit.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_heap() -> bool:
    """Stops malloc from returning memory to the system, and returns whether it did.

    XLA:CPU allocates the temporaries of a program anew for every call. glibc maps and unmaps large
    blocks each time, so every step faults in all its pages. The setting holds for the whole
    process. Loader processes do not call this function.

    `SEGJAX_KEEP_HEAP=0` turns the setting off. glibc's own variables take precedence.

    Raises:
      InputError: the variable is neither 0 nor 1.
    """
    chosen = os.environ.get(KEEP_HEAP, '1')
    if chosen not in ('0', '1'):
        raise InputError(f'${KEEP_HEAP}', got=repr(chosen), expected='0 or 1', fix=f'{KEEP_HEAP}=0')
    if chosen == '0' or any(name in os.environ for name in _MALLOC_VARIABLES):
        return False
    if platform.libc_ver()[0] != 'glibc' or jax.default_backend() != 'cpu':
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return min(mallopt(option, value) for option, value in _MALLOC_OPTIONS.values()) == 1


def compiler_options(config: ml_collections.ConfigDict) -> tuple[tuple[str, str], ...]:
    """Returns XLA's options for the programs of a run, as (name, value) pairs.

    There are no options on other backends, in runs of several processes, and if XLA_FLAGS sets the
    same option.

    Args:
      config: `parallel.cpu_convolutions` is 'ynn', 'xla' or 'auto'. 'auto' is 'xla' for a wide net
        on jaxlib 0.10, whose YNNPACK hardly uses more than one core. In all other cases, 'auto' is
        the default of jaxlib. A net is wide unless `model.width` is below 0.75.

    Raises:
      InputError: this jaxlib does not know the option.
    """
    if (
        jax.default_backend() != 'cpu'
        or jax.process_count() > 1
        or _OPTION in os.environ.get('XLA_FLAGS', '')
    ):
        return ()
    convolutions = config.parallel.cpu_convolutions
    if convolutions == 'auto':
        if jaxlib.version.__version__.split('.')[:2] != _SLOW_YNNPACK or not _is_wide(config):
            return ()
        convolutions = 'xla'
    kinds = ','.join(f'LIBRARY_FUSION_TYPE_{kind}' for kind in _FUSIONS[convolutions])
    options = ((_OPTION, kinds),)
    _check(options)
    return options


def _is_wide(config: ml_collections.ConfigDict) -> bool:
    """Returns whether the net of a config is wide. A net without a width is wide."""
    return 'model' not in config or 'width' not in config.model or config.model.width >= _WIDE


@functools.cache
def _check(options: tuple[tuple[str, str], ...]) -> None:
    """Raises InputError unless this jaxlib knows the options."""
    try:
        jax.jit(lambda: 0.0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            'config.parallel.cpu_convolutions',
            got=f'jaxlib {jaxlib.version.__version__}: {error}',
            expected="'auto', because this jaxlib has no choice",
            fix='--config.parallel.cpu_convolutions=auto',
        ) from error
