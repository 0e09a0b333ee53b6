"""The functions of a stage, mapped over the devices, and the random keys that they get."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from segjax.core import parallel, rng
from segjax.data import kinds
from segjax.protocol import Batch, Input, Stage, TrainState
from segjax.train import divergence
from segjax.train.batches import declared_in_batch, training_input
from segjax.train.run import Run


class Functions(NamedTuple):
    """The functions of a stage, mapped over the devices. Each compiles at its first call.

    train     (state, batch, root key) -> (state, metrics, flags). Its state is donated
    evaluate  (state, batch, root key, batch number) -> (metrics, outputs). The outputs of
              `Stage.observation` stay split over the devices; {} for a stage without
    measure   the same for the examples of `Stage.hand_on`; None for a stage without
    """

    train: Callable
    evaluate: Callable
    measure: Callable | None


def map_functions(run: Run, stage: Stage) -> Functions:
    """Wraps the pure functions of a stage with keys, sums over devices and flags, and maps them."""

    def train_step(state: TrainState, batch, root):
        keys = stage_keys(stage, root, state.step, parallel.device_index(), state.step)
        batch = batch_in_step(run, training_input(stage), batch)
        state, metrics = stage.train_step(state, batch, keys)
        flags: dict[str, Any] = {'finite': divergence.finite_by_module(state)}
        if run.config.parallel.check_replicas:
            flags['replica_mismatch'] = parallel.replica_mismatch(state)
        return state, parallel.sum_over_devices(dict(metrics)), flags

    observe = stage.observation.outputs if stage.observation is not None else None
    evaluate = _evaluation(run, stage, stage.eval_input, stage.eval_step, observe)
    return Functions(
        train=run.topology.spmd(train_step, num_args=3, donate=(0,)),
        evaluate=run.topology.spmd(evaluate, num_args=4, split=(False, True)),
        measure=_map_measure(run, stage),
    )


def _map_measure(run: Run, stage: Stage) -> Callable | None:
    """Maps the measurement of `Stage.hand_on` over the devices, None if there is none."""
    hand_on = stage.hand_on
    if hand_on is None or hand_on.inputs is None or hand_on.eval_step is None:
        return None
    evaluate = _evaluation(run, stage, hand_on.inputs, hand_on.eval_step)

    # A program of its own name: profiles and tests tell it from the evaluation.
    def measure(state: TrainState, batch, root, number):
        return evaluate(state, batch, root, number)

    return run.topology.spmd(measure, num_args=4, split=(False, True))


def batch_in_step(run: Run, inputs: Input, batch: Batch) -> dict[str, jax.Array]:
    """Returns a batch of the loader with the types that the functions of a stage see.

    Every function that gets a batch on the device calls this first, because labels travel as uint8.

    Args:
      run: the run.
      inputs: the input of the batch.
      batch: its arrays, traced or not.
    """
    return kinds.in_step(batch, declared_in_batch(run, inputs))


def _evaluation(
    run: Run,
    stage: Stage,
    inputs: Input,
    eval_step: Callable,
    outputs: Callable | None = None,
) -> Callable:
    """Returns an evaluation step with the batch, keys and sums that each device needs.

    Metrics and outputs come from one program, in which XLA shares the forward pass of the net.

    Args:
      run, stage: as in `map_functions`.
      inputs: the input of its batches.
      eval_step: (state, batch, keys) -> metrics.
      outputs: (state, batch, keys) -> {name: [B, ...]}, or None.
    """

    def evaluate(state: TrainState, batch, root, number):
        keys = stage_keys(stage, root, number, parallel.device_index(), 0)
        batch = batch_in_step(run, inputs, batch)
        metrics = parallel.sum_over_devices(dict(eval_step(state, batch, keys)))
        return metrics, dict(outputs(state, batch, keys)) if outputs is not None else {}

    return evaluate


def root_key(run: Run, stage: Stage, use: str) -> jax.Array:
    """Returns the key from which a use of a stage ('train', 'evaluate') derives its streams."""
    return rng.root(run.config.seed, stage.name, use)


def stage_keys(stage: Stage, root: jax.Array, step, device, shared_step) -> dict[str, jax.Array]:
    """Returns the keys of all streams of a stage, for one call on one device.

    Args:
      stage: the stage.
      root: from `root_key`.
      step: number of the call, folded into `Stage.streams`.
      device: position of the device, folded into `Stage.streams`.
      shared_step: number folded into `Stage.shared_streams`, equal on all devices.
    """
    own = rng.streams(root, stage.streams, step, device)
    return own | rng.streams(root, stage.shared_streams, shared_step, 0)
