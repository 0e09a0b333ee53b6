"""RGB-D video of the user: any size, partial labels, windows of frames, splits and problems."""

import shutil

import indoor_layouts as indoor
import layouts
import numpy as np
import pytest
from PIL import Image

from segjax import data
from segjax.data import builders
from segjax.data.builders import clip_folders
from segjax.errors import InputError
from segjax.spec import IGNORE

CAMERA = [[32, 0, 16], [0, 32, 12], [0, 0, 1]]


@pytest.fixture
def clips(tmp_path):
    """Returns folder, config and content of a clip for training and a clip for evaluation."""
    root = tmp_path / 'mine'
    written, classes = layouts.write_rgbd_folder(root)
    config = indoor.rgbd_config('rgbd_folder', root, tmp_path / 'cache', interval=1, steps=2)
    config.classes = classes
    return root, config, written


def numbers_of(config, split='train'):
    return [int(name.rpartition('/')[2]) for name in indoor.examples_of(config, split)]


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


# --- frames ---------------------------------------------------------------------------------------


def test_frames_are_what_their_files_hold(clips):
    _, config, written = clips
    spec = data.prepare(config).spec
    assert spec.classes.names == ('wall', 'floor', 'box')
    features = ('image', 'label', 'depth', 'intrinsics', 'sequence', 'frame', 'name')
    assert spec.features == features and spec.max_size['train'] == layouts.SIZE
    for split, clip in (('train', 'kitchen'), ('val', 'hall')):
        for name, example in indoor.examples_of(config, split).items():
            image, units, label = written[f'{split}/{clip}', example['frame']]
            assert name == f'{clip}/{example["frame"]:05}' and example['sequence'] == clip
            np.testing.assert_array_equal(example['image'], image)
            np.testing.assert_allclose(example['depth'], units / 1000, rtol=1e-6)
            np.testing.assert_array_equal(example['intrinsics'], CAMERA)
            expected = np.full(layouts.SIZE, IGNORE) if label is None else label
            np.testing.assert_array_equal(example['label'], expected)


def test_a_frame_near_two_targets_is_stored_once(clips):
    _, config, _ = clips
    # The targets are 103 and 106 of 101 .. 107, and 3 of 0 .. 6.
    assert numbers_of(config) == [101, 102, 103, 104, 105, 106, 107]
    assert numbers_of(config, 'val') == [1, 2, 3, 4, 5]
    config.rgbd.update(interval=2, steps=1)
    assert numbers_of(config) == [101, 103, 104, 105, 106]
    assert data.prepare(config).spec.split('train').num_labelled == 2
    config.rgbd.steps = 0
    assert numbers_of(config) == [103, 106]


def test_a_clip_without_labels_has_every_frame_of_the_interval(clips):
    root, config, _ = clips
    remove(root / 'train/kitchen/label')
    config.rgbd.interval = 3
    assert numbers_of(config) == [101, 104, 107]
    (note,) = builders.load(config).notes()
    assert '1 of 2 clips have no labels: their frames are void' in note.message
    config.rgbd.steps = 0
    assert 'passed over' in builders.load(config).notes()[0].message


def test_depth_and_camera_are_optional(clips):
    root, config, _ = clips
    for clip in ('train/kitchen', 'val/hall'):
        remove(root / clip / 'depth')
    (root / 'intrinsics.txt').unlink()
    features = data.prepare(config).spec.features
    assert features == ('image', 'label', 'sequence', 'frame', 'name')


