"""Inputs that combine derived features, class maps, lists, neighbours, choices and transforms."""

import concurrent.futures
import functools

import contract_data
import numpy as np
import pytest

from segjax import config as config_lib
from segjax import data
from segjax.core import parallel
from segjax.data import class_maps, computation, derived, loader
from segjax.data.records import never_stop
from segjax.protocol import Derived, DrawnFrames, Input, Product, TableFrames
from segjax.spec import Feature
from segjax.train.batches import declared_in_batch, train_batches
from segjax.train.run import Run

SIZE = (24, 48)


def histogram(example, num_classes):
    """[num_classes] number of pixels of each class."""
    label = np.asarray(example['label']).ravel()
    return np.bincount(label[label < 255], minlength=num_classes)[:num_classes].astype(np.int32)


def most_common(example):
    """[1] the most common class."""
    return np.argmax(example['histogram'])[None]


def nearest(examples):
    """[2] positions of the two examples whose histograms are most similar, the example first."""
    all_of = np.stack([example['histogram'] for example in examples]).astype(np.int64)
    distance = np.abs(all_of[:, None] - all_of[None]).sum(-1)
    np.fill_diagonal(distance, -1)
    return np.argsort(distance, axis=1, kind='stable')[:, :2]


def brightness(example):
    """[1] mean of all pixels."""
    return example['image'].mean(dtype=np.float64)[None].astype(np.float32)


def darkened(example, rng, factor):
    """Makes a dark image and a random mask, and keeps the histogram."""
    image = (example['image'] * factor).astype(np.uint8)
    mask = rng.integers(0, 2, (*image.shape[:2], 1), np.uint8)
    return {'image': image, 'mask': mask, 'histogram': example['histogram']}


def features_of(num_classes):
    counted = functools.partial(histogram, num_classes=num_classes)
    return (
        Derived('histogram', Feature('number', (num_classes,), dtype='int32'), ('label',), counted),
        Derived('common', Feature('number', (1,), dtype='int32'), ('histogram',), most_common),
        Derived('bright', Feature('number', (1,)), ('image',), brightness),
        Derived(
            'table', Feature('number', (2,), dtype='int32'), ('histogram',), nearest, whole=True
        ),
    )


def prepared(cache, class_map='', lists=(), **world):
    """Returns `streets` with derived features, which are computed for both splits."""
    config = config_lib.defaults('supervised').data
    config_lib.update(
        config,
        cache=str(cache),
        class_map=class_map,
        lists=lists,
        world=dict(num_train=10, num_val=5, size=SIZE, **world),
    )
    opened = data.prepare(config)
    features = features_of(opened.spec.classes.num_classes)
    opened = opened._replace(spec=derived.promised(opened.spec, features), derived=features)
    names = tuple(feature.name for feature in features)
    inputs = [Input(split, 1, names, SIZE) for split in ('train', 'val')]
    compute(opened, inputs)
    return opened


def compute(opened, inputs):
    """Computes derived features in threads of this process, which start at once."""

    def pool(num_workers, **_):
        return concurrent.futures.ThreadPoolExecutor(num_workers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concurrent.futures, 'ProcessPoolExecutor', pool)
        computation.make(opened.store, inputs, 1, never_stop)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def streets(cache):
    return prepared(cache)


@pytest.fixture(scope='module')
def merged(cache, streets):
    """Returns the data set with merged classes, and a list of six examples in another order."""
    plain = streets.open_split('train', ('name',))
    names = [plain[i]['name'] for i in (7, 2, 9, 4, 0, 5)]
    (cache / 'some.txt').write_text('\n'.join(names))
    return prepared(cache, 'categories', (f'some=train:{cache}/some.txt',))


# --- class maps -----------------------------------------------------------------------------------


