"""Pools the scores of any net over the regions and frames of a clip, by STD2P without training.

He, Chiu, Keuper, Fritz: STD2P: RGBD Semantic Segmentation using Spatio-Temporal Data-Driven Pooling
(CVPR 2017). The pooling has no parameters, so it works on probabilities, logits and one-hot label
maps of any net. Arrays come from the host and return to it. `pipelines/std2p.py` trains a net
through the same pooling.

    values(i, r)  = mean of the scores of frame i over its region r                    (Eq. 3.1)
    merged(i, j)  = sum_r |r| values(i, r) / sum_r |r|,   r: regions of frame i that match j
    pooled(j)     = mean of merged(i, j) over the frames i with a match of j           (Eq. 3.3)
    result(p)     = pooled(region of the pixel p of the target)                        (Eq. 3.5)

The second line is the mean over the union of the regions r. So the pixels of a frame are pooled
once, also if the frame belongs to the windows of several targets (`pool_stream`).

The mode 'pixel' has no regions. It averages the scores of the frames along the optical flow of each
pixel of the target, composed from frame to frame (`regions.pool_along_flow`).
"""

import collections
import functools
from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from segjax.data import correspondences
from segjax.errors import InputError, unknown_name
from segjax.ops import regions
from segjax.protocol import Array
from segjax.spec import IGNORE

MODES = {
    'superpixel': 'over the regions of the target alone',
    'full': 'over the regions of all frames that correspond to a region of the target',
    'pixel': 'along the optical flow of each pixel of the target, without regions',
}
"""Ways to pool."""


class Frame(NamedTuple):
    """A frame of a clip.

    scores         [H, W, C] float, of a net. A pixel of zeros votes for no class
    ids            [H, W] int32 regions 0 .. P-1. Negative ids are no region. None: mode 'pixel'
    flow_next      [H, W, 2] flow to the next frame, in pixels. NaN: not measured
    flow_previous  [H, W, 2] flow to the frame before

    The last frame needs no `flow_next`, the first frame no `flow_previous`.
    """

    scores: ArrayLike
    ids: np.ndarray | None
    flow_next: np.ndarray | None = None
    flow_previous: np.ndarray | None = None


class _Settings(NamedTuple):
    """How a clip is pooled. `pool_clip` explains the fields."""

    num_regions: int
    mode: str = 'full'
    reading: str = 'propagated'
    threshold: float = 0.4
    spatial: str = 'mean'
    temporal: str = 'mean'


class _Pooled(NamedTuple):
    """A frame whose pixels are pooled.

    frame   without its scores, except in the mode 'pixel'
    values  [P, C] of its own regions. The mode 'pixel' has none
    counts  [P] pixels of its own regions
    """

    frame: Frame
    values: Array
    counts: Array


# --- clips ----------------------------------------------------------------------------------------


def pool_clip(
    scores: Sequence[ArrayLike] | np.ndarray,
    ids: Sequence[np.ndarray] | np.ndarray,
    flows_next: Sequence[np.ndarray | None] | np.ndarray | None,
    flows_previous: Sequence[np.ndarray | None] | np.ndarray | None,
    target: int,
    num_regions: int,
    *,
    mode: str = 'full',
    reading: str = 'propagated',
    threshold: float = 0.4,
    spatial: str = 'mean',
    temporal: str = 'mean',
) -> np.ndarray:
    """Pools the scores of a clip onto the pixels of a target frame.

    All N frames count. Pass a part of a longer clip to limit the frames.

    Args:
      scores: [N, H, W, C] float, scores of each frame. A pixel of zeros votes for no class.
      ids: [N, H, W] integers, the regions 0 .. P-1 of each frame. Negative ids are no region.
      flows_next: [N, H, W, 2] flow of each frame to the next frame. The last item is not read, and
        may be absent. None in the mode 'superpixel'.
      flows_previous: [N, H, W, 2] flow of each frame to the frame before. The first item is not
        read, but has its place. None in the mode 'superpixel'.
      target: place of the target among the frames.
      num_regions: P, all ids are smaller. The mode 'pixel' reads neither ids nor P.
      mode: a name of MODES.
      reading: rule of correspondences, a name of `correspondences.READINGS`.
      threshold: smallest score of a match.
      spatial: 'mean' or 'max', over the pixels of a region.
      temporal: 'mean' or 'max', over frames.

    Returns:
      [H, W, C] float32. Pixels without a region are 0.

    Raises:
      InputError: an unknown name, a threshold that is no score, a target outside of the clip,
        missing flows, maps of different sizes, or an id of P or more.
    """
    settings = _Settings(num_regions, mode, reading, threshold, spatial, temporal)
    _check(settings)
    frames = _frames(scores, ids, flows_next, flows_previous)
    if not 0 <= target < len(frames):
        expected = f'a place of the {len(frames)} frames, from 0'
        raise InputError('target of a clip', got=f'{target}', expected=expected)
    if mode == 'superpixel':
        frames = [frames[target]]
        target = 0
    window = [_pooled(frame, settings) for frame in frames]
    return _onto_target(window, target, len(window), settings)


