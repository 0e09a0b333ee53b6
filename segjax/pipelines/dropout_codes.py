"""Diverse conditional image generation by stochastic regression with latent drop-out codes.

He, Schiele and Fritz, ECCV 2018; chapter 5 of He's thesis. Symbols and equation numbers are the
thesis'.

Method, top to bottom. A condition X (heat maps of landmarks, or a normal map) is given.

1. A cascaded refinement network is split early: f_1 is shared, f_2 is a branch. The code z^i of
   branch i chooses the channels that are kept behind f_1 (Eqs. 5.1, 5.2):

       Y^i = f_2(f_1(X), d(z^i))

2. In training the n codes are fixed. The images of all branches are compared with the target by the
   perceptual loss l (Eq. 5.6).
3. Best neighbour (Eq. 5.4): the branch of the smallest loss learns the target.
   Neighbours enhanced (Eq. 5.5): the images of neighbours, whose conditions are close to X, are
   targets too. Every target is assigned to a branch of its own (Sec. 5.2.2).
4. In testing any number of new codes gives new images. Codes between two codes interpolate between
   their images (Eq. 5.3).

Rivals share the net (`model.branches`): branches with parameters of their own ('separate'), all
images from the last layer ('late', the diverse CRN of Chen and Koltun), and one image ('single').
`model.dropout` compares classic drop-out.

Choices that the thesis leaves open:

* Costs of all branches need no gradient. Shared branches compute the assigned images a second time,
  with gradient. So memory does not grow with the number of branches.
* The weights of the layers in Eq. 5.6 are calibrated once, as in CRN. The weight of a layer is the
  mean error of the image, divided by that of the layer, over the first steps. They are a frozen
  net of the state, so another run can load them and has an equal loss.
* The loss of an example is the sum over its targets. The loss of a batch is the mean over its
  examples.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from segjax import models
from segjax.core import optim, parallel, rng
from segjax.data import neighbours
from segjax.errors import InputError
from segjax.losses import samples as losses
from segjax.ops import codes as code_ops
from segjax.ops import images
from segjax.protocol import (
    Array,
    Batch,
    Derived,
    Keys,
    Mean,
    Metrics,
    Picture,
    PRNGKey,
    PyTree,
    Stage,
    TableFrames,
    TrainState,
)
from segjax.schema import OPTIM, Field, above, at_least, between, is_number, one_of
from segjax.spec import DataSpec
from segjax.tasks import conditional_images, sampling, sources, supervised
from segjax.tasks.conditional_images import IMAGE, POINTS, Task
from segjax.tasks.evaluation import Pictures

TABLE = 'number_neighbours'
"""Feature with the neighbours of an example."""
GENERATOR = 'generator'
"""Name of the net in a state, and of its stage."""
STREAMS = ('relaxation',)
"""`Stage.shared_streams`: the key of random branches."""
FACTORS = 'loss_factors'
"""Name of the weights lambda among the nets of a state: {layer: number}."""


def _weights(value: Iterable) -> str | None:
    """Checks weights of layers, or the empty tuple."""
    ok = all(is_number(weight) and weight >= 0 for weight in value)
    return None if ok else 'numbers from 0 up, or ()'


SCHEMA = {
    **conditional_images.KEYS,
    'model': models.net_choice('generator', 'crn', 'Generator with branches.', only=('crn',)),
    'neighbours': {
        'use': Field(False, 'Train with neighbours: Eq. 5.5 in the place of Eq. 5.4.'),
        'num_clusters': Field(
            9, 'Neighbours N of an example, one of each cluster of colours.', at_least(1)
        ),
        'num_positions': Field(
            16, 'Nearest examples of a cluster, of which one is drawn.', at_least(1)
        ),
        'percentile': Field(
            5.0, 'Share of the pairs of examples that are near, in per cent.', between(0, 100)
        ),
        'threshold': Field(
            0.0,
            'Largest distance of neighbours: the L1 distance of all landmarks, in widths of the '
            'image. 0: `percentile` decides.',
            at_least(0),
        ),
        'colours': Field(
            'histogram',
            'Colours of an image that are clustered: histograms or means of HSV.',
            one_of(*neighbours.COLOURS),
        ),
    },
    'loss': {
        'layers': Field(
            ('conv1_2', 'conv2_2', 'conv3_2', 'conv4_2', 'conv5_2'),
            'Layers of Phi in the perceptual loss. The image itself is a layer, too.',
        ),
        'factors': Field(
            (),
            'Weights lambda of the image and of the layers, in this order. (): as `use` says.',
            _weights,
        ),
        'use': Field(
            'calibrate',
            'Weights lambda, if `factors` is (): calibrated in the first steps, or loaded from '
            f"another run, as its net '{FACTORS}'.",
            one_of('calibrate', 'load'),
        ),
        'calibrate_steps': Field(
            100,
            'Steps whose errors calibrate the weights. Until then every weight is 1.',
            at_least(1),
        ),
        'emphasis': Field(
            1.0,
            'Calibrated share of the last of `layers`, relative to the image. 10 in CRN.',
            above(0),
        ),
        'relaxation': Field(
            0.0,
            'Share of the loss that is the mean error of all branches, so that no branch is lost. '
            'CRN has 0.001. A random branch of each example estimates the mean.',
            between(0, 1),
        ),
        'relaxed_steps': Field(
            0,
            'First steps, during which this share falls linearly from 1 to `relaxation`. So all '
            'branches draw plain images before they differ.',
            at_least(0),
        ),
    },
    'branches_at_once': Field(
        8, 'Branches that are computed together without gradient.', at_least(1)
    ),
    'testing': {
        **sampling.TESTING,
        'codes': Field(
            'training',
            'Codes of the samples: those of the training, new codes, or those of the training '
            'followed by new codes.',
            one_of('training', 'new', 'both'),
        ),
        'codes_seed': Field(0, 'Seed of new codes.', at_least(0)),
        'interpolation': Field(
            7, 'Images from the first code to the second in the report. 0: none.', at_least(0)
        ),
    },
    'optim': OPTIM,
}


class System(NamedTuple):
    """The inputs that all functions of the stage share.

    task  conditions, Phi and scores
    net   the generator
    """

    task: Task
    net: nn.Module

    @property
    def config(self) -> ml_collections.ConfigDict:
        """Returns the config of the run."""
        return self.task.config

    @property
    def has_codes(self) -> bool:
        """Returns whether codes make the branches."""
        return self.config.model.branches == 'shared'

    @property
    def num_branches(self) -> int:
        """Returns the number n of branches in training."""
        return num_branches(self.config)

    @property
    def calibrates(self) -> bool:
        """Returns whether the first steps calibrate the weights of the loss."""
        loss = self.config.loss
        return loss.use == 'calibrate' and not loss.factors

    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the layers of the loss, the image first."""
        return (IMAGE, *self.config.loss.layers)


