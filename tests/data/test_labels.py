"""Class tables against cityscapesScripts, decoding against loops, class files."""

import json

import chex
import numpy as np
import pytest
from cityscapesscripts.helpers import labels as official

from segjax.data import labels
from segjax.errors import InputError
from segjax.spec import IGNORE, ClassSpec


def test_cityscapes_is_the_official_table():
    evaluated = sorted(
        (label for label in official.labels if label.trainId not in (-1, 255)),
        key=lambda x: x.trainId,
    )
    assert labels.CITYSCAPES.names == tuple(label.name for label in evaluated)
    assert labels.CITYSCAPES.palette == tuple(label.color for label in evaluated)
    assert labels.CITYSCAPES.ids == tuple(label.id for label in evaluated)
    assert labels.CITYSCAPES.num_classes == 19


def test_every_cityscapes_id():
    table = labels.CITYSCAPES_LABEL_IDS.train_ids
    chex.assert_shape(table, (256,))
    assert table.dtype == np.uint8
    for number in range(256):
        label = official.id2label.get(number)
        expected = label.trainId if label is not None and label.trainId >= 0 else IGNORE
        assert table[number] == expected
        assert labels.CITYSCAPES_LABEL_IDS.known[number] == (label is not None or number == 255)


def test_camvid():
    assert labels.CAMVID.names[0] == 'Sky' and labels.CAMVID.names[3:5] == ('Road', 'Pavement')
    assert labels.CAMVID.num_classes == 11 and len(set(labels.CAMVID.palette)) == 11
    assert labels.CAMVID_IDS.train_ids[:12].tolist() == [*range(11), IGNORE]
    assert np.flatnonzero(labels.CAMVID_IDS.known).tolist() == list(range(12))


NYU = """
1,wall,12,2
2,floor,5,1
3,cabinet,6,3
4,bed,1,3
5,chair,4,3
6,sofa,9,3
7,table,10,3
8,door,12,2
9,window,13,2
10,bookshelf,6,3
11,picture,8,4
12,counter,6,2
13,blinds,13,2
14,desk,10,3
15,shelves,6,3
16,curtain,13,2
17,dresser,6,3
18,pillow,7,4
19,mirror,7,4
20,floor mat,5,4
21,clothes,7,4
22,ceiling,3,2
23,books,2,4
24,refridgerator,6,3
25,television,11,4
26,paper,7,4
27,towel,7,4
28,shower curtain,7,2
29,box,7,4
30,whiteboard,7,2
31,person,7,4
32,night stand,6,3
33,toilet,7,3
34,sink,7,4
35,lamp,7,4
36,bathtub,7,3
37,bag,7,4
38,otherstructure,7,2
39,otherfurniture,6,3
40,otherprop,7,4
"""
NAMES13 = 'bed books ceiling chair floor furniture objects picture sofa table tv wall window'
NAMES4 = 'floor structure furniture props'


def test_nyu_classes_and_their_maps_are_the_released_tables():
    """A line of the table: id of 40, name, id of 13, id of 4 (classMapping40, class13Mapping)."""
    rows = [line.split(',') for line in NYU.split('\n') if line]
    assert labels.NYU40.ids == tuple(int(row[0]) for row in rows) == tuple(range(1, 41))
    assert labels.NYU40.names == tuple(row[1] for row in rows)
    assert len(set(labels.NYU40.palette)) == 40
    for class_map, names, column in ((labels.NYU13, NAMES13, 2), (labels.NYU4, NAMES4, 3)):
        merged = class_map.classes
        assert merged.names == tuple(names.split())
        assert merged.ids == tuple(range(1, merged.num_classes + 1))
        assert class_map.train_ids == tuple(int(row[column]) - 1 for row in rows)
        assert set(merged.palette) <= set(labels.NYU40.palette)
    assert np.flatnonzero(labels.NYU40_IDS.known).tolist() == list(range(41))
    assert labels.NYU40_IDS.train_ids[:3].tolist() == [IGNORE, 0, 1]


def test_tables_cannot_be_changed():
    with pytest.raises(ValueError, match='read-only'):
        labels.CAMVID_IDS.train_ids[0] = 3


def test_to_train_ids_is_a_table_look_up():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 34, (13, 17)).astype(np.uint8)
    got = labels.to_train_ids(mask, labels.CITYSCAPES_LABEL_IDS, 'f.png')
    expected = [[official.id2label[int(i)].trainId for i in row] for row in mask]
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.uint8


