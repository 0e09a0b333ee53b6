"""audit.html: the verdict, the attacks, the exposed images, and the defences of an audited net."""

import time
from collections.abc import Mapping
from typing import Any

from segjax.modes.audit import nets
from segjax.modes.audit.defences import NONE
from segjax.modes.audit.measure import REACH
from segjax.modes.audit.members import shortened
from segjax.modes.audit.results import POLICY, Audit, image_rows
from segjax.report import charts, html
from segjax.report.charts import Dot, Point, Span
from segjax.report.html import escape, label
from segjax.report.scores import all_curves, format_score, with_unit

PAGE = 'audit.html'
SHOWN = 12
"""Number of exposed images in the table. All images are in images.csv."""

COLUMNS = (
    'AUC',
    'TPR_at_1_percent',
    'TPR_at_0.1_percent',
    'AP',
    'balanced_accuracy',
    'precision_at_recall_0.8',
)
"""Scores of an attack, in the order of the table."""

HEADS = {
    'TPR_at_1_percent': 'TPR at 1 % FPR',
    'TPR_at_0.1_percent': 'TPR at 0.1 % FPR',
    'AP': 'AP',
    'precision_at_recall_0.8': 'precision at recall 0.8',
}
"""Headings of scores whose name is no heading."""

MEANINGS = {
    'loss': 'the loss of the image is small (Yeom)',
    'confidence': 'the largest posteriors are large (Salem). It needs no label',
    'lira_online': 'likelihood ratio of shadows with and without the image (LiRA)',
    'lira_offline': 'the signal is unlikely for shadows without the image (LiRA)',
    'lira_offline_one_sided': 'the signal is larger than in shadows without the image (LiRA)',
    'rmia': 'the image has a larger likelihood ratio than further images (RMIA)',
}
"""What tells a member, by attack."""


def page(audited: Audit) -> str:
    """Builds the page."""
    title = f'Audit: {audited.made_by["model"]}'
    body = [
        _header(audited, title),
        _verdict(audited),
        _attacks(audited),
        _curves(audited),
        _histograms(audited),
        _defences(audited),
        _parts(audited),
        _exposed(audited),
        _confound(audited),
        _settings(audited),
    ]
    return html.page(title, body, charts.STYLE + html.style_sheet('audit.css'))


def _header(audited: Audit, title: str) -> str:
    """Returns the title, with the numbers of images and the time as badges."""
    member = audited.measured.member
    facts = [
        f'{int(member.sum())} members',
        f'{int((~member).sum())} non-members',
        f'{len(audited.measured.classes)} classes',
        f'intervals resample {audited.groups}',
        'written ' + time.strftime('%Y-%m-%d %H:%M'),
    ]
    return f'<h1>{escape(title)}</h1>{html.badges(facts)}'


def _verdict(audited: Audit) -> str:
    """Shows the verdict, and what limits it."""
    # What limits the verdict.
    notes = []
    note = audited.confound.note
    if note is not None:
        notes.append(f'{note.where.capitalize()}: {note.message} Remedy: {note.fix}.')
    non_members = int((~audited.measured.member).sum())
    if non_members < 1000:
        rates = '0.1 %' if non_members >= 100 else '1 % or 0.1 %'
        notes.append(
            f'With {non_members} non-members, a false-positive rate of {rates} means no false '
            'positive.'
        )
    if audited.measured.unlabelled:
        number = len(audited.measured.unlabelled)
        shown = shortened(audited.measured.unlabelled)
        notes.append(f'Images without a labelled pixel are left out ({number}): {shown}.')
    # Attacks that lack the same shadows share a note.
    names_of: dict[str, list[str]] = {}
    for name, reason in audited.attacks.missing.items():
        names_of.setdefault(reason, []).append(f'"{label(name)}"')
    for reason, names in names_of.items():
        notes.append(f'Left out for want of shadows: {", ".join(names)}, because {reason}.')
    warnings = ''.join(f'<p class="note">{escape(note)}</p>' for note in notes)
    text = f'<p class="sentence">{escape(audited.verdict.text)}</p>'
    level = (
        'The interval of the verdict holds for all attacks together. All further intervals are '
        '95 % bootstrap intervals.'
    )
    return f'<div class="card verdict">{text}</div><p class="soft">{level}</p>{warnings}'


# --- attacks --------------------------------------------------------------------------------------


