"""Rows of a table as examples: order, indices, resuming, coverage, choices and refusals."""

import functools
import pickle
import time

import layouts
import ml_collections
import numpy as np
import pytest

from segjax import data
from segjax.data import (
    computation,
    derived,
    index,
    listing,
    loader,
    objects,
    records,
    table_rows,
)
from segjax.data.records import never_stop
from segjax.data.table_rows import Rows
from segjax.errors import InputError
from segjax.protocol import DrawnFrames, Input
from segjax.schema import AUGMENT
from segjax.spec import ClassSpec, Feature

SIZE = (8, 16)
TABLE = np.array(
    [[5, 0, 7], [0, 0, 0], [0, 3, 0], [1, 1, 1], [0, 0, -2], [9, 0, 0], [0, 0, 0]], np.int32
)
"""Values of the 3 rows of 7 images. Rows that are not 0 are 8 examples."""
PLACES = [(0, 0), (0, 2), (2, 1), (3, 0), (3, 1), (3, 2), (4, 2), (5, 0)]
"""(image, row) of these examples."""
INDICES = [0, 2, 7, 9, 10, 11, 14, 15]


class Images:
    """A source of images whose pixels are random and whose labels are the position."""

    def __init__(self, tables=TABLE):
        self.tables = tables

    def __len__(self):
        return len(self.tables)

    def __getitem__(self, position):
        return {
            'image': np.random.default_rng(position).integers(1, 256, (16, 32, 3), dtype=np.uint8),
            'label': np.full((16, 32), position, np.uint8),
            'table': self.tables[position],
            'name': f'frame_{position}',
        }


class Listed:
    """The same examples without a table: a source of each (image, row) pair."""

    def __len__(self):
        return len(PLACES)

    def __getitem__(self, position):
        image, row = PLACES[position]
        return {**Images()[image], 'row': np.int32(row)}


def rows_of(tables=TABLE):
    return Rows(Images(tables), functools.partial(np.copy, tables))


def draw(example, rng):
    """A transform that reads the row: it keeps value and row, and draws a number."""
    value = example['table'][example['row']]
    return {**example, 'value': np.int32(value), 'drawn': np.float32(rng.random())}


MADE = (
    ('value', Feature('number', dtype='int32')),
    ('drawn', Feature('number')),
)


def inputs(split='train', augment=True, **fields):
    config = ml_collections.ConfigDict({key: field.default for key, field in AUGMENT.items()})
    config.update({'crop': SIZE, 'scale': (0.5, 2.0), 'brightness': 0.3})
    settings = dict(
        features=('image', 'label', 'row', 'value', 'drawn'),
        augment=config if augment else None,
        each='table',
        transform=draw,
        reads=('image', 'label', 'table', 'row', 'name'),
        made=MADE,
    )
    return Input(split, 4, size=SIZE, **settings | fields)


def untransformed(*features, **fields):
    """Returns an input of stored features alone."""
    return inputs(transform=None, reads=(), made=(), features=features, **fields)


def data_config(threads=2, workers=0, prefetch=4):
    return ml_collections.ConfigDict({'threads': threads, 'workers': workers, 'prefetch': prefetch})


def train(steps, source=None, wanted=None, *, start_step=0, process=(0, 1), seed=3, **options):
    batches = loader.train_iterator(
        rows_of() if source is None else source,
        wanted or inputs(),
        seed=seed,
        start_step=start_step,
        process_index=process[0],
        process_count=process[1],
        data_config=data_config(**options),
    )
    try:
        return [next(batches) for _ in range(steps)]
    finally:
        batches.close()


def evaluate(source=None, wanted=None, process=(0, 1), **options):
    batches = loader.eval_batches(
        rows_of() if source is None else source,
        wanted or inputs('val', augment=False),
        process_index=process[0],
        process_count=process[1],
        data_config=data_config(**options),
        max_size=(16, 32),
    )
    return list(batches)


def assert_same(ours, theirs, without=()):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in set(one) - set(without):
            np.testing.assert_array_equal(one[key], other[key], key)


def joined(batches, key):
    return np.concatenate([batch[key] for batch in batches])


# --- training -------------------------------------------------------------------------------------


def test_every_epoch_has_each_row_once_with_its_image():
    """Trains for 3 epochs of 8 rows in batches of 4."""
    batches = train(6)
    seen = joined(batches, 'index').reshape(3, 8)
    assert [sorted(epoch) for epoch in seen.tolist()] == [INDICES] * 3
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 3, 'in another order'
    images, rows = np.divmod(seen.ravel(), 3)
    np.testing.assert_array_equal(rows, joined(batches, 'row'))
    np.testing.assert_array_equal(TABLE[images, rows], joined(batches, 'value'))
    for label, image in zip(joined(batches, 'label'), images, strict=True):
        assert set(np.unique(label)) <= {image, 255}