def num_branches(config: ml_collections.ConfigDict) -> int:
    """Returns the number n of branches in training."""
    return 1 if config.model.branches == 'single' else config.model.num_branches


# --- stages ---------------------------------------------------------------------------------------


def make_features(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Derived, ...]:
    """Returns the table of the neighbours of each example, if the training uses it."""
    if not config.neighbours.use:
        return ()
    check_neighbours(config)
    section = config.neighbours
    fields = neighbours.Neighbourhood._fields
    choice = neighbours.Neighbourhood(**{field: section[field] for field in fields})
    return (neighbours.neighbours_feature(choice, POINTS, TABLE),)


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the stages that train the nets of the scores, if asked for, and the generator.

    Raises:
      InputError: settings that contradict each other, or a frozen net without a source.
    """
    system = make_system(config, spec)
    return (*conditional_images.scorer_stages(config, spec), make_stage(system))


def make_system(config: ml_collections.ConfigDict, spec: DataSpec) -> System:
    """Builds the nets of the generator's stage."""
    check(config)
    task = conditional_images.make_task(config, spec, config.loss.layers)
    net = models.build_from(
        'generator',
        config.model,
        out_channels=3,
        dtype=config.train.dtype,
        axis_name=parallel.AXIS,
    )
    return System(task, net)


