"""HED, against the same net in NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from segjax import models
from segjax.core.trees import named_leaves
from segjax.models.boundary.hed import HED

LAYERS = ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
"""(stage, number of convolutions)"""


@pytest.fixture(scope='module')
def small():
    """(the compiled net, its parameters, all random)."""
    net = HED(width=1 / 32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    return jax.jit(net.apply), params


def conv(x, layer):
    """Cross-correlates [H, W, I] with a kernel, with zeros around the image."""
    kernel = np.asarray(layer['kernel'], np.float64)
    out = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for i in range(kernel.shape[2]):
        for o in range(kernel.shape[3]):
            out[..., o] += scipy.signal.correlate2d(x[..., i], kernel[:, :, i, o], 'same')
    return out + np.asarray(layer['bias'])


def pooled(x):
    """The largest of 2x2 pixels."""
    height, width, channels = x.shape
    return x.reshape(height // 2, 2, width // 2, 2, channels).max(axis=(1, 3))


def enlarged(x, factor):
    """Resizes [h, w] bilinearly by a whole factor, pixel centres at i + 1/2."""
    for axis in (0, 1):
        length = x.shape[axis]
        place = np.clip((np.arange(length * factor) + 0.5) / factor - 0.5, 0, length - 1)
        x = np.apply_along_axis(
            lambda line, at=place: np.interp(at, np.arange(len(line)), line), axis, x
        )
    return x


def reference(params, image):
    """Returns (logits [H, W], sides [H, W, 5]) for height and width that are multiples of 16."""
    x = image.astype(np.float64)
    sides = []
    for stage, count in LAYERS:
        for i in range(1, count + 1):
            x = np.maximum(conv(x, params['vgg'][f'conv{stage}_{i}']), 0)
        sides.append(enlarged(conv(x, params[f'side{stage}'])[..., 0], 2 ** (stage - 1)))
        x = pooled(x) if stage < 5 else x
    sides = np.stack(sides, -1)
    return conv(sides, params['fuse'])[..., 0], sides


def test_the_net_is_that_of_numpy(small):
    apply, params = small
    image = np.random.default_rng(1).normal(size=(32, 48, 3)).astype(np.float32)
    outputs = apply({'params': params}, image[None])
    logits, sides = reference(params, image)
    scale = np.abs(sides).max()
    np.testing.assert_allclose(outputs['sides'][0], sides, atol=1e-4 * scale)
    np.testing.assert_allclose(
        outputs['logits'][0, ..., 0], logits, atol=1e-4 * np.abs(logits).max()
    )


def test_other_sizes_repeat_the_border_up_to_a_multiple_of_the_stride(small):
    apply, params = small
    size = (5, 37)
    image = np.random.default_rng(2).normal(size=(1, *size, 3)).astype(np.float32)
    padded = np.pad(image, ((0, 0), (0, 27), (0, 11), (0, 0)), mode='edge')
    outputs = apply({'params': params}, image)
    expected = apply({'params': params}, padded)
    for key, channels in (('logits', 1), ('sides', 5)):
        assert outputs[key].shape == (1, *size, channels)
        whole = expected[key][:, : size[0], : size[1]]
        np.testing.assert_allclose(outputs[key], whole, rtol=1e-5, atol=1e-4)


def test_the_published_size_and_the_first_values():
    net = models.build('boundary', 'hed', dtype='float32')
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    sizes = {name: leaf.size for name, leaf in named_leaves(shapes).items()}
    vgg = sum(size for name, size in sizes.items() if name.startswith('vgg/'))
    # 14,714,688 is torchvision's vgg16().features.
    assert vgg == 14_714_688 and sum(sizes.values()) - vgg == 64 + 128 + 256 + 512 + 512 + 5 + 5 + 1

    narrow = HED(width=1 / 32)
    params = jax.jit(narrow.init)(jax.random.key(0), jnp.ones((1, 32, 32, 3)))['params']
    np.testing.assert_allclose(params['fuse']['kernel'], 0.2)
    for number in range(1, 6):
        np.testing.assert_array_equal(params[f'side{number}']['kernel'], 0)
