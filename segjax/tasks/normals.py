"""Surface normals from one image: a net with three output channels, and a cosine loss.

1. The net predicts a vector for each pixel. Its direction is the normal.
2. The loss is 1 - cos of the angle to the true normal, over the pixels with a true normal.
3. Evaluation measures angles at the size of the true normals. It compares with the best of a few
   constant normals, a guess that sees no image.

The data set has a feature 'normals', or the pipeline derives it. Normals point towards the camera.
x points to the right, y down, z forward.

A trained net can score other images (segjax/tasks/scorers.py): `make_scorer`.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.errors import InputError
from segjax.losses import normals as losses
from segjax.metrics import normals as metrics
from segjax.ops import images, resize
from segjax.ops.normals import is_measured, normalised, paint
from segjax.protocol import (
    Array,
    Batch,
    Keys,
    Mean,
    Metrics,
    Picture,
    Prediction,
    PRNGKey,
    PyTree,
    Scores,
    Stage,
    TrainState,
)
from segjax.spec import DataSpec, Feature
from segjax.tasks import scorers, segmentation
from segjax.tasks.evaluation import Evaluation, Pictures
from segjax.tasks.scorers import Training

NET = 'normal_net'
"""Name of the net in a state."""

NORMALS = {
    **scorers.use_section(NET, 'normal net'),
    **scorers.net_section('Net that predicts normals.'),
}
"""Keys of the section `normals`."""

FEATURE = 'normals'
"""Key of the true normals in a batch."""

NUM_OUTPUTS = 3


# --- guesses that see no image --------------------------------------------------------------------


def constants() -> np.ndarray:
    """Returns the constant normals [n, 3] of the baseline, none of which looks away."""
    grid = itertools.product((-1, 0, 1), (-2, -1, 0, 1, 2), (-2, -1, 0))
    vectors = np.array([vector for vector in grid if any(vector)], np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.unique(unit.round(6), axis=0)


def on_images(batch: Batch) -> Array:
    """Returns the true normals at the size of the images of a batch, [B, H, W, 3].

    In evaluation, targets keep the pixels of the files, and images do not.
    """
    normals = batch[FEATURE]
    if 'label_size' not in batch:
        return normals
    return segmentation.to_image(normals, batch, fill=0)


# --- a trained net --------------------------------------------------------------------------------


def make_variables(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    size: tuple[int, int],
    stage: str,
) -> Callable[[PRNGKey, Mapping[str, TrainState]], Mapping[str, PyTree]]:
    """Returns (key, earlier) -> variables of a frozen net, see `scorers.make_variables`.

    Args:
      config: of the run.
      spec: of the data set.
      section: of the keys NORMALS.
      size: (height, width) of the images.
      stage: name of the stage that trains the net.
    """
    net = scorers.make_net(config, section, NUM_OUTPUTS)
    return scorers.make_variables(config, net, NET, size, stage)


def make_scorer(
    config: ml_collections.ConfigDict, spec: DataSpec, section: ml_collections.ConfigDict
) -> Callable[[PyTree, PyTree, Array], Array]:
    """Returns a trained net as a function, for other stages.

    Args:
      config: of the run.
      spec: of the data set.
      section: of the keys NORMALS.

    Returns:
      (params of the net, its batch statistics, image [B, H, W, 3] uint8 or float in 0..255) ->
      unit vectors [B, H, W, 3] float32.
    """
    net = scorers.make_net(config, section, NUM_OUTPUTS)

    def estimate(params: PyTree, model_state: PyTree, image: Array) -> Array:
        outputs, _ = net.apply(params, model_state, image, train=False)
        vectors = outputs['logits'].astype(jnp.float32)
        return normalised(resize.bilinear(vectors, image.shape[1:3]))

    return estimate


# --- the stage ------------------------------------------------------------------------------------


def make_stage(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    *,
    name: str,
    where: str = 'normals',
) -> Stage:
    """Builds the stage that trains and evaluates a net on the true normals of the data set.

    Args:
      config: of the run.
      spec: of the data set.
      section: of the keys NORMALS. Without the keys of `scorers.use_section`, the stage has the
        steps, batch size and augmentation of the run.
      name: of the stage.
      where: key of the section.

    Raises:
      InputError: a data set without normals.
    """
    if FEATURE not in spec.features:
        raise InputError(
            'config.data.name',
            got=f'{spec.name!r}, whose examples have no feature {FEATURE!r}',
            expected='a data set with true normals, such as heads',
            fix='--config.data.name=heads',
        )
    net = scorers.make_net(config, section, NUM_OUTPUTS)
    training = scorers.training_of(config, net, NET, section, where)
    judge = Judge(training, spec.split(config.data.eval_split).num_examples, with_rms=True)
    return stage_of(judge, name)


class Judge(NamedTuple):
    """The inputs that all functions of the evaluation share.

    training      of the net
    num_examples  places of the evaluation split
    with_rms      whether the root mean square of the angles is a score
    guesses       {name: batch -> normals}: predictors that see no image, in addition to constants
    features      of an evaluation batch that `guesses` read
    """

    training: Training
    num_examples: int
    with_rms: bool
    guesses: Mapping[str, Callable[[Batch], Array]] = {}
    features: tuple[str, ...] = ()


def stage_of(judge: Judge, name: str) -> Stage:
    """Builds the stage of a name that trains and evaluates the net of `judge`."""
    training = judge.training
    config = training.config
    return Stage(
        name=name,
        num_steps=training.num_steps,
        train_input=scorers.train_input(training, ('image', FEATURE)),
        eval_input=scorers.eval_input(config, ('image', FEATURE, *judge.features)),
        streams=('dropout',),
        init=scorers.make_init(training),
        train_step=scorers.make_train_step(training, terms, lambda term: 1.0),
        prediction=make_prediction(training),
        **make_evaluation(judge)._asdict(),
    )


def terms(outputs: Mapping, batch: Batch) -> dict[str, Mean]:
    """Returns the loss {'cosine'} of the outputs of the net."""
    vectors = resize.bilinear(outputs['logits'], batch[FEATURE].shape[1:3])
    prediction = normalised(vectors.astype(jnp.float32))
    return {'cosine': losses.cosine(prediction, batch[FEATURE], batch['weight'])}


def make_prediction(training: Training) -> Prediction:
    """Returns the use of the net on image files: an image in, its normals out."""
    infer = scorers.make_infer(training)

    def apply(state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
        return {'normals': normalised(infer(state, batch['image']))}

    return Prediction(
        inputs={'image': Feature('image')},
        outputs={'normals': 'normals'},
        apply=apply,
        size=tuple(training.config.data.eval_size),
    )


# --- evaluation -----------------------------------------------------------------------------------


def make_evaluation(judge: Judge) -> Evaluation:
    """Builds the evaluation of a `Stage` that predicts normals."""
    return Evaluation(
        eval_step=functools.partial(eval_step, judge),
        finalize=functools.partial(finalize, judge),
        monitor=('mean_angle', 'min'),
        render=functools.partial(render, judge),
    )


def predict_normals(judge: Judge, state: TrainState, batch: Batch) -> Array:
    """Returns normals [B, H, W, 3] on the canvas of the true normals."""
    vectors = scorers.make_infer(judge.training)(state, batch['image'])
    shape = batch[FEATURE].shape[1:3]
    return normalised(resize.resize_valid(vectors, batch['size'], shape, batch['label_size']))


def eval_step(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Computes the sums of the angles of the net and of all guesses, as 'guess/score'."""
    truth = batch[FEATURE]
    weight = batch['weight']
    measured = is_measured(truth)
    prediction = predict_normals(judge, state, batch)
    guesses = {'net': prediction}
    for name, guess in judge.guesses.items():
        guesses[name] = guess(batch)
    for place, constant in enumerate(constants()):
        guesses[f'constant_{place}'] = jnp.broadcast_to(constant, truth.shape)

    sums = {}
    for guess, normals in guesses.items():
        angle = metrics.angles(normals, truth)
        of_guess = metrics.angle_sums(angle, measured, weight, judge.with_rms)
        sums |= {f'{guess}/{name}': mean for name, mean in of_guess.items()}

    # Pictures are ranked by the mean cosine of an image: more is better.
    cosine = jnp.where(measured, (prediction * truth).sum(-1), 0.0)
    score = cosine.sum((1, 2)) / jnp.maximum(measured.sum((1, 2)), 1)
    nowhere = jnp.zeros(judge.num_examples)
    sums['image_score'] = Mean(
        nowhere.at[batch['index']].add(score * weight),
        nowhere.at[batch['index']].add(weight),
    )
    return sums


