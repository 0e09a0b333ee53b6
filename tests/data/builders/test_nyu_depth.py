"""NYUDv2: every layout read back, crop and camera, clips, and every problem of its files."""

import builtins
import os
import pathlib

import indoor_layouts as indoor
import layouts
import numpy as np
import pytest
import scipy.io

from segjax import data
from segjax.data import builders, labels
from segjax.data.builders import nyu_frames, rgbd
from segjax.modes import doctor
from segjax.modes.doctor import reading
from segjax.protocol import DrawnFrames, Input
from segjax.spec import IGNORE

CROP = (slice(45, 470), slice(40, 600))
REAL = pathlib.Path(os.environ.get('SEGJAX_REAL_DATA', '/no/data'))


def problems_of(config, split='train'):
    """Returns the problems of a split and of its examples."""
    dataset = builders.load(config)
    items, problems = dataset.scan(split)
    return [*problems, *(p for item in items for p in dataset.inspect(item).problems)]


@pytest.fixture
def small(monkeypatch):
    """Makes cropped frames small, where their size does not matter."""
    monkeypatch.setattr(nyu_frames, 'SIZE', (40, 60))


# --- classes --------------------------------------------------------------------------------------


def test_the_894_classes_become_40():
    table = labels.NYU_FINE_TO_40
    # 37 classes have a name of their own, and 707 are otherprop.
    counts = np.bincount(table[1:], minlength=41)
    assert counts[0] == 0 and (counts[1:38] == 1).all()
    assert counts[38:].tolist() == [68, 82, 707] and table[0] == 0
    # wall, floor, bed, bag, television, a structure, a piece of furniture, the last of the props
    known = {21: 1, 11: 2, 157: 4, 55: 37, 172: 25, 874: 38, 892: 39, 894: 40}
    assert {fine: int(table[fine]) for fine in known} == known


# --- stills ---------------------------------------------------------------------------------------


def test_stills_are_cropped_with_their_camera(tmp_path):
    written = indoor.write_stills(tmp_path / 'nyu/train', ['0001', '0002'])
    written |= indoor.write_stills(tmp_path / 'nyu/test', ['0003'])
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'cache', depth_scale=1000)
    spec = data.prepare(config).spec
    assert spec.num_examples == {'train': 2, 'test': 1}
    assert spec.max_size == {'train': (425, 560), 'test': (425, 560)}
    assert spec.features == ('image', 'label', 'depth', 'intrinsics', 'name')
    assert spec.classes == labels.NYU40 and set(spec.class_maps) == {'13', '4'}
    for split in ('train', 'test'):
        for name, example in indoor.examples_of(config, split).items():
            image, units, label = written[name]
            np.testing.assert_array_equal(example['image'], image[CROP])
            expected = np.where(label == 0, IGNORE, label - 1)[CROP]
            np.testing.assert_array_equal(example['label'], expected)
            np.testing.assert_allclose(example['depth'], units[CROP] / 1000, rtol=1e-6)
            assert example['depth'].dtype == np.float32
            # The toolbox has cx = 325.58 and cy = 253.74, counted from 1, of whole frames.
            matrix = [[518.8579, 0, 284.5824], [0, 519.4696, 207.7362], [0, 0, 1]]
            np.testing.assert_allclose(example['intrinsics'], matrix, rtol=1e-6)


def test_the_camera_of_the_crop_sees_the_same_rays():
    x, y, z = 0.3, -0.2, 2.0
    fx, fy, cx, cy = nyu_frames.CAMERA
    whole = np.array([fx * x / z + cx, fy * y / z + cy])
    projected = nyu_frames.camera_matrix() @ [x, y, z]
    np.testing.assert_allclose(projected[:2] / z, whole - [40, 45], rtol=1e-5)


