"""Pictures of examples: files in the run folder, and sections of its report."""

import math
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.core import files
from segjax.report import html
from segjax.report.html import escape, label
from segjax.report.run_files import RunFiles, StageFiles
from segjax.report.scores import format_score
from segjax.spec import DataSpec

PANELS_A_LINE = 5
"""Largest number of pictures in a line of a wide page. The lines of an example are equally long."""
SAME = 'same'
"""The group of pictures whose examples are the same in all stages."""
GROUPS = {'best': 'Best images', 'worst': 'Worst images', 'sample': 'Images'}
GAP = 2
"""White pixels between the pictures of a strip or a grid."""
TILE_WIDTH = 200
"""Pixels of a picture of a strip on the page. A page narrower than the strip scrolls."""

Entry = tuple[str, pathlib.Path, dict[str, Any]]
"""(group, folder, content of info.json) of an example."""


# --- files ----------------------------------------------------------------------------------------


class Panel(NamedTuple):
    """A picture of an example, with numbers for its caption.

    pixels  uint8 [H, W, C], a strip [n, H, W, C], or a grid [rows, columns, H, W, C]; C is 1 or 3
    values  numbers or classes by name, or n of them for the pictures of a strip, or for the
            columns of a grid
    legend  RGB colours by their meaning
    """

    pixels: np.ndarray
    values: Mapping[str, Any] = {}
    legend: Mapping[str, Sequence[int]] = {}

    @property
    def columns(self) -> int:
        """Returns the number of pictures in a line, 0 for a single picture."""
        return self.pixels.shape[-4] if self.pixels.ndim > 3 else 0


def mosaic(pixels: np.ndarray) -> np.ndarray:
    """Puts the pictures of a strip [n, H, W, C] or a grid [rows, columns, H, W, C] into a picture.

    A white gap of GAP pixels separates neighbours. Any other array is returned as it is.
    """
    if pixels.ndim <= 3:
        return pixels
    grid = pixels if pixels.ndim == 5 else pixels[None]
    rows, columns, height, width, channels = grid.shape
    step_y = height + GAP
    step_x = width + GAP
    picture = np.full((rows * step_y - GAP, columns * step_x - GAP, channels), 255, np.uint8)
    for row, column in np.ndindex(rows, columns):
        y = row * step_y
        x = column * step_x
        picture[y : y + height, x : x + width] = grid[row, column]
    return picture


def save_pictures(
    folder: pathlib.Path, group: str, entries: Sequence[Mapping[str, Any]]
) -> list[dict[str, np.ndarray]]:
    """Writes the pictures of one group, and removes the pictures that it had.

    Layout: <folder>/<group>_<rank>/<panel>.png, lossless, and <folder>/<group>_<rank>/info.json
    with 'index', 'score', 'name' and 'panels'. If there are any, it also has 'captions' (numbers
    by panel), 'columns' (pictures in a line, by panel, of strips and grids) and 'legend' (colours
    by meaning, of all panels).

    Args:
      folder: <workdir>/<stage>/pictures.
      group: 'best', 'worst', 'sample' or 'same'. Other names are their own headings.
      entries: in the order of the page. Each is a mapping with 'index' (position in the split),
        'score' (float, NaN for none), 'name' (of the example) and 'pictures', {panel: uint8
        [H, W, 3] RGB or [H, W] or [H, W, 1], or a Panel}, in order.

    Returns:
      For each entry, its pictures by panel, as they were written.

    Raises:
      TypeError: a picture of another dtype or shape.
    """
    folder = pathlib.Path(folder)
    # A new folder first, so that an error leaves the old pictures.
    fresh = folder / f'.{group}.new'
    shutil.rmtree(fresh, ignore_errors=True)
    written = []
    for rank, entry in enumerate(entries):
        place = fresh / f'{group}_{rank:02d}'
        place.mkdir(parents=True)
        panels = {name: _as_panel(picture) for name, picture in entry['pictures'].items()}
        pictures = {name: mosaic(panel.pixels) for name, panel in panels.items()}
        for name, picture in pictures.items():
            (place / f'{name}.png').write_bytes(files.encode_png(picture))
        files.write_json(place / 'info.json', _info(entry, panels))
        written.append(pictures)
    for old in folder.glob(f'{group}_*'):
        shutil.rmtree(old)
    for place in sorted(fresh.glob('*')):
        place.rename(folder / place.name)
    shutil.rmtree(fresh, ignore_errors=True)
    return written


def _as_panel(picture: Any) -> Panel:
    return picture if isinstance(picture, Panel) else Panel(np.asarray(picture))


def _info(entry: Mapping[str, Any], panels: Mapping[str, Panel]) -> dict[str, Any]:
    """Returns the content of info.json."""
    info = {key: entry[key] for key in ('index', 'score', 'name')}
    info['panels'] = list(panels)
    captions = {name: panel.values for name, panel in panels.items() if panel.values}
    columns = {name: panel.columns for name, panel in panels.items() if panel.columns}
    legend: dict[str, list[int]] = {}
    for panel in panels.values():
        legend |= {meaning: list(colour) for meaning, colour in panel.legend.items()}
    if captions:
        info['captions'] = captions
    if columns:
        info['columns'] = columns
    if legend:
        info['legend'] = legend
    return info


