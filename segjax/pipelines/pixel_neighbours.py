"""Images from landmarks or normal maps by pixel-wise nearest neighbours (PixelNN).

It is a rival of `dropout_codes`, with the same conditions, scores and predictions. Source: Bansal,
Sheikh, Ramanan, PixelNN: Example-based Image Synthesis, ICLR 2018.

Method, top to bottom:

1. A net regresses the image of a condition by the squared error. Its image is smooth, because many
   images fit a condition.
2. The second stage stores all training images and their smooth images in its state. It passes over
   the training images once.
3. The image of a condition is copied, pixel by pixel, from training images whose smooth images have
   similar features (tasks/pixel_neighbours.py). Samples differ by the images that they may use. The
   numbers of these images among the nearest images are the same for all conditions.

Choices of our own: the net is the cascaded refinement network of dropout_codes with a single image.
The features are those of Phi, a frozen net. Its deepest layer chooses the nearest images. Smooth
images have 8 bits.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import means, optim, parallel, rng
from segjax.errors import InputError
from segjax.ops import images
from segjax.protocol import (
    Array,
    Batch,
    Keys,
    Mean,
    Metrics,
    PRNGKey,
    PyTree,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, at_least
from segjax.spec import DataSpec, split_names
from segjax.tasks import conditional_images, pixel_neighbours, sampling, supervised
from segjax.tasks.conditional_images import Task

SCHEMA = {
    **conditional_images.KEYS,
    'model': models.net_choice(
        'generator',
        'crn',
        'Net that regresses a smooth image.',
        only=('crn',),
        branches='single',
    ),
    'matching': {
        'layers': Field(
            ('conv1_2', 'conv2_2', 'conv3_3'),
            'Layers of Phi whose features are compared at each pixel. The last layer chooses the '
            'nearest images, too.',
        ),
        'num_images': Field(
            32, 'Nearest training images K of a condition, whose pixels are compared.', at_least(1)
        ),
        'images_of_sample': Field(
            8, 'Images among the nearest from which a sample may copy pixels.', at_least(1)
        ),
        'radius': Field(
            8,
            'Largest distance of rows and of columns between a pixel and its copy. -1: anywhere.',
            at_least(-1),
        ),
    },
    'testing': {
        **sampling.TESTING,
        'codes_seed': Field(0, 'Seed of the sets of images of samples.', at_least(0)),
    },
    'optim': OPTIM,
}

REGRESSION = 'regression'
MATCHING = 'matching'
"""Names of the stages."""
REGRESSOR = 'regressor'
"""Name of the net in a state."""
BANK = 'bank'
"""Entry of `TrainState.extra` with the training images, see `empty_bank`."""


class System(NamedTuple):
    """The inputs that all functions of the stages share.

    task        conditions, Phi and scores
    net         the regression net
    num_images  N of the training split
    """

    task: Task
    net: nn.Module
    num_images: int

    @property
    def config(self) -> ml_collections.ConfigDict:
        """Returns the config of the run."""
        return self.task.config


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the stages that train the nets of the scores, the regression net, and the matching.

    Raises:
      InputError: settings that contradict each other, or a frozen net without a source.
    """
    num_images = spec.split(config.data.train_split).num_examples
    check(config, num_images)
    task = conditional_images.make_task(config, spec, config.matching.layers)
    net = models.build_from(
        'generator',
        config.model,
        out_channels=3,
        dtype=config.train.dtype,
        axis_name=parallel.AXIS,
    )
    system = System(task, net, num_images)
    return (
        *conditional_images.scorer_stages(config, spec),
        make_regression(system),
        make_matching(system),
    )


# --- the smooth image -----------------------------------------------------------------------------


def make_regression(system: System) -> Stage:
    """Builds the stage of the regression net, which scores the smooth images as single samples."""
    config = system.config
    task = system.task
    draw = functools.partial(draw_smooth, system)
    judge = conditional_images.make_judge(task, draw, None)
    return Stage(
        name=REGRESSION,
        num_steps=config.train.num_steps,
        train_input=conditional_images.train_input(task),
        eval_input=conditional_images.eval_input(task),
        streams=(),
        init=make_init(system),
        train_step=supervised.make_train_step(
            make_loss(system), optimisers(system), lambda term: 1.0, **supervised.schedule(config)
        ),
        prediction=conditional_images.make_prediction(task, draw, None),
        frozen=conditional_images.loaded_nets(task),
        **sampling.make_evaluation(judge)._asdict(),
    )


def optimisers(system: System) -> supervised.Optimisers:
    """Returns the only optimiser."""
    return {REGRESSOR: supervised.Optimiser(system.config.optim, (REGRESSOR,))}


