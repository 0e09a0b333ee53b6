"""Semantic inpainting of label maps, with Denoise Activation or a denoising net.

He, Xiao, Zhang, Lei, Wang, Lu: Reducing Noise Pixels and Metric Bias in Semantic Inpainting on
Segmentation Map. Symbols and equation numbers are the paper's.

Method, top to bottom. A box M and a target class l^t are given. The structure generator G^0 reads
the label map S^u, whose box holds the target class, and the box. It has two streams:

  context stream  P, a class for each pixel                     L_rec(P, P^c)
  object stream   O, the pixels of the object                   L_rec(O, O^c), L_adv(O, O^c)

The completed map has the classes of P inside the box, and those of the input outside (Eq. 2). G^0
also invents classes that do not belong there: noise pixels. Three remedies are compared.

  Denoise Activation in training   P^d of Eqs. 5 and 6 replaces P in the loss (Eq. 7)
  Denoise Activation in testing    classes that do not touch the box are removed (Eq. 9)
  a denoising net (`denoiser`)     it maps P to P^d, and is trained with G^0 by the same loss

Training draws an object of a training image and cuts a square around it. Evaluation scores each
object of the evaluation images once: tIOU, hamm, NN and Sem of the paper (metrics/shape.py,
metrics/sem.py), with intervals over the boxes.

Choices that the paper leaves open:

* The loss counts the pixels of an enlarged box, as the released code of Hong et al. 2018
  (`loss.region`). D and the object stream see the same pixels.
* The object stream learns the pixels of the instance. Sem and tIOU compare the pixels of the target
  class inside the box, as the paper defines them.
* A box without an object has a class of its own in the input, and the outputs have no such class.
* With `data.void_class`, void is a class of input and output, as one of the 35 classes of
  Cityscapes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from segjax import models
from segjax.core import optim, parallel, rng
from segjax.data import objects
from segjax.errors import InputError
from segjax.losses import inpainting as losses
from segjax.metrics import shape
from segjax.ops import denoise_activation, resize, squares
from segjax.ops.denoise_activation import DenoiseActivation
from segjax.protocol import (
    Array,
    Batch,
    Derived,
    Keys,
    Mean,
    Metrics,
    Picture,
    Prediction,
    PRNGKey,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, at_least, between, one_of
from segjax.spec import IGNORE, DataSpec, Feature
from segjax.tasks import (
    adversarial,
    classification,
    inpainting,
    object_boxes,
    segmentation,
    shapes,
    sources,
    supervised,
    translation,
)
from segjax.tasks.evaluation import Evaluation, Pictures

NONE = models.NO_NET
USES = (NONE, 'train', 'load')
"""Origins of the shape classifier and of the painter."""

SCHEMA = {
    'model': models.net_choice(
        'generator', 'two_stream', 'Structure generator G^0.', only=('two_stream',)
    ),
    'discriminator': models.net_choice(
        'discriminator',
        'multiscale',
        'Discriminator D of object maps.',
        only=('multiscale',),
        norm='batch',
    ),
    'denoiser': models.net_choice(
        'denoiser',
        NONE,
        'Net that removes noise pixels, in the place of Denoise Activation. none: no net.',
        optional=True,
    ),
    'denoiser_input': Field(
        'logits', 'Input of the denoiser: P, or its softmax.', one_of('logits', 'softmax')
    ),
    'train_generator': Field(
        True, 'Train G^0. False trains the denoiser alone, on a generator from init_from.'
    ),
    'activation': {
        'train_filter': Field(
            'zero_logit',
            'Form of Eq. 5 in training. none: training without Denoise Activation.',
            one_of(NONE, *denoise_activation.TRAIN_FILTERS),
        ),
        'slope': Field(0.2, 'Slope of the leaky ReLU of Eq. 5 below 0.', between(0, 1)),
    },
    'testing': {
        'filter': Field(
            NONE,
            'Form of Eq. 9 in evaluation. none: evaluation without Denoise Activation.',
            one_of(NONE, *denoise_activation.TEST_FILTERS),
        ),
        'filtered_map': Field(
            'denoised',
            'Map that Eq. 9 filters after a training with Denoise Activation: P^d, or P.',
            one_of(*denoise_activation.BOTH_INPUTS),
        ),
        'noise_reference': Field(
            'gt_in_mask',
            'Classes that are no noise: true classes inside the box, of the whole map, or those '
            'that the noise filter admits.',
            one_of(*shape.NOISE_REFERENCES),
        ),
    },
    'boxes': object_boxes.BOXES,
    'loss': {
        'region': Field(
            'enlarged_box',
            'Pixels of the loss: the enlarged box, the box, or the whole map.',
            one_of('enlarged_box', 'box', 'map'),
        ),
        'form': Field(
            'neg_log', 'Form of L_rec of the context map.', one_of(*losses.RECONSTRUCTIONS)
        ),
        'adversarial': Field(1.0, 'Weight lambda_1 of L_adv(O, O^c).', at_least(0)),
        'object': Field(1.0, 'Weight lambda_2 of L_rec(O, O^c).', at_least(0)),
        'context': Field(1.0, 'Weight lambda_3 of L_rec(P, P^c).', at_least(0)),
        'control': Field(
            False,
            'Pause the discriminator at losses below 0.3, and the generator at losses above 0.7, '
            'as the released code for ADE20K.',
        ),
    },
    'classifier': {
        'use': Field(
            NONE,
            'Shape classifier of Sem: none, trained in a first stage `shapes`, or loaded from the '
            "row 'classifier' of init_from.sources.",
            one_of(*USES),
        ),
        'num_steps': Field(1000, 'Steps of the stage `shapes`.', at_least(1)),
        'batch_size': Field(32, 'Batch size of the stage `shapes`.', at_least(1)),
    },
    'shapes': shapes.SHAPES,
    'picture': {
        'use': Field(
            NONE,
            'Painter of the completed maps: none, trained in a first stage `painter`, or loaded '
            "from the row 'painter' of init_from.sources.",
            one_of(*USES),
        ),
        'num_steps': Field(1000, 'Steps of the stage `painter`.', at_least(1)),
        'batch_size': Field(8, 'Batch size of the stage `painter`.', at_least(1)),
    },
    'painter': {
        **translation.PAINTER,
        'input': Field('crop', 'Pictures that are painted: the boxes of objects.', one_of('crop')),
    },
    'optim': OPTIM,
    'optim_discriminator': OPTIM,
}

INPAINTING = 'inpainting'
"""Name of the stage that trains G^0."""
SHAPES = 'shapes'
PAINTER = 'painter'
"""Names of the stages that train the shape classifier and the painter."""


# --- configuration --------------------------------------------------------------------------------


def make_features(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Derived, ...]:
    """Returns the tables of the objects of each image: of boxes, and of the classifier."""
    of_shapes = shapes.features(config.shapes, spec) if config.classifier.use == 'train' else ()
    return (*object_boxes.features(config, spec), *of_shapes)


def activation_of(config: ml_collections.ConfigDict) -> DenoiseActivation:
    """Returns the settings of Denoise Activation in training and testing."""
    train_filter = config.activation.train_filter
    test_filter = config.testing.filter
    modes = {
        (False, False): 'none',
        (True, False): 'train',
        (False, True): 'test',
        (True, True): 'both',
    }
    default = DenoiseActivation()
    return DenoiseActivation(
        mode=modes[train_filter != NONE, test_filter != NONE],
        train_filter=default.train_filter if train_filter == NONE else train_filter,
        test_filter=default.test_filter if test_filter == NONE else test_filter,
        slope=config.activation.slope,
        both_input=config.testing.filtered_map,
    )


def _check_config(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for sections that contradict each other."""
    # Sizes.
    size = config.boxes.size
    if size % 16 or size < 32:
        raise InputError(
            'config.boxes.size',
            got=str(size),
            expected='a multiple of 16, at least 32, as the generator halves its maps four times',
            fix=f'--config.boxes.size={max(size // 16 * 16, 32)}',
        )

    # Remedies against noise.
    has_denoiser = config.denoiser.name != NONE
    if has_denoiser and config.activation.train_filter != NONE:
        raise InputError(
            'config.denoiser.name',
            got=f'{config.denoiser.name!r} with Denoise Activation in training',
            expected='a remedy in training: the net or the activation',
            fix='--config.activation.train_filter=none, or --config.denoiser.name=none',
        )
    # Frozen nets come from a run.
    if config.classifier.use == 'load' and not config.init_from.path:
        sources.check_source(
            config,
            classification.NET,
            ('runs/shapes', 'the run of a shape classifier'),
            '--config.classifier.use=none scores without Sem',
        )
    if config.picture.use == 'load' and not config.init_from.path:
        sources.check_source(
            config,
            translation.NET,
            ('runs/painter', 'the run of a painter'),
            '--config.picture.use=none paints nothing',
        )
    if not config.train_generator and not has_denoiser:
        raise InputError(
            'config.train_generator',
            got='False without a denoiser, which trains nothing',
            expected='a denoiser that is trained on a fixed generator',
            fix='--config.train_generator=True, or --config.denoiser.name=adnet '
            '--config.activation.train_filter=none',
        )
    if not config.train_generator and not config.init_from.path:
        sources.check_source(
            config,
            'generator',
            ('runs/inpainting', 'the run of a generator, because it is not trained'),
            '--config.train_generator=True trains a generator',
        )


