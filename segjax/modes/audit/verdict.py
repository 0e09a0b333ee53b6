"""The verdict of an audit in words: whether an attacker tells members from non-members."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from segjax.metrics import intervals, membership
from segjax.metrics.confound import Confound

CHANCE = 0.5


class Verdict(NamedTuple):
    """The verdict about a net.

    leaks       whether an attack is better than chance
    attack      name of the attack with the largest AUC
    AUC         of this attack
    low, high   ends of its interval, at a level that holds for all attacks together
    detectable  AUC above which a leak would have been seen
    text        the verdict in words
    """

    leaks: bool
    attack: str
    AUC: float
    low: float
    high: float
    detectable: float
    text: str


def judge(
    scores: Mapping[str, np.ndarray],
    member: np.ndarray,
    groups: np.ndarray | None,
    confound: Confound,
    tpr: Mapping[str, float],
) -> Verdict:
    """Judges by the attack with the largest AUC, among the attacks that are better than chance.

    The best of k attacks is good by chance more often than a single attack. So the interval has the
    level 1 - 0.05 / k (Bonferroni): all k intervals hold together in 95 % of the cases.

    Args:
      scores: {attack: [N]}.
      member: [N].
      groups: that intervals resample.
      confound: of the images.
      tpr: {attack: true-positive rate at a false-positive rate of 1 %}.
    """
    level = 1 - (1 - intervals.LEVEL) / len(scores)
    rows = {}
    for name, values in scores.items():
        rows[name] = membership.auc_interval(values, member, groups, level)
    better = [name for name, row in rows.items() if row['low'] > CHANCE]
    best = max(better or rows, key=lambda name: rows[name]['value'])
    value, low, high = (rows[best][key] for key in ('value', 'low', 'high'))
    detectable = CHANCE + value - low
    leaks = bool(better)
    text = _text(best, value, low, high, detectable, tpr[best])
    if leaks and confound.note is not None:
        text += (
            f' But the images differ in more than membership: without any net, their facts reach '
            f'AUC {confound.auc:.2f}. So this need not be a leak.'
        )
    return Verdict(leaks, best, value, low, high, detectable, text)


def _text(attack: str, value: float, low: float, high: float, detectable: float, tpr: float) -> str:
    """Returns the verdict without the warning about the images."""
    words = attack.replace('_', ' ')
    auc = f'AUC {value:.2f} [{low:.2f}, {high:.2f}]'
    if low > CHANCE:
        return (
            f'An attacker that sees the posteriors tells members from non-members: {auc} by the '
            f'attack "{words}". At a false-positive rate of 1 %, it finds {100 * tpr:.1f} % of the '
            'members.'
        )
    if high < CHANCE:
        return (
            f'Every attack ranks non-members before members. The best is "{words}" with {auc}. '
            'Check that the lists of members and of non-members are not exchanged.'
        )
    return (
        f'No leak could be seen: the best attack is "{words}" with {auc}. An AUC above '
        f'{min(detectable, 1):.2f} would have been seen.'
    )
