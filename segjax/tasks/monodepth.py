"""Depth and camera motion learned from video alone: nets, losses, scores and pictures.

Zhou et al. 2017 (SfMLearner), Godard et al. 2019 (monodepth2). A depth net predicts the depth D_t
of one frame. A pose net predicts the motions T from the frame to its neighbours. Each neighbour is
warped onto the frame: the pixel p_t of the frame lies at p_s in the neighbour s,

    p_s ~ K T_{t->s} D_t(p_t) K^-1 p_t

with the camera matrix K. The remaining difference is the loss.
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
from segjax.protocol import (
    Array,
    Batch,
    Input,
    Keys,
    Mean,
    Metrics,
    Picture,
    PRNGKey,
    Scores,
    TrainState,
)
from segjax.schema import Field, at_least, between, is_number, is_whole, one_of
from segjax.spec import DataSpec
from segjax.tasks import segmentation
from segjax.tasks.evaluation import Evaluation, Pictures, of_images

PHOTOMETRIC = {
    'l1': 'L1 over the pixels that fall onto the source (Papadopoulos et al.)',
    'all_pixels': 'L1 over all pixels, with explainability masks if mask_weight > 0 (SfMLearner)',
    'mixture': 'SSIM and L1 over the pixels that fall onto the source',
    'minimum': 'SSIM and L1 of the source that fits best (monodepth2)',
}
SMOOTHNESS = ('none', 'second_order', 'edge_aware')


def _offsets(value) -> str | None:
    """Returns the expected form unless `value` lists offsets of neighbours."""
    whole = all(is_whole(v) and v != 0 for v in value)
    if not value or not whole or list(value) != sorted(set(value)):
        return 'whole numbers other than 0, ascending, as (-1, 1)'
    return None


def _part(value) -> str | None:
    """Returns the expected form unless `value` is a share (from, to)."""
    is_pair = len(value) == 2 and all(map(is_number, value))
    if is_pair and 0 <= value[0] < value[1] <= 1:
        return None
    return '(from, to) with 0 <= from < to <= 1'


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

# --- nets -----------------------------------------------------------------------------------------


class DepthNet(NamedTuple):
    """A depth net on uint8 images.

    init      (key, image) -> variables
    apply     (params, model_state, image, *, train) -> (disparities [d_0, ..], model_state), with
              d_0 of full resolution
    depth_of  disparity -> depth
    """

    init: Callable
    apply: Callable
    depth_of: Callable


class PoseNet(NamedTuple):
    """A pose net on uint8 images.

    init     (key, image, frames) -> variables
    apply    (params, model_state, image, frames, *, train) -> (outputs, model_state), with outputs
             as in models/depth/pose.py
    motions  outputs -> [B, n, 4, 4], from the target to the sources
    at_depth (motions, depth [B, H, W]) -> the motions in the units of that depth
    """

    init: Callable
    apply: Callable
    motions: Callable
    at_depth: Callable


def make_depth_net(section: ml_collections.ConfigDict, dtype: str) -> DepthNet:
    """Builds the net of a DEPTH_NET section, with activations of type `dtype`."""
    net = models.build_from('depth', section, dtype=dtype, axis_name=parallel.AXIS)

    def init(key: PRNGKey, image):
        return net.lazy_init(key, _floats(image), train=False)

    def apply(params, model_state, image, *, train: bool):
        image = unit(image)
        outputs, model_state = segmentation.apply_net(net, params, model_state, image, train=train)
        return outputs['disparity'], model_state

    return DepthNet(init, apply, net.depth_of)


def make_pose_net(
    section: ml_collections.ConfigDict, frames: Sequence[int], masks: bool, dtype: str
) -> PoseNet:
    """Builds the net of a POSE_NET section.

    Args:
      section: of the config.
      frames: offsets of the neighbours, config.depth.frames.
      masks: whether the net predicts explainability masks.
      dtype: of activations.

    Raises:
      InputError: masks of a net that has none.
    """
    if masks:
        _check_masks(section.name)
    # Only nets that predict masks have the field.
    fields = {'masks': True} if masks else {}
    earlier = tuple(offset < 0 for offset in frames)
    net = models.build_from(
        'pose', section, earlier=earlier, dtype=dtype, axis_name=parallel.AXIS, **fields
    )

    def init(key: PRNGKey, image, frames):
        return net.lazy_init(key, _floats(image), _floats(frames), train=False)

    def apply(params, model_state, image, frames, *, train: bool):
        target = unit(image)
        sources = unit(frames)
        return segmentation.apply_net(net, params, model_state, target, sources, train=train)

    def motions(outputs: Mapping[str, Array]) -> Array:
        matrices = warp.rigid_motion(outputs['motion'], net.convention)
        # Some nets predict motions from the earlier to the later frame.
        inverted = jnp.array(net.inverted)[:, None, None]
        return jnp.where(inverted, warp.invert_motion(matrices), matrices)

    at_depth = by_inverse_depth if net.by_inverse_depth else as_predicted
    return PoseNet(init, apply, motions, at_depth)


def _check_masks(name: str) -> None:
    """Raises InputError for a pose net without explainability masks."""
    able = [net for net in models.NETS['pose'] if 'masks' in models.schema('pose', net)]
    if name not in able:
        raise InputError(
            'config.pose_net.name',
            got=repr(name),
            expected='a net with masks, for config.depth.mask_weight > 0: ' + ', '.join(able),
        )


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
    """Returns a uint8 image as float32 in [0, 1]."""
    return images.normalize(image, 'unit')


def _floats(image) -> jax.ShapeDtypeStruct:
    """Returns the shape of an image as the net gets it."""
    return jax.ShapeDtypeStruct(image.shape, jnp.float32)


# --- inputs ---------------------------------------------------------------------------------------

SHARED_STREAMS = ('tie_breaker',)
"""Streams of `Stage.shared_streams` that the terms of `make_terms` draw from."""

TRUTH = ('depth', 'pose')
"""Features that scores compare predictions with, if the data set has them."""


def check_config(config: ml_collections.ConfigDict, spec: DataSpec, size: tuple[int, int]) -> None:
    """Raises InputError if depth and motion cannot be trained on the data set.

    The reasons are a data set without camera matrices, an image size that is not divisible by
    2 ** (num_scales - 1), random crops that would move the compared rows, and losses that exclude
    each other.
    """
    if 'intrinsics' not in spec.features:
        raise InputError(
            'config.data.name',
            got=f'{spec.name!r}, which does not know its cameras',
            expected='a data set with intrinsics: video whose frames can be warped onto each other',
            fix='--config.data.name=streets, --config.data.name=apolloscape '
            'or --config.data.name=cityscapes_video',
        )
    factor = 2 ** (config.depth.num_scales - 1)
    if any(length % factor for length in size):
        raise InputError(
            'config.augment.crop',
            got=f'{tuple(size)}',
            expected=f'multiples of {factor}, for images at every scale',
        )
    _check_rows(config, spec, size[0] // factor)
    _check_losses(config.depth)


def _check_rows(config: ml_collections.ConfigDict, spec: DataSpec, coarsest: int) -> None:
    """Raises InputError if config.depth.rows are no row of an image, or move from image to image.

    Args:
      config: of the run.
      spec: of the data set.
      coarsest: rows of the smallest images.
    """
    where = 'config.depth.rows'
    rows = tuple(config.depth.rows)
    augment = config.augment
    if not range(coarsest)[_span(rows, coarsest)]:
        raise InputError(
            where,
            got=f'{rows}',
            expected=f'at least one of the {coarsest} rows at the coarsest scale',
        )
    height = (augment.resize or spec.split(config.data.train_split).max_size)[0]
    cropped = augment.crop[0] != height
    moves = cropped or augment.scale != (1, 1) or augment.rotate or augment.translate
    if rows != (0, 1) and moves:
        raise InputError(
            where,
            got=f'{rows} with images of {height} rows that are cropped, scaled, rotated or shifted '
            'at random',
            expected='(0, 1), or crops as high as the images and no such changes: the same rows of '
            'every image',
        )


def _check_losses(settings: ml_collections.ConfigDict) -> None:
    """Raises InputError for keys of config.depth that the photometric loss does not use."""
    photometric = settings.photometric
    if settings.mask_weight and photometric != 'all_pixels':
        raise InputError(
            'config.depth.mask_weight',
            got=f'a weight with photometric {photometric!r}',
            expected="photometric 'all_pixels', or a weight of 0",
        )
    if settings.automask and photometric != 'minimum':
        raise InputError(
            'config.depth.automask',
            got=f'True with photometric {photometric!r}',
            expected="photometric 'minimum'",
        )


def with_frames(inputs: Input, config: ml_collections.ConfigDict, *features: str) -> Input:
    """Returns the input with the neighbours of its images, their camera, and further features."""
    names = dict.fromkeys((*inputs.features, 'image_frames', 'intrinsics', *features))
    return inputs._replace(features=tuple(names), frames=tuple(config.depth.frames))


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
    possible = {'photometric': ('l1', 'mixture'), 'smoothness': ('none',), 'num_scales': (1,)}
    for key, values in possible.items():
        if config.depth[key] not in values:
            raise InputError(
                f'config.depth.{key}',
                got=f'{config.depth[key]!r} with config.geometry.depth_from=truth',
                expected=' or '.join(repr(value) for value in values),
                fix=f'--config.depth.{key}={values[0]}',
            )


def eval_input(config: ml_collections.ConfigDict, spec: DataSpec) -> Input:
    """Returns the frames of `data.eval_split` with neighbours, and their truth if it is known."""
    truth = [feature for feature in TRUTH if feature in spec.features]
    frames = ['pose_frames'] if 'pose' in truth else []
    inputs = segmentation.eval_input(config)._replace(examples='all')
    return with_frames(inputs, config, *truth, *frames)


# --- losses ---------------------------------------------------------------------------------------


def _span(share: Sequence[float], length: int) -> slice:
    """Returns config.depth.rows in pixels."""
    first, last = (round(end * length) for end in share)
    return slice(first, last)


class Scale(NamedTuple):
    """The images and the depth of a batch at one scale.

    target      [B, h, w, 3] in [0, 1]
    sources     [B, n, h, w, 3], the neighbours
    depth       [B, h, w] of the target
    intrinsics  [B, 3, 3] in pixels of this scale
    """

    target: Array
    sources: Array
    depth: Array
    intrinsics: Array


def make_terms(
    settings: ml_collections.ConfigDict, depth_of: Callable, at_depth: Callable = as_predicted
) -> Callable:
    """Returns the terms of the loss: (disparities, motions, masks, batch, keys) -> {name: Mean}.

    Names are 'photometric_0', 'smoothness_0' and 'explainability_0' for scale 0, and so on. Masks
    are None, or logits for each scale.

    Args:
      settings: config.depth.
      depth_of: disparity -> depth.
      at_depth: of the pose net.
    """

    def terms(disparities, motions, masks, batch: Batch, keys: Keys) -> dict[str, Mean]:
        target = unit(batch['image'])
        sources = unit(batch['image_frames'])
        weight = batch['weight']
        of_scales = {}
        for scale, disparity in enumerate(disparities[: settings.num_scales]):
            small = resize.shrink(target, 2**scale)
            if settings.full_resolution:
                full = resize.bilinear(disparity[..., None], target.shape[1:3])[..., 0]
                view = Scale(target, sources, depth_of(full), batch['intrinsics'])
            else:
                intrinsics = warp.scale_intrinsics(
                    batch['intrinsics'], target.shape[1:3], disparity.shape[1:3]
                )
                view = Scale(
                    small, resize.shrink(sources, 2**scale), depth_of(disparity), intrinsics
                )
            mask = None if masks is None else masks[scale]

            # A key of all devices, folded with the index of each example: the noise does not depend
            # on the number of devices.
            key = jax.random.fold_in(keys['tie_breaker'], scale)
            example_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch['index'])

            scaled_motions = at_depth(motions, view.depth)
            of_scales[f'photometric_{scale}'] = photometric_term(
                settings, view, scaled_motions, mask, weight, example_keys
            )
            if settings.smoothness != 'none':
                of_scales[f'smoothness_{scale}'] = smoothness_term(
                    settings, disparity, small, weight
                )
            if mask is not None:
                of_scales[f'explainability_{scale}'] = losses.explainability_cross_entropy(
                    mask, weight
                )
        return of_scales

    return terms


def photometric_term(
    settings: ml_collections.ConfigDict,
    view: Scale,
    motions: Array,
    masks: Array | None,
    weight: Array,
    keys: Array,
) -> Mean:
    """Compares the target with the sources that are warped onto it, at one scale.

    Args:
      settings: config.depth.
      view: images and depth.
      motions: [B, n, 4, 4] from the target to the sources, in the units of the depth.
      masks: [B, n, h, w, 2] logits of explainability masks, or None.
      weight: [B].
      keys: [B] one key for each example.
    """
    padding = 'border' if settings.photometric == 'minimum' else 'zeros'
    depth = view.depth[:, None]
    intrinsics = view.intrinsics[:, None]
    warped = warp.warp(view.sources, depth, motions, intrinsics, padding=padding)

    # Only these rows are compared.
    rows = _span(settings.rows, view.target.shape[1])
    target = view.target[..., rows, :, :]
    sources = view.sources[..., rows, :, :]
    image = warped.image[..., rows, :, :]
    valid = warped.valid[..., rows, :]

    match settings.photometric:
        case 'l1':
            return losses.photometric_l1(target, image, valid, weight)
        case 'all_pixels':
            keep = None if masks is None else losses.explainability(masks[..., rows, :, :])
            return losses.photometric_all_pixels(target, image, weight, keep)
        case 'mixture':
            return losses.photometric_mixture(target, image, valid, weight, settings.ssim_share)
    unwarped = dict(sources=sources, keys=keys) if settings.automask else {}
    return losses.minimum_reprojection(
        target, image, weight, ssim_share=settings.ssim_share, **unwarped
    )


def smoothness_term(
    settings: ml_collections.ConfigDict, disparity: Array, image: Array, weight: Array
) -> Mean:
    """Returns the prior on the disparity [B, h, w] of an image [B, h, w, 3]."""
    if settings.smoothness == 'edge_aware':
        return losses.edge_aware_smoothness(disparity, image, weight)
    return losses.second_order_smoothness(disparity, weight)


def loss_weights(settings: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns the weights of the terms of `make_terms`.

    They average over scales. Smoothness is halved at each coarser scale.
    """
    of_terms = {
        'photometric': 1.0,
        'smoothness': settings.smooth_weight,
        'explainability': settings.mask_weight,
    }
    weights = {}
    for name, weight in of_terms.items():
        for scale in range(settings.num_scales):
            coarseness = 2**scale if name == 'smoothness' else 1
            weights[f'{name}_{scale}'] = weight / settings.num_scales / coarseness
    return weights


