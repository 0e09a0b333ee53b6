"""Compiles programs ahead of time, and reads what they cost."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from segjax.protocol import PyTree


class Program(NamedTuple):
    """A compiled program and its costs, for one device.

    call             the program
    lower_seconds    time of tracing
    compile_seconds  time of compiling
    flops, bytes_accessed  XLA's estimates of one call; None if the backend gives none
    memory           bytes: temporaries, arguments, outputs, the memory that arguments and outputs
                     share, and the peak (temporaries + arguments + outputs - shared); None if the
                     backend gives none
    """

    call: Callable
    lower_seconds: float
    compile_seconds: float
    flops: float | None
    bytes_accessed: float | None
    memory: dict[str, int] | None

    def record(self) -> dict[str, Any]:
        """Returns the costs as bench.json keeps them."""
        return {key: value for key, value in self._asdict().items() if key != 'call'}


def compile_program(mapped: Callable, *args: PyTree) -> Program:
    """Traces and compiles a jitted (or mapped) function without the persistent cache.

    Args:
      mapped: has a method `lower`.
      *args: give the shapes to compile for.
    """
    start = time.perf_counter()
    lowered = mapped.lower(*args)
    between = time.perf_counter()
    with without_compilation_cache():
        compiled = lowered.compile()
    end = time.perf_counter()
    cost = compiled.cost_analysis()
    memory = compiled.memory_analysis()
    return Program(
        call=compiled,
        lower_seconds=between - start,
        compile_seconds=end - between,
        flops=_cost(cost, 'flops'),
        bytes_accessed=_cost(cost, 'bytes accessed'),
        memory=memory and _memory(memory),
    )


def _cost(cost: Mapping[str, float] | None, name: str) -> float | None:
    """Returns an estimate of XLA; None if the backend gives none."""
    return float(cost[name]) if cost and name in cost else None


def _memory(stats) -> dict[str, int]:
    """Returns XLA's memory statistics under the names of `Program.memory`."""
    temporaries = stats.temp_size_in_bytes
    arguments = stats.argument_size_in_bytes
    outputs = stats.output_size_in_bytes
    shared = stats.alias_size_in_bytes
    return {
        'temporaries': temporaries,
        'arguments': arguments,
        'outputs': outputs,
        'shared': shared,
        'peak': temporaries + arguments + outputs - shared,
    }


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Compiles from scratch inside the block: the persistent cache is neither read nor written."""
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update('jax_enable_compilation_cache', False)
        # JAX remembers from the first compilation on whether it uses the cache.
        compilation_cache.reset_cache()
        yield
    finally:
        jax.config.update('jax_enable_compilation_cache', before)
        compilation_cache.reset_cache()