def test_frames_of_the_size_of_the_crop_stay_as_they_are(tmp_path):
    folder = tmp_path / 'nyu/train'
    written = indoor.write_stills(folder, ['7'], kind='4', size=nyu_frames.SIZE)
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'cache', depth_scale=1000)
    spec = data.prepare(config).spec
    assert spec.classes == labels.NYU4.classes and spec.class_maps == {}
    image, _, label = written['7']
    example = indoor.examples_of(config)['7']
    np.testing.assert_array_equal(example['image'], image)
    np.testing.assert_array_equal(example['label'], np.where(label == 0, IGNORE, label - 1))
    np.testing.assert_array_equal(example['intrinsics'], nyu_frames.camera_matrix())


def test_labels_of_894_classes_are_read_as_40_and_those_of_40_are_preferred(tmp_path):
    root = tmp_path / 'nyu'
    fine = indoor.write_stills(root / 'train', ['1'], '894', folders=('rgb', 'depth'))['1'][2]
    config = indoor.rgbd_config('nyu_depth', root, tmp_path / 'cache', depth_scale=1000)
    assert data.prepare(config).spec.classes == labels.NYU40
    expected = labels.NYU_FINE_TO_40[fine]
    found = indoor.examples_of(config)['1']['label']
    np.testing.assert_array_equal(found, np.where(expected == 0, IGNORE, expected - 1)[CROP])

    # Labels of 40 classes are read as soon as they exist.
    layouts.save(root / 'train/labels_40/1.png', np.full(indoor.NYU_SIZE, 4, np.uint8))
    assert (indoor.examples_of(config)['1']['label'] == 3).all()
    notes = builders.load(config).notes_of_folders()
    assert any('labels of 40 classes are read, not of 894' in note.message for note in notes)


@pytest.mark.parametrize(('name', 'count'), [('13', 13), ('4', 4)])
def test_class_maps_merge_the_40_classes(tmp_path, name, count):
    written = indoor.write_stills(tmp_path / 'nyu/train', ['1'])
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'cache', depth_scale=1000)
    config.class_map = name
    spec = data.prepare(config).spec
    assert spec.classes.num_classes == count
    table = nyu_frames.CLASS_MAPS[name].train_ids
    label = written['1'][2][CROP]
    pixels = [sum((label == i + 1).sum() for i in range(40) if table[i] == c) for c in range(count)]
    assert spec.class_pixels['train'] == tuple(pixels)


def test_stills_without_images_and_without_some_labels(tmp_path):
    written = indoor.write_stills(tmp_path / 'nyu', ['000001', '000002'], kind='13')
    for folder in ('image', 'label13'):
        (tmp_path / f'nyu/{folder}/000002.png').unlink()
    (tmp_path / 'nyu/image/000001.png').unlink()
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'cache', depth_scale=1000)
    examples = indoor.examples_of(config)
    assert data.prepare(config).spec.features == ('label', 'depth', 'intrinsics', 'name')
    assert data.prepare(config).spec.num_unlabelled == {'train': 1}
    assert (examples['000002']['label'] == IGNORE).all()
    np.testing.assert_allclose(examples['000001']['depth'], written['000001'][1][CROP] / 1000)
    notes = builders.load(config).notes_of_folders()
    assert [note.message for note in notes] == [
        '1 of 2 frames have no label: they are void',
        'no folders or lists of splits: every frame is in split train',
    ]


@pytest.mark.usefixtures('small')
def test_lists_divide_stills(tmp_path):
    indoor.write_stills(tmp_path / 'nyu', ['0001', '0002', '0003'], size=nyu_frames.SIZE)
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'cache', depth_scale=1000)
    splits = {'trainNdxs': np.array([[1], [3]]), 'testNdxs': np.array([[2]])}
    scipy.io.savemat(tmp_path / 'nyu/splits.mat', splits)
    assert list(indoor.examples_of(config)) == ['0001', '0003']
    assert list(indoor.examples_of(config, 'test')) == ['0002']

    # Lists of the user win over the official numbers.
    (tmp_path / 'nyu/train.txt').write_text('0002\n')
    (tmp_path / 'nyu/val.txt').write_text('1\n')
    assert builders.load(config).splits() == ('train', 'val')
    assert list(indoor.examples_of(config)) == ['0002']
    assert list(indoor.examples_of(config, 'val')) == ['0001']

    (tmp_path / 'nyu/val.txt').write_text('2\n9\n')
    indoor.expect(config, 'val.txt', '2, which is also in', "'train'")
    (tmp_path / 'nyu/val.txt').write_text('1\n9\n')
    indoor.expect(config, 'val.txt', '1 of 2 names without files, as 9')


