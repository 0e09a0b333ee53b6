"""`streets`: procedural driving video with exact labels, instances, depth and camera motion.

`frame(seed, split, clip, index, size)` is a pure function: `clip` chooses the scene (layout, textures, light, camera
path), `index` the moment. In every second clip all things stand still, so that depth and poses warp one frame onto
the next exactly; in the others cars, riders and people move, and `moving` marks the pixels for which it fails.

Conventions: pixel (u, v) with integer u, v is a pixel's centre; x_cam = (u - cx) / fx * z, y_cam = (v - cy) / fy * z;
camera x right, y down, z forward; world x right, y along the street, z up, ground z = 0, metres. Labels, instances and
depth are those of the surface that the ray through the pixel's centre hits first; colours are antialiased.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from segjax.data.worlds import shapes, textures
from segjax.data.worlds.light import shadow_maps
from segjax.data.worlds.render import (
    QUAD,
    SURFACE,
    Hits,
    camera_pose,
    heading_matrix,
    quad_rows,
    to_unit_sphere,
    visibility,
)
from segjax.data.worlds.streets.paint import PAINT, ground
from segjax.data.worlds.streets.scene import SKY, Scene, build_scene, generator
from segjax.errors import InputError
from segjax.spec import IGNORE

MAX_FRAMES = 60
"""Frames per clip: the camera drives 30 to 60 m."""

_MAP_ORIGIN, _MAP_CELL, _MAP_SIZE = np.array([-40.0, -15.0]), 0.1, (2000, 800)
_GROUND_EXTENT = 2000.0


class _Clip(NamedTuple):
    scene: Scene
    noise: textures.Noise
    shadows: np.ndarray  # of what stands still


class _Patch(NamedTuple):
    """Samples of one material: what the functions of paint.PAINT get."""

    s: np.ndarray  # metres along the surface
    t: np.ndarray
    footprint: np.ndarray  # metres per sample
    noise: np.ndarray  # fine, standard deviation 1
    stain: np.ndarray  # coarse
    colour: np.ndarray  # [n, 3]
    accent: np.ndarray  # [n, 3]
    cell: np.ndarray  # [n, 2]
    sky: np.ndarray  # [3], what panes mirror


def frame(seed: int, split: str, clip: int, index: int, size: tuple[int, int]) -> dict:
    """One frame of a clip.

    Returns (H, W = size)
      image       [H, W, 3] uint8 RGB
      label       [H, W] uint8, train ids 0 .. 18; 255: ego vehicle and things without a class
      instance    [H, W] uint16; 0: none; else an id of a person, rider or vehicle, the same in all frames of the clip
      depth       [H, W] float32, metres along the optical axis; 0: none (sky, ego vehicle)
      moving      [H, W] bool, surfaces (or shadows on the ground) that move in the world, and the ego vehicle
      intrinsics  [3, 3] float32, pixels of `size`
      pose        [4, 4] float32, camera to world

    Raises InputError for a negative seed or clip, an index outside 0 .. MAX_FRAMES - 1, or a size below 8 x 8.
    """
    _check(seed, clip, index, size)
    scene, noise, still_shadows = _clip(seed, split, clip)
    intrinsics, pose = camera(scene, index, size)
    quads, ellipsoids = _at(scene.shape, index)
    # Two samples per pixel and axis. Those with even indices are pixel centres: they alone make labels and depth.
    twice = np.array([[2, 1, 2], [1, 2, 2], [1, 1, 1]]) * intrinsics
    hits = visibility(quads, ellipsoids, twice, pose, (2 * size[0], 2 * size[1]))
    surfaces = np.concatenate(
        [quads['surface'], ellipsoids['surface'], np.array([(SKY, *[0] * 8)], SURFACE)]
    )

    moved = (surfaces['velocity'] != 0).any(axis=1)
    shadows = still_shadows
    if moved.any():
        movers = shapes.Shape(quads[moved[: len(quads)]], ellipsoids[moved[len(quads) : -1]])
        moving_shadows = shadow_maps(
            movers, scene.light.direction, _MAP_ORIGIN, _MAP_CELL, _MAP_SIZE
        )
        shadows = np.maximum(shadows, moving_shadows)

    linear, label, ground = _shade(
        scene, noise, shadows, quads, ellipsoids, surfaces, hits, twice, pose
    )
    hood = _cover_hood(linear, scene)[::2, ::2]
    centre = hits.surface[::2, ::2]
    inverse = hits.inverse_depth[::2, ::2]
    moving = moved[centre] | hood
    if moved.any():
        x, y = ground[0][::2, ::2], ground[1][::2, ::2]
        touched = _map_lookup(moving_shadows, x, y).max(axis=-1) > 0
        moving |= touched & (centre == 0)
    depth = np.divide(1, inverse, out=np.zeros(size, np.float32), where=(inverse > 0) & ~hood)
    return {
        'image': _develop(linear, scene.light, generator(seed, split, clip, 3, index)),
        'label': np.where(hood, np.uint8(IGNORE), label[::2, ::2]),
        'instance': np.where(hood, np.uint16(0), surfaces['instance'][centre]),
        'depth': depth,
        'moving': moving,
        'intrinsics': intrinsics.astype(np.float32),
        'pose': pose.astype(np.float32),
    }


def _check(seed, clip, index, size):
    for name, value, limit in (
        ('seed', seed, None),
        ('clip', clip, None),
        ('index', index, MAX_FRAMES),
    ):
        if value < 0 or (limit is not None and value >= limit):
            expected = '>= 0' if limit is None else f'0 .. {limit - 1}'
            raise InputError(f'streets: {name}', got=repr(value), expected=expected)
    if min(size) < 8:
        raise InputError('streets: size', got=repr(size), expected='(height, width), both >= 8')


@functools.lru_cache(maxsize=4)
def _clip(seed, split, clip) -> _Clip:
    """Everything that the frames of a clip share; remembered, because clips are read frame by frame."""
    scene = build_scene(seed, split, clip)
    quads, ellipsoids = scene.shape
    still = shapes.Shape(
        quads[(quads['surface']['velocity'] == 0).all(1)],
        ellipsoids[(ellipsoids['surface']['velocity'] == 0).all(1)],
    )
    shadows = shadow_maps(still, scene.light.direction, _MAP_ORIGIN, _MAP_CELL, _MAP_SIZE)
    for array in (quads, ellipsoids, shadows):
        array.setflags(write=False)
    return _Clip(scene, textures.make_noise(generator(seed, split, clip, 4)), shadows)


def camera(scene: Scene, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics [3, 3] in pixels of `size` and camera-to-world pose [4, 4]; float64."""
    rig, street = scene.rig, scene.street
    height, width = size
    focal = rig.focal * width
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    y = rig.speed * index
    swing = np.sin(0.35 * index + rig.phase)
    position = (
        street.centre(y) + rig.lateral + 0.15 * swing,
        y,
        rig.height + 0.01 * np.sin(1.9 * index),
    )
    bump = np.deg2rad(0.15) * np.sin(1.3 * index + 2 * rig.phase)
    pose = camera_pose(position, street.heading(y) + rig.sway * swing, rig.pitch + bump, 0.6 * bump)
    return intrinsics, pose


