"""Scatter plots: a named dot for each row, by two numbers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from segjax.report.charts import marks
from segjax.report.charts.legend import key
from segjax.report.charts.lines import Frame
from segjax.report.charts.numbers import LETTER, format_number
from segjax.report.html import escape

HALF = 6.0
"""Half of the room that a mark needs, and half of the height of a name, in pixels."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom pixel."""
NAME_ROOM = 18
"""Room for the name of an axis, in pixels."""
MOST_AWAY = 24
"""Half heights of a name by which it may lie away from the corner of its dot."""


class Span(NamedTuple):
    """A number with its range."""

    value: float
    low: float
    high: float


class Point(NamedTuple):
    """A dot of a scatter plot.

    name       of the dot
    x, y       its place
    reference  (x, y) to compare the place with; None is not drawn
    """

    name: str
    x: Span
    y: Span
    reference: tuple[float, float] | None = None


def scatter_plot(
    title: str,
    points: Sequence[Point],
    axes: tuple[str, str],
    names: tuple[str, str],
    note: str = '',
    left_out: Sequence[str] = (),
    size: tuple[int, int] = (540, 380),
) -> str:
    """Draws a dot with its name and its ranges for each point, and its reference as a diamond.

    A name is written near its dot where it hides the least, and not on its ranges.

    Args:
      title: of the figure.
      points: the dots; '' without a point.
      axes: names of the horizontal and of the vertical axis, with their units.
      names: of dot and reference, for the legend.
      note: behind the title.
      left_out: names that have no dot, for a note below the plot.
      size: (width, height) in pixels, without the names of the axes.
    """
    if not points:
        return ''
    references = [point.reference for point in points if point.reference is not None]
    xs = [x for x, _ in references]
    ys = [y for _, y in references]
    for point in points:
        xs += [point.x.low, point.x.high]
        ys += [point.y.low, point.y.high]
    # Marks keep away from the ends of the horizontal axis. The frame itself widens the other axis.
    margin = 0.06 * (max(xs) - min(xs)) or abs(xs[0]) * 0.1 or 1.0
    x_range = (min(xs) - margin, max(xs) + margin)
    frame = Frame(x_range, (min(ys), max(ys)), size, log_x=False, logarithmic=False)

    # Ranges and diamonds first, so that dots and names cover them.
    parts = [frame.axes(''), *_axis_names(axes, size)]
    parts += [_ranges(frame, point) for point in points]
    parts += [_diamond(frame, point, names[1]) for point in points]
    parts += _dots(frame, points, axes, names[0])
    keys = key(20, marks.whisker(2, 18, 5) + marks.disc(10, 5), names[0])
    if references:
        keys += key(20, marks.diamond(10, 5), names[1])
    small = f'<small>{escape(note)}</small>' if note else ''
    missing = ''
    if left_out:
        missing = f'<small>left out, without both numbers: {escape("; ".join(left_out))}</small>'
    label = escape(f'{title}: {axes[1]} over {axes[0]}')
    box = f'{-NAME_ROOM} 0 {size[0] + NAME_ROOM} {size[1] + NAME_ROOM}'
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{small}'
        f'<span class="keys">{keys}</span></figcaption>'
        f'<svg viewBox="{box}" role="img" aria-label="{label}">'
        f'{"".join(parts)}</svg>{missing}</figure>'
    )


def _axis_names(axes: tuple[str, str], size: tuple[int, int]) -> list[str]:
    """Writes the name of the horizontal axis below the plot, and the other name left of it."""
    width, height = size
    below = f'<text x="{(Frame.LEFT + width - Frame.RIGHT) / 2}" y="{height + 10}"'
    upright = (Frame.TOP + height - Frame.BOTTOM) / 2
    left = f'<text transform="translate({8 - NAME_ROOM} {upright}) rotate(-90)"'
    return [
        f'{below} class="mid">{escape(axes[0])}</text>',
        f'{left} class="mid">{escape(axes[1])}</text>',
    ]


def _ranges(frame: Frame, point: Point) -> str:
    """Draws the ranges of a dot."""
    across = marks.whisker(frame.x(point.x.low), frame.x(point.x.high), frame.y(point.y.value))
    upright = marks.upright_whisker(
        frame.x(point.x.value), frame.y(point.y.low), frame.y(point.y.high)
    )
    return across + upright


def _diamond(frame: Frame, point: Point, name: str) -> str:
    """Draws the reference of a dot; '' without a reference. `name` is that of all references."""
    if point.reference is None:
        return ''
    x, y = point.reference
    title = escape(f'{point.name}; {name}: {format_number(x)}, {format_number(y)}')
    return f'<g><title>{title}</title>{marks.diamond(frame.x(x), frame.y(y))}</g>'


def _dots(frame: Frame, points: Sequence[Point], axes: tuple[str, str], name: str) -> list[str]:
    """Draws the dots and their names. `name` is that of all dots."""
    places = [(frame.x(point.x.value), frame.y(point.y.value)) for point in points]
    for point in points:
        if point.reference is not None:
            x, y = point.reference
            places.append((frame.x(x), frame.y(y)))
    taken = [(x - HALF, y - HALF, x + HALF, y + HALF) for x, y in places]
    parts = []
    for point, (x, y) in zip(points, places):
        label, box = _label(frame, point.name, x, y, taken)
        taken.append(box)
        place = f'{_in_words(axes[0], point.x)}; {_in_words(axes[1], point.y)}'
        title = f'{point.name}; {name}: {place}'
        parts.append(f'<g><title>{escape(title)}</title>{marks.disc(x, y)}{label}</g>')
    return parts


def _in_words(axis: str, span: Span) -> str:
    """Returns 'SSIM 0.5, 0.4 to 0.6'."""
    value, low, high = map(format_number, span)
    return f'{axis} {value}, {low} to {high}'


def _label(frame: Frame, name: str, x: float, y: float, taken: Iterable[Box]) -> tuple[str, Box]:
    """Returns the name of a dot as text, and the box of the text.

    A name further away than the corners of its dot has a line to the dot.

    Args:
      frame: of the plot.
      name: of the dot.
      x, y: pixel of the dot.
      taken: boxes of all dots, and of the names that are written already.
    """
    length = LETTER * len(name)
    spans = {'': (x + HALF, x + HALF + length), 'end': (x - HALF - length, x - HALF)}
    inside = (frame.LEFT, 0.0, float(frame.width), float(frame.height - frame.BOTTOM))

    # The place that hides the least is chosen, then the nearest place, then the first.
    choices = []
    for away in range(MOST_AWAY + 1):
        for top in (y - HALF * (away + 2), y + HALF * away):
            for css, (left, right) in spans.items():
                box = (left, top, right, top + 2 * HALF)
                hidden = sum(_overlap(box, other) for other in taken)
                outside = 2 * HALF * length - _overlap(box, inside)
                choices.append((round(hidden + outside, 3), len(choices), away, css, box))
    _, _, away, css, box = min(choices)
    start = box[2] if css else box[0]
    baseline = box[3] - 3
    text = f'<text x="{start:.1f}" y="{baseline:.1f}" class="{css}">{escape(name)}</text>'
    if away:
        text = f'<path class="axis" d="M{x:.1f} {y:.1f}L{start:.1f} {box[3] - HALF:.1f}"/>{text}'
    return text, box


def _overlap(first: Box, second: Box) -> float:
    """Returns the area that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)
