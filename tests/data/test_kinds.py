"""Every kind of feature: declarations, types, records, batches of training and evaluation."""

import types

import ml_collections
import numpy as np
import pytest

from segjax.data import Prepared, index, kinds, loader, records, shards
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Inspection, Item, Record
from segjax.data.labels import CITYSCAPES
from segjax.errors import InputError
from segjax.protocol import Input
from segjax.schema import AUGMENT
from segjax.spec import DataSpec, Feature

SIZE = (24, 40)
EYES = ((0, 1),)
DECLARED = {
    'hha': Feature('planes', (3,)),
    'heat': Feature('planes', (68,), dtype='float32'),
    'mask': Feature('planes', (1,)),
    'segments': Feature('ids'),
    'superpixels': Feature('regions'),
    'parts': Feature('label'),
    'motion': Feature('flow'),
    'surface': Feature('normals'),
    'landmarks': Feature('points', (5, 2), EYES),
    'boxes': Feature('boxes', (3, 4)),
    'depth_scale': Feature('number'),
    'label_count': Feature('number', dtype='int32'),
    'posteriors': Feature('number', (4, 19)),
    'neighbours': Feature('number', (6,), dtype='int32'),
    'caption': Feature('text'),
}
"""Two keys begin with the name of a map, and are numbers."""


def example(number, size=SIZE):
    """Returns an example with a feature of every kind, from random numbers."""
    rng = np.random.default_rng(number)
    motion = rng.normal(0, 9, (*size, 2)).astype(np.float32)
    motion[3:5] = np.nan
    surface = rng.normal(size=(*size, 3)).astype(np.float32)
    surface /= np.linalg.norm(surface, axis=-1, keepdims=True)
    surface[0] = 0
    landmarks = rng.uniform(0, 20, (5, 2)).astype(np.float32)
    landmarks[4] = np.nan
    boxes = np.sort(rng.uniform(0, 20, (3, 2, 2)), axis=1).reshape(3, 4).astype(np.float32)
    boxes[2] = np.nan
    return {
        'image': rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        'label': rng.integers(0, 19, size, dtype=np.uint8),
        'instance': rng.integers(0, 2**16, size, dtype=np.uint16),
        'depth': rng.random(size, dtype=np.float32),
        'intrinsics': np.float32([[30, 0, 19.5], [0, 30, 11.5], [0, 0, 1]]),
        'pose': np.eye(4, dtype=np.float32),
        'hha': rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        'heat': rng.random((*size, 68), dtype=np.float32),
        'mask': rng.integers(0, 256, (*size, 1), dtype=np.uint8),
        # COCO: R + 256 G + 65536 B
        'segments': rng.integers(0, 2**24, size, dtype=np.int32),
        'superpixels': rng.integers(0, 500, size, dtype=np.int32),
        'parts': rng.integers(0, 7, size, dtype=np.uint8),
        'motion': motion,
        'surface': surface,
        'landmarks': landmarks,
        'boxes': boxes,
        'depth_scale': np.float32(rng.random()),
        'label_count': np.int32(rng.integers(2**31)),
        'posteriors': rng.random((4, 19), dtype=np.float32),
        'neighbours': rng.integers(0, 9, 6, dtype=np.int32),
        'caption': f'a street, {number}',
    }


class Everything(Dataset):
    """A data set with a feature of every kind."""

    name = 'everything'
    where = "data set 'everything'"
    classes = CITYSCAPES
    declared = DECLARED

    def options(self):
        return []

    def splits(self):
        return ('train', 'val')

    def scan(self, split):
        return [Item(split, f'{split}_{i}', sequence='clip', frame=i) for i in range(3)], []

    def features(self, items):
        return (*example(0), 'sequence', 'frame', 'name')

    def examine(self, item):
        features = {**example(item.frame), **base.text_features(item)}
        label = features['label']
        return Inspection(Record(features, base.histogram(label), label.shape), [])


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    dataset = Everything()
    folder = records.prepared(dataset, str(tmp_path_factory.mktemp('cache')))
    return Prepared(records.load_spec(folder), folder, dataset.where)


