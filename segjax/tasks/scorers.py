"""Nets that score images, such as the results of a generator, and the stage that trains a scorer.

A scorer is a segmentation net on images. It is trained on the images of the data set in a stage of
its own, or loaded from a run. The pipeline that uses it keeps it frozen in its own state:

    if config.landmarks.use == 'train':
        stages.append(landmarks.make_stage(config, spec, config.landmarks, name='landmarks'))

    # In `init` of the stage that scores images.
    of_net = landmarks.make_variables(config, spec, config.landmarks, size, stage='landmarks')
    variables[landmarks.NET] = of_net(key, earlier)

    # In its evaluation.
    detect = landmarks.make_scorer(config, spec, config.landmarks)
    points = detect(state.params[landmarks.NET], state.model_state[landmarks.NET], image)

`Stage.frozen` of the stage that scores images names the net with `use=load`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from segjax import models
from segjax.core import rng
from segjax.ops import images
from segjax.protocol import Array, Batch, Input, Mean, PRNGKey, PyTree, TrainState
from segjax.schema import AUGMENT, OPTIM, Field, at_least, one_of
from segjax.tasks import segmentation, sources, supervised

NONE = 'none'
USES = (NONE, 'train', 'load')
"""Origins of a scorer: no scorer, trained in a stage of its own, loaded from a run."""

OWN_AUGMENT = (
    'scale',
    'rotate',
    'translate',
    'flip',
    'brightness',
    'contrast',
    'saturation',
    'hue',
    'blur',
)
"""Keys of `augment` that a scorer has for itself. It sees images of the size `augment.crop`."""


# --- sections -------------------------------------------------------------------------------------


def net_section(doc: str) -> dict[str, Any]:
    """Returns the config keys of the net of a scorer, its input and its optimiser.

    Args:
      doc: meaning of the net, a sentence.
    """
    return {
        'model': models.net_choice('segmentation', 'erfnet', doc),
        'preprocess': segmentation.PREPROCESS,
        'optim': OPTIM,
    }


def use_section(net: str, kind: str) -> dict[str, Any]:
    """Returns the config keys of a scorer in a pipeline that has further stages.

    Args:
      net: its name in a state.
      kind: of the net, for docs: 'landmark net'.
    """
    return {
        'use': Field(
            NONE,
            f'Scores by a {kind}: none, trained in a first stage, or loaded from the row {net!r} '
            'of init_from.sources.',
            one_of(*USES),
        ),
        'num_steps': Field(1000, f'Steps of the training of the {kind}.', at_least(1)),
        'batch_size': Field(32, f'Batch size of the training of the {kind}.', at_least(1)),
        'augment': {key: AUGMENT[key] for key in OWN_AUGMENT},
    }


def check_source(
    config: ml_collections.ConfigDict, section: ml_collections.ConfigDict, net: str, where: str
) -> None:
    """Raises InputError for a scorer that is loaded, but has no source.

    Args:
      config: of the run.
      section: of the scorer, with the keys of `use_section`.
      net: its name in a state.
      where: key of the section.
    """
    if section.use == 'load' and not config.init_from.path:
        sources.check_source(
            config,
            net,
            (f'runs/{where}', f'the run of the net {net!r}'),
            f'--config.{where}.use={NONE} scores without it',
        )


# --- nets -----------------------------------------------------------------------------------------


def make_net(
    config: ml_collections.ConfigDict, section: ml_collections.ConfigDict, num_outputs: int
) -> segmentation.Net:
    """Builds the net of a section with the keys of `net_section`."""
    prepare = functools.partial(images.normalize, scheme=section.preprocess)
    return segmentation.make_net(section.model, num_outputs, config.train.dtype, prepare)


def make_variables(
    config: ml_collections.ConfigDict,
    net: segmentation.Net,
    name: str,
    size: tuple[int, int],
    stage: str,
) -> Callable[[PRNGKey, Mapping[str, TrainState]], Mapping[str, PyTree]]:
    """Returns (key, earlier) -> variables of a frozen net, for `init` of the stage that uses it.

    The variables are those that the evaluation of its own stage has used. Without such a stage they
    are new, and `init_from` replaces them.

    Args:
      config: of the run.
      net: the net.
      name: of the net in a state.
      size: (height, width) of its images.
      stage: name of the stage that trains it.
    """

    def variables(key: PRNGKey, earlier: Mapping[str, TrainState]) -> Mapping[str, PyTree]:
        if stage in earlier:
            params, model_state = supervised.evaluated_nets(earlier[stage], config.train.ema)
            return {'params': params[name], **model_state[name]}
        image = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
        return net.init(rng.named(key, name), image)

    return variables


# --- training -------------------------------------------------------------------------------------


class Training(NamedTuple):
    """The training of a single net on the images of the data set.

    config      of the run
    net         the net
    name        of the net in the state
    optim       section of its optimiser
    where       key of the section of the optimiser, for errors
    num_steps   of the stage
    batch_size  of a global batch
    batch_key   key of the batch size, for errors
    augment     settings of the augmentation. `crop` is the size of the images
    """

    config: ml_collections.ConfigDict
    net: segmentation.Net
    name: str
    optim: ml_collections.ConfigDict
    where: str
    num_steps: int
    batch_size: int
    batch_key: str
    augment: ml_collections.ConfigDict

    @property
    def optimisers(self) -> supervised.Optimisers:
        """Returns the optimiser of the net."""
        return {self.name: supervised.Optimiser(self.optim, (self.name,), self.where)}


def training_of(
    config: ml_collections.ConfigDict,
    net: segmentation.Net,
    name: str,
    section: ml_collections.ConfigDict,
    where: str,
) -> Training:
    """Returns the training that a section describes.

    A section without the keys of `use_section` belongs to a pipeline that only trains this net. Its
    steps, batch size and augmentation are those of the run.

    Args:
      config: of the run.
      net: the net.
      name: of the net in the state.
      section: with the keys of `net_section`, and perhaps of `use_section`.
      where: key of the section. '': the config itself.
    """
    prefix = f'{where}.' if where else ''
    has_own = 'use' in section
    augment = config.augment
    if has_own:
        augment = ml_collections.ConfigDict({**config.augment, **section.augment})
    return Training(
        config=config,
        net=net,
        name=name,
        optim=section.optim,
        where=f'{prefix}optim',
        num_steps=section.num_steps if has_own else config.train.num_steps,
        batch_size=section.batch_size if has_own else config.train.batch_size,
        batch_key=f'{prefix}batch_size' if has_own else 'train.batch_size',
        augment=augment,
    )


def train_input(training: Training, features: tuple[str, ...]) -> Input:
    """Returns the images of `data.train_split`."""
    return Input(
        split=training.config.data.train_split,
        batch_size=training.batch_size,
        features=features,
        size=tuple(training.augment.crop),
        augment=training.augment,
        batch_key=training.batch_key,
    )


def eval_input(config: ml_collections.ConfigDict, features: tuple[str, ...]) -> Input:
    """Returns the images of `data.eval_split`."""
    return Input(
        split=config.data.eval_split,
        batch_size=config.evaluate.batch_size,
        features=features,
        size=tuple(config.data.eval_size),
    )


def make_init(training: Training) -> Callable:
    """Returns `Stage.init`: new parameters, statistics and optimiser of the net."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        image = batch['image'][:1]
        variables = {training.name: training.net.init(rng.named(key, training.name), image)}
        return supervised.fresh_state(
            *supervised.fields_of(variables),
            training.optimisers,
            num_steps=training.num_steps,
            ema=training.config.train.ema,
        )

    return init


def make_train_step(
    training: Training,
    terms: Callable[[Mapping, Batch], dict[str, Mean]],
    weight_of: Callable[[str], float],
) -> Callable:
    """Returns `Stage.train_step`.

    Args:
      training: of the net.
      terms: (outputs of the net, batch) -> named terms of the loss.
      weight_of: name of a term -> its weight.
    """
    train = training.config.train
    return supervised.make_train_step(
        supervised.net_loss(training.net, terms, name=training.name),
        training.optimisers,
        weight_of,
        num_steps=training.num_steps,
        accumulate=train.accumulate,
        ema=train.ema,
    )


def make_infer(training: Training) -> Callable[[TrainState, Array], Array]:
    """Returns (state, image [B, H, W, 3] uint8) -> float32 logits [B, h, w, C]."""

    def infer(state: TrainState, image: Array) -> Array:
        ema = training.config.train.ema
        outputs = segmentation.averaged_net(training.net, state, ema, training.name)(image)
        return outputs['logits'].astype(jnp.float32)

    return infer
