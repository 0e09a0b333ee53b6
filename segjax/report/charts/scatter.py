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
"""Scatter plots: named points with a horizontal range, in the colours of a legend."""

from collections.abc import Sequence
from typing import NamedTuple

from segjax.report.charts.legend import key
from segjax.report.charts.numbers import format_number, nice_ticks
from segjax.report.html import escape

LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 42
"""Margins around the plotting area, in pixels."""


class Point(NamedTuple):
    """A point of a scatter plot.

    name       in the legend
    x, y       position
    low, high  range of x; None is not drawn
    hollow     whether it is a reference, drawn as a hollow diamond
    """

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False


class _Axis(NamedTuple):
    """Maps values of an axis to pixels: `low` lies at `first`, `high` at `last`."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        """Returns the pixel of a value."""
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def scatter(
    title: str,
    points: Sequence[Point],
    names: tuple[str, str],
    width: int = 540,
    height: int = 320,
) -> str:
    """Draws points with their ranges. Colours repeat after eight points.

    Args:
      title: of the figure.
      points: in the order of the legend.
      names: of the horizontal and the vertical axis.
      width, height: pixels.
    """
    if not points:
        return ''
    xs = [point.x for point in points]
    for point in points:
        xs += [end for end in (point.low, point.high) if end is not None]
    across = _axis(xs, LEFT, width - RIGHT)
    up = _axis([point.y for point in points], height - BOTTOM, TOP)

    # The first point lies on top: it is the reference of the further points.
    parts = [_grid(across, up, names)]
    keys = ''
    for i, point in enumerate(points):
        keys += key(12, _mark(point, i, 6, 5), point.name)
    for i, point in reversed(list(enumerate(points))):
        parts.append(_point(point, i, across, up, names))
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>'
        f'<span class="keys many">{keys}</span></figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f'{"".join(parts)}</svg></figure>'
    )


def _axis(values: Sequence[float], first: float, last: float) -> _Axis:
    """Returns an axis with a margin around the values."""
    low = min(values)
    high = max(values)
    margin = 0.07 * (high - low) or abs(low) * 0.1 or 1.0
    return _Axis(low - margin, high + margin, first, last)


def _grid(across: _Axis, up: _Axis, names: tuple[str, str]) -> str:
    """Draws grid lines, ticks and the names of the axes."""
    parts = []
    for tick in nice_ticks(up.low, up.high):
        y = up.at(tick)
        label = format_number(tick)
        parts.append(f'<path class="grid" d="M{across.first} {y:.1f}H{across.last}"/>')
        parts.append(f'<text x="{across.first - 7}" y="{y + 3.5:.1f}" class="end">{label}</text>')
    for tick in nice_ticks(across.low, across.high, 6):
        x = across.at(tick)
        label = format_number(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {up.last}V{up.first}"/>')
        parts.append(f'<text x="{x:.1f}" y="{up.first + 15}" class="mid">{label}</text>')
    parts.append(f'<path class="axis" d="M{across.first} {up.first}H{across.last}"/>')
    parts.append(f'<path class="axis" d="M{across.first} {up.last}V{up.first}"/>')
    middle = (across.first + across.last) / 2
    half = (up.first + up.last) / 2
    turn = f'translate(12 {half:.1f}) rotate(-90)'
    name_x, name_y = map(escape, names)
    parts.append(f'<text x="{middle:.1f}" y="{up.first + 33}" class="mid">{name_x}</text>')
    parts.append(f'<text transform="{turn}" class="mid">{name_y}</text>')
    return ''.join(parts)


def _point(point: Point, i: int, across: _Axis, up: _Axis, names: tuple[str, str]) -> str:
    """Draws a point with its range, and its numbers on hover."""
    x = across.at(point.x)
    y = up.at(point.y)
    range_of_x = ''
    title = f'{point.name}; {names[0]} {format_number(point.x)}'
    if point.low is not None and point.high is not None:
        start = across.at(point.low)
        end = across.at(point.high)
        range_of_x = f'<path class="range b{i % 8}" d="M{start:.1f} {y:.1f}H{end:.1f}"/>'
        title += f', {format_number(point.low)} to {format_number(point.high)}'
    title += f'; {names[1]} {format_number(point.y)}'
    return f'<g><title>{escape(title)}</title>{range_of_x}{_mark(point, i, x, y)}</g>'


def _mark(point: Point, i: int, x: float, y: float) -> str:
    """Draws the mark of a point at a pixel."""
    if point.hollow:
        return f'<path class="diamond" d="M{x - 5:.1f} {y:.1f}l5 -5 5 5 -5 5z"/>'
    return f'<circle class="b{i % 8}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
