"""Supervised segmentation: one net, (weighted) cross-entropy. The baseline that every paper compares itself with.

Method, top to bottom: the net predicts logits and, where it has them, logits of auxiliary heads; every head is resized
to the label's size and pays a cross-entropy; one optimiser; evaluation resizes logits to each label's own size.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models, optim, parallel
from segjax.config import OPTIM, Choice, Field, above, at_least, between, one_of
from segjax.data.spec import DataSpec
from segjax.losses import segmentation as losses
from segjax.metrics import confusion
from segjax.ops import images, resize
from segjax.protocol import Batch, Input, Keys, Mean, Metrics, PRNGKey, Scores, Stage, TrainState

SCHEMA = {
    'model': Choice(
        'erfnet',
        'the segmentation net',
        {
            name: {key: Field(value, f'argument {key} of {name}') for key, value in models.schema(name).items()}
            for name in models.REGISTRY
        },
    ),
    'preprocess': Field('unit', 'range and colour order the net wants', one_of(*images.SCHEMES)),
    'loss': {
        'name': Field('cross_entropy', 'per-pixel loss', one_of('cross_entropy', 'ohem')),
        'class_weights': Field('none', 'from the label counts of the training split', one_of(*losses.WEIGHT_RULES)),
        'weight_k': Field(1.10, 'k of the enet rule, w = 1 / ln(k + share)', above(1)),
        'label_smoothing': Field(0.0, 'share of the target spread over all classes', between(0, 1)),
        'aux_weight': Field(0.4, 'weight of each auxiliary head', at_least(0)),
        'ohem_threshold': Field(0.7, 'pixels predicted with less than this probability are hard', between(0, 1)),
        'ohem_min_kept': Field(1 / 16, 'at least this share of the valid pixels is kept', between(0, 1)),
    },
    'optim': OPTIM,
}


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """The single stage of supervised training."""
    confusion.check_policy(config.evaluate.policy)
    net = make_net(config, spec.classes.num_classes)
    evaluation = make_evaluation(config, spec, net)
    features, data = ('image', 'label'), config.data
    return (
        Stage(
            name='segmentation',
            num_steps=config.train.num_steps,
            train_input=Input(
                data.train_split, config.train.batch_size, features, tuple(config.augment.crop), config.augment
            ),
            eval_input=Input(data.eval_split, config.evaluate.batch_size, features, tuple(data.eval_size)),
            streams=('dropout',),
            init=make_init(config, net),
            train_step=make_train_step(config, make_loss(config, spec, net)),
            monitor=('mIoU', 'max'),
            **evaluation,
        ),
    )


# --- the net ----------------------------------------------------------------------------------------------------------


class Net(NamedTuple):
    """A net on uint8 images.

    init    (key, image) -> variables
    apply   (params, model_state, image, train, keys) -> (outputs, model_state); outputs are {'logits': [B, h, w, C]},
            and {'aux': {head: logits}} where the net has auxiliary heads
    """

    init: Callable
    apply: Callable


def make_net(config: ml_collections.ConfigDict, num_classes: int) -> Net:
    """The configured net behind its preprocessing."""
    args = {key: value for key, value in config.model.items() if key != 'name'}
    dtype = jnp.dtype(config.train.dtype)
    model = models.build(config.model.name, num_classes=num_classes, dtype=dtype, axis_name=parallel.AXIS, **args)

    def init(key: PRNGKey, image):
        return model.init(key, images.normalize(image, config.preprocess), train=False)

    def apply(params, model_state, image, *, train: bool, keys: Keys | None = None):
        variables = {'params': params['segmenter'], **model_state['segmenter']}
        x = images.normalize(image, config.preprocess)
        if not train:
            return model.apply(variables, x, train=False), model_state
        rngs = {'dropout': keys['dropout']}
        outputs, updates = model.apply(variables, x, train=True, rngs=rngs, mutable=['batch_stats'])
        return outputs, {'segmenter': updates}

    return Net(init, apply)


# --- training ---------------------------------------------------------------------------------------------------------


def make_loss(config: ml_collections.ConfigDict, spec: DataSpec, net: Net) -> Callable:
    """(params, model_state, batch, keys) -> (terms, model_state, {}): cross-entropy of the main and auxiliary heads."""
    split = spec.split(config.data.train_split)
    rule, k = config.loss.class_weights, config.loss.weight_k
    class_weights = losses.class_weights(split.class_pixels, split.void_pixels, rule, k=k)

    def pixel_loss(logits, batch: Batch) -> Mean:
        logits = resize.bilinear(logits.astype(jnp.float32), batch['label'].shape[1:])
        arguments = (logits, batch['label'], batch['weight'])
        if config.loss.name == 'ohem':
            threshold, kept = config.loss.ohem_threshold, config.loss.ohem_min_kept
            return losses.ohem_cross_entropy(
                *arguments, threshold=threshold, min_kept_fraction=kept, class_weights=class_weights
            )
        smoothing = config.loss.label_smoothing
        return losses.cross_entropy(*arguments, class_weights=class_weights, label_smoothing=smoothing)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        outputs, model_state = net.apply(params, model_state, batch['image'], train=True, keys=keys)
        terms = {'main': pixel_loss(outputs['logits'], batch)}
        for head, logits in outputs.get('aux', {}).items():
            terms[f'aux_{head}'] = pixel_loss(logits, batch)
        return terms, model_state, {}

    return loss_fn


def make_init(config: ml_collections.ConfigDict, net: Net) -> Callable:
    """`Stage.init`: fresh parameters, statistics and optimiser."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        variables = net.init(key, batch['image'][:1])
        params = {'segmenter': variables.pop('params')}
        model_state = {'segmenter': variables}
        transform = optim.make(config.optim, config.train.num_steps, params)
        return TrainState(
            step=jnp.int32(0),
            params=params,
            model_state=model_state,
            opt_state={'segmenter': transform.init(params)},
            extra={'ema': {'params': params, 'model_state': model_state}} if config.train.ema else {},
        )

    return init


