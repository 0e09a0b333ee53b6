"""Apolloscape: the frames of clips and splits, the crop of maps and cameras, and wrong files."""

import re

import cv2
import layouts
import numpy as np
import pytest

from segjax import config as config_lib
from segjax import data
from segjax.data import builders, labels
from segjax.data.builders import apolloscape
from segjax.errors import InputError
from segjax.modes import doctor
from segjax.spec import IGNORE

ROADS = {'road01_ins': {'Record001': 2, 'Record010': 1}, 'road02_ins': {'Record003': 5}}

# Class id and train id in scene_parsing/README.md of dataset-api. Names of groups end with _group.
OFFICIAL = """
others 0 255, rover 1 255, sky 17 0, car 33 1, car_groups 161 1, motorbicycle 34 2,
motorbicycle_group 162 2, bicycle 35 3, bicycle_group 163 3, person 36 4, person_group 164 4,
rider 37 5, rider_group 165 5, truck 38 6, truck_group 166 6, bus 39 7, bus_group 167 7,
tricycle 40 8, tricycle_group 168 8, road 49 9, siderwalk 50 10, traffic_cone 65 11,
road_pile 66 12, fence 67 13, traffic_light 81 14, pole 82 15, traffic_sign 83 16, wall 84 17,
dustbin 85 18, billboard 86 19, building 97 20, bridge 98 255, tunnel 99 255, overpass 100 255,
vegatation 113 21, unlabeled 255 255
"""
TABLE = {
    int(number): (name, int(train))
    for name, number, train in re.findall(r'(\w+) (\d+) (\d+)', OFFICIAL)
}
TRAIN_IDS = np.array([TABLE[number][1] if number in TABLE else IGNORE for number in range(256)])


def config_of(root, name='apolloscape'):
    return layouts.data_config(name, root, root.parent / 'cache')


@pytest.fixture
def written(tmp_path):
    """Returns (config, root, frames) of a small copy with every kind of file."""
    root = tmp_path / 'apollo'
    frames = layouts.write_apolloscape(root, ROADS)
    return config_of(root), root, frames


def nearest(map_, top, rows):
    """Returns the label `map_` in the crop at 256x832, by the formula of pixel centres."""
    v = ((np.arange(256) + 0.5) * rows / 256 - 0.5 + top + 0.501).astype(int)
    u = ((np.arange(832) + 0.5) * map_.shape[1] / 832 - 0.5 + 0.501).astype(int)
    return map_[v[:, None], u]


# --- classes --------------------------------------------------------------------------------------


def test_every_id_has_the_official_train_id():
    assert len(TABLE) == 36
    np.testing.assert_array_equal(labels.APOLLOSCAPE_IDS.train_ids, TRAIN_IDS)
    np.testing.assert_array_equal(np.flatnonzero(labels.APOLLOSCAPE_IDS.known), sorted(TABLE))


def test_classes_are_the_official_ones_in_the_order_of_train_ids():
    single = {
        train: (name, number)
        for number, (name, train) in TABLE.items()
        if number < 161 and train != 255
    }
    classes = labels.APOLLOSCAPE
    assert list(zip(classes.names, classes.ids, strict=True)) == [
        single[train] for train in range(22)
    ]
    assert len(set(classes.palette)) == 22


# --- camera and crop ------------------------------------------------------------------------------


def test_intrinsics_of_full_images():
    k = apolloscape.crop_matrix((2710, 3384)) @ apolloscape.camera_matrix(5, (2710, 3384))
    # 3384 -> 832 columns scales by s = 0.2458629. Pixel centres at whole numbers also move by
    # (s - 1) / 2. Rows would scale by s if 1041.23 rows were kept.
    s, stretch = 832 / 3384, 256 / 1041 / (832 / 3384)
    np.testing.assert_allclose(k[0], [566.603, 0, 414.583 + (s - 1) / 2], atol=1e-3)
    cy = (333.140 - s * apolloscape.TOP) * stretch + (s * stretch - 1) / 2
    np.testing.assert_allclose(k[1], [0, 566.929 * stretch, cy], atol=1e-3)
    np.testing.assert_array_equal(k[2], [0, 0, 1])
    assert abs(stretch - 1) < 3e-4


