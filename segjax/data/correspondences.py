"""Correspondences between the regions of a labelled frame and of the frames of its clip.

He, Chiu, Keuper and Fritz, STD2P: RGBD Semantic Segmentation using Spatio-Temporal Data-Driven
Pooling, CVPR 2017, arXiv:1604.02388, section 3.1. A region of the target frame and a region of
another frame correspond if they overlap in both frames, when optical flow warps each of them into
the frame of its partner. The score of a pair is the smaller of its two intersections over union.

Two readings of the method differ:

    'propagated'  the released code. The ids of the target travel from frame to frame, into the
                  future and into the past. A region may take its id from any of the three frames
                  before it, and several regions of a frame may have the same id. A score of the
                  threshold itself is a match
    'direct'      the text. Regions are compared with the target alone, by composed flow. A region
                  of the target has at most one match in a frame. A match has a score above the
                  threshold

Pixel correspondences follow from the same flows (`composed_flow`, `pixel_flow_feature`).
"""

import collections
import functools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.data.clips import SUFFIX
from segjax.errors import InputError, unknown_name
from segjax.protocol import Derived, Example
from segjax.spec import Feature

NONE = -1
"""Id of pixels and regions that correspond to no region of the target."""

MEMORY = 3
"""Frames whose ids a region may take, in the reading 'propagated'."""

UNIT = 16
"""Steps of a pixel in which `pixel_flow_feature` stores flow."""

ABSENT = np.iinfo(np.int32).min
"""Stored flow of places without a correspondence."""


class Step(NamedTuple):
    """A frame of a clip, and the flows between it and the frame before it on the way.

    The way begins at the target and leads into the future or into the past.

    ids   [H, W] regions 0 .. P - 1 of the frame. Negative ids are no region
    away  [H, W, 2] flow from the frame before to this frame, in pixels. NaN: not measured
    back  [H, W, 2] flow from this frame to the frame before
    """

    ids: np.ndarray
    away: np.ndarray
    back: np.ndarray


class Matches(NamedTuple):
    """Regions of frames in the ids of the target.

    ids     [..., P] int32, the region of the target to which each region corresponds, or NONE
    scores  [..., P] float32, the score of this match, 0 without a match
    """

    ids: np.ndarray
    scores: np.ndarray


# --- readings -------------------------------------------------------------------------------------


def propagated(
    target: np.ndarray, steps: Iterable[Step], threshold: float = 0.4
) -> Generator[Matches, None, None]:
    """Yields the matches of each frame on a way, as the released code computes them.

    A map M in ids of the target moves by a flow F, rounded to whole pixels: the moved map has
    M(p - F(p)) at the pixel p, and NONE outside of the image. The ids of the three frames before
    are moved by `away`, step by step, and compared with the regions of the frame. The regions are
    moved by `back`, step by step, and compared with the ids of each of the three frames. Pixels
    without an id count for no id. Of equal scores, the smallest id counts.

    Args:
      target: [H, W] regions of the target.
      steps: the frames in the order of the way.
      threshold: smallest score of a match.

    Yields:
      Matches [n] of each frame, for its n regions.
    """
    # The newest frame is first.
    labels = collections.deque([target], maxlen=MEMORY)
    moved = collections.deque([target], maxlen=MEMORY)
    backs: collections.deque[np.ndarray] = collections.deque(maxlen=MEMORY)
    num_targets = _count(target)
    for step in steps:
        num_regions = _count(step.ids)
        away = _sources(step.away)
        moved = collections.deque((_taken(each, away) for each in moved), maxlen=MEMORY)
        backs.appendleft(_sources(step.back))

        # A pair has the best score of the frames that are remembered.
        best = np.zeros((num_targets, num_regions))
        regions = step.ids
        for own, seen, back in zip(labels, moved, backs, strict=True):
            regions = _taken(regions, back)
            here = overlaps(seen, step.ids, num_targets, num_regions)
            there = overlaps(own, regions, num_targets, num_regions)
            best = np.maximum(best, np.minimum(here, there))
        matches = _best(best, best >= threshold)
        yield matches

        # The ids of this frame travel on.
        named = matched_ids(matches.ids, step.ids)
        labels.appendleft(named)
        moved.appendleft(named)


