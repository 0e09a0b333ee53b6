"""Colours and labels of the samples of a frame: materials, noise, light, shadows, fog and sky.

Arrays are float32 [H, W] over samples unless they say otherwise. Colours are linear RGB.
"""

from typing import NamedTuple

import cv2
import numpy as np

from segjax.data.worlds import shapes, textures
from segjax.data.worlds.light import Light
from segjax.data.worlds.render import Hits, heading_matrix, of_samples, quad_rows, to_unit_sphere
from segjax.data.worlds.streets.paint import PAINT, ground
from segjax.data.worlds.streets.scene import Scene

MAP_ORIGIN = np.array([-40.0, -15.0])
"""World (x, y) of the first cell of shadow maps."""

MAP_CELL = 0.1
"""Metres per cell of shadow maps."""

MAP_SIZE = (2000, 800)
"""(height, width) of shadow maps in cells."""


class View(NamedTuple):
    """The primitives and the camera of a frame.

    quads       [N] of dtype QUAD, the ground first
    ellipsoids  [M] of dtype ELLIPSOID
    surfaces    [N + M + 1] of dtype SURFACE: of the quads, of the ellipsoids, and the sky
    intrinsics  [3, 3] in units of samples
    pose        [4, 4] camera-to-world
    """

    quads: np.ndarray
    ellipsoids: np.ndarray
    surfaces: np.ndarray
    intrinsics: np.ndarray
    pose: np.ndarray


class Shading(NamedTuple):
    """The shaded samples of a frame.

    colour  [H, W, 3] linear RGB
    label   [H, W] uint8 train ids
    x, y    world coordinates of samples on the ground, meaningless elsewhere
    """

    colour: np.ndarray
    label: np.ndarray
    x: np.ndarray
    y: np.ndarray


class _Samples(NamedTuple):
    """Where the rays of the samples hit the surfaces.

    record     [H, W] intp, record in `View.surfaces`
    is_sky     [H, W] bool
    x          [1, W] direction of the ray: a hit is z * (x, y, 1) in camera coordinates
    y          [H, 1]
    z          depth, large for the sky
    s, t       metres along the surface
    sun        cosine of the angle between the normal and the sun
    up         z of the normal
    footprint  metres per sample
    blur       footprint for textures, larger on surfaces that the ray grazes
    """

    record: np.ndarray
    is_sky: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    s: np.ndarray
    t: np.ndarray
    sun: np.ndarray
    up: np.ndarray
    footprint: np.ndarray
    blur: np.ndarray


class _Patch(NamedTuple):
    """Samples of a single material, [n] each: the argument of the functions of paint.PAINT."""

    s: np.ndarray  # metres along the surface
    t: np.ndarray
    footprint: np.ndarray  # metres per sample
    noise: np.ndarray  # fine, standard deviation 1
    stain: np.ndarray  # coarse
    colour: np.ndarray  # [n, 3]
    accent: np.ndarray  # [n, 3]
    cell: np.ndarray  # [n, 2]
    sky: np.ndarray  # [3], mirrored by panes


class _CoordinateRows(NamedTuple):
    """Four numbers of each surface that are affine in the hit point: s, t, sun and up.

    A number is z * rows @ (x, y, 1) + constant. The cosines sun and up of a quad are constant. An
    ellipsoid is lit as if its normal were the normal of the unit sphere that it is the image of.

    rows       [N, 4, 3]
    constants  [N, 4]
    across     [N] distance of the camera from the plane of a quad, large for ellipsoids
    """

    rows: np.ndarray
    constants: np.ndarray
    across: np.ndarray


