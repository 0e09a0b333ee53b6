"""The content of audit.json: all scores of an audit as plain data."""

import csv
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.core.notes import Note
from segjax.metrics import confound, confusion, membership
from segjax.metrics.confound import Confound
from segjax.modes.audit import attacks, facts, verdict
from segjax.modes.audit.attacks import NamedScores, Shadows
from segjax.modes.audit.defences import NONE
from segjax.modes.audit.measure import LOGIT_EDGES, POSTERIOR_EDGES, SIGNALS, Measured
from segjax.modes.audit.verdict import Verdict

POLICY = 'cityscapes'
"""Policy of mIoU for absent classes (`confusion.POLICIES`)."""

KINDS = ('non_members', 'members')
"""Order of the sums by kind in `Measured`."""

SCORE_BINS = 30
"""Bins of the histograms of the scores of an attack."""


class Audit(NamedTuple):
    """An audited net.

    made_by   facts about the net and the images, by name
    measured  numbers of the images
    attacks   scores of the attacks without a defence
    groups    what intervals resample: 'sequences' or 'images'
    confound  of the images
    verdict   in words and numbers
    scores    the content of audit.json
    """

    made_by: Mapping[str, Any]
    measured: Measured
    attacks: NamedScores
    groups: str
    confound: Confound
    verdict: Verdict
    scores: dict[str, Any]


def audit(
    measured: Measured,
    shadows: Shadows | None,
    of_images: facts.Facts,
    made_by: Mapping[str, Any],
) -> Audit:
    """Attacks the measured images, and scores the attacks.

    Args:
      measured: of the victim.
      shadows: of the attacker, or None.
      of_images: facts of the images, without a net.
      made_by: facts about the net and the images, for the record.
    """
    member = measured.member
    all_facts = {**of_images, **facts.of_labels(measured)}
    kind, groups = attacks.groups_of(all_facts, member)
    confounded = confound.confound(all_facts, member, groups)

    # Every attack, without a defence.
    attacked = attacks.attack(measured, shadows)
    rows = {}
    for name, scores in attacked.scores.items():
        rows[name] = membership.attack_scores(scores, member, groups)
    tpr = {name: row['TPR_at_1_percent'] for name, row in rows.items()}
    judged = verdict.judge(attacked.scores, member, groups, confounded, tpr)

    # Its parts, and its change by defences.
    content = {
        'made_by': dict(made_by),
        'verdict': judged._asdict(),
        'intervals_resample': kind,
        'attacks': rows,
        'missing_attacks': attacked.missing,
        'classes': attacks.by_class(measured, groups),
        'parts': attacks.by_part(measured, groups),
        'defences': defence_scores(measured, shadows, groups),
        'confound': _confound(confounded),
        'segmentation': segmentation_scores(measured),
        'curves': membership.attack_curves(attacked.scores, member),
        'histograms': histograms(measured, attacked.scores),
        'unlabelled': list(measured.unlabelled),
    }
    return Audit(made_by, measured, attacked, kind, confounded, judged, content)


def _confound(result: Confound) -> dict[str, Any]:
    """Returns the test of the images as plain data."""
    note: Note | None = result.note
    return {**result._asdict(), 'note': None if note is None else note._asdict()}


# --- defences -------------------------------------------------------------------------------------


