"""The shape of an animal head, and its exact surface.

Head frame: the middle of the skull is the origin, x points to the right of the image, y down, and h
out of the face. 1 is about the radius of the skull. The head turns by yaw, pitch and roll, and is
seen from far away: the surface is a height h(x, y) over the image plane, towards the camera.

Every part has a closed form h_i(x, y) with a closed gradient:

  ellipsoid  p^T A p = 1 with p = (x, y, h) - centre: the larger root h of a quadratic equation.
             Its gradient follows from the normal A p: dh/dx = -(A p)_x / (A p)_h
  flap       a triangle with the barycentric coordinates a, b, c. u = sqrt(27 a b c) is 0 at the
             edges and 1 in the middle. h = plane + thickness (u - HOLLOW u^3), a rim around a dip

Furry parts join smoothly: h = BLEND log sum_i exp(h_i / BLEND). Eyes and nose are put on top: the
larger height wins.
"""

from typing import NamedTuple

import numpy as np

BACKGROUND, SKULL, EAR, MUZZLE, NOSE, EYE, NECK = range(7)
"""Classes of the parts."""

BLEND = 0.07
"""Width of the smooth joints."""

HOLLOW = 0.85

_STEEPEST = 1e-9
"""Smallest component of a normal along the line of sight, relative to A p."""


class Shape(NamedTuple):
    """Proportions and pose of a head. Lengths are in units of the head frame.

    skull          [3] radii
    cheek          radius of the cheeks
    muzzle         [3] radii
    muzzle_y       y of the muzzle
    nose           radius of the nose
    eye_x          distance of the eyes from the middle plane
    eye_y          y of the eyes
    eye            radius of the eyes
    brow           height of the brows over the skull
    hanging        whether the ears are lobes that hang. Otherwise they are pointed and upright
    ear_length     length of the ears
    ear_width      width of the ears
    ear_spread     turn of the ears outwards, radians
    neck           radius of the neck
    yaw            turn to the right of the image, radians
    pitch          turn upwards, radians
    roll           turn clockwise, radians
    scale          pixels per unit, as a share of half the shorter side of the image
    shift          [2] of the head, in units of half the shorter side
    """

    skull: tuple[float, float, float]
    cheek: float
    muzzle: tuple[float, float, float]
    muzzle_y: float
    nose: float
    eye_x: float
    eye_y: float
    eye: float
    brow: float
    hanging: bool
    ear_length: float
    ear_width: float
    ear_spread: float
    neck: float
    yaw: float
    pitch: float
    roll: float
    scale: float
    shift: tuple[float, float]


class Ellipsoid(NamedTuple):
    """An ellipsoid of a head that has its pose.

    part    class
    centre  [3] (x, y, h)
    form    [3, 3] A, with (p - centre)^T A (p - centre) = 1 on the surface
    """

    part: int
    centre: np.ndarray
    form: np.ndarray


class Flap(NamedTuple):
    """An upright ear of a head that has its pose.

    part       class
    corners    [3, 3] corners (x, y, h) in its rows
    thickness  height of the rim over the triangle
    """

    part: int
    corners: np.ndarray
    thickness: float


class Surface(NamedTuple):
    """The visible surface at places (x, y).

    height  [H, W] h, 0 where there is none
    slope   [H, W, 2] (dh/dx, dh/dy)
    part    [H, W] uint8 class of the highest part, BACKGROUND where there is none
    inner   [H, W] u of the ears: 0 at their edges and outside, 1 in their middle
    """

    height: np.ndarray
    slope: np.ndarray
    part: np.ndarray
    inner: np.ndarray