# --- sections -------------------------------------------------------------------------------------


def palette(spec: DataSpec | None) -> dict[str, Sequence[int]]:
    """Returns the RGB colours of the classes by name; {} without a data set."""
    return {} if spec is None else dict(zip(spec.classes.names, spec.classes.palette))


def pictures_section(run: RunFiles, stage: StageFiles) -> str:
    """Shows the pictures of a stage by group, with a legend of their colours."""
    groups: dict[str, list[str]] = {}
    colours: set[int] = set()
    marks: dict[str, Sequence[int]] = {}
    for entry in stage.pictures:
        group, _, info = entry
        if group == SAME:  # shown side by side for all stages
            continue
        markup, colours_of_entry = panels(entry)
        colours |= colours_of_entry
        marks |= info.get('legend', {})
        caption = escape(info['name'])
        score = info.get('score')
        if score is not None:
            caption += f' <span class="soft">score {score:.3f}</span>'
        picture = f'<div class="picture"><h4>{caption}</h4>{markup}</div>'
        groups.setdefault(group, []).append(picture)

    # The legend follows the first heading.
    legend = legend_of(run.spec_of(stage), colours, marks)
    ordered = [*(g for g in GROUPS if g in groups), *(g for g in groups if g not in GROUPS)]
    section = ''
    for group in ordered:
        heading = escape(GROUPS.get(group, label(group)))
        section += f'<h3>{heading}</h3>{legend}{"".join(groups[group])}'
        legend = ''
    return section


def legend_of(
    spec: DataSpec | None, colours: set[int], marks: Mapping[str, Sequence[int]] = {}
) -> str:
    """Returns a legend of the classes whose colours occur, and of all marks.

    Args:
      spec: of the data set, whose classes have colours.
      colours: of the pictures, as r << 16 | g << 8 | b.
      marks: RGB of colours that belong to no class, by meaning.
    """
    shown = []
    for name, (red, green, blue) in palette(spec).items():
        if red << 16 | green << 8 | blue in colours:
            shown.append((name, (red, green, blue)))
    items = ''
    for name, colour in (*shown, *marks.items()):
        items += f'<li>{html.swatch(colour)}{escape(name)}</li>'
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
        figure, colours_of_panel = _figure(path, panel, info)
        if panel != 'image':
            colours |= colours_of_panel
        figures.append(figure)
    # Lines of equal length: as few lines as fit, filled evenly. A strip has a line of its own.
    strips = set(info.get('columns', {})) & set(info['panels'])
    count = max(1, len(figures) - len(strips))
    few = ' few' if count < 3 and not strips else ''
    num_lines = max(1, math.ceil(count / PANELS_A_LINE))
    columns = math.ceil(count / num_lines)
    if strips:
        # A single picture would be as wide as the page.
        columns = max(columns, 3)
    style = f'style="--columns: {columns}"'
    return f'<div class="panels{few}" {style}>{"".join(figures)}</div>', colours


def _figure(path: pathlib.Path, panel: str, info: Mapping[str, Any]) -> tuple[str, set[int]]:
    """Shows a picture with its caption. Returns the markup, and the colours of the picture."""
    columns = info.get('columns', {}).get(panel, 0)
    own, shared = _numbers(info.get('captions', {}).get(panel, {}), columns)
    width = max(html.PICTURE_WIDTH, TILE_WIDTH * columns)
    uri, colours = html.inline_picture(path, width)
    alt = escape(f'{panel} of {info["name"]}')
    caption = escape(label(panel))
    if shared:
        caption += f' <span class="number">{escape(", ".join(shared))}</span>'
    markup = f'<img src="{uri}" alt="{alt}">'
    if columns:
        cells = ''.join(f'<span>{escape(", ".join(texts))}</span>' for texts in own)
        numbers = f'<div class="numbers">{cells}</div>' if any(own) else ''
        style = f'style="--tiles: {columns}; --tile: {TILE_WIDTH}px"'
        markup = f'<div class="scroll"><div class="tiles" {style}>{markup}{numbers}</div></div>'
    css = ' class="strip"' if columns else ''
    return f'<figure{css}>{markup}<figcaption>{caption}</figcaption></figure>', colours


def _numbers(values: Mapping[str, Any], columns: int) -> tuple[list[list[str]], list[str]]:
    """Formats the numbers of a caption.

    Args:
      values: by name, a number or numbers.
      columns: pictures in a line of a strip or a grid, else 0.

    Returns:
      For each column its numbers, and the numbers of the whole panel, with their names.
    """
    own: list[list[str]] = [[] for _ in range(columns)]
    shared = []
    for name, value in values.items():
        if isinstance(value, list) and len(value) == columns:
            for texts, number in zip(own, value, strict=True):
                texts.append(f'{label(name)} {format_score(name, number)}')
        else:
            numbers = value if isinstance(value, list) else [value]
            shown = ', '.join(format_score(name, number) for number in numbers)
            shared.append(f'{label(name)} {shown}')
    return own, shared
