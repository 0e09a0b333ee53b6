"""Segmentation task: net, labels and scores, shared by all pipelines that segment.

The pipeline trains a `Net` towards `train_label`, and `make_evaluation` builds the functions of its
`Stage` that compute scores and pictures. With `data.void_class`, unlabelled pixels are an
additional class, void.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import optim, parallel
from segjax.losses import segmentation as losses
from segjax.metrics import confusion
from segjax.ops import images, resize, windows
from segjax.protocol import (
    Array,
    Batch,
    Input,
    Keys,
    LabelMaps,
    Mean,
    Metrics,
    Picture,
    PRNGKey,
    PyTree,
    Scores,
    TrainState,
)
from segjax.report.scores import scored_at
from segjax.schema import Field, above, one_of
from segjax.spec import IGNORE, DataSpec
from segjax.tasks.evaluation import Evaluation, Pictures

VOID = 'void'
"""Name of the class that `data.void_class` adds for unlabelled pixels. Its train id is C."""

ERROR_COLOR = (220, 40, 40)
"""RGB of wrong pixels in the picture 'errors'."""
BACKGROUND = 235
"""Grey value of all other pixels of that picture."""
LEGEND = {VOID: (0, 0, 0)}
"""Colours of painted label maps that belong to no class."""

CLASS_WEIGHTS = {
    'class_weights': Field(
        'none',
        'Rule for class weights, from the label counts of the training split.',
        one_of(*losses.WEIGHT_RULES),
    ),
    'weight_k': Field(
        1.10, 'Constant k of the rule enet: weight = 1 / ln(k + share of the class).', above(1)
    ),
}
PREPROCESS = Field(
    'unit', 'Value range and colour order of the images for the net.', one_of(*images.SCHEMES)
)


# --- nets -----------------------------------------------------------------------------------------


class Net(NamedTuple):
    """A net behind the preparation of its input.

    init    (key, input) -> variables
    apply   (params, model_state, input, *, train, dropout=None) -> (outputs, model_state).
            `outputs` are {'logits': [B, h, w, C]}. A net with auxiliary heads adds
            {'aux': {head: logits}}
    """

    init: Callable
    apply: Callable


def make_net(
    model: ml_collections.ConfigDict,
    num_outputs: int,
    dtype: str,
    prepare: Callable[[Array], Array],
    kind: str = 'segmentation',
) -> Net:
    """Builds the net of a section of `models.net_choice`.

    Args:
      model: the section.
      num_outputs: channels of the logits.
      dtype: of activations.
      prepare: maps the input to the input of the net, e.g. with images.normalize.
      kind: of the net, a key of models.NETS.
    """
    net = models.build_from(
        kind, model, num_classes=num_outputs, dtype=dtype, axis_name=parallel.AXIS
    )
    return net_of(net, prepare)


def net_of(net: nn.Module, prepare: Callable[[Array], Array]) -> Net:
    """Builds a `Net` of a linen module.

    Args:
      net: called as net(input, train).
      prepare: maps the input to the input of the module.
    """

    def init(key: PRNGKey, image):
        return net.lazy_init(key, jax.eval_shape(prepare, image), train=False)

    def apply(params, model_state, image, *, train: bool, dropout: PRNGKey | None = None):
        rngs = {'dropout': dropout}
        return apply_net(net, params, model_state, prepare(image), train=train, rngs=rngs)

    return Net(init, apply)


def make_image_net(
    config: ml_collections.ConfigDict,
    num_outputs: int,
    model: ml_collections.ConfigDict | None = None,
) -> Net:
    """Builds a net on uint8 images, which are prepared as `config.preprocess` says.

    Args:
      config: of the run.
      num_outputs: channels of the logits.
      model: a section that replaces config.model.
    """
    section = config.model if model is None else model
    prepare = functools.partial(images.normalize, scheme=config.preprocess)
    return make_net(section, num_outputs, config.train.dtype, prepare)


def apply_net(
    net, params, model_state, *inputs, train: bool, rngs: Keys | None = None, **options: Any
) -> tuple[Any, Mapping]:
    """Applies a linen module and returns (outputs, model_state).

    In evaluation `model_state` is returned unchanged and `rngs` are not used.

    Args:
      net: the module.
      params: its parameters.
      model_state: its batch statistics.
      *inputs: of the module.
      train: whether batch norms use the statistics of the batch.
      rngs: random streams of the module.
      **options: further arguments of the module.
    """
    variables = {'params': params, **model_state}
    if not train:
        return net.apply(variables, *inputs, train=False, **options), model_state
    outputs, updates = net.apply(
        variables, *inputs, train=True, rngs=rngs, mutable=['batch_stats'], **options
    )
    # A state keeps its types: batch norm returns float64 statistics from float64 activations.
    return outputs, jax.tree.map(lambda new, old: new.astype(old.dtype), updates, dict(model_state))


def averaged_net(
    net: Net, state: TrainState, ema: float, name: str = 'segmenter', statistics: str = ''
) -> Callable[[Array], PyTree]:
    """Returns a net as evaluation uses it: input -> outputs.

    Args:
      net: the net.
      state: holds its parameters, and their averages if `ema` is not 0.
      ema: config.train.ema.
      name: of the net in the state.
      statistics: name of its batch statistics in the state. '' means `name`.
    """
    params, model_state = optim.averaged(state, ema)

    def apply(x: Array) -> PyTree:
        outputs, _ = net.apply(params[name], model_state[statistics or name], x, train=False)
        return outputs

    return apply


def make_infer(config: ml_collections.ConfigDict, net: Net) -> Callable[[TrainState, Array], Array]:
    """Returns (state, image uint8 [B, H, W, 3]) -> float32 logits, for `make_evaluation`."""

    def infer(state: TrainState, image: Array) -> Array:
        outputs = averaged_net(net, state, config.train.ema)(image)
        return outputs['logits'].astype(jnp.float32)

    return infer


# --- inputs ---------------------------------------------------------------------------------------


def train_input(config: ml_collections.ConfigDict) -> Input:
    """Returns the labelled examples of `data.train_split`, or `data.labelled_fraction` of them."""
    return Input(
        split=config.data.train_split,
        batch_size=config.train.batch_size,
        features=('image', 'label'),
        size=tuple(config.augment.crop),
        augment=config.augment,
        part=(0.0, config.data.labelled_fraction),
        examples='labelled',
    )


def eval_input(config: ml_collections.ConfigDict) -> Input:
    """Returns the labelled examples of `data.eval_split`."""
    return Input(
        split=config.data.eval_split,
        batch_size=config.evaluate.batch_size,
        features=('image', 'label'),
        size=tuple(config.data.eval_size),
        examples='labelled',
    )


# --- labels, and void as a class ------------------------------------------------------------------


def num_outputs(config: ml_collections.ConfigDict, spec: DataSpec) -> int:
    """Returns the number of logit channels: the classes, and void if `data.void_class` is set.

    Raises:
      InputError: the data set has no classes.
    """
    spec.check_labels(f'pipeline {config.pipeline!r}')
    return spec.classes.num_classes + config.data.void_class


def class_pixels(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[tuple[int, ...], int]:
    """Returns (pixels of each output channel, ignored pixels) of the labelled training examples.

    Only the examples of `train_input` count.
    """
    chosen = spec.part(config.data.train_split, train_input(config).part)
    if config.data.void_class:
        return (*chosen.class_pixels, chosen.void_pixels), 0
    return chosen.class_pixels, chosen.void_pixels


def train_label(label: Array, config: ml_collections.ConfigDict, spec: DataSpec) -> Array:
    """Returns the label that the net is trained towards.

    With `data.void_class`, ignored pixels are of class C. This holds for pixels that augmentation
    adds (padding, the rim of a rotation), because they carry the label 255.
    """
    if not config.data.void_class:
        return label
    return jnp.where(label == IGNORE, spec.classes.num_classes, label)


def eval_label(batch: Batch, config: ml_collections.ConfigDict, spec: DataSpec) -> Array:
    """Returns `train_label` of an evaluation batch, where padded pixels keep the label 255."""
    inside = valid_pixels(batch['label_size'], batch['label'])
    return jnp.where(inside, train_label(batch['label'], config, spec), IGNORE)


def label_of_image(batch: Batch, config: ml_collections.ConfigDict, spec: DataSpec) -> Array:
    """Resizes `eval_label` to the evaluation image, [B, H, W], by `to_image`."""
    return to_image(eval_label(batch, config, spec), batch)


def to_image(label: Array, batch: Batch, fill: int = IGNORE) -> Array:
    """Resizes label maps, or maps of their size, to the evaluation images with nearest neighbours.

    Args:
      label: [B, h, w, ...] train ids or vectors on the canvas of batch['label'].
      batch: an evaluation batch; its image, size and label_size are read.
      fill: value of the padding.

    Returns:
      [B, H, W, ...] on the canvas of batch['image']; padding is `fill`.
    """
    height, width = batch['image'].shape[1:3]

    def source(axis: int, places: int):
        label_length = batch['label_size'][:, axis, None]
        image_length = batch['size'][:, axis, None]
        center = (2 * jnp.arange(places) + 1) * label_length // (2 * image_length)
        return jnp.minimum(center, label_length - 1)

    def pick(label, rows, columns):
        return label[rows[:, None], columns]

    label = jax.vmap(pick)(label, source(0, height), source(1, width))
    valid = valid_pixels(batch['size'], label)
    return jnp.where(valid.reshape(*valid.shape, *[1] * (label.ndim - 3)), label, fill)


def valid_pixels(size: Array, like: Array) -> Array:
    """Marks the part of padded maps that is not padding.

    Args:
      size: [B, 2] height and width of that part.
      like: [B, H, W, ...] the padded maps, of which only the shape is read.

    Returns:
      bool [B, H, W].
    """
    rows = jnp.arange(like.shape[1])[:, None]
    columns = jnp.arange(like.shape[2])
    return (rows < size[:, 0, None, None]) & (columns < size[:, 1, None, None])


# --- evaluation -----------------------------------------------------------------------------------


class Judge(NamedTuple):
    """The inputs that all functions of the evaluation share.

    config        of the run
    spec          of the data set
    infer         (state, image uint8 [B, H, W, 3]) -> float32 logits [B, H, W, C]
    num_examples  labelled examples of the evaluation split
    evidence      (state, batch) -> logits of whole images. None: `infer` on batch['image']
    num_frames    images that the net sees for each example
    """

    config: ml_collections.ConfigDict
    spec: DataSpec
    infer: Callable[[TrainState, Array], Array]
    num_examples: int
    evidence: Callable[[TrainState, Batch], Array] | None = None
    num_frames: int = 1


def make_evaluation(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    infer: Callable,
    evidence: Callable | None = None,
    num_frames: int = 1,
) -> Evaluation:
    """Builds the evaluation of a `Stage` that segments.

    `evaluate.resolution` says where scores are computed. 'label' resizes logits to the size of each
    label. 'image' resizes labels to the images that the net sees, with nearest neighbours. Padding
    counts nowhere. With `evaluate.crop` the net sees crops of these images. Overlapping
    probabilities are averaged as in `--mode predict` (ops/windows.py).

    With `data.void_class` a pixel may be predicted as void. If its truth is a class, the prediction
    is a miss. If the truth is void, the pixel counts only in 'mIoU_with_void', the mean over all
    C + 1 classes.

    Args:
      config: of the run.
      spec: of the data set.
      infer: (state, image uint8 [B, H, W, 3]) -> float32 logits [B, H, W, C].
      evidence: (state, batch) -> float32 logits [B, H, W, C], for nets that read more than an
        image. `evaluate.crop` then has no effect.
      num_frames: images that the net sees for each example.
    """
    confusion.check_policy(config.evaluate.policy)
    num_examples = spec.split(config.data.eval_split).num_labelled
    judge = Judge(config, spec, infer, num_examples, evidence, num_frames)
    return Evaluation(
        eval_step=functools.partial(eval_step, judge),
        finalize=functools.partial(finalize, judge),
        render=functools.partial(render, judge),
        label_maps=functools.partial(label_maps, judge),
        predict=functools.partial(predict, judge),
        monitor=('mIoU', 'max'),
    )


def class_evidence(judge: Judge, state: TrainState, batch: Batch) -> Array:
    """Returns logits of whole images, or the averaged probabilities of crops, [B, H, W, C]."""
    if judge.evidence is not None:
        return judge.evidence(state, batch)
    infer = functools.partial(judge.infer, state)
    return evidence_of_maps(judge.config.evaluate, infer, batch['image'], batch['size'])


def evidence_of_maps(
    settings: ml_collections.ConfigDict, infer: Callable[[Array], Array], maps: Array, size: Array
) -> Array:
    """Returns logits of whole maps, or with `evaluate.crop` the averaged probabilities of crops.

    Args:
      settings: config.evaluate.
      infer: maps [B, h, w, ...] -> logits [B, h, w, C].
      maps: [B, H, W, ...], images or label maps.
      size: [B, 2] height and width of the part without padding.

    Returns:
      [B, H, W, C].
    """
    if not settings.crop:
        return infer(maps)

    def probabilities(crops: Array) -> Array:
        return jax.nn.softmax(infer(crops))

    overlap = 1 - settings.stride
    return windows.average(probabilities, maps, size, tuple(settings.crop), overlap)


def predict_labels(judge: Judge, state: TrainState, batch: Batch) -> Array:
    """Predicts train ids at the resolution of the scores, [B, H, W] or [B, h, w].

    If the logits of the batch are large, a few images are predicted at a time. Then logits are
    resized a few classes at a time. Memory does not grow with the number of classes at the size of
    the labels.
    """

    def predict_rows(rows: Batch) -> Array:
        evidence = class_evidence(judge, state, rows)
        if _at_image(judge):
            return jnp.argmax(evidence, -1)
        shape = rows['label'].shape[1:]
        return resize.argmax_valid(evidence, rows['size'], shape, rows['label_size'])

    number = _images_at_once(judge, batch)
    if number == len(batch['image']):
        return predict_rows(batch)
    parts = {key: x.reshape(-1, number, *x.shape[1:]) for key, x in batch.items()}
    labels = jax.lax.map(predict_rows, parts)  # [B / number, number, h, w]
    return labels.reshape(-1, *labels.shape[2:])


def _images_at_once(judge: Judge, batch: Batch) -> int:
    """Returns the largest divisor of the batch size whose float32 logits are not too large."""
    batch_size, height, width = batch['image'].shape[:3]
    of_image = 4 * height * width * num_outputs(judge.config, judge.spec)
    of_example = judge.num_frames * of_image
    divisors = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
    return max((n for n in divisors if n * of_example <= resize.WHOLE_BYTES), default=1)


def score_labels(judge: Judge, batch: Batch) -> tuple[Array, Array]:
    """Returns labels, and labels with void as a class, at the resolution of the scores."""
    label = batch['label']
    with_void = eval_label(batch, judge.config, judge.spec)
    if _at_image(judge):
        label = to_image(label, batch)
        with_void = to_image(with_void, batch)
    return label, with_void


def _at_image(judge: Judge) -> bool:
    return judge.config.evaluate.resolution == 'image'


def eval_step(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Computes the confusion matrix of a batch, and the mean IoU of each image."""
    outputs = num_outputs(judge.config, judge.spec)
    num_classes = judge.spec.classes.num_classes
    index = batch['index']
    weight = batch['weight']

    prediction = predict_labels(judge, state, batch)
    label, with_void = score_labels(judge, batch)
    image_iou = confusion.image_iou(prediction, label, num_classes, weight)
    return {
        'confusion': confusion.confusion(prediction, with_void, outputs, weight),
        'image_score': confusion.per_example(image_iou, index, weight, judge.num_examples),
    }


