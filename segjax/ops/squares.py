"""Squares of maps on the device: the context of a box is cut out, and the result is put back.

The geometry is that of segjax/data/objects.py and segjax/data/crops.py. Pixel centres lie at whole
coordinates, and a map covers [-0.5, W - 0.5] x [-0.5, H - 0.5]. A square (x0, y0, x1, y1) that is
cut to n pixels has its pixel i at

    x = x0 + (i + 1/2) (x1 - x0) / n

Maps of several sizes lie in the top left corners of a canvas [H, W]. Squares lie inside of their
maps.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

# By default accelerators round the factors of a product to 10 bits or fewer.
_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)

TIE = 1e-3
"""Shift of nearest look-ups, in pixels: positions halfway between two pixels go to the larger.

It exceeds the rounding of float32 positions in maps of up to 8192 pixels.
"""

NOISE = 1e-6
"""Rounding noise of a scale, so that an exact factor of 2 needs no averages."""


# --- boxes ----------------------------------------------------------------------------------------


def enlarged(boxes, share: float, sizes):
    """Returns boxes of which each edge is moved outward, but not beyond the map.

    The edges move by max(round(share * side), 1) pixels. A share of 0 moves nothing. This is
    `objects.enlarged`.

    Args:
      boxes: [B, 4] (x0, y0, x1, y1), inside of the maps.
      share: of a side, at least 0, static.
      sizes: [B, 2] (height, width) of the maps.

    Returns:
      [B, 4] float32.
    """
    boxes = boxes.astype(jnp.float32)
    if share == 0:
        return boxes
    margins = jnp.maximum(jnp.round(share * (boxes[:, 2:] - boxes[:, :2])), 1)
    first = jnp.maximum(boxes[:, :2] - margins, -0.5)
    last = jnp.minimum(boxes[:, 2:] + margins, jnp.flip(sizes, axis=-1) - 0.5)
    return jnp.concatenate([first, last], axis=-1)


def squares_of(boxes, margin: float, sizes):
    """Returns a square around each box, with its context.

    With the longer side m of the box, the square has the side s = min(margin m, min(W, H)) and the
    centre of the box. Then it is moved into the map. This is `objects.context_square` without a
    random shift.

    Args:
      boxes: [B, 4] (x0, y0, x1, y1), inside of the maps.
      margin: factor of the longer side, at least 1.
      sizes: [B, 2] (height, width) of the maps.

    Returns:
      [B, 4] float32.
    """
    boxes = boxes.astype(jnp.float32)
    lengths = jnp.flip(sizes, axis=-1).astype(jnp.float32)  # (width, height)
    longer = jnp.max(boxes[:, 2:] - boxes[:, :2], axis=-1)
    side = jnp.minimum(margin * longer, jnp.min(lengths, axis=-1))[:, None]

    # The first corner, inside the range that keeps the square in the map.
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    first = jnp.clip(centre - side / 2, -0.5, lengths - 0.5 - side)
    return jnp.concatenate([first, first + side], axis=-1)


def box_masks(boxes, size: tuple[int, int]):
    """Returns [B, H, W] bool, True at the pixels whose centres lie in a box: x0 <= x < x1.

    Args:
      boxes: [B, 4].
      size: (H, W) of the canvas, static.
    """
    x0, y0, x1, y1 = boxes.T[:, :, None]
    rows = jnp.arange(size[0])
    columns = jnp.arange(size[1])
    in_rows = (y0 <= rows) & (rows < y1)
    in_columns = (x0 <= columns) & (columns < x1)
    return in_rows[:, :, None] & in_columns[:, None, :]


# --- maps -----------------------------------------------------------------------------------------


def cut(maps, squares, size: int, nearest: bool = True, sizes=None):
    """Cuts a square out of each map, and resizes it.

    Nearest look-ups copy pixels, for labels and masks. Otherwise pixels are interpolated
    bilinearly. If a square shrinks by more than 2, blocks of pixels are averaged first, as in
    `transforms.apply_geometry`. Interpolated whole numbers are rounded.

    Args:
      maps: [B, H, W, ...].
      squares: [B, 4], inside of the maps.
      size: n, pixels of a side of the result, static.
      nearest: whether pixels are copied.
      sizes: [B, 2] (height, width) of the maps on the canvas. None: they fill it.

    Returns:
      [B, n, n, ...] in the type of the maps.
    """
    limits = _limits(maps, sizes)
    squares = squares.astype(jnp.float32)
    step = (squares[:, 2:] - squares[:, :2]) / size
    centres = jnp.arange(size) + 0.5
    columns = squares[:, 0, None] + centres * step[:, 0, None]
    rows = squares[:, 1, None] + centres * step[:, 1, None]
    if nearest:
        return _copied(maps, rows, columns, limits)
    return _interpolated(maps, rows, columns, jnp.flip(step, axis=-1), limits)


def paste(cut_maps, squares, canvas, inside, nearest: bool = True):
    """Puts cut maps back into their squares of a canvas, at the pixels of a mask.

    All pixels outside of the mask or of the square keep the canvas. A cut that is not smaller than
    its square comes back exactly. In a smaller cut, the pixel nearest to the edge of a box may lie
    outside of the box.

    Args:
      cut_maps: [B, n, n, ...], as `cut` returns them.
      squares: [B, 4], from which they were cut.
      canvas: [B, H, W, ...].
      inside: [B, H, W] bool, the pixels that change. `box_masks` makes the mask of a box.
      nearest: as in `cut`.

    Returns:
      [B, H, W, ...] in the type of the canvas.
    """
    # Positions in the cut map of the rows and columns of the canvas.
    size = cut_maps.shape[1]
    squares = squares.astype(jnp.float32)
    step = size / (squares[:, 2:] - squares[:, :2])
    height, width = canvas.shape[1:3]
    columns = (jnp.arange(width) - squares[:, 0, None]) * step[:, 0, None] - 0.5
    rows = (jnp.arange(height) - squares[:, 1, None]) * step[:, 1, None] - 0.5
    limits = _limits(cut_maps, None)
    if nearest:
        values = _copied(cut_maps, rows, columns, limits)
    else:
        values = _interpolated(cut_maps, rows, columns, jnp.flip(step, axis=-1), limits)

    # A square may cut off a part of a long box.
    changed = inside & box_masks(squares, (height, width))
    changed = changed.reshape(*changed.shape, *[1] * (canvas.ndim - 3))
    return jnp.where(changed, values.astype(canvas.dtype), canvas)


def _limits(maps, sizes):
    """Returns [B, 2] int32, the (height, width) of the maps on their canvas."""
    if sizes is not None:
        return sizes.astype(jnp.int32)
    return jnp.broadcast_to(jnp.array(maps.shape[1:3], jnp.int32), (maps.shape[0], 2))


def _copied(maps, rows, columns, limits):
    """Returns the pixels of maps [B, H, W, ...] that are nearest to rows [B, h], columns [B, w]."""
    last = limits - 1
    y = jnp.clip(jnp.floor(rows + 0.5 + TIE).astype(jnp.int32), 0, last[:, :1])
    x = jnp.clip(jnp.floor(columns + 0.5 + TIE).astype(jnp.int32), 0, last[:, 1:])
    take = jax.vmap(lambda each, i, j: each[i[:, None], j[None, :]])
    return take(maps, y, x)


def _interpolated(maps, rows, columns, steps, limits):
    """Returns maps at rows [B, h] and columns [B, w], as products with small matrices.

    Args:
      maps: [B, H, W, ...].
      rows, columns: positions in pixels of the maps.
      steps: [B, 2], distance of neighbouring positions along (rows, columns).
      limits: [B, 2], (height, width) of the maps on their canvas.

    Returns:
      [B, h, w, ...] in the type of the maps.
    """
    batch, height, width = maps.shape[:3]
    down = _weights(rows, steps[:, 0], limits[:, 0], height)  # [B, h, H]
    across = _weights(columns, steps[:, 1], limits[:, 1], width)  # [B, w, W]
    values = maps.astype(jnp.float32).reshape(batch, height, width, -1)
    values = _einsum('bhH,bHWc->bhWc', down, values)
    values = _einsum('bwW,bhWc->bhwc', across, values)
    if not jnp.issubdtype(maps.dtype, jnp.floating):
        values = jnp.round(values)
    return values.astype(maps.dtype).reshape(batch, rows.shape[1], -1, *maps.shape[3:])


def _weights(positions, step, limit, length: int):
    """Returns interpolation weights [B, n, length]. Each row sums to 1.

    Along an axis that shrinks by s > 2, blocks of b = floor(s) pixels are averaged, and the means
    are interpolated. A block that reaches beyond the map repeats its last pixel.

    Args:
      positions: [B, n] in pixels.
      step: [B], distance of neighbouring positions.
      limit: [B], pixels of the map.
      length: pixels of the canvas.
    """
    # Positions between the means of blocks.
    block = jnp.where(step > 2 + NOISE, jnp.floor(step + NOISE), 1).astype(jnp.int32)
    last = -(-limit // block) - 1  # [B], the last block
    centre = (positions + 0.5) / block[:, None] - 0.5
    centre = jnp.clip(centre, 0, last[:, None])
    lower = jnp.floor(centre)
    fraction = (centre - lower)[..., None]
    lower = lower.astype(jnp.int32)[..., None]  # [B, n, 1]
    upper = jnp.minimum(lower + 1, last[:, None, None])

    # How often the mean of its block counts a pixel.
    pixels = jnp.arange(length)
    missing = (last + 1) * block - limit
    is_last = pixels == limit[:, None] - 1
    counts = jnp.where(is_last, 1 + missing[:, None], 1) * (pixels < limit[:, None])
    shares = (counts / block[:, None])[:, None, :]  # [B, 1, length]
    owner = (pixels // block[:, None])[:, None, :]
    weights = (owner == lower) * (1 - fraction) + (owner == upper) * fraction
    return weights * shares
