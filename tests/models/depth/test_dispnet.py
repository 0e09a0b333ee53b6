"""DispNet: published counts, names, and the whole forward pass in NumPy."""

import functools

import jax
import numpy as np
import pytest
from depth_nets import TINY, conv, relu, sigmoid, tiny_shapes, uniform
from flax.traverse_util import flatten_dict
from nets import count, random_variables, shapes_of

from segjax.models.depth.dispnet import DispNet

RELEASES = pytest.mark.parametrize('release', ['tf', 'pytorch'])


@RELEASES
def test_both_releases_of_dispnet_have_the_published_count(release):
    assert count(shapes_of(DispNet(release))[1]) == 31_596_900


def test_names_are_those_of_the_releases():
    names = {'.'.join(path[1:-1]) for path in flatten_dict(dict(tiny_shapes('dispnet')[1]))}
    expected = {f'conv{i}_{j}' for i in range(1, 8) for j in (0, 2)}
    expected |= {f'predict_disp{i}_0' for i in range(1, 5)}
    expected |= {f'{kind}{i}_0' for kind in ('upconv', 'iconv') for i in range(1, 8)}
    assert names == expected


def up_conv(x, kernel, padding):
    """Adds the kernel of every input pixel to the output."""
    b, h, w, _ = x.shape
    y = np.zeros((b, 2 * h, 2 * w, kernel.shape[3]))
    for i, j, t, u in np.ndindex(h, w, *kernel.shape[:2]):
        row, column = 2 * i + t - padding, 2 * j + u - padding
        if 0 <= row < 2 * h and 0 <= column < 2 * w:
            y[:, row, column] += x[:, i, j] @ kernel[t, u]
    return y


def enlarge(x, size, half_pixel):
    """Enlarges bilinearly from half the size rounded up. Samples are clamped to the map."""
    for axis, n in zip((1, 2), size, strict=True):
        position = (np.arange(n) + 0.5) / 2 - 0.5 if half_pixel else np.arange(n) / 2
        position = np.clip(position, 0, x.shape[axis] - 1)
        x = np.apply_along_axis(
            lambda row, p=position: np.interp(p, np.arange(len(row)), row), axis, x
        )
    return x


@functools.cache
def dispnet_variables():
    return random_variables(TINY['dispnet'])


@RELEASES
def test_dispnet_is_its_layers(release):
    net = DispNet(release, width=0.125)
    image = uniform(1, 20, 13, 3)
    variables = dispnet_variables()
    p = variables['params']
    tf = release == 'tf'
    y = 2.0 * image - 1
    skips = []
    for level in range(1, 8):
        y = relu(conv(y, p[f'conv{level}_0'], 2, release))
        y = relu(conv(y, p[f'conv{level}_2'], 1, release))
        skips.append(y)
    expected = {}
    for level in range(7, 0, -1):
        h, w = (skips[level - 2] if level > 1 else image).shape[1:3]
        up = p[f'upconv{level}_0']
        joined = [relu(up_conv(y, up['kernel'], 0 if tf else 1)[:, :h, :w] + up['bias'])]
        joined += [skips[level - 2]] if level > 1 else []
        joined += [enlarge(expected[level], (h, w), half_pixel=not tf)] if level < 4 else []
        y = relu(conv(np.concatenate(joined, -1), p[f'iconv{level}_0']))
        if level <= 4:
            expected[level - 1] = 10 * sigmoid(conv(y, p[f'predict_disp{level}_0'])) + 0.01
    outputs = jax.jit(functools.partial(net.apply, train=False))(variables, image)
    for scale, d in enumerate(outputs['disparity']):
        assert np.ptp(expected[scale]) > 0.1
        np.testing.assert_allclose(d, expected[scale][..., 0], rtol=1e-4)
        assert d.min() >= 0.01 and d.max() <= 10.01
