"""compare.html: scores, curves, classes, histograms and pictures of the compared runs."""

import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from segjax import config as config_lib
from segjax.core import files
from segjax.modes.compare.differences import FEWEST_IMAGES, Difference
from segjax.modes.compare.labels import NEITHER, RIGHT, VOID, Comparison
from segjax.modes.compare.pictures import panel_names
from segjax.modes.compare.runs import Compared
from segjax.modes.compare.scores import Values, best, class_scores, overall
from segjax.report import charts, html
from segjax.report.charts import Bars, Dot, Series
from segjax.report.html import escape
from segjax.report.pictures import legend_of, palette
from segjax.report.score_sections import histograms
from segjax.report.scores import format_score, is_share, split_scores, with_unit

PAGE = 'compare.html'
COLUMNS = 4
"""Examples next to each other."""
COLOURS = 8
"""Colours of runs in charts. Further runs repeat them."""
ENDS = ('low', 'high')
"""Columns of a table of intervals that are the ends of an interval."""
ABOUT_INTERVALS = (
    'Brackets: intervals of a single run, by resampled images. They do not bound a difference, '
    'because all runs score the same images.'
)
ABOUT_PAIRED = (
    f'Brackets: 95 % intervals by resampled images, from {FEWEST_IMAGES} images on. All runs have '
    'the same resamples. Bold: the interval does not hold 0, so the nets differ on images like '
    'these. Another training of the same config may differ as much: train several seeds. mIoU: '
    'of the classes that occur, at the resolution of the class maps.'
)
GROUPS = {
    'disagreement': (
        'Largest disagreement',
        'The images on which the predictions differ most, as a share of the labelled pixels.',
    ),
    'spread': (
        'Evenly spread images',
        'The same images for any runs, evenly spread over the split.',
    ),
}
"""Heading and explanation of each group of pictures."""

Groups = Mapping[str, Sequence[Mapping[str, Any]]]
"""The examples of each group, from `pictures.write_group`."""


def page(
    runs: Sequence[Compared],
    shared: Values,
    comparison: Comparison,
    paired: Sequence[Mapping[str, Difference]],
    groups: Groups,
    folder: pathlib.Path,
) -> str:
    """Builds the page.

    Args:
      runs: all of them.
      shared: from `scores.shared_scores`.
      comparison: of the class maps.
      paired: from `differences.of_runs`.
      groups: examples with pictures.
      folder: of the page, with the pictures.
    """
    title = ' / '.join(compared.name for compared in runs)
    body = [
        _header(runs, title),
        _scores(runs, shared, comparison),
        _paired(runs, paired),
        _pictures(runs, groups, folder / 'pictures'),
        _classes(runs),
        _histograms(runs),
        _curves(runs),
        _settings(runs),
    ]
    return html.page(title, body, charts.STYLE + html.style_sheet('compare.css'))


def _mark(number: int) -> str:
    """Returns a square in the colour of a run."""
    return f'<i class="swatch r{number % COLOURS}"></i>'


def _heads(runs: Sequence[Compared]) -> list[str]:
    """Returns the headings of the runs, then of the differences from the first run."""
    names = [compared.name for compared in runs]
    return [*names, *(f'{name} − {names[0]}' for name in names[1:])]


# --- header and settings --------------------------------------------------------------------------


def _header(runs: Sequence[Compared], title: str) -> str:
    """Returns the title, the conditions that the runs share, and a table of the runs."""
    first = runs[0]
    config = first.run.config
    facts = [
        f'data {first.spec.name}',
        f'split {first.inputs.split}',
        f'scored at {first.scores.get("resolution", config.evaluate.resolution)}',
        f'policy {config.evaluate.policy}',
        'written ' + time.strftime('%Y-%m-%d %H:%M'),
    ]
    # Pipelines with several nets may have none that is called model.
    rows = []
    for number, compared in enumerate(runs):
        config = compared.run.config
        net = config.model.name if 'model' in config and 'name' in config.model else '-'
        rows.append(
            [
                _mark(number) + escape(compared.name),
                escape(config.pipeline),
                escape(net),
                escape(compared.stage.name),
                f'{compared.stage.num_steps:,d}',
                str(config.seed),
                escape(os.path.relpath(compared.place)),
            ]
        )
    heads = ['run', 'pipeline', 'net', 'stage', 'steps', 'seed', 'folder']
    table = html.table(heads, rows, 'text')
    return f'<h1>{escape(title)}</h1>{html.badges(facts)}{html.card("Runs", table)}'


