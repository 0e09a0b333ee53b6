"""Landmarks of an image: a net with a heat map for each point, and its soft-argmax.

1. A segmentation net predicts a map for each of the n points. The point is the expected position of
   the softmax of its map (`heat_maps.expected_points`).
2. The loss compares the coordinates, in per cent of the image width (`loss.form`). It adds the
   divergence of the maps from Gaussians around the true points (`loss.heat_map`):

       L = points L_coordinates(p, t) + heat_map KL(Gaussian(t) || softmax(map))

3. Evaluation measures distances by the image width and by the distance of the eyes. It compares
   with the mean shape of the training images, a guess that sees no image.

The data set has a feature of kind 'points', 'points_face' by default. Absent points and points
outside of an augmented image count nowhere. A flip swaps the pairs that the feature declares.

A trained net can score other images (segjax/tasks/scorers.py): `make_scorer`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.core import means, parallel
from segjax.data import kinds
from segjax.errors import InputError
from segjax.losses import landmarks as losses
from segjax.metrics import confusion
from segjax.metrics import landmarks as metrics
from segjax.metrics.curves import curve
from segjax.ops import heat_maps, resize
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
from segjax.schema import Field, above, at_least, is_whole, one_of
from segjax.spec import DataSpec, Feature
from segjax.tasks import scorers, segmentation
from segjax.tasks.evaluation import Evaluation, Pictures
from segjax.tasks.scorers import Training

NET = 'landmark_net'
"""Name of the net in a state."""

FEATURE = 'points_face'
"""Key of the true points in a batch."""

MEAN_SHAPE = 'mean_shape'
"""Entry of `TrainState.extra`: sum and number of the training points, as shares of the image."""


def _eyes(value: Iterable) -> str | None:
    """Checks the numbers of two points, or the empty tuple."""
    numbers = tuple(value)
    ok = len(numbers) in (0, 2) and all(is_whole(number) and number >= 0 for number in numbers)
    return None if ok else 'the numbers of two points, as (36, 45), or ()'


LANDMARK_NET = {
    **scorers.net_section('Net that predicts a heat map for each landmark.'),
    'loss': {
        'form': Field('wing', 'Loss of a coordinate.', one_of(*losses.FORMS)),
        'points': Field(1.0, 'Weight of the loss of the coordinates.', at_least(0)),
        'wing_width': Field(
            4.0,
            'Loss wing: error from which the loss is linear, in per cent of the image width.',
            above(0),
        ),
        'wing_curvature': Field(
            0.8,
            'Loss wing: curvature of the logarithm, in per cent of the image width.',
            above(0),
        ),
        'heat_map': Field(
            10.0, 'Weight of the divergence of the heat maps from Gaussians.', at_least(0)
        ),
        'sigma': Field(
            2.0,
            'Standard deviation of the Gaussians of the heat maps, in per cent of the image width.',
            above(0),
        ),
    },
    'eyes': Field(
        metrics.EYES,
        'Numbers of the two points whose distance normalises the NME. (): no NME.',
        _eyes,
    ),
}
"""Keys of a section of a pipeline that only trains a landmark net."""

LANDMARKS = {**scorers.use_section(NET, 'landmark net'), **LANDMARK_NET}
"""Keys of the section `landmarks` of a pipeline with further stages."""

MONITOR = 'width_error'
"""Score of the best checkpoint."""

LIMITS = np.arange(0.5, 20.5, 0.5)
"""Limits of the cumulative distribution of the NME, in per cent."""

LIMIT = 5
"""Limit of the score 'accuracy_5', in per cent."""

PREDICTED, TRUE = (235, 60, 50), (60, 200, 90)
"""RGB of drawn points."""

RADIUS = 1.5
"""Radius of a drawn point in pixels of the enlarged picture."""

PICTURE = 256
"""Height and width of a drawn picture, which smaller images reach by whole factors."""


# --- a trained net --------------------------------------------------------------------------------


def points_feature(spec: DataSpec, feature: str = FEATURE) -> Feature:
    """Returns the declaration of the true points.

    Args:
      spec: of the data set.
      feature: its key.

    Raises:
      InputError: a data set without such points.
    """
    if feature not in spec.features:
        raise InputError(
            'config.data.name',
            got=f'{spec.name!r}, whose examples have no feature {feature!r}',
            expected='a data set with landmarks, such as faces',
            fix='--config.data.name=faces',
        )
    return kinds.feature_of(feature, spec.declared)


def make_net(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    feature: str = FEATURE,
) -> segmentation.Net:
    """Builds the net of a section. Arguments: `make_scorer`."""
    num_points, _ = points_feature(spec, feature).shape
    return scorers.make_net(config, section, num_points)


def make_variables(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    size: tuple[int, int],
    stage: str,
    feature: str = FEATURE,
) -> Callable[[PRNGKey, Mapping[str, TrainState]], Mapping[str, PyTree]]:
    """Returns (key, earlier) -> variables of a frozen net, see `scorers.make_variables`.

    Args:
      config: of the run.
      spec: of the data set.
      section: of the keys LANDMARKS.
      size: (height, width) of the images.
      stage: name of the stage that trains the net.
      feature: key of the true points.
    """
    net = make_net(config, spec, section, feature)
    return scorers.make_variables(config, net, NET, size, stage)


def make_scorer(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    feature: str = FEATURE,
) -> Callable[[PyTree, PyTree, Array], Array]:
    """Returns a trained net as a function, for other stages.

    Args:
      config: of the run.
      spec: of the data set.
      section: of the keys LANDMARKS.
      feature: key of the true points.

    Returns:
      (params of the net, its batch statistics, image [B, H, W, 3] uint8 or float in 0..255) ->
      points [B, n, 2] float32 in pixels.
    """
    net = make_net(config, spec, section, feature)

    def detect(params: PyTree, model_state: PyTree, image: Array) -> Array:
        outputs, _ = net.apply(params, model_state, image, train=False)
        return heat_maps.expected_points(outputs['logits'], image.shape[1:3])

    return detect


# --- the stage ------------------------------------------------------------------------------------


class System(NamedTuple):
    """The inputs that all functions of the stage share.

    training      of the net
    section       of the keys LANDMARK_NET
    feature       key of the true points
    num_points    n
    num_examples  places of the evaluation split
    """

    training: Training
    section: ml_collections.ConfigDict
    feature: str
    num_points: int
    num_examples: int


def make_stage(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    *,
    name: str,
    where: str = 'landmarks',
    feature: str = FEATURE,
) -> Stage:
    """Builds the stage that trains and evaluates a net on the landmarks of the data set.

    Args:
      config: of the run.
      spec: of the data set.
      section: of the keys LANDMARKS, or of LANDMARK_NET. With the latter, the stage has the steps,
        batch size and augmentation of the run.
      name: of the stage.
      where: key of the section.
      feature: key of the true points.

    Raises:
      InputError: a data set without landmarks, or settings that contradict its points.
    """
    # The data set decides the number of maps, and which settings make sense.
    net = make_net(config, spec, section, feature)
    training = scorers.training_of(config, net, NET, section, where)
    points = points_feature(spec, feature)
    _check_section(section, points, training, where)
    system = System(
        training=training,
        section=section,
        feature=feature,
        num_points=points.shape[0],
        num_examples=spec.split(config.data.eval_split).num_examples,
    )
    return Stage(
        name=name,
        num_steps=training.num_steps,
        train_input=scorers.train_input(training, ('image', feature)),
        eval_input=scorers.eval_input(config, ('image', feature)),
        streams=('dropout',),
        init=make_init(system),
        train_step=make_train_step(system),
        prediction=make_prediction(system),
        **make_evaluation(system)._asdict(),
    )


def _check_section(
    section: ml_collections.ConfigDict, points: Feature, training: Training, where: str
) -> None:
    """Raises InputError for settings that contradict the points of the data set."""
    # Numbers of points, then augmentation, then the loss.
    num_points = points.shape[0]
    if any(number >= num_points for number in section.eyes):
        raise InputError(
            f'config.{where}.eyes',
            got=f'{tuple(section.eyes)} of {num_points} points',
            expected=f'numbers from 0 to {num_points - 1}, or ()',
            fix=f'--config.{where}.eyes="()"',
        )
    if training.augment.flip and not points.pairs:
        key = f'{where}.augment.flip' if 'use' in section else 'augment.flip'
        raise InputError(
            f'config.{key}',
            got=f'{training.augment.flip} for points without pairs',
            expected='0, because a flip would swap left and right points',
            fix=f'--config.{key}=0.0',
        )
    if not section.loss.points and not section.loss.heat_map:
        raise InputError(
            f'config.{where}.loss.points',
            got='0, and no weight of the heat maps',
            expected='a loss whose weight is not 0',
            fix=f'--config.{where}.loss.points=1.0',
        )


def make_prediction(system: System) -> Prediction:
    """Returns the use of the net on image files: an image in, its points out.

    The table has the points as shares of width and height: x = (column + 1/2) / width. So they hold
    for the image in any size. The picture shows the points.
    """

    def apply(state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
        points = predict_points(system, state, batch['image'])
        lengths = jnp.flip(batch['size'], -1)[:, None]  # (width, height)
        shares = (points + 0.5) / lengths
        drawn = heat_maps.draw_points(batch['image'], points, PREDICTED, RADIUS)
        return {'x': shares[..., 0], 'y': shares[..., 1], 'points': drawn}

    return Prediction(
        inputs={'image': Feature('image')},
        outputs={'x': 'table', 'y': 'table', 'points': 'image'},
        apply=apply,
        size=tuple(system.training.config.data.eval_size),
    )


# --- training -------------------------------------------------------------------------------------


def make_init(system: System) -> Callable:
    """Returns `Stage.init`: the net, its optimiser, and a mean shape of no point."""
    init_net = scorers.make_init(system.training)

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        state = init_net(key, batch, earlier)
        shape = {
            'sum': jnp.zeros((system.num_points, 2), jnp.float32),
            'count': jnp.zeros((system.num_points, 1), jnp.float32),
        }
        return state.replace(extra={**state.extra, MEAN_SHAPE: shape})

    return init


def make_train_step(system: System) -> Callable:
    """Returns `Stage.train_step`, which also adds the points of the batch to the mean shape."""
    weights = {name: float(system.section.loss[name]) for name in ('points', 'heat_map')}
    terms = functools.partial(loss_terms, system)
    step = scorers.make_train_step(system.training, terms, weights.__getitem__)

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        size = batch['image'].shape[1:3]
        points = batch[system.feature]
        shape = with_points(state.extra[MEAN_SHAPE], points, size, batch['weight'])
        state, step_metrics = step(state, batch, keys)
        return state.replace(extra={**state.extra, MEAN_SHAPE: shape}), step_metrics

    return train_step


def loss_terms(system: System, outputs: Mapping, batch: Batch) -> dict[str, Mean]:
    """Returns the terms 'points' and 'heat_map' of the loss. A term of weight 0 is left out."""
    settings = system.section.loss
    logits = outputs['logits']
    truth = batch[system.feature]
    weight = batch['weight']
    size = batch['image'].shape[1:3]
    terms = {}
    if settings.points:
        terms['points'] = losses.coordinates(
            heat_maps.expected_points(logits, size),
            truth,
            weight,
            size,
            form=settings.form,
            width=settings.wing_width,
            curvature=settings.wing_curvature,
        )
    if settings.heat_map:
        terms['heat_map'] = losses.heat_map_divergence(logits, truth, weight, size, settings.sigma)
    return terms


def with_points(
    shape: Mapping[str, Array], points: Array, size: tuple[int, int], weight: Array
) -> dict[str, Array]:
    """Returns the mean shape with the points of a batch of all devices.

    Args:
      shape: 'sum' [n, 2] of the points as shares of the image, and 'count' [n, 1].
      points: [B, n, 2] in pixels.
      size: (height, width) of the images.
      weight: [B] weight of each example.
    """
    counted = heat_maps.is_inside(points, size) & (weight > 0)[:, None]
    lengths = jnp.array(size[::-1], jnp.float32)
    shares = jnp.where(counted[..., None], (points + 0.5) / lengths, 0)
    added = parallel.sum_over_devices((shares.sum(0), counted.sum(0)[:, None]))
    return {'sum': shape['sum'] + added[0], 'count': shape['count'] + added[1]}


def mean_points(shape: Mapping[str, Array], sizes: Array) -> Array:
    """Returns the mean shape on images of sizes [B, 2] (height, width), [B, n, 2] in pixels.

    Points that no training image had are NaN.
    """
    shares = shape['sum'] / shape['count']
    lengths = jnp.flip(sizes, -1)[:, None]
    return shares * lengths - 0.5


# --- evaluation -----------------------------------------------------------------------------------


def make_evaluation(system: System) -> Evaluation:
    """Builds the evaluation of a `Stage` that predicts landmarks."""
    return Evaluation(
        eval_step=functools.partial(eval_step, system),
        finalize=functools.partial(finalize, system),
        monitor=(MONITOR, 'min'),
        render=functools.partial(render, system),
    )


def predict_points(system: System, state: TrainState, image: Array) -> Array:
    """Returns points [B, n, 2] in pixels of the images [B, H, W, 3]."""
    logits = scorers.make_infer(system.training)(state, image)
    return heat_maps.expected_points(logits, image.shape[1:3])


def eval_step(system: System, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Computes the errors of the net and of the mean shape, as 'guess/score'."""
    truth = batch[system.feature]
    weight = batch['weight']
    guesses = {
        'net': predict_points(system, state, batch['image']),
        'mean_shape': mean_points(state.extra[MEAN_SHAPE], batch['size']),
    }
    sums = {}
    for guess, points in guesses.items():
        errors = image_errors(system, points, truth, batch['size'])
        for name, error in errors.items():
            sums[f'{guess}/{name}'] = means.mean_of_examples(error, weight)
        if 'nme' in errors:
            shares = metrics.shares_below(errors['nme'], jnp.asarray(LIMITS), weight)
            sums[f'{guess}/cumulative'] = shares

    # Pictures are ranked by the error of the net: more is better.
    score = -metrics.image_error(guesses['net'], truth, batch['size'][:, 1], 'mean')
    sums['image_score'] = confusion.per_example(score, batch['index'], weight, system.num_examples)
    return sums


