"""Light out of doors: sun, sky and exposure of a scene, and shadows on the ground."""

from typing import NamedTuple

import cv2
import numpy as np


class Light(NamedTuple):
    """The light of a scene, and the exposure of its photographs.

    direction  [3] towards the sun
    sun        [3] linear RGB light of the sun
    ambient    [3] linear RGB light of the sky
    haze       [3] linear RGB colour of fog
    sky_low    [3] linear RGB colour at the horizon
    sky_high   [3] linear RGB colour at the zenith
    clouds     share of the sky
    fog        extinction, 1 / m
    exposure   [3] RGB gains
    gamma      exponent of the camera
    noise      standard deviation of the sensor's noise, as a share of full scale
    """

    direction: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    haze: np.ndarray
    sky_low: np.ndarray
    sky_high: np.ndarray
    clouds: float
    fog: float
    exposure: np.ndarray
    gamma: float
    noise: float


def draw_light(rng) -> Light:
    """Samples sunny, hazy or overcast light by day, and an exposure that is not always right."""
    # The sun.
    overcast = rng.random() < 0.35
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = np.deg2rad(rng.uniform(22, 65))
    direction = [
        np.cos(elevation) * np.sin(azimuth),
        np.cos(elevation) * np.cos(azimuth),
        np.sin(elevation),
    ]
    warm = np.array([1.0, 0.93, 0.84]) ** rng.uniform(0, 2.5)
    sun = warm * (rng.uniform(0.0, 0.2) if overcast else rng.uniform(0.8, 1.7))

    # The sky.
    ambient = np.array([0.9, 0.97, 1.08]) * rng.uniform(0.55, 0.85) * (1.3 if overcast else 0.8)
    grey = np.array([0.75, 0.78, 0.82]) * rng.uniform(0.8, 1.1)
    blue = np.array([0.16, 0.32, 0.62]) * rng.uniform(0.7, 1.4)
    high = grey * 0.85 if overcast else blue
    return Light(
        direction=np.array(direction),
        sun=sun,
        ambient=ambient,
        haze=grey * 0.85,
        sky_low=grey,
        sky_high=high,
        clouds=rng.uniform(0.0, 0.25) if overcast else rng.uniform(0.0, 0.8),
        fog=1 / rng.uniform(180, 900),
        exposure=rng.uniform(0.75, 1.35) * (1 + rng.uniform(-0.08, 0.08, 3)),
        gamma=rng.uniform(0.44, 0.56),
        noise=rng.uniform(0.005, 0.02),
    )


def shadow_maps(shape, direction, origin, cell, size) -> np.ndarray:
    """Returns maps of the ground from above: sun shadows, and contact shadows of low things.

    Args:
      shape: the things.
      direction: [3] towards the sun.
      origin: (x, y) of the first cell's centre.
      cell: metres per cell.
      size: (height, width) in cells.

    Returns:
      [H, W, 2] uint8.
    """
    # Contact shadows are shadows of a light from above.
    above = np.array([0.0, 0.0, 1.0])
    maps = []
    for towards, low, blur in ((direction, np.inf, 2), (above, 1.5, 7)):
        slope = towards[:2] / towards[2]
        raster = np.zeros(size, np.uint8)
        polygons = _quad_shadows(shape.quads, slope, low)
        polygons += _ellipsoid_shadows(shape.ellipsoids, slope, low)
        for polygon in polygons:
            # OpenCV wants whole numbers with 4 binary digits behind the point.
            fixed = np.round((polygon - origin) / cell * 16).astype(np.int32)
            cv2.fillConvexPoly(raster, fixed, 255, cv2.LINE_AA, 4)

        # Blurring is most of the cost, and moving things touch few rows.
        rows = np.flatnonzero(raster.any(axis=1))
        if len(rows):
            touched = slice(max(0, rows[0] - 3 * blur), rows[-1] + 3 * blur + 1)
            raster[touched] = cv2.GaussianBlur(raster[touched], (2 * blur + 1,) * 2, blur / 2)
        maps.append(raster)
    return cv2.merge(maps)


def _quad_shadows(quads, slope, low) -> list[np.ndarray]:
    """Returns the shadows of quads as polygons [4, 2] on the ground. Discs have none.

    Args:
      quads: [N] of dtype QUAD.
      slope: [2] metres that a shadow shifts per metre of height, towards the light.
      low: quads that start at this height or above have no shadow.
    """
    quads = quads[~quads['disc'] & (quads['origin'][:, 2] < low)]
    s = quads['edge_s']
    t = quads['edge_t']
    taper = quads['taper'][..., None]
    top_left = t + taper[:, 0] * s
    top_right = t + s - taper[:, 1] * s
    corners = quads['origin'][:, None] + np.stack([0 * s, s, top_right, top_left], axis=1)
    return list(corners[..., :2] - corners[..., 2:] * slope)


def _ellipsoid_shadows(ellipsoids, slope, low) -> list[np.ndarray]:
    """Returns the shadows of ellipsoids as polygons [14, 2] on the ground.

    The shadow of centre + B w, |w| <= 1, is M w with M = P B. Its outline is an ellipse with the
    matrix M M^T.

    Args:
      ellipsoids: [M] of dtype ELLIPSOID.
      slope: [2] metres that a shadow shifts per metre of height, towards the light.
      low: ellipsoids with their centre at this height or above have no shadow.
    """
    chosen = ellipsoids[ellipsoids['centre'][:, 2] < low]
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    polygons = []
    for ellipsoid in chosen:
        cos = np.cos(ellipsoid['heading'])
        sin = np.sin(ellipsoid['heading'])
        axes = np.array([[cos, sin, -slope[0]], [-sin, cos, -slope[1]]]) * ellipsoid['radii']
        values, vectors = np.linalg.eigh(axes @ axes.T)
        outline = vectors @ (np.sqrt(values)[:, None] * circle)
        centre = ellipsoid['centre']
        polygons.append(outline.T + centre[:2] - centre[2] * slope)
    return polygons
