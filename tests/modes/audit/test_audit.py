"""--mode audit of saved posteriors: known leaks, verdicts, warnings, files and the page."""

import csv
import json
import math

import numpy as np
import pytest
from absl import flags
from saved_posteriors import CLASSES, save_all

from segjax import main
from segjax.core.notes import Note
from segjax.metrics.confound import Confound
from segjax.modes import audit
from segjax.modes.audit import facts, nets, page, results, verdict

GAP = 0.2
SPREAD = 0.2


def order(root, **changed):
    given = {
        'workdir': '',
        'stage': '',
        'checkpoint': 'last',
        'posteriors': str(root / 'posteriors'),
        'members': str(root / 'members.csv'),
        'nonmembers': '',
        'shadow': '',
        'output': str(root / 'out'),
    }
    return audit.Order(**{**given, **changed})


@pytest.fixture(scope='module')
def leaking(tmp_path_factory):
    """Returns the folder of an audit. Losses of members and non-members are two Gaussians."""
    generator = np.random.default_rng(1)
    losses = 0.9 + SPREAD * generator.normal(size=120) - GAP * (np.arange(120) % 2 == 0)
    root = save_all(tmp_path_factory.mktemp('leak'), np.clip(losses, 0.01, None))
    audit.main(None, order(root))
    return root


@pytest.fixture(scope='module')
def scores(leaking):
    return json.loads((leaking / 'out/audit.json').read_text())


@pytest.fixture(scope='module')
def images(leaking):
    with (leaking / 'out/images.csv').open() as file:
        return list(csv.DictReader(file))


# --- known answers --------------------------------------------------------------------------------


def test_the_interval_holds_the_analytic_auc(scores):
    # P(X < Y) of two Gaussians is Phi(gap / sqrt(2 spread^2)).
    expected = (1 + math.erf(GAP / (SPREAD * math.sqrt(2)) / math.sqrt(2))) / 2
    interval = scores['attacks']['loss']['intervals']['AUC']
    assert interval['low'] < expected < interval['high']
    assert interval['high'] - interval['low'] < 0.2


def test_scores_equal_loops_over_the_images(scores, images):
    values = np.array([float(row['score_loss']) for row in images])
    member = np.array([row['member'] == '1' for row in images])
    wins = [(a > b) + (a == b) / 2 for a in values[member] for b in values[~member]]
    got = scores['attacks']['loss']
    assert got['AUC'] == pytest.approx(np.mean(wins), abs=1e-12)
    precisions = []
    for threshold in values[member]:
        precisions.append(member[values >= threshold].mean())
    assert got['AP'] == pytest.approx(np.mean(precisions), abs=1e-12)
    rates = [((values[~member] >= t).mean(), (values[member] >= t).mean()) for t in values]
    expected = max(rate for fpr, rate in rates if fpr <= 0.01)
    assert got['TPR_at_1_percent'] == pytest.approx(expected, abs=1e-12)


def test_equal_members_and_non_members(tmp_path):
    losses = 0.7 + 0.1 * np.random.default_rng(3).normal(size=60)
    audited = audit.main(None, order(save_all(tmp_path, losses, seed=1)))
    interval = audited.scores['attacks']['loss']['intervals']['AUC']
    assert interval['low'] < 0.5 < interval['high']
    assert not audited.verdict.leaks and audited.confound.note is None
    assert audited.verdict.text.startswith('No leak could be seen')


def test_parts_classes_and_defences(scores):
    # All pixels of an image have the same loss, so every part leaks as much as the image.
    whole = scores['attacks']['loss']['AUC']
    assert set(scores['parts']) == {'boundary', 'interior'}
    assert scores['parts']['boundary']['AUC'] == pytest.approx(whole, abs=0.01)
    assert set(scores['classes']) == {f'class {i}' for i in range(CLASSES)}
    for row in scores['classes'].values():
        assert row['AUC'] == pytest.approx(whole, abs=0.02)
    defences = scores['defences']
    assert defences['none']['AUC'] == scores['attacks'][defences['none']['attack']]['AUC']
    # A monotone change keeps the ranking, and one-hot posteriors have no confidence.
    assert defences['temperature_4']['attacks']['loss']['value'] == pytest.approx(whole, abs=1e-3)
    assert defences['argmax']['attacks']['confidence']['value'] == 0.5
    for name in ('argmax', 'temperature_4'):
        assert defences[name]['mIoU'] == defences['none']['mIoU']
    assert defences['gaussian_1']['pixel_accuracy'] < defences['none']['pixel_accuracy'] - 0.1
    assert defences['argmax']['similarity'] == 1 > defences['none']['similarity']


