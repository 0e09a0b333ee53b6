"""Small SVG charts for report.html and table.html, without scripts or references to other files.

Charts take their colours from the CSS variables of the page, so they follow light and dark mode.
The <title> of a mark is shown by browsers on hover and read by screen readers.
"""

from segjax.report import html
from segjax.report.charts.bars import Bars, grouped_bars, histogram, meter
from segjax.report.charts.confusion import confusion_matrix
from segjax.report.charts.dots import Dot, dot_plot
from segjax.report.charts.lines import (
    MAX_MARKS,
    MAX_POINTS,
    Reference,
    Series,
    curve_chart,
    line_chart,
    smooth,
)
from segjax.report.charts.numbers import LETTER, format_number, log_ticks, nice_ticks
from segjax.report.charts.scatter import Point, Span, scatter_plot

STYLE = html.style_sheet('table.css')
"""The style of the marks of dot plots, scatter plots and bars, in addition to style.css."""

__all__ = [
    'LETTER',
    'MAX_MARKS',
    'MAX_POINTS',
    'STYLE',
    'Bars',
    'Dot',
    'Point',
    'Reference',
    'Series',
    'Span',
    'confusion_matrix',
    'curve_chart',
    'dot_plot',
    'format_number',
    'grouped_bars',
    'histogram',
    'line_chart',
    'log_ticks',
    'meter',
    'nice_ticks',
    'scatter_plot',
    'smooth',
]
