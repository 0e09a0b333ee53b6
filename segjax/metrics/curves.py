"""Scores that are curves, in the form that reports and tables draw."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SCALES = ('linear', 'log')


def curve(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_name: str,
    y_name: str,
    x_scale: str = 'linear',
    y_scale: str = 'linear',
) -> dict[str, Any]:
    """Returns a score of `Stage.finalize` that the report draws as a chart.

    Args:
      series: {name: (x [N], y [N])}, a line each.
      x_name, y_name: of the axes.
      x_scale, y_scale: 'linear' or 'log'.

    Returns:
      {'series': [{'name', 'x', 'y'}], 'x_name', 'y_name', 'x_scale', 'y_scale'}, which survives
      JSON.

    Raises:
      ValueError: no point, different lengths, a value that is not finite, a value on a logarithmic
        axis that is not positive, or an unknown scale.
    """
    for scale in (x_scale, y_scale):
        if scale not in SCALES:
            raise ValueError(f'a scale is one of {", ".join(SCALES)}; got {scale!r}')
    if not series:
        raise ValueError('a curve needs at least one series')
    lines = []
    for name, (x, y) in series.items():
        xs = _values(f'x of series {name!r}', x, x_scale)
        ys = _values(f'y of series {name!r}', y, y_scale)
        if len(xs) != len(ys):
            raise ValueError(f'series {name!r} has {len(xs)} values x and {len(ys)} values y')
        lines.append({'name': name, 'x': xs, 'y': ys})
    return {
        'series': lines,
        'x_name': x_name,
        'y_name': y_name,
        'x_scale': x_scale,
        'y_scale': y_scale,
    }


def _values(what: str, values: ArrayLike, scale: str) -> list[float]:
    """Returns checked values of an axis.

    Args:
      what: names the values in errors.
      values: [N].
      scale: of the axis.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f'{what}: a list of values, got an array of shape {list(array.shape)}')
    if not np.isfinite(array).all():
        raise ValueError(f'{what}: {array[~np.isfinite(array)][0]} is not finite')
    if scale == 'log' and array.min() <= 0:
        raise ValueError(
            f'{what}: {array.min():g} has no place on a logarithmic axis; leave this point out'
        )
    return array.tolist()
