"""The report of a bench as aligned text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segjax.modes.bench.stages import INCLUDED

BASE = 'base'
"""Name of the config itself among its variants."""
COLUMNS = (
    *('stage', 'what', 'variant', 'batch', 'size', 'images/s', 'ms', 'spread', '/ base'),
    *('trace s', 'compile s', 'GFLOP', 'peak MB'),
)
NUM_NAMES = 3  # columns with names, which are flush left; numbers are flush right


def table(report: Mapping[str, Any]) -> str:
    """Returns the report as text: conditions, a table of all measurements, and comparisons.

    The spread is half the distance of the quartiles over the median.
    """
    stages = report['stages']
    lines = [*_conditions(report), '']
    rows = [COLUMNS]
    for stage, parts in stages.items():
        for part in INCLUDED:
            for name, entry in parts.get(part, {}).items():
                rows.append(_row(stage, part, name, entry))
    lines += [*_aligned(rows), '']
    for stage, parts in stages.items():
        lines += _comparisons(stage, parts)
    return '\n'.join(lines)


def _conditions(report: Mapping[str, Any]) -> list[str]:
    """Returns lines about the machine, the repetitions, the variants and the parts."""
    environment = report['environment']
    config = report['config']
    variants = report['variants']
    devices = f'{environment["devices"]} x {environment["device"]} ({config["parallel"]["mode"]})'
    settings = config['bench']
    calls = f'median of {settings["repetitions"]} calls after {settings["warmup"]} to warm up'
    lines = [
        f'{config["pipeline"]} on {devices}, {environment["host cores"]} host cores, '
        f'{config["train"]["dtype"]}, jax {environment["jax"]}',
        calls + (', variants in turn' if variants.keys() - {BASE} else ''),
    ]
    # A variant without a name is named after its overrides, which need no second line.
    for name, overrides in variants.items():
        if name not in (BASE, overrides):
            lines.append(f'{name}: {overrides}')
    for part, included in INCLUDED.items():
        if any(part in parts for parts in report['stages'].values()):
            lines.append(f'{part}: {included}')
    return lines


def _row(stage: str, part: str, variant: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of one measurement, in the order of COLUMNS."""
    low, high = entry['quartiles_seconds']
    memory = entry.get('memory')
    return (
        stage,
        part,
        variant,
        str(entry['batch_size']),
        'x'.join(map(str, entry['size'])),
        _number(entry['images_per_second'], 2),
        _number(entry['median_seconds'], 1, 1e3),
        f'{(high - low) / 2 / entry["median_seconds"]:.0%}',
        _number(entry['over_base']['median'] if 'over_base' in entry else None, 2),
        _number(entry.get('lower_seconds'), 1),
        _number(entry.get('compile_seconds'), 1),
        _number(entry.get('flops'), 2, 1e-9),
        _number(memory and memory['peak'], 0, 1e-6),
    )


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    return '-' if value is None else f'{value * scale:.{digits}f}'


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns one line per row, with columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        names = [cell.ljust(width) for cell, width in zip(row[:NUM_NAMES], widths[:NUM_NAMES])]
        numbers = [cell.rjust(width) for cell, width in zip(row[NUM_NAMES:], widths[NUM_NAMES:])]
        lines.append('  '.join(names + numbers).rstrip())
    return lines


def _comparisons(stage: str, parts: Mapping[str, Any]) -> Iterator[str]:
    """Yields sentences on variants over the base, the input over the training, and all steps."""
    for part in INCLUDED:
        for name, entry in list(parts.get(part, {}).items())[1:]:
            if 'over_base' in entry:
                low, high = entry['over_base']['quartiles']
                ratio = f'{entry["over_base"]["median"]:.2f} (quartiles {low:.2f} to {high:.2f})'
                yield f'{stage} {part}: time per image of {name} / base = {ratio}'
    for name, share in parts.get('input_over_train', {}).items():
        verdict = 'the input keeps up' if share >= 1 else 'the devices wait for the input'
        yield f'{stage} {name}: images/s of input / train = {share:.2f}: {verdict}'
    for name, whole in parts.get('whole', {}).items():
        work = f', {whole["flops"]:.2g} FLOP' if whole['flops'] else ''
        yield f'{stage} {name}: all {whole["steps"]:,} steps = {whole["hours"]:.2g} hours{work}'
