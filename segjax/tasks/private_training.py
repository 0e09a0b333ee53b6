"""Private training of a segmentation net: clipped and noised gradients, and their epsilon.

segjax/core/private.py computes the gradients, segjax/tasks/accountant.py accounts for them.

Source: Abadi et al., Deep Learning with Differential Privacy, CCS 2016.
"""

from collections.abc import Callable, Mapping

import ml_collections

from segjax.core import private
from segjax.errors import InputError
from segjax.protocol import Batch, Keys, Mean, PyTree, Scores
from segjax.schema import Field, above, at_least, between, one_of
from segjax.tasks import accountant, scorers, supervised

STREAM = 'privacy'
"""Random stream of the noise. Its key is equal on all devices."""

SECTION = {
    'use': Field(False, 'Train V with clipped and noised gradients (DP-SGD).'),
    'clip_norm': Field(1.0, 'Largest norm of the gradient of an example.', above(0)),
    'noise_multiplier': Field(
        1.0, 'Standard deviation of the noise in units of `clip_norm`.', at_least(0)
    ),
    'delta': Field(1e-4, 'Probability delta at which epsilon is computed.', between(1e-12, 0.5)),
    'accountant': Field(
        'none',
        'Bound of epsilon that is scored: none, or an accountant of dp-accounting.',
        one_of('none', *accountant.ACCOUNTANTS),
    ),
}
"""Keys of the section `privacy`."""


def make_step(
    training: scorers.Training, terms: Callable, weight_of: Callable[[str], float]
) -> Callable:
    """Returns `Stage.train_step` of a net with private gradients.

    A private gradient belongs to a single example, so batch norms use their running statistics, and
    drop-out is off.

    Args:
      training: of the net. Its config has the section `privacy`.
      terms: (outputs, batch) -> {name: Mean}.
      weight_of: name of a term -> its weight.
    """
    config = training.config

    # The statistics of a batch would mix examples.
    def loss_fn(params: PyTree, model_state: PyTree, batch: Batch, keys: Keys):
        own = (params[training.name], model_state[training.name])
        outputs, _ = training.net.apply(*own, batch['image'], train=False)
        return terms(outputs, batch), model_state, {}

    value_and_grad = private.private_value_and_grad(
        loss_fn,
        weight_of,
        clip_norm=config.privacy.clip_norm,
        noise_multiplier=config.privacy.noise_multiplier,
        batch_size=training.batch_size,
        accumulate=config.train.accumulate,
        shared=(STREAM,),
    )
    return supervised.make_train_step(
        loss_fn,
        training.optimisers,
        weight_of,
        **supervised.schedule(config),
        value_and_grad=value_and_grad,
    )


def refusal(training: scorers.Training, num_examples: int) -> InputError | None:
    """Returns the error that epsilon would raise after the training, None without an error.

    Batches may be larger than the training set, or dp-accounting may be missing.

    Args:
      training: of the net.
      num_examples: training images.
    """
    if training.config.privacy.accountant == 'none':
        return None
    try:
        accountant.check(**_numbers(training, num_examples))
    except InputError as error:
        return error
    return None


def with_epsilon(
    training: scorers.Training,
    num_examples: int,
    finalize: Callable[[Mapping[str, Mean]], Scores],
) -> Callable[[Mapping[str, Mean]], Scores]:
    """Returns `Stage.finalize` that adds epsilon of the whole training.

    Args:
      training: of the net.
      num_examples: training images.
      finalize: without epsilon.
    """
    name = training.config.privacy.accountant
    if name == 'none':
        return finalize

    def with_score(metrics: Mapping[str, Mean]) -> Scores:
        epsilon = accountant.epsilon(**_numbers(training, num_examples), accountant=name)
        return {**finalize(metrics), 'epsilon': epsilon}

    return with_score


def _numbers(training: scorers.Training, num_examples: int) -> dict[str, int | float]:
    """Returns the arguments of the accountant."""
    privacy: ml_collections.ConfigDict = training.config.privacy
    return {
        'num_examples': num_examples,
        'batch_size': training.batch_size,
        'num_steps': training.num_steps,
        'noise_multiplier': privacy.noise_multiplier,
        'delta': privacy.delta,
    }
