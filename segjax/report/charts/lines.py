"""Line charts, with their axes, reference levels and moving averages."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from segjax.report.charts.numbers import LETTER, format_number, log_ticks, nice_ticks
from segjax.report.html import escape
from segjax.report.scores import Curve

MAX_POINTS = 1500
"""Points of a line: more than a chart has pixels."""
MAX_MARKS = 120
"""Points with a hover title, each of which costs bytes."""
NUM_COLOURS = 8
"""Colours of the lines of a curve. The lines that follow are dashed in the same colours."""


class Series(NamedTuple):
    """One line of a chart.

    name  in the legend
    xs    positions
    ys    values; None is a gap
    role  CSS classes: 'train', 'eval', 's2' or 's3', or 'c0' to 'c7', also with 'dashed'
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    role: str


class Reference(NamedTuple):
    """A dashed level to compare with, such as the score of a trivial predictor."""

    name: str
    y: float


def smooth(values: Sequence[float | None], reach: int) -> list[float | None]:
    """Computes a centred moving average, with None for None.

    The window is symmetric everywhere, so that a falling line is not drawn late: a straight line
    remains unchanged.

    Args:
      values: in order; None is a gap.
      reach: neighbours on either side. Near the ends the window is narrower.
    """
    # Prefix sums, from which each window is one difference.
    sums = [0.0]
    counts = [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    smoothed = []
    for i, value in enumerate(values):
        half = min(reach, i, len(values) - 1 - i)
        low = i - half
        high = i + half + 1
        if value is None:
            smoothed.append(None)
        else:
            smoothed.append((sums[high] - sums[low]) / (counts[high] - counts[low]))
    return smoothed


def _is_noisy(values: Sequence[float | None], smoothed: Sequence[float | None]) -> bool:
    """Returns whether a value differs by more than 1 % of the range from the moving average."""
    pairs = [(v, s) for v, s in zip(values, smoothed) if v is not None]
    spread = max(v for v, _ in pairs) - min(v for v, _ in pairs) if pairs else 0.0
    return any(abs(v - s) > 0.01 * spread for v, s in pairs)


def line_chart(
    title: str,
    series: Sequence[Series],
    references: Sequence[Reference] = (),
    x_name: str = 'step',
    width: int = 360,
    height: int = 210,
    x_scale: str = 'linear',
    y_scale: str = '',
) -> str:
    """Draws a line chart as <figure>; '' without a point.

    Training lines of many noisy points are drawn faint, with their moving average over them.

    Args:
      title: above the chart.
      series: the lines.
      references: the levels.
      x_name: name of the horizontal axis.
      width, height: of the chart in pixels.
      x_scale: 'linear' or 'log'.
      y_scale: 'linear', 'log', or '' for a logarithmic scale if all values are positive and span a
        factor above 100.
    """
    # Values that are None are gaps.
    points = []
    for line in series:
        points += [(x, y) for x, y in zip(line.xs, line.ys) if y is not None]
    if not points:
        return ''
    # Levels take part in the range of y.
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + [reference.y for reference in references]
    wide = min(ys) > 0 and max(ys) > 100 * min(ys)
    logarithmic = wide if y_scale == '' else y_scale == 'log'
    log_x = x_scale == 'log'
    frame = Frame((min(xs), max(xs)), (min(ys), max(ys)), (width, height), log_x, logarithmic)
    parts = [frame.axes(x_name), frame.levels(references)]
    # The legend tells which lines are averages.
    keys = ''
    for line in series:
        marks, averaged = _draw_series(frame, line, x_name)
        parts += marks
        name = escape(line.name) + (' (moving average)' if averaged else '')
        keys += f'<span><i class="key {line.role}"></i>{name}</span>'
    scale = _scale_note(log_x, logarithmic)
    many = ' many' if len(series) > 2 else ''
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{scale}'
        f'<span class="keys{many}">{keys}</span>'
        f'</figcaption><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)} over {escape(x_name)}">{"".join(parts)}</svg></figure>'
    )


