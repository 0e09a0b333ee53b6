"""A video of a rectangle that moves in front of still cells, with regions and exact flow.

The ids of the regions are shuffled in every frame. Only some frames are labelled.
"""

import functools
import time

import numpy as np
import toy_features

from segjax import data
from segjax.data import correspondences, derived, image_files, records
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Inspection, Item, Record
from segjax.spec import ClassSpec

SIZE = (36, 54)
CELL = 18
RECTANGLE = (10, 10)
"""Height and width."""

MOTION = (1, 2)
"""Rows and columns that the rectangle moves from frame to frame."""

NUM_REGIONS = SIZE[0] * SIZE[1] // CELL**2 + 1


def objects(frame):
    """Returns the object of each pixel, [H, W]. The rectangle has the largest number."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    seen = y // CELL * (SIZE[1] // CELL) + x // CELL
    top = 6 + MOTION[0] * frame
    left = 4 + MOTION[1] * frame
    inside = (y >= top) & (y < top + RECTANGLE[0]) & (x >= left) & (x < left + RECTANGLE[1])
    return np.where(inside, NUM_REGIONS - 1, seen)


def picture(frame):
    """Returns an image with a colour for each object, [H, W, 3] uint8."""
    colors = np.random.default_rng(0).integers(0, 256, (NUM_REGIONS, 3))
    return colors[objects(frame)].astype(np.uint8)


def order(frame, sequence=0):
    """Returns the region of each object in a frame, [NUM_REGIONS]."""
    return np.random.default_rng([sequence, frame]).permutation(NUM_REGIONS).astype(np.int32)


def flow(frame, interval=1):
    """Returns the exact flow to the frame at an interval, [H, W, 2] float32."""
    moves = objects(frame) == NUM_REGIONS - 1
    return moves[..., None] * (interval * np.float32(MOTION[::-1]))


def frame_features(frame, sequence=0, interval=1):
    """Returns what matching reads of a frame."""
    return {
        'ids_region': order(frame, sequence)[objects(frame)],
        'flow_next': flow(frame, interval),
        'flow_previous': flow(frame, -interval),
        'frame': frame,
    }


def example(target, numbers, offsets, interval=1, sequence=0):
    """Returns an example as a `Derived` gets it.

    Args:
      target: its number.
      numbers: of the frames of the clip.
      offsets: of the frames that are read. The nearest frame of the clip replaces a missing frame.
    """
    made = frame_features(target, sequence, interval)
    nearest = [min(numbers, key=lambda each: abs(each - target - offset)) for offset in offsets]
    frames = [frame_features(each, sequence, interval) for each in nearest]
    for key in tuple(made):
        made[f'{key}_frames'] = np.stack([each[key] for each in frames])
    return made


class MovingScene(Dataset):
    """Clips of `num_frames` frames, of which the frames in the middle are labelled."""

    name = 'moving_scene'
    where = "data set 'moving_scene'"
    classes = ClassSpec(('still', 'moving'), ((0, 0, 0), (255, 0, 0)), (0, 1))

    def __init__(self, num_clips, num_frames, skipped=()):
        self._num_clips = num_clips
        self._numbers = [each for each in range(num_frames) if each not in skipped]
        self._target = num_frames // 2

    def options(self):
        return [self._num_clips, self._numbers]

    def splits(self):
        return ('train',)

    def scan(self, split):
        items = []
        for clip in range(self._num_clips):
            for number in self._numbers:
                name = f'{clip}_{number}'
                items.append(Item(split, name, sequence=f'clip_{clip}', frame=number))
        return items, []

    def features(self, items):
        own = ('image', 'label', 'ids_region', 'flow_next', 'flow_previous')
        return (*own, 'sequence', 'frame', 'name')

    def examine(self, item):
        features = base.text_features(item)
        label = np.full(SIZE, 255, np.uint8)
        if item.frame == self._target:
            label = (objects(item.frame) == NUM_REGIONS - 1).astype(np.uint8)
        features |= frame_features(item.frame, int(item.sequence[-1]))
        features['image'] = image_files.encode_png(picture(item.frame))
        features['label'] = image_files.encode_png(label)
        return Inspection(Record(features, base.histogram(label), SIZE), [])


def prepare(cache, *features, num_clips=2, num_frames=7, skipped=()):
    """Returns the prepared scene with derived features."""
    folder = records.prepared(MovingScene(num_clips, num_frames, skipped), str(cache))
    spec = derived.promised(records.load_spec(folder), features)
    return data.Prepared(spec, folder, MovingScene.where, derived=features)


def noted_matches(example, matching, journal, seconds):
    """Returns matches of an example, and writes a line to a journal."""
    toy_features.note(journal, example)
    time.sleep(seconds)
    return correspondences.example_matches(example, matching)


def slow_feature(feature, journal, seconds):
    """Returns a feature of matches that takes time and writes a journal."""
    matching = feature.compute.keywords['matching']
    compute = functools.partial(
        noted_matches, matching=matching, journal=str(journal), seconds=seconds
    )
    return feature._replace(compute=compute, reads=(*feature.reads, 'name'))
