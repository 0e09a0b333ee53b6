"""Scores boundaries as the Berkeley segmentation benchmark does, on the host.

Arbelaez, Maire, Fowlkes, Malik: Contour Detection and Hierarchical Image Segmentation, PAMI 2011,
section 3.1. Martin, Fowlkes, Malik: Learning to Detect Natural Image Boundaries, PAMI 2004.

A map of boundary strengths is compared with a threshold, and thinned to lines of one pixel. Its
pixels are assigned to true boundary pixels, one to one, over at most `max_dist` diagonals.

    precision(t) = #{predicted pixels matched with any annotator} / #{predicted pixels}
    recall(t)    = sum_a #{pixels of annotator a that are matched} / sum_a #{pixels of a}
    F            = 2 precision recall / (precision + recall)

All four counts are added up over the data set before the division.

    ODS  largest F at a threshold of the whole data set
    OIS  F of the counts at the best threshold of each image
    AP   area under the precision over the recall

The assignment has the largest number of pairs, and among such assignments the smallest sum of
distances: a pair less costs as much as a hundred largest distances. The published code adds edges
to random outliers, which cost it a few pairs. docs/results/boundary_benchmark.md compares both.

A boundary pixel is a pixel whose lower right corner touches different regions. So a map has the
size of its image, and maps of regions, classes, probabilities and contours lie at the same places.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage, sparse, spatial
from scipy.sparse import csgraph

from segjax.errors import InputError
from segjax.metrics.curves import curve
from segjax.protocol import Array, Mean
from segjax.spec import IGNORE

COUNTS = ('matched_predictions', 'predictions', 'matched_truth', 'truth')
"""Numbers of pixels that are counted, in the order of the last axis of all counts."""
NUM_THRESHOLDS = 99
MAX_DIST = 0.0075
"""Largest distance of a match, in diagonals of the image. Work on NYUDv2 uses 0.011."""

_UNIT = 100
"""Parts of a pixel in which distances of matches are rounded to whole numbers."""
_OUTLIER_COST = 100
"""Cost of a pair less, in largest distances."""


class Truth(NamedTuple):
    """The true boundaries of an image.

    boundaries  [H, W] bool of each annotator, lines of one pixel
    counted     [H, W] bool. Boundary pixels of both sides outside it take part in the matching, but
                they are not counted
    """

    boundaries: tuple[np.ndarray, ...]
    counted: np.ndarray


class FMeasure(NamedTuple):
    """Precision, recall and their harmonic mean, in [0, 1]. A quotient 0 / 0 is 0."""

    precision: float
    recall: float
    f: float


def even_thresholds(number: int = NUM_THRESHOLDS) -> np.ndarray:
    """Returns thresholds with even distances between 0 and 1.

        t_k = k / (n + 1),     k = 1 .. n

    Raises:
      InputError: no threshold.
    """
    if number < 1:
        raise InputError('thresholds of boundaries', got=f'{number}', expected='at least 1')
    return np.linspace(1 / (number + 1), 1 - 1 / (number + 1), number)


# --- maps -----------------------------------------------------------------------------------------


def label_boundaries(labels: ArrayLike, ignore: int | None = None) -> np.ndarray:
    """Returns the boundary pixels of a map of regions or classes, before thinning.

    A pixel is a boundary if two 4-neighbours among itself and its right, lower and lower right
    neighbours have different labels.

    Args:
      labels: [H, W] integers.
      ignore: label that makes no boundary with its neighbours. None: all labels do.

    Returns:
      [H, W] bool.
    """
    labels = _map_of('label map', labels)
    down = labels[1:] != labels[:-1]
    right = labels[:, 1:] != labels[:, :-1]
    if ignore is not None:
        known = labels != ignore
        down &= known[1:] & known[:-1]
        right &= known[:, 1:] & known[:, :-1]
    return np.asarray(_at_corners(down, right, np))


def boundary_strength(probabilities: Array, size: Array | None = None) -> Array:
    """Computes the strength of the boundary between class probabilities, on the device.

        s(p, q) = 1 - sum_c min(p_c, q_c)

    This is the total variation distance of 4-neighbours p and q. The strength of a pixel is the
    largest among the pairs that `label_boundaries` compares. One-hot maps have the strength 1 at
    the boundaries of their labels, and 0 elsewhere.

    Args:
      probabilities: [..., H, W, C], sums to 1 over C.
      size: [..., 2] height and width of the part without padding. Padding makes no boundary.

    Returns:
      [..., H, W] float32 in [0, 1].
    """
    values = jnp.asarray(probabilities, jnp.float32)
    height, width = values.shape[-3:-1]
    down = 1 - jnp.minimum(values[..., 1:, :, :], values[..., :-1, :, :]).sum(-1)
    right = 1 - jnp.minimum(values[..., :, 1:, :], values[..., :, :-1, :]).sum(-1)

    # A pair lies in the image if both of its pixels do.
    if size is not None:
        rows = jnp.arange(height)[:, None] < size[..., :1, None]  # [..., H, 1]
        columns = jnp.arange(width)[None] < size[..., 1:, None]  # [..., 1, W]
        inside = rows & columns
        down = jnp.where(inside[..., 1:, :], down, 0)
        right = jnp.where(inside[..., :, 1:], right, 0)
    return jnp.clip(_at_corners(down, right, jnp), 0, 1)


def ucm_strength(ucm: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """Returns the strengths of an ultrametric contour map at the pixels of its image.

    Maps with places between the pixels have contours at even places. The place [2i + 2, 2j + 2] of
    a map [2H + 1, 2W + 1] is the lower right corner of pixel [i, j]. A map [2H - 1, 2W - 1] lacks
    the frame around the image, whose places repeat the nearest inner places.

    Args:
      ucm: [2H + 1, 2W + 1], [2H - 1, 2W - 1] or [H, W] in [0, 1].
      size: (H, W) of the image.

    Returns:
      [H, W] float64.

    Raises:
      InputError: another size, or values outside [0, 1].
    """
    strengths = _strengths(ucm)
    height, width = size
    if strengths.shape == (2 * height - 1, 2 * width - 1):
        strengths = np.pad(strengths, 1, mode='edge')
    if strengths.shape == (2 * height + 1, 2 * width + 1):
        return strengths[2::2, 2::2]
    if strengths.shape == (height, width):
        return strengths
    sizes = f'{2 * height + 1} x {2 * width + 1}, {2 * height - 1} x {2 * width - 1}'
    raise InputError(
        'ultrametric contour map',
        got=f'{_size(strengths)} for an image of {height} x {width} pixels',
        expected=f'{sizes} or {height} x {width}',
        fix='check that the contours and the truth are of the same image, and not transposed',
    )


def thin(boundaries: ArrayLike) -> np.ndarray:
    """Thins boundaries to lines of one pixel that are connected as before.

    Guo and Hall: Parallel Thinning with Two-Subiteration Algorithms, CACM 1989. The benchmark
    has the same result (`bwmorph` of MATLAB).

    Args:
      boundaries: [H, W] bool.
    """
    import cv2  # not at the top: other metrics do without OpenCV

    pixels = _map_of('boundary map', boundaries).astype(bool)
    # OpenCV leaves the outermost pixels as they are, so they get a frame. Half a turn exchanges its
    # two subiterations. MATLAB begins with the second.
    turned = np.pad(pixels, 1)[::-1, ::-1].astype(np.uint8) * 255
    lines = cv2.ximgproc.thinning(turned, thinningType=cv2.ximgproc.THINNING_GUOHALL)
    return lines[::-1, ::-1][1:-1, 1:-1] > 0


def _at_corners(down: Any, right: Any, xp: Any) -> Any:
    """Returns the largest value of the four pairs around the lower right corner of each pixel.

    Args:
      down: [..., H - 1, W] of the pairs of a pixel and the pixel below.
      right: [..., H, W - 1] of the pairs of a pixel and the pixel to the right.
      xp: numpy or jax.numpy.

    Returns:
      [..., H, W]. Pairs outside the image have no value.
    """
    before = [(0, 0)] * (down.ndim - 2)
    down = xp.pad(down, [*before, (0, 1), (0, 1)])
    right = xp.pad(right, [*before, (0, 1), (0, 1)])
    of_rows = xp.maximum(right[..., :-1, :], right[..., 1:, :])
    of_columns = xp.maximum(down[..., :, :-1], down[..., :, 1:])
    return xp.maximum(of_rows, of_columns)


# --- truth ----------------------------------------------------------------------------------------


def annotated_truth(boundaries: tuple[ArrayLike, ...]) -> Truth:
    """Returns the truth of an image with boundaries of several annotators. All pixels count.

    Args:
      boundaries: [H, W] bool of each annotator, lines of one pixel.

    Raises:
      InputError: no annotator, or different sizes.
    """
    maps = tuple(_map_of('true boundaries', pixels).astype(bool) for pixels in boundaries)
    if not maps:
        raise InputError(
            'true boundaries',
            got='no annotator',
            expected='a map of boundaries of at least one annotator',
        )
    for pixels in maps[1:]:
        _check_sizes('true boundaries of a further annotator', pixels, maps[0])
    return Truth(maps, np.ones(maps[0].shape, bool))


def class_truth(labels: ArrayLike, max_dist: float = MAX_DIST, ignore: int = IGNORE) -> Truth:
    """Returns the boundaries between classes, and the pixels that count.

    Annotations of indoor scenes leave thin strips between objects unlabelled. A strip is a line
    between the objects: its pixels get the label of the nearest labelled pixel. A wide area is
    unknown: near it, neither predicted nor true boundaries are counted.

        r       = max_dist * diagonal                        the largest distance of a match
        wide    = unlabelled pixels inside a disc of radius r of unlabelled pixels
        strips  = unlabelled pixels that are not wide
        counted = pixels that are farther than r from every wide pixel

    The disc of a pixel may reach out of the image. A strip inside one class makes no boundary.

    Args:
      labels: [H, W] train ids.
      max_dist: largest distance of a match, in diagonals.
      ignore: label of unlabelled pixels.
    """
    labels = _map_of('label map', labels)
    reach = _reach(labels.shape, max_dist)
    unlabelled = labels == ignore
    if not unlabelled.any():
        return Truth((thin(label_boundaries(labels)),), np.ones(labels.shape, bool))
    if unlabelled.all():
        nothing = np.zeros(labels.shape, bool)
        return Truth((nothing,), nothing)

    # The opening of the unlabelled pixels by a disc. Distances are exact, so no disc is drawn.
    distance, nearest = ndimage.distance_transform_edt(unlabelled, return_indices=True)
    centres = distance > reach
    wide = _near(centres, reach)
    filled = np.where(wide, ignore, labels[tuple(nearest)])
    return Truth((thin(label_boundaries(filled, ignore)),), ~_near(wide, reach))


def _near(pixels: np.ndarray, reach: float) -> np.ndarray:
    """Returns the pixels [H, W] whose distance to the nearest of `pixels` is at most `reach`."""
    if not pixels.any():
        return np.zeros(pixels.shape, bool)
    return ndimage.distance_transform_edt(~pixels) <= reach


# --- counts ---------------------------------------------------------------------------------------


def match(predicted: np.ndarray, true: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Assigns predicted to true boundary pixels, one to one, at a distance of at most `reach`.

        minimise  sum_pairs d(p, q) - 100 reach #pairs

    Args:
      predicted: [H, W] bool.
      true: [H, W] bool.
      reach: largest distance of a pair, in pixels.

    Returns:
      Matched pixels of `predicted` and of `true`, [H, W] bool each.

    Raises:
      InputError: maps of different sizes.
    """
    _check_sizes('predicted boundaries', predicted, true)
    places = np.argwhere(predicted)
    true_places = np.argwhere(true)
    matched = np.zeros(predicted.shape, bool)
    matched_true = np.zeros(true.shape, bool)
    if not len(places) or not len(true_places):
        return matched, matched_true

    # Pixels without a candidate have no match, so the assignment leaves them out.
    tree = spatial.KDTree(places)
    pairs = tree.sparse_distance_matrix(spatial.KDTree(true_places), reach, output_type='ndarray')
    used, rows = np.unique(pairs['i'], return_inverse=True)
    true_used, columns = np.unique(pairs['j'], return_inverse=True)
    if not len(used):
        return matched, matched_true

    # Costs are whole numbers, as in the benchmark. Few rows are faster than few columns.
    costs = np.rint(_UNIT * pairs['v'])
    outlier_cost = np.ceil(_UNIT * _OUTLIER_COST * reach)
    if len(used) <= len(true_used):
        rows, columns = _assignment(rows, columns, costs, outlier_cost)
    else:
        columns, rows = _assignment(columns, rows, costs, outlier_cost)
    matched[tuple(places[used[rows]].T)] = True
    matched_true[tuple(true_places[true_used[columns]].T)] = True
    return matched, matched_true