def direct(
    target: np.ndarray, steps: Iterable[Step], threshold: float = 0.4
) -> Generator[Matches, None, None]:
    """Yields the matches of each frame on a way, as the text of the paper defines them.

    A region R warps by a flow F to the set of pixels {round(p + F(p)), p in R} inside the image.
    Regions of the frame warp into the target by the flow from frame to target, and regions of the
    target into the frame by the opposite flow. Both flows are composed of the flows on the way.
    Each frame continues the composed flow of the frame before it, interpolated between pixels.

    A region of the target keeps its best region of the frame. If several regions of the target keep
    the same region, the best score decides. Of equal scores, the smallest id counts.

    Args:
      target: [H, W] regions of the target.
      steps: the frames in the order of the way.
      threshold: the score of a match is larger.

    Yields:
      Matches [n] of each frame, for its n regions.
    """
    num_targets = _count(target)
    away = np.zeros((*target.shape, 2))
    back = np.zeros((*target.shape, 2))
    for step in steps:
        num_regions = _count(step.ids)
        away = _continued(away, step.away)
        back = _continued(step.back, back)
        in_frame = _warped_overlaps(target, away, step.ids, num_targets, num_regions)
        in_target = _warped_overlaps(step.ids, back, target, num_regions, num_targets)
        scores = np.minimum(in_frame, in_target.T)

        # Only the best region of the frame is left of each region of the target.
        is_match = scores > threshold
        if num_regions:
            is_best = np.arange(num_regions) == scores.argmax(axis=1)[:, None]
            is_match &= is_best
        yield _best(scores, is_match)


READINGS: Mapping[str, Callable[..., Generator[Matches, None, None]]] = {
    'propagated': propagated,
    'direct': direct,
}
"""For each reading a function (target, steps, threshold) -> Matches of each step."""


def overlaps(first: np.ndarray, second: np.ndarray, num_first: int, num_second: int) -> np.ndarray:
    """Returns the intersection over union of all pairs of regions of two maps of equal size.

    Args:
      first: ids of any shape. Negative ids are no region.
      second: ids of the same shape.
      num_first: all ids of `first` are smaller.
      num_second: all ids of `second` are smaller.

    Returns:
      [num_first, num_second] float64.
    """
    first = first.ravel().astype(np.int64)
    second = second.ravel().astype(np.int64)
    sizes = np.bincount(second[second >= 0], minlength=num_second)
    return _overlaps(first, second, np.bincount(first[first >= 0], minlength=num_first), sizes)


def _overlaps(
    first: np.ndarray, second: np.ndarray, first_sizes: np.ndarray, second_sizes: np.ndarray
) -> np.ndarray:
    """Returns the intersection over union of all pairs of regions.

    Args:
      first, second: [N] int64 ids of the same pixels.
      first_sizes: [A] pixels of each region of the first map.
      second_sizes: [B] pixels of each region of the second map.

    Returns:
      [A, B] float64.
    """
    shape = (len(first_sizes), len(second_sizes))
    both = (first >= 0) & (second >= 0)
    pairs = first[both] * shape[1] + second[both]
    common = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    union = first_sizes[:, None] + second_sizes - common
    return common / np.maximum(union, 1)


def _warped_overlaps(
    ids: np.ndarray, flow: np.ndarray, other: np.ndarray, num_ids: int, num_other: int
) -> np.ndarray:
    """Returns the intersection over union [num_ids, num_other] of warped regions and regions.

    Args:
      ids: [H, W] regions that are warped.
      flow: [H, W, 2] to the frame of `other`.
      other: [H, W] regions.
      num_ids: number of regions of `ids`.
      num_other: number of regions of `other`.
    """
    height, width = ids.shape
    places = _pixel_places(height, width) + flow
    inside = is_inside(places, height, width) & (ids >= 0)
    columns, rows = np.rint(places[inside]).astype(np.int64).T

    # A pixel belongs to a warped region once, and may belong to several regions.
    pixels = rows * width + columns
    pairs = np.unique(ids[inside].astype(np.int64) * (height * width) + pixels)
    warped, pixels = np.divmod(pairs, height * width)
    sizes = np.bincount(warped, minlength=num_ids)
    other = other.ravel().astype(np.int64)
    other_sizes = np.bincount(other[other >= 0], minlength=num_other)
    return _overlaps(warped, other[pixels], sizes, other_sizes)


def _best(scores: np.ndarray, is_match: np.ndarray) -> Matches:
    """Returns the match of each region of a frame with the best score.

    Args:
      scores: [num_targets, n].
      is_match: [num_targets, n], the pairs that may match.
    """
    allowed = np.where(is_match, scores, -1.0)
    best = allowed.argmax(axis=0) if len(scores) else np.zeros(scores.shape[1], np.int64)
    matched = is_match.any(axis=0)
    ids = np.where(matched, best, NONE).astype(np.int32)
    values = allowed.max(axis=0, initial=0.0)
    return Matches(ids, np.where(matched, values, 0.0).astype(np.float32))


