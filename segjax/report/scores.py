"""Scores as plain data and as text, for scores.json, the terminal and the report."""

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from segjax.core import files
from segjax.protocol import Scores

MADE_BY = 'made_by'
"""Entry of a stage's scores with the facts that made them (same_run.py). It is no score."""
PER_CLASS = 'per class'
"""The table of scores by class.

Scores may come as {'IoU': {'road': .9}} or as {'road': {'IoU': .9}}.
"""
UNITS = {
    'PSNR': 'dB',
    'PSNR_box': 'dB',
    'SNR': 'dB',
    'PSNR_lost': 'dB',
    'rotation_error': 'degrees',
    'mean_angle': 'degrees',
    'median_angle': 'degrees',
    'rms_angle': 'degrees',
    'NN': 'pixels',
    'width_error': '%',
    'nme': '%',
    'trajectory_error': 'm',
    'rmse': 'm',
    'sq_rel': 'm',
    'entropy': 'nats',
    'class_entropy': 'nats',
}
"""Units of scores by the last or the first part of their name. Shares are printed in per cent."""
MEANINGS = {
    'mIoU_with_void': 'mIoU with void is the mean IoU over all classes and void. '
    'In mIoU void is no class: a pixel of a class that is predicted as void is a miss, '
    'and pixels without a label count nowhere.',
    'flip_sensitivity': 'Flip sensitivity is the Sem of flipped objects, divided by the mean fall '
    'of tIOU and hamm. Below 1, a flip changes the class less than the pixels. '
    'Read it with the accuracy: a net that names one class for all shapes has a Sem of 0. Falls '
    'are the losses of 1 - Sem, tIOU and hamm at each level of a transformation. Their errors are '
    'standard errors over the objects.',
    'noisy_boxes': 'All scores count inside the box. tIOU is the IoU of the target class, and hamm '
    'the share of right pixels. NN is the number of noise pixels, whose class does not occur in '
    'the true box. Sem is the difference of the shapes in the eyes of the shape classifier: '
    'smaller is better. Baselines: fill is the box in its class, mean shape and training shape '
    'are the mean and the last training shape of the class.',
    'synthetic_mIoU': 'Scores up to synthetic mIoU are the PSPNet-score: the segmentation net '
    'reads synthetic features of the true layouts. The baseline real features is the same net on '
    'images, the limit of a generator. Diversity is the standard deviation of features over codes, '
    'in standard deviations of a channel. Entropy and histogram IoU are those of real features, by '
    'class and channel. Features with small values are easy to generate.',
    'gain_mIoU': 'A gain is the score minus the score of the baseline start, the net before the '
    'refit, in points of per cent.',
    'ODS_F': 'Boundaries are matched as in the Berkeley benchmark. ODS is at the best threshold of '
    'the data set, OIS at the best threshold of each image. F is the harmonic mean of precision '
    'and recall, and AP the area under the precision over the recall.',
    'TPR_at_1_percent': 'AUC to balanced accuracy are scores of the attack net on images. TPR is '
    'the share of the members that are found at a false-positive rate of 1 % or 0.1 %. On few '
    'images, the best threshold lifts balanced accuracy and precision above chance. Scores of the '
    'segmentation are those of the protected net on non-members. A gap is the score of members '
    'minus the score of non-members. Intervals hold 95 %. The confound is a classifier that sees '
    'facts of the images and no net. It gives a warning if its AUC is above the AUC on shuffled '
    'facts. Then a high AUC of an attack need not show a leak.',
}
"""Explanations by name, for scores whose name says too little."""
INTERVAL = ('mean', 'value', 'low', 'high')
"""Columns of a table of intervals. Their unit is that of the score that names the row."""
TEXT_WIDTH = 100
"""Characters of a line of an explanation in the terminal."""
LABEL_SIZE = 'label size'


# --- forms of scores ------------------------------------------------------------------------------


class CurveLine(NamedTuple):
    """A line of a curve: its name, and lists of positions and values of one length."""

    name: str
    x: list[float]
    y: list[float]


class Curve(NamedTuple):
    """A score that is a curve.

    lines             in the order of the legend
    x_name, y_name    of the axes
    x_scale, y_scale  'linear', 'log', or '' for the choice of the chart
    """

    lines: tuple[CurveLine, ...]
    x_name: str
    y_name: str
    x_scale: str
    y_scale: str


class ScoreParts(NamedTuple):
    """Nested scores, sorted by the form in which they are shown.

    values     numbers and words by name
    baselines  'baseline_x': {...} under the name 'x': the scores of a trivial predictor, with names
               as in values
    tables     rows of numbers by name: {'per class': {'road': {'IoU': .9, 'accuracy': .95}, ...}}
    curves     from dicts {'series': [{'name', 'x', 'y'}]} (metrics/curves.py), or {'x', 'y'} of a
               single line. 'x_name', 'y_name', 'x_scale' and 'y_scale' are optional
    confusion  rows of counts, truth by row, in the order of the classes. An additional column holds
               predictions of void. None if there are no counts
    sections   dicts of any other form
    """

    values: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    tables: dict[str, dict[str, dict[str, Any]]]
    curves: dict[str, Curve]
    confusion: list[list[float]] | None
    sections: dict[str, dict[str, Any]]


