"""Attacks with shadows: which are possible, and with which options. Groups of intervals."""

import numpy as np
import pytest

from segjax.metrics import membership
from segjax.modes.audit import attacks
from segjax.modes.audit.defences import answers
from segjax.modes.audit.measure import LOGIT_EDGES, POSTERIOR_EDGES, SIGNALS, Measured

C = 4
N = 40
MEMBER = np.arange(N) < N // 2


def measured(member, seed):
    """Numbers of a net that was trained on `member`: the logit is larger, the loss smaller."""
    generator = np.random.default_rng(seed)
    names = tuple(answers(C))
    easy = np.random.default_rng(99).normal(size=(N, 1))  # images differ for all nets alike
    logit = 3 * easy + member[:, None] + 0.3 * generator.normal(size=(N, len(names)))
    logit[:, names.index('argmax')] = 0
    loss = np.log1p(np.exp(-logit))
    bins = len(POSTERIOR_EDGES) - 1, len(LOGIT_EDGES) - 1
    return Measured(
        names=tuple(f'n{i}' for i in range(N)),
        member=member,
        answers=names,
        classes=tuple('abcd'),
        signals=np.stack([loss, np.exp(-loss), logit], -1),
        parts=np.stack([loss[:, :2]] * len(SIGNALS), -1),
        class_signals=np.stack([loss[:, :C]] * len(SIGNALS), -1),
        label_pixels=np.ones((N, C), int),
        accuracy=np.ones(N),
        matrices=np.ones((2, len(names), C + 1, C + 1), int),
        posteriors=np.ones((2, len(names), bins[0]), int),
        logits=np.ones((2, len(names), bins[1]), int),
        unlabelled=(),
        kept=np.ones(N, bool),
    )


VICTIM = measured(MEMBER, 0)


def shadows(member):
    answered = tuple(measured(row, seed) for seed, row in enumerate(member, start=1))
    return attacks.Shadows(tuple(f's{i}' for i in range(len(member))), member, answered)


BALANCED = shadows(membership.balanced_membership(4, N, seed=1))


def test_without_shadows_there_are_two_attacks():
    scores, missing = attacks.attack(VICTIM, None)
    assert set(scores) == set(attacks.WITHOUT_SHADOWS) and not missing
    np.testing.assert_array_equal(scores['loss'], -VICTIM.signals[:, 0, 0])


def test_balanced_shadows_allow_all_attacks_and_are_stronger():
    scores, missing = attacks.attack(VICTIM, BALANCED)
    assert set(scores) == set(membership.ATTACKS) and not missing
    area = {name: membership.auc_interval(s, MEMBER)['value'] for name, s in scores.items()}
    assert area['lira_online'] > 0.9 > area['loss'] + 0.1
    # Few shadows pool the variance over the images.
    logits = [each.signal('logit', 'none') for each in BALANCED.measured]
    expected = membership.lira_online(
        np.stack(logits), BALANCED.member, VICTIM.signal('logit', 'none'), 'global'
    )
    np.testing.assert_array_equal(scores['lira_online'], expected)


def test_the_slope_is_tuned_where_shadows_can_be_attacked():
    losses = np.stack([each.signal('loss', 'none') for each in BALANCED.measured])
    slope = membership.rmia_slope(losses, BALANCED.member)
    expected = membership.rmia(losses, BALANCED.member, VICTIM.signal('loss', 'none'), slope)
    scores, _ = attacks.attack(VICTIM, BALANCED)
    np.testing.assert_array_equal(scores['rmia'], expected)
    # Offline shadows have none of the images, so no shadow can be attacked.
    offline = shadows(np.zeros((2, N), bool))
    scores, missing = attacks.attack(VICTIM, offline)
    losses = np.stack([each.signal('loss', 'none') for each in offline.measured])
    expected = membership.rmia(losses, offline.member, VICTIM.signal('loss', 'none'))
    np.testing.assert_array_equal(scores['rmia'], expected)
    assert missing == {'lira_online': '40 of 40 images have no shadow that was trained with them'}


def test_shadows_answer_behind_the_defence():
    scores, _ = attacks.attack(VICTIM, BALANCED, 'gaussian_1')
    logits = [each.signal('logit', 'gaussian_1') for each in BALANCED.measured]
    expected = membership.lira_offline(
        np.stack(logits), BALANCED.member, VICTIM.signal('logit', 'gaussian_1'), 'global', 'one'
    )
    np.testing.assert_array_equal(scores['lira_offline_one_sided'], expected)
    scores, _ = attacks.attack(VICTIM, BALANCED, 'argmax')
    assert len(np.unique(scores['lira_offline'])) == 1, 'all signals are equal'


def test_a_single_shadow_has_no_variance():
    scores, missing = attacks.attack(VICTIM, shadows(np.zeros((1, N), bool)))
    assert set(scores) == {'loss', 'confidence', 'rmia'}
    reason = 'no image has two shadows that were trained without it'
    assert missing['lira_offline'] == missing['lira_offline_one_sided'] == reason


def test_parts_and_classes_are_attacked_by_their_loss():
    for rows, names in (
        (attacks.by_part(VICTIM, None), ('boundary', 'interior')),
        (attacks.by_class(VICTIM, None), tuple('abcd')),
    ):
        assert tuple(rows) == names
        for number, row in enumerate(rows.values()):
            loss = VICTIM.signals[:, number, 0]
            wins = [(a < b) + (a == b) / 2 for a in loss[MEMBER] for b in loss[~MEMBER]]
            assert row['AUC'] == pytest.approx(np.mean(wins))


@pytest.mark.parametrize('number, kind', [(10, 'sequences'), (9, 'images')])
def test_groups_are_sequences_where_there_are_enough(number, kind):
    sequence = np.array([f'{MEMBER[i]}{i % number}' for i in range(N)])
    assert attacks.groups_of({'sequence': sequence}, MEMBER)[0] == kind
    assert attacks.groups_of({}, MEMBER) == ('images', None)


def test_membership_that_was_drawn_within_sequences_resamples_images():
    mixed = np.array([f'{i % 12}' for i in range(N)])
    assert attacks.groups_of({'sequence': mixed}, MEMBER) == ('images', None)
