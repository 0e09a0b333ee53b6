"""ADE20K and COCO: round trips from files in the real layouts, and every problem of such files."""

import json

import layouts
import ml_collections
import numpy as np
import pytest
from PIL import Image

from segjax import config as config_lib
from segjax import data
from segjax.config import config_file
from segjax.data import builders, labels
from segjax.data.builders import ade20k
from segjax.errors import InputError
from segjax.modes import doctor
from segjax.spec import IGNORE, Feature
from segjax.train import driver


def examples_of(config, split):
    """Returns {name: example} with all features."""
    prepared = data.prepare(config)
    source = prepared.open_split(split, prepared.spec.features)
    examples = [source[i] for i in range(len(source))]
    return {example['name']: example for example in examples}


def experiment(data_config, **changes):
    """Returns a config of plain segmentation on small images of a data set."""
    config = config_file.load('configs/supervised.py:smoke')
    plain = {}
    for key, value in data_config.items():
        if not isinstance(value, ml_collections.ConfigDict):
            plain[key] = value
    config_lib.update(config, data=plain)
    config_lib.update(
        config,
        data=dict(eval_size=layouts.SIZE),
        augment=dict(resize=(), crop=layouts.SIZE),
        train=dict(batch_size=2, num_steps=2),
        evaluate=dict(batch_size=2),
    )
    config_lib.update(config, **changes)
    return config


def errors(data_config):
    """Returns the errors that the doctor finds."""
    findings = doctor.diagnose(experiment(data_config))
    return [finding for finding in findings if finding.severity == 'error']


def expect(config, where, *says):
    with pytest.raises(InputError) as error:
        data.prepare(config)
    assert str(where) in error.value.where
    for text in says:
        assert text in str(error.value)


# --- tables of classes ----------------------------------------------------------------------------


def test_scene_parsing_has_the_order_and_the_colours_of_the_benchmark():
    classes = labels.ADE20K
    assert classes.num_classes == len(set(classes.names)) == 150
    assert classes.ids == tuple(range(1, 151))
    known = {1: 'wall', 8: 'bed', 13: 'person', 21: 'car', 83: 'light', 127: 'animal', 150: 'flag'}
    assert {number: classes.names[number - 1] for number in known} == known
    colors = {'wall': (120, 120, 120), 'sky': (6, 230, 230), 'flag': (92, 0, 255)}
    assert {name: classes.palette[classes.names.index(name)] for name in colors} == colors


def test_bedrooms_have_49_classes_with_the_numbers_of_the_release():
    classes = labels.ADE20K_BEDROOM
    assert classes.num_classes == len(set(classes.names)) == len(set(classes.palette)) == 49
    assert classes.names[:4] == ('other', 'wall', 'bed', 'floor') and classes.ids == (*range(49),)
    assert classes.names[48] == 'chandelier' and labels.ADE20K_BEDROOM_INDICES[47] == 480
    assert len(set(labels.ADE20K_BEDROOM_INDICES)) == 48
    interest = labels.ADE20K_BEDROOM_INTEREST
    assert len(set(interest)) == 33 and {'bed', 'sofa'} < set(interest) < set(classes.names)
    assert not {'other', 'wall', 'floor', 'ceiling', 'wall socket', 'switch'} & set(interest)


def test_coco_has_80_things_and_then_53_kinds_of_stuff():
    classes = labels.COCO_PANOPTIC
    assert classes.num_classes == len(set(classes.names)) == 133
    assert classes.ids == tuple(sorted(classes.ids))
    known = {0: 1, 10: 11, 11: 13, 24: 27, 39: 44, 40: 46, 60: 67, 61: 70, 62: 72, 79: 90, 80: 92}
    assert {train_id: classes.ids[train_id] for train_id in known} == known
    assert classes.names[79] == 'toothbrush' and classes.names[80] == 'banner'
    things = labels.COCO_THINGS
    assert things.classes.num_classes == 80
    assert things.train_ids == (*range(80), *[IGNORE] * 53)


# --- round trips ----------------------------------------------------------------------------------


@pytest.fixture
def scenes(tmp_path):
    """Returns the config of a small SceneParse150, and its content."""
    written = layouts.write_ade20k(tmp_path / 'ade')
    return layouts.data_config('ade20k', tmp_path / 'ade', tmp_path / 'cache'), written


@pytest.fixture
def bedrooms(tmp_path, monkeypatch):
    """Returns the config of five bedrooms, of which two are `val`, and their content."""
    monkeypatch.setattr(ade20k.Bedrooms, 'num_val', 2)
    written = layouts.write_bedrooms(tmp_path / 'ade')
    return layouts.data_config('ade20k_bedroom', tmp_path / 'ade', tmp_path / 'cache'), written


