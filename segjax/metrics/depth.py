"""Errors of predicted depth and of predicted camera motion.

Depth errors are computed per image and averaged over images, as the KITTI numbers of the literature
are. The functions run inside jit, except `correlation`. A `protocol.Mean(sum, count)` is not
divided yet.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from segjax.core.means import masked_mean
from segjax.errors import InputError
from segjax.ops import resize
from segjax.ops.warp import invert_motion, relative_motion
from segjax.protocol import Array, Batch, Mean, Metrics

MIN_DEPTH = 1e-3
MAX_DEPTH = 80.0
"""Pixels with a true depth between these limits are scored, in metres, as on KITTI."""

DEPTH_ERRORS = {
    'abs_rel': 'mean |d - t| / t',
    'sq_rel': 'mean (d - t)^2 / t, metres',
    'rmse': 'sqrt mean (d - t)^2, metres',
    'rmse_log': 'sqrt mean (ln d - ln t)^2',
    'a1': 'share of pixels with max(d / t, t / d) < 1.25',
    'a2': 'share below 1.25^2',
    'a3': 'share below 1.25^3',
}
"""The errors of a predicted depth d, with t the true depth. Of the first four, less is better."""


def image_errors(
    prediction: Array,
    truth: Array,
    *,
    median_scaling: bool,
    min_depth: float = MIN_DEPTH,
    max_depth: float = MAX_DEPTH,
    valid: Array | None = None,
) -> dict[str, Array]:
    """Computes the DEPTH_ERRORS of every image.

    Pixels with min_depth < truth < max_depth count. With median scaling, predictions are first
    multiplied by median(truth) / median(prediction) over these pixels. Then they are clipped to
    [min_depth, max_depth].

    Args:
      prediction: [B, H, W] at the size of the truth.
      truth: [B, H, W], 0 = not measured.
      median_scaling: True for predictions without a scale, learned from a single camera.
      min_depth: metres, > 0.
      max_depth: metres, 80 for KITTI.
      valid: [B, H, W] bool, the pixels that may count, for instance an evaluation crop. None: all.

    Returns:
      {name: [B] float32}, NaN for an image in which no pixel counts.
    """
    if prediction.shape != truth.shape:
        raise InputError(
            'depth errors',
            got=f'a prediction {prediction.shape} and a truth {truth.shape}',
            expected='equal shapes [B, H, W]',
            fix='resize the prediction (as disparity) to the size of the truth',
        )
    prediction = prediction.astype(jnp.float32)
    truth = truth.astype(jnp.float32)
    judged = is_judged(truth, min_depth, max_depth, valid)
    if median_scaling:
        prediction = at_its_median(prediction, truth, judged)
    prediction = jnp.clip(prediction, min_depth, max_depth)
    # Pixels that do not count compare 1 with 1, so that no logarithm or quotient is NaN.
    prediction = jnp.where(judged, prediction, 1.0)
    truth = jnp.where(judged, truth, 1.0)
    difference = prediction - truth
    ratio = jnp.maximum(prediction / truth, truth / prediction)

    def mean(x):
        return jnp.where(judged, x, 0.0).sum((1, 2)) / judged.sum((1, 2))

    return {
        'abs_rel': mean(jnp.abs(difference) / truth),
        'sq_rel': mean(difference**2 / truth),
        'rmse': jnp.sqrt(mean(difference**2)),
        'rmse_log': jnp.sqrt(mean((jnp.log(prediction) - jnp.log(truth)) ** 2)),
        **{f'a{k}': mean(ratio < 1.25**k) for k in (1, 2, 3)},
    }


def errors(
    prediction: Array,
    truth: Array,
    weight: Array,
    *,
    median_scaling: bool,
    min_depth: float = MIN_DEPTH,
    max_depth: float = MAX_DEPTH,
    valid: Array | None = None,
) -> dict[str, Mean]:
    """Computes the DEPTH_ERRORS as means over images.

    An image in which no pixel counts does not count. A prediction that is NaN counts, so the error
    becomes NaN.

    Args:
      prediction: [B, H, W] at the size of the truth.
      truth: [B, H, W], 0 = not measured.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      median_scaling: as in `image_errors`.
      min_depth: as in `image_errors`.
      max_depth: as in `image_errors`.
      valid: as in `image_errors`.

    Returns:
      {name: Mean whose count is the number of images}.
    """
    options = {'min_depth': min_depth, 'max_depth': max_depth, 'valid': valid}
    by_image = image_errors(prediction, truth, median_scaling=median_scaling, **options)
    counted = is_judged(truth.astype(jnp.float32), **options).any((1, 2))
    return {
        name: masked_mean(jnp.where(counted, value, 0.0), counted, weight)
        for name, value in by_image.items()
    }


def is_judged(truth: Array, min_depth: float, max_depth: float, valid: Array | None) -> Array:
    """Returns the pixels that count, [B, H, W] bool. Arguments are as in `image_errors`."""
    judged = (truth > min_depth) & (truth < max_depth)
    return judged if valid is None else judged & valid


def at_its_median(guess: Array, truth: Array, where: Array) -> Array:
    """Scales depth maps so that their medians equal the medians of the truth.

    Args:
      guess: [B, H, W].
      truth: [B, H, W].
      where: [B, H, W] bool, the pixels of the medians.

    Returns:
      [B, H, W], NaN for an example whose `where` is empty.
    """
    scale = masked_median(truth, where) / masked_median(guess, where)
    return guess * scale[:, None, None]


def masked_median(values: Array, mask: Array) -> Array:
    """Computes the exact median of the masked values of each example.

    The median of an even number of values is the mean of the middle two.

    Args:
      values: [B, ...].
      mask: [B, ...] bool, True for the values that count.

    Returns:
      [B], NaN where no value counts.
    """
    batch = len(values)
    # Masked-out values are sorted behind all counted values.
    ordered = jnp.sort(jnp.where(mask, values, jnp.inf).reshape(batch, -1))
    n = mask.reshape(batch, -1).sum(1, keepdims=True)  # [B, 1]
    middle = jnp.concatenate([(n - 1) // 2, n // 2], 1)  # [B, 2]
    median = jnp.take_along_axis(ordered, jnp.maximum(middle, 0), axis=1).mean(1)
    return jnp.where(n[:, 0] > 0, median, jnp.nan)


# --- baselines ------------------------------------------------------------------------------------


def errors_with_baselines(
    disparity: Array, depth_of: Callable, batch: Batch, inside: Array
) -> Metrics:
    """Computes the DEPTH_ERRORS of a prediction and of two baselines that need no image.

    The constant baseline has the same depth at all pixels. The plane baseline is level ground, and
    a constant above the horizon. Prediction and constant are scaled by medians. The plane scales
    ground and background by their own medians. It has an additional free scale compared with a
    prediction.

    Disparity, not depth, is resized to the size of the true depth: it is as smooth as the net made
    it.

    Args:
      disparity: [B, h, w] at the size of the images.
      depth_of: disparity -> depth.
      batch: with 'depth' [B, H, W], 'intrinsics', 'size', 'label_size' and 'weight'.
      inside: [B, H, W] bool, the part of 'depth' that is not padding.

    Returns:
      {name: Mean over images}, with the names of DEPTH_ERRORS, 'constant/..' and 'plane/..'.
    """
    true = batch['depth']
    sizes = batch['size'], true.shape[1:], batch['label_size']
    large = resize.resize_valid(disparity[..., None], *sizes)[..., 0]
    judged = is_judged(true, MIN_DEPTH, MAX_DEPTH, inside)
    # Ground and background of the plane have a scale each.
    ground = level_ground(batch['intrinsics'], *sizes)
    below = at_its_median(ground, true, judged & (ground > 0))
    above = at_its_median(jnp.ones_like(true), true, judged & (ground == 0))
    guesses = {
        '': depth_of(jnp.where(inside, large, 1.0)),
        'constant/': jnp.ones_like(true),
        'plane/': jnp.where(ground > 0, below, above),
    }
    metrics = {}
    for prefix, depth in guesses.items():
        scaled = prefix != 'plane/'
        of_guess = errors(depth, true, batch['weight'], median_scaling=scaled, valid=inside)
        metrics |= {prefix + name: value for name, value in of_guess.items()}
    return metrics


def level_ground(
    intrinsics: Array, size: Array, out_size: tuple[int, int], out_valid: Array
) -> Array:
    """Computes the depth of level ground below a level camera, in units of the camera's height.

        depth = f / (row - horizon)

    f is the focal length. The horizon is the row of the principal point. Pixels above it get 0.

    Args:
      intrinsics: [B, 3, 3] in pixels of the images.
      size: [B, 2] height and width of the images without padding.
      out_size: (H, W) of the result.
      out_valid: [B, 2] height and width of the part of the result without padding. The part shows
        the same scene as the images.

    Returns:
      [B, H, W].
    """
    rows = (jnp.arange(out_size[0]) + 0.5) * (size[:, :1] / out_valid[:, :1]) - 0.5
    below = (rows - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None]
    depth = jnp.where(below > 1e-3, 1 / jnp.maximum(below, 1e-3), 0)
    return jnp.broadcast_to(depth[:, :, None], (len(depth), *out_size))


# --- camera motion --------------------------------------------------------------------------------


def trajectory(motions: Array, offsets: Sequence[int]) -> Array:
    """Returns the camera poses of a snippet, from the motions of its target frame to its sources.

    Args:
      motions: [B, n, 4, 4] from the target camera to each source camera.
      offsets: n frame offsets of the sources in time, ascending and without 0, e.g. (-1, 1).

    Returns:
      [B, n + 1, 4, 4] camera poses in the target's coordinates, ordered by time. The target is
      among them.

    Raises:
      InputError: the offsets do not fit the motions.
    """
    offsets = tuple(offsets)
    if len(offsets) != motions.shape[1] or 0 in offsets or list(offsets) != sorted(set(offsets)):
        raise InputError(
            'trajectory',
            got=f'offsets {offsets} for {motions.shape[1]} motions',
            expected='an offset for each motion, ascending and without 0',
        )
    poses = invert_motion(motions)
    before = sum(offset < 0 for offset in offsets)
    target = jnp.broadcast_to(jnp.eye(4, dtype=poses.dtype), (len(poses), 1, 4, 4))
    return jnp.concatenate([poses[:, :before], target, poses[:, before:]], 1)


def trajectory_error(predicted: Array, truth: Array, weight: Array) -> Mean:
    """Computes the absolute trajectory error (ATE) of short snippets, in metres.

        1/m sqrt( sum_i | s x_i - y_i |^2 ),     s = sum_i x_i y_i / sum_i x_i x_i

    x_i and y_i are the m predicted and true camera positions, in the coordinates of the snippet's
    first camera. Dividing by m outside the root follows the evaluation of SfMLearner and
    monodepth2, with m = 5 or 3 frames.

    Args:
      predicted: [B, m, 4, 4] camera poses in any common coordinates and scale, see `trajectory`.
      truth: [B, m, 4, 4] camera poses in any common coordinates.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the number of snippets.
    """
    if predicted.shape != truth.shape or predicted.shape[2:] != (4, 4):
        raise InputError(
            'trajectory error',
            got=f'shapes {predicted.shape} and {truth.shape}',
            expected='both [B, m, 4, 4]',
        )
    x = relative_motion(predicted, predicted[:, :1])[..., :3, 3]  # [B, m, 3]
    y = relative_motion(truth, truth[:, :1])[..., :3, 3]
    square = (x**2).sum((1, 2))
    # If all predicted positions are 0, every scale fits equally well.
    scale = (x * y).sum((1, 2)) / jnp.where(square > 0, square, 1.0)  # [B]
    distance = ((scale[:, None, None] * x - y) ** 2).sum((1, 2))
    error = jnp.sqrt(distance) / x.shape[1]
    return masked_mean(error, jnp.ones_like(error), weight)


def rotation_error(predicted: Array, truth: Array, weight: Array) -> Mean:
    """Computes the angle of the rotation between predicted and true motions, in degrees.

        angle of R = R_predicted^T R_true

    Args:
      predicted: [B, n, 4, 4] relative motions.
      truth: [B, n, 4, 4].
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the number of motions.
    """
    if predicted.shape != truth.shape or predicted.shape[2:] != (4, 4):
        raise InputError(
            'rotation error',
            got=f'shapes {predicted.shape} and {truth.shape}',
            expected='both [B, n, 4, 4]',
        )
    turn = relative_motion(truth, predicted)[..., :3, :3]
    # The arc cosine alone cannot resolve angles below 0.02 degrees in float32.
    axis = jnp.stack([turn[..., i, j] - turn[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], -1)
    sine = jnp.linalg.norm(axis, axis=-1)  # 2 sin(angle)
    cosine = jnp.trace(turn, axis1=-2, axis2=-1) - 1  # 2 cos(angle)
    angle = jnp.rad2deg(jnp.arctan2(sine, cosine))
    return masked_mean(angle, jnp.ones_like(angle), weight)


def yaw(motions: Array) -> Array:
    """Returns the rotation of motions [..., 4, 4] about the camera's y axis (down), in degrees."""
    return jnp.rad2deg(jnp.arctan2(motions[..., 0, 2], motions[..., 2, 2]))


