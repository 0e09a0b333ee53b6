"""Sections of a report about scores: cards, tables, classes and the confusion matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

from segjax.errors import InputError
from segjax.report import charts, html
from segjax.report.charts import Reference
from segjax.report.html import escape, label
from segjax.report.pictures import palette
from segjax.report.run_files import RunFiles, StageFiles
from segjax.report.scores import (
    PER_CLASS,
    ScoreParts,
    format_score,
    is_share,
    meanings,
    section_heading,
    split_scores,
    table_columns,
)
from segjax.spec import DataSpec

NUM_CARDS = 5
"""Number of scores that are shown large."""

Baselines = Mapping[str, Mapping[str, Any]]
"""Scores of trivial predictors, by their names."""


def values_of(stage: StageFiles) -> tuple[dict[str, Any], ScoreParts]:
    """Returns the plain scores of a stage, and all its scores by form.

    Without scores.json, the plain scores come from the last evaluation during training.
    """
    parts = split_scores(stage.scores)
    if parts.values:
        return parts.values, parts
    last = next((line for line in reversed(stage.metrics) if line.get('kind') == 'eval'), {})
    values = {}
    for name, value in last.items():
        if name not in ('step', 'kind') and '/' not in name:
            values[name] = value
    return values, parts


# --- scores ---------------------------------------------------------------------------------------


def scores_section(run: RunFiles, stage: StageFiles) -> str:
    """Shows the first scores as cards, and all further scores in tables."""
    values, parts = values_of(stage)
    numbers = {}
    words = []
    for name, value in values.items():
        if isinstance(value, (str, bool)):
            words.append(f'{label(name)}: {value}')
        else:
            numbers[name] = value
    shown = list(numbers.items())
    cards = ''.join(_score_card(name, v, parts.baselines) for name, v in shown[:NUM_CARDS])
    section = f'<div class="cards">{cards}</div>' if cards else ''
    if words:
        section += f'<p class="soft">{escape(", ".join(words))}</p>'
    for meaning in meanings(numbers):
        section += f'<p class="soft">{escape(meaning)}</p>'
    rows = [_score_row(name, value, parts.baselines) for name, value in shown[NUM_CARDS:]]
    if rows:
        heads = ['score', 'this run', *map(label, parts.baselines)]
        section += html.card('More scores', html.table(heads, rows))
    return section + _nested_scores('', parts)


def _score_card(name: str, value: Any, baselines: Baselines) -> str:
    """Shows a score large, with a meter if it is a share, and with the baselines."""
    text, _, unit = format_score(name, value).partition(' ')
    references = []
    for baseline, scores in baselines.items():
        if isinstance(scores.get(name), (int, float)):
            title = f'{label(baseline)} {format_score(name, scores[name])}'
            references.append(Reference(title, scores[name]))
    meter = charts.meter(value, references) if is_share(name) and value is not None else ''
    names = ', '.join(f'<span class="whole">{escape(r.name)}</span>' for r in references)
    below = f'baselines: {names}' if references else ''
    return (
        f'<div class="card"><div class="name">{escape(label(name))}</div>'
        f'<div class="value">{escape(text)}<span>{escape(unit)}</span></div>{meter}'
        f'<small>{below}</small></div>'
    )


def _score_row(name: str, value: Any, baselines: Baselines) -> list[str]:
    """Returns the cells of a score: its name, its value, and the values of the baselines."""
    cells = [label(name), format_score(name, value)]
    cells += [format_score(name, scores.get(name)) for scores in baselines.values()]
    return [escape(cell) for cell in cells]


def _nested_scores(prefix: str, parts: ScoreParts) -> str:
    """Shows tables, curves, histograms and sections of scores.

    Args:
      prefix: heading of the outer section, ending with ' / ', or ''.
      parts: the scores.
    """
    section = ''
    for name, table in parts.tables.items():
        if prefix or name != PER_CLASS:  # the classes of the run have a section of their own
            section += html.card(prefix + label(name), _score_table(table))
    if parts.curves:
        drawn = ''.join(charts.curve_chart(label(name), c) for name, c in parts.curves.items())
        section += f'<div class="charts">{drawn}</div>'
    histograms = {name: inner for name, inner in parts.sections.items() if _is_histogram(inner)}
    if histograms:
        drawn = ''
        for name, inner in histograms.items():
            drawn += charts.histogram(prefix + name, inner['edges'], inner['counts'])
        section += f'<div class="charts">{drawn}</div>'
    for name, scores in parts.sections.items():
        if name in histograms:
            continue
        inner = split_scores(scores)
        rows = [_score_row(n, v, inner.baselines) for n, v in inner.values.items()]
        heading = prefix + section_heading(name)
        if rows:
            heads = ['score', 'value', *inner.baselines]
            section += html.card(heading, html.table(heads, rows))
        section += _nested_scores(f'{heading} / ', inner)
    return section


def _score_table(table: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a table of scores, such as scores by class."""
    columns = table_columns(table)
    rows = []
    for i, name in enumerate(table):
        rows.append([escape(name), *(escape(cells[i]) for _, cells in columns)])
    return html.table(['', *(heading for heading, _ in columns)], rows)


