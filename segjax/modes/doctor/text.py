"""The diagnosis as text: a table of splits, a table of classes, and the findings."""

import collections
from collections.abc import Mapping

from segjax.modes.doctor.findings import Diagnosis, Finding, SplitSummary
from segjax.spec import IGNORE, ClassSpec

SHOWN = 5
"""Number of findings of one kind that the report prints in full."""


def report(diagnosis: Diagnosis) -> str:
    """Returns the diagnosis as text."""
    lines = [diagnosis.where, '', *_tables(diagnosis.classes, diagnosis.splits)]
    for section, where, classes, splits in diagnosis.further:
        lines += [f'{section}: {where}', '', *_tables(classes, splits)]
    for severity in ('error', 'warning', 'note'):
        lines += _listed([each for each in diagnosis.findings if each.severity == severity])
    number = collections.Counter(finding.severity for finding in diagnosis.findings)
    lines.append(f'{_plural(number["error"], "error")}, {_plural(number["warning"], "warning")}')
    return '\n'.join(lines)


def _tables(classes: ClassSpec | None, splits: Mapping[str, SplitSummary]) -> list[str]:
    """Returns the tables of splits and classes of a data set, nothing if it was not read."""
    if classes is None or not splits:
        return []
    if not classes.num_classes:
        return [*_split_table(splits), '', 'no classes: the examples have no labels', '']
    return [*_split_table(splits), '', *_class_table(classes, splits), '']


def _split_table(splits: Mapping[str, SplitSummary]) -> list[str]:
    """Returns one line per split: examples, readable examples, share of void, commonest sizes."""
    column = max(8, *map(len, splits))
    lines = [
        f'{"split":{column}}{"examples":>10}{"readable":>10}{"void":>9}  size (width x height)'
    ]
    for split, summary in splits.items():
        sizes = [f'{width}x{height}' for (height, width), _ in summary.sizes.most_common(3)]
        more = f', ... ({len(summary.sizes)} sizes)' if len(summary.sizes) > 3 else ''
        void = _share(summary.counts[IGNORE], summary.counts.sum())
        examples = len(summary.items)
        readable = sum(summary.sizes.values())
        numbers = f'{examples:>10}{readable:>10}{void:>9}'
        lines.append(f'{split:{column}}{numbers}  {", ".join(sizes)}{more}')
    return lines


def _class_table(classes: ClassSpec, splits: Mapping[str, SplitSummary]) -> list[str]:
    """Returns one line per class: its share of the labelled pixels of each split."""
    width = max(len(name) for name in (*classes.names, 'class'))
    column = max(10, *(len(split) + 2 for split in splits))
    heads = ''.join(f'{split:>{column}}' for split in splits)
    lines = [f'{"id":>4}  {"class":{width}}{heads}  of labelled pixels']
    for place, (name, number) in enumerate(zip(classes.names, classes.ids)):
        cells = ''
        for summary in splits.values():
            labelled = summary.counts[: classes.num_classes].sum()
            cells += f'{_share(summary.counts[place], labelled):>{column}}'
        lines.append(f'{number:>4}  {name:{width}}{cells}')
    return lines


def _share(part: int, whole: int) -> str:
    """Returns a share in per cent; '-' for none."""
    if part == 0:
        return '-'
    return f'{100 * part / whole:.3g} %' if part / whole >= 1e-5 else '<0.001 %'


def _listed(findings: list[Finding]) -> list[str]:
    """Returns the lines of findings. Findings with the same fix are grouped and abbreviated."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.fix, []).append(finding)
    lines = []
    for fix, group in groups.items():
        for finding in group[:SHOWN]:
            lines += [f'{finding.severity}: {finding.where}', f'    {finding.message}']
        if len(group) > SHOWN:
            lines.append(f'    ... and {len(group) - SHOWN} more of this kind')
        lines += [f'    fix: {fix}', ''] if fix else ['']
    return lines


def _plural(number: int, noun: str) -> str:
    return f'{number} {noun}' + ('' if number == 1 else 's')
