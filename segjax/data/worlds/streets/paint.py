"""The materials of a street: linear RGB from surface coordinates.

A painter gets samples of a material as `p`, a `_Patch` of shading.py, and returns colours [n, 3].
"""

import numpy as np

from segjax.data.worlds import shapes
from segjax.data.worlds.streets.scene import LANE, ROAD, SIDEWALK, TERRAIN
from segjax.data.worlds.textures import band, cell_hash, mix, periodic

_WHITE = np.array([0.6, 0.6, 0.58], np.float32)
_STEEL = np.array([0.25, 0.25, 0.26], np.float32)


# --- the ground -----------------------------------------------------------------------------------


def ground_labels(street, x, y):
    """Returns train ids of points on the ground, their lateral offset, and their distance outwards.

    The distance counts from the kerb.
    """
    lateral = x - street.centre(y)
    right = lateral > 0
    out = np.abs(lateral) - np.float32(street.half)
    walk = np.where(right, *np.float32(street.walk[::-1]))
    verge = np.where(right, *np.float32(street.verge[::-1]))
    paved = (out < walk) | (verge == 0) & (out < walk + 3)
    labels = np.where(out < 0, ROAD, np.where(paved, SIDEWALK, TERRAIN)).astype(np.uint8)
    for start, end in street.crossings:
        labels[(y > start) & (y < end)] = ROAD
    return labels, lateral, out


def ground(scene, x, y, footprint, noise, stain):
    """Returns colours [n, 3] and labels [n] of points on the ground.

    Paints asphalt and its markings, kerb, paving stones and grass.

    Args:
      scene: of the clip.
      x, y: [n] world coordinates.
      footprint: [n] metres per sample.
      noise: [n] fine noise.
      stain: [n] coarse noise.
    """
    street = scene.street
    labels, lateral, out = ground_labels(street, x, y)

    # Base colours with noise.
    paving = scene.paving.astype(np.float32)
    index = np.select([labels == ROAD, labels == SIDEWALK], [0, 1], 2)
    is_road = index == 0
    is_walk = index == 1
    colour = paving[index]
    share = np.float32([0.12, 0.12, 0.4])[index]
    colour = colour * np.maximum(0.25, 1 + share * noise + 0.5 * share * stain)[:, None]

    # Joints of the paving stones, and the kerb.
    joints = np.maximum(
        band(periodic(lateral, scene.tiles), 0.012, footprint),
        band(periodic(y, scene.tiles), 0.012, footprint * 3),
    )
    colour = mix(colour, colour * 0.5, joints * is_walk)
    colour = mix(colour, paving[3], band(out - 0.06, 0.08, footprint) * is_walk)

    # Markings, which wear, and rails.
    lines = _markings(street, y, lateral, out, footprint)
    worn = np.clip(0.75 + 0.2 * stain, 0.2, 1) * is_road
    colour = mix(colour, _WHITE, np.minimum(lines, 1) * worn)
    if street.rails:
        rails = band(np.abs(lateral + LANE / 2) - 0.72, 0.05, footprint)
        colour = mix(colour, _STEEL, rails * is_road)
    return colour, labels


def _markings(street, y, lateral, out, footprint):
    """Returns the coverage of points on the ground by white markings, [n].

    Args:
      street: of the scene.
      y: [n] world coordinate.
      lateral: [n] offset from the centre line.
      out: [n] distance outwards from the kerb.
      footprint: [n] metres per sample.
    """
    # Lines along the lanes. A wide street has a continuous centre line.
    dash = np.abs(periodic(y, 6.0)) < 1.5
    lines = band(lateral, 0.07, footprint) * dash
    if street.half > 2 * LANE:
        lanes = band(np.abs(lateral) - LANE, 0.07, footprint) * dash
        lines = band(lateral, 0.07, footprint) + lanes
    else:
        short_dash = np.abs(periodic(y, 2.0)) < 0.5
        parking = 0.8 * band(np.abs(lateral) - (LANE + 0.05), 0.05, footprint)
        lines = lines + parking * short_dash

    # The lines end before side streets.
    open_road = np.ones(np.shape(y), bool)
    for start, end in street.crossings:
        open_road &= (y < start - 5) | (y > end + 1)
    lines = lines * open_road

    # Crosswalks and stop lines before side streets.
    for start, _ in street.crossings:
        stripes = band(periodic(lateral, 1.0), 0.25, footprint) * (np.abs(y - start + 2.2) < 1.3)
        stop = (np.abs(y - start + 4.6) < 0.2) & (lateral > 0)
        lines = lines + (stripes + stop) * (out < 0)
    return lines


# --- materials ------------------------------------------------------------------------------------


def facade(p):
    """Paints rows of windows, each a little different, and none below half a metre."""
    across = p.s / p.cell[:, 0]
    up = p.t / p.cell[:, 1]
    i = np.floor(across)
    j = np.floor(up)
    wide = band(across - i - 0.5, 0.27, p.footprint / p.cell[:, 0])
    high = band(up - j - 0.52, 0.28, p.footprint / p.cell[:, 1])
    chance = cell_hash(i, j)
    pane = p.accent * (0.3 + 1.4 * chance)[:, None] + p.sky * (0.1 + 0.25 * (chance > 0.8))[:, None]
    sill = band(up - j - 0.21, 0.025, p.footprint / p.cell[:, 1]) * wide
    colour = mix(p.colour, p.colour * 1.35, sill)
    return mix(colour, pane, wide * high)


