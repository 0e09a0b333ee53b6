"""The procedural world `rooms` as a data set."""

import pathlib
from typing import Any

from segjax.data import image_files
from segjax.data.builders import base, rendered
from segjax.data.builders.base import Inspection, Item, Record
from segjax.data.builders.rendered import Rendered
from segjax.data.labels import NYU4, NYU13, NYU40
from segjax.data.worlds import rooms

_FOLDER = pathlib.Path(rooms.__file__).parent
FEATURES = (
    'image',
    'label',
    'depth',
    'label_all',
    'instance',
    'flow_true',
    'intrinsics',
    'pose',
    'sequence',
    'frame',
    'name',
)


class Rooms(Rendered):
    """Hand-held RGB-D video of furnished rooms, with a label in the middle of each clip.

    The splits `train` and `val` consist of clips of 31 consecutive frames, in order. Frame 15 is
    the target. A last clip with fewer frames consists of the frames around its target.

    depth      measured by a Kinect, 0 in its holes
    label      exact in the target, 255 everywhere in the remaining frames
    label_all  exact in all frames. It has the 40 classes of NYUDv2, whatever `data.class_map` is
    instance   the same id for a thing in all frames of a clip
    flow_true  exact flow to the next frame of the clip, NaN where that frame hides the point
    """

    frames_per_clip = rooms.FRAMES_PER_CLIP
    sources = rendered.sources_of(
        (_FOLDER, '*.py'), (_FOLDER.parent, '*.py'), (_FOLDER.parent / 'streets', 'scene.py')
    )

    def __init__(self, config: Any):
        super().__init__(config)
        self.classes = NYU40
        self.class_maps = {'13': NYU13, '4': NYU4}

    def clip_frames(self, number):
        """Returns the `number` frames of a clip around its target."""
        first = rooms.TARGET - number // 2
        return range(first, first + number)

    def features(self, items):
        """Returns the features of every frame."""
        return FEATURES

    def examine(self, item: Item) -> Inspection:
        """Renders a frame and encodes its maps."""
        clip = rendered.clip_of(item)
        frame = rooms.frame(self.seed, item.split, clip, item.frame, self.size)
        features = base.text_features(item)
        for key in ('image', 'label', 'label_all', 'instance'):
            features[key] = image_files.encode_png(frame[key])
        for key in ('depth', 'flow_true', 'intrinsics', 'pose'):
            features[key] = frame[key]
        label = frame['label']
        return Inspection(Record(features, base.histogram(label), label.shape), [])
