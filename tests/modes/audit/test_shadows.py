"""Folders of shadows: their members, their labels, and what is refused."""

import shutil

import numpy as np
import pytest
from saved_posteriors import save, save_all

from segjax.errors import InputError
from segjax.modes import audit


@pytest.fixture
def victim(tmp_path):
    """Returns the folder of a victim and two shadows of 24 images. Every second is a member."""
    generator = np.random.default_rng(0)
    hard = generator.normal(size=24)
    member = np.arange(24) % 2 == 0
    for name in ('victim', 'first', 'second'):
        trained = member if name == 'victim' else np.zeros(24, bool)
        losses = 1.2 + 0.2 * hard - 0.2 * trained + 0.02 * generator.normal(size=24)
        save_all(tmp_path / name, losses)
    for name in ('first', 'second'):
        (tmp_path / name / 'posteriors/members.txt').write_text('')
    return tmp_path


def run(root, *shadows):
    paths = ','.join(str(root / name / 'posteriors') for name in shadows)
    return audit.main(
        None,
        audit.Order(
            workdir='',
            stage='',
            checkpoint='last',
            posteriors=str(root / 'victim/posteriors'),
            members=str(root / 'victim/members.csv'),
            nonmembers='',
            shadow=paths,
            output=str(root / 'out'),
        ),
    )


def test_shadows_make_the_attack_stronger(victim):
    scores = run(victim, 'first', 'second').scores
    assert scores['attacks']['rmia']['AUC'] > 0.95 > scores['attacks']['loss']['AUC']
    assert set(scores['missing_attacks']) == {'lira_online'}
    folders = [str(victim / name / 'posteriors') for name in ('first', 'second')]
    assert scores['made_by']['shadows'] == ', '.join(folders)
    assert '24 of 24 images have no shadow' in (victim / 'out/audit.html').read_text()


def wrong_labels(root):
    path = root / 'first/posteriors/img_0003.npz'
    arrays = dict(np.load(path))
    save(path.parent, 'img_0003', arrays['posteriors'], np.full_like(arrays['label'], 1))


@pytest.mark.parametrize(
    'damage, fragments',
    [
        (
            lambda root: (root / 'first/posteriors/members.txt').unlink(),
            ['no members.txt', 'touch'],
        ),
        (lambda root: (root / 'first/posteriors/img_0003.npz').unlink(), ["'img_0003', which"]),
        (lambda root: shutil.rmtree(root / 'first'), ['no such folder']),
        (wrong_labels, ['other labels than the audited folder']),
    ],
)
def test_wrong_shadows(victim, damage, fragments):
    damage(victim)
    with pytest.raises(InputError) as error:
        run(victim, 'first')
    for fragment in ('--shadow', *fragments):
        assert fragment in str(error.value)
    assert not (victim / 'out').exists()


def test_a_shadow_twice_and_the_victim(victim):
    with pytest.raises(InputError, match='twice'):
        run(victim, 'first', 'first')
    with pytest.raises(InputError, match='the audited net'):
        run(victim, 'victim')


def test_other_classes(victim):
    for path in (victim / 'first/posteriors').glob('*.npz'):
        label = np.load(path)['label']
        save(path.parent, path.stem, np.full((6, 8, 4), 0.25, np.float32), label)
    with pytest.raises(InputError, match='posteriors of 4 classes'):
        run(victim, 'first')
