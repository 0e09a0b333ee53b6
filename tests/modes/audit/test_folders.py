"""Folders of posteriors: what is read, and what is refused before any work."""

import numpy as np
import pytest
from saved_posteriors import CLASSES, posteriors_of, save

from segjax.errors import InputError
from segjax.modes.audit import folders
from segjax.modes.audit.members import Asked
from segjax.train.stop import StopSignal

LABEL = np.arange(24).reshape(4, 6) % CLASSES
RIGHT = posteriors_of(0.5, LABEL)


def filled(folder, names='abcdef', **last):
    """Saves right files, and a last file with other arrays."""
    for name in names:
        save(folder, name, RIGHT, LABEL)
    if last:
        np.savez(folder / f'{names[-1]}.npz', **{'posteriors': RIGHT, 'label': LABEL, **last})
    return folder


def test_names_have_sub_folders(tmp_path):
    save(tmp_path, 'aachen/x_1', RIGHT, LABEL)
    save(tmp_path, 'a.b', RIGHT, LABEL)
    assert folders.names_in(tmp_path) == ('a.b', 'aachen/x_1')
    opened = folders.open_folder(tmp_path, ['aachen/x_1', 'a.b'])
    assert opened.classes == ('class 0', 'class 1', 'class 2')


def test_classes_may_have_names(tmp_path):
    save(tmp_path, 'a', RIGHT, LABEL, classes=np.array(['road', 'sky', 'car']))
    assert folders.open_folder(tmp_path, ['a']).classes == ('road', 'sky', 'car')
    save(tmp_path, 'a', RIGHT, LABEL, classes=np.array(['road', 'sky']))
    with pytest.raises(InputError, match='2 names in classes'):
        folders.open_folder(tmp_path, ['a'])


LOGITS = np.log(RIGHT) + 3


@pytest.mark.parametrize(
    'arrays, fragments',
    [
        ({'posteriors': LOGITS - 5}, ['f.npz: posteriors', 'which are logits', 'softmax']),
        ({'posteriors': LOGITS}, ['values from 1.37', 'sums over', 'softmax', '/ posteriors.sum']),
        ({'posteriors': np.log(RIGHT)}, ['logarithms of posteriors', 'np.exp']),
        ({'posteriors': RIGHT / 2}, ['sums over the classes from 0.5 to 0.5', '/ posteriors.sum']),
        ({'posteriors': RIGHT * 1.5}, ['sums over the classes from 1.5 to 1.5']),
        ({'posteriors': np.where(RIGHT > 0.5, np.nan, RIGHT)}, ['got:      NaN']),
        ({'posteriors': (255 * RIGHT).astype(np.uint8)}, ['[4, 6, 3] uint8', 'float']),
        ({'posteriors': RIGHT[None]}, ['[1, 4, 6, 3]', '[H, W, C]']),
        ({'posteriors': np.full((4, 6, 4), 0.25)}, ['4 classes', '3 classes, as in']),
        ({'label': LABEL[:3]}, ['posteriors [4, 6, 3], label [3, 6]', 'nearest neighbours']),
        ({'posteriors': RIGHT.transpose(2, 0, 1)}, ['[3, 4, 6]', 'transpose(1, 2, 0)']),
        ({'label': LABEL.astype(float)}, ['label [4, 6] float64', 'integer']),
        ({'label': LABEL + 1}, ['f.npz: label', 'got:      3', 'train ids 0 .. 2, or 255']),
        ({'label': LABEL - 1}, ['got:      -1']),
    ],
)
def test_wrong_files(tmp_path, arrays, fragments):
    filled(tmp_path, **arrays)
    with pytest.raises(InputError) as error:
        folders.open_folder(tmp_path, list('abcdef'))
    for fragment in fragments:
        assert fragment in str(error.value)


def test_files_without_arrays_and_damaged_files(tmp_path):
    filled(tmp_path)
    np.savez(tmp_path / 'c.npz', probs=RIGHT, label=LABEL)
    with pytest.raises(InputError, match="no array 'posteriors', but 'probs', 'label'"):
        folders.open_folder(tmp_path, list('abcdef'))
    (tmp_path / 'c.npz').write_bytes(b'no archive')
    with pytest.raises(InputError, match='damaged'):
        folders.open_folder(tmp_path, list('abcdef'))


@pytest.mark.parametrize('exists', [True, False])
def test_a_folder_without_files(tmp_path, exists):
    folder = tmp_path if exists else tmp_path / 'none'
    with pytest.raises(InputError, match='no .npz file' if exists else 'no such folder'):
        folders.names_in(folder)


def test_a_wrong_value_in_a_later_file_names_the_file(tmp_path):
    filled(tmp_path)
    opened = folders.open_folder(tmp_path, list('abcdef'))
    save(tmp_path, 'c', LOGITS, LABEL)
    asked = Asked(tuple('abcdef'), np.arange(6) < 3)
    with pytest.raises(InputError, match=r'c\.npz: posteriors'), StopSignal() as stop:
        folders.measure(opened, asked, stop)


def test_float16_is_precise_enough(tmp_path):
    many = np.random.default_rng(0).dirichlet(np.full(150, 0.1), (4, 6)).astype(np.float16)
    save(tmp_path, 'a', many, LABEL)
    assert len(folders.open_folder(tmp_path, ['a']).classes) == 150


def test_noise_depends_on_the_posteriors_alone(tmp_path):
    generator = np.random.default_rng(0)
    images = [generator.dirichlet(np.ones(CLASSES), (4, 6)).astype(np.float32) for _ in range(3)]
    for folder, order in (('first', [0, 1, 2]), ('second', [2, 0, 1])):
        for place, number in enumerate(order):
            save(tmp_path / folder, f'{folder}_{place}', images[number], LABEL)
    save(tmp_path / 'second', 'copy', images[1], LABEL)

    def gaussian(folder):
        names = folders.names_in(tmp_path / folder)
        opened = folders.open_folder(tmp_path / folder, names)
        with StopSignal() as stop:
            measured = folders.measure(opened, Asked(names, np.arange(len(names)) < 2), stop)
        return dict(zip(names, measured.signals[:, 2], strict=True))

    first = gaussian('first')
    second = gaussian('second')
    for place, number in enumerate([2, 0, 1]):
        np.testing.assert_array_equal(second[f'second_{place}'], first[f'first_{number}'])
    np.testing.assert_array_equal(second['copy'], second['second_2'])
    assert not np.allclose(first['first_0'], first['first_1'])
