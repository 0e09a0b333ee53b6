"""Class maps and lists of examples: a data set as a config section sees it."""

import dataclasses
import itertools
import json
import os
import pickle

import layouts
import numpy as np
import pytest
from cityscapesscripts.helpers import labels as official
from PIL import Image

from segjax import config as config_lib
from segjax import data
from segjax.data import builders, index, loader
from segjax.data.labels import CITYSCAPES, CITYSCAPES_CATEGORIES
from segjax.data.listing import Listing
from segjax.errors import InputError
from segjax.protocol import Input, Product
from segjax.spec import DataSpec
from segjax.tasks import segmentation
from segjax.train import data_sets

FEATURES = ('image', 'label', 'name')


def inputs_of(split, **fields):
    return Input(split, 2, ('image', 'label'), layouts.SIZE, **fields)


def examples_of(source):
    return [source[i] for i in range(len(source))]


def names_in(source):
    return [example['name'] for example in examples_of(source)]


@pytest.fixture
def camvid(tmp_path):
    """Returns the config of five and three stills."""
    layouts.write_camvid(tmp_path / 'raw')
    return layouts.data_config('camvid', tmp_path / 'raw', tmp_path / 'cache')


@pytest.fixture
def cityscapes(tmp_path):
    layouts.write_cityscapes(tmp_path / 'raw')
    return layouts.data_config('cityscapes', tmp_path / 'raw', tmp_path / 'cache')


def with_list(config, folder, names, entry='members=train'):
    """Writes a list of examples, and returns the data section with it."""
    file = folder / f'{entry.partition("=")[0]}.txt'
    file.write_text('\n'.join(names) + '\n')
    changed = config.copy_and_resolve_references()
    changed.lists = (*config.lists, f'{entry}:{file}')
    return changed


# --- class maps -----------------------------------------------------------------------------------


def test_the_categories_of_cityscapes_are_the_official_ones():
    evaluated = {label.name: label for label in official.labels if not label.ignoreInEval}
    merged = CITYSCAPES_CATEGORIES.classes
    assert merged.num_classes == 7
    for name, train_id in zip(CITYSCAPES.names, CITYSCAPES_CATEGORIES.train_ids, strict=True):
        assert merged.names[train_id] == evaluated[name].category
        assert merged.ids[train_id] == evaluated[name].categoryId


def write_map(folder, content, name='map.json'):
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


def test_merged_labels_and_numbers_are_those_of_the_merged_maps(cityscapes):
    plain = data.prepare(cityscapes)
    assert plain.spec.class_maps == {'categories': CITYSCAPES_CATEGORIES}
    cityscapes.class_map = 'categories'
    merged = data.prepare(cityscapes)
    assert merged.folder == plain.folder, 'records do not depend on the map'
    assert merged.spec.classes == CITYSCAPES_CATEGORIES.classes
    assert merged.spec.merge == (plain.spec.classes, CITYSCAPES_CATEGORIES.train_ids)
    assert plain.spec.merge is None and 'merge' not in plain.spec.to_json()
    stored = json.loads(json.dumps(merged.spec.to_json()))
    assert DataSpec.from_json(stored) == merged.spec
    table = np.full(256, 255, np.uint8)
    table[:19] = CITYSCAPES_CATEGORIES.train_ids
    for split in ('train', 'val'):
        before, after = (examples_of(each.open_split(split, FEATURES)) for each in (plain, merged))
        counts = np.zeros(256, int)
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(other['label'], table[one['label']])
            np.testing.assert_array_equal(other['image'], one['image'])
            assert other['label'].dtype == np.uint8
            counts += np.bincount(other['label'].ravel(), minlength=256)
        assert merged.spec.class_pixels[split] == tuple(counts[:7])
        assert merged.spec.void_pixels[split] == counts[255]
        assert merged.spec.digest[split] == plain.spec.digest[split]


