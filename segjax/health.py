"""Stopping in order: at the first step whose numbers are not finite, and at a request to leave (SIGTERM)."""

import signal
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from segjax import parallel
from segjax.protocol import Mean, TrainState
from segjax.trees import named_leaves


class Diverged(RuntimeError):
    """The loss or a parameter is not finite any more."""


class Preempted(Exception):
    """SIGTERM arrived; the state was saved, and the same command resumes."""


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


def check(stage: str, step: int, metrics: Mapping[str, Mean], health: Mapping[str, object], saved_steps) -> None:
    """Raises Diverged unless the loss and all parameters are finite after `step`, with the guilty groups by name."""
    mismatch = int(health.get('replica_mismatch', 0))
    if mismatch:
        raise RuntimeError(f'stage {stage!r}, step {step}: {mismatch} numbers of the state differ between devices')
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


class StopSignal:
    """Turns SIGTERM and the first Ctrl-C into a question that the run asks, so that it can save and leave in order.

    One for a whole run or table: a signal between two stages, or two runs, must not get lost. Of several processes it
    is enough that one was told to stop. All must leave at the same step, so they agree, over the network, at every
    `AGREE_EVERY`th question.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)
    AGREE_EVERY = 8

    def __init__(self):
        self._received = False
        self._agreed = False
        self._asked = 0

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, _):
        self._received = True
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])  # a second Ctrl-C is meant as one

    def check_preparing(self) -> None:
        """Raises Preempted if this process was told to leave while it prepares data.

        Processes do not agree here: one of them prepares, the others wait for it.
        """
        if self._received:
            raise Preempted('the data set is not prepared completely')

    def reached(self) -> bool:
        """Whether to save and leave now. All processes must ask at the same places."""
        if jax.process_count() == 1:
            return self._received
        self._asked += 1
        if self._asked % self.AGREE_EVERY == 0 and not self._agreed:
            self._agreed = parallel.in_any_process(self._received)
        return self._agreed