def make_stage(system: System) -> Stage:
    """Builds the stage of the generator."""
    config = system.config
    task = system.task
    train_input = conditional_images.train_input(task)
    if config.neighbours.use:
        # A neighbour of each cluster is drawn anew in each epoch.
        frames = TableFrames(config.neighbours.num_clusters, TABLE, drawn=True)
        train_input = conditional_images.train_input(
            task, frames, ('image_frames', 'present_frames')
        )

    # The same samples serve evaluation and prediction.
    draw = functools.partial(draw_samples, system)
    codes = functools.partial(testing_codes, system) if system.has_codes else None
    shape = code_shape(system) if system.has_codes else ()
    judge = conditional_images.make_judge(task, draw, codes)
    evaluation = sampling.make_evaluation(judge)
    return Stage(
        name=GENERATOR,
        num_steps=config.train.num_steps,
        train_input=train_input,
        eval_input=conditional_images.eval_input(task),
        streams=(),
        shared_streams=STREAMS,
        init=make_init(system),
        train_step=make_train_step(system),
        prediction=conditional_images.make_prediction(task, draw, codes, shape),
        frozen=loaded_nets(system),
        **evaluation._replace(render=make_render(system, evaluation.render))._asdict(),
    )


# --- codes and samples ----------------------------------------------------------------------------


def code_shape(system: System) -> tuple[int, ...]:
    """Returns the shape of a code z."""
    return system.net.code_shape(*system.task.size)


def training_codes(system: System, key: PRNGKey) -> Array:
    """Draws the fixed codes z^i of the training, [n, ...] in [0, 1]."""
    return code_ops.draw(key, system.num_branches, code_shape(system))


def testing_codes(system: System, state: TrainState) -> Array:
    """Returns the codes of the samples that `testing` asks for, [n, ...]."""
    testing = system.config.testing
    known = state.extra['codes']
    if testing.codes == 'training':
        return known[: testing.num_samples]

    # The first new code is the same for any number of samples.
    used = known[:0] if testing.codes == 'new' else known[: testing.num_samples]
    key = rng.root(testing.codes_seed, 'new codes')
    places = jnp.arange(testing.num_samples - len(used))
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(places)
    further = jax.vmap(lambda key: code_ops.draw(key, 1, known.shape[1:])[0])(keys)
    return jnp.concatenate([used, further])


def draw_samples(system: System, state: TrainState, condition: Array, codes: Array | None) -> Array:
    """Returns samples in [-1, 1] of the net that evaluation uses, [B, n, H, W, 3].

    Args:
      system: of the stage.
      state: of the stage.
      condition: X [B, H, W, K].
      codes: of the samples, [n, ...]. None: the net has its own branches.
    """
    params, _ = optim.averaged(state, system.config.train.ema)
    if codes is not None:
        drawn = branch_images(system, params[GENERATOR], condition, codes)
    else:
        drawn = all_images(system, params[GENERATOR], condition)
        drawn = drawn[:, : system.config.testing.num_samples]
    return jnp.clip(drawn, -1, 1)


def all_images(system: System, params: PyTree, condition: Array) -> Array:
    """Returns the images of a net that has its own branches, [B, n, H, W, 3]."""
    outputs = system.net.apply({'params': params}, condition, None, train=False)
    return outputs['image']


def branch_images(system: System, params: PyTree, condition: Array, codes: Array) -> Array:
    """Returns Y^i = f_2(f_1(X), d(z^i)) of codes [n, ...] (Eq. 5.1), [B, n, H, W, 3].

    f_1 is computed once. Groups of `branches_at_once` branches are computed after each other.
    """
    variables = {'params': params}
    trunk = system.net.apply(variables, condition, method=system.net.trunk)

    def branch(code: Array) -> Array:
        drawn = system.net.apply(variables, trunk, condition, code[None], method=system.net.branch)
        return drawn[:, 0]

    drawn = jax.lax.map(branch, codes, batch_size=system.config.branches_at_once)
    return jnp.moveaxis(drawn, 0, 1)


# --- the loss -------------------------------------------------------------------------------------