def image_errors(system: System, points: Array, truth: Array, sizes: Array) -> dict[str, Array]:
    """Returns the errors [B] of each image: 'width_error', 'sum_error', and 'nme' with eyes."""
    width = sizes[:, 1]
    errors = {
        'width_error': 100 * metrics.image_error(points, truth, width, 'mean'),
        'sum_error': metrics.image_error(points, truth, width, 'sum'),
    }
    eyes = system.section.eyes
    if len(eyes):
        errors['nme'] = 100 * metrics.normalised_error(points, truth, eyes)
    return errors


def finalize(system: System, sums: Mapping[str, Mean]) -> Scores:
    """Turns the sums over the evaluation split into scores, which are means over images.

    width_error   mean distance of the points, in per cent of the image width
    sum_error     sum of the distances of the points, divided by the image width
    nme           mean distance of the points, in per cent of the distance of the eyes
    accuracy_5    share of the images with an NME below 5 %
    cumulative    the curve of these shares
    baseline_mean_shape  scores of the mean shape of the training images
    """
    by_guess: dict[str, dict[str, Mean]] = {}
    for key, mean in sums.items():
        guess, _, name = key.partition('/')
        # A net that was not trained here has no mean shape.
        if name and np.all(mean.count > 0):
            by_guess.setdefault(guess, {})[name] = mean

    scores = {}
    lines = {}
    place = int(np.flatnonzero(LIMITS == LIMIT)[0])
    for guess, of_guess in by_guess.items():
        shares = of_guess.pop('cumulative', None)
        values = {name: float(mean.value()) for name, mean in of_guess.items()}
        if shares is not None:
            below = np.asarray(shares.value())
            values[f'accuracy_{LIMIT}'] = float(below[place])
            lines[guess.replace('_', ' ')] = (LIMITS, below)
        scores[guess] = values

    # Without an example, the score of the best checkpoint is unknown.
    result: dict = {MONITOR: None} | scores.pop('net', {})
    result |= {f'baseline_{guess}': values for guess, values in scores.items()}
    if lines:
        result['cumulative'] = curve(lines, 'NME in per cent', 'share of the images')
    return result


# --- pictures -------------------------------------------------------------------------------------


def render(system: System, state: TrainState, batch: Batch, keys: Keys) -> Pictures:
    """Draws predicted and true points on the enlarged images."""
    image = batch['image']
    truth = batch[system.feature]
    points = predict_points(system, state, image)
    error = 100 * metrics.image_error(points, truth, batch['size'][:, 1], 'mean')
    pictures = {'prediction': (points, PREDICTED), 'truth': (truth, TRUE)}

    # Points on a small image would hide it.
    factor = max(1, PICTURE // max(image.shape[1:3]))
    before = image.shape[1:3]
    after = (factor * before[0], factor * before[1])
    large = resize.nearest(image, after)
    drawn = {}
    for name, (marks, color) in pictures.items():
        pixels = heat_maps.draw_points(
            large, heat_maps.on_grid(marks, before, after), color, RADIUS
        )
        legend = {f'{name} of a landmark': color}
        drawn[name] = Picture(pixels, factor * batch['size'], legend=legend)
    drawn['prediction'] = drawn['prediction']._replace(values={'error in % of the width': error})
    return drawn