def split_scores(scores: Scores) -> ScoreParts:
    """Sorts scores by their form.

    Lists that are neither curves nor the confusion matrix stay in scores.json alone.
    """
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
    counted = {name for row in (table or {}).values() for name in row} & {'pixels', 'examples'}
    if table and parts.confusion and not counted:
        for row, counts in zip(table.values(), parts.confusion):
            row['pixels'] = sum(counts)
    return parts


def _place(parts: ScoreParts, name: str, value: dict[str, Any]) -> None:
    """Puts a dict of scores among the parts of its form."""
    if name.startswith('baseline_'):
        parts.baselines[name.removeprefix('baseline_')] = value
    elif curve := _as_curve(value):
        parts.curves[name] = curve
    elif value and all(_is_flat(row) for row in value.values()):
        table = parts.tables.setdefault(PER_CLASS if name == 'per_class' else name, {})
        _merge(table, value)
    elif value and is_share(name) and _is_flat(value):
        table = parts.tables.setdefault(PER_CLASS, {})
        _merge(table, {row: {name: number} for row, number in value.items()})
    elif value:
        parts.sections[name] = value


def _merge(table: dict[str, dict[str, Any]], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds columns to the rows of a table."""
    for row, numbers in rows.items():
        table.setdefault(row, {}).update(numbers)


def _is_flat(value: Any) -> bool:
    return isinstance(value, dict) and all(not isinstance(v, (dict, list)) for v in value.values())


def _as_curve(value: Mapping[str, Any]) -> Curve | None:
    """Returns a curve, None for scores of another form."""
    y_name = str(value.get('y_name', 'y'))
    series = value.get('series', [{**value, 'name': y_name}])
    if not isinstance(series, list) or not series or not all(map(_is_line, series)):
        return None
    lines = tuple(CurveLine(str(line.get('name', '')), line['x'], line['y']) for line in series)
    scales = [value.get(key, '') for key in ('x_scale', 'y_scale')]
    return Curve(lines, str(value.get('x_name', 'x')), y_name, *map(str, scales))


def _is_line(value: Any) -> bool:
    x = value.get('x') if isinstance(value, dict) else None
    y = value.get('y') if isinstance(value, dict) else None
    return isinstance(x, list) and isinstance(y, list) and len(x) == len(y) > 0


def all_curves(scores: Scores) -> dict[str, Curve]:
    """Returns all curves of a stage's scores by path: {'roc': .., 'attack/roc': ..}."""
    parts = split_scores(scores)
    curves = dict(parts.curves)
    for name, section in parts.sections.items():
        curves |= {f'{name}/{inner}': curve for inner, curve in all_curves(section).items()}
    return curves


def _is_matrix(value: Any) -> bool:
    rows = value if isinstance(value, list) else []
    return bool(rows) and all(_is_row(row) for row in rows)


def _is_row(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, (int, float)) for v in value)


def flat_scalars(scores: Scores) -> dict[str, float | None]:
    """Returns the numbers that are followed over the steps, by path: {'mIoU': .4, 'IoU/road': .9}.

    Baselines are left out, because they do not change.
    """
    flat = {}
    for name, value in files.to_json(scores).items():
        if isinstance(value, dict) and name != MADE_BY and not name.startswith('baseline_'):
            flat |= {f'{name}/{inner}': number for inner, number in flat_scalars(value).items()}
        elif value is None or isinstance(value, (int, float)):
            flat[name] = value
    return flat


# --- names, units and formats ---------------------------------------------------------------------


def is_share(name: str) -> bool:
    """Returns whether the score of this name is a share in [0, 1], which is printed in per cent."""
    # The first and the last part of a path: 'IoU/road', 'per_class/road/IoU'.
    name = without_column(name)
    ends = (name.split('/', 1)[0].lower(), name.rsplit('/', 1)[-1].lower())
    words = ('iou', 'accuracy', 'precision', 'recall', 'dice')
    firsts = [re.split('[_ ]', end)[0] for end in ends]
    # A quotient of two shares is no share.
    if firsts[-1] == 'ratio':
        return False
    shares = ('sem', '1-sem', 'hamm', 'noisy', 'ods', 'ois', 'ap', 'auc', 'tpr', 'fpr')
    named = any(first in shares for first in firsts)
    return named or any(word in end for end in ends for word in words)


def unit_of(name: str) -> str:
    """Returns the unit in which `format_score` prints the score of this name; '' for none."""
    if is_share(name):
        return '%'
    path = without_column(name).split('/')
    return UNITS.get(path[-1], UNITS.get(path[0], ''))


def without_column(name: str) -> str:
    """Returns the path of a score without the column of an interval: 'a/tIOU' of 'a/tIOU/low'."""
    score, _, column = name.rpartition('/')
    return score if score and column in INTERVAL else name


