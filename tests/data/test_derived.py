"""Derived features: their values, places, errors, and interrupted, parallel and damaged making."""

import concurrent.futures
import functools
import os
import pathlib
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time

import layouts
import moving_scene
import numpy as np
import pytest
import toy_features
from toy_features import CHANGE, DARKER, color, share

from segjax import data
from segjax.data import cache, computation, derived, records, shards
from segjax.data.records import never_stop
from segjax.errors import InputError
from segjax.protocol import Input, TableFrames
from segjax.spec import ClassMap, ClassSpec, DataSpec, Feature

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SIZE = (16, 32)


def prepare(cache_folder, *features, num_train=11):
    """Returns the world `streets` with two clips of eight and three frames, and features."""
    config = layouts.data_config('streets', '', cache_folder)
    config.world.update(num_train=num_train, num_val=2, size=SIZE)
    plain = data.prepare(config)
    return plain._replace(spec=derived.promised(plain.spec, features), derived=features)


def read(*features, split='train', **fields):
    return Input(split, 2, features, SIZE, **fields)


def make(prepared, *inputs, workers=2, check_stop=never_stop):
    return computation.make(prepared.store, inputs, workers, check_stop)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def direct(prepared, split='train'):
    """Returns the values of color and change of every example, computed here."""
    source = prepared._replace(derived=()).open_split(split, ('image', 'name', 'sequence', 'frame'))
    examples = [source[i] for i in range(len(source))]
    colors = [toy_features.mean_color(example) for example in examples]
    changes = []
    for example in examples:
        clip = [i for i, each in enumerate(examples) if each['sequence'] == example['sequence']]
        rows = []
        for offset in CHANGE.frames:
            distances = [abs(examples[i]['frame'] - example['frame'] - offset) for i in clip]
            rows.append(clip[int(np.argmin(distances))])
        near = {
            'image_frames': np.stack([examples[i]['image'] for i in rows]),
            'color_frames': np.stack([colors[i] for i in rows]),
        }
        changes.append(toy_features.change(example | near))
    return colors, changes


# --- values ---------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Returns a data set with computed features."""
    prepared = prepare(tmp_path_factory.mktemp('cache'), color(), CHANGE, DARKER)
    inputs = (read('change', 'darker'), read('change', split='val'))
    make(prepared, *inputs)
    return prepared


def test_values_are_equal_to_a_direct_computation(made):
    source = made.open_split('train', ('change', 'image', 'color', 'name'))
    colors, changes = direct(made)
    assert len(source) == 11
    for i in range(11):
        assert list(source[i]) == ['change', 'image', 'color', 'name']
        np.testing.assert_array_equal(source[i]['color'], colors[i])
        np.testing.assert_array_equal(source[i]['change'], changes[i])
        assert source[i]['change'].dtype == np.float32


def test_a_feature_of_the_whole_split_has_seen_all_examples(made):
    colors, _ = direct(made)
    expected = np.argsort([each.mean() for each in colors])[:2]
    source = made.open_split('train', ('darker',))
    for i in range(11):
        np.testing.assert_array_equal(source[i]['darker'], expected)


def test_slices_and_sums_have_the_values_of_their_examples(made):
    every = {split: direct(made, split)[0] for split in ('train', 'val')}
    source = made.open_split('val+train[3:9]+train[:2]', ('color',))
    expected = every['val'] + every['train'][3:9] + every['train'][:2]
    assert len(source) == len(expected)
    for i, value in enumerate(expected):
        np.testing.assert_array_equal(source[i]['color'], value)
    with pytest.raises(IndexError):
        source[len(source)]


def test_neighbours_have_their_derived_features(made):
    source = made.open_input(read('image', 'color_frames', frames=(-1, 1)), 'frame')
    colors, _ = direct(made)
    names = [made.open_split('train', ('frame',))[i]['frame'] for i in range(11)]
    complete = [i for i in range(1, 10) if names[i - 1] + 2 == names[i] + 1 == names[i + 1]]
    assert len(source) == len(complete) == 7
    for i, position in enumerate(complete):
        expected = [colors[position - 1], colors[position + 1]]
        np.testing.assert_array_equal(source[i]['color_frames'], expected)


