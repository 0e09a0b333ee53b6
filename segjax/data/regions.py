"""Superpixels as a derived feature: connected regions that keep to the edges of an image.

`superpixels`. A watershed grows one region from each cell of a grid (Machairas et al., Waterpixels,
IEEE TIP 2015, arXiv:1409.3186). The seed of a region is the place of the smallest gradient in its
cell. OpenCV's watershed grows regions over the smallest differences of colour first (Meyer, 1992),
and evenly where the colour is constant.

`region_feature`. Regions of colour, or of colour and depth, by a method of METHODS:

    hierarchy     cut of a region hierarchy (segjax/data/hierarchy.py)
    slic          Achanta et al., SLIC Superpixels Compared to State-of-the-art Superpixel Methods,
                  TPAMI 2012
    felzenszwalb  Felzenszwalb, Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import scipy.ndimage

from segjax.data import edges as edge_methods
from segjax.data import hierarchy
from segjax.data.edges import EdgeMethod
from segjax.errors import InputError, unknown_name
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


# --- methods --------------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    'hierarchy': {'threshold': 0.2, 'min_pixels': hierarchy.MIN_PIXELS},
    'slic': {'side': 24, 'compactness': 20.0, 'sigma': 1.0, 'min_pixels': 144},
    'felzenszwalb': {'sigma': 1.0, 'scale': 100.0, 'min_pixels': 100},
}
"""Options of the methods, with defaults.

threshold    boundary strength, below which regions are merged
min_pixels   smaller regions are merged. hierarchy: smaller superpixels before the first merge
side         of a square with the area of a usual region, in pixels
compactness  weight of the distance of pixels against the difference of colours
sigma        blur of the image, in pixels
scale        preference for large regions
"""

INVERSE_DEPTH_UNITS = 300.0
"""Units of CIELAB that a difference of the inverse depth of 1 / metre is worth."""

_GUIDE_UNITS = 30.0
"""Difference in CIELAB that counts as much as a boundary can in the guide of a hierarchy."""


def region_feature(
    method: str = 'hierarchy',
    edges: EdgeMethod | None = None,
    depth: bool = False,
    num_regions: int = 550,
    name: str = 'ids_region',
    data: str = 'data',
    **options: Any,
) -> Derived:
    """Returns the regions of each image as a derived feature, [H, W] int32 ids 0 .. n-1.

    Regions are connected (4 neighbours), and every pixel has a region. n differs between images and
    is at most `num_regions`. A hierarchy with more regions is cut at the lowest threshold that has
    few enough. Other methods raise an error for such an image.

    Args:
      method: a name of METHODS.
      edges: the boundary strength of a hierarchy. None: `edges.gradients(depth)`.
      depth: whether the data set has 'depth', which the method then reads.
      num_regions: largest number of regions of an image.
      name: of the feature.
      data: config section of the data set.
      **options: of the method that differ from METHODS.

    Raises:
      InputError: an unknown method or option, edges of a method that has none, or a number of
        regions below 1.
    """
    _check_arguments(method, edges, num_regions, name, options)
    options = {**METHODS[method], **options}
    settings = {'method': method, 'depth': depth, 'num_regions': num_regions, **options}
    reads = ('image', 'depth') if depth else ('image',)

    # A hierarchy also depends on everything that its boundary strength depends on.
    if method == 'hierarchy':
        hierarchy.load_higra()
        edges = edges or edge_methods.gradients(depth)
        reads = tuple(dict.fromkeys((*reads, *edges.reads)))
        settings |= {'edges': edges.name, 'edge_settings': dict(edges.settings)}
    compute = functools.partial(
        _example_regions,
        method=method,
        strength_of=None if edges is None else edges.compute,
        depth=depth,
        num_regions=num_regions,
        options=options,
    )
    return Derived(name, Feature('regions'), reads, compute, settings, data=data)


def _check_arguments(
    method: str,
    edges: EdgeMethod | None,
    num_regions: int,
    name: str,
    options: Mapping[str, Any],
) -> None:
    """Raises InputError for wrong arguments of `region_feature`."""
    # A wrong name is answered with the nearest name.
    if method not in METHODS:
        raise unknown_name(f'method of feature {name!r}', method, METHODS)
    for option in options:
        if option not in METHODS[method]:
            where = f'option of method {method!r} of feature {name!r}'
            raise unknown_name(where, option, METHODS[method])
    if num_regions < 1:
        where = f'number of regions of feature {name!r}'
        raise InputError(where, got=str(num_regions), expected='at least 1')
    if edges is not None and method != 'hierarchy':
        raise InputError(
            f'edges of feature {name!r}',
            got=f'edges {edges.name!r} for the method {method!r}',
            expected="no edges, which the method 'hierarchy' alone reads",
            fix="method='hierarchy', or edges=None",
        )


def nested_features(
    thresholds: Sequence[float], name: str = 'ids_region', **arguments: Any
) -> tuple[Derived, ...]:
    """Returns cuts of the hierarchy of each image as derived features, from fine to coarse.

    The features are '{name}_0', '{name}_1', ... A region of a feature lies inside a region of each
    later feature.

    Args:
      thresholds: a threshold for each feature, ascending.
      name: start of the names of the features.
      **arguments: of `region_feature`, except method and threshold.

    Raises:
      InputError: thresholds that do not ascend, or an error of `region_feature`.
    """
    if list(thresholds) != sorted(set(thresholds)) or not thresholds:
        raise InputError(
            f'thresholds of the features {name!r}',
            got=str(tuple(thresholds)),
            expected='numbers from low to high, each once',
        )
    features = []
    for i, threshold in enumerate(thresholds):
        feature = region_feature('hierarchy', threshold=threshold, name=f'{name}_{i}', **arguments)
        features.append(feature)
    return tuple(features)


def _example_regions(
    example: Example,
    method: str,
    strength_of: Any,
    depth: bool,
    num_regions: int,
    options: Mapping[str, Any],
) -> np.ndarray:
    """Returns the regions of an example. The arguments are as in `region_feature`."""
    image = example['image']
    depth_map = example['depth'] if depth else None
    if method == 'hierarchy':
        tree = image_hierarchy(image, strength_of(example), depth_map, options['min_pixels'])
        return tree.limited_cut(options['threshold'], num_regions)
    ids = {'slic': slic, 'felzenszwalb': felzenszwalb}[method](image, depth_map, **options)
    number = int(ids.max()) + 1
    if number > num_regions:
        raise InputError(
            f'regions by the method {method!r}',
            got=f'{number} regions',
            expected=f'at most {num_regions}',
            fix=f'--config.regions.num_regions={number}',
        )
    return ids


def image_hierarchy(
    image: np.ndarray,
    strength: np.ndarray,
    depth: np.ndarray | None = None,
    min_pixels: int = hierarchy.MIN_PIXELS,
) -> hierarchy.Hierarchy:
    """Returns the region hierarchy of an image, whose boundaries keep to changes of its pixels.

    Args:
      image: [H, W, 3] uint8, RGB.
      strength: [H, W] float32 in [0, 1], boundary strength.
      depth: [H, W] float32 in metres, 0 where it is not measured. None: colour alone.
      min_pixels: as in METHODS.

    Raises:
      InputError: a strength or a depth map of another size, or a depth map without a measured
        pixel.
    """
    guide = pixel_values(image, depth) / np.float32(_GUIDE_UNITS)
    return hierarchy.build(strength, guide, min_pixels)


def pixel_values(image: np.ndarray, depth: np.ndarray | None = None) -> np.ndarray:
    """Returns colours in CIELAB, and the inverse depth in comparable units.

    A pixel without depth has the inverse depth of the nearest pixel that is measured.

    Args:
      image: [H, W, 3] uint8, RGB.
      depth: [H, W] float32 in metres, 0 where it is not measured. None: colour alone.

    Returns:
      [H, W, 3] float32, or [H, W, 4] with INVERSE_DEPTH_UNITS / z.

    Raises:
      InputError: a depth map of another size, or without a measured pixel.
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    if depth is None:
        return lab
    edge_methods.check_depth(depth, image.shape[:2])
    is_missing = ~(depth > 0)
    if is_missing.any():
        nearest = scipy.ndimage.distance_transform_edt(
            is_missing, return_distances=False, return_indices=True
        )
        depth = depth[tuple(nearest)]
    inverse = np.float32(INVERSE_DEPTH_UNITS) / depth
    return np.concatenate([lab, inverse[..., None]], -1).astype(np.float32)


