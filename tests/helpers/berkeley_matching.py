"""The matching of the published Berkeley benchmark, whose graph has edges to random outliers.

`python -m tests.helpers.berkeley_matching FOLDER` compares it with segjax/metrics/boundary.py on
the images of FOLDER, which has the folders ucm2/ and groundTruth/ of the benchmark's example.
"""

import pathlib
import sys
from unittest import mock

import numpy as np
from scipy import sparse, spatial

from segjax.metrics import boundary
from segjax.tasks import boundaries

DEGREE = 6
"""Number of edges from each pixel to random outliers."""
UNIT = 100
"""Costs are distances in hundredths of a pixel."""


def published_match(predicted, true, reach, rng):
    """Returns matched pixels of both maps, with the graph of the published code.

    Each of the n1 predicted and n2 true pixels has an outlier on its other side. A pixel may take
    DEGREE random outliers, and for a hundredfold cost its own. Outliers may take each other over
    DEGREE random edges. A perfect assignment with the smallest cost is returned.

    Args:
      predicted: [H, W] bool.
      true: [H, W] bool.
      reach: largest distance of a pair, in pixels.
      rng: generator of the random outliers.
    """
    matched, matched_true = np.zeros_like(predicted), np.zeros_like(true)
    places, true_places = np.argwhere(predicted), np.argwhere(true)
    if not len(places) or not len(true_places):
        return matched, matched_true
    tree = spatial.KDTree(places)
    pairs = tree.sparse_distance_matrix(spatial.KDTree(true_places), reach, output_type='ndarray')
    used, i = np.unique(pairs['i'], return_inverse=True)
    true_used, j = np.unique(pairs['j'], return_inverse=True)
    n1, n2 = len(used), len(true_used)
    if not n1:
        return matched, matched_true

    # Edges as rows (left node, right node, cost). Pixels come first, outliers follow.
    cost = np.ceil(UNIT * 100 * reach)
    edges = [np.stack([i, j, np.rint(UNIT * pairs['v'])], 1)]
    for left in range(n1):
        right = different(rng, left, n1)
        edges.append(rows(left, n2 + right, cost))
    for right in range(n2):
        left = different(rng, right, n2)
        edges.append(rows(n1 + left, right, cost))
    for outlier in range(max(n1, n2)):
        chosen = rng.choice(min(n1, n2), min(DEGREE, n1, n2), replace=False)
        sides = (outlier, chosen) if n1 < n2 else (chosen, outlier)
        edges.append(rows(n1 + sides[0], n2 + sides[1], cost))
    edges.append(rows(np.arange(n1), n2 + np.arange(n1), 100 * cost))
    edges.append(rows(n1 + np.arange(n2), np.arange(n2), 100 * cost))

    # A sparse matrix has no entries 0. All perfect assignments have the same number of edges.
    left, right, costs = np.concatenate(edges).T
    graph = sparse.csr_array((costs + 1, (left.astype(int), right.astype(int))))
    left, right = sparse.csgraph.min_weight_full_bipartite_matching(graph)
    paired = (left < n1) & (right < n2)
    matched[tuple(places[used[left[paired]]].T)] = True
    matched_true[tuple(true_places[true_used[right[paired]]].T)] = True
    return matched, matched_true


def different(rng, number, total):
    """Returns up to DEGREE different random numbers below `total` that are not `number`."""
    chosen = rng.choice(total - 1, min(DEGREE, total - 1), replace=False)
    return chosen + (chosen >= number)


def rows(left, right, cost):
    """Returns edges [n, 3] of equal cost."""
    left, right = np.broadcast_arrays(left, right)
    return np.stack([left, right, np.full(left.shape, cost)], 1)


def scores_of(folder: pathlib.Path, match) -> dict:
    """Returns the scores at five thresholds with a function for the matching.

    Args:
      folder: with ucm2/ and groundTruth/.
      match: as `boundary.match`.
    """
    with mock.patch.object(boundary, 'match', match):
        return boundaries.score_folders(folder / 'ucm2', folder / 'groundTruth', 5)


def main() -> None:
    """Prints the scores with the exact and with the published graph."""
    folder = pathlib.Path(sys.argv[1])
    rng = np.random.default_rng(0)
    matches = {'exact': boundary.match}
    matches['published'] = lambda *arguments: published_match(*arguments, rng)
    for name, match in matches.items():
        scores = scores_of(folder, match)
        line = scores.pop('precision_recall')['series'][0]
        print(name, ' '.join(f'{key} {value:.6f}' for key, value in scores.items()))
        for recall, precision in zip(line['x'], line['y'], strict=True):
            print(f'  recall {recall:.6f} precision {precision:.6f}')


if __name__ == '__main__':
    main()