@pytest.mark.parametrize(
    ('camera', 'size'), [(5, (2710, 3384)), (6, (1355, 1692)), (6, layouts.APOLLOSCAPE_SIZE)]
)
def test_a_point_is_seen_where_its_pixel_went(camera, size):
    fx, fy, cx, cy = apolloscape.CAMERAS[camera]
    x, y, z = 1.5, 0.75, 9.0
    u, v = fx * x / z + cx, fy * y / z + cy  # in the full image
    top, rows = round(size[0] * 1350 / 2710), round(size[0] * 1041 / 2710)
    u = (u + 0.5) * 832 / 3384 - 0.5
    v = ((v + 0.5) * size[0] / 2710 - top) * 256 / rows - 0.5
    k = apolloscape.crop_matrix(size) @ apolloscape.camera_matrix(camera, size)
    np.testing.assert_allclose(k @ (x / z, y / z, 1), [u, v, 1], rtol=1e-12)


def test_images_are_averaged_and_labels_are_not():
    rng = np.random.default_rng(0)
    size = (1333, 1664)  # twice the records' width; 512 rows are kept, twice their height
    maps = {
        'image': rng.integers(0, 256, (*size, 3)).astype(np.uint8),
        'label': rng.integers(0, 22, size).astype(np.uint8),
        'instance': rng.integers(0, 65536, size).astype(np.uint16),
        'depth': rng.random(size).astype(np.float32),
    }
    top, rows = apolloscape.kept_rows(size)
    assert (top, rows) == (664, 512)
    got = apolloscape.cropped(maps, 5)
    mean = maps['image'][top : top + rows].reshape(256, 2, 832, 2, 3).mean((1, 3))
    assert np.abs(got['image'] - mean).max() <= 0.5
    for key in ('label', 'instance', 'depth'):
        # Of four equally near pixels, the larger coordinates count (transforms.TIE).
        np.testing.assert_array_equal(got[key], maps[key][top + 1 : top + rows : 2, 1::2])
    assert got['intrinsics'].dtype == np.float32


# --- files ----------------------------------------------------------------------------------------


def test_records(written):
    config, root, frames = written
    prepared = data.prepare(config)
    spec = prepared.spec
    maps = ('image', 'label', 'instance', 'depth', 'intrinsics', 'pose')
    assert spec.features == (*maps, 'sequence', 'frame', 'name')
    assert spec.num_examples == {'train': 2 + 4, 'val': 1 + 1}
    assert spec.max_size == {'train': (256, 832), 'val': (256, 832)}
    source = prepared.open_split('train+val', spec.features)
    clips = (
        [('road01_ins', 'Record001'), ('road02_ins', 'Record003')],
        [('road01_ins', 'Record010')],
    )
    expected = [(*clips[0][0], 0), (*clips[0][0], 1), *((*clips[0][1], i) for i in range(4))]
    expected += [(*clips[1][0], 0), (*clips[0][1], 4)]
    counts = np.zeros(256, int)
    k = apolloscape.crop_matrix(layouts.APOLLOSCAPE_SIZE) @ apolloscape.camera_matrix(
        5, layouts.APOLLOSCAPE_SIZE
    )
    for example, (road, record, number) in zip(
        (source[i] for i in range(len(source))), expected, strict=True
    ):
        name, label, instance, depth, pose = frames[road, record, 5][number]
        assert example['name'] == f'{road}/{record}/{name}'
        assert (example['sequence'], example['frame']) == (f'{road}/{record}/Camera_5', number)
        photo = cv2.imread(str(root / road / 'ColorImage' / record / 'Camera 5' / f'{name}.jpg'))[
            104:184, :, ::-1
        ]
        np.testing.assert_array_equal(example['image'], cv2.resize(photo, (832, 256)))
        train_ids = nearest(TRAIN_IDS[label], 104, 80)
        np.testing.assert_array_equal(example['label'], train_ids)
        np.testing.assert_array_equal(
            example['instance'], nearest(np.where(instance < 1000, 0, instance), 104, 80)
        )
        metres = nearest(np.where(depth == 65535, 0, depth / 200), 104, 80)
        moves = (train_ids >= 1) & (train_ids <= 8)
        assert moves.any() and not moves.all()
        np.testing.assert_allclose(example['depth'], np.where(moves, 0, metres), rtol=1e-6)
        np.testing.assert_allclose(example['intrinsics'], k, rtol=1e-6)
        np.testing.assert_allclose(example['pose'][:3, :3], pose[:3, :3], atol=1e-6)
        np.testing.assert_allclose(example['pose'][:, 3], [number, 0, 0, 1], atol=1e-6)
        counts += np.bincount(train_ids.ravel(), minlength=256)
    seen = np.add(spec.class_pixels['train'], spec.class_pixels['val'])
    np.testing.assert_array_equal(seen, counts[:22])
    assert sum(spec.void_pixels.values()) == counts[255]


