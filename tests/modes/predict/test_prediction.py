"""Tests declared predictions: inputs from files and lists, outputs by kind, resuming, devices."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from predicting import CLASSES, contents, make_stage, noise, read, save

from segjax.data import transforms
from segjax.errors import InputError
from segjax.modes.predict import prediction as prediction_lib
from segjax.protocol import Prediction
from segjax.spec import Feature

SIZE = (32, 48)


def fill_boxes(state, batch, keys):
    """Fills a box with a class, and the remaining pixels with the class of the largest channel."""
    box = batch['box'][:, 0]
    rows = jnp.arange(SIZE[0])[None, :, None]
    columns = jnp.arange(SIZE[1])[None, None, :]
    x0, y0, x1, y1 = (box[:, i, None, None] for i in range(4))
    inside = (rows > y0) & (rows < y1) & (columns > x0) & (columns < x1)
    channels = batch['image'][..., state.params['order']]
    label = jnp.where(inside, batch['class'][:, None, None], jnp.argmax(channels, -1))
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys['noise'])
    return {'filled': label, 'draw': drawn, 'weight': batch['weight']}


FILL = Prediction(
    inputs={
        'image': Feature('image'),
        'box': Feature('boxes', (1, 4)),
        'class': Feature('number', dtype='int32'),
    },
    outputs={'filled': 'classes', 'draw': 'table', 'weight': 'table'},
    apply=fill_boxes,
    size=SIZE,
    streams=('noise',),
)

LABELS = Prediction(
    inputs={'label': Feature('label')},
    outputs={'same': 'classes'},
    apply=lambda state, batch, keys: {'same': batch['label']},
    size=SIZE,
)


def write_list(folder, entries, name='list.json'):
    """Writes a list of examples, and returns its path."""
    path = folder / name
    path.write_text(json.dumps(entries))
    return path


def five_examples(folder):
    """Writes five images of half the net's size, and a list. Returns its path and entries."""
    entries = []
    for number in range(5):
        name = f'street/{number}'
        save(folder / f'images/{number}.png', noise(16, 24, number))
        entries.append(
            {
                'name': name,
                'image': f'images/{number}.png',
                'box': [number - 0.5, 1.5, number + 7.5, 9.5],
                'class': CLASSES.names[number % 3],
            }
        )
    return write_list(folder, entries), entries


def table(folder):
    """Returns the rows of table.csv."""
    with (folder / 'table.csv').open() as file:
        return list(csv.DictReader(file))


def test_an_image_a_box_and_a_class_give_a_class_map_and_a_table(tmp_path, toy):
    listed, entries = five_examples(tmp_path)
    summary = toy(make_stage(prediction=FILL)).predict(listed, tmp_path / 'out')
    assert (summary['images'], summary['skipped'], summary['others']) == (5, 0, [])
    assert 0 < summary['waiting_seconds'] < summary['seconds']
    for number, entry in enumerate(entries):
        # The net sees pixels of twice the size. Back at the size of the file they are the same.
        image = noise(16, 24, number)
        matrix = transforms.resize_matrix((16, 24), SIZE)
        seen = transforms.apply_geometry({'image': image}, matrix, SIZE)['image']
        expected = seen[..., [2, 0, 1]].argmax(-1)[1::2, 1::2]
        left, top, right, bottom = np.add(entry['box'], 0.5).astype(int)
        expected[top:bottom, left:right] = number % 3
        ids = read(tmp_path / f'out/filled/ids/{entry["name"]}.png')
        np.testing.assert_array_equal(ids, np.array(CLASSES.ids)[expected])
        color = read(tmp_path / f'out/filled/color/{entry["name"]}.png')
        np.testing.assert_array_equal(color, np.array(CLASSES.palette)[expected])
    rows = table(tmp_path / 'out')
    assert [row['name'] for row in rows] == [entry['name'] for entry in entries]
    assert list(rows[0]) == ['name', 'draw_0', 'draw_1', 'weight']
    assert all(float(row['weight']) == 1 for row in rows)
    assert len({row['draw_0'] for row in rows}) == 5