def _at(shape, index):
    """Primitives at a moment, the ground first."""
    r = _GROUND_EXTENT
    look = np.zeros((), SURFACE)
    look['material'] = shapes.GROUND
    ground = np.array(
        [((-r, -r, 0), (2 * r, 0, 0), (0, 2 * r, 0), (0, 0), False, True, look)], QUAD
    )
    quads, ellipsoids = np.concatenate([ground, shape.quads]), shape.ellipsoids.copy()
    quads['origin'] += quads['surface']['velocity'] * index
    ellipsoids['centre'] += ellipsoids['surface']['velocity'] * index
    return quads, ellipsoids


def _coordinate_rows(quads, ellipsoids, pose, sun):
    """Four numbers per sample that are affine in the hit point: s, t (metres), sun (cosine), up (cosine).

    Returns rows [N, 4, 3] and constants [N, 4] with value = z * rows @ r + constant. A quad's cosines are constant.
    An ellipsoid is lit as if its normal were that of the unit sphere that it is the image of.
    """
    rotation, position = pose[:3, :3], pose[:3, 3]
    rows = np.zeros((len(quads) + len(ellipsoids) + 1, 4, 3))
    constants = np.zeros((len(rows), 4))
    n = len(quads)
    rows[:n, 0] = quad_rows(quads, pose)[:, 0] * np.linalg.norm(quads['edge_s'], axis=1)[:, None]
    rows[:n, 1] = quad_rows(quads, pose)[:, 1] * np.linalg.norm(quads['edge_t'], axis=1)[:, None]
    normals = np.cross(quads['edge_s'], quads['edge_t'])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    distance = np.einsum('ni,ni->n', normals, position - quads['origin'])
    normals *= np.where(distance < 0, -1, 1)[:, None]
    constants[:n, 2], constants[:n, 3] = normals @ sun, normals[:, 2]
    # The ground's own s and t are world coordinates.
    rows[0, :2], constants[0, :2] = rotation[:2], position[:2]

    sphere = to_unit_sphere(ellipsoids)
    local_sun = np.einsum('nji,j->ni', heading_matrix(ellipsoids['heading']), sun)
    offset = position - ellipsoids['centre']
    slant = np.array([[1.0, 0.7, 0.2], [0.3, -0.6, 1.0]])
    functions = np.concatenate(
        [np.broadcast_to(slant, (len(ellipsoids), 2, 3)), np.einsum('ni,nij->nj', local_sun, sphere)[:, None],
         sphere[:, 2:]], axis=1
    )  # fmt: skip
    rows[n:-1] = functions @ rotation
    constants[n:-1] = np.einsum('nki,ni->nk', functions, offset)
    across = np.concatenate([np.abs(distance), np.full(len(ellipsoids) + 1, 1e3)])
    return (
        np.nan_to_num(rows).astype(np.float32),
        constants.astype(np.float32),
        across.astype(np.float32),
    )


