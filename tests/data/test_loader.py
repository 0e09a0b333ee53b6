"""Order, resuming, sharding, coverage and failure of the loader, on plain Python sources."""

import functools
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import chex
import grain
import ml_collections
import numpy as np
import pytest

from segjax.data import loader, transforms
from segjax.errors import InputError
from segjax.protocol import Input
from segjax.schema import AUGMENT
from segjax.spec import Feature

SIZE = (16, 32)


def make_source(count=10, fail_at=None, stall=False, sizes=None):
    class Source:  # local, so that worker processes get it by value
        def __len__(self):
            return count

        def __getitem__(self, index):
            if stall:
                time.sleep(600)
            if index == fail_at:
                raise InputError(f'image_{index}.png', got='garbage', expected='an image')
            height, width = sizes[index % len(sizes)] if sizes else SIZE
            values = np.random.default_rng(index)
            return {
                'image': values.integers(1, 256, (height, width, 3), dtype=np.uint8),
                'label': np.full((height, width), index, np.uint8),
                'depth': np.full((height, width), index + 1, np.float32),
                'intrinsics': np.diag([20.0, 20.0, 1.0]).astype(np.float32),
                'name': f'frame_{index}',
            }

    return Source()


def data_config(threads=2, workers=0, prefetch=4):
    return ml_collections.ConfigDict({'threads': threads, 'workers': workers, 'prefetch': prefetch})


def inputs(batch_size=4, features=('image', 'label'), size=(8, 16), **options):
    config = ml_collections.ConfigDict({key: field.default for key, field in AUGMENT.items()})
    config.update({'crop': size, 'scale': (0.5, 2.0), 'brightness': 0.3, **options})
    return Input('train', batch_size, features, size, config)


def train(steps, source=None, wanted=None, *, seed=0, start_step=0, process=(0, 1), **options):
    batches = loader.train_iterator(
        make_source() if source is None else source,
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


def evaluate(
    count=10,
    batch_size=4,
    process=(0, 1),
    features=('image', 'label'),
    max_size=(20, 33),
    **options,
):
    batches = loader.eval_batches(
        make_source(count, sizes=options.pop('sizes', None)),
        Input('val', batch_size, features, (8, 16)),
        process_index=process[0],
        process_count=process[1],
        data_config=data_config(**options),
        max_size=max_size,
    )
    return list(batches)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


# --- training -------------------------------------------------------------------------------------


def test_batch_has_the_contract_types():
    batch = train(1, wanted=inputs(features=('image', 'label', 'depth', 'intrinsics')))[0]
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        'image': ((4, 8, 16, 3), 'uint8'),
        'label': ((4, 8, 16), 'uint8'),
        'depth': ((4, 8, 16), 'float32'),
        'intrinsics': ((4, 3, 3), 'float32'),
        'weight': ((4,), 'float32'),
        'index': ((4,), 'int32'),
    }
    assert batch['weight'].tolist() == [1, 1, 1, 1]
    for label, index in zip(batch['label'], batch['index']):
        assert set(np.unique(label)) <= {index, 255}


def test_every_epoch_has_each_example_once_in_another_order():
    order = np.concatenate([batch['index'] for batch in train(15)]).reshape(6, 10)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(10), (6, 1)))
    assert len({tuple(epoch) for epoch in order.tolist()}) == 6


def test_order_and_augmentation_depend_on_the_seed_alone():
    assert_same(train(6), train(6))
    one, other = train(6), train(6, seed=1)
    assert any((a['index'] != b['index']).any() for a, b in zip(one, other))


def test_augmentation_differs_by_example_and_epoch():
    """Reads the same example ten times, and gets ten different pictures."""
    batch = train(1, make_source(1), inputs(batch_size=10))[0]
    assert batch['index'].tolist() == [0] * 10
    assert len({image.tobytes() for image in batch['image']}) == 10


@pytest.mark.parametrize(
    'options', [{'threads': 0}, {'threads': 4, 'prefetch': 1}, {'threads': 1, 'prefetch': 99}]
)
def test_threads_and_prefetch_change_nothing(options):
    assert_same(train(6), train(6, **options))


@pytest.mark.parametrize('threads, prefetch, expected', [(2, 5, 5), (12, 5, 12), (2, 1, 4)])
def test_examples_read_ahead_are_bounded(threads, prefetch, expected):
    """Counts the examples that wait: max(prefetch, threads, batch)."""
    started = []

    class Source:
        def __len__(self):
            return 200

        def __getitem__(self, index):
            started.append(index)
            return make_source(200)[index]

    batches = loader.train_iterator(
        Source(),
        inputs(),
        seed=0,
        start_step=0,
        process_index=0,
        process_count=1,
        data_config=data_config(threads=threads, prefetch=prefetch),
    )
    next(batches)
    time.sleep(0.5)
    batches.close()
    assert len(started) == expected + 4, 'what is ahead, and the batch that was given out'