def _assignment(
    rows: np.ndarray, columns: np.ndarray, costs: np.ndarray, outlier_cost: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solves the assignment of rows to columns in which a row may stay without a column.

    Args:
      rows, columns: [n] of the possible pairs. Each row and column has a pair.
      costs: [n] whole numbers of the pairs.
      outlier_cost: of a row without a column.

    Returns:
      Rows and columns of the chosen pairs.
    """
    # Each row may also take a column of its own, which means that it has no match. A sparse matrix
    # has no entries 0. All costs are larger by 1, which adds the number of rows to each assignment.
    num_rows = rows.max() + 1
    num_columns = columns.max() + 1
    own = np.arange(num_rows)
    all_costs = np.r_[costs, np.full(num_rows, outlier_cost)] + 1
    places = (np.r_[rows, own], np.r_[columns, num_columns + own])
    graph = sparse.csr_array((all_costs, places), shape=(num_rows, num_columns + num_rows))
    rows, columns = csgraph.min_weight_full_bipartite_matching(graph)
    paired = columns < num_columns
    return rows[paired], columns[paired]


def map_counts(predicted: np.ndarray, truth: Truth, reach: float) -> np.ndarray:
    """Counts the boundary pixels of a prediction and of the truth, and their matches.

    Args:
      predicted: [H, W] bool, lines of one pixel.
      truth: of the same image.
      reach: largest distance of a pair, in pixels.

    Returns:
      [4] float64, see COUNTS.
    """
    matched_any = np.zeros(predicted.shape, bool)
    matched_truth = 0
    total = 0
    for boundaries in truth.boundaries:
        matched, matched_true = match(predicted, boundaries, reach)
        matched_any |= matched
        matched_truth += np.count_nonzero(matched_true & truth.counted)
        total += np.count_nonzero(boundaries & truth.counted)
    matched_predictions = np.count_nonzero(matched_any & truth.counted)
    predictions = np.count_nonzero(predicted & truth.counted)
    return np.array([matched_predictions, predictions, matched_truth, total], np.float64)


def image_counts(
    strengths: ArrayLike,
    truth: Truth,
    num_thresholds: int = NUM_THRESHOLDS,
    max_dist: float = MAX_DIST,
) -> Mean:
    """Counts the boundary pixels of an image at every threshold, and at its best threshold.

    A boundary is a pixel of strength >= threshold. Labels have the strengths
    `label_boundaries(labels)`, for which one threshold is enough.

    Args:
      strengths: [H, W] in [0, 1], see `boundary_strength` and `ucm_strength`.
      truth: see `class_truth` and `annotated_truth`.
      num_thresholds: T, see `even_thresholds`.
      max_dist: largest distance of a match, in diagonals.

    Returns:
      Mean(counts [T + 1, 4], number of images []). The last row is the row of the threshold with
      the largest F of this image. Add the Means of all images, and call `scores`.

    Raises:
      InputError: sizes differ, a strength is outside [0, 1], or there is no annotator.
    """
    strengths = _strengths(strengths)
    if not truth.boundaries:
        annotated_truth(())
    _check_sizes('boundary strengths', strengths, truth.counted)
    reach = _reach(strengths.shape, max_dist)

    # The number of thresholds that each pixel reaches.
    levels = np.searchsorted(even_thresholds(num_thresholds), strengths, side='right')
    num_pixels = np.bincount(levels.ravel(), minlength=num_thresholds + 1)
    counts = np.zeros((num_thresholds + 1, len(COUNTS)))
    for k in range(num_thresholds):
        # Maps are equal if no strength lies between their thresholds.
        if k > 0 and num_pixels[k] == 0:
            counts[k] = counts[k - 1]
        else:
            counts[k] = map_counts(thin(levels > k), truth, reach)

    # Of equal thresholds the benchmark takes the highest.
    f = _f(*_rates(counts[:num_thresholds]))
    counts[-1] = counts[np.flatnonzero(f == f.max())[-1]]
    return Mean(counts, np.ones(()))


def class_counts(
    strengths: ArrayLike,
    labels: ArrayLike,
    sizes: ArrayLike | None = None,
    num_thresholds: int = NUM_THRESHOLDS,
    max_dist: float = MAX_DIST,
) -> Mean:
    """Counts the boundary pixels between the classes of a batch, for `Observation.observe`.

    `boundary_strength` belongs into `Observation.outputs`, because it runs on the device. Then
    `observe` returns {'boundaries': class_counts(outputs['strength'], batch['label'], sizes)}.

    Args:
      strengths: [B, H, W] in [0, 1]. B may be 0.
      labels: [B, H, W] train ids, 255 unlabelled. See `class_truth`.
      sizes: [B, 2] height and width of the images without padding. None: no padding.
      num_thresholds: T.
      max_dist: largest distance of a match, in diagonals.

    Returns:
      Mean(counts [T + 1, 4], number of images []), the sum of the `image_counts` of the images.
    """
    strengths = np.asarray(strengths)
    labels = np.asarray(labels)
    if strengths.shape != labels.shape:
        raise InputError(
            'boundary strengths of a batch',
            got=f'shape {list(strengths.shape)}',
            expected=f'the shape of the labels, {list(labels.shape)}',
        )
    counts = np.zeros((num_thresholds + 1, len(COUNTS)))
    for row, strength in enumerate(strengths):
        height, width = strength.shape if sizes is None else np.asarray(sizes)[row]
        truth = class_truth(labels[row, :height, :width], max_dist)
        inside = strength[:height, :width]
        counts += image_counts(inside, truth, num_thresholds, max_dist).sum
    return Mean(counts, np.asarray(float(len(strengths))))


# --- scores ---------------------------------------------------------------------------------------


def scores(total: Mean) -> dict[str, Any]:
    """Computes the scores of a data set.

    Precision and recall between two thresholds are interpolated, as in the benchmark. A quotient
    0 / 0 is 0.

    Args:
      total: sum of the `image_counts` of all images.

    Returns:
      'ODS_F', 'ODS_precision', 'ODS_recall'  at the best threshold of the data set
      'OIS_F', 'OIS_precision', 'OIS_recall'  at the best threshold of each image
      'best_threshold'     of the data set
      'AP'                 area under the precision over the recall, in steps of 0.01. It is 0 where
                           no threshold reaches the recall, and for a single threshold
      'precision_recall'   curve of metrics/curves.py, without thresholds that no pixel reaches
    """
    counts = np.asarray(total.sum, np.float64)
    precision, recall = _rates(counts[:-1])
    thresholds = even_thresholds(len(precision))
    best_precision, best_recall, best_threshold = _best(precision, recall, thresholds)
    image_precision, image_recall = _rates(counts[-1:])

    # A curve needs a point. Without any predicted pixel it is the lowest threshold.
    reached = counts[:-1, 1] > 0
    reached[0] |= not reached.any()
    series = {'boundaries': (recall[reached], precision[reached])}
    return {
        'ODS_F': float(_f(best_precision, best_recall)),
        'ODS_precision': float(best_precision),
        'ODS_recall': float(best_recall),
        'OIS_F': float(_f(image_precision, image_recall)[0]),
        'OIS_precision': float(image_precision[0]),
        'OIS_recall': float(image_recall[0]),
        'AP': _area(precision, recall),
        'best_threshold': float(best_threshold),
        'precision_recall': curve(series, x_name='recall', y_name='precision'),
    }


def threshold_scores(counts: ArrayLike) -> list[FMeasure]:
    """Returns precision, recall and F at each row of counts [T, 4]."""
    precision, recall = _rates(np.asarray(counts, np.float64))
    rows = zip(precision, recall, _f(precision, recall), strict=True)
    return [FMeasure(*map(float, row)) for row in rows]


def f_measure(
    prediction: ArrayLike, labels: ArrayLike, max_dist: float = MAX_DIST, ignore: int = IGNORE
) -> FMeasure:
    """Compares the boundaries of two class maps.

    Args:
      prediction: [H, W] predicted classes.
      labels: [H, W] true classes. Pixels with the label `ignore` are treated as in `class_truth`.
      max_dist: largest distance of a match, in diagonals.
      ignore: label of unlabelled pixels.

    Raises:
      InputError: sizes differ.
    """
    truth = class_truth(labels, max_dist, ignore)
    strengths = label_boundaries(prediction)
    total = image_counts(strengths, truth, num_thresholds=1, max_dist=max_dist)
    return threshold_scores(total.sum)[0]


def _rates(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns precision and recall of counts [T, 4]. A quotient 0 / 0 is 0."""
    precision = counts[:, 0] / np.maximum(counts[:, 1], 1)
    recall = counts[:, 2] / np.maximum(counts[:, 3], 1)
    return precision, recall


def _f(precision: ArrayLike, recall: ArrayLike) -> np.ndarray:
    """Returns the harmonic mean of precision and recall, 0 if both are 0."""
    total = np.add(precision, recall)
    return 2 * np.multiply(precision, recall) / np.where(total > 0, total, 1)


def _best(
    precision: np.ndarray, recall: np.ndarray, thresholds: np.ndarray
) -> tuple[float, float, float]:
    """Returns (precision, recall, threshold) of the largest F, on lines between thresholds [T]."""
    places = np.arange(len(thresholds))
    steps = np.linspace(0, 1, 100)
    fine = np.r_[0, (places[:-1, None] + steps).ravel()]
    precision = np.interp(fine, places, precision)
    recall = np.interp(fine, places, recall)
    best = np.argmax(_f(precision, recall))
    return precision[best], recall[best], np.interp(fine[best], places, thresholds)


def _area(precision: np.ndarray, recall: np.ndarray) -> float:
    """Returns the area under the curve through the points [T], see 'AP' of `scores`."""
    recalls, first = np.unique(recall, return_index=True)
    if len(recalls) < 2:
        return 0.0
    places = np.arange(101) / 100
    values = np.interp(places, recalls, precision[first], left=0, right=0)
    return float(values.sum() / 100)


# --- checks ---------------------------------------------------------------------------------------


def _reach(size: tuple[int, ...], max_dist: float) -> float:
    """Returns the largest distance of a match in pixels, for an image of (height, width)."""
    if max_dist <= 0:
        raise InputError('max_dist of boundaries', got=f'{max_dist}', expected='more than 0')
    return float(max_dist * np.hypot(*size))


def _map_of(where: str, values: ArrayLike) -> np.ndarray:
    """Returns a map [H, W] as an array, or raises InputError for another number of axes."""
    array = np.asarray(values)
    if array.ndim != 2:
        raise InputError(where, got=f'shape {list(array.shape)}', expected='a map [height, width]')
    return array


def _strengths(values: ArrayLike) -> np.ndarray:
    """Returns strengths [H, W] as float64, or raises InputError outside [0, 1]."""
    strengths = _map_of('boundary strengths', values).astype(np.float64)
    wrong = ~((strengths >= 0) & (strengths <= 1))
    if wrong.any():
        raise InputError(
            'boundary strengths',
            got=f'{strengths[wrong][0]:g} at {np.argwhere(wrong)[0].tolist()}',
            expected='values in [0, 1]',
            fix='divide by the largest strength of the data set, 255 for 8 bit',
        )
    return strengths


def _check_sizes(where: str, values: np.ndarray, truth: np.ndarray) -> None:
    """Raises InputError unless a map has the size of the truth."""
    if values.shape != truth.shape:
        raise InputError(
            where,
            got=f'a map of {_size(values)} pixels',
            expected=f'{_size(truth)}, as the true boundaries',
            fix='resize the prediction to the size of the truth before its boundaries are taken',
        )


def _size(values: np.ndarray) -> str:
    """Returns height x width as text."""
    return ' x '.join(map(str, values.shape))
