"""The functions by which a `Stage` is scored and shown."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from segjax.protocol import Array, Batch, Keys, Mean, Metrics, Scores, TrainState


class Evaluation(NamedTuple):
    """The part of a `Stage` that evaluates it: `Stage(**evaluation._asdict(), ...)`.

    The fields are those of `Stage` (segjax/protocol.py).
    """

    eval_step: Callable[[TrainState, Batch, Keys], Metrics]
    finalize: Callable[[Mapping[str, Mean]], Scores]
    monitor: tuple[str, str]
    render: Callable[[TrainState, Batch, Keys], Mapping[str, Array]] | None = None
    predict: Callable[[TrainState, Array], Array] | None = None
