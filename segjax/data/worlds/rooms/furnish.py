"""Five kinds of rooms and their furniture. Every five clips of a split have all kinds."""

import numpy as np

from segjax.data.worlds.rooms import furniture as f
from segjax.data.worlds.rooms import layout, props
from segjax.data.worlds.rooms.layout import Room, add_at, hang, stand_at_wall, stand_free
from segjax.data.worlds.rooms.looks import Decor

KINDS = ('bedroom', 'living room', 'office', 'kitchen', 'bathroom')

_SIZES = {
    'bedroom': ((3.2, 3.4), (4.2, 4.6)),
    'living room': ((3.9, 4.1), (5.2, 5.7)),
    'office': ((3.2, 3.5), (4.6, 5.0)),
    'kitchen': ((3.5, 3.7), (4.7, 5.2)),
    'bathroom': ((2.8, 3.0), (3.5, 4.0)),
}
"""Lowest and highest (width, depth) in metres."""

_COVERS = {
    'bedroom': ('curtain', 'curtain', 'blinds'),
    'living room': ('curtain', 'curtain', ''),
    'office': ('blinds', 'blinds', ''),
    'kitchen': ('', 'blinds', 'curtain'),
    'bathroom': ('blinds', 'blinds', ''),
}
"""Covers of windows. All windows of a room have the same kind."""


def furnished_room(decor: Decor, kind: str) -> Room:
    """Samples a room of a kind of KINDS."""
    rng = decor.rng
    low, high = _SIZES[kind]
    size = (*rng.uniform(low, high), rng.uniform(2.4, 2.8))
    room = layout.empty_room(decor, size)
    layout.open_walls(room, rng.integers(1, 3), rng.choice(_COVERS[kind]))
    _FURNISH[kind](room)
    return room


def _often(room: Room, chance) -> bool:
    """Returns True with a probability."""
    return room.decor.rng.random() < chance


def _scatter(room: Room, pieces, chance=0.6) -> None:
    """Puts each of several kinds of pieces on the floor, with a probability."""
    for piece in pieces:
        if _often(room, chance):
            stand_free(room, piece(room.decor))


def _pictures(room: Room, low, high) -> None:
    """Hangs a few pictures."""
    for _ in range(room.decor.rng.integers(low, high + 1)):
        hang(room, *layout.PICTURES)


def _bedroom(room: Room) -> None:
    """Furnishes a bedroom."""
    # The bed, with night stands at its sides. A bed may be too large for the room.
    decor = room.decor
    where = None
    for _ in range(8):
        bed = f.bed(decor)
        where = stand_at_wall(room, bed, tries=60)
        if where:
            break
    if where:
        wall, along = where
        for side in (-1, 1):
            stand = f.night_stand(decor)
            beside = (bed.size[0] + stand.size[0]) / 2 + 0.06
            add_at(room, stand, wall, along + side * beside)

    # Along the walls.
    stand_at_wall(room, f.dresser(decor))
    if _often(room, 0.7):
        stand_at_wall(room, f.wardrobe(decor))
    if _often(room, 0.6):
        _desk_with_chair(room)
    if _often(room, 0.5):
        hang(room, *layout.MIRRORS)
    hang(room, *layout.COATS)
    _pictures(room, 1, 3)
    if _often(room, 0.6):
        hang(room, *layout.SCREENS)

    # On the floor.
    _scatter(room, (f.bench, f.floor_lamp, f.chair), 0.4)
    _scatter(room, (f.box_pile, f.floor_bag, f.floor_clothes, f.bin_or_plant), 0.7)
    layout.floor_mat(room)


def _living_room(room: Room) -> None:
    """Furnishes a living room."""
    # The sofa with a table in front of it.
    decor = room.decor
    sofa = f.sofa(decor)
    where = stand_at_wall(room, sofa, tries=200)
    if where:
        wall, along = where
        table = f.table(decor)
        front = sofa.size[1] + table.size[1] / 2 + decor.rng.uniform(0.3, 0.5)
        layout.stand_near(room, table, wall.point(along, front), wall.heading)

    # Along the walls.
    if _often(room, 0.9):
        stand_at_wall(room, f.hearth(decor), tries=100)
    stand_at_wall(room, f.sideboard(decor), tries=100)
    stand_at_wall(room, f.bookshelf(decor))
    if _often(room, 0.5):
        stand_at_wall(room, f.sofa(decor))
    if _often(room, 0.4):
        layout.add_shelves(room)
    _pictures(room, 2, 4)

    # On the floor.
    for piece in (f.chair, f.bench):
        stand_free(room, piece(decor))
    _scatter(room, (f.chair, f.person, f.floor_lamp), 0.6)
    _scatter(room, (f.bin_or_plant, f.box_pile, f.floor_bag), 0.6)
    layout.floor_mat(room)