def test_results_do_not_depend_on_batch_order_or_devices(tmp_path, toy):
    """The batches of 1, 2 and 5 examples are also rounded up to 4 and 8 devices."""
    listed, entries = five_examples(tmp_path)
    backwards = write_list(tmp_path, entries[::-1], 'backwards.json')
    results = []
    stage = make_stage(prediction=FILL)
    cases = [(1, 1, listed), (1, 2, backwards), (1, 5, listed)]
    cases += [(n, 1, listed) for n in (4, 8) if n <= len(jax.devices())]
    for devices, batch_size, path in cases:
        folder = tmp_path / f'out_{devices}_{batch_size}'
        toy(stage, devices=devices).predict(path, folder, batch_size=batch_size)
        results.append(contents(folder))
    assert len(results[0]) == 5 * 2 + 2
    assert all(result == results[0] for result in results)


def test_random_streams_depend_on_seed_and_name(tmp_path, toy):
    save(tmp_path / 'a.png', noise(16, 24))
    entry = {'image': 'a.png', 'box': [0, 0, 1, 1], 'class': 0}
    listed = write_list(tmp_path, [{'name': name, **entry} for name in ('x', 'y')])
    rows = []
    for seed in (0, 1):
        toy(make_stage(prediction=FILL), seed=seed).predict(listed, tmp_path / f'out_{seed}')
        rows += table(tmp_path / f'out_{seed}')
    assert len({row['draw_0'] for row in rows}) == 4


