"""The ways in which a stage predicts, as pure functions of a state and of named inputs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from segjax.core import rng
from segjax.data import kinds
from segjax.modes.predict import prediction
from segjax.modes.predict.run import TILES
from segjax.protocol import Array, Stage, TrainState
from segjax.spec import Feature
from segjax.train.run import Run

DRAW = 'draw'
"""Input that chooses the random numbers of an example: 32 bits of its name (`rng.name_digest`)."""
SIZE = 'size'
"""Input with the (height, width) of the part of an example without padding."""
PROBABILITIES = 'probabilities'
"""Output of a stage with `predict`."""


class Use(NamedTuple):
    """A way in which a stage predicts.

    apply     (state, {name: [B, ...]}) -> {name: [B, ...]}, pure
    inputs    {name: shape and type} of an example, without the batch
    features  {name: Feature} of the inputs that a data set could have
    outputs   {name: kind}, as in `Prediction.outputs`
    size      (height, width) of maps
    """

    apply: Callable[[TrainState, Mapping[str, Array]], Mapping[str, Array]]
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    features: Mapping[str, Feature]
    outputs: Mapping[str, str]
    size: tuple[int, int]


def use_of(run: Run, stage: Stage, method: str) -> Use:
    """Returns the use of a stage.

    Args:
      run: the run.
      stage: can predict by `method`.
      method: 'tiles' or 'prediction', as in config.predict.method.
    """
    return _tiles(run, stage) if method == TILES else _declared(run, stage)


def _tiles(run: Run, stage: Stage) -> Use:
    """Returns the class probabilities of a tile."""
    size = tuple(run.config.predict.tile) or tuple(run.config.data.eval_size)
    channels = 6 if stage.predict_planes else 3
    predict = stage.predict

    def apply(state: TrainState, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {PROBABILITIES: predict(state, inputs['image'])}

    return Use(
        apply=apply,
        inputs={'image': jax.ShapeDtypeStruct((*size, channels), 'uint8')},
        features={'image': Feature('image')},
        outputs={PROBABILITIES: 'probabilities'},
        size=size,
    )


def _declared(run: Run, stage: Stage) -> Use:
    """Returns the declared prediction of a stage."""
    declared = prediction.completed(stage.prediction)
    spec = run.spec_of(stage.eval_input)
    settings = prediction.Settings(
        declared, spec.classes, batch_size=1, depth_unit=run.config.predict.depth_unit
    )
    function = prediction.apply_with_keys(declared)
    seed = run.config.seed

    # The weight is 1 in every row, because a caller fills no batch.
    inputs = {}
    for name, rows in prediction.batch_shapes(settings).items():
        if name != 'weight':
            inputs[name] = jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
    inputs[DRAW] = jax.ShapeDtypeStruct((), 'uint32')

    def apply(state: TrainState, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        draws = inputs[DRAW]
        batch = {name: value for name, value in inputs.items() if name != DRAW}
        batch['weight'] = jnp.ones(draws.shape, jnp.float32)
        root = rng.root(seed, stage.name, 'predict')
        return function(state, batch, draws, root)

    return Use(apply, inputs, declared.inputs, declared.outputs, tuple(declared.size))


def kind_of(use: Use, name: str) -> str:
    """Returns the kind of an input, '' for inputs that no data set has."""
    return use.features[name].kind if name in use.features else ''


def described(use: Use, name: str) -> dict[str, Any]:
    """Returns kind, shape and type of an input of an example, for export.json."""
    shape = use.inputs[name]
    meaning = kind_of(use, name) or {DRAW: 'random numbers', SIZE: 'height and width'}[name]
    return {'kind': meaning, 'shape': shape.shape, 'dtype': str(shape.dtype)}


def is_map(use: Use, name: str) -> bool:
    """Returns whether an input has the axes (height, width)."""
    return name in use.features and kinds.kind_of(name, use.features).is_map