def defence_scores(
    measured: Measured, shadows: Shadows | None, groups: np.ndarray | None
) -> dict[str, dict[str, Any]]:
    """Scores attacks and segmentation behind each defence.

    Returns:
      {defence: {'AUC': of the best attack, 'low', 'high': ends of its 95 % interval, 'attack',
      'attacks': {attack: {'value', 'low', 'high'}}, 'mIoU' and 'pixel_accuracy' of non-members,
      'members_mIoU', 'similarity'}}. The similarity of the posteriors of members and non-members is
      sum_b min(share_b, share_b'), the overlap of their histograms (Fig. 7.7).
    """
    rows = {}
    for number, answer in enumerate(measured.answers):
        # The attacker knows the defence, and takes the best attack.
        attacked = attacks.attack(measured, shadows, answer)
        aucs = {}
        for name, scores in attacked.scores.items():
            aucs[name] = membership.auc_interval(scores, measured.member, groups)
        best = max(aucs, key=lambda name: aucs[name]['value'])
        utility = _utility(measured, number)
        rows[answer] = {
            'AUC': aucs[best]['value'],
            'low': aucs[best]['low'],
            'high': aucs[best]['high'],
            'attack': best,
            'mIoU': utility['non_members']['mIoU'],
            'pixel_accuracy': utility['non_members']['pixel_accuracy'],
            'members_mIoU': utility['members']['mIoU'],
            'members_pixel_accuracy': utility['members']['pixel_accuracy'],
            'similarity': similarity(*measured.posteriors[:, number]),
            'attacks': aucs,
        }
    return rows


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the overlap of two histograms of the same bins, 1 for equal shares."""
    return float(np.minimum(first / first.sum(), second / second.sum()).sum())


def _utility(measured: Measured, answer: int) -> dict[str, dict[str, Any]]:
    """Returns the scores of the segmentation of members and of non-members, by kind."""
    return {
        kind: confusion.scores(measured.matrices[number, answer], measured.classes, POLICY)
        for number, kind in enumerate(KINDS)
    }


def segmentation_scores(measured: Measured) -> dict[str, dict[str, Any]]:
    """Returns mIoU, pixel accuracy and their like of members and of non-members."""
    rows = {}
    for kind, scores in _utility(measured, measured.answers.index(NONE)).items():
        rows[kind] = {name: value for name, value in scores.items() if isinstance(value, float)}
    return rows


# --- histograms -----------------------------------------------------------------------------------


def histograms(measured: Measured, scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns histograms of members and non-members, {'edges', 'counts': {kind: ..}} each.

    Args:
      measured: of the victim.
      scores: of the attacks, {attack: [N]}.

    Returns:
      'posteriors'  {defence: pixels by the posterior of the predicted class} (Fig. 7.7)
      'logits'      {defence: pixels by log p_y - log(1 - p_y)}
      'scores'      {attack: images by their score} (Fig. 7.8)
    """
    posteriors = {}
    logits = {}
    for number, answer in enumerate(measured.answers):
        posteriors[answer] = _histogram(POSTERIOR_EDGES, measured.posteriors[:, number])
        logits[answer] = _histogram(LOGIT_EDGES, measured.logits[:, number])
    of_scores = {}
    for name, values in scores.items():
        edges = np.histogram_bin_edges(values, SCORE_BINS)
        counts = [np.histogram(values[measured.member == kind], edges)[0] for kind in (0, 1)]
        of_scores[name] = _histogram(edges, counts)
    return {'posteriors': posteriors, 'logits': logits, 'scores': of_scores}


def _histogram(edges: np.ndarray, counts: Any) -> dict[str, Any]:
    """Returns a histogram of both kinds, in the form of the reports."""
    by_kind = dict(zip(KINDS, counts, strict=True))
    return {
        'edges': edges.tolist(),
        'counts': {kind: np.asarray(by_kind[kind]).tolist() for kind in reversed(KINDS)},
    }


# --- images ---------------------------------------------------------------------------------------


def image_rows(audited: Audit) -> list[dict[str, Any]]:
    """Returns a row for each image, the most exposed members first.

    'rate' is the false-positive rate at which the image is called a member by the attack of the
    verdict (`membership.image_rates`). 'scores' of the attacks follow the signals.
    """
    measured = audited.measured
    scores = audited.attacks.scores
    rates = membership.image_rates(scores[audited.verdict.attack], measured.member)
    rows = []
    for place, name in enumerate(measured.names):
        row: dict[str, Any] = {
            'name': name,
            'member': int(measured.member[place]),
            'rate': float(rates[place]),
            'pixel_accuracy': float(measured.accuracy[place]),
        }
        for signal in SIGNALS:
            row[signal] = float(measured.signal(signal, NONE)[place])
        for attack, values in scores.items():
            row[f'score_{attack}'] = float(values[place])
        rows.append(row)
    best = f'score_{audited.verdict.attack}'
    return sorted(rows, key=lambda row: (not row['member'], row['rate'], -row[best]))


def image_table(audited: Audit) -> str:
    """Returns images.csv."""
    rows = image_rows(audited)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
