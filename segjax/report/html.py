"""Parts of an HTML page: escaped text, tables, pictures as data, and style sheets."""

import base64
import html
import importlib.resources
import pathlib
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

PICTURE_WIDTH = 640
"""Pixels. Wider pictures are reduced for the page, while their files remain unchanged."""


def style_sheet(name: str) -> str:
    """Reads a style sheet of this package: 'style.css', or 'table.css' for tables in addition."""
    resource = importlib.resources.files('segjax.report').joinpath(name)
    return '\n' + resource.read_text(encoding='utf-8')


STYLE = style_sheet('style.css')


def escape(text: object) -> str:
    """Escapes text for HTML and for attributes in quotes."""
    return html.escape(str(text), quote=True)


def label(name: str) -> str:
    """Returns the name of a score, stage or panel in words."""
    return name.replace('_', ' ')


def page(title: str, body: Iterable[str], style: str = '') -> str:
    """Builds a page that needs no server, no network and no script.

    Args:
      title: of the page.
      body: parts of the page. Empty parts are left out.
      style: CSS in addition to STYLE.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title>\n<style>{STYLE}{style}</style></head>\n<body><main>\n'
        + '\n'.join(part for part in body if part)
        + '\n</main></body></html>\n'
    )


def badges(facts: Iterable[str]) -> str:
    """Puts short facts into badges in a row."""
    items = ''.join(f'<li>{escape(fact)}</li>' for fact in facts)
    return f'<ul class="badges">{items}</ul>'


def card(title: str, content: str) -> str:
    """Puts content into a box with a heading."""
    return f'<h3>{escape(title)}</h3><div class="card scroll">{content}</div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], css: str = '') -> str:
    """Builds a table.

    Args:
      heads: text, or only empty strings for no heading.
      rows: cells in HTML. The first cell heads the row, the further cells are numbers.
      css: class of the table.
    """
    head = ''
    for i, text in enumerate(heads):
        head += f'<th class="{"num" if i else ""}">{escape(text)}</th>'
    lines = ''
    for first, *cells in rows:
        numbers = ''.join(f'<td class="num">{cell}</td>' for cell in cells)
        lines += f'<tr><th scope="row">{first}</th>{numbers}</tr>'
    head = f'<thead><tr>{head}</tr></thead>' if any(heads) else ''
    return f'<table class="{css}">{head}<tbody>{lines}</tbody></table>'


def swatch(colour: Sequence[int]) -> str:
    """Returns a small square of an RGB colour."""
    return '<i class="swatch" style="background:rgb({},{},{})"></i>'.format(*map(int, colour))


def inline_picture(path: pathlib.Path, largest_width: int = PICTURE_WIDTH) -> tuple[str, set[int]]:
    """Encodes a picture for the page.

    Args:
      path: of the picture.
      largest_width: pixels. Wider pictures are reduced.

    Returns:
      A data URI, and the set of the picture's colours (r << 16 | g << 8 | b). The set is empty if
      the picture has more than 256 colours, unlike a label map.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    height, width = picture.shape[:2]
    scale = min(1.0, largest_width / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))

    # Nearest neighbours keep the colours of a label map.
    small = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)
    rgb = small[..., ::-1].astype(np.int32)
    colours = np.unique(rgb @ np.array([1 << 16, 1 << 8, 1], np.int32))
    if len(colours) <= 256:
        _, data = cv2.imencode('.png', small, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        return _data_uri('png', data), set(colours.tolist())

    # Photographs are averaged, and are smaller as JPEG.
    photo = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', photo, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return _data_uri('jpeg', data), set()


def _data_uri(kind: str, data: np.ndarray) -> str:
    return f'data:image/{kind};base64,' + base64.b64encode(data.tobytes()).decode()