def _settings(runs: Sequence[Compared]) -> str:
    """Lists the config keys that differ between the runs, folded."""
    configs = [config_lib.to_json(compared.run.config) for compared in runs]
    keys: dict[str, dict[int, Any]] = {}
    for number, config in enumerate(configs[1:], start=1):
        for key, (before, after) in config_lib.changes(configs[0], config).items():
            keys.setdefault(key, {0: before})[number] = after
    rows = []
    for key, values in sorted(keys.items()):
        cells = [values.get(number, values[0]) for number in range(len(runs))]
        rows.append([escape(key), *(escape('' if cell is None else cell) for cell in cells)])
    if not rows:
        return ''
    content = html.table(['key', *(compared.name for compared in runs)], rows, 'text')
    return (
        f'<h3>Settings that differ</h3><details><summary>{len(rows)} config keys</summary>'
        f'<div class="scroll">{content}</div></details>'
    )


# --- scores ---------------------------------------------------------------------------------------


def _scores(runs: Sequence[Compared], shared: Values, comparison: Comparison) -> str:
    """Shows the scores of no class, nested scores folded, and the shares of right pixels."""
    rows: dict[bool, list[list[str]]] = {False: [], True: []}
    for name in overall(runs, shared):
        rows['/' in name].append(_score_row(name, shared, runs[0].stage.monitor))
    heads = ['score', *_heads(runs)]
    content = html.table(heads, rows[False])
    has_intervals = any(_interval(name, shared, 0) for name in shared)
    if has_intervals:
        content += f'<p class="soft">{ABOUT_INTERVALS}</p>'
    plain = html.card('Scores', content) if rows[False] else ''
    right = _right_shares(runs, comparison)
    # Many runs and intervals need the whole width.
    section = plain + right
    if len(runs) == 2 and not has_intervals:
        section = f'<div class="halves"><div>{plain}</div><div>{right}</div></div>'
    if rows[True]:
        content = html.table(heads, rows[True])
        section += (
            f'<details><summary>{len(rows[True])} more scores</summary>'
            f'<div class="scroll">{content}</div></details>'
        )
    return section


def _score_row(name: str, shared: Values, monitor: tuple[str, str]) -> list[str]:
    """Returns the cells of a score: name, values with the best in bold, signed differences.

    An interval follows its value. The ends of intervals have no differences: they do not
    bound the difference of two scores.
    """
    values = shared[name]
    cells = [escape(with_unit(name))]
    tops = best(name, values, monitor)
    for number, (value, top) in enumerate(zip(values, tops, strict=True)):
        text = escape(format_score(name, value, unit=False))
        cells.append((f'<b>{text}</b>' if top else text) + _interval(name, shared, number))
    is_end = name.rsplit('/', 1)[-1] in ENDS
    cells += ['' if is_end else escape(_signed(name, value - values[0])) for value in values[1:]]
    return cells


def _interval(name: str, shared: Values, number: int) -> str:
    """Returns the interval of a score of a run, '' if the runs have none."""
    ends = [shared.get(f'intervals/{name}/{end}') for end in ENDS]
    if None in ends:
        return ''
    low, high = (format_score(name, values[number], unit=False) for values in ends)
    return f' <span class="soft">[{escape(low)}, {escape(high)}]</span>'


def _signed(name: str, difference: float) -> str:
    """Formats a difference of a score, in percentage points for a share."""
    if difference == 0:
        return '0'
    return f'{100 * difference:+.2f}' if is_share(name) else f'{difference:+.4g}'


def _paired(runs: Sequence[Compared], paired: Sequence[Mapping[str, Difference]]) -> str:
    """Shows the differences from the first run, with intervals over the images."""
    names = list(paired[0])
    rows = []
    for compared, differences in zip(runs[1:], paired, strict=True):
        cells = [f'{escape(compared.name)} − {escape(runs[0].name)}']
        cells += [_with_interval(name, differences[name]) for name in names]
        rows.append(cells)
    table = html.table(['difference', *(f'{name}, points' for name in names)], rows)
    return html.card('Differences, paired by image', f'{table}<p class="soft">{ABOUT_PAIRED}</p>')


def _with_interval(name: str, difference: Difference) -> str:
    """Formats a difference with its interval, bold if the interval is on one side of 0."""
    value, low, high = (_signed(name, each) for each in difference)
    if math.isnan(difference.low):
        return value
    text = f'<b>{value}</b>' if difference.low > 0 or difference.high < 0 else value
    return f'{text} <span class="soft">[{low}, {high}]</span>'


