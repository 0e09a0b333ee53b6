"""Furniture that stands on the floor.

Local frame: x right, y forward, z up. The origin is the centre of the footprint on the floor. The
back of a piece is at -y. A function returns a `Piece`, whose shapes are single things.
"""

import itertools
from typing import NamedTuple

import numpy as np

from segjax.data.worlds import shapes as solids
from segjax.data.worlds.rooms import looks, props
from segjax.data.worlds.rooms.looks import Decor
from segjax.data.worlds.rooms.props import clutter, slab
from segjax.data.worlds.shapes import Shape, ellipsoid, frustum, join, panel, place


class Piece(NamedTuple):
    """Furniture with the things on it and under it.

    shapes  a shape for each thing
    size    (width, depth, height) of the footprint
    """

    shapes: list[Shape]
    size: tuple[float, float, float]


def _legs(x, y, height, look, thickness=0.045) -> Shape:
    """Builds four legs at (+-x, +-y)."""
    half = thickness / 2
    return join(
        slab((u - half, u + half), (v - half, v + half), (0, height), look)
        for u in (half - x, x - half)
        for v in (half - y, y - half)
    )


def _chest(decor: Decor, label, size, cell) -> Shape:
    """Builds a box on the floor whose front has drawers or doors of the size `cell`."""
    width, depth, height = size
    look = decor.hard(label)
    front = decor.front(look, cell)
    sides = (front, look, look, look)
    half = (-width / 2, width / 2)
    body = slab(half, (-depth / 2, depth / 2), (0.04, height - 0.035), sides, cap=look)
    rim = (-width / 2 - 0.012, width / 2 + 0.012)
    lid = slab(rim, (-depth / 2, depth / 2 + 0.015), (height - 0.035, height), look)
    return join([body, lid])


def bed(decor: Decor) -> Piece:
    """Samples a bed with a cover and pillows, sometimes with clothes on it."""
    # Size and surfaces.
    rng = decor.rng
    width = rng.uniform(0.95, 1.9)
    depth = rng.uniform(1.9, 2.1)
    top = rng.uniform(0.4, 0.58)
    head = rng.uniform(0.75, 1.25)
    x = width / 2
    y = depth / 2
    frame = decor.hard(looks.BED)
    sheet = decor.soft(looks.BED)

    # Frame, mattress and cover.
    base = slab((-x, x), (-y, y), (0.08, top - 0.2), frame)
    mattress = slab((-x + 0.02, x - 0.02), (-y + 0.06, y - 0.03), (top - 0.2, top), sheet)
    board = slab((-x - 0.02, x + 0.02), (-y, -y + 0.06), (0, head), frame)
    fold = -y + rng.uniform(0.45, 0.85)
    cover_look = decor.soft(looks.BED)
    cover = slab((-x - 0.015, x + 0.015), (fold, y + 0.01), (top - 0.27, top + 0.035), cover_look)
    parts = [base, mattress, board, cover]
    if rng.random() < 0.3:
        parts.append(slab((-x - 0.02, x + 0.02), (y, y + 0.05), (0, top + 0.2), frame))

    # Pillows side by side.
    things = [join(parts)]
    count = 1 if width < 1.3 else 2
    for k in range(count):
        centre = (k + 0.5) / count * width - x
        things.append(place(props.pillow(decor), centre, -y + 0.3, rng.uniform(-0.2, 0.2), top))
    if rng.random() < 0.5:
        kinds = (props.clothes, props.bag, props.book_pile, props.pillow)
        x_range = (-x + 0.3, x - 0.3)
        things += clutter(decor, x_range, (fold + 0.3, y - 0.3), top + 0.03, 2, kinds)
    return Piece(things, (width + 0.05, depth + 0.1, head))