def test_threads_are_the_usable_cores(monkeypatch):
    for cores, expected in ((3, 3), (40, 16)):
        monkeypatch.setattr(
            os, 'sched_getaffinity', lambda _, cores=cores: set(range(cores)), raising=False
        )
        assert loader.num_threads(data_config(threads=0)) == expected
        assert loader.num_threads(data_config(threads=0, workers=2)) == 1, (
            'workers are parallel already'
        )
    assert loader.num_threads(data_config(threads=5)) == 5


def test_workers_change_nothing_and_resume_anywhere():
    expected = train(9)
    assert_same(expected[:5], train(5, workers=2))
    assert_same(expected[3:], train(6, workers=1, threads=0, start_step=3))


@pytest.mark.parametrize('step', [1, 2, 5, 7, 40])
def test_resuming_equals_skipping(step):
    """Steps 2 and 7 end in the middle of an epoch of 2.5 batches, steps 5 and 40 on its border."""
    assert_same(train(step + 3)[step:], train(3, start_step=step))


@pytest.mark.parametrize('count', [2, 4])
def test_shares_of_the_processes_make_up_the_global_batch(count):
    whole = train(6)
    shares = [train(6, process=(i, count)) for i in range(count)]
    joined = [
        {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
        for batches in zip(*shares)
    ]
    assert_same(whole, joined)


def test_resuming_on_another_number_of_processes():
    whole = train(6)
    shares = [train(2, start_step=4, process=(i, 2), threads=i) for i in range(2)]
    joined = [
        {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
        for batches in zip(*shares)
    ]
    assert_same(whole[4:], joined)


@pytest.mark.parametrize('count', [1, 3])
def test_source_smaller_than_a_batch(count):
    order = np.concatenate([b['index'] for b in train(3, make_source(count))])
    for epoch in order.reshape(-1, count):
        assert sorted(epoch) == list(range(count))


def test_without_augmentation_examples_are_only_resized():
    batch = train(1, wanted=inputs()._replace(augment=None, size=(16, 40)))[0]
    example = make_source()[int(batch['index'][0])]
    np.testing.assert_array_equal(batch['image'][0, :, :32], example['image'])
    np.testing.assert_array_equal(batch['label'][0, :, :32], example['label'])
    assert (batch['label'][0, :, 32:] == 255).all() and not batch['image'][0, :, 32:].any()


# --- transforms of an input -----------------------------------------------------------------------


def unchanged(example, rng):
    return example


def draw_number(example, rng):
    """Adds a random number, the index and the length of the name, and paints the label."""
    number = np.float32(rng.random())
    return {
        **example,
        'number': number,
        'number_index': example['index'],
        'number_name': np.int32(len(example['name'])),
        'label': np.full_like(example['label'], int(100 * number)),
    }


NUMBERS = ('number', 'number_index', 'number_name')
DRAWN = Input(
    'train',
    4,
    ('image', 'label', *NUMBERS),
    SIZE,
    transform=draw_number,
    reads=('image', 'label', 'name', 'index'),
    made=tuple((name, Feature('number')) for name in NUMBERS),
    resize=False,
)


def test_a_transform_without_random_numbers_changes_nothing():
    plain = inputs(features=('image', 'label', 'depth', 'intrinsics'))
    assert_same(train(6, wanted=plain._replace(transform=unchanged)), train(6, wanted=plain))


def test_the_transform_comes_before_the_augmentation_with_the_same_generator():
    """Repeats a training example by hand, with the generator of its position."""
    wanted = inputs(features=('image', 'label', 'number'), batch_size=2)._replace(
        transform=draw_number, reads=DRAWN.reads, made=DRAWN.made[:1]
    )
    batches = train(5, wanted=wanted, seed=3)
    whole = grain.MapDataset.range(10).seed(3).shuffle().repeat()
    streams = whole.random_map(lambda index, rng: (index, rng.bit_generator.state))
    for step, batch in enumerate(batches):
        for row in range(2):
            index, state = streams[2 * step + row]
            rng = np.random.Generator(np.random.Philox())
            rng.bit_generator.state = state
            made = draw_number(make_source()[index] | {'index': index}, rng)
            kept = {key: made[key] for key in ('image', 'label', 'number')}
            expected = transforms.training(kept, rng, wanted.augment)
            assert batch['index'][row] == index
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key][row], value)


