"""Membership inference on segmentation nets, and defences against it.

He, Improved Methods and Analysis for Semantic Image Segmentation, thesis, chapter 7. He, Rahimian,
Schiele, Fritz: Segmentations-Leak, ECCV 2020. Symbols and equation numbers are the thesis'.

Method, top to bottom. Was an image in the training set of the victim V?

1. Stage `victim`: V is trained on the members, `data.train_split`, or loaded. The images of
   `data.eval_split` are the non-members. Its training may be private (`privacy`).
2. Stage `shadow`: the adversary trains a net S of which he knows the members.

   A1 dependent    images of the adversary are shown to V. The images with the largest mean of
                   their maximal posteriors become the members of S
   A2 independent  S is another net, on lists of another data set (`shadow_data`)

3. Stage `attacker`: a ResNet-50 A learns from patches of (S(x), y) whether x is a member of S.
4. Stages `reference_0`, ..: further nets of the adversary, each on half of his images, for attacks
   by likelihood ratios (`references.count`).
5. Stage `audit`: V is queried with members and non-members, with the defence of `testing`. A
   attacks patches (V(x), y) and fuses their verdicts. Attacks without a trained attacker stand
   next to it. The segmentation of the protected net is scored too.

The settings of `testing` change no training. So `--mode evaluate` audits a run with any defence.

Choices that the thesis leaves open:

* The confidence of an image is the mean over its labelled pixels, and V answers without a defence.
* A patch of 90 x 90 posteriors at every eighth pixel is a patch of 713 pixels, as in the released
  code. Whole images are queried, in training and in the audit.
* The attacker has a cross-entropy, and mirrored patches.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models, schema
from segjax.core import means, optim, parallel, private, rng
from segjax.errors import InputError
from segjax.losses import segmentation as losses
from segjax.metrics import confusion, ranking
from segjax.metrics.membership_signals import image_signals
from segjax.ops import images, resize
from segjax.protocol import (
    Array,
    Batch,
    HandOn,
    Input,
    Keys,
    Mean,
    Metrics,
    Observation,
    Picture,
    PRNGKey,
    Product,
    PyTree,
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, above, at_least, between, one_of
from segjax.spec import DataSpec
from segjax.tasks import (
    accountant,
    bicycle,
    feature_synthesis,
    guarded_net,
    membership_attack,
    membership_scores,
    scorers,
    segmentation,
    sources,
    supervised,
    translation,
)
from segjax.tasks.evaluation import Evaluation, Pictures
from segjax.tasks.feature_synthesis import SEGMENTER
from segjax.tasks.guarded_net import GuardedNet

SCHEMA = {
    'model': models.net_choice('segmentation', 'pspnet', 'Segmentation net V under attack.'),
    'preprocess': segmentation.PREPROCESS,
    'loss': supervised.LOSS,
    'optim': OPTIM,
    'victim': {
        'use': Field(
            'train',
            'Victim V: trained in the stage `victim`, or loaded from init_from.',
            one_of('train', 'load'),
        ),
    },
    'privacy': {
        'use': Field(False, 'Train V with clipped and noised gradients (DP-SGD).'),
        'clip_norm': Field(1.0, 'Largest norm of the gradient of an example.', above(0)),
        'noise_multiplier': Field(
            1.0, 'Standard deviation of the noise in units of `clip_norm`.', at_least(0)
        ),
        'delta': Field(
            1e-4, 'Probability delta at which epsilon is computed.', between(1e-12, 0.5)
        ),
        'accountant': Field(
            'none',
            'Bound of epsilon that is scored: none, or an accountant of dp-accounting.',
            one_of('none', *accountant.ACCOUNTANTS),
        ),
    },
    'shadow': {
        'adversary': Field(
            'dependent',
            'Adversary: A1 queries the victim and has its data set and its net (dependent), A2 has '
            'lists of `shadow_data` (independent).',
            one_of('dependent', 'independent'),
        ),
        'members': Field(
            'shadow_members',
            'List of the members of S. A1 queries the images of both lists, and as many as this '
            'list has become members.',
        ),
        'non_members': Field('shadow_non_members', 'List of the non-members of S.'),
        'model': models.net_choice('segmentation', 'pspnet', 'Shadow net S.'),
        'num_steps': Field(1000, 'Steps of the stage `shadow`.', at_least(1)),
        'batch_size': Field(16, 'Batch size of the stage `shadow`.', at_least(1)),
        'optim': OPTIM,
    },
    'shadow_data': schema.data_set('Data set of the adversary A2.'),
    'attacker': {
        'use': Field(
            'train',
            "Attack net A: trained in the stage `attacker`, or loaded from the row 'attacker' of "
            'init_from.sources.',
            one_of('train', 'load'),
        ),
        'reading': Field(
            'posteriors',
            'Input of A: posteriors with one-hot labels, or the map of losses.',
            one_of(*membership_attack.READINGS),
        ),
        'stride': Field(8, 'Distance of the pixels that A reads.', at_least(1)),
        'patch': Field((90, 90), 'Size (height, width) of a patch of A.', schema.size_2d),
        'patches': Field(4, 'Patches of an image in a training step.', at_least(1)),
        'flip': Field(True, 'Mirror half of the patches in training.'),
        'model': models.net_choice(
            'classifier', 'resnet_classifier', 'Attack net A.', only=('resnet_classifier',)
        ),
        'num_steps': Field(1000, 'Steps of the stage `attacker`.', at_least(1)),
        'batch_size': Field(8, 'Images of a step of the stage `attacker`.', at_least(1)),
        'optim': OPTIM,
    },
    'references': {
        'count': Field(
            0,
            'Further nets of the adversary for attacks by likelihood ratios. LiRA needs 2.',
            at_least(0),
        ),
    },
    'features': {
        'use': Field(
            'none',
            'Generator of features for the defence obfuscate: none, or loaded from init_from.',
            one_of('none', 'load'),
        ),
        'tap': Field('conv4_12', 'Inner tensor of V that the generator makes.'),
    },
    'bicycle': feature_synthesis.GAN,
    'testing': {
        **guarded_net.DEFENCE,
        'places': Field(
            'random',
            'Places of the patches of an image: random, or sliding over the image.',
            one_of('random', 'sliding'),
        ),
        'num_patches': Field(10, 'Random patches of an image.', at_least(1)),
        'overlap': Field(
            0.0, 'Smallest share of a sliding patch in common with the next patch.', between(0, 0.9)
        ),
        'fusion': Field(
            'mean_probability',
            'Score of an image from its patches: mean probability (thesis), or sum of logits '
            '(code).',
            one_of(*membership_attack.FUSIONS),
        ),
        'resamples': Field(2000, 'Resamples of the bootstrap intervals.', at_least(1)),
    },
}

VICTIM = 'victim'
SHADOW = 'shadow'
ATTACKER = 'attacker'
AUDIT = 'audit'
REFERENCE = 'reference'
"""Names of the stages. `shadow` and `attacker` are the names of their nets too."""
MEMBER = 'member'
"""Entry of `TrainState.extra`: 1 for each image of the adversary on which the shadow trained."""
ARGMAX_SCALE = 50.0
"""Divisor of loss maps of the defence argmax, as in the released code. Its losses are 0 or 69."""
KINDS = ('members', 'non_members')
"""Kinds of images of the victim, by which confusions are counted."""
SEGMENTATION_SCORES = ('mIoU', 'pixel_accuracy', 'class_accuracy', 'fwIoU')
"""Scores of the protected net, of which the audit shows the gap between members and non-members."""


class Pool(NamedTuple):
    """The images of the adversary.

    data          config section of their data set
    spec          of the data set
    split         all images
    num_images    N
    num_members   images on which the shadow trains. They are the first of A2
    is_queried    whether the victim chooses the members (A1)
    """

    data: str
    spec: DataSpec
    split: str
    num_images: int
    num_members: int
    is_queried: bool


class System(NamedTuple):
    """The inputs that all functions share.

    config       of the run
    spec         of the data set of the victim
    victim       V and its defence
    shadow       S, also of the references
    attacker     A, a net on planes
    pool         images of the adversary
    num_members  images on which the victim trains
    num_audited  members and non-members of the victim
    """

    config: ml_collections.ConfigDict
    spec: DataSpec
    victim: GuardedNet
    shadow: GuardedNet
    attacker: segmentation.Net
    pool: Pool
    num_members: int
    num_audited: int

    @property
    def references(self) -> tuple[str, ...]:
        """Returns the names of the references."""
        return tuple(f'{REFERENCE}_{number}' for number in range(self.config.references.count))


# --- stages ---------------------------------------------------------------------------------------


def make_stages(
    config: ml_collections.ConfigDict, spec: DataSpec, shadow_data: DataSpec
) -> tuple[Stage, ...]:
    """Builds the stages `victim`, `shadow`, `attacker`, `reference_0`, .. and `audit`.

    Raises:
      InputError: settings that contradict each other, an unknown list, data sets with other
        classes, or a net without a source.
    """
    system = make_system(config, spec, shadow_data)
    stages = [victim_stage(system)]
    if config.attacker.use == 'train':
        stages += [shadow_stage(system), attacker_stage(system)]
    stages += [reference_stage(system, number) for number in range(config.references.count)]
    return (*stages, audit_stage(system))


def make_system(config: ml_collections.ConfigDict, spec: DataSpec, shadow_data: DataSpec) -> System:
    """Builds the nets and gathers the facts of a run. Raises InputError, see `make_stages`."""
    # The lists.
    check_sources(config)
    num_classes = segmentation.num_outputs(config, spec)
    num_members = size_of_list('data.train_split', config.data.train_split, spec)
    num_rest = size_of_list('data.eval_split', config.data.eval_split, spec)
    pool = make_pool(config, spec, shadow_data)

    # The nets. V and S have the same classes.
    def build(section: ml_collections.ConfigDict) -> nn.Module:
        return models.build_from(
            'segmentation',
            section,
            num_classes=num_classes,
            dtype=config.train.dtype,
            axis_name=parallel.AXIS,
        )

    net = build(config.model)
    attacker = segmentation.make_net(
        config.attacker.model,
        membership_attack.NUM_CLASSES,
        config.train.dtype,
        lambda planes: planes,
        kind='classifier',
    )
    victim = GuardedNet(config, spec, net, make_synthesis(config, spec, net))
    guarded_net.check(victim)
    return System(
        config=config,
        spec=spec,
        victim=victim,
        shadow=GuardedNet(config, pool.spec, build(config.shadow.model)),
        attacker=attacker,
        pool=pool,
        num_members=num_members,
        num_audited=num_members + num_rest,
    )


def make_pool(config: ml_collections.ConfigDict, spec: DataSpec, shadow_data: DataSpec) -> Pool:
    """Returns the images of the adversary.

    Raises:
      InputError: an unknown list, or a data set of A2 with other classes than the victim's.
    """
    # A loaded attacker needs no images.
    if config.attacker.use == 'load' and not config.references.count:
        return Pool('data', spec, '', 0, 0, is_queried=False)
    is_queried = config.shadow.adversary == 'dependent'
    own = spec if is_queried else shadow_data
    if own.classes.names != spec.classes.names:
        raise InputError(
            'config.shadow_data.class_map',
            got=f'{own.classes.num_classes} classes of {own.name!r}: '
            f'{", ".join(own.classes.names[:3])}, ..',
            expected=f'the {spec.classes.num_classes} classes of {spec.name!r}, in their order',
            fix='--config.shadow_data.class_map=cityscapes for Mapillary Vistas, or the path of a '
            'file with the merge',
        )
    members = config.shadow.members
    rest = config.shadow.non_members
    num_members = size_of_list('shadow.members', members, own)
    num_rest = size_of_list('shadow.non_members', rest, own)
    data = 'data' if is_queried else 'shadow_data'
    return Pool(data, own, f'{members}+{rest}', num_members + num_rest, num_members, is_queried)


def size_of_list(key: str, split: str, spec: DataSpec) -> int:
    """Returns the number of examples of a split.

    Args:
      key: of the split in the config.
      split: its name.
      spec: of its data set.

    Raises:
      InputError: an unknown split, or a slice, whose size a specification does not have.
    """
    if '[' in split:
        plain = split.partition('[')[0]
        raise InputError(
            f'config.{key}',
            got=f'the slice {split!r}',
            expected='a whole split, or a list of config.data.lists',
            fix=f'--config.data.lists="(\'members={plain}:draw(100)\',)" --config.{key}=members',
        )
    return spec.split(split).num_examples


def check_sources(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for nets that come from nowhere, and for shares of the members."""
    # A share of the members would leave members that V has never seen.
    if config.data.labelled_fraction < 1:
        raise InputError(
            'config.data.labelled_fraction',
            got=f'{config.data.labelled_fraction}',
            expected='1: the victim trains on all of its members',
            fix='--config.data.labelled_fraction=1.0, with a smaller list of members',
        )
    # A net that is not trained comes from init_from.
    if not config.init_from.path:
        loaded = {
            SEGMENTER: (config.victim.use, 'the run or the published weights of the victim'),
            ATTACKER: (config.attacker.use, 'the run of an attacker'),
        }
        for net, (use, content) in loaded.items():
            key = VICTIM if net == SEGMENTER else net
            if use == 'load':
                otherwise = f'--config.{key}.use=train trains it'
                sources.check_source(config, net, (f'runs/{key}', content), otherwise)

    # A generator fits the features of a single net.
    if config.features.use == 'load' and config.victim.use == 'train':
        raise InputError(
            'config.features.use',
            got="'load', with a victim that is trained in this run",
            expected='a victim from the run that trained the generator',
            fix='--config.victim.use=load --config.init_from.path=RUN/features, or '
            '--config.features.use=none',
        )