def sofa(decor: Decor) -> Piece:
    """Samples a sofa with two or three seats and cushions."""
    # Size and surfaces.
    rng = decor.rng
    width = rng.uniform(1.4, 2.3)
    depth = rng.uniform(0.8, 0.95)
    seat = rng.uniform(0.38, 0.46)
    back = rng.uniform(0.72, 0.95)
    x = width / 2
    y = depth / 2
    look = decor.soft(looks.SOFA)

    # Base, back and arms.
    arm = rng.uniform(0.12, 0.22)
    arm_height = seat + rng.uniform(0.12, 0.25)
    parts = [
        slab((-x, x), (-y, y), (0.06, seat - 0.12), look),
        slab((-x, x), (-y, -y + 0.22), (seat - 0.12, back), look),
        slab((-x, -x + arm), (-y + 0.22, y), (seat - 0.12, arm_height), look),
        slab((x - arm, x), (-y + 0.22, y), (seat - 0.12, arm_height), look),
    ]

    # Cushions of the seats.
    count = 2 if width < 1.75 else 3
    share = (width - 2 * arm) / count
    for k in range(count):
        left = -x + arm + k * share
        cushion = (left + 0.01, left + share - 0.01)
        parts.append(slab(cushion, (-y + 0.2, y + 0.01), (seat - 0.12, seat), look))
        parts.append(slab(cushion, (-y + 0.18, -y + 0.32), (seat - 0.01, back + 0.03), look))

    things = [join(parts)]
    for _ in range(rng.integers(1, 4)):
        lean = ellipsoid((0, 0, 0.2), (0.22, 0.1, 0.2), decor.soft(looks.PILLOW))
        where = rng.uniform(-x + arm + 0.25, x - arm - 0.25)
        things.append(place(lean, where, -y + 0.42, rng.uniform(-0.5, 0.5), seat))
    return Piece(things, (width, depth + 0.03, back))


def chair(decor: Decor) -> Piece:
    """Samples a chair with legs, a swivel chair or an armchair."""
    # Size and surfaces.
    rng = decor.rng
    kind = rng.random()
    x = rng.uniform(0.2, 0.24)
    seat = rng.uniform(0.42, 0.48)
    back = rng.uniform(0.82, 1.02)
    frame = decor.hard(looks.CHAIR)
    cover = decor.soft(looks.CHAIR) if rng.random() < 0.6 else frame
    if kind < 0.2:
        return _armchair(decor)

    # Seat and back.
    parts = [slab((-x, x), (-x, x), (seat - 0.05, seat), cover)]
    if rng.random() < 0.5:
        parts.append(slab((-x, x), (-x, -x + 0.05), (seat + 0.1, back), cover, under=True))
        for side in (-x + 0.025, x - 0.025):
            post = (side - 0.02, side + 0.02)
            parts.append(slab(post, (-x + 0.005, -x + 0.045), (seat, back - 0.01), frame))
    else:
        for side in np.linspace(-x + 0.02, x - 0.02, 4):
            post = (side - 0.018, side + 0.018)
            parts.append(slab(post, (-x, -x + 0.04), (seat, back - 0.1), frame))
        parts.append(slab((-x, x), (-x, -x + 0.045), (back - 0.1, back), frame, under=True))

    # Legs, or a column on a star.
    if kind < 0.7:
        parts.append(_legs(x, x, seat - 0.05, frame))
    else:
        parts.append(slab((-0.03, 0.03), (-0.03, 0.03), (0.05, seat - 0.05), frame))
        for turn in (0.3, 1.35, 2.4):
            foot = slab((-0.26, 0.26), (-0.025, 0.025), (0.02, 0.08), frame)
            parts.append(place(foot, 0, 0, turn))
    things = [join(parts)]
    if rng.random() < 0.15:
        things.append(place(props.clothes(decor), 0, 0, 0, seat))
    return Piece(things, (2 * x, 2 * x, back))


def _armchair(decor: Decor) -> Piece:
    """Samples a padded chair with arms."""
    rng = decor.rng
    x = rng.uniform(0.36, 0.45)
    back = rng.uniform(0.75, 1.0)
    seat = 0.42
    look = decor.soft(looks.CHAIR)
    parts = [
        slab((-x, x), (-x, x), (0.05, seat), look),
        slab((-x, x), (-x, -x + 0.18), (seat, back), look),
        slab((-x, -x + 0.14), (-x + 0.18, x), (seat, seat + 0.18), look),
        slab((x - 0.14, x), (-x + 0.18, x), (seat, seat + 0.18), look),
    ]
    return Piece([join(parts)], (2 * x, 2 * x, back))