def test_rows_train_as_the_same_list_of_examples_without_a_table():
    """Compares with a source that has the examples of the rows. Only the indices differ."""
    plain = inputs(each='')
    assert_same(train(6), train(6, Listed(), plain), without=['index'])
    positions = joined(train(6, Listed(), plain), 'index')
    np.testing.assert_array_equal(np.array(INDICES)[positions], joined(train(6), 'index'))


def test_one_row_of_every_image_is_an_input_without_a_table():
    ones = rows_of(np.ones((7, 1), np.int32))
    wanted = untransformed('image', 'label')
    assert_same(train(5, ones, wanted), train(5, Images(), wanted._replace(each='')))
    wanted = wanted._replace(augment=None)
    assert_same(evaluate(ones, wanted), evaluate(Images(), wanted._replace(each='')))


@pytest.mark.parametrize('options', [dict(threads=1, prefetch=1), dict(threads=5, prefetch=9)])
def test_threads_change_nothing(options):
    assert_same(train(5), train(5, **options))


def test_workers_change_nothing_and_resume_anywhere():
    assert_same(train(5)[2:], train(3, start_step=2, workers=2, threads=1))


@pytest.mark.slow
def test_workers_change_no_evaluation():
    assert_same(evaluate(), evaluate(workers=2, threads=1))


@pytest.mark.parametrize('step', [1, 3, 4])
def test_resuming_equals_skipping(step):
    assert_same(train(6)[step:], train(6 - step, start_step=step))


@pytest.mark.parametrize('count', [2, 4])
def test_shares_of_the_processes_make_up_the_global_batch(count):
    shares = [train(4, process=(i, count)) for i in range(count)]
    for step, batch in enumerate(train(4)):
        for key, value in batch.items():
            parts = np.concatenate([share[step][key] for share in shares])
            np.testing.assert_array_equal(parts, value)


