"""Attacks on membership against loops and analytic rates, and the scores of attacks."""

import itertools
import math
import re
import statistics

import numpy as np
import pytest
from house import REPOSITORY

from segjax.errors import InputError
from segjax.metrics import curves, membership, ranking

RNG = np.random.default_rng(0)
NUM_SHADOWS, NUM_IMAGES = 10, 9
MEMBER = membership.balanced_membership(NUM_SHADOWS, NUM_IMAGES)
LOGIT = RNG.normal(2, 1.5, (NUM_SHADOWS, NUM_IMAGES))
VICTIM_LOGIT = RNG.normal(2, 1.5, NUM_IMAGES)
LOSS = RNG.gamma(2, 0.5, (NUM_SHADOWS, NUM_IMAGES))
VICTIM_LOSS = RNG.gamma(2, 0.5, NUM_IMAGES)


def of_kind(image, is_member):
    """Returns the logits of the shadows of a kind."""
    rows = [s for s in range(NUM_SHADOWS) if MEMBER[s, image] == is_member]
    return [LOGIT[s, image] for s in rows]


def global_deviation(is_member):
    """Returns the pooled standard deviation about the mean of each image."""
    squares, degrees = 0.0, 0
    for image in range(NUM_IMAGES):
        values = of_kind(image, is_member)
        squares += sum((value - statistics.mean(values)) ** 2 for value in values)
        degrees += len(values) - 1
    return math.sqrt(squares / degrees)


def gaussian_of(image, is_member, variance):
    values = of_kind(image, is_member)
    deviation = statistics.pstdev(values)
    if variance == 'global':
        deviation = global_deviation(is_member)
    return statistics.NormalDist(statistics.median(values), deviation)


@pytest.mark.parametrize('variance', membership.VARIANCES)
def test_lira_online_is_the_loop(variance):
    got = membership.lira_online(LOGIT, MEMBER, VICTIM_LOGIT, variance)
    for image, phi in enumerate(VICTIM_LOGIT):
        density_in = gaussian_of(image, True, variance).pdf(phi)
        density_out = gaussian_of(image, False, variance).pdf(phi)
        expected = math.log(density_in) - math.log(density_out)
        assert got[image] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('variance', membership.VARIANCES)
def test_lira_offline_is_the_loop(variance):
    two = membership.lira_offline(LOGIT, MEMBER, VICTIM_LOGIT, variance)
    one = membership.lira_offline(LOGIT, MEMBER, VICTIM_LOGIT, variance, sides='one')
    for image, phi in enumerate(VICTIM_LOGIT):
        outside = gaussian_of(image, False, variance)
        assert two[image] == pytest.approx(-math.log(outside.pdf(phi)), rel=1e-9)
        # P(N > phi) by erfc, because 1 - cdf has no digits in the tail.
        above = math.erfc((phi - outside.mean) / outside.stdev / math.sqrt(2)) / 2
        assert one[image] == pytest.approx(-math.log(above), rel=1e-7)


def test_one_sided_lira_ranks_signals_beyond_the_saturation_of_the_paper_s_form():
    member = np.zeros((4, 3), bool)
    shadow = np.array([[-1.0] * 3, [1.0] * 3, [-1.0] * 3, [1.0] * 3])
    got = membership.lira_offline(shadow, member, np.array([20.0, 40.0, 1e4]), sides='one')
    assert np.isfinite(got).all() and (np.diff(got) > 0).all()
    assert statistics.NormalDist().cdf(20.0) == 1.0


def test_equal_shadows_give_a_finite_score():
    constant = np.ones((NUM_SHADOWS, NUM_IMAGES))
    victim = np.linspace(0, 2, NUM_IMAGES)
    for attack in membership.ATTACKS.values():
        assert np.isfinite(attack.score(constant, MEMBER, victim)).all()


def likelihood_ratio(image, slope):
    outside = [math.exp(-LOSS[s, image]) for s in range(NUM_SHADOWS) if not MEMBER[s, image]]
    mean_out = sum(outside) / len(outside)
    mean_in = slope * mean_out + 1 - slope
    return math.exp(-VICTIM_LOSS[image]) / ((mean_in + mean_out) / 2)


