"""Parts of an HTML page: escaped text, tables, pictures as data, and the style sheet of report.html."""

import base64
import html
import pathlib
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

PICTURE_WIDTH = 640  # pixels; larger pictures are shrunk for the page, the files stay as they are


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def label(name: str) -> str:
    return name.replace('_', ' ')


def page(title: str, body: Iterable[str], style: str = '') -> str:
    """A page that needs no server, no network and no script; empty parts of the body are left out."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title>\n<style>{STYLE}{style}</style></head>\n<body><main>\n'
        + '\n'.join(part for part in body if part)
        + '\n</main></body></html>\n'
    )


def card(title: str, content: str) -> str:
    return f'<h3>{escape(title)}</h3><div class="card scroll">{content}</div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], css: str = '') -> str:
    """Cells are HTML; the first column is the row's head, the others are numbers."""
    head = ''.join(
        f'<th class="{"num" if i else ""}">{escape(h)}</th>' for i, h in enumerate(heads)
    )
    lines = []
    for first, *cells in rows:
        lines.append(
            f'<tr><th scope="row">{first}</th>'
            + ''.join(f'<td class="num">{c}</td>' for c in cells)
            + '</tr>'
        )
    head = f'<thead><tr>{head}</tr></thead>' if any(heads) else ''
    return f'<table class="{css}">{head}<tbody>{"".join(lines)}</tbody></table>'


def swatch(colour: Sequence[int]) -> str:
    return '<i class="swatch" style="background:rgb({},{},{})"></i>'.format(*map(int, colour))


