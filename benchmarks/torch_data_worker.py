"""Times PIL and torch's DataLoader: `python -m benchmarks.torch_data_worker`, with torch's Python.

The augmentation is that of ERFNet's release: resize, mirror, shift by up to two pixels.
"""

import pathlib
import random
import time

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import functional

from benchmarks import serving

SHIFT = 2
IGNORE = 255


class Photos(Dataset):
    """The training images of a folder with images and masks.

    root  the folder
    size  (height, width) to which images are resized
    """

    def __init__(self, root: str, size: tuple[int, int]):
        """Lists the files."""
        self.images = sorted((pathlib.Path(root) / 'images/train').iterdir())
        self.masks = sorted((pathlib.Path(root) / 'masks/train').iterdir())
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = self.size
        image = Image.open(self.images[index]).convert('RGB')
        mask = Image.open(self.masks[index])
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        mask = mask.resize((width, height), Image.Resampling.NEAREST)
        if random.random() < 0.5:
            image = ImageOps.mirror(image)
            mask = ImageOps.mirror(mask)

        # Pixels that move in from outside are black and without class.
        left = random.randint(-SHIFT, SHIFT)
        top = random.randint(-SHIFT, SHIFT)
        box = (SHIFT + left, SHIFT + top, SHIFT + left + width, SHIFT + top + height)
        image = ImageOps.expand(image, SHIFT).crop(box)
        mask = ImageOps.expand(mask, SHIFT, fill=IGNORE).crop(box)
        label = torch.from_numpy(np.array(mask))
        return functional.pil_to_tensor(image), label


def read(kind: str, count: int, root: str, size: list[int], batch_size: int, batches: int) -> float:
    """Returns the images a second of a DataLoader with `count` worker processes.

    The other arguments are those of benchmarks/data_worker.py.
    """
    torch.set_num_threads(1)
    photos = Photos(root, (size[0], size[1]))
    # Each worker reads two batches ahead, before the clock starts.
    ahead = 3 * count
    timed = max(batches, 8 * count)
    sampler = RandomSampler(photos, replacement=True, num_samples=(ahead + timed) * batch_size)
    loader = iter(DataLoader(photos, batch_size, sampler=sampler, num_workers=count))
    for _ in range(ahead):
        next(loader)
    start = time.perf_counter()
    for _ in range(timed):
        next(loader)
    return timed * batch_size / (time.perf_counter() - start)


if __name__ == '__main__':
    serving.serve({'read': read})