TABLE_THINGS = (props.book_pile, props.papers, props.trinket, props.trinket, props.box)


def table(decor: Decor, size=None) -> Piece:
    """Samples a table with four legs or a foot, things on it, and sometimes a thing under it."""
    # Size and surfaces.
    rng = decor.rng
    low = rng.uniform((0.8, 0.5, 0.38), (1.3, 0.75, 0.5))
    width, depth, height = low if size is None else size
    x = width / 2
    y = depth / 2
    look = decor.hard(looks.TABLE)

    # Top, and legs or foot.
    if rng.random() < 0.2:
        disc = panel((-x, -y, height), (width, 0, 0), (0, depth, 0), look, disc=True)
        parts = [disc, slab((-0.05, 0.05), (-0.05, 0.05), (0.03, height - 0.01), look)]
        parts.append(slab((-0.25, 0.25), (-0.25, 0.25), (0, 0.04), look))
    else:
        parts = [slab((-x, x), (-y, y), (height - 0.045, height), look)]
        parts.append(_legs(x - 0.02, y - 0.02, height - 0.04, look, rng.uniform(0.04, 0.08)))

    things = [join(parts)]
    number = rng.integers(1, 4) if size is None else rng.integers(2, 6)
    things += clutter(
        decor, (-x * 0.65, x * 0.65), (-y * 0.6, y * 0.6), height, number, TABLE_THINGS
    )
    if height > 0.6 and rng.random() < 0.5:
        kinds = (props.box, props.bag)
        things += clutter(decor, (-x * 0.4, x * 0.4), (-y * 0.3, y * 0.3), 0, 1, kinds)
    return Piece(things, (width, depth, height))


def dining_table(decor: Decor) -> Piece:
    """Samples a high table."""
    size = decor.rng.uniform((1.0, 0.75, 0.7), (1.8, 1.0, 0.78))
    return table(decor, tuple(size))


def desk(decor: Decor) -> Piece:
    """Samples a desk with drawers on a side, a thing under it and several on it."""
    # Size and surfaces.
    rng = decor.rng
    width = rng.uniform(1.1, 1.7)
    depth = rng.uniform(0.6, 0.8)
    height = rng.uniform(0.7, 0.78)
    x = width / 2
    y = depth / 2
    look = decor.hard(looks.DESK)
    front = decor.front(look, (0.42, (height - 0.08) / 3))

    # Top, side, back, and a block of drawers on the left or the right.
    side = rng.choice((-1, 1))
    block = sorted((side * x, side * (x - 0.42)))
    wall = sorted((-side * x, -side * (x - 0.035)))
    parts = [
        slab((-x - 0.02, x + 0.02), (-y, y + 0.02), (height - 0.04, height), look),
        slab(block, (-y, y), (0.03, height - 0.04), (front, look, look, look)),
        slab(wall, (-y, y), (0, height - 0.04), look),
        slab((-x + 0.03, x - 0.03), (-y, -y + 0.02), (height * 0.4, height - 0.04), look),
    ]

    # A screen or a lamp, and small things.
    things = [join(parts)]
    if rng.random() < 0.5:
        screen = props.television(decor, rng.uniform(0.45, 0.7))
        things.append(place(screen, side * 0.1, -y + 0.2, rng.uniform(-0.2, 0.2), height))
    if rng.random() < 0.5:
        things.append(place(props.table_lamp(decor), -side * (x - 0.2), -y + 0.2, 0, height))
    kinds = (props.papers, props.book_pile, props.trinket, props.papers)
    things += clutter(decor, (-x * 0.8, x * 0.8), (0, y * 0.7), height, 3, kinds)
    if rng.random() < 0.6:
        kinds = (props.box, props.bag)
        things += clutter(decor, (-0.1, 0.1), (-0.1, 0.1), 0, 1, kinds)
    return Piece(things, (width + 0.04, depth + 0.03, height))


