"""A data set that exists only as numbers, for tests of pipelines that need no files."""

import numpy as np

from segjax.spec import ClassSpec, DataSpec

NUM_CLASSES = 5
SPEC = DataSpec(
    name='fake',
    classes=ClassSpec(
        names=tuple(f'class {i}' for i in range(NUM_CLASSES)),
        palette=tuple((40 * i, 255 - 40 * i, 7) for i in range(NUM_CLASSES)),
        ids=tuple(range(10, 10 + NUM_CLASSES)),
    ),
    features=('image', 'label', 'name'),
    num_examples={'train': 16, 'val': 10},
    max_size={'train': (32, 64), 'val': (40, 70)},
    class_pixels={'train': (900, 500, 300, 200, 100), 'val': (90, 50, 30, 20, 10)},
    void_pixels={'train': 100, 'val': 10},
)


def train_batch(rows=8, size=(32, 64), seed=0):
    """Returns a batch whose labels can be read off the brightness of the image.

    The examples have different numbers of ignored pixels.
    """
    rng = np.random.default_rng(seed)
    label = (
        rng.integers(0, NUM_CLASSES, (rows, size[0] // 8, size[1] // 8)).repeat(8, 1).repeat(8, 2)
    )
    image = (label[..., None] * 50 + rng.integers(0, 20, (*label.shape, 3))).astype(np.uint8)
    for row in range(rows):
        label[row, : size[0] * row // rows] = 255
    label[0] = 255
    return {
        'image': image,
        'label': label.astype(np.int32),
        'weight': np.ones(rows, np.float32),
        'index': np.arange(rows, dtype=np.int32),
    }


def eval_batches(batch_size, seed=1):
    """Yields the ten validation examples in padded batches.

    The images have different valid sizes. The labels have sizes of their own.
    """
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(10):
        h, w = 40 - i, 70 - 2 * i
        label = np.full((40, 70), 255, np.int32)
        label[:h, :w] = rng.integers(0, NUM_CLASSES, (h, w))
        label[: 3 * i, :] = 255
        examples.append(
            {
                'image': rng.integers(0, 255, (32, 64, 3)).astype(np.uint8),
                'label': label,
                'weight': np.float32(1),
                'index': np.int32(i),
                'size': np.array([32, 64 - i], np.int32),
                'label_size': np.array([h, w], np.int32),
            }
        )
    padding = {**examples[0], 'weight': np.float32(0), 'label': np.full((40, 70), 255, np.int32)}
    examples += [padding] * (-len(examples) % batch_size)
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        yield {k: np.stack([e[k] for e in part]) for k in part[0]}
