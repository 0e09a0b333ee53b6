"""Segmentation guided by scene geometry: a regulariser aligns class edges with depth edges.

Papadopoulos, Mademlis, Pitas: Semantic Image Segmentation Guided by Scene Geometry. This file also
has the methods that the paper compares with.

Method, top to bottom:

1. Stage `depth`: a depth net and a pose net are trained on video by view synthesis
   (segjax/tasks/monodepth.py).
2. Stage `segmentation`: the segmentation net is trained like the supervised baseline
   (segjax/tasks/supervised.py), with an additional term. With S the class probabilities, D the
   disparity of the frozen depth net, and S'_x = max_c |dS_c/dx|,

       L_h = mean( S'_x e^-|dD/dx| ) + mean( S'_y e^-|dD/dy| )

   makes edges between classes expensive where the depth net shows no edge.
3. Inference uses the segmentation net alone.

Two config keys choose the method:

    geometry.depth_from    pretrained  the two stages above
                           multitask   one stage, which trains depth and segmentation together
                           none        one stage, without depth
                           alone       the stage `depth` is all
                           truth       a stage `pose` is all: the pose net on the true depth
    geometry.regulariser   holistic (L_h), per_class (L_p, the sum over classes), chen, or none

Rows of the paper's table. `none` and `none` is the baseline. `pretrained` and `holistic` is the
proposal. `pretrained` and `chen` is the regulariser of [4]. Its `multitask` form smooths depth
inside classes. In `multitask` training one encoder serves both tasks. The depth decoder is either
added to the segmentation net ([3], and [4] multitask), or part of a net for both tasks
(`model.name=depth_and_segmentation`, [2], with its scaled gradients).

[2] Klingner, Bär, Fingscheidt, CVPRW 2020. [3] Novosel, Viswanath, Arsenali, NeurIPSW 2019.
[4] Chen, Liu, Liu, Wang, CVPR 2019. None of them has released code for this.
configs/scene_geometry.py lists the choices that the papers leave open.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from segjax import models
from segjax.core import optim, rng
from segjax.errors import InputError
from segjax.losses import geometry as losses
from segjax.models.depth.decoder import (
    PYRAMIDS,
    DepthDecoder,
    decoder_channels,
    pyramid,
    sigmoid_to_depth,
)
from segjax.ops import images, resize
from segjax.protocol import Array, Batch, Input, Keys, Mean, PRNGKey, PyTree, Stage, TrainState
from segjax.schema import OPTIM, Field, above, at_least, one_of
from segjax.spec import DataSpec
from segjax.tasks import monodepth, segmentation, supervised
from segjax.tasks.evaluation import Evaluation, Pictures, of_images

SOURCES = ('pretrained', 'multitask', 'none', 'alone', 'truth')
SCHEMA = {
    'model': models.net_choice('segmentation', 'bisenet', 'Net that segments images.'),
    'preprocess': segmentation.PREPROCESS,
    'loss': supervised.LOSS,
    'geometry': {
        'depth_from': Field(
            'pretrained',
            'Source of depth: a pretrained net, multitask training, or none. '
            'With alone only depth is trained, with truth only the pose net.',
            one_of(*SOURCES),
        ),
        'regulariser': Field(
            'holistic',
            'Regulariser that links semantic edges to depth edges.',
            one_of('holistic', 'per_class', 'chen', 'none'),
        ),
        'weight': Field(1.0, 'Weight of the geometry regulariser.', at_least(0)),
        'sharpness': Field(
            1.0,
            'Factor on depth edges in the exponent of holistic and per_class. '
            'Larger values spare fainter edges.',
            at_least(0),
        ),
        'semantic_map': Field(
            'softmax',
            'Map whose differences are the semantic edges: class probabilities or logits.',
            one_of('softmax', 'logits'),
        ),
        'depth_map': Field(
            'disparity',
            'Map whose differences are the depth edges, divided by its mean over the image.',
            one_of('disparity', 'depth'),
        ),
        'multitask_weight': Field(
            1.0, 'Weight of the depth losses in multitask training.', at_least(0)
        ),
    },
    'depth': {
        **monodepth.SCHEMA,
        'num_steps': Field(10_000, 'Optimiser steps of the stage that trains depth.', at_least(0)),
        'batch_size': Field(4, 'Images per step of the stage that trains depth.', at_least(1)),
        'min_depth': Field(
            0.1, 'Smallest depth that the joint depth decoder can predict.', above(0)
        ),
        'max_depth': Field(
            100.0, 'Largest depth that the joint depth decoder can predict.', above(0)
        ),
    },
    'depth_net': monodepth.DEPTH_NET,
    'pose_net': monodepth.POSE_NET,
    'optim': OPTIM,
    'optim_depth': OPTIM,
}
OWN_DEPTH = 'depth_and_segmentation'
"""The net that predicts depth itself and needs no depth decoder."""
SHARPENED = {
    'holistic': losses.holistic_consistency,
    'per_class': losses.per_class_consistency,
}
"""Regularisers that `geometry.sharpness` changes."""


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the stages that `geometry.depth_from` names."""
    check_config(config)
    depth_from = config.geometry.depth_from
    if depth_from != 'none':
        monodepth.check_config(config, spec, config.augment.crop)
    if depth_from == 'truth':
        monodepth.check_true_depth(config, spec)
        return (pose_stage(config, spec),)
    if depth_from == 'alone':
        return (depth_stage(config, spec),)
    if depth_from == 'pretrained':
        return depth_stage(config, spec), segmentation_stage(config, spec)
    return (segmentation_stage(config, spec),)


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for combinations of depth, regulariser and net that mean nothing."""
    _check_regulariser(config.geometry)
    _check_sharpness(config.geometry)
    _check_net(config)


def _check_regulariser(geometry: ml_collections.ConfigDict) -> None:
    """Raises InputError for a regulariser without depth, or pretrained depth without use."""
    where = 'config.geometry.regulariser'
    if geometry.depth_from in ('none', 'alone', 'truth') and geometry.regulariser != 'none':
        raise InputError(
            where,
            got=f'{geometry.regulariser!r} with config.geometry.depth_from={geometry.depth_from}',
            expected="'none', or a depth that a segmentation net learns from",
        )
    if geometry.depth_from == 'pretrained' and geometry.regulariser == 'none':
        raise InputError(
            where,
            got="'none', for which a depth net would be trained beforehand",
            expected='a regulariser that uses depth: holistic, per_class or chen',
        )


def _check_sharpness(geometry: ml_collections.ConfigDict) -> None:
    """Raises InputError for a sharpness without an exponent that it could change."""
    if geometry.sharpness != 1 and geometry.regulariser not in SHARPENED:
        raise InputError(
            'config.geometry.sharpness',
            got=f'{geometry.sharpness} with config.geometry.regulariser={geometry.regulariser}',
            expected=f'1, or a regulariser that has an exponent: {", ".join(SHARPENED)}',
        )


def _check_net(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for joint training of a net whose features no depth decoder can share."""
    own_depth = config.model.name == OWN_DEPTH
    if config.geometry.depth_from != 'multitask' or own_depth or 'stem' in config.model:
        return
    able = [
        name
        for name in models.NETS['segmentation']
        if {'stem', 'taps'} <= set(models.schema('segmentation', name))
    ]
    names = ', '.join([*able, OWN_DEPTH])
    raise InputError(
        'config.model.name',
        got=repr(config.model.name),
        expected=f'a net on a ResNet whose features a depth decoder can share: {names}',
    )