# --- video ----------------------------------------------------------------------------------------


def test_each_target_has_its_own_clip(tmp_path):
    written = indoor.write_video(tmp_path / 'nyu/kitchen_0001', range(10, 31), [16, 22])
    keys = dict(depth_scale=6553.5, interval=3, steps=3)
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'cache', **keys)
    spec = data.prepare(config).spec
    assert spec.features == (
        'image',
        'label',
        'depth',
        'intrinsics',
        'sequence',
        'frame',
        'name',
    )
    assert spec.classes == labels.NYU13.classes
    examples = indoor.examples_of(config)
    # Frame 10 is the first. Frame 7 and frame 31 do not exist.
    frames = [(16, n) for n in (10, 13, 16, 19, 22, 25)]
    frames += [(22, n) for n in (13, 16, 19, 22, 25, 28)]
    assert list(examples) == [f'kitchen_0001/{t:05}/{n:05}' for t, n in frames]
    for (target, number), example in zip(frames, examples.values(), strict=True):
        image, units, label = written[number]
        assert (example['sequence'], example['frame']) == (f'kitchen_0001/{target:05}', number)
        np.testing.assert_array_equal(example['image'], image)
        np.testing.assert_allclose(example['depth'], units / 6553.5, rtol=1e-6)
        # Frame 16 is labelled, but in the clip of frame 22 it is not the target.
        is_target = number == target
        expected = np.where(label == 0, IGNORE, label - 1) if is_target else IGNORE
        np.testing.assert_array_equal(example['label'], np.broadcast_to(expected, units.shape))
    assert spec.num_unlabelled == {'train': 10}


@pytest.mark.usefixtures('small')
def test_targets_are_read_with_frames_of_their_clip(tmp_path):
    written = indoor.write_video(tmp_path / 'nyu/a', range(10, 31), [16, 22])
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'c', depth_scale=6553.5)
    config.rgbd.steps = 2
    features = ('frame', 'label', 'image_frames', 'frame_frames', 'sequence_frames')
    drawn = DrawnFrames(5, (-6, -3, 0, 3, 6))
    inputs = Input('train', 1, features, nyu_frames.SIZE, examples='labelled', frames=drawn)
    source = data.prepare(config).open_input(inputs)
    assert [source[i]['frame'] for i in range(len(source))] == [16, 22]
    for i, target in enumerate((16, 22)):
        example = source[i]
        numbers = [target + offset for offset in drawn.offsets]
        assert example['frame_frames'].tolist() == numbers
        assert set(example['sequence_frames']) == {f'a/{target:05}'}
        images = np.stack([written[number][0] for number in numbers])
        np.testing.assert_array_equal(example['image_frames'], images)


@pytest.mark.usefixtures('small')
def test_frames_that_two_clips_share_are_no_duplicates(tmp_path):
    indoor.write_video(tmp_path / 'nyu/a', range(1, 8), [3, 5])
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'c', depth_scale=6553.5)
    config.rgbd.interval = 1
    splits, findings = doctor.read_splits(builders.load(config), ('train',))
    assert findings == [] and len(splits['train'].items) == 14
    assert reading.duplicates(splits) == []
    # A copy of a frame is a duplicate.
    frame = tmp_path / 'nyu/a/image/00001.png'
    (tmp_path / 'nyu/a/image/00002.png').write_bytes(frame.read_bytes())
    splits, _ = doctor.read_splits(builders.load(config), ('train',))
    assert [finding.where for finding in reading.duplicates(splits)] == [str(frame)]


