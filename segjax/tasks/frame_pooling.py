"""The pooling of a training or evaluation step: scores over regions, and over frames of a clip.

He, Chiu, Keuper, Fritz: STD2P (CVPR 2017). Equation numbers are those of He's thesis, chapter 3.
The scores f of the frames i = 1 .. N of a clip become scores of the target frame:

    superpixel  s(j) = mean of f(p) over the pixels p of the region j of the target      (Eq. 3.1)
    full        s_i(j) = mean of f_i(p) over the pixels p of frame i that correspond to the region j
                s(j) = mean of s_i(j) over the frames in which j occurs                  (Eq. 3.3)
    pixel       mean of f_i over the places of a pixel along its optical flow            (Table 3.4)

A pixel of the target gets the scores of its region (Eq. 3.5). `tasks/clip_features.py` has the
stored features that this reads. `tasks/clip_pooling.py` pools the predictions of any net on the
host.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from segjax.data import builders, correspondences
from segjax.errors import InputError
from segjax.ops import regions
from segjax.protocol import Array, Batch, DrawnFrames, Input
from segjax.schema import CLIP, POOLING_USES, Field, at_least, one_of
from segjax.spec import DataSpec, Feature
from segjax.tasks import clip_features, segmentation
from segjax.tasks.clip_features import is_video, matches_of

NONE = 'none'
SUPERPIXEL = 'superpixel'
FULL = 'full'
PIXEL = 'pixel'
USES = POOLING_USES
"""Ways to pool."""
NO_REGION = -1
FLOWS = 'flow_pixels_frames'
"""Name of the flow from the pixels of the target to the frames."""
HHA = 'planes_hha'
"""Name of the HHA encoding of depth."""

POOLING = {
    'use': Field(FULL, 'Pooling in training.', one_of(*USES)),
    'spatial': CLIP['spatial'],
    'temporal': CLIP['temporal'],
    'num_frames': Field(11, 'Frames of an example, with the target.', at_least(1)),
    'reach': CLIP['reach'],
    'interval': CLIP['interval'],
    'border': Field(
        0, 'Pixels from a border of a region over which weights rise to 1.', at_least(0)
    ),
    'blend': Field(
        0, 'Radius over which pixels near a border mix the scores of regions.', at_least(0)
    ),
}
"""Config keys of the pooling in training."""

TESTING = {
    'use': Field('', "Pooling in evaluation. '': as in training.", one_of('', *USES)),
    'num_frames': Field(11, 'Frames of an example, with the target.', at_least(1)),
    'reach': Field(
        0,
        'Largest distance of a frame to the target, in frames, at most pooling.reach. '
        '0: pooling.reach.',
        at_least(0),
    ),
    'direction': CLIP['direction'],
}
"""Config keys of the pooling in evaluation."""


# --- poolings of a run ----------------------------------------------------------------------------


class Pooling(NamedTuple):
    """How scores are pooled.

    use         a name of USES
    spatial     'mean' or 'max', over the pixels of a region
    temporal    'mean' or 'max', over frames
    num_frames  of an example, with the target
    offsets     of the frames that may be drawn, in the numbering of the clip
    interval    distance of consecutive frames
    reach       row of the target in a table of matches
    levels      names of the region maps of a frame, from fine to coarse
    border      radius of soft borders in spatial pooling
    blend       radius of soft borders from regions to pixels
    """

    use: str
    spatial: str
    temporal: str
    num_frames: int
    offsets: tuple[int, ...]
    interval: int
    reach: int
    levels: tuple[str, ...]
    border: int
    blend: int

    @property
    def has_frames(self) -> bool:
        """Returns whether frames are read in addition to the target."""
        return self.use in (FULL, PIXEL)

    @property
    def has_regions(self) -> bool:
        """Returns whether scores are pooled over regions."""
        return self.use in (SUPERPIXEL, FULL)


def training_pooling(config: ml_collections.ConfigDict) -> Pooling:
    """Returns the pooling in training."""
    settings = config.pooling
    return _make_pooling(config, settings.use, settings.num_frames, settings.reach, 'both')


def testing_pooling(config: ml_collections.ConfigDict) -> Pooling:
    """Returns the pooling in evaluation. Empty values are those of the training."""
    settings = config.testing
    use = settings.use or config.pooling.use
    reach = settings.reach or config.pooling.reach
    return _make_pooling(config, use, settings.num_frames, reach, settings.direction)


def _make_pooling(
    config: ml_collections.ConfigDict, use: str, num_frames: int, reach: int, direction: str
) -> Pooling:
    """Builds a `Pooling` of frames up to the distance `reach`."""
    settings = config.pooling
    steps = reach // settings.interval
    last = steps if direction == 'both' else 0
    return Pooling(
        use=use,
        spatial=settings.spatial,
        temporal=settings.temporal,
        num_frames=num_frames if use in (FULL, PIXEL) else 1,
        offsets=tuple(settings.interval * step for step in range(-steps, last + 1)),
        interval=settings.interval,
        reach=settings.reach // settings.interval,
        levels=clip_features.level_names(config.regions),
        border=settings.border,
        blend=settings.blend,
    )


# --- checks ---------------------------------------------------------------------------------------


def check(config: ml_collections.ConfigDict) -> None:
    """Checks the poolings of a run against each other.

    Raises:
      InputError: a distance that no frame has, or borders of maxima.
    """
    _check_reach(config)
    if config.pooling.border and config.pooling.spatial == 'max':
        raise InputError(
            'config.pooling.border',
            got=f'{config.pooling.border} with the maximum as config.pooling.spatial',
            expected='0: a maximum has no weights of pixels',
            fix='--config.pooling.border=0',
        )


def _check_reach(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a distance that no frame has, or up to which nothing is matched."""
    # Both poolings draw frames at multiples of the same interval.
    interval = config.pooling.interval
    for section, reach in (
        ('pooling', config.pooling.reach),
        ('testing', config.testing.reach or config.pooling.reach),
    ):
        if reach < interval:
            raise InputError(
                f'config.{section}.reach',
                got=f'{reach} with an interval of {interval}',
                expected='at least the interval, so that there are frames to draw',
                fix=f'--config.{section}.reach={interval}',
            )

    # There is no row of matches beyond the distance of the training.
    if config.testing.reach > config.pooling.reach:
        raise InputError(
            'config.testing.reach',
            got=f'{config.testing.reach}',
            expected=f'at most config.pooling.reach = {config.pooling.reach}, up to which regions '
            'are matched',
            fix=f'--config.testing.reach={config.pooling.reach}',
        )


