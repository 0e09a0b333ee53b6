"""Small SVG charts for report.html and table.html: numbers in, markup out; no script, nothing fetched.

Charts take their colours from the page's CSS variables, so they follow light and dark mode; a <title> in a
mark is what browsers show on hover and screen readers read.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from segjax.report.html import escape

MAX_POINTS = 1500  # of a line: more than a chart has pixels
MAX_MARKS = 120  # points with a hover title: each costs bytes
MAX_CELLS = 40  # classes up to which a confusion matrix names its rows and columns
LETTER = 6.2  # pixels that a letter of a label takes


class Series(NamedTuple):
    """One line of a chart; `role` is its CSS class: 'train', 'eval', 's2' or 's3'. A None in ys is a gap."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    role: str


class Reference(NamedTuple):
    """A dashed level to compare with, such as the score of a trivial predictor."""

    name: str
    y: float


def format_number(value: float) -> str:
    """A number in few characters: 12,000  0.532  1.5e-05."""
    if value == 0:
        return '0'
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, exponent = f'{value:.2e}'.split('e')
        return f'{mantissa.rstrip("0").rstrip(".")}e{int(exponent)}'
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten apart) inside [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high]; with 2 and 5 times them where those are fewer than three."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**e for e in exponents if low <= 10.0**e <= high]
    if len(powers) >= 3:
        return powers[:: math.ceil(len(powers) / 5)]
    return [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]


def smooth(values: Sequence[float | None], reach: int) -> list[float | None]:
    """Centred moving average over up to `reach` neighbours on either side, fewer near the ends.

    The window is symmetric everywhere, so that a falling line is not drawn late: a straight line stays what it is.
    """
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    smoothed = []
    for i, value in enumerate(values):
        half = min(reach, i, len(values) - 1 - i)
        low, high = i - half, i + half + 1
        smoothed.append(
            None if value is None else (sums[high] - sums[low]) / (counts[high] - counts[low])
        )
    return smoothed