@pytest.mark.parametrize('slope', [0.0, 0.3, 1.0])
@pytest.mark.parametrize('population', [range(NUM_IMAGES), (1, 4, 5)])
def test_rmia_is_the_loop(slope, population):
    is_z = np.isin(np.arange(NUM_IMAGES), list(population))
    got = membership.rmia(LOSS, MEMBER, VICTIM_LOSS, slope, is_z)
    for image in range(NUM_IMAGES):
        wins = 0
        for z in population:
            wins += likelihood_ratio(image, slope) / likelihood_ratio(z, slope) > 1
        assert got[image] == pytest.approx(wins / len(population), abs=1e-12)
    if len(population) == NUM_IMAGES:
        np.testing.assert_array_equal(got, membership.rmia(LOSS, MEMBER, VICTIM_LOSS, slope))


def test_thresholds_need_no_shadow():
    for name, sign in (('loss', -1), ('confidence', 1)):
        got = membership.ATTACKS[name].score(LOSS, MEMBER, VICTIM_LOSS)
        np.testing.assert_array_equal(got, sign * VICTIM_LOSS)


def gaussian_nets(distance, num_shadows=200, num_images=800):
    """Returns (shadow, member, victim, victim's members) with signals N(mean + distance, 1)."""
    rng = np.random.default_rng(1)
    mean = rng.normal(0, 3, num_images)
    member = membership.balanced_membership(num_shadows, num_images)
    truth = np.arange(num_images) % 2 == 0
    shadow = mean + distance * member + rng.normal(size=member.shape)
    victim = mean + distance * truth + rng.normal(size=num_images)
    return shadow, member, victim, truth


@pytest.mark.parametrize('variance', membership.VARIANCES)
def test_lira_reaches_the_analytic_auc_of_gaussian_signals(variance):
    """Two Gaussians at a distance d have the AUC Phi(d / sqrt 2)."""
    *nets, truth = gaussian_nets(distance=1.0)
    analytic = statistics.NormalDist().cdf(1 / math.sqrt(2))
    for scores in (
        membership.lira_online(*nets, variance),
        membership.lira_offline(*nets, variance, 'one'),
    ):
        row = membership.auc_interval(scores, truth)
        assert row['low'] < analytic < row['high']
        assert row['high'] - row['low'] < 0.08
    # The threshold does not know that images differ in difficulty.
    by_threshold = membership.auc_interval(nets[2], truth)
    assert by_threshold['high'] < analytic


def test_signals_drawn_alike_give_chance():
    *nets, truth = gaussian_nets(distance=0.0)
    for name in ('lira_online', 'lira_offline', 'lira_offline_one_sided'):
        row = membership.auc_interval(membership.ATTACKS[name].score(*nets), truth)
        assert row['low'] < 0.5 < row['high'], name
    shadow, member, victim = nets
    scores = membership.rmia(np.exp(-shadow), member, np.exp(-victim))
    row = membership.auc_interval(scores, truth)
    assert row['low'] < 0.5 < row['high']


def test_the_slope_of_rmia_attacks_the_shadows_best():
    areas = {}
    for slope in np.linspace(0, 1, 11):
        of_shadows = []
        for s in range(NUM_SHADOWS):
            rest = [other for other in range(NUM_SHADOWS) if other != s]
            scores = membership.rmia(LOSS[rest], MEMBER[rest], LOSS[s], slope)
            wins = 0.0
            for a in scores[MEMBER[s]]:
                for b in scores[~MEMBER[s]]:
                    wins += (a > b) + 0.5 * (a == b)
            of_shadows.append(wins / (MEMBER[s].sum() * (~MEMBER[s]).sum()))
        areas[slope] = np.mean(of_shadows)
    slope = membership.rmia_slope(LOSS, MEMBER)
    assert areas[slope] == pytest.approx(max(areas.values()), abs=1e-12)
    assert min(areas.values()) < max(areas.values())


def test_balanced_sets_hold_each_image_in_half_of_the_shadows():
    member = membership.balanced_membership(6, 500, seed=3)
    assert member.shape == (6, 500) and member.dtype == bool
    assert (member.sum(0) == 3).all()
    assert (np.abs(member.mean(1) - 0.5) < 0.1).all()
    np.testing.assert_array_equal(member, membership.balanced_membership(6, 500, seed=3))
    assert (member != membership.balanced_membership(6, 500, seed=4)).any()
    with pytest.raises(InputError, match='even'):
        membership.balanced_membership(5, 10)