def _count(ids: np.ndarray) -> int:
    """Returns the smallest number that is larger than all ids."""
    return int(ids.max(initial=NONE)) + 1


def _sources(flow: np.ndarray) -> np.ndarray:
    """Returns the pixel p - F(p) of each pixel p of a map that moves by the flow F.

    Args:
      flow: [H, W, 2], rounded here.

    Returns:
      [H, W] int64 places y W + x, NONE outside of the image and where the flow is not measured.
    """
    height, width = flow.shape[:2]
    measured = np.isfinite(flow).all(axis=-1)
    motion = np.rint(np.where(measured[..., None], flow, 0)).astype(np.int64)
    columns = np.arange(width) - motion[..., 0]
    rows = np.arange(height)[:, None] - motion[..., 1]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return np.where(inside & measured, rows * width + columns, NONE)


def _taken(ids: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Returns the ids [H, W] at the places of `_sources`, NONE where there is no place."""
    # The last place has no pixel.
    return np.append(ids.ravel(), np.int32(NONE))[sources]


# --- composed flow --------------------------------------------------------------------------------


def composed_flow(flows: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the flow from the first frame of a path to its last frame.

    F(p) = F1(p) + F2(p + F1(p)) + ..., with bilinear interpolation between pixels.

    Args:
      flows: [H, W, 2] flow from each frame of the path to the next frame, in pixels.

    Returns:
      [H, W, 2] float32. NaN for pixels that leave the image on the path, that end outside, or whose
      flow is not measured.
    """
    *_, last = composed_flows(flows)
    return last


def composed_flows(flows: Iterable[np.ndarray]) -> Generator[np.ndarray, None, None]:
    """Yields the flow from the first frame of a path to each further frame, as `composed_flow`."""
    total = None
    for flow in flows:
        total = np.zeros(flow.shape) if total is None else total
        total = _continued(total, flow)
        places = _pixel_places(*total.shape[:2]) + total
        inside = is_inside(places, *total.shape[:2])
        yield np.where(inside[..., None], total, np.nan).astype(np.float32)


def _continued(total: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Returns the flow [H, W, 2] of a path that a further flow continues, NaN where it left."""
    return _followed(_pixel_places(*total.shape[:2]), total, flow)


def _followed(points: np.ndarray, total: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Returns the motion of points over a path that a further flow continues.

    Args:
      points: [..., 2] places (x, y) in the first frame.
      total: [..., 2] motion of the points over the path so far. NaN: the point is lost.
      flow: [H, W, 2] from the last frame of the path to the next frame.

    Returns:
      [..., 2] float64, NaN for points that are lost.
    """
    places = points + total
    inside = is_inside(places, *flow.shape[:2])
    step = np.full(total.shape, np.nan)
    step[inside] = _sampled(flow, places[inside])
    return total + step


def _sampled(flow: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns the flow [n, 2] at places inside the image, interpolated between pixels.

    A place on a pixel does not depend on the neighbours of this pixel, which may be NaN.

    Args:
      flow: [H, W, 2].
      places: [n, 2] as (x, y). Places beyond the outermost pixel have its flow.
    """
    height, width = flow.shape[:2]
    places = places.clip(0, (width - 1, height - 1))
    left, top = np.floor(places).astype(np.int64).T
    right, bottom = np.ceil(places).astype(np.int64).T
    x_share, y_share = (places - np.floor(places)).T[..., None]

    # Two neighbours of a row are mixed first, then the two rows.
    pixels = flow.reshape(-1, 2)
    upper = pixels[top * width + left]
    upper = upper + x_share * (pixels[top * width + right] - upper)
    lower = pixels[bottom * width + left]
    lower = lower + x_share * (pixels[bottom * width + right] - lower)
    return upper + y_share * (lower - upper)


def is_inside(places: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns which places (x, y) [..., 2] lie on a pixel of an image, bool [...].

    The image covers [-0.5, width - 0.5) x [-0.5, height - 0.5). NaN lies outside.
    """
    x = np.rint(places[..., 0])
    y = np.rint(places[..., 1])
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


@functools.lru_cache(maxsize=4)
def _pixel_places(height: int, width: int) -> np.ndarray:
    """Returns the place (x, y) of each pixel, [H, W, 2] float64."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    places = np.stack([x, y], axis=-1)
    places.setflags(write=False)
    return places


# --- a clip ---------------------------------------------------------------------------------------


class Names(NamedTuple):
    """Names of the features of a frame that matching reads.

    regions   ids of the regions
    next      flow to the frame at +interval
    previous  flow to the frame at -interval
    """

    regions: str = 'ids_region'
    next: str = 'flow_next'
    previous: str = 'flow_previous'


NAMES = Names()


class Matching(NamedTuple):
    """Settings of `match_feature`, which explains them."""

    offsets: tuple[int, ...]
    num_regions: int
    interval: int = 1
    threshold: float = 0.4
    reading: str = 'propagated'
    names: Names = NAMES


def match_feature(
    offsets: Sequence[int],
    num_regions: int,
    interval: int = 1,
    threshold: float = 0.4,
    reading: str = 'propagated',
    names: Names = NAMES,
    name: str = 'region_matches',
    data: str = 'data',
) -> Derived:
    """Returns the matches of the frames around each labelled frame as a derived feature.

    The value is [n, P] int32. Row i is for the frame at the offset i. It has the region of the
    labelled frame to which each region of that frame corresponds, or -1. The row of offset 0 is
    0 .. P - 1. Frames that do not exist have rows of -1. So do frames behind a gap of the clip,
    because no flow leads across the gap.

    Args:
      offsets: [n] of the frames, in the numbering of the clip. They are multiples of `interval`.
        All frames on the way to them are read.
      num_regions: P, the ids of all regions are smaller.
      interval: distance of the frames between which flow is known.
      threshold: score of a match, tau of the paper.
      reading: a name of READINGS.
      names: of the features that are read.
      name: of the feature.
      data: config section of the data set.

    Raises:
      InputError: an unknown reading, a threshold that is no score, or offsets that no flow reaches.
    """
    where = f'feature {name!r}'
    if reading not in READINGS:
        raise unknown_name(f'reading of {where}', reading, READINGS)
    if not 0 < threshold <= 1:
        raise InputError(f'threshold of {where}', got=f'{threshold}', expected='above 0, up to 1')
    matching = Matching(tuple(offsets), num_regions, interval, threshold, reading, names)
    return Derived(
        name,
        Feature('number', (len(offsets), num_regions), dtype='int32'),
        reads=_reads(names),
        compute=functools.partial(example_matches, matching=matching),
        settings=matching._asdict(),
        frames=way(offsets, interval, where),
        examples='labelled',
        lazy=True,
        data=data,
    )


def _reads(names: Sequence[str]) -> tuple[str, ...]:
    """Returns features of the target and of the frames around it, with their numbers."""
    return ('frame', *names, 'frame' + SUFFIX, *(name + SUFFIX for name in names))


def way(offsets: Sequence[int], interval: int, where: str) -> tuple[int, ...]:
    """Returns the offsets of all frames on the way to some offsets, ascending, without 0.

    Args:
      offsets: in the numbering of the clip.
      interval: distance of frames between which flow is known.
      where: names the offsets in errors.

    Raises:
      InputError: no frame, a frame twice, or a frame that no flow reaches.
    """
    unreached = [offset for offset in offsets if interval < 1 or offset % interval]
    is_repeated = len(set(offsets)) < len(offsets)
    if unreached or is_repeated or not any(offsets):
        got = f'{tuple(offsets)} at an interval of {interval}'
        expected = 'different multiples of the interval, not only 0'
        raise InputError(f'offsets of {where}', got=got, expected=expected)
    first = min(0, *offsets)
    last = max(0, *offsets)
    return tuple(offset for offset in range(first, last + 1, interval) if offset)


def example_matches(example: Example, matching: Matching) -> np.ndarray:
    """Returns the matches [n, P] int32 of an example. Arguments: `scored_matches`."""
    return scored_matches(example, matching).ids


def scored_matches(example: Example, matching: Matching) -> Matches:
    """Returns the matches of the frames around a target, with their scores.

    Args:
      example: 'frame' and the features of `matching.names` of the target. 'x_frames' are the
        features of the frames at `way(offsets, interval)`, as arrays or as sequences. Frames that
        do not exist are recognised by 'frame_frames'.
      matching: the settings.

    Returns:
      Matches [n, P]. The row of offset 0 has the scores 1.

    Raises:
      InputError: an id of P or more.
    """
    num_regions = matching.num_regions
    rows = {offset: row for row, offset in enumerate(matching.offsets)}
    ids = np.full((len(rows), num_regions), NONE, np.int32)
    scores = np.zeros((len(rows), num_regions), np.float32)
    if 0 in rows:
        ids[rows[0]] = np.arange(num_regions)
        scores[rows[0]] = 1

    # Both ways begin at the target.
    target = np.asarray(example[matching.names.regions])
    _check_ids(target, num_regions, 0)
    match = READINGS[matching.reading]
    for stride in (matching.interval, -matching.interval):
        offset = 0
        for matches in match(target, _steps(example, matching, stride), matching.threshold):
            offset += stride
            if offset in rows:
                ids[rows[offset], : len(matches.ids)] = matches.ids
                scores[rows[offset], : len(matches.ids)] = matches.scores
    return Matches(ids, scores)


def _steps(
    example: Mapping[str, Any], matching: Matching, stride: int
) -> Generator[Step, None, None]:
    """Yields the frames on a way from the target, until the first frame that does not exist.

    Args:
      example: as in `scored_matches`.
      matching: the settings.
      stride: offset of the first frame, negative for a way into the past.
    """
    names = matching.names
    frames = way(matching.offsets, matching.interval, 'matches')
    back = names.previous if stride > 0 else names.next
    for place, flow in _flows(example, frames, stride, names):
        ids = np.asarray(example[names.regions + SUFFIX][place])
        _check_ids(ids, matching.num_regions, frames[place])
        yield Step(ids, flow, example[back + SUFFIX][place])


def _flows(
    example: Mapping[str, Any], frames: Sequence[int], stride: int, names: Names
) -> Generator[tuple[int, np.ndarray], None, None]:
    """Yields (place among 'x_frames', flow from the frame before) of each frame on a way.

    The way ends before the first frame that does not exist.

    Args:
      example: as in `scored_matches`.
      frames: offsets of 'x_frames'.
      stride: as in `_steps`.
      names: of the features.
    """
    away = names.next if stride > 0 else names.previous
    flow = example[away]
    offset = stride
    while offset in frames:
        place = frames.index(offset)
        if example['frame' + SUFFIX][place] - example['frame'] != offset:
            return
        yield place, flow
        offset += stride
        # The last frame of the way leads nowhere.
        if offset in frames:
            flow = example[away + SUFFIX][place]


def _check_ids(ids: np.ndarray, num_regions: int, offset: int) -> None:
    """Raises InputError for more regions than a row of matches has places."""
    if _count(ids) > num_regions:
        raise InputError(
            f'regions of the frame at offset {offset:+d}',
            got=f'the id {_count(ids) - 1}',
            expected=f'ids below the {num_regions} regions for which there is room',
        )


def matched_ids(matches: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns a map of regions in the ids of the target, [H, W] int32.

    Args:
      matches: [P] the region of the target of each region of a frame, or NONE.
      ids: [H, W] regions of the frame. Negative ids are no region.
    """
    return np.append(matches, np.int32(NONE))[np.where(ids < 0, NONE, ids)]


def rows_of(offsets: Sequence[int], frame: int, frames: np.ndarray) -> np.ndarray:
    """Returns the row of each frame in a feature that has a row for each offset, [k] int64.

    Args:
      offsets: [n] of the rows.
      frame: number of the target in its clip.
      frames: [k] numbers of frames, the feature 'frame_frames'.

    Raises:
      InputError: a frame at an offset that has no row.
    """
    is_row = (np.asarray(frames) - frame)[:, None] == np.asarray(offsets)
    if not is_row.any(axis=1).all():
        wrong = int(np.asarray(frames)[~is_row.any(axis=1)][0] - frame)
        got = f'a frame at {wrong:+d}'
        raise InputError('frames around a target', got=got, expected=f'offsets {tuple(offsets)}')
    return is_row.argmax(axis=1)


# --- pixels ---------------------------------------------------------------------------------------


def pixel_flow_feature(
    offsets: Sequence[int],
    size: tuple[int, int],
    interval: int = 1,
    stride: int = 4,
    names: Names = NAMES,
    name: str = 'pixel_flows',
    data: str = 'data',
) -> Derived:
    """Returns the flows from each labelled frame to the frames around it as a derived feature.

    The value is [n, h, w, 2] int32. Row i is the composed flow to the frame at the offset i, in
    1/16 pixel, at a grid with a pixel of every `stride` rows and columns. A place without a
    correspondence has the value ABSENT. `with_pixel_flows` makes flow of each pixel from it.

    Args:
      offsets: as in `match_feature`.
      size: (height, width) of all images.
      interval: as in `match_feature`.
      stride: distance of the places of the grid, in pixels.
      names: of the features that are read. Regions are not read.
      name: of the feature.
      data: config section of the data set.

    Raises:
      InputError: offsets that no flow reaches.
    """
    arguments = {'offsets': tuple(offsets), 'interval': interval, 'stride': stride}
    rows = len(_grid(size[0], stride))
    columns = len(_grid(size[1], stride))
    flows = (names.next, names.previous)
    return Derived(
        name,
        Feature('number', (len(offsets), rows, columns, 2), dtype='int32'),
        reads=_reads(flows),
        compute=functools.partial(example_pixel_flows, names=names, **arguments),
        settings={**arguments, 'offsets': list(offsets), 'names': list(flows)},
        frames=way(offsets, interval, f'feature {name!r}'),
        examples='labelled',
        lazy=True,
        data=data,
    )


def _grid(length: int, stride: int) -> np.ndarray:
    """Returns the pixels of a grid along an axis. The last pixel is always among them."""
    return np.minimum(np.arange(0, length - 1 + stride, stride), length - 1)


def example_pixel_flows(
    example: Example,
    offsets: Sequence[int],
    interval: int = 1,
    stride: int = 4,
    names: Names = NAMES,
) -> np.ndarray:
    """Returns the flows [n, h, w, 2] int32 of an example. Arguments: `pixel_flow_feature`."""
    height, width = example[names.next].shape[:2]
    x, y = np.meshgrid(_grid(width, stride), _grid(height, stride))
    points = np.stack([x, y], axis=-1).astype(np.float64)
    rows = {offset: row for row, offset in enumerate(offsets)}
    values = np.full((len(offsets), *points.shape), ABSENT, np.int32)
    if 0 in rows:
        values[rows[0]] = 0

    # Points are followed from frame to frame.
    frames = way(offsets, interval, 'flows')
    for sign in (1, -1):
        total = np.zeros(points.shape)
        for place, flow in _flows(example, frames, sign * interval, names):
            total = _followed(points, total, flow)
            if frames[place] in rows:
                inside = is_inside(points + total, height, width)
                stored = np.rint(total[inside] * UNIT).astype(np.int32)
                values[rows[frames[place]]][inside] = stored
    return values


def with_pixel_flows(
    example: Example,
    rng: np.random.Generator,
    offsets: Sequence[int],
    stride: int = 4,
    name: str = 'pixel_flows',
) -> dict[str, Any]:
    """Adds the flow of each pixel of a target to its drawn frames. For `Input.transform`.

    The input declares the result in `made` as ('flow_pixels_frames', Feature('flow')), so that
    augmentation moves it with the images.

    Args:
      example: 'image', 'frame', 'frame_frames' [k] and the feature of `pixel_flow_feature`.
      rng: is not used.
      offsets: of `pixel_flow_feature`.
      stride: of `pixel_flow_feature`.
      name: of `pixel_flow_feature`.

    Returns:
      The example with 'flow_pixels_frames' [k, H, W, 2] float32. NaN: no correspondence.
    """
    height, width = example['image'].shape[:2]
    stored = example[name][rows_of(offsets, int(example['frame']), example['frame_frames'])]
    grid = np.where(stored == ABSENT, np.nan, stored / UNIT).astype(np.float32)

    # Places of the pixels in the grid, whose last distances may be shorter.
    rows = _grid_places(height, stride)
    columns = _grid_places(width, stride)
    flows = _between(_between(grid, rows, axis=1), columns, axis=2)
    return {**example, 'flow_pixels_frames': flows}


def _grid_places(length: int, stride: int) -> np.ndarray:
    """Returns the place of each pixel along an axis among the places of the grid, [length]."""
    grid = _grid(length, stride)
    return np.interp(np.arange(length), grid, np.arange(len(grid))).astype(np.float32)


def _between(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Returns values at places along an axis, interpolated linearly.

    A place on a value does not depend on its neighbours, which may be NaN.
    """
    before = np.floor(places).astype(np.int64)
    behind = np.ceil(places).astype(np.int64)
    shape = [1] * values.ndim
    shape[axis] = len(places)
    share = (places - before).astype(values.dtype).reshape(shape)
    first = np.take(values, before, axis)
    return first + share * (np.take(values, behind, axis) - first)