def test_threads_and_other_processes_read_the_same(made):
    source = made.open_split('train', ('color', 'change'))
    copied = pickle.loads(pickle.dumps(source))
    expected, _ = direct(made)
    order = list(range(11)) * 6
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for i, example in zip(order, pool.map(copied.__getitem__, order), strict=True):
            np.testing.assert_array_equal(example['color'], expected[i])


def test_an_unknown_feature_is_compared_with_derived_features_too(made):
    with pytest.raises(InputError, match="did you mean 'change'"):
        made.open_split('train', ('chang',))
    with pytest.raises(InputError, match='no split'):
        made.open_split('test', ('change',))


def test_values_that_are_not_computed_are_an_error_when_they_are_read(tmp_path):
    source = prepare(tmp_path, color()).open_split('train', ('color',))
    assert len(source) == 11
    with pytest.raises(InputError, match='start again'):
        source[0]


@pytest.mark.parametrize('offsets', [(-1, 1), (3,), (0, -2)])
def test_the_nearest_frame_of_a_clip_replaces_a_neighbour_that_does_not_exist(offsets):
    # Clip a has a gap, out of order. The last two are stills.
    places = [('a', 5), ('b', 0), ('a', 1), ('a', 0), ('b', 1), ('a', 8), ('', 0), ('', 0)]
    sequences, frames = map(np.array, zip(*places))
    positions = computation.nearest(sequences, frames, offsets)
    for i, (sequence, frame) in enumerate(places):
        for j, offset in enumerate(offsets):
            members = [k for k in range(6) if places[k][0] == sequence] or [i]
            distance = {k: (abs(frame + offset - frames[k]), frames[k]) for k in members}
            assert positions[i, j] == min(distance, key=distance.get)


def test_clips_with_missing_frames_inside_are_named(tmp_path, in_threads, capsys):
    feature = share(reads=('label', 'name', 'frame_frames'), frames=(-2, 1))
    for skipped, named in (((), False), ((0, 6), False), ((4,), True), ((2,), False)):
        prepared = labelled_scene(tmp_path / str(skipped), feature, skipped=skipped)
        make_labelled(prepared, 'share')
        said = 'frames are missing inside of 2 clips: clip_0, clip_1' in capsys.readouterr().out
        assert said == named


def test_stills_have_no_neighbours(tmp_path):
    _, classes = layouts.write_folder(tmp_path / 'raw')
    config = layouts.data_config('folder', tmp_path / 'raw', tmp_path / 'cache', classes=classes)
    plain = data.prepare(config)
    feature = CHANGE._replace(reads=('image', 'image_frames'))
    prepared = plain._replace(derived=(feature,))
    with pytest.raises(InputError, match='clips of consecutive frames'):
        make(prepared, read('change'))


# --- specification --------------------------------------------------------------------------------


def test_the_specification_promises_features_and_takes_them_back(tmp_path):
    plain = prepare(tmp_path).spec
    spec = derived.promised(plain, (color(), CHANGE))
    assert spec.features == (*plain.features, 'color', 'change')
    assert spec.declared['change'] == CHANGE.feature and set(spec.derived) == {'color', 'change'}
    assert DataSpec.from_json(spec.to_json()) == spec
    assert derived.promised(spec, (color(version=2),)).derived != spec.derived
    assert derived.without_derived(spec) == plain == derived.promised(plain, ())


WRONG = {
    'the name of a feature of the records': (color(name='image'), 'the name of a feature'),
    'a name that is no file': (color(name='a/b'), 'letters, digits'),
    'an unknown feature': (color(reads=('imag',)), "did you mean 'image'"),
    'a later feature': (color(reads=('change',)), "it reads 'change', but the data set has"),
    'frames that are not read': (color(frames=(1,)), 'frames if and only if'),
    'neighbours without frames': (color(reads=('image_frames',)), 'frames if and only if'),
    'settings of arrays': (color(settings={'x': object()}), 'settings of JSON'),
    'a function in a function': (color()._replace(compute=lambda x: x), 'function of a module'),
    'an unknown kind': (color(feature=Feature('numbr', (3,))), "did you mean 'number'"),
}


