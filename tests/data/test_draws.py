"""Draws of examples: sizes, seeds, and groups that are mixed or kept whole."""

import collections
import itertools
import shlex

import numpy as np
import pytest

from segjax import config as config_lib
from segjax import schema
from segjax.data import draws, example_lists, index
from segjax.data.draws import Draw
from segjax.errors import InputError

CITIES = {'aachen': 12, 'bochum': 5, 'bremen': 9, 'ulm': 3, 'weimar': 11}


def facts(names, sequences=None):
    """Returns an index that has only names and sequences."""
    count = len(names)
    zeros = np.zeros(count, np.int64)
    nothing = np.zeros((count, 0), np.uint8)
    sequences = np.array([''] * count if sequences is None else sequences)
    return index.Index(zeros, zeros, sequences, zeros, nothing, nothing, np.array(names), nothing)


def frames(cities):
    """Returns names of Cityscapes, with a number of frames for each city."""
    names = []
    for city, number in cities.items():
        names += [f'{city}_{i:06}_000019' for i in range(number)]
    return names


TRAIN = facts(frames(CITIES))
VAL = facts(frames({'lindau': 4, 'munster': 6}))
SPLITS = {'train': TRAIN, 'val': VAL}


def facts_of(split):
    return index.concatenate([SPLITS[name] for name in split.split('+')])


def read(*entries):
    """Returns the names of the examples of each list."""
    lists = example_lists.read(entries, SPLITS, facts_of, 'the data set')
    return {
        name: [str(facts_of(split).name[i]) for i in positions]
        for name, (split, positions) in lists.items()
    }


def fixed(*entries, match):
    """Returns the names of the last list after the fix of its error is typed."""
    with pytest.raises(InputError, match=match) as error:
        read(*entries)
    lists = typed(error.value.fix)
    assert lists[:-1] == entries[:-1] and schema.example_lists(lists) is None
    return list(read(*lists).values())[-1]


def typed(fix):
    """Returns the lists of an argument, which a shell has split."""
    (argument,) = shlex.split(fix)
    return config_lib.typed(argument.removeprefix('--config.data.lists='), ())


def cities(names):
    return collections.Counter(name.split('_')[0] for name in names)


def test_forms_of_a_draw():
    for text in ('draw(7, seed=0)', 'draw(7, seed=2, spread=city)', 'draw(9, seed=0, single=1of2)'):
        assert draws.as_text(draws.parse('a', text)) == text
    assert draws.parse('a', 'draw(7)') == Draw('a', 7)
    assert draws.parse('a', 'draw(7, seed=3)') == Draw('a', 7, 3)
    assert draws.parse('a', 'draw(7,whole=city)') == Draw('a', 7, 0, 'whole', 'city')
    sequence = Draw('a', 7, 2, 'spread', 'sequence')
    assert draws.parse('a', 'draw(7, seed=2, spread=sequence)') == sequence
    for file in ('members.txt', 'draw(0)', 'draw(7, seed=1.5)', 'draw(7).txt'):
        assert draws.parse('a', file) is None


def test_a_draw_is_a_function_of_seed_and_names():
    entries = ('a=train:draw(15)', 'b=train:draw(10)', 'c=train+val:draw(20)')
    lists = read(*entries)
    assert [len(names) for names in lists.values()] == [15, 10, 20]
    for first, second in itertools.combinations(lists.values(), 2):
        assert not set(first) & set(second)
    assert read(*entries) == lists and read(*entries[:1])['a'] == lists['a']
    other = read('a=train:draw(15, seed=1)')['a']
    assert other != lists['a'] and len(set(other)) == 15
    # Every example is drawn by some seed, and no seed draws the same examples.
    by_seed = [frozenset(read(f'a=train:draw(15, seed={seed})')['a']) for seed in range(40)]
    assert len(set(by_seed)) == 40 and len(frozenset.union(*by_seed)) == 40


def test_an_earlier_draw_does_not_decide_the_splits_of_later_draws():
    splits = {'train': facts(frames({'ulm': 400})), 'val': facts(frames({'lindau': 200}))}

    def facts_of_splits(split):
        return index.concatenate([splits[name] for name in split.split('+')])

    entries = ('a=train:draw(300)', 'b=train+val:draw(150)', 'c=train+val:draw(150)')
    lists = example_lists.read(entries, splits, facts_of_splits, 'the data set')
    # 100 of 400 examples of train are left, and b and c are the halves of 300 examples.
    deviation = np.sqrt(150 * (1 / 3) * (2 / 3) * 150 / 299)
    for name in ('b', 'c'):
        num_train = sum(position < 400 for position in lists[name].positions)
        assert abs(num_train - 50) < 4 * deviation