def test_classes_are_attacked_one_by_one_where_they_are_present():
    shadow = np.stack([LOGIT, LOGIT[:, ::-1], LOGIT], -1)
    victim = np.stack([VICTIM_LOGIT, VICTIM_LOGIT[::-1], VICTIM_LOGIT], -1)
    absent = np.arange(NUM_IMAGES) % 3 == 0
    shadow[:, absent, 1] = np.nan
    victim[absent, 1] = np.nan
    shadow[:, :, 2] = np.nan
    victim[:, 2] = np.nan
    got = membership.by_class(membership.lira_online, shadow, MEMBER, victim)
    np.testing.assert_array_equal(got[:, 0], membership.lira_online(LOGIT, MEMBER, VICTIM_LOGIT))
    inside = ~absent
    np.testing.assert_array_equal(
        got[inside, 1],
        membership.lira_online(shadow[:, inside, 1], MEMBER[:, inside], victim[inside, 1]),
    )
    assert np.isnan(got[absent, 1]).all() and np.isnan(got[:, 2]).all()


# --- scores of attacks ----------------------------------------------------------------------------


def scored(num_images=120, distance=1.2):
    rng = np.random.default_rng(2)
    member = np.arange(num_images) % 3 == 0
    return rng.normal(size=num_images) + distance * member, member


def test_the_scores_of_an_attack_are_those_of_scikit_learn():
    reference = pytest.importorskip('sklearn.metrics')
    scores, member = scored()
    got = membership.attack_scores(scores, member, resamples=50)
    assert got['AUC'] == pytest.approx(reference.roc_auc_score(member, scores), abs=1e-12)
    assert got['AP'] == pytest.approx(reference.average_precision_score(member, scores), abs=1e-12)
    fpr, tpr, thresholds = reference.roc_curve(member, scores, drop_intermediate=False)
    balanced = []
    for threshold in thresholds:
        balanced.append(reference.balanced_accuracy_score(member, scores >= threshold))
    assert got['balanced_accuracy'] == pytest.approx(max(balanced), abs=1e-12)
    assert got['TPR_at_1_percent'] == tpr[fpr <= 0.01].max()
    assert got['TPR_at_0.1_percent'] == tpr[fpr <= 0.001].max()
    precision, recall, _ = reference.precision_recall_curve(member, scores)
    assert got['precision_at_recall_0.8'] == pytest.approx(precision[recall >= 0.8].max())
    assert (got['members'], got['non_members']) == (40, 80)
    for name, row in got['intervals'].items():
        assert row['low'] <= row['value'] <= row['high'] and row['value'] == got[name]
    assert len(got['intervals']) == 6


def test_the_interval_of_the_auc_is_that_of_hanley_and_mcneil():
    """The standard error of 1982, for Gaussian signals of members and non-members."""
    member = np.arange(1000) % 2 == 0
    scores = np.random.default_rng(5).normal(size=1000) + member
    row = membership.auc_interval(scores, member)
    a, n = row['value'], 500
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + (n - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / n**2)
    assert (row['high'] - row['low']) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_copies_of_images_in_a_group_do_not_narrow_the_interval():
    scores, member = scored(60)
    names = np.array([f'sequence {i}' for i in range(60)])
    alone = membership.auc_interval(scores, member, names)
    copied = membership.auc_interval(
        np.repeat(scores, 4), np.repeat(member, 4), np.repeat(names, 4)
    )
    assert copied == pytest.approx(alone)


