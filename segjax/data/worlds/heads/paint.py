"""Paints a head: fur with patterns, eyes, nose and mouth, lit by the lamp.

Two samples per pixel and axis. Samples with even indices are pixel centres, and only these samples
decide labels and normals.
"""

import functools

import numpy as np

from segjax.data.worlds import studio, textures
from segjax.data.worlds.heads import surface as surfaces
from segjax.data.worlds.heads.looks import Looks
from segjax.data.worlds.heads.surface import EAR, EYE, MUZZLE, NECK, NOSE, Shape, Surface

_PINK = np.array([0.5, 0.2, 0.17])


def paint(shape: Shape, looks: Looks, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns image [H, W, 3] uint8, label [H, W] uint8 and normals [H, W, 3] float32."""
    # The surface at the samples.
    x, y = studio.plane(size, 0.5)
    columns, rows = places(shape, size, 0.5)
    scene = surfaces.surface(shape, columns, rows)
    normals = surfaces.normals_of(scene)

    # Colours, in the frame of the head so that patterns turn with it.
    points = np.stack(np.broadcast_arrays(columns[None], rows[:, None], scene.height), axis=-1)
    local = (points @ surfaces.turn(shape)).astype(np.float32)
    colour = _albedo(shape, looks, scene, local, columns[1] - columns[0])
    light = studio.lighting(normals, looks.lamp)
    # Eyes and nose are wet, and fur has a soft gloss.
    wet = np.isin(scene.part, (EYE, NOSE))
    glint = studio.highlight(normals, looks.lamp, 60) * 0.8 * wet
    glint += studio.highlight(normals, looks.lamp, 8) * 0.04 * (scene.part > 0)
    lit = colour * light + glint[..., None] * looks.lamp.colour

    # Samples of a pixel and its neighbours are averaged with the weights 1, 2, 1.
    backdrop = studio.paint_backdrop(looks.backdrop, x, y)
    samples = np.where((scene.part > 0)[..., None], lit, backdrop)
    return {
        'image': studio.develop(_averaged(_averaged(samples, 0), 1)),
        'label': scene.part[::2, ::2],
        'normals': normals[::2, ::2].astype(np.float32),
    }


def places(shape: Shape, size, step=1.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [W] of the columns and y [H] of the rows of an image, in units of the head.

    Args:
      shape: of the head.
      size: (height, width) of the image.
      step: distance of the samples in pixels, from the first to the last pixel centre.
    """
    unit = min(size) / 2
    columns = (np.arange(0, size[1] - 1 + step / 2, step) - (size[1] - 1) / 2) / unit
    rows = (np.arange(0, size[0] - 1 + step / 2, step) - (size[0] - 1) / 2) / unit
    return (columns - shape.shift[0]) / shape.scale, (rows - shape.shift[1]) / shape.scale


def _averaged(samples, axis) -> np.ndarray:
    """Returns means of every second sample and its neighbours along an axis, weights 1, 2, 1."""
    samples = np.moveaxis(samples, axis, 0)
    padded = np.concatenate([samples[:1], samples, samples[-1:]])
    means = (padded[:-2:2] + 2 * padded[1:-1:2] + padded[2::2]) / 4
    return np.moveaxis(means, 0, axis)


@functools.cache
def _noise() -> textures.Noise:
    """Returns the noise of fur, the same for all heads. Looks decide the place in it."""
    return textures.make_noise(np.random.default_rng(0), slope=0.7)


# --- colours --------------------------------------------------------------------------------------


def _albedo(shape: Shape, looks: Looks, scene: Surface, local, footprint) -> np.ndarray:
    """Returns the colours [H, W, 3] of the surface without light.

    Args:
      shape: of the head.
      looks: of the head.
      scene: visible surface.
      local: [H, W, 3] places of the surface in the head frame.
      footprint: distance of samples, in units of the head.
    """
    # Fur: two colours, mixed by the pattern, with a grain along the hairs.
    x, y, h = np.moveaxis(local, -1, 0)
    share = np.clip(_pattern(shape, looks, scene, local), 0, 1)[..., None]
    colour = (1 - share) * looks.coat + share * looks.second
    level = np.full(x.shape, 2 * footprint, np.float32)
    grain = textures.lookup(_noise(), 5 * x + looks.shift[0], 2 * y + 2 * h + looks.shift[1], level)
    colour = colour * (1 + looks.grain * grain)[..., None]

    # The inside of upright ears, and the neck in the shadow of the head.
    pink = looks.inner * np.clip((scene.inner - 0.55) / 0.25, 0, 1)[..., None]
    colour = colour + pink * (_PINK - colour)
    colour = np.where((scene.part == NECK)[..., None], 0.65 * colour, colour)

    # Dark lines around the eyes and of the mouth.
    dark = np.maximum(_eye_lines(shape, local), _mouth_lines(shape, scene, local))
    colour = colour * (1 - 0.85 * dark[..., None])
    nose = np.broadcast_to(looks.nose, colour.shape)
    colour = np.where((scene.part == NOSE)[..., None], nose, colour)
    eyes = _eyes(shape, looks, local)
    return np.where((scene.part == EYE)[..., None], eyes, colour)


def _step(values, width) -> np.ndarray:
    """Returns a smooth step from 0 to 1 around value 0."""
    return np.clip(0.5 + values / width, 0, 1)


def _pattern(shape: Shape, looks: Looks, scene: Surface, local) -> np.ndarray:
    """Returns the share of the second colour, [H, W]."""
    x, y, h = np.moveaxis(local, -1, 0)
    across = np.abs(x)
    muzzle = surfaces.muzzle_centre(shape)
    size = looks.size
    around_mouth = np.hypot(across, y - muzzle[1] - 0.05) / (0.42 * size + 0.1)
    if looks.pattern == 'tabby':
        # Stripes run up the forehead and along the cheeks.
        forehead = np.sin(across * 17 / size + 0.8 * np.sin(5 * y + looks.phases[0]))
        cheeks = np.sin(13 / size * (y + 0.5 * across) + looks.phases[1])
        stripes = np.where(y < shape.eye_y - 0.1, forehead, cheeks * _step(across - 0.4, 0.2))
        return np.maximum(
            _step(stripes - 0.3, 0.5) * _step(1 - h, 0.4), _step(1 - around_mouth, 0.3)
        )
    if looks.pattern == 'blaze':
        stripe = 0.1 * size + 0.35 * np.clip(y + 0.1, 0, 1)
        return np.maximum(_step(stripe - across, 0.08), _step(1.2 - around_mouth, 0.2))
    if looks.pattern == 'points':
        return np.maximum(_step(1.3 - around_mouth, 0.9), scene.part == EAR)
    if looks.pattern == 'patches':
        waves = np.sin(3 * x / size + looks.phases[0]) + np.sin(3.3 * y / size + looks.phases[1])
        return _step(waves + 0.8 * np.sin(2 * (x + y) / size + looks.phases[2]), 0.15)
    if looks.pattern == 'tan':
        brow = np.hypot(across - shape.eye_x, y - shape.eye_y + 1.5 * shape.eye) / (0.13 * size)
        chest = (scene.part == NECK) * _step(y - 0.9, 0.2)
        cheeks = _step(1.1 - around_mouth, 0.2) * _step(across - 0.12 + 0.3 * (y - 0.3), 0.1)
        return np.maximum(np.maximum(_step(1 - brow, 0.4), cheeks), chest)
    if looks.pattern == 'eye_patch':
        beside = np.hypot(x - looks.side * shape.eye_x, 0.85 * (y - shape.eye_y)) / (0.45 * size)
        ear = (scene.part == EAR) & (x * looks.side > 0)
        return np.maximum(_step(1 - beside, 0.2), ear)
    return np.zeros_like(x)


def _eye_lines(shape: Shape, local) -> np.ndarray:
    """Returns the strength [H, W] of the dark rim around the eyes."""
    x, y, h = np.moveaxis(local, -1, 0)
    distance = np.hypot(np.abs(x) - shape.eye_x, y - shape.eye_y) / shape.eye
    return _step(1.12 - distance, 0.2) * (h > 0)


def _mouth_lines(shape: Shape, scene: Surface, local) -> np.ndarray:
    """Returns the strength [H, W] of the line from the nose down, and of the two arcs below it."""
    x, y, _ = np.moveaxis(local, -1, 0)
    wide, tall, _ = shape.muzzle
    bottom = shape.muzzle_y + 0.55 * tall
    middle = _step(0.02 - np.abs(x), 0.02) * (y < bottom)
    middle = middle * (y > surfaces.nose_centre(shape)[1])
    # Each arc hangs between the middle line and a corner of the mouth.
    t = np.clip(np.abs(x) / (0.85 * wide), 0, 1)
    arc = bottom + 0.35 * tall * np.sin(np.pi * t) * (1 - 0.4 * t) - 0.1 * tall * t
    arcs = _step(0.022 - np.abs(y - arc), 0.02) * (np.abs(x) < 0.85 * wide)
    return np.maximum(middle, arcs) * (scene.part == MUZZLE)


def _eyes(shape: Shape, looks: Looks, local) -> np.ndarray:
    """Returns the colours [H, W, 3] of iris and pupil. The eyes look forward."""
    x, y, _ = np.moveaxis(local, -1, 0)
    # The visible part of an eye is a little smaller than its ball.
    right = (np.abs(x) - shape.eye_x) / (0.85 * shape.eye)
    down = (y - shape.eye_y) / (0.8 * shape.eye)
    distance = np.hypot(right, down)
    rim = _step(distance - 0.92, 0.2)[..., None]
    iris = looks.iris * (1.1 - 0.5 * distance[..., None] * (down < 0)[..., None])
    colour = (1 - 0.9 * rim) * iris
    pupil = np.hypot(right / looks.pupil[0], down / looks.pupil[1])
    return colour * (1 - 0.98 * _step(1 - pupil, 0.15)[..., None])