@pytest.mark.parametrize('feature, message', WRONG.values(), ids=WRONG)
def test_a_wrong_feature_is_refused(tmp_path_factory, feature, message):
    spec = prepare(tmp_path_factory.getbasetemp() / 'plain').spec
    with pytest.raises(InputError, match=message):
        derived.promised(spec, (feature, CHANGE))


def test_inputs_need_the_features_that_they_read_and_no_more(tmp_path):
    store = prepare(tmp_path, color(), CHANGE, DARKER).store

    def needed(*inputs):
        return [(feature.name, split) for feature, split in store.needed(inputs)]

    assert needed(read('image'), read('label', split='val')) == []
    assert needed(read('color_frames')) == [('color', 'train')]
    both = needed(read('change'), read('color', split='val[:1]+train'))
    assert both == [('color', 'train'), ('color', 'val'), ('change', 'train')]
    table = read('image_frames', frames=TableFrames(2, 'darker'))
    assert needed(table) == [('color', 'train'), ('darker', 'train')]
    transformed = read('x', made=(('x', Feature('number')),), reads=('color',))
    assert needed(transformed) == [('color', 'train')]


# --- places ---------------------------------------------------------------------------------------


def test_the_place_depends_on_everything_but_the_code(tmp_path):
    prepared = prepare(tmp_path)
    other_records = prepare(tmp_path, num_train=12)

    def places(*features, of=prepared):
        return of._replace(derived=features).store.folder(features[-1].name, 'train')

    same = [
        color(),
        color(compute=toy_features.mean_of_other_code),
        color(compute=functools.partial(toy_features.mean_color, journal='elsewhere')),
        color(data='second_data'),
    ]
    assert len({places(feature) for feature in same}) == 1
    different = [
        [color()],
        [color(version=2)],
        [color(settings={'seed': 1})],
        [color(settings={'seed': 2})],
        [color(feature=Feature('planes', (3,)))],
        [color(reads=('image', 'label', 'name'))],
        [color(reads=('image', 'name', 'image_frames'), frames=(1,))],
        [color(reads=('image', 'name', 'image_frames'), frames=(2,))],
        [color(whole=True)],
        [color(), DARKER],
        [color(version=2), DARKER],
    ]
    folders = {places(*features) for features in different}
    folders.add(places(color(), of=other_records))
    folders.add(prepared._replace(derived=(color(),)).store.folder('color', 'val'))
    assert len(folders) == len(different) + 2
    assert all(folder.parent == prepared.folder.parent for folder in folders)


def test_a_changed_version_is_computed_again_and_changed_code_is_not(tmp_path, in_threads):
    journal = tmp_path / 'journal'
    prepared = prepare(tmp_path / 'cache', color(journal))
    (first,) = make(prepared, read('color'))
    calls = journal.read_text()
    assert sorted(calls.split()) == sorted(set(calls.split())) and len(calls.split()) == 11
    for feature in (color(journal, seconds=0.01), color(journal)):
        assert make(prepared._replace(derived=(feature,)), read('color')) == [first]
    assert journal.read_text() == calls
    (second,) = make(prepared._replace(derived=(color(journal, version=2),)), read('color'))
    assert second != first and first.is_dir()
    assert len(journal.read_text().split()) == 22


def test_features_of_all_examples_keep_their_places():
    """The digits are those of a version without `examples` and `lazy`."""
    made = derived.recipes([color(), CHANGE, DARKER])
    assert made == {
        'color': 'b16775dcaf7e2b7b',
        'change': 'ce628fa3e2ec9d44',
        'darker': '8b07021f06d4fa3d',
    }
    assert derived.recipes([color(), CHANGE._replace(lazy=True)])['change'] == made['change']
    assert derived.recipes([color(examples='labelled')])['color'] != made['color']


# --- some examples --------------------------------------------------------------------------------


def labelled_scene(cache, *features, **fields):
    """Returns two clips of seven frames, of which frames 3 and 10 are labelled."""
    return moving_scene.prepare(cache, *features, **fields)


def make_labelled(prepared, *names):
    inputs = Input('train', 1, names, moving_scene.SIZE, examples='labelled')
    return make(prepared, inputs, workers=1)