@pytest.mark.usefixtures('small')
def test_lists_divide_video_by_scene_and_by_target(tmp_path):
    root = tmp_path / 'nyu'
    for scene, targets in (('a_0001', [3]), ('b_0001', [1, 3])):
        indoor.write_video(root / scene, range(1, 4), targets)
    (root / 'train.txt').write_text('a_0001\nb_0001/1\n')
    (root / 'test.txt').write_text('b_0001/00003\n')
    config = indoor.rgbd_config('nyu_depth', root, tmp_path / 'c', depth_scale=6553.5, steps=0)
    assert list(indoor.examples_of(config)) == ['a_0001/00003/00003', 'b_0001/00001/00001']
    assert list(indoor.examples_of(config, 'test')) == ['b_0001/00003/00003']


@pytest.mark.usefixtures('small')
def test_scenes_in_folders_of_splits(tmp_path):
    indoor.write_video(tmp_path / 'nyu/train/a_0001', [1], [1])
    indoor.write_video(tmp_path / 'nyu/test/b_0001', [1], [1])
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'c', depth_scale=6553.5)
    assert list(indoor.examples_of(config)) == ['a_0001/00001/00001']
    assert list(indoor.examples_of(config, 'test')) == ['b_0001/00001/00001']
    indoor.write_video(tmp_path / 'nyu/c_0001', [1], [1])
    indoor.expect(config, 'c_0001', 'next to folders of splits')


# --- the official file ----------------------------------------------------------------------------


@pytest.fixture
def matlab(tmp_path):
    """Returns the config of a small copy of the official file, and its arrays."""
    h5py = pytest.importorskip('h5py')
    rng = np.random.default_rng(4)
    root = tmp_path / 'nyu'
    root.mkdir()
    arrays = {
        'images': np.stack([indoor.photo(rng, indoor.NYU_SIZE) for _ in range(3)]),
        'depths': np.stack([indoor.metres(rng, indoor.NYU_SIZE) for _ in range(3)]),
        'labels': rng.integers(0, 895, (3, *indoor.NYU_SIZE)).astype(np.uint16),
    }
    # MATLAB stores [H, W, 3, N] in the order of Fortran.
    with h5py.File(root / nyu_frames.LABELLED, 'w') as file:
        file['images'] = arrays['images'].transpose(0, 3, 2, 1)
        file['depths'] = arrays['depths'].astype(np.float32).transpose(0, 2, 1)
        file['labels'] = arrays['labels'].transpose(0, 2, 1)
    splits = {'trainNdxs': np.array([[3], [1]]), 'testNdxs': np.array([[2]])}
    scipy.io.savemat(root / 'splits.mat', splits)
    return indoor.rgbd_config('nyu_depth', root, tmp_path / 'cache'), arrays


def test_the_official_file(matlab):
    config, arrays = matlab
    spec = data.prepare(config).spec
    assert spec.num_examples == {'train': 2, 'test': 1} and spec.classes == labels.NYU40
    assert set(spec.class_maps) == {'13', '4'}
    for split, names in (('train', ['0001', '0003']), ('test', ['0002'])):
        examples = indoor.examples_of(config, split)
        assert list(examples) == names
        for name, example in examples.items():
            number = int(name) - 1
            np.testing.assert_array_equal(example['image'], arrays['images'][number][CROP])
            depth = arrays['depths'][number][CROP].astype(np.float32)
            np.testing.assert_array_equal(example['depth'], depth)
            ids = labels.NYU_FINE_TO_40[arrays['labels'][number][CROP]]
            np.testing.assert_array_equal(example['label'], np.where(ids == 0, IGNORE, ids - 1))


def write_targets(root, scenes, frames):
    (root / 'nyud2_folder.txt').write_text('\n'.join(scenes) + '\n')
    (root / 'nyud2_target.txt').write_text('\n'.join(map(str, frames)) + '\n')


