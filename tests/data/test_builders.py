"""Round trips from files in the real layouts through prepared records, and records on disk."""

import os
import pathlib
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib

import cv2
import layouts
import numpy as np
import pytest
import tensorflow_datasets as tfds
from cityscapesscripts.helpers import labels as official
from PIL import Image

from segjax import data
from segjax.data import builders, cache, records, shards
from segjax.data.builders import base
from segjax.data.worlds import streets
from segjax.errors import InputError

TRAIN_IDS = np.array([official.id2label[i].trainId for i in range(34)])


def by_name(source):
    examples = [source[i] for i in range(len(source))]
    return {example['name']: example for example in examples}


def records_of(config):
    return records.prepared(builders.load(config), config.cache)


@pytest.fixture
def camvid(tmp_path):
    """Returns the config of a small copy, and {(split, name): (image, label)}."""
    written = layouts.write_camvid(tmp_path / 'camvid')
    return layouts.data_config('camvid', tmp_path / 'camvid', tmp_path / 'cache'), written


def test_camvid(camvid):
    config, written = camvid
    spec = data.prepare(config).spec
    assert spec.features == ('image', 'label', 'sequence', 'frame', 'name')
    assert spec.num_examples == {'train': 5, 'val': 3}
    assert spec.max_size == {'train': layouts.SIZE, 'val': layouts.SIZE}
    for split in ('train', 'val'):
        examples = by_name(data.prepare(config).open_split(split, spec.features))
        assert list(examples) == sorted(examples) == [name for s, name in written if s == split]
        for name, example in examples.items():
            image, label = written[split, name]
            np.testing.assert_array_equal(example['image'], image)
            np.testing.assert_array_equal(example['label'], np.where(label == 11, 255, label))
            assert example['image'].dtype == example['label'].dtype == np.uint8
            assert (example['sequence'], example['frame']) == ('0016E5', int(name[-5:]))
        values = np.concatenate([label for (s, _), (_, label) in written.items() if s == split])
        assert spec.class_pixels[split] == tuple(np.count_nonzero(values == c) for c in range(11))
        assert spec.void_pixels[split] == np.count_nonzero(values == 11)


def test_a_builder_with_cameras_and_without_their_method_is_named(camvid):
    config, _ = camvid
    dataset = builders.load(config)
    items, _ = dataset.scan('train')
    item = items[0]
    item.files['intrinsics'] = item.files['image']
    with pytest.raises(NotImplementedError, match=r'CamVid.* has no method read_intrinsics'):
        dataset.examine(item)


@pytest.mark.parametrize('kind', ['labelIds', 'labelTrainIds'])
def test_cityscapes(tmp_path, kind, monkeypatch):
    written = layouts.write_cityscapes(tmp_path / 'c', kind)
    monkeypatch.setenv('CITYSCAPES_DATASET', str(tmp_path / 'c'))
    config = layouts.data_config('cityscapes', '', tmp_path / 'cache')
    spec = data.prepare(config).spec
    assert spec.features == (
        'image',
        'label',
        'instance',
        'intrinsics',
        'sequence',
        'frame',
        'name',
    )
    assert spec.classes.ids[0] == 7
    counts = np.zeros(256, int)
    for split in ('train', 'val'):
        for name, example in by_name(data.prepare(config).open_split(split, spec.features)).items():
            image, label, instance = written[split, name]
            if kind == 'labelIds':
                label = np.vectorize(lambda i: official.id2label[i].trainId)(label)
            np.testing.assert_array_equal(example['image'], image)
            np.testing.assert_array_equal(example['label'], label)
            np.testing.assert_array_equal(
                example['instance'], np.where(instance < 1000, 0, instance)
            )
            assert (
                example['instance'].dtype == np.uint16 and example['intrinsics'].dtype == np.float32
            )
            np.testing.assert_array_equal(
                example['intrinsics'], [[35, 0, 15.5], [0, 36, 12.25], [0, 0, 1]]
            )
            assert (example['sequence'], example['frame']) == (name[:-7], 19)
            counts += np.bincount(label.ravel(), minlength=256) if split == 'train' else 0
    assert (
        spec.class_pixels['train'] == tuple(counts[:19])
        and spec.void_pixels['train'] == counts[255]
    )


