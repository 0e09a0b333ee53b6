"""Tests edits of label maps: a map, a box and a class in; the completed map, a mask, a picture out.

The toy net fills a box with its class. It cuts the context of the box, and pastes the result.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import toy_edits
from predicting import CLASSES, make_stage, noise, read, save
from toy_edits import MARGIN, PIXELS

from segjax.data import crops, objects
from segjax.errors import InputError
from segjax.modes.predict import reading
from segjax.ops import squares
from segjax.protocol import Prediction
from segjax.spec import ClassSpec, Feature, Merge

SIZE = (40, 64)
VOID = 255
EDIT = toy_edits.make_prediction(SIZE, CLASSES.palette)


def random_ids(size, seed=0):
    """Returns ids of the data set, with void pixels."""
    train_ids = np.random.default_rng(seed).integers(0, 4, size)
    return np.array([*CLASSES.ids, VOID], np.uint8)[train_ids]


def write_list(folder, entries):
    """Writes a list of edits, and returns its path."""
    path = folder / 'edits.json'
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def run(toy):
    return toy(make_stage(prediction=EDIT))


# --- edits ----------------------------------------------------------------------------------------


def test_a_single_edit_completes_a_label_map(tmp_path, run):
    """The box of the pixels 4 .. 9 x 3 .. 7 reaches from 3.5 to 9.5, and from 2.5 to 7.5."""
    ids = random_ids((21, 33))
    save(tmp_path / 'bonn.png', ids)
    edit = {'name': 'bonn_car', 'label': 'bonn.png', 'box': [3.5, 2.5, 9.5, 7.5], 'class_id': 'car'}
    listed = write_list(tmp_path, edit)
    run.predict(listed, tmp_path / 'out')

    expected = ids.copy()
    expected[3:8, 4:10] = 26
    np.testing.assert_array_equal(read(tmp_path / 'out/inpainted/ids/bonn_car.png'), expected)
    colors = dict(zip((*CLASSES.ids, VOID), (*CLASSES.palette, (0, 0, 0)), strict=True))
    painted = np.array([[colors[i] for i in row] for row in expected])
    np.testing.assert_array_equal(read(tmp_path / 'out/inpainted/color/bonn_car.png'), painted)
    np.testing.assert_array_equal(read(tmp_path / 'out/picture/bonn_car.png'), painted)
    mask = read(tmp_path / 'out/object/bonn_car.png')
    assert mask.dtype == np.uint8 and mask.shape == (21, 33)
    np.testing.assert_array_equal(mask, np.where(ids != expected, 255, 0))


def test_whole_numbers_are_the_first_pixel_inside_and_the_first_beyond(tmp_path, run):
    """A pixel lies in a box if its centre does: x0 <= x < x1."""
    ids = random_ids((21, 33))
    save(tmp_path / 'a.png', ids)
    edit = {'name': 'a', 'label': 'a.png', 'box': [4, 3, 10, 8], 'class_id': 1}
    run.predict(write_list(tmp_path, edit), tmp_path / 'out')
    expected = ids.copy()
    expected[3:8, 4:10] = 26
    np.testing.assert_array_equal(read(tmp_path / 'out/inpainted/ids/a.png'), expected)


def test_a_list_edits_the_files_of_a_folder_several_times(tmp_path, run):
    """Paths are relative to the list. Maps of several sizes share a batch."""
    maps = {'a.png': random_ids((21, 33), 1), 'deep/b.png': random_ids(SIZE, 2)}
    for name, ids in maps.items():
        save(tmp_path / 'maps' / name, ids)
    entries = [
        {'name': 'a/car', 'label': 'a.png', 'box': [3.5, 2.5, 9.5, 7.5], 'class_id': 'car'},
        {'name': 'a/sky', 'label': 'a.png', 'box': [10.2, 4.7, 18.9, 20.5], 'class_id': 'sky'},
        {'name': 'b', 'label': 'deep/b.png', 'box': [-0.5, 30.5, 8, 39.5], 'class_id': 'road'},
    ]
    listed = write_list(tmp_path / 'maps', entries)
    summary = run.predict(listed, tmp_path / 'out')
    assert summary['images'] == 3
    for entry in entries:
        ids = maps[entry['label']]
        inside = objects.box_mask(np.array(entry['box']), ids.shape) > 0
        expected = np.where(inside, CLASSES.ids[CLASSES.names.index(entry['class_id'])], ids)
        result = read(tmp_path / f'out/inpainted/ids/{entry["name"]}.png')
        np.testing.assert_array_equal(result, expected)

    # A new edit is predicted alone.
    entries.append({**entries[0], 'name': 'a/road', 'class_id': 'road'})
    write_list(tmp_path / 'maps', entries)
    summary = run.predict(listed, tmp_path / 'out')
    assert (summary['images'], summary['skipped']) == (1, 3)


def test_the_header_of_a_map_is_read_once(tmp_path, run, monkeypatch):
    read_size = reading.file_size
    paths = []

    def counted(path):
        paths.append(path.name)
        return read_size(path)

    monkeypatch.setattr(reading, 'file_size', counted)
    for name in 'ab':
        save(tmp_path / f'{name}.png', random_ids((21, 33)))
    edit = {'box': [3.5, 2.5, 9.5, 7.5], 'class_id': 'car'}
    entries = [{'name': name, 'label': f'{name}.png', **edit} for name in 'ba']
    run.predict(write_list(tmp_path, entries), tmp_path / 'out')
    assert paths == ['b.png', 'a.png']


def test_maps_larger_than_those_of_the_run_keep_their_pixels(tmp_path, run):
    """The net sees the square around the box alone, so larger maps join an older output."""
    assert SIZE == (40, 64)
    edit = {'box': [70, 50, 80, 62], 'class_id': 'car'}
    for name, size in {'small': (21, 33), 'wide': (70, 90), 'high': (110, 88)}.items():
        ids = random_ids(size)
        save(tmp_path / f'{name}.png', ids)
        box = [4, 3, 10, 8] if name == 'small' else edit['box']
        listed = write_list(tmp_path, {**edit, 'name': name, 'label': f'{name}.png', 'box': box})
        run.predict(listed, tmp_path / 'out')
        expected = ids.copy()
        expected[box[1] : box[3], box[0] : box[2]] = 26
        np.testing.assert_array_equal(read(tmp_path / f'out/inpainted/ids/{name}.png'), expected)


def test_a_result_is_the_input_of_the_next_edit(tmp_path, run):
    """Void is read again. A result that could overwrite its input is refused."""
    ids = random_ids((21, 33))
    save(tmp_path / 'a.png', ids)
    first = {'name': 'a', 'label': 'a.png', 'box': [3.5, 2.5, 9.5, 7.5], 'class_id': 'car'}
    run.predict(write_list(tmp_path, first), tmp_path / 'out')
    second = {**first, 'label': 'out/inpainted/ids/a.png', 'box': [5.5, 2.5, 12.5, 9.5]}
    listed = write_list(tmp_path, second)
    with pytest.raises(InputError, match='could overwrite the input') as error:
        run.predict(listed, tmp_path / 'out')
    assert error.value.fix == f'--output {tmp_path / "out"}_2'
    run.predict(listed, tmp_path / 'out_2')
    expected = ids.copy()
    expected[3:8, 4:10] = 26
    expected[3:10, 6:13] = 26
    np.testing.assert_array_equal(read(tmp_path / 'out_2/inpainted/ids/a.png'), expected)


def test_the_net_sees_the_crop_of_the_file(tmp_path, toy):
    """Training crops the files at their own size. The canvas does not resize them before."""

    def shown(state, batch, keys):
        around = squares.squares_of(batch['box'][:, 0], MARGIN, batch['size'])
        label = squares.cut(batch['label'], around, PIXELS, sizes=batch['size'])
        image = squares.cut(batch['image'], around, PIXELS, False, batch['size'])
        return {'label': label, 'image': image, 'size': batch['size']}

    look = EDIT._replace(
        inputs={**EDIT.inputs, 'image': Feature('image')},
        outputs={'label': 'classes', 'image': 'image', 'size': 'table'},
        apply=shown,
    )
    ids = random_ids((37, 29))
    image = noise(37, 29)
    save(tmp_path / 'a.png', ids)
    save(tmp_path / 'photo.png', image)
    edit = {
        'name': 'a',
        'label': 'a.png',
        'image': 'photo.png',
        'box': [3.5, 2.5, 14.5, 11.5],
        'class_id': 0,
    }
    toy(make_stage(prediction=look)).predict(write_list(tmp_path, edit), tmp_path / 'out')
    square = objects.context_square(np.array(edit['box']), MARGIN, (37, 29))
    cut = crops.crop_and_resize({'label': ids, 'image': image}, square, (PIXELS, PIXELS))
    np.testing.assert_array_equal(read(tmp_path / 'out/label/ids/a.png'), cut['label'])
    difference = read(tmp_path / 'out/image/a.png').astype(int) - cut['image']
    assert np.abs(difference).max() <= 1
    assert (tmp_path / 'out/table.csv').read_text() == 'name,size_0,size_1\na,37,29\n'


@pytest.mark.parametrize('size', [SIZE, (1, 64), (40, 1), (17, 25), (39, 63)])
def test_a_map_comes_back_bit_by_bit(tmp_path, toy, size):
    """The net returns its input label. A smaller map is padded, not resized."""
    ids = random_ids(size)
    save(tmp_path / 'in/deep/a.png', ids)
    seen = []

    def same(state, batch, keys):
        seen.append(batch['label'].shape)
        return {
            'same': batch['label'],
            'inside': batch['label'] < 3,
            'padding': jnp.sum(batch['label'] != 255, (1, 2)),
        }

    prediction = Prediction(
        inputs={'label': Feature('label')},
        outputs={'same': 'classes', 'inside': 'mask', 'padding': 'table'},
        apply=same,
        size=SIZE,
        resize=False,
    )
    toy(make_stage(prediction=prediction)).predict(tmp_path / 'in', tmp_path / 'out')
    assert seen[0][1:] == SIZE
    np.testing.assert_array_equal(read(tmp_path / 'out/same/ids/deep/a.png'), ids)
    inside = read(tmp_path / 'out/inside/deep/a.png')
    np.testing.assert_array_equal(inside, np.where(ids != VOID, 255, 0))
    count = (ids != VOID).sum()
    assert (tmp_path / 'out/table.csv').read_text() == f'name,padding\ndeep/a,{count}\n'


def test_a_resized_mask_takes_the_nearest_pixels(tmp_path, toy):
    ids = random_ids((20, 32))
    save(tmp_path / 'a.png', ids)
    prediction = Prediction(
        inputs={'label': Feature('label')},
        outputs={'inside': 'mask'},
        apply=lambda state, batch, keys: {'inside': batch['label'] == 1},
        size=SIZE,
    )
    toy(make_stage(prediction=prediction)).predict(tmp_path / 'a.png', tmp_path / 'out')
    np.testing.assert_array_equal(
        read(tmp_path / 'out/inside/a.png'), np.where(ids == CLASSES.ids[1], 255, 0)
    )


# --- class maps -----------------------------------------------------------------------------------


def test_label_files_have_the_classes_before_the_class_map(tmp_path, toy):
    """The data set has the ids 4, 5, 6 and 9. The run sees `thing` (5, 6) and `way` (4)."""
    own = ClassSpec(
        ('way', 'car', 'bus', 'dust'), ((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)), (4, 5, 6, 9)
    )
    merged = ClassSpec(('thing', 'way', 'sky'), ((2, 2, 2), (1, 1, 1), (9, 9, 9)), (1, 2, 3))
    run = toy(make_stage(prediction=EDIT), classes=merged, merge=Merge(own, (1, 0, 0, 255)))
    save(tmp_path / 'a.png', np.array([[4, 5, 6, 9, 255]] * 5, np.uint8))
    colors = np.array([*own.palette, (0, 0, 0)], np.uint8)
    save(tmp_path / 'b.png', np.stack([colors] * 5))
    entries = [
        {'name': name, 'label': f'{name}.png', 'box': [0.5, 0.5, 2.5, 2.5], 'class_id': 'way'}
        for name in 'ab'
    ]
    run.predict(write_list(tmp_path, entries), tmp_path / 'out')
    expected = np.array([[2, 1, 1, 255, 255]] * 5)
    expected[1:3, 1:3] = 2
    for name in 'ab':
        np.testing.assert_array_equal(read(tmp_path / f'out/inpainted/ids/{name}.png'), expected)
    entries[0]['class_id'] = 'bus'
    with pytest.raises(InputError, match='one of sky, thing, way'):
        run.predict(write_list(tmp_path, entries), tmp_path / 'out_2')


# --- wrong edits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'change, texts',
    [
        ({'box': [-0.5, -0.5, 32.5, 20.5]}, ['box', 'all that the net sees', 'longer side']),
        ({'box': [5, 5, 30, 9]}, ['box', '25 pixels long', 'shorter side of the map']),
        ({'box': [3.5, 2.5, 17.5, 3.1]}, ['box', '14 x 0.6 pixels', 'at least 1.31 pixels']),
        ({'box': [3.5, 2.5, 33.5, 7.5]}, ['box', 'outside', '32.5', '[3.5, 2.5, 32.5, 7.5]']),
        ({'box': [9.5, 2.5, 3.5, 7.5]}, ['box', 'without an area', 'x0 < x1', 'not width']),
        ({'box': [None] * 4}, ['box', 'without an area']),
        ({'class_id': 'cr'}, ['class_id', "did you mean 'car'?"]),
        ({'class_id': 3}, ['class_id', '0 .. 2']),
    ],
)
def test_a_wrong_edit_is_named_before_the_net(tmp_path, run, change, texts):
    save(tmp_path / 'a.png', random_ids((21, 33)))
    edit = {'name': 'x', 'label': 'a.png', 'box': [3.5, 2.5, 9.5, 7.5], 'class_id': 'car'}
    listed = write_list(tmp_path, [{**edit, 'name': 'right'}, {**edit, **change}])
    with pytest.raises(InputError) as error:
        run.predict(listed, tmp_path / 'out')
    for text in [str(listed), "example 'x'", *texts]:
        assert text in str(error.value), str(error.value)
    assert not (tmp_path / 'out').exists()


def test_all_wrong_edits_are_named(tmp_path, run):
    save(tmp_path / 'a.png', random_ids((21, 33)))
    edit = {'label': 'a.png', 'class_id': 'car'}
    entries = [
        {'name': 'x', 'box': [5, 5, 30, 9], **edit},
        {'name': 'y', 'box': [3.5, 2.5, 9.5, 7.5], **edit},
        {'name': 'z', 'box': [3.5, 2.5, 17.5, 3.1], **edit},
    ]
    with pytest.raises(InputError) as error:
        run.predict(write_list(tmp_path, entries), tmp_path / 'out')
    for text in ['2 of 3 examples', "example 'x': box", "example 'z': box"]:
        assert text in str(error.value)


def test_a_folder_of_maps_is_too_little(tmp_path, run):
    save(tmp_path / 'in/a.png', random_ids((21, 33)))
    with pytest.raises(InputError, match='a JSON file, because an example also has box, class_id'):
        run.predict(tmp_path / 'in', tmp_path / 'out')


def test_a_mask_that_is_not_bool_contradicts_its_kind(tmp_path, toy):
    save(tmp_path / 'a.png', random_ids((21, 33)))
    wrong = Prediction(
        inputs={'label': Feature('label')},
        outputs={'object': 'mask'},
        apply=lambda state, batch, keys: {'object': batch['label']},
        size=SIZE,
    )
    with pytest.raises(ValueError, match=r"kind 'mask' is int32.*expected \[B, H, W\] bool"):
        toy(make_stage(prediction=wrong)).predict(tmp_path / 'a.png', tmp_path / 'out')
