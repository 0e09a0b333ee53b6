"""Scores that are curves, in reports: several lines, logarithmic axes, the older form."""

import re

import numpy as np
import pytest

from segjax.core import files
from segjax.metrics import curves, ranking
from segjax.report import charts, page, scores
from segjax.train import log_files


def ticks(chart):
    """Returns the labels of the horizontal axis."""
    return re.findall(r'class="mid">([^<]*)<', chart)


def points(chart):
    """Returns the (x, y) pixels of every polyline."""
    lines = []
    for text in re.findall(r'points="([^"]*)"', chart):
        lines.append([tuple(map(float, pair.split(','))) for pair in text.split()])
    return lines


def drawn(score):
    """Draws a score under the name 'roc' as the report does."""
    (curve,) = scores.split_scores({'roc': score}).curves.values()
    return charts.curve_chart('roc', curve)


def make_roc(x_scale='log'):
    """Returns the curves of two rankings, one of them better."""
    rng = np.random.default_rng(0)
    truth = rng.random(5000) < 0.5
    series = {}
    for name, strength in (('label loss', 2.0), ('gradient norm', 0.7)):
        curve = ranking.roc(strength * truth + rng.normal(size=5000), truth)
        kept = curve.false_positive_rate > 0
        series[name] = (curve.false_positive_rate[kept], curve.true_positive_rate[kept])
    return curves.curve(series, 'false positive rate', 'true positive rate', x_scale, 'log')


def test_each_series_is_a_line_of_its_own_colour_in_the_legend():
    chart = drawn(curves.curve({'a': ([0, 1], [0, 1]), 'b': ([0, 1], [1, 0])}, 'x', 'y'))
    assert [len(line) for line in points(chart)] == [2, 2]
    assert re.findall(r'class="line ([^"]*)"', chart) == ['c0', 'c1']
    assert re.findall(r'class="key ([^"]*)"></i>([^<]*)<', chart) == [('c0', 'a'), ('c1', 'b')]
    assert '<b>roc: y over x</b>' in chart
    assert 'log' not in chart


def test_many_series_are_told_apart_by_dashes():
    lines = {f'row {i}': ([0, 1], [0, i]) for i in range(10)}
    chart = drawn(curves.curve(lines, 'x', 'y'))
    roles = re.findall(r'class="line ([^"]*)"', chart)
    assert roles[7:] == ['c7', 'c0 dashed', 'c1 dashed']
    assert len(set(roles)) == 10
    assert 'class="keys many"' in chart


def test_powers_of_ten_lie_at_equal_distances_on_a_logarithmic_axis():
    chart = drawn(curves.curve({'a': ([1, 10, 100], [1, 2, 3])}, 'x', 'y', 'log'))
    assert ticks(chart) == ['1', '10', '100']
    (line,) = points(chart)
    assert line[1][0] - line[0][0] == pytest.approx(line[2][0] - line[1][0], abs=0.2)
    assert '<small>log x</small>' in chart
    small = drawn(curves.curve({'a': ([1e-5, 1e-4, 1e-3], [1, 2, 3])}, 'x', 'y', 'log'))
    assert ticks(small) == ['1e-5', '1e-4', '0.001']


@pytest.mark.parametrize('x_scale, y_scale, note', [
    ('log', 'log', 'log scales'), ('linear', 'log', 'log scale'),
])  # fmt: skip
def test_the_scales_are_named(x_scale, y_scale, note):
    chart = drawn(curves.curve({'a': ([1, 10], [1, 10])}, 'x', 'y', x_scale, y_scale))
    assert f'<small>{note}</small>' in chart


def test_a_linear_axis_stays_linear_over_large_ratios():
    values = ([0, 1, 2], [1, 500, 1000])
    chart = drawn(curves.curve({'a': values}, 'x', 'y'))
    (line,) = points(chart)
    assert line[0][1] - line[1][1] == pytest.approx(line[1][1] - line[2][1], abs=1)
    assert 'log scale' in drawn({'x': values[0], 'y': values[1]}), 'the chart chooses, as before'


def test_a_single_point_has_a_place_on_a_logarithmic_axis():
    chart = drawn(curves.curve({'a': ([5], [5])}, 'x', 'y', 'log', 'log'))
    assert 'nan' not in chart
    assert ticks(chart) == ['5']


def test_the_older_form_is_a_single_line():
    parts = scores.split_scores({'roc': {'x': [0, 1], 'y': [0, None], 'y_name': 'hits'}})
    (curve,) = parts.curves.values()
    line = scores.CurveLine('hits', [0, 1], [0, None])
    assert curve == scores.Curve((line,), 'x', 'hits', '', '')
    assert 'class="line eval"' in charts.curve_chart('roc', curve)


def test_stored_points_without_a_place_are_left_out():
    """A file may have been edited."""
    score = curves.curve({'a': ([1, 10, 100], [1, 2, 3])}, 'x', 'y', 'log')
    score['series'][0]['x'][0] = 0
    assert [len(line) for line in points(drawn(score))] == [2]


@pytest.mark.parametrize(
    'other',
    [{'series': []}, {'series': 3}, {'series': [{'x': [1], 'y': []}]}, {'series': [{'x': [1]}]}],
)
def test_scores_of_another_form_are_no_curves(other):
    assert scores.split_scores({'roc': other}).curves == {}


def test_curves_of_sections_are_known_by_their_path():
    curve = curves.curve({'a': ([1], [1])}, 'x', 'y')
    nested = {'roc': curve, 'attack': {'strong': {'pr': curve, 'auc': 0.5}}}
    assert list(scores.all_curves(nested)) == ['roc', 'attack/strong/pr']
    assert scores.flat_scalars(nested) == {'attack/strong/auc': 0.5}, 'no point is a score'


def test_the_report_draws_a_curve_on_logarithmic_axes(tmp_path):
    metrics = log_files.MetricsLog(tmp_path / 'attack', 0)
    metrics.write(1, 'train', {'loss': 1.0})
    metrics.close()
    roc_by_set = {'auc': 0.9, 'roc': make_roc(), 'on_a_linear_axis': make_roc('linear')}
    files.write_json(tmp_path / 'attack/scores.json', roc_by_set)
    text = page.write(tmp_path, None).read_text()
    chart = text[text.index('<b>roc: true positive rate over false positive rate</b>') :]
    assert ticks(chart)[:3] == ['0.001', '0.01', '0.1']
    assert 'label loss' in chart and 'gradient norm' in chart
