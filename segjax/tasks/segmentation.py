"""The segmentation net on uint8 images, what it is trained towards, and its scores: what pipelines have in common."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import parallel
from segjax.losses import segmentation as losses
from segjax.metrics import confusion
from segjax.ops import images, resize, windows
from segjax.protocol import Array, Batch, Input, Keys, Mean, Metrics, PRNGKey, Scores, TrainState
from segjax.report.scores import scored_at
from segjax.schema import Field, above, one_of
from segjax.spec import IGNORE, DataSpec

VOID = 'void'
"""Name of the class that `data.void_class` adds, for what the labels leave out; its train id is C."""

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


class Net(NamedTuple):
    """A net behind the preparation of its input.

    init    (key, input) -> variables
    apply   (params, model_state, input, *, train, dropout=None) -> (outputs, model_state), both the net's own; outputs
            are {'logits': [B, h, w, C]}, and {'aux': {head: logits}} where the net has auxiliary heads
    """

    init: Callable
    apply: Callable


def make_net(
    model: ml_collections.ConfigDict,
    num_outputs: int,
    dtype: str,
    prepare: Callable[[Array], Array],
) -> Net:
    """The net of a section of `models.net_choice`.

    Args:
      model: the section.
      num_outputs: channels of the logits.
      dtype: of activations.
      prepare: what the net wants of its input, e.g. images.normalize.
    """
    net = models.build_from(
        'segmentation', model, num_classes=num_outputs, dtype=dtype, axis_name=parallel.AXIS
    )

    def init(key: PRNGKey, image):
        return net.lazy_init(key, jax.eval_shape(prepare, image), train=False)

    def apply(params, model_state, image, *, train: bool, dropout: PRNGKey | None = None):
        return apply_net(
            net, params, model_state, prepare(image), train=train, rngs={'dropout': dropout}
        )

    return Net(init, apply)


def apply_net(
    net, params, model_state, *inputs, train: bool, rngs: Keys | None = None
) -> tuple[Mapping, Mapping]:
    """(outputs, model_state) of a linen module; `rngs` are for training alone."""
    variables = {'params': params, **model_state}
    if not train:
        return net.apply(variables, *inputs, train=False), model_state
    outputs, updates = net.apply(variables, *inputs, train=True, rngs=rngs, mutable=['batch_stats'])
    # A state keeps its types: batch norm returns float64 statistics from float64 activations.
    return outputs, jax.tree.map(lambda new, old: new.astype(old.dtype), updates, dict(model_state))


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


# --- void as a class --------------------------------------------------------------------------------------------------


def num_outputs(config: ml_collections.ConfigDict, spec: DataSpec) -> int:
    """Channels of the logits: the classes, and one for void where `data.void_class` says so."""
    return spec.classes.num_classes + config.data.void_class


def class_pixels(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[tuple[int, ...], int]:
    """Returns (pixels of every output channel, ignored pixels) of the labelled training examples."""
    split = spec.split(config.data.train_split)
    void = split.labelled_void_pixels
    return (
        ((*split.class_pixels, void), 0) if config.data.void_class else (split.class_pixels, void)
    )


def train_label(label: Array, config: ml_collections.ConfigDict, spec: DataSpec) -> Array:
    """The label that is trained towards: with `data.void_class`, ignored pixels are of class C.

    Pixels that augmentation invents (padding, the rim of a rotation) carry the label 255, too, and become void.
    """
    return (
        jnp.where(label == IGNORE, spec.classes.num_classes, label)
        if config.data.void_class
        else label
    )


def eval_label(batch: Batch, config: ml_collections.ConfigDict, spec: DataSpec) -> Array:
    """As `train_label`, but for the padding that brings labels to one size: it stays 255."""
    return jnp.where(
        valid_pixels(batch['label_size'], batch['label']),
        train_label(batch['label'], config, spec),
        IGNORE,
    )


def label_of_image(batch: Batch, config: ml_collections.ConfigDict, spec: DataSpec) -> Array:
    """Resizes `eval_label` to the evaluation image, [B, H, W], by `to_image`."""
    return to_image(eval_label(batch, config, spec), batch)


def to_image(label: Array, batch: Batch, fill: int = IGNORE) -> Array:
    """Resizes label maps, or maps of their size, to the evaluation images with nearest neighbours.

    Args:
      label: [B, h, w] train ids on the canvas of batch['label'].
      batch: an evaluation batch; its image, size and label_size are read.
      fill: value of the padding.

    Returns:
      [B, H, W] train ids on the canvas of batch['image']; padding is `fill`.
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
    return jnp.where(valid_pixels(batch['size'], label), label, fill)


def valid_pixels(size: Array, like: Array) -> Array:
    """bool [B, H, W]: the part of padded maps that is not padding; size [B, 2] is its height and width."""
    rows, columns = jnp.arange(like.shape[1])[:, None], jnp.arange(like.shape[2])
    return (rows < size[:, 0, None, None]) & (columns < size[:, 1, None, None])