@pytest.fixture
def coco(tmp_path):
    """Returns the config of a small COCO, and its segment ids."""
    written = layouts.write_coco_panoptic(tmp_path / 'coco')
    return layouts.data_config('coco_panoptic', tmp_path / 'coco', tmp_path / 'cache'), written


def test_scene_parsing(scenes):
    config, written = scenes
    spec = data.prepare(config).spec
    assert spec.features == ('image', 'label', 'name')
    assert spec.num_examples == {'train': 4, 'val': 2}
    for split, folder in (('train', 'training'), ('val', 'validation')):
        for name, example in examples_of(config, split).items():
            _, label = written[folder, name]
            np.testing.assert_array_equal(example['label'], np.where(label == 0, 255, label - 1))


def test_bedrooms(bedrooms):
    config, written = bedrooms
    spec = data.prepare(config).spec
    assert spec.features == ('image', 'label', 'instance', 'name')
    assert list(examples_of(config, 'val')) == sorted(written)[:2], 'the first by name'
    assert list(examples_of(config, 'train')) == sorted(written)[2:]
    train_ids = {2978: 1, 165: 2, 480: 48}
    for split in ('train', 'val'):
        for name, example in examples_of(config, split).items():
            numbers, objects = written[name]
            expected = np.vectorize(lambda number: train_ids.get(number, 0))(numbers)
            np.testing.assert_array_equal(example['label'], expected)

            # Equal instances are equal pairs, and 1 .. n all occur.
            instance = example['instance']
            np.testing.assert_array_equal(instance > 0, (numbers > 0) & (objects > 0))
            inside = instance > 0
            pairs = {*zip(instance[inside], numbers[inside], objects[inside], strict=True)}
            assert sorted(pair[0] for pair in pairs) == list(range(1, len(pairs) + 1))
            assert len({pair[1:] for pair in pairs}) == len(pairs)


def test_bedrooms_of_the_release_have_150_val_images(tmp_path):
    layouts.write_bedrooms(tmp_path, 152)
    config = layouts.data_config('ade20k_bedroom', tmp_path, tmp_path / 'cache')
    dataset = builders.load(config)
    assert [len(dataset.scan(split)[0]) for split in ('val', 'train')] == [150, 2]
    assert '150 images are val' in dataset.notes_of_folders()[0].message


def test_other_can_be_void_in_bedrooms(bedrooms):
    config, _ = bedrooms
    whole = examples_of(config, 'val')
    config.class_map = 'objects'
    assert data.prepare(config).spec.classes.num_classes == 48
    for name, example in examples_of(config, 'val').items():
        # 0 - 1 is 255 in 8 bits.
        np.testing.assert_array_equal(example['label'], whole[name]['label'] - np.uint8(1))


@pytest.mark.parametrize('images', [True, False])
def test_coco_panoptic(tmp_path, images):
    written = layouts.write_coco_panoptic(tmp_path / 'coco', images=images)
    config = layouts.data_config('coco_panoptic', tmp_path / 'coco', tmp_path / 'cache')
    spec = data.prepare(config).spec
    own = ('label', 'instance', 'name')
    assert spec.features == (('image', *own) if images else own)
    assert spec.num_examples == {'train': 3, 'val': 2}
    assert spec.declared == {'instance': Feature('ids')}
    person, toothbrush, cars, rug = (segment for segment, _, _ in layouts.COCO_SEGMENTS)
    for split in ('train', 'val'):
        for name, example in examples_of(config, split).items():
            pixels = written[f'{split}2017', name]
            classes = {0: 255, person: 0, toothbrush: 79, cars: 2, rug: 132}
            expected = np.vectorize(classes.get)(pixels)
            np.testing.assert_array_equal(example['label'], expected)
            things = np.isin(pixels, (person, toothbrush))
            np.testing.assert_array_equal(example['instance'], np.where(things, pixels, 0))
            assert example['instance'].dtype == np.int32


def test_stuff_of_coco_can_be_void(coco):
    config, _ = coco
    config.class_map = 'things'
    assert data.prepare(config).spec.classes.num_classes == 80
    for example in examples_of(config, 'train').values():
        assert set(np.unique(example['label'])) == {0, 2, 79, 255}


