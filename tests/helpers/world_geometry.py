"""Geometry of rendered worlds in float64, derived without their renderer."""

import numpy as np


def world_points(frame):
    """Returns world points [H, W, 3] from depth, intrinsics and pose, in float64."""
    height, width = frame['depth'].shape
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    k = frame['intrinsics'].astype(float)
    rays = np.stack(
        [(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u, float)], axis=-1
    )
    pose = frame['pose'].astype(float)
    return (rays * frame['depth'][..., None]) @ pose[:3, :3].T + pose[:3, 3]


def project(points, frame):
    """Pixels (u, v) and depth of world points in a frame."""
    k, pose = frame['intrinsics'].astype(float), frame['pose'].astype(float)
    x, y, z = np.moveaxis((points - pose[:3, 3]) @ pose[:3, :3], -1, 0)
    z = np.where(z > 0.1, z, np.nan)
    return k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2], z


def corners(array, u, v):
    """Returns the four neighbours of (u, v), [4, ...], and bilinear weights."""
    u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
    fu, fv = u - u0, v - v0
    values = np.stack([array[v0, u0], array[v0, u0 + 1], array[v0 + 1, u0], array[v0 + 1, u0 + 1]])
    return values, np.stack([(1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv])


def cast(origin, ray, quads, ellipsoids):
    """Returns the nearest hit along a ray: (distance along the optical axis, SURFACE).

    Solves every primitive on its own.
    """
    normal = np.cross(quads['edge_s'], quads['edge_t'])
    with np.errstate(divide='ignore', invalid='ignore'):
        z = np.einsum('ni,ni->n', normal, quads['origin'] - origin) / (normal @ ray)
        s, t = np.moveaxis(plane_coordinates(quads, origin + z[:, None] * ray), -1, 0)
        lean = quads['taper']
        inside = (t >= 0) & (t <= 1) & (s >= lean[:, 0] * t) & (s <= 1 - lean[:, 1] * t)
        inside = np.where(quads['disc'], (2 * s - 1) ** 2 + (2 * t - 1) ** 2 <= 1, inside)
        z[~(inside & (z > 0) & ((normal @ ray < 0) | ~quads['closed']))] = np.inf

        cos, sin = np.cos(ellipsoids['heading']), np.sin(ellipsoids['heading'])
        p, d = origin - ellipsoids['centre'], np.broadcast_to(ray, ellipsoids['centre'].shape)
        p, d = (
            np.stack([cos * w[:, 0] - sin * w[:, 1], sin * w[:, 0] + cos * w[:, 1], w[:, 2]], 1)
            for w in (p, d)
        )
        p, d = p / ellipsoids['radii'], d / ellipsoids['radii']
        a, b, c = (d * d).sum(1), (p * d).sum(1), (p * p).sum(1) - 1
        depth = (-b - np.sqrt(b * b - a * c)) / a
        depth[~(depth > 0)] = np.inf
    both, records = (
        np.concatenate([z, depth]),
        np.concatenate([quads['surface'], ellipsoids['surface']]),
    )
    return (both.min(), records[both.argmin()]) if np.isfinite(both).any() else (np.inf, None)


def plane_coordinates(quads, points):
    """Returns (s, t) of points in the planes of quads, by normal equations of least squares."""
    edges = np.stack([quads['edge_s'], quads['edge_t']], axis=1)
    right = np.einsum('nij,nj->ni', edges, points - quads['origin'])
    return np.linalg.solve(edges @ np.swapaxes(edges, 1, 2), right[..., None])[..., 0]
