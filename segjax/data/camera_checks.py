"""Checks of what data sets say about geometry: depth, cameras and poses. No compiler is needed for them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.errors import InputError


def check_geometry(values: Mapping[str, Any], where: str) -> None:
    """Finds geometry that makes no sense when data are prepared, long before it makes nonsense of a training.

    Args:
      values: arrays by feature: depth* [..., H, W], intrinsics* [..., 3, 3], pose* [..., 4, 4]; other features are not
        looked at.
      where: the file they come from.

    Raises:
      InputError: depth that is negative or not finite; intrinsics that are not finite, singular, or whose last row is
        not (0, 0, 1); poses that are no rigid motions.
    """
    checks = {'depth': _check_depth, 'intrinsics': _check_intrinsics, 'pose': _check_pose}
    for feature, value in values.items():
        check = checks.get(feature.split('_')[0])
        if check is not None:
            check(f'{feature} of {where}', np.asarray(value, np.float64))


def check_camera(matrix: np.ndarray, size: tuple[int, int], where: str) -> None:
    """Raises InputError for a camera matrix that is not in pixels of the images.

    Args:
      matrix: [3, 3], [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] of whole images, before any crop.
      size: (height, width) of these images.
      where: the file.
    """
    check_geometry({'intrinsics': matrix}, where)
    focal = np.array([matrix[0, 0], matrix[1, 1]])
    center = matrix[:2, 2]
    sides = np.array(size[::-1])
    shown = f'fx, fy = ({focal[0]:.4g}, {focal[1]:.4g}) and principal point ({center[0]:.1f}, {center[1]:.1f})'
    got = f'{shown} for an image of {sides[0]}x{sides[1]}'
    expected = 'positive focal lengths and a point near the middle of the image, in pixels'
    if matrix[1, 0] != 0 or (focal <= 0).any():
        fix = 'fx and fy are lengths in pixels: write them without a sign, as [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]'
        raise InputError(where, got=got, expected=expected, fix=fix)
    # A crop moves the principal point along one axis. Another size moves it along both.
    outside = (center <= 0) | (center >= sides)
    off = np.abs(center / sides - 0.5) >= 0.25
    wide = focal < sides / 20  # no pinhole camera sees 170 degrees
    if not (outside.any() or off.all() or wide.any()):
        return
    fix = 'images were resized? multiply fx, cx by new width / old width and fy, cy by new height / old height'
    if (np.abs(center - 0.5) < 0.5).all():
        fix = f'the matrix is normalised: multiply the first row by {sides[0]} and the second by {sides[1]}'
    raise InputError(where, got=got, expected=expected, fix=fix)


def _first(bad: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


def _check_depth(where, depth):
    bad = ~(np.isfinite(depth) & (depth >= 0))
    if bad.any():
        raise InputError(
            where,
            got=f'{depth[_first(bad)]} at {_first(bad)}, and {int(bad.sum())} such pixels in all',
            expected='finite distances along z, 0 where none was measured',
        )


def _check_intrinsics(where, intrinsics):
    _check_matrices(where, intrinsics, 3)
    a, b, c, d = (intrinsics[..., i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    # Relative to the focal lengths themselves: intrinsics of a tiny map are small numbers, and still fine.
    flat = np.abs(a * d - b * c) <= 1e-6 * (np.hypot(a, c) * np.hypot(b, d) + 1e-12)
    if flat.any():
        raise InputError(
            where,
            got=f'the singular matrix {intrinsics[_first(flat)].tolist()}',
            expected='focal lengths that are not 0: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels',
        )


def _check_pose(where, pose):
    _check_matrices(where, pose, 4)
    rotation = pose[..., :3, :3]
    off = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max((-1, -2))
    bent = (off > 1e-3) | (np.linalg.det(rotation) < 0)
    if bent.any():
        raise InputError(
            where,
            got=f'{pose[_first(bent)].tolist()}, whose upper left part is no rotation',
            expected='camera-to-world motions [R | t]',
        )


def _check_matrices(where, value, n):
    if value.shape[-2:] != (n, n):
        raise InputError(where, got=f'shape {value.shape}', expected=f'[..., {n}, {n}]')
    last = np.arange(n) == n - 1
    bad = ~np.isfinite(value).all((-1, -2)) | (value[..., -1, :] != last).any(-1)
    if bad.any():
        raise InputError(
            where,
            got=f'{value[_first(bad)].tolist()}',
            expected=f'finite numbers, and ({", ".join(str(int(one)) for one in last)}) as the last row',
        )
