"""Frames with their neighbours: their choice, their content, and their common motion."""

import itertools
import pickle

import chex
import layouts
import ml_collections
import numpy as np
import pytest
from scipy import stats

from segjax import data
from segjax.data import clips, derived, index, loader, records, transforms
from segjax.data.builders.streets import Streets
from segjax.data.listing import Listing
from segjax.data.view import View
from segjax.errors import InputError
from segjax.protocol import DrawnFrames, Input, TableFrames
from segjax.schema import AUGMENT
from segjax.spec import Feature

SIZE = (16, 32)
FEATURES = ('image', 'image_frames', 'intrinsics', 'pose', 'pose_frames')


@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    """Returns a data set with a clip of eight frames and a clip of three frames."""
    config = layouts.data_config('streets', '', tmp_path_factory.mktemp('cache'))
    config.world.update(num_train=11, num_val=1, size=SIZE)
    return data.prepare(config)


def wanted(offsets, features=FEATURES, split='train', augment=None):
    return Input(split, 2, features, SIZE, augment, frames=offsets)


# Out of order, with a gap after frame 3 of clip a.
PLACES = [
    ('a', 3),
    ('b', 0),
    ('a', 2),
    ('a', 5),
    ('b', 1),
    ('a', 1),
    ('a', 0),
    ('b', 2),
    ('a', 6),
    ('a', 4 + 3),
]


def facts_of(places):
    """Returns the index of labelled frames at these (clip, number)."""
    sequences, frames = zip(*places)
    ones = np.ones(len(places), np.int64)
    nothing = np.zeros((len(places), 0), np.uint8)
    names = np.array([f'{clip}_{frame}' for clip, frame in places])
    clips_of = np.array(sequences)
    numbers = np.array(frames)
    return index.Index(ones, 0 * ones, clips_of, numbers, nothing, nothing, names, nothing)


def position_of(place):
    return PLACES.index(place) if place in PLACES else clips.ABSENT


@pytest.mark.parametrize('offsets', [(-1, 1), (1,), (-2, -1, 1, 2), (3,), (1, -1, 1)])
def test_examples_are_those_with_a_neighbour_at_every_offset(offsets):
    facts = facts_of(PLACES)
    places = clips.Places(facts.sequence, facts.frame)
    expected = []
    for position, (clip, frame) in enumerate(PLACES):
        near = [position_of((clip, frame + offset)) for offset in offsets]
        assert places.neighbours(position, offsets).tolist() == near
        if clips.ABSENT not in near:
            expected.append(position)
    assert clips.with_neighbours(facts, offsets).tolist() == expected
    assert expected or offsets == (-2, -1, 1, 2)


def test_of_two_frames_with_one_number_the_last_is_the_neighbour():
    facts = facts_of([('a', 0), ('a', 1), ('a', 1), ('a', 2)])
    places = clips.Places(facts.sequence, facts.frame)
    assert places.neighbours(0, (1,)).tolist() == [2]
    assert places.neighbours(3, (-1, 1)).tolist() == [2, clips.ABSENT]


def test_an_example_comes_with_its_neighbours(streets):
    source = streets.open_input(wanted((-1, 1)), 'sequence', 'frame', 'name')
    plain = streets.open_split('train', ('image', 'pose', 'name'))
    by_name = {plain[i]['name']: plain[i] for i in range(len(plain))}
    assert len(source) == 6 + 1
    for i in range(len(source)):
        example = source[i]
        clip, frame = example['sequence'], example['frame']
        for place, offset in enumerate((-1, 1)):
            neighbour = by_name[f'{clip}_{frame + offset}']
            np.testing.assert_array_equal(example['image_frames'][place], neighbour['image'])
            np.testing.assert_array_equal(example['pose_frames'][place], neighbour['pose'])
        np.testing.assert_array_equal(example['image'], by_name[example['name']]['image'])


def test_batches_have_the_shapes_that_init_is_shown(streets):
    inputs = wanted((-1, 1))
    settings = ml_collections.ConfigDict({'threads': 0, 'workers': 0, 'prefetch': 2})
    batches = loader.train_iterator(
        streets.open_input(inputs),
        inputs,
        seed=0,
        start_step=0,
        process_index=0,
        process_count=1,
        data_config=settings,
    )
    batch = next(batches)
    batches.close()
    shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
    assert shapes == {
        key: (value.shape, value.dtype) for key, value in loader.zeros(inputs, 2).items()
    }
    chex.assert_shape(batch['image_frames'], (2, 2, *SIZE, 3))
    chex.assert_shape(batch['pose_frames'], (2, 2, 4, 4))