def _attacks(audited: Audit) -> str:
    """Shows the scores of every attack with their intervals."""
    rows = []
    for name, scores in audited.scores['attacks'].items():
        meaning = MEANINGS.get(name, '')
        cells = [f'{escape(label(name))}<small>{escape(meaning)}</small>']
        for column in COLUMNS:
            cells.append(_with_interval(column, scores['intervals'].get(column)))
        rows.append(cells)
    heads = ['attack: an image is a member if', *(_head(column) for column in COLUMNS)]
    return html.card('Attacks', html.table(heads, rows))


def _head(column: str) -> str:
    return HEADS.get(column, with_unit(column).removesuffix(' %')) + ' %'


def _with_interval(name: str, row: Mapping[str, float] | None) -> str:
    """Returns a score with its interval below."""
    if row is None:
        return '-'
    value, low, high = (
        format_score(name, row[key], unit=False) for key in ('value', 'low', 'high')
    )
    return f'{value}<small>{low} – {high}</small>'


def _curves(audited: Audit) -> str:
    """Draws ROC and precision-recall curves."""
    titles = {
        'roc': 'ROC',
        'roc_log': 'ROC',
        'precision_recall': 'Precision and recall',
    }
    drawn = ''
    for name, curve in all_curves(audited.scores['curves']).items():
        lines = tuple(line._replace(name=label(line.name)) for line in curve.lines)
        curve = curve._replace(lines=lines)
        drawn += charts.curve_chart(titles[name], curve, height=260)
    return f'<h3>Curves</h3><div class="charts">{drawn}</div>'


def _histograms(audited: Audit) -> str:
    """Draws histograms of members and non-members: pixels, and scores of the attacks."""
    of_pixels = audited.scores['histograms']
    drawn = _histogram(
        'pixels by the posterior of the predicted class', of_pixels['posteriors'][NONE]
    )
    drawn += _histogram('pixels by the logit of the true class', of_pixels['logits'][NONE])
    for name, counts in of_pixels['scores'].items():
        drawn += _histogram(f'images by the score of "{label(name)}"', counts)
    behind = ''
    for name, counts in of_pixels['posteriors'].items():
        if name != NONE:
            behind += _histogram(f'posterior of the predicted class, {label(name)}', counts)
    folded = (
        '<details><summary>Posteriors behind the defences</summary>'
        f'<div class="charts">{behind}</div></details>'
    )
    note = 'Each histogram is as high as its own fullest bin.'
    return (
        f'<h3>Members and non-members</h3><p class="soft">{note}</p>'
        f'<div class="charts">{drawn}</div>{folded}'
    )


def _histogram(title: str, section: Mapping[str, Any]) -> str:
    counts = {label(kind).replace('non ', 'non-'): bins for kind, bins in section['counts'].items()}
    return charts.histogram(title, section['edges'], counts)


# --- defences -------------------------------------------------------------------------------------


def _defences(audited: Audit) -> str:
    """Shows attack against segmentation for each defence, as a scatter plot and a table."""
    # A row of the table and a point of the plot for each defence.
    rows = []
    points = []
    before = audited.scores['defences'][NONE]
    for name, scores in audited.scores['defences'].items():
        interval = {'value': scores['AUC'], 'low': scores['low'], 'high': scores['high']}
        cells = [escape(label(name)), _with_interval('AUC', interval), label(scores['attack'])]
        for column in ('mIoU', 'pixel_accuracy'):
            cells.append(format_score(column, scores[column], unit=False))
            cells.append(format_score(column, scores[f'members_{column}'], unit=False))
        cells.append(f'{100 * scores["similarity"]:.1f}')
        rows.append(cells)
        if scores['mIoU'] is not None:
            leak = Span(*(100 * scores[key] for key in ('AUC', 'low', 'high')))
            miou = 100 * scores['mIoU']
            # The optimal net leaks nothing, and segments as well as without a defence.
            optimum = (50.0, 100 * before['mIoU']) if name == NONE else None
            points.append(Point(label(name), leak, Span(miou, miou, miou), optimum))
    # The plot comes first.
    heads = [
        'defence',
        'AUC %',
        'best attack',
        'mIoU %',
        'mIoU % of members',
        'pixel accuracy %',
        'pixel accuracy % of members',
        'similarity %',
    ]
    text = (
        'The AUC is that of the best attack behind the defence. mIoU and pixel accuracy are those '
        f'of non-members, by the policy {POLICY!r} for absent classes. The similarity is the '
        'overlap of the histograms of posteriors.'
    )
    own = audited.made_by.get(nets.OWN_DEFENCE, NONE)
    if own != NONE:
        text += f' All rows come behind the defence of the stage, {own}.'
    plot = charts.scatter_plot(
        'Attack and segmentation',
        points,
        ('AUC [%]', 'mIoU [%]'),
        ('measured', 'no leak, and no loss'),
        size=(1080, 380),
    )
    return (
        f'<h3>Defences</h3><p class="soft">{text}</p>{plot}'
        f'<div class="card scroll below">{html.table(heads, rows)}</div>'
    )