def make_init(system: System) -> Callable:
    """Returns `Stage.init` of the regression: a new net, its optimiser, and the frozen nets."""
    task = system.task
    train = system.config.train

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        condition = jax.ShapeDtypeStruct((1, *task.size, task.channels), jnp.float32)
        variables = {
            REGRESSOR: system.net.lazy_init(rng.named(key, REGRESSOR), condition, train=False),
            **conditional_images.frozen_variables(task, key, earlier),
        }
        return supervised.fresh_state(
            *supervised.fields_of(variables),
            optimisers(system),
            num_steps=train.num_steps,
            ema=train.ema,
        )

    return init


def make_loss(system: System) -> Callable:
    """Returns the loss of the regression: the mean squared error of images in [-1, 1]."""

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        condition = conditional_images.batch_condition(system.task, batch)
        smooth = regress(system, params, condition)
        return {'squared_error': squared_error(smooth, batch)}, model_state, {}

    return loss_fn


def squared_error(smooth: Array, batch: Batch) -> Mean:
    """Returns the mean squared error of smooth images [B, H, W, 3] in [-1, 1]."""
    target = images.normalize(batch['image'], 'symmetric')
    error = ((smooth - target) ** 2).mean((1, 2, 3))
    return means.mean_of_examples(error, batch['weight'])


def regress(system: System, params: Mapping[str, PyTree], condition: Array) -> Array:
    """Returns the smooth images [B, H, W, 3] of conditions [B, H, W, K], also beyond [-1, 1]."""
    outputs = system.net.apply({'params': params[REGRESSOR]}, condition, train=False)
    return outputs['image'][:, 0]


def draw_smooth(system: System, state: TrainState, condition: Array, codes: Array | None) -> Array:
    """Returns the smooth images as single samples in [-1, 1], [B, 1, H, W, 3]."""
    params, _ = optim.averaged(state, system.config.train.ema)
    return jnp.clip(regress(system, params, condition), -1, 1)[:, None]


# --- the training images --------------------------------------------------------------------------


