"""Ends a run at the first step after which the loss or a parameter is not finite."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.core.trees import named_leaves
from segjax.protocol import Metrics, TrainState

SHOWN = 8
"""Number of broken modules that an error names."""


class Diverged(RuntimeError):
    """The loss or a parameter is not finite."""


def finite_by_module(state: TrainState) -> dict[str, jax.Array]:
    """Returns whether the top-level modules of the nets hold only finite numbers.

    {'segmenter/encoder': True, ...}. Batch statistics count with the parameters of their module.
    """
    flags: dict[str, jax.Array] = {}
    for field in ('params', 'model_state'):
        for path, leaf in named_leaves(getattr(state, field)).items():
            parts = path.split('/')
            if field == 'model_state':
                parts.pop(1)  # the name of the collection, 'batch_stats'
            name = '/'.join(parts[:2])
            flags[name] = flags.get(name, True) & jnp.all(jnp.isfinite(leaf))
    return flags


def check_finite(
    stage: str,
    step: int,
    metrics: Metrics,
    flags: Mapping[str, Any],
    saved_steps: Callable[[], Sequence[int]],
) -> None:
    """Raises Diverged unless the loss and all parameters are finite after a step.

    Args:
      stage: name of the stage.
      step: the step.
      metrics: of the step, on the host.
      flags: {'finite': from `finite_by_module`, 'replica_mismatch': optional number of values that
        differ between devices}, on the host.
      saved_steps: returns the steps of the checkpoints.

    Raises:
      Diverged: names the modules with numbers that are not finite.
      RuntimeError: the state differs between devices.
    """
    mismatch = int(flags.get('replica_mismatch', 0))
    if mismatch:
        raise RuntimeError(
            f'stage {stage!r}, step {step}: {mismatch} numbers of the state differ between devices'
        )
    broken = sorted(name for name, finite in flags['finite'].items() if not finite)
    loss = float(metrics['loss'].sum / metrics['loss'].count)
    if not broken and np.isfinite(loss):
        return
    modules = ', '.join(broken[:SHOWN])
    if broken[SHOWN:]:
        modules += f' and {len(broken) - SHOWN} more'
    steps = saved_steps()
    good = f'step {steps[-1]}' if steps else 'none'
    raise Diverged(
        f'stage {stage!r}, step {step}: the loss is {loss}\n'
        f'  got:      not finite after this step: {modules or "the loss alone"}\n'
        f'  expected: finite numbers; last good checkpoint: {good}\n'
        '  fix:      a smaller config.optim.learning_rate, a warm-up, or config.optim.clip_norm'
    )
