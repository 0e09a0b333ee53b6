"""Times the argmax of resized logits, whole and in parts, in turn in one process.

usage: python -m tests.helpers.argmax_time CLASSES BATCH HEIGHT WIDTH LABEL_HEIGHT LABEL_WIDTH

Prints a JSON object: the median milliseconds of `argmax(resize_valid)`, of `argmax_valid`, and of
`argmax_valid` that is made to resize in parts.
"""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops import resize

ROUNDS = 9


def main(num_classes, batch_size, height, width, label_height, label_width):
    """Times the three functions in turn and prints the medians."""
    label_size = (label_height, label_width)
    size = np.tile(np.int32((height, width)), (batch_size, 1))
    sizes = size, label_size, np.tile(np.int32(label_size), (batch_size, 1))
    functions = {
        'whole': lambda x: jnp.argmax(resize.resize_valid(x, *sizes), -1),
        'default': lambda x: resize.argmax_valid(x, *sizes),
        'parts': lambda x: resize.argmax_valid(x, *sizes, whole_bytes=0),
    }
    draw = np.random.default_rng(0)
    shape = (batch_size, height, width, num_classes)
    logits = jax.device_put(draw.normal(size=shape).astype(np.float32))
    compiled = {name: jax.jit(fn) for name, fn in functions.items()}
    labels = {name: np.asarray(fn(logits)) for name, fn in compiled.items()}
    times = {name: [] for name in compiled}
    for _ in range(ROUNDS):
        for name, fn in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(fn(logits))
            times[name].append(1000 * (time.perf_counter() - began))
    result = {name: round(statistics.median(values), 1) for name, values in times.items()}
    result['different pixels'] = int((labels['whole'] != labels['parts']).sum())
    print(json.dumps(result), flush=True)


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
