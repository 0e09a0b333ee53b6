"""Scores as plain data and as text: what JSON can hold, what a terminal shows, what the report draws."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from segjax.core import files
from segjax.protocol import Scores

MADE_BY = 'made_by'
"""Entry of a stage's scores that says what they were computed with (same_run.py). It is no score."""


class ScoreParts(NamedTuple):
    """Nested scores, sorted by how they are best shown.

    values     numbers and words by name
    baselines  'baseline_x': {...} under the name 'x': what a trivial predictor gets, with names as in values
    tables     rows of numbers by name: {'per class': {'road': {'IoU': .9, 'accuracy': .95}, ...}}
    curves     dicts with lists x and y of one length, and optionally names x_name, y_name
    confusion  rows of counts, truth by row, in the order of the classes; a column more holds predictions of
               void; None if there are none
    sections   dicts of anything else
    """

    values: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    tables: dict[str, dict[str, dict[str, Any]]]
    curves: dict[str, dict[str, Any]]
    confusion: list[list[float]] | None
    sections: dict[str, dict[str, Any]]


PER_CLASS = 'per class'
"""The table of by-class scores, whether they come as {'IoU': {'road': .9}} or as {'road': {'IoU': .9}}."""


def split_scores(scores: Scores) -> ScoreParts:
    """Sorts scores by their form. Lists other than curves and the confusion matrix stay in scores.json alone."""
    parts = ScoreParts({}, {}, {}, {}, None, {})
    for name, value in files.to_json(scores).items():
        if name == MADE_BY:
            continue
        if name == 'confusion' and _is_matrix(value):
            parts = parts._replace(confusion=value)
        elif isinstance(value, dict):
            _place(parts, name, value)
        elif not isinstance(value, list):
            parts.values[name] = value
    table = parts.tables.get(PER_CLASS)
    if table and parts.confusion and not any('pixels' in row for row in table.values()):
        for row, counts in zip(table.values(), parts.confusion):
            row['pixels'] = sum(counts)
    return parts


def _place(parts: ScoreParts, name: str, value: dict[str, Any]) -> None:
    if name.startswith('baseline_'):
        parts.baselines[name.removeprefix('baseline_')] = value
    elif _is_curve(value):
        parts.curves[name] = value
    elif value and all(_is_flat(row) for row in value.values()):
        _merge(parts.tables.setdefault(PER_CLASS if name == 'per_class' else name, {}), value)
    elif value and is_share(name) and _is_flat(value):
        _merge(parts.tables.setdefault(PER_CLASS, {}), {row: {name: v} for row, v in value.items()})
    elif value:
        parts.sections[name] = value


def _merge(table: dict[str, dict[str, Any]], more: Mapping[str, Mapping[str, Any]]) -> None:
    for row, numbers in more.items():
        table.setdefault(row, {}).update(numbers)


def _is_flat(value: Any) -> bool:
    return isinstance(value, dict) and all(not isinstance(v, (dict, list)) for v in value.values())


def _is_curve(value: dict[str, Any]) -> bool:
    x, y = value.get('x'), value.get('y')
    return isinstance(x, list) and isinstance(y, list) and len(x) == len(y) > 0


def _is_matrix(value: Any) -> bool:
    rows = value if isinstance(value, list) else []
    return bool(rows) and all(
        isinstance(r, list) and all(isinstance(v, (int, float)) for v in r) for r in rows
    )


def flat_scalars(scores: Scores) -> dict[str, float | None]:
    """The numbers to follow over the steps, by path: {'mIoU': .4, 'IoU/road': .9}; baselines do not move."""
    flat = {}
    for name, value in files.to_json(scores).items():
        if isinstance(value, dict) and name != MADE_BY and not name.startswith('baseline_'):
            flat |= {f'{name}/{inner}': number for inner, number in flat_scalars(value).items()}
        elif value is None or isinstance(value, (int, float)):
            flat[name] = value
    return flat


def is_share(name: str) -> bool:
    """Whether the score of this name is a share in [0, 1], which the field prints in per cent."""
    ends = (
        name.split('/', 1)[0].lower(),
        name.rsplit('/', 1)[-1].lower(),
    )  # 'IoU/road', 'per_class/road/IoU'
    return any(
        word in end for end in ends for word in ('iou', 'accuracy', 'precision', 'recall', 'dice')
    )


UNITS = {
    'PSNR': 'dB',
    'SNR': 'dB',
    'PSNR_lost': 'dB',
    'rotation_error': 'degrees',
    'trajectory_error': 'm',
    'rmse': 'm',
    'sq_rel': 'm',
}
"""Units of scores by the last part of their name; shares are printed in per cent."""

