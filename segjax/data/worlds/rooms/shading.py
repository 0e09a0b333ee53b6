"""Colours of the samples of a frame: materials, lamps, and darkness where things touch.

Arrays are float32 [H, W] over samples unless they say otherwise. Colours are linear RGB.
"""

from typing import NamedTuple

import cv2
import numpy as np

from segjax.data.worlds import textures
from segjax.data.worlds.render import Hits, heading_matrix, of_samples, to_unit_sphere
from segjax.data.worlds.rooms.paint import PAINT, SHINING, Patch
from segjax.data.worlds.shapes import Shape

MAP_CELL = 0.04
"""Metres per cell of the map of shadows on the floor."""

_TEXELS = np.float32(6.0)
"""Noise is this much finer than out of doors."""


class Light(NamedTuple):
    """The light of a room, and the exposure of its photographs.

    ambient    [3] linear RGB light from all directions
    places     [K, 3] of the lamps
    colours    [K, 3] linear RGB light of the lamps at a distance of 1 m
    exposure   [3] RGB gains
    gamma      exponent of the camera
    noise      standard deviation of the sensor's noise, as a share of full scale
    """

    ambient: np.ndarray
    places: np.ndarray
    colours: np.ndarray
    exposure: np.ndarray
    gamma: float
    noise: float


class Still(NamedTuple):
    """Everything that the frames of a clip share.

    shape     all primitives
    surfaces  [N] of dtype SURFACE, of the quads and then of the ellipsoids
    axes      [N, 3, 4] rows a with (s, t, .) = a @ (x, y, z, 1), and the normal of a quad
    spheres   [M, 3, 3] matrices to the unit sphere of the ellipsoids
    light     of the room
    noise     of the textures
    shadows   [rows, columns] uint8, shadows on the floor
    """

    shape: Shape
    surfaces: np.ndarray
    axes: np.ndarray
    spheres: np.ndarray
    light: Light
    noise: textures.Noise
    shadows: np.ndarray


class Samples(NamedTuple):
    """Where the rays of the samples hit the surfaces.

    record     [H, W] intp, record in `Still.surfaces`
    points     [3, H, W] in the world
    normals    [3, H, W] unit vectors towards the camera
    facing     cosine of the angle between normal and ray
    z          depth
    footprint  metres per sample, larger on surfaces that the ray grazes
    """

    record: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    facing: np.ndarray
    z: np.ndarray
    footprint: np.ndarray


def draw_light(rng, size, windows) -> Light:
    """Samples the lamps of a room.

    Args:
      rng: random generator.
      size: (width, depth, height) of the room.
      windows: [n, 3] middles of the windows.
    """
    # Lamps near the ceiling.
    width, depth, height = size
    places = []
    colours = []
    for _ in range(rng.integers(1, 3)):
        spot = rng.uniform((0.25, 0.25), (0.75, 0.75)) * (width, depth)
        places.append(np.array([*spot, height - 0.3]))
        warm = np.array([1.0, 0.88, 0.72]) ** rng.uniform(0, 1.6)
        colours.append(warm * rng.uniform(0.6, 2.0))

    # Light from the windows by day.
    day = rng.uniform(0, 1.6) * (rng.random() < 0.75)
    for window in windows:
        places.append(np.asarray(window))
        colours.append(np.array([0.85, 0.95, 1.1]) * day)
    ambient = np.array([1.0, 0.97, 0.93]) * rng.uniform(0.25, 0.5)

    # The exposure fits the light in the middle of the room.
    middle = np.array([width / 2, depth / 2, 0.8])
    level = ambient.mean()
    for spot, colour in zip(places, colours, strict=True):
        level += 0.5 * colour.mean() / (0.5 + ((spot - middle) ** 2).sum())
    tint = 1 + rng.uniform(-0.08, 0.08, 3)
    return Light(
        ambient,
        np.stack(places),
        np.stack(colours),
        rng.uniform(0.95, 1.5) / level * tint,
        rng.uniform(0.42, 0.52),
        rng.uniform(0.008, 0.022),
    )


