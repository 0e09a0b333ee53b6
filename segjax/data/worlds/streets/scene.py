"""The layout of a street: its things, how they move, and its light.

There is a scene for each (seed, split, clip).

World: y along the street at the start, x to the right, z up, ground at z = 0. The street bends: its
centre line is x = bend * (1 - cos(2 pi y / wavelength)). `lateral` is the offset in x from that
line. `side` is -1 on the left and 1 on the right.

The order of calls to the random generator decides every scene. A changed order changes all images.
"""

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from segjax.data.worlds import shapes
from segjax.data.worlds.light import Light, draw_light
from segjax.data.worlds.shapes import Shape, box, join, place, surface, tag

(ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN,
 SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE) = range(19)  # fmt: skip
VOID = 255

LANE = 3.3
FAR = 200.0
START = -14.0

PERIODS = {
    'bus': 3,
    'truck': 3,
    'train': 4,
    'motorcycle': 2,
    'bicycle': 2,
    'rider': 2,
    'wall': 2,
    'fence': 2,
    'crossing': 2,
    'traffic': 2,
    'green': 3,
}
"""Every n-th clip of a split has this for certain, so that few clips contain everything.

The offsets depend on seed and split.
"""

Contents = Mapping[str, bool]
"""For each name in PERIODS whether this clip has it for certain."""


class Street(NamedTuple):
    """Cross-section and course. Pairs are (left, right)."""

    bend: float
    wavelength: float
    half: float  # half the width of the carriageway
    walk: tuple[float, float]  # width of the sidewalks
    verge: tuple[float, float]  # width of the grass behind them, 0 for none
    crossings: tuple[tuple[float, float], ...]  # (start, end) along y
    rails: bool

    def centre(self, y):
        """Returns x of the centre line at y."""
        return self.bend * (1 - np.cos(2 * np.pi * y / self.wavelength))

    def heading(self, y):
        """Returns the direction of the centre line at y, radians clockwise from the y axis."""
        return np.arctan(
            self.bend * 2 * np.pi / self.wavelength * np.sin(2 * np.pi * y / self.wavelength)
        )

    def setback(self, side):
        """Returns the lateral distance of the facades on a side."""
        k = (side + 1) // 2
        return self.half + self.walk[k] + self.verge[k]

    def crossed(self, y0, y1):
        """Returns whether a side street crosses between y0 and y1."""
        return any(y0 < end and y1 > start for start, end in self.crossings)

    def put(self, shape, lateral, y, turn=0.0):
        """Places a shape beyond the centre line, turned with the street and by `turn`."""
        return place(shape, self.centre(y) + lateral, y, self.heading(y) + turn)


class Rig(NamedTuple):
    """The camera and its motion."""

    focal: float  # image widths
    height: float  # metres above ground
    pitch: float  # radians downwards
    speed: float  # metres per frame
    lateral: float  # metres from the centre line
    sway: float  # radians, amplitude of the heading
    phase: float  # radians, of the sway
    hood: float  # share of the image height that the ego vehicle hides, 0 for none


class Scene(NamedTuple):
    """Everything that does not change within a clip."""

    shape: Shape
    street: Street
    light: Light
    rig: Rig
    paving: np.ndarray  # [4, 3] linear RGB of road, sidewalk, terrain, curb
    tiles: float  # metres, period of the paving stones