# --- the nets -------------------------------------------------------------------------------------


class Nets(NamedTuple):
    """G^0, D, and the denoiser or None, as linen modules."""

    generator: Any
    discriminator: Any
    denoiser: Any


class System(NamedTuple):
    """The facts that all functions of the stage share.

    config       of the run
    spec         of the data set
    nets         see `Nets`
    activation   Denoise Activation in training and testing
    num_classes  k, channels of P
    """

    config: ml_collections.ConfigDict
    spec: DataSpec
    nets: Nets
    activation: DenoiseActivation
    num_classes: int


def make_system(config: ml_collections.ConfigDict, spec: DataSpec) -> System:
    """Builds the nets and gathers the facts of a run.

    Raises:
      InputError: sections that contradict each other.
    """
    _check_config(config)
    num_classes = segmentation.num_outputs(config, spec)
    shared = {'dtype': config.train.dtype, 'axis_name': parallel.AXIS}
    has_denoiser = config.denoiser.name != NONE
    nets = Nets(
        generator=models.build_from('generator', config.model, out_channels=num_classes, **shared),
        discriminator=models.build_from('discriminator', config.discriminator, **shared),
        denoiser=models.build_from('denoiser', config.denoiser, **shared) if has_denoiser else None,
    )
    return System(config, spec, nets, activation_of(config), num_classes)


