"""How far predicted depth and camera motion are from the true ones.

Depth errors are made per image and averaged over images, as the KITTI numbers of the literature are. Everything runs
inside jit; what is averaged is a `protocol.Mean(sum, count)` that is not divided yet.
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
"""With d the predicted and t the true depth. The first four: less is better."""


def image_errors(
    prediction: Array,
    truth: Array,
    *,
    median_scaling: bool,
    min_depth: float = MIN_DEPTH,
    max_depth: float = MAX_DEPTH,
    valid: Array | None = None,
) -> dict[str, Array]:
    """The DEPTH_ERRORS of every image.

    Judged are the pixels with min_depth < truth < max_depth. With median scaling, predictions are first multiplied by
    median(truth) / median(prediction) over these pixels; then they are clipped to [min_depth, max_depth].

    Args:
      prediction: [B, H, W] at the size of the truth.
      truth: [B, H, W], 0 = not measured.
      median_scaling: True for what was learned from one camera alone and has no scale.
      min_depth: metres, > 0.
      max_depth: metres; 80 for KITTI.
      valid: [B, H, W] bool, the pixels that may be judged (an evaluation crop, say); None: all.

    Returns:
      {name: [B] float32}; NaN for an image in which nothing is judged.
    """
    if prediction.shape != truth.shape:
        raise InputError(
            'depth errors',
            got=f'a prediction {prediction.shape} and a truth {truth.shape}',
            expected='one shape [B, H, W]',
            fix='resize the prediction (as disparity) to the size of the truth',
        )
    prediction, truth = prediction.astype(jnp.float32), truth.astype(jnp.float32)
    judged = is_judged(truth, min_depth, max_depth, valid)
    if median_scaling:
        prediction = at_its_median(prediction, truth, judged)
    prediction = jnp.clip(prediction, min_depth, max_depth)
    prediction, truth = (jnp.where(judged, x, 1.0) for x in (prediction, truth))
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
    """The DEPTH_ERRORS as means over images.

    Arguments as in `image_errors`, and weight [B], the weight of each example. An image in which nothing is judged does
    not count; a prediction that is NaN does, and shows.

    Returns:
      {name: Mean whose count is that of the images}.
    """
    options = {'min_depth': min_depth, 'max_depth': max_depth, 'valid': valid}
    of_images = image_errors(prediction, truth, median_scaling=median_scaling, **options)
    counted = is_judged(truth.astype(jnp.float32), **options).any((1, 2))
    return {
        name: masked_mean(jnp.where(counted, value, 0.0), counted, weight)
        for name, value in of_images.items()
    }


def is_judged(truth: Array, min_depth: float, max_depth: float, valid: Array | None) -> Array:
    """[B, H, W] bool, the pixels that count; arguments as in `image_errors`."""
    judged = (truth > min_depth) & (truth < max_depth)
    return judged if valid is None else judged & valid


def at_its_median(guess: Array, truth: Array, where: Array) -> Array:
    """[B, H, W] scaled so that its median over `where` is that of the truth; NaN if that is empty."""
    scale = masked_median(truth, where) / masked_median(guess, where)
    return guess * scale[:, None, None]


def masked_median(values: Array, mask: Array) -> Array:
    """The exact median of the masked values of each example: of an even number, the mean of the middle two.

    Args:
      values: [B, ...].
      mask: [B, ...] bool.

    Returns:
      [B]; NaN where nothing is masked in.
    """
    batch = len(values)
    # What is masked out is sorted behind everything else.
    ordered = jnp.sort(jnp.where(mask, values, jnp.inf).reshape(batch, -1))
    n = mask.reshape(batch, -1).sum(1, keepdims=True)
    middle = jnp.concatenate([(n - 1) // 2, n // 2], 1)
    median = jnp.take_along_axis(ordered, jnp.maximum(middle, 0), axis=1).mean(1)
    return jnp.where(n[:, 0] > 0, median, jnp.nan)


# --- baselines ----------------------------------------------------------------------------------------------


def errors_with_baselines(
    disparity: Array, depth_of: Callable, batch: Batch, inside: Array
) -> Metrics:
    """Computes the DEPTH_ERRORS of a prediction and of two guesses that need no image.

    The constant guess is one depth for all pixels. The plane guess is level ground, and a constant above
    the horizon. Predictions and constants are scaled by medians. The plane scales ground and background
    by their own medians, so it has one more free scale than a prediction.

    Disparity is resized to the size of the true depth, not depth: disparity is as smooth as the net made it.

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

    The depth is f / (row - horizon), with the focal length f and the horizon in the row of the principal
    point. Pixels above the horizon get 0.

    Args:
      intrinsics: [B, 3, 3] in pixels of the images.
      size: [B, 2] height and width of the images without padding.
      out_size: (H, W) of the result.
      out_valid: [B, 2] height and width of the part of the result without padding. The part shows the
        same scene as the images.

    Returns:
      [B, H, W].
    """
    rows = (jnp.arange(out_size[0]) + 0.5) * (size[:, :1] / out_valid[:, :1]) - 0.5
    below = (rows - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None]
    depth = jnp.where(below > 1e-3, 1 / jnp.maximum(below, 1e-3), 0)
    return jnp.broadcast_to(depth[:, :, None], (len(depth), *out_size))


# --- camera motion ------------------------------------------------------------------------------------------


def trajectory(motions: Array, offsets: Sequence[int]) -> Array:
    """Where the cameras of a snippet were, from the motions between its target frame and the others.

    Args:
      motions: [B, n, 4, 4] from the target camera to each source camera.
      offsets: n frame offsets of the sources in time, ascending, without 0: (-1, 1).

    Returns:
      [B, n + 1, 4, 4] camera poses in the target's coordinates, in the order of time, the target among them.
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
    """Absolute trajectory error (ATE) of short snippets, metres.

        1/m sqrt( sum_i | s x_i - y_i |^2 ),     s = sum_i x_i y_i / sum_i x_i x_i

    with x_i and y_i the m predicted and true camera positions in the coordinates of the snippet's first camera. The
    division by m outside of the root is that of SfMLearner's and monodepth2's evaluation, with m = 5 or 3 frames.

    Args:
      predicted: [B, m, 4, 4] camera poses in any common coordinates and of any scale, see `trajectory`.
      truth: [B, m, 4, 4] camera poses in any common coordinates.
      weight: [B] weight of each example.

    Returns:
      Mean whose count is that of the snippets.
    """
    if predicted.shape != truth.shape or predicted.shape[2:] != (4, 4):
        raise InputError(
            'trajectory error',
            got=f'shapes {predicted.shape} and {truth.shape}',
            expected='both [B, m, 4, 4]',
        )
    x, y = (relative_motion(poses, poses[:, :1])[..., :3, 3] for poses in (predicted, truth))
    square = (x**2).sum((1, 2))
    # A camera that is said to stand still fits as well with any scale.
    scale = (x * y).sum((1, 2)) / jnp.where(square > 0, square, 1.0)
    error = jnp.sqrt(((scale[:, None, None] * x - y) ** 2).sum((1, 2))) / x.shape[1]
    return masked_mean(error, jnp.ones_like(error), weight)


