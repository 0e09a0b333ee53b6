"""Times gradients of micro-batches on a CPU: a loop, copies of the step, and the whole batch.

usage: python -m tests.helpers.micro_batch_time

The net is a DeepLab-LargeFOV of a quarter of the width on eight images of 96x192, one image a
micro-batch. Prints for each form the median seconds of three calls, the temporary memory by XLA,
and the seconds of compilation.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from segjax import models
from segjax.core import parallel

NUM_IMAGES = 8
SIZE = (96, 192)
REPETITIONS = 3


def forms(net, params):
    """Returns {form: function of images [8, 1, H, W, 3]} that sums the gradients of the images."""

    def loss(params, images):
        outputs = net.apply({'params': params}, images, train=False)
        logits = jax.tree.leaves(outputs)[0]
        return jax.nn.logsumexp(logits, -1).mean(axis=(1, 2)).sum()

    def step(total, images):
        return jax.tree.map(jnp.add, total, jax.grad(loss)(params, images)), ()

    zeros = jax.tree.map(jnp.zeros_like, params)
    return {
        'loop': lambda images: parallel.scan_parts(step, zeros, images, in_loop=True)[0],
        'copies': lambda images: parallel.scan_parts(step, zeros, images, in_loop=False)[0],
        'whole batch': lambda images: jax.grad(loss)(params, images[:, 0]),
    }


def main():
    """Prints a line for each form."""
    # The net and its images.
    net = models.build(
        'segmentation',
        'deeplab_largefov',
        num_classes=20,
        dtype='float32',
        axis_name=None,
        width=0.25,
    )
    image = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)
    params = net.lazy_init(jax.random.key(0), image, train=False)['params']
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(NUM_IMAGES, 1, *SIZE, 3)), jnp.float32)

    # Each form compiles and warms up before it is timed.
    print('| form | seconds | temporary memory, MB | compilation, s |')
    for name, function in forms(net, params).items():
        began = time.perf_counter()
        compiled = jax.jit(function).lower(images).compile()
        compilation = time.perf_counter() - began
        jax.block_until_ready(compiled(images))
        seconds = []
        for _ in range(REPETITIONS):
            began = time.perf_counter()
            jax.block_until_ready(compiled(images))
            seconds.append(time.perf_counter() - began)
        megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
        print(f'| {name} | {np.median(seconds):.2f} | {megabytes:.0f} | {compilation:.1f} |')


if __name__ == '__main__':
    main()