def draw_shape(rng) -> Shape:
    """Samples a cat with probability 1/2, otherwise a dog."""
    is_cat = rng.random() < 0.5
    hanging = bool(not is_cat and rng.random() < 0.6)
    # Upright ears need room above the head.
    low, high = (-0.06, 0.08) if hanging else (0.18, 0.3)
    pose = {
        'yaw': np.deg2rad(rng.uniform(-28, 28)),
        'pitch': np.deg2rad(rng.uniform(-14, 14)),
        'roll': np.deg2rad(rng.uniform(-12, 12)),
        'shift': (rng.uniform(-0.06, 0.06), rng.uniform(low, high)),
        'scale': rng.uniform(0.64, 0.74),
    }
    if is_cat:
        return Shape(
            skull=(rng.uniform(0.92, 1.05), rng.uniform(0.8, 0.9), 0.85),
            cheek=rng.uniform(0.4, 0.52),
            muzzle=(rng.uniform(0.3, 0.38), rng.uniform(0.22, 0.28), rng.uniform(0.28, 0.4)),
            muzzle_y=rng.uniform(0.36, 0.44),
            nose=rng.uniform(0.09, 0.12),
            eye_x=rng.uniform(0.36, 0.44),
            eye_y=rng.uniform(-0.1, 0.0),
            eye=rng.uniform(0.2, 0.25),
            brow=rng.uniform(0.0, 0.05),
            hanging=False,
            ear_length=rng.uniform(0.7, 0.95),
            ear_width=rng.uniform(0.75, 0.95),
            ear_spread=rng.uniform(0.1, 0.4),
            neck=rng.uniform(0.55, 0.75),
            **pose,
        )
    return Shape(
        skull=(rng.uniform(0.8, 0.95), rng.uniform(0.8, 0.92), 0.85),
        cheek=rng.uniform(0.34, 0.46),
        muzzle=(rng.uniform(0.3, 0.44), rng.uniform(0.28, 0.36), rng.uniform(0.6, 0.95)),
        muzzle_y=rng.uniform(0.34, 0.46),
        nose=rng.uniform(0.13, 0.18),
        eye_x=rng.uniform(0.32, 0.4),
        eye_y=rng.uniform(-0.18, -0.06),
        eye=rng.uniform(0.13, 0.18),
        brow=rng.uniform(0.02, 0.1),
        hanging=hanging,
        ear_length=rng.uniform(0.85, 1.35) if hanging else rng.uniform(0.7, 0.95),
        ear_width=rng.uniform(0.45, 0.65) if hanging else rng.uniform(0.6, 0.85),
        ear_spread=rng.uniform(0.0, 0.35),
        neck=rng.uniform(0.6, 0.8),
        **pose,
    )


def mirrored(shape: Shape) -> Shape:
    """Returns the shape of the mirrored head."""
    x, y = shape.shift
    return shape._replace(yaw=-shape.yaw, roll=-shape.roll, shift=(-x, y))


def turn(shape: Shape) -> np.ndarray:
    """Returns the rotation [3, 3] from the head frame to the camera's (x, y, h)."""
    cos_p = np.cos(shape.pitch)
    sin_p = np.sin(shape.pitch)
    cos_y = np.cos(shape.yaw)
    sin_y = np.sin(shape.yaw)
    cos_r = np.cos(shape.roll)
    sin_r = np.sin(shape.roll)
    nod = np.array([[1, 0, 0], [0, cos_p, -sin_p], [0, sin_p, cos_p]])
    shake = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
    tilt = np.array([[cos_r, -sin_r, 0], [sin_r, cos_r, 0], [0, 0, 1]])
    return tilt @ shake @ nod


# --- parts ----------------------------------------------------------------------------------------


def eye_centre(shape: Shape) -> np.ndarray:
    """Returns the centre [3] of the right eye in the head frame. It is sunk into the skull."""
    wide, tall, deep = shape.skull
    share = (shape.eye_x / wide) ** 2 + (shape.eye_y / tall) ** 2
    return np.array([shape.eye_x, shape.eye_y, deep * np.sqrt(1 - share) - 0.4 * shape.eye])


def muzzle_centre(shape: Shape) -> np.ndarray:
    """Returns the centre [3] of the muzzle in the head frame."""
    return np.array([0.0, shape.muzzle_y, 0.62])


def nose_centre(shape: Shape) -> np.ndarray:
    """Returns the centre [3] of the nose in the head frame, at the upper front of the muzzle."""
    angle = 0.75
    _, tall, deep = shape.muzzle
    offset = np.array([0.0, -0.8 * np.sin(angle) * tall, 0.97 * np.cos(0.6 * angle) * deep + 0.05])
    return muzzle_centre(shape) + offset


