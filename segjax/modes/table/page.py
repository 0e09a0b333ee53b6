"""table.html: the table as a page with charts."""

from segjax.modes.table.numbers import Measured, class_scores, problems
from segjax.modes.table.runs import OPEN
from segjax.modes.table.spec import Column, Row, Table
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

NUM_COMPARED = 5  # rows whose classes are compared where the table names none


def page(measured: Measured) -> str:
    """table.html: the table, the claims, a dot plot for each column, the classes of the compared rows, the runs."""
    plan = measured.plan
    table = plan.table
    badges = ''.join(
        f'<li>{escape(name)}: {escape(value)}</li>' for name, value in facts(measured).items()
    )
    body = [
        f'<h1>{escape(table.title)}</h1><p class="soft">{escape(table.source)}</p><ul class="badges">{badges}</ul>'
    ]
    body += [f'<p>{escape(table.notes)}</p>'] if table.notes else []
    body.append(f'<pre>{escape(plan.command)}</pre>')
    notes = '<br>'.join(map(escape, problems(measured)))
    body.append(f'<p class="note">{notes}</p>' if notes else '')
    body += [f'<p>{escape(line)}</p>' for line in headline_lines(measured)]
    body.append(
        html.card(
            'Table', html.table(*table_cells(measured, lambda text: f'<b>{text}</b>', escape))
        )
    )
    body += [
        f'<p class="soft">{escape(text)}</p>' for text in (LEGEND, speed_note(measured)) if text
    ]
    if measured.comparisons:
        body.append(html.card('Orderings', html.table(*claim_cells(measured, escape))))
        body.append(f'<p class="soft">{escape(claims_legend(measured))}</p>')
    plots = ''.join(_dot_plot(measured, column) for column in table.columns)
    body.append(f'<h3>Rows</h3><div class="halves">{plots}</div>' if plots else '')
    body += [_classes(measured), _runs(measured)]
    return html.page(table.title, body, charts.STYLE)


def plot_name(table: Table, row: Row) -> str:
    """The name of a row, or its key where others, told apart by labels and numbers in the table, have the same name."""
    return row.name if [other.name for other in table.rows].count(row.name) == 1 else row.key


def _dot_plot(measured: Measured, column: Column) -> str:
    table, dots = measured.plan.table, []
    for row in table.shown:
        cell = measured.cells[row.key, column.name]
        low, high = cell.range
        note = 'diverged' if cell.diverged and not cell.values else ''
        dots.append(
            charts.Dot(
                plot_name(table, row), cell.mean, low, high, row.published.get(column.name), note
            )
        )
    ours = 'ours: median, quartiles' if column.speed else 'ours: mean, min to max'
    return charts.dot_plot(heading(column), dots, (ours, 'published'))


def _classes(measured: Measured) -> str:
    table = measured.plan.table
    keys = table.compare or tuple(row.key for row in table.shown[:NUM_COMPARED])
    found = [
        (plot_name(table, row), class_scores(measured, row))
        for key in keys
        for row in table.rows
        if row.key == key
    ]
    classes = list(dict.fromkeys(name for _, scores in found for name in scores))
    if not classes:
        return ''
    bars = [charts.Bars(name, [scores.get(c) for c in classes]) for name, scores in found if scores]
    return '<h3>Classes</h3>' + charts.grouped_bars('IoU [%], mean over the seeds', classes, bars)


def _runs(measured: Measured) -> str:
    plan = measured.plan
    lines = []
    for row in plan.table.rows:
        line = [escape(row.key)]
        for seed in plan.seeds:
            found = measured.outcomes[row.key, seed]
            state = 'not run' if found == OPEN else 'diverged' if found.diverged else 'report'
            link = f'<a href="{escape(row.key)}/seed_{seed}/report.html">{state}</a>'
            line.append(link if found != OPEN else state)
        lines.append(line)
    content = html.table(['row', *(f'seed {seed}' for seed in plan.seeds)], lines)
    return f'<details><summary>Runs</summary><div class="scroll">{content}</div></details>'
