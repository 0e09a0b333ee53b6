"""How tests have XLA compile: most of their time goes into programs that run once or twice."""

QUICKLY = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'


def devices(count: int) -> str:
    """$XLA_FLAGS for so many simulated devices."""
    return f'--xla_force_host_platform_device_count={count} {QUICKLY}'
