"""Measures time and memory of the branches of a CRN, by their number and by the place of the split.

usage: python -m tests.helpers.branch_cost HEIGHT WIDTH BATCH [WIDTH_FACTOR]

Compiles the forward pass and the gradient of a squared error, and prints a Markdown table: the
median milliseconds of a call, and the temporary memory that XLA estimates. Programs:

    forward    images of all codes at once
    chunks     images by a loop over chunks of CHUNK codes, without a gradient
    gradient   forward and backward pass of all codes at once
    scan       the same gradient by a loop over chunks, each of which the backward pass recomputes
    assigned   a forward pass by chunks, then the gradient of ASSIGNED codes of each example
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.core import host
from segjax.models.generators.crn import CRN
from segjax.ops import codes as latent

ROUNDS = 3
CHUNK = 4
"""Codes of a step of the loops."""
ASSIGNED = 4
"""Branches of an example that get a gradient, one for each sample."""
NUMBERS = (4, 8, 24, 72)
"""Numbers of branches, measured with the split at DEFAULT_SPLIT."""
DEFAULT_SPLIT = 2
LARGEST = 72
"""Number of branches with which the places of the split are compared."""


def squares(net, params, features, condition, codes):
    """Returns the sum of the squared images of some codes."""
    images = net.apply({'params': params}, features, condition, codes, method='branch')
    return (images**2).mean((0, 2, 3, 4)).sum()


def trunk(net, params, condition):
    """Returns the features of f1."""
    return net.apply({'params': params}, condition, method='trunk')


def chunks_of(codes):
    """Returns codes [n, C] as [n / CHUNK, CHUNK, C]."""
    return codes.reshape(-1, CHUNK, *codes.shape[1:])


def programs(net):
    """Returns {name: function(params, condition, codes [n, C])}."""

    def forward(params, condition, codes):
        return net.apply({'params': params}, condition, codes)['image']

    def by_chunks(params, condition, codes):
        features = trunk(net, params, condition)

        def total(chunk):
            return squares(net, params, features, condition, chunk)

        return lax.map(total, chunks_of(codes))

    def gradient(params, condition, codes):
        def loss(params):
            return squares(net, params, trunk(net, params, condition), condition, codes)

        return jax.grad(loss)(params)

    def scan(params, condition, codes):
        @jax.checkpoint
        def of_chunk(params, features, chunk):
            return squares(net, params, features, condition, chunk)

        def loss(params):
            features = trunk(net, params, condition)

            def add(total, chunk):
                return total + of_chunk(params, features, chunk), None

            return lax.scan(add, 0.0, chunks_of(codes))[0]

        return jax.grad(loss)(params)

    def assigned(params, condition, codes):
        costs = by_chunks(params, condition, codes)
        # Which codes are assigned does not change the cost.
        shape = (condition.shape[0], ASSIGNED)
        numbers = jnp.argmin(costs) + jnp.zeros(shape, jnp.int32)
        return costs, gradient(params, condition, codes[numbers])

    return {
        'forward': forward,
        'chunks': by_chunks,
        'gradient': gradient,
        'scan': scan,
        'assigned': assigned,
    }


def measure(net, condition, number):
    """Returns {program: (milliseconds, megabytes)} for a number of branches."""
    codes = latent.draw(jax.random.key(0), number, net.code_shape(*condition.shape[1:3]))
    params = jax.jit(net.init)(jax.random.key(1), condition, codes)['params']
    results = {}
    for name, function in programs(net).items():
        compiled = jax.jit(function).lower(params, condition, codes).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
        jax.block_until_ready(compiled(params, condition, codes))
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            jax.block_until_ready(compiled(params, condition, codes))
            times.append(1000 * (time.perf_counter() - began))
        results[name] = (statistics.median(times), memory)
    return results


def rows_of(fields, condition, modules):
    """Yields (split_at, forms, number of branches), and measures them in this order."""
    rows = [(DEFAULT_SPLIT, 'fast', number) for number in NUMBERS]
    rows += [(split, 'fast', LARGEST) for split in range(1, modules + 1) if split != DEFAULT_SPLIT]
    rows.append((DEFAULT_SPLIT, 'naive', LARGEST))
    for split, forms, number in rows:
        net = CRN(split_at=split, forms=forms, **fields)
        yield (split, forms, number), measure(net, condition, number)


def main(arguments) -> None:
    """Prints the table."""
    height, width, batch = (int(text) for text in arguments[:3])
    factor = float(arguments[3]) if arguments[3:] else 1 / 16
    host.keep_heap()
    condition = jnp.asarray(np.random.default_rng(0).normal(size=(batch, height, width, 3)))
    condition = condition.astype(jnp.float32)

    # The smallest resolution has 4 to 7 rows.
    modules = height.bit_length() - 2
    first_height = height >> (modules - 1)
    fields = dict(width=factor, first_height=first_height)
    names = list(programs(CRN()))
    cells = ['split_at', 'forms', 'branches', *(f'{name} ms / MB' for name in names)]
    print('| ' + ' | '.join(cells) + ' |')
    print('|' + '---|' * len(cells))
    for row, results in rows_of(fields, condition, modules):
        texts = [f'{results[name][0]:.0f} / {results[name][1]:.0f}' for name in names]
        print('| ' + ' | '.join([*map(str, row), *texts]) + ' |', flush=True)


if __name__ == '__main__':
    main(sys.argv[1:])
