"""Sections of a report about the course of training: curves over the steps, and speed."""

import statistics
from typing import Any

from segjax.report import charts, html
from segjax.report.charts import Reference, Series
from segjax.report.html import escape, label
from segjax.report.run_files import RunFiles, StageFiles
from segjax.report.score_sections import Baselines, values_of
from segjax.report.scores import is_share, with_unit

MAX_CHARTS = 60
"""Number of curves below groups such as classes. All curves are in metrics.jsonl."""
TIMING_INCLUDES = (
    'Wall time of the training loop from one log line to the next: waiting for input, transfer to '
    'the device, the step and logging. The first step, which compiles, evaluation and checkpoints '
    'are apart.'
)

Lines = dict[str, tuple[list[int], list[float | None]]]
"""(steps, values) by kind of metrics line: 'train' or 'eval'."""


# --- curves ---------------------------------------------------------------------------------------


def curves_section(run: RunFiles, stage: StageFiles) -> str:
    """Draws all metrics over the steps: the most important first, nested metrics folded."""
    lines = _metric_lines(stage)
    if not lines:
        return ''
    values, parts = values_of(stage)
    main_score = [name for name in values if name in lines][:1]
    first = ['loss', *main_score, 'learning_rate']
    ordered = [name for name in first if name in lines]
    ordered += sorted(name for name in lines if name not in first)
    plain = [name for name in ordered if '/' not in name]
    nested = [name for name in ordered if '/' in name][:MAX_CHARTS]
    drawn = ''.join(_curve(name, lines[name], parts.baselines) for name in plain)
    section = f'<h3>Curves</h3><div class="charts">{drawn}</div>'
    if nested:
        drawn = ''.join(_curve(name, lines[name], parts.baselines) for name in nested)
        section += (
            f'<details><summary>{len(nested)} more curves</summary>'
            f'<div class="charts">{drawn}</div></details>'
        )
    return section


def _metric_lines(stage: StageFiles) -> dict[str, Lines]:
    """Returns the curves of a stage by the name of the metric, shares in per cent."""
    lines: dict[str, Lines] = {}
    for record in stage.metrics:
        kind = record.get('kind', 'train')
        for name, value in record.items():
            if name not in ('step', 'kind'):
                xs, ys = lines.setdefault(name, {}).setdefault(kind, ([], []))
                xs.append(record['step'])
                ys.append(100 * value if is_share(name) and value is not None else value)
    return lines


def _curve(name: str, lines: Lines, baselines: Baselines) -> str:
    """Draws one metric, with the scores of the baselines as levels."""
    series = []
    for kind in sorted(lines, reverse=True):
        xs, ys = lines[kind]
        series.append(Series(kind, xs, ys, kind))
    references = []
    for baseline, scores in baselines.items():
        score = scores.get(name)
        if isinstance(score, (int, float)):
            references.append(Reference(label(baseline), 100 * score if is_share(name) else score))
    return charts.line_chart(with_unit(name), series, references)


# --- speed ----------------------------------------------------------------------------------------


def speed_section(run: RunFiles, stage: StageFiles) -> str:
    """Shows the speed of training with its conditions, and over the steps."""
    timed = [line for line in stage.timing if line.get('images_per_second') is not None]
    if not timed:
        return ''
    speeds = [line['images_per_second'] for line in timed]
    series = [Series('images/s', [line['step'] for line in timed], speeds, 's2')]
    rows = [*_speed_conditions(run, stage), *_speed_rows(stage, speeds)]
    return (
        f'<h3>Speed</h3><p class="soft">{escape(TIMING_INCLUDES)}</p><div class="halves">'
        f'<div class="card scroll">{html.table(["", ""], rows)}</div>'
        f'{charts.line_chart("images per second", series, width=480)}</div>'
    )


def _speed_conditions(run: RunFiles, stage: StageFiles) -> list[list[str]]:
    """Returns rows of the conditions that are known."""
    conditions = {
        'device': run.environment.get('device'),
        'devices': run.environment.get('devices'),
        'dtype': run.setting('train.dtype'),
        'global batch': _global_batch(run, stage),
        'image size': run.setting('augment.crop'),
        'mapped by': run.setting('parallel.mode'),
    }
    rows = []
    for name, value in conditions.items():
        if isinstance(value, (list, tuple)):
            value = 'x'.join(map(str, value))
        if value is not None:
            rows.append([name, escape(value)])
    return rows


def _global_batch(run: RunFiles, stage: StageFiles) -> int | None:
    """Returns the images of a step. A stage may have a batch size of its own."""
    for line in reversed(stage.timing):
        if line.get('images_per_second') and line.get('seconds_per_step'):
            return round(line['images_per_second'] * line['seconds_per_step'])
    return run.setting('train.batch_size')


def _speed_rows(stage: StageFiles, speeds: list[float]) -> list[list[str]]:
    """Returns rows of the measured speeds and times."""
    rows = [
        ['images per second, median', f'{statistics.median(speeds):.4g}'],
        ['slowest and fastest window', f'{min(speeds):.4g} – {max(speeds):.4g}'],
    ]
    seconds = _timings(stage, 'seconds_per_step')
    if seconds:
        rows.append(['seconds per step, median', f'{statistics.median(seconds):.4g}'])
    waiting = _timings(stage, 'input_wait_share')
    if waiting:
        share = f'{100 * statistics.mean(waiting):.1f} %'
        rows.append(['share of time waiting for input', share])
    first_steps = _timings(stage, 'compile_seconds')
    if first_steps:
        rows.append(['first step, compilation included', f'{first_steps[-1]:.3g} s'])
    return rows


def _timings(stage: StageFiles, name: str) -> list[Any]:
    """Returns the values of one name in timing.jsonl, in order."""
    return [line[name] for line in stage.timing if line.get(name) is not None]