def test_labels_of_the_official_file_join_the_video(matlab):
    config, arrays = matlab
    root = pathlib.Path(config.root)
    write_targets(root, ['bath_0001', 'cafe_0001a', 'bath_0001'], [4, 1, 7])
    written = indoor.write_video(root / 'bath_0001', range(1, 9), [], 1000, indoor.NYU_SIZE)
    indoor.write_video(root / 'cafe_0001a', [1], [], 1000, indoor.NYU_SIZE)
    indoor.expect(config, 'config.data.rgbd.depth_scale', '1000 units per metre')
    config.rgbd.update(depth_scale=1000.0, interval=2, steps=1)
    assert data.prepare(config).spec.num_unlabelled == {'train': 3}
    examples = indoor.examples_of(config)
    frames = [(4, 2), (4, 4), (4, 6), (7, 5), (7, 7)]
    assert list(examples) == [f'bath_0001/{t:05}/{n:05}' for t, n in frames]
    for (target, number), example in zip(frames, examples.values(), strict=True):
        np.testing.assert_array_equal(example['image'], written[number][0][CROP])
        ids = labels.NYU_FINE_TO_40[arrays['labels'][{4: 0, 7: 2}[target]][CROP]]
        expected = np.where(ids == 0, IGNORE, ids - 1) if number == target else IGNORE
        np.testing.assert_array_equal(example['label'], np.broadcast_to(expected, ids.shape))
    assert list(indoor.examples_of(config, 'test')) == ['cafe_0001a/00001/00001']

    # Every problem of the lists and of the folders.
    write_targets(root, ['bath_0001', 'cafe_0001a', 'attic_0001'], [40, 1, 7])
    texts = [str(problem) for problem in problems_of(config)]
    assert 'the label of frame 40' in texts[0] and 'frames 1 to 8' in texts[0]
    assert 'attic_0001' in texts[1] and 'no frames of this scene' in texts[1]
    assert len(texts) == 2
    write_targets(root, ['bath_0001'], [4])
    indoor.expect(config, 'nyud2_folder.txt', '1 labelled frames, and not frame 3')
    write_targets(root, ['bath_0001', 'bath_0001'], [4])
    indoor.expect(config, 'nyud2_target.txt', '1 lines', '2 lines')


@pytest.mark.usefixtures('small')
def test_official_splits_of_labelled_video(tmp_path):
    root = tmp_path / 'nyu'
    indoor.write_video(root / 'a_0001', range(1, 4), [1, 3])
    scipy.io.savemat(
        root / 'splits.mat', {'trainNdxs': np.array([[2]]), 'testNdxs': np.array([[1]])}
    )
    write_targets(root, ['a_0001', 'a_0001'], [1, 3])
    config = indoor.rgbd_config('nyu_depth', root, tmp_path / 'c', depth_scale=6553.5, steps=0)
    assert list(indoor.examples_of(config)) == ['a_0001/00003/00003']
    assert list(indoor.examples_of(config, 'test')) == ['a_0001/00001/00001']


def test_problems_of_the_official_file(matlab):
    h5py = pytest.importorskip('h5py')
    config, _ = matlab
    path = pathlib.Path(config.root) / nyu_frames.LABELLED
    with h5py.File(path, 'r+') as file:
        file['labels'][0, 0, 0] = 895
        file['depths'][2] = 0
    texts = [str(problem) for problem in problems_of(config)]
    assert len(texts) == 2
    assert 'frame 0001' in texts[0] and 'label ids up to 895' in texts[0]
    assert 'frame 0003' in texts[1] and '0 everywhere' in texts[1]

    splits = path.with_name('splits.mat')
    scipy.io.savemat(splits, {'trainNdxs': np.array([[4]]), 'testNdxs': np.array([[2]])})
    indoor.expect(config, splits, "frame 4 in split 'train'", 'numbers 1 to 3')
    scipy.io.savemat(splits, {'trainNdxs': np.array([[1]])})
    indoor.expect(config, splits, 'testNdxs')
    splits.unlink()
    indoor.expect(config, splits, 'no such file', 'indoor_seg_sup')
    truncated = path.read_bytes()[:1000]
    path.unlink()  # HDF5 would find the open file
    path.write_bytes(truncated)
    indoor.expect(config, path, 'copy or download the file again')


