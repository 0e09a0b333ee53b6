"""Evaluation of nets that draw several images for a condition: accuracy, diversity, pictures.

For every example n images are drawn. Each image is compared with the true image:

    RMSE, SSIM, FSIM   appearance
    landmarks          distances between the landmarks that a frozen net finds and the true ones
    normals            angles between the normals that a frozen net estimates on both images

Scores are the mean over all samples, the best sample, and the mean of the best samples of every
example. Best is chosen for each score separately. Curves show the best of the first k samples.

Diversity needs no true image. It is the standard deviation over the samples of features of a frozen
net, the perceptual distance LPIPS between the samples, and the distance of the samples to their
mean image.

Source: He, Schiele and Fritz, Diverse Conditional Image Generation by Stochastic Regression with
Latent Drop-Out Codes, ECCV 2018; chapter 5 of He's thesis.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.core import means
from segjax.metrics import curves, intervals, kernel_distance, lpips, samples
from segjax.metrics import image as image_metrics
from segjax.metrics import landmarks as landmark_metrics
from segjax.metrics import normals as normal_metrics
from segjax.ops import images
from segjax.ops import normals as normal_ops
from segjax.protocol import Array, Batch, Keys, Mean, Metrics, Picture, Scores, TrainState
from segjax.schema import Field, at_least
from segjax.tasks import normals
from segjax.tasks.evaluation import Evaluation, Pictures

TESTING = {
    'num_samples': Field(10, 'Images that are drawn for each condition.', at_least(1)),
    'top': Field(10, 'Number of best samples of the scores `_top`.', at_least(1)),
    'shown': Field(8, 'Samples in a picture of the report.', at_least(1)),
    'fsim': Field(True, 'Compute FSIM, which takes as long as all further scores of appearance.'),
    'features': Field(
        True, 'Compute the diversity of features, with the frozen net that scores samples.'
    ),
}
"""Keys of the section `testing` that every system with samples has."""

LARGER = ('SSIM', 'FSIM', 'accuracy_11.25', 'accuracy_22.5', 'accuracy_30')
"""Scores of which larger values are better."""

WIDTH = 'width'
"""Key of the width of an image without its padding, in pixels."""


class FeatureMaps(NamedTuple):
    """Maps of a frozen net of features for N images.

    pooled    {'pool1': [N, h, w, C], ..} behind its poolings. {}: no standard deviation, no KID
    compared  {layer: [N, h, w, C]} that LPIPS compares. {}: no LPIPS
    heads     {layer: [C]}, the weight of each channel of these layers
    """

    pooled: Mapping[str, Array]
    compared: Mapping[str, Array] = {}
    heads: Mapping[str, Array] = {}


class Frozen(NamedTuple):
    """Nets that judge samples, as functions of the state of the stage. None: not used.

    features   (state, image [N, H, W, 3] in [-1, 1]) -> FeatureMaps
    landmarks  (state, image [N, H, W, 3] uint8) -> landmarks [N, n, 2]
    normals    (state, image [N, H, W, 3] uint8) -> unit vectors [N, H, W, 3]
    """

    features: Callable[[TrainState, Array], FeatureMaps] | None = None
    landmarks: Callable[[TrainState, Array], Array] | None = None
    normals: Callable[[TrainState, Array], Array] | None = None


class Judge(NamedTuple):
    """The parts of an evaluation of samples.

    draw          (state, batch, keys) -> samples [B, n, H, W, 3] in [-1, 1]
    show          batch -> {panel: picture} of the condition
    frozen        nets that judge samples
    testing       section with the keys of TESTING
    num_examples  N of the evaluation split
    points_key    feature of the true landmarks, '' without
    normals_key   feature of the true normals, '' without
    """

    draw: Callable[[TrainState, Batch, Keys], Array]
    show: Callable[[Batch], Pictures]
    frozen: Frozen
    testing: ml_collections.ConfigDict
    num_examples: int
    points_key: str = ''
    normals_key: str = ''


def make_evaluation(judge: Judge) -> Evaluation:
    """Builds the evaluation of a `Stage` that draws samples. The monitor is the best SSIM."""
    return Evaluation(
        eval_step=functools.partial(eval_step, judge),
        finalize=functools.partial(finalize, judge),
        render=functools.partial(render, judge),
        monitor=('SSIM_best', 'max'),
    )


# --- on the device --------------------------------------------------------------------------------


def eval_step(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Scores the samples of a batch. Every score has a place for each example of the split."""
    drawn = judge.draw(state, batch, keys)
    truth = images.normalize(batch['image'], 'symmetric')
    features = {}
    if judge.points_key:
        features[judge.points_key] = batch[judge.points_key]
        features[WIDTH] = batch['size'][:, 1]
    if judge.normals_key:
        features[judge.normals_key] = normals.on_images(batch)

    # Example after example, so that the features of n images are in memory and not of B n images.
    def score(example: tuple) -> dict[str, Array]:
        return example_scores(judge, state, *example)

    # Samples of an example depend on each other, so one of them stands for all in KID. Sample i of
    # all examples has the same code, so the examples take turns.
    chosen = batch['index'] % drawn.shape[1]
    values = appearance_scores(judge, drawn, batch['image'])
    values |= jax.lax.map(score, (drawn, truth, features, chosen))
    values['image_score'] = values['sample/SSIM'].max(-1)

    # Examples that fill the last batch have an index outside of the split.
    weight = batch['weight']
    counted = jnp.zeros(judge.num_examples).at[batch['index']].add(weight, mode='drop')
    placed = {}
    for name, value in values.items():
        of_split = jnp.zeros((judge.num_examples, *value.shape[1:]))
        kept = means.without_padding(weight, value)
        placed[name] = Mean(of_split.at[batch['index']].add(kept, mode='drop'), counted)
    return placed


