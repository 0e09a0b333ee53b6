"""Narrow depth nets, and their layers in NumPy."""

import functools

import jax.numpy as jnp
import numpy as np
from nets import shapes_of

from segjax.models.depth.depth_and_segmentation import DepthAndSegmentation
from segjax.models.depth.dispnet import DispNet
from segjax.models.depth.monodepth2 import Monodepth2

TINY = {
    'dispnet': DispNet(width=0.125),
    'monodepth2': Monodepth2(width=0.125),
    'klingner': DepthAndSegmentation(5, width=0.125),
}


@functools.cache
def tiny_shapes(name, size=(37, 50)):
    """Returns (outputs, variables) of a tiny net in bfloat16, as shapes."""
    return shapes_of(TINY[name].clone(dtype=jnp.bfloat16), (2, *size, 3))


class Decoder:
    """A decoder on maps of given shapes, with the call of a net."""

    def __init__(self, module, shapes, size):
        self.module, self.shapes, self.size = module, shapes, size

    def init_with_output(self, key, x, train):
        return self.module.init_with_output(
            key, [jnp.zeros(shape) for shape in self.shapes], self.size
        )


def maps_of(size, channels, examples=1):
    """Returns the shapes of an encoder's maps at strides 2, 4, ..."""
    return [(examples, *(-(-n // 2**i) for n in size), c) for i, c in enumerate(channels, start=1)]


def uniform(*shape, seed=0):
    """Returns random numbers in [0, 1)."""
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def conv(x, layer, strides=1, release='pytorch', pad=None):
    """Returns the correlation with a kernel.

    Zeros are padded as by the release, unless `pad` pads the map.
    """
    kernel = layer['kernel']
    k = len(kernel)
    sizes = [-(-n // strides) for n in x.shape[1:3]]
    if pad is not None:
        x, sizes = pad(x), x.shape[1:3]
    else:
        sides = [(k // 2, k)] * 2
        if release == 'tf':
            total = [
                max((m - 1) * strides + k - n, 0) for m, n in zip(sizes, x.shape[1:3], strict=True)
            ]
            sides = [(n // 2, k) for n in total]
        x = np.pad(x, ((0, 0), *sides, (0, 0)))
    y = 0
    for t, u in np.ndindex(k, k):
        y = y + x[:, t::strides, u::strides][:, : sizes[0], : sizes[1]] @ kernel[t, u]
    return y + layer.get('bias', 0)


def relu(x):
    return np.maximum(x, 0)


def elu(x):
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))
