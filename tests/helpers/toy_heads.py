"""A tiny data set of balls with five landmarks and exact normals, and random normals."""

import pathlib

import numpy as np

from segjax.data import image_files
from segjax.data.builders import REGISTRY, base
from segjax.data.builders.base import Inspection, Record
from segjax.data.builders.rendered import Rendered
from segjax.spec import ClassSpec, DataSpec, Feature

NAME = 'toy_heads'
CLASSES = ClassSpec(('head',), ((200, 100, 0),), (0,))
POINTS = Feature('points', (5, 2), pairs=((0, 1), (3, 4)))
PLACES = np.array([[-0.4, -0.3], [0.4, -0.3], [0, 0.1], [-0.3, 0.5], [0.3, 0.5]])
"""Eyes, nose and corners of the mouth, in radii from the centre."""
SPEC = DataSpec(
    name=NAME,
    classes=CLASSES,
    features=('image', 'label', 'name', 'points_face', 'normals'),
    num_examples={'train': 16, 'val': 8},
    max_size={'train': (32, 32), 'val': (32, 32)},
    class_pixels={'train': (900,), 'val': (90,)},
    void_pixels={'train': 0, 'val': 0},
    declared={'points_face': POINTS},
)


def random_normals(shape, seed=0):
    """Returns float32 unit vectors, a fifth of which are 0."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(*shape, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors * (generator.random((*shape, 1)) > 0.2)).astype(np.float32)


def head(seed, size=(32, 32)):
    """Returns image, points and normals of a ball with dark landmarks."""
    generator = np.random.default_rng(seed)
    height, width = size
    radius = generator.uniform(0.3, 0.45) * min(size)
    centre = np.array([width, height]) / 2 + generator.uniform(-0.1, 0.1, 2) * min(size)
    points = centre + radius * PLACES

    # The visible half of the ball.
    y, x = np.mgrid[:height, :width]
    right = (x - centre[0]) / radius
    down = (y - centre[1]) / radius
    inside = right**2 + down**2 < 1
    forward = -np.sqrt(np.clip(1 - right**2 - down**2, 0, 1))
    normals = np.stack([right, down, forward], -1) * inside[..., None]

    light = np.array([generator.uniform(-0.6, 0.6), -0.4, -0.8])
    shade = 60 + 180 * np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)
    for column, row in points:
        shade[np.hypot(x - column, y - row) < 0.13 * radius] = 10
    grey = np.where(inside, shade, generator.uniform(0, 40, size))
    return {
        'image': np.repeat(grey[..., None], 3, -1).astype(np.uint8),
        'points_face': points.astype(np.float32),
        'normals': normals.astype(np.float32),
    }


def batch_of(rows=8, size=(32, 32), seed=0):
    """Returns a batch of balls, for training and evaluation."""
    heads = [head((seed, row), size) for row in range(rows)]
    batch = {key: np.stack([each[key] for each in heads]) for key in heads[0]}
    return {
        **batch,
        'weight': np.ones(rows, np.float32),
        'index': np.arange(rows, dtype=np.int32),
        'size': np.tile(np.int32(size), (rows, 1)),
        'label_size': np.tile(np.int32(size), (rows, 1)),
    }


class ToyHeads(Rendered):
    """Balls in the splits `train` and `val`."""

    frames_per_clip = 1
    sources = (pathlib.Path(__file__),)

    def __init__(self, config):
        super().__init__(config)
        self.classes = CLASSES
        self.declared = {'points_face': POINTS}

    def features(self, items):
        return SPEC.features

    def examine(self, item):
        values = head((self.seed, item.split == 'val', int(item.sequence[-5:])), self.size)
        label = np.zeros(self.size, np.uint8)
        features = base.text_features(item)
        features['label'] = image_files.encode_png(label)
        features['image'] = image_files.encode_png(values.pop('image'))
        features |= values
        return Inspection(Record(features, base.histogram(label), label.shape), [])


REGISTRY[NAME] = ToyHeads