def _shade(scene, noise, shadows, quads, ellipsoids, surfaces, hits: Hits, intrinsics, pose):
    """Linear RGB [H, W, 3] and labels [H, W] of all samples, and their world x and y (of use on the ground)."""
    height, width = hits.surface.shape
    light = scene.light
    which = hits.surface.astype(np.intp)  # -1, the sky, is the last record
    which[which < 0] = len(surfaces) - 1

    def at(values):
        return np.ascontiguousarray(values).take(which, axis=0, mode='clip')

    x = ((np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0]).astype(np.float32)[None]
    y = ((np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1]).astype(np.float32)[:, None]
    nothing = hits.inverse_depth == 0
    z = 1 / np.where(nothing, np.float32(1e-3), hits.inverse_depth)
    rows, constants, across = _coordinate_rows(quads, ellipsoids, pose, light.direction)
    s, t = (
        z * (at(rows[:, k, 0]) * x + at(rows[:, k, 1]) * y + at(rows[:, k, 2]))
        + at(constants[:, k])
        for k in range(2)
    )
    sun, up = at(constants[:, 2]), at(constants[:, 3])
    place = np.flatnonzero((which >= len(quads)) & ~nothing)
    of, (j, i) = which.reshape(-1)[place], np.divmod(place, width)
    for k, cosine in ((2, sun), (3, up)):
        slope = (rows[of, k, 0] * x[0, i] + rows[of, k, 1] * y[j, 0] + rows[of, k, 2]) * z.reshape(
            -1
        )[place]
        cosine.reshape(-1)[place] += slope
    footprint = z * np.float32(1 / intrinsics[0, 0])
    coarse = footprint * np.sqrt(np.clip(z / at(np.maximum(across, 1e-3)), 1, 16))
    shifted_s, shifted_t = s + at(surfaces['shift'][:, 0]), t + at(surfaces['shift'][:, 1])
    fine = textures.lookup(noise, shifted_s, shifted_t, coarse)
    stain = textures.lookup(
        noise, shifted_s * np.float32(0.11), shifted_t * np.float32(0.11), coarse * np.float32(0.11)
    )

    colour = (
        at(surfaces['colour']) * (1 + at(surfaces['grain']) * (0.7 * fine + 0.5 * stain))[..., None]
    )
    label = at(surfaces['label'])
    material = at(surfaces['material'])
    flat = {'s': s, 't': t, 'footprint': footprint, 'noise': fine, 'stain': stain}
    for name, paint in PAINT.items():
        place = np.flatnonzero(material == name)
        if len(place):
            some = {key: value.reshape(-1)[place] for key, value in flat.items()}
            of = which.reshape(-1)[place]
            patch = _Patch(
                **some, colour=colour.reshape(-1, 3)[place], accent=surfaces['accent'][of], cell=surfaces['cell'][of],
                sky=light.sky_low.astype(np.float32),
            )  # fmt: skip
            colour.reshape(-1, 3)[place] = paint(patch)

    place = np.flatnonzero(material == shapes.GROUND)
    on_ground = (value.reshape(-1)[place] for value in (s, t, footprint, fine, stain))
    colour.reshape(-1, 3)[place], label.reshape(-1)[place] = ground(scene, *on_ground)

    dark = _map_lookup(shadows, s, t) * (which == 0)[..., None] * np.float32(1 / 255)
    world_z = np.float32(pose[2, 3]) + z * (
        np.float32(pose[2, 0]) * x + np.float32(pose[2, 1]) * y + np.float32(pose[2, 2])
    )
    nook = np.where(which == 0, 1 - 0.65 * dark[..., 1], np.clip(0.72 + 0.35 * world_z, 0, 1))
    direct = np.maximum(sun, 0) * (1 - dark[..., 0]) * np.sqrt(nook)
    ambient = (0.8 + 0.2 * up) * nook
    colour *= direct[..., None] * light.sun.astype(np.float32) + ambient[
        ..., None
    ] * light.ambient.astype(np.float32)
    share = (1 - np.exp(-np.float32(light.fog) * z))[..., None]
    colour += (light.haze.astype(np.float32) - colour) * share
    _paint_sky(colour, nothing, light, noise, x, y, pose)
    return colour, label, (s, t)


