"""The depth sensor: a Kinect, which triangulates a pattern of infrared light.

The sensor measures disparity, which is proportional to 1 / z. So its noise and its steps grow with
z^2: an error e of 1 / z is an error of e z^2 metres. Some points are not measured: points that its
projector does not light, surfaces that mirror or absorb its light, and points that are too near or
too far. Noise and steps follow Khoshelham and Elberink, Sensors 2012 (doi 10.3390/s120201437).
"""

import cv2
import numpy as np

BASELINE = 0.075
"""Metres from the camera to the projector on its right."""

NOISE = 0.0015
"""Standard deviation of 1 / z, in 1 / m: 1.5 mm at 1 m and 24 mm at 4 m."""

STEP = 0.0028
"""Distance of neighbouring values of 1 / z, in 1 / m."""

RANGE = (0.45, 7.5)
"""Metres that can be measured."""

SAME = 0.06
"""Share of 1 / z by which points of a slanted surface differ in a column of the projector."""

GRAZING = 0.13
"""Cosine between ray and normal below which nothing comes back."""

DARK = 0.025
"""Reflectance below which parts of a surface are not measured."""


def in_shadow(inverse_depth, focal) -> np.ndarray:
    """Returns the pixels that the projector does not light.

    The projector sees a point at column u - focal * BASELINE / z. It lights the nearest of the
    points that it sees at the same column.

    Args:
      inverse_depth: [H, W] 1 / z.
      focal: focal length in pixels.

    Returns:
      [H, W] bool.
    """
    # Columns left of the projector's image are kept apart from the image of the row before.
    height, width = inverse_depth.shape
    column = np.rint(np.arange(width) - focal * BASELINE * inverse_depth).astype(np.intp)
    margin = max(0, -int(column.min()))
    place = np.arange(height)[:, None] * (width + margin) + column + margin
    nearest = np.zeros(height * (width + margin), inverse_depth.dtype)
    np.maximum.at(nearest, place, inverse_depth)
    return inverse_depth < (1 - SAME) * nearest[place]


def measure(inverse_depth, focal, facing, mirrors, reflectance, rng) -> np.ndarray:
    """Returns the depth [H, W] float32 that the sensor measures, in metres, 0 where it fails.

    Args:
      inverse_depth: [H, W] exact 1 / z, positive.
      focal: focal length in pixels.
      facing: [H, W] cosine between ray and normal.
      mirrors: [H, W] bool, glass and screens.
      reflectance: [H, W] mean of the channels of the surface.
      rng: random generator.
    """
    # Half of the noise is shared by neighbours, because the sensor matches windows.
    size = inverse_depth.shape
    white = rng.standard_normal(size, np.float32)
    shared = cv2.GaussianBlur(rng.standard_normal(size, np.float32), (5, 5), 1.0)
    shared *= np.float32(1 / 0.2821)
    error = NOISE * np.float32(np.sqrt(0.5)) * (white + shared)
    steps = np.rint((inverse_depth + error) / STEP)
    depth = 1 / np.maximum(steps * STEP, STEP)

    # Holes come in patches.
    patches = cv2.GaussianBlur(rng.standard_normal(size, np.float32), (9, 9), 1.8)
    patches *= np.float32(1 / 0.157)
    lost = in_shadow(inverse_depth, focal)
    lost |= (facing < GRAZING) | (depth < RANGE[0]) | (depth > RANGE[1])
    lost |= mirrors & (patches > -0.8)
    lost |= (reflectance < DARK) & (patches > 0.4)
    lost |= patches > 2.8
    return np.where(lost, 0, depth).astype(np.float32)
