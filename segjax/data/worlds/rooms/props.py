"""Small things: on furniture, on the floor and on walls.

Local frame: x right, y forward, z up. Things stand on z = 0 around the origin. Things on a wall
have their back at y = 0 and face +y. A function returns a single thing unless its name is a plural.
"""

import numpy as np

from segjax.data.worlds.rooms.looks import (
    BAG,
    BOARD,
    BOOKS,
    BOX,
    CLOTHES,
    GLASS,
    GLOW,
    LAMP,
    MIRROR,
    OTHER_PROP,
    PAGE,
    PAINTING,
    PAPER,
    PICTURE,
    PILLOW,
    SCREEN,
    TELEVISION,
    TOWEL,
    WHITEBOARD,
    Decor,
)
from segjax.data.worlds.shapes import Shape, ellipsoid, frustum, join, panel, place


def slab(x, y, z, look, cap=None, under=False) -> Shape:
    """Builds a box from the ranges of its coordinates.

    Args:
      x, y, z: (lowest, highest).
      look: SURFACE of its sides, or a sequence (front, right, back, left). Front is +y.
      cap: SURFACE of its lid, default: the first side's.
      under: whether it has a bottom.
    """
    rectangle = (*x, *y)
    shape = frustum(rectangle, rectangle, z, look, cap)
    if not under:
        return shape
    side = look if isinstance(look, np.ndarray) else look[0]
    edge_s = (0, y[1] - y[0], 0)
    edge_t = (x[1] - x[0], 0, 0)
    return join([shape, panel((x[0], y[0], z[0]), edge_s, edge_t, side, closed=True)])


def upright(x, y, z, look) -> Shape:
    """Builds a panel that faces +y, from the ranges of x and z."""
    return panel((x[1], y, z[0]), (x[0] - x[1], 0, 0), (0, 0, z[1] - z[0]), look, closed=True)


# --- on furniture ---------------------------------------------------------------------------------


def book_row(decor: Decor, length, height, depth) -> Shape:
    """Samples upright books, with their spines at +y, between x = 0 and x = length."""
    rng = decor.rng
    parts = []
    x = 0.0
    while x < length - 0.02:
        width = min(rng.uniform(0.025, 0.06), length - x)
        tall = height * rng.uniform(0.65, 0.97)
        deep = depth * rng.uniform(0.7, 0.95)
        look = decor.plain(BOOKS)
        parts.append(slab((x, x + width - 0.003), (-depth / 2, deep - depth / 2), (0, tall), look))
        x += width
    return join(parts)


def book_pile(decor: Decor) -> Shape:
    """Samples a stack of a few books."""
    rng = decor.rng
    parts = []
    z = 0.0
    for _ in range(rng.integers(1, 6)):
        x = rng.uniform(0.09, 0.13)
        y = rng.uniform(0.11, 0.15)
        thickness = rng.uniform(0.02, 0.05)
        pages = decor.plain(BOOKS, (0.6, 0.57, 0.5))
        cover = decor.plain(BOOKS)
        sides = (cover, pages, pages, pages)
        book = slab((-x, x), (-y, y), (0, thickness), sides, cap=cover)
        parts.append(place(book, 0, 0, rng.uniform(-0.4, 0.4), z))
        z += thickness
    return join(parts)


def papers(decor: Decor) -> Shape:
    """Samples a loose stack of paper."""
    rng = decor.rng
    parts = []
    for k in range(rng.integers(1, 5)):
        look = decor.sheet(PAPER, PAGE, (0.21, 0.3), np.full(3, 0.7), np.full(3, 0.15))
        sheet = panel((-0.105, -0.15, 0), (0.21, 0, 0), (0, 0.3, 0), look)
        shift = rng.uniform(-0.07, 0.07, 2)
        parts.append(place(sheet, *shift, rng.uniform(-0.6, 0.6), 0.004 + 0.003 * k))
    return join(parts)


def table_lamp(decor: Decor) -> Shape:
    """Samples a foot with a shade that glows or not."""
    rng = decor.rng
    height = rng.uniform(0.3, 0.55)
    foot = decor.hard(LAMP)
    base = ellipsoid((0, 0, height * 0.3), (0.07, 0.07, height * 0.3), foot)
    neck = slab((-0.012, 0.012), (-0.012, 0.012), (0, height * 0.7), foot)
    return join([base, neck, place(shade(decor, rng.uniform(0.1, 0.17)), 0, 0, 0, height * 0.6)])


def shade(decor: Decor, radius) -> Shape:
    """Samples the shade of a lamp: a bottom of half-width `radius` and a smaller top."""
    lit = decor.rng.random() < 0.5
    colour = decor.colour()
    look = decor.sheet(LAMP, GLOW, (0.3, 0.3), np.array([0.9, 0.8, 0.6])) if lit else None
    look = decor.plain(LAMP, colour) if look is None else look
    top = radius * decor.rng.uniform(0.45, 0.95)
    lower = (-radius, radius, -radius, radius)
    upper = (-top, top, -top, top)
    return frustum(lower, upper, (0, radius * decor.rng.uniform(1.1, 1.7)), look)