def test_examples_that_are_not_chosen_have_zeros_and_are_not_computed(tmp_path, in_threads):
    journal = tmp_path / 'journal'
    double = share(
        name='double',
        reads=('share', 'name'),
        compute=functools.partial(times_two, journal=journal),
    )
    prepared = labelled_scene(tmp_path / 'cache', share(journal), double)
    make_labelled(prepared, 'double')
    assert journal.read_text().split() == ['0_3', '1_3'] * 2
    source = prepared.open_split('train', ('share', 'double', 'label'))
    for i in range(14):
        expected = np.zeros(2, np.float32)
        if i in (3, 10):
            expected = [(source[i]['label'] == each).mean() for each in range(2)]
        np.testing.assert_allclose(source[i]['share'], expected)
        np.testing.assert_array_equal(source[i]['double'], 2 * source[i]['share'])


def times_two(example, journal):
    toy_features.note(journal, example)
    return 2 * example['share']


VALUES = {
    'a map': (Feature('flow'), np.ones((*moving_scene.SIZE, 2), np.float32)),
    'numbers': (Feature('number', (2, 3), dtype='int32'), np.ones((2, 3), np.int32)),
    'a pose': (Feature('pose'), np.eye(4, dtype=np.float32)),
    'text': (Feature('text'), np.array('chair')),
}


@pytest.mark.parametrize('feature, value', VALUES.values(), ids=VALUES)
def test_the_empty_value_has_the_shape_of_the_feature(tmp_path, in_threads, feature, value):
    compute = functools.partial(constant, value=value)
    prepared = labelled_scene(tmp_path, share(feature=feature, compute=compute), num_clips=1)
    make_labelled(prepared, 'share')
    source = prepared.open_split('train', ('share',))
    np.testing.assert_array_equal(source[3]['share'], value)
    empty = np.asarray(source[0]['share'])
    assert empty.shape == value.shape and empty.dtype.kind == value.dtype.kind
    assert not np.any(empty != np.zeros_like(value))


def constant(example, value):
    return value


def test_a_feature_of_the_whole_split_sees_the_chosen_examples_alone(tmp_path):
    feature = share(compute=shares_of_sum, whole=True)
    prepared = labelled_scene(tmp_path, feature, num_clips=3)
    make_labelled(prepared, 'share')
    source = prepared.open_split('train', ('share',))
    chosen = [i for i in range(21) if source[i]['share'].any()]
    assert chosen == [3, 10, 17]
    assert sum(source[i]['share'] for i in chosen) == pytest.approx(1)


def shares_of_sum(examples):
    values = np.stack([toy_features.class_share(example) for example in examples])
    return values / values.sum(axis=0)


def test_merged_classes_change_which_examples_are_labelled(tmp_path):
    """A class map without the classes of an example leaves it unlabelled."""
    store = labelled_scene(tmp_path, share()).store
    without = ClassMap(ClassSpec(('moving',), ((255, 0, 0),), (0,)), (255, 255))
    merged = store._replace(class_map=without)
    assert store.chosen(share(), 'train').tolist() == [3, 10]
    assert merged.chosen(share(), 'train').tolist() == []
    by_label = share(reads=('name',))
    places = []
    for each in (store, merged):
        for feature in (by_label, by_label._replace(examples='all')):
            places.append(each._replace(features=(feature,)).folder('share', 'train'))
    # The labels choose examples, so the class map is a part of the place.
    assert places[0] != places[2] and places[1] == places[3]


READERS = {
    'all examples': (color(name='b', reads=('share',)), 'only the labelled examples have'),
    'neighbours': (
        share(name='b', reads=('share_frames',), frames=(1,)),
        'no neighbours of this feature',
    ),
    'an unknown choice': (share(name='b', examples='labeled'), "did you mean 'labelled'"),
}


@pytest.mark.parametrize('reader, message', READERS.values(), ids=READERS)
def test_values_of_some_examples_are_read_for_these_examples_alone(tmp_path, reader, message):
    with pytest.raises(InputError, match=message):
        labelled_scene(tmp_path, share(), reader, num_clips=1)


WRONG_INPUTS = {
    'all examples': dict(examples='all'),
    'neighbours': dict(features=('share_frames',), frames=(1,)),
}