def test_a_map_of_66_classes_to_19_by_a_file(tmp_path):
    """As Mapillary is merged to the classes of Cityscapes."""
    rng = np.random.default_rng(0)
    own = [f'object--{i}' for i in range(66)]
    groups = [[] for _ in range(19)]
    for position, name in enumerate(own[:60]):
        groups[position % 19].append(name)
    (tmp_path / 'own.json').write_text(json.dumps(own))
    for split in ('train', 'val'):
        for i in range(3):
            layouts.save(tmp_path / f'raw/images/{split}/{i}.png', layouts.photo(rng))
            ids = layouts.blocks(rng, [*range(66), 255])
            layouts.save(tmp_path / f'raw/masks/{split}/{i}.png', ids)
    entries = []
    for name, number, group in zip(CITYSCAPES.names, CITYSCAPES.ids, groups, strict=True):
        entries.append({'name': name, 'id': number, 'from': group})
    content = {'classes': entries, 'ignore': own[60:]}
    config = layouts.data_config(
        'folder',
        tmp_path / 'raw',
        tmp_path / 'cache',
        classes=str(tmp_path / 'own.json'),
        class_map=write_map(tmp_path, content),
    )
    prepared = data.prepare(config)
    assert prepared.spec.classes.names == CITYSCAPES.names
    assert prepared.spec.classes.ids == CITYSCAPES.ids
    for split in ('train', 'val'):
        masks = [
            np.array(Image.open(path)) for path in sorted(tmp_path.glob(f'raw/masks/{split}/*'))
        ]
        labels = [example['label'] for example in examples_of(prepared.open_split(split, FEATURES))]
        for mask, label in zip(masks, labels, strict=True):
            expected = np.where(mask < 60, mask % 19, 255)
            np.testing.assert_array_equal(label, expected)
        pixels = [int(sum((label == c).sum() for label in labels)) for c in range(19)]
        assert prepared.spec.class_pixels[split] == tuple(pixels)


def test_examples_without_a_pixel_of_a_merged_class_are_unlabelled(camvid, tmp_path):
    spec = data.prepare(camvid).spec
    own = list(spec.classes.names)
    rng = np.random.default_rng(0)
    for i, path in enumerate(sorted((tmp_path / 'raw/trainannot').iterdir())):
        ids = [0, 1] if i < 2 else [0, 1, 2]
        layouts.save(path, layouts.blocks(rng, ids))
    pole = {'classes': ['Pole'], 'ignore': [name for name in own if name != 'Pole']}
    camvid.class_map = write_map(tmp_path, pole)
    prepared = data.prepare(camvid)
    assert prepared.spec.num_unlabelled['train'] == 2
    source = prepared.open_input(inputs_of('train', examples='labelled'))
    assert len(source) == 3 == prepared.spec.split('train').num_labelled
    assert prepared.spec.classes.palette == (spec.classes.palette[2],)


def test_masks_that_are_no_train_ids_keep_their_values(tmp_path):
    config = layouts.data_config('streets', '', tmp_path / 'cache', class_map='categories')
    source = data.prepare(config).open_split('train', ('label', 'label_moving'))
    plain = data.prepare(layouts.data_config('streets', '', tmp_path / 'cache'))
    before = plain.open_split('train', ('label', 'label_moving'))
    for i in range(len(source)):
        np.testing.assert_array_equal(source[i]['label_moving'], before[i]['label_moving'])
    assert any(before[i]['label_moving'].any() for i in range(len(source)))
    inputs = Input('train', 1, ('label', 'label_frames'), (16, 24), frames=(1,))
    video = data.prepare(config).open_input(inputs)
    categories = CITYSCAPES_CATEGORIES.train_ids
    expected = np.append(categories, [255] * 237)[before[1]['label']]
    np.testing.assert_array_equal(video[0]['label_frames'][0], expected)


def test_workers_read_merged_labels(cityscapes):
    cityscapes.class_map = 'categories'
    source = data.prepare(cityscapes).open_split('train', FEATURES)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(source[0]['label'], again[0]['label'])


WRONG_MAPS = {
    'unknown': ('categorys', r"categories, or a YAML or JSON file\n.*did you mean 'categories'"),
    'no file': ('nothing.yaml', r'no such file[\s\S]*--config.data.class_map=classes.yaml'),
}


@pytest.mark.parametrize('value, says', WRONG_MAPS.values(), ids=WRONG_MAPS)
def test_an_unknown_class_map_is_refused(cityscapes, value, says):
    cityscapes.class_map = value
    with pytest.raises(InputError, match=says):
        data.prepare(cityscapes)