def pool_stream(
    frames: Iterable[Frame],
    num_regions: int,
    past: int = 5,
    future: int = 5,
    *,
    interval: int = 1,
    mode: str = 'full',
    reading: str = 'propagated',
    threshold: float = 0.4,
    spatial: str = 'mean',
    temporal: str = 'mean',
) -> Generator[np.ndarray, None, None]:
    """Yields the pooled scores of every frame of a video, for continuous segmentation.

    The target is each frame in turn, pooled with the frames of a window around it. The result
    equals `pool_clip` of this window. The window is shorter at both ends of the video. A result
    follows its frame by `future * interval` frames, so `future=0` answers at once. Memory holds the
    regions and flows of a window, and the scores of a single frame. The mode 'pixel' also holds the
    scores of a window.

    Args:
      frames: in the order of the video.
      num_regions: as in `pool_clip`.
      past: frames of the window before the target.
      future: frames of the window after the target.
      interval: distance of neighbouring frames of a window. The flows of a frame lead to the frames
        at this distance, and are absent where the video has no such frame.
      mode, reading, threshold, spatial, temporal: as in `pool_clip`.

    Yields:
      [H, W, C] float32, a map for each frame.

    Raises:
      InputError: a negative number of frames, an interval below 1, or an error of `pool_clip`.
    """
    settings = _Settings(num_regions, mode, reading, threshold, spatial, temporal)
    _check(settings)
    _check_window(past, future, interval)
    if mode == 'superpixel':
        past = 0
        future = 0
    length = past + 1 + future
    ahead = future * interval

    # The window holds all frames around the target. Those at the ends may be missing.
    window: collections.deque[_Pooled] = collections.deque(maxlen=(length - 1) * interval + 1)
    num_read = 0
    for frame in frames:
        window.append(_pooled(frame, settings))
        num_read += 1
        if num_read > ahead:
            around = _around(window, len(window) - 1 - ahead, past, future, interval)
            yield _onto_target(*around, length, settings)

    # The last targets have fewer frames after them.
    for remaining in range(min(ahead, num_read), 0, -1):
        around = _around(window, len(window) - remaining, past, future, interval)
        yield _onto_target(*around, length, settings)


def _check_window(past: int, future: int, interval: int) -> None:
    """Raises InputError for a negative number of frames, or an interval below 1."""
    if past < 0 or future < 0 or interval < 1:
        got = f'{past} frames before and {future} after the target, at an interval of {interval}'
        expected = 'no negative number, and an interval from 1'
        raise InputError('window of a stream', got=got, expected=expected)