def scanned(config, split):
    """Returns the (sequence, frame) of a split's items."""
    return [(item.sequence, item.frame) for item in builders.load(config).listing(split)]


def test_both_cameras_are_clips_of_their_own(written):
    config, _, _ = written
    config.name = 'apolloscape_stereo'
    five, six = (
        [(f'road01_ins/Record001/Camera_{camera}', i) for i in range(2)] for camera in (5, 6)
    )
    assert scanned(config, 'train')[:4] == five + six
    assert [sequence for sequence, _ in scanned(config, 'val')[:2]] == [
        'road01_ins/Record010/Camera_5',
        'road01_ins/Record010/Camera_6',
    ]


def test_cameras_have_their_own_intrinsics(written):
    config, _, _ = written
    config.name = 'apolloscape_stereo'
    dataset = builders.load(config)
    last = dataset.listing('val')[-1]
    assert last.sequence.endswith('Camera_6')
    k = apolloscape.crop_matrix(layouts.APOLLOSCAPE_SIZE) @ apolloscape.camera_matrix(
        6, layouts.APOLLOSCAPE_SIZE
    )
    np.testing.assert_allclose(dataset.read(last).features['intrinsics'], k, rtol=1e-6)


@pytest.mark.parametrize(
    'folder', ['{kind}/{road}/{record}/Camera {camera}', '{road}/{kind}/{record}/Camera_{camera}']
)
def test_other_layouts(written, tmp_path, folder):
    config, _, _ = written
    layouts.write_apolloscape(tmp_path / 'other', ROADS, folder=folder)
    other = config_of(tmp_path / 'other')
    for split in ('train', 'val'):
        here, there = builders.load(config).listing(split), builders.load(other).listing(split)
        assert [(i.name, i.frame, set(i.files)) for i in here] == [
            (i.name, i.frame, set(i.files)) for i in there
        ]


def test_depth_of_an_archive_of_its_own_and_labels_without_bin(written):
    config, root, _ = written
    expected = builders.load(config).listing('train')
    for road in ROADS:
        (root / f'{road}_depth').mkdir()
        (root / road / 'Depth').rename(root / f'{road}_depth' / 'Depth')
    for path in [*root.rglob('*_bin.png')]:
        path.rename(path.with_name(path.name.replace('_bin', '')))
    found = builders.load(config).listing('train')
    assert [(item.name, set(item.files)) for item in found] == [
        (item.name, set(item.files)) for item in expected
    ]


def test_what_some_roads_lack_is_no_feature(written):
    config, root, _ = written
    (root / 'road02_ins').rename(root / 'road02_seg')
    for path in (root / 'road02_seg').rglob('*_instanceIds.png'):
        path.unlink()
    (root / 'road02_seg/Depth').rename(root / 'road02_seg/elsewhere')
    (root / 'road01_ins/Pose').rename(root / 'road01_ins/elsewhere')
    dataset = builders.load(config)
    items = dataset.listing('train') + dataset.listing('val')
    assert dataset.features(items) == ('image', 'label', 'intrinsics', 'sequence', 'frame', 'name')


