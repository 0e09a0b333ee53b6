"""Curves: their form, and the values that no chart could show."""

import json

import numpy as np
import pytest

from segjax.core import files
from segjax.metrics import curves


def test_a_curve_survives_json():
    x = np.float32([1, 10, 100])
    curve = curves.curve({'ours': (x, [1, 2, 3]), 'baseline': ([5], [0.5])}, 'rate', 'hits', 'log')
    assert json.loads(json.dumps(curve)) == files.to_json(curve) == curve
    assert curve['series'][0] == {'name': 'ours', 'x': [1.0, 10.0, 100.0], 'y': [1.0, 2.0, 3.0]}
    assert [line['name'] for line in curve['series']] == ['ours', 'baseline']
    assert (curve['x_name'], curve['y_name']) == ('rate', 'hits')
    assert (curve['x_scale'], curve['y_scale']) == ('log', 'linear')


@pytest.mark.parametrize(
    'series, scales, message',
    [
        ({}, (), 'at least one series'),
        ({'a': ([], [])}, (), "x of series 'a': a list of values"),
        ({'a': ([[1]], [[1]])}, (), 'shape'),
        ({'a': ([1, 2], [1])}, (), '2 values x and 1 values y'),
        ({'a': ([1, 2], [1, np.nan])}, (), "y of series 'a': nan is not finite"),
        ({'a': ([1, np.inf], [1, 1])}, (), "x of series 'a': inf"),
        ({'a': ([0, 1], [1, 1])}, ('log',), '0 has no place on a logarithmic axis'),
        ({'a': ([0, 1], [1, -1])}, ('linear', 'log'), "y of series 'a': -1 has no place"),
        ({'a': ([1], [1])}, ('logit',), "got 'logit'"),
    ],
)
def test_a_curve_that_no_chart_could_show_is_refused(series, scales, message):
    with pytest.raises(ValueError, match=message):
        curves.curve(series, 'x', 'y', *scales)


def test_zero_has_a_place_on_a_linear_axis():
    assert curves.curve({'a': ([0], [0])}, 'x', 'y')['series'][0]['x'] == [0.0]