def test_neighbours_move_with_their_frame(streets):
    augment = ml_collections.ConfigDict({key: field.default for key, field in AUGMENT.items()})
    augment.update({'crop': SIZE, 'scale': (1.0, 2.0), 'flip': 0.5, 'brightness': 0.4})
    example = streets.open_input(wanted((1,)))[2]
    alike = {**example, **{f'{key}_frames': example[key][None] for key in ('image', 'pose')}}
    mirror = np.diag([-1.0, 1, 1, 1])
    mirrored = 0
    for seed in range(8):
        moved = transforms.training(alike, np.random.default_rng(seed), augment)
        for key in ('image', 'pose'):
            np.testing.assert_array_equal(moved[f'{key}_frames'][0], moved[key])
        unchanged = np.array_equal(moved['pose'], example['pose'])
        assert unchanged or np.array_equal(moved['pose'], mirror @ example['pose'] @ mirror)
        mirrored += not unchanged
    assert 0 < mirrored < 8


def test_a_clip_of_one_frame_is_an_error(streets):
    with pytest.raises(InputError, match=r'no frame with neighbours at -1, \+1'):
        streets.open_input(wanted((-1, 1), split='val'))


def test_neighbours_without_frames_are_an_error(streets):
    with pytest.raises(InputError, match='image_frames'):
        streets.open_input(wanted(()))


# --- drawn neighbours -----------------------------------------------------------------------------


def draws_of(position, frames, places=PLACES, seeds=range(200)):
    """Returns the positions of the neighbours of an example, once for each seed."""
    facts = facts_of(places)
    draw = clips.Drawn(clips.Places(facts.sequence, facts.frame), frames)
    return [tuple(draw(position, {}, np.random.default_rng(seed)).tolist()) for seed in seeds]


def candidates_of(position, frames, places=PLACES):
    """Returns the positions of all frames that an example may be drawn with, by brute force."""
    clip, frame = places[position]
    return {
        other
        for other, (its_clip, its_frame) in enumerate(places)
        if its_clip == clip and (its_frame - frame in frames.offsets or other == position)
    }


@pytest.mark.parametrize(
    'frames',
    [
        DrawnFrames(3, (-2, -1, 0, 1, 2)),
        DrawnFrames(3, (2, -1, 1)),
        DrawnFrames(2, (-50, 3)),
        DrawnFrames(5, tuple(range(-50, 51))),
        DrawnFrames(1, (1, 2)),
    ],
)
def test_frames_are_drawn_from_the_offsets_that_exist(frames):
    facts = facts_of(PLACES)
    kept = clips.with_neighbours(facts, frames).tolist()
    enough = [p for p in range(len(PLACES)) if len(candidates_of(p, frames)) >= frames.count]
    assert kept == enough and kept, 'examples with too few frames are skipped'
    for position in kept:
        drawn = draws_of(position, frames)
        assert all(len(set(row)) == frames.count for row in drawn), 'without replacement'
        assert all(position in row for row in drawn), 'the example itself is always among them'
        numbers = [[PLACES[place][1] for place in row] for row in drawn]
        assert numbers == [sorted(row) for row in numbers], 'in the order of the clip'
        possible = candidates_of(position, frames) if frames.count > 1 else {position}
        assert set(itertools.chain(*drawn)) == possible


def test_an_example_takes_the_places_of_missing_frames():
    frames = DrawnFrames(5, (-2, -1, 0, 1, 2), fill=True)
    kept = clips.with_neighbours(facts_of(PLACES), frames).tolist()
    assert kept == list(range(len(PLACES))), 'no example is skipped'
    for position in kept:
        possible = candidates_of(position, frames)
        for row in draws_of(position, frames, seeds=range(20)):
            assert set(row) == possible, 'all frames that exist'
            assert row.count(position) == frames.count - len(possible) + 1
            numbers = [PLACES[place][1] for place in row]
            assert numbers == sorted(numbers)


def test_frames_that_suffice_are_drawn_as_without_filling():
    frames = DrawnFrames(3, (-2, -1, 0, 1, 2))
    for position in clips.with_neighbours(facts_of(PLACES), frames).tolist():
        filled = draws_of(position, frames._replace(fill=True), seeds=range(20))
        assert filled == draws_of(position, frames, seeds=range(20))


