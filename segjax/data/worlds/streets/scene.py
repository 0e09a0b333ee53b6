"""The layout of a street: which things stand or move where, under which light. One scene per (seed, split, clip).

World: y along the street at the start, x to the right, z up, ground at z = 0. The street bends: its centre line is
x = bend * (1 - cos(2 pi y / wavelength)). `lateral` is the offset in x from that line.
"""

import zlib
from typing import NamedTuple

import numpy as np

from segjax.data.worlds import shapes
from segjax.data.worlds.light import Light, draw_light
from segjax.data.worlds.shapes import Shape, box, join, place, surface, tag

(ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR,
 TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE) = range(19)  # fmt: skip
VOID = 255

LANE = 3.3
FAR = 200.0
START = -14.0

PERIODS = {'bus': 3, 'truck': 3, 'train': 4, 'motorcycle': 2, 'bicycle': 2, 'rider': 2, 'wall': 2, 'fence': 2,
           'crossing': 2, 'traffic': 2, 'green': 3}  # fmt: skip
"""Every n-th clip of a split has this for certain (offsets depend on seed and split), so that few clips hold all."""


class Street(NamedTuple):
    """Cross-section and course. Pairs are (left, right)."""

    bend: float
    wavelength: float
    half: float  # half the width of the carriageway
    walk: tuple[float, float]  # width of the sidewalks
    verge: tuple[float, float]  # width of the grass behind them; 0: none
    crossings: tuple[tuple[float, float], ...]  # (start, end) along y
    rails: bool

    def centre(self, y):
        return self.bend * (1 - np.cos(2 * np.pi * y / self.wavelength))

    def heading(self, y):
        return np.arctan(
            self.bend * 2 * np.pi / self.wavelength * np.sin(2 * np.pi * y / self.wavelength)
        )

    def setback(self, side):
        """Lateral distance of the facades on side -1 or 1."""
        k = (side + 1) // 2
        return self.half + self.walk[k] + self.verge[k]

    def crossed(self, y0, y1):
        return any(y0 < end and y1 > start for start, end in self.crossings)

    def put(self, shape, lateral, y, turn=0.0):
        return place(shape, self.centre(y) + lateral, y, self.heading(y) + turn)


class Rig(NamedTuple):
    """The camera: focal length in image widths, metres above ground, radians downwards, metres per frame, ..."""

    focal: float
    height: float
    pitch: float
    speed: float
    lateral: float
    sway: float
    phase: float
    hood: float  # share of the image height that the ego vehicle hides; 0: none


class Scene(NamedTuple):
    shape: Shape
    street: Street
    light: Light
    rig: Rig
    paving: np.ndarray  # [4, 3] linear RGB of road, sidewalk, terrain, curb
    tiles: float  # metres, period of the paving stones