def _scale_note(log_x: bool, log_y: bool) -> str:
    """Names the logarithmic axes of a chart. A single note stands for the vertical axis."""
    if log_x and log_y:
        return '<small>log scales</small>'
    if log_x:
        return '<small>log x</small>'
    return '<small>log scale</small>' if log_y else ''


def curve_chart(title: str, curve: Curve, width: int = 360, height: int = 210) -> str:
    """Draws a score that is a curve. Points without a place on a logarithmic axis are left out.

    Args:
      title: of the curve, to which the names of the axes are added.
      curve: the score.
      width, height: of the chart in pixels.
    """
    series = []
    for number, line in enumerate(curve.lines):
        dashed = ' dashed' if number // NUM_COLOURS % 2 else ''
        role = f'c{number % NUM_COLOURS}{dashed}' if len(curve.lines) > 1 else 'eval'
        shown = [(x, y) for x, y in zip(line.x, line.y) if _has_place(curve, x, y)]
        series.append(Series(line.name, [x for x, _ in shown], [y for _, y in shown], role))
    return line_chart(
        f'{title}: {curve.y_name} over {curve.x_name}',
        series,
        (),
        curve.x_name,
        width,
        height,
        curve.x_scale,
        curve.y_scale,
    )


def _has_place(curve: Curve, x: float | None, y: float | None) -> bool:
    """Returns whether a point has a place on the axes of a curve."""
    if x is None or (x <= 0 and curve.x_scale == 'log'):
        return False
    return y is None or y > 0 or curve.y_scale != 'log'