def refusal(
    config: ml_collections.ConfigDict, spec: DataSpec, pooling: Pooling, section: str
) -> InputError | None:
    """Returns the error of a pooling that a data set cannot serve, None if it can.

    Args:
      config: of the run.
      spec: of the data set.
      pooling: of the section.
      section: 'pooling' for training, 'testing' for evaluation. Evaluation can change no key of
        the training, so its fix is a key of `testing`.
    """
    if pooling.has_regions and not clip_features.has_regions(config.regions, spec):
        in_training = '--config.regions.depth=False'
        return InputError(
            'config.regions.depth',
            got=f'superpixels that see the depth of data set {spec.name!r}, which has none',
            expected='a data set with depth, or superpixels of colour alone',
            fix=in_training if section == 'pooling' else _in_testing(NONE, in_training),
        )

    # Frames in addition to the target.
    if pooling.has_frames and not is_video(spec):
        return InputError(
            f'config.{section}.use',
            got=f'{pooling.use!r} with data set {spec.name!r}, which has no clips',
            expected='a data set of video, or training and test with the target alone',
            fix=f'--config.{section}.use={SUPERPIXEL}',
        )
    is_spaced = config.data.name in builders.AROUND_TARGETS
    of_clips = config.data.rgbd.interval
    if not pooling.has_frames or not is_spaced or pooling.interval % of_clips == 0:
        return None
    in_training = _nearest_interval(config)
    return InputError(
        'config.pooling.interval',
        got=f'{pooling.interval} with clips whose frames are {of_clips} numbers apart '
        f'(config.data.rgbd.interval = {of_clips})',
        expected=f'a multiple of {of_clips}: at further distances, clips have no frame to match',
        fix=in_training if section == 'pooling' else _in_testing(SUPERPIXEL, in_training),
    )


def _in_testing(use: str, in_training: str) -> str:
    """Returns the fix of an evaluation: another test, or a training with other keys."""
    return f'--config.testing.use={use}, or {in_training} in training'


