"""Classification task: a net, its loss and its scores, for inputs that have a single class.

The input of the net is a feature of kind 'planes' or 'number', and the truth is a feature of kind
'number' and type 'int32' with a train id for each example. The pipeline makes a `Task`, and builds
the functions of its `Stage` from it. A class id of 255 is ignored: it counts nowhere.

    task = classification.make_task(config, names, planes='planes', truth='number_class')
    optimisers = classification.optimisers(config.optim)
    stage = Stage(
        init=classification.make_init(task, optimisers, num_steps),
        train_step=classification.make_train_step(task, optimisers, num_steps=.., accumulate=1),
        streams=('dropout',),
        **classification.make_evaluation(task, num_examples)._asdict(),
        ...
    )
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.core import rng
from segjax.errors import InputError
from segjax.losses import segmentation as losses
from segjax.metrics import classification as metrics
from segjax.metrics import confusion
from segjax.protocol import (
    Array,
    Batch,
    Keys,
    Mean,
    Metrics,
    Picture,
    PRNGKey,
    Scores,
    TrainState,
)
from segjax.schema import Field, between, positive_numbers
from segjax.spec import IGNORE
from segjax.tasks import segmentation, supervised
from segjax.tasks.evaluation import Evaluation, Pictures

NET = 'classifier'
"""Name of the net in the state."""

LOSS = {
    'label_smoothing': Field(
        0.0, 'Share of the target that is spread over all classes.', between(0, 1)
    ),
    'class_weights': Field(
        (),
        'Weights of the classes in the loss, in the order of their names. Empty: 1 for each. '
        'Weights against the frequency help where few examples have a class.',
        positive_numbers,
    ),
}
"""Keys of `config.loss`."""

TOP = 5
"""Guesses of the second accuracy. With fewer classes all of them are guesses, and it is 1."""

OUTSIDE, INSIDE, OBJECT = 30, 110, 255
"""Grey values of a painted shape: outside of the box, inside of the box, and the object."""
SHAPE_LEGEND = {
    'object': (OBJECT, OBJECT, OBJECT),
    'its box': (INSIDE, INSIDE, INSIDE),
    'outside of the box': (OUTSIDE, OUTSIDE, OUTSIDE),
}
"""Colours of a painted shape."""


class Task(NamedTuple):
    """A net and the examples that it classifies.

    net              from `segmentation.make_net`. Its logits are [B, K]
    names            names of the K classes, in the order of their train ids
    planes           key of its input in a batch
    truth            key of the train ids [B] in a batch
    label_smoothing  share of the target that is spread over all classes
    class_weights    of the K classes in the loss. Empty: 1 for each
    ema              decay of the averaged parameters that are evaluated. 0: no average
    """

    net: segmentation.Net
    names: tuple[str, ...]
    planes: str
    truth: str
    label_smoothing: float
    class_weights: tuple[float, ...]
    ema: float


def as_float(planes: Array) -> Array:
    """Returns planes as float32, unscaled: the usual preparation of binary planes."""
    return planes.astype(jnp.float32)


def make_task(
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    *,
    planes: str,
    truth: str,
    prepare: Callable[[Array], Array] = as_float,
    model: ml_collections.ConfigDict | None = None,
    loss: ml_collections.ConfigDict | None = None,
    where: str = 'loss',
) -> Task:
    """Builds the net of `config.model` and returns it with its examples.

    Args:
      config: of the run. Sections model (`models.net_choice('classifier', ...)`), loss (`LOSS`) and
        train are read.
      names: names of the classes, in the order of their train ids.
      planes: key of the input in a batch.
      truth: key of the train ids in a batch.
      prepare: maps the input to the input of the net.
      model: a section that replaces config.model.
      loss: a section that replaces config.loss.
      where: key of the section of the loss, for errors.

    Raises:
      InputError: no class, or so many that 255 would be a class, or another number of weights.
    """
    if not 0 < len(names) <= IGNORE:
        raise InputError(
            'classes of the classifier',
            got=f'{len(names)} classes',
            expected=f'1 to {IGNORE} classes, because the train id {IGNORE} is ignored',
        )
    section = config.model if model is None else model
    settings = config.loss if loss is None else loss
    net = segmentation.make_net(section, len(names), config.train.dtype, prepare, kind='classifier')
    weights = tuple(settings.class_weights)
    if weights and len(weights) != len(names):
        raise InputError(
            f'config.{where}.class_weights',
            got=f'{len(weights)} weights',
            expected=f'{len(names)} weights, for {", ".join(names)}',
            fix=f"--config.{where}.class_weights='()' gives all classes the weight 1",
        )
    smoothing = settings.label_smoothing
    return Task(net, tuple(names), planes, truth, smoothing, weights, ema=config.train.ema)


# --- training -------------------------------------------------------------------------------------


def make_init(task: Task, optimisers: supervised.Optimisers, num_steps: int) -> Callable:
    """Returns `Stage.init`: new parameters, statistics and optimiser of the classifier.

    Args:
      task: of the classifier.
      optimisers: from `optimisers`.
      num_steps: of the schedules.
    """

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        variables = {NET: task.net.init(rng.named(key, NET), batch[task.planes][:1])}
        return supervised.fresh_state(
            *supervised.fields_of(variables), optimisers, num_steps=num_steps, ema=task.ema
        )

    return init


def optimisers(section: ml_collections.ConfigDict, where: str = 'optim') -> supervised.Optimisers:
    """Returns the optimiser of the classifier.

    Args:
      section: with its settings.
      where: key of the section, for errors.
    """
    return {NET: supervised.Optimiser(section, (NET,), where)}


def make_loss(task: Task) -> Callable:
    """Returns (params, model_state, batch, keys) -> ({'main': cross-entropy}, model_state, {}).

    The stream 'dropout' of `keys` serves dropout and drop-connect. Label smoothing is that of
    `losses.pixel_cross_entropy`, and so is the mean over examples whose classes have weights.
    """
    class_weights = jnp.asarray(task.class_weights) if task.class_weights else None

    def terms(outputs: Mapping, batch: Batch) -> dict[str, Mean]:
        term = losses.cross_entropy(
            outputs['logits'],
            batch[task.truth],
            batch['weight'],
            class_weights=class_weights,
            label_smoothing=task.label_smoothing,
        )
        return {'main': term}

    return supervised.net_loss(task.net, terms, task.planes, NET)


def make_train_step(
    task: Task,
    optimisers: supervised.Optimisers,
    *,
    num_steps: int,
    accumulate: int,
    **options,
) -> Callable:
    """Returns `Stage.train_step` for one optimiser.

    Args:
      task: of the classifier.
      optimisers: from `optimisers`.
      num_steps: of the schedules.
      accumulate: number of micro-batches.
      **options: further arguments of `supervised.make_train_step`.
    """
    weight_of = {'main': 1.0}.__getitem__
    return supervised.make_train_step(
        make_loss(task),
        optimisers,
        weight_of,
        num_steps=num_steps,
        accumulate=accumulate,
        ema=task.ema,
        **options,
    )


# --- evaluation -----------------------------------------------------------------------------------


def classify(task: Task, state: TrainState, planes: Array) -> Array:
    """Returns float32 logits [B, K] of the net as evaluation uses it, with averaged parameters."""
    outputs = segmentation.averaged_net(task.net, state, task.ema, NET)(planes)
    return outputs['logits'].astype(jnp.float32)


def make_evaluation(
    task: Task, num_examples: int, paint: Callable[[Array], Array] | None = None
) -> Evaluation:
    """Builds the evaluation of a `Stage` that classifies.

    Examples are ranked by the probability of their true class, so the report shows the worst
    mistakes.

    Args:
      task: of the classifier.
      num_examples: size of the evaluation split.
      paint: input of the net -> uint8 [B, H, W] or [B, H, W, 3], as `paint_shape`. None: no
        pictures.
    """
    return Evaluation(
        eval_step=functools.partial(eval_step, task, num_examples),
        finalize=functools.partial(finalize, task),
        monitor=('accuracy', 'max'),
        render=None if paint is None else functools.partial(render, task, paint),
    )


def eval_step(
    task: Task, num_examples: int, state: TrainState, batch: Batch, keys: Keys
) -> Metrics:
    """Counts a batch by true and predicted class, and computes accuracies and cross-entropy."""
    truth = batch[task.truth]
    weight = batch['weight']
    logits = classify(task, state, batch[task.planes])

    rank = metrics.rank_of_truth(logits, truth)
    certainty = jnp.where(truth == IGNORE, jnp.nan, probability_of(logits, truth))
    # An example is an image of a single pixel.
    prediction = jnp.argmax(logits, -1)[:, None, None]
    counts = confusion.confusion(prediction, truth[:, None, None], len(task.names), weight)
    return {
        'confusion': counts,
        'accuracy': metrics.top_accuracy(rank, truth, weight, 1),
        f'top{TOP}_accuracy': metrics.top_accuracy(rank, truth, weight, TOP),
        'cross_entropy': losses.cross_entropy(logits, truth, weight),
        'image_score': confusion.per_example(certainty, batch['index'], weight, num_examples),
    }


def probability_of(logits: Array, label: Array) -> Array:
    """Returns the probability of the class `label` [B] in each row of the logits [B, K]."""
    is_label = label[:, None] == jnp.arange(logits.shape[-1])
    return jnp.where(is_label, jax.nn.softmax(logits), 0).sum(-1)


def finalize(task: Task, sums: Mapping[str, Mean]) -> Scores:
    """Turns the sums over the evaluation split into scores.

    accuracy         share of the examples whose first guess is right
    top5_accuracy    share of the examples whose true class is among the first five guesses
    cross_entropy    mean over the examples, in nats, without label smoothing
    class_accuracy   mean of the accuracies of the classes that occur
    per_class        accuracy, precision and number of examples of each class
    confusion        counts, a row for each true class
    baseline_commonest  accuracies of always guessing the most frequent class of the split
    """
    matrix = np.asarray(sums['confusion'].sum)
    num_classes = len(task.names)
    by_class = confusion.scores(matrix, task.names, 'truth_only')['accuracy']
    counts = matrix[:num_classes, :num_classes].astype(int)
    right = counts.diagonal()
    guessed = counts.sum(0)
    # The last column counts guesses of no class, which do not exist here.
    examples = matrix[:num_classes].sum(1).astype(int)

    scores: dict = {}
    for name in ('accuracy', f'top{TOP}_accuracy', 'cross_entropy'):
        scores[name] = _number(sums[name])
    occurring = [value for value in by_class.values() if value is not None]
    scores['class_accuracy'] = float(np.mean(occurring)) if occurring else None

    rows = {}
    for i, name in enumerate(task.names):
        precision = float(right[i] / guessed[i]) if guessed[i] else None
        row = {'accuracy': by_class[name], 'precision': precision, 'examples': int(examples[i])}
        rows[name] = row
    scores['per_class'] = rows
    scores['confusion'] = counts.tolist()

    if examples.sum():
        scores['baseline_commonest'] = {
            'accuracy': float(examples.max() / examples.sum()),
            'class_accuracy': 1 / len(occurring),
        }
    return scores


def _number(mean: Mean) -> float | None:
    """Returns a mean as a float, None if nothing was counted."""
    return float(mean.sum / mean.count) if mean.count else None


# --- pictures -------------------------------------------------------------------------------------


def render(
    task: Task, paint: Callable[[Array], Array], state: TrainState, batch: Batch, keys: Keys
) -> Pictures:
    """Paints the inputs. The caption has true and predicted train id and the true probability."""
    truth = batch[task.truth]
    logits = classify(task, state, batch[task.planes])
    values = {
        'true class': truth,
        'predicted class': jnp.argmax(logits, -1).astype(jnp.int32),
        'probability of the true class': probability_of(logits, truth),
    }
    return {'input': Picture(paint(batch[task.planes]), values=values)}


def paint_shape(planes: Array) -> Array:
    """Paints object and box, [B, H, W, 2], in grey: uint8 [B, H, W]."""
    inside = jnp.where(planes[..., 1] > 0, INSIDE, OUTSIDE)
    return jnp.where(planes[..., 0] > 0, OBJECT, inside).astype(jnp.uint8)
