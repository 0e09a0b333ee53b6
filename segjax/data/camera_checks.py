"""Checks of the geometry in data sets: depth, cameras and poses. The checks need no compiler."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.data.kinds import feature_of
from segjax.errors import InputError
from segjax.spec import Feature


def check_geometry(
    values: Mapping[str, Any],
    where: str,
    declared: Mapping[str, Feature] = {},
    size: tuple[int, int] | None = None,
) -> None:
    """Raises InputError for invalid geometry when data are prepared, long before a training fails.

    Args:
      values: arrays by feature. Checked are the kinds depth [..., H, W], normals [..., H, W, 3],
        flow, points, boxes [..., n, 4], intrinsics [..., 3, 3] and pose [..., 4, 4].
      where: the file with these values.
      declared: `Dataset.declared`.
      size: (height, width) of the image, which depth must have. None: depth may have any size.

    Raises:
      InputError: depth that is negative or not finite, or of another size. Intrinsics that are not
        finite, singular, or whose last row is not (0, 0, 1). Poses that are no rigid motions.
        Normals that are no unit vectors. Infinite flow or points. Boxes whose corners are swapped.
    """
    checks = {
        'depth': _check_depth,
        'normals': _check_normals,
        'flow': _check_places,
        'points': _check_places,
        'boxes': _check_boxes,
        'intrinsics': _check_intrinsics,
        'pose': _check_pose,
    }
    for feature, value in values.items():
        kind = feature_of(feature, declared).kind
        if kind in checks:
            checks[kind](f'{feature} of {where}', np.asarray(value, np.float64))
        if kind == 'depth' and size is not None:
            _check_size(f'{feature} of {where}', value.shape[-2:], size)


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

    # A crop moves the principal point along one axis. A resize moves it along both axes.
    signed = matrix[1, 0] != 0 or (focal <= 0).any()
    outside = (center <= 0) | (center >= sides)
    off_centre = np.abs(center / sides - 0.5) >= 0.25
    wide = focal < sides / 20  # no pinhole camera has a field of view of 170 degrees
    if not (signed or outside.any() or off_centre.all() or wide.any()):
        return

    # Name the probable cause.
    if signed:
        fix = (
            'fx and fy are lengths in pixels: '
            'write them without a sign, as [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]'
        )
    elif (np.abs(center - 0.5) < 0.5).all():
        fix = (
            'the matrix is normalised: '
            f'multiply the first row by {sides[0]} and the second by {sides[1]}'
        )
    else:
        fix = (
            'images were resized? '
            'multiply fx, cx by new width / old width and fy, cy by new height / old height'
        )
    raise InputError(
        where,
        got=f'fx, fy = ({focal[0]:.4g}, {focal[1]:.4g}) '
        f'and principal point ({center[0]:.1f}, {center[1]:.1f}) '
        f'for an image of {sides[0]}x{sides[1]}',
        expected='positive focal lengths and a point near the middle of the image, in pixels',
        fix=fix,
    )


def _first(bad: np.ndarray) -> tuple[int, ...]:
    """Returns the position of the first True of a mask."""
    return tuple(int(i) for i in np.argwhere(bad)[0])


def _check_depth(where: str, depth: np.ndarray) -> None:
    """Raises InputError for negative or infinite depth, and for NaN."""
    bad = ~(np.isfinite(depth) & (depth >= 0))
    if bad.any():
        raise InputError(
            where,
            got=f'{depth[_first(bad)]} at {_first(bad)}, and {int(bad.sum())} such pixels in all',
            expected='finite distances along z, 0 where none was measured',
        )


def _check_size(where: str, size: tuple[int, ...], expected: tuple[int, int]) -> None:
    """Raises InputError for a map with another (height, width) than its image."""
    if tuple(size) != tuple(expected):
        raise InputError(
            where,
            got='{1} x {0} pixels'.format(*size),
            expected='{1} x {0} pixels, as its image'.format(*expected),
            fix='resize it with nearest neighbours, or its image, when the data set is prepared',
        )


def _check_normals(where: str, normals: np.ndarray) -> None:
    """Raises InputError for normals of another length than 1, and 0 where none was measured."""
    length = np.linalg.norm(normals, axis=-1)
    bad = ~((np.abs(length - 1) < 1e-2) | (length == 0))
    if bad.any():
        raise InputError(
            where,
            got=f'{normals[_first(bad)].tolist()} at {_first(bad)}, '
            f'and {int(bad.sum())} such pixels in all',
            expected='unit vectors (x to the right, y down, z forward), 0 where none was measured',
        )


def _check_places(where: str, vectors: np.ndarray) -> None:
    """Raises InputError for vectors that are infinite or only partly NaN."""
    bad = np.isinf(vectors).any(-1) | (np.isnan(vectors).any(-1) != np.isnan(vectors).all(-1))
    if bad.any():
        raise InputError(
            where,
            got=f'{vectors[_first(bad)].tolist()} at {_first(bad)}',
            expected='finite numbers of pixels, or NaN for all numbers of a vector that is absent',
        )


def _check_boxes(where: str, boxes: np.ndarray) -> None:
    """Raises InputError for boxes that are not (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1."""
    _check_places(where, boxes)
    bad = (boxes[..., :2] > boxes[..., 2:]).any(-1)
    if bad.any():
        raise InputError(
            where,
            got=f'{boxes[_first(bad)].tolist()} at {_first(bad)}',
            expected='(x0, y0, x1, y1) with x0 <= x1 and y0 <= y1',
        )


def _check_intrinsics(where: str, intrinsics: np.ndarray) -> None:
    """Raises InputError for camera matrices that are malformed or singular."""
    _check_matrices(where, intrinsics, 3)
    a = intrinsics[..., 0, 0]
    b = intrinsics[..., 0, 1]
    c = intrinsics[..., 1, 0]
    d = intrinsics[..., 1, 1]
    # Relative to the focal lengths, because the intrinsics of a tiny map are valid small numbers.
    flat = np.abs(a * d - b * c) <= 1e-6 * (np.hypot(a, c) * np.hypot(b, d) + 1e-12)
    if flat.any():
        raise InputError(
            where,
            got=f'the singular matrix {intrinsics[_first(flat)].tolist()}',
            expected=(
                'focal lengths that are not 0: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels'
            ),
        )


def _check_pose(where: str, pose: np.ndarray) -> None:
    """Raises InputError for poses that are malformed or no rigid motions."""
    _check_matrices(where, pose, 4)
    rotation = pose[..., :3, :3]
    deviation = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max((-1, -2))
    bent = (deviation > 1e-3) | (np.linalg.det(rotation) < 0)
    if bent.any():
        raise InputError(
            where,
            got=f'{pose[_first(bent)].tolist()}, whose upper left part is no rotation',
            expected='camera-to-world motions [R | t]',
        )


def _check_matrices(where: str, value: np.ndarray, n: int) -> None:
    """Raises InputError unless `value` is [..., n, n], finite, with the last row (0, .., 0, 1)."""
    if value.shape[-2:] != (n, n):
        raise InputError(where, got=f'shape {value.shape}', expected=f'[..., {n}, {n}]')
    last = np.arange(n) == n - 1
    bad = ~np.isfinite(value).all((-1, -2)) | (value[..., -1, :] != last).any(-1)
    if bad.any():
        row = ', '.join(str(int(entry)) for entry in last)
        raise InputError(
            where,
            got=f'{value[_first(bad)].tolist()}',
            expected=f'finite numbers, and ({row}) as the last row',
        )
