"""Entries of the legend of a chart."""

from segjax.report.html import escape


def key(width: int, mark: str, name: str) -> str:
    """Returns an entry of a legend.

    Args:
      width: of the mark in pixels.
      mark: SVG, 10 pixels high.
      name: of the series that the mark stands for.
    """
    picture = f'<svg class="key-mark" viewBox="0 0 {width} 10">{mark}</svg>'
    return f'<span class="whole">{picture}{escape(name)}</span>'
