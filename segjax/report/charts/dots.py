"""Dot plots: one line per row, with a value, its range, and a reference to compare with."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from segjax.report.charts import marks
from segjax.report.charts.legend import key
from segjax.report.charts.numbers import LETTER, format_number, nice_ticks
from segjax.report.html import escape


class Dot(NamedTuple):
    """One line of a dot plot. None is not drawn.

    name       of the line
    value      the dot
    low, high  range of the value
    reference  to compare the value with
    note       drawn if there is no value
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    reference: float | None
    note: str = ''


def dot_plot(title: str, dots: Sequence[Dot], names: tuple[str, str], width: int = 540) -> str:
    """Draws one line per dot: a dot with its range and, hollow, the reference.

    Args:
      title: of the figure.
      dots: from top to bottom.
      names: of value and reference, for the legend.
      width: pixels.
    """
    # The axis spans all numbers of all dots.
    known = []
    for dot in dots:
        numbers = (dot.value, dot.low, dot.high, dot.reference)
        known += [number for number in numbers if number is not None]
    if not known:
        return ''
    left = min(200, 14 + LETTER * max(len(dot.name) for dot in dots))
    right = width - 16
    line = 21
    bottom = 8 + line * len(dots)
    # The range of a single number is 0, but the axis needs a width.
    margin = 0.05 * (max(known) - min(known)) or abs(known[0]) * 0.1 or 1.0
    low = min(known) - margin
    high = max(known) + margin

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    # Grid and axis come first, so that dots cover them.
    parts = []
    for tick in nice_ticks(low, high, 5):
        label = format_number(tick)
        parts.append(f'<path class="grid" d="M{x(tick):.1f} 4V{bottom}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 15}" class="mid">{label}</text>')
    parts.append(f'<path class="axis" d="M{left:.1f} {bottom}H{right}"/>')
    for i, dot in enumerate(dots):
        y = 8 + line * (i + 0.5)
        parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right}"/>')
        parts.append(_dot_line(dot, names, x, y, left))
    ours, reference = names
    keys = key(20, marks.whisker(2, 18, 5) + marks.disc(10, 5), ours) + key(
        20, marks.diamond(10, 5), reference
    )
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>'
        f'<span class="keys">{keys}</span></figcaption>'
        f'<svg viewBox="0 0 {width} {bottom + 22}" role="img" aria-label="{escape(title)} by row">'
        f'{"".join(parts)}</svg></figure>'
    )


def _dot_line(
    dot: Dot, names: tuple[str, str], x: Callable[[float], float], y: float, left: float
) -> str:
    """Draws the name and the marks of one line.

    Args:
      dot: the line.
      names: of value and reference, for the hover title.
      x: maps a value to its horizontal pixel.
      y: vertical pixel of the line.
      left: horizontal pixel of the axis.
    """
    shown = _shortened(dot.name, math.floor((left - 14) / LETTER + 1e-9))
    parts = [f'<text x="{left - 8:.1f}" y="{y + 3.5:.1f}" class="end">{escape(shown)}</text>']
    title = dot.name
    if dot.value is not None:
        parts += [marks.whisker(x(dot.low), x(dot.high), y), marks.disc(x(dot.value), y)]
        value, low, high = map(format_number, (dot.value, dot.low, dot.high))
        title += f'; {names[0]} {value}, {low} to {high}'
    elif dot.note:
        parts.append(f'<text x="{left + 6:.1f}" y="{y + 3.5:.1f}">{escape(dot.note)}</text>')
    if dot.reference is not None:
        parts.append(marks.diamond(x(dot.reference), y))
        title += f'; {names[1]} {format_number(dot.reference)}'
    return f'<g><title>{escape(title)}</title>{"".join(parts)}</g>'


def _shortened(name: str, room: int) -> str:
    """Removes the middle of a name longer than `room`, because rows often differ at their ends."""
    half = (room - 1) // 2
    if len(name) <= room:
        return name
    return f'{name[: room - 1 - half]}…{name[len(name) - half :]}'