def test_a_declared_unit_of_depth_and_labels_in_colour(tmp_path):
    root = tmp_path / 'mine'
    names = '[{name: wall, color: [9, 0, 0]}, {name: box, color: [0, 9, 0]}]'
    written, classes = layouts.write_rgbd_folder(root, names=names)
    config = indoor.rgbd_config('rgbd_folder', root, tmp_path / 'cache', depth_scale=2000)
    config.update(classes=classes, rgbd=dict(interval=1))
    for path in root.rglob('label/*.png'):
        ids = np.array(Image.open(path))
        layouts.save(path, np.uint8([[9, 0, 0], [0, 9, 0]])[ids % 2])
    example = indoor.examples_of(config)['kitchen/00103']
    _, units, label = written['train/kitchen', 103]
    np.testing.assert_allclose(example['depth'], units / 2000, rtol=1e-6)
    np.testing.assert_array_equal(example['label'], label % 2)


# --- folders --------------------------------------------------------------------------------------


def test_folders_have_several_names_and_files_any_text_around_the_number(clips):
    root, config, _ = clips
    clip = root / 'train/kitchen'
    for old, new in (('image', 'RGB'), ('depth', 'Depths'), ('label', 'masks')):
        for path in (clip / old).iterdir():
            path.rename(path.with_name(f'cam2_{path.stem}_{new}.png'))
        (clip / old).rename(clip / new)
    assert numbers_of(config) == [101, 102, 103, 104, 105, 106, 107]


@pytest.mark.parametrize('moved', ['clips', 'clip'])
def test_without_folders_of_splits_every_clip_is_for_training(clips, moved):
    root, config, _ = clips
    config.rgbd.steps = 0
    shutil.move(root / 'train/kitchen', root / 'kitchen')
    shutil.move(root / 'val/hall', root / 'floor 1/hall')
    for split in ('train', 'val'):
        (root / split).rmdir()
    names = ['floor 1/hall/00003', 'kitchen/00103', 'kitchen/00106']
    if moved == 'clip':
        config.root = str(root / 'kitchen')
        names = names[1:]
        shutil.copy(root / 'intrinsics.txt', root / 'kitchen')
    assert list(indoor.examples_of(config)) == names
    (note,) = builders.load(config).notes()
    assert 'in split train' in note.message and str(root) in note.fix


def test_the_nearest_camera_counts(clips):
    root, config, _ = clips
    (root / 'train/kitchen/intrinsics.txt').write_text('20 0 15 0\n0 21 11 0\n0 0 1 0\n0 0 0 1\n')
    examples = indoor.examples_of(config) | indoor.examples_of(config, 'val')
    own = [[20, 0, 15], [0, 21, 11], [0, 0, 1]]
    np.testing.assert_array_equal(examples['kitchen/00103']['intrinsics'], own)
    np.testing.assert_array_equal(examples['hall/00003']['intrinsics'], CAMERA)


def test_the_choice_of_frames_and_the_class_file_change_the_records(clips):
    root, config, _ = clips
    folders = {data.prepare(config).folder}
    config.rgbd.steps = 1
    folders.add(data.prepare(config).folder)
    (root / 'classes.yaml').write_text('[wall, floor, table]')
    folders.add(data.prepare(config).folder)
    assert len(folders) == 3


# --- problems -------------------------------------------------------------------------------------


def test_sizes_of_the_fix_are_those_of_the_files(clips):
    root, config, _ = clips
    path = root / 'train/kitchen/depth/000102.png'
    layouts.save(path, np.full((12, 16), 1500, np.uint16))
    error = indoor.expect(config, path, '16x12 pixels', 'expected: 32x24 pixels')
    assert 'at 32x24' in error.fix and 'resize images and labels to 16x12' in error.fix


def test_another_unit_of_depth_is_named(clips):
    root, config, _ = clips
    for path in root.rglob('depth/*.png'):
        layouts.save(path, np.array(Image.open(path)) * 12)
    error = indoor.expect(config, root, '1000 units per metre')
    scale = error.fix.partition(' ')[0].partition('=')[2]
    assert error.fix.startswith('--config.data.rgbd.depth_scale=') and float(scale) > 1000
    config.rgbd.depth_scale = float(scale)
    data.prepare(config)


