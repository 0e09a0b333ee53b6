"""`streets`: procedural driving video with exact labels, instances, depth and camera motion.

`frame(seed, split, clip, index, size)` is a pure function. `clip` chooses the scene (layout,
textures, light, camera path), and `index` the moment. In every second clip nothing moves, so that
depth and poses warp a frame exactly onto the next frame. In the remaining clips cars, riders and
people move, and `moving` marks the pixels where the warp fails.

Conventions. Pixel (u, v) with integer u, v is a pixel's centre. x_cam = (u - cx) / fx * z and
y_cam = (v - cy) / fy * z. Camera: x right, y down, z forward. World: x right, y along the street,
z up, ground z = 0, metres. Labels, instances and depth belong to the first surface that the ray
through the pixel's centre hits. Colours are antialiased.
"""

import functools
from typing import NamedTuple

import numpy as np

from segjax.data.worlds import shapes, textures
from segjax.data.worlds.light import shadow_maps
from segjax.data.worlds.render import QUAD, SURFACE, camera_pose, visibility
from segjax.data.worlds.shapes import Shape
from segjax.data.worlds.streets import shading
from segjax.data.worlds.streets.scene import SKY, Scene, build_scene, generator
from segjax.errors import InputError
from segjax.spec import IGNORE

MAX_FRAMES = 60
"""Frames per clip. The camera drives 30 to 60 m."""

_GROUND_EXTENT = 2000.0


class _Clip(NamedTuple):
    """Everything that the frames of a clip share.

    scene    layout, light and camera path
    noise    of the textures
    shadows  [*shading.MAP_SIZE, 2] uint8 shadows of the things that do not move
    """

    scene: Scene
    noise: textures.Noise
    shadows: np.ndarray


def frame(seed: int, split: str, clip: int, index: int, size: tuple[int, int]) -> dict:
    """Renders a frame of a clip.

    Args:
      seed: of the world.
      split: name of the split.
      clip: number of the clip.
      index: number of the frame in its clip.
      size: (height, width).

    Returns:
      image       [H, W, 3] uint8 RGB
      label       [H, W] uint8, train ids 0 .. 18, or 255: ego vehicle and things without a class
      instance    [H, W] uint16, id of a person, rider or vehicle, the same in all frames of the
                  clip, or 0: none
      depth       [H, W] float32, metres along the optical axis, or 0: none (sky, ego vehicle)
      moving      [H, W] bool, surfaces (or shadows on the ground) that move in the world, and the
                  ego vehicle
      intrinsics  [3, 3] float32, pixels of `size`
      pose        [4, 4] float32, camera to world

    Raises:
      InputError: a negative seed or clip, an index that is no frame, or a size below 8 x 8.
    """
    _check(seed, clip, index, size)
    scene, noise, still_shadows = _clip(seed, split, clip)
    intrinsics, pose = camera(scene, index, size)

    # Two samples per pixel and axis. Samples with even indices are pixel centres, and only these
    # samples decide labels and depth.
    samples_per_pixel = np.array([[2, 1, 2], [1, 2, 2], [1, 1, 1]])
    view = _view(scene, index, samples_per_pixel * intrinsics, pose)
    num_samples = (2 * size[0], 2 * size[1])
    hits = visibility(view.quads, view.ellipsoids, view.intrinsics, pose, num_samples)

    # Shadows of moving things are added to the shadows of the clip.
    moved = (view.surfaces['velocity'] != 0).any(axis=1)
    moving_shadows = _moving_shadows(view, moved, scene)
    shadows = np.maximum(still_shadows, moving_shadows) if moved.any() else still_shadows
    shaded = shading.shade(scene, noise, shadows, view, hits)
    hood = shading.cover_hood(shaded.colour, scene)[::2, ::2]
    rng = generator(seed, split, clip, 3, index)
    image = shading.develop(shaded.colour, scene.light, rng)

    # Pixel centres.
    surface = hits.surface[::2, ::2]
    inverse = hits.inverse_depth[::2, ::2]
    moving = moved[surface] | hood
    if moved.any():
        moving |= _touched(moving_shadows, shaded) & (surface == 0)
    depth = np.divide(1, inverse, out=np.zeros(size, np.float32), where=(inverse > 0) & ~hood)
    return {
        'image': image,
        'label': np.where(hood, np.uint8(IGNORE), shaded.label[::2, ::2]),
        'instance': np.where(hood, np.uint16(0), view.surfaces['instance'][surface]),
        'depth': depth,
        'moving': moving,
        'intrinsics': intrinsics.astype(np.float32),
        'pose': pose.astype(np.float32),
    }


