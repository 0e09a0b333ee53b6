"""The confusion matrix behind every segmentation score, and named policies for absent classes.

On the device `confusion` counts pixels as exact integers. The driver adds matrices up over devices,
hosts and batches. On the host `scores` turns the sum into mIoU and its relatives.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from segjax.errors import InputError, unknown_name
from segjax.protocol import Array, Mean
from segjax.spec import IGNORE

POLICIES = {
    'cityscapes': 'means leave out a class whose score is 0 / 0 (cityscapesScripts)',
    'absent_zero': 'its score counts as 0 (code that adds a small constant to the union)',
    'absent_one': 'its score counts as 1 (libraries with zero_division=1)',
    'truth_only': 'means leave out every class without truth pixels, even if it was predicted',
}
"""How a class whose score is 0 / 0 enters the means.

For IoU and Dice such a class is neither true nor predicted anywhere. For accuracy it is never true.
The same matrix has four mIoUs, so always print the policy.
"""


def check_policy(policy: str) -> None:
    """Raises InputError unless `policy` is a key of POLICIES."""
    if policy not in POLICIES:
        raise unknown_name('config.evaluate.policy', policy, POLICIES)


# --- counting -------------------------------------------------------------------------------------


def _matrix_per_image(prediction: Array, label: Array, num_classes: int) -> Array:
    """Counts the confusion matrix of every image, [B, C+1, C+1] int32.

    Rows and columns are as in `confusion`.
    """
    batch = label.shape[0]
    side = num_classes + 1
    label = label.astype(jnp.int32)
    prediction = prediction.astype(jnp.int32)
    counted = (label != IGNORE).astype(jnp.int32)

    # The flat index of each pixel's cell. Index C collects values outside 0 .. C-1.
    row = jnp.where((label >= 0) & (label < num_classes), label, num_classes)
    column = jnp.where((prediction >= 0) & (prediction < num_classes), prediction, num_classes)
    image = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    cell = (image * side + row) * side + column  # [B, H, W]

    # Adding integers is exact in any order, so a scatter is deterministic here. On a CPU, products
    # of one-hot matrices took 3 to 7 times as long (C=19, 2x1024x2048: 37-80 ms against 11 ms).
    counts = jnp.zeros(batch * side * side, jnp.int32)
    counts = counts.at[cell.ravel()].add(counted.ravel(), mode='promise_in_bounds')
    return counts.reshape(batch, side, side)


def confusion(prediction: Array, label: Array, num_classes: int, weight: Array) -> Mean:
    """Counts pixels by true and predicted class.

    Args:
      prediction: [B, H, W] integers. A value outside 0 .. C-1 predicts nothing and is always wrong.
      label: [B, H, W] integer train ids. 255 is not counted.
      num_classes: C.
      weight: [B]. Examples of weight 0 (padding) are not counted. Any positive weight counts once.

    Returns:
      Mean(matrix, 1), whose `sum` is read. The matrix is [C+1, C+1] int32. Rows are truth, columns
      are predictions. Column C holds predictions of nothing. Row C holds labels that are neither
      0 .. C-1 nor 255, and `scores` refuses a matrix where it is not empty. A call may count fewer
      than 2**31 pixels over all devices.
    """
    per_image = _matrix_per_image(prediction, label, num_classes)
    counted = (weight > 0)[:, None, None]
    matrix = jnp.where(counted, per_image, 0).sum(0)
    return Mean(matrix, jnp.ones((), jnp.int32))


def image_iou(prediction: Array, label: Array, num_classes: int, weight: Array) -> Array:
    """Computes the mean IoU of each image over its true and predicted classes.

        mean_c (hit_c / union_c)     over the classes c with union_c > 0

    This IoU ranks images (best and worst in the report). The mean over images is not the mIoU of
    the data set. Ignored pixels count for nothing.

    Args:
      prediction: [B, H, W] integers, as in `confusion`.
      label: [B, H, W] integer train ids, 255 ignored.
      num_classes: C.
      weight: [B] weight of each example.

    Returns:
      [B] float32. NaN for an image without a labelled pixel, with a label out of range, or of
      weight 0.
    """
    matrix = _matrix_per_image(prediction, label, num_classes)
    out_of_range = matrix[:, num_classes].sum(-1) > 0
    matrix = matrix[:, :num_classes].astype(jnp.float32)  # [B, C, C+1]
    hit = jnp.diagonal(matrix, axis1=1, axis2=2)
    union = matrix.sum(2) + matrix[:, :, :num_classes].sum(1) - hit
    iou = jnp.where(union > 0, hit / jnp.maximum(union, 1), 0.0)
    mean = iou.sum(1) / (union > 0).sum(1)
    return jnp.where((weight > 0) & ~out_of_range, mean, jnp.nan)


def per_example(values: Array, index: Array, weight: Array, num_examples: int) -> Mean:
    """Places the value of each example in a vector over the whole split.

    The values of all examples survive the summation over batches.

    Args:
      values: [B] a number per example, may be NaN.
      index: [B] position of the example in its split. An index outside 0 .. num_examples-1 makes
        all values NaN.
      weight: [B]. Examples of weight 0 are not placed, whatever their value and index.
      num_examples: N, size of the split.

    Returns:
      Mean of [N] float32 vectors. value() is the value of each example, NaN for examples that were
      never placed.
    """
    placed = (index[:, None] == jnp.arange(num_examples)) & (weight > 0)[:, None]  # [B, N]
    lost = ((weight > 0) & ((index < 0) | (index >= num_examples))).any()
    total = jnp.where(placed, values[:, None].astype(jnp.float32), 0.0).sum(0)
    return Mean(jnp.where(lost, jnp.nan, total), placed.astype(jnp.float32).sum(0))


def merged(matrix: np.ndarray, train_ids: Sequence[int], num_classes: int) -> np.ndarray:
    """Returns the confusion matrix that merged truth and merged predictions would have.

    Sums of counts are exact, so the result is equal to counting after both maps were merged.

    Args:
      matrix: [C+1, C+1] as `confusion` counts it, or its sum.
      train_ids: [C] merged train id of each class (`ClassMap.train_ids`). Truth that becomes 255 is
        not counted. A prediction that becomes 255 predicts nothing.
      num_classes: number of merged classes K.

    Returns:
      [K+1, K+1] in the type of `matrix`, with rows and columns as in `confusion`.

    Raises:
      InputError: the matrix has another shape.
    """
    matrix = np.asarray(matrix)
    sides = (len(train_ids) + 1,) * 2
    if matrix.shape != sides:
        raise InputError('confusion matrix', got=f'shape {matrix.shape}', expected=f'{sides}')

    # The last row and column stay the last. Row K+1 collects truth that becomes void.
    rows = np.array([*train_ids, num_classes])
    columns = np.where(rows == IGNORE, num_classes, rows)
    rows = np.where(rows == IGNORE, num_classes + 1, rows)
    result = np.zeros((num_classes + 2, num_classes + 1), matrix.dtype)
    np.add.at(result, (rows[:, None], columns[None, :]), matrix)
    return result[: num_classes + 1]


# --- scores ---------------------------------------------------------------------------------------


def _checked(matrix: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns a matrix of shape [C, C], [C, C+1] or [C+1, C+1] as float64 [C, C+1].

    Raises:
      InputError: the shape differs, or row C counts labels out of range.
    """
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
            expected=f'train ids 0 .. {c - 1}, or {IGNORE} for ignored pixels',
            fix='run --mode doctor on the data set, which names the files',
        )
    return np.pad(matrix[:c], ((0, 0), (0, c + 1 - matrix.shape[1])))