WRONG_FILES = {
    'not mentioned': ({'classes': ['Sky'], 'ignore': ['Car']}, r"no class 'Building', and 8 more"),
    'twice': (
        {'classes': [{'name': 'a', 'from': ['Sky', 'Car']}, {'name': 'b', 'from': ['Car']}]},
        "class 'Car' twice",
    ),
    'unknown class': ({'classes': [{'name': 'a', 'from': ['Sku']}]}, "did you mean 'Sky'"),
    'no list': ({'classes': [{'name': 'a', 'from': 'Sky'}]}, 'a list of names of classes'),
    'empty': ({'classes': [{'name': 'a', 'from': []}]}, 'at least one class name'),
    'key': ({'classes': [{'name': 'a', 'form': ['Sky']}]}, "'form'"),
    'name twice': ({'classes': [{'name': 'a', 'from': ['Sky']}, 'a']}, "name 'a' twice"),
}


@pytest.mark.parametrize('content, says', WRONG_FILES.values(), ids=WRONG_FILES)
def test_wrong_files_of_class_maps_are_refused(camvid, tmp_path, content, says):
    camvid.class_map = write_map(tmp_path, content)
    with pytest.raises(InputError, match=says):
        data.prepare(camvid)


def test_the_fix_of_an_absent_class_works(camvid, tmp_path):
    camvid.class_map = write_map(tmp_path, {'classes': ['Sky']})
    with pytest.raises(InputError) as error:
        data.prepare(camvid)
    ignored = json.loads(error.value.fix.removeprefix('ignore: ').partition(', if')[0])
    camvid.class_map = write_map(tmp_path, {'classes': ['Sky'], 'ignore': ignored})
    assert data.prepare(camvid).spec.classes.names == ('Sky',)


# --- lists of examples ----------------------------------------------------------------------------


def test_a_list_is_a_split_with_exact_numbers(camvid, tmp_path):
    # One label is larger than the rest of its split.
    rng = np.random.default_rng(0)
    for folder, pixels in (('train', layouts.photo(rng, (40, 48))), ('trainannot', None)):
        path = sorted((tmp_path / 'raw' / folder).iterdir())[4]
        path = path.rename(path.with_name('still.png'))
        layouts.save(path, layouts.blocks(rng, [0, 11], (40, 48)) if pixels is None else pixels)
    plain = data.prepare(camvid)
    every = examples_of(plain.open_split('train', FEATURES))
    chosen = [every[i] for i in (2, 0, 3)]
    prepared = data.prepare(with_list(camvid, tmp_path, [each['name'] for each in chosen]))
    assert prepared.folder == plain.folder
    source = prepared.open_split('members', FEATURES)
    for got, expected in zip(examples_of(source), chosen, strict=True):
        assert got['name'] == expected['name']
        np.testing.assert_array_equal(got['image'], expected['image'])
        np.testing.assert_array_equal(got['label'], expected['label'])
    spec = prepared.spec
    labels = np.concatenate([each['label'].ravel() for each in chosen])
    counts = np.bincount(labels, minlength=256)
    assert spec.num_examples == {**plain.spec.num_examples, 'members': 3}
    assert spec.class_pixels['members'] == tuple(counts[:11])
    assert spec.void_pixels['members'] == counts[255]
    assert spec.max_size['members'] == layouts.SIZE != spec.max_size['train']
    assert len({*spec.digest.values()}) == 3
    for split in ('train', 'val'):
        assert spec.split(split) == plain.spec.split(split)
    assert DataSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_the_digest_of_a_list_depends_on_its_examples_in_order(camvid, tmp_path):
    names = names_in(data.prepare(camvid).open_split('train', FEATURES))
    digests = []
    for chosen in (names[:2], names[1::-1], names[:3], names[:2]):
        prepared = data.prepare(with_list(camvid, tmp_path, chosen))
        digests.append(prepared.spec.digest['members'])
    assert digests[0] == digests[3] and len({*digests}) == 3


SUMS = {
    'members': [3, 0, 4, 1],
    'members[:50%]': [3, 0],
    'members[-1:]+val': [1, 'val'],
    'val+members[1:3]': ['val', 0, 4],
    'members[:1]+train[2:]+others': [3, 2, 3, 4, 'val2', 1],
}


