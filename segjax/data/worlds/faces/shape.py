"""The shape of a face: proportions, expression and pose. Landmarks follow from nothing else.

A face lies in the plane (x, y) of its front view: x to the right, y down. 1 is about half its
width, and the eyes are at y = 0. The heights z towards the camera (`relief`) turn with the head:

    X = x cos(yaw) + z sin(yaw),  Y = (y - MIDDLE) cos(pitch) - z sin(pitch)

The image shows (X, Y) turned by the roll, scaled and shifted. `to_image` maps front view to pixels,
and `to_front` maps pixels to the front view. Parts are drawn in the front view, so that landmarks
lie on the drawn parts in every pose.
"""

from typing import NamedTuple

import numpy as np

MIDDLE = 0.3
"""y of the middle of a face, around which it turns."""

INNER = 0.88
"""Share of the width of the mouth that can open."""

_ITERATIONS = 12


class Shape(NamedTuple):
    """Proportions, expression and pose of a face. Lengths are in units of the front view.

    width        half width at the ears
    chin         y of the chin with a closed mouth
    exponent     of the contour of the jaw: 2 is an ellipse, more is squarer
    crown        height of the skull above the ears
    eye_x        distance of the eyes from the middle line
    eye_width    half width of an eye
    eye_upper    height of the upper lid over the corners
    eye_lower    depth of the lower lid under the corners
    eye_slant    rise of the outer corner over the middle of the eye
    brow_y       y of the brows at rest
    brow_arch    height of their arch
    brow_raise   expression: lift of the whole brows
    brow_frown   expression: drop of the inner ends
    nose_tip     y of the tip
    nose_width   half width of the base
    nose_rise    height of the tip over the face
    mouth_y      y of the closed mouth
    mouth_width  half width of the mouth
    upper_lip    thickness of the upper lip
    lower_lip    thickness of the lower lip
    smile        expression: lift of the corners
    open         expression: distance between the lips
    yaw          turn to the right of the image, radians
    pitch        turn upwards, radians
    roll         turn clockwise, radians
    scale        pixels per unit, as a share of the shorter side of the image
    shift        [2] of the face, as shares of the shorter side
    """

    width: float
    chin: float
    exponent: float
    crown: float
    eye_x: float
    eye_width: float
    eye_upper: float
    eye_lower: float
    eye_slant: float
    brow_y: float
    brow_arch: float
    brow_raise: float
    brow_frown: float
    nose_tip: float
    nose_width: float
    nose_rise: float
    mouth_y: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    smile: float
    open: float
    yaw: float
    pitch: float
    roll: float
    scale: float
    shift: tuple[float, float]


def draw_shape(rng) -> Shape:
    """Samples the shape of a face."""
    # A third of the mouths is closed.
    is_open = rng.random() < 2 / 3
    return Shape(
        width=rng.uniform(0.9, 1.04),
        chin=rng.uniform(1.18, 1.36),
        exponent=rng.uniform(2.2, 3.1),
        crown=rng.uniform(1.2, 1.4),
        eye_x=rng.uniform(0.39, 0.47),
        eye_width=rng.uniform(0.165, 0.205),
        eye_upper=rng.uniform(0.05, 0.115),
        eye_lower=rng.uniform(0.035, 0.065),
        eye_slant=rng.uniform(-0.02, 0.035),
        brow_y=rng.uniform(-0.3, -0.24),
        brow_arch=rng.uniform(0.03, 0.09),
        brow_raise=rng.uniform(-0.01, 0.08),
        brow_frown=rng.uniform(-0.04, 0.07),
        nose_tip=rng.uniform(0.34, 0.42),
        nose_width=rng.uniform(0.15, 0.21),
        nose_rise=rng.uniform(0.2, 0.3),
        mouth_y=rng.uniform(0.72, 0.8),
        mouth_width=rng.uniform(0.28, 0.38),
        upper_lip=rng.uniform(0.05, 0.09),
        lower_lip=rng.uniform(0.065, 0.115),
        smile=rng.uniform(-0.05, 0.11),
        open=rng.uniform(0.04, 0.26) if is_open else 0.0,
        yaw=np.deg2rad(rng.uniform(-22, 22)),
        pitch=np.deg2rad(rng.uniform(-10, 10)),
        roll=np.deg2rad(rng.uniform(-12, 12)),
        scale=rng.uniform(0.32, 0.36),
        shift=(rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)),
    )


