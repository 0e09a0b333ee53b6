"""Scores of an audit of membership, on the host: all attacks, their intervals, and confounds.

The values of an image come from the device: the verdicts of an attack net on its patches, and
signals of the victim and of reference nets (segjax/metrics/membership_signals.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.metrics import confound, membership
from segjax.protocol import Scores

POINTS = (
    'AUC',
    'AP',
    'precision_at_recall_0.8',
    'TPR_at_1_percent',
    'TPR_at_0.1_percent',
    'balanced_accuracy',
)
"""Scores of an attack."""

ATTACKER = 'attacker'
"""Name of the attack by a trained net."""
FACT = 'fact_'
"""Prefix of the values that are facts of the images."""
NO_WARNING = 'none'
"""Warning of a confound, if facts of the images do not give members away."""


def scores(
    values: Mapping[str, np.ndarray],
    member: np.ndarray,
    references: Sequence[str],
    resamples: int,
) -> Scores:
    """Scores an audit.

    Args:
      values: by name, a row for each of N images. 'verdict_image' [N], 'verdict_patch' [N, P] and
        'verdict_weight' [N, P] of the attack net. 'loss', 'confidence' and 'logit' [N] of the
        victim, and with 'NAME/' in front of each reference. Facts [N, D], see `facts_of`. Images
        without a finite loss are left out.
      member: [N] bool.
      references: names of the references. None of them has seen an audited image.
      resamples: of the bootstrap.

    Returns:
      POINTS                    scores of the attack net on images
      intervals                 their intervals
      attacks                   a row for each attack, and 'attacker_patches'
      roc, roc_log, precision_recall  curves of the attacks on images
      confound                  whether facts of the images alone give members away

      The scores are None without a member or without a non-member. So are those of an attack by a
      net that diverged, whose numbers are not finite.
    """
    # An image without a labelled pixel has no loss.
    kept = np.isfinite(values['loss'])
    member = member[kept]
    if member.all() or not member.any():
        return dict.fromkeys(POINTS)
    values = {name: array[kept] for name, array in values.items()}
    by_image = {ATTACKER: values['verdict_image'], **untrained_attacks(values, references)}

    # The attack net comes first.
    of_image = {}
    rows = {}
    for name, numbers in by_image.items():
        if np.isfinite(numbers).all():
            of_image[name] = membership.attack_scores(numbers, member, resamples=resamples)
        rows[name] = attack_row(of_image.get(name))
    rows[f'{ATTACKER}_patches'] = attack_row(patch_attack(values, member, resamples))
    of_attacker = of_image.get(ATTACKER, dict.fromkeys(POINTS) | {'intervals': {}})
    return {
        **{name: of_attacker[name] for name in POINTS},
        'intervals': of_attacker['intervals'],
        'attacks': rows,
        'baseline_chance': scores_of_chance(member),
        **membership.attack_curves({name: by_image[name] for name in of_image}, member),
        'confound': confound_scores(values, member),
    }


def scores_of_chance(member: np.ndarray) -> dict[str, float]:
    """Returns the scores of an attack that knows nothing, on many images."""
    share = float(member.mean())
    return {
        'AUC': 0.5,
        'AP': share,
        'precision_at_recall_0.8': share,
        'TPR_at_1_percent': 0.01,
        'TPR_at_0.1_percent': 0.001,
        'balanced_accuracy': 0.5,
    }


def attack_row(scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the scores of an attack as a row of a table, with the interval of its AUC.

    Args:
      scores: of the attack. None: its numbers are not finite.
    """
    if scores is None:
        return dict.fromkeys((*POINTS, 'AUC_low', 'AUC_high'))
    interval = scores['intervals']['AUC']
    row = {name: scores[name] for name in POINTS}
    return {**row, 'AUC_low': interval['low'], 'AUC_high': interval['high']}


def untrained_attacks(
    values: Mapping[str, np.ndarray], references: Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns scores of images by attacks without a trained attacker, {name: [N]}.

    No reference has seen an audited image. So the likelihood ratios do without shadows of
    members.
    """
    thresholds = ['loss', 'confidence']
    chosen = [*thresholds]
    chosen += ['lira_offline_one_sided'] if len(references) > 1 else []
    chosen += ['rmia'] if references else []
    number = len(values['loss'])
    shape = (len(references), number)
    scores = {}
    for name in chosen:
        attack = membership.ATTACKS[name]
        of_references = [values[f'{net}/{attack.signal}'] for net in references]
        shadow = np.reshape(of_references, shape)
        # Thresholds read no reference.
        if name not in thresholds and not np.isfinite(shadow).all():
            scores[name] = np.full(number, np.nan)
            continue
        options = {'variance': 'global'} if name.startswith('lira') else {}
        has_seen = np.zeros(shape, bool)
        scores[name] = attack.score(shadow, has_seen, values[attack.signal], **options)
    return scores


def patch_attack(
    values: Mapping[str, np.ndarray], member: np.ndarray, resamples: int
) -> dict[str, Any] | None:
    """Returns the scores of A on patches, None if A diverged. Intervals resample images."""
    is_patch = values['verdict_weight'] > 0  # [N, P]
    image, _ = np.nonzero(is_patch)
    verdicts = values['verdict_patch'][is_patch]
    if not np.isfinite(verdicts).all():
        return None
    return membership.attack_scores(verdicts, member[image], groups=image, resamples=resamples)


def facts_of(batch: Mapping[str, np.ndarray], num_classes: int) -> dict[str, np.ndarray]:
    """Returns facts of the images of a batch that have nothing to do with a net, each [B, D]."""
    rows = len(batch['index'])
    facts = {'colour': np.zeros((rows, 3)), 'contrast': np.zeros((rows, 1))}
    facts['class_shares'] = np.zeros((rows, num_classes))
    for row, (height, width) in enumerate(batch['size']):
        # Checks before a run call this function with images of no size.
        image = batch['image'][row, : max(height, 1), : max(width, 1)]
        own = confound.image_facts(image, batch['label'][row], num_classes)
        for name, values in facts.items():
            values[row] = own[name]
    # The images of a batch are resized. Their labels are not.
    return {**facts, 'size': np.asarray(batch['label_size'], np.float64)}


def confound_scores(values: Mapping[str, np.ndarray], member: np.ndarray) -> dict[str, Any]:
    """Returns how well facts of the images tell members from non-members, without a net.

    'AUC_shuffled' is the largest AUC on shuffled facts. A larger 'AUC' makes the warning.
    """
    smallest = min(member.sum(), (~member).sum())
    if smallest < confound.FOLDS:
        return {}
    facts = {
        name.removeprefix(FACT): array for name, array in values.items() if name.startswith(FACT)
    }
    result = confound.confound(facts, member)
    return {
        'AUC': result.auc,
        'AUC_low': result.low,
        'AUC_high': result.high,
        'AUC_shuffled': result.chance,
        'warning': NO_WARNING if result.note is None else result.note.message,
        **{f'AUC_{name}': value for name, value in result.by_fact.items()},
    }
