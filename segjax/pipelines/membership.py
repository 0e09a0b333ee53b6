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
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models, schema
from segjax.core import optim, parallel
from segjax.errors import InputError
from segjax.metrics import confusion
from segjax.metrics.membership_signals import image_signals
from segjax.ops import images
from segjax.protocol import (
    Array,
    Batch,
    HandOn,
    Input,
    Keys,
    Mean,
    Metrics,
    PRNGKey,
    Product,
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, at_least, one_of, typed_text
from segjax.spec import DataSpec
from segjax.tasks import (
    attack_net,
    bicycle,
    feature_synthesis,
    guarded_net,
    membership_audit,
    membership_images,
    private_training,
    scorers,
    segmentation,
    sources,
    supervised,
)
from segjax.tasks.attack_net import ATTACKER, AttackNet
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
    'privacy': private_training.SECTION,
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
    'attacker': attack_net.SECTION,
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
        **attack_net.TESTING,
        'resamples': Field(2000, 'Resamples of the bootstrap intervals.', at_least(1)),
    },
}

VICTIM = 'victim'
SHADOW = 'shadow'
AUDIT = 'audit'
REFERENCE = 'reference'
"""Names of the stages, with ATTACKER. `shadow` and `attacker` are the names of their nets too."""
MEMBER = 'member'
"""Entry of `TrainState.extra`: 1 for each image of the adversary on which the shadow trained."""


class System(NamedTuple):
    """The inputs that all functions share.

    config       of the run
    spec         of the data set of the victim
    victim       V and its defence
    shadow       S, also of the references
    attacker     A
    pool         images of the adversary
    num_members  images on which the victim trains
    num_audited  members and non-members of the victim
    """

    config: ml_collections.ConfigDict
    spec: DataSpec
    victim: GuardedNet
    shadow: GuardedNet
    attacker: AttackNet
    pool: membership_images.Pool
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
    num_members = membership_images.size_of_list('data.train_split', config.data.train_split, spec)
    num_rest = membership_images.size_of_list('data.eval_split', config.data.eval_split, spec)
    pool = membership_images.make_pool(config, spec, shadow_data)

    # The nets. V and S have the same classes.
    def build(section: ml_collections.ConfigDict) -> nn.Module:
        return models.build_from(
            'segmentation',
            section,
            num_classes=num_classes,
            dtype=config.train.dtype,
            axis_name=parallel.AXIS,
        )

    return System(
        config=config,
        spec=spec,
        victim=guarded_net.make_victim(config, spec, build(config.model)),
        shadow=GuardedNet(config, pool.spec, build(config.shadow.model)),
        attacker=attack_net.make_attack_net(config, spec.classes.num_classes),
        pool=pool,
        num_members=num_members,
        num_audited=num_members + num_rest,
    )


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
    is_guarded = config.features.use == config.victim.use == 'load'
    if is_guarded and not (config.init_from.path or config.init_from.sources):
        raise InputError(
            'config.init_from.path',
            got="''",
            expected='the victim and its generator, in an evaluation too: the folder RUN/features '
            'of a run of configs/dense_features.py',
            fix='--config.init_from.path=runs/features/features',
        )
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

    check_fresh_adversary(config)

    # A generator fits the features of a single net.
    if config.features.use == 'load' and config.victim.use == 'train':
        raise InputError(
            'config.features.use',
            got="'load', with a victim that is trained in this run",
            expected='a victim from the run that trained the generator',
            fix='--config.victim.use=load --config.init_from.path=RUN/features, or '
            '--config.features.use=none',
        )