def surface_axes(shape: Shape) -> np.ndarray:
    """Returns rows [N, 3, 4] that map world points to surface coordinates.

    The first two rows give s and t in metres. The third is the unit normal of a quad.
    """
    quads = shape.quads
    ellipsoids = shape.ellipsoids
    rows = np.zeros((len(quads) + len(ellipsoids), 3, 4))
    n = len(quads)
    for k, name in enumerate(('edge_s', 'edge_t')):
        edge = quads[name]
        rows[:n, k, :3] = edge / np.linalg.norm(edge, axis=1, keepdims=True)
        rows[:n, k, 3] = -np.einsum('ni,ni->n', rows[:n, k, :3], quads['origin'])
    normal = np.cross(quads['edge_s'], quads['edge_t'])
    rows[:n, 2, :3] = normal / np.linalg.norm(normal, axis=1, keepdims=True)

    # Ellipsoids: slanted axes that turn with the ellipsoid.
    turn = heading_matrix(ellipsoids['heading'])
    slant = np.array([[1.0, 0.4, 0.2], [0.1, -0.5, 0.9]])
    rows[n:, :2, :3] = np.einsum('ki,nji->nkj', slant, turn)
    rows[n:, :2, 3] = -np.einsum('nki,ni->nk', rows[n:, :2, :3], ellipsoids['centre'])
    return rows.astype(np.float32)


def make_still(shape: Shape, light: Light, noise: textures.Noise, shadows) -> Still:
    """Builds everything that the frames of a clip share."""
    surfaces = np.concatenate([shape.quads['surface'], shape.ellipsoids['surface']])
    spheres = to_unit_sphere(shape.ellipsoids)
    return Still(shape, surfaces, surface_axes(shape), spheres, light, noise, shadows)