@pytest.mark.parametrize('position', [0, 3, 6])
def test_all_sets_of_frames_with_the_example_are_equally_likely(position):
    """Draws 4 of 6 frames: the example is certain, and 10 sets of the remaining frames."""
    frames = DrawnFrames(4, tuple(range(-9, 10)))
    places = [('a', number) for number in (4, 0, 7, 9, 1, 2)] + [('b', 3), ('b', 4), ('b', 5)]
    places += [('b', 0)]
    if position == 6:
        assert candidates_of(position, frames, places) == {6, 7, 8, 9}
        assert set(draws_of(position, frames, places)) == {(9, 6, 7, 8)}
        return
    drawn = draws_of(position, frames, places, seeds=range(5000))
    counts = {}
    for row in drawn:
        counts[row] = counts.get(row, 0) + 1
    assert len(counts) == 10
    assert stats.chisquare(list(counts.values())).pvalue > 0.01
    share = np.mean([[place in row for place in range(6)] for row in drawn], axis=0)
    np.testing.assert_allclose(np.delete(share, position), 3 / 5, atol=0.03)


DRAWN = DrawnFrames(3, tuple(range(-7, 8)))
DRAWN_FEATURES = ('label', 'image_frames', 'frame_frames', 'frame')


def batches_of(source, inputs, steps, *, start_step=0, process=(0, 1), **options):
    settings = {'threads': 2, 'workers': 0, 'prefetch': 2, **options}
    batches = loader.train_iterator(
        source,
        inputs,
        seed=3,
        start_step=start_step,
        process_index=process[0],
        process_count=process[1],
        data_config=ml_collections.ConfigDict(settings),
    )
    try:
        return [next(batches) for _ in range(steps)]
    finally:
        batches.close()


def evaluated(source, inputs, process=(0, 1), **options):
    settings = {'threads': 2, 'workers': 0, 'prefetch': 2, **options}
    return list(
        loader.eval_batches(
            source,
            inputs,
            process_index=process[0],
            process_count=process[1],
            data_config=ml_collections.ConfigDict(settings),
            max_size=SIZE,
        )
    )


def joined(shares):
    """Returns the global batches of several processes."""
    return [
        {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        for batches in zip(*shares)
    ]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs):
        chex.assert_trees_all_equal(our, their)


def test_a_drawn_clip_has_the_frames_of_its_numbers(streets):
    inputs = wanted(DRAWN, DRAWN_FEATURES)
    source = streets.open_input(inputs)
    plain = streets.open_split('train', ('image', 'label', 'sequence', 'frame'))
    by_place = {(plain[i]['sequence'], plain[i]['frame']): plain[i] for i in range(len(plain))}
    assert len(source) == len(plain), 'both clips have three frames or more'
    sequences = index.load(streets.folder, 'train').sequence
    for batch in batches_of(source, inputs, 6):
        assert {key: value.dtype.name for key, value in batch.items()} == {
            'label': 'uint8',
            'image_frames': 'uint8',
            'frame_frames': 'int32',
            'frame': 'int32',
            'weight': 'float32',
            'index': 'int32',
        }
        for row, position in enumerate(batch['index']):
            clip = sequences[position]
            assert batch['frame'][row] in batch['frame_frames'][row]
            own = by_place[clip, batch['frame'][row]]
            np.testing.assert_array_equal(batch['label'][row], own['label'])
            for place, number in enumerate(batch['frame_frames'][row]):
                neighbour = by_place[clip, number]['image']
                np.testing.assert_array_equal(batch['image_frames'][row, place], neighbour)


def test_only_the_drawn_frames_are_decoded_and_each_once(streets, monkeypatch):
    read = []

    class Counted(derived.SplitSource):
        def __getitem__(self, position):
            read.append(position)
            return super().__getitem__(position)

    monkeypatch.setattr(derived, 'SplitSource', Counted)
    source = streets.open_input(wanted(DRAWN, ('image', 'image_frames', 'frame_frames')))
    example = source.draw(2, np.random.default_rng(0))
    assert sorted(read) == sorted(example['frame_frames']) and len(read) == 3
    own = example['frame_frames'].tolist().index(2)
    np.testing.assert_array_equal(example['image_frames'][own], example['image'])


