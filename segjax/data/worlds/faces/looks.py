"""The appearance of a face: everything that its landmarks leave open.

All factors of `draw_looks` are independent of the shape, and independent of each other except where
a factor says so. Lengths are in units of the front view (shape.py). Colours are linear RGB.

    factor       distribution
    skin         melanin U(0, 1)^2 between light and dark, redness U(0, 1)
    blush        half of the faces: U(0, 0.35). Strength of red cheeks
    lip          skin with more red, or a lipstick of any strong colour with probability 0.3
    eyelid       no make-up with probability 0.7, else any colour
    hair         black to blond U(0, 1) with redness U(0, 1), grey with probability 0.15, any colour
                 with probability 0.12
    style        uniform over STYLES
    hairline     U(0.62, 0.8), height of the hairline over the eyes
    part         U(-0.35, 0.35), place of the parting
    volume       U(0.05, 0.2), more for curls
    length       U(0.9, 1.9), y of the ends of long hair
    waves        [3] phases U(0, 2 pi) of strands and curls
    brow_weight  U(0.03, 0.06), half thickness of the brows
    iris         brown, dark brown, hazel, green, blue or grey, each varied
    gaze         U(-0.3, 0.3), turn of the eyes in half widths of an eye
    teeth        U(0, 1), share of the open mouth that shows upper teeth
    beard        none with probability 0.5, else uniform over BEARDS
    beard_strength  U(0.35, 0.95)
    glasses      none with probability 0.65, else uniform over GLASSES
    frame        colour of the glasses: dark, or any with probability 0.4
    tint         opacity of the glasses: U(0, 0.2), or sunglasses U(0.3, 0.6) for a sixth of them
    cloth        any colour
    collar       U(0.2, 0.5), half width of the neckline
    gloss        U(0, 0.25) of the skin
    lamp         azimuth U(-65, 65) and elevation U(-5, 60) degrees, warmth, strength, ambient light
    backdrop     two colours of a gradient, and four spots
"""

from typing import NamedTuple

import numpy as np

from segjax.data.worlds import studio

STYLES = ('bald', 'short', 'swept', 'fringe', 'curtain', 'long', 'curls', 'bun')
"""Hair styles."""

BEARDS = ('none', 'stubble', 'full', 'moustache', 'goatee')
GLASSES = ('none', 'round', 'square')

_LIGHT_SKIN = np.array([0.72, 0.47, 0.36])
_DARK_SKIN = np.array([0.085, 0.042, 0.026])
_BLOND = np.array([0.55, 0.36, 0.15])
_BLACK = np.array([0.012, 0.009, 0.008])
_IRISES = np.array(
    [
        [0.12, 0.05, 0.02],
        [0.035, 0.018, 0.01],
        [0.2, 0.13, 0.04],
        [0.1, 0.2, 0.07],
        [0.09, 0.22, 0.42],
        [0.22, 0.26, 0.3],
    ]
)


class Looks(NamedTuple):
    """The factors of an appearance (see the table in this file)."""

    skin: np.ndarray
    blush: float
    lip: np.ndarray
    eyelid: np.ndarray
    hair: np.ndarray
    style: str
    hairline: float
    part: float
    volume: float
    length: float
    waves: np.ndarray
    brow_weight: float
    iris: np.ndarray
    gaze: float
    teeth: float
    beard: str
    beard_strength: float
    glasses: str
    frame: np.ndarray
    tint: float
    cloth: np.ndarray
    collar: float
    gloss: float
    lamp: studio.Lamp
    backdrop: studio.Backdrop


def draw_looks(rng) -> Looks:
    """Samples an appearance."""
    # Factors on which further factors depend.
    skin = _skin(rng)
    style = str(rng.choice(STYLES))
    has_beard = rng.random() < 0.5
    has_glasses = rng.random() < 0.35
    return Looks(
        skin=skin,
        blush=rng.uniform(0, 0.35) * (rng.random() < 0.5),
        lip=_lip(rng, skin),
        eyelid=studio.draw_colour(rng, (0.4, 0.9)) if rng.random() < 0.3 else 0.8 * skin,
        hair=_hair(rng),
        style=style,
        hairline=rng.uniform(0.62, 0.8),
        part=rng.uniform(-0.35, 0.35),
        volume=rng.uniform(0.05, 0.2) + 0.15 * (style == 'curls'),
        length=rng.uniform(0.9, 1.9),
        waves=rng.uniform(0, 2 * np.pi, 3),
        brow_weight=rng.uniform(0.03, 0.06),
        iris=_IRISES[rng.integers(len(_IRISES))] * rng.uniform(0.7, 1.3, 3),
        gaze=rng.uniform(-0.3, 0.3),
        teeth=rng.uniform(0, 1),
        beard=str(rng.choice(BEARDS[1:])) if has_beard else 'none',
        beard_strength=rng.uniform(0.35, 0.95),
        glasses=str(rng.choice(GLASSES[1:])) if has_glasses else 'none',
        frame=studio.draw_colour(rng) if rng.random() < 0.4 else rng.uniform(0.005, 0.04, 3),
        tint=rng.uniform(0.3, 0.6) if rng.random() < 1 / 6 else rng.uniform(0, 0.2),
        cloth=studio.draw_colour(rng),
        collar=rng.uniform(0.2, 0.5),
        gloss=rng.uniform(0, 0.25),
        lamp=studio.draw_lamp(rng),
        backdrop=studio.draw_backdrop(rng),
    )


def mirrored(looks: Looks) -> Looks:
    """Returns the looks of the mirrored face."""
    return looks._replace(
        part=-looks.part,
        gaze=-looks.gaze,
        lamp=studio.mirrored_lamp(looks.lamp),
        backdrop=studio.mirrored_backdrop(looks.backdrop),
    )


def _skin(rng) -> np.ndarray:
    """Samples the colour of skin."""
    melanin = rng.uniform(0, 1) ** 2
    colour = _LIGHT_SKIN ** (1 - melanin) * _DARK_SKIN**melanin
    return colour * (1 + rng.uniform(0, 1) * np.array([0.12, -0.04, -0.1]))


def _lip(rng, skin) -> np.ndarray:
    """Samples the colour of lips."""
    natural = skin * np.array([0.85, 0.5, 0.55]) + np.array([0.03, 0.0, 0.005])
    lipstick = studio.draw_colour(rng, (0.7, 0.95), (0.15, 0.6))
    return lipstick if rng.random() < 0.3 else natural


def _hair(rng) -> np.ndarray:
    """Samples the colour of hair."""
    kind = rng.random()
    lightness = rng.uniform(0, 1)
    natural = _BLACK ** (1 - lightness) * _BLOND**lightness
    natural = natural * (1 + rng.uniform(0, 1) * np.array([0.4, -0.1, -0.3]))
    if kind < 0.15:
        return np.array([0.5, 0.5, 0.52]) * rng.uniform(0.25, 1.2)
    if kind < 0.27:
        return studio.draw_colour(rng, (0.5, 0.9), (0.1, 0.6))
    return natural
