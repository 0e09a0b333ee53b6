"""Segmentation guided by scene geometry: semantic edges where a depth net, trained on video alone, sees edges, too.

Papadopoulos, Mademlis, Pitas: Semantic Image Segmentation Guided by Scene Geometry. And its rivals.

Method, top to bottom. A depth net and a pose net are trained on video by view synthesis (stage `depth`,
segjax/tasks/monodepth.py). The segmentation net is trained as any other (segjax/tasks/supervised.py), with one
term more: L_h, which makes edges between classes cost e^-|dD|, little where the frozen depth net sees an
edge (stage `segmentation`). At inference there is the segmentation net alone.

    config.geometry.depth_from = pretrained | multitask | none | alone      whose depth; alone: the stage `depth` is all
                            | truth      the stage `pose` is all: the pose net on the true depth
    config.geometry.regulariser = holistic | per_class | chen | none      what is asked of it

The rows of the table: `none` and `none` is the baseline; `pretrained` and `holistic` the proposal; `pretrained` and
`chen` the regulariser of [4], whose `multitask` form smooths depth inside classes. In `multitask` training one encoder
serves both tasks: a depth decoder beside the segmentation net ([3], and [4] multitask), or a net that has both
(`model.name=depth_and_segmentation`, [2], with its scaled gradients).

[2] Klingner, Bär, Fingscheidt, CVPRW 2020. [3] Novosel, Viswanath, Arsenali, NeurIPSW 2019. [4] Chen, Liu, Liu, Wang,
CVPR 2019. None of them has released code for this; what is not in the papers is said in configs/scene_geometry.py.
"""

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
from segjax.protocol import Array, Batch, Input, Keys, Mean, PRNGKey, Stage, TrainState
from segjax.schema import OPTIM, Field, above, at_least, one_of
from segjax.spec import DataSpec
from segjax.tasks import monodepth, segmentation, supervised

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
"""The net that needs no depth decoder beside it."""


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """The segmentation, after a stage for depth where that is trained beforehand; or depth alone."""
    check_config(config)
    source = config.geometry.depth_from
    if source != 'none':
        monodepth.check_config(config, spec, config.augment.crop)
    if source == 'truth':
        monodepth.check_true_depth(config, spec)
        return (pose_stage(config, spec),)
    depth = (depth_stage(config, spec),) if source in ('pretrained', 'alone') else ()
    return depth if source == 'alone' else (*depth, segmentation_stage(config, spec))


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for combinations that mean nothing."""
    geometry, where = config.geometry, 'config.geometry.regulariser'
    if geometry.depth_from in ('none', 'alone', 'truth') and geometry.regulariser != 'none':
        got = f'{geometry.regulariser!r} with config.geometry.depth_from={geometry.depth_from}'
        raise InputError(
            where, got=got, expected="'none', or a depth that a segmentation net learns from"
        )
    if geometry.depth_from == 'pretrained' and geometry.regulariser == 'none':
        expected = 'one that uses it: holistic, per_class or chen'
        raise InputError(
            where,
            got="'none', for which a depth net would be trained beforehand",
            expected=expected,
        )
    if geometry.sharpness != 1 and geometry.regulariser not in SHARPENED:
        got = f'{geometry.sharpness} with config.geometry.regulariser={geometry.regulariser}'
        expected = f'1, or a regulariser that has an exponent: {", ".join(SHARPENED)}'
        raise InputError('config.geometry.sharpness', got=got, expected=expected)
    if config.model.name == OWN_DEPTH:
        return
    if geometry.depth_from == 'multitask' and 'stem' not in config.model:
        able = [
            name
            for name in models.NETS['segmentation']
            if {'stem', 'taps'} <= set(models.schema('segmentation', name))
        ]
        expected = f'a net on a ResNet whose features a depth decoder can share: {", ".join([*able, OWN_DEPTH])}'
        raise InputError('config.model.name', got=repr(config.model.name), expected=expected)


# --- depth beforehand -------------------------------------------------------------------------------------------------


def make_depth_nets(
    config: ml_collections.ConfigDict,
) -> tuple[monodepth.DepthNet, monodepth.PoseNet]:
    """The nets of the stage `depth`."""
    masks = config.depth.mask_weight > 0
    pose = monodepth.make_pose_net(config.pose_net, config.depth.frames, masks, config.train.dtype)
    return monodepth.make_depth_net(config.depth_net, config.train.dtype), pose


def video_input(config: ml_collections.ConfigDict) -> Input:
    """Returns every frame of the training split: depth and motion are learned without labels."""
    return segmentation.train_input(config)._replace(
        batch_size=config.depth.batch_size,
        batch_key='depth.batch_size',
        features=('image',),
        examples='all',
        part=(0.0, 1.0),
    )


def depth_stage(config: ml_collections.ConfigDict, spec: DataSpec) -> Stage:
    """Depth and motion from video alone."""
    depth, pose = make_depth_nets(config)
    terms = monodepth.make_terms(config.depth, depth.depth_of, pose.at_depth)
    weights = monodepth.loss_weights(config.depth)
    optimisers = {
        'depth': supervised.Optimiser(config.optim_depth, ('depth', 'pose'), 'optim_depth')
    }
    schedule = {**supervised.schedule(config), 'num_steps': config.depth.num_steps, 'ema': 0.0}

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        image = batch['image'][:1]
        variables = {
            'depth': depth.init(rng.named(key, 'depth'), image),
            'pose': pose.init(rng.named(key, 'pose'), image, batch['image_frames'][:1]),
        }
        params, model_state = _divided(variables)
        return supervised.fresh_state(
            params, model_state, optimisers, num_steps=config.depth.num_steps, ema=0.0
        )

    def look(params, model_state, image, frames, train: bool):
        disparities, depth_state = depth.apply(
            params['depth'], model_state['depth'], image, train=train
        )
        seen, pose_state = pose.apply(
            params['pose'], model_state['pose'], image, frames, train=train
        )
        return disparities, seen, {'depth': depth_state, 'pose': pose_state}

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        disparities, seen, updates = look(
            params, model_state, batch['image'], batch['image_frames'], train=True
        )
        return terms(disparities, pose.motions(seen), seen.get('masks'), batch, keys), updates, {}

    def infer(state: TrainState, batch: Batch):
        nets = state.params, state.model_state
        disparities, seen, _ = look(*nets, batch['image'], batch['image_frames'], train=False)
        motions = pose.at_depth(pose.motions(seen), depth.depth_of(disparities[0]))
        return disparities[0], depth.depth_of, motions

    inputs = video_input(config)
    return Stage(
        name='depth',
        num_steps=config.depth.num_steps,
        train_input=monodepth.with_frames(inputs, config),
        eval_input=monodepth.eval_input(config, spec),
        streams=(),
        shared_streams=monodepth.SHARED_STREAMS,
        init=init,
        train_step=supervised.make_train_step(
            loss_fn, optimisers, weights.__getitem__, shared=monodepth.SHARED_STREAMS, **schedule
        ),
        **monodepth.make_evaluation(config, spec, infer),
    )


def pose_stage(config: ml_collections.ConfigDict, spec: DataSpec) -> Stage:
    """Trains the pose net alone, with the true depth in the warp: is motion learned?"""
    _, pose = make_depth_nets(config)
    terms = monodepth.make_terms(config.depth, monodepth.inverse, pose.at_depth)
    weights = monodepth.loss_weights(config.depth)
    optimisers = {'pose': supervised.Optimiser(config.optim_depth, ('pose',), 'optim_depth')}
    schedule = {**supervised.schedule(config), 'num_steps': config.depth.num_steps, 'ema': 0.0}

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        variables = {
            'pose': pose.init(rng.named(key, 'pose'), batch['image'][:1], batch['image_frames'][:1])
        }
        params, model_state = _divided(variables)
        settings = dict(num_steps=config.depth.num_steps, ema=0.0)
        return supervised.fresh_state(params, model_state, optimisers, **settings)

    def look(params, model_state, batch: Batch, train: bool):
        frames = batch['image'], batch['image_frames']
        return pose.apply(params['pose'], model_state['pose'], *frames, train=train)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        outputs, update = look(params, model_state, batch, train=True)
        disparities = [monodepth.inverse(batch['depth'])]
        motions = pose.motions(outputs)
        return terms(disparities, motions, outputs.get('masks'), batch, keys), {'pose': update}, {}

    def infer(state: TrainState, batch: Batch):
        outputs, _ = look(state.params, state.model_state, batch, train=False)
        disparity = monodepth.inverse(segmentation.to_image(batch['depth'], batch, fill=0))
        motions = pose.at_depth(pose.motions(outputs), monodepth.inverse(disparity))
        return disparity, monodepth.inverse, motions

    inputs = video_input(config)
    return Stage(
        name='pose',
        num_steps=config.depth.num_steps,
        train_input=monodepth.with_frames(inputs, config, 'depth'),
        eval_input=monodepth.eval_input(config, spec),
        streams=(),
        shared_streams=monodepth.SHARED_STREAMS,
        init=init,
        train_step=supervised.make_train_step(
            loss_fn, optimisers, weights.__getitem__, shared=monodepth.SHARED_STREAMS, **schedule
        ),
        **monodepth.make_evaluation(config, spec, infer, truth=('pose',)),
    )


# --- segmentation -----------------------------------------------------------------------------------------------------


class Tasks(NamedTuple):
    """The segmentation net, and where the disparity of its images comes from.

    net       its outputs hold 'disparity' where it makes depth itself, 'features' where `decoder` does
    decoder   of the net's features, in multitask training; None: there is none
    pose      None without multitask training
    frozen    (state, image) -> disparity of the net that was trained beforehand; None without one
    depth_of  disparity -> depth
    """

    net: segmentation.Net
    decoder: DepthDecoder | None
    pose: monodepth.PoseNet | None
    frozen: Callable | None
    depth_of: Callable


def make_tasks(config: ml_collections.ConfigDict, spec: DataSpec) -> Tasks:
    """The nets of the stage `segmentation`."""
    model, source, settings = config.model, config.geometry.depth_from, config.depth
    decoder, limits = None, (settings.min_depth, settings.max_depth)
    if model.name == OWN_DEPTH:
        limits = model.min_depth, model.max_depth
    elif source == 'multitask':
        model = model.copy_and_resolve_references()
        model.taps = (*model.taps, *PYRAMIDS[model.stem])
        decoder = DepthDecoder(
            decoder_channels(model.width), settings.num_scales, dtype=jnp.dtype(config.train.dtype)
        )

    def prepare(image):
        return images.normalize(image, config.preprocess)

    net = segmentation.make_net(
        model, segmentation.num_outputs(config, spec), config.train.dtype, prepare
    )
    depth, pose = make_depth_nets(config)
    if source == 'pretrained':

        def frozen(state: TrainState, image: Array) -> Array:
            return depth.apply(
                state.params['depth'], state.model_state['depth'], image, train=False
            )[0][0]

        return Tasks(net, None, None, frozen, depth.depth_of)
    pose = pose if source == 'multitask' else None
    return Tasks(net, decoder, pose, None, lambda disparity: sigmoid_to_depth(disparity, *limits))


def disparities_of(tasks: Tasks, outputs: Mapping, params: Mapping, image: Array) -> list[Array]:
    """What multitask training made of the images, from full resolution on."""
    if tasks.decoder is None:
        return outputs['disparity']
    return tasks.decoder.apply({'params': params['depth']}, _features(outputs), image.shape[1:3])


def _features(outputs: Mapping) -> list[Array]:
    stem = next(stem for stem, taps in PYRAMIDS.items() if set(taps) <= set(outputs['features']))
    return pyramid(outputs['features'], stem)


def make_optimisers(config: ml_collections.ConfigDict, tasks: Tasks) -> supervised.Optimisers:
    """The segmentation net's, and in multitask training that of the nets beside it; a net from before has none."""
    if tasks.pose is None:
        return supervised.alone(config)
    beside = ('pose',) if tasks.decoder is None else ('depth', 'pose')
    return {
        **supervised.alone(config),
        'geometry': supervised.Optimiser(config.optim_depth, beside, 'optim_depth'),
    }


