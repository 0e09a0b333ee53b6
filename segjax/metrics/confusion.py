"""The confusion matrix that every segmentation score comes from, and named policies for absent classes.

On the device `confusion` counts pixels as exact integers; the driver adds matrices up over devices, hosts and
batches; on the host `scores` turns the sum into mIoU and its relatives.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from segjax.errors import InputError, unknown_name
from segjax.protocol import Array, Mean
from segjax.spec import IGNORE

POLICIES = {
    'cityscapes': 'a class without pixels to judge it by (0 / 0) is left out of means (cityscapesScripts)',
    'absent_zero': 'it counts as 0 (code that adds a small constant to the union)',
    'absent_one': 'it counts as 1 (libraries with zero_division=1)',
    'truth_only': 'left out, and so is a class without truth pixels that was predicted somewhere',
}
"""How a class whose score is 0 / 0 enters the means: for IoU and Dice one that is neither true nor predicted
anywhere, for accuracy one that is never true. One matrix has four mIoUs, so always print which."""


def check_policy(policy: str) -> None:
    """Raises InputError unless `policy` is a key of POLICIES."""
    if policy not in POLICIES:
        raise unknown_name('config.evaluate.policy', policy, POLICIES)


def _matrix_per_image(prediction: Array, label: Array, num_classes: int) -> Array:
    """[B, C+1, C+1] int32: the confusion matrix of every image; see `confusion` for rows and columns."""
    batch, side = label.shape[0], num_classes + 1
    label, prediction = label.astype(jnp.int32), prediction.astype(jnp.int32)
    counted = (label != IGNORE).astype(jnp.int32)
    row = jnp.where((label >= 0) & (label < num_classes), label, num_classes)
    column = jnp.where((prediction >= 0) & (prediction < num_classes), prediction, num_classes)
    image = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    cell = (image * side + row) * side + column
    # Adding integers is exact and the same in any order, so a scatter is deterministic here. Products of
    # one-hot matrices took 3 to 7 times as long on a CPU (C=19, 2x1024x2048: 37-80 ms against 11 ms).
    counts = jnp.zeros(batch * side * side, jnp.int32)
    counts = counts.at[cell.ravel()].add(counted.ravel(), mode='promise_in_bounds')
    return counts.reshape(batch, side, side)


def confusion(prediction: Array, label: Array, num_classes: int, weight: Array) -> Mean:
    """Counts pixels by true and predicted class.

    Args:
      prediction: [B, H, W] integers. A value outside 0 .. C-1 predicts nothing: wrong wherever it stands.
      label: [B, H, W] integer train ids; 255 is not counted.
      num_classes: C.
      weight: [B]; examples of weight 0 (padding) are not counted, any other weight counts once.

    Returns:
      Mean(matrix, 1), matrix [C+1, C+1] int32, whose `sum` is read: rows are truth, columns predictions.
      Column C holds predictions of nothing. Row C holds labels that are neither 0 .. C-1 nor 255: `scores`
      refuses a matrix where it is not empty. One call may count fewer than 2**31 pixels over all devices.
    """
    per_image = _matrix_per_image(prediction, label, num_classes)
    matrix = jnp.where((weight > 0)[:, None, None], per_image, 0).sum(0)
    return Mean(matrix, jnp.ones((), jnp.int32))


def image_iou(prediction: Array, label: Array, num_classes: int, weight: Array) -> Array:
    """Mean IoU of each image over the classes among its truth or predicted pixels; float32 [B].

    It ranks images (best and worst in the report); the mean over images is not the data set's mIoU. Arguments
    as in `confusion`. NaN for an image without a labelled pixel, with a label out of range, or of weight 0.
    """
    matrix = _matrix_per_image(prediction, label, num_classes)
    out_of_range = matrix[:, num_classes].sum(-1) > 0
    matrix = matrix[:, :num_classes].astype(jnp.float32)
    hit = jnp.diagonal(matrix, axis1=1, axis2=2)
    union = matrix.sum(2) + matrix[:, :, :num_classes].sum(1) - hit
    iou = jnp.where(union > 0, hit / jnp.maximum(union, 1), 0.0)
    mean = iou.sum(1) / (union > 0).sum(1)
    return jnp.where((weight > 0) & ~out_of_range, mean, jnp.nan)


def per_example(values: Array, index: Array, weight: Array, num_examples: int) -> Mean:
    """Places one value per example in a vector over the whole split, so that values survive summation.

    Args:
      values: [B] one number per example; may be NaN.
      index: [B] position of the example in its split. One outside 0 .. num_examples-1 makes all values NaN.
      weight: [B]; examples of weight 0 are not placed, whatever their value and index.
      num_examples: N, size of the split.

    Returns:
      Mean of [N] float32 vectors: value() is the value of each example, NaN for those never seen.
    """
    placed = (index[:, None] == jnp.arange(num_examples)) & (weight > 0)[:, None]
    lost = ((weight > 0) & ((index < 0) | (index >= num_examples))).any()
    total = jnp.where(placed, values[:, None].astype(jnp.float32), 0.0).sum(0)
    return Mean(jnp.where(lost, jnp.nan, total), placed.astype(jnp.float32).sum(0))


def _checked(matrix: np.ndarray, num_classes: int) -> np.ndarray:
    """float64 [C, C+1] from [C, C], [C, C+1] or [C+1, C+1]; refuses other shapes and labels out of range."""
    matrix = np.asarray(matrix, np.float64)
    c = num_classes
    if matrix.shape not in ((c, c), (c, c + 1), (c + 1, c + 1)):
        raise InputError(
            'confusion matrix',
            got=f'shape {matrix.shape}',
            expected=f'({c}, {c}), ({c}, {c + 1}) or ({c + 1}, {c + 1}) for {c} classes',
        )
    if matrix.shape[0] == c + 1 and matrix[c].any():
        raise InputError(
            'labels of the evaluation split',
            got=f'{int(matrix[c].sum())} pixels whose label is neither a class nor {IGNORE}',
            expected=f'train ids 0 .. {c - 1}, or {IGNORE} for what is ignored',
            fix='run --mode doctor on the data set, which names the files',
        )
    return np.pad(matrix[:c], ((0, 0), (0, c + 1 - matrix.shape[1])))


def _ratio(numerator: np.ndarray, denominator: np.ndarray, if_absent: float) -> np.ndarray:
    return np.where(
        denominator > 0, numerator / np.where(denominator > 0, denominator, 1), if_absent
    )


def _mean(values: np.ndarray) -> float | None:
    """Mean of what is not NaN; None if nothing is left."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def scores(matrix: np.ndarray, class_names: Sequence[str], policy: str) -> dict[str, Any]:
    """Every score of a summed confusion matrix (host side, float64).

    With, for class c, hit_c = M_cc, truth_c = sum of row c (predictions of nothing included: they are
    misses), pred_c = sum of column c over truth that is not ignored, union_c = truth_c + pred_c - hit_c:

    IoU             hit / union, by class         mIoU            its mean
    accuracy        hit / truth, by class         class_accuracy  its mean (mAcc)
    Dice            2 hit / (truth + pred)        mDice           its mean (macro F-score)
    pixel_accuracy  sum hit / sum truth (aAcc)    fwIoU           sum truth_c IoU_c / sum truth

    The policy says what becomes of a 0 / 0 in the scores by class (see POLICIES); those with a proper
    denominator are the same under all policies, but for 'truth_only', which leaves out every class without
    truth pixels.

    Args:
      matrix: [C+1, C+1] as `confusion` counts it, or [C, C], or [C, C+1]; rows truth.
      class_names: C names.
      policy: a key of POLICIES.

    Returns:
      The scores above and 'policy'. Numbers are Python floats in [0, 1], or None where nothing could be
      averaged.

    Raises:
      InputError: unknown policy, names that repeat, wrong shape, pixels with a label out of range.
    """
    check_policy(policy)
    if len(set(class_names)) < len(class_names):
        repeated = sorted({name for name in class_names if list(class_names).count(name) > 1})
        raise InputError(
            'class names', got=f'{repeated} more than once', expected='a name of its own per class'
        )
    matrix = _checked(matrix, len(class_names))
    hit = np.diagonal(matrix)
    truth, predicted = matrix.sum(1), matrix[:, : len(class_names)].sum(0)

    if_absent = {'absent_zero': 0.0, 'absent_one': 1.0}.get(policy, np.nan)
    iou = _ratio(hit, truth + predicted - hit, if_absent)
    accuracy = _ratio(hit, truth, if_absent)
    dice = _ratio(2 * hit, truth + predicted, if_absent)
    if policy == 'truth_only':
        iou, dice = (np.where(truth > 0, x, np.nan) for x in (iou, dice))

    total = truth.sum()
    present = truth > 0  # of these the IoU is a number under every policy

    def by_class(values):
        return {name: None if np.isnan(v) else float(v) for name, v in zip(class_names, values)}

    return {
        'mIoU': _mean(iou),
        'pixel_accuracy': float(hit.sum() / total) if total > 0 else None,
        'class_accuracy': _mean(accuracy),
        'fwIoU': float((truth[present] * iou[present]).sum() / total) if total > 0 else None,
        'mDice': _mean(dice),
        'IoU': by_class(iou),
        'accuracy': by_class(accuracy),
        'Dice': by_class(dice),
        'policy': policy,
    }