def boxes_of(system: System, batch: Batch) -> inpainting.Boxes:
    """Returns S^c, l^t and M. Void is class C with `data.void_class`, otherwise 255."""
    label = segmentation.train_label(batch['label'], system.config, system.spec)
    return inpainting.Boxes(label, batch['class_id'], batch['mask_box'] > 0)


def condition_of(boxes: inpainting.Boxes, num_classes: int) -> Array:
    """Returns the input of G^0, [B, H, W, 2 (k + 1)]: the box with its class, and S^u.

    Both are one-hot. The last channel of each belongs to boxes without an object. Ignored pixels
    have no channel.
    """
    channels = num_classes + 1
    target = boxes.target[:, None, None]
    map_of_box = jax.nn.one_hot(target, channels) * boxes.mask[..., None]
    incomplete = jnp.where(boxes.mask, target, boxes.truth)  # S^u
    return jnp.concatenate([map_of_box, jax.nn.one_hot(incomplete, channels)], -1)


def gate_of(config: ml_collections.ConfigDict, batch: Batch) -> Array:
    """Returns the pixels [B, H, W] bool that the losses count, and that D sees."""
    match config.loss.region:
        case 'enlarged_box':
            return batch['mask_out'] > 0
        case 'box':
            return batch['mask_box'] > 0
    return jnp.ones(batch['mask_box'].shape, bool)


