"""Scores boundaries: `python boundary_benchmark.py PREDICTIONS TRUTHS [THRESHOLDS MAX_DIST]`.

Prints ODS, OIS and AP of the Berkeley benchmark. PREDICTIONS is a folder of contour maps (.mat with
'ucm2', .npy) or of label maps (.png), TRUTHS of annotations (.mat with 'groundTruth') or of label
maps. segjax/tasks/boundaries.py lists the formats. Label maps need a single threshold.
"""

import pathlib
import sys

from segjax.metrics import boundary
from segjax.tasks import boundaries

predictions, truths = map(pathlib.Path, sys.argv[1:3])
num_thresholds = int(sys.argv[3]) if len(sys.argv) > 3 else boundary.NUM_THRESHOLDS
max_dist = float(sys.argv[4]) if len(sys.argv) > 4 else boundary.MAX_DIST

scores = boundaries.score_folders(predictions, truths, num_thresholds, max_dist)
for name in ('ODS', 'OIS'):
    precision, recall = scores[f'{name}_precision'], scores[f'{name}_recall']
    print(f'{name}: F {scores[f"{name}_F"]:.4f}, P {precision:.4f}, R {recall:.4f}')
print(f'AP: {scores["AP"]:.4f}')
print(f'{scores["images"]} images, best threshold {scores["best_threshold"]:.4f}')