def test_the_official_file_needs_h5py(tmp_path, monkeypatch):
    (tmp_path / nyu_frames.LABELLED).write_bytes(b'a file')
    imported = builtins.__import__

    def without(name, *arguments, **keys):
        if name == 'h5py':
            raise ImportError(name)
        return imported(name, *arguments, **keys)

    monkeypatch.setattr(builtins, '__import__', without)
    config = indoor.rgbd_config('nyu_depth', tmp_path, tmp_path / 'cache')
    error = indoor.expect(config, nyu_frames.LABELLED, 'no package h5py')
    assert error.fix == 'pip install h5py'


# --- wrong input ----------------------------------------------------------------------------------


@pytest.fixture
def stills(tmp_path):
    """Returns the folder and the config of three cropped stills in millimetres."""
    root = tmp_path / 'nyu'
    indoor.write_stills(root, ['1', '2', '3'], size=nyu_frames.SIZE)
    config = indoor.rgbd_config('nyu_depth', root, tmp_path / 'cache', depth_scale=1000)
    return root, config


def test_all_problems_of_files_at_once(stills):
    root, config = stills
    depth = np.full(nyu_frames.SIZE, 2000, np.uint16)
    layouts.save(root / 'depth/1.png', depth[:-1])
    layouts.save(root / 'depth/2.png', depth * 0)
    layouts.save(root / 'depth/3.png', depth.astype(np.uint8))
    layouts.save(root / 'label40/3.png', np.full(nyu_frames.SIZE, 41, np.uint8))
    layouts.save(root / 'label40/4.png', np.full(nyu_frames.SIZE, 4, np.uint8))
    says = {
        'depth/1.png': ('560x424 pixels', '560x425 pixels, the size of', 'image/1.png'),
        'depth/2.png': ('0 everywhere',),
        'depth/3.png': ('8 bits per pixel', '16-bit grey PNG'),
        'label40/3.png': ('label ids 41 (238000 pixels)', 'ids 0..40'),
        'label40/4.png': ('a label without an image',),
    }
    problems = {problem.where.removeprefix(f'{root}/'): problem for problem in problems_of(config)}
    assert problems.keys() == says.keys()
    for where, texts in says.items():
        assert all(text in str(problems[where]) for text in texts), problems[where]


def test_frames_of_another_size_are_refused(tmp_path):
    indoor.write_stills(tmp_path / 'nyu', ['1'], size=(240, 320))
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'c', depth_scale=1000)
    indoor.expect(config, 'image/1.png', '320x240 pixels', '640x480 pixels, or 560x425')


@pytest.mark.parametrize(
    ('true', 'declared'), [(1000, 0.0), (6553.5, 0.0), (6553.5, 1000.0), (1000, 1.0)]
)
def test_a_wrong_or_undeclared_unit_is_named(tmp_path, true, declared):
    indoor.write_video(tmp_path / 'nyu/a', [1], [1], scale=true)
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'c', depth_scale=declared)
    where = 'depth/00001.png' if declared else 'config.data.rgbd.depth_scale'
    error = indoor.expect(config, where, f'{true:g} units per metre')
    assert error.fix == f'--config.data.rgbd.depth_scale={true:g}'
    config.rgbd.depth_scale = float(error.fix.rpartition('=')[2])
    data.prepare(config)


def test_units_of_rooms():
    rooms = np.array([0, 1.2, 2.5, 2.6, 4.0])
    for scale in (1000, 6553.5):
        assert rgbd.likely_scale(rooms * scale) == scale
    assert rgbd.likely_scale(rooms * 0) is None
    assert rgbd.likely_scale(rooms * 1e6) is None


@pytest.mark.usefixtures('small')
def test_missing_frames_and_targets_outside_of_the_video(tmp_path):
    folder = tmp_path / 'nyu/a'
    indoor.write_video(folder, [n for n in range(1, 20) if n != 13], [10])
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'c', depth_scale=6553.5)
    error = indoor.expect(config, folder, 'no frames 13, around the labelled frame 10', '10 + 3 k')
    assert error.fix == 'extract the missing frames'

    # Frame 13 is no frame of the clip if the interval is 2.
    config.rgbd.interval = 2
    data.prepare(config)
    (folder / 'label13/00010.png').rename(folder / 'label13/00025.png')
    indoor.expect(config, 'label13/00025.png', 'the label of frame 25', 'frames 1 to 19')
    (folder / 'label13/00025.png').rename(folder / 'label13/00010.png')
    (folder / 'depth/00010.png').unlink()
    indoor.expect(config, 'image/00010.png', 'no depth file for 1 of 9')
    (folder / 'image/00010.png').rename(folder / 'image/last.png')
    indoor.expect(config, 'image/last.png', 'the number of the frame')


