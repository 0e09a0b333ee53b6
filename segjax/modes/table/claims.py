"""Judges the claims of a table: differences paired by seed, verdicts, and the share of chance."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from segjax.modes.table.cells import Cell
from segjax.modes.table.spec import Claim, Column, Condition, Difference, Table

Cells = Mapping[tuple[str, str], Cell]
"""Cells by (row key, column name)."""
LEVEL = 0.05
"""Level of the two-sided t-test."""


class Comparison(NamedTuple):
    """A claim and, by seed, the number of row `higher` minus that of row `lower`.

    unmet    conditions of the claim that do not hold, in words
    remarks  what else a reader of the verdict must know
    """

    claim: Claim
    column: Column
    published: float | None
    ours: Cell
    unmet: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Says whether the mean difference has the claimed sign, and what speaks against relying on it.

        'within spread' is a mean that Student's t at 5 % cannot tell from 0. A mean of exactly 0 has no sign.
        """
        mean = self.ours.mean
        if mean is None:
            return 'not measured'
        if self.unmet:
            return 'withheld: ' + '; '.join(self.unmet)
        said = 'undecided' if mean == 0 else 'holds' if mean > 0 else 'does not hold'
        if self.ours.std is None:
            remarks = ('one measurement' if self.column.speed else 'one seed',)
        else:
            remarks = ('within spread',) if 0 < self.smallest_effect >= abs(mean) else ()
        return ', '.join((said, *remarks, *self.remarks))

    @property
    def agreeing(self) -> int:
        return sum(value > 0 for value in self.ours.values.values())

    @property
    def smallest_effect(self) -> float | None:
        """Returns the half-width of the 95 % interval of the mean; None for fewer than two seeds.

        A mean difference must be larger to be told from 0.
        """
        if self.ours.std is None:
            return None
        seeds = len(self.ours.values)
        return stats.t.ppf(1 - LEVEL / 2, seeds - 1) * self.ours.std / math.sqrt(seeds)

    @property
    def tested(self) -> bool:
        """Whether the seeds allow a test of this claim and no condition forbids it."""
        return self.ours.std is not None and not self.unmet


def paired(high: Cell, low: Cell) -> Cell:
    """Returns the differences of the seeds that both cells have."""
    return Cell(
        {seed: high.values[seed] - low.values[seed] for seed in high.values if seed in low.values}
    )


def difference(of: Claim | Condition | Difference, cells: Cells) -> Cell:
    """Returns row `higher` minus row `lower` in the column of a claim, a condition or a headline."""
    return paired(cells[of.higher, of.column], cells[of.lower, of.column])


def compare(table: Table, claim: Claim, cells: Cells, remarks: Sequence[str] = ()) -> Comparison:
    """Returns a claim with the published difference and ours, paired by seed over the seeds that both rows have."""
    column = table.column(claim.column)
    above = table.row(claim.higher).published.get(column.name)
    below = table.row(claim.lower).published.get(column.name)
    theirs = None if above is None or below is None else above - below
    unmet = (
        _unmet(condition, table.column(condition.column), cells) for condition in claim.only_if
    )
    found = tuple(text for text in unmet if text)
    return Comparison(claim, column, theirs, difference(claim, cells), found, tuple(remarks))


def _unmet(condition: Condition, column: Column, cells: Cells) -> str:
    """Returns why a condition does not hold, in words; '' if it holds."""
    mean = difference(condition, cells).mean
    what = f'{condition.column} of {condition.higher} over {condition.lower}'
    why = f' ({condition.why})' if condition.why else ''
    if mean is None:
        return f'{what} was not measured{why}'
    unit = f' {column.unit}' if column.unit else ''
    too_small = condition.at_least is not None and mean < condition.at_least
    too_large = condition.at_most is not None and abs(mean) > condition.at_most
    wanted = [f'at least {condition.at_least:g}'] if too_small else []
    wanted += [f'within {condition.at_most:g} of 0'] if too_large else []
    return f'{what} is {mean:.3g}{unit}, wanted {" and ".join(wanted)}{why}' if wanted else ''


def by_chance(comparisons: Sequence[Comparison]) -> str:
    """Returns how many claims chance alone would decide, in words; '' if none was tested."""
    tested = sum(comparison.tested for comparison in comparisons)
    if not tested:
        return ''
    return (
        f'{tested} claim{"s were" if tested > 1 else " was"} tested at {LEVEL:.0%}. If no row differed from another, '
        f'chance alone would put {tested * LEVEL:.2g} of them beyond the spread, '
        f'{tested * LEVEL / 2:.2g} with the claimed sign.'
    )