def appearance_scores(judge: Judge, drawn: Array, image: Array) -> dict[str, Array]:
    """Compares samples with true images, both with 8 bits, as files hold them.

    Args:
      judge: of the evaluation.
      drawn: [B, n, H, W, 3] in [-1, 1].
      image: [B, H, W, 3] uint8.

    Returns:
      {'sample/SCORE': [B, n]}.
    """
    metrics = {
        'RMSE': image_metrics.rmse,
        'SSIM': functools.partial(image_metrics.ssim, peak=255.0),
    }
    if judge.testing.fsim:
        metrics['FSIM'] = functools.partial(image_metrics.fsim, peak=255.0)
    shown = images.to_uint8(drawn, 'symmetric')
    return {
        f'sample/{name}': samples.of_samples(metric, image, shown)
        for name, metric in metrics.items()
    }


def example_scores(
    judge: Judge,
    state: TrainState,
    drawn: Array,
    truth: Array,
    features: Mapping[str, Array],
    chosen: Array,
) -> dict[str, Array]:
    """Scores the n samples of an example by frozen nets, and their diversity.

    Args:
      judge: of the evaluation.
      state: holds the frozen nets.
      drawn: [n, H, W, 3] in [-1, 1].
      truth: [H, W, 3] in [-1, 1].
      features: true landmarks [n, 2] and WIDTH, or normals [H, W, 3], by key.
      chosen: number of the sample of KID, int32.

    Returns:
      {'sample/SCORE': [n], 'spread/SCORE': scalar, 'truth/SCORE': scalar, 'pooled/WHICH': [C]}. The
      truth is scored as a sample. A single sample has no spread.
    """
    shown = images.to_uint8(drawn, 'symmetric')
    true_image = images.to_uint8(truth, 'symmetric')
    scores = {}

    # Scores of frozen nets on samples.
    frozen = judge.frozen
    if frozen.landmarks is not None:
        found = frozen.landmarks(state, jnp.concatenate([shown, true_image[None]]))
        errors = landmark_metrics.image_error(found, features[judge.points_key], features[WIDTH])
        scores['sample/landmarks'] = errors[:-1]
        scores['truth/landmarks'] = errors[-1]
    if frozen.normals is not None:
        scores |= normal_scores(judge, state, shown, true_image, features)

    # Diversity. The centre is the mean of the samples, in grey values of [0, 255].
    if len(shown) > 1:
        distances = samples.distances_to_centre(shown[None].astype(jnp.float32))
        scores['spread/distance_max'] = distances.largest[0]
        scores['spread/distance_mean'] = distances.mean[0]
    if frozen.features is not None:
        scores |= feature_scores(frozen, state, drawn, truth, chosen)
    return scores


def normal_scores(
    judge: Judge, state: TrainState, shown: Array, true_image: Array, features: Mapping[str, Array]
) -> dict[str, Array]:
    """Compares the normals of n samples with those of the true image, both by the frozen net.

    Pixels without a true normal (background) do not count.
    """
    estimated = judge.frozen.normals(state, jnp.concatenate([shown, true_image[None]]))
    is_known = normal_ops.is_measured(features[judge.normals_key])
    target = jnp.where(is_known[..., None], estimated[-1], 0)
    by_name = normal_metrics.image_scores(estimated[:-1], target)
    return {f'sample/{name}': value for name, value in by_name.items()}


