"""HHA as a derived feature: disparity, height above ground and angle to gravity from depth.

The encoding makes an image of three channels from depth (Gupta, Girshick, Arbelaez and Malik,
Learning Rich Features from RGB-D Images for Object Detection and Segmentation, ECCV 2014,
arXiv:1407.5736, section 3). The direction of gravity comes from the normals of floors and walls
(Gupta, Arbelaez and Malik, Perceptual Organization and Recognition of Indoor Scenes from RGB-D
Images, CVPR 2013, section 3). The constants are those of the published code.
"""

from typing import NamedTuple

import cv2
import numpy as np

from segjax.errors import InputError
from segjax.protocol import Derived, Example
from segjax.spec import Feature

RANGE = (0.2, 20.0)
"""Smallest and largest median of the measured depth in metres. Other medians have a wrong unit."""

ANGLE_RADIUS = 3
"""Radius of the windows whose normals give the angle channel, in pixels."""
GRAVITY_RADIUS = 10
"""Radius of the windows whose normals give the direction of gravity, in pixels."""

DOWN = (0.0, 1.0, 0.0)
"""Direction of gravity of a level camera: y points down."""
ROUNDS = ((45, 5), (15, 5))
"""Largest angle between a normal and its floor or wall in degrees, and iterations with it."""
TIE = 1e-6
"""Relative difference of eigenvalues that count as equal."""

DISPARITY = 31000.0
"""Disparity channel at a depth of 1 cm."""
NEAREST = 100.0
"""Depth in cm below which the disparity does not grow."""
SHALLOW = -90.0
"""If no point lies deeper below the camera than this height in cm, the floor is not in view."""
CAMERA_HEIGHT = 130.0
"""Height of the camera above a floor that is not in view, in cm."""
ANGLE_OFFSET = 38.0
"""Angle channel where the normal points along gravity. A wall has 90 more."""


def hha_feature(data: str = 'data') -> Derived:
    """Returns the HHA encoding of each depth map as the derived feature 'planes_hha'.

    Args:
      data: config section of the data set.
    """
    return Derived(
        'planes_hha',
        Feature('planes', (3,), dtype='uint8'),
        reads=('depth', 'intrinsics'),
        compute=example_hha,
        settings={'radii': (ANGLE_RADIUS, GRAVITY_RADIUS), 'rounds': ROUNDS},
        data=data,
    )


def example_hha(example: Example) -> np.ndarray:
    """Returns the HHA encoding of 'depth', see `hha`."""
    return hha(example['depth'], example['intrinsics'])