def test_a_changed_json_file_is_another_data_set(coco):
    config, _ = coco
    first = data.prepare(config)
    path = builders.load(config).root / 'annotations/panoptic_val2017.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['segments_info'][0]['category_id'] = 2
    path.write_text(json.dumps(content))
    changed = data.prepare(config)
    assert changed.folder != first.folder
    assert changed.spec.digest['train'] == first.spec.digest['train']
    assert changed.spec.digest['val'] != first.spec.digest['val']


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'fix'),
    [
        ('ade20k', 'ADEChallengeData2016'),
        ('ade20k_bedroom', 'ADE20K_2016_07_26'),
        ('coco_panoptic', 'panoptic_annotations_trainval2017.zip'),
    ],
)
def test_a_folder_of_another_layout_is_named(tmp_path, name, fix):
    config = layouts.data_config(name, tmp_path, tmp_path / 'cache')
    expect(config, tmp_path, 'got:', fix)
    config.root = '/no/such/folder'
    expect(config, 'config.data.root', '/no/such/folder')


def test_all_problems_of_scene_parsing_at_once(scenes):
    config, _ = scenes
    root = builders.load(config).root
    annotations = root / 'annotations/training'
    layouts.save(annotations / 'ADE_train_00000001.png', np.full(layouts.SIZE, 151, np.uint8))
    layouts.save(annotations / 'ADE_train_00000002.png', np.ones((8, 8), np.uint8))
    (annotations / 'ADE_train_00000003.png').unlink()
    problems = {(finding.where.split('/')[-1], finding.message) for finding in errors(config)}
    says = {
        'ADE_train_00000001.png': 'label ids 151 (768 pixels)',
        'ADE_train_00000002.png': '8x8 pixels',
        'ADE_train_00000003.jpg': 'an image without a label',
    }
    assert {where for where, _ in problems} == set(says)
    assert all(says[where] in message for where, message in problems)


def test_all_problems_of_bedrooms_at_once(bedrooms):
    config, _ = bedrooms
    folder = builders.load(config).root / ade20k.BEDROOMS
    numbers = np.full(layouts.SIZE, 2978)
    odd = layouts.bedroom_colors(numbers, numbers * 0)
    odd[0, 0, 0] += 1
    beyond = layouts.bedroom_colors(np.full(layouts.SIZE, 3149), numbers * 0)
    layouts.save(folder / 'ADE_train_00000001_seg.png', odd)
    layouts.save(folder / 'ADE_train_00000002_seg.png', beyond)
    layouts.save(folder / 'ADE_train_00000003_seg.png', np.zeros(layouts.SIZE, np.uint8))
    layouts.save(folder / 'ADE_train_00000004_seg.png', odd[:8] * 0)
    (folder / 'ADE_train_00000005_seg.png').unlink()
    says = {
        'ADE_train_00000001_seg.png': 'no multiple of 10, in 1 pixels',
        'ADE_train_00000002_seg.png': 'class number 3149',
        'ADE_train_00000003_seg.png': 'one channel',
        'ADE_train_00000004_seg.png': '32x8 pixels',
        'ADE_train_00000005.jpg': 'an image without a label',
    }
    problems = {finding.where.split('/')[-1]: finding.message for finding in errors(config)}
    assert problems.keys() == says.keys()
    assert all(says[where] in message for where, message in problems.items())


def change(root, folder, function):
    """Changes the JSON file of a split by a function of its content."""
    path = root / f'annotations/panoptic_{folder}.json'
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def test_all_problems_of_segments_at_once(coco):
    config, written = coco
    root = builders.load(config).root
    names = [name for folder, name in written if folder == 'train2017']
    masks = root / 'annotations/panoptic_train2017'

    def spoil(content):
        first, second, _ = content['annotations']
        del first['segments_info'][0]
        first['segments_info'].append({'id': 123, 'category_id': 1})
        second['segments_info'][1]['category_id'] = 91
        content['images'][2]['height'] = 25

    change(root, 'train2017', spoil)
    change(root, 'val2017', lambda content: content['annotations'].pop())
    (root / f'train2017/{names[2]}.jpg').unlink()
    layouts.save(root / f'train2017/{names[2]}.jpg', np.zeros((8, 8, 3), np.uint8))
    problems = [(finding.where, finding.message) for finding in errors(config)]
    person = layouts.COCO_SEGMENTS[0][0]
    count = np.count_nonzero(written['train2017', names[0]] == person)
    expected = [
        (names[0], f'panoptic_train2017.json does not list: {person} ({count} pixels)'),
        (names[0], 'no pixels of segments that panoptic_train2017.json lists: 123'),
        (names[1], f'unknown: 91 of segment {layouts.COCO_SEGMENTS[1][0]}'),
        (names[2], 'expected 8x8 pixels, the size of'),
        (names[2], 'expected 32x25 pixels, as panoptic_train2017.json says'),
        (sorted(name for folder, name in written if folder == 'val2017')[1], 'does not list'),
    ]
    assert len(problems) == len(expected), problems
    for name, text in expected:
        assert any(name in where and text in message for where, message in problems), text
    assert str(masks / f'{names[0]}.png') in {where for where, _ in problems}


