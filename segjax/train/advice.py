"""Warns about a config that trains without an error but is probably a mistake.

The doctor prints the warnings, and so does a run before its first step.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_collections

from segjax import config as config_lib
from segjax.protocol import Stage
from segjax.spec import DataSpec


class Advice(NamedTuple):
    """A warning.

    where    a config key
    message  its value, and the consequence
    fix      arguments to type
    """

    where: str
    message: str
    fix: str

    def __str__(self):
        return f'warning: {self.where}\n    {self.message}\n    fix: {self.fix}'


def before_training(
    config: ml_collections.ConfigDict, specs: Mapping[str, DataSpec], stages: Sequence[Stage]
) -> list[Advice]:
    """Returns all warnings for a run that begins.

    Args:
      config: of the run.
      specs: its data sets, by config section.
      stages: of the run.
    """
    sizes = {specs['data'].split(config.data.train_split).max_size: None}
    sizes |= dict.fromkeys(_sizes_of_further_data(specs, stages))
    warnings = without_start(config) + untrained(config, stages)
    for size in sizes:
        warnings += stretched(config, size)
    return warnings


def _sizes_of_further_data(
    specs: Mapping[str, DataSpec], stages: Sequence[Stage]
) -> list[tuple[int, int]]:
    """Returns the sizes of the images of additional data sets that are trained on."""
    sizes = []
    for stage in stages:
        for inputs in stage.train_input.with_unpaired() if stage.train_input else ():
            if inputs.data != 'data' and inputs.augment is not None:
                sizes.append(specs[inputs.data].split(inputs.split).max_size)
    return sizes


def untrained(config: ml_collections.ConfigDict, stages: Sequence[Stage]) -> list[Advice]:
    """Warns of stages without steps and without a source: their nets keep random parameters.

    A stage without training data only evaluates the nets of the stages before it.
    """
    if config.init_from.path or config.init_from.sources:
        return []
    warnings = []
    for stage in stages:
        if stage.num_steps or stage.train_input is None:
            continue
        own = stage.name in config and 'num_steps' in config[stage.name]
        section = stage.name if own else 'train'
        # A stage that no key gives steps evaluates nets that earlier stages train.
        if config[section].num_steps:
            continue
        steps = config_lib.defaults(config.pipeline)[section].num_steps or config.train.num_steps
        message = (
            f'empty, and stage {stage.name!r} has 0 steps: its nets keep their random parameters'
        )
        fix = (
            '--config.init_from.path=RUN with the folder of a run, '
            f'or --config.{section}.num_steps={steps}'
        )
        warnings.append(Advice('config.init_from.path', message, fix))
    return warnings


def without_start(config: ml_collections.ConfigDict) -> list[Advice]:
    """Warns if the published experiment starts from trained weights and this run has none."""
    expected = config.init_from.expected
    if not expected or config.init_from.path or config.init_from.sources:
        return []
    message = f'empty: the net starts at random, but the published net starts from {expected}'
    fix = (
        '--config.init_from.path=FILE, '
        'or --config.init_from.expected= to train from scratch without this warning'
    )
    return [Advice('config.init_from.path', message, fix)]


def stretched(config: ml_collections.ConfigDict, size: tuple[int, int]) -> list[Advice]:
    """Warns if `augment.resize` changes the aspect of images beyond rounding.

    Training stretches images to `augment.resize`. Evaluation keeps their aspect and pads, so the
    net would be evaluated on shapes that it was not trained on.

    Args:
      config: of the run.
      size: (height, width) of an image.
    """
    if not config.augment.resize:
        return []
    height, width = size
    rows, columns = config.augment.resize
    fitting_rows = height * columns / width
    fitting_columns = width * rows / height
    if abs(rows - fitting_rows) <= 1 or abs(columns - fitting_columns) <= 1:
        return []
    by_rows = f'({rows}, {max(1, round(fitting_columns))})'
    by_columns = f'({max(1, round(fitting_rows))}, {columns})'
    message = (
        f'{rows}x{columns} (height x width) stretches images of {height}x{width}: '
        'training and evaluation use different aspects, because evaluation keeps the aspect'
    )
    fix = f'--config.augment.resize="{by_columns}", or --config.augment.resize="{by_rows}"'
    return [Advice('config.augment.resize', message, fix)]
