"""Batches of RGB-D clips with random pictures, regions, matches and flow."""

import numpy as np
from fakes import NUM_CLASSES

from segjax.tasks.clip_features import matches_of

P = 6
"""Largest number of regions of a frame."""
FRAMES = 3
"""Frames of an example."""
REACH = 2
"""Largest distance of a frame to the target."""
SIZE = (8, 12)


def make_batch(rows=2, seed=0, levels=('ids_region',), num_classes=NUM_CLASSES):
    """Returns a batch with three frames of each example. The first example is its own neighbour."""
    draw = np.random.default_rng(seed)
    batch = {
        'image': draw.integers(0, 255, (rows, *SIZE, 3)).astype(np.uint8),
        'image_frames': draw.integers(0, 255, (rows, FRAMES, *SIZE, 3)).astype(np.uint8),
        'planes_hha': draw.integers(0, 255, (rows, *SIZE, 3)).astype(np.uint8),
        'planes_hha_frames': draw.integers(0, 255, (rows, FRAMES, *SIZE, 3)).astype(np.uint8),
        'label': draw.integers(0, num_classes, (rows, *SIZE)).astype(np.int32),
        'frame': np.full(rows, 10, np.int32),
        'frame_frames': np.array([[9, 10, 10], [8, 10, 11]] * (rows // 2), np.int32),
        'weight': np.ones(rows, np.float32),
        'index': np.arange(rows, dtype=np.int32),
    }
    for level in levels:
        ids = draw.integers(0, P, (rows, FRAMES, *SIZE)).astype(np.int32)
        matches = draw.integers(-1, P, (rows, 2 * REACH + 1, P)).astype(np.int32)
        matches[:, REACH] = np.arange(P)
        batch[f'{level}_frames'] = ids
        batch[level] = ids[:, 1]
        batch[matches_of(level)] = matches
    flow = draw.normal(0, 2, (rows, FRAMES, *SIZE, 2)).astype(np.float32)
    flow[:, :, 0, 0] = np.nan
    flow[:, 1] = 0
    flow[0, 2] = 0
    batch['flow_pixels_frames'] = flow
    return batch


def make_scores(rows=2, seed=1):
    """Returns random scores of all frames, [rows, FRAMES, H, W, NUM_CLASSES]."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, FRAMES, *SIZE, NUM_CLASSES)).astype(np.float32)