def mirrored(shape: Shape) -> Shape:
    """Returns the shape of the mirrored face."""
    x, y = shape.shift
    return shape._replace(yaw=-shape.yaw, roll=-shape.roll, shift=(-x, y))


# --- parts in the front view ----------------------------------------------------------------------


def chin_y(shape: Shape) -> float:
    """Returns y of the chin. An open mouth drops the jaw."""
    return shape.chin + 0.6 * shape.open


def nose_base(shape: Shape) -> float:
    """Returns y of the base of the nose."""
    return shape.nose_tip + 0.1


def contour(shape: Shape, x, y) -> np.ndarray:
    """Returns a field that is negative inside of the head: the jaw below y = 0, the skull above."""
    below = np.maximum(y, 0) / chin_y(shape)
    above = np.maximum(-y, 0) / shape.crown
    across = np.abs(x) / shape.width
    return np.sqrt(across**shape.exponent + below**2 + above**shape.exponent) - 1


def lids(shape: Shape, x) -> tuple[np.ndarray, np.ndarray]:
    """Returns y of the upper and of the lower lid of both eyes at x."""
    t = (np.abs(x) - shape.eye_x) / shape.eye_width
    corners = -shape.eye_slant * t
    arch = 1 - t**2
    return corners - shape.eye_upper * arch, corners + shape.eye_lower * arch


def brow_line(shape: Shape, x) -> np.ndarray:
    """Returns y of the middle line of the brows at x."""
    inner, outer = brow_ends(shape)
    share = (np.abs(x) - inner) / (outer - inner)
    arch = shape.brow_arch * (1 - (1.6 * share - 0.9) ** 2)
    frown = shape.brow_frown * (1 - share)
    return shape.brow_y - shape.brow_raise - arch + frown


def brow_ends(shape: Shape) -> tuple[float, float]:
    """Returns |x| of the inner and of the outer ends of the brows."""
    return shape.eye_x - 1.25 * shape.eye_width, shape.eye_x + 1.45 * shape.eye_width


def nose_half_width(shape: Shape, y) -> np.ndarray:
    """Returns the half width of the nose at y, from the bridge at y = 0 to the base."""
    share = np.clip(y / nose_base(shape), 0, 1)
    return 0.06 + (shape.nose_width - 0.06) * share**2


def nose_bottom(shape: Shape, x) -> np.ndarray:
    """Returns y of the lower edge of the nose at x."""
    return nose_base(shape) + 0.03 * (1 - (x / shape.nose_width) ** 2)


class Lips(NamedTuple):
    """The y of the four edges of the lips, downwards."""

    upper_outer: np.ndarray
    upper_inner: np.ndarray
    lower_inner: np.ndarray
    lower_outer: np.ndarray


def lips(shape: Shape, x) -> Lips:
    """Returns y of the edges of the lips at x."""
    t = np.clip(x / shape.mouth_width, -1, 1)
    t_inner = np.clip(t / INNER, -1, 1)
    closed = shape.mouth_y - shape.smile * t**2
    arch = 1 - t**2
    gap = shape.open * (1 - t_inner**2)
    # The upper lip has a dip in the middle.
    bow = arch * (1 - 0.3 * np.exp(-((t / 0.16) ** 2)))
    upper_inner = closed - 0.3 * gap
    lower_inner = closed + 0.7 * gap
    return Lips(
        closed - 0.3 * shape.open * arch - shape.upper_lip * bow,
        upper_inner,
        lower_inner,
        closed + 0.7 * shape.open * arch + shape.lower_lip * arch,
    )


# --- landmarks ------------------------------------------------------------------------------------