def test_curves_have_the_rates_and_chance():
    scores, member = scored()
    got = membership.attack_curves({'mine': scores, 'perfect': member.astype(float)}, member)
    assert set(got) == {'roc', 'roc_log', 'precision_recall'}
    curve = ranking.roc(scores, member)
    linear, perfect, chance = got['roc']['series']
    np.testing.assert_array_equal(linear['x'], curve.false_positive_rate)
    np.testing.assert_array_equal(linear['y'], curve.true_positive_rate)
    assert perfect['x'] == [0, 0, 1] and perfect['y'] == [0, 1, 1]
    assert chance == {'name': 'chance', 'x': [0, 1], 'y': [0, 1]}
    logarithmic = got['roc_log']
    assert (logarithmic['x_scale'], logarithmic['y_scale']) == ('log', 'log')
    kept = (curve.false_positive_rate > 0) & (curve.true_positive_rate > 0)
    np.testing.assert_array_equal(logarithmic['series'][0]['x'], curve.false_positive_rate[kept])
    assert logarithmic['series'][2]['x'] == [1 / 80, 1]
    precision = ranking.precision_recall(scores, member)
    np.testing.assert_array_equal(
        got['precision_recall']['series'][0]['y'], precision.precision[::-1]
    )
    assert got['precision_recall']['series'][2]['y'] == pytest.approx([1 / 3, 1 / 3])
    for line in got.values():
        series = {row['name']: (row['x'], row['y']) for row in line['series']}
        names = (line['x_name'], line['y_name'], line['x_scale'], line['y_scale'])
        assert curves.curve(series, *names) == line, 'a curve of the report'


def test_long_curves_keep_their_ends_and_their_area():
    scores, member = scored(30_000)
    line = membership.attack_curves({'mine': scores}, member)['roc']['series'][0]
    assert len(line['x']) <= 2 * membership.CURVE_POINTS
    assert (line['x'][0], line['x'][-1]) == (0, 1)
    curve = ranking.roc(scores, member)
    assert ranking.auc(line['x'], line['y']) == pytest.approx(ranking.area(curve), abs=1e-3)
    assert line['x'][1:4] == list(curve.false_positive_rate[1:4]), 'all points at small rates'


def test_slices_are_scored_on_their_images():
    scores, member = scored()
    city = np.where(np.arange(120) < 60, 'bonn', 'ulm')
    parts = {name: np.where(city == name, scores, np.nan) for name in ('bonn', 'ulm')}
    parts['members'] = np.where(member, scores, np.nan)
    got = membership.slice_scores(parts, member)
    for name in ('bonn', 'ulm'):
        inside = city == name
        expected = ranking.area(ranking.roc(scores[inside], member[inside]))
        assert got[name]['AUC'] == pytest.approx(expected, abs=1e-12)
        assert got[name]['low'] < got[name]['AUC'] < got[name]['high']
        assert (got[name]['members'], got[name]['non_members']) == (20, 40)
    nothing = {'AUC': None, 'low': None, 'high': None}
    assert got['members'] == {**nothing, 'members': 40, 'non_members': 0}


def test_slices_resample_the_groups_of_their_images():
    scores, member = scored()
    clips = np.arange(120) // 6
    part = np.where(np.arange(120) < 60, scores, np.nan)
    got = membership.slice_scores({'half': part}, member, clips)['half']
    expected = membership.auc_interval(scores[:60], member[:60], clips[:60])
    assert (got['low'], got['high']) == (expected['low'], expected['high'])
    assert got['low'] != membership.slice_scores({'half': part}, member)['half']['low']


def test_a_higher_level_is_a_wider_interval():
    scores, member = scored()
    rows = [membership.auc_interval(scores, member, level=level) for level in (0.5, 0.95, 0.99)]
    assert rows[0]['value'] == rows[1]['value'] == membership.auc_interval(scores, member)['value']
    assert rows[1] == membership.auc_interval(scores, member)
    for narrow, wide in itertools.pairwise(rows):
        assert wide['low'] < narrow['low'] < narrow['high'] < wide['high']


def test_rmia_ranks_losses_of_one_hot_posteriors():
    """A mean of exp(-60) is below the rounding of 1, but it is not 0."""
    shadow = np.array([[60.0, 60.0, 50.0]])
    victim = np.array([50.0, 40.0, 50.0])
    scores = membership.rmia(shadow, np.zeros((1, 3), bool), victim, slope=1)
    np.testing.assert_allclose(scores, [1 / 3, 2 / 3, 0])


def test_the_rate_of_an_image_counts_the_non_members_that_score_as_high():
    scores = np.array([5.0, 3.0, 3.0, 1.0, 0.0])
    member = np.array([True, False, True, False, False])
    got = membership.image_rates(scores, member)
    np.testing.assert_allclose(got, [0, 1 / 3, 1 / 3, 2 / 3, 1])


