"""Cuts images of any size into tiles of one size, and blends predictions of tiles, on the host.

A net that is compiled once accepts one shape. An axis of `length` pixels is cut at evenly spread
positions. Neighbouring tiles share at least the requested overlap, and no tile extends beyond the
end. The value of a pixel is the weighted mean of all tiles that cover it. The weights are separable
and sum to exactly one at every pixel:

    weight_n(i) = w(i - start_n) / sum_m w(i - start_m),     w(i) = sin^2(pi (i + 1/2) / tile)

with the Hann window w. A tile thus counts least where its net had least context, and no array of
summed weights is needed. An image that is smaller than a tile is continued by reflection at its
lower and right edge.

Predictions are kept by class, [C, rows, width] float32, and only for rows that still change
(`Canvas`). Memory grows with the width of an image, not with its height.
"""

from typing import NamedTuple

import cv2
import numpy as np

from segjax.ops import windows


class Axis(NamedTuple):
    """One image axis cut into N tiles.

    starts   [N] int, ascending: first pixel of each tile
    weights  [N, tile] float32: at every pixel the weights of the tiles that cover it sum to 1
    """

    starts: np.ndarray
    weights: np.ndarray


class Grid(NamedTuple):
    """An image of `size` (height, width) cut into tiles of `tile` (height, width)."""

    size: tuple[int, int]
    tile: tuple[int, int]
    rows: Axis
    columns: Axis

    @property
    def padded(self) -> tuple[int, int]:
        """Returns the size of the image after `pad`. No axis is shorter than a tile."""
        return max(self.size[0], self.tile[0]), max(self.size[1], self.tile[1])


class TilePlace(NamedTuple):
    """The place of one tile of a multi-scale prediction.

    scale        index of its grid
    row, column  of the tile in the grid
    mirrored     whether the net sees the mirrored tile
    closes_row   whether it is the last tile of its tile row: the image rows above the next tile row
                 are then final
    """

    scale: int
    row: int
    column: int
    mirrored: bool
    closes_row: bool


def cut_axis(length: int, tile: int, overlap: float) -> Axis:
    """Computes positions and normalised blending weights of the tiles along one axis."""
    starts = windows.positions(length, tile, overlap)
    window = windows.window(tile)
    total = np.zeros(max(length, tile))
    for start in starts:
        total[start : start + tile] += window
    weights = np.stack([window / total[start : start + tile] for start in starts])
    return Axis(starts, weights.astype(np.float32))


def cut(size: tuple[int, int], tile: tuple[int, int], overlap: float) -> Grid:
    """Cuts an image of `size` (height, width) into tiles of `tile` (height, width)."""
    rows = cut_axis(size[0], tile[0], overlap)
    columns = cut_axis(size[1], tile[1], overlap)
    return Grid(size, tile, rows, columns)


def schedule(grids: list[Grid], mirror: bool) -> list[TilePlace]:
    """Lists all tiles of one image at several scales, in the order of prediction.

    Tile rows are sorted by the share of the image's height at which they end. No scale then runs
    far ahead of another scale, so that few rows have to be kept until all scales have reached them.

    Args:
      grids: one per scale.
      mirror: whether each tile is also predicted mirrored.
    """
    tile_rows = []
    for scale, grid in enumerate(grids):
        for row, start in enumerate(grid.rows.starts):
            end = min(1.0, (start + grid.tile[0]) / grid.size[0])
            tile_rows.append((end, scale, row))
    views = (False, True) if mirror else (False,)
    places = []
    for _, scale, row in sorted(tile_rows):
        for column in range(len(grids[scale].columns.starts)):
            for mirrored in views:
                places.append(TilePlace(scale, row, column, mirrored, closes_row=False))
        places[-1] = places[-1]._replace(closes_row=True)
    return places


def pad(image: np.ndarray, grid: Grid) -> np.ndarray:
    """Continues an image by reflection at the bottom and on the right, to whole tiles.

    Args:
      image: [H, W, ...] of the grid's size.
      grid: how the image is cut.
    """
    extra = [(0, full - size) for full, size in zip(grid.padded, grid.size)]
    return np.pad(image, extra + [(0, 0)] * (image.ndim - 2), mode='symmetric')