def with_unit(name: str) -> str:
    """Returns the heading of a column or a chart: 'PSNR dB' for 'PSNR'."""
    return f'{name.replace("_", " ")} {unit_of(name)}'.rstrip()


def section_heading(name: str) -> str:
    """Returns the heading of nested scores: 'class entropy in nats' for 'class_entropy'."""
    heading = name.replace('_', ' ')
    return f'{heading} in {UNITS[name]}' if name in UNITS else heading


def meanings(names: Iterable[str]) -> list[str]:
    """Returns the explanations of the scores that need one, in order."""
    return [MEANINGS[name] for name in names if name in MEANINGS]


def format_score(name: str, value: Any, unit: bool = True) -> str:
    """Formats a score: 0.4123 of mIoU is '41.23 %', 21.5 of PSNR is '21.5 dB', NaN is '-'."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return '-'
    if isinstance(value, (bool, str)):
        return str(value)
    shown = f'{value:,d}' if isinstance(value, int) else f'{value:.4g}'
    if is_share(name):
        shown = f'{100 * value:.2f}'
    return f'{shown} {unit_of(name)}'.rstrip() if unit else shown


# --- text -----------------------------------------------------------------------------------------


def table_columns(table: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the columns of a table of scores as (heading, cells).

    Counts of 'pixels' become their share of all pixels.
    """
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in table.values()]
        if name == 'pixels':
            counts = [value or 0 for value in values]
            total = sum(counts) or 1
            cells = [format_score('accuracy', count / total, unit=False) for count in counts]
            columns.append(('share of pixels %', cells))
        elif name in INTERVAL:
            cells = [format_score(f'{row}/{name}', value) for row, value in zip(table, values)]
            columns.append((name, cells))
        else:
            cells = [format_score(name, value, unit=False) for value in values]
            columns.append((with_unit(name), cells))
    return columns


def score_table(scores: Scores) -> str:
    """Returns the scores of a run as aligned text: tables (a row per class), then a summary.

    The summary compares the run with baselines. Nested scores follow, indented.
    """
    parts = split_scores(scores)
    blocks = []
    for name, table in parts.tables.items():
        columns = [(name.replace('_', ' '), list(table)), *table_columns(table)]
        blocks.append(_aligned([[heading, *cells] for heading, cells in columns]))
    if parts.values:
        blocks.append(_aligned(_summary_columns(parts)))
        blocks += [textwrap.fill(text, TEXT_WIDTH) for text in meanings(parts.values)]
    for name, section in parts.sections.items():
        inner = score_table(section)
        if inner:
            blocks.append(section_heading(name) + '\n' + textwrap.indent(inner, '  '))
    return '\n\n'.join(blocks)


def _summary_columns(parts: ScoreParts) -> list[list[str]]:
    """Returns the columns of a summary: names, values of the run, values of each baseline."""
    columns = [['score'], ['this run']]
    for name, value in parts.values.items():
        columns[0].append(name.replace('_', ' '))
        columns[1].append(format_score(name, value))
    for baseline, scores in parts.baselines.items():
        column = [baseline.replace('_', ' ')]
        for name, value in parts.values.items():
            column.append('' if isinstance(value, str) else format_score(name, scores.get(name)))
        columns.append(column)
    return columns


def _aligned(columns: Sequence[Sequence[str]]) -> str:
    """Prints columns next to each other, with a rule under the heading.

    The first column is flush left, numbers are flush right.
    """
    widths = [max(map(len, column)) for column in columns]
    rows = []
    for first, *further in zip(*columns, strict=True):
        numbers = [cell.rjust(width) for cell, width in zip(further, widths[1:])]
        rows.append('  '.join([first.ljust(widths[0]), *numbers]).rstrip())
    rule = '-' * (sum(widths) + 2 * (len(widths) - 1))
    return '\n'.join([rows[0], rule, *rows[1:]])


# --- the protocol of an evaluation ----------------------------------------------------------------


def scored_at(config: ml_collections.ConfigDict) -> str:
    """Returns the size at which pixels are scored, and the crops, as scores and tables print it."""
    size = LABEL_SIZE
    if config.evaluate.resolution == 'image':
        size = '{}x{}'.format(*config.data.eval_size)
    if not config.evaluate.crop:
        return size
    height, width = config.evaluate.crop
    return f'{size}, crops of {height}x{width}, stride {config.evaluate.stride:.3g}'


def scored_as_asked(scores: Mapping[str, Any], config: ml_collections.ConfigDict) -> bool:
    """Returns whether stored scores of a stage follow the protocol in `config.evaluate`.

    Scores without a policy are no segmentation scores and follow every protocol. Scores without a
    resolution are older than that key and were computed at its default.
    """
    if 'policy' not in scores:
        return True
    policy = scores['policy']
    resolution = scores.get('resolution', LABEL_SIZE)
    return policy == config.evaluate.policy and resolution == scored_at(config)