def generate(system: System, params, model_state, condition: Array, train: bool):
    """Applies G^0 and returns ({'context': P, 'object': O before its sigmoid}, statistics)."""
    return segmentation.apply_net(
        system.nets.generator, params, model_state, condition, train=train
    )


def cleaned(system: System, params, model_state, logits: Array, train: bool):
    """Applies the denoiser to P and returns (P^d before its softmax, statistics)."""
    maps = jax.nn.softmax(logits) if system.config.denoiser_input == 'softmax' else logits
    outputs, statistics = segmentation.apply_net(
        system.nets.denoiser, params, model_state, maps, train=train
    )
    return outputs['logits'], statistics


def allowed_classes(system: System, boxes: inpainting.Boxes) -> Array:
    """Returns f^N, [B, k] bool (Eq. 4)."""
    truth, target, mask = boxes
    return denoise_activation.noise_filter(truth, mask, target, system.num_classes)


# --- losses ---------------------------------------------------------------------------------------


def context_loss(system: System, logits: Array, boxes: inpainting.Boxes, batch: Batch) -> Mean:
    """Computes L_rec(P, P^c) of Eq. 1, or L_rec(P^d, P^c) of Eq. 7.

    Args:
      system: see `System`.
      logits: [B, H, W, k], of G^0 or of the denoiser.
      boxes: of the batch.
      batch: of the inputs.
    """
    scores = denoise_activation.training_map(
        system.activation, logits, allowed_classes(system, boxes)
    )
    return losses.reconstruction(
        scores,
        boxes.truth,
        batch['weight'],
        region=gate_of(system.config, batch),
        form=system.config.loss.form,
    )


def verdicts_on(system: System, params, model_state, object_map: Array, batch: Batch):
    """Returns D's verdicts on object maps [B, H, W] under the condition, and its statistics."""
    condition = condition_of(boxes_of(system, batch), system.num_classes)
    gate = gate_of(system.config, batch)
    return segmentation.apply_net(
        system.nets.discriminator,
        params,
        model_state,
        jnp.concatenate([object_map[..., None], condition], -1),
        train=True,
        gate=gate[..., None],
    )


def generator_loss(system: System, state: TrainState) -> Callable:
    """Returns the loss of G^0 and the denoiser (Eqs. 1 and 7), with D fixed as in the state."""

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        boxes = boxes_of(system, batch)
        gate = gate_of(system.config, batch)
        statistics = {}

        # Both streams. A denoiser changes P alone.
        outputs, statistics['generator'] = generate(
            system,
            params['generator'],
            model_state['generator'],
            condition_of(boxes, system.num_classes),
            train=True,
        )
        logits = outputs['context']
        if system.nets.denoiser is not None:
            logits, statistics['denoiser'] = cleaned(
                system, params['denoiser'], model_state['denoiser'], logits, train=True
            )

        # D sees the object map under the condition.
        object_logits = outputs['object'][..., 0]
        object_map = jax.nn.sigmoid(object_logits) * gate
        fixed = (state.params['discriminator'], state.model_state['discriminator'])
        verdicts, _ = verdicts_on(system, *fixed, object_map, batch)

        true_object = batch['mask_object'] > 0
        weight = batch['weight']
        terms = {
            'adversarial': adversarial.judge_loss(verdicts, 1.0, weight),
            'object': losses.object_reconstruction(object_logits, true_object, weight, region=gate),
            'context': context_loss(system, logits, boxes, batch),
        }
        return terms, statistics, {'object_map': object_map}

    return loss_fn


def discriminator_loss(system: System, state: TrainState) -> Callable:
    """Returns the loss of D on true and generated object maps. The batch has 'object_map'."""

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        true_map = (batch['mask_object'] > 0).astype(jnp.float32)
        judged = {'real': (true_map, 1.0), 'generated': (batch['object_map'], 0.0)}
        statistics = model_state['discriminator']
        terms = {}
        for name, (object_map, target) in judged.items():
            verdicts, statistics = verdicts_on(
                system, params['discriminator'], statistics, object_map, batch
            )
            terms[name] = adversarial.judge_loss(verdicts, target, batch['weight'])
        return terms, {'discriminator': statistics}, {}

    return loss_fn


