"""Neighbours of an example: examples with similar landmarks, grouped by their colours.

A condition such as landmarks admits many images. The images of examples with similar landmarks
are samples of this distribution. Groups of similar colours keep these samples diverse.

The neighbours of example i are the examples j != i with

    dis(i, j) = sum_p |x_ip - x_jp| + |y_ip - y_jp| < theta

over the landmarks p. Coordinates are relative to the width W of the stored image, (x + 1/2) / W and
(y + 1/2) / W. So images of different sizes compare as if all had the same width, whatever the size
in training is.

k-means divides the neighbours of each example into N clusters of colours in HSV. The table of an
example has a row for each cluster.

Source: section 5.2.2 (neighbours closer than theta) and section 5.3.3 (L1 distance, k-means in HSV)
of "Diverse conditional image generation by stochastic regression with latent drop-out codes". The
number of clusters, theta and the features of colours are not published.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.cluster import vq
from scipy.spatial import distance

from segjax.errors import InputError, unknown_name
from segjax.protocol import Derived, Example
from segjax.spec import Feature

NUM_BINS = 8
"""Bins of hue, of saturation and of value."""

SEED = 0
"""Seed of the first centres of k-means."""

NUM_CANDIDATES = 4
"""Candidates for each first centre."""

NUM_ITERATIONS = 20
"""Iterations of k-means."""

ABSENT = -1
"""Position of no example."""

ROWS = 256
"""Examples whose distances are computed at once."""


class Neighbourhood(NamedTuple):
    """The choice of neighbours.

    num_clusters   N, rows of a table
    num_positions  M, largest number of neighbours in a row
    percentile     theta is this percentile of the distances of all pairs of examples
    threshold      theta itself, in widths of the image. 0: `percentile` decides
    colours        a name of COLOURS: the features of an image that k-means clusters
    """

    num_clusters: int = 9
    num_positions: int = 16
    percentile: float = 5.0
    threshold: float = 0.0
    colours: str = 'histogram'


def neighbours_feature(
    choice: Neighbourhood,
    points: str = 'points_face',
    name: str = 'number_neighbours',
    data: str = 'data',
    section: str = 'neighbours',
) -> Derived:
    """Returns the table of the neighbours of each example, as a derived feature of a whole split.

    The feature [N, M] int32 has a row for each cluster. A row has the positions in the plain split
    of up to M neighbours, the nearest first, and -1 in the remaining places. The first cluster has
    the nearest neighbour of all. An example with fewer neighbours than clusters has a neighbour in
    each of its first rows. The example itself is never among its neighbours.

    `TableFrames(N, name, drawn=True)` draws a neighbour of each row.

    Args:
      choice: of the neighbours.
      points: feature with the landmarks, [n, 2]. Absent landmarks are NaN.
      name: of the feature.
      data: config section of the data set.
      section: config section with the fields of `choice`, for errors.

    Raises:
      InputError: a value out of range.
    """
    _check(choice, section)
    settings = choice._asdict()
    return Derived(
        name,
        Feature('number', (choice.num_clusters, choice.num_positions), dtype='int32'),
        reads=('image', points, 'name'),
        compute=functools.partial(neighbour_tables, choice=choice, points=points, section=section),
        settings=settings,
        whole=True,
        data=data,
    )


def _check(choice: Neighbourhood, section: str) -> None:
    """Raises InputError for a number out of range, or unknown colours."""
    ranges = {
        'num_clusters': (choice.num_clusters >= 1, 'at least 1'),
        'num_positions': (choice.num_positions >= 1, 'at least 1'),
        'percentile': (0 < choice.percentile <= 100, 'above 0 and at most 100'),
        'threshold': (choice.threshold >= 0, 'at least 0, where 0 means the percentile'),
    }
    for field, (is_right, expected) in ranges.items():
        if not is_right:
            default = Neighbourhood._field_defaults[field]
            raise InputError(
                f'config.{section}.{field}',
                got=f'{getattr(choice, field)}',
                expected=expected,
                fix=f'--config.{section}.{field}={default}',
            )
    if choice.colours not in COLOURS:
        raise unknown_name(f'config.{section}.colours', choice.colours, COLOURS)


def neighbour_tables(
    examples: Sequence[Example],
    choice: Neighbourhood,
    points: str = 'points_face',
    section: str = 'neighbours',
) -> list[np.ndarray]:
    """Computes the tables of all examples of a split.

    The memory is 4 bytes for each ordered pair of examples.

    Args:
      examples: with 'image', the landmarks and 'name'. Each is read once.
      choice: of the neighbours.
      points: feature with the landmarks.
      section: config section with the fields of `choice`, for errors.

    Returns:
      [N, M] int32 for each example.

    Raises:
      InputError: fewer than N + 1 examples, or an example without landmarks.
    """
    num_needed = choice.num_clusters + 1
    if len(examples) < num_needed:
        raise InputError(
            f'config.{section}.num_clusters',
            got=f'{choice.num_clusters} neighbours in a split of {len(examples)} examples',
            expected=f'at least {num_needed} examples, because no example is its own neighbour',
            fix=f'--config.{section}.num_clusters={max(1, len(examples) - 1)}',
        )

    # Images are read one after the other, and only their colours stay in memory.
    places = []
    colours = []
    for number in range(len(examples)):
        example = examples[number]
        places.append(relative(example, points))
        colours.append(COLOURS[choice.colours](example['image']))
    distances = pair_distances(np.stack(places))
    theta = choice.threshold or pair_percentile(distances, choice.percentile)
    shape = (choice.num_clusters, choice.num_positions)
    features = np.stack(colours)
    return [table(row, number, features, theta, shape) for number, row in enumerate(distances)]


# --- distances ------------------------------------------------------------------------------------


def relative(example: Example, points: str) -> np.ndarray:
    """Returns the landmarks of an example in widths of its image, [n, 2] float64.

    Raises:
      InputError: no landmark.
    """
    landmarks = np.asarray(example[points], np.float64)
    if not np.isfinite(landmarks).all(axis=1).any():
        raise InputError(
            f'feature {points!r} of example {example["name"]}',
            got='no landmark: all coordinates are NaN',
            expected='at least one landmark, with which examples are compared',
            fix='remove the image, or leave it out of a list of names that is read as the split',
        )
    return (landmarks + 0.5) / example['image'].shape[1]


def pair_distances(places: np.ndarray) -> np.ndarray:
    """Returns the L1 distances of all pairs of examples.

    Landmarks that are absent in one of two examples do not count. The sum over the k landmarks that
    both have is multiplied by n / k. Examples without a common landmark are infinitely far.

    Args:
      places: [N, n, 2] landmarks of N examples. NaN: absent.

    Returns:
      [N, N] float32. The diagonal is 0.
    """
    flat = places.reshape(len(places), -1)
    measure = _distances_to if np.isfinite(flat).all() else _common_distances_to
    result = np.empty((len(flat), len(flat)), np.float32)
    for first in range(0, len(flat), ROWS):
        result[first : first + ROWS] = measure(flat[first : first + ROWS], flat)
    return result


def _distances_to(some: np.ndarray, every: np.ndarray) -> np.ndarray:
    """Returns the distances of [k, 2 n] coordinates to [N, 2 n] coordinates, [k, N]."""
    return distance.cdist(some, every, 'cityblock')


def _common_distances_to(some: np.ndarray, every: np.ndarray) -> np.ndarray:
    """Returns the distances over common landmarks, [k, N]. Arguments: `_distances_to`."""
    num_coordinates = every.shape[1]
    result = np.empty((len(some), len(every)))
    for row, place in enumerate(some):
        differences = np.abs(every - place)
        counts = np.isfinite(differences).sum(axis=1)
        sums = np.nansum(differences, axis=1)
        means = np.divide(sums, counts, out=np.full(len(every), np.inf), where=counts > 0)
        result[row] = num_coordinates * means
    return result


def pair_percentile(distances: np.ndarray, percentile: float) -> float:
    """Returns a percentile of the finite distances of all unordered pairs of different examples.

    Without a finite distance, the result is 0, below which there is no neighbour.

    Args:
      distances: [N, N], symmetric, N >= 2.
      percentile: 0 .. 100.
    """
    pairs = np.concatenate([row[number + 1 :] for number, row in enumerate(distances)])
    finite = pairs[np.isfinite(pairs)]
    return float(np.percentile(finite, percentile)) if len(finite) else 0.0


# --- colours --------------------------------------------------------------------------------------


def histogram_of_colours(image: np.ndarray) -> np.ndarray:
    """Returns the shares of the pixels in 8 bins of hue, 8 of saturation and 8 of value.

    Args:
      image: [H, W, 3] uint8.

    Returns:
      [24] float64.
    """
    # OpenCV has hues from 0 to 179.
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).reshape(-1, 3).astype(np.int64)
    bins = hsv * NUM_BINS // np.array([180, 256, 256])
    counts = [np.bincount(channel, minlength=NUM_BINS) for channel in bins.T]
    return np.concatenate(counts) / len(hsv)


def mean_colour(image: np.ndarray) -> np.ndarray:
    """Returns the mean colour of an image in the HSV cone: (S cos H, S sin H, V), each up to 1.

    The hue is an angle, so its mean over the red colours near 0 degrees is red.

    Args:
      image: [H, W, 3] uint8.

    Returns:
      [3] float64.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).reshape(-1, 3).astype(np.float64)
    angle = hsv[:, 0] * (np.pi / 90)
    saturation = hsv[:, 1] / 255
    value = hsv[:, 2] / 255
    cone = np.stack([saturation * np.cos(angle), saturation * np.sin(angle), value])
    return cone.mean(axis=1)


