"""Surface normals from one image: a net with three output channels, and a cosine loss.

Method, top to bottom:

1. Normals are computed once from depth and camera (`normals_from_depth`), as a derived feature.
2. The net predicts a vector for each pixel. Its direction is the normal.
3. The loss is 1 - cos of the angle to the true normal, over the pixels with a true normal.
4. Evaluation measures angles at the size of the label. It compares with two guesses that see no
   image: the best of a few constant normals, and level ground below the horizon.

Normals point towards the camera. x points to the right, y down, z forward.
"""

import functools
import itertools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import means
from segjax.data import hha
from segjax.ops import images, resize
from segjax.protocol import (
    Array,
    Batch,
    Derived,
    Example,
    Input,
    Keys,
    Mean,
    Metrics,
    Picture,
    Prediction,
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, above
from segjax.spec import DataSpec, Feature
from segjax.tasks import segmentation, supervised

SCHEMA = {
    'model': models.net_choice('segmentation', 'erfnet', 'Net that predicts normals.'),
    'preprocess': segmentation.PREPROCESS,
    'optim': OPTIM,
    'edge_tolerance': Field(
        0.01,
        'Largest relative deviation of the inverse depth of three neighbouring pixels from a line. '
        'Pixels that deviate more along an axis have no true normal.',
        above(0),
    ),
}

LIMITS = (11.25, 22.5, 30.0)
"""Angles in degrees below which the shares of pixels are scored."""

BINS = 1800
"""Bins of the histogram of angles in [0, 180] from which the median is read: 0.1 degrees."""

UP = (0.0, -1.0, 0.0)
FACING = (0.0, 0.0, -1.0)


# --- true normals ---------------------------------------------------------------------------------


def make_features(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Derived, ...]:
    """Returns the normals, which are computed once from depth and camera."""
    settings = {'tolerance': config.edge_tolerance}
    return (
        Derived(
            name='normals',
            feature=Feature('normals'),
            reads=('depth', 'intrinsics'),
            compute=functools.partial(normals_of_example, **settings),
            settings=settings,
        ),
    )


def normals_of_example(example: Example, tolerance: float) -> np.ndarray:
    """Returns the normals of an example, see `normals_from_depth`."""
    return normals_from_depth(example['depth'], example['intrinsics'], tolerance)


def normals_from_depth(depth: np.ndarray, intrinsics: np.ndarray, tolerance: float) -> np.ndarray:
    """Computes surface normals towards the camera from a depth map.

    The normal follows from the slopes of the inverse depth w = 1 / z (`hha.plane_normals`). It is
    exact where three neighbours along each axis lie on one plane.

    Args:
      depth: [H, W] along z, 0 = not measured.
      intrinsics: K [3, 3]. Pixel centres lie at whole coordinates.
      tolerance: largest deviation of three neighbours from a line, relative to w.

    Returns:
      [H, W, 3] float32 unit vectors, 0 where no normal is known.
    """
    # In float32 the differences of inverse depth would lose half of their digits.
    measured = np.isfinite(depth) & (depth > 0)
    inverse = np.full(depth.shape, np.nan)
    inverse[measured] = 1 / depth[measured].astype(np.float64)

    slope_v = _slope(inverse, tolerance)
    slope_u = _slope(inverse.T, tolerance).T

    return hha.plane_normals(inverse, slope_u, slope_v, intrinsics).astype(np.float32)


def _slope(inverse: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns the slope of w along the first axis, NaN where no three neighbours form a line.

    The three neighbours lie around the pixel, behind it or before it. Those nearest to a line are
    taken, so that the slope does not cross an edge.
    """
    padded = np.pad(inverse, ((2, 2), (0, 0)), constant_values=np.nan)
    size = len(inverse)
    before2, before, here, after, after2 = (padded[i : i + size] for i in range(5))
    slopes = np.stack([(after - before) / 2, after - here, here - before])
    bends = np.stack([before - 2 * here + after, here - 2 * after + after2])
    bends = np.concatenate([bends, (before2 - 2 * before + here)[None]])

    # NaN means an unmeasured neighbour.
    deviation = np.nan_to_num(np.abs(bends) / here, nan=np.inf)  # [3, H, W]
    nearest = deviation.argmin(axis=0)[None]
    slope = np.take_along_axis(slopes, nearest, axis=0)[0]
    return np.where(deviation.min(axis=0) <= tolerance, slope, np.nan)


# --- loss and scores ------------------------------------------------------------------------------


def is_measured(normals: Array) -> Array:
    """Returns the pixels [B, H, W] bool that have a true normal."""
    return (normals != 0).any(-1)


def normalised(vectors: Array) -> Array:
    """Returns vectors [..., 3] divided by their length, with a finite gradient at 0."""
    return vectors / jnp.sqrt((vectors**2).sum(-1, keepdims=True) + 1e-12)


def cosine_loss(prediction: Array, truth: Array, weight: Array) -> Mean:
    """Computes 1 - p . t over the pixels with a true normal.

    Args:
      prediction: p [B, H, W, 3] unit vectors.
      truth: t [B, H, W, 3] unit vectors, 0 = not measured.
      weight: [B] weight of each example.

    Returns:
      Mean(sum, number of pixels).
    """
    measured = is_measured(truth)
    loss = jnp.where(measured, 1 - (prediction * truth).sum(-1), 0.0)
    return means.masked_mean(loss, measured, weight)


def angles(prediction: Array, truth: Array) -> Array:
    """Returns the angles [B, H, W] between vectors [B, H, W, 3], in degrees.

    atan2(|p x t|, p . t) is exact for small angles, where arccos is not.
    """
    across = jnp.linalg.norm(jnp.cross(prediction, truth), axis=-1)
    return jnp.degrees(jnp.arctan2(across, (prediction * truth).sum(-1)))


def angle_sums(angle: Array, measured: Array, weight: Array) -> dict[str, Mean]:
    """Returns the sums from which `angle_scores` computes scores.

    'accuracy_30' is the share of pixels with an angle below 30 degrees.

    Args:
      angle: [B, H, W] degrees.
      measured: [B, H, W] bool.
      weight: [B].
    """
    pixel_weight = measured * weight[:, None, None]
    places = jnp.clip(angle * (BINS / 180), 0, BINS - 1).astype(jnp.int32)
    histogram = jnp.zeros(BINS).at[places].add(pixel_weight)
    sums = {'mean_angle': means.masked_mean(jnp.where(measured, angle, 0.0), measured, weight)}
    for limit in LIMITS:
        below = measured & (angle < limit)
        sums[f'accuracy_{limit:g}'] = means.masked_mean(below.astype(jnp.float32), measured, weight)
    return {**sums, 'median_angle': Mean(histogram, jnp.float32(1))}


def angle_scores(sums: Mapping[str, Mean]) -> dict[str, float]:
    """Returns the scores of `angle_sums` over the whole split, on the host.

    The median is the middle of its bin.
    """
    scores = {name: float(mean.value()) for name, mean in sums.items() if name != 'median_angle'}
    histogram = np.asarray(sums['median_angle'].sum, np.float64)
    half = np.searchsorted(np.cumsum(histogram), histogram.sum() / 2)
    scores['median_angle'] = float((half + 0.5) * 180 / BINS)
    return scores


# --- guesses that see no image --------------------------------------------------------------------


def constants() -> np.ndarray:
    """Returns the constant normals [n, 3] of the baseline, none of which looks away."""
    grid = itertools.product((-1, 0, 1), (-2, -1, 0, 1, 2), (-2, -1, 0))
    vectors = np.array([vector for vector in grid if any(vector)], np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.unique(unit.round(6), axis=0)


def level_ground(batch: Batch) -> Array:
    """Returns normals [B, H, W, 3]: up below the horizon, and towards the camera above it.

    The horizon is the row of the principal point, as for a level camera.
    """
    rows = jnp.arange(batch['normals'].shape[1])
    scale = batch['label_size'][:, 0] / batch['size'][:, 0]
    horizon = (batch['intrinsics'][:, 1, 2] + 0.5) * scale - 0.5  # [B]
    is_ground = rows > horizon[:, None]  # [B, H]
    guess = jnp.where(is_ground[..., None], jnp.array(UP), jnp.array(FACING))
    return jnp.broadcast_to(guess[:, :, None], batch['normals'].shape)


# --- the stage ------------------------------------------------------------------------------------


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the single stage."""
    # One net serves training, evaluation and prediction.
    net = segmentation.make_image_net(config, num_outputs=3)
    infer = segmentation.make_infer(config, net)
    predict_normals = make_predict(infer)
    eval_step, finalize = make_evaluation(config, spec, predict_normals)

    def terms(outputs: Mapping, batch: Batch) -> dict[str, Mean]:
        vectors = resize.bilinear(outputs['logits'], batch['normals'].shape[1:3])
        prediction = normalised(vectors.astype(jnp.float32))
        return {'cosine': cosine_loss(prediction, batch['normals'], batch['weight'])}

    def apply(state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
        return {'normals': normalised(infer(state, batch['image']))}

    # Principal points are read by the evaluation alone.
    stage = Stage(
        name='normals',
        num_steps=config.train.num_steps,
        train_input=Input(
            split=config.data.train_split,
            batch_size=config.train.batch_size,
            features=('image', 'normals'),
            size=tuple(config.augment.crop),
            augment=config.augment,
        ),
        eval_input=Input(
            split=config.data.eval_split,
            batch_size=config.evaluate.batch_size,
            features=('image', 'normals', 'intrinsics'),
            size=tuple(config.data.eval_size),
        ),
        streams=('dropout',),
        init=supervised.make_init(config, net),
        train_step=supervised.make_train_step(
            supervised.net_loss(net, terms),
            supervised.alone(config),
            lambda term: 1.0,
            **supervised.schedule(config),
        ),
        eval_step=eval_step,
        finalize=finalize,
        monitor=('mean_angle', 'min'),
        render=make_render(predict_normals),
        prediction=Prediction(
            inputs={'image': Feature('image')},
            outputs={'normals': 'normals'},
            apply=apply,
            size=tuple(config.data.eval_size),
        ),
    )
    return (stage,)


def make_predict(infer: Callable) -> Callable:
    """Returns (state, batch) -> normals [B, H, W, 3] on the canvas of the true normals."""

    def predict_normals(state: TrainState, batch: Batch) -> Array:
        vectors = infer(state, batch['image'])
        shape = batch['normals'].shape[1:3]
        return normalised(resize.resize_valid(vectors, batch['size'], shape, batch['label_size']))

    return predict_normals


def make_evaluation(
    config: ml_collections.ConfigDict, spec: DataSpec, predict_normals: Callable
) -> tuple[Callable, Callable]:
    """Returns `Stage.eval_step` and `Stage.finalize`."""
    num_examples = spec.split(config.data.eval_split).num_examples

    def eval_step(state: TrainState, batch: Batch, keys: Keys) -> Metrics:
        truth = batch['normals']
        weight = batch['weight']
        measured = is_measured(truth)
        prediction = predict_normals(state, batch)
        guesses = {'net': prediction, 'ground': level_ground(batch)}
        for place, constant in enumerate(constants()):
            guesses[f'constant_{place}'] = jnp.broadcast_to(constant, truth.shape)

        metrics = {}
        for guess, normals in guesses.items():
            for name, mean in angle_sums(angles(normals, truth), measured, weight).items():
                metrics[f'{guess}/{name}'] = mean

        # Pictures are ranked by the mean cosine of an image: more is better.
        cosine = jnp.where(measured, (prediction * truth).sum(-1), 0.0)
        score = cosine.sum((1, 2)) / jnp.maximum(measured.sum((1, 2)), 1)
        nowhere = jnp.zeros(num_examples)
        metrics['image_score'] = Mean(
            nowhere.at[batch['index']].add(score * weight),
            nowhere.at[batch['index']].add(weight),
        )
        return metrics

    def finalize(metrics: Mapping[str, Mean]) -> Scores:
        by_guess = {}
        for key, mean in metrics.items():
            guess, _, name = key.partition('/')
            if name:
                by_guess.setdefault(guess, {})[name] = mean
        scores = {guess: angle_scores(sums) for guess, sums in by_guess.items()}
        net = scores.pop('net')
        ground = scores.pop('ground')
        best = min(scores.values(), key=lambda guess: guess['mean_angle'])
        return net | {'baseline_constant': best, 'baseline_ground': ground}

    return eval_step, finalize


def make_render(predict_normals: Callable) -> Callable:
    """Returns `Stage.render`: predicted and true normals, and the angle between them."""

    def render(state: TrainState, batch: Batch, keys: Keys) -> dict[str, Picture]:
        truth = batch['normals']
        measured = is_measured(truth)
        prediction = predict_normals(state, batch)
        # Errors of 60 degrees and more have the brightest colour.
        error = jnp.where(measured, jnp.clip(angles(prediction, truth) / 60, 0, 1), 0)
        size = batch['label_size']
        mean = jnp.where(measured, angles(prediction, truth), 0).sum((1, 2))
        degrees = mean / jnp.maximum(measured.sum((1, 2)), 1)
        return {
            'prediction': Picture(paint(prediction), size=size),
            'truth': Picture(paint(truth), size=size),
            'error': Picture(images.heat(error), size=size, values={'degrees': degrees}),
        }

    return render


def paint(normals: Array) -> Array:
    """Paints normals [..., 3] as 255 (n + 1) / 2, and black where there are none."""
    colors = jnp.round(255 * (jnp.clip(normals, -1, 1) + 1) / 2)
    return jnp.where(is_measured(normals)[..., None], colors, 0).astype(jnp.uint8)
