"""Functions that compute derived features. Worker processes import them.

A journal is a file that gets a line for each call.
"""

import functools
import os
import time

import numpy as np

from segjax.protocol import Derived
from segjax.spec import Feature


def note(journal, example):
    if journal:
        with open(journal, 'a', encoding='utf-8') as file:
            file.write(f'{example["name"]}\n')


def mean_color(example, journal='', seconds=0.0):
    """[3] mean of each channel."""
    note(journal, example)
    time.sleep(seconds)
    return example['image'].mean((0, 1), dtype=np.float64).astype(np.float32)


def mean_of_other_code(example):
    return mean_color(example)


def change(example):
    """[H, W, n] difference of each neighbour's first channel, and of its mean colour's."""
    near = example['image_frames'][..., 0].astype(np.float32)
    near += example['color_frames'][:, 0, None, None]
    return np.moveaxis(near - example['image'][..., 0], 0, -1)


def darker(examples):
    """[2] positions of the examples with the smallest and the second smallest mean colour."""
    means = np.array([example['color'].mean() for example in examples])
    return np.tile(np.argsort(means)[:2], (len(means), 1))


def fails(example, name, error=None, value=None, kill=False):
    """Fails for the example of a name: raises an error, returns a value, or ends the process."""
    if example['name'] != name:
        return example['image'].mean((0, 1)).astype(np.float32)
    if kill:
        os._exit(9)
    if error is not None:
        raise error
    return value


def color(journal='', seconds=0.0, **fields):
    compute = functools.partial(mean_color, journal=journal, seconds=seconds)
    values = dict(
        name='color', feature=Feature('number', (3,)), reads=('image', 'name'), compute=compute
    )
    return Derived(**values | fields)


CHANGE = Derived(
    'change',
    Feature('planes', (2,), dtype='float32'),
    ('image', 'image_frames', 'color_frames'),
    change,
    frames=(-1, 2),
)

DARKER = Derived('darker', Feature('number', (2,), dtype='int32'), ('color',), darker, whole=True)


def class_share(example, journal='', seconds=0.0):
    """[2] share of the pixels of class 0 and of class 1."""
    note(journal, example)
    time.sleep(seconds)
    return np.array([(example['label'] == each).mean() for each in range(2)], np.float32)


def share(journal='', seconds=0.0, **fields):
    """Returns a feature of the labelled examples alone."""
    compute = functools.partial(class_share, journal=journal, seconds=seconds)
    values = dict(
        name='share',
        feature=Feature('number', (2,)),
        reads=('label', 'name'),
        compute=compute,
        examples='labelled',
    )
    return Derived(**values | fields)
