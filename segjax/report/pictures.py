"""Pictures of examples: files in the run folder, and sections of its report."""

import math
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.core import files
from segjax.report import html
from segjax.report.html import escape, label
from segjax.report.run_files import RunFiles, StageFiles
from segjax.spec import DataSpec

PANELS_A_LINE = 5
"""Largest number of pictures in a line of a wide page. The lines of an example are equally long."""
SAME = 'same'
"""The group of pictures whose examples are the same in all stages."""
GROUPS = {'best': 'Best images', 'worst': 'Worst images', 'sample': 'Images'}

Entry = tuple[str, pathlib.Path, dict[str, Any]]
"""(group, folder, content of info.json) of an example."""


# --- files ----------------------------------------------------------------------------------------


def save_pictures(folder: pathlib.Path, group: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Writes the pictures of one group, and removes the pictures that it had.

    Layout: <folder>/<group>_<rank>/<panel>.png, lossless, and <folder>/<group>_<rank>/info.json
    with 'index', 'score', 'name' and 'panels'.

    Args:
      folder: <workdir>/<stage>/pictures.
      group: 'best', 'worst', 'sample' or 'same'. Other names are their own headings.
      entries: in the order of the page. Each is a mapping with 'index' (position in the split),
        'score' (float, NaN for none), 'name' (of the example) and 'pictures', {panel: uint8
        [H, W, 3] RGB or [H, W] or [H, W, 1]}, in order.

    Raises:
      TypeError: a picture of another dtype or shape.
    """
    folder = pathlib.Path(folder)
    # A new folder first, so that an error leaves the old pictures.
    fresh = folder / f'.{group}.new'
    shutil.rmtree(fresh, ignore_errors=True)
    for rank, entry in enumerate(entries):
        place = fresh / f'{group}_{rank:02d}'
        place.mkdir(parents=True)
        for panel, picture in entry['pictures'].items():
            png = files.encode_png(np.asarray(picture))
            (place / f'{panel}.png').write_bytes(png)
        info = {key: entry[key] for key in ('index', 'score', 'name')}
        files.write_json(place / 'info.json', {**info, 'panels': list(entry['pictures'])})
    for old in folder.glob(f'{group}_*'):
        shutil.rmtree(old)
    for place in sorted(fresh.glob('*')):
        place.rename(folder / place.name)
    shutil.rmtree(fresh, ignore_errors=True)


# --- sections -------------------------------------------------------------------------------------


def palette(spec: DataSpec | None) -> dict[str, Sequence[int]]:
    """Returns the RGB colours of the classes by name; {} without a data set."""
    return {} if spec is None else dict(zip(spec.classes.names, spec.classes.palette))


def pictures_section(run: RunFiles, stage: StageFiles) -> str:
    """Shows the pictures of a stage by group, with a legend of the classes that occur in them."""
    groups: dict[str, list[str]] = {}
    colours: set[int] = set()
    for entry in stage.pictures:
        group, _, info = entry
        if group == SAME:  # shown side by side for all stages
            continue
        markup, colours_of_entry = panels(entry)
        colours |= colours_of_entry
        caption = escape(info['name'])
        score = info.get('score')
        if score is not None:
            caption += f' <span class="soft">score {score:.3f}</span>'
        picture = f'<div class="picture"><h4>{caption}</h4>{markup}</div>'
        groups.setdefault(group, []).append(picture)

    # The legend follows the first heading.
    legend = _legend(run.spec_of(stage), colours)
    ordered = [*(g for g in GROUPS if g in groups), *(g for g in groups if g not in GROUPS)]
    section = ''
    for group in ordered:
        heading = escape(GROUPS.get(group, label(group)))
        section += f'<h3>{heading}</h3>{legend}{"".join(groups[group])}'
        legend = ''
    return section


def _legend(spec: DataSpec | None, colours: set[int]) -> str:
    """Returns the classes whose colours (r << 16 | g << 8 | b) occur."""
    items = ''
    for name, (red, green, blue) in palette(spec).items():
        if red << 16 | green << 8 | blue in colours:
            items += f'<li>{html.swatch((red, green, blue))}{escape(name)}</li>'
    return f'<ul class="legend">{items}</ul>' if items else ''


def panels(
    entry: Entry, only: Sequence[str] = (), without: Sequence[str] = ()
) -> tuple[str, set[int]]:
    """Shows the pictures of one example in lines of equal length.

    Args:
      entry: the example.
      only: panels to show; () is all.
      without: panels to leave out.

    Returns:
      The markup, and the colours of the pictures with few colours, without the image itself.
    """
    _, folder, info = entry
    figures = []
    colours = set()
    for panel in info['panels']:
        if panel in without or (only and panel not in only):
            continue
        path = folder / f'{panel}.png'
        # Pictures may be deleted to save space. The remaining pictures are shown.
        if not path.exists():
            continue
        uri, colours_of_panel = html.inline_picture(path)
        if panel != 'image':
            colours |= colours_of_panel
        alt = escape(f'{panel} of {info["name"]}')
        figures.append(
            f'<figure><img src="{uri}" alt="{alt}">'
            f'<figcaption>{escape(label(panel))}</figcaption></figure>'
        )
    # Lines of equal length: as few lines as fit, filled evenly.
    count = len(figures)
    few = ' few' if count < 3 else ''
    num_lines = max(1, math.ceil(count / PANELS_A_LINE))
    columns = math.ceil(count / num_lines)
    style = f'style="--columns: {columns}"'
    return f'<div class="panels{few}" {style}>{"".join(figures)}</div>', colours
