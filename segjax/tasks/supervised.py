"""Supervised training of one net: what the baseline is, and what pipelines that change a part of it build on."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import optax

from segjax.core import optim, parallel, rng
from segjax.losses import segmentation as losses
from segjax.ops import resize
from segjax.protocol import Batch, Keys, Mean, Metrics, PRNGKey, PyTree, TrainState
from segjax.schema import Field, at_least, between, one_of
from segjax.spec import DataSpec
from segjax.tasks import segmentation

LOSS = {
    'name': Field('cross_entropy', 'Loss of each pixel.', one_of('cross_entropy', 'ohem')),
    **segmentation.CLASS_WEIGHTS,
    'label_smoothing': Field(
        0.0, 'Share of the target that is spread over all classes.', between(0, 1)
    ),
    'aux_weight': Field(0.4, 'Weight of each auxiliary head.', at_least(0)),
    'ohem_threshold': Field(
        0.7,
        'Loss ohem: pixels whose class has a probability below this value are hard.',
        between(0, 1),
    ),
    'ohem_min_kept': Field(
        1 / 16, 'Loss ohem: smallest share of the valid pixels that is kept.', between(0, 1)
    ),
}


def make_terms(config: ml_collections.ConfigDict, spec: DataSpec) -> Callable:
    """(outputs of a net, batch) -> {'main', 'aux_<head>'}: cross-entropy of the main and auxiliary heads."""
    rule, k = config.loss.class_weights, config.loss.weight_k
    class_weights = losses.class_weights(*segmentation.class_pixels(config, spec), rule, k=k)

    def pixel_loss(logits, batch: Batch) -> Mean:
        logits = resize.bilinear(logits.astype(jnp.float32), batch['label'].shape[1:])
        arguments = (
            logits,
            segmentation.train_label(batch['label'], config, spec),
            batch['weight'],
        )
        if config.loss.name == 'ohem':
            threshold, kept = config.loss.ohem_threshold, config.loss.ohem_min_kept
            return losses.ohem_cross_entropy(
                *arguments, threshold=threshold, min_kept_fraction=kept, class_weights=class_weights
            )
        smoothing = config.loss.label_smoothing
        return losses.cross_entropy(
            *arguments, class_weights=class_weights, label_smoothing=smoothing
        )

    def terms(outputs: Mapping, batch: Batch) -> dict[str, Mean]:
        auxiliary = {
            f'aux_{head}': pixel_loss(logits, batch)
            for head, logits in outputs.get('aux', {}).items()
        }
        return {'main': pixel_loss(outputs['logits'], batch), **auxiliary}

    return terms


def make_loss(config: ml_collections.ConfigDict, spec: DataSpec, net: segmentation.Net) -> Callable:
    """(params, model_state, batch, keys) -> (terms, model_state, {}), with the terms of `make_terms`."""
    terms = make_terms(config, spec)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        outputs, updates = net.apply(
            params['segmenter'],
            model_state['segmenter'],
            batch['image'],
            train=True,
            dropout=keys['dropout'],
        )
        return terms(outputs, batch), {'segmenter': updates}, {}

    return loss_fn


class Optimiser(NamedTuple):
    """Names the nets that an optimiser owns, and its settings.

    section  of the config
    nets     that it owns
    where    key of the section, which errors name
    """

    section: ml_collections.ConfigDict
    nets: tuple[str, ...]
    where: str = 'optim'

    def make(
        self, num_steps: int, params: Mapping[str, PyTree]
    ) -> optax.GradientTransformationExtraArgs:
        """Returns the transformation for the parameters of its nets."""
        return optim.make(self.section, num_steps, params, self.where)


Optimisers = Mapping[str, Optimiser]
"""The learning rate of the first one is logged. Nets of a state that no optimiser owns are frozen."""


def alone(config: ml_collections.ConfigDict) -> Optimisers:
    """One net, one optimiser."""
    return {'segmenter': Optimiser(config.optim, ('segmenter',))}


def fresh_state(
    params: Mapping[str, PyTree],
    model_state: Mapping[str, PyTree],
    optimisers: Optimisers,
    *,
    num_steps: int,
    ema: float,
) -> TrainState:
    """Step 0: fresh optimisers, and averages of the nets that are trained."""
    owned = {name: _only(params, one.nets) for name, one in optimisers.items()}
    trained = [net for nets in owned.values() for net in nets]
    return TrainState(
        step=jnp.int32(0),
        params=dict(params),
        model_state=dict(model_state),
        opt_state={
            name: one.make(num_steps, owned[name]).init(owned[name])
            for name, one in optimisers.items()
        },
        extra=optim.start_average(_only(params, trained), _only(model_state, trained), ema),
    )


def make_init(config: ml_collections.ConfigDict, net: segmentation.Net) -> Callable:
    """`Stage.init`: fresh parameters, statistics and optimiser."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        variables = net.init(rng.named(key, 'segmenter'), batch['image'][:1])
        params, model_state = {'segmenter': variables.pop('params')}, {'segmenter': variables}
        return fresh_state(
            params,
            model_state,
            alone(config),
            num_steps=config.train.num_steps,
            ema=config.train.ema,
        )

    return init


