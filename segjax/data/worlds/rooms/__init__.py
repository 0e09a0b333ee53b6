"""`rooms`: procedural hand-held RGB-D video of furnished rooms.

`frame(seed, split, clip, index, size)` is a pure function. `clip` chooses the room (layout,
furniture, light, camera path), and `index` the moment. Nothing moves in the room. Five kinds of
rooms take turns: bedroom, living room, office, kitchen and bathroom.

Conventions. Pixel (u, v) with integer u, v is a pixel's centre. x_cam = (u - cx) / fx * z and
y_cam = (v - cy) / fy * z. Camera: x right, y down, z forward. World: z up, the floor is z = 0,
metres. Labels, instances, depth and flow belong to the first surface that the ray through the
pixel's centre hits. Colours are antialiased.
"""

import functools
from typing import NamedTuple

import numpy as np

from segjax.data.worlds import textures
from segjax.data.worlds.light import shadow_maps
from segjax.data.worlds.render import NEAR, Hits, visibility
from segjax.data.worlds.rooms import looks, sensor, shading
from segjax.data.worlds.rooms.furnish import KINDS, furnished_room
from segjax.data.worlds.rooms.looks import draw_decor
from segjax.data.worlds.rooms.walk import (
    FRAMES_PER_CLIP,
    TARGET,
    Walk,
    camera_matrix,
    take_walk,
)
from segjax.data.worlds.shapes import join, tag
from segjax.data.worlds.streets.scene import generator
from segjax.errors import InputError
from segjax.spec import IGNORE


class _Clip(NamedTuple):
    """Everything that the frames of a clip share.

    still  surfaces, light and textures
    walk   path of the camera
    """

    still: shading.Still
    walk: Walk


class _Moment(NamedTuple):
    """The view of the camera at a moment.

    pose  [4, 4] float64, camera to world
    hits  of the samples, two per pixel and axis. Samples with even indices are pixel centres
    """

    pose: np.ndarray
    hits: Hits


def frame(seed: int, split: str, clip: int, index: int, size: tuple[int, int]) -> dict:
    """Renders a frame of a clip.

    Args:
      seed: of the world.
      split: name of the split.
      clip: number of the clip.
      index: number of the frame in its clip, below FRAMES_PER_CLIP.
      size: (height, width).

    Returns:
      image       [H, W, 3] uint8 RGB
      depth       [H, W] float32, metres along the optical axis as the sensor measures them, or 0:
                  not measured
      depth_true  [H, W] float32, exact
      label       [H, W] uint8, train ids 0 .. 39 of NYUDv2 in the frame TARGET, 255 elsewhere
      label_all   [H, W] uint8, exact train ids in every frame
      instance    [H, W] uint16, id of a thing, the same in all frames of the clip, or 0: walls,
                  floor and ceiling
      flow_true   [H, W, 2] float32, (u, v) in pixels to the next frame of the clip, NaN where the
                  next frame does not show the point, and in the last frame
      intrinsics  [3, 3] float32, pixels of `size`
      pose        [4, 4] float32, camera to world

    Raises:
      InputError: a negative seed or clip, an index that is no frame, or a size below 8 x 8.
    """
    _check(seed, clip, index, size)
    still, _ = _clip(seed, split, clip)
    pose, hits = _moment(seed, split, clip, index, size)
    intrinsics = camera_matrix(size)

    # The photograph.
    samples = shading.locate(still, hits, sample_matrix(size), pose)
    rng = generator(seed, split, clip, 3, index)
    image = shading.develop(shading.shade(still, samples), still.light, rng)

    # Pixel centres.
    record = hits.surface[::2, ::2]
    label = still.surfaces['label'][record]
    flow = np.full((*size, 2), np.nan, np.float32)
    if index + 1 < FRAMES_PER_CLIP:
        flow = _flow(hits, samples, _moment(seed, split, clip, index + 1, size), intrinsics)
    return {
        'image': image,
        'depth': _measure(still, samples, hits, intrinsics, rng),
        'depth_true': 1 / hits.inverse_depth[::2, ::2],
        'label': label if index == TARGET else np.full(size, IGNORE, np.uint8),
        'label_all': label,
        'instance': still.surfaces['instance'][record],
        'flow_true': flow,
        'intrinsics': intrinsics.astype(np.float32),
        'pose': pose.astype(np.float32),
    }


def _measure(still: shading.Still, samples: shading.Samples, hits: Hits, intrinsics, rng):
    """Returns the depth [H, W] that the sensor measures at the pixel centres."""
    record = hits.surface[::2, ::2]
    mirrors = np.isin(still.surfaces['material'], (looks.SCREEN, looks.OUTDOORS, looks.GLASS))
    reflectance = still.surfaces['colour'].mean(axis=-1)
    return sensor.measure(
        hits.inverse_depth[::2, ::2],
        intrinsics[0, 0],
        samples.facing[::2, ::2],
        mirrors[record],
        reflectance[record],
        rng,
    )


