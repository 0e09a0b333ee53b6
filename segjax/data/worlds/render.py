"""Exact visibility of textured quads and ellipsoids in NumPy: the nearest surface of each pixel.

World frame: right-handed, metres, z up. Camera frame: x right, y down, z forward. `pose` maps
camera to world. Pixel (u, v) with integer u, v is the centre of a pixel. Its ray is
r = ((u - cx) / fx, (v - cy) / fy, 1), so that a point z * r has z-depth z.

Both primitives have closed forms in which inverse depth is cheap, so a z-buffer of 1 / z suffices:

  quad       points o + s e + t f, 0 <= s, t <= 1. From z r = [e f o] (s, t, 1)^T follows
             (s, t, 1) / z = [e f o]^-1 r. So s / z, t / z and 1 / z are affine in (u, v), and the
             edges are affine in (u, v).
  ellipsoid  |A (x - c)| <= 1. With d = A r, p = A (camera - c), b = d.p, k = |p|^2 - 1:
             1 / z = (-b + sqrt(b^2 - |d|^2 k)) / k, the nearer of the two hits.

Coefficients are float64. They are evaluated in float32, relative to the primitive's own window of
pixels.
"""

from typing import NamedTuple

import numpy as np

NEAR = 0.05
"""Metres. Nothing closer to the camera is drawn."""

SURFACE = np.dtype(
    [
        ('label', 'u1'),
        ('instance', 'u2'),
        ('velocity', 'f8', 3),  # metres per frame
        ('material', 'u1'),
        ('colour', 'f4', 3),  # linear reflectance
        ('accent', 'f4', 3),  # second colour of the material: of windows, bars, joints, ...
        ('grain', 'f4'),  # contrast of the noise texture
        ('cell', 'f4', 2),  # metres, period of the pattern along s and t
        ('shift', 'f4', 2),  # offset into the noise texture
    ]
)
"""Look and meaning of a primitive."""

QUAD = np.dtype(
    [
        ('origin', 'f8', 3),
        ('edge_s', 'f8', 3),
        ('edge_t', 'f8', 3),
        ('taper', 'f8', 2),  # sides lean in: taper[0] * t <= s <= 1 - taper[1] * t
        ('disc', '?'),  # only the inscribed ellipse
        ('closed', '?'),  # side of a solid: visible only from where edge_s x edge_t points
        ('surface', SURFACE),
    ]
)

ELLIPSOID = np.dtype(
    [('centre', 'f8', 3), ('radii', 'f8', 3), ('heading', 'f8'), ('surface', SURFACE)]
)
"""The z axis is upright. `heading` turns the x and y axes, clockwise from above."""


class Hits(NamedTuple):
    """The nearest surface of every pixel.

    surface        [H, W] int32: number of the quad, or number of quads plus number of the
                   ellipsoid, or -1 for no surface
    inverse_depth  [H, W] float32: 1 / z, 0 for no surface
    """

    surface: np.ndarray
    inverse_depth: np.ndarray