def brick(p):
    """Paints bricks of different brightness. Every second row is shifted by half a brick."""
    row = np.floor(p.t / p.cell[:, 1])
    across = p.s / p.cell[:, 0] + 0.5 * (row % 2)
    i = np.floor(across)
    joint = np.maximum(
        band(periodic(p.t, p.cell[:, 1]), 0.012, p.footprint),
        band(periodic(across, 1.0) * p.cell[:, 0], 0.012, p.footprint),
    )
    return mix(p.colour * (0.8 + 0.4 * cell_hash(i, row))[:, None], p.accent, joint)


def bars(p):
    """Paints pickets and two rails, and between them the plants behind the fence."""
    pickets = band(periodic(p.s, p.cell[:, 0]), 0.22 * p.cell[:, 0], p.footprint)
    upper_rail = band(p.t - 0.9 * p.cell[:, 1], 0.05, p.footprint)
    lower_rail = band(p.t - 0.15, 0.05, p.footprint)
    share = np.maximum(pickets, np.maximum(upper_rail, lower_rail))
    behind = p.accent * np.maximum(0.2, 0.5 + 0.35 * p.noise)[:, None]
    return mix(behind, p.colour, share)


def foliage(p):
    """Paints bright leaves and dark gaps."""
    share = np.clip(0.45 - 0.55 * p.noise - 0.25 * p.stain, 0, 1)
    return mix(p.colour * 1.25, p.accent, share)


def glass(p):
    """Paints dark panes that mirror the sky towards their top.

    Every 1.1 m they have a frame of the accent colour.
    """
    pane = p.colour + p.sky * np.clip(0.06 + 0.25 * p.t, 0, 0.35)[:, None]
    return mix(pane, p.accent, band(periodic(p.s - 0.02, 1.1), 0.05, p.footprint))


def coach(p):
    """Paints bus and tram sides: a band of windows between pillars, a coloured stripe below."""
    up = p.t / p.cell[:, 1]
    fine = p.footprint / p.cell[:, 1]
    pillars = band(periodic(p.s, p.cell[:, 0]), 0.06, p.footprint)
    pane = np.float32([0.03, 0.035, 0.04]) + p.sky * np.clip(0.5 * (up - 0.4), 0, 0.3)[:, None]
    colour = mix(p.colour, p.accent, band(up - 0.2, 0.1, fine))
    return mix(colour, pane, band(up - 0.62, 0.2, fine) * (1 - pillars))


def round_sign(p):
    """Paints a disc with a ring and a symbol."""
    x = p.s / p.cell[:, 0] - 0.5
    y = p.t / p.cell[:, 1] - 0.5
    colour = mix(p.colour, p.accent, (np.hypot(x, y) > 0.37).astype(np.float32))
    symbol = (np.abs(x) < 0.1) & (np.abs(y) < 0.2)
    return mix(colour, p.accent * 0.3, symbol.astype(np.float32))


def board_sign(p):
    """Paints a board with a border."""
    x = np.abs(p.s / p.cell[:, 0] - 0.5)
    y = np.abs(p.t / p.cell[:, 1] - 0.5)
    return mix(p.colour, p.accent, (np.maximum(x, y) > 0.38).astype(np.float32))


def lamps(p):
    """Paints three lamps. The lamp accent[0] in {0, 0.5, 1} (bottom to top) is on."""
    up = 3 * p.t / p.cell[:, 1]
    j = np.clip(np.floor(up), 0, 2)
    inside = np.hypot(p.s / p.cell[:, 0] - 0.5, up - j - 0.5) < 0.4
    on = j == np.rint(2 * p.accent[:, 0])
    hue = np.float32([[0.02, 0.8, 0.35], [1.0, 0.55, 0.02], [1.0, 0.06, 0.03]])[j.astype(np.intp)]
    return mix(p.colour, hue * np.where(on, 1.6, 0.08)[:, None], inside.astype(np.float32))


def wheel(p):
    """Paints a tyre and a rim with five spokes."""
    x = p.s / p.cell[:, 0] - 1
    y = p.t / p.cell[:, 1] - 1
    radius = np.hypot(x, y)
    hub = (radius < 0.62) & ((radius < 0.2) | (np.sin(5 * np.arctan2(y, x)) > -0.3))
    return mix(p.colour, p.accent, hub.astype(np.float32))


def spokes(p):
    """Paints the wheel of a bicycle: tyre, hub, and spokes as an even colour."""
    radius = np.hypot(p.s / p.cell[:, 0] - 1, p.t / p.cell[:, 1] - 1)
    return mix(p.colour, p.accent, ((radius < 0.85) & (radius > 0.12)).astype(np.float32))


PAINT = {
    shapes.FACADE: facade,
    shapes.BRICK: brick,
    shapes.BARS: bars,
    shapes.FOLIAGE: foliage,
    shapes.GLASS: glass,
    shapes.COACH: coach,
    shapes.ROUND_SIGN: round_sign,
    shapes.SIGN: board_sign,
    shapes.LAMPS: lamps,
    shapes.WHEEL: wheel,
    shapes.SPOKES: spokes,
}
"""For each material its painter. PLAIN has none, and `ground` paints GROUND."""
