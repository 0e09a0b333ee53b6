"""Solids made of quads and ellipsoids: boxes, vehicles, people, trees. Metres; local frame x right, y forward, z up.

A shape is a `Shape(quads, ellipsoids)`; shapes are joined and placed, never changed in place.
"""

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
"""Materials; streets.py paints them."""


class Shape(NamedTuple):
    quads: np.ndarray
    ellipsoids: np.ndarray


def surface(
    label, material, colour, rng, *, accent=None, grain=0.15, cell=(1.0, 1.0)
) -> np.ndarray:
    """One SURFACE record; `rng` shifts its noise texture, so that no two look the same."""
    accent = colour if accent is None else accent
    return np.array(
        (label, 0, (0, 0, 0), material, colour, accent, grain, cell, rng.uniform(0, 64, 2)), SURFACE
    )


def join(shapes) -> Shape:
    shapes = list(shapes)
    if not shapes:
        return Shape(np.zeros(0, QUAD), np.zeros(0, ELLIPSOID))
    return Shape(*(np.concatenate(parts) for parts in zip(*shapes)))


def place(shape: Shape, x, y, heading=0.0, z=0.0) -> Shape:
    """The shape turned clockwise by `heading` and then moved."""
    quads, ellipsoids = shape.quads.copy(), shape.ellipsoids.copy()
    turn = heading_matrix(heading).T
    for name in ('origin', 'edge_s', 'edge_t'):
        quads[name] = quads[name] @ turn
    quads['origin'] += (x, y, z)
    ellipsoids['centre'] = ellipsoids['centre'] @ turn + (x, y, z)
    ellipsoids['heading'] += heading
    return Shape(quads, ellipsoids)


def tag(shape: Shape, **fields) -> Shape:
    """The shape with surface fields set everywhere: instance, velocity, label."""
    quads, ellipsoids = shape.quads.copy(), shape.ellipsoids.copy()
    for name, value in fields.items():
        quads['surface'][name] = value
        ellipsoids['surface'][name] = value
    return Shape(quads, ellipsoids)


def panel(origin, edge_s, edge_t, look, *, disc=False, closed=False) -> Shape:
    """One parallelogram, or the ellipse inscribed in it."""
    quads = np.array([(origin, edge_s, edge_t, (0, 0), disc, closed, look)], QUAD)
    return Shape(quads, np.zeros(0, ELLIPSOID))


def ellipsoid(centre, radii, look) -> Shape:
    return Shape(np.zeros(0, QUAD), np.array([(centre, radii, 0.0, look)], ELLIPSOID))


def frustum(bottom, top, z, sides, cap=None) -> Shape:
    """Solid between two rectangles (x0, x1, y0, y1) at the heights z = (z0, z1): four sides and a lid.

    sides  a SURFACE for all four or a sequence (front, right, back, left); front is +y
    cap    the lid's; default: that of the first side
    """
    sides = [sides] * 4 if isinstance(sides, np.ndarray) else list(sides)
    (x0, x1, y0, y1), (u0, u1, v0, v1) = bottom, top
    low = np.array([(x1, y1, z[0]), (x1, y0, z[0]), (x0, y0, z[0]), (x0, y1, z[0])], float)
    high = np.array([(u1, v1, z[1]), (u1, v0, z[1]), (u0, v0, z[1]), (u0, v1, z[1])], float)
    quads = np.zeros(5, QUAD)
    # Seen from outside, the front goes from its right corner (x1, y1) to ... so each side starts at the next corner.
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


def box(size, look, z=0.0, cap=None, centre=(0.0, 0.0)) -> Shape:
    """Upright box (width along x, length along y, height) standing at height z."""
    x, y = centre
    rectangle = (x - size[0] / 2, x + size[0] / 2, y - size[1] / 2, y + size[1] / 2)
    return frustum(rectangle, rectangle, (z, z + size[2]), look, cap)


