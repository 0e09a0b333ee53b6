"""Cutting images of any size into tiles of one size, and blending the tiles' predictions back, on the host.

A net that is compiled once sees one shape. An axis of `length` pixels is cut at evenly spread positions, so
that neighbours share at least the overlap that was asked for and no tile hangs over the end. A pixel's
value is the weighted mean of all tiles that cover it; the weights are separable and sum to exactly one at
every pixel

    weight_n(i) = w(i - start_n) / sum_m w(i - start_m),     w(i) = sin^2(pi (i + 1/2) / tile)      (Hann)

so a tile counts least where its net saw least context, and no array of summed weights is needed. An image
that is smaller than a tile is continued by reflection at its lower and right edge.

Predictions are kept by class, [C, rows, width] float32, and only for rows that still change (`Canvas`):
memory grows with an image's width, not with its height.
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
        """The image size, or the tile's where that is larger."""
        return max(self.size[0], self.tile[0]), max(self.size[1], self.tile[1])


class TilePlace(NamedTuple):
    """Where one tile of a multi-scale prediction lies: `grids[scale]`, its tile row and column, mirrored or
    not.

    `closes_row` marks the last tile of its tile row: what lies above the next tile row is then final.
    """

    scale: int
    row: int
    column: int
    mirrored: bool
    closes_row: bool


def cut_axis(length: int, tile: int, overlap: float) -> Axis:
    """Positions and normalised blending weights along one axis."""
    starts = windows.positions(length, tile, overlap)
    total = np.zeros(max(length, tile))
    for start in starts:
        total[start : start + tile] += windows.window(tile)
    weights = np.stack([windows.window(tile) / total[start : start + tile] for start in starts])
    return Axis(starts, weights.astype(np.float32))


def cut(size: tuple[int, int], tile: tuple[int, int], overlap: float) -> Grid:
    """Cuts an image of `size` (height, width) into tiles of `tile` (height, width)."""
    return Grid(
        size, tile, cut_axis(size[0], tile[0], overlap), cut_axis(size[1], tile[1], overlap)
    )


def schedule(grids: list[Grid], mirror: bool) -> list[TilePlace]:
    """All tiles of one image at several scales, in the order in which their rows get finished from top to
    bottom.

    Tile rows are sorted by the share of the image's height at which they end, so that no scale runs far
    ahead of the others and the rows that wait for another scale stay few.
    """
    rows = sorted(
        (min(1.0, (start + grid.tile[0]) / grid.size[0]), scale, row)
        for scale, grid in enumerate(grids)
        for row, start in enumerate(grid.rows.starts)
    )
    places = []
    for _, scale, row in rows:
        columns = len(grids[scale].columns.starts)
        views = [
            (column, mirrored)
            for column in range(columns)
            for mirrored in ((False, True) if mirror else (False,))
        ]
        places += [TilePlace(scale, row, column, mirrored, False) for column, mirrored in views]
        places[-1] = places[-1]._replace(closes_row=True)
    return places


def pad(image: np.ndarray, grid: Grid) -> np.ndarray:
    """Continues an image [H, W, ...] of the grid's size by reflection, at the bottom and on the right, to
    whole tiles."""
    extra = [(0, full - size) for full, size in zip(grid.padded, grid.size)]
    return np.pad(image, extra + [(0, 0)] * (image.ndim - 2), mode='symmetric')


def take(padded: np.ndarray, grid: Grid, place: TilePlace) -> np.ndarray:
    """The tile's pixels, [tile height, tile width, ...], mirrored if the place says so."""
    top, left = grid.rows.starts[place.row], grid.columns.starts[place.column]
    pixels = padded[top : top + grid.tile[0], left : left + grid.tile[1]]
    return pixels[:, ::-1] if place.mirrored else pixels


class Canvas:
    """The rows of a blended prediction that still change or still wait to be read.

    rows      [C, n, width] float32, sums of weighted predictions; rows[:, 0] is image row `first`
    finished  image rows above this one are final
    """

    def __init__(self, num_classes: int, grid: Grid):
        self.grid = grid
        self.first = 0
        self.finished = 0
        self.rows = np.zeros((num_classes, 0, grid.padded[1]), np.float32)

    def add(self, values: np.ndarray, place: TilePlace, share: float) -> None:
        """Adds a tile's predictions, [C, tile height, tile width], times blending weight and `share` (of
        the views).

        Tile rows must come from top to bottom.
        """
        starts = self.grid.rows.starts
        height, width = self.grid.tile
        top, left = starts[place.row], self.grid.columns.starts[place.column]
        missing = top + height - self.first - self.rows.shape[1]
        if missing > 0:
            fresh = np.zeros((len(self.rows), missing, self.rows.shape[2]), np.float32)
            self.rows = np.concatenate([self.rows, fresh], axis=1)
        if place.mirrored:
            values = values[:, :, ::-1]
        weights = np.outer(
            self.grid.rows.weights[place.row] * share, self.grid.columns.weights[place.column]
        )
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
    """Bilinear resize of one axis at half-pixel centres: out[i] = (1 - fraction) in[lower] + fraction
    in[upper].

    All arrays are [target]. Source positions are (i + 1/2) source / target - 1/2, held at the border.
    """

    lower: np.ndarray
    upper: np.ndarray
    fraction: np.ndarray


def interpolation(source: int, target: int) -> Interpolation:
    """The interpolation that turns an axis of `source` pixels into one of `target` pixels."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    lower = np.floor(place).astype(int)
    return Interpolation(
        lower, np.minimum(lower + 1, source - 1), (place - lower).astype(np.float32)
    )


def resized_rows(
    canvas: Canvas, index: int, vertical: Interpolation, start: int, stop: int, width: int
) -> np.ndarray:
    """Rows start .. stop - 1 of class `index` at another image size: [stop - start, width] float32,
    bilinear."""
    plane = canvas.rows[index, :, : canvas.grid.size[1]]
    fraction = vertical.fraction[start:stop, None]
    rows = plane[vertical.lower[start:stop] - canvas.first]
    if fraction.any():
        rows += fraction * (plane[vertical.upper[start:stop] - canvas.first] - rows)
    if rows.shape[1] == width:
        return rows
    return cv2.resize(rows, (width, len(rows)), interpolation=cv2.INTER_LINEAR)