def generator(seed, split, *parts) -> np.random.Generator:
    """Random numbers that depend on nothing but their address."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), *parts])


def build_scene(seed: int, split: str, clip: int) -> Scene:
    rng = generator(seed, split, clip, 1)
    offsets = generator(seed, split, 0, 2).integers(0, 60, len(PERIODS))
    has = {name: (clip + offset) % PERIODS[name] == 0 for name, offset in zip(PERIODS, offsets)}
    street = _street(rng, has)
    rig = Rig(
        focal=rng.uniform(0.85, 1.1), height=rng.uniform(1.2, 1.7), pitch=np.deg2rad(rng.uniform(-0.5, 3.5)),
        speed=rng.uniform(0.5, 1.0), lateral=LANE / 2 + rng.uniform(-0.2, 0.2), sway=np.deg2rad(rng.uniform(0.3, 1.5)),
        phase=rng.uniform(0, 6.28), hood=rng.uniform(0.05, 0.11) if rng.random() < 0.4 else 0.0,
    )  # fmt: skip
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
    road, walk = rng.uniform(0.05, 0.16), rng.uniform(0.1, 0.3)
    grass = np.array([rng.uniform(0.06, 0.16), rng.uniform(0.1, 0.19), 0.04])
    paving = np.stack(
        [road * _tint(rng), walk * _tint(rng), grass, rng.uniform(0.2, 0.4) * _tint(rng)]
    )
    return Scene(join(parts), street, draw_light(rng), rig, paving, rng.uniform(0.4, 1.2))


class _Instances:
    """Counts up; ids are stable over a clip because the scene is built once for all its frames."""

    def __init__(self):
        self.last = 0

    def new(self, shape, velocity=(0.0, 0.0, 0.0)):
        self.last += 1
        return tag(shape, instance=self.last, velocity=velocity)


def _tint(rng, amount=0.08):
    return 1 + rng.uniform(-amount, amount, 3)


def _street(rng, has):
    moving = has['traffic']
    lanes = 1 if rng.random() < 0.65 else 2
    verge = rng.uniform(1.5, 7, 2) * (rng.random(2) < (1.0 if has['green'] else 0.35))
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


def _facade(rng, stone):
    glass = rng.uniform(0.02, 0.12) * np.array([0.8, 0.95, 1.1])
    material = shapes.FACADE if rng.random() < 0.9 else shapes.BRICK
    cell = (
        (rng.uniform(1.7, 4.0), rng.uniform(2.7, 3.6)) if material == shapes.FACADE else (0.5, 0.25)
    )
    accent = glass if material == shapes.FACADE else stone * 0.6
    return surface(
        BUILDING, material, stone, rng, accent=accent, grain=rng.uniform(0.05, 0.3), cell=cell
    )


def _stone(rng):
    palette = np.array(
        [[0.45, 0.4, 0.32], [0.3, 0.12, 0.08], [0.28, 0.28, 0.28], [0.6, 0.58, 0.54], [0.42, 0.3, 0.15],
         [0.2, 0.17, 0.15], [0.35, 0.38, 0.42], [0.5, 0.36, 0.28]]
    )  # fmt: skip
    return palette[rng.integers(len(palette))] * rng.uniform(0.6, 1.2) * _tint(rng, 0.1)


def _building(rng, width, depth, height):
    stone = _stone(rng)
    look = _facade(rng, stone)
    roof = surface(BUILDING, shapes.PLAIN, [0.2, 0.1, 0.07] * _tint(rng, 0.5), rng, grain=0.3)
    parts = [box((depth, width, height), look, cap=roof)]
    x, y = depth / 2, width / 2
    if rng.random() < 0.5:
        over = 0.3
        eaves = (-x - over, x + over, -y, y)
        ridge = (-0.2, 0.2, -y, y) if rng.random() < 0.5 else (-x * 0.4, x * 0.4, -y * 0.6, y * 0.6)
        parts.append(shapes.frustum(eaves, ridge, (height, height + rng.uniform(1.5, 4)), roof))
    if rng.random() < 0.4:
        shop = surface(
            BUILDING,
            shapes.GLASS,
            (0.04, 0.04, 0.05),
            rng,
            accent=stone * rng.uniform(0.3, 1),
            cell=(2, 1),
        )
        parts.append(box((depth + 0.1, width * 0.96, 2.4), shop, z=0.3))
        parts.append(box((depth + 1.2, width * 0.9, 0.25),
                         surface(BUILDING, shapes.PLAIN, rng.uniform(0.03, 0.5, 3), rng), z=2.8))  # fmt: skip
    return join(parts)


def _buildings(street, rng, density):
    parts = []
    for side in (-1, 1):
        y = START - rng.uniform(0, 10)
        while y < FAR:
            width, depth, height = rng.uniform(8, 20), rng.uniform(8, 13), rng.uniform(5.5, 19)
            occupied = rng.random() < density and not street.crossed(y - 1, y + width + 1)
            if occupied:
                lateral = side * (street.setback(side) + rng.uniform(0.7, 1.4) + depth / 2)
                parts.append(
                    street.put(_building(rng, width, depth, height), lateral, y + width / 2)
                )
            elif street.crossed(y - 1, y + width + 1):
                width = 4.0
            else:
                parts += _garden(street, rng, side, y, y + width)
            y += width + (rng.uniform(1, 4) if rng.random() < 0.2 else 0.0)
    return parts


def _garden(street, rng, side, y0, y1):
    """What fills a gap between houses: bushes, and trees further back."""
    parts = []
    for _ in range(rng.integers(2, 6)):
        lateral = side * (street.setback(side) + rng.uniform(1, 7))
        shape = (
            shapes.bush(VEGETATION, rng.uniform(0.6, 1.8), rng)
            if rng.random() < 0.6
            else shapes.tree(VEGETATION, rng)
        )
        parts.append(street.put(shape, lateral, rng.uniform(y0, y1)))
    return parts


def _borders(street, rng, has):
    """Walls, fences and hedges between sidewalk and houses."""
    kinds = [name for name in ('wall', 'fence') if has[name]]
    spans = [(kind, rng.choice([-1, 1]), rng.uniform(5, 16)) for kind in kinds]
    spans += [(rng.choice(['wall', 'fence', 'hedge']), rng.choice([-1, 1]), y) for y in np.arange(20, 150, 22)
              if rng.random() < 0.35]  # fmt: skip
    parts, taken = [], {-1: [], 1: []}
    for kind, side, start in spans:
        y = start
        end = start + rng.uniform(10, 24)
        stone = _stone(rng)
        if kind == 'wall':
            height, thickness = rng.uniform(0.9, 2.6), 0.3
            material, cell = (
                (shapes.BRICK, (0.6, 0.3)) if rng.random() < 0.6 else (shapes.PLAIN, (1, 1))
            )
            look = surface(WALL, material, stone, rng, accent=stone * 0.55, grain=0.3, cell=cell)
        elif kind == 'fence':
            height, thickness = rng.uniform(0.9, 2.0), 0.08
            colour = rng.uniform(0.02, 0.5) * _tint(rng, 0.3)
            look = surface(
                FENCE,
                shapes.BARS,
                colour,
                rng,
                accent=shapes.leaf_colour(rng),
                cell=(rng.uniform(0.12, 0.5), height),
            )
        else:
            height, thickness = rng.uniform(0.8, 2.2), 0.9
            green = shapes.leaf_colour(rng)
            look = surface(VEGETATION, shapes.FOLIAGE, green, rng, accent=green * 0.35, grain=0.6)
        while y < end:
            if not street.crossed(y, y + 3) and not any(
                a < y + 3 and y < b for a, b in taken[side]
            ):
                lateral = side * (street.setback(side) + 0.05)
                parts.append(street.put(box((thickness, 3.02, height), look), lateral, y + 1.5))
            y += 3
        taken[side].append((start, end))
    return parts


def _trees(street, rng, density):
    parts = []
    for side in (-1, 1):
        k = (side + 1) // 2
        y = START + rng.uniform(0, 10)
        while y < FAR - 40:
            if rng.random() < density and not street.crossed(y - 3, y + 3):
                on_verge = street.verge[k] > 1.5 and rng.random() < 0.7
                out = street.half + (street.walk[k] + street.verge[k] / 2 if on_verge else 0.7)
                parts.append(
                    street.put(shapes.tree(VEGETATION, rng), side * out, y, rng.uniform(0, 6.28))
                )
            y += rng.uniform(7, 13)
        for _ in range(int(8 * (street.verge[k] > 0))):
            y = rng.uniform(0, 90)
            if not street.crossed(y - 2, y + 2):
                bush = shapes.bush(VEGETATION, rng.uniform(0.3, 0.8), rng)
                parts.append(
                    street.put(
                        bush, side * (street.half + street.walk[k] + 0.6 * street.verge[k]), y
                    )
                )
    return parts


def _post(rng, height, radius, colour):
    return box(
        (2 * radius, 2 * radius, height), surface(POLE, shapes.PLAIN, colour, rng, grain=0.1)
    )


def _sign(rng):
    """A sign on its pole: disc, board or diamond, facing against the direction of travel."""
    height, size = rng.uniform(2.0, 2.6), rng.uniform(0.6, 0.85)
    red, blue, white, yellow = (
        [0.5, 0.02, 0.02],
        [0.02, 0.08, 0.4],
        [0.75, 0.75, 0.75],
        [0.6, 0.42, 0.02],
    )
    ring, inner = ((red, white), (red, white), (blue, blue), (white, yellow), (red, red))[
        rng.integers(5)
    ]
    round_one = rng.random() < 0.55
    material = shapes.ROUND_SIGN if round_one else shapes.SIGN
    look = surface(TRAFFIC_SIGN, material, inner, rng, accent=ring, grain=0.03, cell=(size, size))
    if not round_one and rng.random() < 0.4:
        size *= 0.75
        board = shapes.panel((0, -0.06, height), (size, 0, size), (-size, 0, size), look)
    else:
        board = shapes.panel(
            (-size / 2, -0.06, height), (size, 0, 0), (0, 0, size), look, disc=round_one
        )
    return join([_post(rng, height + size, 0.04, np.full(3, 0.25)), board])


def _traffic_light(rng, arm):
    """Lamps on a post and, with `arm` metres to the left, above the street."""
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
        parts += [
            box((arm, 0.1, 0.1), beam, z=5.4, centre=(-arm / 2, 0)),
            place(head, -arm, -0.12, 0, 4.8),
        ]
    return join(parts)


def _lamp_post(rng, reach):
    grey = np.full(3, rng.uniform(0.05, 0.4))
    height = rng.uniform(5.5, 8.5)
    look = surface(POLE, shapes.PLAIN, grey, rng)
    arm = box((abs(reach), 0.08, 0.08), look, z=height, centre=(reach / 2, 0))
    return join(
        [
            _post(rng, height, rng.uniform(0.06, 0.1), grey),
            arm,
            box((0.5, 0.2, 0.12), look, z=height - 0.1, centre=(reach, 0)),
        ]
    )


def _furniture(street, rng):
    """Lamp posts, signs, traffic lights, bollards; bins and cabinets that have no class."""
    parts = []
    step, y = rng.uniform(18, 32), START + rng.uniform(5, 20)
    side = rng.choice([-1, 1])
    while y < FAR - 40:
        parts.append(street.put(_lamp_post(rng, -side * 1.4), side * (street.half + 0.45), y))
        side, y = (-side if rng.random() < 0.7 else side), y + step
    for _ in range(rng.integers(4, 9)):
        side, y = rng.choice([-1, 1], p=[0.35, 0.65]), rng.uniform(8, 70)
        turn = 0.0 if side > 0 or rng.random() < 0.5 else np.pi
        if not street.crossed(y - 0.5, y + 0.5):
            parts.append(
                street.put(_sign(rng), side * (street.half + rng.uniform(0.35, 0.7)), y, turn)
            )
    for start, _ in street.crossings:
        if rng.random() < 0.85 or start < 40:
            for side in (-1, 1):
                arm = 3.2 if side > 0 and rng.random() < 0.6 else 0.0
                parts.append(
                    street.put(_traffic_light(rng, arm), side * (street.half + 0.4), start - 1.0)
                )
    if rng.random() < 0.4:
        side, colour = rng.choice([-1, 1]), rng.uniform(0.05, 0.4) * _tint(rng, 0.2)
        for y in np.arange(rng.uniform(3, 9), 40, rng.uniform(2, 4)):
            parts.append(street.put(_post(rng, 0.95, 0.06, colour), side * (street.half + 0.3), y))
    for _ in range(rng.integers(1, 6)):
        side, y = rng.choice([-1, 1]), rng.uniform(4, 50)
        size = (rng.uniform(0.5, 0.8), rng.uniform(0.5, 1.4), rng.uniform(0.8, 1.4))
        look = surface(VOID, shapes.PLAIN, rng.uniform(0.03, 0.35, 3), rng, grain=0.2)
        parts.append(
            street.put(
                box(size, look), side * (street.half + street.walk[(side + 1) // 2] - 0.5), y
            )
        )
    return parts


def _paint(rng):
    if rng.random() < 0.65:
        return np.full(3, rng.choice([0.02, 0.06, 0.18, 0.35, 0.7])) * _tint(rng)
    return rng.uniform(0.02, 0.5, 3)


class _Lanes:
    """Who occupies which stretch of a lane."""

    def __init__(self):
        self.spans = {}

    def find(self, rng, lane, length, low, high):
        """A free y in [low, high] for something of this length, booked; None if twelve tries find none."""
        for _ in range(12):
            y = rng.uniform(low, high)
            span = (y - length / 2 - 0.8, y + length / 2 + 0.8)
            if all(span[1] < a or span[0] > b for a, b in self.spans.get(lane, [])):
                self.spans.setdefault(lane, []).append(span)
                return y
        return None


def _traffic(street, rng, has, rig, instances):
    """Vehicles: parked, oncoming, ahead, waiting in side streets."""
    parts, lanes = [], _Lanes()
    kerb = street.half - 1.15
    moving = has['traffic']

    def add(shape, lane, lateral, length, low, high, *, turn=0.0, speed=0.0):
        y = lanes.find(rng, lane, length, low, high)
        if y is not None and not (
            lane.startswith('kerb') and street.crossed(y - length / 2, y + length / 2)
        ):
            parts.append(instances.new(street.put(shape, lateral, y, turn), (0.0, speed, 0.0)))
            return True
        return False

    if has['train']:
        length = rng.uniform(20, 28)
        tram = shapes.coach(TRAIN, (2.4, length, 3.4), _paint(rng), _paint(rng), rng, cars=3)
        add(tram, 'left', -LANE / 2, length, 16 + length / 2, 30 + length / 2, turn=np.pi)
    # Oncoming or parked: before the first crossing if there is one near, so that they are sure to find room.
    near = min(street.crossings[0][0], 32.0)
    length = rng.uniform(9.5, 12)
    bus = shapes.coach(BUS, (2.5, length, 3.05), _paint(rng), _paint(rng), rng)
    truck = shapes.truck(TRUCK, _paint(rng), rng)
    for name, shape, extent in (('bus', bus, length), ('truck', truck, 8.0)):
        placed = not has[name]
        if not placed and not has['train'] and rng.random() < 0.5:
            low, high = 14 + extent / 2, 44.0
            placed = add(
                shape, 'left', -LANE / 2, extent, low, high, turn=np.pi, speed=-0.4 * moving
            )
        for side in (1, -1):
            if not placed:
                lane = 'kerb right' if side > 0 else 'kerb left'
                low, high = 8 + extent / 2, max(near - extent / 2 - 0.5, 8.1 + extent / 2)
                placed = add(
                    shape, lane, side * (kerb - 0.1), extent, low, high, turn=np.pi * (side < 0)
                )
    for name, label, radius, base in (
        ('motorcycle', MOTORCYCLE, 0.3, 1.35),
        ('bicycle', BICYCLE, 0.34, 1.05),
    ):
        for _ in range(rng.integers(1, 4) if has[name] else 0):
            shape = shapes.two_wheeler(label, radius, base, _paint(rng), rng)
            side = rng.choice([-1, 1])
            lean = rng.uniform(0.8, 2.3)
            at_kerb = name == 'motorcycle' and rng.random() < 0.6
            lateral = side * (street.half + (-0.7 if at_kerb else rng.uniform(0.6, 1.5)))
            lane = f'kerb {"left" if side < 0 else "right"}' if at_kerb else f'walk {side}'
            add(shape, lane, lateral, 2.0, 5, 20, turn=lean if rng.random() < 0.7 else 0.0)
    if not has['train']:
        for _ in range(rng.integers(1, 5) if moving or rng.random() < 0.3 else 0):
            speed = -0.6 if moving else 0.0
            add(
                shapes.car(CAR, _paint(rng), rng),
                'left',
                -LANE / 2,
                5,
                12,
                120,
                turn=np.pi,
                speed=speed,
            )
    if moving:
        add(shapes.car(CAR, _paint(rng), rng), 'ahead', LANE / 2, 5, 9, 28, speed=rig.speed)
    for side, name in ((-1, 'kerb left'), (1, 'kerb right')):
        density = rng.uniform(-0.35, 0.85)
        for y in np.arange(START, FAR - 60, 5.6):
            if rng.random() < density and not street.crossed(y - 4, y + 4):
                turn = np.pi * (side < 0) + rng.normal(0, 0.02)
                car = shapes.car(CAR, _paint(rng), rng)
                add(
                    car, name, side * (kerb + rng.normal(0, 0.08)), 4.4, y - 0.3, y + 0.3, turn=turn
                )
    for start, end in street.crossings:
        for side in (-1, 1):
            if rng.random() < 0.5:
                car = shapes.car(CAR, _paint(rng), rng)
                lateral = side * (street.setback(side) + rng.uniform(0, 6))
                middle = (start + end) / 2 + side * 1.6
                parts.append(instances.new(street.put(car, lateral, middle, -side * np.pi / 2)))
    return parts


def _people(street, rng, has, instances):
    parts = []
    moving = has['traffic']
    for _ in range(rng.integers(3, 20)):
        side, y = rng.choice([-1, 1]), 5 + 60 * rng.random() ** 2.2
        k = (side + 1) // 2
        ahead = rng.random() < 0.5
        velocity = (
            (0.0, (0.1 if ahead else -0.1) * rng.uniform(0.7, 1.3), 0.0)
            if moving and rng.random() < 0.7
            else (0, 0, 0)
        )
        lateral = side * (street.half + rng.uniform(0.9, street.walk[k] - 0.3))
        turn = np.pi * (not ahead) + rng.normal(0, 0.3)
        if not moving and rng.random() < 0.4:
            turn = rng.uniform(0, 6.28)
        parts.append(
            instances.new(street.put(shapes.person(PERSON, rng), lateral, y, turn), velocity)
        )
    if moving and has['crossing']:
        y = street.crossings[0][0] - rng.uniform(2, 4)
        for _ in range(rng.integers(1, 4)):
            lateral = rng.uniform(-street.half, street.half)
            walker = street.put(
                shapes.person(PERSON, rng), lateral, y + rng.uniform(-1, 1), np.pi / 2
            )
            parts.append(instances.new(walker, (0.1, 0.0, 0.0)))
    if has['rider']:
        for _ in range(rng.integers(1, 4)):
            y = rng.uniform(7, 26)
            heavy = has['motorcycle'] and rng.random() < 0.4
            vehicle = (MOTORCYCLE, 0.3, 1.35) if heavy else (BICYCLE, 0.34, 1.05)
            oncoming = rng.random() < 0.35
            lateral = -LANE + 0.4 if oncoming else LANE - 0.15
            velocity = (0.0, (-0.35 if oncoming else 0.35) * moving, 0.0)
            turn = np.pi * oncoming
            bike = shapes.two_wheeler(*vehicle, _paint(rng), rng)
            rider = place(shapes.person(RIDER, rng, seated=0.85 if heavy else 1.0), 0, -0.2)
            parts.append(instances.new(street.put(bike, lateral, y, turn), velocity))
            parts.append(instances.new(street.put(rider, lateral, y, turn), velocity))
    return parts


def _backdrop(street, rng):
    """Houses and woods far to the sides and at the end, so that the horizon is never bare."""
    parts = []
    places = [
        (side * rng.uniform(48, 70), y) for side in (-1, 1) for y in np.arange(0, FAR + 60, 24)
    ]
    places += [(x, FAR + rng.uniform(10, 40)) for x in np.arange(-75, 76, 22)]
    for lateral, y in places:
        if rng.random() < 0.6:
            shape = _building(rng, rng.uniform(16, 26), rng.uniform(12, 22), rng.uniform(7, 26))
        else:
            green = shapes.leaf_colour(rng) * 0.8
            look = surface(VEGETATION, shapes.FOLIAGE, green, rng, accent=green * 0.4, grain=0.5)
            shape = shapes.ellipsoid((0, 0, 3), (13, 13, rng.uniform(5, 12)), look)
        parts.append(street.put(shape, lateral, y))
    return parts