# --- evaluation -----------------------------------------------------------------------------------


class Judge(NamedTuple):
    """The inputs that the functions of evaluation share.

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
    """The neighbours of a batch, warped onto their frames.

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
) -> Evaluation:
    """Builds the evaluation of a `Stage` that learns depth or motion.

    Scores: 'photometric' is the L1 between frames and warped neighbours. It is over the pixels of
    config.depth.rows that fall onto the neighbours. 'photometric_no_warp' is the L1 of the same
    pixels without a warp.

    True depth gives the seven errors of metrics/depth.py. They are scaled by medians, since one
    camera knows no scale. Two guesses without an image are the baselines. 'baseline_constant' is a
    constant. 'baseline_plane' is level ground, and a constant above the horizon. It scales ground
    and background by their own medians, so it has one more free scale than the prediction.

    True poses give the trajectory's error in metres, the rotation's in degrees, and the
    'yaw_correlation' over all frames, each neighbour less its mean. 'baseline_still' has the errors
    of a camera that neither turns nor moves.

    Args:
      config: of the run.
      spec: of the data set.
      infer: (state, batch) -> (disparity [B, H, W] of full resolution, depth_of, motions).
      truth: features to score with, if the data set has them.
    """
    judge = Judge(
        infer=infer,
        settings=config.depth,
        truth=tuple(feature for feature in truth if feature in spec.features),
        num_examples=spec.split(config.data.eval_split).num_examples,
    )
    return Evaluation(
        eval_step=functools.partial(eval_step, judge),
        finalize=finalize,
        render=functools.partial(render, judge),
        monitor=('photometric', 'min'),
    )


