"""Labeled Faces in the Wild: lists of people, landmarks, and crops to boxes."""

import face_layouts
import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import builders
from segjax.data.builders import lfw
from segjax.data.builders.unlabelled import square
from segjax.errors import InputError


def config_of(tmp_path):
    return layouts.data_config('lfw', tmp_path / 'lfw', tmp_path / 'cache')


def problems_of(tmp_path, split='train'):
    _, problems = builders.load(config_of(tmp_path)).scan(split)
    return [(problem.where, problem.got) for problem in problems]


def test_faces_are_cropped_to_the_square_around_their_box(tmp_path):
    """The box has columns 10 .. 33 and rows 6 .. 35. Its square has columns 7 .. 36."""
    written = face_layouts.write_lfw(tmp_path / 'lfw')
    prepared = data.prepare(config_of(tmp_path))
    assert prepared.spec.num_examples == {'train': 3, 'val': 2}
    assert prepared.spec.max_size == {'train': (30, 30), 'val': (30, 30)}
    for split in ('train', 'val'):
        source = prepared.open_split(split, prepared.spec.features)
        names = [source[i]['name'] for i in range(len(source))]
        assert names == [name for s, name in written if s == split]
        for number, name in enumerate(names):
            image, points, _ = written[split, name]
            np.testing.assert_array_equal(source[number]['image'], image[6:36, 7:37])
            np.testing.assert_array_equal(source[number]['points_face'], points - [7, 6])


def test_without_boxes_the_landmarks_decide(tmp_path):
    written = face_layouts.write_lfw(tmp_path / 'lfw', boxes=False)
    prepared = data.prepare(config_of(tmp_path))
    source = prepared.open_split('train', prepared.spec.features)
    for number in range(len(source)):
        example = source[number]
        image, points, _ = written['train', example['name']]
        extent = (points.max(0) - points.min(0)).max()
        height, width, _ = example['image'].shape
        assert height == width == min(50, round(lfw.MARGIN * extent))
        moved = (points - example['points_face'])[0].astype(int)
        left, top = moved
        crop = image[top : top + height, left : left + width]
        np.testing.assert_array_equal(example['image'], crop)


@pytest.mark.parametrize(
    'box, expected',
    [
        ([9.5, 9.5, 29.5, 29.5], [10, 10, 30, 30]),
        ([-5.5, 9.5, 14.5, 29.5], [0, 10, 20, 30]),
        ([29.5, 9.5, 49.5, 19.5], [20, 5, 40, 25]),
        ([-0.5, -0.5, 59.5, 9.5], [0, 0, 40, 50]),
    ],
)
def test_squares_are_whole_pixels_inside_of_the_image(box, expected):
    assert square(np.array(box), (50, 40)).tolist() == expected


def test_people_without_images_or_landmarks_or_boxes_are_named(tmp_path):
    root = tmp_path / 'lfw'
    face_layouts.write_lfw(root)
    assert problems_of(tmp_path) == problems_of(tmp_path, 'val') == []
    (root / 'lfw-deepfunneled/Alan_Turing/Alan_Turing_0001.jpg').unlink()
    points = dict(np.load(root / 'landmarks.npz'))
    del points['Ada_Lovelace_0002']
    face_layouts.write_npz(root / 'landmarks.npz', points)
    lines = (root / 'boxes.csv').read_text().splitlines()
    kept = [line for line in lines if not line.startswith('Ada_Lovelace_0001')]
    (root / 'boxes.csv').write_text('\n'.join(kept))
    images = root / 'lfw-deepfunneled'
    assert problems_of(tmp_path) == [
        (f'Alan_Turing_0001 in {root / "peopleDevTrain.txt"}', 'a name without an image'),
        (f'Ada_Lovelace_0002 in {images}', 'an image without landmarks'),
        (f'Ada_Lovelace_0001 in {root / "boxes.csv"}', 'an image without a box'),
    ]


def test_landmarks_may_be_files_of_300_w(tmp_path):
    root = tmp_path / 'lfw'
    written = face_layouts.write_lfw(root)
    (root / 'landmarks.npz').unlink()
    for (_, name), (_, points, _) in written.items():
        face_layouts.write_pts(root / 'lfw-deepfunneled' / name[:-5] / f'{name}.pts', points)
    source = data.prepare(config_of(tmp_path)).open_split('val', ('points_face',))
    np.testing.assert_array_equal(
        source[0]['points_face'], written['val', 'Emmy_Noether_0001'][1] - [7, 6]
    )


@pytest.mark.parametrize('text', ['', '3\nAda\t1\n', '1\nAda\n', 'Ada\t1\n'])
def test_a_damaged_list_is_named(tmp_path, text):
    face_layouts.write_lfw(tmp_path / 'lfw')
    path = tmp_path / 'lfw' / 'peopleDevTrain.txt'
    path.write_text(text)
    ((where, _),) = problems_of(tmp_path)
    assert where == str(path)


def test_a_box_outside_of_the_image_is_named(tmp_path):
    face_layouts.write_lfw(tmp_path / 'lfw')
    path = tmp_path / 'lfw' / 'boxes.csv'
    path.write_text(path.read_text().replace('Alan_Turing_0001,9.5', 'Alan_Turing_0001,60'))
    with pytest.raises(InputError, match='an area inside of 50x50 pixels') as error:
        data.prepare(config_of(tmp_path))
    assert error.value.where == f'Alan_Turing_0001 in {path}'


def test_a_folder_without_lists_is_refused(tmp_path):
    (tmp_path / 'lfw').mkdir()
    with pytest.raises(InputError, match='no peopleDevTrain'):
        builders.load(config_of(tmp_path)).splits()