def check_fresh_adversary(config: ml_collections.ConfigDict) -> None:
    """Raises InputError if a net of the adversary would begin with the weights of a loaded victim.

    S has the net of V, and published weights fit all nets with such layers.
    """
    trained = []
    if config.attacker.use == 'train':
        trained += [SHADOW, ATTACKER]
    if config.references.count:
        trained.append(f'{REFERENCE}_0')
    patterns = tuple(config.init_from.nets)
    begun = [net for net in trained if any(re.match(pattern, f'{net}/') for pattern in patterns)]
    if config.victim.use == 'load' and config.init_from.path and begun:
        raise InputError(
            'config.init_from.nets',
            got=f'{patterns}, by which the net {begun[0]!r} begins with the weights of the victim',
            expected='the nets of the victim, because the adversary does not know its weights',
            fix='--config.init_from.nets=' + typed_text((SEGMENTER, bicycle.GENERATOR)),
        )


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
    asks = system.pool.is_queried and config.attacker.use == 'train'
    terms = supervised.make_terms(config, system.spec)
    weight_of = supervised.head_weight(config)
    train_step = scorers.make_train_step(training, terms, weight_of)
    inputs = victim_input(config)

    # The training of a loaded net is unknown.
    is_private = config.privacy.use and not is_loaded
    if is_private:
        facts = (training, system.num_members)
        train_step = private_training.make_step(training, terms, weight_of)
        inputs = inputs._replace(refusal=private_training.refusal(*facts))
        finalize = private_training.with_epsilon(*facts, evaluation.finalize)
        evaluation = evaluation._replace(finalize=finalize)
    return Stage(
        name=VICTIM,
        num_steps=training.num_steps,
        train_input=inputs,
        eval_input=segmentation.eval_input(config)._replace(excludes=(config.data.train_split,)),
        streams=('dropout',),
        shared_streams=(private_training.STREAM,) if is_private else (),
        init=scorers.make_init(training),
        train_step=train_step,
        hand_on=make_hand_on(system) if asks else None,
        frozen=(SEGMENTER,) if is_loaded else (),
        **evaluation._asdict(),
    )


def victim_input(config: ml_collections.ConfigDict) -> Input:
    """Returns the members, on which V is trained. None of them is a non-member."""
    return segmentation.train_input(config)._replace(excludes=(config.data.eval_split,))


def on_images(guarded: GuardedNet) -> segmentation.Net:
    """Returns the net of a guarded net as a net on uint8 images."""
    prepare = functools.partial(images.normalize, scheme=guarded.config.preprocess)
    return segmentation.net_of(guarded.net, prepare)


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
        inputs=system.pool.queries(system.config),
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
        excludes = (*system.pool.excludes, system.config.shadow.non_members)
        return stage._replace(train_input=stage.train_input._replace(excludes=excludes))
    members = Product(VICTIM, 'members')
    return stage._replace(
        train_input=stage.train_input._replace(chosen=members),
        eval_input=stage.eval_input._replace(chosen=Product(VICTIM, 'non_members')),
    )