def rotation_error(predicted: Array, truth: Array, weight: Array) -> Mean:
    """The angle of the rotation between predicted and true motions, R_predicted^T R_true, in degrees.

    Args:
      predicted: [B, n, 4, 4] relative motions.
      truth: [B, n, 4, 4].
      weight: [B] weight of each example.

    Returns:
      Mean whose count is that of the motions.
    """
    if predicted.shape != truth.shape or predicted.shape[2:] != (4, 4):
        raise InputError(
            'rotation error',
            got=f'shapes {predicted.shape} and {truth.shape}',
            expected='both [B, n, 4, 4]',
        )
    turn = relative_motion(truth, predicted)[..., :3, :3]
    # Sine and cosine: the arc cosine alone knows no angle below 0.02 degrees in float32.
    axis = jnp.stack([turn[..., i, j] - turn[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], -1)
    sine, cosine = jnp.linalg.norm(axis, axis=-1), jnp.trace(turn, axis1=-2, axis2=-1) - 1
    angle = jnp.rad2deg(jnp.arctan2(sine, cosine))
    return masked_mean(angle, jnp.ones_like(angle), weight)


def yaw(motions: Array) -> Array:
    """Returns the turn of motions [..., 4, 4] about the camera's y axis (down), in degrees."""
    return jnp.rad2deg(jnp.arctan2(motions[..., 0, 2], motions[..., 2, 2]))


def yaw_sums(predicted: Array, truth: Array, weight: Array) -> Mean:
    """Returns the sums that the correlation of predicted and true yaw is computed from.

    Args:
      predicted: [B, n, 4, 4] relative motions.
      truth: [B, n, 4, 4].
      weight: [B] weight of each example.

    Returns:
      Mean(sums, 1). The sums [n, 6] of 1, x, y, x y, x^2 and y^2 are over all examples, with x the
      predicted and y the true yaw. They add up over batches, and `correlation` takes the total.
    """
    x = yaw(predicted)
    y = yaw(truth)
    terms = jnp.stack([jnp.ones_like(x), x, y, x * y, x**2, y**2])
    # Padding may hold anything, so it is masked instead of multiplied by 0.
    counted = jnp.where(weight[:, None] > 0, terms * weight[:, None], 0)
    return Mean(counted.sum(1).T, jnp.float32(1))


def correlation(sums: np.ndarray) -> float:
    """Returns Pearson's correlation from the total of `yaw_sums`; NaN if either yaw never changes.

    Each source has a mean of its own. A camera that always turns one way has yaws of both signs, those of
    earlier and of later sources, and with a common mean saying "always the same turn" would correlate.
    """
    n, x, y, xy, xx, yy = np.asarray(sums, np.float64).T
    spread_x = (xx - x * x / n).sum()
    spread_y = (yy - y * y / n).sum()
    # The sums are float32: a smaller share of the squares is rounding noise.
    if spread_x <= 1e-6 * xx.sum() or spread_y <= 1e-6 * yy.sum():
        return float('nan')
    return float((xy - x * y / n).sum() / np.sqrt(spread_x * spread_y))


STILL = 'still'
"""Names the baseline that says that the camera neither turns nor moves."""


def motion_errors(
    predicted: Array, truth: Array, weight: Array, *, offsets: Sequence[int]
) -> dict[str, Mean]:
    """Compares predicted with true motions, and saying "no motion" with them.

    Args:
      predicted: [B, n, 4, 4] from the target camera to each source camera.
      truth: [B, n, 4, 4].
      weight: [B] weight of each example.
      offsets: n frame offsets of the sources, as `trajectory` has them.

    Returns:
      {'rotation_error', 'trajectory_error', the same names after 'still/', and 'yaw' of `yaw_sums`}.
    """
    still = jnp.broadcast_to(jnp.eye(4, dtype=truth.dtype), truth.shape)
    true_path = trajectory(truth, offsets)
    errors_by_name = {'yaw': yaw_sums(predicted, truth, weight)}
    for prefix, motions in (('', predicted), (f'{STILL}/', still)):
        path = trajectory(motions, offsets)
        errors_by_name[f'{prefix}rotation_error'] = rotation_error(motions, truth, weight)
        errors_by_name[f'{prefix}trajectory_error'] = trajectory_error(path, true_path, weight)
    return errors_by_name
