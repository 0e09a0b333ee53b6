"""Data sets that a procedural world renders: pure functions of the options."""

import hashlib
import pathlib
from typing import Any

from segjax.data.builders.base import Dataset, Item


class Rendered(Dataset):
    """Clips of a world in the splits `train` and `val`.

    `config.data.world` has the number of frames per split, the size and the seed.

    frames_per_clip  number of frames
    sources          files whose code decides the frames
    """

    frames_per_clip: int
    sources: tuple[pathlib.Path, ...]

    def __init__(self, config: Any):
        self.name = config.name
        self.where = f'data set {self.name!r}'
        self.counts = {'train': config.world.num_train, 'val': config.world.num_val}
        self.size = tuple(config.world.size)
        self.seed = config.world.seed

    def options(self):
        """Returns the options of the world, and a digest of the code that renders it."""
        content = b''.join(path.read_bytes() for path in self.sources)
        code = hashlib.sha256(content).hexdigest()
        return [self.counts, self.size, self.seed, code]

    def splits(self):
        """Returns ('train', 'val')."""
        return tuple(self.counts)

    def clip_frames(self, number: int) -> range:
        """Returns the frames of a clip of which only `number` frames are listed."""
        return range(number)

    def scan(self, split):
        """Returns the frames of a split, clip by clip. A world has no problems."""
        items = []
        for first in range(0, self.counts[split], self.frames_per_clip):
            sequence = f'{split}_{first // self.frames_per_clip:05}'
            number = min(self.frames_per_clip, self.counts[split] - first)
            for frame in self.clip_frames(number):
                items.append(Item(split, f'{sequence}_{frame}', sequence=sequence, frame=frame))
        return items, []


class RenderedStills(Rendered):
    """Single images of a world in the splits `train` and `val`. `Item.frame` is their number."""

    frames_per_clip = 1

    def scan(self, split):
        """Returns the images of a split. A world has no problems."""
        names = [f'{split}_{number:05}' for number in range(self.counts[split])]
        return [Item(split, name, frame=number) for number, name in enumerate(names)], []


def sources_of(*patterns: tuple[pathlib.Path, str]) -> tuple[pathlib.Path, ...]:
    """Returns the files of (folder, pattern) in a fixed order."""
    return tuple(sorted(path for folder, pattern in patterns for path in folder.glob(pattern)))


def clip_of(item: Item) -> int:
    """Returns the number of the clip of an item."""
    return int(item.sequence.removeprefix(f'{item.split}_'))