def feature_scores(
    frozen: Frozen, state: TrainState, drawn: Array, truth: Array, chosen: Array
) -> dict[str, Array]:
    """Computes the diversity of features over n samples, and features for KID."""
    maps = frozen.features(state, jnp.concatenate([drawn, truth[None]]))
    scores = {}

    # The last image is the true image. A single sample has no diversity.
    if len(drawn) > 1:
        for name, pooled in maps.pooled.items():
            scores[f'spread/std_{name}'] = samples.spread(pooled[None, :-1])[0]
        if maps.compared:
            of_samples = {layer: values[None, :-1] for layer, values in maps.compared.items()}
            scores['spread/LPIPS'] = lpips.mean_of_pairs(of_samples, maps.heads)[0]
    if maps.pooled:
        *_, deepest = maps.pooled.values()
        means_of_maps = deepest.astype(jnp.float32).mean((1, 2))
        scores['pooled/drawn'] = means_of_maps[chosen]
        scores['pooled/true'] = means_of_maps[-1]
    return scores


# --- on the host ----------------------------------------------------------------------------------


def finalize(judge: Judge, metrics: Mapping[str, Mean]) -> Scores:
    """Turns the values of all examples into scores.

    SCORE            mean over examples and samples
    SCORE_best       mean over examples of the best sample
    SCORE_top        mean over examples of the mean of the `testing.top` best samples, if there are
                     more samples
    std_LAYER        standard deviation of features over samples, mean over units and examples
    diversity        sum of std_LAYER over the layers
    LPIPS            perceptual distance, mean over all pairs of samples and over examples
    distance_max, distance_mean  largest and mean distance of samples to their mean image
    KID              kernel distance of features between a sample of each example and true images
    intervals        mean and 95 % interval of each score, examples resampled
    best_of_SCORE    curve of the best of the first k samples
    baseline_true_image  scores of the true images, which show the limit of the frozen nets
    """
    values = {}
    for name, mean in metrics.items():
        values[name] = np.asarray(mean.sum, np.float64)[np.asarray(mean.count) > 0]
    vectors = example_vectors(judge, values)
    number = len(vectors['SSIM'])
    if not number:
        return dict.fromkeys(vectors)

    # Means, then curves, then how certain the means are.
    scores: Scores = {name: float(np.nanmean(vector)) for name, vector in vectors.items()}
    if 'pooled/true' in values and number > 1:
        distance = kernel_distance.kernel_distance(values['pooled/true'], values['pooled/drawn'])
        scores['KID'] = distance.mean
    limits = {}
    for key, value in values.items():
        group, _, name = key.partition('/')
        if group == 'truth':
            limits[name] = float(np.nanmean(value))
        elif group == 'sample' and value.shape[1] > 1:
            scores[f'best_of_{name}'] = best_curve(name, value, name in LARGER)
    if limits:
        scores['baseline_true_image'] = limits
    scores['intervals'] = intervals.of_scores(vectors, np.arange(number))
    return scores


def example_vectors(judge: Judge, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the scores of each example, {name: [N]}.

    Args:
      judge: of the evaluation.
      values: {'sample/SCORE': [N, n], 'spread/SCORE': [N]}.
    """
    vectors = {}
    for key, value in values.items():
        group, _, name = key.partition('/')
        if group == 'sample':
            larger = name in LARGER
            vectors[name] = np.asarray(value.mean(-1))
            vectors[f'{name}_best'] = np.asarray(samples.best(value, larger))
            top = judge.testing.top
            if top < value.shape[-1]:
                vectors[f'{name}_top'] = np.asarray(samples.top_mean(value, top, larger))
        elif group == 'spread':
            vectors[name] = value
    layers = [vector for name, vector in vectors.items() if name.startswith('std_')]
    if layers:
        vectors['diversity'] = np.sum(layers, axis=0)
    return vectors


def best_curve(name: str, values: np.ndarray, larger: bool) -> dict:
    """Returns the curve of the best of the first k samples, k = 1 .. n, and of the mean."""
    best = np.nanmean(np.asarray(samples.best_of_first(values, larger)), 0)
    number = np.arange(1, len(best) + 1)
    mean = np.cumsum(np.nanmean(values, 0)) / number
    return curves.curve({'best': (number, best), 'mean': (number, mean)}, 'samples', name)


# --- pictures -------------------------------------------------------------------------------------


def render(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Pictures:
    """Shows the first samples, with their distances to the true image."""
    drawn = judge.draw(state, batch, keys)[:, : judge.testing.shown]
    shown = images.to_uint8(drawn, 'symmetric')
    truth = jnp.broadcast_to(batch['image'][:, None], shown.shape)
    flat = shown.shape[:2]
    rmse = image_metrics.rmse(
        truth.reshape(-1, *shown.shape[2:]), shown.reshape(-1, *shown.shape[2:])
    )
    values = {'RMSE': rmse.reshape(flat)}
    return {**judge.show(batch), 'samples': Picture(shown, batch['size'], values)}