def test_a_transform_reads_name_and_index_and_its_surplus_is_dropped():
    batch = train(1, wanted=DRAWN)[0]
    assert batch.keys() == {*DRAWN.features, 'weight', 'index'}
    np.testing.assert_array_equal(batch['number_index'], batch['index'])
    assert batch['number_name'].tolist() == [7] * 4
    assert len(np.unique(batch['number'])) == 4
    assert (batch['label'] == (100 * batch['number']).astype(int)[:, None, None]).all()


def test_a_transform_reads_only_what_it_names():
    def names(example, rng):
        return {'number': np.int32(sorted(example) == ['depth'])}

    wanted = Input('train', 2, ('number',), SIZE, transform=names, reads=('depth',))
    assert train(1, wanted=wanted)[0]['number'].tolist() == [1, 1]
    missing = wanted._replace(reads=('depths',))
    with pytest.raises(InputError, match=r"'depths'[\s\S]*did you mean 'depth'"):
        train(1, wanted=missing)


@pytest.mark.slow
def test_transformed_examples_are_the_same_in_workers_processes_and_after_a_restart():
    whole = train(9, wanted=DRAWN)
    assert_same(train(6, wanted=DRAWN, start_step=3), whole[3:])
    assert_same(train(4, wanted=DRAWN, start_step=3, workers=2, threads=0), whole[3:7])
    shares = [train(9, wanted=DRAWN, process=(i, 2), threads=i) for i in range(2)]
    joined = [
        {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
        for batches in zip(*shares)
    ]
    assert_same(joined, whole)
    parts = DRAWN._replace(part=(0.2, 0.7))
    assert_same(train(6, wanted=parts)[2:], train(4, wanted=parts, start_step=2))


def evaluate_drawn(wanted, process=(0, 1), max_size=(20, 33), **options):
    return list(
        loader.eval_batches(
            make_source(),
            wanted,
            process_index=process[0],
            process_count=process[1],
            data_config=data_config(**options),
            max_size=max_size,
        )
    )


@pytest.mark.parametrize('resize', [True, False])
def test_evaluation_transforms_by_index_alone(resize):
    wanted = DRAWN._replace(resize=resize)
    batches = evaluate_drawn(wanted)
    numbers = np.concatenate([batch['number'] for batch in batches])
    expected = [np.float32(np.random.default_rng(i).random()) for i in [*range(10), 0, 0]]
    assert numbers.tolist() == expected
    if resize:  # worker processes take seconds to start
        assert_same(evaluate_drawn(wanted, workers=2), batches)
    one = loader.examples(make_source(), [7], wanted, (20, 33))
    np.testing.assert_array_equal(one['label'][0], batches[1]['label'][3])
    halves = [evaluate_drawn(wanted, process=(i, 2)) for i in range(2)]
    joined = [
        {key: np.concatenate([b[key] for b in pair]) for key in pair[0]} for pair in zip(*halves)
    ]
    assert_same(joined, batches)


def test_evaluation_without_resize_keeps_the_maps():
    batch = evaluate_drawn(DRAWN)[0]
    np.testing.assert_array_equal(batch['image'][2], make_source()[2]['image'])
    chex.assert_shape(batch['label'], (4, *SIZE))
    assert (batch['size'] == SIZE).all() and (batch['label_size'] == SIZE).all()
    last = evaluate_drawn(DRAWN)[-1]
    assert last['weight'].tolist() == [1, 1, 0, 0] and (last['label'][2:] == 255).all()


def drop_label(example, rng):
    return {key: value for key, value in example.items() if key != 'label'}


def halve_image(example, rng):
    return {**example, 'image': example['image'][::2]}


def test_errors_of_a_transform_name_it_and_the_example():
    wanted = Input('val', 4, ('image', 'label'), SIZE, transform=drop_label)
    with pytest.raises(InputError) as error:
        train(1, wanted=wanted)
    assert error.value.where.startswith("transform 'drop_label' of example ")
    assert error.value.got == 'an example without label'
    partial = wanted._replace(transform=functools.partial(halve_image), reads=('image', 'name'))
    partial = partial._replace(features=('image',), resize=False)
    for read in (lambda: train(1, wanted=partial), lambda: evaluate_drawn(partial)):
        with pytest.raises(
            InputError, match=r"'image' of example \d of split 'val' \(frame_\d\)[\s\S]*8 x 32"
        ) as error:
            read()
        assert error.value.expected == '16 x 32, the size of an input with resize=False'
        assert error.value.fix == "correct the transform 'halve_image'"


def test_maps_that_keep_their_size_are_not_augmented():
    with pytest.raises(InputError, match='resize=False'):
        train(1, wanted=inputs()._replace(resize=False, transform=unchanged))


def test_a_transform_that_worker_processes_cannot_get_is_refused_early():
    lock = threading.Lock()
    wanted = DRAWN._replace(transform=functools.partial(draw_number, lock=lock))
    for open_batches in (
        lambda: train(1, wanted=wanted, workers=1),
        lambda: evaluate_drawn(wanted, workers=1),
    ):
        with pytest.raises(InputError, match=r"'draw_number' with data\.workers=1") as error:
            open_batches()
        assert 'cannot be pickled' in error.value.got
        assert error.value.fix == '--config.data.workers=0'
    wanted = DRAWN._replace(transform=lambda example, rng: draw_number(example, rng))
    with pytest.raises(InputError, match='a function of a module'):
        train(1, wanted=wanted, workers=1)
    assert train(1, wanted=wanted)[0]['number'].size == 4


# --- errors and clean ends ------------------------------------------------------------------------


def test_parts_of_a_split_are_the_same_for_all_seeds_and_make_up_the_whole():
    def seen(part, seed):
        wanted = inputs(batch_size=2, features=('label',))._replace(part=part)
        return {
            int(v)
            for b in train(8, wanted=wanted, seed=seed)
            for v in np.unique(b['label'])
            if v != 255
        }

    first, rest = seen((0.0, 0.3), 0), seen((0.3, 1.0), 0)
    assert len(first) == 3 and first | rest == set(range(10)) and not first & rest
    assert seen((0.0, 0.3), 1) == first
    assert first != {0, 1, 2}, 'not simply the first ones'
    with pytest.raises(InputError, match='no examples'):
        seen((0.0, 0.01), 0)


def test_inputs_side_by_side_have_keys_and_an_order_of_their_own():
    photos = inputs(batch_size=2, features=('image',))
    streams = [
        loader.train_iterator(
            make_source(),
            wanted,
            seed=seed,
            start_step=3,
            process_index=0,
            process_count=1,
            data_config=data_config(),
        )
        for wanted, seed in ((inputs(batch_size=4), 0), (photos, 1))
    ]
    both = loader.SideBySide(streams[0], {'photo': streams[1]})
    batch = next(both)
    both.close()
    for key, value in train(1, seed=0, start_step=3)[0].items():
        np.testing.assert_array_equal(batch[key], value)
    for key, value in train(1, wanted=photos, seed=1, start_step=3)[0].items():
        np.testing.assert_array_equal(batch[f'photo/{key}'], value)
    assert batch.keys() == {
        'image',
        'label',
        'weight',
        'index',
        'photo/image',
        'photo/weight',
        'photo/index',
    }
    with pytest.raises(StopIteration):
        next(both)
    shapes = loader.zeros(inputs(batch_size=4)._replace(unpaired=(('photo', photos),)), 2)
    assert {key: value.shape[1:] for key, value in shapes.items()} == {
        k: v.shape[1:] for k, v in batch.items()
    }
    assert shapes['image'].shape[0] == 2 and shapes['photo/image'].shape[0] == 1, (
        'rows in proportion'
    )


def test_bad_inputs_are_refused():
    with pytest.raises(InputError, match='a multiple of 3'):
        train(1, process=(0, 3))
    with pytest.raises(InputError, match='no examples'):
        train(1, make_source(0))
    with pytest.raises(InputError, match=r'augment\.crop'):
        train(1, wanted=inputs()._replace(size=(8, 17)))
    with pytest.raises(InputError, match=r"'labels'[\s\S]*did you mean 'label'"):
        train(1, wanted=inputs(features=('image', 'labels')))
    with pytest.raises(InputError, match=r'name[\s\S]*expected: +numbers'):
        train(1, wanted=inputs(features=('image', 'name')))


@pytest.mark.parametrize('options', [{'threads': 0}, {'threads': 2}, {'threads': 1, 'workers': 1}])
def test_errors_of_the_source_arrive_as_themselves(options):
    with pytest.raises(InputError) as error:
        train(10, make_source(fail_at=7), **options)
    assert (error.value.where, error.value.got) == ('image_7.png', 'garbage')


def test_errors_of_an_example_name_it():
    with pytest.raises(InputError, match=r"example 1 of split 'val' \(frame_1\)[\s\S]*21 x 33"):
        evaluate(3, sizes=[(20, 33), (21, 33)])


def worker_ids():
    return {process.pid for process in multiprocessing.active_children()}


def test_close_ends_workers_that_were_never_read_from():
    """Closes the loader when the second worker has just started."""
    before = worker_ids()
    train(1, workers=2, threads=0)
    deadline = time.monotonic() + 10
    while worker_ids() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker_ids() - before


STALLED = """
    import multiprocessing, sys, threading, time
    import ml_collections
    from segjax.data import loader
    from segjax.protocol import Input

    class Stalled:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            time.sleep(600)

    if __name__ == '__main__':
        batches = loader.eval_batches(
            Stalled(), Input('val', 2, ('image',), (8, 8)),
            process_index=0, process_count=1, max_size=(8, 8),
            data_config=ml_collections.ConfigDict({'threads': 1, 'workers': 1, 'prefetch': 1}),
        )
        threading.Thread(target=lambda: next(batches), daemon=True).start()
        while not multiprocessing.active_children():
            time.sleep(0.05)
        time.sleep(4)  # the worker has started and hangs in its first read
        print(multiprocessing.active_children()[0].pid, flush=True)
        sys.stdin.readline()
        batches.close()
        print(len(multiprocessing.active_children()), flush=True)
"""


def alive(process_id):
    try:
        with open(f'/proc/{process_id}/stat') as stat:
            return stat.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='looks for processes in /proc')
