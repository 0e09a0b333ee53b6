"""The audit of a victim: the attacks on it, and the segmentation that its users see.

The victim V is queried with members and non-members, behind the defence of `config.testing`. The
attack net A reads the answers. Signals of V and of the references make further attacks.

Source: He, thesis, Secs. 7.2 and 7.4.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.core import means
from segjax.errors import InputError
from segjax.metrics import confusion
from segjax.metrics.membership_signals import image_signals
from segjax.ops import images, resize
from segjax.protocol import (
    Array,
    Batch,
    Keys,
    Mean,
    Metrics,
    Observation,
    Picture,
    Scores,
    TrainState,
)
from segjax.spec import DataSpec
from segjax.tasks import attack_net, guarded_net, membership_scores, segmentation
from segjax.tasks.attack_net import ATTACKER, AttackNet
from segjax.tasks.evaluation import Evaluation, Pictures
from segjax.tasks.guarded_net import GuardedNet

ARGMAX_SCALE = 50.0
"""Divisor of loss maps of the defence argmax, as in the released code. Its losses are 0 or 69."""
MEMBERS = 'members'
"""Entry of `TrainState.extra`: the fingerprint of the images on which V was trained, [1] uint32."""
KNOWN = 'known_members'
"""Metric: 1 if the members of the config are those images."""
KINDS = ('members', 'non_members')
"""Kinds of images of the victim, by which confusions are counted."""
SEGMENTATION_SCORES = ('mIoU', 'pixel_accuracy', 'class_accuracy', 'fwIoU')
"""Scores of the protected net, of which the audit shows the gap between members and non-members."""


class Audit(NamedTuple):
    """The inputs that all functions share.

    config       of the run
    spec         of the data set of the victim
    victim       V and its defence
    attacker     A
    reference    the net of the references, without a defence
    references   their names in a state
    num_members  images on which the victim trains. They come first
    num_audited  members and non-members of the victim
    members      fingerprint of the members. None: nobody knows on which images V was trained
    """

    config: ml_collections.ConfigDict
    spec: DataSpec
    victim: GuardedNet
    attacker: AttackNet
    reference: GuardedNet
    references: tuple[str, ...]
    num_members: int
    num_audited: int
    members: int | None = None


def make_evaluation(audit: Audit) -> Evaluation:
    """Builds the evaluation of the protected segmentation, of members and of non-members.

    AUC, AP, precision_at_recall_0.8, TPR_at_.., balanced_accuracy  of A on images
    intervals       95 % intervals of these scores, from resampled images
    attacks         the same scores of A on patches, and of attacks without a trained attacker
    mIoU, ..        of the non-members
    members_mIoU, gap_mIoU, ..  of the members, and how much larger it is
    confound        whether facts of the images alone tell members from non-members
    adversary, defence, images  texts about the audit

    `--mode predict` returns the posteriors behind the defence. Every tile is a query of its own.
    """
    judge = make_judge(audit)
    return Evaluation(
        eval_step=functools.partial(score_segmentation, audit, judge),
        finalize=functools.partial(finalize, audit, judge),
        monitor=('AUC', 'max'),
        render=functools.partial(render, audit, judge),
        predict=functools.partial(segmentation.predict, judge),
    )


def make_observation(audit: Audit) -> Observation:
    """Builds the observation of the attacks."""
    return Observation(functools.partial(attack, audit), functools.partial(observe, audit))


def make_judge(audit: Audit) -> segmentation.Judge:
    """Returns the judge of the segmentation that users see."""

    def answer(state: TrainState, batch: Batch) -> Array:
        return guarded_net.defended_query(audit.victim, state, batch)

    def infer(state: TrainState, image: Array) -> Array:
        return jnp.log(jnp.maximum(answer(state, {'image': image}), 1e-30))

    return segmentation.Judge(audit.config, audit.spec, infer, audit.num_audited, answer)


# --- the attacks ----------------------------------------------------------------------------------


def attack(audit: Audit, state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
    """Returns the verdicts of A, and the signals of V and of the references, of each image."""
    del keys
    answer = guarded_net.defended_query(audit.victim, state, batch)
    label = segmentation.label_of_image(batch, audit.config, audit.spec)
    outputs = dict(image_signals(answer, label))

    planes, size = attacked_planes(audit, answer, label, batch['size'])
    own = (state.params[ATTACKER], state.model_state[ATTACKER])
    verdict = attack_net.verdicts(audit.attacker, own, batch, planes, size)
    outputs |= {f'verdict_{name}': values for name, values in verdict.items()}

    # References answer without a defence.
    for name in audit.references:
        own = (state.params[name], state.model_state[name])
        answer = guarded_net.query(audit.reference, *own, batch)
        for signal, values in image_signals(answer, label).items():
            outputs[f'{name}/{signal}'] = values
    return outputs


def attacked_planes(audit: Audit, answer: Array, label: Array, size: Array) -> tuple[Array, Array]:
    """Returns the planes of A for answers behind the defence, see `attack_net.planes_of`."""
    planes, size = attack_net.planes_of(audit.attacker, answer, label, size)
    # One-hot posteriors have larger losses than A has ever seen.
    config = audit.config
    is_large = config.attacker.reading == 'loss' and config.testing.defence == 'argmax'
    return planes / ARGMAX_SCALE if is_large else planes, size


def observe(
    audit: Audit, batch: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> dict[str, Mean]:
    """Places the outputs of `attack`, and facts of the images, for every image of the audit."""
    number = audit.num_audited
    placed = {}
    for name, values in outputs.items():
        placed[name] = means.rows(values, batch['index'], number)

    for name, values in membership_scores.facts_of(batch, audit.spec.classes.num_classes).items():
        placed[f'fact_{name}'] = means.rows(values, batch['index'], number)
    return placed


# --- the segmentation -----------------------------------------------------------------------------


def score_segmentation(
    audit: Audit, judge: segmentation.Judge, state: TrainState, batch: Batch, keys: Keys
) -> Metrics:
    """Counts the confusions of members and of non-members."""
    del keys
    config = audit.config
    num_classes = audit.spec.classes.num_classes
    # The protected net predicts the largest posterior of its answer.
    prediction = segmentation.predict_labels(judge, state, batch)

    # Members come first in the split of the audit.
    label, with_void = segmentation.score_labels(judge, batch)
    weight = batch['weight']
    is_member = (batch['index'] < audit.num_members).astype(weight.dtype)
    outputs = segmentation.num_outputs(config, audit.spec)
    count = functools.partial(confusion.confusion, prediction, with_void, outputs)
    image_iou = confusion.image_iou(prediction, label, num_classes, weight)
    place = (batch['index'], weight, audit.num_audited)
    metrics = {
        'members': count(weight * is_member),
        'non_members': count(weight * (1 - is_member)),
        'image_score': confusion.per_example(image_iou, *place),
    }
    if audit.members is not None:
        is_known = (state.extra[MEMBERS][0] == np.uint32(audit.members)).astype(weight.dtype)
        metrics[KNOWN] = Mean(is_known, jnp.ones_like(is_known))
    return metrics


def render(
    audit: Audit, judge: segmentation.Judge, state: TrainState, batch: Batch, keys: Keys
) -> Pictures:
    """Paints the segmentation that users see, and the activation of 'member' in A (Fig. 7.9).

    The activation of an image is stretched to its range, and painted at the size of the image.
    """
    answer = guarded_net.defended_query(audit.victim, state, batch)
    label = segmentation.label_of_image(batch, audit.config, audit.spec)
    planes, size = attacked_planes(audit, answer, label, batch['size'])
    own = (state.params[ATTACKER], state.model_state[ATTACKER])
    level = attack_net.activation(audit.attacker, own, planes, size)
    level = resize.bilinear(level[..., None], batch['image'].shape[1:3])[..., 0]
    pictures = segmentation.render(judge, state, batch, keys)
    return {**pictures, 'activation': Picture(images.heat(level), batch['size'])}


# --- scores ---------------------------------------------------------------------------------------


def finalize(audit: Audit, judge: segmentation.Judge, metrics: Mapping[str, Mean]) -> Scores:
    """Turns verdicts, signals, facts and confusions into scores, see `make_evaluation`.

    Raises:
      InputError: the members of the config are not the images on which V was trained.
    """
    if KNOWN in metrics and metrics[KNOWN].value() < 1:
        raise InputError(
            'config.data.train_split',
            got=f'{audit.config.data.train_split!r}, with other images than V was trained on',
            expected='the members of the training, with their world and their lists',
            fix='leave the keys of config.data out, but for eval_split, the non-members',
        )
    counts = {kind: metrics[kind] for kind in KINDS}
    observed = [name for name in metrics if name not in (*KINDS, 'image_score', KNOWN)]
    values = {name: np.asarray(metrics[name].value()) for name in observed}
    member = np.arange(audit.num_audited) < audit.num_members
    scores = membership_scores.scores(
        values, member, audit.references, audit.config.testing.resamples
    )
    # Scores of the attack net come first, texts about the audit last.
    num_rest = audit.num_audited - audit.num_members
    return {
        **{name: scores.pop(name) for name in membership_scores.POINTS},
        **segmentation_scores(judge, counts),
        **scores,
        'adversary': audit.config.shadow.adversary,
        'defence': guarded_net.defence_in_words(audit.config.testing),
        'images': f'{audit.num_members} members, {num_rest} non-members',
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