def bookshelf(decor: Decor) -> Piece:
    """Samples an open shelf on the floor, with books and things in most of its compartments."""
    # Size and surfaces.
    rng = decor.rng
    width = rng.uniform(0.75, 1.5)
    depth = rng.uniform(0.26, 0.34)
    height = rng.uniform(1.2, 2.1)
    x = width / 2
    y = depth / 2
    look = decor.hard(looks.BOOKSHELF)

    # Sides, back and boards.
    levels = np.linspace(0.06, height - 0.02, int(height / rng.uniform(0.3, 0.38)) + 1)
    parts = [
        slab((-x, -x + 0.03), (-y, y), (0, height), look),
        slab((x - 0.03, x), (-y, y), (0, height), look),
        slab((-x + 0.03, x - 0.03), (-y, -y + 0.015), (0, height), look),
    ]
    for z in levels:
        board = (-x + 0.03, x - 0.03)
        parts.append(slab(board, (-y, y - 0.01), (z - 0.025, z), look, under=True))

    # Rows of books, and a few small things.
    things = [join(parts)]
    for low, high in itertools.pairwise(levels):
        space = high - low - 0.03
        used = (width - 0.1) * rng.uniform(0.3, 1.0)
        row = props.book_row(decor, used, space, depth)
        if rng.random() < 0.8:
            things.append(place(row, -x + 0.04, 0, 0, low))
            if used < width - 0.5 and space > 0.3:
                things.append(place(props.trinket(decor), x - 0.2, 0, 0, low))
    return Piece(things, (width, depth, height))


def dresser(decor: Decor) -> Piece:
    """Samples a chest of drawers with things on it."""
    rng = decor.rng
    size = tuple(rng.uniform((0.8, 0.42, 0.75), (1.5, 0.52, 1.15)))
    rows = rng.integers(3, 5)
    columns = 1 if size[0] < 1.0 else 2
    cell = (size[0] / columns, (size[2] - 0.08) / rows)
    things = [_chest(decor, looks.DRESSER, size, cell)]
    kinds = (props.trinket, props.box, props.book_pile, props.table_lamp, props.clothes)
    x = size[0] * 0.4
    things += clutter(decor, (-x, x), (-0.08, 0.08), size[2], rng.integers(1, 4), kinds)
    return Piece(things, size)


def night_stand(decor: Decor) -> Piece:
    """Samples a small chest with a lamp or a book."""
    rng = decor.rng
    size = tuple(rng.uniform((0.4, 0.35, 0.45), (0.55, 0.45, 0.65)))
    things = [_chest(decor, looks.NIGHT_STAND, size, (size[0], size[2] / rng.integers(1, 4)))]
    kinds = (props.table_lamp, props.table_lamp, props.book_pile, props.trinket)
    things += clutter(decor, (-0.06, 0.06), (-0.05, 0.05), size[2], 1, kinds)
    return Piece(things, size)


def wardrobe(decor: Decor) -> Piece:
    """Samples a tall cabinet with doors, sometimes with cartons on it."""
    rng = decor.rng
    size = tuple(rng.uniform((0.8, 0.45, 1.6), (1.8, 0.62, 2.15)))
    doors = round(size[0] / 0.5)
    things = [_chest(decor, looks.CABINET, size, (size[0] / doors, size[2] - 0.06))]
    if rng.random() < 0.4:
        things.append(place(props.box(decor), rng.uniform(-0.2, 0.2), 0, 0, size[2]))
    return Piece(things, size)


def sideboard(decor: Decor) -> Piece:
    """Samples a low cabinet with a television or things on it."""
    rng = decor.rng
    size = tuple(rng.uniform((1.1, 0.38, 0.45), (1.8, 0.48, 0.85)))
    doors = round(size[0] / 0.45)
    things = [_chest(decor, looks.CABINET, size, (size[0] / doors, size[2] - 0.06))]
    if rng.random() < 0.8:
        screen = props.television(decor, rng.uniform(0.7, 1.2))
        things.append(place(screen, 0, 0, 0, size[2]))
    else:
        kinds = (props.trinket, props.book_pile, props.table_lamp)
        things += clutter(decor, (-0.45, 0.45), (-0.06, 0.06), size[2], 3, kinds)
    return Piece(things, (size[0], size[1], size[2] + 0.6))