def test_the_order_of_the_examples_changes_no_draw():
    names = TRAIN.name.tolist()
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = [names[i] for i in order]
    chosen = draws.choose(Draw('a', 15), names, names, 'here')
    again = draws.choose(Draw('a', 15), shuffled, shuffled, 'here')
    assert {names[i] for i in chosen} == {shuffled[i] for i in again}


def test_spread_gives_every_list_its_share_of_every_city():
    lists = read('a=train:draw(20, spread=city)', 'b=train:draw(10, spread=city)')
    for names, size in zip(lists.values(), (20, 10), strict=True):
        counts = cities(names)
        for city, number in CITIES.items():
            assert abs(counts[city] - size / 40 * number) <= 1, city


def best_sum(sizes, limit):
    """Returns the largest sum of at most `limit`, by trying all subsets."""
    sums = [0]
    for number in sizes:
        sums += [total + number for total in sums]
    return max(total for total in sums if total <= limit)


@pytest.mark.parametrize('size', [3, 13, 22, 31, 39, 40])
def test_whole_keeps_cities_together_and_comes_as_near_as_possible(size):
    first = read(f'a=train:draw({size}, whole=city)')['a']
    assert len(first) == best_sum(CITIES.values(), size)
    counts = cities(first)
    assert all(CITIES[city] == number for city, number in counts.items())
    left = {city: number for city, number in CITIES.items() if city not in counts}
    if len(first) <= 28:
        second = read(f'a=train:draw({size}, whole=city)', 'b=train:draw(12, whole=city)')['b']
        assert not counts.keys() & cities(second).keys()
        assert len(second) == best_sum(left.values(), 12)


def test_seeds_choose_among_the_whole_groups():
    chosen = {
        frozenset(cities(read(f'a=train:draw(12, seed={seed}, whole=city)')['a']))
        for seed in range(20)
    }
    # 12 = aachen = bremen + ulm.
    assert chosen == {frozenset({'aachen'}), frozenset({'bremen', 'ulm'})}


def test_whole_leaves_out_a_city_that_an_earlier_list_has_a_part_of():
    lists = read('a=train:draw(1)', 'b=train:draw(20, whole=city)')
    (city,) = cities(lists['a'])
    assert city not in cities(lists['b'])


def test_single_draws_an_example_of_each_group_and_no_group_twice():
    lists = read('a=train:draw(2, single=city)', 'b=train:draw(2, single=city)')
    first, second = (cities(names) for names in lists.values())
    assert set(first.values()) == set(second.values()) == {1}
    assert len(first) == len(second) == 2 and not first.keys() & second.keys()


def test_seeds_choose_groups_and_their_single_examples():
    drawn = [read(f'a=train:draw(1, seed={seed}, single=city)')['a'][0] for seed in range(60)]
    counts = collections.Counter(name.partition('_')[0] for name in drawn)
    assert counts.keys() == CITIES.keys()
    assert len(set(drawn)) > len(CITIES)


def test_more_single_examples_than_groups_are_refused():
    for size in (20, 90):
        names = fixed(
            f'a=train:draw({size}, seed=3, single=city)',
            match=rf'{size} groups \(city\), of {len(CITIES)} that may be drawn',
        )
        assert names == read(f'a=train:draw({len(CITIES)}, seed=3, single=city)')['a']


def test_sequences_are_groups():
    clips = facts(list('abcdef'), ['x', 'x', 'y', 'y', 'y', 'z'])
    whole = Draw('a', 3, rule='whole', group='sequence')
    group_of = draws.groups(whole, clips, 'here')
    chosen = draws.choose(whole, clips.name.tolist(), group_of, 'here')
    assert chosen in ([2, 3, 4], [0, 1, 5])


def clips(**lengths):
    """Returns facts of clips whose frames are shuffled, with names like 'b 7'."""
    places = [(clip, frame) for clip, length in lengths.items() for frame in range(length)]
    places = [places[i] for i in np.random.default_rng(0).permutation(len(places))]
    found = facts([f'{clip} {frame}' for clip, frame in places], [clip for clip, _ in places])
    return found._replace(frame=np.array([30 * frame for _, frame in places]))


