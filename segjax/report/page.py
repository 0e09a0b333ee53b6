"""report.html: a run folder on one page that needs no server, no network and no script.

    <workdir>/config.json, environment.json
    <workdir>/start.json                the sources of the initial parameters
    <workdir>/<stage>/scores.json       the result of Stage.finalize, with the facts that made it
    <workdir>/<stage>/metrics.jsonl     curves (segjax/train/log_files.py)
    <workdir>/<stage>/timing.jsonl      speed
    <workdir>/<stage>/pictures/<group>_<rank>/{info.json, <panel>.png, ...}
                                        pictures (pictures.py). Pictures of group 'same' show the
                                        same examples in all stages, side by side

A section whose files are missing is left out, so the page of a stopped run shows the files that
exist.
"""

import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

from segjax.core import files
from segjax.report import html
from segjax.report.curve_sections import curves_section, speed_section
from segjax.report.html import escape, label
from segjax.report.pictures import SAME, legend_of, panels, pictures_section
from segjax.report.run_files import RunFiles, StageFiles, read_run
from segjax.report.score_sections import (
    classes_section,
    confusion_section,
    scores_section,
    values_of,
)
from segjax.report.scores import format_score
from segjax.spec import DataSpec

GIVEN = ('image', 'truth')
"""Panels that do not depend on the stage."""
STAGE_SECTIONS: Mapping[str, Callable[[RunFiles, StageFiles], str]] = {
    'scores': scores_section,
    # Pictures come before curves, because they show at once whether a net has learned.
    'pictures': pictures_section,
    'curves': curves_section,
    'classes': classes_section,
    'confusion matrix': confusion_section,
    'speed': speed_section,
}


def write(workdir: pathlib.Path, specs: Mapping[str, DataSpec] | None = None) -> pathlib.Path:
    """Writes <workdir>/report.html from the files of the run folder.

    Args:
      workdir: the run folder.
      specs: the data sets by config section, for colours and shares of the classes. Without
        'data' they are left out.

    Returns:
      The path of the page.
    """
    run = read_run(pathlib.Path(workdir), specs or {})
    path = run.workdir / 'report.html'
    files.write_text(path, page(run))
    return path


def page(run: RunFiles) -> str:
    """Builds the page of a run: header, sections of each stage, setup and configuration."""
    title = f'{run.setting("pipeline") or "run"}: {run.workdir.resolve().name}'
    body = [_safely('header', _header, run, title)]
    several = len(run.stages) > 1
    if several:
        body.append(_safely('stages', _stage_list, run))
        body.append(_safely('side by side', _side_by_side, run))
    for number, stage in enumerate(run.stages):
        body.append(f'<section id="stage-{number}">')
        if several:
            body.append(f'<h2>{number + 1}. {escape(stage.name)}</h2>')
        for name, section in STAGE_SECTIONS.items():
            body.append(_safely(name, section, run, stage))
        body.append('</section>')
    body.append(_safely('setup', _setup, run))
    body.append(_safely('configuration', _configuration, run))
    return html.page(title, body)


def _safely(name: str, section: Callable[..., str], *args) -> str:
    """Returns a section, or a note about its error.

    Hours of training must not end in a traceback of the report.
    """
    try:
        return section(*args)
    except Exception as error:  # the note is the handling
        message = f'{type(error).__name__}: {error}'
        return f'<p class="note">Section {escape(name)} is missing: {escape(message)}</p>'


# --- the run --------------------------------------------------------------------------------------


def _header(run: RunFiles, title: str) -> str:
    """Returns the title, with the data set, the seed, the steps and the time as badges."""
    facts = []
    if run.spec is not None:
        facts.append(f'data {run.spec.name}')
    if 'seed' in run.config:
        facts.append(f'seed {run.config["seed"]}')
    for stage in run.stages:
        prefix = f'{stage.name}: ' if len(run.stages) > 1 else ''
        step = stage.last_step
        planned = run.planned.get(stage.name, 0)
        if step < planned:
            facts.append(f'{prefix}stopped at step {step:,d} of {planned:,d}')
        elif step:
            facts.append(f'{prefix}{step:,d} steps')
    facts.append('written ' + time.strftime('%Y-%m-%d %H:%M'))
    return f'<h1>{escape(title)}</h1>{html.badges(facts)}'


def _stage_list(run: RunFiles) -> str:
    """Lists the stages with their steps and first scores, with links to their sections."""
    rows = []
    for number, stage in enumerate(run.stages):
        values, _ = values_of(stage)
        score = ''
        for name, value in values.items():
            if isinstance(value, (int, float)):
                score = f'{label(name)} {format_score(name, value)}'
                break
        link = f'<a href="#stage-{number}">{escape(stage.name)}</a>'
        rows.append([link, f'{stage.last_step:,d}', escape(score)])
    return html.card('Stages', html.table(['stage', 'steps', 'score'], rows))