def heading_matrix(heading):
    """Returns the [..., 3, 3] rotation about z. Local y (forward) becomes (sin, cos, 0)."""
    cos = np.cos(heading)
    sin = np.sin(heading)
    zero = np.zeros_like(heading, float)
    rows = [[cos, sin, zero], [-sin, cos, zero], [zero, zero, zero + 1]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def camera_pose(position, heading, pitch, roll) -> np.ndarray:
    """Returns a camera-to-world pose [4, 4].

    Args:
      position: [3] of the camera in the world.
      heading: radians, clockwise from world y.
      pitch: radians, downwards.
      roll: radians, clockwise.
    """
    sin_h = np.sin(heading)
    cos_h = np.cos(heading)
    sin_p = np.sin(pitch)
    cos_p = np.cos(pitch)
    forward = np.array([sin_h * cos_p, cos_h * cos_p, -sin_p])
    level = np.array([cos_h, -sin_h, 0.0])
    down = np.cross(forward, level)
    right = np.cos(roll) * level + np.sin(roll) * down
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return pose


def visibility(quads, ellipsoids, intrinsics, pose, size) -> Hits:
    """Returns the nearest surface at every pixel centre.

    Args:
      quads: [N] of dtype QUAD.
      ellipsoids: [M] of dtype ELLIPSOID. The camera must be outside of all ellipsoids.
      intrinsics: [3, 3] in pixels of `size`.
      pose: [4, 4] camera-to-world.
      size: (height, width).
    """
    hits = Hits(np.full(size, -1, np.int32), np.zeros(size, np.float32))
    to_ray = np.linalg.inv(intrinsics)

    # Quads that face the camera and are in front of it.
    facing = np.einsum('ni,ni->n', _normals(quads), pose[:3, 3] - quads['origin']) > 0
    corners = _corners(quads)
    ahead = ((corners - pose[:3, 3]) @ pose[:3, 2]).max(axis=1) > NEAR
    ids = np.flatnonzero(ahead & (facing | ~quads['closed']))
    front = quads[ids]
    rows = quad_rows(front, pose) @ to_ray
    low, high = _polygon_bounds(corners[ids], intrinsics, pose)
    windows, visible = _windows(low, high, size)
    visible &= np.isfinite(rows).all((1, 2))

    # Functions of (u, v): 1 / z, and the edges, which are positive inside.
    s = rows[:, 0]
    t = rows[:, 1]
    inverse = rows[:, 2]
    lean = front['taper'][..., None]
    polygons = np.stack(
        [inverse, s - lean[:, 0] * t, inverse - s - lean[:, 1] * t, t, inverse - t], axis=1
    )
    discs = np.stack([inverse, 2 * s - inverse, 2 * t - inverse], axis=1)
    _draw(hits, _polygon, polygons, windows, np.flatnonzero(visible & ~front['disc']), ids)
    _draw(hits, _disc, discs, windows, np.flatnonzero(visible & front['disc']), ids)

    if len(ellipsoids):
        conics = _conics(ellipsoids, to_ray, pose)
        low, high = _outline_bounds(ellipsoids, intrinsics, pose).swapaxes(0, 1)
        windows, visible = _windows(low, high, size)
        ids = len(quads) + np.arange(len(ellipsoids))
        _draw(hits, _conic, conics, windows, np.flatnonzero(visible), ids)
    return hits


def quad_rows(quads, pose) -> np.ndarray:
    """Returns float64 rows [N, 3, 3] with (s / z, t / z, 1 / z) = rows @ r for a ray r.

    The rows of a quad are not finite if the camera is in its plane.
    """
    rotation = pose[:3, :3]
    origin = (quads['origin'] - pose[:3, 3]) @ rotation
    edge_s = quads['edge_s'] @ rotation
    edge_t = quads['edge_t'] @ rotation
    rows = np.stack(
        [np.cross(edge_t, origin), np.cross(origin, edge_s), np.cross(edge_s, edge_t)], axis=1
    )
    determinant = np.einsum('ni,ni->n', origin, rows[:, 2])
    with np.errstate(divide='ignore', invalid='ignore'):
        return rows / np.where(np.abs(determinant) > 1e-9, determinant, np.nan)[:, None, None]


def to_unit_sphere(ellipsoids) -> np.ndarray:
    """Returns the matrices A [M, 3, 3] with |A (x - centre)| = 1 on the surface."""
    to_local = np.swapaxes(heading_matrix(ellipsoids['heading']), -1, -2)
    return to_local / ellipsoids['radii'][:, :, None]


def of_samples(values: np.ndarray, record: np.ndarray) -> np.ndarray:
    """Returns the value of each sample from values of all surfaces, contiguous.

    Args:
      values: [N] of the surfaces.
      record: [...] numbers of surfaces, 0 .. N - 1.
    """
    return np.ascontiguousarray(values).take(record, axis=0, mode='clip')


def _normals(quads):
    """Returns edge_s x edge_t, [N, 3]."""
    return np.cross(quads['edge_s'], quads['edge_t'])


def _corners(quads):
    """Returns the corners [N, 4, 3] in the order around each quad.

    A positive taper only makes a quad smaller, so it is ignored.
    """
    grow = np.maximum(0.0, -quads['taper'])[..., None]
    origin = quads['origin']
    s = quads['edge_s']
    t = quads['edge_t']
    top_left = origin + t - grow[:, 0] * s
    top_right = origin + s + t + grow[:, 1] * s
    return np.stack([origin, origin + s, top_right, top_left], axis=1)


def _polygon_bounds(corners, intrinsics, pose):
    """Returns the lowest and highest pixels of polygons, [N, 2] each.

    Only the part in front of the near plane counts. Without such a part the bounds are NaN.
    """
    points = (corners - pose[:3, 3]) @ pose[:3, :3]
    low, high = np.full((2, len(corners), 2), np.nan)
    focal = intrinsics[(0, 1), (0, 1)]
    middle = intrinsics[:2, 2]
    for k in range(4):
        point = points[:, k]
        after = points[:, (k + 1) % 4]
        z = point[:, 2:]
        z_after = after[:, 2:]
        with np.errstate(divide='ignore', invalid='ignore'):
            # The corner itself.
            pixel = np.where(z > NEAR, point[:, :2] / z, np.nan)
            low = np.fmin(low, pixel)
            high = np.fmax(high, pixel)
            # The point where the edge to the next corner crosses the near plane.
            crossing = point + (NEAR - z) / (z_after - z) * (after - point)
            pixel = np.where((z > NEAR) != (z_after > NEAR), crossing[:, :2] / NEAR, np.nan)
            low = np.fmin(low, pixel)
            high = np.fmax(high, pixel)
    return low * focal + middle, high * focal + middle


def _outline_bounds(ellipsoids, intrinsics, pose):
    """Returns the (lowest, highest) pixels of outlines, [M, 2, 2].

    There the lines u = const and v = const touch the dual conic of an ellipsoid. With the axes B
    and the centre c in camera coordinates, the dual conic is C = K (B B^T - c c^T) K^T. The line
    u = const touches where C_00 - 2 u C_02 + u^2 C_22 = 0. The bounds contain all pixels if the
    ellipsoid crosses the near plane, and are NaN if it is behind.
    """
    # Axes and centre in camera coordinates.
    world_axes = heading_matrix(ellipsoids['heading']) * ellipsoids['radii'][:, None, :]
    axes = pose[:3, :3].T @ world_axes
    centre = (ellipsoids['centre'] - pose[:3, 3]) @ pose[:3, :3]
    reach = np.linalg.norm(axes[:, 2], axis=1)

    # Roots of the quadratic equations.
    form = axes @ np.swapaxes(axes, 1, 2) - centre[:, :, None] * centre[:, None, :]
    dual = intrinsics @ form @ intrinsics.T
    diagonal = dual[:, (0, 1), (0, 1)]
    last = dual[:, 2, 2][:, None]
    with np.errstate(divide='ignore', invalid='ignore'):
        root = np.sqrt(np.maximum(dual[:, :2, 2] ** 2 - diagonal * last, 0))
        bounds = np.stack([(dual[:, :2, 2] + root) / last, (dual[:, :2, 2] - root) / last], axis=1)
    crosses = np.abs(centre[:, 2]) - reach <= NEAR
    bounds[crosses] = [[-1e9, -1e9], [1e9, 1e9]]
    bounds[centre[:, 2] + reach <= NEAR] = np.nan
    return bounds


def _windows(low, high, size):
    """Returns windows of pixels between projected bounds, cut at the image.

    Returns:
      [N, 4] int64 (column, row, width, height), and [N] bool, which windows have a pixel.
    """
    height, width = size
    valid = np.isfinite(low).all(1)
    limit = np.array([width, height])
    with np.errstate(invalid='ignore'):
        first = np.where(valid[:, None], np.clip(np.ceil(low), 0, limit), 0).astype(np.int64)
        last = np.where(valid[:, None], np.clip(np.floor(high), -1, limit - 1), -1).astype(np.int64)
    return np.concatenate([first, last - first + 1], axis=1), (last >= first).all(1)


def _conics(ellipsoids, to_ray, pose):
    """Returns the coefficients [M, 10] of ellipsoids over pixels.

    These are b (3: u, v, 1), b^2 - |d|^2 k (6: uu, uv, vv, u, v, 1), and k. The symbols are at the
    top of this file.
    """
    to_unit = to_unit_sphere(ellipsoids)
    direction = to_unit @ pose[:3, :3] @ to_ray
    point = np.einsum('nij,nj->ni', to_unit, pose[:3, 3] - ellipsoids['centre'])
    k = np.einsum('ni,ni->n', point, point) - 1
    b = np.einsum('nij,ni->nj', direction, point)
    squares = np.einsum('nij,nik->njk', direction, direction)
    form = b[:, :, None] * b[:, None, :] - k[:, None, None] * squares
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
    """Draws primitives of a kind into `hits`, in place.

    Small primitives share windows of the same size, by the hundred. Large primitives are alone.

    Args:
      hits: z-buffer.
      test: `_polygon`, `_disc` or `_conic`.
      coefficients: [N, ...] arguments of `test`.
      windows: [N, 4] of `_windows`.
      chosen: numbers of the primitives to draw.
      ids: [N] values of `hits.surface`.
    """
    # Small primitives, in the first window size that they fit.
    height, width = hits.surface.shape
    extent = windows[chosen, 2:]
    remaining = np.ones(len(chosen), bool)
    for columns, rows in ((8, 8), (8, 24), (16, 16), (24, 24), (48, 24)):
        if columns > width or rows > height:
            continue
        fits = remaining & (extent[:, 0] <= columns) & (extent[:, 1] <= rows)
        remaining &= ~fits
        batch = chosen[fits]
        if len(batch):
            column = np.minimum(windows[batch, 0], width - columns)
            row = np.minimum(windows[batch, 1], height - rows)
            inverse, inside = test(coefficients[batch], column, row, columns, rows)
            _deposit(hits, inverse, inside, column, row, ids[batch])

    # Large primitives, in their own windows.
    for n in chosen[remaining]:
        column, row, columns, rows = windows[n]
        inverse, inside = test(
            coefficients[n : n + 1], windows[n, :1], windows[n, 1:2], columns, rows
        )
        window = np.s_[row : row + rows, column : column + columns]
        nearer = inside[0] & (inverse[0] > hits.inverse_depth[window])
        np.copyto(hits.inverse_depth[window], inverse[0], where=nearer)
        np.copyto(hits.surface[window], np.int32(ids[n]), where=nearer)


def _deposit(hits, inverse, inside, column, row, ids):
    """Writes many overlapping windows into `hits` with a z-test, in place.

    Args:
      hits: z-buffer.
      inverse: [n, rows, columns] 1 / z.
      inside: [n, rows, columns] bool.
      column, row: [n] of the windows in the image.
      ids: [n] values of `hits.surface`.
    """
    window, j, i = np.nonzero(inside)
    pixel = (row[window] + j) * hits.surface.shape[1] + column[window] + i
    value = inverse[inside]
    flat_inverse = hits.inverse_depth.reshape(-1)
    flat_surface = hits.surface.reshape(-1)
    nearer = np.flatnonzero(value > flat_inverse[pixel])
    # Of several writes to a pixel the last stays, so the nearest surface must be written last.
    nearer = nearer[np.argsort(value[nearer], kind='stable')]
    flat_inverse[pixel[nearer]] = value[nearer]
    flat_surface[pixel[nearer]] = ids[window[nearer]]


def _affine(coefficients, column, row, columns, rows):
    """Evaluates affine functions of (u, v) in windows, separately along both axes.

    Args:
      coefficients: [n, k, 3] of u, v and 1.
      column, row: [n] of the windows in the image.
      columns, rows: size of the windows.

    Returns:
      float32 [n, k, columns] and [n, k, rows]. Their outer sum is the function in the window.
    """
    start = (
        coefficients[..., 0] * column[:, None]
        + coefficients[..., 1] * row[:, None]
        + coefficients[..., 2]
    )
    along = start[..., None] + coefficients[..., :1] * np.arange(columns)
    down = coefficients[..., 1:2] * np.arange(rows)
    return along.astype(np.float32), down.astype(np.float32)


def _polygon(coefficients, column, row, columns, rows):
    """Returns 1 / z and the mask of polygons in windows, [n, rows, columns] each.

    The coefficients [n, k, 3] are of 1 / z, and of functions that are not negative inside.
    """
    along, down = _affine(coefficients, column, row, columns, rows)
    inverse = along[:, 0, None, :] + down[:, 0, :, None]
    down = -down
    inside = along[:, 1, None, :] >= down[:, 1, :, None]
    for k in range(2, coefficients.shape[1]):
        inside &= along[:, k, None, :] >= down[:, k, :, None]
    return inverse, inside


def _disc(coefficients, column, row, columns, rows):
    """Returns 1 / z and the mask of ellipses in windows, [n, rows, columns] each.

    The coefficients [n, 3, 3] are of 1 / z, and of the coordinates (x, y) / z in a unit circle.
    """
    along, down = _affine(coefficients, column, row, columns, rows)
    inverse, x, y = (along[:, k, None, :] + down[:, k, :, None] for k in range(3))
    return inverse, (x * x + y * y <= inverse * inverse) & (inverse > 0)


def _conic(coefficients, column, row, columns, rows):
    """Returns 1 / z and the mask of ellipsoids in windows, [n, rows, columns] each.

    The coefficients [n, 10] come from `_conics`.
    """
    b_u, b_v, b_1, uu, uv, vv, u, v, constant, k = coefficients.T
    # Move the origin to the window's middle. The terms of the quadratic form are small there, so
    # that float32 does not cancel.
    u0 = column + columns / 2
    v0 = row + rows / 2
    constant = constant + (uu * u0 + uv * v0 + u) * u0 + (vv * v0 + v) * v0
    u = u + 2 * uu * u0 + uv * v0
    v = v + 2 * vv * v0 + uv * u0
    b_1 = b_1 + b_u * u0 + b_v * v0
    x = np.arange(columns) - columns / 2
    y = np.arange(rows) - rows / 2
    scale = 1 / k

    # The quadratic form, which is not negative inside.
    along = ((uu[:, None] * x + u[:, None]) * x).astype(np.float32)
    down = ((vv[:, None] * y + v[:, None]) * y + constant[:, None]).astype(np.float32)
    cross = (uv[:, None] * y).astype(np.float32)
    root = cross[:, :, None] * x.astype(np.float32) + along[:, None, :] + down[:, :, None]
    inside = root >= 0

    # 1 / z = (-b + sqrt(form)) / k.
    near = (b_u[:, None] * x * -scale[:, None]).astype(np.float32)
    near_down = ((b_v[:, None] * y + b_1[:, None]) * -scale[:, None]).astype(np.float32)
    root = np.sqrt(np.maximum(root, 0)) * scale.astype(np.float32)[:, None, None]
    inverse = root + near[:, None, :] + near_down[:, :, None]
    return inverse, inside & (inverse > 0)