def shade(scene: Scene, noise: textures.Noise, shadows, view: View, hits: Hits) -> Shading:
    """Returns the colours and labels of all samples.

    Args:
      scene: of the clip.
      noise: of the clip.
      shadows: [*MAP_SIZE, 2] uint8 sun and contact shadows on the ground.
      view: primitives and camera of the frame.
      hits: the surface and depth of each sample.
    """
    light = scene.light
    samples = _locate(view, hits, light)
    surfaces = view.surfaces

    # Noise textures, at an offset for each surface.
    shifted_s = samples.s + of_samples(surfaces['shift'][:, 0], samples.record)
    shifted_t = samples.t + of_samples(surfaces['shift'][:, 1], samples.record)
    coarser = np.float32(0.11)
    fine = textures.lookup(noise, shifted_s, shifted_t, samples.blur)
    stain = textures.lookup(noise, shifted_s * coarser, shifted_t * coarser, samples.blur * coarser)

    # Colours of the surfaces, of their materials, and of the ground.
    grain = of_samples(surfaces['grain'], samples.record)
    contrast = 1 + grain * (0.7 * fine + 0.5 * stain)
    colour = of_samples(surfaces['colour'], samples.record) * contrast[..., None]
    _paint_materials(colour, surfaces, samples, fine, stain, light)
    label = of_samples(surfaces['label'], samples.record)
    on_ground = np.flatnonzero(of_samples(surfaces['material'], samples.record) == shapes.GROUND)
    coordinates = (samples.s, samples.t, samples.footprint, fine, stain)
    ground_colour, ground_label = ground(
        scene, *(value.reshape(-1)[on_ground] for value in coordinates)
    )
    colour.reshape(-1, 3)[on_ground] = ground_colour
    label.reshape(-1)[on_ground] = ground_label

    _illuminate(colour, shadows, view, samples, light)
    _paint_sky(colour, samples, light, noise, view.pose)
    return Shading(colour, label, samples.s, samples.t)


def _locate(view: View, hits: Hits, light: Light) -> _Samples:
    """Returns the hit points of all samples in surface coordinates."""
    # The sky is -1 in hits, and the last record of the surfaces.
    height, width = hits.surface.shape
    record = hits.surface.astype(np.intp)
    record[record < 0] = len(view.surfaces) - 1
    is_sky = hits.inverse_depth == 0

    # Rays and depth.
    focal_x = view.intrinsics[0, 0]
    focal_y = view.intrinsics[1, 1]
    x = ((np.arange(width) - view.intrinsics[0, 2]) / focal_x).astype(np.float32)[None]
    y = ((np.arange(height) - view.intrinsics[1, 2]) / focal_y).astype(np.float32)[:, None]
    z = 1 / np.where(is_sky, np.float32(1e-3), hits.inverse_depth)

    # Coordinates on the surfaces.
    affine = _coordinate_rows(view, light.direction)
    s = _along_rays(affine, 0, record, x, y, z)
    t = _along_rays(affine, 1, record, x, y, z)
    sun = of_samples(affine.constants[:, 2], record)
    up = of_samples(affine.constants[:, 3], record)

    # Only the normals of ellipsoids vary along the surface.
    curved = np.flatnonzero((record >= len(view.quads)) & ~is_sky)
    row, column = np.divmod(curved, width)
    rows = affine.rows[record.reshape(-1)[curved]]
    for k, cosine in ((2, sun), (3, up)):
        slope = rows[:, k, 0] * x[0, column] + rows[:, k, 1] * y[row, 0] + rows[:, k, 2]
        cosine.reshape(-1)[curved] += slope * z.reshape(-1)[curved]

    # A sample covers more of a surface that its ray grazes.
    footprint = z * np.float32(1 / focal_x)
    grazing = z / of_samples(np.maximum(affine.across, 1e-3), record)
    blur = footprint * np.sqrt(np.clip(grazing, 1, 16))
    return _Samples(record, is_sky, x, y, z, s, t, sun, up, footprint, blur)


def _along_rays(affine: _CoordinateRows, k: int, record, x, y, z) -> np.ndarray:
    """Returns coordinate `k` of the samples: z * (row @ ray) + constant."""
    row_x = of_samples(affine.rows[:, k, 0], record)
    row_y = of_samples(affine.rows[:, k, 1], record)
    row_1 = of_samples(affine.rows[:, k, 2], record)
    return z * (row_x * x + row_y * y + row_1) + of_samples(affine.constants[:, k], record)