def wheels(label, half_width, positions, radius, rng) -> Shape:
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
    """A pair of lamps on the front or back of a vehicle."""
    look = surface(label, PLAIN, colour, rng, grain=0.05)
    width, height = size
    return join(
        panel((x - width / 2, y, z), (width, 0, 0), (0, 0, height), look)
        for x in (-half_width + width / 2, half_width - width / 2)
    )


def car(label, colour, rng) -> Shape:
    """Body, tapered cabin, four wheels, lamps. Estate, saloon or van by chance."""
    length, width = rng.uniform(3.7, 4.8), rng.uniform(1.65, 1.9)
    waist, height = rng.uniform(0.78, 0.95), rng.uniform(1.4, 1.75)
    bonnet, boot = rng.uniform(0.8, 1.25), rng.choice([0.05, 0.1, 0.55])
    x, y = width / 2, length / 2
    paint = surface(label, PLAIN, colour, rng, grain=0.06)
    glass = surface(
        label, GLASS, (0.03, 0.035, 0.04), rng, accent=colour, grain=0.1, cell=(1.0, 1.0)
    )
    dark = surface(label, PLAIN, (0.02, 0.02, 0.02), rng)
    body = frustum((-x, x, -y, y), (-x + 0.04, x - 0.04, -y + 0.06, y - 0.1), (0.28, waist), paint)
    cabin = frustum(
        (-x + 0.06, x - 0.06, -y + boot, y - bonnet),
        (-x + 0.24, x - 0.24, -y + boot + 0.3, y - bonnet - rng.uniform(0.5, 0.9)),
        (waist, height), glass, cap=paint,
    )  # fmt: skip
    under = box((width - 0.3, length - 0.5, 0.2), dark, z=0.12)
    axle = length * 0.31
    return join([
        body, cabin, under,
        wheels(label, x + 0.005, (-axle, axle), 0.32, rng),
        lights(label, x - 0.08, y + 0.01, 0.6, (0.32, 0.14), (0.9, 0.9, 0.8), rng),
        lights(label, x - 0.08, -y - 0.01, 0.6, (0.26, 0.16), (0.5, 0.02, 0.02), rng),
        panel((-0.26, -y - 0.012, 0.45), (0.52, 0, 0), (0, 0, 0.12), surface(label, PLAIN, (0.7, 0.7, 0.6), rng)),
    ])  # fmt: skip


def truck(label, colour, rng) -> Shape:
    """Cab and cargo box."""
    length, width, height = rng.uniform(5.0, 8.0), rng.uniform(2.2, 2.5), rng.uniform(2.7, 3.7)
    cab_length, cab_height = rng.uniform(1.7, 2.1), rng.uniform(2.1, 2.6)
    x, front = width / 2, length / 2
    cargo = surface(label, PLAIN, colour, rng, grain=0.08)
    cab_colour = rng.uniform(0.03, 0.6, 3) if rng.random() < 0.6 else colour
    paint = surface(label, PLAIN, cab_colour, rng, grain=0.05)
    glass = surface(label, GLASS, (0.03, 0.035, 0.04), rng, accent=cab_colour)
    dark = surface(label, PLAIN, (0.025, 0.025, 0.025), rng)
    back = front - cab_length - 0.15
    sill = cab_height * 0.55
    return join([
        frustum((-x, x, -front, back), (-x, x, -front, back), (0.95, height), cargo),
        frustum((-x, x, front - cab_length, front), (-x, x, front - cab_length, front), (0.4, sill), paint),
        frustum((-x, x, front - cab_length, front), (-x + 0.1, x - 0.1, front - cab_length, front - 0.25),
                (sill, cab_height), glass, cap=paint),
        box((width - 0.5, length - 0.6, 0.5), dark, z=0.45),
        wheels(label, x + 0.01, (-front + 1.0, front - 1.1), 0.46, rng),
        lights(label, x - 0.1, -front - 0.01, 0.75, (0.3, 0.16), (0.5, 0.02, 0.02), rng),
        lights(label, x - 0.1, front + 0.01, 0.6, (0.3, 0.18), (0.9, 0.9, 0.8), rng),
    ])  # fmt: skip