@pytest.mark.parametrize('split', SUMS)
def test_slices_and_sums_of_lists(camvid, tmp_path, split):
    plain = data.prepare(camvid)
    train = names_in(plain.open_split('train', FEATURES))
    val = names_in(plain.open_split('val', FEATURES))
    config = with_list(camvid, tmp_path, [train[i] for i in (3, 0, 4, 1)])
    config = with_list(config, tmp_path, [val[2], train[1]], 'others=train+val')
    expected = []
    for part in SUMS[split]:
        expected += {'val': val, 'val2': [val[2]]}.get(part) or [train[part]]
    prepared = data.prepare(config)
    assert names_in(prepared.open_split(split, FEATURES)) == expected
    assert prepared.view.facts(split).name.tolist() == expected
    labelled = prepared.open_input(inputs_of(split, examples='labelled'), 'name')
    assert names_in(labelled) == expected


def test_lists_of_video_keep_the_neighbours_of_their_clip(tmp_path):
    config = layouts.data_config('streets', '', tmp_path / 'cache')
    config.world.num_train = 10
    names = names_in(data.prepare(config).open_split('train', FEATURES))
    prepared = data.prepare(with_list(config, tmp_path, [names[i] for i in (5, 0, 2)]))
    inputs = Input('members', 1, ('image', 'image_frames'), (16, 24), frames=(-1, 1))
    source = prepared.open_input(inputs, 'name')
    assert names_in(source) == [names[5], names[2]], 'the first frame has no frame before'
    plain = prepared.open_split('train', FEATURES)
    np.testing.assert_array_equal(source[0]['image_frames'][0], plain[4]['image'])
    assert loader.examples(source, [1], inputs, (16, 24))['index'] == [1]


def test_a_list_counts_merged_classes(cityscapes, tmp_path):
    names = names_in(data.prepare(cityscapes).open_split('train', FEATURES))
    cityscapes.class_map = 'categories'
    prepared = data.prepare(with_list(cityscapes, tmp_path, names[1:3]))
    labels = [example['label'] for example in examples_of(prepared.open_split('members', FEATURES))]
    counts = np.bincount(np.ravel(labels), minlength=256)
    assert prepared.spec.class_pixels['members'] == tuple(counts[:7])


WRONG_LISTS = {
    'unknown example': (['0001TP_008550', 'nothing'], r'members\.txt, line 2: example of split'),
    'empty': (['', ''], 'no names'),
    'twice': (['a', 'a'], r'line 2[\s\S]*which is line 1 too'),
}


@pytest.mark.parametrize('kind', WRONG_LISTS)
def test_wrong_files_of_lists_are_refused(camvid, tmp_path, kind):
    names = names_in(data.prepare(camvid).open_split('train', FEATURES))
    lines, says = WRONG_LISTS[kind]
    lines = [names[0] if line and line != 'nothing' else line for line in lines]
    with pytest.raises(InputError, match=says):
        data.prepare(with_list(camvid, tmp_path, lines))


def test_further_wrong_names_are_counted(camvid, tmp_path):
    first, second, *_ = names_in(data.prepare(camvid).open_split('train', FEATURES))
    with pytest.raises(InputError, match=r'2 more repeated names, in lines 4, 5\)'):
        data.prepare(with_list(camvid, tmp_path, [first, second, first, second, second]))
    with pytest.raises(InputError, match=r"'a' \(4 more unknown names, in lines 3, 4, 5, \.\.\.\)"):
        data.prepare(with_list(camvid, tmp_path, [first, *'abcde']))


def test_an_unknown_name_has_its_nearest_name_as_fix(camvid, tmp_path):
    names = names_in(data.prepare(camvid).open_split('train', FEATURES))
    with pytest.raises(InputError) as error:
        data.prepare(with_list(camvid, tmp_path, [names[0], names[1] + 'x']))
    assert names[1] in error.value.fix and 'line 2' in error.value.where
    with pytest.raises(InputError, match=r"split[\s\S]*did you mean 'train'"):
        data.prepare(with_list(camvid, tmp_path, names[:1], 'members=trian'))


def test_a_list_takes_no_name_of_a_split_and_its_fix_works(camvid, tmp_path):
    names = names_in(data.prepare(camvid).open_split('train', FEATURES))
    config = with_list(camvid, tmp_path, names[:1], 'val=train')
    config.lists = ('rest=val:draw(1)', *config.lists)
    with pytest.raises(InputError, match=r"'val' is a split of") as error:
        data.prepare(config)
    text = error.value.fix.removeprefix('--config.data.lists=').strip('"')
    config.lists = config_lib.typed(text, ())
    prepared = data.prepare(config)
    assert [prepared.spec.num_examples[name] for name in ('rest', 'val_list')] == [1, 1]


