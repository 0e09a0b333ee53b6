"""Images from landmarks or normal maps by GANs: pix2pix, and BicycleGAN.

They are the rivals of `dropout_codes`, with the same conditions, scores and predictions.

    pix2pix     Isola et al., CVPR 2017. Samples differ by the drop-out of the generator
    bicycle     Zhu et al., NeurIPS 2017. Samples differ by a latent code from N(0, I)

Method, top to bottom:

1. The condition X is a heat map for each landmark, or a normal map (tasks/conditional_images.py).
2. `tasks/pix2pix.py` or `tasks/bicycle.py` trains generator and discriminators.
3. Evaluation draws `testing.num_samples` images for each condition. The random numbers of a sample
   are the same for all conditions, so sample 3 of two faces has the same code.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from segjax.core import optim, rng
from segjax.errors import InputError
from segjax.models.generators import unet
from segjax.ops import images
from segjax.protocol import Array, Batch, PRNGKey, Stage, TrainState
from segjax.schema import Field, at_least, one_of
from segjax.spec import DataSpec
from segjax.tasks import bicycle, conditional_images, pix2pix, sampling, supervised
from segjax.tasks.conditional_images import Task

GANS = {'pix2pix': pix2pix, 'bicycle': bicycle}
"""Modules of the systems, by name."""

SCHEMA = {
    **conditional_images.KEYS,
    'gan': Field('bicycle', 'System: pix2pix, or BicycleGAN.', one_of(*GANS)),
    'pix2pix': pix2pix.PIX2PIX,
    'bicycle': bicycle.BICYCLE,
    'testing': {
        **sampling.TESTING,
        'codes_seed': Field(0, 'Seed of the codes or of the drop-out of samples.', at_least(0)),
    },
}

STAGE = 'gan'
"""Name of the stage that trains the system."""


class System(NamedTuple):
    """The inputs that all functions of the stage share.

    task   conditions, frozen nets and scores
    gan    module of the system
    nets   its nets and settings
    """

    task: Task
    gan: Any
    nets: Any

    @property
    def config(self) -> ml_collections.ConfigDict:
        """Returns the config of the run."""
        return self.task.config


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the stages that train the nets of the scores, if asked for, and the GAN.

    Raises:
      InputError: settings that contradict each other, or a frozen net without a source.
    """
    check(config)
    task = conditional_images.make_task(config, spec)
    gan = GANS[config.gan]
    pair_of = functools.partial(pair, task)
    nets = gan.make_system(config, config[config.gan], pair_of, out_channels=3, where=config.gan)
    system = System(task, gan, nets)
    return (*conditional_images.scorer_stages(config, spec), make_stage(system))


def pair(task: Task, batch: Batch) -> tuple[Array, Array]:
    """Returns the conditions [B, H, W, K] and the images [B, H, W, 3] in [-1, 1] of a batch."""
    condition = conditional_images.batch_condition(task, batch)
    return condition, images.normalize(batch['image'], 'symmetric')


def make_stage(system: System) -> Stage:
    """Builds the stage of the GAN."""
    # The same samples serve evaluation and prediction.
    config = system.config
    task = system.task
    draw = functools.partial(draw_samples, system)
    is_bicycle = config.gan == 'bicycle'
    codes = functools.partial(testing_codes, system) if is_bicycle else None
    code_shape = system.nets.code_shape if is_bicycle else ()
    judge = conditional_images.make_judge(task, draw, codes)
    num_steps = config.train.num_steps
    return Stage(
        name=STAGE,
        num_steps=num_steps,
        train_input=conditional_images.train_input(task),
        eval_input=conditional_images.eval_input(task),
        streams=system.gan.STREAMS,
        shared_streams=system.gan.STREAMS,
        init=make_init(system),
        train_step=system.gan.make_train_step(system.nets, num_steps),
        prediction=conditional_images.make_prediction(task, draw, codes, code_shape),
        frozen=conditional_images.loaded_nets(task),
        **sampling.make_evaluation(judge)._asdict(),
    )


def make_init(system: System) -> Callable:
    """Returns `Stage.init`: the nets of the GAN, and the frozen nets of the scores."""
    init_gan = system.gan.make_init(system.nets, system.config.train.num_steps)

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        state = init_gan(key, batch, earlier)
        frozen = conditional_images.frozen_variables(system.task, key, earlier)
        params, model_state = supervised.fields_of(frozen)
        return state.replace(
            params={**state.params, **params}, model_state={**state.model_state, **model_state}
        )

    return init


# --- samples --------------------------------------------------------------------------------------


def draw_samples(system: System, state: TrainState, condition: Array, codes: Array | None) -> Array:
    """Returns samples in [-1, 1] of the nets that evaluation uses, [B, n, H, W, 3].

    Args:
      system: of the stage.
      state: of the stage.
      condition: X [B, H, W, K].
      codes: [n, ...] of the samples of BicycleGAN. None: pix2pix.
    """
    testing = system.config.testing
    params, model_state = optim.averaged(state, system.config.train.ema)
    if codes is not None:
        drawn = bicycle.sample(system.nets, params, model_state, condition, codes)
    else:
        # A key for each sample, the same for all conditions.
        key = rng.root(testing.codes_seed, 'drop-out of samples')
        keys = jax.random.split(key, testing.num_samples)
        keys = jnp.broadcast_to(keys, (len(condition), len(keys)))
        drawn = pix2pix.sample(system.nets, params, model_state, condition, keys)
    return jnp.clip(drawn, -1, 1)


def testing_codes(system: System, state: TrainState) -> Array:
    """Returns the codes of the samples of BicycleGAN, [n, *code_shape] from N(0, I)."""
    testing = system.config.testing
    key = rng.root(testing.codes_seed, 'new codes')
    return jax.random.normal(key, (testing.num_samples, *system.nets.code_shape))


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for several samples of a pix2pix that has no drop-out.

    Only the middle levels of its U-Net have drop-out, of which 5 halvings leave none.
    """
    model = config.pix2pix.model
    is_noisy = model.dropout > 0 and model.num_downs > unet.SMALLEST_DEPTH
    if config.gan == 'pix2pix' and config.testing.num_samples > 1 and not is_noisy:
        raise InputError(
            'config.testing.num_samples',
            got=f'{config.testing.num_samples}, with dropout={model.dropout} and '
            f'num_downs={model.num_downs} of pix2pix.model',
            expected='1, because all samples of a net without drop-out are equal',
            fix='--config.testing.num_samples=1',
        )