def make_synthesis(
    config: ml_collections.ConfigDict, spec: DataSpec, net: nn.Module
) -> feature_synthesis.Synthesis | None:
    """Returns the split victim with the generator of its features, None without a generator."""
    if config.features.use == 'none':
        return None
    synthesis = feature_synthesis.make_synthesis(config, spec, net, config.features.tap)
    return feature_synthesis.with_gan(synthesis, config, lambda batch: (batch, batch))


# --- the victim -----------------------------------------------------------------------------------


def victim_stage(system: System) -> Stage:
    """Builds the training of V, or its evaluation if it is loaded. A1 queries it at the end."""
    # The training. A loaded net takes no step.
    config = system.config
    is_loaded = config.victim.use == 'load'
    training = scorers.Training(
        config=config,
        net=on_images(system.victim),
        name=SEGMENTER,
        optim=config.optim,
        where='optim',
        num_steps=0 if is_loaded else config.train.num_steps,
        batch_size=config.train.batch_size,
        batch_key='train.batch_size',
        augment=config.augment,
    )

    # The evaluation, and the queries of A1.
    evaluation = segmentation.make_evaluation(config, system.spec, scorers.make_infer(training))
    if config.privacy.use:
        finalize = functools.partial(with_epsilon, system, evaluation.finalize)
        evaluation = evaluation._replace(finalize=finalize)
    asks = system.pool.is_queried and config.attacker.use == 'train'
    train_input = segmentation.train_input(config)
    return Stage(
        name=VICTIM,
        num_steps=training.num_steps,
        train_input=train_input._replace(excludes=(config.data.eval_split,)),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        shared_streams=('privacy',) if config.privacy.use else (),
        init=scorers.make_init(training),
        train_step=make_victim_step(system, training),
        hand_on=make_hand_on(system) if asks else None,
        frozen=(SEGMENTER,) if is_loaded else (),
        **evaluation._asdict(),
    )


