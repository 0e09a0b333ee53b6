"""Numbers on the axes of charts: their format, and round values for ticks."""

import math

LETTER = 6.2
"""Width of a letter of a label, in pixels."""


def format_number(value: float) -> str:
    """Formats a number in few characters: 12,000  0.532  1.5e-05."""
    if value == 0:
        return '0'
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, exponent = f'{value:.2e}'.split('e')
        return f'{mantissa.rstrip("0").rstrip(".")}e{int(exponent)}'
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.4g}'


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns about `count` round numbers inside [low, high].

    Their distance is 1, 2, 2.5 or 5 times a power of ten.
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = 12 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten inside [low, high].

    If they are fewer than three, 2 and 5 times powers of ten are added.
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**e for e in exponents if low <= 10.0**e <= high]
    if len(powers) >= 3:
        return powers[:: math.ceil(len(powers) / 5)]
    multiples = []
    for exponent in exponents:
        multiples += [m * 10.0**exponent for m in (1, 2, 5)]
    return [tick for tick in multiples if low <= tick <= high]