def box(decor: Decor) -> Shape:
    """Samples a carton, closed or open, with a strip on its lid."""
    rng = decor.rng
    x, y = rng.uniform(0.1, 0.26, 2)
    z = rng.uniform(0.12, 0.4)
    look = decor.hard(BOX)
    parts = [slab((-x, x), (-y, y), (0, z), look, cap=decor.plain(BOX, look['colour'] * 0.8))]
    strip = decor.plain(BOX)
    if rng.random() < 0.5:
        parts.append(panel((-x, -0.03, z + 0.004), (2 * x, 0, 0), (0, 0.06, 0), strip))
    else:
        flap = (-x, -y, z)
        parts.append(panel(flap, (2 * x, 0, 0), (0, -0.1, 0.1), look))
        parts.append(panel((-x, y, z), (2 * x, 0, 0), (0, 0.1, 0.1), look))
    return join(parts)


def trinket(decor: Decor) -> Shape:
    """Samples a further thing: a bottle, a bowl, a ball or a plant in a pot."""
    rng = decor.rng
    look = decor.hard(OTHER_PROP)
    kind = rng.integers(4)
    if kind == 0:
        radius = rng.uniform(0.03, 0.05)
        body = ellipsoid((0, 0, 0.11), (radius, radius, 0.12), look)
        return join([body, slab((-0.013, 0.013), (-0.013, 0.013), (0.18, 0.3), look)])
    if kind == 1:
        return frustum((-0.05, 0.05, -0.05, 0.05), (-0.13, 0.13, -0.13, 0.13), (0, 0.09), look)
    if kind == 2:
        radius = rng.uniform(0.06, 0.12)
        return ellipsoid((0, 0, radius), (radius, radius, radius), look)
    return plant(decor, rng.uniform(0.3, 0.5))


def plant(decor: Decor, height) -> Shape:
    """Samples a pot with leaves in all directions."""
    rng = decor.rng
    pot = decor.hard(OTHER_PROP)
    leaf = decor.plain(OTHER_PROP, np.array([0.07, 0.16, 0.05]) * rng.uniform(0.6, 1.8), 0.3)
    width = 0.16 * height
    parts = [
        frustum(
            (-width, width, -width, width), (-1.3 * width, 1.3 * width) * 2, (0, height * 0.3), pot
        )
    ]
    for k in range(8):
        angle = 2 * np.pi * k / 8 + rng.uniform(-0.3, 0.3)
        out = height * rng.uniform(0.08, 0.25)
        z = height * rng.uniform(0.45, 0.85)
        radii = (height * 0.045, height * 0.17, height * rng.uniform(0.05, 0.12))
        blade = place(ellipsoid((0, out, z), radii, leaf), 0, 0, angle)
        parts.append(blade)
    return join(parts)


def pillow(decor: Decor) -> Shape:
    """Samples a pillow that lies on z = 0."""
    rng = decor.rng
    radii = (rng.uniform(0.2, 0.33), rng.uniform(0.16, 0.22), rng.uniform(0.07, 0.11))
    return ellipsoid((0, 0, radii[2] * 0.8), radii, decor.soft(PILLOW))


def clothes(decor: Decor) -> Shape:
    """Samples a heap of clothes."""
    rng = decor.rng
    parts = []
    for _ in range(rng.integers(2, 5)):
        x, y = rng.uniform(-0.14, 0.14, 2)
        radii = (rng.uniform(0.1, 0.24), rng.uniform(0.1, 0.2), rng.uniform(0.05, 0.12))
        lump = ellipsoid((0, 0, radii[2] * 0.6), radii, decor.soft(CLOTHES))
        parts.append(place(lump, x, y, rng.uniform(0, 3)))
    return join(parts)


def bag(decor: Decor) -> Shape:
    """Samples a rucksack or a bag with handles."""
    rng = decor.rng
    look = decor.soft(BAG)
    strap = decor.plain(BAG, look['colour'] * 0.5)
    if rng.random() < 0.5:
        body = ellipsoid((0, 0, 0.24), (0.17, 0.12, 0.25), look)
        pocket = ellipsoid((0, 0.09, 0.15), (0.12, 0.08, 0.12), strap)
        return join([body, pocket])
    x = rng.uniform(0.15, 0.24)
    y = rng.uniform(0.07, 0.11)
    body = frustum((-x, x, -y, y), (-x * 0.85, x * 0.85, -y * 0.5, y * 0.5), (0, 0.3), look)
    handle = [slab((side - 0.012, side + 0.012), (-0.01, 0.01), (0.3, 0.45), strap)
              for side in (-0.08, 0.08)]  # fmt: skip
    bar = slab((-0.09, 0.09), (-0.01, 0.01), (0.44, 0.465), strap)
    return join([body, *handle, bar])