def inline_picture(path: pathlib.Path) -> tuple[str, set[int]]:
    """A picture as data URI, and its colours (r << 16 | g << 8 | b) if they are few, as in a label map."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    height, width = picture.shape[:2]
    scale = min(1.0, PICTURE_WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)
    colours = np.unique(
        small[..., ::-1].astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    )
    if len(colours) <= 256:
        kind, (_, data) = 'png', cv2.imencode('.png', small, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    else:
        photo = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        kind, (_, data) = 'jpeg', cv2.imencode('.jpg', photo, [cv2.IMWRITE_JPEG_QUALITY, 88])
    uri = f'data:image/{kind};base64,' + base64.b64encode(data.tobytes()).decode()
    return uri, set(colours.tolist()) if kind == 'png' else set()


STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5b6675; --rule: #e2e6ec; --rail: #e6eaf0;
  --accent: #2864c7; --train: #2864c7; --eval: #c9540c; --s2: #12806a; --s3: #8a4fb5; --on-accent: #ffffff;
  --warn: #fff3d6; }
@media (prefers-color-scheme: dark) { :root {
  --page: #11151b; --card: #191f28; --ink: #e5eaf1; --soft: #9aa6b6; --rule: #2b3440; --rail: #2a323e;
  --accent: #74a7f7; --train: #74a7f7; --eval: #f29a52; --s2: #4fc3a7; --s3: #c79bea; --on-accent: #0c1523;
  --warn: #3b3114; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 24px 72px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 21px; margin: 52px 0 4px; padding-top: 20px; border-top: 1px solid var(--rule); }
h3 { font-size: 16px; margin: 32px 0 10px; }
p { margin: 6px 0 12px; max-width: 78ch; } .soft, small, .lead { color: var(--soft); }
a { color: var(--accent); }
code, pre { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
nav { margin: 14px 0 0; display: flex; flex-wrap: wrap; gap: 6px 18px; }
.badges { display: flex; flex-wrap: wrap; gap: 6px; margin: 10px 0 0; padding: 0; list-style: none; }
.badges li { border: 1px solid var(--rule); background: var(--card); border-radius: 99px; padding: 1px 11px;
  font-size: 13px; }
.card, .chart, details { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px;
margin: 16px 0; }
.whole { white-space: nowrap; }
.card { padding: 14px 18px; } .card .name { color: var(--soft); font-size: 13px; }
.card .value { font-size: 30px; font-weight: 650; letter-spacing: -.02em; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.card .value span { font-size: 17px; font-weight: 500; color: var(--soft); margin-left: 3px; }
.meter { display: block; width: 100%; height: 8px; margin: 6px 0 8px; } .rail { fill: var(--rail); }
.fill { fill: var(--accent); }
.tick { stroke: var(--ink); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.charts { margin: 14px 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr));
  gap: 14px; }
.chart { margin: 0; padding: 12px 12px 6px; } .chart svg { display: block; width: 100%; height: auto; }
figcaption b { font-weight: 600; }
.chart figcaption { display: flex; flex-wrap: wrap; gap: 0 12px; padding: 0 4px 4px;
  font-size: 13.5px; align-items: baseline; overflow-wrap: anywhere; }
.keys { margin-left: auto; display: flex; gap: 12px; color: var(--soft); font-size: 12px; }
.key { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 5px;
vertical-align: 3px; }
svg text { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.mid { text-anchor: middle; } .end { text-anchor: end; } .grid { stroke: var(--rule); fill: none; }
.axis { stroke: var(--soft); stroke-opacity: .55; fill: none; }
.level { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.faint { stroke-opacity: .28; stroke-width: 1.2; }
.line.train { stroke: var(--train); } .key.train { background: var(--train); }
.mark.train { fill: var(--train); }
.line.eval { stroke: var(--eval); } .key.eval { background: var(--eval); } .mark.eval { fill: var(--eval); }
.line.s2 { stroke: var(--s2); } .key.s2 { background: var(--s2); } .mark.s2 { fill: var(--s2); }
.line.s3 { stroke: var(--s3); } .key.s3 { background: var(--s3); } .mark.s3 { fill: var(--s3); }
.mark.ghost { fill-opacity: 0; } .mark:hover { fill-opacity: 1; stroke: var(--ink); }
.scroll { overflow-x: auto; } .tall { max-height: 720px; overflow-y: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 12.5px; }
th, td { padding: 4px 18px 4px 0; border-bottom: 1px solid var(--rule); }
td.num, th.num { text-align: right; }
td.num { white-space: nowrap; }
tbody th { color: var(--ink); font-size: 14px; font-weight: 500; white-space: nowrap; }
.card table { min-width: min(100%, 560px); } .bars, .halves table { width: 100%; }
.card tr:last-child > * { border-bottom: 0; }
.bars td.bar { width: 46%; min-width: 140px; } .bars .meter { height: 12px; margin: 0; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 8px;
  border: 1px solid color-mix(in srgb, var(--ink) 25%, transparent); vertical-align: -1px; }
.legend { display: flex; flex-wrap: wrap; gap: 3px 18px; font-size: 13px; margin: 8px 0 4px; padding: 0;
  list-style: none; }
.matrix rect { fill: var(--accent); } .matrix .ground { fill: var(--rail); fill-opacity: .45; }
.matrix .low { fill: var(--ink); }
.matrix .middle { fill: #0c1523; } .matrix .high { fill: var(--on-accent); }
.matrix g:hover rect { stroke: var(--ink); stroke-width: 1.5; }
.halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 0 18px;
  align-items: start; }
.split { align-items: start; display: grid; grid-template-columns: minmax(0, 1fr); gap: 18px; }
@media (min-width: 1000px) { .split { grid-template-columns: minmax(0, 2.6fr) minmax(0, 1fr); } }
.picture { margin: 12px 0 20px; } .picture h4 { margin: 0 0 6px; font-size: 14px; font-weight: 600; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(240px, 100%), 1fr)); gap: 10px; }
.panels figure { margin: 0; } .panels img { display: block; width: 100%; height: auto; border-radius: 6px;
  background: var(--rail); } .panels figcaption { color: var(--soft); font-size: 12.5px; }
.panels.few { max-width: 66.6%; }
@media (min-width: 1000px) { .panels { grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); } }
details { padding: 10px 16px; margin: 14px 0; } summary { cursor: pointer; font-weight: 600; }
details .charts { margin-top: 12px; }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.note { background: var(--warn); border-radius: 8px; padding: 8px 14px; }
@media print { body { background: none; } .card, .chart { break-inside: avoid; } }
"""