def _setup(run: RunFiles) -> str:
    """Shows the data sets, the weights, the machine and the versions."""
    cards = ''
    for section, spec in run.specs.items():
        title = 'Data' if section == 'data' else f'Data: {escape(section)}'
        cards += f'<div>{html.card(title, html.table(["data set", ""], _data_rows(spec)))}</div>'
    if weights := _weights(run):
        heads = ['net', 'source', 'digest']
        cards += f'<div>{html.card("Weights", html.table(heads, weights))}</div>'
    if run.environment:
        rows = [[escape(name), escape(value)] for name, value in run.environment.items()]
        cards += f'<div>{html.card("Machine and versions", html.table(["", ""], rows))}</div>'
    return f'<div class="halves">{cards}</div>' if cards else ''


def _weights(run: RunFiles) -> list[list[str]]:
    """Returns the cells about the initial parameters of each net, [] if all are random.

    Only a run with `init_from.sources` records its nets by name. In any other run a single row
    shows `init_from.path` and the patterns of the modules that it may load.
    """
    rows = []
    for net, source in run.start.get('weights', {}).items():
        rows.append([net, source['path'] or 'random', source['digest']])
    init_from = run.start.get('init_from', {})
    if not rows and init_from.get('path'):
        nets = ', '.join(init_from.get('nets', ()))
        rows.append([nets, init_from['path'], run.start.get('digest', '')])
    return [[escape(cell) for cell in row] for row in rows]


def _data_rows(spec: DataSpec) -> list[list[str]]:
    """Returns the name, the number of classes and the splits of a data set."""
    rows = [['name', escape(spec.name)], ['classes', str(spec.classes.num_classes)]]
    for split, count in spec.num_examples.items():
        height, width = spec.max_size.get(split, ('?', '?'))
        labelled = spec.split(split).num_labelled
        number = f'{count:,d} examples'
        if labelled != count and spec.classes.num_classes:
            number += f', {labelled:,d} of them labelled'
        rows.append([escape(split), f'{number}, up to {height}x{width}'])
    return rows


def _configuration(run: RunFiles) -> str:
    """Shows config.json, folded."""
    if not run.config:
        return ''
    text = json.dumps(run.config, indent=2, ensure_ascii=False)
    return (
        '<h3>Configuration</h3><details><summary>config.json</summary>'
        f'<pre>{escape(text)}</pre></details>'
    )


# --- stages side by side --------------------------------------------------------------------------


def _side_by_side(run: RunFiles) -> str:
    """Shows stages with pictures of the same examples: scores in one table, pictures in rows."""
    # By name: an index counts the examples that a stage chooses, and stages choose differently.
    examples = {}
    for stage in run.stages:
        entries = [entry for entry in stage.pictures if entry[0] == SAME]
        if entries:
            examples[stage.name] = {entry[2]['name']: entry for entry in entries}
    if len(examples) < 2:
        return ''
    compared = [stage for stage in run.stages if stage.name in examples]
    rows = ''
    colours: set[int] = set()
    marks: dict[str, Sequence[int]] = {}
    for name in dict.fromkeys(name for entries in examples.values() for name in entries):
        shown = {stage: entries[name] for stage, entries in examples.items() if name in entries}
        # Panels that do not depend on the stage are shown once, by the stage that has most of them.
        fullest = max(shown.values(), key=lambda entry: len(set(GIVEN) & set(entry[2]['panels'])))
        given, colours_of_given = panels(fullest, only=GIVEN)
        colours |= colours_of_given
        rows += f'<div class="picture"><h4>{escape(name)}</h4>{given}'
        for stage, entry in shown.items():
            markup, colours_of_entry = panels(entry, without=(*GIVEN, 'errors'))
            colours |= colours_of_entry
            marks |= entry[2].get('legend', {})
            rows += f'<h4 class="soft">{escape(stage)}</h4>{markup}'
        rows += '</div>'
    legend = legend_of(run.spec_of(compared[0]), colours, marks)
    return f'{_score_comparison(compared)}{legend}{rows}'


def _score_comparison(stages: list[StageFiles]) -> str:
    """Shows the plain scores of several stages in one table."""
    values = [values_of(stage)[0] for stage in stages]
    names = {}
    for scores in values:
        names |= {name: None for name, v in scores.items() if not isinstance(v, (str, bool))}
    rows = []
    for name in names:
        cells = [format_score(name, s[name]) if name in s else '' for s in values]
        rows.append([escape(cell) for cell in (label(name), *cells)])
    heads = ['score', *(stage.name for stage in stages)]
    return html.card('Side by side', html.table(heads, rows))
