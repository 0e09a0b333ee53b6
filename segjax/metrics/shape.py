"""Scores of an inpainted box, and the transformations that test such scores.

He, Xiao, Zhang, Lei, Wang, Lu: Reducing Noise Pixels and Metric Bias in Semantic Inpainting on
Segmentation Map, sections 4.1 and 4.4. A generator fills the box of a label map with an object of a
target class. All scores read pixels inside the box alone.

    tIOU  intersection over union of the target class
    hamm  share of pixels with the true class. The paper calls it a distance, but more is better
    NN    number of noise pixels, whose class does not belong into the box

Boxes are masks [B, H, W] bool, True inside. A transformation degrades the true object, and a good
score falls with its level (Fig. 6).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from segjax.core import means
from segjax.errors import InputError, unknown_name
from segjax.ops.denoise_activation import noise_filter
from segjax.ops.pool import max_pool
from segjax.protocol import Array, Metrics, PRNGKey
from segjax.spec import IGNORE

NOISE_REFERENCES = ('gt_in_mask', 'crop', 'filter')
"""Names the classes that are no noise, see `noise_number`."""


def target_iou(prediction: Array, truth: Array, target: Array, mask: Array) -> Array:
    """Computes the intersection over union of the target class inside each box (tIOU).

    Ignored pixels of the truth (255) do not count.

    Args:
      prediction: [B, H, W] integer train ids.
      truth: [B, H, W] integer train ids.
      target: [B] integer class of the object.
      mask: [B, H, W] bool, the box.

    Returns:
      [B] float32. NaN where neither map has the target class inside the box.
    """
    counted = mask & (truth != IGNORE)
    of_target = target[:, None, None]
    predicted = (prediction == of_target) & counted
    true = (truth == of_target) & counted
    return _share(predicted & true, predicted | true)


def hamming(prediction: Array, truth: Array, mask: Array) -> Array:
    """Computes the share of pixels inside each box that have the true class (hamm).

    Ignored pixels of the truth (255) do not count.

    Args:
      prediction: [B, H, W] integer train ids.
      truth: [B, H, W] integer train ids.
      mask: [B, H, W] bool, the box.

    Returns:
      [B] float32. NaN where no pixel counts.
    """
    counted = mask & (truth != IGNORE)
    return _share((prediction == truth) & counted, counted)


def noise_number(
    prediction: Array,
    truth: Array,
    target: Array,
    mask: Array,
    *,
    num_classes: int,
    reference: str = 'gt_in_mask',
) -> Array:
    """Counts the noise pixels inside each box (NN).

    A pixel is noise if its predicted class is not among the reference classes:

        gt_in_mask  classes of the truth inside the box
        crop        classes of the truth in the whole map
        filter      classes on the ring around the box and the target class, as in
                    `ops.denoise_activation.noise_filter`

    The paper gives no formula. With 'filter' the filtered test of Denoise Activation would have no
    noise at all, but the paper reports noise there.

    Args:
      prediction: [B, H, W] integer train ids. Ids outside 0 .. k-1 are noise.
      truth: [B, H, W] integer train ids. Ignored pixels (255) add no class.
      target: [B] integer class of the object.
      mask: [B, H, W] bool, the box.
      num_classes: k.
      reference: a name of NOISE_REFERENCES.

    Returns:
      [B] float32.
    """
    noise = noise_pixels(
        prediction, truth, target, mask, num_classes=num_classes, reference=reference
    )
    return noise.sum((1, 2)).astype(jnp.float32)


def noise_pixels(
    prediction: Array,
    truth: Array,
    target: Array,
    mask: Array,
    *,
    num_classes: int,
    reference: str = 'gt_in_mask',
) -> Array:
    """Marks the pixels that `noise_number` counts, with its arguments: [B, H, W] bool."""
    match reference:
        case 'gt_in_mask':
            present = _classes(truth, mask, num_classes)
        case 'crop':
            present = _classes(truth, jnp.ones_like(mask), num_classes)
        case 'filter':
            present = noise_filter(truth, mask, target, num_classes)
        case _:
            raise unknown_name('reference of the noise number', reference, NOISE_REFERENCES)
    is_class = prediction[..., None] == jnp.arange(num_classes)
    expected = (is_class & present[:, None, None]).any(-1)
    return mask & ~expected


def box_values(
    prediction: Array,
    truth: Array,
    target: Array,
    mask: Array,
    *,
    num_classes: int,
    reference: str = 'gt_in_mask',
) -> dict[str, Array]:
    """Computes tIOU, hamm and NN of each box.

    Args:
      prediction: [B, H, W] integer train ids, the completed maps.
      truth: [B, H, W] integer train ids.
      target: [B] integer class of the object.
      mask: [B, H, W] bool, the box.
      num_classes: k.
      reference: a name of NOISE_REFERENCES.

    Returns:
      {'tIOU', 'hamm', 'NN': [B] float32}. NaN where a box has no such score, see the functions
      above.
    """
    number = noise_number(
        prediction, truth, target, mask, num_classes=num_classes, reference=reference
    )
    return {
        'tIOU': target_iou(prediction, truth, target, mask),
        'hamm': hamming(prediction, truth, mask),
        'NN': number,
    }


def box_scores(
    prediction: Array, truth: Array, target: Array, mask: Array, weight: Array, **options: Any
) -> Metrics:
    """Computes the means of `box_values` over examples.

    An example without a score does not count for this score.

    Args:
      prediction, truth, target, mask: as in `box_values`.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      **options: further arguments of `box_values`.

    Returns:
      {'tIOU', 'hamm', 'NN': Mean of float32 scalars}.
    """
    values = box_values(prediction, truth, target, mask, **options)
    return {name: means.mean_of_examples(value, weight) for name, value in values.items()}


def _share(part: Array, whole: Array) -> Array:
    """Returns the quotient of the numbers of True pixels of each example, NaN for 0 / 0."""
    numerator = jnp.sum(part, (1, 2))
    denominator = jnp.sum(whole, (1, 2))
    return numerator.astype(jnp.float32) / denominator


def _classes(label: Array, mask: Array, num_classes: int) -> Array:
    """Returns [B, k] bool, the classes that occur where the mask is True."""
    is_class = label[..., None] == jnp.arange(num_classes)
    return (is_class & mask[..., None]).any((1, 2))


# --- transformations ------------------------------------------------------------------------------


class Transformation(NamedTuple):
    """A way to degrade an object inside its box.

    levels  settings of the levels 1, 2, 3. Level 0 is the object itself
    apply   (objects, mask, setting, keys, noise form) -> objects
    """

    levels: tuple
    apply: Callable


NOISE_FORMS = ('add', 'replace')
"""Names the uses of Gaussian noise: added to the object, or in its place."""


def transformed(
    name: str,
    level: int,
    objects: Array,
    mask: Array,
    keys: PRNGKey,
    *,
    noise_form: str = 'add',
    clip: bool = False,
) -> Array:
    """Degrades binary objects inside their boxes (Fig. 6).

        noise_frequency  N(0.5, 0.5^2) at a share 0.125, 0.25, 0.5 of the pixels
        noise_mean       N(m, 0.25^2) at a share 0.125 of the pixels, m = 0.25, 0.5, 0.75
        erosion          minimum over 3x3, 5x5, 7x7 pixels of the box
        dilation         maximum over 3x3, 5x5, 7x7 pixels of the box
        flip             left and right change places, for a share 0.25, 0.5, 0.75 of the examples
        rotation         by 45, 90, 135 degrees about the centre of the box, counter-clockwise

    Noise leaves binary values. The paper does not say whether noise is added, and whether the
    result is clipped. Pixels of a turned object that leave the box are lost. The nearest pixel is
    read, and pixels from outside the box are 0.

    Args:
      name: a name of TRANSFORMATIONS.
      level: 0, 1, 2 or 3. Level 0 changes nothing.
      objects: [B, H, W] bool or floating point, 1 on the object.
      mask: [B, H, W] bool, the box, a filled rectangle.
      keys: [B] keys, a key per example. The result of an example depends neither on its place in
        the batch nor on the batch size.
      noise_form: a name of NOISE_FORMS.
      clip: whether noisy values are clipped to [0, 1].

    Returns:
      [B, H, W] float32, 0 outside the boxes.

    Raises:
      InputError: unknown name, form or level.
    """
    if name not in TRANSFORMATIONS:
        raise unknown_name('transformation', name, TRANSFORMATIONS)
    if noise_form not in NOISE_FORMS:
        raise unknown_name('noise_form', noise_form, NOISE_FORMS)
    transformation = TRANSFORMATIONS[name]
    if level not in range(len(transformation.levels) + 1):
        raise InputError(
            f'transformation {name!r}: level',
            got=repr(level),
            expected=f'a whole number from 0 to {len(transformation.levels)}',
        )
    objects = jnp.where(mask, objects, 0).astype(jnp.float32)
    if level == 0:
        return objects
    setting = transformation.levels[level - 1]
    result = transformation.apply(objects, mask, setting, keys, noise_form)
    if clip:
        result = jnp.clip(result, 0, 1)
    return jnp.where(mask, result, 0)


def _noisy(objects, mask, setting, keys, noise_form):
    """Adds noise N(mean, std^2) to a share of the pixels. setting: (mean, std, share)."""
    mean, std, frequency = setting
    shape = objects.shape[1:]

    def noise_of(key):
        choice_key, value_key = jax.random.split(key)
        touched = jax.random.bernoulli(choice_key, frequency, shape)
        return touched, mean + std * jax.random.normal(value_key, shape)

    touched, noise = jax.vmap(noise_of)(keys)
    changed = objects + noise if noise_form == 'add' else noise
    return jnp.where(touched, changed, objects)


def _eroded(objects, mask, side, keys, noise_form):
    """Takes the minimum over side x side pixels. Pixels outside the box never win."""
    return -_dilated(-objects, mask, side, keys, noise_form)


def _dilated(objects, mask, side, keys, noise_form):
    """Takes the maximum over side x side pixels. Pixels outside the box never win."""
    inside = jnp.where(mask, objects, -jnp.inf)
    return max_pool(inside[..., None], side, 1, padding=side // 2)[..., 0]


def _flipped(objects, mask, frequency, keys, noise_form):
    """Mirrors a share of the examples about the vertical axis of the box."""
    flips = jax.vmap(lambda key: jax.random.bernoulli(key, frequency))(keys)
    rows, columns, _, center_column = _grid(mask)
    mirrored = jnp.round(2 * center_column - columns).astype(jnp.int32)
    return jnp.where(flips[:, None, None], _pixels(objects, rows, mirrored), objects)


def _rotated(objects, mask, degrees, keys, noise_form):
    """Turns every object counter-clockwise about the centre of its box, to the nearest pixel."""
    rows, columns, center_row, center_column = _grid(mask)
    # Rounding makes the cosine of 90 degrees 0, not 6e-17.
    cosine = round(math.cos(math.radians(degrees)), 12)
    sine = round(math.sin(math.radians(degrees)), 12)

    # Each pixel reads from the place that the turn brings to it. Rows count downwards.
    down = rows - center_row
    right = columns - center_column
    source_rows = center_row + cosine * down + sine * right
    source_columns = center_column - sine * down + cosine * right
    nearest_rows = jnp.floor(source_rows + 0.5).astype(jnp.int32)
    nearest_columns = jnp.floor(source_columns + 0.5).astype(jnp.int32)
    return _pixels(objects, nearest_rows, nearest_columns)


def _grid(mask):
    """Returns rows [H, 1] and columns [W] of pixels, and the centre (row, column) of each box."""
    height, width = mask.shape[1:]
    rows = jnp.arange(height)
    columns = jnp.arange(width)
    center_row = _middle(mask.any(2), rows)
    center_column = _middle(mask.any(1), columns)
    return rows[:, None], columns, center_row, center_column


def _middle(occupied, positions):
    """Returns the middle between the first and the last occupied position, [B, 1, 1] float32."""
    first = jnp.where(occupied, positions, len(positions)).min(1)
    last = jnp.where(occupied, positions, -1).max(1)
    return ((first + last) / 2)[:, None, None]


def _pixels(objects, rows, columns):
    """Returns the objects at rows and columns, 0 outside the image."""
    batch, height, width = objects.shape
    rows = jnp.broadcast_to(rows, objects.shape)
    columns = jnp.broadcast_to(columns, objects.shape)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)
    flat = objects.reshape(batch, -1)
    values = jnp.take_along_axis(flat, index.reshape(batch, -1), 1)
    return jnp.where(inside, values.reshape(objects.shape), 0)


TRANSFORMATIONS = {
    'noise_frequency': Transformation(
        ((0.5, 0.5, 0.125), (0.5, 0.5, 0.25), (0.5, 0.5, 0.5)), _noisy
    ),
    'noise_mean': Transformation(
        ((0.25, 0.25, 0.125), (0.5, 0.25, 0.125), (0.75, 0.25, 0.125)), _noisy
    ),
    'erosion': Transformation((3, 5, 7), _eroded),
    'dilation': Transformation((3, 5, 7), _dilated),
    'flip': Transformation((0.25, 0.5, 0.75), _flipped),
    'rotation': Transformation((45, 90, 135), _rotated),
}
"""The transformations of Fig. 6 (a) to (f), by name."""
