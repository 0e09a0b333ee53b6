"""Supervised training of one net, for the baseline and for pipelines that change a part of it.

A step, top to bottom: `make_loss` or another loss function returns named terms, as `Mean`s over
pixels. `make_train_step` sums them with the weights of `head_weight`, computes the gradient of the
global batch, and updates each optimiser's nets once. Then it moves the parameter averages.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import optax

from segjax.core import optim, parallel, rng
from segjax.losses import segmentation as losses
from segjax.ops import resize
from segjax.protocol import Array, Batch, Keys, Mean, Metrics, PRNGKey, PyTree, TrainState
from segjax.schema import Field, at_least, between, one_of
from segjax.spec import DataSpec
from segjax.tasks import segmentation

LOSS = {
    'name': Field('cross_entropy', 'Loss of each pixel.', one_of('cross_entropy', 'ohem')),
    **segmentation.CLASS_WEIGHTS,
    'label_smoothing': Field(
        0.0,
        'Loss cross_entropy: share of the target that is spread over all classes.',
        between(0, 1),
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


# --- the loss -------------------------------------------------------------------------------------


def make_terms(config: ml_collections.ConfigDict, spec: DataSpec) -> Callable:
    """Returns the pixel losses of all heads: (outputs of a net, batch) -> {'main', 'aux_<head>'}.

    Logits are resized to the label first.
    """
    settings = config.loss
    # Weights depend on the whole training split, so they are constants of the loss.
    pixels, ignored = segmentation.class_pixels(config, spec)
    class_weights = losses.class_weights(
        pixels, ignored, settings.class_weights, k=settings.weight_k
    )

    def pixel_loss(logits: Array, batch: Batch) -> Mean:
        # The loss is in float32 at the size of the label, whatever the dtype of the net.
        logits = resize.bilinear(logits.astype(jnp.float32), batch['label'].shape[1:])
        label = segmentation.train_label(batch['label'], config, spec)
        if settings.name == 'ohem':
            return losses.ohem_cross_entropy(
                logits,
                label,
                batch['weight'],
                threshold=settings.ohem_threshold,
                min_kept_fraction=settings.ohem_min_kept,
                class_weights=class_weights,
            )
        return losses.cross_entropy(
            logits,
            label,
            batch['weight'],
            class_weights=class_weights,
            label_smoothing=settings.label_smoothing,
        )

    def terms(outputs: Mapping, batch: Batch) -> dict[str, Mean]:
        auxiliary = {}
        for head, logits in outputs.get('aux', {}).items():
            auxiliary[f'aux_{head}'] = pixel_loss(logits, batch)
        return {'main': pixel_loss(outputs['logits'], batch), **auxiliary}

    return terms


def make_loss(config: ml_collections.ConfigDict, spec: DataSpec, net: segmentation.Net) -> Callable:
    """Returns (params, model_state, batch, keys) -> (terms of `make_terms`, model_state, {})."""
    return net_loss(net, make_terms(config, spec))


def net_loss(
    net: segmentation.Net,
    terms: Callable[[Mapping, Batch], dict[str, Mean]],
    feature: str = 'image',
    name: str = 'segmenter',
) -> Callable:
    """Returns the loss of a training that has one net.

    Args:
      net: the net.
      terms: (outputs of the net, batch) -> named terms.
      feature: key of the input in a batch.
      name: of the net in the state.

    Returns:
      (params, model_state, batch, keys) -> (terms, model_state, {}), for `make_train_step`.
    """

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        outputs, statistics = net.apply(
            params[name], model_state[name], batch[feature], train=True, dropout=keys['dropout']
        )
        return terms(outputs, batch), {name: statistics}, {}

    return loss_fn


def head_weight(config: ml_collections.ConfigDict) -> Callable[[str], float]:
    """Returns a function from the name of a term of `make_terms` to its weight."""

    def weight(name: str) -> float:
        return 1.0 if name == 'main' else config.loss.aux_weight

    return weight


# --- optimisers and the state ---------------------------------------------------------------------


class Optimiser(NamedTuple):
    """The settings of an optimiser, and the names of the nets that it owns.

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
"""By name. The learning rate of the first is logged. Nets that no optimiser owns are frozen."""


def alone(config: ml_collections.ConfigDict) -> Optimisers:
    """Returns the only optimiser of a training that has one net."""
    return {'segmenter': Optimiser(config.optim, ('segmenter',))}


def select(tree: Mapping[str, PyTree], nets: Iterable[str]) -> dict[str, PyTree]:
    """Returns the entries of these nets."""
    return {net: tree[net] for net in nets}


