"""STD2P: RGB-D video segmentation by spatio-temporal data-driven pooling.

He, Chiu, Keuper, Fritz: STD2P: RGBD Semantic Segmentation using Spatio-Temporal Data-Driven Pooling
(CVPR 2017), chapter 3 of He's thesis. Equation numbers are those of the thesis.

Method, top to bottom. The target is a labelled frame of a clip. Three features are computed once
(`make_features`): superpixels and optical flow of each frame, and for each target the region of the
target that every superpixel of the clip corresponds to.

1. The net predicts a score map of each frame, from colour and from HHA of depth (`frame_scores`).
2. Spatial pooling: the scores of a frame are averaged over each region of the target (Eq. 3.1).
3. Temporal pooling: the averages of the frames in which a region occurs are averaged (Eq. 3.3).
4. Region to pixel: every pixel of the target gets the scores of its region (Eq. 3.5). The loss is
   the cross-entropy of this map.

`pooling.use` says how far the method goes in training, and `testing.use` in evaluation:

  none        the net alone (FCN in the tables)
  superpixel  step 2 with the target frame alone, then step 4
  full        all steps, on several frames
  pixel       scores of several frames, averaged along optical flow (Table 3.4)

'superpixel+' of the tables is trained by `full` and tested by `superpixel`. Pooling has no
parameters, so a trained net can be tested in all ways.

A first stage `frames` may train the net alone (`frames.num_steps`). The paper fine-tunes a given
FCN-16s for 1,000 steps, with the layers before pool4 frozen. Parameters with a factor of 0 in
`optim.factors` are frozen, and their gradients are never computed.

Not the paper's: means instead of sums of the pixel losses, and any net of the registry.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import optim, parallel, rng
from segjax.core.trees import path_name
from segjax.data import hha
from segjax.errors import InputError, unknown_name
from segjax.metrics import boundary, confusion
from segjax.models.segmentation.late_fusion import LateFusion
from segjax.ops import edges, images, resize
from segjax.protocol import (
    Array,
    Batch,
    Derived,
    Keys,
    Mean,
    Metrics,
    Observation,
    Picture,
    PRNGKey,
    PyTree,
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, at_least, between
from segjax.spec import DataSpec
from segjax.tasks import clip_features, frame_pooling, segmentation, supervised
from segjax.tasks.evaluation import Evaluation, Pictures
from segjax.tasks.frame_pooling import FULL, NO_REGION, NONE, Pooling, input_with

BOUNDARIES = 'boundaries'
"""Name of the counts and of the scores of class boundaries."""
ACCURACIES = 'pixel_accuracy_of_images'
"""Name of the pixel accuracies of all images, in the order of the split."""
MERGED = 'merged'
"""Name of the scores of merged classes."""
HHA_MEAN = (132.431, 94.076, 118.477)
"""Mean of disparity, height and angle on NYUDv2, as in the release of FCN."""
STREAMS = ('color', 'hha')
"""Names of the two images of the net."""
BORDER_COLOR = (255, 255, 0)
"""RGB of the borders of regions in pictures."""

SCHEMA = {
    'model': models.net_choice('segmentation', 'fcn', 'Net that segments each frame.'),
    'preprocess': segmentation.PREPROCESS,
    'hha': Field(
        True, 'Whether the net also sees HHA of depth: late fusion of two nets by their mean.'
    ),
    'loss': supervised.LOSS,
    'regions': clip_features.REGIONS,
    'flow': clip_features.FLOW,
    'matching': clip_features.MATCHING,
    'pooling': frame_pooling.POOLING,
    'testing': {
        **frame_pooling.TESTING,
        'merge': Field(
            '',
            'Class map by which predictions and labels are merged for further scores: the 40 '
            "classes of NYUDv2 into '33' of SUN3D. '': none.",
        ),
        'boundary_thresholds': Field(
            0,
            'Thresholds of boundary precision and recall (Fig. 3.9). 0: boundaries are not scored.',
            at_least(0),
        ),
        'boundary_distance': Field(
            boundary.MAX_DIST,
            'Largest distance of matched boundaries, in diagonals.',
            between(0, 1),
        ),
    },
    'frames': {
        'num_steps': Field(
            0, 'Steps of a first stage, which trains the net without pooling.', at_least(0)
        ),
        'batch_size': Field(8, 'Labelled frames of a step of the first stage.', at_least(1)),
    },
    'optim': OPTIM,
    'optim_frames': OPTIM,
}


class System(NamedTuple):
    """The net of a run and its two poolings.

    net       on frames of `net_input`
    training  pooling in training
    testing   pooling in evaluation
    """

    net: segmentation.Net
    training: Pooling
    testing: Pooling


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the training with pooling, after a training of the net alone if that is set.

    Raises:
      InputError: HHA without depth, a distance that no frame has, or an unknown class map. Several
        frames of stills are the refusal of an input.
    """
    _check(config, spec)
    system = make_system(config, spec)
    pooled = pooled_stage(config, spec, system)
    if not config.frames.num_steps:
        return (pooled,)
    return frames_stage(config, spec, system), pooled


