"""The training batches of a run."""

import contextlib

import jax

from segjax.core import rng
from segjax.data import loader
from segjax.data.loader import Batches
from segjax.protocol import Input, Stage
from segjax.spec import Feature
from segjax.train.run import Run


def training_input(stage: Stage) -> Input:
    """Returns the training input of a stage that has steps: only a stage of 0 steps has none."""
    assert stage.train_input is not None, f'stage {stage.name!r} has no training input'
    return stage.train_input


def declared_in_batch(run: Run, inputs: Input) -> dict[str, Feature]:
    """Returns the declared features of the batches of an input, by key of the batch.

    A feature 'heat' of an unpaired input `photo` has the key 'photo/heat'.
    """
    declared = loader.declared_of(inputs, run.spec_of(inputs))
    for name, unpaired in inputs.unpaired:
        for key, feature in declared_in_batch(run, unpaired).items():
            declared[f'{name}/{key}'] = feature
    return declared


def train_batches(run: Run, inputs: Input, start_step: int) -> Batches:
    """Returns this process's training batches from a step on. Close it.

    Args:
      run: the run.
      inputs: `Stage.train_input`. Each of its unpaired inputs has an order of its own.
      start_step: steps that are done already.
    """

    def open_input(each: Input, seed: int) -> loader.BatchIterator:
        batches = loader.train_iterator(
            run.open_input(each),
            each,
            seed=seed,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            data_config=run.config.data,
        )
        return opened.enter_context(contextlib.closing(batches))

    # If an input cannot be opened, the stack closes the inputs before it.
    with contextlib.ExitStack() as opened:
        batches = open_input(inputs, run.config.seed)
        unpaired = {
            name: open_input(each, rng.derived_seed(run.config.seed, name))
            for name, each in inputs.unpaired
        }
        opened.pop_all()
    return loader.SideBySide(batches, unpaired) if unpaired else batches