def test_features_are_computed_from_merged_labels(streets, merged):
    table = class_maps.table(merged.view.class_map)
    num_classes = merged.spec.classes.num_classes
    assert num_classes < streets.spec.classes.num_classes
    own = streets.open_split('train', ('label', 'histogram', 'bright'))
    of_map = merged.open_split('train', ('label', 'histogram', 'common', 'bright'))
    for position in range(len(own)):
        label = table[own[position]['label']]
        np.testing.assert_array_equal(of_map[position]['label'], label)
        counts = np.bincount(label[label < 255], minlength=num_classes)
        np.testing.assert_array_equal(of_map[position]['histogram'], counts)
        assert of_map[position]['common'] == counts.argmax()
        assert own[position]['histogram'].shape == (streets.spec.classes.num_classes,)


def test_a_class_map_has_values_of_its_own_only_of_features_that_depend_on_labels(streets):
    other = streets.store._replace(class_map=streets.spec.class_maps['categories'])
    for name, depends in (
        ('histogram', True),
        ('common', True),
        ('table', True),
        ('bright', False),
    ):
        same = other.folder(name, 'train') == streets.store.folder(name, 'train')
        assert same != depends, name


def test_neighbours_have_merged_labels(streets, merged):
    inputs = Input('train', 1, ('label', 'label_frames'), SIZE, frames=(-1, 1))
    table = class_maps.table(merged.view.class_map)
    own, of_map = streets.open_input(inputs), merged.open_input(inputs)
    assert len(own) == len(of_map) > 0
    for position in range(len(own)):
        for key in ('label', 'label_frames'):
            np.testing.assert_array_equal(of_map[position][key], table[own[position][key]])


# --- lists, choices and neighbours ----------------------------------------------------------------


def names_of(source):
    return [source[i]['name'] for i in range(len(source))]


def test_positions_of_a_product_count_in_the_list(merged):
    inputs = Input('some', 1, ('bright',), SIZE, chosen=Product('before', 'positions'))
    listed = names_of(merged.open_input(inputs, 'name'))
    chosen = merged.open_input(inputs, 'name', positions=np.array([5, 0, 3]))
    assert names_of(chosen) == [listed[i] for i in (5, 0, 3)]


def test_positions_of_a_product_count_in_a_slice_of_a_list_and_in_sums(merged):
    inputs = Input('val[:2]+some[1:4]', 1, ('bright',), SIZE, chosen=Product('before', 'positions'))
    listed = names_of(merged.open_input(inputs._replace(chosen=None), 'name'))
    assert len(listed) == 5
    source = merged.open_input(inputs, 'name', positions=np.array([4, 0]))
    assert names_of(source) == [listed[4], listed[0]]
    whole = {}
    for split in ('train', 'val'):
        plain = merged.open_split(split, ('name', 'bright'))
        whole |= {plain[i]['name']: plain[i]['bright'] for i in range(len(plain))}
    for i in range(2):
        assert source[i]['bright'] == whole[source[i]['name']]


def test_a_part_is_a_part_of_the_chosen_labelled_examples(merged, monkeypatch):
    inputs = Input(
        'some',
        1,
        ('bright',),
        SIZE,
        part=(0.0, 0.5),
        examples='labelled',
        chosen=Product('before', 'positions'),
    )
    facts = merged.view.facts('some')
    labelled = facts._replace(labelled_pixels=np.array([9, 0, 9, 9, 9, 0]))
    monkeypatch.setattr(type(merged.view), 'facts', lambda view, split: labelled)
    listed = names_of(merged.open_input(inputs._replace(examples='all'), 'name'))
    source = merged.open_input(inputs, 'name', positions=np.array([5, 4, 1, 0, 3]))
    assert names_of(source) == [listed[i] for i in (4, 0, 3)]
    assert len(loader._part(source, inputs)) == 2 == np.diff(inputs.bounds(3))