COLOURS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'histogram': histogram_of_colours,
    'mean': mean_colour,
}
"""Features of the colours of an image by name."""


# --- clusters -------------------------------------------------------------------------------------


def table(
    distances: np.ndarray,
    own: int,
    colours: np.ndarray,
    theta: float,
    shape: tuple[int, int],
) -> np.ndarray:
    """Returns the table of an example.

    Args:
      distances: [N] to all examples.
      own: position of the example.
      colours: [N, F] of all examples.
      theta: neighbours are nearer than this distance.
      shape: (rows, positions in a row).

    Returns:
      `shape` int32.
    """
    # Of equal distances, the lower position is first.
    near = np.flatnonzero(distances < theta)
    near = near[near != own]
    near = near[np.argsort(distances[near], kind='stable')]
    result = np.full(shape, ABSENT, np.int32)
    if len(near) == 0:
        return result

    # Clusters are in the order of their nearest members.
    clusters = cluster(colours[near], shape[0])
    _, firsts = np.unique(clusters, return_index=True)
    for row, first in enumerate(np.sort(firsts)):
        members = near[clusters == clusters[first]][: shape[1]]
        result[row, : len(members)] = members
    return result


def cluster(values: np.ndarray, num_clusters: int) -> np.ndarray:
    """Divides vectors into clusters by k-means, which starts at the centres of k-means++.

    The seed is fixed, so equal vectors always have equal clusters. If there are fewer different
    vectors than clusters, some clusters remain empty.

    Args:
      values: [k, F].
      num_clusters: N. With k <= N each vector is a cluster.

    Returns:
      [k] numbers of the clusters.
    """
    if len(values) <= num_clusters:
        return np.arange(len(values))
    centres = first_centres(values, num_clusters)
    with warnings.catch_warnings():
        # SciPy warns of empty clusters, which are rows without a position.
        warnings.simplefilter('ignore', UserWarning)
        _, clusters = vq.kmeans2(values, centres, iter=NUM_ITERATIONS, minit='matrix')
    return clusters


def first_centres(values: np.ndarray, num_clusters: int) -> np.ndarray:
    """Chooses some of the vectors as the first centres of k-means, by greedy k-means++.

    A vector is a candidate with a probability proportional to its squared distance from the nearest
    earlier centre. Of several candidates, the centre is that with the smallest sum of the squared
    distances of all vectors from their nearest centres.

    Args:
      values: [k, F].
      num_clusters: N.

    Returns:
      [N, F].
    """
    rng = np.random.default_rng(SEED)
    chosen = [int(rng.integers(len(values)))]
    squares = np.square(values - values[chosen[0]]).sum(axis=1)
    while len(chosen) < num_clusters:
        ends = np.cumsum(squares)
        drawn = np.searchsorted(ends, rng.random(NUM_CANDIDATES) * ends[-1], side='right')
        candidates = np.minimum(drawn, len(values) - 1)
        differences = values[None] - values[candidates][:, None]  # [candidates, k, F]
        nearest = np.minimum(np.square(differences).sum(axis=2), squares)
        best = int(nearest.sum(axis=1).argmin())
        chosen.append(int(candidates[best]))
        squares = nearest[best]
    return values[chosen]
