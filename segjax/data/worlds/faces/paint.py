"""Paints a face, from back to front. Landmarks decide where, and the looks decide how.

Edges of skin, brows, eyes, nose and lips are those of shape.py, to which the landmarks belong.
"""

from typing import NamedTuple

import numpy as np

from segjax.data.worlds import studio
from segjax.data.worlds.faces import shape as shapes
from segjax.data.worlds.faces.looks import Looks
from segjax.data.worlds.faces.shape import Shape

BACKGROUND, SKIN, HAIR, BROW, EYE, NOSE, LIP, MOUTH, CLOTH, GLASSES = range(10)
"""Classes of the parts. Ears, neck and beard are skin. The inside of the mouth is MOUTH."""

_TEETH = np.array([0.75, 0.72, 0.64])
_SCLERA = np.array([0.78, 0.76, 0.74])


class View(NamedTuple):
    """Everything that the painters of a face share.

    shape  of the face
    looks  of the face
    x, y   [H, W] places of the pixels in the front view
    light  [H, W, 3] light on the skin
    gloss  [H, W, 3] light that the skin reflects like a mirror
    """

    shape: Shape
    looks: Looks
    x: np.ndarray
    y: np.ndarray
    light: np.ndarray
    gloss: np.ndarray


def paint(shape: Shape, looks: Looks, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image [H, W, 3] uint8 and the label [H, W] uint8 of a face."""
    # Places of the pixels in the front view, and on the backdrop.
    columns = np.arange(size[1], dtype=np.float32)
    rows = np.arange(size[0], dtype=np.float32)
    x, y = shapes.to_front(shape, *np.meshgrid(columns, rows), size)
    canvas = studio.Canvas(studio.paint_backdrop(looks.backdrop, *studio.plane(size)))

    # The light on the skin.
    normals = _normals(_skin_height(shape, x, y), shape, size)
    light = studio.lighting(normals, looks.lamp)
    gloss = studio.highlight(normals, looks.lamp, 18)[..., None] * looks.lamp.colour
    view = View(shape, looks, x, y, light, looks.gloss * gloss)

    # Hair behind the head, the head, and everything in front of it.
    hair = None if looks.style == 'bald' else _hair_colour(view, size)
    outline = None if looks.style == 'bald' else _hair_outline(view)
    if hair is not None:
        canvas.paint(studio.coverage(*outline), 0.55 * hair, HAIR)
    _paint_body(canvas, view)
    head = _paint_head(canvas, view)
    _paint_beard(canvas, view, head)
    _paint_nose(canvas, view)
    _paint_mouth(canvas, view)
    for side in (-1, 1):
        _paint_eye(canvas, view, side)
    _paint_brows(canvas, view)
    if hair is not None:
        _paint_front_hair(canvas, view, hair, outline)
    if looks.glasses != 'none':
        _paint_glasses(canvas, view)
    return studio.develop(canvas.colour), canvas.label


# --- relief and light -----------------------------------------------------------------------------


def _bump(x, y, x0, y0, width, height):
    """Returns a round bump of height 1 around (+-x0, y0)."""
    return np.exp(-0.5 * (((np.abs(x) - x0) / width) ** 2 + ((y - y0) / height) ** 2))


def _skin_height(shape: Shape, x, y) -> np.ndarray:
    """Returns the height of the skin towards the viewer over the front view, [H, W]."""
    # The head is as round as its contour. The factor keeps the slope finite at the contour.
    radius = (shapes.contour(shape, x, y) + 1) / 1.04
    height = 0.75 * np.sqrt(np.maximum(1 - radius**2, 0.01))

    # Bumps of the nose, and the dents of the eyes.
    height = height + 0.75 * shapes.nose_bump(shape, x, y)
    height += 0.14 * _bump(x, y, 0, 0.12, 0.07, 0.17)
    height += 0.07 * _bump(x, y, 0.7 * shape.nose_width, shape.nose_tip + 0.03, 0.05, 0.06)
    height -= 0.12 * _bump(x, y, shape.eye_x - 0.03, -0.03, 0.2, 0.13)
    height += 0.06 * _bump(x, y, shape.eye_x, 0.0, 0.14, 0.09)
    height += 0.04 * _bump(x, y, shape.eye_x, shape.brow_y, 0.25, 0.09)
    # Cheeks, the chin, the dip below the lips and the muzzle around the mouth.
    height += (0.06 + 0.3 * max(shape.smile, 0)) * _bump(x, y, 0.5, 0.42, 0.17, 0.15)
    height += 0.06 * _bump(x, y, 0, shapes.chin_y(shape) - 0.15, 0.2, 0.1)
    height -= 0.03 * _bump(x, y, 0, shape.mouth_y + 0.2 + 0.7 * shape.open, 0.2, 0.05)
    height += 0.08 * _bump(x, y, 0, shape.mouth_y, 0.3, 0.18)
    return height


def _normals(height, shape: Shape, size) -> np.ndarray:
    """Returns the normals [H, W, 3] of a relief over the image, turned with the head.

    Args:
      height: [H, W] towards the viewer, in units of the front view.
      shape: of the face.
      size: (height, width) of the image.
    """
    # Slopes per unit of the front view. The pose tilts the relief.
    unit = shape.scale * min(size)
    slope_y, slope_x = np.gradient(height)
    cos = np.cos(shape.roll)
    sin = np.sin(shape.roll)
    tilt_x = -cos * np.tan(shape.yaw) - sin * np.tan(shape.pitch)
    tilt_y = -sin * np.tan(shape.yaw) + cos * np.tan(shape.pitch)
    normals = np.stack([-unit * slope_x - tilt_x, -unit * slope_y - tilt_y], axis=-1)
    length = np.sqrt(1 + (normals**2).sum(-1, keepdims=True))
    return np.concatenate([normals, np.full_like(length, -1)], axis=-1) / length


# --- body and head --------------------------------------------------------------------------------


def _paint_body(canvas: studio.Canvas, view: View) -> None:
    """Paints the neck and the clothes."""
    shape, looks, x, y = view[:4]
    chin = shapes.chin_y(shape)

    # The neck is a cylinder in the shadow of the chin.
    neck = studio.coverage(np.abs(x) - 0.56 * shape.width, 0.3 - y)
    round_off = np.sqrt(np.maximum(1 - (x / (0.62 * shape.width)) ** 2, 0.05))
    shadow = 0.45 + 0.4 * np.clip((y - chin) / 0.5, 0, 1)
    light = looks.lamp.ambient + looks.lamp.colour * 0.5
    canvas.paint(neck, looks.skin * light * (shadow * round_off)[..., None], SKIN)

    # Clothes below the shoulders, with a round neckline.
    shoulder = chin + 0.3 + 0.3 * np.maximum(np.abs(x) - 0.3, 0) ** 1.5
    neckline = 1 - np.hypot(x / (looks.collar + 0.2), (y - chin - 0.1) / (looks.collar + 0.15))
    fold = 0.85 + 0.15 * np.cos(7 * np.abs(x) + 2 * y)
    canvas.paint(
        studio.coverage(shoulder - y, neckline), looks.cloth * light * fold[..., None], CLOTH
    )


def _paint_head(canvas: studio.Canvas, view: View) -> np.ndarray:
    """Paints ears, skin and make-up. Returns the coverage [H, W] of the head."""
    shape, looks, x, y = view[:4]

    # Ears.
    across = (np.abs(x) - shape.width - 0.02) / 0.12
    ear = np.sqrt(across**2 + ((y - 0.2) / 0.24) ** 2) - 1
    dim = 0.6 + 0.25 * np.cos(2.5 * across)[..., None]
    light = looks.lamp.ambient + 0.6 * looks.lamp.colour
    canvas.paint(studio.coverage(ear), looks.skin * light * dim * np.array([1.05, 0.9, 0.9]), SKIN)

    # Skin with red cheeks, make-up, and dark hollows around the eyes and under the lips.
    head = studio.coverage(shapes.contour(shape, x, y))
    skin = np.broadcast_to(looks.skin, (*x.shape, 3))
    cheeks = looks.blush * _bump(x, y, 0.55, 0.42, 0.2, 0.16)
    skin = skin + cheeks[..., None] * (looks.lip - skin)
    over_eye = 0.75 * _bump(x, y, shape.eye_x, -0.5 * shape.eye_upper - 0.04, 0.2, 0.055)
    skin = skin + over_eye[..., None] * (looks.eyelid - skin)
    hollow = 0.25 * _bump(x, y, shape.eye_x - 0.06, 0.02, 0.2, 0.1)
    hollow += 0.3 * _bump(x, y, 0, shapes.nose_base(shape) + 0.06, 0.16, 0.04)
    hollow += 0.2 * _bump(x, y, 0, shape.mouth_y + shape.lower_lip + shape.open + 0.06, 0.2, 0.04)
    canvas.paint(head, skin * view.light * (1 - hollow)[..., None] + view.gloss, SKIN)

    # The fold from the nose to the corner of the mouth deepens with a smile.
    path = shape.nose_width + 0.04 + 0.3 * (y - shape.nose_tip)
    fold = np.exp(-(((np.abs(x) - path) / 0.025) ** 2))
    fold *= _bump(0 * x, y, 0, shape.mouth_y - 0.18, 1, 0.1)
    depth = 0.15 + 2 * max(shape.smile, 0)
    canvas.paint(head * fold, 0.5 * canvas.colour, strength=depth)
    return head


def _paint_beard(canvas: studio.Canvas, view: View, head) -> None:
    """Paints the beard onto the head, with soft edges. The lips stay free: they follow later."""
    shape, looks, x, y = view[:4]
    if looks.beard == 'none':
        return
    soft = 0.06

    # Cheeks and chin below a line from the ears to the corners of the mouth.
    line = shape.mouth_y - 0.12 - 0.55 * np.maximum(np.abs(x) - 0.35, 0) ** 1.2
    cheeks = np.clip((y - line) / soft, 0, 1)
    # The strip between nose and mouth, and the chin.
    upper = (y - shapes.nose_base(shape) - 0.09) / 0.03
    drop = shape.mouth_y + 0.04 + 0.25 * np.maximum(np.abs(x) - 0.25, 0)
    moustache = np.clip(upper, 0, 1) * np.clip((drop - y) / 0.03, 0, 1)
    moustache *= np.clip((shape.mouth_width + 0.08 - np.abs(x)) / soft, 0, 1)
    chin = np.clip((0.3 - np.hypot(x, 0.8 * (y - shapes.chin_y(shape) + 0.1))) / soft, 0, 1)

    # Each beard has its own regions and its own density.
    strength = looks.beard_strength
    region = {
        'stubble': np.maximum(cheeks, moustache),
        'full': np.maximum(cheeks, moustache),
        'moustache': moustache,
        'goatee': np.maximum(moustache, chin),
    }[looks.beard]
    opacity = 0.35 * strength if looks.beard == 'stubble' else strength
    strands = 1 + 0.12 * np.sin(31 * np.abs(x) + 2 * np.sin(9 * y + looks.waves[0]))
    colour = looks.hair * 0.9 * (view.light + 0.1) * strands[..., None]
    canvas.paint(head * region, colour, strength=opacity)


# --- features -------------------------------------------------------------------------------------


def _paint_nose(canvas: studio.Canvas, view: View) -> None:
    """Labels the nose, which the relief shades, and paints nostrils."""
    shape, looks, x, y = view[:4]
    sides = np.abs(x) - shapes.nose_half_width(shape, y)
    inside = studio.coverage(sides, -y, y - shapes.nose_bottom(shape, x))
    canvas.paint(inside, canvas.colour, NOSE)

    # Soft lines at the wings, and the nostrils.
    wing = _bump(x, y, shape.nose_width, shape.nose_tip + 0.05, 0.02, 0.05)
    canvas.paint(wing, 0.5 * canvas.colour, strength=0.5)
    across = (np.abs(x) - 0.5 * shape.nose_width) / (0.27 * shape.nose_width)
    hole = np.hypot(across, (y - shapes.nose_base(shape) + 0.005) / 0.028) - 1
    canvas.paint(studio.coverage(hole), 0.22 * looks.skin * view.light, strength=0.85)


def _paint_mouth(canvas: studio.Canvas, view: View) -> None:
    """Paints lips, and teeth and tongue between open lips."""
    shape, looks, x, y = view[:4]
    edges = shapes.lips(shape, x)
    beyond = np.abs(x) - shape.mouth_width

    # The upper lip faces down and is darker. The lower lip has a highlight.
    lip = studio.coverage(edges.upper_outer - y, y - edges.lower_outer, beyond)
    upper = y < (edges.upper_inner + edges.lower_inner) / 2
    shade = np.where(upper, 0.8, 1.05)[..., None]
    middle = edges.lower_inner + 0.45 * shape.lower_lip
    shine = 0.12 * np.exp(-(((y - middle) / 0.025) ** 2 + (x / (0.5 * shape.mouth_width)) ** 2))
    colour = looks.lip * view.light * shade + shine[..., None] * looks.lamp.colour
    canvas.paint(lip, colour, LIP)

    # The line between closed lips.
    line = np.abs(y - edges.upper_inner) - 0.012
    closed = studio.coverage(line, beyond)
    canvas.paint(closed, 0.25 * looks.lip * view.light, strength=0.8)
    if shape.open == 0:
        return

    # The inside: dark, with the upper teeth above and the tongue below.
    beyond = np.abs(x) - shapes.INNER * shape.mouth_width
    inside = studio.coverage(edges.upper_inner - y, y - edges.lower_inner, beyond)
    canvas.paint(inside, np.array([0.045, 0.008, 0.008]) * (view.light + 0.2), MOUTH)
    tongue = np.hypot(x / (0.6 * shape.mouth_width), (y - edges.lower_inner) / (0.5 * shape.open))
    flesh = np.array([0.3, 0.07, 0.07]) * view.light
    canvas.paint(np.minimum(inside, studio.coverage(tongue - 1)), flesh, strength=0.8)
    depth = 0.12 * looks.teeth
    teeth = studio.coverage(y - edges.upper_inner - depth, np.abs(x) - 0.75 * shape.mouth_width)
    canvas.paint(np.minimum(inside, teeth), _TEETH * (0.85 * view.light + 0.05))


def _paint_eye(canvas: studio.Canvas, view: View, side: int) -> None:
    """Paints the left (-1) or the right (1) eye: white, iris, pupil, glint, lashes."""
    shape, looks, x, y = view[:4]
    upper, lower = shapes.lids(shape, x)
    own_side = -side * x
    opening = studio.coverage(upper - y, y - lower, own_side)

    # The white is darker below the lid and in the corners.
    shade = np.clip(0.6 + (y - upper) / 0.12, 0.6, 1)
    shade *= 1 - 0.3 * ((np.abs(x) - shape.eye_x) / shape.eye_width) ** 2
    canvas.paint(opening, _SCLERA * (0.9 * view.light + 0.06) * shade[..., None], EYE)

    # Iris and pupil, which the lids cut.
    centre = side * shape.eye_x + looks.gaze * shape.eye_width
    distance = np.hypot(x - centre, y - (shape.eye_lower - shape.eye_upper) / 2)
    iris = np.minimum(opening, studio.coverage(distance - 0.088))
    canvas.paint(iris, looks.iris * (0.9 * view.light + 0.15))
    rim = np.clip((distance - 0.065) / 0.02, 0, 1)
    canvas.paint(iris * rim, 0.3 * looks.iris, strength=0.7)
    canvas.paint(np.minimum(opening, studio.coverage(distance - 0.042)), np.full(3, 0.004))

    # The glint of the lamp.
    glint_x = centre + 0.035 * looks.lamp.direction[0]
    glint_y = (shape.eye_lower - shape.eye_upper) / 2 + 0.035 * looks.lamp.direction[1]
    glint = np.hypot(x - glint_x, y - glint_y) - 0.018
    canvas.paint(np.minimum(opening, studio.coverage(glint)), np.ones(3), strength=0.9)

    # Lashes and the crease over the lid.
    near = np.abs(np.abs(x) - shape.eye_x) - 1.04 * shape.eye_width
    lash = studio.coverage(np.abs(y - upper) - 0.017, near, own_side)
    canvas.paint(lash, 0.1 * looks.hair + 0.006, strength=0.9)
    under = studio.coverage(np.abs(y - lower) - 0.009, near, own_side)
    canvas.paint(under, 0.4 * looks.skin * view.light, strength=0.5)
    crease = studio.coverage(np.abs(y - upper + 0.05) - 0.009, near, own_side)
    canvas.paint(crease, 0.4 * looks.skin * view.light, strength=0.6)


def _paint_brows(canvas: studio.Canvas, view: View) -> None:
    """Paints the brows around their line, thicker inside than outside."""
    shape, looks, x, y = view[:4]
    inner, outer = shapes.brow_ends(shape)
    share = np.clip((np.abs(x) - inner) / (outer - inner), 0, 1)
    half = looks.brow_weight * (1 - 0.75 * share**2)
    field = np.abs(y - shapes.brow_line(shape, x)) - half
    # The ends reach a little past the landmarks.
    ends = np.maximum(inner - 0.025 - np.abs(x), np.abs(x) - outer - 0.025)
    strands = 1 + 0.25 * np.sin(45 * np.abs(x) + 25 * y)
    colour = (0.6 * looks.hair + 0.12 * looks.skin) * (view.light + 0.05) * strands[..., None]
    canvas.paint(studio.coverage(field, ends), colour, BROW, strength=0.92)


# --- hair and glasses -----------------------------------------------------------------------------


def _hair_outline(view: View) -> list[np.ndarray]:
    """Returns the fields whose common negative region is the hair seen from the front."""
    shape, looks, x, y = view[:4]
    above = np.maximum(-y, 0) / (shape.crown + looks.volume)
    below = np.maximum(y, 0)
    reach = shape.width + 0.7 * looks.volume
    angle = np.arctan2(x, -y)

    # Curls have a bumpy edge. A swept crest is higher on a side.
    bumps = 0.0 * x
    if looks.style == 'curls':
        bumps = 0.035 * np.cos(13 * np.abs(angle) + looks.waves[0])
        bumps += 0.025 * np.cos(21 * np.abs(angle) + looks.waves[1])
    if looks.style == 'swept':
        crest = np.maximum(np.sin(angle) * np.sign(looks.part), 0)
        bumps = -0.12 * crest * np.clip(-y, 0, 1)

    # Long hair falls straight down and widens. Short hair ends at the ears.
    widening = {'long': 0.12, 'curtain': 0.08, 'curls': -0.12}.get(looks.style, -0.3)
    across = np.abs(x) / (reach + widening * below)
    power = shape.exponent
    round_field = (across**power + above**power) ** (1 / power) - 1 + bumps
    ends = {'long': looks.length, 'curtain': 0.5 * looks.length, 'curls': 0.75}
    end = ends.get(looks.style, 0.12)
    wavy = 0.04 * np.cos(9 * np.abs(x) + looks.waves[2])
    fields = [round_field, y - end + wavy]
    if looks.style == 'bun':
        bun = np.hypot(x, y + shape.crown + looks.volume + 0.12) - 0.34
        fields = [np.minimum(round_field, bun), fields[1]]
    return fields


def _hair_colour(view: View, size) -> np.ndarray:
    """Returns the lit colour [H, W, 3] of hair: a round relief, strands and a gloss."""
    shape, looks, x, y = view[:4]
    # The relief of the hair is an ellipsoid around the head.
    reach = shape.width + looks.volume + 0.05
    tall = shape.crown + looks.volume + 0.05
    squared = (x / reach) ** 2 + (np.minimum(y + 0.1, 0.3) / tall) ** 2
    normals = _normals(np.sqrt(np.maximum(1 - squared, 0.02)), shape, size)

    # Strands run away from the parting.
    angle = np.abs(np.arctan2(x - looks.part, np.maximum(0.25 - y, 0.1)))
    strand = 0.5 * np.sin(57 * angle + 2 * np.sin(4 * y + looks.waves[0]) + looks.waves[1])
    strand += 0.5 * np.sin(31 * angle + 3 * y + looks.waves[2])
    strand += 0.6 * np.sin(9 * angle - 5 * y + looks.waves[0])
    if looks.style == 'curls':
        strand = np.sin(17 * np.abs(x) + looks.waves[0]) + np.sin(17 * y + looks.waves[1])
        strand += 0.8 * np.sin(11 * np.abs(x) + 13 * y + looks.waves[2])
    light = studio.lighting(normals, looks.lamp) * (1 + 0.17 * strand)[..., None]
    gloss = studio.highlight(normals, looks.lamp, 12)[..., None] * looks.lamp.colour
    shine = 0.05 + 0.35 * looks.hair
    return looks.hair * light + shine * gloss * np.clip(0.5 + 0.5 * strand, 0, 1)[..., None]


def _paint_front_hair(canvas: studio.Canvas, view: View, hair, outline) -> None:
    """Paints the hair in front of the skull: all hair outside of the opening for the face."""
    shape, looks, x, y = view[:4]
    half = 0.97 * shape.width
    edge = np.sqrt(np.maximum(1 - (x / half) ** 2, 0))
    line = 0.3 - (0.3 + looks.hairline) * edge**0.8

    # The hairline of each style.
    if looks.style == 'curtain':
        line = line - 0.2 * np.exp(-(((x - looks.part) / 0.2) ** 2)) + 0.1 * edge
    if looks.style in ('fringe', 'long'):
        teeth = 0.02 * np.cos(26 * (x - looks.part))
        low = -0.5 + 0.1 * (x / half) ** 2 + teeth
        swept = low - 0.25 * np.clip(0.5 + (x - looks.part) * np.sign(looks.part), 0, 1) ** 2
        line = np.maximum(line, low if looks.style == 'fringe' else swept)
    if looks.style == 'swept':
        line = line + 0.12 * x * np.sign(looks.part) * edge
    covers = np.minimum(y - line, np.maximum(half - np.abs(x), y - 0.9))

    # Sideburns end at the ears, unless hair falls in front of them.
    side = y - (0.05 if looks.style in ('short', 'swept', 'fringe', 'bun') else 0.0)
    # The hair throws a soft shadow onto the forehead.
    above = np.clip(1 - (y - line) / 0.12, 0, 1) * (y > line) * (y < 0.1)
    skin = canvas.label == SKIN
    canvas.paint(above * skin, 0.6 * canvas.colour, strength=0.6)
    canvas.paint(studio.coverage(*outline, covers, side), hair, HAIR)


def _paint_glasses(canvas: studio.Canvas, view: View) -> None:
    """Paints glasses in front of the eyes. Only their frame covers the parts behind them."""
    shape, looks, x, y = view[:4]
    exponent = 2 if looks.glasses == 'round' else 5
    radius_x = 0.29
    radius_y = 0.25 if looks.glasses == 'round' else 0.2
    across = np.abs(np.abs(x) - shape.eye_x - 0.01) / radius_x
    down = np.abs(y - 0.03) / radius_y
    field = (across**exponent + down**exponent) ** (1 / exponent) - 1

    # Glass, with a reflection that follows the lamp.
    glass = studio.coverage(field)
    canvas.paint(glass, 0.3 * looks.frame, strength=looks.tint)
    slant = 0.5 * np.sign(looks.lamp.direction[0])
    stripe = np.exp(-(((x - shape.eye_x * np.sign(x) + slant * y) / 0.05) ** 2))
    canvas.paint(glass * stripe * (y < 0.05), np.ones(3) * 0.8, strength=0.12)

    # Frame, bridge and temples.
    rim = np.abs(field) - 0.11
    bridge_line = np.abs(y + 0.03 + 0.05 * np.cos(7 * x)) - 0.025
    bridge = np.maximum(bridge_line, np.abs(x) - shape.eye_x + radius_x)
    start = shape.eye_x + radius_x
    temple = np.maximum(np.abs(y + 0.02) - 0.025, start - np.abs(x))
    temple = np.maximum(temple, np.abs(x) - shape.width)
    frame = np.minimum(rim, np.minimum(bridge, temple))
    light = 0.6 * looks.lamp.colour + looks.lamp.ambient
    canvas.paint(studio.coverage(frame), looks.frame * light, GLASSES)
