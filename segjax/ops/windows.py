"""Sliding windows inside a compiled function: the tiling of `modes/predict/tiles.py` for a batch.

Every image of the batch has its own size on a canvas of static size. Windows start at evenly spread
positions between the borders of the image. An image that is smaller than a window continues by
reflection. The canvas determines the number of windows. A smaller image needs fewer windows, and
its surplus windows have weight 0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def positions(length: int, tile: int, overlap: float) -> np.ndarray:
    """Returns the first pixel of each tile on an axis, [N] int from 0 to length - tile.

    The tiles are as few as possible such that neighbours share a fraction `overlap` of a tile. An
    axis that is not longer than a tile has a single tile, at 0. positions(10, 4, 0.5) is [0, 2, 4,
    6].

    Args:
      length: pixels of the axis.
      tile: pixels of a tile.
      overlap: in [0, 1).
    """
    if length <= tile:
        return np.zeros(1, int)
    room = length - tile
    last = -(-room // stride(tile, overlap))
    return spread(np.arange(last + 1), last, room)


def stride(tile: int, overlap: float) -> int:
    """Returns the largest distance of neighbouring tiles, in whole pixels."""
    # Floating point may turn 200 into 199.99999999999997.
    return max(1, math.floor(round(tile * (1 - overlap), 6)))


def spread(number, last, room):
    """Returns the first pixel of tile `number`, if tile `last` starts at pixel `room`.

    Rounds number * room / last to whole pixels, halves up. Tiles are numbered from 0.

    Args:
      number: whole number, or an integer array of NumPy or of JAX.
      last: like number, >= 1.
      room: like number.
    """
    return (2 * number * room + last) // (2 * last)


def window(tile: int) -> np.ndarray:
    """Returns a Hann window at pixel centres, [tile] float64, symmetric and > 0.

    w[i] = sin^2(pi (i + 1/2) / tile)
    """
    return np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2


class Axis(NamedTuple):
    """An axis of B images, each cut into at most N windows of `tile` pixels.

    starts   [B, N] int32: first pixel of each window
    sources  [B, N, tile] int32: the image pixel that each pixel of a window shows
    weights  [B, N, tile] float32: at every pixel of an image the weights of its windows sum to 1
    """

    starts: jax.Array
    sources: jax.Array
    weights: jax.Array


def cut_axis(lengths: jax.Array, canvas: int, tile: int, overlap: float) -> Axis:
    """Cuts an axis of every image into windows.

    Args:
      lengths: [B] int, pixels of each image, at most `canvas`.
      canvas: pixels of the longest possible image, static.
      tile: pixels of a window.
      overlap: smallest share of a window in common with the next window.
    """
    number = jnp.arange(len(positions(canvas, tile, overlap)))  # [N]
    room = jnp.maximum(lengths[:, None] - tile, 0)
    last = -(-room // stride(tile, overlap))  # [B, 1]
    # A window after the last stays at its place and gets weight 0.
    starts = spread(jnp.minimum(number, last), jnp.maximum(last, 1), room)  # [B, N]
    used = number <= last

    # Sums over the windows at every pixel, for weights that add up to 1.
    hann = jnp.asarray(window(tile), jnp.float32)
    inside = jnp.arange(max(canvas, tile)) - starts[..., None]
    covered = (inside >= 0) & (inside < tile) & used[..., None]
    total = jnp.where(covered, hann[jnp.clip(inside, 0, tile - 1)], 0.0).sum(1)
    pixels = starts[..., None] + jnp.arange(tile)  # [B, N, tile]
    total = jax.vmap(jnp.take)(total, pixels)
    weights = jnp.where(used[..., None], hann / total, 0.0)

    # Reflection repeats the pixel at the border: 0 1 2 2 1 0 0 1 ..
    lengths = lengths[:, None, None]
    folded = pixels % (2 * lengths)
    sources = jnp.minimum(folded, 2 * lengths - 1 - folded)
    return Axis(starts, sources, weights)


def average(
    predict: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    size: jax.Array,
    tile: tuple[int, int],
    overlap: float,
) -> jax.Array:
    """Predicts images window by window, and averages overlaps by the weights of `cut_axis`.

    Args:
      predict: images [B, *tile, ...] -> values [B, *tile, C], for instance class probabilities.
      image: [B, H, W, ...].
      size: [B, 2] int, height and width of the part of each image that is not padding.
      tile: (height, width) of a window.
      overlap: smallest share of a window in common with the next window.

    Returns:
      [B, H, W, C], float32 at least. Only the part inside `size` has a meaning.
    """
    batch, height, width = image.shape[:3]
    rows = cut_axis(size[:, 0], height, tile[0], overlap)
    columns = cut_axis(size[:, 1], width, tile[1], overlap)

    # The window with the same number of all images at a time: the net is compiled once, and memory
    # holds a single window.
    def add(canvas, window):
        row, column = window
        pixels = jax.vmap(_cut)(image, rows.sources[:, row], columns.sources[:, column])
        weights = rows.weights[:, row, :, None] * columns.weights[:, column, None]
        values = predict(pixels) * weights[..., None]
        canvas = jax.vmap(_add_at)(canvas, values, rows.starts[:, row], columns.starts[:, column])
        return canvas, None

    tile_batch = jax.ShapeDtypeStruct((batch, *tile, *image.shape[3:]), image.dtype)
    values = jax.eval_shape(predict, tile_batch)
    padded = (max(height, tile[0]), max(width, tile[1]))
    dtype = jnp.promote_types(values.dtype, jnp.float32)  # of sums of weighted values
    canvas = jnp.zeros((batch, *padded, values.shape[-1]), dtype)
    numbers = [jnp.arange(axis.starts.shape[1]) for axis in (rows, columns)]
    every_window = tuple(grid.ravel() for grid in jnp.meshgrid(*numbers, indexing='ij'))
    canvas, _ = lax.scan(add, canvas, every_window)
    return canvas[:, :height, :width]


def _cut(image, rows, columns):
    """Returns the pixels of an image [H, W, ...] at the given rows and columns."""
    return image[rows[:, None], columns]


def _add_at(canvas, values, top, left):
    """Adds values [h, w, C] to a canvas [H, W, C] at a corner."""
    before = lax.dynamic_slice(canvas, (top, left, 0), values.shape)
    return lax.dynamic_update_slice(canvas, before + values, (top, left, 0))