def on_images(guarded: GuardedNet) -> segmentation.Net:
    """Returns the net of a guarded net as a net on uint8 images."""
    prepare = functools.partial(images.normalize, scheme=guarded.config.preprocess)
    return segmentation.net_of(guarded.net, prepare)


def make_victim_step(system: System, training: scorers.Training) -> Callable:
    """Returns `Stage.train_step` of V, with private gradients if `privacy.use` is set.

    A private gradient belongs to a single example, so batch norms use their running statistics, and
    drop-out is off.
    """
    # Without privacy, V trains as any net.
    config = system.config
    terms = supervised.make_terms(config, system.spec)
    weight_of = supervised.head_weight(config)
    if not config.privacy.use:
        return scorers.make_train_step(training, terms, weight_of)

    # The statistics of a batch would mix examples.
    def loss_fn(params: PyTree, model_state: PyTree, batch: Batch, keys: Keys):
        own = (params[SEGMENTER], model_state[SEGMENTER])
        outputs, _ = training.net.apply(*own, batch['image'], train=False)
        return terms(outputs, batch), model_state, {}

    value_and_grad = private.private_value_and_grad(
        loss_fn,
        weight_of,
        clip_norm=config.privacy.clip_norm,
        noise_multiplier=config.privacy.noise_multiplier,
        batch_size=config.train.batch_size,
        accumulate=config.train.accumulate,
        shared=('privacy',),
    )
    return supervised.make_train_step(
        loss_fn,
        training.optimisers,
        weight_of,
        **supervised.schedule(config),
        value_and_grad=value_and_grad,
    )


