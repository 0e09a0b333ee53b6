"""pix2pix: an image of a condition, by a generator against a discriminator that sees both.

    L_G = adversarial GAN(D(A, G(A)), 1) + l1 |G(A) - B|
    L_D = 1/2 GAN(D(A, B), 1) + 1/2 GAN(D(A, G(A)), 0)

The noise of G is its dropout, in training and in `sample`. Both gradients are computed with the
nets before the step (tasks/adversarial.py). The released code steps D first, so its G meets a
discriminator that is a step ahead.

The released test computes batch norms with the statistics of the tested image. Here evaluation uses
running statistics, so that an image does not depend on its batch.

Source: Isola, Zhu, Zhou, Efros, Image-to-Image Translation with Conditional Adversarial Networks,
CVPR 2017.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from segjax import models
from segjax.core import parallel, rng
from segjax.losses import adversarial as gan_losses
from segjax.losses import image as image_losses
from segjax.models.generators import multiscale
from segjax.protocol import Array, Batch, Keys, PRNGKey, PyTree, TrainState
from segjax.schema import OPTIM, Field, at_least, one_of
from segjax.tasks import adversarial, segmentation, supervised

PIX2PIX = {
    'model': models.net_choice(
        'generator', 'unet', 'Generator, from a condition to an image.', only=('unet',)
    ),
    'discriminator': models.net_choice(
        'discriminator',
        'multiscale',
        'Discriminator of conditions with their images.',
        only=('multiscale',),
        **multiscale.PIX2PIX_FIELDS,
    ),
    'adversarial': Field('logistic', 'Loss of the discriminator.', one_of(*gan_losses.LOSSES)),
    'weights': {
        'adversarial': Field(1.0, 'Weight of the loss against the discriminator.', at_least(0)),
        'l1': Field(100.0, 'Weight of the L1 distance to the target.', at_least(0)),
    },
    'optim': OPTIM,
    'optim_discriminator': OPTIM,
}
"""Keys of the section `pix2pix`."""

GENERATOR = 'pix2pix'
DISCRIMINATOR = 'pix2pix_discriminator'
"""Names of both nets in a state."""

GENERATED = 'pix2pix_generated'
"""Name of the images among the outputs of the generator's loss."""

STREAMS = ('dropout',)
"""`Stage.streams` and `Stage.shared_streams` of the training: keys are folded with the example."""


class System(NamedTuple):
    """The nets and settings that all functions of a training share.

    config         of the run. The section train is read
    section        of the keys PIX2PIX
    where          key of the section, which errors name
    pair_of        batch -> (condition [B, H, W, K], target [B, H, W, C]), floating point
    generator      net(condition, train, keys) -> {'image': ..}
    discriminator  net(x, train) -> verdicts of all scales
    """

    config: ml_collections.ConfigDict
    section: ml_collections.ConfigDict
    where: str
    pair_of: Callable[[Batch], tuple[Array, Array]]
    generator: nn.Module
    discriminator: nn.Module


def make_system(
    config: ml_collections.ConfigDict,
    section: ml_collections.ConfigDict,
    pair_of: Callable[[Batch], tuple[Array, Array]],
    out_channels: int,
    where: str = 'pix2pix',
) -> System:
    """Builds the nets of a section.

    Args:
      config: of the run.
      section: of the keys PIX2PIX.
      pair_of: condition and target of a batch.
      out_channels: C of the target.
      where: key of the section, which errors name.
    """
    given = {'dtype': config.train.dtype, 'axis_name': parallel.AXIS}
    return System(
        config,
        section,
        where,
        pair_of,
        models.build_from('generator', section.model, out_channels=out_channels, **given),
        models.build_from('discriminator', section.discriminator, **given),
    )