def histograms(parts: ScoreParts, prefix: str = '') -> dict[str, Mapping[str, Any]]:
    """Returns all histograms among scores, nested scores included, by path."""
    found = {}
    for name, inner in parts.sections.items():
        path = f'{prefix}{name}'
        if _is_histogram(inner):
            found[path] = inner
        else:
            found |= histograms(split_scores(inner), f'{path}/')
    return found


def _is_histogram(section: Mapping[str, Any]) -> bool:
    """Returns whether scores are histograms of the same bins.

    They are {'edges': [n + 1 numbers], 'counts': {label: [n numbers]}}.
    """
    edges = section.get('edges')
    counts = section.get('counts')
    if not isinstance(edges, list) or not isinstance(counts, dict) or not counts:
        return False
    return all(isinstance(c, list) and len(c) == len(edges) - 1 > 0 for c in counts.values())


# --- classes --------------------------------------------------------------------------------------


def classes_section(run: RunFiles, stage: StageFiles) -> str:
    """Shows the scores by class, the best class first, with shares of pixels."""
    table = split_scores(stage.scores).tables.get(PER_CLASS)
    if not table:
        return ''
    leading = next(iter(next(iter(table.values()))))  # IoU, if it is among the scores
    columns = table_columns(table)
    spec = run.spec_of(stage)
    shares = _train_shares(run) if spec is run.spec else {}
    if any(name in shares for name in table):
        cells = [f'{100 * shares[name]:.2f}' if name in shares else '-' for name in table]
        columns.append(('share of training pixels %', cells))
    colours = palette(spec)
    rows = []
    for i, (name, row) in enumerate(table.items()):
        value = row.get(leading)
        bar = '' if value is None else charts.meter(value)
        head = (html.swatch(colours[name]) if name in colours else '') + escape(name)
        rank = -1.0 if value is None else value
        rows.append((rank, [head, bar, *(escape(cells[i]) for _, cells in columns)]))
    rows.sort(key=lambda row: row[0], reverse=True)
    heads = [PER_CLASS, '', *(heading for heading, _ in columns)]
    content = html.table(heads, [cells for _, cells in rows], 'bars')
    return f'<h3>Classes, by {escape(leading)}</h3><div class="card scroll tall">{content}</div>'


def _train_shares(run: RunFiles) -> dict[str, float]:
    """Returns the share of each class among the labelled pixels of the training examples."""
    if run.spec is None:
        return {}
    split = run.setting('data.train_split') or 'train'
    fraction = run.setting('data.labelled_fraction') or 1.0
    try:
        pixels = run.spec.part(split, (0.0, fraction)).class_pixels
    except InputError:  # a split of another data set
        return {}
    total = sum(pixels)
    if not total:
        return {}
    return {name: count / total for name, count in zip(run.spec.classes.names, pixels)}


# --- the confusion matrix -------------------------------------------------------------------------


def confusion_section(run: RunFiles, stage: StageFiles) -> str:
    """Shows the confusion matrix and its largest confusions."""
    parts = split_scores(stage.scores)
    if parts.confusion is None:
        return ''
    names = _class_names(run.spec_of(stage), parts)
    counts = parts.confusion[: len(names)]
    void = sum(sum(row[len(names) :]) for row in counts)
    note = ''
    if void:
        share = 100 * void / sum(map(sum, counts))
        note = (
            f' Void was predicted for {share:.2f} % of the pixels, which are in the shares and '
            'have no column.'
        )
    return (
        '<h3>Confusion matrix</h3><p class="soft">A row is a true class; its cells say, in per '
        'cent, what it was taken for. Colour grows with the square root of the share. '
        f'Hover for counts.{note}</p><div class="split">'
        f'<div class="card scroll">{charts.confusion_matrix(names, counts)}</div>'
        f'<div class="card scroll">{_largest_confusions(names, parts.confusion)}</div></div>'
    )


def _class_names(spec: DataSpec | None, parts: ScoreParts) -> list[str]:
    """Returns the classes of the confusion matrix: by the scores, the data set, or numbers."""
    names = list(parts.tables.get(PER_CLASS, {}))
    if not names and spec:
        names = list(spec.classes.names)
    return names or [str(i) for i in range(len(parts.confusion))]


def _largest_confusions(names: Sequence[str], counts: Sequence[Sequence[float]]) -> str:
    """Lists the twelve most frequent confusions, with their shares of the true class.

    Args:
      names: of the classes.
      counts: [truth][prediction], maybe with more columns than names.
    """
    confusions = []
    for i, row in enumerate(counts[: len(names)]):
        for j, count in enumerate(row[: len(names)]):
            if i != j and count > 0:
                confusions.append((-count, i, j))
    rows = []
    for negative, i, j in sorted(confusions)[:12]:
        share = 100 * -negative / sum(counts[i])
        rows.append([f'{escape(names[i])} &rarr; {escape(names[j])}', f'{share:.1f}'])
    return html.table(['most frequent: truth → said', '% of truth'], rows) if rows else ''