# --- evaluation -------------------------------------------------------------------------------------------------------


def make_evaluation(
    config: ml_collections.ConfigDict, spec: DataSpec, infer: Callable
) -> dict[str, Callable]:
    """`Stage`'s eval_step, finalize, render and predict.

    `evaluate.resolution` says where scores are computed. 'label' resizes logits to the size of each
    label. 'image' resizes labels to the images that the net sees, with nearest neighbours. Padding
    counts nowhere. With `evaluate.crop` the net sees crops of these images. Overlapping
    probabilities are averaged as in `--mode predict` (ops/tiles.py).

    With `data.void_class` a pixel may be predicted as void. Where its truth is a class, that is a miss; where the truth
    is void, nothing counts, as ever. 'mIoU_with_void' is the mean over all C + 1, void pixels included.

    Args:
      infer: (state, image uint8 [B, H, W, 3]) -> float32 logits [B, H, W, C].
    """
    confusion.check_policy(config.evaluate.policy)
    num_classes, num_examples = (
        spec.classes.num_classes,
        spec.split(config.data.eval_split).num_labelled,
    )
    at_image = config.evaluate.resolution == 'image'
    crop = tuple(config.evaluate.crop)

    def look(state: TrainState, batch: Batch) -> Array:
        """Returns logits of whole images, or probabilities that crops agree on, [B, H, W, C]."""
        if not crop:
            return infer(state, batch['image'])

        def probabilities(image: Array) -> Array:
            return jax.nn.softmax(infer(state, image))

        overlap = 1 - config.evaluate.stride
        return windows.average(probabilities, batch['image'], batch['size'], crop, overlap)

    def predict_labels(state: TrainState, batch: Batch):
        """Predicts train ids at the resolution of the scores."""
        evidence = look(state, batch)
        if not at_image:
            label_shape = batch['label'].shape[1:]
            evidence = resize.resize_valid(
                evidence, batch['size'], label_shape, batch['label_size']
            )
        return jnp.argmax(evidence, -1)

    def labels_of(batch: Batch) -> tuple[Array, Array]:
        """Returns labels, and labels with void as a class, at the resolution of the scores."""
        label = batch['label']
        with_void = eval_label(batch, config, spec)
        if at_image:
            label = to_image(label, batch)
            with_void = to_image(with_void, batch)
        return label, with_void

    def eval_step(state: TrainState, batch: Batch, keys: Keys) -> Metrics:
        prediction, outputs = predict_labels(state, batch), num_outputs(config, spec)
        label, with_void = labels_of(batch)
        image_iou = confusion.image_iou(prediction, label, num_classes, batch['weight'])
        return {
            'confusion': confusion.confusion(prediction, with_void, outputs, batch['weight']),
            'image_score': confusion.per_example(
                image_iou, batch['index'], batch['weight'], num_examples
            ),
        }

    def finalize(metrics: Mapping[str, Mean]) -> Scores:
        counts = metrics['confusion'].sum
        names, policy = spec.classes.names, config.evaluate.policy
        # Of a matrix with void: rows of the classes; the column of void holds predictions of nothing.
        matrix = counts[:num_classes, : num_classes + 1] if config.data.void_class else counts
        scores = confusion.scores(matrix, names, policy)
        scores['resolution'] = scored_at(config)
        if config.data.void_class:
            scores['mIoU_with_void'] = confusion.scores(counts, (*names, VOID), policy)['mIoU']
        prior = np.asarray(spec.split(config.data.train_split).class_pixels)
        for name, blind in (
            ('commonest', confusion.commonest_class),
            ('prior', confusion.class_prior),
        ):
            values = confusion.scores(blind(matrix, prior), names, policy)
            scores[f'baseline_{name}'] = {k: v for k, v in values.items() if isinstance(v, float)}
        columns = (
            num_classes + config.data.void_class
        )  # the last one holds pixels that are predicted as void
        scores['confusion'] = matrix[:num_classes, :columns].astype(int).tolist()
        return scores

    def render(state: TrainState, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        prediction = predict_labels(state, batch)
        label, _ = labels_of(batch)
        wrong = (prediction != label) & (label < num_classes)
        return {
            'prediction': paint(prediction, spec),
            'truth': paint(label, spec),
            'errors': jnp.where(
                wrong[..., None], jnp.array([220, 40, 40], jnp.uint8), jnp.uint8(235)
            ),
        }

    def predict(state: TrainState, image):
        """Among the classes alone: who asks for a label map wants no void, also where scores would count a miss."""
        return jax.nn.softmax(infer(state, image)[..., :num_classes])

    return {'eval_step': eval_step, 'finalize': finalize, 'render': render, 'predict': predict}


def paint(label: Array, spec: DataSpec) -> Array:
    """A label map in the colours of its classes; void, predicted or true, is black."""
    shown = jnp.where(label == spec.classes.num_classes, IGNORE, label)
    return images.colorize(shown, jnp.asarray(spec.classes.palette, jnp.uint8))