def test_frames_are_drawn_anew_in_each_epoch(streets):
    inputs = wanted(DRAWN, ('frame_frames',))._replace(batch_size=11)
    epochs = batches_of(streets.open_input(inputs), inputs, 4)
    drawn = [dict(zip(batch['index'].tolist(), batch['frame_frames'].tolist())) for batch in epochs]
    assert len({str(sorted(epoch.items())) for epoch in drawn}) == 4
    assert any(drawn[0][i] != drawn[1][i] for i in range(8))


def test_evaluation_draws_by_index_alone(streets):
    """Compares one process with two processes, workers, single examples and the pickled source."""
    inputs = wanted(DRAWN, DRAWN_FEATURES)._replace(batch_size=4)
    source = streets.open_input(inputs)
    whole = evaluated(source, inputs)
    shares = [evaluated(source, inputs, process=(i, 2)) for i in range(2)]
    assert_same(joined(shares), whole)
    assert_same(evaluated(source, inputs, workers=1, threads=1), whole)
    (again,) = [loader.examples(source, [4, 5, 6, 7], inputs, SIZE)]
    assert_same([again], [whole[1]])
    copied = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copied[5]['frame_frames'], whole[1]['frame_frames'][1])


def test_drawn_clips_are_the_same_in_workers_processes_and_after_a_restart(streets):
    inputs = wanted(DRAWN, DRAWN_FEATURES)._replace(part=(0.1, 0.9))
    source = streets.open_input(inputs)
    whole = batches_of(source, inputs, 7)
    assert_same(batches_of(source, inputs, 4, start_step=3), whole[3:])
    assert_same(joined([batches_of(source, inputs, 7, process=(i, 2)) for i in range(2)]), whole)
    assert_same(batches_of(source, inputs, 4, start_step=3, workers=2, threads=1), whole[3:])


def test_chosen_examples_keep_their_order(streets):
    facts = index.load(streets.folder, 'train')
    chosen = (9, 0, 4, 10, 3)
    kept = clips.with_neighbours(facts, (-1, 1), chosen)
    assert kept.tolist() == [9, 4, 3], 'frames 0 and 10 are at the ends of their clips'
    assert clips.with_neighbours(facts, DRAWN, chosen).tolist() == [9, 0, 4, 10, 3]
    assert clips.with_neighbours(facts, TABLE, chosen).tolist() == [9, 0, 4, 10, 3]


def test_a_source_that_hides_the_draw_is_no_source_of_drawn_frames(streets):
    inputs = wanted(DRAWN, ('frame_frames',))
    source = streets.open_input(inputs)

    class Hidden:
        def __len__(self):
            return len(source)

        def __getitem__(self, position):
            return source[position]

    with pytest.raises(TypeError, match='Hidden has no method draw'):
        batches_of(Hidden(), inputs, 1)


def test_a_label_of_the_example_joins_images_of_unlabelled_frames(streets, monkeypatch):
    """Labels only frames 1, 4 and 9 of 11: their neighbours may be any frame."""
    of_split = index.of_split

    def sparse(folder, split):
        facts = of_split(folder, split)
        labelled = np.isin(np.arange(len(facts.frame)), (1, 4, 9))
        return facts._replace(labelled_pixels=np.where(labelled, facts.labelled_pixels, 0))

    monkeypatch.setattr(index, 'of_split', sparse)
    inputs = wanted(DRAWN, DRAWN_FEATURES)._replace(examples='labelled')
    source = streets.open_input(inputs, 'name')
    assert [source[i]['frame'] for i in range(len(source))] == [1, 4, 1]
    numbers = np.stack([source.draw(1, np.random.default_rng(i))['frame_frames'] for i in range(9)])
    assert len(np.unique(numbers)) > 3
    listing = listed(streets, sparse)
    assert len(listing.open_input(inputs)) == 3


def listed(prepared, load=index.load):
    facts = {split: load(prepared.folder, split) for split in prepared.spec.num_examples}
    view = View(prepared.where, prepared.spec.num_examples, facts.__getitem__)
    return Listing(prepared.spec, prepared.where, view)


@pytest.mark.parametrize('split', ['train', 'train[:6]', 'train+val', 'val+train[2:]'])
@pytest.mark.parametrize(
    'frames', [(-1, 1), (2,), DRAWN, DrawnFrames(4, (-1, 1, 2)), DrawnFrames(6, DRAWN.offsets)]
)
def test_a_listing_has_the_same_number_of_examples(streets, frames, split):
    inputs = wanted(frames, ('image_frames',), split)
    assert len(listed(streets).open_input(inputs)) == len(streets.open_input(inputs))