def take(padded: np.ndarray, grid: Grid, place: TilePlace) -> np.ndarray:
    """Cuts out a tile, [tile height, tile width, ...], mirrored if its place says so."""
    top = grid.rows.starts[place.row]
    left = grid.columns.starts[place.column]
    pixels = padded[top : top + grid.tile[0], left : left + grid.tile[1]]
    return pixels[:, ::-1] if place.mirrored else pixels


class Canvas:
    """The rows of a blended prediction that still change or still have to be read.

    rows      [C, n, width] float32, sums of weighted predictions; rows[:, 0] is image row `first`
    finished  image rows above this row are final
    """

    def __init__(self, num_classes: int, grid: Grid):
        self.grid = grid
        self.first = 0
        self.finished = 0
        self.rows = np.zeros((num_classes, 0, grid.padded[1]), np.float32)

    def add(self, values: np.ndarray, place: TilePlace, share: float) -> None:
        """Adds the weighted prediction of a tile. Tile rows must come from top to bottom.

        Args:
          values: [C, tile height, tile width], the prediction as the net saw the tile.
          place: of the tile.
          share: of this view in the mean over views. It multiplies the blending weights.
        """
        starts = self.grid.rows.starts
        height, width = self.grid.tile
        top = starts[place.row]
        left = self.grid.columns.starts[place.column]

        # The first tile of a tile row brings new image rows.
        missing = top + height - self.first - self.rows.shape[1]
        if missing > 0:
            fresh = np.zeros((len(self.rows), missing, self.rows.shape[2]), np.float32)
            self.rows = np.concatenate([self.rows, fresh], axis=1)

        # Mirrored predictions are turned back before they are weighted.
        if place.mirrored:
            values = values[:, :, ::-1]
        row_weights = self.grid.rows.weights[place.row] * share
        weights = np.outer(row_weights, self.grid.columns.weights[place.column])
        below = top - self.first
        self.rows[:, below : below + height, left : left + width] += values * weights
        if place.closes_row:
            last = place.row + 1 == len(starts)
            self.finished = self.grid.size[0] if last else int(starts[place.row + 1])

    def drop(self, above: int) -> None:
        """Forgets the rows above image row `above`."""
        if above > self.first:
            self.rows = self.rows[:, above - self.first :].copy()
            self.first = above


class Interpolation(NamedTuple):
    """Bilinear resize of one axis at half-pixel centres.

        out[i] = (1 - fraction[i]) in[lower[i]] + fraction[i] in[upper[i]]

    All arrays are [target]. Source positions are (i + 1/2) source / target - 1/2, clipped to the
    axis.
    """

    lower: np.ndarray
    upper: np.ndarray
    fraction: np.ndarray


def interpolation(source: int, target: int) -> Interpolation:
    """Computes the interpolation from an axis of `source` pixels to an axis of `target` pixels."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    lower = np.floor(position).astype(int)
    upper = np.minimum(lower + 1, source - 1)
    return Interpolation(lower, upper, (position - lower).astype(np.float32))


def resized_rows(
    canvas: Canvas, index: int, vertical: Interpolation, start: int, stop: int, width: int
) -> np.ndarray:
    """Resizes a part of one class bilinearly to another image size.

    Args:
      canvas: the predictions at the size that the net sees.
      index: of the class.
      vertical: interpolation from the rows of the canvas to the rows of the other size.
      start, stop: rows of the other size, `stop` excluded.
      width: of the other size.

    Returns:
      [stop - start, width] float32.
    """
    plane = canvas.rows[index, :, : canvas.grid.size[1]]
    fraction = vertical.fraction[start:stop, None]
    rows = plane[vertical.lower[start:stop] - canvas.first]
    if fraction.any():
        rows += fraction * (plane[vertical.upper[start:stop] - canvas.first] - rows)
    if rows.shape[1] == width:
        return rows
    return cv2.resize(rows, (width, len(rows)), interpolation=cv2.INTER_LINEAR)