def reference_stage(system: System, number: int) -> Stage:
    """Builds the training of a reference on half of the images of the adversary.

    The halves of the references begin at equal distances in a shuffled order. No reference has seen
    an image of the victim's lists. It is scored as the shadow, on images of which it knows a half.
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

    terms = supervised.make_terms(config, spec)
    data = system.pool.data
    inputs = segmentation.train_input(config)._replace(
        batch_key='shadow.batch_size',
        data=data,
        excludes=system.pool.excludes,
    )
    evaluation = segmentation.make_evaluation(config, spec, scorers.make_infer(training))
    # `--mode compare` compares victims: a net of the adversary is no result.
    evaluation = evaluation._replace(label_maps=None)
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
    inputs = system.pool.queries(system.config)
    return Stage(
        name=ATTACKER,
        num_steps=system.config.attacker.num_steps,
        train_input=attack_net.training_input(inputs, system.config.attacker),
        eval_input=inputs,
        streams=('dropout',),
        shared_streams=(attack_net.STREAM,),
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
    variables[ATTACKER] = attack_net.new_variables(system.attacker, key)
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


def make_attacker_step(system: System) -> Callable:
    """Returns `Stage.train_step` of A."""
    config = system.config
    step = supervised.make_train_step(
        supervised.net_loss(
            system.attacker.net, attack_net.training_terms, feature='patches', name=ATTACKER
        ),
        attacker_optimiser(system),
        {'main': 1.0}.__getitem__,
        num_steps=config.attacker.num_steps,
        accumulate=config.train.accumulate,
        ema=config.train.ema,
    )

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        return step(state, with_patches(system, state, batch, keys), keys)

    return train_step


def with_patches(system: System, state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
    """Returns the examples of a step of A, see `attack_net.training_patches`."""
    own = (state.params[SHADOW], state.model_state[SHADOW])
    asked = {'image': batch['image'], 'size': batch[attack_net.FILLED]}
    answer = guarded_net.query(system.shadow, *own, asked)
    member = state.extra[MEMBER][batch['index']]
    key = keys[attack_net.STREAM]
    return attack_net.training_patches(system.attacker, answer, batch, member, key)


def attack_shadow(system: System, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Computes the verdict of A on each image of the adversary, about S."""
    del keys
    params, model_state = optim.averaged(state, system.config.train.ema)
    answer = guarded_net.query(system.shadow, params[SHADOW], model_state[SHADOW], batch)
    label = segmentation.label_of_image(batch, system.config, system.pool.spec)
    planes, size = attack_net.planes_of(system.attacker, answer, label, batch['size'])
    own = (params[ATTACKER], model_state[ATTACKER])
    verdict = attack_net.verdicts(system.attacker, own, batch, planes, size)
    place = (batch['index'], batch['weight'], system.pool.num_images)
    member = state.extra[MEMBER][batch['index'] % system.pool.num_images]
    return {
        'verdict': confusion.per_example(verdict['image'], *place),
        MEMBER: confusion.per_example(member, *place),
    }


def shadow_scores(metrics: Mapping[str, Mean]) -> Scores:
    """Returns AUC and AP of the attack on S."""
    member = np.asarray(metrics[MEMBER].value()) > 0.5
    return attack_net.scores_of(np.asarray(metrics['verdict'].value()), member)


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
    audit = make_audit(system)
    return Stage(
        name=AUDIT,
        num_steps=0,
        # The members: `--mode audit` and `--mode predict` take this stage for the victim.
        train_input=victim_input(config),
        eval_input=membership_images.query_input(config, audited),
        streams=(),
        init=functools.partial(init_audit, system),
        train_step=no_step,
        frozen=tuple(frozen),
        check_start=functools.partial(guarded_net.check_start, system.victim),
        predict_defence=guarded_net.defence_in_words(config.testing),
        observation=membership_audit.make_observation(audit),
        **membership_audit.make_evaluation(audit)._asdict(),
    )


def make_audit(system: System) -> membership_audit.Audit:
    """Returns the inputs of the attack on V."""
    config = system.config
    members = None
    if config.victim.use == 'train':
        members = membership_images.fingerprint(system.spec, config.data.train_split)
    return membership_audit.Audit(
        config=config,
        spec=system.spec,
        victim=system.victim,
        attacker=system.attacker,
        reference=system.shadow,
        references=system.references,
        num_members=system.num_members,
        num_audited=system.num_audited,
        members=members,
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
        nets[ATTACKER] = attack_net.new_variables(system.attacker, key)
    for name in system.references:
        nets |= supervised.evaluated_variables(earlier[name], ema, (name,))
    if system.victim.synthesis is not None:
        nets |= guarded_net.new_generator(system.victim.synthesis, key)
    state = supervised.fresh_state(*supervised.fields_of(nets), {}, num_steps=0, ema=0.0)
    known = make_audit(system).members
    if known is None:
        return state
    # An evaluation may have other lists.
    members = {membership_audit.MEMBERS: jnp.array([known], jnp.uint32)}
    return state.replace(extra={**state.extra, **members})