@pytest.mark.parametrize(
    ('ids', 'fix'),
    [
        ([0, 12], 'class list'),
        ([1, 2, 11, 12], 'class list'),
        ([0, 255], '0/255 mask'),
        ([300], 'class list'),
    ],
)
def test_unknown_ids_name_file_value_and_range(ids, fix):
    with pytest.raises(InputError) as error:
        labels.to_train_ids(np.array([ids], np.uint16), labels.CAMVID_IDS, 'folder/file.png')
    assert error.value.where == 'folder/file.png'
    assert str(ids[-1]) in error.value.got and '0..11' in error.value.expected
    assert fix in error.value.fix


def test_ids_from_one_are_recognised():
    three = labels.make_coding(
        ClassSpec(('a', 'b', 'c'), ((0, 0, 0),) * 3, (0, 1, 2)), ignore=[255]
    )
    with pytest.raises(InputError, match='start at 1'):
        labels.to_train_ids(np.array([[1, 3, 255]], np.uint8), three, 'f.png')
    with pytest.raises(InputError, match='class list'):
        labels.to_train_ids(np.array([[0, 3]], np.uint8), three, 'f.png')


def test_voc_palette():
    # The first colours of PASCAL VOC and its last class (tvmonitor) and border.
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        20: (0, 64, 128),
    }
    assert {i: labels.voc_color(i) for i in known} == known
    assert labels.voc_color(255) == (224, 224, 192)


def write(tmp_path, text, suffix='.yaml'):
    path = tmp_path / f'classes{suffix}'
    path.write_text(text)
    return path


def test_list_of_names(tmp_path):
    coding = labels.load_class_file(write(tmp_path, '- road\n- car\n'))
    assert coding.classes == ClassSpec(('road', 'car'), ((0, 0, 0), (128, 0, 0)), (0, 1))
    assert np.flatnonzero(coding.known).tolist() == [0, 1, 255]
    assert not coding.colors


def test_ids_colors_and_ignored(tmp_path):
    content = {
        'classes': [
            {'name': 'car', 'id': 26, 'color': [0, 0, 142]},
            {'name': 'road', 'id': 7, 'color': [128, 64, 128]},
        ],
        'ignore': [0, 1, [0, 0, 0]],
    }
    for path in (
        write(tmp_path, json.dumps(content), '.json'),
        write(tmp_path, json.dumps(content), '.yaml'),
    ):
        coding = labels.load_class_file(path)
        assert coding.classes.ids == (26, 7)
        assert coding.train_ids[[26, 7, 0, 1, 255]].tolist() == [0, 1, IGNORE, IGNORE, IGNORE]
        assert np.flatnonzero(coding.known).tolist() == [0, 1, 7, 26, 255]
        assert coding.colors == {(0, 0, 142): 0, (128, 64, 128): 1, (0, 0, 0): IGNORE}


def test_255_can_be_a_class(tmp_path):
    coding = labels.load_class_file(write(tmp_path, '[{name: back, id: 0}, {name: fore, id: 255}]'))
    got = labels.to_train_ids(np.array([[0, 255]], np.uint8), coding, 'f.png')
    assert got.tolist() == [[0, 1]]


