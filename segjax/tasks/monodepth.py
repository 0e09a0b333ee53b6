"""Depth and camera motion learned from video alone: nets, view synthesis losses, scores and pictures.

Zhou et al. 2017 (SfMLearner), Godard et al. 2019 (monodepth2). A depth net sees one frame D_t, a pose net the frame and
its neighbours; from both, every neighbour is warped onto the frame, and what differs is the loss:

    p_s ~ K T_{t->s} D_t(p_t) K^-1 p_t
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from segjax import models
from segjax.core import parallel
from segjax.errors import InputError
from segjax.losses import geometry as losses
from segjax.metrics import confusion
from segjax.metrics import depth as metrics_of_depth
from segjax.ops import images, resize, warp
from segjax.protocol import Array, Batch, Input, Keys, Mean, Metrics, PRNGKey, Scores, TrainState
from segjax.schema import Field, at_least, between, is_number, is_whole, one_of
from segjax.spec import DataSpec
from segjax.tasks import segmentation

PHOTOMETRIC = {
    'l1': 'L1 over the pixels that fall onto the source (Papadopoulos et al.)',
    'all_pixels': 'L1 over all pixels, with explainability masks if mask_weight > 0 (SfMLearner)',
    'mixture': 'SSIM and L1 over the pixels that fall onto the source',
    'minimum': 'SSIM and L1 of the source that fits best (monodepth2)',
}
SMOOTHNESS = ('none', 'second_order', 'edge_aware')


def _offsets(value) -> str | None:
    whole = all(is_whole(v) and v != 0 for v in value)
    if not value or not whole or list(value) != sorted(set(value)):
        return 'whole numbers other than 0, ascending, as (-1, 1)'
    return None


def _part(value) -> str | None:
    ok = len(value) == 2 and all(map(is_number, value)) and 0 <= value[0] < value[1] <= 1
    return None if ok else '(from, to) with 0 <= from < to <= 1'


SCHEMA = {
    'frames': Field(
        (-1, 1), 'Neighbours that are warped onto a frame, as offsets in the clip.', _offsets
    ),
    'rows': Field(
        (0.0, 1.0),
        'Rows that are compared, as shares of the height from the top. (0, 0.75) hides the bonnet.',
        _part,
    ),
    'photometric': Field(
        'l1', 'Loss between a frame and its warped neighbours.', one_of(*PHOTOMETRIC)
    ),
    'ssim_share': Field(
        losses.SSIM_SHARE,
        'Weight of SSIM against L1 in the photometric losses mixture and minimum.',
        between(0, 1),
    ),
    'automask': Field(
        False, 'Loss minimum: skip pixels that fit better without a warp (monodepth2).'
    ),
    'mask_weight': Field(
        0.0,
        'Loss all_pixels: weight of the cross-entropy of explainability masks. 0 means no masks.',
        at_least(0),
    ),
    'smoothness': Field('second_order', 'Smoothness loss of the disparity.', one_of(*SMOOTHNESS)),
    'smooth_weight': Field(
        0.5,
        'Weight of the smoothness loss at full resolution. It is halved at each coarser scale.',
        at_least(0),
    ),
    'num_scales': Field(
        4, 'Number of resolutions at which disparity is trained: 1, 1/2, 1/4, 1/8.', between(1, 4)
    ),
    'full_resolution': Field(
        False, 'Compare images at full resolution at all scales (monodepth2).'
    ),
}


DEPTH_NET = models.net_choice('depth', 'dispnet', 'Net that predicts depth.')
POSE_NET = models.net_choice('pose', 'pose_exp_net', 'Net that predicts camera motion.')

# --- nets -------------------------------------------------------------------------------------------------------------


class DepthNet(NamedTuple):
    """A depth net on uint8 images.

    init      (key, image) -> variables
    apply     (params, model_state, image, *, train) -> (disparities [d_0, ..], model_state), d_0 of full resolution
    depth_of  disparity -> depth
    """

    init: Callable
    apply: Callable
    depth_of: Callable


class PoseNet(NamedTuple):
    """A pose net on uint8 images.

    init     (key, image, frames) -> variables
    apply    (params, model_state, image, frames, *, train) -> (outputs, model_state), outputs as models/depth/pose.py
    motions  outputs -> [B, n, 4, 4], target to sources
    at_depth (motions, depth [B, H, W]) -> the motions in the units of that depth
    """

    init: Callable
    apply: Callable
    motions: Callable
    at_depth: Callable


def make_depth_net(section: ml_collections.ConfigDict, dtype: str) -> DepthNet:
    """The net of a DEPTH_NET section."""
    net = models.build_from('depth', section, dtype=dtype, axis_name=parallel.AXIS)

    def init(key: PRNGKey, image):
        return net.lazy_init(key, _floats(image), train=False)

    def apply(params, model_state, image, *, train: bool):
        outputs, updates = segmentation.apply_net(
            net, params, model_state, unit(image), train=train
        )
        return outputs['disparity'], updates

    return DepthNet(init, apply, net.depth_of)


def make_pose_net(
    section: ml_collections.ConfigDict, frames: Sequence[int], masks: bool, dtype: str
) -> PoseNet:
    """The net of a POSE_NET section; `masks`: with explainability masks."""
    fields = {'masks': True} if masks else {}
    if masks and 'masks' not in section:
        able = [name for name in models.NETS['pose'] if 'masks' in models.schema('pose', name)]
        expected = 'one with masks, for config.depth.mask_weight > 0: ' + ', '.join(able)
        raise InputError('config.pose_net.name', got=repr(section.name), expected=expected)
    earlier = tuple(offset < 0 for offset in frames)
    net = models.build_from(
        'pose', section, earlier=earlier, dtype=dtype, axis_name=parallel.AXIS, **fields
    )

    def init(key: PRNGKey, image, frames):
        return net.lazy_init(key, _floats(image), _floats(frames), train=False)

    def apply(params, model_state, image, frames, *, train: bool):
        return segmentation.apply_net(
            net, params, model_state, unit(image), unit(frames), train=train
        )

    def motions(outputs: Mapping[str, Array]) -> Array:
        found = warp.rigid_motion(outputs['motion'], net.convention)
        return jnp.where(jnp.array(net.inverted)[:, None, None], warp.invert_motion(found), found)

    at_depth = by_inverse_depth if net.by_inverse_depth else as_predicted
    return PoseNet(init, apply, motions, at_depth)


def as_predicted(motions: Array, depth: Array) -> Array:
    """Returns the motions: their units do not depend on the depth."""
    return motions


def by_inverse_depth(motions: Array, depth: Array) -> Array:
    """Multiplies the translations by the mean of 1 / depth over each image.

    Gradients reach the depth through the mean, as in the release.

    Args:
      motions: [B, n, 4, 4]. Inverted or not, a matrix is linear in its translation.
      depth: [B, H, W]; pixels that are not measured (0) count as infinitely far away.
    """
    mean = inverse(depth).mean((1, 2))
    return motions.at[..., :3, 3].multiply(mean[:, None, None])


def unit(image: Array) -> Array:
    """uint8 -> float32 in [0, 1]."""
    return images.normalize(image, 'unit')


def _floats(image) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(image.shape, jnp.float32)


# --- inputs -----------------------------------------------------------------------------------------------------------

SHARED_STREAMS = ('tie_breaker',)
"""Streams of `Stage.shared_streams` that the terms of `make_terms` draw from."""

TRUTH = ('depth', 'pose')
"""Features that scores are compared with, where a data set has them."""


def check_config(config: ml_collections.ConfigDict, spec: DataSpec, size: tuple[int, int]) -> None:
    """Raises InputError for a data set without cameras, images that cannot be halved often enough, or rows that crops
    move."""
    if 'intrinsics' not in spec.features:
        raise InputError(
            'config.data.name',
            got=f'{spec.name!r}, which does not know its cameras',
            expected='a data set with intrinsics: video whose frames can be warped onto each other',
        )
    factor = 2 ** (config.depth.num_scales - 1)
    if any(length % factor for length in size):
        raise InputError(
            'config.augment.crop',
            got=f'{tuple(size)}',
            expected=f'multiples of {factor}, for images at every scale',
        )
    _check_rows(config, spec, size[0] // factor)
    if config.depth.mask_weight and config.depth.photometric != 'all_pixels':
        got = f'a weight with photometric {config.depth.photometric!r}'
        raise InputError(
            'config.depth.mask_weight',
            got=got,
            expected="photometric 'all_pixels', or a weight of 0",
        )
    if config.depth.automask and config.depth.photometric != 'minimum':
        got = f'True with photometric {config.depth.photometric!r}'
        raise InputError('config.depth.automask', got=got, expected="photometric 'minimum'")


def _check_rows(config: ml_collections.ConfigDict, spec: DataSpec, coarsest: int) -> None:
    """`coarsest`: rows of the smallest images."""
    where, rows, augment = 'config.depth.rows', tuple(config.depth.rows), config.augment
    if not range(coarsest)[_span(rows, coarsest)]:
        raise InputError(
            where,
            got=f'{rows}',
            expected=f'at least one of the {coarsest} rows at the coarsest scale',
        )
    height = (augment.resize or spec.split(config.data.train_split).max_size)[0]
    moves = (
        augment.scale != (1, 1) or augment.rotate or augment.translate or augment.crop[0] != height
    )
    if rows != (0, 1) and moves:
        raise InputError(
            where,
            got=f'{rows} with images of {height} rows that are cropped, scaled, turned or shifted at random',
            expected='(0, 1), or crops as high as the images and no such changes: the same rows of every image',
        )


def with_frames(inputs: Input, config: ml_collections.ConfigDict, *more: str) -> Input:
    """An input with the neighbours of its images, their camera, and further features."""
    features = dict.fromkeys((*inputs.features, 'image_frames', 'intrinsics', *more))
    return inputs._replace(features=tuple(features), frames=tuple(config.depth.frames))


def check_true_depth(config: ml_collections.ConfigDict, spec: DataSpec) -> None:
    """Raises InputError unless a pose net can be trained on the data set's own depth.

    The only loss then is the photometric one at full size, over pixels with measured depth.
    """
    if 'depth' not in spec.features:
        raise InputError(
            'config.data.name',
            got=f'{spec.name!r}, which has no depth',
            expected='a data set with depth, for config.geometry.depth_from=truth',
            fix='--config.data.name=streets',
        )
    masked = ('l1', 'mixture')
    wanted = {'photometric': masked, 'smoothness': ('none',), 'num_scales': (1,)}
    for key, values in wanted.items():
        if config.depth[key] not in values:
            raise InputError(
                f'config.depth.{key}',
                got=f'{config.depth[key]!r} with config.geometry.depth_from=truth',
                expected=' or '.join(repr(value) for value in values),
                fix=f'--config.depth.{key}={values[0]}',
            )


def eval_input(config: ml_collections.ConfigDict, spec: DataSpec) -> Input:
    """Returns the frames of `data.eval_split` with neighbours, and the truth about them if known."""
    truth = [feature for feature in TRUTH if feature in spec.features]
    frames = ['pose_frames'] if 'pose' in truth else []
    inputs = segmentation.eval_input(config)._replace(examples='all')
    return with_frames(inputs, config, *truth, *frames)


# --- losses -----------------------------------------------------------------------------------------------------------


def _span(share: Sequence[float], length: int) -> slice:
    """config.depth.rows in pixels."""
    return slice(*(round(end * length) for end in share))


def make_terms(
    settings: ml_collections.ConfigDict, depth_of: Callable, at_depth: Callable = as_predicted
) -> Callable:
    """(disparities, motions, masks, batch, keys) -> {'photometric_0', 'smoothness_0', ..}, one of each for a scale.

    Args:
      settings: config.depth.
      depth_of: disparity -> depth.
      at_depth: of the pose net.
    """

    def photometric(target, sources, depth, motions, intrinsics, masks, weight, keys) -> Mean:
        padding = 'border' if settings.photometric == 'minimum' else 'zeros'
        motions = at_depth(motions, depth)
        seen = warp.warp(sources, depth[:, None], motions, intrinsics[:, None], padding=padding)
        span = _span(settings.rows, target.shape[1])
        target, sources, warped = (
            of_image[..., span, :, :] for of_image in (target, sources, seen.image)
        )
        valid = seen.valid[..., span, :]
        match settings.photometric:
            case 'l1':
                return losses.photometric_l1(target, warped, valid, weight)
            case 'all_pixels':
                keep = None if masks is None else losses.explainability(masks[..., span, :, :])
                return losses.photometric_all_pixels(target, warped, weight, keep)
            case 'mixture':
                return losses.photometric_mixture(
                    target, warped, valid, weight, settings.ssim_share
                )
        as_they_are = dict(sources=sources, keys=keys) if settings.automask else {}
        return losses.minimum_reprojection(
            target, warped, weight, ssim_share=settings.ssim_share, **as_they_are
        )

    def smoothness(disparity, image, weight) -> Mean:
        if settings.smoothness == 'edge_aware':
            return losses.edge_aware_smoothness(disparity, image, weight)
        return losses.second_order_smoothness(disparity, weight)

    def terms(disparities, motions, masks, batch: Batch, keys: Keys) -> dict[str, Mean]:
        target, sources, weight = unit(batch['image']), unit(batch['image_frames']), batch['weight']
        size, found = target.shape[1:3], {}
        for scale, disparity in enumerate(disparities[: settings.num_scales]):
            small = resize.shrink(target, 2**scale)
            if settings.full_resolution:
                full = resize.bilinear(disparity[..., None], size)[..., 0]
                view = target, sources, depth_of(full), motions, batch['intrinsics']
            else:
                intrinsics = warp.scale_intrinsics(batch['intrinsics'], size, disparity.shape[1:3])
                view = (
                    small,
                    resize.shrink(sources, 2**scale),
                    depth_of(disparity),
                    motions,
                    intrinsics,
                )
            mask = None if masks is None else masks[scale]
            # A key of all devices, folded with the example: noise that no number of devices changes.
            key = jax.random.fold_in(keys['tie_breaker'], scale)
            of_examples = jax.vmap(jax.random.fold_in, (None, 0))(key, batch['index'])
            found[f'photometric_{scale}'] = photometric(*view, mask, weight, of_examples)
            if settings.smoothness != 'none':
                found[f'smoothness_{scale}'] = smoothness(disparity, small, weight)
            if mask is not None:
                found[f'explainability_{scale}'] = losses.explainability_cross_entropy(mask, weight)
        return found

    return terms


def loss_weights(settings: ml_collections.ConfigDict) -> dict[str, float]:
    """Of the terms of `make_terms`: the mean over scales, and smoothness halved from one to the next."""
    n = settings.num_scales
    weights = {
        'photometric': 1.0,
        'smoothness': settings.smooth_weight,
        'explainability': settings.mask_weight,
    }
    return {
        f'{name}_{scale}': weight / n / (2**scale if name == 'smoothness' else 1)
        for name, weight in weights.items()
        for scale in range(n)
    }


# --- evaluation -------------------------------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """What the parts of an evaluation have in common.

    infer         (state, batch) -> (disparity [B, H, W], depth_of, motions [B, n, 4, 4])
    settings      config.depth
    truth         the features that predictions are scored with
    num_examples  of the evaluation split
    """

    infer: Callable
    settings: ml_collections.ConfigDict
    truth: tuple[str, ...]
    num_examples: int


class View(NamedTuple):
    """The neighbours of a batch as their frames see them.

    disparity  [B, H, W]
    depth_of   disparity -> depth
    motions    [B, n, 4, 4]
    image      [B, n, H, W, 3] the warped neighbours
    valid      [B, n, H, W] bool, pixels of config.depth.rows that fall onto the neighbour
    """

    disparity: Array
    depth_of: Callable
    motions: Array
    image: Array
    valid: Array


def make_evaluation(
    config: ml_collections.ConfigDict, spec: DataSpec, infer: Callable, truth: Sequence[str] = TRUTH
) -> dict[str, Any]:
    """Builds eval_step, finalize, render and monitor of a `Stage` that learns depth or motion.

    Scores: 'photometric' is the L1 between frames and warped neighbours. It is over the pixels of
    config.depth.rows that fall onto the neighbours. 'photometric_no_warp' is that of the same pixels
    without a warp.

    True depth gives the seven errors of metrics/depth.py. They are scaled by medians, since one
    camera knows no scale. Two guesses without an image are the baselines. 'baseline_constant' is a
    constant. 'baseline_plane' is level ground, and a constant above the horizon. It scales ground and
    background by their own medians, so it has one more free scale than the prediction.

    True poses give the trajectory's error in metres, the rotation's in degrees, and the
    'yaw_correlation' over all frames, each neighbour less its mean. 'baseline_still' has the errors of
    a camera that neither turns nor moves.

    Args:
      config: of the run.
      spec: of the data set.
      infer: (state, batch) -> (disparity [B, H, W] of full resolution, depth_of, motions).
      truth: features to score with, where the data set has them.
    """
    evaluation = Evaluation(
        infer=infer,
        settings=config.depth,
        truth=tuple(feature for feature in truth if feature in spec.features),
        num_examples=spec.split(config.data.eval_split).num_examples,
    )
    return {
        'eval_step': functools.partial(eval_step, evaluation),
        'finalize': finalize,
        'render': functools.partial(render, evaluation),
        'monitor': ('photometric', 'min'),
    }


def make_view(evaluation: Evaluation, state: TrainState, batch: Batch) -> View:
    """Warps the neighbours onto their frames."""
    disparity, depth_of, motions = evaluation.infer(state, batch)
    depth = depth_of(disparity)[:, None]
    seen = warp.warp(unit(batch['image_frames']), depth, motions, batch['intrinsics'][:, None])
    from_row, to_row = (batch['size'][:, :1, None] * share for share in evaluation.settings.rows)
    rows = jnp.arange(disparity.shape[1])[:, None] + 0.5
    counted = (
        segmentation.valid_pixels(batch['size'], disparity) & (rows > from_row) & (rows < to_row)
    )
    return View(disparity, depth_of, motions, seen.image, seen.valid & counted[:, None])


def eval_step(evaluation: Evaluation, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Computes the metrics of a batch, see `make_evaluation`."""
    view = make_view(evaluation, state, batch)
    target = unit(batch['image'])
    frames = unit(batch['image_frames'])
    weight = batch['weight']
    metrics = {
        'photometric': losses.photometric_l1(target, view.image, view.valid, weight, 'mean'),
        'photometric_no_warp': losses.photometric_l1(target, frames, view.valid, weight, 'mean'),
    }
    # The report shows the images with the smallest and the largest error.
    difference = jnp.abs(target[:, None] - view.image).mean(-1)
    distance = jnp.where(view.valid, difference, 0).sum((1, 2, 3))
    score = -distance / jnp.maximum(view.valid.sum((1, 2, 3)), 1)
    places = batch['index'], weight, evaluation.num_examples
    metrics['image_score'] = confusion.per_example(score, *places)
    if 'depth' in evaluation.truth:
        inside = segmentation.valid_pixels(batch['label_size'], batch['depth'])
        metrics |= metrics_of_depth.errors_with_baselines(
            view.disparity, view.depth_of, batch, inside
        )
    if 'pose' in evaluation.truth:
        true = warp.relative_motion(batch['pose'][:, None], batch['pose_frames'])
        offsets = evaluation.settings.frames
        metrics |= metrics_of_depth.motion_errors(view.motions, true, weight, offsets=offsets)
    return metrics


