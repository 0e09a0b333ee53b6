"""report.html: a run folder on one page that needs no server, no network and no script.

    <workdir>/config.json, environment.json
    <workdir>/<stage>/scores.json       what Stage.finalize returned, and what it was made by
    <workdir>/<stage>/metrics.jsonl     curves (segjax/train/log_files.py)
    <workdir>/<stage>/timing.jsonl      speed
    <workdir>/<stage>/pictures/<group>_<rank>/{info.json, <panel>.png, ...}    written by `save_pictures`; those of
                                        group 'same' show the same examples in all stages, side by side

Whatever is missing leaves its section out, so the page of a run that was stopped is the page of what there is.
"""

import json
import math
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.core import files
from segjax.report import charts, html
from segjax.report.charts import Reference, Series
from segjax.report.html import escape, label
from segjax.report.scores import (
    PER_CLASS,
    ScoreParts,
    format_score,
    is_share,
    meanings,
    split_scores,
    table_columns,
    with_unit,
)
from segjax.spec import DataSpec

NUM_CARDS = 5  # scores shown large
MAX_CHARTS = 60  # of a stage; the rest is in metrics.jsonl
PANELS_A_LINE = 5  # at the most, on a wide page; lines are of equal length, but for the last
SAME, GIVEN = (
    'same',
    ('image', 'truth'),
)  # the group that stages have in common; panels that do not depend on them
GROUPS = {'best': 'Best images', 'worst': 'Worst images', 'sample': 'Images'}


# --- pictures on disk -------------------------------------------------------------------------------------------------


