"""How tests have XLA compile: most of their time goes into programs that run once or twice."""

import jaxlib


def quickly(version: str) -> str:
    """Returns $XLA_FLAGS for fast compilation by a jaxlib; a flag that it does not know would end the process."""
    flags = '--xla_backend_optimization_level=0'
    knows_emitters = tuple(map(int, version.split('.')[:2])) < (0, 11)
    return flags + ' --xla_cpu_use_fusion_emitters=false' * knows_emitters


QUICKLY = quickly(jaxlib.__version__)


def devices(count: int) -> str:
    """$XLA_FLAGS for so many simulated devices."""
    return f'--xla_force_host_platform_device_count={count} {QUICKLY}'