@pytest.mark.parametrize('end', ['close', 'kill'])
def test_stalled_workers_end_with_the_iterator_and_with_the_main_process(tmp_path, end):
    script = tmp_path / 'stalled.py'
    script.write_text(textwrap.dedent(STALLED))
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}
    main = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    watchdog = threading.Timer(40, main.kill)
    watchdog.start()
    try:
        worker = int(main.stdout.readline())
        assert alive(worker)
        if end == 'close':
            start = time.monotonic()
            main.stdin.write('\n')
            main.stdin.flush()
            assert main.stdout.readline() == '0\n'
            assert time.monotonic() - start < 8
    finally:
        main.kill()
        main.communicate()
        watchdog.cancel()
    deadline = time.monotonic() + 8
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def test_iterator_ends_for_good():
    batches = loader.eval_batches(
        make_source(3),
        Input('val', 2, ('label',), (8, 16)),
        process_index=0,
        process_count=1,
        data_config=data_config(),
        max_size=SIZE,
    )
    assert len(list(batches)) == 2
    assert next(batches, None) is None
    batches.close()


# --- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize('batch_size', range(1, 8))
@pytest.mark.parametrize('count', [1, 2, 3])
def test_evaluation_counts_every_example_once(batch_size, count):
    shares = [evaluate(10, batch_size, (i, count), threads=i) for i in range(count)]
    assert len({len(batches) for batches in shares}) == 1
    rows = []
    for batches in zip(*shares):
        assert len({batch['index'].shape for batch in batches}) == 1
        rows += [row for batch in batches for row in zip(*map(batch.get, COLUMNS))]
    assert [row[0] for row in rows[:10]] == list(range(10))
    assert [row[1] for row in rows] == [1] * 10 + [0] * (len(rows) - 10)
    for index, weight, label, (height, width) in rows:
        assert (label[:height, :width] == (index if weight else 255)).all()
        assert index == 10 or weight