def _right_shares(runs: Sequence[Compared], comparison: Comparison) -> str:
    """Shows on which shares of the labelled pixels of the split which run is right."""
    first = runs[0]
    rows = []
    for compared, pixels in zip(runs[1:], comparison.pixels, strict=True):
        total = pixels[:VOID].sum() or 1
        cells = [f'{100 * count / total:.2f}' for count in pixels[:VOID]]
        rows.append([f'{escape(first.name)}, {escape(compared.name)}', *cells])
    heads = ['labelled pixels %', 'both', 'only the first', 'only the second', 'neither']
    assert len(heads) == NEITHER + 2
    return html.card('Which prediction is right', html.table(heads, rows))


# --- pictures -------------------------------------------------------------------------------------


def _pictures(runs: Sequence[Compared], groups: Groups, folder: pathlib.Path) -> str:
    """Shows the pictures of each group, COLUMNS examples next to each other."""
    section = ''
    for group, entries in groups.items():
        heading, meaning = GROUPS[group]
        sheets = ''
        colours: set[int] = set()
        for start in range(0, len(entries), COLUMNS):
            part = range(start, min(start + COLUMNS, len(entries)))
            sheet, used = _sheet(runs, group, entries, part, folder)
            sheets += sheet
            colours |= used
        section += (
            f'<h3>{escape(heading)}</h3><p class="soft">{escape(meaning)}</p>'
            f'{legend_of(runs[0].spec, colours)}{_right_legend(runs)}{sheets}'
        )
    return section


def _right_legend(runs: Sequence[Compared]) -> str:
    """Explains the colours of the pictures that compare two predictions."""
    second = runs[1].name if len(runs) == 2 else 'the second'
    items = ''
    for meaning, colour in RIGHT.items():
        text = meaning.format(first=f'{runs[0].name} right', second=f'{second} right')
        items += f'<li>{html.swatch(colour)}{escape(text)}</li>'
    return f'<ul class="legend">{items}</ul>'


def _sheet(
    runs: Sequence[Compared],
    group: str,
    entries: Sequence[Mapping[str, Any]],
    part: range,
    folder: pathlib.Path,
) -> tuple[str, set[int]]:
    """Shows some examples: a panel a row, an example a column. Returns also the colours of maps."""
    cells = ''
    colours: set[int] = set()
    for number in part:
        entry = entries[number]
        share = f'{100 * entry["score"]:.1f} % differ'
        cells += f'<h4>{escape(entry["name"])} <small>{share}</small></h4>'
    for panel, heading in panel_names(runs).items():
        if panel not in entries[part[0]]['pictures']:
            continue
        cells += f'<h5>{escape(heading)}</h5>'
        for number in part:
            path = folder / f'{group}_{number:02d}' / f'{panel}.png'
            uri, used = html.inline_picture(path)
            if panel == 'truth' or panel.startswith('prediction'):
                colours |= used
            alt = escape(f'{heading} of {entries[number]["name"]}')
            cells += f'<img src="{uri}" alt="{alt}">'
    return f'<div class="sheet" style="--columns: {len(part)}">{cells}</div>', colours


# --- classes --------------------------------------------------------------------------------------


def _classes(runs: Sequence[Compared]) -> str:
    """Shows the IoU by class: bars of all runs, gains over the first run, and a table."""
    table = class_scores(runs)
    if not table:
        return ''
    percent = {}
    for name, values in table.items():
        percent[name] = [None if value is None else 100 * value for value in values]
    bars = []
    for number, compared in enumerate(runs):
        bars.append(Bars(compared.name, [values[number] for values in percent.values()]))
    drawn = charts.grouped_bars('IoU %', list(percent), bars)
    plots = ''
    for number in range(1, len(runs)):
        plots += _gains(runs, percent, number)
    # The table of two runs fits next to their plot.
    numbers = f'<div class="card scroll">{_class_table(runs, table)}</div>'
    if len(runs) == 2:
        plots += numbers
        numbers = ''
    return (
        '<h3>Classes, by gain over the first run</h3>'
        f'{drawn}<div class="halves below">{plots}</div><div class="below">{numbers}</div>'
    )