def _check(seed, clip, index, size) -> None:
    """Raises InputError for an address that has no frame."""
    limits = {'seed': (seed, None), 'clip': (clip, None), 'index': (index, FRAMES_PER_CLIP)}
    for name, (value, limit) in limits.items():
        if value < 0 or (limit is not None and value >= limit):
            expected = '>= 0' if limit is None else f'0 .. {limit - 1}'
            raise InputError(f'rooms: {name}', got=repr(value), expected=expected)
    if min(size) < 8:
        raise InputError('rooms: size', got=repr(size), expected='(height, width), both >= 8')


@functools.lru_cache(maxsize=2)
def _clip(seed, split, clip) -> _Clip:
    """Builds everything that the frames of a clip share.

    Results are remembered, because clips are read frame by frame.
    """
    # Every five clips have all kinds of rooms.
    rng = generator(seed, split, clip, 1)
    offset = generator(seed, split, 0, 2).integers(len(KINDS))
    room = furnished_room(draw_decor(rng), KINDS[(clip + offset) % len(KINDS)])

    # Things are numbered from 1. The shell is no thing.
    things = [tag(shape, instance=number) for number, shape in enumerate(room.shapes, start=1)]
    shape = join([*room.shell, *things])
    walk = take_walk(room, shape)
    windows = [
        thing.quads['origin'].mean(axis=0)
        for thing in things
        if (thing.quads['surface']['label'] == looks.WINDOW).any()
    ]
    light = shading.draw_light(rng, room.size, windows)
    cells = (int((room.size[1] + 1) / shading.MAP_CELL), int((room.size[0] + 1) / shading.MAP_CELL))
    shadows = shadow_maps(
        join(things), np.array([0.0, 0.0, 1.0]), np.array([-0.5, -0.5]), shading.MAP_CELL, cells
    )
    noise = textures.make_noise(generator(seed, split, clip, 4))
    still = shading.make_still(shape, light, noise, np.ascontiguousarray(shadows[..., 1]))
    return _Clip(still, walk)


def sample_matrix(size: tuple[int, int]) -> np.ndarray:
    """Returns the intrinsics [3, 3] in units of samples, two per pixel and axis."""
    return np.array([[2, 1, 2], [1, 2, 2], [1, 1, 1]]) * camera_matrix(size)


@functools.lru_cache(maxsize=8)
def _moment(seed, split, clip, index, size) -> _Moment:
    """Returns the view of the camera at a moment.

    Results are remembered, because the flow of the previous frame needs them too.
    """
    still, walk = _clip(seed, split, clip)
    pose = walk.pose(index)
    num_samples = (2 * size[0], 2 * size[1])
    shape = still.shape
    hits = visibility(shape.quads, shape.ellipsoids, sample_matrix(size), pose, num_samples)
    for array in (pose, *hits):
        array.setflags(write=False)
    return _Moment(pose, hits)


def _flow(hits: Hits, samples: shading.Samples, after: _Moment, intrinsics) -> np.ndarray:
    """Returns the flow [H, W, 2] float32 to the next moment, NaN where it does not show the point.

    Args:
      hits: of the samples of this moment.
      samples: hit points and normals.
      after: the next moment.
      intrinsics: [3, 3] in pixels.
    """
    # Points of the pixel centres in the camera of the next moment.
    surface = hits.surface[::2, ::2]
    height, width = surface.shape
    away = samples.points[:, ::2, ::2] - after.pose[:3, 3, None, None]
    x, y, z = np.einsum('ji,jhw->ihw', after.pose[:3, :3], away)
    in_front = z > NEAR
    z = np.where(in_front, z, 1)
    u = intrinsics[0, 0] * x / z + intrinsics[0, 2]
    v = intrinsics[1, 1] * y / z + intrinsics[1, 2]

    # The point must be in the image, on the side of its surface that faces the camera.
    visible = in_front & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
    visible &= np.einsum('ihw,ihw->hw', samples.normals[:, ::2, ::2], away) < 0

    # At least a sample of the four around the point must show the same surface.
    left = np.floor(2 * np.where(visible, u, 0)).astype(np.intp)
    top = np.floor(2 * np.where(visible, v, 0)).astype(np.intp)
    shown = np.zeros(surface.shape, bool)
    for across, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column = np.clip(left + across, 0, 2 * width - 1)
        row = np.clip(top + down, 0, 2 * height - 1)
        shown |= after.hits.surface[row, column] == surface
    flow = np.stack([u - np.arange(width), v - np.arange(height)[:, None]], axis=-1)
    return np.where((visible & shown)[..., None], flow, np.nan).astype(np.float32)