def fur(shape: Shape) -> list[Ellipsoid | Flap]:
    """Returns the parts of a head that join smoothly."""
    wide, tall, deep = shape.muzzle
    middle = muzzle_centre(shape)
    jaw = np.array([0.0, 0.85 * tall, 0.25 * deep])
    x, y, h = eye_centre(shape)
    parts = [
        _ellipsoid(shape, SKULL, (0, 0, 0), shape.skull),
        _ellipsoid(shape, NECK, (0, 1.15, -0.45), (shape.neck, 0.95, 0.55)),
        _ellipsoid(shape, MUZZLE, middle, shape.muzzle),
        # The ridge between eyes and nose, and the lower jaw.
        _ellipsoid(shape, SKULL, (0, 0.08, 0.62), (0.55 * wide, 0.42, 0.35)),
        _ellipsoid(shape, MUZZLE, middle + jaw, (0.55 * wide, 0.12, 0.4 * deep)),
    ]
    for side in (-1, 1):
        pad = middle + np.array([0.45 * side * wide, 0.2 * tall, 0.62 * deep])
        cheek = (0.55 * side * shape.skull[0], 0.38, 0.2)
        brow = (side * x, y - 1.05 * shape.eye, h - 0.02 + shape.brow)
        parts += [
            _ellipsoid(shape, MUZZLE, pad, (0.55 * wide, 0.6 * tall, 0.4 * deep)),
            _ellipsoid(shape, SKULL, cheek, (shape.cheek, 0.9 * shape.cheek, shape.cheek)),
            _ellipsoid(shape, SKULL, brow, (1.15 * shape.eye, 0.5 * shape.eye, 0.95 * shape.eye)),
            _ear(shape, side),
        ]
    return parts


def details(shape: Shape) -> list[Ellipsoid]:
    """Returns the parts that are put on top: nose and eyes."""
    nose = (1.25 * shape.nose, 0.8 * shape.nose, 0.8 * shape.nose)
    parts = [_ellipsoid(shape, NOSE, nose_centre(shape), nose)]
    for side in (-1, 1):
        centre = eye_centre(shape) * (side, 1, 1)
        parts.append(_ellipsoid(shape, EYE, centre, (shape.eye, 0.92 * shape.eye, shape.eye)))
    return parts


def _ellipsoid(shape: Shape, part, centre, radii, angle=0.0) -> Ellipsoid:
    """Returns an ellipsoid of the head frame in the pose of the head.

    Args:
      shape: of the head.
      part: class.
      centre: [3] in the head frame.
      radii: [3] along its own axes.
      angle: clockwise turn of its own axes in the front view, radians.
    """
    rotation = turn(shape)
    own = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    axes = rotation @ own
    form = axes @ np.diag(np.array(radii, float) ** -2) @ axes.T
    return Ellipsoid(part, rotation @ np.array(centre, float), form)


def _ear(shape: Shape, side: int) -> Ellipsoid | Flap:
    """Returns the left (-1) or the right (1) ear."""
    wide, tall, _ = shape.skull
    if shape.hanging:
        # The lobe hangs from the side of the skull.
        half = shape.ear_length / 2
        centre = (
            side * (0.93 * wide + half * np.sin(shape.ear_spread)),
            -0.5 * tall + 0.9 * half * np.cos(shape.ear_spread),
            0.12,
        )
        radii = (shape.ear_width / 2, half, 0.18)
        return _ellipsoid(shape, EAR, centre, radii, -side * shape.ear_spread)

    # The base of the flap is inside of the skull. Its tip points up and outwards.
    angle = 0.62
    root = np.array([wide * np.sin(angle), -tall * np.cos(angle)]) * 0.86
    up = np.array([np.sin(shape.ear_spread), -np.cos(shape.ear_spread)])
    along = np.array([np.cos(angle), np.sin(angle)])
    tip = root + (shape.ear_length + 0.1) * up
    inner = root - 0.55 * shape.ear_width * along - 0.1 * up
    outer = root + 0.55 * shape.ear_width * along - 0.1 * up
    corners = np.array([[*inner, 0.22], [*outer, 0.02], [*tip, 0.05]]) * (side, 1, 1)
    return Flap(EAR, corners @ turn(shape).T, 0.16)


# --- surface --------------------------------------------------------------------------------------


def surface(shape: Shape, columns, rows) -> Surface:
    """Returns the visible surface of a head over a grid.

    Args:
      shape: of the head.
      columns: [W] increasing x, in units of the head.
      rows: [H] increasing y.
    """
    size = (len(rows), len(columns))
    total = np.zeros(size)
    slope = np.zeros((*size, 2))
    best = np.full(size, -np.inf)
    part = np.zeros(size, np.uint8)
    inner = np.zeros(size)

    # Furry parts: sums of exp(h_i / BLEND), and of gradients with these weights.
    for piece in fur(shape):
        window, height, gradient, rim = _evaluate(piece, columns, rows)
        weight = np.exp((height - 1) / BLEND)
        total[window] += weight
        slope[window] += weight[..., None] * gradient
        higher = height > best[window]
        np.copyto(best[window], height, where=higher)
        np.copyto(part[window], np.uint8(piece.part), where=higher)
        np.copyto(inner[window], rim, where=higher)
    covered = total > 0
    safe = np.where(covered, total, 1)
    joint = np.where(covered, 1 + BLEND * np.log(safe), -np.inf)
    slope /= safe[..., None]

    # Nose and eyes.
    for piece in details(shape):
        window, height, gradient, _ = _evaluate(piece, columns, rows)
        higher = height > joint[window]
        np.copyto(joint[window], height, where=higher)
        np.copyto(slope[window], gradient, where=higher[..., None])
        np.copyto(part[window], np.uint8(piece.part), where=higher)
        np.copyto(inner[window], 0, where=higher)
    covered |= part > 0
    return Surface(np.where(covered, joint, 0), slope, np.where(covered, part, 0), inner)