def counter(decor: Decor) -> Piece:
    """Samples kitchen cabinets under a counter with a sink."""
    # Size and surfaces.
    rng = decor.rng
    width = rng.uniform(1.5, 2.6)
    depth = 0.62
    height = rng.uniform(0.86, 0.93)
    x = width / 2
    y = depth / 2
    base = _chest(decor, looks.CABINET, (width, depth - 0.03, height - 0.05), (0.5, height - 0.12))
    look = decor.hard(looks.COUNTER)

    # The counter, with a strip on the wall behind it.
    top = slab((-x - 0.01, x + 0.01), (-y, y + 0.02), (height - 0.07, height), look)
    strip = slab((-x, x), (-y, -y + 0.025), (height, height + rng.uniform(0.08, 0.3)), look)
    things = [base, join([top, strip])]

    # The sink, and things on both sides of it.
    centre = rng.uniform(-x + 0.4, x - 0.4)
    things.append(place(_basin(decor, 0.26, 0.19), centre, 0.02, 0, height))
    for side in ((-x + 0.15, centre - 0.4), (centre + 0.4, x - 0.15)):
        if side[1] > side[0]:
            things += clutter(decor, side, (-0.15, 0.15), height, 2, TABLE_THINGS)
    return Piece(things, (width + 0.02, depth + 0.05, height))


def _basin(decor: Decor, x, y) -> Shape:
    """Samples a basin in a surface: a rim, a dark hollow and a tap."""
    pale = decor.plain(looks.SINK, np.full(3, decor.rng.uniform(0.35, 0.75)), 0.02)
    hollow = decor.plain(looks.SINK, pale['colour'] * 0.5, 0.02)
    rim = slab((-x, x), (-y, y), (0, 0.02), pale)
    inner = panel((-x + 0.04, -y + 0.04, 0.024), (2 * x - 0.08, 0, 0), (0, 2 * y - 0.08, 0), hollow,
                  disc=True)  # fmt: skip
    tap = slab((-0.02, 0.02), (-y, -y + 0.04), (0, 0.22), pale)
    spout = slab((-0.018, 0.018), (-y, -0.02), (0.19, 0.22), pale, under=True)
    return join([rim, inner, tap, spout])


def refrigerator(decor: Decor) -> Piece:
    """Samples a tall box with two doors and long handles."""
    rng = decor.rng
    width, depth, height = rng.uniform((0.6, 0.6, 1.5), (0.85, 0.7, 1.9))
    x = width / 2
    y = depth / 2
    colour = None if rng.random() < 0.4 else np.full(3, rng.uniform(0.25, 0.75))
    look = decor.plain(looks.REFRIGERATOR, colour, 0.03)
    dark = decor.plain(looks.REFRIGERATOR, look['colour'] * 0.35)
    split = height * rng.uniform(0.55, 0.72)
    parts = [
        slab((-x, x), (-y, y - 0.07), (0.05, height), look),
        slab((-x, x), (y - 0.06, y), (0.06, split - 0.012), look),
        slab((-x, x), (y - 0.06, y), (split + 0.012, height), look),
        slab((x - 0.1, x - 0.07), (y, y + 0.04), (split - 0.5, split - 0.06), dark),
        slab((x - 0.1, x - 0.07), (y, y + 0.04), (split + 0.06, split + 0.35), dark),
    ]
    things = [join(parts)]
    if rng.random() < 0.4:
        size = (0.2, 0.28)
        things.append(place(props.poster(decor, size), -0.08, y, 0, split - 0.45))
    return Piece(things, (width, depth + 0.05, height))