def _desk_with_chair(room: Room) -> None:
    """Adds a desk at a wall with a chair that faces it."""
    desk = f.desk(room.decor)
    where = stand_at_wall(room, desk, tries=80)
    if where:
        wall, along = where
        chair = f.chair(room.decor)
        front = desk.size[1] + chair.size[1] / 2 + room.decor.rng.uniform(0.12, 0.3)
        layout.stand_near(room, chair, wall.point(along, front), wall.heading + np.pi)


def _office(room: Room) -> None:
    """Furnishes an office."""
    decor = room.decor
    for _ in range(1 + _often(room, 0.6)):
        _desk_with_chair(room)
    if _often(room, 0.8):
        stand_at_wall(room, f.hearth(decor), tries=100)
    stand_at_wall(room, f.bookshelf(decor))
    hang(room, *layout.WHITEBOARDS, tries=80)
    if _often(room, 0.6):
        stand_at_wall(room, f.wardrobe(decor))
    layout.add_shelves(room)
    layout.upright_poster(room)
    layout.upright_poster(room)
    _pictures(room, 0, 2)
    hang(room, *layout.SCREENS)

    # On the floor.
    _scatter(room, (f.dining_table, f.chair, f.person, f.chair), 0.6)
    _scatter(room, (f.box_pile, f.box_pile, f.floor_bag, f.bin_or_plant), 0.7)


def _kitchen(room: Room) -> None:
    """Furnishes a kitchen with a dining table."""
    # The counter with cabinets over it, and the refrigerator.
    decor = room.decor
    counter = f.counter(decor)
    where = stand_at_wall(room, counter, tries=200)
    fridge = f.refrigerator(decor)
    if where:
        wall, along = where
        layout.wall_cabinets(room, wall, along, counter.size[0])
        beside = (counter.size[0] + fridge.size[0]) / 2 + 0.04
        side = decor.rng.choice((-1, 1))
        if not add_at(room, fridge, wall, along + side * beside):
            stand_at_wall(room, fridge)

    # The table with chairs around it.
    table = f.dining_table(decor)
    where = stand_free(room, table, tries=150)
    if where:
        point, heading = where
        sin = np.sin(heading)
        cos = np.cos(heading)
        for x, y, turn in ((-0.3, 0.5, np.pi), (0.3, 0.5, np.pi), (-0.3, -0.5, 0), (0.3, -0.5, 0)):
            chair = f.chair(decor)
            u = x * table.size[0] * 0.9
            v = y * (table.size[1] + chair.size[1] + 0.15)
            spot = point + np.array([cos * u + sin * v, -sin * u + cos * v])
            layout.stand_near(room, chair, spot, heading + turn)

    # Further things.
    if _often(room, 0.5):
        stand_at_wall(room, f.wardrobe(decor))
    layout.add_shelves(room)
    hang(room, *layout.TOWELS)
    _pictures(room, 1, 2)
    _scatter(room, (f.person, f.bench), 0.4)
    _scatter(room, (f.box_pile, f.floor_bag, f.bin_or_plant), 0.6)


def _bathroom(room: Room) -> None:
    """Furnishes a bathroom."""
    decor = room.decor
    stand_at_wall(room, f.bathtub(decor), tries=300)
    stand_at_wall(room, f.toilet(decor), tries=100)
    stand = f.wash_stand(decor)
    where = stand_at_wall(room, stand, tries=100)
    if where:
        # A mirror over the basin.
        wall, along = where
        size = (stand.size[0] * 0.9, 0.75)
        area = (along - size[0] / 2, along + size[0] / 2, 1.15, 1.9)
        if wall.is_free(area):
            layout.fix(room, wall, props.mirror(decor, size), along, 1.15)
            wall.occupied.append(area)
    for _ in range(decor.rng.integers(1, 4)):
        hang(room, *layout.TOWELS)
    if _often(room, 0.4):
        hang(room, *layout.MIRRORS)
    if _often(room, 0.5):
        layout.add_shelves(room)
    _pictures(room, 0, 1)
    _scatter(room, (f.floor_clothes, f.bin_or_plant, f.bench, f.box_pile), 0.5)
    layout.floor_mat(room)


_FURNISH = {
    'bedroom': _bedroom,
    'living room': _living_room,
    'office': _office,
    'kitchen': _kitchen,
    'bathroom': _bathroom,
}
