"""A number that a paper or a release states, and how segjax computes the same number."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Number(NamedTuple):
    """A published number.

    quantity   name of the number, as 'ERFNet, 20 classes'
    published  the number of the source: a number, a tuple of numbers, or a text
    source     paper and section, or release and file
    compute    () -> the number of segjax
    form       number -> text, with as many digits as the source has
    reason     why segjax differs. '': it does not
    """

    quantity: str
    published: Any
    source: str
    compute: Callable[[], Any]
    form: Callable[[Any], str]
    reason: str = ''


class Comparison(NamedTuple):
    """A published number and the number of segjax, as texts.

    quantity    of the number
    published   text of the published number
    here        text of the number of segjax
    difference  here - published, 'differs' where this is no number, and '' for equal texts
    source      of the number
    reason      of the difference
    """

    quantity: str
    published: str
    here: str
    difference: str
    source: str
    reason: str


def compare(number: Number) -> Comparison:
    """Computes a number and compares it with the published number.

    Numbers are equal if their texts are, so a source with three digits is compared in three digits.
    """
    here = number.compute()
    texts = (number.form(number.published), number.form(here))
    difference = '' if texts[0] == texts[1] else signed_difference(number.published, here)
    return Comparison(number.quantity, *texts, difference, number.source, number.reason)


def signed_difference(published: Any, here: Any) -> str:
    """Returns `here - published` with its sign, 'differs' for a switch, a name or a tuple."""
    if isinstance(published, bool | str | tuple):
        return 'differs'
    if isinstance(published, int) and isinstance(here, int):
        return f'{here - published:+,}'
    return f'{here - published:+.4g}'


def problem(comparison: Comparison) -> str:
    """Returns why a comparison needs a look: a difference without a reason, or the reverse."""
    if comparison.difference and not comparison.reason:
        return f'{comparison.published} published, {comparison.here} here, and no reason is stated'
    if comparison.reason and not comparison.difference:
        return f'equal ({comparison.here}), but a reason for a difference is stated'
    return ''


# --- forms ----------------------------------------------------------------------------------------


def whole(value: int) -> str:
    """Returns a whole number with commas, as '2,066,836'."""
    return f'{value:,}'


def digits(number: int) -> Callable[[float], str]:
    """Returns a form with some significant digits and without trailing zeros, as '0.0002'."""
    return lambda value: f'{value:.{number}g}'


def decimals(number: int, unit: str = '') -> Callable[[float], str]:
    """Returns a form with some digits behind the point, as '21.02 dB'."""
    return lambda value: f'{value:.{number}f} {unit}'.rstrip()


def millions(number: int) -> Callable[[float], str]:
    """Returns a form in millions with some digits behind the point, as '54.414 M'."""
    return lambda value: f'{value / 1e6:.{number}f} M'


def size(value: tuple[int, ...]) -> str:
    """Returns a size or a shape, as '90x90x1024'."""
    return 'x'.join(map(str, value))


def listing(values: tuple[Any, ...]) -> str:
    """Returns numbers or names as a list, as '4, 20'."""
    return ', '.join(_entry(value) for value in values)


def _entry(value: Any) -> str:
    """Returns an entry of `listing`. Whole numbers have no point, 2.0 becomes '2'."""
    return f'{value:.15g}' if isinstance(value, float) else str(value)


def words(value: Any) -> str:
    """Returns a name or a switch as text."""
    return str(value)