def config(**sections):
    return ml_collections.ConfigDict({'threads': 1, 'workers': 0, 'prefetch': 2, **sections})


def on_devices():
    return tuple(key for key in (*example(0), 'frame') if key != 'caption')


# --- declarations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('key', 'kind', 'shape', 'dtype'),
    [
        ('image', 'image', (3,), 'uint8'),
        ('image_prev', 'image', (3,), 'uint8'),
        ('label_frames', 'label', (), 'uint8'),
        ('photo/label', 'label', (), 'uint8'),
        ('instance', 'instance', (), 'uint16'),
        ('ids_of_segments', 'ids', (), 'int32'),
        ('depth_scale', 'depth', (), 'float32'),
        ('flow', 'flow', (2,), 'float32'),
        ('normals_frames', 'normals', (3,), 'float32'),
        ('intrinsics', 'intrinsics', (3, 3), 'float32'),
        ('pose_frames', 'pose', (4, 4), 'float32'),
        ('label_size', 'number', (2,), 'int32'),
        ('size', 'number', (2,), 'int32'),
        ('frame_frames', 'number', (), 'int32'),
        ('weight', 'number', (), 'float32'),
        ('name', 'text', (), 'str'),
    ],
)
def test_an_undeclared_key_has_the_kind_that_its_first_words_name(key, kind, shape, dtype):
    assert kinds.feature_of(key) == Feature(kind, shape, (), dtype)


def test_a_declaration_wins():
    assert kinds.feature_of('depth_scale', DECLARED) == Feature('number', (), (), 'float32')
    assert kinds.feature_of('motion_frames', DECLARED) == Feature('flow', (2,), (), 'float32')
    assert kinds.feature_of('landmarks', DECLARED).pairs == EYES
    of_photos = {'photo/parts': Feature('label'), 'label': Feature('number')}
    assert kinds.feature_of('photo/parts', of_photos).kind == 'label'
    assert kinds.feature_of('photo/label', of_photos).kind == 'label'


@pytest.mark.parametrize(
    ('key', 'declared', 'message'),
    [
        ('imagery', {}, "did you mean 'image'"),
        ('landmarks', {}, 'one of boxes, depth, '),
        ('motion', {'x': Feature('flwo')}, 'one of '),
        ('x', {'x': Feature('flwo')}, "did you mean 'flow'"),
        ('points', {}, r"declare its shape: 'points': Feature\('points', \(68, 2\)\)"),
        ('x', {'x': Feature('planes')}, r'expected: \(n\)'),
        ('x', {'x': Feature('boxes', (7, 2))}, r'expected: \(n, 4\)'),
        ('x', {'x': Feature('number', dtype='float64')}, 'float32 or int32'),
        ('x', {'x': Feature('points', (5, 2), ((0, 5),))}, 'from 0 to n - 1'),
        ('x', {'x': Feature('boxes', (5, 4), ((0, 1),))}, 'pairs of points'),
    ],
)
def test_what_is_no_feature_is_named(key, declared, message):
    with pytest.raises(InputError, match=message):
        kinds.feature_of(key, declared)


def test_declarations_survive_the_run_folder(prepared):
    assert prepared.spec.declared == DECLARED
    assert DataSpec.from_json(prepared.spec.to_json()) == prepared.spec


# --- records --------------------------------------------------------------------------------------


def test_every_kind_comes_back_from_records_as_it_was(prepared):
    source = prepared.open_split('val', tuple(example(0)))
    assert source.declared == DECLARED
    for number in range(3):
        stored = source[number]
        for key, value in example(number).items():
            np.testing.assert_array_equal(stored[key], value, err_msg=key)
            assert np.shape(stored[key]) == np.shape(value), key
            if np.ndim(value):
                assert stored[key].dtype == value.dtype, key


def test_maps_are_stored_in_their_own_bytes(prepared):
    """TFDS widens plain lists of numbers to 64 bits, and writes them number by number."""
    features = index.open_records(prepared.folder).info.features
    for key in set(on_devices()) - {'frame'}:
        feature = kinds.feature_of(key, DECLARED)
        if kinds.KINDS[feature.kind].storage == 'array' and example(0)[key].ndim:
            assert features[key]._encoding.value in ('bytes', 'zlib'), key


