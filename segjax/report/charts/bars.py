"""Histograms, bar charts by group, and meters."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from segjax.report.charts.legend import key
from segjax.report.charts.lines import Reference
from segjax.report.charts.numbers import LETTER, format_number, nice_ticks
from segjax.report.html import escape

# --- histograms -----------------------------------------------------------------------------------

HISTOGRAM_HEIGHT = 34
"""Pixels from the foot of a histogram to the foot of the histogram below it."""


def histogram(
    title: str, edges: Sequence[float], counts: Mapping[str, Sequence[int]], width: int = 360
) -> str:
    """Draws histograms of the same bins below each other, each as high as its own fullest bin.

    Args:
      title: of the figure.
      edges: of the bins, rising.
      counts: by label, from top to bottom; one number for each bin.
      width: pixels.
    """
    if not counts or len(edges) < 2:
        return ''
    # Labels are to the left of the axis, all histograms to its right.
    left = 20 + LETTER * max(map(len, counts))
    right = width - 12
    bottom = 6 + HISTOGRAM_HEIGHT * len(counts)
    low = edges[0]
    high = edges[-1]

    def x(value: float) -> float:
        return left + (value - low) / (high - low or 1.0) * (right - left)

    parts = []
    # The grid runs through all histograms, under the bins.
    for tick in nice_ticks(low, high, 5):
        label = format_number(tick)
        parts.append(f'<path class="grid" d="M{x(tick):.1f} 4V{bottom}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 15}" class="mid">{label}</text>')
    positions = [x(edge) for edge in edges]
    for i, (label, numbers) in enumerate(counts.items(), start=1):
        foot = 6 + HISTOGRAM_HEIGHT * i
        outline = _outline(positions, numbers, foot)
        title_text = escape(_histogram_title(label, edges, numbers))
        parts.append(f'<path class="axis" d="M{left:.1f} {foot}H{right}"/>')
        parts.append(f'<path class="fill" d="{outline}"><title>{title_text}</title></path>')
        parts.append(f'<text x="{left - 7:.1f}" y="{foot - 8}" class="end">{escape(label)}</text>')
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b></figcaption>'
        f'<svg viewBox="0 0 {width} {bottom + 20}" role="img" '
        f'aria-label="{escape(title)}: histograms">{"".join(parts)}</svg></figure>'
    )


def _outline(positions: Sequence[float], numbers: Sequence[int], foot: int) -> str:
    """Returns the SVG path around the bars of a histogram.

    Args:
      positions: horizontal pixels of the edges of the bins.
      numbers: by bin.
      foot: vertical pixel of the number 0.
    """
    most = max(numbers) or 1
    path = f'M{positions[0]:.1f} {foot}'
    for position, number in zip(positions[1:], numbers, strict=True):
        top = foot - (HISTOGRAM_HEIGHT - 6) * number / most
        path += f'V{top:.1f}H{position:.1f}'
    return f'{path}V{foot}Z'


def _histogram_title(label: str, edges: Sequence[float], numbers: Sequence[int]) -> str:
    """Returns the number of values and the fullest bin in words."""
    total = sum(numbers)
    most = max(numbers)
    fullest = numbers.index(most) if total else 0
    span = f'{format_number(edges[fullest])} to {format_number(edges[fullest + 1])}'
    return f'{label}: {total:,d} values, most ({most:,d}) from {span}'


# --- meters ---------------------------------------------------------------------------------------


def meter(value: float, references: Sequence[Reference] = ()) -> str:
    """Draws a score in [0, 1] as a thin bar, with a tick for each reference."""
    ticks = ''
    for reference in references:
        position = 200 * min(max(reference.y, 0), 1)
        title = escape(reference.name)
        ticks += f'<path class="tick" d="M{position:.1f} 0V8"><title>{title}</title></path>'
    length = 200 * min(max(value, 0), 1)
    return (
        '<svg class="meter" viewBox="0 0 200 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" y="2" width="200" height="4" rx="2"/>'
        f'<rect class="fill" y="2" width="{length:.1f}" height="4" rx="2"/>{ticks}</svg>'
    )


# --- bar charts -----------------------------------------------------------------------------------

PANEL_LEFT = 44
"""Pixels for the numbers of the vertical axis."""
PANEL_HEIGHT = 180
"""Pixels for the bars."""
MIN_BAR = 5.0
"""Width of the narrowest bar, in pixels."""


class Bars(NamedTuple):
    """One colour of a bar chart: a value for each group; None is a gap."""

    name: str
    values: Sequence[float | None]


class _Panel(NamedTuple):
    """Measures of a bar chart, in pixels.

    bar     width of a bar
    group   width of a group
    top     the value (no pixels) at the upper end
    turned  whether the names of the groups are turned because they are longer than a group is wide
    foot    height below the bars
    """

    bar: float
    group: float
    top: float
    turned: bool
    foot: float


def grouped_bars(title: str, groups: Sequence[str], bars: Sequence[Bars], width: int = 1080) -> str:
    """Draws bars next to each other within each group, for example a class.

    If one line of groups is too narrow, further panels follow below. The first eight bars of a
    group are filled, the next eight outlined in the same colours. Then the colours repeat.

    Args:
      title: of the figure.
      groups: names of the groups.
      bars: with a value for each group.
      width: pixels.
    """
    values = []
    for series in bars:
        values += [value for value in series.values if value is not None]
    if not values:
        return ''
    panel, per_panel = _make_panel(groups, len(bars), max(*values, 0.0), width)
    panels = ''
    for start in range(0, len(groups), per_panel):
        part = slice(start, start + per_panel)
        bars_of_panel = [Bars(series.name, series.values[part]) for series in bars]
        panels += _bar_panel(panel, groups[part], bars_of_panel)
    keys = ''
    for i, series in enumerate(bars):
        mark = f'<rect class="{_bar_css(i)}" x="1" y="1" width="10" height="8"/>'
        keys += key(12, mark, series.name)
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>'
        f'<span class="keys many">{keys}</span>'
        f'</figcaption><div class="scroll">{panels}</div></figure>'
    )


def _make_panel(
    groups: Sequence[str], num_bars: int, largest: float, width: int
) -> tuple[_Panel, int]:
    """Distributes the groups over panels. Returns the measures of a panel, and its groups.

    Args:
      groups: names of the groups.
      num_bars: bars of a group.
      largest: value.
      width: pixels.
    """
    gap = 12
    room = width - PANEL_LEFT
    longest = LETTER * max(map(len, groups))
    num_panels = math.ceil(len(groups) * (MIN_BAR * num_bars + gap) / room)
    per_panel = math.ceil(len(groups) / num_panels)
    bar = max(MIN_BAR, min(22.0, (room / per_panel - gap) / num_bars))
    group = bar * num_bars + gap
    turned = longest > group
    foot = 16 + 0.6 * longest if turned else 22
    return _Panel(bar, group, largest * 1.05 or 1.0, turned, foot), per_panel


def _bar_css(i: int) -> str:
    """Returns the CSS class of the bars of series `i`."""
    return f'bar b{i % 8}' + (' hollow' if i // 8 % 2 else '')


def _bar_panel(panel: _Panel, groups: Sequence[str], bars: Sequence[Bars]) -> str:
    """Draws the axis, the bars and the names of some groups."""
    bottom = PANEL_HEIGHT + 8
    width = PANEL_LEFT + panel.group * len(groups) + 4
    scale = PANEL_HEIGHT / panel.top
    parts = []
    # The grid comes first, so that bars cover it.
    for tick in nice_ticks(0.0, panel.top):
        y = bottom - tick * scale
        label = format_number(tick)
        parts.append(f'<path class="grid" d="M{PANEL_LEFT} {y:.1f}H{width:.1f}"/>')
        parts.append(f'<text x="{PANEL_LEFT - 7}" y="{y + 3.5:.1f}" class="end">{label}</text>')
    parts += _bar_rectangles(panel, groups, bars, bottom, scale)
    parts.append(f'<path class="axis" d="M{PANEL_LEFT} {bottom}H{width:.1f}"/>')
    # Long names are turned, so that they do not overlap.
    for k, group in enumerate(groups):
        x = PANEL_LEFT + (k + 0.5) * panel.group
        if panel.turned:
            turn = f'translate({x + 4:.1f} {bottom + 13}) rotate(-35)'
            parts.append(f'<text class="end" transform="{turn}">{escape(group)}</text>')
        else:
            parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 15}">{escape(group)}</text>')
    size = f'style="width:{width:.0f}px;max-width:none"'
    return (
        f'<svg viewBox="0 0 {width:.0f} {bottom + panel.foot:.0f}" {size} role="img" '
        f'aria-label="bars by group: {escape(", ".join(groups))}">{"".join(parts)}</svg>'
    )


def _bar_rectangles(
    panel: _Panel, groups: Sequence[str], bars: Sequence[Bars], bottom: int, scale: float
) -> list[str]:
    """Draws the bars of some groups. `scale` is pixels per unit of the values."""
    first = PANEL_LEFT + (panel.group - panel.bar * len(bars)) / 2
    rectangles = []
    for i, series in enumerate(bars):
        for k, value in enumerate(series.values):
            if value is None:
                continue
            x = first + k * panel.group + i * panel.bar + 0.5
            height = value * scale
            title = f'{groups[k]}, {series.name}: {format_number(value)}'
            rectangles.append(
                f'<rect class="{_bar_css(i)}" x="{x:.1f}" y="{bottom - height:.1f}" '
                f'width="{panel.bar - 1:.1f}" '
                f'height="{height:.1f}"><title>{escape(title)}</title></rect>'
            )
    return rectangles
