"""The procedural world `streets` as a data set."""

import hashlib
import pathlib
from typing import Any

import numpy as np

from segjax.data import image_files
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Inspection, Item, Record
from segjax.data.labels import CITYSCAPES, CITYSCAPES_CATEGORIES
from segjax.data.worlds import streets

FRAMES_PER_CLIP = 8
FEATURES = (
    'image',
    'label',
    'instance',
    'depth',
    'label_moving',
    'intrinsics',
    'pose',
    'sequence',
    'frame',
    'name',
)


class Streets(Dataset):
    """Driving video with exact labels, instances, depth, intrinsics and poses.

    The splits `train` and `val` consist of clips of 8 consecutive frames, in order.
    `config.data.world` has the number of frames per split, the size and the seed. `label_moving` is
    1 where a surface moves in the world and 0 elsewhere.
    """

    def __init__(self, config: Any):
        self.name = config.name
        self.where = f'data set {self.name!r}'
        self.classes = CITYSCAPES
        self.class_maps = {'categories': CITYSCAPES_CATEGORIES}
        world = config.world
        self._counts = {'train': world.num_train, 'val': world.num_val}
        self._size = tuple(world.size)
        self._seed = world.seed

    def options(self):
        """Returns the options of the world, and a digest of the code that renders it."""
        folder = pathlib.Path(streets.__file__).parent
        sources = sorted([*folder.glob('*.py'), *folder.parent.glob('*.py')])
        code = hashlib.sha256(b''.join(path.read_bytes() for path in sources)).hexdigest()
        return [self._counts, self._size, self._seed, code]

    def splits(self):
        """Returns ('train', 'val')."""
        return tuple(self._counts)

    def scan(self, split):
        """Returns the frames of a split. A world has no problems."""
        items = []
        for number in range(self._counts[split]):
            clip, frame = divmod(number, FRAMES_PER_CLIP)
            sequence = f'{split}_{clip:05}'
            items.append(Item(split, f'{sequence}_{frame}', sequence=sequence, frame=frame))
        return items, []

    def features(self, items):
        """Returns the features of every frame."""
        return FEATURES

    def examine(self, item: Item) -> Inspection:
        """Renders a frame and encodes its maps."""
        clip = int(item.sequence.removeprefix(f'{item.split}_'))
        frame = streets.frame(self._seed, item.split, clip, item.frame, self._size)
        features = base.text_features(item)
        for key in ('image', 'label', 'instance'):
            features[key] = image_files.encode_png(frame[key])
        features['label_moving'] = image_files.encode_png(frame['moving'].astype(np.uint8))
        for key in ('depth', 'intrinsics', 'pose'):
            features[key] = frame[key]
        label = frame['label']
        return Inspection(Record(features, base.histogram(label), label.shape), [])