# --- depth or motion alone ------------------------------------------------------------------------


class VideoNets(NamedTuple):
    """The nets of a stage that learns depth or motion, and not segmentation.

    init      (key, batch) -> {net: variables}
    apply     (params, model_state, batch, *, train) -> (disparities, pose outputs, model_state),
              with disparities [d_0, ..] and d_0 [B, H, W] of full resolution
    depth_of  disparity -> depth
    pose      the pose net
    names     of the nets in the state
    """

    init: Callable
    apply: Callable
    depth_of: Callable
    pose: monodepth.PoseNet
    names: tuple[str, ...]


def make_depth_nets(
    config: ml_collections.ConfigDict,
) -> tuple[monodepth.DepthNet, monodepth.PoseNet]:
    """Builds the depth net and the pose net of the config."""
    depth = monodepth.make_depth_net(config.depth_net, config.train.dtype)
    masks = config.depth.mask_weight > 0
    pose = monodepth.make_pose_net(config.pose_net, config.depth.frames, masks, config.train.dtype)
    return depth, pose


def depth_stage(config: ml_collections.ConfigDict, spec: DataSpec) -> Stage:
    """Builds the training of depth and motion from video alone."""
    depth, pose = make_depth_nets(config)

    def init(key: PRNGKey, batch: Batch) -> dict[str, PyTree]:
        # Initialisation needs shapes alone, so one example is enough.
        image = batch['image'][:1]
        frames = batch['image_frames'][:1]
        return {
            'depth': depth.init(rng.named(key, 'depth'), image),
            'pose': pose.init(rng.named(key, 'pose'), image, frames),
        }

    def apply(params, model_state, batch: Batch, *, train: bool):
        image = batch['image']
        frames = batch['image_frames']
        disparities, depth_state = depth.apply(
            params['depth'], model_state['depth'], image, train=train
        )
        outputs, pose_state = pose.apply(
            params['pose'], model_state['pose'], image, frames, train=train
        )
        return disparities, outputs, {'depth': depth_state, 'pose': pose_state}

    # `video_stage` adds losses, optimisers and scores.
    nets = VideoNets(init, apply, depth.depth_of, pose, ('depth', 'pose'))
    return video_stage(config, spec, 'depth', nets)