def make_init(system: System, num_steps: int) -> Callable:
    """Returns `Stage.init`: generator, discriminator and their optimisers."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        condition, target = jax.eval_shape(system.pair_of, dict(batch))
        *size, channels = condition.shape[1:]
        inputs = {
            GENERATOR: (system.generator, channels),
            DISCRIMINATOR: (system.discriminator, channels + target.shape[-1]),
        }
        variables = {}
        for name, (net, count) in inputs.items():
            maps = jax.ShapeDtypeStruct((1, *size, count), jnp.float32)
            variables[name] = net.lazy_init(rng.named(key, name), maps, train=False)
        fields = supervised.fields_of(variables)
        ema = system.config.train.ema
        return adversarial.fresh_state(*fields, *players(system), num_steps=num_steps, ema=ema)

    return init


# --- the step -------------------------------------------------------------------------------------


def players(system: System) -> tuple[adversarial.Player, adversarial.Player]:
    """Returns the generator and the discriminator with their losses."""
    section = system.section
    weights = {key: float(section.weights[key]) for key in section.weights}
    optimiser = supervised.Optimiser(section.optim, (GENERATOR,), f'{system.where}.optim')
    d_optimiser = supervised.Optimiser(
        section.optim_discriminator, (DISCRIMINATOR,), f'{system.where}.optim_discriminator'
    )
    return (
        adversarial.Player(
            {GENERATOR: optimiser}, functools.partial(generator_loss, system), weights.__getitem__
        ),
        adversarial.Player(
            {DISCRIMINATOR: d_optimiser},
            functools.partial(discriminator_loss, system),
            {'real': 0.5, 'generated': 0.5}.__getitem__,
        ),
    )


def make_train_step(system: System, num_steps: int) -> Callable:
    """Returns `Stage.train_step`: a step of both nets on the same batch."""
    train = system.config.train
    return adversarial.make_train_step(
        *players(system),
        num_steps=num_steps,
        accumulate=train.accumulate,
        ema=train.ema,
        shared=STREAMS,
    )


def _judge(system: System, params, model_state, condition: Array, target: Array):
    """Returns the verdicts of the discriminator on pairs, and its batch statistics."""
    pair = jnp.concatenate([condition.astype(target.dtype), target], -1)
    return segmentation.apply_net(system.discriminator, params, model_state, pair, train=True)


def generator_loss(system: System, state: TrainState) -> Callable:
    """Returns the loss L_G, with the discriminator of a state. Terms of weight 0 are left out."""
    weights = system.section.weights
    critic = (state.params[DISCRIMINATOR], state.model_state[DISCRIMINATOR])

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        condition, target = system.pair_of(batch)
        weight = batch['weight']
        dropout = rng.of_examples(keys['dropout'], batch['index'])
        outputs, statistics = segmentation.apply_net(
            system.generator,
            params[GENERATOR],
            model_state[GENERATOR],
            condition,
            train=True,
            keys=dropout,
        )
        generated = outputs['image']

        # The discriminator keeps its parameters and its batch statistics.
        terms = {}
        if weights.adversarial:
            verdicts, _ = _judge(system, *critic, condition, generated)
            kind = system.section.adversarial
            terms['adversarial'] = adversarial.judge_loss(verdicts, 1.0, weight, kind)
        if weights.l1:
            terms['l1'] = image_losses.l1(generated, target, weight)
        return terms, {GENERATOR: statistics}, {GENERATED: generated}

    return loss_fn


def discriminator_loss(system: System, state: TrainState) -> Callable:
    """Returns the loss L_D, on targets and on the images of the generator."""
    kind = system.section.adversarial

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        condition, target = system.pair_of(batch)
        statistics = model_state[DISCRIMINATOR]
        terms = {}
        for name, image, wanted in (('real', target, 1.0), ('generated', batch[GENERATED], 0.0)):
            verdicts, statistics = _judge(
                system, params[DISCRIMINATOR], statistics, condition, image
            )
            terms[name] = adversarial.judge_loss(verdicts, wanted, batch['weight'], kind)
        return terms, {DISCRIMINATOR: statistics}, {}

    return loss_fn


# --- the trained net ------------------------------------------------------------------------------


def sample(
    system: System,
    params: Mapping[str, PyTree],
    model_state: Mapping[str, PyTree],
    condition: Array,
    keys: Array,
) -> Array:
    """Returns images of conditions that differ by their dropout: [B, n, H, W, C] float32.

    The images of a condition are computed in turn, so the memory of the net does not grow with n.

    Args:
      system: with the generator.
      params: of a state, or its averages.
      model_state: of the same.
      condition: [B, H, W, K].
      keys: [B, n] keys of the dropout.
    """

    def images_of(keys: Array) -> Array:
        outputs, _ = segmentation.apply_net(
            system.generator,
            params[GENERATOR],
            model_state[GENERATOR],
            condition,
            train=False,
            keys=keys,
        )
        return outputs['image']

    images = jax.lax.map(images_of, jnp.moveaxis(keys, 1, 0))  # [n, B, H, W, C]
    return jnp.moveaxis(images, 0, 1)