def test_a_part_is_a_share_of_the_images():
    """The parts of a table have the images that the parts of the same split have without it."""

    def images(part, each):
        wanted = untransformed('label', each=each, part=part)
        source = loader._part(rows_of() if each else Images(), wanted)
        return [int(source[i]['label'][0, 0]) for i in range(len(source))], source

    counts = []
    for part in ((0.0, 0.43), (0.43, 1.0)):
        chosen, _ = images(part, '')
        found, source = images(part, 'table')
        expected = [image for image in chosen for _ in range(np.count_nonzero(TABLE[image]))]
        assert found == expected
        rows = [(chosen[i // 3], i % 3) for i in source.indices.tolist()]
        assert all(TABLE[place] for place in rows) and len(set(rows)) == len(rows)
        assert table_rows.end_of(source) == 3 * len(chosen)
        counts.append(len(source))
    assert sum(counts) == 8 and min(counts) > 0


def test_unpaired_inputs_may_have_tables():
    """Joins rows with images. Each has an order of its own and indices of its own."""
    images = untransformed('label', each='')
    both = loader.SideBySide(
        loader.train_iterator(Images(), images, **settings(seed=1)),
        {'object': loader.train_iterator(rows_of(), inputs(), **settings(seed=2))},
    )
    batch = next(both)
    both.close()
    assert_same([{key: batch[f'object/{key}'] for key in train(1)[0]}], train(1, seed=2))


def settings(seed):
    return dict(
        seed=seed, start_step=0, process_index=0, process_count=1, data_config=data_config()
    )


def test_a_batch_of_zeros_has_the_types_of_a_batch():
    batch = loader.zeros(inputs(), 4)
    real = train(1)[0]
    assert {key: value.shape for key, value in batch.items()} == {
        key: value.shape for key, value in real.items()
    }
    assert batch['row'].dtype == real['row'].dtype == np.int32


# --- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 2, 3])
@pytest.mark.parametrize('batch_size', [1, 3, 5, 8, 11])
def test_evaluation_counts_every_row_once(batch_size, count):
    """Scatters the rows of all batches. Padding has weight 0, and an index that a scatter drops."""
    wanted = inputs('val', augment=False)._replace(batch_size=batch_size)
    shares = [evaluate(wanted=wanted, process=(i, count), threads=i) for i in range(count)]
    assert len({len(batches) for batches in shares}) == 1
    rows = [
        row
        for batches in zip(*shares, strict=True)
        for batch in batches
        for row in zip(batch['index'], batch['weight'], batch['value'], strict=True)
    ]
    real = [row for row in rows if row[1]]
    assert [row[0] for row in real] == INDICES
    assert [row[2] for row in real] == [TABLE[place] for place in PLACES]
    assert all(row[0] == TABLE.size for row in rows if not row[1])
    counts = np.zeros(TABLE.size)
    for place, weight, _ in rows:
        counts[place : place + 1] += weight
    np.testing.assert_array_equal(counts.reshape(TABLE.shape), TABLE != 0)


def test_the_random_numbers_of_a_row_depend_on_its_index_alone():
    """Removes rows of other images and of the same image. The remaining rows stay as they are."""
    fewer = TABLE.copy()
    fewer[0, 0] = fewer[3, 1] = 0
    whole = dict(zip(joined(evaluate(), 'index'), joined(evaluate(), 'drawn'), strict=True))
    batches = evaluate(rows_of(fewer))
    kept = {}
    for place, number, weight in zip(
        joined(batches, 'index'), joined(batches, 'drawn'), joined(batches, 'weight'), strict=True
    ):
        if weight:
            kept[place] = number
            assert number == np.float32(index.evaluation_generator(place).random())
    assert set(kept) == set(INDICES) - {0, 10}
    assert kept == {place: whole[place] for place in kept}


def test_examples_are_asked_for_by_their_index():
    wanted = inputs('val', augment=False)
    batch = loader.examples(rows_of(), [14, 2], wanted, (16, 32))
    whole = evaluate(wanted=wanted._replace(batch_size=8))[0]
    assert_same([batch], [{key: value[[6, 1]] for key, value in whole.items()}])
    for absent in (1, 20, 21):
        with pytest.raises(IndexError, match=f'no example has the index {absent}'):
            loader.examples(rows_of(), [absent], wanted, (16, 32))


def test_every_example_has_its_image():
    rows = rows_of()
    images = [table_rows.image_at(rows, position) for position in range(len(rows))]
    np.testing.assert_array_equal(images, np.nonzero(rows.present)[0])
    assert table_rows.image_at(rows.images, 3) == 3


# --- errors ---------------------------------------------------------------------------------------


def failing(example, rng):
    raise InputError('box', got='nothing', expected='an area')


def test_errors_of_a_transform_name_image_and_row():
    wanted = inputs('val', augment=False, transform=failing)
    with pytest.raises(InputError) as error:
        loader.examples(rows_of(), [7], wanted, (16, 32))
    assert error.value.where == "box of row 1 of example 2 of split 'val' (frame_2)"


def test_a_table_without_an_example_is_refused_with_its_numbers():
    empty = rows_of(np.zeros((7, 3), np.int32))
    for refuse in (lambda: train(1, empty), lambda: evaluate(empty)):
        with pytest.raises(InputError, match="the rows of 'table'") as error:
            refuse()
        assert '7 images with 3 empty rows each' in error.value.got and error.value.fix


def test_a_part_without_a_row_is_refused():
    order = index.part_positions(7, 0, 7)
    tables = TABLE.copy()
    tables[order[:3]] = 0
    wanted = inputs(part=(0.0, 0.43))
    with pytest.raises(InputError, match=r'in the part 0 to 0\.43') as error:
        loader.check_examples(rows_of(tables), wanted)
    assert '3 images' in error.value.got
    loader.check_examples(rows_of(tables), wanted, part=False)
    loader.check_examples(rows_of(tables), wanted._replace(part=(0.43, 1.0)))


# --- prepared data sets ---------------------------------------------------------------------------

FRAME = (48, 96)
CROP = objects.object_crop(
    ('car', 'person', 'bicycle'), data.labels.CITYSCAPES, size=32, min_side=4, max_side=40
)
TARGETS = objects.targets_feature(CROP, 4)


def prepare(folder, features=(TARGETS,), **sections):
    """Returns a prepared world with promised features."""
    config = layouts.data_config('streets', '', folder)
    config.world.update(num_train=16, num_val=8, size=FRAME)
    for key, value in sections.items():
        config[key] = value
    prepared = data.prepare(config)
    spec = derived.promised(prepared.spec, features)
    return prepared._replace(spec=spec, derived=tuple(features))


@pytest.fixture(scope='module')
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def world(cache_folder):
    """Returns a world whose targets are computed."""
    prepared = prepare(cache_folder)
    computation.make(prepared.store, [target_input('train+val')], 1, never_stop)
    return prepared


def target_input(split, **fields):
    """Returns an input whose examples are the objects of the images."""
    settings = dict(
        augment=None,
        transform=functools.partial(objects.crop_target, crop=CROP),
        reads=('label', 'instance', 'targets', 'row'),
        made=tuple(objects.MADE.items()),
        resize=False,
        each='targets',
    )
    return Input(split, 4, ('label', *objects.MADE), (32, 32), **settings | fields)


def tables_of(prepared, split):
    """Returns the tables of a split, computed one by one from the maps."""
    source = prepared.open_split(split, ('label', 'instance'))
    return np.stack([TARGETS.compute(source[i]) for i in range(len(source))])


@pytest.mark.parametrize('split', ['train', 'val', 'train[3:9]', 'val+train', 'train[:2]+val[-3:]'])
def test_the_examples_of_a_split_are_the_objects_of_its_images(world, split):
    source = world.open_input(target_input(split))
    tables = tables_of(world, split)
    np.testing.assert_array_equal(source.present, tables != 0)
    places = np.argwhere(tables)
    assert len(source) == len(places) > 3
    whole = world.open_split(split, ('name',))
    named = world.open_input(target_input(split), 'name')
    for position, (image, row) in enumerate(places):
        example = named[position]
        assert example['name'] == whole[int(image)]['name'] and example['row'] == row
        assert example['targets'][row] == tables[image, row]


def test_every_object_is_cut_once_in_an_evaluation(world):
    """Compares each batch with crops that are cut directly, object by object."""
    wanted = target_input('val')
    batches = evaluate(world.open_input(wanted), wanted)
    tables = tables_of(world, 'val')
    maps = world.open_split('val', ('label', 'instance'))
    indices = np.flatnonzero(tables)
    number = 0
    for batch in batches:
        for row in np.flatnonzero(batch['weight']):
            place = int(batch['index'][row])
            assert place == indices[number]
            image, object_row = divmod(place, 4)
            example = {
                **maps[image],
                'targets': tables[image],
                'row': np.int32(object_row),
            }
            cut = objects.crop_target(example, index.evaluation_generator(place), CROP)
            for key in ('label', 'mask_object', 'box', 'class_id'):
                np.testing.assert_array_equal(batch[key][row], cut[key])
            number += 1
    assert number == len(indices)


def test_an_input_is_opened_before_its_table_is_computed(tmp_path, cache_folder):
    """Computes only the tables that are read. Until then the images can be counted."""
    prepared = prepare(tmp_path)
    wanted = target_input('val')
    source = prepared.open_input(wanted)
    assert len(table_rows.images_of(source)) == 8
    with pytest.raises(InputError, match='records that cannot be read'):
        len(source)
    assert derived.names_read(wanted) == ('label', 'instance', 'targets')
    assert derived.names_read(wanted._replace(reads=('label',))) == ('label', 'targets')
    computation.make(prepared.store, [wanted], 1, never_stop)
    assert len(prepared.open_input(wanted)) == np.count_nonzero(tables_of(prepared, 'val'))


def test_a_source_survives_pickling(world):
    source = world.open_input(target_input('val'))
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == len(source)
    assert again[2]['row'] == source[2]['row']
    counted = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(counted.indices, source.indices)


# --- the choice of images -------------------------------------------------------------------------


def test_chosen_images_have_their_rows(world):
    """Chooses images of another order. Indices count the chosen images."""
    chosen = np.array([6, 1, 4])
    tables = tables_of(world, 'val')[chosen]
    source = world.open_input(target_input('val'), positions=chosen)
    np.testing.assert_array_equal(source.present, tables != 0)
    example = source[len(source) - 1]
    np.testing.assert_array_equal(example['targets'], tables[source.indices[-1] // 4])


def test_a_list_of_examples_has_the_rows_of_its_images(world, cache_folder, tmp_path):
    names = [world.open_split('train', ('name',))[i]['name'] for i in (9, 2, 5)]
    path = tmp_path / 'some.txt'
    path.write_text('\n'.join(names))
    listed = prepare(cache_folder, lists=(f'some=train:{path}',))
    source = listed.open_input(target_input('some'))
    np.testing.assert_array_equal(source.present, tables_of(world, 'train')[[9, 2, 5]] != 0)
    both = listed.open_input(target_input('val+some'))
    assert len(both) == len(world.open_input(target_input('val'))) + len(source)


def test_a_class_map_has_tables_of_its_own(cache_folder, tmp_path):
    """Merges persons and riders into one class. The table is that of the merged maps."""
    human = objects.train_ids_of(('human',), data.labels.CITYSCAPES_CATEGORIES.classes)
    crop = CROP._replace(classes=human, background_class=200)
    feature = objects.targets_feature(crop, 4)
    merged = prepare(cache_folder, (feature,), class_map='categories')
    computation.make(merged.store, [target_input('val')], 1, never_stop)
    source = merged.open_input(target_input('val'))
    maps = merged.open_split('val', ('label', 'instance'))
    expected = np.stack([feature.compute(maps[i]) for i in range(8)])
    np.testing.assert_array_equal(source.present, expected != 0)
    assert 0 < len(source) < len(prepare(cache_folder).open_input(target_input('val')))


def test_labelled_images_are_chosen_before_their_rows(tmp_path):
    """Merges everything but buses into void. Images without a bus are no labelled examples."""
    buses = tmp_path / 'buses.json'
    names = data.labels.CITYSCAPES.names
    ignored = ', '.join(f'"{name}"' for name in names if name != 'bus')
    buses.write_text(f'{{"classes": ["bus"], "ignore": [{ignored}]}}')
    crop = CROP._replace(classes=(0,), background_class=1)
    prepared = prepare(tmp_path, (objects.targets_feature(crop, 4),), class_map=str(buses))
    wanted = target_input('train', examples='labelled')
    computation.make(prepared.store, [wanted], 1, never_stop)
    source = prepared.open_input(wanted)
    labelled = index.positions(prepared.view.facts('train'), 'labelled')
    assert 0 < len(labelled) < 16
    assert table_rows.end_of(source) == 4 * len(labelled)
    everything = prepared.open_input(wanted._replace(examples='all'))
    np.testing.assert_array_equal(source.present, everything.present[labelled])


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'table, says',
    [
        ('targts', "did you mean 'targets'"),
        ('depth', "kind 'depth'"),
        ('frame', r'shape \(\)'),
        ('intrinsics', "kind 'intrinsics'"),
        ('sums', "type 'float32'"),
        ('pairs', r'shape \(2, 2\)'),
    ],
)
def test_a_feature_that_is_no_table_is_refused(cache_folder, table, says):
    """Both kinds of data sets refuse it before anything is computed."""
    further = (
        TARGETS._replace(name='sums', feature=Feature('number', (4,))),
        TARGETS._replace(name='pairs', feature=Feature('number', (2, 2), dtype='int32')),
    )
    prepared = prepare(cache_folder, (TARGETS, *further))
    listed = listing.Listing(prepared.spec, prepared.where, prepared.view)
    for each in (prepared, listed):
        with pytest.raises(InputError, match=says):
            each.open_input(target_input('val', each=table))


def test_neighbouring_frames_of_rows_are_refused(world):
    for frames in ((-1, 1), DrawnFrames(2, (-1, 1))):
        with pytest.raises(InputError, match='frames of an input whose examples are the rows'):
            world.open_input(target_input('val', frames=frames))


def test_a_listing_counts_images(world):
    listed = listing.Listing(world.spec, world.where, world.view)
    assert len(listed.open_input(target_input('val'))) == 8


# --- speed ----------------------------------------------------------------------------------------


class Numbers(data.builders.base.Dataset):
    """Records with a table alone, as a derived feature has them."""

    name = 'targets'
    where = 'numbers'
    classes = ClassSpec((), (), ())

    def __init__(self):
        self.declared = {'targets': Feature('number', (16,), dtype='int32')}

    def options(self):
        return []

    def splits(self):
        return ('train',)

    def scan(self, split):
        return [data.builders.base.Item(split, f'{i:05}', frame=i) for i in range(5000)], []

    def features(self, items):
        return ('targets',)

    def examine(self, item):
        value = np.arange(16, dtype=np.int32) * (np.arange(16) < item.frame % 9)
        record = data.builders.base.Record({'targets': value}, np.zeros(256, np.int64), (0, 0))
        return data.builders.base.Inspection(record, [])


def test_5000_tables_are_read_in_less_than_a_second(tmp_path):
    dataset = Numbers()
    folder = tmp_path / 'targets'
    records.write(dataset, {'train': dataset.listing('train')}, folder, never_stop)
    began = time.perf_counter()
    values = records.column(folder, 'train', 'targets', 'numbers')
    seconds = time.perf_counter() - began
    assert values.shape == (5000, 16) and values[8].tolist() == [*range(8), 0, 0, *[0] * 6]
    assert seconds < 1
    assert records.column(folder, 'train', 'targets', 'numbers') is values
