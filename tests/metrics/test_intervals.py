"""Bootstrap intervals of means over groups, and of further statistics."""

import numpy as np
import pytest

from segjax.metrics import intervals
from segjax.metrics.intervals import grouped_bootstrap


@pytest.mark.slow
def test_of_independent_values_the_interval_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = grouped_bootstrap(values, np.arange(400))
    half = 1.96 * values.std() / 20
    assert found.mean == values.mean()
    np.testing.assert_allclose([found.low, found.high], [found.mean - half, found.mean + half],
                               atol=0.1 * half)  # fmt: skip
    assert (found.values, found.groups) == (400, 400)


def test_copies_inside_a_group_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=50)
    groups = np.arange(50)
    alone = grouped_bootstrap(values, groups)
    copied = grouped_bootstrap(np.repeat(values, 7), np.repeat(groups, 7))
    np.testing.assert_allclose(copied[:3], alone[:3])
    assert copied.groups == 50
    apart = grouped_bootstrap(np.repeat(values, 7), np.arange(350))
    assert apart.high - apart.low < 0.5 * (alone.high - alone.low)


def test_groups_weigh_as_much_as_they_have_values():
    found = grouped_bootstrap([0, 0, 0, 1], [5, 5, 5, 9])
    assert found.mean == 0.25
    assert (found.low, found.high) == (0, 1)


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        of_group = generator.normal(size=40)
        values = np.repeat(of_group, 5) + generator.normal(size=200)
        found = grouped_bootstrap(values, np.repeat(np.arange(40), 5), resamples=300)
        covered += found.low <= 0 <= found.high
    assert 0.90 <= covered / 300 <= 0.98


def test_unknown_values_are_left_out():
    found = grouped_bootstrap([1.0, np.nan, 3.0], [0, 1, 2])
    assert (found.mean, found.values, found.groups) == (2.0, 2, 2)
    assert grouped_bootstrap([np.nan], [0]) is None
    assert grouped_bootstrap([], []) is None


def test_another_seed_resamples_anew_and_a_seed_repeats():
    values = np.arange(20.0)
    first = grouped_bootstrap(values, values)
    assert grouped_bootstrap(values, values) == first
    assert grouped_bootstrap(values, values, seed=1) != first


@pytest.mark.parametrize('level', [0.5, 0.9])
def test_a_lower_level_is_narrower(level):
    values = np.random.default_rng(3).normal(size=100)
    wide = grouped_bootstrap(values, np.arange(100))
    narrow = grouped_bootstrap(values, np.arange(100), level=level)
    assert wide.low < narrow.low < narrow.high < wide.high


VALUES = np.random.default_rng(4).normal(3.0, 2.0, 300)


def mean_of_times(times):
    return {'mean': times @ VALUES / times.sum(1)}


def test_a_mean_as_a_statistic_has_the_interval_of_a_mean():
    got = intervals.of_statistics(mean_of_times, np.zeros(300))['mean']
    expected = grouped_bootstrap(VALUES, np.arange(300))
    np.testing.assert_allclose([got['value'], got['low'], got['high']], expected[:3])


def test_blocks_of_resamples_do_not_change_the_interval(monkeypatch):
    whole = intervals.of_statistics(mean_of_times, np.zeros(300), resamples=50)
    monkeypatch.setattr(intervals, 'BLOCK', 300 * 7)
    assert intervals.of_statistics(mean_of_times, np.zeros(300), resamples=50) == whole


def test_every_resample_has_as_many_groups_of_each_kind_and_whole_groups():
    kinds = np.array([True] * 6 + [False] * 4)
    names = np.array(['a', 'a', 'a', 'b', 'c', 'c', 'a', 'a', 'b', 'b'])
    drawn = []

    def remember(times):
        drawn.append(times)
        return {'absent': np.full(len(times), np.nan)}

    assert intervals.of_statistics(remember, kinds, names, resamples=40) == {}, 'no value'
    first, times = drawn
    assert (first == 1).all() and times.shape == (40, 10)
    for rows, groups in ((slice(0, 6), 'abc'), (slice(6, 10), 'ab')):
        part, part_names = times[:, rows], names[rows]
        of_group = np.stack([part[:, part_names == name][:, 0] for name in groups], 1)
        assert (of_group.sum(1) == len(groups)).all()
        for column, name in enumerate(groups):
            assert (part[:, part_names == name] == of_group[:, [column]]).all()
    assert len(np.unique(times, axis=0)) > 10