def make_train_step(
    loss_fn: Callable,
    optimisers: Optimisers,
    weight_of: Callable[[str], float],
    *,
    num_steps: int,
    accumulate: int,
    ema: float,
    shared: Collection[str] = (),
    prepare: Callable = lambda state, batch: batch,
    change_grads: Callable = lambda grads, params: grads,
) -> Callable:
    """`Stage.train_step`: the gradient of the global batch, one step of each optimiser, the averaged parameters.

    Args:
      loss_fn: (params, model_state, batch, keys) -> (terms, model_state, {}), of the nets that optimisers own.
      optimisers: of the state, from `fresh_state`.
      weight_of: name of a term of the loss -> what it is multiplied by.
      num_steps: of the schedules.
      accumulate: micro-batches.
      ema: decay of the averages; 0: none.
      shared: `Stage.shared_streams`: their keys are equal in all micro-batches.
      prepare: (state, batch) -> batch, with what frozen nets say.
      change_grads: (gradients of the global batch, params) -> what the optimisers get.
    """
    value_and_grad = parallel.global_value_and_grad(loss_fn, weight_of, accumulate, shared)
    trained = [net for one in optimisers.values() for net in one.nets]

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        params, model_state = _only(state.params, trained), _only(state.model_state, trained)
        (loss, terms, model_state, _), grads = value_and_grad(
            params, model_state, prepare(state, batch), keys
        )
        grads = change_grads(grads, params)
        first = next(iter(optimisers.values()))
        metrics = {
            'loss': Mean(loss, jnp.float32(1)),
            'learning_rate': optim.learning_rate(first.section, num_steps, state.step),
            **{f'loss_{name}': term for name, term in terms.items()},
        }
        for name, one in optimisers.items():
            transform = one.make(num_steps, _only(params, one.nets))
            state = optim.apply(state, name, transform, _only(grads, one.nets))
        state = state.replace(model_state={**state.model_state, **model_state})
        state = optim.update_average(state, ema)
        return state.replace(step=state.step + 1), metrics

    return train_step


def make_supervised_step(
    config: ml_collections.ConfigDict, loss_fn: Callable, **options
) -> Callable:
    """`make_train_step` with the terms of `make_terms`, one optimiser, and config.train."""
    return make_train_step(
        loss_fn, alone(config), head_weight(config), **schedule(config), **options
    )


def schedule(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What `make_train_step` wants of config.train."""
    return {key: config.train[key] for key in ('num_steps', 'accumulate', 'ema')}


def head_weight(config: ml_collections.ConfigDict) -> Callable[[str], float]:
    """Weights of the terms of `make_terms`."""
    return lambda name: 1.0 if name == 'main' else config.loss.aux_weight


def _only(tree: Mapping[str, PyTree], nets: Iterable[str]) -> dict[str, PyTree]:
    return {net: tree[net] for net in nets}