@pytest.mark.parametrize('name', ['cityscapes', 'cityscapes_all'])
def test_instances_of_another_image_are_refused(tmp_path, name):
    layouts.write_cityscapes(tmp_path, counts=(('train', 2),))
    first, second = sorted(tmp_path.rglob('*instanceIds.png'))
    second.write_bytes(first.read_bytes())
    config = layouts.data_config(name, tmp_path, tmp_path / 'cache')
    with pytest.raises(InputError) as error:
        data.prepare(config)
    text = str(error.value)
    assert str(second) in text and 'of another class' in text and 'labelIds.png' in text


def test_all_ids_of_cityscapes_are_classes(tmp_path):
    written = layouts.write_cityscapes(tmp_path, counts=(('train', 2),))
    prepared = data.prepare(layouts.data_config('cityscapes_all', tmp_path, tmp_path / 'cache'))
    assert prepared.spec.classes.num_classes == 34
    assert prepared.spec.classes.names[26] == 'car' and prepared.spec.classes.ids[26] == 26
    examples = prepared.open_split('train', ('label', 'name'))
    for i in range(2):
        _, label, _ = written['train', examples[i]['name']]
        np.testing.assert_array_equal(examples[i]['label'], label)
    layouts.write_cityscapes(tmp_path / 'ids', 'labelTrainIds', counts=(('train', 1),))
    with pytest.raises(InputError, match='labelIds'):
        data.prepare(layouts.data_config('cityscapes_all', tmp_path / 'ids', tmp_path / 'cache'))


def test_cityscapes_without_instances_cameras_and_test_labels(tmp_path):
    layouts.write_cityscapes(tmp_path, counts=(('train', 1), ('test', 1)))
    for path in [*tmp_path.rglob('*instanceIds.png'), *tmp_path.rglob('*camera.json')]:
        path.unlink()
    for path in (tmp_path / 'gtFine/test').rglob('*.png'):
        path.unlink()
    (tmp_path / 'gtFine/test/aachen').rmdir()
    (tmp_path / 'gtFine/test').rmdir()
    spec = data.prepare(layouts.data_config('cityscapes', tmp_path, tmp_path / 'cache')).spec
    assert spec.num_examples == {'train': 1}
    assert spec.features == ('image', 'label', 'sequence', 'frame', 'name')


def test_cityscapes_with_coarse_labels(tmp_path):
    layouts.write_cityscapes(tmp_path)
    config = layouts.data_config('cityscapes_coarse', tmp_path, tmp_path / 'cache')
    with pytest.raises(InputError, match='without train_extra'):
        data.prepare(config)
    written = layouts.write_cityscapes(tmp_path, counts=(('train_extra', 3),), gt='gtCoarse')
    prepared = data.prepare(config)
    assert prepared.spec.num_examples == {'train': 4, 'val': 2, 'train_extra': 3}
    for name, example in by_name(prepared.open_split('train_extra', ('label', 'name'))).items():
        label = np.vectorize(lambda i: official.id2label[i].trainId)(
            written['train_extra', name][1]
        )
        np.testing.assert_array_equal(example['label'], label)


def test_official_sequences(tmp_path):
    labels = layouts.write_sequences(tmp_path)
    config = layouts.data_config('cityscapes_video', tmp_path, tmp_path / 'cache')
    spec = data.prepare(config).spec
    assert spec.features == ('image', 'label', 'intrinsics', 'sequence', 'frame', 'name')
    source = data.prepare(config).open_split('train', spec.features)
    examples = [source[i] for i in range(len(source))]
    assert [e['frame'] for e in examples] == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert [e['sequence'] for e in examples] == ['ulm_000003_000000'] * 5 + [
        'ulm_000003_000100'
    ] * 5
    for example in examples:
        if example['name'] in labels:
            expected = np.vectorize(lambda i: official.id2label[i].trainId)(labels[example['name']])
        else:
            expected = np.full(layouts.SIZE, 255)
        np.testing.assert_array_equal(example['label'], expected)
        assert example['intrinsics'][0, 0] == 35
    assert sum(spec.class_pixels['train']) + spec.void_pixels['train'] == 10 * np.prod(layouts.SIZE)