def test_drawn_neighbours_of_a_chosen_list_have_their_own_derived_features(merged):
    inputs = Input(
        'some',
        1,
        ('image', 'bright', 'image_frames', 'bright_frames', 'frame_frames', 'histogram_frames'),
        SIZE,
        frames=DrawnFrames(2, (-2, -1, 1, 2)),
        chosen=Product('before', 'positions'),
    )
    listed = names_of(merged.open_split('some', ('name',)))
    source = merged.open_input(inputs, 'name', positions=np.array([3, 1, 4]))
    assert set(names_of(source)) <= {listed[i] for i in (3, 1, 4)} and len(source) > 0
    for number in range(len(source)):
        example = source.draw(number, np.random.default_rng(number))
        brightness_of = example['image_frames'].mean((1, 2, 3), dtype=np.float64)
        np.testing.assert_allclose(example['bright_frames'][:, 0], brightness_of, rtol=1e-6)
        assert example['bright'] in example['bright_frames']
        assert example['histogram_frames'].sum(-1).min() > 0


@pytest.mark.parametrize('split', ['train', 'train[3:7]', 'some', 'val+train[8:]', 'some[:2]+val'])
def test_a_derived_table_counts_in_the_plain_split(merged, split):
    features = ('name', 'table', 'name_frames', 'histogram', 'histogram_frames')
    source = merged.open_input(
        Input(split, 1, features, SIZE, frames=TableFrames(2, 'table')),
    )
    plain = {key: merged.open_split(key, ('name', 'histogram')) for key in ('train', 'val')}
    for number in range(len(source)):
        example = source[number]
        own = plain[example['name'].partition('_')[0]]
        expected = [own[int(i)]['name'] for i in example['table']]
        assert list(example['name_frames']) == expected and expected[0] == example['name']
        np.testing.assert_array_equal(example['histogram_frames'][0], example['histogram'])


# --- batches of several data sets -----------------------------------------------------------------


@pytest.fixture(scope='module')
def run(cache, merged):
    """Returns a run with `streets` and `figures`, which declare features of the same names."""
    contract_data.register()
    config = config_lib.defaults('supervised')
    config_lib.update(config, data=dict(cache=str(cache), threads=1))
    section = config.data.copy_and_resolve_references()
    section.name = 'figures'
    figures = data.prepare(section)
    feature = Derived(
        'histogram', Feature('number', (2,), dtype='int32'), ('label',), histogram_of_2
    )
    figures = figures._replace(spec=derived.promised(figures.spec, [feature]), derived=(feature,))
    compute(figures, [Input('train', 1, ('histogram',), SIZE)])
    topology = parallel.topology('pmap', 1)
    return Run(config, {'data': merged, 'figures': figures}, cache, topology)


def histogram_of_2(example):
    """[2] number of pixels of each class of `figures`."""
    return histogram(example, 2)


@pytest.mark.parametrize('num_workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_unpaired_inputs_have_the_features_of_their_data_sets_and_transforms(run, num_workers):
    config = run.config.copy_and_resolve_references()
    config.data.workers = num_workers
    figures = Input(
        'train',
        4,
        ('image', 'mask', 'histogram'),
        contract_data.SIZE,
        data='figures',
        transform=functools.partial(darkened, factor=0.25),
        reads=('image', 'histogram'),
        made=(('mask', Feature('planes', (1,))),),
    )
    inputs = Input('some', 2, ('image', 'histogram'), SIZE, unpaired=(('photo', figures),))
    changed = run._replace(config=config)
    batches = train_batches(changed, inputs, 0)
    batch = next(batches)
    batches.close()

    # The types that a step sees are those of the zeros that the net is built from.
    num_classes = run.datasets['data'].spec.classes.num_classes
    zeros = loader.zeros(inputs, 2, declared_in_batch(run, inputs))
    assert {key: value.shape for key, value in batch.items()} == {
        key: value.shape for key, value in zeros.items()
    }
    assert batch['histogram'].shape == (2, num_classes)
    assert batch['photo/histogram'].shape == (4, 2)
    assert batch['photo/image'].max() < 64 < batch['image'].max()
    assert set(np.unique(batch['photo/mask'])) == {0, 1}
    if num_workers:
        alone = train_batches(run, inputs, 0)
        expected = next(alone)
        alone.close()
        for key in batch:
            np.testing.assert_array_equal(batch[key], expected[key], err_msg=key)