COLUMNS = ('index', 'weight', 'label', 'label_size')


def test_evaluation_padding_is_finite_and_void():
    last = evaluate(3, 2, features=('image', 'label', 'depth', 'intrinsics'))[-1]
    assert last['weight'].tolist() == [1, 0]
    assert (last['label'][1] == 255).all() and not last['depth'][1].any()
    assert last['image'][1].any() and np.linalg.det(last['intrinsics'][1]) > 0
    assert last['size'][1].tolist() == [8, 16]


def test_evaluation_labels_keep_their_own_sizes():
    sizes = [(20, 30), (10, 33), (16, 32)]
    batch = evaluate(3, 3, sizes=sizes)[0]
    chex.assert_shape(batch['image'], (3, 8, 16, 3))
    chex.assert_shape(batch['label'], (3, 20, 33))
    assert batch['label_size'].tolist() == [list(size) for size in sizes]
    assert batch['size'].tolist() == [[8, 12], [5, 16], [8, 16]]
    for label, (height, width), index in zip(batch['label'], sizes, batch['index']):
        assert (label == index).sum() == height * width


def test_evaluation_with_workers_is_the_same():
    assert_same(evaluate(10, 3), evaluate(10, 3, workers=2, threads=1))


def test_chosen_examples_are_those_of_the_evaluation():
    batch = loader.examples(
        make_source(), [7, 2], Input('val', 4, ('image', 'label'), (8, 16)), (20, 33)
    )
    (whole,) = evaluate(10, 10)
    assert_same([batch], [{key: value[[7, 2]] for key, value in whole.items()}])
