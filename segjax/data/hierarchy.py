"""Hierarchies of regions: nested partitions of an image, from its boundary strength.

A watershed of the strength gives fine superpixels. Neighbouring regions are merged in the order of
the mean strength along their common boundary, from weak to strong. The merges are a binary tree.
Its cut at a threshold is a partition, and cuts are nested. The map of the thresholds at which each
boundary vanishes is the ultrametric contour map (UCM).

Source: Arbelaez, Maire, Fowlkes, Malik, Contour Detection and Hierarchical Image Segmentation,
TPAMI 2011. Here, the direction of a boundary is measured on the strength itself. The watershed and
the tree are functions of the package higra (Perret et al., Higra: Hierarchical Graph Analysis,
SoftwareX 2019).
"""

import importlib
import types
from typing import NamedTuple

import cv2
import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from segjax.errors import InputError

GUIDE = 0.25
"""Weight of the guide in the watershed, relative to the strength."""
REACH = 3
"""Pixels by which the guide may move a boundary."""
ORIENTATION_SIGMA = 3.0
"""Blur of the strength before the direction of boundaries is measured, in pixels."""
CHORD = 5.0
"""Length in pixels from which on the direction of a boundary is sure."""
MIN_PIXELS = 30
"""Smaller superpixels are merged before the hierarchy is built."""