def test_clips(tmp_path):
    written = layouts.write_clips(tmp_path)
    config = layouts.data_config('cityscapes_video', tmp_path, tmp_path / 'cache')
    spec = data.prepare(config).spec
    assert spec.num_examples == {'train': 8, 'val': 4}
    source = data.prepare(config).open_split('train+val', spec.features)
    examples = [source[i] for i in range(len(source))]
    assert [(e['sequence'], e['frame']) for e in examples] == [
        (f'seq{c:04}', f) for c in range(3) for f in range(4)
    ]
    for example in examples:
        label, instance = written[example['name']]
        np.testing.assert_array_equal(
            example['label'], np.select([label == 7, label == 11], [0, 2], 13)
        )
        np.testing.assert_array_equal(
            example['instance'], np.where(instance == 255, 0, instance.astype(int) + 1)
        )
        np.testing.assert_array_equal(example['intrinsics'], [[40, 0, 15], [0, 41, 11], [0, 0, 1]])
        file = (
            tmp_path
            / example['sequence']
            / 'image'
            / f'{pathlib.Path(example["name"]).name}_leftImg8bit.jpg'
        )
        np.testing.assert_array_equal(example['image'], cv2.imread(str(file))[..., ::-1])


def test_one_clip_is_train(tmp_path):
    layouts.write_clips(tmp_path, clips=1)
    config = layouts.data_config('cityscapes_video', tmp_path, tmp_path / 'cache')
    assert data.prepare(config).spec.num_examples == {'train': 4}


@pytest.mark.parametrize('images', [True, False])
def test_synscapes(tmp_path, images):
    written = layouts.write_synscapes(tmp_path / 's', images=images)
    config = layouts.data_config('synscapes', tmp_path / 's', tmp_path / 'cache')
    spec = data.prepare(config).spec
    assert spec.features == (('image',) if images else ()) + ('label', 'name')
    assert spec.classes.ids[0] == 7
    assert spec.num_examples == {'train': 4, 'val': 2}
    names = {'train': ['1', '2', '10', '24000'], 'val': ['24001', '25000']}
    for split in ('train', 'val'):
        examples = by_name(data.prepare(config).open_split(split, spec.features))
        assert list(examples) == names[split], 'in the order of the numbers'
        for name, example in examples.items():
            image, ids = written[name]
            expected = np.where(ids == 255, 255, TRAIN_IDS[np.minimum(ids, 33)])
            np.testing.assert_array_equal(example['label'], expected)
            if images:
                np.testing.assert_array_equal(example['image'], image)


def test_the_first_scenes_of_synscapes_have_no_val(tmp_path):
    layouts.write_synscapes(tmp_path / 's', (5, 7))
    config = layouts.data_config('synscapes', tmp_path / 's', tmp_path / 'cache')
    assert data.prepare(config).spec.num_examples == {'train': 2}


def test_wrong_files_of_synscapes_are_named(tmp_path):
    config = layouts.data_config('synscapes', tmp_path, tmp_path / 'cache')
    with pytest.raises(InputError, match='no folder img/class'):
        data.prepare(config)
    layouts.write_synscapes(tmp_path, (1, 2, 3))
    (tmp_path / 'img/rgb/2.png').unlink()
    with pytest.raises(InputError, match=r'class/2\.png[\s\S]*without an image'):
        data.prepare(config)
    (tmp_path / 'img/class/2.png').rename(tmp_path / 'img/class/2_color.png')
    with pytest.raises(InputError, match=r'2_color\.png[\s\S]*number of the scene'):
        data.prepare(config)
    (tmp_path / 'img/class/2_color.png').unlink()
    layouts.save(tmp_path / 'img/class/3.png', np.full(layouts.SIZE, 34, np.uint8))
    with pytest.raises(InputError, match=r'class/3\.png[\s\S]*34'):
        data.prepare(config)


def test_a_wrong_layout_of_synscapes_without_images_is_named(tmp_path):
    layouts.write_synscapes(tmp_path, (1, 2), images=False)
    layouts.save(tmp_path / 'img/class/2.png', np.full(layouts.SIZE, 34, np.uint8))
    config = layouts.data_config('synscapes', tmp_path, tmp_path / 'cache')
    assert 'no images' in builders.load(config).notes()[0].message
    with pytest.raises(InputError, match=r'class/2\.png[\s\S]*34'):
        data.prepare(config)