def make_train_step(config: ml_collections.ConfigDict, loss_fn: Callable) -> Callable:
    """`Stage.train_step`: the gradient of the global batch, one optimiser, the averaged parameters."""

    def loss_weight(name: str) -> float:
        return 1.0 if name == 'main' else config.loss.aux_weight

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        value_and_grad = parallel.global_value_and_grad(loss_fn, loss_weight, config.train.accumulate)
        (loss, terms, model_state, _), grads = value_and_grad(state.params, state.model_state, batch, keys)
        metrics = {
            'loss': Mean(loss, jnp.float32(1)),
            'learning_rate': optim.learning_rate(config.optim, config.train.num_steps, state.step),
            **{f'loss_{name}': term for name, term in terms.items()},
        }
        transform = optim.make(config.optim, config.train.num_steps, state.params)
        state = optim.apply(state, 'segmenter', transform, grads).replace(model_state=model_state)
        if config.train.ema:
            moving = {'params': state.params, 'model_state': state.model_state}
            average = optim.ema_update(state.extra['ema'], moving, config.train.ema, state.step, debias=True)
            state = state.replace(extra={'ema': average})
        return state.replace(step=state.step + 1), metrics

    return train_step


# --- evaluation -------------------------------------------------------------------------------------------------------


def make_evaluation(config: ml_collections.ConfigDict, spec: DataSpec, net: Net) -> dict[str, Callable]:
    """`Stage`'s eval_step, finalize, render and predict."""
    num_classes, num_examples = spec.classes.num_classes, spec.split(config.data.eval_split).num_examples

    def infer(state: TrainState, image):
        """float32 logits at the net's resolution."""
        used = {'params': state.params, 'model_state': state.model_state}
        if config.train.ema:  # before the first update there is no average yet
            used = jax.tree.map(lambda a, b: jnp.where(state.step > 0, a, b), state.extra['ema'], used)
        outputs, _ = net.apply(used['params'], used['model_state'], image, train=False)
        return outputs['logits'].astype(jnp.float32)

    def predict_labels(state: TrainState, batch: Batch):
        """Train ids at the label's own size: logits are resized, labels never are."""
        logits = infer(state, batch['image'])
        logits = resize.resize_valid(logits, batch['size'], batch['label'].shape[1:], batch['label_size'])
        return jnp.argmax(logits, -1)

    def eval_step(state: TrainState, batch: Batch, keys: Keys) -> Metrics:
        prediction = predict_labels(state, batch)
        image_iou = confusion.image_iou(prediction, batch['label'], num_classes, batch['weight'])
        return {
            'confusion': confusion.confusion(prediction, batch['label'], num_classes, batch['weight']),
            'image_score': confusion.per_example(image_iou, batch['index'], batch['weight'], num_examples),
        }

    def finalize(metrics: Mapping[str, Mean]) -> Scores:
        matrix = metrics['confusion'].sum
        prior = np.asarray(spec.split(config.data.train_split).class_pixels)
        names, policy = spec.classes.names, config.evaluate.policy
        scores = confusion.scores(matrix, names, policy)
        for name, blind in (('commonest', confusion.commonest_class), ('prior', confusion.class_prior)):
            values = confusion.scores(blind(matrix, prior), names, policy)
            scores[f'baseline_{name}'] = {k: v for k, v in values.items() if isinstance(v, float)}
        scores['confusion'] = matrix[:num_classes, :num_classes].astype(int).tolist()
        return scores

    def render(state: TrainState, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        palette = jnp.asarray(spec.classes.palette, jnp.uint8)
        prediction = predict_labels(state, batch)
        wrong = (prediction != batch['label']) & (batch['label'] < num_classes)
        return {
            'prediction': images.colorize(prediction, palette),
            'truth': images.colorize(batch['label'], palette),
            'errors': jnp.where(wrong[..., None], jnp.array([220, 40, 40], jnp.uint8), jnp.uint8(235)),
        }

    def predict(state: TrainState, image):
        return jax.nn.softmax(infer(state, image))

    return {'eval_step': eval_step, 'finalize': finalize, 'render': render, 'predict': predict}