def front_landmarks(shape: Shape) -> np.ndarray:
    """Returns the landmarks [68, 2] in the front view, in the order of `face_points`."""
    # Jaw: |x / width|^exponent + (y / chin)^2 = 1.
    angle = np.pi * np.arange(17) / 16
    cos = np.cos(angle)
    x = -shape.width * np.sign(cos) * np.abs(cos) ** (2 / shape.exponent)
    jaw = np.stack([x, chin_y(shape) * np.sin(angle)], axis=1)

    # Brows and nose.
    inner, outer = brow_ends(shape)
    brow_x = np.linspace(outer, inner, 5)
    brow_x = np.concatenate([-brow_x, brow_x[::-1]])
    brows = np.stack([brow_x, brow_line(shape, brow_x)], axis=1)
    ridge = np.stack([np.zeros(4), np.linspace(0, shape.nose_tip, 4)], axis=1)
    base_x = shape.nose_width * np.linspace(-1, 1, 5)
    base = np.stack([base_x, nose_bottom(shape, base_x)], axis=1)

    # Eyes: upper lids from left to right, lower lids from right to left.
    eyes = []
    for side in (-1, 1):
        upper_x = side * shape.eye_x + shape.eye_width * np.array([-1, -0.36, 0.36, 1])
        lower_x = upper_x[[2, 1]]
        eyes.append(np.stack([upper_x, lids(shape, upper_x)[0]], axis=1))
        eyes.append(np.stack([lower_x, lids(shape, lower_x)[1]], axis=1))

    # Lips, in the same way.
    outside = shape.mouth_width * np.array([-1, -0.62, -0.24, 0, 0.24, 0.62, 1])
    inside = INNER * shape.mouth_width * np.array([-1, -0.5, 0, 0.5, 1])
    mouth = []
    for places, above, below in (
        (outside, 'upper_outer', 'lower_outer'),
        (inside, *Lips._fields[1:3]),
    ):
        upper = getattr(lips(shape, places), above)
        lower = getattr(lips(shape, places), below)
        mouth.append(np.stack([places, upper], axis=1))
        mouth.append(np.stack([places, lower], axis=1)[-2:0:-1])
    return np.concatenate([jaw, brows, ridge, base, *eyes, *mouth])


def landmarks(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """Returns the landmarks [68, 2] (x, y) in pixels of an image of (height, width) `size`."""
    x, y = front_landmarks(shape).T
    return np.stack(to_image(shape, x, y, size), axis=1)


# --- pose -----------------------------------------------------------------------------------------


def nose_bump(shape: Shape, x, y) -> np.ndarray:
    """Returns the height of the nose over the face."""
    above = np.maximum(shape.nose_tip - y, 0) / 0.25
    below = np.maximum(y - shape.nose_tip, 0) / 0.1
    return shape.nose_rise * np.exp(-0.5 * ((x / 0.15) ** 2 + above**2 + below**2))


def relief(shape: Shape, x, y) -> np.ndarray:
    """Returns the heights z towards the camera that move with the pose."""
    head = 0.55 * np.exp(-0.5 * ((x / 0.75) ** 2 + ((y - MIDDLE) / 0.95) ** 2))
    return head + nose_bump(shape, x, y)


def to_image(shape: Shape, x, y, size) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels (u, v) of places in the front view."""
    z = relief(shape, x, y)
    turned_x = x * np.cos(shape.yaw) + z * np.sin(shape.yaw)
    turned_y = (y - MIDDLE) * np.cos(shape.pitch) - z * np.sin(shape.pitch)
    cos = np.cos(shape.roll)
    sin = np.sin(shape.roll)
    side = min(size)
    u = side * (shape.scale * (cos * turned_x - sin * turned_y) + shape.shift[0])
    v = side * (shape.scale * (sin * turned_x + cos * turned_y) + shape.shift[1])
    return u + (size[1] - 1) / 2, v + (size[0] - 1) / 2


def to_front(shape: Shape, u, v, size) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places (x, y) in the front view of pixels: the inverse of `to_image`.

    x = (X - z(x, y) sin(yaw)) / cos(yaw), and y in the same way, are repeated until they stand. The
    heights are so flat that each repetition at least halves the error, down to 1/1000 pixel.
    """
    # Undo shift, scale and roll.
    side = min(size)
    right = ((u - (size[1] - 1) / 2) / side - shape.shift[0]) / shape.scale
    down = ((v - (size[0] - 1) / 2) / side - shape.shift[1]) / shape.scale
    cos = np.cos(shape.roll)
    sin = np.sin(shape.roll)
    turned_x = cos * right + sin * down
    turned_y = cos * down - sin * right

    # Undo yaw and pitch.
    x = turned_x
    y = turned_y + MIDDLE
    for _ in range(_ITERATIONS):
        z = relief(shape, x, y)
        x = (turned_x - z * np.sin(shape.yaw)) / np.cos(shape.yaw)
        y = (turned_y + z * np.sin(shape.pitch)) / np.cos(shape.pitch) + MIDDLE
    return x, y