def test_a_clip_that_is_too_short_to_draw_from_is_an_error(streets):
    inputs = wanted(DrawnFrames(9, DRAWN.offsets), ('image_frames',))
    for source in (streets, listed(streets)):
        with pytest.raises(InputError, match=r'no frame with 9 frames from -7 to \+7 in its clip'):
            source.open_input(inputs)


# --- neighbours from a table ----------------------------------------------------------------------


TABLE = TableFrames(2, 'near')


NEAR = {'near': Feature('number', (2,), dtype='int32')}


class WithTable(Streets):
    """The world with a table in its records: positions 2 i and 2 i + 1 of example i, modulo N."""

    declared = NEAR

    def features(self, items):
        return (*super().features(items), 'near')

    def examine(self, item):
        inspection = super().examine(item)
        count = {'train': 11, 'val': 1}[item.split]
        own = 8 * int(item.sequence.split('_')[1]) + item.frame
        inspection.record.features['near'] = np.array([2 * own, 2 * own + 1], np.int32) % count
        return inspection


@pytest.fixture(scope='module')
def with_table(tmp_path_factory):
    config = layouts.data_config('streets', '', tmp_path_factory.mktemp('cache'))
    config.world.update(num_train=11, num_val=1, size=SIZE)
    dataset = WithTable(config)
    folder = records.prepared(dataset, config.cache)
    return data.Prepared(records.load_spec(folder), folder, dataset.where)


@pytest.mark.parametrize('split', ['train', 'train[4:7]', 'val+train[4:7]', 'train+val'])
def test_a_table_has_positions_in_the_plain_split_of_the_example(with_table, split):
    inputs = wanted(TABLE, ('label', 'image_frames', 'frame_frames'), split)
    source = with_table.open_input(inputs, 'name')
    plain = {
        name: with_table.open_split(name, ('image', 'frame', 'name')) for name in ('train', 'val')
    }
    expected = len(with_table.open_split(split, ()))
    assert len(source) == expected
    for i in range(expected):
        example = source[i]
        own, clip, frame = example['name'].split('_')
        assert 'near' not in example
        for place in range(2):
            position = (2 * (8 * int(clip) + int(frame)) + place) % len(plain[own])
            neighbour = plain[own][position]
            np.testing.assert_array_equal(example['image_frames'][place], neighbour['image'])
            assert example['frame_frames'][place] == neighbour['frame']


def test_a_listing_has_all_examples_of_a_table(with_table):
    inputs = wanted(TABLE, ('image_frames',), 'train[2:9]')
    assert len(listed(with_table).open_input(inputs)) == 7 == len(with_table.open_input(inputs))


def test_a_table_is_read_in_batches(with_table):
    inputs = wanted(TABLE, ('image', 'image_frames'))
    source = with_table.open_input(inputs)
    batches = batches_of(source, inputs, 3)
    chex.assert_shape(batches[0]['image_frames'], (2, 2, *SIZE, 3))
    assert_same(batches_of(source, inputs, 2, start_step=1), batches[1:])


@pytest.mark.parametrize(
    'row, message',
    [
        (np.array([1, 11]), r"position 11[\s\S]*positions 0 .. 10 in split 'train'"),
        (np.array([-1, 1]), r'position -1'),
        (np.array([1, 2, 3]), r'int64 of shape \(3,\)[\s\S]*2 positions'),
        (np.array([1.0, 2.0]), r'float64 of shape \(2,\)'),
    ],
)
def test_a_wrong_row_of_a_table_names_the_example(row, message):
    parts = (index.Slice('val', 0, 1), index.Slice('train', 2, 9))
    reader = clips.FromTable(parts, {'val': 0, 'train': 1}, {'train': 11, 'val': 1}, TABLE, 'x')
    with pytest.raises(InputError, match=message) as error:
        reader(3, {'near': row}, np.random.default_rng(0))
    assert error.value.where == "feature 'near' of example 3 of x"
    good = reader(3, {'near': np.array([10, 0])}, np.random.default_rng(0))
    assert good.tolist() == [11, 1]


def test_a_data_set_without_the_table_is_an_error(streets):
    for source in (streets, listed(streets)):
        with pytest.raises(InputError, match="'near'"):
            source.open_input(wanted(TABLE, ('image_frames',)))


# --- neighbours that are drawn from a table -------------------------------------------------------