# --- features that are computed once --------------------------------------------------------------


def make_features(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Derived, ...]:
    """Returns HHA, regions, flow and matches. Inputs choose among them.

    Stills have neither flow nor matches. Regions that see depth need depth.

    Raises:
      InputError: see `make_stages`.
    """
    _check(config, spec)
    has_regions = clip_features.has_regions(config.regions, spec)
    is_video = clip_features.is_video(spec)
    features: list[Derived] = []
    if has_regions:
        features += clip_features.region_features(config.regions)
    if is_video:
        features += clip_features.flow_features(config.flow, config.pooling.interval)
    if config.hha:
        features.append(hha.hha_feature())
    if is_video and has_regions:
        features += clip_features.match_features(config)
    if is_video:
        features.append(clip_features.pixel_flow(config, spec))
    return tuple(features)


# --- poolings of a run ----------------------------------------------------------------------------


def make_system(config: ml_collections.ConfigDict, spec: DataSpec) -> System:
    """Builds the net, and reads the poolings."""
    return System(
        net=make_net(config, segmentation.num_outputs(config, spec)),
        training=frame_pooling.training_pooling(config),
        testing=frame_pooling.testing_pooling(config),
    )


def _check(config: ml_collections.ConfigDict, spec: DataSpec) -> None:
    """Raises InputError for settings that contradict the data set or each other."""
    absent = [name for name in ('depth', 'intrinsics') if name not in spec.features]
    if config.hha and absent:
        raise InputError(
            'config.hha',
            got=f'HHA of data set {spec.name!r}, which has no {" and no ".join(absent)}',
            expected='a data set with depth and intrinsics, or a net that sees colour alone',
            fix='--config.hha=False',
        )
    if config.evaluate.crop:
        raise InputError(
            'config.evaluate.crop',
            got=f'{tuple(config.evaluate.crop)}',
            expected='(): regions are pooled in whole images',
            fix="--config.evaluate.crop='()'",
        )
    _check_merge(config, spec)
    frame_pooling.check(config)


def _check_merge(config: ml_collections.ConfigDict, spec: DataSpec) -> None:
    """Raises InputError for a class map of further scores that the data set does not offer."""
    name = config.testing.merge
    if not name or name in spec.class_maps:
        return
    if spec.class_maps:
        raise unknown_name('config.testing.merge', name, spec.class_maps)
    merged = f' in the classes of {config.data.class_map!r}' if config.data.class_map else ''
    raise InputError(
        'config.testing.merge',
        got=f'{name!r} with data set {spec.name!r}{merged}, which offers no class map',
        expected="'', or classes that are not merged yet",
        fix="--config.testing.merge=''",
    )


# --- the net and its input ------------------------------------------------------------------------


def make_net(config: ml_collections.ConfigDict, num_outputs: int) -> segmentation.Net:
    """Builds the net on frames of `net_input`, [B, H, W, 3 or 6] uint8.

    FCN adds the scores of its finer layers before both streams are upsampled. Every net with HHA
    but FCN is a `LateFusion` of two nets.
    """
    fields = {'num_classes': num_outputs, 'dtype': config.train.dtype, 'axis_name': parallel.AXIS}
    is_fcn = config.model.name == 'fcn'
    if is_fcn:
        fields['streams'] = STREAMS if config.hha else STREAMS[:1]
    net = models.build_from('segmentation', config.model, **fields)
    if config.hha and not is_fcn:
        net = LateFusion(net, STREAMS)
    prepare = functools.partial(normalize, scheme=config.preprocess)
    return segmentation.net_of(net, prepare)