def make_matching(system: System) -> Stage:
    """Builds the stage that stores the training images, and draws samples from their pixels."""
    config = system.config
    task = system.task
    draw = functools.partial(draw_samples, system, member_sets(config))
    judge = conditional_images.make_judge(task, draw, None)
    # The images are stored as evaluation sees them, without augmentation.
    train_input = conditional_images.train_input(task)._replace(augment=None)
    return Stage(
        name=MATCHING,
        num_steps=-(-system.num_images // config.train.batch_size),
        train_input=train_input,
        eval_input=conditional_images.eval_input(task),
        streams=(),
        init=make_matching_init(system),
        train_step=functools.partial(store_images, system),
        prediction=conditional_images.make_prediction(task, draw, None),
        **sampling.make_evaluation(judge)._asdict(),
    )


def make_matching_init(system: System) -> Callable:
    """Returns `Stage.init` of the matching: the nets of the regression, and an empty bank."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        ema = system.config.train.ema
        params, model_state = supervised.evaluated_nets(earlier[REGRESSION], ema)
        bank = empty_bank(system, params)
        return TrainState(jnp.int32(0), params, model_state, {}, {BANK: bank})

    return init


def empty_bank(system: System, params: Mapping[str, PyTree]) -> dict[str, Array]:
    """Returns the places of all training images.

    sharp     [N, H, W, 3] uint8, the images
    smooth    [N, H, W, 3] uint8, the images that the net regresses from their conditions
    features  [N, C] float32, features of the smooth images as wholes
    """
    shape = (*system.task.size, 3)
    photo = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
    features = jax.eval_shape(functools.partial(whole_features, system, params), photo)
    places = jnp.zeros((system.num_images, *shape), jnp.uint8)
    return {
        'sharp': places,
        'smooth': places,
        'features': jnp.zeros((system.num_images, features.shape[-1])),
    }


def store_images(
    system: System, state: TrainState, batch: Batch, keys: Keys
) -> tuple[TrainState, Metrics]:
    """Stores the images of a batch. It is `Stage.train_step`.

    The metric is the error of the smooth images, from which nothing learns here.
    """
    condition = conditional_images.batch_condition(system.task, batch)
    smooth = regress(system, state.params, condition)

    # All devices store the images of all devices.
    rows = {'sharp': batch['image'], 'smooth': images.to_uint8(smooth, 'symmetric')}
    rows['features'] = whole_features(system, state.params, rows['smooth'])
    rows = {name: parallel.all_rows(row) for name, row in rows.items()}
    index = parallel.all_rows(batch['index'])

    # Behind the last image the next pass begins, whose images are stored already.
    order = state.step * len(index) + jnp.arange(len(index))
    index = jnp.where(order < system.num_images, index, system.num_images)
    bank = {}
    for name, places in state.extra[BANK].items():
        bank[name] = places.at[index].set(rows[name], mode='drop')
    state = state.replace(step=state.step + 1, extra={**state.extra, BANK: bank})
    return state, {'loss': squared_error(smooth, batch)}


# --- samples --------------------------------------------------------------------------------------


def layers_of(system: System, params: Mapping[str, PyTree], image: Array) -> dict[str, Array]:
    """Returns the layers of Phi that are compared, of images [B, H, W, 3] uint8."""
    values = images.normalize(image, 'symmetric')
    layers = conditional_images.features_of(system.task.phi, params, values)
    return {layer: layers[layer] for layer in system.config.matching.layers}


def whole_features(system: System, params: Mapping[str, PyTree], image: Array) -> Array:
    """Returns the features of whole images [B, H, W, 3] uint8, [B, C]."""
    *_, deepest = layers_of(system, params, image).values()
    return pixel_neighbours.global_features(deepest)


def member_sets(config: ml_collections.ConfigDict) -> np.ndarray:
    """Returns which of the nearest images each sample may use, [n, K] bool."""
    section = config.matching
    return pixel_neighbours.member_sets(
        np.random.default_rng(config.testing.codes_seed),
        config.testing.num_samples,
        section.num_images,
        section.images_of_sample,
    )


def draw_samples(
    system: System,
    members: np.ndarray,
    state: TrainState,
    condition: Array,
    codes: Array | None,
) -> Array:
    """Returns samples in [-1, 1], whose pixels are those of training images, [B, n, H, W, 3].

    Args:
      system: of the stage.
      members: [n, K] bool, from `member_sets`.
      state: of the stage.
      condition: X [B, H, W, K].
      codes: None. Samples have no codes.
    """
    section = system.config.matching
    size = condition.shape[1:3]
    params = state.params
    bank = state.extra[BANK]

    # The smooth image of a condition, and the training images with the most similar smooth images.
    smooth = images.to_uint8(regress(system, params, condition), 'symmetric')
    query = whole_features(system, params, smooth)
    nearest = pixel_neighbours.nearest_images(query, bank['features'], section.num_images)

    def pixels(image: Array) -> Array:
        return pixel_neighbours.pixel_features(layers_of(system, params, image), size)

    # Example after example, because features of pixels need much memory.
    def samples_of(example: tuple[Array, Array]) -> Array:
        image, places = example
        return pixel_neighbours.generate(
            pixels(image[None])[0],
            pixels(bank['smooth'][places]),
            bank['sharp'][places],
            members,
            section.radius,
        )

    drawn = jax.lax.map(samples_of, (smooth, nearest))
    return images.normalize(drawn, 'symmetric')


# --- checks ---------------------------------------------------------------------------------------


def check(config: ml_collections.ConfigDict, num_images: int) -> None:
    """Raises InputError for settings that contradict each other.

    Args:
      config: of the run.
      num_images: of the training split.
    """
    section = config.matching
    split = config.data.train_split
    if '[' in split:
        raise InputError(
            'config.data.train_split',
            got=repr(split),
            expected='whole splits, because the size of the state is the number of their images',
            fix=f'--config.data.train_split={"+".join(split_names(split))}',
        )
    if config.model.branches != 'single':
        raise InputError(
            'config.model.branches',
            got=repr(config.model.branches),
            expected="'single', because a condition has one smooth image",
            fix='--config.model.branches=single',
        )
    if not section.layers:
        raise InputError(
            'config.matching.layers',
            got='()',
            expected='layers of Phi, whose features are compared',
            fix='--config.matching.layers="(\'conv1_2\',)"',
        )
    if section.num_images > num_images:
        raise InputError(
            'config.matching.num_images',
            got=f'{section.num_images} of {num_images} training images',
            expected='no more images than there are',
            fix=f'--config.matching.num_images={num_images}',
        )
    # Samples differ by their sets alone.
    number = config.testing.num_samples
    most = section.num_images - 1 if number > 1 else section.num_images
    if section.images_of_sample > most:
        raise InputError(
            'config.matching.images_of_sample',
            got=f'{section.images_of_sample} of the nearest {section.num_images} images',
            expected=f'at most {most}, so that samples have different images',
            fix=f'--config.matching.images_of_sample={most}'
            if most
            else '--config.testing.num_samples=1',
        )