def _map_lookup(maps, x, y):
    """[..., 2] float32 sun and contact shadow at ground points; 0 outside of the map."""
    u = (x - np.float32(_MAP_ORIGIN[0])) * np.float32(1 / _MAP_CELL)
    v = (y - np.float32(_MAP_ORIGIN[1])) * np.float32(1 / _MAP_CELL)
    inside = cv2.remap(maps, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return inside.astype(np.float32)


def _paint_sky(colour, nothing, light, noise, x, y, pose):
    """Gradient and clouds, functions of the direction, written where `nothing` was hit."""
    below = np.flatnonzero(nothing.any(axis=1))
    if not len(below):
        return
    rows = slice(0, below[-1] + 1)
    rotation = pose[:3, :3].astype(np.float32)
    east, north, up = (
        rotation[k, 0] * x + rotation[k, 1] * y[rows] + rotation[k, 2] for k in range(3)
    )
    up = np.maximum(up, 0) + np.float32(0.12)
    clouds = textures.lookup(
        noise, 0.5 * east / up, 0.5 * north / up, np.full(up.shape, 0.03, np.float32)
    )
    share = np.sqrt(np.clip((up - 0.12) * 1.8, 0, 1))[..., None]
    low, high = light.sky_low.astype(np.float32), light.sky_high.astype(np.float32)
    sky = low + (high - low) * share
    cover = np.clip(0.5 * clouds + np.float32(light.clouds - 0.15), 0, 1) * np.float32(
        min(1, 3 * light.clouds)
    )
    sky += (np.float32(0.95) * np.maximum(low, np.float32(0.7)) - sky) * cover[..., None]
    np.copyto(colour[rows], sky, where=nothing[rows, :, None])


def _cover_hood(linear, scene):
    """Paint the ego vehicle over the bottom of the samples `linear`, in place; returns where, [H, W] bool."""
    height, width = linear.shape[:2]
    edge = height * (1 - scene.rig.hood * (1 - 0.45 * np.linspace(-1, 1, width) ** 2))
    hood = np.arange(height)[:, None] > edge if scene.rig.hood else np.zeros((height, width), bool)
    row, column = np.nonzero(hood)
    shine = np.maximum(0.02, 0.25 - 2.2 * (row - edge[column]) / height).astype(np.float32)
    linear[row, column] = scene.light.sky_low.astype(np.float32) * shine[:, None]
    return hood


def _develop(linear, light, rng):
    """What a camera makes of linear RGB samples: optics, exposure, gamma, sensor noise; halves the size."""
    height, width = linear.shape[0] // 2, linear.shape[1] // 2
    image = cv2.pyrDown(linear, dstsize=(width, height)) * light.exposure.astype(np.float32)
    image = np.clip(image, 0, 1.2) ** np.float32(light.gamma)
    image += np.float32(light.noise) * rng.standard_normal(image.shape, np.float32)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
