"""Folders of faces with 68 landmarks: their forms, their checks, and real faces."""

import face_layouts
import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import builders, face_points, neighbours
from segjax.errors import InputError
from segjax.modes.doctor import examined
from segjax.spec import NO_CLASSES


def config_of(tmp_path):
    return layouts.data_config('landmark_folder', tmp_path / 'faces', tmp_path / 'cache')


def problems_of(tmp_path):
    """Returns the findings of the doctor about the files."""
    section = config_of(tmp_path)
    return examined.examine_section('data', section, lambda: None).findings


@pytest.mark.parametrize('form', ['arrays', 'names', 'csv', 'pts'])
def test_all_forms_give_the_landmarks_of_each_image(tmp_path, form):
    written = face_layouts.write_faces(tmp_path / 'faces', form)
    prepared = data.prepare(config_of(tmp_path))
    spec = prepared.spec
    assert spec.classes == NO_CLASSES
    assert spec.features == ('image', 'points_face', 'name')
    assert spec.declared == {'points_face': face_points.FEATURE}
    assert spec.num_examples == {'train': 4, 'val': 2}
    assert spec.max_size == {'train': face_layouts.SIZE, 'val': face_layouts.SIZE}
    for split in ('train', 'val'):
        source = prepared.open_split(split, spec.features)
        examples = {source[i]['name']: source[i] for i in range(len(source))}
        assert list(examples) == [name for s, name in written if s == split]
        for name, example in examples.items():
            image, points = written[split, name]
            np.testing.assert_array_equal(example['image'], image)
            np.testing.assert_array_equal(example['points_face'], points)


def test_empty_cells_are_absent_landmarks(tmp_path):
    face_layouts.write_faces(tmp_path / 'faces', 'csv', (('train', 1),))
    path = tmp_path / 'faces/train/landmarks.csv'
    head, line = path.read_text().split()
    path.write_text('\n'.join([head, ','.join([*line.split(',')[:-2], '', ''])]))
    source = data.prepare(config_of(tmp_path)).open_split('train', ('points_face',))
    absent = np.isnan(source[0]['points_face'])
    assert absent[67].all() and absent.sum() == 2


def test_a_landmark_has_a_single_partner_unless_it_is_in_the_middle():
    places = [place for pair in face_points.PAIRS for place in pair]
    assert len(places) == len(set(places)) == 58
    middle = set(range(68)) - set(places)
    assert middle == {8, 27, 28, 29, 30, 33, 51, 57, 62, 66}


# --- problems -------------------------------------------------------------------------------------


def test_images_and_landmarks_without_partner_are_listed_by_name(tmp_path):
    face_layouts.write_faces(tmp_path / 'faces')
    path = tmp_path / 'faces/train/landmarks.npz'
    points = dict(np.load(path))
    points['x7'] = points.pop('t01')
    face_layouts.write_npz(path, points)
    wheres = {finding.where: finding.message for finding in problems_of(tmp_path)}
    assert wheres[f't01 in {path.parent / "image"}'].startswith('got an image without landmarks')
    assert wheres[f'x7 in {path.parent}'].startswith('got landmarks without an image')
    with pytest.raises(InputError, match='t01'):
        data.prepare(config_of(tmp_path))


def changed(tmp_path, change, form='arrays'):
    """Writes faces whose landmarks of train/t02 are changed. Returns the only finding."""
    face_layouts.write_faces(tmp_path / 'faces', form)
    path = tmp_path / 'faces/train/landmarks.npz'
    points = dict(np.load(path))
    points['t02'] = change(points['t02'])
    face_layouts.write_npz(path, points)
    (finding,) = problems_of(tmp_path)
    assert finding.where == f't02 in {path}' and finding.severity == 'error'
    return finding


def test_another_number_of_landmarks_is_named(tmp_path):
    finding = changed(tmp_path, lambda points: points[:66])
    assert finding.message == 'got 66 landmarks; expected 68 landmarks'


def test_landmarks_far_from_the_image_are_named(tmp_path):
    finding = changed(tmp_path, lambda points: points + np.float32([40, 0]))
    assert 'expected places in or near the image of 32x40 pixels' in finding.message


def test_landmarks_near_the_image_are_accepted(tmp_path):
    face_layouts.write_faces(tmp_path / 'faces')
    path = tmp_path / 'faces/train/landmarks.npz'
    points = dict(np.load(path))
    face_layouts.write_npz(path, {**points, 't02': points['t02'] - 12})
    assert not problems_of(tmp_path)