def _normalised(prior: Sequence[float]) -> np.ndarray:
    prior = np.asarray(prior, np.float64)
    if prior.min() < 0 or prior.sum() <= 0:
        raise InputError(
            'class prior',
            got=str(prior.tolist()),
            expected='counts or shares >= 0 that are not all 0',
        )
    return prior / prior.sum()


def commonest_class(matrix: np.ndarray, prior: Sequence[float]) -> np.ndarray:
    """The confusion matrix, on the same truth, of a predictor that says the commonest class of `prior`.

    Args:
      matrix: the confusion matrix of any predictor, as in `scores`; only its row sums matter.
      prior: [C] pixel counts (or shares) of the classes in the training split.

    Returns:
      [C, C] float64; feed it to `scores` for the mIoU that no model should stay below.
    """
    share = _normalised(prior)
    matrix = _checked(matrix, len(share))
    return np.outer(matrix.sum(1), np.arange(len(share)) == share.argmax()).astype(np.float64)


def class_prior(matrix: np.ndarray, prior: Sequence[float]) -> np.ndarray:
    """The expected confusion matrix of a predictor that draws every pixel's class from `prior`.

    Arguments and result as in `commonest_class`.
    """
    share = _normalised(prior)
    return np.outer(_checked(matrix, len(share)).sum(1), share)
