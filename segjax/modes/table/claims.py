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
"""Significance level of the two-sided t-test."""


class Comparison(NamedTuple):
    """A claim with the published difference and the measured differences.

    claim      the claim
    column     of the claim
    published  difference of the published numbers; None if one of them was not published
    ours       by seed, the number of row `higher` minus the number of row `lower`
    unmet      conditions of the claim that do not hold, in words
    remarks    further facts that a reader of the verdict must know
    """

    claim: Claim
    column: Column
    published: float | None
    ours: Cell
    unmet: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Returns whether the mean difference has the claimed sign, and how reliable this is.

        'within spread' means that Student's t-test at 5 % cannot tell the mean from 0. A mean of
        exactly 0 has no sign: 'undecided'.
        """
        mean = self.ours.mean
        if mean is None:
            return 'not measured'
        if self.unmet:
            return 'withheld: ' + '; '.join(self.unmet)
        if mean == 0:
            sign = 'undecided'
        else:
            sign = 'holds' if mean > 0 else 'does not hold'
        remarks = []
        if self.ours.std is None:
            remarks.append('one measurement' if self.column.speed else 'one seed')
        elif 0 < self.smallest_effect >= abs(mean):
            remarks.append('within spread')
        return ', '.join((sign, *remarks, *self.remarks))

    @property
    def agreeing(self) -> int:
        """Returns the number of seeds whose difference has the claimed sign."""
        return sum(value > 0 for value in self.ours.values.values())

    @property
    def smallest_effect(self) -> float | None:
        """Returns the half-width of the 95 % confidence interval of the mean difference.

            t(1 - LEVEL / 2, n - 1) std / sqrt(n)        for n seeds

        A mean difference must be larger than this to be told from 0. It is None for fewer than two
        seeds.
        """
        if self.ours.std is None:
            return None
        seeds = len(self.ours.values)
        return stats.t.ppf(1 - LEVEL / 2, seeds - 1) * self.ours.std / math.sqrt(seeds)

    @property
    def tested(self) -> bool:
        """Returns whether the seeds allow a test of the claim and no condition forbids it."""
        return self.ours.std is not None and not self.unmet


def paired(high: Cell, low: Cell) -> Cell:
    """Returns the differences for the seeds that both cells have."""
    differences = {}
    for seed, value in high.values.items():
        if seed in low.values:
            differences[seed] = value - low.values[seed]
    return Cell(differences)


def difference(rows: Claim | Condition | Difference, cells: Cells) -> Cell:
    """Returns row `higher` minus row `lower` in the column of a claim, condition or headline."""
    return paired(cells[rows.higher, rows.column], cells[rows.lower, rows.column])


def compare(table: Table, claim: Claim, cells: Cells, remarks: Sequence[str] = ()) -> Comparison:
    """Compares a claim with the measured differences, paired by seed.

    Args:
      table: has the published numbers.
      claim: of the table.
      cells: the measured numbers.
      remarks: to add to the verdict.
    """
    column = table.column(claim.column)
    above = table.row(claim.higher).published.get(column.name)
    below = table.row(claim.lower).published.get(column.name)
    published = None if above is None or below is None else above - below
    unmet = []
    for condition in claim.only_if:
        reason = _unmet(condition, table.column(condition.column), cells)
        if reason:
            unmet.append(reason)
    ours = difference(claim, cells)
    return Comparison(claim, column, published, ours, tuple(unmet), tuple(remarks))


def _unmet(condition: Condition, column: Column, cells: Cells) -> str:
    """Returns in words why a condition does not hold; '' if it holds."""
    mean = difference(condition, cells).mean
    measured = f'{condition.column} of {condition.higher} over {condition.lower}'
    why = f' ({condition.why})' if condition.why else ''
    if mean is None:
        return f'{measured} was not measured{why}'
    bounds = []
    if condition.at_least is not None and mean < condition.at_least:
        bounds.append(f'at least {condition.at_least:g}')
    if condition.at_most is not None and abs(mean) > condition.at_most:
        bounds.append(f'within {condition.at_most:g} of 0')
    if not bounds:
        return ''
    unit = f' {column.unit}' if column.unit else ''
    return f'{measured} is {mean:.3g}{unit}, wanted {" and ".join(bounds)}{why}'


def by_chance(comparisons: Sequence[Comparison]) -> str:
    """Returns a sentence on how many claims chance alone would decide; '' if none was tested."""
    tested = sum(comparison.tested for comparison in comparisons)
    if not tested:
        return ''
    claims = '1 claim was' if tested == 1 else f'{tested} claims were'
    return (
        f'{claims} tested at {LEVEL:.0%}. If no row differed from another, '
        f'chance alone would put {tested * LEVEL:.2g} of them beyond the spread, '
        f'{tested * LEVEL / 2:.2g} with the claimed sign.'
    )
