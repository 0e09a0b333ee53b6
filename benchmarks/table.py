"""The page of a bench of nets: conditions, times, ratios and memory, as Markdown."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

OURS = 'segjax'

BUSY = 0.5
"""Load average at the start from which a page says that the machine was shared."""

NAMES = {
    'erfnet': 'ERFNet',
    'bisenet': 'BiSeNet R18',
    'pspnet': 'PSPNet R50',
    'deeplab_largefov': 'DeepLab-LargeFOV VGG16',
    'deeplab_v2': 'DeepLab-v2 R101',
    'deeplab_v3plus': 'DeepLab-v3+ Xception-71',
    'fcn': 'FCN-8s VGG16',
    'efficientnet': 'EfficientNet-B0, classes of images',
}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Divides times of the same rounds, and returns the quartiles of the ratios.

    Args:
      ours: time of each round.
      theirs: time of each round, in the same order.

    Returns:
      (median, lower quartile, upper quartile) over the rounds.
    """
    low, median, high = np.quantile(np.array(ours) / np.array(theirs), (0.25, 0.5, 0.75))
    return float(median), float(low), float(high)


def page(record: Mapping[str, Any]) -> str:
    """Returns the page of a record of `benchmarks.nets`."""
    settings = record['settings']
    device = 'a GPU' if settings['device'] == 'gpu' else 'a CPU'
    lines = [
        f'# Speed of nets against torch on {device}',
        '',
        'Wall-clock milliseconds of one call, the median (quartiles) over the rounds. A ratio is',
        'segjax over torch in the same round, so below 1 segjax is faster. "core" is the ratio of',
        'the time that all cores of a process worked, which other processes affect less.',
        '',
        *conditions(record),
        '',
        *times(record['nets']),
        '',
        *costs(record['nets']),
    ]
    failed = failures(record['nets'])
    if failed:
        lines += ['', 'Failed:', '', *failed]
    return '\n'.join(lines) + '\n'


def command(module: str, settings: Mapping[str, Any]) -> str:
    """Returns the command that measures a record again."""
    words = ['python', '-m', module, '--torch', 'PATH/TO/torch/python']
    for key, value in settings.items():
        flag = f'--{key.replace("_", "-")}'
        if key == 'size':
            words += [flag, 'x'.join(map(str, value))]
        elif isinstance(value, list):
            words += [flag, ','.join(map(str, value))]
        elif isinstance(value, bool):
            words += [flag] * value
        elif key != 'limit':  # it changes no time
            words += [flag, f'{value:g}' if isinstance(value, float) else str(value)]
    return shlex.join(words)


def conditions(record: Mapping[str, Any]) -> list[str]:
    """Returns the command, the machine and the versions."""
    machine = record['machine']
    versions: dict[str, Any] = {}
    for entry in record['nets'].values():
        for side in entry['sides'].values():
            versions |= side.get('versions', {})
    names = ('jax', 'jaxlib', 'flax', 'torch', 'torchvision')
    known = ', '.join(f'{name} {versions[name]}' for name in names if name in versions)
    lines = [
        f'- Command: `{command("benchmarks.nets", record["settings"])}`',
        f'- Commit {machine["commit"]}, Python {machine["python"]}, {known}',
        f'- {machine["processor"]}, threads for each side: {record["settings"]["threads"]}',
        f'- Load average {machine["load at start"][0]} at the start, '
        f'{machine["load at end"][0]} at the end',
    ]
    if machine['load at start'][0] >= BUSY:
        lines.append('- Other processes were working. Only the ratios can be compared')
    if record['settings']['device'] == 'gpu' and 'device' in versions:
        lines.append(f'- {versions["device"]}')
    return lines


def times(nets: Mapping[str, Any]) -> list[str]:
    """Returns the table of times and ratios."""
    rows = [('net', 'what', 'against', 'segjax ms', 'torch ms', 'segjax / torch', 'core')]
    for net, entry in nets.items():
        ours = entry['sides'].get(OURS, {}).get('parts', {})
        for side, theirs in entry['sides'].items():
            for part, measured in theirs.get('parts', {}).items():
                if side == OURS or part not in ours:
                    continue
                row = (NAMES[net], part, side, milliseconds(ours[part]), milliseconds(measured))
                rows.append((*row, *ratios(ours[part], measured)))
    return markdown(rows, num_names=3)


def milliseconds(measured: Mapping[str, Sequence[float]]) -> str:
    """Returns the median and the quartiles of wall-clock times."""
    low, median, high = 1e3 * np.quantile(measured['seconds'], (0.25, 0.5, 0.75))
    digits = 0 if median >= 100 else 1
    return f'{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})'


def ratios(
    ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]
) -> tuple[str, str]:
    """Returns the ratios of wall-clock times and of the times of all cores."""
    median, low, high = ratio(ours['seconds'], theirs['seconds'])
    core, _, _ = ratio(ours['cpu_seconds'], theirs['cpu_seconds'])
    return f'{median:.2f} ({low:.2f} to {high:.2f})', f'{core:.2f}'


def costs(nets: Mapping[str, Any]) -> list[str]:
    """Returns the table of parameters, peak memory, and time until the first call has ended."""
    rows = [('net', 'side', 'parameters', 'peak MB', 'start s')]
    for net, entry in nets.items():
        for side, facts in entry['sides'].items():
            if 'parameters' not in facts:
                continue
            peak = facts.get('peak_bytes')
            memory = '-' if peak is None else f'{peak / 1e6:.0f}'
            seconds = f'{facts["prepare_seconds"]:.0f}'
            rows.append((NAMES[net], side, f'{facts["parameters"]:,}', memory, seconds))
    return markdown(rows, num_names=2)


def failures(nets: Mapping[str, Any]) -> list[str]:
    """Returns a line for each side of a net that failed."""
    lines = []
    for net, entry in nets.items():
        for facts in entry['sides'].values():
            if 'error' in facts:
                lines.append(f'- {NAMES[net]}, {facts["error"]}')
    return lines


def markdown(rows: Iterable[Sequence[str]], num_names: int) -> list[str]:
    """Returns a table whose first row is its head. Columns after the names are flush right."""
    head, *body = rows
    rule = ['---'] * num_names + ['---:'] * (len(head) - num_names)
    return ['| ' + ' | '.join(row) + ' |' for row in (head, rule, *body)]