def fields_of(
    variables: Mapping[str, Mapping[str, PyTree]],
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Splits the variables of nets, {net: variables}, into (params, model_state) of a state."""
    params = {}
    model_state = {}
    for net, collections in variables.items():
        statistics = dict(collections)
        params[net] = statistics.pop('params')
        model_state[net] = statistics
    return params, model_state


def fresh_state(
    params: Mapping[str, PyTree],
    model_state: Mapping[str, PyTree],
    optimisers: Optimisers,
    *,
    num_steps: int,
    ema: float,
    averaged: Collection[str] | None = None,
) -> TrainState:
    """Builds the state of step 0: new optimisers and, if used, averages of trained nets.

    Args:
      params: of all nets.
      model_state: of all nets.
      optimisers: by name. Nets that no optimiser owns are frozen.
      num_steps: of the schedules.
      ema: decay of the averages. 0: no averages.
      averaged: trained nets that have averages. None: all trained nets.
    """
    opt_state = {}
    trained = []
    for name, optimiser in optimisers.items():
        owned = select(params, optimiser.nets)
        opt_state[name] = optimiser.make(num_steps, owned).init(owned)
        trained += optimiser.nets
    nets = trained if averaged is None else averaged
    average = optim.start_average(select(params, nets), select(model_state, nets), ema)
    return TrainState(
        step=jnp.int32(0),
        params=dict(params),
        model_state=dict(model_state),
        opt_state=opt_state,
        extra=average,
    )


def evaluated_nets(state: TrainState, ema: float) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Returns (params, model_state) that the evaluation of an earlier stage has used.

    Args:
      state: of the stage, perhaps without averages.
      ema: decay of the averages, `train.ema`.
    """
    return optim.averaged(state, ema if 'ema' in state.extra else 0.0)


def evaluated_variables(
    state: TrainState, ema: float, nets: Iterable[str]
) -> dict[str, dict[str, PyTree]]:
    """Returns {net: variables} of nets that an earlier stage has trained, see `evaluated_nets`."""
    params, model_state = evaluated_nets(state, ema)
    return {net: {'params': params[net], **model_state[net]} for net in nets}


def make_init(config: ml_collections.ConfigDict, net: segmentation.Net) -> Callable:
    """Returns `Stage.init` of one net: new parameters, statistics and optimiser."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        variables = {'segmenter': net.init(rng.named(key, 'segmenter'), batch['image'][:1])}
        train = config.train
        return fresh_state(
            *fields_of(variables), alone(config), num_steps=train.num_steps, ema=train.ema
        )

    return init


# --- the step -------------------------------------------------------------------------------------


def nets_of(optimisers: Optimisers) -> tuple[str, ...]:
    """Returns the names of the nets that optimisers train."""
    owned = [optimiser.nets for optimiser in optimisers.values()]
    return tuple(net for nets in owned for net in nets)


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
    finish: Callable = lambda state, batch, outputs: state,
    value_and_grad: Callable | None = None,
) -> Callable:
    """Returns `Stage.train_step`: a gradient, a step of each optimiser, and new averages.

    Args:
      loss_fn: (params, model_state, batch, keys) -> (terms, model_state, outputs by example), where
        params and model_state hold the nets that optimisers own.
      optimisers: of the state, as given to `fresh_state`.
      weight_of: name of a term of the loss -> its weight.
      num_steps: of the schedules.
      accumulate: number of micro-batches.
      ema: decay of the averages. 0 turns averaging off.
      shared: `Stage.shared_streams`, whose keys are equal in all micro-batches.
      prepare: (state, batch) -> batch, adds the outputs of frozen nets.
      change_grads: (gradients of the global batch, params) -> gradients for the optimisers.
      finish: (state, prepared batch, outputs) -> state, called before the step is counted.
      value_and_grad: of `private.private_value_and_grad`. None: the gradient of the global batch.
    """
    if value_and_grad is None:
        value_and_grad = parallel.global_value_and_grad(loss_fn, weight_of, accumulate, shared)
    first = next(iter(optimisers.values()))
    trained = nets_of(optimisers)

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        # The gradient, for the trained nets alone.
        params = select(state.params, trained)
        model_state = select(state.model_state, trained)
        batch = prepare(state, batch)
        result, grads = value_and_grad(params, model_state, batch, keys)
        loss, terms, model_state, outputs = result
        grads = change_grads(grads, params)
        metrics = {
            'loss': Mean(loss, jnp.float32(1)),
            'learning_rate': optim.learning_rate(first.section, num_steps, state.step),
            **{f'loss_{name}': term for name, term in terms.items()},
        }
        # One step of each optimiser.
        for name, optimiser in optimisers.items():
            transform = optimiser.make(num_steps, select(params, optimiser.nets))
            state = optim.apply(state, name, transform, select(grads, optimiser.nets))
        state = state.replace(model_state={**state.model_state, **model_state})
        state = finish(state, batch, outputs)

        # The average weighs by the number of earlier updates, so the step is counted last.
        state = optim.update_average(state, ema)
        return state.replace(step=state.step + 1), metrics

    return train_step


def make_supervised_step(
    config: ml_collections.ConfigDict, loss_fn: Callable, **options
) -> Callable:
    """Returns `make_train_step` for the terms of `make_terms`, one optimiser, and config.train."""
    weight_of = head_weight(config)
    return make_train_step(loss_fn, alone(config), weight_of, **schedule(config), **options)


def schedule(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the arguments of `make_train_step` that config.train sets."""
    return {key: config.train[key] for key in ('num_steps', 'accumulate', 'ema')}