def test_records_without_declarations_have_the_metadata_that_they_had(tmp_path):
    class Plain(Everything):
        declared = types.MappingProxyType({})

        def features(self, items):
            return ('image', 'label', 'name')

        def examine(self, item):
            record = Everything().examine(item).record
            kept = {key: record.features[key] for key in self.features(())}
            return Inspection(record._replace(features=kept), [])

    folder = records.prepared(Plain(), str(tmp_path))
    assert 'declared' not in index.open_records(folder).info.metadata
    assert records.load_spec(folder).declared == {}


def test_records_depend_on_what_is_declared():
    one = Everything()
    other = Everything()
    other.declared = {**DECLARED, 'depth_scale': Feature('number', dtype='int32')}
    listings = {'train': one.listing('train')}
    prints = [records.fingerprint(dataset, listings) for dataset in (one, other)]
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('surface', np.full((*SIZE, 3), 0.5, np.float32), 'unit vectors'),
        ('motion', np.full((*SIZE, 2), np.inf, np.float32), 'finite'),
        ('motion', np.full((*SIZE, 2), [0, np.nan], np.float32), 'NaN for all'),
        ('landmarks', np.full((5, 2), [np.nan, 1], np.float32), 'NaN for all'),
        ('boxes', np.float32([[4, 0, 3, 1]] * 3), 'x0 <= x1'),
    ],
)
def test_values_that_contradict_their_kind_are_refused(key, value, message):
    class Wrong(Everything):
        def examine(self, item):
            inspection = super().examine(item)
            inspection.record.features[key] = value
            return inspection

    with pytest.raises(InputError, match=message) as error:
        Wrong().read(Item('train', 'train_0'))
    assert error.value.where.startswith(f'{key} of train_0')


# --- batches --------------------------------------------------------------------------------------


def shapes_of(batch):
    return {key: (value.shape, value.dtype.name) for key, value in batch.items()}


def augment(**options):
    settings = ml_collections.ConfigDict({key: field.default for key, field in AUGMENT.items()})
    settings.update({'crop': (16, 20), 'scale': (0.5, 2.0), 'rotate': 20.0, 'flip': 0.5, **options})
    return settings


def train_batch(prepared, **options):
    inputs = Input('train', 3, on_devices(), (16, 20), augment(**options))
    batches = loader.train_iterator(
        prepared.open_input(inputs),
        inputs,
        seed=0,
        start_step=0,
        process_index=0,
        process_count=1,
        data_config=config(),
    )
    batch = next(batches)
    batches.close()
    return inputs, batch


def test_a_training_batch_has_one_type_for_each_kind(prepared):
    inputs, batch = train_batch(prepared)
    features = {key: kinds.feature_of(key, prepared.spec.declared) for key in batch}
    travels = {
        'image': 'uint8',
        'label': 'uint8',
        'instance': 'int32',
        'ids': 'int32',
        'regions': 'int32',
        'depth': 'float32',
        'flow': 'float32',
        'normals': 'float32',
        'points': 'float32',
        'boxes': 'float32',
        'intrinsics': 'float32',
        'pose': 'float32',
    }
    for key, value in batch.items():
        feature = features[key]
        assert value.dtype == travels.get(feature.kind, feature.dtype), key
        assert value.shape == (3, *kinds.value_shape(feature, (16, 20))), key
    assert {feature.kind for feature in features.values()} == set(kinds.KINDS) - {'text'}

    # The step sees labels as int32, and `init` sees the batch of a step.
    seen = kinds.in_step(batch, prepared.spec.declared)
    assert shapes_of(seen) == shapes_of(loader.zeros(inputs, 3, prepared.spec.declared))
    assert seen['label'].dtype == seen['parts'].dtype == np.int32
    for key, value in batch.items():
        np.testing.assert_array_equal(seen[key], value)


def test_colours_change_in_images_alone(prepared):
    options = {'scale': (1.0, 1.0), 'rotate': 0.0, 'flip': 0.0}
    _, plain = train_batch(prepared, **options)
    _, bright = train_batch(prepared, brightness=0.5, contrast=0.5, hue=0.3, blur=0.9, **options)
    changed = [key for key in plain if not np.array_equal(plain[key], bright[key], equal_nan=True)]
    assert changed == ['image']


