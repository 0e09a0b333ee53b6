"""Measures superpixels of the world `rooms`: their number and purity by the cut of the hierarchy.

usage: python -m tests.helpers.region_purity [CLIPS]

Reads the labelled frames of the first CLIPS clips (100) of the split `val` of
`configs/std2p.py:quick`, at 96x128, with 13 classes. Prints a line for each threshold. Purity is
the pixel accuracy of a segmentation that gives each superpixel its most frequent true class.
"""

import sys

import numpy as np

from segjax.data import regions
from segjax.data.labels import NYU13
from segjax.data.worlds import rooms
from segjax.metrics.regions import purity
from segjax.spec import IGNORE

SIZE = (96, 128)
THRESHOLDS = (0.2, 0.1, 0.07, 0.05, 0.03)
MOST = 2000
"""More superpixels than any of these images has."""


def measured(frames, threshold):
    """Returns the mean number of superpixels and their purity, over all frames."""
    feature = regions.region_feature(depth=True, num_regions=MOST, threshold=threshold)
    numbers = []
    right = 0
    labelled = 0
    for frame in frames:
        ids = feature.compute({'image': frame['image'], 'depth': frame['depth']})
        pure = purity(ids, frame['label'])
        numbers.append(ids.max() + 1)
        right += pure.sum
        labelled += pure.count
    return np.mean(numbers), right / labelled


def main(clips='100'):
    """Prints a line for each threshold."""
    merged = np.full(256, IGNORE, np.uint8)
    merged[: len(NYU13.train_ids)] = NYU13.train_ids
    frames = []
    for clip in range(int(clips)):
        frame = rooms.frame(0, 'val', clip, rooms.TARGET, SIZE)
        frames.append({**frame, 'label': merged[frame['label']]})
    print('| threshold | superpixels | purity |')
    for threshold in THRESHOLDS:
        number, pure = measured(frames, threshold)
        print(f'| {threshold:g} | {number:.1f} | {pure:.3f} |')


if __name__ == '__main__':
    main(*sys.argv[1:])