def _coordinate_rows(view: View, sun: np.ndarray) -> _CoordinateRows:
    """Returns the affine functions of all surfaces.

    Args:
      view: primitives and camera.
      sun: [3] direction towards the sun.
    """
    quads = view.quads
    ellipsoids = view.ellipsoids
    rotation = view.pose[:3, :3]
    position = view.pose[:3, 3]
    rows = np.zeros((len(quads) + len(ellipsoids) + 1, 4, 3))
    constants = np.zeros((len(rows), 4))
    n = len(quads)

    # Quads: s and t in metres, and the normal on the side of the camera.
    plane = quad_rows(quads, view.pose)
    rows[:n, 0] = plane[:, 0] * np.linalg.norm(quads['edge_s'], axis=1)[:, None]
    rows[:n, 1] = plane[:, 1] * np.linalg.norm(quads['edge_t'], axis=1)[:, None]
    normals = np.cross(quads['edge_s'], quads['edge_t'])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    distance = np.einsum('ni,ni->n', normals, position - quads['origin'])
    normals *= np.where(distance < 0, -1, 1)[:, None]
    constants[:n, 2] = normals @ sun
    constants[:n, 3] = normals[:, 2]

    # The ground's own s and t are world coordinates.
    rows[0, :2] = rotation[:2]
    constants[0, :2] = position[:2]

    # Ellipsoids: s and t along slanted axes, and the normal of the unit sphere.
    sphere = to_unit_sphere(ellipsoids)
    local_sun = np.einsum('nji,j->ni', heading_matrix(ellipsoids['heading']), sun)
    offset = position - ellipsoids['centre']
    slant = np.array([[1.0, 0.7, 0.2], [0.3, -0.6, 1.0]])
    along = np.broadcast_to(slant, (len(ellipsoids), 2, 3))
    towards_sun = np.einsum('ni,nij->nj', local_sun, sphere)[:, None]
    functions = np.concatenate([along, towards_sun, sphere[:, 2:]], axis=1)
    rows[n:-1] = functions @ rotation
    constants[n:-1] = np.einsum('nki,ni->nk', functions, offset)

    across = np.concatenate([np.abs(distance), np.full(len(ellipsoids) + 1, 1e3)])
    return _CoordinateRows(
        np.nan_to_num(rows).astype(np.float32),
        constants.astype(np.float32),
        across.astype(np.float32),
    )


def _paint_materials(colour, surfaces, samples: _Samples, fine, stain, light: Light) -> None:
    """Paints the samples of each material in `colour`, in place.

    Args:
      colour: [H, W, 3] colours of the surfaces.
      surfaces: `View.surfaces`.
      samples: hit points.
      fine: noise.
      stain: noise of a larger scale.
      light: of the scene.
    """
    # Samples of the same material are painted together. PLAIN and GROUND are not in PAINT.
    material = of_samples(surfaces['material'], samples.record)
    sky = light.sky_low.astype(np.float32)
    for name, paint in PAINT.items():
        chosen = np.flatnonzero(material == name)
        if len(chosen) == 0:
            continue
        record = samples.record.reshape(-1)[chosen]
        patch = _Patch(
            s=samples.s.reshape(-1)[chosen],
            t=samples.t.reshape(-1)[chosen],
            footprint=samples.footprint.reshape(-1)[chosen],
            noise=fine.reshape(-1)[chosen],
            stain=stain.reshape(-1)[chosen],
            colour=colour.reshape(-1, 3)[chosen],
            accent=surfaces['accent'][record],
            cell=surfaces['cell'][record],
            sky=sky,
        )
        colour.reshape(-1, 3)[chosen] = paint(patch)