POOL = TableFrames(3, 'pool', drawn=True)
CANDIDATES = {'pool': Feature('number', (3, 4), dtype='int32')}
POOL_FEATURES = ('image', 'image_frames', 'frame_frames', 'present_frames')
NUM_IN_POOL = {'train': 11, 'val': 3}


def pool_of(own, count):
    """Returns the table of an example: three candidates, none, and in even examples one."""
    candidates = np.array([own + 1, -1, own + 3, own + 4]) % count
    candidates[1] = -1
    single = np.array([-1, -1, -1, (own + 5) % count if own % 2 == 0 else -1])
    return np.stack([candidates, np.full(4, -1), single]).astype(np.int32)


class WithPool(Streets):
    """The world with a table of candidates in its records."""

    declared = CANDIDATES

    def features(self, items):
        return (*super().features(items), 'pool')

    def examine(self, item):
        inspection = super().examine(item)
        own = 8 * int(item.sequence.split('_')[1]) + item.frame
        inspection.record.features['pool'] = pool_of(own, NUM_IN_POOL[item.split])
        return inspection


@pytest.fixture(scope='module')
def with_pool(tmp_path_factory):
    config = layouts.data_config('streets', '', tmp_path_factory.mktemp('cache'))
    config.world.update(num_train=11, num_val=3, size=SIZE)
    dataset = WithPool(config)
    folder = records.prepared(dataset, config.cache)
    return data.Prepared(records.load_spec(folder), folder, dataset.where)


@pytest.mark.parametrize('split', ['train', 'train[4:7]', 'val+train[4:7]', 'train[9:]+val'])
def test_a_drawn_neighbour_is_a_candidate_of_its_row_or_the_example_itself(with_pool, split):
    inputs = wanted(POOL, POOL_FEATURES, split)
    source = with_pool.open_input(inputs, 'name')
    plain = {name: with_pool.open_split(name, ('image',)) for name in NUM_IN_POOL}
    images = {name: [plain[name][i]['image'] for i in range(len(plain[name]))] for name in plain}
    for i, seed in itertools.product(range(len(source)), range(4)):
        example = source.draw(i, np.random.default_rng(seed))
        name, clip, frame = example['name'].split('_')
        own = 8 * int(clip) + int(frame)
        table = pool_of(own, NUM_IN_POOL[name])
        assert example['present_frames'].tolist() == [1, 0, float(own % 2 == 0)]
        assert example['present_frames'].dtype == np.float32
        for row, image in zip(table, example['image_frames'], strict=True):
            candidates = [images[name][place] for place in row if place >= 0] or [example['image']]
            assert any(np.array_equal(image, candidate) for candidate in candidates)


def test_all_candidates_of_a_row_are_equally_likely_and_rows_are_independent():
    parts = (index.Slice('train', 0, 11),)
    reader = clips.FromTable(parts, {'train': 0}, {'train': 11}, POOL, 'x')
    table = np.array([[1, -1, 3, 4], [6, 7, 8, 9], [-1, -1, -1, 5]])
    rng = np.random.default_rng(0)
    drawn = np.stack([reader(2, {'pool': table}, rng) for _ in range(6000)])
    _, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    assert len(counts) == 3 * 4 and set(drawn[:, 2]) == {5}
    assert stats.chisquare(counts).pvalue > 0.01


def test_the_rows_of_other_neighbours_do_not_change_a_draw():
    parts = (index.Slice('train', 0, 11),)
    reader = clips.FromTable(parts, {'train': 0}, {'train': 11}, POOL, 'x')
    full = np.array([[1, 2, 3, 4], [6, 7, 8, 9], [0, 5, 1, 10]])
    empty = full.copy()
    empty[0] = -1
    for seed in range(20):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        first, second = (reader(2, {'pool': t}, r) for t, r in zip((full, empty), rngs))
        assert first[1:].tolist() == second[1:].tolist() and second[0] == 2
        assert rngs[0].random() == rngs[1].random(), 'the augmentation'