def save_pictures(folder: pathlib.Path, group: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Writes the pictures of one group, replacing those it had.

    Layout: <folder>/<group>_<rank>/<panel>.png, losslessly, and info.json: {'index', 'score', 'name', 'panels'}.

    Args:
      folder: <workdir>/<stage>/pictures.
      group: 'best', 'worst', 'sample' or 'same'; other names are shown under their own.
      entries: in the order of the page; each a mapping with 'index' (position in the split), 'score' (float, NaN for
        none), 'name' (of the example) and 'pictures', {panel: uint8 [H, W, 3] RGB or [H, W] or [H, W, 1]}, in order.

    Raises:
      TypeError: a picture of another dtype or shape.
    """
    folder = pathlib.Path(folder)
    fresh = folder / f'.{group}.new'
    shutil.rmtree(fresh, ignore_errors=True)
    for rank, entry in enumerate(entries):
        place = fresh / f'{group}_{rank:02d}'
        place.mkdir(parents=True)
        for panel, picture in entry['pictures'].items():
            (place / f'{panel}.png').write_bytes(files.encode_png(np.asarray(picture)))
        info = {key: entry[key] for key in ('index', 'score', 'name')}
        files.write_json(place / 'info.json', {**info, 'panels': list(entry['pictures'])})
    for old in folder.glob(f'{group}_*'):
        shutil.rmtree(old)
    for place in sorted(fresh.glob('*')):
        place.rename(folder / place.name)
    shutil.rmtree(fresh, ignore_errors=True)


# --- what a run folder holds ------------------------------------------------------------------------------------------


class StageFiles(NamedTuple):
    """What one stage has left; empty where there is nothing."""

    name: str
    scores: dict[str, Any]
    metrics: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    pictures: list[tuple[str, pathlib.Path, dict[str, Any]]]  # group, folder, info


class RunFiles(NamedTuple):
    workdir: pathlib.Path
    config: dict[str, Any]
    environment: dict[str, Any]
    spec: DataSpec | None
    stages: list[StageFiles]
    planned: dict[str, int]  # steps by stage


def _optional(read: Callable, path: pathlib.Path, default: Any) -> Any:
    """The content of a file, `default` where it is absent, broken or of another type: a report must not stop a run."""
    try:
        found = read(path) if path.exists() else default
    except (ValueError, OSError):
        return default
    return found if isinstance(found, type(default)) else default


def _read_run(workdir: pathlib.Path, spec: DataSpec | None) -> RunFiles:
    folders = sorted(f for f in workdir.iterdir() if f.is_dir())
    order = list(_optional(files.read_json, workdir / 'scores.json', {}))

    def position(folder: pathlib.Path) -> tuple[int, float]:
        """Stages run one after the other: as scores.json has them, else by their last line."""
        times = [
            f.stat().st_mtime
            for f in (folder / 'metrics.jsonl', folder / 'scores.json')
            if f.exists()
        ]
        return order.index(folder.name) if folder.name in order else len(order), *times[:1]

    stages = [_read_stage(f) for f in sorted(folders, key=position)]
    config, environment = (
        _optional(files.read_json, workdir / f'{n}.json', {}) for n in ('config', 'environment')
    )
    start = _optional(files.read_json, workdir / files.START, {})
    planned = dict(zip(start.get('stages', ()), start.get('steps', ())))
    return RunFiles(workdir, config, environment, spec, [s for s in stages if any(s[1:])], planned)


def _read_stage(folder: pathlib.Path) -> StageFiles:
    pictures = []
    for info in sorted((folder / 'pictures').glob('*_*/info.json')):
        found = _optional(files.read_json, info, {})
        if found:
            pictures.append((info.parent.name.rsplit('_', 1)[0], info.parent, found))
    return StageFiles(
        folder.name,
        _optional(files.read_json, folder / 'scores.json', {}),
        _optional(files.read_lines, folder / 'metrics.jsonl', []),
        _optional(files.read_lines, folder / 'timing.jsonl', []),
        pictures,
    )


def _setting(config: Mapping[str, Any], path: str) -> Any:
    """config['a']['b'] for 'a.b'; None where there is no such key (pipelines differ)."""
    for key in path.split('.'):
        config = config[key] if isinstance(config, Mapping) and key in config else None
    return config


# --- the page ---------------------------------------------------------------------------------------------------------


def write(workdir: pathlib.Path, spec: DataSpec | None = None) -> pathlib.Path:
    """Writes <workdir>/report.html from what the run folder holds.

    Args:
      workdir: the run folder.
      spec: the data set, for class colours and class shares; without it they are left out.

    Returns:
      The path of the page.
    """
    run = _read_run(pathlib.Path(workdir), spec)
    path = run.workdir / 'report.html'
    files.write_text(path, page(run))
    return path


def page(run: RunFiles) -> str:
    title = f'{_setting(run.config, "pipeline") or "run"}: {run.workdir.resolve().name}'
    body = [_safely('header', _header, run, title)]
    if len(run.stages) > 1:
        body += [_safely('stages', _stage_list, run), _safely('side by side', _side_by_side, run)]
    for number, stage in enumerate(run.stages):
        body.append(f'<section id="stage-{number}">')
        if len(run.stages) > 1:
            body.append(f'<h2>{number + 1}. {escape(stage.name)}</h2>')
        for name, section in STAGE_SECTIONS.items():
            body.append(_safely(name, section, run, stage))
        body.append('</section>')
    body += [_safely('setup', _setup, run), _safely('configuration', _configuration, run)]
    return html.page(title, body)


def _safely(name: str, section: Callable[..., str], *args) -> str:
    """A section, or a note in its place: hours of training must not end in a traceback of the report."""
    try:
        return section(*args)
    except Exception as error:  # the note is the handling
        return f'<p class="note">Section {escape(name)} is missing: {escape(type(error).__name__)}: {escape(error)}</p>'


def _header(run: RunFiles, title: str) -> str:
    facts = []
    if run.spec is not None:
        facts.append(f'data {run.spec.name}')
    if 'seed' in run.config:
        facts.append(f'seed {run.config["seed"]}')
    for stage in run.stages:
        prefix = f'{stage.name}: ' if len(run.stages) > 1 else ''
        step = _last_step(stage)
        planned = run.planned.get(stage.name, 0)
        if step < planned:
            facts.append(f'{prefix}stopped at step {step:,d} of {planned:,d}')
        elif step:
            facts.append(f'{prefix}{step:,d} steps')
    facts.append('written ' + time.strftime('%Y-%m-%d %H:%M'))
    badges = ''.join(f'<li>{escape(fact)}</li>' for fact in facts)
    return f'<h1>{escape(title)}</h1><ul class="badges">{badges}</ul>'


def _last_step(stage: StageFiles) -> int:
    return max((line['step'] for line in stage.metrics), default=0)


def _stage_list(run: RunFiles) -> str:
    rows = []
    for number, stage in enumerate(run.stages):
        values, _ = _values(stage)
        first = next(((n, v) for n, v in values.items() if isinstance(v, (int, float))), None)
        score = f'{label(first[0])} {format_score(*first)}' if first else ''
        rows.append(
            [
                f'<a href="#stage-{number}">{escape(stage.name)}</a>',
                f'{_last_step(stage):,d}',
                escape(score),
            ]
        )
    return html.card('Stages', html.table(['stage', 'steps', 'score'], rows))


def _side_by_side(run: RunFiles) -> str:
    """Stages with pictures of the same examples: their scores in one table, their pictures in rows."""
    # By name: an index counts the examples that a stage chooses, and stages choose differently.
    shown = {
        stage.name: {f[2]['name']: f for f in stage.pictures if f[0] == SAME}
        for stage in run.stages
    }
    stages = [stage for stage in run.stages if shown[stage.name]]
    if len(stages) < 2:
        return ''
    values = {stage.name: _values(stage)[0] for stage in stages}
    names = dict.fromkeys(
        n for s in stages for n, v in values[s.name].items() if not isinstance(v, (str, bool))
    )
    rows = [
        [
            escape(label(n)),
            *(
                escape(format_score(n, values[s.name][n])) if n in values[s.name] else ''
                for s in stages
            ),
        ]
        for n in names
    ]
    out = [
        html.card('Side by side', html.table(['score', *(escape(s.name) for s in stages)], rows))
    ]
    for example in dict.fromkeys(example for stage in stages for example in shown[stage.name]):
        found = [
            (stage.name, shown[stage.name][example])
            for stage in stages
            if example in shown[stage.name]
        ]
        out.append(f'<div class="picture"><h4>{escape(found[0][1][2]["name"])}</h4>')
        out.append(_panels(found[0][1], only=GIVEN)[0])
        for name, entry in found:
            panels, _ = _panels(entry, without=(*GIVEN, 'errors'))
            out.append(f'<h4 class="soft">{escape(name)}</h4>{panels}')
        out.append('</div>')
    return ''.join(out)


def _panels(
    entry: tuple[str, pathlib.Path, dict[str, Any]],
    only: Sequence[str] = (),
    without: Sequence[str] = (),
) -> tuple[str, set[int]]:
    """(the pictures of one example in a row, colours of those with few, but for the image itself)."""
    _, folder, info = entry
    figures, seen = [], set()
    for panel in info['panels']:
        if (not only or panel in only) and panel not in without:
            figure, colours = _figure(folder / f'{panel}.png', f'{panel} of {info["name"]}', panel)
            figures += [figure] if figure else []
            seen |= colours if panel != 'image' else set()
    count, few = len(figures), ' few' if len(figures) < 3 else ''
    columns = math.ceil(count / max(1, math.ceil(count / PANELS_A_LINE)))
    return f'<div class="panels{few}" style="--columns: {columns}">{"".join(figures)}</div>', seen


def _figure(path: pathlib.Path, alt: str, panel: str) -> tuple[str, set[int]]:
    """(markup, colours of the picture if it has few); nothing where there is no file."""
    if not path.exists():
        return '', set()
    uri, colours = html.inline_picture(path)
    caption = escape(label(panel))
    return (
        f'<figure><img src="{uri}" alt="{escape(alt)}"><figcaption>{caption}</figcaption></figure>',
        colours,
    )


# --- scores -----------------------------------------------------------------------------------------------------------


def _values(stage: StageFiles) -> tuple[dict[str, Any], ScoreParts]:
    """The plain scores: of scores.json, else of the last evaluation during training."""
    parts = split_scores(stage.scores)
    if parts.values:
        return parts.values, parts
    last = next((line for line in reversed(stage.metrics) if line.get('kind') == 'eval'), {})
    return {k: v for k, v in last.items() if k not in ('step', 'kind') and '/' not in k}, parts


def _scores(run: RunFiles, stage: StageFiles) -> str:
    values, parts = _values(stage)
    numbers = {k: v for k, v in values.items() if not isinstance(v, (str, bool))}
    words = {k: v for k, v in values.items() if isinstance(v, (str, bool))}
    cards = [_score_card(name, v, parts.baselines) for name, v in list(numbers.items())[:NUM_CARDS]]
    out = [f'<div class="cards">{"".join(cards)}</div>'] if cards else []
    if words:
        out.append(
            '<p class="soft">'
            + escape(', '.join(f'{label(k)}: {v}' for k, v in words.items()))
            + '</p>'
        )
    out += [f'<p class="soft">{escape(meaning)}</p>' for meaning in meanings(numbers)]
    rest = list(numbers.items())[NUM_CARDS:]
    if rest:
        heads = ['score', 'this run', *map(label, parts.baselines)]
        out.append(
            html.card(
                'More scores',
                html.table(heads, [_score_row(n, v, parts.baselines) for n, v in rest]),
            )
        )
    return ''.join(out) + _nested_scores('', parts)


def _nested_scores(prefix: str, parts: ScoreParts) -> str:
    """Tables, curves, histograms and sections below the plain scores; what a section has is headed 'outer / inner'."""
    out = []
    for name, table in parts.tables.items():
        if prefix or name != PER_CLASS:  # which has a place of its own
            columns = table_columns(table)
            rows = [
                [escape(row), *(escape(cells[i]) for _, cells in columns)]
                for i, row in enumerate(table)
            ]
            out.append(
                html.card(
                    prefix + label(name),
                    html.table(['', *(heading for heading, _ in columns)], rows),
                )
            )
    if parts.curves:
        out.append(
            '<div class="charts">'
            + ''.join(_score_curve(n, c) for n, c in parts.curves.items())
            + '</div>'
        )
    histograms = {
        name: section for name, section in parts.sections.items() if _is_histogram(section)
    }
    if histograms:
        drawn = ''.join(_score_histogram(prefix + name, one) for name, one in histograms.items())
        out.append(f'<div class="charts">{drawn}</div>')
    for name, section in parts.sections.items():
        if name in histograms:
            continue
        inner = split_scores(section)
        rows = [_score_row(n, v, inner.baselines) for n, v in inner.values.items()]
        if rows:
            out.append(
                html.card(
                    prefix + label(name), html.table(['score', 'value', *inner.baselines], rows)
                )
            )
        out.append(_nested_scores(f'{prefix}{label(name)} / ', inner))
    return ''.join(out)


def _score_curve(name: str, curve: Mapping[str, Any]) -> str:
    title = f'{label(name)}: {curve.get("y_name", "y")} over {curve.get("x_name", "x")}'
    series = [Series(curve.get('y_name', 'y'), curve['x'], curve['y'], 'eval')]
    return charts.line_chart(title, series, x_name=curve.get('x_name', 'x'))


def _is_histogram(section: Mapping[str, Any]) -> bool:
    """{'edges': [n + 1], 'counts': {label: [n]}}: histograms of the same bins."""
    edges, counts = section.get('edges'), section.get('counts')
    if not isinstance(edges, list) or not isinstance(counts, dict) or not counts:
        return False
    return all(isinstance(c, list) and len(c) == len(edges) - 1 > 0 for c in counts.values())


def _score_histogram(title: str, section: Mapping[str, Any]) -> str:
    return charts.histogram(title, section['edges'], section['counts'])


def _score_card(name: str, value: Any, baselines: Mapping[str, Mapping[str, Any]]) -> str:
    text, _, unit = format_score(name, value).partition(' ')
    references = [
        Reference(f'{label(b)} {format_score(name, scores[name])}', scores[name])
        for b, scores in baselines.items()
        if isinstance(scores.get(name), (int, float))
    ]
    meter = charts.meter(value, references) if is_share(name) and value is not None else ''
    names = ', '.join(f'<span class="whole">{escape(r.name)}</span>' for r in references)
    below = f'baselines: {names}' if references else ''
    return (
        f'<div class="card"><div class="name">{escape(label(name))}</div>'
        f'<div class="value">{escape(text)}<span>{escape(unit)}</span></div>{meter}<small>{below}</small></div>'
    )


def _score_row(name: str, value: Any, baselines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    cells = [
        format_score(name, value),
        *(format_score(name, b.get(name)) for b in baselines.values()),
    ]
    return [escape(label(name)), *map(escape, cells)]


# --- classes ----------------------------------------------------------------------------------------------------------


def _palette(spec: DataSpec | None) -> dict[str, Sequence[int]]:
    return {} if spec is None else dict(zip(spec.classes.names, spec.classes.palette))


def _train_shares(run: RunFiles) -> dict[str, float]:
    """Share of each class among the labelled pixels of the training split."""
    if run.spec is None:
        return {}
    pixels = run.spec.class_pixels.get(
        _setting(run.config, 'data.train_split'), run.spec.class_pixels.get('train', ())
    )
    total = sum(pixels)
    return {name: p / total for name, p in zip(run.spec.classes.names, pixels)} if total else {}


def _classes(run: RunFiles, stage: StageFiles) -> str:
    table = split_scores(stage.scores).tables.get(PER_CLASS)
    if not table:
        return ''
    leading = next(iter(next(iter(table.values()))))  # IoU, where there is one
    columns = table_columns(table)
    shares = _train_shares(run)
    if any(name in shares for name in table):
        cells = [f'{100 * shares[name]:.2f}' if name in shares else '-' for name in table]
        columns.append(('share of training pixels %', cells))
    palette, rows = _palette(run.spec), []
    for i, (name, row) in enumerate(table.items()):
        value = row.get(leading)
        bar = '' if value is None else charts.meter(value)
        head = (html.swatch(palette[name]) if name in palette else '') + escape(name)
        rows.append((value, [head, bar, *(escape(cells[i]) for _, cells in columns)]))
    rows.sort(key=lambda r: -1.0 if r[0] is None else r[0], reverse=True)
    content = html.table(
        [PER_CLASS, '', *(heading for heading, _ in columns)], [cells for _, cells in rows], 'bars'
    )
    return f'<h3>Classes, by {escape(leading)}</h3><div class="card scroll tall">{content}</div>'


def _confusion(run: RunFiles, stage: StageFiles) -> str:
    parts = split_scores(stage.scores)
    if parts.confusion is None:
        return ''
    names = list(parts.tables.get(PER_CLASS, {})) or (
        list(run.spec.classes.names) if run.spec else []
    )
    names = names or [str(i) for i in range(len(parts.confusion))]
    counts = parts.confusion[: len(names)]
    void = sum(sum(row[len(names) :]) for row in counts)
    told = ''
    if void:
        share = 100 * void / sum(map(sum, counts))
        told = f' Void was predicted for {share:.2f} % of the pixels, which are in the shares and have no column.'
    pairs = sorted(
        (-count, i, j)
        for i, row in enumerate(counts)
        for j, count in enumerate(row[: len(names)])
        if i != j and count > 0
    )[:12]
    rows = []
    for negative, i, j in pairs:
        share = 100 * -negative / sum(parts.confusion[i])
        rows.append([f'{escape(names[i])} &rarr; {escape(names[j])}', f'{share:.1f}'])
    listing = html.table(['most pixels: truth → said', '% of truth'], rows) if rows else ''
    return (
        '<h3>Confusion matrix</h3><p class="soft">A row is a true class; its cells say, in per cent, what it was taken '
        f'for. Colour grows with the square root of the share. Hover for counts.{told}</p><div class="split">'
        f'<div class="card scroll">{charts.confusion_matrix(names, counts)}</div>'
        f'<div class="card scroll">{listing}</div></div>'
    )


# --- curves -----------------------------------------------------------------------------------------------------------


def _curves(run: RunFiles, stage: StageFiles) -> str:
    lines: dict[str, dict[str, tuple[list, list]]] = {}
    for record in stage.metrics:
        for name, value in record.items():
            if name not in ('step', 'kind'):
                xs, ys = lines.setdefault(name, {}).setdefault(
                    record.get('kind', 'train'), ([], [])
                )
                xs.append(record['step'])
                ys.append(100 * value if is_share(name) and value is not None else value)
    if not lines:
        return ''
    values, parts = _values(stage)
    first = ['loss', *[n for n in values if n in lines][:1], 'learning_rate']
    ordered = [n for n in first if n in lines] + sorted(n for n in lines if n not in first)
    plain, nested = (
        [n for n in ordered if '/' not in n],
        [n for n in ordered if '/' in n][:MAX_CHARTS],
    )

    def chart(name):
        series = [
            Series(kind, xs, ys, kind)
            for kind, (xs, ys) in sorted(lines[name].items(), reverse=True)
        ]
        references = [
            Reference(label(b), 100 * scores[name] if is_share(name) else scores[name])
            for b, scores in parts.baselines.items()
            if isinstance(scores.get(name), (int, float))
        ]
        return charts.line_chart(with_unit(name), series, references)

    out = f'<h3>Curves</h3><div class="charts">{"".join(map(chart, plain))}</div>'
    if nested:
        inner = ''.join(map(chart, nested))
        out += f'<details><summary>{len(nested)} more curves</summary><div class="charts">{inner}</div></details>'
    return out


# --- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(run: RunFiles, stage: StageFiles) -> str:
    groups: dict[str, list[str]] = {}
    seen: set[int] = set()
    for entry in stage.pictures:
        group, _, info = entry
        if group == SAME:  # which has a place of its own
            continue
        panels, colours = _panels(entry)
        seen |= colours
        score = info.get('score')
        caption = escape(info['name']) + (
            '' if score is None else f' <span class="soft">score {score:.3f}</span>'
        )
        groups.setdefault(group, []).append(
            f'<div class="picture"><h4>{caption}</h4>{panels}</div>'
        )
    present = [
        f'<li>{html.swatch(colour)}{escape(name)}</li>'
        for name, colour in _palette(run.spec).items()
        if colour[0] << 16 | colour[1] << 8 | colour[2] in seen
    ]
    legend = f'<ul class="legend">{"".join(present)}</ul>' if present else ''
    out = []
    for group in [*(g for g in GROUPS if g in groups), *(g for g in groups if g not in GROUPS)]:
        out.append(
            f'<h3>{escape(GROUPS.get(group, label(group)))}</h3>{"" if out else legend}{"".join(groups[group])}'
        )
    return ''.join(out)


# --- speed, setup, configuration --------------------------------------------------------------------------------------


def _speed(run: RunFiles, stage: StageFiles) -> str:
    def known(name):
        return [line[name] for line in stage.timing if line.get(name) is not None]

    speeds, first_steps = known('images_per_second'), known('compile_seconds')
    if not speeds:
        return ''
    places = {
        'device': run.environment.get('device'),
        'devices': run.environment.get('devices'),
        'dtype': _setting(run.config, 'train.dtype'),
        'global batch': _setting(run.config, 'train.batch_size'),
        'image size': _setting(run.config, 'augment.crop'),
        'mapped by': _setting(run.config, 'parallel.mode'),
    }
    rows = [
        [name, escape('x'.join(map(str, v)) if isinstance(v, (list, tuple)) else v)]
        for name, v in places.items()
        if v is not None
    ]
    rows.append(['images per second, median', f'{statistics.median(speeds):.4g}'])
    rows.append(['slowest and fastest window', f'{min(speeds):.4g} – {max(speeds):.4g}'])
    if known('seconds_per_step'):
        rows.append(
            ['seconds per step, median', f'{statistics.median(known("seconds_per_step")):.4g}']
        )
    if known('input_wait_share'):
        rows.append(
            [
                'share of time waiting for input',
                f'{100 * statistics.mean(known("input_wait_share")):.1f} %',
            ]
        )
    if first_steps:
        rows.append(['first step, compilation included', f'{first_steps[-1]:.3g} s'])
    timed = [line for line in stage.timing if line.get('images_per_second') is not None]
    series = [Series('images/s', [line['step'] for line in timed], speeds, 's2')]
    return (
        f'<h3>Speed</h3><p class="soft">{escape(TIMING_INCLUDES)}</p><div class="halves">'
        f'<div class="card scroll">{html.table(["", ""], rows)}</div>'
        f'{charts.line_chart("images per second", series, width=480)}</div>'
    )


STAGE_SECTIONS: Mapping[str, Callable[[RunFiles, StageFiles], str]] = {
    'scores': _scores,
    'curves': _curves,
    'classes': _classes,
    'confusion matrix': _confusion,
    'pictures': _pictures,
    'speed': _speed,
}


def _setup(run: RunFiles) -> str:
    cards = []
    if run.spec is not None:
        rows = [['name', escape(run.spec.name)], ['classes', str(run.spec.classes.num_classes)]]
        for split, count in run.spec.num_examples.items():
            height, width = run.spec.max_size.get(split, ('?', '?'))
            labelled = run.spec.split(split).num_labelled
            of_them = '' if labelled == count else f', {labelled:,d} of them labelled'
            rows.append([escape(split), f'{count:,d} examples{of_them}, up to {height}x{width}'])
        cards.append(
            f'<div><h3>Data</h3><div class="card scroll">{html.table(["data set", ""], rows)}</div></div>'
        )
    if run.environment:
        rows = [[escape(k), escape(v)] for k, v in run.environment.items()]
        cards.append(
            f'<div><h3>Machine and versions</h3><div class="card scroll">{html.table(["", ""], rows)}</div></div>'
        )
    return f'<div class="halves">{"".join(cards)}</div>' if cards else ''


def _configuration(run: RunFiles) -> str:
    if not run.config:
        return ''
    text = json.dumps(run.config, indent=2, ensure_ascii=False)
    return f'<h3>Configuration</h3><details><summary>config.json</summary><pre>{escape(text)}</pre></details>'


TIMING_INCLUDES = (
    'Wall time of the training loop from one log line to the next: waiting for input, transfer to the device, the '
    'step and logging. The first step, which compiles, evaluation and checkpoints are apart.'
)