def _check(seed, clip, index, size) -> None:
    """Raises InputError for an address that has no frame."""
    limits = {'seed': (seed, None), 'clip': (clip, None), 'index': (index, MAX_FRAMES)}
    for name, (value, limit) in limits.items():
        if value < 0 or (limit is not None and value >= limit):
            expected = '>= 0' if limit is None else f'0 .. {limit - 1}'
            raise InputError(f'streets: {name}', got=repr(value), expected=expected)
    if min(size) < 8:
        raise InputError('streets: size', got=repr(size), expected='(height, width), both >= 8')


@functools.lru_cache(maxsize=4)
def _clip(seed, split, clip) -> _Clip:
    """Builds everything that the frames of a clip share.

    Results are remembered, because clips are read frame by frame.
    """
    scene = build_scene(seed, split, clip)
    quads, ellipsoids = scene.shape
    still = Shape(
        quads[(quads['surface']['velocity'] == 0).all(1)],
        ellipsoids[(ellipsoids['surface']['velocity'] == 0).all(1)],
    )
    shadows = _shadows(still, scene)
    for array in (quads, ellipsoids, shadows):
        array.setflags(write=False)
    return _Clip(scene, textures.make_noise(generator(seed, split, clip, 4)), shadows)


def camera(scene: Scene, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns intrinsics [3, 3] in pixels of `size`, and the camera-to-world pose [4, 4].

    Both are float64.
    """
    rig = scene.rig
    street = scene.street
    height, width = size
    focal = rig.focal * width
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])

    # The camera follows the street, sways, and nods on bumps.
    y = rig.speed * index
    swing = np.sin(0.35 * index + rig.phase)
    x = street.centre(y) + rig.lateral + 0.15 * swing
    z = rig.height + 0.01 * np.sin(1.9 * index)
    bump = np.deg2rad(0.15) * np.sin(1.3 * index + 2 * rig.phase)
    heading = street.heading(y) + rig.sway * swing
    pose = camera_pose((x, y, z), heading, rig.pitch + bump, 0.6 * bump)
    return intrinsics, pose


def _at(shape: Shape, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the quads and ellipsoids at a moment. The ground is the first quad."""
    r = _GROUND_EXTENT
    look = np.zeros((), SURFACE)
    look['material'] = shapes.GROUND
    ground = np.array(
        [((-r, -r, 0), (2 * r, 0, 0), (0, 2 * r, 0), (0, 0), False, True, look)], QUAD
    )
    quads = np.concatenate([ground, shape.quads])
    ellipsoids = shape.ellipsoids.copy()
    quads['origin'] += quads['surface']['velocity'] * index
    ellipsoids['centre'] += ellipsoids['surface']['velocity'] * index
    return quads, ellipsoids


def _view(scene: Scene, index: int, intrinsics, pose) -> shading.View:
    """Returns the primitives and the camera of a frame."""
    quads, ellipsoids = _at(scene.shape, index)
    sky = np.array([(SKY, *[0] * 8)], SURFACE)
    surfaces = np.concatenate([quads['surface'], ellipsoids['surface'], sky])
    return shading.View(quads, ellipsoids, surfaces, intrinsics, pose)


def _shadows(shape: Shape, scene: Scene) -> np.ndarray:
    """Returns the shadow maps of a shape, [*shading.MAP_SIZE, 2] uint8."""
    return shadow_maps(
        shape, scene.light.direction, shading.MAP_ORIGIN, shading.MAP_CELL, shading.MAP_SIZE
    )


def _moving_shadows(view: shading.View, moved: np.ndarray, scene: Scene) -> np.ndarray | None:
    """Returns the shadow maps of moving things, None if nothing moves.

    Args:
      view: primitives of the frame.
      moved: [N + M + 1] bool, which surfaces of the view move.
      scene: of the clip.
    """
    if not moved.any():
        return None
    n = len(view.quads)
    movers = Shape(view.quads[moved[:n]], view.ellipsoids[moved[n:-1]])
    return _shadows(movers, scene)


def _touched(shadows: np.ndarray, shaded: shading.Shading) -> np.ndarray:
    """Returns the pixel centres in shadows of these maps, [H, W] bool. Valid on the ground."""
    x = shaded.x[::2, ::2]
    y = shaded.y[::2, ::2]
    return shading.map_lookup(shadows, x, y).max(axis=-1) > 0
