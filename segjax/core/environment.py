"""The machine and the versions that measured numbers depend on."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

from segjax.core.parallel import Topology

PACKAGES = (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'numpy',
    'grain',
    'tensorflow-datasets',
)


def describe(device_kind: str, num_devices: int, num_processes: int) -> dict[str, Any]:
    """Returns the facts of `environment.json`: devices, host, Python and package versions.

    Args:
      device_kind: name of the devices, e.g. 'cpu' or 'NVIDIA H100'.
      num_devices: devices of all processes.
      num_processes: processes of the run.
    """
    return {
        'device': device_kind,
        'devices': num_devices,
        'processes': num_processes,
        'host cores': os.cpu_count(),
        'platform': platform.platform(),
        'python': platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def describe_topology(topology: Topology) -> dict[str, Any]:
    """Returns the facts of `environment.json` for the devices of a topology and all processes."""
    return describe(topology.devices[0].device_kind, topology.count, jax.process_count())


def version(package: str) -> str:
    """Returns the installed version of a package, 'not installed' without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'