def _draw_series(frame: 'Frame', line: Series, x_name: str) -> tuple[list[str], bool]:
    """Draws a line and its marks. Returns the markup, and whether it has a moving average."""
    smoothed = smooth(line.ys, max(3, len(line.ys) // 40))
    averaged = line.role == 'train' and len(line.ys) >= 40 and _is_noisy(line.ys, smoothed)
    css = f'line {line.role}'
    if averaged:
        parts = frame.lines(line.xs, line.ys, f'{css} faint')
        parts += frame.lines(line.xs, smoothed, css)
    else:
        parts = frame.lines(line.xs, line.ys, css)
    parts.append(frame.marks(line, visible=len(line.ys) <= 40, x_name=x_name))
    return parts, averaged


class Frame:
    """The plotting area of a line chart: maps data to pixels."""

    LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 26

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        size: tuple[int, int],
        log_x: bool,
        logarithmic: bool,
    ):
        """Chooses the scales of the axes.

        Args:
          x_range, y_range: smallest and largest value of the data.
          size: (width, height) in pixels.
          log_x: whether the horizontal axis is logarithmic.
          logarithmic: whether the vertical axis is logarithmic.
        """
        self.width, self.height = size
        x0, x1 = x_range
        self.x_ticks = log_ticks(x0, x1) if log_x and x0 < x1 else nice_ticks(x0, x1)
        self._x_scale = math.log10 if log_x else float
        self.x0 = self._x_scale(x0)
        self.x1 = self._x_scale(x1)
        if x0 == x1:  # A single point lies in the middle.
            self.x0 -= 0.5
            self.x1 += 0.5

        # The vertical axis leaves a margin around the data.
        self._scale = math.log10 if logarithmic else float
        low = self._scale(y_range[0])
        high = self._scale(y_range[1])
        margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        # A linear axis of small positive values begins at 0.
        self._low = 0.0 if not logarithmic and 0 <= low < margin * 4 else low - margin
        self._high = high + margin
        if logarithmic:
            self.ticks = log_ticks(10**self._low, 10**self._high)
        else:
            self.ticks = nice_ticks(self._low, self._high)

    def x(self, value: float) -> float:
        """Returns the horizontal pixel of a value."""
        share = (self._x_scale(value) - self.x0) / (self.x1 - self.x0)
        return self.LEFT + share * (self.width - self.LEFT - self.RIGHT)

    def y(self, value: float) -> float:
        """Returns the vertical pixel of a value."""
        share = (self._scale(value) - self._low) / (self._high - self._low)
        return self.height - self.BOTTOM - share * (self.height - self.TOP - self.BOTTOM)

    def axes(self, x_name: str) -> str:
        """Draws grid lines, axes, ticks and their labels."""
        right = self.width - self.RIGHT
        bottom = self.height - self.BOTTOM
        parts = []
        if len(x_name) < 8:  # a longer name is in the title
            parts.append(self._x_name(x_name, bottom))
        for tick in self.ticks:
            y = self.y(tick)
            label = format_number(tick)
            parts.append(f'<path class="grid" d="M{self.LEFT} {y:.1f}H{right}"/>')
            parts.append(f'<text x="{self.LEFT - 7}" y="{y + 3.5:.1f}" class="end">{label}</text>')
        parts.append(f'<path class="axis" d="M{self.LEFT} {bottom}H{right}"/>')
        for tick in self.x_ticks:
            x = self.x(tick)
            label = format_number(tick)
            parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" class="mid">{label}</text>')
        return ''.join(parts)

    def _x_name(self, x_name: str, bottom: int) -> str:
        """Draws the name of the horizontal axis left of its ticks."""
        # The label of a tick at the far left extends over the axis.
        reach = [self.x(t) - LETTER * len(format_number(t)) / 2 - 4 for t in self.x_ticks]
        end = min(self.LEFT - 7, min(reach, default=self.LEFT))
        return f'<text x="{end:.1f}" y="{bottom + 16}" class="end">{escape(x_name)}</text>'

    def levels(self, references: Sequence[Reference]) -> str:
        """Draws dashed lines, named at their right end. Lines close together share a label."""
        right = self.width - self.RIGHT
        parts = []
        labels: list[tuple[float, list[str]]] = []
        for reference in sorted(references, key=lambda r: -r.y):
            y = self.y(reference.y)
            title = escape(f'{reference.name}: {format_number(reference.y)}')
            parts.append(
                f'<path class="level" d="M{self.LEFT} {y:.1f}H{right}">'
                f'<title>{title}</title></path>'
            )
            if labels and y - labels[-1][0] < 13:
                labels[-1][1].append(reference.name)
            else:
                labels.append((y, [reference.name]))
        for y, names in labels:
            text = escape(', '.join(names))
            parts.append(f'<text x="{right}" y="{y - 4:.1f}" class="end">{text}</text>')
        return ''.join(parts)

    def lines(self, xs: Sequence[float], ys: Sequence[float | None], css: str) -> list[str]:
        """Draws one polyline per stretch of values without a gap.

        A step backwards, as of a resumed run, also begins a new polyline.
        """
        stretches = [[]]
        last = -math.inf
        for x, y in _thin(list(zip(xs, ys)), MAX_POINTS):
            if y is None or x < last:
                stretches.append([])
            if y is not None:
                stretches[-1].append(f'{self.x(x):.1f},{self.y(y):.1f}')
            last = x
        return [f'<polyline class="{css}" points="{" ".join(s)}"/>' for s in stretches if s]

    def marks(self, series: Series, visible: bool, x_name: str) -> str:
        """Draws points with hover titles. Invisible points can still be hovered over."""
        known = [(x, y) for x, y in zip(series.xs, series.ys) if y is not None]
        css, radius = ('mark', 2.6) if visible else ('mark ghost', 4)
        name = escape(f'{series.name}, {x_name}')
        circles = ''
        for x, y in _thin(known, MAX_MARKS):
            circles += (
                f'<circle class="{css} {series.role}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" '
                f'r="{radius}">'
                f'<title>{name} {format_number(x)}: {format_number(y)}</title></circle>'
            )
        return circles


def _thin(points: list, limit: int) -> list:
    """Returns at most `limit` of the points, evenly spread, with the last point among them."""
    if len(points) <= limit:
        return points
    stride = math.ceil(len(points) / (limit - 1))
    return points[:-1:stride] + points[-1:]