def generator(seed, split, *parts) -> np.random.Generator:
    """Returns a generator whose random numbers depend on nothing but its address."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), *parts])


def build_scene(seed: int, split: str, clip: int) -> Scene:
    """Builds the scene of a clip."""
    rng = generator(seed, split, clip, 1)
    offsets = generator(seed, split, 0, 2).integers(0, 60, len(PERIODS))
    has = {name: (clip + offset) % PERIODS[name] == 0 for name, offset in zip(PERIODS, offsets)}
    street = _street(rng, has)
    rig = _rig(rng)
    instances = _Instances()
    parts = [
        *_buildings(street, rng, density=0.35 if has['green'] else rng.uniform(0.7, 0.97)),
        *_borders(street, rng, has),
        *_trees(street, rng, density=0.8 if has['green'] else rng.uniform(0.0, 0.6)),
        *_furniture(street, rng),
        *_traffic(street, rng, has, rig, instances),
        *_people(street, rng, has, instances),
        *_backdrop(street, rng),
    ]
    paving = _paving(rng)
    return Scene(join(parts), street, draw_light(rng), rig, paving, rng.uniform(0.4, 1.2))


def _rig(rng) -> Rig:
    """Samples the camera of a clip."""
    return Rig(
        focal=rng.uniform(0.85, 1.1),
        height=rng.uniform(1.2, 1.7),
        pitch=np.deg2rad(rng.uniform(-0.5, 3.5)),
        speed=rng.uniform(0.5, 1.0),
        lateral=LANE / 2 + rng.uniform(-0.2, 0.2),
        sway=np.deg2rad(rng.uniform(0.3, 1.5)),
        phase=rng.uniform(0, 6.28),
        hood=rng.uniform(0.05, 0.11) if rng.random() < 0.4 else 0.0,
    )


def _paving(rng) -> np.ndarray:
    """Samples the colours of the ground, [4, 3]: road, sidewalk, terrain, curb."""
    road = rng.uniform(0.05, 0.16)
    walk = rng.uniform(0.1, 0.3)
    grass = np.array([rng.uniform(0.06, 0.16), rng.uniform(0.1, 0.19), 0.04])
    return np.stack(
        [road * _tint(rng), walk * _tint(rng), grass, rng.uniform(0.2, 0.4) * _tint(rng)]
    )


class _Instances:
    """Numbers instances.

    The ids are stable over a clip, because its scene is built once for all frames.
    """

    def __init__(self):
        self.last = 0

    def new(self, shape, velocity=(0.0, 0.0, 0.0)):
        """Returns a shape with the next id and a velocity in metres per frame."""
        self.last += 1
        return tag(shape, instance=self.last, velocity=velocity)


def _tint(rng, amount=0.08):
    """Samples a factor near 1 for each colour channel."""
    return 1 + rng.uniform(-amount, amount, 3)


def _street(rng, has: Contents) -> Street:
    """Samples the cross-section and the course of a street."""
    moving = has['traffic']
    lanes = 1 if rng.random() < 0.65 else 2
    verge = rng.uniform(1.5, 7, 2) * (rng.random(2) < (1.0 if has['green'] else 0.35))

    # Side streets.
    first = rng.uniform(20, 34) if has['crossing'] else rng.uniform(60, 140)
    crossings = [(first, first + rng.uniform(7, 11))]
    if rng.random() < 0.5:
        crossings.append((first + 65, first + 65 + rng.uniform(7, 11)))
    return Street(
        # Things move on straight lines, so the street of a clip with traffic is straight.
        bend=0.0 if moving else rng.uniform(-9, 9),
        wavelength=rng.uniform(180, 300),
        half=LANE * lanes + (2.2 if lanes == 1 else 0.3),
        walk=tuple(rng.uniform(2.2, 5.5, 2)),
        verge=tuple(verge),
        crossings=tuple(crossings),
        rails=bool(has['train']),
    )


# --- buildings ------------------------------------------------------------------------------------


def _facade(rng, stone):
    """Samples the surface of a facade: windows in stone, or bricks."""
    glass = rng.uniform(0.02, 0.12) * np.array([0.8, 0.95, 1.1])
    if rng.random() < 0.9:
        material = shapes.FACADE
        width = rng.uniform(1.7, 4.0)
        cell = (width, rng.uniform(2.7, 3.6))
        accent = glass
    else:
        material = shapes.BRICK
        cell = (0.5, 0.25)
        accent = stone * 0.6
    return surface(
        BUILDING, material, stone, rng, accent=accent, grain=rng.uniform(0.05, 0.3), cell=cell
    )


def _stone(rng):
    """Samples the colour of a wall."""
    palette = np.array(
        [[0.45, 0.4, 0.32], [0.3, 0.12, 0.08], [0.28, 0.28, 0.28], [0.6, 0.58, 0.54],
         [0.42, 0.3, 0.15], [0.2, 0.17, 0.15], [0.35, 0.38, 0.42], [0.5, 0.36, 0.28]]
    )  # fmt: skip
    return palette[rng.integers(len(palette))] * rng.uniform(0.6, 1.2) * _tint(rng, 0.1)


def _building(rng, width, depth, height) -> Shape:
    """Samples a building, perhaps with a pitched roof and a shop. Its depth is along x."""
    stone = _stone(rng)
    look = _facade(rng, stone)
    roof = surface(BUILDING, shapes.PLAIN, [0.2, 0.1, 0.07] * _tint(rng, 0.5), rng, grain=0.3)
    parts = [box((depth, width, height), look, cap=roof)]
    if rng.random() < 0.5:
        parts.append(_pitched_roof(rng, width, depth, height, roof))
    if rng.random() < 0.4:
        parts += _shop(rng, width, depth, stone)
    return join(parts)


def _pitched_roof(rng, width, depth, height, roof) -> Shape:
    """Samples a roof with a ridge, or with four slopes."""
    x = depth / 2
    y = width / 2
    overhang = 0.3
    eaves = (-x - overhang, x + overhang, -y, y)
    ridge = (-0.2, 0.2, -y, y) if rng.random() < 0.5 else (-x * 0.4, x * 0.4, -y * 0.6, y * 0.6)
    return shapes.frustum(eaves, ridge, (height, height + rng.uniform(1.5, 4)), roof)


def _shop(rng, width, depth, stone) -> list[Shape]:
    """Samples a band of shop windows and an awning over it."""
    panes = surface(
        BUILDING,
        shapes.GLASS,
        (0.04, 0.04, 0.05),
        rng,
        accent=stone * rng.uniform(0.3, 1),
        cell=(2, 1),
    )
    windows = box((depth + 0.1, width * 0.96, 2.4), panes, z=0.3)
    cloth = surface(BUILDING, shapes.PLAIN, rng.uniform(0.03, 0.5, 3), rng)
    awning = box((depth + 1.2, width * 0.9, 0.25), cloth, z=2.8)
    return [windows, awning]


def _buildings(street, rng, density) -> list[Shape]:
    """Samples rows of buildings with gaps. Gaps that are no side streets are gardens."""
    parts = []
    for side in (-1, 1):
        y = START - rng.uniform(0, 10)
        while y < FAR:
            width = rng.uniform(8, 20)
            depth = rng.uniform(8, 13)
            height = rng.uniform(5.5, 19)
            occupied = rng.random() < density and not street.crossed(y - 1, y + width + 1)
            if occupied:
                lateral = side * (street.setback(side) + rng.uniform(0.7, 1.4) + depth / 2)
                building = _building(rng, width, depth, height)
                parts.append(street.put(building, lateral, y + width / 2))
            elif street.crossed(y - 1, y + width + 1):
                width = 4.0
            else:
                parts += _garden(street, rng, side, y, y + width)
            y += width + (rng.uniform(1, 4) if rng.random() < 0.2 else 0.0)
    return parts


def _backdrop(street, rng) -> list[Shape]:
    """Samples houses and woods far to the sides and at the end.

    So the horizon is never bare.
    """
    places = []
    for side in (-1, 1):
        for y in np.arange(0, FAR + 60, 24):
            places.append((side * rng.uniform(48, 70), y))
    for x in np.arange(-75, 76, 22):
        places.append((x, FAR + rng.uniform(10, 40)))

    parts = []
    for lateral, y in places:
        if rng.random() < 0.6:
            shape = _building(rng, rng.uniform(16, 26), rng.uniform(12, 22), rng.uniform(7, 26))
        else:
            green = shapes.leaf_colour(rng) * 0.8
            look = surface(VEGETATION, shapes.FOLIAGE, green, rng, accent=green * 0.4, grain=0.5)
            shape = shapes.ellipsoid((0, 0, 3), (13, 13, rng.uniform(5, 12)), look)
        parts.append(street.put(shape, lateral, y))
    return parts


# --- plants and borders ---------------------------------------------------------------------------


def _garden(street, rng, side, y0, y1) -> list[Shape]:
    """Fills a gap between houses with bushes and trees."""
    parts = []
    for _ in range(rng.integers(2, 6)):
        lateral = side * (street.setback(side) + rng.uniform(1, 7))
        if rng.random() < 0.6:
            shape = shapes.bush(VEGETATION, rng.uniform(0.6, 1.8), rng)
        else:
            shape = shapes.tree(VEGETATION, rng)
        parts.append(street.put(shape, lateral, rng.uniform(y0, y1)))
    return parts


class _Border(NamedTuple):
    """A wall, fence or hedge."""

    look: np.ndarray
    height: float
    thickness: float


def _border(kind, rng) -> _Border:
    """Samples the look and size of a 'wall', 'fence' or 'hedge'."""
    stone = _stone(rng)
    if kind == 'wall':
        height = rng.uniform(0.9, 2.6)
        material, cell = (
            (shapes.BRICK, (0.6, 0.3)) if rng.random() < 0.6 else (shapes.PLAIN, (1, 1))
        )
        look = surface(WALL, material, stone, rng, accent=stone * 0.55, grain=0.3, cell=cell)
        return _Border(look, height, 0.3)
    if kind == 'fence':
        height = rng.uniform(0.9, 2.0)
        colour = rng.uniform(0.02, 0.5) * _tint(rng, 0.3)
        leaves = shapes.leaf_colour(rng)
        cell = (rng.uniform(0.12, 0.5), height)
        look = surface(FENCE, shapes.BARS, colour, rng, accent=leaves, cell=cell)
        return _Border(look, height, 0.08)
    height = rng.uniform(0.8, 2.2)
    green = shapes.leaf_colour(rng)
    look = surface(VEGETATION, shapes.FOLIAGE, green, rng, accent=green * 0.35, grain=0.6)
    return _Border(look, height, 0.9)


def _borders(street, rng, has: Contents) -> list[Shape]:
    """Samples walls, fences and hedges between sidewalk and houses."""
    # (kind, side, start) of each border. First come the borders that the clip must have.
    spans = []
    for kind in ('wall', 'fence'):
        if has[kind]:
            side = rng.choice([-1, 1])
            spans.append((kind, side, rng.uniform(5, 16)))
    for y in np.arange(20, 150, 22):
        if rng.random() < 0.35:
            kind = rng.choice(['wall', 'fence', 'hedge'])
            spans.append((kind, rng.choice([-1, 1]), y))

    # Build them in pieces of 3 m. Pieces in side streets or earlier borders are skipped.
    parts = []
    occupied = {-1: [], 1: []}
    for kind, side, start in spans:
        y = start
        end = start + rng.uniform(10, 24)
        border = _border(kind, rng)
        piece = box((border.thickness, 3.02, border.height), border.look)
        while y < end:
            free = not any(a < y + 3 and y < b for a, b in occupied[side])
            if free and not street.crossed(y, y + 3):
                lateral = side * (street.setback(side) + 0.05)
                parts.append(street.put(piece, lateral, y + 1.5))
            y += 3
        occupied[side].append((start, end))
    return parts


def _trees(street, rng, density) -> list[Shape]:
    """Samples rows of trees on the verge or the sidewalk, and bushes on the verge."""
    parts = []
    for side in (-1, 1):
        k = (side + 1) // 2

        # Trees.
        y = START + rng.uniform(0, 10)
        while y < FAR - 40:
            if rng.random() < density and not street.crossed(y - 3, y + 3):
                on_verge = street.verge[k] > 1.5 and rng.random() < 0.7
                out = street.half + (street.walk[k] + street.verge[k] / 2 if on_verge else 0.7)
                tree = shapes.tree(VEGETATION, rng)
                parts.append(street.put(tree, side * out, y, rng.uniform(0, 6.28)))
            y += rng.uniform(7, 13)

        # Bushes.
        for _ in range(int(8 * (street.verge[k] > 0))):
            y = rng.uniform(0, 90)
            if not street.crossed(y - 2, y + 2):
                bush = shapes.bush(VEGETATION, rng.uniform(0.3, 0.8), rng)
                out = street.half + street.walk[k] + 0.6 * street.verge[k]
                parts.append(street.put(bush, side * out, y))
    return parts


# --- street furniture -----------------------------------------------------------------------------


def _post(rng, height, radius, colour) -> Shape:
    """Builds an upright post."""
    look = surface(POLE, shapes.PLAIN, colour, rng, grain=0.1)
    return box((2 * radius, 2 * radius, height), look)


def _sign(rng) -> Shape:
    """Samples a sign on its pole, facing against the direction of travel.

    The sign is a disc, a board or a diamond.
    """
    height = rng.uniform(2.0, 2.6)
    size = rng.uniform(0.6, 0.85)
    red = [0.5, 0.02, 0.02]
    blue = [0.02, 0.08, 0.4]
    white = [0.75, 0.75, 0.75]
    yellow = [0.6, 0.42, 0.02]
    kinds = ((red, white), (red, white), (blue, blue), (white, yellow), (red, red))
    ring, inner = kinds[rng.integers(5)]
    is_round = rng.random() < 0.55
    material = shapes.ROUND_SIGN if is_round else shapes.SIGN
    look = surface(TRAFFIC_SIGN, material, inner, rng, accent=ring, grain=0.03, cell=(size, size))
    if not is_round and rng.random() < 0.4:
        size *= 0.75
        board = shapes.panel((0, -0.06, height), (size, 0, size), (-size, 0, size), look)
    else:
        corner = (-size / 2, -0.06, height)
        board = shapes.panel(corner, (size, 0, 0), (0, 0, size), look, disc=is_round)
    return join([_post(rng, height + size, 0.04, np.full(3, 0.25)), board])


def _traffic_light(rng, arm) -> Shape:
    """Samples lamps on a post and, with `arm` metres to the left, above the street."""
    grey = np.full(3, rng.uniform(0.06, 0.35))
    box_colour = np.array([0.02, 0.02, 0.02]) if rng.random() < 0.7 else np.array([0.35, 0.3, 0.02])
    lamps = surface(
        TRAFFIC_LIGHT,
        shapes.LAMPS,
        box_colour,
        rng,
        accent=(rng.integers(0, 3) / 2, 0, 0),
        cell=(0.32, 0.95),
    )
    head = box((0.34, 0.3, 0.95), lamps)
    parts = [_post(rng, 3.4 if not arm else 5.6, 0.07, grey), place(head, 0, -0.2, 0, 2.3)]
    if arm:
        beam = surface(POLE, shapes.PLAIN, grey, rng)
        parts.append(box((arm, 0.1, 0.1), beam, z=5.4, centre=(-arm / 2, 0)))
        parts.append(place(head, -arm, -0.12, 0, 4.8))
    return join(parts)


def _lamp_post(rng, reach) -> Shape:
    """Samples a lamp post whose lamp is `reach` metres to the right."""
    grey = np.full(3, rng.uniform(0.05, 0.4))
    height = rng.uniform(5.5, 8.5)
    look = surface(POLE, shapes.PLAIN, grey, rng)
    arm = box((abs(reach), 0.08, 0.08), look, z=height, centre=(reach / 2, 0))
    post = _post(rng, height, rng.uniform(0.06, 0.1), grey)
    lamp = box((0.5, 0.2, 0.12), look, z=height - 0.1, centre=(reach, 0))
    return join([post, arm, lamp])


def _furniture(street, rng) -> list[Shape]:
    """Samples lamp posts, signs, traffic lights and bollards, and bins without a class."""
    return [
        *_lamp_posts(street, rng),
        *_signs(street, rng),
        *_traffic_lights(street, rng),
        *_bollards(street, rng),
        *_bins(street, rng),
    ]


def _lamp_posts(street, rng) -> list[Shape]:
    """Samples a row of lamp posts that changes sides."""
    parts = []
    step = rng.uniform(18, 32)
    y = START + rng.uniform(5, 20)
    side = rng.choice([-1, 1])
    while y < FAR - 40:
        parts.append(street.put(_lamp_post(rng, -side * 1.4), side * (street.half + 0.45), y))
        if rng.random() < 0.7:
            side = -side
        y = y + step
    return parts


def _signs(street, rng) -> list[Shape]:
    """Samples traffic signs. Most are on the right."""
    parts = []
    for _ in range(rng.integers(4, 9)):
        side = rng.choice([-1, 1], p=[0.35, 0.65])
        y = rng.uniform(8, 70)
        turn = 0.0 if side > 0 or rng.random() < 0.5 else np.pi
        if not street.crossed(y - 0.5, y + 0.5):
            sign = _sign(rng)
            lateral = side * (street.half + rng.uniform(0.35, 0.7))
            parts.append(street.put(sign, lateral, y, turn))
    return parts


def _traffic_lights(street, rng) -> list[Shape]:
    """Samples traffic lights in front of side streets."""
    parts = []
    for start, _ in street.crossings:
        if rng.random() < 0.85 or start < 40:
            for side in (-1, 1):
                arm = 3.2 if side > 0 and rng.random() < 0.6 else 0.0
                light = _traffic_light(rng, arm)
                parts.append(street.put(light, side * (street.half + 0.4), start - 1.0))
    return parts


def _bollards(street, rng) -> list[Shape]:
    """Samples a row of bollards in some clips."""
    parts = []
    if rng.random() < 0.4:
        side = rng.choice([-1, 1])
        colour = rng.uniform(0.05, 0.4) * _tint(rng, 0.2)
        for y in np.arange(rng.uniform(3, 9), 40, rng.uniform(2, 4)):
            parts.append(street.put(_post(rng, 0.95, 0.06, colour), side * (street.half + 0.3), y))
    return parts


def _bins(street, rng) -> list[Shape]:
    """Samples bins and cabinets on the sidewalk. They have no class."""
    parts = []
    for _ in range(rng.integers(1, 6)):
        side = rng.choice([-1, 1])
        y = rng.uniform(4, 50)
        size = (rng.uniform(0.5, 0.8), rng.uniform(0.5, 1.4), rng.uniform(0.8, 1.4))
        look = surface(VOID, shapes.PLAIN, rng.uniform(0.03, 0.35, 3), rng, grain=0.2)
        lateral = side * (street.half + street.walk[(side + 1) // 2] - 0.5)
        parts.append(street.put(box(size, look), lateral, y))
    return parts


# --- vehicles -------------------------------------------------------------------------------------


def _paint(rng):
    """Samples the colour of a vehicle: mostly grey, sometimes coloured."""
    if rng.random() < 0.65:
        return np.full(3, rng.choice([0.02, 0.06, 0.18, 0.35, 0.7])) * _tint(rng)
    return rng.uniform(0.02, 0.5, 3)


class _Lanes:
    """Occupied stretches of each lane."""

    def __init__(self):
        self.spans = {}

    def find(self, rng, lane, length, low, high):
        """Books a free y in [low, high] for a thing of this length. None after twelve attempts."""
        for _ in range(12):
            y = rng.uniform(low, high)
            span = (y - length / 2 - 0.8, y + length / 2 + 0.8)
            if all(span[1] < a or span[0] > b for a, b in self.spans.get(lane, [])):
                self.spans.setdefault(lane, []).append(span)
                return y
        return None


class _Spot(NamedTuple):
    """Where a vehicle may be, and how it moves."""

    lane: str
    lateral: float
    length: float  # of the vehicle
    low: float  # range of y
    high: float
    turn: float = 0.0  # radians
    speed: float = 0.0  # metres per frame along y


class _Traffic:
    """The vehicles of a scene while they are placed, kind by kind."""

    def __init__(self, street, rng, has: Contents, instances):
        self.street = street
        self.rng = rng
        self.has = has
        self.moving = has['traffic']
        self.kerb = street.half - 1.15  # lateral distance of parked vehicles
        self.instances = instances
        self.lanes = _Lanes()
        self.parts: list[Shape] = []

    def add(self, shape: Shape, spot: _Spot) -> bool:
        """Adds a vehicle if its lane has room. Vehicles at the kerb do not block side streets."""
        y = self.lanes.find(self.rng, spot.lane, spot.length, spot.low, spot.high)
        if y is None:
            return False
        half = spot.length / 2
        if spot.lane.startswith('kerb') and self.street.crossed(y - half, y + half):
            return False
        placed = self.street.put(shape, spot.lateral, y, spot.turn)
        self.parts.append(self.instances.new(placed, (0.0, spot.speed, 0.0)))
        return True


def _traffic(street, rng, has: Contents, rig, instances) -> list[Shape]:
    """Samples vehicles: parked, oncoming, ahead, waiting in side streets."""
    traffic = _Traffic(street, rng, has, instances)
    if has['train']:
        _add_tram(traffic)
    _add_bus_and_truck(traffic)
    _add_two_wheelers(traffic, 'motorcycle', MOTORCYCLE, 0.3, 1.35)
    _add_two_wheelers(traffic, 'bicycle', BICYCLE, 0.34, 1.05)
    if not has['train']:
        _add_oncoming_cars(traffic)
    if traffic.moving:
        car = shapes.car(CAR, _paint(rng), rng)
        traffic.add(car, _Spot('ahead', LANE / 2, 5, 9, 28, speed=rig.speed))
    _add_parked_cars(traffic)
    _add_waiting_cars(traffic)
    return traffic.parts


def _add_tram(traffic: _Traffic) -> None:
    """Adds a tram on the rails of the left lane."""
    rng = traffic.rng
    length = rng.uniform(20, 28)
    tram = shapes.coach(TRAIN, (2.4, length, 3.4), _paint(rng), _paint(rng), rng, cars=3)
    spot = _Spot('left', -LANE / 2, length, 16 + length / 2, 30 + length / 2, turn=np.pi)
    traffic.add(tram, spot)


def _add_bus_and_truck(traffic: _Traffic) -> None:
    """Adds a bus and a truck if the clip must have them."""
    rng = traffic.rng
    length = rng.uniform(9.5, 12)
    bus = shapes.coach(BUS, (2.5, length, 3.05), _paint(rng), _paint(rng), rng)
    truck = shapes.truck(TRUCK, _paint(rng), rng)
    if traffic.has['bus']:
        _add_long_vehicle(traffic, bus, length)
    if traffic.has['truck']:
        _add_long_vehicle(traffic, truck, 8.0)


def _add_long_vehicle(traffic: _Traffic, shape: Shape, length: float) -> None:
    """Adds an oncoming or parked vehicle.

    It is before the first crossing if that crossing is near, so that it is sure to get a place.
    """
    placed = False
    if not traffic.has['train'] and traffic.rng.random() < 0.5:
        speed = -0.4 * traffic.moving
        spot = _Spot('left', -LANE / 2, length, 14 + length / 2, 44.0, turn=np.pi, speed=speed)
        placed = traffic.add(shape, spot)

    near = min(traffic.street.crossings[0][0], 32.0)
    low = 8 + length / 2
    high = max(near - length / 2 - 0.5, 8.1 + length / 2)
    for side in (1, -1):
        if not placed:
            lane = 'kerb right' if side > 0 else 'kerb left'
            lateral = side * (traffic.kerb - 0.1)
            spot = _Spot(lane, lateral, length, low, high, turn=np.pi * (side < 0))
            placed = traffic.add(shape, spot)


def _add_two_wheelers(traffic: _Traffic, name: str, label: int, radius: float, base: float) -> None:
    """Adds parked motorcycles or bicycles if the clip must have them.

    Args:
      traffic: gets the vehicles.
      name: 'motorcycle' or 'bicycle'.
      label: train id.
      radius: of the wheels, metres.
      base: distance of the axles, metres.
    """
    rng = traffic.rng
    half = traffic.street.half
    for _ in range(rng.integers(1, 4) if traffic.has[name] else 0):
        shape = shapes.two_wheeler(label, radius, base, _paint(rng), rng)
        side = rng.choice([-1, 1])
        lean = rng.uniform(0.8, 2.3)
        at_kerb = name == 'motorcycle' and rng.random() < 0.6
        lateral = side * (half + (-0.7 if at_kerb else rng.uniform(0.6, 1.5)))
        lane = f'kerb {"left" if side < 0 else "right"}' if at_kerb else f'walk {side}'
        turn = lean if rng.random() < 0.7 else 0.0
        traffic.add(shape, _Spot(lane, lateral, 2.0, 5, 20, turn=turn))


def _add_oncoming_cars(traffic: _Traffic) -> None:
    """Adds cars in the left lane. They do not move in a clip without traffic."""
    rng = traffic.rng
    speed = -0.6 if traffic.moving else 0.0
    for _ in range(rng.integers(1, 5) if traffic.moving or rng.random() < 0.3 else 0):
        car = shapes.car(CAR, _paint(rng), rng)
        traffic.add(car, _Spot('left', -LANE / 2, 5, 12, 120, turn=np.pi, speed=speed))


def _add_parked_cars(traffic: _Traffic) -> None:
    """Adds rows of cars at both kerbs. A row may be empty."""
    rng = traffic.rng
    for side, lane in ((-1, 'kerb left'), (1, 'kerb right')):
        density = rng.uniform(-0.35, 0.85)
        for y in np.arange(START, FAR - 60, 5.6):
            if rng.random() < density and not traffic.street.crossed(y - 4, y + 4):
                turn = np.pi * (side < 0) + rng.normal(0, 0.02)
                car = shapes.car(CAR, _paint(rng), rng)
                lateral = side * (traffic.kerb + rng.normal(0, 0.08))
                traffic.add(car, _Spot(lane, lateral, 4.4, y - 0.3, y + 0.3, turn=turn))


def _add_waiting_cars(traffic: _Traffic) -> None:
    """Adds cars that wait in side streets."""
    rng = traffic.rng
    street = traffic.street
    for start, end in street.crossings:
        for side in (-1, 1):
            if rng.random() < 0.5:
                car = shapes.car(CAR, _paint(rng), rng)
                lateral = side * (street.setback(side) + rng.uniform(0, 6))
                middle = (start + end) / 2 + side * 1.6
                placed = street.put(car, lateral, middle, -side * np.pi / 2)
                traffic.parts.append(traffic.instances.new(placed))


# --- people ---------------------------------------------------------------------------------------


def _people(street, rng, has: Contents, instances) -> list[Shape]:
    """Samples people on the sidewalks and on crossings, and riders."""
    parts = _pedestrians(street, rng, has['traffic'], instances)
    if has['traffic'] and has['crossing']:
        parts += _crossing_pedestrians(street, rng, instances)
    if has['rider']:
        parts += _riders(street, rng, has, instances)
    return parts


def _pedestrians(street, rng, moving, instances) -> list[Shape]:
    """Samples people on the sidewalks, more of them near the start. With `moving` most walk."""
    parts = []
    for _ in range(rng.integers(3, 20)):
        side = rng.choice([-1, 1])
        y = 5 + 60 * rng.random() ** 2.2
        k = (side + 1) // 2

        # Some walk along the street.
        ahead = rng.random() < 0.5
        velocity = (0, 0, 0)
        if moving and rng.random() < 0.7:
            velocity = (0.0, (0.1 if ahead else -0.1) * rng.uniform(0.7, 1.3), 0.0)
        lateral = side * (street.half + rng.uniform(0.9, street.walk[k] - 0.3))
        turn = np.pi * (not ahead) + rng.normal(0, 0.3)
        if not moving and rng.random() < 0.4:
            turn = rng.uniform(0, 6.28)
        person = street.put(shapes.person(PERSON, rng), lateral, y, turn)
        parts.append(instances.new(person, velocity))
    return parts


def _crossing_pedestrians(street, rng, instances) -> list[Shape]:
    """Samples people on their way across the street, before the first side street."""
    parts = []
    y = street.crossings[0][0] - rng.uniform(2, 4)
    for _ in range(rng.integers(1, 4)):
        lateral = rng.uniform(-street.half, street.half)
        person = shapes.person(PERSON, rng)
        walker = street.put(person, lateral, y + rng.uniform(-1, 1), np.pi / 2)
        parts.append(instances.new(walker, (0.1, 0.0, 0.0)))
    return parts


def _riders(street, rng, has: Contents, instances) -> list[Shape]:
    """Samples riders with their bicycles or motorcycles."""
    parts = []
    for _ in range(rng.integers(1, 4)):
        y = rng.uniform(7, 26)
        heavy = has['motorcycle'] and rng.random() < 0.4
        vehicle = (MOTORCYCLE, 0.3, 1.35) if heavy else (BICYCLE, 0.34, 1.05)
        oncoming = rng.random() < 0.35
        lateral = -LANE + 0.4 if oncoming else LANE - 0.15
        velocity = (0.0, (-0.35 if oncoming else 0.35) * has['traffic'], 0.0)
        turn = np.pi * oncoming
        bike = shapes.two_wheeler(*vehicle, _paint(rng), rng)
        rider = place(shapes.person(RIDER, rng, seated=0.85 if heavy else 1.0), 0, -0.2)
        parts.append(instances.new(street.put(bike, lateral, y, turn), velocity))
        parts.append(instances.new(street.put(rider, lateral, y, turn), velocity))
    return parts