def with_epsilon(system: System, finalize: Callable, metrics: Mapping[str, Mean]) -> Scores:
    """Returns the scores of V, and epsilon of its private training."""
    config = system.config
    scores = dict(finalize(metrics))
    if config.privacy.accountant != 'none':
        scores['epsilon'] = accountant.epsilon(
            num_examples=system.num_members,
            batch_size=config.train.batch_size,
            num_steps=config.train.num_steps,
            noise_multiplier=config.privacy.noise_multiplier,
            delta=config.privacy.delta,
            accountant=config.privacy.accountant,
        )
    return scores


def make_hand_on(system: System) -> HandOn:
    """Returns the queries of A1: positions of the members and of the non-members of the shadow."""
    config = system.config
    pool = system.pool
    num_rest = pool.num_images - pool.num_members

    def eval_step(state: TrainState, batch: Batch, keys: Keys) -> Metrics:
        params, model_state = optim.averaged(state, config.train.ema)
        answer = guarded_net.query(system.victim, params[SEGMENTER], model_state[SEGMENTER], batch)
        label = segmentation.label_of_image(batch, config, system.spec)
        confidence = image_signals(answer, label)['confidence']
        # An image without a label is the least confident image.
        confidence = jnp.nan_to_num(confidence)
        place = (batch['index'], batch['weight'], pool.num_images)
        return {'confidence': confusion.per_example(confidence, *place)}

    return HandOn(
        shapes={
            'members': jax.ShapeDtypeStruct((pool.num_members,), jnp.int32),
            'non_members': jax.ShapeDtypeStruct((num_rest,), jnp.int32),
        },
        finalize=functools.partial(chosen_members, num_members=pool.num_members),
        inputs=query_input(system, pool.split, 'data')._replace(
            excludes=(config.data.train_split, config.data.eval_split)
        ),
        eval_step=eval_step,
    )


def chosen_members(metrics: Mapping[str, Mean], num_members: int) -> dict[str, np.ndarray]:
    """Returns the positions of the most confident images, and of the remaining images, sorted."""
    confidence = np.asarray(metrics['confidence'].value())
    order = np.argsort(-confidence, kind='stable').astype(np.int32)
    return {
        'members': np.sort(order[:num_members]),
        'non_members': np.sort(order[num_members:]),
    }


def query_input(system: System, split: str, data: str) -> Input:
    """Returns whole images that a net is queried with, in order."""
    config = system.config
    return Input(
        split=split,
        batch_size=config.evaluate.batch_size,
        features=('image', 'label'),
        size=tuple(config.data.eval_size),
        data=data,
    )


# --- the shadow -----------------------------------------------------------------------------------