DRAWS = ('draw(0)', 'draw()', 'draw(3, seed=-1)', 'draw(3, whole=town)', 'draw(3, city=whole)')
WRONG_FORMS = [('members',), ('m=train',), (1,), ('m=train:a', 'm=val:b')]
WRONG_FORMS += [(f'm=train:{draw}',) for draw in DRAWS]


@pytest.mark.parametrize('value', WRONG_FORMS)
def test_lists_of_another_form_are_refused(value):
    config = config_lib.defaults('supervised')
    config.data.lists = value
    with pytest.raises(InputError, match=r'config\.data\.lists'):
        config_lib.validate(config)


@pytest.mark.parametrize(
    ('text', 'draw'),
    [
        ('draw(90, hole=9of12)', 'draw(90, whole=9of12)'),
        ('draw(90, seed=2, spred=city)', 'draw(90, seed=2, spread=city)'),
        ('draw(7, single=sequences)', 'draw(7, single=sequence)'),
        ('draw( 7, seed = 1.5)', 'draw(7, seed=1)'),
        ('draw(7,)', 'draw(7)'),
    ],
)
def test_the_fix_of_a_misspelt_draw_keeps_all_further_lists(text, draw):
    config = config_lib.defaults('supervised')
    config.data.lists = ('a=train:a.txt', f'b=train:{text}')
    with pytest.raises(InputError, match='a draw of the form') as error:
        config_lib.validate(config)
    fix = error.value.fix.removeprefix('--config.data.lists=').strip('"')
    config.data.lists = config_lib.typed(fix, ())
    assert config.data.lists == ('a=train:a.txt', f'b=train:{draw}')
    config_lib.validate(config)


def test_lists_that_are_no_lists_have_the_default_as_fix():
    config = config_lib.defaults('supervised')
    for value in (('m=train:draw(0)',), 'draw(3)'):
        with config.ignore_type():
            config.data.lists = value
        with pytest.raises(InputError) as error:
            config_lib.validate(config)
        assert error.value.fix == "--config.data.lists='()'"


EXCLUDED = {
    'members': ('others', 2),
    'members[:1]+val': ('others', 1),
    'val': ('others+val[1:]', 2),
    'others': ('train', 3),
}


@pytest.mark.parametrize('split', EXCLUDED)
def test_common_examples_of_splits_that_exclude_each_other_are_refused(camvid, tmp_path, split):
    names = names_in(data.prepare(camvid).open_split('train', FEATURES))
    config = with_list(camvid, tmp_path, names[:3])
    config = with_list(config, tmp_path, [names[4], names[0], names[2]], 'others=train')
    prepared = data.prepare(config)
    other, number = EXCLUDED[split]
    inputs = inputs_of(split, excludes=(other,))
    for opened in (prepared, Listing(prepared.spec, 'camvid', prepared.view)):
        with pytest.raises(InputError, match=rf'{number} examples that .* has too') as error:
            opened.open_input(inputs)
    shared = names_in(prepared.open_split(split, FEATURES))
    listed = error.value.got.partition('too: ')[2].split(', ')
    assert len(listed) == number and set(listed) <= set(shared)
    assert len(prepared.open_input(inputs._replace(excludes=()))) == len(shared)
    with pytest.raises(InputError, match='another split in place of'):
        prepared.open_input(inputs._replace(excludes=(split,)))


def test_splits_without_a_common_example_may_exclude_each_other(camvid, tmp_path):
    names = names_in(data.prepare(camvid).open_split('train', FEATURES))
    prepared = data.prepare(with_list(camvid, tmp_path, names[:3]))
    inputs = inputs_of('members', excludes=('val', 'train[3:]'))
    assert len(prepared.open_input(inputs)) == 3
    with pytest.raises(InputError, match='no split'):
        prepared.open_input(inputs._replace(excludes=('vla',)))


def test_a_sum_of_lists_that_excludes_a_split_has_each_example_once(camvid, tmp_path):
    names = names_in(data.prepare(camvid).open_split('train', FEATURES))
    config = with_list(camvid, tmp_path, names[:3])
    config = with_list(config, tmp_path, [names[4], names[1]], 'others=train')
    prepared = data.prepare(config)
    inputs = inputs_of('members+others', excludes=('val',))
    with pytest.raises(InputError, match=f'1 examples twice, the first is {names[1]}'):
        prepared.open_input(inputs)
    assert len(prepared.open_input(inputs._replace(excludes=()))) == 5