def test_jpeg_bytes_are_kept(tmp_path):
    _, classes = layouts.write_folder(tmp_path)
    config = layouts.data_config('folder', tmp_path, tmp_path / 'cache', classes=classes)
    builder = tfds.builder_from_directory(records_of(config))
    source = builder.as_data_source('val', decoders={'image': tfds.decode.SkipDecoding()})
    assert source[1]['image'] == (tmp_path / 'images/val/shot 1.jpg').read_bytes()


def palette_png(path, ids):
    image = Image.fromarray(ids).convert('P')
    image.putdata(ids.ravel().tolist())
    image.putpalette([7, 7, 7, 200, 0, 0, 0, 200, 0, 1, 2, 3])
    image.save(path)


def low_depth_png(path, ids, bits):
    """Writes a grey PNG of 2 or 4 bits per pixel byte by byte, because Pillow cannot."""

    def chunk(kind, content):
        return (
            struct.pack('>I', len(content))
            + kind
            + content
            + struct.pack('>I', zlib.crc32(kind + content))
        )

    height, width = ids.shape
    spread = (
        ((ids[..., None] >> np.arange(bits - 1, -1, -1)) & 1)
        .astype(np.uint8)
        .reshape(height, width * bits)
    )
    rows = b''.join(b'\0' + row.tobytes() for row in np.packbits(spread, axis=1))
    header = struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, 0)
    content = chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + content)


@pytest.mark.parametrize('kind', ['grey', 'palette', '2 bits', '4 bits', '1 bit', '16 bits'])
def test_masks_give_the_numbers_in_the_file(tmp_path, kind):
    written, classes = layouts.write_folder(tmp_path, ids=(0, 1) if kind == '1 bit' else (0, 1, 2))
    for (split, name), (_, ids) in written.items():
        path = tmp_path / 'masks' / split / f'{name}.png'
        if kind == 'palette':
            palette_png(path, ids)
            assert Image.open(path).mode == 'P'
        elif kind == '1 bit':
            Image.fromarray(ids.astype(bool)).save(path)
        elif kind == '16 bits':
            Image.fromarray(ids.astype(np.uint16)).save(path)
        elif kind != 'grey':
            low_depth_png(path, ids, int(kind[0]))
    config = layouts.data_config('folder', tmp_path, tmp_path / 'cache', classes=classes)
    for name, example in by_name(
        data.prepare(config).open_split('train', ('label', 'name'))
    ).items():
        np.testing.assert_array_equal(example['label'], written['train', name][1])


@pytest.mark.parametrize('splits', [('train', 'val'), ('',)], ids=['folders', 'by name'])
def test_a_folder_of_instances_gives_the_numbers_in_its_files(tmp_path, splits):
    written, classes = layouts.write_folder(tmp_path, splits=splits, count=9, instances=True)
    config = layouts.data_config('folder', tmp_path, tmp_path / 'cache', classes=classes)
    prepared = data.prepare(config)
    assert 'instance' in prepared.spec.features
    examples = by_name(prepared.open_split('train', ('instance', 'name')))
    for name, example in examples.items():
        np.testing.assert_array_equal(example['instance'], written[splits[0], name][1])


def test_instances_of_other_names_are_noted(tmp_path):
    _, classes = layouts.write_folder(tmp_path, splits=('train',), instances=True)
    for number, path in enumerate((tmp_path / 'instances/train').iterdir()):
        path.rename(path.with_name(f'{number}.png'))
    config = layouts.data_config('folder', tmp_path, tmp_path / 'cache', classes=classes)
    (note,) = builders.load(config).notes()
    assert note.message == 'not read: 3 instance files without an image of their name'


def test_instances_of_some_images_are_refused(tmp_path):
    _, classes = layouts.write_folder(tmp_path, instances=True)
    (tmp_path / 'instances/val/shot 1.png').unlink()
    config = layouts.data_config('folder', tmp_path, tmp_path / 'cache', classes=classes)
    with pytest.raises(InputError, match='no instance file for 1 of 3 examples'):
        data.prepare(config)


def test_colour_masks(tmp_path):
    palette = np.array([(0, 0, 0), (255, 0, 9), (9, 0, 255)], np.uint8)
    classes = 'classes: [{name: a, color: [255, 0, 9]}, {name: b, color: [9, 0, 255]}]'
    text = f'{classes}\nignore: [[0, 0, 0]]'
    written, classes = layouts.write_folder(tmp_path, classes=text)
    for (split, name), (_, ids) in written.items():
        Image.fromarray(palette[ids]).save(tmp_path / 'masks' / split / f'{name}.png')
    config = layouts.data_config('folder', tmp_path, tmp_path / 'cache', classes=classes)
    for name, example in by_name(data.prepare(config).open_split('val', ('label', 'name'))).items():
        np.testing.assert_array_equal(
            example['label'], np.array([255, 0, 1])[written['val', name][1]]
        )


