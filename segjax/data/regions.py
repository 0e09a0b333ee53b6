"""Superpixels as a derived feature: connected regions that keep to the edges of an image.

A watershed grows one region from each cell of a grid (Machairas et al., Waterpixels, IEEE TIP 2015,
arXiv:1409.3186). The seed of a region is the place of the smallest gradient in its cell. OpenCV's
watershed grows regions over the smallest differences of colour first (Meyer, 1992), and evenly
where the colour is constant.
"""

import functools

import cv2
import numpy as np

from segjax.errors import InputError
from segjax.protocol import Derived, Example
from segjax.spec import Feature

_LIMITS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 255)
"""Differences of colour up to which pixels between regions are given away, one after the other."""


def superpixels(
    num_rows: int, num_columns: int, name: str = 'ids_region', data: str = 'data'
) -> Derived:
    """Returns the superpixels of each image as a derived feature, [H, W] int32 ids.

    The ids are 0 .. num_rows num_columns - 1, row by row. Every id occurs.

    Args:
      num_rows: cells of the grid from top to bottom.
      num_columns: cells of the grid from left to right.
      name: of the feature.
      data: config section of the data set.
    """
    return Derived(
        name,
        Feature('ids'),
        reads=('image',),
        compute=functools.partial(example_regions, num_rows=num_rows, num_columns=num_columns),
        settings={'method': 'watershed', 'num_rows': num_rows, 'num_columns': num_columns},
        data=data,
    )


def example_regions(example: Example, num_rows: int, num_columns: int) -> np.ndarray:
    """Returns the regions [H, W] of 'image'."""
    return regions(example['image'], num_rows, num_columns)


def regions(image: np.ndarray, num_rows: int, num_columns: int) -> np.ndarray:
    """Returns a partition of an image into connected regions (4 neighbours), one for each cell.

    Args:
      image: [H, W, 3] uint8.
      num_rows: cells of the grid from top to bottom.
      num_columns: cells of the grid from left to right.

    Returns:
      [H, W] int32 ids 0 .. num_rows num_columns - 1.

    Raises:
      InputError: more cells than pixels along a side.
    """
    height, width = image.shape[:2]
    if num_rows > height or num_columns > width:
        raise InputError(
            'superpixels',
            got=f'{num_rows} x {num_columns} cells for {height} x {width} pixels',
            expected='at least one pixel in each cell',
        )
    # OpenCV gives the outermost pixels to no region, so it gets a frame around the image.
    framed = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    markers = np.zeros((height + 2, width + 2), np.int32)
    markers[1:-1, 1:-1] = _seeds(image, num_rows, num_columns)
    cv2.watershed(framed, markers)
    return _without_lines(image, markers[1:-1, 1:-1]) - 1


def _seeds(image: np.ndarray, num_rows: int, num_columns: int) -> np.ndarray:
    """Returns [H, W] int32 with 1, 2, ... at the seeds of the cells, and 0 elsewhere."""
    height, width = image.shape[:2]
    gradient = cv2.morphologyEx(image, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(axis=2)
    rows = np.linspace(0, height, num_rows + 1).astype(int)
    columns = np.linspace(0, width, num_columns + 1).astype(int)
    seeds = np.zeros((height, width), np.int32)
    for number in range(num_rows * num_columns):
        row, column = divmod(number, num_columns)
        top, bottom = _inner(rows[row], rows[row + 1])
        left, right = _inner(columns[column], columns[column + 1])
        cell = gradient[top:bottom, left:right].astype(np.float64)
        # The nearest to the centre of equal gradients: below 1 in the whole cell.
        y = (np.arange(top, bottom) - (top + bottom - 1) / 2)[:, None]
        x = np.arange(left, right) - (left + right - 1) / 2
        distance = np.hypot(y, x) / (bottom - top + right - left)
        place = np.unravel_index(np.argmin(cell + distance), cell.shape)
        seeds[top + place[0], left + place[1]] = number + 1
    return seeds


def _inner(first: int, end: int) -> tuple[int, int]:
    """Returns the middle half of a range, at least one number."""
    margin = (end - first) // 4
    return first + margin, end - margin


def _without_lines(image: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """Gives pixels of no region to a region of their 4 neighbours, of a similar colour first.

    Args:
      image: [H, W, 3] uint8.
      markers: [H, W] int32, the regions from 1. OpenCV marks pixels between regions by -1, and
        pixels that such a line encloses by 0.

    Returns:
      [H, W] int32, the regions from 1.
    """
    colors = np.pad(image.astype(np.int32), ((1, 1), (1, 1), (0, 0)))
    filled = np.pad(markers, 1)
    y, x = np.nonzero(filled[1:-1, 1:-1] < 1)
    y += 1
    x += 1
    for limit in _LIMITS:
        changed = True
        # A line of several pixels is filled from its sides.
        while changed and len(y):
            difference = np.full(len(y), 256)
            region = np.zeros(len(y), np.int32)
            for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                near = filled[y + dy, x + dx]
                distance = np.abs(colors[y + dy, x + dx] - colors[y, x]).max(axis=1)
                better = (near > 0) & (distance < difference)
                difference[better] = distance[better]
                region[better] = near[better]
            similar = difference <= limit
            filled[y[similar], x[similar]] = region[similar]
            y = y[~similar]
            x = x[~similar]
            changed = similar.any()
    return filled[1:-1, 1:-1]