def test_evaluation_pads_targets_and_empties_the_padding_rows(prepared):
    inputs = Input('val', 2, on_devices(), (12, 20))
    batches = loader.eval_batches(
        prepared.open_input(inputs),
        inputs,
        process_index=0,
        process_count=1,
        data_config=config(),
        max_size=(30, 44),
    )
    full, padded = batches
    first = example(0)
    for key in on_devices():
        feature = kinds.feature_of(key, DECLARED)
        kind = kinds.KINDS[feature.kind]
        size = (12, 20) if kind.resized else (30, 44)
        assert full[key].shape == (2, *kinds.value_shape(feature, size)), key
        assert full[key].dtype == kinds.device_dtype(key, feature), key

        # Targets keep their pixels, and nothing is beside them.
        if kind.is_map and not kind.resized:
            np.testing.assert_array_equal(full[key][0, :24, :40], first[key], err_msg=key)
            outside = np.full((6, 44, *feature.shape), kind.fill, full[key].dtype)
            np.testing.assert_array_equal(full[key][0, 24:], outside, err_msg=key)

        # The second batch has the example 2, and a row of padding.
        absent = {'label': 255, 'instance': 0, 'ids': 0, 'depth': 0, 'normals': 0, 'regions': -1}
        absent |= {'flow': np.nan, 'points': np.nan, 'boxes': np.nan}
        expected = np.full_like(padded[key][1], absent.get(feature.kind, 0))
        if feature.kind not in absent:
            expected = full[key][0]
        np.testing.assert_array_equal(padded[key][1], expected, err_msg=key)
    np.testing.assert_array_equal(padded['weight'], [1, 0])
    # Images are halved, and points and boxes follow them.
    np.testing.assert_allclose(full['landmarks'][0], (first['landmarks'] + 0.5) / 2 - 0.5, 1e-5)
    np.testing.assert_allclose(full['boxes'][0], (first['boxes'] + 0.5) / 2 - 0.5, 1e-5)


def test_without_an_image_places_keep_the_pixels_of_the_targets(prepared):
    keys = ('label', 'landmarks', 'boxes', 'intrinsics')
    inputs = Input('val', 1, keys, (12, 20))
    batch = loader.examples(prepared.open_input(inputs), [1], inputs, (30, 44))
    assert batch['label'].shape == (1, 30, 44) and 'size' not in batch
    np.testing.assert_array_equal(batch['label_size'], [SIZE])
    for key in keys[1:]:
        np.testing.assert_array_equal(batch[key][0], example(1)[key])


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('label', np.full(SIZE, 256, np.int32), 'fit uint8'),
        ('segments', np.full(SIZE, 0.5, np.float32), 'segments'),
        ('neighbours', np.full(6, 2**40), 'fit int32'),
        ('neighbours', np.full(6, 0.5), 'fit int32'),
        ('posteriors', np.zeros((4, 18), np.float32), r'\(4, 19\)'),
        ('caption', 'a street', 'numbers'),
    ],
)
def test_values_that_no_device_type_holds_are_refused(key, value, message):
    class Source:
        declared = DECLARED

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {**example(index), key: value}

    inputs = Input('train', 1, (key,), SIZE)
    with pytest.raises(InputError, match=message):
        loader.examples(Source(), [0], inputs, SIZE)


def test_a_transform_declares_the_features_that_it_makes():
    inputs = Input('train', 2, ('image', 'heat'), SIZE, made=(('heat', Feature('planes', (5,))),))
    assert shapes_of(loader.zeros(inputs, 2))['heat'] == ((2, *SIZE, 5), 'uint8')
    assert loader.declared_of(inputs, Everything) == {**DECLARED, 'heat': Feature('planes', (5,))}


def test_encoded_files_are_stored_as_they_are():
    feature = kinds.feature_of('image')
    assert shards.stored_form(b'jpeg', feature) == b'jpeg'
    assert shards.stored_form('text', kinds.feature_of('name')) == 'text'
