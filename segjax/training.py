"""Supervised training of one net: what the baseline is, and what pipelines that change a part of it build on."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import ml_collections

from segjax import optim, parallel, segmenter
from segjax.config import Field, at_least, between, one_of
from segjax.data.spec import DataSpec
from segjax.losses import segmentation as losses
from segjax.ops import resize
from segjax.protocol import Batch, Keys, Mean, Metrics, PRNGKey, TrainState

LOSS = {
    'name': Field('cross_entropy', 'per-pixel loss', one_of('cross_entropy', 'ohem')),
    **segmenter.CLASS_WEIGHTS,
    'label_smoothing': Field(0.0, 'share of the target spread over all classes', between(0, 1)),
    'aux_weight': Field(0.4, 'weight of each auxiliary head', at_least(0)),
    'ohem_threshold': Field(0.7, 'pixels predicted with less than this probability are hard', between(0, 1)),
    'ohem_min_kept': Field(1 / 16, 'at least this share of the valid pixels is kept', between(0, 1)),
}


def make_loss(config: ml_collections.ConfigDict, spec: DataSpec, net: segmenter.Net) -> Callable:
    """(params, model_state, batch, keys) -> (terms, model_state, {}): cross-entropy of the main and auxiliary heads."""
    rule, k = config.loss.class_weights, config.loss.weight_k
    class_weights = losses.class_weights(*segmenter.class_pixels(config, spec), rule, k=k)

    def pixel_loss(logits, batch: Batch) -> Mean:
        logits = resize.bilinear(logits.astype(jnp.float32), batch['label'].shape[1:])
        arguments = (logits, segmenter.train_label(batch['label'], config, spec), batch['weight'])
        if config.loss.name == 'ohem':
            threshold, kept = config.loss.ohem_threshold, config.loss.ohem_min_kept
            return losses.ohem_cross_entropy(
                *arguments, threshold=threshold, min_kept_fraction=kept, class_weights=class_weights
            )
        smoothing = config.loss.label_smoothing
        return losses.cross_entropy(*arguments, class_weights=class_weights, label_smoothing=smoothing)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        outputs, updates = net.apply(
            params['segmenter'], model_state['segmenter'], batch['image'], train=True, dropout=keys['dropout']
        )
        terms = {'main': pixel_loss(outputs['logits'], batch)}
        for head, logits in outputs.get('aux', {}).items():
            terms[f'aux_{head}'] = pixel_loss(logits, batch)
        return terms, {'segmenter': updates}, {}

    return loss_fn


def make_init(config: ml_collections.ConfigDict, net: segmenter.Net) -> Callable:
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
            extra=optim.start_average(params, model_state, config.train.ema),
        )

    return init


def make_train_step(
    config: ml_collections.ConfigDict, loss_fn: Callable, change_grads: Callable | None = None
) -> Callable:
    """`Stage.train_step`: the gradient of the global batch, one optimiser, the averaged parameters.

    Args:
      config: its optim, loss.aux_weight and train count.
      loss_fn: from `make_loss`.
      change_grads: (gradients of the global batch, params) -> what the optimiser gets; None: the gradients.
    """

    def loss_weight(name: str) -> float:
        return 1.0 if name == 'main' else config.loss.aux_weight

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        value_and_grad = parallel.global_value_and_grad(loss_fn, loss_weight, config.train.accumulate)
        (loss, terms, model_state, _), grads = value_and_grad(state.params, state.model_state, batch, keys)
        if change_grads is not None:
            grads = change_grads(grads, state.params)
        metrics = {
            'loss': Mean(loss, jnp.float32(1)),
            'learning_rate': optim.learning_rate(config.optim, config.train.num_steps, state.step),
            **{f'loss_{name}': term for name, term in terms.items()},
        }
        transform = optim.make(config.optim, config.train.num_steps, state.params)
        state = optim.apply(state, 'segmenter', transform, grads).replace(model_state=model_state)
        state = optim.update_average(state, config.train.ema)
        return state.replace(step=state.step + 1), metrics

    return train_step