def toilet(decor: Decor) -> Piece:
    """Samples a bowl with a seat and a tank."""
    rng = decor.rng
    look = decor.plain(looks.TOILET, np.full(3, rng.uniform(0.45, 0.8)), 0.02)
    seat = decor.plain(looks.TOILET) if rng.random() < 0.3 else look
    lid = panel((-0.2, -0.12, 0.42), (0.4, 0, 0), (0, 0.48, 0), seat, disc=True)
    hole = decor.plain(looks.TOILET, look['colour'] * 0.4, 0.02)
    parts = [
        slab((-0.22, 0.22), (-0.33, -0.14), (0.38, rng.uniform(0.75, 0.85)), look, under=True),
        slab((-0.12, 0.12), (-0.3, 0.12), (0, 0.3), look),
        ellipsoid((0, 0.12, 0.3), (0.18, 0.22, 0.11), look),
        lid,
    ]
    if rng.random() < 0.5:
        parts.append(panel((-0.13, -0.02, 0.428), (0.26, 0, 0), (0, 0.3, 0), hole, disc=True))
    else:
        parts.append(slab((-0.19, 0.19), (-0.16, -0.12), (0.42, 0.8), seat, under=True))
    return Piece([join(parts)], (0.5, 0.7, 0.85))


def wash_stand(decor: Decor) -> Piece:
    """Samples a basin on a cabinet, with a thing next to the basin."""
    rng = decor.rng
    size = tuple(rng.uniform((0.75, 0.45, 0.78), (1.2, 0.52, 0.88)))
    cabinet = _chest(decor, looks.CABINET, size, (size[0] / 2, size[2] - 0.08))
    things = [cabinet, place(_basin(decor, 0.25, 0.18), 0, 0, 0, size[2])]
    things += clutter(
        decor, (size[0] / 2 - 0.1, size[0] / 2 - 0.08), (-0.1, 0.1), size[2], 1, (props.trinket,)
    )
    return Piece(things, size)


def bathtub(decor: Decor) -> Piece:
    """Samples a tub with its long side along the wall, and a curtain on a rod."""
    # Size and surfaces.
    rng = decor.rng
    width = rng.uniform(1.4, 1.75)
    depth = rng.uniform(0.68, 0.8)
    height = rng.uniform(0.48, 0.6)
    x = width / 2
    y = depth / 2
    look = decor.plain(looks.BATHTUB, np.full(3, rng.uniform(0.45, 0.8)), 0.02)

    # Four sides around a lower bottom.
    parts = [
        slab((-x, x), (y - 0.08, y), (0, height), look),
        slab((-x, x), (-y, -y + 0.08), (0, height), look),
        slab((-x, -x + 0.1), (0.08 - y, y - 0.08), (0, height), look),
        slab((x - 0.1, x), (0.08 - y, y - 0.08), (0, height), look),
        slab((0.1 - x, x - 0.1), (0.08 - y, y - 0.08), (0, 0.15), look),
    ]

    # The curtain hangs in front of a part of the tub.
    part = rng.uniform(0.35, 0.6) * width
    side = rng.choice((-1, 1))
    edges = sorted((side * x, side * (x - part)))
    cloth = decor.patterned(looks.SHOWER_CURTAIN, looks.FOLDS, rng.uniform(0.08, 0.16))
    curtain = slab(edges, (y + 0.01, y + 0.05), (0.12, 1.95), cloth, under=True)
    rod = slab((-x, x), (y + 0.015, y + 0.04), (1.95, 1.98), decor.plain(looks.SHOWER_CURTAIN))
    return Piece([join(parts), join([curtain, rod])], (width, depth + 0.12, 0.62))


def floor_lamp(decor: Decor) -> Piece:
    """Samples a tall lamp with a shade."""
    rng = decor.rng
    height = rng.uniform(1.2, 1.5)
    look = decor.hard(looks.LAMP)
    parts = [
        slab((-0.14, 0.14), (-0.14, 0.14), (0, 0.03), look),
        slab((-0.016, 0.016), (-0.016, 0.016), (0.03, height + 0.1), look),
        place(props.shade(decor, rng.uniform(0.15, 0.22)), 0, 0, 0, height),
    ]
    return Piece([join(parts)], (0.44, 0.44, height + 0.35))


