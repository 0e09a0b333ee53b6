"""Light out of doors: sun, sky and exposure of a scene, and the shadows that things cast on the ground."""

from typing import NamedTuple

import cv2
import numpy as np


class Light(NamedTuple):
    """direction  towards the sun
    sun, ambient, haze, sky_low, sky_high  linear RGB
    fog         1 / m
    exposure    RGB gains; gamma; noise of the sensor (standard deviation, share of full scale)
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


def draw_light(rng):
    """Sunny, hazy or overcast; any time of day but night; an exposure that is not always right."""
    overcast = rng.random() < 0.35
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(22, 65))
    direction = [
        np.cos(elevation) * np.sin(azimuth),
        np.cos(elevation) * np.cos(azimuth),
        np.sin(elevation),
    ]
    warm = np.array([1.0, 0.93, 0.84]) ** rng.uniform(0, 2.5)
    sun = warm * (rng.uniform(0.0, 0.2) if overcast else rng.uniform(0.8, 1.7))
    ambient = np.array([0.9, 0.97, 1.08]) * rng.uniform(0.55, 0.85) * (1.3 if overcast else 0.8)
    grey = np.array([0.75, 0.78, 0.82]) * rng.uniform(0.8, 1.1)
    blue = np.array([0.16, 0.32, 0.62]) * rng.uniform(0.7, 1.4)
    high = grey * 0.85 if overcast else blue
    return Light(
        direction=np.array(direction), sun=sun, ambient=ambient, haze=grey * 0.85, sky_low=grey, sky_high=high,
        clouds=rng.uniform(0.0, 0.25) if overcast else rng.uniform(0.0, 0.8), fog=1 / rng.uniform(180, 900),
        exposure=rng.uniform(0.75, 1.35) * (1 + rng.uniform(-0.08, 0.08, 3)), gamma=rng.uniform(0.44, 0.56),
        noise=rng.uniform(0.005, 0.02),
    )  # fmt: skip


def shadow_maps(shape, direction, origin, cell, size):
    """[H, W, 2] uint8 maps of the ground seen from above: sun shadows, and contact shadows from what is low.

    direction  towards the sun
    origin     (x, y) of the first cell's centre; `cell` metres per cell; size (height, width)
    """
    maps = []
    for towards, low, blur in ((direction, np.inf, 2), (np.array([0.0, 0.0, 1.0]), 1.5, 7)):
        slope = towards[:2] / towards[2]
        raster = np.zeros(size, np.uint8)
        for polygon in _quad_shadows(shape.quads, slope, low) + _ellipsoid_shadows(
            shape.ellipsoids, slope, low
        ):
            fixed = np.round((polygon - origin) / cell * 16).astype(np.int32)
            cv2.fillConvexPoly(raster, fixed, 255, cv2.LINE_AA, 4)
        # Blurring is most of the cost, and moving things touch few rows.
        rows = np.flatnonzero(raster.any(axis=1))
        touched = (
            slice(max(0, rows[0] - 3 * blur), rows[-1] + 3 * blur + 1) if len(rows) else slice(0)
        )
        if len(rows):
            raster[touched] = cv2.GaussianBlur(raster[touched], (2 * blur + 1,) * 2, blur / 2)
        maps.append(raster)
    return cv2.merge(maps)


def _quad_shadows(quads, slope, low):
    quads = quads[~quads['disc'] & (quads['origin'][:, 2] < low)]
    s, t, taper = quads['edge_s'], quads['edge_t'], quads['taper'][..., None]
    top_left, top_right = t + taper[:, 0] * s, t + s - taper[:, 1] * s
    corners = quads['origin'][:, None] + np.stack([0 * s, s, top_right, top_left], axis=1)
    return list(corners[..., :2] - corners[..., 2:] * slope)


def _ellipsoid_shadows(ellipsoids, slope, low):
    """The shadow of centre + B w, |w| <= 1 is M w with M = P B; its outline is an ellipse with the matrix M M^T."""
    chosen = ellipsoids[ellipsoids['centre'][:, 2] < low]
    angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    polygons = []
    for e in chosen:
        cos, sin = np.cos(e['heading']), np.sin(e['heading'])
        axes = np.array([[cos, sin, -slope[0]], [-sin, cos, -slope[1]]]) * e['radii']
        values, vectors = np.linalg.eigh(axes @ axes.T)
        outline = vectors @ (np.sqrt(values)[:, None] * circle)
        polygons.append(outline.T + e['centre'][:2] - e['centre'][2] * slope)
    return polygons
