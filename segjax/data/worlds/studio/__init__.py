"""Portraits: a lamp, a backdrop out of focus, and painting with antialiased edges.

Colours are linear RGB. Normals and directions are in camera coordinates: x to the right, y down, z
forward. Places on the backdrop are (x, y) from -1 to 1 across the shorter side of the image.
"""

from typing import NamedTuple

import numpy as np

from segjax.errors import InputError

WRAP = 0.25
"""Light reaches a little behind the edge of its shadow, as on skin and fur."""

NUM_SPOTS = 4


def check_address(world: str, seed: int, index: int, size: tuple[int, int]) -> None:
    """Raises InputError for a negative seed or index, or for a size below 8 x 8."""
    for name, value in (('seed', seed), ('index', index)):
        if value < 0:
            raise InputError(f'{world}: {name}', got=repr(value), expected='>= 0')
    if min(size) < 8:
        raise InputError(f'{world}: size', got=repr(size), expected='(height, width), both >= 8')


class Lamp(NamedTuple):
    """The light of a portrait.

    direction  [3] unit vector towards the lamp
    colour     [3] linear RGB light of the lamp
    ambient    [3] linear RGB light from everywhere
    """

    direction: np.ndarray
    colour: np.ndarray
    ambient: np.ndarray


class Backdrop(NamedTuple):
    """A colour gradient with blurred spots.

    top      [3] colour at the upper edge
    bottom   [3] colour at the lower edge
    places   [n, 2] centres of the spots
    radii    [n] of the spots
    colours  [n, 3] of the spots
    """

    top: np.ndarray
    bottom: np.ndarray
    places: np.ndarray
    radii: np.ndarray
    colours: np.ndarray


def draw_lamp(rng) -> Lamp:
    """Samples a lamp in front of the sitter, from the far left to the far right."""
    azimuth = np.deg2rad(rng.uniform(-65, 65))
    elevation = np.deg2rad(rng.uniform(-5, 60))
    direction = [
        np.sin(azimuth) * np.cos(elevation),
        -np.sin(elevation),
        -np.cos(azimuth) * np.cos(elevation),
    ]
    warmth = rng.uniform(-1, 1)
    tint = np.array([1 + 0.15 * warmth, 1.0, 1 - 0.2 * warmth])
    colour = tint * rng.uniform(0.85, 1.3)
    ambient = (2 - tint) * rng.uniform(0.25, 0.5)
    return Lamp(np.array(direction), colour, ambient)


def draw_colour(rng, saturation=(0.1, 0.9), value=(0.03, 0.7)) -> np.ndarray:
    """Samples a linear RGB colour [3] of uniform hue.

    Args:
      rng: random generator.
      saturation: range of the saturation.
      value: range of the largest component.
    """
    hue = rng.uniform(0, 6)
    strength = rng.uniform(*saturation)
    pure = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return rng.uniform(*value) * (1 - strength * (1 - pure))


def draw_backdrop(rng) -> Backdrop:
    """Samples a backdrop: two colours of the gradient, and four spots."""
    return Backdrop(
        draw_colour(rng),
        draw_colour(rng),
        rng.uniform(-1.2, 1.2, (NUM_SPOTS, 2)),
        rng.uniform(0.15, 0.6, NUM_SPOTS),
        np.stack([draw_colour(rng) for _ in range(NUM_SPOTS)]),
    )


def mirrored_lamp(lamp: Lamp) -> Lamp:
    """Returns the lamp of the mirrored scene."""
    return lamp._replace(direction=lamp.direction * (-1, 1, 1))


def mirrored_backdrop(backdrop: Backdrop) -> Backdrop:
    """Returns the backdrop of the mirrored scene."""
    return backdrop._replace(places=backdrop.places * (-1, 1))


def plane(size, step=1.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places (x, y) of samples, [H, W] float32 each.

    Args:
      size: (height, width) of the image.
      step: distance of the samples in pixels. 1: pixel centres. Smaller steps begin with the centre
        of the first pixel and end with the centre of the last pixel.
    """
    height, width = size
    unit = min(size) / 2
    columns = np.arange(0, width - 1 + step / 2, step) - (width - 1) / 2
    rows = np.arange(0, height - 1 + step / 2, step) - (height - 1) / 2
    x, y = np.meshgrid(columns / unit, rows / unit)
    return x.astype(np.float32), y.astype(np.float32)


def paint_backdrop(backdrop: Backdrop, x, y) -> np.ndarray:
    """Returns the colours [H, W, 3] of a backdrop at the places (x, y)."""
    share = np.clip((y + 1) / 2, 0, 1)[..., None]
    colour = (1 - share) * backdrop.top + share * backdrop.bottom
    for place, radius, tint in zip(backdrop.places, backdrop.radii, backdrop.colours):
        distance = np.hypot(x - place[0], y - place[1]) / radius
        # A spot has a soft edge, a fifth of its radius wide.
        cover = 0.7 * np.clip((1 - distance) / 0.2, 0, 1)[..., None]
        colour = (1 - cover) * colour + cover * tint
    return colour.astype(np.float32)


def lighting(normals, lamp: Lamp) -> np.ndarray:
    """Returns the light [..., 3] that reaches surfaces with these normals [..., 3].

    ambient + colour * max(0, (n.l + w) / (1 + w)), with w = WRAP.
    """
    direct = np.maximum(0, (normals @ lamp.direction + WRAP) / (1 + WRAP))[..., None]
    return (lamp.ambient + lamp.colour * direct).astype(np.float32)


def highlight(normals, lamp: Lamp, exponent) -> np.ndarray:
    """Returns the gloss [...] in [0, 1]: (n.h)^exponent, h halfway between lamp and camera."""
    half = lamp.direction + np.array([0.0, 0.0, -1.0])
    half /= np.linalg.norm(half)
    return np.maximum(0, normals @ half) ** exponent


def coverage(*fields) -> np.ndarray:
    """Returns the share of each pixel inside of a region, [H, W] in [0, 1].

    The region is where all fields [H, W] are negative. The share is more than 1/2 exactly where all
    fields are negative at the centre of the pixel. Near an edge it is 1/2 - f / |grad f|, the
    distance from the edge in pixels.
    """
    cover = np.ones(fields[0].shape, np.float32)
    for field in fields:
        slope_y, slope_x = np.gradient(field)
        slope = np.hypot(slope_x, slope_y)
        np.minimum(cover, np.clip(0.5 - field / np.maximum(slope, 1e-9), 0, 1), out=cover)
    return cover


class Canvas:
    """A picture that is painted from back to front.

    colour  [H, W, 3] linear RGB
    label   [H, W] uint8 class of the part that covers the centre of the pixel
    """

    def __init__(self, colour):
        """Starts with a background of class 0 in these colours [H, W, 3]."""
        self.colour = colour
        self.label = np.zeros(colour.shape[:2], np.uint8)

    def paint(self, cover, colour, label: int | None = None, strength=1.0) -> None:
        """Paints a part.

        Args:
          cover: [H, W] share of each pixel that the part covers.
          colour: [3] or [H, W, 3].
          label: class of the part. None: the classes stay.
          strength: opacity of the part.
        """
        share = (cover * strength)[..., None]
        self.colour = self.colour + share * (colour - self.colour)
        if label is not None:
            self.label[cover > 0.5] = label


def develop(colour) -> np.ndarray:
    """Returns the photograph [H, W, 3] uint8 of linear RGB colours [H, W, 3]."""
    image = np.clip(colour, 0, 1) ** np.float32(1 / 2.2)
    return np.rint(image * 255).astype(np.uint8)
