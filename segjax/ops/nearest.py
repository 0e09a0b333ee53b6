"""The nearest known pixel of every pixel of a map, exact, in static shapes."""

import jax.numpy as jnp
from jax import lax

from segjax.errors import InputError
from segjax.spec import IGNORE

LARGEST_SIDES = 2**15
"""Largest sum of height and width. Squared distances are int32."""


def fill_nearest(label, known):
    """Gives every unknown pixel the label of the nearest known pixel, by Euclidean distance.

    Of several known pixels at the same distance, the pixel in the nearest column wins. Of two such
    columns the left wins, and of two pixels of a column the upper.

    First, the nearest known pixel of each column is found by scans. Then columns are compared at
    growing distance, until no column can be nearer. So the time grows with the radius of the
    largest hole, and at most with the width. Memory is a few maps.

    Args:
      label: [B, H, W] integers. Labels of unknown pixels are not read.
      known: [B, H, W] bool.

    Returns:
      [B, H, W] in the dtype of `label`. Known pixels keep their label. A map without a known pixel
      is 255 everywhere.

    Raises:
      InputError: the shapes differ, or a side is too long.
    """
    height, width = label.shape[1:]
    _check(label.shape, known.shape)
    solvable = known.any((1, 2), keepdims=True)
    square, in_column = _nearest_in_column(label, known)

    # Pad both sides, so that a shifted map is a slice. Padding is farther than every known pixel.
    sides = ((0, 0), (0, 0), (width, width))
    padded_square = jnp.pad(square, sides, constant_values=(height + width) ** 2)
    padded_label = jnp.pad(in_column, sides)

    def unfinished(carry):
        distance, square, _ = carry
        return (distance < width) & (distance**2 < square).any()

    def compare(carry):
        distance, square, nearest = carry
        for start in (width - distance, width + distance):
            candidate = lax.dynamic_slice_in_dim(padded_square, start, width, 2) + distance**2
            closer = candidate < square
            shifted = lax.dynamic_slice_in_dim(padded_label, start, width, 2)
            nearest = jnp.where(closer, shifted, nearest)
            square = jnp.where(closer, candidate, square)
        return distance + 1, square, nearest

    # Maps without a known pixel need no step.
    start = (jnp.int32(1), jnp.where(solvable, square, 0), in_column)
    _, _, nearest = lax.while_loop(unfinished, compare, start)
    return jnp.where(solvable, nearest, jnp.array(IGNORE, label.dtype))


def _nearest_in_column(label, known):
    """Finds the nearest known pixel in the column of each pixel.

    Args:
      label, known: as in `fill_nearest`.

    Returns:
      (squared distance [B, H, W] int32, label of this pixel [B, H, W]). Columns without a known
      pixel have the squared distance (H + W)^2, which is larger than every distance in the map.
    """
    height, width = label.shape[1:]
    row = jnp.arange(height, dtype=jnp.int32)[:, None]
    far = height + width
    above = lax.cummax(jnp.where(known, row, -far), 1)
    below = lax.cummin(jnp.where(known, row, height + far), 1, reverse=True)
    is_above = row - above <= below - row
    nearest_row = jnp.where(is_above, above, below)
    distance = jnp.minimum(jnp.abs(row - nearest_row), far)
    source = jnp.clip(nearest_row, 0, height - 1)
    return distance**2, jnp.take_along_axis(label, source, 1)


def _check(shape: tuple[int, ...], known_shape: tuple[int, ...]) -> None:
    """Raises InputError for maps of different shapes, and for a side that is too long."""
    if shape != known_shape:
        raise InputError(
            'fill_nearest',
            got=f'known pixels of shape {known_shape}',
            expected=f'{shape}, the shape of the labels',
        )
    if sum(shape[1:]) > LARGEST_SIDES:
        raise InputError(
            'fill_nearest',
            got=f'maps of {shape[1]}x{shape[2]} pixels',
            expected=f'at most {LARGEST_SIDES} pixels of height and width together',
        )