def _around(
    frames: Sequence[_Pooled], target: int, past: int, future: int, interval: int
) -> tuple[list[_Pooled], int]:
    """Returns the frames of a window, and the place of the target among them.

    Args:
      frames: consecutive frames of a video.
      target: its place among them.
      past, future, interval: as in `pool_stream`.
    """
    first = target - interval * min(past, target // interval)
    end = min(len(frames), target + interval * future + 1)
    chosen = [frames[place] for place in range(first, end, interval)]
    return chosen, (target - first) // interval


def label_map(scores: np.ndarray) -> np.ndarray:
    """Returns the class with the largest score of each pixel, IGNORE where no score is positive.

    Args:
      scores: [H, W, C] pooled probabilities or one-hot maps.

    Returns:
      [H, W] uint8.
    """
    return np.where(scores.max(-1) > 0, scores.argmax(-1), IGNORE).astype(np.uint8)


# --- parts ----------------------------------------------------------------------------------------


def _frames(scores, ids, flows_next, flows_previous) -> list[Frame]:
    """Returns the frames of a clip.

    Raises:
      InputError: different numbers of maps.
    """
    number = len(ids)
    if len(scores) != number:
        got = f'scores of {len(scores)} frames and regions of {number}'
        raise InputError('frames of a clip', got=got, expected='equal numbers')
    frames = []
    for place in range(number):
        onward = flows_next[place] if _has(flows_next, place) else None
        back = flows_previous[place] if _has(flows_previous, place) else None
        frames.append(Frame(scores[place], np.asarray(ids[place]), onward, back))
    return frames


def _has(flows, place: int) -> bool:
    """Returns whether there is a flow of a frame."""
    return flows is not None and place < len(flows)


def _pooled(frame: Frame, settings: _Settings) -> _Pooled:
    """Pools the pixels of a frame over its own regions.

    Raises:
      InputError: an id of P or more, or maps of different sizes.
    """
    if settings.mode == 'pixel':
        return _Pooled(frame, (), ())
    largest = int(np.max(frame.ids, initial=correspondences.NONE))
    if largest >= settings.num_regions:
        raise InputError(
            'regions of a clip',
            got=f'the id {largest}',
            expected=f'ids below num_regions={settings.num_regions}',
            fix=f'num_regions={largest + 1}',
        )
    scores = np.asarray(frame.scores, np.float32)
    values, counts = _own_regions(scores, frame.ids, settings.num_regions, settings.spatial)
    return _Pooled(frame._replace(scores=()), values, counts)


def _onto_target(
    window: Sequence[_Pooled], target: int, length: int, settings: _Settings
) -> np.ndarray:
    """Returns the pooled scores [H, W, C] of a frame of a window.

    Args:
      window: frames in the order of the clip.
      target: place of the target in the window.
      length: largest number of frames of a window. Missing frames match nothing, so that windows
        of all lengths share a compiled program.
      settings: how.
    """
    if settings.mode == 'pixel':
        return _along_flow([each.frame for each in window], target, length)
    matches = np.full((length, settings.num_regions), correspondences.NONE, np.int32)
    matches[: len(window)] = _matches([each.frame for each in window], target, settings)
    missing = length - len(window)
    values = jnp.stack([each.values for each in window] + [window[0].values] * missing)
    counts = jnp.stack([each.counts for each in window] + [window[0].counts] * missing)
    names = {'spatial': settings.spatial, 'temporal': settings.temporal}
    return np.asarray(_combined(values, counts, matches, window[target].frame.ids, **names))


def _matches(frames: Sequence[Frame], target: int, settings: _Settings) -> np.ndarray:
    """Returns the region of the target to which each region of each frame corresponds.

    Args:
      frames: N frames in the order of the clip.
      target: place of the target.
      settings: how.

    Returns:
      [N, P] int32, NONE without a match.

    Raises:
      InputError: a missing flow.
    """
    if len(frames) == 1:
        return np.arange(settings.num_regions, dtype=np.int32)[None]
    offsets = tuple(range(-target, len(frames) - target))
    matching = correspondences.Matching(
        offsets,
        settings.num_regions,
        threshold=settings.threshold,
        reading=settings.reading,
    )
    _check_flows(frames)

    # The example that a derived feature of the loader would get.
    example = {'frame': target, **_features(frames[target])}
    others = [place for place in range(len(frames)) if place != target]
    for name in _features(frames[target]):
        example[f'{name}_frames'] = [_features(frames[place])[name] for place in others]
    example['frame_frames'] = np.array(others)
    return correspondences.example_matches(example, matching)


def _check_flows(frames: Sequence[Frame]) -> None:
    """Raises InputError if a flow between neighbouring frames is missing."""
    for place, frame in enumerate(frames):
        lacks_next = frame.flow_next is None and place < len(frames) - 1
        lacks_previous = frame.flow_previous is None and place > 0
        if lacks_next or lacks_previous:
            raise InputError(
                f'frame {place} of a clip of {len(frames)}',
                got='no flow to ' + ('the next frame' if lacks_next else 'the frame before'),
                expected='flow in both directions between all neighbouring frames',
                fix="mode='superpixel' needs no flow",
            )


def _along_flow(frames: Sequence[Frame], target: int, length: int) -> np.ndarray:
    """Returns the scores [H, W, C] of a window, averaged along the flow of the target's pixels.

    Args:
      frames: of a window, with their scores.
      target: place of the target among them.
      length: as in `_onto_target`. Missing frames have no flow, so they count nowhere.

    Raises:
      InputError: a missing flow.
    """
    _check_flows(frames)
    scores = [np.asarray(frame.scores, np.float32) for frame in frames]
    scores += [scores[target]] * (length - len(frames))
    flows = np.full((length, *scores[target].shape[:2], 2), np.nan, np.float32)
    flows[target] = 0

    # Both ways begin at the target.
    onward = [frame.flow_next for frame in frames[target:-1]]
    for distance, flow in enumerate(correspondences.composed_flows(onward), start=1):
        flows[target + distance] = flow
    back = [frame.flow_previous for frame in frames[target:0:-1]]
    for distance, flow in enumerate(correspondences.composed_flows(back), start=1):
        flows[target - distance] = flow
    return np.asarray(_averaged(np.stack(scores), flows))


_averaged = jax.jit(regions.pool_along_flow)


def _features(frame: Frame) -> dict[str, np.ndarray | None]:
    """Returns the features of a frame that matching reads."""
    names = correspondences.NAMES
    return {
        names.regions: frame.ids,
        names.next: frame.flow_next,
        names.previous: frame.flow_previous,
    }


@functools.partial(jax.jit, static_argnames=('num_regions', 'spatial'))
def _own_regions(scores: Array, ids: Array, num_regions: int, spatial: str) -> tuple[Array, Array]:
    """Pools scores [H, W, C] over regions, to (values [P, C], counts [P])."""
    return regions.pool_pixels(scores, ids, num_regions, spatial)


@functools.partial(jax.jit, static_argnames=('spatial', 'temporal'))
def _combined(
    values: Array, counts: Array, matches: Array, ids: Array, spatial: str, temporal: str
) -> Array:
    """Pools the regions of N frames over the regions of the target, and maps them to its pixels.

    Args:
      values: [N, P, C] of the frames' own regions.
      counts: [N, P] pixels of the frames' own regions.
      matches: [N, P] regions of the target.
      ids: [H, W] regions of the target.
      spatial: as in `pool_clip`.
      temporal: as in `pool_clip`.

    Returns:
      [H, W, C].
    """
    num_regions = counts.shape[1]

    # A frame is an image with a pixel for each of its regions. Empty regions belong to no region.
    def merged(values: Array, counts: Array, matches: Array) -> tuple[Array, Array]:
        places = jnp.where(counts > 0, matches, correspondences.NONE)[None]
        weights = counts[None] if spatial == 'mean' else None
        return regions.pool_pixels(values[None], places, num_regions, spatial, weights)

    pooled, _ = regions.pool_frames(*jax.vmap(merged)(values, counts, matches), temporal)
    return regions.to_pixels(pooled, ids)


def _check(settings: _Settings) -> None:
    """Raises InputError for an unknown name or a threshold that is no score."""
    if settings.mode not in MODES:
        raise unknown_name('mode of a clip', settings.mode, MODES)
    if settings.reading not in correspondences.READINGS:
        raise unknown_name('reading of a clip', settings.reading, correspondences.READINGS)
    for name in (settings.spatial, settings.temporal):
        if name not in regions.MODES:
            raise unknown_name('pooling of a clip', name, regions.MODES)
    if not 0 < settings.threshold <= 1:
        got = f'{settings.threshold}'
        raise InputError('threshold of a clip', got=got, expected='above 0, up to 1')
