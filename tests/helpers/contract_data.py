"""The data set `figures`: short clips of a square with two eyes and a mouth.

It has the kinds of features that the other data sets lack: boxes, and landmarks whose left and
right places swap under a flip. Its class list differs from the class list of `streets`.
"""

import numpy as np

from segjax.data import image_files
from segjax.data.builders import REGISTRY, base
from segjax.data.builders.base import Dataset, Inspection, Item, Record
from segjax.spec import ClassSpec, Feature

FRAMES = 5
SIZE = (32, 64)
LANDMARKS = Feature('points', (4, 2), pairs=((0, 1),))
"""Left eye, right eye, mouth, and a hat that no figure wears."""


class Figures(Dataset):
    """Clips of 5 frames, 3 clips to train and 2 to evaluate."""

    def __init__(self, config):
        self.declared = {'landmarks': LANDMARKS, 'boxes': Feature('boxes', (1, 4))}
        self.name = config.name
        self.where = f'data set {self.name!r}'
        self.classes = ClassSpec(('ground', 'figure'), ((0, 0, 0), (255, 128, 0)), (0, 1))

    def options(self):
        return ['figures', 1]

    def splits(self):
        return ('train', 'val')

    def scan(self, split):
        items = []
        for number in range(FRAMES * {'train': 3, 'val': 2}[split]):
            clip, frame = divmod(number, FRAMES)
            sequence = f'{split}_{clip}'
            items.append(Item(split, f'{sequence}_{frame}', sequence=sequence, frame=frame))
        return items, []

    def features(self, items):
        return ('image', 'label', 'landmarks', 'boxes', 'sequence', 'frame', 'name')

    def examine(self, item):
        clip = int(item.sequence.rpartition('_')[2]) + 10 * (item.split == 'val')
        figure = draw(clip, item.frame)
        features = base.text_features(item)
        features['image'] = image_files.encode_png(figure['image'])
        features['label'] = image_files.encode_png(figure['label'])
        features['landmarks'] = figure['landmarks']
        features['boxes'] = figure['boxes']
        label = figure['label']
        return Inspection(Record(features, base.histogram(label), label.shape), [])


def draw(clip, frame):
    """Returns image, label, landmarks and boxes of a frame. The figure moves to the right."""
    rng = np.random.default_rng(clip)
    top, left = rng.integers(2, 12), int(rng.integers(2, 30)) + 2 * frame
    image = rng.integers(0, 60, (*SIZE, 3), dtype=np.uint8)
    label = np.zeros(SIZE, np.uint8)
    image[top : top + 16, left : left + 16] = (200, 180, 60)
    label[top : top + 16, left : left + 16] = 1
    landmarks = np.array(
        [[left + 4, top + 4], [left + 11, top + 4], [left + 7, top + 12], [np.nan, np.nan]],
        np.float32,
    )
    for (x, y), colour in zip(landmarks[:3].astype(int), ((255, 0, 0), (0, 0, 255), (0, 255, 0))):
        image[y - 1 : y + 2, x - 1 : x + 2] = colour
    box = np.array([[left - 0.5, top - 0.5, left + 15.5, top + 15.5]], np.float32)
    return {'image': image, 'label': label, 'landmarks': landmarks, 'boxes': box}


def register():
    """Adds the data set to the registry of this process."""
    REGISTRY['figures'] = Figures