def normalize(frames: Array, scheme: str) -> Array:
    """Normalises frames of `net_input`.

    The mean on NYUDv2 is subtracted from HHA. Where a scheme divides colours, HHA is divided by 64.
    """
    color = images.normalize(frames[..., :3], scheme)
    if frames.shape[-1] == 3:
        return color
    # HHA gets the spread of colours, whatever the scheme.
    scale = 1.0 if images.SCHEMES[scheme][1] == 1.0 else 1 / 64
    hha = (frames[..., 3:].astype(jnp.float32) - np.float32(HHA_MEAN)) * scale
    return jnp.concatenate([color, hha], axis=-1)


def net_input(batch: Batch, hha: bool, suffix: str = '') -> Array:
    """Returns colour, and HHA behind it, [B, H, W, 3 or 6] uint8.

    Args:
      batch: a batch.
      hha: whether the net sees HHA.
      suffix: of the features. '_frames': the frames of each example, [B, N, H, W, 3 or 6].
    """
    color = batch[f'image{suffix}']
    if not hha:
        return color
    return jnp.concatenate([color, batch[f'{frame_pooling.HHA}{suffix}']], axis=-1)


def frame_scores(
    apply: Callable[[Array], tuple[Mapping, PyTree]], frames: Array
) -> tuple[Array, Mapping, PyTree]:
    """Returns (scores [B, N, H, W, C] float32 at the size of the frames, outputs, statistics).

    Args:
      apply: [B N, H, W, c] uint8 -> (outputs of the net, statistics).
      frames: [B, N, H, W, c] uint8.
    """
    flat = frames.reshape(-1, *frames.shape[2:])
    outputs, statistics = apply(flat)
    scores = resize.bilinear(outputs['logits'].astype(jnp.float32), frames.shape[2:4])
    return scores.reshape(*frames.shape[:2], *scores.shape[1:]), outputs, statistics


def pooled_scores(
    config: ml_collections.ConfigDict,
    system: System,
    pooling: Pooling,
    apply: Callable,
    batch: Batch,
) -> tuple[Array, Mapping, PyTree]:
    """Returns (scores of the targets [B, H, W, C], outputs of the net, statistics).

    Args:
      config: of the run.
      system: of the run.
      pooling: how.
      apply: frames [B N, H, W, c] -> (outputs, statistics).
      batch: with region maps at the size of the frames.
    """
    frames = net_input(batch, config.hha, '_frames' if pooling.has_frames else '')
    if not pooling.has_frames:
        frames = frames[:, None]
    scores, outputs, statistics = frame_scores(apply, frames)
    pooled = frame_pooling.pool(scores, batch, pooling, config.regions.num_regions)
    return pooled, outputs, statistics


# --- training -------------------------------------------------------------------------------------


def frames_stage(config: ml_collections.ConfigDict, spec: DataSpec, system: System) -> Stage:
    """Builds the first stage, which trains the net on labelled frames."""
    first = config.copy_and_resolve_references()
    first.optim = config.optim_frames
    first.train.num_steps = config.frames.num_steps
    first.train.batch_size = config.frames.batch_size
    system = system._replace(
        training=system.training._replace(use=NONE, num_frames=1),
        testing=system.testing._replace(use=NONE, num_frames=1),
    )
    return make_stage(first, spec, system, 'frames', 'frames.batch_size')


def pooled_stage(config: ml_collections.ConfigDict, spec: DataSpec, system: System) -> Stage:
    """Builds the stage that trains the net with pooling."""
    return make_stage(config, spec, system, 'segmentation', 'train.batch_size')


def make_stage(
    config: ml_collections.ConfigDict, spec: DataSpec, system: System, name: str, batch_key: str
) -> Stage:
    """Builds a stage that trains the net with `system.training`."""
    train_input = segmentation.train_input(config)._replace(batch_key=batch_key)
    eval_input = segmentation.eval_input(config)
    return Stage(
        name=name,
        num_steps=config.train.num_steps,
        train_input=input_with(config, spec, train_input, system.training, 'pooling'),
        eval_input=input_with(config, spec, eval_input, system.testing, 'testing'),
        streams=('dropout',),
        init=make_init(config, system.net),
        train_step=supervised.make_supervised_step(config, make_loss(config, spec, system)),
        observation=make_observation(config, spec, system),
        predict_planes=frame_pooling.HHA if config.hha else '',
        **make_evaluation(config, spec, system)._asdict(),
    )