def test_official_lists(written):
    config, root, frames = written
    names = [name for name, *_ in frames['road02_ins', 'Record003', 5]]

    def write(split, chosen):
        lines = [
            f'road02_ins/ColorImage/Record003/Camera 5/{n}.jpg\troad02_ins/Label/x/{n}_bin.png\n'
            for n in chosen
        ]
        lines += [
            line.replace('Camera_5', 'Camera_6') for line in lines
        ]  # of a camera that is not asked for
        (root / 'lists').mkdir(exist_ok=True)
        (root / 'lists' / f'road02_ins_{split}.lst').write_text(''.join(lines))

    write('train', names[2:4])
    write('val', names[4:])
    (root / 'road07_ins_train.lst').write_text(
        f'road07_ins/{names[0]}.jpg\tx\n'
    )  # of a road that is not there
    # Numbers count the whole clip. The second road is split by records as before.
    train, val = scanned(config, 'train'), scanned(config, 'val')
    assert train == [
        ('road01_ins/Record001/Camera_5', 0),
        ('road01_ins/Record001/Camera_5', 1),
        ('road02_ins/Record003/Camera_5', 2),
        ('road02_ins/Record003/Camera_5', 3),
    ]
    assert val == [('road01_ins/Record010/Camera_5', 0), ('road02_ins/Record003/Camera_5', 4)]
    write('val', ['170908_999999999_Camera_5', *names[4:]])
    with pytest.raises(
        InputError, match='1 of 2 images are not there, the first is 170908_999999999'
    ) as error:
        builders.load(config).listing('val')
    assert error.value.where.endswith('road02_ins_val.lst')
    (root / 'lists/road02_ins_val.lst').write_text('a.jpg b.png')
    with pytest.raises(InputError, match=r"'a.jpg b.png'"):
        builders.load(config).listing('train')


# --- wrong files ----------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """Returns the config, and the files of a frame of split train by kind."""
    root = tmp_path / 'apollo'
    frames = layouts.write_apolloscape(root, {'road01_ins': {'Record001': 2, 'Record002': 1}})
    name = frames['road01_ins', 'Record001', 5][1][0]
    files = {
        kind: root / 'road01_ins' / kind / 'Record001/Camera 5' / f'{name}{ending}'
        for kind, ending in (('ColorImage', '.jpg'), ('Label', '_bin.png'), ('Depth', '.png'))
    }
    files['Pose'] = root / 'road01_ins/Pose/Record001/Camera 5/pose.txt'
    files['instance'] = files['Label'].with_name(f'{name}_instanceIds.png')
    return config_of(root), files


def expect(config, where, *says):
    with pytest.raises(InputError) as error:
        data.prepare(config)
    assert str(where) in error.value.where
    for text in says:
        assert text in str(error.value)


def test_the_fixture_is_right(small):
    assert data.prepare(small[0]).spec.num_examples == {'train': 2, 'val': 1}


@pytest.mark.parametrize('name', ['apolloscape', 'apolloscape_stereo'])
def test_missing_or_other_folder(tmp_path, small, name):
    expect(config_of(tmp_path / 'no', name), 'config.data.root', 'no folder')
    expect(layouts.data_config(name, '', tmp_path), 'config.data.root')
    layouts.write_camvid(tmp_path / 'camvid')
    expect(config_of(tmp_path / 'camvid', name), 'camvid', 'no images of camera 5', 'ColorImage')
    expect(
        config_of(tmp_path / 'apollo/road01_ins', name),
        'road01_ins',
        'the folder that holds the roads',
    )


@pytest.mark.parametrize('kind', ['ColorImage', 'Label', 'Depth'])
def test_a_file_is_missing(small, kind):
    config, files = small
    files[kind].unlink()
    says = {
        'ColorImage': (files['Label'], 'a label without an image'),
        'Label': (files['ColorImage'], 'an image without a label', str(files['Label'])),
        'Depth': (files['ColorImage'], 'no depth file for 1 of 2 examples'),
    }
    expect(config, *says[kind])


def test_a_folder_of_labels_is_missing(small):
    config, files = small
    files['Label'].parent.rename(files['Label'].parent.with_name('Labels'))
    expect(config, files['ColorImage'].parent, '2 images and no folder of labels')


def test_a_pose_file_is_missing(small):
    config, files = small
    layouts.write_apolloscape(files['Pose'].parents[4], {'road01_ins': {'Record000': 1}})
    files['Pose'].unlink()
    expect(config, files['ColorImage'].parent, 'no pose file for 2 of 3 examples')


@pytest.mark.parametrize('kind', ['ColorImage', 'Label', 'Depth', 'instance'])
def test_truncated(small, kind):
    config, files = small
    files[kind].write_bytes(files[kind].read_bytes()[:-30])
    expect(config, files[kind], 'truncated')


