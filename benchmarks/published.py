"""Checks published numbers that need no training: parameters, shapes, data, rates and settings.

    python -m benchmarks.published
    python -m benchmarks.published --groups data,rates --output runs/published

Every number has the value that a paper or a release states, and is computed from segjax. The page
says which numbers are equal. A difference has a reason. The exit code is 1 if a difference has no
reason, or if a number with a reason is equal.

Published numbers are literals of the modules `published_*`, next to their source. Nets are traced
and not computed, so the check takes about two minutes on a core, and little memory.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import (
    machine,
    options,
    published_constants,
    published_data,
    published_formulas,
    published_nets,
    published_rates,
    published_shapes,
    published_trainings,
    table,
)
from benchmarks.published_number import Comparison, Number, compare, problem
from segjax.errors import unknown_name


class Group(NamedTuple):
    """Numbers of a table.

    title    heading of the table
    meaning  text below the heading
    numbers  of the table
    """

    title: str
    meaning: str
    numbers: tuple[Number, ...]


GROUPS = {
    'printed': Group(
        'Parameters that the source prints',
        'Numbers of trained parameters, without batch statistics.',
        published_nets.PRINTED,
    ),
    'counted': Group(
        'Parameters counted from the layers of the source',
        'Sums over the layers of the released code, which were counted without segjax.',
        published_nets.COUNTED,
    ),
    'shapes': Group(
        'Shapes',
        'Rows, columns and channels of features and outputs, for the published size of images.',
        published_shapes.SHAPES,
    ),
    'formulas': Group(
        'Formulas',
        'Ratios of noise that need no trained net, and smoothed labels.',
        published_formulas.FORMULAS,
    ),
    'constants': Group(
        'Constants',
        'Constants of nets, scores, cameras and normalisation.',
        published_constants.CONSTANTS,
    ),
    'data': Group(
        'Data sets',
        'Images, classes and sizes that the code holds. No data set is read.',
        published_data.DATA,
    ),
    'rates': Group(
        'Learning rates',
        'Rates of the default configs. The published rates were worked out from the formulas.',
        published_rates.RATES,
    ),
    'settings': Group(
        'Trainings',
        'Settings of the default configs, and of the variants of further published trainings. '
        'A setting has a row for each source that states it.',
        published_trainings.TRAININGS,
    ),
}
"""The tables, by name."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads and checks the arguments.

    Raises:
      InputError: an argument is wrong.
    """
    parser = options.Parser(prog='python -m benchmarks.published', allow_abbrev=False)
    parser.add_argument('--groups', default='', help='names of GROUPS, all by default')
    parser.add_argument('--output', default='runs/published', help='PATH.json and PATH.md')
    args = parser.parse_args(argv)
    args.groups = args.groups.split(',') if args.groups else list(GROUPS)
    for name in args.groups:
        if name not in GROUPS:
            raise unknown_name('--groups', name, GROUPS)
    return args


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Compares all numbers, prints the page, and writes the record and the page.

    Returns:
      The record: the machine, the settings, and {group: [comparison, ...]}.

    Raises:
      SystemExit: a difference has no reason, or a number with a reason is equal.
    """
    # All comparisons of the chosen tables.
    args = parse(argv)
    report = options.report(args.output)
    comparisons = {}
    for name in args.groups:
        print(f'{name} ...', file=sys.stderr, flush=True)
        numbers = GROUPS[name].numbers
        comparisons[name] = [compare(number)._asdict() for number in numbers]
    record = {
        'settings': {'groups': args.groups},
        'machine': machine.describe(),
        'comparisons': comparisons,
    }

    # The page is written in any case, because it shows what is wrong.
    text = page(record)
    report.write(record, text)
    print(text, flush=True)
    if problems(comparisons):
        sys.exit(1)
    return record


# --- the page -------------------------------------------------------------------------------------


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record."""
    # The sums, and how to check them again.
    comparisons = record['comparisons']
    facts = record['machine']
    lines = [
        '# Published numbers that need no training',
        '',
        verdict(*totals(comparisons)),
        'A number is compared in as many digits as its source has.',
        '',
        f'- Command: `{command(record["settings"]["groups"])}`',
        f'- Commit {facts["commit"]}, Python {facts["python"]}',
        '',
        *table.markdown(summary(comparisons), 1),
    ]

    # The differences first, because a reader looks for them.
    wrong = problems(comparisons)
    if wrong:
        lines += ['', 'Problems:', '', *(f'- {line}' for line in wrong)]
    reasons = reason_rows(comparisons)
    lines += ['', '## Where segjax differs', '', *table.markdown(reasons, len(reasons[0]))]

    # A section for each table.
    for name, rows in comparisons.items():
        group = GROUPS[name]
        lines += ['', f'## {group.title}', '', group.meaning, '']
        lines += table.markdown(table_rows(rows), len(HEAD))
    return '\n'.join(lines) + '\n'


def verdict(equal: int, total: int) -> str:
    """Returns how many numbers are equal, and how many differ."""
    different = total - equal
    differ = 'differs' if different == 1 else 'differ'
    return f'**{equal} of {total} numbers are equal.** {different} {differ} for a stated reason.'


def reason_rows(comparisons: Mapping[str, Sequence[Mapping[str, str]]]) -> list[tuple[str, ...]]:
    """Returns all numbers that differ with their reasons, the head first."""
    rows = [('number', 'published', 'here', 'reason', 'source')]
    for of_group in comparisons.values():
        for row in of_group:
            if row['difference']:
                texts = (row['quantity'], row['published'], row['here'], row['reason'])
                rows.append((*texts, row['source']))
    return rows


HEAD = ('number', 'published', 'here', 'difference', 'source')
"""Head of the tables."""


def table_rows(comparisons: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """Returns the rows of a group, the head first."""
    rows = [HEAD]
    for row in comparisons:
        texts = (row['quantity'], row['published'], row['here'], row['difference'] or 'equal')
        rows.append((*texts, row['source']))
    return rows


def totals(comparisons: Mapping[str, Sequence[Mapping[str, str]]]) -> tuple[int, int]:
    """Returns (equal numbers, all numbers)."""
    equal = 0
    total = 0
    for rows in comparisons.values():
        equal += sum(not row['difference'] for row in rows)
        total += len(rows)
    return equal, total


def summary(comparisons: Mapping[str, Sequence[Mapping[str, str]]]) -> list[tuple[str, ...]]:
    """Returns equal numbers and all numbers of each group, the head first."""
    rows = [('table', 'equal', 'numbers')]
    for name, of_group in comparisons.items():
        equal, total = totals({name: of_group})
        rows.append((GROUPS[name].title, str(equal), str(total)))
    return rows


def problems(comparisons: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """Returns a line for each difference without a reason, and for each reason too many."""
    lines = []
    for rows in comparisons.values():
        for row in rows:
            text = problem(Comparison(**row))
            if text:
                lines.append(f'{row["quantity"]}: {text}')
    return lines


def command(groups: Sequence[str]) -> str:
    """Returns the command that checks a record again."""
    chosen = '' if list(groups) == list(GROUPS) else f' --groups {",".join(groups)}'
    return f'python -m benchmarks.published{chosen}'


if __name__ == '__main__':
    options.run_main(main)
