"""The appearance of a head: everything that its normals leave open.

All factors of `draw_looks` are independent of the shape, and independent of each other except where
a factor says so. Lengths are in units of the head (surface.py). Colours are linear RGB.

    factor    distribution
    coat      uniform over COATS, each varied
    second    the second colour of the pattern: white with probability 0.5, else another coat
    pattern   uniform over PATTERNS
    side      -1 or 1, side of a patch
    size      U(0.7, 1.3), size of the pattern
    phases    [3] U(0, 2 pi) of stripes and patches
    grain     U(0.08, 0.25), contrast of the fur
    shift     [2] U(0, 8), place in the noise texture
    iris      yellow, amber, green, blue, brown or dark brown, each varied
    pupil     [2] U(0.25, 0.75) and U(0.65, 0.85): width and height as shares of the visible eye
    nose      black, brown or pink
    inner     pink of the ears: U(0.2, 0.8)
    lamp      azimuth U(-65, 65) and elevation U(-5, 60) degrees, warmth, strength, ambient light
    backdrop  two colours of a gradient, and four spots
"""

from typing import NamedTuple

import numpy as np

from segjax.data.worlds import studio

PATTERNS = ('solid', 'tabby', 'blaze', 'points', 'patches', 'tan', 'eye_patch')

COATS = np.array(
    [
        [0.015, 0.014, 0.014],
        [0.14, 0.15, 0.17],
        [0.42, 0.42, 0.42],
        [0.09, 0.04, 0.02],
        [0.25, 0.12, 0.045],
        [0.55, 0.25, 0.07],
        [0.6, 0.42, 0.24],
        [0.75, 0.7, 0.62],
    ]
)
"""Black, dark grey, grey, dark brown, brown, orange, sand and white fur."""

_WHITE = np.array([0.8, 0.77, 0.72])
_IRISES = np.array(
    [
        [0.65, 0.5, 0.08],
        [0.55, 0.25, 0.04],
        [0.25, 0.45, 0.12],
        [0.15, 0.38, 0.65],
        [0.2, 0.09, 0.03],
        [0.05, 0.025, 0.015],
    ]
)
_NOSES = np.array([[0.012, 0.011, 0.011], [0.1, 0.045, 0.03], [0.55, 0.22, 0.2]])


class Looks(NamedTuple):
    """The factors of an appearance (see the table in this file)."""

    coat: np.ndarray
    second: np.ndarray
    pattern: str
    side: int
    size: float
    phases: np.ndarray
    grain: float
    shift: np.ndarray
    iris: np.ndarray
    pupil: tuple[float, float]
    nose: np.ndarray
    inner: float
    lamp: studio.Lamp
    backdrop: studio.Backdrop


def draw_looks(rng) -> Looks:
    """Samples an appearance."""
    is_white = rng.random() < 0.5
    return Looks(
        coat=_coat(rng),
        second=_WHITE if is_white else _coat(rng),
        pattern=str(rng.choice(PATTERNS)),
        side=int(rng.choice([-1, 1])),
        size=rng.uniform(0.7, 1.3),
        phases=rng.uniform(0, 2 * np.pi, 3),
        grain=rng.uniform(0.08, 0.25),
        shift=rng.uniform(0, 8, 2).astype(np.float32),
        iris=_IRISES[rng.integers(len(_IRISES))] * rng.uniform(0.75, 1.25, 3),
        pupil=(rng.uniform(0.25, 0.75), rng.uniform(0.65, 0.85)),
        nose=_NOSES[rng.integers(len(_NOSES))] * rng.uniform(0.8, 1.2),
        inner=rng.uniform(0.2, 0.8),
        lamp=studio.draw_lamp(rng),
        backdrop=studio.draw_backdrop(rng),
    )


def mirrored(looks: Looks) -> Looks:
    """Returns the looks of the mirrored head. Patches and the texture of fur are not mirrored."""
    return looks._replace(
        side=-looks.side,
        lamp=studio.mirrored_lamp(looks.lamp),
        backdrop=studio.mirrored_backdrop(looks.backdrop),
    )


def _coat(rng) -> np.ndarray:
    """Samples a colour of fur."""
    return COATS[rng.integers(len(COATS))] * rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3)