def test_colour_masks(tmp_path):
    path = write(
        tmp_path,
        'classes: [{name: a, color: [9, 8, 7]}, {name: b, color: [7, 8, 9]}]\nignore: [[1, 1, 1]]',
    )
    coding = labels.load_class_file(path)
    mask = np.array([[[9, 8, 7], [7, 8, 9]], [[1, 1, 1], [9, 8, 7]]], np.uint8)
    assert labels.to_train_ids(mask, coding, 'f.png').tolist() == [[0, 1], [IGNORE, 0]]
    mask[0, 0] = (9, 8, 6)
    with pytest.raises(InputError, match=r'\(9, 8, 6\)'):
        labels.to_train_ids(mask, coding, 'f.png')
    with pytest.raises(InputError, match='three channels'):
        labels.to_train_ids(mask, labels.CAMVID_IDS, 'f.png')


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('', 'a list of classes'),
        ('classes: []', 'a list of classes'),
        ('classes: {a: 1}', 'a list of classes'),
        ('[a, a]', "name 'a' twice"),
        ('[{name: a, id: 1}, {name: b, id: 1}]', 'id 1 twice'),
        ('[a, yes]', 'quotes'),
        ('[{name: a, id: 256}]', '0..255'),
        ('[{name: a, id: -1}]', '0..255'),
        ('[{name: a, id: "1"}]', '0..255'),
        ('[{name: a, color: [1, 2]}]', r'\[r, g, b\]'),
        ('[{name: a, color: [1, 2, 256]}]', r'\[r, g, b\]'),
        ('[{name: a, colour: [1, 2, 3]}]', "did you mean 'color'"),
        ('{classes: [a], ignored: [3]}', "did you mean 'ignore'"),
        ('{classes: [a], ignore: 3}', 'a list of ids'),
        ('{classes: [a], ignore: [0]}', 'both a class and ignored'),
        ('[a, [', 'cannot be parsed'),
        ('{classes: [a, b], ignore: [[0, 0, 0]]}', "no color of class 'a'"),
        ('classes: [a, b]\nclasses: [c, d]', "key 'classes' twice"),
        ('[{name: a, id: 1, id: 2}]', "key 'id' twice"),
        ('[' * 5000, 'nested too deeply'),
        ('[a, ""]', 'an empty name'),
        ('[a, " "]', 'an empty name'),
        ('classes:\n\t- a', 'indent with spaces'),
    ],
)
def test_bad_class_files(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=says) as error:
        labels.load_class_file(path)
    assert str(path) in error.value.where


@pytest.mark.parametrize(
    'text', ['{"classes": ["a"], "classes": ["b"]}', '[{"name": "a", "id": 1, "id": 2}]']
)
def test_a_key_twice_in_a_class_file_of_json(tmp_path, text):
    path = tmp_path / 'classes.json'
    path.write_text(text)
    with pytest.raises(InputError, match='twice'):
        labels.load_class_file(path)


def test_a_class_file_in_another_encoding(tmp_path):
    path = tmp_path / 'classes.json'
    path.write_bytes('["a", "b"]'.encode('utf-8-sig'))
    assert labels.load_class_file(path).classes.names == ('a', 'b')
    path.write_bytes('["a", "b"]'.encode('utf-16'))
    with pytest.raises(InputError) as error:
        labels.load_class_file(path)
    assert error.value.fix == 'save it as UTF-8'


def test_colours_of_some_classes_are_not_enough_for_colour_masks(tmp_path):
    coding = labels.load_class_file(write(tmp_path, '[{name: a, color: [1, 2, 3]}, b]'))
    with pytest.raises(InputError, match='every class its `color`'):
        labels.to_train_ids(np.array([[[1, 2, 3]]], np.uint8), coding, 'f.png')


def test_missing_class_file(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        labels.load_class_file(tmp_path / 'none.yaml')


def test_too_many_classes(tmp_path):
    with pytest.raises(InputError, match='at most 255'):
        labels.load_class_file(write(tmp_path, json.dumps([f'c{i}' for i in range(256)])))


def test_the_coding_of_label_files_follows_from_the_classes():
    """Public data sets have more ids than classes. In all files 255 is void, as in predictions."""
    coding = labels.coding_of(labels.CITYSCAPES)
    ids = np.array([[7, 33, 0, 29, 255]])
    expected = [[0, 18, 255, 255, 255]]
    np.testing.assert_array_equal(labels.to_train_ids(ids, coding, 'a.png'), expected)
    for classes in (
        labels.CAMVID,
        labels.ADE20K,
        labels.COCO_PANOPTIC,
        labels.APOLLOSCAPE,
        labels.NYU40,
    ):
        written = np.array([[*classes.ids, 255]])
        read = labels.to_train_ids(written, labels.coding_of(classes), 'a.png')
        np.testing.assert_array_equal(read, [[*range(classes.num_classes), 255]])
    own = labels.coding_of(ClassSpec(('a', 'b'), ((9, 9, 9), (1, 2, 3)), (4, 6)))
    np.testing.assert_array_equal(
        labels.to_train_ids(np.array([[6, 4, 255]]), own, 'a.png'), [[1, 0, 255]]
    )
    colors = np.array([[[1, 2, 3], [0, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(labels.to_train_ids(colors, own, 'a.png'), [[1, 255]])
    with pytest.raises(InputError, match='label ids 0'):
        labels.to_train_ids(np.array([[0]]), own, 'a.png')
    black = labels.coding_of(ClassSpec(('a',), ((0, 0, 0),), (0,)))
    assert black.colors == {(0, 0, 0): 0}