def for_shadow(system: System) -> ml_collections.ConfigDict:
    """Returns the config with the lists, the steps and the batch size of the shadow."""
    changed = system.config.copy_and_resolve_references()
    changed.data.train_split = system.config.shadow.members
    changed.data.eval_split = system.config.shadow.non_members
    if system.pool.is_queried:
        # Members are chosen among the images of both lists.
        changed.data.update(train_split=system.pool.split, eval_split=system.pool.split)
    changed.train.num_steps = system.config.shadow.num_steps
    changed.train.batch_size = system.config.shadow.batch_size
    return changed


def shadow_stage(system: System) -> Stage:
    """Builds the training of S on its members. It is scored on its non-members."""
    stage = trained_net(system, SHADOW)
    if not system.pool.is_queried:
        excluded = stage.train_input._replace(excludes=(system.config.shadow.non_members,))
        return stage._replace(train_input=excluded)
    members = Product(VICTIM, 'members')
    return stage._replace(
        train_input=stage.train_input._replace(chosen=members),
        eval_input=stage.eval_input._replace(chosen=Product(VICTIM, 'non_members')),
    )


def reference_stage(system: System, number: int) -> Stage:
    """Builds the training of a reference on half of the images of the adversary.

    The halves of the references begin at equal distances in a shuffled order. No reference has seen
    an image of the victim's lists.
    """
    name = system.references[number]
    stage = trained_net(system, name)
    first = 0.5 * number / max(len(system.references) - 1, 1)
    half = stage.train_input._replace(split=system.pool.split, part=(first, first + 0.5))
    return stage._replace(train_input=half)


def trained_net(system: System, name: str) -> Stage:
    """Builds the training of a net of the adversary, on the lists of the shadow."""
    # The training.
    config = for_shadow(system)
    spec = system.pool.spec
    training = scorers.Training(
        config=config,
        net=on_images(system.shadow),
        name=name,
        optim=config.shadow.optim,
        where='shadow.optim',
        num_steps=config.shadow.num_steps,
        batch_size=config.shadow.batch_size,
        batch_key='shadow.batch_size',
        augment=config.augment,
    )

    # A1 has no image of the victim's lists.
    terms = supervised.make_terms(config, spec)
    data = system.pool.data
    victims = (system.config.data.train_split, system.config.data.eval_split)
    inputs = segmentation.train_input(config)._replace(
        batch_key='shadow.batch_size',
        data=data,
        excludes=victims if system.pool.is_queried else (),
    )
    evaluation = segmentation.make_evaluation(config, spec, scorers.make_infer(training))
    return Stage(
        name=name,
        num_steps=training.num_steps,
        train_input=inputs,
        eval_input=segmentation.eval_input(config)._replace(data=data),
        streams=('dropout',),
        init=scorers.make_init(training),
        train_step=scorers.make_train_step(training, terms, supervised.head_weight(config)),
        **evaluation._asdict(),
    )


# --- the attacker ---------------------------------------------------------------------------------


def attacker_stage(system: System) -> Stage:
    """Builds the training of A on patches of (S(x), y) of all images of the adversary.

    Its scores are about an attack on S, with the images that A has learned.
    """
    config = system.config
    settings = config.attacker
    inputs = query_input(system, system.pool.split, system.pool.data)
    return Stage(
        name=ATTACKER,
        num_steps=settings.num_steps,
        train_input=inputs._replace(
            batch_size=settings.batch_size, batch_key='attacker.batch_size'
        ),
        eval_input=inputs,
        streams=('dropout',),
        shared_streams=('patches',),
        init=functools.partial(init_attacker, system),
        train_step=make_attacker_step(system),
        eval_step=functools.partial(attack_shadow, system),
        finalize=shadow_scores,
        monitor=('AUC', 'max'),
    )


def attacker_optimiser(system: System) -> supervised.Optimisers:
    """Returns the optimiser of A."""
    section = system.config.attacker.optim
    return {ATTACKER: supervised.Optimiser(section, (ATTACKER,), 'attacker.optim')}


def init_attacker(
    system: System, key: PRNGKey, batch: Batch, earlier: Mapping[str, Any]
) -> TrainState:
    """Returns the state of A, with the frozen shadow and its members."""
    config = system.config
    variables = supervised.evaluated_variables(earlier[SHADOW], config.train.ema, (SHADOW,))
    variables[ATTACKER] = new_attacker(system, key)
    state = supervised.fresh_state(
        *supervised.fields_of(variables),
        attacker_optimiser(system),
        num_steps=config.attacker.num_steps,
        ema=config.train.ema,
    )
    if system.pool.is_queried:
        empty = jnp.zeros(system.pool.num_images, jnp.int32)
        member = empty.at[jnp.asarray(earlier[f'{VICTIM}/members'])].set(1)
    else:
        position = jnp.arange(system.pool.num_images)
        member = (position < system.pool.num_members).astype(jnp.int32)
    return state.replace(extra={**state.extra, MEMBER: member})


def new_attacker(system: System, key: PRNGKey) -> Mapping[str, PyTree]:
    """Returns random variables of A."""
    settings = system.config.attacker
    size = tuple(settings.patch)
    answer = jax.ShapeDtypeStruct((1, *size, system.spec.classes.num_classes), jnp.float32)
    label = jax.ShapeDtypeStruct((1, *size), jnp.int32)
    planes = jax.eval_shape(
        functools.partial(membership_attack.attack_planes, reading=settings.reading), answer, label
    )
    return system.attacker.init(rng.named(key, ATTACKER), planes)