def finalize(judge: Judge, sums: Mapping[str, Mean]) -> Scores:
    """Turns the sums over the evaluation split into scores, and adds those of the guesses."""
    by_guess: dict[str, dict[str, Mean]] = {}
    for key, mean in sums.items():
        guess, _, name = key.partition('/')
        if name:
            by_guess.setdefault(guess, {})[name] = mean
    scores = {guess: metrics.angle_scores(of_guess) for guess, of_guess in by_guess.items()}
    net = scores.pop('net')
    named = {f'baseline_{guess}': scores.pop(guess) for guess in judge.guesses}
    best = min(scores.values(), key=lambda guess: guess['mean_angle'])
    return net | {'baseline_constant': best} | named


def render(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Pictures:
    """Paints predicted and true normals, and the angle between them."""
    truth = batch[FEATURE]
    measured = is_measured(truth)
    prediction = predict_normals(judge, state, batch)
    # Errors of 60 degrees and more have the brightest colour.
    angle = metrics.angles(prediction, truth)
    error = jnp.where(measured, jnp.clip(angle / 60, 0, 1), 0)
    size = batch['label_size']
    mean = jnp.where(measured, angle, 0).sum((1, 2))
    degrees = mean / jnp.maximum(measured.sum((1, 2)), 1)
    return {
        'prediction': Picture(paint(prediction), size=size),
        'truth': Picture(paint(truth), size=size),
        'error': Picture(images.heat(error), size=size, values={'degrees': degrees}),
    }