def _nearest_interval(config: ml_collections.ConfigDict) -> str:
    """Returns the assignments of the nearest interval at which clips have frames.

    It is the largest smaller multiple of their own interval, or the smallest multiple, which may
    need a larger reach.
    """
    of_clips = config.data.rgbd.interval
    multiple = max(1, config.pooling.interval // of_clips) * of_clips
    fix = f'--config.pooling.interval={multiple}'
    for section, reach in (('pooling', config.pooling.reach), ('testing', config.testing.reach)):
        if 0 < reach < multiple:
            fix += f' --config.{section}.reach={multiple}'
    return fix


# --- inputs ---------------------------------------------------------------------------------------


def input_with(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    plain: Input,
    pooling: Pooling,
    section: str,
) -> Input:
    """Adds the features and the frames that a pooling reads to an input of labelled images.

    A data set that cannot serve the pooling gives an input of target frames with a `refusal`.

    Args:
      config: of the run.
      spec: of the data set.
      plain: the input without pooling.
      pooling: of the section.
      section: as in `refusal`.
    """
    refused = refusal(config, spec, pooling, section)
    if refused is None:
        return _with_features(config, plain, pooling)
    return _with_features(config, plain, pooling._replace(use=NONE))._replace(refusal=refused)


def _with_features(config: ml_collections.ConfigDict, plain: Input, pooling: Pooling) -> Input:
    """Adds the features and the frames that a pooling reads to an input of labelled images."""
    features = list(plain.features)
    suffix = '_frames' if pooling.has_frames else ''
    if suffix:
        features += ['image_frames', 'frame', 'frame_frames']
    if config.hha:
        features.append(f'{HHA}{suffix}')
    if pooling.has_regions:
        features += pooling.levels
    if pooling.use == FULL:
        for level in pooling.levels:
            features += [f'{level}_frames', matches_of(level)]
    inputs = plain
    if pooling.has_frames:
        inputs = plain._replace(frames=DrawnFrames(pooling.num_frames, pooling.offsets, fill=True))
    if pooling.use == PIXEL:
        inputs = _with_flows(config, inputs, features)
        features.append(FLOWS)
    return inputs._replace(features=tuple(features))


def _with_flows(config: ml_collections.ConfigDict, inputs: Input, features: Sequence[str]) -> Input:
    """Adds the flow from each pixel of the target to the frames, made of the stored flow."""
    return inputs._replace(
        transform=functools.partial(
            correspondences.with_pixel_flows,
            offsets=clip_features.all_offsets(config.pooling),
            stride=config.matching.pixel_stride,
        ),
        reads=(*features, 'pixel_flows'),
        made=((FLOWS, Feature('flow')),),
    )


# --- pooling --------------------------------------------------------------------------------------


def target_regions(batch: Batch, pooling: Pooling, level: str) -> Array:
    """Returns the region of the target that each pixel of each frame corresponds to.

    Args:
      batch: with the region maps of the frames, their matches, and their numbers.
      pooling: of several frames.
      level: name of the region map.

    Returns:
      [B, N, H, W] int32, NO_REGION for pixels without correspondence, and in repeated frames.
    """
    numbers = batch['frame_frames']
    rows = (numbers - batch['frame'][:, None]) // pooling.interval + pooling.reach  # [B, N]
    matches = jnp.take_along_axis(batch[matches_of(level)], rows[..., None], axis=1)  # [B, N, P]
    matches = jnp.where(repeats(numbers)[..., None], NO_REGION, matches)
    return jax.vmap(regions.target_ids)(matches, batch[f'{level}_frames'])


def repeats(numbers: Array) -> Array:
    """Marks frames that take the place of missing frames, [B, N] bool.

    Such a frame is the target again, and counts only once.

    Args:
      numbers: [B, N] of the frames in their clip, ascending.
    """
    return jnp.pad(numbers[:, 1:] == numbers[:, :-1], ((0, 0), (1, 0)))


def pool(scores: Array, batch: Batch, pooling: Pooling, num_regions: int) -> Array:
    """Pools the scores of the frames of each example.

    Args:
      scores: [B, N, H, W, C] float32.
      batch: with region maps at the size of the scores.
      pooling: how.
      num_regions: P, the largest number of regions of a frame.

    Returns:
      [B, H, W, C] scores of the target. Pixels of no region have the score 0.
    """
    if pooling.use == NONE:
        return scores[:, 0]
    if pooling.use == PIXEL:
        repeated = repeats(batch['frame_frames'])[..., None, None, None]
        flows = jnp.where(repeated, jnp.nan, batch[FLOWS])
        return jax.lax.map(lambda video: regions.pool_along_flow(*video), (scores, flows))

    # The levels of a hierarchy are a leading axis of each example.
    targets = jnp.stack([batch[level] for level in pooling.levels], axis=1)
    if pooling.use == FULL:
        frames = [target_regions(batch, pooling, level) for level in pooling.levels]
        ids = jnp.stack(frames, axis=1)  # [B, L, N, H, W]
    else:
        ids = targets[:, :, None]
    layer = functools.partial(
        regions.pool_hierarchy,
        num_regions=num_regions,
        spatial=pooling.spatial,
        temporal=pooling.temporal,
        border=pooling.border,
        blend=pooling.blend,
    )
    # A video at a time: a batch of videos would be copied.
    return jax.lax.map(lambda video: layer(*video), (scores, ids, targets))


# --- evaluation -----------------------------------------------------------------------------------


def at_image(batch: Batch, pooling: Pooling) -> Batch:
    """Brings the region maps and flows of an evaluation batch to the size of its images."""

    def resized(maps: Array, fill: float) -> Array:
        return segmentation.to_image(maps, batch, fill)

    changed = dict(batch)
    for level in pooling.levels:
        if level in batch:
            changed[level] = resized(batch[level], NO_REGION)
        if f'{level}_frames' in batch:
            of_frames = jax.vmap(resized, in_axes=(1, None), out_axes=1)
            changed[f'{level}_frames'] = of_frames(batch[f'{level}_frames'], NO_REGION)
    if FLOWS in batch:
        # Axes of a flow: example, frame, row, column, (u, v).
        of_frames = jax.vmap(resized, in_axes=(1, None), out_axes=1)
        of_vectors = jax.vmap(of_frames, in_axes=(4, None), out_axes=4)
        scale = (batch['size'] / batch['label_size'])[:, ::-1]  # of (x, y)
        changed[FLOWS] = of_vectors(batch[FLOWS], jnp.nan) * scale[:, None, None, None]
    return changed