def finalize(metrics: Mapping[str, Mean]) -> Scores:
    """Turns summed metrics into scores; 'plane/rmse' becomes 'rmse' of 'baseline_plane'."""
    scores: dict[str, Any] = {}
    for name, metric in metrics.items():
        guess, _, score = name.rpartition('/')
        if name == 'yaw':
            scores['yaw_correlation'] = metrics_of_depth.correlation(metric.sum)
        elif guess:
            scores.setdefault(f'baseline_{guess}', {})[score] = float(metric.value())
        elif name != 'image_score':
            scores[name] = float(metric.value())
    return scores


def render(
    evaluation: Evaluation, state: TrainState, batch: Batch, keys: Keys
) -> dict[str, jax.Array]:
    """Draws disparities, the first neighbour, its warp, and what differs from the frame."""
    view = make_view(evaluation, state, batch)
    target = unit(batch['image'])
    warped = jnp.where(view.valid[..., None], view.image, 0)[:, 0]
    error = jnp.where(view.valid[:, 0], jnp.abs(target - warped).mean(-1), 0)
    pictures = {'disparity': images.paint_disparity(view.disparity)}
    if 'depth' in evaluation.truth:
        pictures['true_disparity'] = images.paint_disparity(inverse(batch['depth']))
    return pictures | {
        'neighbour': batch['image_frames'][:, 0],
        'warped': images.to_uint8(warped, 'unit'),
        'photometric_error': images.heat(jnp.clip(4 * error, 0, 1)),
    }


def inverse(depth: Array) -> Array:
    """Returns 1 / depth, and 0 where depth is 0, which is not measured. Its own inverse."""
    return jnp.where(depth > 0, 1 / jnp.where(depth > 0, depth, 1), 0)