def make_loss(system: System, state: TrainState) -> Callable:
    """Returns the loss of the generator (Eqs. 5.4 and 5.5) as errors by layer.

    The loss is the sum of the errors with the weights lambda of Eq. 5.6.

    Args:
      system: of the stage.
      state: holds Phi, the codes and the weights.
    """
    phi = functools.partial(conditional_images.features_of, system.task.phi, state.params)
    codes = state.extra.get('codes')

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        condition = conditional_images.batch_condition(system.task, batch)
        targets, present = targets_of(system, batch)
        source = branch_source(system, params[GENERATOR], condition)

        def render(source: PyTree, branches: Array) -> dict[str, Array]:
            return phi(chosen_images(system, source, condition, codes, branches))

        # Targets are assigned to branches by their costs, which have no gradient.
        errors, _ = losses.assigned_errors(
            render,
            source,
            phi(targets),
            present,
            layer_factors(system, state),
            batch['weight'],
            num_branches=system.num_branches,
            chunk=system.config.branches_at_once,
            relaxation=make_relaxation(system, state.step, batch, keys),
        )
        return errors, {GENERATOR: model_state[GENERATOR]}, {}

    return loss_fn


def make_relaxation(
    system: System, step: Array, batch: Batch, keys: Keys
) -> losses.Relaxation | None:
    """Draws a branch of each example, which depends on its index and the step alone.

    The share of random branches at step t is max(relaxation, 1 - t / relaxed_steps).

    Args:
      system: of the stage.
      step: t, the steps taken so far.
      batch: of the step.
      keys: with the stream of STREAMS.

    Returns:
      None if the share is 0 in all steps.
    """
    section = system.config.loss
    if not section.relaxation and not section.relaxed_steps:
        return None
    share = section.relaxation
    if section.relaxed_steps:
        share = jnp.maximum(share, 1 - step / section.relaxed_steps)

    def draw(key: PRNGKey) -> Array:
        return jax.random.randint(key, (), 0, system.num_branches)

    branches = jax.vmap(draw)(rng.of_examples(keys['relaxation'], batch['index']))
    return losses.Relaxation(share, branches)


def branch_source(system: System, params: PyTree, condition: Array) -> PyTree:
    """Returns what the branches of an example have in common and get a gradient through.

    Args:
      system: of the stage.
      params: of the generator.
      condition: X [B, H, W, K].

    Returns:
      With codes: the parameters, and f_1(X). Without: all images [B, n, H, W, 3].
    """
    if not system.has_codes:
        return all_images(system, params, condition)
    return params, system.net.apply({'params': params}, condition, method=system.net.trunk)


def chosen_images(
    system: System, source: PyTree, condition: Array, codes: Array | None, branches: Array
) -> Array:
    """Returns the images of some branches of each example, [B, k, H, W, 3].

    Args:
      system: of the stage.
      source: of `branch_source`.
      condition: X [B, H, W, K].
      codes: of the training, [n, ...]. None: a net without codes.
      branches: [B, k] int32.
    """
    if not system.has_codes:
        return jnp.take_along_axis(source, branches[..., None, None, None], 1)
    params, trunk = source
    return system.net.apply(
        {'params': params}, trunk, condition, codes[branches], method=system.net.branch
    )


def layer_factors(system: System, state: TrainState) -> dict[str, Array]:
    """Returns the weight lambda of each layer."""
    return given_factors(system) or state.params[FACTORS]


def given_factors(system: System) -> dict[str, Array]:
    """Returns the weights lambda of the config, {} if they are calibrated or loaded."""
    factors = [jnp.float32(factor) for factor in system.config.loss.factors]
    return dict(zip(system.layers, factors, strict=True)) if factors else {}


def targets_of(system: System, batch: Batch) -> tuple[Array, Array]:
    """Returns the targets Y^0, .., Y^N, and which of them exist.

    Returns:
      [B, 1 + N, H, W, 3] in [-1, 1], and [B, 1 + N] float32.
    """
    targets = batch['image'][:, None]
    present = jnp.ones(targets.shape[:2])
    if system.config.neighbours.use:
        targets = jnp.concatenate([targets, batch['image_frames']], 1)
        present = jnp.concatenate([present, batch['present_frames']], 1)
    return images.normalize(targets, 'symmetric'), present


