"""Learning rates of the published trainings, and of the configs."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.published_number import Number, digits
from benchmarks.published_trainings import (
    BICYCLE,
    CYCLEGAN,
    ERFNET,
    PIX2PIXHD,
    SECTION_3,
    SECTION_4,
    SECTION_5,
    SECTION_6,
    SECTION_7,
    SFMLEARNER,
    SISM,
    TORCHSEG,
    value_of,
)
from segjax.core import optim

MOMENTS = {
    'at first': 0.0,
    'after a fifth': 0.2,
    'after two fifths': 0.4,
    'half-way': 0.5,
    'after three quarters': 0.75,
    'at the end': 1.0,
}
"""Name of a time -> share of the steps."""
LAST = 'in the last step'


def rate_of(config: str, section: str, steps: str, moment: str, divisor: float = 1.0) -> float:
    """Returns a learning rate of a config.

    Args:
      config: as in `load`.
      section: of the optimiser, as 'optim'.
      steps: key of the number of steps.
      moment: a key of MOMENTS, or LAST.
      divisor: of the rate.
    """
    num_steps = value_of(config, steps)
    step = num_steps - 1 if moment == LAST else int(MOMENTS[moment] * num_steps)
    return float(optim.schedule(value_of(config, section), num_steps)(step)) / divisor


def rates(
    config: str,
    source: str,
    *rows: tuple[Any, ...],
    section: str = 'optim',
    steps: str = 'train.num_steps',
    divisor: float = 1.0,
) -> list[Number]:
    """Returns learning rates of a training.

    Args:
      config: as in `load`.
      source: of the formula.
      *rows: (moment, published) or (moment, published, reason of a difference).
      section: of the optimiser.
      steps: key of the number of steps.
      divisor: of the rate.
    """
    numbers = []
    for moment, published, *reason in rows:
        compute = functools.partial(rate_of, config, section, steps, moment, divisor)
        quantity = f'`{config}`: {section}, {moment}'
        numbers.append(Number(quantity, published, source, compute, digits(4), *reason))
    return numbers


def linear_tail(rate: float) -> Sequence[tuple[str, float]]:
    """Returns a rate that is constant for half of the steps, and then falls linearly to 0."""
    return (
        ('at first', rate),
        ('half-way', rate),
        ('after three quarters', rate / 2),
        ('at the end', 0.0),
    )


WHOLE_EPOCHS = 'The release lowers the rate after each epoch, segjax after each step'
POLY = {
    'learned_dilation': (SECTION_4, 1e-3, 5.359e-4, 1.346e-7),
    'learned_dilation:net=deeplab_v2': (SECTION_4, 2.5e-4, 1.340e-4, 3.365e-8),
    'learned_dilation:net=pspnet': (SECTION_4, 1e-4, 5.359e-5, 1.346e-8),
    'learned_dilation:camvid,net=deeplab_v2': (SECTION_4, 2.5e-4, 1.340e-4, 4.360e-8),
    'learned_dilation:camvid,net=pspnet': (SECTION_4, 1e-4, 5.359e-5, 2.512e-8),
    'scene_geometry': (TORCHSEG, 1e-2, 5.359e-3, 3.866e-7),
    'dropout_codes': (SECTION_5, 1e-4, 5.359e-5, 3.477e-9),
    'dropout_codes:pets': (SECTION_5, 1e-4, 5.359e-5, 2.902e-9),
    'dense_features': (SECTION_6, 1e-6, 5.359e-7, 2.512e-10),
    'dense_features:ade20k': (SECTION_6, 1e-7, 5.359e-8, 2.512e-11),
}
"""Config -> source, and the rate at first, half-way and in the last of T steps.

The factors of (1 - t / T)^0.9 were worked out by hand: 1, 0.5^0.9 = 0.5359 and T^-0.9.
"""

SHADOWS = {
    'membership:bdd100k': (SECTION_7, 1e-2, 5.359e-3, 9.345e-7),
    'membership:vistas': (SECTION_7, 2e-2, 1.072e-2, 1.869e-6),
}
"""The same of the nets of the adversary."""


def poly_rates(trainings: Mapping[str, tuple[Any, ...]], **keys: str) -> list[Number]:
    """Returns the learning rates of POLY or of SHADOWS. `keys` are those of `rates`."""
    numbers = []
    for config, (source, first, middle, last) in trainings.items():
        rows = (('at first', first), ('half-way', middle), (LAST, last))
        numbers += rates(config, source, *rows, **keys)
    return numbers


def constant(rate: float) -> Sequence[tuple[str, float]]:
    """Returns a rate that stays."""
    return (('at first', rate), ('half-way', rate), (LAST, rate))


RATES = (
    *rates(
        'supervised',
        ERFNET,
        ('at first', 5e-4),
        ('half-way', 2.679e-4),
        (LAST, 5.503e-6, WHOLE_EPOCHS),
    ),
    *poly_rates(POLY),
    *poly_rates(SHADOWS, section='shadow.optim', steps='shadow.num_steps'),
    *rates('noise_cyclegan', CYCLEGAN, *linear_tail(2e-4)),
    *rates('noise_cyclegan', CYCLEGAN, *linear_tail(2e-4), section='optim_discriminator'),
    *rates('label_to_image', PIX2PIXHD, *linear_tail(2e-4), section='painter.optim'),
    *rates('conditional_gan', BICYCLE, *linear_tail(2e-4), section='bicycle.optim'),
    *rates(
        'dense_features',
        BICYCLE,
        *linear_tail(2e-4),
        section='bicycle.optim',
        steps='features.num_steps',
    ),
    *rates('semantic_inpainting', SISM, *constant(2e-5)),
    *rates('std2p', f'{SECTION_3}, a sum over 425x560 pixels', *constant(1e-14), divisor=238_000),
    *rates(
        'scene_geometry',
        SFMLEARNER,
        *constant(2e-4),
        section='optim_depth',
        steps='depth.num_steps',
    ),
    *rates(
        'shape_classifier',
        f'{SISM}: x 0.7 every 10 of 50 epochs',
        ('at first', 1e-5),
        ('after a fifth', 7e-6),
        ('after two fifths', 4.9e-6),
        (LAST, 2.401e-6),
        section='shapes.optim',
    ),
)
"""Learning rates at several times of a training."""