MEANINGS = {
    'mIoU_with_void': 'mIoU with void is the mean IoU over all classes and void. In mIoU void is no class: '
    'a pixel of a class that is predicted as void is a miss, and pixels without a label count nowhere.',
}
"""Explanations of scores whose name says too little, by that name."""


def unit_of(name: str) -> str:
    """Returns the unit in which `format_score` prints the score of this name; '' for none."""
    return '%' if is_share(name) else UNITS.get(name.rsplit('/', 1)[-1], '')


def with_unit(name: str) -> str:
    """Returns the heading of a column or a chart: 'PSNR dB' for 'PSNR'."""
    return f'{name.replace("_", " ")} {unit_of(name)}'.rstrip()


def meanings(names: Iterable[str]) -> list[str]:
    """Returns the explanations of the scores that need one, in order."""
    return [MEANINGS[name] for name in names if name in MEANINGS]


def format_score(name: str, value: Any, unit: bool = True) -> str:
    """Writes a score as people do: 0.4123 of mIoU is '41.23 %', 21.5 of PSNR '21.5 dB', NaN is '-'."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return '-'
    if isinstance(value, (bool, str)):
        return str(value)
    shown = f'{value:,d}' if isinstance(value, int) else f'{value:.4g}'
    if is_share(name):
        shown = f'{100 * value:.2f}'
    return f'{shown} {unit_of(name)}'.rstrip() if unit else shown


def table_columns(table: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The columns of a table of scores as (heading, cells); 'pixels' counts become their share of all."""
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in table.values()]
        if name == 'pixels':
            total = sum(v or 0 for v in values) or 1
            columns.append(
                (
                    'share of pixels %',
                    [format_score('accuracy', (v or 0) / total, False) for v in values],
                )
            )
        else:
            cells = [format_score(name, v, unit=False) for v in values]
            columns.append((with_unit(name), cells))
    return columns


def score_table(scores: Scores) -> str:
    """The scores of a run as aligned plain text: tables (a row per class), then a summary with baselines."""
    parts = split_scores(scores)
    blocks = []
    for name, table in parts.tables.items():
        columns = [(name.replace('_', ' '), list(table)), *table_columns(table)]
        blocks.append(_aligned([[heading, *cells] for heading, cells in columns]))
    if parts.values:
        columns = [['score', *(n.replace('_', ' ') for n in parts.values)]]
        columns.append(['this run', *(format_score(n, v) for n, v in parts.values.items())])
        for name, baseline in parts.baselines.items():
            cells = [
                '' if isinstance(v, str) else format_score(n, baseline.get(n))
                for n, v in parts.values.items()
            ]
            columns.append([name.replace('_', ' '), *cells])
        blocks.append(_aligned(columns))
        blocks += meanings(parts.values)
    for name, section in parts.sections.items():
        inner = score_table(section)
        if inner:
            blocks.append(name.replace('_', ' ') + '\n' + textwrap.indent(inner, '  '))
    return '\n\n'.join(blocks)


def _aligned(columns: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first flush left, numbers flush right, a rule under the heading."""
    widths = [max(map(len, column)) for column in columns]
    rows = []
    for row in zip(*columns, strict=True):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:])),
        ]
        rows.append('  '.join(cells).rstrip())
    return '\n'.join([rows[0], '-' * (sum(widths) + 2 * (len(widths) - 1)), *rows[1:]])


LABEL_SIZE = 'label size'


def scored_at(config: ml_collections.ConfigDict) -> str:
    """Returns where pixels are scored, and in which crops, as scores and tables print it."""
    size = LABEL_SIZE
    if config.evaluate.resolution == 'image':
        size = '{}x{}'.format(*config.data.eval_size)
    if not config.evaluate.crop:
        return size
    height, width = config.evaluate.crop
    return f'{size}, crops of {height}x{width}, stride {config.evaluate.stride:.3g}'


def scored_as_asked(scores: Mapping[str, Any], config: ml_collections.ConfigDict) -> bool:
    """Returns whether stored scores of a stage follow the protocol in `config.evaluate`.

    Scores without a policy are none of a segmentation and follow every protocol. Scores without a
    resolution are older than the key and were computed at its default.
    """
    if 'policy' not in scores:
        return True
    asked = (config.evaluate.policy, scored_at(config))
    return (scores['policy'], scores.get('resolution', LABEL_SIZE)) == asked