# --- training -------------------------------------------------------------------------------------


def optimisers(system: System) -> supervised.Optimisers:
    """Returns the only optimiser."""
    return {GENERATOR: supervised.Optimiser(system.config.optim, (GENERATOR,))}


def loaded_nets(system: System) -> tuple[str, ...]:
    """Returns the names of the nets that come from other runs or files."""
    loss = system.config.loss
    factors = (FACTORS,) if loss.use == 'load' and not loss.factors else ()
    return (*conditional_images.loaded_nets(system.task), *factors)


def make_init(system: System) -> Callable:
    """Returns `Stage.init`: the generator, its codes, the weights of the loss, the frozen nets."""
    config = system.config
    task = system.task

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        codes = training_codes(system, rng.named(key, 'codes')) if system.has_codes else None
        condition = jax.ShapeDtypeStruct((1, *task.size, task.channels), jnp.float32)
        generator = system.net.lazy_init(rng.named(key, GENERATOR), condition, codes, train=False)
        factors = given_factors(system) or dict.fromkeys(system.layers, jnp.float32(1))
        variables = {
            GENERATOR: generator,
            FACTORS: {'params': factors},
            **conditional_images.frozen_variables(task, key, earlier),
        }
        state = supervised.fresh_state(
            *supervised.fields_of(variables),
            optimisers(system),
            num_steps=config.train.num_steps,
            ema=config.train.ema,
        )

        # Sums of errors calibrate the weights. A checkpoint cannot hold an empty array.
        extra = {}
        if system.calibrates:
            extra['errors'] = jnp.zeros(len(system.layers))
        if codes is not None:
            extra['codes'] = codes
        return state.replace(extra={**state.extra, **extra})

    return init


def make_train_step(system: System) -> Callable:
    """Returns `Stage.train_step`: a step of the generator. The first steps calibrate the loss."""
    schedule = supervised.schedule(system.config)

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        # The state holds the weights of the config, too, so that other runs can load them.
        factors = layer_factors(system, state)
        state = state.replace(params={**state.params, FACTORS: factors})
        step = supervised.make_train_step(
            make_loss(system, state), optimisers(system), factors.__getitem__, **schedule
        )
        state, metrics = step(state, batch, keys)
        if system.calibrates:
            state = calibrated(system, state, metrics)
        return state, metrics

    return train_step


def calibrated(system: System, state: TrainState, metrics: Metrics) -> TrainState:
    """Returns the state with the errors of a step. The last such step sets the weights.

    Args:
      system: of the stage.
      state: after the step.
      metrics: of the step, on this device.
    """
    section = system.config.loss
    terms = {layer: metrics[f'loss_{layer}'] for layer in system.layers}
    sums = parallel.sum_over_devices(terms)
    of_step = jnp.stack([sums[layer].value() for layer in system.layers])
    counts = state.step <= section.calibrate_steps
    errors = state.extra['errors'] + jnp.where(counts, of_step / section.calibrate_steps, 0)

    # Every layer gets the share of the image, and the last perhaps more.
    by_layer = {layer: Mean(errors[place], 1.0) for place, layer in enumerate(system.layers)}
    weights = losses.calibrated(by_layer, {system.layers[-1]: section.emphasis})
    is_last = state.step == section.calibrate_steps
    factors = {}
    for layer, factor in state.params[FACTORS].items():
        factors[layer] = jnp.where(is_last, weights[layer], factor)
    return state.replace(
        params={**state.params, FACTORS: factors}, extra={**state.extra, 'errors': errors}
    )


# --- pictures -------------------------------------------------------------------------------------