@pytest.mark.parametrize(
    ('damage', 'says', 'fix'),
    [
        (('remove', 'depth/000104.png'), 'no depth for 1 of 7', 'kitchen/depth'),
        (('remove', 'image/000104.png'), 'no frames 104', 'extract the missing'),
        (('remove', 'image/000103.png'), 'the label of frame 103', 'move the label'),
        (('rename', 'image/000101.png', 'image/a.png'), 'without a number', 'rename'),
        (('rename', 'image/000101.png', 'image/1_7.png'), 'its last number', 'rename'),
        (('copy', 'image/000101.png', 'image/101.png'), 'the number of', 'rename'),
        (('copy', 'image', 'color'), 'color and image', 'move'),
        (('rename', '.', '../../kitchen'), 'next to folders of splits', 'move'),
        (('copy', '.', '../../testset/kitchen'), 'may be a split', 'rename'),
        (('write', 'intrinsics.txt', '1 2'), 'no such matrix', 'fx, fy'),
        (('write', 'intrinsics.txt', '32 0 160 0 32 120 0 0 1'), 'principal point', 'resized'),
    ],
)
def test_problems_name_the_file_and_a_fix(clips, damage, says, fix):
    root, config, _ = clips
    clip = root / 'train/kitchen'
    how, place, *target = damage
    if how == 'remove':
        remove(clip / place)
    elif how == 'rename':
        (clip / place).resolve().rename((clip / target[0]).resolve())
    elif how == 'write':
        (clip / place).write_text(target[0])
    else:
        copy = shutil.copytree if (clip / place).is_dir() else shutil.copy
        copy(clip / place, clip / target[0])
    with pytest.raises(InputError) as error:
        data.prepare(config)
    assert says in str(error.value) and fix in error.value.fix
    assert str(root) in error.value.where


def test_a_clip_without_an_image_is_a_problem(clips):
    root, config, _ = clips
    remove(root / 'train/kitchen/image')
    (root / 'train/kitchen/image').mkdir()
    indoor.expect(config, root / 'train/kitchen/image', 'no image', 'put them into')


def test_an_interval_that_was_not_extracted_is_named(clips):
    root, config, _ = clips
    for number in (102, 104, 105, 107):
        for kind in ('image', 'depth'):
            (root / f'train/kitchen/{kind}/{number:06}.png').unlink()
    (root / 'train/kitchen/image/000101.png').unlink()
    error = indoor.expect(config, root / 'train/kitchen', 'no frames 104')
    assert error.fix.startswith('--config.data.rgbd.interval=3')
    config.rgbd.interval = 3
    assert numbers_of(config) == [103, 106]


def test_a_camera_of_some_clips_has_the_place_of_the_common_camera_as_fix(clips):
    root, config, _ = clips
    (root / 'intrinsics.txt').rename(root / 'train/kitchen/intrinsics.txt')
    shutil.copytree(root / 'val/hall', root / 'train/hall')
    error = indoor.expect(config, root, 'no intrinsics.txt for 5 of 12 frames')
    assert f'into {root}' in error.fix


def test_a_folder_without_clips_shows_the_layout(tmp_path):
    (tmp_path / 'mine/frames').mkdir(parents=True)
    (tmp_path / 'classes.yaml').write_text('[a, b]')
    config = indoor.rgbd_config('rgbd_folder', tmp_path / 'mine', tmp_path / 'cache')
    config.classes = str(tmp_path / 'classes.yaml')
    error = indoor.expect(config, tmp_path / 'mine', '{clip}/{image,depth,label}', 'but frames')
    assert 'train/first/image' in error.fix
    config.classes = ''
    assert 'classes.yaml' in indoor.expect(config, 'config.data.classes', 'rgbd_folder').fix


def test_numbers_are_the_last_in_a_name(tmp_path):
    paths = [tmp_path / name for name in ('cam2-007_left.png', 'cam2-010_left.jpg')]
    assert clip_folders.by_number(paths) == {7: paths[0], 10: paths[1]}
