"""Marks that several charts draw: dots, hollow references, and ranges."""


def whisker(x0: float, x1: float, y: float) -> str:
    """Draws a horizontal range; '' if it is empty."""
    return f'<path class="whisker" d="M{x0:.1f} {y:.1f}H{x1:.1f}"/>' if x1 > x0 else ''


def upright_whisker(x: float, y0: float, y1: float) -> str:
    """Draws a vertical range; '' if it is empty."""
    return f'<path class="whisker" d="M{x:.1f} {y0:.1f}V{y1:.1f}"/>' if y0 != y1 else ''


def disc(x: float, y: float) -> str:
    """Draws a dot."""
    return f'<circle class="disc" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def diamond(x: float, y: float) -> str:
    """Draws a hollow reference."""
    return f'<path class="diamond" d="M{x - 5:.1f} {y:.1f}l5 -5 5 5 -5 5z"/>'
