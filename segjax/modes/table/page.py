"""table.html: the table as a page with charts."""

from segjax.modes.table.numbers import Measured, class_scores, problems, row_curves
from segjax.modes.table.runs import OPEN
from segjax.modes.table.spec import Column, Row, Scatter, Table
from segjax.modes.table.text import (
    LEGEND,
    claim_cells,
    claims_legend,
    facts,
    heading,
    headline_lines,
    speed_note,
    table_cells,
)
from segjax.report import charts, html
from segjax.report.html import escape

NUM_COMPARED = 5
"""Number of rows whose classes are compared if the table names none."""


def page(measured: Measured) -> str:
    """Builds table.html.

    It shows the table, the claims, a dot plot for each column, plots of two columns, the curves of
    the rows, the classes of the compared rows, and links to the reports of the runs.
    """
    table = measured.plan.table
    body = _header(measured)
    heads, lines = table_cells(measured, lambda text: f'<b>{text}</b>', escape)
    body.append(html.card('Table', html.table(heads, lines)))
    for text in (LEGEND, speed_note(measured)):
        if text:
            body.append(f'<p class="soft">{escape(text)}</p>')
    if measured.comparisons:
        body.append(html.card('Orderings', html.table(*claim_cells(measured, escape))))
        body.append(f'<p class="soft">{escape(claims_legend(measured))}</p>')
    plots = ''.join(_dot_plot(measured, column) for column in table.columns)
    body.append(f'<h3>Rows</h3><div class="halves">{plots}</div>' if plots else '')
    body += [_scatters(measured), _curves(measured), _classes(measured), _runs(measured)]
    return html.page(table.title, body, charts.STYLE)


def _header(measured: Measured) -> list[str]:
    """Returns the parts above the table: title, conditions, notes, command, problems, headlines."""
    plan = measured.plan
    table = plan.table
    conditions = [f'{name}: {value}' for name, value in facts(measured).items()]
    parts = [
        f'<h1>{escape(table.title)}</h1><p class="soft">{escape(table.source)}</p>'
        f'{html.badges(conditions)}'
    ]
    if table.notes:
        parts.append(f'<p>{escape(table.notes)}</p>')
    parts.append(f'<pre>{escape(plan.command)}</pre>')
    sentences = problems(measured)
    if sentences:
        parts.append(f'<p class="note">{"<br>".join(map(escape, sentences))}</p>')
    parts += [f'<p>{escape(line)}</p>' for line in headline_lines(measured)]
    return parts


def plot_name(table: Table, row: Row) -> str:
    """Returns the name of a row, with its labels if several rows have this name.

    It is the key of the row if labels do not tell these rows apart.
    """
    names = [other.name for other in table.shown]
    if names.count(row.name) == 1:
        return row.name
    labelled = [_with_labels(other) for other in table.shown]
    own = _with_labels(row)
    return own if labelled.count(own) == 1 else row.key


def _with_labels(row: Row) -> str:
    """Returns the name of a row with its labels, such as 'Argmax (A1)'."""
    labels = ', '.join(str(label) for label in row.labels.values())
    return f'{row.name} ({labels})' if labels else row.name


def _dot_plot(measured: Measured, column: Column) -> str:
    """Plots a column: one dot per row with its range, next to the published number."""
    table = measured.plan.table
    dots = []
    for row in table.shown:
        cell = measured.cells[row.key, column.name]
        low, high = cell.range
        note = 'diverged' if cell.diverged and not cell.values else ''
        published = row.published.get(column.name)
        dots.append(charts.Dot(plot_name(table, row), cell.mean, low, high, published, note))
    return charts.dot_plot(heading(column), dots, _names_of_marks(column))


def _names_of_marks(column: Column) -> tuple[str, str]:
    """Returns the names of dots with their ranges, and of diamonds."""
    ours = 'ours: median, quartiles' if column.speed else 'ours: mean, min to max'
    return ours, 'published'


def _scatters(measured: Measured) -> str:
    """Plots the rows by the two columns of each scatter plot of the table."""
    plots = ''.join(_scatter(measured, scatter) for scatter in measured.plan.table.scatters)
    return f'<h3>Rows by two columns</h3><div class="halves">{plots}</div>' if plots else ''


def _scatter(measured: Measured, scatter: Scatter) -> str:
    """Plots the rows with numbers in both columns, next to their published numbers.

    Rows without both numbers are named below the plot.
    """
    table = measured.plan.table
    points = []
    left_out = []
    for row in table.shown:
        spans = []
        for name in scatter:
            cell = measured.cells[row.key, name]
            if cell.mean is not None:
                spans.append(charts.Span(cell.mean, *cell.range))
        published = [row.published[name] for name in scatter if name in row.published]
        reference = tuple(published) if len(published) == len(scatter) else None
        if len(spans) == len(scatter):
            points.append(charts.Point(plot_name(table, row), *spans, reference))
        else:
            left_out.append(plot_name(table, row))

    # Readers must know which corner is the best.
    columns = [table.column(name) for name in scatter]
    across = {'max': 'right', 'min': 'left'}.get(columns[0].better, '')
    upright = {'max': 'top', 'min': 'bottom'}.get(columns[1].better, '')
    corner = ' '.join(filter(None, (upright, across)))
    x_name, y_name = map(heading, columns)
    return charts.scatter_plot(
        f'{y_name} over {x_name}',
        points,
        (x_name, y_name),
        _names_of_marks(columns[1]),
        note=f'best: {corner}' if corner else '',
        left_out=left_out,
    )


def _curves(measured: Measured) -> str:
    """Draws each score that is a curve: a line for each row."""
    table = measured.plan.table
    names = {row.key: plot_name(table, row) for row in table.shown}
    drawn = ''
    for name, curve in row_curves(measured, names).items():
        drawn += charts.curve_chart(html.label(name), curve, width=480, height=280)
    return f'<h3>Curves</h3><div class="halves">{drawn}</div>' if drawn else ''


def _classes(measured: Measured) -> str:
    """Plots the IoU by class of the compared rows."""
    table = measured.plan.table
    keys = table.compare or tuple(row.key for row in table.shown[:NUM_COMPARED])
    by_row = []
    for key in keys:
        row = table.row(key)
        by_row.append((plot_name(table, row), class_scores(measured, row)))
    classes = list(dict.fromkeys(name for _, scores in by_row for name in scores))
    if not classes:
        return ''
    bars = []
    for name, scores in by_row:
        if scores:
            bars.append(charts.Bars(name, [scores.get(each) for each in classes]))
    return '<h3>Classes</h3>' + charts.grouped_bars('IoU [%], mean over the seeds', classes, bars)


def _runs(measured: Measured) -> str:
    """Lists all runs, with links to their reports."""
    plan = measured.plan
    lines = []
    for row in plan.table.rows:
        line = [escape(row.key)]
        for seed in plan.seeds:
            outcome = measured.outcomes[row.key, seed]
            if outcome == OPEN:
                line.append('not run')
            else:
                text = 'diverged' if outcome.diverged else 'report'
                target = f'{escape(row.key)}/seed_{seed}/report.html'
                line.append(f'<a href="{target}">{text}</a>')
        lines.append(line)
    content = html.table(['row', *(f'seed {seed}' for seed in plan.seeds)], lines)
    return f'<details><summary>Runs</summary><div class="scroll">{content}</div></details>'
