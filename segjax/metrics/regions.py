"""Quality of regions and of their correspondences along a video, in NumPy on the host.

All functions count in sums, so that values of several examples are added and divided once
(`protocol.Mean`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.metrics import curves
from segjax.protocol import Mean
from segjax.spec import IGNORE

SMALL = 2000
"""Pixels below which a region counts as small, in Fig. 3.3 of the thesis of He (STD2P)."""

EDGES = (0, 250, 500, 1000, SMALL, 4000, 8000, 16000, 32000)
"""Smallest sizes of the regions of each bin, in pixels."""


def purity(ids: np.ndarray, label: np.ndarray) -> Mean[np.ndarray]:
    """Returns the share of labelled pixels that have the most frequent class of their region.

    It is the pixel accuracy of a segmentation that gives each region a single class, at best.

    Args:
      ids: [...] regions. Pixels of negative ids do not count. With a leading axis of frames, whose
        ids are ids of the target, a region is a set of matched regions along the time.
      label: [...] train ids, IGNORE where no pixel counts.

    Returns:
      (sum, count) over pixels, float64.
    """
    counts = (ids >= 0) & (label != IGNORE)
    classes = label[counts].astype(np.int64)
    if not len(classes):
        return Mean(np.float64(0), np.float64(0))
    num_classes = classes.max() + 1
    pairs = ids[counts].astype(np.int64) * num_classes + classes
    num_regions = ids.max() + 1
    table = np.bincount(pairs, minlength=num_regions * num_classes)
    table = table.reshape(num_regions, num_classes)
    return Mean(np.float64(table.max(axis=1).sum()), np.float64(len(classes)))


def boundary_recall(ids: np.ndarray, label: np.ndarray, tolerance: float = 2) -> Mean[np.ndarray]:
    """Returns the share of pixels at a boundary of classes that are near a boundary of regions.

    A pixel is at a boundary if its right or its lower neighbour differs. Pixels next to IGNORE are
    at no boundary of classes for this neighbour. No boundary of regions is used up, in contrast to
    the one-to-one matching of the Berkeley benchmark.

    Args:
      ids: [H, W] regions.
      label: [H, W] train ids.
      tolerance: largest distance, in pixels.

    Returns:
      (sum, count) over the pixels at a boundary of classes, float64.
    """
    import cv2  # not at the top: other metrics do without OpenCV

    truth = boundaries(label, label == IGNORE)
    own = boundaries(ids, np.zeros(ids.shape, bool))
    count = np.float64(truth.sum())
    if not own.any():
        return Mean(np.float64(0), count)
    distance = cv2.distanceTransform((~own).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The distance is a float32.
    return Mean(np.float64((distance[truth] <= tolerance + 1e-4).sum()), count)


def boundaries(ids: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Returns the pixels whose right or lower neighbour has another id, bool [H, W].

    Args:
      ids: [H, W].
      ignored: bool [H, W], pixels that differ from no neighbour.
    """
    result = np.zeros(ids.shape, bool)
    across = (ids[:, 1:] != ids[:, :-1]) & ~ignored[:, 1:] & ~ignored[:, :-1]
    down = (ids[1:] != ids[:-1]) & ~ignored[1:] & ~ignored[:-1]
    result[:, :-1] |= across
    result[:-1] |= down
    return result


def num_matches(matches: np.ndarray, offsets: Sequence[int]) -> np.ndarray:
    """Returns the number of frames in which each region of a target has a match, [P] int64.

    Several regions of a frame that match the same region count once. The target itself does not
    count.

    Args:
      matches: [n, P] 'region_matches': regions of the target, -1 for none.
      offsets: [n] of the rows.
    """
    others = matches[np.asarray(offsets) != 0]
    num_regions = matches.shape[1]
    is_matched = np.zeros((len(others), num_regions), bool)
    rows, places = np.nonzero(others >= 0)
    is_matched[rows, others[rows, places]] = True
    return is_matched.sum(axis=0)


def by_size(
    sizes: np.ndarray, num_matched: np.ndarray, edges: Sequence[float] = EDGES
) -> dict[str, Mean[np.ndarray]]:
    """Returns the share of regions, the share of pixels and the number of matches, by size.

    Args:
      sizes: [P] pixels of each region of a target. Regions of 0 pixels do not exist.
      num_matched: [P] frames in which each region has a match, as from `num_matches`.
      edges: [b] smallest sizes of the bins, ascending. The last bin has no largest size.

    Returns:
      'region_share', 'pixel_share' and 'num_matches', each a (sum, count) of [b] float64.
    """
    bins = np.searchsorted(edges, sizes, side='right') - 1
    exists = (sizes > 0) & (bins >= 0)
    bins = bins[exists]
    num_regions = np.bincount(bins, minlength=len(edges)).astype(np.float64)
    pixels = np.bincount(bins, sizes[exists], minlength=len(edges))
    matched = np.bincount(bins, num_matched[exists], minlength=len(edges))
    return {
        'region_share': Mean(num_regions, np.full(len(edges), num_regions.sum())),
        'pixel_share': Mean(pixels, np.full(len(edges), pixels.sum())),
        'num_matches': Mean(matched, num_regions),
    }


def size_scores(
    sums: dict[str, Mean[np.ndarray]], edges: Sequence[float] = EDGES
) -> dict[str, Any]:
    """Returns the statistics of Fig. 3.3 as scores for a report.

    Args:
      sums: of `by_size`, added over targets.
      edges: of the bins.

    Returns:
      'small_regions', the share of regions with fewer than SMALL pixels. 'region_sizes', a curve of
      the shares over the size, and 'matches_by_size', a curve of the mean number of matches. Each
      bin has its smallest size as x. Bins without a region have no point in 'matches_by_size'.

    Raises:
      ValueError: no region.
    """
    edges = np.asarray(edges, np.float64)
    shares = sums['region_share'].value()
    present = sums['num_matches'].count > 0
    matches = sums['num_matches'].sum[present] / sums['num_matches'].count[present]
    series = {'regions': (edges, shares), 'pixels': (edges, sums['pixel_share'].value())}
    size = 'pixels of a region, at least'
    return {
        'small_regions': float(shares[edges < SMALL].sum()),
        'region_sizes': curves.curve(series, size, 'share'),
        'matches_by_size': curves.curve({'matches': (edges[present], matches)}, size, 'matches'),
    }