def make_render(system: System, of_samples: Callable) -> Callable:
    """Returns `Stage.render`: condition, samples, and an interpolation (Eq. 5.3, Fig. 5.8).

    Args:
      system: of the stage.
      of_samples: pictures of the condition and of the samples.
    """
    number = system.config.testing.interpolation

    def render(state: TrainState, batch: Batch, keys: Keys) -> Pictures:
        pictures = of_samples(state, batch, keys)
        if not number or not system.has_codes:
            return pictures
        params, _ = optim.averaged(state, system.config.train.ema)
        first, second = state.extra['codes'][:2]
        shares = jnp.linspace(1.0, 0.0, number)
        between = jax.vmap(lambda share: code_ops.interpolate(first, second, share))(shares)
        condition = conditional_images.batch_condition(system.task, batch)
        drawn = branch_images(system, params[GENERATOR], condition, between)
        shown = images.to_uint8(jnp.clip(drawn, -1, 1), 'symmetric')
        return {**pictures, 'interpolation': Picture(shown, batch['size'])}

    return render


# --- checks ---------------------------------------------------------------------------------------


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for settings that contradict each other."""
    check_branches(config)
    check_samples(config)
    check_neighbours(config)
    check_loss(config)


def check_loss(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for weights that do not fit, or have no origin, and for too many steps."""
    # Branches differ after the relaxed steps.
    steps = config.train.num_steps
    if 0 < steps <= config.loss.relaxed_steps:
        raise InputError(
            'config.loss.relaxed_steps',
            got=f'{config.loss.relaxed_steps}, in a training of {steps} steps',
            expected='fewer steps than the training',
            fix=f'--config.loss.relaxed_steps={steps // 3}',
        )

    # Weights of the config.
    factors = config.loss.factors
    number = 1 + len(config.loss.layers)
    if factors and len(factors) != number:
        raise InputError(
            'config.loss.factors',
            got=f'{len(factors)} weights',
            expected=f'{number}: of the image and of {number - 1} layers',
            fix='--config.loss.factors="()"',
        )
    if factors:
        return

    # Weights of another run, or of the first steps.
    if config.loss.use == 'load':
        if not config.init_from.path:
            sources.check_source(
                config,
                FACTORS,
                ('runs/single', 'a run of this pipeline'),
                '--config.loss.use=calibrate calibrates the weights',
            )
        return
    if 0 < steps <= config.loss.calibrate_steps:
        raise InputError(
            'config.loss.calibrate_steps',
            got=f'{config.loss.calibrate_steps}, in a training of {steps} steps',
            expected='fewer steps than the training, because the weights are set after them',
            fix=f'--config.loss.calibrate_steps={max(1, steps // 2)}',
        )


def check_branches(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for fewer than two branches."""
    model = config.model
    if model.branches != 'single' and model.num_branches < 2:
        raise InputError(
            'config.model.num_branches',
            got=str(model.num_branches),
            expected='at least 2 codes, because a single branch has no alternatives',
            fix='--config.model.num_branches=2; or --config.model.branches=single',
        )


def check_samples(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for more samples than branches, and for codes of a net without codes."""
    testing = config.testing
    is_shared = config.model.branches == 'shared'
    if not is_shared and testing.codes != 'training':
        raise InputError(
            'config.testing.codes',
            got=f'{testing.codes!r} with model.branches={config.model.branches!r}',
            expected="'training', because only shared branches have codes",
            fix='--config.testing.codes=training',
        )
    number = num_branches(config)
    if testing.codes == 'training' and testing.num_samples > number:
        more = '; or --config.testing.codes=both adds new codes' if is_shared else ''
        raise InputError(
            'config.testing.num_samples',
            got=f'{testing.num_samples} with {number} branches',
            expected='at most one sample for each branch',
            fix=f'--config.testing.num_samples={number}{more}',
        )


def check_neighbours(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for neighbours without landmarks, or as many neighbours as branches."""
    section = config.neighbours
    if not section.use:
        return
    without = '--config.neighbours.use=False trains without neighbours'
    if config.condition.name != 'landmarks':
        raise InputError(
            'config.neighbours.use',
            got=f'True, with the condition {config.condition.name!r}',
            expected='False: neighbours are compared by their landmarks',
            fix=without,
        )
    number = num_branches(config)
    if section.num_clusters >= number:
        few = f'--config.neighbours.num_clusters={number - 1}; or ' if number > 1 else ''
        raise InputError(
            'config.neighbours.num_clusters',
            got=f'{section.num_clusters} neighbours with {number} branches',
            expected='fewer neighbours than branches, because each target has a branch of its own',
            fix=few + without,
        )
