"""The functions by which a `Stage` is scored and shown."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from segjax.protocol import (
    Array,
    Batch,
    Keys,
    LabelMaps,
    Mean,
    Metrics,
    Picture,
    Scores,
    TrainState,
)

Pictures = dict[str, Array | Picture]
"""The result of `Stage.render`."""


class Evaluation(NamedTuple):
    """The part of a `Stage` that evaluates it: `Stage(**evaluation._asdict(), ...)`.

    The fields are those of `Stage` (segjax/protocol.py).
    """

    eval_step: Callable[[TrainState, Batch, Keys], Metrics]
    finalize: Callable[[Mapping[str, Mean]], Scores]
    monitor: tuple[str, str]
    render: Callable[[TrainState, Batch, Keys], Pictures] | None = None
    label_maps: Callable[[TrainState, Batch, Keys], LabelMaps] | None = None
    predict: Callable[[TrainState, Array], Array] | None = None


def of_images(pictures: Pictures, batch: Batch) -> Pictures:
    """Marks plain arrays as pictures of the evaluation images, which lose the padding of images.

    Args:
      pictures: by panel. A `Picture` remains unchanged.
      batch: an evaluation batch, whose size is read.
    """
    sized: Pictures = {}
    for panel, picture in pictures.items():
        known = isinstance(picture, Picture)
        sized[panel] = picture if known else Picture(picture, batch['size'])
    return sized
