"""Solids made of quads and ellipsoids: boxes, vehicles, people, trees.

Lengths are metres. Local frame: x right, y forward, z up. A shape is a `Shape(quads, ellipsoids)`.
Shapes are joined and placed, never changed in place. `label` is a train id, `look` is a SURFACE
record, and `rng` is the random generator of a scene.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from segjax.data.worlds.render import ELLIPSOID, QUAD, SURFACE, heading_matrix

(
    PLAIN,
    FACADE,
    BRICK,
    BARS,
    FOLIAGE,
    GLASS,
    COACH,
    ROUND_SIGN,
    SIGN,
    LAMPS,
    WHEEL,
    SPOKES,
    GROUND,
) = range(13)
"""Materials. streets/paint.py paints them."""

_DARK_GLASS = (0.03, 0.035, 0.04)
_HEADLIGHT = (0.9, 0.9, 0.8)
_REAR_LIGHT = (0.5, 0.02, 0.02)


class Shape(NamedTuple):
    """A solid.

    quads       [N] of dtype QUAD
    ellipsoids  [M] of dtype ELLIPSOID
    """

    quads: np.ndarray
    ellipsoids: np.ndarray


def surface(
    label, material, colour, rng, *, accent=None, grain=0.15, cell=(1.0, 1.0)
) -> np.ndarray:
    """Returns a SURFACE record. `rng` shifts its noise texture, so that no two surfaces are equal.

    Args:
      label: train id.
      material: PLAIN, FACADE, ...
      colour: [3] linear reflectance.
      rng: random generator.
      accent: [3] second colour, default: `colour`.
      grain: contrast of the noise texture.
      cell: period of the material's pattern along s and t, metres.
    """
    accent = colour if accent is None else accent
    shift = rng.uniform(0, 64, 2)
    return np.array((label, 0, (0, 0, 0), material, colour, accent, grain, cell, shift), SURFACE)


def join(shapes: Iterable[Shape]) -> Shape:
    """Joins shapes to a single shape."""
    shapes = list(shapes)
    if not shapes:
        return Shape(np.zeros(0, QUAD), np.zeros(0, ELLIPSOID))
    return Shape(*(np.concatenate(parts) for parts in zip(*shapes)))


def place(shape: Shape, x, y, heading=0.0, z=0.0) -> Shape:
    """Returns a shape turned clockwise by `heading` (radians), and then moved."""
    quads = shape.quads.copy()
    ellipsoids = shape.ellipsoids.copy()
    turn = heading_matrix(heading).T
    for name in ('origin', 'edge_s', 'edge_t'):
        quads[name] = quads[name] @ turn
    quads['origin'] += (x, y, z)
    ellipsoids['centre'] = ellipsoids['centre'] @ turn + (x, y, z)
    ellipsoids['heading'] += heading
    return Shape(quads, ellipsoids)


def tag(shape: Shape, **fields) -> Shape:
    """Returns a shape with fields of all its surfaces set: instance, velocity, label."""
    quads = shape.quads.copy()
    ellipsoids = shape.ellipsoids.copy()
    for name, value in fields.items():
        quads['surface'][name] = value
        ellipsoids['surface'][name] = value
    return Shape(quads, ellipsoids)


def panel(origin, edge_s, edge_t, look, *, disc=False, closed=False) -> Shape:
    """Builds a parallelogram, or the ellipse inscribed in it.

    Args:
      origin: [3] a corner.
      edge_s, edge_t: [3] edges from this corner.
      look: of the surface.
      disc: whether it is the inscribed ellipse.
      closed: whether it is visible only from the side of edge_s x edge_t.
    """
    quads = np.array([(origin, edge_s, edge_t, (0, 0), disc, closed, look)], QUAD)
    return Shape(quads, np.zeros(0, ELLIPSOID))


def ellipsoid(centre, radii, look) -> Shape:
    """Builds an ellipsoid with axes along x, y and z."""
    return Shape(np.zeros(0, QUAD), np.array([(centre, radii, 0.0, look)], ELLIPSOID))


def frustum(bottom, top, z, sides, cap=None) -> Shape:
    """Builds a solid between two rectangles: four sides and a lid.

    Args:
      bottom, top: (x0, x1, y0, y1) of the rectangles.
      z: their heights.
      sides: a SURFACE for all sides, or a sequence (front, right, back, left). Front is +y.
      cap: SURFACE of the lid, default: the first side's.
    """
    sides = [sides] * 4 if isinstance(sides, np.ndarray) else list(sides)
    low = _rectangle(bottom, z[0])
    high = _rectangle(top, z[1])
    quads = np.zeros(5, QUAD)
    # (left, right) corners of each side from outside: front, right, back, left.
    for k, (left, right) in enumerate(((0, 3), (1, 0), (2, 1), (3, 2))):
        along = low[right] - low[left]
        length = along @ along
        lean_left = (high[left] - low[left]) @ along / length
        lean_right = (low[right] - high[right]) @ along / length
        up = high[left] - low[left] - lean_left * along
        quads[k] = (low[left], along, up, (lean_left, lean_right), False, True, sides[k])
    lid = sides[0] if cap is None else cap
    quads[4] = (high[2], high[1] - high[2], high[3] - high[2], (0, 0), False, True, lid)
    return Shape(quads, np.zeros(0, ELLIPSOID))


def _rectangle(bounds, z) -> np.ndarray:
    """Returns the corners [4, 3] of a rectangle (x0, x1, y0, y1) at height z.

    The order is front right, back right, back left, front left.
    """
    x0, x1, y0, y1 = bounds
    return np.array([(x1, y1, z), (x1, y0, z), (x0, y0, z), (x0, y1, z)], float)


def box(size, look, z=0.0, cap=None, centre=(0.0, 0.0)) -> Shape:
    """Builds an upright box.

    Args:
      size: (width along x, length along y, height).
      look: of its sides.
      z: height of its bottom.
      cap: SURFACE of the lid, default: `look`.
      centre: (x, y) of its centre.
    """
    x, y = centre
    rectangle = (x - size[0] / 2, x + size[0] / 2, y - size[1] / 2, y + size[1] / 2)
    return frustum(rectangle, rectangle, (z, z + size[2]), look, cap)


def wheels(label, half_width, positions, radius, rng) -> Shape:
    """Builds a pair of wheels at each of the `positions` along y."""
    look = surface(
        label,
        WHEEL,
        (0.02, 0.02, 0.022),
        rng,
        accent=(0.25, 0.25, 0.27),
        grain=0.1,
        cell=(radius,) * 2,
    )
    tyre = surface(label, PLAIN, (0.02, 0.02, 0.022), rng, grain=0.1)
    parts = []
    for y in positions:
        for side in (-1, 1):
            x = side * half_width
            parts.append(
                panel((x, y - radius, 0), (0, 2 * radius, 0), (0, 0, 2 * radius), look, disc=True)
            )
            parts.append(box((0.22, 1.2 * radius, radius), tyre, centre=(x - side * 0.12, y)))
    return join(parts)


def lights(label, half_width, y, z, size, colour, rng) -> Shape:
    """Builds a pair of lamps on the front or back of a vehicle."""
    look = surface(label, PLAIN, colour, rng, grain=0.05)
    width, height = size
    return join(
        panel((x - width / 2, y, z), (width, 0, 0), (0, 0, height), look)
        for x in (-half_width + width / 2, half_width - width / 2)
    )


def car(label, colour, rng) -> Shape:
    """Samples a car with body, tapered cabin, four wheels and lamps: estate, saloon or van."""
    # Dimensions and surfaces.
    length = rng.uniform(3.7, 4.8)
    width = rng.uniform(1.65, 1.9)
    waist = rng.uniform(0.78, 0.95)
    height = rng.uniform(1.4, 1.75)
    bonnet = rng.uniform(0.8, 1.25)
    boot = rng.choice([0.05, 0.1, 0.55])
    x = width / 2
    y = length / 2
    paint = surface(label, PLAIN, colour, rng, grain=0.06)
    glass = surface(label, GLASS, _DARK_GLASS, rng, accent=colour, grain=0.1, cell=(1.0, 1.0))
    dark = surface(label, PLAIN, (0.02, 0.02, 0.02), rng)

    # Body and cabin.
    body_top = (-x + 0.04, x - 0.04, -y + 0.06, y - 0.1)
    body = frustum((-x, x, -y, y), body_top, (0.28, waist), paint)
    cabin_bottom = (-x + 0.06, x - 0.06, -y + boot, y - bonnet)
    windscreen = rng.uniform(0.5, 0.9)
    cabin_top = (-x + 0.24, x - 0.24, -y + boot + 0.3, y - bonnet - windscreen)
    cabin = frustum(cabin_bottom, cabin_top, (waist, height), glass, cap=paint)
    under = box((width - 0.3, length - 0.5, 0.2), dark, z=0.12)

    # Wheels, lamps and number plate.
    axle = length * 0.31
    tyres = wheels(label, x + 0.005, (-axle, axle), 0.32, rng)
    front_lights = lights(label, x - 0.08, y + 0.01, 0.6, (0.32, 0.14), _HEADLIGHT, rng)
    rear_lights = lights(label, x - 0.08, -y - 0.01, 0.6, (0.26, 0.16), _REAR_LIGHT, rng)
    plate_look = surface(label, PLAIN, (0.7, 0.7, 0.6), rng)
    plate = panel((-0.26, -y - 0.012, 0.45), (0.52, 0, 0), (0, 0, 0.12), plate_look)
    return join([body, cabin, under, tyres, front_lights, rear_lights, plate])


def truck(label, colour, rng) -> Shape:
    """Samples a truck with cab and cargo box."""
    # Dimensions and surfaces.
    length = rng.uniform(5.0, 8.0)
    width = rng.uniform(2.2, 2.5)
    height = rng.uniform(2.7, 3.7)
    cab_length = rng.uniform(1.7, 2.1)
    cab_height = rng.uniform(2.1, 2.6)
    x = width / 2
    front = length / 2
    cargo_paint = surface(label, PLAIN, colour, rng, grain=0.08)
    cab_colour = rng.uniform(0.03, 0.6, 3) if rng.random() < 0.6 else colour
    paint = surface(label, PLAIN, cab_colour, rng, grain=0.05)
    glass = surface(label, GLASS, _DARK_GLASS, rng, accent=cab_colour)
    dark = surface(label, PLAIN, (0.025, 0.025, 0.025), rng)

    # Cargo box and cab.
    back = front - cab_length - 0.15
    sill = cab_height * 0.55
    cargo_floor = (-x, x, -front, back)
    cargo = frustum(cargo_floor, cargo_floor, (0.95, height), cargo_paint)
    cab_floor = (-x, x, front - cab_length, front)
    cab_roof = (-x + 0.1, x - 0.1, front - cab_length, front - 0.25)
    cab = frustum(cab_floor, cab_floor, (0.4, sill), paint)
    windows = frustum(cab_floor, cab_roof, (sill, cab_height), glass, cap=paint)
    under = box((width - 0.5, length - 0.6, 0.5), dark, z=0.45)

    # Wheels and lamps.
    tyres = wheels(label, x + 0.01, (-front + 1.0, front - 1.1), 0.46, rng)
    rear_lights = lights(label, x - 0.1, -front - 0.01, 0.75, (0.3, 0.16), _REAR_LIGHT, rng)
    front_lights = lights(label, x - 0.1, front + 0.01, 0.6, (0.3, 0.18), _HEADLIGHT, rng)
    return join([cargo, cab, windows, under, tyres, rear_lights, front_lights])


def coach(label, size, colour, stripe, rng, cars=1) -> Shape:
    """Builds a long vehicle with a band of windows: a bus, or (cars > 1) a tram.

    Args:
      label: train id.
      size: (width, length, height).
      colour: [3] of its sides.
      stripe: [3] colour of a stripe below the windows.
      rng: random generator.
      cars: number of parts.
    """
    width, length, height = size
    x = width / 2
    part = length / cars
    side = surface(
        label,
        COACH,
        colour,
        rng,
        accent=stripe,
        grain=0.04,
        cell=(rng.uniform(1.2, 1.9), height - 0.3),
    )
    roof = surface(label, PLAIN, np.asarray(colour) * 0.8, rng, grain=0.05)
    shapes = []
    for k in range(cars):
        y0 = -length / 2 + k * part + (0.2 if k else 0)
        y1 = -length / 2 + (k + 1) * part
        # Only the ends of the vehicle are slanted.
        nose = 0.5 if cars > 1 else 0.12
        back = nose if k == 0 else 0
        front = nose if k == cars - 1 else 0
        top = (-x + 0.08, x - 0.08, y0 + back, y1 - front)
        shapes.append(frustum((-x, x, y0, y1), top, (0.3, height), side, cap=roof))

    # Wheels and lamps.
    radius = 0.48 if cars == 1 else 0.35
    end = length / 2 + 0.01
    tyres = wheels(label, x + 0.01, (-length * 0.3, length * 0.3), radius, rng)
    rear_lights = lights(label, x - 0.1, -end, 0.7, (0.25, 0.3), _REAR_LIGHT, rng)
    front_lights = lights(label, x - 0.1, end, 0.6, (0.35, 0.2), _HEADLIGHT, rng)
    return join([*shapes, tyres, rear_lights, front_lights])


def two_wheeler(label, radius, wheelbase, colour, rng) -> Shape:
    """Builds a bicycle or, with small wheels, a motorcycle.

    Args:
      label: train id.
      radius: of the wheels.
      wheelbase: distance of the axles.
      colour: [3] of the frame.
      rng: random generator.
    """
    heavy = radius < 0.33
    tyre = (0.02, 0.02, 0.02)
    material, rim = (WHEEL, (0.3, 0.3, 0.3)) if heavy else (SPOKES, (0.22, 0.22, 0.22))
    look = surface(label, material, tyre, rng, accent=rim, cell=(radius,) * 2)
    paint = surface(label, PLAIN, colour, rng, grain=0.05)
    dark = surface(label, PLAIN, (0.03, 0.03, 0.03), rng)
    half = wheelbase / 2
    thickness = 0.07 if heavy else 0.025

    # A wheel is two discs, and two boxes that are visible from front and back.
    parts = []
    diameter = 2 * radius
    for y in (-half, half):
        for x in (-thickness, thickness):
            corner = (x, y - radius, 0)
            parts.append(panel(corner, (0, diameter, 0), (0, 0, diameter), look, disc=True))
        flat = (2 * thickness, diameter * 0.9, 0.05)
        parts.append(box(flat, dark, z=radius - 0.02, centre=(0, y)))
        parts.append(box((2 * thickness, 0.12, diameter), dark, centre=(0, y)))
    parts += _motorcycle(half, paint, dark) if heavy else _bicycle(half, radius, paint, dark)
    return join(parts)


def _motorcycle(half, paint, dark) -> list[Shape]:
    """Builds the body of a motorcycle with axles at y = -half and half.

    The parts are engine, tank, seat, front and handlebars.
    """
    return [
        box((0.3, half * 2 * 0.6, 0.35), dark, z=0.25),
        ellipsoid((0, 0.2, 0.8), (0.19, 0.33, 0.19), paint),
        box((0.28, 0.75, 0.12), dark, z=0.72, centre=(0, -0.4)),
        ellipsoid((0, half * 0.75, 0.85), (0.24, 0.16, 0.24), paint),
        box((0.7, 0.05, 0.05), dark, z=1.02, centre=(0, half * 0.6)),
    ]


def _bicycle(half, radius, paint, dark) -> list[Shape]:
    """Builds the frame, saddle and handlebars of a bicycle with axles at y = -half and half."""
    # Points (y, z) of the frame.
    hub = (-half, radius)
    bracket = (0, radius)
    seat_tube = (0, 0.8)
    head = (half * 0.8, 0.85)
    saddle = (-0.15, 0.95)
    front_hub = (half, radius)
    stem = (half * 0.75, 1.05)
    tubes = (
        (hub, seat_tube),
        (seat_tube, head),
        (bracket, head),
        (bracket, saddle),
        (front_hub, stem),
    )
    return [
        *(bar(start, end, 0.05, paint) for start, end in tubes),
        box((0.12, 0.28, 0.06), dark, z=0.95, centre=(0, -0.15)),
        box((0.5, 0.04, 0.04), dark, z=1.05, centre=(0, half * 0.75)),
    ]


def bar(start, end, thickness, look) -> Shape:
    """Builds a tube in the plane x = 0 between two points (y, z).

    It consists of two panels that are visible from the sides.
    """
    y0, z0 = start
    y1, z1 = end
    along = np.array([0.0, y1 - y0, z1 - z0])
    across = np.array([0.0, -along[2], along[1]]) / np.linalg.norm(along) * thickness
    origin = np.array([0.0, y0, z0]) - across / 2
    return join(
        panel(origin + np.array([x, 0, 0]), along, across, look)
        for x in (-thickness / 2, thickness / 2)
    )


def person(label, rng, seated=0.0) -> Shape:
    """Samples a person with two legs, trunk, arms and head. Some standing persons are children.

    Args:
      label: train id.
      rng: random generator.
      seated: height of the hips of a rider with bent knees. 0: standing.
    """
    # Size, colours and surfaces.
    height = rng.uniform(1.5, 1.92) * (0.72 if rng.random() < 0.12 and not seated else 1.0)
    scale = height / 1.75
    top, trousers = (rng.uniform(0.02, 0.5, 3) ** rng.uniform(1, 2) for _ in range(2))
    skin = np.array([0.55, 0.36, 0.26]) * rng.uniform(0.35, 1.1)
    hair_colour = np.array([0.08, 0.05, 0.03]) * rng.uniform(0.3, 3)
    cloth = surface(label, PLAIN, top, rng, grain=0.2)
    legs = surface(label, PLAIN, trousers, rng, grain=0.2)
    face = surface(label, PLAIN, skin, rng, grain=0.05)
    hair = surface(label, PLAIN, hair_colour, rng, grain=0.1)

    # Legs.
    hip = seated or 0.85 * scale
    stride = rng.uniform(0.05, 0.28) * scale
    parts = []
    for x, y in ((-0.1, stride), (0.1, -stride)):
        parts += _seated_leg(x, hip, legs) if seated else [_leg(x, y, hip, legs)]

    # Trunk and arms. The arms of a rider reach forward.
    lean = 0.15 if seated else 0.0
    width = rng.uniform(0.2, 0.27) * scale
    shoulder = hip + 0.52 * scale
    trunk = (0, lean * 0.6, hip + 0.27 * scale)
    parts.append(ellipsoid(trunk, (width, 0.15 * scale, 0.38 * scale), cloth))
    arm_y = lean + 0.25 * bool(seated)
    arm_z = shoulder - (0.12 if seated else 0.24) * scale
    arm_radii = (0.06, 0.28 if seated else 0.08, (0.1 if seated else 0.3) * scale)
    for side in (-1, 1):
        parts.append(ellipsoid((side * (width + 0.01), arm_y, arm_z), arm_radii, cloth))

    # Head.
    parts.append(ellipsoid((0, lean, shoulder + 0.22 * scale), (0.095, 0.11, 0.135), face))
    parts.append(ellipsoid((0, lean - 0.025, shoulder + 0.26 * scale), (0.102, 0.11, 0.12), hair))
    return join(parts)


def _leg(x, y, hip, look) -> Shape:
    """Builds a straight leg from the foot at (x, y) to the hip."""
    foot = (x - 0.06, x + 0.06, y - 0.08, y + 0.1)
    thigh = (x - 0.09, x + 0.09, -0.1, 0.1)
    return frustum(foot, thigh, (0, hip), look)


def _seated_leg(x, hip, look) -> list[Shape]:
    """Builds the thigh and the lower leg of a rider."""
    thigh = ellipsoid((1.3 * x, 0.18, hip - 0.02), (0.09, 0.27, 0.1), look)
    lower_leg = ellipsoid((1.3 * x, 0.32, hip - 0.3), (0.07, 0.09, 0.3), look)
    return [thigh, lower_leg]


def tree(label, rng) -> Shape:
    """Samples a tree with a trunk and a crown of overlapping ellipsoids."""
    # Trunk.
    height = rng.uniform(4.5, 10)
    spread = rng.uniform(1.2, 2.6)
    clear = rng.uniform(1.8, 2.8)
    radius = rng.uniform(0.08, 0.2)
    brown = np.array([0.11, 0.085, 0.06]) * rng.uniform(0.6, 1.6)
    bark = surface(label, PLAIN, brown, rng, grain=0.4)
    green = leaf_colour(rng)
    base = (-radius, radius, -radius, radius)
    neck = (-radius * 0.7, radius * 0.7, -radius * 0.7, radius * 0.7)
    parts = [frustum(base, neck, (0, clear + 0.8), bark)]

    # Crown: six ellipsoids around a seventh.
    middle = (clear + height) / 2
    for k in range(7):
        angle = 2 * np.pi * (k / 6 + rng.uniform(-0.06, 0.06))
        out = spread * rng.uniform(0.35, 0.6) * (k < 6)
        z = middle + (height - clear) * (rng.uniform(-0.25, 0.2) if k < 6 else 0.2)
        size = spread * rng.uniform(0.5, 0.75)
        look = surface(
            label, FOLIAGE, green * rng.uniform(0.8, 1.2), rng, accent=green * 0.35, grain=0.6
        )
        tall = min(size * rng.uniform(0.8, 1.3), z - 0.3)
        parts.append(
            ellipsoid((out * np.cos(angle), out * np.sin(angle), z), (size, size, tall), look)
        )
    return join(parts)


def leaf_colour(rng):
    """Samples the colour of leaves: green, sometimes the brown of autumn."""
    autumn = rng.uniform(0, 1) ** 4
    green = np.array([rng.uniform(0.03, 0.1), rng.uniform(0.09, 0.2), rng.uniform(0.015, 0.05)])
    return (1 - autumn) * green + autumn * np.array([0.28, 0.15, 0.03])


def bush(label, size, rng) -> Shape:
    """Samples a bush of a radius of about `size`."""
    green = leaf_colour(rng)
    look = surface(label, FOLIAGE, green, rng, accent=green * 0.3, grain=0.6)
    return ellipsoid(
        (0, 0, size * 0.35),
        (size, size * rng.uniform(0.7, 1.2), size * rng.uniform(0.6, 1.0)),
        look,
    )