def test_an_image_without_a_score_has_no_rate():
    scores = np.array([np.nan, 3.0, 2.0, 1.0, np.nan])
    member = np.array([True, False, True, False, False])
    np.testing.assert_array_equal(
        membership.image_rates(scores, member), [np.nan, 0.5, 0.5, 1, np.nan]
    )
    with pytest.raises(InputError, match='members alone'):
        membership.image_rates(np.where(member, scores, np.nan), member)


@pytest.mark.parametrize(
    'shadow, member, victim, message',
    [
        (LOGIT, MEMBER, VICTIM_LOGIT[:3], r'victim \[3\]'),
        (LOGIT, MEMBER.astype(int), VICTIM_LOGIT, 'bool'),
        (np.where(LOGIT > 3, np.nan, LOGIT), MEMBER, VICTIM_LOGIT, 'not finite'),
        (LOGIT, np.ones_like(MEMBER), VICTIM_LOGIT, '0 for image 0'),
        (LOGIT[:2], membership.balanced_membership(2, NUM_IMAGES), VICTIM_LOGIT, '2 or more'),
    ],
)
def test_wrong_shadows_are_named(shadow, member, victim, message):
    with pytest.raises(InputError, match=message):
        membership.lira_online(shadow, member, victim)


def test_wrong_settings_are_named():
    pair = membership.balanced_membership(2, NUM_IMAGES)
    with pytest.raises(InputError, match='single shadow'):
        membership.lira_online(LOGIT[:2], pair, VICTIM_LOGIT, 'global')
    with pytest.raises(InputError, match='variance'):
        membership.lira_online(LOGIT, MEMBER, VICTIM_LOGIT, 'none')
    with pytest.raises(InputError, match='sides'):
        membership.lira_offline(LOGIT, MEMBER, VICTIM_LOGIT, sides='three')
    with pytest.raises(InputError, match='population'):
        membership.rmia(LOSS, MEMBER, VICTIM_LOSS, population=np.zeros(NUM_IMAGES, bool))
    with pytest.raises(InputError, match='slope'):
        membership.rmia(LOSS, MEMBER, VICTIM_LOSS, slope=3)
    with pytest.raises(InputError, match='0 for image'):
        membership.rmia(LOSS, np.ones_like(MEMBER), VICTIM_LOSS)
    for function in (membership.attack_scores, membership.image_rates):
        with pytest.raises(InputError, match='non-members alone'):
            function(VICTIM_LOSS, np.zeros(NUM_IMAGES, bool))


# --- docs/membership.md ---------------------------------------------------------------------------

PAGE = (REPOSITORY / 'docs/membership.md').read_text()


def test_the_lines_of_the_page_attack_nets_that_know_their_images(capsys):
    """Nets here are surer of the labels of their images by a factor of 2."""
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, (40, 4, 5))
    shadow_member = membership.balanced_membership(4, 40)
    member = np.arange(40) < 20

    def net(known):
        right = np.where(known, 4.0, 2.0)[:, None, None, None] * np.eye(3)[labels]
        scores = np.exp(right + rng.normal(0, 0.3, (40, 4, 5, 3)))
        return lambda images: scores / scores.sum(-1, keepdims=True)

    names = {
        'images': np.zeros((40, 4, 5, 3), np.uint8),
        'labels': labels,
        'shadow_nets': [net(known) for known in shadow_member],
        'victim_net': net(member),
        'shadow_member': shadow_member,
        'member': member,
        'sequences': np.array(['aachen', 'bonn'] * 20),
    }
    lines = re.findall(r'^```python\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)[0]
    exec(lines, names)
    assert names['result']['AUC'] > 0.95
    assert capsys.readouterr().out.splitlines()[-1] == 'None', 'sequences are mixed'


def test_the_page_has_all_attacks():
    table = PAGE[PAGE.index('| attack |') : PAGE.index('- With few shadows')]
    rows = table.strip().splitlines()[2:]
    named = {name for row in rows for name in re.findall(r'`(\w+)`', row.split('|')[1])}
    assert named == set(membership.ATTACKS)
    for row in rows:
        for name in re.findall(r'`(\w+)`', row.split('|')[1]):
            assert f'`{membership.ATTACKS[name].signal}`' in row.split('|')[2]