def test_segmentation_scores_are_those_of_the_images(scores, images):
    for kind, member in (('members', '1'), ('non_members', '0')):
        rows = [float(row['pixel_accuracy']) for row in images if row['member'] == member]
        assert scores['segmentation'][kind]['pixel_accuracy'] == pytest.approx(np.mean(rows))


def test_histograms_count_every_pixel_and_image(scores):
    histograms = scores['histograms']
    for counts in histograms['posteriors']['none']['counts'].values():
        assert sum(counts) == 60 * 5 * 8
    for counts in histograms['scores']['loss']['counts'].values():
        assert sum(counts) == 60


def test_exposed_images_come_first(images):
    assert [row['member'] for row in images] == ['1'] * 60 + ['0'] * 60
    rates = [float(row['rate']) for row in images[:60]]
    assert rates == sorted(rates) and rates[0] == 0
    outside = np.array([float(row['score_loss']) for row in images[60:]])
    for row in images[:60:9]:
        expected = (outside >= float(row['score_loss'])).mean()
        if row['rate'] != '0.0':
            assert float(row['rate']) == pytest.approx(expected, abs=0.02)


def test_a_second_audit_is_equal(tmp_path):
    save_all(tmp_path, np.linspace(0.3, 1, 12))
    for output in ('first', 'second'):
        audit.main(None, order(tmp_path, output=str(tmp_path / output)))
    for name in ('audit.json', 'images.csv'):
        assert (tmp_path / 'first' / name).read_bytes() == (tmp_path / 'second' / name).read_bytes()


# --- verdict --------------------------------------------------------------------------------------

NO_CONFOUND = Confound(0.5, 0.4, 0.6, 0.6, {}, None)


def judged(gap, attacks=1, number=200):
    generator = np.random.default_rng(0)
    member = np.arange(number) % 2 == 0
    scores = {f'a{i}': generator.normal(size=number) + gap * member for i in range(attacks)}
    tpr = dict.fromkeys(scores, 0.125)
    return verdict.judge(scores, member, None, NO_CONFOUND, tpr)


def test_verdict_of_a_leak():
    result = judged(1.0)
    assert result.leaks and result.low > 0.5
    assert f'AUC {result.AUC:.2f} [{result.low:.2f}, {result.high:.2f}]' in result.text
    assert 'it finds 12.5 % of the members' in result.text


def test_a_certain_leak_goes_before_a_larger_auc(monkeypatch):
    rows = {
        'certain': {'value': 0.6, 'low': 0.55, 'high': 0.65},
        'large': {'value': 0.7, 'low': 0.45, 'high': 0.9},
    }
    monkeypatch.setattr(
        verdict.membership, 'auc_interval', lambda scores, member, groups, level: rows[scores]
    )
    named = {name: name for name in rows}
    result = verdict.judge(named, None, None, NO_CONFOUND, dict.fromkeys(rows, 0.0))
    assert result.leaks and result.attack == 'certain' and result.AUC == 0.6


def test_verdict_without_a_leak_says_what_would_have_been_seen():
    result = judged(0.0)
    assert not result.leaks and result.detectable == pytest.approx(0.5 + result.AUC - result.low)
    assert f'An AUC above {result.detectable:.2f} would have been seen' in result.text


def test_verdict_of_exchanged_lists():
    result = judged(-1.0)
    assert not result.leaks and 'not exchanged' in result.text


def test_several_attacks_widen_the_interval():
    alone = judged(0.3)
    several = judged(0.3, attacks=5)
    assert several.high - several.low > alone.high - alone.low


def test_a_leak_of_other_streets_need_not_be_a_leak():
    member = np.arange(100) % 2 == 0
    confound = NO_CONFOUND._replace(auc=0.9, note=Note('members', 'differ'))
    result = verdict.judge({'a': member * 1.0}, member, None, confound, {'a': 1.0})
    assert result.leaks and 'reach AUC 0.90. So this need not be a leak' in result.text


# --- facts of the images --------------------------------------------------------------------------


def test_names_of_cityscapes_have_cities():
    names = [f'{city}/{city}_00000{s}_00001{f}' for city in 'ab' for s in '12' for f in '34']
    got = facts.of_names(names)
    assert got['city'].tolist() == ['a'] * 4 + ['b'] * 4
    assert got['sequence'].tolist()[:3] == ['a_000001', 'a_000001', 'a_000002']