def test_landmarks_in_shares_of_the_image_name_the_fix(tmp_path):
    finding = changed(tmp_path, lambda points: points / np.float32([32, 40]))
    assert 'landmarks from 0 to 1' in finding.message
    assert finding.fix == 'multiply x by the width and y by the height of the image'


@pytest.mark.parametrize(
    'text', ['', 'version: 1\nn_points: 68\n{\n1 2\n}\n', 'version: 1\nn_points: 1\n{\na b\n}\n']
)
def test_a_damaged_file_of_300_w_is_named(tmp_path, text):
    face_layouts.write_faces(tmp_path / 'faces', 'pts')
    path = tmp_path / 'faces/train/image/t01.pts'
    path.write_text(text)
    (finding,) = problems_of(tmp_path)
    assert finding.where == str(path)


@pytest.mark.parametrize('content', [b'', b'PK', b'no archive'])
def test_a_damaged_table_is_named(tmp_path, content):
    face_layouts.write_faces(tmp_path / 'faces')
    path = tmp_path / 'faces/train/landmarks.npz'
    path.write_bytes(content)
    assert problems_of(tmp_path)[0].where == str(path)


def test_two_tables_no_landmarks_and_no_split_are_refused(tmp_path):
    face_layouts.write_faces(tmp_path / 'faces')
    folder = tmp_path / 'faces/train'
    (folder / 'landmarks.csv').write_text('name\n')
    assert 'landmarks.npz and landmarks.csv' in problems_of(tmp_path)[0].message
    for name in ('landmarks.csv', 'landmarks.npz'):
        (folder / name).unlink()
    assert 'got no landmarks' in problems_of(tmp_path)[0].message
    for split in ('train', 'val'):
        (tmp_path / 'faces' / split).rename(tmp_path / 'faces' / f'old_{split}')
    with pytest.raises(InputError, match='no folder train, val or test'):
        builders.load(config_of(tmp_path)).splits()


def test_changed_landmarks_are_read_again(tmp_path):
    face_layouts.write_faces(tmp_path / 'faces')
    first = data.prepare(config_of(tmp_path)).folder
    path = tmp_path / 'faces/train/landmarks.npz'
    points = {name: value + 1 for name, value in np.load(path).items()}
    face_layouts.write_npz(path, points)
    prepared = data.prepare(config_of(tmp_path))
    assert prepared.folder != first
    np.testing.assert_array_equal(
        prepared.open_split('train', ('points_face',))[0]['points_face'], points['t00']
    )


def test_real_faces_have_neighbours_of_similar_shape(real_data, tmp_path):
    """Reads 870 faces, and compares neighbours with random faces by the places of their eyes."""
    root = tmp_path / 'faces'
    root.mkdir()
    for split, name in (('train', 'faces_68_train'), ('val', 'faces_68')):
        if not (real_data / name).is_dir():
            pytest.skip(f'no {name}')
        (root / split).symlink_to(real_data / name)
    prepared = data.prepare(config_of(tmp_path))
    assert prepared.spec.num_examples == {'train': 870, 'val': 667}
    source = prepared.open_split('train', ('image', 'points_face', 'name'))
    examples = [source[i] for i in range(200)]
    choice = neighbours.Neighbourhood(num_clusters=3, num_positions=5)
    tables = np.stack(neighbours.neighbour_tables(examples, choice))
    points = np.stack([each['points_face'] for each in examples])
    differences = np.abs(points[:, None] - points[None]).mean(axis=(2, 3))
    rows, clusters, places = np.nonzero(tables >= 0)
    near = differences[rows, tables[rows, clusters, places]]
    assert len(near) > 200
    assert near.mean() < 0.6 * differences[np.triu_indices(200, 1)].mean()

    # The mean face is symmetric: its mirror image is the mean face with exchanged pairs.
    mean = points.mean(axis=0) - points.mean(axis=(0, 1))
    partner = np.arange(68)
    for left, right in face_points.PAIRS:
        partner[[left, right]] = right, left
    mirrored = mean * [-1, 1]
    assert np.abs(mirrored[partner] - mean).max() < 6
    assert np.linalg.norm(mirrored[:, None] - mean, axis=2).argmin(axis=1).tolist() == list(partner)