def _dot(a, b) -> np.ndarray:
    """Returns the scalar product of vectors whose first axis has their three components."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def locate(still: Still, hits: Hits, intrinsics, pose) -> Samples:
    """Returns the hit points of all samples. Every ray must hit a surface."""
    # Points in the world. Vectors are three planes, which NumPy adds faster than rows of three.
    height, width = hits.surface.shape
    record = hits.surface.astype(np.intp)
    x = ((np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0]).astype(np.float32)[None]
    y = ((np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1]).astype(np.float32)[:, None]
    z = 1 / hits.inverse_depth
    axes = pose[:3, :3, None, None].astype(np.float32)
    rays = axes[:, 0] * x + axes[:, 1] * y + axes[:, 2]
    points = rays * z + pose[:3, 3, None, None].astype(np.float32)

    # Normals of quads are constant. An ellipsoid |A (x - c)| = 1 has the normal A^T A (x - c).
    normals = np.stack([of_samples(still.axes[:, 2, k], record) for k in range(3)])
    num_quads = len(still.shape.quads)
    curved = np.flatnonzero(record >= num_quads)
    number = record.reshape(-1)[curved] - num_quads
    offset = points.reshape(3, -1)[:, curved].T - still.shape.ellipsoids['centre'][number]
    forms = np.einsum('nki,nkj->nij', still.spheres, still.spheres)
    outward = np.einsum('nij,nj->in', forms[number], offset)
    normals.reshape(3, -1)[:, curved] = outward / np.sqrt(_dot(outward, outward))

    # Normals towards the camera.
    facing = -_dot(normals, rays) / np.sqrt(1 + x**2 + y**2)
    normals *= np.sign(facing)
    facing = np.abs(facing)
    footprint = z * np.float32(1 / intrinsics[0, 0]) / np.sqrt(np.clip(facing, 0.1, 1))
    return Samples(record, points, normals, facing, z, footprint)


def shade(still: Still, samples: Samples) -> np.ndarray:
    """Returns the colours [H, W, 3] of all samples."""
    # Surface coordinates, and noise at an offset for each surface.
    surfaces = still.surfaces
    s = _coordinate(still.axes[:, 0], samples)
    t = _coordinate(still.axes[:, 1], samples)
    fine_s = s * _TEXELS + of_samples(surfaces['shift'][:, 0], samples.record)
    fine_t = t * _TEXELS + of_samples(surfaces['shift'][:, 1], samples.record)
    blur = samples.footprint * _TEXELS
    coarser = np.float32(0.13)
    fine = textures.lookup(still.noise, fine_s, fine_t, blur)
    stain = textures.lookup(still.noise, fine_s * coarser, fine_t * coarser, blur * coarser)

    # Colours of surfaces and materials.
    grain = of_samples(surfaces['grain'], samples.record)
    contrast = np.maximum(0.2, 1 + grain * (0.7 * fine + 0.6 * stain))
    colour = of_samples(surfaces['colour'], samples.record) * contrast[..., None]
    _paint_materials(colour, still, samples, s, t, fine, stain)

    # Surfaces that shine are as bright as if all light of the frame fell on them evenly.
    light = _light(still, samples)
    even = np.float32(0.9) * light.mean(axis=(1, 2))
    shining = of_samples(np.isin(surfaces['material'], SHINING), samples.record)
    for k in range(3):
        colour[..., k] *= np.where(shining, even[k], light[k])
    return colour


def _coordinate(rows, samples: Samples) -> np.ndarray:
    """Returns a surface coordinate of all samples from rows [N, 4] of `Still.axes`."""
    slopes = [of_samples(rows[:, k], samples.record) for k in range(3)]
    return _dot(slopes, samples.points) + of_samples(rows[:, 3], samples.record)


def _paint_materials(colour, still: Still, samples: Samples, s, t, fine, stain) -> None:
    """Paints the samples of each material in `colour`, in place.

    Args:
      colour: [H, W, 3] colours of the surfaces.
      still: surfaces.
      samples: hit points.
      s, t: metres along the surfaces.
      fine: noise.
      stain: noise of a larger scale.
    """
    # Samples of the same material are painted together. PLAIN is not in PAINT.
    material = of_samples(still.surfaces['material'], samples.record)
    for name, paint in PAINT.items():
        chosen = np.flatnonzero(material == name)
        if len(chosen) == 0:
            continue
        record = samples.record.reshape(-1)[chosen]
        patch = Patch(
            s=s.reshape(-1)[chosen],
            t=t.reshape(-1)[chosen],
            footprint=samples.footprint.reshape(-1)[chosen],
            noise=fine.reshape(-1)[chosen],
            stain=stain.reshape(-1)[chosen],
            colour=colour.reshape(-1, 3)[chosen],
            accent=still.surfaces['accent'][record],
            cell=still.surfaces['cell'][record],
            shift=still.surfaces['shift'][record],
        )
        colour.reshape(-1, 3)[chosen] = paint(patch)


def _light(still: Still, samples: Samples) -> np.ndarray:
    """Returns the light [3, H, W] that falls on all samples."""
    # Light from all directions, less from below, and less where something is close in front.
    light = still.light
    nook = _nook(samples) * _floor_shadow(still, samples)
    up = (0.85 + 0.15 * samples.normals[2]) * nook
    total = up * light.ambient.astype(np.float32)[:, None, None]

    # Lamps, weaker with the distance.
    direct = np.sqrt(nook)
    for place, colour in zip(light.places, light.colours, strict=True):
        towards = place.astype(np.float32)[:, None, None] - samples.points
        squared = _dot(towards, towards)
        cosine = np.maximum(_dot(samples.normals, towards), 0)
        strength = cosine * direct / (np.sqrt(squared + 0.01) * (0.5 + squared))
        total += strength * colour.astype(np.float32)[:, None, None]
    return total


def _nook(samples: Samples) -> np.ndarray:
    """Returns a factor that is small where surfaces meet: where the surroundings are nearer."""
    height, _ = samples.z.shape
    share = np.ones_like(samples.z)
    for width in (max(1, height // 30), max(1, height // 12)):
        window = (2 * width + 1,) * 2
        mean = cv2.blur(samples.z, window)
        behind = samples.z - mean
        depth = samples.z * np.float32(2 * width / height)
        share -= 0.28 * np.clip(behind / depth, 0, 1) * (behind < 3 * depth)
    return share


def _floor_shadow(still: Still, samples: Samples) -> np.ndarray:
    """Returns a factor that is small on the floor under and near things."""
    u = (samples.points[0] + 0.5) * np.float32(1 / MAP_CELL)
    v = (samples.points[1] + 0.5) * np.float32(1 / MAP_CELL)
    dark = cv2.remap(still.shadows, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    low = samples.points[2] < 0.03
    return 1 - np.float32(0.6 / 255) * dark * low


def develop(colour, light: Light, rng) -> np.ndarray:
    """Returns the photograph [H / 2, W / 2, 3] uint8 of linear RGB samples [H, W, 3].

    Applies optics, exposure, gamma and sensor noise. The corners of a photograph are darker.
    """
    height = colour.shape[0] // 2
    width = colour.shape[1] // 2
    image = cv2.pyrDown(colour, dstsize=(width, height)) * light.exposure.astype(np.float32)
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    image *= (1 - 0.12 * (x * x + y * y))[..., None]

    # Bright parts are compressed before they are cut off.
    image = image / (0.85 + 0.3 * image)
    image = np.clip(image, 0, 1.1) ** np.float32(light.gamma)
    image += np.float32(light.noise) * rng.standard_normal(image.shape, np.float32)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
