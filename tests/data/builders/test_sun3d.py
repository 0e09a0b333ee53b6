"""SUN3D: labelled frames with their video, rotated depth, 33 classes, and problems of its files."""

import indoor_layouts as indoor
import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import builders, labels
from segjax.data.builders import sun3d
from segjax.spec import IGNORE


@pytest.fixture
def room(tmp_path):
    """Returns folder, config and content of a sequence of 20 frames, of which frame 10 is labelled.

    A second sequence is not labelled.
    """
    folder = tmp_path / 'sun3d/hotel/room_1'
    written = indoor.write_sun3d(folder, 20, [10])
    indoor.write_sun3d(tmp_path / 'sun3d/hotel/room_2', 2, [])
    config = indoor.rgbd_config('sun3d', tmp_path / 'sun3d', tmp_path / 'cache', steps=2)
    return folder, config, written


def test_the_clip_of_a_labelled_frame(room):
    _, config, written = room
    spec = data.prepare(config).spec
    assert spec.num_examples == {'test': 5} and spec.num_unlabelled == {'test': 4}
    assert spec.classes == labels.NYU40
    assert spec.features == (
        'image',
        'label',
        'depth',
        'intrinsics',
        'sequence',
        'frame',
        'name',
    )
    examples = indoor.examples_of(config, 'test')
    assert [example['frame'] for example in examples.values()] == [4, 7, 10, 13, 16]
    for example in examples.values():
        _, units, label = written[example['frame']]
        assert example['sequence'] == 'hotel/room_1/00010'
        # Depth is the file of the same moment, not of the same number.
        np.testing.assert_allclose(example['depth'], units / 1000, rtol=1e-6)
        ids = np.zeros_like(units) if label is None else label
        np.testing.assert_array_equal(example['label'], np.where(ids == 0, IGNORE, ids - 1.0))
        matrix = [[51.8, 0, 30.5], [0, 51.9, 20.5], [0, 0, 1]]
        np.testing.assert_allclose(example['intrinsics'], matrix, rtol=1e-6)
    notes = builders.load(config).notes_of_folders()
    assert 'without label40: 1 sequences' in notes[0].message and 'room_2' in notes[0].message


def test_depth_without_rotated_bits(tmp_path):
    written = indoor.write_sun3d(tmp_path / 'sun3d/a', 3, [2], rotated=False)
    config = indoor.rgbd_config('sun3d', tmp_path / 'sun3d', tmp_path / 'cache', interval=1)
    for example in indoor.examples_of(config, 'test').values():
        np.testing.assert_allclose(example['depth'], written[example['frame']][1] / 1000)

    # A declared unit switches the recognition off.
    config.rgbd.depth_scale = 2000.0
    for example in indoor.examples_of(config, 'test').values():
        np.testing.assert_allclose(example['depth'], written[example['frame']][1] / 2000)


def test_rotation_of_bits():
    distances = np.array([[0, 1, 8, 813, 8191, 8192, 12345]], np.uint16)
    rotated = np.array([[int(f'{d:016b}'[3:] + f'{d:016b}'[:3], 2) for d in distances[0]]])
    np.testing.assert_array_equal(sun3d.millimetres(rotated.astype(np.uint16)), distances)
    plain = np.arange(1000, 1100, dtype=np.uint16)[None]
    np.testing.assert_array_equal(sun3d.millimetres(plain), plain)
    np.testing.assert_array_equal(sun3d.millimetres(plain * 0), plain * 0)


# --- classes --------------------------------------------------------------------------------------


def test_33_classes_from_40():
    classes, train_ids = sun3d.SUN3D33
    assert classes.num_classes == 33 and set(train_ids) == set(range(33))
    merged = {}
    for name, train_id in zip(labels.NYU40.names, train_ids, strict=True):
        merged.setdefault(classes.names[train_id], []).append(name)
    assert merged.pop('floor') == ['floor', 'floor mat']
    assert merged.pop('otherfurniture') == ['dresser', 'otherfurniture']
    assert set(merged.pop('otherprop')) == {*sun3d.INTO_PROPS, 'otherprop'}
    assert all(names == [name] for name, names in merged.items())
    # A class keeps its id and colour.
    for name, number, color in zip(classes.names, classes.ids, classes.palette, strict=True):
        place = labels.NYU40.names.index(name)
        assert (labels.NYU40.ids[place], labels.NYU40.palette[place]) == (number, color)