def _illuminate(colour, shadows, view: View, samples: _Samples, light: Light) -> None:
    """Turns reflectance into light in `colour`, in place: sun, shadows, ambient light and fog."""
    # Shadows on the ground, and darker nooks near the ground.
    is_ground = samples.record == 0
    dark = map_lookup(shadows, samples.s, samples.t) * is_ground[..., None] * np.float32(1 / 255)
    row = view.pose[2].astype(np.float32)
    world_z = row[3] + samples.z * (row[0] * samples.x + row[1] * samples.y + row[2])
    nook = np.where(is_ground, 1 - 0.65 * dark[..., 1], np.clip(0.72 + 0.35 * world_z, 0, 1))

    # Light of the sun and of the sky.
    direct = np.maximum(samples.sun, 0) * (1 - dark[..., 0]) * np.sqrt(nook)
    ambient = (0.8 + 0.2 * samples.up) * nook
    sun_light = direct[..., None] * light.sun.astype(np.float32)
    sky_light = ambient[..., None] * light.ambient.astype(np.float32)
    colour *= sun_light + sky_light

    # Fog.
    share = (1 - np.exp(-np.float32(light.fog) * samples.z))[..., None]
    colour += (light.haze.astype(np.float32) - colour) * share


def map_lookup(maps, x, y) -> np.ndarray:
    """Returns sun and contact shadow at ground points, [..., 2] float32, 0 outside of the maps."""
    u = (x - np.float32(MAP_ORIGIN[0])) * np.float32(1 / MAP_CELL)
    v = (y - np.float32(MAP_ORIGIN[1])) * np.float32(1 / MAP_CELL)
    inside = cv2.remap(maps, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return inside.astype(np.float32)


def _paint_sky(colour, samples: _Samples, light: Light, noise: textures.Noise, pose) -> None:
    """Paints a gradient and clouds into the sky samples of `colour`, in place.

    Both are functions of the direction of a ray.
    """
    sky_rows = np.flatnonzero(samples.is_sky.any(axis=1))
    if len(sky_rows) == 0:
        return

    # Directions of the rays in the rows down to the lowest sky sample.
    rows = slice(0, sky_rows[-1] + 1)
    rotation = pose[:3, :3].astype(np.float32)
    x = samples.x
    y = samples.y[rows]
    east, north, up = (rotation[k, 0] * x + rotation[k, 1] * y + rotation[k, 2] for k in range(3))
    up = np.maximum(up, 0) + np.float32(0.12)

    # Gradient from the horizon to the zenith.
    share = np.sqrt(np.clip((up - 0.12) * 1.8, 0, 1))[..., None]
    low = light.sky_low.astype(np.float32)
    high = light.sky_high.astype(np.float32)
    sky = low + (high - low) * share

    # Clouds, on a plane above the camera.
    footprint = np.full(up.shape, 0.03, np.float32)
    clouds = textures.lookup(noise, 0.5 * east / up, 0.5 * north / up, footprint)
    cover = np.clip(0.5 * clouds + np.float32(light.clouds - 0.15), 0, 1)
    cover = cover * np.float32(min(1, 3 * light.clouds))
    sky += (np.float32(0.95) * np.maximum(low, np.float32(0.7)) - sky) * cover[..., None]
    np.copyto(colour[rows], sky, where=samples.is_sky[rows, :, None])


def cover_hood(colour, scene: Scene) -> np.ndarray:
    """Paints the ego vehicle over the bottom of `colour`, in place. Returns its mask [H, W]."""
    height, width = colour.shape[:2]
    edge = height * (1 - scene.rig.hood * (1 - 0.45 * np.linspace(-1, 1, width) ** 2))
    hood = np.arange(height)[:, None] > edge if scene.rig.hood else np.zeros((height, width), bool)
    row, column = np.nonzero(hood)
    shine = np.maximum(0.02, 0.25 - 2.2 * (row - edge[column]) / height).astype(np.float32)
    colour[row, column] = scene.light.sky_low.astype(np.float32) * shine[:, None]
    return hood


def develop(colour, light: Light, rng) -> np.ndarray:
    """Returns the photograph [H / 2, W / 2, 3] uint8 of linear RGB samples [H, W, 3].

    Applies optics, exposure, gamma and sensor noise.
    """
    height = colour.shape[0] // 2
    width = colour.shape[1] // 2
    image = cv2.pyrDown(colour, dstsize=(width, height)) * light.exposure.astype(np.float32)
    image = np.clip(image, 0, 1.2) ** np.float32(light.gamma)
    image += np.float32(light.noise) * rng.standard_normal(image.shape, np.float32)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