# --- parts ----------------------------------------------------------------------------------------


def _parts(audited: Audit) -> str:
    """Shows the attack by loss on the pixels of each class, and on boundary and interior."""
    text = (
        'The attack "loss" on the pixels of each class alone, and on boundary and interior pixels. '
        f'Boundary pixels are less than {REACH} pixels away from another class.'
    )
    parts = audited.scores['parts']
    classes = audited.scores['classes']
    drawn = _dots('AUC % by part', parts) + _dots('AUC % by class', classes)
    return (
        f'<h3>Where does it leak?</h3><p class="soft">{text}</p>'
        f'<div class="halves"><div>{drawn}</div>'
        f'<div class="card scroll">{_part_table({**parts, **classes})}</div></div>'
    )


def _dots(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Plots the AUC of each part with its interval, the largest first."""
    dots = []
    for name, row in rows.items():
        if row['AUC'] is not None:
            ends = (100 * row['low'], 100 * row['high'])
            dots.append(Dot(name, 100 * row['AUC'], *ends, 50))
    dots.sort(key=lambda dot: -(dot.value or 0))
    return charts.dot_plot(title, dots, ('AUC %', 'chance'))


def _part_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the AUC of each part, with the numbers of images that have such pixels."""
    cells = []
    for name, row in rows.items():
        interval = None
        if row['AUC'] is not None:
            interval = f'{100 * row["low"]:.1f} – {100 * row["high"]:.1f}'
        numbers = [f'{row["members"]}', f'{row["non_members"]}']
        value = format_score('AUC', row['AUC'], unit=False)
        cells.append([escape(name), value, interval or '-', *numbers])
    return html.table(['pixels', 'AUC %', '95 %', 'members', 'non-members'], cells)


def _exposed(audited: Audit) -> str:
    """Lists the members that the attack of the verdict recognises first."""
    rows = []
    for row in image_rows(audited)[:SHOWN]:
        if row['member']:
            rate = format_score('FPR', row['rate'], unit=False)
            accuracy = format_score('accuracy', row['pixel_accuracy'], unit=False)
            signals = [f'{row[name]:.4g}' for name in ('loss', 'confidence', 'logit')]
            rows.append([escape(row['name']), rate, accuracy, *signals])
    heads = ['image', 'false positives %', 'pixel accuracy %', 'loss', 'confidence', 'logit']
    text = (
        f'Members by the attack "{label(audited.verdict.attack)}". An attacker who calls the image '
        'a member calls this share of the non-members a member, too. All images: images.csv.'
    )
    content = f'<p class="soft">{escape(text)}</p>{html.table(heads, rows)}'
    return html.card('Most exposed images', content)


# --- facts and settings ---------------------------------------------------------------------------


def _confound(audited: Audit) -> str:
    """Shows how well facts of the images tell members from non-members without a net."""
    result = audited.confound
    rows = [[escape(label(n)), f'{100 * auc:.1f}'] for n, auc in result.by_fact.items()]
    rows.append(['all facts', f'{100 * result.auc:.1f}'])
    rows.append(['best classifier on shuffled facts', f'{100 * result.chance:.1f}'])
    text = (
        'A classifier that sees these facts, and no net, must not tell members from non-members. '
        'It is cross-validated.'
    )
    content = f'<p class="soft">{text}</p>{html.table(["fact", "AUC %"], rows)}'
    return html.card('Do members and non-members differ in more than membership?', content)


def _settings(audited: Audit) -> str:
    """Lists the facts about the net and the images."""
    rows = []
    for name, value in audited.made_by.items():
        rows.append([escape(label(name)), escape(value)])
    return html.card('Audited', html.table(['', ''], rows, 'text'))
