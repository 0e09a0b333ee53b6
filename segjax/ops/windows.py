"""Sliding windows inside a compiled function: the tiling of `modes/predict/tiles.py` for a batch of images.

Every image of the batch has its own size on a canvas of static size. Windows start at evenly spread
positions between the borders of the image. An image that is smaller than a window continues by
reflection. The canvas determines the number of windows. A smaller image needs fewer windows, and
the rest have weight 0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def positions(length: int, tile: int, overlap: float) -> np.ndarray:
    """Where tiles start on an axis: [N] int, 0 .. length - tile, as few as keep a share `overlap` of each
    in common.

    Example: positions(10, 4, 0.5) is [0, 2, 4, 6]; an axis that is not longer than a tile has one, at 0.
    """
    if length <= tile:
        return np.zeros(1, int)
    room = length - tile
    last = -(-room // stride(tile, overlap))
    return spread(np.arange(last + 1), last, room)


def stride(tile: int, overlap: float) -> int:
    """Returns the largest distance of neighbouring tiles, in whole pixels."""
    # A float such as 199.99999999999997 is meant as 200.
    return max(1, math.floor(round(tile * (1 - overlap), 6)))


def spread(number, last, room):
    """Returns where tile `number` of 0 .. `last` starts, if tile `last` starts at pixel `room`.

    Rounds number * room / last to whole pixels, halves up. All are whole numbers or integer arrays, of
    NumPy or of JAX; last >= 1.
    """
    return (2 * number * room + last) // (2 * last)


def window(tile: int) -> np.ndarray:
    """Hann window at pixel centres, sin^2(pi (i + 1/2) / tile): [tile] float64, symmetric and > 0."""
    return np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2


class Axis(NamedTuple):
    """One axis of B images, each cut into at most N windows of `tile` pixels.

    starts   [B, N] int32: first pixel of each window
    sources  [B, N, tile] int32: the pixel of the image that each pixel of a window shows
    weights  [B, N, tile] float32: at every pixel of an image the weights of its windows sum to 1
    """

    starts: jax.Array
    sources: jax.Array
    weights: jax.Array


def cut_axis(lengths: jax.Array, canvas: int, tile: int, overlap: float) -> Axis:
    """Cuts one axis of every image into windows.

    Args:
      lengths: [B] int, pixels of each image, at most `canvas`.
      canvas: pixels of the longest image that may come, static.
      tile: pixels of a window.
      overlap: smallest share of a window in common with the next.
    """
    number = jnp.arange(len(positions(canvas, tile, overlap)))
    room = jnp.maximum(lengths[:, None] - tile, 0)
    last = -(-room // stride(tile, overlap))
    # A window after the last stays at its place and gets weight 0.
    starts = spread(jnp.minimum(number, last), jnp.maximum(last, 1), room)
    used = number <= last

    # Sums over the windows at every pixel, for weights that add up to 1.
    hann = jnp.asarray(window(tile), jnp.float32)
    inside = jnp.arange(max(canvas, tile)) - starts[..., None]
    covered = (inside >= 0) & (inside < tile) & used[..., None]
    total = jnp.where(covered, hann[jnp.clip(inside, 0, tile - 1)], 0.0).sum(1)
    pixels = starts[..., None] + jnp.arange(tile)
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
    """Predicts images window by window and averages overlaps by the weights of `tiles.cut_axis`.

    Args:
      predict: images [B, *tile, ...] -> values [B, *tile, C], for instance class probabilities.
      image: [B, H, W, ...].
      size: [B, 2] int, height and width of the part of each image that is not padding.
      tile: (height, width) of a window.
      overlap: smallest share of a window in common with the next.

    Returns:
      [B, H, W, C], float32 at least; only the part inside `size` has a meaning.
    """
    batch, height, width = image.shape[:3]
    rows = cut_axis(size[:, 0], height, tile[0], overlap)
    columns = cut_axis(size[:, 1], width, tile[1], overlap)

    # One window of all images at a time: the net is compiled once, and memory holds one window.
    def take(image, rows, columns):
        return image[rows[:, None], columns]

    def place(canvas, values, top, left):
        there = lax.dynamic_slice(canvas, (top, left, 0), values.shape)
        return lax.dynamic_update_slice(canvas, there + values, (top, left, 0))

    def add(canvas, window):
        row, column = window
        pixels = jax.vmap(take)(image, rows.sources[:, row], columns.sources[:, column])
        weights = rows.weights[:, row, :, None] * columns.weights[:, column, None]
        values = predict(pixels) * weights[..., None]
        return jax.vmap(place)(canvas, values, rows.starts[:, row], columns.starts[:, column]), None

    tile_batch = jax.ShapeDtypeStruct((batch, *tile, *image.shape[3:]), image.dtype)
    values = jax.eval_shape(predict, tile_batch)
    padded = (max(height, tile[0]), max(width, tile[1]))
    dtype = jnp.promote_types(values.dtype, jnp.float32)  # of sums of weighted values
    canvas = jnp.zeros((batch, *padded, values.shape[-1]), dtype)
    numbers = [jnp.arange(axis.starts.shape[1]) for axis in (rows, columns)]
    every_window = tuple(grid.ravel() for grid in jnp.meshgrid(*numbers, indexing='ij'))
    canvas, _ = lax.scan(add, canvas, every_window)
    return canvas[:, :height, :width]
