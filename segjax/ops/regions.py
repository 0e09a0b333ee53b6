"""Spatio-temporal data-driven pooling: means of features over the regions of a video.

Three layers follow each other, without parameters: features of pixels are pooled over the regions
of each frame, regions are pooled over the frames that show them, and every pixel of the target
takes the features of its region.

Sources: He, thesis chapter 3, which numbers the equations; He, Chiu, Keuper, Fritz: STD2P: RGBD
Semantic Segmentation using Spatio-Temporal Data-Driven Pooling, CVPR 2017.

Maps of regions hold ids 0 .. P-1, where P = `num_regions` is static. Regions may be empty. Pixels
with another id, for instance -1, belong to no region and count nowhere. Regions of different frames
correspond if they have the same id. Functions take a single map or a single video: use `jax.vmap`
for batches.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError, unknown_name
from segjax.ops import warp
from segjax.ops.gradients import straight_through

MODES = {
    'mean': 'average, as published',
    'max': 'maximum of each channel',
}
"""Ways to pool."""

_PARTS = 16
"""Partial sums of a region: image row y adds to part y % _PARTS.

A float32 that adds 0.1 for each pixel of an image of 425 x 560 is wrong by 0.2 percent in the end.
Sixteen partial sums are wrong by 0.01 percent. They also let a GPU add to a region in parallel.
"""


# --- the layers -----------------------------------------------------------------------------------


def pool_pixels(features, ids, num_regions: int, mode: str = 'mean', weights=None):
    """Pools the features of the pixels of each region (Eq. 3.1).

        values(j, c) = 1 / |R_j| sum_{p in R_j} features(p, c),     R_j = {p: ids(p) = j}

    With weights, the mean is sum w(p) features(p, c) / sum w(p) over R_j. The gradient of a mean is
    1 / |R_j| at every pixel of R_j (Eq. 3.2). The gradient of a maximum goes to a single pixel: of
    equal pixels the first in row-major order gets all of it, as in Caffe's max pooling. NaN wins.

    Sums are float32 at least. On GPUs they are added in no fixed order, so last bits may differ
    between two calls.

    Args:
      features: [H, W, C] floating point.
      ids: [H, W] integers. Pixels whose id is not in 0 .. P-1 count nowhere.
      num_regions: P.
      mode: a key of MODES.
      weights: [H, W] >= 0, weights of the pixels in a mean, for instance `border_weights`. None: 1.

    Returns:
      (values [P, C], counts [P]), both float32 at least. A count is the number of pixels of a
      region, or the sum of their weights. A region with count 0 has value 0.
    """
    _check_mode('mode of pool_pixels', mode)
    _check_map('pool_pixels', features, ids)
    if mode == 'max' and weights is not None:
        raise InputError(
            'pool_pixels',
            got="weights with mode 'max'",
            expected="weights with mode 'mean' alone",
            fix='a maximum has no weights: leave them out',
        )
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    features = features.astype(dtype)
    slots = _slots(ids, num_regions)

    # A region is empty if its count is 0. Its value is 0 then, never 0 / 0 or -inf.
    weights = jnp.ones(ids.shape, dtype) if weights is None else jnp.asarray(weights, dtype)
    counts = _sum_regions(weights[..., None], slots, num_regions)  # [P, 1]
    if mode == 'max':
        values = _max_regions(features, ids, num_regions)
        return jnp.where(counts > 0, values, 0), counts[:, 0]
    sums = _sum_regions(weights[..., None] * features, slots, num_regions)
    return sums / jnp.where(counts > 0, counts, 1), counts[:, 0]


def pool_frames(values, counts, mode: str = 'mean', weights=None):
    """Pools the values of corresponding regions over frames (Eq. 3.3).

        pooled(j, c) = 1 / K_j sum_{i: counts(i, j) > 0} values(i, j, c)

    K_j is the number of frames that show region j. Every such frame has the same weight, however
    many pixels it shows. The gradient of a mean is 1 / K_j (Eq. 3.4). The gradient of a maximum
    goes to a single frame, the first of equal frames. NaN wins.

    Args:
      values: [N, P, C] of N frames, from `pool_pixels`.
      counts: [N, P]. Frame i shows region j if counts[i, j] > 0.
      mode: a key of MODES.
      weights: [N] >= 0, weights of the frames in a mean. A frame of weight 0 shows nothing, in
        both modes. None: 1.

    Returns:
      (pooled [P, C] float32 at least, num_matched [P] int32). A region without frames has value 0
      and number 0.
    """
    _check_mode('mode of pool_frames', mode)
    if values.ndim != 3 or counts.shape != values.shape[:2]:
        raise InputError(
            'pool_frames',
            got=f'values {values.shape} and counts {counts.shape}',
            expected='[N, P, C] and [N, P]',
        )
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    values = values.astype(dtype)
    weights = jnp.ones(len(values), dtype) if weights is None else jnp.asarray(weights, dtype)
    shown = (counts > 0) & (weights > 0)[:, None]  # [N, P]
    num_matched = shown.sum(0, dtype=jnp.int32)

    # Values of frames that do not show a region never enter, not even as 0 times NaN.
    if mode == 'max':
        candidates = jnp.where(shown[..., None], values, -jnp.inf)
        first = jnp.argmax(candidates, axis=0)[None]  # [1, P, C]
        largest = jnp.take_along_axis(values, first, axis=0)[0]
        return jnp.where(num_matched[:, None] > 0, largest, 0), num_matched
    share = jnp.where(shown, weights[:, None], 0)
    total = share.sum(0)
    summed = (share[..., None] * jnp.where(shown[..., None], values, 0)).sum(0)
    return summed / jnp.where(total > 0, total, 1)[:, None], num_matched


def to_pixels(values, ids, blend: int = 0):
    """Gives every pixel the values of its region (Eq. 3.5).

        map(p, c) = values(ids(p), c)

    The gradient of a value is the sum over the pixels of its region (Eq. 3.6). With a radius
    `blend` b, regions mix near their borders: a pixel gets the mean over the pixels with a region
    in a window of (2 b + 1) x (2 b + 1) pixels around it.

        map(p, c) = mean_{q: |q - p|_max <= b, ids(q) in 0 .. P-1} values(ids(q), c)

    Pixels further than b from a border keep the value of their region, up to rounding.

    Args:
      values: [P, C] floating point.
      ids: [H, W] integers. Pixels whose id is not in 0 .. P-1 belong to no region. They get 0, or
        with `blend` the mean of the regions in their window, and 0 where there is none.
      blend: radius in pixels. 0 is Eq. 3.5.

    Returns:
      [H, W, C] in the dtype of values.
    """
    if values.ndim != 2 or ids.ndim != 2:
        raise InputError(
            'to_pixels',
            got=f'values {values.shape} and ids {ids.shape}',
            expected='[P, C] and [H, W]',
        )
    num_regions = len(values)
    slots = _slots(ids, num_regions)
    # Copies of the values, so that the gradient is summed in parts.
    rows = jnp.broadcast_to(values, (_PARTS, *values.shape)).reshape(-1, values.shape[-1])
    hard = rows.at[slots].get(mode='fill', fill_value=0)
    if blend == 0:
        return hard
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    has_region = (slots < len(rows))[..., None].astype(dtype)
    number = _box_sum(has_region, blend)
    mixed = _box_sum(hard.astype(dtype), blend) / jnp.maximum(number, 1)
    return mixed.astype(values.dtype)


def target_ids(matches, ids):
    """Looks up the region of the target that each pixel of each frame belongs to.

    Args:
      matches: [N, P] integers, the region of the target to which each region of each frame
        corresponds, -1 for none.
      ids: [N, H, W] integers, the regions of each frame in its own numbering.

    Returns:
      [N, H, W] int32, -1 where a pixel has no region in 0 .. P-1 or its region has no match.
    """
    if matches.ndim != 2 or ids.ndim != 3 or len(matches) != len(ids):
        raise InputError(
            'target_ids',
            got=f'matches {matches.shape} and ids {ids.shape}',
            expected='[N, P] and [N, H, W]',
        )
    matches = matches.astype(jnp.int32)
    rows = _inside(ids, matches.shape[1])
    return jax.vmap(lambda match, row: match.at[row].get(mode='fill', fill_value=-1))(matches, rows)


# --- soft borders ---------------------------------------------------------------------------------


def border_weights(ids, border: int):
    """Returns weights of pixels that fall off towards the borders of their region.

        w(p) = min(d(p), border + 1) / (border + 1)

    d(p) is the chessboard distance to the nearest pixel of another id: 1 at a border. The border of
    the image is no border of a region. Features are least reliable where two objects meet. No
    weight is 0, so a thin region does not vanish.

    Args:
      ids: [H, W] integers.
      border: radius in pixels. With 0 all weights are 1.

    Returns:
      [H, W] float32 in (0, 1].
    """
    highest = ids.astype(jnp.int32)
    lowest = highest
    bounds = np.iinfo(np.int32)
    # The window of radius k, a window of radius 1 of the window before, has a single id if and only
    # if d > k.
    distance = jnp.ones(ids.shape, jnp.float32)
    for _ in range(border):
        highest = _window(highest, np.int32(bounds.min), lax.max, (3, 3))
        lowest = _window(lowest, np.int32(bounds.max), lax.min, (3, 3))
        distance += highest == lowest
    return distance / (border + 1)


# --- videos ---------------------------------------------------------------------------------------


def pool_sequence(
    features,
    ids,
    target_ids,
    num_regions: int,
    spatial: str = 'mean',
    temporal: str = 'mean',
    *,
    frame_weights=None,
    border: int = 0,
    blend: int = 0,
):
    """Pools the features of a video over its regions, onto the pixels of the target.

    The composition of `pool_pixels`, `pool_frames` and `to_pixels`. Frames are pooled after each
    other, so memory holds sums of a single frame, and N P C values. For a batch of videos,
    `jax.lax.map` copies features of a video at a time, `jax.vmap` of the whole batch.

    Args:
      features: [N, H, W, C] floating point. The target is one of the N frames.
      ids: [N, H, W] integers in the numbering of the target (see `target_ids`).
      target_ids: [H, W] integers, the regions of the target.
      num_regions: P.
      spatial: a key of MODES, over the pixels of a region.
      temporal: a key of MODES, over the frames.
      frame_weights: [N], see `pool_frames`.
      border: radius of `border_weights` in `pool_pixels`. It needs the spatial mode 'mean'.
      blend: radius in `to_pixels`.

    Returns:
      [H, W, C] in the dtype of features. Pixels are 0 if they have no region, or if no frame shows
      their region.
    """
    pooled = _pool_regions(features, ids, num_regions, spatial, temporal, frame_weights, border)
    image, _ = _map_shown(*pooled, target_ids, blend)
    return image.astype(features.dtype)


def pool_hierarchy(
    features,
    ids,
    target_ids,
    num_regions: int,
    spatial: str = 'mean',
    temporal: str = 'mean',
    *,
    level_weights=None,
    frame_weights=None,
    border: int = 0,
    blend: int = 0,
):
    """Averages `pool_sequence` over several maps of regions, for instance from fine to coarse.

        map(p, c) = sum_l w_l map_l(p, c) / sum_l w_l     over the levels l with a value at p

    Every pixel sees context of several sizes (He, thesis Sec. 3.4.2). With a single level the
    result is `pool_sequence`.

    Args:
      features: [N, H, W, C] floating point.
      ids: [L, N, H, W] integers, in the numbering of the target of each level.
      target_ids: [L, H, W] integers.
      num_regions: P, the largest number of regions of a level.
      spatial: a key of MODES.
      temporal: a key of MODES.
      level_weights: [L] >= 0. None: 1.
      frame_weights: [N], see `pool_frames`.
      border: see `pool_sequence`.
      blend: see `pool_sequence`.

    Returns:
      [H, W, C] in the dtype of features. Pixels without a value at any level are 0.
    """
    if ids.ndim != 4 or target_ids.ndim != 3 or len(ids) != len(target_ids):
        raise InputError(
            'pool_hierarchy',
            got=f'ids {ids.shape} and ids of the target {target_ids.shape}',
            expected='[L, N, H, W] and [L, H, W]',
        )
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    if level_weights is None:
        level_weights = jnp.ones(len(ids), dtype)

    # A level at a time: memory holds a single map in addition to the sum.
    def add(sums, level):
        ids, target, weight = level
        pooled = _pool_regions(features, ids, num_regions, spatial, temporal, frame_weights, border)
        image, has_value = _map_shown(*pooled, target, blend)
        share = (has_value * weight)[..., None]
        return (sums[0] + share * image, sums[1] + share), None

    shape = features.shape[1:]
    zeros = (jnp.zeros(shape, dtype), jnp.zeros((*shape[:2], 1), dtype))
    levels = (ids, target_ids, jnp.asarray(level_weights, dtype))
    (image, total), _ = lax.scan(add, zeros, levels)
    return (image / jnp.where(total > 0, total, 1)).astype(features.dtype)


def pool_along_flow(features, flows):
    """Averages features over frames along the optical flow of each pixel, without regions.

        map(p, c) = 1 / K_p sum_i features_i(p + flow_i(p), c)

    The sum is over the K_p frames in which p + flow_i(p) lies in the image and the flow is finite.
    Features are interpolated bilinearly. It is the pixel correspondence of Table 3.4.

    Args:
      features: [N, H, W, C] floating point.
      flows: [N, H, W, 2] vectors (u, v) in pixels from the target to each frame, 0 for the target
        itself. NaN: not measured.

    Returns:
      [H, W, C] in the dtype of features. Pixels without any frame are 0.
    """
    if flows.shape != (*features.shape[:-1], 2):
        raise InputError(
            'pool_along_flow',
            got=f'features {features.shape} and flows {flows.shape}',
            expected='[N, H, W, C] and [N, H, W, 2]',
        )
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    grid = warp.pixel_grid(features.shape[1:3])

    # A frame at a time: memory holds a single frame in addition to the sum.
    def add(sums, frame):
        image, flow = frame
        measured = jnp.isfinite(flow).all(-1)
        # A position of NaN would give the image a gradient of NaN.
        pixels = grid + jnp.where(measured[..., None], flow, 0)
        values, inside = warp.sample(image.astype(dtype), pixels)
        counted = (measured & inside)[..., None]
        return (sums[0] + jnp.where(counted, values, 0), sums[1] + counted), None

    shape = features.shape[1:]
    zeros = (jnp.zeros(shape, dtype), jnp.zeros((*shape[:2], 1), dtype))
    (image, number), _ = lax.scan(add, zeros, (features, flows))
    return (image / jnp.maximum(number, 1)).astype(features.dtype)


# --- parts ----------------------------------------------------------------------------------------


def _check_mode(where: str, mode: str) -> None:
    if mode not in MODES:
        raise unknown_name(where, mode, MODES)


def _check_map(where: str, features, ids) -> None:
    """Raises InputError unless features are a map [H, W, C] and ids a map [H, W]."""
    if features.ndim != 3 or ids.shape != features.shape[:2]:
        raise InputError(
            where,
            got=f'features {features.shape} and ids {ids.shape}',
            expected='[H, W, C] and [H, W]',
            fix='map over leading axes with jax.vmap',
        )


def _inside(ids, num_regions: int):
    """Returns ids as int32, with P in place of ids that are not in 0 .. P-1.

    An index of -1 would count from the end. Look-ups and sums drop the index P.
    """
    inside = (ids >= 0) & (ids < num_regions)
    return jnp.where(inside, ids, num_regions).astype(jnp.int32)


def _slots(ids, num_regions: int):
    """Returns for each pixel of [H, W] the index of its partial sum, _PARTS P for no region."""
    part = jnp.arange(ids.shape[0], dtype=jnp.int32)[:, None] % _PARTS
    rows = _inside(ids, num_regions)
    return jnp.where(rows < num_regions, part * num_regions + rows, _PARTS * num_regions)


def _sum_regions(features, slots, num_regions: int):
    """Sums the pixels of [H, W, C] over regions, [P, C]."""
    # A scatter. On a CPU, products with one-hot matrices took 3.8 times as long for 550 regions and
    # 425 x 560 pixels, 36 times for 5000 regions (docs/results/region_pooling.md).
    channels = features.shape[-1]
    pixels = features.reshape(-1, channels)
    sums = jax.ops.segment_sum(pixels, slots.reshape(-1), _PARTS * num_regions)
    return sums.reshape(_PARTS, num_regions, channels).sum(0)


def _max_regions(features, ids, num_regions: int):
    """Returns the maxima of the pixels of [H, W, C] over regions, [P, C]. Empty regions: -inf."""
    channels = features.shape[-1]
    pixels = features.reshape(-1, channels)
    rows = _inside(ids, num_regions).reshape(-1)
    largest = jax.ops.segment_max(lax.stop_gradient(pixels), rows, num_regions)

    # The first pixel that has the maximum, for the gradient alone: the compiler drops these lines
    # from a program without gradients.
    wins = (pixels >= largest.at[rows].get(mode='fill', fill_value=0)) | jnp.isnan(pixels)
    number = jnp.arange(len(pixels), dtype=jnp.int32)[:, None]
    candidates = jnp.where(wins, number, len(pixels))
    first = jax.ops.segment_min(candidates, rows, num_regions)  # [P, C]
    winner = jnp.take_along_axis(pixels, first, axis=0, mode='fill', fill_value=0)
    return straight_through(winner, largest)


def _pool_regions(features, ids, num_regions, spatial, temporal, frame_weights, border):
    """Pools [N, H, W, C] over regions and frames, to (values [P, C], num_matched [P])."""
    if features.ndim != 4 or ids.shape != features.shape[:3]:
        raise InputError(
            'pool_sequence',
            got=f'features {features.shape} and ids {ids.shape}',
            expected='[N, H, W, C] and [N, H, W]',
            fix='map over batches with jax.vmap',
        )

    def pool_frame(frame):
        image, regions = frame
        weights = border_weights(regions, border) if border else None
        return pool_pixels(image, regions, num_regions, spatial, weights)

    values, counts = lax.map(pool_frame, (features, ids))
    return pool_frames(values, counts, temporal, frame_weights)


def _map_shown(values, num_matched, ids, blend: int):
    """Maps regions to pixels, without the regions that no frame shows.

    Returns:
      (map [H, W, C], has_value [H, W] bool).
    """
    shown = num_matched.at[_inside(ids, len(values))].get(mode='fill', fill_value=0) > 0
    ids = jnp.where(shown, ids, -1)
    image = to_pixels(values, ids, blend)
    if blend:
        shown = _box_sum(shown[..., None].astype(jnp.float32), blend)[..., 0] > 0
    return image, shown


def _box_sum(image, radius: int):
    """Sums [H, W, C] over windows of 2 radius + 1 pixels along rows, then along columns."""
    zero = np.array(0, image.dtype)  # a concrete zero, NumPy's, makes this differentiable
    side = 2 * radius + 1
    image = _window(image, zero, lax.add, (side, 1, 1))
    return _window(image, zero, lax.add, (1, side, 1))


def _window(image, start, combine, window):
    """Combines every window around a pixel. Pixels outside the image count nothing."""
    return lax.reduce_window(image, start, combine, window, (1,) * image.ndim, 'SAME')
