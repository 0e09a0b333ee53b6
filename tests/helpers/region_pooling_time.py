"""Times pooling over regions against their number, against FCN, and against products of matrices.

usage: python -m tests.helpers.region_pooling_time FRAMES HEIGHT WIDTH CHANNELS

Calls all programs in turn in one process and prints three Markdown tables with medians: the whole
layer for several numbers of regions, the forward pass of an FCN-8s of full width on a single frame,
and the sums of a single frame by scattered additions and by products with one-hot matrices.
"""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.core import host
from segjax.models.segmentation import fcn
from segjax.ops import regions

ROUNDS = 5
NUMBERS = (50, 158, 550, 1600, 5000)
"""Numbers of regions, each about three times the number before."""
TILE = 4096
"""Pixels of a one-hot matrix. A matrix of all pixels would take 0.5 GB for 550 regions."""


def grid_ids(number: int, size: tuple[int, int]) -> np.ndarray:
    """Returns a map of at most `number` regions, nearly squares of equal size."""
    height, width = size
    rows = max(1, round((number * height / width) ** 0.5))
    columns = number // rows
    y, x = np.mgrid[:height, :width]
    return (y * rows // height * columns + x * columns // width).astype(np.int32)


def layer(number, mode, features, ids):
    """Pools over regions and frames, back to the pixels of the first frame."""
    return regions.pool_sequence(features, ids, ids[0], number, mode, mode)


def layer_gradient(number, mode, features, ids):
    """Differentiates the energy of the pooled map with respect to the features."""
    return jax.grad(lambda x: (layer(number, mode, x, ids) ** 2).sum())(features)


def scattered_mean(number, features, ids):
    """Pools a single frame as the package does."""
    return regions.pool_pixels(features, ids, number)[0]


def product_mean(number, features, ids):
    """Pools a single frame by products of one-hot matrices with tiles of pixels."""
    channels = features.shape[-1]
    extra = -features.shape[0] * features.shape[1] % TILE
    pixels = jnp.pad(features.reshape(-1, channels), ((0, extra), (0, 0)))
    flat_ids = jnp.pad(ids.reshape(-1), (0, extra), constant_values=-1)

    def add(sums, tile):
        values, tile_ids = tile
        member = (tile_ids == jnp.arange(number)[:, None]).astype(values.dtype)  # [P, TILE]
        product = jnp.matmul(member, values, precision=lax.Precision.HIGHEST)
        return (sums[0] + product, sums[1] + member.sum(1, keepdims=True)), None

    zeros = (jnp.zeros((number, channels)), jnp.zeros((number, 1)))
    tiles = (pixels.reshape(-1, TILE, channels), flat_ids.reshape(-1, TILE))
    (sums, counts), _ = lax.scan(add, zeros, tiles)
    return sums / jnp.maximum(counts, 1)


def compile_fcn(size, num_classes):
    """Compiles the forward pass of FCN-8s on a single frame. Returns (program, arguments)."""
    net = fcn.FCN(num_classes=num_classes)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, *size, 3)), jnp.float32)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), image, train=False))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-3, leaf.dtype), shapes)
    program = jax.jit(lambda variables, image: net.apply(variables, image, train=False)['logits'])
    return program.lower(variables, image).compile(), (variables, image)


def medians(calls) -> dict:
    """Returns the median milliseconds of each call, all called in turn."""
    times = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (program, arguments) in calls.items():
            # The first call pays for the memory that the program before has freed.
            jax.block_until_ready(program(*arguments))
            began = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def compile_calls(functions, features, maps) -> dict:
    """Compiles {name: function(number, features, ids)} for all numbers of regions."""
    calls = {}
    for number, ids in maps.items():
        for name, function in functions.items():
            program = jax.jit(functools.partial(function, number))
            calls[name, number] = (program.lower(features, ids).compile(), (features, ids))
    return calls


def megabytes(calls, name, number) -> float:
    """Returns the temporary memory of a program in megabytes, as XLA estimates it."""
    return calls[name, number][0].memory_analysis().temp_size_in_bytes / 1e6


def print_table(heading, rows) -> None:
    """Prints a Markdown table."""
    print('| ' + ' | '.join(heading) + ' |')
    print('|' + '---|' * len(heading))
    for row in rows:
        print('| ' + ' | '.join(str(cell) for cell in row) + ' |')
    print(flush=True)


def time_layer(num_frames, size, channels) -> None:
    """Prints the tables of the layer and of FCN."""
    draw = np.random.default_rng(0)
    features = jnp.asarray(draw.normal(size=(num_frames, *size, channels)), jnp.float32)
    maps = {
        number: jnp.asarray(np.stack([grid_ids(number, size)] * num_frames)) for number in NUMBERS
    }
    functions = {}
    for mode in regions.MODES:
        functions[mode] = lambda *args, mode=mode: layer(args[0], mode, *args[1:])
        functions[f'{mode}, gradient'] = lambda *args, mode=mode: layer_gradient(
            args[0], mode, *args[1:]
        )
    calls = compile_calls(functions, features, maps)
    net = {'fcn': compile_fcn(size, channels)}
    times = medians({**calls, **net})
    heading = ['P', *(f'{name}, ms a frame' for name in functions)]
    heading += ['mean / FCN', *(f'{name}, MB' for name in functions)]
    rows = []
    for number in NUMBERS:
        frame = {name: times[name, number] / num_frames for name in functions}
        share = f'{frame["mean"] / times["fcn"]:.4f}'
        memory = [f'{megabytes(calls, name, number):.1f}' for name in functions]
        rows.append((number, *(f'{ms:.1f}' for ms in frame.values()), share, *memory))
    print_table(heading, rows)
    fcn_memory = net['fcn'][0].memory_analysis().temp_size_in_bytes / 1e6
    print_table(('FCN-8s, ms a frame', 'MB'), [(f'{times["fcn"]:.0f}', f'{fcn_memory:.0f}')])


def time_sums(sizes, channels) -> None:
    """Prints the table of the two ways to sum."""
    functions = {'scatter': scattered_mean, 'product': product_mean}
    rows = []
    for size in sizes:
        draw = np.random.default_rng(0)
        features = jnp.asarray(draw.normal(size=(*size, channels)), jnp.float32)
        maps = {number: jnp.asarray(grid_ids(number, size)) for number in (50, 550, 5000)}
        calls = compile_calls(functions, features, maps)
        times = medians(calls)
        for number in maps:
            both = [times[name, number] for name in functions]
            memory = [f'{megabytes(calls, name, number):.1f}' for name in functions]
            ratio = f'{both[1] / both[0]:.1f}'
            rows.append(
                (f'{size[0]} x {size[1]}', number, *(f'{ms:.1f}' for ms in both), ratio, *memory)
            )
    print_table(
        (
            'map',
            'P',
            'scatter, ms',
            'product, ms',
            'product / scatter',
            'scatter, MB',
            'product, MB',
        ),
        rows,
    )


def main(num_frames, height, width, channels):
    """Prints all tables."""
    host.keep_heap()
    time_sums(((height, width), (height // 8, width // 8)), channels)
    time_layer(num_frames, (height, width), channels)


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