def television(decor: Decor, width) -> Shape:
    """Samples a flat screen on a foot. Its screen faces +y."""
    height = width * decor.rng.uniform(0.55, 0.65)
    dark = decor.plain(TELEVISION, np.full(3, decor.rng.uniform(0.015, 0.3)))
    return join([
        slab((-0.12, 0.12), (-0.09, 0.09), (0, 0.02), dark),
        slab((-0.03, 0.03), (-0.03, 0.0), (0, 0.1), dark),
        place(flat_screen(decor, width, height, dark), 0, -0.03, 0, 0.07),
    ])  # fmt: skip


def flat_screen(decor: Decor, width, height, look) -> Shape:
    """Samples a screen with a border, dark or on."""
    x = width / 2
    on = float(decor.rng.random() < 0.45)
    screen = decor.sheet(
        TELEVISION, SCREEN, (width - 0.05, height - 0.05), np.full(3, 0.02), np.full(3, on)
    )
    body = slab((-x, x), (0, 0.06), (0, height), look, under=True)
    return join([body, upright((-x + 0.025, x - 0.025), 0.064, (0.025, height - 0.025), screen)])


def wall_screen(decor: Decor, size) -> Shape:
    """Samples a television that hangs on a wall."""
    dark = decor.plain(TELEVISION, np.full(3, decor.rng.uniform(0.015, 0.3)))
    return flat_screen(decor, *size, dark)


def clutter(decor: Decor, x, y, z, number, kinds) -> list[Shape]:
    """Puts things onto a surface, so that few of them touch.

    Args:
      decor: of the room.
      x, y: ranges of the surface.
      z: height of the surface.
      number: of things.
      kinds: functions that sample a thing.
    """
    rng = decor.rng
    shapes = []
    places: list[np.ndarray] = []
    for _ in range(number):
        kind = kinds[rng.integers(len(kinds))]
        for _ in range(6):
            point = rng.uniform((x[0], y[0]), (x[1], y[1]))
            if all(np.hypot(*(point - earlier)) > 0.28 for earlier in places):
                places.append(point)
                shapes.append(place(kind(decor), *point, rng.uniform(-0.5, 0.5), z))
                break
    return shapes


# --- on walls -------------------------------------------------------------------------------------


def framed(decor: Decor, label, size, inner, frame=None, border=0.05) -> Shape:
    """Builds a frame with a sheet in it.

    Args:
      decor: of the room.
      label: train id.
      size: (width, height).
      inner: SURFACE of the sheet.
      frame: SURFACE of the frame, default: any.
      border: width of the frame.
    """
    x = size[0] / 2
    frame = decor.hard(label) if frame is None else frame
    body = slab((-x, x), (0, 0.035), (0, size[1]), frame, under=True)
    return join(
        [body, upright((-x + border, x - border), 0.038, (border, size[1] - border), inner)]
    )


def picture(decor: Decor, size) -> Shape:
    """Samples a painting."""
    inner = decor.sheet(PICTURE, PAINTING, (size[0] - 0.1, size[1] - 0.1))
    return framed(decor, PICTURE, size, inner)


def mirror(decor: Decor, size) -> Shape:
    """Samples a mirror, which shows faint shapes."""
    inner = decor.sheet(MIRROR, GLASS, (size[0] - 0.1, size[1] - 0.1))
    return framed(decor, MIRROR, size, inner)


def whiteboard(decor: Decor, size) -> Shape:
    """Samples a board with writing."""
    colour = np.full(3, decor.rng.uniform(0.45, 0.8)) if decor.rng.random() < 0.7 else None
    inner = decor.sheet(WHITEBOARD, BOARD, (size[0] - 0.06, size[1] - 0.06), colour)
    return framed(decor, WHITEBOARD, size, inner, border=0.03)


def poster(decor: Decor, size) -> Shape:
    """Samples a sheet of paper on a wall."""
    look = decor.sheet(PAPER, PAGE, size, np.full(3, 0.7), decor.colour() * 0.5)
    return upright((-size[0] / 2, size[0] / 2), 0.008, (0, size[1]), look)


def towel(decor: Decor, size) -> Shape:
    """Samples a towel on a rail."""
    x = size[0] / 2
    look = decor.soft(TOWEL)
    cloth = slab((-x, x), (0.04, 0.075), (0, size[1]), look, under=True)
    rail = slab((-x - 0.06, x + 0.06), (0.045, 0.07), (size[1], size[1] + 0.02), decor.plain(TOWEL))
    return join([cloth, rail])


def hung_clothes(decor: Decor, size) -> Shape:
    """Samples coats on a rail."""
    rng = decor.rng
    x = size[0] / 2
    parts = [slab((-x, x), (0.0, 0.05), (size[1] - 0.06, size[1]), decor.hard(CLOTHES), under=True)]
    for centre in np.arange(-x + 0.15, x - 0.1, 0.24):
        length = size[1] * rng.uniform(0.6, 0.95)
        radii = (rng.uniform(0.11, 0.16), 0.08, length / 2)
        parts.append(ellipsoid((centre, 0.1, size[1] - length / 2), radii, decor.soft(CLOTHES)))
    return join(parts)
