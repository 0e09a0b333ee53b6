"""Evaluation of label maps whose box was completed: scores, intervals, baselines and pictures.

The pipeline completes the maps of a batch. `make_evaluation` scores them inside the boxes
(metrics/shape.py, metrics/sem.py) and builds the functions of a `Stage`. Each box is an example:
batch['index'] = rows * image + row, see `Input.each`.

Three baselines see no context:

  fill            the target class in the whole box
  mean_shape      where the average training shape of the class is above 1/2
  training_shape  the shape of the last training object of the class

Shapes are stretched to the box. Around them the box has the commonest class of its ring.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from segjax.core import parallel
from segjax.metrics import confusion, intervals, shape
from segjax.metrics import sem as sem_lib
from segjax.ops.denoise_activation import boundary
from segjax.protocol import (
    Array,
    Batch,
    Keys,
    LabelMaps,
    Mean,
    Metrics,
    Picture,
    Scores,
    TrainState,
)
from segjax.spec import IGNORE, DataSpec
from segjax.tasks import segmentation
from segjax.tasks.evaluation import Evaluation, Pictures

SCORES = ('tIOU', 'hamm', 'NN', 'Sem')
"""Names of the scores of a box, in the order of the paper's tables."""
GAINS = ('tIOU', 'hamm')
"""Names of the scores whose differences to the baselines are shown."""

SHAPES_SEEN = 'shapes_seen'
"""Key of the training shapes in `TrainState.extra`."""
SHAPE_SIDE = 32
"""Height and width of a training shape."""

BOX_COLOR = (0, 220, 220)
"""RGB of the outlines of boxes: no class of Cityscapes has a similar colour."""
NOISE_COLOR = (255, 120, 0)
"""RGB of noise pixels in the picture 'errors'."""
LEGEND = {
    **segmentation.LEGEND,
    'box': BOX_COLOR,
    'wrong pixel': segmentation.ERROR_COLOR,
    'noise pixel': NOISE_COLOR,
}
"""Colours of the pictures that belong to no class."""


# --- training shapes ------------------------------------------------------------------------------


def no_shapes(num_classes: int) -> dict[str, Array]:
    """Returns the memory of training shapes before the first step.

    Args:
      num_classes: k.

    Returns:
      'total' [k, s, s] sum of shapes, 'count' [k] number of shapes, and 'last' [k, s, s] the last
      shape of each class, with s = SHAPE_SIDE.
    """
    shapes = jnp.zeros((num_classes, SHAPE_SIDE, SHAPE_SIDE))
    return {'total': shapes, 'count': jnp.zeros(num_classes), 'last': shapes}


def with_shapes(seen: Mapping[str, Array], batch: Batch) -> dict[str, Array]:
    """Returns the memory of training shapes with the objects of a batch, on all devices.

    Args:
      seen: the memory.
      batch: 'mask_object', 'mask_box' and 'class_id' of this device.
    """
    num_classes = len(seen['count'])
    box = batch['mask_box'] > 0
    shapes = stretched(batch['mask_object'] > 0, box, SHAPE_SIDE)
    shapes = parallel.all_rows(shapes.astype(jnp.float32))
    # A box without a pixel has no shape.
    class_id = jnp.where(box.any((1, 2)), batch['class_id'], num_classes)
    class_id = parallel.all_rows(class_id)

    # The row of the last object of each class, -1 without an object.
    is_class = class_id[:, None] == jnp.arange(num_classes)  # [B, k]
    places = jnp.where(is_class, jnp.arange(len(class_id))[:, None], -1).max(0)
    is_new = (places >= 0)[:, None, None]
    return {
        'total': seen['total'] + jnp.einsum('bk,bij->kij', is_class.astype(jnp.float32), shapes),
        'count': seen['count'] + is_class.sum(0),
        'last': jnp.where(is_new, shapes[places], seen['last']),
    }