def pose_stage(config: ml_collections.ConfigDict, spec: DataSpec) -> Stage:
    """Builds the training of the pose net alone, with the true depth in the warp.

    It shows whether motion is learned.
    """
    _, pose = make_depth_nets(config)

    def init(key: PRNGKey, batch: Batch) -> dict[str, PyTree]:
        image = batch['image'][:1]
        frames = batch['image_frames'][:1]
        return {'pose': pose.init(rng.named(key, 'pose'), image, frames)}

    def apply(params, model_state, batch: Batch, *, train: bool):
        outputs, pose_state = pose.apply(
            params['pose'],
            model_state['pose'],
            batch['image'],
            batch['image_frames'],
            train=train,
        )
        # In evaluation depth has the size of the labels.
        depth = batch['depth'] if train else segmentation.to_image(batch['depth'], batch, fill=0)
        return [monodepth.inverse(depth)], outputs, {'pose': pose_state}

    nets = VideoNets(init, apply, monodepth.inverse, pose, ('pose',))
    return video_stage(config, spec, 'pose', nets, features=('depth',), truth=('pose',))


def video_stage(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    name: str,
    nets: VideoNets,
    features: tuple[str, ...] = (),
    truth: tuple[str, ...] = monodepth.TRUTH,
) -> Stage:
    """Builds the training of nets by view synthesis.

    Args:
      config: of the run.
      spec: of the data set.
      name: of the stage.
      nets: that are trained.
      features: of the training batches, in addition to frames and cameras.
      truth: features that predictions are scored with, if the data set has them.
    """
    pose = nets.pose
    num_steps = config.depth.num_steps
    terms = monodepth.make_terms(config.depth, nets.depth_of, pose.at_depth)
    weight_of = monodepth.loss_weights(config.depth).__getitem__
    optimisers = {name: supervised.Optimiser(config.optim_depth, nets.names, 'optim_depth')}

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        params, model_state = split_variables(nets.init(key, batch))
        return supervised.fresh_state(params, model_state, optimisers, num_steps=num_steps, ema=0.0)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        disparities, outputs, statistics = nets.apply(params, model_state, batch, train=True)
        motions = pose.motions(outputs)
        masks = outputs.get('masks')
        return terms(disparities, motions, masks, batch, keys), statistics, {}

    def infer(state: TrainState, batch: Batch):
        disparities, outputs, _ = nets.apply(state.params, state.model_state, batch, train=False)
        disparity = disparities[0]  # the finest scale
        motions = pose.motions(outputs)
        return disparity, nets.depth_of, pose.at_depth(motions, nets.depth_of(disparity))

    train_step = supervised.make_train_step(
        loss_fn,
        optimisers,
        weight_of,
        num_steps=num_steps,
        accumulate=config.train.accumulate,
        ema=0.0,
        shared=monodepth.SHARED_STREAMS,
    )
    return Stage(
        name=name,
        num_steps=num_steps,
        train_input=monodepth.with_frames(video_input(config), config, *features),
        eval_input=monodepth.eval_input(config, spec),
        streams=(),
        shared_streams=monodepth.SHARED_STREAMS,
        init=init,
        train_step=train_step,
        **monodepth.make_evaluation(config, spec, infer, truth)._asdict(),
    )