class Hierarchy(NamedTuple):
    """A tree of regions of an image.

    Nodes 0 .. n-1 are the superpixels. Node n + i is the i-th merge. The last node is the image.

    superpixels  [H, W] int32, 0 .. n-1
    parents      [2n - 1] int64, the node into which a node is merged. The last node is its own
    altitudes    [2n - 1] float32, the mean boundary strength of a merge, not falling from a node to
                 its parent. Superpixels have -1
    """

    superpixels: np.ndarray
    parents: np.ndarray
    altitudes: np.ndarray

    def cut(self, threshold: float) -> np.ndarray:
        """Returns the regions between which all boundaries have at least a strength.

        Regions are numbered by their first pixel, row by row. They are connected (4 neighbours).
        The regions of a lower threshold are parts of the regions of a higher threshold.

        Args:
          threshold: merges below it are done.

        Returns:
          [H, W] int32 ids 0 .. n-1. Every id occurs.
        """
        # Each node points to its highest ancestor below the threshold, in a logarithm of steps.
        is_merged = self.altitudes[self.parents] < threshold
        above = np.where(is_merged, self.parents, np.arange(len(self.parents)))
        while (above[above] != above).any():
            above = above[above]
        regions = above[: (len(above) + 1) // 2][self.superpixels]
        return in_order(regions)

    def cut_to(self, num_regions: int) -> np.ndarray:
        """Returns the finest cut with at most a number of regions, as `cut`.

        Merges of equal strength are done together, so there may be fewer regions.

        Args:
          num_regions: largest number of regions, at least 1.
        """
        return self.cut(self.threshold_of(num_regions))

    def threshold_of(self, num_regions: int) -> float:
        """Returns the lowest threshold whose cut has at most a number of regions.

        Args:
          num_regions: largest number of regions, at least 1.

        Raises:
          InputError: a number below 1.
        """
        if num_regions < 1:
            raise InputError(
                'number of regions of a hierarchy', got=str(num_regions), expected='at least 1'
            )
        num_superpixels = (len(self.parents) + 1) // 2
        num_merges = num_superpixels - num_regions
        if num_merges <= 0:
            return 0.0
        merges = np.sort(self.altitudes[num_superpixels:])
        return float(np.nextafter(merges[num_merges - 1], np.float32(np.inf)))

    def limited_cut(self, threshold: float, num_regions: int) -> np.ndarray:
        """Returns the cut at a threshold, which rises until there are few enough regions.

        Args:
          threshold: as in `cut`.
          num_regions: largest number of regions, at least 1.

        Returns:
          [H, W] int32 ids 0 .. n-1, n <= num_regions.
        """
        return self.cut(max(threshold, self.threshold_of(num_regions)))

    def ucm(self) -> np.ndarray:
        """Returns the ultrametric contour map, [2H - 1, 2W - 1] float32.

        Pixel (y, x) is at (2y, 2x) and has 0. The place between two neighbours has the strength of
        the merge that joins them, 0 inside a superpixel. A place between four pixels has the
        largest strength of the four places around it. The areas below a threshold are the regions
        of `cut`, without the boundaries between them.
        """
        higra = load_higra()
        tree = higra.Tree(self.parents)
        tree.lowest_common_ancestor_preprocess()
        height, width = self.superpixels.shape
        contours = np.zeros((2 * height - 1, 2 * width - 1), np.float32)
        ids = self.superpixels
        pairs = ((ids[:, :-1], ids[:, 1:], (0, 1)), (ids[:-1], ids[1:], (1, 0)))
        for first, second, (row, column) in pairs:
            merge = tree.lowest_common_ancestor(
                first.ravel().astype(np.int64), second.ravel().astype(np.int64)
            )
            strength = np.maximum(self.altitudes[merge], 0)
            contours[row::2, column::2] = strength.reshape(first.shape)

        # The crossings of the lines between rows and the lines between columns.
        beside = np.maximum(contours[1::2, 0:-1:2], contours[1::2, 2::2])
        across = np.maximum(contours[0:-1:2, 1::2], contours[2::2, 1::2])
        contours[1::2, 1::2] = np.maximum(beside, across)
        return contours

    def boundaries(self) -> np.ndarray:
        """Returns the contour map at the size of the image, [H, W] float32.

        A pixel has the largest strength between itself, its right neighbour, its lower neighbour
        and the pixel below the right neighbour. So boundaries are a pixel wide.
        """
        contours = np.pad(self.ucm(), (0, 1))
        sides = np.maximum(contours[0::2, 1::2], contours[1::2, 0::2])
        return np.maximum(sides, contours[1::2, 1::2])


def load_higra() -> types.ModuleType:
    """Returns the package higra. Raises InputError if it is not installed."""
    try:
        return importlib.import_module('higra')
    except ImportError as error:
        raise InputError(
            'hierarchy of regions',
            got='no package higra, which has no wheel for Linux on ARM',
            expected='higra installed',
            fix="pip install higra, or use the method 'slic' or 'felzenszwalb'",
        ) from error


def in_order(regions: np.ndarray) -> np.ndarray:
    """Numbers regions by their first pixel, row by row.

    Args:
      regions: [H, W] integers.

    Returns:
      [H, W] int32 ids 0 .. n-1. Every id occurs.
    """
    _, first, ids = np.unique(regions, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[ids.reshape(regions.shape)]


def connected_parts(regions: np.ndarray) -> np.ndarray:
    """Returns the connected parts (4 neighbours) of regions.

    Args:
      regions: [H, W] integers.

    Returns:
      [H, W] int32 ids 0 .. n-1, in the order of the first pixel.
    """
    number = np.arange(regions.size).reshape(regions.shape)
    right = regions[:, :-1] == regions[:, 1:]
    below = regions[:-1] == regions[1:]
    sources = np.concatenate([number[:, :-1][right], number[:-1][below]])
    targets = np.concatenate([number[:, 1:][right], number[1:][below]])
    ones = np.ones(len(sources), bool)
    pairs = scipy.sparse.coo_array((ones, (sources, targets)), (regions.size, regions.size))
    _, parts = scipy.sparse.csgraph.connected_components(pairs, directed=False)
    return in_order(parts.reshape(regions.shape))


def without_small(regions: np.ndarray, min_pixels: int, strength: np.ndarray) -> np.ndarray:
    """Merges small regions with the neighbour behind their weakest boundary.

    All small regions choose a neighbour at the same time. This is repeated until no region is
    small. A single region is never small. Of equal boundaries, the longer counts.

    Args:
      regions: [H, W] integers, connected.
      min_pixels: smaller regions are merged.
      strength: [H, W] in [0, 1], boundary strength.

    Returns:
      [H, W] int32 ids 0 .. n-1, connected.
    """
    regions = in_order(regions)
    while True:
        sizes = np.bincount(regions.ravel())
        small = sizes < min_pixels
        if not small.any() or len(sizes) == 1:
            return regions
        boundaries = _boundaries(regions, strength)
        length = boundaries.sums(np.ones(len(boundaries.index)))
        mean = boundaries.sums(strength.ravel()[boundaries.pixels]) / length

        # The first row of each small region is its weakest boundary, both ways.
        own = boundaries.regions.T.ravel()
        other = boundaries.regions[:, ::-1].T.ravel()
        cost = np.tile(mean + 1e-6 / length, 2)
        chosen = small[own]
        order = np.lexsort((other[chosen], cost[chosen], own[chosen]))
        merged, first = np.unique(own[chosen][order], return_index=True)
        target = other[chosen][order][first]
        pairs = scipy.sparse.coo_array((np.ones(len(merged)), (merged, target)), (len(sizes),) * 2)
        _, joined = scipy.sparse.csgraph.connected_components(pairs, directed=False)
        regions = in_order(joined[regions])


class _Boundaries(NamedTuple):
    """The boundaries between neighbouring regions, m boundaries of k pairs of pixels in all.

    regions   [m, 2] the regions of a boundary
    index     [k] boundary of each pair of pixels
    pixels    [k] position of the stronger pixel of each pair in the flat image
    normals   [k, 2] (x, y) unit vector from the pixel of the first region to the second region
    """

    regions: np.ndarray
    index: np.ndarray
    pixels: np.ndarray
    normals: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum [m] of the values [k] of each boundary."""
        return np.bincount(self.index, values, minlength=len(self.regions))


def _boundaries(regions: np.ndarray, strength: np.ndarray) -> _Boundaries:
    """Returns the boundaries between regions.

    Args:
      regions: [H, W] ids 0 .. n-1.
      strength: [H, W], boundary strength.
    """
    ids = regions.ravel()
    flat = strength.ravel()
    number = np.arange(regions.size).reshape(regions.shape)
    firsts = (number[:, :-1].ravel(), number[:-1].ravel())
    seconds = (number[:, 1:].ravel(), number[1:].ravel())
    steps = np.repeat([[1, 0], [0, 1]], [len(first) for first in firsts], axis=0)
    first = np.concatenate(firsts)
    second = np.concatenate(seconds)
    differs = ids[first] != ids[second]
    first = first[differs]
    second = second[differs]

    # A normal points from the smaller to the larger id, on whichever side they are.
    normals = steps[differs] * np.sign(ids[second] - ids[first])[:, None]
    lower = np.minimum(ids[first], ids[second]).astype(np.int64)
    upper = np.maximum(ids[first], ids[second])
    num_regions = int(ids.max()) + 1
    key, index = np.unique(lower * num_regions + upper, return_inverse=True)
    pixels = np.where(flat[first] >= flat[second], first, second)
    pairs = np.stack([key // num_regions, key % num_regions], -1)
    return _Boundaries(pairs, index, pixels, normals)


def build(
    strength: np.ndarray, guide: np.ndarray | None = None, min_pixels: int = MIN_PIXELS
) -> Hierarchy:
    """Returns the hierarchy of regions of an image.

    Args:
      strength: [H, W] float32 in [0, 1], boundary strength.
      guide: [H, W, C] float32. Boundaries move by up to REACH pixels to the largest difference of
        neighbours in it. The norm of a difference counts up to 1. None: they stay.
      min_pixels: smaller superpixels are merged with the neighbour behind the weakest boundary.

    Raises:
      InputError: a strength that is no map, has numbers outside of [0, 1], or a guide of another
        size.
    """
    # The watershed gives each pixel to a minimum of the strength.
    _check(strength, guide)
    higra = load_higra()
    height, width = strength.shape
    graph = higra.get_4_adjacency_graph((height, width))
    sources, targets = graph.edge_list()
    flat = strength.ravel().astype(np.float32)
    weights = (flat[sources] + flat[targets]) / 2
    superpixels = in_order(higra.labelisation_watershed(graph, weights).reshape(strength.shape))
    if guide is not None:
        values = guide.reshape(height * width, -1)
        difference = np.linalg.norm(values[sources] - values[targets], axis=1)
        guided = weights + GUIDE * np.minimum(difference, 1)
        superpixels = _refined(higra, graph, superpixels, guided)
    superpixels = without_small(superpixels, min_pixels, strength)
    if superpixels.max() == 0:
        return Hierarchy(superpixels, np.zeros(1, np.int64), np.full(1, -1, np.float32))

    # The tree merges the neighbours with the weakest mean strength, weighted by length.
    boundaries = _boundaries(superpixels, strength)
    length = boundaries.sums(np.ones(len(boundaries.index)))
    mean = boundaries.sums(_crossing_strength(boundaries, strength)) / length
    neighbours = higra.UndirectedGraph(int(superpixels.max()) + 1)
    neighbours.add_edges(*boundaries.regions.T)
    tree, altitudes = higra.binary_partition_tree_average_linkage(neighbours, mean, length)
    return _monotone(superpixels, np.asarray(tree.parents()), np.asarray(altitudes))


def _crossing_strength(boundaries: _Boundaries, strength: np.ndarray) -> np.ndarray:
    """Returns the strength across a boundary at each of its pairs of pixels, [k].

        strength (1 - trust (1 - |cos(angle)|)),     trust = min(1, chord / CHORD)

    `angle` is between the normal of the whole boundary and the direction across the ridge of the
    strength (`normal_angles`). So the pieces into which the flank of a ridge falls are merged: the
    strength between them belongs to the ridge, along which they lie. `chord` is the length of the
    sum of the normals. Boundaries of few pixels, and boundaries that turn, have no sure normal.

    Args:
      boundaries: of the regions.
      strength: [H, W], boundary strength.
    """
    across = normal_angles(strength).ravel()[boundaries.pixels]
    along_x = boundaries.sums(boundaries.normals[:, 0])
    along_y = boundaries.sums(boundaries.normals[:, 1])
    chord = np.hypot(along_x, along_y)
    trust = np.minimum(chord / CHORD, 1)[boundaries.index]
    angle = np.arctan2(along_y, along_x)[boundaries.index] - across
    share = 1 - trust * (1 - np.abs(np.cos(angle)))
    return strength.ravel()[boundaries.pixels] * share


def normal_angles(strength: np.ndarray) -> np.ndarray:
    """Returns the direction across the boundary at each pixel, [H, W] float32 in radians.

    It is the direction of the most negative curvature of the blurred strength. 0 points along x,
    pi / 2 along y.

    Args:
      strength: [H, W] float32, boundary strength.
    """
    border = cv2.BORDER_REPLICATE
    blurred = cv2.GaussianBlur(strength, (0, 0), ORIENTATION_SIGMA, borderType=border)
    xx = cv2.Sobel(blurred, cv2.CV_32F, 2, 0, ksize=3, borderType=border)
    yy = cv2.Sobel(blurred, cv2.CV_32F, 0, 2, ksize=3, borderType=border)
    xy = cv2.Sobel(blurred, cv2.CV_32F, 1, 1, ksize=3, borderType=border)
    # Half this angle is the direction of the largest curvature, along the boundary.
    return (np.arctan2(2 * xy, xx - yy) + np.pi) / 2


def _check(strength: np.ndarray, guide: np.ndarray | None) -> None:
    """Raises InputError for a wrong strength or guide."""
    if strength.ndim != 2 or 0 in strength.shape:
        raise InputError(
            'boundary strength', got=f'shape {strength.shape}', expected='[height, width]'
        )
    if not (strength >= 0).all() or not (strength <= 1).all():
        got = f'numbers from {strength.min()} to {strength.max()}'
        raise InputError('boundary strength', got=got, expected='numbers in [0, 1]')
    if guide is not None and guide.shape[:2] != strength.shape:
        got = f'shape {guide.shape} for a strength of shape {strength.shape}'
        raise InputError('guide of a hierarchy', got=got, expected='[height, width, C]')


def _refined(
    higra: types.ModuleType, graph, superpixels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Returns superpixels whose boundary pixels are distributed anew by other weights.

    Args:
      higra: the package.
      graph: of the 4 neighbours of each pixel.
      superpixels: [H, W] integers, connected.
      weights: of the edges of the graph.

    Returns:
      [H, W] int32, connected superpixels. Each keeps its pixels that are REACH from its
      boundary, or the deepest pixels if there are none. A superpixel that falls apart becomes
      several superpixels.
    """
    # The depth of a pixel is its distance to the boundary of the superpixel, up to REACH.
    deep = np.ones(superpixels.shape, bool)
    depth = np.zeros(superpixels.shape, int)
    for _ in range(REACH):
        marked = np.where(deep, superpixels, -1)
        padded = np.pad(marked, 1, mode='edge')
        for near in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
            deep &= near == superpixels
        depth += deep
    deepest = np.zeros(superpixels.max() + 1, int)
    np.maximum.at(deepest, superpixels.ravel(), depth.ravel())
    kept = depth == deepest[superpixels]

    # A seed is a connected part of the kept pixels. Parts of a superpixel that meet join again.
    parts = connected_parts(np.where(kept, superpixels, -1))
    seeds = np.where(kept, parts + 1, 0).ravel()
    owner = np.zeros(parts.max() + 2, int)
    owner[seeds] = superpixels.ravel()
    labels = higra.labelisation_seeded_watershed(graph, weights, seeds).ravel()
    return connected_parts(owner[labels].reshape(superpixels.shape))


def _monotone(superpixels: np.ndarray, parents: np.ndarray, altitudes: np.ndarray) -> Hierarchy:
    """Returns a hierarchy whose altitudes do not fall from a node to its parent.

    A merge can be weaker than an earlier merge by a rounding error.
    """
    num_superpixels = (len(parents) + 1) // 2
    altitudes = altitudes.astype(np.float32)
    altitudes[:num_superpixels] = -1
    for node in range(num_superpixels, len(parents) - 1):
        parent = parents[node]
        altitudes[parent] = max(altitudes[parent], altitudes[node])
    return Hierarchy(superpixels, parents.astype(np.int64), altitudes)