def test_a_killed_prediction_is_resumed_with_the_same_results(tmp_path, toy, monkeypatch):
    listed, _ = five_examples(tmp_path)
    run = toy(make_stage(prediction=FILL))
    calls = []

    def dies(*arguments, original=prediction_lib.make_batch):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prediction_lib, 'make_batch', dies)
        with pytest.raises(KeyboardInterrupt):
            run.predict(listed, tmp_path / 'out', batch_size=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*.png')}
    assert 0 < len(before) < 10
    summary = run.predict(listed, tmp_path / 'out', batch_size=2)
    assert summary['skipped'] == len(before) // 2
    assert summary['images'] == 5 - summary['skipped']
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    run.predict(listed, tmp_path / 'fresh')
    assert contents(tmp_path / 'out') == contents(tmp_path / 'fresh')


def test_a_changed_input_is_predicted_again(tmp_path, toy):
    listed, entries = five_examples(tmp_path)
    run = toy(make_stage(prediction=FILL))
    run.predict(listed, tmp_path / 'out')
    assert run.predict(listed, tmp_path / 'out')['images'] == 0

    # A file, a box, and a result.
    save(tmp_path / 'images/0.png', noise(16, 24, 9))
    entries[1]['box'] = [0, 0, 9, 9]
    write_list(tmp_path, entries[:4])
    (tmp_path / 'out/filled/color/street/2.png').unlink()
    summary = run.predict(listed, tmp_path / 'out')
    assert (summary['images'], summary['skipped'], summary['others']) == (3, 1, ['street/4'])
    assert [row['name'] for row in table(tmp_path / 'out')] == [f'street/{i}' for i in range(4)]
    with pytest.raises(InputError, match=r'predict\.json[\s\S]*depth_unit = 0\.5'):
        run.predict(listed, tmp_path / 'out', depth_unit=0.5)


# --- maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(32, 48), (17, 25), (31, 13), (5, 48), (32, 1)])
def test_a_label_map_comes_back_at_its_own_size(tmp_path, toy, size):
    """Maps up to the size of the net come back exactly, void included."""
    train_ids = np.random.default_rng(1).integers(0, 4, size)
    ids = np.array([*CLASSES.ids, 255], np.uint8)[train_ids]
    save(tmp_path / 'in/deep/a.png', ids)
    toy(make_stage(prediction=LABELS)).predict(tmp_path / 'in', tmp_path / 'out')
    np.testing.assert_array_equal(read(tmp_path / 'out/same/ids/deep/a.png'), ids)
    color = np.array([*CLASSES.palette, (0, 0, 0)])[train_ids]
    np.testing.assert_array_equal(read(tmp_path / 'out/same/color/deep/a.png'), color)


def test_a_large_label_map_takes_the_nearest_pixels(tmp_path, toy):
    ids = np.array(CLASSES.ids, np.uint8)[np.random.default_rng(1).integers(0, 3, (77, 101))]
    save(tmp_path / 'a.png', ids)
    toy(make_stage(prediction=LABELS)).predict(tmp_path / 'a.png', tmp_path / 'out')
    height, width = round(77 * 32 / 77), round(101 * 32 / 77)
    rows = np.floor((np.arange(height) + 0.5) * 77 / height).astype(int)
    columns = np.floor((np.arange(width) + 0.5) * 101 / width).astype(int)
    small = ids[rows[:, None], columns]
    up_rows = np.floor((np.arange(77) + 0.5) * height / 77).astype(int)
    up_columns = np.floor((np.arange(101) + 0.5) * width / 101).astype(int)
    expected = small[up_rows[:, None], up_columns]
    np.testing.assert_array_equal(read(tmp_path / 'out/same/ids/a.png'), expected)


def test_a_label_map_in_colours_is_read(tmp_path, toy):
    train_ids = np.random.default_rng(1).integers(0, 4, (16, 24))
    save(tmp_path / 'a.png', np.array([*CLASSES.palette, (0, 0, 0)], np.uint8)[train_ids])
    toy(make_stage(prediction=LABELS)).predict(tmp_path / 'a.png', tmp_path / 'out')
    expected = np.array([*CLASSES.ids, 255])[train_ids]
    np.testing.assert_array_equal(read(tmp_path / 'out/same/ids/a.png'), expected)


def test_several_maps_are_in_folders_with_the_names_of_the_inputs(tmp_path, toy):
    ramp = np.add.outer(np.arange(16), np.arange(24))[..., None] * np.array([1, 3, 6])
    images = {'a': ramp.astype(np.uint8), 'deep/b': ramp[:9, :11].astype(np.uint8)}
    for name, image in images.items():
        save(tmp_path / f'in/image/{name}.png', image)
        save(tmp_path / f'in/label/{name}.png', np.full(image.shape[:2], 26, np.uint8))
    both = Prediction(
        inputs={'image': Feature('image'), 'label': Feature('label')},
        outputs={'shown': 'image', 'sum': 'table'},
        apply=lambda state, batch, keys: {
            'shown': batch['image'],
            'sum': jnp.sum(batch['label'] == 1, (1, 2)),
        },
        size=SIZE,
    )
    run = toy(make_stage(prediction=both))
    run.predict(tmp_path / 'in', tmp_path / 'out')
    for name, image in images.items():
        shown = read(tmp_path / f'out/shown/{name}.png')
        assert shown.shape == image.shape
        assert np.abs(shown.astype(int) - image).max() <= 4
    # The part without padding: 32 x 48, and 32 x 39.
    assert [row['sum'] for row in table(tmp_path / 'out')] == [str(32 * 48), str(32 * 39)]
    (tmp_path / 'in/label/a.png').unlink()
    with pytest.raises(InputError, match=r"example 'a'[\s\S]*no file for label in"):
        run.predict(tmp_path / 'in', tmp_path / 'out')
    with pytest.raises(InputError, match='no folder image'):
        run.predict(tmp_path / 'in/image', tmp_path / 'out')
    with pytest.raises(InputError, match=r'a single file[\s\S]*sub-folders image, label'):
        run.predict(tmp_path / 'in/image/a.png', tmp_path / 'out')


def test_every_kind_of_output_can_be_read_again(tmp_path, toy):
    def apply(state, batch, keys):
        unit = batch['image'] / jnp.float32(255)
        return {
            'soft': unit,
            'strip': jnp.stack([batch['image'], 255 - batch['image']], 1),
            'far': batch['depth'] * 2,
            'facing': batch['normals'],
            'small': batch['image'][:, ::4, ::4],
            'count': batch['size'],
        }

    prediction = Prediction(
        inputs={
            'image': Feature('image'),
            'depth': Feature('depth'),
            'normals': Feature('normals', (3,)),
        },
        outputs={
            'soft': 'probabilities',
            'strip': 'images',
            'far': 'depth',
            'facing': 'normals',
            'small': 'image',
            'count': 'table',
        },
        apply=apply,
        size=(16, 24),
    )
    image = noise(16, 20)
    millimetres = np.random.default_rng(0).integers(0, 60000, (16, 20)).astype(np.uint16)
    normals = np.random.default_rng(0).normal(size=(16, 20, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    save(tmp_path / 'a.png', image)
    save(tmp_path / 'd.png', millimetres)
    np.save(tmp_path / 'n.npy', normals)
    entry = {'name': 'a', 'image': 'a.png', 'depth': 'd.png', 'normals': 'n.npy'}
    listed = write_list(tmp_path, [entry])
    out = tmp_path / 'out'
    toy(make_stage(prediction=prediction)).predict(listed, out)

    soft = np.load(out / 'soft/a.npz')
    assert tuple(soft['classes']) == CLASSES.names and soft['probabilities'].dtype == np.float16
    np.testing.assert_allclose(soft['probabilities'], image / 255, atol=5e-4)
    np.testing.assert_array_equal(read(out / 'strip/a_00.png'), image)
    np.testing.assert_array_equal(read(out / 'strip/a_01.png'), 255 - image)
    metres = np.load(out / 'far/a.npy')
    np.testing.assert_allclose(metres, millimetres * 0.002, rtol=1e-6)
    far = read(out / 'far/a.png')
    assert far.dtype == np.uint16
    np.testing.assert_array_equal(far, np.minimum(2 * millimetres.astype(int), 65535))
    np.testing.assert_array_equal(np.load(out / 'facing/a.npy'), normals)
    np.testing.assert_allclose(read(out / 'facing/a.png'), 255 * (normals + 1) / 2, atol=0.51)
    assert read(out / 'small/a.png').shape == (4, 6, 3), 'another size than that of the net'
    assert table(out) == [{'name': 'a', 'count_0': '16', 'count_1': '20'}]


def test_the_unit_of_depth_files_is_a_key(tmp_path, toy):
    units = np.random.default_rng(0).integers(0, 60000, (16, 24)).astype(np.uint16)
    save(tmp_path / 'd.png', units)
    same = Prediction(
        inputs={'depth': Feature('depth')},
        outputs={'same': 'depth'},
        apply=lambda state, batch, keys: {'same': batch['depth']},
        size=(16, 24),
    )
    run = toy(make_stage(prediction=same))
    run.predict(tmp_path / 'd.png', tmp_path / 'out', depth_unit=0.005)
    np.testing.assert_array_equal(read(tmp_path / 'out/same/d.png'), units)
    metres = np.load(tmp_path / 'out/same/d.npy')
    np.testing.assert_allclose(metres, units / 200, rtol=1e-6)


def test_points_cameras_and_flow_follow_their_image(tmp_path, toy):
    """The net sees the scene at three times its size."""
    prediction = Prediction(
        inputs={
            'flow': Feature('flow', (2,)),
            'points': Feature('points', (3, 2)),
            'intrinsics': Feature('intrinsics', (3, 3)),
        },
        outputs={'where': 'table', 'camera': 'table', 'motion': 'table'},
        apply=lambda state, batch, keys: {
            'where': batch['points'].reshape(-1, 6),
            'camera': batch['intrinsics'].reshape(-1, 9)[:, :6],
            'motion': batch['flow'][:, 16, 24],
        },
        size=(30, 45),
    )
    np.save(tmp_path / 'f.npy', np.full((10, 15, 2), (1.0, -2.0), np.float32))
    entry = {
        'name': 'a',
        'flow': 'f.npy',
        'points': [[0, 0], [14.5, 4], [None, None]],
        'intrinsics': [[20, 0, 7], [0, 20, 4.5], [0, 0, 1]],
    }
    listed = write_list(tmp_path, [entry])
    toy(make_stage(prediction=prediction)).predict(listed, tmp_path / 'out')
    (row,) = table(tmp_path / 'out')
    values = {key: float(value) for key, value in row.items() if key != 'name'}
    assert [values[f'where_{i}'] for i in range(4)] == [1, 1, 44.5, 13]
    assert np.isnan([values['where_4'], values['where_5']]).all()
    assert [values[f'camera_{i}'] for i in range(6)] == [60, 0, 22, 0, 60, 14.5]
    assert [values[f'motion_{i}'] for i in range(2)] == [3, -6]


# --- wrong inputs ---------------------------------------------------------------------------------


def raises_before_the_net(run, source, target, *texts):
    """Checks that an input is refused with these texts, and that nothing is written."""
    with pytest.raises(InputError) as error:
        run.predict(source, target)
    for text in texts:
        assert text in str(error.value), str(error.value)
    assert not target.exists()


@pytest.mark.parametrize(
    'change, texts',
    [
        ({'image': 'gone.png'}, ["example 'a'", 'image', 'gone.png']),
        ({'image': 3}, ["example 'a'", 'image', 'path of a file']),
        ({'image': 'list.json'}, ["example 'a'", 'list.json', '.png']),
        ({'image': 'cut.png'}, ["example 'a'", 'cut.png', 'truncated']),
        ({'class': 'caar'}, ["example 'a'", 'class', "did you mean 'car'?"]),
        ({'class': 3}, ["example 'a'", 'class', '0 .. 2']),
        ({'class': 1.5}, ["example 'a'", 'class', '1.5', 'fix:      "road"']),
        ({'box': [0, 0, 24.5, 9]}, ["example 'a'", 'box', '23.5', 'x1 <= 24', '16 x 24']),
        ({'box': [-1, 0, 9, 9]}, ["example 'a'", 'box', '-0.5 <= x0']),
        ({'box': [4, 4, 4, 9]}, ["example 'a'", 'box', 'x0 < x1']),
        ({'box': [4, 4, 9]}, ["example 'a'", 'box', 'expected: 4 numbers', '[x0, y0, x1, y1]']),
        ({'box': 'all'}, ["example 'a'", 'box', "'all'"]),
        ({'box': ['0', '0', '9', '9']}, ["example 'a'", 'box', "['0', '0', '9', '9']"]),
        ({'box': [False, 0, 9, True]}, ["example 'a'", 'box', '[False, 0, 9, True]']),
        ({'box': [0, 0, 9, 10**400]}, ["example 'a'", 'box', '[0, 0, 9, 100', '4 numbers']),
        ({'bx': [0, 0, 1, 1]}, ["example 'a'", "'bx'", "did you mean 'box'?"]),
        ({'name': '../a'}, ['name', "'../a'"]),
        ({'name': ''}, ['name', "''"]),
        ({'name': 'street/' + 'a' * 241}, ['name', 'at most 240 bytes', '"name": "street/000012"']),
        ({'name': '\ud800'}, ['name', "'\\ud800'"]),
        ({'name': None}, ['entry 0', 'None']),
    ],
)
def test_wrong_values_of_a_list_name_the_example(tmp_path, toy, change, texts):
    save(tmp_path / 'a.png', noise(16, 24))
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'a.png').read_bytes()[:-100])
    entry = {'name': 'a', 'image': 'a.png', 'box': [0, 0, 9, 9], 'class': 'car', **change}
    listed = write_list(tmp_path, [entry])
    run = toy(make_stage(prediction=FILL))
    raises_before_the_net(run, listed, tmp_path / 'out', str(listed), *texts)


@pytest.mark.parametrize(
    'text, expected',
    [
        ('"a"', 'a list of examples'),
        ('{"name": "a"}', "no 'image'"),
        ('[]', 'an empty list'),
        ('[3]', 'entry 0'),
        ('[{"name": "a"', 'valid JSON'),
        ('[{"name": "a", "name": "b"}]', "'name' twice"),
        ('[{"name": "a"}]', "no 'image'"),
    ],
)
def test_lists_that_are_none(tmp_path, toy, text, expected):
    (tmp_path / 'list.json').write_text(text)
    run = toy(make_stage(prediction=FILL))
    raises_before_the_net(run, tmp_path / 'list.json', tmp_path / 'out', 'list.json', expected)


def test_two_examples_need_two_names(tmp_path, toy):
    listed, entries = five_examples(tmp_path)
    entries[3]['name'] = entries[1]['name']
    write_list(tmp_path, entries)
    run = toy(make_stage(prediction=FILL))
    raises_before_the_net(run, listed, tmp_path / 'out', "'street/1' twice")


def test_all_wrong_examples_are_named(tmp_path, toy):
    listed, entries = five_examples(tmp_path)
    entries[1]['image'] = 'gone.png'
    entries[3]['box'] = [9, 9, 9, 9]
    write_list(tmp_path, entries)
    run = toy(make_stage(prediction=FILL))
    texts = ['2 of 5 examples', "'street/1'", 'gone.png', "'street/3'", '[9, 9, 9, 9]']
    raises_before_the_net(run, listed, tmp_path / 'out', *texts)


def test_all_wrong_entries_are_named(tmp_path, toy):
    listed, entries = five_examples(tmp_path)
    entries[1]['class'] = 'caar'
    del entries[2]['box']
    entries[4]['class'] = 'skyy'
    write_list(tmp_path, entries)
    run = toy(make_stage(prediction=FILL))
    texts = ['3 of 5 examples', "'caar'", "no 'box'", "'skyy'", "mean 'car'?", "mean 'sky'?"]
    raises_before_the_net(run, listed, tmp_path / 'out', *texts)


def test_values_that_training_has_not_seen_are_refused(tmp_path, toy):
    def check(state, example):
        if example['class'] != state.params['order'][0]:  # sky
            raise InputError('class', got='an unseen class', expected='a seen class')

    listed, _ = five_examples(tmp_path)
    run = toy(make_stage(prediction=FILL._replace(check_trained=check)))
    texts = ['4 of 5 examples', "'street/0': class", 'an unseen class', 'a seen class']
    raises_before_the_net(run, listed, tmp_path / 'out', *texts)


def test_maps_of_several_sizes_are_refused(tmp_path, toy):
    save(tmp_path / 'a.png', noise(16, 24))
    save(tmp_path / 'b.png', np.full((16, 23), 7, np.uint8))
    two = LABELS._replace(inputs={'image': Feature('image'), 'label': Feature('label')})
    listed = write_list(tmp_path, [{'name': 'x', 'image': 'a.png', 'label': 'b.png'}])
    texts = ["example 'x'", 'image 16 x 24', 'a.png', 'label 16 x 23', 'b.png']
    raises_before_the_net(toy(make_stage(prediction=two)), listed, tmp_path / 'out', *texts)


def test_files_alone_are_too_little(tmp_path, toy):
    save(tmp_path / 'in/a.png', noise(16, 24))
    run = toy(make_stage(prediction=FILL))
    for source in (tmp_path / 'in', tmp_path / 'in/a.png'):
        raises_before_the_net(
            run, source, tmp_path / 'out', 'box, class', '"box": [x0, y0, x1, y1]'
        )


def test_unknown_ids_are_reported_and_the_other_examples_are_written(tmp_path, toy):
    for name, number in (('a', 7), ('b', 99), ('c', 26)):
        save(tmp_path / f'in/{name}.png', np.full((8, 8), number, np.uint8))
    run = toy(make_stage(prediction=LABELS))
    with pytest.raises(InputError, match=r"1 of 3 examples[\s\S]*'b'.*b\.png.*label ids 99"):
        run.predict(tmp_path / 'in', tmp_path / 'out')
    assert sorted(path.name for path in (tmp_path / 'out/same/ids').iterdir()) == ['a.png', 'c.png']


def test_outputs_that_contradict_their_kind(tmp_path, toy):
    save(tmp_path / 'a.png', np.full((8, 8), 7, np.uint8))
    source = tmp_path / 'a.png'
    for outputs, message in (
        ({'same': 'image'}, r"kind 'image' is int32\[4, 32, 48\]"),
        ({'other': 'classes'}, r"\['same'\], the prediction has \['other'\]"),
    ):
        run = toy(make_stage(prediction=LABELS._replace(outputs=outputs)))
        with pytest.raises(ValueError, match=message):
            run.predict(source, tmp_path / 'out')
    run = toy(make_stage(prediction=LABELS._replace(outputs={'same': 'clases'})))
    with pytest.raises(InputError, match="did you mean 'classes'"):
        run.predict(source, tmp_path / 'out')


# --- stages ---------------------------------------------------------------------------------------


def channels(state, images):
    """Predicts the colour channels as class probabilities."""
    return jnp.asarray(images, jnp.float32) / 255


def test_the_input_decides_between_tiles_and_prediction(tmp_path, toy):
    save(tmp_path / 'in/a.png', noise(16, 24))
    image_only = Prediction(
        inputs={'image': Feature('image')},
        outputs={'shown': 'image'},
        apply=lambda state, batch, keys: {'shown': batch['image']},
        size=(16, 24),
    )
    listed = write_list(tmp_path, [{'name': 'a', 'image': 'in/a.png'}])
    run = toy(make_stage(predict=channels, prediction=image_only))
    expected = {'ids', 'color', 'overlay', 'confidence'}
    for number, (source, method, folders) in enumerate(
        [
            (tmp_path / 'in', '', expected),
            (tmp_path / 'in/a.png', '', expected),
            (listed, '', {'shown'}),
            (tmp_path / 'in', 'prediction', {'shown'}),
            (tmp_path / 'in/a.png', 'prediction', {'shown'}),
        ]
    ):
        out = tmp_path / f'out_{number}'
        run.predict(source, out, method=method)
        assert {path.name for path in out.iterdir() if path.is_dir()} == folders
    shown = read(tmp_path / 'out_2/shown/a.png')
    np.testing.assert_array_equal(shown, noise(16, 24))


def test_a_flag_chooses_the_stage(tmp_path, toy):
    save(tmp_path / 'in/a.png', np.full((16, 24), 7, np.uint8))
    stages = (
        make_stage(name='first', predict=channels),
        make_stage(name='second', prediction=LABELS),
        make_stage(name='third'),
    )
    run = toy(*stages)
    run.predict(tmp_path / 'in', tmp_path / 'first', stage='first')
    run.predict(tmp_path / 'in', tmp_path / 'second')
    assert (tmp_path / 'first/overlay/a.png').exists()
    assert (tmp_path / 'second/same/ids/a.png').exists()
    with pytest.raises(InputError, match=r"--stage[\s\S]*did you mean 'third'"):
        run.predict(tmp_path / 'in', tmp_path / 'out', stage='thrid')
    with pytest.raises(InputError) as error:
        run.predict(tmp_path / 'in', tmp_path / 'out', stage='third')
    assert 'first: class maps of images; second: same from label' in str(error.value)
    assert 'fix:      --stage second' in str(error.value)
    with pytest.raises(InputError, match=r"predict\.method[\s\S]*'tiles' for stage 'second'"):
        run.predict(tmp_path / 'in', tmp_path / 'out', method='tiles')
    listed = write_list(tmp_path, [])
    with pytest.raises(InputError, match=r"a JSON list[\s\S]*stage 'first'"):
        run.predict(listed, tmp_path / 'out', stage='first')
    with pytest.raises(InputError, match='a pipeline that predicts'):
        toy(stages[2]).predict(tmp_path / 'in', tmp_path / 'out')


@pytest.mark.parametrize('devices', [4, 8])
def test_tiles_are_split_over_the_devices(tmp_path, toy, devices):
    for number, size in enumerate([(16, 24), (33, 50), (7, 24)]):
        save(tmp_path / f'in/{number}.png', noise(*size, number))
    stage = make_stage(predict=channels)
    toy(stage, devices=1).predict(tmp_path / 'in', tmp_path / 'one')
    toy(stage, devices=devices).predict(tmp_path / 'in', tmp_path / 'many')
    assert contents(tmp_path / 'one') == contents(tmp_path / 'many')