def _is_noisy(values: Sequence[float | None], smoothed: Sequence[float | None]) -> bool:
    """Whether some value is further than 1 % of the range from the moving average."""
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
) -> str:
    """A line chart as <figure>. Logarithmic where all values are positive and span a factor above 100.

    Training lines of many points are drawn faint, with their moving average over them.
    """
    points = [(x, y) for s in series for x, y in zip(s.xs, s.ys) if y is not None]
    if not points:
        return ''
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + [r.y for r in references]
    logarithmic = min(ys) > 0 and max(ys) > 100 * min(ys)
    frame = _Frame(min(xs), max(xs), min(ys), max(ys), width, height, logarithmic)
    parts, noisy = [frame.axes(x_name), frame.levels(references)], []
    for s in series:
        smoothed = smooth(s.ys, max(3, len(s.ys) // 40))
        noisy.append(s.role == 'train' and len(s.ys) >= 40 and _is_noisy(s.ys, smoothed))
        parts += frame.lines(s.xs, s.ys, f'line {s.role}' + (' faint' if noisy[-1] else ''))
        if noisy[-1]:
            parts += frame.lines(s.xs, smoothed, f'line {s.role}')
        parts.append(frame.marks(s, visible=len(s.ys) <= 40, x_name=x_name))
    legend = ''.join(
        f'<span><i class="key {s.role}"></i>{escape(s.name)}{" (moving average)" if is_noisy else ""}</span>'
        for s, is_noisy in zip(series, noisy)
    )
    scale = '<small>log scale</small>' if logarithmic else ''
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{scale}<span class="keys">{legend}</span>'
        f'</figcaption><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)} over {escape(x_name)}">{"".join(parts)}</svg></figure>'
    )


class _Frame:
    """The plotting area: maps data to pixels."""

    LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 26

    def __init__(self, x0, x1, y0, y1, width, height, logarithmic):
        self.x_ticks = nice_ticks(x0, x1)
        if x0 == x1:  # a single point, in the middle
            x0, x1 = x0 - 0.5, x1 + 0.5
        self.x0, self.x1, self.width, self.height = x0, x1, width, height
        self._scale = math.log10 if logarithmic else float
        low, high = self._scale(y0), self._scale(y1)
        margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        self._low = 0.0 if not logarithmic and 0 <= low < margin * 4 else low - margin
        self._high = high + margin
        if logarithmic:
            self.ticks = log_ticks(10**self._low, 10**self._high)
        else:
            self.ticks = nice_ticks(self._low, self._high)

    def x(self, value: float) -> float:
        return self.LEFT + (value - self.x0) / (self.x1 - self.x0) * (
            self.width - self.LEFT - self.RIGHT
        )

    def y(self, value: float) -> float:
        share = (self._scale(value) - self._low) / (self._high - self._low)
        return self.height - self.BOTTOM - share * (self.height - self.TOP - self.BOTTOM)

    def axes(self, x_name: str) -> str:
        right, bottom = self.width - self.RIGHT, self.height - self.BOTTOM
        parts = []
        if len(x_name) < 8:  # a longer one is in the title
            # The label of a tick at the very left reaches over the axis.
            reach = min(
                (self.x(t) - LETTER * len(format_number(t)) / 2 - 4 for t in self.x_ticks),
                default=self.LEFT,
            )
            end = min(self.LEFT - 7, reach)
            parts.append(
                f'<text x="{end:.1f}" y="{bottom + 16}" class="end">{escape(x_name)}</text>'
            )
        for tick in self.ticks:
            y = self.y(tick)
            parts.append(f'<path class="grid" d="M{self.LEFT} {y:.1f}H{right}"/>')
            parts.append(
                f'<text x="{self.LEFT - 7}" y="{y + 3.5:.1f}" class="end">{format_number(tick)}</text>'
            )
        parts.append(f'<path class="axis" d="M{self.LEFT} {bottom}H{right}"/>')
        for tick in self.x_ticks:
            label = f'<text x="{self.x(tick):.1f}" y="{bottom + 16}" class="mid">{format_number(tick)}</text>'
            parts.append(f'<path class="axis" d="M{self.x(tick):.1f} {bottom}v4"/>{label}')
        return ''.join(parts)

    def levels(self, references: Sequence[Reference]) -> str:
        """Dashed lines, named at their right end; those too close to be named apart share a name tag."""
        right, parts, tags = self.width - self.RIGHT, [], []
        for reference in sorted(references, key=lambda r: -r.y):
            y = self.y(reference.y)
            title = escape(f'{reference.name}: {format_number(reference.y)}')
            parts.append(
                f'<path class="level" d="M{self.LEFT} {y:.1f}H{right}"><title>{title}</title></path>'
            )
            if tags and y - tags[-1][0] < 13:
                tags[-1][1].append(reference.name)
            else:
                tags.append((y, [reference.name]))
        for y, names in tags:
            parts.append(
                f'<text x="{right}" y="{y - 4:.1f}" class="end">{escape(", ".join(names))}</text>'
            )
        return ''.join(parts)

    def lines(self, xs, ys, css: str) -> list[str]:
        """One polyline per run of values without a gap; a step back (a resumed run) begins a new one, too."""
        runs, last = [[]], -math.inf
        for x, y in _thin(list(zip(xs, ys)), MAX_POINTS):
            if y is None or x < last:
                runs.append([])
            if y is not None:
                runs[-1].append(f'{self.x(x):.1f},{self.y(y):.1f}')
            last = x
        return [f'<polyline class="{css}" points="{" ".join(run)}"/>' for run in runs if run]

    def marks(self, series: Series, visible: bool, x_name: str) -> str:
        known = [(x, y) for x, y in zip(series.xs, series.ys) if y is not None]
        css, radius = ('mark', 2.6) if visible else ('mark ghost', 4)
        name = f'{series.name}, {x_name}'
        return ''.join(
            f'<circle class="{css} {series.role}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}">'
            f'<title>{escape(name)} {format_number(x)}: {format_number(y)}</title></circle>'
            for x, y in _thin(known, MAX_MARKS)
        )


def _thin(points: list, limit: int) -> list:
    """At most `limit` of the points, evenly, the last one among them."""
    if len(points) <= limit:
        return points
    stride = math.ceil(len(points) / (limit - 1))
    return points[:-1:stride] + points[-1:]


def histogram(
    title: str, edges: Sequence[float], counts: Mapping[str, Sequence[int]], width: int = 360
) -> str:
    """Histograms of the same bins, one below the other, each as high as its own fullest bin.

    Args:
      title: of the figure.
      edges: of the bins, rising.
      counts: by label, in order from top to bottom; one number for each bin.
      width: pixels.
    """
    if not counts or len(edges) < 2:
        return ''
    left, right, row = 14 + LETTER * max(map(len, counts)), width - 12, 34
    bottom, low, high = 6 + row * len(counts), edges[0], edges[-1]

    def x(value: float) -> float:
        return left + (value - low) / (high - low or 1.0) * (right - left)

    parts = []
    for tick in nice_ticks(low, high, 5):
        parts.append(f'<path class="grid" d="M{x(tick):.1f} 4V{bottom}"/>')
        parts.append(
            f'<text x="{x(tick):.1f}" y="{bottom + 15}" class="mid">{format_number(tick)}</text>'
        )
    for i, (label, numbers) in enumerate(counts.items()):
        foot, total, most = 6 + row * (i + 1), sum(numbers), max(numbers)
        outline = f'M{left:.1f} {foot}'
        for edge, number in zip(edges[1:], numbers, strict=True):
            outline += f'V{foot - (row - 6) * number / (most or 1):.1f}H{x(edge):.1f}'
        full = numbers.index(most) if total else 0
        span = f'{format_number(edges[full])} to {format_number(edges[full + 1])}'
        told = f'{label}: {total:,d} values, most ({most:,d}) from {span}'
        parts.append(f'<path class="axis" d="M{left:.1f} {foot}H{right}"/>')
        parts.append(
            f'<path class="fill" d="{outline}V{foot}Z"><title>{escape(told)}</title></path>'
        )
        parts.append(f'<text x="{left - 7:.1f}" y="{foot - 8}" class="end">{escape(label)}</text>')
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b></figcaption>'
        f'<svg viewBox="0 0 {width} {bottom + 20}" role="img" '
        f'aria-label="{escape(title)}: histograms">{"".join(parts)}</svg></figure>'
    )


