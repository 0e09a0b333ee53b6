"""The programs of a stage that are timed, ready to be called on the devices."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from segjax.data import loader, table_rows
from segjax.modes.bench.programs import Program, compile_program
from segjax.protocol import PyTree, Stage, TrainState
from segjax.train import driver, initialization, products

PARTS = ('train', 'evaluate', 'predict')
"""The parts of a stage that are programs."""
INCLUDED = {
    'train': 'batch to the devices, forward, backward, update, metrics',
    'evaluate': 'batch to the devices, forward, metrics at the resolution of the scores',
    'predict': 'tiles to one device, forward; images are tiles',
    'input': 'reading, decoding, augmenting, batching; devices idle',
}
"""The work that the time of each part includes."""


class TimedRun(NamedTuple):
    """One stage of an opened run with its initial state, which is on the host."""

    run: driver.Run
    stage: Stage
    state: TrainState


class Timed(NamedTuple):
    """A call that is timed, and the images that one call processes.

    call        runs the program once
    program     its costs
    batch_size  images of one call
    size        (height, width) of an image
    """

    call: Callable[[], PyTree]
    program: Program
    batch_size: int
    size: tuple[int, int]


def fresh_runs(run: driver.Run, stages: Sequence[Stage]) -> list[TimedRun]:
    """Initialises the first stages of a run in order, each from the fresh stages before it."""
    runs: list[TimedRun] = []
    earlier: dict[str, Any] = {}
    for stage in stages:
        state = initialization.initial_state(run, stage, earlier)
        earlier |= initialization.handed_on(stage, state, products.zeros(stage))
        runs.append(TimedRun(run, stage, state))
    return runs


def prepare(part: str, runs: Mapping[str, TimedRun]) -> dict[str, Timed]:
    """Compiles one of PARTS for those runs whose stage has that part.

    Args:
      part: one of PARTS.
      runs: by name.

    Returns:
      The programs by name, with their states on the devices.
    """
    prepare_run, has_part = {
        'train': (prepare_train, lambda stage: stage.num_steps > 0),
        'evaluate': (prepare_evaluate, lambda stage: True),
        'predict': (prepare_predict, lambda stage: stage.predict is not None),
    }[part]
    return {name: prepare_run(run) for name, run in runs.items() if has_part(run.stage)}


def prepare_train(timed: TimedRun) -> Timed:
    """Compiles an optimiser step. Each call continues from the state of the last call."""
    run, stage, state = timed
    inputs = stage.train_input
    with contextlib.closing(driver.train_batches(run, inputs, 0)) as batches:
        batch = next(batches)
    root = driver.root_key(run, stage, 'train')
    state = run.topology.put_replicated(state)
    train = driver.map_functions(run, stage).train
    program = compile_program(train, state, run.topology.put_batch(batch), root)

    # The step donates its state, so every call needs the state that the last call returned.
    def step():
        nonlocal state
        state, metrics, _ = program.call(state, run.topology.put_batch(batch), root)
        return state, metrics

    return Timed(step, program, inputs.batch_size, inputs.size)


def prepare_evaluate(timed: TimedRun) -> Timed:
    """Compiles an evaluation batch, with metrics and the resize to the labels' own size."""
    run, stage, state = timed
    inputs = stage.eval_input
    source = run.open_input(inputs)
    # This process's share of a batch. A small split repeats its examples.
    num_rows = inputs.batch_size // jax.process_count()
    rows = [table_rows.index_at(source, i % len(source)) for i in range(num_rows)]
    max_size = run.spec_of(inputs).split(inputs.split).max_size
    batch = loader.examples(source, rows, inputs, max_size=max_size)
    root = driver.root_key(run, stage, 'evaluate')
    state = run.topology.put_replicated(state)
    number = np.int32(0)
    evaluate = driver.map_functions(run, stage).evaluate
    program = compile_program(evaluate, state, run.topology.put_batch(batch), root, number)

    def step():
        return program.call(state, run.topology.put_batch(batch), root, number)

    return Timed(step, program, inputs.batch_size, inputs.size)


def prepare_predict(timed: TimedRun) -> Timed:
    """Compiles a batch of tiles on one device. The images of the result are tiles."""
    run, stage, state = timed
    settings = run.config.predict
    size = tuple(settings.tile) or tuple(run.config.data.eval_size)
    shape = (settings.batch_size, *size, 6 if stage.predict_planes else 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    state = jax.device_put(state, jax.local_devices()[0])
    program = compile_program(run.topology.jit(stage.predict), state, images)
    return Timed(lambda: program.call(state, images), program, settings.batch_size, size)