def coach(label, size, colour, stripe, rng, cars=1) -> Shape:
    """Long vehicle with a band of windows: a bus, or (cars > 1) a tram."""
    width, length, height = size
    x, part = width / 2, length / cars
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
        nose = 0.5 if cars > 1 else 0.12
        back, front = (nose if k == 0 else 0), (nose if k == cars - 1 else 0)
        top = (-x + 0.08, x - 0.08, y0 + back, y1 - front)
        shapes.append(frustum((-x, x, y0, y1), top, (0.3, height), side, cap=roof))
    radius = 0.48 if cars == 1 else 0.35
    return join([
        *shapes,
        wheels(label, x + 0.01, (-length * 0.3, length * 0.3), radius, rng),
        lights(label, x - 0.1, -length / 2 - 0.01, 0.7, (0.25, 0.3), (0.5, 0.02, 0.02), rng),
        lights(label, x - 0.1, length / 2 + 0.01, 0.6, (0.35, 0.2), (0.9, 0.9, 0.8), rng),
    ])  # fmt: skip


def two_wheeler(label, radius, wheelbase, colour, rng) -> Shape:
    """Bicycle (thin wheels, open frame) or, with small wheels, a motorcycle (tank, seat, engine)."""
    heavy = radius < 0.33
    tyre = (0.02, 0.02, 0.02)
    material, rim = (WHEEL, (0.3, 0.3, 0.3)) if heavy else (SPOKES, (0.22, 0.22, 0.22))
    look = surface(label, material, tyre, rng, accent=rim, cell=(radius,) * 2)
    paint = surface(label, PLAIN, colour, rng, grain=0.05)
    dark = surface(label, PLAIN, (0.03, 0.03, 0.03), rng)
    half = wheelbase / 2
    thickness = 0.07 if heavy else 0.025
    parts = []
    for y in (-half, half):
        for x in (-thickness, thickness):
            parts.append(
                panel((x, y - radius, 0), (0, 2 * radius, 0), (0, 0, 2 * radius), look, disc=True)
            )
        parts.append(
            box((2 * thickness, 2 * radius * 0.9, 0.05), dark, z=radius - 0.02, centre=(0, y))
        )
        parts.append(box((2 * thickness, 0.12, 2 * radius), dark, centre=(0, y)))
    if heavy:
        parts += [
            box((0.3, wheelbase * 0.6, 0.35), dark, z=0.25),
            ellipsoid((0, 0.2, 0.8), (0.19, 0.33, 0.19), paint),
            box((0.28, 0.75, 0.12), dark, z=0.72, centre=(0, -0.4)),
            ellipsoid((0, half * 0.75, 0.85), (0.24, 0.16, 0.24), paint),
            box((0.7, 0.05, 0.05), dark, z=1.02, centre=(0, half * 0.6)),
        ]
    else:
        hub, bracket, head, saddle = (-half, radius), (0, radius), (half * 0.8, 0.85), (-0.15, 0.95)
        fork = ((half, radius), (half * 0.75, 1.05))
        for start, end in (
            (hub, (0, 0.8)),
            ((0, 0.8), head),
            (bracket, head),
            (bracket, saddle),
            fork,
        ):
            parts.append(bar(start, end, 0.05, paint))
        parts += [
            box((0.12, 0.28, 0.06), dark, z=0.95, centre=(0, -0.15)),
            box((0.5, 0.04, 0.04), dark, z=1.05, centre=(0, half * 0.75)),
        ]
    return join(parts)


def bar(start, end, thickness, look) -> Shape:
    """A tube in the plane x = 0 between two points (y, z): two panels, seen from the sides."""
    (y0, z0), (y1, z1) = start, end
    along = np.array([0.0, y1 - y0, z1 - z0])
    across = np.array([0.0, -along[2], along[1]]) / np.linalg.norm(along) * thickness
    origin = np.array([0.0, y0, z0]) - across / 2
    return join(
        panel(origin + np.array([x, 0, 0]), along, across, look)
        for x in (-thickness / 2, thickness / 2)
    )


