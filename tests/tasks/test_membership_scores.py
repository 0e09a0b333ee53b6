"""Scores of an audit: rows of attacks, likelihood ratios of references, and confounds."""

import numpy as np
import pytest

from segjax.metrics import confound, membership
from segjax.tasks import membership_scores

N = 60
PATCHES = 3
NUM_CLASSES = 4
MEMBER = np.arange(N) < 25
REFERENCES = ('reference_0', 'reference_1')


def make_values(gap=1.0, seed=0):
    """Returns the values of N images, of which members have a larger verdict and a smaller loss."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(size=(N, PATCHES)) + gap * MEMBER[:, None]
    values = {
        'verdict_patch': patches,
        'verdict_weight': np.ones((N, PATCHES)),
        'verdict_image': patches.mean(1),
        'loss': rng.uniform(0.5, 1, N) - 0.4 * MEMBER,
        'confidence': rng.uniform(0, 1, N),
        'logit': rng.normal(size=N),
        'fact_colour': rng.normal(size=(N, 3)),
    }
    for name in REFERENCES:
        values[f'{name}/loss'] = rng.uniform(0.5, 1, N)
        values[f'{name}/confidence'] = rng.uniform(0, 1, N)
        values[f'{name}/logit'] = rng.normal(size=N)
    return values


def scores_of(values, references=(), member=MEMBER):
    return membership_scores.scores(values, member, references, resamples=50)


def area(scores, member=MEMBER):
    """Returns the share of pairs that are in the right order."""
    difference = scores[member][:, None] - scores[~member]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


def test_the_attack_net_and_the_attacks_without_training_by_pairs():
    values = make_values()
    scores = scores_of(values)
    assert scores['AUC'] == pytest.approx(area(values['verdict_image']))
    rows = scores['attacks']
    assert set(rows) == {'attacker', 'loss', 'confidence', 'attacker_patches'}
    assert rows['attacker']['AUC'] == scores['AUC']
    assert rows['loss']['AUC'] == pytest.approx(area(-values['loss']))
    assert rows['confidence']['AUC'] == pytest.approx(area(values['confidence']))
    for row in rows.values():
        assert row['AUC_low'] <= row['AUC'] <= row['AUC_high']
    for curve in ('roc', 'roc_log', 'precision_recall'):
        assert {line['name'] for line in scores[curve]['series']} >= {'attacker', 'loss', 'chance'}


def test_patches_without_weight_are_no_patches():
    values = make_values()
    values['verdict_weight'][::2, 1] = 0
    values['verdict_patch'][::2, 1] = np.nan
    kept = values['verdict_weight'] > 0
    member = np.broadcast_to(MEMBER[:, None], kept.shape)[kept]
    expected = area(values['verdict_patch'][kept], member)
    assert scores_of(values)['attacks']['attacker_patches']['AUC'] == pytest.approx(expected)


def test_likelihood_ratios_need_references():
    values = make_values()
    single = scores_of(values, REFERENCES[:1])['attacks']
    both = scores_of(values, REFERENCES)['attacks']
    assert set(both) - set(single) == {'lira_offline_one_sided'}
    assert {'rmia'} == set(single) - set(scores_of(values)['attacks'])
    stacked = {
        name: np.stack([values[f'{net}/{name}'] for net in REFERENCES])
        for name in ('loss', 'logit')
    }
    seen = np.zeros((2, N), bool)
    lira = membership.lira_offline(
        stacked['logit'], seen, values['logit'], variance='global', sides='one'
    )
    assert both['lira_offline_one_sided']['AUC'] == pytest.approx(area(lira))
    rmia = membership.rmia(stacked['loss'], seen, values['loss'])
    assert both['rmia']['AUC'] == pytest.approx(area(rmia))


def test_images_without_a_label_are_left_out():
    values = make_values()
    values['loss'][[0, 40]] = np.nan
    values['verdict_image'][[0, 40]] = 1e6
    kept = np.isfinite(values['loss'])
    expected = area(values['verdict_image'][kept], MEMBER[kept])
    assert scores_of(values)['AUC'] == pytest.approx(expected)


def test_nothing_is_scored_without_both_kinds():
    scores = scores_of(make_values(), member=np.zeros(N, bool))
    assert scores == dict.fromkeys(membership_scores.POINTS)


def test_every_score_of_the_attack_net_has_a_chance():
    chance = scores_of(make_values())['baseline_chance']
    assert set(chance) == set(membership_scores.POINTS)
    assert chance['AP'] == chance['precision_at_recall_0.8'] == pytest.approx(25 / N)


@pytest.mark.parametrize('net', ['verdict', 'reference'])
def test_a_net_that_diverged_hides_no_further_attack(net):
    values = make_values()
    of_net = {
        'verdict': ('verdict_image', 'verdict_patch'),
        'reference': ('reference_1/loss', 'reference_1/logit'),
    }
    for name in of_net[net]:
        values[name][3] = np.nan
    scores = scores_of(values, REFERENCES)
    silent = {
        'verdict': {'attacker', 'attacker_patches'},
        'reference': {'rmia', 'lira_offline_one_sided'},
    }
    for name, row in scores['attacks'].items():
        assert (row['AUC'] is None) == (name in silent[net]), name
    assert scores['attacks']['loss']['AUC'] > 0.9
    assert (scores['AUC'] is None) == (net == 'verdict')
    names = {line['name'] for line in scores['roc']['series']}
    assert not names & silent[net] and 'loss' in names


@pytest.mark.parametrize('is_confounded', [False, True])
def test_facts_that_give_members_away_make_a_warning(is_confounded):
    values = make_values()
    values['fact_colour'][:, 1] += 3.0 * is_confounded * MEMBER
    result = scores_of(values)['confound']
    assert (result['warning'] != membership_scores.NO_WARNING) == is_confounded
    assert (result['AUC'] > result['AUC_shuffled']) == is_confounded
    assert result['AUC_low'] <= result['AUC'] <= result['AUC_high']
    assert result['AUC_colour'] == result['AUC']


def test_too_few_images_have_no_confound():
    assert scores_of(make_values(), member=np.arange(N) < 4)['confound'] == {}


def test_facts_of_images_end_at_the_padding():
    rng = np.random.default_rng(0)
    batch = {
        'index': np.arange(2),
        'image': rng.integers(0, 255, (2, 6, 8, 3)).astype(np.uint8),
        'label': rng.choice([0, 1, 255], (2, 6, 8)),
        'size': np.array([[6, 8], [4, 5]]),
        'label_size': np.array([[6, 8], [3, 2]]),
    }
    facts = membership_scores.facts_of(batch, NUM_CLASSES)
    expected = confound.image_facts(batch['image'][1, :4, :5], batch['label'][1], NUM_CLASSES)
    for name in ('colour', 'contrast', 'class_shares'):
        np.testing.assert_allclose(facts[name][1], expected[name])
    np.testing.assert_array_equal(facts['size'], batch['label_size'])
    empty = {key: value[:0] for key, value in batch.items()}
    shapes = {name: array.shape[1:] for name, array in facts.items()}
    none = membership_scores.facts_of(empty, NUM_CLASSES)
    assert {name: array.shape[1:] for name, array in none.items()} == shapes
