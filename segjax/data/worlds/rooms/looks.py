"""Classes, materials and colours of the surfaces of a room.

Colours and patterns are drawn from the same families for all classes, so that neither tells the
class of a surface. Many surfaces of a room share a colour.
"""

from typing import NamedTuple

import numpy as np

from segjax.data.worlds.shapes import surface

(WALL, FLOOR, CABINET, BED, CHAIR, SOFA, TABLE, DOOR, WINDOW, BOOKSHELF, PICTURE, COUNTER, BLINDS,
 DESK, SHELVES, CURTAIN, DRESSER, PILLOW, MIRROR, FLOOR_MAT, CLOTHES, CEILING, BOOKS, REFRIGERATOR,
 TELEVISION, PAPER, TOWEL, SHOWER_CURTAIN, BOX, WHITEBOARD, PERSON, NIGHT_STAND, TOILET, SINK, LAMP,
 BATHTUB, BAG, OTHER_STRUCTURE, OTHER_FURNITURE, OTHER_PROP) = range(40)  # fmt: skip
"""Train ids of `segjax.data.labels.NYU40`."""

(
    PLAIN,
    WOOD,
    CLOTH,
    STRIPES,
    CHECKS,
    DOTS,
    TILES,
    PLANKS,
    FRONT,
    PAINTING,
    SCREEN,
    OUTDOORS,
    SLATS,
    FOLDS,
    PAGE,
    BOARD,
    GLASS,
    GLOW,
) = range(18)
"""Materials. paint.py paints them."""

_HARD = (PLAIN, WOOD, STRIPES)
_SOFT = (CLOTH, STRIPES, CHECKS, DOTS, PLAIN)


class Decor(NamedTuple):
    """Draws the looks of a room.

    rng      random generator of the scene
    palette  [n, 3] linear reflectances that surfaces of the room share
    """

    rng: np.random.Generator
    palette: np.ndarray

    def colour(self) -> np.ndarray:
        """Samples a colour [3]: often from the palette of the room."""
        if self.rng.random() < 0.55:
            base = self.palette[self.rng.integers(len(self.palette))]
        else:
            base = any_colour(self.rng)
        return np.clip(base * self.rng.uniform(0.85, 1.2), 0.01, 0.85)

    def plain(self, label, colour=None, grain=0.08) -> np.ndarray:
        """Samples a surface without a pattern."""
        colour = self.colour() if colour is None else np.asarray(colour, float)
        return surface(label, PLAIN, colour, self.rng, grain=grain)

    def hard(self, label) -> np.ndarray:
        """Samples lacquer, wood or lacquer with stripes."""
        colour = self.colour()
        material = self.rng.choice(_HARD, p=(0.46, 0.46, 0.08))
        period = self.rng.uniform(0.03, 0.15)
        return surface(
            label,
            material,
            colour,
            self.rng,
            accent=colour * self.rng.uniform(0.55, 0.85),
            grain=self.rng.uniform(0.03, 0.14),
            cell=(period, period),
        )

    def soft(self, label) -> np.ndarray:
        """Samples cloth: plain, woven, striped, checked or dotted."""
        material = self.rng.choice(_SOFT, p=(0.42, 0.16, 0.14, 0.14, 0.14))
        return self.patterned(label, material, self.rng.uniform(0.05, 0.2))

    def patterned(self, label, material, period) -> np.ndarray:
        """Samples the two colours of a pattern with a period in metres."""
        colour = self.colour()
        accent = self.colour() if self.rng.random() < 0.5 else colour * 0.5
        grain = self.rng.uniform(0.06, 0.25)
        return surface(
            label, material, colour, self.rng, accent=accent, grain=grain, cell=(period, period)
        )

    def front(self, look, cell) -> np.ndarray:
        """Returns a look with the joints and knobs of doors or drawers of the size `cell`."""
        return surface(
            look['label'],
            FRONT,
            look['colour'],
            self.rng,
            accent=look['colour'] * self.rng.uniform(0.3, 0.6),
            grain=float(look['grain']),
            cell=cell,
        )

    def sheet(self, label, material, size, colour=None, accent=None) -> np.ndarray:
        """Samples a surface whose pattern fills a panel of `size` (width, height) in metres."""
        colour = self.colour() if colour is None else colour
        accent = self.colour() if accent is None else accent
        return surface(label, material, colour, self.rng, accent=accent, grain=0.04, cell=size)


def draw_decor(rng) -> Decor:
    """Samples the palette of a room."""
    return Decor(rng, np.stack([any_colour(rng) for _ in range(5)]))


def any_colour(rng) -> np.ndarray:
    """Samples a reflectance [3]: a tone of wood, a grey or any hue."""
    kind = rng.random()
    if kind < 0.25:
        return np.array([0.36, 0.2, 0.1]) * rng.uniform(0.25, 1.7)
    value = rng.uniform(0.05, 0.75)
    saturation = rng.uniform(0, 0.12) if kind < 0.5 else rng.uniform(0.15, 0.85)
    hue = rng.uniform(0, 1) + np.array([0, 1, 2]) / 3
    return value * (1 - saturation * (0.5 - 0.5 * np.cos(2 * np.pi * hue)))