def finalize(judge: Judge, metrics: Mapping[str, Mean]) -> Scores:
    """Turns the summed confusion matrix into scores, and adds those of two blind predictors."""
    names = judge.spec.classes.names
    policy = judge.config.evaluate.policy
    void_class = judge.config.data.void_class
    num_classes = judge.spec.classes.num_classes

    # Rows are true classes. With void as a class, the last column counts pixels predicted as void,
    # and the row of void is left out: there, no prediction is right or wrong.
    counts = metrics['confusion'].sum
    matrix = counts[:num_classes, : num_classes + 1] if void_class else counts

    scores = confusion.scores(matrix, names, policy)
    scores['resolution'] = scored_at(judge.config)
    if void_class:
        scores['mIoU_with_void'] = confusion.scores(counts, (*names, VOID), policy)['mIoU']
    scores |= baseline_scores(judge, matrix)
    columns = num_classes + void_class
    scores['confusion'] = matrix[:num_classes, :columns].astype(int).tolist()
    return scores


def baseline_scores(judge: Judge, matrix: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns the scores of two predictors that see no image.

    'baseline_commonest' always predicts the most frequent class of the training split.
    'baseline_prior' draws classes with the frequencies of the training split.

    Args:
      judge: of the evaluation.
      matrix: confusion matrix of the evaluated split, of which only the true classes are used.
    """
    names = judge.spec.classes.names
    chosen = judge.spec.part(judge.config.data.train_split, train_input(judge.config).part)
    prior = np.asarray(chosen.class_pixels)
    predictors = {'commonest': confusion.commonest_class, 'prior': confusion.class_prior}
    baselines = {}
    for name, predictor in predictors.items():
        values = confusion.scores(predictor(matrix, prior), names, judge.config.evaluate.policy)
        baselines[f'baseline_{name}'] = {k: v for k, v in values.items() if isinstance(v, float)}
    return baselines


def label_maps(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> LabelMaps:
    """Returns prediction and truth at the resolution of the scores."""
    label, _ = score_labels(judge, batch)
    size = batch['size' if _at_image(judge) else 'label_size']
    return LabelMaps(predict_labels(judge, state, batch), label, size)


def render(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Pictures:
    """Paints prediction, truth and errors, uint8 at the resolution of the scores."""
    prediction, label, size = label_maps(judge, state, batch, keys)
    wrong = (prediction != label) & (label < judge.spec.classes.num_classes)
    errors = jnp.where(wrong[..., None], jnp.array(ERROR_COLOR, jnp.uint8), jnp.uint8(BACKGROUND))
    return {
        'prediction': Picture(paint(prediction, judge.spec), size),
        'truth': Picture(paint(label, judge.spec), size, legend=LEGEND),
        'errors': Picture(errors, size, legend={'wrong pixel': ERROR_COLOR}),
    }


def predict(judge: Judge, state: TrainState, image: Array) -> Array:
    """Predicts probabilities of the real classes, [B, H, W, C].

    Void is never predicted, even where scoring would count the pixel as wrong.
    """
    logits = judge.infer(state, image)
    return jax.nn.softmax(logits[..., : judge.spec.classes.num_classes])


def paint(label: Array, spec: DataSpec) -> Array:
    """Paints a label map in the colours of its classes. Void, predicted or true, is black."""
    shown = jnp.where(label == spec.classes.num_classes, IGNORE, label)
    return images.colorize(shown, jnp.asarray(spec.classes.palette, jnp.uint8))