def person(label, rng, seated=0.0) -> Shape:
    """Two legs, trunk, arms, head; `seated` > 0 lifts the hips to that height and bends the knees: a rider."""
    height = rng.uniform(1.5, 1.92) * (0.72 if rng.random() < 0.12 and not seated else 1.0)
    scale = height / 1.75
    top, trousers = (rng.uniform(0.02, 0.5, 3) ** rng.uniform(1, 2) for _ in range(2))
    skin = np.array([0.55, 0.36, 0.26]) * rng.uniform(0.35, 1.1)
    hair = np.array([0.08, 0.05, 0.03]) * rng.uniform(0.3, 3)
    cloth = surface(label, PLAIN, top, rng, grain=0.2)
    legs = surface(label, PLAIN, trousers, rng, grain=0.2)
    face = surface(label, PLAIN, skin, rng, grain=0.05)
    hair = surface(label, PLAIN, hair, rng, grain=0.1)
    hip = seated or 0.85 * scale
    stride = rng.uniform(0.05, 0.28) * scale
    parts = []
    for x, y in ((-0.1, stride), (0.1, -stride)):
        if seated:
            parts.append(ellipsoid((1.3 * x, 0.18, hip - 0.02), (0.09, 0.27, 0.1), legs))
            parts.append(ellipsoid((1.3 * x, 0.32, hip - 0.3), (0.07, 0.09, 0.3), legs))
        else:
            foot = (x - 0.06, x + 0.06, y - 0.08, y + 0.1)
            knee = (x - 0.09, x + 0.09, -0.1, 0.1)
            parts.append(frustum(foot, knee, (0, hip), legs))
    lean = 0.15 if seated else 0.0
    width = rng.uniform(0.2, 0.27) * scale
    shoulder = hip + 0.52 * scale
    parts.append(
        ellipsoid((0, lean * 0.6, hip + 0.27 * scale), (width, 0.15 * scale, 0.38 * scale), cloth)
    )
    for side in (-1, 1):
        centre = (
            side * (width + 0.01),
            lean + 0.25 * bool(seated),
            shoulder - (0.12 if seated else 0.24) * scale,
        )
        radii = (0.06, 0.28 if seated else 0.08, (0.1 if seated else 0.3) * scale)
        parts.append(ellipsoid(centre, radii, cloth))
    parts.append(ellipsoid((0, lean, shoulder + 0.22 * scale), (0.095, 0.11, 0.135), face))
    parts.append(ellipsoid((0, lean - 0.025, shoulder + 0.26 * scale), (0.102, 0.11, 0.12), hair))
    return join(parts)


def tree(label, rng) -> Shape:
    """Trunk and a crown of overlapping blobs."""
    height, spread = rng.uniform(4.5, 10), rng.uniform(1.2, 2.6)
    clear = rng.uniform(1.8, 2.8)
    radius = rng.uniform(0.08, 0.2)
    bark = surface(
        label, PLAIN, np.array([0.11, 0.085, 0.06]) * rng.uniform(0.6, 1.6), rng, grain=0.4
    )
    green = leaf_colour(rng)
    base, neck = (
        (-radius, radius, -radius, radius),
        (-radius * 0.7, radius * 0.7, -radius * 0.7, radius * 0.7),
    )
    parts = [frustum(base, neck, (0, clear + 0.8), bark)]
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
    """Greens, some autumn browns."""
    autumn = rng.uniform(0, 1) ** 4
    green = np.array([rng.uniform(0.03, 0.1), rng.uniform(0.09, 0.2), rng.uniform(0.015, 0.05)])
    return (1 - autumn) * green + autumn * np.array([0.28, 0.15, 0.03])


def bush(label, size, rng) -> Shape:
    green = leaf_colour(rng)
    look = surface(label, FOLIAGE, green, rng, accent=green * 0.3, grain=0.6)
    return ellipsoid(
        (0, 0, size * 0.35),
        (size, size * rng.uniform(0.7, 1.2), size * rng.uniform(0.6, 1.0)),
        look,
    )
