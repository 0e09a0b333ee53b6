"""The confusion matrix as a heat map."""

import math
from collections.abc import Sequence

from segjax.report.html import escape

MAX_CELLS = 40
"""Number of classes up to which the rows and columns are named."""


def confusion_matrix(names: Sequence[str], counts: Sequence[Sequence[float]]) -> str:
    """Draws counts [truth][prediction] as a heat map of the shares of each row.

    Colour grows with the square root of the share, so that confusions of a few per cent are
    visible. Exact numbers are shown on hover. Above MAX_CELLS classes, rows and columns are named
    on hover only, and cells below 0.1 % are left out.

    Args:
      names: of the classes.
      counts: one row per class. Columns beyond the names count in the shares and are not shown.
    """
    # Many classes need small cells, which leave no room for names.
    number = len(names)
    named = number <= MAX_CELLS
    cell = max(6, min(40, 800 // number))
    margin = 16 + 6.4 * max(map(len, names)) if named else 4
    parts = []
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row[:number]):
            share = count / total if total else 0.0
            # Cells that show nothing would make the file large.
            if count == 0 or (not named and share < 0.001):
                continue
            title = f'{names[i]} taken for {names[j]}'
            if i == j:
                title = f'{names[i]}, right'
            title = escape(f'{title}: {100 * share:.2f} % ({count:,.0f} pixels)')
            square = _square(margin + j * cell, margin + i * cell, cell, share)
            parts.append(f'<g><title>{title}</title>{square}</g>')
    if named:
        parts += _labels(names, margin, cell)
    # The ground shows through where cells are left out.
    side = margin + number * cell + 4
    extent = number * cell
    area = f'x="{margin:.0f}" y="{margin:.0f}" width="{extent}" height="{extent}"'
    return (
        f'<svg class="matrix" viewBox="0 0 {side:.0f} {side:.0f}" style="max-width:{side:.0f}px;'
        f'min-width:{0.7 * side:.0f}px" role="img" aria-label="confusion matrix, truth by row">'
        f'<rect class="ground" {area}/>{"".join(parts)}</svg>'
    )


def _square(x: float, y: float, cell: int, share: float) -> str:
    """Draws a cell at pixel (x, y). If it is large enough, it shows the share in per cent."""
    side = cell - 1
    opacity = math.sqrt(share)
    square = (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{side}" height="{side}" '
        f'fill-opacity="{opacity:.2f}"/>'
    )
    if cell < 28 or share < 0.005:
        return square
    # The text needs another colour on a dark cell.
    css = 'mid high' if opacity > 0.8 else 'mid middle' if opacity > 0.6 else 'mid low'
    middle_x = x + side / 2
    middle_y = y + side / 2 + 3.5
    text = f'{100 * share:.0f}'
    return f'{square}<text x="{middle_x:.1f}" y="{middle_y:.1f}" class="{css}">{text}</text>'


def _labels(names: Sequence[str], margin: float, cell: int) -> list[str]:
    """Draws the name of each class in front of its row and, turned, above its column."""
    labels = []
    end = margin - 8
    for k, name in enumerate(names):
        middle = margin + (k + 0.5) * cell + 3.5
        labels.append(f'<text x="{end:.0f}" y="{middle:.1f}" class="end">{escape(name)}</text>')
        turn = f'translate({middle:.1f} {end:.0f}) rotate(-90)'
        labels.append(f'<text transform="{turn}">{escape(name)}</text>')
    return labels