@pytest.mark.parametrize('fields', WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_an_input_of_examples_without_values_is_refused(tmp_path, fields):
    prepared = labelled_scene(tmp_path, share(), num_clips=1)
    inputs = Input('train', 1, ('share',), moving_scene.SIZE, examples='labelled')
    prepared.open_input(inputs)
    with pytest.raises(InputError, match=r"examples='labelled'"):
        prepared.open_input(inputs._replace(**fields))


@pytest.mark.parametrize('offsets', [(-1, 2), (0,)])
def test_lazy_neighbours_have_the_values_of_stacked_neighbours(tmp_path, offsets):
    prepared = labelled_scene(tmp_path, num_clips=1)
    names = ('ids_region', 'frame')
    reads = (*names, *(f'{name}_frames' for name in names))
    feature = share(reads=reads, frames=offsets)
    stacked, lazy = (
        computation.Examples(computation.Task(each, 'train', prepared.store))
        for each in (feature, feature._replace(lazy=True))
    )
    for i in range(7):
        for name in names:
            np.testing.assert_array_equal(lazy[i][name], stacked[i][name])
            neighbours = lazy[i][f'{name}_frames']
            assert len(neighbours) == len(offsets)
            np.testing.assert_array_equal(list(neighbours), stacked[i][f'{name}_frames'])


# --- interruptions --------------------------------------------------------------------------------

CHILD = """
import sys
sys.path[:0] = sys.argv[1:3]
import test_derived, toy_features
from segjax.data import shards

if __name__ == '__main__':
    cache, journal, workers, seconds = sys.argv[3:]
    shards.SHARD_BYTES = 100
    feature = toy_features.color(journal, float(seconds))
    prepared = test_derived.prepare(cache, feature, num_train=40)
    print('ready', flush=True)
    test_derived.make(prepared, test_derived.read('color'), workers=int(workers))
"""


@pytest.fixture
def child(tmp_path):
    """Returns a function that starts a process that computes 40 values."""
    program = tmp_path / 'child.py'
    program.write_text(CHILD)

    def start(cache_folder, journal, workers=2, seconds=0.02):
        folders = [REPOSITORY / 'tests/data', REPOSITORY / 'tests/helpers']
        arguments = [*folders, cache_folder, journal, workers, seconds]
        return subprocess.Popen(
            [sys.executable, str(program), *map(str, arguments)],
            env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def count(journal):
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def values_folder(cache_folder):
    (folder,) = (path for path in cache_folder.glob('*+color*') if path.is_dir())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('kills', [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_some_times_ends_as_an_undisturbed_one(
    tmp_path, child, monkeypatch, kills
):
    monkeypatch.setattr(shards, 'SHARD_BYTES', 100)
    prepared = prepare(tmp_path / 'undisturbed', color(), num_train=40)
    (folder,) = make(prepared, read('color'), workers=1)
    expected = content(folder)
    assert len(expected) > 10  # many shards
    shutil.copytree(prepared.folder, tmp_path / 'cache' / prepared.folder.name)

    # Kill at random moments: after a random number of calls, and up to three more calls later.
    rng = random.Random(0)
    journal = tmp_path / 'journal'
    for number in range(1, kills + 1):
        process = child(tmp_path / 'cache', journal)
        while count(journal) < 6 * number and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.06))
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stdout.read()
        process.stdout.close()
        assert not folder.with_name(values_folder(tmp_path / 'cache').name).is_dir()

    process = child(tmp_path / 'cache', journal)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    final = values_folder(tmp_path / 'cache')
    assert final.name == folder.name and content(final) == expected
    # Each kill loses at most the two examples at work.
    assert 40 <= count(journal) <= 40 + kills * 2


@pytest.mark.slow
def test_two_processes_at_the_same_time_compute_once(tmp_path, child):
    prepare(tmp_path / 'cache', num_train=40)
    journal = tmp_path / 'journal'
    pair = [child(tmp_path / 'cache', journal) for _ in range(2)]
    outputs = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert count(journal) == 40
    assert records.damage(values_folder(tmp_path / 'cache')) == ''


@pytest.mark.slow
def test_workers_end_with_a_killed_process(tmp_path, child):
    prepare(tmp_path / 'cache', num_train=40)
    journal = tmp_path / 'journal'
    process = child(tmp_path / 'cache', journal, seconds=1.0)
    while count(journal) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    time.sleep(1.5)
    before = count(journal)
    time.sleep(1.5)
    assert count(journal) == before < 40


@pytest.mark.parametrize('whole', [False, True])
def test_a_stop_keeps_what_is_finished(tmp_path, whole):
    journal = tmp_path / 'journal'
    feature = (
        DARKER._replace(reads=('image',), compute=whole_colors) if whole else color(journal, 0.05)
    )
    prepared = prepare(tmp_path / 'cache', feature)
    questions = 0

    class Stopped(Exception):
        """Raised when some values are computed."""

    def stop():
        nonlocal questions
        questions += 1
        if count(journal) >= 4 or (whole and questions == 8):
            raise Stopped

    with pytest.raises(Stopped):
        make(prepared, read(feature.name), workers=1, check_stop=stop)
    (partial,) = prepared.folder.parent.glob('*+*.partial')
    finished = len(list((partial / 'work').glob('*.npy')))
    (folder,) = make(prepared, read(feature.name), workers=1)
    assert not partial.exists() and not (folder / 'work').exists()
    if not whole:
        # The example at work, if any, is computed twice.
        assert 0 < finished < 11 and count(journal) <= 11 + 1


def whole_colors(examples):
    return [example['image'].mean((0, 1))[:2].astype(int) for example in examples]


def test_the_number_of_workers_changes_nothing(tmp_path):
    folders = []
    for workers in (1, 2):
        prepared = prepare(tmp_path / str(workers), color(), CHANGE)
        folders.append(make(prepared, read('change'), workers=workers))
    for one, two in zip(*folders, strict=True):
        assert one.name == two.name and content(one) == content(two)


# --- damage ---------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


DAMAGED = {
    'shard cut': ('color-train.array_record-00000-of-00001', cut),
    'shard gone': ('color-train.array_record-00000-of-00001', os.remove),
    'info empty': ('dataset_info.json', lambda path: path.write_bytes(b'')),
    'index gone': ('index.npz', os.remove),
}


@pytest.mark.parametrize('name, damage', DAMAGED.values(), ids=DAMAGED)
def test_damaged_values_are_computed_again(tmp_path, in_threads, name, damage):
    prepared = prepare(tmp_path, color())
    (folder,) = make(prepared, read('color'), workers=1)
    expected = content(folder)
    damage(folder / name)
    assert prepared.store.missing([read('color')]) == [(prepared.derived[0], 'train')]
    make(prepared, read('color'), workers=1)
    assert content(folder) == expected and prepared.store.missing([read('color')]) == []


def test_a_value_that_was_cut_is_computed_again(tmp_path, in_threads):
    journal = tmp_path / 'journal'
    prepared = prepare(tmp_path / 'cache', color(journal))
    (folder,) = make(prepared, read('color'), workers=1)
    expected = content(folder)
    partial = folder.with_name(f'{folder.name}.partial')
    (partial / 'work').mkdir(parents=True)
    shutil.rmtree(folder)
    cache.release(folder)
    source = prepared._replace(derived=()).open_split('train', ('image',))
    for i in range(4):
        value = toy_features.mean_color(source[i])
        np.save(partial / 'work' / f'{i:08}.npy', value)
    cut(partial / 'work' / '00000002.npy')
    (partial / 'work' / '.abc.partial').write_bytes(b'half')
    journal.unlink()
    make(prepared, read('color'), workers=1)
    assert content(folder) == expected and count(journal) == 11 - 3


# --- errors of the function -----------------------------------------------------------------------

NAME = 'train_00000_5'
FAILURES = {
    'an exception': (
        dict(error=ZeroDivisionError('no pixel')),
        r'ZeroDivisionError: no pixel \(toy_features.py, line \d+\)',
    ),
    'an input error': (
        dict(error=InputError('weights.npz', got='nothing', expected='weights')),
        'weights.npz',
    ),
    'a shape': (dict(value=np.zeros(4, np.float32)), r'shape \(4,\)'),
    'nothing': (dict(value=None), 'object'),
    'not a number': (dict(value=np.array([1, np.nan, 2], np.float32)), r'nan at \(1,\)'),
    'text': (dict(value=np.array('red')), '<U3'),
}


@pytest.mark.parametrize('failing, message', FAILURES.values(), ids=FAILURES)
def test_an_error_names_its_example_and_keeps_what_is_finished(
    tmp_path, in_threads, failing, message
):
    compute = functools.partial(toy_features.fails, name=NAME, **failing)
    prepared = prepare(tmp_path, color(compute=compute))
    with pytest.raises(InputError, match=message) as caught:
        make(prepared, read('color'), workers=1)
    where = caught.value.where
    assert all(part in where for part in ("'color'", "'train'", 'streets', NAME)), where
    # All examples before it are finished, and a corrected function continues.
    corrected = color(tmp_path / 'journal')
    make(prepared._replace(derived=(corrected,)), read('color'), workers=1)
    assert count(tmp_path / 'journal') <= 11 - 5


def test_a_process_that_ends_is_an_error_and_keeps_what_is_finished(tmp_path):
    compute = functools.partial(toy_features.fails, name=NAME, kill=True)
    prepared = prepare(tmp_path, color(compute=compute))
    with pytest.raises(InputError, match=r'data\.workers=1'):
        make(prepared, read('color'), workers=2)
    (partial,) = prepared.folder.parent.glob('*+*.partial')
    assert len(list((partial / 'work').glob('*.npy'))) >= 4


@pytest.mark.parametrize(
    'feature, value, message',
    [
        (Feature('ids'), np.zeros((4, 4), np.int32), r'for images of height and width \(16, 32\)'),
        (Feature('ids'), np.full(SIZE, 0.5), 'does not fit int32'),
        (Feature('flow'), np.full((*SIZE, 2), np.inf), r'inf at \(0, 0, 0\)'),
        (Feature('normals'), np.full((*SIZE, 3), 2.0), 'normals'),
        (Feature('depth'), np.full(SIZE, -1.0), 'depth'),
    ],
)
def test_a_value_must_have_its_kind(tmp_path_factory, feature, value, message):
    prepared = prepare(tmp_path_factory.getbasetemp() / 'plain')
    name = feature.kind
    task = computation.Task(color(name=name, feature=feature), 'train', prepared.store)
    with pytest.raises(InputError, match=message):
        computation.checked(task, 0, value, SIZE)


def test_flow_may_be_absent_and_whole_numbers_may_have_any_type(tmp_path_factory):
    prepared = prepare(tmp_path_factory.getbasetemp() / 'plain')
    absent = np.full((*SIZE, 2), np.nan)
    for feature, value in ((Feature('flow'), absent), (Feature('ids'), np.ones(SIZE, np.uint8))):
        task = computation.Task(color(feature=feature), 'train', prepared.store)
        array = computation.checked(task, 0, value, SIZE)
        np.testing.assert_array_equal(array, value)
        assert array.dtype == {'flow': np.float32, 'ids': np.int32}[feature.kind]


def test_a_whole_split_needs_a_value_for_each_example(tmp_path):
    feature = DARKER._replace(reads=('image',), compute=too_few)
    with pytest.raises(InputError, match='10 values for 11 examples'):
        make(prepare(tmp_path, feature), read('darker'))


def too_few(examples):
    return np.zeros((len(examples) - 1, 2), int)


# --- the cache ------------------------------------------------------------------------------------


def test_the_cache_lists_and_deletes_values_with_their_records(tmp_path, in_threads, capsys):
    prepared = prepare(tmp_path, color())
    (folder,) = make(prepared, read('color'), workers=1)
    text = cache.describe(tmp_path)
    assert '1 prepared data sets, 1 derived features' in text
    assert text.index(f' {prepared.folder.name} ') < text.index(f' {folder.name} ')
    cache.release(folder)
    cache.delete(tmp_path, [folder.name])
    assert not folder.exists() and prepared.folder.exists()

    # Used values keep their records.
    make(prepared, read('color'), workers=1)
    cache.release(prepared.folder)
    with pytest.raises(InputError, match='a running process uses'):
        cache.delete(tmp_path, [prepared.folder.name])
    assert folder.exists() and prepared.folder.exists()
    cache.release(folder)
    cache.delete(tmp_path, [prepared.folder.name])
    assert not folder.exists() and not prepared.folder.exists()
    assert f'deleted: {folder}' in capsys.readouterr().out