def _ratio(numerator: np.ndarray, denominator: np.ndarray, if_absent: float) -> np.ndarray:
    """Divides where the denominator is positive, and returns `if_absent` elsewhere."""
    safe = np.where(denominator > 0, denominator, 1)
    return np.where(denominator > 0, numerator / safe, if_absent)


def _mean(values: np.ndarray) -> float | None:
    """Returns the mean of the values that are not NaN, or None if all are NaN."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def _by_class(class_names: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    """Returns {class name: value}, with None for NaN."""
    result: dict[str, float | None] = {}
    for name, value in zip(class_names, values):
        result[name] = None if np.isnan(value) else float(value)
    return result


def _check_names(class_names: Sequence[str]) -> None:
    """Raises InputError if a class name occurs twice."""
    if len(set(class_names)) < len(class_names):
        repeated = sorted({name for name in class_names if list(class_names).count(name) > 1})
        raise InputError(
            'class names',
            got=f'{repeated} more than once',
            expected='a different name for each class',
        )


def scores(matrix: np.ndarray, class_names: Sequence[str], policy: str) -> dict[str, Any]:
    """Computes every score of a summed confusion matrix, on the host in float64.

    For class c: hit_c = M_cc, truth_c = sum of row c, pred_c = sum of column c over truth that is
    not ignored, union_c = truth_c + pred_c - hit_c. Row c includes predictions of nothing, as
    misses.

    IoU             hit / union, by class         mIoU            its mean
    accuracy        hit / truth, by class         class_accuracy  its mean (mAcc)
    Dice            2 hit / (truth + pred)        mDice           its mean (macro F-score)
    pixel_accuracy  sum hit / sum truth (aAcc)    fwIoU           sum truth_c IoU_c / sum truth

    The policy decides how a 0 / 0 in the scores by class counts (see POLICIES). Scores with a
    positive denominator are the same under all policies. Only 'truth_only' leaves out every class
    without truth pixels.

    Args:
      matrix: [C+1, C+1] as `confusion` counts it, or [C, C], or [C, C+1]. Rows are truth.
      class_names: C names.
      policy: a key of POLICIES.

    Returns:
      The scores above and 'policy'. Numbers are Python floats in [0, 1], or None where no class
      could be averaged.

    Raises:
      InputError: unknown policy, repeated names, wrong shape, or pixels with a label out of range.
    """
    check_policy(policy)
    _check_names(class_names)
    matrix = _checked(matrix, len(class_names))
    hit = np.diagonal(matrix)
    truth = matrix.sum(1)
    predicted = matrix[:, : len(class_names)].sum(0)

    if_absent = {'absent_zero': 0.0, 'absent_one': 1.0}.get(policy, np.nan)
    iou = _ratio(hit, truth + predicted - hit, if_absent)
    accuracy = _ratio(hit, truth, if_absent)
    dice = _ratio(2 * hit, truth + predicted, if_absent)
    if policy == 'truth_only':
        iou = np.where(truth > 0, iou, np.nan)
        dice = np.where(truth > 0, dice, np.nan)

    total = truth.sum()
    present = truth > 0  # the IoU of these classes is a number under every policy
    return {
        'mIoU': _mean(iou),
        'pixel_accuracy': float(hit.sum() / total) if total > 0 else None,
        'class_accuracy': _mean(accuracy),
        'fwIoU': float((truth[present] * iou[present]).sum() / total) if total > 0 else None,
        'mDice': _mean(dice),
        'IoU': _by_class(class_names, iou),
        'accuracy': _by_class(class_names, accuracy),
        'Dice': _by_class(class_names, dice),
        'policy': policy,
    }


# --- baselines ------------------------------------------------------------------------------------


def _normalised(prior: Sequence[float]) -> np.ndarray:
    """Returns the prior [C] scaled to a sum of 1."""
    prior = np.asarray(prior, np.float64)
    if prior.min() < 0 or prior.sum() <= 0:
        raise InputError(
            'class prior',
            got=str(prior.tolist()),
            expected='counts or shares >= 0 that are not all 0',
        )
    return prior / prior.sum()


def commonest_class(matrix: np.ndarray, prior: Sequence[float]) -> np.ndarray:
    """Returns the confusion matrix of always predicting the commonest class of `prior`.

    Args:
      matrix: the confusion matrix of any predictor, as in `scores`. Only its row sums matter.
      prior: [C] pixel counts (or shares) of the classes in the training split.

    Returns:
      [C, C] float64, on the same truth. `scores` gives the mIoU that every model should reach.
    """
    share = _normalised(prior)
    matrix = _checked(matrix, len(share))
    truth = matrix.sum(1)
    is_commonest = np.arange(len(share)) == share.argmax()
    return np.outer(truth, is_commonest).astype(np.float64)


def class_prior(matrix: np.ndarray, prior: Sequence[float]) -> np.ndarray:
    """Returns the expected confusion matrix of predictions that are sampled from `prior`.

    Arguments and result are as in `commonest_class`.
    """
    share = _normalised(prior)
    truth = _checked(matrix, len(share)).sum(1)
    return np.outer(truth, share)