def make_init(config: ml_collections.ConfigDict, tasks: Tasks) -> Callable:
    """`Stage.init`: fresh nets, and the depth net of the stage before."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        image = batch['image'][:1]
        variables = {'segmenter': tasks.net.init(rng.named(key, 'segmenter'), image)}
        if tasks.decoder is not None:
            params, model_state = (tree['segmenter'] for tree in _divided(variables))
            outputs, _ = jax.eval_shape(
                lambda: tasks.net.apply(params, model_state, image, train=False)
            )
            features = jax.eval_shape(_features, outputs)
            variables['depth'] = tasks.decoder.lazy_init(
                rng.named(key, 'depth'), features, image.shape[1:3]
            )
        if tasks.pose is not None:
            variables['pose'] = tasks.pose.init(
                rng.named(key, 'pose'), image, batch['image_frames'][:1]
            )
        params, model_state = _divided(variables)
        if tasks.frozen is not None:
            before = earlier['depth']
            params['depth'], model_state['depth'] = (
                before.params['depth'],
                before.model_state['depth'],
            )
        optimisers, train = make_optimisers(config, tasks), config.train
        return supervised.fresh_state(
            params, model_state, optimisers, num_steps=train.num_steps, ema=train.ema
        )

    return init


def _divided(variables: Mapping[str, Mapping]) -> tuple[dict, dict]:
    """{net: variables} -> ({net: parameters}, {net: everything else})."""
    params = {net: of_net['params'] for net, of_net in variables.items()}
    others = {
        net: {kind: of_net[kind] for kind in of_net if kind != 'params'}
        for net, of_net in variables.items()
    }
    return params, others


def semantic_map(logits: Array, size: tuple[int, int], of: str) -> Array:
    """S: [B, h, w, C] logits -> [B, H, W, C] probabilities (`of` softmax), or the logits themselves."""
    logits = resize.bilinear(logits.astype(jnp.float32), size)
    return jax.nn.softmax(logits) if of == 'softmax' else logits


def depth_map(disparity: Array, depth_of: Callable, kind: str) -> Array:
    """D: disparity, or depth, over its mean in each image: e^-|dD| has no meaning in other units."""
    return losses.normalised_depth(disparity if kind == 'disparity' else depth_of(disparity))


SHARPENED = {
    'holistic': losses.holistic_consistency,
    'per_class': losses.per_class_consistency,
}
"""Regularisers that `geometry.sharpness` changes."""


def make_regulariser(config: ml_collections.ConfigDict, depth_of: Callable) -> Callable:
    """(logits [B, h, w, C], disparity [B, H, W], weight [B]) -> the term of config.geometry.regulariser."""
    geometry = config.geometry

    def regulariser(logits: Array, disparity: Array, weight: Array) -> Mean:
        size = disparity.shape[1:]
        if geometry.regulariser == 'chen' and geometry.depth_from == 'multitask':
            classes = jnp.argmax(semantic_map(logits, size, 'logits'), -1)
            return losses.semantic_guided_smoothness(disparity, classes, weight)
        semantic = semantic_map(logits, size, geometry.semantic_map)
        depth = depth_map(disparity, depth_of, geometry.depth_map)
        if geometry.regulariser == 'chen':
            return losses.depth_edges_without_semantic_edges(semantic, depth, weight)
        return SHARPENED[geometry.regulariser](semantic, depth, weight, geometry.sharpness)

    return regulariser


def make_loss(config: ml_collections.ConfigDict, spec: DataSpec, tasks: Tasks) -> Callable:
    """(params, model_state, batch, keys) -> (terms, model_state, {}): the supervised terms, those of depth in multitask
    training, and the regulariser. A disparity from before is in batch['disparity']."""
    pixel_terms, regulariser = (
        supervised.make_terms(config, spec),
        make_regulariser(config, tasks.depth_of),
    )
    at_depth = tasks.pose.at_depth if tasks.pose is not None else monodepth.as_predicted
    video_terms = monodepth.make_terms(config.depth, tasks.depth_of, at_depth)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        image, updates = batch['image'], dict(model_state)
        outputs, updates['segmenter'] = tasks.net.apply(
            params['segmenter'],
            model_state['segmenter'],
            image,
            train=True,
            dropout=keys['dropout'],
        )
        terms, disparity = pixel_terms(outputs, batch), batch.get('disparity')
        if tasks.pose is not None:
            seen, updates['pose'] = tasks.pose.apply(
                params['pose'], model_state['pose'], image, batch['image_frames'], train=True
            )
            disparities = disparities_of(tasks, outputs, params, image)
            terms |= video_terms(
                disparities, tasks.pose.motions(seen), seen.get('masks'), batch, keys
            )
            disparity = disparities[0]
        if config.geometry.regulariser != 'none':
            terms['regulariser'] = regulariser(outputs['logits'], disparity, batch['weight'])
        return terms, updates, {}

    return loss_fn


def make_train_step(config: ml_collections.ConfigDict, spec: DataSpec, tasks: Tasks) -> Callable:
    """`Stage.train_step`: the supervised one with more terms, and with what the frozen depth net sees."""
    heads, geometry = supervised.head_weight(config), config.geometry
    of_video = {
        name: geometry.multitask_weight * w
        for name, w in monodepth.loss_weights(config.depth).items()
    }
    weights = {'regulariser': geometry.weight, **of_video}

    def with_depth(state: TrainState, batch: Batch) -> Batch:
        return (
            batch
            if tasks.frozen is None
            else {**batch, 'disparity': tasks.frozen(state, batch['image'])}
        )

    return supervised.make_train_step(
        make_loss(config, spec, tasks),
        make_optimisers(config, tasks),
        lambda name: weights[name] if name in weights else heads(name),
        shared=monodepth.SHARED_STREAMS,
        prepare=with_depth,
        **supervised.schedule(config),
    )


def make_evaluation(
    config: ml_collections.ConfigDict, spec: DataSpec, tasks: Tasks
) -> dict[str, Callable]:
    """`Stage`'s eval_step, finalize, render and predict: those of a segmenter, which needs no depth. Pictures show the
    disparity, and both kinds of edges that regularisers compare."""

    def look(state: TrainState, image: Array) -> tuple[Mapping, Mapping]:
        params, model_state = optim.averaged(state, config.train.ema)
        return tasks.net.apply(params['segmenter'], model_state['segmenter'], image, train=False)[
            0
        ], params

    def infer(state: TrainState, image: Array) -> Array:
        return look(state, image)[0]['logits'].astype(jnp.float32)

    of_segmenter = segmentation.make_evaluation(config, spec, infer)
    if config.geometry.depth_from == 'none':
        return of_segmenter

    def render(state: TrainState, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        image = batch['image']
        outputs, params = look(state, image)
        if tasks.frozen is not None:
            disparity = tasks.frozen(state, image)
        else:
            disparity = disparities_of(tasks, outputs, params, image)[0]
        depth = depth_map(disparity, tasks.depth_of, config.geometry.depth_map)
        return {
            **of_segmenter['render'](state, batch, keys),
            'disparity': images.paint_disparity(disparity),
            'depth_edges': images.paint_edges(depth[..., None]),
            'semantic_edges': images.paint_edges(
                semantic_map(outputs['logits'], image.shape[1:3], 'softmax')
            ),
        }

    return {**of_segmenter, 'render': render}


def segmentation_stage(config: ml_collections.ConfigDict, spec: DataSpec) -> Stage:
    """The segmentation net, with what depth there is."""
    tasks, inputs = make_tasks(config, spec), segmentation.train_input(config)
    return Stage(
        name='segmentation',
        num_steps=config.train.num_steps,
        train_input=inputs if tasks.pose is None else monodepth.with_frames(inputs, config),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        shared_streams=monodepth.SHARED_STREAMS,
        init=make_init(config, tasks),
        train_step=make_train_step(config, spec, tasks),
        monitor=('mIoU', 'max'),
        **make_evaluation(config, spec, tasks),
    )
