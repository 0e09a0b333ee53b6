"""How tests have XLA compile: most of their time goes into programs that run once or twice."""

from collections.abc import Mapping

import jaxlib


def quickly(version: str) -> str:
    """Returns $XLA_FLAGS for fast compilation by a jaxlib.

    A flag that the jaxlib does not know would end the process.
    """
    flags = '--xla_backend_optimization_level=0'
    if tuple(map(int, version.split('.')[:2])) < (0, 11):
        # Code in parts is for several cores. It takes a sixth longer on a single core.
        flags += ' --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
    return flags


QUICKLY = quickly(jaxlib.__version__)


def devices(count: int) -> str:
    """Returns $XLA_FLAGS for `count` simulated devices."""
    return f'--xla_force_host_platform_device_count={count} {QUICKLY}'


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that jax must find when tests start.

    Args:
      given: variables of the process. `SEGJAX_TEST_PLATFORM` is cpu (default), cuda, rocm or tpu.
    """
    platform = given.get('SEGJAX_TEST_PLATFORM') or 'cpu'
    if platform == 'cpu':
        # The SPMD tests need eight devices.
        # NPROC keeps their collectives from starving on few cores.
        return {
            'JAX_PLATFORMS': platform,
            'XLA_FLAGS': given.get('XLA_FLAGS', devices(8)),
            'NPROC': given.get('NPROC', '16'),
        }
    # Accelerators round the inputs of matrix products. The references do not.
    precision = given.get('JAX_DEFAULT_MATMUL_PRECISION', 'highest')
    return {'JAX_PLATFORMS': f'{platform},cpu', 'JAX_DEFAULT_MATMUL_PRECISION': precision}