def planes_of(system: System, answer: Array, label: Array, size: Array) -> tuple[Array, Array]:
    """Returns the planes of A, [B, h, w, C], and their rows and columns without padding, [B, 2].

    Args:
      system: see `System`.
      answer: [B, H, W, K] posteriors.
      label: [B, H, W] train ids.
      size: [B, 2] height and width without padding.
    """
    settings = system.config.attacker
    answer, label = membership_attack.thinned(answer, label, settings.stride)
    planes = membership_attack.attack_planes(answer, label, settings.reading)
    size = membership_attack.grid_size(size, settings.stride)
    return membership_attack.inside(planes, size), size


def with_patches(system: System, state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
    """Returns the examples of a step of A: 'patches', 'truth' and 'weight', P for each image."""
    settings = system.config.attacker
    answer = guarded_net.query(
        system.shadow, state.params[SHADOW], state.model_state[SHADOW], batch
    )
    size = guarded_net.size_of(batch)
    planes, size = planes_of(system, answer, batch['label'], size)

    # Random numbers belong to the image.
    patch = tuple(settings.patch)
    places_key = rng.of_examples(rng.named(keys['patches'], 'places'), batch['index'])
    places = membership_attack.random_places(places_key, size, patch, settings.patches)
    patches = membership_attack.cut(planes, places.corners, patch)  # [B, P, h, w, C]
    if settings.flip:
        flip_key = rng.of_examples(rng.named(keys['patches'], 'flip'), batch['index'])
        patches = membership_attack.flipped(flip_key, patches)

    truth = state.extra[MEMBER][batch['index']]
    return {
        'patches': patches.reshape(-1, *patches.shape[2:]),
        'truth': jnp.repeat(truth, settings.patches),
        'weight': jnp.repeat(batch['weight'], settings.patches),
    }


def make_attacker_step(system: System) -> Callable:
    """Returns `Stage.train_step` of A."""

    def terms(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Mean]:
        loss = losses.cross_entropy(outputs['logits'], batch['truth'], batch['weight'])
        return {'main': loss}

    train = system.config.train
    step = supervised.make_train_step(
        supervised.net_loss(system.attacker, terms, feature='patches', name=ATTACKER),
        attacker_optimiser(system),
        {'main': 1.0}.__getitem__,
        num_steps=system.config.attacker.num_steps,
        accumulate=train.accumulate,
        ema=train.ema,
    )

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        return step(state, with_patches(system, state, batch, keys), keys)

    return train_step


def attack_shadow(system: System, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Computes the verdict of A on each image of the adversary, about S."""
    params, model_state = optim.averaged(state, system.config.train.ema)
    answer = guarded_net.query(system.shadow, params[SHADOW], model_state[SHADOW], batch)
    label = segmentation.label_of_image(batch, system.config, system.pool.spec)
    own = (params[ATTACKER], model_state[ATTACKER])
    verdict = verdicts(system, *own, batch, answer, label)
    place = (batch['index'], batch['weight'], system.pool.num_images)
    member = state.extra[MEMBER][batch['index'] % system.pool.num_images]
    return {
        'verdict': confusion.per_example(verdict['image'], *place),
        MEMBER: confusion.per_example(member, *place),
    }


def shadow_scores(metrics: Mapping[str, Mean]) -> Scores:
    """Returns AUC and AP of the attack on S, None before an image is counted."""
    member = np.asarray(metrics[MEMBER].value()) > 0.5
    verdict = np.asarray(metrics['verdict'].value())
    if not np.isfinite(verdict).all():
        return {'AUC': None, 'AP': None}
    curve = ranking.roc(verdict, member)
    return {
        'AUC': float(ranking.area(curve)),
        'AP': float(ranking.mean_precision(ranking.precision_recall(verdict, member))),
    }


def verdicts(
    system: System,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    answer: Array,
    label: Array,
    divisor: float = 1.0,
) -> dict[str, Array]:
    """Returns the verdicts of A on images: 'patch' [B, P], 'weight' [B, P] and 'image' [B].

    Args:
      system: see `System`. `testing` says which patches are attacked.
      params: of A.
      model_state: of A.
      batch: an evaluation batch.
      answer: [B, H, W, K] posteriors.
      label: [B, H, W] train ids at the size of the images.
      divisor: of the planes.

    Returns:
      The verdicts, high for members.
    """
    testing = system.config.testing
    patch = tuple(system.config.attacker.patch)
    planes, size = planes_of(system, answer, label, batch['size'])
    if testing.places == 'sliding':
        places = membership_attack.sliding_places(size, planes.shape[1:3], patch, testing.overlap)
    else:
        # The same places in every evaluation.
        keys = rng.of_examples(rng.root(0, 'patches of evaluation'), batch['index'])
        places = membership_attack.random_places(keys, size, patch, testing.num_patches)

    patches = membership_attack.cut(planes / divisor, places.corners, patch)
    rows = patches.reshape(-1, *patches.shape[2:])
    outputs, _ = system.attacker.apply(params, model_state, rows, train=False)
    logits = outputs['logits'].reshape(*places.weight.shape, membership_attack.NUM_CLASSES)
    return {
        'patch': membership_attack.patch_scores(logits),
        'weight': places.weight,
        'image': membership_attack.fused(logits, places.weight, testing.fusion),
    }


# --- the audit ------------------------------------------------------------------------------------


def audit_stage(system: System) -> Stage:
    """Builds the attack on V, behind the defence of `testing`. It trains nothing."""
    # The frozen nets that come from files or runs.
    config = system.config
    audited = f'{config.data.train_split}+{config.data.eval_split}'
    is_loaded = {
        ATTACKER: config.attacker.use == 'load',
        bicycle.GENERATOR: config.features.use == 'load',
    }
    frozen = [net for net, loaded in is_loaded.items() if loaded]
    if config.features.use == 'load':
        frozen.append(feature_synthesis.scale_name(config.features.tap))
    return Stage(
        name=AUDIT,
        num_steps=0,
        train_input=None,
        eval_input=query_input(system, audited, 'data'),
        streams=(),
        init=functools.partial(init_audit, system),
        train_step=no_step,
        frozen=tuple(frozen),
        check_start=functools.partial(check_generator, system),
        observation=Observation(
            functools.partial(attack, system), functools.partial(observe, system)
        ),
        **make_evaluation(system)._asdict(),
    )


def no_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
    """Returns the state as it is. The audit takes no step."""
    del batch, keys
    return state, {}


def init_audit(
    system: System, key: PRNGKey, batch: Batch, earlier: Mapping[str, Any]
) -> TrainState:
    """Returns the state with V, A, the references and the generator of features. None is trained.

    The parameters are the averages that the evaluations of their own stages used.
    """
    del batch
    ema = system.config.train.ema
    nets = supervised.evaluated_variables(earlier[VICTIM], ema, (SEGMENTER,))
    if ATTACKER in earlier:
        nets |= supervised.evaluated_variables(earlier[ATTACKER], ema, (ATTACKER,))
    else:
        nets[ATTACKER] = new_attacker(system, key)
    for name in system.references:
        nets |= supervised.evaluated_variables(earlier[name], ema, (name,))
    if system.victim.synthesis is not None:
        nets |= new_generator(system.victim.synthesis, key)
    return supervised.fresh_state(*supervised.fields_of(nets), {}, num_steps=0, ema=0.0)


def new_generator(
    synthesis: feature_synthesis.Synthesis, key: PRNGKey
) -> dict[str, Mapping[str, PyTree]]:
    """Returns variables of the generator of features and its statistics, which are then loaded."""
    assert synthesis.gan is not None
    label = jax.ShapeDtypeStruct((1, *synthesis.config.augment.crop), jnp.int32)
    layout = jax.eval_shape(functools.partial(translation.make_layout, spec=synthesis.spec), label)
    code = jax.ShapeDtypeStruct((1, *synthesis.gan.code_shape), jnp.float32)
    name = bicycle.GENERATOR
    generator = synthesis.gan.generator
    statistics = feature_synthesis.statistics_of(synthesis, {}, VICTIM)
    return {
        name: generator.lazy_init(rng.named(key, name), layout, code, train=False),
        feature_synthesis.scale_name(synthesis.tap): {'params': statistics},
    }


def check_generator(system: System, state: TrainState) -> None:
    """Raises InputError for a generator that was trained on the features of another victim."""
    if system.victim.synthesis is None:
        return
    try:
        feature_synthesis.check_fingerprint(system.victim.synthesis, state)
    except InputError as error:
        fix = '--config.init_from.path=RUN/features of the run that trained both; or '
        raise error.replaced(fix=f'{fix}--config.features.use=none') from error


def make_evaluation(system: System) -> Evaluation:
    """Builds the evaluation of the protected segmentation, of members and of non-members.

    AUC, AP, precision_at_recall_0.8, TPR_at_.., balanced_accuracy  of A on images
    intervals       95 % intervals of these scores, from resampled images
    attacks         the same scores of A on patches, and of attacks without a trained attacker
    mIoU, ..        of the non-members
    members_mIoU, gap_mIoU, ..  of the members, and how much larger it is
    confound        whether facts of the images alone tell members from non-members
    """
    judge = make_judge(system)
    return Evaluation(
        eval_step=functools.partial(score_segmentation, system, judge),
        finalize=functools.partial(finalize, system, judge),
        monitor=('AUC', 'max'),
        render=functools.partial(render, system, judge),
    )


def make_judge(system: System) -> segmentation.Judge:
    """Returns the judge of the segmentation that users see."""

    def answer(state: TrainState, batch: Batch) -> Array:
        return guarded_net.defended_query(system.victim, state, batch)

    def infer(state: TrainState, image: Array) -> Array:
        return jnp.log(jnp.maximum(answer(state, {'image': image}), 1e-30))

    return segmentation.Judge(system.config, system.spec, infer, system.num_audited, answer)


def score_segmentation(
    system: System, judge: segmentation.Judge, state: TrainState, batch: Batch, keys: Keys
) -> Metrics:
    """Counts the confusions of members and of non-members."""
    del keys
    config = system.config
    num_classes = system.spec.classes.num_classes
    # The protected net predicts the largest posterior of its answer.
    prediction = segmentation.predict_labels(judge, state, batch)

    # Members come first in the split of the audit.
    label, with_void = segmentation.score_labels(judge, batch)
    weight = batch['weight']
    is_member = (batch['index'] < system.num_members).astype(weight.dtype)
    outputs = segmentation.num_outputs(config, system.spec)
    count = functools.partial(confusion.confusion, prediction, with_void, outputs)
    image_iou = confusion.image_iou(prediction, label, num_classes, weight)
    place = (batch['index'], weight, system.num_audited)
    return {
        'members': count(weight * is_member),
        'non_members': count(weight * (1 - is_member)),
        'image_score': confusion.per_example(image_iou, *place),
    }


def attack(system: System, state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
    """Returns the verdicts of A, and the signals of V and of the references, of each image."""
    del keys
    answer = guarded_net.defended_query(system.victim, state, batch)
    label = segmentation.label_of_image(batch, system.config, system.spec)
    outputs = dict(image_signals(answer, label))

    # One-hot posteriors have larger losses than the attack net has ever seen.
    config = system.config
    is_large = config.attacker.reading == 'loss' and config.testing.defence == 'argmax'
    divisor = ARGMAX_SCALE if is_large else 1.0
    own = (state.params[ATTACKER], state.model_state[ATTACKER])
    verdict = verdicts(system, *own, batch, answer, label, divisor)
    outputs |= {f'verdict_{name}': values for name, values in verdict.items()}

    # References answer without a defence.
    for name in system.references:
        own = (state.params[name], state.model_state[name])
        answer = guarded_net.query(system.shadow, *own, batch)
        for signal, values in image_signals(answer, label).items():
            outputs[f'{name}/{signal}'] = values
    return outputs


def render(
    system: System, judge: segmentation.Judge, state: TrainState, batch: Batch, keys: Keys
) -> Pictures:
    """Paints the segmentation that users see, and the activation of 'member' in A (Fig. 7.9).

    The activation of an image is stretched to its range, and painted at the size of the image.
    """
    answer = guarded_net.defended_query(system.victim, state, batch)
    label = segmentation.label_of_image(batch, system.config, system.spec)
    planes, _ = planes_of(system, answer, label, batch['size'])
    outputs, _ = system.attacker.apply(
        state.params[ATTACKER], state.model_state[ATTACKER], planes, train=False
    )
    activation = outputs['activation'][..., membership_attack.MEMBER]  # [B, h, w]
    lowest = activation.min((1, 2), keepdims=True)
    largest = activation.max((1, 2), keepdims=True)
    level = (activation - lowest) / jnp.maximum(largest - lowest, 1e-12)
    level = resize.bilinear(level[..., None], batch['image'].shape[1:3])[..., 0]
    pictures = segmentation.render(judge, state, batch, keys)
    return {**pictures, 'activation': Picture(images.heat(level), batch['size'])}


def observe(
    system: System, batch: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> dict[str, Mean]:
    """Places the outputs of `attack`, and facts of the images, for every image of the audit."""
    number = system.num_audited
    placed = {}
    for name, values in outputs.items():
        placed[name] = means.rows(values, batch['index'], number)

    for name, values in membership_scores.facts_of(batch, system.spec.classes.num_classes).items():
        placed[f'fact_{name}'] = means.rows(values, batch['index'], number)
    return placed


def finalize(system: System, judge: segmentation.Judge, metrics: Mapping[str, Mean]) -> Scores:
    """Turns verdicts, signals, facts and confusions into scores, see `make_evaluation`."""
    counts = {kind: metrics[kind] for kind in KINDS}
    observed = [name for name in metrics if name not in (*KINDS, 'image_score')]
    values = {name: np.asarray(metrics[name].value()) for name in observed}
    member = np.arange(system.num_audited) < system.num_members
    scores = membership_scores.scores(
        values, member, system.references, system.config.testing.resamples
    )
    return {
        **{name: scores.pop(name) for name in membership_scores.POINTS},
        **segmentation_scores(judge, counts),
        **scores,
    }


def segmentation_scores(judge: segmentation.Judge, counts: Mapping[str, Mean]) -> dict[str, Any]:
    """Returns the scores of the protected net on non-members, on members, and the gaps."""
    by_kind = {}
    for kind, matrix in counts.items():
        by_kind[kind] = segmentation.finalize(judge, {'confusion': matrix})
    rest = by_kind['non_members']
    members = by_kind['members']
    scores = dict(rest)
    for name in SEGMENTATION_SCORES:
        scores[f'members_{name}'] = members[name]
        both = (members[name], rest[name])
        scores[f'gap_{name}'] = None if None in both else members[name] - rest[name]
    return scores