def video_input(config: ml_collections.ConfigDict) -> Input:
    """Returns all frames of the training split: depth and motion are learned without labels."""
    return segmentation.train_input(config)._replace(
        batch_size=config.depth.batch_size,
        batch_key='depth.batch_size',
        features=('image',),
        examples='all',
        part=(0.0, 1.0),
    )


def split_variables(
    variables: Mapping[str, Mapping],
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Splits {net: variables} into {net: parameters} and {net: all other variables}."""
    params = {}
    model_state = {}
    for net, of_net in variables.items():
        params[net] = of_net['params']
        model_state[net] = {kind: of_net[kind] for kind in of_net if kind != 'params'}
    return params, model_state


# --- segmentation: nets and state -----------------------------------------------------------------


class Tasks(NamedTuple):
    """The segmentation net, and the source of the disparity of its images.

    net       segmentation net. Its outputs have 'disparity' if it predicts depth itself, and
              'features' if there is a `decoder`
    decoder   depth decoder on the features of the net, in joint training; None: there is none
    pose      pose net of joint training; None: no joint training
    frozen    (state, image) -> disparity of the pretrained net; None: no pretrained net
    depth_of  disparity -> depth
    """

    net: segmentation.Net
    decoder: DepthDecoder | None
    pose: monodepth.PoseNet | None
    frozen: Callable | None
    depth_of: Callable


def make_tasks(config: ml_collections.ConfigDict, spec: DataSpec) -> Tasks:
    """Builds the nets of the stage `segmentation`."""
    model = config.model
    depth_from = config.geometry.depth_from
    decoder = None
    # Depth limits, taps and decoder depend on the net that predicts depth.
    limits = (config.depth.min_depth, config.depth.max_depth)
    if model.name == OWN_DEPTH:
        limits = (model.min_depth, model.max_depth)
    elif depth_from == 'multitask':
        model = model.copy_and_resolve_references()
        model.taps = (*model.taps, *PYRAMIDS[model.stem])
        decoder = DepthDecoder(
            decoder_channels(model.width),
            config.depth.num_scales,
            dtype=jnp.dtype(config.train.dtype),
        )
    net = segmentation.make_image_net(config, segmentation.num_outputs(config, spec), model)
    depth_net, pose = make_depth_nets(config)

    # The frozen net converts disparities as in its own training.
    if depth_from == 'pretrained':

        def frozen(state: TrainState, image: Array) -> Array:
            disparities, _ = depth_net.apply(
                state.params['depth'], state.model_state['depth'], image, train=False
            )
            return disparities[0]

        return Tasks(net, None, None, frozen, depth_net.depth_of)

    def depth_of(disparity: Array) -> Array:
        return sigmoid_to_depth(disparity, *limits)

    return Tasks(net, decoder, pose if depth_from == 'multitask' else None, None, depth_of)


def make_optimisers(config: ml_collections.ConfigDict, tasks: Tasks) -> supervised.Optimisers:
    """Returns the optimisers. Joint training adds one for depth and pose.

    Pretrained nets are frozen.
    """
    optimisers = dict(supervised.alone(config))
    if tasks.pose is not None:
        nets = ('pose',) if tasks.decoder is None else ('depth', 'pose')
        optimisers['geometry'] = supervised.Optimiser(config.optim_depth, nets, 'optim_depth')
    return optimisers


def make_init(config: ml_collections.ConfigDict, tasks: Tasks) -> Callable:
    """Returns `Stage.init`: new nets, and the pretrained depth net if that exists."""
    optimisers = make_optimisers(config, tasks)

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        image = batch['image'][:1]
        variables = {'segmenter': tasks.net.init(rng.named(key, 'segmenter'), image)}
        # The decoder is initialised for the features of the encoder.
        if tasks.decoder is not None:
            features = _feature_shapes(tasks.net, variables['segmenter'], image)
            variables['depth'] = tasks.decoder.lazy_init(
                rng.named(key, 'depth'), features, image.shape[1:3]
            )
        if tasks.pose is not None:
            frames = batch['image_frames'][:1]
            variables['pose'] = tasks.pose.init(rng.named(key, 'pose'), image, frames)
        params, model_state = split_variables(variables)

        # The frozen net comes from the stage `depth` as it is.
        if tasks.frozen is not None:
            before = earlier['depth']
            params['depth'] = before.params['depth']
            model_state['depth'] = before.model_state['depth']
        train = config.train
        return supervised.fresh_state(
            params, model_state, optimisers, num_steps=train.num_steps, ema=train.ema
        )

    return init


def _feature_shapes(net: segmentation.Net, variables: Mapping, image: Array) -> PyTree:
    """Returns the shapes of the features that the depth decoder reads. Nothing is computed."""
    params, model_state = split_variables({'segmenter': variables})

    def features():
        outputs, _ = net.apply(params['segmenter'], model_state['segmenter'], image, train=False)
        return _features(outputs)

    return jax.eval_shape(features)


def _features(outputs: Mapping) -> list[Array]:
    """Returns the pyramid of the backbone whose taps are among the features of a net's outputs."""
    stem = next(stem for stem, taps in PYRAMIDS.items() if set(taps) <= set(outputs['features']))
    return pyramid(outputs['features'], stem)


def disparities_of(tasks: Tasks, outputs: Mapping, params: Mapping, image: Array) -> list[Array]:
    """Returns the disparities predicted in joint training, full resolution first."""
    if tasks.decoder is None:
        return outputs['disparity']
    return tasks.decoder.apply({'params': params['depth']}, _features(outputs), image.shape[1:3])


# --- segmentation: the loss -----------------------------------------------------------------------


def semantic_map(logits: Array, size: tuple[int, int], kind: str) -> Array:
    """Returns the map S, whose differences are the semantic edges, [B, H, W, C].

    Args:
      logits: [B, h, w, C].
      size: (H, W) of the result.
      kind: 'softmax' for probabilities, 'logits' for the logits themselves.
    """
    logits = resize.bilinear(logits.astype(jnp.float32), size)
    return jax.nn.softmax(logits) if kind == 'softmax' else logits


def depth_map(disparity: Array, depth_of: Callable, kind: str) -> Array:
    """Returns the map D, whose differences are the depth edges: its mean over each image is 1.

    e^-|dD| has no meaning in other units.

    Args:
      disparity: [B, H, W].
      depth_of: disparity -> depth.
      kind: 'disparity' or 'depth'.
    """
    return losses.normalised_depth(disparity if kind == 'disparity' else depth_of(disparity))


def make_regulariser(config: ml_collections.ConfigDict, depth_of: Callable) -> Callable:
    """Returns the term of config.geometry.regulariser.

    It maps (logits [B, h, w, C], disparity [B, H, W], weight [B]) to a Mean.
    """
    geometry = config.geometry

    def regulariser(logits: Array, disparity: Array, weight: Array) -> Mean:
        size = disparity.shape[1:]
        # In joint training, the regulariser of [4] changes the depth and not the classes.
        if geometry.regulariser == 'chen' and geometry.depth_from == 'multitask':
            classes = jnp.argmax(semantic_map(logits, size, 'logits'), -1)
            return losses.semantic_guided_smoothness(disparity, classes, weight)
        semantic = semantic_map(logits, size, geometry.semantic_map)
        depth = depth_map(disparity, depth_of, geometry.depth_map)
        if geometry.regulariser == 'chen':
            return losses.depth_edges_without_semantic_edges(semantic, depth, weight)
        consistency = SHARPENED[geometry.regulariser]
        return consistency(semantic, depth, weight, geometry.sharpness)

    return regulariser


def make_loss(config: ml_collections.ConfigDict, spec: DataSpec, tasks: Tasks) -> Callable:
    """Returns (params, model_state, batch, keys) -> (terms, model_state, {}).

    The terms are the supervised terms, terms of depth in joint training, and the regulariser. The
    disparity of a pretrained net is in batch['disparity'].
    """
    pixel_terms = supervised.make_terms(config, spec)
    regulariser = make_regulariser(config, tasks.depth_of)
    at_depth = monodepth.as_predicted if tasks.pose is None else tasks.pose.at_depth
    video_terms = monodepth.make_terms(config.depth, tasks.depth_of, at_depth)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        image = batch['image']
        statistics = dict(model_state)

        # Supervised terms.
        outputs, statistics['segmenter'] = tasks.net.apply(
            params['segmenter'],
            model_state['segmenter'],
            image,
            train=True,
            dropout=keys['dropout'],
        )
        terms = pixel_terms(outputs, batch)

        # View synthesis, in joint training.
        disparity = batch.get('disparity')
        if tasks.pose is not None:
            frames = batch['image_frames']
            pose_outputs, statistics['pose'] = tasks.pose.apply(
                params['pose'], model_state['pose'], image, frames, train=True
            )
            motions = tasks.pose.motions(pose_outputs)
            masks = pose_outputs.get('masks')
            disparities = disparities_of(tasks, outputs, params, image)
            terms |= video_terms(disparities, motions, masks, batch, keys)
            disparity = disparities[0]

        # Semantic edges against depth edges.
        if config.geometry.regulariser != 'none':
            terms['regulariser'] = regulariser(outputs['logits'], disparity, batch['weight'])
        return terms, statistics, {}

    return loss_fn


def make_weight(config: ml_collections.ConfigDict) -> Callable[[str], float]:
    """Returns a function from the name of a loss term to its weight."""
    weights = {'regulariser': config.geometry.weight}
    for name, weight in monodepth.loss_weights(config.depth).items():
        weights[name] = config.geometry.multitask_weight * weight
    head_weight = supervised.head_weight(config)

    def weight_of(name: str) -> float:
        return weights[name] if name in weights else head_weight(name)

    return weight_of


# --- segmentation: the stage ----------------------------------------------------------------------


def segmentation_stage(config: ml_collections.ConfigDict, spec: DataSpec) -> Stage:
    """Builds the training of the segmentation net, with the depth that the config asks for."""
    tasks = make_tasks(config, spec)
    inputs = segmentation.train_input(config)
    if tasks.pose is not None:
        inputs = monodepth.with_frames(inputs, config)
    return Stage(
        name='segmentation',
        num_steps=config.train.num_steps,
        train_input=inputs,
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        shared_streams=monodepth.SHARED_STREAMS,
        init=make_init(config, tasks),
        train_step=make_train_step(config, spec, tasks),
        **make_evaluation(config, spec, tasks)._asdict(),
    )


def make_train_step(config: ml_collections.ConfigDict, spec: DataSpec, tasks: Tasks) -> Callable:
    """Returns `Stage.train_step`: the supervised step with additional terms of the loss."""

    def with_disparity(state: TrainState, batch: Batch) -> Batch:
        if tasks.frozen is None:
            return batch
        return {**batch, 'disparity': tasks.frozen(state, batch['image'])}

    return supervised.make_train_step(
        make_loss(config, spec, tasks),
        make_optimisers(config, tasks),
        make_weight(config),
        shared=monodepth.SHARED_STREAMS,
        prepare=with_disparity,
        **supervised.schedule(config),
    )


class Judge(NamedTuple):
    """The inputs of `render`.

    config        of the run
    tasks         the nets
    of_segmenter  evaluation of the segmentation net
    """

    config: ml_collections.ConfigDict
    tasks: Tasks
    of_segmenter: Evaluation


def make_evaluation(config: ml_collections.ConfigDict, spec: DataSpec, tasks: Tasks) -> Evaluation:
    """Builds the evaluation of the segmentation net, which needs no depth.

    If there is depth, pictures also show the disparity, and both kinds of edges that regularisers
    compare.
    """
    infer = segmentation.make_infer(config, tasks.net)
    of_segmenter = segmentation.make_evaluation(config, spec, infer)
    if config.geometry.depth_from == 'none':
        return of_segmenter
    judge = Judge(config, tasks, of_segmenter)
    return of_segmenter._replace(render=functools.partial(render, judge))


def render(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Pictures:
    """Paints the pictures of segmentation, the disparity, depth edges and semantic edges."""
    config, tasks, of_segmenter = judge
    image = batch['image']
    outputs = segmentation.averaged_net(tasks.net, state, config.train.ema)(image)
    if tasks.frozen is not None:
        disparity = tasks.frozen(state, image)
    else:
        params, _ = optim.averaged(state, config.train.ema)
        disparity = disparities_of(tasks, outputs, params, image)[0]
    depth = depth_map(disparity, tasks.depth_of, config.geometry.depth_map)
    probabilities = semantic_map(outputs['logits'], image.shape[1:3], 'softmax')
    pictures = {
        'disparity': images.paint_disparity(disparity),
        'depth_edges': images.paint_edges(depth[..., None]),
        'semantic_edges': images.paint_edges(probabilities),
    }
    return of_segmenter.render(state, batch, keys) | of_images(pictures, batch)