def slic(
    image: np.ndarray,
    depth: np.ndarray | None = None,
    side: int = 24,
    compactness: float = 20.0,
    sigma: float = 1.0,
    min_pixels: int = 144,
) -> np.ndarray:
    """Returns compact regions of similar colour and depth by SLIC.

    Args:
      image: [H, W, 3] uint8, RGB.
      depth: [H, W] float32 in metres, 0 where it is not measured. None: colour alone.
      side: as in METHODS.
      compactness: as in METHODS.
      sigma: as in METHODS.
      min_pixels: as in METHODS.

    Returns:
      [H, W] int32 ids 0 .. n-1, connected.

    Raises:
      InputError: a depth map of another size, or without a measured pixel.
    """
    values = pixel_values(image, depth)
    values = cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    method = cv2.ximgproc.createSuperpixelSLIC(values, cv2.ximgproc.SLIC, side, compactness)
    method.iterate(10)
    return _connected(method.getLabels(), min_pixels)


def felzenszwalb(
    image: np.ndarray,
    depth: np.ndarray | None = None,
    sigma: float = 1.0,
    scale: float = 100.0,
    min_pixels: int = 100,
) -> np.ndarray:
    """Returns regions of even colour and depth by graph-based segmentation.

    METHODS explains `sigma` and `scale`. The remaining arguments, the result and the errors are
    those of `slic`.
    """
    values = pixel_values(image, depth)
    method = cv2.ximgproc.segmentation.createGraphSegmentation(sigma, scale, min_pixels)
    return _connected(method.processImage(values), min_pixels)


def _connected(labels: np.ndarray, min_pixels: int) -> np.ndarray:
    """Returns the connected parts of labels, without small parts.

    A small part joins the neighbour with which it shares the longest boundary.
    """
    parts = hierarchy.connected_parts(labels)
    return hierarchy.without_small(parts, min_pixels, np.zeros(labels.shape, np.float32))