def test_drawn_neighbours_are_the_same_in_processes_and_after_a_restart(with_pool):
    inputs = wanted(POOL, POOL_FEATURES)
    source = with_pool.open_input(inputs)
    whole = batches_of(source, inputs, 14)
    assert_same(batches_of(source, inputs, 4, start_step=3), whole[3:7])
    assert_same(
        joined([batches_of(source, inputs, 5, process=(i, 2)) for i in range(2)]), whole[:5]
    )
    shapes = {key: (value.shape, value.dtype) for key, value in whole[0].items()}
    assert shapes == {
        key: (value.shape, value.dtype) for key, value in loader.zeros(inputs, 2).items()
    }
    drawn = {}
    for batch in whole:
        for number, frames in zip(batch['index'].tolist(), batch['frame_frames'].tolist()):
            drawn.setdefault(number, set()).add(frames[0])
    assert any(len(frames) > 1 for frames in drawn.values()), 'drawn anew in each epoch'


@pytest.mark.slow
def test_drawn_neighbours_are_the_same_in_workers(with_pool):
    inputs = wanted(POOL, POOL_FEATURES)
    source = with_pool.open_input(inputs)
    whole = batches_of(source, inputs, 5)
    assert_same(batches_of(source, inputs, 2, start_step=3, workers=2, threads=1), whole[3:])


def test_evaluation_draws_neighbours_by_index_alone(with_pool):
    inputs = wanted(POOL, POOL_FEATURES)._replace(batch_size=4)
    source = with_pool.open_input(inputs)
    whole = evaluated(source, inputs)
    assert_same(joined([evaluated(source, inputs, process=(i, 2)) for i in range(2)]), whole)
    assert_same([loader.examples(source, [4, 5, 6, 7], inputs, SIZE)], [whole[1]])
    assert whole[-1]['weight'].tolist() == [1, 1, 1, 0]


def test_a_repeated_neighbour_is_read_once(with_pool, monkeypatch):
    read = []

    class Counted(derived.SplitSource):
        def __getitem__(self, position):
            read.append((self.features, position))
            return super().__getitem__(position)

    monkeypatch.setattr(derived, 'SplitSource', Counted)
    source = with_pool.open_input(wanted(POOL, ('label', 'image_frames')))
    source.draw(3, np.random.default_rng(0))
    places = [place for features, place in read if features == ('image',)]
    assert len(places) == 2 and 3 in places, 'rows 1 and 2 are the example itself'


@pytest.mark.parametrize(
    'table, message',
    [
        (np.full((3, 2), 11), r"position 11[\s\S]*positions 0 .. 10 in split 'train', or -1"),
        (np.full((3, 2), -2), r'position -2'),
        (np.zeros((2, 4), int), r'shape \(2, 4\)[\s\S]*3 positions: .* shape \(3, M\)'),
        (np.zeros(3, int), r'shape \(3,\)'),
    ],
)
def test_a_wrong_table_of_candidates_names_the_example(table, message):
    parts = (index.Slice('train', 0, 11),)
    reader = clips.FromTable(parts, {'train': 0}, {'train': 11}, POOL, 'x')
    with pytest.raises(InputError, match=message) as error:
        reader(3, {'pool': table}, np.random.default_rng(0))
    assert error.value.where == "feature 'pool' of example 3 of x"


def test_a_listing_has_all_examples_of_a_table_of_candidates(with_pool):
    inputs = wanted(POOL, POOL_FEATURES, 'train[2:9]')
    assert len(listed(with_pool).open_input(inputs)) == 7 == len(with_pool.open_input(inputs))


@pytest.mark.parametrize('frames', [(), (-1, 1), TableFrames(3, 'pool')])
def test_only_drawn_tables_have_the_presence_of_neighbours(with_pool, frames):
    inputs = wanted(frames, ('image', 'present_frames'))
    for source in (with_pool, listed(with_pool)):
        with pytest.raises(InputError, match='present'):
            source.open_input(inputs)


def test_neighbours_of_another_size_are_stretched_with_their_landmarks():
    """Compares a neighbour of the double size with the same scene at the size of the example."""
    declared = {'points_face': Feature('points', (1, 2))}
    scene = np.zeros((8, 12, 3), np.uint8)
    scene[4, 6] = 255
    example = {'image': scene, 'points_face': np.array([[6, 4]], np.float32)}
    large = {'image': scene.repeat(2, 0).repeat(2, 1), 'points_face': np.array([[12.5, 8.5]])}
    same, small = clips.fitted([example, large], example, declared)
    assert same is example
    np.testing.assert_array_equal(small['image'], scene)
    np.testing.assert_allclose(small['points_face'], [[6, 4]])
    kept, enlarged = clips.fitted([large, example], {'index': np.int32(3)}, declared)
    assert kept is large and enlarged['image'].shape == (16, 24, 3)