def stretched(shapes: Array, box: Array, side: int) -> Array:
    """Returns shapes [B, H, W] inside their boxes, stretched to [B, side, side].

    The nearest pixel is read.

    Args:
      shapes: [B, H, W].
      box: [B, H, W] bool, filled rectangles.
      side: height and width of the result.
    """
    steps = (jnp.arange(side) + 0.5) / side

    def sources(occupied):
        first, length = _extent(occupied)
        return jnp.floor(first + steps * length).astype(jnp.int32)  # [B, side]

    rows = sources(box.any(2))[:, :, None]
    columns = sources(box.any(1))[:, None]
    batch = jnp.arange(len(shapes))[:, None, None]
    return shapes[batch, rows, columns]


def pasted(shapes: Array, box: Array) -> Array:
    """Returns shapes [B, s, s] stretched to their boxes, 0 outside: [B, H, W].

    The nearest pixel is read.

    Args:
      shapes: [B, s, s].
      box: [B, H, W] bool, filled rectangles.
    """
    side = shapes.shape[1]

    def sources(occupied):
        first, length = _extent(occupied)
        place = (jnp.arange(occupied.shape[1]) + 0.5 - first) / length
        return jnp.clip(jnp.floor(place * side), 0, side - 1).astype(jnp.int32)

    rows = sources(box.any(2))[:, :, None]
    columns = sources(box.any(1))[:, None]
    batch = jnp.arange(len(shapes))[:, None, None]
    return jnp.where(box, shapes[batch, rows, columns], 0)


def _extent(occupied: Array) -> tuple[Array, Array]:
    """Returns first position and length [B, 1] of the range of True values in [B, N]."""
    positions = jnp.arange(occupied.shape[1])
    first = jnp.where(occupied, positions, occupied.shape[1]).min(1)
    last = jnp.where(occupied, positions, -1).max(1)
    return first[:, None], jnp.maximum(last - first + 1, 1)[:, None]


def commonest_around(label: Array, box: Array, num_classes: int) -> Array:
    """Returns the commonest class on the ring around each box, [B]."""
    ring = boundary(box)[..., None]
    is_class = label[..., None] == jnp.arange(num_classes)
    return (is_class & ring).sum((1, 2)).argmax(-1)


def baselines(seen: Mapping[str, Array], boxes: 'Boxes', num_classes: int) -> dict[str, Array]:
    """Returns the completed maps [B, H, W] of three predictors that see no context.

    Args:
      seen: the memory of training shapes.
      boxes: see `Boxes`.
      num_classes: k.
    """
    target = boxes.target
    mean_shapes = seen['total'] / jnp.maximum(seen['count'], 1)[:, None, None]
    around = commonest_around(boxes.truth, boxes.mask, num_classes)[:, None, None]

    def complete(shapes: Array) -> Array:
        is_object = pasted(shapes[target], boxes.mask) > 0.5
        inside = jnp.where(is_object, target[:, None, None], around)
        return jnp.where(boxes.mask, inside, boxes.truth)

    return {
        'fill': jnp.where(boxes.mask, target[:, None, None], boxes.truth),
        'mean_shape': complete(mean_shapes),
        'training_shape': complete(seen['last']),
    }


# --- evaluation -----------------------------------------------------------------------------------


class Boxes(NamedTuple):
    """The true maps of a batch and their boxes.

    truth   [B, H, W] train ids
    target  [B] class of each object
    mask    [B, H, W] bool, the box
    """

    truth: Array
    target: Array
    mask: Array


class Judge(NamedTuple):
    """The facts that all functions of the evaluation share.

    spec         of the data set
    num_classes  k, with void if it is a class
    complete     (state, batch) -> (completed maps [B, H, W], {name: [B] further scores})
    truth        batch -> `Boxes`
    num_boxes    places of boxes in the split: rows of the table * images
    rows         of the table of an image
    reference    a name of shape.NOISE_REFERENCES
    classify     (state, planes) -> logits of the shape classifier. None: no Sem
    pictures     (state, batch, completed maps) -> further pictures
    """

    spec: DataSpec
    num_classes: int
    complete: Callable[[TrainState, Batch], tuple[Array, Mapping[str, Array]]]
    truth: Callable[[Batch], Boxes]
    num_boxes: int
    rows: int
    reference: str
    classify: Callable[[TrainState, Array], Array] | None = None
    pictures: Callable[[TrainState, Batch, Array], Pictures] = lambda state, batch, completed: {}


