"""Variables of nets without compiling their `init`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def shapes_of(net, image=(1, 32, 32, 3)):
    """(outputs, variables) of a net in evaluation, as shapes; nothing is computed."""
    return jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, train=False), jnp.zeros(image)
    )


def shapes_at(net, *shape, **arguments):
    """Returns (outputs, variables) of a net for a float32 input, as shapes. Computes nothing.

    Args:
      net: the net.
      *shape: of the input.
      **arguments: of the call, as train=True.
    """
    return jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, **arguments),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )


def size(tree) -> int:
    """Returns the number of values of all arrays of a tree."""
    return sum(x.size for x in jax.tree.leaves(tree))


def count(variables) -> int:
    """Number of trained parameters."""
    return size(variables['params'])


def random_variables(net, image=(1, 32, 32, 3), seed=0):
    """Returns random variables of the shapes that the net initialises.

    No variable is at its usual 0 or 1. Kernels keep the scale of activations.
    """
    rng = np.random.default_rng(seed)
    draw = {
        'kernel': lambda s: rng.uniform(-1, 1, s) * math.sqrt(6 / math.prod(s[:3])),
        'bias': lambda s: rng.uniform(-0.2, 0.2, s),
        'scale': lambda s: rng.uniform(0.5, 1.5, s),
        'mean': lambda s: rng.uniform(-0.2, 0.2, s),
        'var': lambda s: rng.uniform(0.5, 1.5, s),
    }
    shapes = flatten_dict(dict(shapes_of(net, image)[1]))
    return unflatten_dict({path: np.float32(draw[path[-1]](x.shape)) for path, x in shapes.items()})