def denoiser_loss(system: System) -> Callable:
    """Returns the loss of a denoiser on a fixed generator. The batch has its P as 'generated'."""

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        logits, statistics = cleaned(
            system,
            params['denoiser'],
            model_state['denoiser'],
            batch['generated'],
            train=True,
        )
        terms = {'context': context_loss(system, logits, boxes_of(system, batch), batch)}
        return terms, {'denoiser': statistics}, {}

    return loss_fn


# --- training -------------------------------------------------------------------------------------


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the stages that train classifier and painter, if asked for, and the stage of G^0."""
    system = make_system(config, spec)
    stages = []
    if config.classifier.use == 'train':
        of_shapes = shapes.make_stage(
            config,
            spec,
            config.shapes,
            name=SHAPES,
            num_steps=config.classifier.num_steps,
            batch_size=config.classifier.batch_size,
            where='shapes',
            batch_key='classifier.batch_size',
        )
        stages.append(of_shapes)
    if config.picture.use == 'train':
        stages.append(make_painter_stage(config, spec))
    return (*stages, make_stage(system))


def make_painter_stage(config: ml_collections.ConfigDict, spec: DataSpec) -> Stage:
    """Builds the stage that learns to paint the boxes of label maps."""
    features = translation.features(config.painter)
    train = object_boxes.train_input(config, spec, features)
    return translation.make_stage(
        config,
        spec,
        config.painter,
        name=PAINTER,
        train_input=train._replace(
            batch_size=config.picture.batch_size, batch_key='picture.batch_size'
        ),
        eval_input=object_boxes.eval_input(config, spec, features),
        num_steps=config.picture.num_steps,
        num_examples=object_boxes.num_boxes(config, spec),
    )


def make_stage(system: System) -> Stage:
    """Builds the stage that trains G^0, or a denoiser on a fixed G^0."""
    config = system.config
    return Stage(
        name=INPAINTING,
        num_steps=config.train.num_steps,
        train_input=object_boxes.train_input(config, system.spec, object_boxes.FEATURES),
        eval_input=object_boxes.eval_input(config, system.spec, eval_features(config)),
        streams=(),
        init=make_init(system),
        train_step=make_train_step(system),
        prediction=make_prediction(system),
        frozen=loaded_nets(config),
        **make_evaluation(system)._asdict(),
    )


def loaded_nets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the names of the nets that come from other runs."""
    is_loaded = {
        'generator': not config.train_generator,
        classification.NET: config.classifier.use == 'load',
        translation.NET: config.picture.use == 'load',
    }
    return tuple(net for net, loaded in is_loaded.items() if loaded)


