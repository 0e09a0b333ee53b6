"""Ends a run at the first step whose loss or parameters are not finite."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from segjax.core.trees import named_leaves
from segjax.protocol import Mean, TrainState


class Diverged(RuntimeError):
    """The loss or a parameter is not finite any more."""


def finite_by_module(state: TrainState) -> dict[str, jax.Array]:
    """{'segmenter/encoder': True, ...}: which top-level modules of which nets hold only finite numbers."""
    flags: dict[str, jax.Array] = {}
    for field in ('params', 'model_state'):
        for path, leaf in named_leaves(getattr(state, field)).items():
            parts = path.split('/')
            if field == 'model_state':
                parts.pop(1)  # the collection's name, 'batch_stats'
            name = '/'.join(parts[:2])
            flags[name] = flags.get(name, True) & jnp.all(jnp.isfinite(leaf))
    return flags


def check_finite(
    stage: str, step: int, metrics: Mapping[str, Mean], health: Mapping[str, object], saved_steps
) -> None:
    """Raises Diverged unless the loss and all parameters are finite after `step`, with the guilty groups by name."""
    mismatch = int(health.get('replica_mismatch', 0))
    if mismatch:
        raise RuntimeError(
            f'stage {stage!r}, step {step}: {mismatch} numbers of the state differ between devices'
        )
    broken = sorted(name for name, finite in health['finite'].items() if not finite)
    loss = float(metrics['loss'].sum / metrics['loss'].count)
    if not broken and np.isfinite(loss):
        return
    groups = ', '.join(broken[:8]) + (f' and {len(broken) - 8} more' if broken[8:] else '')
    steps = saved_steps()
    raise Diverged(
        f'stage {stage!r}, step {step}: the loss is {loss}\n'
        f'  got:      not finite after this step: {groups or "the loss alone"}\n'
        f'  expected: finite numbers; last good checkpoint: {f"step {steps[-1]}" if steps else "none"}\n'
        '  fix:      a smaller config.optim.learning_rate, a warm-up, or config.optim.clip_norm'
    )
