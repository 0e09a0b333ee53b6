"""Which surface does a pixel see, and how far away: exact visibility of textured quads and ellipsoids in NumPy.

World frame: right-handed, metres, z up. Camera frame: x right, y down, z forward; `pose` maps camera to world.
Pixel (u, v) with integer u, v is the centre of a pixel, and its ray is r = ((u - cx) / fx, (v - cy) / fy, 1), so that
a point z * r has z-depth z.

Both primitives have closed forms in which inverse depth is cheap, so a z-buffer of 1 / z is all that is needed:

  quad       points o + s e + t f, 0 <= s, t <= 1. From z r = [e f o] (s, t, 1)^T follows
             (s, t, 1) / z = [e f o]^-1 r: s / z, t / z and 1 / z are affine in (u, v), and so are the edges.
  ellipsoid  |A (x - c)| <= 1. With d = A r, p = A (camera - c), b = d.p, k = |p|^2 - 1:
             1 / z = (-b + sqrt(b^2 - |d|^2 k)) / k, the nearer of the two hits.

Coefficients are float64, evaluated relative to the primitive's own window of pixels in float32.
"""

from typing import NamedTuple

import numpy as np

NEAR = 0.05
"""Metres; nothing closer to the camera is drawn."""

SURFACE = np.dtype(
    [
        ('label', 'u1'),
        ('instance', 'u2'),
        ('velocity', 'f8', 3),  # metres per frame
        ('material', 'u1'),
        ('colour', 'f4', 3),  # linear reflectance
        ('accent', 'f4', 3),  # of windows, bars, joints, ...: depends on the material
        ('grain', 'f4'),  # contrast of the noise texture
        ('cell', 'f4', 2),  # metres, period of the pattern along s and t
        ('shift', 'f4', 2),  # offset into the noise texture
    ]
)
"""What a primitive looks like and what it is."""

QUAD = np.dtype(
    [
        ('origin', 'f8', 3),
        ('edge_s', 'f8', 3),
        ('edge_t', 'f8', 3),
        ('taper', 'f8', 2),  # sides lean in: taper[0] * t <= s <= 1 - taper[1] * t
        ('disc', '?'),  # only the inscribed ellipse
        ('closed', '?'),  # side of a solid: seen only from where edge_s x edge_t points
        ('surface', SURFACE),
    ]
)

ELLIPSOID = np.dtype(
    [('centre', 'f8', 3), ('radii', 'f8', 3), ('heading', 'f8'), ('surface', SURFACE)]
)
"""Axis of z is upright; `heading` turns the other two, clockwise seen from above."""


class Hits(NamedTuple):
    """What every pixel sees.

    surface        [H, W] int32: row of the quads, then (counting on) of the ellipsoids; -1 where nothing is
    inverse_depth  [H, W] float32: 1 / z, 0 where nothing is
    """

    surface: np.ndarray
    inverse_depth: np.ndarray


