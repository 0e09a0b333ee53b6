"""Measures the peak memory of an evaluation step with many classes, in a process of its own.

usage: python -m tests.helpers.evaluation_memory CLASSES BATCH LABEL_HEIGHT LABEL_WIDTH

Prints a JSON object: the peak of the resident memory before the step and after it, in megabytes,
and the seconds of the step without compilation. The net is narrow and sees images of 512x512.
"""

import json
import resource
import sys
import time

import jax
import numpy as np

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import parallel
from segjax.spec import ClassSpec, DataSpec

IMAGE_SIZE = (512, 512)


def make_config(batch_size):
    """Returns the config of a narrow net that is evaluated at the size of the labels."""
    config = config_lib.defaults('supervised')
    config.model.update(width=0.25, first_maps=32, blocks=(0, 1, 0, 0))
    config_lib.update(
        config,
        data=dict(eval_size=IMAGE_SIZE),
        evaluate=dict(batch_size=batch_size, resolution='label'),
    )
    return config


def make_spec(num_classes, label_size):
    """Returns the specification of a data set with labels of one size."""
    names = tuple(f'class {number}' for number in range(num_classes))
    palette = tuple((number, number, number) for number in range(num_classes))
    classes = ClassSpec(names, palette, tuple(range(num_classes)))
    splits = ('train', 'val')
    return DataSpec(
        name='many classes',
        classes=classes,
        features=('image', 'label'),
        num_examples=dict.fromkeys(splits, 16),
        max_size=dict.fromkeys(splits, label_size),
        class_pixels=dict.fromkeys(splits, (1,) * num_classes),
        void_pixels=dict.fromkeys(splits, 0),
    )


def make_batch(num_classes, batch_size, label_size):
    """Returns a batch as the loader makes it. Labels travel as uint8."""
    draw = np.random.default_rng(0)
    return {
        'image': draw.integers(0, 256, (batch_size, *IMAGE_SIZE, 3)).astype(np.uint8),
        'label': draw.integers(0, num_classes, (batch_size, *label_size)).astype(np.uint8),
        'weight': np.ones(batch_size, np.float32),
        'index': np.arange(batch_size, dtype=np.int32),
        'size': np.tile(np.int32(IMAGE_SIZE), (batch_size, 1)),
        'label_size': np.tile(np.int32(label_size), (batch_size, 1)),
    }


def peak_megabytes():
    """Returns the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(num_classes, batch_size, height, width):
    """Evaluates a batch twice and prints the measurements."""
    config = make_config(batch_size)
    (stage,) = pipelines.make_stages(config, {'data': make_spec(num_classes, (height, width))})
    batch = make_batch(num_classes, batch_size, (height, width))
    state = stage.init(jax.random.key(0), batch, {})
    topology = parallel.topology('pmap', 1)
    evaluate = topology.spmd(
        lambda state, batch: parallel.sum_over_devices(dict(stage.eval_step(state, batch, {}))),
        num_args=2,
    )
    arguments = topology.put_replicated(state), topology.put_batch(batch)
    before = peak_megabytes()
    jax.block_until_ready(evaluate(*arguments))
    began = time.perf_counter()
    jax.block_until_ready(evaluate(*arguments))
    seconds = time.perf_counter() - began
    result = {'before': round(before), 'peak': round(peak_megabytes()), 'seconds': seconds}
    print(json.dumps(result), flush=True)


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