def make_view(judge: Judge, state: TrainState, batch: Batch) -> View:
    """Warps the neighbours onto their frames."""
    disparity, depth_of, motions = judge.infer(state, batch)
    depth = depth_of(disparity)[:, None]
    intrinsics = batch['intrinsics'][:, None]
    warped = warp.warp(unit(batch['image_frames']), depth, motions, intrinsics)
    counted = _counted_rows(judge.settings.rows, batch['size'], disparity)
    return View(disparity, depth_of, motions, warped.image, warped.valid & counted[:, None])


def _counted_rows(share: Sequence[float], size: Array, like: Array) -> Array:
    """Marks config.depth.rows of images [B, 2] that are padded to the shape of `like` [B, H, W]."""
    first, last = (size[:, :1, None] * end for end in share)
    rows = jnp.arange(like.shape[1])[:, None] + 0.5
    return segmentation.valid_pixels(size, like) & (rows > first) & (rows < last)


def eval_step(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Computes the metrics of a batch, see `make_evaluation`."""
    view = make_view(judge, state, batch)
    target = unit(batch['image'])
    frames = unit(batch['image_frames'])
    weight = batch['weight']
    metrics = {
        'photometric': losses.photometric_l1(target, view.image, view.valid, weight, 'mean'),
        'photometric_no_warp': losses.photometric_l1(target, frames, view.valid, weight, 'mean'),
    }
    # The report shows the images with the smallest and the largest error.
    score = -photometric_error(target, view)
    metrics['image_score'] = confusion.per_example(
        score, batch['index'], weight, judge.num_examples
    )
    if 'depth' in judge.truth:
        inside = segmentation.valid_pixels(batch['label_size'], batch['depth'])
        metrics |= metrics_of_depth.errors_with_baselines(
            view.disparity, view.depth_of, batch, inside
        )
    if 'pose' in judge.truth:
        true = warp.relative_motion(batch['pose'][:, None], batch['pose_frames'])
        offsets = judge.settings.frames
        metrics |= metrics_of_depth.motion_errors(view.motions, true, weight, offsets=offsets)
    return metrics


def photometric_error(target: Array, view: View) -> Array:
    """Returns the mean difference of each frame to its warped neighbours, [B]."""
    difference = jnp.abs(target[:, None] - view.image).mean(-1)
    distance = jnp.where(view.valid, difference, 0).sum((1, 2, 3))
    return distance / jnp.maximum(view.valid.sum((1, 2, 3)), 1)


def finalize(metrics: Mapping[str, Mean]) -> Scores:
    """Turns summed metrics into scores. 'plane/rmse' becomes 'rmse' of 'baseline_plane'."""
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


def render(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Pictures:
    """Paints disparities, the first neighbour, its warp, and its difference from the frame."""
    view = make_view(judge, state, batch)
    target = unit(batch['image'])
    valid = view.valid[:, 0]
    warped = jnp.where(valid[..., None], view.image[:, 0], 0)
    error = jnp.where(valid, jnp.abs(target - warped).mean(-1), 0)
    pictures: Pictures = {'disparity': images.paint_disparity(view.disparity)}
    if 'depth' in judge.truth:
        true_disparity = images.paint_disparity(inverse(batch['depth']))
        pictures['true_disparity'] = Picture(true_disparity, batch['label_size'])
    pictures |= {
        'neighbour': batch['image_frames'][:, 0],
        'warped': images.to_uint8(warped, 'unit'),
        'photometric_error': images.heat(jnp.clip(4 * error, 0, 1)),
    }
    return of_images(pictures, batch)


def inverse(depth: Array) -> Array:
    """Returns 1 / depth, and 0 where depth is 0, which is not measured. Its own inverse."""
    return jnp.where(depth > 0, 1 / jnp.where(depth > 0, depth, 1), 0)