def meter(value: float, references: Sequence[Reference] = ()) -> str:
    """A score in [0, 1] as a thin bar, with a tick where each reference stands."""
    ticks = ''.join(
        f'<path class="tick" d="M{200 * min(max(r.y, 0), 1):.1f} 0V8"><title>{escape(r.name)}</title></path>'
        for r in references
    )
    return (
        f'<svg class="meter" viewBox="0 0 200 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" y="2" width="200" height="4" rx="2"/>'
        f'<rect class="fill" y="2" width="{200 * min(max(value, 0), 1):.1f}" height="4" rx="2"/>{ticks}</svg>'
    )


def confusion_matrix(names: Sequence[str], counts: Sequence[Sequence[float]]) -> str:
    """Counts [truth][prediction] as a heat map of the shares of each row; exact numbers on hover.

    Columns beyond the names count in the shares and are not shown.

    Colour grows with the square root of the share, so that confusions of a few per cent can be seen. Above
    MAX_CELLS classes rows and columns are not named (hover names them), and cells below 0.1 % are left out.
    """
    number = len(names)
    named = number <= MAX_CELLS
    cell = max(6, min(40, 800 // number))
    margin = 16 + 6.4 * max(map(len, names)) if named else 4
    numbered = cell >= 28
    parts = []
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row[:number]):
            share = count / total if total else 0.0
            if count == 0 or (not named and share < 0.001):
                continue
            x, y, opacity = margin + j * cell, margin + i * cell, math.sqrt(share)
            title = f'{names[i]} taken for {names[j]}: {100 * share:.2f} % ({count:,.0f} pixels)'
            if i == j:
                title = f'{names[i]}, right: {100 * share:.2f} % ({count:,.0f} pixels)'
            side = cell - 1
            box = f'<rect x="{x:.0f}" y="{y:.0f}" width="{side}" height="{side}" fill-opacity="{opacity:.2f}"/>'
            text = ''
            if numbered and share >= 0.005:
                css = 'mid high' if opacity > 0.8 else 'mid middle' if opacity > 0.6 else 'mid low'
                middle = x + side / 2, y + side / 2 + 3.5
                text = f'<text x="{middle[0]:.1f}" y="{middle[1]:.1f}" class="{css}">{100 * share:.0f}</text>'
            parts.append(f'<g><title>{escape(title)}</title>{box}{text}</g>')
    labels = []
    for k, name in enumerate(names if named else ()):
        at = margin + (k + 0.5) * cell
        labels.append(
            f'<text x="{margin - 8:.0f}" y="{at + 3.5:.1f}" class="end">{escape(name)}</text>'
        )
        turn = f'translate({at + 3.5:.1f} {margin - 8:.0f}) rotate(-90)'
        labels.append(f'<text transform="{turn}">{escape(name)}</text>')
    side = margin + number * cell + 4
    area = f'x="{margin:.0f}" y="{margin:.0f}" width="{number * cell}" height="{number * cell}"'
    return (
        f'<svg class="matrix" viewBox="0 0 {side:.0f} {side:.0f}" style="max-width:{side:.0f}px;'
        f'min-width:{0.7 * side:.0f}px" role="img" aria-label="confusion matrix, truth by row">'
        f'<rect class="ground" {area}/>{"".join(parts)}{"".join(labels)}</svg>'
    )


# --- charts of a table ------------------------------------------------------------------------------------------------


class Dot(NamedTuple):
    """One line of a dot plot: `value` in its range low..high, `reference` to compare with, `note` where there is no
    value. None is not drawn."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    reference: float | None
    note: str = ''


class Bars(NamedTuple):
    """One colour of a bar chart: a value for each group; None is a gap."""

    name: str
    values: Sequence[float | None]


def dot_plot(title: str, dots: Sequence[Dot], names: tuple[str, str], width: int = 540) -> str:
    """One line below the other: a dot with its range and, hollow, the reference. `names` of the two for the legend."""
    known = [
        v for dot in dots for v in (dot.value, dot.low, dot.high, dot.reference) if v is not None
    ]
    if not known:
        return ''
    left = min(200, 14 + LETTER * max(len(dot.name) for dot in dots))
    right, line = width - 16, 21
    bottom = 8 + line * len(dots)
    margin = 0.05 * (max(known) - min(known)) or abs(known[0]) * 0.1 or 1.0
    low, high = min(known) - margin, max(known) + margin

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = []
    for tick in nice_ticks(low, high, 5):
        parts.append(f'<path class="grid" d="M{x(tick):.1f} 4V{bottom}"/>')
        parts.append(
            f'<text x="{x(tick):.1f}" y="{bottom + 15}" class="mid">{format_number(tick)}</text>'
        )
    parts.append(f'<path class="axis" d="M{left:.1f} {bottom}H{right}"/>')
    for i, dot in enumerate(dots):
        y = 8 + line * (i + 0.5)
        parts.append(
            f'<path class="grid" d="M{left:.1f} {y:.1f}H{right}"/>{_dot_line(dot, names, x, y, left)}'
        )
    marks = (_whisker(2, 18, 5) + _disc(10, 5), _diamond(10, 5))
    keys = ''.join(_key(20, mark, name) for mark, name in zip(marks, names, strict=True))
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b><span class="keys">{keys}</span></figcaption>'
        f'<svg viewBox="0 0 {width} {bottom + 22}" role="img" aria-label="{escape(title)} by row">'
        f'{"".join(parts)}</svg></figure>'
    )


def _key(width: int, mark: str, name: str) -> str:
    """An entry of a legend: the mark itself, and what it stands for."""
    return f'<span class="whole"><svg class="key-mark" viewBox="0 0 {width} 10">{mark}</svg>{escape(name)}</span>'


def _dot_line(
    dot: Dot, names: tuple[str, str], x: Callable[[float], float], y: float, left: float
) -> str:
    shown = _shortened(dot.name, math.floor((left - 14) / LETTER + 1e-9))
    parts = [f'<text x="{left - 8:.1f}" y="{y + 3.5:.1f}" class="end">{escape(shown)}</text>']
    told = dot.name
    if dot.value is None:
        parts.append(
            f'<text x="{left + 6:.1f}" y="{y + 3.5:.1f}">{escape(dot.note)}</text>'
            if dot.note
            else ''
        )
    else:
        parts += [_whisker(x(dot.low), x(dot.high), y), _disc(x(dot.value), y)]
        told += f'; {names[0]} {format_number(dot.value)}, {format_number(dot.low)} to {format_number(dot.high)}'
    if dot.reference is not None:
        parts.append(_diamond(x(dot.reference), y))
        told += f'; {names[1]} {format_number(dot.reference)}'
    return f'<g><title>{escape(told)}</title>{"".join(parts)}</g>'


def _shortened(name: str, room: int) -> str:
    """Without its middle if it is longer than `room`: rows are often alike but for their ends."""
    half = (room - 1) // 2
    return name if len(name) <= room else f'{name[: room - 1 - half]}…{name[len(name) - half :]}'


def _whisker(x0: float, x1: float, y: float) -> str:
    return f'<path class="whisker" d="M{x0:.1f} {y:.1f}H{x1:.1f}"/>' if x1 > x0 else ''


def _disc(x: float, y: float) -> str:
    return f'<circle class="disc" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path class="diamond" d="M{x - 5:.1f} {y:.1f}l5 -5 5 5 -5 5z"/>'


PANEL_LEFT, PANEL_HEIGHT = (
    44,
    180,
)  # of a bar chart: room for the numbers of the axis, and for the bars
MIN_BAR = 5.0  # pixels


class _Panel(NamedTuple):
    """Measures of a bar chart, in pixels; `top` is the value at its upper end."""

    bar: float
    group: float
    top: float
    turned: bool  # the names of the groups, where they are longer than a group is wide
    foot: float


def grouped_bars(title: str, groups: Sequence[str], bars: Sequence[Bars], width: int = 1080) -> str:
    """Bars side by side within each group (a class); more panels below where one line of groups is too narrow.

    The first eight bars of a group are filled, the next eight outlined in the same colours; then they repeat.
    """
    values = [v for series in bars for v in series.values if v is not None]
    if not values:
        return ''
    gap, room, longest = 12, width - PANEL_LEFT, LETTER * max(map(len, groups))
    num_panels = math.ceil(len(groups) * (MIN_BAR * len(bars) + gap) / room)
    per_panel = math.ceil(len(groups) / num_panels)
    bar = max(MIN_BAR, min(22.0, (room / per_panel - gap) / len(bars)))
    group = bar * len(bars) + gap
    turned = longest > group
    panel = _Panel(
        bar, group, max(*values, 0.0) * 1.05 or 1.0, turned, 16 + 0.6 * longest if turned else 22
    )
    panels = [
        _bar_panel(
            panel,
            groups[at : at + per_panel],
            [Bars(b.name, b.values[at : at + per_panel]) for b in bars],
        )
        for at in range(0, len(groups), per_panel)
    ]
    keys = [
        _key(12, f'<rect class="{_bar_css(i)}" x="1" y="1" width="10" height="8"/>', b.name)
        for i, b in enumerate(bars)
    ]
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b><span class="keys many">{"".join(keys)}</span>'
        f'</figcaption><div class="scroll">{"".join(panels)}</div></figure>'
    )


def _bar_css(i: int) -> str:
    return f'bar b{i % 8}' + (' hollow' if i // 8 % 2 else '')


def _bar_panel(panel: _Panel, groups: Sequence[str], bars: Sequence[Bars]) -> str:
    bottom, width = PANEL_HEIGHT + 8, PANEL_LEFT + panel.group * len(groups) + 4
    scale, first = PANEL_HEIGHT / panel.top, PANEL_LEFT + (panel.group - panel.bar * len(bars)) / 2
    parts = []
    for tick in nice_ticks(0.0, panel.top):
        y = bottom - tick * scale
        parts.append(f'<path class="grid" d="M{PANEL_LEFT} {y:.1f}H{width:.1f}"/>')
        parts.append(
            f'<text x="{PANEL_LEFT - 7}" y="{y + 3.5:.1f}" class="end">{format_number(tick)}</text>'
        )
    for i, series in enumerate(bars):
        for k, value in enumerate(series.values):
            if value is None:
                continue
            x, height = first + k * panel.group + i * panel.bar + 0.5, value * scale
            title = f'{groups[k]}, {series.name}: {format_number(value)}'
            parts.append(
                f'<rect class="{_bar_css(i)}" x="{x:.1f}" y="{bottom - height:.1f}" width="{panel.bar - 1:.1f}" '
                f'height="{height:.1f}"><title>{escape(title)}</title></rect>'
            )
    parts.append(f'<path class="axis" d="M{PANEL_LEFT} {bottom}H{width:.1f}"/>')
    for k, group in enumerate(groups):
        x = PANEL_LEFT + (k + 0.5) * panel.group
        if panel.turned:
            place = f'class="end" transform="translate({x + 4:.1f} {bottom + 13}) rotate(-35)"'
        else:
            place = f'class="mid" x="{x:.1f}" y="{bottom + 15}"'
        parts.append(f'<text {place}>{escape(group)}</text>')
    size = f'style="width:{width:.0f}px;max-width:none"'
    return (
        f'<svg viewBox="0 0 {width:.0f} {bottom + panel.foot:.0f}" {size} role="img" '
        f'aria-label="bars by group: {escape(", ".join(groups))}">{"".join(parts)}</svg>'
    )


STYLE = """
:root { --b0: #2864c7; --b1: #d9730d; --b2: #12806a; --b3: #b8336a; --b4: #7a5bc7; --b5: #8a6d1f; --b6: #2f9cc4;
  --b7: #5b6675; }
@media (prefers-color-scheme: dark) { :root { --b0: #74a7f7; --b1: #f2a45f; --b2: #4fc3a7; --b3: #f07fae;
  --b4: #b79bf0; --b5: #d3b45c; --b6: #7fdcf7; --b7: #9aa6b6; } }
.b0 { fill: var(--b0); stroke: var(--b0); } .b1 { fill: var(--b1); stroke: var(--b1); }
.b2 { fill: var(--b2); stroke: var(--b2); } .b3 { fill: var(--b3); stroke: var(--b3); }
.b4 { fill: var(--b4); stroke: var(--b4); } .b5 { fill: var(--b5); stroke: var(--b5); }
.b6 { fill: var(--b6); stroke: var(--b6); } .b7 { fill: var(--b7); stroke: var(--b7); }
.bar { stroke-width: 1; } .bar.hollow { fill-opacity: .18; } .bar:hover { stroke: var(--ink); }
.chart svg.key-mark { display: inline-block; width: auto; height: 10px; margin-right: 5px; vertical-align: -1px; }
.keys.many { margin-left: 0; flex-basis: 100%; flex-wrap: wrap; gap: 2px 14px; }
.disc { fill: var(--accent); } .whisker { stroke: var(--accent); stroke-width: 2; stroke-opacity: .55; fill: none; }
.diamond { stroke: var(--eval); stroke-width: 1.7; fill: none; } g:hover > .disc { stroke: var(--ink); }
"""
"""What the marks of dot_plot and grouped_bars need beside web.STYLE."""