def yaw_sums(predicted: Array, truth: Array, weight: Array) -> Mean:
    """Returns the sums from which `correlation` of predicted and true yaw is computed.

    Args:
      predicted: [B, n, 4, 4] relative motions.
      truth: [B, n, 4, 4].
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean(sums, 1). The sums [n, 6] of 1, x, y, x y, x^2 and y^2 are over all examples. x is the
      predicted and y the true yaw. They add up over batches.
    """
    x = yaw(predicted)
    y = yaw(truth)
    terms = jnp.stack([jnp.ones_like(x), x, y, x * y, x**2, y**2])  # [6, B, n]
    # Padding may hold anything, so it is masked instead of multiplied by 0.
    counted = jnp.where(weight[:, None] > 0, terms * weight[:, None], 0)
    return Mean(counted.sum(1).T, jnp.float32(1))


def correlation(sums: np.ndarray) -> float:
    """Returns Pearson's correlation from the total of `yaw_sums`, on the host.

    Each source has its own mean. If a camera always turns left, the yaws of earlier and of later
    sources have opposite signs. With a common mean, a constant prediction would correlate.

    Args:
      sums: [n, 6], see `yaw_sums`.

    Returns:
      The correlation over all sources, or NaN if the predicted or the true yaw never changes.
    """
    n, x, y, xy, xx, yy = np.asarray(sums, np.float64).T
    spread_x = (xx - x * x / n).sum()
    spread_y = (yy - y * y / n).sum()
    # The sums are float32: a smaller share of the squares is rounding noise.
    if spread_x <= 1e-6 * xx.sum() or spread_y <= 1e-6 * yy.sum():
        return float('nan')
    return float((xy - x * y / n).sum() / np.sqrt(spread_x * spread_y))


STILL = 'still'
"""Names the baseline whose camera neither rotates nor moves."""


def motion_errors(
    predicted: Array, truth: Array, weight: Array, *, offsets: Sequence[int]
) -> dict[str, Mean]:
    """Computes the errors of predicted motions, and of the baseline "no motion".

    Args:
      predicted: [B, n, 4, 4] from the target camera to each source camera.
      truth: [B, n, 4, 4].
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      offsets: n frame offsets of the sources, as in `trajectory`.

    Returns:
      {'rotation_error', 'trajectory_error', the same names after 'still/', and 'yaw' of
      `yaw_sums`}.
    """
    still = jnp.broadcast_to(jnp.eye(4, dtype=truth.dtype), truth.shape)
    true_path = trajectory(truth, offsets)
    errors_by_name = {'yaw': yaw_sums(predicted, truth, weight)}
    for prefix, motions in (('', predicted), (f'{STILL}/', still)):
        path = trajectory(motions, offsets)
        errors_by_name[f'{prefix}rotation_error'] = rotation_error(motions, truth, weight)
        errors_by_name[f'{prefix}trajectory_error'] = trajectory_error(path, true_path, weight)
    return errors_by_name
