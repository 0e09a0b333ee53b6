"""The materials of a room: linear RGB from surface coordinates.

A painter gets samples of a material as `p`, a `Patch`, and returns colours [n, 3].
"""

from typing import NamedTuple

import numpy as np

from segjax.data.worlds.rooms import looks
from segjax.data.worlds.textures import band, cell_hash, mix, periodic


class Patch(NamedTuple):
    """Samples of a single material.

    s, t       [n] metres along the surface
    footprint  [n] metres per sample
    noise      [n] fine noise, standard deviation 1
    stain      [n] coarse noise
    colour     [n, 3]
    accent     [n, 3]
    cell       [n, 2] metres, period or size of the pattern
    shift      [n, 2] random numbers of the surface
    """

    s: np.ndarray
    t: np.ndarray
    footprint: np.ndarray
    noise: np.ndarray
    stain: np.ndarray
    colour: np.ndarray
    accent: np.ndarray
    cell: np.ndarray
    shift: np.ndarray


def _fade(p, period):
    """Returns the contrast of a pattern that samples resolve, in [0, 1], [n]."""
    return np.clip(period / (3 * p.footprint) - 0.5, 0, 1)


def wood(p):
    """Paints grain along s."""
    period = np.float32(0.035)
    rings = np.sin(2 * np.pi / period * p.t + 2.5 * p.stain + 0.6 * p.noise)
    return mix(p.colour, p.accent, 0.5 * (rings + 1) * (0.25 + 0.75 * _fade(p, period)) * 0.7)


def cloth(p):
    """Paints threads that are a little brighter and darker."""
    return p.colour * np.maximum(0.3, 1 + 0.13 * p.noise + 0.06 * p.stain)[:, None]


def stripes(p):
    """Paints stripes along t."""
    return mix(p.colour, p.accent, _stripe(p.s, p.cell[:, 0], p.footprint))


def _stripe(x, period, footprint):
    """Returns the coverage by stripes that are half as wide as their period, [n]."""
    sharp = band(periodic(x, period), period / 4, footprint)
    fine = np.clip(period / (2 * footprint) - 1, 0, 1)
    return 0.5 + (sharp - 0.5) * fine


def checks(p):
    """Paints crossing stripes."""
    across = _stripe(p.s, p.cell[:, 0], p.footprint)
    down = _stripe(p.t, p.cell[:, 1], p.footprint)
    return mix(p.colour, p.accent, 0.5 * (across + down))


def dots(p):
    """Paints discs in rows."""
    radius = np.hypot(periodic(p.s, p.cell[:, 0]), periodic(p.t, p.cell[:, 1]))
    inside = np.clip((0.28 * p.cell[:, 0] - radius) / p.footprint + 0.5, 0, 1)
    fine = _fade(p, p.cell[:, 0])
    return mix(p.colour, p.accent, inside * fine + 0.25 * (1 - fine))


def tiles(p):
    """Paints tiles of slightly different brightness, and their joints."""
    i = np.rint(p.s / p.cell[:, 0])
    j = np.rint(p.t / p.cell[:, 1])
    half = p.cell[:, 0] / 2
    joint = np.maximum(
        band(np.abs(periodic(p.s, p.cell[:, 0])) - half, 0.006, p.footprint),
        band(np.abs(periodic(p.t, p.cell[:, 1])) - half, 0.006, p.footprint),
    )
    tone = 0.93 + 0.14 * cell_hash(i, j + p.shift[:, 0])
    return mix(p.colour * tone[:, None], p.accent, joint)


def planks(p):
    """Paints boards along s, each with its own tone and grain."""
    row = np.floor(p.t / p.cell[:, 1])
    column = np.floor(p.s / 1.1 + cell_hash(row, 7.0))
    tone = 0.75 + 0.5 * cell_hash(row, column)
    grain = 1 + 0.07 * np.sin(150 * p.t + 2 * p.stain) * _fade(p, 0.04)
    joint = band(p.t - row * p.cell[:, 1], 0.004, p.footprint)
    return mix(p.colour * (tone * grain)[:, None], p.accent * 0.6, joint)


def front(p):
    """Paints the joints between doors or drawers, and a knob on each."""
    x = p.s / p.cell[:, 0]
    y = p.t / p.cell[:, 1]
    u = (x - np.floor(x)) * p.cell[:, 0]
    v = (y - np.floor(y)) * p.cell[:, 1]
    edge = np.minimum(np.minimum(u, p.cell[:, 0] - u), np.minimum(v, p.cell[:, 1] - v))
    joint = band(edge, 0.009, p.footprint)
    inset = 0.4 * band(edge - 0.05, 0.007, p.footprint)

    # Doors have their knob at the side, drawers in the middle.
    is_door = p.cell[:, 1] > 1.2 * p.cell[:, 0]
    knob_u = np.where(is_door, 0.88 * p.cell[:, 0], 0.5 * p.cell[:, 0])
    knob_v = np.where(is_door, 0.5 * p.cell[:, 1], 0.7 * p.cell[:, 1])
    wide = np.where(is_door, 0.015, 0.06)
    high = np.where(is_door, 0.06, 0.015)
    knob = band(u - knob_u, wide, p.footprint) * band(v - knob_v, high, p.footprint)
    return mix(p.colour, p.accent, np.clip(joint + inset + knob, 0, 1))


def _scene(p, x, y):
    """Returns the colours [n, 3] of a picture: soft shapes that depend on the surface."""
    colour = np.empty((len(x), 3), np.float32)
    for k in range(3):
        first = 3 + 5 * cell_hash(p.shift[:, 0], k)
        second = 3 + 5 * cell_hash(p.shift[:, 1], k + 3.0)
        phase = 6 * cell_hash(p.shift[:, 0], p.shift[:, 1] + k)
        wave = np.sin(first * x + second * y + phase) * np.sin(second * x - first * y + 2 * phase)
        colour[:, k] = 0.32 + 0.28 * wave
    grey = colour.mean(axis=1, keepdims=True)
    return grey + np.float32(0.55) * (colour - grey)