def hha(depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Encodes depth as disparity, height and angle.

    With the depth Z in cm, the point X of a pixel in cm, its normal n towards the camera, and the
    direction g of gravity, a pixel has the channels

        disparity   31000 / max(Z, 100)
        height      -g . X - lowest
        angle       arccos(-g . n) in degrees + 38

    `lowest` is the smallest -g . X of the image. It is -130 if the smallest is above -90, because
    the floor is then not in view. So floors have the angle 38, walls 128 and ceilings 218. Channels
    are rounded, and cut to 0 .. 255.

    A pixel that is not measured has the disparity 0, which no measured pixel has, and the height 0.
    It has the angle of the measured pixels in its window. Without such a normal the angle is 218.

    Args:
      depth: [H, W] metres along z, 0 = not measured.
      intrinsics: [3, 3]. Pixel centres lie at whole coordinates.

    Returns:
      [H, W, 3] uint8: disparity, height, angle.

    Raises:
      InputError: no depth is measured, or its median is outside of RANGE.
    """
    _check_depth(depth)
    measured = depth > 0
    gravity = gravity_direction(normals(depth, intrinsics, GRAVITY_RADIUS))

    centimetres = 100 * depth.astype(np.float64)
    disparity = np.where(measured, DISPARITY / np.maximum(centimetres, NEAREST), 0)

    # Heights relative to the camera, then above the lowest point.
    upward = -gravity @ np.linalg.inv(intrinsics.astype(np.float64))
    height = centimetres * _at_pixels(upward, depth.shape)
    lowest = height[measured].min()
    if lowest > SHALLOW:
        lowest = -CAMERA_HEIGHT
    height = np.where(measured, height - lowest, 0)

    # The normal of an unknown surface is 0, which would be a wall.
    surface = normals(depth, intrinsics, ANGLE_RADIUS)
    cosine = np.where(surface.any(axis=-1), -surface @ gravity, -1)
    angle = np.rad2deg(np.arccos(cosine.clip(-1, 1))) + ANGLE_OFFSET

    channels = np.stack([disparity, height, angle], axis=-1)
    return np.floor(channels + 0.5).clip(0, 255).astype(np.uint8)


def _check_depth(depth: np.ndarray) -> None:
    """Raises InputError for depth without a measured pixel, and for a wrong unit."""
    measured = depth[depth > 0]
    if not measured.size:
        raise InputError(
            'depth',
            got='no measured pixel',
            expected='metres along z, 0 where nothing was measured',
            fix='leave this frame out of the data set, or fill its depth',
        )
    median = float(np.median(measured))
    if not RANGE[0] <= median <= RANGE[1]:
        raise InputError(
            'depth',
            got=f'a median of {median:.4g}',
            expected=f'metres along z, with a median from {RANGE[0]:g} to {RANGE[1]:g}',
            fix='convert the unit of the depth files when the data set is prepared',
        )


def _at_pixels(covector: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Returns a . (u, v, 1) for each pixel (u, v) of a map of (height, width) `size`."""
    height, width = size
    u = np.arange(width)
    v = np.arange(height)[:, None]
    return covector[0] * u + covector[1] * v + covector[2]


# --- gravity --------------------------------------------------------------------------------------


def gravity_direction(surface: np.ndarray) -> np.ndarray:
    """Estimates the direction of gravity in an indoor scene.

    Normals nearly parallel to the estimate are floors F, and normals nearly orthogonal are walls W.
    The new estimate g is the unit vector that minimises

        sum over W of (g . n)^2 - sum over F of (g . n)^2

    with the sign of the old estimate: the eigenvector of the smallest eigenvalue of
    sum_W n n^T - sum_F n n^T. The first estimate is DOWN. ROUNDS lists the largest angles. Where
    walls alone leave several directions, the result is the direction nearest to the old estimate.

    Args:
      surface: [..., 3] unit normals in coordinates of the camera, of any sign. 0 = unknown.

    Returns:
      g [3] float64, a unit vector that points down.
    """
    known = surface.reshape(-1, 3).astype(np.float64)
    known = known[known.any(axis=1)]
    gravity = np.array(DOWN)
    for degrees, count in ROUNDS:
        limit = np.deg2rad(degrees)
        for _ in range(count):
            cosine = np.abs(known @ gravity)
            is_wall = cosine < np.sin(limit)
            is_floor = cosine > np.cos(limit)
            weight = is_wall.astype(np.float64) - is_floor
            gravity = _nearest_minimum((known * weight[:, None]).T @ known, gravity)
    return gravity


def _nearest_minimum(matrix: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Returns the unit vector of the smallest eigenvalue that is nearest to a direction [3]."""
    values, vectors = np.linalg.eigh(matrix)
    smallest = vectors[:, values - values[0] <= TIE * np.abs(values).max()]
    projected = smallest @ (direction @ smallest)
    length = np.linalg.norm(projected)
    return projected / length if length > 0 else direction


# --- normals --------------------------------------------------------------------------------------


class _Plane(NamedTuple):
    """Inverse depth as a linear function of the pixel, for each pixel.

    inverse  [H, W] 1 / Z of the plane at the pixel, in 1 / metres
    slope_u  [H, W] its change to the next column
    slope_v  [H, W] its change to the next row
    """

    inverse: np.ndarray
    slope_u: np.ndarray
    slope_v: np.ndarray


def normals(depth: np.ndarray, intrinsics: np.ndarray, radius: int) -> np.ndarray:
    """Fits a plane to each window of a depth map, and returns its normal.

    The plane m . X = 1 of a window minimises the sum over its measured points X of

        (m . X - 1)^2 / Z^2

    With X = Z K^-1 (u, v, 1) this is a linear fit of 1 / Z to the pixels (u, v), which is exact for
    a plane. Windows of (2 radius + 1)^2 pixels end at the border of the map.

    Args:
      depth: [H, W] along z, 0 = not measured.
      intrinsics: K [3, 3]. Pixel centres lie at whole coordinates.
      radius: of the windows in pixels.

    Returns:
      [H, W, 3] float64 unit vectors towards the camera. They are 0 where all measured points of the
      window lie on a line.
    """
    plane = _fitted_planes(depth, radius)
    # A plane behind the camera is the extrapolation of a window to a pixel outside of its points.
    sign = np.where(plane.inverse < 0, -1.0, 1.0)
    return plane_normals(*(sign * part for part in plane), intrinsics)


def plane_normals(
    inverse: np.ndarray, slope_u: np.ndarray, slope_v: np.ndarray, intrinsics: np.ndarray
) -> np.ndarray:
    """Returns the normals of planes that are given by the inverse depth w = 1 / Z.

    On a plane a . p = w for the homogeneous pixel p = (u, v, 1), with

        a = (w_u, w_v, w - u w_u - v w_v)

    and -K^T a is normal to the plane.

    Args:
      inverse: [H, W] w at each pixel. NaN: unknown.
      slope_u: [H, W] w_u, the change of w to the next column.
      slope_v: [H, W] w_v, the change of w to the next row.
      intrinsics: K [3, 3]. Pixel centres lie at whole coordinates.

    Returns:
      [H, W, 3] float64 unit vectors towards the camera, 0 where no normal is known.
    """
    height, width = inverse.shape
    u = np.arange(width)
    v = np.arange(height)[:, None]
    constant = inverse - u * slope_u - v * slope_v
    covector = np.stack([slope_u, slope_v, constant], axis=-1)  # [H, W, 3]
    # NaN: the plane is unknown.
    with np.errstate(invalid='ignore'):
        vectors = -covector @ intrinsics.astype(np.float64)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    known = np.isfinite(length) & (length > 0)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=known)


def _fitted_planes(depth: np.ndarray, radius: int) -> _Plane:
    """Returns the plane of each window, NaN where its measured points lie on a line."""
    measured = depth > 0
    inverse = np.divide(1, depth.astype(np.float64), out=np.zeros(depth.shape), where=measured)
    u = np.arange(depth.shape[1], dtype=np.float64)
    v = np.arange(depth.shape[0], dtype=np.float64)[:, None]

    def total(value: np.ndarray) -> np.ndarray:
        window = (2 * radius + 1, 2 * radius + 1)
        return cv2.boxFilter(
            value, cv2.CV_64F, window, normalize=False, borderType=cv2.BORDER_CONSTANT
        )

    # Sums over the windows. Sums of coordinates are whole numbers, so they have no rounding error.
    here = measured.astype(np.float64)
    count = total(here)
    sum_u = total(here * u)
    sum_v = total(here * v)
    sum_w = total(inverse)

    # Central moments, times the square of the count.
    var_u = count * total(here * u * u) - sum_u * sum_u
    var_v = count * total(here * v * v) - sum_v * sum_v
    cov_uv = count * total(here * u * v) - sum_u * sum_v
    cov_uw = count * total(inverse * u) - sum_u * sum_w
    cov_vw = count * total(inverse * v) - sum_v * sum_w

    # The determinant is exactly 0 where the points of a window lie on a line.
    determinant = var_u * var_v - cov_uv * cov_uv
    determinant[determinant <= 0] = np.nan
    slope_u = (var_v * cov_uw - cov_uv * cov_vw) / determinant
    slope_v = (var_u * cov_vw - cov_uv * cov_uw) / determinant
    mean = (sum_w - slope_u * sum_u - slope_v * sum_v) / np.maximum(count, 1)
    return _Plane(mean + slope_u * u + slope_v * v, slope_u, slope_v)
