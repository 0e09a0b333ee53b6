"""The layout of a room: its shell, its furniture, and the places that they occupy.

World: x right, y along the room, z up, the floor at z = 0. The room is [0, width] x [0, depth]. A
wall has its own frame. `along` is 0 in its middle and grows to the right of a person with the back
to the wall.

The order of calls to the random generator decides every scene. A changed order changes all images.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from segjax.data.worlds.rooms import looks, props
from segjax.data.worlds.rooms.furniture import Piece
from segjax.data.worlds.rooms.looks import Decor
from segjax.data.worlds.rooms.props import slab
from segjax.data.worlds.shapes import Shape, join, panel, place, surface

BEYOND = 0.4
"""Metres that walls, floor and ceiling reach beyond the corners, so that no ray leaves the room."""

RECESS = 0.12
"""Metres from the wall to the pane of a window."""


class Wall(NamedTuple):
    """A wall and its occupied parts.

    middle   (x, y) of the middle of its foot
    heading  of its normal, which points into the room
    length   metres
    occupied    rectangles (along0, along1, z0, z1)
    """

    middle: tuple[float, float]
    heading: float
    length: float
    occupied: list[tuple[float, float, float, float]]

    def point(self, along, out=0.0) -> np.ndarray:
        """Returns (x, y) of the point at `along`, `out` metres into the room."""
        sin = np.sin(self.heading)
        cos = np.cos(self.heading)
        return np.array(self.middle) + along * np.array([cos, -sin]) + out * np.array([sin, cos])

    def is_free(self, area) -> bool:
        """Returns whether a rectangle (along0, along1, z0, z1) touches nothing."""
        return not any(_overlap(area, other) for other in self.occupied)


class Room(NamedTuple):
    """A room while it is furnished.

    size    (width, depth, height)
    walls   the four walls
    occupied   rectangles (x0, x1, y0, y1) of the floor that furniture covers
    zone    rectangle that stays free for the camera
    shapes  a shape for each thing, in the order of their instance ids
    shell   shapes of walls, floor and ceiling, which are no instances
    aims    points (x, y, z) at which the camera may point
    decor   looks of the room
    """

    size: tuple[float, float, float]
    walls: list[Wall]
    occupied: list[tuple[float, float, float, float]]
    zone: tuple[float, float, float, float]
    shapes: list[Shape]
    shell: list[Shape]
    aims: list[np.ndarray]
    decor: Decor


def _overlap(a, b) -> bool:
    """Returns whether two rectangles (x0, x1, y0, y1) overlap."""
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _footprint(point, size, heading) -> tuple[float, float, float, float]:
    """Returns the rectangle (x0, x1, y0, y1) around a turned rectangle of `size` (width, depth)."""
    cos = abs(np.cos(heading))
    sin = abs(np.sin(heading))
    x = (cos * size[0] + sin * size[1]) / 2
    y = (sin * size[0] + cos * size[1]) / 2
    return point[0] - x, point[0] + x, point[1] - y, point[1] + y


# --- the shell ------------------------------------------------------------------------------------


def empty_room(decor: Decor, size: tuple[float, float, float]) -> Room:
    """Builds a room with floor and ceiling, without walls and furniture."""
    width, depth, height = size
    rng = decor.rng
    walls = [
        Wall((width / 2, 0), 0.0, width, []),
        Wall((width / 2, depth), np.pi, width, []),
        Wall((0, depth / 2), np.pi / 2, depth, []),
        Wall((width, depth / 2), -np.pi / 2, depth, []),
    ]

    # A free square near the middle for the camera.
    middle = rng.uniform((0.43, 0.43), (0.57, 0.57)) * (width, depth)
    zone = _footprint(middle, (0.7, 0.7), 0)

    # Floor: boards, tiles or carpet. Ceiling: pale.
    material = rng.choice((looks.PLANKS, looks.TILES, looks.CLOTH, looks.WOOD))
    colour = decor.colour()
    floor = surface(
        looks.FLOOR,
        material,
        colour,
        rng,
        accent=colour * 0.55,
        grain=rng.uniform(0.05, 0.2),
        cell=(rng.uniform(0.08, 0.2) if material == looks.PLANKS else rng.uniform(0.2, 0.5),) * 2,
    )
    pale = decor.plain(looks.CEILING, np.full(3, rng.uniform(0.4, 0.8)), 0.03)
    x = width + 2 * BEYOND
    y = depth + 2 * BEYOND
    corner = (-BEYOND, -BEYOND)
    shell = [
        panel((*corner, 0), (x, 0, 0), (0, y, 0), floor),
        panel((*corner, height), (x, 0, 0), (0, y, 0), pale),
    ]
    return Room(size, walls, [], zone, [], shell, [], decor)


def open_walls(room: Room, windows: int, cover: str) -> None:
    """Gives the room its walls with windows and a door.

    Args:
      room: is extended.
      windows: number of windows, each on its own wall.
      cover: 'curtain', 'blinds' or '' of the windows.
    """
    # The walls have one look, or the first wall has its own.
    rng = room.decor.rng
    usual = _wall_look(room.decor)
    accent = _wall_look(room.decor) if rng.random() < 0.3 else usual
    order = rng.permutation(4)
    for number, wall in zip(order, (room.walls[k] for k in order), strict=True):
        look = accent if number == order[0] else usual
        openings = []
        if number in order[:windows]:
            openings.append(_window(room, wall, cover))
        room.shell.extend(_wall_strips(room, wall, openings, look))
    _corner(room, usual)
    _door(room, room.walls[order[-1]])
    for lamp in range(rng.integers(0, 3)):
        point = rng.uniform((0.2, 0.2), (0.8, 0.8)) * room.size[:2]
        _ceiling_lamp(room, point, lamp)


def _wall_look(decor: Decor) -> np.ndarray:
    """Samples paint, wallpaper, wood or tiles."""
    rng = decor.rng
    material = rng.choice(
        (looks.PLAIN, looks.STRIPES, looks.DOTS, looks.TILES, looks.WOOD),
        p=(0.6, 0.12, 0.08, 0.12, 0.08),
    )
    colour = decor.colour() * 0.5 + rng.uniform(0.1, 0.35)
    period = rng.uniform(0.1, 0.3)
    return surface(
        looks.WALL,
        material,
        colour,
        rng,
        accent=colour * rng.uniform(0.7, 0.9),
        grain=rng.uniform(0.02, 0.08),
        cell=(period, period),
    )


def _wall_strips(room: Room, wall: Wall, openings, look) -> list[Shape]:
    """Builds a wall around its openings (along0, along1, z0, z1), and a wall behind them."""
    half = wall.length / 2 + BEYOND
    height = room.size[2]
    parts = [panel((-half, -2 * RECESS, 0), (2 * half, 0, 0), (0, 0, height), look)]
    left = -half
    for x0, x1, z0, z1 in sorted(openings):
        parts.append(panel((left, 0, 0), (x0 - left, 0, 0), (0, 0, height), look))
        parts.append(panel((x0, 0, 0), (x1 - x0, 0, 0), (0, 0, z0), look))
        parts.append(panel((x0, 0, z1), (x1 - x0, 0, 0), (0, 0, height - z1), look))
        left = x1
    parts.append(panel((left, 0, 0), (half - left, 0, 0), (0, 0, height), look))

    # A skirting board.
    if room.decor.rng.random() < 0.6 and not any(z0 < 0.1 for _, _, z0, _ in openings):
        skirting = room.decor.plain(looks.WALL, look['colour'] * 0.6)
        parts.append(slab((-half, half), (-0.01, 0.015), (0, 0.09), skirting))
    return [place(part, *wall.middle, wall.heading) for part in parts]


def _window(room: Room, wall: Wall, cover: str) -> tuple[float, float, float, float]:
    """Adds a window with its cover to a wall. Returns the opening."""
    # Size and place.
    rng = room.decor.rng
    width = min(rng.uniform(0.9, 2.0), wall.length - 0.9)
    sill = rng.uniform(0.7, 1.0)
    top = min(sill + rng.uniform(0.9, 1.4), room.size[2] - 0.2)
    along = rng.uniform(-1, 1) * (wall.length - width - 0.6) / 2
    x0 = along - width / 2
    x1 = along + width / 2
    height = top - sill

    # The pane, the four sides of the hole, and the sill.
    pane = room.decor.sheet(looks.WINDOW, looks.OUTDOORS, (width, height))
    frame = room.decor.hard(looks.WINDOW)
    deep = (0, -RECESS, 0)
    tall = (0, 0, height)
    parts = [
        panel((x1, -RECESS, sill), (-width, 0, 0), tall, pane),
        panel((x0, 0, sill), (width, 0, 0), deep, frame),
        panel((x0, 0, top), (width, 0, 0), deep, frame),
        panel((x0, 0, sill), deep, tall, frame),
        panel((x1, 0, sill), deep, tall, frame),
        slab((x0 - 0.05, x1 + 0.05), (0, 0.07), (sill - 0.05, sill), frame, under=True),
    ]
    fix(room, wall, join(parts), 0, 0)
    wall.occupied.append((x0 - 0.3, x1 + 0.3, sill - 0.05, top + 0.2))
    room.aims.append(np.array([*wall.point(along), sill + height / 2]))
    if cover == 'curtain':
        _curtains(room, wall, (x0, x1), sill, top)
    elif cover == 'blinds':
        slats = room.decor.patterned(looks.BLINDS, looks.SLATS, rng.uniform(0.03, 0.06))
        low = sill + height * rng.uniform(0.0, 0.55)
        blind = slab((x0 - 0.04, x1 + 0.04), (0.01, 0.05), (low, top + 0.08), slats, under=True)
        fix(room, wall, blind, 0, 0)
    return x0, x1, sill, top


def _curtains(room: Room, wall: Wall, edges, sill, top) -> None:
    """Hangs a curtain on both sides of a window, from a rod."""
    rng = room.decor.rng
    look = room.decor.patterned(looks.CURTAIN, looks.FOLDS, rng.uniform(0.08, 0.16))
    low = 0.05 if rng.random() < 0.5 else sill - 0.15
    part = (edges[1] - edges[0]) * rng.uniform(0.15, 0.4)
    rod = (edges[0] - 0.2, edges[1] + 0.2)
    parts = [slab(rod, (0.06, 0.09), (top + 0.08, top + 0.11), look, under=True)]
    for left in (edges[0] - 0.15, edges[1] + 0.15 - part):
        parts.append(slab((left, left + part), (0.05, 0.1), (low, top + 0.1), look, under=True))
    fix(room, wall, join(parts), 0, 0)
    if low < 0.1:
        wall.occupied.append((edges[0] - 0.2, edges[0] - 0.1 + part, 0, top))
        wall.occupied.append((edges[1] + 0.1 - part, edges[1] + 0.2, 0, top))


def _door(room: Room, wall: Wall) -> None:
    """Adds a door with frame and handle to a wall, and keeps the floor in front of it free."""
    # A place away from the corner block.
    rng = room.decor.rng
    width = rng.uniform(0.78, 0.92)
    height = rng.uniform(1.98, 2.08)
    along = 0.0
    for _ in range(20):
        along = rng.uniform(-1, 1) * (wall.length - width - 0.3) / 2
        if wall.is_free((along - width / 2, along + width / 2, 0, height)):
            break

    # Leaf, frame and handle.
    x = width / 2
    leaf_look = room.decor.hard(looks.DOOR)
    frame = room.decor.hard(looks.DOOR)
    leaf = room.decor.front(leaf_look, (width / 2, height / rng.integers(1, 4)))
    if rng.random() < 0.4:
        leaf = leaf_look
    parts = [
        slab((-x, x), (-0.01, 0.02), (0, height), (leaf, frame, frame, frame)),
        slab((-x - 0.08, -x), (-0.01, 0.05), (0, height + 0.08), frame),
        slab((x, x + 0.08), (-0.01, 0.05), (0, height + 0.08), frame),
        slab((-x, x), (-0.01, 0.05), (height, height + 0.08), frame, under=True),
        slab((x - 0.12, x - 0.04), (0.02, 0.07), (1.0, 1.03), room.decor.plain(looks.DOOR)),
    ]
    fix(room, wall, join(parts), along, 0)
    wall.occupied.append((along - x - 0.1, along + x + 0.1, 0, height + 0.1))
    room.occupied.append(_footprint(wall.point(along, 0.35), (width, 0.7), wall.heading))
    room.aims.append(np.array([*wall.point(along), 1.0]))


def _corner(room: Room, look) -> None:
    """Takes a corner away from the room, in half of the larger rooms."""
    rng = room.decor.rng
    width, depth, height = room.size
    if width * depth < 11 or rng.random() < 0.5:
        return
    x, y = rng.uniform(0.4, 1.3, 2)
    right = rng.random() < 0.5
    back = rng.random() < 0.5
    x_range = (width - x, width + BEYOND) if right else (-BEYOND, x)
    y_range = (depth - y, depth + BEYOND) if back else (-BEYOND, y)
    area = (*x_range, *y_range)
    if _overlap(area, room.zone):
        return

    # No wall may have an opening there.
    blocked = []
    for wall in room.walls:
        inside = [a for a in np.linspace(-1, 1, 41) * wall.length / 2
                  if _overlap(area, _footprint(wall.point(a), (0.01, 0.01), 0))]  # fmt: skip
        if inside:
            blocked.append((wall, (min(inside) - 0.1, max(inside) + 0.1, 0.0, height)))
    if all(wall.is_free(part) for wall, part in blocked):
        room.shell.append(slab(x_range, y_range, (0, height + 0.1), look))
        room.occupied.append(area)
        for wall, part in blocked:
            wall.occupied.append(part)


def _ceiling_lamp(room: Room, point, number) -> None:
    """Adds a lamp to the ceiling: a disc, or a shade on a cord."""
    height = room.size[2]
    glow = room.decor.sheet(looks.LAMP, looks.GLOW, (1.0, 1.0), np.array([0.95, 0.9, 0.75]))
    if number == 0 and room.decor.rng.random() < 0.5:
        cord = slab(
            (-0.01, 0.01), (-0.01, 0.01), (height - 0.5, height), room.decor.hard(looks.LAMP)
        )
        shade = place(props.shade(room.decor, 0.2), 0, 0, 0, height - 0.75)
        shape = join([cord, shade])
    else:
        shape = slab((-0.2, 0.2), (-0.2, 0.2), (height - 0.07, height + 0.01), glow, under=True)
    room.shapes.append(place(shape, *point))


def fix(room: Room, wall: Wall, shape: Shape, along, z) -> None:
    """Adds a thing on a wall."""
    room.shapes.append(place(shape, *wall.point(along), wall.heading, z))


# --- furniture ------------------------------------------------------------------------------------


def fits(room: Room, area) -> bool:
    """Returns whether a piece may cover a rectangle (x0, x1, y0, y1) of the floor."""
    inside = area[0] >= 0 and area[1] <= room.size[0] and area[2] >= 0 and area[3] <= room.size[1]
    return inside and not any(_overlap(area, other) for other in (*room.occupied, room.zone))


def add(room: Room, piece: Piece, point, heading) -> None:
    """Adds a piece at a point (x, y) of the floor, and takes its floor."""
    for shape in piece.shapes:
        room.shapes.append(place(shape, *point, heading))
    size = (piece.size[0] + 0.04, piece.size[1] + 0.04)
    room.occupied.append(_footprint(point, size, heading))
    room.aims.extend([np.array([*point, piece.size[2] / 2])] * 2)


def stand_at_wall(room: Room, piece: Piece, tries=40) -> tuple[Wall, float] | None:
    """Adds a piece with its back to a wall.

    Returns:
      The wall and the place along it, None if there was no place.
    """
    rng = room.decor.rng
    for _ in range(tries):
        wall = room.walls[rng.integers(4)]
        reach = (wall.length - piece.size[0]) / 2 - 0.03
        if reach < 0:
            continue
        # A third of the pieces stand in a corner.
        along = rng.uniform(-reach, reach)
        if rng.random() < 0.35:
            along = rng.choice((-reach, reach))
        if add_at(room, piece, wall, along):
            return wall, along
    return None


def add_at(room: Room, piece: Piece, wall: Wall, along) -> bool:
    """Adds a piece with its back to a wall if there is a place. Returns whether there is."""
    width, depth, height = piece.size
    point = wall.point(along, depth / 2 + 0.02)
    on_wall = (along - width / 2, along + width / 2, 0.0, height)
    if not wall.is_free(on_wall) or not fits(room, _footprint(point, piece.size, wall.heading)):
        return False
    add(room, piece, point, wall.heading)
    wall.occupied.append((on_wall[0], on_wall[1], 0.0, height + 0.05))
    return True


def stand_free(room: Room, piece: Piece, tries=40) -> tuple[np.ndarray, float] | None:
    """Adds a piece anywhere on the floor, with any heading.

    Returns:
      Its point (x, y) and its heading, None if there was no place.
    """
    rng = room.decor.rng
    for _ in range(tries):
        heading = rng.integers(4) * np.pi / 2 + rng.uniform(-0.25, 0.25)
        point = rng.uniform((0, 0), room.size[:2])
        if fits(room, _footprint(point, piece.size, heading)):
            add(room, piece, point, heading)
            return point, heading
    return None


def stand_near(room: Room, piece: Piece, point, heading, tries=12) -> bool:
    """Adds a piece at about a point, with about a heading. Returns whether there was a place."""
    rng = room.decor.rng
    for _ in range(tries):
        shifted = point + rng.uniform(-0.1, 0.1, 2)
        turned = heading + rng.uniform(-0.35, 0.35)
        if fits(room, _footprint(shifted, piece.size, turned)):
            add(room, piece, shifted, turned)
            return True
    return False


def hang(room: Room, kind: Callable, low, high, z, tries=25) -> bool:
    """Hangs a thing on a wall where there is a place.

    Args:
      room: is extended.
      kind: samples a thing of a size (width, height).
      low, high: range of the size.
      z: range of the height of its lower edge.

    Returns:
      Whether there was a place.
    """
    rng = room.decor.rng
    for _ in range(tries):
        wall = room.walls[rng.integers(4)]
        width, height = rng.uniform(low, high)
        reach = (wall.length - width) / 2 - 0.05
        bottom = rng.uniform(*z)
        if reach < 0 or bottom + height > room.size[2] - 0.05:
            continue
        along = rng.uniform(-reach, reach)
        area = (along - width / 2 - 0.04, along + width / 2 + 0.04, bottom - 0.03, bottom + height)
        if wall.is_free(area):
            fix(room, wall, kind(room.decor, (width, height)), along, bottom)
            wall.occupied.append(area)
            room.aims.append(np.array([*wall.point(along), bottom + height / 2]))
            return True
    return False


def add_shelves(room: Room) -> None:
    """Adds boards above each other on a wall, with books and things on them."""
    # A place for all of the boards.
    rng = room.decor.rng
    width = rng.uniform(0.7, 1.3)
    levels = 1.15 + 0.36 * np.arange(rng.integers(1, 4))
    for _ in range(25):
        wall = room.walls[rng.integers(4)]
        reach = (wall.length - width) / 2 - 0.05
        along = rng.uniform(-reach, reach)
        area = (along - width / 2 - 0.02, along + width / 2 + 0.02, 1.1, levels[-1] + 0.35)
        if wall.is_free(area):
            break
    else:
        return

    # The boards are a single thing.
    look = room.decor.hard(looks.SHELVES)
    x = (-width / 2, width / 2)
    boards = [slab(x, (0, 0.24), (z, z + 0.035), look, under=True) for z in levels]
    fix(room, wall, join(boards), along, 0)
    wall.occupied.append(area)
    room.aims.append(np.array([*wall.point(along), levels.mean()]))
    for z in levels + 0.036:
        row = props.book_row(room.decor, width * rng.uniform(0.3, 0.7), 0.28, 0.2)
        fix(room, wall, place(row, -width / 2 + 0.03, 0.12), along, z)
        kinds = (props.trinket, props.box, props.book_pile)
        for thing in props.clutter(
            room.decor, (width * 0.3, width * 0.4), (0.1, 0.12), 0, 1, kinds
        ):
            fix(room, wall, thing, along, z)


def wall_cabinets(room: Room, wall: Wall, along, width) -> None:
    """Hangs kitchen cabinets over a counter."""
    rng = room.decor.rng
    x = width / 2
    look = room.decor.hard(looks.CABINET)
    front = room.decor.front(look, (0.45, 0.68))
    area = (along - x, along + x, 1.4, 2.1)
    if wall.is_free(area):
        shape = slab((-x, x), (0, rng.uniform(0.3, 0.36)), (0, 0.7), (front, look, look, look),
                     under=True)  # fmt: skip
        fix(room, wall, shape, along, 1.4)
        wall.occupied.append(area)


def floor_mat(room: Room, tries=20) -> None:
    """Lays a mat on a part of the floor that furniture leaves visible."""
    rng = room.decor.rng
    size = rng.uniform((0.7, 0.5), (2.0, 1.4)) * min(1, min(room.size[:2]) / 4)
    look = room.decor.soft(looks.FLOOR_MAT)
    x = size[0] / 2
    y = size[1] / 2
    mat = slab((-x, x), (-y, y), (0, 0.015), look)
    best = None
    for _ in range(tries):
        point = rng.uniform((0.15, 0.15), (0.85, 0.85)) * room.size[:2]
        heading = rng.integers(2) * np.pi / 2
        area = _footprint(point, size, heading)
        covered = sum(_overlap(area, other) for other in room.occupied)
        if best is None or covered < best[0]:
            best = (covered, point, heading)
    room.shapes.append(place(mat, *best[1], best[2]))
    room.aims.append(np.array([*best[1], 0.0]))


def upright_poster(room: Room) -> bool:
    """Hangs a sheet of paper on a wall."""
    return hang(room, props.poster, (0.3, 0.4), (0.6, 0.85), (1.1, 1.4))


PICTURES = (props.picture, (0.35, 0.3), (1.1, 0.8), (1.15, 1.55))
MIRRORS = (props.mirror, (0.45, 0.6), (0.9, 1.0), (1.0, 1.2))
WHITEBOARDS = (props.whiteboard, (1.1, 0.8), (2.0, 1.2), (0.85, 1.1))
TOWELS = (props.towel, (0.3, 0.45), (0.6, 0.9), (0.75, 1.1))
COATS = (props.hung_clothes, (0.5, 0.9), (0.9, 1.2), (0.7, 0.9))
SCREENS = (props.wall_screen, (0.8, 0.5), (1.3, 0.8), (0.9, 1.3))
"""Arguments of `hang`."""
