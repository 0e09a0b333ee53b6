"""Data sets of faces and heads that exist only as numbers, for generators of images."""

import dataclasses

import numpy as np
from fakes import SPEC

from segjax.spec import Feature

SIZE = (16, 16)
POINTS = 'points_face'
FACES = dataclasses.replace(
    SPEC,
    features=('image', POINTS, 'name'),
    declared={POINTS: Feature('points', (4, 2))},
)
HEADS = dataclasses.replace(SPEC, features=('image', 'normals', 'name'))


def make_batch(rows=8, seed=0, size=SIZE):
    """Returns noisy faces with landmarks and two neighbours. Some neighbours do not exist."""
    generator = np.random.default_rng(seed)
    return {
        'image': generator.integers(0, 255, (rows, *size, 3)).astype(np.uint8),
        'image_frames': generator.integers(0, 255, (rows, 2, *size, 3)).astype(np.uint8),
        'present_frames': (np.arange(2 * rows).reshape(rows, 2) % 5 > 0).astype(np.float32),
        POINTS: generator.uniform(0, 15, (rows, 4, 2)).astype(np.float32),
        'weight': np.ones(rows, np.float32),
        'index': np.arange(rows, dtype=np.int32),
    }