def _gains(
    runs: Sequence[Compared], percent: Mapping[str, Sequence[float | None]], number: int
) -> str:
    """Plots the IoU of a run by class against the first run, the largest gain first."""
    dots = []
    for name, values in percent.items():
        before = values[0]
        now = values[number]
        if before is not None and now is not None:
            dots.append(Dot(name, now, min(before, now), max(before, now), before))
    dots.sort(key=lambda dot: dot.reference - dot.value)
    names = (runs[number].name, runs[0].name)
    return charts.dot_plot(f'IoU %: {names[0]} against {names[1]}', dots, names)


def _class_table(runs: Sequence[Compared], table: Mapping[str, Sequence[float | None]]) -> str:
    """Returns the IoU of all runs by class, with differences from the first run."""
    colours = palette(runs[0].spec)
    rows = []
    for name, values in table.items():
        cells = [html.swatch(colours[name]) + escape(name)]
        known = [value for value in values if value is not None]
        top = max(known) if len(set(known)) > 1 else None
        for value in values:
            text = format_score('IoU', value, unit=False)
            cells.append(f'<b>{text}</b>' if value is not None and value == top else text)
        for value in values[1:]:
            absent = value is None or values[0] is None
            cells.append('-' if absent else _coloured(value - values[0]))
        rows.append(cells)
    return html.table(['IoU %', *_heads(runs)], rows)


def _coloured(difference: float) -> str:
    """Formats a difference of an IoU, coloured by its sign."""
    css = 'gain' if difference > 0 else 'loss' if difference < 0 else 'soft'
    return f'<span class="{css}">{_signed("IoU", difference)}</span>'


# --- histograms and curves ------------------------------------------------------------------------


def _histograms(runs: Sequence[Compared]) -> str:
    """Draws the last histogram of each name, runs below each other on the same axis."""
    by_axis: dict[tuple[str, tuple[float, ...]], dict[str, Sequence[int]]] = {}
    for compared in runs:
        for name, section in histograms(split_scores(compared.scores)).items():
            *_, last = section['counts'].values()
            axis = (name, tuple(section['edges']))
            by_axis.setdefault(axis, {})[compared.name] = last
    drawn = ''
    for (name, edges), counts in by_axis.items():
        drawn += charts.histogram(name, edges, counts)
    return f'<h3>Histograms</h3><div class="charts">{drawn}</div>' if drawn else ''


def _curves(runs: Sequence[Compared]) -> str:
    """Draws the metrics that all runs have, over the steps: the loss and the main score large."""
    lines = [_lines(compared.folder / 'metrics.jsonl') for compared in runs]
    keys = [key for key in lines[0] if all(key in other for other in lines)]
    first = [('train', 'loss'), ('eval', runs[0].stage.monitor[0])]
    main = ''
    for key in first:
        if key in keys:
            main += _chart(runs, lines, key, 540)
    others = ''
    for key in keys:
        if key not in first and '/' not in key[1]:
            others += _chart(runs, lines, key, 360)
    section = f'<h3>Curves</h3><div class="halves">{main}</div>' if main else ''
    if others:
        section += (
            f'<details><summary>More curves</summary><div class="charts">{others}</div></details>'
        )
    return section


Lines = dict[tuple[str, str], tuple[list[int], list[float | None]]]
"""Steps and values by (kind of the log line, name of the metric)."""


def _lines(path: pathlib.Path) -> Lines:
    """Reads the curves of a stage, shares in per cent. A stage of 0 steps has none."""
    curves: Lines = {}
    for record in files.read_lines(path):
        kind = record.get('kind', 'train')
        for name, value in record.items():
            if name not in ('step', 'kind'):
                steps, values = curves.setdefault((kind, name), ([], []))
                steps.append(record['step'])
                values.append(100 * value if is_share(name) and value is not None else value)
    return curves


def _chart(
    runs: Sequence[Compared], lines: Sequence[Lines], key: tuple[str, str], width: int
) -> str:
    """Draws a metric of all runs. Long lines of training are moving averages."""
    kind, name = key
    series = []
    averaged = False
    for number, compared in enumerate(runs):
        steps, values = lines[number][key]
        if kind == 'train' and len(values) >= 40 and name != 'learning_rate':
            values = charts.smooth(values, max(3, len(values) // 40))
            averaged = True
        series.append(Series(compared.name, steps, values, f'r{number % COLOURS}'))
    title = with_unit(name) + (', moving average' if averaged else '')
    return charts.line_chart(title, series, width=width, height=240 if width > 400 else 210)