def drawn(config, *lists):
    """Returns the names of the examples of each list."""
    changed = config.copy_and_resolve_references()
    changed.lists = lists
    prepared = data.prepare(changed)
    names = [entry.partition('=')[0] for entry in lists]
    return {name: prepared.view.facts(name).name.tolist() for name in names}


def test_draws_leave_out_the_examples_of_earlier_lists(camvid, tmp_path):
    prepared = data.prepare(camvid)
    train, val = (names_in(prepared.open_split(split, FEATURES)) for split in ('train', 'val'))
    (tmp_path / 'some.txt').write_text(f'{train[3]}\n{train[1]}\n')
    lists = drawn(
        camvid,
        f'given=train:{tmp_path / "some.txt"}',
        'members=train:draw(2)',
        'rest=train+val:draw(4)',
    )
    assert lists['given'] == [train[3], train[1]]
    assert sorted(itertools.chain(*lists.values())) == sorted(train + val)
    assert set(lists['members']) <= set(train) and lists['members'] == sorted(lists['members'])
    with pytest.raises(InputError, match='5 examples, of 3 that may be drawn') as error:
        drawn(camvid, 'members=train:draw(2)', 'rest=train:draw(5)')
    assert 'rest=train:draw(5)' in error.value.where
    text = error.value.fix.removeprefix('--config.data.lists=').strip('"')
    assert len(drawn(camvid, *config_lib.typed(text, ()))['rest']) == 3


def test_an_unknown_split_names_the_lists(camvid, tmp_path):
    names = names_in(data.prepare(camvid).open_split('train', FEATURES))
    prepared = data.prepare(with_list(camvid, tmp_path, names[:2]))
    for split in ('member', 'members[:x]', 'members[:0]'):
        with pytest.raises(InputError, match=r'train, val, members|at least one'):
            prepared.open_split(split, FEATURES)


# --- examples that an earlier stage chose ---------------------------------------------------------


def write_video(tmp_path):
    """Returns the config of two clips of ten frames, of which the frames 4 and 14 have a label."""
    layouts.write_sequences(tmp_path / 'raw', ('train',), frames=10, annotated=4)
    return layouts.data_config('cityscapes_video', tmp_path / 'raw', tmp_path / 'cache')


def test_labelled_then_chosen_then_a_part(tmp_path):
    prepared = data.prepare(write_video(tmp_path))
    chosen = inputs_of('train', chosen=Product('first', 'kept'))
    positions = np.array([14, 3, 4, 0])
    names = names_in(prepared.open_split('train', FEATURES))
    source = prepared.open_input(chosen, 'name', positions=positions)
    assert names_in(source) == [names[i] for i in positions]
    labelled = chosen._replace(examples='labelled')
    source = prepared.open_input(labelled, 'name', positions=positions)
    assert names_in(source) == [names[14], names[4]]
    half = loader._part(source, labelled._replace(part=(0.0, 0.5)))
    order = index.part_positions(2, 0, 1)
    assert [each['name'] for each in examples_of(half)] == [names[(14, 4)[order[0]]]]


@pytest.mark.parametrize(
    'positions, says',
    [
        ([4, 20], 'position 20'),
        ([-1], 'position -1'),
        ([0, 1], 'none of labelled examples'),
        ([], 'float64'),
        ([True, False], 'bool'),
        ([[4]], r'\[1, 1\]'),
    ],
)
def test_positions_that_choose_nothing_are_refused(tmp_path, positions, says):
    inputs = inputs_of('train', examples='labelled', chosen=Product('first', 'kept'))
    prepared = data.prepare(write_video(tmp_path))
    with pytest.raises(InputError, match=says) as error:
        prepared.open_input(inputs, positions=np.array(positions))
    assert error.value.where == "product 'kept' of stage 'first'"


# --- exact numbers of slices and shares -----------------------------------------------------------


@pytest.fixture
def whole_config(tmp_path):
    """Returns the config of a run on twelve stills."""
    layouts.write_camvid(tmp_path / 'raw', (('train', 12), ('val', 3)))
    config = config_lib.defaults('supervised')
    config_lib.update(
        config,
        data=dict(name='camvid', root=str(tmp_path / 'raw'), cache=str(tmp_path / 'cache')),
    )
    return config