def _margin(p):
    """Returns the distance of samples from the border of a panel, in metres, [n]."""
    across = np.minimum(p.s, p.cell[:, 0] - p.s)
    return np.minimum(across, np.minimum(p.t, p.cell[:, 1] - p.t))


def painting(p):
    """Paints a picture with a pale border."""
    x = p.s / p.cell[:, 0]
    y = p.t / p.cell[:, 1]
    bands = 0.25 + 0.25 * np.sin(8 * y + p.shift[:, 0])
    colour = 0.6 * _scene(p, x, y) + p.colour * bands[:, None]
    horizon = 0.2 + 0.3 * cell_hash(p.shift[:, 0], 1.0) + 0.05 * np.sin(9 * x)
    colour = mix(colour, p.accent * 0.7, 0.8 * (y < horizon))
    return mix(colour, np.float32([0.7, 0.68, 0.62]), 0.8 * (_margin(p) < 0.03))


def screen(p):
    """Paints a dark screen, or a programme if accent[0] is 1."""
    x = p.s / p.cell[:, 0]
    y = p.t / p.cell[:, 1]
    dark = np.float32(0.015) + 0.035 * np.clip(x + y - 0.9, 0, 1)[:, None] * np.ones(3, np.float32)
    return mix(dark, 1.4 * _scene(p, 1.6 * x, 1.6 * y), p.accent[:, 0])


def outdoors(p):
    """Paints the view through a window: sky, trees, and bars between the panes."""
    x = p.s / p.cell[:, 0]
    y = p.t / p.cell[:, 1]
    sky = np.float32([0.85, 0.95, 1.1]) * (0.8 + 0.5 * y)[:, None]
    line = 0.35 + 0.25 * cell_hash(p.shift[:, 0], 2.0) + 0.06 * p.stain
    green = np.float32([0.16, 0.24, 0.1]) * np.maximum(0.3, 1 + 0.4 * p.noise)[:, None]
    house = p.accent * 0.6
    low = mix(green, house, (np.sin(4 * x + p.shift[:, 0]) > 0.3).astype(np.float32))
    view = mix(sky, low, (y < line).astype(np.float32))
    upright = band(x - 0.5, 0.03 / p.cell[:, 0], p.footprint / p.cell[:, 0])
    rim = _margin(p)
    bars = np.clip(upright + (rim < 0.05), 0, 1)
    return mix(view, p.colour * 0.8, bars)


def slats(p):
    """Paints the slats of blinds, bright above and dark below."""
    y = p.t / p.cell[:, 1]
    part = y - np.floor(y)
    fine = _fade(p, p.cell[:, 1])
    return p.colour * (0.8 + (0.45 * part - 0.25) * fine)[:, None]


def folds(p):
    """Paints the upright folds of a curtain."""
    wave = np.sin(2 * np.pi * p.s / p.cell[:, 0] + 0.4 * p.stain)
    tone = 0.72 + 0.3 * wave * _fade(p, p.cell[:, 0])
    hem = 0.5 * band(p.t - 0.12, 0.02, p.footprint)
    return mix(p.colour * tone[:, None], p.accent, hem)


def page(p):
    """Paints lines of text, and a block in place of a picture on large sheets."""
    rows = _stripe(p.t, np.float32(0.022), p.footprint)
    words = (p.noise > -0.6).astype(np.float32)
    rim = _margin(p)
    text = rows * words * (rim > 0.025) * 0.6
    block = (p.t > 0.45 * p.cell[:, 1]) & (rim > 0.04) & (p.cell[:, 0] > 0.25)
    return mix(p.colour, p.accent, np.where(block, np.float32(0.9), text))


def board(p):
    """Paints writing in a few lines."""
    y = p.t / p.cell[:, 1]
    line = band(periodic(p.t + 0.03 * p.noise, np.float32(0.16)), 0.012, p.footprint)
    written = (p.stain > 0.1) & (y > 0.15) & (y < 0.9)
    return mix(p.colour, p.accent * 0.4, line * written)


def glass(p):
    """Paints the dim and smooth image in a mirror."""
    x = p.s / p.cell[:, 0]
    y = p.t / p.cell[:, 1]
    image = 0.25 + 0.5 * _scene(p, 0.5 * x, 0.5 * y)
    shine = 0.25 * np.clip(1 - 6 * np.abs(x + 0.6 * y - 0.9), 0, 1)
    return image + shine[:, None]


def glow(p):
    """Paints a lamp shade that light passes through, brightest in its middle."""
    middle = 1 - 0.5 * np.abs(2 * p.t / p.cell[:, 1] - 1)
    return p.colour * 1.6 * np.clip(middle, 0.5, 1)[:, None]


PAINT = {
    looks.WOOD: wood,
    looks.CLOTH: cloth,
    looks.STRIPES: stripes,
    looks.CHECKS: checks,
    looks.DOTS: dots,
    looks.TILES: tiles,
    looks.PLANKS: planks,
    looks.FRONT: front,
    looks.PAINTING: painting,
    looks.SCREEN: screen,
    looks.OUTDOORS: outdoors,
    looks.SLATS: slats,
    looks.FOLDS: folds,
    looks.PAGE: page,
    looks.BOARD: board,
    looks.GLASS: glass,
    looks.GLOW: glow,
}
"""For each material its painter. PLAIN has none."""

SHINING = (looks.SCREEN, looks.OUTDOORS, looks.GLASS, looks.GLOW)
"""Materials that send light of their own."""