def normals_of(scene: Surface) -> np.ndarray:
    """Returns the unit normals [H, W, 3] towards the camera, 0 where there is no surface.

    z = -h grows away from the camera, so that the normal is (-dh/dx, -dh/dy, -1), normalised.
    """
    vectors = np.concatenate([-scene.slope, -np.ones((*scene.height.shape, 1))], axis=-1)
    length = np.sqrt((vectors**2).sum(-1, keepdims=True))
    return np.where((scene.part > 0)[..., None], vectors / length, 0)


def _evaluate(piece: Ellipsoid | Flap, columns, rows):
    """Returns a part in the window of the grid that holds it.

    Returns:
      The window (two slices), and in it the height [h, w] (-inf where there is none), the gradient
      [h, w, 2], and u of a flap [h, w].
    """
    # The window.
    if isinstance(piece, Flap):
        low = piece.corners[:, :2].min(axis=0)
        high = piece.corners[:, :2].max(axis=0)
    else:
        reach = np.sqrt(np.diag(np.linalg.inv(piece.form)))[:2]
        low = piece.centre[:2] - reach
        high = piece.centre[:2] + reach
    across = slice(*np.searchsorted(columns, (low[0], high[0])))
    down = slice(*np.searchsorted(rows, (low[1], high[1])))
    x = columns[across][None]
    y = rows[down][:, None]
    values = _flap(piece, x, y) if isinstance(piece, Flap) else _quadric(piece, x, y)
    return (down, across), *values


def _quadric(piece: Ellipsoid, x, y):
    """Returns height, gradient and 0 of an ellipsoid at x [1, w] and y [h, 1]."""
    form = piece.form
    dx = x - piece.centre[0]
    dy = y - piece.centre[1]

    # form_hh dh^2 + 2 linear dh + constant = 0.
    linear = form[0, 2] * dx + form[1, 2] * dy
    constant = form[0, 0] * dx**2 + form[1, 1] * dy**2 + 2 * form[0, 1] * dx * dy - 1
    root = linear**2 - form[2, 2] * constant
    hit = root > 0
    root = np.sqrt(np.where(hit, root, 0))
    dh = (root - linear) / form[2, 2]

    # (A p)_h is the root, which is 0 at the outline.
    steep = np.maximum(root, _STEEPEST)
    slope_x = -(form[0, 0] * dx + form[0, 1] * dy + form[0, 2] * dh) / steep
    slope_y = -(form[1, 0] * dx + form[1, 1] * dy + form[1, 2] * dh) / steep
    height = np.where(hit, piece.centre[2] + dh, -np.inf)
    return height, np.stack([slope_x, slope_y], axis=-1), np.zeros_like(height)


def _flap(piece: Flap, x, y):
    """Returns height, gradient and u of a flap at x [1, w] and y [h, 1]."""
    # Barycentric coordinates are affine: coordinates = rows @ (x, y, 1).
    corners = np.concatenate([piece.corners[:, :2], np.ones((3, 1))], axis=1)
    rows = np.linalg.inv(corners).T
    plane = rows.T @ piece.corners[:, 2]
    a, b, c = (row[0] * x + row[1] * y + row[2] for row in rows)
    inside = (a > 0) & (b > 0) & (c > 0)
    u = np.sqrt(np.where(inside, 27 * a * b * c, 0))

    # dh/du and du/dx = 27 d(abc)/dx / (2 u).
    rise = piece.thickness * (1 - 3 * HOLLOW * u**2) * 27 / (2 * np.maximum(u, _STEEPEST))
    slope_x = plane[0] + rise * (rows[0, 0] * b * c + rows[1, 0] * a * c + rows[2, 0] * a * b)
    slope_y = plane[1] + rise * (rows[0, 1] * b * c + rows[1, 1] * a * c + rows[2, 1] * a * b)
    level = plane[0] * x + plane[1] * y + plane[2]
    height = np.where(inside, level + piece.thickness * (u - HOLLOW * u**3), -np.inf)
    return height, np.stack([slope_x, slope_y], axis=-1), u