def test_labels_are_merged_into_33_classes(room):
    _, config, written = room
    config.class_map = '33'
    prepared = data.prepare(config)
    assert prepared.spec.classes.num_classes == 33
    label = written[10][2]
    floor = np.isin(label, [2, 20]).sum()
    assert prepared.spec.class_pixels['test'][prepared.spec.classes.names.index('floor')] == floor


def test_other_five_classes_come_from_a_file(room, tmp_path):
    _, config, written = room
    into = ['books', 'paper', 'towel', 'box', 'person']
    lines = ['classes:']
    for name in labels.NYU40.names:
        groups = {
            'floor': ['floor', 'floor mat'],
            'otherfurniture': ['otherfurniture', 'dresser'],
            'otherprop': ['otherprop', *into],
        }
        if name not in (*into, 'floor mat', 'dresser'):
            lines.append(f'  - {{name: {name}, from: [{", ".join(groups.get(name, [name]))}]}}')
    (tmp_path / 'map.yaml').write_text('\n'.join(lines))
    config.class_map = str(tmp_path / 'map.yaml')
    spec = data.prepare(config).spec
    assert spec.classes.num_classes == 33 and spec.classes.names[-1] == 'otherprop'
    ids = [labels.NYU40.names.index(name) + 1 for name in ('otherprop', *into)]
    assert spec.class_pixels['test'][-1] == np.isin(written[10][2], ids).sum()
    assert sun3d.merge_33(tuple(into)).train_ids == spec.merge.train_ids


# --- wrong input ----------------------------------------------------------------------------------


def test_missing_frames_and_depth(room):
    folder, config, _ = room
    # Without the depth of the frames 6 to 8, the next depth is two frames away from frame 7.
    paths = [next((folder / 'depth').glob(f'{frame + 4:07}-*')) for frame in (6, 7, 8)]
    for path in paths:
        path.rename(folder / path.name)
    error = indoor.expect(
        config, next((folder / 'image').glob('0000007-*')), 'no depth within 0.05 s'
    )
    assert 'the same time' in error.expected
    for path in paths:
        (folder / path.name).rename(path)

    image = next((folder / 'image').glob('0000013-*'))
    image.unlink()
    indoor.expect(config, folder, 'no frames 13, around the labelled frame 10')


def test_names_labels_and_cameras_of_another_form(room):
    folder, config, _ = room
    label = next((folder / 'label40').glob('*.png'))
    label.rename(folder / 'label40/99.png')
    indoor.expect(config, 'label40/99.png', 'the label of frame 99', 'frames 1 to 20')
    (folder / 'label40/99.png').rename(folder / 'label40/10.png')
    data.prepare(config)
    (folder / 'intrinsics.txt').write_text('51.8 0 30.5')
    indoor.expect(config, folder / 'intrinsics.txt', '3 rows of 3 numbers')
    (folder / 'intrinsics.txt').write_text('51.8 0 30.5 0 51.9 20.5 0 0 1')
    layouts.save(folder / 'label40/10.png', np.full((40, 60), 77, np.uint8))
    indoor.expect(config, 'label40/10.png', 'label ids 77', 'ids 0..40')
    layouts.save(folder / 'label40/10.png', np.full((20, 30), 7, np.uint8))
    indoor.expect(config, 'label40/10.png', '30x20 pixels', '60x40 pixels, the size of')
    layouts.save(folder / 'image/last.jpg', np.zeros((40, 60, 3), np.uint8))
    indoor.expect(config, 'image/last.jpg', '{frame}-{microseconds}.jpg')


def test_depth_of_another_unit(tmp_path):
    indoor.write_sun3d(tmp_path / 'sun3d/a', 1, [1], rotated=False)
    path = next((tmp_path / 'sun3d/a/depth').iterdir())
    units = np.random.default_rng(0).integers(15000, 40000, (40, 60)).astype(np.uint16)
    layouts.save(path, units)
    config = indoor.rgbd_config('sun3d', tmp_path / 'sun3d', tmp_path / 'cache')
    error = indoor.expect(config, path, '6553.5 units per metre')
    assert error.fix == '--config.data.rgbd.depth_scale=6553.5'


def test_no_labelled_sequence(tmp_path):
    indoor.write_sun3d(tmp_path / 'sun3d/a', 1, [])
    config = indoor.rgbd_config('sun3d', tmp_path / 'sun3d', tmp_path / 'cache')
    indoor.expect(config, 'sun3d', 'no sequence with a folder label40', 'ids 1..40')
