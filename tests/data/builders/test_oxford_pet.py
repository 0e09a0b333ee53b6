"""Oxford-IIIT Pet: boxes of heads, normals in two forms, and two ways to divide the images."""

import face_layouts
import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import builders
from segjax.data.builders import oxford_pet
from segjax.errors import InputError

CROP = np.s_[5:25, 10:30]
"""Rows and columns of the box (11, 6, 30, 25), which counts from 1."""


def config_of(tmp_path):
    return layouts.data_config('oxford_pet', tmp_path / 'pets', tmp_path / 'cache')


def examples_of(tmp_path):
    prepared = data.prepare(config_of(tmp_path))
    examples = {}
    for split in ('train', 'val'):
        source = prepared.open_split(split, prepared.spec.features)
        examples |= {source[i]['name']: source[i] for i in range(len(source))}
    return prepared.spec, examples


@pytest.mark.parametrize('form, tolerance', [('npy', 1e-6), ('png', 0.01)])
@pytest.mark.parametrize('of_crop', [False, True])
def test_heads_are_cropped_with_their_normals(tmp_path, form, tolerance, of_crop):
    written = face_layouts.write_pets(tmp_path / 'pets', form=form, of_crop=of_crop)
    spec, examples = examples_of(tmp_path)
    assert spec.features == ('image', 'normals', 'name')
    assert spec.num_examples == {'train': 4, 'val': 1}
    assert spec.max_size['train'] == (20, 20)
    assert examples.keys() == written.keys(), 'images without a box are left out'
    for name, example in examples.items():
        image, normals = written[name]
        np.testing.assert_array_equal(example['image'], image[CROP])
        np.testing.assert_allclose(example['normals'], normals[CROP], atol=tolerance)
        length = np.linalg.norm(example['normals'], axis=-1)
        assert ((np.abs(length - 1) < 1e-5) | (length == 0)).all()


def test_vectors_of_other_lengths_become_unit_vectors(tmp_path):
    path = tmp_path / 'normals.npy'
    np.save(path, np.array([[[0, 0, -5], [0, -0.5, -0.5], [0, 0, -0.01]]]))
    half = np.sqrt(0.5)
    expected = [[[0, 0, -1], [0, -half, -half], [0, 0, 0]]]
    np.testing.assert_allclose(oxford_pet.read_normals(path), expected, atol=1e-6)


def test_lists_divide_the_images(tmp_path):
    face_layouts.write_pets(tmp_path / 'pets')
    folder = tmp_path / 'pets/annotations'
    (folder / 'train.txt').write_text('# name class\nAbyssinian_3 1 1 1\nAbyssinian_0 1 1 1\n')
    (folder / 'val.txt').write_text('Abyssinian_2\n')
    dataset = builders.load(config_of(tmp_path))
    assert [item.name for item in dataset.scan('train')[0]] == ['Abyssinian_0', 'Abyssinian_3']
    assert [item.name for item in dataset.scan('val')[0]] == ['Abyssinian_2']
    assert not dataset.notes_of_folders()


def test_without_lists_every_image_has_a_split_of_its_own(tmp_path):
    face_layouts.write_pets(tmp_path / 'pets', count=11)
    dataset = builders.load(config_of(tmp_path))
    names = [{item.name for item in dataset.scan(split)[0]} for split in dataset.splits()]
    assert [len(each) for each in names] == [9, 2] and not names[0] & names[1]
    assert round(oxford_pet.TRAIN_SHARE * 3686) == 3000
    (note,) = dataset.notes_of_folders()
    assert 'train.txt and val.txt' in note.fix


def test_names_without_files_are_listed(tmp_path):
    root = tmp_path / 'pets'
    face_layouts.write_pets(root)
    (root / 'annotations/train.txt').write_text('Abyssinian_0\nAbyssinian_1\nBombay_1\nCat_9\n')
    (root / 'annotations/val.txt').write_text('Abyssinian_2\n')
    (root / 'normals/Abyssinian_1.npy').unlink()
    _, problems = builders.load(config_of(tmp_path)).scan('train')
    got = {(problem.where.split()[0], problem.got) for problem in problems}
    assert got == {
        ('Cat_9', 'a name without an image'),
        ('Cat_9', 'a name without a box'),
        ('Bombay_1', 'a name without a box'),
        ('Abyssinian_1', 'a name without normals'),
        ('Bombay_1', 'a name without normals'),
        ('Cat_9', 'a name without normals'),
    }


def refusal_of(tmp_path):
    with pytest.raises(InputError) as error:
        data.prepare(config_of(tmp_path))
    return error.value


def test_normals_away_from_the_camera_are_refused(tmp_path):
    written = face_layouts.write_pets(tmp_path / 'pets')
    path = tmp_path / 'pets/normals/Abyssinian_2.npy'
    np.save(path, -written['Abyssinian_2'][1])
    error = refusal_of(tmp_path)
    assert error.where == str(path) and 'away from the camera' in error.got


@pytest.mark.parametrize(
    'wrong', [np.zeros((9, 9, 3)), np.zeros((40, 32)), np.full((40, 32, 3), np.nan)]
)
def test_normals_of_another_shape_are_refused(tmp_path, wrong):
    face_layouts.write_pets(tmp_path / 'pets')
    path = tmp_path / 'pets/normals/Abyssinian_2.npy'
    np.save(path, wrong)
    assert refusal_of(tmp_path).where == str(path)


@pytest.mark.parametrize(
    'text', ['', '<annotation></annotation>', face_layouts.XML.replace('xmax', 'x')]
)
def test_a_damaged_box_is_named(tmp_path, text):
    face_layouts.write_pets(tmp_path / 'pets')
    path = tmp_path / 'pets/annotations/xmls/Abyssinian_2.xml'
    path.write_text(text)
    assert refusal_of(tmp_path).where == str(path)


def test_a_missing_folder_is_named(tmp_path):
    face_layouts.write_pets(tmp_path / 'pets')
    (tmp_path / 'pets/normals').rename(tmp_path / 'pets/old')
    with pytest.raises(InputError, match='no such folder'):
        builders.load(config_of(tmp_path)).splits()