def make_init(config: ml_collections.ConfigDict, net: segmentation.Net) -> Callable:
    """Returns `Stage.init`: the net of the first stage, or a new net."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        if 'frames' in earlier:
            # Training continues with the parameters that evaluation used.
            params, model_state = optim.averaged(earlier['frames'], config.train.ema)
        else:
            several = 'image_frames' in batch
            frames = net_input(batch, config.hha, '_frames' if several else '')
            first = frames[:1, 0] if several else frames[:1]
            variables = {'segmenter': net.init(rng.named(key, 'segmenter'), first)}
            params, model_state = supervised.fields_of(variables)
        return supervised.fresh_state(
            params,
            model_state,
            supervised.alone(config),
            num_steps=config.train.num_steps,
            ema=config.train.ema,
        )

    return init


def make_loss(config: ml_collections.ConfigDict, spec: DataSpec, system: System) -> Callable:
    """Returns the loss of the pooled scores, for `supervised.make_train_step`.

    Auxiliary heads add their losses where the net sees the target alone.
    """
    terms = supervised.make_terms(config, spec)
    pooling = system.training

    def loss_fn(params: Mapping, model_state: Mapping, batch: Batch, keys: Keys):
        trained = without_gradient(params, config.optim)

        def apply(frames: Array) -> tuple[Mapping, PyTree]:
            return system.net.apply(
                trained['segmenter'],
                model_state['segmenter'],
                frames,
                train=True,
                dropout=keys['dropout'],
            )

        scores, outputs, statistics = pooled_scores(config, system, pooling, apply, batch)
        heads = {} if pooling.has_frames else {'aux': outputs.get('aux', {})}
        return terms({'logits': scores, **heads}, batch), {'segmenter': statistics}, {}

    return loss_fn


def without_gradient(params: PyTree, optimiser: ml_collections.ConfigDict) -> PyTree:
    """Stops the gradients of parameters that an optimiser freezes by a factor of 0.

    Args:
      params: {net: parameters}.
      optimiser: section of the config. `optim.make` checks its patterns.
    """
    frozen = [pattern for pattern, factor in optimiser.factors if factor == 0]

    def stopped(path: tuple, value: Array) -> Array:
        is_frozen = any(re.fullmatch(pattern, path_name(path)) for pattern in frozen)
        return jax.lax.stop_gradient(value) if is_frozen else value

    return jax.tree_util.tree_map_with_path(stopped, params)


# --- evaluation -----------------------------------------------------------------------------------


def make_evaluation(
    config: ml_collections.ConfigDict, spec: DataSpec, system: System
) -> Evaluation:
    """Builds the evaluation of a stage: scores of pooled predictions, and their pictures.

    Scores also hold the pixel accuracy and the mean IoU of each image.
    """
    infer = segmentation.make_infer(config, system.net)
    pooling = system.testing

    def evidence(state: TrainState, batch: Batch) -> Array:
        return evaluated_scores(config, system, state, batch)

    evaluation = segmentation.make_evaluation(config, spec, infer, evidence, pooling.num_frames)

    def render(state: TrainState, batch: Batch, keys: Keys) -> Pictures:
        return {
            **evaluation.render(state, batch, keys),
            **region_pictures(batch, pooling),
        }

    def eval_step(state: TrainState, batch: Batch, keys: Keys) -> Metrics:
        # Tests of a net are compared image by image.
        maps = evaluation.label_maps(state, batch, keys)
        counted = maps.truth < spec.classes.num_classes
        right = (counted & (maps.prediction == maps.truth)).sum((1, 2))
        share = right / counted.sum((1, 2))
        metrics = evaluation.eval_step(state, batch, keys)
        num_images = spec.split(config.data.eval_split).num_labelled
        placed = confusion.per_example(share, batch['index'], batch['weight'], num_images)
        return {**metrics, ACCURACIES: placed}

    def finalize(metrics: Mapping[str, Mean]) -> Scores:
        scores = evaluation.finalize(metrics)
        scores[ACCURACIES] = numbers(metrics[ACCURACIES])
        scores['IoU_of_images'] = numbers(metrics['image_score'])
        if config.testing.merge:
            scores[MERGED] = merged_scores(config, spec, metrics['confusion'].sum)
        if BOUNDARIES in metrics:
            scores[BOUNDARIES] = boundary.scores(metrics[BOUNDARIES])
        return scores

    return evaluation._replace(eval_step=eval_step, render=render, finalize=finalize)


def numbers(mean: Mean) -> list[float | None]:
    """Returns the values of a vector for JSON, None for images without a value."""
    return [None if np.isnan(value) else float(value) for value in mean.value()]


def merged_scores(config: ml_collections.ConfigDict, spec: DataSpec, matrix: np.ndarray) -> Scores:
    """Returns the scores of merged predictions and labels, as Table 3.6 has them.

    Args:
      config: of the run. `testing.merge` names a class map.
      spec: of the evaluated data set.
      matrix: as `confusion.confusion` counts the output channels.
    """
    merge = spec.class_maps[config.testing.merge]
    if config.data.void_class:
        # Predicted void is no class. Where the truth is void, no prediction is right or wrong.
        num_classes = spec.classes.num_classes
        matrix = np.pad(matrix[:num_classes, : num_classes + 1], ((0, 1), (0, 0)))
    counts = confusion.merged(matrix, merge.train_ids, merge.classes.num_classes)
    return confusion.scores(counts, merge.classes.names, config.evaluate.policy)


def make_observation(
    config: ml_collections.ConfigDict, spec: DataSpec, system: System
) -> Observation | None:
    """Returns the evaluation of class boundaries at the size of the images, None if it is off."""
    settings = config.testing
    if not settings.boundary_thresholds:
        return None

    # The device computes strengths, and the host matches boundaries.
    def outputs(state: TrainState, batch: Batch, keys: Keys) -> Mapping[str, Array]:
        scores = evaluated_scores(config, system, state, batch)
        probabilities = jax.nn.softmax(scores[..., : spec.classes.num_classes])
        return {
            'strength': boundary.boundary_strength(probabilities, batch['size']),
            'truth': segmentation.to_image(batch['label'], batch),
        }

    def observe(batch: Mapping[str, np.ndarray], seen: Mapping[str, np.ndarray]) -> dict[str, Mean]:
        counts = boundary.class_counts(
            seen['strength'],
            seen['truth'],
            batch['size'],
            settings.boundary_thresholds,
            settings.boundary_distance,
        )
        return {BOUNDARIES: counts}

    return Observation(outputs, observe)


def evaluated_scores(
    config: ml_collections.ConfigDict, system: System, state: TrainState, batch: Batch
) -> Array:
    """Returns the pooled scores of an evaluation batch, [B, H, W, C] at the size of the images."""
    net = segmentation.averaged_net(system.net, state, config.train.ema)

    def apply(frames: Array) -> tuple[Mapping, PyTree]:
        return net(frames), {}

    batch = frame_pooling.at_image(batch, system.testing)
    scores, _, _ = pooled_scores(config, system, system.testing, apply, batch)
    return scores


def region_pictures(batch: Batch, pooling: Pooling) -> Pictures:
    """Paints the borders of the target's regions, and the matched parts of all frames.

    Unmatched parts of a frame are dark.
    """
    if not pooling.has_regions:
        return {}
    batch = frame_pooling.at_image(batch, pooling)
    finest = pooling.levels[0]
    borders = edges.instance_edges(batch[finest])[..., None]
    outlined = jnp.where(borders, np.uint8(BORDER_COLOR), batch['image'])
    legend = {'border of a region': BORDER_COLOR}
    pictures: Pictures = {'regions': Picture(outlined, batch['size'], legend=legend)}
    if pooling.use == FULL:
        matched = frame_pooling.target_regions(batch, pooling, finest)[..., None] != NO_REGION
        frames = batch['image_frames']
        shown = jnp.where(matched, frames, frames // 4)
        distance = batch['frame_frames'] - batch['frame'][:, None]
        pictures['frames'] = Picture(shown, batch['size'], {'frame': distance})
    return pictures