def test_further_names_have_clips():
    names = ['x/clip-001', 'x/clip-002', 'y/0003', 'y/0004', '0016E5_00390', '0016E5_00420']
    got = facts.of_names(names)
    assert got['sequence'].tolist() == ['x/clip', 'x/clip', 'y/', 'y/', '0016E5', '0016E5']
    assert facts.of_names(['img_1', 'img_2']) == {} == facts.of_names(['a', 'b'])


@pytest.mark.parametrize('split, warns', [('sequence', True), ('random', False)])
def test_the_warning_fires_for_other_sequences_alone(tmp_path, split, warns):
    clips = [i // 10 % 2 if split == 'random' else i % 2 for i in range(80)]
    names = [f'clip{clip}/{i:04d}' for i, clip in enumerate(clips)]
    losses = 0.7 + 0.1 * np.random.default_rng(2).normal(size=80)
    audited = audit.main(None, order(save_all(tmp_path, losses, names, seed=1)))
    assert (audited.confound.note is not None) == warns
    text = (tmp_path / 'out/audit.html').read_text()
    assert ('they differ in more than membership' in text) == warns


def test_intervals_resample_sequences_if_there_are_many(tmp_path):
    names = [f'clip{i % 2}_{i // 8}/{i:04d}' for i in range(80)]
    losses = 0.7 + 0.1 * np.random.default_rng(2).normal(size=80)
    audited = audit.main(None, order(save_all(tmp_path, losses, names)))
    assert audited.groups == 'sequences'


# --- files and the command line -------------------------------------------------------------------


def test_the_page_shows_the_audit(leaking, scores):
    text = (leaking / 'out/audit.html').read_text()
    assert scores['verdict']['text'].replace('"', '&quot;') in text
    auc = scores['attacks']['loss']['intervals']['AUC']
    assert f'{100 * auc["low"]:.2f} – {100 * auc["high"]:.2f}' in text
    for words in ('gaussian 0.5', 'temperature 4', 'class 2', 'no leak, and no loss'):
        assert words in text
    assert text.count('<figure class="chart">') >= 10
    assert len(page.COLUMNS) == len(set(page.COLUMNS) & set(scores['attacks']['loss']))


def test_images_without_a_label_are_told(tmp_path):
    losses = 0.7 + 0.1 * np.random.default_rng(3).normal(size=20)
    save_all(tmp_path, losses)
    path = tmp_path / 'posteriors/img_0003.npz'
    arrays = dict(np.load(path))
    np.savez(path, posteriors=arrays['posteriors'], label=np.full_like(arrays['label'], 255))
    audited = audit.main(None, order(tmp_path))
    assert audited.measured.unlabelled == ('img_0003',) == tuple(audited.scores['unlabelled'])
    assert 'without a labelled pixel are left out (1)' in page.page(audited)
    assert 'defence of the stage' not in page.page(audited)
    guarded = audited._replace(made_by={**audited.made_by, nets.OWN_DEFENCE: 'dropout 0.5'})
    assert 'behind the defence of the stage, dropout 0.5' in page.page(guarded)
    assert len(results.image_rows(audited)) == 19


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Returns a function that runs the command line: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        for flag in main.FLAGS:
            flags.FLAGS[flag.name].unparse()
        try:
            assignments = main.parse_arguments(['main', '--mode=audit', *arguments])
            main.main(assignments)
            code = 0
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return command


@pytest.mark.parametrize(
    'arguments, fragments',
    [
        ((), ['--workdir', 'nothing']),
        (('--posteriors=p', '--output=o'), ['--members', 'a file of names']),
        (('--posteriors=p', '--members=m'), ['--output', 'nothing']),
        (
            ('--posteriors=p', '--members=m', '--output=o', '--workdir=w'),
            ['--workdir', 'leave --workdir out'],
        ),
        (
            ('--posteriors=p', '--members=m', '--output=o', '--config.data.root=x'),
            ['--config.data.root', 'names no run'],
        ),
        (('--posteriors=p', '--members=m', '--output=o'), ['--posteriors p', 'no such folder']),
        (('--runs=a,b', '--output=o'), ['--runs', '--mode audit', '--mode compare']),
    ],
)
def test_wrong_flags(command, tmp_path, arguments, fragments):
    code, out, err = command(*arguments)
    assert code == 1 and not out
    for fragment in fragments:
        assert fragment in err
    assert not list(tmp_path.iterdir())


def test_a_wrong_list_writes_nothing(command, leaking, tmp_path):
    (tmp_path / 'list.txt').write_text('\n'.join(f'img_{i:04d}' for i in range(9)) + '\nother\n')
    code, _, err = command(
        f'--posteriors={leaking}/posteriors', '--members=list.txt', '--output=out'
    )
    assert code == 1 and "'other'" in err and not (tmp_path / 'out').exists()