def test_files_of_coco_that_are_absent(coco):
    config, written = coco
    root = builders.load(config).root
    names = [name for folder, name in written if folder == 'train2017']
    (root / f'annotations/panoptic_train2017/{names[0]}.png').unlink()
    (root / f'train2017/{names[1]}.jpg').unlink()
    problems = [(finding.where.split('/')[-1], finding.message) for finding in errors(config)]
    assert (f'{names[0]}.png', 'no such file') in [
        (where, message.removeprefix('got ').split(';')[0]) for where, message in problems
    ]
    assert any(where == f'{names[1]}.png' and 'without an image' in m for where, m in problems)


def wrong_name(content):
    content['categories'][0]['name'] = 'human'


def new_category(content):
    content['categories'].append({'id': 201, 'name': 'spaceship'})


def no_size(content):
    del content['images'][1]['width']


def no_segments(content):
    del content['annotations'][2]['segments_info']


def same_segment(content):
    segments = content['annotations'][0]['segments_info']
    segments.append(segments[0])


def no_categories(content):
    del content['categories']


def is_null(part):
    """Returns a change that takes a list away."""
    return lambda content: content.update({part: None})


def category_in_a_list(content):
    content['categories'][0]['id'] = [1]


def image_twice(content):
    content['images'].append({**content['images'][0], 'height': 9})


def segment_id(value):
    """Returns a change of the id of a segment."""
    return lambda content: content['annotations'][0]['segments_info'][0].update(id=value)


def crowd_in_words(content):
    content['annotations'][0]['segments_info'][0]['iscrowd'] = 'no'


def endless_size(content):
    content['images'][1]['width'] = float('inf')


@pytest.mark.parametrize(
    ('spoil', 'where', 'says'),
    [
        (is_null('images'), 'images', 'a list'),
        (is_null('annotations'), 'annotations', 'a list'),
        (is_null('categories'), 'categories', 'a list'),
        (category_in_a_list, 'entry 0 of categories', '[1] is no whole number'),
        (image_twice, 'entry 3 of images', 'id 0 twice'),
        (segment_id(0), 'entry 0 of annotations', '0 is no whole number from 1 to 16777215'),
        (segment_id(7.5), 'entry 0 of annotations', '7.5 is no whole number'),
        (segment_id('7'), 'entry 0 of annotations', "'7' is no whole number"),
        (segment_id(10**30), 'entry 0 of annotations', 'is no whole number'),
        (crowd_in_words, 'entry 0 of annotations', "iscrowd 'no', not 0 or 1"),
        (endless_size, 'entry 1 of images', 'inf is no whole number'),
        (wrong_name, 'category 1', "expected: 'person'"),
        (new_category, 'category 201', "'spaceship'"),
        (no_size, 'entry 1 of images', "KeyError: 'width'"),
        (no_segments, 'entry 2 of annotations', "KeyError: 'segments_info'"),
        (same_segment, 'panoptic_train2017.json', 'twice'),
        (no_categories, 'panoptic_train2017.json', 'no categories'),
    ],
)
def test_malformed_json_is_named(coco, spoil, where, says):
    config, _ = coco
    change(builders.load(config).root, 'train2017', spoil)
    expect(config, where, says)


def test_a_file_that_is_no_json_is_named(coco):
    config, _ = coco
    path = builders.load(config).root / 'annotations/panoptic_train2017.json'
    path.write_text('{')
    expect(config, path, 'JSON')


def test_masks_in_one_channel_are_refused(coco):
    config, written = coco
    name = next(name for folder, name in written if folder == 'val2017')
    path = builders.load(config).root / f'annotations/panoptic_val2017/{name}.png'
    Image.open(path).convert('L').save(path)
    expect(config, path, 'one channel', 'three channels')


# --- training -------------------------------------------------------------------------------------


@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize('name', ['scenes', 'bedrooms', 'coco'])
def test_right_data_are_clean(name, request):
    config, _ = request.getfixturevalue(name)
    assert errors(config) == []


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_plain_segmentation_trains_on_150_classes(scenes, tmp_path):
    config, _ = scenes
    whole = experiment(config)
    assert doctor.main(whole) == 0
    driver.train(whole, str(tmp_path / 'run'))
    spec = json.loads((tmp_path / 'run/spec.json').read_text())
    assert len(spec['classes']['names']) == 150
