"""Attacks on the measured images: scores by answer and attack, and what they say.

An attacker who has shadow nets knows the defence, and asks the shadows behind the same defence.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.metrics import membership
from segjax.modes.audit.defences import NONE
from segjax.modes.audit.measure import PARTS, SIGNALS, Measured

WITHOUT_SHADOWS = ('loss', 'confidence')
"""Attacks that need no shadow net."""

MANY_SHADOWS = 64
"""Number of shadows of a kind from which the variance of each image is trusted."""


class Shadows(NamedTuple):
    """Shadow nets that were asked about the images of `Measured`, in its order.

    names     of the S shadows
    member    [S, N] bool, the training images of each shadow
    measured  of each shadow
    """

    names: tuple[str, ...]
    member: np.ndarray
    measured: tuple[Measured, ...]


class NamedScores(NamedTuple):
    """Scores of the attacks on an answer.

    scores   {attack: [N]}, high for members
    missing  {attack: reason} of attacks that the shadows do not allow
    """

    scores: dict[str, np.ndarray]
    missing: dict[str, str]


def attack(measured: Measured, shadows: Shadows | None, answer: str = NONE) -> NamedScores:
    """Attacks all images, behind a defence.

    Args:
      measured: of the victim.
      shadows: of the attacker. None: attacks without shadows.
      answer: name of the defence.
    """
    scores = {}
    missing = {}
    for name, named in membership.ATTACKS.items():
        victim = measured.signal(named.signal, answer)
        if name in WITHOUT_SHADOWS:
            scores[name] = named.score(victim, victim, victim)
        elif shadows is not None:
            reason = lacking(name, shadows.member)
            if reason:
                missing[name] = reason
                continue
            of_shadows = np.stack([each.signal(named.signal, answer) for each in shadows.measured])
            scores[name] = _with_shadows(name, of_shadows, shadows.member, victim)
    return NamedScores(scores, missing)


def lacking(name: str, member: np.ndarray) -> str:
    """Returns which shadows an attack lacks, in words, '' if it lacks none.

    Args:
      name: of an attack that needs shadows.
      member: [S, N] training images of the shadows.
    """
    kinds = {'without': (~member).sum(0)}
    if name == 'lira_online':
        kinds['with'] = member.sum(0)
    for kind, count in kinds.items():
        if count.min() < 1:
            number = int((count < 1).sum())
            return f'{number} of {len(count)} images have no shadow that was trained {kind} them'
        # The variance of LiRA is that of several shadows of an image.
        if name != 'rmia' and count.max() < 2:
            return f'no image has two shadows that were trained {kind} it'
    return ''


def _with_shadows(
    name: str, shadow: np.ndarray, member: np.ndarray, victim: np.ndarray
) -> np.ndarray:
    """Attacks by means of shadows, with the options that suit their number.

    Args:
      name: of the attack.
      shadow, member: [S, N].
      victim: [N].
    """
    if name == 'rmia':
        # The slope is tuned where each shadow can be attacked by the further shadows.
        can_tune = (~member).sum(0).min() >= 2 and member.any(1).all() and not member.all(1).any()
        slope = membership.rmia_slope(shadow, member) if can_tune else membership.SLOPE
        return membership.rmia(shadow, member, victim, slope)
    fewest = (~member).sum(0).min()
    if name == 'lira_online':
        fewest = min(fewest, member.sum(0).min())
    variance = 'example' if fewest >= MANY_SHADOWS else 'global'
    if name == 'lira_online':
        return membership.lira_online(shadow, member, victim, variance)
    sides = 'one' if name.endswith('one_sided') else 'two'
    return membership.lira_offline(shadow, member, victim, variance, sides)


# --- parts of the images --------------------------------------------------------------------------


def by_class(measured: Measured, groups: np.ndarray | None) -> dict[str, dict[str, Any]]:
    """Scores the loss of the pixels of each class as an attack, see `membership.slice_scores`.

    Args:
      measured: of the victim.
      groups: that intervals resample.
    """
    loss = measured.class_signals[..., SIGNALS.index('loss')]
    scores = {name: -loss[:, number] for number, name in enumerate(measured.classes)}
    return membership.slice_scores(scores, measured.member, groups)


def by_part(measured: Measured, groups: np.ndarray | None) -> dict[str, dict[str, Any]]:
    """Scores the loss of boundary and of interior pixels as attacks.

    Args:
      measured, groups: as in `by_class`.
    """
    loss = measured.parts[..., SIGNALS.index('loss')]
    scores = {name: -loss[:, number] for number, name in enumerate(PARTS)}
    return membership.slice_scores(scores, measured.member, groups)


# --- groups ---------------------------------------------------------------------------------------


FEWEST_GROUPS = 10
"""Number of groups of a kind from which a bootstrap over groups is meaningful."""


def groups_of(facts: Mapping[str, Any], member: np.ndarray) -> tuple[str, np.ndarray | None]:
    """Returns the groups that intervals resample: sequences, else images.

    Images of a sequence are similar, so that their number overstates what is known. But if
    membership was drawn within sequences, members and non-members are equally similar, and images
    are resampled.

    Args:
      facts: of the images. 'sequence' may be among them.
      member: [N].

    Returns:
      ('sequences', [N] texts) or ('images', None).
    """
    if 'sequence' not in facts:
        return 'images', None
    sequence = np.asarray(facts['sequence'])
    of_members = np.unique(sequence[member])
    of_rest = np.unique(sequence[~member])
    shared = np.isin(sequence, np.intersect1d(of_members, of_rest)).mean()
    if shared > 0.5 or min(len(of_members), len(of_rest)) < FEWEST_GROUPS:
        return 'images', None
    return 'sequences', sequence