@pytest.mark.usefixtures('small')
def test_frames_that_were_extracted_at_another_interval(tmp_path):
    indoor.write_video(tmp_path / 'nyu/a', range(0, 30, 5), [10])
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'c', depth_scale=6553.5)
    error = indoor.expect(config, 'nyu/a', 'no frames 1, 4, 7, 13, 16 and 2 more')
    assert error.fix.startswith('--config.data.rgbd.interval=5,')
    config.rgbd.interval = 5
    assert len(indoor.examples_of(config)) == 6


def test_a_folder_of_another_layout(tmp_path):
    (tmp_path / 'nyu/pictures').mkdir(parents=True)
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'cache')
    indoor.expect(config, 'nyu', 'pictures', nyu_frames.LABELLED, 'label40')
    indoor.write_stills(tmp_path / 'nyu/train', ['1'], kind='13', size=nyu_frames.SIZE)
    indoor.write_stills(tmp_path / 'nyu/test', ['2'], kind='4', size=nyu_frames.SIZE)
    indoor.expect(config, 'nyu', 'labels of 13 and 4 classes')


@pytest.mark.usefixtures('small')
def test_other_options_are_other_records(tmp_path):
    indoor.write_video(tmp_path / 'nyu/a', range(1, 8), [4])
    keys = dict(depth_scale=6553.5, steps=1)
    config = indoor.rgbd_config('nyu_depth', tmp_path / 'nyu', tmp_path / 'cache', **keys)
    folders = {data.prepare(config).folder}
    for key, value in (('interval', 1), ('steps', 2), ('depth_scale', 6000.0)):
        config.rgbd[key] = value
        folders.add(data.prepare(config).folder)
    assert len(folders) == 4


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.skipif(not (REAL / 'nyu_clip').is_dir(), reason='no $SEGJAX_REAL_DATA')
def test_a_real_clip(tmp_path):
    keys = dict(depth_scale=6553.5, steps=3)
    config = indoor.rgbd_config('nyu_depth', REAL / 'nyu_clip', tmp_path / 'cache', **keys)
    spec = data.prepare(config).spec
    assert spec.num_examples == {'train': 7} and spec.num_unlabelled == {'train': 6}
    examples = indoor.examples_of(config)
    assert [e['frame'] for e in examples.values()] == [2080 + 3 * k for k in range(-3, 4)]
    assert {e['sequence'] for e in examples.values()} == {'dining_room_0036/02080'}
    target = examples['dining_room_0036/02080/02080']
    names = {spec.classes.names[i] for i in np.unique(target['label']) if i != IGNORE}
    assert names == {'chair', 'floor', 'objects', 'picture', 'table', 'wall', 'window'}

    # The floor lies below the camera, and is level: its height varies less than its distance.
    y, x = np.nonzero(target['label'] == spec.classes.names.index('floor'))
    z = target['depth'][y, x]
    height = (y - target['intrinsics'][1, 2]) * z / target['intrinsics'][1, 1]
    assert 0.5 < np.median(height) < 2 and 1 < np.median(z) < 5


@pytest.mark.skipif(not (REAL / 'nyu_stills').is_dir(), reason='no $SEGJAX_REAL_DATA')
def test_real_stills(tmp_path):
    root = REAL / 'nyu_stills'
    config = indoor.rgbd_config('nyu_depth', root, tmp_path / 'cache', depth_scale=1000.0)
    spec = data.prepare(config).spec
    assert spec.num_examples == {'train': 18} and spec.num_unlabelled == {'train': 10}
    assert spec.features == ('label', 'depth', 'intrinsics', 'name')
    assert builders.load(config).notes_of_folders()[0].message.startswith('10 of 18 frames')