@pytest.mark.parametrize('kind', ['Label', 'Depth', 'instance'])
def test_another_size(small, kind):
    config, files = small
    layouts.save(files[kind], np.zeros((104, 130), np.uint8 if kind == 'Label' else np.uint16))
    expect(config, files[kind], '130x104', '260x208', files['ColorImage'].name)


@pytest.mark.parametrize('size', [(200, 260), (104, 130)], ids=['another shape', 'tiny'])
def test_images_of_a_wrong_size(small, size):
    config, files = small
    for kind, array in (
        ('ColorImage', (*size, 3)),
        ('Label', size),
        ('Depth', size),
        ('instance', size),
    ):
        layouts.save(
            files[kind], np.zeros(array, np.uint16 if kind in ('Depth', 'instance') else np.uint8)
        )
    expect(config, files['ColorImage'], f'{size[1]}x{size[0]}', '3384x2710')


def test_unknown_id(small):
    config, files = small
    layouts.save(files['Label'], np.full(layouts.APOLLOSCAPE_SIZE, 41, np.uint8))
    expect(config, files['Label'], f'41 ({208 * 260} pixels)')


def test_another_file_name(small):
    config, files = small
    files['ColorImage'].rename(files['ColorImage'].with_name('copy.jpg'))
    expect(config, files['ColorImage'].with_name('copy.jpg'), '_Camera_5.jpg')
    files['ColorImage'].with_name('copy.jpg').rename(
        files['ColorImage'].with_name('170908_060000139_Camera_6.jpg')
    )
    expect(config, 'Camera_6.jpg', '_Camera_5.jpg')


def test_depth_in_8_bits_or_colour(small):
    config, files = small
    layouts.save(files['Depth'], np.zeros(layouts.APOLLOSCAPE_SIZE, np.uint8))
    expect(config, files['Depth'], '8 bits', '16-bit')
    layouts.save(files['Depth'], np.zeros((*layouts.APOLLOSCAPE_SIZE, 3), np.uint8))
    expect(config, files['Depth'], 'three channels')


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (lambda line: '', 'r00 r01'),
        (
            lambda line: line.replace(' 0.0000000 1.0000000 ', ' 1.0000000 '),
            'for 170908',
        ),  # 15 numbers
        (lambda line: line.replace(' 1.0000000 ', ' one '), 'one'),
        (lambda line: ' '.join(['2.0', *line.split()[1:]]), 'no rotation'),
        (lambda line: line.replace('5082.5000000', 'nan'), 'finite numbers'),
    ],
    ids=['none', 'short', 'word', 'no rotation', 'nan'],
)
def test_wrong_poses(small, change, says):
    config, files = small
    name = files['ColorImage'].name
    lines = files['Pose'].read_text().splitlines()
    wrong = [change(line) if line.endswith(name) else line for line in lines]
    assert wrong != lines
    files['Pose'].write_text('\n'.join(wrong))
    expect(config, files['Pose'], says)


def test_the_doctor_names_everything(small):
    data_config, files = small
    config = config_lib.defaults('supervised')
    config_lib.update(
        config, data=dict(name=data_config.name, root=data_config.root, cache=data_config.cache)
    )
    layouts.save(files['Label'], np.full(layouts.APOLLOSCAPE_SIZE, 41, np.uint8))
    files['Pose'].write_text('')
    files['ColorImage'].with_name('170908_060000000_Camera_5.jpg').unlink()
    (depth,) = (files['Depth'].parents[2] / 'Record002/Camera 5').iterdir()  # of split val
    layouts.save(depth, np.zeros((104, 130), np.uint16))
    orphan = files['Label'].with_name('170908_060000000_Camera_5_bin.png')
    places = [finding.where for finding in doctor.diagnose(config) if finding.severity == 'error']
    assert sorted(places) == sorted(map(str, (files['Label'], files['Pose'], depth, orphan)))


@pytest.mark.parametrize(
    'place', ['road03_ins', 'road02_ins/Label', 'road02_ins/Depth/Record003', 'Pose']
)
def test_link_to_a_road_that_is_gone(written, place):
    config, root, _ = written
    link = root / place
    if link.exists():
        link.rename(root.parent / 'elsewhere')
    link.symlink_to('/no/such/folder')
    with pytest.raises(
        InputError, match='a link to /no/such/folder, which does not exist'
    ) as error:
        data.prepare(config)
    assert error.value.where == str(link)
