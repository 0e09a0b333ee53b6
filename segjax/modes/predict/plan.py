"""Plans how images are scaled and cut into tiles for a prediction."""

from typing import NamedTuple

import ml_collections
import numpy as np

from segjax.errors import InputError
from segjax.spec import DataSpec


class PredictPlan(NamedTuple):
    """How images are scaled and cut.

    tile, overlap, scales, batch_size  as in config.predict
    mirror      whether the mirrored tile is predicted in addition
    eval_size   (height, width) into which images are fitted
    base_scale  the smallest scale, at which all larger images are predicted
    """

    tile: tuple[int, int]
    overlap: float
    scales: tuple[float, ...]
    mirror: bool
    batch_size: int
    eval_size: tuple[int, int]
    base_scale: float


def make_predict_plan(config: ml_collections.ConfigDict, spec: DataSpec) -> PredictPlan:
    """Builds the plan that a config describes.

    Raises:
      InputError: no scales, or a scale that is not positive.
    """
    settings = config.predict
    scales = tuple(float(s) for s in settings.scales)
    if not scales or min(scales) <= 0:
        fix = '--config.predict.scales="(1.0,)"'
        raise InputError(
            'config.predict.scales', got=str(scales), expected='one or more numbers > 0', fix=fix
        )
    eval_size = tuple(config.data.eval_size)
    return PredictPlan(
        tile=tuple(settings.tile) or eval_size,
        overlap=settings.overlap,
        scales=scales,
        mirror=settings.flip,
        batch_size=settings.batch_size,
        eval_size=eval_size,
        base_scale=base_scale(config, spec),
    )


def base_scale(config: ml_collections.ConfigDict, spec: DataSpec) -> float:
    """Returns the scale at which the net sees the largest evaluation image of the data set.

    It is the minimum over both axes of eval_size / max_size.
    """
    max_size = spec.split(config.data.eval_split).max_size
    return float(np.min(np.array(config.data.eval_size) / max_size))


def net_sizes(size: tuple[int, int], plan: PredictPlan) -> list[tuple[int, int]]:
    """Returns the sizes (height, width) at which the net sees an image of `size`, one per scale."""
    fitting = min(net / own for net, own in zip(plan.eval_size, size))
    scale = max(plan.base_scale, fitting)
    sizes = []
    for factor in plan.scales:
        sizes.append(tuple(max(1, round(length * scale * factor)) for length in size))
    return sizes
