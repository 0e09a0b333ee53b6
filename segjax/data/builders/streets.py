"""The procedural world `streets` as a data set."""

import pathlib
from typing import Any

import numpy as np

from segjax.data import image_files
from segjax.data.builders import base, rendered
from segjax.data.builders.base import Inspection, Item, Record
from segjax.data.builders.rendered import Rendered
from segjax.data.labels import CITYSCAPES, CITYSCAPES_CATEGORIES
from segjax.data.worlds import streets

FRAMES_PER_CLIP = 8
_FOLDER = pathlib.Path(streets.__file__).parent
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


class Streets(Rendered):
    """Driving video with exact labels, instances, depth, intrinsics and poses.

    The splits `train` and `val` consist of clips of 8 consecutive frames, in order. `label_moving`
    is 1 where a surface moves in the world and 0 elsewhere.
    """

    frames_per_clip = FRAMES_PER_CLIP
    sources = rendered.sources_of((_FOLDER, '*.py'), (_FOLDER.parent, '*.py'))

    def __init__(self, config: Any):
        super().__init__(config)
        self.classes = CITYSCAPES
        self.class_maps = {'categories': CITYSCAPES_CATEGORIES}

    def features(self, items):
        """Returns the features of every frame."""
        return FEATURES

    def examine(self, item: Item) -> Inspection:
        """Renders a frame and encodes its maps."""
        clip = rendered.clip_of(item)
        frame = streets.frame(self.seed, item.split, clip, item.frame, self.size)
        features = base.text_features(item)
        for key in ('image', 'label', 'instance'):
            features[key] = image_files.encode_png(frame[key])
        features['label_moving'] = image_files.encode_png(frame['moving'].astype(np.uint8))
        for key in ('depth', 'intrinsics', 'pose'):
            features[key] = frame[key]
        label = frame['label']
        return Inspection(Record(features, base.histogram(label), label.shape), [])