def eval_features(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the features of an evaluation batch, also for the painter."""
    painter = () if config.picture.use == NONE else translation.features(config.painter)
    return tuple(dict.fromkeys((*object_boxes.FEATURES, *painter)))


def make_init(system: System) -> Callable:
    """Returns `Stage.init`: new nets and optimisers. A fixed generator comes from `init_from`."""
    config, _, nets, _, num_classes = system
    side = config.boxes.size
    condition_channels = 2 * (num_classes + 1)
    inputs = {
        'generator': (nets.generator, condition_channels),
        'discriminator': (nets.discriminator, condition_channels + 1),
    }
    if nets.denoiser is not None:
        inputs['denoiser'] = (nets.denoiser, num_classes)

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        # The nets. Frozen nets are in the state too, so that a checkpoint is complete.
        variables = {}
        for name, (net, channels) in inputs.items():
            maps = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
            variables[name] = net.lazy_init(rng.named(key, name), maps, train=False)
        for name, (stage, variables_of) in frozen_nets(system).items():
            if stage in earlier:
                trained, statistics = supervised.evaluated_nets(earlier[stage], config.train.ema)
                variables[name] = {'params': trained[name], **statistics[name]}
            else:
                variables[name] = variables_of(rng.named(key, name))

        # A fixed generator has no optimiser, and needs no discriminator.
        generators, discriminators = players(system)
        judges = discriminators.optimisers if config.train_generator else {}
        state = supervised.fresh_state(
            *supervised.fields_of(variables),
            {**generators.optimisers, **judges},
            num_steps=config.train.num_steps,
            ema=config.train.ema,
            averaged=generators.nets,
        )
        seen = inpainting.no_shapes(num_classes)
        return state.replace(extra={**state.extra, inpainting.SHAPES_SEEN: seen})

    return init


def frozen_nets(system: System) -> dict[str, tuple[str, Callable]]:
    """Returns the nets of the evaluation: {name: (stage that trains it, key -> variables)}."""
    config, spec, _, _, _ = system
    side = config.boxes.size
    nets = {}
    if config.classifier.use != NONE:
        planes = jax.ShapeDtypeStruct((1, config.shapes.size, config.shapes.size, 2), jnp.float32)
        classifier = shapes.make_task(config, spec, config.shapes).net
        nets[classification.NET] = (SHAPES, lambda key: classifier.init(key, planes))
    if config.picture.use != NONE:
        painter_variables = translation.make_variables(config, spec, config.painter, (side, side))
        nets[translation.NET] = (PAINTER, painter_variables)
    return nets


def players(system: System) -> tuple[adversarial.Player, adversarial.Player]:
    """Returns the two sides: generator with denoiser, and discriminator."""
    # The denoiser and the generator share an optimiser.
    config = system.config
    generator = ('generator',) if config.train_generator else ()
    denoiser = () if system.nets.denoiser is None else ('denoiser',)
    generators = adversarial.Player(
        {'generators': supervised.Optimiser(config.optim, generator + denoiser)},
        functools.partial(generator_loss, system),
        loss_weights(config).__getitem__,
    )

    # Real and generated maps count by one half each, as in the released code.
    section = config.optim_discriminator
    optimiser = supervised.Optimiser(section, ('discriminator',), 'optim_discriminator')
    discriminators = adversarial.Player(
        {'discriminator': optimiser},
        functools.partial(discriminator_loss, system),
        {'real': 0.5, 'generated': 0.5}.__getitem__,
    )
    return generators, discriminators


def loss_weights(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns lambda_1, lambda_2 and lambda_3 of Eqs. 1 and 7, by term."""
    return {name: config.loss[name] for name in ('adversarial', 'object', 'context')}


def make_train_step(system: System) -> Callable:
    """Returns `Stage.train_step`, which also remembers training shapes for the baselines."""
    # The step of both players, or of a denoiser on a fixed generator.
    config = system.config
    generators, discriminators = players(system)
    schedule = supervised.schedule(config)
    if config.train_generator:
        control = adversarial.Control() if config.loss.control else None
        step = adversarial.make_train_step(generators, discriminators, **schedule, control=control)
    else:
        step = supervised.make_train_step(
            denoiser_loss(system),
            generators.optimisers,
            generators.weight_of,
            **schedule,
            prepare=functools.partial(with_generated, system),
        )

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        seen = inpainting.with_shapes(state.extra[inpainting.SHAPES_SEEN], batch)
        state, metrics = step(state, batch, keys)
        extra = {**state.extra, inpainting.SHAPES_SEEN: seen}
        return state.replace(extra=extra), metrics

    return train_step


def with_generated(system: System, state: TrainState, batch: Batch) -> Batch:
    """Adds P of the fixed generator to a batch."""
    condition = condition_of(boxes_of(system, batch), system.num_classes)
    fixed = (state.params['generator'], state.model_state['generator'])
    outputs, _ = generate(system, *fixed, condition, train=False)
    return {**batch, 'generated': outputs['context']}


# --- evaluation -----------------------------------------------------------------------------------


def make_evaluation(system: System) -> Evaluation:
    """Builds the evaluation of all boxes of the evaluation split."""
    config, spec, _, _, num_classes = system

    def complete(state: TrainState, batch: Batch) -> tuple[Array, dict[str, Array]]:
        boxes = boxes_of(system, batch)
        label, object_map = completed(system, state, boxes)
        object_label = jnp.where(object_map, boxes.target[:, None, None], num_classes)
        return label, {'object_tIOU': shape.target_iou(object_label, *boxes)}

    # Every image has as many places as its table has rows.
    judge = inpainting.Judge(
        spec=spec,
        num_classes=num_classes,
        complete=complete,
        truth=functools.partial(boxes_of, system),
        num_boxes=object_boxes.num_boxes(config, spec),
        rows=config.boxes.max_objects,
        reference=config.testing.noise_reference,
        classify=make_classify(system),
        pictures=make_pictures(system),
    )
    return inpainting.make_evaluation(judge)


def make_classify(system: System) -> Callable[[TrainState, Array], Array] | None:
    """Returns (state, planes) -> logits of the shape classifier, None without a classifier.

    Planes are resized to the size of the classifier, to the nearest pixels.
    """
    config, spec, _, _, _ = system
    if config.classifier.use == NONE:
        return None
    classifier = shapes.make_classify(config, spec, config.shapes)
    size = (config.shapes.size, config.shapes.size)

    def classify(state: TrainState, planes: Array) -> Array:
        if planes.shape[1:3] != size:
            planes = resize.nearest(planes, size)
        name = classification.NET
        return classifier(state.params[name], state.model_state[name], planes)

    return classify


def make_pictures(system: System) -> Callable[[TrainState, Batch, Array], Pictures]:
    """Returns (state, batch, completed maps) -> the photos with painted boxes (Figs. 7 and 8)."""
    if system.config.picture.use == NONE:
        return lambda state, batch, label: {}
    return functools.partial(painted_photos, make_paint(system))


def painted_photos(paint: Callable, state: TrainState, batch: Batch, label: Array) -> Pictures:
    """Returns the photos of a batch, and the photos whose boxes are painted by completed maps."""
    mask = batch['mask_box'] > 0
    painted = paint(state, label, batch['image'], mask, batch.get('instance'))
    return {
        'photo': Picture(inpainting.with_box(batch['image'], mask)),
        'painted': Picture(inpainting.with_box(painted, mask)),
    }


def make_paint(system: System) -> Callable:
    """Returns the painter: (state, completed map, photo, mask of the box, instances or None)."""
    config, spec, _, _, _ = system
    return translation.make_box_painter(config, spec, config.painter)


def completed(system: System, state: TrainState, boxes: inpainting.Boxes) -> tuple[Array, Array]:
    """Returns completed label maps (Eqs. 2, 8 and 9), and the pixels of the object stream.

    Args:
      system: see `System`.
      state: holds the nets, and their averages with `train.ema`.
      boxes: label maps, of which only the pixels outside the boxes are read.

    Returns:
      (train ids [B, H, W], bool [B, H, W]).
    """
    # The nets, averaged if the config says so.
    params, model_state = optim.averaged(state, system.config.train.ema)
    outputs, _ = generate(
        system,
        params['generator'],
        model_state['generator'],
        condition_of(boxes, system.num_classes),
        train=False,
    )
    logits = outputs['context']
    if system.nets.denoiser is not None:
        logits, _ = cleaned(
            system, params['denoiser'], model_state['denoiser'], logits, train=False
        )

    # The map of the paper's equation, and its largest class inside the box.
    allowed = allowed_classes(system, boxes)
    scores = denoise_activation.testing_map(system.activation, logits, allowed)
    object_map = (outputs['object'][..., 0] > 0) & boxes.mask
    return denoise_activation.inpainted(scores, boxes.truth, boxes.mask), object_map


# --- edits of label maps --------------------------------------------------------------------------


def make_prediction(system: System) -> Prediction:
    """Returns the use of the nets on files: a label map, a box and a class in.

    The completed map and the pixels of the target class inside the box come out. The map keeps its
    size, and no pixel outside of the box changes.
    """
    config, spec, _, _, _ = system
    crop = object_boxes.object_crop(config, spec, training=False)
    heights, widths = zip(*spec.max_size.values())
    has_painter = config.picture.use != NONE

    def apply(state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
        # The net sees the square around the box, as in evaluation.
        edges = batch['box'][:, 0]
        around = squares.squares_of(edges, crop.margin, batch['size'])
        label = squares.cut(batch['label'], around, crop.size, sizes=batch['size'])
        inside = squares.box_masks(edges, batch['label'].shape[1:])
        mask_box = squares.cut(inside.astype(jnp.uint8), around, crop.size)
        cut = {'label': label, 'mask_box': mask_box, 'class_id': batch['class_id']}

        # Back on the canvas. Void is no class of the files.
        result, _ = completed(system, state, boxes_of(system, cut))
        result = jnp.where(result == spec.classes.num_classes, IGNORE, result)
        result = squares.paste(result, around, batch['label'], inside)
        is_target = result == batch['class_id'][:, None, None]
        outputs = {'inpainted': result, 'object': is_target & inside}
        if not has_painter:
            return outputs

        # The photo is cut and painted like the map.
        image = squares.cut(batch['image'], around, crop.size, nearest=False, sizes=batch['size'])
        cut_result = squares.cut(result, around, crop.size, sizes=batch['size'])
        painted = make_paint(system)(state, cut_result, image, mask_box > 0, None)
        picture = squares.paste(painted, around, batch['image'], inside, nearest=False)
        return {**outputs, 'picture': picture}

    return Prediction(
        inputs={
            **({'image': Feature('image')} if has_painter else {}),
            'label': Feature('label'),
            'box': Feature('boxes', (1, 4)),
            'class_id': Feature('number', dtype='int32'),
        },
        outputs={
            'inpainted': 'classes',
            'object': 'mask',
            **({'picture': 'image'} if has_painter else {}),
        },
        apply=apply,
        size=(max(heights), max(widths)),
        resize=False,
        check=functools.partial(check_edit, crop=crop, names=spec.classes.names),
        check_trained=functools.partial(check_edit_class, names=spec.classes.names),
    )


def check_edit(example: Mapping[str, Any], crop: objects.ObjectCrop, names: Sequence[str]) -> None:
    """Raises InputError for a box or a class that the generator cannot use.

    Args:
      example: 'box' [1, 4], 'class_id', and 'size' (height, width) of the label map.
      crop: how the generator sees boxes, and the classes that it was trained on.
      names: of the classes of the data set.
    """
    objects.check_edit_box(
        example['box'][0], example['size'], 'box', pixels=crop.size, margin=crop.margin
    )
    class_id = int(example['class_id'])
    if class_id not in crop.classes:
        known = sorted(names[train_id] for train_id in crop.classes)
        got = names[class_id] if 0 <= class_id < len(names) else str(class_id)
        raise InputError(
            'class_id',
            got=repr(got),
            expected='a class whose boxes the net completes (config.boxes.classes): '
            + ', '.join(known),
            fix=f'"class_id": "{known[0]}", or another of these classes',
        )


def check_edit_class(state: TrainState, example: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raises InputError for a class of which the training of the generator drew no object.

    The net has never seen the channel of such a class, and fills the box with noise.

    Args:
      state: of the stage, on the host. A net that was not trained here knows no objects.
      example: 'class_id'.
      names: of the classes of the data set.
    """
    counts = state.extra[inpainting.SHAPES_SEEN]['count'][: len(names)]
    class_id = int(example['class_id'])
    if not counts.any() or counts[class_id]:
        return
    seen = [name for name, count in zip(names, counts) if count]
    raise InputError(
        'class_id',
        got=f'{names[class_id]!r}, of which the training of this run drew no object',
        expected='a class with objects in training: ' + ', '.join(seen),
        fix=f'"class_id": "{seen[0]}", or a run on data with objects of {names[class_id]}',
    )