def test_blocks_of_frames_are_apart_in_time():
    found = clips(a=60, b=27)
    entries = ('a=all:draw(20, whole=4of6)', 'b=all:draw(16, whole=4of6)', 'c=all:draw(9)')
    lists = example_lists.read(entries, {'all': found}, lambda _: found, 'the data set')
    names = {
        name: [found.name[i].split() for i in positions] for name, (_, positions) in lists.items()
    }
    assert [len(each) for each in names.values()] == [20, 16, 9]
    for name in ('a', 'b'):
        assert all(int(frame) % 6 < 4 for _, frame in names[name])
        blocks = collections.Counter((clip, int(frame) // 6) for clip, frame in names[name])
        assert all(count == 4 or block == ('b', 4) for block, count in blocks.items())
    for (clip, frame), (other_clip, other) in itertools.product(names['a'], names['b']):
        assert clip != other_clip or abs(int(frame) - int(other)) > 2


def test_blocks_that_keep_more_frames_than_they_have_are_refused():
    found = clips(a=24)
    with pytest.raises(InputError, match='first 6 of 4') as error:
        draws.groups(draws.parse('a', 'draw(8, whole=6of4)'), found, 'here')
    assert error.value.fix == 'draw(8, seed=0, whole=4of6)'
    draws.groups(draws.parse('a', error.value.fix), found, 'here')


def test_examples_without_such_a_group_are_refused():
    match = r'40 of 40 examples without a sequence'
    assert len(fixed('a=train:draw(3, whole=sequence)', match=match)) == 3
    assert len(fixed('a=train:draw(90, single=sequence)', match=match)) == 40
    rest = ('a=train:draw(30)', 'b=train:draw(20, spread=sequence)')
    assert len(fixed(*rest, match=match)) == 10
    stills = facts(['still', 'aachen_000000_000019'])
    with pytest.raises(InputError, match=r"1 of 2 examples without a city, the first is 'still'"):
        draws.groups(Draw('a', 1, rule='spread', group='city'), stills, 'here')


def test_groups_that_are_larger_than_the_draw_are_refused():
    names = fixed('a=train:draw(2, whole=city)', match='the smallest city has 3')
    assert cities(names) == {'ulm': 3}


@pytest.mark.parametrize('rule', ['', ', spread=city', ', whole=city'])
def test_a_draw_of_too_many_examples_keeps_its_seed_and_its_rule(rule):
    names = fixed(f'a=train:draw(90, seed=3{rule})', match='90 examples, of 40')
    assert names == read(f'a=train:draw(40, seed=3{rule})')['a']
    entries = ('a=train:draw(12, whole=city)', f'b=train+val:draw(90, seed=3{rule})')
    assert len(fixed(*entries, match='90 examples, of 38')) == 38


@pytest.mark.parametrize('rule', ['', ', spread=city', ', whole=city', ', single=city'])
def test_nothing_replaces_a_draw_from_no_examples(rule):
    with pytest.raises(InputError, match='of 0 that may be drawn') as error:
        read('a=train:draw(40)', f'b=train:draw(2{rule})')
    assert error.value.fix == ''


def test_a_fix_that_fails_is_replaced_by_the_next_fix():
    found = clips(a=24)
    entries = ('a=all:draw(2, whole=6of4)', 'b=all:draw(3)')
    with pytest.raises(InputError, match='first 6 of 4') as error:
        example_lists.read(entries, {'all': found}, lambda _: found, 'the data set')
    # Blocks of 4 examples are larger than the draw.
    assert typed(error.value.fix) == ('a=all:draw(4, seed=0, whole=4of6)', entries[1])


def test_the_published_sizes():
    sizes = {name: [size for _, _, size in lists] for name, lists in draws.PUBLISHED.items()}
    assert sizes['cityscapes'] == [1488, 912, 555, 520] and sum(sizes['cityscapes']) == 2975 + 500
    assert sizes['bdd100k'] == [4000, 4000] and sum(sizes['bdd100k']) == 7000 + 1000
    assert sizes['vistas'] == [10_000] * 2 and sum(sizes['vistas']) == 18_000 + 2000
    entries = draws.published_lists('cityscapes', 'seed=1, spread=city')
    assert entries[0] == 'victim_members=train:draw(1488, seed=1, spread=city)'
    assert entries[3] == 'shadow_non_members=train+val:draw(520, seed=1, spread=city)'
    for name in draws.PUBLISHED:
        assert schema.example_lists(draws.published_lists(name)) is None