def test_grey_palette_and_transparent_images_become_rgb(tmp_path):
    written, classes = layouts.write_folder(tmp_path, splits=('train',))
    rgb = written['train', 'shot 0'][0]
    for i, mode in enumerate(('L', 'RGBA', 'P')):
        (tmp_path / f'images/train/shot {i}.jpg').unlink()
        Image.fromarray(rgb).convert(mode).save(tmp_path / f'images/train/shot {i}.png')
    config = layouts.data_config('folder', tmp_path, tmp_path / 'cache', classes=classes)
    examples = by_name(data.prepare(config).open_split('train', ('image', 'name')))
    grey = np.asarray(Image.fromarray(rgb).convert('L'))
    np.testing.assert_array_equal(examples['shot 0']['image'], np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(examples['shot 1']['image'], rgb)
    indexed = Image.fromarray(rgb).convert('P').convert('RGB')
    np.testing.assert_array_equal(examples['shot 2']['image'], np.asarray(indexed))


def test_folder_without_splits_is_divided_by_name(tmp_path):
    _, classes = layouts.write_folder(tmp_path, splits=('',), count=60)
    config = layouts.data_config('folder', tmp_path, tmp_path / 'cache', classes=classes)
    train, val = (
        list(by_name(data.prepare(config).open_split(split, ('name',))))
        for split in ('train', 'val')
    )
    assert len(train) + len(val) == 60 and not set(train) & set(val)
    assert 4 <= len(val) <= 22  # 12 expected; binomial, four standard deviations
    # Without some images, no remaining image changes its split.
    for i in range(0, 60, 2):
        (tmp_path / f'images/shot {i}.jpg').unlink()
        (tmp_path / f'masks/shot {i}.png').unlink()
    left = {f'shot {i}' for i in range(1, 60, 2)}
    assert set(by_name(data.prepare(config).open_split('val', ('name',)))) == set(val) & left


def test_streets_is_what_the_world_renders(tmp_path):
    world = dict(num_train=10, num_val=2, size=(16, 24), seed=5)
    config = layouts.data_config('streets', '', tmp_path / 'cache', world=world)
    spec = data.prepare(config).spec
    assert spec.num_examples == {'train': 10, 'val': 2} and spec.max_size['val'] == (16, 24)
    source = data.prepare(config).open_split('train', spec.features)
    for index in (0, 9):  # the last frame is the second of clip 1
        example, frame = source[index], streets.frame(5, 'train', index // 8, index % 8, (16, 24))
        for key in ('image', 'label', 'instance', 'depth', 'intrinsics', 'pose'):
            np.testing.assert_array_equal(example[key], frame[key])
            assert example[key].dtype == frame[key].dtype
        np.testing.assert_array_equal(example['label_moving'], frame['moving'])
        assert (example['sequence'], example['frame']) == (f'train_{index // 8:05}', index % 8)
    world['seed'] = 6
    other = data.prepare(
        layouts.data_config('streets', '', tmp_path / 'cache', world=world)
    ).open_split('train', ('image',))
    assert (other[0]['image'] != source[0]['image']).any()


# --- records --------------------------------------------------------------------------------------


def test_order_and_slices_over_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, 'SHARD_BYTES', 9000)
    layouts.write_camvid(tmp_path / 'c', counts=(('train', 12), ('val', 5)))
    config = layouts.data_config('camvid', tmp_path / 'c', tmp_path / 'cache')
    assert len(list(records_of(config).glob('*.array_record-*'))) == 3 + 2

    def frames(split):
        source = data.prepare(config).open_split(split, ('frame',))
        return [source[i]['frame'] // 10 for i in range(len(source))]

    assert frames('train') == list(range(12))
    assert frames('train[:50%]') == list(range(6))
    assert frames('train[9:]') == [9, 10, 11]
    assert frames('train[10:]+val[:1]') == [10, 11, 500]


def test_only_what_is_wanted_is_decoded(camvid, monkeypatch):
    config, _ = camvid
    source = data.prepare(config).open_split('train', ('name', 'frame'))

    def refuse(*args):
        raise AssertionError('decoded')

    monkeypatch.setattr(cv2, 'imdecode', refuse)
    assert source[0] == {'name': '0016E5_00000', 'frame': 0}
    with pytest.raises(AssertionError, match='decoded'):
        data.prepare(config).open_split('train', ('label',))[0]


def test_sources_survive_pickle(camvid):
    config, _ = camvid
    source = data.prepare(config).open_split('train[1:3]', ('image', 'name'))
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == 2 and copy[1]['name'] == source[1]['name']
    np.testing.assert_array_equal(copy[1]['image'], source[1]['image'])


def state(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob('*'))}


def test_prepared_once(camvid, monkeypatch):
    config, _ = camvid
    spec = data.prepare(config).spec
    before = state(records_of(config))

    def refuse(*args):
        raise AssertionError('written again')

    monkeypatch.setattr(shards, 'write', refuse)
    start = time.perf_counter()
    assert data.prepare(config).spec == spec
    assert time.perf_counter() - start < 0.5
    assert state(records_of(config)) == before


def test_anything_that_matters_changes_the_fingerprint(camvid, tmp_path):
    config, _ = camvid
    seen = {records_of(config)}

    def is_new():
        seen.add(folder := records_of(config))
        return folder

    label = next((tmp_path / 'camvid/trainannot').glob('*.png'))
    os.utime(label, ns=(1, 1))
    is_new()
    assert len(seen) == 2
    layouts.save(label, np.zeros(layouts.SIZE, np.uint8))
    is_new()
    assert len(seen) == 3
    for kind in ('train', 'trainannot'):
        next((tmp_path / 'camvid' / kind).glob('*_00010.png')).rename(
            tmp_path / 'camvid' / kind / '0016E5_00011.png'
        )
    newest = is_new()
    assert len(seen) == 4
    names = by_name(data.prepare(config).open_split('train', ('name',)))
    assert '0016E5_00011' in names and '0016E5_00010' not in names
    assert is_new() == newest


def test_another_class_file_is_another_data_set(tmp_path):
    _, classes = layouts.write_folder(tmp_path)
    config = layouts.data_config('folder', tmp_path, tmp_path / 'cache', classes=classes)
    first = data.prepare(config).spec
    pathlib.Path(classes).write_text('{classes: [back, {name: car, id: 2}], ignore: [1]}')
    second = data.prepare(config).spec
    assert second.classes.num_classes == 2
    assert second.class_pixels['val'][1] == first.class_pixels['val'][2]
    assert second.void_pixels['val'] == first.class_pixels['val'][1]


def test_a_failed_preparation_leaves_nothing(camvid, tmp_path):
    config, _ = camvid
    last = sorted((tmp_path / 'camvid/valannot').glob('*.png'))[-1]
    content = last.read_bytes()
    last.write_bytes(content[:-20])
    with pytest.raises(InputError, match='truncated'):
        data.prepare(config)
    assert [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()] == []
    last.write_bytes(content)
    assert data.prepare(config).spec.num_examples == {'train': 5, 'val': 3}


CHILD = """
import os, pathlib, sys
import layouts
from segjax import data
from segjax.data import shards
from segjax.data.builders import base

root, cache, journal, kill_at = sys.argv[1:]
write = shards.write

def counted_write(*args):
    with open(journal, 'a') as f:
        f.write('w')
    write(*args)

inspect = base.FileDataset.inspect

def killing_inspect(self, item):
    if item.name == kill_at:
        os.kill(os.getpid(), 9)
    return inspect(self, item)

shards.write = counted_write
base.FileDataset.inspect = killing_inspect
print(data.prepare(layouts.data_config('camvid', root, cache)).spec.num_examples)
"""


def child(tmp_path, kill_at=''):
    """Starts a process that prepares the tiny CamVid. It is killed at the example `kill_at`."""
    folder = pathlib.Path(__file__).resolve()
    paths = os.pathsep.join(map(str, (folder.parents[2], folder.parents[1] / 'helpers')))
    arguments = [
        str(tmp_path / 'camvid'),
        str(tmp_path / 'cache'),
        str(tmp_path / 'journal'),
        kill_at,
    ]
    return subprocess.Popen(
        [sys.executable, '-c', CHILD, *arguments],
        env={**os.environ, 'PYTHONPATH': paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_prepare_once_also_after_a_kill(camvid, tmp_path):
    config, _ = camvid
    killed = child(tmp_path, kill_at='0016E5_05010')
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / 'cache').iterdir() if path.is_dir()]
    assert len(left) == 1 and left[0].endswith('.partial')
    pair = [child(tmp_path) for _ in range(2)]
    for process in pair:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert out.splitlines()[-1] == "{'train': 5, 'val': 3}"
    assert (tmp_path / 'journal').read_text() == 'ww'  # the killed one, and one of the two
    assert [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()] == [
        records_of(config)
    ]


def test_cache_folder(monkeypatch):
    monkeypatch.setenv('SEGJAX_CACHE', '/somewhere')
    assert cache.folder('') == pathlib.Path('/somewhere')
    assert cache.folder('/else') == pathlib.Path('/else')
    monkeypatch.delenv('SEGJAX_CACHE')
    assert cache.folder('') == pathlib.Path.home() / '.cache/segjax'


# --- real data ------------------------------------------------------------------------------------


def test_real_camvid(real_data, tmp_path):
    for folder, suffix in (('train', 'jpg'), ('trainannot', 'png')):
        (tmp_path / 'camvid' / folder).mkdir(parents=True)
        for file in sorted((real_data / 'camvid' / folder).glob(f'*.{suffix}'))[::75]:
            (tmp_path / 'camvid' / folder / file.name).symlink_to(file)
    config = layouts.data_config('camvid', tmp_path / 'camvid', tmp_path / 'cache')
    spec = data.prepare(config).spec
    assert spec.num_examples == {'train': 5} and spec.max_size == {'train': (360, 480)}
    counts = np.zeros(256, int)
    for name, example in by_name(data.prepare(config).open_split('train', spec.features)).items():
        label = np.asarray(Image.open(tmp_path / 'camvid/trainannot' / f'{name}.png'))
        counts += np.bincount(label.ravel(), minlength=256)
        np.testing.assert_array_equal(example['label'], np.where(label == 11, 255, label))
        image = cv2.imread(str(tmp_path / 'camvid/train' / f'{name}.jpg'))[..., ::-1]
        np.testing.assert_array_equal(example['image'], image)
    assert (
        spec.class_pixels['train'] == tuple(counts[:11]) and spec.void_pixels['train'] == counts[11]
    )


def test_real_cityscapes(real_data, tmp_path):
    root = real_data / 'cityscapes_mini'
    config = layouts.data_config('cityscapes', root, tmp_path)
    spec = data.prepare(config).spec
    assert spec.num_examples == {'train': 8} and spec.max_size == {'train': (1024, 2048)}
    example = data.prepare(config).open_split('train', ('image', 'label', 'instance', 'name'))[3]
    prefix = f'{root}/{{}}/train/aachen/{example["name"]}_{{}}.png'
    np.testing.assert_array_equal(
        example['image'], np.asarray(Image.open(prefix.format('leftImg8bit', 'leftImg8bit')))
    )
    ids = np.asarray(Image.open(prefix.format('gtFine', 'gtFine_labelIds')))
    table = np.array([official.id2label[i].trainId for i in range(34)])
    np.testing.assert_array_equal(example['label'], table[ids])
    instances = np.asarray(Image.open(prefix.format('gtFine', 'gtFine_instanceIds')))
    np.testing.assert_array_equal(example['instance'], np.where(instances < 1000, 0, instances))


def test_reading_that_is_abandoned_waits_for_nobody():
    """Closes a generator, which must not block.

    The garbage collector may close it in any thread and with any lock held.
    """
    closed, done = threading.Event(), threading.Event()

    def read(item):
        return item if item == 0 else done.wait(60)

    results = base.ordered_map(read, range(9))
    assert next(results) == 0
    closing = threading.Thread(target=lambda: (results.close(), closed.set()))
    closing.start()
    try:
        assert closed.wait(20), 'closing waits for reading that goes on'
    finally:
        done.set()
        closing.join()


def test_reading_ahead_keeps_the_order():
    def read(item):
        time.sleep(0.01 * (item % 3 == 0))
        return item

    assert list(base.ordered_map(read, range(20))) == list(range(20))