def bench(decor: Decor) -> Piece:
    """Samples further furniture: a bench, an ottoman or a piano."""
    rng = decor.rng
    kind = rng.integers(3)
    if kind == 0:
        look = decor.hard(looks.OTHER_FURNITURE)
        top = slab((-0.55, 0.55), (-0.17, 0.17), (0.4, 0.45), look)
        return Piece([join([top, _legs(0.53, 0.15, 0.4, look, 0.06)])], (1.1, 0.36, 0.45))
    if kind == 1:
        look = decor.soft(looks.OTHER_FURNITURE)
        x = rng.uniform(0.25, 0.4)
        return Piece([slab((-x, x), (-x, x), (0.03, 0.42), look)], (2 * x, 2 * x, 0.42))
    look = decor.hard(looks.OTHER_FURNITURE)
    white = decor.plain(looks.OTHER_FURNITURE, (0.7, 0.7, 0.66), 0.02)
    parts = [
        slab((-0.72, 0.72), (-0.3, 0.05), (0, 1.15), look),
        slab((-0.72, 0.72), (0.05, 0.3), (0.6, 0.7), look, under=True),
        panel((-0.62, 0.12, 0.705), (1.24, 0, 0), (0, 0.16, 0), white),
        slab((-0.72, -0.66), (0.05, 0.3), (0, 0.6), look),
        slab((0.66, 0.72), (0.05, 0.3), (0, 0.6), look),
    ]
    return Piece([join(parts)], (1.44, 0.62, 1.15))


def hearth(decor: Decor) -> Piece:
    """Samples a further structure: a fireplace with a dark mouth, or a pillar."""
    rng = decor.rng
    look = decor.hard(looks.OTHER_STRUCTURE)
    if rng.random() < 0.5:
        x = rng.uniform(0.15, 0.3)
        return Piece([slab((-x, x), (-x, x), (0, 3.5), look)], (2 * x, 2 * x, 3.0))
    black = decor.plain(looks.OTHER_STRUCTURE, np.full(3, 0.015), 0.2)
    parts = [
        slab((-0.65, 0.65), (-0.2, 0.18), (0, 1.1), look),
        slab((-0.72, 0.72), (-0.2, 0.24), (1.1, 1.18), look, under=True),
        props.upright((-0.38, 0.38), 0.183, (0.05, 0.75), black),
    ]
    things = [join(parts)]
    kinds = (props.trinket, props.book_pile)
    things += clutter(decor, (-0.5, 0.5), (-0.05, 0.05), 1.18, 2, kinds)
    return Piece(things, (1.44, 0.46, 1.2))


def bin_or_plant(decor: Decor) -> Piece:
    """Samples a further thing on the floor: a bin or a large plant."""
    rng = decor.rng
    if rng.random() < 0.4:
        look = decor.hard(looks.OTHER_PROP)
        x = rng.uniform(0.1, 0.15)
        height = rng.uniform(0.28, 0.5)
        hole = decor.plain(looks.OTHER_PROP, look['colour'] * 0.3)
        body = frustum((-x, x) * 2, (-1.3 * x, 1.3 * x) * 2, (0, height), look)
        inner = panel((-1.2 * x, -1.2 * x, height + 0.003), (2.4 * x, 0, 0), (0, 2.4 * x, 0), hole)
        return Piece([join([body, inner])], (0.4, 0.4, 0.5))
    return Piece([props.plant(decor, rng.uniform(0.8, 1.3))], (0.5, 0.5, 1.2))


def box_pile(decor: Decor) -> Piece:
    """Samples a carton, or a stack of two."""
    first = props.box(decor)
    things = [first]
    if decor.rng.random() < 0.35:
        height = first.quads['origin'][:, 2].max()
        things.append(place(props.box(decor), 0, 0, decor.rng.uniform(-0.4, 0.4), height))
    return Piece(things, (0.5, 0.5, 0.6))


def floor_bag(decor: Decor) -> Piece:
    """Samples a bag on the floor."""
    return Piece([props.bag(decor)], (0.42, 0.34, 0.5))


def floor_clothes(decor: Decor) -> Piece:
    """Samples clothes on the floor."""
    return Piece([props.clothes(decor)], (0.55, 0.5, 0.2))


def person(decor: Decor) -> Piece:
    """Samples a standing person."""
    return Piece([solids.person(looks.PERSON, decor.rng)], (0.6, 0.5, 1.9))