def counted(config, split, part):
    """Returns the pixels of the examples that the loader would read, [256]."""
    inputs = inputs_of(split, examples='labelled', part=part)
    source = loader._part(data.prepare(config.data).open_input(inputs), inputs)
    labels = np.concatenate([example['label'].ravel() for example in examples_of(source)])
    return np.bincount(labels, minlength=256)


@pytest.mark.parametrize('split', ['train', 'train[:50%]', 'train[3:]+val', 'members[1:]'])
@pytest.mark.parametrize('fraction', [1.0, 0.5, 0.3])
def test_class_pixels_count_the_chosen_examples_alone(whole_config, tmp_path, split, fraction):
    names = names_in(data.prepare(whole_config.data).open_split('train', FEATURES))
    whole_config.data = with_list(whole_config.data, tmp_path, names[::-2])
    config_lib.update(whole_config, data=dict(train_split=split, labelled_fraction=fraction))
    spec = data_sets.prepare(whole_config)['data'].spec
    by_hand = counted(whole_config, split, (0.0, fraction))
    expected = (tuple(by_hand[:11]), by_hand[255])
    assert segmentation.class_pixels(whole_config, spec) == expected
    stored = DataSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert segmentation.class_pixels(whole_config, stored) == expected
    whole_config.data.void_class = True
    assert segmentation.class_pixels(whole_config, spec) == (tuple(by_hand[[*range(11), 255]]), 0)


def test_a_run_of_whole_splits_stores_nothing_new(whole_config):
    spec = data_sets.prepare(whole_config)['data'].spec
    assert spec == data.prepare(whole_config.data).spec and 'parts' not in spec.to_json()


def test_without_exact_numbers_a_slice_counts_as_its_split(whole_config):
    """Specifications of older runs have none."""
    spec = data.prepare(whole_config.data).spec
    part = spec.part('train[:10%]', (0.0, 0.5))
    assert part.class_pixels == spec.class_pixels['train'] and part.num_examples == 12


# --- older records --------------------------------------------------------------------------------


def older_index(folder):
    """Removes the younger columns of an index."""
    with np.load(folder / index.FILE) as arrays:
        kept = {}
        for name, values in arrays.items():
            if name.partition('/')[2] not in index.LATER:
                kept[name] = values
    np.savez_compressed(folder / index.FILE, **kept)
    index.forget()


def test_an_older_index_is_completed_once(camvid, capsys):
    prepared = data.prepare(camvid)
    expected = index.load(prepared.folder, 'train+val')
    older_index(prepared.folder)
    for _ in range(2):
        assert data.prepare(camvid) == prepared
    assert capsys.readouterr().out.count('have an older index') == 1
    for one, other in zip(index.load(prepared.folder, 'train+val'), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_older_index_that_cannot_be_written_serves_whole_splits(camvid, tmp_path, monkeypatch):
    prepared = data.prepare(camvid)
    names = names_in(prepared.open_split('train', FEATURES))
    older_index(prepared.folder)
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    assert data.prepare(camvid) == prepared
    with pytest.raises(InputError, match=r'may complete[\s\S]*--config.data.cache'):
        data.prepare(with_list(camvid, tmp_path, names[:1]))


def test_the_index_stays_small(tmp_path):
    """A few dozen bytes for each of 20,000 examples with ten of 150 classes each."""
    rng = np.random.default_rng(0)
    facts = []
    for i in range(2000):
        histogram = np.zeros(256, np.int64)
        histogram[rng.integers(0, 150, 10)] = rng.integers(1, 500_000, 10)
        example = {'name': f'aachen_{i:06}_000019', 'image': b''}
        facts.append(index.fact(histogram, (1024, 2048), 150, example))
    index.save(tmp_path, {'train': index.of_facts(facts)})
    assert (tmp_path / index.FILE).stat().st_size / 2000 < 100
    assert index.rows(index.of_facts(facts))[7].name == facts[7].name


def test_class_maps_are_no_part_of_the_fingerprint(cityscapes, monkeypatch):
    prepared = data.prepare(cityscapes)
    without = dataclasses.replace(prepared.spec, class_maps={})
    monkeypatch.setattr(builders.cityscapes, 'CITYSCAPES_CATEGORIES', None)
    again = data.prepare(cityscapes)
    assert again.folder == prepared.folder
    assert dataclasses.replace(again.spec, class_maps={}) == without