def heading_matrix(heading):
    """[..., 3, 3] rotation about z: local y (forward) becomes (sin, cos, 0)."""
    cos, sin, zero = np.cos(heading), np.sin(heading), np.zeros_like(heading, float)
    rows = [[cos, sin, zero], [-sin, cos, zero], [zero, zero, zero + 1]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def camera_pose(position, heading, pitch, roll) -> np.ndarray:
    """[4, 4] camera-to-world. Radians: heading clockwise from world y, pitch down, roll clockwise."""
    sin_h, cos_h, sin_p, cos_p = np.sin(heading), np.cos(heading), np.sin(pitch), np.cos(pitch)
    forward = np.array([sin_h * cos_p, cos_h * cos_p, -sin_p])
    level = np.array([cos_h, -sin_h, 0.0])
    down = np.cross(forward, level)
    right = np.cos(roll) * level + np.sin(roll) * down
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return pose


def visibility(quads, ellipsoids, intrinsics, pose, size) -> Hits:
    """Nearest surface at every pixel centre.

    quads       [N] of dtype QUAD
    ellipsoids  [M] of dtype ELLIPSOID; the camera must be outside of all of them
    intrinsics  [3, 3] in pixels of `size` = (height, width)
    pose        [4, 4] camera-to-world
    """
    hits = Hits(np.full(size, -1, np.int32), np.zeros(size, np.float32))
    to_ray, num_quads = np.linalg.inv(intrinsics), len(quads)
    facing = np.einsum('ni,ni->n', _normals(quads), pose[:3, 3] - quads['origin']) > 0
    corners = _corners(quads)
    ahead = ((corners - pose[:3, 3]) @ pose[:3, 2]).max(axis=1) > NEAR
    ids = np.flatnonzero(ahead & (facing | ~quads['closed']))
    quads, corners = quads[ids], corners[ids]
    rows = quad_rows(quads, pose) @ to_ray
    windows, seen = _windows(*_polygon_bounds(corners, intrinsics, pose), size)
    seen &= np.isfinite(rows).all((1, 2))
    s, t, inverse = rows[:, 0], rows[:, 1], rows[:, 2]
    lean = quads['taper'][..., None]
    polygons = np.stack(
        [inverse, s - lean[:, 0] * t, inverse - s - lean[:, 1] * t, t, inverse - t], axis=1
    )
    discs = np.stack([inverse, 2 * s - inverse, 2 * t - inverse], axis=1)
    _draw(hits, _polygon, polygons, windows, np.flatnonzero(seen & ~quads['disc']), ids)
    _draw(hits, _disc, discs, windows, np.flatnonzero(seen & quads['disc']), ids)

    if len(ellipsoids):
        conics = _conics(ellipsoids, to_ray, pose)
        windows, seen = _windows(
            *_outline_bounds(ellipsoids, intrinsics, pose).swapaxes(0, 1), size
        )
        _draw(
            hits,
            _conic,
            conics,
            windows,
            np.flatnonzero(seen),
            num_quads + np.arange(len(ellipsoids)),
        )
    return hits


def quad_rows(quads, pose) -> np.ndarray:
    """[N, 3, 3] float64 rows with (s / z, t / z, 1 / z) = rows @ r for a ray r; not finite if seen edge-on."""
    rotation = pose[:3, :3]
    origin = (quads['origin'] - pose[:3, 3]) @ rotation
    edge_s, edge_t = quads['edge_s'] @ rotation, quads['edge_t'] @ rotation
    rows = np.stack(
        [np.cross(edge_t, origin), np.cross(origin, edge_s), np.cross(edge_s, edge_t)], axis=1
    )
    determinant = np.einsum('ni,ni->n', origin, rows[:, 2])
    with np.errstate(divide='ignore', invalid='ignore'):
        return rows / np.where(np.abs(determinant) > 1e-9, determinant, np.nan)[:, None, None]


def to_unit_sphere(ellipsoids) -> np.ndarray:
    """[M, 3, 3] A with |A (x - centre)| = 1 on the surface."""
    return (
        np.swapaxes(heading_matrix(ellipsoids['heading']), -1, -2) / ellipsoids['radii'][:, :, None]
    )


def _normals(quads):
    return np.cross(quads['edge_s'], quads['edge_t'])


def _corners(quads):
    """[N, 4, 3] corners in the order around the quad, without the taper (which only makes it smaller)."""
    grow = np.maximum(0.0, -quads['taper'])[..., None]
    origin, s, t = quads['origin'], quads['edge_s'], quads['edge_t']
    top_left, top_right = origin + t - grow[:, 0] * s, origin + s + t + grow[:, 1] * s
    return np.stack([origin, origin + s, top_right, top_left], axis=1)


def _polygon_bounds(corners, intrinsics, pose):
    """Lowest and highest pixels, [N, 2] each, of the part in front of the near plane; NaN if there is none."""
    points = (corners - pose[:3, 3]) @ pose[:3, :3]
    low, high = np.full((2, len(corners), 2), np.nan)
    focal, middle = intrinsics[(0, 1), (0, 1)], intrinsics[:2, 2]
    for k in range(4):
        point, after = points[:, k], points[:, (k + 1) % 4]
        z, z_after = point[:, 2:], after[:, 2:]
        with np.errstate(divide='ignore', invalid='ignore'):
            pixel = np.where(z > NEAR, point[:, :2] / z, np.nan)
            low, high = np.fmin(low, pixel), np.fmax(high, pixel)
            crossing = point + (NEAR - z) / (z_after - z) * (after - point)
            pixel = np.where((z > NEAR) != (z_after > NEAR), crossing[:, :2] / NEAR, np.nan)
            low, high = np.fmin(low, pixel), np.fmax(high, pixel)
    return low * focal + middle, high * focal + middle


def _outline_bounds(ellipsoids, intrinsics, pose):
    """[M, 2, 2] pixels, (lowest, highest) of the outline: where lines u = const and v = const touch its dual conic.

    With the axes B and the centre c in camera coordinates the dual conic is C = K (B B^T - c c^T) K^T, and the line
    u = const touches where C_00 - 2 u C_02 + u^2 C_22 = 0. All of the plane if the ellipsoid crosses the near plane.
    """
    axes = pose[:3, :3].T @ (
        heading_matrix(ellipsoids['heading']) * ellipsoids['radii'][:, None, :]
    )
    centre = (ellipsoids['centre'] - pose[:3, 3]) @ pose[:3, :3]
    reach = np.linalg.norm(axes[:, 2], axis=1)
    dual = (
        intrinsics
        @ (axes @ np.swapaxes(axes, 1, 2) - centre[:, :, None] * centre[:, None, :])
        @ intrinsics.T
    )
    diagonal, last = dual[:, (0, 1), (0, 1)], dual[:, 2, 2][:, None]
    with np.errstate(divide='ignore', invalid='ignore'):
        root = np.sqrt(np.maximum(dual[:, :2, 2] ** 2 - diagonal * last, 0))
        bounds = np.stack([(dual[:, :2, 2] + root) / last, (dual[:, :2, 2] - root) / last], axis=1)
    crosses = np.abs(centre[:, 2]) - reach <= NEAR
    bounds[crosses] = [[-1e9, -1e9], [1e9, 1e9]]
    bounds[centre[:, 2] + reach <= NEAR] = np.nan
    return bounds


def _windows(low, high, size):
    """Windows [N, 4] = (column, row, width, height) between projected bounds, cut at the image, and which have any."""
    height, width = size
    valid = np.isfinite(low).all(1)
    limit = np.array([width, height])
    with np.errstate(invalid='ignore'):
        first = np.where(valid[:, None], np.clip(np.ceil(low), 0, limit), 0).astype(np.int64)
        last = np.where(valid[:, None], np.clip(np.floor(high), -1, limit - 1), -1).astype(np.int64)
    return np.concatenate([first, last - first + 1], axis=1), (last >= first).all(1)


def _conics(ellipsoids, to_ray, pose):
    """[M, 10] per ellipsoid: b (3: u, v, 1), b^2 - |d|^2 k (6: uu, uv, vv, u, v, 1) over pixels, and k."""
    to_unit = to_unit_sphere(ellipsoids)
    direction = to_unit @ pose[:3, :3] @ to_ray
    point = np.einsum('nij,nj->ni', to_unit, pose[:3, 3] - ellipsoids['centre'])
    k = np.einsum('ni,ni->n', point, point) - 1
    b = np.einsum('nij,ni->nj', direction, point)
    form = b[:, :, None] * b[:, None, :] - k[:, None, None] * np.einsum(
        'nij,nik->njk', direction, direction
    )
    pairs = [
        form[:, 0, 0],
        2 * form[:, 0, 1],
        form[:, 1, 1],
        2 * form[:, 0, 2],
        2 * form[:, 1, 2],
        form[:, 2, 2],
    ]
    return np.concatenate([b, np.stack(pairs, axis=1), k[:, None]], axis=1)


def _draw(hits, test, coefficients, windows, chosen, ids):
    """Draw the primitives `chosen`: small ones by the hundred in windows of one size, large ones one by one."""
    height, width = hits.surface.shape
    extent = windows[chosen, 2:]
    left = np.ones(len(chosen), bool)
    for columns, rows in ((8, 8), (8, 24), (16, 16), (24, 24), (48, 24)):
        if columns > width or rows > height:
            continue
        fits = left & (extent[:, 0] <= columns) & (extent[:, 1] <= rows)
        left &= ~fits
        some = chosen[fits]
        if len(some):
            column = np.minimum(windows[some, 0], width - columns)
            row = np.minimum(windows[some, 1], height - rows)
            inverse, inside = test(coefficients[some], column, row, columns, rows)
            _deposit(hits, inverse, inside, column, row, ids[some])
    for n in chosen[left]:
        column, row, columns, rows = windows[n]
        inverse, inside = test(
            coefficients[n : n + 1], windows[n, :1], windows[n, 1:2], columns, rows
        )
        view = np.s_[row : row + rows, column : column + columns]
        nearer = inside[0] & (inverse[0] > hits.inverse_depth[view])
        np.copyto(hits.inverse_depth[view], inverse[0], where=nearer)
        np.copyto(hits.surface[view], np.int32(ids[n]), where=nearer)


def _deposit(hits, inverse, inside, column, row, ids):
    """Z-test of many overlapping windows at once: sort by nearness, so that the last one written is the nearest."""
    which, j, i = np.nonzero(inside)
    place = (row[which] + j) * hits.surface.shape[1] + column[which] + i
    value = inverse[inside]
    flat_inverse, flat_surface = hits.inverse_depth.reshape(-1), hits.surface.reshape(-1)
    nearer = np.flatnonzero(value > flat_inverse[place])
    nearer = nearer[np.argsort(value[nearer], kind='stable')]
    flat_inverse[place[nearer]] = value[nearer]
    flat_surface[place[nearer]] = ids[which[nearer]]


def _affine(coefficients, column, row, columns, rows):
    """Along columns [n, k, columns] and along rows [n, k, rows]; their sum is the function in the window."""
    start = (
        coefficients[..., 0] * column[:, None]
        + coefficients[..., 1] * row[:, None]
        + coefficients[..., 2]
    )
    along = start[..., None] + coefficients[..., :1] * np.arange(columns)
    down = coefficients[..., 1:2] * np.arange(rows)
    return along.astype(np.float32), down.astype(np.float32)


def _polygon(coefficients, column, row, columns, rows):
    along, down = _affine(coefficients, column, row, columns, rows)
    inverse = along[:, 0, None, :] + down[:, 0, :, None]
    down = -down
    inside = along[:, 1, None, :] >= down[:, 1, :, None]
    for k in range(2, coefficients.shape[1]):
        inside &= along[:, k, None, :] >= down[:, k, :, None]
    return inverse, inside


def _disc(coefficients, column, row, columns, rows):
    along, down = _affine(coefficients, column, row, columns, rows)
    inverse, x, y = (along[:, k, None, :] + down[:, k, :, None] for k in range(3))
    return inverse, (x * x + y * y <= inverse * inverse) & (inverse > 0)


def _conic(coefficients, column, row, columns, rows):
    b_u, b_v, b_1, uu, uv, vv, u, v, one, k = coefficients.T
    # About the window's middle the terms of the quadratic form are small, so that float32 does not cancel.
    u0, v0 = column + columns / 2, row + rows / 2
    one = one + (uu * u0 + uv * v0 + u) * u0 + (vv * v0 + v) * v0
    u, v = u + 2 * uu * u0 + uv * v0, v + 2 * vv * v0 + uv * u0
    b_1 = b_1 + b_u * u0 + b_v * v0
    x, y = np.arange(columns) - columns / 2, np.arange(rows) - rows / 2
    scale = 1 / k
    along = ((uu[:, None] * x + u[:, None]) * x).astype(np.float32)
    down = ((vv[:, None] * y + v[:, None]) * y + one[:, None]).astype(np.float32)
    cross = (uv[:, None] * y).astype(np.float32)
    root = cross[:, :, None] * x.astype(np.float32) + along[:, None, :] + down[:, :, None]
    inside = root >= 0
    near = (b_u[:, None] * x * -scale[:, None]).astype(np.float32)
    near_down = ((b_v[:, None] * y + b_1[:, None]) * -scale[:, None]).astype(np.float32)
    root = np.sqrt(np.maximum(root, 0)) * scale.astype(np.float32)[:, None, None]
    inverse = root + near[:, None, :] + near_down[:, :, None]
    return inverse, inside & (inverse > 0)
