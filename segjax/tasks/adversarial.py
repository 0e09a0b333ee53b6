"""Adversarial training: generators that take a step against discriminators, and the reverse.

A step, top to bottom:

1. The loss of the generators, with the discriminators fixed. It returns the generated maps.
2. The loss of the discriminators on these maps, with the generators fixed.
3. A step of each optimiser. Both gradients are those of the nets before the step.

The pipeline writes the two losses. Each side is a `Player`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from segjax.core import optim, parallel
from segjax.losses import adversarial
from segjax.protocol import Array, Batch, Keys, Mean, Metrics, PyTree, TrainState
from segjax.tasks import supervised


class Player(NamedTuple):
    """A side of the game: the nets that it trains, and their loss.

    optimisers  of its nets, by name. The names of both players differ
    loss        state -> loss function (params, model_state, batch, keys) -> (terms, model_state,
                outputs), see `parallel.global_value_and_grad`. `params` and `model_state` hold the
                nets of the player. All further nets are fixed, and are read from the state
    weight_of   name of a term -> its weight
    """

    optimisers: supervised.Optimisers
    loss: Callable[[TrainState], Callable]
    weight_of: Callable[[str], float]

    @property
    def nets(self) -> tuple[str, ...]:
        """Returns the names of its nets."""
        return supervised.nets_of(self.optimisers)


class Control(NamedTuple):
    """Pauses of a player that is too far ahead, by the losses of the discriminators.

    The discriminators pause if a loss is below `low`, the generators if a loss is above `high`. If
    both would pause, both take their step. The released code of Hong et al. 2018 uses 0.3 and 0.7
    for ADE20K.

    terms  names of the terms of the discriminators that are compared, each a mean over patches
    low    lower limit
    high   upper limit
    """

    terms: tuple[str, ...] = ('real', 'generated')
    low: float = 0.3
    high: float = 0.7

    def moves(self, terms: Mapping[str, Mean]) -> tuple[Array, Array]:
        """Returns whether the generators and the discriminators take their step.

        Args:
          terms: of the discriminators on this device.
        """
        sums = parallel.sum_over_devices({name: terms[name] for name in self.terms})
        values = jnp.stack([mean.sum / mean.count for mean in sums.values()])
        discriminators_pause = (values < self.low).any()
        generators_pause = (values > self.high).any()
        both = discriminators_pause & generators_pause
        return ~generators_pause | both, ~discriminators_pause | both


def fresh_state(
    params: Mapping[str, PyTree],
    model_state: Mapping[str, PyTree],
    generators: Player,
    discriminators: Player,
    *,
    num_steps: int,
    ema: float,
) -> TrainState:
    """Builds the state of step 0. Only generators have averages, because only they are evaluated.

    Args:
      params: of all nets, including frozen nets.
      model_state: of all nets.
      generators: the first player.
      discriminators: the second player.
      num_steps: of the schedules.
      ema: decay of the averages. 0: no averages.
    """
    return supervised.fresh_state(
        params,
        model_state,
        {**generators.optimisers, **discriminators.optimisers},
        num_steps=num_steps,
        ema=ema,
        averaged=generators.nets,
    )


def make_train_step(
    generators: Player,
    discriminators: Player,
    *,
    num_steps: int,
    accumulate: int,
    ema: float,
    shared: Sequence[str] = (),
    control: Control | None = None,
) -> Callable:
    """Returns `Stage.train_step`: a step of both players on the same batch.

    The loss of the discriminators gets the batch together with the outputs of the generators, which
    have a row for each example or for each pair of neighbouring examples.

    Args:
      generators: the first player. The learning rate of its first optimiser is logged.
      discriminators: the second player.
      num_steps: of the schedules.
      accumulate: number of micro-batches.
      ema: decay of the averages of the generators. 0 turns averaging off.
      shared: `Stage.shared_streams`, whose keys are equal in all micro-batches.
      control: pauses of a player. None: both always take their step.
    """
    first = next(iter(generators.optimisers.values()))

    def value_and_grad(player: Player, state: TrainState, batch: Batch, keys: Keys):
        loss_fn = player.loss(state)
        compute = parallel.global_value_and_grad(loss_fn, player.weight_of, accumulate, shared)
        return compute(*_trained(player, state), batch, keys)

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        # Both gradients, before a net changes.
        (loss, terms, statistics, outputs), grads = value_and_grad(generators, state, batch, keys)
        judged = {**batch, **outputs}
        (d_loss, d_terms, d_statistics, _), d_grads = value_and_grad(
            discriminators, state, judged, keys
        )

        metrics = {
            'loss': Mean(loss, jnp.float32(1)),
            'loss_discriminator': Mean(d_loss, jnp.float32(1)),
            'learning_rate': optim.learning_rate(first.section, num_steps, state.step),
            **{f'loss_{name}': term for name, term in {**terms, **d_terms}.items()},
        }

        # A player that pauses keeps its nets and its optimisers, and counts no statistics.
        generators_move: Any = True
        discriminators_move: Any = True
        if control is not None:
            generators_move, discriminators_move = control.moves(d_terms)
            metrics |= _shares(generators_move, discriminators_move)
        state = _moved(generators, state, grads, statistics, num_steps, generators_move)
        state = _moved(discriminators, state, d_grads, d_statistics, num_steps, discriminators_move)

        # The average weighs by the number of earlier updates, so the step is counted last.
        state = optim.update_average(state, ema)
        return state.replace(step=state.step + 1), metrics

    return train_step


def _trained(player: Player, state: TrainState) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Returns parameters and batch statistics of the nets of a player."""
    params = supervised.select(state.params, player.nets)
    return params, supervised.select(state.model_state, player.nets)


def _shares(generators_move: Array, discriminators_move: Array) -> dict[str, Mean]:
    """Returns the metrics that count the steps of both players."""
    moves = {'generators_move': generators_move, 'discriminators_move': discriminators_move}
    return {name: Mean(moved.astype(jnp.float32), jnp.float32(1)) for name, moved in moves.items()}


def _moved(
    player: Player,
    state: TrainState,
    grads: Mapping[str, PyTree],
    statistics: Mapping[str, PyTree],
    num_steps: int,
    moves: Any,
) -> TrainState:
    """Returns the state after a step of each optimiser of a player, if it moves.

    Args:
      player: the generators or the discriminators.
      state: before the step.
      grads: {net: gradients} of the global batch.
      statistics: {net: batch statistics} after the step.
      num_steps: of the schedules.
      moves: True, or a bool on the device.
    """
    new = state
    for name, optimiser in player.optimisers.items():
        transform = optimiser.make(num_steps, supervised.select(state.params, optimiser.nets))
        new = optim.apply(new, name, transform, supervised.select(grads, optimiser.nets))
    new = new.replace(model_state={**new.model_state, **statistics})
    if moves is True:
        return new
    return jax.tree.map(lambda after, before: jnp.where(moves, after, before), new, state)


# --- losses of patches ----------------------------------------------------------------------------


def judge_loss(
    verdicts: Sequence[Sequence[Array]], target: float, weight: Array, kind: str = 'least_squares'
) -> Mean:
    """Computes the loss of a multi-scale discriminator.

    Args:
      verdicts: for each scale the features, and last the logits.
      target: value that the logits should have: 1 for real maps, 0 for generated maps.
      weight: [B] weight of each example.
      kind: name of the loss, a key of adversarial.LOSSES.
    """
    logits = [of_scale[-1] for of_scale in verdicts]
    return adversarial.of_scales(kind, logits, target, weight)