def make_evaluation(judge: Judge) -> Evaluation:
    """Builds the evaluation of a `Stage` that completes boxes.

    Checkpoints are ranked by tIOU, and pictures, too.
    """
    return Evaluation(
        eval_step=functools.partial(eval_step, judge),
        finalize=functools.partial(finalize, judge),
        render=functools.partial(render, judge),
        label_maps=functools.partial(label_maps, judge),
        monitor=('tIOU', 'max'),
    )


def box_values(judge: Judge, state: TrainState, completed: Array, boxes: Boxes) -> dict[str, Array]:
    """Returns the scores [B] of each box. Names are in SCORES.

    Args:
      judge: of the evaluation.
      state: holds the shape classifier.
      completed: [B, H, W] train ids.
      boxes: see `Boxes`.
    """
    truth, target, mask = boxes
    values = shape.box_values(
        completed, *boxes, num_classes=judge.num_classes, reference=judge.reference
    )
    if judge.classify is not None:
        classify = functools.partial(judge.classify, state)
        object_map = sem_lib.object_map(completed, target, mask)
        true_map = sem_lib.object_map(truth, target, mask)
        values['Sem'] = sem_lib.sem(classify, object_map, true_map, mask)
    return values


def eval_step(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Places the scores of each box, of the net and of the baselines, in vectors over the split."""
    boxes = judge.truth(batch)
    of_net, further = judge.complete(state, batch)
    completed = {'net': of_net}
    if SHAPES_SEEN in state.extra:
        completed |= baselines(state.extra[SHAPES_SEEN], boxes, judge.num_classes)

    values = {'box/class': boxes.target.astype(jnp.float32)}
    for name, maps in completed.items():
        for score, value in box_values(judge, state, maps, boxes).items():
            values[f'{name}/{score}'] = value
    for name, value in further.items():
        values[f'more/{name}'] = value
    values['image_score'] = values['net/tIOU']

    # A cut may skip all pixels of a narrow box. Such a box has no score.
    is_seen = boxes.mask.any((1, 2))
    place = functools.partial(
        confusion.per_example,
        index=batch['index'],
        weight=batch['weight'] * is_seen,
        num_examples=judge.num_boxes,
    )
    return {name: place(value) for name, value in values.items()}


def finalize(judge: Judge, metrics: Mapping[str, Mean]) -> Scores:
    """Turns the values of all boxes into scores.

    tIOU, hamm, NN, Sem   means over the boxes
    boxes                 number of boxes
    noisy_boxes           share of the boxes with a noise pixel
    intervals             mean and 95 % interval of each score, images resampled
    gains                 mean and 95 % interval of the differences to each baseline, box by box
    per_class             scores and number of boxes of each class
    baseline_...          scores of the predictors that see no context
    """
    # The values of the boxes that exist, by predictor and score.
    values = _values_of_boxes(metrics)
    image = np.flatnonzero(values.pop('placed')) // judge.rows
    classes = values.pop('box/class').astype(int)
    by_predictor: dict[str, dict[str, np.ndarray]] = {}
    for name, vector in values.items():
        predictor, _, score = name.partition('/')
        if score:
            by_predictor.setdefault(predictor, {})[score] = vector
    # A jitted step sorts by name. Tables begin with the score that ranks.
    unordered = by_predictor.pop('net')
    of_net = {score: unordered[score] for score in SCORES if score in unordered}

    # Means over the boxes, and their intervals.
    scores: Scores = {score: _mean(vector) for score, vector in of_net.items()}
    scores |= {name: _mean(vector) for name, vector in by_predictor.pop('more', {}).items()}
    scores['noisy_boxes'] = _mean(of_net['NN'] > 0)
    scores['boxes'] = len(classes)
    scores['intervals'] = intervals.of_scores(of_net, image)

    # The same means for each class, and for the baselines.
    names = judge.spec.classes.names
    per_class = {}
    for train_id in np.unique(classes):
        chosen = classes == train_id
        row = {score: _mean(vector[chosen]) for score, vector in of_net.items()}
        per_class[names[train_id]] = {**row, 'boxes': int(chosen.sum())}
    scores['per_class'] = per_class
    gains = {}
    for predictor, vectors in by_predictor.items():
        for score in GAINS:
            baseline = predictor.replace('_', ' ')
            gains[f'{score} over {baseline}'] = of_net[score] - vectors[score]
        means = {score: _mean(vector) for score, vector in vectors.items()}
        scores[f'baseline_{predictor}'] = means
    if gains:
        scores['gains'] = intervals.of_scores(gains, image)
    return scores


def _values_of_boxes(metrics: Mapping[str, Mean]) -> dict[str, np.ndarray]:
    """Returns {name: [n] values of the n boxes that exist}, and 'placed' [places of boxes]."""
    placed = np.asarray(metrics['box/class'].count) > 0
    values = {name: np.asarray(mean.sum, np.float64)[placed] for name, mean in metrics.items()}
    return {**values, 'placed': placed}


def _mean(vector: np.ndarray) -> float | None:
    """Returns the mean of the values that are not NaN, None without such a value."""
    known = vector[~np.isnan(vector)] if vector.dtype != bool else vector
    return float(known.mean()) if len(known) else None


def label_maps(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> LabelMaps:
    """Returns completed and true maps. Only pixels inside the box count."""
    boxes = judge.truth(batch)
    truth = jnp.where(boxes.mask, boxes.truth, IGNORE)
    height, width = truth.shape[1:]
    size = jnp.broadcast_to(jnp.array([height, width]), (len(truth), 2))
    completed, _ = judge.complete(state, batch)
    return LabelMaps(completed, truth, size)


# --- pictures -------------------------------------------------------------------------------------


def render(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Pictures:
    """Paints the maps of Figs. 4 and 5, and the errors inside the box.

    Errors are red, and noise pixels are orange. All numbers of the box are in the caption.
    """
    # The maps.
    boxes = judge.truth(batch)
    completed, _ = judge.complete(state, batch)
    values = box_values(judge, state, completed, boxes)
    is_incomplete = boxes.mask & (boxes.target < judge.num_classes)[:, None, None]
    incomplete = jnp.where(is_incomplete, boxes.target[:, None, None], boxes.truth)

    # The errors.
    noise = shape.noise_pixels(
        completed,
        boxes.truth,
        boxes.target,
        boxes.mask,
        num_classes=judge.num_classes,
        reference=judge.reference,
    )
    wrong = boxes.mask & (completed != boxes.truth) & (boxes.truth != IGNORE)
    errors = jnp.where(wrong[..., None], jnp.array(segmentation.ERROR_COLOR, jnp.uint8), 235)
    errors = jnp.where(noise[..., None], jnp.array(NOISE_COLOR, jnp.uint8), errors)

    def paint(label: Array) -> Array:
        return with_box(segmentation.paint(label, judge.spec), boxes.mask)

    return {
        'prediction': Picture(paint(completed), values=values),
        'incomplete': Picture(paint(incomplete)),
        'truth': Picture(paint(boxes.truth)),
        'errors': Picture(with_box(errors.astype(jnp.uint8), boxes.mask), legend=LEGEND),
        **judge.pictures(state, batch, completed),
    }


def with_box(pixels: Array, mask: Array) -> Array:
    """Draws the ring of each box into pictures [B, H, W, 3] uint8."""
    ring = boundary(mask)[..., None]
    return jnp.where(ring, jnp.array(BOX_COLOR, jnp.uint8), pixels)
